/// \file
/// A two-stage detector (Ren et al., "Faster R-CNN", NeurIPS 2015; with a pyramid, Lin et al., CVPR 2017): a backbone's
/// maps, a neck, a network that proposes regions, and a head that looks at them more closely.
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <transferlib/core/concepts.hpp>
#include <transferlib/core/error.hpp>
#include <transferlib/core/guard.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/data/preprocess.hpp>
#include <transferlib/detect/assign.hpp>
#include <transferlib/detect/boxes.hpp>
#include <transferlib/detect/detections.hpp>
#include <transferlib/detect/placement.hpp>
#include <transferlib/engine/autocast.hpp>
#include <transferlib/freeze/policy.hpp>
#include <transferlib/model/backbone.hpp>
#include <transferlib/model/base.hpp>
#include <transferlib/model/detector.hpp>
#include <transferlib/model/head.hpp>
#include <transferlib/model/neck.hpp>
#include <transferlib/weights/state_dict.hpp>

namespace transferlib {

/// What the first `Head` of a `TwoStage` takes: it proposes boxes from maps, and learns to.
template <class P>
concept ProposalNetwork = std::derived_from<P, Module> &&
    std::constructible_from<P, const FeatureSpec&, const typename P::Options&> &&
    requires(const P& p, const Activations& maps, PixelSize canvas, std::span<const PixelSize> pictures,
             const typename P::Output& y, const Objects& truth, const Pass& pass) {
  { p.forward(maps, canvas) } -> std::same_as<typename P::Output>;
  { p.propose(y, pictures, true) } -> std::same_as<std::vector<Detections>>;
  { p.loss(y, truth, pass) } -> std::same_as<LossTerms>;
};

/// What the second `Head` of a `TwoStage` takes: it looks at proposed boxes, and learns to.
template <class R>
concept RegionNetwork = std::derived_from<R, Module> &&
    std::constructible_from<R, const FeatureSpec&, const typename R::Options&> &&
    requires(const R& r, const Activations& maps, const std::vector<Detections>& proposals,
             std::span<const PixelSize> pictures, const Objects& truth, const Pass& pass) {
  { r.predict(maps, proposals, pictures) } -> std::same_as<std::vector<Detections>>;
  { r.loss(maps, proposals, truth, pass) } -> std::same_as<LossTerms>;
  requires MetricFor<typename R::Metric, std::vector<Detections>>;
};

/// A recipe for one of the two.
template <class H>
requires(!HeadNetwork<H> && (ProposalNetwork<H> || RegionNetwork<H>)) struct Head<H> {
  typename H::Options options{};
};

/// How torchvision's detectors bring pictures to their input: the shorter side to `shorter`, but the longer one to
/// `longer` at most, by bilinear interpolation without antialiasing; then zeros to the right and below, up to the
/// largest picture of the batch and a multiple of `multiple`.
struct ResizeSides {
  Index shorter = 800;
  Index longer = 1333;
  Index multiple = 32;
};

namespace detail {

/// Modules that hold these tensors under these names, so that they load as any module does: all or none.
TRANSFERLIB_API std::shared_ptr<Module> tree_of(const StateDict& state);

/// A network's input from pictures of any sizes, and how large each is there.
struct ResizedPictures {
  Tensor input;  ///< (N, channels, H, W)
  std::vector<PixelSize> sizes, pictures;
};

/// \throws OptionError, DataError
TRANSFERLIB_API ResizedPictures resize_sides(const Batch& batch, const ResizeSides& sides, const Preprocessing& p,
                                             Index channels);

/// Takes boxes from the network's input back to the pictures.
TRANSFERLIB_API std::vector<Detections> to_pictures(std::vector<Detections> found, const ResizedPictures& from);

}  // namespace detail

/// A backbone, frozen as a policy says, a neck, a network that proposes regions and one that looks at them. Trained on
/// pictures in a letter box (or as `set_fit` says); predicting takes them so too, or as `set_input` says, and tells
/// what it finds in the pictures' own pixels. While it is trained its metric is left alone: it would cost more than the
/// step. A move-only value; `clone(model)` copies. Predicting is `const` and safe from several threads; training and
/// changing it are not.
template <class N, class K, class P, class R>
class TwoStage : public detail::ModelBase {
  static_assert(gives<N, Pyramid>,
                "transferlib: TwoStage: it needs a pyramid of maps and this backbone gives pooled features only");
  static_assert(ProposalNetwork<P>,
                "transferlib: TwoStage: the first Head must propose regions, as RegionProposal does: Options, Output, "
                "forward(maps, canvas), propose(output, pictures, training), loss(output, truth, pass)");
  static_assert(RegionNetwork<R>,
                "transferlib: TwoStage: the second Head must look at regions, as RoI does: Options, Metric, "
                "predict(maps, proposals, pictures), loss(maps, proposals, truth, pass)");

 public:
  using Network = N;
  using NeckType = K;
  using ProposalType = P;
  using HeadType = R;
  using Target = Boxes;
  using Prediction = std::vector<Detections>;
  using Metric = typename R::Metric;

  /// What a pass gives: all that the losses and the detections follow from.
  struct Output {
    Activations maps;                 ///< of the neck
    typename P::Output regions;       ///< what the proposing network says
    std::vector<PixelSize> pictures;  ///< what part of the canvas each picture fills
    std::vector<Detections> proposals;
    Pass pass;
  };

  /// \param labels the names of the classes, in the order of their indices; the background is none of them
  /// \throws OptionError
  template <FreezeRule F>
  TwoStage(Backbone<N> backbone, const FreezePolicy<F>& policy, const Neck<K>& neck, const Head<P>& proposal,
           const Head<R>& head, Labels labels)
      : TwoStage(std::move(backbone), neck, proposal, head, std::move(labels)) {
    refreeze(policy);
  }

  TwoStage(TwoStage&&) = default;
  TwoStage& operator=(TwoStage&&) = default;

  /// How pictures are brought to the network's input from now on; part of the model, as its weights are.
  void set_fit(Fit fit) { core_.preprocessing.fit = fit; }
  /// Lets `predict` bring pictures to the network's input as torchvision does; nothing: as training does.
  void set_input(std::optional<ResizeSides> sides) { sides_ = sides; }
  const std::optional<ResizeSides>& input() const { return sides_; }

  /// The neck.
  K& neck() { return *neck_; }
  const K& neck() const { return *neck_; }
  /// What proposes regions.
  P& proposal() { return *proposal_; }
  const P& proposal() const { return *proposal_; }
  /// What looks at them.
  R& head() { return *head_; }
  const R& head() const { return *head_; }

  /// All that its answers depend on, by name: "backbone." and what the original calls it, "neck." and "rpn." and
  /// "roi_heads." and what torchvision calls it. The tensors are the model's own.
  StateDict state() const {
    StateDict out = state_of_backbone();
    for (auto& item : state_dict(*neck_)) out.emplace_back("neck." + item.first, item.second);
    for (auto& item : state_dict(*proposal_)) out.emplace_back("rpn." + item.first, item.second);
    for (auto& item : state_dict(*head_)) out.emplace_back("roi_heads." + item.first, item.second);
    return out;
  }

  /// What training changes: the parameters that are not frozen, the heads' last.
  std::vector<Tensor> trainable_parameters() const { return detail::trainable(state()); }

  /// Everything behind the cut, as far as it does not need to know what is in the pictures: to the proposals.
  Output above_cut(const Activations& crossing, const Pass& pass) {
    const Index side = core_.size();
    return above_backbone(core_.graph.run(crossing, cut_, wanted_, pass, core_.frozen), {side, side}, {}, pass);
  }

  /// The same of the whole model, plainly. \param pictures (N, C, H, W) float32, normalised \param sizes what part of
  /// them each picture fills, from the left top corner; none: all of it
  Output forward(const Tensor& pictures, const Pass& pass = {}, std::span<const PixelSize> sizes = {}) {
    return above_backbone(core_.graph.run({pictures}, Cut{}, wanted_, pass, core_.frozen),
                          {pictures.size(3), pictures.size(2)}, sizes, pass);
  }

  /// The losses of both stages: what a step learns from is drawn here, from the output's pass alone.
  /// \param batch its boxes in the pixels of the network's input
  LossTerms loss(const Output& output, const Batch& batch) {
    const Objects truth = objects_of(batch, static_cast<Index>(labels_.size()), output.maps.at(0));
    LossTerms out = head_->loss(output.maps, output.proposals, truth, output.pass);
    for (auto& term : proposal_->loss(output.regions, truth, output.pass).terms) out.terms.push_back(std::move(term));
    return out;
  }

  /// The detections, in pixels of the network's input.
  Prediction detections(const Output& output) const {
    return head_->predict(output.maps, output.proposals, output.pictures);
  }

  /// \param batch its boxes in the pixels of the network's input, its sizes those of the pictures
  template <class M>
  void score(M& metric, const Output& output, const Batch& batch) {
    if (!output.pass.training) detail::score_on_pictures(metric, detections(output), batch, core_.preprocessing);
  }

  /// What is found in pictures as a data set gives them; the model prepares them itself. Neck and heads multiply in the
  /// engine's precision too; boxes are computed in float32.
  /// \returns one a picture, boxes in its pixels
  Prediction predict(const Batch& batch, Precision precision = Precision::automatic) const {
    return detail::guarded("detecting", [&]() -> Prediction {
      const torch::NoGradGuard guard;
      if (batch.size() == 0) return {};
      const auto engine = engine_->get(core_, wanted_, precision);
      const auto found = [&](const Tensor& x, std::span<const PixelSize> sizes) {
        const Activations maps = detail::as_maps((*engine)(x), engine->precision());
        const detail::Autocast cast(engine->precision(), core_.device());
        return detections(above_backbone(maps, {x.size(3), x.size(2)}, sizes, Pass{}));
      };
      if (!sides_)
        return detail::on_pictures(found(detail::input_of(core_, batch, *engine), {}), detail::sizes_of(batch),
                                   core_.preprocessing);
      const auto resized = detail::resize_sides(batch, *sides_, core_.preprocessing, core_.options.in_channels);
      return detail::to_pictures(found(resized.input, resized.sizes), resized);
    });
  }

  /// Moves the model, the optimiser's parameters with it.
  /// \throws DeviceError if the device is not there
  void to(const torch::Device& device) {
    detail::check_device(device);
    detail::guarded("moving the model", [&] {
      core_.network->to(device);
      neck_->to(device);
      proposal_->to(device);
      head_->to(device);
      return 0;
    });
  }

  /// An independent copy.
  TwoStage copy() const {
    TwoStage out(Backbone<N>(detail::copied(core_)), neck_recipe_, proposal_recipe_, head_recipe_, labels_);
    out.cut_ = cut_;
    out.sides_ = sides_;
    load_state_dict(*out.neck_, state_dict(*neck_));
    load_state_dict(*out.proposal_, state_dict(*proposal_));
    load_state_dict(*out.head_, state_dict(*head_));
    out.to(core_.device());
    return out;
  }

  /// The recipes that neck and heads were built from.
  const Neck<K>& neck_recipe() const { return neck_recipe_; }
  const Head<P>& proposal_recipe() const { return proposal_recipe_; }
  const Head<R>& head_recipe() const { return head_recipe_; }

 private:
  TwoStage(Backbone<N> backbone, const Neck<K>& neck, const Head<P>& proposal, const Head<R>& head, Labels labels)
      : ModelBase(detail::for_neck<K>(std::move(backbone.core), neck.options), std::move(labels), Pyramid{}),
        neck_recipe_(neck),
        proposal_recipe_(proposal),
        head_recipe_(head) {
    core_.preprocessing.fit = detail::whole(core_.preprocessing.fit);
    neck_ = std::make_shared<K>(core_.features, neck.options);
    FeatureSpec spec = neck_->features();
    spec.classes = static_cast<Index>(labels_.size());
    proposal_ = std::make_shared<P>(spec, proposal.options);
    head_ = std::make_shared<R>(spec, head.options);
    if (const auto device = core_.device(); !device.is_cpu()) to(device);
  }

  Output above_backbone(const Activations& maps, PixelSize canvas, std::span<const PixelSize> sizes,
                        const Pass& pass) const {
    Output out;
    out.maps = neck_->forward(maps, pass);
    out.regions = proposal_->forward(out.maps, canvas);
    out.pictures.assign(sizes.begin(), sizes.end());
    if (sizes.empty()) out.pictures.assign(Graph::at(maps.at(0).size(0)), canvas);
    out.proposals = proposal_->propose(out.regions, out.pictures, pass.training);
    out.pass = pass;
    return out;
  }

  Neck<K> neck_recipe_;
  Head<P> proposal_recipe_;
  Head<R> head_recipe_;
  std::optional<ResizeSides> sides_;
  std::shared_ptr<K> neck_;
  std::shared_ptr<P> proposal_;
  std::shared_ptr<R> head_;
};

/// What a list of arguments in another order is deduced to, so that it is refused in a sentence.
template <class... A>
class TwoStage<detail::NotASentence<A...>, void, void, void> {
  static_assert(sizeof...(A) > 99,
                "transferlib: TwoStage takes {Backbone, FreezePolicy, Neck, Head<RegionProposal>, Head<RoI>, labels}, "
                "in this order");

 public:
  template <class... B>
  TwoStage(B&&...) {}
};

template <class N, class F, class K, class P, class R>
TwoStage(Backbone<N>, FreezePolicy<F>, Neck<K>, Head<P>, Head<R>, Labels) -> TwoStage<N, K, P, R>;
template <class... A>
TwoStage(A...) -> TwoStage<detail::NotASentence<A...>, void, void, void>;

/// An independent copy of a model: weights, frozen layers, labels.
template <class N, class K, class P, class R>
TwoStage<N, K, P, R> clone(const TwoStage<N, K, P, R>& model) {
  return model.copy();
}

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API std::shared_ptr<Module> tree_of(const StateDict& state) {
  auto root = std::make_shared<Module>("Tensors");
  for (const auto& [name, tensor] : state) {
    Module* at = root.get();
    std::size_t from = 0;
    for (std::size_t dot; (dot = name.find('.', from)) != std::string::npos; from = dot + 1) {
      const std::string part = name.substr(from, dot - from);
      const auto children = at->named_children();
      const auto* child = children.find(part);
      at = child != nullptr ? child->get() : at->register_module(part, std::make_shared<Module>("Tensors")).get();
    }
    at->register_buffer(name.substr(from), tensor);
  }
  return root;
}

TRANSFERLIB_API ResizedPictures resize_sides(const Batch& batch, const ResizeSides& sides, const Preprocessing& p,
                                             Index channels) {
  if (sides.shorter < 1 || sides.longer < sides.shorter || sides.multiple < 1)
    throw OptionError(text("pictures can't be resized to a shorter side of ", sides.shorter, " and a longer one of ",
                           sides.longer, " at most, in multiples of ", sides.multiple));
  check_preprocessing(p);
  ResizedPictures out;
  PixelSize canvas{1, 1};
  std::vector<float> mean, deviation;
  for (Index c = 0; c < channels; ++c) {
    mean.push_back(normalisation(p, channels, c).first);
    deviation.push_back(normalisation(p, channels, c).second);
  }
  const auto column = [](const std::vector<float>& v) { return at::tensor(v).view({1, -1, 1, 1}); };
  std::vector<Tensor> pictures;
  for (const Tensor& block : batch.pictures) {
    check_pictures(block);
    if (block.size(1) != channels && block.size(1) != 1)
      throw DataError(text("the pictures have ", block.size(1), " channels and the network takes ", channels));
    const auto height = static_cast<double>(block.size(2)), width = static_cast<double>(block.size(3));
    const double scale = std::min(static_cast<double>(sides.shorter) / std::min(height, width),
                                  static_cast<double>(sides.longer) / std::max(height, width));
    const auto scaled = [&](double side) { return std::max<Index>(1, static_cast<Index>(std::floor(side * scale))); };
    const PixelSize size{scaled(width), scaled(height)};
    canvas = {std::max(canvas.width, size.width), std::max(canvas.height, size.height)};
    for (Index i = 0; i < block.size(0); ++i) {
      Tensor x = block.narrow(0, i, 1).cpu();
      if (x.scalar_type() == at::kByte)
        x = x.to(at::kFloat) / 255.0;
      else if (!at::isfinite(x).all().item<bool>())
        refuse_not_finite(x, static_cast<Index>(pictures.size()), {});
      x = (x.expand({1, channels, -1, -1}) - column(mean)) / column(deviation);
      pictures.push_back(at::upsample_bilinear2d(x, {size.height, size.width}, false));
      out.sizes.push_back(size);
      out.pictures.push_back({block.size(3), block.size(2)});
    }
  }
  const auto whole = [&](Index side) { return (side + sides.multiple - 1) / sides.multiple * sides.multiple; };
  out.input = at::zeros({static_cast<Index>(pictures.size()), channels, whole(canvas.height), whole(canvas.width)});
  for (std::size_t i = 0; i < pictures.size(); ++i)
    out.input[static_cast<Index>(i)]
        .narrow(1, 0, out.sizes[i].height)
        .narrow(2, 0, out.sizes[i].width)
        .copy_(pictures[i][0]);
  return out;
}

TRANSFERLIB_API std::vector<Detections> to_pictures(std::vector<Detections> found, const ResizedPictures& from) {
  for (std::size_t i = 0; i < found.size(); ++i) {
    const auto ratio = [](Index to, Index side) { return static_cast<float>(to) / static_cast<float>(side); };
    const float x = ratio(from.pictures[i].width, from.sizes[i].width);
    const float y = ratio(from.pictures[i].height, from.sizes[i].height);
    found[i].boxes = found[i].boxes * at::tensor({x, y, x, y}).to(found[i].boxes.device());
  }
  return found;
}

}  // namespace transferlib::detail

#endif  // TRANSFERLIB_DEFINES

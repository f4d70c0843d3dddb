/// \file
/// A pretrained network that finds objects: a backbone's pyramid, a neck that joins its maps, and a head that tells
/// boxes.
#pragma once

#include <concepts>
#include <memory>
#include <numeric>
#include <type_traits>
#include <utility>
#include <vector>

#include <transferlib/core/concepts.hpp>
#include <transferlib/core/error.hpp>
#include <transferlib/core/guard.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/data/preprocess.hpp>
#include <transferlib/detect/detections.hpp>
#include <transferlib/engine/autocast.hpp>
#include <transferlib/freeze/policy.hpp>
#include <transferlib/model/backbone.hpp>
#include <transferlib/model/base.hpp>
#include <transferlib/model/head.hpp>
#include <transferlib/model/neck.hpp>

namespace transferlib {

/// The neck of a detector that has none: the head looks at the backbone's own maps.
class NoNeck final : public Module {
 public:
  struct Options {};
  NoNeck(const FeatureSpec& features, const Options&) : Module("NoNeck"), features_(features) {}
  Activations forward(const Activations& maps, const Pass&) { return maps; }
  const FeatureSpec& features() const { return features_; }

 private:
  FeatureSpec features_;
};

/// What was found with at least this confidence.
inline Detections surer_than(const Detections& found, double threshold) {
  if (found.size() == 0) return found;
  const Tensor sure = found.scores.ge(threshold);
  return {found.boxes.index({sure}), found.scores.index({sure}), found.labels.index({sure})};
}

namespace detail {

/// What crossed a cut or left an engine, as necks and heads take it: float32, maps with their channels last in memory.
/// \param precision in which they will be worked on: what is in it already stays so
TRANSFERLIB_API Activations as_maps(Activations values, Precision precision);

/// Shows a metric what was found on the network's input, and what is there, both in the pixels of the pictures.
template <class Metric>
void score_on_pictures(Metric& metric, std::vector<Detections> found, const Batch& batch, const Preprocessing& p) {
  metric.update(on_pictures(std::move(found), batch.sizes, p),
                Batch{{}, move_targets(batch, p, true), batch.offsets, batch.sizes});
}

/// A crop would cut objects off: a detector sees the whole picture.
inline Fit whole(Fit fit) { return fit == Fit::crop ? Fit::letterbox : fit; }

}  // namespace detail

/// A backbone, frozen as a policy says, a neck and a head that finds boxes. Pictures are put into a letter box, or as
/// `set_fit` says, and what is found is told in the pictures' own pixels. A move-only value; `clone(model)` copies.
/// Predicting is `const` and safe from several threads; training and changing it are not.
template <class N, class K, class H>
class Detector : public detail::ModelBase {
  static_assert(std::same_as<typename H::Target, Boxes>,
                "transferlib: Detector: this head learns no boxes; use Classifier");
  static_assert(gives<N, typename H::Input>,
                "transferlib: Detector: this head needs a feature map or pyramid and this backbone gives pooled "
                "features only");
  static_assert(std::same_as<typename H::Prediction, std::vector<Detections>>,
                "transferlib: Detector: the head's Prediction must be std::vector<Detections>, one a picture");

 public:
  using Network = N;
  using NeckType = K;
  using HeadType = H;
  using Target = typename H::Target;
  using Output = typename H::Output;
  using Prediction = typename H::Prediction;
  using Metric = typename H::Metric;

  /// \param labels the names of the classes, in the order of their indices
  /// \throws OptionError
  template <FreezeRule R>
  Detector(Backbone<N> backbone, const FreezePolicy<R>& policy, const Neck<K>& neck, const Head<H>& head, Labels labels)
      : Detector(std::move(backbone), neck, head, std::move(labels)) {
    refreeze(policy);
  }
  /// The same without a neck.
  template <FreezeRule R>
  requires std::same_as<K, NoNeck> Detector(Backbone<N> backbone, const FreezePolicy<R>& policy, const Head<H>& head,
                                            Labels labels)
      : Detector(std::move(backbone), policy, Neck<NoNeck>{}, head, std::move(labels)) {}

  Detector(Detector&&) = default;
  Detector& operator=(Detector&&) = default;

  /// How pictures are brought to the network's input from now on; part of the model, as its weights are.
  void set_fit(Fit fit) { core_.preprocessing.fit = fit; }

  /// The neck.
  K& neck() { return *neck_; }
  const K& neck() const { return *neck_; }
  /// The head.
  H& head() { return *head_; }
  const H& head() const { return *head_; }
  /// The shapes that the head is built for.
  const FeatureSpec& head_features() const { return head_features_; }

  /// All that its answers depend on, by name: the backbone's under the original's names behind "backbone.", then those
  /// of "neck." and "head.". The tensors are the model's own.
  StateDict state() const {
    StateDict out = state_of_backbone();
    for (auto& item : state_dict(detail::inner_head(*neck_))) out.emplace_back("neck." + item.first, item.second);
    for (auto& item : state_dict(detail::inner_head(*head_))) out.emplace_back("head." + item.first, item.second);
    return out;
  }

  /// What training changes: the parameters that are not frozen, the head's last.
  std::vector<Tensor> trainable_parameters() const { return detail::trainable(state()); }

  /// Everything behind the cut: from the values that cross it to the head's output.
  Output above_cut(const Activations& crossing, const Pass& pass) {
    return above_backbone(core_.graph.run(crossing, cut_, wanted_, pass, core_.frozen), pass);
  }

  /// The whole model, plainly: normalised pictures (N, C, H, W) float32 to the head's output.
  Output forward(const Tensor& pictures, const Pass& pass = {}) {
    return above_backbone(core_.graph.run({pictures}, Cut{}, wanted_, pass, core_.frozen), pass);
  }

  /// \param batch its boxes in the pixels of the network's input
  LossTerms loss(const Output& output, const Batch& batch) { return head_->loss(output, batch); }
  /// \param batch its boxes in the pixels of the network's input, its sizes those of the pictures
  template <class M>
  void score(M& metric, const Output& output, const Batch& batch) {
    detail::score_on_pictures(metric, head_->predict(output), batch, core_.preprocessing);
  }

  /// What is found in pictures as a data set gives them; the model prepares them itself. Neck and head multiply in the
  /// engine's precision too; boxes are decoded in float32.
  /// \returns one a picture, boxes in its pixels, not clipped at its borders, as many as the head's options let through
  Prediction predict(const Batch& batch, Precision precision = Precision::automatic) const {
    return detail::guarded("detecting", [&] {
      const torch::NoGradGuard guard;
      const auto engine = engine_->get(core_, wanted_, precision);
      const Tensor x = detail::input_of(core_, batch, *engine);
      const Activations maps = detail::as_maps((*engine)(x), engine->precision());
      const Output y = [&] {
        const detail::Autocast cast(engine->precision(), core_.device());
        return above_backbone(maps, Pass{});
      }();
      return detail::on_pictures(head_->predict(y), detail::sizes_of(batch), core_.preprocessing);
    });
  }

  /// Moves the model, the optimiser's parameters with it.
  /// \throws DeviceError if the device is not there
  void to(const torch::Device& device) {
    detail::check_device(device);
    detail::guarded("moving the model", [&] {
      core_.network->to(device);
      neck_->to(device);
      head_->to(device);
      return 0;
    });
  }

  /// An independent copy.
  Detector copy() const {
    Detector out = with_new_head(labels_);
    const torch::NoGradGuard guard;
    load_state_dict(detail::inner_head(*out.head_), state_dict(detail::inner_head(*head_)));
    return out;
  }

  /// A copy whose head is new, for these labels, with weights as its recipe draws them.
  Detector with_new_head(Labels labels) const {
    Detector out(Backbone<N>(detail::copied(core_)), neck_recipe_, head_recipe_, std::move(labels));
    out.cut_ = cut_;
    const torch::NoGradGuard guard;
    load_state_dict(detail::inner_head(*out.neck_), state_dict(detail::inner_head(*neck_)));
    out.to(core_.device());
    return out;
  }

  /// The recipes that neck and head were built from.
  const Neck<K>& neck_recipe() const { return neck_recipe_; }
  const Head<H>& head_recipe() const { return head_recipe_; }

 private:
  using Input = std::conditional_t<std::same_as<K, NoNeck>, typename H::Input, Pyramid>;

  Detector(Backbone<N> backbone, const Neck<K>& neck, const Head<H>& head, Labels labels)
      : ModelBase(detail::for_neck<K>(std::move(backbone.core), neck.options), std::move(labels), Input{}),
        neck_recipe_(neck),
        head_recipe_(head) {
    core_.preprocessing.fit = detail::whole(core_.preprocessing.fit);
    FeatureSpec spec = core_.features;
    spec.classes = static_cast<Index>(labels_.size());
    neck_ = std::make_shared<K>(spec, neck.options);
    head_features_ = neck_->features();
    head_features_.classes = spec.classes;
    head_ = std::make_shared<H>(head_features_, head.options);
    if (const auto device = core_.device(); !device.is_cpu()) to(device);
  }

  Output above_backbone(const Activations& maps, const Pass& pass) const {
    return head_->forward(neck_->forward(maps, pass), pass);
  }

  Neck<K> neck_recipe_;
  Head<H> head_recipe_;
  FeatureSpec head_features_;
  std::shared_ptr<K> neck_;
  std::shared_ptr<H> head_;
};

/// What a list of arguments in another order is deduced to, so that it is refused in a sentence.
template <class... A>
class Detector<detail::NotASentence<A...>, void, void> {
  static_assert(sizeof...(A) > 99,
                "transferlib: Detector takes {Backbone, FreezePolicy, Neck, Head, labels} or {Backbone, FreezePolicy, "
                "Head, labels}, in this order");

 public:
  template <class... B>
  Detector(B&&...) {}
};

template <class N, class R, class K, class H>
Detector(Backbone<N>, FreezePolicy<R>, Neck<K>, Head<H>, Labels) -> Detector<N, K, H>;
template <class N, class R, class H>
Detector(Backbone<N>, FreezePolicy<R>, Head<H>, Labels) -> Detector<N, NoNeck, H>;
template <class... A>
Detector(A...) -> Detector<detail::NotASentence<A...>, void, void>;

/// Widths and heights (N, 2) of all of a data set's boxes as they lie on a network's input: what anchors are found
/// from.
template <class D>
Tensor box_sizes(const D& data, const Preprocessing& p) {
  std::vector<Index> all(static_cast<std::size_t>(data.size()));
  std::iota(all.begin(), all.end(), Index{0});
  return detail::move_targets(data.targets(all), p).narrow(1, 3, 2);
}
/// The same for a letter box of this side.
template <class D>
Tensor box_sizes(const D& data, Index size) {
  return box_sizes(data, Preprocessing{.size = size, .fit = Fit::letterbox});
}

/// An independent copy of a model: weights, frozen layers, labels.
template <class N, class K, class H>
Detector<N, K, H> clone(const Detector<N, K, H>& model) {
  return model.copy();
}

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API Activations as_maps(Activations values, Precision precision) {
  for (Tensor& t : values) {
    if (t.scalar_type() != scalar_type(precision)) t = t.to(at::kFloat);
    if (t.dim() == 4) t = t.contiguous(at::MemoryFormat::ChannelsLast);
  }
  return values;
}

}  // namespace transferlib::detail

#endif  // TRANSFERLIB_DEFINES

/// \file
/// A pretrained network with a new head.
#pragma once

#include <atomic>
#include <concepts>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include <transferlib/core/concepts.hpp>
#include <transferlib/core/error.hpp>
#include <transferlib/core/guard.hpp>
#include <transferlib/data/preprocess.hpp>
#include <transferlib/engine/engine.hpp>
#include <transferlib/freeze/policy.hpp>
#include <transferlib/model/backbone.hpp>
#include <transferlib/model/head.hpp>

namespace transferlib {
namespace detail {

template <class... A>
struct NotASentence {};

/// An engine for predicting, made when it is first needed and made again when the weights have changed since.
class PredictingEngine {
 public:
  std::shared_ptr<const Engine> get(const BackboneCore& core, const std::vector<Index>& wanted, Precision precision) {
    const std::lock_guard lock(mutex_);
    // Here, where one thread is at a time: the calls find a user's modules in evaluation and write nothing.
    for (const Step& step : core.graph.steps)
      if (step.kind == Kind::opaque && any_in_training(*step.module)) step.module->eval();
    const std::uint64_t stamp = stamp_of(core);
    if (engine_ == nullptr || stamp != stamp_ || precision != asked_) {
      const Index input[3] = {core.options.in_channels, core.size(), core.size()};
      engine_ =
          std::make_shared<const Engine>(core.graph, wanted, input, EngineOptions{.precision = precision, .piece = 1});
      stamp_ = stamp;
      asked_ = precision;
    }
    return engine_;
  }

 private:
  /// Changes when a weight was written or replaced: LibTorch counts the writes of each tensor.
  static std::uint64_t stamp_of(const BackboneCore& core) {
    std::uint64_t out = 0;
    const auto add = [&](const Tensor& t) {
      out = out * 1099511628211ULL + static_cast<std::uint64_t>(t._version());
      out = out * 1099511628211ULL + reinterpret_cast<std::uintptr_t>(t.const_data_ptr());
    };
    for (const Tensor& t : core.network->parameters()) add(t);
    for (const Tensor& t : core.network->buffers()) add(t);
    return out;
  }

  std::mutex mutex_;
  std::shared_ptr<const Engine> engine_;
  std::uint64_t stamp_ = 0;
  Precision asked_ = Precision::automatic;
};

}  // namespace detail

/// A backbone, frozen as a policy says, and a head: for one class a picture, for several (`MultiLabel` heads), or for
/// numbers (`Values` heads). A move-only value; `clone(model)` copies. Predicting is `const` and safe from several
/// threads; training and changing it are not.
template <class N, class H>
class Classifier {
  static_assert(!std::same_as<typename H::Target, Boxes>,
                "transferlib: Classifier: this head learns boxes; use Detector");
  static_assert(
      gives<N, typename H::Input>,
      "transferlib: Classifier: this head needs a feature map or pyramid and this backbone gives pooled features "
      "only");

 public:
  using Network = N;
  using HeadType = H;
  using Target = typename H::Target;
  using Output = typename H::Output;
  using Prediction = typename H::Prediction;
  using Metric = typename H::Metric;

  /// \param labels the names of the classes, in the order of their indices; at least two for class indices
  /// \throws OptionError
  template <FreezeRule R>
  Classifier(Backbone<N> backbone, const FreezePolicy<R>& policy, const Head<H>& head, Labels labels)
      : Classifier(std::move(backbone), head, std::move(labels)) {
    refreeze(policy);
  }

  Classifier(Classifier&&) = default;
  Classifier& operator=(Classifier&&) = default;

  /// Freezes anew: training goes on with another part of the network.
  template <FreezeRule R>
  void refreeze(const FreezePolicy<R>& policy) {
    detail::apply_mask(core_, policy.mask(core_.graph.table));
    cut_ = detail::best_cut(core_, wanted_);
  }

  /// The network's layers as the original numbers them.
  const LayerTable& layers() const { return core_.graph.table; }
  /// Which of them are frozen, by index.
  const std::vector<bool>& frozen() const { return core_.frozen; }
  /// Where the part begins that training changes; everything before it is a constant function of the picture.
  const Cut& cut() const { return cut_; }
  const Labels& labels() const { return labels_; }
  const Preprocessing& preprocessing() const { return core_.preprocessing; }
  /// The head.
  H& head() { return *head_; }
  const H& head() const { return *head_; }
  /// The backbone, without its type: what the trainer works on.
  detail::BackboneCore& backbone_core() { return core_; }
  const detail::BackboneCore& backbone_core() const { return core_; }
  /// The steps of the network whose values the head takes.
  const std::vector<Index>& wanted() const { return wanted_; }

  /// What training changes: the parameters that are not frozen, the head's last.
  std::vector<Tensor> trainable_parameters() const {
    std::vector<Tensor> out;
    for (const auto& item : detail::needed_state(core_, wanted_))
      if (item.second.requires_grad()) out.push_back(item.second);
    for (const Tensor& p : detail::inner_head(*head_).parameters())
      if (p.requires_grad()) out.push_back(p);
    return out;
  }

  /// Everything behind the cut: from the values that cross it to the head's output.
  Output above_cut(const Activations& crossing, const Pass& pass) {
    return head_->forward(core_.graph.run(crossing, cut_, wanted_, pass, core_.frozen), pass);
  }

  /// The whole model, plainly: normalised pictures (N, C, H, W) float32 to the head's output.
  Output forward(const Tensor& pictures, const Pass& pass = {}) {
    return head_->forward(core_.graph.run({pictures}, Cut{}, wanted_, pass, core_.frozen), pass);
  }

  LossTerms loss(const Output& output, const Batch& batch) { return head_->loss(output, batch); }
  void score(Metric& metric, const Output& output, const Batch& batch) { metric.update(head_->predict(output), batch); }

  /// The prediction for pictures as a data set gives them; the model prepares them itself.
  /// \returns for class indices the probabilities (N, classes), float32
  Prediction predict(const Batch& batch, Precision precision = Precision::automatic) const {
    return detail::guarded("predicting", [&] {
      const torch::NoGradGuard guard;
      const auto engine = engine_->get(core_, wanted_, precision);
      const Tensor x = preprocess(batch, core_.preprocessing, core_.options.in_channels);
      return head_->predict(head_->forward((*engine)(x), Pass{}));
    });
  }

  /// Moves the model, the optimiser's parameters with it.
  /// \throws DeviceError if the device is not there
  void to(const torch::Device& device) {
    if (device.is_cuda() && !at::hasCUDA())
      throw DeviceError("a CUDA device was asked for, and this LibTorch has none; use a CUDA build, or the device cpu");
    detail::guarded("moving the model", [&] {
      core_.network->to(device);
      head_->to(device);
      return 0;
    });
  }

  /// An independent copy.
  Classifier copy() const {
    detail::BackboneCore core = core_.rebuild();
    load_state_dict(*core.network, state_dict(*core_.network));
    core.licence = core_.licence;
    core.source = core_.source;
    core.preprocessing = core_.preprocessing;
    Classifier out(Backbone<N>(std::move(core)), recipe_, labels_);
    detail::apply_mask(out.core_, core_.frozen);
    out.cut_ = cut_;
    const torch::NoGradGuard guard;
    load_state_dict(detail::inner_head(*out.head_), state_dict(detail::inner_head(*head_)));
    if constexpr (requires { detail::inner_head(*head_).standardisation(); })
      detail::inner_head(*out.head_).set_standardisation(detail::inner_head(*head_).standardisation());
    if constexpr (requires { detail::inner_head(*head_).is_trained(); })
      detail::inner_head(*out.head_).set_trained(detail::inner_head(*head_).is_trained());
    out.to(core_.device());
    return out;
  }

 private:
  Classifier(Backbone<N> backbone, const Head<H>& head, Labels labels)
      : core_(std::move(backbone.core)), recipe_(head), labels_(std::move(labels)) {
    if (labels_.empty()) throw OptionError("a model needs labels: the data's, or a list of names");
    if (std::same_as<Target, ClassIndex> && labels_.size() < 2)
      throw OptionError(detail::text("there is one class only (", labels_[0],
                                     "), so there is nothing to tell apart; a classifier needs at least two"));
    FeatureSpec spec = core_.features;
    spec.classes = static_cast<Index>(labels_.size());
    wanted_ = detail::wanted_steps(core_, typename H::Input{});
    head_ = std::make_shared<H>(spec, head.options);
    if (const auto device = core_.device(); !device.is_cpu()) head_->to(device);
    cut_ = detail::best_cut(core_, wanted_);
  }

  detail::BackboneCore core_;
  Head<H> recipe_;
  Labels labels_;
  std::vector<Index> wanted_;
  std::shared_ptr<H> head_;
  Cut cut_;
  std::unique_ptr<detail::PredictingEngine> engine_ = std::make_unique<detail::PredictingEngine>();
};

/// What a list of arguments in another order is deduced to, so that it is refused in a sentence.
template <class... A>
class Classifier<detail::NotASentence<A...>, void> {
  static_assert(sizeof...(A) > 99,
                "transferlib: Classifier takes {Backbone, FreezePolicy, Head, labels}, in this order");

 public:
  template <class... B>
  Classifier(B&&...) {}
};

template <class N, class R, class H>
Classifier(Backbone<N>, FreezePolicy<R>, Head<H>, Labels) -> Classifier<N, H>;
template <class... A>
Classifier(A...) -> Classifier<detail::NotASentence<A...>, void>;

/// An independent copy of a model: weights, frozen layers, labels.
template <class N, class H>
Classifier<N, H> clone(const Classifier<N, H>& model) {
  return model.copy();
}

}  // namespace transferlib

/// \file
/// A pretrained network with a new head.
#pragma once

#include <concepts>
#include <memory>
#include <utility>
#include <vector>

#include <transferlib/core/concepts.hpp>
#include <transferlib/core/error.hpp>
#include <transferlib/core/guard.hpp>
#include <transferlib/data/preprocess.hpp>
#include <transferlib/freeze/policy.hpp>
#include <transferlib/model/backbone.hpp>
#include <transferlib/model/base.hpp>
#include <transferlib/model/head.hpp>

namespace transferlib {

/// A backbone, frozen as a policy says, and a head: for one class a picture, for several (`MultiLabel` heads), or for
/// numbers (`Values` heads). A move-only value; `clone(model)` copies. Predicting is `const` and safe from several
/// threads; training and changing it are not.
template <class N, class H>
class Classifier : public detail::ModelBase {
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

  /// The head.
  H& head() { return *head_; }
  const H& head() const { return *head_; }

  /// All that its answers depend on, by name: under "backbone." the original's names, and "head."; the tensors are the
  /// model's own.
  StateDict state() const {
    StateDict out = state_of_backbone();
    for (auto& item : state_dict(detail::inner_head(*head_))) out.emplace_back("head." + item.first, item.second);
    return out;
  }

  /// What training changes: the parameters that are not frozen, the head's last.
  std::vector<Tensor> trainable_parameters() const { return detail::trainable(state()); }

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
      const Tensor x = detail::input_of(core_, batch, *engine);
      return head_->predict(head_->forward((*engine)(x), Pass{}));
    });
  }

  /// Shows pictures to the network at `size` x `size` pixels from now on; the weights stay. What has learnt from random
  /// crops, which show objects larger than whole pictures do, is more often right at a larger size than it learnt at
  /// (Touvron et al., "Fixing the train-test resolution discrepancy", 2019). Files and copies keep it.
  /// \throws OptionError below the network's smallest size, and where it can't; nothing has changed then
  void set_size(Index size) {
    detail::set_size(core_, size);
    cut_ = detail::best_cut(core_, wanted_);
    engine_ = std::make_unique<detail::PredictingEngine>();
  }

  /// Moves the model, the optimiser's parameters with it.
  /// \throws DeviceError if the device is not there
  void to(const torch::Device& device) {
    detail::check_device(device);
    detail::guarded("moving the model", [&] {
      core_.network->to(device);
      head_->to(device);
      return 0;
    });
  }

  /// An independent copy.
  Classifier copy() const {
    Classifier out(Backbone<N>(detail::copied(core_)), recipe_, labels_);
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
      : ModelBase(std::move(backbone.core), std::move(labels), typename H::Input{}), recipe_(head) {
    if (std::same_as<Target, ClassIndex> && labels_.size() < 2)
      throw OptionError(detail::text("there is one class only (", labels_[0],
                                     "), so there is nothing to tell apart; a classifier needs at least two"));
    FeatureSpec spec = core_.features;
    spec.classes = static_cast<Index>(labels_.size());
    head_ = std::make_shared<H>(spec, head.options);
    if (const auto device = core_.device(); !device.is_cpu()) head_->to(device);
  }

  Head<H> recipe_;
  std::shared_ptr<H> head_;
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

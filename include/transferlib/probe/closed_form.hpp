/// \file
/// Fits the linear head of a classifier to a data set without gradient descent: the backbone runs once, the head
/// follows in closed form (ridge) or by a convex solver (logistic regression). Together with features of several depths
/// (`NetworkOptions::depths`) this is the best that a frozen backbone gives.
///
/// \code
/// Classifier model{Backbone<EfficientNetLite0>::pretrained({.size = 128, .depths = Depths::blocks}),
///                  FreezePolicy<FreezeAll>{}, Head<Linear>{}, train.labels()};
/// fit_ridge(model, train);
/// save(model, "mugs.safetensors");
/// \endcode
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <functional>
#include <limits>
#include <random>
#include <span>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include <ATen/ATen.h>

#include <transferlib/core/error.hpp>
#include <transferlib/core/guard.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/engine/cache.hpp>
#include <transferlib/engine/engine.hpp>
#include <transferlib/model/classifier.hpp>
#include <transferlib/probe/features.hpp>
#include <transferlib/probe/logistic.hpp>
#include <transferlib/probe/ridge.hpp>
#include <transferlib/train/features.hpp>
#include <transferlib/train/source.hpp>

namespace transferlib {

/// How the features of a data set are computed.
struct FeatureOptions {
  Precision precision = Precision::automatic;  ///< of the backbone
  CacheOptions cache{};                        ///< with a folder, later fits take the features from there
  Index workers = 0;                           ///< threads that prepare pictures; see `LoaderOptions`
  std::stop_token stop{};
  std::function<void(Index done, Index all)> progress{};
};

/// How `fit_ridge` fits.
struct RidgeFitOptions {
  FeatureOptions features{};
  RidgeOptions ridge{};
};

/// What `fit_ridge` finds.
struct RidgeFit {
  RidgeProbe probe;  ///< of the standardised features
  /// What the ridge's values are multiplied by so that their softmax is a probability: of all factors the one of the
  /// smallest cross-entropy of `probe.held_out`.
  double sharpness = 1.0;
};

/// How `fit_logistic` fits.
struct LogisticFitOptions {
  FeatureOptions features{};
  std::vector<double> strengths{1e-4, 1e-3, 1e-2, 1e-1};  ///< see `LogisticOptions::strength`
  /// The part of the pictures, drawn from `seed`, that is held out to choose the strength of the smallest
  /// cross-entropy; then all are fitted to. Not used where there is one strength only.
  double held_out = 0.1;
  std::uint64_t seed = 0;
  double tolerance = 1e-5;  ///< see `LogisticOptions`
  Index iterations = 200;   ///< see `LogisticOptions`
};

/// What `fit_logistic` finds.
struct LogisticFit {
  LogisticProbe probe;  ///< of the standardised features
  double strength = 0.0;
  double held_out_loss = 0.0;  ///< mean cross-entropy with that strength of the pictures held out; 0 where none were
  double held_out_accuracy = 0.0;  ///< and the part of them that was told right
};

/// The pooled features of all pictures of a data set and their classes, by one pass through the inference engine.
/// Augmentations are left out: each picture once, as it is. \throws TrainingError when told to stop; DataError
template <BackboneNetwork N, Dataset D>
Features features_of(const Backbone<N>& backbone, const D& data, const FeatureOptions& options = {});

namespace detail {

TRANSFERLIB_API Features features_of(const BackboneCore& core, Source source, const FeatureOptions& options);

/// Standardises features in place, a feature that never varies not at all. \returns means and deviations, (D) each
TRANSFERLIB_API std::pair<Tensor, Tensor> standardise(Tensor& x);

/// The factor by which values must be multiplied for the smallest cross-entropy of their softmax; by golden section, as
/// the cross-entropy is convex in it.
TRANSFERLIB_API double sharpness_of(const Tensor& values, const Tensor& classes);

/// \throws OptionError if the head is not one linear layer, or the data's classes are not the model's
template <class N, class H>
void check_linear(Classifier<N, H>& model, const Labels& labels) {
  if (const std::string kind = inner_head(model.head()).description(); kind != "linear")
    throw OptionError(
        text("only a linear head is fitted in closed form, and this model's is ", kind, "; choose Head<Linear>"));
  if (labels != model.labels())
    throw OptionError(text("the data's classes (", first_few(labels), ") are not those of the model (",
                           first_few(model.labels()), ")"));
}

/// Puts a fit to standardised features into the head.
template <class H>
void fill_head(H& head, const Tensor& weight, const Tensor& bias, const std::pair<Tensor, Tensor>& scale) {
  const torch::NoGradGuard guard;
  head.first().weight.copy_(weight);
  head.first().bias.copy_(bias);
  head.standardise(scale.first.to(head.first().weight.device()), scale.second.to(head.first().weight.device()));
  head.fold();
}

}  // namespace detail

template <BackboneNetwork N, Dataset D>
Features features_of(const Backbone<N>& backbone, const D& data, const FeatureOptions& options) {
  static_assert(std::same_as<typename D::Target, ClassIndex>,
                "transferlib: features_of: the data must have one class a picture (ClassIndex)");
  return detail::features_of(backbone.core, detail::source(data), options);
}

/// Fits a linear head by ridge regression of 0-1 targets on standardised features, with the strength that leaving each
/// picture out once finds best; see `ridge_probe`. The values are sharpened, so that `predict` gives probabilities. The
/// backbone stays as it is. O(N D^2 + D^3).
/// \throws OptionError; DataError as `ridge_probe`; TrainingError when told to stop
template <class N, class H, Dataset D>
RidgeFit fit_ridge(Classifier<N, H>& model, const D& train, const RidgeFitOptions& options = {}) {
  static_assert(std::same_as<typename H::Target, ClassIndex> && std::same_as<typename D::Target, ClassIndex>,
                "transferlib: fit_ridge: the head and the data must have one class a picture (ClassIndex)");
  detail::check_linear(model, train.labels());
  Features f = detail::features_of(model.backbone_core(), detail::source(train), options.features);
  const auto scale = detail::standardise(f.x);
  RidgeFit out{ridge_probe(f, options.ridge)};
  out.sharpness = detail::sharpness_of(out.probe.held_out, f.y);
  detail::fill_head(detail::inner_head(model.head()), out.probe.weight * out.sharpness, out.probe.bias * out.sharpness,
                    scale);
  return out;
}

/// Fits a linear head by multinomial logistic regression on standardised features, by a convex solver; see
/// `logistic_probe`. The strength is chosen by pictures held out.
/// \throws OptionError; DataError as `logistic_probe`; TrainingError when told to stop
template <class N, class H, Dataset D>
LogisticFit fit_logistic(Classifier<N, H>& model, const D& train, const LogisticFitOptions& options = {}) {
  static_assert(std::same_as<typename H::Target, ClassIndex> && std::same_as<typename D::Target, ClassIndex>,
                "transferlib: fit_logistic: the head and the data must have one class a picture (ClassIndex)");
  detail::check_linear(model, train.labels());
  if (options.strengths.empty()) throw OptionError("fit_logistic has no strength to try: give one or more");
  for (double s : options.strengths) detail::check_strength(s);
  if (!(options.held_out > 0.0 && options.held_out < 1.0))
    throw OptionError(detail::text("the part held out must lie between 0 and 1, not ", options.held_out));
  Features f = detail::features_of(model.backbone_core(), detail::source(train), options.features);
  const auto scale = detail::standardise(f.x);
  const auto fit = [&](const Features& to, double strength) {
    return logistic_probe(to, {.strength = strength, .tolerance = options.tolerance, .iterations = options.iterations});
  };
  LogisticFit out;
  out.strength = options.strengths.front();
  if (options.strengths.size() > 1) {
    auto ids = detail::numbers(0, f.x.size(0));
    std::mt19937_64 random(options.seed);
    for (std::size_t i = ids.size(); i-- > 1;) std::swap(ids[i], ids[random() % (i + 1)]);
    const auto out_count = std::max<Index>(1, std::llround(options.held_out * static_cast<double>(ids.size())));
    const Tensor order = at::tensor(ids), held = order.narrow(0, 0, out_count),
                 kept = order.narrow(0, out_count, order.size(0) - out_count);
    const Features rest{f.x.index_select(0, kept), f.y.index_select(0, kept), f.classes};
    const Tensor x = f.x.index_select(0, held), y = f.y.index_select(0, held);
    out.held_out_loss = std::numeric_limits<double>::infinity();
    for (double strength : options.strengths) {
      const LogisticProbe probe = fit(rest, strength);
      const Tensor values = at::addmm(probe.bias, x, probe.weight.t());
      const double loss = at::cross_entropy_loss(values, y).item<double>();
      if (!(loss < out.held_out_loss)) continue;
      out.strength = strength;
      out.held_out_loss = loss;
      out.held_out_accuracy = values.argmax(1).eq(y).to(at::kDouble).mean().item<double>();
    }
  }
  out.probe = fit(f, out.strength);
  detail::fill_head(detail::inner_head(model.head()), out.probe.weight, out.probe.bias, scale);
  return out;
}

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API Features features_of(const BackboneCore& core, Source source, const FeatureOptions& options) {
  return guarded("computing the features of a data set", [&] {
    const torch::NoGradGuard guard;
    source.views = 1;
    source.augment = nullptr;
    source.augmentation = "none";
    FeatureSource from(core, Cut{core.graph.pooled + 1, {core.graph.pooled}}, source, options.precision, options.cache,
                       0, options.workers);
    Features out;
    out.classes = static_cast<Index>(source.labels.size());
    out.x = at::empty({source.size, core.features.width}, at::kFloat);
    out.y = at::empty({source.size}, at::kLong);
    // Kept pieces are filled in the order of the pictures, and read again without being computed.
    from.fill(options.stop, options.progress);
    const auto all = numbers(0, source.size);
    Index done = 0;
    from.for_each_batch(all, {.size = 32, .stop = options.stop},
                        [&](std::span<const Index> ids, const Activations& values, const Batch& batch) {
                          const auto count = static_cast<Index>(ids.size());
                          out.x.narrow(0, done, count).copy_(values.at(0));
                          out.y.narrow(0, done, count).copy_(batch.target);
                          done += count;
                          if (options.progress && from.cache() == nullptr) options.progress(done, source.size);
                        });
    return out;
  });
}

TRANSFERLIB_API std::pair<Tensor, Tensor> standardise(Tensor& x) {
  const Tensor mean = x.mean(0, false, at::kDouble);
  Tensor squares = at::zeros_like(mean);
  for (Index from = 0; from < x.size(0); from += 4096)
    squares += (x.narrow(0, from, std::min<Index>(4096, x.size(0) - from)).to(at::kDouble) - mean).square().sum(0);
  Tensor deviation = (squares / static_cast<double>(x.size(0))).sqrt();
  deviation = at::where(deviation.gt(1e-6), deviation, at::ones_like(deviation));
  x.sub_(mean).div_(deviation);
  return {mean, deviation};
}

TRANSFERLIB_API double sharpness_of(const Tensor& values, const Tensor& classes) {
  const auto loss = [&](double log_factor) {
    return at::cross_entropy_loss(values * std::exp(log_factor), classes).item<double>();
  };
  double low = std::log(1e-2), high = std::log(1e4);
  const double golden = 0.5 * (std::sqrt(5.0) - 1.0);
  double a = high - golden * (high - low), b = low + golden * (high - low), at_a = loss(a), at_b = loss(b);
  while (high - low > 1e-4) {
    if (at_a < at_b) {
      high = b, b = a, at_b = at_a;
      at_a = loss(a = high - golden * (high - low));
    } else {
      low = a, a = b, at_a = at_b;
      at_b = loss(b = low + golden * (high - low));
    }
  }
  return std::exp(0.5 * (low + high));
}

}  // namespace transferlib::detail

#endif  // TRANSFERLIB_DEFINES

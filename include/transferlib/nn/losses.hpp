/// \file
/// What classifiers minimise: cross entropy and focal loss for one class a picture, their binary forms for several.
/// Options are plain numbers; a loss is a mean, a scalar, in the precision of the logits.
#pragma once

#include <cmath>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include <ATen/ATen.h>

#include <transferlib/core/error.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>

namespace transferlib {

/// Cross entropy of one class a picture: PyTorch's `CrossEntropyLoss`.
struct CrossEntropy {
  /// The part of each label that is spread over all classes, in [0, 1) (Szegedy et al., "Rethinking the Inception
  /// Architecture", 2016).
  double label_smoothing = 0.0;
  /// A weight a class, above 0; none: all alike. As in PyTorch, the mean over class indices is divided by the sum of
  /// the pictures' weights, the one over soft labels by the number of pictures.
  std::vector<double> class_weights{};
};

/// Focal loss of one class a picture: cross entropy times (1 - p)^gamma, which pictures that are told well hardly add
/// to (Lin et al., "Focal Loss for Dense Object Detection", 2017).
struct Focal {
  double gamma = 2.0;                   ///< at least 0; 0: cross entropy
  std::vector<double> class_weights{};  ///< the paper's alpha of each class, above 0; the mean is divided by their sum
};

/// Binary cross entropy of each class by itself: PyTorch's `BCEWithLogitsLoss`.
struct BinaryCrossEntropy {
  /// What a class counts where it is there, against 1 where it is not; above 0, a number a class; none: 1.
  std::vector<double> positive_weights{};
};

/// Focal loss of each class by itself: torchvision's `sigmoid_focal_loss`, the mean of all.
struct SigmoidFocal {
  double gamma = 2.0;   ///< at least 0
  double alpha = 0.25;  ///< what a class counts where it is there, in [0, 1], against 1 - alpha; -1: both count 1
};

/// The squared error of numbers.
struct SquaredError {};

/// What a head of class indices minimises.
using ClassLoss = std::variant<CrossEntropy, Focal>;
/// What a multi-label head minimises.
using MultiLabelLoss = std::variant<BinaryCrossEntropy, SigmoidFocal>;
/// What a head of numbers minimises.
using ValueLoss = std::variant<SquaredError>;

namespace detail {

TRANSFERLIB_API void check_weights(std::string_view name, const std::vector<double>& weights, Index classes);

inline void check_gamma(double gamma) {
  if (!(gamma >= 0.0 && std::isfinite(gamma)))
    throw OptionError(text("a focal loss: gamma must be at least 0, not ", gamma));
}

inline void check(const CrossEntropy& loss, Index classes) {
  if (!(loss.label_smoothing >= 0.0 && loss.label_smoothing < 1.0))
    throw OptionError(text("label_smoothing must be in [0, 1), not ", loss.label_smoothing));
  check_weights("class_weights", loss.class_weights, classes);
}
inline void check(const Focal& loss, Index classes) {
  check_gamma(loss.gamma);
  check_weights("class_weights", loss.class_weights, classes);
}
inline void check(const BinaryCrossEntropy& loss, Index classes) {
  check_weights("positive_weights", loss.positive_weights, classes);
}
inline void check(const SigmoidFocal& loss, Index) {
  check_gamma(loss.gamma);
  if (!((loss.alpha >= 0.0 && loss.alpha <= 1.0) || loss.alpha == -1.0))
    throw OptionError(text("a focal loss: alpha must be in [0, 1], or -1 for none, not ", loss.alpha));
}
inline void check(const SquaredError&, Index) {}

inline std::string with_weights(std::string words, const std::vector<double>& weights) {
  for (std::size_t i = 0; i < weights.size(); ++i) words += text(i == 0 ? " weights " : " ", weights[i]);
  return words;
}
inline std::string words(const CrossEntropy& loss) {
  return with_weights(text("cross entropy, smoothing ", loss.label_smoothing), loss.class_weights);
}
inline std::string words(const Focal& loss) {
  return with_weights(text("focal, gamma ", loss.gamma), loss.class_weights);
}
inline std::string words(const BinaryCrossEntropy& loss) {
  return with_weights("binary cross entropy", loss.positive_weights);
}
inline std::string words(const SigmoidFocal& loss) {
  return text("sigmoid focal, gamma ", loss.gamma, ", alpha ", loss.alpha);
}
inline std::string words(const SquaredError&) { return "squared error"; }

/// Weights as a tensor like `like`; undefined where there are none.
inline Tensor weights_like(const std::vector<double>& weights, const Tensor& like) {
  return weights.empty() ? Tensor() : at::tensor(weights, at::kDouble).to(like.options());
}

/// `missing` to a power, where `missing` is 1 - p. Where a picture is told perfectly, a power below 1 has no slope.
inline Tensor focus(const Tensor& missing, double gamma) { return missing.clamp_min(1e-8).pow(gamma); }

}  // namespace detail

/// \param logits (N, classes); \param target (N) int64, class indices, or (N, classes), parts of classes
inline Tensor loss_of(const CrossEntropy& loss, const Tensor& logits, const Tensor& target) {
  return at::cross_entropy_loss(logits, target.is_floating_point() ? target.to(logits.dtype()) : target,
                                detail::weights_like(loss.class_weights, logits), at::Reduction::Mean, -100,
                                loss.label_smoothing);
}

/// \param logits (N, classes); \param target (N) int64, class indices, or (N, classes), parts of classes, each of which
/// adds its own term
TRANSFERLIB_API Tensor loss_of(const Focal& loss, const Tensor& logits, const Tensor& target);

/// \param logits (N, classes); \param target (N, classes) of numbers in [0, 1]
inline Tensor loss_of(const BinaryCrossEntropy& loss, const Tensor& logits, const Tensor& target) {
  return at::binary_cross_entropy_with_logits(logits, target.to(logits.dtype()), {},
                                              detail::weights_like(loss.positive_weights, logits));
}

/// The terms before their mean, as detectors want them. \param target like `logits`
TRANSFERLIB_API Tensor sigmoid_focal_terms(const SigmoidFocal& loss, const Tensor& logits, const Tensor& target);

/// \param logits (N, classes); \param target (N, classes) of numbers in [0, 1]
inline Tensor loss_of(const SigmoidFocal& loss, const Tensor& logits, const Tensor& target) {
  return sigmoid_focal_terms(loss, logits, target).mean();
}

/// \param values (N, D); \param target (N, D)
inline Tensor loss_of(const SquaredError&, const Tensor& values, const Tensor& target) {
  return at::mse_loss(values, target.to(values.dtype()));
}

/// The loss that is chosen.
template <class... L>
Tensor loss_of(const std::variant<L...>& loss, const Tensor& output, const Tensor& target) {
  return std::visit([&](const auto& l) { return loss_of(l, output, target); }, loss);
}

/// Refuses a loss that can't be meant for so many classes. \throws OptionError
template <class... L>
void check_loss(const std::variant<L...>& loss, Index classes) {
  std::visit([&](const auto& l) { detail::check(l, classes); }, loss);
}

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API void check_weights(std::string_view name, const std::vector<double>& weights, Index classes) {
  if (weights.empty()) return;
  if (static_cast<Index>(weights.size()) != classes)
    throw OptionError(text(name, " has ", weights.size(), " numbers and there are ", classes,
                           " classes; give one a class, in the order of the labels, or none"));
  for (double w : weights)
    if (!(w > 0.0 && std::isfinite(w))) throw OptionError(text(name, " must be above 0; one is ", w));
}

}  // namespace transferlib::detail

namespace transferlib {

TRANSFERLIB_API Tensor loss_of(const Focal& loss, const Tensor& logits, const Tensor& target) {
  const Tensor log_p = at::log_softmax(logits, 1), weights = detail::weights_like(loss.class_weights, logits);
  if (target.dim() == 1) {
    const Tensor own = log_p.gather(1, target.unsqueeze(1)).squeeze(1);
    const Tensor each = -own * detail::focus(-own.expm1(), loss.gamma);
    if (!weights.defined()) return each.mean();
    const Tensor w = weights.index_select(0, target);
    return (each * w).sum() / w.sum();
  }
  Tensor part = target.to(logits.dtype());
  if (weights.defined()) part = part * weights;
  return (part * -log_p * detail::focus(-log_p.expm1(), loss.gamma)).sum() / part.sum();
}

TRANSFERLIB_API Tensor sigmoid_focal_terms(const SigmoidFocal& loss, const Tensor& logits, const Tensor& target) {
  const Tensor t = target.to(logits.dtype()), not_t = 1.0 - t;
  const Tensor missing = at::sigmoid(-logits) * t + at::sigmoid(logits) * not_t;
  const Tensor terms =
      at::binary_cross_entropy_with_logits(logits, t, {}, {}, at::Reduction::None) * detail::focus(missing, loss.gamma);
  return loss.alpha < 0.0 ? terms : (loss.alpha * t + (1.0 - loss.alpha) * not_t) * terms;
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

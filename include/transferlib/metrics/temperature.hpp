/// \file
/// Probabilities that can be believed, by one number (Guo et al., "On Calibration of Modern Neural Networks", 2017).
#pragma once

#include <cmath>

#include <ATen/ATen.h>

#include <transferlib/core/error.hpp>
#include <transferlib/core/guard.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>

namespace transferlib {

/// The temperature T by which softmax(logits / T) makes the targets likeliest: above 1 where a model is too sure of
/// itself. The likelihood is concave in 1 / T; its slope's zero is found by Newton's method within a bracket.
/// \param logits (N, classes) of pictures that the model was not trained on; logarithms of probabilities do as well
/// \param target (N) int64
/// \returns T in [1e-3, 1e3]; an end of it where the likelihood has no maximum inside: every picture is told rightly,
/// or no better than by chance \throws DataError
TRANSFERLIB_API double fit_temperature(const Tensor& logits, const Tensor& target);

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API double fit_temperature(const Tensor& logits, const Tensor& target) {
  if (logits.dim() != 2 || target.dim() != 1 || target.scalar_type() != at::kLong || logits.size(0) < 1 ||
      logits.size(1) < 1 || logits.size(0) != target.size(0))
    throw DataError("a temperature is fitted to logits (N, classes) and targets (N) of int64, of at least one picture");
  return detail::guarded("fitting a temperature", [&] {
    const torch::NoGradGuard guard;
    const Tensor y = target.cpu();
    const Index low = y.min().item<Index>(), high = y.max().item<Index>();
    if (low < 0 || high >= logits.size(1))
      throw DataError(
          detail::text("labels go from ", low, " to ", high, " and there are ", logits.size(1), " classes"));
    Tensor z = logits.detach().to(at::kCPU, at::kDouble);
    // From each picture's largest on down, no lower than numbers can tell; the logarithm of 0 becomes finite.
    z = (z - z.amax(1, true)).clamp_min(-1e6);
    if (z.isnan().any().item<bool>())
      throw DataError("a temperature can't be fitted: there are logits that are no numbers");
    const double right = z.gather(1, y.unsqueeze(1)).mean().item<double>();
    double from = 1e-3, to = 1e3, inverse = 1.0;
    for (int i = 0; i < 200 && to - from > 1e-15 * to; ++i) {
      // Slope and curvature of the mean negative logarithm of the likelihood.
      const Tensor p = at::softmax(z * inverse, 1), mean = (p * z).sum(1);
      const double slope = mean.mean().item<double>() - right;
      const double curvature = ((p * z * z).sum(1) - mean * mean).mean().item<double>();
      (slope < 0.0 ? from : to) = inverse;
      const double step = curvature > 0.0 ? inverse - slope / curvature : 0.0;
      if (std::abs(step - inverse) <= 1e-14 * inverse || slope == 0.0) break;
      inverse = step > from && step < to ? step : std::sqrt(from * to);
    }
    return 1.0 / inverse;
  });
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

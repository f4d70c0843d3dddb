/// \file
/// The scaler that keeps small gradients above fp16's zero.
#pragma once

#include <algorithm>
#include <vector>

#include <ATen/ATen.h>

#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>

namespace transferlib::detail {

/// What a loss is multiplied by so that fp16's gradients are not 0, as PyTorch's `GradScaler`: halved when a gradient
/// overflows, which costs that step, and doubled after 2,000 steps without.
class GradientScaler {
 public:
  double scale() const { return scale_; }

  /// Divides the gradients by the scale. \returns false where one is not finite: the step is to be left out
  bool unscale(std::vector<Tensor>& gradients);

  /// All that the next steps depend on.
  std::vector<double> state() const { return {scale_, good_}; }
  void set_state(double scale, double good) { scale_ = scale, good_ = good; }

 private:
  double scale_ = 65536.0, good_ = 0.0;
};

}  // namespace transferlib::detail

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API bool GradientScaler::unscale(std::vector<Tensor>& gradients) {
  const torch::NoGradGuard guard;
  bool finite = true;
  for (Tensor& g : gradients) {
    g.mul_(1.0 / scale_);
    finite = finite && at::isfinite(g).all().item<bool>();
  }
  if (!finite) {
    scale_ = std::max(1.0, scale_ / 2.0);
    good_ = 0.0;
  } else if (++good_ >= 2000.0) {
    scale_ *= 2.0;
    good_ = 0.0;
  }
  return finite;
}

}  // namespace transferlib::detail

#endif  // TRANSFERLIB_DEFINES

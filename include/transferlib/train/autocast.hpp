/// \file
/// Training in half precision: LibTorch's autocast, and the scaler that keeps small gradients above fp16's zero.
#pragma once

#include <algorithm>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>

#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/engine/engine.hpp>

namespace transferlib::detail {

/// Autocast for the calling thread as long as it lives, and as it was before afterwards.
class Autocast {
 public:
  Autocast(Precision precision, const torch::Device& device);
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;
  ~Autocast();

 private:
  at::DeviceType device_ = at::kCPU;
  at::ScalarType was_ = at::kFloat;
  bool on_ = false, was_on_ = false;
};

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

TRANSFERLIB_API Autocast::Autocast(Precision precision, const torch::Device& device) {
  if (precision != Precision::bf16 && precision != Precision::fp16) return;
  device_ = device.type();
  on_ = true;
  was_on_ = at::autocast::is_autocast_enabled(device_);
  was_ = at::autocast::get_autocast_dtype(device_);
  at::autocast::set_autocast_enabled(device_, true);
  at::autocast::set_autocast_dtype(device_, scalar_type(precision));
  at::autocast::increment_nesting();
}

TRANSFERLIB_API Autocast::~Autocast() {
  if (!on_) return;
  // The copies of the weights are of this step; the next one changes them.
  if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
  at::autocast::set_autocast_enabled(device_, was_on_);
  at::autocast::set_autocast_dtype(device_, was_);
}

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

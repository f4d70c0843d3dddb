/// \file
/// LibTorch's autocast: what runs above the engine, in training and in predicting, at the engine's precision.
#pragma once

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

}  // namespace transferlib::detail

#endif  // TRANSFERLIB_DEFINES

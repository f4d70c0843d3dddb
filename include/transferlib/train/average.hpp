/// \file
/// A running average of the weights.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include <ATen/ATen.h>

#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/train/options.hpp>
#include <transferlib/weights/state_dict.hpp>

namespace transferlib::detail {

/// The averages of some tensors of a model, by name.
class WeightAverage {
 public:
  explicit WeightAverage(const Ema& options) : options_(options) {}

  /// Follows these tensors from now on; of one that is new the average begins with its value.
  void follow(const StateDict& tensors);

  /// After a step; \param steps how many there were.
  void update(Index steps);

  /// Exchanges the model's weights and their averages.
  void swap();

  /// The averages, the object's own tensors.
  const StateDict& state() const { return averages_; }

 private:
  Ema options_;
  StateDict averages_;
  std::vector<Tensor> tensors_;
};

}  // namespace transferlib::detail

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API void WeightAverage::follow(const StateDict& tensors) {
  StateDict known = std::exchange(averages_, {});
  tensors_.clear();
  for (const auto& [name, tensor] : tensors) {
    if (!tensor.is_floating_point()) continue;
    const auto found = std::find_if(known.begin(), known.end(), [&, n = name](const auto& k) { return k.first == n; });
    averages_.emplace_back(name, found != known.end() ? found->second : tensor.detach().clone());
    tensors_.push_back(tensor.detach());
  }
}

TRANSFERLIB_API void WeightAverage::update(Index steps) {
  const torch::NoGradGuard guard;
  const double n = static_cast<double>(steps);
  const double decay = options_.warmup ? std::min(options_.decay, (1.0 + n) / (10.0 + n)) : options_.decay;
  std::vector<Tensor> averages;
  for (const auto& item : averages_) averages.push_back(item.second);
  if (!averages.empty()) at::_foreach_lerp_(averages, tensors_, 1.0 - decay);
}

TRANSFERLIB_API void WeightAverage::swap() {
  const torch::NoGradGuard guard;
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    const Tensor was = tensors_[i].clone();
    tensors_[i].copy_(averages_[i].second);
    averages_[i].second.copy_(was);
  }
}

}  // namespace transferlib::detail

#endif  // TRANSFERLIB_DEFINES

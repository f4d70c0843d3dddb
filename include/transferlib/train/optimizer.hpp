/// \file
/// Optimisers: plain numbers for the user, LibTorch's fused operators underneath.
#pragma once

#include <cstdint>
#include <variant>
#include <vector>

#include <ATen/ATen.h>

#include <transferlib/core/error.hpp>
#include <transferlib/core/tensors.hpp>

namespace transferlib {

/// Stochastic gradient descent, as `torch.optim.SGD`.
struct Sgd {
  double lr = 1e-2;
  double momentum = 0.0;
  double weight_decay = 0.0;  ///< added to the gradient
  bool nesterov = false;
};

/// Adam (Kingma and Ba, 2015), as `torch.optim.Adam`.
struct Adam {
  double lr = 1e-3;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0.0;  ///< added to the gradient
};

/// Adam with decoupled weight decay (Loshchilov and Hutter, 2019), as `torch.optim.AdamW`.
struct AdamW {
  double lr = 1e-3;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 1e-2;  ///< times the rate, taken off the weight itself
};

/// Any of them.
using Optimizer = std::variant<Sgd, Adam, AdamW>;

namespace detail {

/// Refuses a learning rate that can't be meant.
inline void check(const Optimizer& recipe) {
  const double lr = std::visit([](const auto& o) { return o.lr; }, recipe);
  if (!(lr > 0.0)) throw OptionError(text("the learning rate must be above 0, not ", lr));
}

/// An optimiser at work on some parameters.
class OptimizerState {
 public:
  OptimizerState(std::vector<Tensor> parameters, const Optimizer& recipe)
      : parameters_(std::move(parameters)), recipe_(recipe) {
    check(recipe);
    for (const Tensor& p : parameters_) {
      first_.push_back(at::zeros_like(p));
      second_.push_back(std::holds_alternative<Sgd>(recipe) ? Tensor() : at::zeros_like(p));
      steps_.push_back(at::zeros({}, at::TensorOptions(at::kFloat).device(p.device())));
    }
  }

  void zero_gradients() {
    for (Tensor& p : parameters_) p.mutable_grad() = Tensor();
  }

  /// One step along the gradients that are there.
  void step() {
    const torch::NoGradGuard guard;
    std::vector<Tensor> p, g, m, v, s;
    for (std::size_t i = 0; i < parameters_.size(); ++i)
      if (parameters_[i].grad().defined()) {
        p.push_back(parameters_[i]);
        g.push_back(parameters_[i].grad());
        m.push_back(first_[i]);
        v.push_back(second_[i]);
        s.push_back(steps_[i].add_(1));
      }
    if (p.empty()) return;
    if (const auto* sgd = std::get_if<Sgd>(&recipe_)) {
      at::_fused_sgd_(p, g, sgd->momentum == 0.0 ? std::vector<Tensor>{} : m, sgd->weight_decay, sgd->momentum, sgd->lr,
                      0.0, sgd->nesterov, false, taken_ == 0);
    } else if (const auto* adam = std::get_if<Adam>(&recipe_)) {
      at::_fused_adam_(p, g, m, v, {}, s, adam->lr, adam->beta1, adam->beta2, adam->weight_decay, adam->epsilon, false,
                       false);
    } else if (const auto* adamw = std::get_if<AdamW>(&recipe_)) {
      at::_fused_adamw_(p, g, m, v, {}, s, adamw->lr, adamw->beta1, adamw->beta2, adamw->weight_decay, adamw->epsilon,
                        false, false);
    }
    ++taken_;
  }

 private:
  std::vector<Tensor> parameters_;
  Optimizer recipe_;
  std::vector<Tensor> first_, second_, steps_;
  Index taken_ = 0;
};

}  // namespace detail
}  // namespace transferlib

/// \file
/// Optimisers: plain numbers for the user, LibTorch's fused operators underneath.
#pragma once

#include <cmath>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <ATen/ATen.h>

#include <transferlib/core/error.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/core/text.hpp>
#include <transferlib/weights/state_dict.hpp>

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

/// A rate of its own for the parameters whose names fit.
struct RateOf {
  std::string pattern;  ///< a glob over names in the model: "backbone.features.8.*", "head.*"
  double factor = 1.0;  ///< of the optimiser's rate
};

/// Which rate each parameter learns at, and what the weight decay pulls at. The head learns at the optimiser's rate.
struct ParameterGroups {
  double backbone = 1.0;  ///< factor of the rate of the backbone's last stage, and of what stands behind it
  /// Each stage of the backbone learns at this times the rate of the one above it: discriminative rates (Howard and
  /// Ruder, ULMFiT, 2018), layer-wise decay (Clark et al., ELECTRA, 2020).
  double stage_decay = 1.0;
  bool decay_norms_and_biases = true;  ///< false: the weight decay leaves vectors alone (He et al., 2019)
  std::vector<RateOf> by_name{};       ///< factors instead of the ones above, the last that fits
};

namespace detail {

/// Refuses a learning rate that can't be meant.
inline void check(const Optimizer& recipe) {
  const double lr = std::visit([](const auto& o) { return o.lr; }, recipe);
  if (!(lr > 0.0)) throw OptionError(text("the learning rate must be above 0, not ", lr));
}

/// Refuses factors that can't be meant.
TRANSFERLIB_API void check(const ParameterGroups& groups);

/// A parameter in training.
struct TrainedParameter {
  std::string name;  ///< in the model: "backbone.features.0.0.weight", "head.weight"
  Tensor value;
  Index depth = 0;      ///< stages between it and the head; the head's own and those above the last stage have 0
  double factor = 1.0;  ///< of the learning rate
  bool decayed = true;  ///< by the weight decay
};

/// Sets the parameters' factors. \throws OptionError
TRANSFERLIB_API void assign_groups(std::vector<TrainedParameter>& parameters, const ParameterGroups& groups);

/// An optimiser at work on some parameters.
class OptimizerState {
 public:
  OptimizerState(std::vector<TrainedParameter> parameters, const Optimizer& recipe) : recipe_(recipe) {
    check(recipe);
    set_parameters(std::move(parameters));
  }

  /// Goes on with other parameters: those that were trained already keep their state.
  void set_parameters(std::vector<TrainedParameter> parameters);

  void zero_gradients() {
    for (Slot& slot : slots_) slot.parameter.value.mutable_grad() = Tensor();
  }

  /// The gradients that are there.
  std::vector<Tensor> gradients() const {
    std::vector<Tensor> out;
    for (const Slot& slot : slots_)
      if (slot.parameter.value.grad().defined()) out.push_back(slot.parameter.value.grad());
    return out;
  }

  /// One step along the gradients that are there. \param factor of the learning rate; \param momentum instead of the
  /// recipe's momentum, or Adam's beta1
  void step(double factor = 1.0, std::optional<double> momentum = {});

  std::vector<Tensor> parameters() const {
    std::vector<Tensor> out;
    for (const Slot& slot : slots_) out.push_back(slot.parameter.value);
    return out;
  }

  /// All that the next steps depend on, under the parameters' names; the tensors are the optimiser's own.
  StateDict state() const;

 private:
  struct Slot {
    TrainedParameter parameter;
    Tensor first, second, steps;
  };
  Optimizer recipe_;
  std::vector<Slot> slots_;
};

}  // namespace detail
}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API void check(const ParameterGroups& groups) {
  const auto check_factor = [](double factor, std::string_view name) {
    if (!(factor >= 0.0 && factor <= 1e6)) throw OptionError(text(name, " must be at least 0, not ", factor));
  };
  check_factor(groups.backbone, "the backbone's factor of the learning rate");
  check_factor(groups.stage_decay, "stage_decay");
  for (const RateOf& rate : groups.by_name)
    check_factor(rate.factor, text("the factor of the learning rate of \"", rate.pattern, "\""));
}

TRANSFERLIB_API void assign_groups(std::vector<TrainedParameter>& parameters, const ParameterGroups& groups) {
  check(groups);
  for (TrainedParameter& p : parameters) {
    const bool backbone = p.name.starts_with("backbone.");
    p.factor = backbone ? groups.backbone * std::pow(groups.stage_decay, static_cast<double>(p.depth)) : 1.0;
    p.decayed = groups.decay_norms_and_biases || (p.value.dim() > 1 && !p.name.ends_with("bias"));
  }
  // A pattern may fit what is still frozen, so that one that fits nothing here is no mistake yet.
  for (const RateOf& rate : groups.by_name)
    for (TrainedParameter& p : parameters)
      if (glob_matches(rate.pattern, p.name)) p.factor = rate.factor;
}

TRANSFERLIB_API void OptimizerState::set_parameters(std::vector<TrainedParameter> parameters) {
  std::map<std::string, Slot> known;
  for (Slot& slot : slots_) known.emplace(slot.parameter.name, std::move(slot));
  slots_.clear();
  for (TrainedParameter& p : parameters) {
    Slot slot;
    if (const auto found = known.find(p.name); found != known.end()) {
      slot = std::move(found->second);
    } else {
      slot.first = at::zeros_like(p.value);
      if (!std::holds_alternative<Sgd>(recipe_)) slot.second = at::zeros_like(p.value);
      slot.steps = at::zeros({}, at::TensorOptions(at::kFloat).device(p.value.device()));
    }
    slot.parameter = std::move(p);
    slots_.push_back(std::move(slot));
  }
}

TRANSFERLIB_API void OptimizerState::step(double factor, std::optional<double> momentum) {
  const torch::NoGradGuard guard;
  // LibTorch's fused operators take one rate and one decay for all parameters.
  std::map<std::pair<double, bool>, std::vector<Slot*>> groups;
  for (Slot& slot : slots_)
    if (slot.parameter.value.grad().defined()) groups[{slot.parameter.factor, slot.parameter.decayed}].push_back(&slot);
  for (auto& [group, slots] : groups) {
    std::vector<Tensor> p, g, m, v, s;
    for (Slot* slot : slots) {
      p.push_back(slot->parameter.value);
      g.push_back(slot->parameter.value.grad());
      m.push_back(slot->first);
      v.push_back(slot->second);
      // By hand on the CPU: a call for each parameter takes longer than a small one's step.
      if (slot->steps.is_cpu())
        *slot->steps.mutable_data_ptr<float>() += 1.0F;
      else
        slot->steps.add_(1);
      s.push_back(slot->steps);
    }
    const double rate = factor * group.first;
    const auto decay = [with = group.second](const auto& recipe) { return with ? recipe.weight_decay : 0.0; };
    if (const auto* sgd = std::get_if<Sgd>(&recipe_)) {
      const double mu = sgd->momentum == 0.0 ? 0.0 : momentum.value_or(sgd->momentum);
      // The first step's momentum is the gradient itself, as it is for a buffer of zeros.
      at::_fused_sgd_(p, g, sgd->momentum == 0.0 ? std::vector<Tensor>{} : m, decay(*sgd), mu, sgd->lr * rate, 0.0,
                      sgd->nesterov, false, false);
    } else if (const auto* adam = std::get_if<Adam>(&recipe_)) {
      at::_fused_adam_(p, g, m, v, {}, s, adam->lr * rate, momentum.value_or(adam->beta1), adam->beta2, decay(*adam),
                       adam->epsilon, false, false);
    } else if (const auto* adamw = std::get_if<AdamW>(&recipe_)) {
      at::_fused_adamw_(p, g, m, v, {}, s, adamw->lr * rate, momentum.value_or(adamw->beta1), adamw->beta2,
                        decay(*adamw), adamw->epsilon, false, false);
    }
  }
}

TRANSFERLIB_API StateDict OptimizerState::state() const {
  StateDict out;
  for (const Slot& slot : slots_) {
    out.emplace_back(slot.parameter.name + ".first", slot.first);
    if (slot.second.defined()) out.emplace_back(slot.parameter.name + ".second", slot.second);
    out.emplace_back(slot.parameter.name + ".steps", slot.steps);
  }
  return out;
}

}  // namespace transferlib::detail

#endif  // TRANSFERLIB_DEFINES

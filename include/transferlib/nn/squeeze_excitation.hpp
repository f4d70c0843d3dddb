/// \file
/// Squeeze-and-excitation (Hu et al., 2018), and means over all places, in training on the CPU: what autograd makes ten
/// passes over a map of, some without vectors, as two passes forward and two back. gate.hpp is the same in inference.
#pragma once

#include <array>
#include <optional>
#include <vector>

#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/custom_function.h>

#include <transferlib/core/error.hpp>
#include <transferlib/core/layers.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/nn/activation.hpp>
#include <transferlib/nn/gate.hpp>

namespace transferlib::detail {

/// The activations of the two layers.
struct SqueezeActivations {
  Activation between = Activation::relu, behind = Activation::sigmoid;
};

/// See `squeeze_excitation`.
class SqueezeExcitationFunction : public torch::autograd::Function<SqueezeExcitationFunction> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* ctx, const Tensor& x, const Tensor& reduce,
                        const Tensor& expand, const std::optional<Tensor>& reduce_bias,
                        const std::optional<Tensor>& expand_bias, const std::optional<Tensor>& means,
                        const SqueezeActivations& activations);

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& gradients);
};

/// See `means_in_training`.
class MeansFunction : public torch::autograd::Function<MeansFunction> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* ctx, const Tensor& x);

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& gradients);
};

/// Whether the kernels read such a map.
inline bool is_kernels_map(const Tensor& x) {
  return x.dim() == 4 && x.is_cpu() && x.numel() > 0 &&
         (x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16);
}

/// Whether `squeeze_excitation` can compute the activations and their gradients.
constexpr bool squeeze_excitation_knows(const SqueezeActivations& a) {
  const auto known = [](Activation one) {
    return one == Activation::relu || one == Activation::silu || one == Activation::hardswish ||
           one == Activation::hardsigmoid || one == Activation::sigmoid;
  };
  return known(a.between) && known(a.behind);
}

/// Whether `squeeze_excitation` can do it and is asked for gradients: by weights (out, in, 1, 1).
inline bool squeeze_excitation_applies(const Tensor& x, const Tensor& reduce, const Tensor& expand) {
  return is_kernels_map(x) && reduce.is_cpu() && expand.is_cpu() && reduce.scalar_type() == at::kFloat &&
         expand.scalar_type() == at::kFloat && reduce.size(1) == x.size(1) && expand.size(0) == x.size(1) &&
         at::GradMode::is_enabled() && (x.requires_grad() || reduce.requires_grad() || expand.requires_grad());
}

/// Multiplies each channel of (N, C, H, W), float32 or bfloat16, by what two layers, `reduce` (S, C, 1, 1) and `expand`
/// (C, S, 1, 1), make of the means of all channels, in float32; to the same type, channels last. Gradients pass once.
/// \param means the channels' means (N, C, 1, 1) where they are known already
inline Tensor squeeze_excitation(const Tensor& x, const Tensor& means, const Tensor& reduce, const Tensor& reduce_bias,
                                 const Tensor& expand, const Tensor& expand_bias,
                                 const SqueezeActivations& activations) {
  const auto optional = [](const Tensor& t) { return t.defined() ? std::optional<Tensor>(t) : std::nullopt; };
  return SqueezeExcitationFunction::apply(x, reduce, expand, optional(reduce_bias), optional(expand_bias),
                                          optional(means), activations);
}

/// The means of each channel over all places, (N, C, H, W) to (N, C) float32, that a gradient passes once.
inline Tensor means_in_training(const Tensor& x) { return MeansFunction::apply(x); }

}  // namespace transferlib::detail

#if TRANSFERLIB_DEFINES

#include <ATen/Functions.h>

namespace transferlib::detail {

/// The gradient before an activation that `squeeze_excitation_knows`. \param z what it was given
inline Tensor before_activation(const Tensor& gradient, const Tensor& z, Activation activation) {
  switch (activation) {
    case Activation::relu:
      return at::threshold_backward(gradient, z, 0.0);
    case Activation::silu:
      return at::silu_backward(gradient, z);
    case Activation::hardswish:
      return at::hardswish_backward(gradient, z);
    case Activation::hardsigmoid:
      return at::hardsigmoid_backward(gradient, z);
    default:
      return at::sigmoid_backward(gradient, at::sigmoid(z));
  }
}

/// Each picture's channels times one number plus another. \param numbers (N, 2, C)
template <class T>
void scale_and_shift(const Tensor& x, const Tensor& numbers, Tensor& out) {
  const NormRows rows{x.size(2) * x.size(3), x.size(1)};
  with_scratch(x.size(0), rows.scratch(), [&](Index image, float* scratch) {
    const Index offset = image * rows.rows * rows.channels;
    kernels_of<T>().norm_forward(rows, elements<T>(x) + offset,
                                 numbers.const_data_ptr<float>() + 2 * image * rows.channels, Bent{},
                                 elements<T>(out) + offset, scratch);
  });
}

/// The sums over all places of one map times another: (N, C).
template <class T>
Tensor sums_of_products(const Tensor& x, const Tensor& gradient) {
  const NormRows rows{x.size(2) * x.size(3), x.size(1)};
  // As the gradient of a norm that does nothing: of its sums the second one.
  const Tensor nothing = at::zeros({3, rows.channels}, at::TensorOptions(at::kFloat)),
               both = at::empty({x.size(0), 2, rows.channels}, at::TensorOptions(at::kFloat));
  with_scratch(x.size(0), rows.scratch(), [&](Index image, float* scratch) {
    const Index offset = image * rows.rows * rows.channels;
    kernels_of<T>().norm_gradient_sums(rows, elements<T>(x) + offset, elements<T>(gradient) + offset,
                                       nothing.const_data_ptr<float>(), Bent{},
                                       both.mutable_data_ptr<float>() + 2 * image * rows.channels, scratch);
  });
  return both.select(1, 1);
}

inline Tensor scaled_and_shifted(const Tensor& x, const Tensor& scale, const Tensor& shift) {
  const Tensor numbers = at::stack({scale, shift}, 1);
  Tensor out = at::empty_like(x);
  x.scalar_type() == at::kFloat ? scale_and_shift<float>(x, numbers, out)
                                : scale_and_shift<std::uint16_t>(x, numbers, out);
  return out;
}

TRANSFERLIB_API Tensor SqueezeExcitationFunction::forward(torch::autograd::AutogradContext* ctx, const Tensor& x,
                                                          const Tensor& reduce, const Tensor& expand,
                                                          const std::optional<Tensor>& reduce_bias,
                                                          const std::optional<Tensor>& expand_bias,
                                                          const std::optional<Tensor>& means,
                                                          const SqueezeActivations& activations) {
  // The two layers are small: in float32 whatever autocast says.
  const c10::impl::ExcludeDispatchKeyGuard plain(c10::DispatchKey::AutocastCPU);
  const Tensor in = x.contiguous(at::MemoryFormat::ChannelsLast);
  const Tensor mean = means ? means->to(at::kFloat).flatten(1) : means_of(in);
  const Tensor between = at::linear(mean, reduce.flatten(1), reduce_bias),
               hidden = activate(between, activations.between),
               behind = at::linear(hidden, expand.flatten(1), expand_bias),
               factors = activate(behind, activations.behind);
  ctx->save_for_backward({in, mean, reduce, expand, between, hidden, behind, factors});
  ctx->saved_data["between"] = static_cast<std::int64_t>(activations.between);
  ctx->saved_data["behind"] = static_cast<std::int64_t>(activations.behind);
  ctx->saved_data["optional"] = std::vector<Index>{reduce_bias.has_value(), expand_bias.has_value(), means.has_value()};
  return scaled_and_shifted(in, factors, at::zeros_like(factors));
}

TRANSFERLIB_API torch::autograd::variable_list SqueezeExcitationFunction::backward(
    torch::autograd::AutogradContext* ctx, const torch::autograd::variable_list& gradients) {
  const c10::impl::ExcludeDispatchKeyGuard plain(c10::DispatchKey::AutocastCPU);
  const auto saved = ctx->get_saved_variables();
  const Tensor &x = saved[0], &mean = saved[1], &reduce = saved[2], &expand = saved[3];
  const auto activation = [&](const char* which) { return static_cast<Activation>(ctx->saved_data[which].toInt()); };
  const Tensor g = gradient_once(gradients[0], x.scalar_type(), "squeeze-and-excitation in training", "freeze it");
  const Tensor to_factors =
      x.scalar_type() == at::kFloat ? sums_of_products<float>(x, g) : sums_of_products<std::uint16_t>(x, g);
  const Tensor to_behind = before_activation(to_factors, saved[6], activation("behind"));
  const Tensor to_between = before_activation(at::mm(to_behind, expand.flatten(1)), saved[4], activation("between"));
  torch::autograd::variable_list out(7);
  // LibTorch counts those inputs alone that were given.
  std::array<bool, 3> to_optional{};
  std::size_t given = 3;
  const auto optional = ctx->saved_data["optional"].toIntVector();
  for (std::size_t i = 0; i < 3; ++i) to_optional[i] = optional[i] != 0 && ctx->needs_input_grad(given++);
  if (const bool to_x = ctx->needs_input_grad(0); to_x || to_optional[2]) {
    const Tensor to_mean = at::mm(to_between, reduce.flatten(1));
    if (to_optional[2]) out[5] = to_mean.view({x.size(0), x.size(1), 1, 1});
    const double share = optional[2] != 0 ? 0.0 : 1.0 / static_cast<double>(x.size(2) * x.size(3));
    if (to_x) out[0] = scaled_and_shifted(g, saved[7], to_mean * share);
  }
  if (ctx->needs_input_grad(1)) out[1] = at::mm(to_between.t(), mean).view(reduce.sizes());
  if (ctx->needs_input_grad(2)) out[2] = at::mm(to_behind.t(), saved[5]).view(expand.sizes());
  if (to_optional[0]) out[3] = to_between.sum(0);
  if (to_optional[1]) out[4] = to_behind.sum(0);
  return out;
}

TRANSFERLIB_API Tensor MeansFunction::forward(torch::autograd::AutogradContext* ctx, const Tensor& x) {
  ctx->saved_data["sizes"] = x.sizes().vec();
  ctx->saved_data["type"] = x.scalar_type();
  return means_of(x);
}

TRANSFERLIB_API torch::autograd::variable_list MeansFunction::backward(
    torch::autograd::AutogradContext* ctx, const torch::autograd::variable_list& gradients) {
  const auto sizes = ctx->saved_data["sizes"].toIntVector();
  const double share = 1.0 / static_cast<double>(sizes[2] * sizes[3]);
  return {(gradients[0] * share)
              .to(ctx->saved_data["type"].toScalarType())
              .view({sizes[0], sizes[1], 1, 1})
              .expand(sizes)
              .contiguous(at::MemoryFormat::ChannelsLast)};
}

}  // namespace transferlib::detail

#endif  // TRANSFERLIB_DEFINES

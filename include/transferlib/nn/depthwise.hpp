/// \file
/// Depthwise convolutions in training on the CPU. A convolution library's gradients of them are slow, in bfloat16 above
/// all: these stay in the cache and vectorise over the channels.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include <ATen/ops/empty.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <transferlib/core/error.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/nn/simd.hpp>

namespace transferlib::detail {

/// Weights (C, 1, k, k) as (k², C), the channels padded to whole blocks by zeros.
inline Tensor packed_taps(const Depthwise& d, const Tensor& weight) {
  Tensor out = at::zeros({d.kernel * d.kernel, d.padded_channels()}, at::TensorOptions(at::kFloat));
  out.narrow(1, 0, d.channels).copy_(weight.reshape({d.channels, d.kernel * d.kernel}).t());
  return out;
}

template <class T>
void depthwise_forward(const Depthwise& d, const Tensor& x, const Tensor& weight, const Tensor& bias, Tensor& out) {
  const Tensor taps = packed_taps(d, weight);
  Tensor start = at::zeros({d.padded_channels()}, at::TensorOptions(at::kFloat));
  if (bias.defined()) start.narrow(0, 0, d.channels).copy_(bias);
  with_scratch(d.images * d.blocks(), d.scratch(), [&](Index item, float* scratch) {
    kernels_of<T>().depthwise_forward(d, elements<T>(x), taps.const_data_ptr<float>(), start.const_data_ptr<float>(),
                                      elements<T>(out), item, scratch);
  });
}

template <class T>
void depthwise_to_input(const Depthwise& d, const Tensor& gradient, const Tensor& weight, Tensor& out) {
  const Tensor taps = packed_taps(d, weight), zeros = at::zeros({Depthwise::block}, at::TensorOptions(at::kFloat));
  with_scratch(d.images * d.blocks(), d.scratch(), [&](Index item, float* scratch) {
    kernels_of<T>().depthwise_to_input(d, elements<T>(gradient), taps.const_data_ptr<float>(),
                                       zeros.const_data_ptr<float>(), elements<T>(out), item, scratch);
  });
}

/// \returns (k² + 1, C): the gradients to the weights, and last that to the bias
template <class T>
Tensor depthwise_to_weight(const Depthwise& d, const Tensor& x, const Tensor& gradient) {
  const Index taps = d.kernel * d.kernel + 1;
  if (d.images == 0) return at::zeros({taps, d.channels}, at::TensorOptions(at::kFloat));
  Tensor parts = at::empty({d.shares(), taps, d.padded_channels()}, at::TensorOptions(at::kFloat));
  with_scratch(d.shares() * d.blocks(), d.scratch(), [&](Index item, float* scratch) {
    kernels_of<T>().depthwise_to_weight(d, elements<T>(x), elements<T>(gradient), parts.mutable_data_ptr<float>(), item,
                                        scratch);
  });
  return parts.sum(0).narrow(1, 0, d.channels);
}

/// See `depthwise`.
class DepthwiseFunction : public torch::autograd::Function<DepthwiseFunction> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* ctx, const Tensor& x, const Tensor& weight,
                        const std::optional<Tensor>& maybe_bias, const Depthwise& d);

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& gradients);
};

/// Whether `depthwise` can do it and is asked for gradients.
inline bool depthwise_applies(const Tensor& x, const Tensor& weight, Index kernel) {
  return (kernel == 3 || kernel == 5 || kernel == 7) && x.dim() == 4 && x.is_cpu() && weight.is_cpu() &&
         (x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16) && weight.scalar_type() == at::kFloat &&
         at::GradMode::is_enabled() && (x.requires_grad() || weight.requires_grad());
}

/// A depthwise convolution that gradients pass through once: (N, C, H, W), channels last, float32 or bfloat16, with
/// weights (C, 1, k, k) and, if defined, bias (C) in float32, to (N, C, H', W') in the type of `x`. `before` zeros lie
/// above and left of the picture, and as many below and right as the output's size asks for. The same bytes for every
/// number of threads.
inline Tensor depthwise(const Tensor& x, const Tensor& weight, const Tensor& bias, Index out_height, Index out_width,
                        Index stride, Index dilation, Index top, Index left) {
  return DepthwiseFunction::apply(x, weight, bias.defined() ? std::optional<Tensor>(bias) : std::nullopt,
                                  Depthwise{x.size(0), x.size(2), x.size(3), x.size(1), out_height, out_width,
                                            weight.size(2), stride, dilation, top, left});
}

}  // namespace transferlib::detail

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API Tensor DepthwiseFunction::forward(torch::autograd::AutogradContext* ctx, const Tensor& x,
                                                  const Tensor& weight, const std::optional<Tensor>& maybe_bias,
                                                  const Depthwise& d) {
  const Tensor bias = maybe_bias.value_or(Tensor());
  const Tensor in = x.contiguous(at::MemoryFormat::ChannelsLast);
  Tensor out =
      at::empty({d.images, d.channels, d.out_height, d.out_width}, x.options(), at::MemoryFormat::ChannelsLast);
  x.scalar_type() == at::kFloat ? depthwise_forward<float>(d, in, weight, bias, out)
                                : depthwise_forward<std::uint16_t>(d, in, weight, bias, out);
  ctx->save_for_backward({in, weight, bias});
  ctx->saved_data["numbers"] = std::vector<Index>{d.stride, d.dilation, d.top, d.left};
  return out;
}

TRANSFERLIB_API torch::autograd::variable_list DepthwiseFunction::backward(
    torch::autograd::AutogradContext* ctx, const torch::autograd::variable_list& gradients) {
  const auto saved = ctx->get_saved_variables();
  const Tensor &x = saved[0], &weight = saved[1];
  const auto n = ctx->saved_data["numbers"].toIntVector();
  const Tensor g = gradient_once(gradients[0], x.scalar_type(), "a depthwise convolution",
                                 "run it with a frozen weight and an input that needs no gradient");
  const Depthwise d{x.size(0),      x.size(2), x.size(3), x.size(1), g.size(2), g.size(3),
                    weight.size(2), n[0],      n[1],      n[2],      n[3]};
  const bool fp32 = x.scalar_type() == at::kFloat;
  torch::autograd::variable_list out(4);
  if (ctx->needs_input_grad(0)) {
    out[0] = at::empty_like(x);
    fp32 ? depthwise_to_input<float>(d, g, weight, out[0]) : depthwise_to_input<std::uint16_t>(d, g, weight, out[0]);
  }
  if (ctx->needs_input_grad(1) || (saved[2].defined() && ctx->needs_input_grad(2))) {
    const Tensor sums = fp32 ? depthwise_to_weight<float>(d, x, g) : depthwise_to_weight<std::uint16_t>(d, x, g);
    const Index taps = d.kernel * d.kernel;
    out[1] = sums.narrow(0, 0, taps).t().contiguous().view(weight.sizes());
    if (saved[2].defined()) out[2] = sums[taps].contiguous();
  }
  return out;
}

}  // namespace transferlib::detail

#endif  // TRANSFERLIB_DEFINES

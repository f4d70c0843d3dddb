/// \file
/// Batch norm in training on the CPU, together with the activation behind it: one pass for the statistics and one for
/// the values, two for the gradient, where a map would be read and written five more times.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <transferlib/core/error.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/nn/simd.hpp>

namespace transferlib::detail {

/// What a batch norm is told besides its tensors.
struct NormNumbers {
  double momentum, epsilon;
  Bent activation;
};

/// See `batch_norm_in_training`.
class BatchNormFunction : public torch::autograd::Function<BatchNormFunction> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* ctx, const Tensor& x, const Tensor& weight,
                        const Tensor& bias, const Tensor& running_mean, const Tensor& running_var,
                        const NormNumbers& numbers);

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& gradients);
};

/// Whether `batch_norm_in_training` can do it and is asked for gradients.
inline bool batch_norm_applies(const Tensor& x, const Tensor& weight) {
  return x.dim() == 4 && x.is_cpu() && weight.is_cpu() && weight.scalar_type() == at::kFloat &&
         (x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16) && x.size(1) == weight.numel() &&
         x.size(1) > 0 && x.numel() > x.size(1) && at::GradMode::is_enabled() &&
         (x.requires_grad() || weight.requires_grad());
}

/// Normalises (N, C, H, W), float32 or bfloat16, by its own statistics, which move the running ones as PyTorch's do,
/// and applies the activation; to the same type, channels last. Gradients pass once. The same bytes for every number of
/// threads.
inline Tensor batch_norm_in_training(const Tensor& x, const Tensor& weight, const Tensor& bias,
                                     const Tensor& running_mean, const Tensor& running_var,
                                     const NormNumbers& numbers) {
  return BatchNormFunction::apply(x, weight, bias, running_mean, running_var, numbers);
}

}  // namespace transferlib::detail

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

/// The part of the rows that one item is.
inline NormRows rows_of(const NormRows& all, Index item) {
  return {std::min(all.item(), all.rows - item * all.item()), all.channels};
}

/// Calls `kernel(rows, offset, item, scratch)` for every item, on all threads; see `with_scratch`.
template <class Kernel>
void for_each_item(const NormRows& n, const Kernel& kernel, bool backwards = false) {
  with_scratch(
      n.items(), n.scratch(),
      [&](Index item, float* scratch) { kernel(rows_of(n, item), item * n.item() * n.channels, item, scratch); },
      backwards);
}

/// Sums of two numbers a channel over all items, in the items' order: (2; channels).
template <class Kernel>
std::vector<double> sums_of_items(const NormRows& n, const Kernel& kernel) {
  const auto width = static_cast<std::size_t>(2 * n.channels);
  std::vector<float> parts(static_cast<std::size_t>(n.items()) * width);
  for_each_item(n, [&](const NormRows& rows, Index offset, Index item, float* scratch) {
    kernel(rows, offset, parts.data() + static_cast<std::size_t>(item) * width, scratch);
  });
  std::vector<double> out(width);
  for (auto part = parts.begin(); part != parts.end();)
    for (double& sum : out) sum += static_cast<double>(*part++);
  return out;
}

template <class T>
Tensor batch_norm_forward(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& running_mean,
                          const Tensor& running_var, const NormNumbers& o, Tensor& numbers) {
  const NormRows n{x.numel() / x.size(1), x.size(1)};
  const T* from = elements<T>(x);
  // Sums of squares lose digits where the mean is far from 0: they are taken around that of the first places, and once
  // more around the true one where the first places lie far off.
  const NormRows few{std::min<Index>(n.rows, 16), n.channels};
  const Tensor zero = at::empty({n.channels + few.scratch()}, at::TensorOptions(at::kFloat));
  auto* around = zero.mutable_data_ptr<float>();
  kernels_of<T>().row_sums(few, from, around, around + n.channels);
  for (Index c = 0; c < n.channels; ++c) around[c] /= static_cast<float>(few.rows);
  const auto count = static_cast<double>(n.rows);
  std::vector<double> sums;
  for (bool again = false;; again = true) {
    sums = sums_of_items(n, [&](const NormRows& rows, Index offset, float* out, float* scratch) {
      kernels_of<T>().norm_sums(rows, from + offset, around, out, scratch);
    });
    bool far = false;
    const auto off = [&](Index c) { return sums[static_cast<std::size_t>(c)] / count; };
    for (Index c = 0; c < n.channels; ++c)
      far = far || 1.25 * off(c) * off(c) > sums[static_cast<std::size_t>(c + n.channels)] / count;
    if (again || !far) break;
    for (Index c = 0; c < n.channels; ++c) around[c] = static_cast<float>(static_cast<double>(around[c]) + off(c));
  }
  // Rows: scale, shift, mean, the reciprocal deviation.
  numbers = at::empty({4, n.channels}, at::TensorOptions(at::kFloat));
  auto* row = numbers.mutable_data_ptr<float>();
  const auto *w = weight.const_data_ptr<float>(), *b = bias.const_data_ptr<float>();
  auto *mean = running_mean.mutable_data_ptr<float>(), *variance = running_var.mutable_data_ptr<float>();
  const auto moved = [&](float old, double now) {
    return static_cast<float>((1.0 - o.momentum) * static_cast<double>(old) + o.momentum * now);
  };
  for (Index c = 0; c < n.channels; ++c) {
    const auto i = static_cast<std::size_t>(c);
    const double off = sums[i] / count, own = static_cast<double>(around[c]) + off;
    const double spread = std::max(0.0, sums[i + static_cast<std::size_t>(n.channels)] / count - off * off);
    const double reciprocal = 1.0 / std::sqrt(spread + o.epsilon), scale = static_cast<double>(w[c]) * reciprocal;
    row[c] = static_cast<float>(scale);
    row[n.channels + c] = static_cast<float>(static_cast<double>(b[c]) - own * scale);
    row[2 * n.channels + c] = static_cast<float>(own);
    row[3 * n.channels + c] = static_cast<float>(reciprocal);
    mean[c] = moved(mean[c], own);
    variance[c] = moved(variance[c], spread * count / (count - 1.0));
  }
  Tensor out = at::empty_like(x);
  for_each_item(
      n,
      [&](const NormRows& rows, Index offset, Index, float* scratch) {
        kernels_of<T>().norm_forward(rows, from + offset, row, o.activation, elements<T>(out) + offset, scratch);
      },
      true);
  return out;
}

template <class T>
torch::autograd::variable_list batch_norm_backward(const Tensor& x, const Tensor& gradient, const Tensor& weight,
                                                   const Tensor& numbers, Bent activation, bool to_input) {
  const NormRows n{x.numel() / x.size(1), x.size(1)};
  const T *from = elements<T>(x), *g = elements<T>(gradient);
  const auto* row = numbers.const_data_ptr<float>();
  const auto sums = sums_of_items(n, [&](const NormRows& rows, Index offset, float* out, float* scratch) {
    kernels_of<T>().norm_gradient_sums(rows, from + offset, g + offset, row, activation, out, scratch);
  });
  Tensor to_weight = at::empty_like(weight), to_bias = at::empty_like(weight);
  // Rows: scale, shift, mean; what the gradient is multiplied by, its mean, and its part along x.
  Tensor parts = at::empty({6, n.channels}, at::TensorOptions(at::kFloat));
  auto *p = parts.mutable_data_ptr<float>(), *w = to_weight.mutable_data_ptr<float>(),
       *b = to_bias.mutable_data_ptr<float>();
  std::copy_n(row, 3 * n.channels, p);
  for (Index c = 0; c < n.channels; ++c) {
    const double sum = sums[static_cast<std::size_t>(c)], product = sums[static_cast<std::size_t>(c + n.channels)];
    const auto reciprocal = static_cast<double>(row[3 * n.channels + c]), count = static_cast<double>(n.rows);
    w[c] = static_cast<float>(reciprocal * product);
    b[c] = static_cast<float>(sum);
    p[3 * n.channels + c] = row[c];
    p[4 * n.channels + c] = static_cast<float>(sum / count);
    p[5 * n.channels + c] = static_cast<float>(reciprocal * reciprocal * product / count);
  }
  Tensor out;
  if (to_input) {
    out = at::empty_like(x);
    for_each_item(
        n,
        [&](const NormRows& rows, Index offset, Index, float* scratch) {
          kernels_of<T>().norm_to_input(rows, from + offset, g + offset, p, activation, elements<T>(out) + offset,
                                        scratch);
        },
        true);
  }
  return {out, to_weight, to_bias, Tensor(), Tensor(), Tensor()};
}

TRANSFERLIB_API Tensor BatchNormFunction::forward(torch::autograd::AutogradContext* ctx, const Tensor& x,
                                                  const Tensor& weight, const Tensor& bias, const Tensor& running_mean,
                                                  const Tensor& running_var, const NormNumbers& o) {
  const Tensor in = x.contiguous(at::MemoryFormat::ChannelsLast);
  Tensor numbers;
  Tensor out = x.scalar_type() == at::kFloat
                   ? batch_norm_forward<float>(in, weight, bias, running_mean, running_var, o, numbers)
                   : batch_norm_forward<std::uint16_t>(in, weight, bias, running_mean, running_var, o, numbers);
  ctx->save_for_backward({in, weight, numbers});
  ctx->saved_data["slope"] = static_cast<double>(o.activation.slope);
  ctx->saved_data["top"] = static_cast<double>(o.activation.top);
  ctx->saved_data["curve"] = static_cast<std::int64_t>(o.activation.curve);
  return out;
}

TRANSFERLIB_API torch::autograd::variable_list BatchNormFunction::backward(
    torch::autograd::AutogradContext* ctx, const torch::autograd::variable_list& gradients) {
  const auto saved = ctx->get_saved_variables();
  const Tensor &x = saved[0], &weight = saved[1], &numbers = saved[2];
  const Tensor g = gradient_once(gradients[0], x.scalar_type(), "a batch norm in training", "freeze it");
  const Bent activation{static_cast<float>(ctx->saved_data["slope"].toDouble()),
                        static_cast<float>(ctx->saved_data["top"].toDouble()),
                        static_cast<Activation>(ctx->saved_data["curve"].toInt())};
  const bool to_input = ctx->needs_input_grad(0);
  return x.scalar_type() == at::kFloat
             ? batch_norm_backward<float>(x, g, weight, numbers, activation, to_input)
             : batch_norm_backward<std::uint16_t>(x, g, weight, numbers, activation, to_input);
}

}  // namespace transferlib::detail

#endif  // TRANSFERLIB_DEFINES

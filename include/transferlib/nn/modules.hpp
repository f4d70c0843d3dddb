/// \file
/// The layers that networks are built of: parameters under the names that Python gives them, and one `forward` that is
/// told whether it trains, so that a frozen layer is in evaluation whatever mode its neighbours are in.
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <string_view>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/autocast_mode.h>
#include <torch/nn/module.h>

#include <transferlib/core/error.hpp>
#include <transferlib/core/random.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/nn/activation.hpp>
#include <transferlib/nn/batch_norm.hpp>
#include <transferlib/nn/depthwise.hpp>
#include <transferlib/nn/gate.hpp>
#include <transferlib/nn/squeeze_excitation.hpp>

namespace transferlib {

namespace detail {

/// The mean over all places of a map, (N, C, h, w) to (N, C), or with `keep` to (N, C, 1, 1).
TRANSFERLIB_API Tensor mean_of_places(const Tensor& x, bool keep, std::optional<at::ScalarType> type = std::nullopt);

/// An activation as the kernels of norms in training take it; nothing where they have no word for it.
TRANSFERLIB_API std::optional<Bent> as_bent(Activation activation);

/// Where this thread makes the weights of networks: on "meta" they have shapes and no memory; see `ShapesOnly`.
inline at::DeviceType& weights_device() {
  thread_local at::DeviceType device = at::kCPU;
  return device;
}

/// Weights before they are read or drawn.
inline Tensor zeros(at::IntArrayRef shape) { return at::zeros(shape, at::TensorOptions(weights_device())); }

/// While it lives, networks that this thread makes are not to run: they cost next to nothing, and have a layer table.
struct ShapesOnly {
  ShapesOnly() { weights_device() = at::kMeta; }
  ShapesOnly(const ShapesOnly&) = delete;
  ~ShapesOnly() { weights_device() = at::kCPU; }
};

}  // namespace detail

/// Layers as modules. Made with zeros for weights: they are read from a file, or drawn by `Plan::initialise`.
namespace nn {

/// The zeros to put before and after a side of `input` pixels, so that the output has ceil(input / stride) places:
/// TensorFlow's "same" padding, which puts the odd one last.
struct SamePadding {
  Index before = 0, after = 0;
  explicit SamePadding(Index both) : before(both), after(both) {}
  SamePadding(Index input, Index kernel, Index stride, Index dilation) {
    const Index output = (input + stride - 1) / stride;
    const Index total = std::max<Index>((output - 1) * stride + (kernel - 1) * dilation + 1 - input, 0);
    before = total / 2;
    after = total - before;
  }
};

/// A two-dimensional convolution's numbers.
struct Conv2dOptions {
  Index in = 0;      ///< input channels
  Index out = 0;     ///< output channels
  Index kernel = 1;  ///< side of the kernel
  Index stride = 1;
  Index padding = 0;  ///< zeros on each side; not read where `same` is true
  bool same = false;  ///< TensorFlow's "same" padding
  Index dilation = 1;
  Index groups = 1;
  bool bias = false;

  /// Whether it is a linear layer at each place.
  bool is_pointwise() const { return kernel == 1 && stride == 1 && groups == 1 && padding == 0; }
};

/// `torch.nn.Conv2d`: parameters `weight` (out, in / groups, kernel, kernel) and, if asked for, `bias` (out).
class Conv2d : public Module {
 public:
  explicit Conv2d(const Conv2dOptions& o) : Module("Conv2d"), options(o) {
    weight = register_parameter("weight", detail::zeros({o.out, o.in / o.groups, o.kernel, o.kernel}));
    if (o.bias) bias = register_parameter("bias", detail::zeros({o.out}));
  }

  /// (N, in, H, W) to (N, out, H', W').
  Tensor forward(const Tensor& x) const { return forward(x, weight, bias); }

  /// The same with another kernel and bias of these shapes: with a batch norm folded in, say.
  Tensor forward(const Tensor& x, const Tensor& kernel, const Tensor& shift) const;

  Conv2dOptions options;
  Tensor weight, bias;

 private:
  Tensor convolve(const Tensor& x, const Tensor& kernel, const Tensor& shift, Index pad_h, Index pad_w) const;
};

/// `torch.nn.BatchNorm2d`: parameters `weight`, `bias`, buffers `running_mean`, `running_var`, `num_batches_tracked`.
class BatchNorm2d : public Module {
 public:
  /// \param channels how many, \param e epsilon inside the root, \param m the part of a new batch in the running
  /// statistics (PyTorch's convention: Keras's and TensorFlow's momentum is 1 - m).
  explicit BatchNorm2d(Index channels, double e = 1e-5, double m = 0.1);

  /// Normalises (N, channels, …): by the batch's own statistics where `training`, which then move the running ones;
  /// by the running ones, untouched, where not. Then applies the activation.
  Tensor forward(const Tensor& x, bool training, Activation activation = Activation::identity);

  /// The convolution and behind it this norm in evaluation, as one convolution: a pass over the map less, and one map
  /// less to keep for the gradient. The gradient reaches the convolution's own weight.
  Tensor folded_into(const Conv2d& convolution, const Tensor& x) const;

  double epsilon, momentum;
  Tensor weight, bias, running_mean, running_var, batches;
};

/// `torch.nn.Linear`: parameters `weight` (out, in) and, unless told not to, `bias` (out); names may have a prefix.
class Linear : public Module {
 public:
  Linear(Index in, Index out, bool with_bias = true, const std::string& prefix = "") : Module("Linear") {
    weight = register_parameter(prefix + "weight", detail::zeros({out, in}));
    if (with_bias) bias = register_parameter(prefix + "bias", detail::zeros({out}));
  }

  /// (…, in) to (…, out), in the precision of `x`.
  Tensor forward(const Tensor& x) const {
    const auto type = x.scalar_type();
    return at::linear(x, weight.to(type), bias.defined() ? bias.to(type) : bias);
  }

  Tensor weight, bias;
};

/// `torch.nn.LayerNorm` over the last dimension: parameters `weight` and `bias` (width).
class LayerNorm : public Module {
 public:
  LayerNorm(Index width, double e) : Module("LayerNorm"), epsilon(e) {
    weight = register_parameter("weight", at::ones({width}));
    bias = register_parameter("bias", detail::zeros({width}));
  }

  /// (…, width) to the same shape, in the precision of `x`.
  Tensor forward(const Tensor& x) const {
    const auto type = x.scalar_type();
    return at::layer_norm(x, weight.sizes(), weight.to(type), bias.to(type), epsilon);
  }

  double epsilon;
  Tensor weight, bias;
};

/// A parameter that is no layer's; see `Plan::declare_parameter`.
class Parameter : public Module {
 public:
  explicit Parameter(const Tensor& start, const std::string& name = "value")
      : Module("Parameter"), value(register_parameter(name, start)) {}
  Tensor value;
};

/// A pooling window's numbers.
struct PoolOptions {
  Index kernel = 2, stride = 2;
  Index padding = 0;  ///< on each side; of the mean, padding counts as zeros
  bool ceil = false;  ///< a window that reaches beyond the map's end counts too
};

}  // namespace nn

namespace detail {

/// A generator of LibTorch's whose numbers depend on its arguments alone.
inline at::Generator generator(std::uint64_t seed, std::uint64_t first, std::uint64_t second) {
  const auto mixed = philox(seed, first, second);
  return at::detail::createCPUGenerator((static_cast<std::uint64_t>(mixed[1]) << 32) | mixed[0]);
}

/// Dropout whose mask is drawn from (pass, which layer) alone: of each value, or of whole pictures.
TRANSFERLIB_API Tensor dropout(const Tensor& x, double probability, const Pass& pass, Index which, bool whole = false);

/// A standard normal or uniform start for `weight`, as `torch.nn.init` computes it, drawn from (seed, number) alone.
inline void kaiming_uniform(Tensor& weight, std::uint64_t seed, std::uint64_t number) {
  const torch::NoGradGuard guard;
  const double bound = 1.0 / std::sqrt(static_cast<double>(weight[0].numel()));
  weight.copy_(at::empty(weight.sizes(), at::kFloat)
                   .uniform_(-bound, bound, generator(seed, number, static_cast<std::uint64_t>(Purpose::initialise))));
}

/// A network's start; see `Plan::initialise`.
TRANSFERLIB_API void draw_start(Tensor& weight, std::uint64_t seed, std::uint64_t number);

/// The start of a bias behind `fan_in` inputs, as `torch.nn.Linear` draws it.
inline void uniform_bias(Tensor& bias, Index fan_in, std::uint64_t seed, std::uint64_t number) {
  const torch::NoGradGuard guard;
  const double bound = 1.0 / std::sqrt(static_cast<double>(fan_in));
  bias.copy_(at::empty(bias.sizes(), at::kFloat)
                 .uniform_(-bound, bound, generator(seed, number, static_cast<std::uint64_t>(Purpose::initialise))));
}

}  // namespace detail
}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API std::optional<Bent> as_bent(Activation activation) {
  switch (activation) {
    case Activation::identity:
      return Bent{};
    case Activation::relu:
      return Bent{.slope = 0.0F};
    case Activation::relu6:
      return Bent{.slope = 0.0F, .top = 6.0F};
    case Activation::leaky_relu:
      return Bent{.slope = 0.1F};
    case Activation::hardswish:
    case Activation::silu:
    case Activation::mish:
      return Bent{.curve = activation};
    default:
      return std::nullopt;
  }
}

TRANSFERLIB_API Tensor mean_of_places(const Tensor& x, bool keep, std::optional<at::ScalarType> type) {
  const bool learns = at::GradMode::is_enabled() && x.requires_grad();
  // LibTorch's mean of bfloat16 does not vectorise, and its gradient is not channels last.
  if (!is_kernels_map(x) || (!learns && x.scalar_type() == at::kFloat)) return at::mean(x, {2, 3}, keep, type);
  const Tensor y = (learns ? means_in_training(x) : means_of(x)).to(type.value_or(x.scalar_type()));
  return keep ? y.unflatten(1, {y.size(1), 1, 1}) : y;
}

}  // namespace transferlib::detail

namespace transferlib::nn {

TRANSFERLIB_API Tensor Conv2d::forward(const Tensor& x, const Tensor& kernel, const Tensor& shift) const {
  const Conv2dOptions& o = options;
  SamePadding h{o.padding}, w{o.padding};
  if (o.same) {
    h = {x.size(-2), o.kernel, o.stride, o.dilation};
    w = {x.size(-1), o.kernel, o.stride, o.dilation};
  }
  if (o.groups == o.in && o.in == o.out && detail::depthwise_applies(x, kernel, o.kernel)) {
    const bool automatic = at::autocast::is_autocast_enabled(at::kCPU);
    const auto type = automatic ? at::autocast::get_autocast_dtype(at::kCPU) : x.scalar_type();
    const Index reach = (o.kernel - 1) * o.dilation, height = x.size(2) + h.before + h.after - reach,
                width = x.size(3) + w.before + w.after - reach;
    if ((type == at::kFloat || type == at::kBFloat16) && height > 0 && width > 0 && x.size(1) == o.in)
      return detail::depthwise(x.to(type), kernel, shift, (height - 1) / o.stride + 1, (width - 1) / o.stride + 1,
                               o.stride, o.dilation, h.before, w.before);
  }
  if (h.before == h.after && w.before == w.after) return convolve(x, kernel, shift, h.before, w.before);
  return convolve(at::constant_pad_nd(x, {w.before, w.after, h.before, h.after}), kernel, shift, 0, 0);
}

TRANSFERLIB_API Tensor Conv2d::convolve(const Tensor& x, const Tensor& kernel, const Tensor& shift, Index pad_h,
                                        Index pad_w) const {
  const Conv2dOptions& o = options;
  const auto call = [&](const Tensor& input) {
    return at::conv2d(input, kernel, shift, {o.stride, o.stride}, {pad_h, pad_w}, {o.dilation, o.dilation}, o.groups);
  };
  if (o.groups != o.in || o.groups == 1 || !x.is_cpu() || !at::autocast::is_autocast_enabled(at::kCPU) ||
      !at::GradMode::is_enabled())
    return call(x);
  // oneDNN's gradient of a depthwise convolution is four times slower in bf16 than in fp32.
  const c10::impl::ExcludeDispatchKeyGuard plain(c10::DispatchKey::AutocastCPU);
  return call(x.to(at::kFloat)).to(at::autocast::get_autocast_dtype(at::kCPU));
}

TRANSFERLIB_API BatchNorm2d::BatchNorm2d(Index channels, double e, double m)
    : Module("BatchNorm2d"), epsilon(e), momentum(m) {
  weight = register_parameter("weight", at::ones({channels}));
  bias = register_parameter("bias", detail::zeros({channels}));
  running_mean = register_buffer("running_mean", detail::zeros({channels}));
  running_var = register_buffer("running_var", at::ones({channels}));
  batches = register_buffer("num_batches_tracked", at::zeros({}, at::kLong));
}

TRANSFERLIB_API Tensor BatchNorm2d::forward(const Tensor& x, bool training, Activation activation) {
  if (training) batches.add_(1);
  if (!training || !detail::batch_norm_applies(x, weight))
    return activate(at::batch_norm(x, weight, bias, running_mean, running_var, training, momentum, epsilon, true),
                    activation);
  const auto bent = detail::as_bent(activation);
  const detail::NormNumbers numbers{momentum, epsilon, bent.value_or(detail::Bent{})};
  const Tensor y = detail::batch_norm_in_training(x, weight, bias, running_mean, running_var, numbers);
  return bent ? y : activate(y, activation);
}

TRANSFERLIB_API Tensor BatchNorm2d::folded_into(const Conv2d& convolution, const Tensor& x) const {
  Tensor scale, shift;
  {
    const torch::NoGradGuard guard;
    scale = weight * (running_var + epsilon).rsqrt();
    shift = bias - running_mean * scale;
  }
  if (convolution.bias.defined()) shift = shift + convolution.bias * scale;
  return convolution.forward(x, convolution.weight * scale.view({-1, 1, 1, 1}), shift);
}

}  // namespace transferlib::nn

namespace transferlib::detail {

TRANSFERLIB_API Tensor dropout(const Tensor& x, double probability, const Pass& pass, Index which, bool whole) {
  if (!pass.training || probability <= 0.0) return x;
  auto draw = generator(pass.seed, static_cast<std::uint64_t>(pass.number),
                        (static_cast<std::uint64_t>(which) << 8) | static_cast<std::uint64_t>(Purpose::dropout));
  std::vector<Index> shape = x.sizes().vec();
  if (whole) std::fill(shape.begin() + 1, shape.end(), 1);
  const Tensor mask = at::empty(shape, at::TensorOptions(at::kFloat)).bernoulli_(1.0 - probability, draw);
  return x * mask.to(x.options()).div_(1.0 - probability);
}

TRANSFERLIB_API void draw_start(Tensor& weight, std::uint64_t seed, std::uint64_t number) {
  const torch::NoGradGuard guard;
  const bool kernel = weight.dim() == 4;
  const double deviation = kernel ? std::sqrt(2.0 / static_cast<double>(weight[0].numel())) : 0.02;
  Tensor drawn = at::empty(weight.sizes(), at::kFloat)
                     .normal_(0.0, deviation, generator(seed, number, static_cast<std::uint64_t>(Purpose::initialise)));
  if (!kernel) drawn.clamp_(-2.0 * deviation, 2.0 * deviation);
  weight.copy_(drawn);
}

}  // namespace transferlib::detail

#endif  // TRANSFERLIB_DEFINES

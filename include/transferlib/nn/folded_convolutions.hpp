/// \file
/// Convolutions in inference in bfloat16 on the CPU that a convolution library is slow at: depthwise ones, and a
/// network's first one, of a picture of three channels. Batch norms are folded and activations included. For processors
/// that multiply and sum up two numbers by one instruction, and no more than that.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>

#include <ATen/Parallel.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <transferlib/core/error.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/nn/modules.hpp>
#include <transferlib/nn/simd.hpp>

namespace transferlib::detail {

/// Maps (N, C, H, W) to (N, C, H', W'), bfloat16, channels last. A picture's values depend neither on the others nor on
/// the number of threads.
class FoldedDepthwiseLayer {
 public:
  /// Whether there is a kernel for such a convolution here.
  static bool applies(const nn::Conv2dOptions& o, Activation activation, at::ScalarType type) {
    return type == at::kBFloat16 && o.groups == o.in && o.in == o.out && o.dilation == 1 &&
           (o.kernel == 3 || o.kernel == 5 || o.kernel == 7) && (o.stride == 1 || o.stride == 2) &&
           kernels_know(activation) && kernels().bf16.folded_depthwise != nullptr;
  }

  /// \param weight (C, 1, k, k), rounded to bfloat16 \param bias (C), or undefined
  /// \param lanes channels that the kernel has in a vector: 32 if it stands by itself
  FoldedDepthwiseLayer(const Tensor& weight, const Tensor& bias, const nn::Conv2dOptions& options,
                       Activation activation, Index lanes = FoldedDepthwise::block);

  Tensor operator()(const Tensor& maps) const;

  /// Its numbers for maps of such a size.
  FoldedDepthwise numbers(Index images, Index height, Index width) const;

  const std::uint16_t* weight() const { return elements<std::uint16_t>(weight_); }
  const float* start() const { return start_.const_data_ptr<float>(); }
  Index bytes() const { return static_cast<Index>(weight_.nbytes() + start_.nbytes()); }

 private:
  Tensor weight_, start_;  ///< as the kernel has them
  nn::Conv2dOptions options_;
  Activation activation_;
};

/// A first convolution, and a depthwise one behind it whose input nobody else needs, which never leaves the cache then.
/// Pictures (N, C, H, W) to maps, as `FoldedDepthwiseLayer`.
class FoldedFirstLayer {
 public:
  static bool applies(const nn::Conv2dOptions& o, Activation activation, at::ScalarType type) {
    return type == at::kBFloat16 && o.groups == 1 && o.in <= FoldedFirst::most && o.dilation == 1 &&
           o.kernel <= FoldedFirst::largest && o.stride <= FoldedFirst::most && kernels_know(activation) &&
           kernels().bf16.folded_first != nullptr;
  }
  /// Whether a depthwise convolution can be taken along.
  static bool takes(const nn::Conv2dOptions& o, Activation activation) {
    return o.kernel == 3 && FoldedDepthwiseLayer::applies(o, activation, at::kBFloat16);
  }

  /// \param weight (O, C, k, k), rounded to bfloat16 \param bias (O), or undefined
  FoldedFirstLayer(const Tensor& weight, const Tensor& bias, const nn::Conv2dOptions& options, Activation activation);

  /// Takes a depthwise convolution along.
  void follow(const Tensor& weight, const Tensor& bias, const nn::Conv2dOptions& options, Activation activation) {
    then_.emplace(weight, bias, options, activation, FoldedFirst::block);
  }

  Tensor operator()(const Tensor& pictures) const;

  Index bytes() const { return static_cast<Index>(weight_.nbytes() + start_.nbytes()) + (then_ ? then_->bytes() : 0); }

 private:
  Tensor weight_, start_;  ///< as the kernel has them
  nn::Conv2dOptions options_;
  Activation activation_;
  std::optional<FoldedDepthwiseLayer> then_;
};

}  // namespace transferlib::detail

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

/// Zeros around a side, and the places that a convolution makes of it. \throws DataError if there are none
struct FoldedSide {
  nn::SamePadding padding;
  Index out;

  FoldedSide(const nn::Conv2dOptions& o, Index side)
      : padding(o.same ? nn::SamePadding(side, o.kernel, o.stride, o.dilation) : nn::SamePadding(o.padding)),
        out((side + padding.before + padding.after - o.kernel) / o.stride + 1) {
    if (side + padding.before + padding.after < o.kernel)
      throw DataError(text("a map of ", side, " places a side is too small for a convolution of ", o.kernel,
                           "; show the network larger pictures"));
  }
};

/// Channels' numbers, zeros up to whole blocks.
inline Tensor padded_start(const Tensor& bias, Index channels, Index block) {
  const Tensor out = at::zeros({whole(channels, block)}, at::TensorOptions(at::kFloat));
  if (bias.defined()) out.narrow(0, 0, channels).copy_(bias);
  return out;
}

/// So many bands of rows that all threads have something to do, if there are so many items without.
inline Index bands_for(Index items, Index rows) {
  const Index wanted = 2 * at::get_num_threads(), have = std::max<Index>(1, items);
  return std::clamp<Index>((wanted + have - 1) / have, 1, std::max<Index>(1, rows));
}

TRANSFERLIB_API FoldedDepthwiseLayer::FoldedDepthwiseLayer(const Tensor& weight, const Tensor& bias,
                                                           const nn::Conv2dOptions& options, Activation activation,
                                                           Index lanes)
    : options_(options), activation_(activation) {
  const Index kernel = options.kernel, channels = options.out;
  // Where the kernel begins in the lower row of a pair, its first pair has a row of zeros above; else the last below.
  const Tensor taps = at::zeros({2, kernel + 1, kernel, whole(channels, lanes)}, weight.options());
  for (const Index odd : {0, 1})
    taps[odd].narrow(0, odd, kernel).narrow(2, 0, channels).copy_(weight.squeeze(1).permute({1, 2, 0}));
  start_ = padded_start(bias, channels, lanes);
  if (lanes == FoldedDepthwise::block) {
    // Channels as (block, lane of four pairs, half, pair).
    weight_ = taps.view({2, (kernel + 1) / 2, 2, kernel, -1, 4, 2, 4}).permute({4, 0, 1, 3, 6, 5, 7, 2});
    start_ = start_.view({-1, 4, 2, 4}).transpose(1, 2).contiguous();
  } else {
    weight_ = taps.view({2, (kernel + 1) / 2, 2, kernel, -1, lanes}).permute({4, 0, 1, 3, 5, 2});
  }
  weight_ = weight_.to(at::kBFloat16).contiguous();
}

TRANSFERLIB_API FoldedDepthwise FoldedDepthwiseLayer::numbers(Index images, Index height, Index width) const {
  const FoldedSide v(options_, height), h(options_, width);
  return {images,           height,           width,      options_.out, v.out, h.out, options_.kernel, options_.stride,
          v.padding.before, h.padding.before, activation_};
}

TRANSFERLIB_API Tensor FoldedDepthwiseLayer::operator()(const Tensor& maps) const {
  const Tensor x = maps.to(at::kBFloat16).contiguous(at::MemoryFormat::ChannelsLast);
  FoldedDepthwise d = numbers(x.size(0), x.size(2), x.size(3));
  Tensor out =
      at::empty({d.images, d.channels, d.out_height, d.out_width}, x.options(), at::MemoryFormat::ChannelsLast);
  // Neighbouring channels together, so that memory is read along, as long as their rows stay in the cache.
  d.group = std::clamp<Index>(Index{96} * 1024 / (4 * d.scratch()), 1, std::max<Index>(1, d.blocks()));
  d.bands = bands_for(d.images * d.groups(), d.out_height);
  with_scratch(d.items(), d.group * d.scratch(), [&](Index item, float* scratch) {
    kernels().bf16.folded_depthwise(d, elements<std::uint16_t>(x), weight(), start(), elements<std::uint16_t>(out),
                                    item, scratch);
  });
  return out;
}

TRANSFERLIB_API FoldedFirstLayer::FoldedFirstLayer(const Tensor& weight, const Tensor& bias,
                                                   const nn::Conv2dOptions& options, Activation activation)
    : options_(options), activation_(activation) {
  const Index k = options.kernel, channels = whole(options.out, FoldedFirst::block), row = k * options.in;
  // What lies in a row of the kernel, in pairs.
  const Tensor rows = weight.permute({0, 2, 3, 1}).reshape({options.out, k, row});
  weight_ = at::constant_pad_nd(rows, {0, row % 2, 0, 0, 0, channels - options.out})
                .view({-1, FoldedFirst::block, k, (row + 1) / 2, 2})
                .permute({0, 2, 3, 1, 4})
                .to(at::kBFloat16)
                .contiguous();
  start_ = padded_start(bias, options.out, FoldedFirst::block);
}

TRANSFERLIB_API Tensor FoldedFirstLayer::operator()(const Tensor& pictures) const {
  const Tensor x = pictures.to(at::kBFloat16).contiguous(at::MemoryFormat::ChannelsLast);
  const FoldedSide v(options_, x.size(2)), h(options_, x.size(3));
  FoldedFirst d{x.size(0),       x.size(2),       x.size(3),        x.size(1),        v.out,       h.out,
                options_.kernel, options_.stride, v.padding.before, h.padding.before, activation_, {}};
  d.then = then_ ? then_->numbers(d.images, d.out_height, d.out_width)
                 : FoldedDepthwise{d.images, 0, 0, options_.out, d.out_height, d.out_width, 0, 1, 0, 0, activation_};
  d.then.bands = bands_for(d.images, d.then.out_height);
  Tensor out = at::empty({d.images, options_.out, d.then.out_height, d.then.out_width}, x.options(),
                         at::MemoryFormat::ChannelsLast);
  with_scratch(d.items(), d.scratch(), [&](Index item, float* scratch) {
    kernels().bf16.folded_first(d, elements<std::uint16_t>(x), elements<std::uint16_t>(weight_),
                                start_.const_data_ptr<float>(), then_ ? then_->weight() : nullptr,
                                then_ ? then_->start() : nullptr, elements<std::uint16_t>(out), item, scratch);
  });
  return out;
}

}  // namespace transferlib::detail

#endif  // TRANSFERLIB_DEFINES

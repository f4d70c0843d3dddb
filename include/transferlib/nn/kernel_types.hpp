/// \file
/// What the kernels of kernels.hpp are told, whatever instruction set they are made for.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include <transferlib/core/layers.hpp>

namespace transferlib::detail {

/// The next multiple of `unit`.
constexpr Index whole(Index n, Index unit) { return (n + unit - 1) / unit * unit; }

/// A depthwise convolution's numbers, and how its work is cut: the cut depends on nothing but the shapes, so that every
/// number of threads gives the same bytes.
struct Depthwise {
  static constexpr Index largest = 7;  ///< side of a kernel
  static constexpr Index block = 64;   ///< channels at a time
  static constexpr Index rows = 64;    ///< of outputs at a time, at most
  Index images, height, width, channels, out_height, out_width, kernel, stride, dilation, top, left;

  Index blocks() const { return (channels + block - 1) / block; }
  Index padded_channels() const { return blocks() * block; }
  /// The rows, or columns, from the first to the last that an output place sees.
  Index reach() const { return (kernel - 1) * dilation + 1; }
  Index padded_width() const { return (out_width - 1) * stride + reach(); }
  /// Columns of zeros before a row of outputs' gradients.
  Index columns_before() const { return std::max<Index>(0, (reach() - 1 - left + stride - 1) / stride); }
  Index gradient_width() const { return columns_before() + std::max(out_width, (width - 1 + left) / stride + 1); }
  Index gradient_ring() const { return (reach() - 1) / stride + 1; }
  /// Rows of outputs that the weights' gradient takes at once, so that they and their inputs stay in the cache.
  Index band() const {
    return std::clamp<Index>(49152 / (block * (padded_width() * stride + out_width)), 1, std::min(rows, out_height));
  }
  /// The pictures' shares, each with a sum of its own.
  Index shares() const { return std::min<Index>(images, 16); }
  Index share_begin(Index share) const { return images * share / shares(); }
  /// Floats that a kernel wants for itself.
  Index scratch() const {
    const Index forward = reach() * padded_width() + out_width, to_input = gradient_ring() * gradient_width() + width;
    const Index to_weight =
        kernel * kernel + 1 + ((band() - 1) * stride + reach()) * padded_width() + band() * out_width;
    return block * std::max({forward, to_input, to_weight});
  }
};

/// Rows of channels that a batch norm in training works on: places of a map whose channels lie together. An item of
/// work is cut by nothing but the shape.
struct NormRows {
  Index rows, channels;

  /// Rows of an item: whole vectors of every width, and few enough for a cache.
  Index item() const { return whole(std::max<Index>(1, 65536 / channels), 16); }
  Index items() const { return (rows + item() - 1) / item(); }
  /// Floats that a kernel wants for itself.
  Index scratch() const { return 16 * channels * 7; }
};

/// An activation of straight lines: `slope` times what is below 0, and no more than `top`.
struct Bent {
  float slope = 1.0F, top = std::numeric_limits<float>::infinity();
};

/// The kernels of one instruction set for one type in memory. Those of norms take so many rows and what each channel is
/// multiplied by and added to: (k; channels).
template <class T>
struct KernelsOf {
  void (*depthwise_forward)(const Depthwise&, const T*, const float*, const float*, T*, Index, float*);
  void (*depthwise_to_input)(const Depthwise&, const T*, const float*, const float*, T*, Index, float*);
  void (*depthwise_to_weight)(const Depthwise&, const T*, const T*, float*, Index, float*);
  void (*norm_sums)(const NormRows&, const T*, const float*, float*, float*);
  void (*norm_forward)(const NormRows&, const T*, const float*, Bent, T*, float*);
  void (*norm_gradient_sums)(const NormRows&, const T*, const T*, const float*, Bent, float*, float*);
  void (*norm_to_input)(const NormRows&, const T*, const T*, const float*, Bent, T*, float*);
  void (*row_sums)(const NormRows&, const T*, float*, float*);
  void (*scale_rows)(const NormRows&, const float*, T*, float*);
  void (*dense)(const T*, const float*, const float*, Index, Index, Index, Activation, float*);
};
struct Kernels {
  KernelsOf<float> fp32;
  KernelsOf<std::uint16_t> bf16;
};

}  // namespace transferlib::detail

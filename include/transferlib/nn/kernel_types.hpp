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

/// A depthwise convolution in inference, its batch norm folded and its activation behind it. Its work is cut into
/// groups of blocks of channels of a picture, and those into bands of rows.
struct FoldedDepthwise {
  static constexpr Index block = 32;      ///< channels at a time
  static constexpr Index neighbours = 8;  ///< of an output row at a time, at most
  Index images, height, width, channels, out_height, out_width, kernel, stride, top, left;
  Activation activation;
  Index group = 1, bands = 1;

  Index blocks() const { return (channels + block - 1) / block; }
  Index groups() const { return (blocks() + group - 1) / group; }
  Index items() const { return images * groups() * bands; }
  /// Two rows of the map lie together; so many of these an output row sees at most, wherever it begins.
  Index pairs() const { return (kernel + 1) / 2; }
  /// Places of a row with the zeros around it, as far as whole sets of neighbours look.
  Index columns() const { return (out_width + neighbours) * stride + kernel; }
  /// Floats that the kernel wants for itself, for a block of a group.
  Index scratch() const { return pairs() * columns() * block; }
};

/// A network's first convolution in inference, of a picture of a few channels, and the depthwise convolution behind it,
/// which takes its rows out of the cache. Norms are folded.
struct FoldedFirst {
  static constexpr Index block = 16;    ///< output channels at a time
  static constexpr Index together = 8;  ///< neighbours of an output row
  static constexpr Index largest = 7;   ///< side of the kernel
  static constexpr Index most = 4;      ///< channels of the picture, and stride
  Index images, height, width, channels, out_height, out_width, kernel, stride, top, left;
  Activation activation;
  /// What follows; its `channels` are the convolution's own. Where nothing does, its `kernel` is 0, and its `bands` are
  /// the convolution's.
  FoldedDepthwise then;

  Index blocks() const { return (then.channels + block - 1) / block; }
  Index items() const { return images * then.bands; }
  /// Pairs of numbers that a row of the kernel sees.
  Index pairs() const { return (kernel * channels + 1) / 2; }
  /// Floats that the kernel wants for itself: a row of zeros, and rows of 16 channels.
  Index scratch() const { return zeros + (then.kernel == 0 ? 0 : then.pairs() * then.columns() * block); }
  static constexpr Index zeros = 80;
};

/// Rows of channels that a batch norm in training works on: places of a map whose channels lie together. An item of
/// work is cut by nothing but the shape.
struct NormRows {
  Index rows, channels;

  /// Rows of an item: whole vectors of every width, few enough for a cache, and a sixteenth of all at most, so that a
  /// few threads have alike to do.
  Index item() const { return whole(std::clamp<Index>(65536 / channels, 1, std::max<Index>(1, (rows + 15) / 16)), 16); }
  Index items() const { return (rows + item() - 1) / item(); }
  /// Floats that a kernel wants for itself.
  Index scratch() const { return 16 * channels * 7; }
};

/// Channels of pictures that a kernel puts together, at most.
constexpr Index most_interleaved = 4;

/// Whether the kernels of inference have a word for it.
constexpr bool kernels_know(Activation a) {
  return a == Activation::identity || a == Activation::relu || a == Activation::relu6 || a == Activation::hardswish ||
         a == Activation::hardsigmoid || a == Activation::sigmoid || a == Activation::silu;
}

/// An activation behind a batch norm in training: straight lines, `slope` times what is below 0 and no more than `top`;
/// or a curve.
struct Bent {
  float slope = 1.0F, top = std::numeric_limits<float>::infinity();
  Activation curve = Activation::identity;  ///< hardswish, silu or mish; identity where it is straight lines
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
  void (*interleave)(const float*, Index, Index, Index, T*);
  /// None where the instruction set has nothing for it that a convolution library has not.
  void (*folded_depthwise)(const FoldedDepthwise&, const T*, const T*, const float*, T*, Index, float*);
  void (*folded_first)(const FoldedFirst&, const T*, const T*, const float*, const T*, const float*, T*, Index, float*);
};
struct Kernels {
  KernelsOf<float> fp32;
  KernelsOf<std::uint16_t> bf16;
};

}  // namespace transferlib::detail

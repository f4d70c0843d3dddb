/// \file
/// Pictures in memory as a network takes them: rounded and with their channels together in one pass, where a library
/// makes two.
#pragma once

#include <ATen/ops/empty.h>

#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/nn/simd.hpp>

namespace transferlib::detail {

/// `x`, of any device, shape and type, in another type, a map (N, C, H, W) channels last. What LibTorch's own
/// conversions give, to the bit; a NaN is one.
TRANSFERLIB_API Tensor channels_together(const Tensor& x, at::ScalarType type);

}  // namespace transferlib::detail

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

template <class T>
void interleave_pictures(const Tensor& x, Tensor& out) {
  const Index channels = x.size(1), height = x.size(2), width = x.size(3);
  const auto* from = x.const_data_ptr<float>();
  T* const to = elements<T>(out);
  in_team(x.size(0) * height, [&](Index begin, Index end) {
    for (Index row = begin; row < end; ++row)
      kernels_of<T>().interleave(from + (row / height * channels * height + row % height) * width, height * width,
                                 channels, width, to + row * width * channels);
  });
}

TRANSFERLIB_API Tensor channels_together(const Tensor& x, at::ScalarType type) {
  const bool pictures = x.is_cpu() && x.dim() == 4 && x.scalar_type() == at::kFloat && x.is_contiguous() &&
                        x.size(1) > 1 && x.size(1) <= most_interleaved && (type == at::kFloat || type == at::kBFloat16);
  if (!pictures || x.requires_grad()) {
    const Tensor y = x.to(type);
    return x.dim() == 4 ? y.contiguous(at::MemoryFormat::ChannelsLast) : y.contiguous();
  }
  Tensor out = at::empty(x.sizes(), x.options().dtype(type), at::MemoryFormat::ChannelsLast);
  type == at::kFloat ? interleave_pictures<float>(x, out) : interleave_pictures<std::uint16_t>(x, out);
  return out;
}

}  // namespace transferlib::detail

#endif  // TRANSFERLIB_DEFINES

/// \file
/// Squeeze-and-excitation (Hu et al., 2018) in inference on the CPU: what is four small calls of a library, each over
/// the whole map, as one pass over a picture that stays in the processor's cache.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include <ATen/Parallel.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/nn/simd.hpp>

namespace transferlib::detail {

/// A linear layer and its activation, packed for the kernel of one row.
struct GateLayer {
  Tensor weight, start;  ///< (ceil(out / 16), in, 16) in the map's precision, (whole sixteens of out) float32
  Index in = 0, out = 0;
  Activation activation = Activation::identity;

  /// \param weight (out, in) \param bias (out), or undefined
  GateLayer(const Tensor& weight, const Tensor& bias, Activation activation, at::ScalarType type);

  Index room() const { return whole(out, 16); }
  Index bytes() const {
    return weight.numel() * static_cast<Index>(weight.element_size()) + start.numel() * Index{sizeof(float)};
  }
};

/// Multiplies each channel of a map by what two layers make of the means of all of them.
class Gate {
 public:
  Gate(GateLayer squeeze, GateLayer excite) : squeeze_(std::move(squeeze)), excite_(std::move(excite)) {}

  /// The map (N, C, H, W), channels last, float32 or bfloat16 as the layers are, in place. A picture's values depend
  /// neither on the others nor on the number of threads.
  void operator()(Tensor& map) const;

  Index bytes() const { return squeeze_.bytes() + excite_.bytes(); }

 private:
  template <class T>
  void run(Tensor& map) const;

  GateLayer squeeze_, excite_;
};

/// The means of each channel over all places, of a map (N, C, H, W) on the CPU, channels last, of any of the kernels'
/// types: (N, C) float32.
TRANSFERLIB_API Tensor means_of(const Tensor& map);

}  // namespace transferlib::detail

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API GateLayer::GateLayer(const Tensor& w, const Tensor& bias, Activation a, at::ScalarType type)
    : in(w.size(1)), out(w.size(0)), activation(a) {
  weight = at::constant_pad_nd(w, {0, 0, 0, room() - out}).view({-1, 16, in}).permute({0, 2, 1}).to(type).contiguous();
  start = at::zeros({room()}, at::TensorOptions(at::kFloat));
  if (bias.defined()) start.narrow(0, 0, out).copy_(bias);
}

/// The means of a picture's channels. \param scratch 16 times as many floats
template <class T>
void picture_means(const T* picture, const NormRows& rows, float* out, float* scratch) {
  kernels_of<T>().row_sums(rows, picture, out, scratch);
  const float share = 1.0F / static_cast<float>(rows.rows);
  for (Index c = 0; c < rows.channels; ++c) out[c] *= share;
}

template <class T>
Tensor means_as(const Tensor& map) {
  const NormRows picture{map.size(2) * map.size(3), map.size(1)};
  const Tensor out = at::empty({map.size(0), picture.channels}, at::TensorOptions(at::kFloat));
  with_scratch(map.size(0), 16 * picture.channels, [&](Index image, float* scratch) {
    picture_means(elements<T>(map) + image * picture.rows * picture.channels, picture,
                  out.mutable_data_ptr<float>() + image * picture.channels, scratch);
  });
  return out;
}

TRANSFERLIB_API Tensor means_of(const Tensor& map) {
  const Tensor x = map.contiguous(at::MemoryFormat::ChannelsLast);
  return x.scalar_type() == at::kFloat ? means_as<float>(x) : means_as<std::uint16_t>(x);
}

TRANSFERLIB_API void Gate::operator()(Tensor& map) const {
  map = map.to(squeeze_.weight.scalar_type()).contiguous(at::MemoryFormat::ChannelsLast);
  map.scalar_type() == at::kFloat ? run<float>(map) : run<std::uint16_t>(map);
}

template <class T>
void Gate::run(Tensor& map) const {
  const Index images = map.size(0), channels = map.size(1), places = map.size(2) * map.size(3);
  const KernelsOf<T>& k = kernels_of<T>();
  // A few pictures together, for which the weights are read once; of fewer, each thread takes a part of a picture and
  // finds the factors by itself.
  const Index threads = at::get_num_threads();
  const bool whole_pictures = images >= threads;
  const Index group = whole_pictures ? std::clamp<Index>(images / threads, 1, 4) : 1;
  const Index parts = whole_pictures ? 1 : std::max<Index>(1, std::min(places, threads));
  const Tensor means = whole_pictures ? Tensor() : means_of(map);
  const auto layer = [&](const GateLayer& l, const float* in, Index rows, float* out) {
    k.dense(elements<T>(l.weight), l.start.const_data_ptr<float>(), in, rows, l.in, l.out, l.activation, out);
  };
  const Index floats = channels * 16 + group * (channels + squeeze_.room() + excite_.room());
  with_scratch((images + group - 1) / group * parts, floats, [&](Index item, float* scratch) {
    const Index first = item / parts * group, count = std::min(group, images - first);
    const Index from = places * (item % parts) / parts, to = places * (item % parts + 1) / parts;
    T* const pictures = elements<T>(map) + first * places * channels;
    float *const mean = scratch, *const middle = mean + group * channels,
                 *const factors = middle + group * squeeze_.room(), *const rest = factors + group * excite_.room();
    for (Index i = 0; whole_pictures && i < count; ++i)
      picture_means(pictures + i * places * channels, {places, channels}, mean + i * channels, rest);
    layer(squeeze_, whole_pictures ? mean : means.const_data_ptr<float>() + first * channels, count, middle);
    // Its rows have room for whole sixteens, which the next layer's inputs have not.
    if (squeeze_.room() != squeeze_.out)
      for (Index i = 1; i < count; ++i)
        std::copy_n(middle + i * squeeze_.room(), squeeze_.out, middle + i * squeeze_.out);
    layer(excite_, middle, count, factors);
    for (Index i = 0; i < count; ++i)
      k.scale_rows({to - from, channels}, factors + i * excite_.room(), pictures + (i * places + from) * channels,
                   rest);
  });
}

}  // namespace transferlib::detail

#endif  // TRANSFERLIB_DEFINES

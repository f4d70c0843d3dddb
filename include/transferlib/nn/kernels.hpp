/// \file
/// Kernels on maps whose channels lie together (N, H, W, C), written once for vectors of any width: simd.hpp includes
/// this file once for each instruction set. Float32 or bfloat16 (as uint16) in memory, float32 in arithmetic.
//
// No include guard. Included by itself, it compiles for vectors that every processor has.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include <transferlib/nn/kernel_types.hpp>

/// \cond
#if !defined(TRANSFERLIB_SIMD_NAME) && !defined(TRANSFERLIB_SIMD_ALONE)
#define TRANSFERLIB_SIMD_ALONE
#define TRANSFERLIB_SIMD_NAME simd_alone
#define TRANSFERLIB_SIMD_LANES 4
#define TRANSFERLIB_SIMD_TARGET
#endif
#ifdef TRANSFERLIB_SIMD_NAME
#define TRANSFERLIB_INLINE TRANSFERLIB_SIMD_TARGET __attribute__((always_inline)) inline
/// \endcond

namespace transferlib::detail::TRANSFERLIB_SIMD_NAME {

constexpr Index lanes = TRANSFERLIB_SIMD_LANES;

typedef float F __attribute__((vector_size(4 * TRANSFERLIB_SIMD_LANES)));
typedef std::uint32_t U __attribute__((vector_size(4 * TRANSFERLIB_SIMD_LANES)));
typedef std::uint16_t H __attribute__((vector_size(2 * TRANSFERLIB_SIMD_LANES)));
// The same anywhere in memory.
typedef float F_ __attribute__((vector_size(4 * TRANSFERLIB_SIMD_LANES), aligned(4), may_alias));
typedef std::uint16_t H_ __attribute__((vector_size(2 * TRANSFERLIB_SIMD_LANES), aligned(2), may_alias));

TRANSFERLIB_INLINE F read(const float* p) { return *reinterpret_cast<const F_*>(p); }
TRANSFERLIB_INLINE void write(float* p, F v) { *reinterpret_cast<F_*>(p) = v; }

TRANSFERLIB_INLINE F read(const std::uint16_t* p) {
  const H half = *reinterpret_cast<const H_*>(p);
  return (F)(__builtin_convertvector(half, U) << 16);
}

/// Rounds to the nearest bfloat16, ties to even; a NaN stays one.
TRANSFERLIB_INLINE void write(std::uint16_t* p, F v) {
#ifdef TRANSFERLIB_SIMD_BF16
  const auto rounded = _mm512_cvtneps_pbh((__m512)v);
  std::memcpy(p, &rounded, sizeof rounded);
#else
  const U bits = (U)v;
  const U rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const U nan = (U)(v != v);
  *reinterpret_cast<H_*>(p) = __builtin_convertvector((rounded & ~nan) | (nan & 0x7fc0u), H);
#endif
}

/// The first `count` of a vector; the others are 0.
template <class T>
TRANSFERLIB_INLINE F read_some(const T* p, Index count) {
  if (count >= lanes) return read(p);
  T some[TRANSFERLIB_SIMD_LANES] = {};
  std::memcpy(some, p, static_cast<std::size_t>(count) * sizeof(T));
  return read(some);
}
template <class T>
TRANSFERLIB_INLINE void write_some(T* p, F v, Index count) {
  if (count >= lanes) return write(p, v);
  T some[TRANSFERLIB_SIMD_LANES];
  write(some, v);
  std::memcpy(p, some, static_cast<std::size_t>(count) * sizeof(T));
}

template <class Mask>
TRANSFERLIB_INLINE F chosen(Mask mask, F yes, F no) {
  return mask ? yes : no;
}

/// The bounds of an activation, which a NaN passes: the processor's own instructions give the second of two then.
TRANSFERLIB_INLINE F at_least(F z, F least) {
#if TRANSFERLIB_SIMD_LANES == 16
  return (F)_mm512_maskz_max_ps(0xffff, (__m512)least, (__m512)z);
#elif TRANSFERLIB_SIMD_LANES == 8
  return (F)_mm256_max_ps((__m256)least, (__m256)z);
#else
  return chosen(z < least, least, z);
#endif
}
TRANSFERLIB_INLINE F at_most(F z, F most) {
#if TRANSFERLIB_SIMD_LANES == 16
  return (F)_mm512_maskz_min_ps(0xffff, (__m512)most, (__m512)z);
#elif TRANSFERLIB_SIMD_LANES == 8
  return (F)_mm256_min_ps((__m256)most, (__m256)z);
#else
  return chosen(z > most, most, z);
#endif
}

// ------------------------------------------------------------------------------------------- depthwise convolutions

/// `width`, a multiple of two vectors, channels of a row of `columns` places, of which memory has `count`.
template <class T>
TRANSFERLIB_SIMD_TARGET inline void unpack(float* to, const T* from, Index columns, Index step, Index count,
                                           Index width) {
  for (Index i = 0; i < columns; ++i, from += step, to += width)
    for (Index c = 0; c < width; c += lanes) write(to + c, c < count ? read_some(from + c, count - c) : F{});
}
template <class T>
TRANSFERLIB_SIMD_TARGET inline void pack(T* to, const float* from, Index columns, Index step, Index count,
                                         Index width) {
  for (Index i = 0; i < columns; ++i, from += width, to += step)
    for (Index c = 0; c < count; c += lanes) write_some(to + c, read(from + c), count - c);
}

/// A row between zeros: `left` before it, and after it what is missing of `all` places.
template <class T>
TRANSFERLIB_SIMD_TARGET inline void unpack_padded(float* to, const T* from, Index left, Index columns, Index all,
                                                  Index step, Index count, Index width) {
  std::fill(to, to + left * width, 0.0F);
  unpack(to + left * width, from, columns, step, count, width);
  std::fill(to + (left + columns) * width, to + all * width, 0.0F);
}

/// What each place of an output row sums up: a place of the source times a weight, for every tap.
struct Taps {
  Index count = 0;
  Index source[Depthwise::largest * Depthwise::largest];
  Index weight[Depthwise::largest * Depthwise::largest];
  void add(Index s, Index w) {
    source[count] = s;
    weight[count++] = w;
  }
};

/// A few neighbours of an output row at once, a vector of channels.
template <int... T>
TRANSFERLIB_INLINE void correlate_some(std::integer_sequence<int, T...>, float* to, Index to_step, const float* from,
                                       Index from_step, const Taps& taps, const float* weights, F start) {
  F sums[sizeof...(T)] = {(void(T), start)...};
  for (Index i = 0; i < taps.count; ++i) {
    const F weight = read(weights + taps.weight[i]);
    const float* source = from + taps.source[i];
    ((sums[T] += read(source + T * from_step) * weight), ...);
  }
  (write(to + T * to_step, sums[T]), ...);
}

/// An output row of `columns` places.
TRANSFERLIB_SIMD_TARGET inline void correlate(float* to, Index to_step, Index columns, const float* from,
                                              Index from_step, const Taps& taps, const float* weights,
                                              const float* start, Index width) {
  for (Index c = 0; c < width; c += lanes) {
    const F first = read(start + c);
    for (Index i = 0; i < columns;) {
      // Eight at a time; of the last fifteen at most two halves.
      const Index left = columns - i, now = left > 15 ? 8 : left > 8 ? (left + 1) / 2 : left;
      float* t = to + i * to_step + c;
      const float* f = from + i * from_step + c;
      const auto some = [&](auto count) TRANSFERLIB_SIMD_TARGET {
        correlate_some(count, t, to_step, f, from_step, taps, weights + c, first);
      };
      switch (now) {
        case 1:
          some(std::make_integer_sequence<int, 1>{});
          break;
        case 2:
          some(std::make_integer_sequence<int, 2>{});
          break;
        case 3:
          some(std::make_integer_sequence<int, 3>{});
          break;
        case 4:
          some(std::make_integer_sequence<int, 4>{});
          break;
        case 5:
          some(std::make_integer_sequence<int, 5>{});
          break;
        case 6:
          some(std::make_integer_sequence<int, 6>{});
          break;
        case 7:
          some(std::make_integer_sequence<int, 7>{});
          break;
        default:
          some(std::make_integer_sequence<int, 8>{});
          break;
      }
      i += now;
    }
  }
}

/// One block of channels of one picture. `weights` is (kernel²; channels), `start` (channels): both padded.
template <class T>
TRANSFERLIB_SIMD_TARGET inline void depthwise_forward(const Depthwise& d, const T* x, const float* weights,
                                                      const float* start, T* out, Index item, float* scratch) {
  const Index block = item % d.blocks(), image = item / d.blocks(), first = block * Depthwise::block;
  const Index count = std::min(Depthwise::block, d.channels - first), width = whole(count, 2 * lanes);
  const Index all = d.padded_width(), copied = std::min(d.width, all - d.left), ring = d.reach();
  float* row = scratch + ring * all * width;
  Index next = 0;
  for (Index y = 0; y < d.out_height; ++y) {
    const Index top = y * d.stride - d.top;
    for (; next <= std::min(d.height - 1, top + d.reach() - 1); ++next)
      unpack_padded(scratch + next % ring * all * width, x + (image * d.height + next) * d.width * d.channels + first,
                    d.left, copied, all, d.channels, count, width);
    Taps taps;
    for (Index ky = 0; ky < d.kernel; ++ky) {
      const Index from = top + ky * d.dilation;
      if (from < 0 || from >= d.height) continue;
      for (Index kx = 0; kx < d.kernel; ++kx)
        taps.add((from % ring * all + kx * d.dilation) * width, (ky * d.kernel + kx) * d.padded_channels());
    }
    correlate(row, width, d.out_width, scratch, d.stride * width, taps, weights + first, start + first, width);
    pack(out + (image * d.out_height + y) * d.out_width * d.channels + first, row, d.out_width, d.channels, count,
         width);
  }
}

/// The gradient to the input: every input place gathers from the outputs that it reached. `start` is zeros.
template <class T>
TRANSFERLIB_SIMD_TARGET inline void depthwise_to_input(const Depthwise& d, const T* gradient, const float* weights,
                                                       const float* start, T* out, Index item, float* scratch) {
  const Index block = item % d.blocks(), image = item / d.blocks(), first = block * Depthwise::block;
  const Index count = std::min(Depthwise::block, d.channels - first), width = whole(count, 2 * lanes);
  const Index before = d.columns_before(), all = d.gradient_width(), ring = d.gradient_ring();
  float* row = scratch + ring * all * width;
  Index next = 0;
  for (Index y = 0; y < d.height; ++y) {
    for (; next <= std::min(d.out_height - 1, (y + d.top) / d.stride); ++next)
      unpack_padded(scratch + next % ring * all * width,
                    gradient + (image * d.out_height + next) * d.out_width * d.channels + first, before, d.out_width,
                    all, d.channels, count, width);
    for (Index phase = 0; phase < std::min(d.stride, d.width); ++phase) {
      Taps taps;
      for (Index ky = 0; ky < d.kernel; ++ky) {
        const Index down = y + d.top - ky * d.dilation, from = down / d.stride;
        if (down < 0 || down % d.stride != 0 || from >= d.out_height) continue;
        for (Index kx = 0; kx < d.kernel; ++kx) {
          const Index right = phase + d.left - kx * d.dilation;
          if (right % d.stride == 0)
            taps.add((from % ring * all + right / d.stride + before) * width,
                     (ky * d.kernel + kx) * d.padded_channels());
        }
      }
      correlate(row + phase * width, d.stride * width, (d.width - phase + d.stride - 1) / d.stride, scratch, width,
                taps, weights + first, start, width);
    }
    pack(out + (image * d.height + y) * d.width * d.channels + first, row, d.width, d.channels, count, width);
  }
}

/// Adds to the weights of one kernel row, two vectors of channels, what some rows of outputs and inputs give.
template <int... T>
TRANSFERLIB_SIMD_TARGET void weight_rows(std::integer_sequence<int, T...>, float* to, Index to_step,
                                         const float* const* gradients, const float* const* inputs, Index rows,
                                         Index columns, Index gradient_step, Index input_step, Index tap_step) {
  F a[sizeof...(T)] = {read(to + T * to_step)...}, b[sizeof...(T)] = {read(to + lanes + T * to_step)...};
  for (Index y = 0; y < rows; ++y) {
    const float *g = gradients[y], *x = inputs[y];
    for (Index i = 0; i < columns; ++i, g += gradient_step, x += input_step) {
      const F g0 = read(g), g1 = read(g + lanes);
      ((a[T] += g0 * read(x + T * tap_step), b[T] += g1 * read(x + lanes + T * tap_step)), ...);
    }
  }
  ((write(to + T * to_step, a[T]), write(to + lanes + T * to_step, b[T])), ...);
}

/// The gradient to the weights, and below them to the bias, (kernel² + 1; padded channels), of a block of channels of
/// the pictures of one share.
template <class T>
TRANSFERLIB_SIMD_TARGET inline void depthwise_to_weight(const Depthwise& d, const T* x, const T* gradient, float* out,
                                                        Index item, float* scratch) {
  const Index block = item % d.blocks(), share = item / d.blocks(), first = block * Depthwise::block;
  const Index count = std::min(Depthwise::block, d.channels - first), width = whole(count, 2 * lanes);
  const Index all = d.padded_width(), copied = std::min(d.width, all - d.left), band = d.band();
  const Index ring = (band - 1) * d.stride + d.reach(), squared = d.kernel * d.kernel;
  float *sums = scratch, *rows = sums + (squared + 1) * width, *outputs = rows + ring * all * width;
  std::fill(sums, rows, 0.0F);
  for (Index image = d.share_begin(share); image < d.share_begin(share + 1); ++image)
    for (Index begin = 0, next = 0; begin < d.out_height; begin += band) {
      const Index end = std::min(d.out_height, begin + band), top = begin * d.stride - d.top;
      for (; next <= std::min(d.height - 1, top + (end - begin - 1) * d.stride + d.reach() - 1); ++next)
        unpack_padded(rows + next % ring * all * width, x + (image * d.height + next) * d.width * d.channels + first,
                      d.left, copied, all, d.channels, count, width);
      unpack(outputs, gradient + (image * d.out_height + begin) * d.out_width * d.channels + first,
             (end - begin) * d.out_width, d.channels, count, width);
      for (Index ky = 0; ky < d.kernel; ++ky) {
        const float *g[Depthwise::rows], *in[Depthwise::rows];
        Index n = 0;
        for (Index y = begin; y < end; ++y) {
          const Index from = y * d.stride - d.top + ky * d.dilation;
          if (from < 0 || from >= d.height) continue;
          g[n] = outputs + (y - begin) * d.out_width * width;
          in[n++] = rows + from % ring * all * width;
        }
        for (Index c = 0; c < width; c += 2 * lanes) {
          float* to = sums + ky * d.kernel * width + c;
          const Index tap = d.dilation * width, step = d.stride * width;
          if (d.kernel == 3)
            weight_rows(std::make_integer_sequence<int, 3>{}, to, width, g, in, n, d.out_width, width, step, tap);
          else if (d.kernel == 5)
            weight_rows(std::make_integer_sequence<int, 5>{}, to, width, g, in, n, d.out_width, width, step, tap);
          else
            weight_rows(std::make_integer_sequence<int, 7>{}, to, width, g, in, n, d.out_width, width, step, tap);
          for (Index y = 0; y < n; ++y) {
            g[y] += 2 * lanes;
            in[y] += 2 * lanes;
          }
        }
      }
      for (Index i = 0; i < (end - begin) * d.out_width; ++i)
        for (Index c = 0; c < width; c += lanes)
          write(sums + squared * width + c, read(sums + squared * width + c) + read(outputs + i * width + c));
    }
  for (Index tap = 0; tap <= squared; ++tap)
    std::copy(sums + tap * width, sums + tap * width + width,
              out + (share * (squared + 1) + tap) * d.padded_channels() + first);
}

// ---------------------------------------------------------------------------------------- batch norms in training

/// e to the power of x, to some 1e-7 of it, between the least and the greatest number: the nearest multiple of ln 2 and
/// a polynomial for the rest (Cephes' `expf`).
TRANSFERLIB_INLINE F exponential(F x) {
  const F least = F{} - 87.3F, most = F{} + 88.3F;
  x = at_most(at_least(x, least), most);
  const F magic = F{} + 12582912.0F;  // 1.5 * 2^23: what is added to it is rounded to a whole number
  const F shifted = x * 1.44269504088896341F + magic, n = shifted - magic;
  const F r = (x - n * 0.693359375F) + n * 2.12194440e-4F;
  F p = F{} + 1.9875691500e-4F;
  p = p * r + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  const F y = p * r * r + r + 1.0F;
  return (F)((U)y + ((U)shifted << 23));
}

/// Activations and their derivatives; a NaN stays one.
struct Lines {
  float slope, top;
  TRANSFERLIB_INLINE F value(F z) const { return at_most(chosen(z > F{}, z, z * slope), F{} + top); }
  TRANSFERLIB_INLINE F rise(F z) const { return chosen(z > F{}, chosen(z >= F{} + top, F{}, F{} + 1.0F), F{} + slope); }
};
struct Hardswish {
  TRANSFERLIB_INLINE F value(F z) const { return z * at_most(at_least(z + 3.0F, F{}), F{} + 6.0F) * (1.0F / 6.0F); }
  TRANSFERLIB_INLINE F rise(F z) const {
    const F three = F{} + 3.0F;
    return chosen(z > -three, chosen(z >= three, F{} + 1.0F, z * (1.0F / 3.0F) + 0.5F), chosen(z == z, F{}, z));
  }
};
struct Silu {
  TRANSFERLIB_INLINE F gate(F z) const { return 1.0F / (exponential(-z) + 1.0F); }
  TRANSFERLIB_INLINE F value(F z) const { return z * gate(z); }
  TRANSFERLIB_INLINE F rise(F z) const {
    const F y = gate(z);
    return y * (z * (1.0F - y) + 1.0F);
  }
};
/// z times the hyperbolic tangent of ln(1 + e^z) (Misra, 2019), which is n / (n + 2) for n = e^2z + 2 e^z.
struct Mish {
  TRANSFERLIB_INLINE F bounded(F z) const { return exponential(at_most(z, F{} + 30.0F)); }  // its square is finite
  TRANSFERLIB_INLINE F value(F z) const {
    const F e = bounded(z), n = e * (e + 2.0F);
    return z * (n / (n + 2.0F));
  }
  TRANSFERLIB_INLINE F rise(F z) const {
    const F e = bounded(z), n = e * (e + 2.0F), t = n / (n + 2.0F);
    return t + z * (e / (e + 1.0F)) * (1.0F - t * t);
  }
};

/// Calls `work` with the activation.
template <class Work>
TRANSFERLIB_INLINE void with_bent(Bent a, const Work& work) {
  switch (a.curve) {
    case Activation::hardswish:
      return work(Hardswish{});
    case Activation::silu:
      return work(Silu{});
    case Activation::mish:
      return work(Mish{});
    default:
      return work(Lines{a.slope, a.top});
  }
}

/// So many rows are whole vectors, whatever the number of channels: those that a loop takes as one.
constexpr Index rows_together(Index channels) {
  Index together = lanes;
  for (; together > 1 && channels % 2 == 0; channels /= 2) together /= 2;
  return together;
}

/// `count` numbers of each channel, for as many rows as are taken together.
TRANSFERLIB_SIMD_TARGET inline void repeat(float* to, const float* from, Index count, Index channels, Index together) {
  for (Index i = 0; i < count; ++i, from += channels)
    for (Index t = 0; t < together; ++t, to += channels) std::copy(from, from + channels, to);
}

/// Folds sums over `together` rows into one row.
TRANSFERLIB_SIMD_TARGET inline void fold(float* out, const float* sums, Index channels, Index together) {
  std::copy(sums, sums + channels, out);
  for (Index t = 1; t < together; ++t)
    for (Index c = 0; c < channels; ++c) out[c] += sums[t * channels + c];
}

/// Calls `vector(at, c)` for every vector of the rows, c being where its channels are in what `repeat` gives, and
/// `single(at, c)` for each number of the last few rows.
template <class Vector, class Single>
TRANSFERLIB_INLINE void for_rows(const NormRows& n, Index together, const Vector& vector, const Single& single) {
  const Index width = together * n.channels, whole_rows = n.rows / together;
  Index at = 0;
  for (Index row = 0; row < whole_rows; ++row)
    for (Index c = 0; c < width; c += lanes, at += lanes) vector(at, c);
  for (Index c = 0; at < n.rows * n.channels; ++at, ++c) single(at, c);
}

template <class T>
TRANSFERLIB_INLINE float read_one(const T* p) {
  return read_some(p, 1)[0];
}

/// The sums of x - shift and of its square, (2; channels).
template <class T>
TRANSFERLIB_SIMD_TARGET inline void norm_sums(const NormRows& n, const T* x, const float* shift, float* out,
                                              float* scratch) {
  const Index together = rows_together(n.channels), width = together * n.channels;
  float *first = scratch, *sums = first + width, *squares = sums + width;
  repeat(first, shift, 1, n.channels, together);
  std::fill(sums, squares + width, 0.0F);
  const Index fours = n.rows / (4 * together);
  for (Index row = 0; row < fours; ++row, x += 4 * width)
    for (Index c = 0; c < width; c += lanes) {
      const F zero = read(first + c);
      F sum = read(sums + c), square = read(squares + c);
      for (Index i = 0; i < 4; ++i) {
        const F d = read(x + i * width + c) - zero;
        sum += d;
        square += d * d;
      }
      write(sums + c, sum);
      write(squares + c, square);
    }
  for_rows(
      {n.rows - fours * 4 * together, n.channels}, together,
      [&](Index at, Index c) TRANSFERLIB_SIMD_TARGET {
        const F d = read(x + at) - read(first + c);
        write(sums + c, read(sums + c) + d);
        write(squares + c, read(squares + c) + d * d);
      },
      [&](Index at, Index c) TRANSFERLIB_SIMD_TARGET {
        const float d = read_one(x + at) - first[c];
        sums[c] += d;
        squares[c] += d * d;
      });
  fold(out, sums, n.channels, together);
  fold(out + n.channels, squares, n.channels, together);
}

/// \param numbers (2; channels): the scale and the shift
template <class T>
TRANSFERLIB_SIMD_TARGET inline void norm_forward(const NormRows& n, const T* x, const float* numbers, Bent bent, T* out,
                                                 float* scratch) {
  const Index together = rows_together(n.channels), width = together * n.channels;
  repeat(scratch, numbers, 2, n.channels, together);
  const float *scale = scratch, *shift = scale + width;
  with_bent(bent, [&](const auto& a) TRANSFERLIB_SIMD_TARGET {
    for_rows(
        n, together,
        [&](Index at, Index c)
            TRANSFERLIB_SIMD_TARGET { write(out + at, a.value(read(x + at) * read(scale + c) + read(shift + c))); },
        [&](Index at, Index c) TRANSFERLIB_SIMD_TARGET {
          write_some(out + at, a.value(F{} + (read_one(x + at) * scale[c] + shift[c])), 1);
        });
  });
}

/// The sums of the gradient before the activation, and of it times x - mean: (2; channels).
/// \param numbers (3; channels): the scale, the shift, the mean
template <class T>
TRANSFERLIB_SIMD_TARGET inline void norm_gradient_sums(const NormRows& n, const T* x, const T* gradient,
                                                       const float* numbers, Bent bent, float* out, float* scratch) {
  const Index together = rows_together(n.channels), width = together * n.channels;
  repeat(scratch, numbers, 3, n.channels, together);
  const float *scale = scratch, *shift = scale + width, *mean = shift + width;
  float *sums = scratch + 3 * width, *products = sums + width;
  std::fill(sums, products + width, 0.0F);
  const Index twos = n.rows / (2 * together);
  with_bent(bent, [&](const auto& a) TRANSFERLIB_SIMD_TARGET {
    for (Index row = 0; row < twos; ++row, x += 2 * width, gradient += 2 * width)
      for (Index c = 0; c < width; c += lanes) {
        const F by = read(scale + c), plus = read(shift + c), zero = read(mean + c);
        F sum = read(sums + c), product = read(products + c);
        for (Index i = 0; i < 2; ++i) {
          const F v = read(x + i * width + c), g = read(gradient + i * width + c) * a.rise(v * by + plus);
          sum += g;
          product += g * (v - zero);
        }
        write(sums + c, sum);
        write(products + c, product);
      }
    for_rows(
        {n.rows - twos * 2 * together, n.channels}, together,
        [&](Index at, Index c) TRANSFERLIB_SIMD_TARGET {
          const F v = read(x + at), g = read(gradient + at) * a.rise(v * read(scale + c) + read(shift + c));
          write(sums + c, read(sums + c) + g);
          write(products + c, read(products + c) + g * (v - read(mean + c)));
        },
        [&](Index at, Index c) TRANSFERLIB_SIMD_TARGET {
          const float v = read_one(x + at), g = read_one(gradient + at) * a.rise(F{} + (v * scale[c] + shift[c]))[0];
          sums[c] += g;
          products[c] += g * (v - mean[c]);
        });
  });
  fold(out, sums, n.channels, together);
  fold(out + n.channels, products, n.channels, together);
}

/// The gradient to x: `by` times what is left of that before the activation without its mean and without the part along
/// x. Around the mean, since over few places little is left.
/// \param numbers (6; channels): the scale, the shift, the mean, by, the mean to take off, the part along x - mean
template <class T>
TRANSFERLIB_SIMD_TARGET inline void norm_to_input(const NormRows& n, const T* x, const T* gradient,
                                                  const float* numbers, Bent bent, T* out, float* scratch) {
  const Index together = rows_together(n.channels), width = together * n.channels;
  repeat(scratch, numbers, 6, n.channels, together);
  const float *scale = scratch, *shift = scale + width, *mean = shift + width, *by = mean + width, *off = by + width,
              *along = off + width;
  with_bent(bent, [&](const auto& a) TRANSFERLIB_SIMD_TARGET {
    for_rows(
        n, together,
        [&](Index at, Index c) TRANSFERLIB_SIMD_TARGET {
          const F v = read(x + at), g = read(gradient + at) * a.rise(v * read(scale + c) + read(shift + c));
          write(out + at, (g - read(off + c) - (v - read(mean + c)) * read(along + c)) * read(by + c));
        },
        [&](Index at, Index c) TRANSFERLIB_SIMD_TARGET {
          const float v = read_one(x + at), g = read_one(gradient + at) * a.rise(F{} + (v * scale[c] + shift[c]))[0];
          write_some(out + at, F{} + (g - off[c] - (v - mean[c]) * along[c]) * by[c], 1);
        });
  });
}

// ---------------------------------------------------------------------------------------------------- inference

template <Activation A>
TRANSFERLIB_INLINE F active(F z) {
  const F zero{}, six = F{} + 6.0F;
  if constexpr (A == Activation::relu || A == Activation::relu6) z = at_least(z, zero);
  if constexpr (A == Activation::relu6) z = at_most(z, six);
  if constexpr (A == Activation::hardswish || A == Activation::hardsigmoid) {
    const F gate = at_most(at_least(z + 3.0F, zero), six) * (1.0F / 6.0F);
    z = A == Activation::hardswish ? z * gate : gate;
  }
  if constexpr (A == Activation::sigmoid || A == Activation::silu) {
    const F gate = 1.0F / (exponential(-z) + 1.0F);
    z = chosen(z == z, A == Activation::silu ? z * gate : gate, z);
  }
  return z;
}

/// Calls `work` with a constant for the activation, one of those that `kernels_know`.
template <class Work>
TRANSFERLIB_INLINE void with_activation(Activation a, const Work& work) {
  switch (a) {
    case Activation::relu:
      return work(std::integral_constant<Activation, Activation::relu>{});
    case Activation::relu6:
      return work(std::integral_constant<Activation, Activation::relu6>{});
    case Activation::hardswish:
      return work(std::integral_constant<Activation, Activation::hardswish>{});
    case Activation::hardsigmoid:
      return work(std::integral_constant<Activation, Activation::hardsigmoid>{});
    case Activation::sigmoid:
      return work(std::integral_constant<Activation, Activation::sigmoid>{});
    case Activation::silu:
      return work(std::integral_constant<Activation, Activation::silu>{});
    default:
      return work(std::integral_constant<Activation, Activation::identity>{});
  }
}

/// `rows` of a linear layer's outputs.
template <Activation A, Index rows, class T>
TRANSFERLIB_INLINE void dense_rows(const T* weights, const float* start, const float* x, Index inputs, Index outputs,
                                   float* out) {
  const Index step = whole(outputs, 16);
  for (Index o = 0; o < outputs; o += 16, weights += inputs * 16)
    for (Index c = 0; c < 16; c += lanes) {
      F sums[rows];
      for (Index r = 0; r < rows; ++r) sums[r] = read(start + o + c);
      const T* w = weights + c;
      for (Index i = 0; i < inputs; ++i, w += 16) {
        const F weight = read(w);
        for (Index r = 0; r < rows; ++r) sums[r] += weight * x[r * inputs + i];
      }
      for (Index r = 0; r < rows; ++r) write(out + r * step + o + c, active<A>(sums[r]));
    }
}

/// A linear layer and its activation: `x` is (rows; inputs), `weights` (outputs / 16; inputs; 16), `start` and a row of
/// `out` have room for whole sixteens of outputs.
template <class T>
TRANSFERLIB_SIMD_TARGET inline void dense(const T* weights, const float* start, const float* x, Index rows,
                                          Index inputs, Index outputs, Activation activation, float* out) {
  with_activation(activation, [&](auto a) TRANSFERLIB_SIMD_TARGET {
    constexpr Activation A = decltype(a)::value;
    Index row = 0;
    for (; row + 4 <= rows; row += 4)
      dense_rows<A, 4>(weights, start, x + row * inputs, inputs, outputs, out + row * whole(outputs, 16));
    for (; row < rows; ++row)
      dense_rows<A, 1>(weights, start, x + row * inputs, inputs, outputs, out + row * whole(outputs, 16));
  });
}

/// The sums of each channel over some rows.
template <class T>
TRANSFERLIB_SIMD_TARGET inline void row_sums(const NormRows& n, const T* x, float* out, float* scratch) {
  const Index together = rows_together(n.channels), width = together * n.channels;
  std::fill(scratch, scratch + width, 0.0F);
  const Index fours = n.rows / (4 * together);
  for (Index row = 0; row < fours; ++row, x += 4 * width)
    for (Index c = 0; c < width; c += lanes)
      write(scratch + c, read(scratch + c) + ((read(x + c) + read(x + width + c)) +
                                              (read(x + 2 * width + c) + read(x + 3 * width + c))));
  for_rows(
      {n.rows - fours * 4 * together, n.channels}, together,
      [&](Index at, Index c) TRANSFERLIB_SIMD_TARGET { write(scratch + c, read(scratch + c) + read(x + at)); },
      [&](Index at, Index c) TRANSFERLIB_SIMD_TARGET { scratch[c] += read_one(x + at); });
  fold(out, scratch, n.channels, together);
}

/// Multiplies each channel of some rows by its factor, in place.
template <class T>
TRANSFERLIB_SIMD_TARGET inline void scale_rows(const NormRows& n, const float* factors, T* x, float* scratch) {
  const Index together = rows_together(n.channels);
  repeat(scratch, factors, 1, n.channels, together);
  for_rows(
      n, together, [&](Index at, Index c) TRANSFERLIB_SIMD_TARGET { write(x + at, read(x + at) * read(scratch + c)); },
      [&](Index at, Index c) TRANSFERLIB_SIMD_TARGET { write_some(x + at, read_some(x + at, 1) * scratch[c], 1); });
}

/// A row of `width` places whose channels lie `plane` numbers apart, with its channels together.
template <Index channels, class T>
TRANSFERLIB_INLINE void interleave_row(const float* planes, Index plane, Index width, T* out) {
  for (Index i = 0; i < width; i += lanes) {
    const Index count = std::min(lanes, width - i);
    T part[channels][TRANSFERLIB_SIMD_LANES];
    for (Index c = 0; c < channels; ++c) write(part[c], read_some(planes + c * plane + i, count));
    for (Index p = 0; p < count; ++p)
      for (Index c = 0; c < channels; ++c) *out++ = part[c][p];
  }
}

/// \param channels two, three or four
template <class T>
TRANSFERLIB_SIMD_TARGET inline void interleave(const float* planes, Index plane, Index channels, Index width, T* out) {
  channels == 2   ? interleave_row<2>(planes, plane, width, out)
  : channels == 3 ? interleave_row<3>(planes, plane, width, out)
                  : interleave_row<4>(planes, plane, width, out);
}

// Depthwise convolutions in inference: two rows' values of a channel are multiplied and summed up by one instruction.
#ifdef TRANSFERLIB_SIMD_BF16

typedef std::uint16_t Halves __attribute__((vector_size(64)));
typedef std::uint16_t Halves_ __attribute__((vector_size(64), aligned(2), may_alias));

/// A sum and the products of 16 pairs, of a row's pair and of a weights'.
TRANSFERLIB_INLINE F dot(F sum, const std::uint16_t* pairs, Halves weights) {
  return (F)_mm512_dpbf16_ps((__m512)sum, (__m512bh)(Halves)(*reinterpret_cast<const Halves_*>(pairs)),
                             (__m512bh)weights);
}

/// The same with one pair for all.
TRANSFERLIB_INLINE F dot(F sum, Halves weights, const std::uint16_t* pair) {
  int both;
  std::memcpy(&both, pair, sizeof both);
  return (F)_mm512_dpbf16_ps((__m512)sum, (__m512bh)weights, (__m512bh)_mm512_set1_epi32(both));
}

/// Two rows of 32 channels as one: of a place first the pairs of channels 0 … 3, 8 … 11, 16 … 19 and 24 … 27, then
/// those of the others, which is how the processor lays two vectors together.
TRANSFERLIB_SIMD_TARGET inline void pair_rows(std::uint16_t* to, const std::uint16_t* upper, Index upper_step,
                                              const std::uint16_t* lower, Index lower_step, Index columns,
                                              __mmask32 some) {
  for (Index i = 0; i < columns; ++i, to += 64, upper += upper_step, lower += lower_step) {
    const __m512i a = _mm512_maskz_loadu_epi16(some, upper), b = _mm512_maskz_loadu_epi16(some, lower);
    _mm512_storeu_si512(to, _mm512_unpacklo_epi16(a, b));
    _mm512_storeu_si512(to + 32, _mm512_unpackhi_epi16(a, b));
  }
}

/// The way back: 32 channels of a place, or 16.
TRANSFERLIB_INLINE void write_place(std::uint16_t* to, F first, F second, __mmask32 some) {
  alignas(64) static constexpr std::uint16_t order[32] = {0, 1, 2,  3,  16, 17, 18, 19, 4,  5,  6,  7,  20, 21, 22, 23,
                                                          8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31};
  const auto both = (__m512i)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
  _mm512_mask_storeu_epi16(to, some, _mm512_permutexvar_epi16(_mm512_load_si512(order), both));
}

TRANSFERLIB_INLINE void write_place(std::uint16_t* to, F all, __mmask16 some) {
  _mm256_mask_storeu_epi16(to, some, (__m256i)_mm512_cvtneps_pbh((__m512)all));
}

/// One tap of a row of pairs, for a few neighbours.
template <int stride, int tap, int halves, int... N>
TRANSFERLIB_INLINE void add_tap(std::integer_sequence<int, N...>, F* sums, const std::uint16_t* row,
                                const std::uint16_t* weights) {
  const Halves weight = *reinterpret_cast<const Halves_*>(weights + tap * halves * 32);
  ((sums[N] = dot(sums[N], row + (N * stride + tap) * halves * 32, weight)), ...);
}
template <int stride, int halves, int... tap, class Some>
TRANSFERLIB_INLINE void add_row(std::integer_sequence<int, tap...>, Some some, F* sums, const std::uint16_t* row,
                                const std::uint16_t* weights) {
  (add_tap<stride, tap, halves>(some, sums, row, weights), ...);
}

/// Activations that take long, which are not worth a copy of them for every kernel.
TRANSFERLIB_SIMD_TARGET __attribute__((noinline)) inline void bend_all(F* sums, Index count, Activation activation) {
  with_activation(activation, [&](auto a) TRANSFERLIB_SIMD_TARGET {
    for (Index i = 0; i < count; ++i) sums[i] = active<decltype(a)::value>(sums[i]);
  });
}
template <int... N>
TRANSFERLIB_INLINE void bend_some(std::integer_sequence<int, N...>, F* sums, Activation activation) {
  switch (activation) {
    case Activation::identity:
      return;
    case Activation::relu:
      return (void((sums[N] = active<Activation::relu>(sums[N]))), ...);
    case Activation::relu6:
      return (void((sums[N] = active<Activation::relu6>(sums[N]))), ...);
    case Activation::hardswish:
      return (void((sums[N] = active<Activation::hardswish>(sums[N]))), ...);
    default: {
      F all[] = {sums[N]...};
      bend_all(all, sizeof...(N), activation);
      ((sums[N] = all[N]), ...);
    }
  }
}

/// What a few neighbours of an output row are made of.
struct Neighbours {
  const std::uint16_t* rows[4];  ///< pairs of the map's, from the first column that the first neighbour sees
  Index pairs;
  const std::uint16_t* weights;
  F first, second;  ///< what the sums begin with
  Activation activation;
  std::uint16_t* to;
  Index step, count;
  __mmask32 some;
};

/// The sums of one half of the channels, bent.
template <int stride, int kernel, int halves, int... N>
TRANSFERLIB_INLINE void sum_half(std::integer_sequence<int, N...> some, const Neighbours& n, Index half, F* sums) {
  constexpr auto taps = std::make_integer_sequence<int, kernel>{};
  const std::uint16_t* weights = n.weights + half * 32;
  for (Index p = 0; p < n.pairs; ++p, weights += kernel * halves * 32)
    add_row<stride, halves>(taps, some, sums, n.rows[p] + half * 32, weights);
  bend_some(some, sums, n.activation);
}

/// \tparam halves of 32 channels
template <int stride, int kernel, int halves, int... N>
TRANSFERLIB_SIMD_TARGET void correlate_pairs(std::integer_sequence<int, N...> some, const Neighbours& n) {
  F first[] = {(void(N), n.first)...};
  sum_half<stride, kernel, halves>(some, n, 0, first);
  if constexpr (halves == 1) {
    const auto channels = static_cast<__mmask16>(n.some);
    ((N < n.count ? write_place(n.to + N * n.step, first[N], channels) : void()), ...);
  } else {
    F second[] = {(void(N), n.second)...};
    sum_half<stride, kernel, halves>(some, n, 1, second);
    ((N < n.count ? write_place(n.to + N * n.step, first[N], second[N], n.some) : void()), ...);
  }
}

template <int stride, int kernel, int halves>
TRANSFERLIB_SIMD_TARGET inline void correlate_row(Neighbours n, Index columns) {
  const std::uint16_t* begin[4] = {n.rows[0], n.rows[1], n.rows[2], n.rows[3]};
  std::uint16_t* const to = n.to;
  for (Index i = 0; i < columns;) {
    const Index left = columns - i;
    for (Index p = 0; p < n.pairs; ++p) n.rows[p] = begin[p] + i * stride * halves * 32;
    n.to = to + i * n.step;
    n.count = left;
    // Fours and sevens are the sides that pictures of 128 and 224 come to.
    if (left <= 4) {
      correlate_pairs<stride, kernel, halves>(std::make_integer_sequence<int, 4>{}, n);
      i += 4;
    } else if (left % 7 == 0) {
      correlate_pairs<stride, kernel, halves>(std::make_integer_sequence<int, 7>{}, n);
      i += 7;
    } else {
      correlate_pairs<stride, kernel, halves>(std::make_integer_sequence<int, 8>{}, n);
      i += 8;
    }
  }
}

/// Which pairs of a map's rows an output row sees.
struct SeenPairs {
  Index odd, from, to, skipped;  ///< whether its first row is a pair's lower one; the pairs; those above the map

  SeenPairs(const FoldedDepthwise& d, Index y) {
    const Index above = y * d.stride + d.top;  // twice as many rows of zeros further down, so that it is not negative
    odd = above % 2;
    from = (above - odd) / 2 - d.top;
    skipped = std::max<Index>(0, -from);
    to = std::min((d.height + 1) / 2, from + d.pairs());
  }
};

/// A band of rows of a group of blocks of channels of a picture. `weights`: blocks, whether the kernel begins in the
/// lower row of a pair, pairs, columns of the kernel, two times 16 pairs, of which a row that the kernel lacks is
/// zeros. `start` is padded to whole blocks and lies in the order of `pair_rows`.
template <int stride, int kernel>
TRANSFERLIB_SIMD_TARGET void folded_depthwise_of(const FoldedDepthwise& d, const std::uint16_t* x,
                                                 const std::uint16_t* weights, const float* start, std::uint16_t* out,
                                                 Index item, float* scratch) {
  static constexpr std::uint16_t zeros[32] = {};
  const Index band = item % d.bands, group = item / d.bands % d.groups(), image = item / d.bands / d.groups();
  const Index first = group * d.group, blocks = std::min(d.group, d.blocks() - first);
  const Index begin = d.out_height * band / d.bands, end = d.out_height * (band + 1) / d.bands;
  const Index ring = d.pairs(), row = d.columns() * 64, inner = std::min(d.width, d.columns() - d.left);
  auto* const pairs = reinterpret_cast<std::uint16_t*>(scratch);
  for (Index p = 0; p < blocks * ring; ++p) {
    std::fill(pairs + p * row, pairs + p * row + d.left * 64, std::uint16_t{0});
    std::fill(pairs + p * row + (d.left + inner) * 64, pairs + (p + 1) * row, std::uint16_t{0});
  }
  Neighbours n;
  n.activation = d.activation;
  n.step = d.channels;
  Index next = std::max<Index>(0, begin * stride - d.top) / 2;
  for (Index y = begin; y < end; ++y) {
    const SeenPairs seen(d, y);
    n.pairs = seen.to - seen.from - seen.skipped;
    for (Index k = 0; k < blocks; ++k) {
      const Index block = first + k, channel = block * FoldedDepthwise::block,
                  count = std::min(FoldedDepthwise::block, d.channels - channel);
      n.some = static_cast<__mmask32>(count == 32 ? 0xffffffffu : (1u << count) - 1u);
      n.first = read(start + channel);
      n.second = read(start + channel + 16);
      std::uint16_t* const rows = pairs + k * ring * row;
      for (Index p = next; p < seen.to; ++p) {
        const std::uint16_t* const upper = x + (image * d.height + 2 * p) * d.width * d.channels + channel;
        const bool last = 2 * p + 1 == d.height;
        pair_rows(rows + p % ring * row + d.left * 64, upper, d.channels, last ? zeros : upper + d.width * d.channels,
                  last ? 0 : d.channels, inner, n.some);
      }
      for (Index p = 0; p < n.pairs; ++p) n.rows[p] = rows + (seen.from + seen.skipped + p) % ring * row;
      n.weights = weights + ((block * 2 + seen.odd) * ring + seen.skipped) * kernel * 64;
      n.to = out + (image * d.out_height + y) * d.out_width * d.channels + channel;
      correlate_row<stride, kernel, 2>(n, d.out_width);
    }
    next = std::max(next, seen.to);
  }
}

TRANSFERLIB_SIMD_TARGET inline void folded_depthwise(const FoldedDepthwise& d, const std::uint16_t* x,
                                                     const std::uint16_t* weights, const float* start,
                                                     std::uint16_t* out, Index item, float* scratch) {
  const auto run = [&](auto stride) TRANSFERLIB_SIMD_TARGET {
    constexpr int S = decltype(stride)::value;
    d.kernel == 3   ? folded_depthwise_of<S, 3>(d, x, weights, start, out, item, scratch)
    : d.kernel == 5 ? folded_depthwise_of<S, 5>(d, x, weights, start, out, item, scratch)
                    : folded_depthwise_of<S, 7>(d, x, weights, start, out, item, scratch);
  };
  d.stride == 1 ? run(std::integral_constant<int, 1>{}) : run(std::integral_constant<int, 2>{});
}

/// Neighbours of a row of a first convolution, 16 channels of each. `rows` are those of the picture that it sees, from
/// the first one's first column on.
template <int... N>
TRANSFERLIB_INLINE void first_places(std::integer_sequence<int, N...> some, const FoldedFirst& d, F* to,
                                     const std::uint16_t* const* rows, const std::uint16_t* weights, F start) {
  F sums[] = {(void(N), start)...};
  const Index step = d.stride * d.channels, pairs = d.pairs(), kernel = d.kernel;
  for (Index r = 0; r < kernel; ++r)
    for (Index p = 0; p < pairs; ++p, weights += 32) {
      const Halves weight = *reinterpret_cast<const Halves_*>(weights);
      const std::uint16_t* at = rows[r] + 2 * p;
      ((sums[N] = dot(sums[N], weight, at + N * step)), ...);
    }
  bend_some(some, sums, d.activation);
  ((to[N] = sums[N]), ...);
}

/// The rows of a picture that a first convolution sees from a place of its output on; `edge` is room for a copy of them
/// with zeros around the picture, which is made where they reach beyond it.
struct FirstRows {
  static constexpr Index room = (7 * FoldedFirst::most + FoldedFirst::largest + 1) * FoldedFirst::most;
  const std::uint16_t* rows[FoldedFirst::largest];
  std::uint16_t edge[FoldedFirst::largest * room];

  TRANSFERLIB_SIMD_TARGET void look(const FoldedFirst& d, const std::uint16_t* picture, const std::uint16_t* zeros,
                                    Index y, Index x) {
    const Index first = x * d.stride - d.left, columns = 7 * d.stride + d.kernel, n = columns * d.channels;
    // A row's last pair may take one number more than the kernel does.
    const bool inside = first >= 0 && first + columns < d.width;
    for (Index r = 0; r < d.kernel; ++r) {
      const Index from = y * d.stride - d.top + r;
      const bool there = from >= 0 && from < d.height;
      const std::uint16_t* row = there ? picture + from * d.width * d.channels : zeros;
      if (inside || !there) {
        rows[r] = there ? row + first * d.channels : zeros;
        continue;
      }
      std::uint16_t* const to = edge + r * room;
      const Index before = std::min(columns, std::max<Index>(0, -first)),
                  after = std::max(before, std::min(columns, d.width - first));
      std::fill(to, to + before * d.channels, std::uint16_t{0});
      std::copy(row + (first + before) * d.channels, row + (first + after) * d.channels, to + before * d.channels);
      std::fill(to + after * d.channels, to + n + 2, std::uint16_t{0});
      rows[r] = to;
    }
  }
};

/// A band of rows of a picture. `weights`: blocks of 16 channels, rows of the kernel, pairs of what lies in a row of
/// it, 16 pairs. `then_weights` and `then_start` are the depthwise convolution's, for 16 channels at a time.
template <int stride>
TRANSFERLIB_SIMD_TARGET void folded_first_of(const FoldedFirst& d, const std::uint16_t* x, const std::uint16_t* weights,
                                             const float* start, const std::uint16_t* then_weights,
                                             const float* then_start, std::uint16_t* out, Index item, float* scratch) {
  constexpr int together = FoldedFirst::together;
  alignas(64) static constexpr std::uint16_t paired[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                           21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                           11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const FoldedDepthwise& then = d.then;
  const Index band = item % then.bands, image = item / then.bands;
  const Index height = then.kernel == 0 ? d.out_height : then.out_height;
  const Index begin = height * band / then.bands, end = height * (band + 1) / then.bands;
  const std::uint16_t* const picture = x + image * d.height * d.width * d.channels;
  auto* const zeros = reinterpret_cast<std::uint16_t*>(scratch);
  std::fill(scratch, scratch + FoldedFirst::zeros, 0.0F);
  FirstRows seen_rows;
  for (Index block = 0; block < d.blocks(); ++block) {
    const Index channel = block * FoldedFirst::block, count = std::min(FoldedFirst::block, then.channels - channel);
    const auto some = static_cast<__mmask16>((1u << count) - 1u);
    const std::uint16_t* const own = weights + block * d.kernel * d.pairs() * 32;
    const F first = read(start + channel);
    const auto row_part = [&](F* sums, Index y, Index i) TRANSFERLIB_SIMD_TARGET {
      seen_rows.look(d, picture, zeros, y, i);
      first_places(std::make_integer_sequence<int, together>{}, d, sums, seen_rows.rows, own, first);
    };
    if (then.kernel == 0) {
      for (Index y = begin; y < end; ++y)
        for (Index i = 0; i < d.out_width; i += together) {
          F sums[together];
          row_part(sums, y, i);
          std::uint16_t* const to = out + ((image * d.out_height + y) * d.out_width + i) * then.channels + channel;
          for (Index t = 0; t < std::min<Index>(together, d.out_width - i); ++t)
            write_place(to + t * then.channels, sums[t], some);
        }
      continue;
    }
    const Index ring = then.pairs(), row = then.columns() * 32,
                inner = std::min(then.width, then.columns() - then.left);
    std::uint16_t* const pairs = zeros + 2 * FoldedFirst::zeros;
    for (Index p = 0; p < ring; ++p) {
      std::fill(pairs + p * row, pairs + p * row + then.left * 32, std::uint16_t{0});
      std::fill(pairs + p * row + (then.left + inner) * 32, pairs + (p + 1) * row, std::uint16_t{0});
    }
    Neighbours n;
    n.activation = then.activation;
    n.step = then.channels;
    n.some = some;
    n.first = read(then_start + channel);
    const __m512i order = _mm512_load_si512(paired);
    Index next = std::max<Index>(0, begin * stride - then.top) / 2;
    for (Index y = begin; y < end; ++y) {
      const SeenPairs seen(then, y);
      n.pairs = seen.to - seen.from - seen.skipped;
      for (; next < seen.to; ++next) {
        std::uint16_t* const to = pairs + (next % ring * row + then.left * 32);
        for (Index i = 0; i < inner; i += together) {
          F upper[together], lower[together] = {};
          row_part(upper, 2 * next, i);
          if (2 * next + 1 < d.out_height) row_part(lower, 2 * next + 1, i);
          for (Index t = 0; t < std::min<Index>(together, inner - i); ++t)
            _mm512_storeu_si512(
                to + (i + t) * 32,
                _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh((__m512)lower[t], (__m512)upper[t])));
        }
      }
      for (Index p = 0; p < n.pairs; ++p) n.rows[p] = pairs + (seen.from + seen.skipped + p) % ring * row;
      n.weights = then_weights + ((block * 2 + seen.odd) * ring + seen.skipped) * 3 * 32;
      n.to = out + (image * then.out_height + y) * then.out_width * then.channels + channel;
      correlate_row<stride, 3, 1>(n, then.out_width);
    }
  }
}

TRANSFERLIB_SIMD_TARGET inline void folded_first(const FoldedFirst& d, const std::uint16_t* x,
                                                 const std::uint16_t* weights, const float* start,
                                                 const std::uint16_t* then_weights, const float* then_start,
                                                 std::uint16_t* out, Index item, float* scratch) {
  d.then.stride == 2 ? folded_first_of<2>(d, x, weights, start, then_weights, then_start, out, item, scratch)
                     : folded_first_of<1>(d, x, weights, start, then_weights, then_start, out, item, scratch);
}

#endif

template <class T>
KernelsOf<T> kernels_of() {
  KernelsOf<T> out{depthwise_forward<T>,
                   depthwise_to_input<T>,
                   depthwise_to_weight<T>,
                   norm_sums<T>,
                   norm_forward<T>,
                   norm_gradient_sums<T>,
                   norm_to_input<T>,
                   row_sums<T>,
                   scale_rows<T>,
                   dense<T>,
                   interleave<T>,
                   nullptr,
                   nullptr};
#ifdef TRANSFERLIB_SIMD_BF16
  if constexpr (std::is_same_v<T, std::uint16_t>) {
    out.folded_depthwise = folded_depthwise;
    out.folded_first = folded_first;
  }
#endif
  return out;
}

inline Kernels kernels() { return {kernels_of<float>(), kernels_of<std::uint16_t>()}; }

}  // namespace transferlib::detail::TRANSFERLIB_SIMD_NAME

/// \cond
#undef TRANSFERLIB_INLINE
#undef TRANSFERLIB_SIMD_NAME
#undef TRANSFERLIB_SIMD_BF16
#undef TRANSFERLIB_SIMD_LANES
#undef TRANSFERLIB_SIMD_TARGET
#endif
/// \endcond

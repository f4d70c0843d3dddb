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

/// The activation; a NaN stays one.
TRANSFERLIB_INLINE F bent(F z, Bent a) {
  const F top = F{} + a.top, y = chosen(z > F{}, z, z * a.slope);
  return chosen(y > top, top, y);
}
/// Its derivative.
TRANSFERLIB_INLINE F bend(F z, Bent a) {
  return chosen(z > F{}, chosen(z >= F{} + a.top, F{}, F{} + 1.0F), F{} + a.slope);
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
TRANSFERLIB_SIMD_TARGET inline void norm_forward(const NormRows& n, const T* x, const float* numbers, Bent a, T* out,
                                                 float* scratch) {
  const Index together = rows_together(n.channels), width = together * n.channels;
  repeat(scratch, numbers, 2, n.channels, together);
  const float *scale = scratch, *shift = scale + width;
  for_rows(
      n, together,
      [&](Index at, Index c)
          TRANSFERLIB_SIMD_TARGET { write(out + at, bent(read(x + at) * read(scale + c) + read(shift + c), a)); },
      [&](Index at, Index c) TRANSFERLIB_SIMD_TARGET {
        write_some(out + at, bent(F{} + (read_one(x + at) * scale[c] + shift[c]), a), 1);
      });
}

/// The sums of the gradient before the activation, and of it times x - mean: (2; channels).
/// \param numbers (3; channels): the scale, the shift, the mean
template <class T>
TRANSFERLIB_SIMD_TARGET inline void norm_gradient_sums(const NormRows& n, const T* x, const T* gradient,
                                                       const float* numbers, Bent a, float* out, float* scratch) {
  const Index together = rows_together(n.channels), width = together * n.channels;
  repeat(scratch, numbers, 3, n.channels, together);
  const float *scale = scratch, *shift = scale + width, *mean = shift + width;
  float *sums = scratch + 3 * width, *products = sums + width;
  std::fill(sums, products + width, 0.0F);
  const Index twos = n.rows / (2 * together);
  for (Index row = 0; row < twos; ++row, x += 2 * width, gradient += 2 * width)
    for (Index c = 0; c < width; c += lanes) {
      const F by = read(scale + c), plus = read(shift + c), zero = read(mean + c);
      F sum = read(sums + c), product = read(products + c);
      for (Index i = 0; i < 2; ++i) {
        const F v = read(x + i * width + c), g = read(gradient + i * width + c) * bend(v * by + plus, a);
        sum += g;
        product += g * (v - zero);
      }
      write(sums + c, sum);
      write(products + c, product);
    }
  for_rows(
      {n.rows - twos * 2 * together, n.channels}, together,
      [&](Index at, Index c) TRANSFERLIB_SIMD_TARGET {
        const F v = read(x + at), g = read(gradient + at) * bend(v * read(scale + c) + read(shift + c), a);
        write(sums + c, read(sums + c) + g);
        write(products + c, read(products + c) + g * (v - read(mean + c)));
      },
      [&](Index at, Index c) TRANSFERLIB_SIMD_TARGET {
        const float v = read_one(x + at), g = read_one(gradient + at) * bend(F{} + (v * scale[c] + shift[c]), a)[0];
        sums[c] += g;
        products[c] += g * (v - mean[c]);
      });
  fold(out, sums, n.channels, together);
  fold(out + n.channels, products, n.channels, together);
}

/// The gradient to x: `by` times what is left of that before the activation without its mean and without the part along
/// x. Around the mean, since over few places little is left.
/// \param numbers (6; channels): the scale, the shift, the mean, by, the mean to take off, the part along x - mean
template <class T>
TRANSFERLIB_SIMD_TARGET inline void norm_to_input(const NormRows& n, const T* x, const T* gradient,
                                                  const float* numbers, Bent a, T* out, float* scratch) {
  const Index together = rows_together(n.channels), width = together * n.channels;
  repeat(scratch, numbers, 6, n.channels, together);
  const float *scale = scratch, *shift = scale + width, *mean = shift + width, *by = mean + width, *off = by + width,
              *along = off + width;
  for_rows(
      n, together,
      [&](Index at, Index c) TRANSFERLIB_SIMD_TARGET {
        const F v = read(x + at), g = read(gradient + at) * bend(v * read(scale + c) + read(shift + c), a);
        write(out + at, (g - read(off + c) - (v - read(mean + c)) * read(along + c)) * read(by + c));
      },
      [&](Index at, Index c) TRANSFERLIB_SIMD_TARGET {
        const float v = read_one(x + at), g = read_one(gradient + at) * bend(F{} + (v * scale[c] + shift[c]), a)[0];
        write_some(out + at, F{} + (g - off[c] - (v - mean[c]) * along[c]) * by[c], 1);
      });
}

// ---------------------------------------------------------------------------------------------------- inference

/// e to the power of x, to some 1e-7 of it, between the least and the greatest number: the nearest multiple of ln 2 and
/// a polynomial for the rest (Cephes' `expf`).
TRANSFERLIB_INLINE F exponential(F x) {
  const F least = F{} - 87.3F, most = F{} + 88.3F;
  x = chosen(x < least, least, x);
  x = chosen(x > most, most, x);
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

template <Activation A>
TRANSFERLIB_INLINE F active(F z) {
  const F zero{}, six = F{} + 6.0F;
  if constexpr (A == Activation::relu || A == Activation::relu6) z = chosen(z < zero, zero, z);
  if constexpr (A == Activation::relu6) z = chosen(z > six, six, z);
  if constexpr (A == Activation::hardswish || A == Activation::hardsigmoid) {
    F gate = z + 3.0F;
    gate = chosen(gate < zero, zero, gate);
    gate = chosen(gate > six, six, gate) * (1.0F / 6.0F);
    z = A == Activation::hardswish ? z * gate : gate;
  }
  if constexpr (A == Activation::sigmoid || A == Activation::silu) {
    const F gate = 1.0F / (exponential(-z) + 1.0F);
    z = chosen(z == z, A == Activation::silu ? z * gate : gate, z);
  }
  return z;
}

/// Calls `work` with a constant for the activation, one of those that `gates_know`.
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

template <class T>
KernelsOf<T> kernels_of() {
  return {depthwise_forward<T>,   depthwise_to_input<T>,
          depthwise_to_weight<T>, norm_sums<T>,
          norm_forward<T>,        norm_gradient_sums<T>,
          norm_to_input<T>,       row_sums<T>,
          scale_rows<T>,          dense<T>};
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

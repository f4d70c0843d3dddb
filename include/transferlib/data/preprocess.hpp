/// \file
/// From pictures to a network's input: antialiased resize, centre crop and normalisation, picture by picture.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <ATen/ATen.h>

#include <transferlib/core/error.hpp>
#include <transferlib/core/guard.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/data/parallel.hpp>

namespace transferlib {

namespace detail {

/// "(2, 3, 32, 32)", for an error's sentence.
inline std::string shape_text(const Tensor& tensor) {
  std::string out = "(";
  for (Index i = 0; i < tensor.dim(); ++i) out += i == 0 ? text(tensor.size(i)) : text(", ", tensor.size(i));
  return out + ")";
}

/// Refuses what is no block of pictures: see `Batch::pictures`.
inline void check_pictures(const Tensor& block) {
  if (!block.defined() || block.dim() != 4)
    throw DataError(text("pictures must be a tensor (N, C, H, W), not ",
                         block.defined() ? text("one of shape ", shape_text(block)) : "an undefined one"));
  if (block.scalar_type() != at::kByte && block.scalar_type() != at::kFloat)
    throw DataError(text("pictures must be uint8 in 0 … 255 or float32 in [0, 1], not ",
                         c10::toString(block.scalar_type()), "; convert them first"));
  if (block.size(1) < 1 || block.size(2) < 1 || block.size(3) < 1)
    throw DataError(text("pictures of shape ", shape_text(block), " have no pixels"));
}

/// The resize of one block on the calling thread (ATen's uint8 kernels know no threads).
inline Tensor resize_block(const Tensor& pictures, Index height, Index width, Interpolation interpolation) {
  const std::array<std::int64_t, 2> size{height, width};
  switch (interpolation) {
    case Interpolation::bilinear:
      return at::_upsample_bilinear2d_aa(pictures, size, false);
    case Interpolation::bicubic:
      return at::_upsample_bicubic2d_aa(pictures, size, false);
    case Interpolation::nearest:
      break;
  }
  return at::upsample_nearest2d(pictures, size);
}

/// Where a picture is cut after it was scaled: torchvision's `Resize(scaled)` and `CenterCrop(size)`.
struct Placement {
  Index height = 0, width = 0;  ///< the whole picture's, scaled
  Index top = 0, left = 0;      ///< of the square that is kept
};

/// Half of `n`, a half rounded to the even neighbour, as Python's `round` does it in torchvision's centre crop.
constexpr Index half_to_even(Index n) { return n % 2 == 0 ? n / 2 : (n / 2) % 2 == 0 ? n / 2 : n / 2 + 1; }

inline Placement placement(Index height, Index width, const Preprocessing& p) {
  // A hair is added so that 224 / (224 / 232.0) is 232.
  const Index shorter = static_cast<Index>(std::floor(static_cast<double>(p.size) / p.crop_fraction + 1e-6));
  Placement out;
  if (height <= width) {
    out.height = shorter;
    out.width = shorter * width / height;
  } else {
    out.width = shorter;
    out.height = shorter * height / width;
  }
  out.top = half_to_even(out.height - p.size);
  out.left = half_to_even(out.width - p.size);
  return out;
}

inline void check_preprocessing(const Preprocessing& p) {
  if (p.size < 1) throw OptionError(text("the size of a network's input must be at least 1 pixel, not ", p.size));
  if (!(p.crop_fraction > 0.0 && p.crop_fraction <= 1.0))
    throw OptionError(text("crop_fraction must lie in (0, 1], not ", p.crop_fraction));
  for (double d : p.deviation)
    if (!(d > 0.0)) throw OptionError(text("each deviation of the preprocessing must be positive, not ", d));
}

/// What is subtracted from channel `c` of a network with `channels` channels, and what it is divided by then.
inline std::pair<float, float> normalisation(const Preprocessing& p, Index channels, Index c) {
  if (channels == 3) {
    const auto i = static_cast<std::size_t>(c);
    return {static_cast<float>(p.mean[i]), static_cast<float>(p.deviation[i])};
  }
  return {static_cast<float>((p.mean[0] + p.mean[1] + p.mean[2]) / 3.0),
          static_cast<float>((p.deviation[0] + p.deviation[1] + p.deviation[2]) / 3.0)};
}

/// Writes the square at (top, left) of one picture (H, W, C) to `out` (size, size, channels), normalised. `source` has
/// one channel (repeated), or as many as `out`.
template <class Pixel, class Value>
void normalise_picture(const Pixel* picture, Index width, Index source, const Placement& at, Index size, Index channels,
                       float* out, const Value& value) {
  for (Index y = 0; y < size; ++y) {
    const Pixel* row = picture + ((at.top + y) * width + at.left) * source;
    if (source == channels && channels == 3) {
      for (Index x = 0; x < size; ++x, row += 3, out += 3) {
        out[0] = value(row[0], 0);
        out[1] = value(row[1], 1);
        out[2] = value(row[2], 2);
      }
    } else {
      for (Index x = 0; x < size; ++x, row += source)
        for (Index c = 0; c < channels; ++c) *out++ = value(row[source == 1 ? 0 : c], c);
    }
  }
}

/// Names the first of some float32 pictures that holds a number that is none. \param to the first one's number in its
/// batch
[[noreturn]] inline void refuse_not_finite(const Tensor& pictures, Index to, std::span<const Index> ids) {
  const Tensor at = at::isfinite(pictures).logical_not().nonzero()[0];
  const auto place = [&](Index d) { return at[d].item<Index>(); };
  const Index number = to + place(0);
  throw DataError(
      text("picture ", ids.empty() ? number : ids[static_cast<std::size_t>(number)], ids.empty() ? " of the batch" : "",
           " holds ", std::isnan(pictures[place(0)][place(1)][place(2)][place(3)].item<float>()) ? "nan" : "infinity",
           " (channel ", place(1), ", row ", place(2), ", column ", place(3), "); pictures are numbers in [0, 1]"));
}

/// Grey from colour, as PIL's `convert("L")` (ITU-R 601-2): (19595 R + 38470 G + 7471 B + 32768) / 65536.
inline Tensor to_grey(const Tensor& block) {
  if (block.scalar_type() == at::kByte) {
    const Tensor x = block.to(at::kInt);
    return (x.narrow(1, 0, 1) * 19595 + x.narrow(1, 1, 1) * 38470 + x.narrow(1, 2, 1) * 7471 + 32768)
        .bitwise_right_shift(16)
        .to(at::kByte);
  }
  return block.narrow(1, 0, 1) * 0.299 + block.narrow(1, 1, 1) * 0.587 + block.narrow(1, 2, 1) * 0.114;
}

}  // namespace detail

/// Scales pictures (N, C, H, W), uint8 or float32, to (N, C, height, width), as torchvision's
/// `resize(antialias=True)` does: the same ATen kernels; uint8 stays uint8, in PIL's fixed-point arithmetic. `nearest`
/// has no antialiasing. Each picture's result is independent of the others and of the number of threads.
/// \throws DataError, OptionError
inline Tensor resize(const Tensor& pictures, Index height, Index width,
                     Interpolation interpolation = Interpolation::bilinear) {
  detail::check_pictures(pictures);
  if (height < 1 || width < 1)
    throw OptionError(detail::text("pictures can't be resized to ", height, " x ", width, " pixels"));
  if (pictures.size(2) == height && pictures.size(3) == width) return pictures;
  return detail::guarded("resizing pictures", [&] {
    const Index n = pictures.size(0), channels = pictures.size(1);
    if (n <= 1 || pictures.scalar_type() != at::kByte)
      return detail::resize_block(pictures, height, width, interpolation);
    const auto format = pictures.suggest_memory_format();
    Tensor out = at::empty({n, channels, height, width}, pictures.options().memory_format(format));
    detail::for_each_in_parallel((n + 15) / 16, [&](Index i) {
      const at::AutoDispatchBelowADInplaceOrView below;
      const Index from = 16 * i, count = std::min<Index>(16, n - from);
      out.narrow(0, from, count)
          .copy_(detail::resize_block(pictures.narrow(0, from, count), height, width, interpolation));
    });
    return out;
  });
}

/// A network's input from pictures of any sizes: (N, channels, size, size) float32, channels last in memory, brought to
/// [0, 1], cut and normalised as `p` says (torchvision's `Resize`, `CenterCrop`, `ToTensor`, `Normalize`).
///
/// Grey pictures are repeated for every channel; for a network of one channel colour is turned to grey (ITU-R 601-2),
/// and mean and deviation are the averages over R, G, B. A picture's result depends on the picture alone, not on what
/// stands beside it in the batch nor on the number of threads.
/// \param ids the pictures' numbers in their data set, for errors; empty: those in the batch
/// \throws DataError if the pictures have neither 1 nor `channels` channels (an alpha channel is to be dropped first),
/// or a float32 one holds NaN or infinity, which a network would pass on or, behind a ReLU6, hide; OptionError
inline Tensor preprocess(const Batch& batch, const Preprocessing& p, Index channels = 3,
                         std::span<const Index> ids = {}) {
  detail::check_preprocessing(p);
  if (channels < 1) throw OptionError(detail::text("a network's input must have at least 1 channel, not ", channels));
  for (const Tensor& block : batch.pictures) {
    detail::check_pictures(block);
    const Index have = block.size(1);
    if (have != 1 && have != channels && !(have == 3 && channels == 1))
      throw DataError(detail::text("the pictures have ", have, " channels and the network takes ", channels,
                                   have == 4 && channels == 3 ? "; drop the alpha channel: pictures.narrow(1, 0, 3)"
                                                              : "; only grey pictures can be turned to colour"));
    const auto size = detail::placement(block.size(2), block.size(3), p);
    if (std::max(size.height, size.width) > 1000000)
      throw DataError(detail::text("a picture of ", block.size(3), " x ", block.size(2),
                                   " pixels is too long and thin to be scaled to a shorter side of ",
                                   std::min(size.height, size.width)));
  }
  return detail::guarded("preparing pictures for the network", [&] {
    const Index total = batch.size(), area = p.size * p.size * channels;
    Tensor out = at::empty({total, channels, p.size, p.size},
                           at::TensorOptions(at::kFloat).memory_format(at::MemoryFormat::ChannelsLast));
    // A uint8 value's result is one of 256 a channel; the same float32 operations as ToTensor and Normalize do.
    std::vector<std::pair<float, float>> normal;
    std::vector<float> table(static_cast<std::size_t>(channels) * 256);
    for (Index c = 0; c < channels; ++c) {
      normal.push_back(detail::normalisation(p, channels, c));
      for (Index v = 0; v < 256; ++v)
        table[static_cast<std::size_t>(c * 256 + v)] =
            (static_cast<float>(v) / 255.0F - normal.back().first) / normal.back().second;
    }
    // A piece: pictures of one block, few enough to stay in the processor's cache.
    struct Piece {
      const Tensor* block;
      Index from, count, to;
    };
    std::vector<Piece> pieces;
    Index first = 0;
    for (const Tensor& block : batch.pictures) {
      for (Index i = 0; i < block.size(0); i += 4)
        pieces.push_back({&block, i, std::min<Index>(4, block.size(0) - i), first + i});
      first += block.size(0);
    }
    float* const out_data = out.mutable_data_ptr<float>();
    detail::for_each_in_parallel(static_cast<Index>(pieces.size()), [&](Index i) {
      // No autograd here; and the worker threads do not know of the caller's inference mode.
      const at::AutoDispatchBelowADInplaceOrView below;
      const Piece& piece = pieces[static_cast<std::size_t>(i)];
      Tensor x = piece.block->narrow(0, piece.from, piece.count).cpu();
      if (x.scalar_type() == at::kFloat && !at::isfinite(x).all().item<bool>())
        detail::refuse_not_finite(x, piece.to, ids);
      if (x.size(1) == 3 && channels == 1) x = detail::to_grey(x);
      const Index have = x.size(1);
      const detail::Placement place = detail::placement(x.size(2), x.size(3), p);
      x = x.contiguous(at::MemoryFormat::ChannelsLast);
      if (place.height != x.size(2) || place.width != x.size(3))
        x = detail::resize_block(x, place.height, place.width, p.interpolation);
      x = x.permute({0, 2, 3, 1}).contiguous();
      const Index pixels = place.height * place.width * have;
      for (Index k = 0; k < piece.count; ++k) {
        float* const to = out_data + (piece.to + k) * area;
        if (x.scalar_type() == at::kByte) {
          const auto value = [values = table.data()](std::uint8_t v, Index c) { return values[c * 256 + v]; };
          detail::normalise_picture(x.const_data_ptr<std::uint8_t>() + k * pixels, place.width, have, place, p.size,
                                    channels, to, value);
        } else {
          const auto value = [values = normal.data()](float v, Index c) {
            return (v - values[c].first) / values[c].second;
          };
          detail::normalise_picture(x.const_data_ptr<float>() + k * pixels, place.width, have, place, p.size, channels,
                                    to, value);
        }
      }
    });
    return out;
  });
}

}  // namespace transferlib

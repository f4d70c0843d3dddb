/// \file
/// From pictures to a network's input: resize, centre crop or canvas, and normalisation, picture by picture; and boxes
/// there and back.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <ATen/ATen.h>

#include <transferlib/core/error.hpp>
#include <transferlib/core/guard.hpp>
#include <transferlib/core/parallel.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/data/scaled_bytes.hpp>
#include <transferlib/detect/boxes.hpp>
#include <transferlib/detect/detections.hpp>
#include <transferlib/detect/placement.hpp>

namespace transferlib {

namespace detail {

/// "(2, 3, 32, 32)", for an error's sentence.
inline std::string shape_text(const Tensor& tensor) {
  std::string out = "(";
  for (Index i = 0; i < tensor.dim(); ++i) out += i == 0 ? text(tensor.size(i)) : text(", ", tensor.size(i));
  return out + ")";
}

/// Refuses what is no block of pictures: see `Batch::pictures`.
TRANSFERLIB_API void check_pictures(const Tensor& block);

/// The resize of one block on the calling thread (ATen's uint8 kernels know no threads).
TRANSFERLIB_API Tensor resize_block(const Tensor& pictures, Index height, Index width, Interpolation interpolation);

/// Half of `n`, a half rounded to the even neighbour, as Python's `round` does it in torchvision's centre crop.
constexpr Index half_to_even(Index n) { return n % 2 == 0 ? n / 2 : (n / 2) % 2 == 0 ? n / 2 : n / 2 + 1; }

/// Where a picture lies on the network's input. A crop is torchvision's `Resize(size / crop_fraction)` and
/// `CenterCrop(size)`; the margins are then below 0.
TRANSFERLIB_API PicturePlacement placement(Index height, Index width, const Preprocessing& p);

/// The grey of a canvas beside its picture, in [0, 1].
constexpr float grey_of(Fit fit) { return fit == Fit::darknet ? 0.5F : 114.0F / 255.0F; }

TRANSFERLIB_API void check_preprocessing(const Preprocessing& p);

/// What is subtracted from channel `c` of a network with `channels` channels, and what it is divided by then.
TRANSFERLIB_API std::pair<float, float> normalisation(const Preprocessing& p, Index channels, Index c);

/// Calls `row(from, to, pixels)` for each row of one picture (H, W, C), scaled to its place, that lies on the canvas
/// `out` (size, size, channels). `source` is the picture's number of channels.
template <class Pixel, class Out, class Row>
void for_each_row(const Pixel* picture, const PicturePlacement& at, Index source, Index channels, Out* out,
                  const Row& row) {
  const Index size = at.canvas.width, width = at.inner.width;
  const Index right = std::min(size, at.left + width), bottom = std::min(size, at.top + at.inner.height);
  const Index left = std::max<Index>(0, at.left);
  for (Index y = std::max<Index>(0, at.top); y < bottom; ++y)
    row(picture + ((y - at.top) * width + left - at.left) * source, out + (y * size + left) * channels, right - left);
}

/// Writes what lies on the canvas of a picture to `out`, normalised. `source` has one channel (repeated), or as many as
/// `out`.
template <class Pixel, class Out, class Value>
void normalise_picture(const Pixel* picture, const PicturePlacement& at, Index source, Index channels, Out* out,
                       const Value& value) {
  for_each_row(picture, at, source, channels, out, [&](const Pixel* row, Out* to, Index pixels) {
    if (source == channels && channels == 3) {
      for (Index x = 0; x < pixels; ++x, row += 3, to += 3) {
        to[0] = value(row[0], 0);
        to[1] = value(row[1], 1);
        to[2] = value(row[2], 2);
      }
    } else {
      for (Index x = 0; x < pixels; ++x, row += source)
        for (Index c = 0; c < channels; ++c) *to++ = value(row[source == 1 ? 0 : c], c);
    }
  });
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
TRANSFERLIB_API Tensor to_grey(const Tensor& block);

}  // namespace detail

/// Scales pictures (N, C, H, W), uint8 or float32, to (N, C, height, width), as torchvision's
/// `resize(antialias=True)` does: the same ATen kernels; uint8 stays uint8, in PIL's fixed-point arithmetic. `nearest`
/// has no antialiasing, and neither has `corners`, which is float32 only. Each picture's result is independent of the
/// others and of the number of threads. \throws DataError, OptionError
TRANSFERLIB_API Tensor resize(const Tensor& pictures, Index height, Index width,
                              Interpolation interpolation = Interpolation::bilinear);

/// A network's input from pictures of any sizes: (N, channels, size, size) float32, channels last in memory, brought to
/// [0, 1], cut (or placed on a grey canvas) and normalised as `p` says: for a crop torchvision's `Resize`,
/// `CenterCrop`, `ToTensor`, `Normalize`.
///
/// Grey pictures are repeated for every channel; for a network of one channel colour is turned to grey (ITU-R 601-2),
/// and mean and deviation are the averages over R, G, B. A picture's result depends on the picture alone, not on what
/// stands beside it in the batch nor on the number of threads.
/// \param ids the pictures' numbers in their data set, for errors; empty: those in the batch
/// \param type float32, or bfloat16: the same values, rounded to the nearest (half as much to write and to read)
/// \throws DataError if the pictures have neither 1 nor `channels` channels (an alpha channel is to be dropped first),
/// or a float32 one holds NaN or infinity, which a network would pass on or, behind a ReLU6, hide; OptionError
TRANSFERLIB_API Tensor preprocess(const Batch& batch, const Preprocessing& p, Index channels = 3,
                                  std::span<const Index> ids = {}, at::ScalarType type = at::kFloat);

namespace detail {

/// Heights and widths (N, 2) int64 of the batch's pictures.
inline Tensor sizes_of(const Batch& batch) {
  std::vector<Index> sides;
  for (const Tensor& block : batch.pictures)
    for (Index i = 0; i < block.size(0); ++i) sides.insert(sides.end(), {block.size(2), block.size(3)});
  return at::tensor(sides, at::kLong).view({-1, 2});
}

/// Where each of some pictures, of the given heights and widths (N, 2), lies on the network's input.
inline std::vector<PicturePlacement> placements(const Tensor& sizes, const Preprocessing& p) {
  const Tensor s = sizes.to(at::kCPU, at::kLong).contiguous();
  std::vector<PicturePlacement> out;
  for (Index i = 0; i < s.size(0); ++i) out.push_back(placement(s[i][0].item<Index>(), s[i][1].item<Index>(), p));
  return out;
}

/// The boxes of a batch's target in the canvas's pixels, or (`back`) from there in the pictures'. By `batch.sizes` and
/// `batch.offsets`. Nothing is clipped. \throws DataError if the batch is not as `Boxes` are
TRANSFERLIB_API Tensor move_targets(const Batch& batch, const Preprocessing& p, bool back = false);

/// What was found on the canvases, in the pixels of the pictures, of the heights and widths `sizes` (N, 2). Nothing is
/// clipped.
inline std::vector<Detections> on_pictures(std::vector<Detections> found, const Tensor& sizes, const Preprocessing& p) {
  const auto places = placements(sizes, p);
  for (std::size_t i = 0; i < found.size() && i < places.size(); ++i)
    if (found[i].size() != 0) found[i].boxes = boxes_to_picture(found[i].boxes, places[i]);
  return found;
}

}  // namespace detail
}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API void check_pictures(const Tensor& block) {
  if (!block.defined() || block.dim() != 4)
    throw DataError(text("pictures must be a tensor (N, C, H, W), not ",
                         block.defined() ? text("one of shape ", shape_text(block)) : "an undefined one"));
  if (block.scalar_type() != at::kByte && block.scalar_type() != at::kFloat)
    throw DataError(text("pictures must be uint8 in 0 … 255 or float32 in [0, 1], not ",
                         c10::toString(block.scalar_type()), "; convert them first"));
  if (block.size(1) < 1 || block.size(2) < 1 || block.size(3) < 1)
    throw DataError(text("pictures of shape ", shape_text(block), " have no pixels"));
}

TRANSFERLIB_API Tensor resize_block(const Tensor& pictures, Index height, Index width, Interpolation interpolation) {
  const std::array<std::int64_t, 2> size{height, width};
  switch (interpolation) {
    case Interpolation::bilinear:
      return at::_upsample_bilinear2d_aa(pictures, size, false);
    case Interpolation::bicubic:
      return at::_upsample_bicubic2d_aa(pictures, size, false);
    case Interpolation::corners:
      return at::upsample_bilinear2d(pictures, size, true);
    case Interpolation::nearest:
      break;
  }
  return at::upsample_nearest2d(pictures, size);
}

TRANSFERLIB_API PicturePlacement placement(Index height, Index width, const Preprocessing& p) {
  if (p.fit != Fit::crop) return place_picture({width, height}, {p.size, p.size}, p.fit);
  // A hair is added so that 224 / (224 / 232.0) is 232.
  const Index shorter = static_cast<Index>(std::floor(static_cast<double>(p.size) / p.crop_fraction + 1e-6));
  PicturePlacement out{.picture = {width, height}, .canvas = {p.size, p.size}, .inner = {shorter, shorter}};
  if (height <= width)
    out.inner.width = shorter * width / height;
  else
    out.inner.height = shorter * height / width;
  out.top = -half_to_even(out.inner.height - p.size);
  out.left = -half_to_even(out.inner.width - p.size);
  return out;
}

TRANSFERLIB_API void check_preprocessing(const Preprocessing& p) {
  if (p.size < 1) throw OptionError(text("the size of a network's input must be at least 1 pixel, not ", p.size));
  if (!(p.crop_fraction > 0.0 && p.crop_fraction <= 1.0))
    throw OptionError(text("crop_fraction must lie in (0, 1], not ", p.crop_fraction));
  for (double d : p.deviation)
    if (!(d > 0.0)) throw OptionError(text("each deviation of the preprocessing must be positive, not ", d));
}

TRANSFERLIB_API std::pair<float, float> normalisation(const Preprocessing& p, Index channels, Index c) {
  if (channels == 3) {
    const auto i = static_cast<std::size_t>(c);
    return {static_cast<float>(p.mean[i]), static_cast<float>(p.deviation[i])};
  }
  return {static_cast<float>((p.mean[0] + p.mean[1] + p.mean[2]) / 3.0),
          static_cast<float>((p.deviation[0] + p.deviation[1] + p.deviation[2]) / 3.0)};
}

TRANSFERLIB_API Tensor to_grey(const Tensor& block) {
  if (block.scalar_type() == at::kByte) {
    const Tensor x = block.to(at::kInt);
    return (x.narrow(1, 0, 1) * 19595 + x.narrow(1, 1, 1) * 38470 + x.narrow(1, 2, 1) * 7471 + 32768)
        .bitwise_right_shift(16)
        .to(at::kByte);
  }
  return block.narrow(1, 0, 1) * 0.299 + block.narrow(1, 1, 1) * 0.587 + block.narrow(1, 2, 1) * 0.114;
}

}  // namespace transferlib::detail

namespace transferlib {

TRANSFERLIB_API Tensor resize(const Tensor& pictures, Index height, Index width, Interpolation interpolation) {
  detail::check_pictures(pictures);
  if (height < 1 || width < 1)
    throw OptionError(detail::text("pictures can't be resized to ", height, " x ", width, " pixels"));
  if (interpolation == Interpolation::corners && pictures.scalar_type() == at::kByte)
    throw OptionError("darknet's resize (Interpolation::corners) is of float32 pictures; divide these by 255 first");
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

}  // namespace transferlib

namespace transferlib::detail {

/// `preprocess` of checked pictures, as `Out`.
template <class Out>
Tensor prepared_as(const Batch& batch, const Preprocessing& p, Index channels, std::span<const Index> ids) {
  const Index total = batch.size(), area = p.size * p.size * channels;
  Tensor out =
      at::empty({total, channels, p.size, p.size},
                at::TensorOptions(c10::CppTypeToScalarType<Out>::value).memory_format(at::MemoryFormat::ChannelsLast));
  // A uint8 value's result is one of 256 a channel; the same float32 operations as ToTensor and Normalize do.
  std::vector<std::pair<float, float>> normal;
  std::vector<Out> table(static_cast<std::size_t>(channels) * 256);
  for (Index c = 0; c < channels; ++c) {
    normal.push_back(normalisation(p, channels, c));
    for (Index v = 0; v < 256; ++v)
      table[static_cast<std::size_t>(c * 256 + v)] =
          static_cast<Out>((static_cast<float>(v) / 255.0F - normal.back().first) / normal.back().second);
  }
  std::optional<ScaledBytes> scaled;
  if constexpr (std::is_same_v<Out, c10::BFloat16>) scaled.emplace(table, normal);
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
  Out* const out_data = out.mutable_data_ptr<Out>();
  for_each_in_parallel(static_cast<Index>(pieces.size()), [&](Index i) {
    // No autograd here; and the worker threads do not know of the caller's inference mode.
    const at::AutoDispatchBelowADInplaceOrView below;
    const Piece& piece = pieces[static_cast<std::size_t>(i)];
    Tensor x = piece.block->narrow(0, piece.from, piece.count).cpu();
    if (x.scalar_type() == at::kFloat && !at::isfinite(x).all().item<bool>()) refuse_not_finite(x, piece.to, ids);
    if (x.size(1) == 3 && channels == 1) x = to_grey(x);
    const Index have = x.size(1);
    const PicturePlacement place = placement(x.size(2), x.size(3), p);
    if (p.interpolation == Interpolation::corners && x.scalar_type() == at::kByte) x = x.to(at::kFloat) / 255.0F;
    x = x.contiguous(at::MemoryFormat::ChannelsLast);
    if (place.inner != place.picture) x = resize_block(x, place.inner.height, place.inner.width, p.interpolation);
    x = x.permute({0, 2, 3, 1}).contiguous();
    const Index pixels = place.inner.height * place.inner.width * have;
    const auto normalised = [values = normal.data()](float v, Index c) {
      return static_cast<Out>((v - values[c].first) / values[c].second);
    };
    for (Index k = 0; k < piece.count; ++k) {
      Out* const to = out_data + (piece.to + k) * area;
      if (place.inner.width < p.size || place.inner.height < p.size)
        for (Index i2 = 0; i2 < area; ++i2) to[i2] = normalised(grey_of(p.fit), i2 % channels);
      if (x.scalar_type() == at::kByte) {
        if constexpr (std::is_same_v<Out, c10::BFloat16>)
          if (scaled->usable() && have == channels) {
            for_each_row(x.const_data_ptr<std::uint8_t>() + k * pixels, place, have, channels, to,
                         [&](const std::uint8_t* row, Out* at, Index n) { (*scaled)(row, at, n * channels); });
            continue;
          }
        const auto value = [values = table.data()](std::uint8_t v, Index c) { return values[c * 256 + v]; };
        normalise_picture(x.const_data_ptr<std::uint8_t>() + k * pixels, place, have, channels, to, value);
      } else {
        normalise_picture(x.const_data_ptr<float>() + k * pixels, place, have, channels, to, normalised);
      }
    }
  });
  return out;
}

}  // namespace transferlib::detail

namespace transferlib {

TRANSFERLIB_API Tensor preprocess(const Batch& batch, const Preprocessing& p, Index channels,
                                  std::span<const Index> ids, at::ScalarType type) {
  detail::check_preprocessing(p);
  if (type != at::kFloat && type != at::kBFloat16)
    throw OptionError(detail::text("a network's input is made in float32 or bfloat16, not ", c10::toString(type)));
  if (channels < 1) throw OptionError(detail::text("a network's input must have at least 1 channel, not ", channels));
  for (const Tensor& block : batch.pictures) {
    detail::check_pictures(block);
    const Index have = block.size(1);
    if (have != 1 && have != channels && !(have == 3 && channels == 1))
      throw DataError(detail::text("the pictures have ", have, " channels and the network takes ", channels,
                                   have == 4 && channels == 3 ? "; drop the alpha channel: pictures.narrow(1, 0, 3)"
                                                              : "; only grey pictures can be turned to colour"));
    const auto size = detail::placement(block.size(2), block.size(3), p);
    if (std::max(size.inner.height, size.inner.width) > 1000000)
      throw DataError(detail::text("a picture of ", block.size(3), " x ", block.size(2),
                                   " pixels is too long and thin to be scaled to a shorter side of ",
                                   std::min(size.inner.height, size.inner.width)));
  }
  return detail::guarded("preparing pictures for the network", [&] {
    return type == at::kFloat ? detail::prepared_as<float>(batch, p, channels, ids)
                              : detail::prepared_as<at::BFloat16>(batch, p, channels, ids);
  });
}

}  // namespace transferlib

namespace transferlib::detail {

TRANSFERLIB_API Tensor move_targets(const Batch& batch, const Preprocessing& p, bool back) {
  if (!batch.target.defined() || batch.target.dim() != 2 || batch.target.size(1) != 5)
    throw DataError("boxes are to be a tensor (M, 5) of class, x, y, width, height");
  if (!batch.offsets.defined() || !batch.sizes.defined() || batch.offsets.numel() != batch.sizes.size(0) + 1)
    throw DataError("a batch with boxes needs `offsets` (N + 1) and `sizes` (N, 2) for its N pictures");
  const Tensor target = batch.target.to(at::kCPU, at::kFloat).clone();
  const Tensor offsets = batch.offsets.to(at::kCPU, at::kLong).contiguous();
  const auto* at = offsets.const_data_ptr<Index>();
  const auto places = placements(batch.sizes, p);
  if (at[0] != 0 || at[places.size()] != target.size(0) || !std::is_sorted(at, at + places.size() + 1))
    throw DataError(text("the offsets of a batch's boxes are to rise from 0 to ", target.size(0)));
  auto* box = target.mutable_data_ptr<float>();
  for (std::size_t i = 0; i < places.size(); ++i) {
    const PicturePlacement& place = places[i];
    const auto x = static_cast<float>(place.scale_x()), y = static_cast<float>(place.scale_y());
    const auto left = static_cast<float>(place.left), top = static_cast<float>(place.top);
    for (Index b = at[i]; b < at[i + 1]; ++b, box += 5) {
      box[1] = back ? (box[1] - left) / x : box[1] * x + left;
      box[2] = back ? (box[2] - top) / y : box[2] * y + top;
      box[3] = back ? box[3] / x : box[3] * x;
      box[4] = back ? box[4] / y : box[4] * y;
    }
  }
  return target;
}

}  // namespace transferlib::detail

#endif  // TRANSFERLIB_DEFINES

/// \file
/// Where a picture lies on a network's input: stretched, or as a letter in a box; and its boxes there and back. Free of
/// LibTorch.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>

#include <transferlib/core/error.hpp>
#include <transferlib/core/fit.hpp>
#include <transferlib/core/layers.hpp>
#include <transferlib/core/separate.hpp>

namespace transferlib {

/// Width and height in pixels.
struct PixelSize {
  Index width = 0;
  Index height = 0;

  friend bool operator==(const PixelSize&, const PixelSize&) = default;
};

/// Where a picture lies on a canvas: its left top corner, and its size there. A point (x, y) of the picture lies at
/// (x * scale_x + left, y * scale_y + top), whatever the resampling does between pixels.
struct PicturePlacement {
  PixelSize picture, canvas, inner;
  Index left = 0;
  Index top = 0;

  double scale_x() const { return static_cast<double>(inner.width) / static_cast<double>(picture.width); }
  double scale_y() const { return static_cast<double>(inner.height) / static_cast<double>(picture.height); }

  /// A box (x1, y1, x2, y2) in the picture's pixels, in the canvas's.
  std::array<double, 4> to_canvas(const std::array<double, 4>& box) const {
    const auto x = static_cast<double>(left), y = static_cast<double>(top);
    return {box[0] * scale_x() + x, box[1] * scale_y() + y, box[2] * scale_x() + x, box[3] * scale_y() + y};
  }
  /// The inverse of `to_canvas`, but for rounding in the last digit. Nothing is clipped.
  std::array<double, 4> to_picture(const std::array<double, 4>& box) const {
    const auto x = static_cast<double>(left), y = static_cast<double>(top);
    return {(box[0] - x) / scale_x(), (box[1] - y) / scale_y(), (box[2] - x) / scale_x(), (box[3] - y) / scale_y()};
  }

  friend bool operator==(const PicturePlacement&, const PicturePlacement&) = default;
};

/// Places a picture on a canvas.
///
/// `letterbox`: the sides are those of the picture times min(canvas.width / picture.width, canvas.height /
/// picture.height), rounded to the nearest (halves to even, as Python's `round`); of an odd rest the smaller half is
/// left and above. `darknet`: whole-number division rounds down the shorter side and the margins. darknet itself takes
/// boxes back as if its margins were not rounded, up to half a pixel of the canvas beside where the picture lies; here
/// boxes go where the picture is. A side that would be 0 is 1. `crop`: the shorter sides are equal, the longer one is
/// rounded down, and what lies beyond the canvas is cut: the margins are below 0.
/// \throws OptionError for a size below 1
TRANSFERLIB_API PicturePlacement place_picture(PixelSize picture, PixelSize canvas, Fit fit);

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API PicturePlacement place_picture(PixelSize picture, PixelSize canvas, Fit fit) {
  for (const PixelSize& size : {picture, canvas})
    if (size.width < 1 || size.height < 1)
      throw OptionError(detail::text("a picture or canvas of ", size.width, " x ", size.height,
                                     " pixels can't be placed; both sides must be at least 1"));
  PicturePlacement out{.picture = picture, .canvas = canvas, .inner = canvas};
  if (fit == Fit::stretch) return out;
  const auto w = static_cast<double>(picture.width), h = static_cast<double>(picture.height);
  if (fit == Fit::crop) {
    if (picture.width * canvas.height >= picture.height * canvas.width)
      out.inner.width = canvas.height * picture.width / picture.height;
    else
      out.inner.height = canvas.width * picture.height / picture.width;
    out.left = -((out.inner.width - canvas.width) / 2);
    out.top = -((out.inner.height - canvas.height) / 2);
    return out;
  }
  const double ratio_x = static_cast<double>(canvas.width) / w, ratio_y = static_cast<double>(canvas.height) / h;
  if (fit == Fit::letterbox) {
    const double ratio = std::min(ratio_x, ratio_y);
    out.inner = {static_cast<Index>(std::nearbyint(w * ratio)), static_cast<Index>(std::nearbyint(h * ratio))};
  } else if (static_cast<float>(ratio_x) < static_cast<float>(ratio_y)) {
    out.inner.height = static_cast<Index>(h * static_cast<double>(canvas.width) / w);
  } else {
    out.inner.width = static_cast<Index>(w * static_cast<double>(canvas.height) / h);
  }
  out.inner.width = std::clamp<Index>(out.inner.width, 1, canvas.width);
  out.inner.height = std::clamp<Index>(out.inner.height, 1, canvas.height);
  out.left = (canvas.width - out.inner.width) / 2;
  out.top = (canvas.height - out.inner.height) / 2;
  return out;
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

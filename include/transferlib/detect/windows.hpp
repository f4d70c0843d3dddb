/// \file
/// Where a window is put that slides over a picture: the levels of an image pyramid, and the places on each. Free of
/// LibTorch.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/layers.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/detect/placement.hpp>

namespace transferlib {

/// Which windows there are.
struct WindowPyramid {
  Index window = 96;    ///< side of the window in pixels of a level
  Index stride = 16;    ///< from one place to the next, in pixels of a level
  double scale = 1.25;  ///< how much smaller the next level is, at most
  Index smallest = 0;   ///< side of the smallest window in pixels of the picture; 0: `window`, so that none is enlarged
  Index largest = 0;    ///< of the largest; 0, or more than that: the picture's shorter side
};

/// One level of a pyramid: the picture scaled so that windows at each `stride` pixels end flush with its borders.
struct WindowLevel {
  PixelSize picture, size;  ///< of the whole picture, and of the level
  Index window = 0, stride = 0;

  Index columns() const { return (size.width - window) / stride + 1; }
  Index rows() const { return (size.height - window) / stride + 1; }
  Index count() const { return columns() * rows(); }

  /// The window of this column and row, x1, y1, x2, y2 in pixels of the picture.
  std::array<double, 4> box(Index column, Index row) const;
};

/// \throws OptionError
TRANSFERLIB_API void check_windows(const WindowPyramid& o);

/// The levels for a picture, the finest first. From one to the next the picture shrinks by one factor, `scale` or a
/// little less, so that the last level's window is just the largest. A level's sides are rounded to the window's and a
/// multiple of the stride, by half a stride at most; a picture smaller than the window is enlarged to it.
/// \throws OptionError
TRANSFERLIB_API std::vector<WindowLevel> window_levels(PixelSize picture, const WindowPyramid& o);

/// How many windows a picture has on all levels.
inline Index count_windows(const std::vector<WindowLevel>& levels) {
  Index out = 0;
  for (const WindowLevel& level : levels) out += level.count();
  return out;
}

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API std::array<double, 4> WindowLevel::box(Index column, Index row) const {
  const double x = static_cast<double>(picture.width) / static_cast<double>(size.width);
  const double y = static_cast<double>(picture.height) / static_cast<double>(size.height);
  const auto left = static_cast<double>(column * stride), top = static_cast<double>(row * stride);
  const auto side = static_cast<double>(window);
  return {left * x, top * y, (left + side) * x, (top + side) * y};
}

TRANSFERLIB_API void check_windows(const WindowPyramid& o) {
  if (o.window < 1 || o.stride < 1 || o.stride > o.window)
    throw OptionError(detail::text("a window of ", o.window, " pixels at each ", o.stride,
                                   " leaves parts of the picture out, or is none; the stride goes from 1 to the "
                                   "window's side"));
  if (!(o.scale > 1.0 && o.scale <= 8.0))
    throw OptionError(detail::text("the levels of a pyramid get smaller by a factor above 1, up to 8, not ", o.scale));
  if (o.smallest < 0 || o.largest < 0 || (o.largest != 0 && o.largest < std::max(o.smallest, Index{1})))
    throw OptionError(detail::text("windows from ", o.smallest, " to ", o.largest, " pixels of the picture are none"));
}

TRANSFERLIB_API std::vector<WindowLevel> window_levels(PixelSize picture, const WindowPyramid& o) {
  check_windows(o);
  if (picture.width < 1 || picture.height < 1)
    throw OptionError(detail::text("a picture of ", picture.width, " x ", picture.height, " pixels has no windows"));
  const auto shorter = static_cast<double>(std::min(picture.width, picture.height));
  const auto window = static_cast<double>(o.window);
  const double last = o.largest == 0 ? shorter : std::min(shorter, static_cast<double>(o.largest));
  const double first = std::min(last, o.smallest == 0 ? window : static_cast<double>(o.smallest));
  // A hair less, so that a whole number of steps is not one more by rounding.
  const auto steps = static_cast<Index>(std::ceil(std::log(last / first) / std::log(o.scale) - 1e-9));
  std::vector<WindowLevel> out;
  for (Index k = 0; k <= steps; ++k) {
    const double part = steps == 0 ? 1.0 : static_cast<double>(k) / static_cast<double>(steps);
    const double ratio = window / (first * std::pow(last / first, part));
    const auto side = [&](Index pixels) {
      const double beyond = static_cast<double>(pixels) * ratio - window;
      return o.window + o.stride * std::max<Index>(0, std::llround(beyond / static_cast<double>(o.stride)));
    };
    out.push_back({picture, {side(picture.width), side(picture.height)}, o.window, o.stride});
  }
  return out;
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

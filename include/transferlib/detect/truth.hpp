/// \file
/// Boxes that are there and boxes that were found, one by one, as metrics compare them. Free of LibTorch.
#pragma once

#include <array>

#include <transferlib/core/layers.hpp>

namespace transferlib {

/// A box that is there. Its picture is any number, its class one from 0 on.
struct TruthBox {
  Index picture = 0;
  Index label = 0;
  std::array<double, 4> box{};  ///< x, y of the left top corner, width, height, in pixels
  double area = -1.0;           ///< in pixels, of the object itself where it is known; below 0: width times height
  bool crowd = false;           ///< COCO: many objects in one box; what lies in it is neither right nor wrong
  bool difficult = false;       ///< VOC: what finds it is neither right nor wrong
  /// False: what finds the box counts as wrong, though the box is found. This is what pycocotools makes of an
  /// annotation whose id is 0.
  bool matchable = true;
};

/// A box that was detected.
struct DetectedBox {
  Index picture = 0;
  Index label = 0;
  std::array<double, 4> box{};  ///< x, y of the left top corner, width, height, in pixels
  double score = 0.0;           ///< the higher, the surer
};

}  // namespace transferlib

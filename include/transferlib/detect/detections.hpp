/// \file
/// What a detector finds in a picture.
#pragma once

#include <transferlib/core/tensors.hpp>

namespace transferlib {

/// The objects of one picture, the surest first: K classes, confidences and boxes.
struct Detections {
  Tensor boxes;   ///< (K, 4) float32: x1, y1, x2, y2 in pixels, of the network's input unless it is said otherwise
  Tensor scores;  ///< (K) float32, confidences in [0, 1]
  Tensor labels;  ///< (K) int64, indices of classes

  /// K.
  Index size() const { return scores.defined() ? scores.size(0) : 0; }
};

}  // namespace transferlib

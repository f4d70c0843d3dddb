/// \file
/// Boxes as shifts of other boxes, which is what a two-stage detector learns (Girshick et al., "Rich feature
/// hierarchies", CVPR 2014, appendix C). Boxes are x1, y1, x2, y2; the numbers are those of torchvision 0.29.1.
#pragma once

#include <array>
#include <cmath>

#include <ATen/ATen.h>

#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/detect/boxes.hpp>

namespace transferlib {

/// A code's four numbers: the shift of the centre in sides of the reference, and the logarithms of the ratios of width
/// and height, each times its weight.
struct BoxCoder {
  std::array<double, 4> weights{1.0, 1.0, 1.0, 1.0};
  double largest = std::log(1000.0 / 16.0);  ///< logarithms of ratios are cut here, so that no box becomes infinite

  /// The codes (…, 4) that turn `references` (…, 4) into `boxes` (…, 4). All need a width and a height.
  Tensor encode(const Tensor& boxes, const Tensor& references) const {
    const Form to(boxes), from(references);
    return at::stack({weights[0] * (to.x - from.x) / from.width, weights[1] * (to.y - from.y) / from.height,
                      weights[2] * (to.width / from.width).log(), weights[3] * (to.height / from.height).log()},
                     -1);
  }

  /// The boxes (…, 4) that the codes (…, 4) make of `references`, whose shape may be one that is broadcast.
  Tensor decode(const Tensor& codes, const Tensor& references) const;

 private:
  /// Centre and sides.
  struct Form {
    explicit Form(const Tensor& boxes);
    Tensor x, y, width, height;
  };
};

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API Tensor BoxCoder::decode(const Tensor& codes, const Tensor& references) const {
  detail::check_boxes(codes, "the codes of boxes");
  const Form from(references.to(codes.scalar_type()));
  const auto code = [&](Index i) { return codes.select(-1, i) / weights[static_cast<std::size_t>(i)]; };
  const Tensor x = code(0) * from.width + from.x, y = code(1) * from.height + from.y;
  const Tensor half_width = 0.5 * (code(2).clamp_max(largest).exp() * from.width);
  const Tensor half_height = 0.5 * (code(3).clamp_max(largest).exp() * from.height);
  return at::stack({x - half_width, y - half_height, x + half_width, y + half_height}, -1);
}

TRANSFERLIB_API BoxCoder::Form::Form(const Tensor& boxes) {
  detail::check_boxes(boxes, "boxes to encode or decode");
  width = boxes.select(-1, 2) - boxes.select(-1, 0);
  height = boxes.select(-1, 3) - boxes.select(-1, 1);
  x = boxes.select(-1, 0) + 0.5 * width;
  y = boxes.select(-1, 1) + 0.5 * height;
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

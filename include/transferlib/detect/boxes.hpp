/// \file
/// Boxes as tensors: forms, areas, clipping, how far they overlap (IoU, GIoU, DIoU, CIoU), placing on a canvas. A box
/// is four numbers in the last dimension; where nothing else is said they are x1, y1, x2, y2 in pixels: the left top
/// corner and the right bottom one, which lies outside. All but `clip_boxes` are those of torchvision.ops 0.29.1.
#pragma once

#include <string_view>
#include <utility>

#include <transferlib/core/error.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/detect/placement.hpp>

namespace transferlib {

/// What a box's four numbers are.
enum class BoxForm {
  xyxy,    ///< two opposite corners
  xywh,    ///< left top corner, width, height
  cxcywh,  ///< centre, width, height
};

/// How far two boxes overlap.
enum class Overlap {
  iou,   ///< the intersection's part of the union, in [0, 1]
  giou,  ///< less the part of the enclosing box that neither covers, in [-1, 1] (Rezatofighi et al., 2019)
  diou,  ///< IoU less the squared distance of the centres over the enclosing box's squared diagonal (Zheng et al.,
         ///< 2020)
  ciou,  ///< DIoU less a penalty for another ratio of the sides (Zheng et al., 2020)
};

namespace detail {

inline void check_boxes(const Tensor& boxes, std::string_view what) {
  if (!boxes.defined() || boxes.dim() < 1 || boxes.size(-1) != 4)
    throw DataError(text(what, " should have four numbers in the last dimension, for x1, y1, x2, y2"));
}

/// Whole numbers and half precision as float: products of sides overflow.
inline Tensor as_wide(const Tensor& boxes) {
  return boxes.scalar_type() == torch::kFloat || boxes.scalar_type() == torch::kDouble ? boxes
                                                                                       : boxes.to(torch::kFloat);
}

/// The overlap of boxes whose columns can be broadcast. \param epsilon is added to the union and the enclosing area
TRANSFERLIB_API Tensor overlap(const Tensor& first, const Tensor& second, Overlap kind, double epsilon);

}  // namespace detail

/// Boxes (…, 4) in another form. \throws DataError if there are not four numbers
TRANSFERLIB_API Tensor convert_boxes(const Tensor& boxes, BoxForm from, BoxForm to);

/// The areas (…) of boxes (…, 4), in pixels; float at least.
inline Tensor box_area(const Tensor& boxes) {
  detail::check_boxes(boxes, "boxes");
  const Tensor b = detail::as_wide(boxes);
  return (b.select(-1, 2) - b.select(-1, 0)) * (b.select(-1, 3) - b.select(-1, 1));
}

/// Boxes (…, 4) cut at the picture's borders.
inline Tensor clip_boxes(const Tensor& boxes, PixelSize picture) {
  detail::check_boxes(boxes, "boxes");
  const auto clip = [&](Index i, Index most) { return boxes.select(-1, i).clamp(0, most); };
  return torch::stack(
      {clip(0, picture.width), clip(1, picture.height), clip(2, picture.width), clip(3, picture.height)}, -1);
}

/// How far each of (…, N, 4) overlaps each of (…, M, 4): (…, N, M), with gradient. As torchvision's `box_iou`,
/// `generalized_box_iou`, `distance_box_iou` and `complete_box_iou`: two boxes without area give NaN.
/// \throws DataError if there are not four numbers
inline Tensor box_overlaps(const Tensor& a, const Tensor& b, Overlap kind = Overlap::iou) {
  detail::check_boxes(a, "the first boxes");
  detail::check_boxes(b, "the second boxes");
  if (a.dim() < 2 || b.dim() < 2) throw DataError("each with each needs boxes of the shapes (…, N, 4) and (…, M, 4)");
  return detail::overlap(a.unsqueeze(-2), b.unsqueeze(-3), kind, 0.0);
}

/// How far each of (…, 4) overlaps its partner of (…, 4): (…), with gradient; finite but for CIoU of boxes without
/// width and height. One minus it is torchvision's `generalized_box_iou_loss`, `distance_box_iou_loss` and
/// `complete_box_iou_loss`, which add 1e-7 to what they divide by.
/// \throws DataError if there are not four numbers
inline Tensor paired_overlaps(const Tensor& a, const Tensor& b, Overlap kind = Overlap::iou) {
  detail::check_boxes(a, "the first boxes");
  detail::check_boxes(b, "the second boxes");
  return detail::overlap(a, b, kind, 1e-7);
}

namespace detail {

TRANSFERLIB_API std::pair<Tensor, Tensor> shift_and_scale(const Tensor& boxes, const PicturePlacement& placement);

}  // namespace detail

/// Boxes (…, 4) of a picture, floating point, where it is placed on a canvas.
inline Tensor boxes_to_canvas(const Tensor& boxes, const PicturePlacement& placement) {
  const auto [shift, scale] = detail::shift_and_scale(boxes, placement);
  return boxes * scale + shift;
}

/// The inverse of `boxes_to_canvas`. Nothing is clipped.
inline Tensor boxes_to_picture(const Tensor& boxes, const PicturePlacement& placement) {
  const auto [shift, scale] = detail::shift_and_scale(boxes, placement);
  return (boxes - shift) / scale;
}

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API Tensor overlap(const Tensor& first, const Tensor& second, Overlap kind, double epsilon) {
  const Tensor a = as_wide(first), b = as_wide(second);
  const auto column = [](const Tensor& boxes, Index i) { return boxes.select(-1, i); };
  const Tensor x1 = column(a, 0), y1 = column(a, 1), x2 = column(a, 2), y2 = column(a, 3);
  const Tensor u1 = column(b, 0), v1 = column(b, 1), u2 = column(b, 2), v2 = column(b, 3);
  const Tensor wide = x2 - x1, high = y2 - y1, wide_b = u2 - u1, high_b = v2 - v1;
  const Tensor both = (x2.minimum(u2) - x1.maximum(u1)).clamp_min(0) * (y2.minimum(v2) - y1.maximum(v1)).clamp_min(0);
  const Tensor either = wide * high + wide_b * high_b - both;
  const Tensor iou = both / (either + epsilon);
  if (kind == Overlap::iou) return iou;
  const Tensor around_x = x2.maximum(u2) - x1.minimum(u1), around_y = y2.maximum(v2) - y1.minimum(v1);
  if (kind == Overlap::giou) {
    const Tensor around = around_x * around_y;
    return iou - (around - either) / (around + epsilon);
  }
  constexpr double small = 1e-7;
  const Tensor distance = ((x1 + x2 - u1 - u2) / 2).square() + ((y1 + y2 - v1 - v2) / 2).square();
  const Tensor diou = iou - distance / (around_x.square() + around_y.square() + small);
  if (kind == Overlap::diou) return diou;
  constexpr double pi = 3.14159265358979323846;
  // Of a box that rounding has left without a side, 0 / 0 would be no number, and would end a training.
  constexpr double least = 1e-9;
  const auto shape = [](const Tensor& w, const Tensor& h) { return (w.clamp_min(least) / h.clamp_min(least)).atan(); };
  const Tensor v = (shape(wide_b, high_b) - shape(wide, high)).square() * (4.0 / (pi * pi));
  // The trade-off is no part of the gradient.
  const Tensor alpha = v.detach() / (1.0 - iou.detach() + v.detach() + small);
  return diou - alpha * v;
}

}  // namespace transferlib::detail

namespace transferlib {

TRANSFERLIB_API Tensor convert_boxes(const Tensor& boxes, BoxForm from, BoxForm to) {
  detail::check_boxes(boxes, "boxes");
  if (from == to) return boxes.clone();
  const Tensor first = boxes.narrow(-1, 0, 2), second = boxes.narrow(-1, 2, 2);
  const auto pair = [](const Tensor& a, const Tensor& b) { return torch::cat({a, b}, -1); };
  const Tensor corner = from == BoxForm::cxcywh ? first - second / 2 : first;
  const Tensor size = from == BoxForm::xyxy ? second - first : second;
  if (to == BoxForm::xywh) return pair(corner, size);
  if (to == BoxForm::cxcywh) return pair(from == BoxForm::xyxy ? (first + second) / 2 : corner + size / 2, size);
  return pair(corner, from == BoxForm::cxcywh ? first + second / 2 : first + second);
}

}  // namespace transferlib

namespace transferlib::detail {

TRANSFERLIB_API std::pair<Tensor, Tensor> shift_and_scale(const Tensor& boxes, const PicturePlacement& placement) {
  check_boxes(boxes, "boxes");
  const auto x = static_cast<double>(placement.left), y = static_cast<double>(placement.top);
  return {torch::tensor({x, y, x, y}, torch::kDouble).to(boxes.options()),
          torch::tensor({placement.scale_x(), placement.scale_y(), placement.scale_x(), placement.scale_y()},
                        torch::kDouble)
              .to(boxes.options())};
}

}  // namespace transferlib::detail

#endif  // TRANSFERLIB_DEFINES

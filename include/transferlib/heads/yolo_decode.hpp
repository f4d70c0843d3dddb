/// \file
/// How the numbers of a YOLO head are boxes: a place in a cell, and a size beside an anchor's.
#pragma once

#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/detect/boxes.hpp>

namespace transferlib {

/// How a box's sides are told beside an anchor's.
enum class BoxSizes {
  exponential,  ///< anchor · exp(t): YOLO v2 to v4. t above 10 counts as 10
  squared,      ///< anchor · (2 σ(t))²: v5 and v7; what darknet calls `new_coords`
};

namespace detail {

/// Boxes (…, 4) of centre and size, by their corners.
inline Tensor to_corners(const Tensor& boxes) { return convert_boxes(boxes, BoxForm::cxcywh, BoxForm::xyxy); }

/// A map (N, A · values, h, w) as (N, h, w, A, values): a view of a map that lies in memory with its channels last, as
/// detectors' do, and so is its gradient.
inline Tensor by_place(const Tensor& map, Index anchors) {
  const Tensor last = map.permute({0, 2, 3, 1});
  return last.reshape({last.size(0), last.size(1), last.size(2), anchors, -1});
}

/// The columns and rows of a map's cells: (h, w, 2).
inline Tensor cell_grid(Index rows, Index columns, const at::TensorOptions& options) {
  return at::stack({at::arange(columns, options).unsqueeze(0).expand({rows, columns}),
                    at::arange(rows, options).unsqueeze(1).expand({rows, columns})},
                   -1);
}

/// What a level's boxes are told by.
struct BoxCode {
  double stride = 1.0;
  double sensitivity = 1.0;  ///< how far, in cells, a centre ranges: v4's `scale_x_y`
  BoxSizes sizes = BoxSizes::exponential;
};

/// The boxes (…, 4), centre x, centre y, width, height in pixels, of numbers (…, 4).
/// \param cell (…, 2) column and row. \param anchor (…, 2) width and height in pixels
TRANSFERLIB_API Tensor decode_boxes(const Tensor& t, const Tensor& cell, const Tensor& anchor, const BoxCode& code);

/// Of all places of a map (N, h, w, A, values): (N, h, w, A, 4). \param anchors (A, 2)
inline Tensor decode_map(const Tensor& map, const Tensor& anchors, const BoxCode& code) {
  return decode_boxes(map.narrow(-1, 0, 4), cell_grid(map.size(1), map.size(2), map.options()).unsqueeze(2), anchors,
                      code);
}

}  // namespace detail
}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API Tensor decode_boxes(const Tensor& t, const Tensor& cell, const Tensor& anchor, const BoxCode& code) {
  const double s = code.sensitivity;
  const Tensor centre = (t.narrow(-1, 0, 2).sigmoid() * s - (s - 1.0) / 2.0 + cell) * code.stride;
  const Tensor size = t.narrow(-1, 2, 2);
  return at::cat({centre, anchor * (code.sizes == BoxSizes::exponential ? size.clamp_max(10.0).exp()
                                                                        : (size.sigmoid() * 2.0).square())},
                 -1);
}

}  // namespace transferlib::detail

#endif  // TRANSFERLIB_DEFINES

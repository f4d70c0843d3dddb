/// \file
/// From the scored boxes of a picture to its detections: a threshold, suppression, and the surest.
#pragma once

#include <algorithm>
#include <tuple>

#include <transferlib/core/error.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/detect/detections.hpp>
#include <transferlib/detect/nms.hpp>

namespace transferlib {

/// How boxes of one class that overlap are dropped.
enum class Suppression {
  greedy,  ///< by IoU
  diou,    ///< by IoU less (d² / c²)^beta: darknet's `greedynms` with `beta_nms`
  none,
};

/// Which scored boxes are detections.
struct Selection {
  double score_threshold = 0.01;  ///< in [0, 1]; a score must be above
  Suppression suppression = Suppression::greedy;
  double overlap_threshold = 0.45;  ///< in [0, 1]: above, the less sure of two boxes goes
  double beta = 0.6;                ///< of `diou`
  Index most = 300;                 ///< detections of a picture
  Index candidates = 30000;         ///< scored boxes of a picture that are looked at, the surest
};

namespace detail {

/// \throws OptionError
TRANSFERLIB_API void check_selection(const Selection& s);

}  // namespace detail

/// The detections among boxes (K, 4), x1, y1, x2, y2, with a score for each class (K, classes). A box can be a
/// detection of several classes. Boxes with numbers that are not finite are dropped.
TRANSFERLIB_API Detections select_detections(const Tensor& boxes, const Tensor& scores, const Selection& options = {});

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API void check_selection(const Selection& s) {
  check_threshold(s.score_threshold, "score_threshold");
  check_threshold(s.overlap_threshold, "overlap_threshold");
  if (!(s.beta > 0.0)) throw OptionError(text("beta must be above 0, not ", s.beta));
  if (s.most < 1 || s.candidates < 1)
    throw OptionError(
        text("a picture must have room for a detection: most is ", s.most, ", candidates ", s.candidates));
}

}  // namespace transferlib::detail

namespace transferlib {

TRANSFERLIB_API Detections select_detections(const Tensor& boxes, const Tensor& scores, const Selection& options) {
  const torch::NoGradGuard guard;
  const Tensor good = scores.gt(options.score_threshold).logical_and(boxes.isfinite().all(1, true)).nonzero();
  Tensor row = good.select(1, 0), label = good.select(1, 1);
  Tensor score = scores.index({row, label}).to(at::kFloat);
  if (score.size(0) > options.candidates) {
    Tensor which;
    std::tie(score, which) = score.topk(options.candidates);
    row = row.index_select(0, which), label = label.index_select(0, which);
  }
  const Tensor box = boxes.index_select(0, row).to(at::kFloat);
  Tensor kept;
  switch (options.suppression) {
    case Suppression::greedy:
      kept = nms_by_class(box, score, label, options.overlap_threshold);
      break;
    case Suppression::diou:
      kept = diou_nms(box, score, label, {.threshold = options.overlap_threshold, .beta = options.beta});
      break;
    case Suppression::none:
      kept = std::get<1>(score.sort(true, 0, true));
      break;
  }
  kept = kept.narrow(0, 0, std::min(kept.size(0), options.most));
  return {box.index_select(0, kept), score.index_select(0, kept), label.index_select(0, kept)};
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

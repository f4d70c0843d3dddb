/// \file
/// Average precision of detections: COCO's twelve numbers and Pascal VOC's two definitions. Free of LibTorch.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/layers.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/detect/truth.hpp>

namespace transferlib {

/// COCO's twelve numbers, in [0, 1]; -1 where there is no box to find.
struct CocoNumbers {
  double ap = -1.0;         ///< mean over the IoU thresholds .5, .55 … .95
  double ap50 = -1.0;       ///< at IoU .5
  double ap75 = -1.0;       ///< at IoU .75
  double ap_small = -1.0;   ///< of objects of up to 32 x 32 pixels
  double ap_medium = -1.0;  ///< of objects from 32 x 32 up to 96 x 96
  double ap_large = -1.0;   ///< of objects from 96 x 96 on
  double ar1 = -1.0;        ///< highest recall with one detection a picture and class, mean over the IoU thresholds
  double ar10 = -1.0;       ///< with ten
  double ar100 = -1.0;      ///< with a hundred
  double ar_small = -1.0;
  double ar_medium = -1.0;
  double ar_large = -1.0;

  friend bool operator==(const CocoNumbers&, const CocoNumbers&) = default;
};

/// The numbers by name, in pycocotools' order.
inline constexpr std::array<std::pair<std::string_view, double CocoNumbers::*>, 12> coco_numbers{{
    {"ap", &CocoNumbers::ap},
    {"ap50", &CocoNumbers::ap50},
    {"ap75", &CocoNumbers::ap75},
    {"ap_small", &CocoNumbers::ap_small},
    {"ap_medium", &CocoNumbers::ap_medium},
    {"ap_large", &CocoNumbers::ap_large},
    {"ar1", &CocoNumbers::ar1},
    {"ar10", &CocoNumbers::ar10},
    {"ar100", &CocoNumbers::ar100},
    {"ar_small", &CocoNumbers::ar_small},
    {"ar_medium", &CocoNumbers::ar_medium},
    {"ar_large", &CocoNumbers::ar_large},
}};

/// Of one class: the numbers, and the curve behind `ap50`.
struct CocoClass {
  CocoNumbers numbers;
  /// The precision at IoU .5 where the recall is 0, .01, … 1, made monotonous; empty where there is no box to find.
  std::vector<double> precision;
};

/// What `coco_average_precision` finds.
struct CocoResult {
  CocoNumbers mean;                ///< over the classes that have a box to find
  std::vector<CocoClass> classes;  ///< one a class
};

/// How COCO's numbers are counted.
struct CocoOptions {
  /// How many of a picture's detections of a class count, the surest first; in rising order. `ar1`, `ar10` and `ar100`
  /// are named after these; all other numbers use the last.
  std::array<Index, 3> most_detections{1, 10, 100};
};

/// How VOC's numbers are counted.
struct VocOptions {
  double iou = 0.5;            ///< from which on a box is found
  bool eleven_points = false;  ///< VOC's definition up to 2009: the mean over eleven recalls; else the area
};

/// What `voc_average_precision` finds: -1 for a class without a box to find.
struct VocResult {
  double mean = -1.0;           ///< over the classes that have a box to find
  std::vector<double> classes;  ///< one a class
};

namespace detail {

/// The intersection's part of the union, as pycocotools computes it; of the detection's own area where `crowd`.
TRANSFERLIB_API double box_iou(const std::array<double, 4>& found, const std::array<double, 4>& there,
                               bool crowd = false);

TRANSFERLIB_API void check_box(std::string_view what, std::size_t number, Index label, const std::array<double, 4>& box,
                               Index classes);

/// \throws DataError for a class that is none, a box or a score that is no number.
TRANSFERLIB_API void check_boxes(std::span<const TruthBox> truth, std::span<const DetectedBox> detections,
                                 Index classes);

/// Boxes' numbers sorted by class, then picture; equal ones stay in order. With `by_score`, the surest of a picture's
/// come first.
template <class Box>
std::vector<std::size_t> order_by_class(std::span<const Box> boxes, bool by_score) {
  std::vector<std::size_t> order(boxes.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t i, std::size_t j) {
    const Box &a = boxes[i], &b = boxes[j];
    if (a.label != b.label) return a.label < b.label;
    if (a.picture != b.picture) return a.picture < b.picture;
    if constexpr (std::same_as<Box, DetectedBox>) return by_score && a.score > b.score;
    return false;
  });
  return order;
}

/// Walks the pictures of one class: `visit(truth, detections)` is given the numbers of a picture's boxes, pictures in
/// rising order. Both lists are in `order_by_class`; `from` and `at` stand at the class and are moved behind it.
template <class Visit>
void each_picture(Index label, std::span<const TruthBox> truth, std::span<const DetectedBox> detections,
                  std::span<const std::size_t>& truth_order, std::span<const std::size_t>& detection_order,
                  const Visit& visit) {
  const auto take = [&](const auto& boxes, std::span<const std::size_t>& order, Index picture) {
    std::size_t n = 0;
    while (n < order.size() && boxes[order[n]].label == label && boxes[order[n]].picture == picture) ++n;
    const auto out = order.first(n);
    order = order.subspan(n);
    return out;
  };
  for (;;) {
    const bool more_truth = !truth_order.empty() && truth[truth_order[0]].label == label;
    const bool more = !detection_order.empty() && detections[detection_order[0]].label == label;
    if (!more_truth && !more) return;
    constexpr Index none = std::numeric_limits<Index>::max();
    const Index picture = std::min(more_truth ? truth[truth_order[0]].picture : none,
                                   more ? detections[detection_order[0]].picture : none);
    const auto t = take(truth, truth_order, picture);
    visit(t, take(detections, detection_order, picture));
  }
}

/// COCO's evaluation of one class: pictures are added, then the numbers asked for.
class CocoEvaluation {
 public:
  explicit CocoEvaluation(const std::array<Index, 3>& most) : most_(most) {
    for (std::size_t t = 0; t < thresholds; ++t)  // numpy's linspace(.5, .95, 10)
      iou_[t] = t + 1 == thresholds ? 0.95 : static_cast<double>(t) * ((0.95 - 0.5) / 9.0) + 0.5;
  }

  /// \param found the picture's detections of the class, the surest first
  void add(std::span<const TruthBox> all_truth, std::span<const DetectedBox> all_found,
           std::span<const std::size_t> truth, std::span<const std::size_t> found);

  CocoClass finish();

 private:
  static constexpr std::size_t thresholds = 10, recalls = 101;
  static constexpr std::array<std::array<double, 2>, 4> areas{
      {{0.0, 1e10}, {0.0, 32.0 * 32.0}, {32.0 * 32.0, 96.0 * 96.0}, {96.0 * 96.0, 1e10}}};
  enum class Outcome : std::uint8_t { wrong, right, ignored };
  struct Entry {
    double score;
    std::size_t rank;  ///< among its picture's
    std::array<std::array<Outcome, thresholds>, areas.size()> outcome;
  };
  struct Curve {
    double ap, recall;
  };

  /// Gives each detection of a picture the best box that is still free, the surest detection first.
  void match(std::size_t a, std::span<const TruthBox> all_truth, std::span<const DetectedBox> all_found,
             std::span<const std::size_t> truth, std::span<const std::size_t> found, std::size_t first);

  /// Precision over recall of one area range at one threshold; `precision_` is left at the recalls asked for.
  Curve curve_of(std::size_t a, std::size_t t);

  /// The recall over all areas, mean over the thresholds, of each picture's `most` surest detections.
  double recall_within(Index most) const;

  struct Point {
    double recall, precision;
  };

  std::array<Index, 3> most_;
  std::array<double, thresholds> iou_{};
  std::array<std::size_t, areas.size()> wanted_{};
  std::vector<Entry> entries_;
  std::vector<double> ious_, best_, precision_;
  std::vector<Point> points_;
  std::vector<std::size_t> order_;
  std::vector<bool> ignored_, taken_;
};

/// The mean of what is not -1; -1 of nothing.
class MeanOfPresent {
 public:
  void add(double value) {
    if (value <= -1.0) return;
    sum_ += value;
    ++count_;
  }
  double value() const { return count_ == 0 ? -1.0 : sum_ / static_cast<double>(count_); }

 private:
  double sum_ = 0.0;
  std::size_t count_ = 0;
};

}  // namespace detail

/// COCO's evaluation of boxes, as pycocotools 2.0.11 computes it (`COCOeval` with `iouType` "bbox"): its matching,
/// where the surest detection takes the best box that is free; its crowd regions and area ranges; its 101 recalls. Of
/// equal scores, the detection of the lower picture, then the one that stands first, comes first. `difficult` means
/// nothing here.
/// \param truth, detections in any order, of any number of pictures
/// \param classes how many classes there are
/// \throws DataError for a class that is none, a box or a score that is no number; OptionError
TRANSFERLIB_API CocoResult coco_average_precision(std::span<const TruthBox> truth,
                                                  std::span<const DetectedBox> detections, Index classes,
                                                  const CocoOptions& options = {});

/// Pascal VOC's average precision (Everingham et al., 2010): each detection, the surest first, finds the box of its
/// picture and class that it overlaps most; it is right where that overlap reaches `iou` and the box was not found
/// before, ignored where the box is difficult, else wrong. The area under the curve made monotonous, or with
/// `eleven_points` the mean of its precisions at the recalls 0, .1, … 1. VOC's corners are pixels of the box, so that
/// its width is xmax - xmin + 1. `crowd` and `area` mean nothing here.
/// \throws DataError for a class that is none, a box or a score that is no number; OptionError
TRANSFERLIB_API VocResult voc_average_precision(std::span<const TruthBox> truth,
                                                std::span<const DetectedBox> detections, Index classes,
                                                const VocOptions& options = {});

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API double box_iou(const std::array<double, 4>& found, const std::array<double, 4>& there, bool crowd) {
  const double width = std::min(found[2] + found[0], there[2] + there[0]) - std::max(found[0], there[0]);
  if (width <= 0.0) return 0.0;
  const double height = std::min(found[3] + found[1], there[3] + there[1]) - std::max(found[1], there[1]);
  if (height <= 0.0) return 0.0;
  const double both = width * height, area = found[2] * found[3];
  return both / (crowd ? area : area + there[2] * there[3] - both);
}

TRANSFERLIB_API void check_box(std::string_view what, std::size_t number, Index label, const std::array<double, 4>& box,
                               Index classes) {
  if (label < 0 || label >= classes)
    throw DataError(
        text(what, " ", number, " is of class ", label, ", but there are ", classes, " classes, from 0 on"));
  for (std::size_t i = 0; i < 4; ++i)
    if (!std::isfinite(box[i]) || (i >= 2 && box[i] < 0.0))
      throw DataError(text(what, " ", number, " has the box ", box[0], ", ", box[1], ", ", box[2], ", ", box[3],
                           "; x, y, width and height must be finite, the sides not negative"));
}

TRANSFERLIB_API void check_boxes(std::span<const TruthBox> truth, std::span<const DetectedBox> detections,
                                 Index classes) {
  if (classes < 0) throw OptionError(text("the number of classes can't be ", classes));
  for (std::size_t i = 0; i < truth.size(); ++i) {
    check_box("the true box", i, truth[i].label, truth[i].box, classes);
    if (std::isnan(truth[i].area)) throw DataError(text("the true box ", i, " has an area that is not a number"));
  }
  for (std::size_t i = 0; i < detections.size(); ++i) {
    check_box("the detection", i, detections[i].label, detections[i].box, classes);
    if (std::isnan(detections[i].score))
      throw DataError(text("the detection ", i, " has a score that is not a number"));
  }
}

TRANSFERLIB_API void CocoEvaluation::add(std::span<const TruthBox> all_truth, std::span<const DetectedBox> all_found,
                                         std::span<const std::size_t> truth, std::span<const std::size_t> found) {
  found = found.first(std::min(found.size(), static_cast<std::size_t>(most_.back())));
  ious_.assign(found.size() * truth.size(), 0.0);
  best_.assign(found.size(), 0.0);
  for (std::size_t d = 0; d < found.size(); ++d) {
    for (std::size_t g = 0; g < truth.size(); ++g) {
      const TruthBox& there = all_truth[truth[g]];
      const double iou = box_iou(all_found[found[d]].box, there.box, there.crowd);
      ious_[d * truth.size() + g] = iou;
      best_[d] = std::max(best_[d], iou);
    }
  }
  const std::size_t first = entries_.size();
  for (std::size_t d = 0; d < found.size(); ++d) entries_.push_back({all_found[found[d]].score, d, {}});
  for (std::size_t a = 0; a < areas.size(); ++a) match(a, all_truth, all_found, truth, found, first);
}

TRANSFERLIB_API CocoClass CocoEvaluation::finish() {
  CocoClass out;
  std::stable_sort(entries_.begin(), entries_.end(), [](const Entry& a, const Entry& b) { return a.score > b.score; });
  CocoNumbers& n = out.numbers;
  constexpr std::array by_area{&CocoNumbers::ap, &CocoNumbers::ap_small, &CocoNumbers::ap_medium,
                               &CocoNumbers::ap_large};
  constexpr std::array recall_by_area{&CocoNumbers::ar100, &CocoNumbers::ar_small, &CocoNumbers::ar_medium,
                                      &CocoNumbers::ar_large};
  for (std::size_t a = 0; a < areas.size(); ++a) {
    if (wanted_[a] == 0) continue;
    double ap = 0.0, ar = 0.0;
    for (std::size_t t = 0; t < thresholds; ++t) {
      const Curve curve = curve_of(a, t);
      ap += curve.ap;
      ar += curve.recall;
      if (a != 0) continue;
      if (t == 0) {
        n.ap50 = curve.ap;
        out.precision = precision_;
      }
      if (t == 5) n.ap75 = curve.ap;
    }
    n.*by_area[a] = ap / static_cast<double>(thresholds);
    n.*recall_by_area[a] = ar / static_cast<double>(thresholds);
  }
  if (wanted_[0] != 0) {
    n.ar1 = recall_within(most_[0]);
    n.ar10 = recall_within(most_[1]);
  }
  return out;
}

TRANSFERLIB_API void CocoEvaluation::match(std::size_t a, std::span<const TruthBox> all_truth,
                                           std::span<const DetectedBox> all_found, std::span<const std::size_t> truth,
                                           std::span<const std::size_t> found, std::size_t first) {
  const auto outside = [&](double area) { return area < areas[a][0] || area > areas[a][1]; };
  ignored_.resize(truth.size());
  for (std::size_t g = 0; g < truth.size(); ++g) {
    const TruthBox& there = all_truth[truth[g]];
    ignored_[g] = there.crowd || outside(there.area < 0.0 ? there.box[2] * there.box[3] : there.area);
  }
  // What is ignored is matched last.
  order_.resize(truth.size());
  std::iota(order_.begin(), order_.end(), std::size_t{0});
  const auto last = std::stable_partition(order_.begin(), order_.end(), [&](std::size_t g) { return !ignored_[g]; });
  const auto counted = static_cast<std::size_t>(last - order_.begin());
  wanted_[a] += counted;
  for (std::size_t t = 0; t < thresholds; ++t) {
    taken_.assign(truth.size(), false);
    for (std::size_t d = 0; d < found.size(); ++d) {
      Outcome& outcome = entries_[first + d].outcome[a][t];
      const DetectedBox& box = all_found[found[d]];
      const Outcome unmatched = outside(box.box[2] * box.box[3]) ? Outcome::ignored : Outcome::wrong;
      double iou = std::min(iou_[t], 1.0 - 1e-10);
      std::size_t match = truth.size();
      for (std::size_t k = 0; k < truth.size() && best_[d] >= iou; ++k) {
        const std::size_t g = order_[k];
        if (taken_[g] && !all_truth[truth[g]].crowd) continue;
        if (k >= counted && match != truth.size() && !ignored_[match]) break;
        if (ious_[d * truth.size() + g] < iou) continue;
        iou = ious_[d * truth.size() + g];
        match = g;
      }
      if (match != truth.size()) taken_[match] = true;
      if (match != truth.size() && ignored_[match])
        outcome = Outcome::ignored;
      else
        outcome = match != truth.size() && all_truth[truth[match]].matchable ? Outcome::right : unmatched;
    }
  }
}

TRANSFERLIB_API CocoEvaluation::Curve CocoEvaluation::curve_of(std::size_t a, std::size_t t) {
  points_.clear();
  double right = 0.0, wrong = 0.0;
  const double all = static_cast<double>(wanted_[a]);
  for (const Entry& e : entries_) {
    right += e.outcome[a][t] == Outcome::right ? 1.0 : 0.0;
    wrong += e.outcome[a][t] == Outcome::wrong ? 1.0 : 0.0;
    points_.push_back({right / all, right / (wrong + right + std::numeric_limits<double>::epsilon())});
  }
  for (std::size_t i = points_.size(); i-- > 1;)
    points_[i - 1].precision = std::max(points_[i - 1].precision, points_[i].precision);
  precision_.assign(recalls, 0.0);
  std::size_t i = 0;
  for (std::size_t r = 0; r < recalls; ++r) {
    while (i < points_.size() && points_[i].recall < static_cast<double>(r) * 0.01) ++i;
    if (i == points_.size()) break;
    precision_[r] = points_[i].precision;
  }
  return {std::accumulate(precision_.begin(), precision_.end(), 0.0) / static_cast<double>(recalls), right / all};
}

TRANSFERLIB_API double CocoEvaluation::recall_within(Index most) const {
  std::size_t right = 0;
  for (const Entry& e : entries_)
    if (e.rank < static_cast<std::size_t>(most))
      right += static_cast<std::size_t>(std::count(e.outcome[0].begin(), e.outcome[0].end(), Outcome::right));
  return static_cast<double>(right) / static_cast<double>(wanted_[0]) / static_cast<double>(thresholds);
}

}  // namespace transferlib::detail

namespace transferlib {

TRANSFERLIB_API CocoResult coco_average_precision(std::span<const TruthBox> truth,
                                                  std::span<const DetectedBox> detections, Index classes,
                                                  const CocoOptions& options) {
  detail::check_boxes(truth, detections, classes);
  const auto& most = options.most_detections;
  if (most[0] < 1 || most[1] < most[0] || most[2] < most[1])
    throw OptionError(
        detail::text("most_detections must rise from at least 1, not ", most[0], ", ", most[1], ", ", most[2]));
  const auto truth_order = detail::order_by_class(truth, false);
  const auto detection_order = detail::order_by_class(detections, true);
  std::span<const std::size_t> truth_left = truth_order, detections_left = detection_order;
  CocoResult out;
  std::array<detail::MeanOfPresent, coco_numbers.size()> means;
  for (Index label = 0; label < classes; ++label) {
    detail::CocoEvaluation evaluation(most);
    detail::each_picture(label, truth, detections, truth_left, detections_left,
                         [&](std::span<const std::size_t> there, std::span<const std::size_t> found) {
                           evaluation.add(truth, detections, there, found);
                         });
    out.classes.push_back(evaluation.finish());
    for (std::size_t i = 0; i < means.size(); ++i) means[i].add(out.classes.back().numbers.*coco_numbers[i].second);
  }
  for (std::size_t i = 0; i < means.size(); ++i) out.mean.*coco_numbers[i].second = means[i].value();
  return out;
}

TRANSFERLIB_API VocResult voc_average_precision(std::span<const TruthBox> truth,
                                                std::span<const DetectedBox> detections, Index classes,
                                                const VocOptions& options) {
  detail::check_boxes(truth, detections, classes);
  if (!(options.iou > 0.0 && options.iou <= 1.0))
    throw OptionError(detail::text("iou must be in (0, 1], not ", options.iou));
  const auto truth_order = detail::order_by_class(truth, false);
  const auto detection_order = detail::order_by_class(detections, true);
  std::span<const std::size_t> truth_left = truth_order, detections_left = detection_order;
  VocResult out;
  detail::MeanOfPresent mean;
  for (Index label = 0; label < classes; ++label) {
    std::size_t wanted = 0;
    std::vector<std::pair<double, bool>> outcomes;  // score, right
    std::vector<bool> taken;
    detail::each_picture(label, truth, detections, truth_left, detections_left,
                         [&](std::span<const std::size_t> there, std::span<const std::size_t> found) {
                           taken.assign(there.size(), false);
                           for (const std::size_t g : there) wanted += truth[g].difficult ? 0 : 1;
                           for (const std::size_t d : found) {
                             double best = 0.0;
                             std::size_t match = there.size();
                             for (std::size_t g = 0; g < there.size(); ++g) {
                               const double iou = detail::box_iou(detections[d].box, truth[there[g]].box);
                               if (iou > best) {
                                 best = iou;
                                 match = g;
                               }
                             }
                             const bool reaches = best >= options.iou;
                             if (reaches && truth[there[match]].difficult) continue;
                             outcomes.emplace_back(detections[d].score, reaches && !taken[match]);
                             if (reaches) taken[match] = true;
                           }
                         });
    std::stable_sort(outcomes.begin(), outcomes.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
    std::vector<double> recall, precision;
    double right = 0.0;
    for (const auto& outcome : outcomes) {
      right += outcome.second ? 1.0 : 0.0;
      recall.push_back(right / static_cast<double>(wanted));
      precision.push_back(right / static_cast<double>(recall.size()));
    }
    for (std::size_t i = precision.size(); i-- > 1;) precision[i - 1] = std::max(precision[i - 1], precision[i]);
    double ap = 0.0;
    if (options.eleven_points) {
      for (int point = 0; point <= 10; ++point) {
        const auto at = std::lower_bound(recall.begin(), recall.end(), point / 10.0);
        if (at != recall.end()) ap += precision[static_cast<std::size_t>(at - recall.begin())] / 11.0;
      }
    } else {
      for (std::size_t i = 0; i < recall.size(); ++i) ap += (recall[i] - (i == 0 ? 0.0 : recall[i - 1])) * precision[i];
    }
    out.classes.push_back(wanted == 0 ? -1.0 : ap);
    mean.add(out.classes.back());
  }
  out.mean = mean.value();
  return out;
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

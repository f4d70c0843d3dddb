/// \file
/// Suppression and fusion of boxes that show the same thing: greedy, by class, with the distance of the centres, soft;
/// and weighted boxes fusion. Boxes are (N, 4), x1, y1, x2, y2; they are computed with on the CPU, without gradient.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>

namespace transferlib {

/// How far boxes of one class may overlap by `diou_nms`.
struct DiouNmsOptions {
  double threshold = 0.45;
  double beta = 0.6;  ///< darknet's `beta_nms`; the less, the more counts a distance of the centres
};

/// How scores fall beside a surer box.
struct SoftNmsOptions {
  /// By 1 - IoU from a threshold on, or by exp(-IoU² / sigma) everywhere.
  enum class Decay { linear, gaussian };
  Decay decay = Decay::gaussian;
  double threshold = 0.3;     ///< linear: the IoU from which on a score falls
  double sigma = 0.5;         ///< gaussian: the less, the faster it falls
  double least_score = 1e-3;  ///< boxes that fall below are dropped
};

/// What `soft_nms` keeps, in the order in which it was kept: the scores fall.
struct SoftNmsResult {
  Tensor indices;  ///< (K) int64
  Tensor scores;   ///< (K), as they have fallen
};

/// How boxes are fused.
struct FusionOptions {
  /// What the fused box's score is, of those of its boxes.
  enum class Score { average, highest };
  double threshold = 0.55;  ///< the IoU above which boxes are fused
  Score score = Score::average;
  Index models = 1;          ///< how many detectors, or views, the boxes come from
  double least_score = 0.0;  ///< boxes below are dropped
};

/// Boxes, scores and classes, the surest first.
struct FusedBoxes {
  Tensor boxes;   ///< (K, 4)
  Tensor scores;  ///< (K)
  Tensor labels;  ///< (K) int64
};

namespace detail {

inline void check_threshold(double value, std::string_view name) {
  if (!(value >= 0.0 && value <= 1.0)) throw OptionError(text(name, " must be in [0, 1], not ", value));
}

/// \throws DataError
TRANSFERLIB_API void check_nms(const Tensor& boxes, const Tensor& scores, const Tensor* labels = nullptr);

/// On the CPU, in a row, of one type.
inline Tensor flat(const Tensor& x, c10::ScalarType type) { return x.detach().to(torch::kCPU, type).contiguous(); }

template <class T>
std::span<const T> values_of(const Tensor& flat) {
  return {flat.data_ptr<T>(), static_cast<std::size_t>(flat.numel())};
}

/// Of a tensor on the CPU, a tensor of values on the device of another.
template <class T>
Tensor tensor_of(const std::vector<T>& values, c10::ScalarType type, const Tensor& like) {
  Tensor out = torch::empty({static_cast<Index>(values.size())}, torch::TensorOptions(type));
  std::copy(values.begin(), values.end(), out.data_ptr<T>());
  return out.to(like.device());
}

/// The numbers of scores, the highest first; equal ones stay in order.
template <class T>
std::vector<std::int64_t> falling(std::span<const T> scores) {
  std::vector<std::int64_t> out(scores.size());
  std::iota(out.begin(), out.end(), std::int64_t{0});
  std::stable_sort(out.begin(), out.end(), [&](std::int64_t a, std::int64_t b) {
    return scores[static_cast<std::size_t>(a)] > scores[static_cast<std::size_t>(b)];
  });
  return out;
}

template <class T>
struct Corners {
  T x1, y1, x2, y2;

  T area() const { return (x2 - x1) * (y2 - y1); }
  /// 0 for boxes that don't meet.
  T iou(const Corners& other) const {
    const T wide = std::min(x2, other.x2) - std::max(x1, other.x1);
    const T high = std::min(y2, other.y2) - std::max(y1, other.y1);
    if (!(wide > 0) || !(high > 0)) return 0;
    const T both = wide * high;
    return both / (area() + other.area() - both);
  }
};

template <class T>
std::vector<Corners<T>> corners_of(const Tensor& flat) {
  std::vector<Corners<T>> out(static_cast<std::size_t>(flat.size(0)));
  const T* at = flat.data_ptr<T>();
  for (Corners<T>& c : out) {
    c = {at[0], at[1], at[2], at[3]};
    at += 4;
  }
  return out;
}

/// The boxes kept so far, in the cells of a grid that they cover.
///
/// Above an IoU of t, two boxes share more than the part t of the longer of their sides, in x and in y. So one of
/// ceil(1 / t) - 1 points a side, evenly spread in the one, lies in the other, and it is enough to look into these
/// points' cells. From t = .5 on that is the centre, and it is nearer to the other's than 1 - t of the other's sides.
template <class T>
class KeptBoxes {
 public:
  KeptBoxes(std::span<const Corners<T>> boxes, std::span<const std::int64_t> order, double threshold) : boxes_(boxes) {
    const double points = std::ceil(1.0 / threshold) - 1.0;
    if (points > 8.0 || order.size() < 32) return;  // one cell
    points_ = std::max(1, static_cast<int>(points));
    inset_ = static_cast<T>(std::max(0.0, threshold - 0.5));
    side_ = std::max(1, static_cast<int>(std::sqrt(static_cast<double>(order.size())) / 4.0));
    T low_x = std::numeric_limits<T>::max(), low_y = low_x, high_x = std::numeric_limits<T>::lowest(), high_y = high_x;
    for (const std::int64_t i : order) {
      const Corners<T>& c = boxes[static_cast<std::size_t>(i)];
      low_x = std::min(low_x, c.x1);
      low_y = std::min(low_y, c.y1);
      high_x = std::max(high_x, c.x2);
      high_y = std::max(high_y, c.y2);
    }
    x_ = Axis(low_x, high_x, side_);
    y_ = Axis(low_y, high_y, side_);
    cells_.resize(static_cast<std::size_t>(side_) * static_cast<std::size_t>(side_));
  }

  void add(std::int64_t index) {
    const Corners<T>& c = boxes_[static_cast<std::size_t>(index)];
    // So that rounding puts no point of the box into a cell that is not its own.
    const T x_inset = inset_ * (c.x2 - c.x1), y_inset = inset_ * (c.y2 - c.y1);
    const int left = x_.cell(c.x1 + x_inset, -1), right = x_.cell(c.x2 - x_inset, 1);
    const int top = y_.cell(c.y1 + y_inset, -1), bottom = y_.cell(c.y2 - y_inset, 1);
    for (int y = top; y <= bottom; ++y)
      for (int x = left; x <= right; ++x) cell(x, y).push_back(c);
  }

  /// Whether `suppresses(kept box)` for one that could overlap this box by more than the threshold.
  template <class Suppresses>
  bool any(const Corners<T>& box, const Suppresses& suppresses) const {
    for (int i = 1; i <= points_; ++i) {
      const int y = y_.cell(box.y1 + (box.y2 - box.y1) * static_cast<T>(i) / static_cast<T>(points_ + 1), 0);
      for (int j = 1; j <= points_; ++j) {
        const int x = x_.cell(box.x1 + (box.x2 - box.x1) * static_cast<T>(j) / static_cast<T>(points_ + 1), 0);
        for (const Corners<T>& kept : cell(x, y))
          if (suppresses(kept)) return true;
      }
    }
    return false;
  }

 private:
  struct Axis {
    Axis() = default;
    Axis(T low, T high, int cells) : low_(low), last_(cells - 1) {
      const double extent = static_cast<double>(high) - static_cast<double>(low);
      if (extent > 0.0) per_pixel_ = static_cast<double>(cells) / extent;
      // A few steps of T at the far end.
      margin_ = 8.0 * static_cast<double>(std::numeric_limits<T>::epsilon()) *
                std::max(std::abs(static_cast<double>(low)), std::abs(static_cast<double>(high)));
    }
    int cell(T at, int margins) const {
      const double place = (static_cast<double>(at) - static_cast<double>(low_) + margins * margin_) * per_pixel_;
      return static_cast<int>(std::clamp(place, 0.0, static_cast<double>(last_)));
    }

   private:
    T low_ = 0;
    int last_ = 0;
    double per_pixel_ = 0.0, margin_ = 0.0;
  };
  std::vector<Corners<T>>& cell(int x, int y) { return cells_[static_cast<std::size_t>(y * side_ + x)]; }
  const std::vector<Corners<T>>& cell(int x, int y) const { return cells_[static_cast<std::size_t>(y * side_ + x)]; }

  std::span<const Corners<T>> boxes_;
  int points_ = 1, side_ = 1;
  T inset_ = 0;
  Axis x_, y_;
  std::vector<std::vector<Corners<T>>> cells_{1};
};

/// Marks what greedy suppression keeps of boxes of one class, given the surest first. `beta` 0: by IoU alone.
template <class T>
void suppress(std::span<const Corners<T>> boxes, std::span<const std::int64_t> order, double threshold, double beta,
              std::vector<bool>& keep) {
  KeptBoxes<T> kept(boxes, order, threshold);
  for (const std::int64_t i : order) {
    const Corners<T>& box = boxes[static_cast<std::size_t>(i)];
    keep[static_cast<std::size_t>(i)] = true;
    if (!(box.x2 > box.x1) || !(box.y2 > box.y1)) continue;  // overlaps nothing
    const bool suppressed = kept.any(box, [&](const Corners<T>& other) {
      const double iou = static_cast<double>(other.iou(box));
      if (!(iou > threshold) || beta == 0.0) return iou > threshold;
      const T wide = std::max(other.x2, box.x2) - std::min(other.x1, box.x1);
      const T high = std::max(other.y2, box.y2) - std::min(other.y1, box.y1);
      const T dx = (other.x1 + other.x2 - box.x1 - box.x2) / 2, dy = (other.y1 + other.y2 - box.y1 - box.y2) / 2;
      return iou - std::pow(static_cast<double>((dx * dx + dy * dy) / (wide * wide + high * high)), beta) > threshold;
    });
    if (suppressed)
      keep[static_cast<std::size_t>(i)] = false;
    else
      kept.add(i);
  }
}

/// Greedy suppression, by class where there are labels. The indices kept, the surest first.
template <class T>
std::vector<std::int64_t> greedy(const Tensor& boxes, const Tensor& scores, const Tensor* labels, double threshold,
                                 double beta) {
  const auto type = c10::CppTypeToScalarType<T>::value;
  const Tensor flat_scores = flat(scores, scores.scalar_type() == torch::kDouble ? torch::kDouble : torch::kFloat);
  const auto order = flat_scores.scalar_type() == torch::kDouble ? falling(values_of<double>(flat_scores))
                                                                 : falling(values_of<float>(flat_scores));
  const auto corners = corners_of<T>(flat(boxes, type));
  std::vector<bool> keep(order.size());
  if (labels == nullptr) {
    suppress<T>(corners, order, threshold, beta, keep);
  } else {
    const Tensor flat_labels = flat(*labels, torch::kLong);
    const auto label = values_of<std::int64_t>(flat_labels);
    auto by_class = order;
    std::stable_sort(by_class.begin(), by_class.end(), [&](std::int64_t a, std::int64_t b) {
      return label[static_cast<std::size_t>(a)] < label[static_cast<std::size_t>(b)];
    });
    for (std::span<const std::int64_t> left = by_class; !left.empty();) {
      std::size_t n = 1;
      while (n < left.size() && label[static_cast<std::size_t>(left[n])] == label[static_cast<std::size_t>(left[0])])
        ++n;
      suppress<T>(corners, left.first(n), threshold, beta, keep);
      left = left.subspan(n);
    }
  }
  std::vector<std::int64_t> out;
  for (const std::int64_t i : order)
    if (keep[static_cast<std::size_t>(i)]) out.push_back(i);
  return out;
}

TRANSFERLIB_API Tensor greedy_nms(const Tensor& boxes, const Tensor& scores, const Tensor* labels, double threshold,
                                  double beta);

}  // namespace detail

/// Greedy non-maximum suppression: the surest box is kept, all that overlap it by more than `threshold` are dropped,
/// and so on. The indices of what is kept, (K) int64, the surest first, of equal scores the first; those of
/// `torchvision.ops.nms`.
/// \param scores (N)
/// \param threshold an IoU in [0, 1]
/// \throws DataError for other shapes and numbers that are not finite; OptionError
inline Tensor nms(const Tensor& boxes, const Tensor& scores, double threshold) {
  return detail::greedy_nms(boxes, scores, nullptr, threshold, 0.0);
}

/// Greedy non-maximum suppression class by class: as `torchvision.ops.batched_nms`, whose shortcut for up to 1,000
/// boxes (classes are moved apart) differs where an IoU is the threshold but for rounding. \param labels (N), whole
/// numbers
inline Tensor nms_by_class(const Tensor& boxes, const Tensor& scores, const Tensor& labels, double threshold) {
  return detail::greedy_nms(boxes, scores, &labels, threshold, 0.0);
}

/// Greedy suppression class by class by IoU - (d² / c²)^beta instead of IoU: d is the distance of the centres, c the
/// diagonal of the box around both. DIoU-NMS (Zheng et al., 2020) with darknet's exponent `beta_nms`.
/// \param labels (N), whole numbers
/// \throws DataError for other shapes and numbers that are not finite; OptionError
inline Tensor diou_nms(const Tensor& boxes, const Tensor& scores, const Tensor& labels,
                       const DiouNmsOptions& options = {}) {
  if (!(options.beta > 0.0)) throw OptionError(detail::text("beta must be above 0, not ", options.beta));
  return detail::greedy_nms(boxes, scores, &labels, options.threshold, options.beta);
}

/// Soft-NMS (Bodla et al., 2017) of boxes of one class: the surest box is kept, and the scores of the others fall by
/// how far they overlap it: times 1 - IoU from the threshold on, or times exp(-IoU² / sigma). In double precision; its
/// time grows with boxes times boxes kept.
/// \throws DataError for other shapes and numbers that are not finite; OptionError
TRANSFERLIB_API SoftNmsResult soft_nms(const Tensor& boxes, const Tensor& scores, const SoftNmsOptions& options = {});

/// Weighted boxes fusion (Solovyev et al., 2021), class by class, the surest box first: each joins the fused box that
/// it overlaps most, if by more than the threshold, else begins one. A fused box is the mean of its boxes, weighted by
/// score; its score is their mean, less where fewer boxes than `models` were fused, or their highest. Boxes without
/// area are dropped. In double precision. \param labels (N), whole numbers \throws DataError for other shapes, numbers
/// that are not finite and scores below 0; OptionError
TRANSFERLIB_API FusedBoxes weighted_boxes_fusion(const Tensor& boxes, const Tensor& scores, const Tensor& labels,
                                                 const FusionOptions& options = {});

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API void check_nms(const Tensor& boxes, const Tensor& scores, const Tensor* labels) {
  if (boxes.dim() != 2 || boxes.size(1) != 4) throw DataError("boxes should be of the shape (N, 4)");
  if (scores.dim() != 1 || scores.size(0) != boxes.size(0))
    throw DataError(
        text("there should be a score for each of ", boxes.size(0), " boxes, in a tensor of one dimension"));
  if (labels != nullptr && (labels->dim() != 1 || labels->size(0) != boxes.size(0)))
    throw DataError(
        text("there should be a class for each of ", boxes.size(0), " boxes, in a tensor of one dimension"));
  if (!boxes.isfinite().all().item<bool>() || scores.isnan().any().item<bool>())
    throw DataError("boxes have numbers that are not finite, or scores that are not a number");
}

TRANSFERLIB_API Tensor greedy_nms(const Tensor& boxes, const Tensor& scores, const Tensor* labels, double threshold,
                                  double beta) {
  check_threshold(threshold, "the threshold of non-maximum suppression");
  check_nms(boxes, scores, labels);
  const auto kept = boxes.scalar_type() == torch::kDouble ? greedy<double>(boxes, scores, labels, threshold, beta)
                                                          : greedy<float>(boxes, scores, labels, threshold, beta);
  return tensor_of(kept, torch::kLong, boxes);
}

}  // namespace transferlib::detail

namespace transferlib {

TRANSFERLIB_API SoftNmsResult soft_nms(const Tensor& boxes, const Tensor& scores, const SoftNmsOptions& options) {
  detail::check_threshold(options.threshold, "the threshold of soft suppression");
  if (!(options.sigma > 0.0)) throw OptionError(detail::text("sigma must be above 0, not ", options.sigma));
  detail::check_nms(boxes, scores);
  const auto corners = detail::corners_of<double>(detail::flat(boxes, torch::kDouble));
  const Tensor flat_scores = detail::flat(scores, torch::kDouble);
  struct Left {
    std::int64_t index;
    double score;
  };
  std::vector<Left> left;
  for (const double score : detail::values_of<double>(flat_scores))
    left.push_back({static_cast<std::int64_t>(left.size()), score});
  std::vector<std::int64_t> indices;
  std::vector<double> kept;
  for (;;) {
    std::erase_if(left, [&](const Left& l) { return l.score < options.least_score; });
    if (left.empty()) break;
    const auto best =
        std::max_element(left.begin(), left.end(), [](const Left& a, const Left& b) { return a.score < b.score; });
    const auto& box = corners[static_cast<std::size_t>(best->index)];
    indices.push_back(best->index);
    kept.push_back(best->score);
    left.erase(best);
    for (Left& l : left) {
      const double iou = box.iou(corners[static_cast<std::size_t>(l.index)]);
      if (iou == 0.0) continue;
      if (options.decay == SoftNmsOptions::Decay::gaussian)
        l.score *= std::exp(-iou * iou / options.sigma);
      else if (iou >= options.threshold)
        l.score *= 1.0 - iou;
    }
  }
  return {detail::tensor_of(indices, torch::kLong, boxes),
          detail::tensor_of(kept, torch::kDouble, boxes).to(scores.scalar_type())};
}

TRANSFERLIB_API FusedBoxes weighted_boxes_fusion(const Tensor& boxes, const Tensor& scores, const Tensor& labels,
                                                 const FusionOptions& options) {
  detail::check_threshold(options.threshold, "the threshold of boxes fusion");
  if (options.models < 1) throw OptionError(detail::text("models must be at least 1, not ", options.models));
  detail::check_nms(boxes, scores, &labels);
  const auto corners = detail::corners_of<double>(detail::flat(boxes, torch::kDouble));
  const Tensor flat_scores = detail::flat(scores, torch::kDouble), flat_labels = detail::flat(labels, torch::kLong);
  const auto score = detail::values_of<double>(flat_scores);
  const auto label = detail::values_of<std::int64_t>(flat_labels);
  struct Fused {
    detail::Corners<double> box, sum;  // the mean, and the sum of score times corner
    double score_sum, highest;
    Index count;
    std::int64_t label;
  };
  std::vector<Fused> fused;
  for (const std::int64_t index : detail::falling(score)) {
    const auto i = static_cast<std::size_t>(index);
    const auto& box = corners[i];
    const double s = score[i];
    if (s < 0.0)
      throw DataError(detail::text("the box ", i, " has the score ", s, "; fusion weighs by scores from 0 on"));
    if (s < options.least_score || s == 0.0 || !(box.x2 > box.x1) || !(box.y2 > box.y1)) continue;
    Fused* match = nullptr;
    double best = options.threshold;
    for (Fused& f : fused) {
      const double iou = f.label == label[i] ? f.box.iou(box) : 0.0;
      if (iou <= best) continue;
      best = iou;
      match = &f;
    }
    if (match == nullptr) {
      fused.push_back({box, {box.x1 * s, box.y1 * s, box.x2 * s, box.y2 * s}, s, s, 1, label[i]});
      continue;
    }
    auto& sum = match->sum;
    sum = {sum.x1 + box.x1 * s, sum.y1 + box.y1 * s, sum.x2 + box.x2 * s, sum.y2 + box.y2 * s};
    match->score_sum += s;
    ++match->count;
    const double all = match->score_sum;
    match->box = {sum.x1 / all, sum.y1 / all, sum.x2 / all, sum.y2 / all};
  }
  std::vector<double> fused_scores, flat_boxes, sorted_scores;
  for (const Fused& f : fused) {
    const double part = static_cast<double>(std::min(f.count, options.models)) / static_cast<double>(options.models);
    fused_scores.push_back(
        options.score == FusionOptions::Score::highest ? f.highest : f.score_sum / static_cast<double>(f.count) * part);
  }
  std::vector<std::int64_t> fused_labels;
  for (const std::int64_t i : detail::falling(std::span<const double>(fused_scores))) {
    const Fused& f = fused[static_cast<std::size_t>(i)];
    for (const double corner : {f.box.x1, f.box.y1, f.box.x2, f.box.y2}) flat_boxes.push_back(corner);
    sorted_scores.push_back(fused_scores[static_cast<std::size_t>(i)]);
    fused_labels.push_back(f.label);
  }
  return {detail::tensor_of(flat_boxes, torch::kDouble, boxes).view({-1, 4}).to(boxes.scalar_type()),
          detail::tensor_of(sorted_scores, torch::kDouble, boxes).to(scores.scalar_type()),
          detail::tensor_of(fused_labels, torch::kLong, boxes)};
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

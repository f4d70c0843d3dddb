/// \file
/// Which class a detector takes for which, background among them. Free of LibTorch.
#pragma once

#include <algorithm>
#include <cstddef>
#include <map>
#include <span>
#include <tuple>
#include <vector>

#include <transferlib/core/layers.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/detect/truth.hpp>
#include <transferlib/metrics/average_precision.hpp>

namespace transferlib {

/// What counts in `box_confusion`.
struct BoxConfusionOptions {
  double score = 0.25;  ///< what is less sure is as if it were not found
  double iou = 0.5;     ///< from which overlap on a box is found
};

/// What is taken for what: the pairs of a picture that overlap most, whatever their classes, are one another's; of what
/// is left over, a true box was taken for background and a detection is background taken for its class. Crowd regions
/// are no boxes to find, and what lies in them is not counted.
/// \returns (classes + 1) x (classes + 1) counts, row by row: row the true class, column the found one, background last
/// \throws DataError for a class that is none, a box or a score that is no number
TRANSFERLIB_API std::vector<Index> box_confusion(std::span<const TruthBox> truth,
                                                 std::span<const DetectedBox> detections, Index classes,
                                                 const BoxConfusionOptions& options = {});

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API std::vector<Index> box_confusion(std::span<const TruthBox> truth,
                                                 std::span<const DetectedBox> detections, Index classes,
                                                 const BoxConfusionOptions& options) {
  detail::check_boxes(truth, detections, classes);
  struct Picture {
    std::vector<std::size_t> truth, found;
  };
  std::map<Index, Picture> pictures;
  for (std::size_t i = 0; i < truth.size(); ++i) pictures[truth[i].picture].truth.push_back(i);
  for (std::size_t i = 0; i < detections.size(); ++i)
    if (detections[i].score >= options.score) pictures[detections[i].picture].found.push_back(i);
  std::vector<Index> out(static_cast<std::size_t>((classes + 1) * (classes + 1)), 0);
  const auto count = [&](Index there, Index found) { ++out[static_cast<std::size_t>(there * (classes + 1) + found)]; };
  for (const auto& [number, picture] : pictures) {
    std::vector<std::tuple<double, std::size_t, std::size_t>> pairs;
    std::vector<bool> seen(picture.truth.size()), used(picture.found.size());
    for (std::size_t f = 0; f < picture.found.size(); ++f) {
      const DetectedBox& found = detections[picture.found[f]];
      for (std::size_t t = 0; t < picture.truth.size(); ++t) {
        const TruthBox& there = truth[picture.truth[t]];
        const double iou = detail::box_iou(found.box, there.box, there.crowd);
        if (iou >= options.iou && !there.crowd) pairs.emplace_back(iou, t, f);
      }
    }
    std::stable_sort(pairs.begin(), pairs.end(),
                     [](const auto& a, const auto& b) { return std::get<0>(a) > std::get<0>(b); });
    for (const auto& [iou, t, f] : pairs) {
      if (seen[t] || used[f]) continue;
      seen[t] = used[f] = true;
      count(truth[picture.truth[t]].label, detections[picture.found[f]].label);
    }
    for (std::size_t t = 0; t < picture.truth.size(); ++t)
      if (!seen[t] && !truth[picture.truth[t]].crowd) count(truth[picture.truth[t]].label, classes);
    for (std::size_t f = 0; f < picture.found.size(); ++f) {
      const DetectedBox& found = detections[picture.found[f]];
      const bool in_crowd = std::any_of(picture.truth.begin(), picture.truth.end(), [&](std::size_t t) {
        return truth[t].crowd && detail::box_iou(found.box, truth[t].box, true) >= options.iou;
      });
      if (!used[f] && !in_crowd) count(classes, found.label);
    }
  }
  return out;
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

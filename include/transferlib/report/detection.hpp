/// \file
/// What a detector found beside what is there, as a report: curves of precision and recall, and what is taken for what.
/// Free of LibTorch.
#pragma once

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/layers.hpp>
#include <transferlib/metrics/average_precision.hpp>
#include <transferlib/metrics/box_confusion.hpp>
#include <transferlib/report/html.hpp>
#include <transferlib/report/svg.hpp>

namespace transferlib {

/// Precision over recall at IoU .5, a line a class, of the ten classes that have the most boxes.
/// \param boxes how many boxes each class has
inline std::string precision_recall_svg(const CocoResult& result, const std::vector<Index>& boxes,
                                        const Labels& labels) {
  if (result.classes.size() != labels.size() || boxes.size() != labels.size())
    throw OptionError(detail::text("curves of ", result.classes.size(), " classes and the boxes of ", boxes.size(),
                                   " were given for ", labels.size(), " labels"));
  std::vector<std::size_t> order(labels.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return boxes[a] > boxes[b]; });
  order.resize(std::min<std::size_t>(order.size(), 10));
  std::vector<Series> lines;
  for (const std::size_t c : order) {
    const std::vector<double>& precision = result.classes[c].precision;
    if (precision.empty()) continue;
    Series line{labels[c], {}, precision};
    for (std::size_t r = 0; r < precision.size(); ++r) line.x.push_back(static_cast<double>(r) / 100.0);
    lines.push_back(std::move(line));
  }
  return lines_svg(lines, {.title = "Precision over recall at IoU .5",
                           .x_label = "recall",
                           .percent = true,
                           .whole_x = false,
                           .width = 540});
}

/// The report of a detector, to which title, history and tables can be added: COCO's numbers, those of each class,
/// curves of precision and recall, and the confusion with the background. \throws DataError
inline Report detection_report(std::span<const TruthBox> truth, std::span<const DetectedBox> detections,
                               const Labels& labels) {
  const auto classes = static_cast<Index>(labels.size());
  const CocoResult result = coco_average_precision(truth, detections, classes);
  std::vector<Index> boxes(labels.size(), 0);
  for (const TruthBox& there : truth) boxes[static_cast<std::size_t>(there.label)] += there.crowd ? 0 : 1;
  Report out;
  ReportRows all;
  for (const auto& [name, member] : coco_numbers) all.emplace_back(name, detail::fixed(result.mean.*member, 4));
  out.numbers = {{"AP", all[0].second}, {"AP at IoU .5", all[1].second}, {"AP at IoU .75", all[2].second}};
  out.numbers.emplace_back("boxes", format_count(std::accumulate(boxes.begin(), boxes.end(), Index{0})));
  out.tables.push_back({"Average precision", std::move(all)});
  ReportRows rows;
  for (std::size_t c = 0; c < labels.size(); ++c) {
    const CocoNumbers& n = result.classes[c].numbers;
    rows.emplace_back(labels[c], detail::text("AP ", detail::fixed(n.ap, 4), ", at IoU .5 ", detail::fixed(n.ap50, 4),
                                              ", boxes ", boxes[c]));
  }
  out.tables.push_back({"Classes", std::move(rows)});
  if (truth.empty() && detections.empty()) return out;
  Labels with_background = labels;
  with_background.push_back("background");
  out.figures = {{"precision_recall", precision_recall_svg(result, boxes, labels)},
                 {"confusion", confusion_svg(box_confusion(truth, detections, classes), with_background,
                                             {.one = "box", .many = "boxes"})}};
  return out;
}

}  // namespace transferlib

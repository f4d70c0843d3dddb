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
#include <transferlib/core/separate.hpp>
#include <transferlib/metrics/average_precision.hpp>
#include <transferlib/metrics/box_confusion.hpp>
#include <transferlib/report/html.hpp>
#include <transferlib/report/svg.hpp>

namespace transferlib {

/// Precision over recall at IoU .5, a line a class, of the ten classes that have the most boxes.
/// \param boxes how many boxes each class has
TRANSFERLIB_API std::string precision_recall_svg(const CocoResult& result, const std::vector<Index>& boxes,
                                                 const Labels& labels);

/// A picture with what is there and what was found, boxes in its pixels.
struct FoundPicture {
  std::string png{};            ///< the bytes of a PNG file of it, which may be smaller
  Index width = 0, height = 0;  ///< in pixels
  std::vector<TruthBox> truth{};
  std::vector<DetectedBox> found{};
};

/// Pictures side by side with themselves: on the left the boxes that are there, on the right those that were found.
/// \throws OptionError if a picture has no pixels, or a box no label
TRANSFERLIB_API std::string detections_svg(std::span<const FoundPicture> pictures, const Labels& labels);

/// The report of a detector, to which title, history and tables can be added: COCO's numbers, those of each class,
/// curves of precision and recall, and the confusion with the background. \throws DataError
TRANSFERLIB_API Report detection_report(std::span<const TruthBox> truth, std::span<const DetectedBox> detections,
                                        const Labels& labels);

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API std::string precision_recall_svg(const CocoResult& result, const std::vector<Index>& boxes,
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

TRANSFERLIB_API std::string detections_svg(std::span<const FoundPicture> pictures, const Labels& labels) {
  using namespace detail;
  constexpr double wide = 260.0, gap = 10.0, top = 44.0;
  const auto columns = static_cast<std::size_t>(pictures.size() > 1 ? 2 : 1);  // of pairs
  std::vector<double> rows{top};                                               // where each begins, and where all ends
  for (std::size_t i = 0; i < pictures.size(); ++i) {
    const FoundPicture& p = pictures[i];
    if (p.width < 1 || p.height < 1)
      throw OptionError(text("a picture of ", p.width, " x ", p.height, " pixels can't be shown"));
    if (i % columns == 0) rows.push_back(rows.back());
    const double tall = wide * static_cast<double>(p.height) / static_cast<double>(p.width);
    rows.back() = std::max(rows.back(), rows[rows.size() - 2] + tall + gap);
  }
  const double width = static_cast<double>(columns) * 2.0 * (wide + gap) + gap;
  std::string out = svg_begin(width, rows.back(), "What is there, and what was found",
                              text(pictures.size(),
                                   " pictures, each twice: with the boxes that are there, and with "
                                   "those that were found"),
                              "");
  for (std::size_t c = 0; c < columns; ++c)
    for (const bool found : {false, true})
      out += svg_text(gap + (2.0 * static_cast<double>(c) + (found ? 1.0 : 0.0)) * (wide + gap), top - 12.0,
                      found ? "found" : "there", "soft");
  for (std::size_t i = 0; i < pictures.size(); ++i) {
    const FoundPicture& p = pictures[i];
    const double x = gap + static_cast<double>(i % columns) * 2.0 * (wide + gap), y = rows[i / columns],
                 scale = wide / static_cast<double>(p.width), tall = scale * static_cast<double>(p.height);
    // The picture is in the file once.
    out += text("<defs><image id=\"tl-picture-", i, "\" width=\"", px(wide), "\" height=\"", px(tall),
                "\" preserveAspectRatio=\"none\" href=\"data:image/png;base64,", base64(p.png), "\"/></defs>\n");
    const auto side = [&](double left, const auto& boxes, const auto& words) {
      // Cut at the picture's border.
      out += text("<svg x=\"", px(left), "\" y=\"", px(y), "\" width=\"", px(wide), "\" height=\"", px(tall),
                  "\"><use href=\"#tl-picture-", i, "\"/>\n");
      for (const auto& b : boxes) {
        const std::string& label = labels.at(static_cast<std::size_t>(b.label));
        const std::string colour = text(static_cast<std::size_t>(b.label) % colours);
        const double bx = b.box[0] * scale, by = b.box[1] * scale;
        out += text("<rect class=\"s", colour, "\" fill=\"none\" stroke-width=\"2\" x=\"", px(bx), "\" y=\"", px(by),
                    "\" width=\"", px(std::max(b.box[2], 0.0) * scale), "\" height=\"",
                    px(std::max(b.box[3], 0.0) * scale), "\"/>\n");
        out += svg_text(std::max(bx, 0.0) + 3.0, std::max(by, 0.0) + 11.0, words(b, label), text("f", colour), "start",
                        10, " paint-order=\"stroke\" stroke=\"#ffffff\" stroke-width=\"2.5\"");
      }
      out += "</svg>\n";
    };
    side(x, p.truth, [](const TruthBox&, const std::string& label) { return label; });
    side(x + wide + gap, p.found,
         [](const DetectedBox& b, const std::string& label) { return text(label, " ", percentage(b.score, 1.0)); });
  }
  return out + "</svg>\n";
}

TRANSFERLIB_API Report detection_report(std::span<const TruthBox> truth, std::span<const DetectedBox> detections,
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

#endif  // TRANSFERLIB_DEFINES

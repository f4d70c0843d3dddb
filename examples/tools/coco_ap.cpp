// links: predictor
/// \file
/// How good detections are, by COCO's twelve numbers: `coco_ap GROUND_TRUTH.json DETECTIONS.json [--json]`.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include <transferlib/core/files.hpp>
#include <transferlib/formats/coco.hpp>
#include <transferlib/formats/json.hpp>
#include <transferlib/metrics/average_precision.hpp>

#include "arguments.hpp"

namespace tl = transferlib;
using tools::text;

namespace {

void tell(const std::string& program, const std::string& file, const std::string& sentence) {
  std::fprintf(stderr, "%s\n", tools::one_line(text(program, ": ", file, ": ", sentence)).c_str());
}

/// A summary as pycocotools prints it.
std::string table(const tl::CocoNumbers& numbers) {
  constexpr struct {
    const char *iou, *area;
    int most;
  } rows[]{{"0.50:0.95", "all", 100},   {"0.50", "all", 100},         {"0.75", "all", 100},
           {"0.50:0.95", "small", 100}, {"0.50:0.95", "medium", 100}, {"0.50:0.95", "large", 100},
           {"0.50:0.95", "all", 1},     {"0.50:0.95", "all", 10},     {"0.50:0.95", "all", 100},
           {"0.50:0.95", "small", 100}, {"0.50:0.95", "medium", 100}, {"0.50:0.95", "large", 100}};
  std::string out;
  for (std::size_t i = 0; i < tl::coco_numbers.size(); ++i) {
    char line[128];
    std::snprintf(line, sizeof line, " %-18s %s @[ IoU=%-9s | area=%6s | maxDets=%3d ] = %0.3f\n",
                  i < 6 ? "Average Precision" : "Average Recall", i < 6 ? "(AP)" : "(AR)", rows[i].iou, rows[i].area,
                  rows[i].most, numbers.*tl::coco_numbers[i].second);
    out += line;
  }
  return out;
}

tl::Json object(const tl::CocoNumbers& numbers) {
  tl::Json out = tl::Json::object();
  for (const auto& [name, member] : tl::coco_numbers) out[name] = numbers.*member;
  return out;
}

}  // namespace

int main(int argc, char** argv) {
  bool json = false;
  tools::Arguments arguments(
      "GROUND_TRUTH.json DETECTIONS.json [--json]",
      "Prints COCO's twelve numbers of detections (boxes), as pycocotools does. GROUND_TRUTH has "
      "images, annotations and\ncategories; DETECTIONS is an array of {\"image_id\", "
      "\"category_id\", \"bbox\": [x, y, width, height], \"score\"}.");
  arguments.flag("--json", "an object instead: the numbers by name, and those of each class", json)
      .footer(
          "A number is -1 where there is no box to find. Bad records (an id twice, an unknown image or category, a "
          "negative side)\nare told and left out; above one in a hundred the file is refused.");
  return tools::run(argc, argv, arguments, [&](const std::vector<std::string>& given) {
    if (given.size() != 2) throw tools::Usage("two files are wanted: coco_ap GROUND_TRUTH.json DETECTIONS.json");
    tl::CocoTruth truth = tl::parse_coco(tl::read_file(given[0]), given[0]);
    const auto found = tl::parse_coco_detections(tl::read_file(given[1]), given[1], truth);
    const std::string program = tools::name_of(argv);
    for (const auto& sentence : truth.skipped) tell(program, given[0], text("left out: ", sentence));
    for (const auto& sentence : found.skipped) tell(program, given[1], text("left out: ", sentence));

    std::sort(truth.categories.begin(), truth.categories.end(),
              [](const auto& a, const auto& b) { return a.id < b.id; });
    std::unordered_map<std::int64_t, tl::Index> labels;
    for (const auto& category : truth.categories) labels.emplace(category.id, static_cast<tl::Index>(labels.size()));
    std::vector<tl::TruthBox> there;
    for (const auto& a : truth.annotations) {
      there.push_back({.picture = a.image,
                       .label = labels.at(a.category),
                       .box = a.box,
                       .area = a.area,
                       .crowd = a.crowd,
                       .matchable = a.id != 0});
      if (a.id == 0)
        tell(program, given[0],
             "an annotation has the id 0: as in pycocotools, what finds it counts as wrong; count from 1");
    }
    std::vector<tl::DetectedBox> detections;
    for (const auto& d : found.detections)
      detections.push_back({.picture = d.image, .label = labels.at(d.category), .box = d.box, .score = d.score});
    const auto result = tl::coco_average_precision(there, detections, static_cast<tl::Index>(truth.categories.size()));

    if (!json) {
      std::fputs(table(result.mean).c_str(), stdout);
      return 0;
    }
    tl::Json out = object(result.mean);
    tl::Json classes = tl::Json::array();
    for (std::size_t i = 0; i < result.classes.size(); ++i) {
      tl::Json one = object(result.classes[i].numbers);
      one["category_id"] = truth.categories[i].id;
      one["name"] = truth.categories[i].name;
      classes.push_back(std::move(one));
    }
    out["classes"] = std::move(classes);
    std::printf("%s\n", out.dump(2).c_str());
    return 0;
  });
}

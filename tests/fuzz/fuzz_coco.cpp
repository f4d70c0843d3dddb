// Any bytes as COCO's ground truth, and behind a zero byte as detections: records that refer to what is there, or a
// FormatError; and average precision of what was read.
#include <cstdint>
#include <cstdlib>
#include <string_view>
#include <vector>

#include <transferlib/formats/coco.hpp>
#include <transferlib/metrics/average_precision.hpp>

#include "damage.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace transferlib;
  const std::string_view all(reinterpret_cast<const char*>(data), size);
  const std::size_t end = all.find('\0');
  try {
    const CocoTruth truth = parse_coco(all.substr(0, end), "truth");
    const auto found = parse_coco_detections(end == all.npos ? "[]" : all.substr(end + 1), "detections", truth);
    const auto label = [&](std::int64_t id) {
      for (std::size_t i = 0; i < truth.categories.size(); ++i)
        if (truth.categories[i].id == id) return static_cast<Index>(i);
      std::abort();
    };
    std::vector<TruthBox> there;
    for (const CocoAnnotation& a : truth.annotations)
      there.push_back({.picture = a.image, .label = label(a.category), .box = a.box, .area = a.area, .crowd = a.crowd});
    std::vector<DetectedBox> detections;
    for (const CocoDetection& d : found.detections)
      detections.push_back({.picture = d.image, .label = label(d.category), .box = d.box, .score = d.score});
    const CocoResult result = coco_average_precision(there, detections, static_cast<Index>(truth.categories.size()));
    for (const auto& [name, number] : coco_numbers) {
      const double value = result.mean.*number;
      if (value != -1.0 && !(value >= 0.0 && value <= 1.0)) std::abort();
    }
  } catch (const FormatError&) {
  }
  return 0;
}

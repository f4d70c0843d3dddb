// Any bytes as the boxes of a picture, as data.yaml and as obj.data: numbers within their bounds, or a FormatError.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include <transferlib/formats/yolo_text.hpp>

#include "damage.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace transferlib;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    Index line = 0;
    for (const YoloBox& b : parse_yolo_text(text, "input").boxes) {
      if (b.label < 0 || b.line <= line) std::abort();
      line = b.line;
      for (const double x : b.box)
        if (!(x >= 0.0 && x <= 1.0)) std::abort();
    }
  } catch (const FormatError&) {
  }
  for (const auto parse : {parse_yolo_yaml, parse_darknet_data}) try {
      const YoloConfig c = parse(text, "input");
      if (c.classes < 0 || c.classes > 1000000 || c.labels.size() > size || c.sets.size() > 3) std::abort();
      if (c.classes != 0 && !c.labels.empty() && c.classes != static_cast<Index>(c.labels.size())) std::abort();
    } catch (const FormatError&) {
    }
  return 0;
}

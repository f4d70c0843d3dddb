// Any bytes as XML and as an annotation of VOC: an element whose texts are UTF-8 and whose lines rise, or a
// FormatError.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include <transferlib/formats/voc.hpp>

#include "damage.hpp"

namespace {

using namespace transferlib;

void check(const XmlElement& e, Index line, Index lines) {
  if (e.name.empty() || e.line < line || e.line > lines || !detail::is_utf8(e.text)) std::abort();
  for (const auto& [name, value] : e.attributes)
    if (name.empty() || !detail::is_utf8(value)) std::abort();
  line = e.line;
  for (const XmlElement& child : e.children) {
    check(child, line, lines);
    line = child.line;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const Index lines = 1 + static_cast<Index>(std::count(text.begin(), text.end(), '\n'));
  try {
    check(parse_xml(text, "input"), 1, lines);
    const VocAnnotation a = parse_voc(text, "input");
    if (a.width < 0 || a.height < 0) std::abort();
    for (const VocObject& object : a.objects) {
      if (object.name.empty() || object.line < 1 || object.line > lines) std::abort();
      for (const double x : object.box)
        if (!(std::abs(x) <= 1e9)) std::abort();
    }
  } catch (const FormatError&) {
  }
  return 0;
}

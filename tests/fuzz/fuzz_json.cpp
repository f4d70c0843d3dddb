// Any bytes as JSON: a value that is written and read back equal, or a FormatError.
#include <cstdint>
#include <cstdlib>

#include <transferlib/formats/json.hpp>

#include "damage.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace transferlib;
  try {
    const Json value = parse_json({reinterpret_cast<const char*>(data), size}, "input", 16);
    if (parse_json(value.dump(), "again", 16) != value) std::abort();
  } catch (const FormatError&) {
  }
  return 0;
}

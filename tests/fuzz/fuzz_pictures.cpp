// Any bytes as a picture file: pixels that fit their sizes and what the header tells, or a FormatError.
#include <cstdint>
#include <cstdlib>
#include <optional>

#include <transferlib/data/pictures.hpp>

#include "damage.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace transferlib;
  const auto bytes = std::as_bytes(std::span(data, size));
  std::optional<PixelSize> told;
  try {
    check_picture_header(bytes, "input", {.max_pixels = 1 << 22});
    told = picture_size(bytes, "input", {.max_pixels = 1 << 22});
  } catch (const FormatError&) {
  }
  try {
    const Picture p = decode_picture(bytes, "input", {.max_pixels = 1 << 22});
    if (!told || told->width != p.width || told->height != p.height) std::abort();
    if (p.width < 1 || p.height < 1 || (p.channels != 1 && p.channels != 3) ||
        p.pixels.size() != static_cast<std::size_t>(p.width * p.height * p.channels))
      std::abort();
  } catch (const FormatError&) {
  }
  return 0;
}

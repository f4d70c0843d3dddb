// Any bytes as gzip and as IDX, packed or not: an array of its shape's size, or a FormatError.
#include <cstdint>
#include <cstdlib>

#include <transferlib/formats/idx.hpp>

#include "damage.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace transferlib;
  const auto bytes = std::as_bytes(std::span(data, size));
  try {
    if (gunzip(bytes, "input", 1 << 16).size() > (1 << 16)) std::abort();
  } catch (const FormatError&) {
  }
  try {
    const IdxArray a = parse_idx(bytes, "input");
    if (detail::count_of(a.shape) * size_of(a.dtype) != static_cast<std::int64_t>(a.bytes.size())) std::abort();
  } catch (const FormatError&) {
  }
  return 0;
}

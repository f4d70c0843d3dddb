// Any bytes as safetensors: tensors that cover the data exactly, or a FormatError.
#include <cstdint>
#include <cstdlib>

#include <transferlib/formats/safetensors.hpp>

#include "damage.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace transferlib;
  const auto bytes = std::as_bytes(std::span(data, size));
  try {
    const Checkpoint file = parse_safetensors(bytes, "input");
    std::size_t covered = 0;
    for (const TensorView& t : file.tensors) {
      if (!t.is_contiguous() || file.find(t.name) != &t) std::abort();
      detail::for_contiguous(t, [&](std::span<const std::byte> run) { covered += run.size(); });
    }
    std::uint64_t header = 0;
    std::memcpy(&header, data, 8);
    if (covered + header + 8 != size) std::abort();
  } catch (const FormatError&) {
  }
  return 0;
}

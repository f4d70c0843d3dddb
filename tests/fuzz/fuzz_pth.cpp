// Any bytes as a checkpoint of whatever format: views inside the bytes, or a FormatError. The first byte chooses the
// entry that is wanted.
#include <cstdint>
#include <cstdlib>

#include <transferlib/formats/checkpoint.hpp>

#include "damage.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace transferlib;
  if (size == 0) return 0;
  const CheckpointOptions options[] = {{}, {.entry = "state_dict"}, {.entry = "a.b"}};
  const auto bytes = std::as_bytes(std::span(data, size)).subspan(1);
  try {
    Checkpoint file = parse_checkpoint(bytes, "input", options[data[0] % 3]);
    std::uint64_t sum = 0;
    for (const TensorView& t : file.tensors) {
      if (t.storage.data() < bytes.data() || t.storage.size() > bytes.size() ||
          t.storage.data() + t.storage.size() > bytes.data() + bytes.size())
        std::abort();
      if (t.numel() > (1 << 16)) continue;  // expanded views
      detail::for_contiguous(t, [&](std::span<const std::byte> run) {
        for (const std::byte b : run) sum += static_cast<std::uint64_t>(b);
      });
    }
    if (sum > (std::uint64_t{1} << 62)) std::abort();
    strip_common_prefix(file);
  } catch (const FormatError&) {
  } catch (const OptionError&) {
  }
  return 0;
}

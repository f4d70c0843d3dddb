// Any bytes as darknet's .cfg: layers that fit each other and weights that can be counted, or a FormatError. What
// stands behind a zero byte are its weights.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include <transferlib/formats/darknet.hpp>

#include "damage.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace transferlib;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const std::size_t zero = std::min(text.find('\0'), size);
  try {
    const DarknetConfig config = parse_darknet_cfg(text.substr(0, zero), "input");
    const auto shapes = darknet_shapes(config, config.input);
    if (shapes.size() != config.layers.size() || config.used != static_cast<Index>(shapes.size())) std::abort();
    for (std::size_t n = 0; n < shapes.size(); ++n) {
      if (shapes[n].channels < 1 || shapes[n].height < 1 || shapes[n].width < 1) std::abort();
      for (const Index f : config.layers[n].from)
        if (f < 0 || f >= static_cast<Index>(n)) std::abort();
    }
    Index sum = 0;
    for (const DarknetBlob& blob : darknet_blobs(config)) {
      if (blob.count < 1 || blob.count != detail::count_of(blob.shape)) std::abort();
      sum += blob.count;
    }
    if (sum > (Index{1} << 32)) std::abort();
    if (zero < size) {
      const auto weights = std::as_bytes(std::span(data, size)).subspan(zero + 1);
      for (const TensorView& t : parse_darknet_weights(weights, "weights", config, {.least = 0}).tensors)
        if (t.storage.size() != static_cast<std::size_t>(4 * t.numel())) std::abort();
    }
    // Another size of picture fits too, or is refused.
    darknet_shapes(config, {1, 33, 33});
  } catch (const FormatError&) {
  }
  return 0;
}

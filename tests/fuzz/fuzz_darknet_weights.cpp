// Any bytes as darknet's .weights of a small network: tensors whose bytes are the file's, or a FormatError.
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include <transferlib/formats/darknet.hpp>

#include "damage.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace transferlib;
  static const DarknetConfig whole = parse_darknet_cfg(
      "[net]\nwidth=3\nheight=3\nchannels=1\n[convolutional]\nfilters=2\nbatch_normalize=1\n[local]\nfilters=1\nsize="
      "2\n"
      "[connected]\noutput=2\nbatch_normalize=1\n[convolutional]\nfilters=1\n",
      "network");
  const auto bytes = std::as_bytes(std::span(data, size));
  for (const Index layers : {4, 2})
    for (const bool longer : {false, true})
      for (const Index least : {-1, 0, 1}) {
        try {
          const auto file = parse_darknet_weights(bytes, "input", cut_darknet(whole, layers), {longer, least});
          const DarknetHeader header = parse_darknet_header(bytes, "input");
          std::size_t at = header.size();
          for (const TensorView& t : file.tensors) {
            std::vector<std::byte> numbers(static_cast<std::size_t>(t.numel()) * 4);
            copy_contiguous(t, numbers);
            if (numbers.size() > size - at) std::abort();
            if (t.is_contiguous() && std::memcmp(numbers.data(), data + at, numbers.size()) != 0) std::abort();
            at += numbers.size();
          }
          if (!longer && at != size) std::abort();
        } catch (const FormatError&) {
        }
      }
  return 0;
}

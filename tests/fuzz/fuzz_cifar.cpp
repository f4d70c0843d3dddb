// Any bytes as CIFAR's records, labels in range, or a FormatError. The first byte chooses the kind; a run of one byte
// stands for most of the pixels, so that small inputs have whole records.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include <transferlib/formats/cifar.hpp>

#include "damage.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace transferlib;
  if (size < 2) return 0;
  const auto kind = data[0] % 2 == 0 ? CifarKind::cifar10 : CifarKind::cifar100;
  const auto small = std::as_bytes(std::span(data, size)).subspan(2);
  // Each byte is a label (or two are), followed by the pixels of its record, but for what the second byte takes off.
  const std::size_t labels = kind == CifarKind::cifar10 ? 1 : 2;
  std::vector<std::byte> bytes;
  for (std::size_t at = 0; at < small.size() && at < 64; ++at) {
    bytes.push_back(small[at]);
    if (at % labels == labels - 1) bytes.resize(bytes.size() + CifarRecords::pixels, small[at]);
  }
  if (data[1] >= 128) bytes.resize(bytes.size() - std::min<std::size_t>(bytes.size(), data[1] - 127U));
  try {
    const auto records = CifarRecords::parse(bytes, "input", kind);
    const std::int64_t classes = kind == CifarKind::cifar10 ? 10 : 100, coarse = kind == CifarKind::cifar10 ? 10 : 20;
    if (records.size() < 1) std::abort();
    for (std::int64_t i = 0; i < records.size(); ++i)
      if (records.label(i) < 0 || records.label(i) >= classes || records.coarse_label(i) >= coarse ||
          records.picture(i).size() != static_cast<std::size_t>(CifarRecords::pixels) ||
          records.picture(i).back() != static_cast<std::byte>(records.label(i)))
        std::abort();
  } catch (const FormatError&) {
  }
  return 0;
}

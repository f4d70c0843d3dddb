// Any bytes as a pickle: a tree whose values can be walked, or a FormatError.
#include <cstdint>
#include <cstdlib>

#include <transferlib/formats/pickle.hpp>

#include "damage.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace transferlib;
  try {
    const Pickle p = Pickle::parse(std::as_bytes(std::span(data, size)), "input");
    if (p.size() > size || p.root() >= p.count() || p.count() > size + 4) std::abort();
    std::size_t sum = 0;
    for (Pickle::Ref r = 0; r < p.count(); ++r) {
      std::size_t items = 0, pairs = 0;
      p.for_items(r, [&](Pickle::Ref item) {
        if (item >= p.count()) std::abort();
        return ++items < size + 1;
      });
      p.for_pairs(r, [&](Pickle::Ref key, Pickle::Ref value) {
        if (key >= p.count() || value >= p.count()) std::abort();
        return ++pairs < size + 1;
      });
      if (items != p.items(r) || (p.kind(r) == Pickle::Kind::dict && 2 * pairs != items)) std::abort();
      for (const char c : p.string(r)) sum += static_cast<unsigned char>(c);
      if (p.kind(r) == Pickle::Kind::global && p.name(r).find('.') == std::string_view::npos) std::abort();
      sum += static_cast<std::size_t>(p.first_items<3>(r)[2] + 1);
    }
    if (sum > (size + 4) * (size + 4) * 256) std::abort();
  } catch (const FormatError&) {
  }
  return 0;
}

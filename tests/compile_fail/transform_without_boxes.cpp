// expect: transferlib: augment: this transform has no overload for the data's Target
#include <transferlib/transfer.hpp>
namespace tl = transferlib;

struct Mugs {
  using Target = tl::Boxes;
  tl::Index size() const { return 0; }
  tl::Batch batch(std::span<const tl::Index>) const { return {}; }
  tl::Labels labels() const { return {"mug"}; }
};

int main() {
  const Mugs mugs;
  const auto more = tl::augment(mugs, tl::Flip{});
  return static_cast<int>(more.size());
}

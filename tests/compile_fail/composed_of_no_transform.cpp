// expect: transferlib: Compose: each part must be a transform
#include <transferlib/transfer.hpp>
namespace tl = transferlib;

int main() {
  const auto both = tl::compose(tl::Flip{}, 0.2);
  return both.views() ? 0 : 1;
}

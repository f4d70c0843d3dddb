// expect: deleted
#include <transferlib/transfer.hpp>
namespace tl = transferlib;

int main() {
  const auto more = tl::augment(tl::Cifar10::open("data").train, tl::Flip{});
  return static_cast<int>(more.size());
}

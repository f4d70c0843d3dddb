// expect: transferlib: augment: the data are a temporary, which is gone before a picture is read; give them a name
#include <transferlib/transfer.hpp>
namespace tl = transferlib;

int main() {
  const auto more = tl::augment(tl::Cifar10::open("data").train, tl::Flip{});
  return static_cast<int>(more.size());
}

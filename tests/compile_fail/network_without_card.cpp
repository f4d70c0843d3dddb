// expect: this Network has no published weights (no `card`); pass the weights' path
#include <transferlib/transfer.hpp>
namespace tl = transferlib;

struct Mine : tl::Module {
  tl::Stages stages() { return {}; }
};

int main() {
  tl::Classifier model{
      tl::Backbone<Mine>::pretrained(), tl::FreezePolicy<tl::FreezeAll>{}, tl::Head<tl::Linear>{}, {"a", "b"}};
}

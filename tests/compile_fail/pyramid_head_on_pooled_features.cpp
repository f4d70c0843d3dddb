// expect: this head needs a feature map or pyramid and this backbone gives pooled features
#include "toy_head.hpp"
namespace tl = transferlib;

struct Mine : tl::Module {
  using Gives = tl::Pooled;
  tl::Stages stages() { return {}; }
};

int main() {
  tl::Classifier model{tl::Backbone<Mine>::random(),
                       tl::FreezePolicy<tl::FreezeAll>{},
                       tl::Head<ToyHead<tl::Pyramid, tl::ClassIndex>>{},
                       {"a", "b"}};
}

// expect: transferlib: Detector: this head needs a feature map or pyramid and this backbone gives pooled features only
#include <transferlib/heads/yolo.hpp>
#include <transferlib/model/detector.hpp>
#include <transferlib/transfer.hpp>
namespace tl = transferlib;

struct Mine : tl::Module {
  using Gives = tl::Pooled;
  tl::Stages stages() { return {}; }
};

int main() {
  tl::Detector model{tl::Backbone<Mine>::random(), tl::FreezePolicy<tl::FreezeAll>{}, tl::Head<tl::Yolo>{}, {"a", "b"}};
}

// expect: transferlib: Classifier: this head learns boxes; use Detector
#include "toy_head.hpp"
namespace tl = transferlib;

int main() {
  tl::Classifier model{tl::Backbone<tl::EfficientNetLite0>::random(),
                       tl::FreezePolicy<tl::FreezeAll>{},
                       tl::Head<ToyHead<tl::Pyramid, tl::Boxes>>{},
                       {"a", "b"}};
}

// expect: transferlib: Classifier takes {Backbone, FreezePolicy, Head, labels}, in this order
#include <transferlib/transfer.hpp>
namespace tl = transferlib;

int main() {
  tl::Classifier model{tl::Backbone<tl::EfficientNetLite0>::random(), tl::FreezePolicy<tl::FreezeAll>{},
                       tl::Head<tl::Linear>{}};
}

// expect: transferlib: Keeping takes a Detector whose head can be taught by an old one (KeepingHead
#include <transferlib/detection.hpp>
#include <transferlib/model/more_classes.hpp>
namespace tl = transferlib;

int main() {
  tl::Detector old{tl::Backbone<tl::EfficientNetLite0>::random(),
                   tl::FreezePolicy<tl::FreezeAll>{},
                   tl::Head<tl::YoloV1>{},
                   {"a", "b"}};
  tl::Keeping model{tl::add_classes(old, {"c"}), tl::clone(old)};
}

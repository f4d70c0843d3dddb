// expect: transferlib: Detector: this head learns no boxes; use Classifier
#include <transferlib/model/detector.hpp>
#include <transferlib/transfer.hpp>
namespace tl = transferlib;

int main() {
  tl::Detector model{
      tl::Backbone<tl::DarkNet53>::random(), tl::FreezePolicy<tl::FreezeAll>{}, tl::Head<tl::Linear>{}, {"a", "b"}};
}

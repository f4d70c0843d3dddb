// expect: transferlib: Trainer<Model>: Model must be a Classifier, a Detector, or have their Target, Output, Metric
#include <transferlib/transfer.hpp>
namespace tl = transferlib;

int main() {
  auto backbone = tl::Backbone<tl::EfficientNetLite0>::random();
  tl::Trainer trainer{backbone};
}

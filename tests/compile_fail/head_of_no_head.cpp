// expect: transferlib: Head<Network>: Network lacks one of Input, Output, Target, Prediction, Metric, Options, forward
#include <transferlib/transfer.hpp>
namespace tl = transferlib;

int main() {
  tl::Classifier model{tl::Backbone<tl::EfficientNetLite0>::random(),
                       tl::FreezePolicy<tl::FreezeAll>{},
                       tl::Head<tl::nn::Linear>{},
                       {"a", "b"}};
}

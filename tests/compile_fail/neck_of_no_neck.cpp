// expect: transferlib: Neck<Network>: Network lacks one of Options, forward(activations, pass), features(), or a
#include <transferlib/heads/yolo.hpp>
#include <transferlib/model/detector.hpp>
#include <transferlib/transfer.hpp>
namespace tl = transferlib;

int main() {
  tl::Detector model{tl::Backbone<tl::DarkNet53>::random(),
                     tl::FreezePolicy<tl::FreezeAll>{},
                     tl::Neck<tl::nn::Conv2d>{},
                     tl::Head<tl::Yolo>{},
                     {"a", "b"}};
}

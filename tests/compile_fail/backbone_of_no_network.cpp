// expect: transferlib: Backbone<Network>: Network must be a torch::nn::Module with `Stages stages()`
#include <transferlib/transfer.hpp>
namespace tl = transferlib;

struct Net : tl::Module {
  tl::Tensor forward(tl::Tensor x) { return x; }
};

int main() {
  tl::Classifier model{
      tl::Backbone<Net>::pretrained("net.pth"), tl::FreezePolicy<tl::FreezeAll>{}, tl::Head<tl::Linear>{}, {"a", "b"}};
}

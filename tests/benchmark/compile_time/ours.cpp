// The job in transferlib: what `run` beside this file compares with libtorch.cpp.
#include <transferlib/transfer.hpp>
namespace tl = transferlib;

int main() {
  auto [train, test] = tl::Cifar10::open("data");
  tl::Classifier model{tl::Backbone<tl::EfficientNetLite0>::pretrained(),  // load
                       tl::FreezePolicy<tl::FreezeAll>{},                  // freeze
                       tl::Head<tl::Linear>{},                             // add
                       train.labels()};
  tl::Trainer trainer{model, {.epochs = 5, .optimizer = tl::Adam{.lr = 1e-3}}};
  tl::History history = trainer.fit(train, test);  // train
  tl::plot_accuracy(history, "accuracy.svg");
  tl::save(model, "cifar10.safetensors");
}

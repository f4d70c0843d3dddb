// Lesson 1: a network that was trained on ImageNet, frozen, and a new linear head, trained on CIFAR-10.
#include <transferlib/transfer.hpp>

#include "options.hpp"
namespace tl = transferlib;

int main(int argc, char** argv) {
  return examples::run(argc, argv, "EfficientNet-Lite0, frozen, with a new linear head",
                       [](const examples::Options& o) {
                         const auto [train, test] = o.open_data();
                         tl::Classifier model{o.pretrained<tl::EfficientNetLite0>(),   // load
                                              tl::FreezePolicy<tl::FreezeAll>{},       // freeze
                                              tl::Head<tl::Linear>{{.seed = o.seed}},  // add
                                              train.labels()};
                         model.to(o.device);
                         tl::Trainer trainer{model, o.training()};
                         tl::RunFolder folder{o.out, trainer, train, test};
                         trainer.fit(train, test, tl::Console{}, folder);  // train
                       });
}

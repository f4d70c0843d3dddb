// Lesson 2: a frozen ResNet-50 and a new linear layer, five epochs of cross entropy and Adam: PyTorch's tutorial.
#include <transferlib/backbones/resnet.hpp>
#include <transferlib/transfer.hpp>

#include "options.hpp"
namespace tl = transferlib;

int main(int argc, char** argv) {
  return examples::run(argc, argv, "ResNet-50, frozen, with a new linear layer", [](const examples::Options& o) {
    const auto [train, test] = o.open_data();
    tl::Classifier model{o.backbone<tl::ResNet50>(),                                    // load
                         tl::FreezePolicy<tl::FreezeAll>{},                             // freeze
                         tl::Head<tl::Linear>{{.standardise = false, .seed = o.seed}},  // add
                         train.labels()};
    model.to(o.device);
    tl::Trainer trainer{model, o.training()};
    tl::RunFolder folder{o.out, trainer, train, test};
    trainer.fit(train, test, tl::Console{}, folder);  // train
  });
}

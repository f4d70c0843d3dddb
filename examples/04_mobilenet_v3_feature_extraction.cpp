// Lesson 4: Keras's MobileNetV3-Small, all of it frozen, pixels in (-1, 1), pictures mirrored both ways, batches of 50,
// Adam at 1e-4. Labels need no one-hot vectors: the loss of a class's index is the same number.
#include <transferlib/backbones/mobilenet_v3.hpp>
#include <transferlib/transfer.hpp>

#include "options.hpp"
namespace tl = transferlib;

int main(int argc, char** argv) {
  return examples::run(argc, argv, "Keras's MobileNetV3-Small as a feature extractor",
                       [](const examples::Options& o) {
                         const auto [train, test] = o.open_data();
                         const auto mirrored = tl::augment(train, tl::Flip{.left_right = true, .up_down = true});
                         tl::Classifier model{o.backbone<tl::KerasMobileNetV3Small>(),                       // load
                                              tl::FreezePolicy<tl::FreezeAll>{},                             // freeze
                                              tl::Head<tl::Linear>{{.standardise = false, .seed = o.seed}},  // add
                                              train.labels()};
                         model.to(o.device);
                         tl::Trainer trainer{model, o.training()};
                         tl::RunFolder folder{o.out, trainer, mirrored, test};
                         trainer.fit(mirrored, test, tl::Console{}, folder);  // train
                       },
                       {.size = 224, .batch = 50, .lr = 1e-4});
}

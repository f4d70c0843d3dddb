// Lesson 3: Keras's MobileNetV2 without top, frozen: global average pooling, a dense layer of 128 with ReLU, and one of
// as many values as there are classes.
#include <transferlib/backbones/mobilenet_v2.hpp>
#include <transferlib/transfer.hpp>

#include "options.hpp"
namespace tl = transferlib;

int main(int argc, char** argv) {
  return examples::run(argc, argv, "Keras's MobileNetV2, frozen, with two new dense layers",
                       [](const examples::Options& o) {
                         const auto [train, test] = o.open_data();
                         tl::Classifier model{
                             o.backbone<tl::KerasMobileNetV2>(),                                       // load
                             tl::FreezePolicy<tl::FreezeAll>{},                                        // freeze
                             tl::Head<tl::Mlp>{{.width = 128, .standardise = false, .seed = o.seed}},  // add
                             train.labels()};
                         model.to(o.device);
                         tl::Trainer trainer{model, o.training()};
                         tl::RunFolder folder{o.out, trainer, train, test};
                         trainer.fit(train, test, tl::Console{}, folder);  // train
                       },
                       {.size = 224});
}

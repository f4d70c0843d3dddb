// Lesson 5: Keras's MobileNetV3-Small, fine-tuned: its layers before the 100th stay as they are (`fine_tune_at = 100`),
// the others go on learning with a new head; pixels in (-1, 1), pictures mirrored both ways, batches of 50, Adam at
// 1e-4.
#include <transferlib/backbones/mobilenet_v3.hpp>
#include <transferlib/transfer.hpp>

#include "options.hpp"
namespace tl = transferlib;

int main(int argc, char** argv) {
  return examples::run(argc, argv, "Keras's MobileNetV3-Small, trained from layer 100 on",
                       [](const examples::Options& o) {
                         const auto [train, test] = o.open_data();
                         const auto mirrored = tl::augment(train, tl::Flip{.left_right = true, .up_down = true});
                         tl::Classifier model{o.backbone<tl::KerasMobileNetV3Small>(),                       // load
                                              tl::FreezePolicy<tl::FreezeUntil>{{100}},                      // freeze
                                              tl::Head<tl::Linear>{{.standardise = false, .seed = o.seed}},  // add
                                              train.labels()};
                         model.to(o.device);
                         tl::Trainer trainer{model, o.training()};
                         tl::RunFolder folder{o.out, trainer, mirrored, test};
                         const tl::History history = trainer.fit(mirrored, test, tl::Console{}, folder);  // train
                         for (const auto& [name, value] : trainer.evaluate(test))
                           std::printf("test %s: %.4f\n", name.c_str(), value);
                         tl::plot_accuracy(history, o.out / "accuracy.svg");
                       },
                       {.size = 224, .batch = 50, .lr = 1e-4});
}

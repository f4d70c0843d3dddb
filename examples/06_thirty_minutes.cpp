// Lesson 6: accuracy for half an hour on two cores. Of each picture there are four cuts, of which an epoch sees one.
// The low layers of EfficientNet-Lite0 stay frozen, so that they run once for each cut, and what they make of it is
// kept; the others are trained in bf16 where the processor computes with it, at a rate that rises and falls, with
// smoothed labels and an average of the weights. Cuts show objects larger than whole pictures do, so that the trained
// network looks at those a quarter larger; and a picture's answer is the mean of that to it and to its mirror image.
#include <transferlib/model/flips.hpp>
#include <transferlib/transfer.hpp>

#include "options.hpp"
namespace tl = transferlib;

int main(int argc, char** argv) {
  return examples::run(
      argc, argv, "EfficientNet-Lite0, its upper half fine-tuned",
      [](const examples::Options& o) {
        const auto [train, test] = o.open_data();
        const tl::RandomResizedCrop crop{.size = o.size, .scale = {0.5, 1}};
        const auto augmented = tl::augment(train, tl::keep_views(tl::Compose{tl::Flip{.left_right = true}, crop}, 4));
        tl::Classifier model{o.pretrained<tl::EfficientNetLite0>(),             // load
                             tl::FreezePolicy<tl::FreezeUntil>{{"_blocks.6"}},  // freeze
                             tl::Head<tl::Linear>{{.seed = o.seed, .loss = tl::CrossEntropy{.label_smoothing = 0.1}}},
                             train.labels()};
        model.to(o.device);
        tl::TrainerOptions options = o.training();
        options.optimizer = tl::AdamW{.lr = o.lr};
        options.schedule = tl::OneCycle{};
        options.groups.decay_norms_and_biases = false;
        options.ema = tl::Ema{.decay = 0.998};
        options.autocast = tl::Precision::automatic;
        tl::Trainer trainer{model, options};
        tl::RunFolder folder{o.out, trainer, augmented, test};
        trainer.fit(augmented, test, tl::Console{}, folder);  // train
        model.set_size(o.size * 5 / 4);
        tl::save(model, o.out / "model.safetensors");
        for (const auto& [name, value] : tl::evaluate_with_flips(model, test, {.left_right = true}))
          std::printf("%s at %d pixels, with mirror images: %.4f\n", name.c_str(), int(model.preprocessing().size),
                      value);
      },
      {.size = 128, .epochs = 9, .batch = 100, .lr = 2e-3});
}

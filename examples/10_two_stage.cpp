// Lesson 10: a detector of two stages, Faster R-CNN with a feature pyramid, on a frozen EfficientNet-Lite0. `--data` is
// a folder as Pascal VOC's, with Annotations, JPEGImages and ImageSets.
#include <transferlib/detection.hpp>
#include <transferlib/two_stage_parts.hpp>

#include "options.hpp"
namespace tl = transferlib;

int main(int argc, char** argv) {
  return examples::run(argc, argv, "Faster R-CNN on EfficientNet-Lite0, frozen",
                       [](const examples::Options& o) {
                         const auto [train, test] = tl::VocData::split(o.data, {.seed = o.seed});
                         const auto augmented = tl::augment(train, tl::BoxFlip{});
                         tl::TwoStage model{o.backbone<tl::EfficientNetLite0>(),                  // load
                                            tl::FreezePolicy<tl::FreezeAll>{},                    // freeze
                                            tl::Neck<tl::FeaturePyramid>{{.channels = 128}},      // add
                                            tl::Head<tl::RegionProposal>{{.seed = o.seed}},       // what is proposed
                                            tl::Head<tl::RoI>{{.samples = 256, .seed = o.seed}},  // what it is
                                            train.labels()};
                         model.to(o.device);
                         tl::Trainer trainer{model, o.training()};
                         tl::RunFolder folder{o.out, trainer, augmented, test};
                         trainer.fit(augmented, test, tl::Console{}, folder);  // train
                       },
                       {.size = 416, .epochs = 20, .batch = 8, .lr = 3e-4});
}

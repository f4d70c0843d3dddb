// Lesson 10: a detector of two stages, Faster R-CNN with a feature pyramid, on an EfficientNet-Lite0 that keeps its
// batch norms, since a step has few pictures. Its pyramid begins at the map of 8 pixels a place, for small objects.
// `--data` is a folder as Pascal VOC's, with Annotations, JPEGImages and ImageSets.
#include <transferlib/detection.hpp>
#include <transferlib/two_stage_parts.hpp>

#include "options.hpp"
namespace tl = transferlib;

int main(int argc, char** argv) {
  return examples::run(argc, argv, "Faster R-CNN on EfficientNet-Lite0",
                       [](const examples::Options& o) {
                         const auto [train, test] = tl::VocData::split(o.data, {.seed = o.seed});
                         const auto augmented = tl::augment(train, tl::BoxFlip{});
                         tl::TwoStage model{
                             o.backbone<tl::EfficientNetLite0>(),                                  // load
                             tl::FreezePolicy<tl::FreezeBatchNorm>{},                              // freeze
                             tl::Neck<tl::FeaturePyramid>{{.channels = 128, .finest = 8}},         // add
                             tl::Head<tl::RegionProposal>{{.sizes = {{32}, {64}, {128}, {256}}}},  // proposed
                             tl::Head<tl::RoI>{{.samples = 256, .seed = o.seed}},                  // looked at
                             train.labels()};
                         model.to(o.device);
                         tl::TrainerOptions options = o.training();
                         options.optimizer = tl::AdamW{.lr = o.lr};
                         options.schedule = tl::CosineRate{.warmup = 0.05};
                         options.autocast = tl::Precision::automatic;
                         tl::Trainer trainer{model, options};
                         tl::RunFolder folder{o.out, trainer, augmented, test};
                         trainer.fit(augmented, test, tl::Console{}, folder);  // train
                       },
                       {.size = 448, .epochs = 6, .batch = 4, .lr = 4e-4});
}

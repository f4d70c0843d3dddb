// Lesson 7: a detector by hand: DarkNet-53 as it was trained on ImageNet, v3's way down its pyramid, v3's head with
// anchors found in the data. `--data` is a folder as Pascal VOC's, with Annotations, JPEGImages and ImageSets.
#include <transferlib/detection.hpp>

#include "options.hpp"
namespace tl = transferlib;

int main(int argc, char** argv) {
  return examples::run(argc, argv, "YOLO v3 on DarkNet-53, by hand",
                       [](const examples::Options& o) {
                         const auto [train, test] = tl::VocData::split(o.data, {.seed = o.seed});
                         const auto augmented = tl::augment(train, tl::compose(tl::BoxFlip{}, tl::HsvJitter{}));
                         tl::YoloOptions yolo = tl::yolo_v3();
                         yolo.box_loss = tl::Overlap::ciou;
                         yolo.anchors = tl::auto_anchors(tl::box_sizes(train, o.size), yolo.anchors);
                         tl::Detector model{o.backbone<tl::DarkNet53>(),               // load
                                            tl::FreezePolicy<tl::FreezeAll>{},         // freeze
                                            tl::Neck<tl::YoloV3Neck>{{.width = 0.5}},  // add
                                            tl::Head<tl::Yolo>{yolo}, train.labels()};
                         model.to(o.device);
                         tl::Trainer trainer{model, o.training()};
                         tl::RunFolder folder{o.out, trainer, augmented, test};
                         trainer.fit(augmented, test, tl::Console{}, folder);  // train
                       },
                       {.size = 416, .epochs = 20, .batch = 16});
}

// Lesson 8: a detector of darknet's, fine-tuned on other classes. `--weights` is its .weights file, beside which its
// .cfg lies; `--data` a folder as Pascal VOC's. All of the network but its last convolutions keeps its weights.
#include <transferlib/detection.hpp>

#include "options.hpp"
namespace tl = transferlib;

int main(int argc, char** argv) {
  return examples::run(argc, argv, "A darknet detector fine-tuned on other classes",
                       [](const examples::Options& o) {
                         const auto [train, test] = tl::VocData::split(o.data, {.seed = o.seed});
                         const auto cfg = std::filesystem::path(o.weights).replace_extension(".cfg");
                         auto backbone = tl::darknet_pyramid(cfg, o.weights, {.size = o.size});  // load
                         tl::YoloOptions yolo = tl::darknet_head(cfg).options;
                         yolo.anchors = tl::auto_anchors(tl::box_sizes(train, backbone.preprocessing()), yolo.anchors);
                         tl::Detector model{std::move(backbone), tl::FreezePolicy<tl::FreezeUntil>{{"53"}},  // freeze
                                            tl::Head<tl::Yolo>{yolo}, train.labels()};                       // add
                         model.to(o.device);
                         const auto augmented = tl::augment(train, tl::compose(tl::BoxFlip{}, tl::BoxAffine{}));
                         tl::Trainer trainer{model, o.training()};
                         tl::RunFolder folder{o.out, trainer, augmented, test};
                         trainer.fit(augmented, test, tl::Console{}, folder);  // train
                       },
                       {.size = 320, .epochs = 20, .batch = 16});
}

// Lesson 9: a classifier that slides over pictures, on a frozen EfficientNet-Lite0 whose last stage is dilated.
// `--data` is a folder as Pascal VOC's, with Annotations, JPEGImages and ImageSets; `--size` is the window's.
#include <transferlib/detection.hpp>
#include <transferlib/model/sliding_window.hpp>

#include "options.hpp"
namespace tl = transferlib;

int main(int argc, char** argv) {
  return examples::run(argc, argv, "A sliding window on EfficientNet-Lite0, frozen",
                       [](const examples::Options& o) {
                         const auto [train, test] = tl::VocData::split(o.data, {.seed = o.seed});
                         auto windows = tl::WindowData::of(train, {.window = o.size, .seed = o.seed});
                         const auto unseen = tl::WindowData::of(test, {.window = o.size, .seed = o.seed});
                         tl::Classifier classifier{o.backbone<tl::EfficientNetLite0>(),     // load
                                                   tl::FreezePolicy<tl::FreezeAll>{},       // freeze
                                                   tl::Head<tl::Linear>{{.seed = o.seed}},  // add
                                                   windows.labels()};
                         tl::SlidingWindow model{std::move(classifier), {}};
                         model.to(o.device);
                         tl::Trainer trainer{model.classifier(), o.training()};
                         tl::RunFolder folder{o.out, trainer, windows, unseen};
                         tl::fit_windows(model, trainer, windows, unseen, train, {}, tl::Console{},
                                         folder);  // train
                         tl::save(model, o.out / "window.safetensors");
                         tl::BoxAveragePrecision metric;
                         for (tl::Index i = 0; i < test.size(); ++i) {
                           const tl::Batch batch = test.batch({&i, 1});
                           metric.update(model.predict(batch), batch);
                         }
                         std::printf("AP50 on the test set: %.3f\n", metric.result().mean.ap50);
                       },
                       {.size = 96, .epochs = 10});
}

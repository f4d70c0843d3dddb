/// \file
/// Trains a sliding window on pictures with boxes: `train_windows --data DIR --format voc --classes WBC`. Cuts windows,
/// trains a linear head on a frozen network of the zoo, looks for hard negatives, trains on, and measures.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <transferlib/core/files.hpp>
#include <transferlib/data/window_data.hpp>
#include <transferlib/formats/json.hpp>
#include <transferlib/heads/vector_head.hpp>
#include <transferlib/metrics/detection.hpp>
#include <transferlib/model/sliding_window.hpp>
#include <transferlib/report/console.hpp>
#include <transferlib/report/progress.hpp>
#include <transferlib/report/run_folder.hpp>
#include <transferlib/train/trainer.hpp>
#include <transferlib/zoo.hpp>

#include "arguments.hpp"
#include "detectors.hpp"
#include "interrupt.hpp"
#include "shared.hpp"

namespace tl = transferlib;
using tools::text;

namespace {

struct Told {
  std::string data, format = "voc", train, val, classes, backbone = "efficientnet_lite0", weights, mode = "exact",
                    merge = "greedy", out;
  tl::Index window = 96, stride = 16, smallest = 0, rounds = 1, views = 8, background = 24, epochs = 10, batch = 100;
  double scale = 1.25, lr = 1e-3;
  int threads = 0;
  std::uint64_t seed = 0;
  bool random = false;
};

tl::Labels words(const std::string& list) {
  tl::Labels out;
  for (std::size_t from = 0; from < list.size();) {
    const std::size_t comma = std::min(list.find(',', from), list.size());
    if (comma > from) out.push_back(list.substr(from, comma - from));
    from = comma + 1;
  }
  return out;
}

void check(const Told& told) {
  if (told.data.empty()) throw tools::Usage("--data DIR is wanted: pictures with boxes");
  tools::check_word("--format", told.format, {"voc", "yolo", "coco"});
  tools::check_word("--mode", told.mode, {"exact", "dense"});
  tools::check_word("--merge", told.merge, {"greedy", "soft", "fusion"});
  if (told.train.empty() != told.val.empty()) throw tools::Usage("--train and --val go together");
  if (told.random && !told.weights.empty()) throw tools::Usage("--random and --weights contradict each other");
  if (told.threads < 0 || told.threads > 1024)
    throw tools::Usage(text("--threads must be from 1 to 1024, not ", told.threads));
}

tl::AnyBackbone backbone_of(const Told& told) {
  tl::NetworkOptions options{.size = told.window};
  // A place of the last map for each window: the last stages are dilated.
  if (told.mode == "dense" && told.stride % 32 != 0) options.output_stride = told.stride % 16 == 0 ? 16 : 8;
  tl::AnyBackbone out = told.random ? tl::zoo_entry(told.backbone).random(options, told.seed)
                        : told.weights.empty()
                            ? tl::any_backbone(told.backbone, options)
                            : tl::any_backbone(told.backbone, std::filesystem::path(told.weights), options);
  // A window is seen whole.
  out.core.preprocessing.crop_fraction = 1.0;
  return out;
}

/// The boxes that a model looks for, with the model's classes.
std::vector<tl::TruthBox> truth_of(const tl::BoxData& data, const tl::Labels& labels) {
  std::vector<tl::TruthBox> out;
  for (tl::TruthBox box : data.truth()) {
    const auto found = std::find(labels.begin(), labels.end(), data.labels()[static_cast<std::size_t>(box.label)]);
    if (found == labels.end()) continue;
    box.label = found - labels.begin();
    out.push_back(box);
  }
  return out;
}

int train(const Told& told) {
  auto [first, second] = tools::split_boxes(told.data, told.format, told.train, told.val, {.seed = told.seed});
  const tl::BoxData data = std::move(first), validation = std::move(second);
  tools::warn_of(data);
  const tl::WindowDataOptions cut{.window = told.window,
                                  .views = told.views,
                                  .background = told.background,
                                  .smallest = told.smallest,
                                  .labels = words(told.classes),
                                  .seed = told.seed};
  tl::WindowData windows = tl::WindowData::of(data, cut);
  const tl::WindowData unseen = tl::WindowData::of(validation, cut);
  tl::Classifier classifier{backbone_of(told), tl::FreezePolicy<tl::FreezeAll>{},
                            tl::Head<tl::Linear>{{.seed = told.seed}}, windows.labels()};
  tl::WindowOptions slide{.stride = told.stride, .scale = told.scale, .smallest = told.smallest};
  if (told.mode == "dense") slide.mode = tl::WindowMode::dense;
  if (told.merge == "soft") slide.merge = tl::SoftNmsOptions{};
  if (told.merge == "fusion") slide.merge = tl::FusionOptions{.score = tl::FusionOptions::Score::highest};
  tl::SlidingWindow model{std::move(classifier), slide};
  for (std::size_t i = 0; i < windows.labels().size(); ++i)
    std::printf("windows of %s: %lld\n", tools::one_line(windows.labels()[i]).c_str(),
                static_cast<long long>(windows.counts()[i]));

  tl::TrainerOptions options{.epochs = told.epochs,
                             .batch = told.batch,
                             .optimizer = tl::Adam{.lr = told.lr},
                             .seed = told.seed,
                             .cache = {.folder = tl::cache_folder() / "activations"}};
  options.stop = tools::stop_on_interrupt("stopping");
  tl::Trainer trainer{model.classifier(), options};
  const std::filesystem::path out = told.out.empty() ? tl::default_run_folder() : std::filesystem::path(told.out);
  tl::RunFolder folder{out, trainer, windows, unseen};
  const tl::Index before = windows.size();
  tl::fit_windows(model, trainer, windows, unseen, data, {.rounds = told.rounds}, tl::Console{}, folder);
  std::printf("hard negatives: %lld\n", static_cast<long long>(windows.size() - before));
  tl::save(model, out / "window.safetensors");

  tl::BoxAveragePrecision metric;
  tl::Progress bar(stdout, {.label = "pictures", .total = validation.size(), .unit = "img"});
  for (tl::Index i = 0; i < validation.size(); ++i) {
    const tl::Batch batch = validation.batch({&i, 1});
    metric.update(model.predict(batch), batch);
    bar.update(i + 1);
  }
  bar.finish();
  const auto classes = static_cast<tl::Index>(model.labels().size());
  const auto result = tl::coco_average_precision(truth_of(validation, model.labels()), metric.found(), classes);
  tl::Json numbers{{"ap", result.mean.ap}, {"ap50", result.mean.ap50}};
  std::printf("ap   %.4f\nap50 %.4f\n", result.mean.ap, result.mean.ap50);
  for (std::size_t i = 0; i < model.labels().size(); ++i) {
    const tl::CocoNumbers& n = result.classes[i].numbers;
    std::printf("%-16s ap %.4f  ap50 %.4f\n", tools::one_line(model.labels()[i]).c_str(), n.ap, n.ap50);
    numbers["classes"][model.labels()[i]] = tl::Json{{"ap", n.ap}, {"ap50", n.ap50}};
  }
  tl::write_file(out / "window.json", numbers.dump(2) + "\n");
  std::printf("the run's folder: %s\n", out.c_str());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  Told told;
  tools::Arguments arguments(
      "--data DIR [options]",
      "Trains a sliding window on pictures with boxes: a linear head on a frozen network of the zoo, windows cut from\n"
      "the boxes and beside them, hard negatives looked for. The run's folder has the detector, window.safetensors.");
  arguments.option("--data", "DIR", "pictures and boxes", told.data)
      .option("--format", "F", "voc, yolo or coco (voc)", told.format)
      .option("--train", "SET", "to learn from (the data's own set, or by chance)", told.train)
      .option("--val", "SET", "to measure with", told.val)
      .option("--classes", "A,B", "the objects; all others are background (all)", told.classes)
      .option("--backbone", "NAME", "a network of the zoo; weights_tool backbones lists them (efficientnet_lite0)",
              told.backbone)
      .option("--weights", "FILE", "the network's (the published ones)", told.weights)
      .flag("--random", "random weights", told.random)
      .option("--window", "N", "side of the window in pixels, and of the network's input (96)", told.window)
      .option("--stride", "N", "pixels from one window to the next (16)", told.stride)
      .option("--scale", "X", "between the levels of the pyramid (1.25)", told.scale)
      .option("--smallest", "N", "side of the smallest window in the pictures' pixels (the window's)", told.smallest)
      .option("--mode", "M", "exact, or dense, where the network can do it (exact)", told.mode)
      .option("--merge", "M", "of overlapping boxes: greedy, soft or fusion (greedy)", told.merge)
      .option("--rounds", "N", "of looking for hard negatives (1)", told.rounds)
      .option("--views", "N", "windows cut around an object (8)", told.views)
      .option("--background", "N", "windows cut beside objects, a picture (24)", told.background)
      .option("--epochs", "N", "of each round (10)", told.epochs)
      .option("--batch", "N", "windows a step (100)", told.batch)
      .option("--lr", "X", "Adam's learning rate (0.001)", told.lr)
      .option("--threads", "N", "(one a core)", told.threads)
      .option("--seed", "N", "what windows, weights and a drawn split depend on (0)", told.seed)
      .option("--out", "DIR", "the run's folder (runs/<date-time>)", told.out)
      .footer("Ctrl-C stops it.");
  return tools::run(argc, argv, arguments, [&](const std::vector<std::string>& given) {
    if (!given.empty()) throw tools::Usage(text("\"", given[0], "\" is no option"));
    check(told);
    tools::settle_threads(told.threads);
    return train(told);
  });
}

/// \file
/// How the tools train a sliding window: windows are cut, or looked at where the network slides, a linear head is
/// trained on a frozen network of the zoo, wrong answers are looked for, it is trained on, and measured.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include <transferlib/core/files.hpp>
#include <transferlib/data/window_data.hpp>
#include <transferlib/formats/json.hpp>
#include <transferlib/heads/vector_head.hpp>
#include <transferlib/metrics/detection.hpp>
#include <transferlib/model/sliding_window.hpp>
#include <transferlib/probe/fit_dense.hpp>
#include <transferlib/report/console.hpp>
#include <transferlib/report/progress.hpp>
#include <transferlib/report/run_folder.hpp>
#include <transferlib/train/trainer.hpp>
#include <transferlib/zoo.hpp>

#include "arguments.hpp"
#include "detectors.hpp"
#include "interrupt.hpp"
#include "shared.hpp"

namespace tools {

/// What a sliding window is trained by.
struct Sliding {
  std::string data, format = "voc", train, val, classes, backbone = "efficientnet_lite0", weights, mode = "exact",
                    learn, merge = "greedy", out;
  tl::Index window = 96, stride = 16, smallest = 0, rounds = 1, views = 8, background = 24, epochs = 10, batch = 100;
  double scale = 1.25, lr = 1e-3;
  int threads = 0;
  std::uint64_t seed = 0;
  bool random = false;

  /// From windows at the places where it looks, not from such as are cut around objects.
  bool learns_at_places() const { return learn.empty() ? mode == "dense" : learn == "places"; }
};

inline tl::Labels words(const std::string& list) {
  tl::Labels out;
  for (std::size_t from = 0; from < list.size();) {
    const std::size_t comma = std::min(list.find(',', from), list.size());
    if (comma > from) out.push_back(list.substr(from, comma - from));
    from = comma + 1;
  }
  return out;
}

inline void check(const Sliding& told) {
  if (told.data.empty()) throw Usage("--data DIR is wanted: pictures with boxes");
  check_word("--format", told.format, {"voc", "yolo", "coco"});
  check_word("--mode", told.mode, {"exact", "dense"});
  check_word("--merge", told.merge, {"greedy", "soft", "fusion"});
  if (!told.learn.empty()) check_word("--learn", told.learn, {"cut", "places"});
  if (told.mode == "dense" && told.learn == "cut")
    throw Usage("--learn cut goes with --mode exact: what a dense window sees is not what is cut out");
  if (told.train.empty() != told.val.empty()) throw Usage("--train and --val go together");
  if (told.random && !told.weights.empty()) throw Usage("--random and --weights contradict each other");
  if (told.threads < 0 || told.threads > 1024)
    throw Usage(text("--threads must be from 1 to 1024, not ", told.threads));
}

inline tl::AnyBackbone backbone_of(const Sliding& told) {
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

inline int train_sliding(const Sliding& told) {
  auto [first, second] = split_boxes(told.data, told.format, told.train, told.val, {.seed = told.seed});
  const tl::BoxData data = std::move(first), validation = std::move(second);
  warn_of(data);
  const tl::Labels objects = told.classes.empty() ? data.labels() : words(told.classes);
  tl::Labels labels = objects;
  labels.push_back("background");
  tl::Classifier classifier{backbone_of(told), tl::FreezePolicy<tl::FreezeAll>{},
                            tl::Head<tl::Linear>{{.seed = told.seed}}, labels};
  tl::WindowOptions slide{.stride = told.stride, .scale = told.scale, .smallest = told.smallest};
  if (told.mode == "dense") {
    slide.mode = tl::WindowMode::dense;
    slide.margin = 1.0;  // a place sees what is beside its window anyhow
  }
  if (told.merge == "soft") slide.merge = tl::SoftNmsOptions{};
  if (told.merge == "fusion") slide.merge = tl::FusionOptions{.score = tl::FusionOptions::Score::highest};
  tl::SlidingWindow model{std::move(classifier), slide};
  const std::filesystem::path out = told.out.empty() ? tl::default_run_folder() : std::filesystem::path(told.out);
  if (told.learns_at_places()) {
    tl::make_folders(out);
    const auto fit = tl::fit_dense(model, data, {.rounds = told.rounds, .seed = told.seed});
    for (std::size_t i = 0; i < labels.size(); ++i)
      std::printf("windows of %s: %lld\n", one_line(labels[i]).c_str(), static_cast<long long>(fit.windows[i]));
    std::printf("hard negatives: %lld\n", static_cast<long long>(fit.hard));
  } else {
    const tl::WindowDataOptions cut{.window = told.window,
                                    .views = told.views,
                                    .background = told.background,
                                    .smallest = told.smallest,
                                    .labels = objects,
                                    .seed = told.seed};
    tl::WindowData windows = tl::WindowData::of(data, cut);
    const tl::WindowData unseen = tl::WindowData::of(validation, cut);
    for (std::size_t i = 0; i < labels.size(); ++i)
      std::printf("windows of %s: %lld\n", one_line(labels[i]).c_str(), static_cast<long long>(windows.counts()[i]));
    tl::TrainerOptions options{.epochs = told.epochs,
                               .batch = told.batch,
                               .optimizer = tl::Adam{.lr = told.lr},
                               .seed = told.seed,
                               .cache = {.folder = tl::cache_folder() / "activations"}};
    options.stop = stop_on_interrupt("stopping");
    tl::Trainer trainer{model.classifier(), options};
    tl::RunFolder folder{out, trainer, windows, unseen};
    const tl::Index before = windows.size();
    tl::fit_windows(model, trainer, windows, unseen, data, {.rounds = told.rounds}, tl::Console{}, folder);
    std::printf("hard negatives: %lld\n", static_cast<long long>(windows.size() - before));
  }
  tl::save(model, out / "window.safetensors");

  tl::BoxAveragePrecision metric;
  std::vector<double> times;
  tl::Progress bar(stdout, {.label = "pictures", .total = validation.size(), .unit = "img"});
  for (tl::Index i = 0; i < validation.size(); ++i) {
    const tl::Batch batch = validation.batch({&i, 1});
    const auto start = std::chrono::steady_clock::now();
    const auto found = model.predict(batch);
    times.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
    metric.update(found, batch);
    bar.update(i + 1);
  }
  bar.finish();
  const auto classes = static_cast<tl::Index>(model.labels().size());
  const auto result = tl::coco_average_precision(truth_of(validation, model.labels()), metric.found(), classes);
  std::nth_element(times.begin(), times.begin() + std::ssize(times) / 2, times.end());
  const double median = times.empty() ? 0.0 : times[times.size() / 2];
  std::printf("a picture takes %.0f ms (median)\n", median);
  tl::Json numbers{{"ap", result.mean.ap}, {"ap50", result.mean.ap50}, {"milliseconds", median}};
  std::printf("ap   %.4f\nap50 %.4f\n", result.mean.ap, result.mean.ap50);
  for (std::size_t i = 0; i < model.labels().size(); ++i) {
    const tl::CocoNumbers& n = result.classes[i].numbers;
    std::printf("%-16s ap %.4f  ap50 %.4f\n", one_line(model.labels()[i]).c_str(), n.ap, n.ap50);
    numbers["classes"][model.labels()[i]] = tl::Json{{"ap", n.ap}, {"ap50", n.ap50}};
  }
  tl::write_file(out / "window.json", numbers.dump(2) + "\n");
  std::printf("the run's folder: %s\n", out.c_str());
  return 0;
}

}  // namespace tools

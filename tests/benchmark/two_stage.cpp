// Faster R-CNN on EfficientNet-Lite0 with a feature pyramid: the peer of two_stage.py, with the same options and the
// same work timed. --data FOLDER is a data set as Pascal VOC's with the sets trainval and test; without it the pictures
// are noise with boxes by chance. --test N measures on so many pictures of the test set, --save FILE keeps the model.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <transferlib/backbones/efficientnet.hpp>
#include <transferlib/core/environment.hpp>
#include <transferlib/core/random.hpp>
#include <transferlib/data/box_transforms.hpp>
#include <transferlib/data/detection.hpp>
#include <transferlib/heads/region_proposal.hpp>
#include <transferlib/heads/roi.hpp>
#include <transferlib/metrics/detection.hpp>
#include <transferlib/model/two_stage.hpp>
#include <transferlib/necks/feature_pyramid.hpp>
#include <transferlib/train/trainer.hpp>
#include <transferlib/two_stage_parts.hpp>

#include "arguments.hpp"

namespace tl = transferlib;

namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

/// Pictures of noise with twelve boxes each.
struct Noise {
  using Target = tl::Boxes;
  tl::Index count = 0;

  tl::Index size() const { return count; }
  tl::Labels labels() const { return {"a", "b", "c"}; }
  tl::Batch batch(std::span<const tl::Index> ids) const {
    tl::Batch out;
    std::vector<float> rows;
    std::vector<tl::Index> offsets{0}, sizes;
    for (const tl::Index id : ids) {
      tl::Random random(1, tl::Purpose::test, static_cast<std::uint64_t>(id));
      out.pictures.push_back(at::empty({1, 3, 480, 640}, at::kByte)
                                 .random_(0, 256, tl::detail::generator(1, static_cast<std::uint64_t>(id), 1)));
      for (int b = 0; b < 12; ++b)
        for (const double x : {static_cast<double>(random.below(3)), random.uniform(0.0, 480.0),
                               random.uniform(0.0, 360.0), random.uniform(20.0, 120.0), random.uniform(20.0, 120.0)})
          rows.push_back(static_cast<float>(x));
      offsets.push_back(offsets.back() + 12);
      sizes.insert(sizes.end(), {480, 640});
    }
    out.target = at::tensor(rows).view({-1, 5});
    out.offsets = at::tensor(offsets, at::kLong);
    out.sizes = at::tensor(sizes, at::kLong).view({-1, 2});
    return out;
  }
};

struct Told {
  std::filesystem::path data, save;
  tl::Index pictures = 64, epochs = 1, size = 384, batch = 4, threads = 2, latency = 20, test = 0, seed = 0;
  double lr = 4e-4;
  tl::Precision precision = tl::Precision::bf16;
};

tl::Backbone<tl::EfficientNetLite0> backbone(tl::Index size) {
  try {
    return tl::Backbone<tl::EfficientNetLite0>::pretrained({.size = size});
  } catch (const tl::WeightsError&) {  // the same work with random weights
    return tl::Backbone<tl::EfficientNetLite0>::random({.size = size});
  }
}

struct Printer {
  double start = now();
  bool quiet = false;
  void on_epoch_end(const tl::Epoch& e) const {
    if (quiet) return;
    std::printf("epoch %lld: loss %.4f, %.1f s\n", static_cast<long long>(e.number), e["train_loss"], now() - start);
    std::fflush(stdout);
  }
};

/// \param few what the trainer measures on after each epoch
template <class Train, class Test>
void measure(const Told& told, const Train& train, const Test& few, const Test& test) {
  const auto seed = static_cast<std::uint64_t>(told.seed);
  tl::TwoStage model{backbone(told.size),
                     tl::FreezePolicy<tl::FreezeBatchNorm>{},
                     tl::Neck<tl::FeaturePyramid>{{.channels = 128, .finest = 8, .seed = seed}},
                     tl::Head<tl::RegionProposal>{{.sizes = {{28}, {56}, {112}, {224}},
                                                   .training = {.before_nms = 1000, .after_nms = 1000},
                                                   .predicting = {.before_nms = 500, .after_nms = 300},
                                                   .seed = seed}},
                     tl::Head<tl::RoI>{{.samples = 256, .seed = seed}},
                     train.labels()};
  model.set_fit(tl::Fit::stretch);
  tl::Trainer trainer{model,
                      {.epochs = told.epochs,
                       .batch = told.batch,
                       .optimizer = tl::AdamW{.lr = told.lr, .weight_decay = 1e-2},
                       .schedule = tl::CosineRate{.warmup = 0.05},
                       .ema = tl::Ema{.decay = 0.99},
                       .clip_norm = 10.0,
                       .autocast = told.precision,
                       .seed = seed,
                       .cache = {.enabled = false}}};
  const auto augmented = tl::augment(train, tl::BoxFlip{});
  const double start = now();
  const auto history = trainer.fit(augmented, few, Printer{.quiet = told.epochs == 1});
  const double seconds = now() - start;
  if (!told.save.empty()) tl::save(model, told.save);

  std::vector<double> times;
  tl::BoxAveragePrecision metric;
  for (tl::Index i = 0; i < std::min(test.size(), std::max(told.latency, told.test)); ++i) {
    const tl::Batch batch = test.batch({&i, 1});
    const double begin = now();
    const auto found = model.predict(batch, told.precision);
    if (i >= 2 && i < told.latency) times.push_back(1e3 * (now() - begin));
    if (i < told.test) metric.update(found, batch);
  }
  std::sort(times.begin(), times.end());
  std::printf(
      "images_per_second=%.2f seconds=%.1f latency_ms=%.1f pictures=%lld batch=%lld threads=%lld precision=%s "
      "loss=%.4f",
      static_cast<double>(told.epochs * train.size()) / seconds, seconds, times.empty() ? 0.0 : times[times.size() / 2],
      static_cast<long long>(train.size()), static_cast<long long>(told.batch), static_cast<long long>(told.threads),
      told.precision == tl::Precision::bf16 ? "bf16" : "fp32", history.epochs.back()["train_loss"]);
  if (told.test > 0) {
    const auto result = metric.result();
    std::printf(" ap50=%.4f ap=%.4f", result.mean.ap50, result.mean.ap);
  }
  std::printf("\n");
}

void run(int argc, char** argv) {
  Told told;
  const benchmark::Numbers numbers{
      {"--pictures", &told.pictures}, {"--epochs", &told.epochs},   {"--size", &told.size}, {"--batch", &told.batch},
      {"--threads", &told.threads},   {"--latency", &told.latency}, {"--test", &told.test}, {"--seed", &told.seed}};
  benchmark::read_options(argc, argv, numbers, 0, [&](std::string_view name, std::string_view value) {
    if (name == "--data") {
      told.data = value;
      return true;
    }
    if (name == "--save") {
      told.save = value;
      return true;
    }
    if (name == "--lr") {
      benchmark::read(name, value, told.lr, 0);
      return true;
    }
    if (name == "--precision" && (value == "bf16" || value == "fp32")) {
      told.precision = value == "bf16" ? tl::Precision::bf16 : tl::Precision::fp32;
      return true;
    }
    return false;
  });
  tl::keep_freed_memory();  // as every program of the library does
  at::set_num_threads(static_cast<int>(told.threads));
  if (told.data.empty()) return measure(told, Noise{told.pictures}, Noise{1}, Noise{told.latency});
  tl::BoxDataOptions options{.cache_bytes = std::size_t{1} << 30};
  const auto all = tl::VocData::open(told.data, "trainval", options);
  options.labels = all.labels();
  const auto test = tl::VocData::open(told.data, "test", options);
  measure(told, all.subset(std::min(told.pictures, all.size())), test.subset(1), test);
}

}  // namespace

int main(int argc, char** argv) {
  return benchmark::run("benchmark_two_stage", [&] { run(argc, argv); });
}

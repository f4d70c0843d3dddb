// A detector of darknet's trained for an epoch after a first one, and one picture found in at a time: the peer of
// detection.py, with the same options and the same work timed. --cfg and --weights are darknet's; without them it is a
// network like v5n with random weights. Pictures are noise, with a dozen boxes each. --precision is of the training.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <transferlib/backbones/csp_darknet.hpp>
#include <transferlib/detection.hpp>

#include "arguments.hpp"

namespace tl = transferlib;

namespace {

/// Noise with a dozen boxes of three classes on each picture.
class Noise {
 public:
  using Target = tl::Boxes;

  Noise(tl::Index count, tl::Index size) {
    at::manual_seed(1);
    pictures_ = at::randint(0, 256, {count, 3, size, size}, at::kByte);
    const at::Tensor sides = (at::rand({count, kBoxes, 2}) * 0.2 + 0.05) * size;
    boxes_ = at::cat(
        {at::randint(3, {count, kBoxes, 1}).to(at::kFloat), at::rand({count, kBoxes, 2}) * (size - sides), sides}, 2);
  }
  tl::Index size() const { return pictures_.size(0); }
  const tl::Labels& labels() const { return labels_; }
  tl::Batch batch(std::span<const tl::Index> ids) const {
    const auto n = static_cast<tl::Index>(ids.size()), side = pictures_.size(2);
    const at::Tensor which = at::tensor(at::IntArrayRef(ids.data(), ids.size()), at::kLong);
    return {{pictures_.index_select(0, which)},
            boxes_.index_select(0, which).flatten(0, 1),
            at::arange(n + 1) * kBoxes,
            at::full({n, 2}, side, at::kLong)};
  }

 private:
  static constexpr tl::Index kBoxes = 12;
  at::Tensor pictures_, boxes_;
  tl::Labels labels_{"a", "b", "c"};
};

tl::Detector<tl::AnyNetwork, tl::AnyNeck, tl::Yolo> detector(const std::string& cfg, const std::string& weights,
                                                             tl::Index size, const tl::Labels& labels) {
  tl::YoloOptions yolo = tl::yolo_v5();
  if (cfg.empty())
    return {tl::AnyBackbone(tl::Backbone<tl::CspDarkNetN>::random({.size = size}).core),
            tl::FreezePolicy<tl::FreezeNone>{},
            tl::any_neck(tl::Neck<tl::C3PathAggregation>{{.width = 0.25, .depth = 0.33, .sppf = false}}),
            tl::Head<tl::Yolo>{yolo}, labels};
  yolo.anchors = tl::darknet_head(cfg).options.anchors;
  yolo.balance = {1.0};
  const tl::DarknetOptions options{.size = size, .dropout = false};  // as detect_train has it
  return {weights.empty() ? tl::darknet_pyramid(cfg, options) : tl::darknet_pyramid(cfg, weights, options),
          tl::FreezePolicy<tl::FreezeNone>{}, tl::any_neck("none"), tl::Head<tl::Yolo>{yolo}, labels};
}

void measure(int argc, char** argv) {
  std::string cfg, weights;
  auto precision = tl::Precision::fp32;
  tl::Index count = 160, size = 0, batch = 16, threads = 1;
  const benchmark::Numbers numbers{
      {"--pictures", &count}, {"--size", &size}, {"--batch", &batch}, {"--threads", &threads}};
  benchmark::read_options(argc, argv, numbers, 1, [&](std::string_view name, std::string_view value) {
    if (name == "--cfg") {
      cfg = value;
      return true;
    }
    if (name == "--weights") {
      weights = value;
      return true;
    }
    if (name == "--precision" && (value == "fp32" || value == "bf16")) {
      precision = value == "bf16" ? tl::Precision::bf16 : tl::Precision::fp32;
      return true;
    }
    return false;
  });
  if (size == 0) size = cfg.empty() ? 64 : 320;
  tl::keep_freed_memory();  // as every program of the library does
  at::set_num_threads(static_cast<int>(threads));
  const Noise data(count, size), one(1, size);
  auto model = detector(cfg, weights, size, data.labels());
  tl::Trainer trainer{model, {.epochs = 2, .batch = batch, .optimizer = tl::AdamW{.lr = 1e-3}, .autocast = precision}};
  const double seconds = trainer.fit(data, one)["seconds"].back();

  model.head().options().selection.score_threshold = 0.25;
  const std::vector<tl::Index> first{0};
  std::vector<double> times;
  for (int i = 0; i < 60; ++i) {
    const tl::Batch picture = one.batch(first);
    const auto start = std::chrono::steady_clock::now();
    model.predict(picture, tl::Precision::fp32);
    times.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
  }
  std::sort(times.begin(), times.end());
  std::printf("images_per_second=%.2f milliseconds=%.2f pictures=%lld batch=%lld size=%lld threads=%d\n",
              static_cast<double>(count) / seconds, times[times.size() / 2], static_cast<long long>(count),
              static_cast<long long>(batch), static_cast<long long>(size), at::get_num_threads());
}

}  // namespace

int main(int argc, char** argv) {
  return benchmark::run("benchmark_detection", [&] { measure(argc, argv); });
}

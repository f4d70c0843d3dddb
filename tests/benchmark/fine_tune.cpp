// EfficientNet-Lite0 fine-tuned whole: AdamW, one-cycle, flips, as the trainer does it. The peer of fine_tune.py, with
// the same options and the same work timed. --data FOLDER holds cifar-10-batches-bin/; without it the pictures are
// noise of ten classes. --test N measures on so many test pictures after each epoch, and tells the last accuracy.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <transferlib/transfer.hpp>

#include "arguments.hpp"

namespace tl = transferlib;

namespace {

using Data = tl::TensorData<tl::ClassIndex>;

/// To train on, and to test on.
std::pair<Data, Data> pictures(const std::filesystem::path& folder, tl::Index count, tl::Index tested) {
  if (!folder.empty()) {
    const auto split = tl::Cifar10::open(folder);
    return {static_cast<const Data&>(split.train).subset(count), static_cast<const Data&>(split.test).subset(tested)};
  }
  std::vector<std::string> labels;
  for (int i = 0; i < 10; ++i) labels.push_back(std::to_string(i));
  at::manual_seed(1);
  const auto noise = [&](tl::Index n) {
    return Data(at::randint(0, 256, {n, 3, 32, 32}, at::kByte), at::arange(n).remainder(10), labels);
  };
  return {noise(count), noise(tested)};
}

tl::Backbone<tl::EfficientNetLite0> backbone(tl::Index size) {
  try {
    return tl::Backbone<tl::EfficientNetLite0>::pretrained({.size = size});
  } catch (const tl::WeightsError&) {  // the same work with random weights
    return tl::Backbone<tl::EfficientNetLite0>::random({.size = size});
  }
}

void measure(int argc, char** argv) {
  std::filesystem::path data;
  tl::Index count = 2000, size = 96, batch = 100, threads = 2, epochs = 1, tested = 0;
  auto precision = tl::Precision::bf16;
  const benchmark::Numbers numbers{{"--pictures", &count},  {"--size", &size},     {"--batch", &batch},
                                   {"--threads", &threads}, {"--epochs", &epochs}, {"--test", &tested}};
  benchmark::read_options(argc, argv, numbers, 1, [&](std::string_view name, std::string_view value) {
    if (name == "--data") {
      data = value;
      return true;
    }
    if (name == "--precision" && (value == "bf16" || value == "fp32")) {
      precision = value == "bf16" ? tl::Precision::bf16 : tl::Precision::fp32;
      return true;
    }
    return false;
  });
  tl::keep_freed_memory();  // as every program of the library does
  at::set_num_threads(static_cast<int>(threads));
  const auto [train, test] = pictures(data, count, std::max<tl::Index>(tested, 1));
  tl::Classifier model{backbone(size), tl::FreezePolicy<tl::FreezeNone>{}, tl::Head<tl::Linear>{{.standardise = false}},
                       train.labels()};
  tl::Trainer trainer{model,
                      {.epochs = epochs,
                       .batch = batch,
                       .optimizer = tl::AdamW{.lr = 1e-3},
                       .schedule = tl::OneCycle{},
                       .autocast = precision}};
  const auto history = trainer.fit(tl::augment(train, tl::Flip{}), test);
  double seconds = 0.0;
  for (const double of_epoch : history["seconds"]) seconds += of_epoch;
  std::printf(
      "images_per_second=%.1f seconds=%.3f pictures=%lld epochs=%lld batch=%lld threads=%d precision=%s loss=%.4f",
      static_cast<double>(train.size() * epochs) / seconds, seconds, static_cast<long long>(train.size()),
      static_cast<long long>(epochs), static_cast<long long>(batch), at::get_num_threads(),
      std::string(tl::to_string(precision)).c_str(), history["train_loss"].back());
  if (tested > 0)
    std::printf(" accuracy=%.4f tested=%lld", history["val_accuracy"].back(), static_cast<long long>(tested));
  std::printf("\n");
}

}  // namespace

int main(int argc, char** argv) {
  return benchmark::run("benchmark_fine_tune", [&] { measure(argc, argv); });
}

// EfficientNet-Lite0 fine-tuned whole for one epoch: AdamW, one-cycle, flips, as the trainer does it. The peer of
// fine_tune.py, with the same options and the same work timed. --data FOLDER holds cifar-10-batches-bin/; without it
// the pictures are noise of ten classes.
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <transferlib/transfer.hpp>

namespace tl = transferlib;

namespace {

tl::TensorData<tl::ClassIndex> pictures(const std::filesystem::path& folder, tl::Index count) {
  if (!folder.empty()) {
    const auto split = tl::Cifar10::open(folder);
    return static_cast<const tl::TensorData<tl::ClassIndex>&>(split.train).subset(count);
  }
  std::vector<std::string> labels;
  for (int i = 0; i < 10; ++i) labels.push_back(std::to_string(i));
  at::manual_seed(1);
  return {at::randint(0, 256, {count, 3, 32, 32}, at::kByte), at::arange(count).remainder(10), labels};
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
  tl::Index count = 2000, size = 96, batch = 100, threads = 2;
  auto precision = tl::Precision::bf16;
  const std::map<std::string_view, tl::Index*> numbers{
      {"--pictures", &count}, {"--size", &size}, {"--batch", &batch}, {"--threads", &threads}};
  for (int i = 1; i < argc; i += 2) {
    const std::string_view name = argv[i];
    if (i + 1 == argc) throw std::runtime_error(std::string(name) + " needs a value");
    const std::string_view value = argv[i + 1];
    if (name == "--data") {
      data = value;
    } else if (name == "--precision" && (value == "bf16" || value == "fp32")) {
      precision = value == "bf16" ? tl::Precision::bf16 : tl::Precision::fp32;
    } else if (const auto number = numbers.find(name); number != numbers.end()) {
      const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), *number->second);
      if (error != std::errc() || end != value.data() + value.size() || *number->second < 1)
        throw std::runtime_error(std::string(name) + " needs a number of at least 1");
    } else {
      throw std::runtime_error("unknown: " + std::string(name) + " " + std::string(value));
    }
  }
  tl::keep_freed_memory();  // as every program of the library does
  at::set_num_threads(static_cast<int>(threads));
  const auto train = pictures(data, count);
  tl::Classifier model{backbone(size), tl::FreezePolicy<tl::FreezeNone>{}, tl::Head<tl::Linear>{{.standardise = false}},
                       train.labels()};
  tl::Trainer trainer{model,
                      {.epochs = 1,
                       .batch = batch,
                       .optimizer = tl::AdamW{.lr = 1e-3},
                       .schedule = tl::OneCycle{},
                       .autocast = precision}};
  const auto history = trainer.fit(tl::augment(train, tl::Flip{}), train.subset(1));
  std::printf("images_per_second=%.1f seconds=%.3f pictures=%lld batch=%lld threads=%d precision=%s loss=%.4f\n",
              static_cast<double>(train.size()) / history["seconds"][0], history["seconds"][0],
              static_cast<long long>(train.size()), static_cast<long long>(batch), at::get_num_threads(),
              std::string(tl::to_string(precision)).c_str(), history["train_loss"][0]);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    measure(argc, argv);
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "benchmark_fine_tune: %s\n", e.what());
    return 1;
  }
}

// A sliding window's two ways beside each other: each picture by `exact` and by `dense`, in turn. --model is a file
// that save wrote, whose windows and stride it takes; without one, EfficientNet-Lite0 with random weights whose last
// stage is dilated, windows of 96 pixels every 16. --data is a folder as Pascal VOC's, whose --set is looked at;
// without one, noise of --width and --height.
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <transferlib/backbones/efficientnet.hpp>
#include <transferlib/detection.hpp>
#include <transferlib/detector_zoo.hpp>

#include "arguments.hpp"

namespace tl = transferlib;

namespace {

tl::AnySlidingWindow model_of(const std::string& file, tl::Index smallest) {
  if (!file.empty()) return tl::load_window(file);
  tl::AnyBackbone backbone(tl::Backbone<tl::EfficientNetLite0>::random({.size = 96, .output_stride = 16}).core);
  return tl::AnySlidingWindow{
      tl::AnyClassifier<>{std::move(backbone), tl::FreezePolicy{tl::AnyRule(tl::FreezeAll{})},
                          tl::any_head<tl::ClassIndex>("linear"), tl::Labels{"cell", "background"}},
      {.smallest = smallest, .threshold = 0.9}};
}

void measure(int argc, char** argv) {
  std::string file, data, set = "test";
  tl::Index count = 4, width = 160, height = 128, smallest = 96, threads = 1;
  const benchmark::Numbers numbers{{"--pictures", &count},
                                   {"--width", &width},
                                   {"--height", &height},
                                   {"--smallest", &smallest},
                                   {"--threads", &threads}};
  benchmark::read_options(argc, argv, numbers, 1, [&](std::string_view name, std::string_view value) {
    for (const auto& [option, into] : {std::pair{"--model", &file}, {"--data", &data}, {"--set", &set}})
      if (name == option) {
        *into = value;
        return true;
      }
    return false;
  });
  tl::keep_freed_memory();  // as every program of the library does
  at::set_num_threads(static_cast<int>(threads));
  std::vector<tl::Batch> pictures;
  if (data.empty()) {
    at::manual_seed(1);
    for (tl::Index i = 0; i < count; ++i) pictures.push_back({{at::randint(0, 256, {1, 3, height, width}, at::kByte)}});
  } else {
    const auto voc = tl::VocData::open(data, set);
    for (tl::Index i = 0; i < std::min(count, voc.size()); ++i) pictures.push_back(voc.batch({&i, 1}));
  }
  auto model = model_of(file, smallest);
  std::array<std::vector<double>, 2> times;
  tl::Index windows = 0;
  const auto look = [&](const tl::Batch& picture, tl::WindowMode mode) {
    auto options = model.options();
    options.mode = mode;
    model.set_options(options);
    model.predict(picture);  // the weights are packed for a size once
    const auto start = std::chrono::steady_clock::now();
    model.predict(picture);
    const double ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
    times[mode == tl::WindowMode::dense ? 1 : 0].push_back(ms);
  };
  for (const tl::Batch& picture : pictures) {
    look(picture, tl::WindowMode::exact);
    look(picture, tl::WindowMode::dense);
    windows += model.count({picture.pictures[0].size(3), picture.pictures[0].size(2)});
  }
  std::vector<double> ratios;
  for (std::size_t i = 0; i < pictures.size(); ++i) ratios.push_back(times[0][i] / times[1][i]);
  const auto middle = [](std::vector<double> of) {
    std::sort(of.begin(), of.end());
    return of[of.size() / 2];
  };
  const auto [least, greatest] = std::minmax_element(ratios.begin(), ratios.end());
  std::printf(
      "exact_milliseconds=%.1f dense_milliseconds=%.1f ratio=%.2f from=%.2f to=%.2f pictures=%zu windows=%.0f "
      "threads=%d\n",
      middle(times[0]), middle(times[1]), middle(ratios), *least, *greatest, pictures.size(),
      static_cast<double>(windows) / static_cast<double>(pictures.size()), at::get_num_threads());
}

}  // namespace

int main(int argc, char** argv) {
  return benchmark::run("benchmark_windows", [&] { measure(argc, argv); });
}

// Pooled features of EfficientNet-Lite0 by the library's preprocessing and engine, as the trainer computes them: the
// peer of features.py, with the same options and the same work timed. --data FOLDER holds cifar-10-batches-bin/;
// without it the pictures are of a formula.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <transferlib/backbones/efficientnet.hpp>
#include <transferlib/core/environment.hpp>
#include <transferlib/data/cifar.hpp>
#include <transferlib/data/preprocess.hpp>
#include <transferlib/engine/engine.hpp>
#include <transferlib/model/backbone.hpp>

#include "arguments.hpp"

namespace tl = transferlib;

namespace {

struct Options {
  std::filesystem::path data;
  tl::Index pictures = 2000, size = 128, threads = 2;
  tl::Index batch = 32;  ///< what the trainer takes
  tl::Precision precision = tl::Precision::automatic;
};

Options parse(int argc, char** argv) {
  Options out;
  const benchmark::Numbers numbers{
      {"--pictures", &out.pictures}, {"--size", &out.size}, {"--threads", &out.threads}, {"--batch", &out.batch}};
  benchmark::read_options(argc, argv, numbers, 1, [&](std::string_view name, std::string_view value) {
    if (name == "--data") {
      out.data = value;
      return true;
    }
    if (name == "--precision" && (value == "bf16" || value == "fp32")) {
      out.precision = value == "bf16" ? tl::Precision::bf16 : tl::Precision::fp32;
      return true;
    }
    return false;
  });
  return out;
}

at::Tensor formula(tl::Index count) {
  at::Tensor out = at::empty({count, 3, 32, 32}, at::kByte);
  auto* p = out.mutable_data_ptr<std::uint8_t>();
  for (tl::Index n = 0; n < count; ++n)
    for (tl::Index c = 0; c < 3; ++c)
      for (tl::Index y = 0; y < 32; ++y)
        for (tl::Index x = 0; x < 32; ++x)
          *p++ = static_cast<std::uint8_t>((c * 67 + y * 31 + x * 17 + (x * y * 7) % 53 + n * 41) % 256);
  return out;
}

tl::Backbone<tl::EfficientNetLite0> backbone(tl::Index size) {
  try {
    return tl::Backbone<tl::EfficientNetLite0>::pretrained({.size = size});
  } catch (const tl::WeightsError&) {  // the same work with random weights
    return tl::Backbone<tl::EfficientNetLite0>::random({.size = size});
  }
}

void measure(const Options& options) {
  tl::keep_freed_memory();  // as every program of the library does
  at::set_num_threads(static_cast<int>(options.threads));
  at::Tensor pictures;
  if (options.data.empty()) {
    pictures = formula(options.pictures);
  } else {
    pictures = tl::Cifar10::open(options.data).train.pictures();
    pictures = pictures.narrow(0, 0, std::min(options.pictures, pictures.size(0)));
  }
  const tl::Index count = pictures.size(0);

  const auto network = backbone(options.size);
  const tl::Graph& graph = network.core.graph;
  const std::vector<tl::Index> wanted{graph.pooled}, input{3, options.size, options.size};
  const tl::Engine engine(graph, wanted, input, {.precision = options.precision, .piece = options.batch});
  const auto features = [&](tl::Index from) {
    const tl::Batch batch{{pictures.narrow(0, from, std::min(options.batch, count - from))}, {}, {}};
    return engine(tl::preprocess(batch, network.preprocessing()))[0];
  };

  for (int warm_up = 0; warm_up < 2; ++warm_up) features(0);
  std::vector<at::Tensor> out;
  const auto start = std::chrono::steady_clock::now();
  for (tl::Index from = 0; from < count; from += options.batch) out.push_back(features(from));
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const std::string precision(tl::to_string(engine.precision()));
  std::printf("images_per_second=%.1f seconds=%.3f pictures=%lld batch=%lld threads=%d precision=%s mean=%.6f\n",
              static_cast<double>(count) / seconds, seconds, static_cast<long long>(count),
              static_cast<long long>(options.batch), at::get_num_threads(), precision.c_str(),
              at::cat(out).to(at::kDouble).mean().item<double>());
}

}  // namespace

int main(int argc, char** argv) {
  return benchmark::run("benchmark_features", [&] { measure(parse(argc, argv)); });
}

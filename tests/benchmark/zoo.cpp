// Every network of the zoo as a row of docs/zoo.md: parameters, multiply-adds, size, accuracy as published, features a
// second here, file and licence of its weights; then the layer tables of the networks that the lessons freeze by index.
//
//   zoo [--pictures N] [--threads N] [--only NAME]     writes the page to standard output
//
// Speed is of the engine's pooled features with random weights, the best of three rounds.
#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <transferlib/core/environment.hpp>
#include <transferlib/engine/engine.hpp>
#include <transferlib/report/shown.hpp>
#include <transferlib/zoo.hpp>

namespace tl = transferlib;

namespace {

std::string fixed(double value, int digits) { return tl::detail::fixed(value, digits); }

/// Pictures a second, of `pictures` in pieces of at most 32.
double speed(const tl::Engine& engine, tl::Index size, tl::Index pictures) {
  const tl::Index piece = std::min<tl::Index>(32, pictures);
  const tl::Tensor x = at::rand({piece, 3, size, size});
  engine(x.narrow(0, 0, 1));
  double best = 0.0;
  for (int round = 0; round < 3; ++round) {
    const auto begin = std::chrono::steady_clock::now();
    tl::Index done = 0;
    for (; done < pictures; done += piece) engine(x);
    const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - begin;
    best = std::max(best, static_cast<double>(done) / passed.count());
  }
  return best;
}

void row(const tl::ZooEntry& entry, tl::Index pictures) {
  const tl::AnyBackbone backbone = entry.random({}, 0);
  const auto& core = backbone.core;
  tl::Index parameters = 0, multiply_adds = 0;
  for (const tl::Layer& layer : backbone.layers().rows) parameters += layer.parameters;
  for (const tl::Index n : core.measure.multiply_adds) multiply_adds += n;
  const tl::Index size = core.size();
  const std::vector<tl::Index> wanted{core.graph.pooled}, input{3, size, size};
  const tl::Engine engine(core.graph, wanted, input, {});
  // A large network's speed is known from few pictures.
  if (multiply_adds > 20'000'000'000) pictures = std::min<tl::Index>(pictures, 8);
  const tl::Card& card = entry.card;
  const std::string file = *card.url == '\0' ? card.file : tl::detail::text("[", card.file, "](", card.url, ")");
  std::printf("| `%s` | %s | %s | %lld | %lld | %s | %s | %s | %s |\n", card.name,
              fixed(static_cast<double>(parameters) * 1e-6, 2).c_str(),
              fixed(static_cast<double>(multiply_adds) * 1e-9, 2).c_str(), static_cast<long long>(size),
              static_cast<long long>(backbone.features().width), card.top1 > 0.0 ? fixed(card.top1, 1).c_str() : "–",
              fixed(speed(engine, size, pictures), 0).c_str(), file.empty() ? "–" : file.c_str(),
              *card.licence == '\0' ? "–" : card.licence);
  std::fflush(stdout);
}

void table(std::string_view name) {
  const tl::LayerTable layers = tl::zoo_entry(name).layers({});
  std::printf(
      "\n### `%s`: %lld layers\n\n<details><summary>the table</summary>\n\n| index | name | kind | stage | "
      "parameters |\n| --- | --- | --- | --- | --- |\n",
      std::string(name).c_str(), static_cast<long long>(layers.size()));
  for (const tl::Layer& layer : layers.rows)
    std::printf("| %lld | `%s` | %s | %s | %lld |\n", static_cast<long long>(layer.index), layer.name.c_str(),
                std::string(tl::to_string(layer.kind)).c_str(),
                layers.stages[static_cast<std::size_t>(layer.stage)].c_str(), static_cast<long long>(layer.parameters));
  std::printf("\n</details>\n");
}

}  // namespace

int main(int argc, char** argv) {
  tl::Index pictures = 64, threads = 2;
  std::string_view only;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string_view name = argv[i], value = argv[i + 1];
    if (name == "--only") only = value;
    if (name == "--pictures") std::from_chars(value.data(), value.data() + value.size(), pictures);
    if (name == "--threads") std::from_chars(value.data(), value.data() + value.size(), threads);
  }
  at::set_num_threads(static_cast<int>(threads));
  tl::keep_freed_memory();
  const auto here = tl::Environment::here(torch::Device(at::kCPU));
  std::printf(
      "# The zoo\n\nMade by `tests/benchmark/zoo.cpp`. Parameters in millions and multiply-adds in thousands of "
      "millions are of the whole network, the original's classifier included; the size is the side of its "
      "input; top-1 is ImageNet's accuracy in percent as published with the file. Speed is pictures a second "
      "through the engine to the pooled features in batches of 32 (8 beyond 20 thousand million "
      "multiply-adds), with %lld threads, %s, LibTorch %s.\n\n"
      "| name | parameters | multiply-adds | size | width | top-1 | img/s | weights | licence |\n"
      "| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
      static_cast<long long>(threads), here.cpu_capability.c_str(), here.libtorch.c_str());
  // A test asks for a few pictures: then one network stands for all.
  if (pictures < 64 && only.empty()) only = "squeezenet1_1";
  for (const tl::ZooEntry& entry : tl::zoo())
    if (only.empty() || only == entry.card.name) row(entry, pictures);
  std::printf("\n## Layer tables\n\nThe index is what `FreezeUntil{{N}}` counts: the first layer that is trained.\n");
  for (const std::string_view name :
       {"keras_mobilenet_v3_small", "keras_mobilenet_v2", "resnet50", "efficientnet_lite0"})
    table(name);
  return 0;
}

// The engine's features of any network of the zoo, for passes.py to measure against Python's: writes the weights, the
// input and what it computes into a folder, then answers each line "bf16 4" or "fp32 4" on its standard input with the
// seconds that 4 batches took. Without a folder it measures itself once. The network of --latency is a classifier of 10
// classes with one picture of uint8 a call.
//
//   passes [--network NAME] [--size N] [--batch N] [--threads N] [--pictures N] [--folder DIR] [--latency 1]
//          [--calls 1]
//
// --calls prints a line for each of the engine's calls instead: seconds, multiply-adds and bytes of a piece, and what.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <iostream>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <transferlib/core/environment.hpp>
#include <transferlib/engine/engine.hpp>
#include <transferlib/weights/state_dict.hpp>
#include <transferlib/zoo.hpp>

#include "arguments.hpp"

namespace tl = transferlib;

namespace {

/// Batch norms that do something, as in a trained network: each has the statistics of noise.
void settle(tl::detail::BackboneCore& core) {
  const torch::NoGradGuard guard;
  for (const auto& module : core.graph.modules)
    if (auto* norm = dynamic_cast<tl::nn::BatchNorm2d*>(module.get())) norm->momentum = 1.0;
  at::manual_seed(1);
  const tl::Index size = core.size();
  const std::vector<bool> frozen(core.graph.table.rows.size(), false);
  core.graph.run({at::randn({8, core.options.in_channels, size, size})}, tl::Cut{}, std::vector{core.graph.pooled},
                 {.training = true}, frozen);
}

double seconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void measure(std::map<std::string, std::string> given) {
  const auto number = [&](const char* name, long fallback) {
    return given.count(name) ? std::stol(given.at(name)) : fallback;
  };
  const std::string network = given.count("--network") ? given["--network"] : "mobilenet_v3_small";
  tl::keep_freed_memory();  // as every program of the library does
  at::set_num_threads(static_cast<int>(number("--threads", 2)));
  const bool latency = number("--latency", 0) == 1;
  const tl::Index batch = latency ? 1 : number("--batch", 32);

  auto backbone = tl::zoo_entry(network).random({.size = number("--size", 0)}, 0);
  settle(backbone.core);
  const tl::Index size = backbone.core.size();
  tl::StateDict state = tl::state_dict(*backbone.core.network), answers;
  const tl::Graph graph = backbone.core.graph;
  const std::vector<tl::Index> wanted{graph.pooled}, input{3, size, size};
  at::manual_seed(2);
  const tl::Tensor x = latency ? at::randint(0, 256, {1, 3, size, size}, at::kByte) : at::randn({batch, 3, size, size});

  std::vector<std::string> labels;
  for (int i = 0; i < 10; ++i) labels.push_back(std::to_string(i));
  const tl::Classifier model{std::move(backbone), tl::FreezePolicy<tl::FreezeAll>{}, tl::Head<tl::Linear>{}, labels};
  if (latency) state = model.state();

  std::map<std::string, std::function<tl::Tensor()>> ways;
  std::vector<tl::Engine> engines;
  engines.reserve(2);
  for (const auto precision : {tl::Precision::fp32, tl::Precision::bf16}) {
    if (precision == tl::Precision::bf16 && !tl::detail::has_native_bf16()) continue;
    const std::string name(tl::to_string(precision));
    if (latency) {
      ways[name] = [&model, &x, precision] { return model.predict(tl::Batch{{x}, {}, {}}, precision); };
    } else {
      engines.emplace_back(graph, wanted, input, tl::EngineOptions{.precision = precision, .piece = batch});
      ways[name] = [&engine = engines.back(), &x] { return engine(x)[0]; };
    }
    answers.emplace_back(name, ways[name]().to(at::kFloat).contiguous());
  }

  if (given.count("--calls")) {
    for (const auto& call : engines.back().time_calls(x, 30))
      std::printf("%.9f %lld %lld %s\n", call.seconds, static_cast<long long>(call.multiply_adds),
                  static_cast<long long>(call.bytes), call.what.c_str());
    return;
  }
  if (!given.count("--folder")) {
    for (const auto& [name, way] : ways) {
      const tl::Index calls = std::max<tl::Index>(1, number("--pictures", 320) / batch);
      const double seconds = seconds_of([&] {
        for (tl::Index i = 0; i < calls; ++i) way();
      });
      std::printf("%s %s %.1f img/s\n", network.c_str(), name.c_str(), static_cast<double>(calls * batch) / seconds);
    }
    return;
  }
  const std::filesystem::path folder = given["--folder"];
  answers.emplace_back("input", x);
  tl::write_state_dict(folder / "weights.safetensors", state);
  tl::write_state_dict(folder / "answers.safetensors", answers);
  std::cout << "ready" << std::endl;
  std::string name;
  for (int calls = 0; std::cin >> name >> calls;)
    std::cout << seconds_of([&] {
      for (int i = 0; i < calls; ++i) ways.at(name)();
    }) << std::endl;
}

}  // namespace

int main(int argc, char** argv) {
  return benchmark::run("benchmark_passes", [&] {
    std::map<std::string, std::string> given;
    for (int i = 1; i + 1 < argc; i += 2) given[argv[i]] = argv[i + 1];
    measure(std::move(given));
  });
}

// A whole training as jobs.py measures it: a network of the zoo, frozen before a layer, and a new linear layer. Prints
// how long each part took: the start, the frozen part over all pictures, and training and validation a picture; what
// came out; and the greatest memory, all of it and without what is a file's.
//
//   jobs [--network NAME] [--from LAYER] [--flips 0|1|2] [--size N] [--pictures N] [--test N] [--epochs N] [--batch N]
//        [--rate R] [--precision auto|fp32|bf16] [--autocast fp32|bf16] [--cache DIR] [--limit BYTES] [--threads N]
//        [--data DIR | --images DIR] [--weights 1] [--workers N]
//
// DIR of --images holds class folders of pictures.
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <unistd.h>

#include <transferlib/core/environment.hpp>
#include <transferlib/data/image_folder.hpp>
#include <transferlib/transfer.hpp>
#include <transferlib/zoo.hpp>

#include "arguments.hpp"

namespace tl = transferlib;

namespace {

using Clock = std::chrono::steady_clock;
double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

/// The bytes of memory that the process has for itself now: those of mapped files are the system's to take back.
long long own_memory() {
  std::ifstream in("/proc/self/statm");
  long long all = 0, resident = 0, shared = 0;
  in >> all >> resident >> shared;
  return (resident - shared) * ::sysconf(_SC_PAGESIZE);
}

/// When each phase went on last, in seconds of it.
struct Phases {
  Clock::time_point last = Clock::now();
  std::map<std::string, double> seconds;
  long long calls = 0, own = 0;

  void on_progress(const tl::Progressed& p) {
    seconds[p.phase] += since(last);
    last = Clock::now();
    if (calls++ % 16 == 0) own = std::max(own, own_memory());
  }
  void on_epoch_end(const tl::Epoch&) {
    seconds["end"] += since(last);
    last = Clock::now();
  }
};

/// Pictures whose classes can be told apart by their colour, and noise.
tl::TensorData<tl::ClassIndex> made_up(tl::Index count, std::uint64_t seed) {
  std::vector<std::string> labels;
  for (int i = 0; i < 10; ++i) labels.push_back(std::to_string(i));
  at::manual_seed(seed);
  const tl::Tensor classes = at::arange(count).remainder(10);
  return {(at::randint(0, 180, {count, 3, 32, 32}, at::kByte) + (classes * 7).to(at::kByte).view({-1, 1, 1, 1})),
          classes, labels};
}

void measure(std::map<std::string, std::string> given) {
  const auto start = Clock::now();
  const auto number = [&](const char* name, tl::Index fallback) {
    return given.count(name) ? static_cast<tl::Index>(std::stoll(given.at(name))) : fallback;
  };
  const auto word = [&](const char* name, const char* fallback) {
    return given.count(name) ? given.at(name) : std::string(fallback);
  };
  const auto precision = [&](const std::string& name) {
    return name == "fp32" ? tl::Precision::fp32 : name == "bf16" ? tl::Precision::bf16 : tl::Precision::automatic;
  };
  tl::keep_freed_memory();  // as every program of the library does
  at::set_num_threads(static_cast<int>(number("--threads", 2)));
  std::optional<tl::ImageFolder> images;
  if (given.count("--images")) images = tl::ImageFolder::open(given["--images"]);
  const tl::Index pictures = number("--pictures", 500), tests = number("--test", std::max<tl::Index>(1, pictures / 5));
  tl::TensorData<tl::ClassIndex> train = made_up(given.count("--data") ? 10 : pictures, 1),
                                 test = made_up(given.count("--data") ? 10 : tests, 2);
  if (given.count("--data")) {
    const auto split = tl::Cifar10::open(given["--data"]);
    train = static_cast<const tl::TensorData<tl::ClassIndex>&>(split.train).subset(pictures);
    test = static_cast<const tl::TensorData<tl::ClassIndex>&>(split.test).subset(tests);
  }
  const tl::NetworkOptions options{.size = number("--size", 32)};
  const tl::ZooEntry& entry = tl::zoo_entry(word("--network", "mobilenet_v3_small"));
  auto backbone = number("--weights", 0) == 1 ? entry.published(options) : entry.random(options, 0);
  tl::Classifier model{std::move(backbone), tl::FreezePolicy<tl::FreezeAll>{},
                       tl::Head<tl::Linear>{{.standardise = false}}, images ? images->labels() : train.labels()};
  if (given.count("--from")) model.refreeze(tl::FreezePolicy<tl::FreezeUntil>{{number("--from", 0)}});
  tl::Index weights = 0;
  for (const auto& item : model.state()) weights += static_cast<tl::Index>(item.second.nbytes());
  const tl::TrainerOptions how{
      .epochs = number("--epochs", 5),
      .batch = number("--batch", 64),
      .optimizer = tl::Adam{.lr = std::stod(word("--rate", "1e-3"))},
      .autocast = precision(word("--autocast", "fp32")),
      .precision = precision(word("--precision", "auto")),
      .cache = {.folder = word("--cache", ""), .limit = number("--limit", tl::Index{8} << 30)},
      .workers = given.count("--workers") ? std::optional(number("--workers", 0)) : std::nullopt};
  tl::Trainer trainer{model, how};
  Phases phases;
  const double before = since(start);
  const auto fit = [&](const auto& data) { return trainer.fit(data, test, phases); };
  const tl::Index flips = number("--flips", 0);
  const auto fit_flipped = [&](const auto& data) {
    return flips == 0 ? fit(data) : fit(tl::augment(data, tl::Flip{.left_right = true, .up_down = flips == 2}));
  };
  const tl::History history = images ? fit_flipped(*images) : fit_flipped(train);
  rusage used{};
  ::getrusage(RUSAGE_SELF, &used);
  const auto all = [&](const char* name) { return phases.seconds[name]; };
  std::printf(
      "start=%.4f features=%.4f train=%.4f validate=%.4f end=%.4f total=%.4f pictures=%lld test=%lld epochs=%lld "
      "loss=%.5f accuracy=%.5f weights=%lld peak=%lld own=%lld\n",
      before, all("features"), all("train"), all("validate"), all("end"), since(start),
      static_cast<long long>(images ? images->size() : train.size()), static_cast<long long>(test.size()),
      static_cast<long long>(how.epochs), history["train_loss"].back(), history["val_accuracy"].back(),
      static_cast<long long>(weights), static_cast<long long>(used.ru_maxrss) * 1024, phases.own);
}

}  // namespace

int main(int argc, char** argv) {
  return benchmark::run("benchmark_jobs", [&] {
    std::map<std::string, std::string> given;
    for (int i = 1; i + 1 < argc; i += 2) given[argv[i]] = argv[i + 1];
    measure(std::move(given));
  });
}

// What heads without gradient descent reach on a frozen EfficientNet-Lite0: ridge on features of several depths against
// the last, the time that the online ridge takes to learn and to forget, and how well pictures of classes that were
// left out are told as unknown. docs/how-to/closed-form.md has the numbers; they are made by
//
//   TRANSFERLIB_WEIGHTS=FILE benchmark_closed_form --data FOLDER [--cache FOLDER] [--logistic 1] [--only
//   online|ridge|unknown]
//
// FOLDER holds cifar-10-batches-bin/; without it the pictures are of a formula, the weights random, and the numbers of
// no meaning. With --cache the features are kept for the next run.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <time.h>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <transferlib/backbones/efficientnet.hpp>
#include <transferlib/core/environment.hpp>
#include <transferlib/data/cifar.hpp>
#include <transferlib/metrics/ranking.hpp>
#include <transferlib/probe/closed_form.hpp>
#include <transferlib/probe/online_ridge.hpp>
#include <transferlib/probe/unknown.hpp>

#include "arguments.hpp"

namespace tl = transferlib;
using tl::Index;

namespace {

using Network = tl::EfficientNetLite0;

struct Options {
  std::filesystem::path data, cache;
  std::string only;  ///< online, ridge or unknown; empty: all
  Index pictures = 50000, size = 128, threads = 2, logistic = 0;
};

Options parse(int argc, char** argv) {
  Options out;
  const benchmark::Numbers numbers{
      {"--pictures", &out.pictures}, {"--size", &out.size}, {"--threads", &out.threads}, {"--logistic", &out.logistic}};
  benchmark::read_options(argc, argv, numbers, 0, [&](std::string_view name, std::string_view value) {
    if (name == "--data") {
      out.data = value;
      return true;
    }
    if (name == "--cache") {
      out.cache = value;
      return true;
    }
    if (name == "--only" && (value == "online" || value == "ridge" || value == "unknown")) {
      out.only = value;
      return true;
    }
    return false;
  });
  return out;
}

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

/// Seconds that this thread has run.
double thread_time() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

tl::Backbone<Network> backbone(const Options& options, tl::Depths depths, bool deviations) {
  const tl::NetworkOptions network{.size = options.size, .depths = depths, .deviations = deviations};
  if (!options.data.empty()) return tl::Backbone<Network>::pretrained(network);
  return tl::Backbone<Network>::random(network);
}

/// Pictures whose numbers follow from their places, class by class.
tl::TensorData<tl::ClassIndex> formula(Index count) {
  at::Tensor y = at::arange(count, at::kLong).remainder(10);
  at::Tensor x = at::arange(count * 3 * 32 * 32, at::kLong).mul(2654435761).bitwise_right_shift(7).remainder(200);
  x = x.view({count, 3, 32, 32}) + y.view({count, 1, 1, 1}) * 5;
  return {x.to(at::kByte), y, tl::Cifar10::class_names()};
}

/// Features of a training and a test set, and which of their columns are of which depths.
struct Task {
  tl::Features train, test;
  std::vector<std::pair<std::string, at::Tensor>> columns;

  tl::Features take(const tl::Features& f, const at::Tensor& wanted) const {
    return {f.x.index_select(1, wanted), f.y, f.classes};
  }
};

Task features(const Options& options) {
  const auto net = backbone(options, tl::Depths::blocks, true);
  const tl::FeatureOptions how{.cache = {.enabled = !options.cache.empty(), .folder = options.cache}};
  const double start = now();
  Task out;
  if (options.data.empty()) {
    out.train = tl::features_of(net, formula(options.pictures), how);
    out.test = tl::features_of(net, formula(options.pictures / 2), how);
  } else {
    const auto [train, test] = tl::Cifar10::open(options.data);
    const auto all = train.pictures().size(0), count = std::min(options.pictures, all);
    const auto ids = tl::detail::numbers(0, count);
    const tl::Batch batch = train.batch(ids);
    const tl::TensorData<tl::ClassIndex> some{batch.pictures[0], batch.target, train.labels()};
    out.train = count == all ? tl::features_of(net, train, how) : tl::features_of(net, some, how);
    out.test = tl::features_of(net, test, how);
  }
  std::printf("features of %lld + %lld pictures, %lld wide, in %.1f s\n", static_cast<long long>(out.train.x.size(0)),
              static_cast<long long>(out.test.x.size(0)), static_cast<long long>(out.train.x.size(1)), now() - start);
  std::fflush(stdout);
  // The concatenation's parts: means and deviations of each depth, and the last map's means.
  const auto& graph = net.core.graph;
  std::vector<Index> means, last;
  Index at = 0;
  for (Index part : graph.steps[tl::Graph::at(graph.pooled)].from) {
    const Index width = net.core.measure.shapes[tl::Graph::at(part)][0];
    const bool is_last = at + width == net.core.features.width;
    for (Index i = 0; i < (is_last ? width : width / 2); ++i) (is_last ? last : means).push_back(at + i);
    at += width;
  }
  means.insert(means.end(), last.begin(), last.end());
  out.columns = {
      {"last", at::tensor(last)}, {"blocks", at::tensor(means)}, {"blocks, deviations", at::arange(at, at::kLong)}};
  return out;
}

double accuracy(const at::Tensor& weight, const at::Tensor& bias, const tl::Features& f) {
  return 100.0 * at::addmm(bias, f.x, weight.t()).argmax(1).eq(f.y).to(at::kDouble).mean().item<double>();
}

void ridge(const Task& task, bool quick, bool logistic) {
  for (const auto& [name, columns] : task.columns) {
    if (quick && name != "last") continue;
    tl::Features train = task.take(task.train, columns), test = task.take(task.test, columns);
    double start = now();
    const auto scale = tl::detail::standardise(train.x);
    test.x.sub_(scale.first).div_(scale.second);
    const tl::RidgeProbe probe = tl::ridge_probe(train);
    std::printf("ridge on %-20s %5lld wide: strength %.0e, left out %.2f %%, test %.2f %%, %.1f s\n", name.c_str(),
                static_cast<long long>(columns.size(0)), probe.strength, 100.0 * probe.accuracy,
                accuracy(probe.weight, probe.bias, test), now() - start);
    std::fflush(stdout);
    if (!logistic) continue;
    start = now();
    const auto found = tl::logistic_probe(train, {.strength = 1e-3, .tolerance = 1e-4});
    std::printf("logistic on %-17s %5lld wide: strength 1e-03, test %.2f %%, %.1f s\n", name.c_str(),
                static_cast<long long>(columns.size(0)), accuracy(found.weight, found.bias, test), now() - start);
    std::fflush(stdout);
  }
}

void online(const Options& options, const Task& task, bool quick) {
  for (const auto& [name, columns] : task.columns) {
    if (name == "blocks, deviations" || (quick && name != "last")) continue;
    tl::OnlineRidge learner{backbone(options, name == "last" ? tl::Depths::last : tl::Depths::blocks, false), {}};
    const at::Tensor x = task.take(task.train, columns).x;
    const Index known = std::min<Index>(300, x.size(0) / 2), tried = std::min<Index>(60, x.size(0) - known);
    const auto label = [&](Index i) { return "class " + std::to_string(task.train.y[i].item<Index>()); };
    for (Index i = 0; i < known; ++i) learner.learn(label(i), x.narrow(0, i, 1));
    std::atomic<bool> done{false};
    std::atomic<Index> answers{0};
    std::thread other([&] {
      while (!done) {
        learner.answer(x.narrow(0, 0, 1));
        ++answers;
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
    });
    // The time that passed, and of it the time that this thread ran: on a busy machine they differ.
    struct Times {
      std::vector<double> passed, ran;
    } one, ten;
    const auto timed = [](Times& to, auto&& work) {
      const double start = now(), began = thread_time();
      work();
      to.passed.push_back(1000.0 * (now() - start));
      to.ran.push_back(1000.0 * (thread_time() - began));
    };
    for (Index i = known; i < known + tried; ++i) timed(one, [&] { learner.learn(label(i), x.narrow(0, i, 1)); });
    for (Index i = 0; i + 10 <= known; i += 20) timed(ten, [&] { learner.learn("another", x.narrow(0, i, 10)); });
    done = true;
    other.join();
    const auto median = [](std::vector<double> v) {
      std::sort(v.begin(), v.end());
      return v.empty() ? 0.0 : v[v.size() / 2];
    };
    std::printf(
        "online ridge on %-10s %5lld wide: a picture in %.1f ms (ran %.1f), ten in %.1f ms (ran %.1f), %lld answers "
        "beside\n",
        name.c_str(), static_cast<long long>(columns.size(0)), median(one.passed), median(one.ran), median(ten.passed),
        median(ten.ran), static_cast<long long>(answers));
    std::fflush(stdout);
  }
}

void unknown(const Task& task, bool quick) {
  struct Split {
    const char* name;
    std::vector<Index> left_out;
  };
  const std::vector<Split> splits{{"animals", {2, 3, 4, 5, 6, 7}},
                                  {"vehicles", {0, 1, 8, 9}},
                                  {"the last four", {6, 7, 8, 9}},
                                  {"the first four", {0, 1, 2, 3}}};
  // What to take is chosen by the known classes alone, each left out in turn; the tested pictures tell what it is
  // worth.
  std::vector<tl::UnknownOptions> candidates{{.score = tl::UnknownScore::neighbours}};
  const std::vector<double> shrinkages = quick ? std::vector<double>{1e-2} : std::vector<double>{1e-3, 1e-2, 1e-1, 1.0};
  for (const auto score : {tl::UnknownScore::relative_mahalanobis, tl::UnknownScore::mahalanobis})
    for (const double shrinkage : shrinkages) candidates.push_back({.score = score, .shrinkage = shrinkage});
  const auto words = [](const tl::UnknownOptions& o) {
    if (o.score == tl::UnknownScore::neighbours) return std::string("neighbours");
    char out[64];
    std::snprintf(out, sizeof out, "%sMahalanobis, shrinkage %g",
                  o.score == tl::UnknownScore::mahalanobis ? "" : "relative ", o.shrinkage);
    return std::string(out);
  };
  const auto rows = [](const tl::Features& f, const at::Tensor& which) {
    const at::Tensor ids = which.nonzero().view({-1});
    return tl::Features{f.x.index_select(0, ids), f.y.index_select(0, ids), f.classes};
  };
  const auto span = [](const at::Tensor& t) {
    return std::span(t.const_data_ptr<double>(), static_cast<std::size_t>(t.numel()));
  };
  for (const Split& split : splits) {
    if (quick && &split != &splits.front()) continue;
    const auto is_left_out = [&](const at::Tensor& y) { return at::isin(y, at::tensor(split.left_out)); };
    for (const auto& [name, columns] : task.columns) {
      if (name == "blocks, deviations" || (quick && name != "last")) continue;
      const double start = now();
      const tl::Features train = task.take(task.train, columns), test = task.take(task.test, columns);
      const tl::Features known = rows(train, is_left_out(train.y).logical_not()),
                         seen = rows(test, is_left_out(test.y).logical_not()),
                         strange = rows(test, is_left_out(test.y));
      // Every second picture suffices.
      const tl::Features some = quick ? known : rows(known, at::arange(known.x.size(0)).remainder(2).eq(0));
      const std::vector<double> validated = tl::UnknownDetector::validate(some, candidates);
      for (std::size_t i = 0; i < candidates.size(); ++i)
        std::printf("  validated %-36s %.3f\n", words(candidates[i]).c_str(), validated[i]);
      const auto best =
          static_cast<std::size_t>(std::max_element(validated.begin(), validated.end()) - validated.begin());
      const auto detector = tl::UnknownDetector::fit(known, candidates[best]);
      const at::Tensor a = detector.scores(seen.x), b = detector.scores(strange.x);
      std::printf(
          "unknown on %-8s %-14s left out: validated %.3f by %s; AUROC %.3f; let through %.1f %% of known, %.1f %% of "
          "unknown, %.1f s\n",
          name.c_str(), split.name, validated[best], words(candidates[best]).c_str(), tl::roc_auc(span(a), span(b)),
          100.0 * a.ge(detector.threshold()).to(at::kDouble).mean().item<double>(),
          100.0 * b.ge(detector.threshold()).to(at::kDouble).mean().item<double>(), now() - start);
      std::fflush(stdout);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  return benchmark::run("benchmark_closed_form", [&] {
    const Options options = parse(argc, argv);
    tl::keep_freed_memory();
    at::set_num_threads(static_cast<int>(std::max<Index>(options.threads, 1)));
    const torch::NoGradGuard guard;
    const bool quick = options.data.empty();
    const Task task = features(options);
    const auto wanted = [&](const char* part) { return options.only.empty() || options.only == part; };
    if (wanted("online")) online(options, task, quick);
    if (wanted("ridge")) ridge(task, quick, options.logistic != 0);
    if (wanted("unknown")) unknown(task, quick);
  });
}

/// \file
/// What every lesson can be told, and how it fails: `--help`, one line an error, exit 1 for bad input, 2 for bad usage.
#pragma once

#include <csignal>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <string>
#include <string_view>

#include <transferlib/core/text.hpp>
#include <transferlib/transfer.hpp>

#include "threads.hpp"

namespace examples {

namespace tl = transferlib;

/// A wrong command line.
struct Usage : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// What the lessons are told. The defaults are the lesson's figures, where it names no others.
struct Options {
  std::filesystem::path data{}, weights{}, out = tl::default_run_folder();
  tl::Index size = 128, epochs = 5, batch = 100;
  double lr = 1e-3;
  std::uint64_t seed = 0;
  std::string device = "cpu";

  tl::NetworkOptions network() const { return {.size = size}; }
  tl::TrainerOptions training() const {
    return {.epochs = epochs,
            .batch = batch,
            .optimizer = tl::Adam{.lr = lr},
            .seed = seed,
            .cache = {.folder = tl::cache_folder() / "activations"}};
  }
  tl::Split<tl::TensorData<tl::ClassIndex>> open_data() const;

  /// A network with the weights of `--weights`, else with the published ones, which must be there.
  template <class N>
  tl::Backbone<N> pretrained() const {
    return weights.empty() ? tl::Backbone<N>::pretrained(network()) : tl::Backbone<N>::pretrained(weights, network());
  }

  /// The same, but with random weights, and a warning, where the published ones are not there.
  template <class N>
  tl::Backbone<N> backbone() const {
    if (weights.empty()) {
      try {
        tl::find_weights(N::card);
      } catch (const tl::WeightsError& e) {
        std::fprintf(stderr, "warning: random weights, from which little can be learnt; see --weights: %s\n", e.what());
        return tl::Backbone<N>::random(network(), seed);
      }
    }
    return pretrained<N>();
  }
};

/// The data: `--data`, else CIFAR-10 in the cache folder (where `examples/run` puts it), else Debian's Fashion-MNIST.
inline tl::Split<tl::TensorData<tl::ClassIndex>> Options::open_data() const {
  const auto cached = tl::cache_folder() / "cifar-10";
  std::error_code ignored;
  if (!data.empty() || std::filesystem::is_directory(cached / "cifar-10-batches-bin", ignored)) {
    auto [train, test] = tl::Cifar10::open(data.empty() ? cached : data);
    std::printf("data: CIFAR-10 in %s, %lld + %lld pictures\n", (data.empty() ? cached : data).c_str(),
                static_cast<long long>(train.size()), static_cast<long long>(test.size()));
    return {train, test};
  }
  const char* const folder = "/usr/share/datasets/fashion-mnist";
  if (!std::filesystem::is_directory(folder, ignored))
    throw tl::DataError(
        "no data: give --data DIR with cifar-10-batches-bin/ in it, or apt-get install dataset-fashion-mnist");
  std::printf("data: CIFAR-10 is not here and could not be fetched, so this is Fashion-MNIST from %s\n", folder);
  auto [train, test] = tl::FashionMnist::open(folder);
  return {train, test};
}

namespace detail {

inline std::string help(const Options& o) {
  return tl::detail::text(
      "  --data DIR           holds cifar-10-batches-bin/ (default: the cache folder, else Fashion-MNIST)\n"
      "  --weights FILE       the network's (default: the published ones, looked for as the error says)\n"
      "  --size N             side of the pictures that the network sees, in pixels (",
      o.size, ")\n  --epochs N           (", o.epochs, ")\n  --batch N            pictures a step (", o.batch,
      ")\n  --lr X               Adam's learning rate (", o.lr, ")\n  --seed N             (", o.seed,
      ")\n"
      "  --out DIR            the run's folder (runs/<date-time>)\n"
      "  --device cpu|cuda    (cpu)\n");
}

template <class Number>
Number number(std::string_view option, std::string_view text) {
  Number out{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  if (error != std::errc() || end != text.data() + text.size())
    throw Usage(tl::detail::text(option, " wants a number, not \"", text, "\""));
  return out;
}

inline Options parse(int argc, char** argv, Options out) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view name = argv[i];
    static const std::vector<std::string> names{"--data", "--weights", "--size", "--epochs", "--batch",
                                                "--lr",   "--seed",    "--out",  "--device", "--help"};
    if (std::find(names.begin(), names.end(), name) == names.end())
      throw Usage(tl::detail::text("there is no option ", name, "; the nearest is ",
                                   tl::detail::nearest_names(name, names, 1).front()));
    if (i + 1 == argc) throw Usage(tl::detail::text(name, " wants a value"));
    const std::string_view value = argv[++i];
    if (name == "--data")
      out.data = value;
    else if (name == "--weights")
      out.weights = value;
    else if (name == "--size")
      out.size = number<tl::Index>(name, value);
    else if (name == "--epochs")
      out.epochs = number<tl::Index>(name, value);
    else if (name == "--batch")
      out.batch = number<tl::Index>(name, value);
    else if (name == "--lr")
      out.lr = number<double>(name, value);
    else if (name == "--seed")
      out.seed = number<std::uint64_t>(name, value);
    else if (name == "--out")
      out.out = value;
    else if (value == "cpu" || value == "cuda")
      out.device = value;
    else
      throw Usage(tl::detail::text("--device is cpu or cuda, not ", value));
  }
  return out;
}

}  // namespace detail

/// Runs a lesson: reads the options, turns errors into one line. `defaults` are the lesson's own figures.
template <class Lesson>
int run(int argc, char** argv, const char* what, Lesson&& lesson, const Options& defaults = {}) {
  try {
    for (int i = 1; i < argc; ++i)
      if (std::string_view(argv[i]) == "--help") {
        std::printf("%s\n\n%s", what, detail::help(defaults).c_str());
        return 0;
      }
    const Options options = detail::parse(argc, argv, defaults);
    settle_threads();
    tl::keep_freed_memory();
    lesson(options);
    std::printf("the run's folder: %s\n", options.out.c_str());
    return 0;
  } catch (const Usage& e) {
    std::fprintf(stderr, "%s: %s (see --help)\n", argv[0], e.what());
    return 2;
  } catch (const std::exception& e) {
    std::fflush(stdout);
    std::fprintf(stderr, "%s: %s\n", argv[0], e.what());
    return 1;
  }
}

}  // namespace examples

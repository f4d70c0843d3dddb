// What the benchmarks' programs share: their options, `--name value` each, and how they end.
#pragma once

#include <charconv>
#include <cstdio>
#include <exception>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>

#include <transferlib/core/layers.hpp>

namespace benchmark {

using Numbers = std::map<std::string_view, transferlib::Index*>;

/// Reads a number of at least `least`. \throws std::runtime_error
template <class T>
void read(std::string_view name, std::string_view value, T& into, int least) {
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), into);
  if (error != std::errc() || end != value.data() + value.size() || into < static_cast<T>(least))
    throw std::runtime_error(std::string(name) + " needs a number of at least " + std::to_string(least));
}

/// Reads the numbers, each at least `least`, and gives every other option to `take(name, value)`, which says whether it
/// knows it. \throws std::runtime_error
template <class Take>
void read_options(int argc, char** argv, const Numbers& numbers, int least, Take&& take) {
  for (int i = 1; i < argc; i += 2) {
    const std::string_view name = argv[i];
    if (i + 1 == argc) throw std::runtime_error(std::string(name) + " needs a value");
    const std::string_view value = argv[i + 1];
    if (const auto number = numbers.find(name); number != numbers.end())
      read(name, value, *number->second, least);
    else if (!take(name, value))
      throw std::runtime_error("unknown: " + std::string(name) + " " + std::string(value));
  }
}

/// Runs a program: what it throws becomes one line.
template <class Work>
int run(const char* name, Work&& work) {
  try {
    work();
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s: %s\n", name, e.what());
    return 1;
  }
}

}  // namespace benchmark

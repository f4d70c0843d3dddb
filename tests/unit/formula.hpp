/// \file
/// Numbers by a formula, as tests/parity/formula.py's, and the comparison with what summary.py keeps of a tensor.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <catch2/catch_test_macros.hpp>

#include <transferlib/core/files.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/formats/json.hpp>
#include <transferlib/weights/state_dict.hpp>

namespace transferlib {

inline std::filesystem::path data_folder() {
#ifdef TRANSFERLIB_TEST_DATA
  return TRANSFERLIB_TEST_DATA;
#else
  return std::filesystem::path(__FILE__).parent_path().parent_path() / "data";
#endif
}

inline Json python(const std::string& name) {
  const auto path = data_folder() / "parity" / name;
  return parse_json(read_file(path), path.string());
}

inline std::uint64_t fnv1a(std::string_view name) {
  std::uint64_t out = 0xCBF29CE484222325U;
  for (const char c : name) out = (out ^ static_cast<unsigned char>(c)) * 0x100000001B3U;
  return out;
}

/// The i-th number in [0, 1) of a name: splitmix64's, started at the name's hash.
inline double uniform(std::uint64_t start, std::uint64_t i) {
  std::uint64_t z = start + (i + 1) * 0x9E3779B97F4A7C15U;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
  return static_cast<double>((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

/// Factors by suffix of the name: the last entry that fits counts.
using Gain = std::vector<std::pair<std::string, double>>;

/// Sets a tensor by its name: batch norms that are far from the identity, weights of variance 2 / fan-in.
inline void fill(const std::string& name, const Tensor& tensor, const Gain& gain = {}) {
  const torch::NoGradGuard guard;
  const std::uint64_t start = fnv1a(name);
  if (tensor.scalar_type() == at::kLong) {
    tensor.fill_(static_cast<std::int64_t>(start % 1000));
    return;
  }
  double factor = 1.0;
  for (const auto& [suffix, f] : gain)
    if (name.ends_with(suffix)) factor = f;
  Tensor out = at::empty(tensor.sizes(), at::kFloat);
  float* const x = out.mutable_data_ptr<float>();
  const Index count = out.numel();
  // A scale of channels is one, whether it is (C) or (C, 1, 1).
  Index sides = tensor.dim();
  while (sides > 1 && tensor.size(sides - 1) == 1) --sides;
  const bool statistics = name.ends_with("running_var"),
             shift = name.ends_with("running_mean") || name.ends_with("bias");
  const double bound = sides > 1 ? std::sqrt(6.0 / static_cast<double>(count / tensor.size(0))) : 0.0;
  for (Index i = 0; i < count; ++i) {
    const double u = uniform(start, static_cast<std::uint64_t>(i));
    const double value = statistics   ? 0.5 + u
                         : shift      ? (u - 0.5) * 0.6
                         : sides == 1 ? 0.6 + 0.8 * u
                                      : (2.0 * u - 1.0) * bound;
    x[i] = static_cast<float>(value);
  }
  if (factor != 1.0) out *= factor;
  tensor.copy_(out);
}

inline void fill(const Module& module, const std::string& prefix = "", const Gain& gain = {}) {
  for (const auto& [name, tensor] : state_dict(module)) fill(prefix + name, tensor, gain);
}

inline Tensor pictures(Index count, Index size) {
  Tensor out = at::empty({count, 3, size, size}, at::kByte);
  auto* p = out.mutable_data_ptr<std::uint8_t>();
  for (Index n = 0; n < count; ++n)
    for (Index c = 0; c < 3; ++c)
      for (Index y = 0; y < size; ++y)
        for (Index x = 0; x < size; ++x)
          *p++ = static_cast<std::uint8_t>(
              (c * 67 + y * 31 + x * 17 + (x * y * 7) % 53 + n * 41 + (c * x) / 3 + n / 256 * (x + 2 * y)) % 256);
  return out;
}

/// The largest relative difference between a tensor and what Python's `summary` says of its.
inline double difference(const Json& wanted, const Tensor& tensor) {
  const Tensor x = tensor.detach().to(at::kDouble).contiguous().flatten();
  REQUIRE(x.numel() == wanted["count"].get<Index>());
  const double l2 = wanted["l2"].get<double>(), largest = wanted["largest"].get<double>();
  REQUIRE(l2 > 0.0);
  double out = 0.0;
  const auto compare = [&](double got, double want, double scale) {
    const double d = std::abs(got - want) / scale;
    out = std::isnan(d) ? HUGE_VAL : std::max(out, d);
  };
  const auto number = [&](const char* name) { return wanted[name].get<double>(); };
  compare(x.sum().item<double>(), number("sum"), std::max(std::abs(number("sum")), l2));
  compare(x.norm().item<double>(), l2, l2);
  compare(x.mean().item<double>(), number("mean"), std::max(std::abs(number("mean")), number("deviation")));
  compare(x.std(false).item<double>(), number("deviation"), number("deviation"));
  compare(x.abs().max().item<double>(), largest, largest);
  const Index step = wanted["step"].get<Index>();
  for (std::size_t i = 0; i < wanted["values"].size(); ++i)
    compare(x[static_cast<Index>(i) * step].item<double>(), wanted["values"][i].get<double>(), largest);
  return out;
}

/// Python's name of a type.
inline std::string type_name(at::ScalarType type) {
  return type == at::kFloat ? "float32" : type == at::kLong ? "int64" : at::toString(type);
}

}  // namespace transferlib

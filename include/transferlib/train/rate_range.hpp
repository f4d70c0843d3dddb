/// \file
/// What a range test of learning rates has found: losses by rate, and which rate follows. Without LibTorch.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <optional>
#include <vector>

#include <transferlib/core/layers.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/train/history.hpp>

namespace transferlib {

/// The loss of each step of a training whose rate rises from step to step (Smith, "Cyclical Learning Rates for Training
/// Neural Networks", 2017).
struct RateRange {
  std::vector<double> rates;   ///< rising by the same factor
  std::vector<double> losses;  ///< of each step's pictures, before the step

  /// The losses, each averaged with its neighbours by a Gaussian of a 25th of the steps.
  std::vector<double> smoothed() const;

  /// The rate at which the smoothed loss falls fastest, before it is least; none where it does not fall.
  std::optional<double> steepest() const;

  /// The rate of the least smoothed loss: what is tried should be well below it, a tenth, say. None without steps.
  std::optional<double> least() const {
    if (losses.empty()) return std::nullopt;
    const auto s = smoothed();
    return rates[static_cast<std::size_t>(std::min_element(s.begin(), s.end()) - s.begin())];
  }

  /// Step by step as a history: columns `rate`, `loss`, `smoothed_loss`.
  History history() const;
};

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API std::vector<double> RateRange::smoothed() const {
  const auto n = static_cast<Index>(losses.size());
  const double deviation = std::max(static_cast<double>(n) / 25.0, 1e-3);
  const auto reach = static_cast<Index>(std::ceil(3.0 * deviation));
  std::vector<double> out;
  for (Index i = 0; i < n; ++i) {
    double sum = 0.0, weights = 0.0;
    // As far to the one side as to the other, so that the ends do not lean.
    const Index r = std::min({reach, i, n - 1 - i});
    for (Index j = i - r; j <= i + r; ++j) {
      const double x = static_cast<double>(j - i) / deviation, w = std::exp(-0.5 * x * x);
      sum += w * losses[static_cast<std::size_t>(j)];
      weights += w;
    }
    out.push_back(sum / weights);
  }
  return out;
}

TRANSFERLIB_API std::optional<double> RateRange::steepest() const {
  const auto s = smoothed();
  const auto least = static_cast<std::size_t>(std::min_element(s.begin(), s.end()) - s.begin());
  std::optional<double> out;
  double slope = 0.0;
  for (std::size_t i = 1; i < least; ++i)
    if (const double here = s[i + 1] - s[i - 1]; here < slope) slope = here, out = rates[i];
  return out;
}

TRANSFERLIB_API History RateRange::history() const {
  const auto s = smoothed();
  History out;
  for (std::size_t i = 0; i < losses.size(); ++i)
    out.epochs.push_back(
        {static_cast<Index>(i) + 1, {{"rate", rates[i]}, {"loss", losses[i]}, {"smoothed_loss", s[i]}}});
  return out;
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

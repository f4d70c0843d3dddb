/// \file
/// The plot of a range test of learning rates. Without LibTorch.
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/files.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/report/svg.hpp>
#include <transferlib/train/rate_range.hpp>

namespace transferlib {

/// The losses over the logarithm of the rate, as they are and smoothed; the suggested rate is in the title.
/// \throws OptionError if there is no step
TRANSFERLIB_API std::string rates_svg(const RateRange& range, PlotOptions options = {});

/// The same as a file. \throws OptionError, FileError
inline void plot_rates(const RateRange& range, const std::filesystem::path& path, PlotOptions options = {}) {
  write_file(path, rates_svg(range, std::move(options)));
}

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API std::string rates_svg(const RateRange& range, PlotOptions options) {
  if (range.losses.empty()) throw OptionError("a range test without a step can't be drawn");
  std::vector<double> exponents;
  for (double rate : range.rates) exponents.push_back(std::log10(rate));
  auto smoothed = range.smoothed();
  // The last losses may be a thousand times the first, and would leave nothing else to be seen.
  const auto [least, most] = std::minmax_element(smoothed.begin(), smoothed.end());
  const double ceiling = std::min(*most, *least + 2.0 * std::abs(smoothed.front() - *least) + 0.1);
  auto losses = range.losses;
  for (auto* values : {&losses, &smoothed})
    for (double& v : *values)
      if (v > ceiling) v = std::nan("");
  if (options.title.empty()) {
    options.title = "Loss by learning rate";
    if (const auto steepest = range.steepest()) {
      char number[32];
      const auto end = std::to_chars(number, number + sizeof number, *steepest, std::chars_format::general, 2).ptr;
      options.title += detail::text(", steepest at ", std::string(number, end));
    }
  }
  if (options.x_label == PlotOptions{}.x_label) options.x_label = "rate, as a power of ten";
  if (options.y_label.empty()) options.y_label = "loss";
  options.whole_x = false;
  return lines_svg({{"each step", exponents, losses}, {"smoothed", exponents, smoothed}}, options);
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

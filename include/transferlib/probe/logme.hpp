/// \file
/// LogME: how well features explain classes, as the maximum evidence of a Bayesian linear model. Nothing is trained.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <utility>
#include <vector>

#include <Eigen/Core>

#include <transferlib/core/layers.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/probe/features.hpp>

namespace transferlib {

/// The maximum of the evidence of one class against all others.
struct Evidence {
  double log_evidence = std::numeric_limits<double>::quiet_NaN();  ///< of all N pictures, divided by N
  double alpha = std::numeric_limits<double>::quiet_NaN();         ///< precision of the weights' prior
  double beta = std::numeric_limits<double>::quiet_NaN();          ///< precision of the noise
};

/// What `logme` finds.
struct LogMe {
  double score = 0.0;             ///< the mean over the classes that have pictures; higher is better
  std::vector<Evidence> classes;  ///< of each class; NaN where it has no picture
};

namespace detail {

/// The largest log p(y | alpha, beta) of y ~ N(0, 1/alpha XX' + 1/beta I).
/// \param squares the squared singular values of X
/// \param shares (U'y)^2, as many
/// \param rest the square of y outside X's columns
TRANSFERLIB_API Evidence max_evidence(const Eigen::ArrayXd& squares, const Eigen::ArrayXd& shares, double rest,
                                      double n);

}  // namespace detail

/// The logarithm of maximum evidence (You et al., "LogME: Practical Assessment of Pre-trained Models for Transfer
/// Learning", ICML 2021) of features for a classification: for each class the linear model y = Xw + noise, w ~
/// N(0, 1/alpha), noise ~ N(0, 1/beta), of its 0-1 targets; the fixed point of alpha and beta; the mean of the log
/// evidence a picture. Comparable between features of the same pictures, whatever their width. Unchanged when the
/// features are multiplied by a constant, rotated, or get columns of zeros. O(N D min(N, D) + min(N, D)^3).
///
/// \throws DataError if shapes or types do not fit, a feature is no finite number, no feature varies, an index is out
/// of range, or all pictures are of one class
TRANSFERLIB_API LogMe logme(const Features& features);

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API Evidence max_evidence(const Eigen::ArrayXd& squares, const Eigen::ArrayXd& shares, double rest,
                                      double n) {
  // The mean weights depend on t = alpha / beta alone, so the fixed point is one of t. The bounds are where double
  // precision no longer sees it: t of 0 means data without noise, t without end features that say nothing.
  const double low = squares.maxCoeff() * 1e-12, high = squares.maxCoeff() * 1e12;
  const double outside = n - static_cast<double>(squares.size());
  double t = squares.mean();
  for (int i = 0; i < 2000; ++i) {
    const Eigen::ArrayXd sum = squares + t;
    const double gamma = (squares / sum).sum(), weights = (squares * shares / sum.square()).sum();
    const double noise = rest + t * t * (shares / sum.square()).sum(), left = outside + t * (1.0 / sum).sum();
    const double next = std::clamp(weights > 0.0 ? gamma * noise / (weights * left) : high, low, high);
    const bool still = std::fabs(next - t) <= 1e-9 * t;
    t = next;
    if (still) break;
  }
  // For a given t the best alpha is in closed form.
  const double quadratic = (shares / (squares + t)).sum() + rest / t, alpha = n / quadratic;
  const double value =
      0.5 * (n * std::log(alpha / (2.0 * std::numbers::pi)) - (squares + t).log().sum() - outside * std::log(t) - n);
  return {value / n, alpha, alpha / t};
}

}  // namespace transferlib::detail

namespace transferlib {

TRANSFERLIB_API LogMe logme(const Features& features) {
  const detail::ProbeTask task = detail::probe_task(features);
  const detail::Spectrum spectrum(task.x);
  const Eigen::ArrayXXd shares = spectrum.project(task.one_hot()).array().square();
  LogMe out;
  Index seen = 0;
  for (Index c = 0; c < task.classes(); ++c) {
    out.classes.emplace_back();
    const auto count = static_cast<double>(task.counts[static_cast<std::size_t>(c)]);
    if (count == 0.0) continue;
    // Where X's columns span everything, what is left is rounding.
    const double rest = spectrum.rank() == task.size() ? 0.0 : std::max(count - shares.col(c).sum(), 0.0);
    out.classes.back() = detail::max_evidence(spectrum.squares, shares.col(c), rest, static_cast<double>(task.size()));
    out.score += out.classes.back().log_evidence;
    ++seen;
  }
  out.score /= static_cast<double>(seen);
  return out;
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

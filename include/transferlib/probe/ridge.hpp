/// \file
/// Ridge regression on features, its strength chosen by leaving out each picture once, in closed form.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include <ATen/ATen.h>
#include <Eigen/Core>

#include <transferlib/core/error.hpp>
#include <transferlib/core/layers.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/probe/features.hpp>

namespace transferlib {

/// What `ridge_probe` tries.
struct RidgeOptions {
  /// Above 0; 1 is the mean of the squared singular values of the centred features, so that their scale does not
  /// matter.
  std::vector<double> strengths{1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3};
  /// Whether every class counts as much as another, however many pictures it has: the squared errors, the means and the
  /// accuracy are weighted by N / (classes with pictures x pictures of the class).
  bool balance = false;
};

/// What `ridge_probe` finds.
struct RidgeProbe {
  double strength = 0.0;           ///< the chosen one
  double penalty = 0.0;            ///< the same as the lambda of |Y - XW - b|^2 + lambda |W|^2
  double accuracy = 0.0;           ///< the part of pictures that is told right by the ridge fitted to all others
  double squared_error = 0.0;      ///< of `held_out` from the 0-1 targets, the mean over pictures and classes
  std::vector<double> accuracies;  ///< of each strength, as given
  Tensor held_out;                 ///< (N, classes) float64: the values of a picture by the ridge fitted to all others
  Tensor weight;                   ///< (classes, D) float32, fitted to all pictures; the highest value is the class
  Tensor bias;                     ///< (classes) float32
};

/// Ridge regression of 0-1 targets on features, with a bias that is not penalised. Its accuracy is that of leaving one
/// out: N fits, each to all pictures but one, by the diagonal of one fit's hat matrix (Allen, "The relationship between
/// variable selection and data augmentation and a method for prediction", Technometrics 1974). The strength of the
/// highest accuracy is chosen, of equal ones that of the smaller squared error; one number is chosen by all pictures,
/// so the accuracy is a trace optimistic. O(N D min(N, D) + min(N, D)^3), and O(N min(N, D) classes) a strength.
///
/// \throws OptionError for a strength that is not above 0, or none; DataError as `logme`
TRANSFERLIB_API RidgeProbe ridge_probe(const Features& features, const RidgeOptions& options = {});

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API RidgeProbe ridge_probe(const Features& features, const RidgeOptions& options) {
  if (options.strengths.empty()) throw OptionError("ridge_probe has no strength to try: give one or more");
  for (double s : options.strengths) detail::check_strength(s);
  detail::ProbeTask task = detail::probe_task(features);
  const Eigen::VectorXd weights = options.balance ? task.balance() : Eigen::VectorXd();
  const Eigen::RowVectorXd mean = task.centre(weights);
  const double n = static_cast<double>(task.size());
  detail::RowMatrix y = task.one_hot();
  const detail::RowMatrix targets = y;
  Eigen::RowVectorXd frequency = y.colwise().mean();
  // What a picture's own weight takes of the bias.
  Eigen::ArrayXd biased = Eigen::ArrayXd::Constant(task.size(), 1.0 / n), roots;
  if (options.balance) {
    biased = weights.array() / n;
    roots = weights.array().sqrt();
    frequency = weights.transpose() * y / n;
    task.x.array().colwise() *= roots;
  }
  y.rowwise() -= frequency;
  if (options.balance) y.array().colwise() *= roots;
  const double unit = detail::penalty_unit(task.x);

  const detail::Spectrum spectrum(task.x);
  const detail::RowMatrix z = spectrum.project(y);
  const Index classes = task.classes(), tried = static_cast<Index>(options.strengths.size());
  Eigen::MatrixXd kept(spectrum.rank(), tried);
  // U'Y first, then what each strength leaves of it.
  detail::RowMatrix shares(spectrum.rank(), classes * (tried + 1));
  shares.leftCols(classes) = z;
  for (Index s = 0; s < tried; ++s) {
    const double penalty = options.strengths[static_cast<std::size_t>(s)] * unit;
    kept.col(s) = penalty / (spectrum.squares + penalty);
    shares.middleCols(classes * (s + 1), classes) = kept.col(s).asDiagonal() * z;
  }
  // What no strength can reach is exactly nothing where the features can fit any targets.
  const bool all = spectrum.rank() == task.size() - 1;
  std::vector<detail::RowMatrix> values(static_cast<std::size_t>(tried), detail::RowMatrix(task.size(), classes));
  for (Index from = 0; from < task.size(); from += 4096) {
    const Index count = std::min<Index>(4096, task.size() - from);
    const detail::RowMatrix u = spectrum.left(from, count),
                            made = detail::to_matrix(at::mm(detail::as_tensor(u), detail::as_tensor(shares)));
    const detail::RowMatrix u_squared = u.cwiseAbs2(), own_kept = u_squared * kept;
    const detail::RowMatrix unreached = y.middleRows(from, count) - made.leftCols(classes);
    const Eigen::ArrayXd free = (1.0 - biased.segment(from, count) - u_squared.rowwise().sum().array()).cwiseMax(0.0);
    for (Index s = 0; s < tried; ++s) {
      // A picture's error when it is left out: its error, divided by what of it the fit does not take from itself.
      detail::RowMatrix errors = made.middleCols(classes * (s + 1), classes);
      Eigen::ArrayXd own = own_kept.col(s).array();
      if (!all) errors += unreached, own += free;
      own = own.cwiseMax(std::numeric_limits<double>::min());
      if (options.balance) own *= roots.segment(from, count);
      errors.array().colwise() /= own;
      values[static_cast<std::size_t>(s)].middleRows(from, count) = targets.middleRows(from, count) - errors;
    }
  }

  RidgeProbe out;
  out.accuracy = -1.0;
  std::size_t best = 0;
  for (std::size_t s = 0; s < values.size(); ++s) {
    const Eigen::VectorXd squared = (targets - values[s]).rowwise().squaredNorm();
    const double squared_error =
        (options.balance ? weights.dot(squared) : squared.sum()) / static_cast<double>(targets.size());
    const double accuracy = task.accuracy(values[s], weights);
    out.accuracies.push_back(accuracy);
    if (accuracy < out.accuracy || (accuracy == out.accuracy && squared_error >= out.squared_error)) continue;
    best = s;
    out.accuracy = accuracy;
    out.squared_error = squared_error;
  }
  out.strength = options.strengths[best];
  out.penalty = out.strength * unit;
  out.held_out = detail::as_tensor(values[best]).clone();
  const detail::RowMatrix scaled = (1.0 / (spectrum.squares + out.penalty)).matrix().asDiagonal() * z;
  const detail::RowMatrix weight = spectrum.weights(scaled).transpose(), bias = frequency - mean * weight.transpose();
  out.weight = detail::float_tensor(weight);
  out.bias = detail::float_tensor(bias).view({-1});
  return out;
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

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
#include <transferlib/core/tensors.hpp>
#include <transferlib/probe/features.hpp>

namespace transferlib {

/// What `ridge_probe` tries.
struct RidgeOptions {
  /// Above 0; 1 is the mean of the squared singular values of the centred features, so that their scale does not
  /// matter.
  std::vector<double> strengths{1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3};
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
inline RidgeProbe ridge_probe(const Features& features, const RidgeOptions& options = {}) {
  if (options.strengths.empty()) throw OptionError("ridge_probe has no strength to try: give one or more");
  for (double s : options.strengths) detail::check_strength(s);
  detail::ProbeTask task = detail::probe_task(features);
  const Eigen::RowVectorXd mean = task.centre();
  const double unit = detail::penalty_unit(task.x), n = static_cast<double>(task.size());
  detail::RowMatrix y = task.one_hot();
  const detail::RowMatrix targets = y;
  const Eigen::RowVectorXd frequency = y.colwise().mean();
  y.rowwise() -= frequency;

  const detail::Spectrum spectrum(task.x);
  const detail::RowMatrix u = spectrum.left(), u_squared = u.cwiseAbs2();
  const Eigen::MatrixXd z = spectrum.project(y);
  // What no strength can reach: exactly nothing where the features can fit any targets.
  const bool all = spectrum.rank() == task.size() - 1;
  const detail::RowMatrix unreached = all ? detail::RowMatrix::Zero(y.rows(), y.cols()) : detail::RowMatrix(y - u * z);
  const Eigen::ArrayXd free = all ? Eigen::ArrayXd::Zero(y.rows())
                                  : Eigen::ArrayXd((1.0 - 1.0 / n - u_squared.rowwise().sum().array()).cwiseMax(0.0));

  RidgeProbe out;
  out.accuracy = -1.0;
  detail::RowMatrix best;
  for (double strength : options.strengths) {
    const double penalty = strength * unit;
    const Eigen::VectorXd kept = (penalty / (spectrum.squares + penalty)).matrix();
    // A picture's error when it is left out: its error, divided by what of it the fit does not take from itself.
    detail::RowMatrix errors = unreached + u * (kept.asDiagonal() * z);
    const Eigen::ArrayXd own = free + (u_squared * kept).array();
    errors.array().colwise() /= own.cwiseMax(std::numeric_limits<double>::min());
    const double squared_error = errors.squaredNorm() / static_cast<double>(errors.size());
    const detail::RowMatrix values = targets - errors;
    const double accuracy = task.accuracy(values);
    out.accuracies.push_back(accuracy);
    if (accuracy < out.accuracy || (accuracy == out.accuracy && squared_error >= out.squared_error)) continue;
    out.strength = strength;
    out.penalty = penalty;
    out.accuracy = accuracy;
    out.squared_error = squared_error;
    best = values;
  }
  out.held_out = at::from_blob(best.data(), {best.rows(), best.cols()}, at::kDouble).clone();
  const Eigen::VectorXd scale = (1.0 / (spectrum.squares + out.penalty)).matrix();
  const detail::RowMatrix dual = u * (scale.asDiagonal() * z);
  const detail::RowMatrix weight = dual.transpose() * task.x, bias = frequency - mean * weight.transpose();
  out.weight = detail::float_tensor(weight);
  out.bias = detail::float_tensor(bias).view({-1});
  return out;
}

}  // namespace transferlib

/// \file
/// Multinomial logistic regression on features by a convex solver: what a linear head's training tends to.
#pragma once

#include <algorithm>
#include <cmath>

#include <ATen/ATen.h>
#include <Eigen/Core>

#include <transferlib/core/error.hpp>
#include <transferlib/core/layers.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/probe/features.hpp>

namespace transferlib {

/// How `logistic_probe` fits.
struct LogisticOptions {
  double strength = 1e-2;   ///< of the penalty, above 0; in the unit of `RidgeOptions::strengths`
  double tolerance = 1e-8;  ///< how small the gradient must be, compared with that of the start
  Index iterations = 200;   ///< Newton steps at most
};

/// What `logistic_probe` finds.
struct LogisticProbe {
  double penalty = 0.0;   ///< the strength as the lambda of mean cross-entropy + lambda / 2 |W|^2
  double loss = 0.0;      ///< the minimum of that
  double accuracy = 0.0;  ///< on the pictures that it was fitted to
  double gradient = 0.0;  ///< the norm of the gradient at the end
  Index iterations = 0;   ///< Newton steps
  Tensor weight;          ///< (classes, D) float32
  Tensor bias;            ///< (classes) float32
};

namespace detail {

/// Mean cross-entropy of softmax(X W') + penalty / 2 |W|^2, where X's last column is 1 and its weight, the bias, is
/// free of the penalty.
class LogisticLoss {
 public:
  LogisticLoss(const ProbeTask& task, const Eigen::RowVectorXd& penalty)
      : task_(&task), penalty_(penalty), n_(static_cast<double>(task.size())) {}

  /// The loss at `w` (classes, D + 1); leaves the probabilities for `gradient` and `curvature`.
  double operator()(const RowMatrix& w) {
    p_ = times(w);
    double sum = 0.0;
    for (Index i = 0; i < p_.rows(); ++i) {
      const double top = p_.row(i).maxCoeff(), own = p_(i, task_->y[static_cast<std::size_t>(i)]);
      p_.row(i) = (p_.row(i).array() - top).exp();
      const double all = p_.row(i).sum();
      p_.row(i) /= all;
      sum += top + std::log(all) - own;
    }
    return sum / n_ + 0.5 * (w.cwiseAbs2() * penalty_.transpose()).sum();
  }

  RowMatrix gradient(const RowMatrix& w) const {
    RowMatrix errors = p_;
    for (Index i = 0; i < p_.rows(); ++i) errors(i, task_->y[static_cast<std::size_t>(i)]) -= 1.0;
    return summed(errors) / n_ + w * penalty_.asDiagonal();
  }

  /// The Hessian times `v`.
  RowMatrix curvature(const RowMatrix& v) const;

  const RowMatrix& probabilities() const { return p_; }

 private:
  /// X w'
  RowMatrix times(const RowMatrix& w) const { return to_matrix(at::mm(as_tensor(task_->x), as_tensor(w).t())); }
  /// r'X
  RowMatrix summed(const RowMatrix& r) const { return to_matrix(at::mm(as_tensor(r).t(), as_tensor(task_->x))); }

  const ProbeTask* task_;
  Eigen::RowVectorXd penalty_;
  double n_;
  RowMatrix p_;
};

}  // namespace detail

/// Multinomial logistic regression: the minimum of the mean cross-entropy + penalty / 2 |W|^2 (the bias is free), by
/// Newton's method, each step by preconditioned conjugate gradients as exactly as the gradient is small (Dembo and
/// Steihaug, "Truncated-Newton algorithms for large-scale unconstrained optimization", 1983), with a line search. The
/// minimum is one, so the start does not matter. O(N D classes) a product with the Hessian.
///
/// \throws OptionError; DataError as `logme`; TrainingError if the gradient is not small after `iterations`
TRANSFERLIB_API LogisticProbe logistic_probe(const Features& features, const LogisticOptions& options = {});

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API RowMatrix LogisticLoss::curvature(const RowMatrix& v) const {
  RowMatrix r = times(v);
  const Eigen::VectorXd mean = r.cwiseProduct(p_).rowwise().sum();
  r.colwise() -= mean;
  r = r.cwiseProduct(p_);
  return summed(r) / n_ + v * penalty_.asDiagonal();
}

}  // namespace transferlib::detail

namespace transferlib {

TRANSFERLIB_API LogisticProbe logistic_probe(const Features& features, const LogisticOptions& options) {
  using detail::RowMatrix, detail::text;
  detail::check_strength(options.strength);
  if (!(options.tolerance > 0.0 && options.tolerance < 1.0))
    throw OptionError(text("the tolerance of a gradient must lie between 0 and 1, not ", options.tolerance));
  if (options.iterations < 1) throw OptionError(text("a fit has at least 1 iteration, not ", options.iterations));
  detail::ProbeTask task = detail::probe_task(features);
  const Index d = task.x.cols(), n = task.size();
  const Eigen::RowVectorXd mean = task.centre();
  LogisticProbe out;
  out.penalty = options.strength * detail::penalty_unit(task.x) / static_cast<double>(n);
  task.x.conservativeResize(Eigen::NoChange, d + 1);
  task.x.col(d).setOnes();
  Eigen::RowVectorXd penalty = Eigen::RowVectorXd::Constant(d + 1, out.penalty);
  penalty[d] = 0.0;
  detail::LogisticLoss loss(task, penalty);
  // The Hessian's diagonal at the start, about.
  const auto classes = static_cast<double>(task.classes());
  const Eigen::RowVectorXd diagonal =
      task.x.cwiseAbs2().colwise().mean() * ((classes - 1.0) / (classes * classes)) + penalty;
  const auto dot = [](const RowMatrix& a, const RowMatrix& b) { return a.cwiseProduct(b).sum(); };
  const auto precondition = [&](const RowMatrix& m) -> RowMatrix { return m * diagonal.cwiseInverse().asDiagonal(); };

  RowMatrix w = RowMatrix::Zero(task.classes(), d + 1);
  out.loss = loss(w);
  RowMatrix gradient = loss.gradient(w);
  const double start = gradient.norm();
  for (; (out.gradient = gradient.norm()) > options.tolerance * start; ++out.iterations) {
    if (out.iterations == options.iterations)
      throw TrainingError(text("logistic regression is not at its minimum after ", options.iterations,
                               " iterations: the gradient is ", out.gradient, ", at the start it was ", start,
                               "; allow more iterations, or raise the strength, which is ", options.strength));
    const double exactness = std::min(0.1, std::sqrt(out.gradient / start)) * out.gradient;
    RowMatrix step = RowMatrix::Zero(w.rows(), w.cols()), residual = -gradient, scaled = precondition(residual),
              direction = scaled;
    double size = dot(residual, scaled);
    for (Index i = 0; i < 1000 && residual.norm() > exactness; ++i) {
      const RowMatrix curved = loss.curvature(direction);
      const double along = dot(direction, curved);
      if (!(along > 0.0)) break;
      step += size / along * direction;
      residual -= size / along * curved;
      scaled = precondition(residual);
      const double next = dot(residual, scaled);
      direction = scaled + next / size * direction;
      size = next;
    }
    // Armijo's rule, up to what rounding does to the loss.
    const double slope = dot(gradient, step), rounding = 1e-14 * (1.0 + std::fabs(out.loss));
    double length = 1.0, value = loss(w + step);
    while (!(value <= out.loss + 1e-4 * length * slope + rounding) && length > 1e-10)
      value = loss(w + (length *= 0.5) * step);
    w += length * step;
    out.loss = value;
    gradient = loss.gradient(w);
  }
  out.accuracy = task.accuracy(loss.probabilities());
  const RowMatrix weight = w.leftCols(d), bias = w.col(d).transpose() - mean * weight.transpose();
  out.weight = detail::float_tensor(weight);
  out.bias = detail::float_tensor(bias).view({-1});
  return out;
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

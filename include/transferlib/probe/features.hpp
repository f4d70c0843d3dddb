/// \file
/// What probes look at: the features of pictures with their classes, checked and in double precision, and the spectrum
/// of a matrix of features. The room has Eigen as a dependency of its own, and is therefore not in the umbrella.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <Eigen/Core>

#include <transferlib/core/error.hpp>
#include <transferlib/core/layers.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>

namespace transferlib {

/// The features of N pictures, as a frozen backbone gives them, and their classes.
struct Features {
  Tensor x;           ///< (N, D), floating point, on any device
  Tensor y;           ///< (N) int64, class indices from 0 on
  Index classes = 0;  ///< how many classes there are; 0: one more than the highest index in `y`
};

namespace detail {

using RowMatrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// `Features` that were checked, in double precision.
struct ProbeTask {
  RowMatrix x;                ///< (N, D)
  std::vector<Index> y;       ///< (N)
  std::vector<Index> counts;  ///< pictures of each class

  Index size() const { return x.rows(); }
  Index classes() const { return static_cast<Index>(counts.size()); }

  /// (N, classes): 1 for a picture's class, else 0.
  RowMatrix one_hot() const {
    RowMatrix out = RowMatrix::Zero(size(), classes());
    for (Index i = 0; i < size(); ++i) out(i, y[static_cast<std::size_t>(i)]) = 1.0;
    return out;
  }

  /// Subtracts from each feature its mean, which is weighted if told so. \returns the means, (1, D)
  Eigen::RowVectorXd centre(const Eigen::VectorXd& weights = {}) {
    const Eigen::RowVectorXd mean = weights.size() == 0 ? Eigen::RowVectorXd(x.colwise().mean())
                                                        : Eigen::RowVectorXd(weights.transpose() * x / weights.sum());
    x.rowwise() -= mean;
    return mean;
  }

  /// Weights by which every class that has pictures counts as much as another; their mean is 1.
  Eigen::VectorXd balance() const;

  /// The part of pictures of which the highest value of a row is their class's; of equal ones the first counts. Where
  /// there are weights, the weighted part.
  double accuracy(const RowMatrix& values, const Eigen::VectorXd& weights = {}) const;
};

/// \throws DataError if the features can't tell classes apart whatever is made of them
TRANSFERLIB_API ProbeTask probe_task(const Features& features);

/// A matrix's numbers as a tensor, which must not outlive them: LibTorch's products are many times as fast as those
/// that Eigen compiles to without the processor's widest vectors.
inline Tensor as_tensor(const RowMatrix& m) {
  return at::from_blob(const_cast<double*>(m.data()), {m.rows(), m.cols()}, at::kDouble);
}

/// A matrix of a tensor's numbers.
inline RowMatrix to_matrix(const Tensor& t) {
  RowMatrix out(t.size(0), t.size(1));
  as_tensor(out).copy_(t);
  return out;
}

/// The singular vectors and values of a matrix X (N, D) = U S V', by the eigenvectors of the smaller of X'X and XX',
/// without those that are nothing but rounding. O(N D min(N, D) + min(N, D)^3).
class Spectrum {
 public:
  /// \param x must outlive the spectrum \throws DataError if the numbers are too large to be squared
  explicit Spectrum(const RowMatrix& x);

  Index rank() const { return squares.size(); }

  /// U'Y (rank, K).
  Eigen::MatrixXd project(const RowMatrix& y) const {
    if (wide_) return basis_.transpose() * y;
    const RowMatrix crossed = to_matrix(at::mm(as_tensor(*x_).t(), as_tensor(y)));
    return scaled_.transpose() * crossed;
  }

  /// The rows of U (N, rank) from one on.
  RowMatrix left(Index from, Index count) const {
    if (wide_) return basis_.middleRows(from, count);
    return to_matrix(at::mm(as_tensor(*x_).narrow(0, from, count), as_tensor(scaled_)));
  }

  /// The weights X'X has for targets, of which this is `diag(scale) U'Y` (rank, K): V S^-1 of it; X' of U times it.
  RowMatrix weights(const RowMatrix& scaled) const {
    if (!wide_) return scaled_ * (squares.matrix().asDiagonal() * scaled);
    const RowMatrix dual = basis_ * scaled;
    return to_matrix(at::mm(as_tensor(*x_).t(), as_tensor(dual)));
  }

  Eigen::ArrayXd squares;  ///< S^2, ascending, all above 0

 private:
  const RowMatrix* x_;
  bool wide_;
  RowMatrix basis_, scaled_;
};

/// A matrix as a float32 tensor of its own.
inline Tensor float_tensor(const RowMatrix& m) { return as_tensor(m).to(at::kFloat); }

/// What the strength of a penalty is told in: the mean of the squared singular values of centred features.
inline double penalty_unit(const RowMatrix& centred) {
  return centred.squaredNorm() / static_cast<double>(std::min(centred.rows() - 1, centred.cols()));
}

inline void check_strength(double strength) {
  if (!(strength > 0.0 && std::isfinite(strength)))
    throw OptionError(text("the strength of a penalty must be finite and above 0, not ", strength));
}

}  // namespace detail
}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API Eigen::VectorXd ProbeTask::balance() const {
  const auto present = static_cast<double>(std::count_if(counts.begin(), counts.end(), [](Index c) { return c > 0; }));
  Eigen::VectorXd out(size());
  for (Index i = 0; i < size(); ++i)
    out[i] = static_cast<double>(size()) /
             (present * static_cast<double>(counts[static_cast<std::size_t>(y[static_cast<std::size_t>(i)])]));
  return out;
}

TRANSFERLIB_API double ProbeTask::accuracy(const RowMatrix& values, const Eigen::VectorXd& weights) const {
  double right = 0.0;
  for (Index i = 0; i < size(); ++i) {
    Index best = 0;
    values.row(i).maxCoeff(&best);
    if (best == y[static_cast<std::size_t>(i)]) right += weights.size() == 0 ? 1.0 : weights[i];
  }
  return right / (weights.size() == 0 ? static_cast<double>(size()) : weights.sum());
}

TRANSFERLIB_API ProbeTask probe_task(const Features& features) {
  const Tensor &x = features.x, &y = features.y;
  const auto shown = [](const Tensor& t) {
    if (!t.defined()) return std::string("undefined");
    std::string out = text(c10::toString(t.scalar_type()), " of shape (");
    for (Index i = 0; i < t.dim(); ++i) out += text(i == 0 ? "" : ", ", t.size(i));
    return out + ")";
  };
  if (!x.defined() || x.dim() != 2 || !x.is_floating_point() || x.size(1) < 1)
    throw DataError(text("features must be a floating-point tensor (N, D), a row a picture; they are ", shown(x)));
  if (!y.defined() || y.dim() != 1 || y.scalar_type() != at::kLong || y.size(0) != x.size(0))
    throw DataError(text("the classes of features must be an int64 tensor (", x.size(0),
                         "), one index a picture; they are ", shown(y)));
  const Index n = x.size(0), d = x.size(1);
  if (n < 3) throw DataError(text("a probe needs the features of 3 pictures or more, not of ", n));

  ProbeTask out;
  out.y.resize(static_cast<std::size_t>(n));
  at::from_blob(out.y.data(), {n}, at::kLong).copy_(y.detach());
  const auto [low, high] = std::minmax_element(out.y.begin(), out.y.end());
  const Index classes = features.classes > 0 ? features.classes : *high + 1;
  if (*low < 0 || *high >= classes) {
    const auto at = *low < 0 ? low : high;
    throw DataError(text("picture ", at - out.y.begin(), " has the class ", *at, ", which is out of range: there are ",
                         classes, " classes, so indices go from 0 to ", classes - 1));
  }
  if (*low == *high)
    throw DataError(text("all ", n, " pictures have the class ", *low,
                         "; there must be pictures of two classes or more to tell apart"));
  out.counts.resize(static_cast<std::size_t>(classes));
  for (Index c : out.y) ++out.counts[static_cast<std::size_t>(c)];

  out.x.resize(n, d);
  at::from_blob(out.x.data(), {n, d}, at::kDouble).copy_(x.detach());
  if (!out.x.allFinite())
    for (Index i = 0; i < n; ++i)
      for (Index j = 0; j < d; ++j)
        if (!std::isfinite(out.x(i, j)))
          throw DataError(text("feature ", j, " of picture ", i, " is ",
                               std::isnan(out.x(i, j)) ? "not a number" : "infinite",
                               "; are the backbone's weights damaged, or its precision too low?"));
  if ((out.x.colwise().maxCoeff() - out.x.colwise().minCoeff()).maxCoeff() <= 0.0)
    throw DataError(text("all ", d, " features are the same for all ", n,
                         " pictures, so they tell no classes apart; are the pictures all equal, or the network dead?"));
  return out;
}

TRANSFERLIB_API Spectrum::Spectrum(const RowMatrix& x) : x_(&x), wide_(x.cols() > x.rows()) {
  const Tensor t = as_tensor(x), gram = wide_ ? at::mm(t, t.t()) : at::mm(t.t(), t);
  if (!at::isfinite(gram).all().item<bool>())
    throw DataError("the features are too large to be squared: divide them by a constant first");
  const auto [values, vectors] = at::linalg_eigh(gram);  // ascending
  const RowMatrix all = to_matrix(values.unsqueeze(0));
  const Index side = all.cols();
  const double least = all(0, side - 1) * static_cast<double>(side) * std::numeric_limits<double>::epsilon();
  const Index rank = (all.array() > std::max(least, 0.0)).count();
  squares = all.row(0).tail(rank).array();
  basis_ = to_matrix(vectors.narrow(1, side - rank, rank));
  scaled_ = basis_;
  if (!wide_) scaled_.array().rowwise() *= squares.rsqrt().transpose();
}

}  // namespace transferlib::detail

#endif  // TRANSFERLIB_DEFINES

/// \file
/// Metrics of classifiers: accuracy, top-k accuracy, the confusion matrix; of multi-label and regression models too.
#pragma once

#include <algorithm>
#include <tuple>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/metrics/scores.hpp>

namespace transferlib {

namespace detail {

/// A mean over all that a metric has seen.
class RunningMean {
 public:
  /// What it has seen, and back: for checkpoints within an epoch.
  std::vector<double> state() const { return {sum_, static_cast<double>(seen_)}; }
  /// Goes on from what `state` gave.
  void set_state(const std::vector<double>& state) { sum_ = state.at(0), seen_ = static_cast<Index>(state.at(1)); }

 protected:
  void add(double sum, Index seen) { sum_ += sum, seen_ += seen; }
  /// 0 where nothing was seen.
  double mean() const { return seen_ == 0 ? 0.0 : sum_ / static_cast<double>(seen_); }

 private:
  double sum_ = 0.0;
  Index seen_ = 0;
};

}  // namespace detail

/// The part of pictures whose most probable class is the right one, in [0, 1].
class Accuracy : public detail::RunningMean {
 public:
  /// \param probabilities (N, classes); \param batch its `target` (N) int64, or soft labels (N, classes), as `MixUp`
  /// makes them, whose largest part is the right one.
  void update(const Tensor& probabilities, const Batch& batch) {
    const Tensor right = batch.target.dim() == 2 ? batch.target.argmax(1) : batch.target;
    add(probabilities.argmax(1).eq(right).sum().item<double>(), batch.target.size(0));
  }
  /// `accuracy`; 0 where nothing was seen.
  NamedValues values() const { return {{"accuracy", mean()}}; }
};

/// The part of pictures whose right class is among the `K` most probable, in [0, 1].
template <Index K = 5>
class TopK : public detail::RunningMean {
 public:
  /// \param probabilities (N, classes); \param batch its `target` (N) int64.
  void update(const Tensor& probabilities, const Batch& batch) {
    const Index k = std::min(K, probabilities.size(1));
    const Tensor best = std::get<1>(probabilities.topk(k, 1));
    add(best.eq(batch.target.unsqueeze(1)).any(1).sum().template item<double>(), batch.target.size(0));
  }
  /// `top5_accuracy` (for K = 5); 0 where nothing was seen.
  NamedValues values() const { return {{detail::text("top", K, "_accuracy"), mean()}}; }
};

/// Counts of (true class, predicted class).
class ConfusionMatrix {
 public:
  /// \param probabilities (N, classes); \param batch its `target` (N) int64.
  void update(const Tensor& probabilities, const Batch& batch);
  /// The counts, row by row: row the true class, column the predicted one.
  const std::vector<Index>& counts() const { return counts_; }
  /// How many classes.
  Index classes() const { return classes_; }
  /// Precision, recall, F1 and support of each class, and their averages.
  ClassificationScores scores() const { return classification_scores(counts_, classes_); }
  /// Each class's recall, `recall_0` and on, in [0, 1]; 0 for a class that was not seen.
  NamedValues values() const {
    NamedValues out;
    for (const ClassScores& c : scores().classes) out.emplace_back(detail::text("recall_", out.size()), c.recall);
    return out;
  }

 private:
  Index classes_ = 0;
  std::vector<Index> counts_;
};

/// The part of (picture, class) pairs that a multi-label model gets right at a probability of one half, in [0, 1].
class MultiLabelAccuracy : public detail::RunningMean {
 public:
  /// \param probabilities (N, classes); \param batch its `target` (N, classes) of zeros and ones.
  void update(const Tensor& probabilities, const Batch& batch) {
    add(probabilities.gt(0.5).eq(batch.target.gt(0.5)).sum().item<double>(), batch.target.numel());
  }
  /// `accuracy`; 0 where nothing was seen.
  NamedValues values() const { return {{"accuracy", mean()}}; }
};

/// The mean absolute error of predicted numbers, in their own unit.
class MeanAbsoluteError : public detail::RunningMean {
 public:
  /// \param predicted (N, D); \param batch its `target` (N, D).
  void update(const Tensor& predicted, const Batch& batch) {
    add((predicted - batch.target).abs().sum(at::kDouble).item<double>(), batch.target.numel());
  }
  /// `mae`; 0 where nothing was seen.
  NamedValues values() const { return {{"mae", mean()}}; }
};

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API void ConfusionMatrix::update(const Tensor& probabilities, const Batch& batch) {
  const Index classes = probabilities.size(1);
  if (counts_.empty()) {
    classes_ = classes;
    counts_.assign(static_cast<std::size_t>(classes * classes), 0);
  }
  const Tensor predicted = probabilities.argmax(1).cpu().contiguous(), truth = batch.target.cpu().contiguous();
  const Index *p = predicted.const_data_ptr<Index>(), *t = truth.const_data_ptr<Index>();
  for (Index i = 0; i < truth.size(0); ++i) {
    if (t[i] < 0 || t[i] >= classes)
      throw DataError(detail::text("label ", t[i], " is out of range: the model knows ", classes, " classes"));
    ++counts_[static_cast<std::size_t>(t[i] * classes + p[i])];
  }
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

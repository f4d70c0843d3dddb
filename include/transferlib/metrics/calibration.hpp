/// \file
/// Whether a classifier's probabilities can be believed, and where it errs with the most confidence.
#pragma once

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstddef>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/metrics/scores.hpp>

namespace transferlib {
namespace detail {

/// Calls `use(row, classes, label)` for the probabilities of each picture of a batch.
template <class Use>
void for_each_prediction(const Tensor& probabilities, const Batch& batch, const Use& use) {
  const Tensor p = probabilities.detach().to(at::kCPU, at::kDouble).contiguous(), t = batch.target.cpu().contiguous();
  if (p.dim() != 2 || p.size(1) < 1 || t.dim() != 1 || p.size(0) != t.size(0) || t.scalar_type() != at::kLong)
    throw DataError("a metric of classes takes probabilities (N, classes) and targets (N) of int64");
  const Index classes = p.size(1);
  const double* row = p.const_data_ptr<double>();
  const Index* label = t.const_data_ptr<Index>();
  for (Index i = 0; i < p.size(0); ++i, row += classes) {
    if (label[i] < 0 || label[i] >= classes)
      throw DataError(text("label ", label[i], " is out of range: the model knows ", classes, " classes"));
    for (Index c = 0; c < classes; ++c)
      if (!(row[c] >= 0.0 && row[c] <= 1.0 + 1e-3))
        throw DataError(text("a probability is ", row[c],
                             ", which none can be; does the model's head give them, or "
                             "do its weights hold numbers that are none?"));
    use(row, classes, label[i]);
  }
}

}  // namespace detail

/// How far a classifier's probabilities are from what happens, in intervals of equal width of the confidence (the
/// probability of its answer): (0, 1/bins], (1/bins, 2/bins], …, as Guo et al. (2017).
class Calibration {
 public:
  /// \param bins intervals, at least 1; Guo's 15 is what others report \throws OptionError
  explicit Calibration(Index bins = 15) {
    if (bins < 1) throw OptionError(detail::text("calibration wants at least 1 interval, not ", bins));
    sums_.resize(static_cast<std::size_t>(bins));
  }

  /// \param probabilities (N, classes); \param batch its `target` (N) int64. \throws DataError for a label out of range
  /// or what is no probability
  void update(const Tensor& probabilities, const Batch& batch);

  /// The intervals, for a reliability diagram.
  std::vector<ReliabilityBin> bins() const;
  /// The mean negative logarithm of the true class's probability, in nats: the cross-entropy of the model.
  double negative_log_likelihood() const { return mean(nll_); }
  /// Brier's score (1950): the mean squared distance of the probabilities from the truth, summed over the classes, in
  /// [0, 2].
  double brier_score() const { return mean(brier_); }
  /// `ece` and `mce`, the expected and the maximum calibration error; `brier`; `nll`. 0 where nothing was seen.
  NamedValues values() const;

 private:
  double mean(double sum) const { return seen_ == 0 ? 0.0 : sum / static_cast<double>(seen_); }

  std::vector<ReliabilityBin> sums_;
  double brier_ = 0.0, nll_ = 0.0;
  Index seen_ = 0;
};

/// A picture that was taken for what it is not.
struct Mistake {
  Index index = 0;  ///< of the picture, in the order in which they were seen
  Index truth = 0, predicted = 0;
  double confidence = 0.0;        ///< the probability of the wrong answer
  double truth_confidence = 0.0;  ///< that of the right one
};

/// The mistakes that a model is surest of: hard pictures, and labels that are wrong.
class WorstMistakes {
 public:
  /// \param most how many are kept \throws OptionError
  explicit WorstMistakes(Index most = 24) : most_(static_cast<std::size_t>(std::max<Index>(most, 0))) {
    if (most < 1) throw OptionError(detail::text("at least 1 mistake must be kept, not ", most));
  }

  /// \param probabilities (N, classes); \param batch its `target` (N) int64. \throws DataError
  void update(const Tensor& probabilities, const Batch& batch);

  /// The surest first; equals in the order in which they were seen.
  const std::vector<Mistake>& mistakes() const { return worst_; }
  /// `mistakes`: how many there were in all.
  NamedValues values() const { return {{"mistakes", static_cast<double>(count_)}}; }

 private:
  std::size_t most_;
  std::vector<Mistake> worst_;
  Index seen_ = 0, count_ = 0;
};

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API void Calibration::update(const Tensor& probabilities, const Batch& batch) {
  detail::for_each_prediction(probabilities, batch, [&](const double* row, Index classes, Index label) {
    const Index best = std::max_element(row, row + classes) - row;
    const auto bins = static_cast<double>(sums_.size());
    const auto at = static_cast<std::size_t>(std::clamp(std::ceil(row[best] * bins) - 1.0, 0.0, bins - 1.0));
    sums_[at].count += 1;
    sums_[at].confidence += row[best];
    sums_[at].accuracy += best == label ? 1.0 : 0.0;
    for (Index c = 0; c < classes; ++c) {
      const double off = row[c] - (c == label ? 1.0 : 0.0);
      brier_ += off * off;
    }
    // A probability that float32 rounded to 0 counts as the least that it can hold.
    nll_ -= std::log(std::max(row[label], static_cast<double>(FLT_MIN)));
    ++seen_;
  });
}

TRANSFERLIB_API std::vector<ReliabilityBin> Calibration::bins() const {
  std::vector<ReliabilityBin> out = sums_;
  for (ReliabilityBin& bin : out)
    if (bin.count > 0) {
      bin.confidence /= static_cast<double>(bin.count);
      bin.accuracy /= static_cast<double>(bin.count);
    }
  return out;
}

TRANSFERLIB_API NamedValues Calibration::values() const {
  const auto all = bins();
  return {{"ece", expected_calibration_error(all)},
          {"mce", maximum_calibration_error(all)},
          {"brier", brier_score()},
          {"nll", negative_log_likelihood()}};
}

TRANSFERLIB_API void WorstMistakes::update(const Tensor& probabilities, const Batch& batch) {
  detail::for_each_prediction(probabilities, batch, [&](const double* row, Index classes, Index label) {
    const Index best = std::max_element(row, row + classes) - row, index = seen_++;
    if (best == label) return;
    ++count_;
    if (worst_.size() == most_ && !(row[best] > worst_.back().confidence)) return;
    const Mistake mistake{index, label, best, row[best], row[label]};
    worst_.insert(std::upper_bound(worst_.begin(), worst_.end(), mistake,
                                   [](const Mistake& a, const Mistake& b) { return a.confidence > b.confidence; }),
                  mistake);
    if (worst_.size() > most_) worst_.pop_back();
  });
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

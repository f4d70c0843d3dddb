/// \file
/// What counts of a classifier's answers say: precision, recall and F1 class by class, and how far its confidence can
/// be trusted. Free of LibTorch.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/layers.hpp>
#include <transferlib/core/separate.hpp>

namespace transferlib {

/// What is told of one class, or of all by an average; each in [0, 1], 0 where there is nothing to divide by.
struct Scores {
  double precision = 0.0;  ///< the part of the pictures taken for it that are of it
  double recall = 0.0;     ///< the part of its pictures that were found
  double f1 = 0.0;         ///< the harmonic mean of the two
};

/// Of one class.
struct ClassScores : Scores {
  Index support = 0;    ///< its pictures
  Index predicted = 0;  ///< pictures taken for it
};

/// What a confusion matrix says, as scikit-learn's `classification_report`.
struct ClassificationScores {
  std::vector<ClassScores> classes;
  Scores macro;           ///< the mean over the classes that have pictures or were answered
  Scores weighted;        ///< the mean over the classes, weighted by their pictures
  Index seen = 0;         ///< pictures in all
  double accuracy = 0.0;  ///< in [0, 1]; 0 where nothing was seen
};

/// \param counts row by row: row the true class, column the predicted one \param classes how many
/// \throws OptionError if there are not classes² counts, or one is negative
TRANSFERLIB_API ClassificationScores classification_scores(const std::vector<Index>& counts, Index classes);

/// The pictures whose confidence, the probability of the answer, lies in one interval.
struct ReliabilityBin {
  Index count = 0;
  double confidence = 0.0;  ///< mean, in [0, 1]
  double accuracy = 0.0;    ///< the part that is right, in [0, 1]
};

/// How far confidence is from accuracy, on average over the pictures, in [0, 1]: Guo et al., "On calibration of modern
/// neural networks" (2017), equation 3. 0 where nothing was seen.
TRANSFERLIB_API double expected_calibration_error(const std::vector<ReliabilityBin>& bins);

/// How far confidence is from accuracy in the worst interval that has pictures, in [0, 1]: Guo's equation 5.
inline double maximum_calibration_error(const std::vector<ReliabilityBin>& bins) {
  double out = 0.0;
  for (const ReliabilityBin& bin : bins)
    if (bin.count > 0) out = std::max(out, std::fabs(bin.accuracy - bin.confidence));
  return out;
}

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API ClassificationScores classification_scores(const std::vector<Index>& counts, Index classes) {
  const auto n = static_cast<std::size_t>(std::max<Index>(classes, 0));
  if (counts.size() != n * n)
    throw OptionError(
        detail::text("a confusion matrix of ", classes, " classes has ", n * n, " counts, not ", counts.size()));
  ClassificationScores out;
  out.classes.resize(n);
  for (std::size_t i = 0; i < counts.size(); ++i) {
    if (counts[i] < 0)
      throw OptionError(
          detail::text("a confusion matrix counts pictures, but row ", i / n, ", column ", i % n, " is ", counts[i]));
    out.classes[i / n].support += counts[i];
    out.classes[i % n].predicted += counts[i];
    out.seen += counts[i];
  }
  const auto part = [](double a, double b) { return b == 0.0 ? 0.0 : a / b; };
  double present = 0.0, right = 0.0;
  const auto add = [](Scores& sum, const Scores& s, double weight) {
    sum.precision += weight * s.precision;
    sum.recall += weight * s.recall;
    sum.f1 += weight * s.f1;
  };
  Scores macro, weighted;
  for (std::size_t c = 0; c < n; ++c) {
    ClassScores& s = out.classes[c];
    const auto hits = static_cast<double>(counts[c * n + c]), support = static_cast<double>(s.support),
               predicted = static_cast<double>(s.predicted);
    s.precision = part(hits, predicted);
    s.recall = part(hits, support);
    s.f1 = part(2.0 * hits, support + predicted);
    right += hits;
    add(weighted, s, support);
    if (s.support + s.predicted == 0) continue;
    add(macro, s, 1.0);
    present += 1.0;
  }
  const auto all = static_cast<double>(out.seen);
  if (present > 0.0) add(out.macro, macro, 1.0 / present);
  if (all > 0.0) add(out.weighted, weighted, 1.0 / all);
  out.accuracy = part(right, all);
  return out;
}

TRANSFERLIB_API double expected_calibration_error(const std::vector<ReliabilityBin>& bins) {
  double sum = 0.0, all = 0.0;
  for (const ReliabilityBin& bin : bins) {
    sum += static_cast<double>(bin.count) * std::fabs(bin.accuracy - bin.confidence);
    all += static_cast<double>(bin.count);
  }
  return all == 0.0 ? 0.0 : sum / all;
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

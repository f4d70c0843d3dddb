/// \file
/// How well scores put one kind of pictures above another. Free of LibTorch.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/separate.hpp>

namespace transferlib {

/// The area under the curve of the receiver operating characteristic: the probability that a score of `above` exceeds
/// one of `below`, equal ones counting half (the statistic of Mann and Whitney; Hanley and McNeil, "The meaning and use
/// of the area under a receiver operating characteristic (ROC) curve", 1982). Infinite scores are scores.
/// O((n + m) log(n + m)).
/// \returns 0.5 where the scores tell nothing, 1 where every one of `above` exceeds every one of `below`
/// \throws DataError if either is empty, or a score is not a number
TRANSFERLIB_API double roc_auc(std::span<const double> above, std::span<const double> below);

/// The number that the part `rate` of the scores exceeds or equals: of n sorted ones that with the index
/// floor((1 - rate) n). \throws DataError if there are none; OptionError if the rate is not above 0 and at most 1
TRANSFERLIB_API double threshold_at_rate(std::vector<double> scores, double rate);

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API double roc_auc(std::span<const double> above, std::span<const double> below) {
  if (above.empty() || below.empty())
    throw DataError(detail::text("the area under a ROC curve needs scores of both kinds; there are ", above.size(),
                                 " that should be high and ", below.size(), " that should be low"));
  std::vector<std::pair<double, bool>> all;
  all.reserve(above.size() + below.size());
  for (double s : above) all.emplace_back(s, true);
  for (double s : below) all.emplace_back(s, false);
  for (std::size_t i = 0; i < all.size(); ++i)
    if (std::isnan(all[i].first))
      throw DataError(detail::text("score ", all[i].second ? i : i - above.size(), " of those that should be ",
                                   all[i].second ? "high" : "low", " is not a number"));
  std::sort(all.begin(), all.end());
  double won = 0.0, lower = 0.0;
  for (std::size_t from = 0; from < all.size();) {
    std::size_t to = from;
    double high = 0.0, low = 0.0;
    for (; to < all.size() && all[to].first == all[from].first; ++to) (all[to].second ? high : low) += 1.0;
    won += high * (lower + 0.5 * low);
    lower += low;
    from = to;
  }
  return won / (static_cast<double>(above.size()) * static_cast<double>(below.size()));
}

TRANSFERLIB_API double threshold_at_rate(std::vector<double> scores, double rate) {
  if (scores.empty()) throw DataError("a threshold needs scores");
  if (!(rate > 0.0 && rate <= 1.0))
    throw OptionError(detail::text("the rate of a threshold must be above 0 and at most 1, not ", rate));
  const auto at =
      std::min(scores.size() - 1, static_cast<std::size_t>((1.0 - rate) * static_cast<double>(scores.size()) + 1e-9));
  std::nth_element(scores.begin(), scores.begin() + static_cast<std::ptrdiff_t>(at), scores.end());
  return scores[at];
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

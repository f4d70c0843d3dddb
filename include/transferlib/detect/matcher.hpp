/// \file
/// Which true box each anchor or proposal is to learn, and which of them a step learns from: the assignment and the
/// balanced sampling of Faster R-CNN (Ren et al., NeurIPS 2015), as torchvision 0.29.1 does them. Boxes are x1, y1, x2,
/// y2.
#pragma once

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include <ATen/ATen.h>

#include <transferlib/core/error.hpp>
#include <transferlib/core/random.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/detect/boxes.hpp>

namespace transferlib {

/// From which IoU on a box is matched, and below which it is background; between them it is neither.
struct MatchOptions {
  double positive = 0.7;
  double negative = 0.3;
  bool low_quality = true;  ///< whether each true box gets those that overlap it most, however little that is
};

/// What `match_boxes` says of a box that overlaps no true box enough to be anything but background.
inline constexpr Index background = -1;
/// What it says of a box that is neither a match nor background.
inline constexpr Index ignored = -2;

/// The true box of each box: its index, `background`, or `ignored`. Memory stays bounded whatever the numbers are.
/// \param truth (M, 4), M may be 0 \param boxes (A, 4) \returns (A) int64
/// \throws OptionError for thresholds that can't be meant
TRANSFERLIB_API Tensor match_boxes(const Tensor& truth, const Tensor& boxes, const MatchOptions& options = {});

/// What a step learns from: indices, rising.
struct BalancedSample {
  Tensor positive, negative;  ///< (P), (Q) int64
};

/// Draws up to `count` boxes, up to `fraction` of them positive, the others negative; of each kind without bias.
/// \param labels (A) int64: above 0 positive, 0 negative, below neither \throws OptionError
TRANSFERLIB_API BalancedSample sample_balanced(const Tensor& labels, Index count, double fraction, Random random);

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API Tensor match_boxes(const Tensor& truth, const Tensor& boxes, const MatchOptions& options) {
  const MatchOptions& o = options;
  if (!(o.negative >= 0.0 && o.negative <= o.positive && o.positive <= 1.0))
    throw OptionError(detail::text("boxes match from an IoU of ", o.positive, " on and are background below ",
                                   o.negative, "; both must be in [0, 1], the second not above the first"));
  const torch::NoGradGuard guard;
  const Index true_boxes = truth.size(0), count = boxes.size(0);
  const auto whole = boxes.options().dtype(at::kLong);
  Tensor match = at::full({count}, background, whole);
  if (true_boxes == 0 || count == 0) return match;
  // True boxes in pieces of about 4 million overlaps.
  const Index piece = std::max<Index>(1, (Index{1} << 22) / count);
  Tensor best, which;
  std::vector<Tensor> highest;
  const auto overlaps = [&](Index from) {
    return box_overlaps(truth.narrow(0, from, std::min(piece, true_boxes - from)), boxes);
  };
  const bool one_piece = true_boxes <= piece;
  Tensor matrix;
  for (Index from = 0; from < true_boxes; from += piece) {
    matrix = overlaps(from);
    auto [value, index] = matrix.max(0);
    if (o.low_quality) highest.push_back(std::get<0>(matrix.max(1)));
    index = index + from;
    if (best.defined()) {
      const Tensor better = value.gt(best);
      which = at::where(better, index, which);
      best = at::where(better, value, best);
    } else {
      best = value;
      which = index;
    }
  }
  match = at::where(best.lt(o.negative), match, at::where(best.lt(o.positive), at::full_like(which, ignored), which));
  if (!o.low_quality) return match;
  Tensor nearest = at::zeros({count}, boxes.options().dtype(at::kBool));
  for (Index from = 0; from < true_boxes; from += piece) {
    if (!one_piece) matrix = overlaps(from);
    nearest = nearest.logical_or(matrix.eq(highest[static_cast<std::size_t>(from / piece)].unsqueeze(1)).any(0));
  }
  return at::where(nearest, which, match);
}

TRANSFERLIB_API BalancedSample sample_balanced(const Tensor& labels, Index count, double fraction, Random random) {
  if (count < 1 || !(fraction >= 0.0 && fraction <= 1.0))
    throw OptionError(detail::text("a sample should be of at least 1 box with a fraction in [0, 1] of positive ones, ",
                                   "not of ", count, " and ", fraction));
  const Tensor flat = labels.cpu().contiguous();
  const Index* const label = flat.const_data_ptr<Index>();
  std::vector<Index> positive, negative;
  for (Index i = 0; i < flat.numel(); ++i) {
    if (label[i] > 0) positive.push_back(i);
    if (label[i] == 0) negative.push_back(i);
  }
  // The first of a shuffled list (Fisher and Yates).
  const auto draw = [&](std::vector<Index>& from, Index n) {
    const Index all = static_cast<Index>(from.size());
    n = std::min(n, all);
    for (Index i = 0; i < n; ++i)
      std::swap(from[static_cast<std::size_t>(i)], from[static_cast<std::size_t>(i + random.below(all - i))]);
    from.resize(static_cast<std::size_t>(n));
    std::sort(from.begin(), from.end());
    return n;
  };
  const Index drawn = draw(positive, static_cast<Index>(static_cast<double>(count) * fraction));
  draw(negative, count - drawn);
  const auto tensor = [&](const std::vector<Index>& v) {
    return at::tensor(v, at::TensorOptions(at::kLong)).to(labels.device());
  };
  return {tensor(positive), tensor(negative)};
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

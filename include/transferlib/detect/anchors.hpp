/// \file
/// Anchors: the sizes that a detector's boxes are told against. Found by k-means under the overlap of shapes (Redmon
/// and Farhadi, "YOLO9000", 2017), bettered by evolution, and judged by the best possible recall, as YOLO v5 does it.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/random.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>

namespace transferlib {

/// A box's sides in pixels of the network's input.
struct AnchorSize {
  double width = 0.0, height = 0.0;
  friend bool operator==(const AnchorSize&, const AnchorSize&) = default;
};

/// The anchors of one map.
using Anchors = std::vector<AnchorSize>;
/// The anchors of each map of a pyramid, the finest first.
using LevelAnchors = std::vector<Anchors>;

/// Anchors as a tensor (A, 2) of width and height, in double precision.
inline Tensor anchor_tensor(const Anchors& anchors) {
  Tensor out = at::empty({static_cast<Index>(anchors.size()), 2}, at::kDouble);
  double* p = out.mutable_data_ptr<double>();
  for (const AnchorSize& a : anchors) *p++ = a.width, *p++ = a.height;
  return out;
}

/// The IoU of each of (N, 2) widths and heights with each of (K, 2), as if their corners lay on one another: (N, K).
inline Tensor shape_overlaps(const Tensor& a, const Tensor& b) {
  const Tensor both = at::minimum(a.unsqueeze(1), b.unsqueeze(0)).prod(-1);
  return both / (a.prod(-1).unsqueeze(1) + b.prod(-1).unsqueeze(0) - both);
}

namespace detail {

TRANSFERLIB_API Tensor check_sizes(const Tensor& sizes);

inline void check_ratio(double ratio) {
  if (!(ratio > 1.0)) throw OptionError(text("the ratio of a box's side to an anchor's must be above 1, not ", ratio));
}

/// Of each of (N, 2) with each of (K, 2) the smaller of the sides' ratios, at most 1: (N, K).
inline Tensor side_ratios(const Tensor& sizes, const Tensor& anchors) {
  const Tensor r = sizes.unsqueeze(1) / anchors.unsqueeze(0);
  return at::minimum(r, r.reciprocal()).amin(-1);
}

TRANSFERLIB_API Anchors sorted_anchors(const Tensor& sizes);

/// How well anchors suit boxes: the mean of the best ratio of sides, 0 where it is out of reach.
inline double anchor_fitness(const Tensor& sizes, const Tensor& anchors, double ratio) {
  const Tensor best = side_ratios(sizes, anchors).amax(1);
  return (best * best.gt(1.0 / ratio)).mean().item<double>();
}

}  // namespace detail

/// Anchors for boxes of these sizes (N, 2), in pixels, the smallest first: k-means whose distance is 1 - IoU of the
/// shapes, from starts drawn as k-means++ does (Arthur and Vassilvitskii, 2007).
/// \throws DataError for sizes that are not positive; OptionError for fewer boxes than anchors
TRANSFERLIB_API Anchors kmeans_anchors(const Tensor& sizes, Index count, std::uint64_t seed = 0);

/// How far anchors reach boxes.
struct AnchorRecall {
  double best_possible = 0.0;  ///< the part of the boxes, in [0, 1], that some anchor is within the ratio of
  double anchors_a_box = 0.0;  ///< how many anchors are, on average
  double mean_overlap = 0.0;   ///< the mean IoU of a box's shape with its best anchor
};

/// Judges anchors on boxes (N, 2): one is within reach where neither side is `ratio` times the anchor's or more, or
/// less than a `ratio`-th of it, as YOLO v5's matching has it.
TRANSFERLIB_API AnchorRecall anchor_recall(const Tensor& sizes, const Anchors& anchors, double ratio = 4.0);

/// What evolving anchors takes.
struct EvolveOptions {
  Index generations = 1000;
  double ratio = 4.0;        ///< see `anchor_recall`
  double probability = 0.9;  ///< that a side is changed
  double deviation = 0.1;    ///< of the factor that it is changed by
  std::uint64_t seed = 0;
};

/// Betters anchors for boxes (N, 2): in each generation sides are multiplied by random factors, and the change stays
/// where the mean ratio of sides grows. YOLO v5's genetic search. Never worse than what it is given.
TRANSFERLIB_API Anchors evolve_anchors(const Tensor& sizes, const Anchors& anchors, const EvolveOptions& options = {});

/// Anchors in the order of their areas, dealt out to `levels` maps, the smallest to the finest.
/// \throws OptionError where they can't be dealt out evenly
TRANSFERLIB_API LevelAnchors split_anchors(const Anchors& anchors, Index levels);

/// YOLO v5's autoanchor: anchors that reach 98 % of the boxes (N, 2) stay; others are replaced by k-means and evolution
/// where that reaches more.
TRANSFERLIB_API LevelAnchors auto_anchors(const Tensor& sizes, const LevelAnchors& anchors,
                                          const EvolveOptions& options = {});

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API Tensor check_sizes(const Tensor& sizes) {
  if (!sizes.defined() || sizes.dim() != 2 || sizes.size(1) != 2 || sizes.size(0) == 0)
    throw DataError("anchors are found from a tensor (N, 2) of widths and heights, of one box at least");
  const Tensor out = sizes.detach().to(at::kCPU, at::kDouble).contiguous();
  if (!out.gt(0.0).all().item<bool>() || !out.isfinite().all().item<bool>())
    throw DataError("a box that anchors are to be found from has no width or height; both must be above 0 pixels");
  return out;
}

TRANSFERLIB_API Anchors sorted_anchors(const Tensor& sizes) {
  Anchors out;
  const Tensor flat = sizes.contiguous();
  const double* p = flat.const_data_ptr<double>();
  for (Index i = 0; i < flat.size(0); ++i) out.push_back({p[2 * i], p[2 * i + 1]});
  std::stable_sort(out.begin(), out.end(),
                   [](const AnchorSize& a, const AnchorSize& b) { return a.width * a.height < b.width * b.height; });
  return out;
}

}  // namespace transferlib::detail

namespace transferlib {

TRANSFERLIB_API Anchors kmeans_anchors(const Tensor& sizes, Index count, std::uint64_t seed) {
  const Tensor x = detail::check_sizes(sizes);
  const Index n = x.size(0);
  if (count < 1 || count > n)
    throw OptionError(detail::text(count, " anchors can't be found from ", n, " boxes; ask for 1 to ", n));
  Random random(seed, Purpose::initialise);
  Tensor centres = x[random.below(n)].unsqueeze(0).clone();
  while (centres.size(0) < count) {
    const Tensor odds = (1.0 - shape_overlaps(x, centres).amax(1)).clamp_min(0.0).square().cumsum(0);
    const double drawn = random.uniform() * odds[n - 1].item<double>();
    const Index next = std::min(odds.le(drawn).sum().item<Index>(), n - 1);
    centres = at::cat({centres, x[next].unsqueeze(0)});
  }
  Tensor owner;
  for (int i = 0; i < 300; ++i) {
    const Tensor nearest = shape_overlaps(x, centres).argmax(1);
    if (owner.defined() && owner.equal(nearest)) break;
    owner = nearest;
    const Tensor members = at::bincount(owner, {}, count).to(at::kDouble).unsqueeze(1);
    const Tensor sums = at::zeros_like(centres).index_add_(0, owner, x);
    centres = at::where(members.gt(0), sums / members.clamp_min(1.0), centres);
  }
  return detail::sorted_anchors(centres);
}

TRANSFERLIB_API AnchorRecall anchor_recall(const Tensor& sizes, const Anchors& anchors, double ratio) {
  const Tensor x = detail::check_sizes(sizes), a = detail::check_sizes(anchor_tensor(anchors));
  detail::check_ratio(ratio);
  const Tensor reached = detail::side_ratios(x, a).gt(1.0 / ratio);
  return {reached.any(1).to(at::kDouble).mean().item<double>(), reached.sum(1).to(at::kDouble).mean().item<double>(),
          shape_overlaps(x, a).amax(1).mean().item<double>()};
}

TRANSFERLIB_API Anchors evolve_anchors(const Tensor& sizes, const Anchors& anchors, const EvolveOptions& options) {
  const Tensor x = detail::check_sizes(sizes);
  detail::check_ratio(options.ratio);
  Tensor best = detail::check_sizes(anchor_tensor(anchors));
  double fitness = detail::anchor_fitness(x, best, options.ratio);
  Random random(options.seed, Purpose::initialise, 1);
  for (Index g = 0; g < options.generations; ++g) {
    Tensor trial = best.clone();
    double* p = trial.mutable_data_ptr<double>();
    for (Index i = 0; i < trial.numel(); ++i) {
      const bool changes = random.uniform() < options.probability;
      const double factor = 1.0 + random.uniform() * random.normal() * options.deviation;
      if (changes) p[i] = std::max(p[i] * std::clamp(factor, 0.3, 3.0), 2.0);
    }
    const double now = detail::anchor_fitness(x, trial, options.ratio);
    if (now > fitness) fitness = now, best = trial;
  }
  return detail::sorted_anchors(best);
}

TRANSFERLIB_API LevelAnchors split_anchors(const Anchors& anchors, Index levels) {
  const Index count = static_cast<Index>(anchors.size());
  if (levels < 1 || count < levels || count % levels != 0)
    throw OptionError(detail::text(count, " anchors can't be dealt out evenly to ", levels, " maps"));
  const Anchors sorted = detail::sorted_anchors(anchor_tensor(anchors));
  LevelAnchors out;
  for (Index l = 0; l < levels; ++l)
    out.emplace_back(sorted.begin() + l * (count / levels), sorted.begin() + (l + 1) * (count / levels));
  return out;
}

TRANSFERLIB_API LevelAnchors auto_anchors(const Tensor& sizes, const LevelAnchors& anchors,
                                          const EvolveOptions& options) {
  Anchors all;
  for (const Anchors& level : anchors) all.insert(all.end(), level.begin(), level.end());
  const double now = anchor_recall(sizes, all, options.ratio).best_possible;
  if (now > 0.98) return anchors;
  const Index count = static_cast<Index>(all.size());
  const Anchors found = evolve_anchors(sizes, kmeans_anchors(sizes, count, options.seed), options);
  if (anchor_recall(sizes, found, options.ratio).best_possible <= now) return anchors;
  return split_anchors(found, static_cast<Index>(anchors.size()));
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

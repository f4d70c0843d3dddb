/// \file
/// Which predictions are to find which objects: by the best anchor (YOLO v2 to v4), by the ratio of sides in up to
/// five cells (v5), and by what the network predicts (SimOTA: YOLOX, v7). All of a batch at once, without gradient.
#pragma once

#include <algorithm>
#include <tuple>
#include <utility>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/detect/anchors.hpp>
#include <transferlib/detect/boxes.hpp>

namespace transferlib {

/// The objects of a batch.
struct Objects {
  Index pictures = 0;
  Tensor picture;  ///< (M) int64, whose they are, never falling
  Tensor label;    ///< (M) int64, their classes
  Tensor boxes;    ///< (M, 4): centre x, centre y, width, height in pixels of the network's input

  Index size() const { return label.size(0); }
};

/// The objects of a batch of the target `Boxes`, for computing with `like`. Those without area, as a cut can leave
/// them, are left out. \throws DataError for other shapes, and for a class that the head doesn't have
TRANSFERLIB_API Objects objects_of(const Batch& batch, Index classes, const Tensor& like);

/// A map on which objects are looked for.
struct MatchLevel {
  Tensor anchors;  ///< (A, 2) width and height in pixels
  double stride = 1.0;
  Index rows = 0, columns = 0;
};

/// K predictions of a map, (K) int64 each, and the objects that they are to find.
struct Matches {
  Tensor picture, anchor, row, column;
  Tensor object;  ///< the object's row in `Objects`

  Index size() const { return object.size(0); }
  /// Those at `which` (int64, or a mask).
  Matches pick(const Tensor& which) const {
    const auto of = [&](const Tensor& t) { return t.index({which}); };
    return {of(picture), of(anchor), of(row), of(column), of(object)};
  }
  /// A number for each prediction of the map, (K) int64: its place in (N, rows, columns, anchors).
  Tensor places(Index rows, Index columns, Index anchors) const {
    return ((picture * rows + row) * columns + column) * anchors + anchor;
  }
};

namespace detail {

/// The cells of points (K, 2) in pixels, within the map.
inline std::pair<Tensor, Tensor> cells(const Tensor& points, const MatchLevel& level) {
  const Tensor cell = (points / level.stride).floor().to(at::kLong);
  return {cell.select(1, 1).clamp(0, level.rows - 1), cell.select(1, 0).clamp(0, level.columns - 1)};
}

}  // namespace detail

/// YOLO v2 to v4: each object is looked for in the cell of its centre, by the anchor of all maps whose shape overlaps
/// its own most; and, as v4 has it, by each other anchor that does by more than `threshold` (1: by none).
TRANSFERLIB_API std::vector<Matches> match_best(const std::vector<MatchLevel>& levels, const Objects& objects,
                                                double threshold = 1.0);

/// Which anchors and cells `match_ratio` takes.
struct RatioOptions {
  double ratio = 4.0;  ///< a side may be less than this times the anchor's, and the other way round
  double reach =
      0.5;  ///< how near, in cells, a neighbouring cell must be: 0.5 gives three cells an object, 1 gives five
};

/// YOLO v5: each object is looked for on every map, by every anchor whose sides are within the ratio of its own, in the
/// cell of its centre and those of the four beside it that are nearer than `reach`. An object whose centre is on a
/// line between cells is matched as the original does, which may name a cell twice.
TRANSFERLIB_API std::vector<Matches> match_ratio(const std::vector<MatchLevel>& levels, const Objects& objects,
                                                 const RatioOptions& options = {});

/// The predictions of one picture that may be matched.
struct OtaCandidates {
  Tensor boxes;          ///< (P, 4) x1, y1, x2, y2
  Tensor probabilities;  ///< (P, classes) in [0, 1]: how sure each is of an object of each class
  Tensor centres;        ///< (P, 2) the middles of the cells, where only cells near an object's middle should find it
  Tensor reach;          ///< (P) how near, in pixels along each axis
};

/// What SimOTA weighs.
struct OtaOptions {
  Index most = 10;              ///< of the best overlaps, whose sum is how many predictions an object gets
  double overlap_weight = 3.0;  ///< of -log(IoU) beside the cross entropy of the classes
};

/// Pairs of predictions and objects.
struct OtaMatches {
  Tensor candidate;  ///< (K) int64, rising, each once
  Tensor object;     ///< (K) int64
  Tensor overlap;    ///< (K) IoU
};

/// SimOTA (Ge et al., "YOLOX", 2021): an object gets as many predictions as the sum of its best overlaps says, one at
/// least, those of the least cost: cross entropy of the classes, less the logarithm of the IoU. A prediction that
/// several objects want goes to the object, of all, of the least cost. A row of costs for each object is computed in
/// pieces, so that the memory taken doesn't grow with the number of objects.
/// \param boxes (G, 4) of the objects, x1, y1, x2, y2. \param labels (G) int64
TRANSFERLIB_API OtaMatches match_ota(const OtaCandidates& candidates, const Tensor& boxes, const Tensor& labels,
                                     const OtaOptions& options = {});

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API Objects objects_of(const Batch& batch, Index classes, const Tensor& like) {
  using detail::text;
  if (!batch.target.defined() || batch.target.dim() != 2 || batch.target.size(1) != 5)
    throw DataError("a detector learns from a target (M, 5): class, x, y, width, height");
  if (!batch.offsets.defined() || batch.offsets.dim() != 1 || batch.offsets.size(0) < 1)
    throw DataError("a detector learns from a target with offsets (N + 1), which tell whose boxes are whose");
  const Tensor offsets = batch.offsets.to(at::kCPU, at::kLong).contiguous();
  const Index pictures = offsets.size(0) - 1, rows = batch.target.size(0);
  const Tensor counts = offsets.diff();
  const Index first = offsets[0].item<Index>(), end = offsets[pictures].item<Index>();
  if (counts.lt(0).any().item<bool>() || first < 0 || end > rows)
    throw DataError(text("offsets must rise from 0 to the number of boxes, ", rows));
  Tensor target = batch.target.detach().to(at::kCPU).slice(0, first, end);
  Tensor picture = at::arange(pictures, at::kLong).repeat_interleave(counts);
  const Tensor solid = target.narrow(1, 3, 2).gt(0).all(1);
  if (!solid.all().item<bool>()) target = target.index({solid}), picture = picture.index({solid});
  if (target.size(0) != 0) {
    const Tensor label = target.select(1, 0);
    const double least = label.min().item<double>(), most = label.max().item<double>();
    if (!(least >= 0.0 && most < static_cast<double>(classes)))
      throw DataError(
          text("a box has the class ", least < 0.0 ? least : most, "; the head has classes 0 to ", classes - 1));
    if (!target.isfinite().all().item<bool>()) throw DataError("a box of the target has a number that is not finite");
  }
  const Tensor size = target.narrow(1, 3, 2);
  const Tensor boxes = at::cat({target.narrow(1, 1, 2) + size / 2, size}, 1);
  return {pictures, picture.to(like.device()), target.select(1, 0).to(like.device(), at::kLong),
          boxes.to(like.device(), like.scalar_type())};
}

TRANSFERLIB_API std::vector<Matches> match_best(const std::vector<MatchLevel>& levels, const Objects& objects,
                                                double threshold) {
  const torch::NoGradGuard guard;
  std::vector<Tensor> anchors;
  for (const MatchLevel& l : levels) anchors.push_back(l.anchors.to(objects.boxes.options()));
  const Tensor overlaps = shape_overlaps(objects.boxes.narrow(1, 2, 2), at::cat(anchors));
  Tensor chosen = at::zeros_like(overlaps, at::kBool);
  chosen.scatter_(1, overlaps.argmax(1, true), true);
  if (threshold < 1.0) chosen = chosen.logical_or(overlaps.gt(threshold));
  std::vector<Matches> out;
  Index first = 0;
  for (const MatchLevel& l : levels) {
    const Tensor pairs = chosen.narrow(1, first, l.anchors.size(0)).nonzero();
    first += l.anchors.size(0);
    const Tensor object = pairs.select(1, 0);
    const auto [row, column] = detail::cells(objects.boxes.index_select(0, object).narrow(1, 0, 2), l);
    out.push_back({objects.picture.index_select(0, object), pairs.select(1, 1), row, column, object});
  }
  return out;
}

TRANSFERLIB_API std::vector<Matches> match_ratio(const std::vector<MatchLevel>& levels, const Objects& objects,
                                                 const RatioOptions& options) {
  const torch::NoGradGuard guard;
  std::vector<Matches> out;
  for (const MatchLevel& l : levels) {
    const Tensor anchors = l.anchors.to(objects.boxes.options());
    const Tensor pairs = detail::side_ratios(objects.boxes.narrow(1, 2, 2), anchors).gt(1.0 / options.ratio).nonzero();
    const Tensor centre = objects.boxes.index_select(0, pairs.select(1, 0)).narrow(1, 0, 2) / l.stride;
    const Tensor size = at::tensor({l.columns, l.rows}, at::kLong).to(centre.options());
    const Tensor mirrored = size - centre;
    const auto near = [&](const Tensor& c) { return c.remainder(1.0).lt(options.reach).logical_and(c.gt(1.0)); };
    const Tensor before = near(centre), after = near(mirrored);
    Matches all;
    std::vector<Tensor> picture, anchor, row, column, object;
    const auto add = [&](const Tensor& which, double x, double y) {
      const Tensor chosen = pairs.index_select(0, which);
      const Tensor moved =
          centre.index_select(0, which) - at::tensor({x, y}, at::kDouble).to(centre.options()) * options.reach;
      const Tensor cell = moved.to(at::kLong);
      object.push_back(chosen.select(1, 0));
      anchor.push_back(chosen.select(1, 1));
      picture.push_back(objects.picture.index_select(0, object.back()));
      row.push_back(cell.select(1, 1).clamp(0, l.rows - 1));
      column.push_back(cell.select(1, 0).clamp(0, l.columns - 1));
    };
    const auto where = [](const Tensor& mask, Index axis) { return mask.select(1, axis).nonzero().select(1, 0); };
    add(at::arange(pairs.size(0), pairs.options()), 0.0, 0.0);
    if (options.reach > 0.0) {
      add(where(before, 0), 1.0, 0.0);
      add(where(before, 1), 0.0, 1.0);
      add(where(after, 0), -1.0, 0.0);
      add(where(after, 1), 0.0, -1.0);
    }
    out.push_back({at::cat(picture), at::cat(anchor), at::cat(row), at::cat(column), at::cat(object)});
  }
  return out;
}

TRANSFERLIB_API OtaMatches match_ota(const OtaCandidates& candidates, const Tensor& boxes, const Tensor& labels,
                                     const OtaOptions& options) {
  const torch::NoGradGuard guard;
  const Index count = candidates.boxes.size(0), objects = boxes.size(0);
  const Tensor none = at::empty({0}, labels.options());
  if (count == 0 || objects == 0) return {none, none, at::empty({0}, boxes.options())};
  // The cross entropy with one class is that with none, and a term of that class.
  const Tensor yes = candidates.probabilities.log().clamp_min(-100.0);
  const Tensor no = (-candidates.probabilities).log1p().clamp_min(-100.0);
  const Tensor background = -no.sum(1), gain = (no - yes).t().contiguous();
  const Index most = std::min(options.most, count), piece = std::max<Index>(1, (Index{1} << 21) / count);
  Tensor least, owner;  // of each candidate: the least cost, and whose
  std::vector<Tensor> wanted;
  for (Index g = 0; g < objects; g += piece) {
    const Tensor box = boxes.slice(0, g, std::min(g + piece, objects));
    const Tensor iou = box_overlaps(box, candidates.boxes).nan_to_num(0.0);
    Tensor cost = background + gain.index_select(0, labels.slice(0, g, std::min(g + piece, objects))) -
                  options.overlap_weight * (iou + 1e-8).log();
    if (candidates.centres.defined()) {
      const Tensor middle = (box.narrow(1, 0, 2) + box.narrow(1, 2, 2)) / 2;
      const Tensor far = (middle.unsqueeze(1) - candidates.centres).abs().amax(-1).ge(candidates.reach);
      cost = cost + 1e6 * far;
    }
    const Tensor number = std::get<0>(iou.topk(most, 1)).sum(1).to(at::kLong).clamp_min(1);
    const Tensor best = std::get<1>(cost.topk(most, 1, false));
    const Tensor taken = at::arange(most, number.options()).unsqueeze(0).lt(number.unsqueeze(1));
    wanted.push_back(best.index({taken}));
    const auto [low, who] = cost.min(0);
    const Tensor better = least.defined() ? low.lt(least) : at::ones_like(low, at::kBool);
    owner = least.defined() ? at::where(better, who + g, owner) : who;
    least = least.defined() ? at::where(better, low, least) : low;
    wanted.back() = at::stack({wanted.back(), taken.nonzero().select(1, 0) + g}, 1);
  }
  const Tensor pairs = at::cat(wanted);  // candidate, object
  const Tensor uses = at::bincount(pairs.select(1, 0), {}, count);
  // One object wants it: that one. More: the one of the least cost.
  Tensor object = at::full({count}, -1, labels.options());
  object.index_put_({pairs.select(1, 0)}, pairs.select(1, 1));
  object = at::where(uses.gt(1), owner, object);
  const Tensor candidate = uses.gt(0).nonzero().select(1, 0);
  object = object.index_select(0, candidate);
  return {candidate, object,
          paired_overlaps(candidates.boxes.index_select(0, candidate), boxes.index_select(0, object))};
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

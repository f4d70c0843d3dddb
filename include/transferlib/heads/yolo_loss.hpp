/// \file
/// The losses of the anchor-based YOLO, by its options: which predictions are to find which objects, how far boxes are
/// off, how sure they should be, and of which class.
#pragma once

#include <algorithm>
#include <tuple>
#include <utility>
#include <vector>

#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/detect/assign.hpp>
#include <transferlib/heads/yolo_decode.hpp>
#include <transferlib/heads/yolo_options.hpp>

namespace transferlib::detail {

/// A value of each level, or the one of all.
inline double of_level(const std::vector<double>& values, std::size_t level) {
  return values.size() == 1 ? values[0] : values.at(level);
}

/// Binary cross entropy of logits, element by element; with gamma above 0 the focal loss with alpha .25.
inline Tensor logistic_loss(const Tensor& x, const Tensor& target, double gamma) {
  const Tensor loss = at::binary_cross_entropy_with_logits(x, target, {}, {}, at::Reduction::None);
  if (gamma == 0.0) return loss;
  const Tensor p = x.sigmoid(), right = target * p + (1.0 - target) * (1.0 - p);
  return loss * (target * 0.25 + (1.0 - target) * 0.75) * (1.0 - right).pow(gamma);
}

/// A head's map while its loss is computed.
struct YoloLevel {
  Tensor values;   ///< (N, h, w, A, 5 + classes)
  Tensor anchors;  ///< (A, 2)
  BoxCode code;

  Index size(Index dimension) const { return values.size(dimension); }
  MatchLevel match() const { return {anchors, code.stride, size(1), size(2)}; }
  /// The predictions (K, 5 + classes) of matches.
  Tensor at_matches(const Matches& m) const { return values.index({m.picture, m.row, m.column, m.anchor}); }
  /// The boxes (K, 4), centre and size, of the predictions of matches.
  Tensor boxes(const Matches& m, const Tensor& predictions) const {
    return decode_boxes(predictions.narrow(1, 0, 4), at::stack({m.column, m.row}, 1).to(values.options()),
                        anchors.index_select(0, m.anchor), code);
  }
  Tensor places(const Matches& m) const { return m.places(size(1), size(2), size(3)); }
};

/// Where two objects are to be found by one prediction, as darknet has it, the last one counts; but for classes, which
/// are all of theirs. \returns the matches, each prediction once, and what its classes should be: (K, classes)
TRANSFERLIB_API std::pair<Matches, Tensor> one_object_each(const YoloLevel& level, const Matches& m,
                                                           const Objects& objects);

/// How far each place's box overlaps an object of its picture at most: (N, h, w, A).
TRANSFERLIB_API Tensor best_overlaps(const YoloLevel& level, const Objects& objects);

/// SimOTA picture by picture among what the ratio of sides allows, each prediction once.
TRANSFERLIB_API std::vector<Matches> match_yolo_ota(const std::vector<YoloLevel>& levels,
                                                    const std::vector<Matches>& allowed, const Objects& objects,
                                                    Index most);

/// The three losses, each a scalar; and what an old head would keep, where there is one.
struct YoloTerms {
  Tensor box, objectness, classes, kept;
};

/// How far boxes are off: (K).
TRANSFERLIB_API Tensor yolo_box_loss(const YoloLevel& level, const Matches& m, const Tensor& p, const Tensor& truth,
                                     const Tensor& overlap, const YoloOptions& o);

/// How far a map's boxes and classes are from those of an old head's map for the first of the classes, each prediction
/// as much as the old head is sure that it finds something; where something new is to be found (`taken`, places) the
/// old one is not asked. By the options' weights. An old prediction is of none of the new classes.
TRANSFERLIB_API Tensor yolo_kept_loss(const YoloLevel& level, const YoloLevel& old, const Tensor& taken,
                                      const YoloOptions& o);

/// A map's losses, given its matches. \param old an old head's map, or none: what finds nothing of `objects` should be
/// as sure as it was
TRANSFERLIB_API YoloTerms yolo_level_loss(const YoloLevel& level, const Matches& matches, const Objects& objects,
                                          const YoloOptions& o, double balance, const YoloLevel* old);

/// The losses of a head: the sum of its maps'. \param old the maps of an old head, or none
TRANSFERLIB_API YoloTerms yolo_loss(const std::vector<YoloLevel>& levels, const std::vector<Matches>& matches,
                                    const Objects& objects, const YoloOptions& o,
                                    const std::vector<YoloLevel>& old = {});

/// What is to find what, by the options. \param reach of `ratio` and `simota`, in cells
TRANSFERLIB_API std::vector<Matches> match_yolo(const std::vector<YoloLevel>& levels, const Objects& objects,
                                                const YoloOptions& o, double reach);

}  // namespace transferlib::detail

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API std::pair<Matches, Tensor> one_object_each(const YoloLevel& level, const Matches& m,
                                                           const Objects& objects) {
  const Tensor place = level.places(m);
  const Tensor last = at::full({level.values.numel() / level.size(4)}, -1, place.options())
                          .scatter_reduce_(0, place, at::arange(m.size(), place.options()), "amax");
  const Tensor kept = last.ge(0).nonzero().select(1, 0);
  Tensor number = at::zeros_like(last).index_put_({kept}, at::arange(kept.size(0), place.options()));
  Tensor classes = at::zeros({kept.size(0), level.size(4) - 5}, level.values.options());
  const Tensor label = objects.label.index_select(0, m.object);
  classes.index_put_({number.index_select(0, place), label}, at::ones({}, classes.options()));
  return {m.pick(last.index_select(0, kept)), classes};
}

TRANSFERLIB_API Tensor best_overlaps(const YoloLevel& level, const Objects& objects) {
  const torch::NoGradGuard guard;
  const Tensor boxes = to_corners(decode_map(level.values, level.anchors, level.code)).flatten(1, 3);
  Tensor out = at::zeros({boxes.size(0), boxes.size(1)}, boxes.options());
  const Tensor truth = to_corners(objects.boxes), counts = at::bincount(objects.picture, {}, objects.pictures).cpu();
  const Index piece = std::max<Index>(1, (Index{1} << 21) / boxes.size(1));
  Index first = 0;
  for (Index n = 0; n < objects.pictures; ++n) {
    const Index end = first + counts[n].item<Index>();
    Tensor best = out[n];
    for (; first < end; first = std::min(first + piece, end))
      best.copy_(best.maximum(
          box_overlaps(boxes[n], truth.slice(0, first, std::min(first + piece, end))).nan_to_num(0.0).amax(1)));
  }
  return out.view({level.size(0), level.size(1), level.size(2), level.size(3)});
}

TRANSFERLIB_API std::vector<Matches> match_yolo_ota(const std::vector<YoloLevel>& levels,
                                                    const std::vector<Matches>& allowed, const Objects& objects,
                                                    Index most) {
  const torch::NoGradGuard guard;
  struct Part {
    Matches matches;
    Tensor boxes, probabilities;
  };
  std::vector<Part> parts;
  for (std::size_t l = 0; l < levels.size(); ++l) {
    const Tensor place = levels[l].places(allowed[l]);
    const Tensor first = at::full({levels[l].values.numel() / levels[l].size(4)}, -1, place.options())
                             .scatter_reduce_(0, place, at::arange(place.size(0), place.options()), "amax");
    const Matches m = allowed[l].pick(first.index({first.ge(0)}));
    const Tensor p = levels[l].at_matches(m);
    const Tensor sure = (p.narrow(1, 5, p.size(1) - 5).sigmoid() * p.narrow(1, 4, 1).sigmoid()).sqrt();
    parts.push_back({m, to_corners(levels[l].boxes(m, p)), sure});
  }
  const Tensor truth = to_corners(objects.boxes);
  std::vector<std::vector<Tensor>> kept(levels.size()), whose(levels.size());
  for (Index n = 0; n < objects.pictures; ++n) {
    const Tensor mine = objects.picture.eq(n).nonzero().select(1, 0);
    if (mine.size(0) == 0) continue;
    std::vector<Tensor> rows, boxes, probabilities;
    for (const Part& part : parts) {
      rows.push_back(part.matches.picture.eq(n).nonzero().select(1, 0));
      boxes.push_back(part.boxes.index_select(0, rows.back()));
      probabilities.push_back(part.probabilities.index_select(0, rows.back()));
    }
    const OtaMatches m = match_ota({at::cat(boxes), at::cat(probabilities), {}, {}}, truth.index_select(0, mine),
                                   objects.label.index_select(0, mine), {.most = most});
    Index first = 0;
    for (std::size_t l = 0; l < levels.size(); ++l) {
      const Index end = first + rows[l].size(0);
      const Tensor here = m.candidate.ge(first).logical_and(m.candidate.lt(end));
      kept[l].push_back(rows[l].index_select(0, m.candidate.index({here}) - first));
      whose[l].push_back(mine.index_select(0, m.object.index({here})));
      first = end;
    }
  }
  std::vector<Matches> out;
  for (std::size_t l = 0; l < levels.size(); ++l) {
    const Tensor none = at::empty({0}, objects.label.options());
    out.push_back(parts[l].matches.pick(kept[l].empty() ? none : at::cat(kept[l])));
    out.back().object = whose[l].empty() ? none : at::cat(whose[l]);
  }
  return out;
}

TRANSFERLIB_API Tensor yolo_box_loss(const YoloLevel& level, const Matches& m, const Tensor& p, const Tensor& truth,
                                     const Tensor& overlap, const YoloOptions& o) {
  if (o.box_loss) return 1.0 - overlap;
  const double s = level.code.sensitivity;
  const Tensor cell = at::stack({m.column, m.row}, 1), size = truth.narrow(1, 2, 2);
  const Tensor place = ((truth.narrow(1, 0, 2) / level.code.stride - cell + (s - 1.0) / 2.0) / s).clamp(0.0, 1.0);
  const Tensor ratio = size / level.anchors.index_select(0, m.anchor), t = p.narrow(1, 2, 2);
  const Tensor off = o.sizes == BoxSizes::exponential ? t - ratio.log() : t.sigmoid() - ratio.sqrt() / 2.0;
  const double area =
      level.code.stride * level.code.stride * static_cast<double>(level.size(1)) * static_cast<double>(level.size(2));
  return (2.0 - size.prod(1) / area) *
         (logistic_loss(p.narrow(1, 0, 2), place, 0.0).sum(1) + off.square().sum(1) / 2.0);
}

TRANSFERLIB_API Tensor yolo_kept_loss(const YoloLevel& level, const YoloLevel& old, const Tensor& taken,
                                      const YoloOptions& o) {
  constexpr double least = 0.01;  // what is less sure would move nothing, and is most of the map
  const Tensor sure = old.values.select(-1, 4).sigmoid().flatten().index_fill(0, taken, 0.0);
  const Tensor where = sure.view({level.size(0), level.size(1), level.size(2), level.size(3)}).gt(least).nonzero();
  const Matches m{where.select(1, 0), where.select(1, 3), where.select(1, 1), where.select(1, 2), where.select(1, 0)};
  const Tensor weight = sure.index_select(0, level.places(m));
  const Tensor p = level.at_matches(m), q = old.at_matches(m), truth = old.boxes(m, q);
  const Tensor overlap =
      paired_overlaps(to_corners(level.boxes(m, p)), to_corners(truth), o.box_loss.value_or(Overlap::iou));
  const Index classes = level.size(4) - 5, before = old.size(4) - 5;
  const Tensor logits = p.narrow(1, 5, classes), said = q.narrow(1, 5, before);
  const bool softmax = o.classes == ClassRelation::softmax;
  const Tensor wanted =
      at::cat({softmax ? said.softmax(1) : said.sigmoid(), said.new_zeros({m.size(), classes - before})}, 1);
  const Tensor off = softmax ? at::cross_entropy_loss(logits, wanted, {}, at::Reduction::None)
                             : logistic_loss(logits, wanted, 0.0).sum(1);
  const Tensor box = (weight * yolo_box_loss(level, m, p, truth, overlap, o)).sum() * o.box_weight;
  const Tensor kind = (weight * off).sum() * o.class_weight;
  const double pictures = static_cast<double>(std::max<Index>(level.size(0), 1));
  if (o.scale == LossScale::pictures) return (box + kind) / pictures;
  const Tensor found = weight.sum().clamp_min(1.0);
  return box / found + kind / (found * 80.0);
}

TRANSFERLIB_API YoloTerms yolo_level_loss(const YoloLevel& level, const Matches& matches, const Objects& objects,
                                          const YoloOptions& o, double balance, const YoloLevel* old) {
  const Index classes = level.size(4) - 5;
  Matches m = matches;
  Tensor wanted;
  if (o.matching == Matching::best)
    std::tie(m, wanted) = one_object_each(level, matches, objects);
  else
    wanted = at::zeros({m.size(), classes}, level.values.options())
                 .scatter_(1, objects.label.index_select(0, m.object).unsqueeze(1), 1.0);
  const Tensor p = level.at_matches(m), truth = objects.boxes.index_select(0, m.object);
  const Tensor overlap =
      paired_overlaps(to_corners(level.boxes(m, p)), to_corners(truth), o.box_loss.value_or(Overlap::iou));

  const Tensor sure = level.values.select(-1, 4);
  Tensor target = old == nullptr ? at::zeros({sure.numel()}, sure.options())
                                 : old->values.select(-1, 4).sigmoid().flatten().clone();
  Tensor weight = at::ones_like(target);
  if (o.matching == Matching::best && o.ignore_threshold < 1.0)
    weight = best_overlaps(level, objects).flatten().le(o.ignore_threshold).to(weight.options());
  const Tensor place = level.places(m);
  weight.index_put_({place}, at::full({}, o.object_weight, weight.options()));
  target.scatter_reduce_(
      0, place, o.objectness == Objectness::one ? at::ones_like(overlap) : overlap.detach().clamp_min(0.0), "amax");
  const Tensor objectness =
      (logistic_loss(sure, target.view_as(sure), o.focal_gamma) * weight.view_as(sure)).sum() * balance;
  const Tensor box = yolo_box_loss(level, m, p, truth, overlap, o).sum();
  const Tensor logits = p.narrow(1, 5, classes);
  const Tensor off =
      o.classes == ClassRelation::softmax
          ? at::cross_entropy_loss(logits, objects.label.index_select(0, m.object), {}, at::Reduction::Sum)
          : logistic_loss(logits, wanted * (1.0 - o.label_smoothing) + o.label_smoothing / 2.0, o.focal_gamma).sum();
  const Tensor kept = old == nullptr ? Tensor() : yolo_kept_loss(level, *old, place, o);
  const double pictures = static_cast<double>(std::max<Index>(level.size(0), 1));
  if (o.scale == LossScale::pictures) return {box / pictures, objectness / pictures, off / pictures, kept};
  const double found = static_cast<double>(std::max<Index>(m.size(), 1));
  // The mean over all places, times the picture's part of 640 x 640 pixels.
  const double part = level.code.stride * level.code.stride / (640.0 * 640.0) / static_cast<double>(level.size(3));
  return {box / found, objectness * (part / pictures), off / (found * 80.0), kept};
}

TRANSFERLIB_API YoloTerms yolo_loss(const std::vector<YoloLevel>& levels, const std::vector<Matches>& matches,
                                    const Objects& objects, const YoloOptions& o, const std::vector<YoloLevel>& old) {
  YoloTerms sum;
  for (std::size_t l = 0; l < levels.size(); ++l) {
    const YoloTerms t =
        yolo_level_loss(levels[l], matches[l], objects, o, of_level(o.balance, l), old.empty() ? nullptr : &old.at(l));
    sum = l == 0 ? t
                 : YoloTerms{sum.box + t.box, sum.objectness + t.objectness, sum.classes + t.classes,
                             old.empty() ? Tensor() : sum.kept + t.kept};
  }
  const double maps = o.scale == LossScale::means ? 3.0 / static_cast<double>(levels.size()) : 1.0;
  return {sum.box * (o.box_weight * maps), sum.objectness * (o.objectness_weight * maps),
          sum.classes * (o.class_weight * maps), old.empty() ? Tensor() : sum.kept * maps};
}

TRANSFERLIB_API std::vector<Matches> match_yolo(const std::vector<YoloLevel>& levels, const Objects& objects,
                                                const YoloOptions& o, double reach) {
  std::vector<MatchLevel> places;
  for (const YoloLevel& l : levels) places.push_back(l.match());
  if (o.matching == Matching::best) return match_best(places, objects, o.anchor_threshold);
  std::vector<Matches> out = match_ratio(places, objects, {.ratio = o.anchor_ratio, .reach = reach});
  return o.matching == Matching::ratio ? out : match_yolo_ota(levels, out, objects, o.ota_most);
}

}  // namespace transferlib::detail

#endif  // TRANSFERLIB_DEFINES

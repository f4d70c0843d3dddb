/// \file
/// From the answers of a region proposal network to the boxes that are looked at more closely (Ren et al., "Faster
/// R-CNN", NeurIPS 2015): the surest anchors of each map, moved, clipped and suppressed, as torchvision 0.29.1 does it.
#pragma once

#include <algorithm>
#include <span>
#include <string>
#include <vector>

#include <ATen/ATen.h>

#include <transferlib/core/error.hpp>
#include <transferlib/core/parallel.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/detect/box_coder.hpp>
#include <transferlib/detect/boxes.hpp>
#include <transferlib/detect/detections.hpp>
#include <transferlib/detect/nms.hpp>
#include <transferlib/detect/placement.hpp>

namespace transferlib {

/// How many proposals a picture has.
struct ProposalOptions {
  Index before_nms = 1000;  ///< anchors of each map that are looked at, the surest
  Index after_nms = 1000;   ///< proposals that are kept, of all maps
  double nms = 0.7;         ///< the IoU above which the less sure one of a map's proposals is dropped
  double least_score = 0.0;
  double least_side = 1e-3;  ///< in pixels
};

namespace detail {

/// Which boxes (K, 4) have sides of at least so many pixels; those with numbers that are none have not.
inline Tensor has_sides(const Tensor& boxes, double least) {
  return (boxes.narrow(1, 2, 2) - boxes.narrow(1, 0, 2)).ge(least).all(1).logical_and(boxes.isfinite().all(1));
}

/// \throws DataError
inline void check_sizes(std::span<const PixelSize> pictures, Index count) {
  if (static_cast<Index>(pictures.size()) != count)
    throw DataError(text("there are sizes of ", pictures.size(), " pictures for a batch of ", count));
}

}  // namespace detail

/// The proposals of each picture, the surest first; their labels are 0.
/// \param objectness (N, A) logits \param codes (N, A, 4), as `BoxCoder{}` reads them \param anchors (A, 4), map by map
/// \param per_map how many of them each map has \param pictures the part of the canvas that each picture fills, from
/// its left top corner: proposals are clipped there \throws DataError, OptionError
TRANSFERLIB_API std::vector<Detections> filter_proposals(const Tensor& objectness, const Tensor& codes,
                                                         const Tensor& anchors, std::span<const Index> per_map,
                                                         std::span<const PixelSize> pictures,
                                                         const ProposalOptions& options = {});

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API std::vector<Detections> filter_proposals(const Tensor& objectness, const Tensor& codes,
                                                         const Tensor& anchors, std::span<const Index> per_map,
                                                         std::span<const PixelSize> pictures,
                                                         const ProposalOptions& options) {
  const ProposalOptions& o = options;
  if (o.before_nms < 1 || o.after_nms < 1)
    throw OptionError(detail::text("a picture needs at least 1 proposal before and after suppression, not ",
                                   o.before_nms, " and ", o.after_nms));
  detail::check_threshold(o.nms, "the threshold of the proposals' suppression");
  detail::check_sizes(pictures, objectness.size(0));
  const torch::NoGradGuard guard;
  std::vector<Tensor> best, maps;
  Index first = 0, map = 0;
  for (const Index n : per_map) {
    const Tensor which = std::get<1>(objectness.narrow(1, first, n).topk(std::min(n, o.before_nms), 1));
    best.push_back(which + first);
    maps.push_back(at::full({which.size(1)}, map++, which.options()));
    first += n;
  }
  if (first != anchors.size(0) || first != objectness.size(1))
    throw DataError(detail::text("the maps have ", first, " anchors, and there are answers for ", objectness.size(1)));
  const Tensor chosen = at::cat(best, 1), of_map = at::cat(maps);
  const Tensor scores = objectness.gather(1, chosen).sigmoid();
  const Tensor boxes =
      BoxCoder{}.decode(codes.gather(1, chosen.unsqueeze(2).expand({-1, -1, 4})), anchors.index({chosen}));
  std::vector<Detections> out(pictures.size());
  detail::for_each_in_parallel(static_cast<Index>(out.size()), [&](Index i) {
    const torch::NoGradGuard own;
    const PixelSize& size = pictures[static_cast<std::size_t>(i)];
    Tensor box = clip_boxes(boxes[i], size), score = scores[i];
    const Tensor good = detail::has_sides(box, o.least_side).logical_and(score.ge(o.least_score)).nonzero().flatten();
    box = box.index_select(0, good), score = score.index_select(0, good);
    Tensor kept = nms_by_class(box, score, of_map.index_select(0, good), o.nms);
    kept = kept.narrow(0, 0, std::min(kept.size(0), o.after_nms));
    out[static_cast<std::size_t>(i)] = {box.index_select(0, kept), score.index_select(0, kept), at::zeros_like(kept)};
  });
  return out;
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

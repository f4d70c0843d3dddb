/// \file
/// Some pictures of a data set with what a detector found in them, for a report.
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include <transferlib/core/concepts.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/report/detection.hpp>
#include <transferlib/report/evaluation.hpp>

namespace transferlib {

/// Which pictures are shown, and what in them.
struct FoundPicturesOptions {
  Index pictures = 6;   ///< evenly spread over all
  double score = 0.25;  ///< what was found is surer than this
  Index side = 320;     ///< the longer side of what is shown, at most, in pixels
};

/// Pictures for `detections_svg`. \param data what was evaluated, in its order \param truth, found of all its pictures,
/// by their places in the data
template <class D>
std::vector<FoundPicture> found_pictures(const D& data, std::span<const TruthBox> truth,
                                         std::span<const DetectedBox> found, const FoundPicturesOptions& options = {}) {
  const Index count = std::min(std::max<Index>(options.pictures, 0), data.size());
  std::vector<FoundPicture> out;
  for (Index i = 0; i < count; ++i) {
    const Index id = i * data.size() / count;
    const Tensor picture = data.batch(std::span(&id, 1)).pictures.at(0)[0];
    FoundPicture shown{detail::picture_png(picture, options.side), picture.size(2), picture.size(1), {}, {}};
    for (const TruthBox& b : truth)
      if (b.picture == id) shown.truth.push_back(b);
    for (const DetectedBox& b : found)
      if (b.picture == id && b.score > options.score) shown.found.push_back(b);
    out.push_back(std::move(shown));
  }
  return out;
}

}  // namespace transferlib

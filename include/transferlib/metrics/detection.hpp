/// \file
/// COCO's average precision as a detector's metric: what it is trained and measured by.
#pragma once

#include <algorithm>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/detect/detections.hpp>
#include <transferlib/metrics/average_precision.hpp>

namespace transferlib {

/// Collects what was found beside what is there, picture by picture. Its values are `ap`, COCO's mean over the IoU
/// thresholds .5 … .95, and `ap50`, both in [0, 1], -1 where there is no box to find; none where it has seen nothing.
class BoxAveragePrecision {
 public:
  /// \param found what was found in each picture of the batch, in the pixels of the batch's target
  /// \throws DataError if there are not as many pictures
  void update(const std::vector<Detections>& found, const Batch& batch);

  /// All of COCO's numbers of what was seen, class by class too.
  /// \param classes how many there are; 0: as many as were seen
  CocoResult result(Index classes = 0) const {
    return coco_average_precision(truth_, found_, std::max({classes, classes_, Index{1}}));
  }

  NamedValues values() const {
    if (pictures_ == 0) return {};
    const CocoNumbers all = result().mean;
    return {{"ap", all.ap}, {"ap50", all.ap50}};
  }

  /// \name What was seen.
  /// \{
  const std::vector<TruthBox>& truth() const { return truth_; }
  const std::vector<DetectedBox>& found() const { return found_; }
  /// \}

 private:
  std::vector<TruthBox> truth_;
  std::vector<DetectedBox> found_;
  Index pictures_ = 0, classes_ = 0;
};

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API void BoxAveragePrecision::update(const std::vector<Detections>& found, const Batch& batch) {
  const Tensor offsets = batch.offsets.to(at::kCPU, at::kLong).contiguous();
  const Tensor boxes = batch.target.to(at::kCPU, at::kDouble).contiguous();
  if (offsets.numel() != static_cast<Index>(found.size()) + 1)
    throw DataError(detail::text("a batch of ", offsets.numel() - 1, " pictures was predicted for ", found.size()));
  const auto* at = offsets.const_data_ptr<Index>();
  const auto* row = boxes.const_data_ptr<double>() + 5 * at[0];
  for (std::size_t i = 0; i < found.size(); ++i, ++pictures_) {
    for (Index b = at[i]; b < at[i + 1]; ++b, row += 5) {
      const auto label = static_cast<Index>(row[0]);
      truth_.push_back({.picture = pictures_, .label = label, .box = {row[1], row[2], row[3], row[4]}});
      classes_ = std::max(classes_, label + 1);
    }
    if (found[i].size() == 0) continue;
    const Tensor corners = found[i].boxes.to(at::kCPU, at::kDouble).contiguous();
    const Tensor scores = found[i].scores.to(at::kCPU, at::kDouble).contiguous();
    const Tensor labels = found[i].labels.to(at::kCPU, at::kLong).contiguous();
    const auto* c = corners.const_data_ptr<double>();
    for (Index k = 0; k < found[i].size(); ++k, c += 4) {
      const Index label = labels.const_data_ptr<Index>()[k];
      found_.push_back({pictures_, label, {c[0], c[1], c[2] - c[0], c[3] - c[1]}, scores.const_data_ptr<double>()[k]});
      classes_ = std::max(classes_, label + 1);
    }
  }
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

/// \file
/// A data set with other boxes than its own: of some classes only, or with what a detector found beside them.
#pragma once

#include <algorithm>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <transferlib/core/concepts.hpp>
#include <transferlib/core/error.hpp>
#include <transferlib/core/layers.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/formats/tensor_view.hpp>

namespace transferlib {

/// The pictures of a data set, which must outlive it, and boxes of these classes: of each picture (n, 5) float32,
/// label, left, top, width and height in its pixels.
template <class D>
class ReplacedBoxes {
 public:
  using Target = Boxes;

  /// \throws DataError if there is not one tensor (n, 5) a picture
  ReplacedBoxes(const D& data, Labels labels, std::vector<Tensor> boxes)
      : data_(&data), labels_(std::move(labels)), boxes_(std::move(boxes)) {
    if (static_cast<Index>(boxes_.size()) != data.size())
      throw DataError(detail::text("there are boxes of ", boxes_.size(), " pictures, and ", data.size(), " pictures"));
    for (const Tensor& b : boxes_)
      if (b.dim() != 2 || b.size(1) != 5 || b.scalar_type() != at::kFloat)
        throw DataError("the boxes of a picture must be (n, 5) float32: label, left, top, width, height");
  }
  ReplacedBoxes(const D&& data, Labels labels, std::vector<Tensor> boxes) = delete;

  Index size() const { return data_->size(); }
  const Labels& labels() const { return labels_; }

  Batch batch(std::span<const Index> ids) const {
    Batch out = data_->batch(ids);
    std::vector<Tensor> all;
    std::vector<Index> offsets{0};
    for (const Index id : ids) {
      all.push_back(boxes_.at(static_cast<std::size_t>(id)));
      offsets.push_back(offsets.back() + all.back().size(0));
    }
    out.target = all.empty() ? at::zeros({0, 5}) : at::cat(all);
    out.offsets = at::tensor(offsets, at::kLong);
    return out;
  }

 private:
  const D* data_;
  Labels labels_;
  std::vector<Tensor> boxes_;
};

namespace detail {

/// The boxes of a batch, picture by picture.
TRANSFERLIB_API std::vector<Tensor> boxes_by_picture(const Batch& batch);

/// Calls `use(first, batch)` for all of a data set, some pictures at a time.
template <class D, class Use>
void for_all_batches(const D& data, const Use& use) {
  constexpr Index at_once = 16;
  for (Index first = 0; first < data.size(); first += at_once) {
    std::vector<Index> ids;
    for (Index id = first; id < std::min(data.size(), first + at_once); ++id) ids.push_back(id);
    use(data.batch(ids));
  }
}

/// Boxes whose labels are `from`'s as those of `to`; what `to` has not is left out.
TRANSFERLIB_API Tensor relabelled(const Tensor& boxes, const Labels& from, const Labels& to);

}  // namespace detail

/// The data with the boxes of these classes only, which are its labels in this order; all pictures stay. It reads the
/// data once. \param data must outlive what is returned \throws DataError if the data has no such class
template <class D>
ReplacedBoxes<D> only_classes(const D& data, const Labels& labels) {
  const Labels have = data.labels();
  for (const std::string& label : labels)
    if (std::find(have.begin(), have.end(), label) == have.end())
      throw DataError(
          detail::text("the data has no class ", detail::in_quotes(label), "; it has ", detail::first_few(have)));
  std::vector<Tensor> boxes;
  detail::for_all_batches(data, [&](const Batch& batch) {
    for (const Tensor& own : detail::boxes_by_picture(batch)) boxes.push_back(detail::relabelled(own, have, labels));
  });
  return {data, labels, std::move(boxes)};
}

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API std::vector<Tensor> boxes_by_picture(const Batch& batch) {
  std::vector<Tensor> out;
  const Tensor target = batch.target.to(at::kFloat);
  for (Index i = 0; i + 1 < batch.offsets.numel(); ++i) {
    const Index from = batch.offsets[i].item<Index>(), to = batch.offsets[i + 1].item<Index>();
    out.push_back(target.narrow(0, from, to - from));
  }
  return out;
}

TRANSFERLIB_API Tensor relabelled(const Tensor& boxes, const Labels& from, const Labels& to) {
  std::vector<Tensor> rows;
  for (Index i = 0; i < boxes.size(0); ++i) {
    const auto label = static_cast<std::size_t>(boxes[i][0].item<float>());
    const auto found = std::find(to.begin(), to.end(), from.at(label));
    if (found == to.end()) continue;
    Tensor row = boxes[i].clone();
    row[0] = static_cast<double>(found - to.begin());
    rows.push_back(row);
  }
  return rows.empty() ? at::zeros({0, 5}, at::kFloat) : at::stack(rows);
}

}  // namespace transferlib::detail

#endif  // TRANSFERLIB_DEFINES

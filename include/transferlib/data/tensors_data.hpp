/// \file
/// Data sets that lie in memory as tensors: the user's own, and what the readers of CIFAR and MNIST return.
#pragma once

#include <algorithm>
#include <concepts>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <ATen/ATen.h>

#include <transferlib/core/error.hpp>
#include <transferlib/core/guard.hpp>
#include <transferlib/core/hash.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/data/preprocess.hpp>

namespace transferlib {

/// A training set and a test set.
template <class D>
struct Split {
  D train, test;
};

namespace detail {

/// Pictures and targets in memory, never changed, shared by the data sets that are copies of each other.
struct TensorStore {
  Tensor pictures, target;
  Labels labels;
  mutable std::once_flag hashed;
  mutable std::string hash;

  const std::string& fingerprint() const;
};

inline void check_ids(std::span<const Index> ids, Index size) {
  for (Index id : ids)
    if (id < 0 || id >= size)
      throw DataError(text("picture ", id, " does not exist: the data set has ", size, " pictures"));
}

/// A tensor over indices that outlive it.
inline Tensor index_tensor(std::span<const Index> ids) {
  return at::from_blob(const_cast<Index*>(ids.data()), {static_cast<Index>(ids.size())}, at::kLong);
}

/// Refuses a target whose type or shape is not what its tag says.
template <class Target>
void check_target(const Tensor& target, Index pictures, const Labels& labels) {
  const Index classes = static_cast<Index>(labels.size());
  const std::string got =
      target.defined() ? text(c10::toString(target.scalar_type()), " of shape ", shape_text(target)) : "undefined";
  if constexpr (std::same_as<Target, ClassIndex>) {
    if (!target.defined() || target.scalar_type() != at::kLong || target.dim() != 1 || target.size(0) != pictures)
      throw DataError(text("the target of class indices must be an int64 tensor (", pictures,
                           "), one index a picture; it is ", got));
    const Index* const t = target.const_data_ptr<Index>();
    for (Index i = 0; i < pictures; ++i)
      if (t[i] < 0 || t[i] >= classes)
        throw DataError(text("picture ", i, " has the label ", t[i], ", which is out of range: there are ", classes,
                             " classes, so labels go from 0 to ", classes - 1));
  } else if constexpr (std::same_as<Target, MultiLabel>) {
    if (!target.defined() || target.scalar_type() != at::kFloat || target.dim() != 2 || target.size(0) != pictures ||
        target.size(1) != classes)
      throw DataError(text("the target of several labels a picture must be a float32 tensor (", pictures, ", ", classes,
                           "), a row a picture, a column a class; it is ", got));
  } else {
    if (!target.defined() || target.scalar_type() != at::kFloat || target.dim() != 2 || target.size(0) != pictures)
      throw DataError(
          text("the target of values must be a float32 tensor (", pictures, ", D), a row a picture; it is ", got));
    if (target.size(1) != classes)
      throw DataError(text("the target has ", target.size(1), " values a picture and ", classes,
                           " names of values; give each value a name"));
  }
}

}  // namespace detail

/// Pictures in memory: one tensor (N, C, H, W), uint8 in 0 … 255 or float32 in [0, 1], and their targets as
/// `TargetTag` says: `ClassIndex`, `MultiLabel` or `Values`. Cheap to copy: copies share the tensors.
template <class TargetTag>
class TensorData {
  static_assert(std::same_as<TargetTag, ClassIndex> || std::same_as<TargetTag, MultiLabel> ||
                    std::same_as<TargetTag, Values>,
                "transferlib: TensorData<Target>: Target must be ClassIndex, MultiLabel or Values");

 public:
  using Target = TargetTag;

  /// \param pictures (N, C, H, W), uint8 or float32; must not be changed afterwards
  /// \param target (N) int64 class indices; (N, classes) float32 for `MultiLabel`; (N, D) float32 for `Values`
  /// \param labels the classes' names (of each value for `Values`)
  /// \throws DataError if shapes or types do not fit, or a class index has no label
  TensorData(const Tensor& pictures, const Tensor& target, Labels labels) {
    detail::check_pictures(pictures);
    auto store = std::make_shared<detail::TensorStore>();
    store->pictures = pictures.detach().cpu();
    if (target.defined()) store->target = target.detach().cpu().contiguous();
    detail::check_target<Target>(store->target, pictures.size(0), labels);
    store->labels = std::move(labels);
    store_ = std::move(store);
  }

  /// The number of pictures.
  Index size() const { return store_->pictures.size(0); }

  /// These pictures, copied into one block, in this order. Safe from several threads.
  /// \throws DataError if an index is out of range
  Batch batch(std::span<const Index> ids) const {
    detail::check_ids(ids, size());
    const Tensor index = detail::index_tensor(ids);
    Batch out;
    out.pictures.push_back(store_->pictures.index_select(0, index));
    out.target = store_->target.index_select(0, index);
    return out;
  }

  /// Their targets without the pictures.
  Tensor targets(std::span<const Index> ids) const {
    detail::check_ids(ids, size());
    return store_->target.index_select(0, detail::index_tensor(ids));
  }

  /// The classes' names, by index.
  const Labels& labels() const { return store_->labels; }

  /// All pictures (N, C, H, W) and all targets. Not to be changed.
  const Tensor& pictures() const { return store_->pictures; }
  const Tensor& target() const { return store_->target; }

  /// SHA-256 of shapes, types, pixels, targets and labels, in hexadecimal; computed once, by the first call.
  std::string fingerprint() const { return store_->fingerprint(); }

  /// The first `n` pictures; they share memory with all. \throws DataError if there are not so many
  TensorData subset(Index n) const {
    if (n < 0 || n > size())
      throw DataError(detail::text("a subset of ", n, " pictures can't be taken: the data set has ", size()));
    return TensorData(store_->pictures.narrow(0, 0, n), store_->target.narrow(0, 0, n), store_->labels);
  }

  /// These pictures, copied, in this order. \throws DataError if an index is out of range
  TensorData subset(std::span<const Index> ids) const {
    Batch part = batch(ids);
    return TensorData(part.pictures[0], part.target, store_->labels);
  }

 private:
  std::shared_ptr<const detail::TensorStore> store_;
};

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API const std::string& TensorStore::fingerprint() const {
  std::call_once(hashed, [&] {
    Sha256 sum;
    sum.add(std::string_view("transferlib tensor data 1"));
    const auto add = [&](const Tensor& tensor) {
      sum.add(std::string_view(c10::toString(tensor.scalar_type())));
      sum.add(tensor.dim());
      for (Index side : tensor.sizes()) sum.add(side);
      // By pieces, so that a tensor that is not contiguous is not copied whole.
      for (Index i = 0; i < tensor.size(0); i += 4096) {
        const Tensor part = tensor.narrow(0, i, std::min<Index>(4096, tensor.size(0) - i)).contiguous();
        sum.add(std::span(static_cast<const std::byte*>(part.const_data_ptr()), part.nbytes()));
      }
    };
    add(pictures);
    add(target);
    for (const std::string& label : labels) sum.add(std::string_view(label));
    hash = sum.hex();
  });
  return hash;
}

}  // namespace transferlib::detail

#endif  // TRANSFERLIB_DEFINES

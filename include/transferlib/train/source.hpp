/// \file
/// A data set without its type: what the training loop, which is no template, reads from.
#pragma once

#include <algorithm>
#include <functional>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <transferlib/core/concepts.hpp>
#include <transferlib/core/hash.hpp>
#include <transferlib/core/random.hpp>
#include <transferlib/data/transforms.hpp>

namespace transferlib {

/// A data set whose pictures are augmented while a model is trained on them; made by `augment`.
template <class D, class T>
class Augmented {
  static_assert(Dataset<D>, "transferlib: augment: not a Dataset: it needs Target, size(), batch(ids), labels()");
  static_assert(
      TransformFor<T, typename D::Target>,
      "transferlib: augment: this transform has no overload for the data's Target: it would move the picture and "
      "leave its boxes (or labels) behind");

 public:
  using Target = typename D::Target;

  Augmented(const D& data, T transform) : data_(&data), transform_(std::move(transform)) {}

  Index size() const { return data_->size(); }
  Batch batch(std::span<const Index> ids) const { return data_->batch(ids); }
  Labels labels() const { return data_->labels(); }
  const D& data() const { return *data_; }
  const T& transform() const { return transform_; }

 private:
  const D* data_;
  T transform_;
};

/// Pictures of `data`, augmented anew each epoch. `data` must outlive what is returned.
template <class D, class T>
Augmented<D, T> augment(const D& data, T transform) {
  return {data, std::move(transform)};
}
/// Temporary data is refused in a sentence.
template <class D, class T>
Augmented<D, T> augment(const D&& data, T transform) {
  static_assert(sizeof(D) == 0,
                "transferlib: augment: the data are a temporary, which is gone before a picture is read; give them a "
                "name: `auto [train, test] = …; augment(train, …)`");
  return {data, std::move(transform)};
}

namespace detail {

/// The numbers `from` … `to` - 1.
inline std::vector<Index> numbers(Index from, Index to) {
  std::vector<Index> out(static_cast<std::size_t>(to - from));
  std::iota(out.begin(), out.end(), from);
  return out;
}

/// See the file.
struct Source {
  Index size = 0;
  Labels labels;
  std::function<Batch(std::span<const Index>)> get;
  /// Target, and for boxes offsets and sizes; without the pictures where the data set can do that.
  std::function<Batch(std::span<const Index>)> targets;
  std::function<std::string()> fingerprint;
  std::optional<Index> views = 1;                              ///< see `TransformFor`
  std::function<void(Batch&, std::span<const Draw>)> augment;  ///< none where nothing is drawn
  /// What `augment` does, with all its numbers; empty where the transform can't tell: its views are then in no file.
  std::string augmentation = "none";
  /// Mixes the prepared pictures of a batch, given its number in the training; none where nothing is mixed.
  std::function<void(Batch&, Index)> mix{};
  /// The side in pixels that the pictures of a batch are brought to, given its number in the training; none: the
  /// model's.
  std::function<Index(Index)> side{};
  bool boxes = false;  ///< whether the targets are `Boxes`, in the pictures' pixels
};

/// The hash of a data set that can't tell its own: of all pictures and targets.
template <class D>
std::string fingerprint_of(const D& data) {
  if constexpr (requires { data.fingerprint(); }) {
    return data.fingerprint();
  } else {
    Sha256 hash;
    for (Index from = 0; from < data.size(); from += 256) {
      const Batch batch = data.batch(numbers(from, std::min(from + 256, data.size())));
      const auto add = [&](const Tensor& tensor) {
        const Tensor t = tensor.cpu().contiguous();
        for (Index side : t.sizes()) hash.add(side);
        hash.add(std::span(static_cast<const std::byte*>(t.const_data_ptr()), t.nbytes()));
      };
      for (const Tensor& block : batch.pictures) add(block);
      if (batch.target.defined()) add(batch.target);
    }
    return hash.hex();
  }
}

template <Dataset D>
Source source(const D& data) {
  Source out;
  out.size = data.size();
  out.labels = data.labels();
  out.get = [&data](std::span<const Index> ids) { return data.batch(ids); };
  out.boxes = std::same_as<typename D::Target, Boxes>;
  out.targets = [&data](std::span<const Index> ids) {
    if constexpr (requires { Batch(data.targets(ids)); }) {
      return Batch(data.targets(ids));
    } else if constexpr (requires { Tensor(data.targets(ids)); }) {
      return Batch{{}, Tensor(data.targets(ids)), {}, {}};
    } else {
      Batch out = data.batch(ids);
      out.pictures.clear();
      return out;
    }
  };
  out.fingerprint = [&data] { return fingerprint_of(data); };
  return out;
}

template <class D, class T>
Source source(const Augmented<D, T>& augmented) {
  Source out = source(augmented.data());
  out.views = augmented.transform().views();
  if constexpr (requires { std::string(augmented.transform().description()); })
    out.augmentation = augmented.transform().description();
  else
    out.augmentation.clear();
  out.augment = [t = augmented.transform()](Batch& batch, std::span<const Draw> draws) {
    t(batch, draws, typename D::Target{});
  };
  return out;
}

}  // namespace detail
}  // namespace transferlib

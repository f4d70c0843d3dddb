/// \file
/// Epochs that leave out some of the pictures that the network tells well already.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include <ATen/ATen.h>

#include <transferlib/core/error.hpp>
#include <transferlib/core/layers.hpp>
#include <transferlib/core/random.hpp>
#include <transferlib/core/tensors.hpp>

namespace transferlib {

/// Of the pictures whose loss, when they were last shown, lay below the mean of all, each is left out of an epoch with
/// this probability; the gradients of those that stay count as much more, so that what an epoch minimises is the same
/// on average (Qin et al., "InfoBatch: Lossless Training Speed Up by Unbiased Dynamic Data Pruning", ICLR 2024). About
/// a third of the time of training is saved at one half. The first epoch shows all pictures, and so do the last ones.
/// It is for long trainings: the paper's are 200 epochs. In a training of a few, what is left out is missed.
struct InfoBatch {
  double ratio = 0.5;    ///< in (0, 1)
  double whole = 0.125;  ///< the part of the epochs, at the end, that leave out none; in [0, 1]
};

namespace detail {

inline void check(const InfoBatch& o) {
  if (!(o.ratio > 0.0 && o.ratio < 1.0))
    throw OptionError(text("InfoBatch: the ratio that is left out must lie between 0 and 1, not ", o.ratio));
  if (!(o.whole >= 0.0 && o.whole <= 1.0))
    throw OptionError(text("InfoBatch: the part of the epochs that are whole must lie in [0, 1], not ", o.whole));
}

/// What the loop asks of a model's step besides the loss, a number a picture.
struct EachPicture {
  Tensor weights;  ///< (N) float32: what a picture's gradient counts
  Tensor losses;   ///< (N) float32, written: the cross entropy of the picture's class
};

/// The output (N, classes) itself, whose gradient counts a picture by its weight (N).
inline Tensor weigh_gradient(const Tensor& output, const Tensor& weights) {
  const Tensor value = output.detach();
  return value + (output - value) * weights.to(output.options()).unsqueeze(1);
}

/// The cross entropy of each picture's class: whatever the head minimises, it orders pictures by how well they are
/// told.
inline Tensor picture_losses(const Tensor& output, const Tensor& target) {
  return at::cross_entropy_loss(output.detach().to(at::kFloat), target, {}, at::Reduction::None).cpu();
}

/// The losses of all pictures when they were last shown, and what follows from them for an epoch.
class PictureLosses {
 public:
  explicit PictureLosses(Index pictures = 0)
      : before_(static_cast<std::size_t>(pictures), std::numeric_limits<double>::infinity()), now_(before_) {}

  /// The pictures.
  Index size() const { return static_cast<Index>(now_.size()); }

  /// An epoch's pictures, and what the gradient of each counts; a function of its arguments and of the losses that
  /// there were when the epoch began. \param order all pictures
  std::pair<std::vector<Index>, std::vector<float>> choose(const InfoBatch& o, std::span<const Index> order,
                                                           std::uint64_t seed, std::uint64_t epoch) const {
    // A picture that was not shown yet stays, and says nothing about the mean.
    double sum = 0.0, count = 0.0;
    for (const double loss : before_)
      if (std::isfinite(loss)) sum += loss, count += 1.0;
    const double mean = count == 0.0 ? 0.0 : sum / count;
    std::pair<std::vector<Index>, std::vector<float>> out;
    for (const Index i : order) {
      const bool known_well = before_[static_cast<std::size_t>(i)] < mean;
      if (known_well && Random(seed, Purpose::prune, epoch, static_cast<std::uint32_t>(i)).uniform() < o.ratio)
        continue;
      out.first.push_back(i);
      out.second.push_back(known_well ? static_cast<float>(1.0 / (1.0 - o.ratio)) : 1.0F);
    }
    return out;
  }

  /// Takes the losses of some pictures in, which count from the next epoch on.
  void update(std::span<const Index> ids, const Tensor& losses) {
    const Tensor own = losses.contiguous();
    const float* p = own.const_data_ptr<float>();
    for (std::size_t i = 0; i < ids.size(); ++i) now_[static_cast<std::size_t>(ids[i])] = static_cast<double>(p[i]);
  }
  void end_epoch() { before_ = now_; }

  /// All losses, those of the epoch's beginning and the newest.
  std::pair<std::vector<double>, std::vector<double>> state() const { return {before_, now_}; }
  void set_state(std::vector<double> before, std::vector<double> now) {
    before_ = std::move(before), now_ = std::move(now);
  }

 private:
  std::vector<double> before_, now_;
};

}  // namespace detail
}  // namespace transferlib

/// \file
/// Mixing pictures and their labels within a batch: MixUp and CutMix. What happens is a function of (seed, step, batch)
/// alone.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <variant>

#include <ATen/ATen.h>

#include <transferlib/core/error.hpp>
#include <transferlib/core/guard.hpp>
#include <transferlib/core/random.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>

namespace transferlib {

/// Each picture becomes lambda times itself plus 1 - lambda times another one, and its label likewise, with one lambda
/// a batch from Beta(alpha, alpha) (Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2018).
struct MixUp {
  double alpha = 0.2;  ///< above 0; the larger, the more alike the two parts
};

/// In each picture a rectangle is replaced by the same place of another one, and the label in proportion to the area,
/// which has one size a batch from Beta(alpha, alpha) (Yun et al., "CutMix", 2019).
struct CutMix {
  double alpha = 1.0;  ///< above 0
};

/// One or the other, drawn for each batch.
struct MixOrCut {
  MixUp mix{};
  CutMix cut{};
  double cut_probability = 0.5;  ///< of `CutMix`, in [0, 1]
};

/// Any of them, or nothing.
using Mix = std::variant<std::monostate, MixUp, CutMix, MixOrCut>;

/// What a batch is mixed with: the number of classes, and what is drawn from.
struct MixDraw {
  Index classes = 0;
  std::uint64_t seed = 0;
  Index step = 0;  ///< counts the batches of a training
};

namespace detail {

/// A rectangle of a batch's pictures.
struct MixBox {
  Index left = 0, top = 0, right = 0, bottom = 0;
};

/// The logarithm of a number from Gamma(shape, 1) (Marsaglia and Tsang, "A simple method for generating gamma
/// variables", 2000): small shapes give numbers that a double can't hold.
TRANSFERLIB_API double draw_log_gamma(Random& random, double shape);

/// A number from Beta(a, b), in [0, 1].
inline double draw_beta(Random& random, double a, double b) {
  const double x = draw_log_gamma(random, a), y = draw_log_gamma(random, b);
  return 1.0 / (1.0 + std::exp(y - x));
}

/// The rectangle of `CutMix`, and the part of the picture that it leaves: torchvision's `CutMix`, with the centre at
/// (x, y).
inline MixBox cut_box(Index height, Index width, double lambda, Index x, Index y) {
  const double r = 0.5 * std::sqrt(1.0 - lambda);
  const Index w = static_cast<Index>(r * static_cast<double>(width));
  const Index h = static_cast<Index>(r * static_cast<double>(height));
  return {std::max<Index>(x - w, 0), std::max<Index>(y - h, 0), std::min(x + w, width), std::min(y + h, height)};
}

/// What is left of a picture outside a box.
inline double part_outside(const MixBox& box, Index height, Index width) {
  return 1.0 -
         static_cast<double>((box.right - box.left) * (box.bottom - box.top)) / static_cast<double>(width * height);
}

/// Every row's neighbour: the row before, and the last one for the first.
inline Tensor neighbours(const Tensor& x) {
  const Index n = x.size(0);
  return n == 1 ? x.clone() : at::cat({x.narrow(0, n - 1, 1), x.narrow(0, 0, n - 1)});
}

inline Tensor blend(const Tensor& x, double lambda) { return neighbours(x).mul_(1.0 - lambda).add_(x.mul(lambda)); }

TRANSFERLIB_API Tensor cut(const Tensor& x, const MixBox& box);

inline void check_alpha(const char* name, double alpha) {
  if (!(alpha >= 1e-6 && alpha <= 1e6))
    throw OptionError(text(name, ": alpha must be in [1e-6, 1e6], not ", alpha, "; to mix nothing, leave it out"));
}

/// Labels as parts of classes (N, classes) float32.
TRANSFERLIB_API Tensor soft_labels(const Tensor& target, Index classes);

}  // namespace detail

/// Refuses numbers that can't be meant. \throws OptionError
TRANSFERLIB_API void check(const Mix& mix);

/// What is mixed, with all numbers: "mixup 0.2"; "none" for nothing.
TRANSFERLIB_API std::string to_string(const Mix& mix);

/// Mixes a batch whose pictures are the network's input: one block (N, C, H, W) of floats. Each picture is paired with
/// the one before it, the first with the last, as torchvision's `MixUp` and `CutMix` do: the order of a training is
/// drawn already, and no picture meets itself unless it is alone. For CutMix, lambda is the true part of the area.
/// \param batch its target, (N) int64 or (N, classes), becomes (N, classes) float32; what it was given is not written
/// to \throws OptionError, DataError
TRANSFERLIB_API void mix(Batch& batch, const Mix& mix, const MixDraw& draw);

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API double draw_log_gamma(Random& random, double shape) {
  if (shape < 1.0) {
    const double larger = draw_log_gamma(random, shape + 1.0);
    return larger + std::log(1.0 - random.uniform()) / shape;
  }
  const double d = shape - 1.0 / 3.0, c = 1.0 / std::sqrt(9.0 * d);
  for (;;) {
    const double x = random.normal(), root = 1.0 + c * x;
    if (root <= 0.0) continue;
    const double v = root * root * root;
    if (std::log(1.0 - random.uniform()) < 0.5 * x * x + d - d * v + d * std::log(v)) return std::log(d * v);
  }
}

TRANSFERLIB_API Tensor cut(const Tensor& x, const MixBox& box) {
  const auto inside = [&](const Tensor& t) {
    return t.narrow(2, box.top, box.bottom - box.top).narrow(3, box.left, box.right - box.left);
  };
  Tensor out = x.clone();
  inside(out).copy_(neighbours(inside(x)));
  return out;
}

TRANSFERLIB_API Tensor soft_labels(const Tensor& target, Index classes) {
  if (target.dim() == 2 && target.size(1) == classes) return target.to(at::kFloat);
  if (target.dim() != 1 || target.scalar_type() != at::kLong)
    throw DataError(text("MixUp and CutMix mix class indices, (N) int64, or parts of classes, (N, ", classes,
                         "); the target has ", target.dim(), " dimensions"));
  const Tensor low = target.min(), high = target.max();
  for (const Index label : {low.item<Index>(), high.item<Index>()})
    if (label < 0 || label >= classes)
      throw DataError(text("label ", label, " is out of range: there are ", classes, " classes"));
  return at::zeros({target.size(0), classes}, target.options().dtype(at::kFloat)).scatter_(1, target.unsqueeze(1), 1.0);
}

}  // namespace transferlib::detail

namespace transferlib {

TRANSFERLIB_API void check(const Mix& mix) {
  if (const auto* m = std::get_if<MixUp>(&mix)) detail::check_alpha("MixUp", m->alpha);
  if (const auto* c = std::get_if<CutMix>(&mix)) detail::check_alpha("CutMix", c->alpha);
  if (const auto* o = std::get_if<MixOrCut>(&mix)) {
    detail::check_alpha("MixUp", o->mix.alpha);
    detail::check_alpha("CutMix", o->cut.alpha);
    if (!(o->cut_probability >= 0.0 && o->cut_probability <= 1.0))
      throw OptionError(detail::text("MixOrCut: cut_probability must be in [0, 1], not ", o->cut_probability));
  }
}

TRANSFERLIB_API std::string to_string(const Mix& mix) {
  if (const auto* m = std::get_if<MixUp>(&mix)) return detail::text("mixup ", m->alpha);
  if (const auto* c = std::get_if<CutMix>(&mix)) return detail::text("cutmix ", c->alpha);
  if (const auto* o = std::get_if<MixOrCut>(&mix))
    return detail::text("mixup ", o->mix.alpha, " or cutmix ", o->cut.alpha, " at ", o->cut_probability);
  return "none";
}

TRANSFERLIB_API void mix(Batch& batch, const Mix& mix, const MixDraw& draw) {
  if (std::holds_alternative<std::monostate>(mix)) return;
  check(mix);
  if (batch.pictures.size() != 1 || batch.pictures[0].dim() != 4 || !batch.pictures[0].is_floating_point())
    throw DataError(
        detail::text("MixUp and CutMix work on what goes into the network, one block (N, C, H, W) of floats; "
                     "the batch has ",
                     batch.pictures.size(), " blocks"));
  detail::guarded("mixing pictures", [&] {
    Tensor& x = batch.pictures[0];
    if (x.size(0) == 0) return;
    Random random(draw.seed, Purpose::mix, static_cast<std::uint64_t>(draw.step));
    const auto* either = std::get_if<MixOrCut>(&mix);
    // Drawn whether it is needed or not, so that both recipes mix alike what they both mix.
    const bool cuts = random.uniform() < (either != nullptr ? either->cut_probability : 0.0);
    const auto* cut = either != nullptr ? (cuts ? &either->cut : nullptr) : std::get_if<CutMix>(&mix);
    const auto* blend = either != nullptr ? &either->mix : std::get_if<MixUp>(&mix);
    double lambda = 0.0;
    Tensor target = detail::soft_labels(batch.target, draw.classes);
    if (cut != nullptr) {
      const Index height = x.size(2), width = x.size(3);
      lambda = detail::draw_beta(random, cut->alpha, cut->alpha);
      const Index across = random.below(width), down = random.below(height);
      const auto box = detail::cut_box(height, width, lambda, across, down);
      lambda = detail::part_outside(box, height, width);
      x = detail::cut(x, box);
    } else {
      lambda = detail::draw_beta(random, blend->alpha, blend->alpha);
      x = detail::blend(x, lambda);
    }
    batch.target = detail::blend(target, lambda);
  });
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

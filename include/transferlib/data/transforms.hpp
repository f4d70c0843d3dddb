/// \file
/// Augmentation of batches of pictures, drawn from counter-based random numbers: what happens to a picture depends on
/// (seed, view, index) alone, never on what stands beside it in the batch, nor on threads.
///
/// Each transform works on pictures as the data set gives them, before `preprocess`, and takes every target that is
/// about the whole picture. None takes `Boxes`: the boxes would stay where they were.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <ATen/ATen.h>

#include <transferlib/core/concepts.hpp>
#include <transferlib/core/error.hpp>
#include <transferlib/core/guard.hpp>
#include <transferlib/core/parallel.hpp>
#include <transferlib/core/random.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/data/colour.hpp>
#include <transferlib/data/preprocess.hpp>

namespace transferlib {

/// Which of its `views` views a picture shows in an epoch: uniform, and a function of (seed, epoch, index) alone.
inline Index draw_view(Index views, std::uint64_t seed, Index epoch, Index index) {
  if (views <= 1) return 0;
  return Random(seed, Purpose::view, static_cast<std::uint64_t>(index), static_cast<std::uint32_t>(epoch)).below(views);
}

/// A target that holds for the picture as a whole, wherever its parts move.
template <class Target>
concept WholePicture =
    std::same_as<Target, ClassIndex> || std::same_as<Target, MultiLabel> || std::same_as<Target, Values>;

namespace detail {

inline void check_draws(const Batch& batch, std::span<const Draw> draws) {
  for (const Tensor& block : batch.pictures) check_pictures(block);
  if (batch.size() != static_cast<Index>(draws.size()))
    throw DataError(text("a transform needs one draw a picture: there are ", batch.size(), " pictures and ",
                         draws.size(), " draws"));
}

/// Calls `change(block, draws)` for each block of a batch with the draws of its pictures.
template <class Change>
void for_each_block(Batch& batch, std::span<const Draw> draws, const Change& change) {
  for (Tensor& block : batch.pictures) {
    const auto n = static_cast<std::size_t>(block.size(0));
    change(block, draws.first(n));
    draws = draws.subspan(n);
  }
}

inline Random augmentation(const Draw& draw) {
  return Random(draw.seed, Purpose::augment, static_cast<std::uint64_t>(draw.index),
                static_cast<std::uint32_t>(draw.view));
}

/// Neighbouring blocks of equal size become one.
TRANSFERLIB_API void join_blocks(Batch& batch);

/// The rectangle that a random resized crop keeps.
struct Crop {
  Index top = 0, left = 0, height = 0, width = 0;
};

/// torchvision's `RandomResizedCrop.get_params`: up to ten draws of area and aspect ratio, else the middle.
TRANSFERLIB_API Crop random_crop(Random& random, Index height, Index width, const std::array<double, 2>& scale,
                                 const std::array<double, 2>& ratio);

/// torchvision's `RandomErasing.make_params`: up to ten draws of area and aspect ratio, else nothing.
TRANSFERLIB_API std::optional<Crop> random_erasure(Random& random, Index height, Index width,
                                                   const std::array<double, 2>& scale,
                                                   const std::array<double, 2>& ratio);

/// The middle `height` x `width` of pictures, with black borders where they are smaller: torchvision's `center_crop`.
TRANSFERLIB_API Tensor centre_crop(const Tensor& block, Index height, Index width);

/// The sizes of pictures whose shorter side becomes `shorter`, as torchvision's `Resize`.
inline std::array<Index, 2> with_shorter_side(Index height, Index width, Index shorter) {
  return height <= width ? std::array<Index, 2>{shorter, shorter * width / height}
                         : std::array<Index, 2>{shorter * height / width, shorter};
}

inline void check_interval(const char* name, const std::array<double, 2>& interval, double least) {
  if (!(interval[0] > least && interval[0] <= interval[1] && std::isfinite(interval[1])))
    throw OptionError(
        text(name, " must be an interval {low, high} above ", least, ", not {", interval[0], ", ", interval[1], "}"));
}

/// The seed of part `number` of a composition: each draws its own numbers.
inline std::uint64_t part_seed(std::uint64_t seed, std::size_t number) {
  const auto bits = philox(seed, static_cast<std::uint64_t>(number), 0x636F6D706F7365ULL);
  return (static_cast<std::uint64_t>(bits[1]) << 32) | bits[0];
}

}  // namespace detail

/// Leaves the pictures as they are.
struct NoTransform {
  std::optional<Index> views() const { return 1; }
  std::string description() const { return "none"; }
  template <class Target>
  void operator()(Batch&, std::span<const Draw>, Target) const {}
};

/// Mirrors pictures: a finite set of 2 or 4 views, of which 0 is the picture as it is; each is drawn as often.
struct Flip {
  bool left_right = true;
  bool up_down = false;

  std::optional<Index> views() const { return (left_right ? 2 : 1) * (up_down ? 2 : 1); }
  std::string description() const { return detail::text("flip ", left_right ? "lr" : "", up_down ? "ud" : ""); }

  template <WholePicture Target>
  void operator()(Batch& batch, std::span<const Draw> draws, Target) const {
    apply(batch, draws);
  }

 private:
  void apply(Batch& batch, std::span<const Draw> draws) const;
};

/// Cuts a random rectangle and scales it to a square, as torchvision's `RandomResizedCrop` (antialiased). Its views are
/// continuous: one more for each number of a view.
struct RandomResizedCrop {
  Index size = 224;                               ///< of the square, in pixels
  std::array<double, 2> scale{0.08, 1.0};         ///< the part of the area that is kept
  std::array<double, 2> ratio{3.0 / 4, 4.0 / 3};  ///< width / height of what is kept, log-uniform
  Interpolation interpolation = Interpolation::bilinear;

  std::optional<Index> views() const { return std::nullopt; }
  std::string description() const {
    return detail::text("random resized crop ", size, " scale ", scale[0], " ", scale[1], " ratio ", ratio[0], " ",
                        ratio[1], " ", static_cast<int>(interpolation));
  }

  template <WholePicture Target>
  void operator()(Batch& batch, std::span<const Draw> draws, Target) const {
    apply(batch, draws);
  }

 private:
  void apply(Batch& batch, std::span<const Draw> draws) const;
};

/// Changes brightness, contrast, saturation and hue in a random order, as torchvision's `ColorJitter`: a factor uniform
/// in [max(0, 1 - x), 1 + x] for the first three, a turn of the hue uniform in [-hue, hue] of the circle. Its views are
/// continuous. Pictures of neither 1 nor 3 channels are refused.
struct ColourJitter {
  double brightness = 0.0;
  double contrast = 0.0;
  double saturation = 0.0;
  double hue = 0.0;  ///< at most 0.5

  std::optional<Index> views() const { return std::nullopt; }
  std::string description() const {
    return detail::text("colour jitter ", brightness, " ", contrast, " ", saturation, " ", hue);
  }

  template <WholePicture Target>
  void operator()(Batch& batch, std::span<const Draw> draws, Target) const {
    apply(batch, draws);
  }

 private:
  void apply(Batch& batch, std::span<const Draw> draws) const;

  template <class Value>
  void jitter(const detail::Planes<Value>& picture, const Draw& draw) const {
    Random random = detail::augmentation(draw);
    // Every number is drawn, wanted or not, so that one strength does not shift what another draws.
    std::array<int, 4> order{0, 1, 2, 3};
    for (std::size_t i = 3; i > 0; --i)
      std::swap(order[i], order[static_cast<std::size_t>(random.below(static_cast<Index>(i) + 1))]);
    std::array<double, 3> factor{};
    const std::array<double, 3> strength{brightness, contrast, saturation};
    for (std::size_t i = 0; i < 3; ++i) factor[i] = random.uniform(std::max(0.0, 1.0 - strength[i]), 1.0 + strength[i]);
    const double turn = random.uniform(-hue, hue);
    for (int what : order) {
      if (what == 0 && brightness > 0.0) detail::adjust_brightness(picture, factor[0]);
      if (what == 1 && contrast > 0.0) detail::adjust_contrast(picture, factor[1]);
      if (what == 2 && saturation > 0.0) detail::adjust_saturation(picture, factor[2]);
      if (what == 3 && hue > 0.0) detail::adjust_hue(picture, turn);
    }
  }
};

/// Covers a random rectangle of some pictures (Zhong et al., "Random Erasing Data Augmentation", 2020), as
/// torchvision's `RandomErasing`. Its views are continuous.
struct RandomErasing {
  double probability = 0.5;                 ///< of a picture being touched
  std::array<double, 2> scale{0.02, 0.33};  ///< the part of the area that is covered
  std::array<double, 2> ratio{0.3, 3.3};    ///< height / width of what is covered, log-uniform
  /// What it is covered with, red, green and blue in [0, 1]: ImageNet's mean, torchvision's 0 behind its normalisation.
  /// Pictures of other than 3 channels get the mean of the three.
  std::array<double, 3> colour{0.485, 0.456, 0.406};
  bool noise = false;  ///< a random number for each value instead, as the paper has it

  std::optional<Index> views() const { return std::nullopt; }
  std::string description() const {
    std::string out = detail::text("random erasing ", probability, " scale ", scale[0], " ", scale[1], " ratio ",
                                   ratio[0], " ", ratio[1]);
    return out + (noise ? std::string(" noise") : detail::text(" ", colour[0], " ", colour[1], " ", colour[2]));
  }

  template <WholePicture Target>
  void operator()(Batch& batch, std::span<const Draw> draws, Target) const {
    apply(batch, draws);
  }

 private:
  void apply(Batch& batch, std::span<const Draw> draws) const;

  /// \param picture (C, H, W)
  void erase(const Tensor& picture, Random random) const;
};

/// Cuts the middle square, with black borders where a picture is smaller: torchvision's `CenterCrop`. One view.
struct CentreCrop {
  Index size = 224;

  std::optional<Index> views() const { return 1; }
  std::string description() const { return detail::text("centre crop ", size); }

  template <WholePicture Target>
  void operator()(Batch& batch, std::span<const Draw> draws, Target) const {
    apply(batch, draws);
  }

 private:
  void apply(Batch& batch, std::span<const Draw> draws) const;
};

/// Scales pictures so that the shorter side has `size` pixels: torchvision's `Resize`, antialiased. One view.
struct Resize {
  Index size = 256;
  Interpolation interpolation = Interpolation::bilinear;

  std::optional<Index> views() const { return 1; }
  std::string description() const { return detail::text("resize ", size, " ", static_cast<int>(interpolation)); }

  template <WholePicture Target>
  void operator()(Batch& batch, std::span<const Draw> draws, Target) const {
    apply(batch, draws);
  }

 private:
  void apply(Batch& batch, std::span<const Draw> draws) const;
};

/// A transform of any type, for what is chosen at run time.
template <class Target>
requires(WholePicture<Target> || std::same_as<Target, Boxes>) class AnyTransform {
 public:
  AnyTransform() : AnyTransform(NoTransform{}) {}

  template <class T>
  requires(!std::same_as<T, AnyTransform> && TransformFor<T, Target>) AnyTransform(T transform)
      : views_(transform.views()) {
    if constexpr (requires { std::string(transform.description()); }) description_ = transform.description();
    run_ = [t = std::move(transform)](Batch& batch, std::span<const Draw> draws) { t(batch, draws, Target{}); };
  }

  std::optional<Index> views() const { return views_; }
  /// What is done, with all numbers; empty if a part can't tell.
  std::string description() const { return description_; }
  void operator()(Batch& batch, std::span<const Draw> draws, Target) const { run_(batch, draws); }

 private:
  std::optional<Index> views_;
  std::string description_;
  std::function<void(Batch&, std::span<const Draw>)> run_;
};

/// A continuous augmentation of which each picture has `count` views, drawn once from the same counters: what a frozen
/// network makes of them can be kept, and each epoch draws one of them. Made by `keep_views`.
template <class T>
class KeptViews {
 public:
  /// \throws OptionError
  KeptViews(T transform, Index count) : transform_(std::move(transform)), count_(count) {
    if (count < 1) throw OptionError(detail::text("keep_views: a picture has at least 1 view, not ", count));
  }
  std::optional<Index> views() const { return count_; }
  std::string description() const {
    if constexpr (requires { std::string(transform_.description()); })
      if (const std::string what = transform_.description(); !what.empty())
        return detail::text(count_, " views of ", what);
    return {};
  }
  template <class Target>
  requires TransformFor<T, Target>
  void operator()(Batch& batch, std::span<const Draw> draws, Target target) const { transform_(batch, draws, target); }

 private:
  T transform_;
  Index count_;
};

/// So many views of each picture, instead of another one each epoch.
template <class T>
KeptViews<T> keep_views(T transform, Index count) {
  return {std::move(transform), count};
}

/// Transforms one after the other. Its views are the product of the parts' where all are finite, and continuous
/// otherwise: then the parts with finite views draw theirs. Each part draws its own random numbers.
template <class... T>
class Compose {
  static_assert(((std::copyable<T> &&
                  requires(const T& t) {
                    { t.views() } -> std::same_as<std::optional<Index>>;
                  }) &&
                 ...),
                "transferlib: Compose: each part must be a transform: copyable, with views() and operator()(Batch&, "
                "draws, Target)");

 public:
  explicit Compose(T... parts) : parts_(std::move(parts)...) {}

  std::optional<Index> views() const {
    std::optional<Index> product = 1;
    each([&](const auto& part, std::size_t) {
      const auto views = part.views();
      product = product && views ? std::optional<Index>(*product * *views) : std::nullopt;
    });
    return product;
  }

  /// What is done, with all numbers; empty if a part can't tell.
  std::string description() const {
    std::string out;
    bool all = true;
    each([&](const auto& part, std::size_t) {
      if constexpr (requires { std::string(part.description()); }) {
        const std::string words = part.description();
        all = all && !words.empty();
        out += out.empty() ? words : "; " + words;
      } else {
        all = false;
      }
    });
    return all ? out : std::string();
  }

  template <class Target>
  requires(TransformFor<T, Target>&&...) void operator()(Batch& batch, std::span<const Draw> draws,
                                                         Target target) const {
    const bool finite = views().has_value();
    std::vector<Draw> own(draws.begin(), draws.end());
    Index divisor = 1;
    each([&](const auto& part, std::size_t number) {
      const auto views = part.views();
      for (std::size_t i = 0; i < own.size(); ++i) {
        const Draw& draw = draws[i];
        own[i].seed = detail::part_seed(draw.seed, number);
        own[i].view = !views   ? draw.view
                      : finite ? draw.view / divisor % *views
                               : draw_view(*views, own[i].seed, draw.view, draw.index);
      }
      if (views) divisor *= *views;
      part(batch, std::span<const Draw>(own), target);
    });
  }

 private:
  template <class Call>
  void each(const Call& call) const {
    std::apply(
        [&](const T&... part) {
          std::size_t number = 0;
          (call(part, number++), ...);
        },
        parts_);
  }

  std::tuple<T...> parts_;
};

template <class... T>
Compose(T...) -> Compose<T...>;

/// `compose(Flip{}, ColourJitter{.brightness = 0.2})`: see `Compose`.
template <class... T>
Compose<T...> compose(T... parts) {
  return Compose<T...>(std::move(parts)...);
}

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API void join_blocks(Batch& batch) {
  std::vector<Tensor> out, alike;
  const auto flush = [&] {
    if (!alike.empty()) out.push_back(alike.size() == 1 ? alike[0] : at::cat(alike));
    alike.clear();
  };
  for (const Tensor& block : batch.pictures) {
    if (!alike.empty() &&
        (alike[0].scalar_type() != block.scalar_type() || alike[0].sizes().slice(1) != block.sizes().slice(1)))
      flush();
    alike.push_back(block);
  }
  flush();
  batch.pictures = std::move(out);
}

TRANSFERLIB_API Crop random_crop(Random& random, Index height, Index width, const std::array<double, 2>& scale,
                                 const std::array<double, 2>& ratio) {
  const double area = static_cast<double>(height) * static_cast<double>(width);
  for (int attempt = 0; attempt < 10; ++attempt) {
    const double target = area * random.uniform(scale[0], scale[1]);
    const double aspect = std::exp(random.uniform(std::log(ratio[0]), std::log(ratio[1])));
    const auto w = static_cast<Index>(std::nearbyint(std::sqrt(target * aspect)));
    const auto h = static_cast<Index>(std::nearbyint(std::sqrt(target / aspect)));
    if (w < 1 || h < 1 || w > width || h > height) continue;
    const Index top = random.below(height - h + 1), left = random.below(width - w + 1);
    return {top, left, h, w};
  }
  const double own = static_cast<double>(width) / static_cast<double>(height);
  Index w = width, h = height;
  if (own < ratio[0])
    h = std::clamp<Index>(static_cast<Index>(std::nearbyint(static_cast<double>(w) / ratio[0])), 1, height);
  else if (own > ratio[1])
    w = std::clamp<Index>(static_cast<Index>(std::nearbyint(static_cast<double>(h) * ratio[1])), 1, width);
  return {(height - h) / 2, (width - w) / 2, h, w};
}

TRANSFERLIB_API std::optional<Crop> random_erasure(Random& random, Index height, Index width,
                                                   const std::array<double, 2>& scale,
                                                   const std::array<double, 2>& ratio) {
  const double area = static_cast<double>(height) * static_cast<double>(width);
  for (int attempt = 0; attempt < 10; ++attempt) {
    const double target = area * random.uniform(scale[0], scale[1]);
    const double aspect = std::exp(random.uniform(std::log(ratio[0]), std::log(ratio[1])));
    const auto h = static_cast<Index>(std::nearbyint(std::sqrt(target * aspect)));
    const auto w = static_cast<Index>(std::nearbyint(std::sqrt(target / aspect)));
    if (h >= height || w >= width) continue;
    const Index top = random.below(height - h + 1), left = random.below(width - w + 1);
    return Crop{top, left, h, w};
  }
  return std::nullopt;
}

TRANSFERLIB_API Tensor centre_crop(const Tensor& block, Index height, Index width) {
  const Index more_h = std::max<Index>(height - block.size(2), 0), more_w = std::max<Index>(width - block.size(3), 0);
  Tensor x = block;
  if (more_h > 0 || more_w > 0)
    x = at::constant_pad_nd(x, {more_w / 2, (more_w + 1) / 2, more_h / 2, (more_h + 1) / 2}, 0);
  return x.narrow(2, half_to_even(x.size(2) - height), height).narrow(3, half_to_even(x.size(3) - width), width);
}

}  // namespace transferlib::detail

namespace transferlib {

TRANSFERLIB_API void Flip::apply(Batch& batch, std::span<const Draw> draws) const {
  detail::check_draws(batch, draws);
  if (!left_right && !up_down) return;
  detail::guarded("flipping pictures", [&] {
    detail::for_each_block(batch, draws, [&](Tensor& block, std::span<const Draw> own) {
      // Per kind of flip one indexed copy of all pictures that show it.
      std::array<std::vector<Index>, 4> shown;
      for (Index i = 0; i < block.size(0); ++i) {
        const Index view = own[static_cast<std::size_t>(i)].view % *views();
        const Index lr = left_right ? view % 2 : 0, ud = up_down ? view / (left_right ? 2 : 1) % 2 : 0;
        shown[static_cast<std::size_t>(lr + 2 * ud)].push_back(i);
      }
      if (static_cast<Index>(shown[0].size()) == block.size(0)) return;
      Tensor out = block.clone();
      for (std::size_t kind = 1; kind < 4; ++kind) {
        if (shown[kind].empty()) continue;
        const Tensor ids = at::tensor(shown[kind], at::kLong);
        const Tensor part = block.index_select(0, ids);
        out.index_copy_(0, ids, kind == 1 ? part.flip({3}) : kind == 2 ? part.flip({2}) : part.flip({2, 3}));
      }
      block = out;
    });
  });
}

TRANSFERLIB_API void RandomResizedCrop::apply(Batch& batch, std::span<const Draw> draws) const {
  detail::check_draws(batch, draws);
  if (size < 1) throw OptionError(detail::text("a crop must have at least 1 pixel a side, not ", size));
  detail::check_interval("scale", scale, 0.0);
  detail::check_interval("ratio", ratio, 0.0);
  detail::guarded("cropping pictures", [&] {
    detail::for_each_block(batch, draws, [&](Tensor& block, std::span<const Draw> own) {
      Tensor out = at::empty({block.size(0), block.size(1), size, size},
                             block.options().memory_format(at::MemoryFormat::ChannelsLast));
      detail::for_each_in_parallel(block.size(0), [&](Index i) {
        const at::AutoDispatchBelowADInplaceOrView below;
        Random random = detail::augmentation(own[static_cast<std::size_t>(i)]);
        const auto crop = detail::random_crop(random, block.size(2), block.size(3), scale, ratio);
        Tensor x = block.narrow(0, i, 1).narrow(2, crop.top, crop.height).narrow(3, crop.left, crop.width);
        x = x.contiguous(at::MemoryFormat::ChannelsLast);
        if (crop.height != size || crop.width != size) x = detail::resize_block(x, size, size, interpolation);
        out.narrow(0, i, 1).copy_(x);
      });
      block = out;
    });
    detail::join_blocks(batch);
  });
}

TRANSFERLIB_API void ColourJitter::apply(Batch& batch, std::span<const Draw> draws) const {
  detail::check_draws(batch, draws);
  for (double x : {brightness, contrast, saturation, hue})
    if (!(x >= 0.0 && std::isfinite(x)))
      throw OptionError(detail::text("the strengths of a colour jitter must not be negative; one is ", x));
  if (hue > 0.5) throw OptionError(detail::text("hue must be at most 0.5 of the circle, not ", hue));
  for (const Tensor& block : batch.pictures)
    if (block.size(1) != 1 && block.size(1) != 3)
      throw DataError(detail::text("colours can be changed in pictures of 1 or 3 channels, not ", block.size(1)));
  detail::guarded("changing colours", [&] {
    detail::for_each_block(batch, draws, [&](Tensor& block, std::span<const Draw> own) {
      Tensor out = block.clone(at::MemoryFormat::Contiguous);
      const Index pixels = out.size(2) * out.size(3), channels = out.size(1);
      const auto each = [&](auto* data) {
        detail::for_each_in_parallel(out.size(0), [&](Index i) {
          jitter(detail::Planes<std::remove_pointer_t<decltype(data)>>{data + i * channels * pixels, channels, pixels},
                 own[static_cast<std::size_t>(i)]);
        });
      };
      if (out.scalar_type() == at::kByte)
        each(out.mutable_data_ptr<std::uint8_t>());
      else
        each(out.mutable_data_ptr<float>());
      block = out;
    });
  });
}

TRANSFERLIB_API void RandomErasing::apply(Batch& batch, std::span<const Draw> draws) const {
  detail::check_draws(batch, draws);
  if (!(probability >= 0.0 && probability <= 1.0))
    throw OptionError(detail::text("the probability of erasing must be in [0, 1], not ", probability));
  detail::check_interval("scale", scale, 0.0);
  if (scale[1] > 1.0) throw OptionError(detail::text("scale is a part of the area, at most 1, not ", scale[1]));
  detail::check_interval("ratio", ratio, 0.0);
  for (double c : colour)
    if (!(c >= 0.0 && c <= 1.0)) throw OptionError(detail::text("a colour must be in [0, 1]; one is ", c));
  detail::guarded("erasing parts of pictures", [&] {
    detail::for_each_block(batch, draws, [&](Tensor& block, std::span<const Draw> own) {
      Tensor out = block.clone();
      detail::for_each_in_parallel(block.size(0), [&](Index i) {
        const at::AutoDispatchBelowADInplaceOrView below;
        erase(out.select(0, i), detail::augmentation(own[static_cast<std::size_t>(i)]));
      });
      block = out;
    });
  });
}

TRANSFERLIB_API void RandomErasing::erase(const Tensor& picture, Random random) const {
  if (random.uniform() >= probability) return;
  const auto box = detail::random_erasure(random, picture.size(1), picture.size(2), scale, ratio);
  if (!box) return;
  const Index channels = picture.size(0);
  Tensor cover = at::empty({channels, noise ? box->height : 1, noise ? box->width : 1}, at::kFloat);
  float* p = cover.mutable_data_ptr<float>();
  if (noise)
    std::generate(p, p + cover.numel(), [&] { return static_cast<float>(random.uniform()); });
  else
    for (std::size_t c = 0; c < static_cast<std::size_t>(channels); ++c)
      p[c] = static_cast<float>(channels == 3 ? colour[c] : (colour[0] + colour[1] + colour[2]) / 3.0);
  if (picture.scalar_type() == at::kByte) cover = cover.mul(255.0).round();
  picture.narrow(1, box->top, box->height).narrow(2, box->left, box->width).copy_(cover);
}

TRANSFERLIB_API void CentreCrop::apply(Batch& batch, std::span<const Draw> draws) const {
  detail::check_draws(batch, draws);
  if (size < 1) throw OptionError(detail::text("a crop must have at least 1 pixel a side, not ", size));
  detail::guarded("cropping pictures", [&] {
    for (Tensor& block : batch.pictures) block = detail::centre_crop(block, size, size);
    detail::join_blocks(batch);
  });
}

TRANSFERLIB_API void Resize::apply(Batch& batch, std::span<const Draw> draws) const {
  detail::check_draws(batch, draws);
  if (size < 1) throw OptionError(detail::text("pictures can't be resized to ", size, " pixels"));
  for (Tensor& block : batch.pictures) {
    const auto to = detail::with_shorter_side(block.size(2), block.size(3), size);
    block = resize(block, to[0], to[1], interpolation);
  }
  detail::guarded("resizing pictures", [&] { detail::join_blocks(batch); });
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

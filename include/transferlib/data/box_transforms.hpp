/// \file
/// Augmentation of pictures with boxes: what moves a picture moves its boxes by the same numbers. Drawn from
/// counter-based random numbers as the transforms of transforms.hpp are, and composed by the same `compose`.
///
/// All work on uint8 pictures as the data set gives them, before they are brought to a network's size. Pixels fill
/// squares: the picture reaches from (0, 0) to (width, height), and so do boxes. What a transform brings in from
/// outside of a picture is grey (`fill`).
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
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
#include <transferlib/data/mix.hpp>
#include <transferlib/data/preprocess.hpp>
#include <transferlib/data/transforms.hpp>

namespace transferlib {

namespace detail {

struct LabelledBox {
  float label = 0.0F;
  std::array<double, 4> box{};  ///< x1, y1, x2, y2 in pixels
};

/// One picture and its boxes.
struct BoxPicture {
  Tensor pixels;  ///< (H, W, C) uint8, contiguous; perhaps somebody else's: not to be written
  std::vector<LabelledBox> boxes;

  Index height() const { return pixels.size(0); }
  Index width() const { return pixels.size(1); }
  Index channels() const { return pixels.size(2); }
  const std::uint8_t* data() const { return pixels.const_data_ptr<std::uint8_t>(); }
};

/// The pictures of a batch one by one. \throws DataError for pictures that are not uint8, or boxes that don't fit them
TRANSFERLIB_API std::vector<BoxPicture> take_apart(const Batch& batch);

/// The inverse of `take_apart`; each picture a block of its own.
TRANSFERLIB_API void put_together(Batch& batch, const std::vector<BoxPicture>& pictures);

/// Calls `change(picture, random)` for each picture of a batch with its own random numbers, on all threads.
template <class Change>
void change_pictures(Batch& batch, std::span<const Draw> draws, std::string_view doing, const Change& change) {
  check_draws(batch, draws);
  guarded(doing, [&] {
    std::vector<BoxPicture> pictures = take_apart(batch);
    for_each_in_parallel(static_cast<Index>(pictures.size()), [&](Index i) {
      const at::AutoDispatchBelowADInplaceOrView below;
      Random random = augmentation(draws[static_cast<std::size_t>(i)]);
      change(pictures[static_cast<std::size_t>(i)], random);
    });
    put_together(batch, pictures);
  });
}

}  // namespace detail

/// Which boxes stay when a picture is cut: those of which enough is left.
struct KeepBoxes {
  double visible = 0.1;  ///< the least part of a box's area that must be inside of the picture, in [0, 1]
  double side = 2.0;     ///< the least width and height that are left, in pixels
};

namespace detail {

inline void check_keep(const KeepBoxes& keep) {
  if (!(keep.visible >= 0.0 && keep.visible <= 1.0))
    throw OptionError(text("keep.visible must lie in [0, 1], not ", keep.visible));
  if (!(keep.side >= 0.0 && std::isfinite(keep.side)))
    throw OptionError(text("keep.side must not be negative, but is ", keep.side));
}
inline std::string to_string(const KeepBoxes& keep) { return text(" keep ", keep.visible, " ", keep.side); }

inline void check_fill(Index fill) {
  if (fill < 0 || fill > 255) throw OptionError(text("fill must lie in 0 … 255, not ", fill));
}

inline void check_part(const char* name, double part) {
  if (!(part >= 0.0 && part <= 1.0)) throw OptionError(text(name, " must lie in [0, 1], not ", part));
}

/// Moves boxes by `move(box)`, cuts them at the picture's borders and leaves out those of which too little is left.
template <class Move>
void move_boxes(std::vector<LabelledBox>& boxes, Index width, Index height, const KeepBoxes& keep, const Move& move) {
  std::vector<LabelledBox> out;
  const auto w = static_cast<double>(width), h = static_cast<double>(height);
  for (const LabelledBox& b : boxes) {
    const std::array<double, 4> moved = move(b.box);
    const std::array<double, 4> cut{std::clamp(moved[0], 0.0, w), std::clamp(moved[1], 0.0, h),
                                    std::clamp(moved[2], 0.0, w), std::clamp(moved[3], 0.0, h)};
    const double wide = cut[2] - cut[0], high = cut[3] - cut[1];
    const double all = (moved[2] - moved[0]) * (moved[3] - moved[1]);
    if (wide > 0.0 && high > 0.0 && wide >= keep.side && high >= keep.side && wide * high >= keep.visible * all)
      out.push_back({b.label, cut});
  }
  boxes = std::move(out);
}

inline Tensor filled(Index height, Index width, Index channels, Index fill) {
  Tensor out = at::empty({height, width, channels}, at::kByte);
  std::memset(out.mutable_data_ptr<std::uint8_t>(), static_cast<int>(fill), static_cast<std::size_t>(out.numel()));
  return out;
}

/// Copies what fits of a picture onto a canvas, its left top corner at (left, top).
TRANSFERLIB_API void paste(const BoxPicture& from, Tensor& canvas, Index left, Index top);

/// A picture scaled, antialiased, with its boxes.
TRANSFERLIB_API void scale_picture(BoxPicture& p, Index width, Index height);

}  // namespace detail

/// Mirrors pictures with their boxes: a finite set of 2 or 4 views, as `Flip`.
struct BoxFlip {
  bool left_right = true;
  bool up_down = false;

  std::optional<Index> views() const { return (left_right ? 2 : 1) * (up_down ? 2 : 1); }
  std::string description() const { return detail::text("box flip ", left_right ? "lr" : "", up_down ? "ud" : ""); }

  void operator()(Batch& batch, std::span<const Draw> draws, Boxes) const {
    detail::check_draws(batch, draws);
    detail::guarded("flipping pictures", [&] {
      auto pictures = detail::take_apart(batch);
      for (std::size_t i = 0; i < pictures.size(); ++i) {
        detail::BoxPicture& p = pictures[i];
        const Index view = draws[i].view % *views();
        const bool lr = left_right && view % 2 == 1, ud = up_down && view / (left_right ? 2 : 1) % 2 == 1;
        if (!lr && !ud) continue;
        p.pixels = lr && ud ? p.pixels.flip({0, 1}) : p.pixels.flip({lr ? 1 : 0});
        const auto w = static_cast<double>(p.width()), h = static_cast<double>(p.height());
        for (detail::LabelledBox& b : p.boxes) {
          if (lr) b.box = {w - b.box[2], b.box[1], w - b.box[0], b.box[3]};
          if (ud) b.box = {b.box[0], h - b.box[3], b.box[2], h - b.box[1]};
        }
      }
      detail::put_together(batch, pictures);
    });
  }
};

/// Changes hue, saturation and value of pictures of three channels, as darknet and ultralytics do: a turn of the hue
/// uniform in [-hue, hue] of the circle; saturation and value times factors uniform in [1 - x, 1 + x]. Grey pictures
/// get the value's factor alone. Boxes stay. Its views are continuous.
struct HsvJitter {
  double hue = 0.015;  ///< at most 0.5
  double saturation = 0.7;
  double value = 0.4;

  std::optional<Index> views() const { return std::nullopt; }
  std::string description() const { return detail::text("hsv jitter ", hue, " ", saturation, " ", value); }

  void operator()(Batch& batch, std::span<const Draw> draws, Boxes) const {
    if (!(hue >= 0.0 && hue <= 0.5)) throw OptionError(detail::text("hue must lie in [0, 0.5], not ", hue));
    detail::check_part("saturation", saturation);
    detail::check_part("value", value);
    detail::change_pictures(batch, draws, "changing colours", [&](detail::BoxPicture& p, Random& random) {
      const auto turn = static_cast<float>(random.uniform(-hue, hue));
      const auto s = static_cast<float>(random.uniform(1.0 - saturation, 1.0 + saturation));
      const auto v = static_cast<float>(random.uniform(1.0 - value, 1.0 + value));
      Tensor out = at::empty_like(p.pixels);
      change(p.data(), out.mutable_data_ptr<std::uint8_t>(), p.pixels.numel(), p.channels(), turn, s, v);
      p.pixels = out;
    });
  }

 private:
  static std::uint8_t byte(float x) { return static_cast<std::uint8_t>(std::min(x, 255.0F) + 0.5F); }

  static void change(const std::uint8_t* from, std::uint8_t* to, Index size, Index channels, float turn, float more_s,
                     float more_v);
};

/// Moves, scales, turns, shears and tilts pictures, as ultralytics' `random_perspective`: around the middle, sampled
/// bilinearly. A box becomes the smallest upright one around its four moved corners. Its views are continuous.
struct BoxAffine {
  double degrees = 0.0;      ///< turned by up to so many, either way
  double translate = 0.1;    ///< moved by up to this part of the sides, either way
  double scale = 0.5;        ///< times a factor uniform in [1 - scale, 1 + scale]
  double shear = 0.0;        ///< degrees, along each axis
  double perspective = 0.0;  ///< how much farther or nearer the borders are than the middle; at most 0.4
  Index size = 0;            ///< the side of the square that comes out, around the picture's middle; 0: the picture's
  bool stretch = false;      ///< to that square the picture is stretched first, as `Fit::stretch` would afterwards
  Index fill = 114;
  KeepBoxes keep{};

  std::optional<Index> views() const { return std::nullopt; }
  std::string description() const {
    return detail::text("box affine ", degrees, " ", translate, " ", scale, " ", shear, " ", perspective, " size ",
                        size, stretch ? " stretched" : "", " fill ", fill, detail::to_string(keep));
  }

  void operator()(Batch& batch, std::span<const Draw> draws, Boxes) const {
    detail::check_keep(keep);
    detail::check_fill(fill);
    for (const double x : {degrees, shear, translate})
      if (!(x >= 0.0 && std::isfinite(x)))
        throw OptionError(detail::text("the strengths of an affine transform must not be negative; one is ", x));
    if (shear > 45.0) throw OptionError(detail::text("shear must be at most 45 degrees, not ", shear));
    if (!(scale >= 0.0 && scale < 1.0)) throw OptionError(detail::text("scale must lie in [0, 1), not ", scale));
    if (!(perspective >= 0.0 && perspective <= 0.4))
      throw OptionError(detail::text("perspective must lie in [0, 0.4], not ", perspective));
    if (size < 0) throw OptionError(detail::text("size must be 0 or more pixels, not ", size));
    if (stretch && size == 0) throw OptionError("a picture is stretched to a square; give its size");
    detail::change_pictures(batch, draws, "moving pictures", [&](detail::BoxPicture& p, Random& random) {
      const Index width = size > 0 ? size : p.width(), height = size > 0 ? size : p.height();
      Matrix m = draw(random, p.width(), p.height(), stretch ? p.width() : width, stretch ? p.height() : height);
      if (stretch) {
        const auto part = [&](Index side) { return static_cast<double>(size) / static_cast<double>(side); };
        m = product({part(p.width()), 0, 0, 0, part(p.height()), 0, 0, 0, 1}, m);
      }
      p.pixels = warp(p, inverse(m), width, height);
      detail::move_boxes(p.boxes, width, height, keep, [&](const std::array<double, 4>& b) {
        std::array<double, 4> out{1e30, 1e30, -1e30, -1e30};
        for (const double x : {b[0], b[2]})
          for (const double y : {b[1], b[3]}) {
            const double w = m[6] * x + m[7] * y + m[8];
            const double u = (m[0] * x + m[1] * y + m[2]) / w, v = (m[3] * x + m[4] * y + m[5]) / w;
            out = {std::min(out[0], u), std::min(out[1], v), std::max(out[2], u), std::max(out[3], v)};
          }
        return out;
      });
    });
  }

 private:
  using Matrix = std::array<double, 9>;  ///< rows of a homography

  static Matrix product(const Matrix& a, const Matrix& b);
  /// Up to a factor, which a homography does not mind.
  static Matrix inverse(const Matrix& m) {
    return {m[4] * m[8] - m[5] * m[7], m[2] * m[7] - m[1] * m[8], m[1] * m[5] - m[2] * m[4],
            m[5] * m[6] - m[3] * m[8], m[0] * m[8] - m[2] * m[6], m[2] * m[3] - m[0] * m[5],
            m[3] * m[7] - m[4] * m[6], m[1] * m[6] - m[0] * m[7], m[0] * m[4] - m[1] * m[3]};
  }

  /// From the picture's points to those of what comes out.
  Matrix draw(Random& random, Index from_width, Index from_height, Index width, Index height) const;

  /// \param m from the points of what comes out to the picture's
  Tensor warp(const detail::BoxPicture& p, const Matrix& m, Index width, Index height) const;
};

/// Moves each side of a picture in or out by up to `jitter` of the picture's side, as darknet's `jitter`; what comes in
/// from outside is grey. Its views are continuous.
struct BoxCrop {
  double jitter = 0.2;  ///< below 0.5
  Index fill = 114;
  KeepBoxes keep{};

  std::optional<Index> views() const { return std::nullopt; }
  std::string description() const { return detail::text("box crop ", jitter, " fill ", fill, detail::to_string(keep)); }

  void operator()(Batch& batch, std::span<const Draw> draws, Boxes) const {
    detail::check_keep(keep);
    detail::check_fill(fill);
    if (!(jitter >= 0.0 && jitter < 0.5)) throw OptionError(detail::text("jitter must lie in [0, 0.5), not ", jitter));
    detail::change_pictures(batch, draws, "cropping pictures", [&](detail::BoxPicture& p, Random& random) {
      const auto side = [&](Index length) {
        return static_cast<Index>(std::nearbyint(random.uniform(-jitter, jitter) * static_cast<double>(length)));
      };
      const Index left = side(p.width()), right = side(p.width()), top = side(p.height()), bottom = side(p.height());
      const Index width = std::max<Index>(p.width() - left - right, 1);
      const Index height = std::max<Index>(p.height() - top - bottom, 1);
      Tensor canvas = detail::filled(height, width, p.channels(), fill);
      detail::paste(p, canvas, -left, -top);
      p.pixels = canvas;
      const auto x = static_cast<double>(left), y = static_cast<double>(top);
      detail::move_boxes(p.boxes, width, height, keep, [&](const std::array<double, 4>& b) {
        return std::array<double, 4>{b[0] - x, b[1] - y, b[2] - x, b[3] - y};
      });
    });
  }
};

namespace detail {

template <class D>
concept BoxDataset = Dataset<D> && std::same_as<typename D::Target, Boxes>;

/// Which pictures of a batch are touched, and with which others of a data set.
struct Partners {
  std::vector<std::optional<std::size_t>> first;  ///< by picture of the batch: where its partners begin; or untouched
  std::vector<Index> ids;                         ///< of all partners
  std::vector<Random> random;                     ///< by picture of the batch: to draw the rest from
};

TRANSFERLIB_API Partners draw_partners(std::span<const Draw> draws, double probability, Index count, Index size);

inline void check_channels(const BoxPicture& a, const BoxPicture& b) {
  if (a.channels() != b.channels())
    throw DataError(text("pictures of ", a.channels(), " and of ", b.channels(),
                         " channels can't be put together; give all as many"));
}

}  // namespace detail

/// How four pictures become one.
struct MosaicOptions {
  Index size = 640;                          ///< the side of the canvas in pixels, at least 2
  double probability = 1.0;                  ///< of a picture becoming a mosaic; else it stays as it is
  std::array<double, 2> centre{0.25, 0.75};  ///< where the four meet, as part of the side, uniform
  Index fill = 114;
  KeepBoxes keep{};
};

/// Puts four pictures together, as YOLOv4 and ultralytics do: the picture and three others of `data`, each scaled so
/// that its longer side is half of the canvas's, with a corner where the four meet; what reaches beyond the canvas is
/// cut. To zoom into it, as ultralytics does, make the canvas twice the network's size and go on with `BoxAffine{.size
/// = the network's}`. `data` must outlive it. Its views are continuous.
template <class D>
class Mosaic {
  static_assert(detail::BoxDataset<D>, "transferlib: Mosaic: it needs a Dataset whose Target is Boxes");

 public:
  using Options = MosaicOptions;

  explicit Mosaic(const D& data, const Options& options = {}) : data_(&data), options_(options) {
    detail::check_keep(options.keep);
    detail::check_fill(options.fill);
    detail::check_part("probability", options.probability);
    detail::check_interval("centre", {options.centre[0] + 1.0, options.centre[1] + 1.0}, 0.0);
    for (const double c : options.centre) detail::check_part("centre", c);
    if (options.size < 2) throw OptionError(detail::text("a mosaic needs 2 pixels a side, not ", options.size));
    if (data.size() < 1) throw DataError("a mosaic needs pictures, but the data set has none");
  }
  explicit Mosaic(const D&& data, const Options& options = {}) = delete;

  std::optional<Index> views() const { return std::nullopt; }
  std::string description() const {
    const Options& o = options_;
    return detail::text("mosaic ", o.size, " ", o.probability, " centre ", o.centre[0], " ", o.centre[1], " fill ",
                        o.fill, detail::to_string(o.keep));
  }

  void operator()(Batch& batch, std::span<const Draw> draws, Boxes) const {
    detail::check_draws(batch, draws);
    const auto partners = detail::draw_partners(draws, options_.probability, 3, data_->size());
    if (partners.ids.empty()) return;
    const Batch others = data_->batch(partners.ids);
    detail::guarded("making mosaics", [&] {
      std::vector<detail::BoxPicture> pictures = detail::take_apart(batch);
      std::vector<detail::BoxPicture> around = detail::take_apart(others);
      detail::for_each_in_parallel(static_cast<Index>(pictures.size()), [&](Index i) {
        const at::AutoDispatchBelowADInplaceOrView below;
        const auto at = static_cast<std::size_t>(i);
        if (!partners.first[at]) return;
        detail::BoxPicture* const three = &around[*partners.first[at]];
        pictures[at] = join({&pictures[at], three, three + 1, three + 2}, partners.random[at], options_);
      });
      detail::put_together(batch, pictures);
    });
  }

 private:
  static detail::BoxPicture join(std::array<detail::BoxPicture*, 4> pictures, Random random, const Options& o) {
    const auto place = [&] {
      const double part = random.uniform(o.centre[0], o.centre[1]);
      return static_cast<Index>(std::nearbyint(part * static_cast<double>(o.size)));
    };
    const Index x = place(), y = place();
    std::swap(pictures[0], pictures[static_cast<std::size_t>(random.below(4))]);
    detail::BoxPicture out{detail::filled(o.size, o.size, pictures[0]->channels(), o.fill), {}};
    for (std::size_t k = 0; k < 4; ++k) {
      detail::BoxPicture& p = *pictures[k];
      detail::check_channels(p, *pictures[0]);
      const double ratio = static_cast<double>(o.size / 2) / static_cast<double>(std::max(p.width(), p.height()));
      const auto side = [&](Index length) {
        return std::max<Index>(1, static_cast<Index>(std::nearbyint(static_cast<double>(length) * ratio)));
      };
      detail::scale_picture(p, side(p.width()), side(p.height()));
      const bool right = k % 2 == 1, below = k >= 2;
      const Index left = right ? x : x - p.width(), top = below ? y : y - p.height();
      detail::paste(p, out.pixels, left, top);
      const auto dx = static_cast<double>(left), dy = static_cast<double>(top);
      detail::move_boxes(p.boxes, o.size, o.size, o.keep, [&](const std::array<double, 4>& b) {
        return std::array<double, 4>{b[0] + dx, b[1] + dy, b[2] + dx, b[3] + dy};
      });
      out.boxes.insert(out.boxes.end(), p.boxes.begin(), p.boxes.end());
    }
    return out;
  }

  const D* data_;
  Options options_;
};

template <class D>
Mosaic(const D&) -> Mosaic<D>;
template <class D>
Mosaic(const D&, const MosaicOptions&) -> Mosaic<D>;

/// How two pictures are laid over each other.
struct BoxMixUpOptions {
  double probability = 0.15;  ///< of a picture being touched
  double alpha = 32.0;        ///< the part of the first picture is drawn from Beta(alpha, alpha)
  Index fill = 114;
};

/// Lays another picture of `data` over each, as YOLOX and ultralytics do: their mean with weights r and 1 - r, and the
/// boxes of both. The other is transformed by `other` first (a mosaic, say), and fitted into the first picture's size
/// where it has another. `data` must outlive it. Its views are continuous.
template <class D, class T = NoTransform>
class BoxMixUp {
  static_assert(detail::BoxDataset<D>, "transferlib: BoxMixUp: it needs a Dataset whose Target is Boxes");
  static_assert(TransformFor<T, Boxes>, "transferlib: BoxMixUp: the other picture's transform must take Boxes");

 public:
  using Options = BoxMixUpOptions;

  explicit BoxMixUp(const D& data, const Options& options = {}, T other = {})
      : data_(&data), options_(options), other_(std::move(other)) {
    detail::check_fill(options.fill);
    detail::check_part("probability", options.probability);
    if (!(options.alpha > 0.0 && std::isfinite(options.alpha)))
      throw OptionError(detail::text("alpha must be above 0, not ", options.alpha));
    if (data.size() < 1) throw DataError("mixing pictures needs some, but the data set has none");
  }
  explicit BoxMixUp(const D&& data, const Options& options = {}, T other = {}) = delete;

  std::optional<Index> views() const { return std::nullopt; }
  std::string description() const {
    std::string other;
    if constexpr (requires { std::string(other_.description()); }) other = other_.description();
    if (other.empty()) return {};
    return detail::text("box mixup ", options_.probability, " ", options_.alpha, " fill ", options_.fill, " with (",
                        other, ")");
  }

  void operator()(Batch& batch, std::span<const Draw> draws, Boxes) const {
    detail::check_draws(batch, draws);
    const auto partners = detail::draw_partners(draws, options_.probability, 1, data_->size());
    if (partners.ids.empty()) return;
    Batch others = data_->batch(partners.ids);
    // The other picture's transform draws its own numbers.
    std::vector<Draw> own;
    for (std::size_t i = 0; i < draws.size(); ++i) {
      if (!partners.first[i]) continue;
      const std::uint64_t seed = detail::part_seed(draws[i].seed, 0x6D6978);
      const auto views = other_.views();
      own.push_back(
          {seed, views ? draw_view(*views, seed, draws[i].view, draws[i].index) : draws[i].view, draws[i].index});
    }
    other_(others, own, Boxes{});
    detail::guarded("mixing pictures", [&] {
      std::vector<detail::BoxPicture> pictures = detail::take_apart(batch), over = detail::take_apart(others);
      detail::for_each_in_parallel(static_cast<Index>(pictures.size()), [&](Index i) {
        const at::AutoDispatchBelowADInplaceOrView below;
        const auto at = static_cast<std::size_t>(i);
        if (!partners.first[at]) return;
        Random random = partners.random[at];
        mix(pictures[at], over[*partners.first[at]], detail::draw_beta(random, options_.alpha, options_.alpha));
      });
      detail::put_together(batch, pictures);
    });
  }

 private:
  void mix(detail::BoxPicture& p, detail::BoxPicture& over, double part) const {
    detail::check_channels(p, over);
    const Index width = p.width(), height = p.height();
    if (over.width() != width || over.height() != height) {
      const double ratio = std::min(static_cast<double>(width) / static_cast<double>(over.width()),
                                    static_cast<double>(height) / static_cast<double>(over.height()));
      const auto side = [&](Index length, Index most) {
        return std::clamp<Index>(static_cast<Index>(std::nearbyint(static_cast<double>(length) * ratio)), 1, most);
      };
      detail::scale_picture(over, side(over.width(), width), side(over.height(), height));
      Tensor canvas = detail::filled(height, width, p.channels(), options_.fill);
      const Index left = (width - over.width()) / 2, top = (height - over.height()) / 2;
      detail::paste(over, canvas, left, top);
      over.pixels = canvas;
      const auto x = static_cast<double>(left), y = static_cast<double>(top);
      for (auto& b : over.boxes) b.box = {b.box[0] + x, b.box[1] + y, b.box[2] + x, b.box[3] + y};
    }
    const auto first = static_cast<int>(part * 65536.0), second = 65536 - first;
    Tensor out = at::empty_like(p.pixels);
    auto* to = out.mutable_data_ptr<std::uint8_t>();
    const std::uint8_t *a = p.data(), *b = over.data();
    for (Index i = 0; i < out.numel(); ++i)
      to[i] = static_cast<std::uint8_t>((first * a[i] + second * b[i] + (1 << 15)) >> 16);
    p.pixels = out;
    p.boxes.insert(p.boxes.end(), over.boxes.begin(), over.boxes.end());
  }

  const D* data_;
  Options options_;
  T other_;
};

template <class D>
BoxMixUp(const D&) -> BoxMixUp<D>;
template <class D>
BoxMixUp(const D&, const BoxMixUpOptions&) -> BoxMixUp<D>;
template <class D, class T>
BoxMixUp(const D&, const BoxMixUpOptions&, T) -> BoxMixUp<D, T>;

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API std::vector<BoxPicture> take_apart(const Batch& batch) {
  const Index n = batch.size();
  if (!batch.target.defined() || batch.target.dim() != 2 || batch.target.size(1) != 5 ||
      batch.target.scalar_type() != at::kFloat || !batch.offsets.defined() || batch.offsets.numel() != n + 1 ||
      batch.offsets.scalar_type() != at::kLong)
    throw DataError(text("boxes of ", n, " pictures must be a target (M, 5) float32 and offsets (", n + 1, ") int64"));
  const Tensor target = batch.target.contiguous(), offsets = batch.offsets.contiguous();
  const auto* offset = offsets.const_data_ptr<Index>();
  const auto* row = target.const_data_ptr<float>();
  std::vector<BoxPicture> out;
  for (const Tensor& block : batch.pictures) {
    check_pictures(block);
    if (block.scalar_type() != at::kByte)
      throw DataError("transforms of boxes take uint8 pictures, as data sets give them, not float32 ones");
    const Tensor pixels = block.permute({0, 2, 3, 1}).contiguous();
    for (Index i = 0; i < block.size(0); ++i) out.push_back({pixels[i], {}});
  }
  for (Index i = 0; i < n; ++i) {
    if (offset[i] < 0 || offset[i] > offset[i + 1] || offset[i + 1] > target.size(0))
      throw DataError(text("the offsets of the boxes of picture ", i, " are ", offset[i], " and ", offset[i + 1],
                           " where there are ", target.size(0), " boxes"));
    for (Index k = offset[i]; k < offset[i + 1]; ++k) {
      const float* b = row + 5 * k;
      const double x = static_cast<double>(b[1]), y = static_cast<double>(b[2]);
      out[static_cast<std::size_t>(i)].boxes.push_back(
          {b[0], {x, y, x + static_cast<double>(b[3]), y + static_cast<double>(b[4])}});
    }
  }
  return out;
}

TRANSFERLIB_API void put_together(Batch& batch, const std::vector<BoxPicture>& pictures) {
  const auto n = static_cast<Index>(pictures.size());
  Index boxes = 0;
  for (const BoxPicture& p : pictures) boxes += static_cast<Index>(p.boxes.size());
  batch.pictures.clear();
  batch.target = at::empty({boxes, 5}, at::kFloat);
  batch.offsets = at::zeros({n + 1}, at::kLong);
  batch.sizes = at::empty({n, 2}, at::kLong);
  auto* row = batch.target.mutable_data_ptr<float>();
  auto* offset = batch.offsets.mutable_data_ptr<Index>();
  auto* size = batch.sizes.mutable_data_ptr<Index>();
  for (const BoxPicture& p : pictures) {
    batch.pictures.push_back(p.pixels.permute({2, 0, 1}).unsqueeze(0));
    offset[1] = offset[0] + static_cast<Index>(p.boxes.size());
    ++offset;
    *size++ = p.height();
    *size++ = p.width();
    for (const LabelledBox& b : p.boxes) {
      *row++ = b.label;
      *row++ = static_cast<float>(b.box[0]);
      *row++ = static_cast<float>(b.box[1]);
      *row++ = static_cast<float>(b.box[2] - b.box[0]);
      *row++ = static_cast<float>(b.box[3] - b.box[1]);
    }
  }
}

TRANSFERLIB_API void paste(const BoxPicture& from, Tensor& canvas, Index left, Index top) {
  const Index c = canvas.size(2), wide = canvas.size(1);
  const Index x0 = std::max<Index>(left, 0), x1 = std::min(left + from.width(), wide);
  const Index y0 = std::max<Index>(top, 0), y1 = std::min(top + from.height(), canvas.size(0));
  if (x0 >= x1) return;
  auto* to = canvas.mutable_data_ptr<std::uint8_t>();
  for (Index y = y0; y < y1; ++y)
    std::memcpy(to + (y * wide + x0) * c, from.data() + ((y - top) * from.width() + x0 - left) * c,
                static_cast<std::size_t>((x1 - x0) * c));
}

TRANSFERLIB_API void scale_picture(BoxPicture& p, Index width, Index height) {
  if (p.width() == width && p.height() == height) return;
  const double sx = static_cast<double>(width) / static_cast<double>(p.width());
  const double sy = static_cast<double>(height) / static_cast<double>(p.height());
  const Tensor block = p.pixels.permute({2, 0, 1}).unsqueeze(0);
  p.pixels = resize_block(block, height, width, Interpolation::bilinear)[0].permute({1, 2, 0}).contiguous();
  for (LabelledBox& b : p.boxes) b.box = {b.box[0] * sx, b.box[1] * sy, b.box[2] * sx, b.box[3] * sy};
}

}  // namespace transferlib::detail

namespace transferlib {

TRANSFERLIB_API void HsvJitter::change(const std::uint8_t* from, std::uint8_t* to, Index size, Index channels,
                                       float turn, float more_s, float more_v) {
  if (channels != 3) {
    for (Index i = 0; i < size; ++i) to[i] = byte(static_cast<float>(from[i]) * more_v);
    return;
  }
  for (Index i = 0; i < size; i += 3, from += 3, to += 3) {
    const auto r = static_cast<float>(from[0]), g = static_cast<float>(from[1]), b = static_cast<float>(from[2]);
    const float most = std::max({r, g, b}), range = most - std::min({r, g, b});
    const float v = std::min(most * more_v, 255.0F);
    if (range == 0.0F) {
      to[0] = to[1] = to[2] = byte(v);
      continue;
    }
    // Sixths of the circle, from red on.
    float h = most == r ? (g - b) / range : most == g ? 2.0F + (b - r) / range : 4.0F + (r - g) / range;
    h += 6.0F * turn + 12.0F;
    const float chroma = v * std::min(range / most * more_s, 1.0F);
    const auto channel = [&](float n) {
      float k = h + n;
      k -= 6.0F * static_cast<float>(static_cast<int>(k * (1.0F / 6.0F)));
      return byte(v - chroma * std::clamp(std::min(k, 4.0F - k), 0.0F, 1.0F));
    };
    to[0] = channel(5.0F);
    to[1] = channel(3.0F);
    to[2] = channel(1.0F);
  }
}

TRANSFERLIB_API BoxAffine::Matrix BoxAffine::product(const Matrix& a, const Matrix& b) {
  Matrix out{};
  for (std::size_t i = 0; i < 3; ++i)
    for (std::size_t j = 0; j < 3; ++j)
      for (std::size_t k = 0; k < 3; ++k) out[3 * i + j] += a[3 * i + k] * b[3 * k + j];
  return out;
}

TRANSFERLIB_API BoxAffine::Matrix BoxAffine::draw(Random& random, Index from_width, Index from_height, Index width,
                                                  Index height) const {
  constexpr double radian = 3.14159265358979323846 / 180.0;
  const auto either = [&](double most) { return random.uniform(-most, most); };
  const auto w = static_cast<double>(from_width), h = static_cast<double>(from_height);
  const double far_x = either(perspective), far_y = either(perspective), angle = either(degrees) * radian;
  const double factor = random.uniform(1.0 - scale, 1.0 + scale);
  const double shear_x = std::tan(either(shear) * radian), shear_y = std::tan(either(shear) * radian);
  const double x = (0.5 + either(translate)) * static_cast<double>(width);
  const double y = (0.5 + either(translate)) * static_cast<double>(height);
  const Matrix middle{1, 0, -w / 2, 0, 1, -h / 2, 0, 0, 1};
  const Matrix tilt{1, 0, 0, 0, 1, 0, far_x / w, far_y / h, 1};
  const double c = factor * std::cos(angle), s = factor * std::sin(angle);
  return product({1, 0, x, 0, 1, y, 0, 0, 1}, product({1, shear_x, 0, shear_y, 1, 0, 0, 0, 1},
                                                      product({c, s, 0, -s, c, 0, 0, 0, 1}, product(tilt, middle))));
}

TRANSFERLIB_API Tensor BoxAffine::warp(const detail::BoxPicture& p, const Matrix& m, Index width, Index height) const {
  const Index channels = p.channels(), w = p.width(), h = p.height();
  const auto wide = static_cast<double>(w), high = static_cast<double>(h);
  const bool is_flat = m[6] == 0.0 && m[7] == 0.0;
  const double scale_back = 1.0 / m[8];
  const std::uint8_t* from = p.data();
  Tensor out = detail::filled(height, width, channels, fill);
  auto* to = out.mutable_data_ptr<std::uint8_t>();
  for (Index y = 0; y < height; ++y)
    for (Index x = 0; x < width; ++x, to += channels) {
      // Pixels' colours are those of their middles.
      const double a = static_cast<double>(x) + 0.5, b = static_cast<double>(y) + 0.5;
      const double z = is_flat ? scale_back : 1.0 / (m[6] * a + m[7] * b + m[8]);
      const double u = (m[0] * a + m[1] * b + m[2]) * z - 0.5, v = (m[3] * a + m[4] * b + m[5]) * z - 0.5;
      if (!(u > -1.0 && v > -1.0 && u < wide && v < high)) continue;
      // Cut off above 0, which is quicker than `floor`.
      const Index left = static_cast<Index>(u + 1.0) - 1, top = static_cast<Index>(v + 1.0) - 1;
      const auto right = static_cast<int>((u - static_cast<double>(left)) * 256.0);
      const auto bottom = static_cast<int>((v - static_cast<double>(top)) * 256.0);
      const int weights[4] = {(256 - right) * (256 - bottom), right * (256 - bottom), (256 - right) * bottom,
                              right * bottom};
      const bool whole = left >= 0 && top >= 0 && left + 1 < w && top + 1 < h;
      const std::uint8_t* corner = from + (top * w + left) * channels;
      for (Index c = 0; c < channels; ++c) {
        int sum = 1 << 15;
        if (whole) {
          sum += weights[0] * corner[c] + weights[1] * corner[c + channels] + weights[2] * corner[c + w * channels] +
                 weights[3] * corner[c + (w + 1) * channels];
        } else {
          for (Index k = 0; k < 4; ++k) {
            const Index i = left + k % 2, j = top + k / 2;
            const bool inside = i >= 0 && j >= 0 && i < w && j < h;
            sum += weights[k] * (inside ? from[(j * w + i) * channels + c] : static_cast<int>(fill));
          }
        }
        to[c] = static_cast<std::uint8_t>(sum >> 16);
      }
    }
  return out;
}

}  // namespace transferlib

namespace transferlib::detail {

TRANSFERLIB_API Partners draw_partners(std::span<const Draw> draws, double probability, Index count, Index size) {
  Partners out;
  for (const Draw& draw : draws) {
    Random random = augmentation(draw);
    out.first.emplace_back();
    if (random.uniform() < probability) {
      out.first.back() = out.ids.size();
      for (Index k = 0; k < count; ++k) out.ids.push_back(random.below(size));
    }
    out.random.push_back(random);
  }
  return out;
}

}  // namespace transferlib::detail

#endif  // TRANSFERLIB_DEFINES

/// \file
/// Trains the head of a sliding window on the windows as the network shows them where it slides: a level at once, if it
/// looks densely. A head that learnt from windows of their own does not know what a window looks like amid a picture.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include <ATen/ATen.h>

#include <transferlib/core/error.hpp>
#include <transferlib/core/guard.hpp>
#include <transferlib/core/random.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/text.hpp>
#include <transferlib/data/window_data.hpp>
#include <transferlib/detect/box_coder.hpp>
#include <transferlib/detect/boxes.hpp>
#include <transferlib/detect/nms.hpp>
#include <transferlib/model/sliding_window.hpp>
#include <transferlib/probe/closed_form.hpp>
#include <transferlib/probe/features.hpp>
#include <transferlib/probe/logistic.hpp>

namespace transferlib {

/// How `fit_dense` learns.
struct FitDense {
  double positive = 0.65;  ///< a window that, less its margin, overlaps an object by as much or more shows it
  double negative = 0.3;  ///< one that overlaps each object by less is background; from those between nothing is learnt
  Index views = 16;       ///< windows an object at most, those that overlap it best
  Index background = 100;  ///< windows a picture, drawn by chance
  Index rounds = 1;        ///< times that windows wrongly taken for an object are looked for, and all is fitted anew
  double score = 0.2;      ///< such a window has this probability or more
  Index hard = 20;         ///< of a picture, the surest
  double apart = 0.7;      ///< and overlaps the others by less
  bool mirrored = false;   ///< each picture is looked at a second time, mirrored left to right
  LogisticOptions fit{.strength = 1e-3, .tolerance = 1e-3};
  bool boxes = true;       ///< whether boxes are learnt too, from the same features
  double ridge = 3.0;      ///< see `SlidingWindow::fit_boxes`
  std::uint64_t seed = 0;  ///< what background is drawn from
};

/// What `fit_dense` learnt from, and how well it fits.
struct DenseFit {
  std::vector<Index> windows;  ///< of each of the classifier's classes
  Index hard = 0;              ///< of the background: those that had been taken for an object
  LogisticProbe probe;         ///< of the standardised features
};

namespace detail {

/// The windows that a head learns from.
class DenseWindows {
 public:
  DenseWindows(const FitDense& options, double margin, std::vector<Index> objects, Index background)
      : options_(options), margin_(margin), objects_(std::move(objects)), background_(background) {}

  /// Takes objects and background of a picture; with `hard`, the wrong answers only.
  /// \param score the probability of an object, of such features
  template <class D, class Detector, class Score>
  void add(const Detector& detector, const D& data, const std::vector<Index>& classes, bool hard, const Score& score) {
    WindowData::each_block(data, [&](const Batch& batch, std::span<const Index> ids) {
      auto there = objects_in(data, batch, ids, classes);
      for (const bool mirror : {false, true}) {
        if (mirror && !options_.mirrored) break;
        Batch seen;
        for (const Tensor& block : batch.pictures)
          seen.pictures.push_back(mirror ? block.flip({3}).contiguous(at::MemoryFormat::ChannelsLast) : block);
        if (mirror)
          for (PictureObjects& picture : there) mirror_boxes(picture);
        Index last = -1;
        Random random(options_.seed, Purpose::windows);
        detector.visit(seen, [&](Index picture, PixelSize size, const Activations& features, const Tensor& windows) {
          const auto at = static_cast<std::size_t>(picture);
          if (picture != last) {
            finish();
            last = picture;
            random = Random(options_.seed, Purpose::windows, static_cast<std::uint64_t>(ids[at]), mirror ? 1 : 0);
          }
          if (hard)
            add_hard(there[at], features[0], windows, score);
          else
            add_plain(there[at], features[0], windows, detector.count(size), random);
        });
        finish();
      }
    });
  }

  Index size() const { return static_cast<Index>(y_.size()); }
  /// All of them.
  Features features(Index classes) const { return {at::cat(x_).to(at::kFloat), at::tensor(y_, at::kLong), classes}; }
  /// Those that show an object, and what `BoxCoder` makes of these.
  std::pair<Tensor, Tensor> boxes() const {
    const Tensor objects = at::tensor(y_, at::kLong).ne(background_).nonzero().flatten();
    return {at::cat(x_).index_select(0, objects),
            at::tensor(codes_, at::kDouble).view({-1, 4}).index_select(0, objects)};
  }
  /// How many there are of each class.
  std::vector<Index> counts(Index classes) const {
    std::vector<Index> out(static_cast<std::size_t>(classes));
    for (const Index y : y_) ++out[static_cast<std::size_t>(y)];
    return out;
  }

 private:
  /// A window that may be learnt from: how well it shows its object, or how sure a wrong answer is.
  struct Candidate {
    double value = 0.0;
    Tensor row;                   ///< (1, width)
    std::array<double, 4> box{};  ///< the window, less its margin
    std::size_t object = 0;
  };

  static void mirror_boxes(PictureObjects& picture) {
    const auto width = static_cast<double>(picture.size.width);
    const auto turn = [&](std::array<double, 4>& b) { b = {width - b[2], b[1], width - b[0], b[3]}; };
    for (auto& object : picture.objects) turn(object.second);
    for (auto& other : picture.ignored) turn(other);
  }

  /// The boxes of a picture, objects first, (O, 4).
  static Tensor rows(const PictureObjects& there) {
    std::vector<double> out;
    for (const auto& object : there.objects) out.insert(out.end(), object.second.begin(), object.second.end());
    for (const auto& other : there.ignored) out.insert(out.end(), other.begin(), other.end());
    return at::tensor(out, at::kDouble).view({-1, 4});
  }

  /// The overlap of each window's inner part (P, 4) with everything that is not background (P, O).
  static Tensor overlaps(const PictureObjects& there, const Tensor& inner) {
    const Tensor boxes = rows(there);
    return boxes.size(0) == 0 ? at::zeros({inner.size(0), 1}, at::kDouble) : box_overlaps(inner, boxes);
  }

  void keep(const Tensor& row, Index label, const std::array<double, 4>& code) {
    x_.push_back(row.cpu()), y_.push_back(label);
    codes_.insert(codes_.end(), code.begin(), code.end());
  }

  void add_plain(const PictureObjects& there, const Tensor& features, const Tensor& windows, Index count,
                 Random& random);

  template <class Score>
  void add_hard(const PictureObjects& there, const Tensor& features, const Tensor& windows, const Score& score) {
    const Tensor sure = score(features).to(at::kCPU, at::kDouble);
    const Tensor inner = without_margin(windows.to(at::kDouble), margin_);
    const Tensor wrong = sure.ge(options_.score)
                             .logical_and(std::get<0>(overlaps(there, inner).max(1)).lt(options_.negative))
                             .nonzero()
                             .flatten();
    for (Index k = 0; k < wrong.size(0); ++k) {
      const Index i = wrong[k].item<Index>();
      candidates_.push_back({sure[i].item<double>(), features.narrow(0, i, 1).clone(), numbers_of(inner[i]), 0});
    }
  }

  static std::array<double, 4> numbers_of(const Tensor& box) {
    const auto* at = box.const_data_ptr<double>();
    return {at[0], at[1], at[2], at[3]};
  }

  /// A picture is over: the best of its candidates are kept.
  void finish();

  FitDense options_;
  double margin_;
  std::vector<Index> objects_;  ///< the classifier's class of each class of objects
  Index background_;
  std::vector<Tensor> x_;
  std::vector<Index> y_;
  std::vector<double> codes_;
  std::vector<Candidate> candidates_;
  const PictureObjects* there_ = nullptr;  ///< of the picture that objects are taken from
};

/// Refuses numbers that can't be meant.
TRANSFERLIB_API void check(const FitDense& o);

}  // namespace detail

/// Trains the linear head of a sliding window in one call, on the windows at the very places where it will look, with
/// their features as the network gives them there: in dense mode of a level at once. The network runs over each picture
/// once a round; the head is fitted by logistic regression (`logistic_probe`), its boxes in closed form. Then the
/// windows that are wrongly taken for an object join the background, and the head is fitted anew. The backbone stays as
/// it is. Memory: `views` windows an object, `background` + `hard` a picture, of 12 bytes a feature.
/// \param data pictures with boxes that have the classes of `detector.labels()`; others are background
/// \throws OptionError for another head, or classes that the data don't have; DataError where no window shows an object
template <class N, class H, class D>
DenseFit fit_dense(SlidingWindow<N, H>& detector, const D& data, const FitDense& options = {}) {
  static_assert(std::same_as<typename D::Target, Boxes>, "transferlib: fit_dense: the data have no boxes");
  return detail::guarded("training a sliding window", [&] {
    detail::check(options);
    auto& classifier = detector.classifier();
    auto& head = detail::inner_head(classifier.head());
    const Labels& labels = classifier.labels();
    detail::check_linear(classifier, labels);
    const auto background = std::find(labels.begin(), labels.end(), detector.options().background) - labels.begin();
    if (background == std::ssize(labels))
      throw OptionError(detail::text("fit_dense needs a class for what is no object, and this classifier has no ",
                                     detail::in_quotes(detector.options().background)));
    std::vector<Index> objects;
    for (Index i = 0; i < std::ssize(labels); ++i)
      if (i != background) objects.push_back(i);
    const auto classes = detail::classes_among(data.labels(), detector.labels());
    const auto count = static_cast<Index>(labels.size());
    detail::DenseWindows windows(options, detector.options().margin, objects, background);
    const auto score = [&](const Tensor& features) {
      return 1.0 - head.predict(head.forward({features}, Pass{})).select(1, background);
    };
    windows.add(detector, data, classes, false, score);
    const auto shown = windows.counts(count);
    for (const Index i : objects)
      if (shown[static_cast<std::size_t>(i)] == 0)
        throw DataError(detail::text("no window shows ", labels[static_cast<std::size_t>(i)], " by ", options.positive,
                                     " or more: of their sizes there are none; see `smallest`, "
                                     "`largest`, `scale` and `margin` of the sliding window"));
    DenseFit out;
    for (Index round = 0;; ++round) {
      Features f = windows.features(count);
      const auto scale = detail::standardise(f.x);
      out.probe = logistic_probe(f, options.fit);
      detail::fill_head(head, out.probe.weight, out.probe.bias, scale);
      if (round == options.rounds) break;
      const Index before = windows.size();
      windows.add(detector, data, classes, true, score);
      const Index added = windows.size() - before;
      out.hard += added;
      if (added == 0) break;
    }
    out.windows = windows.counts(count);
    if (options.boxes) {
      const auto [x, target] = windows.boxes();
      detector.fit_offsets(x, target, options.ridge);
    }
    return out;
  });
}

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API void DenseWindows::add_plain(const PictureObjects& there, const Tensor& features, const Tensor& windows,
                                             Index count, Random& random) {
  there_ = &there;
  const Tensor inner = without_margin(windows.to(at::kDouble), margin_), share = overlaps(there, inner);
  const auto [best, which] = share.max(1);
  const auto* overlap = best.template const_data_ptr<double>();
  const auto* object = which.template const_data_ptr<Index>();
  const double part = static_cast<double>(options_.background) / static_cast<double>(count);
  for (Index i = 0; i < windows.size(0); ++i) {
    // Drawn for each, so that what one is does not change the others.
    const bool drawn = random.uniform() < part;
    const auto own = static_cast<std::size_t>(object[i]);
    if (overlap[i] < options_.negative) {
      if (drawn) keep(features.narrow(0, i, 1).clone(), background_, {});
    } else if (overlap[i] >= options_.positive && own < there.objects.size()) {
      candidates_.push_back({overlap[i], features.narrow(0, i, 1).clone(), numbers_of(inner[i]), own});
    }
  }
}

TRANSFERLIB_API void DenseWindows::finish() {
  std::stable_sort(candidates_.begin(), candidates_.end(),
                   [](const Candidate& a, const Candidate& b) { return a.value > b.value; });
  if (there_ != nullptr) {
    std::vector<Index> taken(there_->objects.size());
    for (const Candidate& c : candidates_) {
      if (taken[c.object]++ >= options_.views) continue;
      const auto& [label, box] = there_->objects[c.object];
      const auto row = [](const std::array<double, 4>& b) {
        return at::tensor({b[0], b[1], b[2], b[3]}, at::kDouble).view({1, 4});
      };
      keep(c.row, objects_[static_cast<std::size_t>(label)],
           numbers_of(BoxCoder{}.encode(row(box), row(c.box)).contiguous()));
    }
  } else {
    std::vector<std::array<double, 4>> taken;
    for (const Candidate& c : candidates_) {
      if (static_cast<Index>(taken.size()) == options_.hard) break;
      if (std::any_of(taken.begin(), taken.end(),
                      [&](const auto& other) { return overlap_of(other, c.box) >= options_.apart; }))
        continue;
      taken.push_back(c.box);
      keep(c.row, background_, {});
    }
  }
  candidates_.clear();
  there_ = nullptr;
}

TRANSFERLIB_API void check(const FitDense& o) {
  check_threshold(o.positive, "positive of fit_dense");
  check_threshold(o.negative, "negative of fit_dense");
  check_threshold(o.score, "score of fit_dense");
  check_threshold(o.apart, "apart of fit_dense");
  if (o.negative > o.positive)
    throw OptionError(text("fit_dense: a window that overlaps an object by ", o.positive,
                           " shows it, so it can't be background below ", o.negative));
  if (o.views < 1 || o.background < 1 || o.rounds < 0 || o.hard < 1)
    throw OptionError("fit_dense: views, background and hard must be at least 1, rounds at least 0");
}

}  // namespace transferlib::detail

#endif  // TRANSFERLIB_DEFINES

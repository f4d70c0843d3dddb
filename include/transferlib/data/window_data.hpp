/// \file
/// Windows cut from pictures with boxes, as a data set of class indices: what a sliding window's classifier learns
/// from.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <ATen/ATen.h>

#include <transferlib/core/concepts.hpp>
#include <transferlib/core/error.hpp>
#include <transferlib/core/parallel.hpp>
#include <transferlib/core/random.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/core/text.hpp>
#include <transferlib/data/preprocess.hpp>
#include <transferlib/data/tensors_data.hpp>
#include <transferlib/detect/box_coder.hpp>
#include <transferlib/formats/tensor_view.hpp>

namespace transferlib {

/// Which windows are cut.
struct WindowDataOptions {
  Index window = 96;       ///< side to which each window is scaled
  double margin = 1.25;    ///< the window's side by the longer side of its object
  Index views = 8;         ///< windows an object, each jittered anew
  Index background = 24;   ///< windows a picture that show no object; half of them beside objects, if there are any
  double iou_below = 0.3;  ///< what overlaps each object by less than this is background
  double shift = 0.1;      ///< jitter of a window's centre, in its sides, up and down
  double resize = 0.12;    ///< jitter of a window's side: the logarithm of the factor, up and down
  Index smallest = 0;      ///< side of the smallest background window in the picture's pixels; 0: `window`
  Labels labels = {};      ///< the classes that are objects; empty: all of the data's. Others are background
  std::string name = "background";  ///< of the class that is no object, the last one
  std::uint64_t seed = 0;           ///< what jitter and background are drawn from
};

/// A window in a picture.
struct CutWindow {
  Index picture = 0;
  std::array<double, 4> box{};     ///< x1, y1, x2, y2 in the picture's pixels
  Index label = 0;                 ///< of the window data
  std::array<double, 4> object{};  ///< what it shows, x1, y1, x2, y2; all 0 for background
};

namespace detail {

/// The part of a window that its object fills: the window, made smaller about its centre. \param windows (…, 4)
inline Tensor without_margin(const Tensor& windows, double margin) {
  const Tensor first = windows.narrow(-1, 0, 2), second = windows.narrow(-1, 2, 2);
  const Tensor centre = (first + second) / 2.0, half = (second - first) / (2.0 * margin);
  return at::cat({centre - half, centre + half}, -1);
}

/// How much of two boxes' union they share.
inline double overlap_of(const std::array<double, 4>& a, const std::array<double, 4>& b) {
  const double wide = std::min(a[2], b[2]) - std::max(a[0], b[0]), high = std::min(a[3], b[3]) - std::max(a[1], b[1]);
  if (!(wide > 0.0 && high > 0.0)) return 0.0;
  const auto area = [](const std::array<double, 4>& x) { return (x[2] - x[0]) * (x[3] - x[1]); };
  return wide * high / (area(a) + area(b) - wide * high);
}

/// The boxes of a picture's objects.
struct PictureObjects {
  PixelSize size;
  std::vector<std::pair<Index, std::array<double, 4>>> objects{};  ///< class of the window data, x1, y1, x2, y2
  std::vector<std::array<double, 4>> ignored{};                    ///< neither object nor background
};

/// Calls `visit(picture of the batch, class, box)` with each box of a batch.
template <class Visit>
void each_box(const Batch& batch, const Visit& visit) {
  const Tensor offsets = batch.offsets.to(at::kCPU, at::kLong).contiguous();
  const Tensor boxes = batch.target.to(at::kCPU, at::kDouble).contiguous();
  const auto* at = offsets.const_data_ptr<Index>();
  const auto* row = boxes.const_data_ptr<double>() + 5 * at[0];
  for (Index i = 0; i + 1 < offsets.numel(); ++i)
    for (Index b = at[i]; b < at[i + 1]; ++b, row += 5)
      visit(static_cast<std::size_t>(i), static_cast<Index>(row[0]),
            std::array<double, 4>{row[1], row[2], row[1] + row[3], row[2] + row[4]});
}

/// Which of the wanted classes each of a data set's is, -1 for none. \throws OptionError where one is not there
TRANSFERLIB_API std::vector<Index> classes_among(const Labels& theirs, const Labels& wanted);

/// What of `data`'s pictures is an object. \param batch of these pictures \param classes as `classes_among` gives them
template <class D>
std::vector<PictureObjects> objects_in(const D& data, const Batch& batch, std::span<const Index> ids,
                                       const std::vector<Index>& classes) {
  std::vector<PictureObjects> out;
  const Tensor sizes = sizes_of(batch);
  const auto* side = sizes.template const_data_ptr<Index>();
  for (Index i = 0; i < sizes.size(0); ++i, side += 2) out.push_back({{side[1], side[0]}});
  each_box(batch, [&](std::size_t picture, Index theirs, const std::array<double, 4>& box) {
    if (const Index label = classes.at(static_cast<std::size_t>(theirs)); label >= 0)
      out[picture].objects.emplace_back(label, box);
  });
  if constexpr (requires { Batch(data.ignored(ids)); })
    each_box(data.ignored(ids), [&](std::size_t picture, Index, const std::array<double, 4>& box) {
      out[picture].ignored.push_back(box);
    });
  return out;
}

/// A square window inside a picture, as near as can be to this centre and side.
TRANSFERLIB_API std::array<double, 4> window_inside(PixelSize picture, double x, double y, double side);

inline std::array<double, 4> without_margin(const std::array<double, 4>& box, double margin) {
  const double x = (box[0] + box[2]) / 2.0, y = (box[1] + box[3]) / 2.0;
  const double w = (box[2] - box[0]) / (2.0 * margin), h = (box[3] - box[1]) / (2.0 * margin);
  return {x - w, y - h, x + w, y + h};
}

/// The most that a window, less its margin, overlaps anything that is not background.
TRANSFERLIB_API double worst_overlap(const std::array<double, 4>& window, const PictureObjects& there, double margin);

TRANSFERLIB_API void check(const WindowDataOptions& o);

/// A picture's windows: jittered ones of each object, then background.
/// \param id the picture's number, from which is drawn
TRANSFERLIB_API std::vector<CutWindow> draw_windows(const PictureObjects& there, Index id, const WindowDataOptions& o,
                                                    Index background);

/// A picture (1, C, H, W) cut to a window and scaled to `side`, uint8 (1, 3, side, side).
TRANSFERLIB_API Tensor cut_window(const Tensor& picture, const std::array<double, 4>& box, Index side);

}  // namespace detail

/// See the file. Its windows are cut when it is made, and kept: `window`² x 3 bytes each. Cheap to copy until windows
/// are added.
class WindowData {
 public:
  using Target = ClassIndex;

  /// Cuts windows from pictures with boxes. What is cut depends on the data and the options alone.
  /// \param data any data set whose target is `Boxes`
  /// \throws OptionError for a class that the data don't have; DataError where no window is left
  template <class D>
  static WindowData of(const D& data, const WindowDataOptions& options = {}) {
    static_assert(Dataset<D>,
                  "transferlib: WindowData::of: not a Dataset: it needs Target, size(), batch(ids), labels()");
    static_assert(std::same_as<typename D::Target, Boxes>, "transferlib: WindowData::of: the data have no boxes");
    WindowData out(data.labels(), options);
    out.each_block(data, [&](const Batch& batch, std::span<const Index> ids) {
      std::vector<CutWindow> windows;
      const auto there = out.objects_of(data, batch, ids);
      for (std::size_t i = 0; i < ids.size(); ++i)
        for (const CutWindow& w : detail::draw_windows(there[i], ids[i], options, out.background()))
          windows.push_back(w);
      out.cut(batch, ids, windows);
    });
    if (out.windows_.empty())
      throw DataError(detail::text("no windows: the ", data.size(), " pictures have none of the objects ",
                                   detail::first_few(options.labels.empty() ? data.labels() : options.labels),
                                   ", and no background is wanted or left"));
    out.settle();
    return out;
  }

  Index size() const { return data_->size(); }
  /// The classes; the last is the background.
  const Labels& labels() const { return labels_; }
  Index background() const { return static_cast<Index>(labels_.size()) - 1; }
  Batch batch(std::span<const Index> ids) const { return data_->batch(ids); }
  /// The classes of these windows, (N) int64.
  Tensor targets(std::span<const Index> ids) const { return data_->targets(ids); }
  std::string fingerprint() const { return data_->fingerprint(); }
  const WindowDataOptions& options() const { return options_; }

  /// Where each window lies.
  const std::vector<CutWindow>& windows() const { return windows_; }
  /// How many windows each class has.
  std::vector<Index> counts() const {
    std::vector<Index> out(labels_.size());
    for (const CutWindow& w : windows_) ++out[static_cast<std::size_t>(w.label)];
    return out;
  }

  /// The windows that show objects, with what is to be learnt to find their boxes: `BoxCoder`'s four numbers, from the
  /// window less its margin to the object. \throws DataError where there are none
  TensorData<Values> offsets() const;

  /// Adds background windows of pictures of the data that it was made of.
  /// \param windows their labels are not looked at
  /// \throws DataError for a picture that does not exist
  template <class D>
  void add_background(const D& data, std::vector<CutWindow> windows) {
    if (windows.empty()) return;
    std::map<Index, std::vector<CutWindow>> by_picture;
    for (CutWindow& w : windows) {
      w.label = background(), w.object = {};
      by_picture[w.picture].push_back(w);
    }
    for (auto& [id, list] : by_picture) {
      const std::array<Index, 1> ids{id};
      cut(data.batch(ids), ids, list);
    }
    settle();
  }

  /// What of `data`'s pictures is an object of this data's classes. \param batch of these pictures
  template <class D>
  std::vector<detail::PictureObjects> objects_of(const D& data, const Batch& batch, std::span<const Index> ids) const {
    return detail::objects_in(data, batch, ids, classes_);
  }

  /// Calls `work(batch, ids)` with all of the data's pictures, some at a time.
  template <class D, class Work>
  static void each_block(const D& data, const Work& work) {
    for (Index from = 0; from < data.size(); from += 16) {
      std::vector<Index> ids(static_cast<std::size_t>(std::min<Index>(16, data.size() - from)));
      std::iota(ids.begin(), ids.end(), from);
      work(data.batch(ids), ids);
    }
  }

 private:
  WindowData(const Labels& theirs, const WindowDataOptions& options);

  void cut(const Batch& batch, std::span<const Index> ids, const std::vector<CutWindow>& windows);

  void settle();

  WindowDataOptions options_;
  Labels labels_;
  std::vector<Index> classes_;  ///< of this data, by the boxes' class; -1: none
  std::vector<CutWindow> windows_;
  std::vector<Tensor> pieces_;  ///< cut since the last `settle`
  std::optional<TensorData<ClassIndex>> data_;
};

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API std::vector<Index> classes_among(const Labels& theirs, const Labels& wanted) {
  std::vector<Index> out(theirs.size(), -1);
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const auto found = std::find(theirs.begin(), theirs.end(), wanted[i]);
    if (found == theirs.end())
      throw OptionError(text("the data have no class ", in_quotes(wanted[i]), "; they have ", first_few(theirs)));
    out[static_cast<std::size_t>(found - theirs.begin())] = static_cast<Index>(i);
  }
  return out;
}

TRANSFERLIB_API std::array<double, 4> window_inside(PixelSize picture, double x, double y, double side) {
  const auto width = static_cast<double>(picture.width), height = static_cast<double>(picture.height);
  side = std::min({std::max(side, 1.0), width, height});
  const double left = std::clamp(x - side / 2.0, 0.0, width - side),
               top = std::clamp(y - side / 2.0, 0.0, height - side);
  return {left, top, left + side, top + side};
}

TRANSFERLIB_API double worst_overlap(const std::array<double, 4>& window, const PictureObjects& there, double margin) {
  const auto box = without_margin(window, margin);
  double worst = 0.0;
  for (const auto& object : there.objects) worst = std::max(worst, overlap_of(box, object.second));
  for (const auto& other : there.ignored) worst = std::max(worst, overlap_of(box, other));
  return worst;
}

TRANSFERLIB_API void check(const WindowDataOptions& o) {
  if (o.window < 1 || o.views < 0 || o.background < 0 || o.smallest < 0)
    throw OptionError(text("windows can't be cut: a side of ", o.window, " (smallest ", o.smallest, "), ", o.views,
                           " an object, ", o.background, " of background a picture"));
  if (!(o.margin >= 1.0 && o.margin <= 8.0))
    throw OptionError(text("a window's margin is a factor from 1 to 8, not ", o.margin));
  if (!(o.iou_below > 0.0 && o.iou_below <= 1.0))
    throw OptionError(text("iou_below must lie in (0, 1], not ", o.iou_below));
  if (!(o.shift >= 0.0 && o.shift <= 1.0 && o.resize >= 0.0 && o.resize <= 2.0))
    throw OptionError(text("the jitter must lie in [0, 1] sides and [0, 2], not ", o.shift, " and ", o.resize));
}

TRANSFERLIB_API std::vector<CutWindow> draw_windows(const PictureObjects& there, Index id, const WindowDataOptions& o,
                                                    Index background) {
  std::vector<CutWindow> out;
  Random random(o.seed, Purpose::windows, static_cast<std::uint64_t>(id));
  for (const auto& [label, box] : there.objects)
    for (Index v = 0; v < o.views; ++v) {
      const double side =
          o.margin * std::max(box[2] - box[0], box[3] - box[1]) * std::exp(random.uniform(-o.resize, o.resize));
      const double x = (box[0] + box[2]) / 2.0 + side * random.uniform(-o.shift, o.shift);
      const double y = (box[1] + box[3]) / 2.0 + side * random.uniform(-o.shift, o.shift);
      out.push_back({id, window_inside(there.size, x, y, side), label, box});
    }
  const auto shorter = static_cast<double>(std::min(there.size.width, there.size.height));
  const double least = std::min(shorter, static_cast<double>(o.smallest == 0 ? o.window : o.smallest));
  for (Index b = 0; b < o.background; ++b)
    // Where objects fill the picture there may be no background at all.
    for (int trial = 0; trial < 50; ++trial) {
      std::array<double, 4> window{};
      if (b % 2 == 0 && !there.objects.empty()) {
        const auto& box =
            there.objects[static_cast<std::size_t>(random.below(static_cast<Index>(there.objects.size())))].second;
        const double object = std::max(box[2] - box[0], box[3] - box[1]);
        const double side = std::max(least, o.margin * object * std::exp(random.uniform(-1.2, 0.7)));
        const double x = (box[0] + box[2]) / 2.0 + object * random.uniform(-1.0, 1.0);
        const double y = (box[1] + box[3]) / 2.0 + object * random.uniform(-1.0, 1.0);
        window = window_inside(there.size, x, y, side);
      } else {
        const double side = least * std::exp(random.uniform() * std::log(shorter / least));
        const double x = random.uniform(0.0, static_cast<double>(there.size.width));
        window = window_inside(there.size, x, random.uniform(0.0, static_cast<double>(there.size.height)), side);
      }
      if (worst_overlap(window, there, o.margin) >= o.iou_below) continue;
      out.push_back({id, window, background, {}});
      break;
    }
  return out;
}

TRANSFERLIB_API Tensor cut_window(const Tensor& picture, const std::array<double, 4>& box, Index side) {
  const auto from = [](double at, Index most) { return std::clamp<Index>(std::llround(at), 0, most - 1); };
  const Index x = from(box[0], picture.size(3)), y = from(box[1], picture.size(2));
  const auto length = [](double from_, double to, Index begin, Index most) {
    return std::clamp<Index>(std::llround(to - from_), 1, most - begin);
  };
  Tensor out = picture.narrow(2, y, length(box[1], box[3], y, picture.size(2)))
                   .narrow(3, x, length(box[0], box[2], x, picture.size(3)));
  out = resize(out.contiguous(at::MemoryFormat::ChannelsLast), side, side);
  if (out.scalar_type() != at::kByte) out = out.mul(255.0).round_().clamp_(0.0, 255.0).to(at::kByte);
  return out.expand({1, std::max<Index>(3, out.size(1)), side, side});
}

}  // namespace transferlib::detail

namespace transferlib {

TRANSFERLIB_API TensorData<Values> WindowData::offsets() const {
  std::vector<Index> ids;
  std::vector<double> boxes, objects;
  for (std::size_t i = 0; i < windows_.size(); ++i) {
    if (windows_[i].label == background()) continue;
    ids.push_back(static_cast<Index>(i));
    boxes.insert(boxes.end(), windows_[i].box.begin(), windows_[i].box.end());
    objects.insert(objects.end(), windows_[i].object.begin(), windows_[i].object.end());
  }
  if (ids.empty()) throw DataError("no window shows an object, so no box can be learnt");
  const auto rows = [](const std::vector<double>& x) { return at::tensor(x, at::kDouble).view({-1, 4}); };
  const Tensor target = BoxCoder{}.encode(rows(objects), detail::without_margin(rows(boxes), options_.margin));
  return {data_->batch(ids).pictures[0], target.to(at::kFloat), {"x", "y", "width", "height"}};
}

TRANSFERLIB_API WindowData::WindowData(const Labels& theirs, const WindowDataOptions& options)
    : options_(options), labels_(options.labels.empty() ? theirs : options.labels) {
  detail::check(options);
  classes_ = detail::classes_among(theirs, labels_);
  if (std::find(labels_.begin(), labels_.end(), options.name) != labels_.end())
    throw OptionError(detail::text("an object is called ", detail::in_quotes(options.name),
                                   ", as the background is; choose another `name`"));
  labels_.push_back(options.name);
}

TRANSFERLIB_API void WindowData::cut(const Batch& batch, std::span<const Index> ids,
                                     const std::vector<CutWindow>& windows) {
  std::vector<Tensor> pictures;
  for (const Tensor& block : batch.pictures)
    for (Index i = 0; i < block.size(0); ++i) pictures.push_back(block.narrow(0, i, 1).cpu());
  if (windows.empty()) return;
  std::vector<Tensor> cuts(windows.size());
  detail::for_each_in_parallel(static_cast<Index>(windows.size()), [&](Index i) {
    const at::AutoDispatchBelowADInplaceOrView below;
    const CutWindow& w = windows[static_cast<std::size_t>(i)];
    const auto place = std::find(ids.begin(), ids.end(), w.picture) - ids.begin();
    cuts[static_cast<std::size_t>(i)] =
        detail::cut_window(pictures[static_cast<std::size_t>(place)], w.box, options_.window).contiguous();
  });
  pieces_.push_back(at::cat(cuts));
  windows_.insert(windows_.end(), windows.begin(), windows.end());
}

TRANSFERLIB_API void WindowData::settle() {
  if (data_) pieces_.insert(pieces_.begin(), data_->pictures());
  std::vector<Index> target;
  for (const CutWindow& w : windows_) target.push_back(w.label);
  data_.emplace(at::cat(pieces_), at::tensor(target, at::kLong), labels_);
  pieces_.clear();
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

/// \file
/// A classifier as a detector: it looks at every window of an image pyramid, and what it finds in windows that overlap
/// is merged (the oldest family; with a convolution's shared work, Sermanet et al., "OverFeat", ICLR 2014).
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <numeric>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

#include <transferlib/core/concepts.hpp>
#include <transferlib/core/error.hpp>
#include <transferlib/core/guard.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/data/preprocess.hpp>
#include <transferlib/data/window_data.hpp>
#include <transferlib/detect/box_coder.hpp>
#include <transferlib/detect/boxes.hpp>
#include <transferlib/detect/detections.hpp>
#include <transferlib/detect/nms.hpp>
#include <transferlib/detect/windows.hpp>
#include <transferlib/engine/engine.hpp>
#include <transferlib/formats/checkpoint.hpp>
#include <transferlib/formats/json.hpp>
#include <transferlib/model/base.hpp>
#include <transferlib/model/classifier.hpp>
#include <transferlib/model/save.hpp>
#include <transferlib/weights/state_dict.hpp>

namespace transferlib {

/// How windows are looked at.
enum class WindowMode {
  exact,  ///< each window is a picture to the classifier
  dense   ///< the network sees a whole level at once, and a window is the mean over its places of the last map
};

/// Of boxes that overlap by more than `threshold` the surest stays.
struct GreedyMerge {
  double threshold = 0.3;
};
/// How boxes of one class that overlap become one: `GreedyMerge{…}`, `SoftNmsOptions{…}` or `FusionOptions{…}`.
using Merge = std::variant<GreedyMerge, SoftNmsOptions, FusionOptions>;

/// How a window slides, and what is made of its answers.
struct WindowOptions {
  Index window = 0;      ///< side in pixels of a level; 0: of the classifier's input
  Index stride = 16;     ///< from one window to the next, in pixels of a level
  double scale = 1.25;   ///< between levels
  Index smallest = 0;    ///< side of the smallest window in pixels of the picture; 0: `window`; less enlarges pictures
  Index largest = 0;     ///< of the largest; 0: the picture's shorter side
  double margin = 1.25;  ///< the window's side by its object's longer side, as in the data it was trained on
  double threshold = 0.05;  ///< probability from which on a window shows an object
  Merge merge = GreedyMerge{};
  WindowMode mode = WindowMode::exact;
  std::string background = "background";  ///< the class that is no object; if the classifier has none, all are objects
  Index most = 100;                       ///< detections of a picture
  Index candidates = 3000;                ///< windows of a picture that are merged, the surest
  Index most_windows = 300000;            ///< of a picture: one that has more is refused, which bounds the time
  Index batch = 64;                       ///< exact: windows at a time, which bounds the memory
  Index tile = 1024;  ///< dense: side of what the network sees at a time, in pixels of its input; the same
};

/// The answers of a picture's windows before they are merged, the surest first.
struct WindowAnswers {
  Detections found;  ///< a box, a probability and a class each
  Tensor windows;    ///< (K, 4) x1, y1, x2, y2: the windows themselves
};

namespace detail {

/// Pixels (1, C, H, W) as a network takes them: (1, channels, H, W) float32.
TRANSFERLIB_API Tensor normalised_pixels(const Tensor& picture, const Preprocessing& p, Index channels);

/// What the network makes of the mean over some places of its last map, (P, C): its pooled features (P, width).
inline Tensor features_of_means(const BackboneCore& core, const Tensor& means) {
  const Graph& graph = core.graph;
  const std::vector<Index> wanted{graph.pooled};
  if (graph.pooled == graph.map) return means;
  return graph.run({means.unsqueeze(-1).unsqueeze(-1)}, Cut{graph.map + 1, {graph.map}}, wanted, {}, core.frozen)[0];
}

/// Why a network can't look at a whole level at once; empty: it can.
TRANSFERLIB_API std::string why_not_dense(const BackboneCore& core);

/// The windows of these columns and rows of a level, in pixels of the picture: (rows x columns, 4), row by row.
TRANSFERLIB_API Tensor windows_of(const WindowLevel& level, Index column, Index columns, Index row, Index rows);

/// Is given what a head takes of some windows, and the windows (P, 4).
using WindowVisit = std::function<void(const Activations& features, const Tensor& windows)>;

/// Shows the network each window of a level as a picture of its own.
TRANSFERLIB_API void visit_exactly(const Tensor& picture, const WindowLevel& level, const BackboneCore& core,
                                   const Engine& engine, Index batch, const WindowVisit& visit);

/// Shows the network a level at once, in tiles where it is large. `engine` gives the last map.
TRANSFERLIB_API void visit_densely(const Tensor& picture, const WindowLevel& level, const BackboneCore& core,
                                   const Engine& engine, Index tile, const WindowVisit& visit);

/// One picture's answers, merged class by class.
TRANSFERLIB_API Detections merged(const Detections& all, const Merge& how, Index most);

}  // namespace detail

/// Any classifier of class indices, sliding over pictures. Its windows are the classifier's pictures, so it is trained
/// as one: see `fit_windows`. `mode` chooses between two ways of the same interface; they differ by what a convolution
/// sees beyond a window's border, zeros or the picture. A move-only value; `clone(model)` copies. Predicting is `const`
/// and safe from several threads; training and changing it are not.
///
/// Time is that of the windows (`count(size)` tells how many). Memory beside the picture, one level of it and 40 bytes
/// a window is what the network needs for `batch` windows, or for one tile of `tile`² pixels, however large the
/// picture.
template <class N, class H>
class SlidingWindow {
  static_assert(std::same_as<typename H::Target, ClassIndex>,
                "transferlib: SlidingWindow: the classifier must tell one class a picture (ClassIndex)");

 public:
  using Prediction = std::vector<Detections>;

  /// Takes the classifier over.
  /// \throws OptionError for options that don't fit the classifier
  explicit SlidingWindow(Classifier<N, H>&& classifier, const WindowOptions& options = {})
      : classifier_(std::move(classifier)), options_(options) {
    for (std::size_t i = 0; i < classifier_.labels().size(); ++i) {
      if (classifier_.labels()[i] == options.background) continue;
      objects_.push_back(static_cast<Index>(i));
      labels_.push_back(classifier_.labels()[i]);
    }
    set_options(options);
  }
  /// Looks with a copy of the classifier.
  explicit SlidingWindow(const Classifier<N, H>& classifier, const WindowOptions& options = {})
      : SlidingWindow(clone(classifier), options) {}

  SlidingWindow(SlidingWindow&&) = default;
  SlidingWindow& operator=(SlidingWindow&&) = default;

  /// The classes of objects: the classifier's without the background.
  const Labels& labels() const { return labels_; }
  /// The classifier, to be trained.
  Classifier<N, H>& classifier() { return classifier_; }
  const Classifier<N, H>& classifier() const { return classifier_; }
  const WindowOptions& options() const { return options_; }
  /// The classifier's backbone, without its type.
  const detail::BackboneCore& backbone_core() const { return classifier_.backbone_core(); }

  /// Slides otherwise from now on; the background's name stays.
  /// \throws OptionError for numbers that can't be meant, and where the network can't look densely, in a sentence
  void set_options(WindowOptions o) {
    const auto& core = classifier_.backbone_core();
    if (o.window == 0) o.window = core.size();
    check_windows(pyramid(o));
    detail::check_threshold(o.threshold, "a window's threshold");
    if (!(o.margin >= 1.0 && o.margin <= 8.0))
      throw OptionError(detail::text("a window's margin is a factor from 1 to 8, not ", o.margin));
    if (o.most < 1 || o.candidates < 1 || o.most_windows < 1 || o.batch < 1 || o.tile < 1)
      throw OptionError("most, candidates, most_windows, batch and tile of a sliding window must be at least 1");
    if (o.mode == WindowMode::dense) check_dense(o);
    o.background = options_.background;
    options_ = std::move(o);
  }

  /// How many windows a picture of this size has.
  Index count(PixelSize picture) const { return count_windows(window_levels(picture, pyramid(options_))); }

  /// What is found in pictures of any sizes. \returns one a picture, boxes in its pixels
  /// \throws DataError for a picture with more than `most_windows` windows
  Prediction predict(const Batch& batch, Precision precision = Precision::automatic) const {
    Prediction out;
    for (WindowAnswers& all : answers(batch, precision))
      out.push_back(detail::merged(all.found, options_.merge, options_.most));
    return out;
  }

  /// The windows that answer with an object, of each picture; not merged.
  std::vector<WindowAnswers> answers(const Batch& batch, Precision precision = Precision::automatic) const {
    std::vector<Found> found;
    std::vector<PixelSize> sizes;
    const Tensor objects = at::tensor(objects_, at::kLong);
    visit(
        batch,
        [&](Index picture, PixelSize size, const Activations& features, const Tensor& places) {
          if (picture == static_cast<Index>(found.size())) found.emplace_back(), sizes.push_back(size);
          const Tensor sure = head_->predict(head_->forward(features, Pass{})).cpu().index_select(1, objects);
          const Tensor good = sure.ge(options_.threshold).nonzero(), row = good.select(1, 0), label = good.select(1, 1);
          if (row.numel() == 0) return;
          Found& own = found.back();
          const Tensor window = places.index_select(0, row);
          Tensor box = detail::without_margin(window, options_.margin);
          if (offset_weight_.defined()) {
            const Tensor of_these = features[0].cpu().index_select(0, row);
            box = BoxCoder{}.decode(at::addmm(offset_bias_, of_these.to(at::kFloat), offset_weight_.t()), box);
          }
          own.boxes.push_back(box), own.windows.push_back(window), own.labels.push_back(label);
          own.scores.push_back(sure.index({row, label}));
        },
        precision);
    std::vector<WindowAnswers> out;
    for (std::size_t i = 0; i < found.size(); ++i) {
      const Found& own = found[i];
      const Tensor score = at::cat(own.scores);
      const Tensor order = score.argsort(true, 0, true).narrow(0, 0, std::min(options_.candidates, score.size(0)));
      const auto sorted = [&](const std::vector<Tensor>& parts) { return at::cat(parts).index_select(0, order); };
      out.push_back(
          {{clip_boxes(sorted(own.boxes), sizes[i]), sorted(own.scores), sorted(own.labels)}, sorted(own.windows)});
    }
    return out;
  }

  /// Is given a picture's number and size, what the head takes of some of its windows, and these windows (P, 4).
  using Visit = std::function<void(Index picture, PixelSize size, const Activations& features, const Tensor& windows)>;

  /// Shows the network all windows of these pictures, as `options().mode` says, and calls `use`, some at a time,
  /// picture by picture. \throws DataError for a picture with more than `most_windows` windows
  void visit(const Batch& batch, const Visit& use, Precision precision = Precision::automatic) const {
    detail::guarded("sliding a window", [&] {
      const torch::NoGradGuard guard;
      const bool dense = options_.mode == WindowMode::dense;
      detail::BackboneCore core = classifier_.backbone_core();
      const std::vector<Index> wanted = dense ? std::vector<Index>{core.graph.map} : classifier_.wanted();
      // Weights are packed for an input's size: that of a level, not that of a window, is several times as fast.
      if (dense) core.preprocessing.size = std::max(core.size(), std::min(4 * core.size(), options_.tile));
      const auto engine = engines_[dense ? 1 : 0].get(core, wanted, precision);
      Index number = 0;
      for (const Tensor& block : batch.pictures) {
        detail::check_pictures(block);
        check_channels(block.size(1));
        for (Index i = 0; i < block.size(0); ++i) visit(block.narrow(0, i, 1).cpu(), number++, *engine, use);
      }
      return 0;
    });
  }

  /// \name Boxes: what a window's object fills of it is the window less its margin, or what a linear function of the
  /// window's pooled features tells, as `BoxCoder` decodes it.
  /// \{

  /// \param weight (4, width) and bias (4), float32; of a head `RegressionLinear`, say. Undefined ones: none
  void set_offsets(const Tensor& weight, const Tensor& bias) {
    const Index width = classifier_.backbone_core().features.width;
    if (weight.defined() != bias.defined() || (weight.defined() && (weight.dim() != 2 || weight.size(0) != 4 ||
                                                                    weight.size(1) != width || bias.numel() != 4)))
      throw OptionError(detail::text("four offsets of a box follow from ", width, " features by a weight (4, ", width,
                                     ") and a bias (4)"));
    if (weight.defined() && !std::same_as<typename H::Input, Pooled>)
      throw OptionError("boxes follow from pooled features, and this classifier's head takes a map");
    offset_weight_ = weight.defined() ? weight.detach().to(at::kFloat).clone() : weight;
    offset_bias_ = bias.defined() ? bias.detach().to(at::kFloat).flatten().clone() : bias;
  }
  std::pair<Tensor, Tensor> offsets() const { return {offset_weight_, offset_bias_}; }

  /// Learns them by least squares with a penalty: ridge regression in closed form, in double precision, on standardised
  /// features. \param ridge the penalty by the mean square of a feature \throws DataError without any object
  void fit_boxes(const WindowData& windows, double ridge = 0.1) {
    detail::guarded("learning boxes", [&] {
      const torch::NoGradGuard guard;
      const TensorData<Values> data = windows.offsets();
      const auto& core = classifier_.backbone_core();
      const auto engine = engines_[0].get(core, classifier_.wanted(), Precision::automatic);
      std::vector<Tensor> rows;
      for (Index from = 0; from < data.size(); from += options_.batch) {
        const Index n = std::min(options_.batch, data.size() - from);
        const Batch batch{{data.pictures().narrow(0, from, n)}};
        rows.push_back((*engine)(detail::input_of(core, batch, *engine))[0].cpu());
      }
      fit_offsets(at::cat(rows), data.target(), ridge);
      return 0;
    });
  }
  /// The same from features. \param features (P, width) of windows that show an object \param target (P, 4) what
  /// `BoxCoder` makes of the objects, from the windows less their margin
  void fit_offsets(const Tensor& features, const Tensor& target, double ridge = 0.1) {
    if (!(ridge > 0.0)) throw OptionError(detail::text("a ridge must be above 0, not ", ridge));
    const torch::NoGradGuard guard;
    const Tensor all = features.to(at::kDouble), wanted = target.to(at::kDouble);
    const Tensor mean = all.mean(0), deviation = all.std(0, false).clamp_min(1e-6);
    const Tensor x = (all - mean) / deviation, middle = wanted.mean(0);
    const auto count = static_cast<double>(all.size(0));
    Tensor square = x.t().mm(x) / count;
    square.diagonal().add_(ridge);
    const Tensor right = x.t().mm(wanted - middle) / count;
    const Tensor weight = at::cholesky_solve(right, at::linalg_cholesky(square)).t() / deviation;
    set_offsets(weight, middle - at::mv(weight, mean));
  }
  /// \}

  /// Moves the model. \throws DeviceError if the device is not there
  void to(const torch::Device& device) { classifier_.to(device); }

  /// An independent copy.
  SlidingWindow copy() const {
    SlidingWindow out(clone(classifier_), options_);
    out.set_offsets(offset_weight_, offset_bias_);
    return out;
  }

 private:
  static WindowPyramid pyramid(const WindowOptions& o) {
    return {.window = o.window, .stride = o.stride, .scale = o.scale, .smallest = o.smallest, .largest = o.largest};
  }

  void check_dense(const WindowOptions& o) const {
    const auto& core = classifier_.backbone_core();
    const std::string why = std::same_as<typename H::Input, Pooled> ? detail::why_not_dense(core)
                                                                    : std::string("its head looks at the whole map");
    if (!why.empty())
      throw OptionError(detail::text("this classifier can't look densely: ", why, "; use WindowMode::exact"));
    const Index map = core.size() / core.measure.shapes[Graph::at(core.graph.map)][1];
    const Index least = map * o.window / std::gcd(map * o.window, core.size());
    if (o.stride % least != 0)
      throw OptionError(detail::text("a dense window of ", o.window, " pixels, seen at ", core.size(),
                                     ", can't go on by ", o.stride, ": the network's last map has a place each ", map,
                                     " pixels of its input; take a multiple of ", least,
                                     ", or a network with a smaller output_stride"));
  }

  void check_channels(Index have) const {
    const Index takes = classifier_.backbone_core().options.in_channels;
    if (have != 1 && have != takes && !(have == 3 && takes == 1))
      throw DataError(detail::text("the pictures have ", have, " channels and the network takes ", takes));
  }

  void visit(const Tensor& picture, Index number, const Engine& engine, const Visit& use) const {
    const auto& core = classifier_.backbone_core();
    const PixelSize size{picture.size(3), picture.size(2)};
    const auto levels = window_levels(size, pyramid(options_));
    if (const Index windows = count_windows(levels); windows > options_.most_windows)
      throw DataError(detail::text("a picture of ", size.width, " x ", size.height, " pixels has ", windows,
                                   " windows, and most_windows is ", options_.most_windows,
                                   "; raise it, `stride` or `smallest`"));
    if (picture.scalar_type() == at::kFloat && !at::isfinite(picture).all().template item<bool>())
      detail::refuse_not_finite(picture, 0, {});
    const detail::WindowVisit own = [&](const Activations& features, const Tensor& windows) {
      use(number, size, features, windows);
    };
    for (const WindowLevel& level : levels) {
      if (options_.mode == WindowMode::dense)
        detail::visit_densely(picture, level, core, engine, options_.tile, own);
      else
        detail::visit_exactly(picture, level, core, engine, options_.batch, own);
    }
  }

  /// A picture's answers, in parts.
  struct Found {
    std::vector<Tensor> boxes{at::empty({0, 4})}, scores{at::empty({0})}, labels{at::empty({0}, at::kLong)},
        windows{at::empty({0, 4})};
  };

  Classifier<N, H> classifier_;
  WindowOptions options_;
  Labels labels_;
  std::vector<Index> objects_;  ///< the classifier's classes that are objects
  H* head_ = &classifier_.head();
  Tensor offset_weight_, offset_bias_;
  std::unique_ptr<detail::PredictingEngine[]> engines_ = std::make_unique<detail::PredictingEngine[]>(2);
};

template <class N, class H>
SlidingWindow(Classifier<N, H>&&, const WindowOptions&) -> SlidingWindow<N, H>;
template <class N, class H>
SlidingWindow(Classifier<N, H>&&) -> SlidingWindow<N, H>;
template <class N, class H>
SlidingWindow(const Classifier<N, H>&, const WindowOptions&) -> SlidingWindow<N, H>;
template <class N, class H>
SlidingWindow(const Classifier<N, H>&) -> SlidingWindow<N, H>;

/// An independent copy of a model: weights, frozen layers, labels, options.
template <class N, class H>
SlidingWindow<N, H> clone(const SlidingWindow<N, H>& model) {
  return model.copy();
}

/// Which wrong answers are looked for.
struct HardNegatives {
  double score = 0.5;      ///< an answer with this probability or more
  double iou_below = 0.3;  ///< whose window, less its margin, overlaps each object by less
  Index per_picture = 10;  ///< the surest
  double apart = 0.5;      ///< and overlaps the others by less
};

/// Looks for windows that are background and are taken for an object, and adds them to the background that the
/// classifier learns from (Felzenszwalb et al., "Object detection with discriminatively trained part-based models",
/// TPAMI 2010). \param data the pictures that `windows` were cut from \returns how many were added
template <class N, class H, class D>
Index mine_hard_negatives(const SlidingWindow<N, H>& detector, WindowData& windows, const D& data,
                          const HardNegatives& options = {}) {
  detail::check_threshold(options.score, "the score of a hard negative");
  detail::check_threshold(options.iou_below, "iou_below of hard negatives");
  if (options.per_picture < 1) throw OptionError("hard negatives: per_picture must be at least 1");
  std::vector<CutWindow> hard;
  WindowData::each_block(data, [&](const Batch& batch, std::span<const Index> ids) {
    const auto there = windows.objects_of(data, batch, ids);
    const auto answers = detector.answers(batch);
    for (std::size_t i = 0; i < ids.size(); ++i) {
      const Tensor scores = answers[i].found.scores, places = answers[i].windows;
      // Of several classes that a window is taken for, the surest is enough.
      const Tensor kept = nms(places, scores, options.apart);
      Index taken = 0;
      for (Index k = 0; k < kept.size(0) && taken < options.per_picture; ++k) {
        const Index at = kept[k].item<Index>();
        if (scores[at].item<double>() < options.score) break;
        CutWindow window{.picture = ids[i]};
        for (std::size_t side = 0; side < 4; ++side)
          window.box[side] = places[at][static_cast<Index>(side)].item<double>();
        if (detail::worst_overlap(window.box, there[i], windows.options().margin) >= options.iou_below) continue;
        hard.push_back(window);
        ++taken;
      }
    }
  });
  const auto added = static_cast<Index>(hard.size());
  windows.add_background(data, std::move(hard));
  return added;
}

/// How a sliding window is trained.
struct FitWindows {
  Index rounds = 1;  ///< times that hard negatives are looked for and the training goes on with them
  HardNegatives negatives{};
  bool boxes = false;  ///< whether boxes are learnt too, at the end
  double ridge = 0.1;  ///< see `SlidingWindow::fit_boxes`
};

/// Trains a sliding window, in one call: train, look for hard negatives, train on, and so on; then the boxes.
/// \param trainer of `detector.classifier()` \param windows cut from `data`; hard negatives are added
/// \param validation windows of other pictures
/// \returns the history of the last training
template <class N, class H, class T, class D, class... C>
auto fit_windows(SlidingWindow<N, H>& detector, T& trainer, WindowData& windows, const WindowData& validation,
                 const D& data, const FitWindows& options = {}, C&&... callbacks) {
  if (options.rounds < 0) throw OptionError(detail::text("rounds must be at least 0, not ", options.rounds));
  auto history = trainer.fit(windows, validation, callbacks...);
  for (Index round = 0; round < options.rounds; ++round) {
    if (mine_hard_negatives(detector, windows, data, options.negatives) == 0) break;
    history = trainer.fit(windows, validation, callbacks...);
  }
  if (options.boxes) detector.fit_boxes(windows, options.ridge);
  return history;
}

namespace detail {

TRANSFERLIB_API Json to_json(const WindowOptions& o);

TRANSFERLIB_API WindowOptions window_options_of(const Json& j);

}  // namespace detail

/// Writes a sliding window, atomically: its classifier's file, which opens as such too, and in it how the window slides
/// and how boxes are told. \throws FileError
template <class N, class H>
void save(const SlidingWindow<N, H>& model, const std::filesystem::path& path) {
  detail::guarded("saving the model", [&] {
    save(model.classifier(), path);
    const Checkpoint file = open_checkpoint(path);
    std::map<std::string, std::string> metadata = file.metadata;
    metadata["sliding_window"] = detail::to_json(model.options()).dump();
    StateDict state = read_state_dict(path);
    if (const auto [weight, bias] = model.offsets(); weight.defined()) {
      state.emplace_back("offsets.weight", weight);
      state.emplace_back("offsets.bias", bias);
    }
    write_state_dict(path, state, metadata);
    return 0;
  });
}

/// Reads a sliding window: what `save` wrote beside its classifier.
/// \param classifier read from the same file, by `load` \throws FileError, FormatError, WeightsError
template <class N, class H>
SlidingWindow<N, H> load_window(Classifier<N, H>&& classifier, const std::filesystem::path& path) {
  return detail::guarded(detail::text("loading ", path), [&] {
    const Checkpoint file = open_checkpoint(path);
    const auto found = file.metadata.find("sliding_window");
    if (found == file.metadata.end())
      throw WeightsError(detail::text("the model in ", path,
                                      " is no sliding window: its metadata has no \"sliding_window\"; a classifier "
                                      "becomes one by SlidingWindow{classifier, options}"));
    const WindowOptions options =
        detail::window_options_of(parse_json(found->second, detail::text(path, ": sliding_window")));
    SlidingWindow<N, H> out(std::move(classifier), options);
    Tensor weight, bias;
    for (const auto& [name, tensor] : read_state_dict(path)) {
      if (name == "offsets.weight") weight = tensor;
      if (name == "offsets.bias") bias = tensor;
    }
    out.set_offsets(weight, bias);
    return out;
  });
}

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API Tensor normalised_pixels(const Tensor& picture, const Preprocessing& p, Index channels) {
  Tensor x = picture.size(1) == 3 && channels == 1 ? to_grey(picture) : picture;
  x = x.scalar_type() == at::kByte ? x.to(at::kFloat) / 255.0F : x;
  std::vector<float> mean, deviation;
  for (Index c = 0; c < channels; ++c) {
    mean.push_back(normalisation(p, channels, c).first);
    deviation.push_back(normalisation(p, channels, c).second);
  }
  const auto column = [&](const std::vector<float>& v) { return at::tensor(v).view({1, -1, 1, 1}); };
  return (x - column(mean)) / column(deviation);
}

TRANSFERLIB_API std::string why_not_dense(const BackboneCore& core) {
  const Graph& graph = core.graph;
  const auto& shapes = core.measure.shapes;
  const std::vector<Index> pooled{graph.pooled}, map{graph.map};
  if (core.preprocessing.crop_fraction < 1.0)
    return text("it cuts its pictures (crop_fraction ", core.preprocessing.crop_fraction,
                "), so it sees no whole window");
  const auto& last = shapes[Graph::at(graph.map)];
  if (last.size() != 3 || last[1] != last[2] || core.size() % last[1] != 0)
    return text("its last map is none of square cells of the input's ", core.size(), " pixels");
  if (graph.cut_at(graph.map + 1, pooled).live != map) return "its pooled features are not those of its last map alone";
  const auto need = graph.needed(map);
  for (std::size_t s = 1; s < need.size(); ++s) {
    const Step& step = graph.steps[s];
    if (!need[s]) continue;
    const auto& shape = shapes[s];
    const bool gathers = shape.size() == 3 && step.kind == Kind::pool && shape[1] == 1 && shape[2] == 1 &&
                         shapes[Graph::at(step.from[0])].size() == 3 && shapes[Graph::at(step.from[0])][1] > 2;
    if (shape.size() != 3 || gathers)
      return text("its layer ", step.layers.empty() ? text(s) : graph.table.rows[Graph::at(step.layers[0])].name,
                  gathers ? " looks at all places (squeeze-and-excitation)" : " has no map of places");
  }
  const torch::NoGradGuard guard;
  const Tensor sample = at::linspace(-1.0, 2.0, last[0] * last[1] * last[2]).sin().view({1, last[0], last[1], last[2]});
  const Tensor on_device = sample.to(core.device());
  const Tensor whole = graph.run({on_device}, Cut{graph.map + 1, {graph.map}}, pooled, {}, core.frozen)[0];
  const Tensor means = features_of_means(core, on_device.mean(at::IntArrayRef{2, 3}));
  if (!at::allclose(whole, means, 1e-3, 1e-4)) return "its pooled features are not those of its last map's mean";
  return {};
}

TRANSFERLIB_API Tensor windows_of(const WindowLevel& level, Index column, Index columns, Index row, Index rows) {
  Tensor out = at::empty({rows * columns, 4}, at::kFloat);
  float* to = out.mutable_data_ptr<float>();
  for (Index r = row; r < row + rows; ++r)
    for (Index c = column; c < column + columns; ++c)
      for (const double at : level.box(c, r)) *to++ = static_cast<float>(at);
  return out;
}

TRANSFERLIB_API void visit_exactly(const Tensor& picture, const WindowLevel& level, const BackboneCore& core,
                                   const Engine& engine, Index batch, const WindowVisit& visit) {
  const Tensor scaled = resize(picture, level.size.height, level.size.width, core.preprocessing.interpolation);
  const Index columns = level.columns(), count = level.count();
  for (Index from = 0; from < count; from += batch) {
    const Index n = std::min(batch, count - from);
    std::vector<Tensor> crops, places;
    for (Index i = from; i < from + n; ++i) {
      const Index column = i % columns, row = i / columns;
      crops.push_back(
          scaled.narrow(2, row * level.stride, level.window).narrow(3, column * level.stride, level.window));
      places.push_back(windows_of(level, column, 1, row, 1));
    }
    const Tensor x = input_of(core, Batch{{at::cat(crops)}}, engine);
    visit(engine(x), at::cat(places));
  }
}

TRANSFERLIB_API void visit_densely(const Tensor& picture, const WindowLevel& level, const BackboneCore& core,
                                   const Engine& engine, Index tile, const WindowVisit& visit) {
  const Index view = core.size(), step = level.stride * view / level.window;
  const Index cells = core.measure.shapes[Graph::at(core.graph.map)][1], stride = view / cells;
  const auto pixels = [&](Index windows) { return (windows - 1) * step + view; };
  const Tensor scaled =
      resize(picture, pixels(level.rows()), pixels(level.columns()), core.preprocessing.interpolation);
  const Index most = std::max<Index>(1, (tile - view) / step + 1);
  for (Index row = 0; row < level.rows(); row += most)
    for (Index column = 0; column < level.columns(); column += most) {
      const Index rows = std::min(most, level.rows() - row), columns = std::min(most, level.columns() - column);
      const Tensor part = scaled.narrow(2, row * step, pixels(rows)).narrow(3, column * step, pixels(columns));
      Tensor map = engine(normalised_pixels(part, core.preprocessing, core.options.in_channels))[0];
      map = at::avg_pool2d(map.to(at::kFloat), {cells, cells}, {step / stride, step / stride});
      const Tensor means = map.flatten(2).squeeze(0).transpose(0, 1).contiguous();
      visit({features_of_means(core, means)}, windows_of(level, column, columns, row, rows));
    }
}

TRANSFERLIB_API Detections merged(const Detections& all, const Merge& how, Index most) {
  Tensor boxes = all.boxes, scores = all.scores, labels = all.labels;
  if (const auto* greedy = std::get_if<GreedyMerge>(&how)) {
    const Tensor kept = nms_by_class(boxes, scores, labels, greedy->threshold);
    boxes = boxes.index_select(0, kept), scores = scores.index_select(0, kept), labels = labels.index_select(0, kept);
  } else if (const auto* fusion = std::get_if<FusionOptions>(&how)) {
    FusedBoxes fused = weighted_boxes_fusion(boxes, scores, labels, *fusion);
    boxes = fused.boxes, scores = fused.scores, labels = fused.labels;
  } else {
    std::vector<Tensor> b{boxes.narrow(0, 0, 0)}, s{scores.narrow(0, 0, 0)}, l{labels.narrow(0, 0, 0)};
    for (Index c = 0, end = labels.numel() == 0 ? 0 : labels.max().item<Index>() + 1; c < end; ++c) {
      const Tensor own = labels.eq(c).nonzero().squeeze(1), own_boxes = boxes.index_select(0, own);
      const auto soft = soft_nms(own_boxes, scores.index_select(0, own), std::get<SoftNmsOptions>(how));
      b.push_back(own_boxes.index_select(0, soft.indices));
      s.push_back(soft.scores);
      l.push_back(labels.index_select(0, own).index_select(0, soft.indices));
    }
    boxes = at::cat(b), scores = at::cat(s), labels = at::cat(l);
    const Tensor order = scores.argsort(true, 0, true);
    boxes = boxes.index_select(0, order), scores = scores.index_select(0, order),
    labels = labels.index_select(0, order);
  }
  const Index n = std::min(most, scores.size(0));
  return {boxes.narrow(0, 0, n), scores.narrow(0, 0, n), labels.narrow(0, 0, n)};
}

TRANSFERLIB_API Json to_json(const WindowOptions& o) {
  Json merge;
  if (const auto* greedy = std::get_if<GreedyMerge>(&o.merge))
    merge = {{"how", "greedy"}, {"threshold", greedy->threshold}};
  else if (const auto* fusion = std::get_if<FusionOptions>(&o.merge))
    merge = {{"how", "fusion"},
             {"threshold", fusion->threshold},
             {"highest", fusion->score == FusionOptions::Score::highest},
             {"models", fusion->models},
             {"least_score", fusion->least_score}};
  else if (const auto* soft = std::get_if<SoftNmsOptions>(&o.merge))
    merge = {{"how", "soft"},
             {"threshold", soft->threshold},
             {"gaussian", soft->decay == SoftNmsOptions::Decay::gaussian},
             {"sigma", soft->sigma},
             {"least_score", soft->least_score}};
  return {{"window", o.window},
          {"stride", o.stride},
          {"scale", o.scale},
          {"smallest", o.smallest},
          {"largest", o.largest},
          {"margin", o.margin},
          {"threshold", o.threshold},
          {"merge", merge},
          {"dense", o.mode == WindowMode::dense},
          {"background", o.background},
          {"most", o.most},
          {"candidates", o.candidates},
          {"most_windows", o.most_windows},
          {"batch", o.batch},
          {"tile", o.tile}};
}

TRANSFERLIB_API WindowOptions window_options_of(const Json& j) {
  WindowOptions o;
  const auto number = [](const Json& from, const char* name, auto& into) {
    into = from[name].get<std::remove_reference_t<decltype(into)>>();
  };
  number(j, "window", o.window), number(j, "stride", o.stride), number(j, "scale", o.scale);
  number(j, "smallest", o.smallest), number(j, "largest", o.largest), number(j, "margin", o.margin);
  number(j, "threshold", o.threshold), number(j, "background", o.background), number(j, "most", o.most);
  number(j, "candidates", o.candidates), number(j, "most_windows", o.most_windows);
  number(j, "batch", o.batch), number(j, "tile", o.tile);
  o.mode = j["dense"].get<bool>() ? WindowMode::dense : WindowMode::exact;
  const Json& m = j["merge"];
  const auto how = m["how"].get<std::string>();
  if (how == "fusion") {
    FusionOptions fusion;
    number(m, "threshold", fusion.threshold), number(m, "models", fusion.models);
    number(m, "least_score", fusion.least_score);
    fusion.score = m["highest"].get<bool>() ? FusionOptions::Score::highest : FusionOptions::Score::average;
    o.merge = fusion;
  } else if (how == "soft") {
    SoftNmsOptions soft;
    number(m, "threshold", soft.threshold), number(m, "sigma", soft.sigma);
    number(m, "least_score", soft.least_score);
    soft.decay = m["gaussian"].get<bool>() ? SoftNmsOptions::Decay::gaussian : SoftNmsOptions::Decay::linear;
    o.merge = soft;
  } else {
    o.merge = GreedyMerge{m["threshold"].get<double>()};
  }
  return o;
}

}  // namespace transferlib::detail

#endif  // TRANSFERLIB_DEFINES

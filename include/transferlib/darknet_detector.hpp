/// \file
/// A `.cfg` of darknet that finds objects, as parts of ours: all of its layers but the last convolutions are a
/// backbone, whose pyramid is what these look at; they, with the anchors and rules of its `[yolo]` or `[region]`
/// layers, are a head; or, in YOLO v1's, all before the last connected layer, and that with `[detection]`. Together
/// they find what darknet finds.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include <transferlib/backbones/darknet.hpp>
#include <transferlib/core/error.hpp>
#include <transferlib/core/files.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/darknet.hpp>
#include <transferlib/formats/darknet.hpp>
#include <transferlib/heads/yolo.hpp>
#include <transferlib/heads/yolo_v1.hpp>
#include <transferlib/model/detector.hpp>

namespace transferlib {
namespace detail {

/// A layer that finds objects, and the convolution before it.
struct DarknetFinder {
  Index layer = 0;   ///< its number; the convolution's is one less
  Index stride = 1;  ///< input pixels a place
};

inline DarknetReader darknet_reader(const DarknetConfig& config, const DarknetLayer& l, DarknetSection& section) {
  section = {std::string(to_string(l.type)), l.line, l.options};
  return {section, config.where};
}

/// The layers that find objects, those of the finest maps first. \throws FormatError where there are none, or they are
/// not as darknet's published networks have them
TRANSFERLIB_API std::vector<DarknetFinder> darknet_finders(const DarknetConfig& config);

/// Whether a `.cfg` is YOLO v1's.
inline bool is_darknet_v1(const DarknetConfig& config, const std::vector<DarknetFinder>& finders) {
  return config.layers[Graph::at(finders.at(0).layer)].type == DarknetType::detection;
}

/// The options of the head that a `.cfg` of v1 describes. \throws FormatError for one of another version
TRANSFERLIB_API YoloV1::Options darknet_v1_head_options(const DarknetConfig& config);

/// The options of the head that a `.cfg` describes.
TRANSFERLIB_API YoloOptions darknet_head_options(const DarknetConfig& config);

/// The backbone: `darknet_core`, and its pyramid is what the layers that find objects look at.
TRANSFERLIB_API BackboneCore darknet_pyramid_core(const DarknetConfig& config, const DarknetOptions& options);

}  // namespace detail

/// A detector that was darknet's.
using DarknetDetector = Detector<AnyNetwork, NoNeck, Yolo>;
/// One of YOLO v1.
using DarknetV1Detector = Detector<AnyNetwork, NoNeck, YoloV1>;

/// The head that a `.cfg` describes: the anchors, losses and suppression of its `[yolo]` or `[region]` layers. For
/// other classes than the `.cfg`'s it is the same recipe. \throws FileError, FormatError (with file and line)
inline Head<Yolo> darknet_head(const std::filesystem::path& cfg) {
  return {detail::darknet_head_options(read_darknet_cfg(cfg))};
}

/// The head that a `.cfg` of YOLO v1 describes: its `[detection]` and the connected layer before it.
/// \throws FileError, FormatError (with file and line)
inline Head<YoloV1> darknet_v1_head(const std::filesystem::path& cfg) {
  return {detail::darknet_v1_head_options(read_darknet_cfg(cfg))};
}

/// All of a `.cfg` before its head, with random weights.
/// \throws FileError, FormatError (with file and line), OptionError
inline AnyBackbone darknet_pyramid(const std::filesystem::path& cfg, const DarknetOptions& options = {}) {
  return AnyBackbone(detail::darknet_pyramid_core(read_darknet_cfg(cfg), options));
}

/// All of a `.cfg` before its head, with the weights of a file: the backbone of a detector of other classes.
/// Layers have darknet's numbers, so `FreezeUntil{"109"}` freezes what stands before its layer 109.
/// \throws FileError, FormatError, OptionError, WeightsError
inline AnyBackbone darknet_pyramid(const std::filesystem::path& cfg, const std::filesystem::path& weights,
                                   const DarknetOptions& options = {}) {
  AnyBackbone out = darknet_pyramid(cfg, options);
  detail::read_weights(out.core, weights);
  return out;
}

namespace detail {

/// A detector of a `.cfg` and a `.weights` file. \param neck a neck that does nothing \param head the recipe of the
/// `.cfg`'s head
template <class K, class H>
Detector<AnyNetwork, K, H> darknet_detector_of(const std::filesystem::path& cfg, const std::filesystem::path& weights,
                                               const Neck<K>& neck, const Head<H>& head, Labels labels,
                                               const DarknetOptions& options) {
  AnyBackbone backbone = darknet_pyramid(cfg, weights, options);
  const auto network = std::dynamic_pointer_cast<Darknet>(backbone.core.network);
  const auto finders = darknet_finders(network->config());
  const Index classes = network->config().layers[Graph::at(finders[0].layer)].classes;
  if (static_cast<Index>(labels.size()) != classes)
    throw OptionError(text(cfg, " finds ", classes, " classes, and there are ", labels.size(),
                           " labels; for other classes give the backbone another head: "
                           "Detector{darknet_pyramid(cfg, weights), policy, darknet_head(cfg), labels}"));
  Detector<AnyNetwork, K, H> out(std::move(backbone), FreezePolicy<FreezeNone>{}, neck, head, std::move(labels));
  StateDict state;
  const bool v1 = is_darknet_v1(network->config(), finders);
  for (const auto& [name, tensor] : state_dict(*network))
    for (std::size_t l = 0; l < finders.size(); ++l)
      for (const char* what : {"weight", "bias"})
        if (name == text(finders[l].layer - 1, v1 ? ".connected." : ".conv.", what))
          state.emplace_back(v1 ? text("output.", what) : text(l, ".", what), tensor);
  load_state_dict(inner_head(out.head()), state, {}, weights.string());
  return out;
}

}  // namespace detail

/// The whole detector of a `.cfg` and a `.weights` file, which finds what darknet finds. Nothing is frozen.
/// \param labels the names of its classes, as `read_names` reads them
/// \throws FileError, FormatError, OptionError, WeightsError
inline DarknetDetector darknet_detector(const std::filesystem::path& cfg, const std::filesystem::path& weights,
                                        Labels labels, const DarknetOptions& options = {}) {
  return detail::darknet_detector_of(cfg, weights, Neck<NoNeck>{}, darknet_head(cfg), std::move(labels), options);
}

/// The same of YOLO v1, whose `.cfg` ends in `[detection]`. It takes pictures of the `.cfg`'s size only.
/// \throws FileError, FormatError, OptionError, WeightsError
inline DarknetV1Detector darknet_v1_detector(const std::filesystem::path& cfg, const std::filesystem::path& weights,
                                             Labels labels, const DarknetOptions& options = {}) {
  return detail::darknet_detector_of(cfg, weights, Neck<NoNeck>{}, darknet_v1_head(cfg), std::move(labels), options);
}

/// The names of classes in a text file, one a line, as darknet's `.names`. Empty lines at the end mean nothing.
/// \throws FileError; FormatError for an empty line between others
TRANSFERLIB_API Labels read_names(const std::filesystem::path& path);

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API std::vector<DarknetFinder> darknet_finders(const DarknetConfig& config) {
  const std::vector<DarknetShape> shapes = darknet_shapes(config, config.input);
  std::vector<DarknetFinder> out;
  for (Index n = 0; n < config.used; ++n) {
    const DarknetLayer& l = config.layers[Graph::at(n)];
    const auto refuse = [&](const auto&... why) { throw FormatError(text(darknet_place(config, l), ": ", why...)); };
    if (l.type != DarknetType::yolo && l.type != DarknetType::region && l.type != DarknetType::detection) continue;
    if (l.type != DarknetType::yolo && l.coordinates != 4) refuse("boxes of ", l.coordinates, " numbers, not 4");
    if (l.background) refuse("background=1 is of another kind of network than YOLO's");
    if (l.type == DarknetType::detection) {
      const DarknetLayer* c = n > 0 ? &config.layers[Graph::at(n - 1)] : nullptr;
      if (c == nullptr || n < 2 || c->type != DarknetType::connected || c->batch_normalize || c->activation != "linear")
        refuse("a [connected] layer with activation=linear, without batch_normalize, is to stand before it");
      if (!out.empty()) refuse("another layer finds objects too: layer ", out.front().layer);
      const DarknetShape& seen = shapes[Graph::at(n - 2)];
      if (seen.height != seen.width) refuse("it looks at a map of ", seen.height, " x ", seen.width, ", not a square");
      out.push_back({n, std::max<Index>(1, config.input.height / seen.height)});
      continue;
    }
    const bool fed = n > 0 && config.layers[Graph::at(n - 1)].type == DarknetType::convolutional;
    const Index values = l.boxes * (5 + l.classes);
    if (!fed) refuse("a convolution is to stand before it");
    const DarknetLayer& c = config.layers[Graph::at(n - 1)];
    if (c.size != 1 || c.stride != 1 || c.groups != 1 || c.batch_normalize || c.filters != values ||
        c.activation != (l.new_coordinates ? "logistic" : "linear"))
      refuse("the convolution before it is to be of size=1, stride=1, filters=", values,
             " and activation=", l.new_coordinates ? "logistic" : "linear", ", without batch_normalize");
    if (!out.empty()) {
      const DarknetLayer& first = config.layers[Graph::at(out.front().layer)];
      if (first.type != l.type || first.classes != l.classes || first.new_coordinates != l.new_coordinates)
        refuse("it has another type, classes or coordinates than layer ", out.front().layer);
    }
    out.push_back({n, std::max<Index>(1, config.input.height / shapes[Graph::at(n)].height)});
  }
  if (out.empty())
    throw FormatError(text(config.where, ": no layer finds objects: there is no [yolo], [region] or [detection]"));
  std::stable_sort(out.begin(), out.end(),
                   [](const DarknetFinder& a, const DarknetFinder& b) { return a.stride < b.stride; });
  return out;
}

TRANSFERLIB_API YoloV1::Options darknet_v1_head_options(const DarknetConfig& config) {
  const std::vector<DarknetFinder> finders = darknet_finders(config);
  if (!is_darknet_v1(config, finders))
    throw FormatError(text(config.where, ": it is not of YOLO v1: it has no [detection]; use darknet_head"));
  const Index n = finders[0].layer;
  const DarknetLayer& l = config.layers[Graph::at(n)];
  DarknetSection section;
  const DarknetReader read = darknet_reader(config, l, section);
  YoloV1::Options out{.side = l.side,
                      .boxes = l.boxes,
                      .places = darknet_shapes(config, config.input)[Graph::at(n - 2)].height,
                      .softmax = l.softmax,
                      .roots = read.flag("sqrt"),
                      .dropout = 0.0,  // a layer of the `.cfg` where it has one
                      .box_weight = read.real("coord_scale", 1.0, 0.0, 1e6),
                      .object_weight = read.real("object_scale", 1.0, 0.0, 1e6),
                      .empty_weight = read.real("noobject_scale", 1.0, 0.0, 1e6),
                      .class_weight = read.real("class_scale", 1.0, 0.0, 1e6)};
  out.selection.score_threshold = 0.005;  // as darknet measures average precision
  return out;
}

TRANSFERLIB_API YoloOptions darknet_head_options(const DarknetConfig& config) {
  const std::vector<DarknetFinder> finders = darknet_finders(config);
  if (is_darknet_v1(config, finders))
    throw FormatError(text(darknet_place(config, config.layers[Graph::at(finders[0].layer)]),
                           ": it is of YOLO v1, whose head is a `YoloV1`: use darknet_v1_head, darknet_v1_detector, or "
                           "any_darknet_detector for a .cfg of any version"));
  YoloOptions out = config.layers[Graph::at(finders[0].layer)].type == DarknetType::region ? yolo_v2() : yolo_v3();
  out.anchors.clear();
  out.grid_sensitivity.clear();
  out.selection.score_threshold = 0.005;  // as darknet measures average precision
  for (const DarknetFinder& finder : finders) {
    const DarknetLayer& l = config.layers[Graph::at(finder.layer)];
    DarknetSection section;
    const DarknetReader read = darknet_reader(config, l, section);
    Anchors anchors;
    const bool region = l.type == DarknetType::region;
    for (Index a = 0; a < l.boxes; ++a) {
      const std::size_t pair = 2 * Graph::at(l.mask.empty() ? a : l.mask[Graph::at(a)]);
      if (pair + 1 >= l.anchors.size())
        throw FormatError(text(darknet_place(config, l), ": it has no anchors, or fewer than its mask names"));
      const double scale = region ? static_cast<double>(finder.stride) : 1.0;
      anchors.push_back({l.anchors[pair] * scale, l.anchors[pair + 1] * scale});
    }
    out.anchors.push_back(std::move(anchors));
    out.grid_sensitivity.push_back(l.scale_x_y);
    if (region) {
      if (!l.softmax) out.classes = ClassRelation::logistic;
      out.ignore_threshold = read.real("thresh", 0.5, 0.0, 1.0);
      out.object_weight = read.real("object_scale", 1.0, 0.0, 1e6);
      out.box_weight = read.real("coord_scale", 1.0, 0.0, 1e6);
      out.class_weight = read.real("class_scale", 1.0, 0.0, 1e6);
      out.objectness = read.flag("rescore") ? Objectness::overlap : Objectness::one;
      continue;
    }
    if (l.new_coordinates) out.sizes = BoxSizes::squared;
    out.ignore_threshold = read.real("ignore_thresh", 0.5, 0.0, 1.0);
    out.anchor_threshold = read.real("iou_thresh", 1.0, 0.0, 1.0);
    out.class_weight = read.real("cls_normalizer", 1.0, 0.0, 1e6);
    out.box_weight = read.real("iou_normalizer", 0.75, 0.0, 1e6);
    out.objectness_weight = read.real("obj_normalizer", read.real("cls_normalizer", 1.0, 0.0, 1e6), 0.0, 1e6);
    out.label_smoothing = read.real("label_smooth_eps", 0.0, 0.0, 0.999);
    const std::string loss = read.word("iou_loss", "mse");
    if (loss == "mse")
      out.box_loss.reset(), out.box_weight = 1.0;
    else
      out.box_loss = loss == "giou"   ? Overlap::giou
                     : loss == "diou" ? Overlap::diou
                     : loss == "ciou" ? Overlap::ciou
                                      : Overlap::iou;
    const std::string nms = read.word("nms_kind", "default");
    out.selection.suppression = nms == "greedynms" || nms == "diounms" ? Suppression::diou : Suppression::greedy;
    // darknet's `greedynms` has its exponent in the code.
    out.selection.beta = nms == "diounms" ? read.real("beta_nms", 0.6, 1e-6, 1e6) : 0.6;
  }
  return out;
}

TRANSFERLIB_API BackboneCore darknet_pyramid_core(const DarknetConfig& config, const DarknetOptions& options) {
  BackboneCore core = darknet_core(config, options);
  const auto& network = dynamic_cast<const Darknet&>(*core.network);
  std::vector<Index> stages, strides;
  for (const DarknetFinder& finder : darknet_finders(network.config())) {
    Index x = network.step_of(finder.layer - 1);
    // Its activation is the head's too.
    while (core.graph.steps[Graph::at(x)].kind != Kind::convolution &&
           core.graph.steps[Graph::at(x)].kind != Kind::linear)
      x = core.graph.steps[Graph::at(x)].from.at(0);
    stages.push_back(core.graph.steps[Graph::at(x)].from.at(0));
    strides.push_back(finder.stride);
  }
  core = darknet_core_with(config, options, stages, strides);
  // As darknet prepares pictures.
  core.preprocessing.interpolation = Interpolation::corners;
  core.preprocessing.crop_fraction = 1.0;
  core.preprocessing.fit = Fit::stretch;
  for (const DarknetOption& o : config.net)
    if (o.key == "letter_box" && o.value != "0") core.preprocessing.fit = Fit::darknet;
  return core;
}

}  // namespace transferlib::detail

namespace transferlib {

TRANSFERLIB_API Labels read_names(const std::filesystem::path& path) {
  Labels out;
  const std::string all = read_file(path);
  for (std::size_t from = 0; from < all.size();) {
    const std::size_t end = std::min(all.find('\n', from), all.size());
    std::string name = all.substr(from, end - from);
    while (!name.empty() && (name.back() == '\r' || name.back() == ' ' || name.back() == '\t')) name.pop_back();
    out.push_back(std::move(name));
    from = end + 1;
  }
  while (!out.empty() && out.back().empty()) out.pop_back();
  for (std::size_t i = 0; i < out.size(); ++i)
    if (out[i].empty()) throw FormatError(detail::text(path, ":", i + 1, ": a class has no name: the line is empty"));
  return out;
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

/// \file
/// Necks and heads of detectors by name, for what is chosen at run time; their options as JSON; and a detector in one
/// file, which remembers all of it.
#pragma once

#include <any>
#include <concepts>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <transferlib/backbones/darknet.hpp>
#include <transferlib/core/error.hpp>
#include <transferlib/core/guard.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/version.hpp>
#include <transferlib/formats/json.hpp>
#include <transferlib/heads/vector_head.hpp>
#include <transferlib/heads/yolo.hpp>
#include <transferlib/heads/yolo_v1.hpp>
#include <transferlib/heads/yolox.hpp>
#include <transferlib/model/detector.hpp>
#include <transferlib/model/more_classes.hpp>
#include <transferlib/model/save.hpp>
#include <transferlib/necks/elan.hpp>
#include <transferlib/necks/feature_pyramid.hpp>
#include <transferlib/necks/passthrough.hpp>
#include <transferlib/necks/path_aggregation.hpp>
#include <transferlib/necks/spp.hpp>
#include <transferlib/necks/yolo_v3.hpp>

namespace transferlib {
namespace detail {

/// \name Each field of options with its name: `visit("channels", o.channels)` …; from this they are written and read.
/// \{
template <class V>
void fields(Selection& o, V& visit) {
  visit("score_threshold", o.score_threshold), visit("suppression", o.suppression);
  visit("overlap_threshold", o.overlap_threshold), visit("beta", o.beta);
  visit("most", o.most), visit("candidates", o.candidates);
}
template <class V>
void fields(OtaOptions& o, V& visit) {
  visit("most", o.most), visit("overlap_weight", o.overlap_weight);
}
template <class V>
void fields(AnchorSize& o, V& visit) {
  visit("width", o.width), visit("height", o.height);
}
template <class V>
void fields(YoloOptions& o, V& visit) {
  visit("anchors", o.anchors), visit("sizes", o.sizes), visit("grid_sensitivity", o.grid_sensitivity);
  visit("classes", o.classes), visit("matching", o.matching), visit("anchor_threshold", o.anchor_threshold);
  visit("ignore_threshold", o.ignore_threshold), visit("anchor_ratio", o.anchor_ratio);
  visit("cell_reach", o.cell_reach), visit("ota_most", o.ota_most), visit("box_loss", o.box_loss);
  visit("objectness", o.objectness), visit("scale", o.scale), visit("box_weight", o.box_weight);
  visit("objectness_weight", o.objectness_weight), visit("class_weight", o.class_weight);
  visit("object_weight", o.object_weight), visit("balance", o.balance);
  visit("label_smoothing", o.label_smoothing), visit("focal_gamma", o.focal_gamma);
  visit("auxiliary", o.auxiliary), visit("auxiliary_weight", o.auxiliary_weight);
  visit("auxiliary_cell_reach", o.auxiliary_cell_reach), visit("selection", o.selection), visit("seed", o.seed);
}
template <class V>
void fields(YoloV1::Options& o, V& visit) {
  visit("side", o.side), visit("boxes", o.boxes), visit("hidden", o.hidden), visit("connected", o.connected);
  visit("places", o.places), visit("softmax", o.softmax), visit("roots", o.roots);
  visit("dropout", o.dropout), visit("box_weight", o.box_weight), visit("object_weight", o.object_weight);
  visit("empty_weight", o.empty_weight), visit("class_weight", o.class_weight);
  visit("selection", o.selection), visit("seed", o.seed);
}
template <class V>
void fields(YoloX::Options& o, V& visit) {
  visit("width", o.width), visit("separable", o.separable), visit("radius", o.radius), visit("ota", o.ota);
  visit("box_weight", o.box_weight), visit("objectness_weight", o.objectness_weight);
  visit("class_weight", o.class_weight), visit("activation", o.activation);
  visit("selection", o.selection), visit("seed", o.seed);
}
template <class V>
void fields(NoNeck::Options&, V&) {}
template <class V>
void fields(FeaturePyramid::Options& o, V& visit) {
  visit("channels", o.channels), visit("finest", o.finest), visit("coarser", o.coarser);
  visit("norm", o.norm), visit("seed", o.seed);
}
template <class V>
void fields(YoloV3Neck::Options& o, V& visit) {
  visit("channels", o.channels), visit("width", o.width), visit("spp", o.spp);
  visit("activation", o.activation), visit("seed", o.seed);
}
template <class V>
void fields(PathAggregation::Options& o, V& visit) {
  visit("channels", o.channels), visit("width", o.width), visit("spp", o.spp);
  visit("activation", o.activation), visit("seed", o.seed);
}
template <class V>
void fields(C3PathAggregation::Options& o, V& visit) {
  visit("channels", o.channels), visit("width", o.width), visit("depth", o.depth), visit("sppf", o.sppf);
  visit("separable", o.separable), visit("activation", o.activation), visit("seed", o.seed);
}
template <class V>
void fields(ElanPathAggregation::Options& o, V& visit) {
  visit("channels", o.channels), visit("width", o.width), visit("depth", o.depth), visit("parallel", o.parallel);
  visit("spp", o.spp), visit("branches", o.branches), visit("activation", o.activation), visit("seed", o.seed);
}
template <class V>
void fields(Passthrough::Options& o, V& visit) {
  visit("channels", o.channels), visit("fine", o.fine), visit("activation", o.activation), visit("seed", o.seed);
}
template <class V>
void fields(SpatialPyramidPooling::Options& o, V& visit) {
  visit("kind", o.kind), visit("channels", o.channels), visit("activation", o.activation), visit("seed", o.seed);
}
/// \}

template <class T>
struct IsList : std::false_type {};
template <class T>
struct IsList<std::vector<T>> : std::true_type {};
template <class T>
struct IsOptional : std::false_type {};
template <class T>
struct IsOptional<std::optional<T>> : std::true_type {};

/// A field's value as JSON: enumerators by their number, nothing as null, options as an object.
template <class T>
Json value_to_json(T& value) {
  if constexpr (std::is_enum_v<T>) {
    return Json(static_cast<int>(value));
  } else if constexpr (std::is_arithmetic_v<T>) {
    return Json(value);
  } else if constexpr (IsOptional<T>::value) {
    return value ? value_to_json(*value) : Json();
  } else if constexpr (IsList<T>::value) {
    Json out = Json::array();
    for (auto& item : value) out.push_back(value_to_json(item));
    return out;
  } else {
    Json out = Json::object();
    const auto visit = [&](const char* name, auto& field) { out[name] = value_to_json(field); };
    fields(value, visit);
    return out;
  }
}

/// Its inverse; fields that the JSON has not keep their values. \throws FormatError
template <class T>
void value_from_json(const Json& json, T& value) {
  if constexpr (std::is_enum_v<T>) {
    const int number = json.get<int>();
    if (number < 0 || number > 15) throw FormatError(text(number, " is no choice of an option"));
    value = static_cast<T>(number);
  } else if constexpr (std::is_arithmetic_v<T>) {
    value = json.get<T>();
  } else if constexpr (IsOptional<T>::value) {
    value.reset();
    if (!json.is_null()) value_from_json(json, value.emplace());
  } else if constexpr (IsList<T>::value) {
    value.clear();
    for (const Json& item : json.elements()) value_from_json(item, value.emplace_back());
  } else {
    const auto visit = [&](const char* name, auto& field) {
      if (json.contains(name)) value_from_json(json[name], field);
    };
    fields(value, visit);
  }
}

/// \name What a type is called in files and on the command line; nothing for a user's own.
/// \{
template <class Part>
constexpr const char* part_name() {
  if constexpr (std::same_as<Part, Yolo>)
    return "yolo";
  else if constexpr (std::same_as<Part, YoloV1>)
    return "yolo_v1";
  else if constexpr (std::same_as<Part, YoloX>)
    return "yolox";
  else if constexpr (std::same_as<Part, NoNeck>)
    return "none";
  else if constexpr (std::same_as<Part, FeaturePyramid>)
    return "feature_pyramid";
  else if constexpr (std::same_as<Part, YoloV3Neck>)
    return "yolo_v3";
  else if constexpr (std::same_as<Part, PathAggregation>)
    return "path_aggregation";
  else if constexpr (std::same_as<Part, C3PathAggregation>)
    return "c3_path_aggregation";
  else if constexpr (std::same_as<Part, ElanPathAggregation>)
    return "elan_path_aggregation";
  else if constexpr (std::same_as<Part, Passthrough>)
    return "passthrough";
  else if constexpr (std::same_as<Part, SpatialPyramidPooling>)
    return "spatial_pyramid_pooling";
  else
    return "custom";
}
/// \}

/// A neck without its type.
struct ErasedNeck {
  std::shared_ptr<Module> module;
  std::function<Activations(const Activations&, const Pass&)> forward;
  FeatureSpec features;
};

/// A detector's head without its type.
struct ErasedHead {
  std::shared_ptr<Module> module;
  std::function<std::any(const Activations&, const Pass&)> forward;
  std::function<LossTerms(const std::any&, const Batch&)> loss;
  std::function<LossTerms(const std::any&, const Batch&, const std::any&)> loss_keeping;  ///< none: it can't
  std::function<std::vector<Detections>(const std::any&)> predict;
};

}  // namespace detail

/// A neck whose kind is chosen at run time; see `any_neck`.
class AnyNeck final : public Module {
 public:
  /// See `any_neck`.
  struct Options {
    std::string name;  ///< what it is called in files
    Json options;      ///< its own options
    std::function<std::vector<Index>(const FeatureSpec&)> takes;
    std::function<detail::ErasedNeck(const FeatureSpec&)> make;
  };
  /// Which maps it takes.
  static std::vector<Index> takes(const FeatureSpec& features, const Options& options) {
    if (!options.make) throw OptionError("AnyNeck: no neck was chosen; make it by any_neck(Neck<…>{…})");
    return options.takes(features);
  }
  AnyNeck(const FeatureSpec& features, const Options& options) : Module("AnyNeck"), neck_(options.make(features)) {
    register_module("neck", neck_.module);
  }
  Activations forward(const Activations& maps, const Pass& pass) { return neck_.forward(maps, pass); }
  const FeatureSpec& features() const { return neck_.features; }
  /// The neck itself, whose parameters carry their own names.
  const std::shared_ptr<Module>& pointer() const { return neck_.module; }

 private:
  detail::ErasedNeck neck_;
};

/// A detector's head whose kind is chosen at run time; see `any_head`.
template <>
class AnyHead<Boxes> final : public Module {
 public:
  using Input = Pyramid;
  using Output = std::any;
  using Target = Boxes;
  using Prediction = std::vector<Detections>;
  using Metric = BoxAveragePrecision;
  /// See `any_head` and `any_box_head`.
  struct Options {
    std::string name;  ///< what it is called in files
    Json options;      ///< its own options
    std::function<detail::ErasedHead(const FeatureSpec&)> make;
  };
  AnyHead(const FeatureSpec& features, const Options& options) : Module("AnyHead") {
    if (!options.make) throw OptionError("AnyHead: no head was chosen; make it by any_head(Head<…>{…})");
    head_ = options.make(features);
    register_module("head", head_.module);
  }
  Output forward(const Activations& maps, const Pass& pass) { return head_.forward(maps, pass); }
  LossTerms loss(const Output& y, const Batch& batch) { return head_.loss(y, batch); }
  /// \throws OptionError if the head inside is no `KeepingHead`
  LossTerms loss_keeping(const Output& y, const Batch& batch, const Output& old) {
    if (!head_.loss_keeping)
      throw OptionError(
          "this head can't be taught by an old one; teach it what the old one is sure of: remember(old, data)");
    return head_.loss_keeping(y, batch, old);
  }
  /// Whether the head inside is a `KeepingHead`.
  bool can_keep() const { return head_.loss_keeping != nullptr; }
  Prediction predict(const Output& y) { return head_.predict(y); }
  /// The head itself, whose parameters carry their own names.
  const std::shared_ptr<Module>& pointer() const { return head_.module; }

 private:
  detail::ErasedHead head_;
};

/// A detector whose parts are known at run time only.
using AnyDetector = Detector<AnyNetwork, AnyNeck, AnyHead<Boxes>>;

/// A neck whose type need not be known later.
template <class K>
Neck<AnyNeck> any_neck(const Neck<K>& neck) {
  auto options = neck.options;
  return {{detail::part_name<K>(), detail::value_to_json(options),
           [options](const FeatureSpec& spec) -> std::vector<Index> {
             static_cast<void>(options);  // where a neck takes all maps
             if constexpr (requires { K::takes(spec, options); }) return K::takes(spec, options);
             std::vector<Index> all(spec.channels.size());
             for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<Index>(i);
             return all;
           },
           [options](const FeatureSpec& spec) -> detail::ErasedNeck {
             const auto made = std::make_shared<K>(spec, options);
             return {made, [made](const Activations& maps, const Pass& pass) { return made->forward(maps, pass); },
                     made->features()};
           }}};
}

/// A detector's head whose type need not be known later.
template <class H>
requires std::same_as<typename H::Target, Boxes> Head<AnyHead<Boxes>> any_head(const Head<H>& head) {
  auto options = head.options;
  return {
      {detail::part_name<H>(), detail::value_to_json(options),
       [options](const FeatureSpec& spec) -> detail::ErasedHead {
         const auto made = std::make_shared<H>(spec, options);
         using Output = typename H::Output;
         std::function<LossTerms(const std::any&, const Batch&, const std::any&)> keeping;
         if constexpr (KeepingHead<H>)
           keeping = [made](const std::any& y, const Batch& batch, const std::any& old) {
             return made->loss_keeping(*std::any_cast<Output>(&y), batch, *std::any_cast<Output>(&old));
           };
         return {
             made, [made](const Activations& maps, const Pass& pass) { return std::any(made->forward(maps, pass)); },
             [made](const std::any& y, const Batch& batch) { return made->loss(*std::any_cast<Output>(&y), batch); },
             std::move(keeping), [made](const std::any& y) { return made->predict(*std::any_cast<Output>(&y)); }};
       }}};
}

namespace detail {

template <class Part>
auto part_options(const Json& json) {
  typename Part::Options options{};
  if (!json.is_null()) value_from_json(json, options);
  return options;
}

/// Calls `use(Part*)` for the one of `Parts` of this name.
template <class... Parts, class Use>
auto with_part(std::string_view what, std::string_view name, const Use& use) {
  using Out = decltype(use(static_cast<std::tuple_element_t<0, std::tuple<Parts...>>*>(nullptr)));
  std::optional<Out> out;
  ((part_name<Parts>() == name && !out ? static_cast<void>(out.emplace(use(static_cast<Parts*>(nullptr))))
                                       : static_cast<void>(0)),
   ...);
  if (out) return std::move(*out);
  const std::vector<std::string> names{part_name<Parts>()...};
  throw OptionError(
      text("there is no ", what, " called ", in_quotes(name), "; there are ", first_few(names, names.size())));
}

}  // namespace detail

/// A neck by its name: none, feature_pyramid, yolo_v3, path_aggregation, c3_path_aggregation, elan_path_aggregation,
/// passthrough or spatial_pyramid_pooling.
/// \param options its own, by name; those that are not there have their defaults
/// \throws OptionError, FormatError
inline Neck<AnyNeck> any_neck(std::string_view name, const Json& options = {}) {
  return detail::with_part<NoNeck, FeaturePyramid, YoloV3Neck, PathAggregation, C3PathAggregation, ElanPathAggregation,
                           Passthrough, SpatialPyramidPooling>(
      "neck", name, [&]<class K>(K*) { return any_neck(Neck<K>{detail::part_options<K>(options)}); });
}

/// A detector's head by its name: yolo, yolo_v1 or yolox; yolo_v2 … yolo_v7 are `yolo` with that version's options.
/// \throws OptionError, FormatError
TRANSFERLIB_API Head<AnyHead<Boxes>> any_box_head(std::string_view name, const Json& options = {});

namespace detail {

/// What a part is called in a file, and its options.
template <template <class> class Recipe, class Part>
std::pair<std::string, Json> part_in_file(const Recipe<Part>& recipe) {
  auto options = recipe.options;
  if constexpr (requires { options.make; }) {
    return {options.name, options.options};
  } else if constexpr (std::string_view(part_name<Part>()) != "custom") {
    return {part_name<Part>(), value_to_json(options)};
  } else {
    return {"custom", Json::object()};
  }
}

/// Puts a head's tensor for some classes into that for more: its rows, which in each head lie otherwise.
/// \throws OptionError for a head of a program's own
TRANSFERLIB_API void put_classes(const std::string& head, const Json& options, const Tensor& old, Index before,
                                 const Tensor& grown, Index after);

}  // namespace detail

/// The detector with more classes: an independent copy that finds the old ones as before, to the bit where the new ones
/// take no box's place, as all rows of its head are kept; those of the new classes are drawn anew. Its backbone is
/// frozen where the model's is. See model/more_classes.hpp on how it learns them.
/// \throws OptionError if a class is there already; for a head of a program's own
template <class N, class K, class H>
Detector<N, K, H> add_classes(const Detector<N, K, H>& model, const Labels& more) {
  const auto before = static_cast<Index>(model.labels().size());
  Detector<N, K, H> out = model.with_new_head(with_more(model.labels(), more));
  const auto [head, options] = detail::part_in_file(model.head_recipe());
  const torch::NoGradGuard guard;
  const StateDict from = state_dict(detail::inner_head(model.head())), to = state_dict(detail::inner_head(out.head()));
  for (std::size_t i = 0; i < from.size(); ++i)
    detail::put_classes(head, options, from[i].second, before, to[i].second, before + static_cast<Index>(more.size()));
  return out;
}

/// Writes a detector, atomically: one safetensors file with weights, labels, preprocessing and all that its parts are
/// built from. `load_detector` reads it where they are the library's own. \throws FileError; an old file is then
/// unchanged
template <class N, class K, class H>
void save(const Detector<N, K, H>& model, const std::filesystem::path& path) {
  detail::guarded("saving the model", [&] {
    const auto& core = model.backbone_core();
    const auto [neck, neck_options] = detail::part_in_file(model.neck_recipe());
    const auto [head, head_options] = detail::part_in_file(model.head_recipe());
    const Json options{{"in_channels", core.options.in_channels}, {"output_stride", core.options.output_stride}};
    std::map<std::string, std::string> metadata{{"format", "pt"},
                                                {"transferlib.format", "1"},
                                                {"transferlib.version", TRANSFERLIB_VERSION},
                                                {"family", "detector"},
                                                {"neck", neck},
                                                {"neck_options", neck_options.dump()},
                                                {"head", head},
                                                {"head_options", head_options.dump()},
                                                {"target", "boxes"},
                                                {"labels", Json(model.labels()).dump()},
                                                {"preprocessing", detail::to_json(core.preprocessing).dump()},
                                                {"network_options", options.dump()},
                                                {"licence", core.licence},
                                                {"weights", core.source}};
    detail::put_network(metadata, core);
    write_state_dict(path, model.state(), metadata);
    return 0;
  });
}

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API Head<AnyHead<Boxes>> any_box_head(std::string_view name, const Json& options) {
  constexpr std::pair<const char*, YoloOptions (*)()> versions[] = {
      {"yolo_v2", yolo_v2}, {"yolo_v3", yolo_v3}, {"yolo_v4", yolo_v4}, {"yolo_v5", yolo_v5}, {"yolo_v7", yolo_v7}};
  for (const auto& [version, make] : versions)
    if (name == version) {
      YoloOptions o = make();
      if (!options.is_null()) detail::value_from_json(options, o);
      return any_head(Head<Yolo>{o});
    }
  return detail::with_part<Yolo, YoloV1, YoloX>(
      "head", name, [&]<class H>(H*) { return any_head(Head<H>{detail::part_options<H>(options)}); });
}

}  // namespace transferlib

namespace transferlib::detail {

TRANSFERLIB_API void put_classes(const std::string& head, const Json& options, const Tensor& old, Index before,
                                 const Tensor& grown, Index after) {
  const auto rest = [](const Tensor& t, Index rows) {
    return t.view({-1, rows, t.numel() / std::max<Index>(1, t.size(0))});
  };
  const auto put = [&](const Tensor& to, const Tensor& from, Index rows) { to.narrow(1, 0, rows).copy_(from); };
  if (old.sizes() == grown.sizes()) {
    grown.copy_(old);
  } else if (head == "yolo") {  // of each anchor box, objectness, classes
    put(rest(grown, 5 + after), rest(old, 5 + before), 5 + before);
  } else if (head == "yolox") {  // of all places the classes
    grown.narrow(0, 0, before).copy_(old);
  } else if (head == "yolo_v1") {  // the classes of all cells, then all else
    const auto o = part_options<YoloV1>(options);
    const Index cells = o.connected ? o.side * o.side : 1, others = old.size(0) - cells * before;
    put(rest(grown.narrow(0, 0, cells * after), after), rest(old.narrow(0, 0, cells * before), before), before);
    grown.narrow(0, cells * after, others).copy_(old.narrow(0, cells * before, others));
  } else {
    throw OptionError(
        "which rows of a head of your own belong to which class is not known; copy them yourself, from "
        "detector.head() to detector.with_new_head(labels).head()");
  }
}

}  // namespace transferlib::detail

#endif  // TRANSFERLIB_DEFINES

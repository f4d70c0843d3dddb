/// \file
/// A whole model in one safetensors file: weights, labels, preprocessing, architecture and licence. Python reads the
/// tensors as they are: `backbone.…` under the original's names, `head.…`.
#pragma once

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <iterator>
#include <map>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/guard.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/version.hpp>
#include <transferlib/formats/checkpoint.hpp>
#include <transferlib/formats/json.hpp>
#include <transferlib/model/classifier.hpp>
#include <transferlib/nn/losses.hpp>
#include <transferlib/weights/state_dict.hpp>

namespace transferlib {
namespace detail {

template <class T>
constexpr const char* target_name() {
  if constexpr (std::same_as<T, ClassIndex>)
    return "class_index";
  else if constexpr (std::same_as<T, MultiLabel>)
    return "multi_label";
  else if constexpr (std::same_as<T, Values>)
    return "values";
  else
    return "boxes";
}

inline std::string_view to_string(Interpolation i) {
  constexpr std::string_view names[] = {"bilinear", "bicubic", "nearest", "corners"};
  return names[static_cast<int>(i)];
}

TRANSFERLIB_API Json to_json(const Preprocessing& p);

/// The enumerator of this name among the first `count`. \throws FormatError
template <class E>
E enum_of(const std::string& name, int count) {
  for (int i = 0; i < count; ++i)
    if (to_string(static_cast<E>(i)) == name) return static_cast<E>(i);
  throw FormatError(text(in_quotes(name), " is no word that is known here"));
}

/// As they are written in a file, by number.
inline constexpr const char* depths_names[] = {"last", "stages", "blocks"};

/// \name A loss as JSON, under its name; and back. \throws FormatError, WeightsError where it is none of these
/// \{
inline Json to_json(const CrossEntropy& loss) {
  return {{"name", "cross_entropy"}, {"label_smoothing", loss.label_smoothing}, {"class_weights", loss.class_weights}};
}
inline Json to_json(const Focal& loss) {
  return {{"name", "focal"}, {"gamma", loss.gamma}, {"class_weights", loss.class_weights}};
}
inline Json to_json(const BinaryCrossEntropy& loss) {
  return {{"name", "binary_cross_entropy"}, {"positive_weights", loss.positive_weights}};
}
inline Json to_json(const SigmoidFocal& loss) {
  return {{"name", "sigmoid_focal"}, {"gamma", loss.gamma}, {"alpha", loss.alpha}};
}
inline Json to_json(const SquaredError&) { return {{"name", "squared_error"}}; }

template <class... L>
Json to_json(const std::variant<L...>& loss) {
  return std::visit([](const auto& l) { return to_json(l); }, loss);
}

TRANSFERLIB_API void read_loss(const Json& json, const std::string& name, ClassLoss& out);
TRANSFERLIB_API void read_loss(const Json& json, const std::string& name, MultiLabelLoss& out);
inline void read_loss(const Json&, const std::string& name, ValueLoss&) {
  if (name != "squared_error") throw FormatError(text(in_quotes(name), " is no loss for numbers that is known here"));
}
/// \}

/// What a file says of the network: its name, and what its `.cfg` says where it has one.
inline void put_network(std::map<std::string, std::string>& metadata, const BackboneCore& core) {
  metadata["backbone"] = core.kind();
  if (core.name.empty() && core.cfg) metadata["cfg"] = core.cfg(core);
}

/// What `save` wrote, read back and checked.
struct SavedModel {
  std::string path, backbone, head, target, licence, source;
  Labels labels;
  Preprocessing preprocessing;
  NetworkOptions options;
  StateDict backbone_state, neck_state, head_state;
  std::map<std::string, std::string> metadata;  ///< all of it

  /// \throws FormatError, WeightsError if the file is no model of this library
  static SavedModel read(const std::filesystem::path& path);

  /// The loss that the head was trained by; where the file is of a version that did not keep it, the head's default.
  /// \throws WeightsError
  template <class Loss>
  Loss loss() const {
    Loss out;
    const auto found = metadata.find("loss");
    if (found == metadata.end()) return out;
    try {
      const Json json = parse_json(found->second, text(path, ": loss"));
      read_loss(json, json["name"].get<std::string>(), out);
      check_loss(out, static_cast<Index>(labels.size()));
    } catch (const Error& e) {
      throw WeightsError(text("the loss in the metadata of ", path, " can't be used: ", e.what(),
                              "; it was written by a newer transferlib, or changed by another program"));
    }
    return out;
  }

  /// Fills a network: all that its features need must be in the file.
  void fill(BackboneCore& core, const std::vector<Index>& wanted) const;
};

}  // namespace detail

/// Writes a model, atomically. The head's standardisation is folded into its first layer; the loss that it was trained
/// by is kept. \throws FileError; an old file is then unchanged
template <class N, class H>
void save(const Classifier<N, H>& model, const std::filesystem::path& path) {
  detail::guarded("saving the model", [&] {
    Classifier<N, H> copy = clone(model);
    std::string head = "custom";
    if constexpr (requires { detail::inner_head(copy.head()).fold(); }) {
      detail::inner_head(copy.head()).fold();
      head = detail::inner_head(copy.head()).description();
    }
    const auto& core = copy.backbone_core();
    std::map<std::string, std::string> metadata{{"format", "pt"},
                                                {"transferlib.format", "1"},
                                                {"transferlib.version", TRANSFERLIB_VERSION},
                                                {"head", head},
                                                {"target", detail::target_name<typename H::Target>()},
                                                {"labels", Json(copy.labels()).dump()},
                                                {"preprocessing", detail::to_json(core.preprocessing).dump()},
                                                {"licence", core.licence},
                                                {"weights", core.source}};
    detail::put_network(metadata, core);
    if constexpr (requires { detail::inner_head(copy.head()).criterion(); })
      metadata["loss"] = detail::to_json(detail::inner_head(copy.head()).criterion()).dump();
    Json options{{"in_channels", core.options.in_channels}, {"output_stride", core.options.output_stride}};
    if (core.options.depths != Depths::last) {
      options["depths"] = detail::depths_names[static_cast<std::size_t>(core.options.depths)];
      options["deviations"] = core.options.deviations;
    }
    metadata["network_options"] = options.dump();
    write_state_dict(path, copy.state(), metadata);
    return 0;
  });
}

/// Reads a model whose types the program knows: `load<EfficientNetLite0, Linear>("mugs.safetensors")`. Nothing is
/// frozen. The head minimises what it was trained by, unless `head_options` name another loss than the default.
/// \throws FileError, FormatError, WeightsError
template <BackboneNetwork N, HeadNetwork H>
Classifier<N, H> load(const std::filesystem::path& path, const typename H::Options& head_options = {}) {
  return detail::guarded(detail::text("loading ", path), [&] {
    const auto saved = detail::SavedModel::read(path);
    if (saved.target != detail::target_name<typename H::Target>())
      throw WeightsError(detail::text("the model in ", path, " predicts ", saved.target, ", and this head ",
                                      detail::target_name<typename H::Target>()));
    auto backbone = Backbone<N>::random(saved.options);
    if (!backbone.core.name.empty() && saved.backbone != backbone.core.name)
      throw WeightsError(detail::text("the model in ", path, " is a ", saved.backbone, ", not a ", backbone.core.name));
    saved.fill(backbone.core, detail::wanted_steps(backbone.core, typename H::Input{}));
    Classifier<N, H> model(std::move(backbone), FreezePolicy<FreezeNone>{}, Head<H>{head_options}, saved.labels);
    load_state_dict(detail::inner_head(model.head()), saved.head_state, {}, path.string());
    if constexpr (requires { detail::inner_head(model.head()).set_trained(true); })
      detail::inner_head(model.head()).set_trained(true);
    if constexpr (requires { detail::inner_head(model.head()).criterion(); }) {
      auto& head = detail::inner_head(model.head());
      using Loss = std::remove_cvref_t<decltype(head.criterion())>;
      if (detail::to_json(head.criterion()).dump() == detail::to_json(Loss{}).dump())
        head.set_criterion(saved.template loss<Loss>());
    }
    return model;
  });
}

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API Json to_json(const Preprocessing& p) {
  return {{"size", p.size},
          {"mean", p.mean},
          {"deviation", p.deviation},
          {"interpolation", std::string(to_string(p.interpolation))},
          {"crop_fraction", p.crop_fraction},
          {"fit", std::string(to_string(p.fit))}};
}

TRANSFERLIB_API void read_loss(const Json& json, const std::string& name, ClassLoss& out) {
  using Weights = std::vector<double>;
  if (name == "cross_entropy")
    out = CrossEntropy{json["label_smoothing"].get<double>(), json["class_weights"].get<Weights>()};
  else if (name == "focal")
    out = Focal{json["gamma"].get<double>(), json["class_weights"].get<Weights>()};
  else
    throw FormatError(text(in_quotes(name), " is no loss for one class a picture that is known here"));
}

TRANSFERLIB_API void read_loss(const Json& json, const std::string& name, MultiLabelLoss& out) {
  if (name == "binary_cross_entropy")
    out = BinaryCrossEntropy{json["positive_weights"].get<std::vector<double>>()};
  else if (name == "sigmoid_focal")
    out = SigmoidFocal{json["gamma"].get<double>(), json["alpha"].get<double>()};
  else
    throw FormatError(text(in_quotes(name), " is no loss for several classes a picture that is known here"));
}

TRANSFERLIB_API SavedModel SavedModel::read(const std::filesystem::path& path) {
  const Checkpoint file = open_checkpoint(path);
  SavedModel out;
  out.path = path.string();
  out.metadata = file.metadata;
  const auto text_of = [&](const char* key) {
    const auto found = file.metadata.find(key);
    if (found == file.metadata.end())
      throw WeightsError(text("the file ", path, " is no model that transferlib saved: its metadata has no \"", key,
                              "\"; weights alone go to Backbone<…>::pretrained(path)"));
    return found->second;
  };
  if (const std::string format = text_of("transferlib.format"); format != "1")
    throw WeightsError(text("the file ", path, " has the format ", format,
                            " of transferlib's models, and this version reads 1; use a newer transferlib"));
  out.backbone = text_of("backbone");
  out.head = text_of("head");
  out.target = text_of("target");
  out.licence = text_of("licence");
  out.source = text_of("weights");
  try {
    out.labels = parse_json(text_of("labels"), text(path, ": labels")).get<Labels>();
    const Json p = parse_json(text_of("preprocessing"), text(path, ": preprocessing"));
    out.preprocessing.size = p["size"].get<Index>();
    out.preprocessing.mean = p["mean"].get<std::array<double, 3>>();
    out.preprocessing.deviation = p["deviation"].get<std::array<double, 3>>();
    out.preprocessing.interpolation = enum_of<Interpolation>(p["interpolation"].get<std::string>(), 4);
    // Files of earlier versions have no other.
    if (p.contains("fit")) out.preprocessing.fit = enum_of<Fit>(p["fit"].get<std::string>(), 4);
    out.preprocessing.crop_fraction = p["crop_fraction"].get<double>();
    const Json o = parse_json(text_of("network_options"), text(path, ": network_options"));
    out.options.in_channels = o["in_channels"].get<Index>();
    out.options.output_stride = o["output_stride"].get<Index>();
    if (o.contains("depths")) {
      const auto name = o["depths"].get<std::string>();
      const auto found = std::find(std::begin(depths_names), std::end(depths_names), name);
      if (found == std::end(depths_names))
        throw WeightsError(text("the model in ", path, " has features of the depths ", in_quotes(name),
                                ", which this version does not know; use a newer transferlib"));
      out.options.depths = static_cast<Depths>(found - std::begin(depths_names));
      out.options.deviations = o["deviations"].get<bool>();
    }
  } catch (const FormatError& e) {
    throw WeightsError(text("the metadata of ", path, " is not what transferlib writes: ", e.what(),
                            "; the file was changed by another program"));
  }
  const Preprocessing& p = out.preprocessing;
  if (p.size < 1 || p.size > 16384 || !(p.crop_fraction > 0.0 && p.crop_fraction <= 1.0) ||
      out.options.in_channels < 1 || out.options.in_channels > 1024)
    throw WeightsError(text("the metadata of ", path, " has a size of ", p.size, ", a crop fraction of ",
                            p.crop_fraction, " and ", out.options.in_channels, " channels, which no model can have"));
  out.options.size = p.size;
  for (const TensorView& view : file.tensors) {
    Tensor tensor = to_tensor(view, file.owner);
    if (view.name.starts_with("backbone."))
      out.backbone_state.emplace_back(view.name.substr(9), std::move(tensor));
    else if (view.name.starts_with("neck."))
      out.neck_state.emplace_back(view.name.substr(5), std::move(tensor));
    else if (view.name.starts_with("head."))
      out.head_state.emplace_back(view.name.substr(5), std::move(tensor));
  }
  return out;
}

TRANSFERLIB_API void SavedModel::fill(BackboneCore& core, const std::vector<Index>& wanted) const {
  StateDict all = backbone_state;
  const auto needed = needed_state(core, wanted);
  // The original's classifier was not saved: its own values stand in, so that the rest can be strict.
  std::map<std::string, bool> is_needed;
  for (const auto& item : needed) is_needed[item.first] = true;
  for (auto& item : state_dict(*core.network))
    if (!is_needed.count(item.first)) all.push_back(item);
  load_state_dict(*core.network, all, {}, path);
  core.licence = licence;
  core.source = source;
  core.preprocessing = preprocessing;
}

}  // namespace transferlib::detail

#endif  // TRANSFERLIB_DEFINES

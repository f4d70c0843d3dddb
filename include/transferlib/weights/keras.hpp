/// \file
/// Keras's names and layouts of a network's tensors, and ours: a layer `conv` with `conv/kernel` (height, width, in,
/// out) is our row `conv` with `conv.weight` (out, in, height, width). Written are Keras's own files; see
/// `formats/keras.hpp` for how they are read.
#pragma once

#include <algorithm>
#include <array>
#include <filesystem>
#include <map>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/files.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/formats/hdf5.hpp>
#include <transferlib/nn/plan.hpp>
#include <transferlib/weights/state_dict.hpp>

namespace transferlib {
namespace detail {

/// A tensor of ours, and what Keras calls it in its layer.
struct KerasTensor {
  std::string name, variable;
  Tensor tensor;
};

/// A row of a layer table that has tensors; the row's name is the Keras layer's.
struct KerasRow {
  std::string layer;
  const Module* module = nullptr;
  bool depthwise = false;
  std::vector<KerasTensor> tensors;
};

inline std::vector<KerasRow> keras_rows(const Module& network, const Graph& graph) {
  std::map<const void*, std::string> names;
  for (const auto& [name, tensor] : state_dict(network)) names.emplace(tensor.unsafeGetTensorImpl(), name);
  std::vector<KerasRow> out;
  for (std::size_t r = 0; r < graph.table.rows.size(); ++r) {
    if (graph.modules[r] == nullptr) continue;
    KerasRow row{graph.table.rows[r].name, graph.modules[r].get(), false, {}};
    StateDict own;
    for (const auto& item : row.module->named_parameters(false)) own.emplace_back(item.key(), item.value());
    for (const auto& item : row.module->named_buffers(false)) own.emplace_back(item.key(), item.value());
    bool is_norm = false;
    for (const auto& [name, tensor] : own) is_norm = is_norm || (name == "weight" && tensor.dim() == 1);
    for (const auto& [name, tensor] : own) {
      const auto known = names.find(tensor.unsafeGetTensorImpl());
      if (known == names.end() || name == "num_batches_tracked") continue;  // Keras counts no batches
      std::string variable = name == "weight"         ? is_norm ? "gamma" : "kernel"
                             : name == "bias"         ? is_norm ? "beta" : "bias"
                             : name == "running_mean" ? "moving_mean"
                             : name == "running_var"  ? "moving_variance"
                                                      : name;
      if (variable == "kernel" && tensor.dim() == 4) row.depthwise = tensor.size(1) == 1 && tensor.size(0) > 1;
      row.tensors.push_back({known->second, std::move(variable), tensor});
    }
    if (const auto* conv = dynamic_cast<const nn::Conv2d*>(row.module))
      row.depthwise = conv->options.groups > 1 && conv->options.groups == conv->options.in;
    if (!row.tensors.empty()) out.push_back(std::move(row));
  }
  return out;
}

/// A kernel of Keras's in our layout; other tensors as they are.
inline Tensor from_keras_layout(const Tensor& theirs, bool depthwise) {
  if (theirs.dim() == 2) return theirs.t();
  if (theirs.dim() != 4) return theirs;
  if (!depthwise) return theirs.permute({3, 2, 0, 1});
  return theirs.permute({2, 3, 0, 1}).reshape({-1, 1, theirs.size(0), theirs.size(1)});
}

/// The other way. \param in input channels, of a depthwise kernel
inline Tensor to_keras_layout(const Tensor& ours, bool depthwise, Index in) {
  if (ours.dim() == 2) return ours.t();
  if (ours.dim() != 4) return ours;
  if (!depthwise) return ours.permute({2, 3, 1, 0});
  return ours.reshape({in, -1, ours.size(2), ours.size(3)}).permute({2, 3, 0, 1});
}

/// A layer of a Keras file: its variables by name.
struct KerasLayer {
  std::string name;
  std::vector<std::pair<std::string, Tensor>> variables;

  const Tensor* find(std::string_view variable) const {
    for (const auto& [name_, tensor] : variables)
      if (name_ == variable) return &tensor;
    // Keras 3 calls a depthwise kernel a kernel, Keras 2 did not.
    return variable == "kernel" ? find("depthwise_kernel") : nullptr;
  }
};

inline std::vector<KerasLayer> keras_layers(const StateDict& state) {
  std::vector<KerasLayer> out;
  std::map<std::string, std::size_t> places;
  for (const auto& [name, tensor] : state) {
    const std::size_t slash = name.rfind('/');
    const std::string layer = slash == std::string::npos ? "" : name.substr(0, slash);
    const auto [place, is_new] = places.emplace(layer, out.size());
    if (is_new) out.push_back({layer, {}});
    out[place->second].variables.emplace_back(slash == std::string::npos ? name : name.substr(slash + 1), tensor);
  }
  return out;
}

/// Each row's layer of the file, by name: in the model itself, or in the nested model that has most of the names.
/// \returns for each row the layer; nullptr where there is none
inline std::vector<const KerasLayer*> keras_by_name(const std::vector<KerasRow>& rows,
                                                    const std::vector<KerasLayer>& layers) {
  std::map<std::string, const KerasLayer*> file;
  std::set<std::string> prefixes{""};
  for (const KerasLayer& layer : layers) {
    file.emplace(layer.name, &layer);
    if (layer.name.ends_with("/" + rows.front().layer))
      prefixes.insert(layer.name.substr(0, layer.name.size() - rows.front().layer.size()));
  }
  std::vector<const KerasLayer*> best;
  std::size_t most = 0;
  for (const std::string& prefix : prefixes) {
    std::vector<const KerasLayer*> found;
    for (const KerasRow& row : rows) {
      const auto at = file.find(prefix + row.layer);
      found.push_back(at == file.end() ? nullptr : at->second);
    }
    const auto count = found.size() - static_cast<std::size_t>(std::count(found.begin(), found.end(), nullptr));
    if (best.empty() || count > most) most = count, best = std::move(found);
  }
  return best;
}

/// What can be told of a layer by its variables: layers of one kind stand in a file in the model's order, whatever else
/// is between them.
inline std::string keras_kind(const KerasLayer& layer) {
  std::string out;
  std::set<std::string_view> variables;
  for (const auto& [name, tensor] : layer.variables) {
    const bool depthwise = name == "depthwise_kernel" ||
                           (name == "kernel" && tensor.dim() == 4 && tensor.size(3) == 1 && tensor.size(2) > 1);
    variables.insert(depthwise ? "depthwise_kernel" : std::string_view(name));
    if (name == "kernel" && !depthwise) out = text(tensor.dim());
  }
  for (const std::string_view variable : variables) out += text(" ", variable);
  return out;
}

/// Each row's layer of the file, by the order of the model, as Keras itself loads; empty where that does not fit. What
/// the file has after the network's last layer, a classifier, is left.
inline std::vector<const KerasLayer*> keras_by_order(const std::vector<KerasRow>& rows,
                                                     const std::vector<KerasLayer>& layers, const std::string& prefix) {
  std::map<std::string, std::vector<const KerasLayer*>> by_kind;
  for (const KerasLayer& layer : layers)
    if (layer.name.starts_with(prefix)) by_kind[keras_kind(layer)].push_back(&layer);
  std::map<std::string, std::size_t> used;
  std::vector<const KerasLayer*> out;
  for (const KerasRow& row : rows) {
    KerasLayer wanted;
    for (const KerasTensor& t : row.tensors)
      wanted.variables.emplace_back(row.depthwise && t.variable == "kernel" ? "depthwise_kernel" : t.variable,
                                    t.tensor);
    const std::string kind = keras_kind(wanted);
    const auto& same = by_kind[kind];
    const std::size_t at = used[kind]++;
    if (at >= same.size()) return {};
    for (const KerasTensor& t : row.tensors) {
      const Tensor theirs = from_keras_layout(*same[at]->find(t.variable), row.depthwise);
      // Not the input channels: the first layer's can be adapted.
      for (Index d = 0; d < t.tensor.dim(); ++d)
        if (theirs.dim() != t.tensor.dim() || (d != 1 && theirs.size(d) != t.tensor.size(d))) return {};
    }
    out.push_back(same[at]);
  }
  return out;
}

/// A row of a table that stands for Keras's normalisation of pixels, which our preprocessing does.
inline bool has_keras_normalization(const Graph& graph) {
  for (std::size_t r = 0; r < graph.modules.size(); ++r)
    if (graph.table.rows[r].name == "normalization" && graph.modules[r] == nullptr) return true;
  return false;
}

/// What is in the files of networks that were trained on ImageNet: the mean, and the deviation in the variance's place,
/// as another layer of theirs divides by its root once more.
inline std::pair<Tensor, Tensor> keras_normalization() {
  const Preprocessing p;
  const auto tensor = [](const std::array<double, 3>& x) { return at::tensor(at::ArrayRef<double>(x)).to(at::kFloat); };
  return {tensor(p.mean), tensor(p.deviation)};
}

/// \throws WeightsError if a file's network normalises pixels in another way than our preprocessing
inline void check_keras_normalization(const std::vector<KerasLayer>& layers, std::string_view where) {
  const auto [mean, deviation] = keras_normalization();
  for (const KerasLayer& layer : layers) {
    const Tensor *theirs = layer.find("mean"), *variance = layer.find("variance");
    if (theirs == nullptr || variance == nullptr) continue;
    const auto same = [](const Tensor& a, const Tensor& b) {
      return a.sizes() == b.sizes() && at::allclose(a.to(at::kFloat), b, 1e-3);
    };
    if (!same(*theirs, mean) || !(same(*variance, deviation) || same(*variance, deviation * deviation)))
      throw WeightsError(text(where, ": the layer ", in_quotes(layer.name), " normalises pixels by other numbers than ",
                              "ImageNet's mean and deviation, as a model does that Keras made with weights=None; "
                              "here the network would see other pictures than it was trained on; make the "
                              "model with weights=\"imagenet\" and train that"));
  }
}

}  // namespace detail

/// Whether tensors have Keras's names, as `read_state_dict` gives them for Keras's files and for what was converted
/// from them: "conv/kernel".
inline bool has_keras_names(const StateDict& state) {
  return std::any_of(state.begin(), state.end(), [](const auto& item) {
    const std::string& name = item.first;
    return name.ends_with("/kernel") || name.ends_with("/depthwise_kernel") || name.ends_with("/gamma") ||
           name.ends_with("/moving_mean");
  });
}

/// The tensors of a Keras file under a network's names and in its layouts. Layers are found by name, in the model or in
/// a model nested in it; in one of Keras's own networks (whose table begins with Keras's input layer) else by their
/// order, as Keras does, which older files and automatic names want. Layers of the file that are not the network's, a
/// classifier or an optimiser, are left out. \param where the file's name, for the error's sentence
/// \throws WeightsError if a layer of the network is not in the file, or is not of float32, or the file's network
/// normalises pixels otherwise
inline StateDict from_keras(const Module& network, const Graph& graph, const StateDict& state, std::string_view where) {
  using detail::text;
  const auto rows = detail::keras_rows(network, graph);
  const auto layers = detail::keras_layers(state);
  if (rows.empty()) return {};
  auto found = detail::keras_by_name(rows, layers);
  std::vector<std::string> missing;
  for (std::size_t r = 0; r < rows.size(); ++r)
    if (found[r] == nullptr) missing.push_back(rows[r].layer);
  if (!missing.empty()) {
    const bool is_keras = graph.table.rows.front().kind == Kind::input;
    std::vector<const detail::KerasLayer*> ordered;
    std::set<std::string> prefixes{""};
    for (const auto& layer : layers)
      if (const std::size_t slash = layer.name.find('/'); slash != std::string::npos)
        prefixes.insert(layer.name.substr(0, slash + 1));
    for (const std::string& prefix : prefixes)
      if (is_keras && ordered.empty()) ordered = detail::keras_by_order(rows, layers, prefix);
    if (ordered.empty()) {
      std::vector<std::string> theirs;
      for (const auto& layer : layers) theirs.push_back(layer.name);
      throw WeightsError(text("the weights in ", where, " do not fit the network: of its ", rows.size(),
                              " layers with weights ", missing.size(), " are missing (", detail::first_few(missing),
                              "); the file has ", detail::first_few(theirs),
                              is_keras ? "; check that the file belongs to this network"
                                       : "; it is Keras's, whose own networks are called keras_… here"));
    }
    found = std::move(ordered);
  }
  if (detail::has_keras_normalization(graph)) detail::check_keras_normalization(layers, where);
  StateDict out;
  for (std::size_t r = 0; r < rows.size(); ++r) {
    std::set<const Tensor*> taken;
    for (const detail::KerasTensor& t : rows[r].tensors) {
      const Tensor* theirs = found[r]->find(t.variable);
      if (theirs == nullptr) continue;  // `load_state_dict` says what is missing
      if (theirs->scalar_type() != at::kFloat)
        throw WeightsError(text(where, ": ", detail::in_quotes(found[r]->name + "/" + t.variable), " is of type ",
                                to_string(detail::file_type(theirs->scalar_type(), t.name)),
                                ", where float32 is expected; in Keras, load the weights into a model of dtype "
                                "float32 and save that"));
      taken.insert(theirs);
      out.emplace_back(t.name, detail::from_keras_layout(*theirs, rows[r].depthwise).contiguous());
    }
    for (const auto& [variable, tensor] : found[r]->variables)
      if (taken.count(&tensor) == 0) out.emplace_back(found[r]->name + "/" + variable, tensor);
  }
  return out;
}

/// Reads a Keras file (`.weights.h5`, `.keras`, `.h5`, or what was converted from one) as the state dict of a network.
/// \throws FileError, FormatError, WeightsError
inline StateDict read_keras_weights(const std::filesystem::path& path, const Plan& network) {
  return from_keras(network, network.graph(), read_state_dict(path), path.string());
}

namespace detail {

/// What Keras's files call a layer's class.
inline std::string_view keras_class_of(const KerasRow& row, std::string_view where) {
  if (dynamic_cast<const nn::Conv2d*>(row.module) != nullptr) return row.depthwise ? "depthwise_conv2d" : "conv2d";
  if (dynamic_cast<const nn::BatchNorm2d*>(row.module) != nullptr) return "batch_normalization";
  if (dynamic_cast<const nn::Linear*>(row.module) != nullptr) return "dense";
  if (dynamic_cast<const nn::LayerNorm*>(row.module) != nullptr) return "layer_normalization";
  throw WeightsError(text("can't write ", where, ": the layer ", in_quotes(row.layer),
                          " is none that Keras has; Keras's files are for convolutions, dense layers and norms"));
}

inline Hdf5Text keras_text(std::string value) { return {{std::move(value)}, false}; }

}  // namespace detail

/// Writes a network's weights so that Keras loads them, atomically: `model.load_weights(path)` of a model of the same
/// layers. A name that ends with `.weights.h5` becomes Keras 3's file, another `.h5` the older one, whose layers have
/// names. Of pixels' normalisation, where the network has it, ImageNet's is written.
/// \throws OptionError for another name; WeightsError for a layer that Keras has not; FileError; FormatError
/// where this build has no HDF5
inline void write_keras_weights(const std::filesystem::path& path, const Plan& network) {
  using detail::text;
  const std::string name = path.filename().string();
  const bool is_keras3 = name.ends_with(".weights.h5");
  if (!is_keras3 && !name.ends_with(".h5"))
    throw OptionError(text("can't write ", path,
                           ": Keras's weights are .weights.h5 or .h5 (a .keras file holds the network's program too); "
                           "give one of these names"));
  StateDict tensors;  // by their paths in the file
  std::vector<Hdf5Object> objects;
  std::map<std::string_view, Index> numbers;
  Hdf5Text layers{{}, true};
  const auto group = [&](std::string at, const std::string& key, Hdf5Text value) {
    objects.push_back({std::move(at), {{key, std::move(value)}}, false, {}});
  };
  const auto add = [&](const std::string& layer, std::string_view kind, const StateDict& variables) {
    const Index number = numbers[kind]++;
    const std::string at = is_keras3 ? text("layers/", kind, number == 0 ? "" : text("_", number), "/vars") : layer;
    Hdf5Text weights{{}, true};
    for (const auto& [variable, tensor] : variables) {
      tensors.emplace_back(is_keras3 ? text(at, "/", weights.texts.size()) : text(at, "/", layer, "/", variable),
                           tensor);
      weights.texts.push_back(text(layer, "/", variable));
    }
    group(at, is_keras3 ? "name" : "weight_names", is_keras3 ? detail::keras_text(layer) : std::move(weights));
    layers.texts.push_back(layer);
  };
  if (detail::has_keras_normalization(network.graph())) {
    const auto [mean, deviation] = detail::keras_normalization();
    add("normalization", "normalization",
        {{"mean", mean}, {"variance", deviation}, {"count", at::zeros({}, at::kInt)}});
  }
  for (const detail::KerasRow& row : detail::keras_rows(network, network.graph())) {
    const auto* conv = dynamic_cast<const nn::Conv2d*>(row.module);
    StateDict variables;
    for (const detail::KerasTensor& t : row.tensors)
      variables.emplace_back(t.variable,
                             detail::to_keras_layout(t.tensor, row.depthwise, conv == nullptr ? 0 : conv->options.in));
    add(row.layer, detail::keras_class_of(row, path.string()), variables);
  }
  if (is_keras3) {
    group("vars", "name", detail::keras_text(network.name()));
  } else {
    group("top_level_model_weights", "weight_names", {{}, true});
    objects.push_back({"",
                       {{"layer_names", std::move(layers)},
                        {"backend", detail::keras_text("torch")},
                        {"keras_version", detail::keras_text("3.0.0")}},
                       false,
                       {}});
  }
  const detail::ViewsOf views = detail::views_of(tensors);
  for (const TensorView& view : views.views) objects.push_back({view.name, {}, true, view});
  const std::vector<std::byte> bytes = hdf5_bytes(objects);
  write_file(path, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
}

}  // namespace transferlib

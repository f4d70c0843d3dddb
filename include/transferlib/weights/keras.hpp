/// \file
/// Keras's names and layouts of a network's tensors, and ours: a layer `conv` with `conv/kernel` (height, width, in,
/// out) is our row `conv` with `conv.weight` (out, in, height, width). Written are Keras's own files; see
/// `formats/keras.hpp` for how they are read.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/formats/tensor_view.hpp>
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

TRANSFERLIB_API std::vector<KerasRow> keras_rows(const Module& network, const Graph& graph);

/// A kernel of Keras's in our layout; other tensors as they are.
inline Tensor from_keras_layout(const Tensor& theirs, bool depthwise) {
  if (theirs.dim() == 2) return theirs.t();
  if (theirs.dim() != 4) return theirs;
  if (!depthwise) return theirs.permute({3, 2, 0, 1});
  return theirs.permute({2, 3, 0, 1}).reshape({-1, 1, theirs.size(0), theirs.size(1)});
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

TRANSFERLIB_API std::vector<KerasLayer> keras_layers(const StateDict& state);

/// The layer of each row; nullptr where there is none.
using KerasMatch = std::vector<const KerasLayer*>;

/// Each row's layer of the file, by name: in the model itself, or in the nested model that has most of the names.
TRANSFERLIB_API KerasMatch keras_by_name(const std::vector<KerasRow>& rows, const std::vector<KerasLayer>& layers);

/// Whether a file's layer can be a row's: the same variables, of the same shapes. Not the same number of input
/// channels: the first layer's can be adapted.
TRANSFERLIB_API bool is_keras_layer_of(const KerasRow& row, const KerasLayer& layer);

/// What is told of a layer by its variables, whatever its name: layers of one kind stand in a file in the model's
/// order, whatever else is between them.
enum class KerasKind { norm, convolution, depthwise, dense, other };

TRANSFERLIB_API KerasKind keras_kind(const KerasLayer& layer);

TRANSFERLIB_API KerasKind keras_kind(const KerasRow& row);

/// Each row's layer of the file, by the order of the model, as Keras itself loads; empty where that does not fit. What
/// the file has after the network's last layer, a classifier, is left.
TRANSFERLIB_API KerasMatch keras_by_order(const std::vector<KerasRow>& rows, const std::vector<KerasLayer>& layers,
                                          std::string_view prefix);

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
TRANSFERLIB_API void check_keras_normalization(const std::vector<KerasLayer>& layers, std::string_view where);

}  // namespace detail

/// Whether tensors have Keras's names, as `read_state_dict` gives them for Keras's files and for what was converted
/// from them: "conv/kernel".
inline bool has_keras_names(const StateDict& state) {
  for (const auto& item : state)
    for (const char* variable : {"/kernel", "/depthwise_kernel", "/gamma", "/moving_mean"})
      if (item.first.ends_with(variable)) return true;
  return false;
}

/// The tensors of a Keras file under a network's names and in its layouts. Layers are found by name, in the model or in
/// a model nested in it; in one of Keras's own networks (whose table begins with Keras's input layer) else by their
/// order, as Keras does, which older files and automatic names want. Layers of the file that are not the network's, a
/// classifier or an optimiser, are left out. \param where the file's name, for the error's sentence
/// \throws WeightsError if a layer of the network is not in the file, or is not of float32, or the file's network
/// normalises pixels otherwise
TRANSFERLIB_API StateDict from_keras(const Module& network, const Graph& graph, const StateDict& state,
                                     std::string_view where);

/// Reads a Keras file (`.weights.h5`, `.keras`, `.h5`, or what was converted from one) as the state dict of a network.
/// \throws FileError, FormatError, WeightsError
inline StateDict read_keras_weights(const std::filesystem::path& path, const Plan& network) {
  return from_keras(network, network.graph(), read_state_dict(path), path.string());
}

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API std::vector<KerasRow> keras_rows(const Module& network, const Graph& graph) {
  const StateDict state = state_dict(network);
  std::vector<KerasRow> out;
  for (std::size_t r = 0; r < graph.table.rows.size(); ++r) {
    if (graph.modules[r] == nullptr) continue;
    KerasRow row{graph.table.rows[r].name, graph.modules[r].get(), false, {}};
    StateDict own;
    collect_state(*row.module, "", own);
    bool is_norm = false;
    for (const auto& [name, tensor] : own) is_norm = is_norm || (name == "weight" && tensor.dim() == 1);
    for (const auto& [name, tensor] : own) {
      // Parts of the layer are rows of their own, and Keras counts no batches.
      if (name.find('.') != std::string::npos || name == "num_batches_tracked") continue;
      const std::string_view variable = name == "weight"         ? is_norm ? "gamma" : "kernel"
                                        : name == "bias"         ? is_norm ? "beta" : "bias"
                                        : name == "running_mean" ? "moving_mean"
                                        : name == "running_var"  ? "moving_variance"
                                                                 : std::string_view(name);
      if (variable == "kernel" && tensor.dim() == 4) row.depthwise = tensor.size(1) == 1 && tensor.size(0) > 1;
      for (const auto& item : state)
        if (item.second.is_same(tensor)) {
          row.tensors.push_back({item.first, std::string(variable), tensor});
          break;
        }
    }
    if (const auto* conv = dynamic_cast<const nn::Conv2d*>(row.module))
      row.depthwise = conv->options.groups > 1 && conv->options.groups == conv->options.in;
    if (!row.tensors.empty()) out.push_back(std::move(row));
  }
  return out;
}

TRANSFERLIB_API std::vector<KerasLayer> keras_layers(const StateDict& state) {
  std::vector<KerasLayer> out;
  for (const auto& [name, tensor] : state) {
    const std::size_t variable = name.rfind('/') + 1;  // 0 where there is none
    const std::string_view layer(name.data(), variable == 0 ? 0 : variable - 1);
    auto place = std::find_if(out.begin(), out.end(), [&](const KerasLayer& l) { return l.name == layer; });
    if (place == out.end()) place = out.insert(out.end(), {std::string(layer), {}});
    place->variables.emplace_back(name.substr(variable), tensor);
  }
  return out;
}

TRANSFERLIB_API KerasMatch keras_by_name(const std::vector<KerasRow>& rows, const std::vector<KerasLayer>& layers) {
  KerasMatch best;
  std::ptrdiff_t most = -1;
  const auto try_below = [&](const std::string& prefix) {
    KerasMatch found;
    for (const KerasRow& row : rows) {
      found.push_back(nullptr);
      for (const KerasLayer& layer : layers)
        if (layer.name.size() == prefix.size() + row.layer.size() && layer.name.starts_with(prefix) &&
            layer.name.ends_with(row.layer))
          found.back() = &layer;
    }
    const std::ptrdiff_t count = std::count_if(found.begin(), found.end(), [](const KerasLayer* l) { return l; });
    if (count > most) most = count, best = std::move(found);
  };
  try_below("");
  for (const KerasLayer& layer : layers)
    if (layer.name.ends_with("/" + rows.front().layer))
      try_below(layer.name.substr(0, layer.name.size() - rows.front().layer.size()));
  return best;
}

TRANSFERLIB_API bool is_keras_layer_of(const KerasRow& row, const KerasLayer& layer) {
  if (layer.variables.size() != row.tensors.size()) return false;
  for (const KerasTensor& t : row.tensors) {
    const Tensor* theirs = layer.find(t.variable);
    if (theirs == nullptr || theirs->dim() != t.tensor.dim()) return false;
    const Tensor same = from_keras_layout(*theirs, row.depthwise);
    for (Index d = 0; d < t.tensor.dim(); ++d)
      if (d != 1 && same.size(d) != t.tensor.size(d)) return false;
  }
  return true;
}

TRANSFERLIB_API KerasKind keras_kind(const KerasLayer& layer) {
  if (layer.find("gamma") != nullptr || layer.find("moving_mean") != nullptr) return KerasKind::norm;
  const Tensor* kernel = layer.find("kernel");
  if (kernel == nullptr) return KerasKind::other;
  if (kernel->dim() != 4) return KerasKind::dense;
  return kernel->size(3) == 1 && kernel->size(2) > 1 ? KerasKind::depthwise : KerasKind::convolution;
}

TRANSFERLIB_API KerasKind keras_kind(const KerasRow& row) {
  if (row.depthwise) return KerasKind::depthwise;
  for (const KerasTensor& t : row.tensors) {
    if (t.variable == "gamma" || t.variable == "moving_mean") return KerasKind::norm;
    if (t.variable == "kernel") return t.tensor.dim() == 4 ? KerasKind::convolution : KerasKind::dense;
  }
  return KerasKind::other;
}

TRANSFERLIB_API KerasMatch keras_by_order(const std::vector<KerasRow>& rows, const std::vector<KerasLayer>& layers,
                                          std::string_view prefix) {
  KerasMatch out;
  std::array<std::size_t, 5> next{};  // by kind
  for (const KerasRow& row : rows) {
    const KerasKind kind = keras_kind(row);
    std::size_t& at = next[static_cast<std::size_t>(kind)];
    while (at < layers.size() && !(layers[at].name.starts_with(prefix) && keras_kind(layers[at]) == kind)) ++at;
    if (at == layers.size() || !is_keras_layer_of(row, layers[at])) return {};
    out.push_back(&layers[at++]);
  }
  return out;
}

TRANSFERLIB_API void check_keras_normalization(const std::vector<KerasLayer>& layers, std::string_view where) {
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

}  // namespace transferlib::detail

namespace transferlib {

TRANSFERLIB_API StateDict from_keras(const Module& network, const Graph& graph, const StateDict& state,
                                     std::string_view where) {
  using detail::text;
  const auto rows = detail::keras_rows(network, graph);
  const auto layers = detail::keras_layers(state);
  if (rows.empty()) return {};
  detail::KerasMatch found = detail::keras_by_name(rows, layers);
  std::vector<std::string> missing;
  for (std::size_t r = 0; r < rows.size(); ++r)
    if (found[r] == nullptr) missing.push_back(rows[r].layer);
  if (!missing.empty()) {
    const bool is_keras = graph.table.rows.front().kind == Kind::input;
    detail::KerasMatch ordered;
    if (is_keras) ordered = detail::keras_by_order(rows, layers, "");
    for (std::size_t l = 0; l < layers.size() && is_keras && ordered.empty(); ++l) {
      const std::size_t slash = layers[l].name.find('/');
      if (slash != std::string::npos)
        ordered = detail::keras_by_order(rows, layers, std::string_view(layers[l].name).substr(0, slash + 1));
    }
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
    for (const detail::KerasTensor& t : rows[r].tensors) {
      const Tensor* theirs = found[r]->find(t.variable);
      if (theirs == nullptr) continue;  // `load_state_dict` says what is missing
      if (theirs->scalar_type() != at::kFloat)
        throw WeightsError(text(where, ": ", detail::in_quotes(text(found[r]->name, "/", t.variable)), " is of type ",
                                to_string(detail::file_type(theirs->scalar_type(), t.name)),
                                ", where float32 is expected; in Keras, load the weights into a model of dtype "
                                "float32 and save that"));
      out.emplace_back(t.name, detail::from_keras_layout(*theirs, rows[r].depthwise).contiguous());
    }
    // What the layer has besides, `load_state_dict` calls unexpected.
    for (const auto& item : found[r]->variables)
      if (std::none_of(rows[r].tensors.begin(), rows[r].tensors.end(),
                       [&](const detail::KerasTensor& t) { return found[r]->find(t.variable) == &item.second; }))
        out.emplace_back(text(found[r]->name, "/", item.first), item.second);
  }
  return out;
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

/// \file
/// Writes a network's weights as Keras's files; `weights/keras.hpp` reads them.
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/files.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/formats/hdf5_writer.hpp>
#include <transferlib/nn/plan.hpp>
#include <transferlib/weights/keras.hpp>
#include <transferlib/weights/state_dict.hpp>

namespace transferlib {
namespace detail {

/// A kernel of ours in Keras's layout; other tensors as they are. \param in input channels, of a depthwise kernel
inline Tensor to_keras_layout(const Tensor& ours, bool depthwise, Index in) {
  if (ours.dim() == 2) return ours.t();
  if (ours.dim() != 4) return ours;
  if (!depthwise) return ours.permute({2, 3, 1, 0});
  return ours.reshape({in, -1, ours.size(2), ours.size(3)}).permute({2, 3, 0, 1});
}

/// What Keras's files call a layer's class.
TRANSFERLIB_API std::string_view keras_class_of(const KerasRow& row, std::string_view where);

}  // namespace detail

/// Writes a network's weights so that Keras loads them, atomically: `model.load_weights(path)` of a model of the same
/// layers. A name that ends with `.weights.h5` becomes Keras 3's file, another `.h5` the older one, whose layers have
/// names. Of pixels' normalisation, where the network has it, ImageNet's is written.
/// \throws OptionError for another name; WeightsError for a layer that Keras has not; FileError; FormatError
/// where this build has no HDF5
TRANSFERLIB_API void write_keras_weights(const std::filesystem::path& path, const Plan& network);

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API std::string_view keras_class_of(const KerasRow& row, std::string_view where) {
  if (dynamic_cast<const nn::Conv2d*>(row.module) != nullptr) return row.depthwise ? "depthwise_conv2d" : "conv2d";
  if (dynamic_cast<const nn::BatchNorm2d*>(row.module) != nullptr) return "batch_normalization";
  if (dynamic_cast<const nn::Linear*>(row.module) != nullptr) return "dense";
  if (dynamic_cast<const nn::LayerNorm*>(row.module) != nullptr) return "layer_normalization";
  throw WeightsError(text("can't write ", where, ": the layer ", in_quotes(row.layer),
                          " is none that Keras has; Keras's files are for convolutions, dense layers and norms"));
}

}  // namespace transferlib::detail

namespace transferlib {

TRANSFERLIB_API void write_keras_weights(const std::filesystem::path& path, const Plan& network) {
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
  Hdf5Text layers{"layer_names", {}, true};
  const auto text_of = [](const std::string& key, const std::string& value) { return Hdf5Text{key, {value}, false}; };
  const auto group = [&](const std::string& at, Hdf5Text value) {
    objects.push_back({at, {std::move(value)}, false, {}});
  };
  const auto add = [&](const std::string& layer, std::string_view kind, const StateDict& variables) {
    const Index number = numbers[kind]++;
    const std::string at = is_keras3 ? text("layers/", kind, number == 0 ? "" : text("_", number), "/vars") : layer;
    Hdf5Text weights{"weight_names", {}, true};
    for (const auto& [variable, tensor] : variables) {
      tensors.emplace_back(is_keras3 ? text(at, "/", weights.texts.size()) : text(at, "/", layer, "/", variable),
                           tensor);
      weights.texts.push_back(text(layer, "/", variable));
    }
    group(at, is_keras3 ? text_of("name", layer) : std::move(weights));
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
    group("vars", text_of("name", network.name()));
  } else {
    group("top_level_model_weights", {"weight_names", {}, true});
    objects.push_back(
        {"", {std::move(layers), text_of("backend", "torch"), text_of("keras_version", "3.0.0")}, false, {}});
  }
  const detail::ViewsOf views = detail::views_of(tensors);
  for (const TensorView& view : views.views) objects.push_back({view.name, {}, true, view});
  const std::vector<std::byte> bytes = hdf5_bytes(objects);
  write_file(path, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

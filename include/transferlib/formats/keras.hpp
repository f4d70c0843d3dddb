/// \file
/// Keras's files of weights as checkpoints whose tensors have Keras's names: "block_1_expand/kernel". Read are
/// `.weights.h5` and `.keras` (Keras 3), and `.h5` (before Keras 3, and its `model.save("….h5")`).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/formats/hdf5.hpp>
#include <transferlib/formats/tensor_view.hpp>
#include <transferlib/formats/zip.hpp>

namespace transferlib {
namespace detail {

/// The parts of a path between slashes.
inline std::vector<std::string_view> split_path(std::string_view path) {
  std::vector<std::string_view> out;
  for (std::size_t at = 0; at <= path.size();) {
    const std::size_t slash = std::min(path.find('/', at), path.size());
    out.push_back(path.substr(at, slash - at));
    at = slash + 1;
  }
  return out;
}

/// A class in Keras 3's paths and its number there: "conv2d_12" is the 13th Conv2D of its model.
inline std::pair<std::string_view, std::int64_t> keras_class(std::string_view part) {
  const std::size_t bar = part.rfind('_');
  if (bar == std::string_view::npos || bar + 1 == part.size() || part.size() - bar > 9) return {part, 0};
  std::int64_t number = 0;
  for (const char c : part.substr(bar + 1)) {
    if (c < '0' || c > '9') return {part, 0};
    number = 10 * number + (c - '0');
  }
  return {part.substr(0, bar), number};
}

/// What Keras calls a layer's variables, of which Keras 3's files have the numbers alone. Empty where that depends on
/// how the layer was made.
inline std::vector<std::string_view> keras_variables(std::string_view layer, std::size_t count) {
  const auto first = [count](std::vector<std::string_view> names) {
    names.resize(std::min(names.size(), count));
    return names;
  };
  if (layer == "batch_normalization")
    return count == 4 ? std::vector<std::string_view>{"gamma", "beta", "moving_mean", "moving_variance"}
                      : std::vector<std::string_view>{};
  if (layer == "layer_normalization" || layer == "group_normalization")
    return count == 2 ? std::vector<std::string_view>{"gamma", "beta"} : std::vector<std::string_view>{};
  if (layer == "normalization") return first({"mean", "variance", "count"});
  if (layer == "embedding") return first({"embeddings"});
  if (layer.starts_with("separable_conv")) return first({"depthwise_kernel", "pointwise_kernel", "bias"});
  if (layer == "dense" || layer == "einsum_dense" || layer.starts_with("conv") || layer.starts_with("depthwise_conv"))
    return first({"kernel", "bias"});
  return {};
}

/// Adds a tensor of a tree to a checkpoint. \returns false where the name is taken
inline bool add_keras_tensor(Checkpoint& out, std::set<std::string>& names, const TensorView& tensor,
                             const std::string& name) {
  if (!names.insert(name).second) return false;
  out.tensors.push_back(tensor);
  out.tensors.back().name = name;
  return true;
}

/// Keras 3: a group `vars` for each layer, which is found by its class and its number; its name, if it is there, is an
/// attribute.
inline Checkpoint keras3_checkpoint(const Hdf5Tree& tree, std::string_view where) {
  struct Owner {
    std::vector<std::string_view> parts;  // of the path to `vars`
    std::vector<std::pair<std::string_view, std::int64_t>> order;
    std::vector<const Hdf5Object*> variables;
    const Hdf5Object* group = nullptr;
  };
  std::vector<Owner> owners;
  std::vector<std::pair<std::string_view, std::string_view>> given;  // path of an owner, its name
  Checkpoint out;
  for (const Hdf5Object& object : tree.objects) {
    if (object.is_dataset) {
      if (!owners.empty() && object.path.starts_with(owners.back().group->path + "/"))
        owners.back().variables.push_back(&object);
      else
        out.skipped.push_back(object.path);
      continue;
    }
    if (object.path != "vars" && !object.path.ends_with("/vars")) continue;
    Owner owner;
    owner.group = &object;
    const std::string_view path(object.path.data(), object.path.size() - std::min<std::size_t>(object.path.size(), 5));
    if (!path.empty()) owner.parts = split_path(path);
    for (std::string_view part : owner.parts) owner.order.push_back(keras_class(part));
    if (const auto name = object.texts.find("name"); name != object.texts.end() && !name->second.texts.empty())
      given.emplace_back(path, name->second.texts[0]);
    owners.push_back(std::move(owner));
  }
  std::stable_sort(owners.begin(), owners.end(), [](const Owner& a, const Owner& b) { return a.order < b.order; });
  std::set<std::string> names;
  for (Owner& owner : owners) {
    if (owner.variables.empty()) continue;
    const std::string& path = owner.group->path;
    if (!owner.parts.empty() && owner.parts[0] == "optimizer") {
      if (out.skipped.empty() || out.skipped.back() != "optimizer") out.skipped.emplace_back("optimizer");
      continue;
    }
    std::string prefix;
    std::size_t reached = 0;
    for (std::string_view part : owner.parts) {
      reached += part.size() + (reached == 0 ? 0 : 1);
      if (part == "layers" || part == "_layer_checkpoint_dependencies") continue;
      for (const auto& [at, name] : given)
        if (at == std::string_view(path).substr(0, reached)) part = name;
      prefix += text(part, "/");
    }
    std::stable_sort(owner.variables.begin(), owner.variables.end(), [](const Hdf5Object* a, const Hdf5Object* b) {
      return a->path.size() < b->path.size();  // 9 before 10
    });
    const auto known = keras_variables(owner.order.empty() ? "" : owner.order.back().first, owner.variables.size());
    for (std::size_t v = 0; v < owner.variables.size(); ++v) {
      const Hdf5Object& variable = *owner.variables[v];
      const std::string_view number = std::string_view(variable.path).substr(path.size() + 1);
      const bool is_known = v < known.size() && number == text(v);
      // Two layers of one name: their paths tell them apart.
      if (!add_keras_tensor(out, names, variable.tensor, text(prefix, is_known ? known[v] : number)) &&
          !add_keras_tensor(out, names, variable.tensor, variable.path))
        throw FormatError(
            text(where, ": the layer name ", in_quotes(prefix), " stands twice; name the layers in Keras"));
    }
  }
  out.format = "Keras 3";
  return out;
}

/// The texts of an attribute, which Keras cuts into numbered pieces where it is too long for one.
inline std::vector<std::string> keras_texts(const Hdf5Object& group, const std::string& name) {
  if (const auto whole = group.texts.find(name); whole != group.texts.end()) return whole->second.texts;
  std::vector<std::string> out;
  for (std::int64_t piece = 0;; ++piece) {
    const auto found = group.texts.find(text(name, piece));
    if (found == group.texts.end()) return out;
    out.insert(out.end(), found->second.texts.begin(), found->second.texts.end());
  }
}

/// Before Keras 3: `layer_names` of the model in its order, `weight_names` of each layer.
inline Checkpoint keras2_checkpoint(const Hdf5Tree& tree, const std::string& root, std::string_view where) {
  const std::string below = root.empty() ? "" : root + "/";
  Checkpoint out;
  std::set<std::string> names;
  std::vector<std::string> layers = keras_texts(*tree.find(root), "layer_names");
  if (tree.find(below + "top_level_model_weights") != nullptr) layers.emplace_back("top_level_model_weights");
  for (const std::string& layer : layers) {
    const Hdf5Object* group = tree.find(below + layer);
    if (group == nullptr)
      throw FormatError(text(where, ": the layer ", in_quotes(layer), " is named, and there is no group ",
                             in_quotes(below + layer), "; the file is damaged, copy or save it again"));
    const std::vector<std::string> weights = keras_texts(*group, "weight_names");
    std::set<std::string_view> folders;
    const auto folder_of = [](std::string_view path) { return path.substr(0, path.rfind('/') + 1); };
    for (const std::string& weight : weights) folders.insert(folder_of(weight));
    for (const std::string& weight : weights) {
      const Hdf5Object* dataset = tree.find(text(below, layer, "/", weight));
      if (dataset == nullptr || !dataset->is_dataset)
        throw FormatError(text(where, ": the weight ", in_quotes(weight), " of the layer ", in_quotes(layer),
                               " is named, and there is no dataset ", in_quotes(text(below, layer, "/", weight)),
                               "; the file is damaged, copy or save it again"));
      std::string_view name = weight;
      if (name.ends_with(":0")) name.remove_suffix(2);
      // A layer's own weights are below its name, whatever the scope was called; a nested model's are below its
      // layers'.
      if (folders.size() == 1 && !name.starts_with(layer + "/")) name.remove_prefix(folder_of(name).size());
      const std::string full = name.starts_with(layer + "/") ? std::string(name) : text(layer, "/", name);
      if (!add_keras_tensor(out, names, dataset->tensor, full))
        throw FormatError(text(where, ": the weight ", in_quotes(full), " stands twice; name the layers in Keras"));
    }
  }
  if (tree.find("optimizer_weights") != nullptr) out.skipped.emplace_back("optimizer_weights");
  out.format = "Keras h5";
  return out;
}

}  // namespace detail

/// Whether bytes are a `.keras` archive. \throws FormatError if they are a damaged archive
inline bool is_keras_archive(std::span<const std::byte> bytes, std::string_view where) {
  if (!is_zip(bytes)) return false;
  for (const ZipEntry& entry : parse_zip(bytes, where))
    if (entry.name == "model.weights.h5" || entry.name == "model.weights.npz") return true;
  return false;
}

/// Reads a Keras file, or any other HDF5 file, whose datasets then have their paths for names. The tensors are copies
/// that `owner` holds, in Keras's layouts: a convolution's kernel is (height, width, in, out). In the order of the
/// model's layers for `.h5`; by class, and within it in the model's order, for Keras 3's files.
/// \throws FormatError
inline Checkpoint parse_keras(std::span<const std::byte> bytes, std::string_view where) {
  using detail::text;
  if (is_zip(bytes)) {
    for (const ZipEntry& entry : parse_zip(bytes, where)) {
      if (entry.name == "model.weights.npz")
        throw FormatError(
            text(where, ": its weights are a NumPy archive; in Keras, model.save_weights(\"….weights.h5\")"));
      if (entry.name != "model.weights.h5") continue;
      check_zip_entry(entry, where);
      return parse_keras(entry.bytes, where);
    }
    throw FormatError(text(where, ": the archive has no model.weights.h5, so it is no .keras file"));
  }
  const Hdf5Tree tree = parse_hdf5(bytes, where);
  const auto is_keras2 = [&](std::string_view path) {
    const Hdf5Object* group = tree.find(path);
    return group != nullptr && (group->texts.count("layer_names") != 0 || group->texts.count("layer_names0") != 0);
  };
  Checkpoint out;
  if (is_keras2("")) {
    out = detail::keras2_checkpoint(tree, "", where);
  } else if (is_keras2("model_weights")) {
    out = detail::keras2_checkpoint(tree, "model_weights", where);
  } else if (tree.find("layers") != nullptr || tree.find("_layer_checkpoint_dependencies") != nullptr ||
             tree.find("vars") != nullptr) {
    out = detail::keras3_checkpoint(tree, where);
  } else {
    for (const Hdf5Object& object : tree.objects)
      if (object.is_dataset) out.tensors.push_back(object.tensor);
    out.format = "HDF5";
  }
  out.owner = tree.owner;
  return out;
}

}  // namespace transferlib

/// \file
/// Keras's files of weights as checkpoints whose tensors have Keras's names: "block_1_expand/kernel". Read are
/// `.weights.h5` and `.keras` (Keras 3), and `.h5` (before Keras 3, and its `model.save("….h5")`).
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/formats/hdf5.hpp>
#include <transferlib/formats/tensor_view.hpp>
#include <transferlib/formats/zip.hpp>

namespace transferlib {
namespace detail {

/// A class in Keras 3's paths and its number there: "conv2d_12" is the 13th Conv2D of its model.
struct KerasClass {
  std::string_view name;
  std::string_view number;  ///< empty for the first

  explicit KerasClass(std::string_view part) : name(part) {
    const std::size_t digits = part.find_last_not_of("0123456789") + 1;
    if (digits < 2 || digits == part.size() || part[digits - 1] != '_') return;
    name = part.substr(0, digits - 1);
    number = part.substr(digits);
  }
};

/// What Keras calls variable `v` of a layer that has `count`, of which Keras 3's files have the number alone. Empty
/// where that depends on how the layer was made.
TRANSFERLIB_API std::string_view keras_variable(std::string_view layer, std::size_t v, std::size_t count);

/// The path of a layer in Keras 3's files by which it is put in order: classes by name, layers of one by number.
TRANSFERLIB_API std::string keras_order(std::string_view path);

/// Keras 3: a group `vars` for each layer, which is found by its class and its number; its name, if it is there, is an
/// attribute.
TRANSFERLIB_API Checkpoint keras3_checkpoint(const Hdf5Tree& tree, std::string_view where);

/// The texts of an attribute, which Keras cuts into numbered pieces where it is too long for one.
TRANSFERLIB_API std::vector<std::string> keras_texts(const Hdf5Object& group, const std::string& name);

/// Before Keras 3: `layer_names` of the model in its order, `weight_names` of each layer.
TRANSFERLIB_API Checkpoint keras2_checkpoint(const Hdf5Tree& tree, const std::string& root, std::string_view where);

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
TRANSFERLIB_API Checkpoint parse_keras(std::span<const std::byte> bytes, std::string_view where);

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API std::string_view keras_variable(std::string_view layer, std::size_t v, std::size_t count) {
  struct Row {
    std::string_view layer;
    bool all;  // only where all variables are there: without one, the others can't be told
    std::array<std::string_view, 4> names;
  };
  static constexpr std::array<Row, 10> rows{
      {{"batch_normalization", true, {"gamma", "beta", "moving_mean", "moving_variance"}},
       {"layer_normalization", true, {"gamma", "beta"}},
       {"group_normalization", true, {"gamma", "beta"}},
       {"normalization", true, {"mean", "variance", "count"}},
       {"embedding", true, {"embeddings"}},
       {"separable_conv", false, {"depthwise_kernel", "pointwise_kernel", "bias"}},
       {"depthwise_conv", false, {"kernel", "bias"}},
       {"conv", false, {"kernel", "bias"}},
       {"dense", false, {"kernel", "bias"}},
       {"einsum_dense", false, {"kernel", "bias"}}}};
  for (const Row& row : rows) {
    if (!layer.starts_with(row.layer) || v >= row.names.size()) continue;
    std::size_t known = 0;
    while (known < row.names.size() && !row.names[known].empty()) ++known;
    return row.all ? (layer == row.layer && count == known ? row.names[v] : "") : row.names[v];
  }
  return {};
}

TRANSFERLIB_API std::string keras_order(std::string_view path) {
  std::string out;
  for (std::size_t at = 0; at <= path.size();) {
    const std::size_t slash = std::min(path.find('/', at), path.size());
    const KerasClass part(path.substr(at, slash - at));
    // A longer number is a larger one.
    out +=
        text(part.name, "/", static_cast<char>('a' + std::min<std::size_t>(part.number.size(), 20)), part.number, "/");
    at = slash + 1;
  }
  return out;
}

TRANSFERLIB_API Checkpoint keras3_checkpoint(const Hdf5Tree& tree, std::string_view where) {
  Checkpoint out;
  std::vector<std::string> order;
  std::vector<std::size_t> groups;  // in that order
  const auto is_vars = [](const std::string& path) { return path == "vars" || path.ends_with("/vars"); };
  for (std::size_t o = 0; o < tree.objects.size(); ++o) {
    const Hdf5Object& object = tree.objects[o];
    if (object.is_dataset || !is_vars(object.path)) continue;
    std::string key = keras_order(object.path);
    std::size_t at = order.size();
    while (at > 0 && key < order[at - 1]) --at;
    order.insert(order.begin() + static_cast<std::ptrdiff_t>(at), std::move(key));
    groups.insert(groups.begin() + static_cast<std::ptrdiff_t>(at), o);
  }
  for (const std::size_t g : groups) {
    const std::string& path = tree.objects[g].path;
    std::size_t count = 0;
    while (g + 1 + count < tree.objects.size() && tree.objects[g + 1 + count].is_dataset) ++count;
    if (count == 0) continue;
    if (path.starts_with("optimizer/")) {
      if (out.skipped.empty()) out.skipped.emplace_back("optimizer");
      continue;
    }
    std::string prefix;
    std::string_view kind;
    for (std::size_t at = 0, slash = 0; (slash = path.find('/', at)) != std::string::npos; at = slash + 1) {
      std::string_view part(path.data() + at, slash - at);
      if (part == "layers" || part == "_layer_checkpoint_dependencies") continue;
      kind = KerasClass(part).name;
      const Hdf5Object* owner = tree.find(path.substr(0, slash) + "/vars");
      const Hdf5Text* name = owner == nullptr ? nullptr : owner->find("name");
      prefix += text(name == nullptr || name->texts.empty() ? part : name->texts[0], "/");
    }
    for (std::size_t v = 0; v < count; ++v) {
      // By number: 10 stands before 2.
      const Hdf5Object* variable = tree.find(text(path, "/", v));
      const std::string_view known = variable == nullptr ? "" : keras_variable(kind, v, count);
      if (variable == nullptr) variable = &tree.objects[g + 1 + v];
      TensorView tensor = variable->tensor;
      tensor.name = text(prefix, known.empty() ? std::string_view(variable->path).substr(path.size() + 1) : known);
      // Two layers of one name: their paths tell them apart.
      if (out.find(tensor.name) != nullptr) tensor.name = variable->path;
      if (out.find(tensor.name) != nullptr)
        throw FormatError(
            text(where, ": the name ", in_quotes(tensor.name), " stands twice; name the layers in Keras"));
      out.tensors.push_back(std::move(tensor));
    }
  }
  out.format = "Keras 3";
  return out;
}

TRANSFERLIB_API std::vector<std::string> keras_texts(const Hdf5Object& group, const std::string& name) {
  if (const Hdf5Text* whole = group.find(name); whole != nullptr) return whole->texts;
  std::vector<std::string> out;
  for (std::size_t number = 0;; ++number) {
    const Hdf5Text* piece = group.find(text(name, number));
    if (piece == nullptr) return out;
    out.insert(out.end(), piece->texts.begin(), piece->texts.end());
  }
}

TRANSFERLIB_API Checkpoint keras2_checkpoint(const Hdf5Tree& tree, const std::string& root, std::string_view where) {
  const std::string below = root.empty() ? "" : root + "/";
  Checkpoint out;
  std::vector<std::string> layers = keras_texts(*tree.find(root), "layer_names");
  if (tree.find(below + "top_level_model_weights") != nullptr) layers.emplace_back("top_level_model_weights");
  const auto folder_of = [](std::string_view path) { return path.substr(0, path.rfind('/') + 1); };
  for (const std::string& layer : layers) {
    const Hdf5Object* group = tree.find(below + layer);
    if (group == nullptr)
      throw FormatError(text(where, ": the layer ", in_quotes(layer), " is named, and there is no group ",
                             in_quotes(below + layer), "; the file is damaged, copy or save it again"));
    const std::vector<std::string> weights = keras_texts(*group, "weight_names");
    bool one_folder = true;
    for (const std::string& weight : weights) one_folder = one_folder && folder_of(weight) == folder_of(weights[0]);
    for (const std::string& weight : weights) {
      const std::string path = text(below, layer, "/", weight);
      const Hdf5Object* dataset = tree.find(path);
      if (dataset == nullptr || !dataset->is_dataset)
        throw FormatError(text(where, ": the weight ", in_quotes(weight), " of the layer ", in_quotes(layer),
                               " is named, and there is no dataset ", in_quotes(path),
                               "; the file is damaged, copy or save it again"));
      std::string_view name = weight;
      if (name.ends_with(":0")) name.remove_suffix(2);
      // A layer's own weights are below its name, whatever the scope was called; a nested model's are below its
      // layers'.
      const bool is_below = name.starts_with(layer + "/");
      if (one_folder && !is_below) name.remove_prefix(folder_of(name).size());
      TensorView tensor = dataset->tensor;
      tensor.name = is_below ? std::string(name) : text(layer, "/", name);
      if (out.find(tensor.name) != nullptr)
        throw FormatError(
            text(where, ": the weight ", in_quotes(tensor.name), " stands twice; name the layers in Keras"));
      out.tensors.push_back(std::move(tensor));
    }
  }
  if (tree.find("optimizer_weights") != nullptr) out.skipped.emplace_back("optimizer_weights");
  out.format = "Keras h5";
  return out;
}

}  // namespace transferlib::detail

namespace transferlib {

TRANSFERLIB_API Checkpoint parse_keras(std::span<const std::byte> bytes, std::string_view where) {
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
    return group != nullptr && (group->find("layer_names") != nullptr || group->find("layer_names0") != nullptr);
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

#endif  // TRANSFERLIB_DEFINES

/// \file
/// A network's layers as run-time data: the rows of the original's layer table. Never types: a layer graph that is a
/// type is compiled anew in every program that names it.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/text.hpp>

namespace transferlib {

/// The activation functions of the zoo's networks.
enum class Activation { identity, relu, relu6, silu, hardswish, hardsigmoid, sigmoid, gelu, tanh, leaky_relu, mish };

/// Public counts, indices and sizes: signed, as LibTorch's are.
using Index = std::int64_t;

/// The names of the classes, in the order of their indices.
using Labels = std::vector<std::string>;

/// What a layer does. `opaque` is a layer of a user's own network that the library runs but does not know.
enum class Kind {
  input,
  convolution,
  norm,
  activation,
  add,
  multiply,
  pool,
  dropout,
  linear,
  attention,
  concat,
  resample,
  reshape,
  pad,
  rescale,
  parameter,
  opaque
};

/// The kind's name as it is printed: "convolution", "norm" …
TRANSFERLIB_API std::string_view to_string(Kind kind);

/// A row of the original's layer table: its index there, its dotted name, what it does, the stage that it belongs to
/// (0: the stem; a stage ends where the next feature map of the pyramid begins), and how many numbers it learns.
struct Layer {
  Index index = 0;
  std::string name;
  Kind kind = Kind::opaque;
  Index stage = 0;
  Index parameters = 0;
};

/// The layers in the original's order, which need not be the order of execution.
struct LayerTable {
  std::vector<Layer> rows;
  std::vector<std::string> stages;  ///< the stages' names, by number

  Index size() const { return static_cast<Index>(rows.size()); }

  /// The first row that is called `name` or lies inside it (`features.9` finds `features.9.0.weight`'s layer).
  /// \throws OptionError if there is none; the sentence has the nearest names.
  Index find(std::string_view name) const;
};

/// A layer by its index in the table or by its name: a variant, so that `{0}` stays an index and is never a null
/// `char*`.
struct LayerRef {
  std::variant<Index, std::string> value;

  template <class Number>
  requires std::integral<Number> LayerRef(Number index) : value(static_cast<Index>(index)) {}
  LayerRef(std::string name) : value(std::move(name)) {}
  LayerRef(const char* name) : value(std::string(name)) {}

  /// The layer's index in `table`, which may be one past the end.
  /// \throws OptionError if the table has no such layer.
  Index in(const LayerTable& table) const;
};

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API std::string_view to_string(Kind kind) {
  switch (kind) {
    case Kind::input:
      return "input";
    case Kind::convolution:
      return "convolution";
    case Kind::norm:
      return "norm";
    case Kind::activation:
      return "activation";
    case Kind::add:
      return "add";
    case Kind::multiply:
      return "multiply";
    case Kind::pool:
      return "pool";
    case Kind::dropout:
      return "dropout";
    case Kind::linear:
      return "linear";
    case Kind::attention:
      return "attention";
    case Kind::concat:
      return "concat";
    case Kind::resample:
      return "resample";
    case Kind::reshape:
      return "reshape";
    case Kind::pad:
      return "pad";
    case Kind::rescale:
      return "rescale";
    case Kind::parameter:
      return "parameter";
    case Kind::opaque:
      return "opaque";
  }
  return "opaque";
}

TRANSFERLIB_API Index LayerTable::find(std::string_view name) const {
  for (const Layer& row : rows)
    if (row.name == name || (row.name.size() > name.size() && row.name[name.size()] == '.' &&
                             std::string_view(row.name).substr(0, name.size()) == name))
      return row.index;
  std::vector<std::string> names;
  const auto add = [&](std::string candidate) {
    if (std::find(names.begin(), names.end(), candidate) == names.end()) names.push_back(std::move(candidate));
  };
  for (const Layer& row : rows) {
    for (std::size_t dot = row.name.find('.'); dot != std::string::npos; dot = row.name.find('.', dot + 1))
      add(row.name.substr(0, dot));
    add(row.name);
  }
  throw OptionError(detail::text("no layer is called \"", name, "\" among the network's ", rows.size(),
                                 " layers; the nearest are ", detail::first_few(detail::nearest_names(name, names)),
                                 "; `weights_tool layers NETWORK` lists them all"));
}

TRANSFERLIB_API Index LayerRef::in(const LayerTable& table) const {
  if (const auto* name = std::get_if<std::string>(&value)) return table.find(*name);
  const Index index = std::get<Index>(value);
  if (index < 0 || index > table.size())
    throw OptionError(detail::text("layer ", index, " does not exist: the network has ", table.size(),
                                   " layers, so an index from 0 to ", table.size(), " can be meant"));
  return index;
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

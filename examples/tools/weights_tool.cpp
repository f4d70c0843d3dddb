/// \file
/// Looks into files of weights, converts them, and lists the networks and their layers.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include <transferlib/core/guard.hpp>
#include <transferlib/core/text.hpp>
#include <transferlib/formats/checkpoint.hpp>
#include <transferlib/weights/state_dict.hpp>
#include <transferlib/zoo.hpp>

#include "arguments.hpp"

namespace tl = transferlib;
using tools::text;
using Rows = std::vector<std::vector<std::string>>;

namespace {

/// Prints rows in columns, two spaces apart.
void print_columns(const Rows& rows) {
  std::vector<std::size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (std::size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], row[c].size());
  }
  for (const auto& row : rows) {
    std::string line;
    for (std::size_t c = 0; c < row.size(); ++c) {
      line += row[c];
      if (c + 1 < row.size()) line.append(widths[c] - row[c].size() + 2, ' ');
    }
    std::printf("%s\n", line.c_str());
  }
}

/// "[32,3,3,3]": one word, so that scripts can take the line apart.
template <class Shape>
std::string shape_text(const Shape& shape) {
  std::string out = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) out += text(i == 0 ? "" : ",", shape[i]);
  return out + "]";
}

/// A complex number as Python writes it: "1.5-2j".
std::string complex_text(double real, double imaginary) {
  return text(real, imaginary < 0.0 ? "" : "+", imaginary, "j");
}

/// The sum of all numbers in double precision, one after the other, so that it depends on nothing else.
std::string sum_text(const tl::Tensor& flat) {
  constexpr tl::Index piece = tl::Index{1} << 20;  // memory stays small whatever the tensor
  const bool is_complex = flat.is_complex();
  double sums[2] = {0.0, 0.0};
  for (tl::Index from = 0; from < flat.numel(); from += piece) {
    tl::Tensor part = flat.narrow(0, from, std::min(piece, flat.numel() - from));
    part = is_complex ? at::view_as_real(part.to(at::kComplexDouble)).contiguous() : part.to(at::kDouble).contiguous();
    const double* p = part.const_data_ptr<double>();
    for (tl::Index i = 0; i < part.numel(); ++i) sums[is_complex ? i % 2 : 0] += p[i];
  }
  return is_complex ? complex_text(sums[0], sums[1]) : text(sums[0]);
}

std::string first_text(const tl::Tensor& flat) {
  if (flat.numel() == 0) return "-";
  const tl::Tensor first = flat[0];
  if (first.is_complex()) {
    const auto z = first.item().toComplexDouble();
    return complex_text(z.real(), z.imag());
  }
  if (first.scalar_type() == at::kBool) return text(first.item<bool>());
  if (first.scalar_type() == at::kUInt64) return text(first.item().toUInt64());
  if (!first.is_floating_point()) return text(first.to(at::kLong).item<std::int64_t>());
  return first.scalar_type() == at::kDouble ? text(first.item<double>()) : text(first.to(at::kFloat).item<float>());
}

int list(const std::filesystem::path& path) {
  const tl::Checkpoint file = tl::open_checkpoint(path);
  Rows rows;
  for (const tl::TensorView& view : file.tensors)
    tl::detail::guarded(text("reading ", view.name), [&] {
      const tl::Tensor flat = tl::detail::to_tensor(view, file.owner).reshape({-1});
      rows.push_back({tools::one_line(view.name), std::string(tl::to_string(view.dtype)), shape_text(view.shape),
                      sum_text(flat), first_text(flat)});
    });
  print_columns(rows);
  if (!file.skipped.empty())
    std::fprintf(stderr, "%s\n",
                 tools::one_line(text("note: ", path,
                                      " also has what is no tensor of weights: ", tl::detail::first_few(file.skipped)))
                     .c_str());
  return 0;
}

int convert(const std::filesystem::path& from, const std::filesystem::path& to) {
  const std::string extension = to.extension().string();
  const bool pth = extension == ".pth" || extension == ".pt";
  if (!pth && extension != ".safetensors")
    throw tools::Usage(text("what to write is told by the extension, .safetensors or .pth, which ", to, " has not"));
  const tl::Checkpoint file = tl::open_checkpoint(from);
  std::string lost;
  if (pth) {
    tl::write_pth(to, file.tensors);
    std::vector<std::string> keys;
    for (const auto& item : file.metadata)
      if (item.first != "format") keys.push_back(item.first);
    if (!keys.empty()) lost = text("the metadata ", tl::detail::first_few(keys), ", which a .pth has no place for");
  } else {
    auto metadata = file.metadata;
    metadata.try_emplace("format", "pt");  // Python's readers want it
    tl::write_safetensors(to, file.tensors, metadata);
    if (!file.skipped.empty())
      lost = text(tl::detail::first_few(file.skipped), ", which ", file.skipped.size() == 1 ? "is" : "are",
                  " no tensor of weights");
  }
  std::printf("%s: %zu tensors\n", tools::one_line(to.string()).c_str(), file.tensors.size());
  if (!lost.empty()) std::fprintf(stderr, "%s\n", tools::one_line(text("note: not taken along: ", lost)).c_str());
  return 0;
}

int layers(const std::string& name, tl::Index size) {
  const tl::AnyBackbone backbone = tl::zoo_entry(name).random({.size = size}, 0);
  const tl::Graph& graph = backbone.core.graph;
  // A layer that is called several times gives the shape of its last call.
  std::vector<std::string> shapes(graph.table.rows.size(), "-");
  for (std::size_t s = 0; s < graph.steps.size(); ++s)
    for (tl::Index layer : graph.steps[s].layers)
      shapes[static_cast<std::size_t>(layer)] = shape_text(backbone.core.measure.shapes[s]);
  Rows rows;
  for (const tl::Layer& layer : graph.table.rows)
    rows.push_back({text(layer.index), layer.name, std::string(tl::to_string(layer.kind)), text(layer.stage),
                    text(layer.parameters), shapes[static_cast<std::size_t>(layer.index)]});
  print_columns(rows);
  return 0;
}

int backbones() {
  Rows rows;
  for (const tl::ZooEntry& entry : tl::zoo()) {
    // The smallest size that it takes: the numbers of parameters do not depend on it.
    const tl::AnyBackbone backbone = entry.random({.size = entry.card.minimum_size}, 0);
    tl::Index parameters = 0;
    for (const tl::Layer& layer : backbone.layers().rows) parameters += layer.parameters;
    rows.push_back(
        {entry.card.name, text(entry.card.preprocessing.size), text(parameters), entry.card.licence, entry.card.file});
  }
  print_columns(rows);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  tl::Index size = 0;
  tools::Arguments arguments(
      "list FILE | convert IN OUT | layers BACKBONE | backbones",
      "  list FILE        a tensor a line: name, type, shape, sum (in double precision), first value\n"
      "  convert IN OUT   writes .safetensors or .pth, as OUT's extension says; IN is told by its bytes: safetensors,\n"
      "                   .pth of either format, nested or not\n"
      "  layers BACKBONE  a layer a line: index, name, kind, stage, parameters, output shape of one picture\n"
      "  backbones        a network a line: name, size, parameters, licence of the weights, their published file");
  arguments.option("--size", "N", "for layers: the side of the picture (the network's own)", size);
  return tools::run(argc, argv, arguments, [&](const std::vector<std::string>& given) {
    if (given.empty()) throw tools::Usage("a command is wanted: list, convert, layers or backbones");
    const std::string& command = given[0];
    const auto wants = [&](std::size_t count, const char* usage) {
      if (given.size() != count + 1)
        throw tools::Usage(text(command, " takes ", count, count == 1 ? " argument" : " arguments", ", not ",
                                given.size() - 1, ": weights_tool ", usage));
      if (arguments.has("--size") && command != "layers") throw tools::Usage("--size is for layers alone");
    };
    if (command == "list") {
      wants(1, "list FILE");
      return list(given[1]);
    }
    if (command == "convert") {
      wants(2, "convert IN OUT");
      return convert(given[1], given[2]);
    }
    if (command == "layers") {
      wants(1, "layers BACKBONE");
      if (arguments.has("--size") && size < 1) throw tools::Usage(text("--size must be at least 1, not ", size));
      return layers(given[1], size);
    }
    if (command == "backbones") {
      wants(0, "backbones");
      return backbones();
    }
    throw tools::Usage(text("there is no command \"", command, "\"; the nearest is ",
                            tl::detail::nearest_names(command, {"list", "convert", "layers", "backbones"}, 1).front()));
  });
}

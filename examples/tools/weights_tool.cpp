/// \file
/// Looks into files of weights, converts, compares, fetches and runs them, and lists the networks and their layers.
#include <algorithm>
#include <cctype>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <transferlib/core/guard.hpp>
#include <transferlib/core/text.hpp>
#include <transferlib/formats/checkpoint.hpp>
#include <transferlib/formats/json.hpp>
#include <transferlib/weights/pretrained.hpp>
#include <transferlib/weights/state_dict.hpp>
#include <transferlib/zoo.hpp>

#include "arguments.hpp"
#ifdef TRANSFERLIB_CURL
#include <transferlib/report/progress.hpp>
#include <transferlib/weights/fetch.hpp>

#include "interrupt.hpp"
#endif

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

/// "bilinear 232, mean 0.485 0.456 0.406, deviation 0.229 0.224 0.225": what the shorter side is scaled to before the
/// middle is cut, and what each channel is normalised by.
std::string preprocessing_text(const tl::Preprocessing& p) {
  const auto short_number = [](double x) {
    char out[32];
    std::snprintf(out, sizeof out, "%.4g", x);
    return std::string(out);
  };
  std::string out = text(tl::detail::to_string(p.interpolation), " ",
                         static_cast<tl::Index>(static_cast<double>(p.size) / p.crop_fraction + 0.5), ", mean");
  for (double m : p.mean) out += text(" ", short_number(m));
  out += ", deviation";
  for (double d : p.deviation) out += text(" ", short_number(d));
  return out;
}

int backbones(bool as_json) {
  Rows rows{{"name", "parameters", "size", "preprocessing", "file", "licence"}};
  tl::Json all = tl::Json::array();
  for (const tl::ZooEntry& entry : tl::zoo()) {
    const tl::Card& card = entry.card;
    tl::Index parameters = 0;
    for (const tl::Layer& layer : entry.layers({}).rows) parameters += layer.parameters;
    const tl::Preprocessing& p = card.preprocessing;
    if (as_json) {
      tl::Json row;
      row["name"] = card.name;
      row["aliases"] = tl::aliases_of(card);
      row["parameters"] = parameters;
      row["size"] = p.size;
      row["minimum_size"] = card.minimum_size;
      row["mean"] = p.mean;
      row["deviation"] = p.deviation;
      row["interpolation"] = std::string(tl::detail::to_string(p.interpolation));
      row["crop_fraction"] = p.crop_fraction;
      row["file"] = card.file;
      row["source"] = card.source;
      row["url"] = card.url;
      row["sha256"] = card.sha256;
      row["licence"] = card.licence;
      row["top1"] = card.top1;
      all.push_back(row);
    } else {
      const auto or_dash = [](const char* word) { return std::string(*word == '\0' ? "-" : word); };
      rows.push_back({card.name, text(parameters), text(p.size), preprocessing_text(p), or_dash(card.file),
                      or_dash(card.licence)});
    }
  }
  if (as_json)
    std::printf("%s\n", all.dump(2).c_str());
  else
    print_columns(rows);
  return 0;
}

/// Prints where programs find a network's published weights.
int find(const std::string& name) {
  const tl::Card& card = tl::zoo_entry(name).card;
  const std::filesystem::path file = tl::find_weights(card);
  if (tl::is_published_file(file, card)) tl::check_hash(file, card);
  std::printf("%s\n", tools::one_line(file.string()).c_str());
  return 0;
}

/// What `fetch` was asked for.
struct Wanted {
  std::string url, file, sha256;
  std::filesystem::path folder;
};

/// What a network of the zoo, or a URL, means. Either way `to` is another folder than the usual one.
Wanted wanted(const std::string& name, const std::string& to, const std::string& url, std::string sha256) {
  Wanted out;
  if (const std::size_t scheme = name.find("://"); scheme != std::string::npos) {
    if (!url.empty()) throw tools::Usage("--url is for a backbone: the URL is given already");
    for (char& c : sha256) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    if (sha256.size() > 64 || sha256.find_first_not_of("0123456789abcdef") != std::string::npos)
      throw tools::Usage(text("--sha256 wants up to 64 hexadecimal digits, not ", sha256));
    const std::string address = name.substr(scheme + 3, name.find_first_of("?#") - scheme - 3);
    const std::size_t slash = address.rfind('/');
    if (slash != std::string::npos) out.file = address.substr(slash + 1);
    if (out.file.empty() || out.file == "." || out.file == "..") throw tools::Usage(text(name, " names no file"));
    out.url = name, out.sha256 = sha256, out.folder = ".";
  } else {
    if (!sha256.empty()) throw tools::Usage("--sha256 is for a URL: a network's hash is known");
    const tl::Card& card = tl::zoo_entry(name).card;
    out = {url.empty() ? tl::published_url(card) : url, card.file, card.sha256, tl::weights_folder()};
    if (out.url.empty())
      throw tl::WeightsError(text("the weights of ", card.name, " are published by ", card.source,
                                  ", not as a file of their own: put ", out.file, " from there into ", out.folder,
                                  ", or give an address of it by --url"));
  }
  if (!to.empty()) out.folder = to;
  return out;
}

#ifdef TRANSFERLIB_CURL
int fetch(const Wanted& want) {
  std::optional<tl::Progress> bar;
  const auto show = [&](std::int64_t done, std::int64_t total) {
    const auto megabytes = [](std::int64_t bytes) { return (bytes + 999'999) / 1'000'000; };
    if (!bar) bar.emplace(stdout, tl::ProgressOptions{.label = want.file, .total = megabytes(total), .unit = "MB"});
    bar->update(megabytes(done));
  };
  const auto stop = tools::stop_on_interrupt("stopping; what has come is kept for the next time");
  const auto file = want.folder / want.file;
  const tl::Fetched fetched = tl::fetch_file(want.url, file, {.sha256 = want.sha256, .progress = show, .stop = stop});
  if (bar) bar->finish();
  std::string how = fetched.was_there ? "was there" : text(fetched.bytes, " bytes");
  if (fetched.resumed > 0) how += text(", ", fetched.resumed, " of them from before");
  std::printf("%s\n", tools::one_line(text(file, ": ", how)).c_str());
  return 0;
}
#else
int fetch(const Wanted& want) {
  throw tl::Error(text("this weights_tool was built without libcurl and can't fetch: put what ", want.url,
                       " gives into ", want.folder, " as ", want.file,
                       ", or install libcurl4-openssl-dev and build again"));
}
#endif

/// Puts a tensor through a network and writes what comes out.
int run(const std::string& name, const std::filesystem::path& weights, const std::filesystem::path& in,
        const std::filesystem::path& out) {
  const tl::StateDict given = tl::read_state_dict(in);
  const auto found = std::find_if(given.begin(), given.end(), [](const auto& item) { return item.first == "input"; });
  if (found == given.end()) throw tl::DataError(text(in, " has no tensor called input"));
  const tl::Tensor input = found->second;
  if (input.dim() != 4 || input.scalar_type() != at::kFloat || input.numel() == 0)
    throw tl::DataError(text("the tensor input in ", in, " must be float32 (N, C, H, W) and not empty, and is ",
                             at::toString(input.scalar_type()), " ", tl::detail::shape_text(input.sizes())));
  // The shorter side: a network that takes any size checks its smallest by it, one that takes squares alone says so.
  const tl::AnyBackbone backbone = tl::zoo_entry(name).from_file(
      weights, {.size = std::min(input.size(2), input.size(3)), .in_channels = input.size(1)});
  const tl::Graph& graph = backbone.core.graph;
  std::vector<tl::Index> steps;
  std::vector<std::string> names;
  const auto want = [&](tl::Index step, std::string tensor) {
    steps.push_back(step);
    names.push_back(std::move(tensor));
  };
  if (graph.map != 0) want(graph.map, "features");
  want(graph.pooled, "pooled");
  if (graph.logits != 0) want(graph.logits, "logits");
  for (std::size_t s = 0; s < graph.stages.size(); ++s) want(graph.stages[s], text("stage.", s));
  const torch::NoGradGuard guard;
  const tl::Activations values = tl::detail::guarded(
      text("a forward pass of ", name), [&] { return graph.run({input}, {}, steps, {}, backbone.core.frozen); });
  tl::StateDict written;
  for (std::size_t i = 0; i < values.size(); ++i) written.emplace_back(names[i], values[i]);
  tl::write_state_dict(out, written, {{"format", "pt"}});
  Rows rows;
  for (const auto& [tensor, value] : written) rows.push_back({tensor, shape_text(value.sizes())});
  print_columns(rows);
  return 0;
}

/// How far two tensors of one shape are apart.
struct Difference {
  double absolute = 0.0;  ///< the largest of any element's; infinite where a number stands against none
  double largest = 0.0;   ///< the largest finite magnitude in either

  double relative() const { return absolute == 0.0 ? 0.0 : absolute / largest; }

  void add(const tl::Tensor& a, const tl::Tensor& b) {
    const auto numbers = [](const tl::Tensor& t) {
      return t.is_complex() ? at::view_as_real(t.to(at::kComplexDouble)).reshape({-1}) : t.to(at::kDouble);
    };
    const tl::Tensor x = numbers(a), y = numbers(b);
    tl::Tensor equal = x.eq(y).logical_or(x.isnan().logical_and(y.isnan()));
    // Doubles do not tell all integers of 64 bits apart.
    const bool wide =
        a.scalar_type() == b.scalar_type() && (a.scalar_type() == at::kLong || a.scalar_type() == at::kUInt64);
    if (wide) equal = a.view(at::kLong).eq(b.view(at::kLong));
    tl::Tensor apart = (x - y).abs().masked_fill(equal, 0.0);
    apart = apart.masked_fill(apart.isnan(), std::numeric_limits<double>::infinity());
    if (wide) apart = apart.maximum(equal.logical_not().to(at::kDouble));
    absolute = std::max(absolute, apart.max().item<double>());
    for (const tl::Tensor& t : {x, y})
      largest = std::max(largest, t.abs().masked_fill(t.isfinite().logical_not(), 0.0).max().item<double>());
  }
};

Difference difference_of(const tl::Tensor& a, const tl::Tensor& b) {
  constexpr tl::Index piece = tl::Index{1} << 20;
  Difference out;
  for (tl::Index from = 0; from < a.numel(); from += piece) {
    const tl::Index count = std::min(piece, a.numel() - from);
    out.add(a.narrow(0, from, count), b.narrow(0, from, count));
  }
  return out;
}

/// Compares two files by the names of their tensors. \returns 1 where they differ by more than `tolerance`
int diff(const std::filesystem::path& path_a, const std::filesystem::path& path_b, double tolerance) {
  const tl::Checkpoint a = tl::open_checkpoint(path_a), b = tl::open_checkpoint(path_b);
  std::map<std::string, const tl::TensorView*> in_b;
  for (const tl::TensorView& view : b.tensors) in_b[view.name] = &view;
  Rows rows{{"name", "absolute", "relative"}};
  std::size_t apart = 0;
  const auto differs = [&](const std::string& name, std::string how) {
    ++apart;
    rows.push_back({tools::one_line(name), std::move(how)});
  };
  for (const tl::TensorView& x : a.tensors) {
    const auto found = in_b.find(x.name);
    if (found == in_b.end()) {
      differs(x.name, text("only in ", path_a));
      continue;
    }
    const tl::TensorView& y = *found->second;
    in_b.erase(found);
    if (x.shape != y.shape) {
      differs(x.name, text("shape ", shape_text(x.shape), " against ", shape_text(y.shape)));
    } else if (x.dtype != y.dtype) {
      differs(x.name, text("type ", tl::to_string(x.dtype), " against ", tl::to_string(y.dtype)));
    } else {
      const Difference d = tl::detail::guarded(text("comparing ", x.name), [&] {
        return difference_of(tl::detail::to_tensor(x, a.owner).reshape({-1}),
                             tl::detail::to_tensor(y, b.owner).reshape({-1}));
      });
      if (!(d.relative() <= tolerance)) ++apart;
      rows.push_back({tools::one_line(x.name), text(d.absolute), text(d.relative())});
    }
  }
  for (const tl::TensorView& y : b.tensors)
    if (in_b.count(y.name) != 0) differs(y.name, text("only in ", path_b));
  print_columns(rows);
  std::printf("%zu of %zu tensors differ%s\n", apart, rows.size() - 1,
              tolerance > 0.0 ? text(" by more than ", tolerance).c_str() : "");
  return apart == 0 ? 0 : 1;
}

/// A command: its usage, how many arguments it takes, and the options that are for it.
struct Command {
  std::string name, arguments, help;
  std::vector<std::string> options;
  std::function<int(const std::vector<std::string>&)> work;

  std::size_t count() const {
    return arguments.empty() ? 0 : static_cast<std::size_t>(std::count(arguments.begin(), arguments.end(), ' ')) + 1;
  }
  std::string usage() const { return arguments.empty() ? name : text(name, " ", arguments); }
};

}  // namespace

int main(int argc, char** argv) {
  tl::Index size = 0;
  double tolerance = 0.0;
  bool json = false;
  std::string to, url, sha256;
  const std::vector<Command> commands{
      {"list",
       "FILE",
       "a tensor a line: name, type, shape, sum (in double precision), first value",
       {},
       [](const auto& given) { return list(given[0]); }},
      {"convert",
       "IN OUT",
       "writes .safetensors or .pth, as OUT's extension says;\n"
       "IN is told by its bytes: safetensors, .pth of either format, nested or not, Keras's; or a folder of Hugging "
       "Face",
       {},
       [](const auto& given) { return convert(given[0], given[1]); }},
      {"diff",
       "A B",
       "compares two files by name, a tensor a line: the largest difference,\n"
       "and that in parts of the tensor's largest magnitude; exit 1 where they differ",
       {"--tolerance"},
       [&](const auto& given) { return diff(given[0], given[1], tolerance); }},
      {"backbones",
       "",
       "a network a line: name, parameters, size, preprocessing,\n"
       "published file and licence of the weights",
       {"--json"},
       [&](const auto&) { return backbones(json); }},
      {"layers",
       "BACKBONE",
       "a layer a line: index, name, kind, stage, parameters,\n"
       "output shape of one picture",
       {"--size"},
       [&](const auto& given) { return layers(given[0], size); }},
      {"find",
       "BACKBONE",
       "where programs find the published weights, whose hash is checked",
       {},
       [](const auto& given) { return find(given[0]); }},
      {"fetch",
       "BACKBONE|URL",
       "fetches the published weights to where programs look for them,\n"
       "or what the URL names into this folder; checks the hash;\n"
       "run again, it goes on with what was cut",
       {"--to", "--url", "--sha256"},
       [&](const auto& given) { return fetch(wanted(given[0], to, url, sha256)); }},
      {"run",
       "BACKBONE WEIGHTS IN OUT",
       "puts the tensor input of IN (N, C, H, W; float32, normalised) through,\n"
       "writes features, pooled, logits, stage.0 and on to OUT; both safetensors",
       {},
       [](const auto& given) { return run(given[0], given[1], given[2], given[3]); }},
  };
  std::string usage, help;
  std::vector<std::string> names;
  std::size_t width = 0;
  for (const Command& command : commands) width = std::max(width, command.usage().size());
  for (const Command& command : commands) {
    usage += text(usage.empty() ? "" : " | ", command.usage());
    help += text(help.empty() ? "" : "\n", "  ", command.usage(), std::string(width + 2 - command.usage().size(), ' '));
    for (const char c : command.help) help += c == '\n' ? text("\n", std::string(width + 4, ' ')) : std::string(1, c);
    names.push_back(command.name);
  }
  tools::Arguments arguments(usage, help);
  arguments.option("--size", "N", "for layers: the side of the picture (the network's own)", size)
      .option("--tolerance", "X", "for diff: the largest relative difference that passes (0)", tolerance)
      .flag("--json", "for backbones: as JSON, with all that the card says", json)
      .option("--to", "DIR", "for fetch: the folder", to)
      .option("--url", "URL", "for fetch: another address of the published file", url)
      .option("--sha256", "HEX", "for fetch of a URL: the hash to check, or its first digits", sha256)
      .footer("TRANSFERLIB_MIRROR=http://HOST:PORT takes the place of scheme and host of what is fetched.");
  return tools::run(argc, argv, arguments, [&](std::vector<std::string> given) {
    if (given.empty()) throw tools::Usage(text("a command is wanted: ", tl::detail::first_few(names, names.size())));
    const auto command =
        std::find_if(commands.begin(), commands.end(), [&](const Command& c) { return c.name == given[0]; });
    if (command == commands.end())
      throw tools::Usage(text("there is no command \"", given[0], "\"; the nearest is ",
                              tl::detail::nearest_names(given[0], names, 1).front()));
    for (const Command& other : commands)
      for (const std::string& option : other.options)
        if (&other != &*command && arguments.has(option))
          throw tools::Usage(text(option, " is for ", other.name, " alone"));
    given.erase(given.begin());
    if (given.size() != command->count())
      throw tools::Usage(text(command->name, " takes ", command->count(),
                              command->count() == 1 ? " argument" : " arguments", ", not ", given.size(),
                              ": weights_tool ", command->usage()));
    if (arguments.has("--size") && size < 1) throw tools::Usage(text("--size must be at least 1, not ", size));
    if (!(tolerance >= 0.0)) throw tools::Usage(text("--tolerance must be at least 0, not ", tolerance));
    return command->work(given);
  });
}

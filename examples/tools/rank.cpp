/// \file
/// Ranks backbones for a task without training any: `rank --data DIR --backbones a,b,c`.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <numeric>
#include <stop_token>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ATen/ATen.h>

#include <transferlib/core/files.hpp>
#include <transferlib/core/random.hpp>
#include <transferlib/data/cifar.hpp>
#include <transferlib/data/image_folder.hpp>
#include <transferlib/formats/json.hpp>
#include <transferlib/probe/logme.hpp>
#include <transferlib/probe/ridge.hpp>
#include <transferlib/report/csv.hpp>
#include <transferlib/report/progress.hpp>
#include <transferlib/report/shown.hpp>
#include <transferlib/report/svg.hpp>
#include <transferlib/train/features.hpp>
#include <transferlib/zoo.hpp>

#include "arguments.hpp"
#include "shared.hpp"

namespace tl = transferlib;
using tl::Index;
using tools::text;

namespace {

struct Told {
  std::string data, backbones, weights, by = "logme", svg = "rank.svg", json, csv, precision = "auto", device = "cpu";
  Index size = 0, limit = 0;
  int threads = 0;
  std::uint64_t seed = 0;
  bool random = false;
};

/// A backbone that is to be ranked.
struct Candidate {
  const tl::ZooEntry* entry = nullptr;
  std::filesystem::path file;  ///< of its weights; empty for random ones
};

/// What is found out about a backbone.
struct Row {
  std::string name, weights;
  Index size = 0, parameters = 0, width = 0;
  tl::LogMe logme;
  tl::RidgeProbe ridge;
  double feature_seconds = 0.0, score_seconds = 0.0;
};

void say(std::string_view name, std::string_view value) {
  std::printf("%s\n", tools::one_line(text(name, ": ", value)).c_str());
  std::fflush(stdout);
}

class Clock {
 public:
  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

/// The words between commas. \throws Usage
std::vector<std::string> names_of(const std::string& list) {
  std::vector<std::string> out;
  for (std::size_t from = 0; from <= list.size();) {
    const std::size_t comma = std::min(list.find(',', from), list.size());
    const std::string name = list.substr(from, comma - from);
    if (name.empty()) throw tools::Usage(text("--backbones has an empty name in \"", list, "\""));
    if (std::find(out.begin(), out.end(), name) != out.end())
      throw tools::Usage(text("--backbones names ", name, " twice"));
    out.push_back(name);
    from = comma + 1;
  }
  return out;
}

/// Where a backbone's weights are, so that what lacks is known before any work is done.
/// \throws WeightsError if they are nowhere and random ones are not allowed
Candidate candidate(const std::string& name, const Told& told) {
  constexpr std::string_view random = ":random";
  if (name.ends_with(random)) return {&tl::zoo_entry(name.substr(0, name.size() - random.size())), {}};
  Candidate out{&tl::zoo_entry(name), {}};
  const tl::Card& card = out.entry->card;
  if (told.weights.empty()) {
    try {
      out.file = tl::find_weights(card);
    } catch (const tl::WeightsError& e) {
      if (!told.random) throw tl::WeightsError(text(e.what(), "; or allow random weights by --random"));
    }
  } else {
    std::error_code ignored;
    out.file = std::filesystem::path(told.weights) / card.file;
    if (!std::filesystem::is_regular_file(out.file, ignored)) {
      if (!told.random)
        throw tl::WeightsError(text("no weights for ", card.name, ": ", out.file,
                                    " is not there; put it there, or allow random weights by --random"));
      out.file.clear();
    }
  }
  if (out.file.empty())
    std::fprintf(stderr, "%s\n", tools::one_line(text("warning: no weights for ", card.name, ": random ones")).c_str());
  return out;
}

tl::AnyBackbone backbone_of(const Candidate& c, const Told& told) {
  const tl::NetworkOptions options{.size = told.size};
  if (c.file.empty()) return c.entry->random(options, told.seed);
  if (tl::is_published_file(c.file, c.entry->card)) tl::check_hash(c.file, c.entry->card);
  return c.entry->from_file(c.file, options);
}

/// The pooled features of all pictures, computed once and kept for later runs, of `train` too.
tl::Features features_of(tl::detail::BackboneCore& core, const tl::detail::Source& source, const Told& told) {
  tl::detail::apply_mask(core, std::vector<bool>(core.frozen.size(), true));
  const auto wanted = tl::detail::wanted_steps(core, tl::Pooled{});
  // The cut behind the pooling, whatever lies before it: what crosses is the features.
  const tl::Cut cut = core.graph.cut_at(wanted.front() + 1, wanted);
  tl::detail::FeatureSource features(core, cut, source, tools::precision_of(told.precision),
                                     {.folder = tl::cache_folder() / "activations"}, 0, 1);
  tl::Progress bar(stdout, {.label = core.name, .total = source.size, .unit = "img"});
  features.fill({}, [&](Index done, Index) { bar.update(done); });
  bar.finish();
  tl::Features out{at::empty({source.size, core.features.width}), {}, static_cast<Index>(source.labels.size())};
  const auto all = tl::detail::numbers(0, source.size);
  out.y = source.targets(all).target;
  Index at = 0;
  features.for_each_batch(all, {.size = 1024}, [&](auto ids, const tl::Activations& a, const tl::Batch&) {
    out.x.narrow(0, at, static_cast<Index>(ids.size())).copy_(a.at(0));
    at += static_cast<Index>(ids.size());
  });
  return out;
}

Row row_of(const Candidate& c, const tl::detail::Source& source, const Told& told) {
  const torch::NoGradGuard guard;
  Clock features_clock;
  tl::AnyBackbone backbone = backbone_of(c, told);
  tl::detail::BackboneCore& core = backbone.core;
  for (tl::Tensor& p : core.network->parameters()) p.set_requires_grad(false);
  core.network->to(torch::Device(told.device));
  Row out;
  out.name = core.name;
  out.weights = c.file.empty() ? "random" : core.source;
  out.size = core.size();
  out.width = core.features.width;
  for (const auto& [name, tensor] : tl::detail::needed_state(core, tl::detail::wanted_steps(core, tl::Pooled{})))
    if (tensor.is_floating_point() && !name.ends_with("running_mean") && !name.ends_with("running_var"))
      out.parameters += tensor.numel();
  const tl::Features features = features_of(core, source, told);
  out.feature_seconds = features_clock.seconds();
  const Clock score_clock;
  out.logme = tl::logme(features);
  out.ridge = tl::ridge_probe(features);
  out.score_seconds = score_clock.seconds();
  return out;
}

std::string shown_name(const Row& row) { return row.weights == "random" ? row.name + " (random)" : row.name; }

void print_table(const std::vector<Row>& rows) {
  using tl::detail::fixed;
  std::vector<std::vector<std::string>> table{
      {"", "backbone", "parameters", "width", "LogME", "ridge LOO", "s features", "s scores"}};
  for (const Row& r : rows)
    table.push_back({text(table.size()), shown_name(r), tl::format_count(r.parameters), text(r.width),
                     fixed(r.logme.score, 4), fixed(r.ridge.accuracy * 100.0, 2) + " %", fixed(r.feature_seconds, 1),
                     fixed(r.score_seconds, 1)});
  std::vector<std::size_t> widths(table[0].size());
  for (const auto& cells : table)
    for (std::size_t c = 0; c < cells.size(); ++c) widths[c] = std::max(widths[c], cells[c].size());
  for (const auto& cells : table) {
    std::string line;
    for (std::size_t c = 0; c < cells.size(); ++c) {
      const std::string space(widths[c] - cells[c].size(), ' ');
      line += text(c == 0 ? "" : "  ", c == 1 ? "" : space, cells[c], c == 1 ? space : "");
    }
    std::printf("%s\n", line.c_str());
  }
}

void write_json(const std::vector<Row>& rows, const tl::detail::Source& source, const Told& told) {
  tl::Json::Array entries;
  for (const Row& r : rows)
    entries.push_back({{"backbone", r.name},
                       {"weights", r.weights},
                       {"size", r.size},
                       {"parameters", r.parameters},
                       {"width", r.width},
                       {"logme", r.logme.score},
                       {"ridge_accuracy", r.ridge.accuracy},
                       {"ridge_strength", r.ridge.strength},
                       {"ridge_squared_error", r.ridge.squared_error},
                       {"feature_seconds", r.feature_seconds},
                       {"score_seconds", r.score_seconds}});
  const tl::Json out{{"data", told.data},
                     {"pictures", source.size},
                     {"classes", source.labels},
                     {"by", told.by},
                     {"backbones", std::move(entries)}};
  tl::write_file(told.json, out.dump(2) + "\n");
}

void write_csv(const std::vector<Row>& rows, const std::filesystem::path& path) {
  std::string out =
      "backbone,weights,size,parameters,width,logme,ridge_accuracy,ridge_strength,feature_seconds,score_seconds\n";
  for (const Row& r : rows)
    out += text(r.name, ",", tl::detail::csv_field(r.weights), ",", r.size, ",", r.parameters, ",", r.width, ",",
                r.logme.score, ",", r.ridge.accuracy, ",", r.ridge.strength, ",", r.feature_seconds, ",",
                r.score_seconds, "\n");
  tl::write_file(path, out);
}

int rank(const std::vector<Candidate>& candidates, const tl::detail::Source& source, const Told& told) {
  std::vector<Row> rows;
  for (const Candidate& c : candidates) rows.push_back(row_of(c, source, told));
  const bool by_logme = told.by == "logme";
  const auto key = [&](const Row& r) { return by_logme ? r.logme.score : r.ridge.accuracy; };
  std::stable_sort(rows.begin(), rows.end(), [&](const Row& a, const Row& b) { return key(a) > key(b); });
  print_table(rows);
  std::vector<tl::Bar> bars;
  for (const Row& r : rows) bars.push_back({shown_name(r), key(r)});
  tl::plot_bars(bars, told.svg,
                {.title = "Backbones for this task, without training",
                 .value_label = by_logme ? "LogME, the log evidence a picture: higher is better"
                                         : "accuracy of a ridge on the features, each picture left out once",
                 .percent = !by_logme});
  if (!told.json.empty()) write_json(rows, source, told);
  if (!told.csv.empty()) write_csv(rows, told.csv);
  return 0;
}

/// The first pictures of an order by chance, so that all classes are among them.
template <class D>
D limited(const D& data, const Told& told) {
  if (told.limit == 0 || told.limit >= data.size()) return data;
  auto ids = tl::shuffled(data.size(), told.seed, 0, tl::Purpose::split);
  ids.resize(static_cast<std::size_t>(told.limit));
  std::sort(ids.begin(), ids.end());
  return data.subset(ids);
}

template <class D>
int rank_data(const std::vector<Candidate>& candidates, const D& all, Told& told, bool small) {
  const D data = limited(all, told);
  if (told.size == 0 && small) told.size = 128;  // as `train` chooses
  say("data", text(told.data, ", ", data.size(), " of ", all.size(), " pictures to train with, ", data.labels().size(),
                   " classes"));
  say("size", told.size == 0 ? std::string("that of each backbone") : text(told.size, " pixels"));
  return rank(candidates, tl::detail::source(data), told);
}

void check(const Told& told, const tools::Arguments& arguments) {
  for (const char* name : {"--data", "--backbones"})
    if (!arguments.has(name)) throw tools::Usage(text(name, " is wanted"));
  const auto at_least = [&](std::string_view name, auto value, auto least) {
    if (arguments.has(name) && !(value >= least))
      throw tools::Usage(text(name, " must be at least ", least, ", not ", value));
  };
  at_least("--size", told.size, Index{1});
  at_least("--limit", told.limit, Index{3});
  at_least("--threads", told.threads, 1);
  if (told.threads > 1024) throw tools::Usage(text("--threads must be at most 1024, not ", told.threads));
  tools::check_word("--by", told.by, {"logme", "ridge"});
  tools::check_word("--precision", told.precision, {"auto", "fp32", "bf16"});
  tools::check_word("--device", told.device, {"cpu", "cuda"});
}

}  // namespace

int main(int argc, char** argv) {
  Told told;
  tools::Arguments arguments(
      "--data DIR --backbones NAME,NAME… [options]",
      "Ranks backbones for a task without training any: how well their features explain the classes of the pictures\n"
      "of DIR, by LogME (You et al., 2021) and by a ridge regression that leaves out each picture once. DIR is as for\n"
      "train; only the pictures that train would train with are looked at.");
  arguments.option("--data", "DIR", "the pictures", told.data)
      .option("--backbones", "NAMES", "networks; weights_tool backbones lists them; NAME:random has random weights",
              told.backbones)
      .option("--weights", "DIR", "the folder of their published files, instead of where train looks", told.weights)
      .flag("--random", "random weights for backbones whose weights are not found", told.random)
      .option("--limit", "N", "so many pictures, drawn by chance (all)", told.limit)
      .option("--size", "N", "the side of the pictures that the networks see, in pixels", told.size)
      .option("--by", "WHAT", "what is ranked by: logme or ridge (logme)", told.by)
      .option("--svg", "FILE", "the ranking as a plot (rank.svg)", told.svg)
      .option("--json", "FILE", "the ranking as JSON", told.json)
      .option("--csv", "FILE", "the ranking as CSV", told.csv)
      .option("--precision", "P", "of the networks: auto, fp32 or bf16 (auto)", told.precision)
      .option("--threads", "N", "(one a core)", told.threads)
      .option("--seed", "N", "what random weights, --limit and a drawn split depend on (0)", told.seed)
      .option("--device", "cpu|cuda", "(cpu)", told.device)
      .footer("Features are kept in the cache, so a second run is quick, and train uses them again.");
  return tools::run(argc, argv, arguments, [&](const std::vector<std::string>& given) {
    if (!given.empty()) throw tools::Usage(text("\"", given[0], "\" is no option; the folder goes behind --data"));
    check(told, arguments);
    std::vector<Candidate> candidates;
    for (const std::string& name : names_of(told.backbones)) candidates.push_back(candidate(name, told));
    tools::settle_threads(told.threads);
    using Pictures = tl::TensorData<tl::ClassIndex>;
    switch (tools::data_kind(told.data)) {
      case tools::DataKind::cifar10:
        return rank_data<Pictures>(candidates, tl::Cifar10::open(told.data).train, told, true);
      case tools::DataKind::cifar100:
        return rank_data<Pictures>(candidates, tl::Cifar100::open(told.data).train, told, true);
      case tools::DataKind::pictures:
        break;
    }
    const tl::ImageFolder folder = tl::ImageFolder::split(told.data, {.seed = told.seed}).train;
    const int code = rank_data(candidates, folder, told, false);
    for (const tl::UnreadablePicture& u : folder.unreadable())
      std::fprintf(stderr, "%s\n", tools::one_line(text("warning: can't be read: ", u.reason)).c_str());
    return code;
  });
}

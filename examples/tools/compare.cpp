// links: no torch
/// \file
/// Compares runs by their folders: `compare RUN RUN… [--out FILE.svg]`: a table, what they were told otherwise, and the
/// curves of all in one picture.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <transferlib/core/files.hpp>
#include <transferlib/formats/json.hpp>
#include <transferlib/report/csv.hpp>
#include <transferlib/report/html.hpp>
#include <transferlib/report/progress.hpp>
#include <transferlib/report/svg.hpp>

#include "arguments.hpp"
#include "table.hpp"

namespace tl = transferlib;
using tools::text;

namespace {

struct Run {
  std::string name;
  tl::History history;
  tl::ReportRows options;
};

/// What a run left. Without `config.json`, as when the table was written by a program of its own, no option is known.
Run read_run(const std::string& folder) {
  const std::filesystem::path path(folder), config = path / "config.json";
  Run out{folder, tl::read_csv(path / "metrics.csv"), {}};
  std::error_code ignored;
  if (std::filesystem::exists(config, ignored))
    out.options = tl::report_rows(tl::parse_json(tl::read_file(config), config.string()));
  return out;
}

/// Runs are called by their folders' names where these tell them apart.
void shorten_names(std::vector<Run>& runs) {
  std::vector<std::string> names, sorted;
  for (const Run& run : runs) {
    const auto path = std::filesystem::path(run.name).lexically_normal();
    names.push_back(path.has_filename() ? path.filename().string() : path.parent_path().filename().string());
  }
  sorted = names;
  std::sort(sorted.begin(), sorted.end());
  if (std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end()) return;
  for (std::size_t i = 0; i < runs.size(); ++i) runs[i].name = names[i];
}

bool has_column(const Run& run, std::string_view column) {
  return !run.history.epochs.empty() && std::all_of(run.history.epochs.begin(), run.history.epochs.end(),
                                                    [&](const tl::Epoch& epoch) { return epoch.has(column); });
}

/// Whether more of it is better.
bool is_higher_better(const std::string& column) {
  for (const char* lower : {"loss", "error", "mae", "ece", "mce", "brier", "nll", "seconds"})
    if (column.find(lower) != std::string::npos) return false;
  return true;
}

/// The best first; runs without an epoch last.
void print_runs(const std::vector<Run>& runs, const std::string& by) {
  const bool higher = is_higher_better(by);
  std::vector<std::string> finals;
  for (const Run& run : runs)
    for (const auto& column : tl::detail::column_names(run.history))
      if (column.starts_with("val_") && std::find(finals.begin(), finals.end(), column) == finals.end())
        finals.push_back(column);
  std::vector<std::vector<std::string>> rows{{"run", "epochs", "best epoch", text("best ", by)}};
  for (const auto& column : finals) rows[0].push_back(text("last ", column));
  rows[0].emplace_back("time");

  std::vector<const Run*> order;
  for (const Run& run : runs) order.push_back(&run);
  // By its best value; a run that has none, or no number, is behind all others.
  const auto key = [&](const Run* run) {
    const double best = has_column(*run, by) ? run->history.best(by, higher)[by] : std::nan("");
    return std::isnan(best) ? std::numeric_limits<double>::infinity() : higher ? -best : best;
  };
  std::stable_sort(order.begin(), order.end(), [&](const Run* a, const Run* b) { return key(a) < key(b); });
  for (const Run* run : order) {
    const auto& epochs = run->history.epochs;
    std::vector<std::string> row{run->name, text(epochs.size())};
    const auto value = [&](const std::string& column, const tl::Epoch& epoch) {
      return epoch.has(column) ? tl::detail::report_value(column, epoch[column]) : std::string("–");
    };
    if (has_column(*run, by)) {
      const tl::Epoch& epoch = run->history.best(by, higher);
      row.insert(row.end(), {text(epoch.number), value(by, epoch)});
    } else {
      row.insert(row.end(), {"–", "–"});
    }
    for (const auto& column : finals) row.push_back(epochs.empty() ? "–" : value(column, epochs.back()));
    double seconds = 0.0;
    for (const tl::Epoch& epoch : epochs) seconds += epoch.has("seconds") ? epoch["seconds"] : 0.0;
    row.push_back(seconds > 0.0 ? tl::format_duration(seconds) : "–");
    rows.push_back(std::move(row));
  }
  std::fputs(tools::table(rows).c_str(), stdout);
}

/// The options whose values are not the same in all runs that tell theirs, side by side.
void print_differences(const std::vector<Run>& runs) {
  const auto value = [](const Run& run, const std::string& name) {
    for (const auto& option : run.options)
      if (option.first == name) return option.second;
    return std::string("–");
  };
  std::vector<std::string> names;
  for (const Run& run : runs)
    for (const auto& option : run.options)
      if (std::find(names.begin(), names.end(), option.first) == names.end()) names.push_back(option.first);
  std::vector<std::vector<std::string>> rows{{"option"}};
  for (const Run& run : runs) rows[0].push_back(run.name);
  for (const auto& name : names) {
    std::vector<std::string> row{name}, told;
    for (const Run& run : runs) {
      row.push_back(value(run, name));
      if (!run.options.empty()) told.push_back(row.back());
    }
    if (std::equal(told.begin() + 1, told.end(), told.begin())) continue;
    for (std::string& cell : row)
      cell = tl::detail::shortened(tl::detail::one_line(cell), 40, "…",
                                   [](char32_t c) { return tl::detail::columns_of(c); });
    rows.push_back(std::move(row));
  }
  const std::string shown = rows.size() == 1 ? "no option differs\n" : tools::table(rows, rows[0].size());
  std::printf("\n%s", shown.c_str());
}

}  // namespace

int main(int argc, char** argv) {
  std::string out = "compare.svg", by;
  tools::Arguments arguments("RUN RUN… [options]",
                             "Compares runs that train left in their folders: the best and the last epoch of each, the "
                             "options that differ, and\nthe curves of all as one picture.");
  arguments.option("--out", "FILE", "the curves, an SVG (compare.svg)", out)
      .option("--by", "COLUMN", "of metrics.csv, by which the best epoch is found (val_accuracy, else val_loss)", by)
      .footer("Only metrics.csv and config.json are read; a run may still be going on.");
  return tools::run(argc, argv, arguments, [&](const std::vector<std::string>& given) {
    if (given.size() < 2) throw tools::Usage("two folders of runs or more are wanted: compare RUN RUN…");
    std::vector<Run> runs;
    for (const std::string& folder : given) runs.push_back(read_run(folder));
    shorten_names(runs);
    std::vector<std::string> columns;
    for (const Run& run : runs)
      for (const auto& column : tl::detail::column_names(run.history)) columns.push_back(column);
    const auto known = [&](std::string_view column) {
      return std::any_of(runs.begin(), runs.end(), [&](const Run& run) { return has_column(run, column); });
    };
    if (by.empty())
      by = known("val_accuracy") ? "val_accuracy" : "val_loss";
    else if (!known(by))
      throw tools::Usage(
          text("--by: no run has a column \"", by, "\" in each epoch",
               columns.empty() ? "" : text("; the nearest is ", tl::detail::nearest_names(by, columns, 1)[0])));
    std::vector<tl::NamedHistory> curves;
    for (const Run& run : runs) curves.push_back({run.name, run.history});
    tl::plot_curves(curves, out);
    print_runs(runs, by);
    print_differences(runs);
    std::printf("\nthe curves: %s\n", tools::one_line(out).c_str());
    return 0;
  });
}

/// \file
/// Plots as SVG: the curves of a run, the confusion matrix. One file each, no outside link; light and dark by the
/// viewer's preference; every number is there as text too.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/files.hpp>
#include <transferlib/core/layers.hpp>
#include <transferlib/train/history.hpp>

namespace transferlib {

/// A line of a plot: its name and its points.
struct Series {
  std::string name;
  std::vector<double> x, y;
};

/// How a plot of lines is drawn.
struct PlotOptions {
  std::string title{}, x_label = "epoch", y_label{};
  bool percent = false;  ///< the values are parts of one, shown as percentages
  bool whole_x = true;   ///< the horizontal axis counts: its ticks are whole numbers
};

namespace detail {

inline std::string xml(std::string_view s) {
  std::string out;
  for (char c : s) {
    if (c == '&')
      out += "&amp;";
    else if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else if (c == '"')
      out += "&quot;";
    else if (static_cast<unsigned char>(c) >= 32 || c == '\n' || c == '\t')
      out += c;
    else
      out += ' ';
  }
  return out;
}

/// At most `most` characters of UTF-8, the rest as an ellipsis.
inline std::string shortened(std::string_view s, std::size_t most) {
  std::size_t characters = 0, cut = s.size();
  for (std::size_t i = 0; i < s.size(); ++i)
    if ((static_cast<unsigned char>(s[i]) & 0xC0U) != 0x80U) {
      if (characters == most - 1) cut = std::min(cut, i);
      if (++characters > most) return std::string(s.substr(0, cut)) + "…";
    }
  return std::string(s);
}

inline std::string fixed(double v, int digits) {
  char out[64];
  std::snprintf(out, sizeof out, "%.*f", digits, v);
  return out;
}

/// A step of 1, 2 or 5 times a power of ten, so that about `wanted` ticks fit.
inline double nice_step(double range, int wanted) {
  const double raw = range / wanted, power = std::pow(10.0, std::floor(std::log10(raw))), part = raw / power;
  return power * (part < 1.5 ? 1.0 : part < 3.5 ? 2.0 : part < 7.5 ? 5.0 : 10.0);
}

/// Rules for the colours of series: `stroke0` and `fill0` and on.
inline std::string colour_rules(std::initializer_list<std::string_view> colours) {
  std::string out;
  int i = 0;
  for (std::string_view c : colours) {
    out += text(".stroke", i, " { stroke: ", c, " } .fill", i, " { fill: ", c, " }\n");
    ++i;
  }
  return out;
}

/// Colours: Okabe and Ito's, which colour-blind people tell apart, a shade lighter in the dark. Plain rules, no
/// variables: not every viewer knows those.
inline std::string svg_begin(int width, int height, std::string_view title, std::string_view description) {
  return text("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 ", width, " ", height, "\" width=\"", width,
              "\" height=\"", height,
              "\" role=\"img\" font-family=\"system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, "
              "sans-serif\">\n<title>",
              xml(title), "</title>\n<desc>", xml(description),
              "</desc>\n<style>\n"
              ".back { fill: #ffffff } .ink { fill: #1f2328 } .soft { fill: #59636e } .cell { fill: #0072b2 }\n"
              ".line { fill: none; stroke-width: 2.25; stroke-linejoin: round; stroke-linecap: round }\n"
              ".grid { stroke: #e4e8ec } .axis { stroke: #59636e }\n",
              colour_rules({"#d55e00", "#0072b2", "#009e73", "#b3589a", "#8c6200", "#2b8fc9"}),
              "@media (prefers-color-scheme: dark) {\n"
              ".back { fill: #0d1117 } .ink { fill: #e6edf3 } .soft { fill: #9198a1 } .cell { fill: #58b5f0 }\n"
              ".grid { stroke: #262c34 } .axis { stroke: #9198a1 }\n",
              colour_rules({"#ff8f3d", "#58b5f0", "#2fd3a2", "#e6a3c8", "#d8b25a", "#9bd3f7"}),
              "}\n</style>\n"
              "<rect class=\"back\" width=\"100%\" height=\"100%\" rx=\"6\"/>\n");
}

inline std::string svg_text(double x, double y, std::string_view what, std::string_view style,
                            std::string_view anchor = "start", int size = 13, std::string_view more = {}) {
  return text("<text class=\"", style, "\" x=\"", fixed(x, 1), "\" y=\"", fixed(y, 1), "\" font-size=\"", size,
              "\" text-anchor=\"", anchor, "\"", more, ">", xml(what), "</text>\n");
}

}  // namespace detail

/// A plot of lines as SVG. Values that are no numbers leave a gap. \throws OptionError if there is no point at all
inline std::string lines_svg(const std::vector<Series>& series, const PlotOptions& options) {
  using detail::fixed, detail::svg_text, detail::text;
  double x0 = INFINITY, x1 = -INFINITY, y0 = INFINITY, y1 = -INFINITY;
  std::string description;
  for (const Series& s : series) {
    description += s.name + ":";
    for (std::size_t i = 0; i < s.y.size() && i < s.x.size(); ++i) {
      description += text(" ", s.y[i]);
      if (!std::isfinite(s.x[i]) || !std::isfinite(s.y[i])) continue;
      x0 = std::min(x0, s.x[i]), x1 = std::max(x1, s.x[i]), y0 = std::min(y0, s.y[i]), y1 = std::max(y1, s.y[i]);
    }
    description += "\n";
  }
  if (!(x0 <= x1)) throw OptionError("a plot needs at least one point that is a number");
  const bool one_x = x0 == x1;
  if (one_x) x0 -= 0.5, x1 += 0.5;
  if (y1 - y0 < 1e-9 * std::max(1.0, std::fabs(y1))) {
    const double room = options.percent ? 0.05 : std::max(std::fabs(y1) * 0.1, 1e-6);
    y0 -= room, y1 += room;
  }
  const double step = detail::nice_step(y1 - y0, 5);
  y0 = std::floor(y0 / step - 1e-9) * step;
  y1 = std::ceil(y1 / step + 1e-9) * step;
  if (options.percent) y0 = std::max(y0, 0.0), y1 = std::min(y1, 1.0);

  constexpr double left = 64, top = 56, width = 480, height = 270;
  constexpr int full_width = 720, full_height = 392;
  const auto px = [&](double x) { return left + (x - x0) / (x1 - x0) * width; };
  const auto py = [&](double y) { return top + height - (y - y0) / (y1 - y0) * height; };
  const auto shown = [&](double v, int more) {
    const int digits =
        std::max(0, static_cast<int>(std::ceil(-std::log10(options.percent ? step * 100.0 : step) - 1e-9)));
    return options.percent ? fixed(v * 100.0, digits + more) + " %" : fixed(v, digits + more);
  };

  std::string out = detail::svg_begin(full_width, full_height, options.title, description);
  out += svg_text(left, 30, options.title, "ink", "start", 17, " font-weight=\"600\"");
  for (double y = y0; y <= y1 + step * 1e-6; y += step) {
    out += text("<line class=\"grid\" x1=\"", fixed(left, 1), "\" x2=\"", fixed(left + width, 1), "\" y1=\"",
                fixed(py(y), 1), "\" y2=\"", fixed(py(y), 1), "\"/>\n");
    out += svg_text(left - 10, py(y) + 4.5, shown(std::fabs(y) < step * 1e-6 ? 0.0 : y, 0), "soft", "end");
  }
  double x_step = one_x ? 1.0 : detail::nice_step(x1 - x0, 8);
  if (options.whole_x) x_step = std::max(1.0, x_step);
  const int x_digits = std::max(0, static_cast<int>(std::ceil(-std::log10(x_step) - 1e-9)));
  for (double x = one_x ? x0 + 0.5 : std::ceil(x0 / x_step - 1e-9) * x_step; x <= x1 + x_step * 1e-6; x += x_step)
    out += svg_text(px(x), top + height + 22, fixed(x, x_digits), "soft", "middle");
  out += text("<line class=\"axis\" x1=\"", fixed(left, 1), "\" x2=\"", fixed(left + width, 1), "\" y1=\"",
              fixed(top + height, 1), "\" y2=\"", fixed(top + height, 1), "\"/>\n");
  out += svg_text(left + width / 2, top + height + 46, options.x_label, "soft", "middle");
  if (!options.y_label.empty()) out += svg_text(left - 10, top - 10, options.y_label, "soft", "end");

  struct End {
    double y;
    std::size_t s;
    double value;
  };
  std::vector<End> ends;
  for (std::size_t s = 0; s < series.size(); ++s) {
    std::string path;
    bool pen = false;
    std::size_t points = 0;
    for (std::size_t i = 0; i < series[s].y.size() && i < series[s].x.size(); ++i) {
      const double x = series[s].x[i], y = series[s].y[i];
      if (!std::isfinite(x) || !std::isfinite(y)) {
        pen = false;
        continue;
      }
      path += text(pen ? " L" : " M", fixed(px(x), 1), " ", fixed(py(y), 1));
      pen = true;
      ++points;
      if (!ends.empty() && ends.back().s == s) ends.pop_back();
      ends.push_back({py(y), s, y});
    }
    out += text("<path class=\"line stroke", s % 6, "\" d=\"", path, "\"/>\n");
    if (points <= 40)
      for (std::size_t i = 0; i < series[s].y.size() && i < series[s].x.size(); ++i)
        if (std::isfinite(series[s].x[i]) && std::isfinite(series[s].y[i]))
          out += text("<circle cx=\"", fixed(px(series[s].x[i]), 1), "\" cy=\"", fixed(py(series[s].y[i]), 1),
                      "\" r=\"3.2\" class=\"fill", s % 6, "\"><title>", detail::xml(series[s].name), ", ",
                      fixed(series[s].x[i], x_digits), ": ", shown(series[s].y[i], 1), "</title></circle>\n");
  }
  // The names stand where the lines end, pushed apart where they would overlap.
  std::sort(ends.begin(), ends.end(), [](const End& a, const End& b) { return a.y < b.y; });
  for (std::size_t i = 1; i < ends.size(); ++i) ends[i].y = std::max(ends[i].y, ends[i - 1].y + 34);
  if (!ends.empty() && ends.back().y > top + height) {
    ends.back().y = top + height;
    for (std::size_t i = ends.size() - 1; i-- > 0;) ends[i].y = std::min(ends[i].y, ends[i + 1].y - 34);
  }
  for (const End& end : ends) {
    out += svg_text(left + width + 14, end.y + 1, detail::shortened(series[end.s].name, 20), text("fill", end.s % 6),
                    "start", 13, " font-weight=\"600\"");
    out += svg_text(left + width + 14, end.y + 17, shown(end.value, 1), "soft");
  }
  return out + "</svg>\n";
}

/// Draws columns of a history over the epochs. \throws OptionError, FileError
inline void plot_history(const History& history, const std::vector<std::pair<std::string, std::string>>& columns,
                         const std::filesystem::path& path, const PlotOptions& options) {
  std::vector<Series> series;
  for (const auto& [column, name] : columns) {
    Series s{name, {}, history[column]};
    for (const Epoch& epoch : history.epochs) s.x.push_back(static_cast<double>(epoch.number));
    series.push_back(std::move(s));
  }
  write_file(path, lines_svg(series, options));
}

/// Draws the accuracies on training and validation data over the epochs.
/// \throws OptionError if the history is empty or has no accuracies; FileError
inline void plot_accuracy(const History& history, const std::filesystem::path& path) {
  plot_history(history, {{"train_accuracy", "training"}, {"val_accuracy", "validation"}}, path,
               {.title = "Accuracy", .percent = true});
}

/// Draws the losses on training and validation data over the epochs.
/// \throws OptionError if the history is empty or has no losses; FileError
inline void plot_loss(const History& history, const std::filesystem::path& path) {
  plot_history(history, {{"train_loss", "training"}, {"val_loss", "validation"}}, path, {.title = "Loss"});
}

/// Draws a confusion matrix: a row a true class, a column a predicted one, shaded by the part of the row.
/// \param counts row by row; \param labels the classes' names
/// \throws OptionError if there are not labels² counts; FileError
inline void plot_confusion(const std::vector<Index>& counts, const Labels& labels, const std::filesystem::path& path) {
  using detail::fixed, detail::svg_text, detail::text;
  const std::size_t n = labels.size();
  if (n == 0 || counts.size() != n * n)
    throw OptionError(text("a confusion matrix of ", n, " classes has ", n * n, " counts, not ", counts.size()));
  std::size_t longest = 1;
  for (const auto& label : labels) longest = std::max(longest, std::min<std::size_t>(label.size(), 18));
  const double cell = n <= 12 ? 44 : n <= 30 ? 24 : std::max(4.0, 600.0 / static_cast<double>(n));
  const std::size_t every = n <= 30 ? 1 : static_cast<std::size_t>(std::ceil(14.0 / cell));
  const double side = cell * static_cast<double>(n), left = 48 + 7.4 * static_cast<double>(longest),
               top = 74 + 5.6 * static_cast<double>(longest);
  const int full_width = static_cast<int>(left + side + 76), full_height = static_cast<int>(top + side + 28);
  Index right = 0, all = 0;
  std::string description = "rows: true class; columns: predicted\n";
  for (std::size_t r = 0; r < n; ++r) {
    description += labels[r] + ":";
    for (std::size_t c = 0; c < n; ++c) {
      description += text(" ", counts[r * n + c]);
      all += counts[r * n + c];
      if (r == c) right += counts[r * n + c];
    }
    description += "\n";
  }
  std::string out = detail::svg_begin(full_width, full_height, "Confusion matrix", description);
  out += svg_text(24, 32, "Confusion matrix", "ink", "start", 17, " font-weight=\"600\"");
  out += svg_text(
      24, 52,
      text("rows: true class · columns: predicted · ",
           fixed(all == 0 ? 0.0 : 100.0 * static_cast<double>(right) / static_cast<double>(all), 1), " % right"),
      "soft", "start", 12);
  for (std::size_t r = 0; r < n; ++r) {
    Index row = 0;
    for (std::size_t c = 0; c < n; ++c) row += counts[r * n + c];
    const double y = top + cell * static_cast<double>(r);
    if (r % every == 0) {
      out += svg_text(left - 8, y + cell / 2 + 4, detail::shortened(labels[r], 18), "ink", "end", 12);
      const double x = left + cell * (static_cast<double>(r) + 0.5);
      out += svg_text(x, top - 8, detail::shortened(labels[r], 18), "ink", "start", 12,
                      text(" transform=\"rotate(-45 ", fixed(x, 1), " ", fixed(top - 8, 1), ")\""));
    }
    for (std::size_t c = 0; c < n; ++c) {
      const Index count = counts[r * n + c];
      const double part = row == 0 ? 0.0 : static_cast<double>(count) / static_cast<double>(row),
                   x = left + cell * static_cast<double>(c);
      // The root makes the rare mistakes visible.
      out += text("<rect x=\"", fixed(x, 1), "\" y=\"", fixed(y, 1), "\" width=\"", fixed(cell - 1, 1), "\" height=\"",
                  fixed(cell - 1, 1), "\" rx=\"2\" class=\"cell\" fill-opacity=\"",
                  fixed(0.04 + 0.86 * std::sqrt(part), 3), "\"><title>", detail::xml(labels[r]), " taken for ",
                  detail::xml(labels[c]), ": ", count, "</title></rect>\n");
      if (cell >= 40)
        out += svg_text(x + cell / 2 - 0.5, y + cell / 2 + 4, text(count), part > 0.35 ? "back" : "ink", "middle", 12);
    }
    if (cell >= 20)
      out += svg_text(left + side + 8, y + cell / 2 + 4,
                      row == 0
                          ? std::string("–")
                          : fixed(100.0 * static_cast<double>(counts[r * n + r]) / static_cast<double>(row), 1) + " %",
                      "soft", "start", 12);
  }
  write_file(path, out + "</svg>\n");
}

}  // namespace transferlib

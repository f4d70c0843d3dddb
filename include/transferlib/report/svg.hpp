/// \file
/// Plots as SVG: the curves of a run or of several, the confusion matrix, the reliability diagram, bars for rankings.
/// One file each, no outside link; light and dark by the viewer's preference; the numbers are there as text too, as CSV
/// in the `metadata` element.
///
/// The colours are Okabe and Ito's ("Color universal design", 2008), which colour-blind people tell apart, darkened or
/// lightened until text in them reads well (WCAG's contrast of 4.5) on white and on near black.
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/files.hpp>
#include <transferlib/core/layers.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/metrics/scores.hpp>
#include <transferlib/report/csv.hpp>
#include <transferlib/report/shown.hpp>
#include <transferlib/train/history.hpp>

namespace transferlib {

/// A line of a plot: its name and its points. A y that is not finite leaves a gap.
struct Series {
  std::string name;
  std::vector<double> x, y;
};

/// How a plot of lines is drawn.
struct PlotOptions {
  std::string title{}, x_label = "epoch", y_label{};
  bool percent = false;  ///< the values are parts of one, shown as percentages
  bool whole_x = true;   ///< the horizontal axis counts: its ticks are whole numbers
  double width = 720.0;  ///< of the picture, in pixels, at least 400
};

/// What one of several runs has measured.
struct NamedHistory {
  std::string name;
  History history;
};

/// How the curves of several runs are drawn.
struct CurvesOptions {
  std::vector<std::string> columns{};  ///< a plot each; where none is named, every one of validation, else all
  double width = 720.0;                ///< of the picture, in pixels, at least 400
};

/// How a reliability diagram is drawn.
struct ReliabilityOptions {
  std::string title = "Reliability";
};

/// How a confusion matrix is drawn.
struct ConfusionOptions {
  std::string title = "Confusion matrix";
  std::string one = "picture", many = "pictures";  ///< what is counted
};

/// A bar of a bar chart.
struct Bar {
  std::string name;
  double value = 0.0;
};

/// How bars are drawn.
struct BarOptions {
  std::string title{}, value_label{};
  bool percent = false;  ///< the values are parts of one, shown as percentages
  int digits = -1;       ///< digits after the point; -1: as many as tell the values apart, at most four
};

namespace detail {

/// Text as XML takes it: valid UTF-8 without control characters, markup escaped.
TRANSFERLIB_API std::string xml(std::string_view s);

/// A coordinate: a tenth of a pixel is enough.
inline std::string px(double v) {
  std::string out = fixed(v, 1);
  if (out.size() > 2 && out.compare(out.size() - 2, 2, ".0") == 0) out.resize(out.size() - 2);
  return out;
}

/// `s` in at most `width` pixels at a font's `size`.
inline std::string fitted(std::string_view s, double width, double size) {
  return shortened(one_line(s), width / size, "…", [](char32_t c) { return em_width(c); });
}

/// Where an axis has its ticks: at first, first + step, … and `count` in all.
struct Ticks {
  double first = 0.0, step = 1.0;
  int count = 0;

  double at(int i) const {
    const double v = first + step * i;
    return std::fabs(v) < step * 1e-6 ? 0.0 : v;
  }
  double last() const { return at(count - 1); }
};

/// Ticks at 1, 2 or 5 times a power of ten, about `wanted` of them: `outside` the range, so that they hold it, or
/// inside.
TRANSFERLIB_API Ticks nice_ticks(double low, double high, int wanted, bool outside, double least = 0.0);

/// A value of an axis whose ticks are `step` apart, with `more` digits than the ticks need; in powers of ten where
/// `size`, the largest of the values shown alike, is large or the steps are tiny.
TRANSFERLIB_API std::string value_text(double v, double step, bool percent, int more, double size);

/// Moves places (in order) as little as possible, so that neighbours are `gap` apart, within [low, high] if they fit.
TRANSFERLIB_API void spread(std::vector<double>& places, double gap, double low, double high);

TRANSFERLIB_API std::string colour_rules(std::initializer_list<const char*> colours);
inline constexpr std::size_t colours = 6;

/// The beginning of a plot: what it is in words, its numbers as CSV, its colours. Every rule holds inside `.tl-plot`
/// alone, so that several plots fit into one page.
TRANSFERLIB_API std::string svg_begin(double width, double height, std::string_view title, std::string_view description,
                                      std::string_view csv);

inline std::string svg_text(double x, double y, std::string_view what, std::string_view style,
                            std::string_view anchor = "start", double size = 13, std::string_view more = {}) {
  return text("<text class=\"", style, "\" x=\"", px(x), "\" y=\"", px(y), "\" font-size=\"", px(size), "\"",
              anchor == "start" ? std::string() : text(" text-anchor=\"", anchor, "\""), more, ">", xml(what),
              "</text>\n");
}

inline std::string svg_line(double x0, double y0, double x1, double y1, std::string_view style) {
  return text("<line class=\"", style, "\" x1=\"", px(x0), "\" y1=\"", px(y0), "\" x2=\"", px(x1), "\" y2=\"", px(y1),
              "\"/>\n");
}

/// A tick: where it is, in pixels, and what it says.
struct Tick {
  double place;
  std::string label;
};

/// The axes of a plot that is `width` x `height` pixels large; the ticks of y from the bottom up.
TRANSFERLIB_API std::string svg_axes(double left, double top, double width, double height, const std::vector<Tick>& xs,
                                     const std::vector<Tick>& ys, std::string_view x_label);

/// A part as a percentage; 100.0 % is all, not a little less.
inline std::string percentage(double part, double all) {
  if (all == 0.0) return "–";
  const double percent = 100.0 * part / all;
  return fixed(part < all ? std::min(percent, 99.9) : percent, 1) + " %";
}

/// Whether a value can be drawn; beyond this size sums of coordinates would no longer be finite.
inline bool drawable(double v) { return std::fabs(v) < 1e150; }

/// A range that is not a point: widened around it, within [0, 1] for percentages.
TRANSFERLIB_API void widen(double& low, double& high, bool percent);

}  // namespace detail

/// A plot of lines as SVG, their names and last values at their ends.
/// \throws OptionError if a series has not as many x as y
TRANSFERLIB_API std::string lines_svg(const std::vector<Series>& series, const PlotOptions& options = {});

/// Writes `lines_svg`. \throws OptionError, FileError
inline void plot_lines(const std::vector<Series>& series, const std::filesystem::path& path,
                       const PlotOptions& options = {}) {
  write_file(path, lines_svg(series, options));
}

/// Columns of a history as series over the epochs. An epoch that lacks a column has no point there; a column that no
/// epoch has is left out. \param columns pairs of a column and the name to show
/// \throws OptionError if the history has none of the columns
TRANSFERLIB_API std::vector<Series> history_series(const History& history,
                                                   const std::vector<std::pair<std::string, std::string>>& columns);

/// Draws the accuracies on training and validation data over the epochs.
/// \throws OptionError if the history is empty or has no accuracies; FileError
inline void plot_accuracy(const History& history, const std::filesystem::path& path, PlotOptions options = {}) {
  if (options.title.empty()) options.title = "Accuracy";
  options.percent = true;
  plot_lines(history_series(history, {{"train_accuracy", "training"}, {"val_accuracy", "validation"}}), path, options);
}

/// Draws the losses on training and validation data over the epochs.
/// \throws OptionError if the history is empty or has no losses; FileError
inline void plot_loss(const History& history, const std::filesystem::path& path, PlotOptions options = {}) {
  if (options.title.empty()) options.title = "Loss";
  plot_lines(history_series(history, {{"train_loss", "training"}, {"val_loss", "validation"}}), path, options);
}

/// The curves of several runs, a plot a column below one another, a line a run in each; columns that are accuracies are
/// shown as percentages. A run that lacks a column has no line there.
/// \throws OptionError if no run has an epoch, or none has a column that was asked for
TRANSFERLIB_API std::string curves_svg(const std::vector<NamedHistory>& runs, const CurvesOptions& options = {});

/// Writes `curves_svg`. \throws OptionError, FileError
inline void plot_curves(const std::vector<NamedHistory>& runs, const std::filesystem::path& path,
                        const CurvesOptions& options = {}) {
  write_file(path, curves_svg(runs, options));
}

/// A reliability diagram as SVG (Guo et al., 2017): over the confidence how often the answers were right. What lacks to
/// the confidence, which the diagonal shows, is orange; what is above it is pale. Below, how many pictures each
/// interval has. The bins are intervals of equal width, from 0 to 1.
TRANSFERLIB_API std::string reliability_svg(const std::vector<ReliabilityBin>& bins,
                                            const ReliabilityOptions& options = {});

/// Writes `reliability_svg`. \throws FileError
inline void plot_reliability(const std::vector<ReliabilityBin>& bins, const std::filesystem::path& path,
                             const ReliabilityOptions& options = {}) {
  write_file(path, reliability_svg(bins, options));
}

/// A confusion matrix as SVG: a row a true class, a column a predicted one, shaded by the share of the row (its root,
/// so that rare mistakes are seen), what is right in blue and mistakes in orange. Counts stand in the cells where they
/// fit. \param counts row by row; \param labels the classes' names \throws OptionError if there are not labels² counts,
/// or one is negative
TRANSFERLIB_API std::string confusion_svg(const std::vector<Index>& counts, const Labels& labels,
                                          const ConfusionOptions& options = {});

/// Writes `confusion_svg`. \throws OptionError, FileError
inline void plot_confusion(const std::vector<Index>& counts, const Labels& labels, const std::filesystem::path& path,
                           const ConfusionOptions& options = {}) {
  write_file(path, confusion_svg(counts, labels, options));
}

/// Bars as SVG, one below the other in the order given, their values beside them: for rankings.
TRANSFERLIB_API std::string bars_svg(const std::vector<Bar>& bars, const BarOptions& options = {});

/// Writes `bars_svg`. \throws FileError
inline void plot_bars(const std::vector<Bar>& bars, const std::filesystem::path& path, const BarOptions& options = {}) {
  write_file(path, bars_svg(bars, options));
}

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API std::string xml(std::string_view s) {
  std::string out;
  for (char c : one_line(s)) {
    if (c == '&')
      out += "&amp;";
    else if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else if (c == '"')
      out += "&quot;";
    else
      out += c;
  }
  return out;
}

TRANSFERLIB_API Ticks nice_ticks(double low, double high, int wanted, bool outside, double least) {
  const double raw = (high - low) / wanted, power = std::pow(10.0, std::floor(std::log10(raw)));
  const double ratio = raw / power;
  const double step = std::max(least, (ratio < 1.5 ? 1.0 : ratio < 3.5 ? 2.0 : ratio < 7.5 ? 5.0 : 10.0) * power);
  const double first = outside ? std::floor(low / step + 1e-9) : std::ceil(low / step - 1e-9);
  const double last = outside ? std::ceil(high / step - 1e-9) : std::floor(high / step + 1e-9);
  return {first * step, step, static_cast<int>(last - first) + 1};
}

TRANSFERLIB_API std::string value_text(double v, double step, bool percent, int more, double size) {
  if (!std::isfinite(v)) return "–";
  if (percent) v *= 100.0, step *= 100.0, size *= 100.0;
  if (size >= 1e6 || (size < 1e-4 && step < 1e-4)) {
    char out[64];
    const int digits =
        std::clamp(static_cast<int>(std::ceil(std::log10(std::max(std::fabs(v), step) / step))) + more, 0, 12);
    std::string s(out, std::to_chars(out, out + sizeof out, v, std::chars_format::scientific, digits).ptr);
    const std::size_t e = s.find('e');
    std::string mantissa = s.substr(0, e), power = s.substr(e + 1);
    if (mantissa.find('.') != std::string::npos) {
      mantissa.erase(mantissa.find_last_not_of('0') + 1);
      if (mantissa.back() == '.') mantissa.pop_back();
    }
    if (power.front() == '+') power.erase(0, 1);
    const std::size_t zero = power.front() == '-' ? 1 : 0;
    if (power.size() > zero + 1 && power[zero] == '0') power.erase(zero, 1);
    if (v == 0.0) return percent ? "0 %" : "0";
    return mantissa + "e" + power + (percent ? " %" : "");
  }
  const int digits = std::clamp(static_cast<int>(std::ceil(-std::log10(step) - 1e-9)), 0, 12);
  return fixed(v, digits + more) + (percent ? " %" : "");
}

TRANSFERLIB_API void spread(std::vector<double>& places, double gap, double low, double high) {
  struct Block {
    double sum;
    std::size_t count;
    double start(double g) const { return sum / static_cast<double>(count) - g * static_cast<double>(count - 1) / 2.0; }
  };
  std::vector<Block> blocks;
  for (double place : places) {
    blocks.push_back({place, 1});
    while (blocks.size() > 1) {
      const Block& last = blocks.back();
      Block& before = blocks[blocks.size() - 2];
      if (before.start(gap) + gap * static_cast<double>(before.count) <= last.start(gap)) break;
      before = {before.sum + last.sum, before.count + last.count};
      blocks.pop_back();
    }
  }
  std::size_t i = 0;
  for (const Block& block : blocks)
    for (std::size_t k = 0; k < block.count; ++k) places[i++] = block.start(gap) + gap * static_cast<double>(k);
  for (i = 0; i < places.size(); ++i) places[i] = std::max(places[i], i == 0 ? low : places[i - 1] + gap);
  for (i = places.size(); i-- > 0;)
    places[i] = std::min(places[i], i + 1 == places.size() ? high : places[i + 1] - gap);
}

TRANSFERLIB_API std::string colour_rules(std::initializer_list<const char*> colours) {
  std::string out;
  int n = 0;
  for (const char* c : colours) {
    out += text(".tl-plot .s", n, " { stroke: ", c, " } .tl-plot .f", n, " { fill: ", c, " }\n");
    ++n;
  }
  return out;
}

TRANSFERLIB_API std::string svg_begin(double width, double height, std::string_view title, std::string_view description,
                                      std::string_view csv) {
  std::string numbers;
  for (std::size_t at = 0; at < csv.size();) {  // line by line: `xml` makes one line of its text
    const std::size_t end = std::min(csv.find('\n', at), csv.size());
    numbers += xml(csv.substr(at, end - at)) + "\n";
    at = end + 1;
  }
  const std::string w = px(std::ceil(width)), h = px(std::ceil(height));
  return text("<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"tl-plot\" viewBox=\"0 0 ", w, " ", h, "\" width=\"", w,
              "\" height=\"", h,
              "\" role=\"img\" font-family=\"system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, "
              "'Liberation Sans', 'DejaVu Sans', sans-serif\">\n<title>",
              xml(title), "</title>\n<desc>", xml(description), "</desc>\n<metadata>\n", numbers,
              "</metadata>\n<style>\n"
              ".tl-plot .back { fill: #ffffff } .tl-plot .ink { fill: #1f2328 } .tl-plot .soft { fill: #59636e }\n"
              ".tl-plot .right { fill: #00548c } .tl-plot .wrong { fill: #c25100 } .tl-plot .bed { fill: #f3f5f7 }\n"
              ".tl-plot .line { fill: none; stroke-width: 2.25; stroke-linejoin: round; stroke-linecap: round }\n"
              ".tl-plot .grid { stroke: #e4e8ec } .tl-plot .axis { stroke: #8c959f }\n",
              colour_rules({"#c25100", "#0072b2", "#00805f", "#a8437f", "#8c6200", "#6b4fbb"}),
              "@media (prefers-color-scheme: dark) {\n"
              ".tl-plot .back { fill: #0d1117 } .tl-plot .ink { fill: #e6edf3 } .tl-plot .soft { fill: #9198a1 }\n"
              ".tl-plot .right { fill: #58b5f0 } .tl-plot .wrong { fill: #ff8f3d } .tl-plot .bed { fill: #161b22 }\n"
              ".tl-plot .grid { stroke: #262c34 } .tl-plot .axis { stroke: #656c76 }\n",
              colour_rules({"#ff8f3d", "#58b5f0", "#2fd3a2", "#e6a3c8", "#d8b25a", "#b9a6f5"}),
              "}\n</style>\n<rect class=\"back\" width=\"100%\" height=\"100%\" rx=\"6\"/>\n");
}

TRANSFERLIB_API std::string svg_axes(double left, double top, double width, double height, const std::vector<Tick>& xs,
                                     const std::vector<Tick>& ys, std::string_view x_label) {
  const double bottom = top + height;
  std::string out;
  for (const Tick& y : ys) {
    if (y.place < bottom - 0.01) out += svg_line(left, y.place, left + width, y.place, "grid");
    out += svg_text(left - 10, y.place + 4.5, y.label, "soft", "end");
  }
  out += svg_line(left, bottom, left + width, bottom, "axis");
  for (const Tick& x : xs) {
    out += svg_line(x.place, bottom, x.place, bottom + 5, "axis");
    out += svg_text(x.place, bottom + 21, x.label, "soft", "middle");
  }
  if (!x_label.empty()) out += svg_text(left + width / 2, bottom + 46, fitted(x_label, width, 13), "soft", "middle");
  return out;
}

TRANSFERLIB_API void widen(double& low, double& high, bool percent) {
  const double size = std::max(std::fabs(low), std::fabs(high));
  if (high - low > 1e-9 * size && high - low > 1e-300) return;
  const double room = percent ? 0.05 : size > 1e-290 ? size * 0.1 : 0.5;
  low -= room;
  high += room;
}

}  // namespace transferlib::detail

namespace transferlib {

TRANSFERLIB_API std::string lines_svg(const std::vector<Series>& series, const PlotOptions& options) {
  using detail::em_width, detail::px, detail::svg_line, detail::svg_text, detail::text, detail::value_text;
  double x0 = INFINITY, x1 = -INFINITY, y0 = INFINITY, y1 = -INFINITY;
  std::string csv = text("series,", detail::csv_field(options.x_label), ",value\n");
  for (const Series& s : series) {
    if (s.x.size() != s.y.size())
      throw OptionError(
          text("the series \"", s.name, "\" has ", s.x.size(), " x and ", s.y.size(), " y; a point needs both"));
    for (std::size_t i = 0; i < s.y.size(); ++i) {
      csv += text(detail::csv_field(s.name), ",", s.x[i], ",", s.y[i], "\n");
      if (!detail::drawable(s.x[i]) || !detail::drawable(s.y[i])) continue;
      x0 = std::min(x0, s.x[i]), x1 = std::max(x1, s.x[i]), y0 = std::min(y0, s.y[i]), y1 = std::max(y1, s.y[i]);
    }
  }
  const bool nothing = !(x0 <= x1);
  if (nothing) x0 = y0 = 0.0, x1 = y1 = 1.0;
  const bool one_x = x0 == x1;
  const double only_x = x0;
  if (one_x) detail::widen(x0, x1, false);
  if (options.percent && (y0 >= 0.0 && y1 <= 1.0)) {
    if (one_x && y1 - y0 < 0.1) {  // one epoch: a difference of a few points is no cliff
      const double middle = (y0 + y1) / 2.0;
      y0 = middle - 0.05, y1 = middle + 0.05;
    }
    detail::widen(y0, y1, true);

    y0 = std::max(y0, 0.0), y1 = std::min(y1, 1.0);
  } else {
    detail::widen(y0, y1, false);
  }
  const detail::Ticks ys = detail::nice_ticks(y0, y1, 5, true);
  y0 = ys.first, y1 = ys.last();
  const auto y_text = [&](double y) {
    return value_text(y, ys.step, options.percent, 0, std::max(std::fabs(y0), std::fabs(y1)));
  };

  // Each line's last point, for its label.
  struct End {
    std::size_t series;
    double x, y;
  };
  std::vector<End> ends;
  double label_width = 0.0;
  for (std::size_t s = 0; s < series.size(); ++s)
    for (std::size_t i = series[s].y.size(); i-- > 0;)
      if (detail::drawable(series[s].x[i]) && detail::drawable(series[s].y[i])) {
        ends.push_back({s, series[s].x[i], series[s].y[i]});
        break;
      }
  const int more = options.percent ? 1 : 2;
  const auto end_value = [&](const End& e) { return value_text(e.y, ys.step, options.percent, more, std::fabs(e.y)); };
  const bool two_lines = ends.size() <= 7;
  const double gap = two_lines ? 38.0 : 19.0;
  double tick_width = 0.0;
  for (int i = 0; i < ys.count; ++i) tick_width = std::max(tick_width, 13.0 * em_width(y_text(ys.at(i))));
  for (const End& e : ends) {
    const double name = 13.6 * em_width(detail::fitted(series[e.series].name, 170, 13)),
                 value = 13 * em_width(end_value(e));
    label_width = std::max(label_width, two_lines ? std::max(name, value) : name + 8 + value);
  }
  const double full_width = std::max(options.width, 400.0), left = std::max(48.0, 26.0 + tick_width),
               top = options.y_label.empty() ? 58 : 78, right = std::max(28.0, 36.0 + label_width),
               width = full_width - left - right, height = std::max(270.0, gap * static_cast<double>(ends.size())),
               bottom = top + height, full_height = bottom + (options.x_label.empty() ? 40 : 62);
  const auto at_x = [&](double x) { return left + (x - x0) / (x1 - x0) * width; };
  const auto at_y = [&](double y) { return bottom - (y - y0) / (y1 - y0) * height; };

  const double least_x = options.whole_x ? 1.0 : 0.0;
  detail::Ticks xs = one_x ? detail::Ticks{only_x, 1.0, 1} : detail::nice_ticks(x0, x1, 8, false, least_x);
  if (one_x && !options.whole_x) xs.step = std::max(std::fabs(only_x) * 1e-3, 1e-9);
  const auto x_text = [&](double x) {
    return value_text(x, xs.step, false, 0, std::max(std::fabs(x0), std::fabs(x1)));
  };
  const double x_label_width = 12.0 + 13.0 * std::max(em_width(x_text(xs.at(0))), em_width(x_text(xs.last())));
  for (int wanted = 7; wanted > 0 && xs.count > 1 && (xs.count - 1) * x_label_width > width; --wanted)
    xs = detail::nice_ticks(x0, x1, wanted, false, least_x);

  std::string description;
  for (const End& e : ends) {
    const auto& y = series[e.series].y;
    const auto gaps = std::count_if(y.begin(), y.end(), [](double v) { return !detail::drawable(v); });
    description += text(description.empty() ? "" : " ", series[e.series].name, ": ", end_value(e), " at ",
                        options.x_label.empty() ? "" : options.x_label + " ", x_text(e.x),
                        gaps == 0 ? "" : text(", ", gaps, gaps == 1 ? " value is" : " values are", " no number"), ".");
  }
  if (nothing) description = "There is nothing to draw: no value is a finite number.";

  std::string out =
      detail::svg_begin(full_width, full_height, options.title.empty() ? "Plot" : options.title, description, csv);
  if (!options.title.empty())
    out += svg_text(24, 34, detail::fitted(options.title, full_width - 48, 18), "ink", "start", 17,
                    " font-weight=\"600\"");
  if (!options.y_label.empty())
    out += svg_text(24, top - 16, detail::fitted(options.y_label, full_width - 48, 13), "soft");
  std::vector<detail::Tick> x_ticks, y_ticks;
  for (int i = 0; i < ys.count; ++i) y_ticks.push_back({at_y(ys.at(i)), y_text(ys.at(i))});
  for (int i = 0; i < xs.count && !nothing; ++i) x_ticks.push_back({at_x(xs.at(i)), x_text(xs.at(i))});
  out += detail::svg_axes(left, top, width, height, x_ticks, y_ticks, options.x_label);
  if (nothing)
    out += svg_text(left + width / 2, top + height / 2, "nothing to draw: no value is a finite number", "soft",
                    "middle", 14);

  for (std::size_t s = 0; s < series.size(); ++s) {
    const Series& line = series[s];
    const auto seen = [&](std::size_t i) {
      return i < line.y.size() && detail::drawable(line.x[i]) && detail::drawable(line.y[i]);
    };
    std::string path;
    for (std::size_t i = 0; i < line.y.size(); ++i)
      if (seen(i) && (seen(i - 1) || seen(i + 1)))
        path += text(path.empty() ? "M" : seen(i - 1) ? " L" : " M", px(at_x(line.x[i])), " ", px(at_y(line.y[i])));
    // From the second round of the colours on lines are dashed.
    const char* dash = s / detail::colours % 3 == 1 ? " stroke-dasharray=\"7 5\"" : " stroke-dasharray=\"1 5\"";
    if (!path.empty())
      out += text("<path class=\"line s", s % detail::colours, "\"", s < detail::colours ? "" : dash, " d=\"", path,
                  "\"/>\n");
    // Points show where there are few of them, and where a point has no neighbour to be joined to.
    for (std::size_t i = 0; i < line.y.size(); ++i) {
      const bool alone = !seen(i - 1) && !seen(i + 1);
      if (seen(i) && (line.y.size() <= 30 || alone))
        out += text("<circle class=\"f", s % detail::colours, "\" cx=\"", px(at_x(line.x[i])), "\" cy=\"",
                    px(at_y(line.y[i])), "\" r=\"", alone ? "4.5" : "3.4", "\"><title>", detail::xml(line.name), ", ",
                    detail::xml(options.x_label), " ", x_text(line.x[i]), ": ",
                    value_text(line.y[i], ys.step, options.percent, more, std::fabs(line.y[i])), "</title></circle>\n");
    }
  }

  // The names stand where the lines end, pushed apart where they would overlap.
  std::stable_sort(ends.begin(), ends.end(), [](const End& a, const End& b) { return a.y > b.y; });
  std::vector<double> places;
  for (const End& e : ends) places.push_back(at_y(e.y));
  detail::spread(places, gap, top, bottom);
  for (std::size_t i = 0; i < ends.size(); ++i) {
    const std::size_t s = ends[i].series;
    const double x = left + width + 16, y = places[i];
    if (std::fabs(y - at_y(ends[i].y)) > 8 && at_x(ends[i].x) > left + width - 1)
      out += svg_line(left + width + 5, at_y(ends[i].y), x - 3, y, "grid");
    const std::string name = detail::fitted(series[s].name, 170, 13);
    const std::string style = text("f", s % detail::colours);
    out += svg_text(x, two_lines ? y - 3 : y + 4.5, name, style, "start", 13, " font-weight=\"600\"");
    if (two_lines)
      out += svg_text(x, y + 13, end_value(ends[i]), "soft");
    else
      out += svg_text(full_width - 20, y + 4.5, end_value(ends[i]), "soft", "end");
  }
  return out + "</svg>\n";
}

TRANSFERLIB_API std::vector<Series> history_series(const History& history,
                                                   const std::vector<std::pair<std::string, std::string>>& columns) {
  std::vector<Series> out;
  std::vector<std::string> wanted;
  for (const auto& [column, name] : columns) {
    wanted.push_back(column);
    Series s{name, {}, {}};
    for (const Epoch& epoch : history.epochs)
      if (epoch.has(column)) {
        s.x.push_back(static_cast<double>(epoch.number));
        s.y.push_back(epoch[column]);
      }
    if (!s.y.empty()) out.push_back(std::move(s));
  }
  if (history.epochs.empty()) throw OptionError("a history without epochs can't be drawn; train first");
  if (out.empty())
    throw OptionError(detail::text("no epoch has a column ", detail::first_few(wanted), "; the history's columns are ",
                                   detail::first_few(detail::column_names(history), 12)));
  return out;
}

TRANSFERLIB_API std::string curves_svg(const std::vector<NamedHistory>& runs, const CurvesOptions& options) {
  std::vector<std::string> all, columns = options.columns;
  for (const NamedHistory& run : runs)
    for (const auto& column : detail::column_names(run.history))
      if (std::find(all.begin(), all.end(), column) == all.end()) all.push_back(column);
  if (all.empty()) throw OptionError("there is no run that has an epoch with a number, so there are no curves to draw");
  if (columns.empty())
    for (const auto& column : all)
      if (column.starts_with("val_")) columns.push_back(column);
  if (columns.empty()) columns = all;
  const double width = std::max(options.width, 400.0);
  double height = 0.0;
  std::string plots;
  for (const auto& column : columns) {
    std::vector<Series> lines;
    for (const NamedHistory& run : runs) {
      Series line{run.name, {}, {}};
      for (const Epoch& epoch : run.history.epochs)
        if (epoch.has(column)) {
          line.x.push_back(static_cast<double>(epoch.number));
          line.y.push_back(epoch[column]);
        }
      if (!line.y.empty()) lines.push_back(std::move(line));
    }
    if (lines.empty())
      throw OptionError(
          detail::text("no run has a column \"", column, "\"; the columns are ", detail::first_few(all, 12)));
    const std::string plot =
        lines_svg(lines, {.title = column, .percent = column.find("accuracy") != std::string::npos, .width = width});
    constexpr std::string_view begin = "<svg ", tall = " height=\"";
    plots += detail::text(begin, "y=\"", detail::px(height), "\" ", std::string_view(plot).substr(begin.size()));
    const char* digits = plot.data() + plot.find(tall) + tall.size();
    double own = 0.0;
    std::from_chars(digits, plot.data() + plot.size(), own);
    height += own;
  }
  return detail::svg_begin(width, height, "Curves",
                           detail::text(runs.size(), runs.size() == 1 ? " run: " : " runs: ",
                                        detail::first_few(columns, columns.size()), "."),
                           {}) +
         plots + "</svg>\n";
}

TRANSFERLIB_API std::string reliability_svg(const std::vector<ReliabilityBin>& bins,
                                            const ReliabilityOptions& options) {
  using detail::px, detail::svg_text, detail::text;
  constexpr double full_width = 520, left = 62, top = 78, width = full_width - left - 26, height = 280,
                   bottom = top + height, room = 62, tall = 70, base = bottom + room + tall, full_height = base + 24;
  Index all = 0, most = 0;
  std::string csv = "from,to,pictures,confidence,accuracy\n";
  const auto n = static_cast<double>(bins.size());
  for (std::size_t i = 0; i < bins.size(); ++i) {
    const ReliabilityBin& bin = bins[i];
    all += bin.count;
    most = std::max(most, bin.count);
    csv += text(static_cast<double>(i) / n, ",", static_cast<double>(i + 1) / n, ",", bin.count, ",", bin.confidence,
                ",", bin.accuracy, "\n");
  }
  const auto percent = [](double part) { return detail::percentage(part, 1.0); };
  const std::string told = all == 0 ? std::string("no pictures")
                                    : text("expected calibration error ", percent(expected_calibration_error(bins)),
                                           ", maximum ", percent(maximum_calibration_error(bins)));
  std::string out = detail::svg_begin(full_width, full_height, options.title,
                                      text(told, "; ", format_count(all), all == 1 ? " picture." : " pictures."), csv);
  out +=
      svg_text(24, 34, detail::fitted(options.title, full_width - 48, 18), "ink", "start", 17, " font-weight=\"600\"");
  out += svg_text(24, 56, told, "soft", "start", 12);
  const auto at_x = [&](double x) { return left + x * width; };
  const auto at_y = [&](double y) { return bottom - y * height; };
  std::vector<detail::Tick> xs, ys;
  for (int i = 0; i <= 5; ++i) {
    const std::string label = text(20 * i, " %");
    xs.push_back({at_x(0.2 * i), label});
    ys.push_back({at_y(0.2 * i), label});
  }
  out += detail::svg_axes(left, top, width, height, xs, ys, "confidence");
  out += svg_text(left + 8, top + 14, "accuracy", "soft");
  out += svg_text(left + 8, base - tall - 2, "pictures", "soft");
  for (std::size_t i = 0; i < bins.size(); ++i) {
    const ReliabilityBin& bin = bins[i];
    if (bin.count == 0) continue;
    const double x = at_x(static_cast<double>(i) / n) + 1.0, wide = std::max(width / n - 2.0, 1.0);
    const auto bar = [&](std::string_view style, double y, double high, std::string_view more = {}) {
      return text("<rect class=\"", style, "\" x=\"", px(x), "\" y=\"", px(y), "\" width=\"", px(wide), "\" height=\"",
                  px(std::max(high, 1.0)), "\"", more, "/>");
    };
    const double low = std::min(bin.accuracy, bin.confidence), high = std::max(bin.accuracy, bin.confidence);
    out += text(
        "<g><title>confidence ", percent(bin.confidence), ", accuracy ", percent(bin.accuracy), ", ",
        format_count(bin.count), bin.count == 1 ? " picture" : " pictures", "</title>",
        bar("f1", at_y(low), low * height),
        bar(bin.accuracy < bin.confidence ? "f0" : "f1", at_y(high), (high - low) * height, " fill-opacity=\"0.55\""),
        bar("f1", base - tall * static_cast<double>(bin.count) / static_cast<double>(most),
            tall * static_cast<double>(bin.count) / static_cast<double>(most), " fill-opacity=\"0.55\""),
        "</g>\n");
  }
  out += text("<line class=\"axis\" stroke-width=\"1.5\" stroke-dasharray=\"5 4\" x1=\"", px(left), "\" y1=\"",
              px(bottom), "\" x2=\"", px(left + width), "\" y2=\"", px(top), "\"/>\n");
  out += detail::svg_line(left, base, left + width, base, "axis");
  return out + "</svg>\n";
}

TRANSFERLIB_API std::string confusion_svg(const std::vector<Index>& counts, const Labels& labels,
                                          const ConfusionOptions& options) {
  using detail::em_width, detail::fitted, detail::fixed, detail::px, detail::svg_text, detail::text;
  const std::size_t n = labels.size();
  if (n == 0 || counts.size() != n * n)
    throw OptionError(text("a confusion matrix of ", n, " classes has ", n * n, " counts, not ", counts.size()));
  std::size_t digits = 1;
  std::vector<double> rows(n, 0.0);
  double all = 0.0, right = 0.0;
  std::string csv = "true class";
  for (const auto& label : labels) csv += "," + detail::csv_field(label);
  csv += '\n';
  for (std::size_t r = 0; r < n; ++r) {
    csv += detail::csv_field(labels[r]);
    for (std::size_t c = 0; c < n; ++c) {
      const Index count = counts[r * n + c];
      if (count < 0)
        throw OptionError(
            text("a confusion matrix counts ", options.many, ", but row ", r, ", column ", c, " is ", count));
      csv += text(",", count);
      digits = std::max(digits, format_count(count).size());
      rows[r] += static_cast<double>(count);
      if (r == c) right += static_cast<double>(count);
    }
    csv += '\n';
    all += rows[r];
  }

  const double side_wanted = n <= 12 ? 44.0 : n <= 30 ? 26.0 : 0.0;
  const double cell = n <= 12   ? std::max(side_wanted, 8.0 * static_cast<double>(digits) + 12.0)
                      : n <= 30 ? side_wanted
                                : std::max(1.0, 640.0 / static_cast<double>(n));
  const double count_size = n <= 12 ? 12.0 : 9.5, label_size = n <= 30 ? 12.0 : 10.5;
  const bool with_counts = n <= 30 && 0.65 * count_size * static_cast<double>(digits) <= cell - 3.0;
  // Labels that would overlap are thinned: every 2nd, 5th, 10th, …
  std::size_t every = 1;
  for (const std::size_t f : std::initializer_list<std::size_t>{2, 5, 10, 20, 50, 100, 200, 500, 1000})
    if (static_cast<double>(every) * cell < label_size + 2.5) every = f;
  double label_width = 0.0;
  for (std::size_t r = 0; r < n; r += every)
    label_width = std::max(label_width, label_size * em_width(fitted(labels[r], 150, label_size)));
  const bool with_recall = cell >= 14.0;
  const double side = cell * static_cast<double>(n), slant = 0.7071 * label_width, left = 40 + label_width,
               top = 76 + slant + 10, right_room = std::max(with_recall ? 74.0 : 28.0, slant + 24.0 - cell / 2.0);
  const double full_width = std::max(left + side + right_room, 480.0), full_height = top + side + 28;
  const std::string accuracy =
      all == 0.0 ? text("no ", options.many)
                 : text(detail::percentage(right, all), " of ", format_count(static_cast<Index>(std::min(all, 9e18))),
                        " ", all == 1.0 ? options.one : options.many, " right");

  std::string out = detail::svg_begin(full_width, full_height, options.title,
                                      text(accuracy, ". ", n, n == 1 ? " class" : " classes",
                                           "; a row for each true class, a column for each predicted one."),
                                      csv);
  out += svg_text(24, 34, fitted(options.title, full_width - 48, 18), "ink", "start", 17, " font-weight=\"600\"");
  out += svg_text(24, 56, text(accuracy, "  ·  rows: true class, columns: predicted class"), "soft", "start", 12);
  out += text("<rect class=\"bed\" x=\"", px(left), "\" y=\"", px(top), "\" width=\"", px(side), "\" height=\"",
              px(side), "\"/>\n");
  if (with_recall) {
    const double x = left + side + 24;
    out += svg_text(x, top - 8, "recall", "soft", "start", label_size,
                    text(" transform=\"rotate(-45 ", px(x), " ", px(top - 8), ")\""));
  }
  const double seam = cell >= 14.0 ? 1.5 : cell >= 5.0 ? 0.5 : 0.0;
  for (std::size_t r = 0; r < n; ++r) {
    const double y = top + cell * static_cast<double>(r);
    for (std::size_t c = 0; c < n; ++c) {
      const Index count = counts[r * n + c];
      if (count == 0) continue;
      const double part = static_cast<double>(count) / rows[r], x = left + cell * static_cast<double>(c),
                   shade = 0.10 + 0.86 * std::sqrt(part);
      out += text("<rect class=\"", r == c ? "right" : "wrong", "\" x=\"", px(x + seam / 2), "\" y=\"",
                  px(y + seam / 2), "\" width=\"", fixed(cell - seam, 2), "\" height=\"", fixed(cell - seam, 2), "\"",
                  cell >= 14.0 ? " rx=\"2\"" : "", " fill-opacity=\"", fixed(shade, 2), "\"><title>",
                  detail::xml(labels[r]), r == c ? ", found: " : text(" taken for ", detail::xml(labels[c]), ": "),
                  count, " (", detail::percentage(static_cast<double>(count), rows[r]), ")</title></rect>\n");
      if (with_counts)
        out += svg_text(x + cell / 2, y + cell / 2 + count_size * 0.36, format_count(count),
                        shade > 0.68 ? "back" : "ink", "middle", count_size, " pointer-events=\"none\"");
    }
    if (r % every == 0) {
      const std::string label = fitted(labels[r], 150, label_size);
      out += svg_text(left - 9, y + cell / 2 + label_size * 0.36, label, "ink", "end", label_size);
      const double x = left + cell * (static_cast<double>(r) + 0.5) + label_size * 0.3;
      out += svg_text(x, top - 8, label, "ink", "start", label_size,
                      text(" transform=\"rotate(-45 ", px(x), " ", px(top - 8), ")\""));
    }
    if (with_recall)
      out += svg_text(left + side + 10, y + cell / 2 + 4,
                      detail::percentage(static_cast<double>(counts[r * n + r]), rows[r]), "soft", "start", label_size);
  }
  return out + "</svg>\n";
}

TRANSFERLIB_API std::string bars_svg(const std::vector<Bar>& bars, const BarOptions& options) {
  using detail::em_width, detail::fitted, detail::px, detail::svg_text, detail::text;
  double low = 0.0, high = 0.0, name_width = 0.0, value_width = 0.0;
  for (const Bar& bar : bars)
    if (detail::drawable(bar.value)) low = std::min(low, bar.value), high = std::max(high, bar.value);
  if (low == high) high = low + 1.0;
  const double scale = options.percent ? 100.0 : 1.0;
  int digits = options.digits;
  if (digits < 0)
    for (digits = options.percent ? 1 : 2; digits < 4; ++digits) {
      bool apart = true;
      for (std::size_t i = 1; i < bars.size(); ++i)
        apart =
            apart && (!(std::fabs(bars[i].value) < 1e15) || !(std::fabs(bars[i - 1].value) < 1e15) ||
                      bars[i].value == bars[i - 1].value ||
                      detail::fixed(bars[i].value * scale, digits) != detail::fixed(bars[i - 1].value * scale, digits));
      if (apart) break;
    }
  const auto shown = [&](double v) {
    if (!std::isfinite(v)) return std::string("no number");
    if (std::fabs(v) >= 1e15) return detail::value_text(v, std::fabs(v) * 1e-3, options.percent, 0, std::fabs(v));
    return detail::fixed(v * scale, std::min(digits, 12)) + (options.percent ? " %" : "");
  };
  std::string csv = text("name,", detail::csv_field(options.value_label.empty() ? "value" : options.value_label), "\n");
  for (const Bar& bar : bars) {
    csv += text(detail::csv_field(bar.name), ",", bar.value, "\n");
    name_width = std::max(name_width, 13.0 * em_width(fitted(bar.name, 220, 13)));
    value_width = std::max(value_width, 13.0 * em_width(shown(bar.value)));
  }
  const double full_width = 720, row = 30, thick = 18,
               top = 24 + (options.title.empty() ? 0 : 28) + (options.value_label.empty() ? 0 : 22);
  const double left = 36 + name_width + (low < 0.0 ? value_width + 8 : 0), right = 32 + value_width,
               width = std::max(full_width - left - right, 60.0),
               full_height = top + row * static_cast<double>(std::max<std::size_t>(bars.size(), 1)) + 18;
  const auto at = [&](double v) { return left + (v - low) / (high - low) * width; };
  std::string out =
      detail::svg_begin(full_width, full_height, options.title.empty() ? "Bars" : options.title,
                        bars.empty() ? std::string("There is nothing to draw.")
                                     : text(bars.size(), bars.size() == 1 ? " bar" : " bars", "; the first is ",
                                            bars.front().name, " with ", shown(bars.front().value), "."),
                        csv);
  if (!options.title.empty())
    out += svg_text(24, 34, fitted(options.title, full_width - 48, 18), "ink", "start", 17, " font-weight=\"600\"");
  if (!options.value_label.empty())
    out += svg_text(24, options.title.empty() ? 30 : 56, fitted(options.value_label, full_width - 48, 13), "soft");
  if (bars.empty()) out += svg_text(24, top + 18, "nothing to draw", "soft");
  for (std::size_t i = 0; i < bars.size(); ++i) {
    const double y = top + row * static_cast<double>(i) + (row - thick) / 2, v = bars[i].value;
    out += svg_text(24 + name_width, y + thick / 2 + 4.5, fitted(bars[i].name, 220, 13), "ink", "end");
    const bool drawn = detail::drawable(v);
    if (drawn)
      out += text("<rect class=\"f1\" x=\"", px(std::min(at(0.0), at(v))), "\" y=\"", px(y), "\" width=\"",
                  px(std::max(std::fabs(at(v) - at(0.0)), 1.0)), "\" height=\"", px(thick), "\" rx=\"2\"><title>",
                  detail::xml(bars[i].name), ": ", shown(v), "</title></rect>\n");
    out += drawn && v < 0.0 ? svg_text(at(v) - 8, y + thick / 2 + 4.5, shown(v), "soft", "end")
                            : svg_text((drawn ? at(v) : at(0.0)) + 8, y + thick / 2 + 4.5, shown(v), "soft");
  }
  out += detail::svg_line(at(0.0), top, at(0.0), top + row * static_cast<double>(bars.size()), "axis");
  return out + "</svg>\n";
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

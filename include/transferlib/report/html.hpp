/// \file
/// A report as one HTML file: numbers, curves, tables, pictures. No link leads out of it and no script is in it; light
/// and dark by the viewer's preference; as wide as the window. Free of LibTorch.
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/files.hpp>
#include <transferlib/core/layers.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/formats/json.hpp>
#include <transferlib/metrics/scores.hpp>
#include <transferlib/report/csv.hpp>
#include <transferlib/report/progress.hpp>
#include <transferlib/report/shown.hpp>
#include <transferlib/report/svg.hpp>
#include <transferlib/train/history.hpp>

namespace transferlib {

/// Names and what they are, as text.
using ReportRows = std::vector<std::pair<std::string, std::string>>;

/// A table of a report: options, surroundings, times.
struct ReportTable {
  std::string title;
  ReportRows rows;
};

/// A plot of a report.
struct ReportFigure {
  std::string title;
  std::string svg;  ///< as one of this library's `…_svg` gives it: it is put into the page as it is
};

/// A picture that the model got wrong.
struct ReportPicture {
  std::string bytes;  ///< of a PNG or JPEG file
  std::string name{};
  std::string truth{}, predicted{};
  double confidence = 0.0;  ///< the probability of the wrong answer
};

/// What a report tells; what is empty is left out.
struct Report {
  std::string title = "Report";
  std::string subtitle{};
  ReportRows numbers{};                       ///< the few that matter most, shown large
  History history{};                          ///< drawn as curves; `seconds` becomes a table of times
  Labels labels{};                            ///< the classes
  std::vector<Index> confusion{};             ///< row by row: row the true class, column the predicted one
  std::vector<ReliabilityBin> reliability{};  ///< intervals of equal width of the confidence
  std::vector<ReportPicture> mistakes{};      ///< the worst first
  std::vector<ReportFigure> figures{};        ///< other plots
  std::vector<ReportTable> tables{};
};

namespace detail {

/// RFC 4648.
TRANSFERLIB_API std::string base64(std::string_view bytes);

TRANSFERLIB_API void add_rows(ReportRows& out, const std::string& name, const Json& value);

/// A column's value as people read it.
TRANSFERLIB_API std::string report_value(std::string_view column, double v);

/// Puts a page together, element by element.
class Page {
 public:
  explicit Page(const Report& report) : report_(&report) {}

  std::string html();

 private:
  static constexpr const char* style =
      ":root { color-scheme: light dark; --page: #f3f5f7; --card: #ffffff; --ink: #1f2328; --soft: #59636e;\n"
      "  --line: #d9dee3; --link: #00548c; --bar: #cfe3f2; --wrong: #a34400 }\n"
      "@media (prefers-color-scheme: dark) { :root { --page: #010409; --card: #0d1117; --ink: #e6edf3;\n"
      "  --soft: #9198a1; --line: #30363d; --link: #58b5f0; --bar: #12395a; --wrong: #ff8f3d } }\n"
      "* { box-sizing: border-box }\n"
      "body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "
      "'Segoe UI', Roboto, 'Helvetica Neue', Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif }\n"
      "header, main { max-width: 1180px; margin: 0 auto; padding: 0 20px }\n"
      "header { padding-top: 28px } main { padding-bottom: 40px }\n"
      "h1 { font-size: 26px; line-height: 1.25; margin: 0; overflow-wrap: anywhere }\n"
      "header p { margin: 4px 0 0; color: var(--soft); overflow-wrap: anywhere }\n"
      "nav { margin-top: 10px; display: flex; flex-wrap: wrap; gap: 2px 18px }\n"
      "a { color: var(--link) } a:focus-visible, summary:focus-visible, .scroll:focus-visible { outline: 2px solid "
      "var(--link); outline-offset: 2px }\n"
      "section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; margin-top: 20px;\n"
      "  padding: 18px 20px 20px }\n"
      "h2 { font-size: 18px; margin: 0 0 12px } h3 { font-size: 15px; margin: 20px 0 8px }\n"
      ".numbers { display: grid; grid-template-columns: repeat(auto-fit, minmax(132px, 1fr)); gap: 14px; margin: 0 }\n"
      ".numbers div { border-left: 3px solid var(--link); padding-left: 12px }\n"
      ".numbers dt { color: var(--soft); font-size: 13px }\n"
      ".numbers dd { margin: 0; font-size: 23px; line-height: 1.25; font-weight: 600; overflow-wrap: anywhere }\n"
      ".plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 430px), 1fr)); gap: 12px }\n"
      ".plots > div, .scroll { overflow-x: auto; min-width: 0 }\n"
      "svg.tl-plot { display: block; max-width: 100%; height: auto } .scroll svg.tl-plot { min-width: 520px }\n"
      "table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100% }\n"
      "caption { text-align: left; font-weight: 600; padding-bottom: 6px }\n"
      "th, td { text-align: left; padding: 5px 14px 5px 0; border-top: 1px solid var(--line); vertical-align: top }\n"
      "thead th { border-top: 0; color: var(--soft); font-weight: 600; font-size: 13px; white-space: nowrap }\n"
      "tbody th { font-weight: 400 } tfoot th { font-weight: 600 } .n { text-align: right; white-space: nowrap }\n"
      "th.n { text-align: right } td.bar { background: linear-gradient(var(--bar), var(--bar)) right 100% / "
      "var(--part) 4px no-repeat }\n"
      ".told { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); gap: 4px 36px }\n"
      ".told > div { min-width: 0 } .told caption { padding-top: 12px } .told th { color: var(--soft); width: 42% } "
      ".told td, .told th { overflow-wrap: "
      "anywhere }\n"
      ".pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(138px, 1fr)); gap: 18px 14px;\n"
      "  margin: 0; padding: 0; list-style: none }\n"
      ".pictures figure { margin: 0 } .pictures img { display: block; width: 100%; aspect-ratio: 1; object-fit: "
      "contain; background: var(--page); border-radius: 6px; image-rendering: auto }\n"
      ".pictures img.small { image-rendering: pixelated }\n"
      "figcaption { font-size: 13px; line-height: 1.4; margin-top: 6px; overflow-wrap: anywhere }\n"
      "figcaption span { display: block; color: var(--soft) } figcaption b { color: var(--wrong) }\n"
      "summary { cursor: pointer; font-weight: 600 } details[open] summary { margin-bottom: 8px }\n"
      "@media (max-width: 600px) { header, main { padding-left: 12px; padding-right: 12px }\n"
      "  section { padding: 14px 14px 16px } table { font-size: 13px } th, td { padding-right: 8px } }\n";

  void section(std::string_view id, std::string_view title, const std::string& inside) {
    if (inside.empty()) return;
    links_ += text("<a href=\"#", id, "\">", xml(title), "</a>\n");
    body_ += text("<section id=\"", id, "\" aria-labelledby=\"", id, "-title\">\n<h2 id=\"", id, "-title\">",
                  xml(title), "</h2>\n", inside, "</section>\n");
  }
  /// What may be wider than a narrow window, and is moved by keys too then.
  static std::string scroll(std::string_view label, const std::string& inside) {
    return text("<div class=\"scroll\" tabindex=\"0\" role=\"group\" aria-label=\"", xml(label), "\">\n", inside,
                "</div>\n");
  }
  static std::string cell(std::string_view inside) { return text("<td class=\"n\">", inside, "</td>"); }
  static std::string head(std::string_view name, bool number = true) {
    return text("<th scope=\"col\"", number ? " class=\"n\"" : "", ">", xml(name), "</th>");
  }
  static std::string named(std::string_view name) { return text("<th scope=\"row\">", xml(name), "</th>"); }
  /// The first part of the largest, as a bar below the number.
  static std::string part_cell(double part) {
    const std::string percent = fixed(100.0 * part, 1);
    return text("<td class=\"n bar\" style=\"--part: ", percent, "%\">", percent, " %</td>");
  }

  void figure(std::string_view svg) { figures_ += text("<div>", svg, "</div>\n"); }
  static std::string figures(const std::string& plots) {
    return plots.empty() ? std::string() : text("<div class=\"plots\">\n", plots, "</div>\n");
  }

  void numbers() {
    std::string inside;
    for (const auto& [name, value] : report_->numbers)
      inside += text("<div><dt>", xml(name), "</dt><dd>", xml(value), "</dd></div>\n");
    if (!inside.empty()) section("numbers", "Result", text("<dl class=\"numbers\">\n", inside, "</dl>\n"));
  }

  /// A plot for each name that is measured on training or validation data, and for each other column.
  void history();

  void classes();

  /// The pairs of classes that are taken for one another most often.
  std::string confusions() const;

  void mistakes();

  /// A name whose parts may stand on lines of their own.
  static std::string breakable(std::string_view escaped);
  static std::string folded(bool fold, std::string_view what, const std::string& inside) {
    return fold ? text("<details><summary>", xml(what), "</summary>\n", inside, "</details>\n") : inside;
  }

  void epochs();

  void tables();

  const Report* report_;
  std::string links_, body_, figures_;
};

}  // namespace detail

/// The members of a JSON object as rows, those of objects inside it as `outer.inner`; what is no object is one row
/// without a name.
inline ReportRows report_rows(const Json& value) {
  ReportRows out;
  detail::add_rows(out, {}, value);
  return out;
}

/// The report as HTML. \throws OptionError if the counts do not fit the labels, or a picture is neither PNG nor JPEG
inline std::string report_html(const Report& report) { return detail::Page(report).html(); }

/// Writes `report_html`, atomically. \throws OptionError, FileError
inline void write_report(const Report& report, const std::filesystem::path& path) {
  write_file(path, report_html(report));
}

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API std::string base64(std::string_view bytes) {
  constexpr std::string_view digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  out.reserve((bytes.size() + 2) / 3 * 4);
  for (std::size_t at = 0; at < bytes.size(); at += 3) {
    std::uint32_t n = 0;
    for (std::size_t i = 0; i < 3; ++i)
      n = (n << 8) | (at + i < bytes.size() ? static_cast<unsigned char>(bytes[at + i]) : 0U);
    for (std::size_t i = 0; i < 4; ++i) out += at + i <= bytes.size() ? digits[(n >> (18 - 6 * i)) & 63U] : '=';
  }
  return out;
}

TRANSFERLIB_API void add_rows(ReportRows& out, const std::string& name, const Json& value) {
  if (value.is_object()) {
    for (const JsonMember& member : value.members())
      add_rows(out, name.empty() ? member.name : text(name, ".", member.name), member.value);
    return;
  }
  const auto plain = [](const Json& v) { return v.is_string() ? v.string() : v.dump(); };
  if (!value.is_array()) {
    out.emplace_back(name, plain(value));
    return;
  }
  std::vector<std::string> parts;
  for (const Json& part : value.elements()) parts.push_back(plain(part));
  out.emplace_back(name, first_few(parts, 12));
}

TRANSFERLIB_API std::string report_value(std::string_view column, double v) {
  if (!std::isfinite(v)) return text(v);
  if (column == "seconds") return format_duration(v);
  if (column.find("accuracy") != std::string_view::npos) return fixed(100.0 * v, 2) + " %";
  char out[64];
  return {out, std::to_chars(out, out + sizeof out, v, std::chars_format::general, 5).ptr};
}

TRANSFERLIB_API std::string Page::html() {
  numbers();
  history();
  for (const ReportFigure& f : report_->figures) figure(f.svg);
  section("curves", "Curves", figures(std::exchange(figures_, {})));
  classes();
  mistakes();
  epochs();
  tables();
  const std::string& title = report_->title;
  return text(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; "
      "style-src 'unsafe-inline'\">\n<title>",
      xml(title), "</title>\n<style>\n", style, "</style>\n</head>\n<body>\n<header>\n<h1>", xml(title), "</h1>\n",
      report_->subtitle.empty() ? "" : text("<p>", xml(report_->subtitle), "</p>\n"),
      links_.empty() ? "" : text("<nav aria-label=\"Sections\">", links_, "</nav>\n"), "</header>\n<main>\n", body_,
      "</main>\n</body>\n</html>\n");
}

TRANSFERLIB_API void Page::history() {
  std::vector<std::string> drawn;
  for (const std::string& column : column_names(report_->history)) {
    if (column == "seconds") continue;
    const bool train = column.starts_with("train_"), val = column.starts_with("val_");
    std::string name = column.substr(train ? 6 : val ? 4 : 0);
    if (std::find(drawn.begin(), drawn.end(), name) != drawn.end()) continue;
    drawn.push_back(name);
    const auto series = history_series(
        report_->history, train || val ? std::vector<std::pair<std::string, std::string>>{{"train_" + name, "training"},
                                                                                          {"val_" + name, "validation"}}
                                       : std::vector<std::pair<std::string, std::string>>{{name, name}});
    const bool percent = name.find("accuracy") != std::string::npos;
    std::replace(name.begin(), name.end(), '_', ' ');
    if (!name.empty() && name[0] >= 'a' && name[0] <= 'z') name[0] = static_cast<char>(name[0] - 'a' + 'A');
    figure(lines_svg(series, {.title = name, .percent = percent, .width = 540}));
  }
}

TRANSFERLIB_API void Page::classes() {
  const Labels& labels = report_->labels;
  if (report_->confusion.empty()) {
    if (!report_->reliability.empty()) {
      figure(reliability_svg(report_->reliability));
      section("calibration", "Calibration", figures(std::exchange(figures_, {})));
    }
    return;
  }
  const auto scores = classification_scores(report_->confusion, static_cast<Index>(labels.size()));
  std::string rows;
  const auto three = [](const Scores& s) { return part_cell(s.precision) + part_cell(s.recall) + part_cell(s.f1); };
  for (std::size_t c = 0; c < labels.size(); ++c)
    rows += text("<tr>", named(labels[c]), cell(format_count(scores.classes[c].support)), three(scores.classes[c]),
                 "</tr>\n");
  const std::string all = cell(format_count(scores.seen));
  const std::string table = text("<table>\n<thead><tr>", head("class", false), head("pictures"), head("precision"),
                                 head("recall"), head("F1"), "</tr></thead>\n<tbody>\n", rows,
                                 "</tbody>\n<tfoot>\n<tr>", named("mean"), all, three(scores.macro), "</tr>\n<tr>",
                                 named("weighted mean"), all, three(scores.weighted), "</tr>\n</tfoot>\n</table>\n");
  section("classes", "Classes", folded(labels.size() > 40, "All classes", scroll("Scores of the classes", table)));

  std::string plots = scroll("Confusion matrix", confusion_svg(report_->confusion, labels));
  if (!report_->reliability.empty()) plots += text("<div>", reliability_svg(report_->reliability), "</div>\n");
  section("confusion", "Mistakes and confidence", figures(plots) + confusions());
}

TRANSFERLIB_API std::string Page::confusions() const {
  const Labels& labels = report_->labels;
  const std::size_t n = labels.size();
  std::vector<std::size_t> cells;
  std::vector<Index> rows(n, 0);
  for (std::size_t i = 0; i < n * n; ++i) {
    rows[i / n] += report_->confusion[i];
    if (i / n != i % n && report_->confusion[i] > 0) cells.push_back(i);
  }
  std::stable_sort(cells.begin(), cells.end(),
                   [&](std::size_t a, std::size_t b) { return report_->confusion[a] > report_->confusion[b]; });
  cells.resize(std::min<std::size_t>(cells.size(), 8));
  std::string inside;
  for (const std::size_t i : cells)
    inside += text("<tr>", named(labels[i / n]), "<td>", xml(labels[i % n]), "</td>",
                   cell(format_count(report_->confusion[i])),
                   part_cell(static_cast<double>(report_->confusion[i]) / static_cast<double>(rows[i / n])), "</tr>\n");
  if (inside.empty()) return {};
  return text("<h3>Most frequent mistakes</h3>\n",
              scroll("Most frequent mistakes",
                     text("<table>\n<thead><tr>", head("true class", false), head("taken for", false), head("pictures"),
                          head("of the class"), "</tr></thead>\n<tbody>\n", inside, "</tbody>\n</table>\n")));
}

TRANSFERLIB_API void Page::mistakes() {
  std::string inside;
  for (const ReportPicture& p : report_->mistakes) {
    const bool png = p.bytes.starts_with("\x89PNG\r\n\x1a\n") && p.bytes.size() >= 24,
               jpeg = p.bytes.starts_with("\xFF\xD8\xFF");
    if (!png && !jpeg)
      throw OptionError(
          text("the picture \"", p.name, "\" of the report is neither PNG nor JPEG; encode_png makes one"));
    // What is far smaller than it is shown keeps its pixels; a PNG tells its width behind its name.
    Index width = 1 << 16;
    if (png) {
      width = 0;
      for (std::size_t i = 16; i < 20; ++i) width = (width << 8) | static_cast<unsigned char>(p.bytes[i]);
    }
    inside += text("<li><figure><img", width <= 64 ? " class=\"small\"" : "", " alt=\"",
                   xml(text(p.name.empty() ? "a picture" : p.name, ": ", p.truth, ", taken for ", p.predicted)),
                   "\" src=\"data:image/", png ? "png" : "jpeg", ";base64,", base64(p.bytes), "\"><figcaption><b>",
                   xml(p.predicted), "</b> ", percentage(p.confidence, 1.0), ", is ", xml(p.truth),
                   p.name.empty() ? "" : text("<span>", xml(p.name), "</span>"), "</figcaption></figure></li>\n");
  }
  if (!inside.empty())
    section("mistakes", "Worst mistakes",
            text("<p>The wrong answers that the model is surest of: hard pictures, or labels to check.</p>\n"
                 "<ul class=\"pictures\">\n",
                 inside, "</ul>\n"));
}

TRANSFERLIB_API std::string Page::breakable(std::string_view escaped) {
  std::string out;
  for (const char c : escaped) {
    out += c;
    if (c == '.' || c == '_') out += "<wbr>";
  }
  return out;
}

TRANSFERLIB_API void Page::epochs() {
  const History& history = report_->history;
  if (history.epochs.empty()) return;
  const auto columns = column_names(history);
  std::string heads = head("epoch"), rows;
  for (const auto& column : columns) heads += head(column);
  double seconds = 0.0;
  for (const Epoch& epoch : history.epochs) {
    rows += text("<tr><th scope=\"row\" class=\"n\">", epoch.number, "</th>");
    for (const auto& column : columns)
      rows += cell(epoch.has(column) ? xml(report_value(column, epoch[column])) : std::string());
    rows += "</tr>\n";
    if (epoch.has("seconds")) seconds += epoch["seconds"];
  }
  const auto n = history.epochs.size();
  const std::string time = seconds > 0.0
                               ? text("<p>", n, n == 1 ? " epoch in " : " epochs in ", format_duration(seconds), ", ",
                                      format_duration(seconds / static_cast<double>(n)), " an epoch.</p>\n")
                               : std::string();
  section("epochs", "Epochs",
          time + folded(n > 12, "All epochs",
                        scroll("Numbers of the epochs", text("<table>\n<thead><tr>", heads, "</tr></thead>\n<tbody>\n",
                                                             rows, "</tbody>\n</table>\n"))));
}

TRANSFERLIB_API void Page::tables() {
  std::string inside;
  for (const ReportTable& table : report_->tables) {
    std::string rows;
    for (const auto& [name, value] : table.rows)
      rows += text("<tr><th scope=\"row\">", breakable(xml(name)), "</th><td>", value.empty() ? "–" : xml(value),
                   "</td></tr>\n");
    if (!rows.empty())
      inside += text("<div><table>\n<caption>", xml(table.title), "</caption>\n<tbody>\n", rows,
                     "</tbody>\n</table></div>\n");
  }
  if (!inside.empty()) section("options", "Set-up", text("<div class=\"told\">\n", inside, "</div>\n"));
}

}  // namespace transferlib::detail

#endif  // TRANSFERLIB_DEFINES

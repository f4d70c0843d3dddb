// links: no torch
// What a run shows and leaves: histories, progress lines, plots as SVG, CSV.
#include <clocale>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include <transferlib/report/csv.hpp>
#include <transferlib/report/progress.hpp>
#include <transferlib/report/shown.hpp>
#include <transferlib/report/svg.hpp>
#include <transferlib/train/history.hpp>

#include "folder.hpp"

using namespace transferlib;
using Catch::Matchers::ContainsSubstring;

using toys::Folder;
using toys::sentence_of;

namespace {

constexpr double no_number = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();

History history_of(int epochs) {
  History out;
  for (int n = 1; n <= epochs; ++n) {
    const double learnt = 1.0 - std::exp(-n / 2.0);
    out.epochs.push_back({n,
                          {{"train_loss", 2.3 - 1.7 * learnt},
                           {"train_accuracy", 0.1 + 0.75 * learnt},
                           {"val_loss", 2.2 - 1.5 * learnt},
                           {"val_accuracy", 0.12 + 0.69 * learnt},
                           {"seconds", 20.0 + n}}});
  }
  return out;
}

/// What a bar writes, with a clock that the test sets.
struct Screen {
  Screen() : file(::open_memstream(&buffer, &size)) { REQUIRE(file != nullptr); }
  Screen(const Screen&) = delete;
  ~Screen() {
    std::fclose(file);
    std::free(buffer);
  }
  /// What was written since the last call.
  std::string take() {
    std::fflush(file);
    std::string out(buffer + taken, size - taken);
    taken = size;
    return out;
  }
  Progress bar(ProgressOptions options) {
    options.clock = [this] { return now; };
    return Progress(file, std::move(options));
  }
  char* buffer = nullptr;
  std::size_t size = 0, taken = 0;
  std::FILE* file;
  double now = 1000.0;
};

/// Why `svg` is no well-formed XML; empty if it is. Knows elements, attributes, text and the predefined entities.
std::string xml_fault(const std::string& svg) {
  static const std::set<std::string> entities{"amp", "lt", "gt", "quot", "apos"};
  const auto bad_text = [](const std::string& s) {
    for (std::size_t i = 0; i < s.size(); ++i) {
      if (s[i] == '<') return true;
      if (static_cast<unsigned char>(s[i]) < 32 && s[i] != '\n' && s[i] != '\t') return true;
      if (s[i] == '&') {
        const std::size_t end = s.find(';', i);
        if (end == std::string::npos || entities.count(s.substr(i + 1, end - i - 1)) == 0) return true;
      }
      const auto c = detail::character_at(s, i);
      if (c.point == 0xFFFD && c.bytes.size() == 1) return true;  // no UTF-8
      i += c.bytes.size() - 1;
    }
    return false;
  };
  std::vector<std::string> open;
  std::size_t at = 0, roots = 0;
  while (at < svg.size()) {
    if (svg[at] != '<') {
      const std::size_t end = std::min(svg.find('<', at), svg.size());
      const std::string text = svg.substr(at, end - at);
      if (bad_text(text)) return "bad text: " + text;
      if (open.empty() && text.find_first_not_of(" \n") != std::string::npos) return "text outside the root: " + text;
      at = end;
      continue;
    }
    // A ">" inside quotes doesn't end the tag.
    std::size_t end = at + 1;
    for (bool quoted = false; end < svg.size() && (quoted || svg[end] != '>'); ++end)
      if (svg[end] == '"') quoted = !quoted;
    if (end == svg.size()) return "a tag does not end";
    std::string tag = svg.substr(at + 1, end - at - 1);
    at = end + 1;
    if (tag.front() == '/') {
      if (open.empty() || open.back() != tag.substr(1)) return "unexpected </" + tag;
      open.pop_back();
      continue;
    }
    const bool empty = tag.back() == '/';
    if (empty) tag.pop_back();
    const std::string name = tag.substr(0, tag.find(' '));
    std::set<std::string> names;
    for (std::size_t i = name.size(); i < tag.size();) {
      if (tag[i] != ' ') return "no space before an attribute in <" + tag + ">";
      const std::size_t is = tag.find("=\"", i), close = is == std::string::npos ? is : tag.find('"', is + 2);
      if (close == std::string::npos) return "a bad attribute in <" + tag + ">";
      if (!names.insert(tag.substr(i + 1, is - i - 1)).second) return "a doubled attribute in <" + tag + ">";
      if (bad_text(tag.substr(is + 2, close - is - 2))) return "a bad value in <" + tag + ">";
      i = close + 1;
    }
    if (open.empty() && ++roots > 1) return "a second root";
    if (!empty) open.push_back(name);
  }
  return open.empty() ? roots == 1 ? "" : "no root" : "not closed: " + open.back();
}

/// The numbers that stand behind `attribute` in elements that contain `of`.
std::vector<double> numbers(const std::string& svg, const std::string& of, const std::string& attribute) {
  std::vector<double> out;
  for (std::size_t at = svg.find(of); at != std::string::npos; at = svg.find(of, at + 1)) {
    const std::size_t begin = svg.rfind('<', at), end = svg.find('>', at);
    const std::string tag = svg.substr(begin, end - begin), key = " " + attribute + "=\"";
    if (const std::size_t found = tag.find(key); found != std::string::npos)
      out.push_back(std::strtod(tag.c_str() + found + key.size(), nullptr));
  }
  return out;
}

std::size_t count_of(const std::string& s, const std::string& what) {
  std::size_t n = 0;
  for (std::size_t at = s.find(what); at != std::string::npos; at = s.find(what, at + what.size())) ++n;
  return n;
}

}  // namespace

TEST_CASE("a history tells columns, the best epoch, and which columns there are") {
  History history = history_of(3);
  CHECK(history["val_accuracy"].size() == 3);
  CHECK(history.epochs[1]["seconds"] == 22.0);
  CHECK(history.epochs[0].has("val_loss"));
  CHECK_FALSE(history.epochs[0].has("loss"));
  CHECK(sentence_of<OptionError>([&] { history["loss"]; }) ==
        "epoch 1 has no column \"loss\"; its columns are train_loss, train_accuracy, val_loss, val_accuracy, seconds");
  CHECK(history.best("val_accuracy", true).number == 3);
  CHECK(history.best("val_loss", false).number == 3);
  CHECK(history.best("val_loss", true).number == 1);
  history.epochs[0].values[1].second = no_number;
  history.epochs[2].values[1].second = no_number;
  CHECK(history.best("train_accuracy", true).number == 2);
  CHECK(history.best("train_accuracy", false).number == 2);
  CHECK_THROWS_AS(History{}.best("val_loss", false), OptionError);
}

TEST_CASE("durations and counts as people read them") {
  CHECK(format_duration(0.0) == "0.0 s");
  CHECK(format_duration(-3.0) == "0.0 s");
  CHECK(format_duration(0.44) == "0.4 s");
  CHECK(format_duration(9.96) == "10 s");
  CHECK(format_duration(59.4) == "59 s");
  CHECK(format_duration(59.6) == "1 min 00 s");
  CHECK(format_duration(187.0) == "3 min 07 s");
  CHECK(format_duration(3599.7) == "1 h 00 min");
  CHECK(format_duration(7500.0) == "2 h 05 min");
  CHECK(format_duration(273600.0) == "3 d 04 h");
  CHECK(format_duration(no_number) == "?");
  CHECK(format_duration(inf) == "?");
  CHECK(format_count(0) == "0");
  CHECK(format_count(999) == "999");
  CHECK(format_count(50000) == "50,000");
  CHECK(format_count(-1234567) == "-1,234,567");
  CHECK(format_count(-123) == "-123");
  CHECK(format_count(std::numeric_limits<Index>::min()) == "-9,223,372,036,854,775,808");
}

TEST_CASE("a bar on a terminal") {
  Screen screen;
  SECTION("is redrawn ten times a second, with rate and time left") {
    Progress bar = screen.bar({.label = "epoch 1/5", .total = 50000, .width = 100, .utf8 = true});
    CHECK(screen.take().empty());
    bar.update(0);
    CHECK(screen.take() == "\repoch 1/5    0 % ▕                              ▏  0/50,000\033[K");
    screen.now += 0.05;
    bar.update(20);
    CHECK(screen.take().empty());  // too soon
    screen.now += 49.95;
    bar.update(20000, "loss 0.53");
    CHECK(screen.take() ==
          "\repoch 1/5   40 % ▕████████████                  ▏  20,000/50,000  400 img/s  1:15 left  loss 0.53\033[K");
    screen.now += 75.0;
    bar.update(50000, "loss 0.41");
    CHECK(screen.take() ==
          "\repoch 1/5  100 % ▕██████████████████████████████▏  50,000/50,000  400 img/s  loss 0.41\033[K");
    screen.now += 0.01;
    bar.finish();
    CHECK(screen.take() == "\r\033[Kepoch 1/5: 50,000 img in 2 min 05 s, 400 img/s\n");
    bar.finish();
    CHECK(screen.take().empty());
  }
  SECTION("speaks ASCII where the locale does") {
    Progress bar = screen.bar({.label = "features", .total = 8, .unit = "pic", .width = 48, .utf8 = false});
    screen.now += 2.0;
    bar.update(4);
    CHECK(screen.take() == "\rfeatures   50 % [####....]  2.0 pic/s  2 s left\033[K");
    bar.finish("all done");
    CHECK(screen.take() == "\r\033[Kall done\n");
  }
  SECTION("leaves parts out until its line fits") {
    for (int width = 1; width <= 130; ++width) {
      Progress bar = screen.bar({.label = "epoch 1/5", .total = 50000, .width = width, .utf8 = true});
      screen.now += 50.0;
      bar.update(20000, "loss 0.53  accuracy 0.81");
      const std::string out = screen.take();
      INFO(width << ": " << out);
      REQUIRE(out.front() == '\r');
      const std::string line = out.substr(1, out.size() - 4);
      CHECK(out.substr(out.size() - 3) == "\033[K");
      CHECK(detail::columns_of(line) <= width - 1);
      CHECK((line.find("1:15 left") != std::string::npos) == (width >= 17));
      CHECK((line.find("epoch 1/5") != std::string::npos) == (width >= 28));
      CHECK((line.find("loss 0.53  accuracy 0.81") != std::string::npos) == (width >= 54));
      CHECK((line.find("20,000/50,000") != std::string::npos) == (width >= 91));
      bar.finish("");
      screen.take();
    }
  }
  SECTION("without a total has no bar and no time left") {
    Progress bar = screen.bar({.label = "reading", .unit = "files", .width = 80, .utf8 = true});
    screen.now += 1.0;
    bar.update(1500);
    CHECK(screen.take() == "\rreading  1,500 files  1500 files/s\033[K");
  }
  SECTION("keeps one line whatever it is told") {
    Progress bar = screen.bar({.label = "a\nb\033[31m\xFF", .total = 10, .width = 80, .utf8 = true});
    bar.update(10, "x\r\ny");
    CHECK(screen.take() == "\ra b [31m\xEF\xBF\xBD  100 % ▕██████████████████████████████▏  10/10  x  y\033[K");
  }
  SECTION("says 100 % when all is done, not a little before") {
    Progress bar = screen.bar({.total = 100000, .width = 60, .utf8 = false});
    bar.update(99999);
    CHECK_THAT(screen.take(), ContainsSubstring(" 99 % [#############################.]"));
  }
  SECTION("that nobody finished leaves its line and ends it") {
    {
      Progress bar = screen.bar({.label = "epoch", .total = 10, .width = 80, .utf8 = false});
      bar.update(1);
      screen.take();
    }
    CHECK(screen.take() == "\n");
  }
  SECTION("follows a change of speed") {
    Progress bar = screen.bar({.total = 100000, .width = 100, .utf8 = false});
    for (int i = 1; i <= 100; ++i) {
      screen.now += 1.0;
      bar.update(i * 10);
    }
    CHECK_THAT(screen.take(), ContainsSubstring("  10 img/s  "));
    for (int i = 1; i <= 100; ++i) {
      screen.now += 1.0;
      bar.update(1000 + i * 500);
    }
    const std::string out = screen.take();
    CHECK_THAT(out.substr(out.rfind('\r')), ContainsSubstring("  499 img/s  1:39 left"));
  }
}

TEST_CASE("progress where there is no terminal is a line now and then") {
  Screen screen;
  SECTION("a memory stream is found to be none") {
    Progress bar = screen.bar({.label = "epoch 1/5", .total = 50000});
    for (int i = 1; i <= 25; ++i) {
      screen.now += 1.0;
      bar.update(i * 2000, "loss 0.53");
    }
    CHECK(screen.take() ==
          "epoch 1/5   40 %  20,000/50,000  2000 img/s  15 s left  loss 0.53\n"
          "epoch 1/5   80 %  40,000/50,000  2000 img/s  5 s left  loss 0.53\n");
    bar.finish();
    CHECK(screen.take() == "epoch 1/5: 50,000 img in 25 s, 2000 img/s\n");
  }
  SECTION("what is quick is not told") {
    Progress bar = screen.bar({.label = "epoch 1/5", .total = 50000});
    screen.now += 9.0;
    bar.update(50000);
    bar.finish();
    CHECK(screen.take().empty());
  }
}

TEST_CASE("text as it is shown") {
  const auto shorten = [](std::string_view s, double most) {
    return detail::shortened(s, most, "…", [](char32_t c) { return detail::columns_of(c); });
  };
  CHECK(shorten("automobile", 10) == "automobile");
  CHECK(shorten("automobile", 9) == "automobi…");
  CHECK(shorten("grüße", 4) == "grü…");
  CHECK(shorten("日本語", 6) == "日本語");
  CHECK(shorten("日本語", 5) == "日本…");
  CHECK(shorten("a  b c", 4) == "a…");
  CHECK(detail::columns_of("e\xCC\x81") == 1);  // a combining accent
  CHECK(detail::columns_of("👍") == 2);
  CHECK(detail::one_line("a\tb\xC0\xAF\x7F\xED\xA0\x80") ==
        "a b\xEF\xBF\xBD\xEF\xBF\xBD \xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");
  CHECK(detail::one_line("\xF0\x9F\x91") == "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");  // cut short
  CHECK(detail::fixed(-0.0004, 2) == "0.00");
  CHECK(detail::fixed(-0.4, 1) == "-0.4");
  CHECK(detail::fixed(1e300, 1).size() == 303);
}

TEST_CASE("ticks are 1, 2 or 5 times a power of ten and hold the range") {
  for (const auto& [low, high] : std::vector<std::pair<double, double>>{
           {0.0, 1.0}, {0.383, 0.784}, {-3.2, 17.0}, {1e-7, 2.5e-7}, {0.99991, 0.99993}, {-1e149, 1e149}, {1e6, 7e6}}) {
    const auto ticks = detail::nice_ticks(low, high, 5, true);
    INFO(low << " " << high << ": " << ticks.first << " + " << ticks.step << " x " << ticks.count);
    CHECK(ticks.first <= low + ticks.step * 1e-6);
    CHECK(ticks.last() >= high - ticks.step * 1e-6);
    CHECK(ticks.count >= 3);
    CHECK(ticks.count <= 9);
    const double digit = ticks.step / std::pow(10.0, std::floor(std::log10(ticks.step) + 1e-9));
    CHECK((std::fabs(digit - 1) < 1e-6 || std::fabs(digit - 2) < 1e-6 || std::fabs(digit - 5) < 1e-6));
  }
  CHECK(detail::value_text(0.8, 0.1, true, 0, 1.0) == "80 %");
  CHECK(detail::value_text(0.8123, 0.1, true, 1, 1.0) == "81.2 %");
  CHECK(detail::value_text(0.25, 0.05, false, 0, 1.0) == "0.25");
  CHECK(detail::value_text(2.5e7, 5e6, false, 0, 3e7) == "2.5e7");
  CHECK(detail::value_text(0.0, 5e6, false, 0, 3e7) == "0");
  CHECK(detail::value_text(-2e-6, 1e-6, false, 0, 3e-6) == "-2e-6");
  CHECK(detail::value_text(no_number, 1.0, false, 0, 1.0) == "–");
}

TEST_CASE("labels are pushed apart, as little as possible") {
  std::vector<double> places{10, 12, 100};
  detail::spread(places, 20, 0, 200);
  CHECK(places == std::vector<double>{1, 21, 100});
  places = {195, 196, 197};
  detail::spread(places, 20, 0, 200);
  CHECK(places == std::vector<double>{160, 180, 200});
  places = {1, 2, 3};
  detail::spread(places, 20, 0, 200);
  CHECK(places == std::vector<double>{0, 20, 40});
}

TEST_CASE("accuracy and loss over the epochs") {
  const Folder folder;
  const auto path = folder.path / "plot.svg";
  for (int epochs : {1, 2, 5, 100, 3000}) {
    INFO(epochs << " epochs");
    const History history = history_of(epochs);
    plot_accuracy(history, path);
    const std::string svg = read_file(path);
    CHECK(xml_fault(svg) == "");
    CHECK_THAT(svg, ContainsSubstring("<title>Accuracy</title>"));
    CHECK_THAT(svg, ContainsSubstring(">training</text>"));
    CHECK_THAT(svg, ContainsSubstring(">validation</text>"));
    CHECK_THAT(svg, ContainsSubstring("@media (prefers-color-scheme: dark)"));
    // The exact numbers are there as CSV.
    CHECK_THAT(svg,
               ContainsSubstring(detail::text("\nvalidation,", epochs, ",", history["val_accuracy"].back(), "\n")));
    // Nothing is drawn outside, every point of the lines lies between the axes' ends.
    CHECK(count_of(svg, "<path ") == (epochs == 1 ? 0 : 2));
    CHECK(count_of(svg, "<circle ") == (epochs <= 30 ? 2 * static_cast<std::size_t>(epochs) : 0));
    for (double x : numbers(svg, "<circle", "cx")) CHECK((x >= 40 && x <= 640));
    for (double y : numbers(svg, "<circle", "cy")) CHECK((y >= 57 && y <= 330));
    // Ticks of the epochs: whole numbers that do not touch.
    const auto ticks = numbers(svg, "text-anchor=\"middle\"", "x");
    CHECK(ticks.size() >= 2);
    for (std::size_t i = 2; i < ticks.size(); ++i) CHECK(ticks[i - 1] - ticks[i - 2] > 30);
  }
  plot_accuracy(history_of(5), path);
  const std::string svg = read_file(path);
  CHECK_THAT(svg, ContainsSubstring(detail::text("<desc>training: 78.8 % at epoch 5. validation: 75.3 % at epoch 5.")));
  // Better is higher: SVG's y points down.
  const auto y = numbers(svg, "<circle class=\"f1\"", "cy");
  REQUIRE(y.size() == 5);
  for (std::size_t i = 1; i < y.size(); ++i) CHECK(y[i] < y[i - 1]);
  const auto x = numbers(svg, "<circle class=\"f1\"", "cx");
  for (std::size_t i = 2; i < x.size(); ++i) CHECK(std::fabs((x[i] - x[i - 1]) - (x[1] - x[0])) < 0.21);

  plot_loss(history_of(5), path, {.title = "Loss of <a & b>"});
  CHECK(xml_fault(read_file(path)) == "");
  CHECK_THAT(read_file(path), ContainsSubstring("Loss of &lt;a &amp; b&gt;"));

  CHECK(sentence_of<OptionError>([&] { plot_accuracy({}, path); }) ==
        "a history without epochs can't be drawn; train first");
  History other;
  other.epochs.push_back({1, {{"train_loss", 1.0}, {"seconds", 2.0}}});
  CHECK(sentence_of<OptionError>([&] { plot_accuracy(other, path); }) ==
        "no epoch has a column train_accuracy, val_accuracy; the history's columns are train_loss, seconds");
  plot_loss(other, path);
  CHECK_THAT(read_file(path), !ContainsSubstring("validation"));
}

TEST_CASE("lines with gaps, with nothing to draw, with extreme and equal values, and many of them") {
  const auto draw = [](const std::vector<Series>& series, const PlotOptions& options = {}) {
    const std::string svg = lines_svg(series, options);
    CHECK(xml_fault(svg) == "");
    const std::string drawing = svg.substr(svg.find("</metadata>"));
    CHECK_THAT(drawing, !ContainsSubstring("nan") && !ContainsSubstring("inf\"") && !ContainsSubstring("-nan"));
    return svg;
  };
  const std::string gaps = draw({{"loss", {1, 2, 3, 4, 5, 6}, {3, 2, no_number, 1, inf, 0.5}}});
  CHECK(count_of(gaps, " r=\"4.5\"") == 2);  // 4 and 6 stand alone
  CHECK(count_of(gaps, " r=\"3.4\"") == 2);
  CHECK(count_of(gaps, " L") == 1);
  CHECK_THAT(gaps, ContainsSubstring("2 values are no number"));
  CHECK_THAT(gaps, ContainsSubstring("\nloss,3,nan\n"));

  CHECK_THAT(draw({}), ContainsSubstring("nothing to draw: no value is a finite number"));
  CHECK_THAT(draw({{"a", {1, 2}, {no_number, -inf}}}), ContainsSubstring("nothing to draw"));
  draw({{"a", {1, 2, 3}, {0, 0, 0}}});
  draw({{"a", {1, 2, 3}, {0.5, 0.5, 0.5}}}, {.percent = true});
  CHECK_THAT(draw({{"a", {1, 2, 3}, {1, 1, 1}}}, {.percent = true}), ContainsSubstring(">100 %</text>"));
  CHECK_THAT(draw({{"a", {1, 2, 3}, {1, 1, 1}}}, {.percent = true}), !ContainsSubstring(">105 %</text>"));
  draw({{"a", {1, 2, 3}, {1e300, -1e300, 5}}});
  draw({{"a", {1, 2, 3}, {1e140, -1e140, 5}}});
  draw({{"a", {1, 2, 3}, {5e-324, 1e-320, 0}}});
  draw({{"a", {0.1}, {7.0}}}, {.whole_x = false});
  draw({{"a", {1e12, 1e12 + 1}, {7.0, 8.0}}});
  CHECK(sentence_of<OptionError>([] {
          lines_svg({{"a", {1, 2}, {1}}});
        }) == "the series \"a\" has 2 x and 1 y; a point needs both");

  // Fifty lines that end at one point: fifty names, none over another.
  std::vector<Series> many;
  for (int i = 0; i < 50; ++i) many.push_back({detail::text("network ", i), {1, 2}, {0.1 + i * 0.01, 0.5}});
  const std::string svg = draw(many);
  auto places = numbers(svg, " font-size=\"13\" font-weight=\"600\"", "y");
  REQUIRE(places.size() == 50);
  std::sort(places.begin(), places.end());
  for (std::size_t i = 1; i < places.size(); ++i) CHECK(places[i] - places[i - 1] >= 18.9);
  CHECK(places.back() < std::strtod(svg.c_str() + svg.find(" height=\"") + 9, nullptr));
}

TEST_CASE("a confusion matrix of one class to a thousand") {
  const Labels three{"cat", "dog <&\"'>", "a bird with a name that nobody would call short by any means"};
  const std::string svg = confusion_svg({90, 10, 0, 0, 50, 0, 1, 2, 1997}, three);
  CHECK(xml_fault(svg) == "");
  CHECK_THAT(svg, ContainsSubstring("<desc>99.4 % of 2,150 pictures right. 3 classes;"));
  CHECK_THAT(svg, ContainsSubstring(">1,997</text>"));
  CHECK_THAT(svg, ContainsSubstring("<title>cat taken for dog &lt;&amp;&quot;'&gt;: 10 (10.0 %)</title>"));
  CHECK_THAT(svg, ContainsSubstring("<title>cat, found: 90 (90.0 %)</title>"));
  CHECK_THAT(svg, ContainsSubstring(">a bird with a name…</text>") || ContainsSubstring(">a bird with a n"));
  CHECK_THAT(svg, ContainsSubstring("\ncat,90,10,0\n"));
  CHECK_THAT(svg, ContainsSubstring(">100.0 %</text>"));  // the dogs
  CHECK_THAT(svg, ContainsSubstring(">99.8 %</text>"));
  CHECK(count_of(svg, "<rect class=\"right\"") == 3);
  CHECK(count_of(svg, "<rect class=\"wrong\"") == 3);  // an empty cell has no rectangle
  const auto shades = numbers(svg, "<rect class=\"wrong\"", "fill-opacity");
  REQUIRE(shades.size() == 3);
  CHECK(shades[0] > shades[2]);
  CHECK(shades[2] >= shades[1]);

  // Nearly all right isn't all right.
  CHECK_THAT(confusion_svg({99999, 1, 0, 100000}, {"a", "b"}), ContainsSubstring("<desc>99.9 % of 200,000"));
  // A class without pictures, and no pictures at all.
  CHECK_THAT(confusion_svg({1, 0, 0, 0}, {"a", "b"}), ContainsSubstring(">–</text>"));
  CHECK_THAT(confusion_svg({0, 0, 0, 0}, {"a", "b"}), ContainsSubstring("no pictures"));
  CHECK(xml_fault(confusion_svg({7}, {"one"})) == "");

  for (const std::size_t n : std::vector<std::size_t>{10, 20, 100, 1000}) {
    INFO(n << " classes");
    std::vector<Index> counts(n * n, 0);
    Labels labels;
    for (std::size_t i = 0; i < n; ++i) {
      labels.push_back(detail::text("class ", i));
      counts[i * n + i] = 80;
      counts[i * n + (i + 1) % n] += 20;
    }
    const std::string big = confusion_svg(counts, labels);
    CHECK(xml_fault(big) == "");
    CHECK(big.size() < 600 * n + 4 * n * n + 8000);
    CHECK((big.find(">80</text>") != std::string::npos) == (n <= 30));
    // The labels of the rows do not touch.
    const auto y = numbers(big, "class=\"ink\" ", "y");
    std::vector<double> ends;
    for (std::size_t at = big.find("text-anchor=\"end\""); at != std::string::npos;
         at = big.find("text-anchor=\"end\"", at + 1))
      ends.push_back(std::strtod(big.c_str() + big.find(" y=\"", big.rfind('<', at)) + 4, nullptr));
    REQUIRE(ends.size() >= 10);
    for (std::size_t i = 1; i < ends.size(); ++i) CHECK(ends[i] - ends[i - 1] >= 12.4);
  }

  CHECK(sentence_of<OptionError>([] {
          confusion_svg({1, 2, 3}, {"a", "b"});
        }) == "a confusion matrix of 2 classes has 4 counts, not 3");
  CHECK(sentence_of<OptionError>([] { confusion_svg({}, {}); }) ==
        "a confusion matrix of 0 classes has 0 counts, not 0");
  CHECK(sentence_of<OptionError>([] {
          confusion_svg({1, 0, -2, 3}, {"a", "b"});
        }) == "a confusion matrix counts pictures, but row 1, column 0 is -2");
  const Labels odd{"\xFF\xFE\x01 broken", "日本語のとても長いラベルです、本当に長い"};
  CHECK(xml_fault(confusion_svg({1, 2, 3, 4}, odd)) == "");
}

TEST_CASE("bars for a ranking") {
  const std::string svg = bars_svg({{"lite0", 1.523}, {"<resnet>", 0.7615}, {"vgg", -0.3}, {"broken", no_number}},
                                   {.title = "Ranking", .value_label = "LogME"});
  CHECK(xml_fault(svg) == "");
  CHECK_THAT(svg, ContainsSubstring(">1.52</text>"));
  CHECK_THAT(svg, ContainsSubstring(">&lt;resnet&gt;</text>"));
  CHECK_THAT(svg, ContainsSubstring(">no number</text>"));
  CHECK_THAT(svg, ContainsSubstring("\n&lt;resnet&gt;,0.7615\n"));
  const auto widths = numbers(svg, "<rect class=\"f1\"", "width");
  REQUIRE(widths.size() == 3);
  CHECK(std::fabs(widths[0] - 2.0 * widths[1]) < 0.2);
  CHECK(std::fabs(widths[0] / widths[2] - 1.523 / 0.3) < 0.02);
  const auto x = numbers(svg, "<rect class=\"f1\"", "x");
  CHECK(std::fabs(x[2] + widths[2] - x[0]) < 0.11);  // to the left of the others' beginning

  CHECK_THAT(bars_svg({{"a", 0.81234}, {"b", 0.81231}}, {.percent = true}), ContainsSubstring(">81.234 %</text>"));
  CHECK_THAT(bars_svg({{"a", 0.81}, {"b", 0.79}}, {.percent = true}), ContainsSubstring(">81.0 %</text>"));
  CHECK(xml_fault(bars_svg({})) == "");
  CHECK(xml_fault(bars_svg({{"zero", 0.0}})) == "");
  CHECK(xml_fault(bars_svg({{"huge", 1e300}, {"large", 1e140}, {"x", -inf}})) == "");
}

TEST_CASE("plots do not depend on the program's locale") {
  const std::string before = lines_svg(history_series(history_of(3), {{"val_loss", "validation"}}));
  const char* found = nullptr;
  for (const char* name : {"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "fr_FR.utf8"})
    if (found == nullptr) found = std::setlocale(LC_NUMERIC, name);
  if (found == nullptr) {
    SUCCEED("no locale with a decimal comma is installed, so there is nothing to compare with");
    return;
  }
  const std::string after = lines_svg(history_series(history_of(3), {{"val_loss", "validation"}}));
  const std::string duration = format_duration(0.5);
  std::setlocale(LC_NUMERIC, "C");
  CHECK(before == after);
  CHECK(duration == "0.5 s");
}

TEST_CASE("CSV comes back as it was written") {
  const Folder folder;
  const auto path = folder.path / "metrics.csv";
  SECTION("the numbers of a classifier") {
    History history;
    history.epochs.push_back({1, {{"train_loss", 0.1}, {"train_accuracy", 1.0 / 3.0}, {"seconds", 12}}});
    history.epochs.push_back({2, {{"train_loss", 1e-300}, {"train_accuracy", 1}, {"seconds", 5e-324}}});
    CHECK(to_csv(history) ==
          "epoch,train_loss,train_accuracy,seconds\n"
          "1,0.1,0.3333333333333333,12\n"
          "2,1e-300,1,5e-324\n");
    write_csv(history, path);
    const History back = read_csv(path);
    REQUIRE(back.epochs.size() == 2);
    for (std::size_t i = 0; i < 2; ++i) {
      CHECK(back.epochs[i].number == history.epochs[i].number);
      CHECK(back.epochs[i].values == history.epochs[i].values);
    }
  }
  SECTION("names that need quotes, and values that are no numbers") {
    History history;
    history.epochs.push_back({3, {{"a,b", no_number}, {"say \"x\"", inf}, {"two\nlines", -inf}, {" spaced ", -0.0}}});
    CHECK(to_csv(history) == "epoch,\"a,b\",\"say \"\"x\"\"\",\"two\nlines\",\" spaced \"\n3,nan,inf,-inf,-0\n");
    const History back = parse_csv(to_csv(history));
    REQUIRE(back.epochs.size() == 1);
    REQUIRE(back.epochs[0].values.size() == 4);
    for (std::size_t i = 0; i < 4; ++i) CHECK(back.epochs[0].values[i].first == history.epochs[0].values[i].first);
    CHECK(std::isnan(back.epochs[0]["a,b"]));
    CHECK(back.epochs[0]["say \"x\""] == inf);
    CHECK(back.epochs[0]["two\nlines"] == -inf);
    CHECK(std::signbit(back.epochs[0][" spaced "]));
  }
  SECTION("columns that not every epoch has") {
    History history;
    history.epochs.push_back({1, {{"loss", 2.0}}});
    history.epochs.push_back({2, {{"loss", 1.0}, {"val_loss", 1.5}}});
    CHECK(to_csv(history) == "epoch,loss,val_loss\n1,2,\n2,1,1.5\n");
    const History back = parse_csv(to_csv(history));
    CHECK_FALSE(back.epochs[0].has("val_loss"));
    CHECK(back.epochs[1]["val_loss"] == 1.5);
  }
  SECTION("no epoch, Windows' line ends, Excel's mark, a last line that isn't ended") {
    CHECK(parse_csv(to_csv({})).epochs.empty());
    const History back = parse_csv(
        "\xEF\xBB\xBF"
        "epoch,\"loss\"\r\n1,0.5\r\n\r\n2,\"0.25\"");
    REQUIRE(back.epochs.size() == 2);
    CHECK(back["loss"] == std::vector<double>{0.5, 0.25});
  }
  SECTION("a log is whole after each epoch") {
    CsvLog log(path);
    int model = 0;
    log.on_fit_begin(model);
    CHECK(read_file(path) == "epoch\n");
    for (const Epoch& epoch : history_of(3).epochs) {
      log.on_epoch_end(epoch);
      CHECK(read_csv(path).epochs.size() == static_cast<std::size_t>(epoch.number));
    }
    CHECK(read_csv(path)["val_accuracy"] == history_of(3)["val_accuracy"]);
    log.on_fit_begin(model);
    log.on_epoch_end(history_of(1).epochs[0]);
    CHECK(read_csv(path).epochs.size() == 1);
    // Nothing but the file is left behind.
    CHECK(std::distance(std::filesystem::directory_iterator(folder.path), {}) == 1);
    CHECK_THROWS_AS(CsvLog(folder.path / "missing" / "metrics.csv"), FileError);
  }
}

TEST_CASE("CSV that is wrong is refused with its line") {
  const auto fault = [](std::string_view bytes) {
    return sentence_of<FormatError>([&] { parse_csv(bytes, "m.csv"); });
  };
  CHECK(fault("") == "m.csv is empty; expected a line of column names that begins with \"epoch\"");
  CHECK(fault("loss,epoch\n") == "m.csv, line 1: the first column is \"loss\", expected \"epoch\"");
  CHECK(fault("epoch,a,b,a\n") == "m.csv, line 1: two columns are called \"a\"");
  CHECK(fault("epoch,a\n1,2\n2\n") == "m.csv, line 3: 1 field, expected 2 as in the first line");
  CHECK(fault("epoch,a\n1,2,3\n") == "m.csv, line 2: 3 fields, expected 2 as in the first line");
  CHECK(fault("epoch,a\n1,0.5x\n") == "m.csv, line 2, column \"a\": \"0.5x\" is not a number");
  CHECK(fault("epoch,a\n1, 0.5\n") == "m.csv, line 2, column \"a\": \" 0.5\" is not a number");
  CHECK(fault("epoch,a\n1,1e999\n") == "m.csv, line 2, column \"a\": 1e999 is out of the range of a number");
  CHECK(fault("epoch,a\n1.5,1\n") == "m.csv, line 2, column \"epoch\": \"1.5\" is not a whole number");
  CHECK(fault("epoch,a\n99999999999999999999,1\n") ==
        "m.csv, line 2, column \"epoch\": 99999999999999999999 is out of the range of a whole number");
  CHECK(fault("epoch,a\n0,1\n") == "m.csv, line 2: epoch 0 follows epoch 0; epochs are counted from 1 and grow");
  CHECK(fault("epoch,a\n1,1\n3,1\n2,1\n") ==
        "m.csv, line 4: epoch 2 follows epoch 3; epochs are counted from 1 and grow");
  CHECK(fault("epoch,\"two\nlines\"\n1,\"2\n") == "m.csv, line 3: a quote is opened and never closed");
  CHECK(fault("epoch,a\n1,\"2\"3\n") == "m.csv, line 2: '3' follows the end of a quoted field, expected a comma");
  CHECK_THROWS_AS(read_csv("/nowhere/metrics.csv"), FileError);
  // Cut anywhere: an error of the right kind, or fewer epochs.
  const std::string whole = to_csv(history_of(3));
  for (std::size_t n = 0; n < whole.size(); ++n) {
    std::size_t epochs = 0;
    try {
      epochs = parse_csv(whole.substr(0, n)).epochs.size();
    } catch (const FormatError&) {
      continue;
    }
    CHECK(epochs <= 3);
    CHECK(n >= std::string_view("epoch").size());
  }
}

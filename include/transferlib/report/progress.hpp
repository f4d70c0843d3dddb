/// \file
/// A progress bar: one line, drawn again and again, on a terminal; a line now and then elsewhere.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <sys/ioctl.h>
#include <unistd.h>

#include <transferlib/core/error.hpp>
#include <transferlib/core/layers.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/report/shown.hpp>

namespace transferlib {

/// A duration as people read it: "0.4 s", "12 s", "3 min 07 s", "2 h 05 min", "3 d 04 h". Seconds that are no number or
/// not finite are "?", negative ones are none.
TRANSFERLIB_API std::string format_duration(double seconds);

namespace detail {

/// Whether the user's locale says that the terminal shows UTF-8.
TRANSFERLIB_API bool locale_is_utf8();

/// The columns of the terminal behind `out`; 0 where there is none that can redraw a line.
TRANSFERLIB_API int terminal_width(std::FILE* out);

}  // namespace detail

/// How progress is shown.
struct ProgressOptions {
  std::string label{};
  Index total = 0;           ///< how many there are to do; 0 where nobody knows: no bar and no time left then
  std::string unit = "img";  ///< what is counted
  double every = 10.0;       ///< seconds between two lines where there is no terminal
  /// Seconds that have passed since some moment; the steady clock where none is given.
  std::function<double()> clock{};
  int width = -1;              ///< the terminal's columns; 0: no terminal; -1: found out, anew for each drawing
  std::optional<bool> utf8{};  ///< whether it shows UTF-8; the locale tells where nothing is given
};

/// Shows how far something has come, how fast it goes and how long it will take. Draws at most ten times a second on a
/// terminal, where parts are left out until the line fits; elsewhere writes a line every ten seconds, and one at the
/// end. The rate is a mean over the last half minute or so, in which old seconds weigh less and less.
class Progress {
 public:
  Progress(std::FILE* out, ProgressOptions options);
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  /// Without `finish`, as when an exception passes: the line stays, what comes next begins on a new one.
  ~Progress() {
    if (!finished_ && shown_) {
      std::fputc('\n', out_);
      std::fflush(out_);
    }
  }

  /// \param done of the total, all in all; \param values what else is worth telling: "loss 0.53  accuracy 0.81"
  void update(Index done, std::string_view values = {});

  /// Ends the bar: it is wiped off a terminal. What is left is `message`; without one a line that tells the whole, if
  /// that took two seconds or more (elsewhere than on a terminal, if it took as long as two lines are apart).
  void finish(std::string_view message = {});

 private:
  struct Parts {
    std::string label, percent, count, rate, left, values;
  };

  void count(Index done, double now);

  static std::string rate_text(double rate) {
    return rate < 1e6 ? detail::fixed(rate, rate < 9.95 ? 1 : 0)
                      : format_count(static_cast<Index>(std::min(rate, 1e18)));
  }

  /// A short form of a duration, whose width changes seldom: "9 s", "1:10", "2:05:00".
  static std::string clock_text(double seconds);

  Parts parts(double now, std::string_view values) const;

  static std::string joined(const Parts& p) {
    std::string out;
    for (const std::string* part : {&p.label, &p.percent, &p.count, &p.rate, &p.left, &p.values})
      if (!part->empty()) out += (out.empty() ? "" : "  ") + *part;
    return out;
  }

  std::string bar(Index cells) const;

  void draw(double now, std::string_view values);

  std::FILE* out_;
  ProgressOptions options_;
  double start_ = 0.0, counted_ = 0.0, drawn_ = 0.0, written_ = 0.0;
  double recent_done_ = 0.0, recent_seconds_ = 0.0;
  Index done_ = 0, bar_cells_ = 30;
  int bar_width_ = -1;
  bool utf8_ = false, terminal_ = false, shown_ = false, finished_ = false;
};

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API std::string format_duration(double seconds) {
  if (!(seconds < 1e15)) return "?";
  seconds = std::max(seconds, 0.0);
  char out[64];
  const auto whole = static_cast<long long>(seconds + 0.5);
  if (seconds < 9.95) return detail::fixed(seconds, 1) + " s";
  if (whole < 60)
    std::snprintf(out, sizeof out, "%lld s", whole);
  else if (whole < 3600)
    std::snprintf(out, sizeof out, "%lld min %02lld s", whole / 60, whole % 60);
  else if (whole < 48 * 3600)
    std::snprintf(out, sizeof out, "%lld h %02lld min", whole / 3600, whole % 3600 / 60);
  else
    std::snprintf(out, sizeof out, "%lld d %02lld h", whole / 86400, whole % 86400 / 3600);
  return out;
}

}  // namespace transferlib

namespace transferlib::detail {

TRANSFERLIB_API bool locale_is_utf8() {
  for (const char* name : {"LC_ALL", "LC_CTYPE", "LANG"}) {
    const char* value = std::getenv(name);
    if (value == nullptr || *value == '\0') continue;
    std::string lower;
    for (const char* c = value; *c != '\0'; ++c) lower += *c >= 'A' && *c <= 'Z' ? static_cast<char>(*c + 32) : *c;
    return lower.find("utf-8") != std::string::npos || lower.find("utf8") != std::string::npos;
  }
  return false;
}

TRANSFERLIB_API int terminal_width(std::FILE* out) {
  const int fd = ::fileno(out);
  if (fd < 0 || ::isatty(fd) == 0) return 0;
  if (const char* term = std::getenv("TERM"); term != nullptr && std::string_view(term) == "dumb") return 0;
  ::winsize size{};
  return ::ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

}  // namespace transferlib::detail

namespace transferlib {

TRANSFERLIB_API Progress::Progress(std::FILE* out, ProgressOptions options) : out_(out), options_(std::move(options)) {
  if (!options_.clock)
    options_.clock = [] {
      return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
    };
  options_.label = detail::one_line(options_.label);
  options_.unit = detail::one_line(options_.unit);
  utf8_ = options_.utf8.has_value() ? *options_.utf8 : detail::locale_is_utf8();
  terminal_ = options_.width < 0 ? detail::terminal_width(out_) > 0 : options_.width > 0;
  start_ = counted_ = written_ = options_.clock();
  drawn_ = start_ - 1.0;
}

TRANSFERLIB_API void Progress::update(Index done, std::string_view values) {
  const double now = options_.clock();
  count(done, now);
  if (terminal_) {
    if (now - drawn_ < 0.1 && done != options_.total) return;
    drawn_ = now;
    draw(now, values);
  } else if (now - written_ >= options_.every && done != options_.total) {
    written_ = now;
    std::fprintf(out_, "%s\n", joined(parts(now, values)).c_str());
    std::fflush(out_);
  }
}

TRANSFERLIB_API void Progress::finish(std::string_view message) {
  if (finished_) return;
  finished_ = true;
  const double seconds = options_.clock() - start_;
  if (shown_) std::fputs("\r\033[K", out_);
  if (!message.empty())
    std::fprintf(out_, "%s\n", detail::one_line(message).c_str());
  else if (seconds >= (terminal_ ? 2.0 : options_.every))
    std::fprintf(out_, "%s%s%s %s in %s, %s %s/s\n", options_.label.c_str(), options_.label.empty() ? "" : ": ",
                 format_count(done_).c_str(), options_.unit.c_str(), format_duration(seconds).c_str(),
                 rate_text(static_cast<double>(done_) / std::max(seconds, 1e-9)).c_str(), options_.unit.c_str());
  std::fflush(out_);
}

TRANSFERLIB_API void Progress::count(Index done, double now) {
  if (done < done_) recent_done_ = recent_seconds_ = 0.0;  // begun again
  const double seconds = std::max(now - counted_, 0.0), fade = std::exp(-seconds / 15.0);
  recent_done_ = recent_done_ * fade + static_cast<double>(std::max<Index>(done - done_, 0));
  recent_seconds_ = recent_seconds_ * fade + seconds;
  counted_ = now;
  done_ = done;
}

TRANSFERLIB_API std::string Progress::clock_text(double seconds) {
  if (!(seconds < 100.0 * 3600.0)) return format_duration(seconds);
  const int whole = std::max(1, static_cast<int>(std::ceil(seconds - 0.01)));
  char out[48];
  if (whole < 60)
    std::snprintf(out, sizeof out, "%d s", whole);
  else if (whole < 3600)
    std::snprintf(out, sizeof out, "%d:%02d", whole / 60, whole % 60);
  else
    std::snprintf(out, sizeof out, "%d:%02d:%02d", whole / 3600, whole % 3600 / 60, whole % 60);
  return out;
}

TRANSFERLIB_API Progress::Parts Progress::parts(double now, std::string_view values) const {
  Parts out{options_.label, {}, {}, {}, {}, detail::one_line(values)};
  out.count = format_count(done_);
  if (options_.total > 0) {
    out.count += "/" + format_count(options_.total);
    // 100 % is said when all is done, not a little before.
    const double part = 100.0 * static_cast<double>(done_) / static_cast<double>(options_.total);
    char percent[64];
    std::snprintf(percent, sizeof percent, "%3.0f %%", std::clamp(std::floor(part), 0.0, 100.0));
    out.percent = percent;
  } else {
    out.count += " " + options_.unit;
  }
  // The first moments tell nothing of the speed.
  if (now - start_ >= 0.5 && recent_done_ > 0.0 && recent_seconds_ > 0.0) {
    const double rate = recent_done_ / recent_seconds_;
    out.rate = detail::text(rate_text(rate), " ", options_.unit, "/s");
    if (done_ < options_.total) out.left = clock_text(static_cast<double>(options_.total - done_) / rate) + " left";
  }
  return out;
}

TRANSFERLIB_API std::string Progress::bar(Index cells) const {
  const double part = std::clamp(static_cast<double>(done_) / static_cast<double>(options_.total), 0.0, 1.0);
  std::string out;
  if (utf8_) {
    static constexpr const char* eighths[] = {" ", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
    const auto filled = static_cast<Index>(part * static_cast<double>(cells) * 8.0);
    out += "▕";
    for (Index c = 0; c < cells; ++c) out += c < filled / 8 ? "█" : c == filled / 8 ? eighths[filled % 8] : " ";
    return out + "▏";
  }
  const auto filled = static_cast<Index>(part * static_cast<double>(cells));
  out += '[';
  for (Index c = 0; c < cells; ++c) out += c < filled ? '#' : '.';
  return out + ']';
}

TRANSFERLIB_API void Progress::draw(double now, std::string_view values) {
  // The last column stays free: a character there makes some terminals begin a new line.
  const int width = (options_.width > 0 ? options_.width : std::max(detail::terminal_width(out_), 1)) - 1;
  Parts p = parts(now, values);
  // Where the line is too long, what is told twice goes first. A bar of eight cells takes eleven columns.
  bool with_bar = options_.total > 0;
  const auto too_long = [&] { return detail::columns_of(joined(p)) + (with_bar ? 11 : 0) > width; };
  if (with_bar && too_long()) p.count.clear();
  if (too_long()) p.rate.clear();
  if (too_long()) with_bar = false;
  for (std::string* least : {&p.values, &p.label, &p.left})
    if (too_long()) least->clear();
  if (with_bar) {
    // The bar does not grow again when other parts shrink: that would look like a step back.
    if (width != bar_width_) bar_cells_ = 30;
    bar_width_ = width;
    bar_cells_ = std::min<Index>(bar_cells_, width - detail::columns_of(joined(p)) - 3);
    p.percent += " " + bar(bar_cells_);
  }
  const std::string line =
      detail::shortened(joined(p), std::max(width, 0), "", [](char32_t c) { return detail::columns_of(c); });
  std::fprintf(out_, "\r%s\033[K", line.c_str());
  std::fflush(out_);
  shown_ = true;
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

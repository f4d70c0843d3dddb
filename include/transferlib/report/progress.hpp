/// \file
/// A progress bar: one line, drawn again and again, on a terminal; a line now and then elsewhere.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <string_view>
#include <utility>

#include <sys/ioctl.h>
#include <unistd.h>

#include <transferlib/core/error.hpp>
#include <transferlib/core/layers.hpp>

namespace transferlib {

/// A duration as people read it: "0.4 s", "12 s", "3 min 07 s", "2 h 05 min".
inline std::string format_duration(double seconds) {
  char out[48];
  const auto whole = static_cast<long long>(std::max(seconds, 0.0) + 0.5);
  if (seconds < 9.95)
    std::snprintf(out, sizeof out, "%.1f s", std::max(seconds, 0.0));
  else if (whole < 60)
    std::snprintf(out, sizeof out, "%lld s", whole);
  else if (whole < 3600)
    std::snprintf(out, sizeof out, "%lld min %02lld s", whole / 60, whole % 60);
  else
    std::snprintf(out, sizeof out, "%lld h %02lld min", whole / 3600, whole % 3600 / 60);
  return out;
}

/// A count with its thousands apart: "50,000".
inline std::string format_count(Index n) {
  std::string out = detail::text(n);
  for (std::size_t at = out.size(); at > 3 + (n < 0 ? 1U : 0U);) out.insert(at -= 3, ",");
  return out;
}

/// How progress is shown.
struct ProgressOptions {
  std::string label{};
  Index total = 0;
  std::string unit = "img";
  /// Seconds that have passed; the steady clock where none is given.
  std::function<double()> clock{};
  /// Whether the output is a terminal, and how wide: found out where it is -1.
  int width = -1;
};

/// Shows how far something has come, how fast it goes and how long it will take. Draws at most ten times a second on a
/// terminal; elsewhere a line every ten seconds, and one at the end.
class Progress {
 public:
  Progress(std::FILE* out, ProgressOptions options) : out_(out), options_(std::move(options)) {
    if (!options_.clock)
      options_.clock = [start = std::chrono::steady_clock::now()] {
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      };
    start_ = options_.clock();
    drawn_ = start_ - 1.0;
    written_ = start_;
    if (options_.width < 0) {
      options_.width = 0;
      const int fd = ::fileno(out_);
      if (fd >= 0 && ::isatty(fd) != 0) {
        ::winsize size{};
        options_.width = ::ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
      }
    }
    const char* locale = nullptr;
    for (const char* name : {"LC_ALL", "LC_CTYPE", "LANG"})
      if (locale = std::getenv(name); locale != nullptr && *locale != '\0') break;
    utf8_ = locale != nullptr && (std::strstr(locale, "UTF-8") != nullptr || std::strstr(locale, "utf8") != nullptr);
  }

  /// \param done of the total; \param values what else is worth telling: "loss 0.53  accuracy 0.81"
  void update(Index done, std::string_view values = {}) {
    done_ = done;
    values_ = values;
    const double now = options_.clock();
    if (options_.width > 0) {
      if (now - drawn_ < 0.1 && done < options_.total) return;
      drawn_ = now;
      draw(now);
    } else if (now - written_ >= 10.0 && done < options_.total) {
      written_ = now;
      std::fprintf(out_, "%s\n", line(now).c_str());
      std::fflush(out_);
    }
  }

  /// Ends the bar: a terminal's line is wiped for what comes next; elsewhere a last line tells the whole.
  void finish() {
    const double now = options_.clock();
    if (options_.width > 0) {
      std::fprintf(out_, "\r\033[K");
    }
    if (options_.width <= 0 ? now - start_ >= 10.0 : now - start_ >= 2.0) {
      const double seconds = std::max(now - start_, 1e-9);
      std::fprintf(out_, "%s: %s %s in %s, %s %s/s\n", options_.label.c_str(), format_count(done_).c_str(),
                   options_.unit.c_str(), format_duration(seconds).c_str(), rate(seconds).c_str(),
                   options_.unit.c_str());
    }
    std::fflush(out_);
  }

 private:
  std::string rate(double seconds) const {
    const double r = static_cast<double>(done_) / std::max(seconds, 1e-9);
    char out[32];
    std::snprintf(out, sizeof out, r < 10.0 ? "%.1f" : "%.0f", r);
    return out;
  }
  /// Everything but the bar.
  std::string line(double now) const {
    const double seconds = now - start_;
    std::string out = detail::text(options_.label, "  ", format_count(done_), "/", format_count(options_.total));
    if (seconds > 0.2 && done_ > 0) {
      out += detail::text("  ", rate(seconds), " ", options_.unit, "/s");
      if (done_ < options_.total)
        out += detail::text(
            "  ", format_duration(seconds * static_cast<double>(options_.total - done_) / static_cast<double>(done_)),
            " left");
    }
    if (!values_.empty()) out += detail::text("  ", values_);
    return out;
  }
  void draw(double now) {
    const std::string text = line(now);
    std::string out = "\r";
    const Index room = options_.width - 3 - static_cast<Index>(text.size());
    if (room >= 8) {
      const Index cells = std::min<Index>(room, 30);
      const double part =
          options_.total > 0 ? std::min(1.0, static_cast<double>(done_) / static_cast<double>(options_.total)) : 0.0;
      if (utf8_) {
        static constexpr const char* eighths[] = {" ", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
        const auto filled = static_cast<Index>(part * static_cast<double>(cells) * 8.0);
        for (Index c = 0; c < cells; ++c) out += c < filled / 8 ? "█" : c == filled / 8 ? eighths[filled % 8] : " ";
        out += "▏ ";
      } else {
        const auto filled = static_cast<Index>(part * static_cast<double>(cells));
        out += '[';
        for (Index c = 0; c < cells; ++c) out += c < filled ? '#' : '.';
        out += "] ";
      }
    }
    out += text.substr(0, static_cast<std::size_t>(std::max(options_.width - 1, 1)));
    std::fprintf(out_, "%s\033[K", out.c_str());
    std::fflush(out_);
  }

  std::FILE* out_;
  ProgressOptions options_;
  double start_ = 0.0, drawn_ = 0.0, written_ = 0.0;
  Index done_ = 0;
  std::string values_;
  bool utf8_ = false;
};

}  // namespace transferlib

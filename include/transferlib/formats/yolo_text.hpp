/// \file
/// YOLO's annotations: a text a picture, a line a box; and the files that tell the classes and where the pictures lie:
/// ultralytics' `data.yaml`, darknet's `obj.data`.
#pragma once

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/layers.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/text.hpp>

namespace transferlib {

/// A box of a picture.
struct YoloBox {
  Index label = 0;              ///< the index of its class, not below 0
  std::array<double, 4> box{};  ///< x and y of the centre, width, height, as parts of the picture's sides, in [0, 1]
  Index line = 0;               ///< of the file, from 1
};

/// The boxes of a picture, in the file's order.
struct YoloBoxes {
  std::vector<YoloBox> boxes;
  std::vector<std::string> skipped;  ///< a sentence for each line that was left out
};

/// What a data set's own file tells of it. Paths are as they are written.
struct YoloConfig {
  std::string path;                                      ///< what the sets' paths begin with; often empty
  std::map<std::string, std::vector<std::string>> sets;  ///< "train", "val", "test": folders, or lists of pictures
  Labels labels;                                         ///< the classes, by index; empty where the file tells none
  std::string names;  ///< the file of the classes' names, where the file tells one (darknet)
  Index classes = 0;  ///< how many classes there are; 0 where the file tells none
};

namespace detail {

/// A number that is the whole of a text, and finite.
inline bool read_whole(std::string_view s, double& out) {
  if (!s.empty() && s[0] == '+') s.remove_prefix(1);
  const auto [end, error] = std::from_chars(s.data(), s.data() + s.size(), out);
  return !s.empty() && error == std::errc() && end == s.data() + s.size() && std::isfinite(out);
}

/// A count or an index, up to a million.
inline bool read_whole(std::string_view s, Index& out) {
  const auto [end, error] = std::from_chars(s.data(), s.data() + s.size(), out);
  return !s.empty() && error == std::errc() && end == s.data() + s.size() && out >= 0 && out <= 1000000;
}

}  // namespace detail

/// Reads the boxes of a picture: lines `class x y width height`, the centre and the sides as parts of the picture's. A
/// line whose numbers lie outside [0, 1] (by more than rounding, 1e-3) is skipped and told.
/// \param where the file's name, for the error's sentence
/// \throws FormatError with the line, for what has not this form
TRANSFERLIB_API YoloBoxes parse_yolo_text(std::string_view text, std::string_view where);

namespace detail {

/// As much YAML as `data.yaml` needs: keys at the beginning of a line; values that are words, [lists], {maps}, or lists
/// and maps on the lines below. What is below other keys is passed over.
class YoloYaml {
 public:
  YoloYaml(std::string_view text, std::string_view where);

  YoloConfig read();

 private:
  struct Line {
    Index indent, number;
    std::string_view words;
  };
  /// What stands behind a key's colon, and which lines lie below it.
  struct Value {
    std::string_view words;
    Index number;
    std::size_t begin, end;
  };

  [[noreturn]] void fail(Index line, std::string_view problem) const {
    throw FormatError(text(where_, ":", line, ": ", problem));
  }
  static bool is_item(std::string_view words) { return words == "-" || words.substr(0, 2) == "- "; }

  /// Where a text in quotes ends, which begins at `at`: behind its last quote; npos where it doesn't.
  static std::size_t quoted_end(std::string_view s, std::size_t at);
  /// Whether a text in quotes may begin at `at`: behind a blank or a sign, not within a word (it's).
  static bool may_quote(std::string_view s, std::size_t at) {
    return (s[at] == '"' || s[at] == '\'') &&
           (at == 0 || std::string_view(" \t[{,:-").find(s[at - 1]) != std::string_view::npos);
  }
  static std::string_view without_comment(std::string_view s);

  /// A word, without the quotes around it.
  std::string word(std::string_view s, Index number) const;

  /// `key: value`.
  std::pair<std::string, std::string_view> pair(std::string_view s, Index number) const;

  /// One word, a list, or a map from 0, 1, 2 … on; as a list.
  std::vector<std::string> list(const Value& value) const;

  std::string_view where_;
  std::vector<Line> lines_;
  std::size_t at_ = 0;
};

}  // namespace detail

/// Reads ultralytics' `data.yaml`: `path`, `train`, `val`, `test`, `nc` and `names`; what else is in it is left alone.
/// Of YAML it takes keys with words, [lists], {maps}, and lists and maps on the lines below; no anchors, no documents.
/// \param where the file's name, for the error's sentence
/// \throws FormatError with the line
inline YoloConfig parse_yolo_yaml(std::string_view text, std::string_view where) {
  return detail::YoloYaml(text, where).read();
}

/// Reads darknet's `obj.data`: lines `classes = …`, `train = …`, `valid = …`, `names = …`; others are left alone.
/// \param where the file's name, for the error's sentence
/// \throws FormatError with the line
TRANSFERLIB_API YoloConfig parse_darknet_data(std::string_view text, std::string_view where);

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API YoloBoxes parse_yolo_text(std::string_view text, std::string_view where) {
  YoloBoxes out;
  for (const auto& [line, number] : detail::lines_of(text)) {
    const auto place = [&, n = number] { return detail::text(where, ":", n, ": "); };
    std::vector<std::string_view> words;
    for (std::size_t at = 0; (at = line.find_first_not_of(" \t", at)) != line.npos && words.size() < 8;) {
      const std::size_t end = std::min(line.find_first_of(" \t", at), line.size());
      words.push_back(line.substr(at, end - at));
      at = end;
    }
    if (words.size() != 5)
      throw FormatError(detail::text(place(), words.size() > 5 ? "more than five numbers" : "less than five numbers",
                                     " in the line \"", line.substr(0, 60), "\"; a box is: class x y width height",
                                     words.size() > 6 ? " (an outline? write boxes instead)" : ""));
    YoloBox box{.line = number};
    double label = 0.0;
    // Some programs write the class as a real number.
    if (!detail::read_whole(words[0], label) || label < 0.0 || label != std::floor(label) || label > 1e6)
      throw FormatError(
          detail::text(place(), "the class should be a whole number from 0 on, not \"", words[0].substr(0, 40), "\""));
    box.label = static_cast<Index>(label);
    static constexpr std::string_view names[] = {"x", "y", "width", "height"};
    std::string problem;
    for (std::size_t i = 0; i < 4; ++i) {
      double& x = box.box[i];
      if (!detail::read_whole(words[i + 1], x))
        throw FormatError(
            detail::text(place(), "the ", names[i], " should be a number, not \"", words[i + 1].substr(0, 40), "\""));
      if (x < -1e-3 || x > 1.0 + 1e-3)
        problem =
            detail::text(place(), "the ", names[i], " is ", x, ", which is no part of the picture's side in [0, 1]",
                         x > 1.0 ? "; are these pixels?" : "");
      x = std::clamp(x, 0.0, 1.0);
    }
    if (problem.empty())
      out.boxes.push_back(box);
    else
      out.skipped.push_back(std::move(problem));
  }
  return out;
}

}  // namespace transferlib

namespace transferlib::detail {

TRANSFERLIB_API YoloYaml::YoloYaml(std::string_view text, std::string_view where) : where_(where) {
  for (Index number = 1; !text.empty(); ++number) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = without_comment(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
    const std::string_view words = trimmed(line);
    if (words.empty() || words == "---") continue;
    const std::size_t indent = line.find_first_not_of(' ');
    if (line[indent] == '\t') fail(number, "a tab where YAML takes blanks alone");
    lines_.push_back({static_cast<Index>(indent), number, words});
  }
}

TRANSFERLIB_API YoloConfig YoloYaml::read() {
  YoloConfig out;
  std::set<std::string> seen;
  Index names_line = 0;
  while (at_ < lines_.size()) {
    const Line& line = lines_[at_++];
    if (line.indent != 0) fail(line.number, text("\"", line.words.substr(0, 40), "\" is indented, but below no key"));
    const auto [key, value] = pair(line.words, line.number);
    if (!seen.insert(key).second) fail(line.number, text("the key ", key, " was there before"));
    const std::size_t begin = at_;
    // Lists may begin as far left as their key.
    while (at_ < lines_.size() && (lines_[at_].indent > 0 || is_item(lines_[at_].words))) ++at_;
    const Value read{value, line.number, begin, at_};
    if (key == "path") {
      out.path = word(value, line.number);
    } else if (key == "train" || key == "val" || key == "test") {
      if (auto found = list(read); !found.empty()) out.sets[key] = std::move(found);
    } else if (key == "nc") {
      if (!read_whole(word(value, line.number), out.classes) || out.classes == 0)
        fail(line.number, text("nc should be the number of classes, not \"", value.substr(0, 40), "\""));
    } else if (key == "names") {
      names_line = line.number;
      out.labels = list(read);
      if (out.labels.empty()) fail(line.number, "names should be a list of the classes' names");
    }
  }
  if (out.classes != 0 && !out.labels.empty() && out.classes != static_cast<Index>(out.labels.size()))
    fail(names_line, text("there are ", out.labels.size(), " names, but nc is ", out.classes));
  return out;
}

TRANSFERLIB_API std::size_t YoloYaml::quoted_end(std::string_view s, std::size_t at) {
  const char quote = s[at];
  for (++at; at < s.size(); ++at) {
    if (quote == '"' && s[at] == '\\')
      ++at;
    else if (s[at] == quote && quote == '\'' && at + 1 < s.size() && s[at + 1] == quote)
      ++at;
    else if (s[at] == quote)
      return at + 1;
  }
  return s.npos;
}

TRANSFERLIB_API std::string_view YoloYaml::without_comment(std::string_view s) {
  for (std::size_t at = 0; at < s.size(); ++at) {
    if (s[at] == '#' && (at == 0 || s[at - 1] == ' ' || s[at - 1] == '\t')) return s.substr(0, at);
    if (!may_quote(s, at)) continue;
    const std::size_t end = quoted_end(s, at);
    if (end == s.npos) return s;  // told where the text is needed
    at = end - 1;
  }
  return s;
}

TRANSFERLIB_API std::string YoloYaml::word(std::string_view s, Index number) const {
  if (s.empty() || (s[0] != '"' && s[0] != '\'')) {
    if (!s.empty() && std::string_view("[]{}&*!|>%@`").find(s[0]) != std::string_view::npos)
      fail(number, text("\"", s.substr(0, 40), "\" where a word is needed"));
    return std::string(s);
  }
  if (quoted_end(s, 0) != s.size())
    fail(number, text("the quoted text ", s.substr(0, 40), " does not end, or something follows it"));
  std::string out;
  for (std::size_t at = 1; at + 1 < s.size(); ++at) {
    if (s[0] == '\'' && s[at] == '\'') ++at;
    if (s[0] == '"' && s[at] == '\\' && s[++at] != '"' && s[at] != '\\' && s[at] != '/')
      fail(number, text("the escape \\", s.substr(at, 1), " is not known here"));
    out += s[at];
  }
  return out;
}

TRANSFERLIB_API std::pair<std::string, std::string_view> YoloYaml::pair(std::string_view s, Index number) const {
  const std::size_t begin = !s.empty() && may_quote(s, 0) ? std::min(quoted_end(s, 0), s.size()) : 0;
  for (std::size_t at = begin; (at = s.find(':', at)) != s.npos; ++at)
    if (at + 1 == s.size() || s[at + 1] == ' ' || s[at + 1] == '\t')
      return {word(trimmed(s.substr(0, at)), number), trimmed(s.substr(at + 1))};
  fail(number, text("\"", s.substr(0, 60), "\" should be a key and its value: `key: value`"));
}

TRANSFERLIB_API std::vector<std::string> YoloYaml::list(const Value& value) const {
  std::vector<std::string> out;
  const auto item = [&](std::string_view s, bool map, Index number) {
    if (!map) {
      out.push_back(word(s, number));
      return;
    }
    const auto [key, name] = pair(s, number);
    Index index = 0;
    if (!read_whole(key, index) || index != static_cast<Index>(out.size()))
      fail(number, text("\"", s.substr(0, 40), "\" where ", out.size(), ": … should follow"));
    out.push_back(word(name, number));
  };
  std::string_view first = value.words;
  if (first.empty()) {
    for (std::size_t i = value.begin; i < value.end; ++i) {
      const Line& line = lines_[i];
      if (is_item(line.words) != is_item(lines_[value.begin].words))
        fail(line.number, "a list and a map at the same place");
      if (is_item(line.words))
        item(trimmed(line.words.substr(1)), false, line.number);
      else
        item(line.words, true, line.number);
    }
    return out;
  }
  if (first[0] != '[' && first[0] != '{') {
    if (value.begin != value.end) fail(lines_[value.begin].number, "a value on its own line and on the ones below");
    return {word(first, value.number)};
  }
  // In brackets, over several lines perhaps.
  const bool map = first[0] == '{';
  const char close = map ? '}' : ']';
  Index number = value.number;
  std::string_view rest = first.substr(1);
  bool needs_comma = false;
  for (std::size_t next = value.begin;;) {
    rest = trimmed(rest);
    if (rest.empty()) {
      if (next == value.end) fail(number, text("the list does not end: there is no ", std::string(1, close)));
      number = lines_[next].number;
      rest = lines_[next++].words;
      continue;
    }
    if (rest[0] == close) {
      if (rest.size() != 1 || next != value.end) fail(number, "something follows the end of the list");
      return out;
    }
    if (rest[0] == ',') {
      if (!std::exchange(needs_comma, false)) fail(number, "a comma without a word before it");
      rest.remove_prefix(1);
      continue;
    }
    if (needs_comma) fail(number, text("a comma is missing before \"", rest.substr(0, 40), "\""));
    std::size_t end = 0;
    while (end < rest.size() && rest[end] != ',' && rest[end] != close)
      end = may_quote(rest, end) ? std::min(quoted_end(rest, end), rest.size()) : end + 1;
    item(trimmed(rest.substr(0, end)), map, number);
    rest.remove_prefix(end);
    needs_comma = true;
  }
}

}  // namespace transferlib::detail

namespace transferlib {

TRANSFERLIB_API YoloConfig parse_darknet_data(std::string_view text, std::string_view where) {
  YoloConfig out;
  for (const auto& [line, number] : detail::lines_of(text)) {
    if (line[0] == '#' || line[0] == ';') continue;
    const std::size_t equals = line.find('=');
    const std::string_view key = detail::trimmed(line.substr(0, equals));
    if (equals == line.npos || key.empty())
      throw FormatError(detail::text(where, ":", number, ": \"", line.substr(0, 60),
                                     "\" should be a key and its value: key = value"));
    const std::string value(detail::trimmed(line.substr(equals + 1)));
    if (key == "train" || key == "valid" || key == "test")
      out.sets[key == "valid" ? "val" : std::string(key)] = {value};
    else if (key == "names")
      out.names = value;
    else if (key == "classes" && (!detail::read_whole(value, out.classes) || out.classes == 0))
      throw FormatError(
          detail::text(where, ":", number, ": classes should be a number, not \"", value.substr(0, 40), "\""));
  }
  return out;
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

/// \file
/// Names: the nearest one to a misspelt one, and glob patterns. Texts: without the blanks around them, by lines.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <transferlib/core/separate.hpp>

namespace transferlib::detail {

/// Levenshtein's edit distance between two names.
TRANSFERLIB_API std::size_t edit_distance(std::string_view a, std::string_view b);

/// The `most` names nearest to `wanted`, nearest first; ties keep the order of `names`.
TRANSFERLIB_API std::vector<std::string> nearest_names(std::string_view wanted, const std::vector<std::string>& names,
                                                       std::size_t most = 3);

/// Whether `name` matches the glob `pattern`: `*` stands for any run of characters (dots too), `?` for one.
TRANSFERLIB_API bool glob_matches(std::string_view pattern, std::string_view name);

/// Without the blanks and ends of lines at both sides.
inline std::string_view trimmed(std::string_view s) {
  constexpr std::string_view blanks = " \t\r\n";
  const std::size_t first = s.find_first_not_of(blanks);
  return first == s.npos ? std::string_view() : s.substr(first, s.find_last_not_of(blanks) - first + 1);
}

/// A text's lines that are not empty, trimmed, and their numbers from 1.
TRANSFERLIB_API std::vector<std::pair<std::string_view, std::int64_t>> lines_of(std::string_view text);

}  // namespace transferlib::detail

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t above = row[j];
      row[j] = std::min({above + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0 : 1)});
      diagonal = above;
    }
  }
  return row[b.size()];
}

TRANSFERLIB_API std::vector<std::string> nearest_names(std::string_view wanted, const std::vector<std::string>& names,
                                                       std::size_t most) {
  std::vector<std::pair<std::size_t, std::size_t>> ranked;
  for (std::size_t i = 0; i < names.size(); ++i) ranked.emplace_back(edit_distance(wanted, names[i]), i);
  std::sort(ranked.begin(), ranked.end());
  std::vector<std::string> out;
  for (std::size_t i = 0; i < ranked.size() && i < most; ++i) out.push_back(names[ranked[i].second]);
  return out;
}

TRANSFERLIB_API bool glob_matches(std::string_view pattern, std::string_view name) {
  std::size_t p = 0, n = 0, star = std::string_view::npos, mark = 0;
  while (n < name.size()) {
    if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == name[n])) {
      ++p;
      ++n;
    } else if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      mark = n;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      n = ++mark;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

TRANSFERLIB_API std::vector<std::pair<std::string_view, std::int64_t>> lines_of(std::string_view text) {
  std::vector<std::pair<std::string_view, std::int64_t>> out;
  for (std::int64_t number = 1; !text.empty(); ++number) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    if (const std::string_view line = trimmed(text.substr(0, end)); !line.empty()) out.emplace_back(line, number);
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return out;
}

}  // namespace transferlib::detail

#endif  // TRANSFERLIB_DEFINES

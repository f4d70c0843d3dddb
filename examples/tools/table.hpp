/// \file
/// Tables for a terminal, of any script's letters. Free of LibTorch.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

#include <transferlib/report/shown.hpp>

namespace tools {

/// Rows of cells as text, columns two blanks apart. \param left so many columns begin at the left; the others, numbers,
/// end at the right
inline std::string table(const std::vector<std::vector<std::string>>& rows, std::size_t left = 1) {
  std::vector<int> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()), 0);
    for (std::size_t c = 0; c < row.size(); ++c)
      widths[c] = std::max(widths[c], transferlib::detail::columns_of(transferlib::detail::one_line(row[c])));
  }
  std::string out;
  for (const auto& row : rows) {
    std::string line;
    for (std::size_t c = 0; c < row.size(); ++c) {
      const std::string cell = transferlib::detail::one_line(row[c]);
      const std::string blanks(static_cast<std::size_t>(widths[c] - transferlib::detail::columns_of(cell)), ' ');
      line += c == 0 ? "" : "  ";
      line += c < left ? cell + blanks : blanks + cell;
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  }
  return out;
}

}  // namespace tools

/// \file
/// `metrics.csv`: a row an epoch (RFC 4180), numbers in the shortest form that reads back equal.
#pragma once

#include <charconv>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/files.hpp>
#include <transferlib/train/history.hpp>

namespace transferlib {
namespace detail {

inline std::string csv_field(std::string_view value) {
  if (value.find_first_of(",\"\r\n") == std::string_view::npos) return std::string(value);
  std::string out = "\"";
  for (char c : value) out += c == '"' ? std::string("\"\"") : std::string(1, c);
  return out + "\"";
}

/// The fields of one line; a quoted field may hold commas and doubled quotes, not line breaks.
inline std::vector<std::string> csv_fields(std::string_view line, std::string_view where) {
  std::vector<std::string> out(1);
  bool quoted = false;
  for (std::size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    if (quoted) {
      if (c != '"')
        out.back() += c;
      else if (i + 1 < line.size() && line[i + 1] == '"')
        out.back() += line[++i];
      else
        quoted = false;
    } else if (c == '"' && out.back().empty()) {
      quoted = true;
    } else if (c == ',') {
      out.emplace_back();
    } else {
      out.back() += c;
    }
  }
  if (quoted) throw FormatError(text(where, ": a quote is not closed"));
  return out;
}

}  // namespace detail

/// The history as CSV: `epoch` and the columns of the first epoch.
/// \throws OptionError if a later epoch lacks a column
inline std::string to_csv(const History& history) {
  std::string out = "epoch";
  if (history.epochs.empty()) return out + "\n";
  const auto& columns = history.epochs.front().values;
  for (const auto& column : columns) out += "," + detail::csv_field(column.first);
  out += '\n';
  for (const Epoch& epoch : history.epochs) {
    detail::append_text(out, epoch.number);
    for (const auto& column : columns) out += detail::text(",", epoch[column.first]);
    out += '\n';
  }
  return out;
}

/// Writes the history, atomically. \throws FileError
inline void write_csv(const History& history, const std::filesystem::path& path) { write_file(path, to_csv(history)); }

/// Reads what `write_csv` wrote. \throws FileError; FormatError naming the line
inline History read_csv(const std::filesystem::path& path) {
  const std::string all = read_file(path);
  History out;
  std::vector<std::string> columns;
  std::size_t from = 0;
  for (Index number = 1; from < all.size(); ++number) {
    std::size_t to = all.find('\n', from);
    if (to == std::string::npos) to = all.size();
    std::string_view line(all.data() + from, to - from);
    from = to + 1;
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    const std::string where = detail::text(path, ", line ", number);
    const auto fields = detail::csv_fields(line, where);
    if (columns.empty()) {
      if (fields.front() != "epoch")
        throw FormatError(detail::text(where, ": the first column is \"", fields.front(), "\", expected \"epoch\""));
      columns = fields;
      continue;
    }
    if (fields.size() != columns.size())
      throw FormatError(detail::text(where, ": ", fields.size(), " fields, expected ", columns.size()));
    Epoch epoch;
    for (std::size_t i = 0; i < fields.size(); ++i) {
      double value = 0.0;
      const auto [end, error] = std::from_chars(fields[i].data(), fields[i].data() + fields[i].size(), value);
      if (error != std::errc() || end != fields[i].data() + fields[i].size())
        throw FormatError(detail::text(where, ", column ", columns[i], ": \"", fields[i], "\" is no number"));
      if (i == 0)
        epoch.number = static_cast<Index>(value);
      else
        epoch.values.emplace_back(columns[i], value);
    }
    out.epochs.push_back(std::move(epoch));
  }
  if (columns.empty())
    throw FormatError(detail::text(path, " is empty; expected a line of columns that begins with epoch"));
  return out;
}

}  // namespace transferlib

/// \file
/// `metrics.csv`: a row an epoch (RFC 4180), numbers in the shortest form that reads back equal.
#pragma once

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/files.hpp>
#include <transferlib/core/layers.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/train/history.hpp>

namespace transferlib {
namespace detail {

/// A field as it is written: in quotes where a comma, a quote, a line break or an outer space asks for them.
TRANSFERLIB_API std::string csv_field(std::string_view value);

/// Reads CSV record by record; a quoted field may hold commas, doubled quotes and line breaks.
class CsvReader {
 public:
  CsvReader(std::string_view bytes, std::string source) : rest_(bytes), source_(std::move(source)) {
    if (rest_.substr(0, 3) == "\xEF\xBB\xBF") rest_.remove_prefix(3);  // Excel's mark of UTF-8
  }

  /// The next record into `fields`; false at the end. \throws FormatError naming the line
  bool next(std::vector<std::string>& fields);

  /// The file and the line that the last record begins on.
  std::string where() const { return text(source_, ", line ", line_); }

 private:
  std::string_view rest_;
  std::string source_;
  Index line_ = 0, next_line_ = 1;
};

/// The columns of a history: every name that an epoch has, in the order of their first appearance.
TRANSFERLIB_API std::vector<std::string> column_names(const History& history);

}  // namespace detail

/// The history as CSV: `epoch` and every column that an epoch has. A field is empty where its epoch lacks the column.
TRANSFERLIB_API std::string to_csv(const History& history);

/// Writes the history, atomically. \throws FileError
inline void write_csv(const History& history, const std::filesystem::path& path) { write_file(path, to_csv(history)); }

/// The history in the bytes of a CSV file. \param source what errors call it
/// \throws FormatError naming the line and the column
TRANSFERLIB_API History parse_csv(std::string_view bytes, const std::string& source = "metrics.csv");

/// Reads what `write_csv` wrote. \throws FileError; FormatError naming the line and the column
inline History read_csv(const std::filesystem::path& path) { return parse_csv(read_file(path), path.string()); }

/// A callback that keeps a CSV file up to date: after each epoch the file is whole and synced, whenever the program is
/// killed.
class CsvLog {
 public:
  /// \throws FileError if the file can't be written: now, not after the first epoch
  explicit CsvLog(std::filesystem::path path) : path_(std::move(path)) { write_csv(history_, path_); }

  void on_fit_begin(auto&) { history_ = {}; }
  /// \throws FileError
  void on_epoch_end(const Epoch& epoch) {
    history_.epochs.push_back(epoch);
    write_csv(history_, path_);
  }

 private:
  std::filesystem::path path_;
  History history_;
};

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API std::string csv_field(std::string_view value) {
  const bool spaced = !value.empty() && (value.front() == ' ' || value.back() == ' ');
  if (value.find_first_of(",\"\r\n") == std::string_view::npos && !spaced) return std::string(value);
  std::string out = "\"";
  for (char c : value) {
    if (c == '"') out += '"';
    out += c;
  }
  return out + '"';
}

TRANSFERLIB_API bool CsvReader::next(std::vector<std::string>& fields) {
  if (rest_.empty()) return false;
  line_ = next_line_;
  fields.assign(1, {});
  bool quoted = false, closed = false;
  while (!rest_.empty()) {
    const char c = rest_.front();
    rest_.remove_prefix(1);
    if (c == '\n') ++next_line_;
    if (quoted) {
      if (c != '"') {
        fields.back() += c;
      } else if (!rest_.empty() && rest_.front() == '"') {
        fields.back() += '"';
        rest_.remove_prefix(1);
      } else {
        quoted = false;
        closed = true;
      }
    } else if (c == '\n') {
      return true;
    } else if (c == '\r' && (rest_.empty() || rest_.front() == '\n')) {
      continue;
    } else if (c == ',') {
      fields.emplace_back();
      closed = false;
    } else if (closed) {
      throw FormatError(text(where(), ": '", c, "' follows the end of a quoted field, expected a comma"));
    } else if (c == '"' && fields.back().empty()) {
      quoted = true;
    } else {
      fields.back() += c;
    }
  }
  if (quoted) throw FormatError(text(where(), ": a quote is opened and never closed"));
  return true;
}

TRANSFERLIB_API std::vector<std::string> column_names(const History& history) {
  std::vector<std::string> out;
  for (const Epoch& epoch : history.epochs)
    for (const auto& value : epoch.values) {
      bool known = false;
      for (const auto& name : out) known = known || name == value.first;
      if (!known) out.push_back(value.first);
    }
  return out;
}

}  // namespace transferlib::detail

namespace transferlib {

TRANSFERLIB_API std::string to_csv(const History& history) {
  const auto columns = detail::column_names(history);
  std::string out = "epoch";
  for (const auto& column : columns) out += "," + detail::csv_field(column);
  out += '\n';
  for (const Epoch& epoch : history.epochs) {
    detail::append_text(out, epoch.number);
    for (const auto& column : columns) {
      out += ',';
      if (epoch.has(column)) detail::append_text(out, epoch[column]);
    }
    out += '\n';
  }
  return out;
}

TRANSFERLIB_API History parse_csv(std::string_view bytes, const std::string& source) {
  History out;
  detail::CsvReader reader(bytes, source);
  std::vector<std::string> columns, fields;
  if (!reader.next(columns))
    throw FormatError(detail::text(source, " is empty; expected a line of column names that begins with \"epoch\""));
  if (columns.front() != "epoch")
    throw FormatError(
        detail::text(reader.where(), ": the first column is \"", columns.front(), "\", expected \"epoch\""));
  auto sorted = columns;
  std::sort(sorted.begin(), sorted.end());
  if (const auto twin = std::adjacent_find(sorted.begin(), sorted.end()); twin != sorted.end())
    throw FormatError(detail::text(reader.where(), ": two columns are called \"", *twin, "\""));
  while (reader.next(fields)) {
    if (fields.size() == 1 && fields.front().empty()) continue;  // an empty line
    if (fields.size() != columns.size())
      throw FormatError(detail::text(reader.where(), ": ", fields.size(), fields.size() == 1 ? " field" : " fields",
                                     ", expected ", columns.size(), " as in the first line"));
    const auto read = [&](std::size_t i, auto& value, const char* what) {
      const char *begin = fields[i].data(), *end = begin + fields[i].size();
      const auto [stop, error] = std::from_chars(begin, end, value);
      if (error == std::errc::result_out_of_range)
        throw FormatError(detail::text(reader.where(), ", column \"", columns[i], "\": ", fields[i],
                                       " is out of the range of ", what));
      if (error != std::errc() || stop != end)
        throw FormatError(
            detail::text(reader.where(), ", column \"", columns[i], "\": \"", fields[i], "\" is not ", what));
    };
    Epoch epoch;
    read(0, epoch.number, "a whole number");
    for (std::size_t i = 1; i < fields.size(); ++i) {
      if (fields[i].empty()) continue;
      double value = 0.0;
      read(i, value, "a number");
      epoch.values.emplace_back(columns[i], value);
    }
    const Index last = out.epochs.empty() ? 0 : out.epochs.back().number;
    if (epoch.number <= last)
      throw FormatError(detail::text(reader.where(), ": epoch ", epoch.number, " follows epoch ", last,
                                     "; epochs are counted from 1 and grow"));
    out.epochs.push_back(std::move(epoch));
  }
  return out;
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

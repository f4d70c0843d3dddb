/// \file
/// Strict JSON (RFC 8259) on nlohmann/json's parser: no key twice in an object, no depth without end, and errors that
/// name line and column.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <transferlib/core/error.hpp>

namespace transferlib {

/// A JSON value whose objects keep the order of their keys.
using Json = nlohmann::ordered_json;

namespace detail {

/// Walks over a text and tells how far it has come, so that an error of ours can say where it is.
struct JsonCursor {
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  const char* at = nullptr;
  const char** reached = nullptr;

  reference operator*() const { return *at; }
  JsonCursor& operator++() {
    *reached = ++at;
    return *this;
  }
  friend bool operator==(const JsonCursor& a, const JsonCursor& b) { return a.at == b.at; }
  friend bool operator!=(const JsonCursor& a, const JsonCursor& b) { return a.at != b.at; }
};

/// Builds the value from the parser's events, and refuses what nlohmann/json lets pass.
class JsonBuilder {
 public:
  explicit JsonBuilder(std::size_t most_depth) : most_depth_(most_depth) {}
  bool null() { return put(nullptr); }
  bool boolean(bool v) { return put(v); }
  bool number_integer(std::int64_t v) { return put(v); }
  bool number_unsigned(std::uint64_t v) { return put(v); }
  bool number_float(double v, const std::string&) { return put(v); }
  bool string(std::string& v) { return put(std::move(v)); }
  bool binary(Json::binary_t&) { return false; }
  bool start_object(std::size_t) { return open(Json::object()); }
  bool start_array(std::size_t) { return open(Json::array()); }
  bool key(std::string& name) {
    if (!keys_.back().insert(name).second) {
      problem = text("the key \"", name.substr(0, 80), "\" stands twice in one object");
      return false;
    }
    key_ = std::move(name);
    return true;
  }
  bool end_object() { return close(); }
  bool end_array() { return close(); }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception& e) {
    // "[json.exception.parse_error.101] parse error at line 1, column 5: syntax error while …": what follows is ours.
    problem = e.what();
    if (const std::size_t tag = problem.find("] "); tag != std::string::npos) problem.erase(0, tag + 2);
    if (problem.starts_with("parse error"))
      if (const std::size_t colon = problem.find(": "); colon != std::string::npos) problem.erase(0, colon + 2);
    return false;
  }

  Json result;
  std::string problem;

 private:
  Json* place(Json value) {
    if (open_.empty()) {
      result = std::move(value);
      return &result;
    }
    Json& parent = *open_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    // The key is new: `key` has seen to that, so the object, a vector of pairs, need not be searched for it.
    auto& object = parent.get_ref<Json::object_t&>();
    static_cast<Json::object_t::Container&>(object).emplace_back(std::move(key_), std::move(value));
    return &object.back().second;
  }
  template <class V>
  bool put(V&& value) {
    place(Json(std::forward<V>(value)));
    return true;
  }
  bool open(Json value) {
    if (open_.size() == most_depth_) {
      problem = text("values are nested deeper than ", most_depth_);
      return false;
    }
    open_.push_back(place(std::move(value)));
    keys_.emplace_back();
    return true;
  }
  bool close() {
    open_.pop_back();
    keys_.pop_back();
    return true;
  }

  std::size_t most_depth_;
  std::vector<Json*> open_;
  std::vector<std::set<std::string>> keys_;
  std::string key_;
};

}  // namespace detail

/// Parses a whole text as one JSON value.
/// \param where the file's name, for the error's sentence
/// \param most_depth how many arrays and objects may lie in one another
/// \throws FormatError with line and column, both from 1, the column in bytes
inline Json parse_json(std::string_view text, std::string_view where, std::size_t most_depth = 64) {
  detail::JsonBuilder builder(most_depth);
  const char* reached = text.data();
  const detail::JsonCursor begin{text.data(), &reached}, end{text.data() + text.size(), &reached};
  bool good = Json::sax_parse(begin, end, &builder);
  // The parser takes a zero byte for the end of the text.
  if (const std::size_t zero = text.find('\0'); good && zero != std::string_view::npos) {
    good = false;
    reached = text.data() + zero + 1;
    builder.problem = "a zero byte, which JSON can't have";
  }
  if (!good) {
    const std::string_view read = text.substr(0, static_cast<std::size_t>(reached - text.data()));
    // The last byte read is the one at fault; where it is a line's end, that line is meant.
    const std::string_view before = read.substr(0, read.empty() ? 0 : read.size() - 1);
    const auto line = std::count(before.begin(), before.end(), '\n') + 1;
    const std::size_t last_break = before.rfind('\n');
    const std::size_t column = before.size() - (last_break == std::string_view::npos ? 0 : last_break + 1) + 1;
    throw FormatError(detail::text(where, ": not valid JSON at line ", line, ", column ", column, ": ", builder.problem,
                                   "; correct the file or make it again"));
  }
  return std::move(builder.result);
}

}  // namespace transferlib

/// \file
/// Strict JSON (RFC 8259): a value, its reader and its writer. No key twice in an object, no depth without end, and
/// errors that name line and column. Our own because of what a user's program costs to compile: it reads and writes
/// JSON in the headers of safetensors, and the usual library alone took an eighth of its time.
#pragma once

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/separate.hpp>

namespace transferlib {

struct JsonMember;

/// A JSON value. Objects keep the order of their keys; numbers keep their 64 bits. Sixteen bytes, and what a string, an
/// array or an object holds.
///
/// Asking for what a value is not (`get` of another type, a key or an element that is not there) throws a FormatError
/// that says so; nothing is converted but numbers to numbers that hold them exactly, or as floating point rounded.
class Json {
 public:
  using Array = std::vector<Json>;
  using Object = std::vector<JsonMember>;
  /// `integer`: negative; `natural`: 0 and above, written without fraction or exponent; `real`: all other numbers.
  enum class Type : std::uint8_t { null, boolean, integer, natural, real, string, array, object };

  Json() = default;
  Json(std::nullptr_t) {}
  template <std::same_as<bool> B>
  Json(B value) : type_(Type::boolean) {
    value_.boolean = value;
  }
  template <std::integral I>
  requires(!std::same_as<I, bool>) Json(I value) {
    if (std::is_signed_v<I> && value < I{0}) {
      type_ = Type::integer;
      value_.integer = static_cast<std::int64_t>(value);
    } else {
      type_ = Type::natural;
      value_.natural = static_cast<std::uint64_t>(value);
    }
  }
  Json(double value) : type_(Type::real) { value_.real = value; }
  Json(std::string value) : type_(Type::string) { value_.string = new std::string(std::move(value)); }
  Json(std::string_view value) : Json(std::string(value)) {}
  Json(const char* value) : Json(std::string(value)) {}
  Json(Array value) : type_(Type::array) { value_.array = new Array(std::move(value)); }
  Json(Object value);
  /// An array of what makes a value each.
  template <class T>
  requires(!std::same_as<T, Json> && std::constructible_from<Json, T>) Json(const std::vector<T>& values)
      : Json(Array(values.begin(), values.end())) {}
  template <class T, std::size_t n>
  Json(const std::array<T, n>& values) : Json(Array(values.begin(), values.end())) {}
  /// An object: `{{"name", value}, …}`.
  Json(std::initializer_list<JsonMember> members);

  /// An array.
  static Json array(std::initializer_list<Json> values = {}) { return Json(Array(values)); }
  /// An object without members.
  static Json object();

  Json(const Json& other) { copy(other); }
  Json(Json&& other) noexcept : type_(other.type_), value_(other.value_) { other.type_ = Type::null; }
  Json& operator=(Json other) noexcept {
    std::swap(type_, other.type_);
    std::swap(value_, other.value_);
    return *this;
  }
  ~Json() { clear(); }

  Type type() const { return type_; }
  bool is_null() const { return type_ == Type::null; }
  bool is_boolean() const { return type_ == Type::boolean; }
  bool is_number() const { return type_ >= Type::integer && type_ <= Type::real; }
  /// A number without fraction or exponent, 0 or above.
  bool is_natural() const { return type_ == Type::natural; }
  bool is_string() const { return type_ == Type::string; }
  bool is_array() const { return type_ == Type::array; }
  bool is_object() const { return type_ == Type::object; }

  /// \name What is inside: references into the value. \throws FormatError if it is of another type
  /// \{
  const std::string& string() const { return *expect(Type::string).value_.string; }
  const Array& elements() const { return *expect(Type::array).value_.array; }
  /// The elements of an array.
  Array& elements() { return *expect(Type::array).value_.array; }
  const Object& members() const { return *expect(Type::object).value_.object; }
  /// The members of an object.
  Object& members() { return *expect(Type::object).value_.object; }
  /// \}

  /// The value as a bool, a number, a `std::string`, a `std::vector` or `std::array` of those. \throws FormatError
  template <class T>
  T get() const {
    if constexpr (std::same_as<T, bool>) {
      return expect(Type::boolean).value_.boolean;
    } else if constexpr (std::integral<T>) {
      return static_cast<T>(integer(static_cast<std::int64_t>(std::numeric_limits<T>::min()),
                                    static_cast<std::uint64_t>(std::numeric_limits<T>::max())));
    } else if constexpr (std::floating_point<T>) {
      return static_cast<T>(real());
    } else if constexpr (std::same_as<T, std::string>) {
      return string();
    } else {
      T out{};
      if constexpr (requires { out.emplace_back(); })
        out.resize(elements().size());
      else if (elements().size() != out.size())
        wrong(detail::text("an array of ", out.size(), " values"));
      for (std::size_t i = 0; i < out.size(); ++i) out[i] = elements()[i].template get<typename T::value_type>();
      return out;
    }
  }

  /// How many elements or members; 0 for what has none.
  std::size_t size() const;
  bool empty() const { return size() == 0; }
  /// The member of this name; none where there is no such, or the value is no object.
  const Json* find(std::string_view name) const;
  /// Whether the value is an object with a member of this name.
  bool contains(std::string_view name) const { return find(name) != nullptr; }
  /// The member of this name. \throws FormatError if there is none
  const Json& operator[](std::string_view name) const;
  /// The member of this name, made where there is none; a null becomes an object.
  Json& operator[](std::string_view name);
  const Json& operator[](const char* name) const { return (*this)[std::string_view(name)]; }
  Json& operator[](const char* name) { return (*this)[std::string_view(name)]; }
  /// An element of an array. \throws FormatError if there is none
  template <std::integral I>
  const Json& operator[](I i) const {
    return element(static_cast<std::size_t>(i));
  }
  template <std::integral I>
  Json& operator[](I i) {
    return const_cast<Json&>(element(static_cast<std::size_t>(i)));
  }
  /// Adds to the end of an array; a null becomes one.
  void push_back(Json value) {
    if (is_null()) *this = array();
    elements().push_back(std::move(value));
  }

  /// The value as text: on one line, or each level indented by so many blanks more. Text that is not UTF-8 gets U+FFFD
  /// in place of what is wrong; a number that is not finite becomes null.
  std::string dump(int indent = -1) const {
    std::string out;
    write(out, indent, 0);
    return out;
  }

  friend bool operator==(const Json& a, const Json& b);

  /// The type's name, with its article: "a number".
  static std::string_view name_of(Type type) {
    constexpr std::string_view names[]{"null",     "true or false", "a whole number", "a whole number",
                                       "a number", "a string",      "an array",       "an object"};
    return names[static_cast<std::size_t>(type)];
  }

 private:
  const Json& expect(Type type) const {
    if (type_ != type) wrong(name_of(type));
    return *this;
  }
  Json& expect(Type type) {
    if (type_ != type) wrong(name_of(type));
    return *this;
  }
  [[noreturn]] void wrong(std::string_view wanted) const;
  double real() const;
  std::int64_t integer(std::int64_t least, std::uint64_t most) const;
  const Json& element(std::size_t i) const;
  void copy(const Json& other);
  void clear() noexcept;
  void write(std::string& out, int indent, int depth) const;

  Type type_ = Type::null;
  union {
    bool boolean;
    std::int64_t integer;
    std::uint64_t natural;
    double real;
    std::string* string;
    Array* array;
    Object* object;
  } value_{};
};

/// A name and its value.
struct JsonMember {
  std::string name;
  Json value;

  friend bool operator==(const JsonMember& a, const JsonMember& b) { return a.name == b.name && a.value == b.value; }
};

inline Json::Json(Object value) : type_(Type::object) { value_.object = new Object(std::move(value)); }
inline Json::Json(std::initializer_list<JsonMember> members) : Json(Object(members)) {}

inline Json Json::object() { return Json(Object()); }

inline std::size_t Json::size() const {
  return is_array() ? value_.array->size() : is_object() ? value_.object->size() : 0;
}

inline const Json* Json::find(std::string_view name) const {
  if (is_object())
    for (const JsonMember& member : *value_.object)
      if (member.name == name) return &member.value;
  return nullptr;
}

inline const Json& Json::operator[](std::string_view name) const {
  if (const Json* value = find(name)) return *value;
  expect(Type::object);
  throw FormatError(detail::text("the JSON object has no \"", name.substr(0, 80), "\""));
}

inline const Json& Json::element(std::size_t i) const {
  const Array& all = elements();
  if (i >= all.size())
    throw FormatError(detail::text("the JSON array has ", all.size(), " elements, so there is no number ", i));
  return all[i];
}

inline void Json::wrong(std::string_view wanted) const {
  throw FormatError(detail::text("the JSON value ", dump().substr(0, 80), " should be ", wanted));
}

inline double Json::real() const {
  if (type_ == Type::real) return value_.real;
  if (type_ == Type::integer) return static_cast<double>(value_.integer);
  if (type_ == Type::natural) return static_cast<double>(value_.natural);
  wrong("a number");
}

inline std::int64_t Json::integer(std::int64_t least, std::uint64_t most) const {
  if (type_ == Type::natural && value_.natural <= most) return static_cast<std::int64_t>(value_.natural);
  if (type_ == Type::integer && value_.integer >= least) return value_.integer;
  wrong(detail::text("a whole number from ", least, " to ", most));
}

inline bool operator==(const Json& a, const Json& b) {
  if (a.type_ != b.type_) return a.is_number() && b.is_number() && a.real() == b.real();
  switch (a.type_) {
    case Json::Type::null:
      return true;
    case Json::Type::boolean:
      return a.value_.boolean == b.value_.boolean;
    case Json::Type::integer:
    case Json::Type::natural:
      return a.value_.natural == b.value_.natural;
    case Json::Type::real:
      return a.value_.real == b.value_.real;
    case Json::Type::string:
      return *a.value_.string == *b.value_.string;
    case Json::Type::array:
      return *a.value_.array == *b.value_.array;
    case Json::Type::object:
      return *a.value_.object == *b.value_.object;
  }
  return false;
}

namespace detail {

/// How many bytes of well-formed UTF-8 (RFC 3629) the first character of `s` has; 0 where it is ill-formed.
TRANSFERLIB_API std::size_t utf8_length(std::string_view s);

/// Whether all of `s` is well-formed UTF-8.
TRANSFERLIB_API bool is_utf8(std::string_view s);

/// Adds `s` in quotes, escaped.
TRANSFERLIB_API void append_json(std::string& out, std::string_view s);

}  // namespace detail

namespace detail {

/// The reader. It goes into itself once a level, which `most_depth` bounds.
class JsonParser {
 public:
  JsonParser(std::string_view text, std::string_view where, std::size_t most_depth)
      : text_(text), where_(where), most_depth_(most_depth) {}

  Json parse() {
    Json out = value(0);
    blanks();
    if (at_ != text_.size()) fail("the text should end here");
    return out;
  }

 private:
  /// \param at the byte at fault; where it is a line's end, that line is meant
  [[noreturn]] void fail_at(std::size_t at, std::string_view problem) const;
  [[noreturn]] void fail(std::string_view problem) const {
    fail_at(at_, at_ >= text_.size() ? "the text ends in the middle" : problem);
  }

  /// The byte at hand; 0 at the end, which is no byte of JSON either.
  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  bool take(char c) {
    if (peek() != c || at_ == text_.size()) return false;
    ++at_;
    return true;
  }
  void blanks() {
    while (peek() == ' ' || peek() == '\n' || peek() == '\t' || peek() == '\r') ++at_;
  }

  Json value(std::size_t depth);

  Json word(std::string_view name, Json value) {
    for (const char c : name)
      if (!take(c)) fail(transferlib::detail::text("expected ", name));
    return value;
  }

  void enter(std::size_t depth) {
    if (depth == most_depth_) fail(transferlib::detail::text("values are nested deeper than ", most_depth_));
    ++at_;
    blanks();
  }

  Json array(std::size_t depth);

  Json object(std::size_t depth);

  std::string string();

  void escape(std::string& out);

  unsigned hex();

  bool digits() {
    const std::size_t from = at_;
    while (peek() >= '0' && peek() <= '9') ++at_;
    return at_ != from;
  }

  Json number();

  /// Whether a number that no double holds is too small, not too large.
  bool is_tiny(std::size_t from) const;

  std::string_view text_, where_;
  std::size_t most_depth_, at_ = 0;
};

}  // namespace detail

/// Parses a whole text as one JSON value.
/// \param where the file's name, for the error's sentence
/// \param most_depth how many arrays and objects may lie in one another
/// \throws FormatError with line and column, both from 1, the column in bytes
inline Json parse_json(std::string_view text, std::string_view where, std::size_t most_depth = 64) {
  return detail::JsonParser(text, where, most_depth).parse();
}

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API void Json::copy(const Json& other) {
  if (other.type_ == Type::string)
    value_.string = new std::string(*other.value_.string);
  else if (other.type_ == Type::array)
    value_.array = new Array(*other.value_.array);
  else if (other.type_ == Type::object)
    value_.object = new Object(*other.value_.object);
  else
    value_ = other.value_;
  type_ = other.type_;
}

TRANSFERLIB_API void Json::clear() noexcept {
  if (type_ == Type::string)
    delete value_.string;
  else if (type_ == Type::array)
    delete value_.array;
  else if (type_ == Type::object)
    delete value_.object;
}

TRANSFERLIB_API Json& Json::operator[](std::string_view name) {
  if (is_null()) *this = object();
  Object& all = members();
  for (JsonMember& member : all)
    if (member.name == name) return member.value;
  all.push_back({std::string(name), {}});
  return all.back().value;
}

}  // namespace transferlib

namespace transferlib::detail {

TRANSFERLIB_API std::size_t utf8_length(std::string_view s) {
  const auto byte = [&](std::size_t i) { return i < s.size() ? static_cast<unsigned char>(s[i]) : 0U; };
  const auto follows = [&](std::size_t i) { return (byte(i) & 0xC0U) == 0x80U; };
  const unsigned first = byte(0), second = byte(1);
  if (first < 0x80) return 1;
  if (first >= 0xC2 && first <= 0xDF) return follows(1) ? 2 : 0;
  if (first >= 0xE0 && first <= 0xEF) {
    // Neither longer than need be, nor half of a surrogate pair.
    const bool good =
        follows(1) && follows(2) && !(first == 0xE0 && second < 0xA0) && !(first == 0xED && second > 0x9F);
    return good ? 3 : 0;
  }
  if (first >= 0xF0 && first <= 0xF4) {
    const bool good = follows(1) && follows(2) && follows(3) && !(first == 0xF0 && second < 0x90) &&
                      !(first == 0xF4 && second > 0x8F);
    return good ? 4 : 0;
  }
  return 0;
}

TRANSFERLIB_API bool is_utf8(std::string_view s) {
  while (!s.empty()) {
    const std::size_t length = utf8_length(s);
    if (length == 0) return false;
    s.remove_prefix(length);
  }
  return true;
}

TRANSFERLIB_API void append_json(std::string& out, std::string_view s) {
  out += '"';
  while (!s.empty()) {
    const auto c = static_cast<unsigned char>(s.front());
    const std::size_t length = utf8_length(s);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += s.front();
    } else if (c < 0x20) {
      constexpr std::string_view short_ones = "btn?fr";  // 8 to 13; 11 has none
      if (c >= 8 && c <= 13 && c != 11) {
        out += '\\';
        out += short_ones[c - 8U];
      } else {
        constexpr char digits[] = "0123456789abcdef";
        out += "\\u00";
        out += digits[c >> 4U];
        out += digits[c & 15U];
      }
    } else if (length == 0) {
      out += "\xEF\xBF\xBD";
    } else {
      out += s.substr(0, length);
    }
    s.remove_prefix(std::max<std::size_t>(length, 1));
  }
  out += '"';
}

}  // namespace transferlib::detail

namespace transferlib {

TRANSFERLIB_API void Json::write(std::string& out, int indent, int depth) const {
  const auto line = [&](int level) {
    if (indent < 0) return;
    out += '\n';
    out.append(static_cast<std::size_t>(indent * level), ' ');
  };
  switch (type_) {
    case Type::null:
      out += "null";
      return;
    case Type::boolean:
      out += value_.boolean ? "true" : "false";
      return;
    case Type::integer:
      detail::append_text(out, value_.integer);
      return;
    case Type::natural:
      detail::append_text(out, value_.natural);
      return;
    case Type::real: {
      char buffer[32];
      const auto end = std::to_chars(buffer, buffer + sizeof buffer, value_.real).ptr;
      const std::string_view digits(buffer, static_cast<std::size_t>(end - buffer));
      out += std::isfinite(value_.real) ? digits : "null";
      // So that it is read back as what it is.
      if (std::isfinite(value_.real) && digits.find_first_of(".e") == std::string_view::npos) out += ".0";
      return;
    }
    case Type::string:
      detail::append_json(out, *value_.string);
      return;
    case Type::array:
    case Type::object:
      break;
  }
  const bool object = is_object();
  const std::size_t count = size();
  out += object ? '{' : '[';
  for (std::size_t i = 0; i < count; ++i) {
    if (i != 0) out += ',';
    line(depth + 1);
    if (object) {
      detail::append_json(out, (*value_.object)[i].name);
      out += indent < 0 ? ":" : ": ";
    }
    (object ? (*value_.object)[i].value : (*value_.array)[i]).write(out, indent, depth + 1);
  }
  if (count != 0) line(depth);
  out += object ? '}' : ']';
}

}  // namespace transferlib

namespace transferlib::detail {

TRANSFERLIB_API void JsonParser::fail_at(std::size_t at, std::string_view problem) const {
  const std::string_view before = text_.substr(0, std::min(at, text_.size()));
  const auto lines = std::count(before.begin(), before.end(), '\n') + 1;
  const std::size_t last_break = before.rfind('\n');
  const std::size_t column = before.size() - (last_break == std::string_view::npos ? 0 : last_break + 1) + 1;
  throw FormatError(transferlib::detail::text(where_, ": not valid JSON at line ", lines, ", column ", column, ": ",
                                              problem, "; correct the file or make it again"));
}

TRANSFERLIB_API Json JsonParser::value(std::size_t depth) {
  blanks();
  switch (peek()) {
    case '{':
      return object(depth);
    case '[':
      return array(depth);
    case '"':
      return string();
    case 't':
      return word("true", true);
    case 'f':
      return word("false", false);
    case 'n':
      return word("null", nullptr);
    default:
      return number();
  }
}

TRANSFERLIB_API Json JsonParser::array(std::size_t depth) {
  enter(depth);
  Json::Array out;
  if (take(']')) return out;
  do {
    out.push_back(value(depth + 1));
    blanks();
  } while (take(','));
  if (!take(']')) fail("expected , or ] behind an array's element");
  return out;
}

TRANSFERLIB_API Json JsonParser::object(std::size_t depth) {
  enter(depth);
  Json::Object out;
  std::vector<std::pair<std::string, std::size_t>> names;  // with the place behind them
  if (!take('}')) {
    do {
      blanks();
      if (peek() != '"') fail("expected a key in double quotes");
      std::string name = string();
      names.emplace_back(name, at_ - 1);
      blanks();
      if (!take(':')) fail("expected : behind a key");
      out.push_back({std::move(name), value(depth + 1)});
      blanks();
    } while (take(','));
    if (!take('}')) fail("expected , or } behind an object's member");
  }
  std::sort(names.begin(), names.end());
  for (std::size_t i = 1; i < names.size(); ++i)
    if (names[i].first == names[i - 1].first)
      fail_at(names[i].second,
              transferlib::detail::text("the key \"", names[i].first.substr(0, 80), "\" stands twice in one object"));
  return out;
}

TRANSFERLIB_API std::string JsonParser::string() {
  ++at_;
  std::string out;
  for (;;) {
    const char c = peek();
    if (static_cast<unsigned char>(c) < 0x20) fail("a control character in a string must be escaped");
    if (take('"')) return out;
    if (take('\\')) {
      escape(out);
      continue;
    }
    const std::size_t length = utf8_length(text_.substr(at_, 4));
    if (length == 0) fail("a string has ill-formed UTF-8");
    out += text_.substr(at_, length);
    at_ += length;
  }
}

TRANSFERLIB_API void JsonParser::escape(std::string& out) {
  constexpr std::string_view letters = "\"\\/bfnrt", meanings = "\"\\/\b\f\n\r\t";
  const std::size_t known = letters.find(peek());
  if (at_ < text_.size() && known != std::string_view::npos) {
    ++at_;
    out += meanings[known];
    return;
  }
  if (!take('u')) fail("no escape that JSON knows");
  unsigned point = hex();
  if (point >= 0xDC00 && point <= 0xDFFF) fail("the second half of a surrogate pair without the first");
  if (point >= 0xD800 && point <= 0xDBFF) {
    if (!take('\\') || !take('u')) fail("the first half of a surrogate pair without the second");
    const unsigned low = hex();
    if (low < 0xDC00 || low > 0xDFFF) fail("the first half of a surrogate pair without the second");
    point = 0x10000U + ((point - 0xD800U) << 10U) + (low - 0xDC00U);
  }
  const auto put = [&](unsigned byte) { out += static_cast<char>(byte); };
  if (point < 0x80) {
    put(point);
  } else if (point < 0x800) {
    put(0xC0U | (point >> 6U));
    put(0x80U | (point & 0x3FU));
  } else {
    if (point < 0x10000) {
      put(0xE0U | (point >> 12U));
    } else {
      put(0xF0U | (point >> 18U));
      put(0x80U | ((point >> 12U) & 0x3FU));
    }
    put(0x80U | ((point >> 6U) & 0x3FU));
    put(0x80U | (point & 0x3FU));
  }
}

TRANSFERLIB_API unsigned JsonParser::hex() {
  unsigned out = 0;
  for (int i = 0; i < 4; ++i) {
    const char c = peek();
    const unsigned digit = c >= '0' && c <= '9'   ? static_cast<unsigned>(c - '0')
                           : c >= 'a' && c <= 'f' ? static_cast<unsigned>(c - 'a') + 10U
                           : c >= 'A' && c <= 'F' ? static_cast<unsigned>(c - 'A') + 10U
                                                  : 16U;
    if (digit == 16) fail("expected four hexadecimal digits");
    ++at_;
    out = out * 16 + digit;
  }
  return out;
}

TRANSFERLIB_API Json JsonParser::number() {
  const std::size_t from = at_;
  const bool negative = take('-');
  if (!take('0') && !digits()) {
    if (negative) fail("expected a digit");
    fail("expected a value");
  }
  bool whole = true;
  if (take('.')) {
    whole = false;
    if (!digits()) fail("expected a digit behind the point");
  }
  if (take('e') || take('E')) {
    whole = false;
    if (!take('+')) take('-');
    if (!digits()) fail("expected the digits of an exponent");
  }
  const char* const begin = text_.data() + from;
  const char* const end = text_.data() + at_;
  if (std::int64_t i = 0; whole && negative && std::from_chars(begin, end, i).ec == std::errc() && i != 0) return i;
  if (std::uint64_t u = 0; whole && !negative && std::from_chars(begin, end, u).ec == std::errc()) return u;
  double real = 0.0;
  // A number too small for a double is 0, as everywhere; one too large has no value.
  if (std::from_chars(begin, end, real).ec != std::errc() && !is_tiny(from)) {
    --at_;
    fail("number overflow: its size is beyond a double's");
  }
  return real;
}

TRANSFERLIB_API bool JsonParser::is_tiny(std::size_t from) const {
  const std::string_view s = text_.substr(from, at_ - from);
  const std::size_t e = std::min(s.find_first_of("eE"), s.size()), point = std::min(s.find('.'), e);
  const std::size_t first = std::min(s.find_first_of("123456789"), e);  // of its digits that is not 0
  std::int64_t exponent = 0;
  const std::size_t digits = std::min(s.find_first_not_of("+", e + 1), s.size());
  if (e < s.size() && std::from_chars(s.data() + digits, s.data() + s.size(), exponent).ec != std::errc())
    return s[digits] == '-';
  return exponent + static_cast<std::int64_t>(point) - static_cast<std::int64_t>(first) < 0;
}

}  // namespace transferlib::detail

#endif  // TRANSFERLIB_DEFINES

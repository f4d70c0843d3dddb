/// \file
/// XML 1.0, as much as annotations need: elements, attributes, text, CDATA, comments, processing instructions and a
/// document type without rules of its own. UTF-8. Strict: what is not well-formed is refused with its line.
#pragma once

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/layers.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/formats/json.hpp>

namespace transferlib {

/// An element, and all that is in it.
struct XmlElement {
  std::string name;
  Index line = 0;                                               ///< of its start tag, from 1
  std::vector<std::pair<std::string, std::string>> attributes;  ///< names and values, in the file's order
  std::string text;                                             ///< its own text, without that of its children
  std::vector<XmlElement> children;                             ///< in the file's order

  /// The first child of this name; none where there is no such.
  const XmlElement* find(std::string_view child) const {
    for (const XmlElement& c : children)
      if (c.name == child) return &c;
    return nullptr;
  }
};

namespace detail {

/// Reads a document from its first byte to its last.
class XmlReader {
 public:
  XmlReader(std::string_view text, std::string_view where, std::size_t most_depth)
      : text_(text), where_(where), most_depth_(most_depth) {}

  XmlElement read();

 private:
  static bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }
  static bool begins_name(char c) {
    const auto u = static_cast<unsigned char>(c);
    return (u >= 'a' && u <= 'z') || (u >= 'A' && u <= 'Z') || u == '_' || u == ':' || u >= 0x80;
  }
  static bool is_in_name(char c) { return begins_name(c) || (c >= '0' && c <= '9') || c == '-' || c == '.'; }

  [[noreturn]] void fail(std::string_view problem) const {
    throw FormatError(text(where_, ":", line_of(at_), ": ", problem));
  }
  Index line_of(std::size_t at) const {
    const std::string_view before = text_.substr(0, at);
    return 1 + static_cast<Index>(std::count(before.begin(), before.end(), '\n'));
  }
  bool begins(std::string_view with) const { return text_.substr(at_, with.size()) == with; }
  bool take(std::string_view token) {
    if (!begins(token)) return false;
    at_ += token.size();
    return true;
  }
  void skip_blanks() {
    while (at_ < text_.size() && is_blank(text_[at_])) ++at_;
  }
  /// What stands before `end`, which is passed.
  std::string_view until(std::string_view end, std::string_view what);

  /// All of the text is UTF-8 and has no character that XML forbids.
  void check_characters();

  void declaration();
  void comment() {
    const std::string_view words = until("--", "a comment");
    if (!take(">")) fail(text("a comment has two dashes in it, behind \"", words.substr(0, 40), "\""));
  }
  void instruction() {
    const std::string_view target = name("a processing instruction");
    if (target.size() == 3 && (target[0] | 0x20) == 'x' && (target[1] | 0x20) == 'm' && (target[2] | 0x20) == 'l')
      fail("<?xml can only stand at the very beginning");
    until("?>", "a processing instruction");
  }
  void document_type();

  std::string_view name(std::string_view of) {
    if (at_ >= text_.size() || !begins_name(text_[at_])) fail(text(of, " has no name"));
    const std::size_t begin = at_;
    while (at_ < text_.size() && is_in_name(text_[at_])) ++at_;
    return text_.substr(begin, at_ - begin);
  }

  /// An entity, behind its &.
  void entity(std::string& out);
  static void append_utf8(std::string& out, std::uint32_t point);

  void attributes(XmlElement& to);

  /// An element, from its < on.
  XmlElement element(std::size_t depth);

  std::string_view text_, where_;
  std::size_t most_depth_, at_ = 0, counted_ = 0;
  Index lines_ = 1;  ///< the line of the byte `counted_`
};

}  // namespace detail

/// Reads an XML document and returns its one outermost element. \param where the file's name, for the error's sentence
/// \param most_depth how deep elements may lie in each other
/// \throws FormatError with the line, for what is not well-formed, not UTF-8, or has a document type with rules inside
inline XmlElement parse_xml(std::string_view text, std::string_view where, std::size_t most_depth = 64) {
  return detail::XmlReader(text, where, most_depth).read();
}

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API XmlElement XmlReader::read() {
  if (text_.substr(0, 2) == "\xFF\xFE" || text_.substr(0, 2) == "\xFE\xFF")
    fail("the file is in UTF-16; save it as UTF-8");
  take("\xEF\xBB\xBF");
  check_characters();
  if (begins("<?xml") && at_ + 5 < text_.size() && is_blank(text_[at_ + 5])) declaration();
  bool typed = false;
  for (;; skip_blanks()) {
    if (take("<!--"))
      comment();
    else if (take("<?"))
      instruction();
    else if (begins("<!DOCTYPE") && !std::exchange(typed, true))
      document_type();
    else if (at_ < text_.size() && !is_blank(text_[at_]))
      break;
    else if (at_ == text_.size())
      fail("there is no element in it");
  }
  if (text_[at_] != '<') fail("there is text before the first element");
  XmlElement root = element(1);
  for (skip_blanks(); at_ < text_.size(); skip_blanks())
    if (take("<!--"))
      comment();
    else if (take("<?"))
      instruction();
    else
      fail(text("something follows behind the end of <", root.name, ">, which should be the last"));
  return root;
}

TRANSFERLIB_API std::string_view XmlReader::until(std::string_view end, std::string_view what) {
  const std::size_t found = text_.find(end, at_);
  if (found == text_.npos) fail(text(what, " does not end: there is no ", end));
  const std::string_view out = text_.substr(at_, found - at_);
  at_ = found + end.size();
  return out;
}

TRANSFERLIB_API void XmlReader::check_characters() {
  const std::size_t begin = at_;
  while (at_ < text_.size()) {
    const auto c = static_cast<unsigned char>(text_[at_]);
    if (c < 0x20 && !is_blank(text_[at_])) fail(text("a control character (", c, "), which XML forbids"));
    const std::size_t length = c < 0x80 ? 1 : utf8_length(text_.substr(at_, 4));
    if (length == 0) fail("ill-formed UTF-8; save the file as UTF-8");
    at_ += length;
  }
  at_ = begin;
}

TRANSFERLIB_API void XmlReader::declaration() {
  const std::size_t begin = at_;
  const std::string_view words = until("?>", "the declaration <?xml");
  const std::size_t encoding = words.find("encoding");
  if (encoding == words.npos) return;
  const std::size_t quote = words.find_first_of("'\"", encoding);
  const std::size_t end = quote == words.npos ? quote : words.find(words[quote], quote + 1);
  at_ = begin;
  if (end == words.npos) fail("the declaration's encoding has no value in quotes");
  std::string name(words.substr(quote + 1, end - quote - 1));
  std::transform(name.begin(), name.end(), name.begin(),
                 [](char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c; });
  if (name != "UTF-8" && name != "UTF8" && name != "US-ASCII" && name != "ASCII")
    fail(text("the encoding is ", name.substr(0, 40), "; save the file as UTF-8"));
  until("?>", "the declaration <?xml");
}

TRANSFERLIB_API void XmlReader::document_type() {
  const std::size_t end = text_.find_first_of("[>", at_);
  if (end == text_.npos) fail("the document type <!DOCTYPE does not end: there is no >");
  if (text_[end] == '[')
    fail("the document type has rules of its own (a [ in <!DOCTYPE), which could define entities; take them away");
  at_ = end + 1;
}

TRANSFERLIB_API void XmlReader::entity(std::string& out) {
  const std::size_t end = text_.find(';', at_);
  if (end == text_.npos || end - at_ > 16) fail("an & that begins no entity; write &amp;");
  const std::string_view word = text_.substr(at_, end - at_);
  static constexpr std::pair<std::string_view, char> known[] = {
      {"amp", '&'}, {"lt", '<'}, {"gt", '>'}, {"quot", '"'}, {"apos", '\''}};
  const auto* found = std::find_if(std::begin(known), std::end(known), [&](const auto& k) { return k.first == word; });
  if (found != std::end(known)) {
    out += found->second;
  } else {
    if (word.empty() || word[0] != '#') fail(text("the entity &", word, "; is not known"));
    const bool hex = word.size() > 1 && word[1] == 'x';
    const std::string_view digits = word.substr(hex ? 2 : 1);
    std::uint32_t point = 0;
    const auto [stop, error] = std::from_chars(digits.data(), digits.data() + digits.size(), point, hex ? 16 : 10);
    const bool valid = error == std::errc() && stop == digits.data() + digits.size() && point <= 0x10FFFF &&
                       (point >= 0x20 || point == '\t' || point == '\n' || point == '\r') &&
                       !(point >= 0xD800 && point <= 0xDFFF) && point != 0xFFFE && point != 0xFFFF;
    if (!valid) fail(text("&", word, "; is no character"));
    append_utf8(out, point);
  }
  at_ = end + 1;
}

TRANSFERLIB_API void XmlReader::append_utf8(std::string& out, std::uint32_t point) {
  if (point < 0x80) {
    out += static_cast<char>(point);
    return;
  }
  const int more = point < 0x800 ? 1 : point < 0x10000 ? 2 : 3;
  constexpr unsigned first[] = {0, 0xC0, 0xE0, 0xF0};
  out += static_cast<char>(first[more] | (point >> (6 * more)));
  for (int i = more - 1; i >= 0; --i) out += static_cast<char>(0x80U | ((point >> (6 * i)) & 0x3FU));
}

TRANSFERLIB_API void XmlReader::attributes(XmlElement& to) {
  for (;;) {
    const std::size_t before = at_;
    skip_blanks();
    if (at_ >= text_.size()) fail(text("the tag <", to.name, " does not end: there is no >"));
    if (text_[at_] == '>' || begins("/>")) return;
    if (at_ == before) fail(text("a blank is missing in the tag <", to.name));
    const std::string key(name(text("an attribute of <", to.name, ">")));
    skip_blanks();
    if (!take("=")) fail(text("the attribute ", key, " has no ="));
    skip_blanks();
    if (at_ >= text_.size() || (text_[at_] != '"' && text_[at_] != '\''))
      fail(text("the value of the attribute ", key, " is not in quotes"));
    if (to.attributes.size() == 256) fail(text("<", to.name, "> has more than 256 attributes"));
    for (const auto& other : to.attributes)
      if (other.first == key) fail(text("<", to.name, "> has the attribute ", key, " twice"));
    const char quote = text_[at_++];
    std::string value;
    for (;; ++at_) {
      if (at_ >= text_.size()) fail(text("the value of the attribute ", key, " does not end"));
      while (take("&")) entity(value);
      if (at_ >= text_.size()) continue;
      if (text_[at_] == quote) break;
      if (text_[at_] == '<') fail(text("a < in the value of the attribute ", key, "; write &lt;"));
      value += is_blank(text_[at_]) ? ' ' : text_[at_];
    }
    ++at_;
    to.attributes.emplace_back(key, std::move(value));
  }
}

TRANSFERLIB_API XmlElement XmlReader::element(std::size_t depth) {
  if (depth > most_depth_) fail(text("elements lie more than ", most_depth_, " deep in each other"));
  XmlElement out;
  lines_ += static_cast<Index>(std::count(text_.begin() + static_cast<std::ptrdiff_t>(counted_),
                                          text_.begin() + static_cast<std::ptrdiff_t>(at_), '\n'));
  counted_ = at_;
  out.line = lines_;
  ++at_;
  out.name = name("a tag");
  attributes(out);
  if (take("/>")) return out;
  ++at_;
  for (;;) {
    const std::size_t next = std::min(text_.find_first_of("<&\r]", at_), text_.size());
    out.text += text_.substr(at_, next - at_);
    at_ = next;
    if (at_ == text_.size()) fail(text("<", out.name, "> of line ", out.line, " is not closed"));
    if (take("&")) {
      entity(out.text);
    } else if (take("\r")) {
      // A line ends in \n, whatever the file's lines end in.
      if (!begins("\n")) out.text += '\n';
    } else if (text_[at_] == ']') {
      if (begins("]]>")) fail("]]> in a text; write ]]&gt;");
      out.text += text_[at_++];
    } else if (take("<!--")) {
      comment();
    } else if (take("<![CDATA[")) {
      out.text += until("]]>", "<![CDATA[");
    } else if (take("<?")) {
      instruction();
    } else if (take("</")) {
      const std::string_view closed = name("a closing tag");
      if (closed != out.name)
        fail(text("</", closed.substr(0, 80), "> where <", out.name, "> of line ", out.line, " should be closed"));
      skip_blanks();
      if (!take(">")) fail(text("the tag </", closed, " does not end: there is no >"));
      return out;
    } else {
      out.children.push_back(element(depth + 1));
    }
  }
}

}  // namespace transferlib::detail

#endif  // TRANSFERLIB_DEFINES

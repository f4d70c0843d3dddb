/// \file
/// Text as it is shown: numbers whatever the locale, UTF-8 made valid, its width, shortened with an ellipsis.
#pragma once

#include <charconv>
#include <cstddef>
#include <string>
#include <string_view>

#include <transferlib/core/error.hpp>
#include <transferlib/core/layers.hpp>
#include <transferlib/core/separate.hpp>

namespace transferlib {

/// A count with its thousands apart: "50,000".
inline std::string format_count(Index n) {
  std::string out = detail::text(n);
  for (std::size_t at = out.size(); at > 3 + (n < 0 ? 1U : 0U);) out.insert(at -= 3, 1, ',');
  return out;
}

namespace detail {

/// A number with so many digits after the point, in every locale; no "-0".
TRANSFERLIB_API std::string fixed(double v, int digits);

/// One character of a text: its code point, its bytes; U+FFFD for a byte that is no UTF-8.
struct Character {
  char32_t point = 0;
  std::string_view bytes{};
};

/// The character at `at`, which must lie inside `s`.
TRANSFERLIB_API Character character_at(std::string_view s, std::size_t at);

/// One line of valid UTF-8: control characters become spaces, bytes that are no UTF-8 become U+FFFD.
TRANSFERLIB_API std::string one_line(std::string_view s);

/// How many columns of a terminal a character takes: none for combining ones, two for East Asian ones and emoji. The
/// ranges are those of Unicode's EastAsianWidth.txt, joined to whole blocks.
TRANSFERLIB_API int columns_of(char32_t c);

/// A character's width in a sans-serif font, in parts of the font's size. On the wide side (as DejaVu Sans), so that
/// what is laid out by it fits in narrower fonts too.
TRANSFERLIB_API double em_width(char32_t c);

/// A text's columns on a terminal.
TRANSFERLIB_API int columns_of(std::string_view s);

/// A text's width in a sans-serif font, in parts of the font's size.
TRANSFERLIB_API double em_width(std::string_view s);

/// `s` if it is at most `most` wide, else its beginning and `ellipsis`; `width` tells the width of a character.
template <class Width>
std::string shortened(std::string_view s, double most, std::string_view ellipsis, Width&& width) {
  double dots = 0.0;
  for (std::size_t at = 0; at < ellipsis.size();) {
    const Character c = character_at(ellipsis, at);
    at += c.bytes.size();
    dots += width(c.point);
  }
  double sum = 0.0;
  std::size_t cut = 0;
  for (std::size_t at = 0; at < s.size();) {
    const Character c = character_at(s, at);
    sum += width(c.point);
    if (sum > most + 1e-9) {
      while (cut > 0 && s[cut - 1] == ' ') --cut;
      return std::string(s.substr(0, cut)) + std::string(ellipsis);
    }
    at += c.bytes.size();
    if (sum + dots <= most + 1e-9) cut = at;
  }
  return std::string(s);
}

}  // namespace detail
}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API std::string fixed(double v, int digits) {
  char out[512];  // the largest double has 309 digits before the point
  const auto end = std::to_chars(out, out + sizeof out, v, std::chars_format::fixed, digits).ptr;
  std::string_view s(out, static_cast<std::size_t>(end - out));
  if (s.front() == '-' && s.find_first_not_of("-0.") == std::string_view::npos) s.remove_prefix(1);
  return std::string(s);
}

TRANSFERLIB_API Character character_at(std::string_view s, std::size_t at) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(s[i]); };
  const unsigned char first = byte(at);
  if (first < 0x80) return {first, s.substr(at, 1)};
  const std::size_t length = first >= 0xC2 && first < 0xE0 ? 2 : first >= 0xE0 && first < 0xF0 ? 3 : 4;
  const Character bad{0xFFFD, s.substr(at, 1)};
  if (first < 0xC2 || first > 0xF4 || length > s.size() - at) return bad;
  char32_t point = first & (0xFFU >> (length + 1));
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(at + i) & 0xC0U) != 0x80U) return bad;
    point = (point << 6) | (byte(at + i) & 0x3FU);
  }
  const bool overlong = (length == 3 && point < 0x800) || (length == 4 && point < 0x10000);
  if (overlong || point > 0x10FFFF || (point >= 0xD800 && point < 0xE000)) return bad;
  return {point, s.substr(at, length)};
}

TRANSFERLIB_API std::string one_line(std::string_view s) {
  std::string out;
  for (std::size_t at = 0; at < s.size();) {
    const Character c = character_at(s, at);
    at += c.bytes.size();
    if (c.point < 32 || (c.point >= 0x7F && c.point < 0xA0))
      out += ' ';
    else if (c.point == 0xFFFD || c.point == 0xFFFE || c.point == 0xFFFF)
      out += "\xEF\xBF\xBD";
    else
      out += c.bytes;
  }
  return out;
}

TRANSFERLIB_API int columns_of(char32_t c) {
  if ((c >= 0x300 && c < 0x370) || (c >= 0x1AB0 && c < 0x1B00) || (c >= 0x200B && c < 0x2010) ||
      (c >= 0x20D0 && c < 0x2100) || (c >= 0xFE00 && c < 0xFE10) || c == 0xFEFF)
    return 0;
  const bool wide = (c >= 0x1100 && c < 0x1160) || (c >= 0x2E80 && c < 0xA4D0) || (c >= 0xA960 && c < 0xA980) ||
                    (c >= 0xAC00 && c < 0xD7A4) || (c >= 0xF900 && c < 0xFB00) || (c >= 0xFE30 && c < 0xFE70) ||
                    (c >= 0xFF00 && c < 0xFF61) || (c >= 0xFFE0 && c < 0xFFE7) || (c >= 0x1F300 && c < 0x1F650) ||
                    (c >= 0x1F680 && c < 0x1F700) || (c >= 0x1F900 && c < 0x1FA00) || (c >= 0x20000 && c < 0x3FFFE);
  return wide ? 2 : 1;
}

TRANSFERLIB_API double em_width(char32_t c) {
  if (c >= 0x80) return columns_of(c) == 2 ? 1.0 : columns_of(c) == 0 ? 0.0 : 0.66;
  const char a = static_cast<char>(c);
  if (std::string_view("ijlI.,:;'|! ").find(a) != std::string_view::npos) return 0.35;
  if (std::string_view("frt()[]-/\"").find(a) != std::string_view::npos) return 0.42;
  if (std::string_view("mwMW@%").find(a) != std::string_view::npos) return 0.97;
  return a >= 'A' && a <= 'Z' ? 0.71 : 0.635;
}

TRANSFERLIB_API int columns_of(std::string_view s) {
  int out = 0;
  for (std::size_t at = 0; at < s.size();) {
    const Character c = character_at(s, at);
    at += c.bytes.size();
    out += columns_of(c.point);
  }
  return out;
}

TRANSFERLIB_API double em_width(std::string_view s) {
  double out = 0.0;
  for (std::size_t at = 0; at < s.size();) {
    const Character c = character_at(s, at);
    at += c.bytes.size();
    out += em_width(c.point);
  }
  return out;
}

}  // namespace transferlib::detail

#endif  // TRANSFERLIB_DEFINES

/// \file
/// Boxes and their names painted into pictures. Free of LibTorch.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <transferlib/core/layers.hpp>

namespace tools {

/// A picture of three channels that is painted on.
struct Canvas {
  transferlib::Index width = 0, height = 0;
  std::vector<std::uint8_t> pixels;  ///< height * width * 3

  using Colour = std::array<std::uint8_t, 3>;
  using Index = transferlib::Index;

  /// Fills what lies inside of the picture.
  void fill(Index left, Index top, Index right, Index bottom, const Colour& colour) {
    for (Index y = std::max<Index>(0, top); y < std::min(height, bottom); ++y)
      for (Index x = std::max<Index>(0, left); x < std::min(width, right); ++x)
        std::copy(colour.begin(), colour.end(), pixels.begin() + 3 * (y * width + x));
  }

  /// An empty box, its line inside.
  void box(Index left, Index top, Index right, Index bottom, Index line, const Colour& colour) {
    fill(left, top, right, top + line, colour);
    fill(left, bottom - line, right, bottom, colour);
    fill(left, top, left + line, bottom, colour);
    fill(right - line, top, right, bottom, colour);
  }

  /// Words in capitals; a letter is 5 x 7 squares of `scale` pixels, 6 apart. What has no letter here is a question
  /// mark.
  void words(std::string_view text, Index left, Index top, Index scale, const Colour& colour) {
    for (const char c : text) {
      if (c != ' ') {
        const auto& rows = letter(c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c);
        for (Index y = 0; y < 7; ++y)
          for (Index x = 0; x < 5; ++x)
            if ((rows[static_cast<std::size_t>(y)] >> (4 - x) & 1) != 0)
              fill(left + x * scale, top + y * scale, left + (x + 1) * scale, top + (y + 1) * scale, colour);
      }
      left += 6 * scale;
    }
  }

  /// A colour for each class, far from its neighbours'.
  static Colour colour_of(Index label) {
    constexpr Colour colours[] = {{230, 57, 70}, {29, 131, 212}, {42, 157, 80},  {244, 140, 6}, {131, 56, 236},
                                  {0, 168, 150}, {208, 0, 111},  {120, 94, 240}, {138, 113, 0}, {88, 88, 88}};
    return colours[label % 10];
  }

  /// A box with its name above it, or inside where there is no room.
  void named_box(double x1, double y1, double x2, double y2, std::string_view name, Index label) {
    const Index line = std::max<Index>(2, std::min(width, height) / 250), scale = std::max<Index>(1, line / 2 + 1);
    const auto whole = [](double x) { return static_cast<Index>(std::clamp(x, -1e6, 1e6) + 0.5); };
    const Index left = whole(x1), top = whole(y1), tall = 9 * scale;
    const Colour colour = colour_of(label);
    box(left, top, whole(x2), whole(y2), line, colour);
    const Index wide = static_cast<Index>(name.size()) * 6 * scale + scale, above = top >= tall ? top - tall : top;
    fill(left, above, left + wide, above + tall, colour);
    words(name, left + scale, above + scale, scale, {255, 255, 255});
  }

 private:
  struct Letter {
    char name;
    std::array<std::uint8_t, 7> rows;  // of five bits, the leftmost the highest
  };
  static const std::array<std::uint8_t, 7>& letter(char name) {
    static constexpr Letter letters[] = {
        {'A', {14, 17, 17, 31, 17, 17, 17}}, {'B', {30, 17, 17, 30, 17, 17, 30}}, {'C', {14, 17, 16, 16, 16, 17, 14}},
        {'D', {30, 17, 17, 17, 17, 17, 30}}, {'E', {31, 16, 16, 30, 16, 16, 31}}, {'F', {31, 16, 16, 30, 16, 16, 16}},
        {'G', {14, 17, 16, 23, 17, 17, 14}}, {'H', {17, 17, 17, 31, 17, 17, 17}}, {'I', {14, 4, 4, 4, 4, 4, 14}},
        {'J', {3, 1, 1, 1, 1, 17, 14}},      {'K', {17, 18, 20, 24, 20, 18, 17}}, {'L', {16, 16, 16, 16, 16, 16, 31}},
        {'M', {17, 27, 21, 21, 17, 17, 17}}, {'N', {17, 25, 25, 21, 19, 19, 17}}, {'O', {14, 17, 17, 17, 17, 17, 14}},
        {'P', {30, 17, 17, 30, 16, 16, 16}}, {'Q', {14, 17, 17, 17, 21, 18, 13}}, {'R', {30, 17, 17, 30, 20, 18, 17}},
        {'S', {15, 16, 16, 14, 1, 1, 30}},   {'T', {31, 4, 4, 4, 4, 4, 4}},       {'U', {17, 17, 17, 17, 17, 17, 14}},
        {'V', {17, 17, 17, 17, 10, 10, 4}},  {'W', {17, 17, 17, 21, 21, 27, 17}}, {'X', {17, 17, 10, 4, 10, 17, 17}},
        {'Y', {17, 17, 10, 4, 4, 4, 4}},     {'Z', {31, 1, 2, 4, 8, 16, 31}},     {'0', {14, 19, 19, 21, 25, 25, 14}},
        {'1', {4, 12, 4, 4, 4, 4, 14}},      {'2', {14, 17, 1, 6, 8, 16, 31}},    {'3', {30, 1, 1, 14, 1, 1, 30}},
        {'4', {2, 6, 10, 18, 31, 2, 2}},     {'5', {31, 16, 30, 1, 1, 17, 14}},   {'6', {6, 8, 16, 30, 17, 17, 14}},
        {'7', {31, 1, 2, 2, 4, 4, 4}},       {'8', {14, 17, 17, 14, 17, 17, 14}}, {'9', {14, 17, 17, 15, 1, 2, 12}},
        {'.', {0, 0, 0, 0, 0, 12, 12}},      {'-', {0, 0, 0, 31, 0, 0, 0}},       {'_', {0, 0, 0, 0, 0, 0, 31}},
        {'%', {25, 25, 2, 4, 8, 19, 19}},    {'/', {1, 1, 2, 4, 8, 16, 16}},      {':', {0, 12, 12, 0, 12, 12, 0}},
        {',', {0, 0, 0, 0, 12, 4, 8}},       {'+', {0, 4, 4, 31, 4, 4, 0}},       {'(', {2, 4, 8, 8, 8, 4, 2}},
        {')', {8, 4, 2, 2, 2, 4, 8}},        {'\'', {4, 4, 0, 0, 0, 0, 0}},       {'?', {14, 17, 1, 2, 4, 0, 4}},
    };
    for (const Letter& l : letters)
      if (l.name == name) return l.rows;
    return std::end(letters)[-1].rows;
  }
};

}  // namespace tools

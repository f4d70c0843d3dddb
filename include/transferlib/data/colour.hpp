/// \file
/// Brightness, contrast, saturation and hue of one picture, by torchvision's formulas (`transforms.v2.functional`).
/// Free of LibTorch.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include <transferlib/core/layers.hpp>

namespace transferlib::detail {

/// A picture's planes: 1 (grey) or 3, each of `size` values; uint8 in 0 … 255 or float in [0, 1].
template <class Value>
struct Planes {
  Value* data;
  Index channels, size;
  Value* plane(Index c) const { return data + c * size; }
};

/// Clamps to the range of the type; to uint8 the fraction is cut off, as LibTorch's conversion does.
template <class Value>
Value clamped(float x) {
  if constexpr (std::is_same_v<Value, std::uint8_t>)
    return static_cast<std::uint8_t>(std::min(std::max(x, 0.0F), 255.0F));
  else
    return std::min(std::max(x, 0.0F), 1.0F);
}

/// The grey of a pixel; of uint8 without its fraction.
template <class Value>
float luma(Value r, Value g, Value b) {
  const float grey = 0.2989F * static_cast<float>(r) + 0.587F * static_cast<float>(g) + 0.114F * static_cast<float>(b);
  if constexpr (std::is_same_v<Value, std::uint8_t>)
    return std::floor(grey);
  else
    return grey;
}

/// `factor` 0: black, 1: unchanged.
template <class Value>
void adjust_brightness(const Planes<Value>& p, double factor) {
  const auto f = static_cast<float>(factor);
  for (Index i = 0; i < p.size * p.channels; ++i) p.data[i] = clamped<Value>(static_cast<float>(p.data[i]) * f);
}

/// `factor` 0: the picture's mean grey, 1: unchanged.
template <class Value>
void adjust_contrast(const Planes<Value>& p, double factor) {
  double sum = 0.0;
  if (p.channels == 3)
    for (Index i = 0; i < p.size; ++i) sum += static_cast<double>(luma(p.plane(0)[i], p.plane(1)[i], p.plane(2)[i]));
  else
    for (Index i = 0; i < p.size; ++i) sum += static_cast<double>(p.data[i]);
  const auto f = static_cast<float>(factor);
  const float rest = static_cast<float>(1.0 - factor) * static_cast<float>(sum / static_cast<double>(p.size));
  for (Index i = 0; i < p.size * p.channels; ++i) p.data[i] = clamped<Value>(static_cast<float>(p.data[i]) * f + rest);
}

/// `factor` 0: grey, 1: unchanged. Nothing on a grey picture.
template <class Value>
void adjust_saturation(const Planes<Value>& p, double factor) {
  if (p.channels != 3) return;
  const auto f = static_cast<float>(factor), rest = static_cast<float>(1.0 - factor);
  for (Index i = 0; i < p.size; ++i) {
    const float grey = rest * luma(p.plane(0)[i], p.plane(1)[i], p.plane(2)[i]);
    for (Index c = 0; c < 3; ++c) p.plane(c)[i] = clamped<Value>(static_cast<float>(p.plane(c)[i]) * f + grey);
  }
}

/// Turns the hue by `turns` (-0.5 … 0.5) of the circle. Nothing on a grey picture.
template <class Value>
void adjust_hue(const Planes<Value>& p, double turns) {
  if (p.channels != 3) return;
  constexpr bool bytes = std::is_same_v<Value, std::uint8_t>;
  const auto turn = static_cast<float>(turns);
  for (Index i = 0; i < p.size; ++i) {
    std::array<float, 3> c{};
    for (Index k = 0; k < 3; ++k)
      c[static_cast<std::size_t>(k)] = static_cast<float>(p.plane(k)[i]) * (bytes ? 1.0F / 255.0F : 1.0F);
    const auto [r, g, b] = c;
    const float most = std::max({r, g, b}), least = std::min({r, g, b}), range = most - least;
    float hue = 0.0F, saturation = 0.0F;
    if (range > 0.0F) {
      saturation = range / most;
      const float rc = (most - r) / range, gc = (most - g) / range, bc = (most - b) / range;
      hue = most == r ? bc - gc : most == g ? rc + 2.0F - bc : gc + 4.0F - rc;
      hue = std::fmod(hue * (1.0F / 6.0F) + 1.0F, 1.0F);
    }
    hue += turn;
    hue -= std::floor(hue);
    const float sixth = hue * 6.0F, whole = std::floor(sixth), part = sixth - whole;
    const auto unit = [](float x) { return std::min(std::max(x, 0.0F), 1.0F); };
    const float q = unit((1.0F - saturation * part) * most);
    const float t = unit((1.0F - saturation + saturation * part) * most);
    const float low = unit((1.0F - saturation) * most);
    switch (static_cast<int>(whole) % 6) {
      case 0:
        c = {most, t, low};
        break;
      case 1:
        c = {q, most, low};
        break;
      case 2:
        c = {low, most, t};
        break;
      case 3:
        c = {low, q, most};
        break;
      case 4:
        c = {t, low, most};
        break;
      default:
        c = {most, low, q};
    }
    for (Index k = 0; k < 3; ++k) {
      const float x = c[static_cast<std::size_t>(k)];
      // 256 less a thousandth, so that 1 becomes 255 and each byte has an equal part of [0, 1].
      p.plane(k)[i] = bytes ? static_cast<Value>(x * (255.0F + 1.0F - 1e-3F)) : static_cast<Value>(x);
    }
  }
}

}  // namespace transferlib::detail

/// \file
/// Writes PNG (ISO/IEC 15948) by zlib alone: for pictures in reports, where libpng need not be.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>
#include <string_view>

#include <zlib.h>

#include <transferlib/core/error.hpp>
#include <transferlib/core/layers.hpp>
#include <transferlib/core/separate.hpp>

namespace transferlib {

/// The bytes of a PNG file. \param pixels 8 bits a channel, row by row from the top, height x width x channels;
/// \param channels 1 for grey, 3 for red, green, blue, 4 with alpha behind them
/// \throws OptionError if there are not so many pixels, or no picture has such sides or channels
TRANSFERLIB_API std::string encode_png(std::span<const std::uint8_t> pixels, Index width, Index height, Index channels);

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API std::string encode_png(std::span<const std::uint8_t> pixels, Index width, Index height,
                                       Index channels) {
  constexpr Index most = Index{1} << 14;  // a chunk of the file then holds them all
  if (width < 1 || height < 1 || width > most || height > most || (channels != 1 && channels != 3 && channels != 4))
    throw OptionError(detail::text("a picture of ", width, " x ", height, " pixels and ", channels,
                                   " channels can't be a PNG; the sides go from 1 to ", most,
                                   ", the channels are 1, 3 or 4"));
  const auto row = static_cast<std::size_t>(width * channels), rows = static_cast<std::size_t>(height),
             step = static_cast<std::size_t>(channels);
  if (pixels.size() != row * rows)
    throw OptionError(detail::text("a picture of ", width, " x ", height, " pixels and ", channels, " channels has ",
                                   row * rows, " bytes, not ", pixels.size()));
  // Each row as differences to Paeth's guess from the left, above, and left above (filter 4), which suits photographs.
  std::string filtered;
  filtered.reserve((row + 1) * rows);
  for (std::size_t y = 0; y < rows; ++y) {
    filtered += '\4';
    const std::uint8_t* p = pixels.data() + y * row;
    for (std::size_t x = 0; x < row; ++x) {
      const int a = x < step ? 0 : p[x - step], b = y == 0 ? 0 : *(p + x - row),
                c = x < step || y == 0 ? 0 : *(p + x - row - step);
      const int to_a = std::abs(b - c), to_b = std::abs(a - c), to_c = std::abs(a + b - 2 * c);
      const int guess = to_a <= to_b && to_a <= to_c ? a : to_b <= to_c ? b : c;
      filtered += static_cast<char>(static_cast<unsigned char>(p[x] - guess));
    }
  }
  std::string packed(::compressBound(static_cast<uLong>(filtered.size())), '\0');
  uLongf size = static_cast<uLongf>(packed.size());
  if (::compress2(reinterpret_cast<Bytef*>(packed.data()), &size, reinterpret_cast<const Bytef*>(filtered.data()),
                  static_cast<uLong>(filtered.size()), 6) != Z_OK)
    throw Error(detail::text("zlib can't pack a picture of ", filtered.size(), " bytes; is memory short?"));
  packed.resize(size);

  const auto number = [](std::uint64_t n) {
    std::string out;
    for (int shift = 24; shift >= 0; shift -= 8) out += static_cast<char>((n >> shift) & 0xFFU);
    return out;
  };
  const auto chunk = [&](std::string_view kind, std::string_view bytes) {
    const std::string body = detail::text(kind, bytes);
    const auto crc = ::crc32(0, reinterpret_cast<const Bytef*>(body.data()), static_cast<uInt>(body.size()));
    return number(bytes.size()) + body + number(crc);
  };
  std::string header = number(static_cast<std::uint64_t>(width)) + number(static_cast<std::uint64_t>(height));
  header += '\10';  // bits
  header += channels == 1 ? '\0' : channels == 3 ? '\2' : '\6';
  header.append(3, '\0');  // deflate, filters by row, not interlaced
  return "\x89PNG\r\n\x1a\n" + chunk("IHDR", header) + chunk("IDAT", packed) + chunk("IEND", {});
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

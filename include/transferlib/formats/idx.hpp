/// \file
/// IDX, the format of MNIST and its kin, packed by gzip or not: two zero bytes, a type, the number of dimensions, the
/// sides and the numbers, big-endian. Described on MNIST's page (LeCun, Cortes, Burges).
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/formats/gzip.hpp>
#include <transferlib/formats/tensor_view.hpp>

namespace transferlib {

/// An array of an IDX file. `bytes` are its numbers in the order of rows, in the machine's byte order.
struct IdxArray {
  DType dtype = DType::u8;
  std::vector<std::int64_t> shape;
  std::vector<std::byte> bytes;
};

/// Reads an IDX file's bytes, as they are or packed by gzip.
/// \param where the file's name, for the error's sentence
/// \throws FormatError: not IDX, cut, or longer than it says
TRANSFERLIB_API IdxArray parse_idx(std::span<const std::byte> bytes, std::string_view where);

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API IdxArray parse_idx(std::span<const std::byte> bytes, std::string_view where) {
  using detail::text;
  const bool packed = is_gzip(bytes);
  GzipReader reader(packed ? bytes : std::span<const std::byte>(), where);
  const std::string file = text(where, packed ? " (unpacked)" : "");
  std::size_t at = 0;
  const auto read = [&](std::span<std::byte> out) {
    const std::size_t n = packed ? reader.read(out) : std::min(out.size(), bytes.size() - at);
    if (!packed && n != 0) std::memcpy(out.data(), bytes.data() + at, n);
    at += n;
    return n;
  };

  std::array<std::byte, 4> head{};
  const std::size_t got = read(head);
  struct Type {
    unsigned code;
    DType dtype;
  };
  constexpr Type types[] = {{0x08, DType::u8},  {0x09, DType::i8},  {0x0B, DType::i16},
                            {0x0C, DType::i32}, {0x0D, DType::f32}, {0x0E, DType::f64}};
  const auto code = static_cast<unsigned>(head[2]), dimensions = static_cast<unsigned>(head[3]);
  const auto* type = std::find_if(std::begin(types), std::end(types), [&](const Type& t) { return t.code == code; });
  if (got < 4 || head[0] != std::byte{0} || head[1] != std::byte{0} || type == std::end(types) || dimensions == 0 ||
      dimensions > 8)
    throw FormatError(text(file, ": begins with the bytes ", static_cast<unsigned>(head[0]), " ",
                           static_cast<unsigned>(head[1]), " ", code, " ", dimensions,
                           ", and an IDX file with 0 0, a type (8 for pictures and labels) and 1 to 8 dimensions; "
                           "download it again from the data set's page"));
  IdxArray out;
  out.dtype = type->dtype;
  for (unsigned d = 0; d < dimensions; ++d) {
    std::array<std::byte, 4> side{};
    if (read(side) < 4)
      throw FormatError(text(file, ": ends at byte ", at, " in its header of ", 4 + 4 * dimensions,
                             " bytes; the file is cut, copy it again"));
    std::int64_t n = 0;
    for (const std::byte b : side) n = (n << 8) | static_cast<std::int64_t>(b);
    out.shape.push_back(n);
  }
  const std::int64_t size = detail::multiply(detail::count_of(out.shape), size_of(out.dtype));
  if (size < 0) throw FormatError(text(file, ": its header promises more than 2^63 bytes; the file is damaged"));
  const auto wanted = static_cast<std::uint64_t>(size);
  // Grows with what has come: a header may promise what is not there.
  std::size_t filled = 0;
  while (filled < wanted) {
    const std::uint64_t step = std::max<std::uint64_t>(packed ? bytes.size() : bytes.size() - at, 2 * filled);
    out.bytes.resize(static_cast<std::size_t>(std::min(wanted, step)));
    const std::size_t before = filled;
    filled += read(std::span(out.bytes).subspan(filled));
    if (filled < out.bytes.size() || filled == before)
      throw FormatError(text(file, ": its header promises ", wanted, " bytes of numbers, and ", filled,
                             " are there; the file is cut, copy it again"));
  }
  std::byte more{};
  if (read(std::span(&more, 1)) != 0)
    throw FormatError(text(file, ": goes on at byte ", at - 1, ", behind the ", wanted,
                           " bytes of numbers that its header promises; the file is damaged, copy it again"));
  const auto width = static_cast<std::ptrdiff_t>(size_of(out.dtype));
  if (width > 1)
    for (auto i = out.bytes.begin(); i != out.bytes.end(); i += width) std::reverse(i, i + width);
  return out;
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

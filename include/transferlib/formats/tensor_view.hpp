/// \file
/// A checkpoint's tensors as its bytes describe them: checked views, no LibTorch.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/separate.hpp>

namespace transferlib {

static_assert(std::endian::native == std::endian::little, "the files' numbers are little-endian, and are not swapped");

/// The types of numbers that PyTorch and safetensors know.
enum class DType {
  f64,
  f32,
  f16,
  bf16,
  i64,
  i32,
  i16,
  i8,
  u64,
  u32,
  u16,
  u8,
  boolean,
  c64,   ///< two f32
  c128,  ///< two f64
  f8_e4m3,
  f8_e5m2,
  f8_e4m3fnuz,
  f8_e5m2fnuz,
  f8_e8m0
};

namespace detail {

struct DTypeRow {
  DType type;
  std::int64_t bytes;
  std::string_view safetensors, torch, storage;
};

/// What each type is called: by safetensors, by PyTorch (`torch.float32`), and by the class of its typed storage. Empty
/// where there is none.
inline constexpr DTypeRow dtype_table[] = {
    {DType::f64, 8, "F64", "float64", "DoubleStorage"},
    {DType::f32, 4, "F32", "float32", "FloatStorage"},
    {DType::f16, 2, "F16", "float16", "HalfStorage"},
    {DType::bf16, 2, "BF16", "bfloat16", "BFloat16Storage"},
    {DType::i64, 8, "I64", "int64", "LongStorage"},
    {DType::i32, 4, "I32", "int32", "IntStorage"},
    {DType::i16, 2, "I16", "int16", "ShortStorage"},
    {DType::i8, 1, "I8", "int8", "CharStorage"},
    {DType::u64, 8, "U64", "uint64", ""},
    {DType::u32, 4, "U32", "uint32", ""},
    {DType::u16, 2, "U16", "uint16", ""},
    {DType::u8, 1, "U8", "uint8", "ByteStorage"},
    {DType::boolean, 1, "BOOL", "bool", "BoolStorage"},
    {DType::c64, 8, "C64", "complex64", "ComplexFloatStorage"},
    {DType::c128, 16, "", "complex128", "ComplexDoubleStorage"},
    {DType::f8_e4m3, 1, "F8_E4M3", "float8_e4m3fn", ""},
    {DType::f8_e5m2, 1, "F8_E5M2", "float8_e5m2", ""},
    {DType::f8_e4m3fnuz, 1, "F8_E4M3FNUZ", "float8_e4m3fnuz", ""},
    {DType::f8_e5m2fnuz, 1, "F8_E5M2FNUZ", "float8_e5m2fnuz", ""},
    {DType::f8_e8m0, 1, "F8_E8M0", "float8_e8m0fnu", ""},
};

inline const DTypeRow& dtype_row(DType type) { return dtype_table[static_cast<std::size_t>(type)]; }

/// a * b for numbers that are not negative, or -1 where that is too large (or one of them already was).
inline std::int64_t multiply(std::int64_t a, std::int64_t b) {
  std::int64_t out = 0;
  return a < 0 || b < 0 || __builtin_mul_overflow(a, b, &out) ? -1 : out;
}

/// A name out of a file for an error's sentence: in quotes, on one line, not longer than 120 bytes.
TRANSFERLIB_API std::string in_quotes(std::string_view name);

}  // namespace detail

/// The type's name as PyTorch writes it: "float32".
inline std::string_view to_string(DType type) { return detail::dtype_row(type).torch; }
/// Bytes of one number.
inline std::int64_t size_of(DType type) { return detail::dtype_row(type).bytes; }

/// A tensor in a checkpoint's bytes. The bytes need not be aligned for their type, and there may be gaps between the
/// numbers: copy them (`memcpy`, `copy_contiguous`) before they are read as numbers.
struct TensorView {
  std::string name;
  DType dtype = DType::f32;
  std::vector<std::int64_t> shape;
  std::vector<std::int64_t> strides;   ///< in numbers, never negative; 0 where a side is expanded
  std::span<const std::byte> storage;  ///< all bytes of the storage that the tensor lies in
  std::int64_t storage_offset = 0;     ///< in numbers, of the first element
  std::size_t storage_id = 0;          ///< equal for tensors that share a storage

  /// How many numbers the tensor has.
  std::int64_t numel() const {
    std::int64_t n = 1;
    for (std::int64_t side : shape) n *= side;
    return n;
  }
  /// Whether the elements follow one another without gaps in the order of rows.
  bool is_contiguous() const;
};

/// All tensors of a file, in its order.
struct Checkpoint {
  std::vector<TensorView> tensors;
  std::map<std::string, std::string> metadata;  ///< of safetensors; empty for other formats
  std::vector<std::string> skipped;             ///< entries of a `.pth` that were not taken: "epoch", "optimizer"
  std::string entry;                            ///< the entry of a `.pth` that the tensors lie in: "state_dict"
  std::string format;                           ///< "safetensors", "pth", "legacy pth"
  std::shared_ptr<const void> owner;            ///< keeps the bytes alive

  /// The tensor of this name; nullptr if there is none.
  const TensorView* find(std::string_view name) const {
    for (const TensorView& t : tensors)
      if (t.name == name) return &t;
    return nullptr;
  }
};

namespace detail {

/// How many numbers a shape has, or -1 where that (or, with a side of 0, the rest of it) can't be counted.
TRANSFERLIB_API std::int64_t count_of(const std::vector<std::int64_t>& shape);

/// Strides of a tensor without gaps; `count_of(shape)` must not be -1.
inline std::vector<std::int64_t> contiguous_strides(const std::vector<std::int64_t>& shape) {
  std::vector<std::int64_t> out(shape.size(), 1);
  for (std::size_t d = shape.size(); d-- > 1;) out[d - 1] = out[d] * std::max<std::int64_t>(shape[d], 1);
  return out;
}

/// Checks that a view lies inside its storage. \param where file and tensor, for the sentence
TRANSFERLIB_API void check_view(const TensorView& t, std::string_view where);

/// Calls `take` with the tensor's bytes in the order of rows, run by run. The view must have been checked.
template <class Take>
void for_contiguous(const TensorView& t, Take&& take) {
  const std::int64_t numbers = t.numel(), width = size_of(t.dtype);
  if (numbers == 0) return;
  const std::byte* base = t.storage.data() + t.storage_offset * width;
  // The last dimensions that lie without gaps are one run.
  std::int64_t run = 1;
  std::size_t outer = t.shape.size();
  while (outer > 0 && (t.shape[outer - 1] == 1 || t.strides[outer - 1] == run)) run *= t.shape[--outer];
  if (outer == 0) {
    take(std::span(base, static_cast<std::size_t>(numbers * width)));
    return;
  }
  constexpr std::size_t piece = std::size_t{1} << 20;
  std::vector<std::byte> buffer;
  buffer.reserve(std::min(piece, static_cast<std::size_t>(numbers * width)));
  std::vector<std::int64_t> index(outer, 0);
  for (std::int64_t n = 0; n < numbers; n += run) {
    std::int64_t at = 0;
    for (std::size_t d = 0; d < outer; ++d) at += index[d] * t.strides[d];
    for (std::span rest(base + at * width, static_cast<std::size_t>(run * width)); !rest.empty();) {
      const std::size_t some = std::min(rest.size(), piece - buffer.size());
      buffer.insert(buffer.end(), rest.begin(), rest.begin() + static_cast<std::ptrdiff_t>(some));
      rest = rest.subspan(some);
      if (buffer.size() == piece) {
        take(std::span<const std::byte>(buffer));
        buffer.clear();
      }
    }
    for (std::size_t d = outer; d-- > 0;) {
      if (++index[d] < t.shape[d]) break;
      index[d] = 0;
    }
  }
  if (!buffer.empty()) take(std::span<const std::byte>(buffer));
}

}  // namespace detail

/// Copies a tensor's numbers in the order of rows, without gaps.
/// \param to exactly `t.numel() * size_of(t.dtype)` bytes
/// \throws OptionError if `to` has another size; FormatError if the view reaches out of its storage
TRANSFERLIB_API void copy_contiguous(const TensorView& t, std::span<std::byte> to);

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API std::string in_quotes(std::string_view name) {
  std::string out = "\"";
  for (const char c : name.substr(0, 120)) out += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
  // A cut inside a character of several bytes would leave a broken one.
  if (name.size() > 120) {
    while (out.size() > 1 && (static_cast<unsigned char>(out.back()) & 0xc0) == 0x80) out.pop_back();
    if (static_cast<unsigned char>(out.back()) >= 0xc0) out.pop_back();
    out += "…";
  }
  return out + '"';
}

}  // namespace transferlib::detail

namespace transferlib {

TRANSFERLIB_API bool TensorView::is_contiguous() const {
  if (numel() == 0) return true;
  std::int64_t expected = 1;
  for (std::size_t d = shape.size(); d-- > 0;) {
    if (shape[d] != 1 && strides[d] != expected) return false;
    expected *= shape[d];
  }
  return true;
}

}  // namespace transferlib

namespace transferlib::detail {

TRANSFERLIB_API std::int64_t count_of(const std::vector<std::int64_t>& shape) {
  std::int64_t others = 1;
  bool none = false;
  for (const std::int64_t side : shape) {
    others = multiply(others, side == 0 ? 1 : side);
    none = none || side == 0;
  }
  return others < 0 ? -1 : none ? 0 : others;
}

TRANSFERLIB_API void check_view(const TensorView& t, std::string_view where) {
  if (t.shape.size() != t.strides.size())
    throw FormatError(text(where, ": its shape has ", t.shape.size(), " sides and ", t.strides.size(),
                           " strides; both must have as many; the file is damaged"));
  if (t.shape.size() > 64)
    throw FormatError(text(where, ": it has ", t.shape.size(), " dimensions, and PyTorch has at most 64"));
  for (std::size_t d = 0; d < t.shape.size(); ++d)
    if (t.shape[d] < 0 || t.strides[d] < 0)
      throw FormatError(text(where, ": side ", d, " is ", t.shape[d], " with stride ", t.strides[d],
                             ", and neither can be negative; the file is damaged"));
  const std::int64_t numbers = count_of(t.shape);
  if (numbers < 0) throw FormatError(text(where, ": its shape has more numbers than 2^63; the file is damaged"));
  if (t.storage_offset < 0)
    throw FormatError(
        text(where, ": its storage offset is ", t.storage_offset, ", which can't be; the file is damaged"));
  if (numbers == 0) return;
  const auto held = static_cast<std::int64_t>(t.storage.size()) / size_of(t.dtype);
  std::int64_t last = 0;
  for (std::size_t d = 0; d < t.shape.size(); ++d) {
    const std::int64_t reach = multiply(t.shape[d] - 1, t.strides[d]);
    if (reach < 0 || __builtin_add_overflow(last, reach, &last))
      throw FormatError(text(where, ": its strides reach further than 2^63; the file is damaged"));
  }
  if (t.storage_offset > held - 1 || last > held - 1 - t.storage_offset)
    throw FormatError(text(where, ": it begins at number ", t.storage_offset, " of its storage and reaches ", last,
                           " further, and the storage holds ", held, " numbers; the file is cut or damaged"));
  // A few bytes could claim to be terabytes (stride 0), which whoever copies the tensor would pay for.
  if (numbers > (std::int64_t{1} << 24) && numbers / 64 > held)
    throw FormatError(text(where, ": it is an expanded view of ", numbers, " numbers on a storage of ", held,
                           "; in Python, save tensor.contiguous()"));
}

}  // namespace transferlib::detail

namespace transferlib {

TRANSFERLIB_API void copy_contiguous(const TensorView& t, std::span<std::byte> to) {
  detail::check_view(t, detail::text("tensor ", detail::in_quotes(t.name)));
  const auto wanted = static_cast<std::size_t>(t.numel() * size_of(t.dtype));
  if (to.size() != wanted)
    throw OptionError(detail::text("tensor ", detail::in_quotes(t.name), " has ", wanted,
                                   " bytes, and the place to copy them to has ", to.size(), "; give it that many"));
  std::byte* at = to.data();
  detail::for_contiguous(t, [&](std::span<const std::byte> run) {
    std::memcpy(at, run.data(), run.size());
    at += run.size();
  });
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

/// \file
/// The official binary layout of CIFAR-10 and CIFAR-100 (https://www.cs.toronto.edu/~kriz/cifar.html): records of one
/// label (CIFAR-100: coarse, then fine) and 3 x 32 x 32 pixels.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include <transferlib/core/error.hpp>
#include <transferlib/core/separate.hpp>

namespace transferlib {

/// Which labels the records of a CIFAR file have.
enum class CifarKind { cifar10, cifar100 };

/// The records of a file, checked. They look into the bytes they were parsed from.
class CifarRecords {
 public:
  static constexpr std::int64_t pixels = 3 * 32 * 32;

  /// How many pictures there are.
  std::int64_t size() const { return static_cast<std::int64_t>(bytes_.size() / record_); }
  /// Picture i's class, from 0 to 9 (CIFAR-100: the fine class, to 99).
  std::int64_t label(std::int64_t i) const { return static_cast<std::int64_t>(record(i)[record_ - pixels - 1]); }
  /// CIFAR-100: picture i's coarse class, from 0 to 19; CIFAR-10: its class.
  std::int64_t coarse_label(std::int64_t i) const { return static_cast<std::int64_t>(record(i)[0]); }
  /// Picture i: red, green and blue, each 32 rows of 32 pixels.
  std::span<const std::byte> picture(std::int64_t i) const { return record(i).subspan(record_ - pixels); }

  /// \param where the file's name, for the error's sentence
  /// \throws FormatError if the size is no whole number of records, or a label is out of range
  static CifarRecords parse(std::span<const std::byte> bytes, std::string_view where, CifarKind kind);

 private:
  std::span<const std::byte> record(std::int64_t i) const {
    return bytes_.subspan(static_cast<std::size_t>(i) * record_, record_);
  }
  std::span<const std::byte> bytes_;
  std::size_t record_ = 1;
};

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API CifarRecords CifarRecords::parse(std::span<const std::byte> bytes, std::string_view where,
                                                 CifarKind kind) {
  CifarRecords out;
  out.bytes_ = bytes;
  const std::size_t labels = kind == CifarKind::cifar10 ? 1 : 2;
  out.record_ = labels + pixels;
  if (bytes.empty() || bytes.size() % out.record_ != 0)
    throw FormatError(
        detail::text(where, " has ", bytes.size(), " bytes, which is no whole number of records of ", out.record_,
                     " bytes (a complete file has ", (kind == CifarKind::cifar10 ? 10000U : 50000U) * out.record_,
                     kind == CifarKind::cifar10 ? "" : " or a fifth of that", "); unpack the archive again"));
  for (std::size_t at = 0; at < bytes.size(); at += out.record_)
    for (std::size_t l = 0; l < labels; ++l) {
      const unsigned classes = kind == CifarKind::cifar10 ? 10 : l == 0 ? 20 : 100;
      if (const auto label = static_cast<unsigned>(bytes[at + l]); label >= classes)
        throw FormatError(detail::text(
            where, ": byte ", at + l, ": record ", at / out.record_, " has the label ", label,
            ", which is out of range: there are ", classes, " classes, so labels go from 0 to ", classes - 1,
            "; unpack the archive again, and check that it is CIFAR-", kind == CifarKind::cifar10 ? 10 : 100));
    }
  return out;
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

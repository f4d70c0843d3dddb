/// \file
/// The zip archives that `torch.save` writes: entries stored, never deflated; zip64 where they are large. The format is
/// PKWARE's APPNOTE.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <zlib.h>

#include <transferlib/core/error.hpp>
#include <transferlib/core/files.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/formats/tensor_view.hpp>

namespace transferlib {

/// An entry of an archive. Name and bytes look into the archive's bytes.
struct ZipEntry {
  std::string_view name;
  std::span<const std::byte> bytes;  ///< as they are in the archive: compressed, where `method` is not 0
  std::uint32_t checksum = 0;        ///< CRC-32 of the bytes before compression, as the archive has it
  unsigned method = 0;               ///< 0: stored
};

namespace detail {

/// Little-endian numbers in bytes, checked.
class ByteReader {
 public:
  ByteReader(std::span<const std::byte> bytes, std::string_view where) : bytes_(bytes), where_(where) {}

  template <class Number>
  Number number(std::uint64_t at, std::string_view what) const {
    Number out{};
    std::memcpy(&out, range(at, sizeof out, what).data(), sizeof out);
    return out;
  }
  std::span<const std::byte> range(std::uint64_t at, std::uint64_t size, std::string_view what) const {
    if (at > bytes_.size() || size > bytes_.size() - at)
      throw FormatError(text(where_, ": ", what, " at byte ", at, " needs ", size, " bytes, and the file ends at byte ",
                             bytes_.size(), "; the file is cut or damaged, copy it again"));
    return bytes_.subspan(static_cast<std::size_t>(at), static_cast<std::size_t>(size));
  }
  std::string_view chars(std::uint64_t at, std::uint64_t size, std::string_view what) const {
    const auto b = range(at, size, what);
    return {reinterpret_cast<const char*>(b.data()), b.size()};
  }

 private:
  std::span<const std::byte> bytes_;
  std::string_view where_;
};

/// CRC-32 of bytes that go on after those of `before`.
inline std::uint32_t crc32_of(std::span<const std::byte> bytes, std::uint32_t before = 0) {
  return static_cast<std::uint32_t>(
      ::crc32_z(before, reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size()));
}

/// Where an archive's directory is.
struct ZipDirectory {
  std::uint64_t at = 0, size = 0, count = 0;
};

TRANSFERLIB_API ZipDirectory zip_directory(std::span<const std::byte> bytes, std::string_view where);

}  // namespace detail

/// Whether bytes begin as a zip archive does.
inline bool is_zip(std::span<const std::byte> bytes) {
  return bytes.size() >= 4 &&
         (std::memcmp(bytes.data(), "PK\3\4", 4) == 0 || std::memcmp(bytes.data(), "PK\5\6", 4) == 0);
}

/// The entries of an archive, in the order of its directory. They look into `bytes`, which must outlive them. Whether
/// an entry can be used, `check_zip_entry` tells. \param where the file's name, for the error's sentence \throws
/// FormatError: cut, damaged, encrypted, a name twice, entries that overlap
TRANSFERLIB_API std::vector<ZipEntry> parse_zip(std::span<const std::byte> bytes, std::string_view where);

/// Checks that an entry is stored, and that its bytes have their checksum.
/// \param checksum false for an archive that has 0 for all of them, as `torch.serialization.set_crc32_options(False)`
///   makes it
/// \throws FormatError if it isn't, or they don't
TRANSFERLIB_API void check_zip_entry(const ZipEntry& entry, std::string_view where, bool checksum = true);

/// Writes an archive of stored entries, each entry's bytes at a multiple of 64, as `torch.save` does, so that it can be
/// mapped. Sizes and places beyond 32 bits become zip64.
class ZipWriter {
 public:
  explicit ZipWriter(AtomicFile& file) : file_(&file) {}

  /// Adds an entry. \throws FileError
  void add(std::string name, std::span<const std::byte> bytes);
  /// The same for a text.
  void add(std::string name, std::string_view text) {
    add(std::move(name), std::as_bytes(std::span(text.data(), text.size())));
  }

  /// The checksum of the entry that was added last.
  std::uint32_t last_checksum() const { return records_.back().checksum; }

  /// Writes the directory. \throws FileError
  void finish();

 private:
  static constexpr std::uint32_t limit = 0xFFFFFFFF;
  struct Record {
    std::string name;
    std::uint64_t size, at;
    std::uint32_t checksum;
    bool large;
  };
  static std::uint16_t version_of(bool large) { return large ? 45 : 20; }
  template <class Number>
  static void put(std::string& out, Number n) {
    out.append(reinterpret_cast<const char*>(&n), sizeof n);
  }
  /// What local and directory headers share: from the version needed to the full size.
  static void put_common(std::string& out, const Record& r);

  AtomicFile* file_;
  std::uint64_t at_ = 0;
  std::vector<Record> records_;
};

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API ZipDirectory zip_directory(std::span<const std::byte> bytes, std::string_view where) {
  const ByteReader in(bytes, where);
  // The end record is the last thing, but for a comment of up to 65,535 bytes.
  constexpr std::size_t record = 22;
  const std::size_t lowest = bytes.size() > record + 65535 ? bytes.size() - record - 65535 : 0;
  std::size_t end = bytes.size() < record ? 0 : bytes.size() - record + 1;
  bool found = false;
  while (!found && end-- > lowest)
    found = in.chars(end, 4, "the end record") == "PK\5\6" &&
            in.number<std::uint16_t>(end + 20, "the end record") == bytes.size() - end - record;
  if (!found)
    throw FormatError(text(where, ": a zip archive of ", bytes.size(),
                           " bytes without the directory that belongs at its end: the file was cut, copy it again"));
  ZipDirectory out{in.number<std::uint32_t>(end + 16, "the end record"),
                   in.number<std::uint32_t>(end + 12, "the end record"),
                   in.number<std::uint16_t>(end + 10, "the end record")};
  std::uint64_t expected_end = end;
  if (end >= 20 && in.chars(end - 20, 4, "the zip64 locator") == "PK\6\7") {
    const auto at = in.number<std::uint64_t>(end - 20 + 8, "the zip64 locator");
    if (in.chars(at, 56, "the zip64 end record").substr(0, 4) != "PK\6\6")
      throw FormatError(text(where, ": no zip64 end record at byte ", at, "; the file is damaged, copy it again"));
    out = {in.number<std::uint64_t>(at + 48, "the zip64 end record"),
           in.number<std::uint64_t>(at + 40, "the zip64 end record"),
           in.number<std::uint64_t>(at + 32, "the zip64 end record")};
    expected_end = at;
  }
  if (out.at > expected_end || out.size != expected_end - out.at || out.count > out.size / 46)
    throw FormatError(text(where, ": the zip directory has ", out.count, " entries in ", out.size, " bytes from byte ",
                           out.at, " on, and it must end at byte ", expected_end,
                           "; the file is damaged, copy it again"));
  return out;
}

}  // namespace transferlib::detail

namespace transferlib {

TRANSFERLIB_API std::vector<ZipEntry> parse_zip(std::span<const std::byte> bytes, std::string_view where) {
  using detail::text;
  const detail::ByteReader in(bytes, where);
  const detail::ZipDirectory directory = detail::zip_directory(bytes, where);
  std::vector<ZipEntry> out;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> ranges;  // headers included
  out.reserve(static_cast<std::size_t>(directory.count));
  ranges.reserve(static_cast<std::size_t>(directory.count));
  std::uint64_t at = directory.at;
  const std::uint64_t stop = directory.at + directory.size;
  while (at < stop) {
    constexpr std::string_view what = "a zip directory entry";
    if (in.chars(at, 46, what).substr(0, 4) != "PK\1\2" || out.size() == directory.count)
      throw FormatError(text(where, ": no zip directory entry at byte ", at, ", after ", out.size(), " of ",
                             directory.count, "; the file is damaged, copy it again"));
    const auto flags = in.number<std::uint16_t>(at + 8, what), method = in.number<std::uint16_t>(at + 10, what);
    std::uint64_t packed = in.number<std::uint32_t>(at + 20, what), full = in.number<std::uint32_t>(at + 24, what),
                  local = in.number<std::uint32_t>(at + 42, what);
    const std::uint64_t name_size = in.number<std::uint16_t>(at + 28, what),
                        extra_size = in.number<std::uint16_t>(at + 30, what),
                        comment_size = in.number<std::uint16_t>(at + 32, what);
    ZipEntry entry;
    entry.checksum = in.number<std::uint32_t>(at + 16, what);
    entry.name = in.chars(at + 46, name_size, what);
    in.range(at + 46, name_size + extra_size + comment_size, what);
    const std::string name = text(where, ": zip entry ", detail::in_quotes(entry.name));
    std::uint64_t extra = at + 46 + name_size;
    for (const std::uint64_t extra_end = extra + extra_size; extra_end - extra >= 4;) {
      const auto id = in.number<std::uint16_t>(extra, what), length = in.number<std::uint16_t>(extra + 2, what);
      extra += 4;
      if (length > extra_end - extra)
        throw FormatError(text(name, ": an extra field at byte ", extra - 4, " has ", length, " bytes, and ",
                               extra_end - extra, " are left; the file is damaged, copy it again"));
      std::uint64_t field = extra;
      if (id == 1)
        for (std::uint64_t* number : {&full, &packed, &local})
          if (*number == 0xFFFFFFFF && extra + length - field >= 8) {
            *number = in.number<std::uint64_t>(field, what);
            field += 8;
          }
      extra += length;
    }
    if ((flags & 1U) != 0)
      throw FormatError(text(name, " is encrypted, which checkpoints never are; unpack the archive, it may hold one"));
    if (method == 0 && packed != full)
      throw FormatError(text(name, " is stored, and has ", packed, " bytes in the archive and ", full,
                             " outside; the file is damaged, copy it again"));
    entry.method = method;
    constexpr std::string_view header = "a zip entry's header";
    const std::string_view begin = in.chars(local, 30, header).substr(0, 4);
    const std::uint64_t local_name = in.number<std::uint16_t>(local + 26, header);
    if (begin != "PK\3\4" || in.chars(local + 30, local_name, header) != entry.name)
      throw FormatError(text(name, ": its header is not at byte ", local, "; the file is damaged, copy it again"));
    const std::uint64_t data = local + 30 + local_name + in.number<std::uint16_t>(local + 28, header);
    entry.bytes = in.range(data, packed, text("zip entry ", detail::in_quotes(entry.name)));
    out.push_back(entry);
    ranges.emplace_back(local, data + packed);
    at += 46 + name_size + extra_size + comment_size;
  }
  if (out.size() != directory.count)
    throw FormatError(text(where, ": the zip directory has ", out.size(), " entries, and announces ", directory.count,
                           "; the file is damaged, copy it again"));
  std::sort(ranges.begin(), ranges.end());
  for (std::size_t i = 0; i < ranges.size(); ++i)
    if (ranges[i].second > (i + 1 < ranges.size() ? ranges[i + 1].first : directory.at))
      throw FormatError(text(where, ": the zip entry at byte ", ranges[i].first,
                             " reaches into what follows it; the file is damaged, copy it again"));
  std::vector<std::string_view> names;
  names.reserve(out.size());
  for (const ZipEntry& entry : out) names.push_back(entry.name);
  std::sort(names.begin(), names.end());
  if (const auto twice = std::adjacent_find(names.begin(), names.end()); twice != names.end())
    throw FormatError(
        text(where, ": zip entry ", detail::in_quotes(*twice), " stands twice in the archive; save it again"));
  return out;
}

TRANSFERLIB_API void check_zip_entry(const ZipEntry& entry, std::string_view where, bool checksum) {
  if (entry.method != 0)
    throw FormatError(detail::text(where, ": zip entry ", detail::in_quotes(entry.name), " is compressed (method ",
                                   entry.method,
                                   "), and checkpoints store their entries; somebody zipped it again: load it in "
                                   "Python and torch.save it, or unpack it and pack it with `zip -0`"));
  if (checksum && detail::crc32_of(entry.bytes) != entry.checksum)
    throw FormatError(detail::text(where, ": the bytes of zip entry ", detail::in_quotes(entry.name),
                                   " do not have their checksum; the file is damaged, copy it again"));
}

TRANSFERLIB_API void ZipWriter::add(std::string name, std::span<const std::byte> bytes) {
  const std::uint64_t size = bytes.size();
  Record record{std::move(name), size, at_, detail::crc32_of(bytes), size >= limit || at_ >= limit};
  std::string head = "PK\3\4";
  put_common(head, record);
  const std::size_t zip64 = record.large ? 20 : 0;
  // An extra field "FB" pads, as PyTorch's own does.
  const std::size_t pad = (64 - (at_ + 30 + record.name.size() + zip64 + 4) % 64) % 64;
  put(head, static_cast<std::uint16_t>(record.name.size()));
  put(head, static_cast<std::uint16_t>(zip64 + 4 + pad));
  head += record.name;
  if (record.large) {
    put(head, std::uint16_t{1});
    put(head, std::uint16_t{16});
    put(head, size);
    put(head, size);
  }
  head += "FB";
  put(head, static_cast<std::uint16_t>(pad));
  head.append(pad, 'Z');
  file_->write(head);
  file_->write(bytes);
  at_ += head.size() + size;
  records_.push_back(std::move(record));
}

TRANSFERLIB_API void ZipWriter::finish() {
  const std::uint64_t start = at_;
  std::string out;
  for (const Record& r : records_) {
    out += "PK\1\2";
    put(out, version_of(r.large));
    put_common(out, r);
    put(out, static_cast<std::uint16_t>(r.name.size()));
    put(out, static_cast<std::uint16_t>(r.large ? 28 : 0));
    out.append(2 + 2 + 2 + 4, '\0');  // comment, disk, attributes
    put(out, r.large ? limit : static_cast<std::uint32_t>(r.at));
    out += r.name;
    if (r.large) {
      put(out, std::uint16_t{1});
      put(out, std::uint16_t{24});
      put(out, r.size);
      put(out, r.size);
      put(out, r.at);
    }
  }
  const std::uint64_t size = out.size(), count = records_.size();
  const bool large = count >= 0xFFFF || start >= limit || size >= limit;
  if (large) {
    out += "PK\6\6";
    put(out, std::uint64_t{44});
    put(out, version_of(true));
    put(out, version_of(true));
    out.append(8, '\0');  // disks
    put(out, count);
    put(out, count);
    put(out, size);
    put(out, start);
    out += "PK\6\7";
    out.append(4, '\0');
    put(out, start + size);
    put(out, std::uint32_t{1});
  }
  out += "PK\5\6";
  out.append(4, '\0');
  for (int twice = 0; twice < 2; ++twice) put(out, static_cast<std::uint16_t>(large ? 0xFFFF : count));
  put(out, large ? limit : static_cast<std::uint32_t>(size));
  put(out, large ? limit : static_cast<std::uint32_t>(start));
  out.append(2, '\0');
  file_->write(out);
}

TRANSFERLIB_API void ZipWriter::put_common(std::string& out, const Record& r) {
  put(out, version_of(r.large));
  out.append(2 + 2, '\0');              // flags, method: stored
  put(out, std::uint32_t{0x00210000});  // 1980-01-01, so that equal tensors give equal bytes
  put(out, r.checksum);
  const std::uint32_t size = r.large ? limit : static_cast<std::uint32_t>(r.size);
  put(out, size);
  put(out, size);
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

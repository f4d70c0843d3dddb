/// \file
/// gzip (RFC 1952) by zlib, piece by piece: what is unpacked is what is asked for, however much a file could become.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <zlib.h>

#include <transferlib/core/error.hpp>
#include <transferlib/core/separate.hpp>

namespace transferlib {

/// Whether bytes begin as a gzip file does.
inline bool is_gzip(std::span<const std::byte> bytes) {
  return bytes.size() >= 2 && bytes[0] == std::byte{0x1f} && bytes[1] == std::byte{0x8b};
}

/// Unpacks a gzip file, of one member or several. The checksum of a member is compared when its end is reached.
class GzipReader {
 public:
  /// \param bytes must outlive the reader
  /// \param where the file's name, for the error's sentence
  GzipReader(std::span<const std::byte> bytes, std::string_view where) : bytes_(bytes), where_(where) {
    // 16: gzip's header and checksum, not zlib's.
    if (::inflateInit2(&stream_, 16 + MAX_WBITS) != Z_OK)
      throw Error(detail::text(where_, ": zlib can't be used (", zlibVersion(), "); reinstall it"));
  }
  GzipReader(GzipReader&&) = delete;
  ~GzipReader() { ::inflateEnd(&stream_); }

  /// Fills `out` from the beginning. \returns how many bytes came; fewer than its size where the file ends
  /// \throws FormatError if the file is cut or damaged, or goes on with what is no gzip
  std::size_t read(std::span<std::byte> out);

 private:
  std::span<const std::byte> bytes_;
  std::string where_;
  z_stream stream_{};
  std::size_t at_ = 0;
  bool ended_ = false;
};

/// Unpacks a whole gzip file.
/// \param most_bytes more than this is an error, and not unpacked
/// \throws FormatError
TRANSFERLIB_API std::vector<std::byte> gunzip(std::span<const std::byte> bytes, std::string_view where,
                                              std::uint64_t most_bytes);

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API std::size_t GzipReader::read(std::span<std::byte> out) {
  constexpr std::size_t most = std::size_t{1} << 30;  // zlib counts in unsigned int
  std::size_t done = 0;
  while (done < out.size() && !ended_) {
    const std::size_t in = std::min(most, bytes_.size() - at_), room = std::min(most, out.size() - done);
    // zlib's interface is older than const.
    stream_.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(bytes_.data() + at_));
    stream_.avail_in = static_cast<uInt>(in);
    stream_.next_out = reinterpret_cast<Bytef*>(out.data() + done);
    stream_.avail_out = static_cast<uInt>(room);
    const int result = ::inflate(&stream_, Z_NO_FLUSH);
    at_ += in - stream_.avail_in;
    done += room - stream_.avail_out;
    if (result == Z_STREAM_END) {
      ended_ = at_ == bytes_.size();
      if (!ended_ && !is_gzip(bytes_.subspan(at_)))
        throw FormatError(detail::text(where_, ": ", bytes_.size() - at_, " bytes from byte ", at_,
                                       " on follow the end of the gzip data; the file is damaged, copy it again"));
      if (!ended_) ::inflateReset(&stream_);
    } else if (result == Z_BUF_ERROR || (result == Z_OK && at_ == bytes_.size() && stream_.avail_out != 0)) {
      throw FormatError(
          detail::text(where_, ": the gzip data end at byte ", at_, " in the middle; the file is cut, copy it again"));
    } else if (result != Z_OK) {
      throw FormatError(detail::text(where_, ": the gzip data at byte ", at_, " are damaged (",
                                     stream_.msg != nullptr ? stream_.msg : "no reason known",
                                     "); copy the file again"));
    }
  }
  return done;
}

TRANSFERLIB_API std::vector<std::byte> gunzip(std::span<const std::byte> bytes, std::string_view where,
                                              std::uint64_t most_bytes) {
  GzipReader reader(bytes, where);
  std::vector<std::byte> out;
  std::size_t filled = 0;
  for (;;) {
    // Grows with what has come, so that memory is paid for by data, not by promises.
    out.resize(std::max<std::size_t>(std::size_t{1} << 12, 2 * filled));
    filled += reader.read(std::span(out).subspan(filled));
    if (filled > most_bytes)
      throw FormatError(
          detail::text(where, ": unpacks to more than ", most_bytes, " bytes, which is not expected here"));
    if (filled < out.size()) break;
  }
  out.resize(filled);
  return out;
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

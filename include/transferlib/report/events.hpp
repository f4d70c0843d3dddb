/// \file
/// TensorBoard's event files, written without TensorFlow and without a protobuf library: `tensorboard --logdir runs`
/// shows the curves of all runs, also while they go on. Free of LibTorch.
///
/// A file is a sequence of records (TFRecord: length, its checksum, bytes, theirs; the checksums are CRC-32C, masked),
/// each record one `Event` message (tensorflow/core/util/event.proto, framework/summary.proto).
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <charconv>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <unistd.h>

#include <transferlib/core/error.hpp>
#include <transferlib/core/files.hpp>
#include <transferlib/core/layers.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/report/shown.hpp>
#include <transferlib/train/history.hpp>

namespace transferlib {
namespace detail {

/// CRC-32C (Castagnoli; RFC 3720, appendix B.4).
TRANSFERLIB_API std::uint32_t crc32c(std::string_view bytes);

/// A number's bytes, the lowest first.
template <class Number>
void append_bytes(std::string& out, Number n) {
  for (std::size_t i = 0; i < sizeof n; ++i) out += static_cast<char>((n >> (8 * i)) & 0xFFU);
}

/// A protobuf message, field by field.
class Message {
 public:
  Message& number(unsigned field, std::int64_t value) {
    key(field, 0);
    varint(static_cast<std::uint64_t>(value));
    return *this;
  }
  Message& real(unsigned field, double value) {
    key(field, 1);
    append_bytes(bytes_, std::bit_cast<std::uint64_t>(value));
    return *this;
  }
  Message& real(unsigned field, float value) {
    key(field, 5);
    append_bytes(bytes_, std::bit_cast<std::uint32_t>(value));
    return *this;
  }
  /// Bytes, a string or a message.
  Message& bytes(unsigned field, std::string_view value) {
    key(field, 2);
    varint(value.size());
    bytes_ += value;
    return *this;
  }
  Message& message(unsigned field, const Message& value) { return bytes(field, value.bytes_); }
  Message& reals(unsigned field, std::span<const double> values) {
    std::string packed;
    for (const double v : values) append_bytes(packed, std::bit_cast<std::uint64_t>(v));
    return bytes(field, packed);
  }
  const std::string& bytes() const { return bytes_; }

 private:
  void key(unsigned field, unsigned type) { varint((field << 3) | type); }
  void varint(std::uint64_t n) {
    for (; n >= 0x80; n >>= 7) bytes_ += static_cast<char>((n & 0x7FU) | 0x80U);
    bytes_ += static_cast<char>(n);
  }
  std::string bytes_;
};

/// A TFRecord.
TRANSFERLIB_API void append_record(std::string& out, std::string_view bytes);

/// Valid UTF-8, as protobuf wants its strings; line breaks stay.
TRANSFERLIB_API std::string valid_lines(std::string_view text);

/// The name of a new event file of a folder: behind all that are there, as TensorBoard reads them by name, each to its
/// end. A clock that was turned back changes nothing in that.
TRANSFERLIB_API std::string event_file_name(const std::filesystem::path& folder);

}  // namespace detail

/// How an event file begins.
struct EventOptions {
  /// For a run that goes on: what files before this one in the folder hold of this step and later ones is passed over
  /// by TensorBoard.
  std::optional<Index> purge_step{};
};

/// An event file of TensorBoard, a new one in a folder; several files of one folder are one run. What is added is kept
/// until `flush`, which writes it in one piece; what is never flushed is lost.
///
/// It is a callback too: the columns of each epoch are written when it ends, `train_loss` and `val_loss` as
/// `loss/train` and `loss/val`, so that TensorBoard shows them together; the step is the epoch's number.
class EventFile {
 public:
  /// \throws FileError if the folder can't be written
  explicit EventFile(const std::filesystem::path& folder, const EventOptions& options = {})
      : file_(folder / detail::event_file_name(folder)) {
    add(0, 3, "brain.Event:2");
    if (options.purge_step.has_value()) add(*options.purge_step, 7, detail::Message().number(1, 1).bytes());
    flush();
  }

  /// A number. TensorBoard keeps it as float32.
  void scalar(std::string_view tag, Index step, double value) {
    summary(step, named(tag).real(2, static_cast<float>(value)));
  }

  /// The distribution of some values, in thirty intervals of equal width. Values that are not finite are left out.
  void histogram(std::string_view tag, Index step, std::span<const double> values);

  /// A picture. \param encoded the bytes of a PNG or JPEG file; \param width, height its sides in pixels
  void image(std::string_view tag, Index step, std::string_view encoded, Index width, Index height) {
    detail::Message i;
    i.number(1, height).number(2, width).number(3, 3).bytes(4, encoded);
    summary(step, named(tag).message(4, i));
  }

  /// A text, which TensorBoard shows as Markdown.
  void text(std::string_view tag, Index step, std::string_view markdown);

  /// Writes what was added, and syncs. \throws FileError: nothing of it is in the file then, and it is tried again the
  /// next time
  void flush() {
    if (waiting_.empty()) return;
    file_.append(waiting_);
    waiting_.clear();
  }

  /// \throws FileError
  void on_epoch_end(const Epoch& epoch);

  const std::filesystem::path& path() const { return file_.path(); }

 private:
  static detail::Message named(std::string_view tag) {
    detail::Message out;
    out.bytes(1, detail::one_line(tag));
    return out;
  }
  void summary(Index step, const detail::Message& value) { add(step, 5, detail::Message().message(1, value).bytes()); }
  void add(Index step, unsigned field, std::string_view what) {
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    detail::Message event;
    event.real(1, std::chrono::duration<double>(now).count()).number(2, step).bytes(field, what);
    detail::append_record(waiting_, event.bytes());
  }

  GrowingFile file_;
  std::string waiting_;
};

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API std::uint32_t crc32c(std::string_view bytes) {
  static constexpr auto table = [] {
    std::array<std::uint32_t, 256> out{};
    for (std::uint32_t i = 0; i < 256; ++i) {
      out[i] = i;
      for (int bit = 0; bit < 8; ++bit) out[i] = (out[i] >> 1) ^ ((out[i] & 1U) * 0x82F63B78U);
    }
    return out;
  }();
  std::uint32_t crc = 0xFFFFFFFFU;
  for (const char c : bytes) crc = (crc >> 8) ^ table[(crc ^ static_cast<unsigned char>(c)) & 0xFFU];
  return ~crc;
}

TRANSFERLIB_API void append_record(std::string& out, std::string_view bytes) {
  const auto checksum = [&](std::string_view of) {
    const std::uint32_t crc = crc32c(of);
    append_bytes(out, ((crc >> 15) | (crc << 17)) + 0xA282EAD8U);
  };
  const std::size_t at = out.size();
  append_bytes(out, static_cast<std::uint64_t>(bytes.size()));
  checksum(std::string(out, at));
  out += bytes;
  checksum(bytes);
}

TRANSFERLIB_API std::string valid_lines(std::string_view text) {
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    out += one_line(text.substr(at, end - at));
    if (end < text.size()) out += '\n';
    at = end + 1;
  }
  return out;
}

TRANSFERLIB_API std::string event_file_name(const std::filesystem::path& folder) {
  constexpr std::string_view begin = "events.out.tfevents.";
  std::int64_t seconds =
      std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();
  std::error_code error;
  for (std::filesystem::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    std::int64_t other = 0;
    if (name.starts_with(begin) && name.size() > begin.size() + 10 &&
        std::from_chars(name.data() + begin.size(), name.data() + begin.size() + 10, other).ec == std::errc())
      seconds = std::max(seconds, other + 1);
  }
  if (error) throw_errno("read the folder", folder, error.value());
  char host[256] = "";
  if (::gethostname(host, sizeof host - 1) != 0 || host[0] == '\0') std::string_view("localhost").copy(host, 9);
  static std::atomic<int> number{0};
  std::string digits = text(seconds);
  digits.insert(0, digits.size() < 10 ? 10 - digits.size() : 0, '0');
  return text(begin, digits, ".", host, ".", static_cast<std::int64_t>(::getpid()), ".", number++);
}

}  // namespace transferlib::detail

namespace transferlib {

TRANSFERLIB_API void EventFile::histogram(std::string_view tag, Index step, std::span<const double> values) {
  std::vector<double> finite;
  for (const double v : values)
    if (std::isfinite(v)) finite.push_back(v);
  if (finite.empty()) return;
  const auto [low_at, high_at] = std::minmax_element(finite.begin(), finite.end());
  const double low = *low_at, high = *high_at, width = (high / 30.0 - low / 30.0);
  const std::size_t intervals = width > 0.0 ? 30 : 1;
  std::vector<double> limits(intervals, high), counts(intervals, 0.0);
  for (std::size_t i = 0; i + 1 < intervals; ++i) limits[i] = low + width * static_cast<double>(i + 1);
  double sum = 0.0, squares = 0.0;
  for (const double v : finite) {
    sum += v;
    squares += v * v;
    const auto above = std::lower_bound(limits.begin(), limits.end() - 1, v);
    counts[static_cast<std::size_t>(above - limits.begin())] += 1.0;
  }
  detail::Message h;
  h.real(1, low).real(2, high).real(3, static_cast<double>(finite.size())).real(4, sum).real(5, squares);
  summary(step, named(tag).message(5, h.reals(6, limits).reals(7, counts)));
}

TRANSFERLIB_API void EventFile::text(std::string_view tag, Index step, std::string_view markdown) {
  const detail::Message shape = detail::Message().message(2, detail::Message().number(1, 1));
  const detail::Message plugin = detail::Message().bytes(1, "text");
  detail::Message tensor;  // of one string
  tensor.number(1, 7).message(2, shape).bytes(8, detail::valid_lines(markdown));
  summary(step, named(tag).message(8, tensor).message(9, detail::Message().message(1, plugin)));
}

TRANSFERLIB_API void EventFile::on_epoch_end(const Epoch& epoch) {
  for (const auto& [name, value] : epoch.values) {
    std::string tag = name;
    for (const std::string_view part : {"train", "val"})
      if (name.size() > part.size() + 1 && name.starts_with(part) && name[part.size()] == '_')
        tag = detail::text(std::string_view(name).substr(part.size() + 1), "/", part);
    scalar(tag, epoch.number, value);
  }
  flush();
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

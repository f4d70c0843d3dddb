/// \file
/// The activation cache: what leaves a frozen prefix, by picture and view, in memory or in a file that later runs use
/// again.
///
/// The file: a header of 4,096 bytes, then chunks, each from a multiple of 4,096 bytes on. Numbers are little-endian,
/// 64 bits wide.
///
/// | part | bytes |
/// | --- | --- |
/// | header | "TLACTIV2", the length of its text, the text's checksum, the text (layout and key), zeros |
/// | chunk | "TLCHUNK1", rows, bytes a row, checksum of the row numbers, checksum of the rows, zeros up to 64; the row
/// numbers; zeros up to 64; the rows; zeros up to 4,096 |
///
/// A row holds one picture's tensors, each from a multiple of 64 bytes on, a map's channels lying together. Chunks are
/// only ever added: a run that is killed leaves the chunks that it had finished, and a torn or damaged one is noticed
/// by its checksum and computed again.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/files.hpp>
#include <transferlib/core/hash.hpp>
#include <transferlib/core/parallel.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/engine/precision.hpp>

namespace transferlib {

/// Where a frozen prefix's values are kept, and how much of them.
struct CacheOptions {
  bool enabled = true;
  std::filesystem::path folder{};  ///< empty: in memory only. Else a file a key, used again by later runs
  Index limit = Index{8} << 30;    ///< bytes; what would go beyond is computed again when it is needed
  /// In which numbers they are kept, and then are what is trained on: `automatic` as the engine gives them, pooled
  /// features in fp32. fp16 ends at 65,504.
  Precision precision = Precision::automatic;
};

/// One tensor of a row.
struct CachedTensor {
  std::vector<Index> shape;  ///< without the batch
  at::ScalarType type = at::kFloat;

  Index bytes() const {
    Index n = static_cast<Index>(at::elementSize(type));
    for (Index side : shape) n *= side;
    return n;
  }
  /// How its values lie: a map's channels together, which is how networks give and take them.
  at::MemoryFormat format() const {
    return shape.size() == 3 ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
  }
};

namespace detail {

inline Index round_up(Index n, Index to) { return (n + to - 1) / to * to; }

/// Memory that begins at a multiple of 64 bytes: oneDNN takes other kernels for other alignments.
struct AlignedFree {
  void operator()(std::byte* p) const { std::free(p); }
};
using AlignedBytes = std::unique_ptr<std::byte, AlignedFree>;
inline AlignedBytes aligned_bytes(Index n) {
  auto* p = static_cast<std::byte*>(
      std::aligned_alloc(4096, static_cast<std::size_t>(round_up(std::max<Index>(n, 1), 4096))));
  if (p == nullptr) throw Error(text("no memory for ", n, " bytes of cached activations; set a smaller cache limit"));
  return AlignedBytes(p);
}

}  // namespace detail

/// Rows of activations by number. Filling is for one thread at a time; reading rows that are there is safe from
/// several.
class ActivationCache {
 public:
  /// \param rows how many there can be
  /// \param layout the tensors of a row
  /// \param key what the values depend on, hashed: the file's name
  /// \param description the same in words, for people who look into the file
  ActivationCache(Index rows, std::vector<CachedTensor> layout, const std::string& key, const std::string& description,
                  const CacheOptions& options);

  /// Before the first `put` and `get`: takes what is in the file, and keeps others out of it until `finish`. Waits for
  /// another run that is filling it. \throws FileError if the folder can't be used
  void begin();

  /// Whether a row is there.
  bool has(Index row) const { return where_[slot(row)] != nullptr; }
  /// How many rows are there.
  Index count() const { return count_; }
  Index rows() const { return static_cast<Index>(where_.size()); }
  /// Rows that were in the file when it was opened, and chunks of it that were damaged.
  Index found() const { return found_; }
  Index damaged() const { return damaged_; }
  /// Whether another row would go beyond the limit.
  bool full() const { return (count_ + 1) * stride_ > limit_; }
  /// The file; empty where the cache is in memory.
  const std::filesystem::path& path() const { return path_; }
  const std::vector<CachedTensor>& layout() const { return layout_; }

  /// Keeps rows. Those that are there already, and those beyond the limit, are passed over.
  /// \param activations tensors (n, …) of the layout's shapes and types, on the CPU or not
  void put(std::span<const Index> rows, const Activations& activations);

  /// The rows' values, in the order asked for, as new tensors. All of them must be there.
  Activations get(std::span<const Index> rows) const;

  /// Lets others in; what is put from now on is kept in memory only.
  void finish() {
    if (file_) release();
    file_ = {};
    lock_.reset();
  }

 private:
  /// Until so much is written, it is kept in memory too.
  static constexpr Index piece_in_memory = Index{64} << 20;

  /// What is in the file stands there from now on, not in memory: the system keeps as much of it as it has room for.
  void release();

  static constexpr std::uint64_t chunk_magic = 0x314B4E5548434C54;  // "TLCHUNK1"
  static std::size_t slot(Index i) { return static_cast<std::size_t>(i); }

  std::string header_text(const std::string& key, const std::string& description) const;

  void open_existing(const std::string& header);

  std::vector<CachedTensor> layout_;
  Index limit_, stride_ = 0, count_ = 0, found_ = 0, damaged_ = 0, end_ = 0;
  std::vector<const std::byte*> where_;
  std::vector<detail::AlignedBytes> memory_;
  std::vector<std::shared_ptr<const MappedFile>> mapped_;
  /// Rows that lie in the file and, so far, in memory; and how far the file is mapped.
  struct Written {
    std::size_t row;
    Index at;
  };
  std::vector<Written> written_;
  Index mapped_to_ = 0;
  std::filesystem::path path_;
  std::string header_;
  detail::Descriptor file_;
  std::unique_ptr<FileLock> lock_;
};

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API ActivationCache::ActivationCache(Index rows, std::vector<CachedTensor> layout, const std::string& key,
                                                 const std::string& description, const CacheOptions& options)
    : layout_(std::move(layout)), limit_(options.limit), where_(static_cast<std::size_t>(rows), nullptr) {
  for (const CachedTensor& t : layout_) stride_ += detail::round_up(t.bytes(), 64);
  if (options.folder.empty()) return;
  path_ = options.folder / (key + ".activations");
  header_ = header_text(key, description);
}

TRANSFERLIB_API void ActivationCache::begin() {
  if (path_.empty()) return;
  make_folders(path_.parent_path());
  lock_ = std::make_unique<FileLock>(std::filesystem::path(path_).replace_extension(".lock"));
  file_ = detail::open_file(path_, O_RDWR | O_CREAT, "open the activation cache");
  open_existing(header_);
}

TRANSFERLIB_API void ActivationCache::put(std::span<const Index> rows, const Activations& activations) {
  std::vector<std::size_t> taken;
  for (std::size_t i = 0; i < rows.size(); ++i)
    if (!has(rows[i]) && (count_ + static_cast<Index>(taken.size()) + 1) * stride_ <= limit_) taken.push_back(i);
  if (taken.empty()) return;
  const Index n = static_cast<Index>(taken.size()), ids = detail::round_up(n * 8, 64), size = n * stride_;
  auto memory = detail::aligned_bytes(64 + ids + size);
  std::byte* chunk = memory.get();
  std::memset(chunk, 0, static_cast<std::size_t>(64 + ids));
  std::byte* data = chunk + 64 + ids;
  std::memset(data, 0, static_cast<std::size_t>(size));
  Index offset = 0;
  for (std::size_t t = 0; t < layout_.size(); ++t) {
    const Tensor values = activations.at(t).detach().to(at::kCPU, layout_[t].type).contiguous(layout_[t].format());
    const auto bytes = static_cast<std::size_t>(layout_[t].bytes());
    const auto* from = static_cast<const std::byte*>(values.const_data_ptr());
    for (std::size_t i = 0; i < taken.size(); ++i)
      std::memcpy(data + static_cast<Index>(i) * stride_ + offset, from + taken[i] * bytes, bytes);
    offset += detail::round_up(layout_[t].bytes(), 64);
  }
  for (std::size_t i = 0; i < taken.size(); ++i) std::memcpy(chunk + 64 + 8 * i, &rows[taken[i]], 8);
  if (file_) {
    const std::uint64_t head[5] = {chunk_magic, static_cast<std::uint64_t>(n), static_cast<std::uint64_t>(stride_),
                                   detail::checksum64({chunk + 64, static_cast<std::size_t>(n * 8)}),
                                   detail::checksum64({data, static_cast<std::size_t>(size)})};
    std::memcpy(chunk, head, sizeof head);
    detail::write_all_at(file_.get(), {chunk, static_cast<std::size_t>(64 + ids + size)},
                         static_cast<std::uint64_t>(end_), path_);
    for (std::size_t i = 0; i < taken.size(); ++i)
      written_.push_back({slot(rows[taken[i]]), end_ + (data - chunk) + static_cast<Index>(i) * stride_});
    end_ += detail::round_up(64 + ids + size, 4096);
  }
  for (std::size_t i = 0; i < taken.size(); ++i) where_[slot(rows[taken[i]])] = data + static_cast<Index>(i) * stride_;
  count_ += n;
  memory_.push_back(std::move(memory));
  if (file_ && end_ - mapped_to_ >= piece_in_memory) release();
}

TRANSFERLIB_API Activations ActivationCache::get(std::span<const Index> rows) const {
  Activations out;
  Index offset = 0;
  for (const CachedTensor& t : layout_) {
    std::vector<Index> shape{static_cast<Index>(rows.size())};
    shape.insert(shape.end(), t.shape.begin(), t.shape.end());
    Tensor values = at::empty(shape, at::TensorOptions(t.type), t.format());
    auto* to = static_cast<std::byte*>(values.data_ptr());
    const auto bytes = static_cast<std::size_t>(t.bytes());
    detail::in_team(static_cast<Index>(rows.size()), [&](Index begin, Index end) {
      for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i)
        std::memcpy(to + i * bytes, where_[slot(rows[i])] + offset, bytes);
    });
    out.push_back(std::move(values));
    offset += detail::round_up(t.bytes(), 64);
  }
  return out;
}

TRANSFERLIB_API void ActivationCache::release() {
  if (written_.empty()) return;
  // Mapped from a multiple of every page size on.
  const Index from = mapped_to_ / 65536 * 65536;
  auto mapped = MappedFile::open(path_, static_cast<std::uint64_t>(from));
  for (const Written& w : written_) where_[w.row] = mapped->bytes().data() + (w.at - from);
  mapped_.push_back(std::move(mapped));
  mapped_to_ = end_;
  written_.clear();
  memory_.clear();
}

TRANSFERLIB_API std::string ActivationCache::header_text(const std::string& key, const std::string& description) const {
  std::string out = detail::text("key ", key, "\nrows ", where_.size(), "\nbytes a row ", stride_, "\n");
  for (const CachedTensor& t : layout_) {
    out += detail::text("tensor ", at::toString(t.type));
    for (Index side : t.shape) out += detail::text(" ", side);
    out += '\n';
  }
  return (out + description).substr(0, 4096 - 24);
}

TRANSFERLIB_API void ActivationCache::open_existing(const std::string& header) {
  const std::uint64_t start[2] = {header.size(),
                                  detail::checksum64(std::as_bytes(std::span(header.data(), header.size())))};
  std::string page = "TLACTIV2";
  page.append(reinterpret_cast<const char*>(start), sizeof start);
  page += header;
  page.resize(4096, '\0');
  const auto mapped = MappedFile::open(path_);
  const auto bytes = mapped->bytes();
  end_ = 4096;
  if (bytes.size() < 4096 || std::memcmp(bytes.data(), page.data(), 4096) != 0) {
    detail::resize_file(file_.get(), 0, path_);
    detail::write_all_at(file_.get(), std::as_bytes(std::span(page.data(), page.size())), 0, path_);
    mapped_to_ = end_;
    return;
  }
  const Index size = static_cast<Index>(bytes.size());
  while (end_ + 64 <= size) {
    const std::byte* chunk = bytes.data() + end_;
    std::uint64_t head[5];
    std::memcpy(head, chunk, sizeof head);
    const Index room = size - end_ - 64, n = static_cast<Index>(head[1]);
    if (head[0] != chunk_magic || head[2] != static_cast<std::uint64_t>(stride_) || n < 1 || n > room / 8 ||
        n > room / stride_ || detail::round_up(n * 8, 64) + n * stride_ > room ||
        head[3] != detail::checksum64({chunk + 64, static_cast<std::size_t>(n * 8)}))
      break;
    const std::byte* data = chunk + 64 + detail::round_up(n * 8, 64);
    if (head[4] == detail::checksum64({data, static_cast<std::size_t>(n * stride_)})) {
      for (Index i = 0; i < n; ++i) {
        Index row = 0;
        std::memcpy(&row, chunk + 64 + 8 * i, 8);
        if (row < 0 || row >= rows()) continue;
        if (!has(row)) ++count_, ++found_;
        where_[slot(row)] = data + i * stride_;
      }
    } else {
      ++damaged_;
    }
    end_ += detail::round_up(64 + detail::round_up(n * 8, 64) + n * stride_, 4096);
  }
  // What stands behind the last whole chunk is a torn one.
  if (end_ < size) {
    ++damaged_;
    detail::resize_file(file_.get(), static_cast<std::uint64_t>(end_), path_);
  }
  mapped_.push_back(mapped);
  mapped_to_ = end_;
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

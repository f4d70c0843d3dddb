/// \file
/// Files and the operating system: the one header that opens, maps, writes, renames and locks. POSIX.
///
/// Everything is written to a temporary name in the same folder, synced, then renamed over the old file, so that a
/// reader sees the old bytes or the new ones, and a full disk or a killed process costs nothing that was there before.
#pragma once

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <transferlib/core/error.hpp>
#include <transferlib/core/separate.hpp>

namespace transferlib {

namespace detail {

[[noreturn]] inline void throw_errno(std::string_view doing, const std::filesystem::path& path, int error,
                                     std::string_view fix = {}) {
  std::string sentence = text("cannot ", doing, " ", path, ": ", std::strerror(error));
  if (error == ENOSPC || error == EDQUOT)
    sentence += "; free some space and run again, the old file is unchanged";
  else if (!fix.empty())
    sentence += text("; ", fix);
  else if (error == EACCES || error == EROFS || error == EPERM)
    sentence += "; choose a folder that you may write to";
  else if (error == ENOENT)
    sentence += "; check the path";
  throw FileError(sentence);
}

/// With which tests make the operating system seem to refuse; else it costs a look at a number. Of the operations that
/// change files, `passes` go well, and the next fails with `error`; where `lasting`, all behind it too.
struct FileFaults {
  std::atomic<std::int64_t> passes{-1};  ///< below 0: all go well
  std::atomic<int> error{0};
  std::atomic<bool> lasting{false};
  std::atomic<bool> met{false};  ///< set where one failed
};
inline FileFaults file_faults;

/// Whether this operation is to fail; `errno` is set then.
TRANSFERLIB_API bool is_refused();

/// A file descriptor that closes itself.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

TRANSFERLIB_API Descriptor open_file(const std::filesystem::path& path, int flags, std::string_view doing);

TRANSFERLIB_API void write_all(int fd, std::span<const std::byte> bytes, const std::filesystem::path& path);

TRANSFERLIB_API void write_all_at(int fd, std::span<const std::byte> bytes, std::uint64_t offset,
                                  const std::filesystem::path& path);

inline void sync_file(int fd, const std::filesystem::path& path) {
  int r = 0;
  do r = is_refused() ? -1 : ::fsync(fd);
  while (r != 0 && errno == EINTR);
  if (r != 0) throw_errno("sync", path, errno);
}

inline void resize_file(int fd, std::uint64_t size, const std::filesystem::path& path) {
  if (is_refused() || ::ftruncate(fd, static_cast<off_t>(size)) != 0) throw_errno("shorten", path, errno);
}

/// Syncs the folder, so that a rename in it outlasts a power cut. A file system that can't is not an error.
TRANSFERLIB_API void sync_folder_of(const std::filesystem::path& path);

/// Puts a complete and synced file in another's place.
inline void put_in_place(const std::filesystem::path& from, const std::filesystem::path& to) {
  if (is_refused() || ::rename(from.c_str(), to.c_str()) != 0) throw_errno("put in place", to, errno);
}

}  // namespace detail

/// A file mapped into memory. The mapping is private: what is written to it never reaches the file, so its bytes can
/// stand behind a tensor. Pages are read when they are touched.
class MappedFile {
 public:
  /// \param from the first byte, a multiple of the page size: 0 or so many times 64 KiB
  /// \throws FileError if the file can't be opened or is no regular file.
  static std::shared_ptr<const MappedFile> open(const std::filesystem::path& path, std::uint64_t from = 0);
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile() {
    if (data_ != nullptr) ::munmap(data_, size_);
  }

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::filesystem::path& path() const { return path_; }

 private:
  MappedFile() = default;
  std::filesystem::path path_;
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

/// The whole of a file. \throws FileError if it can't be read.
TRANSFERLIB_API std::string read_file(const std::filesystem::path& path);

/// A file that comes into being whole or not at all: bytes go to a temporary name beside it until `commit`.
class AtomicFile {
 public:
  /// \throws FileError if the folder is missing, read-only or full.
  explicit AtomicFile(std::filesystem::path path) : path_(std::move(path)) {
    temporary_ = path_;
    temporary_ += detail::text(".", static_cast<std::int64_t>(::getpid()), ".tmp");
    file_ = detail::open_file(temporary_, O_WRONLY | O_CREAT | O_TRUNC, "write");
  }
  AtomicFile(AtomicFile&&) = delete;
  ~AtomicFile() {
    if (!committed_) ::unlink(temporary_.c_str());
  }

  /// Adds bytes. \throws FileError
  void write(std::span<const std::byte> bytes) { detail::write_all(file_.get(), bytes, path_); }
  /// Adds a text. \throws FileError
  void write(std::string_view text) { write(std::as_bytes(std::span(text.data(), text.size()))); }

  /// Syncs the bytes, puts the file in its place, syncs the folder.
  void commit() {
    detail::sync_file(file_.get(), path_);
    detail::put_in_place(temporary_, path_);
    committed_ = true;
    detail::sync_folder_of(path_);
  }

 private:
  std::filesystem::path path_, temporary_;
  detail::Descriptor file_;
  bool committed_ = false;
};

/// Writes a whole file, atomically. \throws FileError; the old file is then unchanged.
inline void write_file(const std::filesystem::path& path, std::string_view bytes) {
  AtomicFile file(path);
  file.write(bytes);
  file.commit();
}

/// Removes a file; one that is not there is no error. \throws FileError
TRANSFERLIB_API void remove_file(const std::filesystem::path& path);

/// A new file that grows piece by piece, for logs: a piece is in it whole or, where the disk is full, not at all.
class GrowingFile {
 public:
  /// \throws FileError if there is a file of this name, or the folder is missing or read-only
  explicit GrowingFile(std::filesystem::path path) : path_(std::move(path)) {
    file_ = detail::open_file(path_, O_WRONLY | O_CREAT | O_EXCL, "write");
    detail::sync_folder_of(path_);
  }

  /// Adds bytes, and syncs. \throws FileError; the file is then as it was
  void append(std::string_view bytes);

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  detail::Descriptor file_;
  std::uint64_t size_ = 0;
};

/// Makes a folder and its parents. \throws FileError.
TRANSFERLIB_API void make_folders(const std::filesystem::path& path);

/// A lock on a path, held until destruction; a killed process leaves none behind.
class FileLock {
 public:
  /// Waits for the lock, or with `wait` false gives up at once (see `held`). \throws FileError.
  explicit FileLock(const std::filesystem::path& path, bool wait = true);
  bool held() const { return held_; }
  /// Whether the locked file still lies at its path: a holder before may have renamed or removed it.
  bool is_current() const {
    struct ::stat locked {
    }, there{};
    return ::fstat(file_.get(), &locked) == 0 && ::stat(path_.c_str(), &there) == 0 && locked.st_ino == there.st_ino &&
           locked.st_dev == there.st_dev;
  }

 private:
  std::filesystem::path path_;
  detail::Descriptor file_;
  bool held_ = false;
};

/// The folder for what can be made again: `$TRANSFERLIB_CACHE`, else `$XDG_CACHE_HOME/transferlib`, else
/// `~/.cache/transferlib`. Not made here.
TRANSFERLIB_API std::filesystem::path cache_folder();

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API bool is_refused() {
  if (file_faults.passes < 0 || file_faults.passes-- > 0) return false;
  if (file_faults.lasting) file_faults.passes = 0;
  file_faults.met = true;
  errno = file_faults.error;
  return true;
}

TRANSFERLIB_API Descriptor open_file(const std::filesystem::path& path, int flags, std::string_view doing) {
  if ((flags & O_ACCMODE) != O_RDONLY && is_refused()) throw_errno(doing, path, errno);
  int fd = -1;
  do fd = ::open(path.c_str(), flags | O_CLOEXEC, 0666);
  while (fd < 0 && errno == EINTR);
  if (fd < 0) throw_errno(doing, path, errno);
  return Descriptor(fd);
}

TRANSFERLIB_API void write_all(int fd, std::span<const std::byte> bytes, const std::filesystem::path& path) {
  while (!bytes.empty()) {
    const ssize_t n = is_refused() ? -1 : ::write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw_errno("write", path, errno);
    bytes = bytes.subspan(static_cast<std::size_t>(n));
  }
}

TRANSFERLIB_API void write_all_at(int fd, std::span<const std::byte> bytes, std::uint64_t offset,
                                  const std::filesystem::path& path) {
  while (!bytes.empty()) {
    const ssize_t n = is_refused() ? -1 : ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw_errno("write", path, errno);
    bytes = bytes.subspan(static_cast<std::size_t>(n));
    offset += static_cast<std::uint64_t>(n);
  }
}

TRANSFERLIB_API void sync_folder_of(const std::filesystem::path& path) {
  const auto folder = path.parent_path().empty() ? std::filesystem::path(".") : path.parent_path();
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  const Descriptor owner(fd);
  if ((is_refused() || ::fsync(fd) != 0) && errno != EINVAL && errno != EROFS)
    throw_errno("sync the folder of", path, errno);
}

}  // namespace transferlib::detail

namespace transferlib {

TRANSFERLIB_API std::shared_ptr<const MappedFile> MappedFile::open(const std::filesystem::path& path,
                                                                   std::uint64_t from) {
  const auto file = detail::open_file(path, O_RDONLY, "open");
  struct ::stat info {};
  if (::fstat(file.get(), &info) != 0) detail::throw_errno("read", path, errno);
  if (S_ISDIR(info.st_mode)) detail::throw_errno("read", path, EISDIR, "a file is wanted here, not a folder");
  if (!S_ISREG(info.st_mode)) throw FileError(detail::text("cannot map ", path, ": it is not a regular file"));
  std::shared_ptr<MappedFile> out(new MappedFile);
  out->path_ = path;
  out->size_ = static_cast<std::size_t>(info.st_size) - std::min(static_cast<std::size_t>(info.st_size), from);
  if (out->size_ != 0) {
    void* at = ::mmap(nullptr, out->size_, PROT_READ | PROT_WRITE, MAP_PRIVATE, file.get(), static_cast<off_t>(from));
    if (at == MAP_FAILED) detail::throw_errno("map", path, errno);
    out->data_ = static_cast<std::byte*>(at);
  }
  return out;
}

TRANSFERLIB_API std::string read_file(const std::filesystem::path& path) {
  const auto file = detail::open_file(path, O_RDONLY, "open");
  std::string out;
  char buffer[1 << 16];
  for (;;) {
    const ssize_t n = ::read(file.get(), buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) detail::throw_errno("read", path, errno);
    if (n == 0) return out;
    out.append(buffer, static_cast<std::size_t>(n));
  }
}

TRANSFERLIB_API void remove_file(const std::filesystem::path& path) {
  std::error_code error;
  if (detail::is_refused())
    error = std::error_code(errno, std::generic_category());
  else
    std::filesystem::remove(path, error);
  if (error) detail::throw_errno("remove", path, error.value());
}

TRANSFERLIB_API void GrowingFile::append(std::string_view bytes) {
  try {
    detail::write_all_at(file_.get(), std::as_bytes(std::span(bytes.data(), bytes.size())), size_, path_);
    detail::sync_file(file_.get(), path_);
  } catch (const FileError&) {
    // Best effort: what can't be cut off now is written over by the next piece.
    [[maybe_unused]] const int cut = ::ftruncate(file_.get(), static_cast<off_t>(size_));
    throw;
  }
  size_ += bytes.size();
}

TRANSFERLIB_API void make_folders(const std::filesystem::path& path) {
  std::error_code error;
  if (detail::is_refused())
    error.assign(errno, std::generic_category());
  else
    std::filesystem::create_directories(path, error);
  if (error) detail::throw_errno("make the folder", path, error.value());
}

TRANSFERLIB_API FileLock::FileLock(const std::filesystem::path& path, bool wait)
    : path_(path), file_(detail::open_file(path, O_RDWR | O_CREAT, "lock")) {
  int r = 0;
  do r = ::flock(file_.get(), wait ? LOCK_EX : LOCK_EX | LOCK_NB);
  while (r != 0 && errno == EINTR);
  if (r != 0 && errno != EWOULDBLOCK) detail::throw_errno("lock", path, errno);
  held_ = r == 0;
}

TRANSFERLIB_API std::filesystem::path cache_folder() {
  if (const char* own = std::getenv("TRANSFERLIB_CACHE"); own != nullptr && *own != '\0') return own;
  if (const char* xdg = std::getenv("XDG_CACHE_HOME"); xdg != nullptr && *xdg != '\0')
    return std::filesystem::path(xdg) / "transferlib";
  const char* home = std::getenv("HOME");
  if (home == nullptr || *home == '\0')
    throw FileError("no cache folder: neither HOME nor XDG_CACHE_HOME nor TRANSFERLIB_CACHE is set; set one of them");
  return std::filesystem::path(home) / ".cache" / "transferlib";
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

/// \file
/// The files of activation caches in a folder: what they hold, how large and how old they are. Without LibTorch.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/files.hpp>
#include <transferlib/core/layers.hpp>
#include <transferlib/core/separate.hpp>

namespace transferlib {

/// A file of an activation cache.
struct CachedFile {
  std::filesystem::path path;
  Index bytes = 0;
  double seconds = 0.0;  ///< since it was last written
  /// What its values depend on, line by line: ("network", "efficientnet_lite0"), ("size", "128"), …
  std::vector<std::pair<std::string, std::string>> lines;

  /// The value of a line; empty where there is none.
  std::string_view operator[](std::string_view name) const {
    for (const auto& line : lines)
      if (line.first == name) return line.second;
    return {};
  }
};

namespace detail {

/// "name value" lines. A line whose name is no word of its own, as "bytes a row", has its first word as name.
TRANSFERLIB_API std::vector<std::pair<std::string, std::string>> named_lines(std::string_view text);

}  // namespace detail

/// The caches of a folder, the newest first; empty where there is no such folder. Files that are none are left out.
/// \throws FileError where a file can't be read
TRANSFERLIB_API std::vector<CachedFile> list_caches(const std::filesystem::path& folder);

/// Removes caches that nobody is filling at this moment. \returns those that were removed \throws FileError
TRANSFERLIB_API std::vector<CachedFile> remove_caches(const std::vector<CachedFile>& caches);

namespace detail {

/// Why a cache with these lines is not there: what in it differs from the one in the folder that is most like it, in a
/// sentence; empty where there is none of the same network and the same data, or of as many rows.
TRANSFERLIB_API std::string why_no_cache(const std::filesystem::path& folder, std::string_view description, Index rows);

}  // namespace detail
}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API std::vector<std::pair<std::string, std::string>> named_lines(std::string_view text) {
  std::vector<std::pair<std::string, std::string>> out;
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    const std::size_t space = line.find(' ');
    if (space != std::string_view::npos) out.emplace_back(line.substr(0, space), line.substr(space + 1));
  }
  return out;
}

}  // namespace transferlib::detail

namespace transferlib {

TRANSFERLIB_API std::vector<CachedFile> list_caches(const std::filesystem::path& folder) {
  std::vector<CachedFile> out;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    if (entry.path().extension() != ".activations" || !entry.is_regular_file(error)) continue;
    const auto mapped = MappedFile::open(entry.path());
    const auto bytes = mapped->bytes();
    if (bytes.size() < 4096 || std::memcmp(bytes.data(), "TLACTIV2", 8) != 0) continue;
    std::uint64_t length = 0;
    std::memcpy(&length, bytes.data() + 8, 8);
    if (length > 4096 - 24) continue;
    CachedFile file{entry.path(), static_cast<Index>(bytes.size()), 0.0, {}};
    file.lines =
        detail::named_lines({reinterpret_cast<const char*>(bytes.data()) + 24, static_cast<std::size_t>(length)});
    const auto written = std::filesystem::last_write_time(entry.path(), error);
    file.seconds = std::chrono::duration<double>(std::filesystem::file_time_type::clock::now() - written).count();
    out.push_back(std::move(file));
  }
  std::sort(out.begin(), out.end(), [](const CachedFile& a, const CachedFile& b) { return a.seconds < b.seconds; });
  return out;
}

TRANSFERLIB_API std::vector<CachedFile> remove_caches(const std::vector<CachedFile>& caches) {
  std::vector<CachedFile> out;
  for (const CachedFile& cache : caches) {
    const auto lock_path = std::filesystem::path(cache.path).replace_extension(".lock");
    const FileLock lock(lock_path, false);
    if (!lock.held()) continue;
    remove_file(cache.path);
    remove_file(lock_path);
    out.push_back(cache);
  }
  return out;
}

}  // namespace transferlib

namespace transferlib::detail {

TRANSFERLIB_API std::string why_no_cache(const std::filesystem::path& folder, std::string_view description,
                                         Index rows) {
  const auto wanted = named_lines(description);
  std::vector<std::string> best;
  for (const CachedFile& cache : list_caches(folder)) {
    std::vector<std::string> changed;
    bool alike = true;
    for (const auto& [name, value] : wanted) {
      if (cache[name] == value || name == "answer") continue;
      changed.push_back(name);
      alike = alike && name != "network" && (name != "data" || cache["rows"] == text(rows));
    }
    if (alike && !changed.empty() && (best.empty() || changed.size() < best.size())) best = std::move(changed);
  }
  if (best.empty()) return {};
  return text("the frozen features are computed anew: since the last time, what has changed is ", first_few(best, 8));
}

}  // namespace transferlib::detail

#endif  // TRANSFERLIB_DEFINES

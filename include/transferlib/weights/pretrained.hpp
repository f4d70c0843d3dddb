/// \file
/// Where published weights are looked for, and whether a file is the published one.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/files.hpp>
#include <transferlib/core/hash.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>

namespace transferlib {

/// Where `weights_tool fetch` puts published files: `weights` in the cache folder.
inline std::filesystem::path weights_folder() { return cache_folder() / "weights"; }

/// Where a card's file is published, or would be on the mirror that `$TRANSFERLIB_MIRROR` names: a URL such as
/// "http://mirror.example:8080/weights", which takes the place of scheme and host. Empty where it is not published
/// alone.
TRANSFERLIB_API std::string published_url(const Card& card);

namespace detail {

/// What stands between spaces.
TRANSFERLIB_API std::vector<std::string> words(std::string_view all);

/// A folder that a variable of the environment names, else a folder below another; empty where neither is known.
inline std::filesystem::path folder_of(const char* variable, const std::filesystem::path& parent = {},
                                       const char* name = "") {
  if (const char* value = std::getenv(variable); value != nullptr && *value != '\0') return value;
  return parent.empty() ? parent : parent / name;
}

/// The newest snapshot of timm's file of a network in Hugging Face's cache, a folder; empty where there is none.
TRANSFERLIB_API std::filesystem::path timm_file(const std::filesystem::path& hub, const std::string& name);

}  // namespace detail

/// A card's other names. \returns the words of `card.aliases`
inline std::vector<std::string> aliases_of(const Card& card) { return detail::words(card.aliases); }

/// Finds a network's published file, in this order: `$TRANSFERLIB_WEIGHTS` (the file itself, or a folder that holds
/// it); the folder `weights` beside the program's own file; `weights_folder()`; and what other programs have fetched:
/// the folders of PyTorch's hub and of Keras, and timm's file of the same network in Hugging Face's (`card.aliases`).
///
/// \throws WeightsError if it is in none of them: the sentence names the file, where it is published, the ways to get
/// it, and the places
TRANSFERLIB_API std::filesystem::path find_weights(const Card& card);

/// Whether a file is the card's published one: it has that name, as what `find_weights` takes from Hugging Face's cache
/// has not.
inline bool is_published_file(const std::filesystem::path& file, const Card& card) {
  return file.filename() == card.file;
}

/// Compares a file's SHA-256 with the card's, of which the first digits suffice; where the card has none, all is well.
/// \throws FileError if it can't be read, WeightsError if it is another file
TRANSFERLIB_API void check_hash(const std::filesystem::path& file, const Card& card);

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API std::string published_url(const Card& card) {
  const std::string url = card.url;
  const char* mirror = std::getenv("TRANSFERLIB_MIRROR");
  if (url.empty() || mirror == nullptr || *mirror == '\0') return url;
  std::string base = mirror;
  while (base.ends_with('/')) base.pop_back();
  const std::size_t path = url.find('/', url.find("://") + 3);
  return path == std::string::npos ? base : base + url.substr(path);
}

}  // namespace transferlib

namespace transferlib::detail {

TRANSFERLIB_API std::vector<std::string> words(std::string_view all) {
  std::vector<std::string> out;
  for (std::size_t at = 0; at < all.size();) {
    const std::size_t end = std::min(all.find(' ', at), all.size());
    if (end > at) out.emplace_back(all.substr(at, end - at));
    at = end + 1;
  }
  return out;
}

TRANSFERLIB_API std::filesystem::path timm_file(const std::filesystem::path& hub, const std::string& name) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  fs::path newest;
  fs::file_time_type time{};
  for (fs::directory_iterator it(hub / ("models--timm--" + name) / "snapshots", ignored), end; it != end;
       it.increment(ignored)) {
    const fs::path file = it->path() / "model.safetensors";
    if (!fs::is_regular_file(file, ignored)) continue;
    if (const auto written = it->last_write_time(ignored); newest.empty() || written > time)
      newest = file, time = written;
  }
  return newest;
}

}  // namespace transferlib::detail

namespace transferlib {

TRANSFERLIB_API std::filesystem::path find_weights(const Card& card) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  std::vector<fs::path> places;
  const auto lies_in = [&](const fs::path& folder) {
    places.push_back(folder);
    return fs::is_regular_file(folder / card.file, ignored);
  };
  const auto found = [&] { return places.back() / card.file; };
  if (const fs::path own = detail::folder_of("TRANSFERLIB_WEIGHTS"); !own.empty()) {
    if (fs::is_regular_file(own, ignored)) return own;
    if (lies_in(own)) return found();
  }
  const fs::path program = fs::read_symlink("/proc/self/exe", ignored);
  if (!program.empty() && lies_in(program.parent_path() / "weights")) return found();
  if (lies_in(weights_folder())) return found();
  const fs::path home = detail::folder_of("HOME"), caches = detail::folder_of("XDG_CACHE_HOME", home, ".cache");
  const fs::path torch = detail::folder_of("TORCH_HOME", caches, "torch");
  if (!torch.empty() && lies_in(torch / "hub" / "checkpoints")) return found();
  const fs::path keras = detail::folder_of("KERAS_HOME", home, ".keras");
  if (!keras.empty() && lies_in(keras / "models")) return found();
  const fs::path hub = detail::folder_of("HF_HUB_CACHE", detail::folder_of("HF_HOME", caches, "huggingface"), "hub");
  if (const auto aliases = aliases_of(card); !hub.empty() && !aliases.empty()) {
    for (const std::string& name : aliases)
      if (fs::path file = detail::timm_file(hub, name); !file.empty()) return file;
    places.push_back(hub);
  }
  std::vector<std::string> names;
  for (const fs::path& place : places) names.push_back(place.string());
  const std::string url = published_url(card);
  std::string way = "put it into one of them";
  if (!url.empty())
    way = detail::text("fetch it by `weights_tool fetch ", card.name, "`, or while building, by CMake's ",
                       "`transferlib_fetch_weights(TARGET ", card.name, ")`");
  throw WeightsError(detail::text("no weights for ", card.name, ": ", card.file, " (published ",
                                  url.empty() ? "by " : "at ", url.empty() ? card.source : url, ") is in none of ",
                                  detail::first_few(names, names.size()), "; ", way,
                                  ", or set TRANSFERLIB_WEIGHTS to the file"));
}

TRANSFERLIB_API void check_hash(const std::filesystem::path& file, const Card& card) {
  if (*card.sha256 == '\0') return;
  if (const std::string hash = sha256(MappedFile::open(file)->bytes()); !hash.starts_with(card.sha256))
    throw WeightsError(detail::text("the file ", file, " is not the published one: its SHA-256 is ", hash,
                                    ", expected ", card.sha256,
                                    "; fetch it again, or pass its path to load it as it is"));
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

/// \file
/// Where published weights are looked for.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/files.hpp>
#include <transferlib/core/tensors.hpp>

namespace transferlib {

/// Finds a network's published file: `$TRANSFERLIB_WEIGHTS` (the file itself, or a folder that holds it), the cache
/// folder's `weights/`, and the folder where PyTorch's hub keeps its downloads.
/// \throws WeightsError if it is in none of them: the sentence names the file, its source and the places.
inline std::filesystem::path find_weights(const Card& card) {
  namespace fs = std::filesystem;
  std::vector<fs::path> places;
  std::error_code ignored;
  if (const char* own = std::getenv("TRANSFERLIB_WEIGHTS"); own != nullptr && *own != '\0') {
    if (fs::is_regular_file(own, ignored)) return own;
    places.emplace_back(own);
  }
  places.push_back(cache_folder() / "weights");
  if (const char* home = std::getenv("TORCH_HOME"); home != nullptr && *home != '\0')
    places.push_back(fs::path(home) / "hub" / "checkpoints");
  else if (const char* user = std::getenv("HOME"); user != nullptr && *user != '\0')
    places.push_back(fs::path(user) / ".cache" / "torch" / "hub" / "checkpoints");
  std::vector<std::string> names;
  for (const fs::path& place : places) {
    if (fs::is_regular_file(place / card.file, ignored)) return place / card.file;
    names.push_back(place.string());
  }
  throw WeightsError(detail::text("no weights for ", card.name, ": ", card.file, " (published by ", card.source,
                                  ") is in none of ", detail::first_few(names),
                                  "; put it into one of them, or set TRANSFERLIB_WEIGHTS to the file"));
}

}  // namespace transferlib

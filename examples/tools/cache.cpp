// links: no torch
/// \file
/// What frozen networks made of pictures, kept for later runs: `cache list`, `cache clear`.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include <transferlib/core/files.hpp>
#include <transferlib/engine/cache_folder.hpp>
#include <transferlib/report/progress.hpp>
#include <transferlib/report/shown.hpp>

#include "arguments.hpp"
#include "table.hpp"

namespace tl = transferlib;
using tools::text;

namespace {

std::string size_of(tl::Index bytes) {
  return text(tl::detail::fixed(static_cast<double>(bytes) / (1 << 20), 1), " MiB");
}

int list(const std::vector<tl::CachedFile>& caches, const std::filesystem::path& folder) {
  std::vector<std::vector<std::string>> rows{{"network", "size", "precision", "rows", "on disk", "age", "file"}};
  tl::Index bytes = 0;
  for (const tl::CachedFile& c : caches) {
    bytes += c.bytes;
    rows.push_back({std::string(c["network"]), std::string(c["size"]), std::string(c["precision"]),
                    std::string(c["rows"]), size_of(c.bytes), tl::format_duration(c.seconds),
                    c.path.filename().string()});
  }
  if (!caches.empty()) std::fputs(tools::table(rows, 2).c_str(), stdout);
  std::printf("%zu caches, %s in %s\n", caches.size(), size_of(bytes).c_str(), folder.c_str());
  return 0;
}

int clear(std::vector<tl::CachedFile> caches, double days, const std::string& network) {
  std::erase_if(caches, [&](const tl::CachedFile& c) {
    return c.seconds < days * 86400.0 || (!network.empty() && c["network"] != network);
  });
  tl::Index bytes = 0;
  const auto removed = tl::remove_caches(caches);
  for (const tl::CachedFile& c : removed) bytes += c.bytes;
  std::printf("removed: %zu caches, %s\n", removed.size(), size_of(bytes).c_str());
  if (removed.size() < caches.size())
    std::printf("left: %zu that runs are filling at this moment\n", caches.size() - removed.size());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  std::string folder, network;
  double days = 0.0;
  tools::Arguments arguments("list|clear [options]",
                             "Lists or removes what frozen networks made of pictures, which runs keep so that later "
                             "ones need not compute it.");
  arguments.option("--folder", "DIR", "where it is (the cache folder)", folder)
      .option("--older", "DAYS", "clear: only what was not written to for so long (0)", days)
      .option("--network", "NAME", "clear: only of this network", network);
  return tools::run(argc, argv, arguments, [&](const std::vector<std::string>& words) {
    if (words.size() != 1) throw tools::Usage("list or clear is wanted");
    tools::check_word("what to do", words[0], {"list", "clear"});
    if (!(days >= 0.0)) throw tools::Usage(text("--older must be at least 0 days, not ", days));
    const std::filesystem::path at =
        folder.empty() ? tl::cache_folder() / "activations" : std::filesystem::path(folder);
    const auto caches = tl::list_caches(at);
    return words[0] == "list" ? list(caches, at) : clear(caches, days, network);
  });
}

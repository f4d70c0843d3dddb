/// \file
/// What every fuzzer includes: with TRANSFERLIB_DAMAGE=FOLDER in its environment it doesn't fuzz, but takes each file
/// of at most 4 KB in that folder, cut at every byte and with each bit flipped. None may take a second of the
/// processor. TRANSFERLIB_DAMAGE_PART=I/N takes every N-th of the files, from the I-th on.
#pragma once

#include <algorithm>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include <sanitizer/common_interface_defs.h>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace damage {

inline std::string name;
inline const char* kind = "";
inline std::size_t place = 0;
inline std::size_t inputs = 0;

inline void tell() { std::fprintf(stderr, "damage: %s, %s %zu\n", name.c_str(), kind, place); }

inline void one(const std::string& bytes, const char* what, std::size_t at) {
  kind = what;
  place = at;
  ++inputs;
  // In a block of its own size, so that a read behind it is found.
  const auto block = std::make_unique<std::uint8_t[]>(bytes.size());
  bytes.copy(reinterpret_cast<char*>(block.get()), bytes.size());
  const std::clock_t start = std::clock();
  LLVMFuzzerTestOneInput(block.get(), bytes.size());
  if (std::clock() - start > CLOCKS_PER_SEC) {
    std::fprintf(stderr, "damage: more than a second\n");
    std::abort();
  }
}

inline void each(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  std::string bytes{std::istreambuf_iterator<char>(in), {}};
  name = file.string();
  for (std::size_t n = 0; n < bytes.size(); ++n) one(bytes.substr(0, n), "cut at byte", n);
  for (std::size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
    const auto flip = [&] { bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << (bit % 8))); };
    flip();
    one(bytes, "bit", bit);
    flip();
  }
}

}  // namespace damage

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  const char* folder = std::getenv("TRANSFERLIB_DAMAGE");
  if (!folder) return 0;
  __sanitizer_set_death_callback(damage::tell);
  std::signal(SIGABRT, [](int) {
    damage::tell();
    std::_Exit(1);
  });
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    if (entry.is_regular_file() && entry.file_size() <= 4096) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  std::size_t part = 1, parts = 1;
  const char* told = std::getenv("TRANSFERLIB_DAMAGE_PART");
  if (told && (std::sscanf(told, "%zu/%zu", &part, &parts) != 2 || part < 1 || part > parts)) {
    std::fprintf(stderr, "TRANSFERLIB_DAMAGE_PART is I/N, from 1/N to N/N, not %s\n", told);
    std::exit(1);
  }
  for (std::size_t i = part - 1; i < files.size(); i += parts) damage::each(files[i]);
  std::printf("damage: %zu inputs\n", damage::inputs);
  std::exit(damage::inputs > 0 ? 0 : 1);
}

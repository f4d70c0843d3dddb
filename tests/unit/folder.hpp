// What tests with and without LibTorch share: a folder of their own, and what an error says.
#pragma once

#include <cerrno>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>

#include <stdlib.h>

namespace toys {

/// What an `E` says; something else where none is thrown.
template <class E, class F>
std::string sentence_of(F&& work) {
  try {
    work();
  } catch (const E& e) {
    return e.what();
  }
  return "(no error)";
}

/// A folder that goes away with its owner.
struct Folder {
  Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "transferlib_test.XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::system_error(errno, std::generic_category(), name);
    path = name;
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
  std::filesystem::path operator/(std::string_view name) const { return path / name; }
  operator const std::filesystem::path&() const { return path; }

  std::filesystem::path path;
};

}  // namespace toys

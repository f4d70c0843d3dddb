/// \file
/// The one family of exceptions that leaves the library, and how their sentences are put together.
#pragma once

#include <charconv>
#include <concepts>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>

namespace transferlib {

/// What went wrong, where, expected against got, and the fix, in one sentence. Every exception that leaves the library
/// is an `Error` or one of its children; the children say which kind of thing is at fault.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// The operating system refused something: a file is missing, a folder is read-only, the disk is full.
class FileError : public Error {
 public:
  using Error::Error;
};

/// The bytes of a file (or of a buffer) break the rules of their format.
class FormatError : public Error {
 public:
  using Error::Error;
};

/// Weights do not fit the network that they are given to: names are missing or unexpected, shapes differ.
class WeightsError : public Error {
 public:
  using Error::Error;
};

/// A data set, its labels or a picture can't be used for what was asked.
class DataError : public Error {
 public:
  using Error::Error;
};

/// An option has a value that can't be meant, or two options contradict each other.
class OptionError : public Error {
 public:
  using Error::Error;
};

/// A device was asked for that this machine, or this build of LibTorch, does not have.
class DeviceError : public Error {
 public:
  using Error::Error;
};

/// Training can't go on: the loss is not a number, nothing is left to train.
class TrainingError : public Error {
 public:
  using Error::Error;
};

/// The caller's stop token was set; what was complete by then is kept.
class Stopped : public Error {
 public:
  using Error::Error;
};

namespace detail {

/// A part of a sentence: a text, or a number written out. No template joins them, so that each sentence of the library
/// costs a compiler little.
class Part {
 public:
  Part(std::string_view s) : view_(s) {}
  Part(const std::string& s) : view_(s) {}
  Part(const char* s) : view_(s) {}
  Part(const std::filesystem::path& p) : view_(p.native()) {}
  Part(char c) : view_(buffer_, 1) { buffer_[0] = c; }
  Part(bool b) : view_(b ? "true" : "false") {}
  template <std::integral Number>
  Part(Number n) {
    if constexpr (std::is_signed_v<Number>)
      write(static_cast<std::int64_t>(n));
    else
      write(static_cast<std::uint64_t>(n));
  }
  /// In the shortest form that reads back equal.
  Part(double x) { write(x); }
  Part(float x) { write(x); }
  Part(const Part&) = delete;
  Part& operator=(const Part&) = delete;

  std::string_view view() const { return view_; }

 private:
  template <class Number>
  [[gnu::noinline]] void write(Number n) {
    view_ = {buffer_, static_cast<std::size_t>(std::to_chars(buffer_, buffer_ + sizeof buffer_, n).ptr - buffer_)};
  }
  char buffer_[32];
  std::string_view view_;
};

inline void append_text(std::string& out, const Part& part) { out += part.view(); }

[[gnu::noinline]] inline std::string join(std::initializer_list<Part> parts) {
  std::string out;
  for (const Part& part : parts) out += part.view();
  return out;
}

/// Puts strings, paths and numbers together.
template <class... Parts>
std::string text(const Parts&... parts) {
  return join({Part(parts)...});
}

/// "a, b, c and 4 more": the first few of a list of names, for an error's sentence.
template <class Names>
std::string first_few(const Names& names, std::size_t most = 5) {
  std::string out;
  std::size_t n = 0;
  for (const auto& name : names) {
    if (n == most) break;
    if (n++ != 0) out += ", ";
    append_text(out, name);
  }
  const std::size_t all = static_cast<std::size_t>(std::size(names));
  if (all > n) out += text(" and ", all - n, " more");
  return out;
}

}  // namespace detail
}  // namespace transferlib

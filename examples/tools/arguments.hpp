/// \file
/// What the tools are told, and how they fail: `--help`; one line an error; exit 1 for input that can't be used, 2 for
/// a wrong command line. Free of LibTorch.
#pragma once

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <functional>
#include <limits>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/layers.hpp>
#include <transferlib/core/text.hpp>
#include <transferlib/formats/json.hpp>

namespace tools {

namespace tl = transferlib;
using tl::detail::text;

/// A wrong command line.
struct Usage : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// A program's options and arguments. Each option is bound to a variable, whose value at parsing is the default.
class Arguments {
 public:
  /// \param usage what follows the program's name: "MODEL PICTURE… [--json FILE]"
  /// \param what one sentence for `--help`
  Arguments(std::string usage, std::string what) : usage_(std::move(usage)), what_(std::move(what)) {}

  /// An option with a value, which may be given as `--name value` or `--name=value`, once.
  /// \param value what the value is called in `--help`: "N"
  template <class T>
  Arguments& option(std::string name, std::string value, std::string help, T& into) {
    options_.push_back({name, std::move(value), std::move(help),
                        [name, &into](std::string_view given) { into = read<T>(name, given); }});
    return *this;
  }

  /// An option without a value.
  Arguments& flag(std::string name, std::string help, bool& into) {
    options_.push_back({std::move(name), {}, std::move(help), [&into](std::string_view) { into = true; }});
    return *this;
  }

  /// What is said below the options.
  Arguments& footer(std::string text) {
    footer_ = std::move(text);
    return *this;
  }

  /// Whether an option was given.
  bool has(std::string_view name) const { return std::find(given_.begin(), given_.end(), name) != given_.end(); }

  /// Reads the command line, and returns what is no option, in order; after `--` nothing is.
  /// \throws Usage
  std::vector<std::string> parse(int argc, char** argv) {
    std::vector<std::string> out;
    bool options_end = false;
    for (int i = 1; i < argc; ++i) {
      const std::string_view word = argv[i];
      if (options_end || word.size() < 2 || word[0] != '-') {
        out.emplace_back(word);
        continue;
      }
      if (word == "--") {
        options_end = true;
        continue;
      }
      const std::string_view name = word.substr(0, word.find('='));
      const auto found =
          std::find_if(options_.begin(), options_.end(), [&](const Option& o) { return o.name == name; });
      if (found == options_.end()) throw Usage(text("there is no option ", name, "; the nearest is ", nearest(name)));
      if (has(name)) throw Usage(text(name, " is given twice"));
      given_.emplace_back(name);
      const bool joined = name.size() < word.size();
      if (found->value.empty()) {
        if (joined) throw Usage(text(name, " takes no value"));
        found->take({});
        values_.emplace_back(name.substr(2), "true");
      } else {
        if (!joined && i + 1 == argc) throw Usage(text(name, " wants a value: ", name, " ", found->value));
        const std::string value(joined ? word.substr(name.size() + 1) : std::string_view(argv[++i]));
        found->take(value);
        values_.emplace_back(name.substr(2), value);
      }
    }
    return out;
  }

  /// Takes what the command line does not say from the members of a JSON object, named as the options are without the
  /// dashes in front, or with _ for -. \param where the object's file, for the error's sentence \throws Usage
  void take(const tl::Json& config, const std::string& where) {
    if (!config.is_object()) throw Usage(text(where, " holds no object of options"));
    for (const auto& member : config.members()) {
      std::string name = "--" + std::string(member.name);
      std::replace(name.begin(), name.end(), '_', '-');
      const auto found =
          std::find_if(options_.begin(), options_.end(), [&](const Option& o) { return o.name == name; });
      if (found == options_.end())
        throw Usage(text(where, ": there is no option ", member.name, "; the nearest is ", nearest(name).substr(2)));
      if (has(name) || member.value.is_null()) continue;
      const std::string value = member.value.is_string() ? member.value.string() : member.value.dump();
      if (found->value.empty()) {
        if (value != "true" && value != "false")
          throw Usage(text(where, ": ", member.name, " is true or false, not ", value));
        if (value == "false") continue;
      }
      found->take(value);
      given_.push_back(name);
      values_.emplace_back(name.substr(2), value);
    }
  }

  /// What was given, as `take` reads it.
  tl::Json told() const {
    tl::Json out = tl::Json::object();
    for (const auto& [name, value] : values_) out[name] = value;
    return out;
  }

  /// The text of `--help`.
  std::string help(std::string_view program) const {
    std::string out = text("usage: ", program, " ", usage_, "\n\n", what_, "\n");
    std::size_t width = std::string_view("--help").size();
    for (const Option& o : options_) width = std::max(width, o.shown().size());
    const auto line = [&](const std::string& name, const std::string& what) {
      out += text("  ", name, std::string(width - name.size() + 2, ' '), what, "\n");
    };
    out += "\n";
    for (const Option& o : options_) line(o.shown(), o.help);
    line("--help", "this text");
    if (!footer_.empty()) out += text("\n", footer_, "\n");
    return out;
  }

 private:
  struct Option {
    std::string name, value, help;
    std::function<void(std::string_view)> take;

    std::string shown() const { return value.empty() ? name : text(name, " ", value); }
  };

  /// A value of an option's type. \throws Usage
  template <class T>
  static T read(const std::string& name, std::string_view given) {
    if constexpr (std::is_arithmetic_v<T>) {
      T out{};
      const auto [end, error] = std::from_chars(given.data(), given.data() + given.size(), out);
      if (error == std::errc::result_out_of_range)
        throw Usage(text(name, " can't be as large as ", given, " (or as small)"));
      if (error != std::errc() || end != given.data() + given.size() || given.empty())
        throw Usage(text(name, " wants a ", std::is_integral_v<T> ? "whole " : "", "number",
                         std::is_unsigned_v<T> ? " from 0 on" : "", ", not \"", given, "\""));
      return out;
    } else {
      if (given.empty()) throw Usage(text(name, " wants a value that is not empty"));
      return T(given);
    }
  }

  std::string nearest(std::string_view name) const {
    std::vector<std::string> names;
    for (const Option& o : options_) names.push_back(o.name);
    names.emplace_back("--help");
    return tl::detail::nearest_names(name, names, 1).front();
  }

  std::string usage_, what_, footer_;
  std::vector<Option> options_;
  std::vector<std::string> given_;
  std::vector<std::pair<std::string, std::string>> values_;  ///< of what was given, without the dashes
};

/// One of some words. \throws Usage
inline void check_word(std::string_view option, const std::string& given, const std::vector<std::string>& words) {
  if (std::find(words.begin(), words.end(), given) != words.end()) return;
  std::string all;
  for (std::size_t i = 0; i < words.size(); ++i)
    all += text(i == 0 ? "" : i + 1 == words.size() ? " or " : ", ", words[i]);
  throw Usage(text(option, " is ", all, ", not \"", given, "\""));
}

/// An error's sentence on one line, whatever was quoted in it.
inline std::string one_line(std::string_view sentence) {
  std::string out(sentence);
  for (char& c : out)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  return out;
}

/// The program's own name, without its folder.
inline std::string name_of(char** argv) { return std::filesystem::path(argv[0]).filename().string(); }

/// Runs a program: `work(positional arguments)` returns the exit code. What it throws becomes one line.
template <class Work>
int run(int argc, char** argv, Arguments& arguments, Work&& work) {
  const std::string program = name_of(argv);
  const auto fail = [&](int code, std::string_view sentence, std::string_view more = {}) {
    std::fflush(stdout);
    std::fprintf(stderr, "%s\n", one_line(text(program, ": ", sentence, more)).c_str());
    return code;
  };
  // A full disk behind a redirection is found out here.
  const auto finished = [&](int code) {
    if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return code;
    return fail(1, "the output could not be written");
  };
  try {
    for (int i = 1; i < argc && std::string_view(argv[i]) != "--"; ++i)
      if (std::string_view(argv[i]) == "--help" || std::string_view(argv[i]) == "-h") {
        std::fputs(arguments.help(program).c_str(), stdout);
        return finished(0);
      }
    return finished(work(arguments.parse(argc, argv)));
  } catch (const Usage& e) {
    return fail(2, e.what(), " (see --help)");
  } catch (const std::exception& e) {
    return fail(1, e.what());
  }
}

}  // namespace tools

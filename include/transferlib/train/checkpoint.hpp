/// \file
/// A run's whole state in one file, from which it goes on as if it had never stopped.
#pragma once

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/files.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/text.hpp>
#include <transferlib/formats/checkpoint.hpp>
#include <transferlib/formats/json.hpp>
#include <transferlib/train/history.hpp>
#include <transferlib/train/options.hpp>
#include <transferlib/weights/state_dict.hpp>

namespace transferlib::detail {

/// Numbers as a tensor, which keeps every bit.
inline Tensor tensor_of_numbers(const std::vector<double>& numbers) {
  Tensor out = at::empty({static_cast<Index>(numbers.size())}, at::kDouble);
  std::copy(numbers.begin(), numbers.end(), out.data_ptr<double>());
  return out;
}

inline std::vector<double> numbers_of_tensor(const Tensor& t) {
  const Tensor flat = t.to(at::kDouble).contiguous();
  const double* p = flat.const_data_ptr<double>();
  return {p, p + flat.numel()};
}

/// Copies tensors by name into the ones that are there. \param what whose they are, for the error's sentence
/// \throws WeightsError where one is missing or has another shape
TRANSFERLIB_API void copy_into(const StateDict& to, const StateDict& from, std::string_view what);

/// What is in a checkpoint: tensors under "model.", "optimizer.", "average.", "callback." and "loop.", the history, and
/// what the run was begun with.
class RunState {
 public:
  static constexpr std::string_view format = "1";

  StateDict tensors;
  Described identity;  ///< options, data, surroundings: what must be the same for the same bytes

  void add(std::string_view prefix, const StateDict& state) {
    for (const auto& [name, tensor] : state) tensors.emplace_back(text(prefix, ".", name), tensor);
  }
  void add(std::string name, const std::vector<double>& numbers) {
    tensors.emplace_back(std::move(name), tensor_of_numbers(numbers));
  }

  /// The tensors under a prefix, without it.
  StateDict part(std::string_view prefix) const;
  bool has(std::string_view name) const {
    return std::any_of(tensors.begin(), tensors.end(), [&](const auto& item) { return item.first == name; });
  }
  /// Numbers by name. \throws FormatError where they are not there, or others than `count` (-1: any)
  std::vector<double> numbers(std::string_view name, Index count = -1) const {
    for (const auto& [own, tensor] : tensors)
      if (own == name && (count < 0 || tensor.numel() == count)) return numbers_of_tensor(tensor);
    throw FormatError(text("the checkpoint ", where_, " lacks \"", name, "\""));
  }
  void set_history(const History& history) { history_ = history; }
  const History& history() const { return history_; }

  /// Writes it, atomically. \throws FileError
  void write(const std::filesystem::path& path) const;

  /// \throws FileError, FormatError
  static RunState read(const std::filesystem::path& path);

  /// "batch was 100 and is 50", for each line that differs.
  std::vector<std::string> differences(const Described& now) const;

 private:
  std::string where_;
  History history_;
};

/// The checkpoints of one run, in a folder of their own.
class CheckpointFolder {
 public:
  /// Makes the folder and locks it. \throws FileError; TrainingError where another run has it
  explicit CheckpointFolder(const Checkpoints& options);

  /// The newest checkpoint that can be read; of those that can't, `note` is told.
  std::optional<RunState> newest(const std::function<void(std::string_view)>& note) const;

  /// Writes one and removes those that are not to be kept.
  /// \param best the step of the best epoch's; -1: none yet
  void write(const RunState& state, Index step, Index best);

 private:
  std::filesystem::path path_of(Index step) const {
    std::string digits = text(step);
    digits.insert(0, 8 - std::min<std::size_t>(8, digits.size()), '0');
    return options_.folder / text("step-", digits, ".safetensors");
  }

  /// The steps of the checkpoints that are there, rising.
  std::vector<Index> steps() const;

  Checkpoints options_;
  std::unique_ptr<FileLock> lock_;
};

}  // namespace transferlib::detail

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API void copy_into(const StateDict& to, const StateDict& from, std::string_view what) {
  const torch::NoGradGuard guard;
  for (const auto& [name, tensor] : to) {
    const auto found = std::find_if(from.begin(), from.end(), [&, n = name](const auto& f) { return f.first == n; });
    if (found == from.end() || found->second.sizes() != tensor.sizes())
      throw WeightsError(text("the checkpoint does not fit: its ", what, " has no \"", name, "\" of shape ",
                              shape_text(tensor.sizes())));
    tensor.detach().copy_(found->second);
  }
}

TRANSFERLIB_API StateDict RunState::part(std::string_view prefix) const {
  StateDict out;
  for (const auto& [name, tensor] : tensors)
    if (name.size() > prefix.size() && name.starts_with(prefix) && name[prefix.size()] == '.')
      out.emplace_back(name.substr(prefix.size() + 1), tensor);
  return out;
}

TRANSFERLIB_API void RunState::write(const std::filesystem::path& path) const {
  Json columns = Json::array();
  std::vector<double> values;
  for (const Epoch& epoch : history_.epochs) {
    Json names = Json::array();
    for (const auto& [name, value] : epoch.values) {
      names.push_back(name);
      values.push_back(value);
    }
    columns.push_back(std::move(names));
  }
  Json lines = Json::array();
  for (const auto& [name, value] : identity) lines.push_back(Json::array({name, value}));
  StateDict all = tensors;
  all.emplace_back("history", tensor_of_numbers(values));
  write_state_dict(
      path, all,
      {{"transferlib.checkpoint", std::string(format)}, {"identity", lines.dump()}, {"columns", columns.dump()}});
}

TRANSFERLIB_API RunState RunState::read(const std::filesystem::path& path) {
  const Checkpoint file = open_checkpoint(path);
  RunState out;
  out.where_ = path.string();
  const auto text_of = [&](const char* key) {
    const auto found = file.metadata.find(key);
    if (found == file.metadata.end()) throw FormatError(text("the file ", path, " is no checkpoint of a training"));
    return found->second;
  };
  if (const std::string found = text_of("transferlib.checkpoint"); found != format)
    throw FormatError(text("the checkpoint ", path, " has the format ", found, ", and this version reads ", format));
  using Lines = std::vector<std::vector<std::string>>;
  for (const auto& line : parse_json(text_of("identity"), text(path, ": identity")).get<Lines>()) {
    if (line.size() != 2) throw FormatError(text("the identity in ", path, " is no list of names and values"));
    out.identity.emplace_back(line[0], line[1]);
  }
  for (const TensorView& view : file.tensors) out.tensors.emplace_back(view.name, to_tensor(view, file.owner));
  const auto values = out.numbers("history");
  std::size_t next = 0;
  for (const auto& names : parse_json(text_of("columns"), text(path, ": columns")).get<Lines>()) {
    Epoch epoch;
    epoch.number = static_cast<Index>(out.history_.epochs.size()) + 1;
    for (const std::string& name : names) {
      if (next == values.size()) throw FormatError(text("the history in ", path, " has too few numbers"));
      epoch.values.emplace_back(name, values[next++]);
    }
    out.history_.epochs.push_back(std::move(epoch));
  }
  return out;
}

TRANSFERLIB_API std::vector<std::string> RunState::differences(const Described& now) const {
  std::vector<std::string> out;
  const auto value = [](const Described& lines, const std::string& name) -> const std::string* {
    for (const auto& line : lines)
      if (line.first == name) return &line.second;
    return nullptr;
  };
  for (const auto& [name, was] : identity) {
    const std::string* is = value(now, name);
    if (is == nullptr || *is != was) out.push_back(text(name, " was ", was, " and is ", is == nullptr ? "none" : *is));
  }
  for (const auto& [name, is] : now)
    if (value(identity, name) == nullptr) out.push_back(text(name, " was none and is ", is));
  return out;
}

TRANSFERLIB_API CheckpointFolder::CheckpointFolder(const Checkpoints& options) : options_(options) {
  make_folders(options.folder);
  lock_ = std::make_unique<FileLock>(options.folder / "lock", false);
  if (!lock_->held())
    throw TrainingError(text("another run is writing to ", options.folder,
                             " at this moment; wait for its end, or give this one another folder"));
  if (const auto there = steps(); !options.resume && !there.empty())
    throw OptionError(text("the folder ", options.folder, " holds the checkpoint of an earlier run, after step ",
                           there.back(), "; go on from it (resume), remove it, or give another folder"));
}

TRANSFERLIB_API std::optional<RunState> CheckpointFolder::newest(
    const std::function<void(std::string_view)>& note) const {
  auto all = steps();
  for (auto step = all.rbegin(); step != all.rend(); ++step) {
    try {
      return RunState::read(path_of(*step));
    } catch (const Error& e) {
      note(text("left out: ", e.what()));
    }
  }
  return std::nullopt;
}

TRANSFERLIB_API void CheckpointFolder::write(const RunState& state, Index step, Index best) {
  try {
    state.write(path_of(step));
  } catch (const FileError& e) {
    const auto there = steps();
    throw FileError(text(e.what(), "; ",
                         there.empty() ? std::string("no checkpoint of this run is there")
                                       : text("what was learnt after step ", there.back(),
                                              " is lost; the run can go on from there (resume)")));
  }
  const auto there = steps();
  const auto keep = static_cast<std::size_t>(options_.keep);
  for (std::size_t i = 0; i + keep < there.size(); ++i)
    if (there[i] != best) remove_file(path_of(there[i]));
}

TRANSFERLIB_API std::vector<Index> CheckpointFolder::steps() const {
  std::vector<Index> out;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(options_.folder, ignored)) {
    const std::string name = entry.path().filename().string();
    if (!glob_matches("step-*.safetensors", name)) continue;
    Index step = 0;
    const char* const end = name.data() + name.size() - std::string_view(".safetensors").size();
    if (const auto r = std::from_chars(name.data() + 5, end, step); r.ec == std::errc() && r.ptr == end)
      out.push_back(step);
  }
  std::sort(out.begin(), out.end());
  return out;
}

}  // namespace transferlib::detail

#endif  // TRANSFERLIB_DEFINES

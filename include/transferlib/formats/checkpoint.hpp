/// \file
/// Opens a file of weights, whatever it is called: what it is, its bytes tell.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/files.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/formats/json.hpp>
#include <transferlib/formats/keras.hpp>
#include <transferlib/formats/pth.hpp>
#include <transferlib/formats/safetensors.hpp>
#include <transferlib/formats/tensor_view.hpp>

namespace transferlib {

namespace detail {

/// What bytes are that are no checkpoint, and what to do about it.
TRANSFERLIB_API std::string describe_foreign(std::span<const std::byte> bytes);

}  // namespace detail

/// Reads a checkpoint's bytes: safetensors, `.pth` of either format, or Keras's (see `parse_keras`). The tensors look
/// into `bytes`, which must outlive them, or into what `owner` holds.
/// \param where the file's name, for the error's sentence
/// \throws FormatError, also for what is no checkpoint: the sentence says what it is and what to do
TRANSFERLIB_API Checkpoint parse_checkpoint(std::span<const std::byte> bytes, std::string_view where,
                                            const CheckpointOptions& options = {});

/// What the `config.json` of a folder as Hugging Face keeps it calls the network ("resnet50"); empty where there is no
/// such file, or it does not say. \throws FileError, FormatError if it can't be read
TRANSFERLIB_API std::string architecture_of(const std::filesystem::path& folder);

namespace detail {

inline Checkpoint open_file_of_weights(const std::filesystem::path& path, const CheckpointOptions& options) {
  const auto file = MappedFile::open(path);
  Checkpoint out = parse_checkpoint(file->bytes(), path.string(), options);
  if (out.owner == nullptr) out.owner = file;
  return out;
}

/// The tensors of several files as one checkpoint.
/// \param index names the files: `{"weight_map": {"tensor": "file", …}}`, files that lie beside it
TRANSFERLIB_API Checkpoint open_pieces(const std::filesystem::path& index, const CheckpointOptions& options);

/// Opens a folder as Hugging Face keeps it: `config.json` beside the weights, which are one file or pieces.
TRANSFERLIB_API Checkpoint open_folder(const std::filesystem::path& folder, const CheckpointOptions& options);

}  // namespace detail

/// Opens a checkpoint: safetensors, `.pth` of either format, or Keras's, told apart by their bytes; or a folder with
/// such a file as Hugging Face keeps it. The file is mapped, not read: its bytes come into memory when they are touched
/// (a `.pth`'s are touched once, for their checksums), and stay mapped as long as `owner` does; Keras's are copied.
/// They need not be aligned for their types. \throws FileError if it can't be opened; FormatError if it is no
/// checkpoint, or damaged
inline Checkpoint open_checkpoint(const std::filesystem::path& path, const CheckpointOptions& options = {}) {
  std::error_code ignored;
  return std::filesystem::is_directory(path, ignored) ? detail::open_folder(path, options)
                                                      : detail::open_file_of_weights(path, options);
}

/// Takes the wrappers' prefixes off all names, where all have them: "module." (DataParallel), "model." (Lightning),
/// "backbone.", "_orig_mod." (torch.compile), one after the other. \returns what was taken off: "module.model."
TRANSFERLIB_API std::string strip_common_prefix(Checkpoint& checkpoint);

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API std::string describe_foreign(std::span<const std::byte> bytes) {
  const std::string_view b(reinterpret_cast<const char*>(bytes.data()), std::min<std::size_t>(bytes.size(), 512));
  std::string_view shown = b;
  if (shown.starts_with("\xEF\xBB\xBF")) shown.remove_prefix(3);  // a byte order mark
  shown.remove_prefix(std::min(shown.find_first_not_of(" \t\r\n"), shown.size()));
  std::string lower(shown.substr(0, 64));
  for (char& c : lower)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  using namespace std::string_view_literals;
  if (b.starts_with("version https://git-lfs"))
    return "a Git LFS pointer, not the file itself; run `git lfs pull` in its repository, or download the file itself";
  if (lower.starts_with("<!doctype html") || lower.starts_with("<html"))
    return "an HTML page, which a download gives in place of the file (a login, an error); download it again from the "
           "file's own address";
  if (lower.starts_with("<?xml"))
    return "an XML text, perhaps a server's error in place of the file; look into it and download again";
  if (b.starts_with("\x1f\x8b"sv)) return "compressed by gzip; unpack it with `gunzip`";
  if (b.size() >= 262 && b.substr(257, 5) == "ustar") return "a tar archive; unpack it, the checkpoint may be inside";
  if (b.starts_with("GGUF")) return "a GGUF file of llama.cpp; convert it to safetensors in Python";
  if (b.starts_with("\x93NUMPY"sv)) return "a NumPy array; load it in Python and save it as safetensors";
  if (b.size() >= 8 && b.substr(4, 4) == "TFL3")
    return "a TensorFlow Lite model; use the original's weights as .pth or safetensors";
  // major 0, minor 1 or 2, revision, then how many pictures were seen
  if (b.size() >= 16 && b.substr(0, 4) == "\0\0\0\0"sv && (b[4] == 1 || b[4] == 2) && b.substr(5, 3) == "\0\0\0"sv &&
      b.substr(9, 3) == "\0\0\0"sv)
    return "darknet weights, which need the network's .cfg beside them; open them with the darknet reader";
  if (b.size() >= 2 && b[0] == '\x80' && b[1] >= 1 && b[1] <= 5)
    return "a pickle that torch.save did not write; in Python, load it and torch.save the state dict";
  if (b.starts_with('{'))
    return "a JSON text; of a checkpoint in pieces (model.safetensors.index.json), open the folder";
  if (b.size() >= 2 && b[0] == '\x08' && b[1] >= 1 && b[1] <= 12 && b.find("onnx") != std::string_view::npos)
    return "an ONNX model; use the original's weights as .pth or safetensors";
  if (b.find_first_not_of('\0') == std::string_view::npos)
    return "zeros at least at its beginning: a download or a copy that was not finished; do it again";
  return "of no format that is known here; safetensors, .pth (torch.save) and Keras's files can be read";
}

}  // namespace transferlib::detail

namespace transferlib {

TRANSFERLIB_API Checkpoint parse_checkpoint(std::span<const std::byte> bytes, std::string_view where,
                                            const CheckpointOptions& options) {
  using detail::text;
  if (bytes.empty())
    throw FormatError(text(where, ": the file is empty (0 bytes); its download or copy failed, do it again"));
  const auto refuse_entry = [&](std::string_view what) {
    if (!options.entry.empty())
      throw OptionError(text(where, ": the entry ", detail::in_quotes(options.entry), " is wanted, and ", what,
                             " have no entries; leave it empty"));
  };
  if (is_hdf5(bytes) || is_keras_archive(bytes, where)) {
    refuse_entry("Keras's files");
    return parse_keras(bytes, where);
  }
  if (is_zip(bytes) || is_legacy_pth(bytes)) return parse_pth(bytes, where, options);
  // A header's length that is plausible, or that a cut file would have, and its '{'.
  std::uint64_t length = 0;
  if (bytes.size() > 8) std::memcpy(&length, bytes.data(), 8);
  if (bytes.size() > 8 && static_cast<char>(bytes[8]) == '{' && length < (std::uint64_t{1} << 40)) {
    refuse_entry("safetensors");
    return parse_safetensors(bytes, where);
  }
  throw FormatError(text(where, ": the file is ", detail::describe_foreign(bytes)));
}

TRANSFERLIB_API std::string architecture_of(const std::filesystem::path& folder) {
  const std::filesystem::path config = folder / "config.json";
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(config, ignored)) return {};
  const Json json = parse_json(read_file(config), config.string());
  if (!json.is_object() || !json.contains("architecture") || !json["architecture"].is_string()) return {};
  return json["architecture"].get<std::string>();
}

}  // namespace transferlib

namespace transferlib::detail {

TRANSFERLIB_API Checkpoint open_pieces(const std::filesystem::path& index, const CheckpointOptions& options) {
  const std::string where = index.string();
  const Json json = parse_json(read_file(index), where);
  if (!json.is_object() || !json.contains("weight_map") || !json["weight_map"].is_object())
    throw FormatError(
        text(where, ": the index has no object \"weight_map\" that names the tensors' files; copy it again"));
  std::map<std::string, std::set<std::string>> wanted;  // names by file
  for (const auto& [name, file] : json["weight_map"].members()) {
    if (!file.is_string() || file.string().empty() || file.string().find('/') != std::string::npos)
      throw FormatError(text(where, ": the file of tensor ", in_quotes(name),
                             " is no name of a file beside the index; copy the index again"));
    wanted[file.string()].insert(name);
  }
  auto owners = std::make_shared<std::vector<std::shared_ptr<const void>>>();
  Checkpoint out;
  for (auto& [file, names] : wanted) {
    Checkpoint piece = open_file_of_weights(index.parent_path() / file, options);
    for (TensorView& tensor : piece.tensors) {
      if (names.erase(tensor.name) == 0)
        throw FormatError(text(where, ": the tensor ", in_quotes(tensor.name), " of ", file,
                               " is not in the index; copy index and files of one version"));
      tensor.storage_id = out.tensors.size();
      out.tensors.push_back(std::move(tensor));
    }
    if (!names.empty())
      throw FormatError(text(where, ": the tensor ", in_quotes(*names.begin()), " is not in ", file,
                             "; copy index and files of one version"));
    out.format = piece.format;
    owners->push_back(std::move(piece.owner));
  }
  out.owner = std::move(owners);
  return out;
}

TRANSFERLIB_API Checkpoint open_folder(const std::filesystem::path& folder, const CheckpointOptions& options) {
  std::error_code ignored;
  for (const char* name :
       {"model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"}) {
    const std::filesystem::path file = folder / name;
    if (!std::filesystem::is_regular_file(file, ignored)) continue;
    return std::string_view(name).ends_with(".json") ? open_pieces(file, options) : open_file_of_weights(file, options);
  }
  throw FileError(
      text("cannot open ", folder,
           ": it is a folder, and has no model.safetensors, no pytorch_model.bin, and "
           "no index of their pieces, as Hugging Face's folders do; give a file of weights or such a folder"));
}

}  // namespace transferlib::detail

namespace transferlib {

TRANSFERLIB_API std::string strip_common_prefix(Checkpoint& checkpoint) {
  std::string out;
  for (bool again = !checkpoint.tensors.empty(); again;) {
    again = false;
    for (const std::string_view prefix : {"module.", "model.", "backbone.", "_orig_mod."}) {
      if (!std::all_of(checkpoint.tensors.begin(), checkpoint.tensors.end(), [&](const TensorView& t) {
            return t.name.size() > prefix.size() && t.name.starts_with(prefix);
          }))
        continue;
      for (TensorView& t : checkpoint.tensors) t.name.erase(0, prefix.size());
      out += prefix;
      again = true;
    }
  }
  return out;
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

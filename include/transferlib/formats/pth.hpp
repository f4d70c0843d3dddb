/// \file
/// What `torch.save` writes and `torch.load` reads: the zip format (PyTorch 1.6 and later) and the legacy one (before),
/// read without LibTorch; the zip format written. The formats are described by `torch/serialization.py` alone.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/files.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/formats/pickle.hpp>
#include <transferlib/formats/tensor_view.hpp>
#include <transferlib/formats/zip.hpp>

namespace transferlib {

/// What is wanted of a file that may hold several dictionaries of tensors.
struct CheckpointOptions {
  /// The entry of a `.pth` whose tensors are wanted: "model_ema", "models.teacher". Empty: chosen, see `parse_pth`.
  std::string entry;
};

namespace detail {

/// The bytes of a storage that a persistent id names.
struct PthStorage {
  DType dtype = DType::u8;
  std::int64_t count = 0;  // numbers of `dtype`; bytes, where untyped
  std::span<const std::byte> bytes;
};

/// A tensor's storage id, ("storage", type, key, location, count[, view]), taken apart.
struct PthStorageId {
  std::string_view key;
  DType dtype = DType::u8;
  std::int64_t count = 0;
  std::int64_t view_offset = 0, view_count = -1;  // of the legacy format, in numbers; -1: none
};

/// From a pickle's tree to views.
class PthReader {
 public:
  using Ref = Pickle::Ref;
  using Kind = Pickle::Kind;

  PthReader(const Pickle& pickle, std::size_t pickle_bytes, std::string_view where)
      : pickle_(pickle), where_(where), budget_(pickle_bytes) {}

  /// All storages that the pickle names, without their bytes, by key.
  std::map<std::string_view, PthStorage>& storages();

  /// The tensors of the dictionary that is wanted; the storages must have their bytes.
  void read(const CheckpointOptions& options, Checkpoint& out);

 private:
  template <class... Parts>
  [[noreturn]] void fail(const Parts&... parts) const {
    throw FormatError(text(where_, ": ", parts...));
  }

  std::string name_of(Ref key) const {
    if (pickle_.kind(key) == Kind::string || pickle_.kind(key) == Kind::bytes) return std::string(pickle_.string(key));
    if (pickle_.kind(key) == Kind::integer) return text(pickle_.integer(key));
    return "?";
  }
  bool is_tensor(Ref r) const;
  bool has_tensor(Ref dict) const {
    bool found = false;
    pickle_.for_pairs(dict, [&](Ref, Ref value) { return !(found = is_tensor(value)); });
    return found;
  }

  /// What may hold tensors by name.
  bool is_group(Ref r) const { return pickle_.kind(r) == Kind::dict || is_record(r); }
  /// What has attributes: an object, or what an unknown function made that was given some.
  bool is_record(Ref r) const {
    return pickle_.kind(r) == Kind::object || (is_unknown_call(r) && pickle_.items(r) > 2);
  }
  bool is_unknown_call(Ref r) const {
    return pickle_.kind(r) == Kind::call &&
           pickle_.global(static_cast<Ref>(pickle_.first_items<1>(r)[0])) == PickleGlobal::unknown;
  }
  /// \throws FormatError where an unknown function makes a value of the dictionary that is wanted: it may be a tensor
  void check_calls(Ref dict) const;

  /// The first of the usual names under which training scripts keep a model, if `dict` has one that is a dictionary or
  /// a whole module.
  std::string_view known_entry(Ref dict) const;

  /// Goes to the entry of `dict` whose key `rest` is, or begins with before a '.'; the other entries are skipped.
  Ref descend(Ref dict, std::string_view& rest, std::string& prefix, Checkpoint& out);

  // A pickle of a few bytes can name one value over and over. An honest one takes more bytes for a tensor than this.
  void pay(std::size_t& spent, std::size_t amount, std::size_t rate) const {
    spent += amount;
    if (spent / rate > budget_ + 64)
      fail("its pickle of ", budget_, " bytes describes more than it can hold; the file is damaged");
  }
  void add_name(std::vector<std::string>& names, const std::string& prefix, const std::string& name) {
    pay(spent_names_, prefix.size() + name.size() + 8, 8);
    names.push_back(prefix + name);
  }

  /// Takes a dictionary's tensors, and down to `depth` those of dictionaries in it, their names joined by dots.
  void collect(Ref dict, const std::string& prefix, const std::string& outer, int depth, Checkpoint& out);

  /// Takes the tensors of an object under the names of its attributes. A module of PyTorch, which its `_parameters`
  /// tell, has those of its parameters, of the buffers that belong to its state, and of its modules: the names of its
  /// `state_dict()`. Tensors that are other attributes of it are skipped.
  void collect_object(Ref object, const std::string& prefix, const std::string& outer, int depth, Checkpoint& out);
  /// The strings of a container, which Python may have wrapped: set([…]).
  void strings_in(Ref r, int depth, std::set<std::string_view>& out) const;
  bool has_tensor_below(Ref dict, int depth);

  std::int64_t integer(std::int64_t ref, std::string_view what) const {
    if (ref < 0 || pickle_.kind(static_cast<Ref>(ref)) != Kind::integer)
      fail(what, " is no integer; the file is damaged");
    return pickle_.integer(static_cast<Ref>(ref));
  }
  std::vector<std::int64_t> integers(std::int64_t ref, std::string_view what);

  PthStorageId storage_id(Ref persistent) const;

  TensorView tensor(Ref call, std::string name);

  const Pickle& pickle_;
  std::string_view where_;
  std::size_t budget_, spent_names_ = 0, spent_sides_ = 0;
  std::map<std::string_view, PthStorage> storages_;
  std::map<std::string_view, std::size_t> storage_numbers_;
};

TRANSFERLIB_API Checkpoint parse_zip_pth(std::span<const std::byte> bytes, std::string_view where,
                                         const CheckpointOptions& options);

/// The first pickle of a legacy file: this number, of 10 bytes.
inline constexpr std::string_view legacy_magic = "\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";

TRANSFERLIB_API Checkpoint parse_legacy_pth(std::span<const std::byte> bytes, std::string_view where,
                                            const CheckpointOptions& options);

}  // namespace detail

/// Whether bytes begin as a legacy checkpoint does.
TRANSFERLIB_API bool is_legacy_pth(std::span<const std::byte> bytes);

/// Reads a `.pth` of either format. Nested files are searched for the model's tensors: while a dictionary holds no
/// tensor itself, the first of these entries is entered that is a dictionary: `state_dict`, `model`,
/// `model_state_dict`, `model_state`, `module`, `net`, `network`, `params`, `weights`, `model_ema`, `state_dict_ema`,
/// `ema_state_dict`, `params_ema`, `ema`. If none is there, the tensors of all dictionaries inside are taken, names
/// joined by dots. A whole module that was pickled (`torch.save(model)`, as YOLO v5 and v7 are published) is a
/// dictionary too: its tensors have the names of its `state_dict()`; nothing of its classes is needed or run. What was
/// not taken is listed in `skipped`. The order is that of the dictionary. Whether a storage came from a GPU does not
/// matter, nor does a Parameter's `requires_grad`. \param where the file's name, for the error's sentence \throws
/// FormatError
inline Checkpoint parse_pth(std::span<const std::byte> bytes, std::string_view where,
                            const CheckpointOptions& options = {}) {
  return is_zip(bytes) ? detail::parse_zip_pth(bytes, where, options) : detail::parse_legacy_pth(bytes, where, options);
}

/// Writes a `.pth`, atomically: a plain dictionary of tensors, which `torch.load(path, weights_only=True)` reads, with
/// `mmap=True` too. Shared storages stay shared, strides and offsets stay as they are; the same tensors give the same
/// bytes. A storage's bytes are written as a whole.
/// \throws FileError; FormatError if two tensors have one name, or one storage id and different storages
TRANSFERLIB_API void write_pth(const std::filesystem::path& path, const std::vector<TensorView>& tensors);

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API std::map<std::string_view, PthStorage>& PthReader::storages() {
  for (Ref r = 0; r < pickle_.count(); ++r) {
    if (pickle_.kind(r) != Kind::persistent) continue;
    const PthStorageId id = storage_id(r);
    const auto [found, fresh] = storages_.try_emplace(id.key, PthStorage{id.dtype, id.count, {}});
    if (!fresh && (found->second.dtype != id.dtype || found->second.count != id.count))
      fail("the storage ", in_quotes(id.key), " has ", found->second.count, " ", to_string(found->second.dtype),
           " in one place and ", id.count, " ", to_string(id.dtype), " in another; the file is damaged");
  }
  return storages_;
}

TRANSFERLIB_API void PthReader::read(const CheckpointOptions& options, Checkpoint& out) {
  std::size_t id = 0;
  for (const auto& item : storages_) storage_numbers_[item.first] = id++;
  Ref chosen = pickle_.root();
  if (!is_group(chosen))
    fail("holds ", is_tensor(chosen) ? "a single tensor" : "no dictionary",
         ", and a dictionary of tensors by name is wanted; in Python, save model.state_dict()");
  std::string prefix;  // of names that are skipped
  if (!options.entry.empty()) {
    std::string_view rest = options.entry;
    while (!rest.empty()) chosen = descend(chosen, rest, prefix, out);
  } else {
    for (int depth = 0; depth < 4 && !has_tensor(chosen); ++depth) {
      const std::string_view key = known_entry(chosen);
      if (key.empty()) break;
      std::string_view rest = key;
      chosen = descend(chosen, rest, prefix, out);
    }
  }
  out.entry = prefix;
  if (!is_group(chosen))
    fail("its entry ", in_quotes(out.entry), " is no dictionary; choose one that holds tensors by name");
  const std::string outer = prefix.empty() ? prefix : prefix + ".";
  if (is_record(chosen)) {
    collect_object(chosen, "", outer, 0, out);
  } else {
    check_calls(chosen);
    collect(chosen, "", outer, has_tensor(chosen) ? 0 : 3, out);
  }
  if (out.tensors.empty())
    fail(out.entry.empty() ? "" : "its entry ", out.entry.empty() ? std::string() : in_quotes(out.entry),
         out.entry.empty() ? "" : " ", "holds no tensors; its entries are ",
         out.skipped.empty() ? std::string("none") : first_few(out.skipped), "; in Python, save model.state_dict()");
  std::vector<std::string_view> names;
  for (const TensorView& t : out.tensors) names.push_back(t.name);
  std::sort(names.begin(), names.end());
  if (const auto twice = std::adjacent_find(names.begin(), names.end()); twice != names.end())
    fail("two tensors have the name ", in_quotes(*twice), "; the file is damaged");
}

TRANSFERLIB_API bool PthReader::is_tensor(Ref r) const {
  if (pickle_.kind(r) != Kind::call) return false;
  switch (pickle_.global(static_cast<Ref>(pickle_.first_items<1>(r)[0]))) {
    case PickleGlobal::rebuild_tensor:
    case PickleGlobal::rebuild_tensor_2:
    case PickleGlobal::rebuild_tensor_3:
    case PickleGlobal::rebuild_parameter:
    case PickleGlobal::rebuild_from_type:
      return true;
    default:
      return false;
  }
}

TRANSFERLIB_API void PthReader::check_calls(Ref dict) const {
  pickle_.for_pairs(dict, [&](Ref key, Ref value) {
    if (is_unknown_call(value) && !is_record(value))
      fail("its entry ", in_quotes(name_of(key)), " is made by ",
           in_quotes(pickle_.name(static_cast<Ref>(pickle_.first_items<1>(value)[0])).substr(0, 120)),
           ", which plain weights don't need, and nothing in a file is ever run; in Python, save the weights alone: "
           "torch.save(model.state_dict(), path)");
    return true;
  });
}

TRANSFERLIB_API std::string_view PthReader::known_entry(Ref dict) const {
  static constexpr std::string_view usual[] = {
      "state_dict", "model",   "model_state_dict", "model_state",    "module",         "net",        "network",
      "params",     "weights", "model_ema",        "state_dict_ema", "ema_state_dict", "params_ema", "ema"};
  std::size_t best = std::size(usual);
  pickle_.for_pairs(dict, [&](Ref key, Ref value) {
    if (pickle_.kind(key) == Kind::string && is_group(value))
      for (std::size_t i = 0; i < best; ++i)
        if (pickle_.string(key) == usual[i]) best = i;
    return true;
  });
  return best < std::size(usual) ? usual[best] : std::string_view();
}

TRANSFERLIB_API PthReader::Ref PthReader::descend(Ref dict, std::string_view& rest, std::string& prefix,
                                                  Checkpoint& out) {
  Ref found = 0;
  std::string_view key;
  pickle_.for_pairs(dict, [&](Ref k, Ref v) {
    const std::string_view name = pickle_.kind(k) == Kind::string ? pickle_.string(k) : std::string_view();
    if (!name.empty() && name.size() > key.size() && rest.starts_with(name) &&
        (rest.size() == name.size() || rest[name.size()] == '.'))
      key = name, found = v;
    return true;
  });
  std::vector<std::string> others;
  const std::string before = prefix.empty() ? prefix : prefix + ".";
  pickle_.for_pairs(dict, [&](Ref k, Ref v) {
    if (key.empty() || v != found) add_name(others, before, name_of(k));
    return true;
  });
  if (key.empty())
    fail("has no entry ", in_quotes(before + std::string(rest)), "; the entries there are ",
         others.empty() ? std::string("none") : first_few(others));
  out.skipped.insert(out.skipped.end(), others.begin(), others.end());
  prefix = before + std::string(key);
  rest.remove_prefix(std::min(rest.size(), key.size() + 1));
  return found;
}

TRANSFERLIB_API void PthReader::collect(Ref dict, const std::string& prefix, const std::string& outer, int depth,
                                        Checkpoint& out) {
  pickle_.for_pairs(dict, [&](Ref key, Ref value) {
    const std::string name = name_of(key);
    if (is_tensor(value) && pickle_.kind(key) == Kind::string) {
      pay(spent_names_, prefix.size() + name.size() + 8, 8);
      out.tensors.push_back(tensor(value, prefix + name));
    } else if (depth > 0 && pickle_.kind(value) == Kind::dict && pickle_.kind(key) == Kind::string &&
               has_tensor_below(value, depth - 1)) {
      collect(value, prefix + name + ".", outer, depth - 1, out);
    } else if (const std::size_t before = out.tensors.size(); depth > 0 && is_record(value)) {
      collect_object(value, prefix + name + ".", outer, 0, out);
      if (out.tensors.size() == before) add_name(out.skipped, outer + prefix, name);
    } else {
      add_name(out.skipped, outer + prefix, name);
    }
    return true;
  });
}

TRANSFERLIB_API void PthReader::collect_object(Ref object, const std::string& prefix, const std::string& outer,
                                               int depth, Checkpoint& out) {
  if (depth > 64) fail("its objects lie more than 64 deep in one another at ", in_quotes(prefix.substr(0, 80)));
  pay(spent_names_, prefix.size() + 8, 8);
  Ref parameters = 0, buffers = 0, modules = 0;
  std::set<std::string_view> passing;
  const auto attributes = [&](const auto& take) {
    pickle_.for_items(object, [&](Ref given) {
      pickle_.for_pairs(given, take);
      return true;
    });
  };
  attributes([&](Ref key, Ref value) {
    const std::string_view name = pickle_.string(key);
    if (name == "_parameters") parameters = value;
    if (name == "_buffers") buffers = value;
    if (name == "_modules") modules = value;
    if (name == "_non_persistent_buffers_set") strings_in(value, 3, passing);
    return true;
  });
  const bool is_module = pickle_.kind(parameters) == Kind::dict;
  const auto take = [&](Ref key, Ref value) {
    const std::string name = name_of(key);
    if (is_tensor(value)) {
      pay(spent_names_, prefix.size() + name.size() + 8, 8);
      out.tensors.push_back(tensor(value, prefix + name));
    } else if (is_record(value)) {
      collect_object(value, prefix + name + ".", outer, depth + 1, out);
    } else if (!is_module && pickle_.kind(value) == Kind::dict) {
      collect(value, prefix + name + ".", outer, 2, out);
    }
    return true;
  };
  if (!is_module) return attributes(take);
  check_calls(parameters);
  check_calls(buffers);
  pickle_.for_pairs(parameters, take);
  pickle_.for_pairs(buffers,
                    [&](Ref key, Ref value) { return passing.count(pickle_.string(key)) != 0 || take(key, value); });
  pickle_.for_pairs(modules, take);
  attributes([&](Ref key, Ref value) {
    if (is_tensor(value)) add_name(out.skipped, outer + prefix, name_of(key));
    return true;
  });
}

TRANSFERLIB_API void PthReader::strings_in(Ref r, int depth, std::set<std::string_view>& out) const {
  if (pickle_.kind(r) == Kind::string) out.insert(pickle_.string(r));
  if (depth > 0)
    pickle_.for_items(r, [&](Ref item) {
      strings_in(item, depth - 1, out);
      return true;
    });
}

TRANSFERLIB_API bool PthReader::has_tensor_below(Ref dict, int depth) {
  bool found = false;
  pickle_.for_pairs(dict, [&](Ref key, Ref value) {
    pay(spent_names_, 1, 8);
    found = pickle_.kind(key) == Kind::string &&
            (is_tensor(value) || (depth > 0 && is_record(value)) ||
             (depth > 0 && pickle_.kind(value) == Kind::dict && has_tensor_below(value, depth - 1)));
    return !found;
  });
  return found;
}

TRANSFERLIB_API std::vector<std::int64_t> PthReader::integers(std::int64_t ref, std::string_view what) {
  std::vector<std::int64_t> out;
  const auto r = static_cast<Ref>(ref);
  if (ref < 0 || (pickle_.kind(r) != Kind::tuple && pickle_.kind(r) != Kind::list))
    fail(what, " is no tuple; the file is damaged");
  pay(spent_sides_, pickle_.items(r), 1);
  out.reserve(pickle_.items(r));
  pickle_.for_items(r, [&](Ref item) {
    out.push_back(integer(item, what));
    return true;
  });
  return out;
}

TRANSFERLIB_API PthStorageId PthReader::storage_id(Ref persistent) const {
  const auto tuple = static_cast<Ref>(pickle_.first_items<1>(persistent)[0]);
  const auto part = pickle_.first_items<6>(tuple);
  const auto is = [&](std::size_t i, Kind kind) {
    return part[i] >= 0 && pickle_.kind(static_cast<Ref>(part[i])) == kind;
  };
  if (pickle_.kind(tuple) != Kind::tuple || !is(0, Kind::string) || !is(1, Kind::global) || !is(2, Kind::string) ||
      pickle_.string(static_cast<Ref>(part[0])) != "storage")
    fail("a persistent id in its pickle names no storage; the file is damaged, or no checkpoint");
  PthStorageId out;
  out.key = pickle_.string(static_cast<Ref>(part[2]));
  const auto type = static_cast<Ref>(part[1]);
  const std::string where = text("the storage ", in_quotes(out.key));
  if (pickle_.global(type) == PickleGlobal::typed_storage)
    out.dtype = pickle_.dtype(type);
  else if (pickle_.global(type) != PickleGlobal::untyped_storage)
    fail(where, " has the type ", pickle_.name(type).substr(0, 120), ", which is none; the file is damaged");
  out.count = integer(part[4], where + ": its count");
  if (multiply(out.count, size_of(out.dtype)) < 0) fail(where, " has a count of ", out.count, "; the file is damaged");
  if (is(5, Kind::tuple)) {  // (key of the view, offset, count)
    const auto view = pickle_.first_items<3>(static_cast<Ref>(part[5]));
    out.view_offset = integer(view[1], where + ": its view's offset");
    out.view_count = integer(view[2], where + ": its view's count");
    if (out.view_offset < 0 || out.view_count < 0 || out.view_offset > out.count ||
        out.view_count > out.count - out.view_offset)
      fail(where, " has ", out.count, " numbers, and a view of ", out.view_count, " from ", out.view_offset,
           " on; the file is damaged");
  }
  return out;
}

TRANSFERLIB_API TensorView PthReader::tensor(Ref call, std::string name) {
  const std::string at = text("tensor ", in_quotes(name));
  for (int depth = 0; depth < 4; ++depth) {
    const auto parts = pickle_.first_items<2>(call);
    const auto arguments = static_cast<Ref>(parts[1]);
    PickleGlobal role = pickle_.global(static_cast<Ref>(parts[0]));
    auto argument = pickle_.first_items<8>(arguments);
    if (role == PickleGlobal::rebuild_from_type) {  // (function, type, arguments, state)
      if (argument[0] < 0 || argument[2] < 0) break;
      role = pickle_.global(static_cast<Ref>(argument[0]));
      argument = pickle_.first_items<8>(static_cast<Ref>(argument[2]));
    }
    if (role == PickleGlobal::rebuild_parameter) {
      if (argument[0] < 0 || !is_tensor(static_cast<Ref>(argument[0]))) break;
      call = static_cast<Ref>(argument[0]);
      continue;
    }
    if (role != PickleGlobal::rebuild_tensor && role != PickleGlobal::rebuild_tensor_2 &&
        role != PickleGlobal::rebuild_tensor_3)
      break;
    if (argument[0] < 0 || pickle_.kind(static_cast<Ref>(argument[0])) != Kind::persistent)
      fail(at, " has no storage; the file is damaged");
    const PthStorageId id = storage_id(static_cast<Ref>(argument[0]));
    TensorView out;
    out.name = std::move(name);
    out.dtype = id.dtype;
    out.storage_offset = integer(argument[1], at + ": its offset");
    out.shape = integers(argument[2], at + ": its shape");
    out.strides = integers(argument[3], at + ": its strides");
    std::int64_t extras = argument[6];  // {"conj": True} of a lazily conjugated or negated view
    if (role == PickleGlobal::rebuild_tensor_3) {
      const auto dtype = static_cast<Ref>(argument[6]);
      if (argument[6] < 0 || pickle_.global(dtype) != PickleGlobal::dtype)
        fail(at, " has no dtype; the file is damaged");
      out.dtype = pickle_.dtype(dtype);
      extras = argument[7];
    }
    if (extras >= 0)
      pickle_.for_pairs(static_cast<Ref>(extras), [&](Ref key, Ref value) {
        if (pickle_.kind(value) == Kind::boolean && pickle_.integer(value) != 0)
          fail(at, " is a lazy view (", name_of(key), "); in Python, save tensor.resolve_conj().resolve_neg()");
        return true;
      });
    out.storage = storages_.at(id.key).bytes;
    out.storage_id = storage_numbers_.at(id.key);
    if (id.view_count >= 0) {
      const auto width = static_cast<std::size_t>(size_of(id.dtype));
      out.storage = out.storage.subspan(static_cast<std::size_t>(id.view_offset) * width,
                                        static_cast<std::size_t>(id.view_count) * width);
    }
    check_view(out, text(where_, ": ", at));
    return out;
  }
  fail(at, " is rebuilt from what is no tensor; the file is damaged");
}

TRANSFERLIB_API Checkpoint parse_zip_pth(std::span<const std::byte> bytes, std::string_view where,
                                         const CheckpointOptions& options) {
  const std::vector<ZipEntry> entries = parse_zip(bytes, where);
  // "archive/data.pkl": the folder's name is the writer's choice.
  constexpr std::string_view pickle_name = "data.pkl";
  std::string_view folder;
  const ZipEntry* data = nullptr;
  std::map<std::string_view, const ZipEntry*> by_name;
  bool checksums = false, script = false, numpy = false;
  for (const ZipEntry& entry : entries) {
    checksums = checksums || entry.checksum != 0;
    by_name[entry.name] = &entry;
    numpy = numpy || entry.name.ends_with(".npy");
    script = script || entry.name.ends_with("/constants.pkl") || entry.name.find("/code/") != std::string_view::npos;
    if (entry.name == pickle_name || (entry.name.ends_with(pickle_name) && entry.name[entry.name.size() - 9] == '/')) {
      if (data != nullptr)
        throw FormatError(text(where, ": two pickles, ", in_quotes(data->name), " and ", in_quotes(entry.name),
                               ", where a checkpoint has one; save it again"));
      data = &entry;
      folder = entry.name.substr(0, entry.name.size() - pickle_name.size());
    }
  }
  if (script)
    throw FormatError(text(where,
                           ": a TorchScript archive (torch.jit.save, or C++'s torch::save), which holds a program; in "
                           "Python, torch.save(torch.jit.load(path).state_dict(), new_path), and use that file"));
  if (data == nullptr)
    throw FormatError(text(
        where, ": a zip archive ", numpy ? "of NumPy arrays (.npz)" : "without a data.pkl",
        ", not a checkpoint of PyTorch; its entries are ",
        [&] {
          std::vector<std::string_view> names;
          for (const ZipEntry& entry : entries) names.push_back(entry.name.substr(0, 80));
          return names.empty() ? std::string("none") : first_few(names);
        }(),
        "; unpack it if the checkpoint is inside"));
  const auto check = [&](const ZipEntry& entry) { check_zip_entry(entry, where, checksums); };
  const std::string order_name = std::string(folder) + "byteorder";
  if (const auto found = by_name.find(order_name); found != by_name.end()) {
    check(*found->second);
    const auto b = found->second->bytes;
    const std::string_view order(reinterpret_cast<const char*>(b.data()), b.size());
    if (order != "little")
      throw FormatError(text(where, ": its byte order is ", in_quotes(order),
                             ", and only \"little\" is read; load and save it again on a little-endian machine"));
  }
  check(*data);
  const Pickle pickle =
      Pickle::parse(data->bytes, where, static_cast<std::uint64_t>(data->bytes.data() - bytes.data()));
  PthReader reader(pickle, data->bytes.size(), where);
  for (auto& [key, storage] : reader.storages()) {
    const std::string name = std::string(folder) + "data/" + std::string(key);
    const auto found = by_name.find(name);
    if (found == by_name.end())
      throw FormatError(
          text(where, ": no zip entry ", in_quotes(name), ", which its pickle names; the file is damaged"));
    const std::int64_t wanted = storage.count * size_of(storage.dtype);
    if (found->second->bytes.size() != static_cast<std::size_t>(wanted))
      throw FormatError(text(where, ": zip entry ", in_quotes(name), " has ", found->second->bytes.size(),
                             " bytes, and its pickle says ", storage.count, " x ", size_of(storage.dtype), " = ",
                             wanted, "; the file is damaged"));
    check(*found->second);
    storage.bytes = found->second->bytes;
  }
  Checkpoint out;
  out.format = "pth";
  reader.read(options, out);
  return out;
}

TRANSFERLIB_API Checkpoint parse_legacy_pth(std::span<const std::byte> bytes, std::string_view where,
                                            const CheckpointOptions& options) {
  std::size_t at = 0;
  const auto next = [&] {
    Pickle out = Pickle::parse(bytes.subspan(at), where, at);
    at += out.size();
    return out;
  };
  const Pickle magic = next(), protocol = next();
  if (protocol.kind(protocol.root()) != Pickle::Kind::integer || protocol.integer(protocol.root()) != 1001)
    throw FormatError(text(where, ": a legacy checkpoint whose protocol is not 1001; the file is damaged"));
  const Pickle system = next();
  system.for_pairs(system.root(), [&](Pickle::Ref key, Pickle::Ref value) {
    if (system.string(key) == "little_endian" && system.kind(value) == Pickle::Kind::boolean &&
        system.integer(value) == 0)
      throw FormatError(
          text(where, ": it was saved on a big-endian machine; load and save it again on a little-endian one"));
    return true;
  });
  const std::size_t pickle_at = at;
  const Pickle pickle = next();
  PthReader reader(pickle, at - pickle_at, where);
  auto& storages = reader.storages();
  const Pickle keys = next();
  if (keys.kind(keys.root()) != Pickle::Kind::list)
    throw FormatError(text(where, ": no list of storages at byte ", at - keys.size(), "; the file is damaged"));
  const ByteReader in(bytes, where);
  std::set<std::string_view> seen;
  keys.for_items(keys.root(), [&](Pickle::Ref item) {
    const std::string_view key = keys.string(item);
    const auto found = storages.find(key);
    if (found == storages.end() || !seen.insert(key).second)
      throw FormatError(text(where, ": its list of storages has ", in_quotes(key),
                             found == storages.end() ? ", which its pickle does not name" : " twice",
                             "; the file is damaged"));
    PthStorage& storage = found->second;
    const std::string what = text("the storage ", in_quotes(key));
    const auto count = in.number<std::int64_t>(at, what);
    if (count != storage.count)
      throw FormatError(text(where, ": ", what, " at byte ", at, " has ", count, " numbers, and its pickle says ",
                             storage.count, "; the file is damaged"));
    storage.bytes = in.range(at + 8, static_cast<std::uint64_t>(count * size_of(storage.dtype)), what);
    at += 8 + storage.bytes.size();
    return true;
  });
  if (seen.size() != storages.size())
    throw FormatError(text(where, ": its list has ", seen.size(), " storages, and its pickle names ", storages.size(),
                           "; the file is damaged"));
  if (at != bytes.size())
    throw FormatError(text(where, ": ", bytes.size() - at, " bytes from byte ", at,
                           " on belong to no storage; the file is damaged, or several were written into one"));
  Checkpoint out;
  out.format = "legacy pth";
  reader.read(options, out);
  return out;
}

}  // namespace transferlib::detail

namespace transferlib {

TRANSFERLIB_API bool is_legacy_pth(std::span<const std::byte> bytes) {
  std::string_view b(reinterpret_cast<const char*>(bytes.data()), std::min<std::size_t>(bytes.size(), 32));
  // In protocol 2 and later the number is binary, in 0 and 1 decimal.
  if (b.starts_with("L119547037146038801333356L\n")) return true;
  if (!b.starts_with('\x80') || b.size() < 2) return false;
  b.remove_prefix(2);
  if (b.starts_with('\x95')) b.remove_prefix(std::min<std::size_t>(b.size(), 9));  // a frame, since protocol 4
  return b.starts_with("\x8a\n") && b.substr(2).starts_with(detail::legacy_magic);
}

TRANSFERLIB_API void write_pth(const std::filesystem::path& path, const std::vector<TensorView>& tensors) {
  using detail::in_quotes, detail::text;
  struct Storage {
    std::span<const std::byte> bytes;
    DType dtype;
    bool typed;  // all tensors on it have one type, and the type has a storage class
    std::size_t key;
  };
  std::map<std::size_t, Storage> by_id;
  std::vector<std::span<const std::byte>> in_order;
  std::set<std::string_view> names;
  for (const TensorView& t : tensors) {
    detail::check_view(t, text("tensor ", in_quotes(t.name)));
    if (!names.insert(t.name).second)
      throw FormatError(text("two tensors have the name ", in_quotes(t.name), "; give each its own"));
    const bool has_class = !detail::dtype_row(t.dtype).storage.empty();
    const auto [found, fresh] =
        by_id.try_emplace(t.storage_id, Storage{t.storage, t.dtype, has_class, in_order.size()});
    if (fresh)
      in_order.push_back(t.storage);
    else if (found->second.bytes.data() != t.storage.data() || found->second.bytes.size() != t.storage.size())
      throw FormatError(text("tensor ", in_quotes(t.name), " has the storage id ", t.storage_id,
                             " of another tensor, and another storage; give each storage its own id"));
    Storage& storage = found->second;
    storage.typed = storage.typed && storage.dtype == t.dtype &&
                    storage.bytes.size() % static_cast<std::size_t>(size_of(t.dtype)) == 0;
  }

  std::string pickle = "\x80\x02}(";
  const auto put32 = [&](std::uint32_t n) { pickle.append(reinterpret_cast<const char*>(&n), 4); };
  const auto string = [&](std::string_view s) {
    pickle += 'X';
    put32(static_cast<std::uint32_t>(s.size()));
    pickle += s;
  };
  const auto integer = [&](std::int64_t n) {
    if (n >= INT32_MIN && n <= INT32_MAX) {
      pickle += 'J';
      put32(static_cast<std::uint32_t>(n));
    } else {
      pickle += "\x8a\x08";
      pickle.append(reinterpret_cast<const char*>(&n), 8);
    }
  };
  const auto integers = [&](const std::vector<std::int64_t>& all) {
    pickle += '(';
    for (const std::int64_t n : all) integer(n);
    pickle += 't';
  };
  for (const TensorView& t : tensors) {
    const Storage& storage = by_id.at(t.storage_id);
    const auto& row = detail::dtype_row(t.dtype);
    string(t.name);
    pickle += storage.typed ? "ctorch._utils\n_rebuild_tensor_v2\n((" : "ctorch._utils\n_rebuild_tensor_v3\n((";
    string("storage");
    pickle += storage.typed ? text("ctorch\n", row.storage, "\n") : "ctorch.storage\nUntypedStorage\n";
    string(text(storage.key));
    string("cpu");
    const auto held = static_cast<std::int64_t>(storage.bytes.size());
    integer(storage.typed ? held / row.bytes : held);
    pickle += "tQ";
    integer(t.storage_offset);
    integers(t.shape);
    integers(t.strides);
    pickle += "\x89";
    pickle += "ccollections\nOrderedDict\n)R";
    if (!storage.typed) pickle += text("ctorch\n", row.torch, "\n");
    pickle += "tR";
  }
  pickle += "u.";

  AtomicFile file(path);
  ZipWriter zip(file);
  std::uint32_t id = 0;  // of the contents, as PyTorch's own is
  const auto add = [&](const std::string& name, auto bytes) {
    zip.add("archive/" + name, bytes);
    id = detail::crc32_of(std::as_bytes(std::span(name)), id ^ zip.last_checksum());
  };
  add("data.pkl", std::string_view(pickle));
  add("byteorder", std::string_view("little"));
  for (std::size_t i = 0; i < in_order.size(); ++i) add(text("data/", i), in_order[i]);
  add("version", std::string_view("3\n"));
  const std::string number = text(id);
  zip.add("archive/.data/serialization_id", std::string_view(std::string(40 - number.size(), '0') + number));
  zip.finish();
  file.commit();
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

/// \file
/// From files to modules and back, by name: `state_dict`, `load_state_dict`, as Python's.
#pragma once

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <torch/nn/module.h>

#include <transferlib/core/error.hpp>
#include <transferlib/core/hash.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/formats/checkpoint.hpp>
#include <transferlib/formats/safetensors.hpp>

namespace transferlib {

/// Tensors by name, in their order.
using StateDict = std::vector<std::pair<std::string, Tensor>>;

namespace detail {

inline void collect_state(const Module& module, const std::string& prefix, StateDict& out) {
  for (const auto& item : module.named_parameters(false)) out.emplace_back(prefix + item.key(), item.value());
  for (const auto& item : module.named_buffers(false)) out.emplace_back(prefix + item.key(), item.value());
  for (const auto& child : module.named_children()) collect_state(*child.value(), prefix + child.key() + ".", out);
}

/// LibTorch's type of a checkpoint's. \throws WeightsError for a type that LibTorch does not have.
TRANSFERLIB_API at::ScalarType scalar_type(DType type, std::string_view name);

/// A checkpoint's type of LibTorch's. \throws WeightsError for a type that no file can hold.
TRANSFERLIB_API DType file_type(at::ScalarType type, std::string_view name);

/// A tensor over a checkpoint's bytes: without a copy where they are aligned for their type, which the bytes in a file
/// need not be.
TRANSFERLIB_API Tensor to_tensor(const TensorView& view, const std::shared_ptr<const void>& owner);

}  // namespace detail

/// Every parameter and buffer of a module under its dotted name, in the order of Python's `state_dict()`. The tensors
/// are the module's own, not copies.
inline StateDict state_dict(const Module& module) {
  StateDict out;
  detail::collect_state(module, "", out);
  return out;
}

/// The tensors of a checkpoint: safetensors, or `.pth` of either kind, whatever it is called.
/// \throws FileError, FormatError
TRANSFERLIB_API StateDict read_state_dict(const std::filesystem::path& path);

namespace detail {

/// The views that a writer wants, and the contiguous tensors on the CPU that they look at.
struct ViewsOf {
  std::vector<Tensor> held;
  std::vector<TensorView> views;
};

TRANSFERLIB_API ViewsOf views_of(const StateDict& state);

}  // namespace detail

/// Writes tensors as safetensors, atomically. \throws FileError; an old file is then unchanged.
inline void write_state_dict(const std::filesystem::path& path, const StateDict& state,
                             const std::map<std::string, std::string>& metadata = {}) {
  const auto views = detail::views_of(state);
  write_safetensors(path, views.views, metadata);
}

/// The SHA-256 of tensors: names, types, shapes and bytes.
TRANSFERLIB_API std::string hash_of(const StateDict& state);

/// How `load_state_dict` takes what does not fit.
struct LoadOptions {
  bool strict = true;  ///< every name of the network must be in the file with its shape, and no other
};

/// What did not fit. `prefix` was taken off the file's names ("module.", "model.").
struct LoadReport {
  std::vector<std::string> missing;      ///< names of the network that the file lacks
  std::vector<std::string> unexpected;   ///< names of the file that the network lacks
  std::vector<std::string> wrong_shape;  ///< "name (3, 4) instead of (3, 5)"
  std::string prefix;
  Index loaded = 0;

  bool fits() const { return missing.empty() && unexpected.empty() && wrong_shape.empty(); }
};

namespace detail {

inline std::string shape_text(at::IntArrayRef shape) {
  std::string out = "(";
  for (std::size_t i = 0; i < shape.size(); ++i) append_text(out += i == 0 ? "" : ", ", shape[i]);
  return out + ")";
}

/// What must be taken off the file's names so that most of them are the network's.
TRANSFERLIB_API std::string common_prefix(const StateDict& own, const std::map<std::string, Tensor>& file);

}  // namespace detail

/// Copies tensors into a module's parameters and buffers by name; a prefix that all the names share is taken off. A
/// file that has no `num_batches_tracked` (before PyTorch 0.4.1) is complete without. \param where the file's name, for
/// the error's sentence \returns what did not fit (nothing, where `strict`) \throws WeightsError where `strict` and
/// something does not fit; the module is then unchanged
TRANSFERLIB_API LoadReport load_state_dict(Module& module, const StateDict& state, const LoadOptions& options = {},
                                           std::string_view where = "the state dict");

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API at::ScalarType scalar_type(DType type, std::string_view name) {
  switch (type) {
    case DType::f64:
      return at::kDouble;
    case DType::f32:
      return at::kFloat;
    case DType::f16:
      return at::kHalf;
    case DType::bf16:
      return at::kBFloat16;
    case DType::i64:
      return at::kLong;
    case DType::i32:
      return at::kInt;
    case DType::i16:
      return at::kShort;
    case DType::i8:
      return at::kChar;
    case DType::u8:
      return at::kByte;
    case DType::u16:
      return at::kUInt16;
    case DType::u32:
      return at::kUInt32;
    case DType::u64:
      return at::kUInt64;
    case DType::boolean:
      return at::kBool;
    case DType::c64:
      return at::kComplexFloat;
    case DType::c128:
      return at::kComplexDouble;
    case DType::f8_e4m3:
      return at::kFloat8_e4m3fn;
    case DType::f8_e5m2:
      return at::kFloat8_e5m2;
    case DType::f8_e4m3fnuz:
      return at::kFloat8_e4m3fnuz;
    case DType::f8_e5m2fnuz:
      return at::kFloat8_e5m2fnuz;
    case DType::f8_e8m0:
      return at::kFloat8_e8m0fnu;
    default:
      break;
  }
  // No name of the type: every one that has a name is above.
  throw WeightsError(
      text("tensor \"", name, "\" has the type number ", static_cast<int>(type), ", which LibTorch does not know"));
}

TRANSFERLIB_API DType file_type(at::ScalarType type, std::string_view name) {
  switch (type) {
    case at::kDouble:
      return DType::f64;
    case at::kFloat:
      return DType::f32;
    case at::kHalf:
      return DType::f16;
    case at::kBFloat16:
      return DType::bf16;
    case at::kLong:
      return DType::i64;
    case at::kInt:
      return DType::i32;
    case at::kShort:
      return DType::i16;
    case at::kChar:
      return DType::i8;
    case at::kByte:
      return DType::u8;
    case at::kUInt16:
      return DType::u16;
    case at::kUInt32:
      return DType::u32;
    case at::kUInt64:
      return DType::u64;
    case at::kBool:
      return DType::boolean;
    case at::kComplexFloat:
      return DType::c64;
    case at::kComplexDouble:
      return DType::c128;
    case at::kFloat8_e4m3fn:
      return DType::f8_e4m3;
    case at::kFloat8_e5m2:
      return DType::f8_e5m2;
    case at::kFloat8_e4m3fnuz:
      return DType::f8_e4m3fnuz;
    case at::kFloat8_e5m2fnuz:
      return DType::f8_e5m2fnuz;
    case at::kFloat8_e8m0fnu:
      return DType::f8_e8m0;
    default:
      break;
  }
  throw WeightsError(text("tensor \"", name, "\" has the type ", at::toString(type), ", which no checkpoint holds"));
}

TRANSFERLIB_API Tensor to_tensor(const TensorView& view, const std::shared_ptr<const void>& owner) {
  const at::ScalarType type = scalar_type(view.dtype, view.name);
  const std::size_t width = at::elementSize(type);
  const auto options = at::TensorOptions(type);
  if (std::find(view.shape.begin(), view.shape.end(), 0) != view.shape.end()) return at::empty(view.shape, options);
  const std::byte* from = view.storage.data() + static_cast<std::size_t>(view.storage_offset) * width;
  if (reinterpret_cast<std::uintptr_t>(from) % width == 0)
    return at::from_blob(
        const_cast<std::byte*>(from), view.shape, view.strides, [owner](void*) {}, options);
  std::int64_t last = 0;
  for (std::size_t d = 0; d < view.shape.size(); ++d) last += (view.shape[d] - 1) * view.strides[d];
  const Tensor copy = at::empty({last + 1}, options);
  std::memcpy(copy.data_ptr(), from, static_cast<std::size_t>(last + 1) * width);
  return copy.as_strided(view.shape, view.strides).clone();
}

}  // namespace transferlib::detail

namespace transferlib {

TRANSFERLIB_API StateDict read_state_dict(const std::filesystem::path& path) {
  const Checkpoint checkpoint = open_checkpoint(path);
  StateDict out;
  for (const TensorView& view : checkpoint.tensors)
    out.emplace_back(view.name, detail::to_tensor(view, checkpoint.owner));
  return out;
}

}  // namespace transferlib

namespace transferlib::detail {

TRANSFERLIB_API ViewsOf views_of(const StateDict& state) {
  ViewsOf out;
  for (const auto& [name, tensor] : state) {
    const Tensor t = tensor.detach().cpu().contiguous();
    TensorView view;
    view.name = name;
    view.dtype = file_type(t.scalar_type(), name);
    view.shape.assign(t.sizes().begin(), t.sizes().end());
    view.strides.assign(t.strides().begin(), t.strides().end());
    view.storage = {static_cast<const std::byte*>(t.const_data_ptr()), t.nbytes()};
    view.storage_id = out.views.size();
    out.held.push_back(t);
    out.views.push_back(std::move(view));
  }
  return out;
}

}  // namespace transferlib::detail

namespace transferlib {

TRANSFERLIB_API std::string hash_of(const StateDict& state) {
  Sha256 hash;
  const auto views = detail::views_of(state);
  for (const TensorView& view : views.views) {
    hash.add(view.name).add(to_string(view.dtype));
    for (std::int64_t n : view.shape) hash.add(n);
    hash.add(view.storage);
  }
  return hash.hex();
}

}  // namespace transferlib

namespace transferlib::detail {

TRANSFERLIB_API std::string common_prefix(const StateDict& own, const std::map<std::string, Tensor>& file) {
  if (own.empty()) return {};
  std::size_t best = 0;
  std::string out;
  std::set<std::string> tried;
  const auto count = [&](const std::string& prefix) {
    std::size_t n = 0;
    for (const auto& item : own) n += file.count(prefix + item.first);
    return n;
  };
  best = count("");
  if (best == own.size()) return {};
  const std::string& first = own.front().first;
  for (const auto& item : file) {
    const std::string& name = item.first;
    if (name.size() <= first.size() || !name.ends_with(first) || name[name.size() - first.size() - 1] != '.') continue;
    std::string prefix = name.substr(0, name.size() - first.size());
    if (const std::size_t n = count(prefix); n > best) best = n, out = std::move(prefix);
  }
  return out;
}

}  // namespace transferlib::detail

namespace transferlib {

TRANSFERLIB_API LoadReport load_state_dict(Module& module, const StateDict& state, const LoadOptions& options,
                                           std::string_view where) {
  const StateDict own = state_dict(module);
  std::map<std::string, Tensor> file(state.begin(), state.end());
  LoadReport report;
  report.prefix = detail::common_prefix(own, file);
  std::vector<std::pair<Tensor, Tensor>> copies;
  for (const auto& [name, tensor] : own) {
    const auto found = file.find(report.prefix + name);
    if (found == file.end()) {
      if (!name.ends_with("num_batches_tracked")) report.missing.push_back(name);
      continue;
    }
    if (found->second.sizes() != tensor.sizes())
      report.wrong_shape.push_back(detail::text(name, " ", detail::shape_text(found->second.sizes()), " instead of ",
                                                detail::shape_text(tensor.sizes())));
    else
      copies.emplace_back(tensor, found->second);
    file.erase(found);
  }
  for (const auto& item : state)
    if (file.count(item.first) != 0) report.unexpected.push_back(item.first);
  if (options.strict && !report.fits()) {
    std::string sentence = detail::text("the weights in ", where, " do not fit the network: ");
    if (!report.missing.empty())
      sentence += detail::text(report.missing.size(), " names are missing (", detail::first_few(report.missing), "); ");
    if (!report.unexpected.empty())
      sentence +=
          detail::text(report.unexpected.size(), " are unexpected (", detail::first_few(report.unexpected), "); ");
    if (!report.wrong_shape.empty())
      sentence += detail::text(report.wrong_shape.size(), " have another shape (",
                               detail::first_few(report.wrong_shape), "); ");
    throw WeightsError(sentence + "check that the file belongs to this network, or load with {.strict = false}");
  }
  const torch::NoGradGuard guard;
  for (auto& [to, from] : copies) to.copy_(from);
  report.loaded = static_cast<Index>(copies.size());
  return report;
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

/// \file
/// safetensors, strictly: an 8-byte length, a JSON header, the bytes of all tensors without holes or overlaps. The
/// format is described in Hugging Face's `safetensors` repository.
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
#include <transferlib/formats/json.hpp>
#include <transferlib/formats/tensor_view.hpp>

namespace transferlib {

namespace detail {

/// Short and printable, whatever the value is.
inline std::string short_json(const Json& value) { return value.dump().substr(0, 80); }

/// One entry of the header. \param at file and tensor, for the error's sentence
TRANSFERLIB_API TensorView parse_safetensors_entry(const Json& entry, std::span<const std::byte> data,
                                                   std::string_view at);

}  // namespace detail

/// Reads a file's bytes. The tensors look into `bytes`, which must outlive them; their order is that of their bytes,
/// which need not be aligned.
/// \param where the file's name, for the error's sentence
/// \throws FormatError
TRANSFERLIB_API Checkpoint parse_safetensors(std::span<const std::byte> bytes, std::string_view where);

/// Writes safetensors, atomically; the same tensors and metadata give the same bytes. The data begins at a multiple of
/// 64 bytes, and tensors of wider types come first, so that every tensor is aligned. Gaps and sharing between tensors
/// are not kept: the format has neither.
/// \throws FileError; FormatError for a type that the format does not have, a name twice, or text that is not UTF-8
TRANSFERLIB_API void write_safetensors(const std::filesystem::path& path, const std::vector<TensorView>& tensors,
                                       const std::map<std::string, std::string>& metadata = {});

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API TensorView parse_safetensors_entry(const Json& entry, std::span<const std::byte> data,
                                                   std::string_view at) {
  if (!entry.is_object() || entry.size() != 3 || !entry.contains("dtype") || !entry.contains("shape") ||
      !entry.contains("data_offsets"))
    throw FormatError(text(at, ": its entry must have dtype, shape and data_offsets and nothing else, and is ",
                           short_json(entry), "; write the file again"));
  TensorView t;
  const Json& dtype = entry["dtype"];
  const auto* row = std::end(dtype_table);
  if (dtype.is_string())
    row = std::find_if(std::begin(dtype_table), std::end(dtype_table),
                       [&](const DTypeRow& r) { return !r.safetensors.empty() && r.safetensors == dtype.string(); });
  if (row == std::end(dtype_table))
    throw FormatError(text(at, ": its dtype is ", short_json(dtype),
                           ", which is none that PyTorch computes with; save it as another type, F32 say"));
  t.dtype = row->type;
  const Json& shape = entry["shape"];
  if (!shape.is_array())
    throw FormatError(text(at, ": its shape must be an array, and is ", short_json(shape), "; write the file again"));
  for (const Json& side : shape.elements()) {
    if (!side.is_natural() || side.get<std::uint64_t>() > INT64_MAX)
      throw FormatError(text(at, ": a side of its shape must be a count from 0 to 2^63 - 1, and is ", short_json(side),
                             "; write the file again"));
    t.shape.push_back(side.get<std::int64_t>());
  }
  const std::int64_t size = multiply(count_of(t.shape), size_of(t.dtype));
  const Json& offsets = entry["data_offsets"];
  if (!offsets.is_array() || offsets.size() != 2 || !offsets[0].is_natural() || !offsets[1].is_natural())
    throw FormatError(text(at, ": its data_offsets must be two counts of bytes, and are ", short_json(offsets),
                           "; write the file again"));
  const auto begin = offsets[0].get<std::uint64_t>(), end = offsets[1].get<std::uint64_t>();
  if (begin > end || end > data.size())
    throw FormatError(text(at, ": its data_offsets ", begin, " to ", end, " are not inside the ", data.size(),
                           " bytes of data; the file is cut or damaged, copy it again"));
  if (size < 0 || static_cast<std::uint64_t>(size) != end - begin)
    throw FormatError(text(at, ": its data_offsets hold ", end - begin, " bytes, and its dtype and shape need ",
                           size < 0 ? std::string("more than 2^63") : text(size), "; the file is damaged"));
  t.strides = contiguous_strides(t.shape);
  t.storage = data.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin));
  check_view(t, at);
  return t;
}

}  // namespace transferlib::detail

namespace transferlib {

TRANSFERLIB_API Checkpoint parse_safetensors(std::span<const std::byte> bytes, std::string_view where) {
  using detail::in_quotes, detail::text;
  constexpr std::uint64_t most_header = 100'000'000;  // as the original's reader
  std::uint64_t length = 0;
  if (bytes.size() < 8)
    throw FormatError(text(where, ": ", bytes.size(),
                           " bytes are too few for safetensors, which begin with 8 bytes of length; copy it again"));
  std::memcpy(&length, bytes.data(), 8);
  if (length > most_header || length > bytes.size() - 8)
    throw FormatError(text(where, ": its header should have ", length, " bytes (byte 0), of at most ", most_header,
                           ", and ", bytes.size() - 8, " are there; the file is cut or no safetensors, copy it again"));
  const std::string_view header(reinterpret_cast<const char*>(bytes.data()) + 8, static_cast<std::size_t>(length));
  if (!header.starts_with('{'))
    throw FormatError(text(where, ": its header at byte 8 does not begin with '{'; the file is no safetensors"));
  const Json json = parse_json(header, text(where, ": the header"), 8);
  const auto data = bytes.subspan(8 + static_cast<std::size_t>(length));

  Checkpoint out;
  out.format = "safetensors";
  const char* const base = reinterpret_cast<const char*>(data.data());
  const auto begin_of = [&](const TensorView& t) {
    return static_cast<std::size_t>(reinterpret_cast<const char*>(t.storage.data()) - base);
  };
  for (const auto& [name, entry] : json.members()) {
    if (name == "__metadata__") {
      if (!entry.is_object())
        throw FormatError(text(where, ": __metadata__ must be an object of strings, and is ", detail::short_json(entry),
                               "; write the file again"));
      for (const auto& [key, value] : entry.members()) {
        if (!value.is_string())
          throw FormatError(text(where, ": __metadata__ ", in_quotes(key), " must be a string, and is ",
                                 detail::short_json(value), "; write the file again"));
        out.metadata[key] = value.string();
      }
      continue;
    }
    TensorView t = detail::parse_safetensors_entry(entry, data, text(where, ": tensor ", in_quotes(name)));
    t.name = name;
    out.tensors.push_back(std::move(t));
  }
  std::stable_sort(out.tensors.begin(), out.tensors.end(), [&](const TensorView& a, const TensorView& b) {
    return std::pair(begin_of(a), a.storage.size()) < std::pair(begin_of(b), b.storage.size());
  });
  std::size_t covered = 0;
  for (std::size_t i = 0; i < out.tensors.size(); ++i) {
    TensorView& t = out.tensors[i];
    if (begin_of(t) != covered)
      throw FormatError(text(where, ": tensor ", in_quotes(t.name), " begins at byte ", begin_of(t),
                             " of the data, and ", covered,
                             " was expected: ", begin_of(t) < covered ? "two tensors overlap" : "there is a hole",
                             "; the file is damaged"));
    covered += t.storage.size();
    t.storage_id = i;
  }
  if (covered != data.size())
    throw FormatError(text(where, ": ", data.size() - covered, " bytes at the end, from byte ",
                           bytes.size() - (data.size() - covered), " on, belong to no tensor; the file is damaged"));
  return out;
}

TRANSFERLIB_API void write_safetensors(const std::filesystem::path& path, const std::vector<TensorView>& tensors,
                                       const std::map<std::string, std::string>& metadata) {
  using detail::in_quotes, detail::text;
  std::vector<std::size_t> order(tensors.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return size_of(tensors[a].dtype) > size_of(tensors[b].dtype); });
  const auto json_string = [](std::string_view s) {
    if (!detail::is_utf8(s))
      throw FormatError(
          text("the name or metadata ", in_quotes(s), " is not UTF-8, which safetensors must be; rename it"));
    std::string out;
    detail::append_json(out, s);
    return out;
  };
  std::string head = "{";
  if (!metadata.empty()) {
    head += "\"__metadata__\":{";
    for (const auto& [key, value] : metadata)
      head += text(head.ends_with('{') ? "" : ",", json_string(key), ":", json_string(value));
    head += '}';
  }
  std::int64_t offset = 0;
  std::set<std::string_view> names;
  for (std::size_t i : order) {
    const TensorView& t = tensors[i];
    const auto& row = detail::dtype_row(t.dtype);
    const std::string at = text("tensor ", in_quotes(t.name));
    if (row.safetensors.empty())
      throw FormatError(text(at, " has the type ", row.torch, ", which safetensors do not have; write a .pth"));
    if (t.name == "__metadata__")
      throw FormatError(text(at, " has the name that safetensors keep for their metadata; rename it"));
    if (!names.insert(t.name).second)
      throw FormatError(text("two tensors have the name ", in_quotes(t.name), "; rename one"));
    detail::check_view(t, at);
    const std::int64_t size = t.numel() * row.bytes;
    head += text(head.size() == 1 ? "" : ",", json_string(t.name), ":{\"dtype\":\"", row.safetensors, "\",\"shape\":[");
    for (std::size_t d = 0; d < t.shape.size(); ++d) head += text(d == 0 ? "" : ",", t.shape[d]);
    head += text("],\"data_offsets\":[", offset, ",", offset + size, "]}");
    offset += size;
  }
  head += '}';
  while ((8 + head.size()) % 64 != 0) head += ' ';
  AtomicFile file(path);
  const std::uint64_t length = head.size();
  file.write(std::as_bytes(std::span(&length, 1)));
  file.write(head);
  for (std::size_t i : order)
    detail::for_contiguous(tensors[i], [&](std::span<const std::byte> run) { file.write(run); });
  file.commit();
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

/// \file
/// HDF5 by libhdf5's C interface: groups, datasets of numbers, attributes that are texts; what Keras's files are made
/// of.
///
/// A build has it where `TRANSFERLIB_HDF5` is defined, which CMake does (for every program, as the same functions must
/// be the same everywhere) when it finds libhdf5; elsewhere the functions throw, and say what to do. libhdf5 works on
/// memory here: files are read and written by `core/files.hpp`. It is no parser for hostile bytes: trust your files.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#ifdef TRANSFERLIB_HDF5
#include <hdf5.h>
#endif

#include <transferlib/core/error.hpp>
#include <transferlib/formats/tensor_view.hpp>

namespace transferlib {

/// An attribute that is a text, or a list of texts.
struct Hdf5Text {
  std::string name;
  std::vector<std::string> texts;
  bool is_list = false;
};

/// A group or a dataset of an HDF5 file.
struct Hdf5Object {
  std::string path;             ///< "layers/conv2d/vars/0"; empty for the root group
  std::vector<Hdf5Text> texts;  ///< its attributes that are texts; others are passed over
  bool is_dataset = false;
  TensorView tensor;  ///< of a dataset: its numbers, contiguous

  /// The attribute of this name; nullptr if there is none.
  const Hdf5Text* find(std::string_view name) const {
    for (const Hdf5Text& text : texts)
      if (text.name == name) return &text;
    return nullptr;
  }
};

/// All objects of a file, a group before what is in it, names in their order.
struct Hdf5Tree {
  std::vector<Hdf5Object> objects;
  std::shared_ptr<const void> owner;  ///< keeps the numbers alive

  /// The object at this path; nullptr if there is none.
  const Hdf5Object* find(std::string_view path) const {
    for (const Hdf5Object& object : objects)
      if (object.path == path) return &object;
    return nullptr;
  }
};

/// Whether bytes begin as an HDF5 file does.
inline bool is_hdf5(std::span<const std::byte> bytes) {
  constexpr std::string_view signature("\x89HDF\r\n\x1a\n", 8);
  return bytes.size() >= signature.size() &&
         std::string_view(reinterpret_cast<const char*>(bytes.data()), signature.size()) == signature;
}

#ifdef TRANSFERLIB_HDF5

/// Whether this build has libhdf5.
inline constexpr bool has_hdf5 = true;

namespace detail {

/// The name of a file in memory, which libhdf5 wants no file to have.
inline constexpr const char* no_file = "/dev/null/memory";

/// An identifier of libhdf5, closed at the end.
class Hdf5Handle {
 public:
  Hdf5Handle(hid_t id, herr_t (*close)(hid_t)) : id_(id), close_(close) {}
  Hdf5Handle(Hdf5Handle&& other) noexcept : id_(std::exchange(other.id_, -1)), close_(other.close_) {}
  Hdf5Handle& operator=(Hdf5Handle&&) = delete;
  ~Hdf5Handle() {
    if (id_ >= 0) close_(id_);
  }
  operator hid_t() const { return id_; }

 private:
  hid_t id_;
  herr_t (*close_)(hid_t);
};

/// While it lives, this thread alone is in libhdf5, which prints no errors.
class Hdf5Session {
 public:
  explicit Hdf5Session(std::string_view where) : lock_(mutex()), where_(where) {
    ::H5Eget_auto2(H5E_DEFAULT, &print_, &data_);
    ::H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  }
  Hdf5Session(Hdf5Session&&) = delete;
  ~Hdf5Session() { ::H5Eset_auto2(H5E_DEFAULT, print_, data_); }

  /// \throws FormatError with libhdf5's own reason
  [[noreturn]] void fail(std::string_view doing, std::string_view path) const {
    std::string reason;
    ::H5Ewalk2(
        H5E_DEFAULT, H5E_WALK_UPWARD,
        [](unsigned, const H5E_error2_t* error, void* out) -> herr_t {
          // The first one is the deepest.
          if (auto& text = *static_cast<std::string*>(out); text.empty() && error->desc != nullptr) text = error->desc;
          return 0;
        },
        &reason);
    throw FormatError(text(where_, ": HDF5 can't ", doing, " ", path.empty() ? "the file" : in_quotes(path), " (",
                           reason.empty() ? "no reason known" : reason,
                           "); the file is cut or damaged, copy or save it again"));
  }
  /// What a call of libhdf5 returned, if that is no failure.
  std::int64_t check(std::int64_t result, std::string_view doing, std::string_view path) const {
    if (result < 0) fail(doing, path);
    return result;
  }
  Hdf5Handle open(hid_t id, herr_t (*close)(hid_t), std::string_view doing, std::string_view path) const {
    return {check(id, doing, path), close};
  }
  [[noreturn]] void refuse(std::string_view path, std::string_view sentence) const {
    throw FormatError(text(where_, ": ", in_quotes(path), " ", sentence));
  }

 private:
  static std::mutex& mutex() {
    static std::mutex one;
    return one;
  }
  std::lock_guard<std::mutex> lock_;
  std::string where_;
  H5E_auto2_t print_ = nullptr;
  void* data_ = nullptr;
};

/// The type of a dataset's numbers.
inline DType hdf5_type(const Hdf5Session& session, hid_t type, std::string_view path) {
  const std::size_t width = ::H5Tget_size(type);
  switch (::H5Tget_class(type)) {
    case H5T_FLOAT: {
      std::size_t sign = 0, exponent_at = 0, exponent = 0, mantissa_at = 0, mantissa = 0;
      session.check(::H5Tget_fields(type, &sign, &exponent_at, &exponent, &mantissa_at, &mantissa), "read the type of",
                    path);
      if (width == 8 && mantissa == 52) return DType::f64;
      if (width == 4 && mantissa == 23) return DType::f32;
      if (width == 2 && mantissa == 10) return DType::f16;
      if (width == 2 && mantissa == 7) return DType::bf16;
      break;
    }
    case H5T_INTEGER: {
      const bool is_signed = ::H5Tget_sign(type) == H5T_SGN_2;
      if (width == 1) return is_signed ? DType::i8 : DType::u8;
      if (width == 2) return is_signed ? DType::i16 : DType::u16;
      if (width == 4) return is_signed ? DType::i32 : DType::u32;
      if (width == 8) return is_signed ? DType::i64 : DType::u64;
      break;
    }
    case H5T_ENUM:  // NumPy's bool, as h5py writes it
      if (width == 1 && ::H5Tget_nmembers(type) == 2) return DType::boolean;
      break;
    case H5T_STRING:
      session.refuse(path, "holds text, where numbers are expected");
    default:
      break;
  }
  session.refuse(path, "holds numbers of a type that no tensor has; in Python, save it as float32");
}

/// The attributes of an object that are texts.
inline std::vector<Hdf5Text> hdf5_texts(const Hdf5Session& session, hid_t object, const std::string& path) {
  std::vector<Hdf5Text> out;
  constexpr std::string_view doing = "read the attributes of";
  for (hsize_t i = 0;; ++i) {
    const Hdf5Handle attribute(::H5Aopen_by_idx(object, ".", H5_INDEX_NAME, H5_ITER_INC, i, H5P_DEFAULT, H5P_DEFAULT),
                               ::H5Aclose);
    if (attribute < 0) break;  // no more
    std::string name(static_cast<std::size_t>(session.check(::H5Aget_name(attribute, 0, nullptr), doing, path)), '\0');
    session.check(::H5Aget_name(attribute, name.size() + 1, name.data()), doing, path);
    const Hdf5Handle type = session.open(::H5Aget_type(attribute), ::H5Tclose, doing, path);
    const Hdf5Handle space = session.open(::H5Aget_space(attribute), ::H5Sclose, doing, path);
    const auto count = static_cast<std::size_t>(session.check(::H5Sget_simple_extent_npoints(space), doing, path));
    const bool is_text = ::H5Tget_class(type) == H5T_STRING;
    if (!is_text && count != 0) continue;
    // An empty list has whatever type it likes.
    out.push_back({std::move(name), {}, ::H5Sget_simple_extent_type(space) != H5S_SCALAR});
    std::vector<std::string>& texts = out.back().texts;
    if (count == 0) continue;
    if (::H5Tis_variable_str(type) > 0) {
      std::vector<char*> pieces(count, nullptr);
      session.check(::H5Aread(attribute, type, pieces.data()), doing, path);
      for (const char* piece : pieces) texts.emplace_back(piece == nullptr ? "" : piece);
      ::H5Dvlen_reclaim(type, space, H5P_DEFAULT, pieces.data());
    } else {
      const std::size_t width = ::H5Tget_size(type);
      std::string all(count * width, '\0');
      session.check(::H5Aread(attribute, type, all.data()), doing, path);
      for (std::size_t t = 0; t < count; ++t) {
        const std::string piece = all.substr(t * width, width);
        texts.push_back(piece.substr(0, piece.find('\0')));
      }
    }
  }
  return out;
}

/// Reads a dataset. \param bytes its numbers, which the tensor looks into
inline TensorView read_hdf5_dataset(const Hdf5Session& session, hid_t dataset, const std::string& path,
                                    std::vector<std::byte>& bytes) {
  constexpr std::string_view doing = "read";
  const Hdf5Handle properties = session.open(::H5Dget_create_plist(dataset), ::H5Pclose, doing, path);
  if (::H5Pget_layout(properties) == H5D_VIRTUAL || ::H5Pget_external_count(properties) > 0)
    session.refuse(path, "has its numbers in other files, which are not followed; in Python, copy it into one file");
  const Hdf5Handle type = session.open(::H5Dget_type(dataset), ::H5Tclose, doing, path);
  const Hdf5Handle space = session.open(::H5Dget_space(dataset), ::H5Sclose, doing, path);
  TensorView out;
  out.name = path;
  out.dtype = hdf5_type(session, type, path);
  std::vector<hsize_t> sides(static_cast<std::size_t>(session.check(::H5Sget_simple_extent_ndims(space), doing, path)));
  session.check(::H5Sget_simple_extent_dims(space, sides.data(), nullptr), doing, path);
  out.shape.assign(sides.begin(), sides.end());
  if (::H5Sget_simple_extent_type(space) == H5S_NULL) out.shape = {0};
  const std::int64_t size = multiply(count_of(out.shape), size_of(out.dtype));
  // What was never written costs a file nothing, however large it says it is.
  if (const auto stored = static_cast<std::int64_t>(::H5Dget_storage_size(dataset));
      size < 0 || (size > std::int64_t{1} << 30 && size / 1000 > stored))
    session.refuse(path,
                   text("says that it has ", size, " bytes, and ", stored, " are in the file; the file is damaged"));
  out.strides = contiguous_strides(out.shape);
  bytes.resize(static_cast<std::size_t>(size));
  if (size != 0) {
    const Hdf5Handle wanted = session.open(::H5Tcopy(type), ::H5Tclose, doing, path);
    if (::H5Tget_class(type) != H5T_ENUM) session.check(::H5Tset_order(wanted, H5T_ORDER_LE), doing, path);
    session.check(::H5Dread(dataset, wanted, H5S_ALL, H5S_ALL, H5P_DEFAULT, bytes.data()), doing, path);
  }
  out.storage = bytes;
  return out;
}

/// Reads a group, and what is in it.
inline void read_hdf5_group(const Hdf5Session& session, hid_t group, const std::string& path, int depth, Hdf5Tree& tree,
                            std::vector<std::vector<std::byte>>& numbers) {
  // A group can be linked into itself.
  if (depth > 32 || tree.objects.size() > 1'000'000)
    session.refuse(path, "is a group in groups without end; the file is damaged");
  tree.objects.push_back({path, hdf5_texts(session, group, path), false, {}});
  H5G_info_t info{};
  session.check(::H5Gget_info(group, &info), "list", path);
  for (hsize_t i = 0; i < info.nlinks; ++i) {
    const auto name_of = [&](char* to, std::size_t room) {
      return static_cast<std::size_t>(session.check(
          ::H5Lget_name_by_idx(group, ".", H5_INDEX_NAME, H5_ITER_INC, i, to, room, H5P_DEFAULT), "list", path));
    };
    std::string name(name_of(nullptr, 0), '\0');
    name_of(name.data(), name.size() + 1);
    const std::string child = path.empty() ? name : text(path, "/", name);
    H5L_info_t link{};
    session.check(::H5Lget_info(group, name.c_str(), &link, H5P_DEFAULT), "read", child);
    if (link.type != H5L_TYPE_HARD)
      session.refuse(child, "is a link to somewhere else, which is not followed; in Python, copy it into the file");
    const Hdf5Handle object = session.open(::H5Oopen(group, name.c_str(), H5P_DEFAULT), ::H5Oclose, "open", child);
    const H5I_type_t kind = ::H5Iget_type(object);
    if (kind == H5I_GROUP) {
      read_hdf5_group(session, object, child, depth + 1, tree, numbers);
    } else if (kind == H5I_DATASET) {
      auto& bytes = numbers.emplace_back();
      TensorView tensor = read_hdf5_dataset(session, object, child, bytes);
      tensor.storage_id = numbers.size();
      tree.objects.push_back({child, hdf5_texts(session, object, child), true, std::move(tensor)});
    }
  }
}

}  // namespace detail

/// Reads an HDF5 file's bytes. Its tensors are copies, not views into `bytes`.
/// \param where the file's name, for the error's sentence
/// \throws FormatError if the file is cut or damaged, holds what is no tensor, or points into other files; also
///   where this build has no libhdf5
inline Hdf5Tree parse_hdf5(std::span<const std::byte> bytes, std::string_view where) {
  const detail::Hdf5Session session(where);
  const detail::Hdf5Handle access = session.open(::H5Pcreate(H5P_FILE_ACCESS), ::H5Pclose, "read", "");
  session.check(::H5Pset_fapl_core(access, std::size_t{1} << 16, false), "read", "");
  session.check(::H5Pset_file_image(access, const_cast<std::byte*>(bytes.data()), bytes.size()), "read", "");
  const detail::Hdf5Handle file =
      session.open(::H5Fopen(detail::no_file, H5F_ACC_RDONLY, access), ::H5Fclose, "read", "");
  const detail::Hdf5Handle root = session.open(::H5Gopen2(file, "/", H5P_DEFAULT), ::H5Gclose, "read", "");
  auto numbers = std::make_shared<std::vector<std::vector<std::byte>>>();
  Hdf5Tree out;
  detail::read_hdf5_group(session, root, "", 0, out, *numbers);
  out.owner = std::move(numbers);
  return out;
}

#else

/// Whether this build reads and writes HDF5.
inline constexpr bool has_hdf5 = false;

namespace detail {
[[noreturn]] inline void throw_no_hdf5(std::string_view where) {
  throw FormatError(
      text(where,
           ": this build has no HDF5, which Keras's .h5 and .keras files are; install libhdf5-dev and run CMake "
           "again, or convert the file once with `weights_tool convert` on a machine that has it"));
}
}  // namespace detail

/// Without libhdf5: \throws FormatError always
inline Hdf5Tree parse_hdf5(std::span<const std::byte>, std::string_view where) { detail::throw_no_hdf5(where); }

#endif

}  // namespace transferlib

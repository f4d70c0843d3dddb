/// \file
/// Writes HDF5, as Keras's files want it; see `formats/hdf5.hpp`.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/formats/hdf5.hpp>
#include <transferlib/formats/tensor_view.hpp>

namespace transferlib {

#ifdef TRANSFERLIB_HDF5

namespace detail {

/// Half precision, of which libhdf5 has no name.
inline Hdf5Handle hdf5_half(DType type) {
  const std::size_t mantissa = type == DType::f16 ? 10 : 7, exponent = 15 - mantissa;
  const hid_t out = ::H5Tcopy(H5T_IEEE_F32LE);
  ::H5Tset_fields(out, 15, mantissa, exponent, 0, mantissa);
  ::H5Tset_precision(out, 16);
  ::H5Tset_size(out, 2);
  ::H5Tset_ebias(out, (std::size_t{1} << (exponent - 1)) - 1);
  return {out, ::H5Tclose};
}

inline void write_hdf5_text(const Hdf5Session& session, hid_t object, const std::string& path, const Hdf5Text& value) {
  const hsize_t count = value.texts.size();
  const Hdf5Handle type = session.open(::H5Tcopy(H5T_C_S1), ::H5Tclose, "write", path);
  ::H5Tset_size(type, H5T_VARIABLE);
  ::H5Tset_cset(type, H5T_CSET_UTF8);
  const Hdf5Handle space = session.open(
      value.is_list ? ::H5Screate_simple(1, &count, nullptr) : ::H5Screate(H5S_SCALAR), ::H5Sclose, "write", path);
  const Hdf5Handle attribute = session.open(
      ::H5Acreate2(object, value.name.c_str(), type, space, H5P_DEFAULT, H5P_DEFAULT), ::H5Aclose, "write", path);
  std::vector<const char*> pieces;
  for (const std::string& piece : value.texts) pieces.push_back(piece.c_str());
  if (count != 0) session.check(::H5Awrite(attribute, type, pieces.data()), "write", path);
}

inline Hdf5Handle hdf5_file_type(const Hdf5Session& session, DType type, std::string_view path) {
  switch (type) {
    case DType::f64:
      return {::H5Tcopy(H5T_IEEE_F64LE), ::H5Tclose};
    case DType::f32:
      return {::H5Tcopy(H5T_IEEE_F32LE), ::H5Tclose};
    case DType::f16:
    case DType::bf16:
      return hdf5_half(type);
    case DType::i64:
      return {::H5Tcopy(H5T_STD_I64LE), ::H5Tclose};
    case DType::i32:
      return {::H5Tcopy(H5T_STD_I32LE), ::H5Tclose};
    case DType::u32:
      return {::H5Tcopy(H5T_STD_U32LE), ::H5Tclose};
    default:
      session.refuse(path, text("has the type ", to_string(type), ", which is not written to HDF5; convert it first"));
  }
}

}  // namespace detail

/// The bytes of an HDF5 file with these groups and datasets. Groups on the way to an object are made. Equal objects
/// give equal bytes. \throws FormatError where this build has no libhdf5, or a tensor's type has no place there
inline std::vector<std::byte> hdf5_bytes(std::span<const Hdf5Object> objects) {
  const detail::Hdf5Session session("the HDF5 file to write");
  const detail::Hdf5Handle access = session.open(::H5Pcreate(H5P_FILE_ACCESS), ::H5Pclose, "write", "");
  session.check(::H5Pset_fapl_core(access, std::size_t{1} << 20, false), "write", "");
  const detail::Hdf5Handle parents = session.open(::H5Pcreate(H5P_LINK_CREATE), ::H5Pclose, "write", "");
  ::H5Pset_create_intermediate_group(parents, 1);
  const detail::Hdf5Handle properties = session.open(::H5Pcreate(H5P_DATASET_CREATE), ::H5Pclose, "write", "");
  ::H5Pset_obj_track_times(properties, false);
  const detail::Hdf5Handle file =
      session.open(::H5Fcreate(detail::no_file, H5F_ACC_TRUNC, H5P_DEFAULT, access), ::H5Fclose, "write", "");
  for (const Hdf5Object& o : objects) {
    const char* path = o.path.empty() ? "/" : o.path.c_str();
    const detail::Hdf5Handle object = [&] {
      if (!o.is_dataset) {
        const bool exists = o.path.empty() || ::H5Lexists(file, path, H5P_DEFAULT) > 0;
        return session.open(
            exists ? ::H5Gopen2(file, path, H5P_DEFAULT) : ::H5Gcreate2(file, path, parents, H5P_DEFAULT, H5P_DEFAULT),
            ::H5Oclose, "write", o.path);
      }
      std::vector<std::byte> numbers(static_cast<std::size_t>(o.tensor.numel() * size_of(o.tensor.dtype)));
      copy_contiguous(o.tensor, numbers);
      const std::vector<hsize_t> sides(o.tensor.shape.begin(), o.tensor.shape.end());
      const detail::Hdf5Handle type = detail::hdf5_file_type(session, o.tensor.dtype, o.path);
      const detail::Hdf5Handle space =
          session.open(sides.empty() ? ::H5Screate(H5S_SCALAR)
                                     : ::H5Screate_simple(static_cast<int>(sides.size()), sides.data(), nullptr),
                       ::H5Sclose, "write", o.path);
      detail::Hdf5Handle dataset = session.open(::H5Dcreate2(file, path, type, space, parents, properties, H5P_DEFAULT),
                                                ::H5Oclose, "write", o.path);
      session.check(::H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, numbers.data()), "write", o.path);
      return dataset;
    }();
    for (const Hdf5Text& value : o.texts) detail::write_hdf5_text(session, object, o.path, value);
  }
  session.check(::H5Fflush(file, H5F_SCOPE_GLOBAL), "write", "");
  std::vector<std::byte> out(
      static_cast<std::size_t>(session.check(::H5Fget_file_image(file, nullptr, 0), "write", "")));
  session.check(::H5Fget_file_image(file, out.data(), out.size()), "write", "");
  return out;
}

#else

/// Without libhdf5: \throws FormatError always
inline std::vector<std::byte> hdf5_bytes(std::span<const Hdf5Object>) {
  detail::throw_no_hdf5("the HDF5 file to write");
}

#endif

}  // namespace transferlib

/// \file
/// MNIST (LeCun, Bottou, Bengio, Haffner 1998) and Fashion-MNIST (Xiao, Rasul, Vollgraf 2017): grey pictures of 28 x 28
/// pixels in IDX files, packed by gzip or not. Needs zlib.
#pragma once

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <ATen/ATen.h>

#include <transferlib/core/error.hpp>
#include <transferlib/core/files.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/data/tensors_data.hpp>
#include <transferlib/formats/idx.hpp>

namespace transferlib {

namespace detail {

/// `kind` is "images-idx3-ubyte", say. Packed or not, and under the two spellings that are in use.
TRANSFERLIB_API std::filesystem::path idx_file(const std::filesystem::path& folder, std::string_view part,
                                               std::string_view kind, std::string_view torchvision_name);

/// One of the two parts, "train" or "t10k".
TRANSFERLIB_API TensorData<ClassIndex> read_idx_part(const std::filesystem::path& folder, std::string_view part,
                                                     std::string_view torchvision_name, const Labels& names);

}  // namespace detail

/// MNIST: 60,000 + 10,000 handwritten digits.
class Mnist : public TensorData<ClassIndex> {
 public:
  /// Reads `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and the two of `t10k`, with `.gz` or without.
  /// \throws DataError if one is missing, FormatError if one is damaged, FileError
  static Split<Mnist> open(const std::filesystem::path& folder);

 private:
  explicit Mnist(TensorData data) : TensorData(std::move(data)) {}
};

/// Fashion-MNIST: 60,000 + 10,000 pieces of clothing, ten classes.
class FashionMnist : public TensorData<ClassIndex> {
 public:
  /// Where Debian's package `dataset-fashion-mnist` lays it.
  static constexpr const char* debian_folder = "/usr/share/datasets/fashion-mnist";

  /// As `Mnist::open`.
  static Split<FashionMnist> open(const std::filesystem::path& folder = debian_folder);

  /// T-shirt/top, Trouser, Pullover, Dress, Coat, Sandal, Shirt, Sneaker, Bag, Ankle boot.
  static Labels class_names() {
    return {"T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"};
  }

 private:
  explicit FashionMnist(TensorData data) : TensorData(std::move(data)) {}
};

inline Split<Mnist> Mnist::open(const std::filesystem::path& folder) {
  const Labels names{"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"};
  return {Mnist(detail::read_idx_part(folder, "train", "MNIST", names)),
          Mnist(detail::read_idx_part(folder, "t10k", "MNIST", names))};
}

inline Split<FashionMnist> FashionMnist::open(const std::filesystem::path& folder) {
  return {FashionMnist(detail::read_idx_part(folder, "train", "FashionMNIST", class_names())),
          FashionMnist(detail::read_idx_part(folder, "t10k", "FashionMNIST", class_names()))};
}

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API std::filesystem::path idx_file(const std::filesystem::path& folder, std::string_view part,
                                               std::string_view kind, std::string_view torchvision_name) {
  std::string other(kind);
  other[other.find('-')] = '.';
  for (const auto& at : {folder, folder / torchvision_name / "raw", folder / "raw"})
    for (const auto& name : {text(part, "-", kind), text(part, "-", other)})
      for (const char* ending : {"", ".gz"}) {
        std::error_code ignored;
        const auto file = at / (name + ending);
        if (std::filesystem::exists(file, ignored)) return file;
      }
  throw DataError(text("no data in ", folder, ": neither ", part, "-", kind, " nor ", part, "-", kind,
                       ".gz is there; give the folder that holds the four IDX files"));
}

TRANSFERLIB_API TensorData<ClassIndex> read_idx_part(const std::filesystem::path& folder, std::string_view part,
                                                     std::string_view torchvision_name, const Labels& names) {
  const auto read = [&](std::string_view kind, std::size_t dimensions) {
    const auto path = idx_file(folder, part, kind, torchvision_name);
    const auto file = MappedFile::open(path);
    IdxArray array = parse_idx(file->bytes(), path.string());
    if (array.dtype != DType::u8 || array.shape.size() != dimensions)
      throw FormatError(text(path, " holds an array of ", array.shape.size(), " dimensions; one of bytes with ",
                             dimensions, " is wanted there; download it again from the data set's page"));
    return std::pair(std::move(array), path);
  };
  const auto [pictures, pictures_path] = read("images-idx3-ubyte", 3);
  const auto [labels, labels_path] = read("labels-idx1-ubyte", 1);
  const Index n = pictures.shape[0];
  if (labels.shape[0] != n)
    throw FormatError(text(pictures_path, " has ", n, " pictures and ", labels_path, " has ", labels.shape[0],
                           " labels; they are not of the same data set"));
  Tensor x = at::empty({n, 1, pictures.shape[1], pictures.shape[2]}, at::kByte);
  if (!pictures.bytes.empty()) std::memcpy(x.mutable_data_ptr(), pictures.bytes.data(), pictures.bytes.size());
  Tensor target = at::empty({n}, at::kLong);
  for (Index i = 0; i < n; ++i) {
    const auto label = static_cast<Index>(labels.bytes[static_cast<std::size_t>(i)]);
    if (label >= static_cast<Index>(names.size()))
      throw FormatError(text(labels_path, ": label ", i, " is ", label, ", which is out of range: there are ",
                             names.size(), " classes, so labels go from 0 to ", names.size() - 1));
    target.mutable_data_ptr<Index>()[i] = label;
  }
  return {x, target, names};
}

}  // namespace transferlib::detail

#endif  // TRANSFERLIB_DEFINES

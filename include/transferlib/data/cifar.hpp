/// \file
/// CIFAR-10 and CIFAR-100 (Krizhevsky, "Learning multiple layers of features from tiny images", 2009) in their official
/// binary layout, https://www.cs.toronto.edu/~kriz/cifar.html.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ATen/ATen.h>

#include <transferlib/core/error.hpp>
#include <transferlib/core/files.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/data/tensors_data.hpp>
#include <transferlib/formats/cifar.hpp>

namespace transferlib {

namespace detail {

/// The folder called `name` in `folder`, or `folder` itself if it has `file`.
TRANSFERLIB_API std::filesystem::path cifar_folder(const std::filesystem::path& folder, std::string_view name,
                                                   std::string_view file);

/// The pictures of several files in order.
TRANSFERLIB_API TensorData<ClassIndex> read_cifar(const std::filesystem::path& folder,
                                                  std::span<const std::string_view> files, CifarKind kind,
                                                  const Labels& labels);

}  // namespace detail

/// CIFAR-10: 50,000 + 10,000 colour pictures of 32 x 32 pixels, ten classes.
class Cifar10 : public TensorData<ClassIndex> {
 public:
  /// Reads `data_batch_1.bin` … `data_batch_5.bin` and `test_batch.bin` from `folder` or from the
  /// `cifar-10-batches-bin` in it: `auto [train, test] = Cifar10::open("data");`
  /// \throws DataError if they are not there, FormatError if a file is cut or has a label out of range, FileError
  static Split<Cifar10> open(const std::filesystem::path& folder);

  /// airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck.
  static Labels class_names() {
    return {"airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"};
  }

 private:
  explicit Cifar10(TensorData data) : TensorData(std::move(data)) {}
};

/// CIFAR-100: 50,000 + 10,000 colour pictures of 32 x 32 pixels, by their 100 fine classes.
class Cifar100 : public TensorData<ClassIndex> {
 public:
  /// Reads `train.bin`, `test.bin` and `fine_label_names.txt` from `folder` or from the `cifar-100-binary` in it.
  /// \throws DataError if they are not there, FormatError if a file is cut or has a label out of range, FileError
  static Split<Cifar100> open(const std::filesystem::path& folder);

 private:
  explicit Cifar100(TensorData data) : TensorData(std::move(data)) {}
};

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API std::filesystem::path cifar_folder(const std::filesystem::path& folder, std::string_view name,
                                                   std::string_view file) {
  std::error_code ignored;
  if (std::filesystem::exists(folder / name / file, ignored)) return folder / name;
  if (std::filesystem::exists(folder / file, ignored)) return folder;
  throw DataError(text("no data in ", folder, ": neither ", name, "/", file, " nor ", file,
                       " is there; give the folder into which the archive of the binary version was unpacked"));
}

TRANSFERLIB_API TensorData<ClassIndex> read_cifar(const std::filesystem::path& folder,
                                                  std::span<const std::string_view> files, CifarKind kind,
                                                  const Labels& labels) {
  std::vector<std::shared_ptr<const MappedFile>> mapped;
  std::vector<CifarRecords> records;
  Index total = 0;
  for (std::string_view name : files) {
    mapped.push_back(MappedFile::open(folder / name));
    records.push_back(CifarRecords::parse(mapped.back()->bytes(), (folder / name).string(), kind));
    total += records.back().size();
  }
  Tensor pictures = at::empty({total, 3, 32, 32}, at::kByte);
  Tensor target = at::empty({total}, at::kLong);
  auto* p = pictures.mutable_data_ptr<std::uint8_t>();
  auto* t = target.mutable_data_ptr<Index>();
  for (const CifarRecords& file : records)
    for (Index i = 0; i < file.size(); ++i, p += CifarRecords::pixels) {
      std::memcpy(p, file.picture(i).data(), CifarRecords::pixels);
      *t++ = file.label(i);
    }
  return {pictures, target, labels};
}

}  // namespace transferlib::detail

namespace transferlib {

TRANSFERLIB_API Split<Cifar10> Cifar10::open(const std::filesystem::path& folder) {
  const auto at = detail::cifar_folder(folder, "cifar-10-batches-bin", "data_batch_1.bin");
  constexpr std::string_view train[] = {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin",
                                        "data_batch_5.bin"};
  constexpr std::string_view test[] = {"test_batch.bin"};
  return {Cifar10(detail::read_cifar(at, train, CifarKind::cifar10, class_names())),
          Cifar10(detail::read_cifar(at, test, CifarKind::cifar10, class_names()))};
}

TRANSFERLIB_API Split<Cifar100> Cifar100::open(const std::filesystem::path& folder) {
  const auto at = detail::cifar_folder(folder, "cifar-100-binary", "train.bin");
  Labels names;
  const std::string lines = read_file(at / "fine_label_names.txt");
  for (std::size_t from = 0; from < lines.size();) {
    const std::size_t end = std::min(lines.find('\n', from), lines.size());
    std::string name = lines.substr(from, end - from);
    if (!name.empty() && name.back() == '\r') name.pop_back();
    if (!name.empty()) names.push_back(std::move(name));
    from = end + 1;
  }
  if (names.size() != 100)
    throw FormatError(detail::text(at / "fine_label_names.txt", " has ", names.size(),
                                   " names of classes, one a line, instead of 100; unpack the archive again"));
  constexpr std::string_view train[] = {"train.bin"}, test[] = {"test.bin"};
  return {Cifar100(detail::read_cifar(at, train, CifarKind::cifar100, names)),
          Cifar100(detail::read_cifar(at, test, CifarKind::cifar100, names))};
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

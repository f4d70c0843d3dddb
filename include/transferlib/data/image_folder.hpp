/// \file
/// A folder of class folders of JPEG and PNG pictures, as torchvision's `ImageFolder` takes it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <ATen/ATen.h>

#include <transferlib/core/error.hpp>
#include <transferlib/core/files.hpp>
#include <transferlib/core/hash.hpp>
#include <transferlib/core/parallel.hpp>
#include <transferlib/core/random.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/data/pictures.hpp>
#include <transferlib/data/tensors_data.hpp>

namespace transferlib {

/// How a folder of pictures is read, and divided where it is not divided already.
struct ImageFolderOptions {
  double val_fraction = 0.2;      ///< of each class, for `split`
  std::uint64_t seed = 0;         ///< what `split` draws from
  double most_unreadable = 0.01;  ///< the part of all files that may be no readable pictures
  PictureOptions pictures{};
};

/// A file that is left out of an `ImageFolder`, and why.
struct UnreadablePicture {
  std::filesystem::path path;
  std::string reason;
};

namespace detail {

/// All files of a folder; shared by the data sets that show parts of it.
struct PictureTable {
  struct Row {
    std::string name;  ///< relative to the folder
    Index label = 0;
  };
  std::filesystem::path folder;
  Labels labels;
  std::vector<Row> rows;  ///< by label
  ImageFolderOptions options;
  mutable std::mutex mutex;
  mutable std::map<Index, std::string> unreadable;  ///< by row: the reason; grows while pictures are decoded

  const Row& row(Index i) const { return rows[static_cast<std::size_t>(i)]; }

  bool is_readable(Index i) const {
    const std::lock_guard lock(mutex);
    return unreadable.count(i) == 0;
  }

  /// The picture, or nothing where it can't be read; that is counted then. \throws DataError where it is too often
  std::optional<Picture> read(Index i) const;

  /// Refuses a folder of which too much can't be read. The mutex is locked, or one thread is at work.
  void check() const;

  [[noreturn]] void refuse_class(Index label) const;
};

/// The names of what lies in a folder and is not hidden, sorted; `folders`: the folders, else the rest.
TRANSFERLIB_API std::vector<std::string> entries_of(const std::filesystem::path& folder, bool folders);

/// The files below `folder / inside`, as names relative to `folder`, sorted.
inline void files_below(const std::filesystem::path& folder, const std::string& inside, std::vector<std::string>& out,
                        int depth = 0) {
  if (depth > 32) throw DataError(text(folder / inside, " lies too deep; does a link lead back to a folder above?"));
  for (const auto& name : entries_of(folder / inside, false)) out.push_back(inside + "/" + name);
  for (const auto& name : entries_of(folder / inside, true)) files_below(folder, inside + "/" + name, out, depth + 1);
}

inline bool is_folder(const std::filesystem::path& path) {
  std::error_code ignored;
  return std::filesystem::is_directory(path, ignored);
}

/// The folder of pictures to validate with that lies beside `folder / "train"`; empty where one of the two lacks.
inline std::string validation_folder(const std::filesystem::path& folder) {
  for (const char* name : {"val", "valid", "validation", "test"})
    if (is_folder(folder / "train") && is_folder(folder / name)) return name;
  return {};
}

/// Lists the pictures of a folder, looks at each one's header, and notes what is no picture, if it is little.
TRANSFERLIB_API std::shared_ptr<const PictureTable> scan_pictures(const std::filesystem::path& folder,
                                                                  const ImageFolderOptions& options);

}  // namespace detail

/// Pictures in class folders: `folder/cat/1.jpg`, `folder/dog/a/2.png`. The folders' names are the classes, sorted by
/// their bytes as torchvision does. Every file that is not hidden (its name does not begin with a dot) is taken for a
/// picture. When the folder is opened each one's header is read: what is no picture is left out, counted and listed in
/// `unreadable()`, and an error where it is more than 1 %. Pictures are decoded by every `batch`; what turns out then
/// to be damaged is counted in the same way, and the next readable picture of its class in this set stands in for it,
/// always the same one. See `decode_picture` for orientation, alpha and depth. Cheap to copy.
class ImageFolder {
 public:
  using Target = ClassIndex;
  using Options = ImageFolderOptions;

  /// All pictures of the folder.
  /// \throws DataError if there are no pictures, a class is empty or alone, or more than `most_unreadable` of the files
  /// can't be read; FileError
  static ImageFolder open(const std::filesystem::path& folder, const Options& options = {}) {
    const auto table = detail::scan_pictures(folder, options);
    return ImageFolder(table, readable(*table));
  }

  /// A training set and a validation set: the folders `train` and `val` (or `valid`, `validation`, `test`, the first
  /// there is) inside `folder` if both are there; else each class of `folder` (or of the one folder `train` in it)
  /// divided by chance, `val_fraction` of it for validation, drawn by `seed`.
  /// \throws DataError as `open`, and if the classes of the two differ; OptionError, FileError
  static Split<ImageFolder> split(const std::filesystem::path& folder, const Options& options = {});

  Index size() const { return static_cast<Index>(part_->rows.size()); }

  /// The classes' names, by index.
  const Labels& labels() const { return table_->labels; }

  /// These pictures, decoded: grey ones have one channel, others three. Safe from several threads.
  /// \throws DataError if an index is out of range, or more than `most_unreadable` of the files can't be read
  Batch batch(std::span<const Index> ids) const;

  /// The classes of these pictures, int64, without decoding them.
  Tensor targets(std::span<const Index> ids) const;

  /// The file of a picture.
  std::filesystem::path path(Index id) const { return table_->folder / row(id).name; }

  /// The files of the folder that can't be read: those that were left out when it was opened, and those for which
  /// others have stood in since; of all the data sets that were made from this folder by one call.
  std::vector<UnreadablePicture> unreadable() const {
    std::vector<UnreadablePicture> out;
    const std::lock_guard lock(table_->mutex);
    for (const auto& [i, reason] : table_->unreadable) out.push_back({table_->folder / table_->row(i).name, reason});
    return out;
  }

  /// SHA-256 of the pictures' relative paths, classes and contents, in hexadecimal. The first call reads all files.
  /// \throws FileError
  std::string fingerprint() const;

  /// These pictures alone, in this order. \throws DataError if an index is out of range
  ImageFolder subset(std::span<const Index> ids) const {
    detail::check_ids(ids, size());
    std::vector<Index> rows;
    for (Index id : ids) rows.push_back(part_->rows[static_cast<std::size_t>(id)]);
    return ImageFolder(table_, std::move(rows));
  }

  /// `n` pictures, evenly spread over all, so that every class keeps its part.
  /// \throws DataError if there are not so many
  ImageFolder subset(Index n) const;

 private:
  struct Part {
    std::vector<Index> rows;  ///< of the table
    mutable std::once_flag hashed;
    mutable std::string hash;
  };

  ImageFolder(std::shared_ptr<const detail::PictureTable> table, std::vector<Index> rows) : table_(std::move(table)) {
    auto part = std::make_shared<Part>();
    part->rows = std::move(rows);
    part_ = std::move(part);
  }

  static std::vector<Index> readable(const detail::PictureTable& table) {
    std::vector<Index> out;
    for (Index i = 0; i < static_cast<Index>(table.rows.size()); ++i)
      if (table.is_readable(i)) out.push_back(i);
    return out;
  }

  Index table_row(Index id) const { return part_->rows.at(static_cast<std::size_t>(id)); }
  const detail::PictureTable::Row& row(Index id) const { return table_->row(table_row(id)); }

  /// A picture, or where it can't be read the next of its class that can.
  Picture read(Index id) const;

  static void check_same_classes(const Labels& train, const Labels& val, const std::filesystem::path& folder,
                                 std::string_view name);

  std::shared_ptr<const detail::PictureTable> table_;
  std::shared_ptr<const Part> part_;
};

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API std::optional<Picture> PictureTable::read(Index i) const {
  if (!is_readable(i)) return std::nullopt;
  try {
    const std::string bytes = read_file(folder / row(i).name);
    return decode_picture(std::as_bytes(std::span(bytes.data(), bytes.size())), row(i).name, options.pictures);
  } catch (const Error& e) {
    const std::lock_guard lock(mutex);
    unreadable[i] = e.what();
    check();
  }
  return std::nullopt;
}

TRANSFERLIB_API void PictureTable::check() const {
  const auto bad = unreadable.size();
  if (static_cast<double>(bad) <= options.most_unreadable * static_cast<double>(rows.size())) return;
  std::vector<std::string> reasons;
  for (const auto& item : unreadable) reasons.push_back(item.second);
  throw DataError(text(bad, " of ", rows.size(), " files in ", folder, " can't be read as pictures, more than the ",
                       options.most_unreadable * 100.0, " % that are let pass: ", first_few(reasons)));
}

TRANSFERLIB_API void PictureTable::refuse_class(Index label) const {
  std::string reason;
  for (const auto& item : unreadable)
    if (row(item.first).label == label && reason.empty()) reason = item.second;
  throw DataError(text("no picture of the class \"", labels[static_cast<std::size_t>(label)], "\" in ", folder,
                       " can be read: ", reason));
}

TRANSFERLIB_API std::vector<std::string> entries_of(const std::filesystem::path& folder, bool folders) {
  std::vector<std::string> out;
  std::error_code error;
  std::filesystem::directory_iterator it(folder, error), end;
  for (; !error && it != end; it.increment(error)) {
    std::string name = it->path().filename().string();
    std::error_code unknown;
    if (name.front() != '.' && it->is_directory(unknown) == folders) out.push_back(std::move(name));
  }
  if (error) throw_errno("read the folder", folder, error.value());
  std::sort(out.begin(), out.end());
  return out;
}

TRANSFERLIB_API std::shared_ptr<const PictureTable> scan_pictures(const std::filesystem::path& folder,
                                                                  const ImageFolderOptions& options) {
  if (!(options.most_unreadable >= 0.0 && options.most_unreadable <= 1.0))
    throw OptionError(text("most_unreadable must lie in [0, 1], not ", options.most_unreadable));
  if (!is_folder(folder)) throw DataError(text("no data: ", folder, " is not a folder; check the path"));
  auto out = std::make_shared<PictureTable>();
  out->folder = folder;
  out->options = options;
  out->labels = entries_of(folder, true);
  for (const std::string& label : out->labels) {
    std::string lower = label;
    for (char& c : lower) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    for (const char* set : {"train", "training", "val", "valid", "validation", "test", "testing"})
      if (lower == set && out->labels.size() > 1)
        throw DataError(text("the folder ", folder, " holds \"", label,
                             "\", which is the name of a set of pictures and of no class; give the folder of that set, "
                             "or call the sets train and val"));
  }
  if (out->labels.empty())
    throw DataError(text("no data in ", folder,
                         ": there is no class folder in it; give each class a folder of its "
                         "name, with its pictures inside"));
  if (out->labels.size() == 1)
    throw DataError(text("only one class in ", folder, ": \"", out->labels[0],
                         "\"; there must be two folders of pictures or more to tell apart"));
  auto& rows = out->rows;
  std::vector<std::string> empty;
  for (std::size_t label = 0; label < out->labels.size(); ++label) {
    std::vector<std::string> names;
    files_below(folder, out->labels[label], names);
    if (names.empty()) empty.push_back(out->labels[label]);
    for (auto& name : names) rows.push_back({std::move(name), static_cast<Index>(label)});
  }
  if (!empty.empty())
    throw DataError(text("no pictures in the class ", empty.size() == 1 ? "folder " : "folders ", first_few(empty),
                         " of ", folder, "; put some in, or take the folder away"));
  std::vector<std::string> reasons(rows.size());
  for_each_in_parallel(static_cast<Index>(rows.size()), [&](Index i) {
    try {
      check_picture_header(MappedFile::open(folder / out->row(i).name)->bytes(), out->row(i).name, options.pictures);
    } catch (const Error& e) {
      reasons[static_cast<std::size_t>(i)] = e.what();
    }
  });
  std::vector<Index> left(out->labels.size());
  for (std::size_t i = 0; i < rows.size(); ++i)
    if (reasons[i].empty())
      ++left[static_cast<std::size_t>(rows[i].label)];
    else
      out->unreadable[static_cast<Index>(i)] = reasons[i];
  out->check();
  for (std::size_t label = 0; label < left.size(); ++label)
    if (left[label] == 0) out->refuse_class(static_cast<Index>(label));
  return out;
}

}  // namespace transferlib::detail

namespace transferlib {

TRANSFERLIB_API Split<ImageFolder> ImageFolder::split(const std::filesystem::path& folder, const Options& options) {
  if (const std::string name = detail::validation_folder(folder); !name.empty()) {
    Split<ImageFolder> out{open(folder / "train", options), open(folder / name, options)};
    check_same_classes(out.train.labels(), out.test.labels(), folder, name);
    return out;
  }
  if (!(options.val_fraction > 0.0 && options.val_fraction < 1.0))
    throw OptionError(detail::text("val_fraction must lie between 0 and 1, not ", options.val_fraction));
  const bool inside = detail::is_folder(folder / "train") && detail::entries_of(folder, true).size() == 1;
  const auto table = detail::scan_pictures(inside ? folder / "train" : folder, options);
  std::vector<Index> train, val, all = readable(*table);
  for (auto begin = all.begin(), end = begin; begin != all.end(); begin = end) {
    const Index label = table->row(*begin).label;
    while (end != all.end() && table->row(*end).label == label) ++end;
    const auto n = static_cast<Index>(end - begin);
    const auto wanted = static_cast<Index>(static_cast<double>(n) * options.val_fraction + 0.5);
    // Both sets see every class that has two pictures.
    const Index out = n < 2 ? 0 : std::clamp<Index>(wanted, 1, n - 1);
    const auto order = shuffled(n, options.seed, static_cast<std::uint64_t>(label), Purpose::split);
    for (Index i = 0; i < n; ++i) (i < out ? val : train).push_back(begin[order[static_cast<std::size_t>(i)]]);
  }
  if (val.empty())
    throw DataError(detail::text("no class of ", folder, " has two pictures, so none can be kept for validation"));
  std::sort(train.begin(), train.end());
  std::sort(val.begin(), val.end());
  return {ImageFolder(table, std::move(train)), ImageFolder(table, std::move(val))};
}

TRANSFERLIB_API Batch ImageFolder::batch(std::span<const Index> ids) const {
  detail::check_ids(ids, size());
  std::vector<Picture> pictures(ids.size());
  detail::for_each_in_parallel(static_cast<Index>(ids.size()), [&](Index i) {
    pictures[static_cast<std::size_t>(i)] = read(ids[static_cast<std::size_t>(i)]);
  });
  Batch out;
  const auto n = pictures.size();
  for (std::size_t from = 0, to = 0; from < n; from = to) {
    const Picture& first = pictures[from];
    const auto like_first = [&](const Picture& p) {
      return p.width == first.width && p.height == first.height && p.channels == first.channels;
    };
    while (to < n && like_first(pictures[to])) ++to;
    Tensor block = at::empty({static_cast<Index>(to - from), first.height, first.width, first.channels}, at::kByte);
    auto* at = block.mutable_data_ptr<std::uint8_t>();
    for (std::size_t i = from; i < to; at += pictures[i].pixels.size(), ++i)
      std::memcpy(at, pictures[i].pixels.data(), pictures[i].pixels.size());
    out.pictures.push_back(block.permute({0, 3, 1, 2}));
  }
  out.target = targets(ids);
  return out;
}

TRANSFERLIB_API Tensor ImageFolder::targets(std::span<const Index> ids) const {
  detail::check_ids(ids, size());
  Tensor out = at::empty({static_cast<Index>(ids.size())}, at::kLong);
  auto* at = out.mutable_data_ptr<Index>();
  for (Index id : ids) *at++ = row(id).label;
  return out;
}

TRANSFERLIB_API std::string ImageFolder::fingerprint() const {
  std::call_once(part_->hashed, [&] {
    Sha256 sum;
    sum.add(std::string_view("transferlib image folder 1"));
    for (const std::string& label : labels()) sum.add(std::string_view(label));
    // Some at a time, so that many pictures take no more memory than few.
    std::vector<std::string> hashes(4096);
    for (Index from = 0; from < size(); from += static_cast<Index>(hashes.size())) {
      const Index count = std::min(size() - from, static_cast<Index>(hashes.size()));
      detail::for_each_in_parallel(count, [&](Index i) {
        hashes[static_cast<std::size_t>(i)] = sha256(MappedFile::open(path(from + i))->bytes());
      });
      for (Index i = 0; i < count; ++i)
        sum.add(std::string_view(row(from + i).name))
            .add(row(from + i).label)
            .add(std::string_view(hashes[static_cast<std::size_t>(i)]));
    }
    part_->hash = sum.hex();
  });
  return part_->hash;
}

TRANSFERLIB_API ImageFolder ImageFolder::subset(Index n) const {
  if (n < 0 || n > size())
    throw DataError(detail::text("a subset of ", n, " pictures can't be taken: the data set has ", size()));
  std::vector<Index> rows;
  for (Index i = 0; i < n; ++i) rows.push_back(part_->rows[static_cast<std::size_t>(i * size() / n)]);
  return ImageFolder(table_, std::move(rows));
}

TRANSFERLIB_API Picture ImageFolder::read(Index id) const {
  const Index label = row(id).label;
  for (Index i = 0; i < size(); ++i) {
    const Index other = (id + i) % size();
    if (row(other).label != label) continue;
    if (auto picture = table_->read(table_row(other))) return std::move(*picture);
  }
  const std::lock_guard lock(table_->mutex);
  table_->refuse_class(label);
}

TRANSFERLIB_API void ImageFolder::check_same_classes(const Labels& train, const Labels& val,
                                                     const std::filesystem::path& folder, std::string_view name) {
  if (train == val) return;
  std::vector<std::string> only_train, only_val;
  std::set_difference(train.begin(), train.end(), val.begin(), val.end(), std::back_inserter(only_train));
  std::set_difference(val.begin(), val.end(), train.begin(), train.end(), std::back_inserter(only_val));
  std::string sentence = detail::text("the classes of ", folder / "train", " and ", folder / name, " differ: ");
  if (!only_train.empty()) sentence += detail::text("only train has ", detail::first_few(only_train), "; ");
  if (!only_val.empty()) sentence += detail::text("only ", name, " has ", detail::first_few(only_val), "; ");
  throw DataError(sentence + "both need the same folders");
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

/// \file
/// Pictures with boxes: data sets as Pascal VOC's, as folders of YOLO's texts and as COCO's JSON, checked when they are
/// opened, decoded when they are asked for.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
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
#include <transferlib/core/text.hpp>
#include <transferlib/data/image_folder.hpp>
#include <transferlib/data/pictures.hpp>
#include <transferlib/data/preprocess.hpp>
#include <transferlib/data/tensors_data.hpp>
#include <transferlib/detect/placement.hpp>
#include <transferlib/detect/truth.hpp>
#include <transferlib/formats/coco.hpp>
#include <transferlib/formats/tensor_view.hpp>
#include <transferlib/formats/voc.hpp>
#include <transferlib/formats/yolo_text.hpp>

namespace transferlib {

/// How pictures with boxes are read, and divided where they are not divided already.
struct BoxDataOptions {
  Labels labels = {};           ///< the classes by index; empty: the data set's own list, else those found, sorted
  double val_fraction = 0.2;    ///< of the pictures, for `split` where the data set has no sets of its own
  std::uint64_t seed = 0;       ///< what `split` draws from
  double most_bad = 0.01;       ///< the part of the pictures, and of the boxes, that may be left out or cut
  bool count_from_one = false;  ///< of VOC: pixels count from 1, as in Pascal VOC's own files; see `VocData`
  Index most_side = 0;          ///< pictures with a longer side are given scaled down to it, boxes too; 0: as they are
  std::size_t cache_bytes = 0;  ///< decoded pictures of up to so many bytes are kept in memory
  PictureOptions pictures{};
};

namespace detail {

/// A box as an annotation has it.
struct RawBox {
  std::string name = {};  ///< of its class; empty where `label` is known
  Index label = -1;
  std::array<double, 4> box{};  ///< x1, y1, x2, y2
  double area = -1.0;           ///< of the object itself; below 0: of the box
  bool crowd = false, difficult = false, matchable = true;
  std::string where = {};  ///< file and line
};

/// A picture as an annotation has it.
struct RawPicture {
  std::string name;             ///< of the file, relative to the folder
  std::string where;            ///< its annotation: file, perhaps line
  Index width = 0, height = 0;  ///< as the annotation says; 0: it does not say
  bool relative = false;        ///< the boxes are parts of the picture's sides, not pixels
  std::vector<RawBox> boxes = {};
  std::vector<std::string> left_out = {};  ///< a sentence for each box that was left out already
  std::string problem = {};                ///< why it can't be used; empty: nothing is known against it
};

/// Of what a data set is made; shared by those that show parts of it.
struct BoxTable {
  struct Row {
    std::string name;             ///< relative to the folder
    PixelSize size;               ///< of the picture as it is given
    PixelSize stored;             ///< of the picture in its file
    std::vector<TruthBox> boxes;  ///< in the picture as it is given
  };
  std::filesystem::path folder;
  Labels labels;
  BoxDataOptions options;
  std::vector<Row> rows;
  std::vector<std::string> problems;  ///< found when it was opened
  Index pictures = 0;                 ///< all that the annotations name, good or not
  Index bad_pictures = 0, left_out_boxes = 0, cut_boxes = 0;

  mutable std::mutex mutex;
  mutable std::map<Index, std::string> unreadable;  ///< by row: the reason; grows while pictures are decoded
  mutable std::unordered_map<Index, Tensor> kept;   ///< by row
  mutable std::size_t kept_bytes = 0;

  const Row& row(Index i) const { return rows[static_cast<std::size_t>(i)]; }
  bool is_readable(Index i) const {
    const std::lock_guard lock(mutex);
    return unreadable.count(i) == 0;
  }

  /// The picture (1, 3, H, W), or nothing where it can't be read; that is counted then. \throws DataError where it is
  /// too often
  std::optional<Tensor> read(Index i) const;

 private:
  Tensor decode(const Row& r) const;
};

/// The size at which a picture is given.
inline PixelSize with_longer_side(PixelSize size, Index most) {
  const Index longer = std::max(size.width, size.height);
  if (most <= 0 || longer <= most) return size;
  const auto side = [&](Index s) { return std::max<Index>(1, (s * most + longer / 2) / longer); };
  return {side(size.width), side(size.height)};
}

/// Makes a data set of what annotations say: looks at each picture's header, checks sizes, classes and boxes, and
/// leaves out or cuts what can't be used, if it is little.
class BoxTableBuilder {
 public:
  BoxTableBuilder(std::filesystem::path folder, Labels labels, const BoxDataOptions& options);

  /// A picture or a box that was left out before.
  void tell(std::string sentence, bool is_box) {
    ++(is_box ? table_->left_out_boxes : table_->bad_pictures);
    ++(is_box ? told_boxes_ : table_->pictures);
    table_->problems.push_back(std::move(sentence));
  }

  /// \param what the data set is called in sentences
  std::shared_ptr<const BoxTable> build(std::vector<RawPicture> pictures, std::string_view what);

 private:
  void add(RawBox& raw, const RawPicture& picture, BoxTable::Row& row);

  void check(Index bad, Index all, std::string_view things, std::string_view what) const;

  std::shared_ptr<BoxTable> table_;
  std::map<std::string, Index, std::less<>> by_name_;
  Index told_boxes_ = 0;  ///< boxes that are in `left_out_boxes` and no annotation's
};

}  // namespace detail

/// Pictures with boxes; opened by `VocData`, `YoloData` or `CocoData`. What is wrong with them (a box without area,
/// outside the picture or beyond its border, a class that is not known, a picture that is missing, can't be read, was
/// there before or has another size than its annotation says) is counted, listed in `problems()`, and an error where it
/// is more than 1 % of the pictures or of the boxes. Pictures are decoded by every `batch`; one that turns out then to
/// be damaged is counted and listed in the same way, and the next readable picture of this set stands in for it with
/// its boxes, always the same one. See `decode_picture` for orientation, alpha and depth. Cheap to copy.
class BoxData {
 public:
  using Target = Boxes;
  using Options = BoxDataOptions;

  Index size() const { return static_cast<Index>(part_->rows.size()); }

  /// The classes' names, by index.
  const Labels& labels() const { return table_->labels; }

  /// These pictures, decoded, each a block (1, 3, H, W) uint8 of its own; grey ones too have three channels. Their
  /// boxes without those that `ignored` gives. Safe from several threads. \throws DataError if an index is out of
  /// range, or too many files can't be read
  Batch batch(std::span<const Index> ids) const;

  /// The same without the pictures, which are not decoded.
  Batch targets(std::span<const Index> ids) const { return boxes_of(shown_rows(ids), false); }
  /// As `targets`.
  Batch targets_of(std::span<const Index> ids) const { return targets(ids); }

  /// What is neither to be found nor to be missed in these pictures: COCO's crowds, VOC's difficult objects. As
  /// `targets`, but its boxes are these.
  Batch ignored(std::span<const Index> ids) const { return boxes_of(shown_rows(ids), true); }

  /// All boxes of these pictures as metrics take them, the ignored ones too; the pictures' numbers are their places in
  /// `ids`.
  std::vector<TruthBox> truth(std::span<const Index> ids) const;
  /// Of all pictures.
  std::vector<TruthBox> truth() const {
    std::vector<Index> all(static_cast<std::size_t>(size()));
    std::iota(all.begin(), all.end(), Index{0});
    return truth(all);
  }

  /// How many boxes of each class are to be found, in all pictures; without the ignored ones.
  std::vector<Index> counts() const;

  /// The file of a picture. \throws DataError if the index is out of range
  std::filesystem::path path(Index id) const {
    detail::check_ids({&id, 1}, size());
    return table_->folder / table_->row(table_row(id)).name;
  }

  /// A sentence for each picture or box that is left out or cut, with file and, where there is one, line; of all the
  /// data sets that were made by the call that made this one. Damaged pictures are added when they are met.
  std::vector<std::string> problems() const {
    std::vector<std::string> out = table_->problems;
    const std::lock_guard lock(table_->mutex);
    for (const auto& item : table_->unreadable) out.push_back(item.second);
    return out;
  }
  /// How many pictures are left out.
  Index bad_pictures() const {
    const std::lock_guard lock(table_->mutex);
    return table_->bad_pictures + static_cast<Index>(table_->unreadable.size());
  }
  /// How many boxes are left out.
  Index left_out_boxes() const { return table_->left_out_boxes; }
  /// How many boxes are cut at their picture's border, more than a pixel beyond which they reached.
  Index cut_boxes() const { return table_->cut_boxes; }

  /// SHA-256 of the pictures' names, contents and sizes, their boxes, and the labels, in hexadecimal. The first call
  /// reads all files. \throws FileError
  std::string fingerprint() const;

  /// These pictures alone, in this order. \throws DataError if an index is out of range
  BoxData subset(std::span<const Index> ids) const {
    detail::check_ids(ids, size());
    std::vector<Index> rows;
    for (const Index id : ids) rows.push_back(table_row(id));
    return BoxData(table_, std::move(rows));
  }
  /// `n` pictures, evenly spread over all. \throws DataError if there are not so many
  BoxData subset(Index n) const;

  /// Divided by chance, `val_fraction` of the pictures for validation, drawn by `seed`.
  /// \throws OptionError, DataError where one of the two would be empty
  Split<BoxData> divide(double val_fraction, std::uint64_t seed) const;

  /// The same pictures with these classes, in this order: the boxes of all others are left out, and a class that the
  /// data have not has no box. Opens nothing anew. \throws DataError for no class, or one that is there twice
  BoxData with_labels(const Labels& labels) const;

  /// All pictures of a table. For those who open data sets.
  explicit BoxData(std::shared_ptr<const detail::BoxTable> table) : table_(std::move(table)) {
    auto part = std::make_shared<Part>();
    part->rows.resize(table_->rows.size());
    std::iota(part->rows.begin(), part->rows.end(), Index{0});
    part_ = std::move(part);
  }

 private:
  struct Part {
    std::vector<Index> rows;  ///< of the table
    mutable std::once_flag hashed;
    mutable std::string hash;
  };

  BoxData(std::shared_ptr<const detail::BoxTable> table, std::vector<Index> rows) : table_(std::move(table)) {
    auto part = std::make_shared<Part>();
    part->rows = std::move(rows);
    part_ = std::move(part);
  }

  static bool is_ignored(const TruthBox& box) { return box.crowd || box.difficult; }
  Index table_row(Index id) const { return part_->rows[static_cast<std::size_t>(id)]; }

  /// The row of picture `id`, or the next of this set that `is_readable`.
  template <class Readable>
  Index shown(Index id, const Readable& is_readable) const {
    for (Index i = 0; i < size(); ++i)
      if (const Index row = table_row((id + i) % size()); is_readable(row)) return row;
    throw DataError(detail::text("no picture of this set of ", size(), " in ", table_->folder, " can be read"));
  }
  std::vector<Index> shown_rows(std::span<const Index> ids) const {
    detail::check_ids(ids, size());
    std::vector<Index> out;
    for (const Index id : ids) out.push_back(shown(id, [&](Index row) { return table_->is_readable(row); }));
    return out;
  }

  Batch boxes_of(std::span<const Index> rows, bool ignored) const;

  std::shared_ptr<const detail::BoxTable> table_;
  std::shared_ptr<const Part> part_;
};

namespace detail {

/// A name's ending in small letters: ".jpg"; and the name without it.
TRANSFERLIB_API std::string ending_of(std::string_view name);
inline std::string stem_of(std::string_view name) {
  return std::string(name.substr(0, name.size() - ending_of(name).size()));
}

/// By its ending; of formats too that can't be read, so that it is told.
inline bool is_picture_name(std::string_view name) {
  static constexpr std::string_view endings[] = {".jpg", ".jpeg", ".png",  ".jpe", ".bmp",  ".gif",
                                                 ".tif", ".tiff", ".webp", ".ppm", ".heic", ".avif"};
  return std::find(std::begin(endings), std::end(endings), ending_of(name)) != std::end(endings);
}

/// Where a VOC data set's files lie.
class VocFolder {
 public:
  VocFolder(const std::filesystem::path& folder, const BoxDataOptions& options);

  const std::filesystem::path& folder() const { return folder_; }
  bool has(std::string_view set) const {
    return std::find(names_of_sets_.begin(), names_of_sets_.end(), set) != names_of_sets_.end();
  }

  /// A set's pictures; all where it has no name.
  BoxData open(const std::string& set);

 private:
  /// The names of all classes in all annotations, whatever the set, so that all sets have the same.
  Labels found_labels();

  void read(RawPicture& p) const;

  static constexpr std::string_view sets_ = "ImageSets/Main/";
  std::filesystem::path folder_;
  BoxDataOptions options_;
  std::string annotations_, pictures_;          ///< folders inside, with a slash; empty: the folder itself
  std::map<std::string, std::string> files_;    ///< annotations by stem
  std::map<std::string, std::string> by_stem_;  ///< pictures by stem
  std::set<std::string> names_;                 ///< all files beside the pictures
  std::vector<std::string> names_of_sets_;
};

}  // namespace detail

/// Opens data as Pascal VOC's: `Annotations/*.xml`, `JPEGImages/` (or `images/`), `ImageSets/Main/*.txt`; or pictures
/// and their `.xml` side by side in one folder.
///
/// A picture is the file of its annotation's name, else the one that the annotation names. A box reaches from (xmin,
/// ymin) to (xmax, ymax), numbers taken as corners counted from 0, as labelImg writes them and torchvision reads them.
/// With `count_from_one` 1 is subtracted from xmin and ymin: then the pixels from xmin to xmax, counted from 1, belong
/// to it, as in Pascal VOC's own files. Difficult objects are `ignored`. The classes are those of all annotations in
/// the folder, whatever the set, sorted by their bytes.
struct VocData {
  /// A set of the data: "train", "val", "trainval", "test" or any in ImageSets/Main; all annotations where it is empty.
  /// \throws DataError for what is not there, or too much of it can't be used; FileError
  static BoxData open(const std::filesystem::path& folder, const std::string& set = {},
                      const BoxDataOptions& options = {}) {
    return detail::VocFolder(folder, options).open(set);
  }

  /// The sets "train" and "val", or "train" (else "trainval") and "test"; where there are no such sets, all pictures
  /// divided by chance. \throws as `open`, OptionError
  static Split<BoxData> split(const std::filesystem::path& folder, const BoxDataOptions& options = {});
};

namespace detail {

/// A name as a path inside a folder, without `..` in it; nothing where it leads outside.
TRANSFERLIB_API std::optional<std::string> inside_of(const std::filesystem::path& folder,
                                                     const std::filesystem::path& name);

inline bool is_file(const std::filesystem::path& path) {
  std::error_code ignored;
  return std::filesystem::is_regular_file(path, ignored);
}

/// `folder/name`, or `name` where the folder is empty.
inline std::string joined(const std::string& folder, const std::string& name) {
  return folder.empty() || name.empty() ? folder + name : folder + "/" + name;
}

/// The files below a folder inside of another, as names relative to that.
TRANSFERLIB_API std::vector<std::string> all_files(const std::filesystem::path& folder, const std::string& inside);

/// The other names of a set.
inline std::vector<std::string> set_names(const std::string& set) {
  if (set == "val") return {"val", "valid", "validation"};
  return {set};
}

/// Where a YOLO data set's files lie.
class YoloFolder {
 public:
  /// \param path a folder, or the file that tells where the pictures lie: data.yaml, obj.data
  YoloFolder(const std::filesystem::path& path, const BoxDataOptions& options);

  bool has(const std::string& set) const { return missing_.contains(set) || !entries_for(set).empty(); }

  /// A set's pictures; all where it has no name.
  BoxData open(const std::string& set) const;

 private:
  void read_config(const std::filesystem::path& file);

  Labels names_in(const std::string& file) const {
    Labels out;
    const std::string words = read_file(folder_ / file);
    for (const auto& [line, number] : lines_of(words)) out.emplace_back(line);
    return out;
  }
  Labels own_labels() const;

  /// What a path in a file of the data set means: inside of the folder, as it is written; or where `shorten`, without
  /// what it begins with (`../`, the folders of the machine where it was written). Nothing where no such file or folder
  /// is there.
  std::optional<std::string> find(const std::string& beside, const std::string& name, bool shorten) const;

  /// The folders and lists that a set is made of.
  std::vector<std::string> entries_for(const std::string& set) const;
  std::vector<std::string> all_entries() const;

  /// Where a picture's annotation may lie: in `labels` where the picture lies in `images`, or beside it.
  static std::vector<std::string> label_names(const std::string& picture);

  void add_folder(const std::string& folder, std::vector<RawPicture>& to) const;

  void add_list(const std::string& file, std::vector<RawPicture>& to) const;

  /// Reads the annotation of a picture; false where it has none: then there is nothing to find in it.
  bool read(RawPicture& p) const;

  std::filesystem::path folder_;
  BoxDataOptions options_;
  std::string config_;  ///< the name of the data set's own file; empty: there is none
  std::map<std::string, std::vector<std::string>> sets_;
  std::map<std::string, std::string> missing_;  ///< sets that are told and not there: a sentence
  Labels labels_;
};

}  // namespace detail

/// Opens data as YOLO's programs take them: pictures in `images/…`, a text of the same name in `labels/…` (or beside
/// the picture) with a line `class x y width height` for each box. A picture without a text shows nothing that is to be
/// found. The classes' names come from `data.yaml`, darknet's `obj.data` and `obj.names`, or `classes.txt`.
///
/// The sets are those that `data.yaml` or `obj.data` tell: folders, or lists of pictures; else `images/train`,
/// `train/images` or `train.txt`, and so on ("valid" and "validation" stand for "val"). What these files name is looked
/// for inside of the folder that they lie in alone, without what the names begin with where it is not there: `../`, or
/// the folders of another machine.
struct YoloData {
  /// A set of the data: "train", "val", "test"; all pictures where it is empty.
  /// \param path the folder, or its data.yaml or obj.data
  /// \throws DataError for what is not there, or too much of it can't be used; FormatError, FileError
  static BoxData open(const std::filesystem::path& path, const std::string& set = {},
                      const BoxDataOptions& options = {}) {
    return detail::YoloFolder(path, options).open(set);
  }

  /// The sets "train" and "val" (else "test"); where there is none, all pictures divided by chance.
  /// \throws as `open`, OptionError
  static Split<BoxData> split(const std::filesystem::path& path, const BoxDataOptions& options = {}) {
    const detail::YoloFolder data(path, options);
    for (const char* val : {"val", "test"})
      if (data.has("train") && data.has(val)) return {data.open("train"), data.open(val)};
    return data.open(data.has("train") ? "train" : "").divide(options.val_fraction, options.seed);
  }
};

namespace detail {

/// Where a COCO data set's files lie: of a set its JSON and its pictures.
struct CocoFiles {
  std::filesystem::path json, pictures;
};

TRANSFERLIB_API std::optional<CocoFiles> find_coco(const std::filesystem::path& folder, const std::string& set);

}  // namespace detail

/// Opens data as COCO's: a JSON of images, categories and annotations, and a folder of pictures. The classes are the
/// categories in the order of their ids; crowds are `ignored`; segmentations are left alone.
struct CocoData {
  /// A JSON and the folder that its pictures' names begin in.
  /// \throws DataError if too much of it can't be used; FormatError, FileError
  static BoxData open(const std::filesystem::path& json, const std::filesystem::path& pictures,
                      const BoxDataOptions& options = {});

  /// A set of a folder: `annotations/instances_train2017.json` with `train2017/`, `train/_annotations.coco.json`,
  /// `train.json` with `images/`; "valid" and "validation" stand for "val".
  /// \throws DataError for what is not there, or as `open`
  static BoxData open_set(const std::filesystem::path& folder, const std::string& set,
                          const BoxDataOptions& options = {});

  /// The sets "train" and "val" (else "test"); where there is but "train", its pictures divided by chance.
  /// \throws DataError for what is not there, or as `open`; OptionError
  static Split<BoxData> split(const std::filesystem::path& folder, const BoxDataOptions& options = {});
};

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API std::optional<Tensor> BoxTable::read(Index i) const {
  Tensor picture;
  {
    const std::lock_guard lock(mutex);
    if (unreadable.count(i) != 0) return std::nullopt;
    if (const auto found = kept.find(i); found != kept.end()) picture = found->second;
  }
  // What is kept is given as a copy: a transform may write into a batch.
  if (picture.defined()) return picture.clone();
  try {
    picture = decode(row(i));
    if (options.cache_bytes == 0) return picture;
    const std::size_t bytes = picture.nbytes();
    {
      const std::lock_guard lock(mutex);
      if (bytes > options.cache_bytes - kept_bytes || !kept.emplace(i, picture).second) return picture;
      kept_bytes += bytes;
    }
    return picture.clone();
  } catch (const Error& e) {
    const std::lock_guard lock(mutex);
    unreadable[i] = e.what();
    const auto bad = bad_pictures + static_cast<Index>(unreadable.size());
    if (static_cast<double>(bad) > options.most_bad * static_cast<double>(pictures))
      throw DataError(text(bad, " of ", pictures, " pictures of ", folder, " can't be used, more than the ",
                           options.most_bad * 100.0, " % that are let pass; the last: ", e.what()));
  }
  return std::nullopt;
}

TRANSFERLIB_API Tensor BoxTable::decode(const Row& r) const {
  const Picture picture = read_picture(folder / r.name, options.pictures);
  if (picture.width != r.stored.width || picture.height != r.stored.height)
    throw DataError(text(folder / r.name, " has ", picture.width, " x ", picture.height, " pixels now, and had ",
                         r.stored.width, " x ", r.stored.height, " when the data set was opened; open it again"));
  Tensor block = at::empty({1, picture.height, picture.width, 3}, at::kByte);
  auto* to = block.mutable_data_ptr<std::uint8_t>();
  if (picture.channels == 3)
    std::memcpy(to, picture.pixels.data(), picture.pixels.size());
  else
    for (const std::uint8_t grey : picture.pixels) to = std::fill_n(to, 3, grey);
  block = block.permute({0, 3, 1, 2});
  return r.size == r.stored ? block : resize(block, r.size.height, r.size.width);
}

TRANSFERLIB_API BoxTableBuilder::BoxTableBuilder(std::filesystem::path folder, Labels labels,
                                                 const BoxDataOptions& options)
    : table_(std::make_shared<BoxTable>()) {
  if (!(options.most_bad >= 0.0 && options.most_bad <= 1.0))
    throw OptionError(text("most_bad must lie in [0, 1], not ", options.most_bad));
  if (options.most_side < 0) throw OptionError(text("most_side must be 0 or more pixels, not ", options.most_side));
  if (labels.empty()) throw DataError(text("no classes in ", folder, ": no object has a name; give `labels`"));
  table_->folder = std::move(folder);
  table_->options = options;
  for (std::size_t i = 0; i < labels.size(); ++i)
    if (!by_name_.emplace(labels[i], static_cast<Index>(i)).second)
      throw DataError(text("the class \"", labels[i], "\" is twice among the labels of ", table_->folder));
  table_->labels = std::move(labels);
}

TRANSFERLIB_API std::shared_ptr<const BoxTable> BoxTableBuilder::build(std::vector<RawPicture> pictures,
                                                                       std::string_view what) {
  if (pictures.empty()) throw DataError(text("no pictures in ", what));
  BoxTable& t = *table_;
  t.pictures += static_cast<Index>(pictures.size());
  std::vector<PixelSize> sizes(pictures.size());
  for_each_in_parallel(static_cast<Index>(pictures.size()), [&](Index i) {
    RawPicture& p = pictures[static_cast<std::size_t>(i)];
    if (!p.problem.empty()) return;
    try {
      const auto path = t.folder / p.name;
      const auto size = sizes[static_cast<std::size_t>(i)] =
          picture_size(MappedFile::open(path)->bytes(), path.string(), t.options.pictures);
      if ((p.width != 0 && p.width != size.width) || (p.height != 0 && p.height != size.height))
        p.problem = text(p.where, ": the picture should have ", p.width, " x ", p.height, " pixels, but ", p.name,
                         " has ", size.width, " x ", size.height);
    } catch (const Error& e) {
      p.problem = text(p.where, ": ", e.what());
    }
  });
  std::set<std::string_view> seen;
  Index boxes = 0;
  for (std::size_t i = 0; i < pictures.size(); ++i) {
    RawPicture& p = pictures[i];
    if (p.problem.empty() && !seen.insert(p.name).second)
      p.problem = text(p.where, ": the picture ", p.name, " was there before");
    if (!p.problem.empty()) {
      ++t.bad_pictures;
      t.problems.push_back(p.problem);
      continue;
    }
    boxes += static_cast<Index>(p.boxes.size());
    BoxTable::Row row{
        .name = p.name, .size = with_longer_side(sizes[i], t.options.most_side), .stored = sizes[i], .boxes = {}};
    for (std::string& sentence : p.left_out) tell(std::move(sentence), true);
    for (RawBox& box : p.boxes) add(box, p, row);
    t.rows.push_back(std::move(row));
  }
  check(t.bad_pictures, t.pictures, "pictures", what);
  check(t.left_out_boxes + t.cut_boxes, boxes + told_boxes_, "boxes", what);
  return table_;
}

TRANSFERLIB_API void BoxTableBuilder::add(RawBox& raw, const RawPicture& picture, BoxTable::Row& row) {
  BoxTable& t = *table_;
  const auto leave_out = [&](const std::string& why) {
    ++t.left_out_boxes;
    t.problems.push_back(text(raw.where, ": ", why, "; it is left out"));
  };
  if (raw.label < 0) {
    const auto found = by_name_.find(raw.name);
    if (found == by_name_.end())
      return leave_out(text("a box of the class \"", raw.name, "\", which is none of ", first_few(t.labels)));
    raw.label = found->second;
  } else if (raw.label >= static_cast<Index>(t.labels.size())) {
    return leave_out(
        text("a box of the class ", raw.label, " where there are ", t.labels.size(), " classes, from 0 on"));
  }
  const auto w = static_cast<double>(row.stored.width), h = static_cast<double>(row.stored.height);
  double x1 = raw.box[0], y1 = raw.box[1], x2 = raw.box[2], y2 = raw.box[3];
  if (picture.relative) x1 *= w, x2 *= w, y1 *= h, y2 *= h;
  if (!(x2 > x1 && y2 > y1)) return leave_out(text("the box is ", x2 - x1, " wide and ", y2 - y1, " high"));
  const auto corners = [&] { return text(x1, ", ", y1, ", ", x2, ", ", y2); };
  const auto pixels = [&] { return text("the picture of ", w, " x ", h, " pixels"); };
  if (x1 >= w || y1 >= h || x2 <= 0.0 || y2 <= 0.0)
    return leave_out(text("the box with the corners ", corners(), " lies outside ", pixels()));
  // Up to a pixel is how people round.
  if (x1 < -1.0 || y1 < -1.0 || x2 > w + 1.0 || y2 > h + 1.0) {
    ++t.cut_boxes;
    t.problems.push_back(
        text(raw.where, ": the box with the corners ", corners(), " reaches beyond ", pixels(), "; it is cut"));
  }
  x1 = std::max(x1, 0.0), y1 = std::max(y1, 0.0), x2 = std::min(x2, w), y2 = std::min(y2, h);
  const double sx = static_cast<double>(row.size.width) / w, sy = static_cast<double>(row.size.height) / h;
  row.boxes.push_back({.label = raw.label,
                       .box = {x1 * sx, y1 * sy, (x2 - x1) * sx, (y2 - y1) * sy},
                       .area = raw.area < 0.0 ? -1.0 : raw.area * sx * sy,
                       .crowd = raw.crowd,
                       .difficult = raw.difficult,
                       .matchable = raw.matchable});
}

TRANSFERLIB_API void BoxTableBuilder::check(Index bad, Index all, std::string_view things,
                                            std::string_view what) const {
  const BoxTable& t = *table_;
  if (static_cast<double>(bad) > t.options.most_bad * static_cast<double>(all))
    throw DataError(text(bad, " of ", all, " ", things, " of ", what, " can't be used as they are, more than the ",
                         t.options.most_bad * 100.0, " % that are let pass: ", first_few(t.problems),
                         "; correct them, or raise `most_bad`"));
}

}  // namespace transferlib::detail

namespace transferlib {

TRANSFERLIB_API Batch BoxData::batch(std::span<const Index> ids) const {
  detail::check_ids(ids, size());
  std::vector<Index> rows(ids.size());
  std::vector<Tensor> pictures(ids.size());
  detail::for_each_in_parallel(static_cast<Index>(ids.size()), [&](Index i) {
    const auto at = static_cast<std::size_t>(i);
    rows[at] = shown(ids[at], [&](Index row) {
      auto picture = table_->read(row);
      if (picture) pictures[at] = std::move(*picture);
      return picture.has_value();
    });
  });
  Batch out = boxes_of(rows, false);
  out.pictures = std::move(pictures);
  return out;
}

TRANSFERLIB_API std::vector<TruthBox> BoxData::truth(std::span<const Index> ids) const {
  std::vector<TruthBox> out;
  Index number = 0;
  for (const Index row : shown_rows(ids)) {
    for (TruthBox box : table_->row(row).boxes) {
      box.picture = number;
      out.push_back(box);
    }
    ++number;
  }
  return out;
}

TRANSFERLIB_API std::vector<Index> BoxData::counts() const {
  std::vector<Index> out(labels().size());
  for (const Index row : part_->rows)
    for (const TruthBox& box : table_->row(row).boxes)
      if (!is_ignored(box)) ++out[static_cast<std::size_t>(box.label)];
  return out;
}

TRANSFERLIB_API std::string BoxData::fingerprint() const {
  std::call_once(part_->hashed, [&] {
    std::vector<std::string> hashes(static_cast<std::size_t>(size()));
    detail::for_each_in_parallel(
        size(), [&](Index id) { hashes[static_cast<std::size_t>(id)] = sha256(MappedFile::open(path(id))->bytes()); });
    Sha256 sum;
    sum.add(std::string_view("transferlib box data 1"));
    for (const std::string& label : labels()) sum.add(std::string_view(label));
    for (Index id = 0; id < size(); ++id) {
      const auto& row = table_->row(table_row(id));
      sum.add(std::string_view(row.name)).add(row.size.width).add(row.size.height);
      for (const TruthBox& box : row.boxes) {
        sum.add(box.label).add(box.area).add(box.crowd).add(box.difficult).add(box.matchable);
        for (const double x : box.box) sum.add(x);
      }
      sum.add(std::string_view(hashes[static_cast<std::size_t>(id)]));
    }
    part_->hash = sum.hex();
  });
  return part_->hash;
}

TRANSFERLIB_API BoxData BoxData::subset(Index n) const {
  if (n < 0 || n > size())
    throw DataError(detail::text("a subset of ", n, " pictures can't be taken: the data set has ", size()));
  std::vector<Index> rows;
  for (Index i = 0; i < n; ++i) rows.push_back(table_row(i * size() / n));
  return BoxData(table_, std::move(rows));
}

TRANSFERLIB_API BoxData BoxData::with_labels(const Labels& labels) const {
  if (labels.empty()) throw DataError("data need a class at least; name one of theirs");
  std::vector<Index> number(table_->labels.size(), -1);
  for (std::size_t i = 0; i < labels.size(); ++i) {
    if (std::find(labels.begin(), labels.begin() + static_cast<std::ptrdiff_t>(i), labels[i]) !=
        labels.begin() + static_cast<std::ptrdiff_t>(i))
      throw DataError(detail::text("the class ", detail::in_quotes(labels[i]), " is named twice; name it once"));
    const auto found = std::find(table_->labels.begin(), table_->labels.end(), labels[i]);
    if (found != table_->labels.end())
      number[static_cast<std::size_t>(found - table_->labels.begin())] = static_cast<Index>(i);
  }
  auto table = std::make_shared<detail::BoxTable>();
  table->folder = table_->folder, table->labels = labels, table->options = table_->options;
  table->problems = table_->problems, table->pictures = table_->pictures;
  table->bad_pictures = table_->bad_pictures, table->left_out_boxes = table_->left_out_boxes;
  table->cut_boxes = table_->cut_boxes;
  {
    const std::lock_guard lock(table_->mutex);
    table->unreadable = table_->unreadable;
  }
  for (const auto& row : table_->rows) {
    table->rows.push_back({.name = row.name, .size = row.size, .stored = row.stored, .boxes = {}});
    for (TruthBox box : row.boxes) {
      box.label = number[static_cast<std::size_t>(box.label)];
      if (box.label >= 0) table->rows.back().boxes.push_back(box);
    }
  }
  return BoxData(std::move(table), part_->rows);
}

TRANSFERLIB_API Split<BoxData> BoxData::divide(double val_fraction, std::uint64_t seed) const {
  if (!(val_fraction > 0.0 && val_fraction < 1.0))
    throw OptionError(detail::text("val_fraction must lie between 0 and 1, not ", val_fraction));
  if (size() < 2) throw DataError(detail::text("a data set of ", size(), " pictures can't be divided in two"));
  const auto wanted = static_cast<Index>(static_cast<double>(size()) * val_fraction + 0.5);
  auto order = shuffled(size(), seed, 0, Purpose::split);
  const auto middle = order.begin() + std::clamp<Index>(wanted, 1, size() - 1);
  std::sort(order.begin(), middle);
  std::sort(middle, order.end());
  const std::span<const Index> all(order);
  const auto val = static_cast<std::size_t>(middle - order.begin());
  return {subset(all.subspan(val)), subset(all.first(val))};
}

TRANSFERLIB_API Batch BoxData::boxes_of(std::span<const Index> rows, bool ignored) const {
  const auto n = static_cast<Index>(rows.size());
  Batch out;
  out.offsets = at::empty({n + 1}, at::kLong);
  out.sizes = at::empty({n, 2}, at::kLong);
  auto* offset = out.offsets.mutable_data_ptr<Index>();
  auto* size = out.sizes.mutable_data_ptr<Index>();
  std::vector<float> numbers;
  for (const Index i : rows) {
    const auto& row = table_->row(i);
    *offset++ = static_cast<Index>(numbers.size() / 5);
    *size++ = row.size.height;
    *size++ = row.size.width;
    for (const TruthBox& box : row.boxes) {
      if (is_ignored(box) != ignored) continue;
      numbers.push_back(static_cast<float>(box.label));
      for (const double x : box.box) numbers.push_back(static_cast<float>(x));
    }
  }
  *offset = static_cast<Index>(numbers.size() / 5);
  out.target = at::empty({*offset, 5}, at::kFloat);
  std::copy(numbers.begin(), numbers.end(), out.target.mutable_data_ptr<float>());
  return out;
}

}  // namespace transferlib

namespace transferlib::detail {

TRANSFERLIB_API std::string ending_of(std::string_view name) {
  const std::size_t dot = name.rfind('.'), slash = name.rfind('/');
  if (dot == name.npos || (slash != name.npos && dot < slash)) return {};
  std::string out(name.substr(dot));
  for (char& c : out)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return out;
}

TRANSFERLIB_API VocFolder::VocFolder(const std::filesystem::path& folder, const BoxDataOptions& options)
    : folder_(folder), options_(options) {
  if (!is_folder(folder)) throw DataError(text("no data: ", folder, " is not a folder; check the path"));
  if (!is_folder(folder_ / "Annotations"))
    for (const std::string& inside : entries_of(folder, true))
      if (is_folder(folder / inside / "Annotations")) {
        if (folder_ != folder)
          throw DataError(text(folder, " has several data sets, as ", folder_.filename(), " and ", inside,
                               "; give the folder of one"));
        folder_ = folder / inside;
      }
  const bool apart = is_folder(folder_ / "Annotations");
  if (apart) annotations_ = "Annotations/";
  for (const char* name : {"JPEGImages", "images"})
    if (apart && pictures_.empty() && is_folder(folder_ / name)) pictures_ = text(name, "/");
  for (const std::string& name : entries_of(folder_ / annotations_, false))
    if (ending_of(name) == ".xml") files_.emplace(stem_of(name), name);
  if (files_.empty())
    throw DataError(text("no data in ", folder,
                         ": neither Annotations/ with .xml files nor such files are in it; "
                         "Pascal VOC's data have Annotations, JPEGImages and ImageSets/Main"));
  for (const std::string& name : entries_of(folder_ / pictures_, false)) {
    names_.insert(name);
    if (is_picture_name(name)) by_stem_.emplace(stem_of(name), name);
  }
  if (is_folder(folder_ / sets_))
    for (const std::string& name : entries_of(folder_ / sets_, false))
      if (ending_of(name) == ".txt") names_of_sets_.push_back(stem_of(name));
}

TRANSFERLIB_API BoxData VocFolder::open(const std::string& set) {
  std::vector<RawPicture> pictures;
  std::set<std::string> seen;
  if (set.empty()) {
    for (const auto& [stem, file] : files_) pictures.push_back({.name = stem, .where = annotations_ + file});
  } else {
    if (!has(set))
      throw DataError(text("no set \"", set, "\" in ", folder_ / sets_, ": ",
                           names_of_sets_.empty() ? "there is none" : "there are " + first_few(names_of_sets_, 12)));
    const std::string list = read_file(folder_ / sets_ / (set + ".txt"));
    for (const auto& [words, number] : lines_of(list)) {
      // The sets of one class say beside the name whether it is in the picture.
      const std::size_t blank = words.find_last_of(" \t");
      const std::string_view flag = blank == words.npos ? words : words.substr(blank + 1);
      const std::string line(flag == "1" || flag == "-1" || flag == "0" ? trimmed(words.substr(0, blank)) : words);
      RawPicture p{.name = line, .where = text(sets_, set, ".txt:", number)};
      if (!seen.insert(line).second)
        p.problem = text(p.where, ": ", line, " was there before");
      else if (const auto found = files_.find(line); found == files_.end())
        p.problem = text(p.where, ": there is no ", annotations_, line, ".xml");
      else
        p.where = annotations_ + found->second;
      pictures.push_back(std::move(p));
    }
  }
  const std::string what = set.empty() ? folder_.string() : text("the set ", set, " of ", folder_);
  if (pictures.empty()) throw DataError(text("no pictures in ", what));
  const Labels labels = options_.labels.empty() ? found_labels() : options_.labels;
  for_each_in_parallel(static_cast<Index>(pictures.size()),
                       [&](Index i) { read(pictures[static_cast<std::size_t>(i)]); });
  return BoxData(BoxTableBuilder(folder_, labels, options_).build(std::move(pictures), what));
}

TRANSFERLIB_API Labels VocFolder::found_labels() {
  std::vector<std::string> files;
  for (const auto& item : files_) files.push_back(annotations_ + item.second);
  std::set<std::string> names;
  std::mutex mutex;
  for_each_in_parallel(static_cast<Index>(files.size()), [&](Index i) {
    const std::string& file = files[static_cast<std::size_t>(i)];
    try {
      VocAnnotation a = parse_voc(read_file(folder_ / file), file);
      const std::lock_guard lock(mutex);
      for (VocObject& object : a.objects) names.insert(std::move(object.name));
    } catch (const Error&) {
      // Told where the picture is one of the set.
    }
  });
  return {names.begin(), names.end()};
}

TRANSFERLIB_API void VocFolder::read(RawPicture& p) const {
  if (!p.problem.empty()) return;
  try {
    const VocAnnotation a = parse_voc(read_file(folder_ / p.where), p.where);
    if (const auto found = by_stem_.find(p.name); found != by_stem_.end())
      p.name = pictures_ + found->second;
    else if (names_.contains(a.file))
      p.name = pictures_ + a.file;
    else
      p.problem = text(p.where, ": its picture is missing: ", folder_ / pictures_, " has neither ", p.name,
                       ".jpg (or .png)", a.file.empty() ? "" : " nor " + a.file);
    p.width = a.width;
    p.height = a.height;
    const double first = options_.count_from_one ? 1.0 : 0.0;
    for (const VocObject& o : a.objects)
      p.boxes.push_back({.name = o.name,
                         .box = {o.box[0] - first, o.box[1] - first, o.box[2], o.box[3]},
                         .difficult = o.difficult,
                         .where = text(p.where, ":", o.line)});
  } catch (const Error& e) {
    p.problem = e.what();
  }
}

}  // namespace transferlib::detail

namespace transferlib {

TRANSFERLIB_API Split<BoxData> VocData::split(const std::filesystem::path& folder, const BoxDataOptions& options) {
  detail::VocFolder data(folder, options);
  if (data.has("train") && data.has("val")) return {data.open("train"), data.open("val")};
  for (const char* train : {"train", "trainval"})
    if (data.has(train) && data.has("test")) return {data.open(train), data.open("test")};
  return data.open({}).divide(options.val_fraction, options.seed);
}

}  // namespace transferlib

namespace transferlib::detail {

TRANSFERLIB_API std::optional<std::string> inside_of(const std::filesystem::path& folder,
                                                     const std::filesystem::path& name) {
  std::filesystem::path path = name.lexically_normal();
  if (path.is_absolute()) {
    std::error_code ignored;
    path = path.lexically_relative(std::filesystem::absolute(folder, ignored).lexically_normal());
  }
  std::string out = path.generic_string();
  while (!out.empty() && out.back() == '/') out.pop_back();
  if (out == ".") out.clear();
  if (path.empty() || out == ".." || out.substr(0, 3) == "../" || out.find('\0') != out.npos) return std::nullopt;
  return out;
}

TRANSFERLIB_API std::vector<std::string> all_files(const std::filesystem::path& folder, const std::string& inside) {
  std::vector<std::string> out;
  files_below(folder, inside.empty() ? "." : inside, out);
  if (inside.empty())
    for (std::string& name : out) name = name.substr(2);
  std::sort(out.begin(), out.end());
  return out;
}

TRANSFERLIB_API YoloFolder::YoloFolder(const std::filesystem::path& path, const BoxDataOptions& options)
    : options_(options) {
  std::filesystem::path file;
  if (is_folder(path)) {
    folder_ = path;
    for (const char* name : {"data.yaml", "data.yml", "obj.data"})
      if (file.empty() && is_file(path / name)) file = path / name;
    for (const char* ending : {".yaml", ".yml", ".data"})
      for (const std::string& name : entries_of(path, false))
        if (file.empty() && ending_of(name) == ending) file = path / name;
  } else if (is_file(path)) {
    folder_ = path.parent_path().empty() ? std::filesystem::path(".") : path.parent_path();
    file = path;
  } else {
    throw DataError(text("no data: ", path, " is neither a folder nor a file; check the path"));
  }
  if (!file.empty()) read_config(file);
  labels_ = options.labels.empty() ? own_labels() : options.labels;
  if (labels_.empty())
    throw DataError(text("the classes of ", path, " have no names: there is neither a data.yaml with `names` nor ",
                         "obj.names nor classes.txt in it; give `labels`"));
}

TRANSFERLIB_API BoxData YoloFolder::open(const std::string& set) const {
  const std::string what = set.empty() ? folder_.string() : text("the set ", set, " of ", folder_);
  if (const auto found = missing_.find(set); found != missing_.end()) throw DataError(found->second);
  const std::vector<std::string> entries = set.empty() ? all_entries() : entries_for(set);
  if (entries.empty())
    throw DataError(text("no set \"", set, "\" in ", folder_, ": neither ", config_.empty() ? "a data.yaml" : config_,
                         " tells where it lies, nor is there images/", set, ", ", set, "/images or ", set, ".txt"));
  std::vector<RawPicture> pictures;
  for (const std::string& entry : entries)
    if (is_folder(folder_ / entry))
      add_folder(entry, pictures);
    else
      add_list(entry, pictures);
  if (pictures.empty())
    throw DataError(text("no pictures in ", what, ": there is no .jpg or .png file in ", first_few(entries)));
  std::atomic<Index> annotated{0};
  for_each_in_parallel(static_cast<Index>(pictures.size()), [&](Index i) {
    if (read(pictures[static_cast<std::size_t>(i)])) ++annotated;
  });
  if (annotated == 0)
    throw DataError(text("no annotations in ", what, ": no picture has a text, as ", label_names(pictures[0].name)[0],
                         " would be for ", pictures[0].name));
  return BoxData(BoxTableBuilder(folder_, labels_, options_).build(std::move(pictures), what));
}

TRANSFERLIB_API void YoloFolder::read_config(const std::filesystem::path& file) {
  config_ = file.filename().string();
  const std::string words = read_file(file);
  const std::string ending = ending_of(config_);
  YoloConfig c = ending == ".data" ? parse_darknet_data(words, config_) : parse_yolo_yaml(words, config_);
  std::string prefix;
  if (!c.path.empty()) {
    // A path that leads elsewhere is where its author kept the data: these lie where the file lies.
    const auto inside = inside_of(folder_, c.path);
    if (inside && is_folder(folder_ / *inside)) prefix = *inside;
  }
  for (const auto& [set, entries] : c.sets)
    for (std::string entry : entries) {
      const bool list = ending_of(entry) == ".txt";
      while (!list && entry.substr(0, 3) == "../") entry.erase(0, 3);
      if (const auto found = find(prefix, entry, list))
        sets_[set].push_back(*found);
      else
        missing_.emplace(set, text(folder_ / config_, ": the set ", set, " should lie in \"", entry,
                                   "\", which is not there, or not inside of ", folder_));
    }
  labels_ = std::move(c.labels);
  if (!c.names.empty()) {
    const auto found = find({}, c.names, true);
    if (!found)
      throw DataError(text(folder_ / config_, ": there is no file ", c.names, " of names inside of ", folder_));
    labels_ = names_in(*found);
  }
  if (c.classes != 0 && !labels_.empty() && c.classes != static_cast<Index>(labels_.size()))
    throw DataError(text(folder_ / config_, ": there are ", c.classes, " classes, but ", labels_.size(), " names"));
}

TRANSFERLIB_API Labels YoloFolder::own_labels() const {
  if (!labels_.empty()) return labels_;
  for (const char* name : {"obj.names", "classes.txt", "labels/classes.txt"})
    if (is_file(folder_ / name)) return names_in(name);
  for (const std::string& name : entries_of(folder_, false))
    if (ending_of(name) == ".names") return names_in(name);
  return {};
}

TRANSFERLIB_API std::optional<std::string> YoloFolder::find(const std::string& beside, const std::string& name,
                                                            bool shorten) const {
  const auto exists = [&](const std::optional<std::string>& inside) {
    std::error_code ignored;
    return inside && std::filesystem::exists(folder_ / *inside, ignored);
  };
  if (const auto found = inside_of(folder_, std::filesystem::path(beside) / name); exists(found)) return found;
  for (std::string_view rest = name;;) {
    if (!rest.empty() && rest[0] != '/')
      if (const auto found = inside_of(folder_, rest); exists(found)) return found;
    const std::size_t slash = rest.find('/');
    if (slash == rest.npos || !shorten) return std::nullopt;
    rest.remove_prefix(slash + 1);
  }
}

TRANSFERLIB_API std::vector<std::string> YoloFolder::entries_for(const std::string& set) const {
  for (const std::string& name : set_names(set))
    if (const auto found = sets_.find(name); found != sets_.end()) return found->second;
  for (const std::string& name : set_names(set)) {
    for (const std::string& entry : {"images/" + name, name + "/images"})
      if (is_folder(folder_ / entry)) return {entry};
    if (is_file(folder_ / (name + ".txt"))) return {name + ".txt"};
  }
  return {};
}

TRANSFERLIB_API std::vector<std::string> YoloFolder::all_entries() const {
  if (is_folder(folder_ / "images")) return {"images"};
  std::vector<std::string> out;
  for (const char* set : {"train", "val", "test"})
    for (std::string& entry : entries_for(set))
      if (std::find(out.begin(), out.end(), entry) == out.end()) out.push_back(std::move(entry));
  return out.empty() ? std::vector<std::string>{""} : out;
}

TRANSFERLIB_API std::vector<std::string> YoloFolder::label_names(const std::string& picture) {
  const std::string beside = stem_of(picture) + ".txt";
  for (const std::string_view folder : {"images", "JPEGImages"}) {
    const std::string within = "/" + beside;
    const std::size_t at = within.rfind(text("/", folder, "/"));
    if (at == within.npos) continue;
    return {beside.substr(0, at) + "labels" + beside.substr(at + folder.size()), beside};
  }
  return {beside};
}

TRANSFERLIB_API void YoloFolder::add_folder(const std::string& folder, std::vector<RawPicture>& to) const {
  std::set<std::string> annotations;
  std::string labels;
  for (const std::string& name : all_files(folder_, folder)) {
    if (!is_picture_name(name)) continue;
    const auto candidates = label_names(name);
    annotations.insert(candidates[0]);
    labels = candidates.size() == 2 ? label_names(joined(folder, "x.jpg"))[0] : "";
    to.push_back({.name = name, .where = name});
  }
  labels = labels.substr(0, labels.size() - std::min<std::size_t>(labels.size(), 6));
  if (labels.empty() || !is_folder(folder_ / labels)) return;
  for (const std::string& name : all_files(folder_, labels))
    if (ending_of(name) == ".txt" && name.substr(name.rfind('/') + 1) != "classes.txt" && !annotations.contains(name))
      to.push_back({.name = name, .where = name, .problem = text(name, ": its picture is missing in ", folder)});
}

TRANSFERLIB_API void YoloFolder::add_list(const std::string& file, std::vector<RawPicture>& to) const {
  const std::string words = read_file(folder_ / file);
  const std::size_t slash = file.rfind('/');
  const std::string beside = slash == file.npos ? "" : file.substr(0, slash);
  for (const auto& [line, number] : lines_of(words)) {
    RawPicture p{.name = std::string(line), .where = text(file, ":", number)};
    if (const auto found = find(beside, p.name, true))
      p.name = *found;
    else
      p.problem = text(p.where, ": the picture \"", line.substr(0, 200), "\" is missing, or not inside of ", folder_);
    to.push_back(std::move(p));
  }
}

TRANSFERLIB_API bool YoloFolder::read(RawPicture& p) const {
  if (!p.problem.empty()) return false;
  p.relative = true;
  for (const std::string& name : label_names(p.name)) {
    if (!is_file(folder_ / name)) continue;
    try {
      YoloBoxes found = parse_yolo_text(read_file(folder_ / name), name);
      for (const YoloBox& b : found.boxes)
        p.boxes.push_back({.label = b.label,
                           .box = {b.box[0] - b.box[2] / 2, b.box[1] - b.box[3] / 2, b.box[0] + b.box[2] / 2,
                                   b.box[1] + b.box[3] / 2},
                           .where = text(name, ":", b.line)});
      p.left_out = std::move(found.skipped);
    } catch (const Error& e) {
      p.problem = e.what();
    }
    return true;
  }
  return false;
}

TRANSFERLIB_API std::optional<CocoFiles> find_coco(const std::filesystem::path& folder, const std::string& set) {
  for (const std::string& name : set_names(set)) {
    // As Roboflow writes it.
    if (is_file(folder / name / "_annotations.coco.json"))
      return CocoFiles{folder / name / "_annotations.coco.json", folder / name};
    // As COCO does: annotations/instances_train2017.json, train2017/.
    for (const char* inside : {"annotations", "."}) {
      if (!is_folder(folder / inside)) continue;
      for (const std::string& file : entries_of(folder / inside, false)) {
        const bool instances = file.substr(0, 10) == "instances_";
        const std::string stem = stem_of(instances ? file.substr(10) : file);
        const std::string_view year = std::string_view(stem).substr(std::min(stem.size(), name.size()));
        if (ending_of(file) != ".json" || stem.substr(0, name.size()) != name ||
            year.find_first_not_of("0123456789_") != year.npos)
          continue;
        for (const std::string& pictures : {stem, "images/" + stem, name, "images/" + name, std::string("images")})
          if (is_folder(folder / pictures)) return CocoFiles{folder / inside / file, folder / pictures};
        return CocoFiles{folder / inside / file, folder};
      }
    }
  }
  return std::nullopt;
}

}  // namespace transferlib::detail

namespace transferlib {

TRANSFERLIB_API BoxData CocoData::open(const std::filesystem::path& json, const std::filesystem::path& pictures,
                                       const BoxDataOptions& options) {
  const std::string file = json.filename().string();
  if (!detail::is_folder(pictures))
    throw DataError(detail::text("no data: ", pictures, " is not a folder; check the path"));
  CocoTruth truth = parse_coco(read_file(json), file, options.most_bad);
  std::sort(truth.categories.begin(), truth.categories.end(),
            [](const CocoCategory& a, const CocoCategory& b) { return a.id < b.id; });
  Labels labels;
  std::unordered_map<std::int64_t, const std::string*> names;
  for (const CocoCategory& c : truth.categories) {
    labels.push_back(c.name);
    names.emplace(c.id, &c.name);
  }
  std::vector<detail::RawPicture> raw;
  std::unordered_map<std::int64_t, std::size_t> places;
  for (const CocoImage& image : truth.images) {
    places.emplace(image.id, raw.size());
    detail::RawPicture p{
        .name = image.file, .where = detail::text(file, ":", image.line), .width = image.width, .height = image.height};
    if (const auto inside = detail::inside_of(pictures, image.file); inside && !inside->empty())
      p.name = *inside;
    else
      p.problem = detail::text(p.where, ": the image ", image.id, " has the name \"", image.file.substr(0, 200),
                               "\", which is no file inside of ", pictures);
    raw.push_back(std::move(p));
  }
  for (const CocoAnnotation& a : truth.annotations)
    raw[places.at(a.image)].boxes.push_back({.name = *names.at(a.category),
                                             .box = {a.box[0], a.box[1], a.box[0] + a.box[2], a.box[1] + a.box[3]},
                                             .area = a.area,
                                             .crowd = a.crowd,
                                             .matchable = a.id != 0,
                                             .where = detail::text(file, ":", a.line, ": the annotation ", a.id)});
  detail::BoxTableBuilder builder(pictures, options.labels.empty() ? std::move(labels) : options.labels, options);
  for (const std::string& sentence : truth.skipped) builder.tell(file + ": " + sentence, sentence[0] == 'a');
  return BoxData(builder.build(std::move(raw), json.string()));
}

TRANSFERLIB_API BoxData CocoData::open_set(const std::filesystem::path& folder, const std::string& set,
                                           const BoxDataOptions& options) {
  const auto files = detail::find_coco(folder, set);
  if (!files)
    throw DataError(detail::text("no set \"", set, "\" in ", folder, ": there is neither annotations/instances_", set,
                                 ".json (or with a year) nor ", set, "/_annotations.coco.json nor ", set, ".json"));
  return open(files->json, files->pictures, options);
}

TRANSFERLIB_API Split<BoxData> CocoData::split(const std::filesystem::path& folder, const BoxDataOptions& options) {
  BoxData train = open_set(folder, "train", options);
  for (const char* val : {"val", "test"})
    if (detail::find_coco(folder, val)) {
      BoxDataOptions same = options;
      same.labels = train.labels();
      return {train, open_set(folder, val, same)};
    }
  return train.divide(options.val_fraction, options.seed);
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

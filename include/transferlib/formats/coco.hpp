/// \file
/// COCO's JSON: the ground truth of a data set's boxes, and detections. What is wrong with single records is counted
/// and told, and is fatal above one in a hundred.
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/formats/json.hpp>

namespace transferlib {

/// A picture of the data set.
struct CocoImage {
  std::int64_t id = 0;
  std::string file;         ///< its name; empty where the file tells none
  std::int64_t width = 0;   ///< in pixels; 0 where the file tells none
  std::int64_t height = 0;  ///< in pixels; 0 where the file tells none
  std::int64_t line = 0;    ///< of the file
};

/// A class of the data set.
struct CocoCategory {
  std::int64_t id = 0;
  std::string name;
};

/// An object in a picture, as people drew it.
struct CocoAnnotation {
  std::int64_t id = 0;
  std::int64_t image = 0;       ///< a CocoImage's id
  std::int64_t category = 0;    ///< a CocoCategory's id
  std::array<double, 4> box{};  ///< x, y of the left top corner, width, height, in pixels; the sides may be 0
  double area = 0.0;            ///< of the object, in pixels; where the file tells none, of the box
  bool crowd = false;           ///< many objects in one box
  std::int64_t line = 0;        ///< of the file
};

/// An object in a picture, as a detector found it.
struct CocoDetection {
  std::int64_t image = 0;       ///< a CocoImage's id
  std::int64_t category = 0;    ///< a CocoCategory's id
  std::array<double, 4> box{};  ///< x, y of the left top corner, width, height, in pixels; the sides may be 0
  double score = 0.0;
};

/// A data set's ground truth, in the file's order.
struct CocoTruth {
  std::vector<CocoImage> images;
  std::vector<CocoCategory> categories;
  std::vector<CocoAnnotation> annotations;
  std::vector<std::string> skipped;  ///< a sentence for each record that was left out
};

/// Detections, in the file's order.
struct CocoDetections {
  std::vector<CocoDetection> detections;
  std::vector<std::string> skipped;  ///< a sentence for each record that was left out
};

namespace detail {

/// The lines on which the elements of an array begin, from 1, in a text that is known to be JSON: the array is the text
/// itself where `key` is empty, else the member `key` of the text's object.
TRANSFERLIB_API std::vector<std::int64_t> json_element_lines(std::string_view text, std::string_view key);

/// One list of records of a COCO file, read one by one.
class CocoRecords {
 public:
  /// \param key the list's name in the file; empty where the file is the list
  CocoRecords(std::string_view text, std::string_view where, std::string_view key, const Json& file,
              std::vector<std::string>& skipped, double most_bad);

  /// Reads each record: `read(record)` returns what is wrong with it, or nothing. \throws FormatError
  template <class Read>
  void each(const Read& read) {
    std::size_t bad = 0;
    std::string first;
    for (index_ = 0; index_ < records_->size(); ++index_) {
      const Json& record = (*records_)[index_];
      if (!record.is_object()) fail("it should be an object");
      const std::string problem = read(record);
      if (problem.empty()) continue;
      skipped_->push_back(transferlib::detail::text(place(), ": ", problem));
      if (bad++ == 0) first = skipped_->back();
    }
    if (static_cast<double>(bad) > most_bad_ * static_cast<double>(records_->size()))
      throw FormatError(transferlib::detail::text(where_, ": ", bad, " of ", records_->size(), " records",
                                                  key_.empty() ? "" : " of ", key_,
                                                  " can't be used, which is more than ", most_bad_ * 100.0,
                                                  " %; the first: ", first, "; correct the file or make it again"));
  }

  /// Where the record begins that is being read.
  std::int64_t line() const { return index_ < lines_.size() ? lines_[index_] : 0; }

  std::int64_t id(const Json& record, std::string_view name) const;
  std::string string(const Json& record, std::string_view name) const {
    const Json& value = member(record, name);
    if (!value.is_string()) wrong(name, value, "a string");
    return value.string();
  }
  double number(const Json& record, std::string_view name) const { return number_of(name, member(record, name)); }
  std::array<double, 4> box(const Json& record) const;
  /// false, true, 0 or 1; false where there is none.
  bool truth(const Json& record, std::string_view name) const {
    const Json* value = record.find(name);
    if (value == nullptr || *value == Json(false) || *value == Json(0)) return false;
    if (*value == Json(true) || *value == Json(1)) return true;
    wrong(name, *value, "0 or 1");
  }

 private:
  static constexpr double largest = 1e12;

  const Json& member(const Json& record, std::string_view name) const {
    const Json* value = record.find(name);
    if (value == nullptr) fail(transferlib::detail::text("it has no \"", name, "\""));
    return *value;
  }
  double number_of(std::string_view name, const Json& value) const {
    if (!value.is_number()) wrong(name, value, name == "bbox" ? "[x, y, width, height]" : "a number");
    const double out = value.get<double>();
    if (std::abs(out) > largest) fail(transferlib::detail::text("its ", name, " has ", out, ", beyond 1e12"));
    return out;
  }
  [[noreturn]] void wrong(std::string_view name, const Json& value, std::string_view wanted) const {
    fail(transferlib::detail::text("its ", name, " should be ", wanted, ", not ", value.dump().substr(0, 80)));
  }
  /// A record whose form is wrong: the whole file is not what it is taken for.
  [[noreturn]] void fail(std::string_view problem) const {
    throw FormatError(transferlib::detail::text(where_, ": ", place(), ": ", problem,
                                                "; correct the file or make it "
                                                "again"));
  }
  /// "annotations[3], line 17".
  std::string place() const {
    return transferlib::detail::text(key_.empty() ? "detection " : key_, "[", index_, "], line ", line());
  }

  std::string_view where_, key_;
  std::vector<std::string>* skipped_;
  double most_bad_;
  const Json::Array* records_ = nullptr;
  std::vector<std::int64_t> lines_;
  std::size_t index_ = 0;
};

using CocoIds = std::unordered_set<std::int64_t>;

/// What is wrong with a box of ground truth or a detection; empty where nothing is.
TRANSFERLIB_API std::string coco_box_problem(std::int64_t image, std::int64_t category,
                                             const std::array<double, 4>& box, const CocoIds& images,
                                             const CocoIds& categories);

template <class Records>
CocoIds ids_of(const Records& records) {
  CocoIds out;
  out.reserve(records.size());
  for (const auto& record : records) out.insert(record.id);
  return out;
}

}  // namespace detail

/// Reads a COCO file of ground truth ("instances"): its images, categories, and annotations with their boxes;
/// segmentations are left alone. Records with an id that was there before, annotations of an image or a category that
/// is not there, with a side or an area below 0: skipped and told, up to one in a hundred. Boxes may have sides of 0
/// and may lie outside their image.
/// \param where the file's name, for the error's sentence
/// \param most_bad the part of each list that may be skipped
/// \throws FormatError with line, for text that is no JSON or no ground truth, and where more would be skipped
TRANSFERLIB_API CocoTruth parse_coco(std::string_view text, std::string_view where, double most_bad = 0.01);

/// Reads a COCO file of detections: an array of `{"image_id", "category_id", "bbox": [x, y, width, height], "score"}`.
/// Those of an image or a category that the ground truth does not have, or with a side below 0: skipped and told, up to
/// one in a hundred.
/// \throws FormatError with line, for text that is no JSON or no detections, and above one bad record in a hundred
TRANSFERLIB_API CocoDetections parse_coco_detections(std::string_view text, std::string_view where,
                                                     const CocoTruth& truth);

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API std::vector<std::int64_t> json_element_lines(std::string_view text, std::string_view key) {
  const std::size_t wanted_depth = key.empty() ? 1 : 2;
  std::vector<std::int64_t> out;
  std::size_t depth = 0;
  std::int64_t line = 1;
  bool inside = key.empty();  // the array that is meant
  bool fresh = false;         // an element begins with what comes next
  for (std::size_t at = 0; at < text.size(); ++at) {
    const char c = text[at];
    if (c == '\n') ++line;
    if (c == ' ' || c == '\n' || c == '\t' || c == '\r') continue;
    if (std::exchange(fresh, false) && c != ']') out.push_back(line);
    if (c == '"') {
      const std::size_t begin = ++at;
      while (at < text.size() && text[at] != '"') at += text[at] == '\\' ? 2 : 1;
      if (at >= text.size()) break;
      if (depth == 1 && !key.empty()) inside = text.substr(begin, at - begin) == key;
    } else if (c == '[' || c == '{') {
      fresh = ++depth == wanted_depth && inside && c == '[';
    } else if (c == ']' || c == '}') {
      if (depth-- == wanted_depth && inside) break;
    } else if (c == ',' && depth == wanted_depth && inside) {
      fresh = true;
    }
  }
  return out;
}

TRANSFERLIB_API CocoRecords::CocoRecords(std::string_view text, std::string_view where, std::string_view key,
                                         const Json& file, std::vector<std::string>& skipped, double most_bad)
    : where_(where), key_(key), skipped_(&skipped), most_bad_(most_bad) {
  const Json* list = key.empty() ? &file : file.find(key);
  if (list == nullptr)
    throw FormatError(transferlib::detail::text(where, ": there is no \"", key,
                                                "\"; a COCO file of ground truth has an object with "
                                                "\"images\", \"annotations\" and \"categories\""));
  if (!list->is_array())
    throw FormatError(transferlib::detail::text(
        where, ": ", key.empty() ? "the file" : key, " should be an array",
        key.empty() ? " of detections: [{\"image_id\": …, \"category_id\": …, \"bbox\": [x, y, width, height], "
                      "\"score\": …}, …]"
                    : ""));
  records_ = &list->elements();
  lines_ = json_element_lines(text, key);
}

TRANSFERLIB_API std::int64_t CocoRecords::id(const Json& record, std::string_view name) const {
  const Json& value = member(record, name);
  if (!value.is_number()) wrong(name, value, "a whole number");
  try {
    return value.get<std::int64_t>();
  } catch (const FormatError&) {
    wrong(name, value, "a whole number");
  }
}

TRANSFERLIB_API std::array<double, 4> CocoRecords::box(const Json& record) const {
  const Json& value = member(record, "bbox");
  if (!value.is_array() || value.size() != 4) wrong("bbox", value, "[x, y, width, height]");
  std::array<double, 4> out{};
  for (std::size_t i = 0; i < 4; ++i) out[i] = number_of("bbox", value.elements()[i]);
  return out;
}

TRANSFERLIB_API std::string coco_box_problem(std::int64_t image, std::int64_t category,
                                             const std::array<double, 4>& box, const CocoIds& images,
                                             const CocoIds& categories) {
  if (!images.contains(image)) return text("there is no image with the id ", image);
  if (!categories.contains(category)) return text("there is no category with the id ", category);
  if (box[2] < 0.0 || box[3] < 0.0) return text("its box is ", box[2], " wide and ", box[3], " high");
  return {};
}

}  // namespace transferlib::detail

namespace transferlib {

TRANSFERLIB_API CocoTruth parse_coco(std::string_view text, std::string_view where, double most_bad) {
  const Json file = parse_json(text, where);
  if (!file.is_object())
    throw FormatError(detail::text(where,
                                   ": a COCO file of ground truth is an object with \"images\", "
                                   "\"annotations\" and \"categories\", not ",
                                   Json::name_of(file.type())));
  CocoTruth out;
  detail::CocoIds images, categories, annotations;
  detail::CocoRecords image_records(text, where, "images", file, out.skipped, most_bad);
  detail::CocoRecords category_records(text, where, "categories", file, out.skipped, most_bad);
  detail::CocoRecords annotation_records(text, where, "annotations", file, out.skipped, most_bad);
  const auto twice = [](std::int64_t id) { return detail::text("the id ", id, " was there before"); };

  image_records.each([&](const Json& record) -> std::string {
    CocoImage image{.id = image_records.id(record, "id"), .file = {}, .line = image_records.line()};
    if (record.contains("file_name")) image.file = image_records.string(record, "file_name");
    if (record.contains("width")) image.width = image_records.id(record, "width");
    if (record.contains("height")) image.height = image_records.id(record, "height");
    if (image.width < 0 || image.height < 0)
      return detail::text("the image is ", image.width, " wide and ", image.height, " high");
    if (!images.insert(image.id).second) return twice(image.id);
    out.images.push_back(std::move(image));
    return {};
  });
  category_records.each([&](const Json& record) -> std::string {
    CocoCategory category{.id = category_records.id(record, "id"), .name = category_records.string(record, "name")};
    if (!categories.insert(category.id).second) return twice(category.id);
    out.categories.push_back(std::move(category));
    return {};
  });
  annotation_records.each([&](const Json& record) -> std::string {
    CocoAnnotation a{.id = annotation_records.id(record, "id"),
                     .image = annotation_records.id(record, "image_id"),
                     .category = annotation_records.id(record, "category_id"),
                     .box = annotation_records.box(record),
                     .crowd = annotation_records.truth(record, "iscrowd"),
                     .line = annotation_records.line()};
    a.area = record.contains("area") ? annotation_records.number(record, "area") : a.box[2] * a.box[3];
    std::string problem = detail::coco_box_problem(a.image, a.category, a.box, images, categories);
    if (problem.empty() && a.area < 0.0) problem = detail::text("its area is ", a.area);
    if (problem.empty() && !annotations.insert(a.id).second) problem = twice(a.id);
    if (problem.empty()) out.annotations.push_back(a);
    return problem;
  });
  return out;
}

TRANSFERLIB_API CocoDetections parse_coco_detections(std::string_view text, std::string_view where,
                                                     const CocoTruth& truth) {
  const Json file = parse_json(text, where);
  CocoDetections out;
  const detail::CocoIds images = detail::ids_of(truth.images), categories = detail::ids_of(truth.categories);
  detail::CocoRecords records(text, where, {}, file, out.skipped, 0.01);
  records.each([&](const Json& record) -> std::string {
    const CocoDetection d{.image = records.id(record, "image_id"),
                          .category = records.id(record, "category_id"),
                          .box = records.box(record),
                          .score = records.number(record, "score")};
    std::string problem = detail::coco_box_problem(d.image, d.category, d.box, images, categories);
    if (problem.empty()) out.detections.push_back(d);
    return problem;
  });
  return out;
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

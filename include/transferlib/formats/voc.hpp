/// \file
/// Pascal VOC's annotations: one XML file a picture, as labelImg and others write it too.
#pragma once

#include <array>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/layers.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/text.hpp>
#include <transferlib/formats/xml.hpp>

namespace transferlib {

/// An object in a picture.
struct VocObject {
  std::string name;             ///< of its class
  std::array<double, 4> box{};  ///< xmin, ymin, xmax, ymax, as the file has them; finite, and nothing else is promised
  bool difficult = false;       ///< hard to see: what finds it is neither right nor wrong
  bool truncated = false;       ///< a part of it lies outside the picture
  Index line = 0;               ///< of the object in the file
};

/// What is known of a picture.
struct VocAnnotation {
  std::string file;  ///< the picture's name; empty where the file tells none
  Index width = 0;   ///< in pixels; 0 where the file tells none
  Index height = 0;  ///< in pixels; 0 where the file tells none
  std::vector<VocObject> objects;
};

namespace detail {

/// Looks things up in one annotation.
class VocReader {
 public:
  explicit VocReader(std::string_view where) : where_(where) {}

  [[noreturn]] void fail(Index line, std::string_view problem) const {
    throw FormatError(text(where_, ":", line, ": ", problem));
  }
  /// The one child of this name, or none. Two are refused.
  const XmlElement* child(const XmlElement& parent, std::string_view name) const;
  const XmlElement& needed(const XmlElement& parent, std::string_view name) const {
    const XmlElement* out = child(parent, name);
    if (out == nullptr) fail(parent.line, text("<", parent.name, "> has no <", name, ">"));
    return *out;
  }
  std::string_view words(const XmlElement& e) const {
    if (!e.children.empty()) fail(e.line, text("<", e.name, "> should hold a text alone"));
    return trimmed(e.text);
  }
  double number(const XmlElement& e) const;
  /// A side in pixels; 0 where there is none.
  Index side(const XmlElement& size, std::string_view name) const;
  bool truth(const XmlElement& object, std::string_view name) const;
  VocObject object(const XmlElement& e) const;

 private:
  std::string_view where_;
};

}  // namespace detail

/// Reads an annotation of Pascal VOC: the picture's name and size, its objects with their classes and boxes. What else
/// is in it (parts, poses, sources) is left alone.
///
/// Boxes are returned as they are written. VOC's own files count pixels from 1 and name the last pixel that belongs to
/// the object; labelImg and most other programs write the corners of a box, counted from 0.
/// \param where the file's name, for the error's sentence
/// \throws FormatError with the line, for what is not XML or not such an annotation
TRANSFERLIB_API VocAnnotation parse_voc(std::string_view text, std::string_view where);

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API const XmlElement* VocReader::child(const XmlElement& parent, std::string_view name) const {
  const XmlElement* out = nullptr;
  for (const XmlElement& c : parent.children) {
    if (c.name != name) continue;
    if (out != nullptr) fail(c.line, text("a second <", name, "> in <", parent.name, ">"));
    out = &c;
  }
  return out;
}

TRANSFERLIB_API double VocReader::number(const XmlElement& e) const {
  std::string_view s = words(e);
  if (!s.empty() && s[0] == '+') s.remove_prefix(1);
  double out = 0.0;
  const auto [end, error] = std::from_chars(s.data(), s.data() + s.size(), out);
  if (s.empty() || error != std::errc() || end != s.data() + s.size() || !(std::abs(out) <= 1e9))
    fail(e.line, text("<", e.name, "> should be a number, not \"", words(e).substr(0, 40), "\""));
  return out;
}

TRANSFERLIB_API Index VocReader::side(const XmlElement& size, std::string_view name) const {
  const XmlElement* e = child(size, name);
  if (e == nullptr || words(*e).empty()) return 0;
  const double out = number(*e);
  if (out < 0.0 || out != std::floor(out))
    fail(e->line, text("<", name, "> should be a whole number of pixels, not ", out));
  return static_cast<Index>(out);
}

TRANSFERLIB_API bool VocReader::truth(const XmlElement& object, std::string_view name) const {
  const XmlElement* e = child(object, name);
  if (e == nullptr || words(*e).empty()) return false;
  const std::string_view s = words(*e);
  if (s != "0" && s != "1" && s != "False" && s != "True" && s != "false" && s != "true")
    fail(e->line, text("<", name, "> should be 0 or 1, not \"", s.substr(0, 40), "\""));
  return s == "1" || s == "True" || s == "true";
}

TRANSFERLIB_API VocObject VocReader::object(const XmlElement& e) const {
  VocObject out;
  out.line = e.line;
  const XmlElement& name = needed(e, "name");
  out.name = words(name);
  if (out.name.empty()) fail(name.line, "the <name> of an object's class is empty");
  const XmlElement& box = needed(e, "bndbox");
  static constexpr std::string_view sides[] = {"xmin", "ymin", "xmax", "ymax"};
  for (std::size_t i = 0; i < 4; ++i) out.box[i] = number(needed(box, sides[i]));
  out.difficult = truth(e, "difficult");
  out.truncated = truth(e, "truncated");
  return out;
}

}  // namespace transferlib::detail

namespace transferlib {

TRANSFERLIB_API VocAnnotation parse_voc(std::string_view text, std::string_view where) {
  const XmlElement root = parse_xml(text, where);
  const detail::VocReader reader(where);
  if (root.name != "annotation")
    reader.fail(root.line, detail::text("the outermost element is <", root.name,
                                        ">; in an annotation of Pascal VOC it ", "is <annotation>"));
  VocAnnotation out;
  if (const XmlElement* file = reader.child(root, "filename")) out.file = reader.words(*file);
  if (const XmlElement* size = reader.child(root, "size")) {
    out.width = reader.side(*size, "width");
    out.height = reader.side(*size, "height");
  }
  for (const XmlElement& e : root.children)
    if (e.name == "object") out.objects.push_back(reader.object(e));
  return out;
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

// Any bytes as JSON: a value that is written and read back equal, gives what it has, refuses what it has not, and is
// built anew, piece by piece, equal; or a FormatError.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include <transferlib/formats/json.hpp>

#include "damage.hpp"

namespace {

using transferlib::FormatError;
using transferlib::Json;

template <class Ask>
void must_refuse(const Ask& ask) {
  try {
    ask();
  } catch (const FormatError&) {
    return;
  }
  std::abort();
}

void must(bool holds) {
  if (!holds) std::abort();
}

/// The same value from what it tells of itself.
Json again(const Json& value) {
  if (value.is_object()) {
    Json out = Json::object();
    for (const auto& [name, member] : value.members()) {
      must(value.contains(name) && *value.find(name) == member && value[name] == member);
      out[name] = again(member);
    }
    must_refuse([&] { static_cast<void>(value.elements()); });
    must_refuse([&] { static_cast<void>(value["a name that is not there"]); });
    return out;
  }
  must(value.find("a") == nullptr);
  must_refuse([&] { static_cast<void>(value["a"]); });
  if (value.is_array()) {
    Json out = Json::array();
    for (std::size_t i = 0; i < value.size(); ++i) out.push_back(again(value[i]));
    must_refuse([&] { static_cast<void>(value[value.size()]); });
    must_refuse([&] { static_cast<void>(value.string()); });
    return out;
  }
  must(value.empty());
  if (value.is_string()) {
    must(!value.is_number());
    must_refuse([&] { static_cast<void>(value.get<double>()); });
    return Json(std::string_view(value.string()));
  }
  must_refuse([&] { static_cast<void>(value.get<std::string>()); });
  if (value.is_number()) {
    if (value.is_natural()) return Json(value.get<std::uint64_t>());
    if (value.type() == Json::Type::integer) return Json(value.get<std::int64_t>());
    must_refuse([&] { static_cast<void>(value.get<std::int64_t>()); });
    return Json(value.get<double>());
  }
  must_refuse([&] { static_cast<void>(value.get<std::vector<int>>()); });
  return value.is_null() ? Json() : Json(value.get<bool>());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace transferlib;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  // Any bytes may be a string's; what is no UTF-8 in it is written as U+FFFD.
  const Json written = parse_json(Json(text).dump(), "string");
  must(detail::is_utf8(written.string()) && detail::is_utf8(text) == (written == Json(text)));
  try {
    const Json value = parse_json(text, "input", 16);
    must(parse_json(value.dump(), "again", 16) == value);
    must(parse_json(value.dump(2), "indented", 16) == value);
    must(again(value) == value && Json(value) == value);
  } catch (const FormatError&) {
  }
  return 0;
}

/// \file
/// What the tools that train and measure detectors share: opening data with boxes, and models.
#pragma once

#include <cstdio>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include <transferlib/data/detection.hpp>
#include <transferlib/detector_zoo.hpp>
#include <transferlib/model/save.hpp>

#include "arguments.hpp"

namespace tools {

/// A set of data with boxes; all of it where the set has no name. \throws Usage, transferlib::Error
inline tl::BoxData open_boxes(const std::filesystem::path& folder, const std::string& format, const std::string& set,
                              const tl::BoxDataOptions& options) {
  if (format == "voc") return tl::VocData::open(folder, set, options);
  if (format == "yolo") return tl::YoloData::open(folder, set, options);
  return tl::CocoData::open_set(folder, set.empty() ? "train" : set, options);
}

/// Data to train with and to measure with: the sets of these names, or, without names, the data's own, or by chance.
inline tl::Split<tl::BoxData> split_boxes(const std::filesystem::path& folder, const std::string& format,
                                          const std::string& train, const std::string& val,
                                          const tl::BoxDataOptions& options) {
  if (!train.empty()) {
    tl::BoxData first = open_boxes(folder, format, train, options);
    tl::BoxDataOptions same = options;
    same.labels = first.labels();
    return {std::move(first), open_boxes(folder, format, val, same)};
  }
  if (format == "voc") return tl::VocData::split(folder, options);
  if (format == "yolo") return tl::YoloData::split(folder, options);
  return tl::CocoData::split(folder, options);
}

/// Warns of what was left out of the data.
inline void warn_of(const tl::BoxData& data) {
  const auto problems = data.problems();
  for (std::size_t i = 0; i < problems.size() && i < 10; ++i)
    std::fprintf(stderr, "%s\n", one_line(text("warning: ", problems[i])).c_str());
  if (problems.size() > 10) std::fprintf(stderr, "warning: and %zu more\n", problems.size() - 10);
}

/// Calls `use` with the detector of a file, of whichever family it is. \throws transferlib::Error
template <class Use>
auto with_detector(const std::filesystem::path& file, const Use& use) {
  const auto saved = tl::detail::SavedModel::read(file);
  const auto family = saved.metadata.find("family");
  const bool two_stage = family != saved.metadata.end() && family->second == "two_stage";
  return two_stage ? use(tl::load_two_stage(file)) : use(tl::load_detector(file));
}

}  // namespace tools

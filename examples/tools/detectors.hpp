/// \file
/// What the tools that train and measure detectors share: opening data with boxes, and models.
#pragma once

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include <transferlib/data/detection.hpp>

#include "arguments.hpp"

namespace tools {

/// A set of data with boxes; all of it where the set has no name. \throws Usage, transferlib::Error
inline tl::BoxData open_boxes(const std::filesystem::path& folder, const std::string& format, const std::string& set,
                              const tl::BoxDataOptions& options) {
  if (format == "voc") return tl::VocData::open(folder, set, options);
  if (format == "yolo") return tl::YoloData::open(folder, set, options);
  return tl::CocoData::open_set(folder, set.empty() ? "train" : set, options);
}

/// A set of data that a model is measured on, with the data's own classes, of which the model may look for some.
/// \throws DataError if it looks for none of them
inline tl::BoxData open_boxes_for(const tl::Labels& labels, const std::filesystem::path& folder,
                                  const std::string& format, const std::string& set) {
  const tl::BoxData data = [&] {
    try {
      return open_boxes(folder, format, set, {});
    } catch (const tl::DataError&) {
      if (format != "yolo") throw;
      // YOLO's texts may have numbers alone.
      return open_boxes(folder, format, set, {.labels = labels});
    }
  }();
  for (const std::string& label : data.labels())
    if (std::find(labels.begin(), labels.end(), label) != labels.end()) return data;
  throw tl::DataError(text("the model looks for ", tl::detail::first_few(labels), ", and none of them is a class of ",
                           folder, ", which has ", tl::detail::first_few(data.labels())));
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

/// The boxes that a model looks for, with the model's classes.
inline std::vector<tl::TruthBox> truth_of(const tl::BoxData& data, const tl::Labels& labels) {
  std::vector<tl::TruthBox> out;
  for (tl::TruthBox box : data.truth()) {
    const auto found = std::find(labels.begin(), labels.end(), data.labels()[static_cast<std::size_t>(box.label)]);
    if (found == labels.end()) continue;
    box.label = found - labels.begin();
    out.push_back(box);
  }
  return out;
}

}  // namespace tools

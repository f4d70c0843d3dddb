/// \file
/// Detectors by what a file says they are: any that `save` wrote, whatever its parts.
#pragma once

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/guard.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/darknet_detector.hpp>
#include <transferlib/detector_parts.hpp>
#include <transferlib/formats/json.hpp>
#include <transferlib/model/save.hpp>
#include <transferlib/model/sliding_window.hpp>
#include <transferlib/two_stage_parts.hpp>
#include <transferlib/zoo.hpp>

namespace transferlib {
namespace detail {

TRANSFERLIB_API Json json_of(const SavedModel& saved, const char* key);

/// What kind of detector a file holds.
enum class DetectorFamily { one_stage, two_stage, sliding };

inline DetectorFamily family_of(const SavedModel& saved) {
  if (saved.metadata.count("sliding_window") != 0) return DetectorFamily::sliding;
  const auto found = saved.metadata.find("family");
  return found != saved.metadata.end() && found->second == "two_stage" ? DetectorFamily::two_stage
                                                                       : DetectorFamily::one_stage;
}

}  // namespace detail

/// The detector of a `.cfg` of any version of YOLO and its `.weights` file, which finds what darknet finds. Nothing is
/// frozen. \param labels the names of its classes, as `read_names` reads them
/// \throws FileError, FormatError, OptionError, WeightsError
TRANSFERLIB_API AnyDetector any_darknet_detector(const std::filesystem::path& cfg, const std::filesystem::path& weights,
                                                 Labels labels, const DarknetOptions& options = {});

/// Reads any one-stage detector that `save` wrote, of the library's own parts. Nothing is frozen.
/// \throws FileError, FormatError, OptionError, WeightsError
TRANSFERLIB_API AnyDetector load_detector(const std::filesystem::path& path);

/// A two-stage detector whose backbone is known at run time only.
using AnyTwoStage = TwoStage<AnyNetwork, FeaturePyramid, RegionProposal, RoI>;

/// Reads any two-stage detector with a feature pyramid that `save` wrote, of the zoo's networks or torchvision's
/// detectors. Nothing is frozen. \throws FileError, FormatError, OptionError, WeightsError
TRANSFERLIB_API AnyTwoStage load_two_stage(const std::filesystem::path& path);

/// A sliding window whose network and head are known at run time only.
using AnySlidingWindow = SlidingWindow<AnyNetwork, AnyHead<ClassIndex>>;

/// Reads any sliding window that `save` wrote, of the zoo's networks. Nothing is frozen.
/// \throws FileError, FormatError, OptionError, WeightsError
inline AnySlidingWindow load_window(const std::filesystem::path& path) {
  return load_window(load_any<ClassIndex>(path), path);
}

/// Calls `use` with the detector of a file, of whichever family it is: an `AnyDetector`, an `AnyTwoStage` or an
/// `AnySlidingWindow`, each a `DetectorModel`. \returns what `use` returns
/// \throws FileError, FormatError, OptionError, WeightsError
template <class Use>
auto with_detector(const std::filesystem::path& path, const Use& use) {
  switch (detail::family_of(detail::SavedModel::read(path))) {
    case detail::DetectorFamily::two_stage:
      return use(load_two_stage(path));
    case detail::DetectorFamily::sliding:
      return use(load_window(path));
    default:
      return use(load_detector(path));
  }
}

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API Json json_of(const SavedModel& saved, const char* key) {
  const auto found = saved.metadata.find(key);
  if (found == saved.metadata.end())
    throw WeightsError(
        text("the file ", saved.path, " is no detector that transferlib saved: its metadata has no \"", key, "\""));
  return parse_json(found->second, text(saved.path, ": ", key));
}

}  // namespace transferlib::detail

namespace transferlib {

TRANSFERLIB_API AnyDetector any_darknet_detector(const std::filesystem::path& cfg, const std::filesystem::path& weights,
                                                 Labels labels, const DarknetOptions& options) {
  const DarknetConfig config = read_darknet_cfg(cfg);
  const bool v1 = detail::is_darknet_v1(config, detail::darknet_finders(config));
  return detail::darknet_detector_of(cfg, weights, any_neck(Neck<NoNeck>{}),
                                     v1 ? any_head(darknet_v1_head(cfg)) : any_head(darknet_head(cfg)),
                                     std::move(labels), options);
}

TRANSFERLIB_API AnyDetector load_detector(const std::filesystem::path& path) {
  return detail::guarded(detail::text("loading ", path), [&] {
    const auto saved = detail::SavedModel::read(path);
    if (const auto family = detail::family_of(saved); family != detail::DetectorFamily::one_stage)
      throw WeightsError(detail::text("the detector in ", path,
                                      family == detail::DetectorFamily::two_stage
                                          ? " is one of two stages; use load_two_stage, or with_detector for any"
                                          : " is a sliding window; use load_window, or with_detector for any"));
    if (saved.target != "boxes")
      throw WeightsError(detail::text("the model in ", path, " predicts ", saved.target, ", not boxes; use load_any"));
    AnyDetector model(detail::backbone_of_file(saved), FreezePolicy<FreezeNone>{},
                      any_neck(saved.metadata.count("neck") != 0 ? saved.metadata.at("neck") : "none",
                               detail::json_of(saved, "neck_options")),
                      any_box_head(saved.head, detail::json_of(saved, "head_options")), saved.labels);
    saved.fill(model.backbone_core(), model.wanted());
    load_state_dict(*model.neck().pointer(), saved.neck_state, {}, path.string());
    load_state_dict(*model.head().pointer(), saved.head_state, {}, path.string());
    return model;
  });
}

TRANSFERLIB_API AnyTwoStage load_two_stage(const std::filesystem::path& path) {
  return detail::guarded(detail::text("loading ", path), [&] {
    const auto saved = detail::SavedModel::read(path);
    return saved.backbone.starts_with("fasterrcnn_")
               ? load_faster_rcnn(path)
               : detail::two_stage_of<FeaturePyramid>(saved, detail::backbone_of_file(saved));
  });
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

/// \file
/// A two-stage detector in one file, which remembers what its parts are built from.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <utility>

#include <transferlib/core/error.hpp>
#include <transferlib/core/guard.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/version.hpp>
#include <transferlib/detector_parts.hpp>
#include <transferlib/faster_rcnn.hpp>
#include <transferlib/formats/json.hpp>
#include <transferlib/heads/region_proposal.hpp>
#include <transferlib/heads/roi.hpp>
#include <transferlib/model/save.hpp>
#include <transferlib/model/two_stage.hpp>
#include <transferlib/necks/feature_pyramid.hpp>
#include <transferlib/weights/state_dict.hpp>

namespace transferlib {
namespace detail {

/// \name See `fields` in detector_parts.hpp.
/// \{
template <class V>
void fields(SingleMap::Options& o, V& visit) {
  visit("stride", o.stride);
}
template <class V>
void fields(ProposalOptions& o, V& visit) {
  visit("before_nms", o.before_nms), visit("after_nms", o.after_nms), visit("nms", o.nms);
  visit("least_score", o.least_score), visit("least_side", o.least_side);
}
template <class V>
void fields(MatchOptions& o, V& visit) {
  visit("positive", o.positive), visit("negative", o.negative), visit("low_quality", o.low_quality);
}
template <class V>
void fields(RegionProposal::Options& o, V& visit) {
  visit("sizes", o.sizes), visit("ratios", o.ratios), visit("depth", o.depth), visit("training", o.training);
  visit("predicting", o.predicting), visit("match", o.match), visit("samples", o.samples);
  visit("positive_fraction", o.positive_fraction), visit("seed", o.seed);
}
template <class V>
void fields(RoI::Options& o, V& visit) {
  visit("width", o.width), visit("places", o.places), visit("sampling", o.sampling), visit("pooling", o.pooling);
  visit("coarsest", o.coarsest), visit("convolutions", o.convolutions), visit("match", o.match);
  visit("samples", o.samples), visit("positive_fraction", o.positive_fraction);
  visit("weight_x", o.weights[0]), visit("weight_y", o.weights[1]);
  visit("weight_width", o.weights[2]), visit("weight_height", o.weights[3]);
  visit("score_threshold", o.score_threshold), visit("overlap_threshold", o.overlap_threshold);
  visit("most", o.most), visit("seed", o.seed);
}
template <class V>
void fields(ResizeSides& o, V& visit) {
  visit("shorter", o.shorter), visit("longer", o.longer), visit("multiple", o.multiple);
}
/// \}

/// Options of a part of a file's model. \throws WeightsError, FormatError
template <class Options>
Options options_in_file(const SavedModel& saved, const char* key) {
  const auto found = saved.metadata.find(key);
  if (found == saved.metadata.end())
    throw WeightsError(text("the file ", saved.path,
                            " is no two-stage detector that transferlib saved: its metadata has no \"", key, "\""));
  Options out{};
  value_from_json(parse_json(found->second, text(saved.path, ": ", key)), out);
  return out;
}

/// The model of a file, whose backbone was made anew.
template <class K, class N>
TwoStage<N, K, RegionProposal, RoI> two_stage_of(const SavedModel& saved, Backbone<N> backbone) {
  if (!backbone.core.name.empty() && saved.backbone != backbone.core.name)
    throw WeightsError(text("the model in ", saved.path, " has a ", saved.backbone, ", not a ", backbone.core.name));
  BackboneCore& core = backbone.core;
  core.licence = saved.licence;
  core.source = saved.source;
  core.preprocessing = saved.preprocessing;
  TwoStage model(std::move(backbone), FreezePolicy<FreezeNone>{},
                 Neck<K>{options_in_file<typename K::Options>(saved, "neck_options")},
                 Head<RegionProposal>{options_in_file<RegionProposal::Options>(saved, "rpn_options")},
                 Head<RoI>{options_in_file<RoI::Options>(saved, "head_options")}, saved.labels);
  if (saved.metadata.count("input") != 0) model.set_input(options_in_file<ResizeSides>(saved, "input"));
  load_state_dict(*tree_of(model.state()), read_state_dict(saved.path), {}, saved.path);
  return model;
}

}  // namespace detail

/// Writes a two-stage detector, atomically: one safetensors file with weights, labels, preprocessing and all that its
/// parts are built from. \throws FileError; an old file is then unchanged
template <class N, class K>
void save(const TwoStage<N, K, RegionProposal, RoI>& model, const std::filesystem::path& path) {
  detail::guarded("saving the model", [&] {
    const auto& core = model.backbone_core();
    auto neck = model.neck_recipe().options;
    auto rpn = model.proposal_recipe().options;
    auto head = model.head_recipe().options;
    const Json options{{"in_channels", core.options.in_channels}, {"output_stride", core.options.output_stride}};
    std::map<std::string, std::string> metadata{{"format", "pt"},
                                                {"transferlib.format", "1"},
                                                {"transferlib.version", TRANSFERLIB_VERSION},
                                                {"family", "two_stage"},
                                                {"neck_options", detail::value_to_json(neck).dump()},
                                                {"rpn_options", detail::value_to_json(rpn).dump()},
                                                {"head", "roi"},
                                                {"head_options", detail::value_to_json(head).dump()},
                                                {"target", "boxes"},
                                                {"labels", Json(model.labels()).dump()},
                                                {"preprocessing", detail::to_json(core.preprocessing).dump()},
                                                {"network_options", options.dump()},
                                                {"licence", core.licence},
                                                {"weights", core.source}};
    detail::put_network(metadata, core);
    if (auto sides = model.input()) metadata["input"] = detail::value_to_json(*sides).dump();
    write_state_dict(path, model.state(), metadata);
    return 0;
  });
}

/// Reads a two-stage detector whose backbone and neck the program knows:
/// `load_two_stage<EfficientNetLite0>("cells.safetensors")`. Nothing is frozen.
/// \throws FileError, FormatError, WeightsError
template <BackboneNetwork N, NeckNetwork K = FeaturePyramid>
TwoStage<N, K, RegionProposal, RoI> load_two_stage(const std::filesystem::path& path) {
  return detail::guarded(detail::text("loading ", path), [&] {
    const auto saved = detail::SavedModel::read(path);
    return detail::two_stage_of<K>(saved, Backbone<N>::random(saved.options));
  });
}

/// Reads what `save` wrote of one of torchvision's detectors. \throws FileError, FormatError, WeightsError
TRANSFERLIB_API FasterRcnn load_faster_rcnn(const std::filesystem::path& path);

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API FasterRcnn load_faster_rcnn(const std::filesystem::path& path) {
  return detail::guarded(detail::text("loading ", path), [&] {
    const auto saved = detail::SavedModel::read(path);
    return detail::two_stage_of<FeaturePyramid>(
        saved, AnyBackbone(detail::faster_rcnn_core(detail::faster_rcnn_spec(saved.backbone), saved.options)));
  });
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

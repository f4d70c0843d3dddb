/// \file
/// torchvision's published two-stage detectors (0.29.1), by their names and files.
#pragma once

#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <transferlib/backbones/mobilenet_v3.hpp>
#include <transferlib/backbones/resnet.hpp>
#include <transferlib/core/error.hpp>
#include <transferlib/core/guard.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/core/text.hpp>
#include <transferlib/freeze/policy.hpp>
#include <transferlib/heads/region_proposal.hpp>
#include <transferlib/heads/roi.hpp>
#include <transferlib/model/backbone.hpp>
#include <transferlib/model/two_stage.hpp>
#include <transferlib/necks/feature_pyramid.hpp>
#include <transferlib/weights/pretrained.hpp>
#include <transferlib/weights/state_dict.hpp>

namespace transferlib {

/// A Faster R-CNN with a feature pyramid whose backbone is chosen at run time.
using FasterRcnn = TwoStage<AnyNetwork, FeaturePyramid, RegionProposal, RoI>;

/// What a published detector can be built with other than as published.
struct FasterRcnnOptions {
  Index size = 0;   ///< the side of the canvas on which it is trained on, in pixels; 0: the published shorter side
  Labels labels{};  ///< its classes; none: those of COCO as `faster_rcnn_labels` gives them
};

/// COCO's names in the order of torchvision's detectors, 90 without the background; "N/A" are numbers that COCO does
/// not use.
TRANSFERLIB_API Labels faster_rcnn_labels();

namespace detail {

/// What tells one published detector from another.
struct FasterRcnnSpec {
  Card card;
  bool mobile = false;  ///< MobileNetV3-Large, else ResNet-50
  bool second = false;  ///< v2: norms that are trained, a deeper proposal network, a convolutional box head
  ResizeSides sides{};
  double norm_epsilon = 1e-5;
  Index proposals = 1000;
  double least_score = 0.0;  ///< of a proposal
};

constexpr Card faster_rcnn_card(const char* name, const char* file, const char* source, const char* sha256,
                                const char* url) {
  return {.name = name, .file = file, .source = source, .sha256 = sha256, .licence = "BSD-3-Clause", .url = url};
}

TRANSFERLIB_API const std::vector<FasterRcnnSpec>& faster_rcnn_specs();

/// \throws OptionError for another name; the sentence has the names
TRANSFERLIB_API const FasterRcnnSpec& faster_rcnn_spec(std::string_view name);

/// torchvision's name of our tensor.
inline std::string faster_rcnn_name(const std::string& ours, bool mobile) {
  const std::string backbone = mobile ? "backbone.features." : "backbone.";
  if (ours.starts_with(backbone)) return "backbone.body." + ours.substr(backbone.size());
  return ours.starts_with("neck.") ? "backbone.fpn." + ours.substr(5) : ours;
}

/// Names of before torchvision 0.13, when a layer of the pyramid or of the proposal network was a convolution and no
/// list, as they are today.
TRANSFERLIB_API std::string todays_faster_rcnn_name(const std::string& name);

/// The last step of what is called `name`.
inline Index last_step_of(const Graph& graph, const std::string& name) {
  for (Index s = graph.size(); s-- > 1;)
    for (const Index row : graph.steps[Graph::at(s)].layers)
      if (graph.table.rows[Graph::at(row)].name.starts_with(name + ".")) return s;
  throw OptionError(text("the network has no part called ", name));
}

/// The backbone of a published detector, with weights of no meaning: the classifier's network with other norms and, of
/// MobileNet, other maps.
TRANSFERLIB_API BackboneCore faster_rcnn_core(const FasterRcnnSpec& spec, const NetworkOptions& options);

/// \param spec one of `faster_rcnn_specs`, which outlive all models
TRANSFERLIB_API FasterRcnn make_faster_rcnn(const FasterRcnnSpec& spec, const FasterRcnnOptions& options);

}  // namespace detail

/// A model's tensors under torchvision's names. They are the model's own.
inline StateDict faster_rcnn_state(const FasterRcnn& model) {
  const bool mobile = std::string_view(model.backbone_core().name).find("mobilenet") != std::string_view::npos;
  StateDict out;
  for (auto& [name, tensor] : model.state()) out.emplace_back(detail::faster_rcnn_name(name, mobile), tensor);
  return out;
}

namespace detail {

/// Fills a detector, strictly. \throws WeightsError; it is then unchanged
inline void fill_faster_rcnn(const FasterRcnn& model, StateDict state, const std::string& where) {
  for (auto& item : state) item.first = todays_faster_rcnn_name(item.first);
  load_state_dict(*tree_of(faster_rcnn_state(model)), state, {}, where);
}

}  // namespace detail

/// A detector of torchvision's with the weights of a file, loaded strictly by their names: `fasterrcnn_resnet50_fpn`,
/// `fasterrcnn_resnet50_fpn_v2`, `fasterrcnn_mobilenet_v3_large_fpn` or `fasterrcnn_mobilenet_v3_large_320_fpn`.
/// Pictures are brought to its input as torchvision does; frozen is what torchvision freezes of a pretrained one: the
/// backbone's lower half, and but for v2 its norms. On all but v2 fine-tuning leaves the norms alone, as there.
/// \throws OptionError for another name; FileError, FormatError, WeightsError
TRANSFERLIB_API FasterRcnn fasterrcnn(std::string_view name, const std::filesystem::path& file,
                                      const FasterRcnnOptions& options = {});

/// The same with the published file, looked for as `find_weights` says, and its hash checked.
TRANSFERLIB_API FasterRcnn fasterrcnn(std::string_view name, const FasterRcnnOptions& options = {});

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API Labels faster_rcnn_labels() {
  constexpr std::string_view names =
      "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,N/A,stop "
      "sign,parking "
      "meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,N/A,backpack,umbrella,N/A,N/"
      "A,handbag,tie,suitcase,frisbee,skis,snowboard,sports "
      "ball,kite,baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,N/A,wine "
      "glass,cup,fork,knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot "
      "dog,pizza,donut,cake,chair,couch,potted plant,bed,N/A,dining "
      "table,N/A,N/A,toilet,N/A,tv,laptop,mouse,remote,keyboard,cell "
      "phone,microwave,oven,toaster,sink,refrigerator,N/A,book,clock,vase,scissors,teddy bear,hair "
      "drier,toothbrush";
  Labels out;
  for (std::size_t at = 0; at <= names.size();) {
    const std::size_t end = std::min(names.find(',', at), names.size());
    out.emplace_back(names.substr(at, end - at));
    at = end + 1;
  }
  return out;
}

}  // namespace transferlib

namespace transferlib::detail {

TRANSFERLIB_API const std::vector<FasterRcnnSpec>& faster_rcnn_specs() {
  static const std::vector<FasterRcnnSpec> specs{
      {.card = faster_rcnn_card("fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth",
                                "torchvision's FasterRCNN_ResNet50_FPN_Weights.COCO_V1", "258fb6c6",
                                "https://download.pytorch.org/models/fasterrcnn_resnet50_fpn_coco-258fb6c6.pth"),
       .norm_epsilon = 0.0},
      {.card = faster_rcnn_card("fasterrcnn_resnet50_fpn_v2", "fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth",
                                "torchvision's FasterRCNN_ResNet50_FPN_V2_Weights.COCO_V1", "dd69338a",
                                "https://download.pytorch.org/models/fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth"),
       .second = true},
      {.card = faster_rcnn_card("fasterrcnn_mobilenet_v3_large_fpn", "fasterrcnn_mobilenet_v3_large_fpn-fb6a3cc7.pth",
                                "torchvision's FasterRCNN_MobileNet_V3_Large_FPN_Weights.COCO_V1", "fb6a3cc7",
                                "https://download.pytorch.org/models/fasterrcnn_mobilenet_v3_large_fpn-fb6a3cc7.pth"),
       .mobile = true,
       .least_score = 0.05},
      {.card = faster_rcnn_card(
           "fasterrcnn_mobilenet_v3_large_320_fpn", "fasterrcnn_mobilenet_v3_large_320_fpn-907ea3f9.pth",
           "torchvision's FasterRCNN_MobileNet_V3_Large_320_FPN_Weights.COCO_V1", "907ea3f9",
           "https://download.pytorch.org/models/fasterrcnn_mobilenet_v3_large_320_fpn-907ea3f9.pth"),
       .mobile = true,
       .sides = {.shorter = 320, .longer = 640},
       .proposals = 150,
       .least_score = 0.05},
  };
  return specs;
}

TRANSFERLIB_API const FasterRcnnSpec& faster_rcnn_spec(std::string_view name) {
  std::vector<std::string> names;
  for (const auto& spec : faster_rcnn_specs()) {
    if (spec.card.name == name) return spec;
    names.emplace_back(spec.card.name);
  }
  throw OptionError(
      text("no published two-stage detector is called \"", name, "\"; there are ", first_few(names, names.size())));
}

TRANSFERLIB_API std::string todays_faster_rcnn_name(const std::string& name) {
  const std::size_t dot = name.rfind('.');
  if (dot == std::string::npos) return name;
  const std::string layer = name.substr(0, dot), kind = name.substr(dot);
  if (layer == "rpn.head.conv") return layer + ".0.0" + kind;
  const std::size_t number = layer.rfind('.');
  if (number == std::string::npos) return name;
  const std::string list = layer.substr(0, number);
  return list == "backbone.fpn.inner_blocks" || list == "backbone.fpn.layer_blocks" ? layer + ".0" + kind : name;
}

TRANSFERLIB_API BackboneCore faster_rcnn_core(const FasterRcnnSpec& spec, const NetworkOptions& options) {
  BackboneCore core =
      spec.mobile ? Backbone<MobileNetV3Large>::random(options).core : Backbone<ResNet50>::random(options).core;
  core.name = spec.card.name;
  core.aliases = "";
  for (const auto& module : core.network->modules())
    if (auto* norm = dynamic_cast<nn::BatchNorm2d*>(module.get())) norm->epsilon = spec.norm_epsilon;
  if (spec.mobile) {
    core.graph.stages = {last_step_of(core.graph, "features.13"), last_step_of(core.graph, "features.16")};
    core.graph.strides = {32, 32};
    measure(core);
  }
  core.rebuild = [&spec, options] { return faster_rcnn_core(spec, options); };
  return core;
}

TRANSFERLIB_API FasterRcnn make_faster_rcnn(const FasterRcnnSpec& spec, const FasterRcnnOptions& options) {
  AnyBackbone backbone(faster_rcnn_core(spec, {.size = options.size == 0 ? spec.sides.shorter : options.size}));
  RegionProposal::Options proposal;
  proposal.predicting = {.before_nms = spec.proposals, .after_nms = spec.proposals, .least_score = spec.least_score};
  proposal.training.least_score = spec.least_score;
  if (spec.mobile) proposal.sizes.assign(3, {32.0, 64.0, 128.0, 256.0, 512.0});
  RoI::Options region;
  if (spec.second) {
    proposal.depth = 2;
    region.convolutions = {256, 256, 256, 256};
  }
  const FreezeUntil bottom{spec.mobile ? "features.7" : "layer2"};
  const AnyRule rule = spec.second ? AnyRule(bottom) : AnyRule(bottom || FreezeBatchNorm{});
  FasterRcnn out(std::move(backbone), FreezePolicy<AnyRule>{rule}, Neck<FeaturePyramid>{{.norm = spec.second}},
                 Head<RegionProposal>{proposal}, Head<RoI>{region},
                 options.labels.empty() ? faster_rcnn_labels() : options.labels);
  out.set_input(spec.sides);
  return out;
}

}  // namespace transferlib::detail

namespace transferlib {

TRANSFERLIB_API FasterRcnn fasterrcnn(std::string_view name, const std::filesystem::path& file,
                                      const FasterRcnnOptions& options) {
  return detail::guarded(detail::text("loading ", file), [&] {
    FasterRcnn out = detail::make_faster_rcnn(detail::faster_rcnn_spec(name), options);
    detail::fill_faster_rcnn(out, read_state_dict(file), file.string());
    out.backbone_core().source = file.filename().string();
    return out;
  });
}

TRANSFERLIB_API FasterRcnn fasterrcnn(std::string_view name, const FasterRcnnOptions& options) {
  const Card& card = detail::faster_rcnn_spec(name).card;
  const auto file = find_weights(card);
  const bool published = is_published_file(file, card);
  if (published) check_hash(file, card);
  FasterRcnn out = fasterrcnn(name, file, options);
  if (published) out.backbone_core().licence = card.licence;
  return out;
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

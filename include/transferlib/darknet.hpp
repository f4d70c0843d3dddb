/// \file
/// Any `.cfg` of darknet as a backbone: what is chosen by a file, not by a type.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <transferlib/backbones/darknet.hpp>
#include <transferlib/core/error.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/formats/darknet.hpp>
#include <transferlib/formats/json.hpp>
#include <transferlib/model/backbone.hpp>

namespace transferlib {

/// How a `.cfg` becomes a backbone.
struct DarknetOptions {
  Index layers = 0;       ///< how many of its layers; 0: all
  Index size = 0;         ///< the side of its input in pixels; 0: the `.cfg`'s
  Index in_channels = 0;  ///< 0: the `.cfg`'s
  bool fewer = false;     ///< the file may hold the first layers only; the others are drawn from `seed`
  bool dropout = true;    ///< false: its dropout layers, meant for long trainings on much data, do nothing
  std::uint64_t seed = 0;
};

namespace detail {

/// The network of a `.cfg`; its pictures are in [0, 1], or as its `[crop]` shifts them.
TRANSFERLIB_API BackboneCore darknet_core(const DarknetConfig& config, const DarknetOptions& options);

/// `darknet_core` with the values of these steps as its pyramid.
TRANSFERLIB_API BackboneCore darknet_core_with(const DarknetConfig& config, const DarknetOptions& options,
                                               const std::vector<Index>& stages, const std::vector<Index>& strides);

/// What a saved model keeps of such a network, and the network of that.
/// \{
TRANSFERLIB_API std::string cfg_in_file(const BackboneCore& core);
/// \param where how errors call the file \throws FormatError, OptionError, WeightsError
TRANSFERLIB_API BackboneCore darknet_core_of(const std::string& in_file, const NetworkOptions& options,
                                             const std::string& where);
/// \}

}  // namespace detail

/// The backbone of a `.cfg` with random weights.
/// \throws FileError, FormatError (with file and line), OptionError
inline AnyBackbone darknet_backbone(const std::filesystem::path& cfg, const DarknetOptions& options = {}) {
  return AnyBackbone(detail::darknet_core(read_darknet_cfg(cfg), options));
}

/// The backbone of a `.cfg` with the weights of a file: darknet's, or a state dict with our names. A network that is
/// cut by `.layers` takes the file of the whole network and that of as many layers or more (`yolov4.conv.137`). \throws
/// FileError, FormatError, OptionError, WeightsError
inline AnyBackbone darknet_backbone(const std::filesystem::path& cfg, const std::filesystem::path& weights,
                                    const DarknetOptions& options = {}) {
  AnyBackbone out = darknet_backbone(cfg, options);
  detail::read_weights(out.core, weights);
  return out;
}

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API BackboneCore darknet_core(const DarknetConfig& config, const DarknetOptions& options) {
  Card card{.source = "a .cfg of darknet", .minimum_size = 1};
  card.preprocessing = {config.input.width, {0.0, 0.0, 0.0}, {1.0, 1.0, 1.0}, Interpolation::bilinear, 1.0};
  if (const DarknetLayer& first = config.layers.front(); first.type == DarknetType::crop) {
    card.preprocessing.size = std::min(first.crop_width, config.input.width);
    card.preprocessing.crop_fraction =
        static_cast<double>(card.preprocessing.size) / static_cast<double>(config.input.width);
    if (first.shifts) card.preprocessing.mean = card.preprocessing.deviation = {0.5, 0.5, 0.5};
  }
  const NetworkOptions own{.size = options.size != 0 ? options.size : card.preprocessing.size,
                           .in_channels = options.in_channels != 0 ? options.in_channels : config.input.channels};
  DarknetConfig used = options.layers == 0 ? config : cut_darknet(config, options.layers);
  if (!options.dropout)
    for (DarknetLayer& l : used.layers)
      if (l.type == DarknetType::dropout) l.probability = 0.0;
  const auto network = std::make_shared<Darknet>(std::move(used), own);
  if (options.fewer) network->weights.least = 0;
  network->initialise(options.seed);
  BackboneCore core;
  core.network = network;
  core.graph = network->graph();
  finish(core, card, own);
  core.rebuild = [config, options] { return darknet_core(config, options); };
  core.cfg = cfg_in_file;
  return core;
}

TRANSFERLIB_API BackboneCore darknet_core_with(const DarknetConfig& config, const DarknetOptions& options,
                                               const std::vector<Index>& stages, const std::vector<Index>& strides) {
  BackboneCore core = darknet_core(config, options);
  core.graph.stages = stages;
  core.graph.strides = strides;
  measure(core);
  core.rebuild = [config, options, stages, strides] { return darknet_core_with(config, options, stages, strides); };
  return core;
}

TRANSFERLIB_API std::string cfg_in_file(const BackboneCore& core) {
  const DarknetConfig& config = dynamic_cast<const Darknet&>(*core.network).config();
  const Json out{{"name", std::filesystem::path(config.where).filename().string()},
                 {"text", darknet_text(config)},
                 {"layers", config.used},
                 {"stages", core.graph.stages},
                 {"strides", core.graph.strides}};
  return out.dump();
}

TRANSFERLIB_API BackboneCore darknet_core_of(const std::string& in_file, const NetworkOptions& options,
                                             const std::string& where) {
  const Json cfg = parse_json(in_file, text(where, ": cfg"));
  DarknetConfig config = parse_darknet_cfg(cfg["text"].string(), text(where, ": ", cfg["name"].string()));
  config.where = cfg["name"].string();  // or each file that is made of another would make the name longer
  const DarknetOptions own{
      .layers = cfg["layers"].get<Index>(), .size = options.size, .in_channels = options.in_channels};
  const auto stages = cfg["stages"].get<std::vector<Index>>(), strides = cfg["strides"].get<std::vector<Index>>();
  const Index steps = darknet_core(config, own).graph.size();
  bool good = stages.size() == strides.size() && !stages.empty();
  for (const Index s : stages) good = good && s > 0 && s < steps;
  if (!good)
    throw WeightsError(text("the metadata of ", where, " names maps that its network has not; the file was changed ",
                            "by another program"));
  return darknet_core_with(config, own, stages, strides);
}

}  // namespace transferlib::detail

#endif  // TRANSFERLIB_DEFINES

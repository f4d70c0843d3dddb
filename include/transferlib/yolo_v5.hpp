/// \file
/// YOLO v5 as it is published (Jocher et al., release 6 on): a `.pt` file's tensors as a `Detector` of our parts.
#pragma once

#include <array>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <transferlib/backbones/csp_darknet.hpp>
#include <transferlib/core/error.hpp>
#include <transferlib/core/guard.hpp>
#include <transferlib/heads/yolo.hpp>
#include <transferlib/model/detector.hpp>
#include <transferlib/necks/path_aggregation.hpp>
#include <transferlib/weights/state_dict.hpp>

namespace transferlib {

/// A YOLO v5 of which `N` is the backbone: `CspDarkNetN` (v5n) or `CspDarkNetS` (v5s).
template <class N>
using YoloV5Detector = Detector<N, C3PathAggregation, Yolo>;

namespace detail {

/// The layers of v5's `.yaml` that our neck's blocks are.
inline constexpr std::array<std::pair<const char*, const char*>, 8> yolo_v5_neck{{{"top.2.0.", "10."},
                                                                                  {"top.1.0.", "13."},
                                                                                  {"top.1.1.", "14."},
                                                                                  {"top.0.0.", "17."},
                                                                                  {"down.1.", "18."},
                                                                                  {"bottom.1.", "20."},
                                                                                  {"down.2.", "21."},
                                                                                  {"bottom.2.", "23."}}};

}  // namespace detail

/// Reads a v5 detector of a file: the whole module as published (half precision too) or its state dict. Nothing is
/// frozen; the anchors are the file's.
/// \param labels the names of its classes \param size the side of the network's input in pixels, a multiple of 32
/// \throws FileError, FormatError; WeightsError if it is not this network's; OptionError
template <class N>
YoloV5Detector<N> yolo_v5_detector(const std::filesystem::path& file, Labels labels, Index size = 640) {
  using detail::text;
  return detail::guarded(text("loading ", file), [&] {
    const StateDict read = read_state_dict(file);
    std::string prefix;
    std::map<std::string, Tensor> theirs;
    for (const auto& [name, tensor] : read)
      if (const auto at = name.rfind("24.m.0.weight"); at != std::string::npos) prefix = name.substr(0, at);
    for (const auto& [name, tensor] : read)
      if (name.starts_with(prefix)) theirs.emplace(name.substr(prefix.size()), tensor);
    const auto of = [&](const std::string& name) {
      const auto found = theirs.find(name);
      if (found == theirs.end())
        throw WeightsError(text("the file ", file, " has no tensor ", detail::in_quotes(prefix + name),
                                ", which a YOLO v5 of 25 layers (v5n, v5s …, release 6) has"));
      return found->second;
    };
    Backbone<N> backbone = Backbone<N>::random({.size = size});
    backbone.core.preprocessing = {size, {0.0, 0.0, 0.0}, {1.0, 1.0, 1.0}, Interpolation::bilinear,
                                   1.0,  Fit::letterbox};
    backbone.core.source = file.filename().string();
    YoloOptions head = yolo_v5();
    const Tensor anchors = of("24.anchors").to(at::kCPU, at::kDouble).contiguous();  // in cells
    if (anchors.dim() != 3 || anchors.size(0) != 3 || anchors.size(2) != 2)
      throw WeightsError(text("the file ", file, " has anchors of another shape than (3, n, 2)"));
    head.anchors.clear();
    for (Index l = 0; l < 3; ++l) {
      Anchors level;
      for (Index a = 0; a < anchors.size(1); ++a) {
        const double* side = anchors.const_data_ptr<double>() + 2 * (l * anchors.size(1) + a);
        const double stride = static_cast<double>(Index{8} << l);
        level.push_back({side[0] * stride, side[1] * stride});
      }
      head.anchors.push_back(std::move(level));
    }
    const Index wanted = anchors.size(1) * (5 + static_cast<Index>(labels.size()));
    if (const Tensor last = of("24.m.0.weight"); last.size(0) != wanted)
      throw OptionError(text("the network in ", file, " finds ", last.size(0) / anchors.size(1) - 5,
                             " classes, and there are ", labels.size(), " labels"));
    const double width = static_cast<double>(backbone.features().channels.back()) / 1024.0;
    YoloV5Detector<N> out(std::move(backbone), FreezePolicy<FreezeNone>{},
                          Neck<C3PathAggregation>{{.width = width, .depth = 0.33, .sppf = false}}, Head<Yolo>{head},
                          std::move(labels));
    const auto fill = [&](Module& module, const auto& their_name) {
      StateDict state;
      for (const auto& item : state_dict(module)) state.emplace_back(item.first, of(their_name(item.first)));
      load_state_dict(module, state, {}, file.string());
    };
    fill(*out.backbone_core().network, [](const std::string& name) { return name; });
    fill(out.neck(), [](const std::string& name) {
      for (const auto& [ours, layer] : detail::yolo_v5_neck)
        if (name.starts_with(ours)) return layer + name.substr(std::string(ours).size());
      return name;
    });
    fill(out.head(), [](const std::string& name) { return "24.m." + name; });
    return out;
  });
}

}  // namespace transferlib

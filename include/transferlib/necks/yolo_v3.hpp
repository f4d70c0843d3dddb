/// \file
/// YOLO v3's feature pyramid: sets of five convolutions, and each map enlarged and joined to the next finer one (Redmon
/// and Farhadi, 2018; after Lin et al., "Feature pyramid networks", 2017).
#pragma once

#include <memory>
#include <vector>

#include <transferlib/core/separate.hpp>
#include <transferlib/necks/pyramid_neck.hpp>

namespace transferlib {

/// v3's neck, `.spp` that of v3-SPP. Blocks `top.L` (the set), `reduce.L`, `last.L` (3 x 3, to all channels).
class YoloV3Neck : public detail::PyramidNeck {
 public:
  struct Options {
    std::vector<Index> channels{256, 512, 1024};  ///< of the maps that it gives, the finest first; each halved within
    double width = 1.0;                           ///< a multiple of all channels
    bool spp = false;                             ///< spatial pyramid pooling in the middle of the coarsest map's set
    Activation activation = Activation::leaky_relu;
    std::uint64_t seed = 0;
  };
  YoloV3Neck(const FeatureSpec& features, const Options& o);
};

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API YoloV3Neck::YoloV3Neck(const FeatureSpec& features, const Options& o)
    : PyramidNeck("YoloV3Neck", features, detail::widened(o.channels, o.width), false) {
  const std::vector<Index> out = this->features().channels;
  for (std::size_t l = count(); l-- > 0;) {
    const Index half = out[l] / 2;
    if (l + 1 == count() && o.spp) {
      auto first = detail::convolution_set(in(l), half, 3, o.activation);
      first->add(std::make_shared<nn::SpatialPyramid>());
      level(l).top = std::make_shared<nn::Chain>(std::initializer_list<std::shared_ptr<nn::Block>>{
          first, detail::convolution_set(4 * half, half, 3, o.activation)});
    } else {
      const Index beside = l + 1 == count() ? 0 : half;
      level(l).top = detail::convolution_set(in(l) + beside, half, 5, o.activation);
      if (beside != 0)
        level(l).reduce = nn::conv_block({.in = out[l + 1] / 2, .out = half, .activation = o.activation});
    }
    level(l).last = nn::conv_block({.in = half, .out = out[l], .kernel = 3, .activation = o.activation});
  }
  finish(o.seed);
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

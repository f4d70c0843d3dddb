/// \file
/// Path aggregation (Liu et al., "Path aggregation network for instance segmentation", CVPR 2018): after v3's way down
/// the pyramid a way up again. As YOLO v4 has it, with convolutions; as v5 and YOLOX, with C3.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include <transferlib/core/separate.hpp>
#include <transferlib/necks/pyramid_neck.hpp>

namespace transferlib {

/// YOLO v4's neck (Bochkovskiy et al., 2020): sets of five convolutions, spatial pyramid pooling. Blocks `top.L`,
/// `reduce.L`, `lateral.L`, `down.L`, `bottom.L`, `last.L`.
class PathAggregation : public detail::PyramidNeck {
 public:
  struct Options {
    std::vector<Index> channels{256, 512, 1024};  ///< of the maps that it gives, the finest first; each halved within
    double width = 1.0;                           ///< a multiple of all channels
    bool spp = true;                              ///< spatial pyramid pooling of the coarsest map
    Activation activation = Activation::leaky_relu;
    std::uint64_t seed = 0;
  };
  PathAggregation(const FeatureSpec& features, const Options& o);
};

/// YOLO v5's neck (Jocher et al., 2020): C3 blocks in both directions. Its layers there, with three maps: 10 `top.2`,
/// 13 and 14 `top.1.0` and `top.1.1`, 17 `top.0`, 18 `down.1`, 20 `bottom.1`, 21 `down.2`, 23 `bottom.2`; layer 9, the
/// pooling, belongs to its backbone, and comes first in `top.2` where `.sppf` asks for it.
class C3PathAggregation : public detail::PyramidNeck {
 public:
  struct Options {
    std::vector<Index> channels{256, 512, 1024};  ///< of the maps that it gives, the finest first
    double width = 1.0;                           ///< a multiple of all channels: v5n .25, v5s .5, v5m .75, v5l 1
    double depth = 1.0;      ///< a multiple of three bottlenecks a block: v5n, v5s .33, v5m .67, v5l 1
    bool sppf = true;        ///< pool the coarsest map first; not after a backbone that has done so
    bool separable = false;  ///< 3 x 3 convolutions channel by channel, as YOLOX-nano has them
    Activation activation = Activation::silu;
    std::uint64_t seed = 0;
  };
  C3PathAggregation(const FeatureSpec& features, const Options& o);
};

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API PathAggregation::PathAggregation(const FeatureSpec& features, const Options& o)
    : PyramidNeck("PathAggregation", features, detail::widened(o.channels, o.width), true) {
  const std::vector<Index> out = this->features().channels;
  const auto conv = [&](Index from, Index to, Index kernel, Index stride) {
    return nn::conv_block({.in = from, .out = to, .kernel = kernel, .stride = stride, .activation = o.activation});
  };
  for (std::size_t l = 0; l < count(); ++l) {
    const Index half = out[l] / 2;
    if (l + 1 == count()) {
      auto first = detail::convolution_set(in(l), half, 3, o.activation);
      if (o.spp) first->add(std::make_shared<nn::SpatialPyramid>());
      level(l).top = std::make_shared<nn::Chain>(std::initializer_list<std::shared_ptr<nn::Block>>{
          first, detail::convolution_set(o.spp ? 4 * half : half, half, 3, o.activation)});
    } else {
      level(l).reduce = conv(out[l + 1] / 2, half, 1, 1);
      level(l).lateral = conv(in(l), half, 1, 1);
      level(l).top = detail::convolution_set(2 * half, half, 5, o.activation);
    }
    if (l > 0) {
      level(l).down = conv(out[l - 1] / 2, half, 3, 2);
      level(l).bottom = detail::convolution_set(2 * half, half, 5, o.activation);
    }
    level(l).last = conv(half, out[l], 3, 1);
  }
  finish(o.seed);
}

TRANSFERLIB_API C3PathAggregation::C3PathAggregation(const FeatureSpec& features, const Options& o)
    : PyramidNeck("C3PathAggregation", features, detail::widened(o.channels, o.width), false) {
  const std::vector<Index> out = this->features().channels;
  const Index depth = std::max<Index>(1, std::lround(3.0 * o.depth));
  const auto conv = [&](Index from, Index to, Index kernel, Index stride) {
    return nn::conv_block({.in = from, .out = to, .kernel = kernel, .stride = stride, .activation = o.activation},
                          o.separable);
  };
  const auto c3 = [&](Index from, Index to) {
    return std::make_shared<nn::C3>(nn::C3Options{.in = from,
                                                  .out = to,
                                                  .depth = depth,
                                                  .shortcut = false,
                                                  .separable = o.separable,
                                                  .activation = o.activation});
  };
  for (std::size_t l = 0; l < count(); ++l) {
    // What goes down to the next finer map has its width.
    const Index finer = l == 0 ? 0 : out[l - 1];
    auto top = std::make_shared<nn::Chain>();
    if (l + 1 < count())
      top->add(c3(in(l) + out[l], out[l]));
    else if (o.sppf)
      top->add(std::make_shared<nn::Sppf>(in(l), out[l], o.activation));
    if (l > 0 || (count() == 1 && !o.sppf))
      top->add(conv(l + 1 == count() && !o.sppf ? in(l) : out[l], l > 0 ? finer : out[l], 1, 1));
    level(l).top = top;
    if (l > 0) {
      level(l).down = conv(finer, finer, 3, 2);
      level(l).bottom = c3(2 * finer, out[l]);
    }
  }
  finish(o.seed);
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

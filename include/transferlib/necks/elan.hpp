/// \file
/// YOLO v7's neck (Wang, Bochkovskiy and Liao, CVPR 2023): path aggregation by ELAN blocks, ended by convolutions whose
/// branches are merged for inference (`nn::merge_branches`).
#pragma once

#include <memory>
#include <vector>

#include <transferlib/core/separate.hpp>
#include <transferlib/necks/pyramid_neck.hpp>
#include <transferlib/nn/rep_conv.hpp>

namespace transferlib {

/// v7's neck. Blocks `top.L`, `reduce.L`, `lateral.L`, `down.L`, `bottom.L`, `last.L`.
class ElanPathAggregation : public detail::PyramidNeck {
 public:
  struct Options {
    std::vector<Index> channels{256, 512, 1024};  ///< of the maps that it gives, the finest first; each halved within
    double width = 1.0;                           ///< a multiple of all channels
    Index depth = 4;                              ///< 3 x 3 convolutions of a block
    Index parallel = 1;                           ///< 2: E-ELAN, as v7-E6E has it
    bool spp = true;                              ///< pool the coarsest map first
    bool branches = true;                         ///< end in convolutions of three branches, not in one 3 x 3
    bool auxiliary = false;  ///< maps for the auxiliary head, from the way down; for `Yolo` with `.auxiliary`
    Activation activation = Activation::silu;
    std::uint64_t seed = 0;
  };
  ElanPathAggregation(const FeatureSpec& features, const Options& o);
};

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API ElanPathAggregation::ElanPathAggregation(const FeatureSpec& features, const Options& o)
    : PyramidNeck("ElanPathAggregation", features, detail::widened(o.channels, o.width), true) {
  const std::vector<Index> out = this->features().channels;
  const auto conv = [&](Index from, Index to, Index kernel = 1) {
    return nn::conv_block({.in = from, .out = to, .kernel = kernel, .activation = o.activation});
  };
  const auto elan = [&](Index from, Index to) {
    return nn::elan_block({.in = from,
                           .out = to,
                           .hidden = to,
                           .inner = to / 2,
                           .depth = o.depth,
                           .parallel = o.parallel,
                           .activation = o.activation});
  };
  for (std::size_t l = 0; l < count(); ++l) {
    const Index half = out[l] / 2;
    if (l + 1 == count()) {
      if (o.spp)
        level(l).top = std::make_shared<nn::SppCsp>(in(l), half, o.activation);
      else
        level(l).top = conv(in(l), half);
    } else {
      level(l).reduce = conv(out[l + 1] / 2, half);
      level(l).lateral = conv(in(l), half);
      level(l).top = elan(2 * half, half);
    }
    if (l > 0) {
      const Index finer = out[l - 1] / 2;
      level(l).down = std::make_shared<nn::DownPair>(finer, finer, o.activation);
      level(l).bottom = elan(2 * finer + half, half);
    }
    if (o.branches)
      level(l).last = std::make_shared<nn::RepConv>(half, out[l], o.activation);
    else
      level(l).last = conv(half, out[l], 3);
    if (o.auxiliary) level(l).auxiliary = conv(half, out[l], 3);
  }
  if (o.auxiliary) has_auxiliary();
  finish(o.seed);
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

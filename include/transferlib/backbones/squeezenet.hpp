/// \file
/// SqueezeNet (Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters", 2016). Names and order
/// of parameters are torchvision's.
#pragma once

#include <algorithm>
#include <array>
#include <string>

#include <transferlib/core/error.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/nn/plan.hpp>

namespace transferlib {

/// A variant's numbers.
struct SqueezeNetSpec {
  Index stem = 64;               ///< channels of the first convolution
  Index kernel = 3;              ///< its side
  std::array<Index, 3> pools{};  ///< where among `features` the maps are halved
};

/// The family: one constructor. The last map has a stride of 16, and nothing is padded on the way down: a side of it is
/// smaller than the picture's sixteenth.
class SqueezeNet : public Plan {
 public:
  using Gives = Pyramid;

  /// \throws OptionError for an output stride other than the default
  SqueezeNet(const SqueezeNetSpec& spec, const NetworkOptions& options);

 private:
  /// Squeezes the channels, then expands them to eight times as many, half of them by 3x3 convolution.
  Index fire(Index x, const std::string& name, Index in, Index squeezed);
};

/// SqueezeNet 1.0: 1.2 million parameters, 224 pixels.
struct SqueezeNet1_0 : SqueezeNet {
  static constexpr Card card{.name = "squeezenet1_0",
                             .file = "squeezenet1_0-b66bff10.pth",
                             .source = "torchvision's SqueezeNet1_0_Weights.IMAGENET1K_V1",
                             .sha256 = "b66bff10",
                             .licence = "BSD-3-Clause",
                             .preprocessing = {.crop_fraction = 224.0 / 256.0},
                             .minimum_size = 21,
                             .url = "https://download.pytorch.org/models/squeezenet1_0-b66bff10.pth",
                             .top1 = 58.092};
  explicit SqueezeNet1_0(const NetworkOptions& o = {})
      : SqueezeNet({.stem = 96, .kernel = 7, .pools = {2, 6, 11}}, o) {}
};

/// SqueezeNet 1.1: 1.2 million parameters, 224 pixels, 2.4 times fewer multiply-adds.
struct SqueezeNet1_1 : SqueezeNet {
  static constexpr Card card{.name = "squeezenet1_1",
                             .file = "squeezenet1_1-b8a52dc0.pth",
                             .source = "torchvision's SqueezeNet1_1_Weights.IMAGENET1K_V1",
                             .sha256 = "b8a52dc0",
                             .licence = "BSD-3-Clause",
                             .preprocessing = {.crop_fraction = 224.0 / 256.0},
                             .minimum_size = 17,
                             .url = "https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth",
                             .top1 = 58.178};
  explicit SqueezeNet1_1(const NetworkOptions& o = {}) : SqueezeNet({.stem = 64, .kernel = 3, .pools = {2, 5, 8}}, o) {}
};

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API SqueezeNet::SqueezeNet(const SqueezeNetSpec& spec, const NetworkOptions& options) : Plan("SqueezeNet") {
  if (options.output_stride != 32)
    throw OptionError(detail::text("SqueezeNet's output stride can't be chosen (it is 16): leave output_stride at ",
                                   "its default instead of ", options.output_stride));
  Index x = call(declare_convolution(
                     "features.0",
                     {.in = options.in_channels, .out = spec.stem, .kernel = spec.kernel, .stride = 2, .bias = true}),
                 {0});
  x = call(declare_activation("features.1", Activation::relu), {x});
  Index channels = spec.stem, fires = 0, stride = 2;
  for (Index i = 2; i < 13; ++i) {
    const std::string name = detail::text("features.", i);
    if (std::find(spec.pools.begin(), spec.pools.end(), i) != spec.pools.end()) {
      end_stage(x, name, stride);
      stride *= 2;
      x = call(declare_max_pool(name, {.kernel = 3, .stride = 2, .ceil = true}), {x});
    } else {
      const Index squeezed = 16 * (1 + fires++ / 2);
      x = fire(x, name + ".", channels, squeezed);
      channels = 8 * squeezed;
    }
  }
  end_stage(x, "classifier", stride);
  set_map(x);
  set_pooled(function(Kind::pool, {x}, [](auto map, const Pass&) { return global_pool(map[0]); }));
  // The original's classifier answers at each place, and the answers' mean is taken.
  x = call(declare_dropout("classifier.0", 0.5), {x});
  x = call(declare_convolution("classifier.1", {.in = channels, .out = 1000, .bias = true}), {x});
  x = call(declare_activation("classifier.2", Activation::relu), {x});
  set_logits(call(declare_global_pool("classifier.3"), {x}));
}

TRANSFERLIB_API Index SqueezeNet::fire(Index x, const std::string& name, Index in, Index squeezed) {
  const auto layer = [&](const std::string& part, Index from, const nn::Conv2dOptions& options) {
    const Index y = call(declare_convolution(name + part, options), {from});
    return call(declare_activation(name + part + "_activation", Activation::relu), {y});
  };
  const Index expanded = 4 * squeezed;
  x = layer("squeeze", x, {.in = in, .out = squeezed, .bias = true});
  const Index one = layer("expand1x1", x, {.in = squeezed, .out = expanded, .bias = true});
  const Index three = layer("expand3x3", x, {.in = squeezed, .out = expanded, .kernel = 3, .padding = 1, .bias = true});
  return concat({one, three});
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

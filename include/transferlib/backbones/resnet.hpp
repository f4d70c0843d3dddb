/// \file
/// ResNet (He et al., "Deep residual learning for image recognition", CVPR 2016), with the stride in a bottleneck's 3x3
/// convolution, Wide ResNet (Zagoruyko and Komodakis, BMVC 2016) and ResNeXt (Xie et al., CVPR 2017). Names and order
/// of parameters are torchvision's, which timm's equal. A card's file is torchvision's default; the older files of the
/// same networks load by their paths.
#pragma once

#include <array>
#include <cmath>
#include <string>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/nn/plan.hpp>

namespace transferlib {

/// A variant's numbers.
struct ResNetSpec {
  std::array<Index, 4> blocks{};  ///< of each stage
  bool bottleneck = true;         ///< blocks of three convolutions that end in four times the channels; else of two
  Index groups = 1;               ///< of a bottleneck's 3x3 convolution
  Index group_width = 64;         ///< its channels a group in the first stage; they double at each stage
};

/// The family: one constructor.
class ResNet : public Plan {
 public:
  using Gives = Pyramid;

  /// \throws OptionError for an output stride that torchvision's network can't have
  ResNet(const ResNetSpec& spec, const NetworkOptions& options);

 private:
  struct Block {
    Index in = 0, planes = 0, stride = 1, dilation = 1;
  };

  /// A branch starts small, by one over the root of how many there are, so that a signal keeps its size through all the
  /// sums in evaluation too (De and Smith, NeurIPS 2020).
  void start_small(Index norm);

  /// A convolution and its norm. \returns the convolution's row, which the norm's follows
  Index declare_pair(const std::string& conv, const std::string& norm, const nn::Conv2dOptions& options) {
    const Index row = declare_convolution(conv, options);
    declare_norm(norm, options.out);
    return row;
  }
  Index convolution_norm(Index row, Index x) { return call(row + 1, {call(row, {x})}); }

  Index residual(Index x, const std::string& name, const Block& b);

  ResNetSpec spec_;
};

/// ResNet-18: 11.7 million parameters, 224 pixels.
struct ResNet18 : ResNet {
  static constexpr Card card{.name = "resnet18",
                             .file = "resnet18-f37072fd.pth",
                             .source = "torchvision's ResNet18_Weights.IMAGENET1K_V1",
                             .sha256 = "f37072fd",
                             .licence = "BSD-3-Clause",
                             .preprocessing = {.crop_fraction = 224.0 / 256.0},
                             .minimum_size = 1,
                             .url = "https://download.pytorch.org/models/resnet18-f37072fd.pth",
                             .aliases = "resnet18.tv_in1k",
                             .top1 = 69.758};
  explicit ResNet18(const NetworkOptions& o = {}) : ResNet({.blocks = {2, 2, 2, 2}, .bottleneck = false}, o) {}
};

/// ResNet-34: 21.8 million parameters, 224 pixels.
struct ResNet34 : ResNet {
  static constexpr Card card{.name = "resnet34",
                             .file = "resnet34-b627a593.pth",
                             .source = "torchvision's ResNet34_Weights.IMAGENET1K_V1",
                             .sha256 = "b627a593",
                             .licence = "BSD-3-Clause",
                             .preprocessing = {.crop_fraction = 224.0 / 256.0},
                             .minimum_size = 1,
                             .url = "https://download.pytorch.org/models/resnet34-b627a593.pth",
                             .aliases = "resnet34.tv_in1k",
                             .top1 = 73.314};
  explicit ResNet34(const NetworkOptions& o = {}) : ResNet({.blocks = {3, 4, 6, 3}, .bottleneck = false}, o) {}
};

/// ResNet-50: 25.6 million parameters, 224 pixels.
struct ResNet50 : ResNet {
  static constexpr Card card{.name = "resnet50",
                             .file = "resnet50-11ad3fa6.pth",
                             .source = "torchvision's ResNet50_Weights.IMAGENET1K_V2",
                             .sha256 = "11ad3fa6",
                             .licence = "BSD-3-Clause",
                             .preprocessing = {.crop_fraction = 224.0 / 232.0},
                             .minimum_size = 1,
                             .url = "https://download.pytorch.org/models/resnet50-11ad3fa6.pth",
                             .aliases = "resnet50.tv2_in1k resnet50.a1_in1k",
                             .top1 = 80.858};
  explicit ResNet50(const NetworkOptions& o = {}) : ResNet({.blocks = {3, 4, 6, 3}}, o) {}
};

/// ResNet-101: 44.5 million parameters, 224 pixels.
struct ResNet101 : ResNet {
  static constexpr Card card{.name = "resnet101",
                             .file = "resnet101-cd907fc2.pth",
                             .source = "torchvision's ResNet101_Weights.IMAGENET1K_V2",
                             .sha256 = "cd907fc2",
                             .licence = "BSD-3-Clause",
                             .preprocessing = {.crop_fraction = 224.0 / 232.0},
                             .minimum_size = 1,
                             .url = "https://download.pytorch.org/models/resnet101-cd907fc2.pth",
                             .aliases = "resnet101.tv2_in1k",
                             .top1 = 81.886};
  explicit ResNet101(const NetworkOptions& o = {}) : ResNet({.blocks = {3, 4, 23, 3}}, o) {}
};

/// ResNet-152: 60.2 million parameters, 224 pixels.
struct ResNet152 : ResNet {
  static constexpr Card card{.name = "resnet152",
                             .file = "resnet152-f82ba261.pth",
                             .source = "torchvision's ResNet152_Weights.IMAGENET1K_V2",
                             .sha256 = "f82ba261",
                             .licence = "BSD-3-Clause",
                             .preprocessing = {.crop_fraction = 224.0 / 232.0},
                             .minimum_size = 1,
                             .url = "https://download.pytorch.org/models/resnet152-f82ba261.pth",
                             .aliases = "resnet152.tv2_in1k",
                             .top1 = 82.284};
  explicit ResNet152(const NetworkOptions& o = {}) : ResNet({.blocks = {3, 8, 36, 3}}, o) {}
};

/// Wide ResNet-50-2: 68.9 million parameters, 224 pixels.
struct WideResNet50_2 : ResNet {
  static constexpr Card card{.name = "wide_resnet50_2",
                             .file = "wide_resnet50_2-9ba9bcbe.pth",
                             .source = "torchvision's Wide_ResNet50_2_Weights.IMAGENET1K_V2",
                             .sha256 = "9ba9bcbe",
                             .licence = "BSD-3-Clause",
                             .preprocessing = {.crop_fraction = 224.0 / 232.0},
                             .minimum_size = 1,
                             .url = "https://download.pytorch.org/models/wide_resnet50_2-9ba9bcbe.pth",
                             .aliases = "wide_resnet50_2.tv2_in1k",
                             .top1 = 81.602};
  explicit WideResNet50_2(const NetworkOptions& o = {}) : ResNet({.blocks = {3, 4, 6, 3}, .group_width = 128}, o) {}
};

/// ResNeXt-50 32x4d: 25.0 million parameters, 224 pixels.
struct ResNeXt50_32x4d : ResNet {
  static constexpr Card card{.name = "resnext50_32x4d",
                             .file = "resnext50_32x4d-1a0047aa.pth",
                             .source = "torchvision's ResNeXt50_32X4D_Weights.IMAGENET1K_V2",
                             .sha256 = "1a0047aa",
                             .licence = "BSD-3-Clause",
                             .preprocessing = {.crop_fraction = 224.0 / 232.0},
                             .minimum_size = 1,
                             .url = "https://download.pytorch.org/models/resnext50_32x4d-1a0047aa.pth",
                             .aliases = "resnext50_32x4d.tv2_in1k",
                             .top1 = 81.198};
  explicit ResNeXt50_32x4d(const NetworkOptions& o = {})
      : ResNet({.blocks = {3, 4, 6, 3}, .groups = 32, .group_width = 4}, o) {}
};

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API ResNet::ResNet(const ResNetSpec& spec, const NetworkOptions& options) : Plan("ResNet"), spec_(spec) {
  const Index wanted = options.output_stride;
  if (wanted != 32 && (!spec.bottleneck || (wanted != 16 && wanted != 8)))
    throw OptionError(spec.bottleneck
                          ? detail::text("a ResNet has an output stride of 32, 16 or 8, not ", wanted)
                          : detail::text("a ResNet of blocks without bottleneck has an output stride of 32, not ",
                                         wanted, "; those from ResNet-50 on can have 16 or 8 too"));
  Index x = convolution_norm(
      declare_pair("conv1", "bn1", {.in = options.in_channels, .out = 64, .kernel = 7, .stride = 2, .padding = 3}), 0);
  x = call(declare_activation("relu", Activation::relu), {x});
  x = call(declare_max_pool("maxpool", {.kernel = 3, .stride = 2, .padding = 1}), {x});
  next_stage("layer1");
  Index channels = 64, reached = 4, dilation = 1;
  for (Index group = 0; group < 4; ++group) {
    const std::string name = detail::text("layer", group + 1);
    Block block{.in = channels, .planes = 64 << group, .stride = group == 0 ? 1 : 2, .dilation = dilation};
    // Where the map may not shrink any more the stride becomes dilation, from the second block on.
    if (reached * block.stride > wanted) {
      dilation *= block.stride;
      block.stride = 1;
    }
    reached *= block.stride;
    channels = block.planes * (spec.bottleneck ? 4 : 1);
    for (Index number = 0; number < spec.blocks[Graph::at(group)]; ++number) {
      x = residual(x, detail::text(name, ".", number, "."), block);
      block.in = channels;
      block.stride = 1;
      block.dilation = dilation;
    }
    end_stage(x, group < 3 ? detail::text("layer", group + 2) : "classifier");
  }
  set_map(x);
  x = call(declare_global_pool("avgpool"), {x});
  set_pooled(x);
  set_logits(call(declare_linear("fc", channels, 1000), {x}));
}

TRANSFERLIB_API void ResNet::start_small(Index norm) {
  const torch::NoGradGuard guard;
  Index blocks = 0;
  for (Index n : spec_.blocks) blocks += n;
  dynamic_cast<nn::BatchNorm2d&>(*graph().modules[Graph::at(norm)])
      .weight.fill_(1.0 / std::sqrt(static_cast<double>(blocks)));
}

TRANSFERLIB_API Index ResNet::residual(Index x, const std::string& name, const Block& b) {
  const Index out = spec_.bottleneck ? 4 * b.planes : b.planes;
  std::vector<nn::Conv2dOptions> convolutions;
  if (spec_.bottleneck) {
    const Index width = b.planes * spec_.group_width / 64 * spec_.groups;
    convolutions = {{.in = b.in, .out = width},
                    {.in = width,
                     .out = width,
                     .kernel = 3,
                     .stride = b.stride,
                     .padding = b.dilation,
                     .dilation = b.dilation,
                     .groups = spec_.groups},
                    {.in = width, .out = out}};
  } else {
    convolutions = {{.in = b.in, .out = out, .kernel = 3, .stride = b.stride, .padding = 1},
                    {.in = out, .out = out, .kernel = 3, .padding = 1}};
  }
  std::vector<Index> rows;
  Index relu = 0;
  for (const nn::Conv2dOptions& options : convolutions) {
    const auto number = rows.size() + 1;
    rows.push_back(declare_pair(detail::text(name, "conv", number), detail::text(name, "bn", number), options));
    // One module that is called after each sum and convolution: registered last, or behind the first of two.
    if (number == (spec_.bottleneck ? 3U : 1U)) relu = declare_activation(name + "relu", Activation::relu);
  }
  start_small(rows.back() + 1);
  // The shortcut is computed first, so that the last convolution can be added to it where it lies.
  Index shortcut = x;
  if (b.stride != 1 || b.in != out)
    shortcut = convolution_norm(
        declare_pair(name + "downsample.0", name + "downsample.1", {.in = b.in, .out = out, .stride = b.stride}), x);
  for (Index row : rows) {
    x = convolution_norm(row, x);
    if (row == rows.back()) x = add(x, shortcut);
    x = call(relu, {x});
  }
  return x;
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

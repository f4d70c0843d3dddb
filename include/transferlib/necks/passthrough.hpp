/// \file
/// YOLO v2's passthrough (Redmon and Farhadi, "YOLO9000", 2017): the finer of two maps joins the coarse one, its places
/// as channels.
#pragma once

#include <memory>

#include <transferlib/core/error.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/nn/yolo_blocks.hpp>

namespace transferlib {

/// v2's neck: one map, of the coarsest stride. Blocks `deep` (two 3 x 3 convolutions of the coarse map), `fine` (1 x 1
/// of the finer one), `joined` (3 x 3 of both).
class Passthrough : public Module {
 public:
  struct Options {
    Index channels = 1024;  ///< of the map that it gives
    Index fine = 64;        ///< channels that the finer map is reduced to; its places make them four times as many
    Activation activation = Activation::leaky_relu;
    std::uint64_t seed = 0;
  };
  Passthrough(const FeatureSpec& features, const Options& o);

  Activations forward(const Activations& pyramid, const Pass& pass);
  FeatureSpec features() const { return features_; }

 private:
  std::shared_ptr<nn::Block> deep_, fine_, joined_;
  FeatureSpec features_;
};

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API Passthrough::Passthrough(const FeatureSpec& features, const Options& o) : Module("Passthrough") {
  const std::size_t n = features.channels.size();
  if (n < 2 || features.strides.size() != n || features.strides[n - 1] != 2 * features.strides[n - 2])
    throw OptionError("a passthrough joins two maps of a pyramid, the last one of half the size of the one before");
  const auto conv = [&](Index in, Index out, Index kernel) {
    return nn::conv_block({.in = in, .out = out, .kernel = kernel, .activation = o.activation});
  };
  deep_ = register_module("deep", std::make_shared<nn::Chain>(std::initializer_list<std::shared_ptr<nn::Block>>{
                                      conv(features.channels[n - 1], o.channels, 3), conv(o.channels, o.channels, 3)}));
  fine_ = register_module("fine", conv(features.channels[n - 2], o.fine, 1));
  joined_ = register_module("joined", conv(o.channels + 4 * o.fine, o.channels, 3));
  features_ = {{o.channels}, {features.strides[n - 1]}, o.channels, features.classes};
  detail::start_convolutions(*this, o.seed);
}

TRANSFERLIB_API Activations Passthrough::forward(const Activations& pyramid, const Pass& pass) {
  const auto type = parameters().front().scalar_type();
  const Tensor deep = deep_->forward(pyramid.back().to(type), pass.training);
  Tensor fine = fine_->forward(pyramid.at(pyramid.size() - 2).to(type), pass.training);
  // A side that is odd gets a row or column of zeros.
  fine = at::constant_pad_nd(fine, {0, 2 * deep.size(3) - fine.size(3), 0, 2 * deep.size(2) - fine.size(2)});
  return {joined_->forward(at::cat({at::pixel_unshuffle(fine, 2), deep}, 1), pass.training)};
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

/// \file
/// What YOLO's necks share: a way down the pyramid, from the coarsest map to the finest, and mostly a way up again.
#pragma once

#include <cmath>
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/nn/yolo_blocks.hpp>

namespace transferlib {
namespace detail {

/// A neck of blocks; a block that is missing gives what it takes. With the maps p, the coarsest being the last, L:
///
///     t[L] = top[L](p[L]),  t[l] = top[l](join(enlarged(reduce[l](t[l + 1])), lateral[l](p[l])))
///     b[0] = t[0],          b[l] = bottom[l](join(down[l](b[l - 1]), t[l])), or t[l] where there is no way up
///     out[l] = last[l](b[l]), and for an auxiliary head, in training only, behind these: auxiliary[l](t[l])
class PyramidNeck : public Module {
 public:
  /// The coarsest maps of a longer pyramid are used. Maps are computed with in the precision of the weights.
  Activations forward(const Activations& pyramid, const Pass& pass);

  /// The maps that it gives, those for an auxiliary head last.
  FeatureSpec features() const { return features_; }

 protected:
  struct Level {
    std::shared_ptr<nn::Block> top, reduce, lateral, down, bottom, last, auxiliary;
  };

  /// \param channels of the maps that the neck gives, the finest first; as many of the coarsest maps are used
  PyramidNeck(std::string name, const FeatureSpec& features, const std::vector<Index>& channels, bool lateral_first);

  std::size_t count() const { return levels_.size(); }
  /// Channels of the map that level `l` takes.
  Index in(std::size_t l) const { return in_[l]; }
  Level& level(std::size_t l) { return levels_[l]; }

  /// Tells that in training as many maps more, of the same channels, are given: those of the auxiliary blocks.
  void has_auxiliary() {
    const FeatureSpec own = features_;
    features_.channels.insert(features_.channels.end(), own.channels.begin(), own.channels.end());
    features_.strides.insert(features_.strides.end(), own.strides.begin(), own.strides.end());
  }

  /// Puts the blocks into the tree, as `top.0`, `reduce.0` …, and draws their weights.
  void finish(std::uint64_t seed);

 private:
  bool lateral_first_;
  std::size_t first_ = 0;
  std::vector<Level> levels_;
  std::vector<Index> in_;
  FeatureSpec features_;
};

/// A number of channels or repetitions times a multiple, as v5 rounds it: channels up to a multiple of 8.
TRANSFERLIB_API std::vector<Index> widened(const std::vector<Index>& channels, double width);

/// darknet's set of convolutions: 1 x 1 of `width` and 3 x 3 of twice as many take turns, `count` of them.
TRANSFERLIB_API std::shared_ptr<nn::Chain> convolution_set(Index in, Index width, Index count, Activation activation);

}  // namespace detail
}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API Activations PyramidNeck::forward(const Activations& pyramid, const Pass& pass) {
  const bool training = pass.training;
  const std::size_t count = levels_.size();
  if (pyramid.size() < first_ + count)
    throw OptionError(text(name(), " was built for ", first_ + count, " maps and given ", pyramid.size()));
  const auto type = parameters().front().scalar_type();
  const auto apply = [&](const std::shared_ptr<nn::Block>& block, const Tensor& x) {
    return block == nullptr ? x : block->forward(x, training);
  };
  std::vector<Tensor> x(count);
  for (std::size_t l = count; l-- > 0;) {
    const Tensor map = pyramid[first_ + l].to(type);
    if (l + 1 == count) {
      x[l] = apply(levels_[l].top, map);
      continue;
    }
    const Tensor coarse = at::upsample_nearest2d(apply(levels_[l].reduce, x[l + 1]), {map.size(2), map.size(3)});
    const Tensor beside = apply(levels_[l].lateral, map);
    x[l] = apply(levels_[l].top, lateral_first_ ? at::cat({beside, coarse}, 1) : at::cat({coarse, beside}, 1));
  }
  std::vector<Tensor> beside;
  for (std::size_t l = 0; training && l < count; ++l)
    if (levels_[l].auxiliary != nullptr) beside.push_back(apply(levels_[l].auxiliary, x[l]));
  for (std::size_t l = 1; l < count; ++l)
    if (levels_[l].down != nullptr)
      x[l] = apply(levels_[l].bottom, at::cat({apply(levels_[l].down, x[l - 1]), x[l]}, 1));
  for (std::size_t l = 0; l < count; ++l) x[l] = apply(levels_[l].last, x[l]);
  x.insert(x.end(), beside.begin(), beside.end());
  return x;
}

TRANSFERLIB_API PyramidNeck::PyramidNeck(std::string name, const FeatureSpec& features,
                                         const std::vector<Index>& channels, bool lateral_first)
    : Module(std::move(name)), lateral_first_(lateral_first) {
  if (channels.empty() || features.channels.size() < channels.size() ||
      features.strides.size() != features.channels.size())
    throw OptionError(text("a neck of ", channels.size(), " maps stands on a pyramid of ", features.channels.size(),
                           "; give .channels of one map, or as many as there are"));
  for (const Index c : channels)
    if (c < 4 || c % 4 != 0) throw OptionError(text("a neck's map has ", c, " channels; they must be a multiple of 4"));
  first_ = features.channels.size() - channels.size();
  levels_.resize(channels.size());
  features_ = {channels,
               {features.strides.begin() + static_cast<std::ptrdiff_t>(first_), features.strides.end()},
               channels.back(),
               features.classes};
  in_ = {features.channels.begin() + static_cast<std::ptrdiff_t>(first_), features.channels.end()};
}

TRANSFERLIB_API void PyramidNeck::finish(std::uint64_t seed) {
  const std::pair<const char*, std::shared_ptr<nn::Block> Level::*> kinds[] = {
      {"top", &Level::top},       {"reduce", &Level::reduce}, {"lateral", &Level::lateral},    {"down", &Level::down},
      {"bottom", &Level::bottom}, {"last", &Level::last},     {"auxiliary", &Level::auxiliary}};
  for (const auto& [kind, member] : kinds) {
    auto group = std::make_shared<Module>(kind);
    for (std::size_t l = 0; l < levels_.size(); ++l)
      if (levels_[l].*member != nullptr) group->register_module(std::to_string(l), levels_[l].*member);
    if (!group->children().empty()) register_module(kind, std::move(group));
  }
  start_convolutions(*this, seed);
}

TRANSFERLIB_API std::vector<Index> widened(const std::vector<Index>& channels, double width) {
  if (!(width > 0.0)) throw OptionError(text("a multiple of the width must be above 0, not ", width));
  std::vector<Index> out;
  for (const Index c : channels)
    out.push_back(width == 1.0 ? c : static_cast<Index>(std::ceil(static_cast<double>(c) * width / 8.0)) * 8);
  return out;
}

TRANSFERLIB_API std::shared_ptr<nn::Chain> convolution_set(Index in, Index width, Index count, Activation activation) {
  auto out = std::make_shared<nn::Chain>();
  for (Index i = 0; i < count; ++i)
    out->add(nn::conv_block({.in = i == 0       ? in
                                   : i % 2 == 0 ? 2 * width
                                                : width,
                             .out = i % 2 == 0 ? width : 2 * width,
                             .kernel = i % 2 == 0 ? 1 : 3,
                             .activation = activation}));
  return out;
}

}  // namespace transferlib::detail

#endif  // TRANSFERLIB_DEFINES

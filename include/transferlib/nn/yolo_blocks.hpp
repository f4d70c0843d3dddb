/// \file
/// The blocks that YOLO's necks and heads are built of. All take (N, in, h, w); parameter names are those of YOLO v5
/// and v7 where these have such a module.
#pragma once

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/nn/modules.hpp>

namespace transferlib::nn {

/// A part of a network that takes a map and gives one.
class Block : public Module {
 public:
  using Module::Module;
  virtual Tensor forward(const Tensor& x, bool training) = 0;

 protected:
  /// Makes a child of this block.
  template <class B, class... Arguments>
  std::shared_ptr<B> child(const std::string& name, Arguments&&... arguments) {
    return register_module(name, std::make_shared<B>(std::forward<Arguments>(arguments)...));
  }
};

/// A convolution with batch norm and activation. The map keeps its size, but for the stride.
struct ConvOptions {
  Index in = 0, out = 0, kernel = 1, stride = 1, groups = 1;
  Activation activation = Activation::silu;
};

/// `conv` without bias, `bn` (epsilon 1e-3, momentum .03), the activation.
class Conv : public Block {
 public:
  explicit Conv(const ConvOptions& o);
  Tensor forward(const Tensor& x, bool training) override {
    return bn->forward(conv->forward(x), training, activation);
  }

  std::shared_ptr<Conv2d> conv;
  std::shared_ptr<BatchNorm2d> bn;
  Activation activation;
};

/// A convolution channel by channel (`dconv`), then a 1 x 1 one across (`pconv`), as YOLOX's small models have it.
class SeparableConv : public Block {
 public:
  explicit SeparableConv(const ConvOptions& o) : Block("SeparableConv") {
    dconv_ = child<Conv>("dconv", ConvOptions{o.in, o.in, o.kernel, o.stride, o.in, o.activation});
    pconv_ = child<Conv>("pconv", ConvOptions{.in = o.in, .out = o.out, .activation = o.activation});
  }
  Tensor forward(const Tensor& x, bool training) override {
    return pconv_->forward(dconv_->forward(x, training), training);
  }

 private:
  std::shared_ptr<Conv> dconv_, pconv_;
};

/// A convolution of either kind. Kernels of 1 are never separable.
inline std::shared_ptr<Block> conv_block(const ConvOptions& o, bool separable = false) {
  if (separable && o.kernel > 1) return std::make_shared<SeparableConv>(o);
  return std::make_shared<Conv>(o);
}

/// Blocks one after the other, as children `0`, `1` ….
class Chain : public Block {
 public:
  Chain(std::initializer_list<std::shared_ptr<Block>> blocks = {}) : Block("Chain") {
    for (const auto& b : blocks) add(b);
  }
  /// Adds a block, which comes last.
  void add(std::shared_ptr<Block> block) {
    blocks_.push_back(register_module(std::to_string(blocks_.size()), std::move(block)));
  }
  Tensor forward(const Tensor& x, bool training) override {
    Tensor y = x;
    for (const auto& b : blocks_) y = b->forward(y, training);
    return y;
  }

 private:
  std::vector<std::shared_ptr<Block>> blocks_;
};

/// What bottlenecks and C3 are made of.
struct C3Options {
  Index in = 0, out = 0;
  Index depth = 1;       ///< bottlenecks
  bool shortcut = true;  ///< around each bottleneck
  bool separable = false;
  Activation activation = Activation::silu;
};

/// `cv1` 1 x 1 and `cv2` 3 x 3, both of `out` channels, and a shortcut around them where `in` is `out`. \param o its
/// depth has no meaning
class Bottleneck : public Block {
 public:
  explicit Bottleneck(const C3Options& o) : Block("Bottleneck"), add_(o.shortcut && o.in == o.out) {
    cv1_ = child<Conv>("cv1", ConvOptions{.in = o.in, .out = o.out, .activation = o.activation});
    cv2_ = register_module(
        "cv2", conv_block({.in = o.out, .out = o.out, .kernel = 3, .activation = o.activation}, o.separable));
  }
  Tensor forward(const Tensor& x, bool training) override {
    const Tensor y = cv2_->forward(cv1_->forward(x, training), training);
    return add_ ? x + y : y;
  }

 private:
  std::shared_ptr<Conv> cv1_;
  std::shared_ptr<Block> cv2_;
  bool add_;
};

/// The cross-stage partial block with three convolutions of YOLO v5: `cv1` and the bottlenecks `m` beside `cv2`, each
/// of half of `out`, joined by `cv3` (after Wang et al., "CSPNet", 2020).
class C3 : public Block {
 public:
  explicit C3(const C3Options& o);
  Tensor forward(const Tensor& x, bool training) override {
    return cv3_->forward(at::cat({m_->forward(cv1_->forward(x, training), training), cv2_->forward(x, training)}, 1),
                         training);
  }

 private:
  std::shared_ptr<Conv> cv1_, cv2_, cv3_;
  std::shared_ptr<Chain> m_;
};

/// The largest value around each place, in a window of `kernel`, and the map's size kept.
inline Tensor max_around(const Tensor& x, Index kernel) {
  return at::max_pool2d(x, {kernel, kernel}, {1, 1}, {kernel / 2, kernel / 2});
}

/// Spatial pyramid pooling as darknet has it: the largest of windows of 13, 9 and 5 beside the map itself, 4 · in
/// channels (He et al., 2014; v3-SPP, v4). The original's order: the largest window first.
class SpatialPyramid : public Block {
 public:
  SpatialPyramid() : Block("SpatialPyramid") {}
  Tensor forward(const Tensor& x, bool) override {
    return at::cat({max_around(x, 13), max_around(x, 9), max_around(x, 5), x}, 1);
  }
};

/// YOLO v5's fast pyramid pooling: `cv1` to half of `in`, three windows of 5 one after the other, which see 5, 9 and 13
/// places, joined by `cv2`.
class Sppf : public Block {
 public:
  Sppf(Index in, Index out, Activation activation = Activation::silu) : Block("SPPF") {
    cv1_ = child<Conv>("cv1", ConvOptions{.in = in, .out = in / 2, .activation = activation});
    cv2_ = child<Conv>("cv2", ConvOptions{.in = in / 2 * 4, .out = out, .activation = activation});
  }
  Tensor forward(const Tensor& x, bool training) override {
    const Tensor a = cv1_->forward(x, training), b = max_around(a, 5), c = max_around(b, 5);
    return cv2_->forward(at::cat({a, b, c, max_around(c, 5)}, 1), training);
  }

 private:
  std::shared_ptr<Conv> cv1_, cv2_;
};

/// v7's pyramid pooling in a cross-stage partial block, `cv1` to `cv7`.
class SppCsp : public Block {
 public:
  SppCsp(Index in, Index out, Activation a = Activation::silu);
  Tensor forward(const Tensor& x, bool training) override {
    const Tensor y = cv4_->forward(cv3_->forward(cv1_->forward(x, training), training), training);
    const Tensor pooled = at::cat({y, max_around(y, 5), max_around(y, 9), max_around(y, 13)}, 1);
    const Tensor deep = cv6_->forward(cv5_->forward(pooled, training), training);
    return cv7_->forward(at::cat({deep, cv2_->forward(x, training)}, 1), training);
  }

 private:
  std::shared_ptr<Conv> cv1_, cv2_, cv3_, cv4_, cv5_, cv6_, cv7_;
};

/// An efficient layer aggregation network's numbers (Wang et al., "YOLOv7", 2023).
struct ElanOptions {
  Index in = 0, out = 0;
  Index hidden = 0;    ///< channels of the two 1 x 1 convolutions at the start
  Index inner = 0;     ///< channels of the 3 x 3 ones
  Index depth = 4;     ///< how many 3 x 3 ones
  Index every = 1;     ///< each `every`-th of them is joined: 2 in v7's backbone, 1 in its neck
  Index parallel = 1;  ///< E-ELAN: as many of them side by side, their sum taken
  Activation activation = Activation::silu;
};

/// ELAN: `cv1` and `cv2` beside one another, 3 x 3 convolutions `m` in a row behind `cv2`; the last of them first, all
/// are joined by `cv3`.
class Elan : public Block {
 public:
  explicit Elan(const ElanOptions& o);
  TRANSFERLIB_API Tensor forward(const Tensor& x, bool training) override;

 private:
  Index every_;
  std::shared_ptr<Conv> cv1_, cv2_, cv3_;
  std::vector<std::shared_ptr<Conv>> m_;
};

/// Blocks side by side on the same map, children `0`, `1` …, and the sum of what they give.
class Sum : public Block {
 public:
  Sum() : Block("Sum") {}
  /// Adds a block, which comes last.
  void add(std::shared_ptr<Block> block) {
    blocks_.push_back(register_module(std::to_string(blocks_.size()), std::move(block)));
  }
  Tensor forward(const Tensor& x, bool training) override {
    Tensor y = blocks_.at(0)->forward(x, training);
    for (std::size_t i = 1; i < blocks_.size(); ++i) y = y + blocks_[i]->forward(x, training);
    return y;
  }

 private:
  std::vector<std::shared_ptr<Block>> blocks_;
};

/// ELAN; or E-ELAN, its extension, whose channels of groups are computed side by side and added, as v7-E6E has it.
inline std::shared_ptr<Block> elan_block(const ElanOptions& o) {
  if (o.parallel <= 1) return std::make_shared<Elan>(o);
  auto sum = std::make_shared<Sum>();
  for (Index i = 0; i < o.parallel; ++i) sum->add(std::make_shared<Elan>(o));
  return sum;
}

/// v7's way to half of the size: `cv2`, `cv3` of stride 2, beside the largest of two by two and `cv1`; `out` channels
/// each, joined: 2 · out.
class DownPair : public Block {
 public:
  DownPair(Index in, Index out, Activation a = Activation::silu) : Block("DownPair") {
    cv1_ = child<Conv>("cv1", ConvOptions{.in = in, .out = out, .activation = a});
    cv2_ = child<Conv>("cv2", ConvOptions{.in = in, .out = out, .activation = a});
    cv3_ = child<Conv>("cv3", ConvOptions{.in = out, .out = out, .kernel = 3, .stride = 2, .activation = a});
  }
  Tensor forward(const Tensor& x, bool training) override {
    // A window that reaches beyond an odd side counts, as the convolution's does.
    const Tensor pooled = at::max_pool2d(x, {2, 2}, {2, 2}, {0, 0}, {1, 1}, true);
    return at::cat({cv3_->forward(cv2_->forward(x, training), training), cv1_->forward(pooled, training)}, 1);
  }

 private:
  std::shared_ptr<Conv> cv1_, cv2_, cv3_;
};

}  // namespace transferlib::nn

namespace transferlib::detail {

/// Draws the kernels of a neck or head, from `seed` alone; see `draw_start`.
TRANSFERLIB_API void start_convolutions(Module& module, std::uint64_t seed);

}  // namespace transferlib::detail

#if TRANSFERLIB_DEFINES

namespace transferlib::nn {

TRANSFERLIB_API Conv::Conv(const ConvOptions& o) : Block("Conv"), activation(o.activation) {
  conv = child<Conv2d>("conv", Conv2dOptions{.in = o.in,
                                             .out = o.out,
                                             .kernel = o.kernel,
                                             .stride = o.stride,
                                             .padding = o.kernel / 2,
                                             .groups = o.groups});
  bn = child<BatchNorm2d>("bn", o.out, 1e-3, 0.03);
}

TRANSFERLIB_API C3::C3(const C3Options& o) : Block("C3") {
  const Index half = o.out / 2;
  cv1_ = child<Conv>("cv1", ConvOptions{.in = o.in, .out = half, .activation = o.activation});
  cv2_ = child<Conv>("cv2", ConvOptions{.in = o.in, .out = half, .activation = o.activation});
  cv3_ = child<Conv>("cv3", ConvOptions{.in = 2 * half, .out = o.out, .activation = o.activation});
  m_ = child<Chain>("m");
  C3Options inner = o;
  inner.in = inner.out = half;
  for (Index i = 0; i < o.depth; ++i) m_->add(std::make_shared<Bottleneck>(inner));
}

TRANSFERLIB_API SppCsp::SppCsp(Index in, Index out, Activation a) : Block("SPPCSPC") {
  cv1_ = child<Conv>("cv1", ConvOptions{.in = in, .out = out, .activation = a});
  cv2_ = child<Conv>("cv2", ConvOptions{.in = in, .out = out, .activation = a});
  cv3_ = child<Conv>("cv3", ConvOptions{.in = out, .out = out, .kernel = 3, .activation = a});
  cv4_ = child<Conv>("cv4", ConvOptions{.in = out, .out = out, .activation = a});
  cv5_ = child<Conv>("cv5", ConvOptions{.in = 4 * out, .out = out, .activation = a});
  cv6_ = child<Conv>("cv6", ConvOptions{.in = out, .out = out, .kernel = 3, .activation = a});
  cv7_ = child<Conv>("cv7", ConvOptions{.in = 2 * out, .out = out, .activation = a});
}

TRANSFERLIB_API Elan::Elan(const ElanOptions& o) : Block("Elan"), every_(o.every) {
  cv1_ = child<Conv>("cv1", ConvOptions{.in = o.in, .out = o.hidden, .activation = o.activation});
  cv2_ = child<Conv>("cv2", ConvOptions{.in = o.in, .out = o.hidden, .activation = o.activation});
  Index joined = 2 * o.hidden;
  for (Index i = 0; i < o.depth; ++i) {
    m_.push_back(child<Conv>(
        detail::text("m", i),
        ConvOptions{.in = i == 0 ? o.hidden : o.inner, .out = o.inner, .kernel = 3, .activation = o.activation}));
    if ((i + 1) % every_ == 0) joined += o.inner;
  }
  cv3_ = child<Conv>("cv3", ConvOptions{.in = joined, .out = o.out, .activation = o.activation});
}

TRANSFERLIB_API Tensor Elan::forward(const Tensor& x, bool training) {
  std::vector<Tensor> all{cv1_->forward(x, training), cv2_->forward(x, training)};
  Tensor y = all[1];
  for (std::size_t i = 0; i < m_.size(); ++i) {
    y = m_[i]->forward(y, training);
    if ((static_cast<Index>(i) + 1) % every_ == 0) all.push_back(y);
  }
  std::reverse(all.begin(), all.end());
  return cv3_->forward(at::cat(all, 1), training);
}

}  // namespace transferlib::nn

namespace transferlib::detail {

TRANSFERLIB_API void start_convolutions(Module& module, std::uint64_t seed) {
  std::uint64_t number = 0;
  for (auto& item : module.named_parameters()) {
    ++number;
    if (item.value().dim() > 1) draw_start(item.value(), seed, number);
  }
}

}  // namespace transferlib::detail

#endif  // TRANSFERLIB_DEFINES

// Our own operators on the CPU against LibTorch's.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/autograd.h>
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include <transferlib/core/error.hpp>
#include <transferlib/nn/folded_convolutions.hpp>
#include <transferlib/nn/gate.hpp>
#include <transferlib/nn/interleave.hpp>
#include <transferlib/nn/modules.hpp>

namespace tl = transferlib;
using tl::Index, tl::Tensor;

namespace {

/// The largest difference as a part of the largest value.
double difference(const Tensor& got, const Tensor& want) {
  REQUIRE(got.sizes() == want.sizes());
  if (want.numel() == 0) return 0.0;
  const Tensor exact = want.to(at::kDouble);
  return ((got.to(at::kDouble) - exact).abs().max() / exact.abs().max().clamp_min(1e-12)).item<double>();
}

bool equal_bytes(const Tensor& a, const Tensor& b) {
  const Tensor x = a.contiguous(), y = b.contiguous();
  return x.nbytes() == y.nbytes() && std::memcmp(x.const_data_ptr(), y.const_data_ptr(), x.nbytes()) == 0;
}

struct Threads {
  explicit Threads(int n) { at::set_num_threads(n); }
  ~Threads() { at::set_num_threads(before); }
  int before = at::get_num_threads();
};

struct Convolution {
  Index n, c, h, w, kernel, stride, dilation = 1;
  bool bias = false, same = true;
};

/// Output and gradients of a depthwise layer: to the input, the weights and the bias.
std::vector<Tensor> ours(const Convolution& o, const Tensor& x_, const Tensor& g, at::ScalarType type) {
  tl::nn::Conv2d layer({.in = o.c,
                        .out = o.c,
                        .kernel = o.kernel,
                        .stride = o.stride,
                        .padding = 1,
                        .same = o.same,
                        .dilation = o.dilation,
                        .groups = o.c,
                        .bias = o.bias});
  at::manual_seed(5);
  {
    const at::NoGradGuard guard;
    layer.weight.normal_();
    if (o.bias) layer.bias.normal_();
  }
  const Tensor x = x_.to(type).requires_grad_();
  const Tensor y = layer.forward(x);
  REQUIRE(y.scalar_type() == type);
  REQUIRE(y.grad_fn()->name().find("DepthwiseFunction") != std::string::npos);
  std::vector<Tensor> inputs{x, layer.weight}, out{y};
  if (o.bias) inputs.push_back(layer.bias);
  for (const Tensor& t : torch::autograd::grad({y}, inputs, {g.to(type)})) out.push_back(t);
  return out;
}

/// The same by LibTorch in double precision.
std::vector<Tensor> theirs(const Convolution& o, const Tensor& x_, const Tensor& g) {
  at::manual_seed(5);
  const Tensor weight = at::empty({o.c, 1, o.kernel, o.kernel}).normal_().to(at::kDouble).requires_grad_();
  Tensor bias;
  if (o.bias) bias = at::empty({o.c}).normal_().to(at::kDouble).requires_grad_();
  const Tensor x = x_.to(at::kDouble).requires_grad_();
  tl::nn::SamePadding h(1), w(1);
  if (o.same) {
    h = {o.h, o.kernel, o.stride, o.dilation};
    w = {o.w, o.kernel, o.stride, o.dilation};
  }
  const std::vector<Index> sides{o.stride, o.stride}, zeros{0, 0}, dilations{o.dilation, o.dilation};
  const Tensor y = at::conv2d(at::constant_pad_nd(x, {w.before, w.after, h.before, h.after}), weight, bias, sides,
                              zeros, dilations, o.c);
  std::vector<Tensor> inputs{x, weight}, out{y};
  if (o.bias) inputs.push_back(bias);
  for (const Tensor& t : torch::autograd::grad({y}, inputs, {g.to(at::kDouble)})) out.push_back(t);
  return out;
}

Tensor output_gradient(const Convolution& o) {
  const auto side = [&](Index in) {
    return o.same ? (in + o.stride - 1) / o.stride : (in + 1 - (o.kernel - 1) * o.dilation) / o.stride + 1;
  };
  return at::randn({o.n, o.c, side(o.h), side(o.w)});
}

const std::vector<Convolution> convolutions{
    {2, 32, 12, 12, 3, 1},
    {3, 19, 7, 9, 3, 2},
    {1, 5, 1, 1, 3, 1},
    {1, 70, 3, 3, 5, 1},
    {2, 48, 13, 12, 5, 2},
    {2, 16, 14, 14, 7, 1, 1, true},
    {20, 33, 6, 5, 3, 1, 2, true},
    {2, 130, 9, 16, 3, 2, 2},
    {1, 8, 70, 5, 3, 1, 1, true},
    {2, 24, 10, 11, 3, 2, 1, false, false},
    {2, 24, 11, 10, 5, 3},
    {18, 3, 5, 5, 7, 2, 1, true},
};

}  // namespace

TEST_CASE("depthwise convolutions and their gradients are LibTorch's") {
  for (const Convolution& o : convolutions) {
    CAPTURE(o.n, o.c, o.h, o.w, o.kernel, o.stride, o.dilation, o.bias, o.same);
    at::manual_seed(1);
    Tensor x = at::randn({o.n, o.c, o.h, o.w});
    if (o.c % 2 == 0) x = x.contiguous(at::MemoryFormat::ChannelsLast);  // the others are made so
    const Tensor g = output_gradient(o);
    const auto want = theirs(o, x, g);
    for (const auto type : {at::kFloat, at::kBFloat16}) {
      const auto got = ours(o, x, g, type);
      REQUIRE(got.size() == want.size());
      for (std::size_t i = 0; i < want.size(); ++i) {
        CAPTURE(i, type);
        CHECK(difference(got[i], want[i]) < (type == at::kFloat ? 1e-5 : 1e-2));
      }
    }
  }
}

TEST_CASE("rows of outputs of every width") {
  for (Index width = 1; width <= 33; ++width) {
    CAPTURE(width);
    const Convolution o{2, 20, 3, width, 3, 1};
    at::manual_seed(9);
    const Tensor x = at::randn({o.n, o.c, o.h, o.w}), g = output_gradient(o);
    const auto want = theirs(o, x, g), got = ours(o, x, g, at::kFloat);
    for (std::size_t i = 0; i < want.size(); ++i) CHECK(difference(got[i], want[i]) < 1e-5);
  }
}

TEST_CASE("a depthwise convolution's gradients are its finite differences") {
  // It is linear in its input and in its weights: a difference over any distance is the derivative.
  const Convolution o{2, 5, 6, 7, 3, 2};
  at::manual_seed(2);
  const Tensor x = at::randn({o.n, o.c, o.h, o.w}), g = output_gradient(o), direction = at::randn_like(x);
  const auto at_x = ours(o, x, g, at::kFloat), moved = ours(o, x + direction, g, at::kFloat);
  const double rise = ((moved[0] - at_x[0]) * g).sum().item<double>();
  CHECK(std::abs(rise - (at_x[1] * direction).sum().item<double>()) < 1e-4 * std::max(1.0, std::abs(rise)));
  at::manual_seed(5);
  const Tensor weight = at::empty_like(at_x[2]).normal_();
  const double whole = (at_x[0] * g).sum().item<double>();  // y = W x: the sum is the gradient times W
  CHECK(std::abs(whole - (at_x[2] * weight).sum().item<double>()) < 1e-4 * std::max(1.0, std::abs(whole)));
}

TEST_CASE("depthwise convolutions give the same bytes with any number of threads") {
  const Convolution o{37, 75, 9, 8, 5, 2, 1, true};
  at::manual_seed(3);
  const Tensor x = at::randn({o.n, o.c, o.h, o.w}), g = output_gradient(o);
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    const auto first = ours(o, x, g, type);
    for (const int threads : {1, 2, 4}) {
      const Threads now(threads);
      const auto again = ours(o, x, g, type);
      for (std::size_t i = 0; i < first.size(); ++i) CHECK(equal_bytes(first[i], again[i]));
    }
  }
}

TEST_CASE("a depthwise convolution of no picture") {
  const Convolution o{0, 8, 6, 6, 3, 1, 1, true};
  const auto got = ours(o, at::randn({0, 8, 6, 6}), at::randn({0, 8, 6, 6}), at::kFloat);
  CHECK(got[0].sizes() == at::IntArrayRef({0, 8, 6, 6}));
  CHECK(got[2].abs().sum().item<double>() == 0.0);
  CHECK(got[3].abs().sum().item<double>() == 0.0);
}

TEST_CASE("the gradient of a depthwise convolution's gradient is refused") {
  tl::nn::Conv2d layer({.in = 4, .out = 4, .kernel = 3, .padding = 1, .groups = 4});
  const Tensor x = at::randn({1, 4, 5, 5}).requires_grad_();
  CHECK_THROWS_WITH(torch::autograd::grad({layer.forward(x).sum()}, {x}, {}, true, true),
                    Catch::Matchers::ContainsSubstring("create_graph"));
}

TEST_CASE("without gradients a depthwise convolution is LibTorch's") {
  tl::nn::Conv2d layer({.in = 4, .out = 4, .kernel = 3, .padding = 1, .groups = 4});
  const at::NoGradGuard guard;
  CHECK(layer.forward(at::randn({1, 4, 5, 5})).grad_fn() == nullptr);
}

namespace {

struct Norm {
  Index n, c, h, w;
  tl::Activation activation;
};

/// Output, gradients to the input, the weight and the bias, and the running statistics.
std::vector<Tensor> trained(const Norm& o, const Tensor& x_, const Tensor& g, at::ScalarType type, bool by_libtorch) {
  tl::nn::BatchNorm2d layer(o.c, 1e-3, 0.2);
  at::manual_seed(6);
  {
    const at::NoGradGuard guard;
    layer.weight.uniform_(0.5, 2.0);
    layer.bias.normal_();
    layer.running_var.uniform_(1.0, 2.0);
    if (by_libtorch) layer.to(at::kDouble);
  }
  const Tensor x = x_.to(by_libtorch ? at::kDouble : type).requires_grad_();
  Tensor y;
  if (by_libtorch) {
    y = tl::activate(
        at::batch_norm(x, layer.weight, layer.bias, layer.running_mean, layer.running_var, true, 0.2, 1e-3, false),
        o.activation);
  } else {
    y = layer.forward(x, true, o.activation);
    REQUIRE(y.scalar_type() == type);
    REQUIRE(layer.batches.item<Index>() == 1);
  }
  std::vector<Tensor> out{y};
  for (const Tensor& t : torch::autograd::grad({y}, {x, layer.weight, layer.bias}, {g.to(y.scalar_type())}))
    out.push_back(t);
  out.push_back(layer.running_mean);
  out.push_back(layer.running_var);
  return out;
}

const std::vector<Norm> norms{{2, 1, 5, 4, tl::Activation::relu},        {3, 3, 7, 5, tl::Activation::leaky_relu},
                              {2, 8, 9, 9, tl::Activation::leaky_relu},  {1, 17, 6, 11, tl::Activation::relu6},
                              {4, 24, 8, 8, tl::Activation::identity},   {2, 40, 5, 5, tl::Activation::relu6},
                              {16, 96, 33, 31, tl::Activation::relu},    {2, 130, 3, 7, tl::Activation::silu},
                              {2, 1280, 2, 2, tl::Activation::identity}, {2, 64, 1, 1, tl::Activation::hardswish},
                              {3, 24, 9, 11, tl::Activation::hardswish}, {2, 17, 5, 8, tl::Activation::mish},
                              {5, 48, 7, 7, tl::Activation::mish},       {1, 3, 13, 4, tl::Activation::silu},
                              {2, 6, 4, 4, tl::Activation::gelu}};

}  // namespace

TEST_CASE("batch norm in training and the activation behind it are LibTorch's") {
  for (const Norm& o : norms) {
    at::manual_seed(7);
    // Means far from 0, which sums of squares do not like.
    const Tensor x = (at::randn({o.n, o.c, o.h, o.w}) + 30.0 * at::randn({1, o.c, 1, 1}))
                         .contiguous(o.c % 2 == 0 ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous);
    const Tensor g = at::randn({o.n, o.c, o.h, o.w});
    CAPTURE(o.n, o.c, o.h, o.w, tl::to_string(o.activation));
    const auto want = trained(o, x, g, at::kFloat, true), fp32 = trained(o, x, g, at::kFloat, false);
    const bool known = o.activation != tl::Activation::gelu;
    REQUIRE(fp32[0].grad_fn()->name().find(known ? "BatchNormFunction" : "Gelu") != std::string::npos);
    for (std::size_t i = 0; i < want.size(); ++i) {
      CAPTURE(i);
      CHECK(difference(fp32[i], want[i]) <= 2e-5);
    }
    const Tensor rounded = x.to(at::kBFloat16);
    const auto exact = trained(o, rounded.to(at::kFloat), g.to(at::kBFloat16).to(at::kFloat), at::kFloat, true);
    const auto bf16 = trained(o, rounded, g, at::kBFloat16, false);
    for (std::size_t i = 0; i < want.size(); ++i) {
      CAPTURE(i);
      CHECK(difference(bf16[i], exact[i]) <= 2e-2);
    }
  }
}

TEST_CASE("the activation behind a batch norm in training at its bends and far away") {
  using tl::Activation;
  // A norm that changes nothing: of the values -1 and 1, in pairs, scaled and shifted to where it is looked at.
  for (const auto activation : {Activation::hardswish, Activation::silu, Activation::mish, Activation::relu6}) {
    for (const double at : {-1000.0, -100.0, -30.0, -3.5, -2.5, -0.5, 0.5, 2.5, 3.5, 5.5, 30.0, 100.0, 1000.0}) {
      CAPTURE(tl::to_string(activation), at);
      tl::nn::BatchNorm2d layer(1, 0.0);
      {
        const at::NoGradGuard guard;
        layer.weight.fill_(0.25);
        layer.bias.fill_(at);
      }
      const Tensor x = at::tensor({-1.0F, 1.0F, -1.0F, 1.0F}).view({1, 1, 2, 2}),
                   g = at::tensor({1.0F, 2.0F, 3.0F, 5.0F}).view({1, 1, 2, 2});
      const Tensor y = layer.forward(x, true, activation);
      const Tensor z = (x.to(at::kDouble) * 0.25 + at).requires_grad_(), exact = tl::activate(z, activation);
      CHECK(at::allclose(y.to(at::kDouble), exact, 2e-6, 1e-7));
      const Tensor to_bias = torch::autograd::grad({y}, {layer.bias}, {g})[0],
                   to_z = torch::autograd::grad({exact}, {z}, {g.to(at::kDouble)})[0];
      CHECK(at::allclose(to_bias.to(at::kDouble), to_z.sum().view({1}), 2e-6, 1e-6));
    }
  }
}

TEST_CASE("batch norm in training gives the same bytes with any number of threads") {
  const Norm o{16, 24, 40, 40, tl::Activation::leaky_relu};
  at::manual_seed(8);
  const Tensor x = at::randn({o.n, o.c, o.h, o.w}), g = at::randn_like(x);
  std::vector<Tensor> one, three;
  {
    const Threads threads(1);
    one = trained(o, x, g, at::kFloat, false);
  }
  {
    const Threads threads(3);
    three = trained(o, x, g, at::kFloat, false);
  }
  for (std::size_t i = 0; i < one.size(); ++i) CHECK(equal_bytes(one[i], three[i]));
}

TEST_CASE("batch norm in training keeps a NaN, leaves double precision to LibTorch, and has no second gradient") {
  tl::nn::BatchNorm2d layer(4);
  Tensor x = at::randn({2, 4, 3, 3});
  x[0][1][0][0] = std::nan("");
  const Tensor y = layer.forward(x, true, tl::Activation::relu6);
  CHECK(at::isnan(y.select(1, 1)).all().item<bool>());
  CHECK(at::isfinite(y.select(1, 0)).all().item<bool>());
  for (const auto curve : {tl::Activation::hardswish, tl::Activation::silu, tl::Activation::mish}) {
    CAPTURE(tl::to_string(curve));
    const Tensor curved = layer.forward(x, true, curve);
    CHECK(at::isnan(curved.select(1, 1)).all().item<bool>());
    CHECK(at::isfinite(curved.select(1, 0)).all().item<bool>());
    CHECK(at::isnan(torch::autograd::grad({curved.sum()}, {layer.bias})[0][1]).item<bool>());
  }
  tl::nn::BatchNorm2d exact(4);
  exact.to(at::kDouble);
  CHECK(exact.forward(at::randn({2, 4, 3, 3}, at::kDouble), true).scalar_type() == at::kDouble);
  const Tensor z = at::randn({2, 4, 3, 3}).requires_grad_();
  CHECK_THROWS_WITH(
      torch::autograd::grad({layer.forward(z, true).sum()}, {z}, {}, {}, true),
      Catch::Matchers::ContainsSubstring("a batch norm in training was asked for the gradient of its gradient"));
}

TEST_CASE("pictures with their channels together are LibTorch's conversions, to the bit") {
  for (const auto type : {at::kBFloat16, at::kFloat})
    for (const Index channels : {1, 2, 3, 4, 5})
      for (const Index width : {1, 7, 16, 33}) {
        CAPTURE(type, channels, width);
        at::manual_seed(14);
        Tensor x = at::randn({3, channels, 5, width});
        x[1][0][2][0] = std::nan("");
        x[2][0][4][width - 1] = std::numeric_limits<float>::infinity();
        const Tensor want = x.to(type).contiguous(at::MemoryFormat::ChannelsLast);
        const Tensor part = at::cat({at::zeros({1, channels, 5, width}), x}).narrow(0, 1, 3);
        const Tensor sliced = at::cat({x, x}, 3).narrow(3, 0, width);
        for (const int threads : {1, 3}) {
          const Threads now(threads);
          for (const Tensor& from : {x, part, sliced, want.to(at::kFloat)}) {
            const Tensor got = tl::detail::channels_together(from, type);
            CHECK(got.is_contiguous(at::MemoryFormat::ChannelsLast));
            CHECK(got.sizes() == want.sizes());
            // Of the many NaNs LibTorch itself gives one or another.
            CHECK(equal_bytes(at::isnan(got), at::isnan(want)));
            CHECK(equal_bytes(at::where(at::isnan(got), 0, got), at::where(at::isnan(want), 0, want)));
          }
        }
      }
  CHECK(tl::detail::channels_together(at::ones({2, 3}), at::kBFloat16).scalar_type() == at::kBFloat16);
  CHECK(tl::detail::channels_together(at::empty({0, 3, 4, 4}), at::kBFloat16).sizes() == at::IntArrayRef({0, 3, 4, 4}));
}

namespace {

/// A squeeze-and-excitation in training: the result and the gradients to the map, the means where they are given, the
/// weights and the biases.
struct Excitation {
  Index n, c, h, w, squeezed;
  tl::Activation between, behind;
  bool bias = true, means = false, map_learns = true, reduce_learns = true;
};

std::vector<Tensor> excited(const Excitation& o, const Tensor& x_, const Tensor& g, at::ScalarType type,
                            bool by_libtorch) {
  at::manual_seed(11);
  const auto leaf = [&](const Tensor& t, at::ScalarType own, bool learns) {
    return t.to(by_libtorch ? at::kDouble : own).detach().clone().requires_grad_(learns);
  };
  const Tensor w1 = leaf(at::randn({o.squeezed, o.c, 1, 1}) / std::sqrt(double(o.c)), at::kFloat, o.reduce_learns),
               w2 = leaf(at::randn({o.c, o.squeezed, 1, 1}), at::kFloat, true),
               b1 = o.bias ? leaf(at::randn({o.squeezed}), at::kFloat, o.reduce_learns) : Tensor(),
               b2 = o.bias ? leaf(at::randn({o.c}), at::kFloat, true) : Tensor(), x = leaf(x_, type, o.map_learns),
               means = o.means ? leaf(at::randn({o.n, o.c, 1, 1}), at::kFloat, o.map_learns) : Tensor();
  Tensor y;
  if (by_libtorch) {
    const Tensor squeezed = o.means ? means : at::mean(x, {2, 3}, true);
    y = x * tl::activate(at::conv2d(tl::activate(at::conv2d(squeezed, w1, b1), o.between), w2, b2), o.behind);
  } else {
    REQUIRE(tl::detail::squeeze_excitation_applies(x, w1, w2));
    y = tl::detail::squeeze_excitation(x, means, w1, b1, w2, b2, {o.between, o.behind});
    REQUIRE(y.scalar_type() == type);
    REQUIRE(y.is_contiguous(at::MemoryFormat::ChannelsLast));
  }
  std::vector<Tensor> inputs, out{y};
  for (const Tensor& t : {x, means, w1, w2, b1, b2})
    if (t.defined() && t.requires_grad()) inputs.push_back(t);
  for (const Tensor& t : torch::autograd::grad({y}, inputs, {g.to(y.scalar_type())})) out.push_back(t);
  return out;
}

}  // namespace

TEST_CASE("squeeze-and-excitation in training is LibTorch's calls and their gradients") {
  using tl::Activation;
  for (const Excitation& o :
       std::vector<Excitation>{{2, 16, 7, 7, 8, Activation::relu, Activation::hardsigmoid},
                               {3, 17, 5, 6, 4, Activation::silu, Activation::sigmoid},
                               {1, 144, 14, 14, 40, Activation::relu, Activation::hardsigmoid, true, true, false},
                               {2, 5, 3, 4, 2, Activation::hardswish, Activation::sigmoid, false, true},
                               {4, 24, 4, 4, 6, Activation::relu, Activation::sigmoid, true, false, true, false},
                               {5, 33, 1, 1, 9, Activation::hardsigmoid, Activation::silu, false},
                               {2, 64, 9, 8, 16, Activation::silu, Activation::relu, true, false, false}}) {
    CAPTURE(o.n, o.c, o.h, o.w, o.bias, o.means, o.map_learns, o.reduce_learns, tl::to_string(o.between));
    at::manual_seed(12);
    Tensor x = at::randn({o.n, o.c, o.h, o.w}).to(at::kBFloat16).to(at::kFloat);
    if (o.c % 2 == 0) x = x.contiguous(at::MemoryFormat::ChannelsLast);
    const Tensor g = at::randn({o.n, o.c, o.h, o.w}).to(at::kBFloat16).to(at::kFloat);
    const auto want = excited(o, x, g, at::kFloat, true);
    for (const auto type : {at::kFloat, at::kBFloat16}) {
      const auto got = excited(o, x, g, type, false);
      REQUIRE(got.size() == want.size());
      REQUIRE(got.size() == std::size_t(2 + (o.bias ? 1 : 0) + (o.map_learns ? 1 + o.means : 0) +
                                        (o.reduce_learns ? 1 + o.bias : 0)));
      for (std::size_t i = 0; i < want.size(); ++i) {
        CAPTURE(i, type);
        CHECK(difference(got[i], want[i]) < (type == at::kFloat ? 1e-5 : 1e-2));
      }
      // The two layers compute in float32 whatever the map is: their gradients are as exact.
      if (type == at::kBFloat16) CHECK(difference(got.back(), want.back()) < 1e-5);
      for (const int threads : {1, 2, 4}) {
        const Threads now(threads);
        const auto again = excited(o, x, g, type, false);
        CHECK(equal_bytes(again[0], got[0]));
        if (o.map_learns) CHECK(equal_bytes(again[1], got[1]));
      }
    }
  }
}

TEST_CASE("squeeze-and-excitation in training keeps a NaN, ignores autocast and has no second gradient") {
  const Tensor w1 = at::ones({2, 4, 1, 1}).requires_grad_(), w2 = at::ones({4, 2, 1, 1});
  Tensor map = at::ones({2, 4, 3, 3});
  map[0][1][0][0] = std::nan("");
  const auto call = [&](const Tensor& x) {
    return tl::detail::squeeze_excitation(x, {}, w1, {}, w2, {}, {tl::Activation::relu, tl::Activation::sigmoid});
  };
  const Tensor y = call(map);
  CHECK(at::isnan(y[0]).all().item<bool>());
  CHECK(at::isfinite(y[1]).all().item<bool>());
  const Tensor x = at::randn({2, 4, 3, 3}).requires_grad_(), plain = call(x);
  at::autocast::set_autocast_enabled(at::kCPU, true);
  const Tensor automatic = call(x);
  at::autocast::set_autocast_enabled(at::kCPU, false);
  CHECK(equal_bytes(automatic, plain));
  CHECK_THROWS_WITH(torch::autograd::grad({plain.sum()}, {x}, {}, {}, true),
                    Catch::Matchers::ContainsSubstring("create_graph"));
  const at::NoGradGuard guard;
  CHECK_FALSE(tl::detail::squeeze_excitation_applies(x, w1, w2));
}

TEST_CASE("means over all places that a gradient passes are LibTorch's") {
  for (const auto type : {at::kFloat, at::kBFloat16})
    for (const bool keep : {false, true}) {
      CAPTURE(type, keep);
      at::manual_seed(13);
      const Tensor x = at::randn({3, 21, 6, 5}).to(type).requires_grad_(),
                   exact = x.detach().to(at::kDouble).requires_grad_();
      const Tensor y = tl::detail::mean_of_places(x, keep, at::kFloat), want = at::mean(exact, {2, 3}, keep);
      CHECK(y.scalar_type() == at::kFloat);
      CHECK(difference(y, want) < 1e-6);
      const Tensor g = at::randn_like(y);
      const Tensor got = torch::autograd::grad({y}, {x}, {g})[0];
      CHECK(got.scalar_type() == type);
      CHECK(difference(got, torch::autograd::grad({want}, {exact}, {g.to(at::kDouble)})[0]) <
            (type == at::kFloat ? 1e-6 : 5e-3));
    }
}

TEST_CASE("squeeze-and-excitation is LibTorch's four calls") {
  using tl::Activation;
  const std::vector<std::pair<Activation, Activation>> activations{{Activation::relu, Activation::hardsigmoid},
                                                                   {Activation::silu, Activation::sigmoid},
                                                                   {Activation::hardswish, Activation::relu6},
                                                                   {Activation::identity, Activation::identity}};
  Index number = 0;
  for (const auto& [n, c, side, squeezed] :
       {std::array<Index, 4>{1, 16, 7, 8}, {9, 72, 5, 24}, {6, 17, 3, 5}, {3, 240, 14, 64}, {2, 5, 1, 1}, {0, 8, 4, 4}})
    for (const bool bias : {true, false}) {
      const auto [between, behind] = activations[static_cast<std::size_t>(number++ % 4)];
      CAPTURE(n, c, side, squeezed, bias, tl::to_string(between), tl::to_string(behind));
      at::manual_seed(10 + number);
      const Tensor w1 = at::randn({squeezed, c}) / std::sqrt(double(c)), w2 = at::randn({c, squeezed}),
                   b1 = bias ? at::randn({squeezed}) : Tensor(), b2 = bias ? at::randn({c}) : Tensor();
      for (const auto type : {at::kFloat, at::kBFloat16}) {
        const tl::detail::Gate gate({w1, b1, between, type}, {w2, b2, behind, type});
        const Tensor x = at::randn({n, c, side, side + 1}).to(type);  // not channels last: made so
        const Tensor exact = x.to(at::kDouble), first = w1.to(type).to(at::kDouble), last = w2.to(type).to(at::kDouble);
        const auto shift = [](const Tensor& b) { return b.defined() ? b.to(at::kDouble) : b; };
        const Tensor factors = tl::activate(
            at::linear(tl::activate(at::linear(exact.mean({2, 3}), first, shift(b1)), between), last, shift(b2)),
            behind);
        Tensor got = x.clone();
        gate(got);
        CHECK(got.scalar_type() == type);
        CHECK(difference(got, exact * factors.view({n, c, 1, 1})) < (type == at::kFloat ? 1e-5 : 5e-3));
        // A picture by itself, and with any number of threads: the same bytes.
        for (const int threads : {1, 2, 4}) {
          const Threads now(threads);
          Tensor again = x.clone(), alone = x.narrow(0, 0, std::min<Index>(n, 1)).clone();
          gate(again);
          gate(alone);
          CHECK(equal_bytes(again, got));
          CHECK(equal_bytes(alone, got.narrow(0, 0, alone.size(0))));
        }
      }
    }
}

TEST_CASE("a NaN passes squeeze-and-excitation") {
  for (const auto activation : {tl::Activation::relu, tl::Activation::hardsigmoid, tl::Activation::silu}) {
    CAPTURE(tl::to_string(activation));
    const tl::detail::Gate gate({at::ones({4, 4}), {}, tl::Activation::relu6, at::kFloat},
                                {at::ones({4, 4}), {}, activation, at::kFloat});
    Tensor x = at::ones({2, 4, 3, 3});
    x[0][1][0][0] = std::nan("");
    gate(x);
    CHECK(at::isnan(x[0]).all().item<bool>());
    CHECK(at::isfinite(x[1]).all().item<bool>());
  }
}

namespace {

/// A convolution and its activation in double precision, of values that are rounded to bfloat16.
Tensor convolved(const tl::nn::Conv2dOptions& o, const Tensor& x, const Tensor& weight, const Tensor& bias,
                 tl::Activation activation) {
  tl::nn::SamePadding h{o.padding}, w{o.padding};
  if (o.same) {
    h = {x.size(2), o.kernel, o.stride, 1};
    w = {x.size(3), o.kernel, o.stride, 1};
  }
  const Tensor padded = at::constant_pad_nd(x.to(at::kDouble), {w.before, w.after, h.before, h.after});
  return tl::activate(at::conv2d(padded, weight, bias, o.stride, at::IntArrayRef{0}, 1, o.groups), activation);
}

/// Checks maps against exact ones, and that a picture by itself, and any number of threads, give the same bytes.
template <class Layer>
void check_layer(const Layer& layer, const Tensor& x, const Tensor& exact) {
  const Tensor got = layer(x);
  CHECK(got.scalar_type() == at::kBFloat16);
  CHECK(difference(got, exact) < 5e-3);
  const Index last = std::max<Index>(0, x.size(0) - 1);
  for (const int threads : {1, 2, 4}) {
    const Threads now(threads);
    CHECK(equal_bytes(layer(x), got));
    CHECK(equal_bytes(layer(x.slice(0, last)), got.slice(0, last)));
  }
}

Tensor rounded(at::IntArrayRef sizes) { return at::randn(sizes).to(at::kBFloat16).to(at::kDouble); }

}  // namespace

TEST_CASE("a depthwise convolution in inference is LibTorch's") {
  using tl::Activation, tl::detail::FoldedDepthwiseLayer;
  if (tl::detail::kernels().bf16.folded_depthwise == nullptr) SKIP("this processor has no kernel for it");
  struct Case {
    Index n, c, h, w, kernel, stride, padding;
    bool same;
    Activation activation;
  };
  for (const Case& o : std::vector<Case>{{2, 16, 28, 28, 3, 2, 1, false, Activation::relu},
                                         {3, 72, 14, 14, 5, 1, 2, false, Activation::hardswish},
                                         {1, 33, 7, 9, 5, 2, 0, true, Activation::silu},
                                         {2, 64, 8, 7, 7, 1, 3, false, Activation::identity},
                                         {5, 96, 4, 4, 7, 2, 0, true, Activation::relu6},
                                         {2, 31, 11, 13, 3, 1, 0, false, Activation::sigmoid},
                                         {1, 8, 1, 1, 5, 1, 2, false, Activation::hardsigmoid},
                                         {1, 40, 2, 30, 7, 1, 0, true, Activation::hardswish},
                                         {1, 1, 17, 3, 3, 2, 0, false, Activation::relu},
                                         {1, 160, 40, 41, 3, 2, 0, true, Activation::relu},
                                         {0, 8, 4, 4, 3, 1, 1, false, Activation::relu}})
    for (const bool bias : {true, false}) {
      CAPTURE(o.n, o.c, o.h, o.w, o.kernel, o.stride, tl::to_string(o.activation), bias);
      const tl::nn::Conv2dOptions options{.in = o.c,
                                          .out = o.c,
                                          .kernel = o.kernel,
                                          .stride = o.stride,
                                          .padding = o.padding,
                                          .same = o.same,
                                          .groups = o.c};
      REQUIRE(FoldedDepthwiseLayer::applies(options, o.activation, at::kBFloat16));
      at::manual_seed(o.c + o.kernel);
      const Tensor weight = rounded({o.c, 1, o.kernel, o.kernel}), shift = bias ? rounded({o.c}) : Tensor(),
                   x = rounded({o.n, o.c, o.h, o.w}).to(at::kBFloat16);
      check_layer(FoldedDepthwiseLayer(weight, shift, options, o.activation), x,
                  convolved(options, x, weight, shift, o.activation));
    }
}

TEST_CASE("a first convolution in inference, with a depthwise one and without, is LibTorch's") {
  using tl::Activation, tl::detail::FoldedFirstLayer;
  if (tl::detail::kernels().bf16.folded_first == nullptr) SKIP("this processor has no kernel for it");
  struct Case {
    Index n, c, h, w, out, kernel, stride, padding;
    bool same;
    Activation activation;
    Index then;  ///< stride
  };
  for (const Case& o : std::vector<Case>{{3, 3, 64, 64, 16, 3, 2, 1, false, Activation::hardswish, 2},
                                         {2, 3, 45, 38, 32, 3, 2, 0, true, Activation::relu6, 1},
                                         {1, 3, 70, 51, 40, 7, 2, 3, false, Activation::relu, 1},
                                         {2, 1, 9, 33, 8, 5, 1, 2, false, Activation::silu, 2},
                                         {1, 4, 32, 32, 24, 4, 4, 0, false, Activation::identity, 1},
                                         {1, 2, 3, 5, 17, 3, 1, 1, false, Activation::relu, 2},
                                         {1, 3, 1, 1, 16, 3, 2, 1, false, Activation::sigmoid, 1},
                                         {0, 3, 8, 8, 16, 3, 2, 1, false, Activation::relu, 1}})
    for (const bool bias : {true, false})
      for (const bool same : {true, false}) {
        CAPTURE(o.n, o.c, o.h, o.w, o.out, o.kernel, o.stride, tl::to_string(o.activation), bias, same);
        const tl::nn::Conv2dOptions options{
            .in = o.c, .out = o.out, .kernel = o.kernel, .stride = o.stride, .padding = o.padding, .same = o.same};
        const tl::nn::Conv2dOptions then{
            .in = o.out, .out = o.out, .kernel = 3, .stride = o.then, .padding = 1, .same = same, .groups = o.out};
        REQUIRE(FoldedFirstLayer::applies(options, o.activation, at::kBFloat16));
        REQUIRE(FoldedFirstLayer::takes(then, Activation::relu));
        at::manual_seed(o.h + o.w);
        const Tensor weight = rounded({o.out, o.c, o.kernel, o.kernel}), shift = bias ? rounded({o.out}) : Tensor(),
                     taps = rounded({o.out, 1, 3, 3}), x = rounded({o.n, o.c, o.h, o.w}).to(at::kBFloat16);
        FoldedFirstLayer layer(weight, shift, options, o.activation);
        const Tensor map = convolved(options, x, weight, shift, o.activation);
        check_layer(layer, x, map);
        layer.follow(taps, shift, then, Activation::relu);
        check_layer(layer, x, convolved(then, map.to(at::kBFloat16), taps, shift, Activation::relu));
      }
}

TEST_CASE("a map that is too small for a convolution in inference is refused") {
  if (tl::detail::kernels().bf16.folded_depthwise == nullptr) SKIP("this processor has no kernel for it");
  const tl::detail::FoldedDepthwiseLayer layer(
      at::ones({8, 1, 5, 5}), {}, {.in = 8, .out = 8, .kernel = 5, .stride = 2, .groups = 8}, tl::Activation::relu);
  CHECK(layer(at::ones({1, 8, 5, 6}, at::kBFloat16)).sizes() == at::IntArrayRef({1, 8, 1, 1}));
  CHECK_THROWS_WITH(layer(at::ones({1, 8, 9, 4}, at::kBFloat16)),
                    Catch::Matchers::ContainsSubstring("a map of 4 places a side is too small for a convolution of 5"));
}

TEST_CASE("convolutions in inference keep a NaN to its picture and channel") {
  using tl::Activation, tl::detail::FoldedDepthwiseLayer;
  if (tl::detail::kernels().bf16.folded_depthwise == nullptr) SKIP("this processor has no kernel for it");
  for (const auto activation : {Activation::relu, Activation::hardswish, Activation::silu}) {
    CAPTURE(tl::to_string(activation));
    const FoldedDepthwiseLayer layer(at::ones({40, 1, 3, 3}), {},
                                     {.in = 40, .out = 40, .kernel = 3, .padding = 1, .groups = 40}, activation);
    Tensor x = at::ones({2, 40, 6, 6}, at::kBFloat16);
    x[0][33][2][2] = std::nan("");
    const Tensor y = layer(x);
    CHECK(at::isnan(y[0][33].narrow(0, 1, 3).narrow(1, 1, 3)).all().item<bool>());
    CHECK(at::isfinite(y[0][32]).all().item<bool>());
    CHECK(at::isfinite(y[0].narrow(0, 34, 6)).all().item<bool>());
    CHECK(at::isfinite(y[1]).all().item<bool>());
  }
}

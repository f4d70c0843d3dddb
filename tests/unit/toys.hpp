// What the unit tests of the spine share: small networks, pictures that can be learnt from, and byte-for-byte looks at
// a model's state.
#pragma once

#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <torch/nn/modules/activation.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/conv.h>
#include <unistd.h>

#include <transferlib/backbones/efficientnet.hpp>
#include <transferlib/data/tensors_data.hpp>
#include <transferlib/heads/vector_head.hpp>
#include <transferlib/model/classifier.hpp>
#include <transferlib/nn/plan.hpp>
#include <transferlib/weights/state_dict.hpp>

#include "folder.hpp"

// LibTorch's logging has a macro of this name, which ends the program where Catch2's counts a failure.
#undef CHECK
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

namespace toys {

namespace tl = transferlib;
using tl::Index;
using tl::Tensor;

/// A residual network with squeeze-and-excitation: a stem, a block whose skip crosses all of it, a second stage.
struct SqueezeNet : tl::Plan {
  Index skip = 0, before_gate = 0, gate = 0, gated = 0, project = 0, sum = 0;

  explicit SqueezeNet(const tl::NetworkOptions& o = {}) : Plan("SqueezeNet") {
    using tl::Activation;
    Index x = unit(0, "stem", {.in = o.in_channels, .out = 8, .kernel = 3, .stride = 2, .same = true}, "stem_norm",
                   Activation::relu6);
    skip = x;
    x = unit(x, "block.expand", {.in = 8, .out = 16}, "block.norm1", Activation::silu);
    before_gate = x;
    x = call(declare_squeeze("block.squeeze"), {x});
    x = call(declare_convolution("block.reduce", {.in = 16, .out = 4, .bias = true}), {x});
    x = call(declare_activation("block.reduce_silu", Activation::silu), {x});
    x = call(declare_convolution("block.excite", {.in = 4, .out = 16, .bias = true}), {x});
    gate = x = call(declare_activation("block.gate", Activation::sigmoid), {x});
    gated = x = multiply(before_gate, gate);
    project = x = call(declare_convolution("block.project", {.in = 16, .out = 8}), {x});
    x = call(declare_norm("block.norm2", 8), {x});
    sum = x = add(x, skip);
    end_stage(x, "tail");
    x = unit(x, "tail", {.in = 8, .out = 12, .kernel = 3, .stride = 2, .padding = 1}, "tail_norm",
             Activation::hardswish);
    end_stage(x, "classifier");
    set_map(x);
    x = call(declare_global_pool("pool"), {x});
    set_pooled(x);
    x = call(declare_dropout("dropout", 0.2), {x});
    set_logits(call(declare_linear("fc", 12, 10), {x}));
  }

 private:
  Index unit(Index x, const std::string& conv, const tl::nn::Conv2dOptions& options, const std::string& norm,
             tl::Activation activation) {
    x = call(declare_convolution(conv, options), {x});
    x = call(declare_norm(norm, options.out, 1e-3, 0.1), {x});
    return call(declare_activation(norm + "_activation", activation), {x});
  }
};

/// A user's own network: LibTorch's modules, batch norm among them, in two parts.
struct StagedNet : tl::Module {
  torch::nn::Sequential stem{nullptr}, tail{nullptr};

  explicit StagedNet(const tl::NetworkOptions& o = {}) {
    stem = register_module(
        "stem", torch::nn::Sequential(
                    torch::nn::Conv2d(torch::nn::Conv2dOptions(o.in_channels, 8, 3).stride(2).padding(1).bias(false)),
                    torch::nn::BatchNorm2d(8), torch::nn::ReLU()));
    tail = register_module(
        "tail", torch::nn::Sequential(torch::nn::Conv2d(torch::nn::Conv2dOptions(8, 12, 3).stride(2).padding(1)),
                                      torch::nn::BatchNorm2d(12), torch::nn::SiLU()));
  }
  tl::Stages stages() { return {{"stem", stem}, {"tail", tail}}; }
};

/// Gives a network weights under which its values neither die out nor explode, and batch norms that do something; all
/// drawn from `seed` alone.
inline void enliven(tl::Module& network, std::uint64_t seed = 1) {
  const torch::NoGradGuard guard;
  std::uint64_t number = 0;
  for (auto& item : tl::state_dict(network)) {
    const std::string& name = item.first;
    Tensor& tensor = item.second;
    ++number;
    if (!tensor.is_floating_point()) continue;
    const auto uniform = [&](double low, double high) {
      tensor.copy_(at::empty(tensor.sizes(), at::kFloat).uniform_(low, high, tl::detail::generator(seed, number, 99)));
    };
    const bool is_mean = name.ends_with("running_mean"), is_variance = name.ends_with("running_var");
    if (tensor.dim() > 1) {
      const double bound = std::sqrt(6.0 / static_cast<double>(tensor[0].numel()));
      uniform(-bound, bound);
    } else if (is_variance || (name.ends_with("weight") && !is_mean)) {
      uniform(0.8, 1.2);
    } else {
      uniform(-0.2, 0.2);
    }
  }
}

/// A backbone of lively weights.
template <class N>
tl::Backbone<N> lively(Index size, std::uint64_t seed = 1) {
  auto backbone = tl::Backbone<N>::random({.size = size}, seed);
  enliven(*backbone.core.network, seed);
  return backbone;
}

/// Normalised noise, as a network is given it: (n, channels, size, size), channels last.
inline Tensor noise(Index n, Index size, Index channels = 3, std::uint64_t seed = 5) {
  return at::empty({n, channels, size, size}, at::kFloat)
      .normal_(0.0, 1.0, tl::detail::generator(seed, 0, 98))
      .contiguous(at::MemoryFormat::ChannelsLast);
}

inline const tl::Labels colours{"red", "green", "blue"};

/// Noisy pictures (n, 3, size, size) uint8 in which one channel is brighter, and which one.
inline std::pair<Tensor, Tensor> coloured(Index n, Index size, std::uint64_t seed) {
  Tensor x = at::empty({n, 3, size, size}, at::kFloat).uniform_(0.0, 160.0, tl::detail::generator(seed, 1, 97));
  Tensor target = at::empty({n}, at::kLong);
  for (Index i = 0; i < n; ++i) {
    target[i] = i % 3;
    x[i][i % 3] += 60.0;
  }
  return {x.to(at::kByte), target};
}

inline tl::TensorData<tl::ClassIndex> colour_data(Index n, Index size = 16, std::uint64_t seed = 1) {
  const auto [x, target] = coloured(n, size, seed);
  return {x, target, colours};
}

inline std::vector<Index> first_ids(Index n) {
  std::vector<Index> out;
  for (Index i = 0; i < n; ++i) out.push_back(i);
  return out;
}

/// Copies of everything that a module holds.
inline std::map<std::string, Tensor> snapshot(const tl::Module& module) {
  std::map<std::string, Tensor> out;
  for (const auto& [name, tensor] : tl::state_dict(module)) out[name] = tensor.detach().clone();
  return out;
}

/// Type, shape and every bit; two NaN of the same bits are equal, 0 and -0 are not.
inline bool same_bytes(const Tensor& a, const Tensor& b) {
  if (a.scalar_type() != b.scalar_type() || a.sizes() != b.sizes()) return false;
  const Tensor x = a.detach().contiguous(), y = b.detach().contiguous();
  return std::memcmp(x.const_data_ptr(), y.const_data_ptr(), x.nbytes()) == 0;
}

inline bool same_bytes(const std::map<std::string, Tensor>& a, const std::map<std::string, Tensor>& b) {
  if (a.size() != b.size()) return false;
  for (const auto& [name, tensor] : a)
    if (b.count(name) == 0 || !same_bytes(tensor, b.at(name))) return false;
  return true;
}

/// The largest difference, relative to the largest value.
inline double difference(const Tensor& a, const Tensor& b) {
  return ((a - b).abs().max() / b.abs().max()).item<double>();
}

}  // namespace toys

/// \file
/// The inference engine: a network's steps, up to any cut, as few calls as can be. Batch norm is folded into the
/// convolution before it, a convolution takes its activation and a residual's addition along, memory is channels last,
/// weights are packed once, and arithmetic is bfloat16 where the processor has it.
///
/// What the pass does not know runs as it is. `explain()` says which is which.
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ATen/Context.h>
#include <ATen/Version.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <transferlib/core/error.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/engine/precision.hpp>
#include <transferlib/nn/folded_convolutions.hpp>
#include <transferlib/nn/gate.hpp>
#include <transferlib/nn/interleave.hpp>
#include <transferlib/nn/plan.hpp>

namespace transferlib {

/// How an engine is built.
struct EngineOptions {
  Precision precision = Precision::automatic;  ///< of a user's own network `automatic` is fp32
  bool fold = true;  ///< batch norm into convolutions; without it, fp32 gives the plain network's bytes
  Index piece = 32;  ///< pictures a call, for which the weights are packed
};

namespace detail {

/// Whether LibTorch's convolutions compute in bfloat16 natively here: by the processor, and by what the environment
/// (`ATEN_CPU_CAPABILITY`, `ONEDNN_MAX_CPU_ISA`) leaves of it.
TRANSFERLIB_API bool has_native_bf16();

/// What `automatic` means on a device.
inline Precision resolve(Precision precision, const torch::Device& device) {
  if (precision != Precision::automatic) return precision;
  if (device.is_cuda()) return Precision::fp16;
  return has_native_bf16() ? Precision::bf16 : Precision::fp32;
}

inline at::ScalarType scalar_type(Precision precision) {
  return precision == Precision::bf16 ? at::kBFloat16 : precision == Precision::fp16 ? at::kHalf : at::kFloat;
}

/// oneDNN's convolution and linear layer with what follows them, through LibTorch's dispatcher: there is no C++ header
/// for them.
struct FusedOperators {
  std::optional<c10::OperatorHandle> convolution, convolution_sum, linear, linear_sum, pack_linear, layout;

  static const FusedOperators& get();
};

/// Calls an operator on what was pushed.
inline Tensor call_boxed(const c10::OperatorHandle& op, torch::jit::Stack& stack) {
  op.callBoxed(stack);
  return stack.at(0).toTensor();
}

/// A convolution's packed weights by the size of its input: oneDNN wants another layout of them for some sizes, and a
/// call with the wrong one reorders them each time, element by element, which takes far longer than a small map's
/// convolution. Safe from several threads.
class PackedWeights {
 public:
  using Sizes = std::array<Index, 4>;

  /// \param weight packed for an input of these sizes (N, C, H, W)
  PackedWeights(Tensor weight, const Sizes& sizes, const nn::Conv2dOptions& numbers);

  /// What an input of these sizes wants; the weights are packed anew where nobody asked for that layout before.
  Tensor of(at::IntArrayRef sizes, Index pad_h, Index pad_w);

 private:
  struct Layout {
    Tensor weight, name;
  };
  static constexpr std::size_t kMostSizes = 4096;

  std::mutex mutex_;
  nn::Conv2dOptions numbers_;
  std::vector<Layout> layouts_;            ///< the first is the one that it was given
  std::map<Sizes, std::size_t> by_sizes_;  ///< which layout
};

/// An activation in oneDNN's words: name, scalars, algorithm. Empty name: it has no word for it.
struct FusedActivation {
  std::string name = "none";
  c10::List<std::optional<at::Scalar>> scalars;
  std::optional<std::string> algorithm;

  static std::optional<FusedActivation> of(Activation a);
};

}  // namespace detail

/// A network from its input up to some steps' values, compiled for inference. The weights of its convolutions and
/// linear layers are copies: what changes in the network later is not seen. Calling it is `const` and safe from several
/// threads.
class Engine {
 public:
  /// \param graph the network
  /// \param wanted the steps whose values are asked for
  /// \param input (channels, height, width) of a picture, for which the weights are packed; other sizes run too
  Engine(const Graph& graph, std::span<const Index> wanted, std::span<const Index> input, EngineOptions options = {});

  /// Pictures (N, C, H, W) float32, normalised, to the wanted values. Feature maps come in the engine's precision,
  /// pooled features in float32. On the CPU many pictures pass in pieces whose maps stay in the processor's cache.
  Activations operator()(const Tensor& pictures) const;

  /// The precision that `automatic` came to.
  Precision precision() const { return precision_; }
  const EngineOptions& options() const { return options_; }
  /// Pictures that pass at one time, at most.
  Index piece() const { return piece_; }
  /// What pictures are best prepared in: what it would turn them into first.
  at::ScalarType input_type() const { return precision_ == Precision::bf16 ? at::kBFloat16 : at::kFloat; }

  /// A line a call: which steps it covers and how it runs; then the totals.
  std::string explain() const;

  /// A call: what it computes, what it took and what it costs.
  struct Call {
    std::string what;
    double seconds = 0.0;
    Index multiply_adds = 0;
    Index bytes = 0;  ///< of the values that it reads and writes
  };
  /// How long each call takes with these pictures, or with as many of them as a piece has: the least of some rounds.
  std::vector<Call> time_calls(const Tensor& pictures, int rounds = 10) const;

  /// The bytes of values that live at one time, at most, while a piece of pictures passes; what a call takes for itself
  /// while it runs is not in it.
  Index peak_bytes() const { return peak_; }
  /// The bytes of the weights that the calls have, without what inputs of other sizes make them pack besides.
  Index weight_bytes() const { return weights_; }

 private:
  struct Instruction {
    Index step = 0;           ///< whose value it computes
    std::vector<Index> from;  ///< inputs; for a residual sum the other summand is the last
    std::vector<Index> dead;  ///< values that nobody needs after it
    Index covers = 1;         ///< steps
    Index multiply_adds = 0;  ///< of a picture
    std::string how;
    bool convolution = false, linear = false, sums = false;
    bool overwrites = false;         ///< its first input, or the other summand
    std::vector<Index> permutation;  ///< of a linear layer's value, before the sum; none: as it is
    Tensor weight, bias;             ///< packed; folded
    Tensor scale;                    ///< of a linear layer's value, which its weight has too
    torch::jit::Stack arguments;     ///< of the fused call; the inputs' places are empty
    std::shared_ptr<Module> module;
    nn::Conv2dOptions numbers;
    Activation activation = Activation::identity;
    detail::FusedActivation fused;
    std::shared_ptr<detail::PackedWeights> layouts;  ///< of `weight`, packed; none: it is not
    std::shared_ptr<const detail::Gate> gate;        ///< a whole squeeze-and-excitation, of the first input
    std::shared_ptr<const detail::FoldedDepthwiseLayer> depthwise;  ///< by a kernel of our own
    std::shared_ptr<const detail::FoldedFirstLayer> first;          ///< likewise
    Index leading = 0;  ///< rows and columns of zeros in front of the kernel; see `prepare`
  };

  static bool has_opaque(const Graph& graph) {
    return std::any_of(graph.steps.begin(), graph.steps.end(), [](const Step& s) { return s.kind == Kind::opaque; });
  }

  /// Whether the step's value never shares memory with what it is given, as dropout's does in evaluation.
  static bool makes_memory(const Step& s) {
    return s.kind == Kind::convolution || s.kind == Kind::norm || s.kind == Kind::add || s.kind == Kind::multiply ||
           (s.kind == Kind::pool && s.module == nullptr && !s.layers.empty()) ||
           (s.kind == Kind::activation && s.activation != Activation::identity);
  }

  static torch::Device device_of(const Graph& graph) {
    for (const Step& s : graph.steps)
      if (s.module != nullptr)
        for (const Tensor& p : s.module->parameters()) return p.device();
    return torch::Device(at::kCPU);
  }

  std::string name_of(Index number) const {
    const Step& s = graph_.steps[Graph::at(number)];
    return s.layers.empty() ? detail::text("step ", number) : graph_.table.rows[Graph::at(s.layers.front())].name;
  }

  void compile(std::span<const Index> input);

  /// The bytes of one picture's value.
  Index bytes_of(Index step) const {
    return c10::multiply_integers(shapes_[Graph::at(step)]) *
           static_cast<Index>(at::elementSize(detail::scalar_type(precision_)));
  }

  /// So many pictures that what a call reads and writes stays in a cache of a usual size.
  Index fitting_piece() const;

  void count_memory();

  /// Calls `call(instruction, inputs)` for each instruction's value in their order.
  template <class CallIt>
  Activations pass(const Tensor& pictures, const CallIt& call) const {
    const torch::NoGradGuard guard;
    Activations values(graph_.steps.size());
    values[0] = detail::channels_together(pictures.to(device_), detail::scalar_type(precision_));
    Activations inputs;
    for (const Instruction& i : instructions_) {
      inputs.clear();
      for (Index f : i.from) inputs.push_back(values[Graph::at(f)]);
      for (Index f : i.dead) values[Graph::at(f)] = Tensor();
      values[Graph::at(i.step)] = call(i, inputs);
    }
    Activations out;
    for (Index w : wanted_) out.push_back(values[Graph::at(w)]);
    return out;
  }
  Activations pass(const Tensor& pictures) const {
    return pass(pictures, [&](const Instruction& i, Activations& inputs) { return run(i, inputs); });
  }

  const Step& step(Index s) const { return graph_.steps[Graph::at(s)]; }

  /// A convolution's weight and bias in float64, the latter undefined where it has none.
  static std::pair<Tensor, Tensor> numbers_of(const nn::Conv2d& conv) {
    return {conv.weight.detach().to(at::kDouble), conv.bias.defined() ? conv.bias.detach().to(at::kDouble) : Tensor()};
  }

  static void fold(Tensor& weight, Tensor& bias, const nn::BatchNorm2d& norm);

  bool fuses() const {
    const auto& ops = detail::FusedOperators::get();
    return device_.is_cpu() && options_.fold && ops.convolution && ops.convolution_sum;
  }

  bool fuses_linear() const {
    const auto& ops = detail::FusedOperators::get();
    return fuses() && ops.linear && ops.linear_sum && ops.pack_linear;
  }

  /// The order in which a step puts the dimensions of a value of four; none where it does something else.
  static std::vector<Index> permutation_of(const Step& s);

  /// The factor that a step multiplies each channel by, a dimension of float64, if that is all it does: which is asked
  /// of the step itself. Undefined where it is not. \param last whether channels are the last dimension
  Tensor scale_of(const Step& s, Index of, bool last) const;

  /// Whether a product is that of a map and of a factor for each of its channels, both made by convolutions here.
  bool is_gate(const std::map<Index, Instruction>& calls, const Step& s) const;

  /// The layers of a squeeze-and-excitation that ends in the product at step `s`.
  struct GateSteps {
    Index map = 0;
    std::array<Index, 2> layers{};  ///< the convolutions, in their order
    std::array<Activation, 2> activations{Activation::identity, Activation::identity};
    std::vector<Index> covered;  ///< all steps but the product
  };
  /// Finds them, where a gate is nothing else: the means of the product's map through two layers, and nobody else asks
  /// for a value between.
  std::optional<GateSteps> gate_steps(Index s, const std::vector<std::vector<Index>>& users) const;

  /// Whether a step is the mean of each channel over all places: which is asked of the step itself.
  bool is_global_mean(Index s) const;

  bool is_wanted(Index s) const { return std::find(wanted_.begin(), wanted_.end(), s) != wanted_.end(); }

  /// Whether a step is the linear layer alone: darknet's flattens a map before.
  bool is_plain(const nn::Linear& linear, Index s) const {
    auto expected = shapes_[Graph::at(step(s).from[0])];
    if (step(s).kind != Kind::linear || expected.empty() || expected.back() != linear.weight.size(1)) return false;
    expected.back() = linear.weight.size(0);
    return expected == shapes_[Graph::at(s)];
  }

  /// Packs a linear layer's weight for a batch of pieces.
  void pack(Instruction& i, const Tensor& weight, const Tensor& bias) const;

  void prepare(Instruction& i, const Tensor& weight, const Tensor& bias) const;

  /// A linear layer, with an activation or a sum behind it. What comes in another precision than the engine's, as
  /// pooled features do, is computed in its own.
  Tensor run_linear(const Instruction& i, const Activations& inputs) const;

  Tensor run(const Instruction& i, Activations& inputs) const;

  Graph graph_;  // a copy: a model that is moved takes its engine along
  std::vector<Index> wanted_;
  EngineOptions options_;
  torch::Device device_{at::kCPU};
  Precision precision_ = Precision::fp32;
  std::vector<Instruction> instructions_;
  std::vector<std::vector<Index>> shapes_;
  Index peak_ = 0, weights_ = 0;  ///< bytes
  Index piece_ = std::numeric_limits<Index>::max();
};

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API bool has_native_bf16() {
#if defined(__x86_64__) && defined(__GNUC__)
  static const bool native = [] {
    if (at::get_cpu_capability().find("AVX512") == std::string::npos) return false;
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx512bf16")) return false;
    const auto op = c10::Dispatcher::singleton().findSchema({"mkldnn::_is_mkldnn_bf16_supported", ""});
    if (!op) return false;
    torch::jit::Stack stack;
    op->callBoxed(stack);
    return stack.at(0).toBool();
  }();
  return native;
#else
  return false;
#endif
}

TRANSFERLIB_API const FusedOperators& FusedOperators::get() {
  static const FusedOperators ops = [] {
    FusedOperators out;
    if (!at::hasMKLDNN()) return out;
    auto& all = c10::Dispatcher::singleton();
    out.convolution = all.findSchema({"mkldnn::_convolution_pointwise", ""});
    out.convolution_sum = all.findSchema({"mkldnn::_convolution_pointwise_", "binary"});
    out.linear = all.findSchema({"mkldnn::_linear_pointwise", ""});
    out.linear_sum = all.findSchema({"mkldnn::_linear_pointwise", "binary"});
    out.pack_linear = all.findSchema({"mkldnn::_reorder_linear_weight", ""});
    out.layout = all.findSchema({"mkldnn::_get_mkldnn_serialized_md", ""});
    return out;
  }();
  return ops;
}

TRANSFERLIB_API PackedWeights::PackedWeights(Tensor weight, const Sizes& sizes, const nn::Conv2dOptions& numbers)
    : numbers_(numbers), layouts_{{std::move(weight), {}}}, by_sizes_{{sizes, 0}} {}

TRANSFERLIB_API Tensor PackedWeights::of(at::IntArrayRef sizes, Index pad_h, Index pad_w) {
  const auto& layout_of = FusedOperators::get().layout;
  if (!layout_of || sizes.size() != 4) return layouts_.front().weight;
  const auto name_of = [&](const Tensor& weight) {
    torch::jit::Stack stack;
    torch::jit::push(stack, weight);
    return call_boxed(*layout_of, stack);
  };
  const std::lock_guard lock(mutex_);
  const Sizes key{sizes[0], sizes[1], sizes[2], sizes[3]};
  if (const auto found = by_sizes_.find(key); found != by_sizes_.end()) return layouts_[found->second].weight;
  Layout& first = layouts_.front();
  if (!first.name.defined()) first.name = name_of(first.weight);
  const nn::Conv2dOptions& o = numbers_;
  Layout wanted;
  // Out of the plain layout: from one packed layout to another oneDNN has no fast way.
  wanted.weight = at::mkldnn_reorder_conv2d_weight(first.weight.to_dense().to_mkldnn(), {pad_h, pad_w},
                                                   {o.stride, o.stride}, {o.dilation, o.dilation}, o.groups, sizes);
  wanted.name = name_of(wanted.weight);
  const auto same =
      std::find_if(layouts_.begin(), layouts_.end(), [&](const Layout& l) { return at::equal(l.name, wanted.name); });
  const auto which = static_cast<std::size_t>(same - layouts_.begin());
  if (same == layouts_.end()) layouts_.push_back(std::move(wanted));
  // Whoever shows pictures of ever new sizes packs now and then again what he had.
  if (by_sizes_.size() == kMostSizes) by_sizes_.clear();
  by_sizes_.emplace(key, which);
  return layouts_[which].weight;
}

TRANSFERLIB_API std::optional<FusedActivation> FusedActivation::of(Activation a) {
  FusedActivation out;
  switch (a) {
    case Activation::identity:
      return out;
    case Activation::relu:
      out.name = "relu";
      return out;
    case Activation::relu6:
      out.name = "hardtanh";
      out.scalars.push_back(at::Scalar(0.0));
      out.scalars.push_back(at::Scalar(6.0));
      return out;
    case Activation::silu:
      out.name = "swish";
      return out;
    case Activation::hardswish:
      out.name = "hardswish";
      return out;
    case Activation::hardsigmoid:
      out.name = "hardsigmoid";
      return out;
    case Activation::sigmoid:
      out.name = "sigmoid";
      return out;
    case Activation::tanh:
      out.name = "tanh";
      return out;
    case Activation::gelu:
      out.name = "gelu";
      out.algorithm = "none";
      return out;
    case Activation::leaky_relu:
      out.name = "leaky_relu";
      out.scalars.push_back(at::Scalar(0.1));
      return out;
    case Activation::mish:
      return std::nullopt;
  }
  return std::nullopt;
}

}  // namespace transferlib::detail

namespace transferlib {

TRANSFERLIB_API Engine::Engine(const Graph& graph, std::span<const Index> wanted, std::span<const Index> input,
                               EngineOptions options)
    : graph_(graph), wanted_(wanted.begin(), wanted.end()), options_(options) {
  const torch::NoGradGuard guard;
  device_ = device_of(graph);
  precision_ = detail::resolve(options.precision, device_);
  // The library does not choose for a user's own modules: they compute in float32.
  if (options.precision == Precision::automatic && has_opaque(graph)) precision_ = Precision::fp32;
  if (precision_ == Precision::fp16 && device_.is_cpu())
    throw OptionError("fp16 is for GPUs: on the CPU choose bf16, fp32 or auto");
  compile(input);
}

TRANSFERLIB_API Activations Engine::operator()(const Tensor& pictures) const {
  const Index n = pictures.size(0);
  if (n <= piece_) return pass(pictures);
  // Of one size, since a short last one takes nearly as long as a whole one.
  const Index count = (n + piece_ - 1) / piece_, each = (n + count - 1) / count;
  std::vector<Activations> parts;
  for (Index from = 0; from < n; from += each)
    parts.push_back(pass(pictures.narrow(0, from, std::min(each, n - from))));
  const torch::NoGradGuard guard;
  Activations out;
  for (std::size_t t = 0; t < wanted_.size(); ++t) {
    std::vector<Tensor> column;
    for (const Activations& part : parts) column.push_back(part[t]);
    out.push_back(at::cat(column));
  }
  return out;
}

TRANSFERLIB_API std::vector<Engine::Call> Engine::time_calls(const Tensor& pictures, int rounds) const {
  const Index n = std::min(pictures.size(0), piece_);
  std::vector<Call> out;
  for (const Instruction& i : instructions_) {
    Call& call = out.emplace_back(
        Call{i.how, std::numeric_limits<double>::infinity(), n * i.multiply_adds, n * bytes_of(i.step)});
    for (Index f : i.from) call.bytes += n * bytes_of(f);
  }
  for (int round = 0; round < rounds; ++round) {
    auto call = out.begin();
    pass(pictures.narrow(0, 0, n), [&](const Instruction& i, Activations& inputs) {
      const auto start = std::chrono::steady_clock::now();
      Tensor value = run(i, inputs);
      call->seconds =
          std::min(call->seconds, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
      ++call;
      return value;
    });
  }
  return out;
}

TRANSFERLIB_API Index Engine::fitting_piece() const {
  Index most = 1;
  const auto need = graph_.needed(wanted_);
  for (Index s = 1; s < graph_.size(); ++s) {
    if (!need[Graph::at(s)] || step(s).kind != Kind::convolution) continue;
    most = std::max(most, bytes_of(s) + bytes_of(step(s).from[0]));
  }
  // Measured: 24 MiB where the last cache has 32. Fewer than eight pictures are not worth the calls.
  const Index fit = (Index{24} << 20) / most;
  return fit >= 32 ? 32 : fit >= 16 ? 16 : 8;
}

TRANSFERLIB_API std::string Engine::explain() const {
  std::string out;
  Index fused = 0, covered = 0, plain = 0;
  for (const Instruction& i : instructions_) {
    out += i.how;
    out += '\n';
    if (i.covers > 1)
      ++fused, covered += i.covers;
    else
      ++plain;
  }
  const auto mebibytes = [](Index bytes) { return (bytes + (Index{1} << 20) - 1) >> 20; };
  return out + detail::text(instructions_.size(), " calls in ", to_string(precision_), ": ", fused, " fused of ",
                            covered, " steps, ", plain, " as they are\nmemory: at most ", mebibytes(peak_),
                            " MiB of values at a time for ", options_.piece, " pictures, ", mebibytes(weights_),
                            " MiB of weights\n");
}

TRANSFERLIB_API void Engine::compile(std::span<const Index> input) {
  const std::size_t n = graph_.steps.size();
  const auto need = graph_.needed(wanted_);
  auto [shapes, multiply_adds] = graph_.measure(input[0], input[1]);
  shapes_ = std::move(shapes);
  if (fuses()) options_.piece = std::min(options_.piece, piece_ = fitting_piece());
  std::vector<std::vector<Index>> users(n);
  for (std::size_t s = 0; s < n; ++s)
    if (need[s])
      for (Index f : graph_.steps[s].from) users[Graph::at(f)].push_back(static_cast<Index>(s));
  // The one step that takes the value of `s`, if it is of this kind and nobody else asks for that value; else 0.
  const auto follower = [&](Index s, Kind kind) -> Index {
    const auto& after = users[Graph::at(s)];
    return after.size() == 1 && !is_wanted(s) && step(after[0]).kind == kind ? after[0] : 0;
  };

  // A call computes the value of the last step that it covers, and runs where that step stands.
  std::map<Index, Instruction> calls;
  std::vector<Index> covered_by(n, 0);
  // Whether the sum at step `a` may be written over its summand `other`: a value of its own memory, which nobody
  // needs afterwards, and which everybody else who needs it has had by then.
  const auto may_overwrite = [&](Index other, Index s, Index a) {
    if (other == 0 || other >= s || is_wanted(other) || shapes_[Graph::at(other)] != shapes_[Graph::at(s)])
      return false;
    const auto producer = calls.find(other);
    if (producer == calls.end()) return false;
    const Step& last = step(other);
    const bool own =
        producer->second.convolution || last.kind == Kind::add || (last.kind == Kind::pool && !last.layers.empty());
    if (!own) return false;
    return std::all_of(users[Graph::at(other)].begin(), users[Graph::at(other)].end(), [&](Index u) {
      // A gate has read all of its map before it writes.
      if (u == a || (covered_by[Graph::at(u)] == a && step(u).kind == Kind::pool)) return true;
      return covered_by[Graph::at(u)] != 0 && covered_by[Graph::at(u)] < s && makes_memory(step(u));
    });
  };

  // Gates first: of their layers' own calls there are none.
  std::map<Index, GateSteps> gates;
  for (Index s = 1; s < graph_.size(); ++s)
    if (need[Graph::at(s)] && step(s).kind == Kind::multiply && device_.is_cpu() && options_.fold)
      if (auto found = gate_steps(s, users)) {
        for (Index t : found->covered) covered_by[Graph::at(t)] = s;
        gates.emplace(s, std::move(*found));
      }

  for (Index s = 1; s < graph_.size(); ++s) {
    if (!need[Graph::at(s)] || covered_by[Graph::at(s)] != 0) continue;
    Instruction i;
    i.step = s;
    i.from = step(s).from;
    std::vector<Index> covered{s};
    std::string parts;
    const auto cover = [&](Index t, std::string_view what) {
      covered.push_back(t);
      i.step = t;
      parts += detail::text(parts.empty() ? " with " : ", ", what);
    };
    if (const auto* conv = dynamic_cast<const nn::Conv2d*>(step(s).module.get())) {
      i.convolution = true;
      i.numbers = conv->options;
      auto [weight, bias] = numbers_of(*conv);
      const auto cover_norm = [&](Tensor& w, Tensor& b) {
        if (const Index t = follower(i.step, Kind::norm); t != 0)
          if (const auto* norm = dynamic_cast<const nn::BatchNorm2d*>(step(t).module.get())) {
            fold(w, b, *norm);
            cover(t, "batch norm");
          }
      };
      if (options_.fold) {
        cover_norm(weight, bias);
        if (const Index t = follower(i.step, Kind::add); t != 0 && fuses()) {
          const auto& terms = step(t).from;
          const Index other = terms[0] == i.step ? terms[1] : terms[0];
          if (may_overwrite(other, s, t)) {
            i.sums = i.overwrites = true;
            i.from.push_back(other);
            cover(t, "addition");
          }
        }
        // Behind an addition oneDNN knows ReLU only.
        if (const Index t = follower(i.step, Kind::activation);
            t != 0 && (!i.sums || step(t).activation == Activation::relu))
          if (const auto word = detail::FusedActivation::of(step(t).activation)) {
            i.activation = step(t).activation;
            i.fused = *word;
            cover(t, to_string(i.activation));
          }
      }
      const auto type = detail::scalar_type(precision_);
      if (fuses() && !i.sums && !detail::multiplies_tiles() &&
          detail::FoldedFirstLayer::applies(i.numbers, i.activation, type)) {
        const auto first = std::make_shared<detail::FoldedFirstLayer>(weight, bias, i.numbers, i.activation);
        if (const Index t = follower(i.step, Kind::convolution); t != 0)
          if (const auto* next = dynamic_cast<const nn::Conv2d*>(step(t).module.get());
              next != nullptr && detail::FoldedFirstLayer::takes(next->options, Activation::identity)) {
            auto [w, b] = numbers_of(*next);
            cover(t, "depthwise convolution");
            cover_norm(w, b);
            Activation last = Activation::identity;
            if (const Index a = follower(i.step, Kind::activation);
                a != 0 && detail::FoldedFirstLayer::takes(next->options, step(a).activation)) {
              last = step(a).activation;
              cover(a, to_string(last));
            }
            first->follow(w, b, next->options, last);
          }
        i.first = first;
      } else {
        prepare(i, weight, bias);
      }
    } else if (const auto* linear = dynamic_cast<const nn::Linear*>(step(s).module.get());
               linear != nullptr && fuses_linear() && is_plain(*linear, s)) {
      i.linear = true;
      i.module = step(s).module;
      Tensor weight = linear->weight.detach().to(at::kDouble), bias;
      if (linear->bias.defined()) bias = linear->bias.detach().to(at::kDouble);
      if (const Index t = follower(i.step, Kind::activation); t != 0) {
        if (const auto word = detail::FusedActivation::of(step(t).activation)) {
          i.activation = step(t).activation;
          i.fused = *word;
          cover(t, to_string(i.activation));
        }
      } else {
        // Its value in another order of dimensions, scaled: ConvNeXt's blocks end so.
        Index last = i.step;
        std::vector<Index> permutation;
        if (const Index p = follower(last, Kind::reshape); p != 0)
          if (permutation = permutation_of(step(p)); !permutation.empty()) last = p;
        if (const Index t = follower(last, Kind::parameter); t != 0 && (last == s || permutation[1] == 3))
          if (const Tensor scale = scale_of(step(t), last, last == s); scale.defined()) {
            if (last != s) cover(last, "another order");
            i.permutation = permutation;
            cover(t, "scale");
            i.scale = scale;
            weight = weight * scale.unsqueeze(1);
            if (bias.defined()) bias = bias * scale;
          }
        if (const Index t = follower(i.step, Kind::dropout); t != 0) cover(t, "dropout");
        if (const Index t = follower(i.step, Kind::add); t != 0) {
          const auto& terms = step(t).from;
          const Index other = terms[0] == i.step ? terms[1] : terms[0];
          if (other < s && shapes_[Graph::at(other)] == shapes_[Graph::at(i.step)] && other != i.step) {
            i.sums = true;
            i.from.push_back(other);
            cover(t, "addition");
          }
        }
      }
      pack(i, weight, bias);
    } else if (const auto found = gates.find(s); found != gates.end()) {
      const GateSteps& g = found->second;
      const auto layer = [&](std::size_t k) {
        const auto& conv = dynamic_cast<const nn::Conv2d&>(*step(g.layers[k]).module);
        return detail::GateLayer(conv.weight.detach().flatten(1), conv.bias.defined() ? conv.bias.detach() : Tensor(),
                                 g.activations[k], detail::scalar_type(precision_));
      };
      i.gate = std::make_shared<const detail::Gate>(layer(0), layer(1));
      i.from = {g.map};
      i.overwrites = may_overwrite(g.map, s, s);
      covered.insert(covered.end(), g.covered.begin(), g.covered.end());
      parts = detail::text(" with squeeze, convolution, ", to_string(g.activations[0]), ", convolution, ",
                           to_string(g.activations[1]), i.overwrites ? ", in place" : "");
    } else if (step(s).kind == Kind::multiply && fuses() && is_gate(calls, step(s)) &&
               may_overwrite(step(s).from[0], s, s)) {
      i.overwrites = true;
      parts = ", in place";
    }
    i.covers = static_cast<Index>(covered.size());
    i.how = detail::text(name_of(s), ": ", to_string(step(s).kind), parts.empty() ? ", as it is" : parts);
    for (Index t : covered) {
      covered_by[Graph::at(t)] = i.step;
      i.multiply_adds += multiply_adds[Graph::at(t)];
    }
    const Index key = i.step;
    calls.emplace(key, std::move(i));
  }
  for (auto& call : calls) instructions_.push_back(std::move(call.second));

  std::vector<Index> last_user(n, -1);
  for (std::size_t k = 0; k < instructions_.size(); ++k)
    for (Index f : instructions_[k].from) last_user[Graph::at(f)] = static_cast<Index>(k);
  for (std::size_t s = 0; s < n; ++s)
    if (last_user[s] >= 0 && !is_wanted(static_cast<Index>(s)))
      instructions_[Graph::at(last_user[s])].dead.push_back(static_cast<Index>(s));
  count_memory();
}

TRANSFERLIB_API void Engine::count_memory() {
  const auto bytes_of = [&](Index step) { return options_.piece * this->bytes_of(step); };
  const auto bytes = [](const Tensor& t) {
    return t.defined() ? t.numel() * static_cast<Index>(at::elementSize(t.scalar_type())) : 0;
  };
  std::vector<Index> held(shapes_.size(), 0);
  Index now = held[0] = bytes_of(0);
  peak_ = now;
  for (const Instruction& i : instructions_) {
    weights_ += bytes(i.weight) + bytes(i.bias) + (i.gate != nullptr ? i.gate->bytes() : 0) +
                (i.depthwise != nullptr ? i.depthwise->bytes() : 0) + (i.first != nullptr ? i.first->bytes() : 0);
    if (!i.weight.defined() && i.depthwise == nullptr && i.first == nullptr && step(i.step).module != nullptr)
      for (const Tensor& p : step(i.step).module->parameters()) weights_ += bytes(p);
    Index& own = held[Graph::at(i.step)];
    if (i.overwrites)
      std::swap(own, held[Graph::at(i.sums ? i.from.back() : i.from.front())]);
    else
      now += own = bytes_of(i.step);
    peak_ = std::max(peak_, now);
    for (Index f : i.dead) now -= std::exchange(held[Graph::at(f)], 0);
  }
}

TRANSFERLIB_API void Engine::fold(Tensor& weight, Tensor& bias, const nn::BatchNorm2d& norm) {
  const Tensor scale = norm.weight.detach().to(at::kDouble) / (norm.running_var.to(at::kDouble) + norm.epsilon).sqrt();
  const Tensor shift = norm.bias.detach().to(at::kDouble) - norm.running_mean.to(at::kDouble) * scale;
  weight = weight * scale.view({-1, 1, 1, 1});
  bias = bias.defined() ? bias * scale + shift : shift;
}

TRANSFERLIB_API std::vector<Index> Engine::permutation_of(const Step& s) {
  const Tensor probe = at::empty({2, 3, 4, 5});
  std::vector<Index> out;
  try {
    const Tensor y = s.run(std::span(&probe, 1), {});
    if (y.dim() != 4 || y.data_ptr() != probe.data_ptr()) return {};
    for (Index d = 0; d < 4; ++d) {
      const Index from = y.size(d) - 2;
      if (from < 0 || from > 3 || y.stride(d) != probe.stride(from)) return {};
      out.push_back(from);
    }
  } catch (const std::exception&) {  // it wants other shapes
    return {};
  }
  return out;
}

TRANSFERLIB_API Tensor Engine::scale_of(const Step& s, Index of, bool last) const {
  const auto& shape = shapes_[Graph::at(of)];
  if (s.from.size() != 1 || shape.empty() || shapes_[Graph::at(s.from[0])] != shape) return {};
  std::vector<Index> sides{1};
  sides.insert(sides.end(), shape.begin(), shape.end());
  const Tensor ones = at::ones(sides), ramp = at::arange(ones.numel(), at::kFloat).sub_(7.5).view(sides);
  const Tensor factors = s.run(std::span(&ones, 1), {}), scaled = s.run(std::span(&ramp, 1), {});
  if (factors.sizes() != ones.sizes()) return {};
  const Tensor rows = (last ? factors : factors.movedim(1, -1)).reshape({-1, last ? shape.back() : shape.front()});
  if (!at::equal(scaled, ramp * factors) || !at::equal(rows, rows[0].expand_as(rows))) return {};
  return rows[0].to(at::kDouble);
}

TRANSFERLIB_API bool Engine::is_gate(const std::map<Index, Instruction>& calls, const Step& s) const {
  if (s.from.size() != 2) return false;
  const auto map = calls.find(s.from[0]), gate = calls.find(s.from[1]);
  if (map == calls.end() || gate == calls.end() || !map->second.convolution || !gate->second.convolution) return false;
  const auto& shape = shapes_[Graph::at(s.from[1])];
  return shape.size() == 3 && shape[1] == 1 && shape[2] == 1;
}

TRANSFERLIB_API bool Engine::is_global_mean(Index s) const {
  const auto& shape = shapes_[Graph::at(s)];
  if (step(s).kind != Kind::pool || step(s).from.size() != 1 || shape.size() != 3 || shape[1] != 1 || shape[2] != 1)
    return false;
  std::vector<Index> sides{1};
  for (Index side : shapes_[Graph::at(step(s).from[0])]) sides.push_back(side);
  const Tensor probe = at::arange(c10::multiply_integers(sides), at::kFloat).sin_().add_(0.5).view(sides);
  return sides.size() == 4 && at::allclose(step(s).run(std::span(&probe, 1), {}), probe.mean({2, 3}, true), 1e-4, 1e-5);
}

TRANSFERLIB_API auto Engine::gate_steps(Index s, const std::vector<std::vector<Index>>& users) const
    -> std::optional<GateSteps> {
  if (step(s).from.size() != 2) return std::nullopt;
  for (const std::size_t which : {std::size_t{0}, std::size_t{1}}) {
    GateSteps out;
    out.map = step(s).from[which];
    if (shapes_[Graph::at(out.map)].size() != 3 || shapes_[Graph::at(out.map)] != shapes_[Graph::at(s)]) continue;
    // Backwards from the factors.
    Index at = step(s).from[1 - which];
    const auto take = [&](Kind kind) {
      if (step(at).kind != kind || step(at).from.size() != 1 || users[Graph::at(at)].size() != 1 || is_wanted(at))
        return false;
      out.covered.push_back(at);
      at = step(at).from[0];
      return true;
    };
    bool good = true;
    for (std::size_t k : {std::size_t{1}, std::size_t{0}}) {
      if (const Index last = at; take(Kind::activation)) out.activations[k] = step(last).activation;
      out.layers[k] = at;
      const auto* conv = dynamic_cast<const nn::Conv2d*>(step(at).module.get());
      good = good && conv != nullptr && conv->options.is_pointwise() && detail::kernels_know(out.activations[k]) &&
             take(Kind::convolution);
    }
    const Index pool = at;
    if (good && step(pool).from == std::vector{out.map} && is_global_mean(pool) && take(Kind::pool)) return out;
  }
  return std::nullopt;
}

TRANSFERLIB_API void Engine::pack(Instruction& i, const Tensor& weight, const Tensor& bias) const {
  const auto type = detail::scalar_type(precision_);
  Index rows = options_.piece;
  const auto& input = shapes_[Graph::at(i.from[0])];
  for (std::size_t side = 0; side + 1 < input.size(); ++side) rows *= input[side];
  torch::jit::Stack stack;
  torch::jit::push(stack, weight.to(type).contiguous(), rows);
  i.weight = detail::call_boxed(*detail::FusedOperators::get().pack_linear, stack);
  if (bias.defined()) i.bias = bias.to(type);
  const auto optional_bias = i.bias.defined() ? std::optional<Tensor>(i.bias) : std::nullopt;
  if (i.sums)
    torch::jit::push(i.arguments, c10::IValue(), c10::IValue(), i.weight, optional_bias, std::string("add"));
  else
    torch::jit::push(i.arguments, c10::IValue(), i.weight, optional_bias, i.fused.name, i.fused.scalars,
                     i.fused.algorithm);
}

TRANSFERLIB_API void Engine::prepare(Instruction& i, const Tensor& weight, const Tensor& bias) const {
  const auto type = detail::scalar_type(precision_);
  if (fuses() && !i.sums && !detail::multiplies_tiles() &&
      detail::FoldedDepthwiseLayer::applies(i.numbers, i.activation, type)) {
    i.depthwise = std::make_shared<const detail::FoldedDepthwiseLayer>(weight, bias, i.numbers, i.activation);
    return;
  }
  i.weight = weight.to(type).contiguous(at::MemoryFormat::ChannelsLast);
  if (bias.defined()) i.bias = bias.to(type);
  // TensorFlow's "same" padding is uneven only at a stride or for an even kernel.
  if (i.numbers.same && i.numbers.stride == 1 && i.numbers.kernel % 2 == 1) {
    i.numbers.padding = i.numbers.dilation * (i.numbers.kernel - 1) / 2;
    i.numbers.same = false;
  }
  if (!fuses()) return;
  std::vector<Index> input{options_.piece};
  for (Index side : shapes_[Graph::at(i.from[0])]) input.push_back(side);
  nn::Conv2dOptions& o = i.numbers;
  if (o.same) {
    // "Same" padding of an even side at stride 2 is one place longer behind than before. A row and a column of zeros
    // in front of the kernel make it equal, and spare a padded copy of the map.
    const nn::SamePadding h(input[2], o.kernel, o.stride, o.dilation), w(input[3], o.kernel, o.stride, o.dilation);
    if (h.after == h.before + 1 && w.after == h.after && w.before == h.before && o.dilation == 1) {
      i.leading = 1;
      i.weight = at::constant_pad_nd(i.weight, {1, 0, 1, 0}).contiguous(at::MemoryFormat::ChannelsLast);
    }
    o.padding = h.after;
  }
  const std::vector<Index> stride{o.stride, o.stride}, padding{o.padding, o.padding}, dilation{o.dilation, o.dilation};
  i.weight = at::mkldnn_reorder_conv2d_weight(i.weight.to_mkldnn(), padding, stride, dilation, o.groups, input);
  i.layouts = std::make_shared<detail::PackedWeights>(
      i.weight, detail::PackedWeights::Sizes{input[0], input[1], input[2], input[3]}, o);
  const auto optional_bias = i.bias.defined() ? std::optional<Tensor>(i.bias) : std::nullopt;
  if (i.sums)
    torch::jit::push(i.arguments, c10::IValue(), c10::IValue(), i.weight, optional_bias, padding, stride, dilation,
                     o.groups, std::string("add"), std::optional<at::Scalar>(1.0),
                     i.activation != Activation::identity ? std::optional<std::string>(i.fused.name) : std::nullopt,
                     i.fused.scalars, i.fused.algorithm);
  else
    torch::jit::push(i.arguments, c10::IValue(), i.weight, optional_bias, padding, stride, dilation, o.groups,
                     i.fused.name, i.fused.scalars, i.fused.algorithm);
}

TRANSFERLIB_API Tensor Engine::run_linear(const Instruction& i, const Activations& inputs) const {
  const Tensor& x = inputs[0];
  const bool permutes = !i.permutation.empty();
  if (x.scalar_type() != detail::scalar_type(precision_)) {
    Tensor y = dynamic_cast<const nn::Linear&>(*i.module).forward(x);
    if (i.scale.defined()) y = y * i.scale.to(y.scalar_type());
    if (permutes) y = y.permute(i.permutation);
    return i.sums ? y + inputs[1] : activate(y, i.activation);
  }
  const auto& ops = detail::FusedOperators::get();
  torch::jit::Stack stack = i.arguments;
  stack[0] = x.contiguous();
  if (i.sums) {
    Tensor other = inputs[1].to(x.scalar_type());
    if (permutes) {
      std::vector<Index> back(i.permutation.size());
      for (std::size_t d = 0; d < back.size(); ++d) back[Graph::at(i.permutation[d])] = static_cast<Index>(d);
      other = other.permute(back);
    }
    stack[1] = other.contiguous();
  }
  const Tensor y = detail::call_boxed(i.sums ? *ops.linear_sum : *ops.linear, stack);
  return permutes ? y.permute(i.permutation) : y;
}

TRANSFERLIB_API Tensor Engine::run(const Instruction& i, Activations& inputs) const {
  if (i.linear) return run_linear(i, inputs);
  if (i.gate != nullptr) {
    Tensor map = i.overwrites ? std::move(inputs[0]) : inputs[0].clone();
    (*i.gate)(map);
    return map;
  }
  if (i.depthwise != nullptr) return (*i.depthwise)(inputs[0]);
  if (i.first != nullptr) return (*i.first)(inputs[0]);
  if (!i.convolution) {
    const Step& s = graph_.steps[Graph::at(i.step)];
    if (i.overwrites) return inputs[0].mul_(inputs[1]);
    if (s.kind != Kind::opaque) return s.run(inputs, {});
    for (Tensor& input : inputs) input = input.to(at::kFloat);
    return s.run(inputs, {}).to(detail::scalar_type(precision_));
  }
  const nn::Conv2dOptions& o = i.numbers;
  Tensor x = inputs[0];
  Index pad_h = o.padding, pad_w = o.padding;
  if (o.same) {
    const nn::SamePadding h(x.size(-2), o.kernel, o.stride, o.dilation), w(x.size(-1), o.kernel, o.stride, o.dilation);
    const Index top = h.before + i.leading, left = w.before + i.leading;
    if (top == h.after && left == w.after) {
      pad_h = top, pad_w = left;
    } else {
      x = at::constant_pad_nd(x, {left, w.after, top, h.after});
      pad_h = pad_w = 0;
    }
  }
  if (i.layouts == nullptr) {
    Tensor y =
        at::conv2d(x, i.weight, i.bias, {o.stride, o.stride}, {pad_h, pad_w}, {o.dilation, o.dilation}, o.groups);
    if (i.sums) y = y + inputs[1];
    return activate(y, i.activation);
  }
  const auto& ops = detail::FusedOperators::get();
  torch::jit::Stack stack = i.arguments;
  const std::size_t first = i.sums ? 1 : 0;
  if (i.sums) stack[0] = inputs[1];
  stack[first] = x;
  stack[first + 1] = i.layouts->of(x.sizes(), pad_h, pad_w);
  if (o.same) stack[first + 3] = std::vector<Index>{pad_h, pad_w};
  return detail::call_boxed(i.sums ? *ops.convolution_sum : *ops.convolution, stack);
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

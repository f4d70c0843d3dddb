/// \file
/// A network as a module tree (for the names), the original's layer table (for the numbers) and steps in the order of
/// execution (for running any part of it). All three are run-time data.
#pragma once

#include <algorithm>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/random.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/nn/modules.hpp>

namespace transferlib {

/// One call in a network's execution. Its value is known by the step's number; step 0 is the input.
struct Step {
  Kind kind = Kind::opaque;
  std::vector<Index> layers;       ///< the table's rows that it computes; none for what is no layer of the original
  std::vector<Index> from;         ///< the steps whose values it takes
  std::shared_ptr<Module> module;  ///< where its parameters are; none for what has none
  Activation activation = Activation::identity;
  std::function<Tensor(std::span<const Tensor>, const Pass&)> run;
  bool random = false;    ///< whether it draws in training, as dropout does
  bool squeezes = false;  ///< whether it is the mean over all places, kept as a map of one place
};

/// A boundary between two steps, and the steps before it whose values are still needed behind it: inside a residual
/// block that is more than one.
struct Cut {
  Index boundary = 1;  ///< the first step behind the cut; 1: everything but the input
  std::vector<Index> live{0};

  friend bool operator==(const Cut&, const Cut&) = default;
};

/// The steps of a network, its layer table, and where its features are.
struct Graph {
  LayerTable table;
  std::vector<std::shared_ptr<Module>> modules;  ///< each row's own module; none for what has no parameters
  std::vector<Step> steps;
  std::vector<Index> stages;   ///< the last step of each stage: the pyramid, finest first
  std::vector<Index> strides;  ///< the stages' input pixels a place; 0 where their sides tell it
  Index map = 0;               ///< the step of the last feature map
  Index pooled = 0;            ///< the step of the pooled features
  Index logits = 0;            ///< the step of the original's classifier; 0 where there is none

  Index size() const { return static_cast<Index>(steps.size()); }

  /// Whether `wanted` needs each step.
  std::vector<bool> needed(std::span<const Index> wanted) const;

  /// The cut before step `boundary`, for the values of `wanted`.
  Cut cut_at(Index boundary, std::span<const Index> wanted) const;

  /// Whether every layer of the step is frozen; a step of no layer has nothing to freeze and counts as frozen.
  bool is_frozen(const Step& step, const std::vector<bool>& frozen) const {
    return std::all_of(step.layers.begin(), step.layers.end(), [&](Index l) { return frozen[at(l)]; });
  }

  /// The first step, of those that `wanted` needs, that training changes or that draws at random: with parameters or
  /// statistics that are not frozen, or dropout that is not. The number of steps where there is none.
  Index first_trainable(const std::vector<bool>& frozen, std::span<const Index> wanted) const;

  /// Sets the modules of a user's own network, which LibTorch's `train()` can have put into any mode, to what this call
  /// means: in training those that are not frozen, the others in evaluation. Layers of the zoo are told at each call.
  void set_mode(const Step& step, bool training, const std::vector<bool>& frozen) const {
    if (step.kind != Kind::opaque || step.module == nullptr) return;
    step.module->train(training && !is_frozen(step, frozen));
    for (Index l : step.layers)
      if (modules[at(l)] != nullptr) modules[at(l)]->train(training && !frozen[at(l)]);
  }

  /// Runs the steps from `cut` on, given the values that cross it, as far as `wanted` needs, and returns the values of
  /// `wanted`. A value is let go as soon as nobody needs it. A frozen step runs in evaluation. In training, where a
  /// gradient passes, a frozen batch norm is folded into the convolution before it, if that has no other reader, one
  /// that trains computes the activation behind it too, and squeeze-and-excitation is one call.
  Activations run(const Activations& crossing, const Cut& cut, std::span<const Index> wanted, const Pass& pass,
                  const std::vector<bool>& frozen) const;

  /// A squeeze-and-excitation: the means of `map` at step `means`, and in the steps behind it a convolution of one
  /// place, an activation, the same again, and the product.
  struct SqueezeExcitation {
    Index map = 0, means = 0;
    const nn::Conv2d *reduce = nullptr, *expand = nullptr;
    detail::SqueezeActivations activations;

    Index product() const { return means + 5; }
  };
  /// The one whose means are step `s`, if nobody else reads a value between, by the readers that each step has.
  std::optional<SqueezeExcitation> squeeze_excitation(Index s, const std::vector<Index>& uses) const;

  /// What one picture costs: the shape of each step's value (without the batch), and its multiply-adds.
  struct Measure {
    std::vector<std::vector<Index>> shapes;
    std::vector<Index> multiply_adds;
  };

  /// Measures every step by a forward pass of one black picture (channels, size, size).
  Measure measure(Index channels, Index size_) const;

  /// An index as the containers of the standard library want it.
  static std::size_t at(Index i) { return static_cast<std::size_t>(i); }
};

/// How another program names the same network's tensors: our name, its name. A tensor whose shape there differs by
/// sides of 1 only, as (C) from (C, 1, 1), is the same tensor.
struct Renaming {
  std::string original;  ///< whose names: "timm", "huggingface"
  std::vector<std::pair<std::string, std::string>> names;
};

/// The base of the zoo's networks. A family's constructor declares the layers in the order of the original's
/// registration, and calls them in the order of execution; where the two are the same, `add` does both.
class Plan : public Module {
 public:
  const Graph& graph() const { return graph_; }

  /// The names that other programs give to this network's tensors; a file of theirs is recognised by them and loads.
  virtual std::vector<Renaming> renamings() const { return {}; }

  /// The tensors, under our names, of a file that has no names of its own, as darknet's; nothing where the file is none
  /// of those, or the network has no such files.
  virtual std::optional<std::vector<std::pair<std::string, Tensor>>> read_nameless(
      const std::filesystem::path& file) const {
    (void)file;
    return std::nullopt;
  }

  /// Called first with what a file has: makes of another program's tensors what takes several of them at once, and
  /// drops what that program has for other purposes.
  virtual void convert(std::vector<std::pair<std::string, Tensor>>& state) const { (void)state; }

  /// A file's tensor whose shape is not ours, made ours; nothing where that has no meaning. A kernel for the 3 channels
  /// of a colour picture becomes one for a grey picture by their sum, and one for more channels by repeating them and
  /// multiplying by 3 / channels, as timm does it.
  virtual std::optional<Tensor> adapt(std::string_view name, const Tensor& theirs, at::IntArrayRef ours) const;

  /// Draws every weight of more than one dimension, from `seed` alone: kernels of convolutions normal with the
  /// deviation sqrt(2 / fan-in), which keeps a signal's size through a deep network in evaluation (He et al., 2015),
  /// all others normal with the deviation 0.02, cut at two deviations (as vision transformers start).
  void initialise(std::uint64_t seed);

 protected:
  explicit Plan(std::string name) : Module(std::move(name)) {
    graph_.steps.push_back({Kind::input, {}, {}, nullptr, Activation::identity, {}});
    graph_.table.stages.push_back("stem");
  }

  /// \name Declaring: the module goes into the tree at its dotted name, the layer gets the table's next row.
  /// \{

  /// What a layer computes, as a step calls it.
  using Run = std::function<Tensor(std::span<const Tensor>, const Pass&)>;

  /// Any layer. \returns its row
  Index declare(const std::string& name, Kind kind, std::shared_ptr<Module> module = nullptr, Run run = {});

  /// A two-dimensional convolution.
  Index declare_convolution(const std::string& name, const nn::Conv2dOptions& options) {
    auto module = std::make_shared<nn::Conv2d>(options);
    const Index row = declare(name, Kind::convolution, module);
    declared(row).run = [m = module.get()](std::span<const Tensor> x, const Pass&) { return m->forward(x[0]); };
    return row;
  }

  /// A batch normalisation; see `nn::BatchNorm2d`.
  Index declare_norm(const std::string& name, Index channels, double epsilon = 1e-5, double momentum = 0.1);

  /// An activation function.
  Index declare_activation(const std::string& name, Activation activation) {
    const Index row = declare(name, Kind::activation);
    declared(row).activation = activation;
    declared(row).run = [activation](std::span<const Tensor> x, const Pass&) { return activate(x[0], activation); };
    return row;
  }

  /// Dropout of each value with this probability, in training.
  Index declare_dropout(const std::string& name, double probability);

  /// A linear layer from `in` to `out` values.
  Index declare_linear(const std::string& name, Index in, Index out) {
    auto module = std::make_shared<nn::Linear>(in, out);
    const Index row = declare(name, Kind::linear, module);
    declared(row).run = [m = module.get()](std::span<const Tensor> x, const Pass&) { return m->forward(x[0]); };
    return row;
  }

  /// The mean over all places: (N, C, h, w) to (N, C), in float32 whatever the map's precision is.
  Index declare_global_pool(const std::string& name) {
    const Index row = declare(name, Kind::pool);
    declared(row).run = [](std::span<const Tensor> x, const Pass&) { return global_pool(x[0]); };
    return row;
  }
  /// The mean over all places, kept as a map of one place: (N, C, h, w) to (N, C, 1, 1), in the map's precision. The
  /// first step of squeeze-and-excitation (Hu et al., 2018).
  Index declare_squeeze(const std::string& name) {
    const Index row = declare(name, Kind::pool, nullptr, squeezed);
    declared(row).squeezes = true;
    return row;
  }

  /// A parameter of its own, of no layer: a class token, a position's embedding, a layer's scale. `run` is given it and
  /// the values of the steps.
  Index declare_parameter(const std::string& name, Kind kind, std::vector<Index> shape,
                          std::function<Tensor(const Tensor& parameter, std::span<const Tensor>)> run);

  /// Layer normalisation over the last dimension of (…, width), or over the channels of a map (N, width, h, w).
  Index declare_layer_norm(const std::string& name, Index width, double epsilon, bool of_map = false) {
    auto module = std::make_shared<nn::LayerNorm>(width, epsilon);
    return declare(name, Kind::norm, module, [m = module.get(), of_map](auto x, const Pass&) {
      return of_map ? m->forward(x[0].permute({0, 2, 3, 1})).permute({0, 3, 1, 2}) : m->forward(x[0]);
    });
  }

  /// The largest value of each window of a map.
  Index declare_max_pool(const std::string& name, const nn::PoolOptions& o) {
    return declare(name, Kind::pool, nullptr, [o](auto x, const Pass&) {
      return at::max_pool2d(x[0], {o.kernel, o.kernel}, {o.stride, o.stride}, {o.padding, o.padding}, {1, 1}, o.ceil);
    });
  }
  /// The mean of each window of a map.
  Index declare_average_pool(const std::string& name, const nn::PoolOptions& o) {
    return declare(name, Kind::pool, nullptr, [o](auto x, const Pass&) {
      return at::avg_pool2d(x[0], {o.kernel, o.kernel}, {o.stride, o.stride}, {o.padding, o.padding}, o.ceil);
    });
  }

  /// Zeros around a map.
  Index declare_pad(const std::string& name, Index left, Index right, Index top, Index bottom) {
    return declare(name, Kind::pad, nullptr, [=](auto x, const Pass&) {
      return at::constant_pad_nd(x[0], {left, right, top, bottom});
    });
  }

  /// A layer that does nothing when it runs: the original's rescaling, say, which our preprocessing has done.
  Index declare_nothing(const std::string& name, Kind kind) {
    return declare(name, kind, nullptr, [](auto x, const Pass&) { return x[0]; });
  }

  /// \name Sums, products and concatenations (of channels) that the original counts as layers; see `add`.
  /// \{

  /// The sum of two values.
  Index declare_add(const std::string& name) { return declare(name, Kind::add, nullptr, sum); }
  /// Their product, element by element.
  Index declare_multiply(const std::string& name) { return declare(name, Kind::multiply, nullptr, product); }
  /// The concatenation of maps' channels.
  Index declare_concat(const std::string& name) { return declare(name, Kind::concat, nullptr, concatenation); }
  /// \}

  /// Stochastic depth (Huang et al., 2016): in training a picture's whole branch is dropped with this probability, and
  /// what remains is scaled so that its mean is the same.
  Index declare_stochastic_depth(const std::string& name, double probability);
  /// \}

  /// Runs a declared layer on the values of steps; returns the new step. A layer may be called more than once. `also`
  /// are rows whose work the layer does too: the original's padding before a convolution that pads itself, say.
  Index call(Index row, std::vector<Index> from, std::vector<Index> also = {});

  /// A sum that is no layer of the original.
  Index add(Index a, Index b) { return function(Kind::add, {a, b}, sum); }

  /// A residual block's sum with stochastic depth (see `declare_stochastic_depth`) in one step, which the engine fuses
  /// as it does any sum. `rows` are the original's layers that it is, or the block's last where the original has none
  /// for it: it draws as long as one of them is not frozen.
  Index add_stochastic(Index branch, Index skip, double probability, std::vector<Index> rows);

  /// An activation that is no layer of the original, but a part of the one before it.
  Index activated(Index x, Activation activation) {
    graph_.steps.push_back({Kind::activation, {}, {x}, nullptr, activation, [activation](auto v, const Pass&) {
                              return activate(v[0], activation);
                            }});
    return graph_.size() - 1;
  }

  /// The mean over all places as `declare_squeeze` has it, that is no layer of the original.
  Index squeeze(Index x) {
    const Index step = function(Kind::pool, {x}, squeezed);
    graph_.steps.back().squeezes = true;
    return step;
  }

  /// A concatenation of maps' channels that is no layer of the original.
  Index concat(std::vector<Index> from) { return function(Kind::concat, std::move(from), concatenation); }

  /// Anything else that is no layer of the original and has nothing to learn: a reshape, say.
  Index function(Kind kind, std::vector<Index> from, Run run) {
    graph_.steps.push_back({kind, {}, std::move(from), nullptr, Activation::identity, std::move(run)});
    return graph_.size() - 1;
  }

  /// A product, element by element, that is no layer of the original; (N, C, 1, 1) counts for all places.
  Index multiply(Index a, Index b) { return function(Kind::multiply, {a, b}, product); }

  /// Ends a stage with `step`, whose map joins the pyramid; what is declared next belongs to stage `next`.
  void end_stage(Index step, std::string next, Index stride = 0) {
    add_to_pyramid(step, stride);
    next_stage(std::move(next));
  }
  /// The map of `step` joins the pyramid. `stride` is for maps whose sides are not ceil(input / stride): those of
  /// convolutions without padding.
  void add_to_pyramid(Index step, Index stride = 0) {
    graph_.stages.push_back(step);
    graph_.strides.push_back(stride);
  }
  /// What is declared next belongs to stage `next`; the pyramid gets no map.
  void next_stage(std::string next) { graph_.table.stages.push_back(std::move(next)); }

  /// Channels of a network that is scaled: a multiple of 8, at least 8, and at most a tenth less than `wanted`
  /// (`_make_divisible` of TensorFlow's slim, which every MobileNet and EfficientNet has).
  static Index rounded_channels(double wanted) {
    const Index out = std::max<Index>(8, static_cast<Index>(wanted + 4.0) / 8 * 8);
    return static_cast<double>(out) < 0.9 * wanted ? out + 8 : out;
  }

  /// Where the last feature map is.
  void set_map(Index step) { graph_.map = step; }
  /// Where the pooled features are.
  void set_pooled(Index step) { graph_.pooled = step; }
  /// Where the original's answers are.
  void set_logits(Index step) { graph_.logits = step; }

 public:
  /// See `declare_global_pool`.
  static Tensor global_pool(const Tensor& x) { return detail::mean_of_places(x, false, at::kFloat); }

 private:
  static Tensor squeezed(std::span<const Tensor> x, const Pass&) { return detail::mean_of_places(x[0], true); }
  static Tensor sum(std::span<const Tensor> x, const Pass&) { return x[0] + x[1]; }
  static Tensor product(std::span<const Tensor> x, const Pass&) { return x[0] * x[1]; }
  static Tensor concatenation(std::span<const Tensor> x, const Pass&) {
    return at::cat(at::TensorList(x.data(), x.size()), 1);
  }

  Step& declared(Index row) { return declared_[static_cast<std::size_t>(row)]; }

  /// The container of this dotted name, made where there is none.
  Module* container(const std::string& dotted) {
    if (const auto found = modules_.find(dotted); found != modules_.end()) return found->second.get();
    auto made = std::make_shared<Module>("Container");
    insert(dotted, made);
    return made.get();
  }

  /// LibTorch refuses dots in names: `a.b.c` is a module `c` inside containers `a` and `b`.
  void insert(const std::string& dotted, const std::shared_ptr<Module>& module) {
    const std::size_t dot = dotted.rfind('.');
    Module* parent = dot == std::string::npos ? this : container(dotted.substr(0, dot));
    parent->register_module(dotted.substr(dot == std::string::npos ? 0 : dot + 1), module);
    modules_[dotted] = module;
  }

  Graph graph_;
  std::vector<Step> declared_;
  std::map<std::string, std::shared_ptr<Module>> modules_;  // by dotted name
};

namespace detail {

/// Whether a module or a part of it is in training.
inline bool any_in_training(const Module& module) {
  if (module.is_training()) return true;
  for (const auto& child : module.children())
    if (any_in_training(*child)) return true;
  return false;
}

/// The graph of a user's own network: a step a stage; the table's rows are its modules, flattened.
TRANSFERLIB_API Graph graph_of(const Stages& stages);

}  // namespace detail
}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API std::vector<bool> Graph::needed(std::span<const Index> wanted) const {
  std::vector<bool> out(steps.size(), false);
  for (Index w : wanted) out[at(w)] = true;
  for (std::size_t s = steps.size(); s-- > 0;)
    if (out[s])
      for (Index f : steps[s].from) out[at(f)] = true;
  return out;
}

TRANSFERLIB_API Cut Graph::cut_at(Index boundary, std::span<const Index> wanted) const {
  const auto need = needed(wanted);
  std::vector<bool> live(steps.size(), false);
  for (Index w : wanted)
    if (w < boundary) live[at(w)] = true;
  for (std::size_t s = at(boundary); s < steps.size(); ++s)
    if (need[s])
      for (Index f : steps[s].from)
        if (f < boundary) live[at(f)] = true;
  Cut cut{boundary, {}};
  for (Index s = 0; s < boundary; ++s)
    if (live[at(s)]) cut.live.push_back(s);
  return cut;
}

TRANSFERLIB_API Index Graph::first_trainable(const std::vector<bool>& frozen, std::span<const Index> wanted) const {
  const auto need = needed(wanted);
  for (std::size_t s = 1; s < steps.size(); ++s) {
    const Step& step = steps[s];
    const bool can_change = step.module != nullptr || step.kind == Kind::dropout || step.random;
    if (need[s] && can_change && !is_frozen(step, frozen)) return static_cast<Index>(s);
  }
  return size();
}

TRANSFERLIB_API auto Graph::squeeze_excitation(Index s, const std::vector<Index>& uses) const
    -> std::optional<SqueezeExcitation> {
  if (!steps[at(s)].squeezes || s + 5 >= size()) return std::nullopt;
  SqueezeExcitation out{steps[at(s)].from[0], s, nullptr, nullptr, {}};
  for (Index t = s; t < out.product(); ++t)
    if (uses[at(t)] != 1 || (t > s && steps[at(t)].from != std::vector{t - 1})) return std::nullopt;
  const auto convolution = [&](Index t) {
    const auto* conv = dynamic_cast<const nn::Conv2d*>(steps[at(t)].module.get());
    return conv != nullptr && conv->options.is_pointwise() ? conv : nullptr;
  };
  out.reduce = convolution(s + 1);
  out.expand = convolution(s + 3);
  const Step &between = steps[at(s + 2)], &behind = steps[at(s + 4)], &product = steps[at(s + 5)];
  out.activations = {between.activation, behind.activation};
  const bool whole = out.reduce != nullptr && out.expand != nullptr && between.kind == Kind::activation &&
                     behind.kind == Kind::activation && detail::squeeze_excitation_knows(out.activations) &&
                     product.kind == Kind::multiply && product.from == std::vector{out.map, s + 4};
  return whole ? std::optional(out) : std::nullopt;
}

TRANSFERLIB_API Activations Graph::run(const Activations& crossing, const Cut& cut, std::span<const Index> wanted,
                                       const Pass& pass, const std::vector<bool>& frozen) const {
  if (crossing.size() != cut.live.size())
    throw OptionError(detail::text("a network was given ", crossing.size(), " tensors where its cut at step ",
                                   cut.boundary, " is crossed by ", cut.live.size()));
  const auto need = needed(wanted);
  std::vector<Index> uses(steps.size(), 0);
  for (std::size_t s = at(cut.boundary); s < steps.size(); ++s)
    if (need[s])
      for (Index f : steps[s].from) ++uses[at(f)];
  for (Index w : wanted) ++uses[at(w)];
  Activations values(steps.size());
  for (std::size_t i = 0; i < crossing.size(); ++i) values[at(cut.live[i])] = crossing[i];
  // The norm that a convolution can take over. Its own value is nobody else's then.
  const auto norm_behind = [&](std::size_t s) -> const nn::BatchNorm2d* {
    if (!pass.training || steps[s].kind != Kind::convolution || s + 1 == steps.size() || uses[s] != 1) return nullptr;
    const Step& next = steps[s + 1];
    if (!need[s + 1] || next.kind != Kind::norm || next.from != std::vector{static_cast<Index>(s)} ||
        !is_frozen(next, frozen))
      return nullptr;
    return dynamic_cast<const nn::BatchNorm2d*>(next.module.get());
  };
  // The activation that a norm in training can take over.
  const auto activation_behind = [&](std::size_t s) {
    if (s + 1 == steps.size() || uses[s] != 1 || !need[s + 1]) return Activation::identity;
    const Step& next = steps[s + 1];
    const bool alone = next.kind == Kind::activation && next.from == std::vector{static_cast<Index>(s)};
    return alone ? next.activation : Activation::identity;
  };
  // A squeeze-and-excitation whose first step is `s`: the means, or the one behind where they cross the cut.
  const auto excite = [&](Index s) {
    if (!pass.training) return Index{0};
    const bool known = s == cut.boundary && steps[at(s - 1)].squeezes && values[at(s - 1)].defined();
    const auto found = squeeze_excitation(known ? s - 1 : s, uses);
    if (!found || !need[at(found->product())]) return Index{0};
    Tensor map = values[at(found->map)];
    const auto &reduce = *found->reduce, &expand = *found->expand;
    if (at::autocast::is_autocast_enabled(at::kCPU)) map = map.to(at::autocast::get_autocast_dtype(at::kCPU));
    if (!detail::squeeze_excitation_applies(map, reduce.weight, expand.weight)) return Index{0};
    values[at(found->product())] =
        detail::squeeze_excitation(map, known ? values[at(found->means)] : Tensor(), reduce.weight, reduce.bias,
                                   expand.weight, expand.bias, found->activations);
    if ((uses[at(found->map)] -= known ? 1 : 2) == 0) values[at(found->map)] = Tensor();
    if (known) values[at(found->means)] = Tensor();
    return found->product();
  };
  Activations inputs;
  for (std::size_t s = at(cut.boundary); s < steps.size(); ++s) {
    if (!need[s] || values[s].defined()) continue;
    if (const Index product = excite(static_cast<Index>(s)); product != 0) {
      s = at(product);
      continue;
    }
    const Step& step = steps[s];
    inputs.clear();
    for (Index f : step.from) {
      inputs.push_back(values[at(f)]);
      if (--uses[at(f)] == 0) values[at(f)] = Tensor();
    }
    if (const auto* norm = norm_behind(s)) {
      const auto* convolution = dynamic_cast<const nn::Conv2d*>(step.module.get());
      if (convolution != nullptr && at::GradMode::is_enabled() &&
          (inputs[0].requires_grad() || convolution->weight.requires_grad())) {
        values[s + 1] = norm->folded_into(*convolution, inputs[0]);
        continue;
      }
    }
    Pass own = pass;
    own.training = pass.training && !is_frozen(step, frozen);
    if (own.training) set_mode(step, true, frozen);
    if (own.training && step.kind == Kind::norm)
      if (auto* norm = dynamic_cast<nn::BatchNorm2d*>(step.module.get()); norm != nullptr)
        if (const Activation activation = activation_behind(s); activation != Activation::identity) {
          values[s + 1] = norm->forward(inputs[0], true, activation);
          continue;
        }
    values[s] = step.run(inputs, own);
  }
  Activations out;
  for (Index w : wanted) out.push_back(values[at(w)]);
  return out;
}

TRANSFERLIB_API Graph::Measure Graph::measure(Index channels, Index size_) const {
  const torch::NoGradGuard guard;
  Measure out;
  out.shapes.resize(steps.size());
  out.multiply_adds.resize(steps.size(), 0);
  Activations values(steps.size());
  std::vector<Index> last_use(steps.size(), 0);
  for (std::size_t s = 1; s < steps.size(); ++s)
    for (Index f : steps[s].from) last_use[at(f)] = static_cast<Index>(s);
  for (std::size_t s = 0; s < steps.size(); ++s) {
    if (s == 0) {
      Tensor sample = at::zeros({1, channels, size_, size_});
      if (steps.size() > 1 && steps[1].module != nullptr)
        for (const Tensor& p : steps[1].module->parameters()) sample = sample.to(p.device());
      values[0] = sample;
    } else {
      Activations inputs;
      for (Index f : steps[s].from) inputs.push_back(values[at(f)]);
      values[s] = steps[s].run(inputs, {});
      for (Index f : steps[s].from)
        if (last_use[at(f)] == static_cast<Index>(s)) values[at(f)] = Tensor();
    }
    const auto sizes = values[s].sizes();
    out.shapes[s].assign(sizes.begin() + 1, sizes.end());
    const Index places = values[s].numel();
    if (const auto* conv = dynamic_cast<const nn::Conv2d*>(steps[s].module.get()))
      out.multiply_adds[s] = places * (conv->weight.numel() / conv->weight.size(0));
    else if (const auto* linear = dynamic_cast<const nn::Linear*>(steps[s].module.get()))
      out.multiply_adds[s] = places * linear->weight.size(1);
    else if (steps[s].kind == Kind::attention)
      out.multiply_adds[s] = 2 * places * sizes[1];  // the two products of tokens with tokens
    else if (steps[s].kind == Kind::opaque)
      out.multiply_adds[s] = places;  // unknown: at least one an element, so that it counts as work
  }
  return out;
}

TRANSFERLIB_API std::optional<Tensor> Plan::adapt(std::string_view name, const Tensor& theirs,
                                                  at::IntArrayRef ours) const {
  (void)name;
  if (theirs.dim() != 4 || ours.size() != 4 || theirs.size(1) != 3 || theirs.size(0) != ours[0] ||
      theirs.size(2) != ours[2] || theirs.size(3) != ours[3])
    return std::nullopt;
  const Index channels = ours[1];
  if (channels == 1) return theirs.sum({1}, true);
  return theirs.repeat({1, (channels + 2) / 3, 1, 1}).narrow(1, 0, channels) * (3.0 / static_cast<double>(channels));
}

TRANSFERLIB_API void Plan::initialise(std::uint64_t seed) {
  std::uint64_t number = 0;
  for (auto& item : named_parameters()) {
    ++number;
    if (item.value().dim() > 1) detail::draw_start(item.value(), seed, number);
  }
}

TRANSFERLIB_API Index Plan::declare(const std::string& name, Kind kind, std::shared_ptr<Module> module, Run run) {
  const Index row = graph_.table.size();
  Index parameters = 0;
  if (module != nullptr) {
    for (const Tensor& p : module->parameters()) parameters += p.numel();
    insert(name, module);
  }
  graph_.table.rows.push_back({row, name, kind, static_cast<Index>(graph_.table.stages.size()) - 1, parameters});
  graph_.modules.push_back(module);
  declared_.push_back({kind, {row}, {}, std::move(module), Activation::identity, std::move(run)});
  return row;
}

TRANSFERLIB_API Index Plan::declare_norm(const std::string& name, Index channels, double epsilon, double momentum) {
  auto module = std::make_shared<nn::BatchNorm2d>(channels, epsilon, momentum);
  const Index row = declare(name, Kind::norm, module);
  declared(row).run = [m = module.get()](std::span<const Tensor> x, const Pass& pass) {
    return m->forward(x[0], pass.training);
  };
  return row;
}

TRANSFERLIB_API Index Plan::declare_dropout(const std::string& name, double probability) {
  const Index row = declare(name, Kind::dropout);
  declared(row).run = [probability, row](std::span<const Tensor> x, const Pass& pass) {
    return detail::dropout(x[0], probability, pass, row);
  };
  return row;
}

TRANSFERLIB_API Index
Plan::declare_parameter(const std::string& name, Kind kind, std::vector<Index> shape,
                        std::function<Tensor(const Tensor& parameter, std::span<const Tensor>)> run) {
  const auto module = std::make_shared<nn::Parameter>(detail::zeros(shape));
  const Index row = graph_.table.size();
  // Twice in modules, once in the tree: under its name there, and alone here, so that it freezes alone.
  const std::size_t dot = name.rfind('.');
  Module& parent = dot == std::string::npos ? *this : *container(name.substr(0, dot));
  parent.register_parameter(name.substr(dot == std::string::npos ? 0 : dot + 1), module->value);
  graph_.table.rows.push_back(
      {row, name, kind, static_cast<Index>(graph_.table.stages.size()) - 1, module->value.numel()});
  graph_.modules.push_back(module);
  declared_.push_back(
      {kind, {row}, {}, module, Activation::identity, [m = module.get(), run = std::move(run)](auto x, const Pass&) {
         return run(m->value, x);
       }});
  return row;
}

TRANSFERLIB_API Index Plan::declare_stochastic_depth(const std::string& name, double probability) {
  const Index row = declare(name, Kind::dropout);
  declared(row).run = [probability, row](std::span<const Tensor> x, const Pass& pass) {
    return detail::dropout(x[0], probability, pass, row, true);
  };
  return row;
}

TRANSFERLIB_API Index Plan::call(Index row, std::vector<Index> from, std::vector<Index> also) {
  Step step = declared(row);
  step.from = std::move(from);
  step.layers.insert(step.layers.end(), also.begin(), also.end());
  graph_.steps.push_back(std::move(step));
  return graph_.size() - 1;
}

TRANSFERLIB_API Index Plan::add_stochastic(Index branch, Index skip, double probability, std::vector<Index> rows) {
  Step step{Kind::add, std::move(rows), {branch, skip}, nullptr, Activation::identity, {}, probability > 0.0};
  step.run = [probability, row = step.layers.at(0)](std::span<const Tensor> x, const Pass& pass) {
    return detail::dropout(x[0], probability, pass, row, true) + x[1];
  };
  graph_.steps.push_back(std::move(step));
  return graph_.size() - 1;
}

}  // namespace transferlib

namespace transferlib::detail {

TRANSFERLIB_API Graph graph_of(const Stages& stages) {
  Graph graph;
  graph.steps.push_back({Kind::input, {}, {}, nullptr, Activation::identity, {}});
  if (stages.empty()) throw OptionError("a network's stages() is empty; it must name at least one part");
  for (const Stage& stage : stages) {
    const Index number = static_cast<Index>(graph.table.stages.size());
    graph.table.stages.push_back(stage.name);
    Step step{Kind::opaque,
              {},
              {graph.size() - 1},
              stage.module,
              Activation::identity,
              [run = stage.run, module = stage.module.get()](std::span<const Tensor> x, const Pass& pass) {
                // In evaluation whatever the user's last `train()` was: nothing is written where nothing has changed.
                if (!pass.training && any_in_training(*module)) module->eval();
                return run(x[0]);
              }};
    for (const auto& item : stage.module->named_modules(stage.name)) {
      Index parameters = 0;
      for (const Tensor& p : item.value()->parameters(false)) parameters += p.numel();
      if (parameters == 0 && item.value()->buffers(false).empty() && !item.value()->children().empty()) continue;
      const std::string type = item.value()->name();
      const Kind kind = type.find("Conv") != std::string::npos                    ? Kind::convolution
                        : type.find("Norm") != std::string::npos                  ? Kind::norm
                        : type.find("Linear") != std::string::npos                ? Kind::linear
                        : type.find("Dropout") != std::string::npos               ? Kind::dropout
                        : type.find("Pool") != std::string::npos                  ? Kind::pool
                        : type.find("LU") != std::string::npos && parameters == 0 ? Kind::activation
                                                                                  : Kind::opaque;
      step.layers.push_back(graph.table.size());
      graph.modules.push_back(item.value());
      graph.table.rows.push_back({graph.table.size(), item.key(), kind, number, parameters});
    }
    graph.steps.push_back(std::move(step));
    graph.stages.push_back(graph.size() - 1);
    graph.strides.push_back(0);
  }
  graph.map = graph.size() - 1;
  // A network whose last part gives (N, C) has no map; `global_pool` is then the identity.
  graph.steps.push_back(
      {Kind::pool, {}, {graph.map}, nullptr, Activation::identity, [](std::span<const Tensor> x, const Pass&) {
         return x[0].dim() == 4 ? Plan::global_pool(x[0]) : x[0].to(at::kFloat);
       }});
  graph.pooled = graph.size() - 1;
  return graph;
}

}  // namespace transferlib::detail

#endif  // TRANSFERLIB_DEFINES

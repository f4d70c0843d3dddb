/// \file
/// A pretrained network as a part of a model: its weights, its preprocessing, its measured feature shapes, and where it
/// is cut. All behaviour is in a core that is no template; `Backbone<Network>` is a handle with a type.
#pragma once

#include <algorithm>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <transferlib/core/concepts.hpp>
#include <transferlib/core/error.hpp>
#include <transferlib/core/files.hpp>
#include <transferlib/core/guard.hpp>
#include <transferlib/core/hash.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/data/preprocess.hpp>
#include <transferlib/engine/engine.hpp>
#include <transferlib/formats/checkpoint.hpp>
#include <transferlib/nn/plan.hpp>
#include <transferlib/weights/keras.hpp>
#include <transferlib/weights/originals.hpp>
#include <transferlib/weights/pretrained.hpp>
#include <transferlib/weights/state_dict.hpp>

namespace torch::nn {
template <typename Derived>
class Cloneable;
}  // namespace torch::nn

namespace transferlib {
namespace detail {

/// What every backbone is, whatever its network's type.
struct BackboneCore {
  std::shared_ptr<Module> network;
  Graph graph;
  std::string name;     ///< in the zoo; empty for a user's own network, which may have a `network_name`
  std::string aliases;  ///< other names of the same network, as timm's, with spaces between
  std::string licence;  ///< of the weights that were loaded; empty where unknown
  std::string source;   ///< where the weights come from: the file's name; empty for random ones
  Preprocessing preprocessing;
  NetworkOptions options;
  Index minimum_size = 1;  ///< of pictures, in pixels
  FeatureSpec features;
  Graph::Measure measure;
  std::vector<bool> frozen;               ///< by row of the layer table
  std::function<BackboneCore()> rebuild;  ///< the same network anew, with weights of no meaning
  /// Of a network that a `.cfg` describes: what a saved model keeps of it; none for others.
  std::function<std::string(const BackboneCore&)> cfg;

  Index size() const { return preprocessing.size; }

  /// How files and logs call it: in the zoo's name, "darknet" for a `.cfg`'s, "custom" where it has no name.
  std::string kind() const { return !name.empty() ? name : cfg ? "darknet" : "custom"; }

  /// The device of the weights; the CPU for a network without any.
  torch::Device device() const {
    for (const Tensor& p : network->parameters()) return p.device();
    return torch::Device(at::kCPU);
  }
};

/// An engine's input for the pictures of a batch, in the numbers that it would turn them into first.
inline Tensor input_of(const BackboneCore& core, const Batch& batch, const Engine& engine) {
  return preprocess(batch, core.preprocessing, core.options.in_channels, {}, engine.input_type());
}

/// The steps whose values a head of this `Input` takes.
inline std::vector<Index> wanted_steps(const BackboneCore& core, Pooled) { return {core.graph.pooled}; }
inline std::vector<Index> wanted_steps(const BackboneCore& core, Map) { return {core.graph.map}; }
inline std::vector<Index> wanted_steps(const BackboneCore& core, Pyramid) { return core.graph.stages; }

/// Measures the network at its size, and from that its features.
TRANSFERLIB_API void measure(BackboneCore& core);

/// The network sees pictures of another size; its weights stay.
/// \throws OptionError where it can't, and nothing has changed then
TRANSFERLIB_API void set_size(BackboneCore& core, Index size);

/// Sets which layers are frozen: their parameters get no gradient.
inline void apply_mask(BackboneCore& core, std::vector<bool> mask) {
  core.frozen = std::move(mask);
  for (std::size_t row = 0; row < core.graph.modules.size(); ++row)
    if (core.graph.modules[row] != nullptr)
      for (Tensor& p : core.graph.modules[row]->parameters(false)) p.set_requires_grad(!core.frozen[row]);
}

/// Sets LibTorch's own modules (a user's network) to training or evaluation, frozen ones always to evaluation. Networks
/// of the zoo are told at each call instead.
inline void set_mode(BackboneCore& core, bool training) {
  core.network->train(training);
  for (const Step& step : core.graph.steps) core.graph.set_mode(step, training, core.frozen);
}

/// The cheapest cut for values of `wanted`: at the first step that training changes, or before it where less crosses,
/// as long as nothing with multiply-adds has to be computed again for it.
TRANSFERLIB_API Cut best_cut(const BackboneCore& core, const std::vector<Index>& wanted);

/// Names of the network's state that values of `wanted` need: the original's classifier is not among them.
TRANSFERLIB_API StateDict needed_state(const BackboneCore& core, const std::vector<Index>& wanted);

/// The row of the layer table that holds each tensor of the network.
TRANSFERLIB_API std::map<const void*, Index> rows_of_tensors(const BackboneCore& core);

/// How many stages lie between each row of the layer table and the head: 0 in the last stage and behind it.
TRANSFERLIB_API std::vector<Index> depths_of_rows(const BackboneCore& core);

/// The mean of a map (N, C, h, w) or of tokens (N, T, C) over its places, and their standard deviation behind it where
/// asked for: (N, C) or (N, 2 C) float32, whatever the map's precision is.
TRANSFERLIB_API Tensor pooled_places(const Tensor& x, bool deviations);

/// Makes the pooled features those of several depths, the first ones first.
TRANSFERLIB_API void add_depths(Graph& graph, Depths depths, bool deviations);

TRANSFERLIB_API void finish(BackboneCore& core, const Card& card, const NetworkOptions& options);

/// How a network is made and understood. Pointers, not a template, so that a network costs its own constructor alone.
struct NetworkType {
  std::shared_ptr<Module> (*make)(const NetworkOptions&);
  Graph (*graph)(Module&);
  Card card;
};

template <class N>
std::shared_ptr<Module> make_network(const NetworkOptions& options) {
  if constexpr (std::constructible_from<N, const NetworkOptions&>)
    return std::make_shared<N>(options);
  else if constexpr (std::default_initializable<N>)
    return std::make_shared<N>();
  else
    throw OptionError(
        "this network can't be made anew, as a copy of a model needs it: it has neither a constructor without "
        "arguments nor one from NetworkOptions, and is no torch::nn::Cloneable; give Backbone::of a function that "
        "makes one");
}

inline Graph planned_graph(Module& network) { return dynamic_cast<Plan&>(network).graph(); }

template <class N>
Card card_of() {
  if constexpr (PublishedNetwork<N>)
    return N::card;
  else if constexpr (requires {
                       { N::network_name } -> std::convertible_to<const char*>;
                     })
    return {.name = N::network_name, .minimum_size = 1};
  else
    return {.minimum_size = 1};
}

template <class N>
NetworkType network_type() {
  if constexpr (PlannedNetwork<N>)
    return {make_network<N>, planned_graph, card_of<N>()};
  else
    return {make_network<N>, [](Module& network) { return graph_of(dynamic_cast<N&>(network).stages()); },
            card_of<N>()};
}

/// \param anew makes such a network again, for copies; its weights do not matter
TRANSFERLIB_API BackboneCore make_core(std::shared_ptr<Module> network, const NetworkType& type,
                                       const NetworkOptions& options,
                                       const std::function<std::shared_ptr<Module>()>& anew);

inline BackboneCore make_core(const NetworkType& type, const NetworkOptions& options) {
  return make_core(type.make(options), type, options, [make = type.make, options] { return make(options); });
}

/// \throws WeightsError if a folder of Hugging Face says that its weights are another network's: of another one with
/// tensors of the same names and shapes they would load, and mean something else
TRANSFERLIB_API void check_architecture(const BackboneCore& core, const std::filesystem::path& folder);

/// Reads weights into the network, strictly.
TRANSFERLIB_API void read_weights(BackboneCore& core, const std::filesystem::path& file);

inline BackboneCore core_of_file(const NetworkType& type, const std::filesystem::path& file,
                                 const NetworkOptions& options) {
  BackboneCore core = make_core(type, options);
  read_weights(core, file);
  return core;
}

TRANSFERLIB_API BackboneCore published_core(const NetworkType& type, const NetworkOptions& options);

inline BackboneCore random_core(const NetworkType& type, const NetworkOptions& options, std::uint64_t seed) {
  BackboneCore core = make_core(type, options);
  if (auto* plan = dynamic_cast<Plan*>(core.network.get())) plan->initialise(seed);
  return core;
}

}  // namespace detail

/// A network of the zoo whose name is known at run time only; see `any_backbone`.
struct AnyNetwork : Plan {
  AnyNetwork() = delete;
};

/// A network as a part of a model. Move-only in spirit: models own it; `clone(model)` copies.
template <class N>
struct Backbone {
  static_assert(BackboneNetwork<N>,
                "transferlib: Backbone<Network>: Network must be a torch::nn::Module with `Stages stages()`; see "
                "docs/how-to/own-network.md");
};

/// A backbone of a network that is one: its weights, how it is cut, what its features are.
template <BackboneNetwork N>
struct Backbone<N> {
  using Network = N;
  /// Whether the network's type is known, and it can be made.
  static constexpr bool is_known = !std::same_as<N, AnyNetwork>;
  detail::BackboneCore core;

  /// The network with its published weights, looked for as `find_weights` says, and their hash checked.
  /// \throws WeightsError where they are not found or do not fit
  template <class Net = N>
  static Backbone pretrained(const NetworkOptions& options = {}) {
    static_assert(
        PublishedNetwork<Net>,
        "transferlib: Backbone<Network>::pretrained(): this Network has no published weights (no `card`); pass "
        "the weights' path");
    if constexpr (PublishedNetwork<Net>) return Backbone(detail::published_core(detail::network_type<N>(), options));
  }

  /// The network with the weights of a file, whatever program wrote it.
  /// \throws FileError, FormatError, WeightsError
  static Backbone pretrained(const std::filesystem::path& file, const NetworkOptions& options = {}) requires is_known {
    return Backbone(detail::core_of_file(detail::network_type<N>(), file, options));
  }

  /// The network with random weights, drawn from `seed` alone for the zoo's networks; a user's own network is as its
  /// constructor leaves it.
  static Backbone random(const NetworkOptions& options = {}, std::uint64_t seed = 0) requires is_known {
    return Backbone(detail::random_core(detail::network_type<N>(), options, seed));
  }

  /// A user's own network, made and filled by the user.
  /// \param anew makes such a network again, where a model is copied or saved; its weights do not matter. Where there
  /// is none, a `torch::nn::Cloneable` clones itself, and another network is made by its constructor without arguments,
  /// or from `NetworkOptions`
  static Backbone of(std::shared_ptr<N> network, const NetworkOptions& options = {},
                     std::function<std::shared_ptr<Module>()> anew = {}) requires is_known {
    const auto type = detail::network_type<N>();
    if (!anew) {
      if constexpr (std::derived_from<N, torch::nn::Cloneable<N>>)
        anew = [network] { return network->clone(); };
      else
        anew = [make = type.make, options] { return make(options); };
    }
    return Backbone(detail::make_core(std::move(network), type, options, anew));
  }

  explicit Backbone(detail::BackboneCore c) : core(std::move(c)) {}

  /// Any backbone can become one whose type is not known.
  template <BackboneNetwork M>
  requires(std::same_as<N, AnyNetwork> && !std::same_as<M, N>) Backbone(Backbone<M> other)
      : core(std::move(other.core)) {}

  /// The original's layer table.
  const LayerTable& layers() const { return core.graph.table; }
  /// How pictures are prepared for it.
  const Preprocessing& preprocessing() const { return core.preprocessing; }
  /// Channels and strides of its pyramid, width of its pooled features.
  const FeatureSpec& features() const { return core.features; }
};

/// A backbone whose network is known at run time only.
using AnyBackbone = Backbone<AnyNetwork>;

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API void measure(BackboneCore& core) {
  core.measure = guarded(text("a forward pass of ", core.name.empty() ? "the network" : core.name, " at ", core.size(),
                              " pixels and ", core.options.in_channels, " channels"),
                         [&] { return core.graph.measure(core.options.in_channels, core.size()); });
  const auto& shapes = core.measure.shapes;
  const auto& pooled = shapes[Graph::at(core.graph.pooled)];
  if (pooled.size() != 1)
    throw OptionError(
        text("a backbone's last part must give (N, C) or (N, C, h, w), not ", pooled.size() + 1, " dimensions"));
  core.features = {};
  core.features.width = pooled[0];
  for (std::size_t i = 0; i < core.graph.stages.size(); ++i) {
    const auto& shape = shapes[Graph::at(core.graph.stages[i])];
    if (shape.size() != 3) continue;
    core.features.channels.push_back(shape[0]);
    const Index told = core.graph.strides[i];
    core.features.strides.push_back(told != 0 ? told : (core.size() + shape[1] - 1) / std::max<Index>(shape[1], 1));
  }
}

inline void check_size(const BackboneCore& core) {
  if (core.size() < core.minimum_size)
    throw OptionError(text("pictures of ", core.size(), " pixels are too small for ",
                           core.name.empty() ? "the network" : core.name, ": its smallest size is ", core.minimum_size,
                           "; set {.size = ", core.minimum_size, "} or more"));
}

/// Makes a network anew for another size. A size that it had in between costs nothing.
struct Resized {
  std::function<BackboneCore()> made;
  Index size;
  BackboneCore operator()() const {
    BackboneCore out = made();
    set_size(out, size);
    return out;
  }
};

TRANSFERLIB_API void set_size(BackboneCore& core, Index size) {
  BackboneCore other = core;
  other.preprocessing.size = other.options.size = size;
  check_size(other);
  try {
    measure(other);
  } catch (const Error& e) {
    throw OptionError(text("the network can't be shown pictures of ", size, " pixels instead of ", core.size(),
                           "; make it with {.size = ", size, "} and read its weights into that: ", e.what()));
  }
  const auto* before = core.rebuild.target<Resized>();
  other.rebuild = Resized{before != nullptr ? before->made : core.rebuild, size};
  core = std::move(other);
}

TRANSFERLIB_API Cut best_cut(const BackboneCore& core, const std::vector<Index>& wanted) {
  const Graph& graph = core.graph;
  const Index behind = *std::max_element(wanted.begin(), wanted.end()) + 1;
  Cut best = graph.cut_at(std::min(graph.first_trainable(core.frozen, wanted), behind), wanted);
  const auto crossing = [&](const Cut& cut) {
    Index sum = 0;
    for (Index s : cut.live) {
      Index numbers = 1;
      for (Index side : core.measure.shapes[Graph::at(s)]) numbers *= side;
      sum += numbers;
    }
    return sum;
  };
  Index least = crossing(best);
  for (Index b = best.boundary - 1; b >= 1 && core.measure.multiply_adds[Graph::at(b)] == 0; --b) {
    Cut cut = graph.cut_at(b, wanted);
    if (const Index size = crossing(cut); size < least) least = size, best = std::move(cut);
  }
  return best;
}

TRANSFERLIB_API StateDict needed_state(const BackboneCore& core, const std::vector<Index>& wanted) {
  const auto need = core.graph.needed(wanted);
  std::vector<bool> rows(core.graph.table.rows.size(), false), called(rows.size(), false);
  for (std::size_t s = 0; s < need.size(); ++s)
    for (Index l : core.graph.steps[s].layers) {
      called[Graph::at(l)] = true;
      if (need[s]) rows[Graph::at(l)] = true;
    }
  StateDict out;
  for (auto& item : state_dict(*core.network)) {
    bool keep = true;
    for (std::size_t l = 0; l < rows.size(); ++l)
      if (const std::string& name = core.graph.table.rows[l].name;
          called[l] && !rows[l] && item.first.size() > name.size() && item.first.starts_with(name) &&
          item.first[name.size()] == '.')
        keep = false;
    if (keep) out.push_back(std::move(item));
  }
  return out;
}

TRANSFERLIB_API std::map<const void*, Index> rows_of_tensors(const BackboneCore& core) {
  std::map<const void*, Index> out;
  for (std::size_t row = 0; row < core.graph.modules.size(); ++row) {
    if (core.graph.modules[row] == nullptr) continue;
    for (const Tensor& t : core.graph.modules[row]->parameters(false))
      out.emplace(t.unsafeGetTensorImpl(), static_cast<Index>(row));
    for (const Tensor& t : core.graph.modules[row]->buffers(false))
      out.emplace(t.unsafeGetTensorImpl(), static_cast<Index>(row));
  }
  return out;
}

TRANSFERLIB_API std::vector<Index> depths_of_rows(const BackboneCore& core) {
  std::vector<Index> out(core.graph.table.rows.size(), 0);
  const Index last = static_cast<Index>(core.graph.stages.size()) - 1;
  for (std::size_t step = core.graph.steps.size(); step-- > 0;)
    for (Index row : core.graph.steps[step].layers) {
      Index stage = 0;
      while (stage < last && core.graph.stages[Graph::at(stage)] < static_cast<Index>(step)) ++stage;
      out[Graph::at(row)] = std::max<Index>(0, last - stage);
    }
  return out;
}

TRANSFERLIB_API Tensor pooled_places(const Tensor& x, bool deviations) {
  if (x.dim() == 2) return x.to(at::kFloat);
  // Channels last, as the engine's maps are, this is no copy but for the precision.
  const Tensor places = (x.dim() == 4 ? x.flatten(2).transpose(1, 2) : x).to(at::kFloat), mean = places.mean(1);
  if (!deviations) return mean;
  // The small number keeps the gradient of a channel that is constant finite.
  return at::cat({mean, (places.square().mean(1) - mean.square()).clamp_min(0.0).add(1e-10).sqrt()}, 1);
}

TRANSFERLIB_API void add_depths(Graph& graph, Depths depths, bool deviations) {
  if (depths == Depths::last) return;
  const Index pooled[] = {graph.pooled};
  const auto need = graph.needed(pooled);
  std::vector<std::vector<Index>> users(graph.steps.size());
  for (std::size_t s = 0; s < graph.steps.size(); ++s)
    if (need[s])
      for (Index f : graph.steps[s].from) users[Graph::at(f)].push_back(static_cast<Index>(s));
  std::set<Index> taps(graph.stages.begin(), graph.stages.end());
  if (depths == Depths::blocks)
    for (Index s = 1; s < graph.pooled; ++s) {
      if (!need[Graph::at(s)] || graph.steps[Graph::at(s)].kind != Kind::add) continue;
      // The activation that follows at once belongs to the block.
      const auto& after = users[Graph::at(s)];
      const bool activated = after.size() == 1 && graph.steps[Graph::at(after[0])].kind == Kind::activation;
      taps.insert(activated ? after[0] : s);
    }
  // The last map is there as the original pools it: a transformer's token is no mean.
  taps.erase(graph.map);
  std::vector<Index> parts;
  const auto add = [&](Kind kind, std::vector<Index> from, auto run) {
    graph.steps.push_back({kind, {}, std::move(from), nullptr, Activation::identity, std::move(run)});
    return graph.size() - 1;
  };
  for (Index tap : taps)
    parts.push_back(add(Kind::pool, {tap}, [deviations](std::span<const Tensor> x, const Pass&) {
      return pooled_places(x[0], deviations);
    }));
  parts.push_back(graph.pooled);
  graph.pooled = add(Kind::concat, std::move(parts), [](std::span<const Tensor> x, const Pass&) {
    return at::cat(at::TensorList(x.data(), x.size()), 1);
  });
}

TRANSFERLIB_API void finish(BackboneCore& core, const Card& card, const NetworkOptions& options) {
  core.name = card.name;
  core.aliases = card.aliases;
  core.preprocessing = card.preprocessing;
  core.options = options;
  if (options.size != 0) core.preprocessing.size = options.size;
  if (options.in_channels < 1)
    throw OptionError(text("a network has at least 1 input channel, not ", options.in_channels));
  core.minimum_size = card.minimum_size;
  check_size(core);
  core.frozen.assign(core.graph.table.rows.size(), false);
  add_depths(core.graph, options.depths, options.deviations);
  measure(core);
}

TRANSFERLIB_API BackboneCore make_core(std::shared_ptr<Module> network, const NetworkType& type,
                                       const NetworkOptions& options,
                                       const std::function<std::shared_ptr<Module>()>& anew) {
  BackboneCore core;
  core.graph = type.graph(*network);
  core.network = std::move(network);
  finish(core, type.card, options);
  core.rebuild = [type, options, anew] { return make_core(anew(), type, options, anew); };
  return core;
}

TRANSFERLIB_API void check_architecture(const BackboneCore& core, const std::filesystem::path& folder) {
  const std::string theirs = architecture_of(folder);
  if (core.name.empty() || theirs.empty() || theirs == core.name) return;
  // An alias may name the training too: "resnet50.a1_in1k".
  for (const std::string& alias : words(core.aliases))
    if (alias == theirs || alias.substr(0, alias.find('.')) == theirs) return;
  throw WeightsError(text("the weights in ", folder, " are of ", in_quotes(theirs),
                          ", as its config.json says, and the network is ", core.name,
                          core.aliases.empty() ? "" : text(" (or ", core.aliases, ")"),
                          "; load them into that network, or the file itself if you know that it is the same"));
}

TRANSFERLIB_API void read_weights(BackboneCore& core, const std::filesystem::path& file) {
  guarded(text("loading ", file), [&] {
    check_architecture(core, file);
    const auto* plan = dynamic_cast<const Plan*>(core.network.get());
    auto nameless = plan == nullptr ? std::nullopt : plan->read_nameless(file);
    StateDict state = nameless ? std::move(*nameless) : read_state_dict(file);
    if (has_keras_names(state)) state = from_keras(*core.network, core.graph, state, file.string());
    if (plan != nullptr) state = as_own(*plan, std::move(state));
    if (nameless) {
      // The network allowed for what the file lacks: layers at its end, among them the original's classifier.
      std::set<std::string> names;
      for (const auto& item : state) names.insert(item.first);
      for (auto& item : state_dict(*core.network))
        if (!item.first.ends_with("num_batches_tracked") && !names.count(item.first)) {
          state.push_back(std::move(item));
          core.graph.logits = 0;
        }
    }
    load_state_dict(*core.network, state, {}, file.string());
    return 0;
  });
  core.source = (file.has_filename() ? file : file.parent_path()).filename().string();
}

TRANSFERLIB_API BackboneCore published_core(const NetworkType& type, const NetworkOptions& options) {
  const auto file = find_weights(type.card);
  const bool published = is_published_file(file, type.card);
  if (published) check_hash(file, type.card);
  BackboneCore core = core_of_file(type, file, options);
  if (published) core.licence = type.card.licence;
  return core;
}

}  // namespace transferlib::detail

#endif  // TRANSFERLIB_DEFINES

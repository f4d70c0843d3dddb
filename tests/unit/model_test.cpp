// Models: what freezing means, where a network is cut, copies, files, heads, and predicting from several threads.
#include <atomic>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include <torch/nn/cloneable.h>
#include <torch/nn/modules/linear.h>

#include <transferlib/formats/checkpoint.hpp>
#include <transferlib/freeze/policy.hpp>
#include <transferlib/model/save.hpp>
#include <transferlib/train/callbacks.hpp>
#include <transferlib/train/trainer.hpp>
#include <transferlib/zoo.hpp>

#include "toys.hpp"

namespace tl = transferlib;
using namespace toys;
using Catch::Matchers::ContainsSubstring;
using Catch::Matchers::StartsWith;

// Every member of every template.
template class tl::Classifier<tl::EfficientNetLite0, tl::Linear>;
template class tl::Classifier<StagedNet, tl::MultiLabelMlp>;
template class tl::Classifier<tl::AnyNetwork, tl::AnyHead<tl::Values>>;
template class tl::Trainer<tl::Classifier<tl::EfficientNetLite0, tl::Linear>>;
template class tl::Trainer<tl::Classifier<tl::AnyNetwork, tl::AnyHead<tl::Values>>>;
template class tl::LinearHead<tl::ClassIndex>;
template class tl::LinearHead<tl::MultiLabel>;
template class tl::LinearHead<tl::Values>;
template class tl::MlpHead<tl::ClassIndex>;
template class tl::MlpHead<tl::MultiLabel>;
template class tl::MlpHead<tl::Values>;
template class tl::AnyHead<tl::ClassIndex>;
template class tl::AnyHead<tl::MultiLabel>;
template class tl::AnyHead<tl::Values>;
template struct tl::Backbone<tl::EfficientNetLite0>;
template struct tl::Backbone<SqueezeNet>;
template struct tl::Backbone<StagedNet>;
template struct tl::FreezePolicy<tl::FreezeAll>;
template struct tl::FreezePolicy<tl::AnyRule>;
template struct tl::Head<tl::Linear>;
template class tl::TopK<3>;

namespace {

/// The names of the frozen and of the other layers' parameters and buffers, of those that pooled features need.
template <class M>
std::pair<std::vector<std::string>, std::vector<std::string>> frozen_and_free(const M& model) {
  std::pair<std::vector<std::string>, std::vector<std::string>> out;
  for (const auto& [name, tensor] : tl::detail::needed_state(model.backbone_core(), model.wanted()))
    for (const tl::Layer& layer : model.layers().rows)
      if (name.starts_with(layer.name + ".") && name.find('.', layer.name.size() + 1) == std::string::npos)
        (model.frozen()[static_cast<std::size_t>(layer.index)] ? out.first : out.second).push_back(name);
  return out;
}

/// A user's own network that takes pictures of 8 pixels only.
struct OneSize : tl::Module {
  torch::nn::Sequential all{nullptr};

  OneSize() {
    all = register_module("all", torch::nn::Sequential(torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 4, 2).stride(2)),
                                                       torch::nn::Flatten(), torch::nn::Linear(64, 6)));
  }
  tl::Stages stages() { return {{"all", all}}; }
};

/// Calls what a careless user might, whenever there is an occasion.
struct Careless {
  tl::Module* network;
  void on_fit_begin(auto&) { network->train(); }
  void on_progress(const tl::Progressed&) { network->train(); }
  bool on_epoch_end(const tl::Epoch&) {
    network->train();
    return true;
  }
};

/// Trains; checks that the frozen layers are what they were, byte for byte, and that all else has changed.
/// \returns how many parameters and buffers were frozen
template <class N, class R>
std::size_t stays_frozen(const R& rule, Index learnt) {
  tl::Classifier model{lively<N>(16), tl::FreezePolicy<R>{rule}, tl::Head<tl::Linear>{}, colours};
  tl::Module& network = *model.backbone_core().network;
  const auto [frozen, free] = frozen_and_free(model);
  CHECK(frozen.size() + free.size() == tl::detail::needed_state(model.backbone_core(), model.wanted()).size());
  const auto before = snapshot(network), head_before = snapshot(model.head());
  network.train();
  const auto data = colour_data(40);
  tl::Trainer trainer{model, {.epochs = 2, .batch = 16, .optimizer = tl::Adam{.lr = 1e-2}}};
  trainer.fit(data, data, Careless{&network});
  network.train();
  model.predict(data.batch(first_ids(4)));
  const auto after = snapshot(network), head_after = snapshot(model.head());
  for (const auto& name : frozen) {
    INFO("frozen " << name);
    CHECK(same_bytes(before.at(name), after.at(name)));
  }
  for (const auto& name : free) {
    INFO("not frozen " << name);
    CHECK_FALSE(same_bytes(before.at(name), after.at(name)));
  }
  for (const auto& [name, tensor] : head_before) CHECK_FALSE(same_bytes(tensor, head_after.at(name)));
  // What pooled features do not need is not touched either.
  for (const auto& [name, tensor] : before)
    if (name.starts_with("fc.")) CHECK(same_bytes(tensor, after.at(name)));
  CHECK(static_cast<Index>(model.trainable_parameters().size()) == learnt + 2);
  return frozen.size();
}

}  // namespace

TEST_CASE("Frozen means frozen: every parameter and buffer, batch norm's too, byte for byte") {
  // Six convolutions, two of them with a bias; four batch norms of two parameters and three buffers.
  CHECK(stays_frozen<SqueezeNet>(tl::FreezeAll{}, 0) == 8 + 4 * 5);
  CHECK(stays_frozen<SqueezeNet>(tl::FreezeNone{}, 8 + 4 * 2) == 0);
  CHECK(stays_frozen<SqueezeNet>(tl::FreezeBatchNorm{}, 8) == 4 * 5);
  CHECK(stays_frozen<SqueezeNet>(tl::FreezeByName{"block.*"}, 6) == 6 + 2 * 5);
  const tl::LayerTable table = SqueezeNet{}.graph().table;
  const Index project = table.find("block.project");
  const auto by_index = stays_frozen<SqueezeNet>(tl::FreezeUntil{project}, 6);
  CHECK(by_index == stays_frozen<SqueezeNet>(tl::FreezeUntil{"block.project"}, 6));
  CHECK(by_index == 1 + 5 + 1 + 5 + 2 + 2);
  CHECK(stays_frozen<SqueezeNet>(tl::FreezeUntil{"block.project"} || tl::FreezeBatchNorm{}, 2) == by_index + 10);
  CHECK(stays_frozen<SqueezeNet>(tl::FreezeUntil{"block.project"} && !tl::FreezeBatchNorm{}, 10) == by_index - 10);
  CHECK(stays_frozen<SqueezeNet>([](const tl::Layer& l) { return l.stage == 0 && l.kind == tl::Kind::convolution; },
                                 9) == 7);
  CHECK(stays_frozen<SqueezeNet>(
            tl::AnyRule([](const tl::Layer& l, const tl::LayerTable& t) { return l.index + 6 < t.size(); }), 3) ==
        1 + 5 + 1 + 5 + 2 + 2 + 1 + 5);
}

TEST_CASE("Frozen means frozen in a user's own network, whatever train() is called by whom") {
  CHECK(stays_frozen<StagedNet>(tl::FreezeAll{}, 0) == 1 + 5 + 2 + 5);
  CHECK(stays_frozen<StagedNet>(tl::FreezeNone{}, 3 + 4) == 0);
  CHECK(stays_frozen<StagedNet>(tl::FreezeBatchNorm{}, 3) == 10);
  CHECK(stays_frozen<StagedNet>(tl::FreezeUntil{"tail"}, 4) == 6);
  CHECK(stays_frozen<StagedNet>(tl::FreezeByName{"tail.*"}, 3) == 7);
  CHECK(stays_frozen<StagedNet>(tl::FreezeUntil{"tail.1"} && !tl::FreezeBatchNorm{}, 4) == 3);
}

TEST_CASE("Measuring and predicting leave a user's network as it was made") {
  auto network = std::make_shared<StagedNet>();
  enliven(*network);
  const auto before = snapshot(*network);
  auto backbone = tl::Backbone<StagedNet>::of(network, {.size = 16});
  CHECK(same_bytes(before, snapshot(*network)));
  CHECK(backbone.features().width == 12);
  CHECK(backbone.features().channels == std::vector<Index>{8, 12});
  CHECK(backbone.features().strides == std::vector<Index>{2, 4});
  tl::Classifier model{std::move(backbone), tl::FreezePolicy<tl::FreezeNone>{}, tl::Head<tl::Linear>{}, colours};
  const auto batch = colour_data(5).batch(first_ids(5));
  const Tensor first = model.predict(batch);
  network->train();
  CHECK(same_bytes(first, model.predict(batch)));
  CHECK(same_bytes(before, snapshot(*network)));
}

TEST_CASE("A policy's mask is what its rule says") {
  const tl::LayerTable table = SqueezeNet{}.graph().table;
  const auto mask = tl::FreezePolicy{tl::FreezeUntil{3}}.mask(table);
  for (Index i = 0; i < table.size(); ++i) CHECK(mask[static_cast<std::size_t>(i)] == (i < 3));
  CHECK(sentence_of<tl::OptionError>([&] { tl::FreezePolicy{tl::FreezeUntil{-1}}.mask(table); }) ==
        tl::detail::text("layer -1 does not exist: the network has ", table.size(), " layers, so an index from 0 to ",
                         table.size(), " can be meant"));
  CHECK_THAT(sentence_of<tl::OptionError>([&] { tl::FreezePolicy{tl::FreezeUntil{"block.projekt"}}.mask(table); }),
             StartsWith("no layer is called \"block.projekt\" among the network's ") &&
                 ContainsSubstring("the nearest are block.project"));
  CHECK_THAT(sentence_of<tl::OptionError>([&] { tl::FreezePolicy{tl::FreezeByName{"none.*"}}.mask(table); }),
             StartsWith("FreezeByName: no layer's name matches \"none.*\"; the first names are stem, stem_norm"));
}

TEST_CASE("Every cut: prefix and suffix are the whole pass, bit for bit") {
  const auto backbone = lively<SqueezeNet>(16);
  const auto& net = static_cast<const SqueezeNet&>(*backbone.core.network);
  const tl::Graph& graph = backbone.core.graph;
  const torch::NoGradGuard guard;
  const std::vector<Index> wanted{graph.stages[0], graph.map, graph.pooled};
  const std::vector<bool>& frozen = backbone.core.frozen;
  const Tensor x = noise(3, 16);
  const auto whole = graph.run({x}, tl::Cut{}, wanted, {}, frozen);
  const Index input[3] = {3, 16, 16};
  for (Index boundary = 1; boundary <= graph.pooled + 1; ++boundary) {
    INFO("boundary " << boundary);
    const tl::Cut cut = graph.cut_at(boundary, wanted);
    const tl::Engine plain(graph, cut.live, input, {.precision = tl::Precision::fp32, .fold = false, .piece = 3});
    const auto suffix = graph.run(plain(x), cut, wanted, {}, frozen);
    const tl::Engine folded(graph, cut.live, input, {.precision = tl::Precision::fp32, .piece = 3});
    const auto close = graph.run(folded(x), cut, wanted, {}, frozen);
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      CHECK(same_bytes(whole[i], suffix[i]));
      CHECK(difference(close[i], whole[i]) <= 1e-4);
    }
  }
  // What crosses: the skip all the way through its block; beside the gate also what it is multiplied with.
  const std::vector<Index> pooled{graph.pooled};
  CHECK(graph.cut_at(net.skip + 1, pooled).live == std::vector<Index>{net.skip});
  CHECK(graph.cut_at(net.skip + 2, pooled).live == std::vector<Index>{net.skip, net.skip + 1});
  CHECK(graph.cut_at(net.before_gate + 1, pooled).live == std::vector<Index>{net.skip, net.before_gate});
  CHECK(graph.cut_at(net.gate, pooled).live == std::vector<Index>{net.skip, net.before_gate, net.gate - 1});
  CHECK(graph.cut_at(net.gated, pooled).live == std::vector<Index>{net.skip, net.before_gate, net.gate});
  CHECK(graph.cut_at(net.project, pooled).live == std::vector<Index>{net.skip, net.gated});
  CHECK(graph.cut_at(net.sum + 1, pooled).live == std::vector<Index>{net.sum});
  CHECK(sentence_of<tl::OptionError>([&] { graph.run({x}, graph.cut_at(net.gated, pooled), pooled, {}, frozen); }) ==
        tl::detail::text("a network was given 1 tensors where its cut at step ", net.gated, " is crossed by 3"));
}

namespace {

/// How many nodes of the graph of gradients have such a name.
Index nodes_named(const Tensor& of, std::string_view name) {
  std::vector<torch::autograd::Node*> nodes{of.grad_fn().get()};
  Index count = 0;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    count += nodes[i]->name().find(name) != std::string::npos;
    for (const auto& edge : nodes[i]->next_edges())
      if (edge.function && std::find(nodes.begin(), nodes.end(), edge.function.get()) == nodes.end())
        nodes.push_back(edge.function.get());
  }
  return count;
}

/// The values of `wanted`: the steps from a cut on, each by itself, in training.
tl::Activations step_by_step(const tl::Graph& graph, const tl::Activations& crossing, const tl::Cut& cut,
                             const std::vector<Index>& wanted) {
  tl::Activations values(graph.steps.size()), inputs;
  for (std::size_t i = 0; i < crossing.size(); ++i) values[tl::Graph::at(cut.live[i])] = crossing[i];
  for (std::size_t s = tl::Graph::at(cut.boundary); s < graph.steps.size(); ++s) {
    inputs.clear();
    for (const Index f : graph.steps[s].from) inputs.push_back(values[tl::Graph::at(f)]);
    values[s] = graph.steps[s].run(inputs, {.training = true});
  }
  tl::Activations out;
  for (const Index w : wanted) out.push_back(values[tl::Graph::at(w)]);
  return out;
}

}  // namespace

TEST_CASE("In training a frozen batch norm is part of the convolution before it: the same values and gradients") {
  auto backbone = lively<SqueezeNet>(16);
  const tl::Graph& graph = backbone.core.graph;
  backbone.core.frozen = tl::FreezePolicy{tl::FreezeBatchNorm{}}.mask(graph.table);
  const std::vector<Index> wanted{graph.stages[0], graph.pooled};
  const auto gradients = [&](bool training) {
    for (auto& p : backbone.core.network->parameters()) p.mutable_grad() = Tensor();
    const auto out = graph.run({noise(3, 16)}, tl::Cut{}, wanted, {.training = training}, backbone.core.frozen);
    const Tensor sum = out[0].square().sum() + out[1].square().sum();
    // The norms that are still passes of their own, among all that led to the values.
    const Index norms = nodes_named(sum, "BatchNorm");
    sum.backward();
    std::vector<Tensor> all{out[0].detach(), out[1].detach()};
    for (const auto& named : backbone.core.network->named_parameters())
      if (named.value().grad().defined()) all.push_back(named.value().grad().clone());
    return std::pair(all, norms);
  };
  for (auto& p : backbone.core.network->parameters()) p.requires_grad_(p.dim() > 1);
  const auto [folded, none] = gradients(true);
  const auto [plain, four] = gradients(false);
  CHECK(none == 0);
  CHECK(four == 4);
  REQUIRE(folded.size() == plain.size());
  REQUIRE(folded.size() == 2 + 6);
  for (std::size_t i = 0; i < folded.size(); ++i) CHECK(difference(folded[i], plain[i]) <= 1e-5);
}

TEST_CASE("In training a batch norm computes the activation behind it: the same values and gradients") {
  auto backbone = lively<SqueezeNet>(16);
  const tl::Graph& graph = backbone.core.graph;
  for (auto& p : backbone.core.network->parameters()) p.requires_grad_(true);
  const std::vector<Index> wanted{graph.stages[0], graph.pooled};
  const auto gradients = [&](bool together) {
    for (auto& p : backbone.core.network->parameters()) p.mutable_grad() = Tensor();
    const std::vector<bool> free(static_cast<std::size_t>(graph.table.size()), false);
    const auto out = together ? graph.run({noise(3, 16)}, tl::Cut{}, wanted, {.training = true}, free)
                              : step_by_step(graph, {noise(3, 16)}, tl::Cut{}, wanted);
    (out[0].square().sum() + out[1].square().sum()).backward();
    std::vector<Tensor> all{out[0].detach(), out[1].detach()};
    for (const auto& named : backbone.core.network->named_parameters())
      if (named.value().grad().defined()) all.push_back(named.value().grad().clone());
    return all;
  };
  const auto together = gradients(true), apart = gradients(false);
  REQUIRE(together.size() == apart.size());
  REQUIRE(together.size() > 8);
  for (std::size_t i = 0; i < together.size(); ++i) CHECK(difference(together[i], apart[i]) <= 1e-5);
}

TEST_CASE("In training squeeze-and-excitation is one call, wherever the cut is: the same values and gradients") {
  const auto backbone = lively<SqueezeNet>(16);
  const auto& net = static_cast<const SqueezeNet&>(*backbone.core.network);
  const tl::Graph& graph = backbone.core.graph;
  for (auto& p : backbone.core.network->parameters()) p.requires_grad_(true);
  const std::vector<Index> wanted{graph.pooled};
  const std::vector<bool> free(graph.modules.size(), false);
  const Index means = net.before_gate + 1;
  for (Index boundary = 1; boundary <= net.gated; ++boundary) {
    INFO("boundary " << boundary);
    const tl::Cut cut = graph.cut_at(boundary, wanted);
    tl::Activations crossing;
    {
      const torch::NoGradGuard guard;
      crossing = graph.run({noise(3, 16)}, tl::Cut{}, cut.live, {}, free);
    }
    const auto gradients = [&](bool together) {
      for (auto& p : backbone.core.network->parameters()) p.mutable_grad() = Tensor();
      const Tensor out = together ? graph.run(crossing, cut, wanted, {.training = true}, free)[0]
                                  : step_by_step(graph, crossing, cut, wanted)[0];
      // From the convolution behind the means on, it needs what crosses the cut no more.
      CHECK(nodes_named(out, "SqueezeExcitation") == (together && boundary <= means + 1 ? 1 : 0));
      out.square().sum().backward();
      std::vector<Tensor> all{out.detach()};
      for (const auto& named : backbone.core.network->named_parameters())
        if (named.value().grad().defined()) all.push_back(named.value().grad().clone());
      return all;
    };
    const auto together = gradients(true), apart = gradients(false);
    REQUIRE(together.size() == apart.size());
    for (std::size_t i = 0; i < together.size(); ++i) CHECK(difference(together[i], apart[i]) <= 1e-5);
  }
  // In evaluation, and where somebody else asks for a value between, it is not.
  const auto count = [&](const tl::Pass& pass, std::vector<Index> asked) {
    return nodes_named(graph.run({noise(3, 16)}, tl::Cut{}, asked, pass, free)[0], "SqueezeExcitation");
  };
  CHECK(count({}, {graph.pooled}) == 0);
  CHECK(count({.training = true}, {graph.pooled, net.gate}) == 0);
}

TEST_CASE("Squeeze-and-excitation of every original is one call in training") {
  for (const auto& [name, blocks] : std::vector<std::pair<std::string, Index>>{{"mobilenet_v3_small", 9},
                                                                               {"keras_mobilenet_v3_small", 9},
                                                                               {"efficientnet_b0", 16},
                                                                               {"tf_efficientnet_b0", 16},
                                                                               {"keras_efficientnet_b0", 16}}) {
    CAPTURE(name);
    const auto backbone = tl::zoo_entry(name).random({.size = 64}, 3);
    const tl::Graph& graph = backbone.core.graph;
    for (auto& p : backbone.core.network->parameters()) p.requires_grad_(true);
    const std::vector<Index> wanted{graph.pooled};
    const std::vector<bool> free(graph.modules.size(), false);
    const Tensor x = noise(3, 64);
    const Tensor together = graph.run({x}, tl::Cut{}, wanted, {.training = true}, free)[0],
                 apart = step_by_step(graph, {x}, tl::Cut{}, wanted)[0];
    CHECK(nodes_named(together, "SqueezeExcitation") == blocks);
    CHECK(difference(together, apart) <= 1e-3);
  }
}

TEST_CASE("A classifier is shown pictures of another size, and says so in its file and its copies") {
  const auto make = [](Index size) {
    return tl::Classifier{tl::Backbone<tl::EfficientNetLite0>::random({.size = size}, 1),
                          tl::FreezePolicy<tl::FreezeUntil>{{"_blocks.12"}}, tl::Head<tl::Linear>{}, colours};
  };
  auto model = make(32);
  const auto larger = make(48);
  const auto batch = colour_data(4).batch(first_ids(4));
  const Tensor before = model.predict(batch, tl::Precision::fp32);
  model.set_size(48);
  CHECK(model.preprocessing().size == 48);
  const Tensor after = model.predict(batch, tl::Precision::fp32);
  CHECK(same_bytes(after, larger.predict(batch, tl::Precision::fp32)));
  CHECK(difference(after, before) > 1e-4);
  CHECK(model.cut() == larger.cut());
  const auto copy = tl::clone(model);
  CHECK(same_bytes(copy.predict(batch, tl::Precision::fp32), after));
  CHECK(tl::clone(copy).preprocessing().size == 48);
  const Folder folder;
  tl::save(model, folder / "larger.safetensors");
  const auto back = tl::load<tl::EfficientNetLite0, tl::Linear>(folder / "larger.safetensors");
  CHECK(same_bytes(back.predict(batch, tl::Precision::fp32), after));

  tl::Classifier tokens{tl::Backbone<tl::VitS16>::random({.size = 32}), tl::FreezePolicy<tl::FreezeAll>{},
                        tl::Head<tl::Linear>{}, colours};
  CHECK_THAT(sentence_of<tl::OptionError>([&] { tokens.set_size(8); }),
             StartsWith("pictures of 8 pixels are too small for vit_s_16: its smallest size is 16"));
  CHECK(tokens.preprocessing().size == 32);
  tokens.set_size(48);  // an embedding of positions is resampled
  CHECK(tokens.predict(batch).size(0) == 4);
  // A network of one size alone stays as it is.
  tl::Classifier fixed{tl::Backbone<OneSize>::of(std::make_shared<OneSize>(), {.size = 8}),
                       tl::FreezePolicy<tl::FreezeAll>{}, tl::Head<tl::Linear>{}, colours};
  CHECK_THAT(
      sentence_of<tl::OptionError>([&] { fixed.set_size(16); }),
      StartsWith("the network can't be shown pictures of 16 pixels instead of 8; make it with {.size = 16} and"));
  CHECK(fixed.preprocessing().size == 8);
  CHECK(fixed.predict(batch).size(0) == 4);
}

TEST_CASE("A cut inside a residual block of EfficientNet-Lite0") {
  const auto backbone = lively<tl::EfficientNetLite0>(32);
  const tl::Graph& graph = backbone.core.graph;
  const torch::NoGradGuard guard;
  const std::vector<Index> wanted{graph.pooled};
  const Tensor x = noise(2, 32);
  const auto whole = graph.run({x}, tl::Cut{}, wanted, {}, backbone.core.frozen);
  const Index input[3] = {3, 32, 32};
  Index two = 0;
  for (Index boundary = 2; boundary <= graph.pooled; boundary += 7) {
    const tl::Cut cut = graph.cut_at(boundary, wanted);
    two += cut.live.size() == 2;
    CHECK(cut.live.size() <= 2);
    const tl::Engine prefix(graph, cut.live, input, {.precision = tl::Precision::fp32, .fold = false});
    CHECK(same_bytes(graph.run(prefix(x), cut, wanted, {}, backbone.core.frozen)[0], whole[0]));
  }
  CHECK(two >= 5);
}

namespace {

/// Two activations of one value, joined behind a convolution that learns: cheapest is the cut before both.
struct Forked : tl::Plan {
  Index trunk = 0, left = 0, right = 0, conv = 0;
  explicit Forked(const tl::NetworkOptions& o = {}) : Plan("Forked") {
    trunk = call(declare_convolution("trunk", {.in = o.in_channels, .out = 6, .kernel = 3, .padding = 1}), {0});
    left = call(declare_activation("left", tl::Activation::relu), {trunk});
    right = call(declare_activation("right", tl::Activation::tanh), {trunk});
    conv = call(declare_convolution("conv", {.in = 6, .out = 6}), {left});
    const Index x = add(conv, right);
    set_map(x);
    set_pooled(call(declare_global_pool("pool"), {x}));
  }
};

}  // namespace

TEST_CASE("The best cut is the cheapest before the first step that training changes") {
  const auto cut_for = [](auto rule) {
    tl::Classifier model{lively<SqueezeNet>(16), tl::FreezePolicy<decltype(rule)>{rule}, tl::Head<tl::Linear>{},
                         colours};
    return model.cut();
  };
  const SqueezeNet net;
  const Index pooled = net.graph().pooled;
  CHECK(cut_for(tl::FreezeAll{}) == tl::Cut{pooled + 1, {pooled}});
  CHECK(cut_for(tl::FreezeNone{}) == tl::Cut{1, {0}});
  CHECK(cut_for(tl::FreezeUntil{"block.project"}) == tl::Cut{net.project, {net.skip, net.gated}});
  CHECK(cut_for(tl::FreezeUntil{"tail"}) == tl::Cut{net.sum + 1, {net.sum}});
  CHECK(cut_for(tl::FreezeByName{"block.*"}) == tl::Cut{1, {0}});  // frozen layers may lie above the cut

  auto backbone = lively<Forked>(8);
  tl::Classifier model{std::move(backbone), tl::FreezePolicy<tl::FreezeUntil>{{"conv"}}, tl::Head<tl::Linear>{},
                       colours};
  const Forked forked;
  CHECK(model.cut() == tl::Cut{forked.trunk + 1, {forked.trunk}});
}

TEST_CASE("refreeze: training goes on with another part") {
  tl::Classifier model{lively<SqueezeNet>(16), tl::FreezePolicy<tl::FreezeAll>{}, tl::Head<tl::Linear>{}, colours};
  const auto all = model.cut();
  CHECK(model.trainable_parameters().size() == 2);
  const auto data = colour_data(32);
  const tl::TrainerOptions options{.epochs = 1, .batch = 16};
  tl::Trainer{model, options}.fit(data, data);
  const auto before = snapshot(*model.backbone_core().network);
  model.refreeze(tl::FreezePolicy{tl::FreezeUntil{"tail"}});
  CHECK(model.trainable_parameters().size() == 3 + 2);
  tl::Trainer{model, options}.fit(data, data);
  for (const auto& [name, tensor] : snapshot(*model.backbone_core().network)) {
    INFO(name);
    CHECK(same_bytes(tensor, before.at(name)) == !name.starts_with("tail"));
  }
  model.refreeze(tl::FreezePolicy{tl::FreezeAll{}});
  CHECK(model.cut() == all);
  CHECK(model.trainable_parameters().size() == 2);
}

TEST_CASE("clone is an independent copy") {
  tl::Classifier model{lively<SqueezeNet>(16), tl::FreezePolicy<tl::FreezeUntil>{{"tail"}},
                       tl::Head<tl::Mlp>{{.width = 9}}, colours};
  const auto data = colour_data(32);
  const tl::TrainerOptions options{.epochs = 1, .batch = 16, .precision = tl::Precision::fp32};
  tl::Trainer{model, options}.fit(data, data);
  auto copy = tl::clone(model);
  const auto batch = data.batch(first_ids(8));
  const Tensor prediction = model.predict(batch, tl::Precision::fp32);
  CHECK(same_bytes(prediction, copy.predict(batch, tl::Precision::fp32)));
  CHECK(copy.cut() == model.cut());
  CHECK(copy.frozen() == model.frozen());
  CHECK(copy.labels() == model.labels());
  CHECK(copy.trainable_parameters().size() == model.trainable_parameters().size());
  CHECK(copy.preprocessing() == model.preprocessing());
  const auto network = snapshot(*model.backbone_core().network), head = snapshot(model.head());
  tl::Trainer{copy, options}.fit(data, data);
  CHECK(same_bytes(network, snapshot(*model.backbone_core().network)));
  CHECK(same_bytes(head, snapshot(model.head())));
  CHECK(same_bytes(prediction, model.predict(batch, tl::Precision::fp32)));
  CHECK_FALSE(same_bytes(prediction, copy.predict(batch, tl::Precision::fp32)));
  // The copy goes on as the original does.
  tl::Trainer{model, options}.fit(data, data);
  CHECK(same_bytes(snapshot(model.head()), snapshot(copy.head())));
}

TEST_CASE("A model's file: read back by its types, by names alone, with what it says of itself") {
  const Folder folder;
  const tl::Labels labels{"red \"one\"", "grün", "blå\\blue"};
  const auto [pictures, target] = coloured(48, 32, 3);
  const tl::TensorData<tl::ClassIndex> data(pictures, target, labels);
  tl::Classifier model{lively<tl::EfficientNetLite0>(32), tl::FreezePolicy<tl::FreezeAll>{}, tl::Head<tl::Linear>{},
                       labels};
  tl::Trainer{model, {.epochs = 2, .batch = 16, .precision = tl::Precision::fp32}}.fit(data, data);
  REQUIRE(model.head().is_standardised());
  const auto path = folder / "model.safetensors";
  tl::save(model, path);
  CHECK(model.head().is_standardised());  // the model itself is not changed by saving

  const auto typed = tl::load<tl::EfficientNetLite0, tl::Linear>(path);
  const auto any = tl::load_any(path);
  CHECK_FALSE(typed.head().is_standardised());
  CHECK(typed.labels() == labels);
  CHECK(any.labels() == labels);
  CHECK(typed.preprocessing() == model.preprocessing());
  CHECK(any.preprocessing().size == 32);
  const auto batch = data.batch(first_ids(48));
  const Tensor p = model.predict(batch, tl::Precision::fp32), q = typed.predict(batch, tl::Precision::fp32);
  CHECK((p - q).abs().max().item<double>() <= 2e-6);
  CHECK((p.std(0).min().item<double>()) > 1e-3);  // predictions that tell pictures apart
  CHECK(same_bytes(q, any.predict(batch, tl::Precision::fp32)));

  const auto file = tl::open_checkpoint(path);
  CHECK(file.metadata.at("backbone") == "efficientnet_lite0");
  CHECK(file.metadata.at("head") == "linear");
  CHECK(file.metadata.at("target") == "class_index");
  CHECK(file.metadata.at("labels") == R"(["red \"one\"","grün","blå\\blue"])");
  CHECK_THAT(file.metadata.at("preprocessing"),
             ContainsSubstring("\"size\":32") && ContainsSubstring("\"interpolation\":\"bilinear\""));
  std::map<std::string, Tensor> tensors;
  for (const auto& view : file.tensors) tensors[view.name] = tl::detail::to_tensor(view, file.owner);
  CHECK(tensors.count("head.weight") == 1);
  CHECK(tensors.count("head.bias") == 1);
  CHECK(tensors.count("backbone._conv_stem.weight") == 1);
  CHECK(tensors.count("backbone._bn1.running_var") == 1);
  CHECK(tensors.count("backbone._fc.weight") == 0);  // the original's classifier is not the model's
  for (const auto& [name, tensor] : snapshot(*model.backbone_core().network))
    if (!name.starts_with("_fc")) CHECK(same_bytes(tensors.at("backbone." + name), tensor));
  // Folded: W x' + b of standardised x' is W' x + b' of x itself.
  const auto [mean, scale] = model.head().standardisation();
  const auto own = snapshot(model.head());
  CHECK(difference(tensors.at("head.weight"), own.at("weight") * scale) <= 1e-6);

  // The same model gives the same bytes; a loaded one, saved, too.
  tl::save(model, folder / "again.safetensors");
  tl::save(typed, folder / "loaded.safetensors");
  const auto bytes = [&](const char* name) { return tl::sha256(tl::MappedFile::open(folder / name)->bytes()); };
  CHECK(bytes("model.safetensors") == bytes("again.safetensors"));
  CHECK(bytes("model.safetensors") == bytes("loaded.safetensors"));

  CHECK(sentence_of<tl::WeightsError>([&] { tl::load<tl::EfficientNetLite1, tl::Linear>(path); }) ==
        tl::detail::text("the model in ", path, " is a efficientnet_lite0, not a efficientnet_lite1"));
  CHECK(sentence_of<tl::WeightsError>([&] { tl::load_any<tl::Values>(path); }) ==
        tl::detail::text("the model in ", path, " predicts class_index, not values"));
  CHECK(sentence_of<tl::WeightsError>([&] { tl::load<tl::EfficientNetLite0, tl::RegressionLinear>(path); }) ==
        tl::detail::text("the model in ", path, " predicts class_index, and this head values"));
  CHECK_THAT(sentence_of<tl::WeightsError>([&] { tl::load<tl::EfficientNetLite0, tl::Mlp>(path); }),
             StartsWith(tl::detail::text("the weights in ", path, " do not fit the network: 4 names are missing (")));
  const auto weights = folder / "weights.safetensors";
  tl::write_state_dict(weights, tl::state_dict(*model.backbone_core().network), {});
  CHECK(sentence_of<tl::WeightsError>([&] { tl::load_any(weights); }) ==
        tl::detail::text("the file ", weights,
                         " is no model that transferlib saved: its metadata has no \"transferlib.format\"; weights "
                         "alone go to Backbone<…>::pretrained(path)"));
  // … where they do.
  const auto from_file = tl::Backbone<tl::EfficientNetLite0>::pretrained(weights, {.size = 32});
  CHECK(same_bytes(snapshot(*from_file.core.network), snapshot(*model.backbone_core().network)));
  CHECK(from_file.core.source == "weights.safetensors");
}

TEST_CASE("Files of other heads and of a user's own network") {
  const Folder folder;
  const auto batch = colour_data(6, 32).batch(first_ids(6));
  {
    tl::Classifier model{tl::AnyBackbone(lively<tl::EfficientNetLite0>(32)), tl::FreezePolicy<tl::FreezeAll>{},
                         tl::any_head<tl::MultiLabel>("mlp:7"), colours};
    tl::save(model, folder / "mlp.safetensors");
    const auto back = tl::load_any<tl::MultiLabel>(folder / "mlp.safetensors");
    CHECK(same_bytes(model.predict(batch), back.predict(batch)));
    const auto typed = tl::load<tl::EfficientNetLite0, tl::MultiLabelMlp>(folder / "mlp.safetensors", {.width = 7});
    CHECK(same_bytes(model.predict(batch), typed.predict(batch)));
    CHECK(back.head().pointer()->description() == "mlp:7");
  }
  {
    tl::Classifier model{
        lively<StagedNet>(16), tl::FreezePolicy<tl::FreezeNone>{}, tl::Head<tl::RegressionLinear>{}, {"x", "y"}};
    tl::save(model, folder / "own.safetensors");
    const auto back = tl::load<StagedNet, tl::RegressionLinear>(folder / "own.safetensors");
    CHECK(same_bytes(model.predict(batch), back.predict(batch)));
    CHECK_THAT(sentence_of<tl::WeightsError>([&] { tl::load_any<tl::Values>(folder / "own.safetensors"); }),
               ContainsSubstring("stands on a network of its program's own, which only that program can build"));
  }
}

TEST_CASE("A backbone whose type is not known is the backbone that it was") {
  const auto typed = lively<SqueezeNet>(16);
  const tl::AnyBackbone any(typed);
  CHECK(any.layers().size() == typed.layers().size());
  CHECK(any.preprocessing() == typed.preprocessing());
  CHECK(any.features().width == typed.features().width);
  CHECK(any.core.network == typed.core.network);
}

TEST_CASE("Heads by description") {
  CHECK(sentence_of<tl::OptionError>([] { tl::any_head("mlp:0"); }) ==
        "there is no head \"mlp:0\"; write linear, or mlp:WIDTH as in mlp:128");
  CHECK_THAT(sentence_of<tl::OptionError>([] { tl::any_head("mlp:12x"); }), StartsWith("there is no head"));
  CHECK_THAT(sentence_of<tl::OptionError>([] { tl::any_head("dense"); }), StartsWith("there is no head \"dense\""));
  CHECK(sentence_of<tl::OptionError>([] {
          tl::Classifier model{lively<SqueezeNet>(16), tl::FreezePolicy<tl::FreezeAll>{},
                               tl::Head<tl::AnyHead<tl::ClassIndex>>{}, colours};
        }) == "AnyHead: no head was chosen; make it by any_head(Head<…>{…})");
  CHECK_THAT(sentence_of<tl::OptionError>([] { tl::any_backbone("efficientnet_light0"); }),
             StartsWith("there is no backbone called \"efficientnet_light0\"; the nearest are efficientnet_lite"));
}

TEST_CASE("Standardising and folding are the same function; start weights depend on the seed alone") {
  const tl::FeatureSpec spec{.channels = {}, .strides = {}, .width = 20, .classes = 4};
  const Tensor x = noise(6, 1, 20).flatten(1) * 3.0 + 5.0;
  const auto check = [&](auto& head) {
    const torch::NoGradGuard guard;
    const Tensor plain = head.forward({x}, {});
    Tensor deviation = x.std(0);
    deviation[3] = 0.0;  // never varies: it is left as it is
    head.standardise(x.mean(0), deviation);
    const Tensor standardised = head.forward({x}, {});
    CHECK(standardised.isfinite().all().template item<bool>());
    CHECK(difference(plain, standardised) > 1e-2);
    head.fold();
    CHECK_FALSE(head.is_standardised());
    CHECK(difference(head.forward({x}, {}), standardised) <= 1e-5);
    head.fold();
    CHECK(difference(head.forward({x}, {}), standardised) <= 1e-5);
  };
  tl::Linear linear(spec, {.seed = 4}), same(spec, {.seed = 4}), other(spec, {.seed = 5});
  CHECK(same_bytes(snapshot(linear), snapshot(same)));
  CHECK_FALSE(same_bytes(snapshot(linear), snapshot(other)));
  check(linear);
  tl::Mlp mlp(spec, {.width = 11});
  CHECK(snapshot(mlp).at("hidden.weight").sizes() == at::IntArrayRef{11, 20});
  CHECK(snapshot(mlp).at("output.weight").sizes() == at::IntArrayRef{4, 11});
  check(mlp);
}

TEST_CASE("Dropout is drawn from the pass alone and only in training") {
  const tl::FeatureSpec spec{.channels = {}, .strides = {}, .width = 400, .classes = 2};
  const Tensor x = at::ones({3, 400});
  tl::Linear head(spec, {.dropout = 0.25});
  const torch::NoGradGuard guard;
  const tl::Pass pass{.training = true, .seed = 3, .number = 7};
  const Tensor y = head.forward({x}, pass);
  CHECK(same_bytes(y, head.forward({x}, pass)));
  CHECK_FALSE(same_bytes(y, head.forward({x}, {.training = true, .seed = 3, .number = 8})));
  CHECK_FALSE(same_bytes(y, head.forward({x}, {.training = true, .seed = 4, .number = 7})));
  CHECK(same_bytes(head.forward({x}, {}), head.forward({x}, {.training = false, .seed = 3, .number = 7})));
  const Tensor dropped = tl::detail::dropout(x, 0.25, pass, 1);
  CHECK(dropped.eq(0.0).sum().item<Index>() > 200);
  CHECK(dropped.eq(0.0).sum().item<Index>() < 400);
  CHECK(dropped.max().item<float>() == 1.0F / 0.75F);
  CHECK_FALSE(same_bytes(dropped, tl::detail::dropout(x, 0.25, pass, 2)));
}

namespace {

/// A user's network that only its own arguments make.
template <class Base>
struct Own : Base {
  torch::nn::Conv2d conv{nullptr};
  Index width;
  explicit Own(Index w) : width(w) { reset(); }
  void reset() { conv = this->register_module("conv", torch::nn::Conv2d(3, width, 3)); }
  tl::Stages stages() { return {{"conv", conv}}; }
};
struct PlainOwn : Own<tl::Module> {
  using Own::Own;
};
struct CloneableOwn : Own<torch::nn::Cloneable<CloneableOwn>> {
  using Own::Own;
};

}  // namespace

TEST_CASE("A user's network is copied by what the user gave, by itself, or not, and says so then only") {
  const auto data = colour_data(6);
  const auto of = [&](auto network, std::function<std::shared_ptr<tl::Module>()> anew) {
    using N = typename decltype(network)::element_type;
    return tl::Classifier{tl::Backbone<N>::of(network, {.size = 16}, std::move(anew)),
                          tl::FreezePolicy<tl::FreezeAll>{}, tl::Head<tl::Linear>{}, colours};
  };
  const auto expect_copies = [&](const auto& model) {
    const auto copy = tl::clone(tl::clone(model));
    const auto& network = *model.backbone_core().network;
    CHECK(same_bytes(snapshot(*copy.backbone_core().network), snapshot(network)));
    CHECK(tl::state_dict(*copy.backbone_core().network)[0].second.data_ptr() !=
          tl::state_dict(network)[0].second.data_ptr());
    CHECK(same_bytes(copy.predict(data.batch(first_ids(6))), model.predict(data.batch(first_ids(6)))));
  };
  expect_copies(of(std::make_shared<PlainOwn>(5), [] { return std::make_shared<PlainOwn>(5); }));
  expect_copies(of(std::make_shared<CloneableOwn>(6), {}));
  auto alone = of(std::make_shared<PlainOwn>(7), {});
  CHECK(alone.predict(data.batch(first_ids(6))).size(0) == 6);
  CHECK(
      sentence_of<tl::OptionError>([&] { tl::clone(alone); }) ==
      "this network can't be made anew, as a copy of a model needs it: it has neither a constructor without arguments "
      "nor one from NetworkOptions, and is no torch::nn::Cloneable; give Backbone::of a function that makes one");
}

TEST_CASE("What no model can be made of, each with its sentence") {
  const Folder folder;
  tl::write_state_dict(folder / "other.safetensors", tl::state_dict(*lively<StagedNet>(16).core.network));
  CHECK(
      sentence_of<tl::WeightsError>([&] { tl::Backbone<SqueezeNet>::pretrained(folder / "other.safetensors"); }) ==
      tl::detail::text("the weights in ", folder / "other.safetensors",
                       " do not fit the network: 26 names are missing (stem.weight, stem_norm.weight, stem_norm.bias, "
                       "stem_norm.running_mean, stem_norm.running_var and 21 more); 13 are unexpected "
                       "(stem.1.num_batches_tracked, tail.1.num_batches_tracked, stem.0.weight, stem.1.weight, "
                       "stem.1.bias and 8 more); check that the file belongs to this network, or load with {.strict = "
                       "false}"));

  CHECK(
      sentence_of<tl::OptionError>([] { tl::Backbone<tl::EfficientNetLite0>::random({.size = 16}); }) ==
      "pictures of 16 pixels are too small for efficientnet_lite0: its smallest size is 32; set {.size = 32} or more");
  CHECK(sentence_of<tl::OptionError>([] { tl::Backbone<SqueezeNet>::random({.size = 16, .in_channels = 0}); }) ==
        "a network has at least 1 input channel, not 0");
  const auto with_labels = [](tl::Labels labels) {
    tl::Classifier model{lively<SqueezeNet>(16), tl::FreezePolicy<tl::FreezeAll>{}, tl::Head<tl::Linear>{},
                         std::move(labels)};
  };
  CHECK(sentence_of<tl::OptionError>([&] { with_labels({"mug"}); }) ==
        "there is one class only (mug), so there is nothing to tell apart; a classifier needs at least two");
  CHECK(sentence_of<tl::OptionError>([&] { with_labels({}); }) ==
        "a model needs labels: the data's, or a list of names");
  if (!at::hasCUDA()) {
    tl::Classifier model{lively<SqueezeNet>(16), tl::FreezePolicy<tl::FreezeAll>{}, tl::Head<tl::Linear>{}, colours};
    CHECK(sentence_of<tl::DeviceError>([&] { model.to(torch::Device("cuda:0")); }) ==
          "a CUDA device was asked for, and this LibTorch has none; use a CUDA build, or the device cpu");
    model.to(torch::Device("cpu"));
  }
  struct Nothing : tl::Module {
    tl::Stages stages() { return {}; }
  };
  CHECK(sentence_of<tl::OptionError>([] { tl::Backbone<Nothing>::random(); }) ==
        "a network's stages() is empty; it must name at least one part");
}

TEST_CASE("Predicting from several threads gives what one gives") {
  const auto check = [](const auto& model, Index size) {
    const auto data = colour_data(12, size);
    std::vector<Tensor> serial;
    for (Index i = 0; i < 12; ++i) serial.push_back(model.predict(data.batch(std::vector<Index>{i})));
    CHECK_FALSE(same_bytes(serial[0], serial[1]));
    const auto fresh = tl::clone(model);  // its engine is not made yet
    std::atomic<int> wrong = 0, done = 0;
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t)
      threads.emplace_back([&, t] {
        for (Index k = 0; k < 12; ++k) {
          const Index i = (k + 3 * t) % 12;
          if (!same_bytes(serial[static_cast<std::size_t>(i)], fresh.predict(data.batch(std::vector<Index>{i}))))
            ++wrong;
          ++done;
        }
      });
    for (auto& thread : threads) thread.join();
    CHECK(done == 48);
    CHECK(wrong == 0);
  };
  tl::Classifier lite{lively<tl::EfficientNetLite0>(32), tl::FreezePolicy<tl::FreezeAll>{}, tl::Head<tl::Linear>{},
                      colours};
  check(lite, 32);
  tl::Classifier own{lively<StagedNet>(16), tl::FreezePolicy<tl::FreezeNone>{}, tl::Head<tl::Mlp>{}, colours};
  own.backbone_core().network->train();
  check(own, 16);
}

TEST_CASE("A model that is moved predicts as before") {
  tl::Classifier model{lively<SqueezeNet>(16), tl::FreezePolicy<tl::FreezeAll>{}, tl::Head<tl::Linear>{}, colours};
  const auto batch = colour_data(4).batch(first_ids(4));
  const Tensor before = model.predict(batch);
  tl::Classifier moved = std::move(model);
  CHECK(same_bytes(before, moved.predict(batch)));
  std::vector<decltype(moved)> shelf;
  shelf.push_back(std::move(moved));
  shelf.push_back(tl::clone(shelf[0]));
  CHECK(same_bytes(before, shelf[0].predict(batch)));
  shelf[1] = std::move(shelf[0]);
  CHECK(same_bytes(before, shelf[1].predict(batch)));
}

TEST_CASE("Predictions follow the weights") {
  tl::Classifier model{lively<SqueezeNet>(16), tl::FreezePolicy<tl::FreezeAll>{}, tl::Head<tl::Linear>{}, colours};
  const auto batch = colour_data(4).batch(first_ids(4));
  const Tensor before = model.predict(batch, tl::Precision::fp32);
  const torch::NoGradGuard guard;
  const Tensor x = tl::preprocess(batch, model.preprocessing());
  CHECK(difference(before, at::softmax(model.forward(x), 1)) <= 1e-4);
  for (const auto& item : tl::state_dict(*model.backbone_core().network))
    if (item.first == "tail_norm.running_mean") Tensor(item.second).add_(1.0);
  const Tensor after = model.predict(batch, tl::Precision::fp32);
  CHECK(difference(after, before) > 1e-3);
  CHECK(difference(after, at::softmax(model.forward(x), 1)) <= 1e-4);
}

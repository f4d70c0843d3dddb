// Equality with the Python originals: numbers that tests/parity's scripts have made, tests/data/parity/*.json.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <catch2/catch_test_macros.hpp>

#include <transferlib/backbones/efficientnet.hpp>
#include <transferlib/core/files.hpp>
#include <transferlib/core/hash.hpp>
#include <transferlib/data/tensors_data.hpp>
#include <transferlib/engine/engine.hpp>
#include <transferlib/formats/json.hpp>
#include <transferlib/freeze/policy.hpp>
#include <transferlib/heads/vector_head.hpp>
#include <transferlib/model/backbone.hpp>
#include <transferlib/model/classifier.hpp>
#include <transferlib/train/optimizer.hpp>
#include <transferlib/train/trainer.hpp>
#include <transferlib/weights/pretrained.hpp>
#include <transferlib/weights/state_dict.hpp>

#include "formula.hpp"

using namespace transferlib;

namespace {

using transferlib::difference;
using transferlib::fill;

/// How far two programs' float32 numbers may be from each other, relative to the tensor's largest.
constexpr double tolerance = 1e-4;

/// As the network takes them, by the library's own preprocessing.
Tensor prepared(Index count, Index size) {
  Preprocessing p = EfficientNetLite0::card.preprocessing;
  p.size = size;
  return preprocess({{pictures(count, size)}, {}, {}}, p);
}

/// The same for a list of all numbers.
double difference_of_list(const Json& wanted, const Tensor& tensor) {
  const Tensor want = at::tensor(wanted.get<std::vector<double>>(), at::kDouble);
  REQUIRE(want.numel() == tensor.numel());
  return ((tensor.detach().to(at::kDouble).flatten() - want).abs().max() / want.abs().max()).item<double>();
}

Activations run(const Graph& graph, const Tensor& x, const std::vector<Index>& wanted) {
  const torch::NoGradGuard guard;
  return graph.run({x}, Cut{}, wanted, {}, std::vector<bool>(graph.table.rows.size(), true));
}

/// Without stochastic depth: what two programs draw is not the same.
struct Undrawn : EfficientNet {
  static constexpr Card card = EfficientNetLite0::card;
  explicit Undrawn(const NetworkOptions& o = {}) : EfficientNet(spec(), o) {}
  static EfficientNetSpec spec() {
    EfficientNetSpec out = transferlib::detail::lite_spec(1.0, 1.0, 0.2);
    out.stochastic_depth = 0.0;
    return out;
  }
};

template <class Network = EfficientNetLite0>
std::shared_ptr<Network> formula_network() {
  auto network = std::make_shared<Network>();
  fill(*network);
  return network;
}

/// How far features and logits are from Python's, the larger.
double difference(const Json& wanted, const Graph& graph, const Tensor& x) {
  const Activations y = run(graph, x, {graph.pooled, graph.logits});
  return std::max(difference(wanted["pooled"], y[0]), difference(wanted["logits"], y[1]));
}

/// The features' relative error in bfloat16: something, and less than Python's, which rounds after each norm as well.
void check_bf16(const Engine& engine, const Graph& graph, const Tensor& x, const Json& expected) {
  const Tensor exact = run(graph, x, {graph.pooled})[0], rough = engine(x)[0];
  const double error = ((rough - exact).norm() / exact.norm()).item<double>();
  CAPTURE(x.size(2), error);
  CHECK(error < expected["bfloat16"].get<double>());
  CHECK(error > 1e-3);
}

/// What tests/parity/make_efficientnet.py's `blocks` makes of a state dict.
Json blocks(const StateDict& state, bool with_bytes) {
  Json out = Json::array();
  std::vector<Sha256> hashes;
  for (const auto& [name, tensor] : state) {
    std::size_t end = name.find('.');
    if (name.starts_with("_blocks.")) end = name.find('.', end + 1);
    const std::string part = name.substr(0, end);
    if (out.empty() || out.elements().back()[0] != part) {
      out.push_back(Json::array({part, 0, ""}));
      hashes.emplace_back();
    }
    out.elements().back()[1] = out.elements().back()[1].get<int>() + 1;
    std::string line = name + " " + type_name(tensor.scalar_type());
    for (const Index side : tensor.sizes()) line += transferlib::detail::text(" ", side);
    line += '\n';
    hashes.back().add(std::as_bytes(std::span(line.data(), line.size())));
    if (with_bytes) {
      const Tensor t = tensor.detach().contiguous();
      hashes.back().add(std::span(static_cast<const std::byte*>(t.const_data_ptr()), t.nbytes()));
    }
  }
  for (std::size_t i = 0; i < out.size(); ++i) out[i][2] = hashes[i].hex().substr(0, 16);
  return out;
}

Optimizer optimizer_of(const Json& o) {
  const auto number = [&](const char* name, double otherwise) {
    return o.contains(name) ? o[name].get<double>() : otherwise;
  };
  const double lr = o["lr"].get<double>();
  if (o["kind"] == "SGD")
    return Sgd{.lr = lr,
               .momentum = number("momentum", 0.0),
               .weight_decay = number("weight_decay", 0.0),
               .nesterov = o.contains("nesterov") && o["nesterov"].get<bool>()};
  // What Python was not told is left to our defaults, which are to be Python's.
  if (o["kind"] == "Adam") {
    Adam out{.lr = lr};
    out.beta1 = number("beta1", out.beta1);
    out.beta2 = number("beta2", out.beta2);
    out.epsilon = number("eps", out.epsilon);
    out.weight_decay = number("weight_decay", out.weight_decay);
    return out;
  }
  REQUIRE(o["kind"] == "AdamW");
  AdamW out{.lr = lr};
  out.weight_decay = number("weight_decay", out.weight_decay);
  return out;
}

}  // namespace

TEST_CASE("EfficientNet-Lite0 computes what Python's does, stage by stage") {
  const Json json = python("efficientnet_lite0_formula.json");
  const auto network = formula_network();
  const Graph& graph = network->graph();
  std::vector<Index> wanted = graph.stages;
  wanted.push_back(graph.pooled);
  wanted.push_back(graph.logits);
  for (const auto& [size, expected] : json["sizes"].members()) {
    CAPTURE(size);
    const Activations y = run(graph, prepared(json["pictures"].get<Index>(), std::stoll(size)), wanted);
    REQUIRE(expected["stages"].size() == graph.stages.size());
    for (std::size_t s = 0; s < graph.stages.size(); ++s) {
      CAPTURE(s);
      // Neither a signal that has died nor one that has exploded could tell right from wrong.
      const double deviation = expected["stages"][s]["deviation"].get<double>();
      REQUIRE((deviation >= 0.1 && deviation <= 10.0));
      CHECK(difference(expected["stages"][s], y[s]) < tolerance);
    }
    CHECK(difference(expected["pooled"], y[y.size() - 2]) < tolerance);
    CHECK(difference(expected["logits"], y[y.size() - 1]) < tolerance);
  }
}

TEST_CASE("the tolerance tells a right network from a slightly wrong one") {
  const Json json = python("efficientnet_lite0_formula.json");
  const Index count = json["pictures"].get<Index>();
  for (const auto& [size, expected] : json["sizes"].members()) {
    CAPTURE(size);
    const Tensor x = prepared(count, std::stoll(size));
    const auto network = formula_network();
    const Graph& graph = network->graph();
    REQUIRE(difference(expected, graph, x) < tolerance);

    SECTION("PyTorch's epsilon, at " + size) {
      for (const auto& module : network->modules())
        if (auto* norm = dynamic_cast<nn::BatchNorm2d*>(module.get())) norm->epsilon = 1e-5;
      CHECK(difference(expected, graph, x) > tolerance);
    }
    SECTION("symmetric padding, at " + size) {
      for (const auto& module : network->modules())
        if (auto* conv = dynamic_cast<nn::Conv2d*>(module.get())) {
          conv->options.same = false;
          conv->options.padding = conv->options.kernel / 2;
        }
      CHECK(difference(expected, graph, x) > tolerance);
    }
    SECTION("blue, green, red, at " + size) { CHECK(difference(expected, graph, x.flip(1)) > tolerance); }
    SECTION("rows for columns, at " + size) { CHECK(difference(expected, graph, x.transpose(2, 3)) > tolerance); }
    SECTION("127.5 for 127, at " + size) { CHECK(difference(expected, graph, x - 0.5 / 128.0) > tolerance); }
  }
}

TEST_CASE("the engine with folded batch norm computes what Python does without") {
  const Json json = python("efficientnet_lite0_formula.json");
  const auto network = formula_network();
  const Graph& graph = network->graph();
  // One engine for every size, so that others than the one it was made for are run too.
  const std::vector<Index> input{3, 64, 64}, wanted{graph.pooled, graph.logits};
  const Engine engine(graph, wanted, input, {.precision = Precision::fp32});
  CHECK(engine.explain().find("with batch norm") != std::string::npos);
  std::vector<Index> stages = graph.stages;
  const Engine pyramid(graph, stages, input, {.precision = Precision::fp32});
  for (const auto& [size, expected] : json["sizes"].members()) {
    CAPTURE(size);
    const Tensor x = prepared(json["pictures"].get<Index>(), std::stoll(size));
    const Activations y = engine(x);
    CHECK(difference(expected["pooled"], y[0]) < tolerance);
    CHECK(difference(expected["logits"], y[1]) < tolerance);
    const Activations maps = pyramid(x);
    for (std::size_t s = 0; s < maps.size(); ++s) CHECK(difference(expected["stages"][s], maps[s]) < tolerance);
  }
}

TEST_CASE("the engine in bfloat16 errs less than Python does in bfloat16") {
  if (!transferlib::detail::has_native_bf16()) SKIP("this processor does not compute in bfloat16");
  const Json json = python("efficientnet_lite0_formula.json");
  const auto network = formula_network();
  const Graph& graph = network->graph();
  const std::vector<Index> input{3, 64, 64}, wanted{graph.pooled};
  const Engine engine(graph, wanted, input, {.precision = Precision::bf16});
  REQUIRE(engine.precision() == Precision::bf16);
  for (const auto& [size, expected] : json["sizes"].members())
    check_bf16(engine, graph, prepared(json["pictures"].get<Index>(), std::stoll(size)), expected);
}

TEST_CASE("names, types, shapes and order of every EfficientNet-Lite are the original's") {
  const Json json = python("efficientnet_lite_names.json");
  REQUIRE(json.size() == 5);
  const auto check = [&](const Module& network, const char* name) {
    CAPTURE(name);
    const Json& expected = json[name];
    const StateDict state = state_dict(network);
    CHECK(static_cast<Index>(state.size()) == expected["tensors"].get<Index>());
    Index parameters = 0;
    for (const Tensor& p : network.parameters()) parameters += p.numel();
    CHECK(parameters == expected["parameters"].get<Index>());
    const Json got = blocks(state, false);
    CHECK(got.size() == expected["blocks"].size());
    for (std::size_t i = 0; i < std::min(got.size(), expected["blocks"].size()); ++i)
      CHECK(got[i].dump() == expected["blocks"][i].dump());
  };
  check(EfficientNetLite0(), EfficientNetLite0::card.name);
  check(EfficientNetLite1(), EfficientNetLite1::card.name);
  check(EfficientNetLite2(), EfficientNetLite2::card.name);
  check(EfficientNetLite3(), EfficientNetLite3::card.name);
  check(EfficientNetLite4(), EfficientNetLite4::card.name);
}

TEST_CASE("the published EfficientNet-Lite0 reads and computes as in Python") {
  std::filesystem::path file;
  try {
    file = find_weights(EfficientNetLite0::card);
  } catch (const WeightsError& e) {
    SKIP(e.what());
  }
  const Json json = python("efficientnet_lite0_published.json");
  REQUIRE(json["file"] == EfficientNetLite0::card.file);

  const StateDict state = read_state_dict(file);
  const Json got = blocks(state, true);
  REQUIRE(got.size() == json["blocks"].size());
  for (std::size_t i = 0; i < got.size(); ++i) CHECK(got[i].dump() == json["blocks"][i].dump());
  REQUIRE(state.size() == json["sums"].size());
  for (std::size_t i = 0; i < state.size(); ++i) {
    CAPTURE(state[i].first);
    const Tensor x = state[i].second.to(at::kDouble);
    CHECK(std::abs(x.sum().item<double>() - json["sums"][i].get<double>()) <=
          1e-11 * std::max(1.0, x.abs().sum().item<double>()));
  }

  for (const auto& [size, expected] : json["sizes"].members()) {
    CAPTURE(size);
    const Index side = std::stoll(size);
    const auto backbone = Backbone<EfficientNetLite0>::pretrained({.size = side});
    const Graph& graph = backbone.core.graph;
    const Tensor x = prepared(json["pictures"].get<Index>(), side);
    const std::vector<Index> wanted{graph.pooled, graph.logits};
    const Activations y = run(graph, x, wanted);
    CHECK(difference(expected["pooled"], y[0]) < tolerance);
    CHECK(difference(expected["logits"], y[1]) < tolerance);
    const auto stages = run(graph, x, graph.stages);
    for (std::size_t s = 0; s < stages.size(); ++s) CHECK(difference(expected["stages"][s], stages[s]) < tolerance);
    const std::vector<Index> input{3, side, side};
    const Activations z = Engine(graph, wanted, input, {.precision = Precision::fp32})(x);
    CHECK(difference(expected["pooled"], z[0]) < tolerance);
    CHECK(difference(expected["logits"], z[1]) < tolerance);
    if (transferlib::detail::has_native_bf16())
      check_bf16(Engine(graph, std::vector<Index>{graph.pooled}, input, {.precision = Precision::bf16}), graph, x,
                 expected);
  }
}

TEST_CASE("checkpoints that Python wrote become its tensors") {
  const auto folder = data_folder() / "checkpoints";
  // Number i of a tensor is i + 1 in the tensor's type, as tests/parity/make_checkpoints.py says.
  const auto formula = [](at::IntArrayRef shape, at::ScalarType type) {
    Index count = 1;
    for (const Index side : shape) count *= side;
    Tensor x = at::arange(1, count + 1, at::kDouble);
    if (type == at::kBool)
      x = x.remainder(2) == 1;
    else if (at::isComplexType(type))
      x = at::complex(x, -x);
    else if (type == at::kFloat8_e8m0fnu)
      x = at::pow(2.0, (x - 1).remainder(8));
    if (at::isFloat8Type(type)) x = x.to(at::kFloat);
    return x.to(type).reshape(shape);
  };
  const auto same = [](const Tensor& a, const Tensor& b) {
    if (a.scalar_type() != b.scalar_type() || a.sizes() != b.sizes()) return false;
    if (a.numel() == 0) return true;
    const Tensor x = a.contiguous(), y = b.contiguous();
    return std::memcmp(x.const_data_ptr(), y.const_data_ptr(), x.nbytes()) == 0;
  };

  const std::map<std::string, at::ScalarType> types{{"float64", at::kDouble},
                                                    {"float32", at::kFloat},
                                                    {"float16", at::kHalf},
                                                    {"bfloat16", at::kBFloat16},
                                                    {"int64", at::kLong},
                                                    {"int32", at::kInt},
                                                    {"int16", at::kShort},
                                                    {"int8", at::kChar},
                                                    {"uint64", at::kUInt64},
                                                    {"uint32", at::kUInt32},
                                                    {"uint16", at::kUInt16},
                                                    {"uint8", at::kByte},
                                                    {"bool", at::kBool},
                                                    {"complex64", at::kComplexFloat},
                                                    {"complex128", at::kComplexDouble},
                                                    {"float8_e4m3fn", at::kFloat8_e4m3fn},
                                                    {"float8_e5m2", at::kFloat8_e5m2},
                                                    {"float8_e4m3fnuz", at::kFloat8_e4m3fnuz},
                                                    {"float8_e5m2fnuz", at::kFloat8_e5m2fnuz},
                                                    {"float8_e8m0fnu", at::kFloat8_e8m0fnu}};
  for (const std::string file : {"types.pth", "types_legacy.pth", "types.safetensors"}) {
    CAPTURE(file);
    const StateDict state = read_state_dict(folder / file);
    CHECK(state.size() == (file == "types.safetensors" ? types.size() - 1 : types.size()));
    for (const auto& [name, tensor] : state) {
      CAPTURE(name);
      CHECK(same(tensor, formula({2, 3}, types.at(name))));
    }
  }
  for (const std::string file : {"shapes.pth", "shapes_legacy.pth"}) {
    CAPTURE(file);
    const StateDict state = read_state_dict(folder / file);
    const Tensor base = formula({4, 5}, at::kFloat);
    const StateDict expected{{"base", base},
                             {"transposed", base.t()},
                             {"column", base.select(1, 2)},
                             {"block", base.narrow(0, 1, 2).narrow(1, 1, 3)},
                             {"expanded", at::ones({2, 3})},
                             {"scalar", at::full({}, 7.0)},
                             {"empty", at::zeros({0, 3})},
                             {"parameter", formula({3}, at::kFloat)},
                             {"tied", formula({3}, at::kFloat)}};
    REQUIRE(state.size() == expected.size());
    for (std::size_t i = 0; i < state.size(); ++i) {
      CAPTURE(expected[i].first);
      CHECK(state[i].first == expected[i].first);
      CHECK(same(state[i].second, expected[i].second));
    }
  }
  for (const char* file : {"small.pth", "small_legacy.pth", "small.safetensors", "protocol1.pth", "protocol3.pth",
                           "protocol4.pth", "protocol5.pth", "protocol1_legacy.pth", "protocol4_legacy.pth", "cuda.pth",
                           "cuda_legacy.pth", "no_checksums.pth"}) {
    CAPTURE(file);
    const StateDict list = read_state_dict(folder / file);
    const std::map<std::string, Tensor> state(list.begin(), list.end());
    REQUIRE(state.size() == 3);
    CHECK(same(state.at("weight"), formula({2, 3}, at::kFloat)));
    CHECK(same(state.at("bias"), formula({2}, at::kFloat)));
    CHECK(same(state.at("count"), at::full({}, 5, at::kLong)));
  }
  // Wrapped as training programs do: the state dict inside is found, and the wrappers' prefix is taken off.
  for (const auto& [file, prefix] :
       std::map<std::string, std::string>{{"module.pth", ""}, {"nested.pth", ""}, {"lightning.pth", "model."}}) {
    CAPTURE(file);
    Module net;
    const auto linear = net.register_module("0", std::make_shared<nn::Linear>(2, 1));
    const auto norm = net.register_module("1", std::make_shared<nn::BatchNorm2d>(1));
    const LoadReport report = load_state_dict(net, read_state_dict(folder / file));
    CHECK(report.loaded == 7);
    CHECK(report.prefix == prefix);
    CHECK(same(linear->weight, formula({1, 2}, at::kFloat)));
    CHECK(same(norm->batches, at::full({}, 1, at::kLong)));
    CHECK(norm->running_var.item<float>() != 1.0F);
  }
}

TEST_CASE("ten steps of every optimiser are torch.optim's") {
  const Json json = python("optimizers.json");
  Tensor x = at::empty({8, 4}), y = at::empty({8, 3});
  fill("problem.x", x);
  fill("problem.y", y);
  REQUIRE(json.size() == 9);
  for (const auto& [name, expected] : json.members()) {
    CAPTURE(name);
    Tensor w = at::empty({3, 4}), b = at::empty({3}), idle = at::ones({2});
    fill("problem.weight", w);
    fill("problem.bias", b);
    for (Tensor* p : {&w, &b, &idle}) p->set_requires_grad(true);
    transferlib::detail::OptimizerState optimizer({{"w", w}, {"b", b}, {"idle", idle}}, optimizer_of(expected));
    std::vector<double> losses;
    for (std::size_t step = 0; step < expected["losses"].size(); ++step) {
      optimizer.zero_gradients();
      const Tensor loss = at::mse_loss(at::linear(x, w, b), y);
      loss.backward();
      optimizer.step();
      losses.push_back(loss.item<double>());
    }
    CHECK(losses.size() == 10);
    CHECK(difference_of_list(expected["losses"], at::tensor(losses, at::kDouble)) < 1e-6);
    CHECK(difference_of_list(expected["weight"], w) < 1e-6);
    CHECK(difference_of_list(expected["bias"], b) < 1e-6);
    CHECK(at::equal(idle, at::ones({2})));
  }
}

TEST_CASE("five steps of fine-tuning are Python's by hand") {
  const Json json = python("training.json");
  const Index count = json["pictures"].get<Index>(), classes = json["classes"].get<Index>();
  Labels labels;
  for (Index c = 0; c < classes; ++c) labels.push_back(transferlib::detail::text("class ", c));
  const TensorData<ClassIndex> data(pictures(count, json["size"].get<Index>()), at::arange(count) % classes, labels);
  const std::map<std::string, AnyRule> rules{{"head alone", FreezeAll{}},
                                             {"frozen norms", FreezeUntil{"_blocks.12"} || FreezeBatchNorm{}},
                                             {"frozen norms, AdamW", FreezeUntil{"_blocks.12"} || FreezeBatchNorm{}},
                                             {"live norms", FreezeUntil{"_blocks.12"}},
                                             {"all convolutions", FreezeBatchNorm{}}};
  REQUIRE(json["cases"].size() == rules.size());
  for (const auto& [name, expected] : json["cases"].members()) {
    CAPTURE(name);
    Classifier model{Backbone<Undrawn>::of(formula_network<Undrawn>(), {.size = json["size"].get<Index>()}),
                     FreezePolicy<AnyRule>{rules.at(name)}, Head<Linear>{{.standardise = false}}, labels};
    fill(model.head(), "head.");
    Index trained = 0;
    for (const Tensor& p : model.trainable_parameters()) trained += p.numel();
    CHECK(trained == expected["trained"].get<Index>());

    const Index steps = static_cast<Index>(expected["losses"].size());
    Trainer trainer{
        model, {.epochs = steps, .batch = count, .optimizer = optimizer_of(expected), .precision = Precision::fp32}};
    const auto losses = trainer.fit(data, data)["train_loss"];
    CHECK(difference_of_list(expected["losses"], at::tensor(losses, at::kDouble)) < tolerance);

    StateDict state = state_dict(*model.backbone_core().network);
    state.emplace_back("head.weight", model.head().named_parameters()["weight"]);
    Index compared = 0;
    for (const auto& [key, tensor] : state)
      if (expected.contains(key)) {
        CAPTURE(key);
        CHECK(difference(expected[key], tensor) < tolerance);
        ++compared;
      }
    CHECK(compared == 6);
  }
}

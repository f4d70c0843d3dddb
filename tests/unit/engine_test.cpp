// The inference engine against the plain network, and the activation cache's file.
#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <transferlib/backbones/convnext.hpp>
#include <transferlib/engine/cache.hpp>
#include <transferlib/engine/cache_folder.hpp>
#include <transferlib/engine/engine.hpp>
#include <transferlib/train/features.hpp>

#include "toys.hpp"

namespace tl = transferlib;
using namespace toys;
using Catch::Matchers::ContainsSubstring;
using Catch::Matchers::EndsWith;

namespace {

/// Convolutions and sums, joined as a test wants it.
struct Sums : tl::Plan {
  Sums() : Plan("Sums") {}
  Index conv(Index x, Index in = 4) {
    return call(declare_convolution(tl::detail::text("conv", graph().table.size()),
                                    {.in = in, .out = 4, .kernel = 3, .padding = 1, .bias = true}),
                {x});
  }
  Index norm(Index x) { return call(declare_norm(tl::detail::text("norm", graph().table.size()), 4), {x}); }
  Index act(Index x, tl::Activation a = tl::Activation::relu) {
    return call(declare_activation(tl::detail::text("act", graph().table.size()), a), {x});
  }
  Index drop(Index x) { return call(declare_dropout(tl::detail::text("drop", graph().table.size()), 0.5), {x}); }
  using Plan::add;
  using Plan::call;
  using Plan::declare_convolution;
  using Plan::declare_norm;
  using Plan::declare_squeeze;
  using Plan::multiply;
};

/// Whether the engine gives what the plain network gives, for these values, in one call and in a second one.
/// \returns how many residual sums the engine has fused
Index agrees(Sums& net, const std::vector<Index>& wanted) {
  enliven(net);
  const torch::NoGradGuard guard;
  const tl::Graph& graph = net.graph();
  const Tensor x = noise(3, 9);
  const Tensor kept = x.clone();
  const std::vector<bool> frozen(graph.table.rows.size(), true);
  const auto plain = graph.run({x}, tl::Cut{}, wanted, {}, frozen);
  const Index input[3] = {3, 9, 9};
  const tl::Engine engine(graph, wanted, input, {.precision = tl::Precision::fp32, .piece = 3});
  for (int call = 0; call < 2; ++call) {
    const auto got = engine(x);
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      INFO("value of step " << wanted[i] << "\n" << engine.explain());
      CHECK(difference(got[i], plain[i]) <= 1e-5);
    }
  }
  CHECK(same_bytes(x, kept));
  Index fused = 0;
  const std::string how = engine.explain();
  for (auto at = how.find("addition"); at != std::string::npos; at = how.find("addition", at + 1)) ++fused;
  return fused;
}

}  // namespace

TEST_CASE("The engine in fp32 against the plain network: EfficientNet-Lite0") {
  const auto backbone = lively<tl::EfficientNetLite0>(64);
  const tl::Graph& graph = backbone.core.graph;
  const torch::NoGradGuard guard;
  std::vector<Index> wanted = graph.stages;
  wanted.push_back(graph.pooled);
  wanted.push_back(graph.logits);
  const Tensor x = noise(3, 64);
  const auto plain = graph.run({x}, tl::Cut{}, wanted, {}, backbone.core.frozen);
  // The activations live: otherwise nothing would be compared.
  for (const Tensor& t : plain) {
    CHECK(t.std().item<double>() > 0.05);
    CHECK(t.std().item<double>() < 50.0);
  }
  CHECK(difference(plain.back()[0], plain.back()[1]) > 0.05);

  const Index input[3] = {3, 64, 64};
  const auto agree = [&](const tl::EngineOptions& options, double tolerance) {
    const tl::Engine engine(graph, wanted, input, options);
    const auto got = engine(x);
    double worst = 0.0;
    for (std::size_t i = 0; i < wanted.size(); ++i)
      worst = std::max(worst, difference(got[i].to(at::kFloat), plain[i]));
    CHECK(worst <= tolerance);
    // Pictures do not depend on their neighbours.
    CHECK(difference(engine(x.narrow(0, 1, 1))[0].to(at::kFloat), got[0].narrow(0, 1, 1).to(at::kFloat)) <= tolerance);
    return worst;
  };
  agree({.precision = tl::Precision::fp32, .piece = 3}, 1e-4);
  agree({.precision = tl::Precision::fp32, .piece = 32}, 1e-4);
  const tl::Engine exact(graph, wanted, input, {.precision = tl::Precision::fp32, .fold = false});
  const auto got = exact(x);
  for (std::size_t i = 0; i < wanted.size(); ++i) CHECK(same_bytes(got[i], plain[i]));
  // Coarse, but of the same picture.
  CHECK(agree({.precision = tl::Precision::bf16, .piece = 3}, 0.25) > 1e-6);

  // Other sizes than the weights were packed for run too.
  const tl::Engine engine(graph, {&graph.pooled, 1}, input, {.precision = tl::Precision::fp32});
  const Tensor larger = noise(2, 96);
  CHECK(difference(engine(larger)[0],
                   graph.run({larger}, tl::Cut{}, std::vector{graph.pooled}, {}, backbone.core.frozen)[0]) <= 1e-4);
}

TEST_CASE(
    "Other sizes get weights in their own layout: values of any order of sizes are those of an engine for that size") {
  const auto backbone = lively<tl::EfficientNetLite0>(96);
  const tl::Graph& graph = backbone.core.graph;
  const torch::NoGradGuard guard;
  const std::vector<Index> wanted{graph.map};
  // On processors with AMX the small maps want another layout in bfloat16 than the large ones.
  for (const auto precision : {tl::Precision::fp32, tl::Precision::bf16}) {
    const Index input[3] = {3, 384, 384};
    const tl::Engine engine(graph, wanted, input, {.precision = precision});
    std::vector<Tensor> pictures, expected;
    for (const auto& [n, size] : {std::pair<Index, Index>{1, 96}, {2, 128}, {1, 224}, {3, 96}}) {
      pictures.push_back(noise(n, size));
      const Index own[3] = {3, size, size};
      expected.push_back(tl::Engine(graph, wanted, own, {.precision = precision, .piece = n})(pictures.back())[0]);
    }
    std::vector<double> worst(4, 1.0);
    std::vector<std::thread> threads;
    for (std::size_t t = 0; t < 4; ++t)
      threads.emplace_back([&, t] {
        worst[t] = 0.0;
        for (std::size_t i = 0; i < 8; ++i) {
          const std::size_t which = (i + t) % 4;
          worst[t] =
              std::max(worst[t], difference(engine(pictures[which])[0].to(at::kFloat), expected[which].to(at::kFloat)));
        }
      });
    for (std::thread& thread : threads) thread.join();
    for (double w : worst) CHECK(w <= (precision == tl::Precision::bf16 ? 1e-2 : 1e-5));
  }

  // One convolution: what is packed again is told apart by its layout, and kept.
  const tl::nn::Conv2dOptions numbers{.in = 192, .out = 1152};
  const Tensor plain = at::linspace(-1.0, 1.0, 1152 * 192).view({1152, 192, 1, 1});
  const auto pack = [&](at::IntArrayRef sizes) {
    return at::mkldnn_reorder_conv2d_weight(plain.to_mkldnn(), {0, 0}, {1, 1}, {1, 1}, 1, sizes);
  };
  tl::detail::PackedWeights weights(pack({32, 192, 24, 24}), {32, 192, 24, 24}, numbers);
  const Tensor first = weights.of({32, 192, 24, 24}, 0, 0), other = weights.of({1, 192, 6, 8}, 0, 0);
  CHECK(at::equal(first.to_dense(), plain));
  CHECK(at::equal(other.to_dense(), plain));
  CHECK(weights.of({1, 192, 6, 8}, 0, 0).is_same(other));
  CHECK(weights.of({32, 192, 24, 24}, 0, 0).is_same(first));
}

TEST_CASE("explain tells each call and the totals") {
  const auto backbone = lively<tl::EfficientNetLite0>(32);
  const tl::Graph& graph = backbone.core.graph;
  const Index input[3] = {3, 32, 32};
  const tl::Engine engine(graph, {&graph.pooled, 1}, input, {.precision = tl::Precision::fp32});
  const std::string how = engine.explain();
  CHECK_THAT(how, ContainsSubstring("_conv_stem: convolution with batch norm, relu6\n"));
  CHECK_THAT(how, ContainsSubstring("_blocks.2._project_conv: convolution with batch norm, addition\n"));
  CHECK_THAT(how, ContainsSubstring("_avg_pooling: pool, as it is\n"));
  // 49 convolutions (a stem, 15 blocks of three, one of two, a head), each with all that follows it; and the pool.
  CHECK_THAT(how, ContainsSubstring("\n50 calls in fp32: 49 fused of 140 steps, 1 as they are\n"));
  CHECK(std::count(how.begin(), how.end(), '\n') == 52);
  // The largest neighbours: a block's 96 channels of 16 x 16, of 8 x 8 and its input, 16 channels of 16 x 16. Weights
  // in float32, a bias of its own for each convolution.
  CHECK(engine.peak_bytes() == Index{4} * 32 * (96 * 16 * 16 + 96 * 8 * 8));
  CHECK(engine.weight_bytes() > 4 * 3'300'000);
  CHECK(engine.weight_bytes() < 4 * 3'500'000);
  CHECK_THAT(how, EndsWith(tl::detail::text("\nmemory: at most ", (engine.peak_bytes() + (1 << 20) - 1) >> 20,
                                            " MiB of values at a time for 32 pictures, 13 MiB of weights\n")));
  const tl::Engine plain(graph, {&graph.pooled, 1}, input, {.precision = tl::Precision::fp32, .fold = false});
  CHECK_THAT(plain.explain(), ContainsSubstring(tl::detail::text(graph.pooled, " calls in fp32: 0 fused of 0 steps, ",
                                                                 graph.pooled, " as they are\n")));
  CHECK(sentence_of<tl::OptionError>([&] {
          tl::Engine(graph, {&graph.pooled, 1}, input, {.precision = tl::Precision::fp16});
        }) == "fp16 is for GPUs: on the CPU choose bf16, fp32 or auto");
}

TEST_CASE("A residual sum takes the place of its summand where nobody needs that any more") {
  {
    Sums net;  // the ordinary block
    const Index skip = net.act(net.norm(net.conv(0, 3)));
    const Index sum = net.add(net.norm(net.conv(net.act(net.conv(skip)))), skip);
    CHECK(agrees(net, {sum}) == 1);
  }
  {
    Sums net;  // two in a row, and an activation behind
    const Index a = net.conv(0, 3);
    const Index b = net.add(net.conv(net.act(net.conv(a))), a);
    const Index c = net.act(net.add(b, net.norm(net.conv(net.act(net.conv(b))))));
    CHECK(agrees(net, {c}) == 2);
  }
}

TEST_CASE("A residual sum never overwrites what is still needed") {
  const auto block = [](Sums& net, Index skip) { return net.add(net.norm(net.conv(net.act(net.conv(skip)))), skip); };
  {
    Sums net;  // used later
    const Index skip = net.conv(0, 3);
    const Index sum = block(net, skip);
    CHECK(agrees(net, {net.multiply(net.act(sum), skip)}) == 0);
  }
  {
    Sums net;  // used later by another convolution
    const Index skip = net.conv(0, 3);
    const Index sum = block(net, skip);
    CHECK(agrees(net, {net.add(net.conv(skip), sum)}) == 1);  // it is the second sum that may
  }
  {
    Sums net;  // wanted
    const Index skip = net.conv(0, 3);
    const Index sum = block(net, skip);
    CHECK(agrees(net, {skip, sum}) == 0);
  }
  {
    Sums net;  // read by the very convolution that would write there
    const Index a = net.conv(0, 3);
    CHECK(agrees(net, {net.act(net.add(net.conv(a), a))}) == 0);
  }
  {
    Sums net;  // the input itself
    CHECK(agrees(net, {net.add(net.call(net.declare_convolution("c", {.in = 3, .out = 3}), {0}), 0)}) == 0);
  }
  {
    Sums net;  // both summands are one value
    const Index a = net.conv(0, 3);
    CHECK(agrees(net, {net.act(net.add(a, a))}) == 0);
  }
  {
    Sums net;  // the same memory under another name: dropout is the identity here
    const Index a = net.conv(0, 3);
    const Index same = net.drop(a);
    const Index sum = net.add(net.conv(same), a);
    CHECK(agrees(net, {net.multiply(sum, same)}) == 0);
  }
  {
    Sums net;  // … and wanted under that name
    const Index a = net.conv(0, 3);
    const Index same = net.act(a, tl::Activation::identity);
    const Index sum = net.add(net.conv(same), a);
    CHECK(agrees(net, {sum, same}) == 0);
  }
  {
    Sums net;  // one that is no memory of its own
    const Index a = net.conv(0, 3);
    const Index same = net.drop(a);
    const Index b = net.conv(a);
    CHECK(agrees(net, {net.add(b, same), a}) == 0);
  }
  {
    Sums net;  // of another shape: one place for all
    const Index a = net.conv(0, 3);
    const Index squeezed = net.call(net.declare_squeeze("squeeze"), {a});
    const Index gate = net.call(net.declare_convolution("gate", {.in = 4, .out = 4}), {squeezed});
    CHECK(agrees(net, {net.add(net.conv(a), gate)}) == 0);
  }
}

TEST_CASE("ConvNeXt's blocks: a linear layer takes another order, a scale and a sum along") {
  tl::ConvNeXt net({.blocks = {1, 2, 1, 1}, .width = 8}, {});
  enliven(net);
  const torch::NoGradGuard guard;
  const tl::Graph& graph = net.graph();
  const Tensor x = noise(3, 64);
  const std::vector<Index> wanted{graph.stages[0], graph.stages[1], graph.pooled};
  const std::vector<bool> frozen(graph.table.rows.size(), true);
  const auto plain = graph.run({x}, tl::Cut{}, wanted, {}, frozen);
  const Index input[3] = {3, 64, 64};
  const tl::Engine engine(graph, wanted, input, {.precision = tl::Precision::fp32, .piece = 3});
  const std::string how = engine.explain();
  for (const char* block : {"1.0", "3.0", "3.1", "5.0", "7.0"})
    CHECK_THAT(how, ContainsSubstring(tl::detail::text(
                        "features.", block, ".block.5: linear with another order, scale, dropout, addition\n")));
  for (int call = 0; call < 2; ++call) {
    const auto got = engine(x);
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      CHECK(plain[i].std().item<double>() > 0.05);
      CHECK(difference(got[i], plain[i]) <= 1e-5);
    }
  }
}

TEST_CASE("Many pictures pass in equal pieces that fit a cache, and a call's time comes with its cost") {
  const auto backbone = lively<tl::EfficientNetLite0>(128);
  const tl::Graph& graph = backbone.core.graph;
  const torch::NoGradGuard guard;
  const std::vector<Index> wanted{graph.stages[1], graph.pooled};
  const Index input[3] = {3, 128, 128};
  const tl::Engine engine(graph, wanted, input, {.precision = tl::Precision::fp32});
  // 96 channels of 64 x 64 from 16: 1.75 MiB a picture.
  CHECK(engine.piece() == 8);
  CHECK(tl::Engine(graph, wanted, std::array<Index, 3>{3, 32, 32}, {.precision = tl::Precision::fp32}).piece() == 32);
  const Tensor x = noise(17, 128);
  const auto all = engine(x);
  for (Index from = 0; from < 17; from += 6) {  // three pieces of 6, 6 and 5
    const Index count = std::min<Index>(6, 17 - from);
    const auto some = engine(x.narrow(0, from, count));
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      REQUIRE(all[i].size(0) == 17);
      CHECK(same_bytes(all[i].narrow(0, from, count), some[i]));
    }
  }

  const auto calls = engine.time_calls(x, 2);
  const auto measured = graph.measure(3, 128);
  const auto need = graph.needed(wanted);
  Index expected = 0, counted = 0;
  for (std::size_t s = 0; s < need.size(); ++s)
    if (need[s]) expected += measured.multiply_adds[s];
  for (const auto& call : calls) {
    CHECK(call.seconds >= 0.0);
    CHECK(call.seconds < 60.0);
    CHECK(call.bytes > 0);
    CHECK_THAT(engine.explain(), ContainsSubstring(call.what + "\n"));
    counted += call.multiply_adds;
  }
  CHECK(counted == 8 * expected);
}

TEST_CASE("The first convolution takes a depthwise one along, and nobody else's input") {
  if (tl::detail::kernels().bf16.folded_first == nullptr || tl::detail::multiplies_tiles())
    SKIP("this processor has no kernel for it");
  const auto backbone = lively<tl::EfficientNetLite0>(64);
  const tl::Graph& graph = backbone.core.graph;
  const torch::NoGradGuard guard;
  const Index input[3] = {3, 64, 64};
  const auto how = [&](const std::vector<Index>& wanted) {
    const tl::Engine engine(graph, wanted, input, {.precision = tl::Precision::bf16});
    const Tensor x = noise(3, 64);
    const auto plain = graph.run({x}, tl::Cut{}, wanted, {}, backbone.core.frozen);
    const auto got = engine(x);
    for (std::size_t i = 0; i < wanted.size(); ++i) CHECK(difference(got[i].to(at::kFloat), plain[i]) <= 0.25);
    const std::string all = engine.explain();
    return all.substr(0, all.find('\n', all.find("convolution")));
  };
  CHECK_THAT(how({graph.pooled}),
             EndsWith("convolution with batch norm, relu6, depthwise convolution, batch norm, relu6"));
  // The first activation's value is asked for.
  Index first = 0;
  while (graph.steps[tl::Graph::at(first)].kind != tl::Kind::activation) ++first;
  CHECK_THAT(how({first, graph.pooled}), EndsWith("convolution with batch norm, relu6"));
}

TEST_CASE("Squeeze-and-excitation is one call, in place where nobody needs the map any more") {
  const auto backbone = lively<SqueezeNet>(32);
  const auto& net = dynamic_cast<const SqueezeNet&>(*backbone.core.network);
  const tl::Graph& graph = backbone.core.graph;
  const torch::NoGradGuard guard;
  const Tensor x = noise(3, 32);
  const Index input[3] = {3, 32, 32};
  std::string how;
  const auto in_place = [&](const std::vector<Index>& wanted) {
    const tl::Engine engine(graph, wanted, input, {.precision = tl::Precision::fp32, .piece = 3});
    const auto plain = graph.run({x}, tl::Cut{}, wanted, {}, backbone.core.frozen);
    for (int call = 0; call < 2; ++call) {
      const auto got = engine(x);
      for (std::size_t i = 0; i < wanted.size(); ++i) CHECK(difference(got[i], plain[i]) <= 1e-5);
    }
    how = engine.explain();
    return how.find(", in place") != std::string::npos;
  };
  const auto one_call = ContainsSubstring("multiply with squeeze, convolution, silu, convolution, sigmoid");
  CHECK(in_place({graph.pooled}));
  CHECK_THAT(how, one_call);
  CHECK(in_place({net.gated, net.gate}));
  CHECK_THAT(how, ContainsSubstring("multiply, in place") && !one_call);
  CHECK_FALSE(in_place({net.before_gate, graph.pooled}));
  CHECK_THAT(how, one_call);
}

TEST_CASE("The mean over places in bfloat16 is rounded once") {
  const torch::NoGradGuard guard;
  const Tensor x = noise(2, 14, 40).to(at::kBFloat16);
  const Tensor exact = x.to(at::kDouble).mean({2, 3}, true);
  const Tensor kept = tl::detail::mean_of_places(x, true), flat = tl::detail::mean_of_places(x, false, at::kFloat);
  CHECK(kept.sizes() == exact.sizes());
  CHECK(kept.scalar_type() == at::kBFloat16);
  CHECK(at::allclose(kept.to(at::kDouble), exact, 1.0 / 256, 1e-6));
  CHECK(flat.sizes() == at::IntArrayRef({2, 40}));
  CHECK(flat.scalar_type() == at::kFloat);
  CHECK(at::allclose(flat.to(at::kDouble), exact.flatten(1), 0.0, 1e-6));
  CHECK(same_bytes(tl::detail::mean_of_places(x.to(at::kFloat), true), x.to(at::kFloat).mean({2, 3}, true)));
}

TEST_CASE("Every activation, fused and plain") {
  using tl::Activation;
  for (Activation a : {Activation::identity, Activation::relu, Activation::relu6, Activation::silu,
                       Activation::hardswish, Activation::hardsigmoid, Activation::sigmoid, Activation::gelu,
                       Activation::tanh, Activation::leaky_relu, Activation::mish}) {
    INFO(to_string(a));
    Sums net;
    const Index x = net.act(net.norm(net.conv(0, 3)), a);
    agrees(net, {x});
    Sums residual;
    const Index skip = residual.conv(0, 3);
    const Index y = residual.act(residual.add(residual.conv(residual.act(skip)), skip), a);
    CHECK(agrees(residual, {y}) == 1);
  }
}

TEST_CASE("Every kind of convolution") {
  for (const tl::nn::Conv2dOptions& o :
       {tl::nn::Conv2dOptions{.in = 3, .out = 6, .kernel = 3, .stride = 2, .same = true},
        tl::nn::Conv2dOptions{.in = 3, .out = 6, .kernel = 4, .stride = 1, .same = true},
        tl::nn::Conv2dOptions{.in = 3, .out = 6, .kernel = 5, .stride = 2, .padding = 2, .bias = true},
        tl::nn::Conv2dOptions{.in = 3, .out = 6, .kernel = 3, .padding = 2, .dilation = 2, .groups = 3},
        tl::nn::Conv2dOptions{.in = 3, .out = 6, .kernel = 3, .same = true, .dilation = 2, .groups = 3, .bias = true},
        tl::nn::Conv2dOptions{.in = 3, .out = 6, .kernel = 3, .stride = 2, .same = true, .groups = 3}}) {
    Sums net;
    Index x = net.call(net.declare_convolution("conv", o), {0});
    x = net.act(net.call(net.declare_norm("norm", 6), {x}), tl::Activation::relu6);
    agrees(net, {x});
  }
}

TEST_CASE("A user's own network runs as it is, in its own numbers") {
  auto network = std::make_shared<StagedNet>();
  enliven(*network);
  const auto backbone = tl::Backbone<StagedNet>::of(network, {.size = 16});
  const tl::Graph& graph = backbone.core.graph;
  const Index input[3] = {3, 16, 16};
  const torch::NoGradGuard guard;
  const Tensor x = noise(2, 16);
  network->eval();
  const Tensor expected = network->tail->forward(network->stem->forward(x)).mean({2, 3});
  network->train();
  const tl::Engine automatic(graph, {&graph.pooled, 1}, input);
  CHECK(automatic.precision() == tl::Precision::fp32);
  CHECK(difference(automatic(x)[0], expected) <= 1e-6);
  const tl::Engine coarse(graph, {&graph.pooled, 1}, input, {.precision = tl::Precision::bf16});
  CHECK(difference(coarse(x)[0], expected) <= 2e-2);
  CHECK(coarse(x)[0].scalar_type() == at::kFloat);
}

// ------------------------------------------------------------------------------------------------- the activation
// cache

namespace {

const std::vector<tl::CachedTensor> layout{{{2, 3}, at::kFloat}, {{5}, at::kBFloat16}};

/// Values of a row that tell it from every other.
tl::Activations values_of(const std::vector<Index>& rows) {
  std::vector<Tensor> a, b;
  for (Index row : rows) {
    a.push_back(at::arange(6, at::kFloat).view({1, 2, 3}) + static_cast<double>(10 * row));
    b.push_back((at::arange(5, at::kFloat).view({1, 5}) * 0.5 + static_cast<double>(row)).to(at::kBFloat16));
  }
  return {at::cat(a), at::cat(b)};
}

void expect_rows(const tl::ActivationCache& cache, const std::vector<Index>& rows) {
  for (Index row : rows) REQUIRE(cache.has(row));
  const auto got = cache.get(rows), expected = values_of(rows);
  CHECK(same_bytes(got[0], expected[0]));
  CHECK(same_bytes(got[1], expected[1]));
}

std::string content(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void write(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

}  // namespace

TEST_CASE("Rows in memory: kept once, in any order, up to the limit") {
  // A row is 24 and 10 bytes, each from a multiple of 64 on.
  tl::ActivationCache cache(10, layout, "", "", {.folder = {}, .limit = 128 * 4 + 127});
  cache.begin();
  CHECK(cache.rows() == 10);
  cache.put(std::vector<Index>{7, 2}, values_of({7, 2}));
  expect_rows(cache, {2, 7});
  expect_rows(cache, {7, 2, 7});
  cache.put(std::vector<Index>{2, 3}, {values_of({9, 3})});  // what is there stays
  expect_rows(cache, {3, 2, 7});
  CHECK(cache.count() == 3);
  CHECK_FALSE(cache.full());
  cache.put(std::vector<Index>{0, 1}, values_of({0, 1}));
  expect_rows(cache, {0});
  CHECK_FALSE(cache.has(1));
  CHECK(cache.full());
  CHECK(cache.path().empty());
  const auto got = cache.get(std::vector<Index>{0});
  CHECK(reinterpret_cast<std::uintptr_t>(got[0].const_data_ptr()) % 64 == 0);
}

TEST_CASE("Rows in a file: found again, and by nobody else") {
  const Folder folder;
  const tl::CacheOptions options{.folder = folder / "deep/er"};
  const auto open = [&](const char* key = "key", const char* words = "words") {
    auto cache = std::make_unique<tl::ActivationCache>(6, layout, key, words, options);
    cache->begin();
    return cache;
  };
  {
    const auto cache = open();
    CHECK(cache->found() == 0);
    cache->put(std::vector<Index>{4, 5}, values_of({4, 5}));
    cache->put(std::vector<Index>{0}, values_of({0}));
    expect_rows(*cache, {0, 4, 5});
  }
  {
    const auto cache = open();
    CHECK(cache->found() == 3);
    CHECK(cache->damaged() == 0);
    expect_rows(*cache, {5, 0, 4});
    CHECK_FALSE(cache->has(1));
    cache->put(std::vector<Index>{1, 4}, values_of({1, 4}));
  }
  {
    const auto cache = open();
    CHECK(cache->found() == 4);
    expect_rows(*cache, {0, 1, 4, 5});
  }
  CHECK(open("another")->found() == 0);
  // A file of the same name whose description differs is not believed.
  CHECK(open("key", "other words")->found() == 0);
  CHECK(open()->found() == 0);
}

TEST_CASE("What is in a file is not in memory too, and the folder tells what it holds") {
  const Folder folder;
  const tl::CacheOptions options{.folder = folder / "caches"};
  // Rows of a mebibyte, so that they leave memory on the way.
  const std::vector<tl::CachedTensor> large{{{256, 1024}, at::kFloat}};
  const auto row = [](Index i) { return at::full({1, 256, 1024}, static_cast<double>(i), at::kFloat); };
  tl::ActivationCache cache(150, large, "key", "network n\nsize 128\ndata d\nweights w\n", options);
  cache.begin();
  for (Index i = 0; i < 150; ++i) cache.put(std::vector<Index>{i}, {row(i)});
  for (Index i = 0; i < 150; i += 7) CHECK(same_bytes(cache.get(std::vector<Index>{i})[0], row(i)));
  cache.finish();
  for (Index i = 0; i < 150; ++i) CHECK(same_bytes(cache.get(std::vector<Index>{i})[0], row(i)));

  const auto caches = tl::list_caches(folder / "caches");
  REQUIRE(caches.size() == 1);
  CHECK(caches[0]["network"] == "n");
  CHECK(caches[0]["rows"] == "150");
  CHECK(caches[0].bytes > Index{150} << 20);
  CHECK(caches[0].seconds >= 0.0);
  // What a run lacks, by what has changed.
  const auto why = [&](const char* lines, Index rows = 150) {
    return tl::detail::why_no_cache(folder / "caches", lines, rows);
  };
  CHECK_THAT(why("network n\nsize 160\ndata d\nweights w\n"), EndsWith("has changed is size"));
  CHECK_THAT(why("network n\nsize 128\ndata d\nweights v\n"), EndsWith("has changed is weights"));
  CHECK_THAT(why("network n\nsize 128\ndata e\nweights w\n"), EndsWith("has changed is data"));
  CHECK(why("network n\nsize 128\ndata e\nweights w\n", 12).empty());
  CHECK(why("network m\nsize 128\ndata d\nweights w\n").empty());
  CHECK(tl::list_caches(folder / "nowhere").empty());
  {
    // One that is being filled stays.
    const tl::FileLock lock(folder / "caches/key.lock");
    CHECK(tl::remove_caches(caches).empty());
  }
  CHECK(tl::remove_caches(caches).size() == 1);
  CHECK(tl::list_caches(folder / "caches").empty());
}

TEST_CASE("A damaged file: what is whole is used, the rest is computed again") {
  const Folder folder;
  const tl::CacheOptions options{.folder = folder};
  const auto path = folder / "key.activations";
  const auto fill = [&](tl::ActivationCache& cache) {
    for (Index row = 0; row < 6; row += 2)
      if (!cache.has(row) || !cache.has(row + 1))
        cache.put(std::vector<Index>{row, row + 1}, values_of({row, row + 1}));
  };
  const auto open = [&] {
    auto cache = std::make_unique<tl::ActivationCache>(6, layout, "key", "words", options);
    cache->begin();
    return cache;
  };
  fill(*open());
  const std::string whole = content(path);
  const auto heals = [&](const std::string& bytes) {
    write(path, bytes);
    Index found = 0;
    {
      const auto cache = open();
      found = cache->found();
      for (Index row = 0; row < 6; ++row)
        if (cache->has(row)) expect_rows(*cache, {row});
      fill(*cache);
      expect_rows(*cache, {0, 1, 2, 3, 4, 5});
    }
    const auto again = open();
    CHECK(again->found() == 6);
    expect_rows(*again, {0, 1, 2, 3, 4, 5});
    return found;
  };
  CHECK(heals(whole) == 6);
  SECTION("torn at any place") {
    for (std::size_t n = 0; n < whole.size(); n += n % 4096 < 400 ? 37 : 1023) {
      INFO(n << " of " << whole.size() << " bytes");
      const Index found = heals(whole.substr(0, n));
      CHECK(found == (n < 4096 ? 0 : std::min<Index>(6, 2 * ((static_cast<Index>(n) - 4096 + 4096 - 384) / 4096))));
    }
  }
  SECTION("a bit that flipped") {
    for (std::size_t chunk = 4096; chunk < whole.size(); chunk += 4096)
      for (std::size_t at :
           std::vector<std::size_t>{0, 1, 8, 15, 16, 24, 32, 39, 64, 71, 72, 128, 140, 192, 201, 256, 320}) {
        std::string bytes = whole;
        bytes[chunk + at] = static_cast<char>(bytes[chunk + at] ^ (1 << (at % 8)));
        INFO("byte " << chunk + at);
        CHECK(heals(bytes) <= 4);
      }
    for (std::size_t at : std::vector<std::size_t>{0, 9, 20, 30, 100, 4095}) {
      std::string bytes = whole;
      bytes[at] = static_cast<char>(bytes[at] ^ 4);
      INFO("byte " << at);
      CHECK(heals(bytes) == 0);
    }
  }
  SECTION("foreign") {
    CHECK(heals(std::string(20000, 'x')) == 0);
    std::string bytes = whole;
    std::memset(bytes.data() + 4096 + 8, 0xFF, 8);  // as many rows as there are numbers
    CHECK(heals(bytes) == 0);
  }
}

TEST_CASE("Values are kept in the numbers that are asked for, and what is computed again is rounded alike") {
  const Folder folder;
  const auto backbone = lively<SqueezeNet>(16);
  const auto& net = dynamic_cast<const SqueezeNet&>(*backbone.core.network);
  const auto data = colour_data(40);
  const tl::Cut cut{net.sum + 1, {net.sum}};
  const auto all = first_ids(40);
  const auto values = [&](tl::Precision kept, Index limit) {
    tl::detail::FeatureSource source(
        backbone.core, cut, tl::detail::source(data), tl::Precision::fp32,
        {.folder = limit > 0 ? folder / "cache" : std::filesystem::path(), .limit = limit, .precision = kept}, 0, 0);
    source.fill({}, {});
    std::vector<Tensor> out;
    source.for_each_batch(all, {.size = 32, .epoch = 1}, [&](auto, const tl::Activations& a, const tl::Batch&) {
      CHECK(a[0].scalar_type() == at::kFloat);
      CHECK(a[0].is_contiguous(at::MemoryFormat::ChannelsLast));
      out.push_back(a[0]);
    });
    // Where autocast would round them at once, what is kept in bfloat16 stays so: the same values.
    std::size_t batch = 0;
    source.for_each_batch(all, {.size = 32, .epoch = 1, .autocast = tl::Precision::bf16},
                          [&](auto, const tl::Activations& a, const tl::Batch&) {
                            CHECK(a[0].scalar_type() == (kept == tl::Precision::bf16 ? at::kBFloat16 : at::kFloat));
                            CHECK(at::equal(a[0].to(at::kFloat), out.at(batch++)));
                          });
    return at::cat(out);
  };
  constexpr Index plenty = Index{1} << 30;
  const Tensor exact = values(tl::Precision::automatic, plenty);
  CHECK(same_bytes(exact, values(tl::Precision::fp32, plenty)));
  for (const auto kept : {tl::Precision::bf16, tl::Precision::fp16}) {
    const Tensor rounded = values(kept, plenty);
    CHECK(same_bytes(rounded, exact.to(tl::detail::scalar_type(kept)).to(at::kFloat)));
    CHECK_FALSE(same_bytes(rounded, exact));
    CHECK(same_bytes(rounded, values(kept, plenty)));  // of the file
    CHECK(same_bytes(rounded, values(kept, 0)));       // of no file, and not kept
  }
  CHECK(tl::list_caches(folder / "cache").size() == 4);
}

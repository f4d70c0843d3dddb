// Heads without gradient descent: features of several depths, ridge and logistic heads, the ridge that learns inside an
// application, and pictures that are of no known class.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <map>
#include <random>
#include <span>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <transferlib/backbones/mobilenet_v3.hpp>
#include <transferlib/backbones/resnet.hpp>
#include <transferlib/metrics/ranking.hpp>
#include <transferlib/model/save.hpp>
#include <transferlib/probe/closed_form.hpp>
#include <transferlib/probe/online_ridge.hpp>
#include <transferlib/probe/unknown.hpp>
#include <transferlib/zoo.hpp>

#include "toys.hpp"

#include "formula.hpp"

#include <catch2/matchers/catch_matchers_floating_point.hpp>

namespace tl = transferlib;

using Catch::Matchers::ContainsSubstring;
using Catch::Matchers::WithinAbs;
using tl::Index;
using toys::sentence_of;
using toys::Tensor;

namespace {

Tensor picked(const Tensor& x, const std::vector<Index>& ids) { return x.index_select(0, at::tensor(ids)); }

tl::Batch one_of(const Tensor& pictures, const std::vector<Index>& ids) { return {{picked(pictures, ids)}}; }

/// The ridge of 0-1 targets by the equations as they are in a book: a column of ones, one solution in doubles.
Tensor ridge_by_the_book(const Tensor& features, const std::vector<Index>& classes, Index count, double penalty) {
  const Tensor x = at::cat({features.to(at::kDouble), at::ones({features.size(0), 1}, at::kDouble)}, 1);
  const Tensor y = at::one_hot(at::tensor(classes), count).to(at::kDouble);
  Tensor free = at::eye(x.size(1), at::kDouble) * penalty;
  free[-1][-1] = 0.0;
  return at::linalg_solve(at::mm(x.t(), x) + free, at::mm(x.t(), y));
}

double worst(const tl::OnlineRidge& learner, const Tensor& expected) {
  const auto [weight, bias] = learner.weights();
  const Tensor got = at::cat({weight.t(), bias.unsqueeze(0)});
  return ((got - expected).abs().max() / expected.abs().max()).item<double>();
}

tl::OnlineRidge learner_of(const tl::Labels& labels, double penalty = 0.0) {
  return {toys::lively<tl::ResNet18>(32), labels, {.penalty = penalty, .precision = tl::Precision::fp32}};
}

}  // namespace

TEST_CASE("the area under a ROC curve is the part of pairs that are in order") {
  std::mt19937 random(3);
  for (int round = 0; round < 40; ++round) {
    std::vector<double> above(1 + random() % 30), below(1 + random() % 30);
    // Few values, so that many are equal; one of them infinite.
    const auto draw = [&] {
      const auto v = random() % 7;
      return v == 6 ? std::numeric_limits<double>::infinity() : static_cast<double>(v) - 3.0;
    };
    for (double& s : above) s = draw() + (round % 2);
    for (double& s : below) s = draw();
    double won = 0.0;
    for (double a : above)
      for (double b : below) won += a > b ? 1.0 : a == b ? 0.5 : 0.0;
    const double expected = won / static_cast<double>(above.size() * below.size());
    CHECK_THAT(tl::roc_auc(above, below), WithinAbs(expected, 1e-12));
    CHECK_THAT(tl::roc_auc(below, above), WithinAbs(1.0 - expected, 1e-12));
  }
  const std::vector<double> none, one{1.0}, broken{0.0, std::nan("")};
  CHECK_THAT(sentence_of<tl::DataError>([&] { tl::roc_auc(one, none); }), ContainsSubstring("both kinds"));
  CHECK_THAT(sentence_of<tl::DataError>([&] { tl::roc_auc(one, broken); }),
             ContainsSubstring("score 1 of those that should be low"));
}

TEST_CASE("a threshold lets the wanted part of scores through") {
  std::vector<double> scores;
  for (int i = 0; i < 100; ++i) scores.push_back((i * 37) % 100);
  for (double rate : {0.01, 0.5, 0.95, 1.0}) {
    const double threshold = tl::threshold_at_rate(scores, rate);
    const auto through = std::count_if(scores.begin(), scores.end(), [&](double s) { return s >= threshold; });
    CHECK(through == std::lround(rate * 100.0));
  }
  CHECK_THAT(sentence_of<tl::OptionError>([&] { tl::threshold_at_rate(scores, 0.0); }), ContainsSubstring("above 0"));
}

TEST_CASE("pooled features of several depths are the maps' means and deviations side by side") {
  const auto plain = toys::lively<tl::ResNet18>(64);
  tl::detail::BackboneCore core = plain.core;
  const Tensor x = toys::noise(3, 64);
  const auto run = [&](const tl::Graph& graph, std::vector<Index> wanted) {
    return graph.run({x}, tl::Cut{}, wanted, {}, std::vector<bool>(graph.table.rows.size(), true));
  };
  for (const bool deviations : {false, true}) {
    tl::Graph graph = core.graph;
    tl::detail::add_depths(graph, tl::Depths::stages, deviations);
    std::vector<Tensor> expected;
    for (Index stage : core.graph.stages) {
      const Tensor map = run(core.graph, {stage})[0];
      if (stage == core.graph.map) continue;
      expected.push_back(map.mean({2, 3}));
      if (deviations) expected.push_back(map.var({2, 3}, false).sqrt());
    }
    expected.push_back(run(core.graph, {core.graph.pooled})[0]);
    const Tensor got = run(graph, {graph.pooled})[0];
    REQUIRE(got.sizes() == at::cat(expected, 1).sizes());
    CHECK(at::allclose(got, at::cat(expected, 1), 1e-4, 1e-4));
  }
}

TEST_CASE("blocks add the sums of residual blocks, stages do not") {
  const tl::NetworkOptions last{.size = 32}, stages{.size = 32, .depths = tl::Depths::stages},
      blocks{.size = 32, .depths = tl::Depths::blocks},
      both{.size = 32, .depths = tl::Depths::blocks, .deviations = true};
  const auto width = [](const tl::NetworkOptions& o) { return tl::Backbone<tl::ResNet18>::random(o).features().width; };
  CHECK(width(last) == 512);
  // ResNet-18 has two blocks a stage, of 64, 128, 256 and 512 channels; the last one's map is what it pools.
  CHECK(width(stages) == 64 + 128 + 256 + 512);
  CHECK(width(blocks) == 2 * (64 + 128 + 256 + 512));
  CHECK(width(both) == 4 * (64 + 128 + 256) + 3 * 512);
  // A trainer keeps the pooled features alone, not the maps that they come from, where those are larger.
  const tl::NetworkOptions larger{.size = 96, .depths = tl::Depths::blocks, .deviations = true};
  const tl::Classifier model{tl::Backbone<tl::ResNet18>::random(larger), tl::FreezePolicy<tl::FreezeAll>{},
                             tl::Head<tl::Linear>{}, toys::colours};
  CHECK(model.cut().live == std::vector<Index>{model.backbone_core().graph.pooled});
  CHECK(tl::Backbone<tl::MobileNetV3Small>::random(blocks).features().width >
        tl::Backbone<tl::MobileNetV3Small>::random(stages).features().width);
}

TEST_CASE("the online ridge is the ridge of a book, whatever was added and forgotten") {
  auto learner = learner_of({"red", "green"}, 20.0);
  const auto [pictures, target] = toys::coloured(60, 32, 4);
  const auto colour = [&](Index i) { return target[i].item<Index>(); };
  std::vector<Index> in, classes;
  // Blue is a class that comes later.
  for (Index i = 0; i < 60; ++i) {
    learner.add(toys::colours[static_cast<std::size_t>(colour(i))], one_of(pictures, {i}));
    in.push_back(i);
    classes.push_back(colour(i));
  }
  CHECK(learner.labels() == toys::colours);
  CHECK(learner.size() == 60);
  const Tensor features = learner.features({{pictures}});
  CHECK(worst(learner, ridge_by_the_book(features, classes, 3, 20.0)) < 1e-8);

  std::mt19937 random(5);
  for (int round = 0; round < 40; ++round) {
    const auto at = static_cast<std::size_t>(random() % in.size());
    learner.forget(one_of(pictures, {in[at]}));
    in.erase(in.begin() + static_cast<std::ptrdiff_t>(at));
    classes.erase(classes.begin() + static_cast<std::ptrdiff_t>(at));
  }
  CHECK(worst(learner, ridge_by_the_book(picked(features, in), classes, 3, 20.0)) < 1e-8);
  CHECK(learner.size() == 20);

  // Fitted from nothing to what is left, in another order and in one piece a class.
  auto anew = learner_of(toys::colours, 20.0);
  for (Index c = 2; c >= 0; --c) {
    std::vector<Index> own;
    for (Index i : in)
      if (colour(i) == c) own.push_back(i);
    anew.add(toys::colours[static_cast<std::size_t>(c)], one_of(pictures, own));
  }
  const auto [weight, bias] = learner.weights();
  const auto [weight_anew, bias_anew] = anew.weights();
  CHECK((weight - weight_anew).abs().max().item<double>() < 1e-8);
  CHECK((bias - bias_anew).abs().max().item<double>() < 1e-8);

  const auto answer = learner.predict({{pictures}});
  const Tensor expected = features.to(at::kDouble).mm(weight.t()) + bias;
  CHECK(at::allclose(answer.values.to(at::kDouble), expected, 1e-4, 1e-4));
  CHECK(answer.best(0) == toys::colours[static_cast<std::size_t>(expected[0].argmax().item<Index>())]);

  // All forgotten: nothing is left of anything.
  learner.forget(one_of(pictures, in));
  CHECK(learner.size() == 0);
  CHECK(learner.weights().first.abs().max().item<double>() == 0.0);
}

TEST_CASE("a data set is added in one piece, and its penalty is told by its first pictures") {
  auto learner = learner_of({});
  CHECK(learner.penalty() == 0.0);
  const auto data = toys::colour_data(30, 32);
  learner.add(data);
  CHECK(learner.labels() == toys::colours);
  const auto batch = data.batch(toys::first_ids(30));
  const Tensor features = learner.features(batch);
  const Tensor red = features.index_select(0, batch.target.eq(0).nonzero().view({-1}));
  CHECK_THAT(learner.penalty(), WithinAbs(red.to(at::kDouble).square().sum(1).mean().item<double>(), 1e-6));
  std::vector<Index> classes;
  for (Index i = 0; i < 30; ++i) classes.push_back(batch.target[i].item<Index>());
  CHECK(worst(learner, ridge_by_the_book(features, classes, 3, learner.penalty())) < 1e-8);
}

TEST_CASE("what was not added is not forgotten") {
  auto learner = learner_of({"red", "green"});
  const auto [pictures, target] = toys::coloured(6, 32, 8);
  learner.add("red", one_of(pictures, {0, 1}));
  learner.add("green", one_of(pictures, {1}));
  const auto before = learner.weights().first;
  CHECK_THAT(sentence_of<tl::DataError>([&] {
               learner.forget(one_of(pictures, {0, 2}));
             }),
             ContainsSubstring("picture 1 can't be forgotten: it was not added"));
  CHECK_THAT(sentence_of<tl::DataError>([&] {
               learner.forget(one_of(pictures, {0, 0}));
             }),
             ContainsSubstring("picture 1 can't be forgotten"));
  CHECK_THAT(sentence_of<tl::DataError>([&] { learner.forget(one_of(pictures, {1})); }),
             ContainsSubstring("was added as red and as green"));
  CHECK(toys::same_bytes(before, learner.weights().first));
  CHECK(learner.size() == 3);
  learner.forget("green", one_of(pictures, {1}));
  CHECK_THAT(sentence_of<tl::DataError>([&] { learner.forget("green", one_of(pictures, {1})); }),
             ContainsSubstring("it was not added as \"green\""));
  learner.forget(one_of(pictures, {1}));
  CHECK(learner.size() == 1);
  CHECK_THAT(sentence_of<tl::OptionError>([&] { learner_of({"a", "a"}); }), ContainsSubstring("two classes called"));
  CHECK_THAT(sentence_of<tl::OptionError>([&] { learner_of({"a"}, -1.0); }), ContainsSubstring("penalty"));
}

TEST_CASE("an online ridge is kept in a file, and goes on learning from it") {
  const toys::Folder folder;
  auto learner = learner_of({"red"});
  const auto [pictures, target] = toys::coloured(8, 32, 8);
  learner.add("red", one_of(pictures, {0, 3}));
  learner.add("a \"green\"", one_of(pictures, {1, 4}));
  learner.save(folder / "learner.safetensors");
  auto other = learner_of({"something"});
  other.load(folder / "learner.safetensors");
  CHECK(other.labels() == tl::Labels{"red", "a \"green\""});
  CHECK(other.penalty() == learner.penalty());
  CHECK((other.weights().first - learner.weights().first).abs().max().item<double>() < 1e-9);
  other.forget(one_of(pictures, {3}));
  learner.forget(one_of(pictures, {3}));
  CHECK((other.weights().first - learner.weights().first).abs().max().item<double>() < 1e-9);

  tl::OnlineRidge foreign{toys::lively<tl::ResNet18>(32, 9), {"red"}, {.precision = tl::Precision::fp32}};
  CHECK_THAT(sentence_of<tl::WeightsError>([&] { foreign.load(folder / "learner.safetensors"); }),
             ContainsSubstring("another backbone"));
  CHECK(foreign.labels() == tl::Labels{"red"});
  tl::write_state_dict(folder / "other.safetensors", {{"gram", at::zeros({2})}});
  CHECK_THAT(sentence_of<tl::WeightsError>([&] { other.load(folder / "other.safetensors"); }),
             ContainsSubstring("none that OnlineRidge wrote"));
  // Sums of other pictures than the hashes tell.
  tl::StateDict state = tl::read_state_dict(folder / "learner.safetensors");
  const auto file = tl::open_checkpoint(folder / "learner.safetensors");
  for (auto& [name, tensor] : state)
    if (name == "gram") tensor = tensor * 2.0;
  tl::write_state_dict(folder / "damaged.safetensors", state, file.metadata);
  CHECK_THAT(sentence_of<tl::WeightsError>([&] { other.load(folder / "damaged.safetensors"); }),
             ContainsSubstring("is damaged"));
  CHECK(other.size() == 3);
}

TEST_CASE("an online ridge learns while others predict") {
  auto learner = learner_of({"red", "green"}, 5.0);
  const auto [pictures, target] = toys::coloured(24, 32, 8);
  learner.add("red", one_of(pictures, {0}));
  learner.add("green", one_of(pictures, {1}));
  std::atomic<bool> done{false};
  std::atomic<Index> answers{0}, torn{0};
  std::vector<std::thread> readers;
  for (int t = 0; t < 2; ++t)
    readers.emplace_back([&] {
      while (!done) {
        const auto answer = learner.predict(one_of(pictures, {2}));
        // The weights and the names are of the same moment.
        if (answer.values.size(1) != static_cast<Index>(answer.labels.size())) ++torn;
        ++answers;
      }
    });
  std::thread second([&] {
    for (Index i = 2; i < 12; ++i) learner.add("even", one_of(pictures, {2 * i}));
  });
  for (Index i = 2; i < 12; ++i) learner.add("odd", one_of(pictures, {2 * i - 1}));
  second.join();
  for (Index i = 2; i < 12; i += 2) learner.forget(one_of(pictures, {2 * i}));
  while (answers == 0) std::this_thread::yield();
  done = true;
  for (auto& r : readers) r.join();
  CHECK(torn == 0);
  std::vector<Index> in{0, 1}, classes{0, 1};
  const auto labels = learner.labels();
  const auto number = [&](const char* name) { return std::find(labels.begin(), labels.end(), name) - labels.begin(); };
  for (Index i = 2; i < 12; ++i) {
    in.push_back(2 * i - 1);
    classes.push_back(number("odd"));
    if (i % 2 == 0) continue;
    in.push_back(2 * i);
    classes.push_back(number("even"));
  }
  CHECK(learner.size() == static_cast<Index>(in.size()));
  CHECK(worst(learner, ridge_by_the_book(learner.features(one_of(pictures, in)), classes, 4, 5.0)) < 1e-8);
}

TEST_CASE("a ridge head on several depths is fitted, saved, loaded and goes on as any other") {
  const toys::Folder folder;
  const auto train = toys::colour_data(60, 32), test = toys::colour_data(30, 32, 2);
  const tl::NetworkOptions options{.size = 32, .depths = tl::Depths::blocks, .deviations = true};
  const auto make = [&] {
    auto backbone = tl::Backbone<tl::ResNet18>::random(options, 1);
    toys::enliven(*backbone.core.network, 1);
    return tl::Classifier{std::move(backbone), tl::FreezePolicy<tl::FreezeAll>{}, tl::Head<tl::Linear>{},
                          toys::colours};
  };
  auto model = make();
  const auto before = toys::snapshot(*model.backbone_core().network);
  const auto fit = tl::fit_ridge(model, train, {.features = {.precision = tl::Precision::fp32}});
  CHECK(toys::same_bytes(before, toys::snapshot(*model.backbone_core().network)));
  CHECK(fit.probe.accuracy > 0.9);
  const auto batch = test.batch(toys::first_ids(30));
  const Tensor answer = model.predict(batch, tl::Precision::fp32);
  CHECK(answer.argmax(1).eq(batch.target).to(at::kDouble).mean().item<double>() > 0.9);

  // What the head says is the ridge's values of standardised features, sharpened.
  auto f = tl::features_of(tl::AnyBackbone(tl::Backbone<tl::ResNet18>(tl::detail::copied(model.backbone_core()))),
                           train, {.precision = tl::Precision::fp32});
  tl::detail::standardise(f.x);
  CHECK_THAT(f.x.mean().item<double>(), WithinAbs(0.0, 1e-4));
  const auto probe = tl::ridge_probe(f);
  CHECK(probe.strength == fit.probe.strength);
  const Tensor values = (at::mm(f.x, probe.weight.t()) + probe.bias) * fit.sharpness;
  const Tensor same = model.predict(train.batch(toys::first_ids(60)), tl::Precision::fp32);
  CHECK(at::allclose(same, at::softmax(values, 1), 1e-2, 1e-3));
  // No other factor is better for the pictures left out.
  const auto loss = [&](double factor) {
    return at::cross_entropy_loss(fit.probe.held_out * factor, f.y).item<double>();
  };
  CHECK(loss(fit.sharpness) <= loss(fit.sharpness * 1.05));
  CHECK(loss(fit.sharpness) <= loss(fit.sharpness / 1.05));

  tl::save(model, folder / "model.safetensors");
  const auto loaded = tl::load<tl::ResNet18, tl::Linear>(folder / "model.safetensors");
  CHECK(loaded.backbone_core().options.depths == tl::Depths::blocks);
  CHECK(toys::difference(loaded.predict(batch, tl::Precision::fp32), answer) < 1e-5);
  const auto any = tl::load_any(folder / "model.safetensors");
  CHECK(toys::difference(any.predict(batch, tl::Precision::fp32), answer) < 1e-5);
  const auto copy = tl::clone(model);
  CHECK(toys::difference(copy.predict(batch, tl::Precision::fp32), answer) < 1e-5);

  // A depth that a later version knows.
  auto file = tl::open_checkpoint(folder / "model.safetensors");
  auto& told = file.metadata.at("network_options");
  told.replace(told.find("blocks"), 6, "towers");
  tl::write_state_dict(folder / "later.safetensors", tl::read_state_dict(folder / "model.safetensors"), file.metadata);
  CHECK_THAT(sentence_of<tl::WeightsError>([&] { tl::load_any(folder / "later.safetensors"); }),
             ContainsSubstring("the depths \"towers\""));

  auto mlp = tl::Classifier{tl::Backbone<tl::ResNet18>::random(options, 1), tl::FreezePolicy<tl::FreezeAll>{},
                            tl::Head<tl::Mlp>{}, toys::colours};
  CHECK_THAT(sentence_of<tl::OptionError>([&] { tl::fit_ridge(mlp, train); }), ContainsSubstring("mlp:128"));
  auto others = tl::Classifier{tl::Backbone<tl::ResNet18>::random(options, 1),
                               tl::FreezePolicy<tl::FreezeAll>{},
                               tl::Head<tl::Linear>{},
                               {"cup", "mug"}};
  CHECK_THAT(sentence_of<tl::OptionError>([&] { tl::fit_ridge(others, train); }),
             ContainsSubstring("(red, green, blue)"));
}

TEST_CASE("a logistic head is at the minimum of its loss") {
  const auto train = toys::colour_data(60, 32);
  auto model = tl::Classifier{toys::lively<tl::ResNet18>(32), tl::FreezePolicy<tl::FreezeAll>{}, tl::Head<tl::Linear>{},
                              toys::colours};
  const tl::FeatureOptions exact{.precision = tl::Precision::fp32};
  const auto fit = tl::fit_logistic(model, train, {.features = exact, .tolerance = 1e-7});
  CHECK(fit.held_out_loss < std::log(3.0));
  const auto batch = train.batch(toys::first_ids(60));
  const Tensor p = model.predict(batch, tl::Precision::fp32);
  const double accuracy = p.argmax(1).eq(batch.target).to(at::kDouble).mean().item<double>();
  CHECK_THAT(accuracy, WithinAbs(fit.probe.accuracy, 1e-9));
  // The bias is free of the penalty, so that the mean probability of a class is its frequency.
  const Tensor frequency = at::one_hot(batch.target, 3).to(at::kFloat).mean(0);
  CHECK((p.mean(0) - frequency).abs().max().item<double>() < 1e-3);
  CHECK_THAT(sentence_of<tl::OptionError>([&] { tl::fit_logistic(model, train, {.strengths = {}}); }),
             ContainsSubstring("no strength"));
  CHECK_THAT(sentence_of<tl::OptionError>([&] { tl::fit_logistic(model, train, {.held_out = 1.0}); }),
             ContainsSubstring("between 0 and 1"));
  std::stop_source stop;
  stop.request_stop();
  tl::RidgeFitOptions stopped{.features = exact};
  stopped.features.stop = stop.get_token();
  CHECK_THROWS_AS(tl::fit_ridge(model, train, stopped), tl::Error);
}

TEST_CASE("a balanced ridge is the weighted one, each picture left out in turn") {
  const Tensor x = toys::noise(40, 4, 1, 3).flatten(1).to(at::kDouble).narrow(1, 0, 5).contiguous();
  Tensor y = at::zeros({40}, at::kLong);
  y.narrow(0, 0, 6).fill_(1);
  y.narrow(0, 6, 10).fill_(2);
  const tl::Features f{x + at::one_hot(y, 5).to(at::kDouble), y, 3};
  const auto probe = tl::ridge_probe(f, {.strengths = {0.1}, .balance = true});
  const Tensor weight = 40.0 / (3.0 * at::one_hot(y, 3).sum(0).to(at::kDouble)).index_select(0, y);
  const Tensor a = at::cat({f.x, at::ones({40, 1}, at::kDouble)}, 1), targets = at::one_hot(y, 3).to(at::kDouble);
  Tensor free = at::eye(6, at::kDouble) * probe.penalty;
  free[5][5] = 0.0;
  double right = 0.0;
  for (Index i = 0; i < 40; ++i) {
    Tensor w = weight.clone();
    w[i] = 0.0;
    const Tensor weighted = a * w.unsqueeze(1);
    const Tensor value =
        at::mm(a.narrow(0, i, 1), at::linalg_solve(at::mm(a.t(), weighted) + free, at::mm(weighted.t(), targets)))[0];
    CHECK((value - probe.held_out[i]).abs().max().item<double>() < 1e-9);
    if (value.argmax().item<Index>() == y[i].item<Index>()) right += weight[i].item<double>() / 40.0;
  }
  CHECK_THAT(probe.accuracy, WithinAbs(right, 1e-9));
}

namespace {

/// Features (n, 6) around a class's mean, the second three of which vary much and say nothing; the last class is
/// another than those that a detector is fitted to.
tl::Features clouds(Index n, Index first, Index last, std::uint64_t seed) {
  Tensor y = at::arange(n, at::kLong).remainder(last - first + 1) + first;
  Tensor x = at::empty({n, 6}, at::kFloat).normal_(0.0, 1.0, tl::detail::generator(seed, 3, 91));
  x.narrow(1, 3, 3).mul_(20.0);
  x.narrow(1, 0, 3).add_(at::one_hot(y, 3).to(at::kFloat), 7.0);
  return {x + 3.0, y, 0};
}

}  // namespace

TEST_CASE("what is of no known class is told as unknown") {
  const toys::Folder folder;
  const auto known = clouds(400, 0, 1, 1), more = clouds(1000, 0, 1, 2), other = clouds(300, 2, 2, 3);
  for (auto score : {tl::UnknownScore::mahalanobis, tl::UnknownScore::relative_mahalanobis}) {
    const auto detector = tl::UnknownDetector::fit(known, {.score = score, .known_rate = 0.9, .shrinkage = 1e-3});
    const Tensor a = detector.scores(more.x), b = detector.scores(other.x);
    const auto span = [](const Tensor& t) {
      return std::span(t.const_data_ptr<double>(), static_cast<std::size_t>(t.numel()));
    };
    CHECK(tl::roc_auc(span(a), span(b)) > 0.99);
    // Of known pictures that it has not seen the wanted part is let through.
    const Tensor told = detector.decide(more.x, more.y);
    CHECK_THAT(told.ge(0).to(at::kDouble).mean().item<double>(), WithinAbs(0.9, 0.03));
    CHECK((told.eq(more.y) | told.eq(-1)).all().item<bool>());
    CHECK(detector.decide(other.x, other.y).eq(-1).to(at::kDouble).mean().item<double>() > 0.95);

    detector.save(folder / "unknown.safetensors");
    const auto loaded = tl::UnknownDetector::load(folder / "unknown.safetensors");
    CHECK(loaded.threshold() == detector.threshold());
    CHECK(toys::same_bytes(loaded.scores(other.x), b));
  }
  const auto detector =
      tl::UnknownDetector::fit(clouds(400, 0, 1, 1), {.score = tl::UnknownScore::neighbours, .neighbours = 5});
  detector.save(folder / "unknown.safetensors");
  const auto loaded = tl::UnknownDetector::load(folder / "unknown.safetensors");
  CHECK(toys::same_bytes(loaded.scores(other.x), detector.scores(other.x)));
}

TEST_CASE("what tells the unknown is chosen by the known classes alone") {
  // Three classes along one axis, all else noise: scores that look at all directions alike can't tell them apart.
  at::manual_seed(4);
  const Index count = 900;
  tl::Features known{at::randn({count, 6}), at::arange(count).remainder(3), 3};
  known.x.select(1, 0).mul_(0.05).add_(known.y.to(at::kFloat));
  known.x.slice(1, 1).mul_(known.y.add(1).to(at::kFloat).unsqueeze(1));
  const std::vector<tl::UnknownOptions> candidates{{.score = tl::UnknownScore::relative_mahalanobis},
                                                   {.score = tl::UnknownScore::mahalanobis},
                                                   {.score = tl::UnknownScore::mahalanobis, .shrinkage = 1e6},
                                                   {.score = tl::UnknownScore::neighbours}};
  const std::vector<double> auroc = tl::UnknownDetector::validate(known, candidates);
  REQUIRE(auroc.size() == 4);
  // The same as by hand: each class left out of a fit to four fifths of the others, told from the last fifth.
  const Tensor held = at::arange(count).remainder(5).eq(0);
  const auto rows = [](const Tensor& x, const Tensor& which) { return x.index_select(0, which.nonzero().view({-1})); };
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    double wanted = 0.0;
    for (Index c = 0; c < 3; ++c) {
      const Tensor fitted = held.logical_not() & known.y.ne(c);
      const auto detector = tl::UnknownDetector::fit({rows(known.x, fitted), rows(known.y, fitted), 3}, candidates[i]);
      const Tensor a = detector.scores(rows(known.x, held & known.y.ne(c))),
                   b = detector.scores(rows(known.x, held & known.y.eq(c)));
      wanted += tl::roc_auc(std::span(a.const_data_ptr<double>(), static_cast<std::size_t>(a.numel())),
                            std::span(b.const_data_ptr<double>(), static_cast<std::size_t>(b.numel()))) /
                3.0;
    }
    INFO(i << ": " << auroc[i] << " for " << wanted);
    CHECK_THAT(auroc[i], WithinAbs(wanted, 1e-4));
  }
  CHECK(auroc[1] > 0.95);
  CHECK(auroc[2] < 0.8);
  CHECK_THAT(sentence_of<tl::DataError>([&] { tl::UnknownDetector::validate(clouds(60, 0, 1, 1), {{}}); }),
             ContainsSubstring("takes 3 classes; there are 2"));
  CHECK_THAT(sentence_of<tl::OptionError>([&] { tl::UnknownDetector::validate(known, {{.shrinkage = 0.0}}); }),
             ContainsSubstring("shrinkage"));
}

TEST_CASE("the scores of unknown pictures are those of their definitions") {
  const auto known = clouds(60, 0, 1, 1), other = clouds(9, 2, 2, 3);
  const Tensor mean = known.x.mean(0), deviation = known.x.std(0, false);
  const Tensor x = ((known.x - mean) / deviation).to(at::kDouble), z = ((other.x - mean) / deviation).to(at::kDouble);
  const auto inverse = [](const Tensor& residuals) {
    const Tensor covariance = at::mm(residuals.t(), residuals) / 60.0;
    return at::linalg_inv(covariance + 0.2 * covariance.diagonal().mean() * at::eye(6, at::kDouble));
  };
  const auto distance = [](const Tensor& v, const Tensor& inverse_) { return (at::mm(v, inverse_) * v).sum(1); };
  const Tensor zero = x.index_select(0, known.y.eq(0).nonzero().view({-1})).mean(0),
               one = x.index_select(0, known.y.eq(1).nonzero().view({-1})).mean(0);
  const Tensor own = at::where(known.y.eq(0).unsqueeze(1), zero, one);
  const Tensor within = inverse(x - own), total = inverse(x);
  const Tensor nearest = at::minimum(distance(z - zero, within), distance(z - one, within));
  const tl::UnknownOptions plain{.score = tl::UnknownScore::mahalanobis, .shrinkage = 0.2},
      relative{.score = tl::UnknownScore::relative_mahalanobis, .shrinkage = 0.2},
      near{.score = tl::UnknownScore::neighbours, .neighbours = 4};
  CHECK(toys::difference(tl::UnknownDetector::fit(known, plain).scores(other.x), -nearest) < 1e-4);
  CHECK(toys::difference(tl::UnknownDetector::fit(known, relative).scores(other.x), distance(z, total) - nearest) <
        1e-4);
  const auto unit = [](const Tensor& t) { return t / t.norm(2, {1}, true); };
  const Tensor cosines = std::get<0>(at::mm(unit(z), unit(x).t()).sort(1, true)).narrow(1, 0, 4).mean(1);
  CHECK(toys::difference(tl::UnknownDetector::fit(known, near).scores(other.x), cosines) < 1e-4);
  const Tensor logits = at::tensor({1.0, 2.0, 0.5}).view({1, 3});
  CHECK_THAT(tl::energy_scores(logits).item<double>(),
             WithinAbs(std::log(std::exp(1.0) + std::exp(2.0) + std::exp(0.5)), 1e-12));
}

TEST_CASE("a detector of the unknown refuses what it can't use") {
  const toys::Folder folder;
  const auto known = clouds(60, 0, 1, 1);
  const auto refused = [&](const tl::UnknownOptions& o) {
    return sentence_of<tl::OptionError>([&] { tl::UnknownDetector::fit(known, o); });
  };
  CHECK_THAT(refused({.known_rate = 0.0}), ContainsSubstring("above 0 and at most 1"));
  CHECK_THAT(refused({.shrinkage = 0.0}), ContainsSubstring("shrinkage"));
  CHECK_THAT(refused({.neighbours = 0}), ContainsSubstring("neighbour"));
  CHECK_THAT(refused({.folds = 31}), ContainsSubstring("2 pictures or more in each"));
  const auto detector = tl::UnknownDetector::fit(known);
  CHECK_THAT(sentence_of<tl::DataError>([&] { detector.scores(at::zeros({2, 5})); }), ContainsSubstring("(N, 6)"));
  CHECK_THAT(sentence_of<tl::DataError>([&] { detector.decide(known.x, at::zeros({2}, at::kLong)); }),
             ContainsSubstring("one class"));
  tl::write_state_dict(folder / "other.safetensors", {{"mean", at::zeros({2})}});
  CHECK_THAT(sentence_of<tl::WeightsError>([&] { tl::UnknownDetector::load(folder / "other.safetensors"); }),
             ContainsSubstring("none that UnknownDetector wrote"));
  detector.save(folder / "unknown.safetensors");
  tl::StateDict state = tl::read_state_dict(folder / "unknown.safetensors");
  const auto file = tl::open_checkpoint(folder / "unknown.safetensors");
  for (auto& [name, tensor] : state)
    if (name == "total") tensor = tensor.narrow(0, 0, 3);
  tl::write_state_dict(folder / "damaged.safetensors", state, file.metadata);
  CHECK_THAT(sentence_of<tl::WeightsError>([&] { tl::UnknownDetector::load(folder / "damaged.safetensors"); }),
             ContainsSubstring("changed since"));
}

TEST_CASE("features, ridges and scores are those of Python") {
  const tl::Json wanted = tl::python("closed_form.json");
  for (const auto& [name, depths] :
       {std::pair{"stages", tl::Depths::stages}, std::pair{"blocks", tl::Depths::blocks}}) {
    const auto backbone = tl::Backbone<tl::ResNet18>::random({.size = 64, .depths = depths, .deviations = true});
    tl::fill(*backbone.core.network, "", {{"bn2.weight", 0.35}, {"fc.weight", 0.5}});
    const Index in[] = {3, 64, 64}, pooled[] = {backbone.core.graph.pooled};
    const tl::Engine engine(backbone.core.graph, pooled, in, {.precision = tl::Precision::fp32});
    const Tensor x = (tl::pictures(2, 64).to(at::kFloat) - 127.0) / 128.0;
    CHECK(tl::difference(wanted["depths"][name], engine(x)[0]) < 1e-4);
  }

  const auto draws = [](const std::string& name, Index n) {
    Tensor out = at::empty({n, 8}, at::kDouble);
    for (Index i = 0; i < 8 * n; ++i)
      out.view({-1})[i] = 2.0 * tl::uniform(tl::fnv1a(name), static_cast<std::uint64_t>(i)) - 1.0;
    return out;
  };
  Tensor y = at::zeros({60}, at::kLong);
  y.narrow(0, 0, 10).fill_(1);
  y.narrow(0, 10, 15).fill_(2);
  const Tensor x = draws("closed_form.x", 60) + 0.8 * at::one_hot(y, 8).to(at::kDouble);
  const tl::Features known{x, y, 3};
  const auto& ridge = wanted["ridge"];
  const auto probe = tl::ridge_probe(known, {.strengths = {ridge["strength"].get<double>()}, .balance = true});
  CHECK_THAT(probe.penalty, WithinAbs(ridge["penalty"].get<double>(), 1e-9));
  CHECK_THAT(probe.accuracy, WithinAbs(ridge["accuracy"].get<double>(), 1e-9));
  const Tensor held_out = at::tensor(ridge["held_out"].get<std::vector<double>>()).view({60, 3});
  CHECK((probe.held_out - held_out).abs().max().item<double>() < 1e-9);

  const auto& unknown = wanted["unknown"];
  for (const auto& [name, score] : {std::pair{"mahalanobis", tl::UnknownScore::mahalanobis},
                                    std::pair{"relative_mahalanobis", tl::UnknownScore::relative_mahalanobis}}) {
    const auto detector =
        tl::UnknownDetector::fit(known, {.score = score, .shrinkage = unknown["shrinkage"].get<double>()});
    const Tensor scores = at::tensor(unknown[name].get<std::vector<double>>());
    CHECK(toys::difference(detector.scores(2.0 * draws("closed_form.z", 12)), scores) < 1e-4);
  }
}

// Preflight: each planted fault is found, by its own check alone, and set-ups that are right stay silent: small ones
// here, and where the published weights and the data lie near, CIFAR-10, Fashion-MNIST and the cells of BCCD.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include <transferlib/core/files.hpp>
#include <transferlib/data/cifar.hpp>
#include <transferlib/data/mnist.hpp>
#include <transferlib/data/pictures.hpp>
#include <transferlib/formats/voc.hpp>
#include <transferlib/metrics/classification.hpp>
#include <transferlib/train/preflight.hpp>
#include <transferlib/weights/pretrained.hpp>

#include "toys.hpp"

namespace tl = transferlib;
using namespace toys;
using Catch::Matchers::ContainsSubstring;

namespace {

using Model = tl::Classifier<SqueezeNet, tl::Linear>;

Model toy_model(Index size = 16) {
  return {lively<SqueezeNet>(size), tl::FreezePolicy<tl::FreezeAll>{}, tl::Head<tl::Linear>{}, colours};
}

/// Data that may be wrong in any way.
template <class T>
struct PlainData {
  using Target = T;
  Tensor pictures, target;
  tl::Labels names = colours;
  Index size() const { return pictures.size(0); }
  tl::Batch batch(std::span<const Index> ids) const {
    const Tensor index = at::tensor(at::ArrayRef<Index>(ids.data(), ids.size()), at::kLong);
    return {{pictures.index_select(0, index)}, target.index_select(0, index), {}, {}};
  }
  tl::Labels labels() const { return names; }
};
using Data = PlainData<tl::ClassIndex>;

Data data(Index n, std::uint64_t seed, Index size = 16) {
  auto [x, target] = coloured(n, size, seed);
  return {x, target, colours};
}
Data changed(Data of, const std::function<Tensor(const Tensor&)>& pictures) {
  of.pictures = pictures(of.pictures);
  return of;
}
Data relabelled(Data of, const std::function<Tensor(const Tensor&)>& target) {
  of.target = target(of.target).contiguous();
  return of;
}

std::string words(const std::vector<tl::Finding>& findings) {
  std::string out;
  for (const tl::Finding& f : findings)
    out += tl::detail::text(f.severity == tl::Severity::error ? "error " : "warning ", f.check, ": ", f.sentence, "\n");
  return out;
}

/// Which checks found something, each once: "error range, warning copies".
std::string checks(const std::vector<tl::Finding>& findings) {
  std::string out;
  for (const tl::Finding& f : findings) {
    const std::string one = (f.severity == tl::Severity::error ? "error " : "warning ") + f.check;
    if (out.find(one) == std::string::npos) out += (out.empty() ? "" : ", ") + one;
  }
  return out;
}

/// What is found where the training data, the validation data or both are these.
std::vector<tl::Finding> found(const Data& train, const Data& val, const tl::TrainerOptions& options = {}) {
  return tl::preflight(toy_model(), train, val, options, {.seconds = 60.0});
}

}  // namespace

TEST_CASE("Right set-ups are silent, and the model stays as it is") {
  const auto train = data(96, 1), val = data(48, 2);
  const auto model = toy_model();
  const auto head = snapshot(model.head()), network = snapshot(*model.backbone_core().network);
  for (const tl::Optimizer& optimizer : {tl::Optimizer{tl::Adam{}}, tl::Optimizer{tl::Sgd{.lr = 0.01, .momentum = 0.9}},
                                         tl::Optimizer{tl::AdamW{.lr = 1e-2}}}) {
    const auto findings = tl::preflight(model, train, val, {.batch = 16, .optimizer = optimizer}, {.seconds = 60.0});
    INFO(words(findings));
    CHECK(findings.empty());
  }
  CHECK(same_bytes(snapshot(model.head()), head));
  CHECK(same_bytes(snapshot(*model.backbone_core().network), network));
  CHECK_FALSE(model.head().is_standardised());

  CHECK(words(found(changed(train, [](const Tensor& x) { return x.to(at::kFloat) / 255.0; }),
                    changed(val, [](const Tensor& x) { return x.to(at::kFloat) / 255.0; }))) == "");
  // Grey pictures, and pictures of several sizes.
  CHECK(words(found(changed(train, [](const Tensor& x) { return x.narrow(1, 0, 1); }),
                    changed(val, [](const Tensor& x) { return x.narrow(1, 0, 1); }))) == "");
  // Fine-tuning, a network of one's own, augmented data, the library's own data set.
  const tl::Classifier all{lively<SqueezeNet>(16), tl::FreezePolicy<tl::FreezeNone>{}, tl::Head<tl::Linear>{}, colours};
  CHECK(words(tl::preflight(all, train, val, {}, {.seconds = 60.0})) == "");
  const tl::Classifier part{lively<SqueezeNet>(16), tl::FreezePolicy<tl::FreezeUntil>{{"block.project"}},
                            tl::Head<tl::Linear>{{.dropout = 0.1}}, colours};
  CHECK(words(tl::preflight(part, train, val, {.schedule = tl::OneCycle{}}, {.seconds = 60.0})) == "");
  const tl::Classifier own{lively<StagedNet>(16), tl::FreezePolicy<tl::FreezeAll>{}, tl::Head<tl::Mlp>{}, colours};
  const auto tensors = colour_data(96, 16, 1);
  CHECK(words(tl::preflight(own, tl::augment(tensors, tl::Flip{}), val, {}, {.seconds = 60.0})) == "");
}

TEST_CASE("Several labels a picture, and numbers") {
  const auto [x, y] = coloured(64, 16, 1);
  const auto [u, v] = coloured(32, 16, 2);
  const auto hot = [](const Tensor& t) { return at::one_hot(t, 3).to(at::kFloat); };
  using Several = PlainData<tl::MultiLabel>;
  const tl::Classifier several{lively<SqueezeNet>(16), tl::FreezePolicy<tl::FreezeAll>{},
                               tl::Head<tl::MultiLabelLinear>{}, colours};
  CHECK(words(tl::preflight(several, Several{x, hot(y)}, Several{u, hot(v)}, {}, {.seconds = 60.0})) == "");
  CHECK(checks(tl::preflight(several, Several{x.to(at::kFloat), hot(y)}, Several{u, hot(v)}, {}, {.seconds = 60.0})) ==
        "error range");
  using Numbers = PlainData<tl::Values>;
  const tl::Classifier numbers{lively<SqueezeNet>(16), tl::FreezePolicy<tl::FreezeAll>{},
                               tl::Head<tl::RegressionLinear>{}, colours};
  CHECK(words(tl::preflight(numbers, Numbers{x, hot(y)}, Numbers{u, hot(v)}, {}, {.seconds = 60.0})) == "");
  CHECK(checks(tl::preflight(numbers, Numbers{x, hot(y)}, Numbers{u, hot(v)}, {.optimizer = tl::Sgd{.lr = 10.0}},
                             {.seconds = 60.0})) == "error rate");
}

TEST_CASE("Pictures in the wrong range") {
  const auto train = data(64, 1), val = data(32, 2);
  const auto unit = [](const Tensor& x) { return x.to(at::kFloat) / 255.0; };
  const auto expect = [&](const std::function<Tensor(const Tensor&)>& fault, std::string_view part) {
    for (bool in_train : {true, false}) {
      const auto findings = in_train ? found(changed(train, fault), val) : found(train, changed(val, fault));
      INFO(words(findings));
      CHECK(checks(findings) == "error range");
      CHECK_THAT(findings.at(0).sentence, ContainsSubstring(std::string(part)));
      CHECK_THAT(findings.at(0).sentence, ContainsSubstring(in_train ? "training pictures" : "validation pictures"));
    }
  };
  expect([](const Tensor& x) { return x.to(at::kFloat); }, "divide them by 255");
  expect([&](const Tensor& x) { return unit(x) * 2.0 - 1.0; }, "(pictures + 1) / 2");
  expect([&](const Tensor& x) { return (unit(x) - 0.45) / 0.2; }, "normalised already");
  expect([&](const Tensor& x) { return unit(x) * 8.0; }, "bring them to [0, 1]");
  expect([&](const Tensor& x) { return unit(x) / 255.0; }, "divided by 255 twice");
  expect([&](const Tensor& x) { return unit(x).round().to(at::kByte); }, "multiply by 255 before the cast");
  // Bicubic enlarging overshoots a little.
  CHECK(words(found(changed(train, [&](const Tensor& x) { return unit(x) * 1.2 - 0.1; }), val)) == "");

  // Who switches the model's normalisation off prepares the pictures on their own.
  auto model = toy_model();
  model.backbone_core().preprocessing.mean = {0.0, 0.0, 0.0};
  model.backbone_core().preprocessing.deviation = {1.0, 1.0, 1.0};
  const auto normal = [&](const Tensor& x) { return (unit(x) - 0.45) / 0.2; };
  CHECK(words(tl::preflight(model, changed(train, normal), changed(val, normal), {}, {.seconds = 60.0})) == "");
  // But what the network was trained on is told by its first batch norm.
  model.backbone_core().source = "a file";
  CHECK(words(tl::preflight(model, changed(train, normal), changed(val, normal), {}, {.seconds = 60.0})) == "");
  const auto findings = tl::preflight(model, changed(train, [](const Tensor& x) { return x.to(at::kFloat); }),
                                      changed(val, normal), {}, {.seconds = 60.0});
  INFO(words(findings));
  CHECK(checks(findings) == "warning statistics");
}

TEST_CASE("Channels last for channels first, and scrambled pictures") {
  const auto train = data(64, 1), val = data(32, 2);
  const auto last = [](const Tensor& x) { return x.permute({0, 2, 3, 1}).contiguous(); };
  auto findings = found(changed(train, last), val);
  INFO(words(findings));
  CHECK(checks(findings) == "error layout");
  CHECK_THAT(findings.at(0).sentence, ContainsSubstring("permute({0, 3, 1, 2})"));
  CHECK(checks(found(changed(train, [&](const Tensor& x) { return last(x.narrow(1, 0, 1)); }), val)) == "error layout");

  // Smooth pictures: a colour that grows in a direction of its own.
  const auto smooth = [](Data d) {
    const Tensor along = at::arange(16, at::kFloat) * 8.0;
    const Tensor noise = d.pictures.to(at::kFloat).narrow(2, 0, 1).narrow(3, 0, 1) * 0.4;
    d.pictures =
        (along.view({1, 1, 16, 1}) * 0.5 + along.view({1, 1, 1, 16}) * 0.3 + noise).clamp(0, 255).to(at::kByte);
    return d;
  };
  const Data a = smooth(train), b = smooth(val);
  CHECK(words(found(a, b)) == "");
  // Bytes R, G, B a pixel that were called planes, and planes that were called pixels.
  const auto planes = [](const Tensor& x) { return x.permute({0, 2, 3, 1}).contiguous().view(x.sizes()); };
  const auto pixels = [](const Tensor& x) {
    return x.contiguous().view({x.size(0), x.size(2), x.size(3), 3}).permute({0, 3, 1, 2}).contiguous();
  };
  findings = found(changed(a, planes), changed(b, planes));
  INFO(words(findings));
  CHECK(checks(findings) == "warning layout");
  CHECK_THAT(findings.at(0).sentence, ContainsSubstring("R, G, B a pixel"));
  findings = found(changed(a, pixels), changed(b, pixels));
  INFO(words(findings));
  CHECK(checks(findings) == "warning layout");
  CHECK_THAT(findings.at(0).sentence, ContainsSubstring("a plane a channel"));
}

TEST_CASE("Blank pictures, the same picture again and again, and what is no picture") {
  const auto train = data(64, 1), val = data(32, 2);
  CHECK(checks(found(changed(train, [](const Tensor& x) { return at::zeros_like(x); }), val)) == "error constant");
  CHECK(checks(found(train, changed(val, [](const Tensor& x) { return at::full_like(x, 128); }))) == "error constant");
  const auto part = [](Index n) {
    return [n](const Tensor& x) {
      Tensor out = x.clone();
      out.narrow(0, 0, n).fill_(0);
      return out;
    };
  };
  CHECK(checks(found(changed(train, part(16)), val)) == "warning constant");
  CHECK(checks(found(changed(train, part(2)), val)).empty());
  CHECK(checks(found(changed(train, [](const Tensor& x) { return x.narrow(0, 0, 1).expand_as(x).contiguous(); }),
                     val)) == "error constant");
  CHECK(checks(found(changed(train,
                             [](const Tensor& x) {
                               Tensor out = x.to(at::kFloat) / 255.0;
                               out[3][1][2][2] = std::nan("");
                               return out;
                             }),
                     val)) == "error pictures");
  CHECK(checks(found(changed(train,
                             [](const Tensor& x) {
                               return at::cat({x, x.narrow(1, 0, 1)}, 1);
                             }),
                     val)) == "error pictures");
  CHECK(checks(found(changed(train, [](const Tensor& x) { return x.narrow(0, 0, 0); }), val)) == "error pictures");
}

TEST_CASE("Labels that are shifted, out of range, of another type, or missing") {
  const auto train = data(96, 1), val = data(48, 2);
  const auto expect = [&](const Data& a, const Data& b, std::string_view check, std::string_view part) {
    const auto findings = found(a, b);
    INFO(words(findings));
    CHECK(checks(findings) == check);
    if (!findings.empty()) CHECK_THAT(findings.at(0).sentence, ContainsSubstring(std::string(part)));
  };
  expect(relabelled(train, [](const Tensor& t) { return t + 1; }), val, "error labels",
         "they count from 1; subtract 1");
  expect(train, relabelled(val, [](const Tensor& t) { return t - 1; }), "error labels", "they count from -1; add 1");
  expect(relabelled(train, [](const Tensor& t) { return t * 5; }), val, "error labels", "between 0 and 10");
  expect(relabelled(train, [](const Tensor& t) { return t.to(at::kInt); }), val, "error labels", "int64");
  expect(relabelled(train, [](const Tensor& t) { return at::one_hot(t, 3).to(at::kFloat); }), val, "error labels",
         "int64");
  // A picture of class 2 is class 0 in what follows, so that labels and pictures go together but for the class left
  // out.
  const auto without = [](Data d, Index c) {
    const Tensor keep = d.target.ne(c);
    d.pictures = d.pictures.index({keep});
    d.target = d.target.index({keep});
    return d;
  };
  expect(without(train, 1), val, "warning classes", "no training picture shows green");
  expect(train, without(val, 2), "warning classes", "no validation picture shows blue");
  expect(without(train, 0), without(val, 0), "warning labels", "count from 1");

  const auto [many, ignored] = coloured(606, 16, 5);
  Data rare{many, at::zeros({606}, at::kLong), colours};
  rare.target.narrow(0, 303, 301).fill_(1);
  rare.target.narrow(0, 604, 2).fill_(2);
  const auto of = [&](bool balanced) {
    tl::detail::Findings out;
    const tl::detail::Classes a{{}, {303, 301, 2}, true}, b{{}, {9, 9, 9}, true};
    tl::detail::check_classes(a, b, colours, balanced, out);
    return words(out);
  };
  CHECK_THAT(of(false), ContainsSubstring("303 pictures of \"red\" and 2 of \"blue\""));
  CHECK(of(true) == "");
  const auto findings = found(rare, val);
  CHECK_THAT(checks(findings), ContainsSubstring("warning imbalance"));

  Data other = val;
  other.names = {"green", "red", "blue"};
  expect(train, other, "error classes", "another order");
  other.names = {"red", "green"};
  expect(train, other, "error classes", "lacks blue");
}

TEST_CASE("Labels that mean other classes in the other set") {
  const auto train = data(96, 1), val = data(96, 2);
  auto findings = found(train, relabelled(val, [](const Tensor& t) { return at::remainder(t + 1, 3); }));
  INFO(words(findings));
  CHECK(checks(findings) == "warning label order");
  CHECK_THAT(findings.at(0).sentence, ContainsSubstring("shifted by one"));
  findings = found(train, relabelled(val, [](const Tensor& t) { return at::where(t.eq(2), t, 1 - t); }));
  INFO(words(findings));
  CHECK(checks(findings) == "warning label order");
  CHECK_THAT(findings.at(0).sentence, ContainsSubstring("\"red\", which looks like \"green\""));
  // Labels that mean nothing mean no other classes either.
  CHECK(checks(found(train, relabelled(val, [](const Tensor& t) {
                       return t.index_select(0, at::tensor(at::ArrayRef<Index>(tl::shuffled(t.size(0), 3, 0))));
                     }))) == "");
}

TEST_CASE("The same pictures in both sets, and equal pictures with different labels") {
  const auto train = data(96, 1);
  auto val = data(48, 2);
  val.pictures.narrow(0, 0, 6).copy_(train.pictures.narrow(0, 30, 6));
  auto findings = found(train, val);
  INFO(words(findings));
  CHECK(checks(findings) == "warning copies");
  CHECK(findings.size() == 1);
  CHECK_THAT(findings.at(0).sentence,
             ContainsSubstring("6 among 96 of 96 training and 48 of 48 validation pictures are in both sets"));
  // Two are a matter of chance.
  val = data(48, 2);
  val.pictures.narrow(0, 0, 2).copy_(train.pictures.narrow(0, 30, 2));
  CHECK(words(found(train, val)) == "");

  auto twice = train;
  twice.pictures.narrow(0, 60, 6).copy_(twice.pictures.narrow(0, 1, 6));
  findings = found(twice, data(48, 2));
  INFO(words(findings));
  CHECK(checks(findings) == "warning copies");
  CHECK_THAT(findings.at(0).sentence, ContainsSubstring("another label"));
}

TEST_CASE("Pictures that are enlarged too much") {
  const auto of = [](Index size) {
    const auto findings = tl::preflight(toy_model(72), data(48, 1, size), data(48, 2, size), {}, {.seconds = 60.0});
    return words(findings);
  };
  CHECK_THAT(of(8), ContainsSubstring("warning size"));
  CHECK_THAT(of(8), ContainsSubstring("the shortest side is 8 pixels and the network's is 72"));
  CHECK(of(9) == "");
}

namespace {

/// A head that counts its classes wrongly.
struct WrongHead final : tl::Module {
  using Input = tl::Pooled;
  using Output = Tensor;
  using Target = tl::ClassIndex;
  using Prediction = Tensor;
  using Metric = tl::Accuracy;
  struct Options {};
  WrongHead(const tl::FeatureSpec& f, const Options&)
      : layer(register_module("layer", std::make_shared<tl::nn::Linear>(f.width, f.classes + 1))) {}
  Tensor forward(const tl::Activations& x, const tl::Pass&) { return layer->forward(x.at(0)); }
  tl::LossTerms loss(const Tensor& y, const tl::Batch& b) { return {{{"loss", at::cross_entropy_loss(y, b.target)}}}; }
  Tensor predict(const Tensor& y) { return at::softmax(y, 1); }
  std::shared_ptr<tl::nn::Linear> layer;
};

}  // namespace

TEST_CASE("A head of the wrong width") {
  const tl::Classifier model{lively<SqueezeNet>(16), tl::FreezePolicy<tl::FreezeAll>{}, tl::Head<WrongHead>{}, colours};
  const auto findings = tl::preflight(model, data(96, 1), data(48, 2), {}, {.seconds = 60.0});
  INFO(words(findings));
  CHECK(checks(findings) == "error head");
  CHECK_THAT(findings.at(0).sentence, ContainsSubstring("makes (2, 4) of 2 pictures, where (2, 3) is wanted"));
}

TEST_CASE("A rate that diverges, and the highest that does not") {
  // Labels that mean nothing: no rate gets them right by chance.
  const auto mixed = [](const Tensor& t) {
    return t.index_select(0, at::tensor(at::ArrayRef<Index>(tl::shuffled(t.size(0), 3, 0))));
  };
  const auto train = relabelled(data(96, 1), mixed), val = relabelled(data(48, 2), mixed);
  CHECK(words(found(train, val, {.batch = 32, .optimizer = tl::Adam{.lr = 0.1}})) == "");
  auto findings = found(train, val, {.batch = 32, .optimizer = tl::Adam{.lr = 30.0}});
  INFO(words(findings));
  CHECK(checks(findings) == "warning rate");
  CHECK_THAT(findings.at(0).sentence, ContainsSubstring("the learning rate 30 diverges: within 24 steps"));
  CHECK_THAT(findings.at(0).sentence, ContainsSubstring("the highest rate tried that did not diverge is 0."));
  // What is clipped does not.
  CHECK(words(found(train, val, {.optimizer = tl::Sgd{.lr = 30.0}, .clip_norm = 1e-4})) == "");
  CHECK(checks(found(train, val, {.optimizer = tl::Sgd{.lr = 30.0}})) == "warning rate");
  // The rate of a group is the one that counts.
  CHECK(checks(found(train, val, {.optimizer = tl::Sgd{.lr = 0.01}, .groups = {.by_name = {{"head.*", 3000.0}}}})) ==
        "warning rate");

  const tl::Classifier all{lively<SqueezeNet>(16), tl::FreezePolicy<tl::FreezeNone>{}, tl::Head<tl::Linear>{}, colours};
  findings = tl::preflight(all, train, val, {.optimizer = tl::Sgd{.lr = 1e9, .momentum = 0.9}}, {.seconds = 60.0});
  INFO(words(findings));
  CHECK(checks(findings) == "error rate");
  CHECK_THAT(findings.at(0).sentence, ContainsSubstring("not finite"));
}

TEST_CASE("Mean and deviation that are not the weights'") {
  auto backbone = tl::Backbone<tl::EfficientNetLite0>::random({.size = 32});
  tl::detail::Findings out;
  backbone.core.preprocessing.mean = {0.4914, 0.4822, 0.4465};
  backbone.core.preprocessing.deviation = {0.2470, 0.2435, 0.2616};
  tl::detail::check_preprocessing(backbone.core, out);
  CHECK(words(out) == "");  // random weights were trained with nothing
  backbone.core.source = "efficientnet-lite0.pth";
  tl::detail::check_preprocessing(backbone.core, out);
  CHECK(checks(out) == "warning preprocessing");
  CHECK_THAT(words(out), ContainsSubstring("(0.491, 0.482, 0.447)"));
  CHECK_THAT(words(out), ContainsSubstring("efficientnet_lite0 was trained with (0.498, 0.498, 0.498) and (0.502, "));
  out.clear();
  backbone.core.preprocessing.mean = {0.5, 0.5, 0.5};
  backbone.core.preprocessing.deviation = {0.5, 0.5, 0.5};
  tl::detail::check_preprocessing(backbone.core, out);
  CHECK(words(out) == "");
}

TEST_CASE("Memory that does not suffice") {
  // What a batch of 8 keeps: nothing but the pooled features (12) that the head takes.
  tl::detail::PreflightTask task;
  const auto model = toy_model();
  const auto train = data(96, 1), val = data(48, 2);
  task.core = &model.backbone_core();
  task.cut = model.cut();
  task.wanted = model.wanted();
  task.train = tl::detail::source(train);
  task.val = tl::detail::source(val);
  task.state = model.state();
  task.options.batch = 8;
  auto need = tl::detail::memory_need(task, tl::Precision::fp32);
  CHECK(need.optimizer == 3.0 * 4.0 * (12 * 3 + 3));
  CHECK(need.activations == 0.0);
  CHECK(need.cache == (96 + 48) * 12 * 4);
  task.options.optimizer = tl::Sgd{};
  task.options.cache.limit = 1000;
  need = tl::detail::memory_need(task, tl::Precision::fp32);
  CHECK(need.optimizer == 4.0 * (12 * 3 + 3));
  CHECK(need.cache == 2000);
  const tl::Classifier all{lively<SqueezeNet>(16), tl::FreezePolicy<tl::FreezeNone>{}, tl::Head<tl::Linear>{}, colours};
  task.core = &all.backbone_core();
  task.cut = all.cut();
  need = tl::detail::memory_need(task, tl::Precision::fp32);
  CHECK(need.cache == 0.0);
  // The stem's three values alone are 8 x 8 x 8 each.
  CHECK(need.activations > 8 * 4.0 * (3 * 16 * 16 + 3 * 8 * 8 * 8));

  const Folder folder;
  const auto write = [&](const std::string& name, std::string_view text) {
    std::filesystem::create_directories((folder / name).parent_path());
    tl::write_file(folder / name, text);
  };
  CHECK_FALSE(tl::detail::memory_room(folder));
  write("proc/meminfo", "MemTotal:  8000 kB\nMemAvailable:    5000 kB\nSwapFree:  1000 kB\n");
  auto room = tl::detail::memory_room(folder);
  REQUIRE(room);
  CHECK(room->free == 5000.0 * 1024);
  CHECK(room->swap == 1000.0 * 1024);
  write("proc/self/cgroup", "0::/a/b\n");
  write("sys/fs/cgroup/memory.max", "max\n");
  write("sys/fs/cgroup/a/memory.max", "3000000\n");
  write("sys/fs/cgroup/a/memory.current", "2500000\n");
  write("sys/fs/cgroup/a/memory.stat", "anon 5\ninactive_file 400000\nactive_file 7\n");
  write("sys/fs/cgroup/a/b/memory.max", "max\n");
  write("sys/fs/cgroup/a/b/memory.current", "2500000\n");
  room = tl::detail::memory_room(folder);
  REQUIRE(room);
  CHECK(room->free == 900000.0);
  CHECK(room->limited);

  tl::detail::Findings out;
  tl::detail::check_memory({.optimizer = 1e5, .activations = 2e5, .cache = 6e5}, *room, out);
  CHECK(words(out) == "");
  tl::detail::check_memory({.optimizer = 1e5, .activations = 2e5, .cache = 9e5}, *room, out);
  CHECK(checks(out) == "error memory");
  CHECK_THAT(words(out), ContainsSubstring("under the limit of the process's control group; keep less"));
  out.clear();
  tl::detail::check_memory({.cache = 2e9}, {.free = 1.5e9, .swap = 1e9}, out);
  CHECK(checks(out) == "warning memory");
}

TEST_CASE("Errors can be refused, all in one sentence; warnings pass") {
  const auto train = data(96, 1), val = data(48, 2);
  const auto refuse = [](const std::vector<tl::Finding>& findings) { tl::refuse_errors(findings); };
  refuse({{tl::Severity::warning, "copies", "a"}});
  CHECK(sentence_of<tl::OptionError>([&] {
          refuse({{tl::Severity::error, "rate", "a"},
                  {tl::Severity::warning, "copies", "b"},
                  {tl::Severity::error, "memory", "c"}});
        }) == "a; also, c");
  const auto wrong = found(changed(train, [](const Tensor& x) { return x.to(at::kFloat); }),
                           relabelled(val, [](const Tensor& t) { return t + 1; }));
  CHECK(checks(wrong) == "error range, error labels");
  CHECK_THAT(sentence_of<tl::DataError>([&] { refuse(wrong); }), ContainsSubstring("subtract 1"));
}

TEST_CASE("Preflight obeys the stop token") {
  std::stop_source stop;
  stop.request_stop();
  CHECK_THROWS_AS(found(data(64, 1), data(32, 2), {.stop = stop.get_token()}), tl::Stopped);
}

// ------------------------------------------------------------------------------------- the published network, real
// data

namespace {

/// A folder of data outside of the repository; nothing where it is not there.
std::optional<std::filesystem::path> extra(const std::string& name) {
  const char *own = std::getenv("TRANSFERLIB_TEST_DATA_EXTRA"), *source = std::getenv("TRANSFERLIB_SOURCE");
  for (const std::filesystem::path& place :
       {std::filesystem::path(own == nullptr ? "" : own),
        std::filesystem::path(source == nullptr ? "." : source) / ".." / "shared" / "data"})
    if (!place.empty() && std::filesystem::exists(place / name)) return place / name;
  return std::nullopt;
}

using Lite = tl::Classifier<tl::EfficientNetLite0, tl::Linear>;
std::optional<Lite> lite(const tl::Labels& labels, Index size = 128) {
  try {
    return Lite(tl::Backbone<tl::EfficientNetLite0>::pretrained({.size = size}), tl::FreezePolicy<tl::FreezeAll>{},
                tl::Head<tl::Linear>{}, labels);
  } catch (const tl::WeightsError&) {
    return std::nullopt;
  }
}

/// All pictures and targets of a data set that lies in memory.
template <class D>
Data plain(const D& of, Index most) {
  const auto batch = of.batch(first_ids(std::min(most, of.size())));
  return {batch.pictures.at(0), batch.target, of.labels()};
}

Tensor reversed(const Tensor& x) { return x.flip({1}); }

/// The cells in the pictures that a list of BCCD names, cut out; 64 x 64 pixels each.
Data cells(const std::filesystem::path& folder, const std::string& list) {
  const tl::Labels labels{"RBC", "WBC", "Platelets"};
  std::vector<Tensor> pictures, targets;
  const std::string names = tl::read_file(folder / "ImageSets" / "Main" / (list + ".txt"));
  for (const auto& [name, line] : tl::detail::lines_of(names)) {
    const auto annotation = folder / "Annotations" / (std::string(name) + ".xml");
    const auto picture = tl::read_picture(folder / "JPEGImages" / (std::string(name) + ".jpg"));
    const Tensor whole = at::tensor(at::ArrayRef<std::uint8_t>(picture.pixels), at::kByte)
                             .view({picture.height, picture.width, 3})
                             .permute({2, 0, 1});
    Index red = 0;
    for (const auto& object : tl::parse_voc(tl::read_file(annotation), annotation.string()).objects) {
      const Index x = std::max<Index>(static_cast<Index>(object.box[0]), 0),
                  y = std::max<Index>(static_cast<Index>(object.box[1]), 0);
      const Index w = std::min(static_cast<Index>(object.box[2]), picture.width - x),
                  h = std::min(static_cast<Index>(object.box[3]), picture.height - y);
      const auto label = std::find(labels.begin(), labels.end(), object.name) - labels.begin();
      // There are ten times as many red cells; two a picture are enough.
      if (w < 16 || h < 16 || label == 3 || (label == 0 && ++red > 2)) continue;
      pictures.push_back(tl::resize(whole.narrow(1, y, h).narrow(2, x, w).unsqueeze(0).contiguous(), 64, 64));
      targets.push_back(at::full({1}, static_cast<Index>(label), at::kLong));
    }
  }
  return {at::cat(pictures), at::cat(targets), labels};
}

}  // namespace

TEST_CASE("CIFAR-10 and the published EfficientNet-Lite0: silent where all is right, and each fault is found",
          "[all]") {
  const auto folder = extra("cifar-10-batches-bin");
  const auto model = lite(tl::Cifar10::class_names());
  if (!folder || !model) SKIP("CIFAR-10 (in TRANSFERLIB_TEST_DATA_EXTRA) or the weights are not there");
  const auto [train, test] = tl::Cifar10::open(*folder);
  const auto start = std::chrono::steady_clock::now();
  const auto findings = tl::preflight(*model, train, test);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  CHECK(words(findings) == "");
  CHECK(seconds < 60.0);  // 5 are meant, on a machine that does nothing else

  const Data a = plain(train, 4000), b = plain(test, 2000);
  const auto look = [&](const Data& x, const Data& y, const tl::TrainerOptions& options = {}) {
    return tl::preflight(*model, x, y, options, {.seconds = 60.0});
  };
  CHECK(words(look(a, b)) == "");
  const auto bgr = look(changed(a, reversed), changed(b, reversed));
  INFO(words(bgr));
  CHECK(checks(bgr) == "warning channels");
  CHECK(checks(look(a, relabelled(b, [](const Tensor& t) { return at::remainder(t + 1, 10); }))) ==
        "warning label order");
  CHECK(checks(look(changed(a, [](const Tensor& x) { return x.to(at::kFloat); }), b)) == "error range");
  CHECK(checks(look(a, b, {.optimizer = tl::Sgd{.lr = 100.0}})) == "warning rate");
  const auto planes = [](const Tensor& x) { return x.permute({0, 2, 3, 1}).contiguous().view(x.sizes()); };
  CHECK_THAT(checks(look(changed(a, planes), changed(b, planes))), ContainsSubstring("warning layout"));
  CHECK_THAT(checks(look(a, plain(train, 500))), ContainsSubstring("warning copies"));
}

TEST_CASE("Fine-tuning the published EfficientNet-Lite0 at a rate that is usual is silent", "[all]") {
  const auto folder = extra("cifar-10-batches-bin");
  auto model = lite(tl::Cifar10::class_names(), 64);
  if (!folder || !model) SKIP("CIFAR-10 (in TRANSFERLIB_TEST_DATA_EXTRA) or the weights are not there");
  model->refreeze(tl::FreezePolicy<tl::FreezeNone>{});
  const auto [train, test] = tl::Cifar10::open(*folder);
  CHECK(words(tl::preflight(*model, plain(train, 1000), plain(test, 1000), {.optimizer = tl::AdamW{.lr = 1e-3}},
                            {.seconds = 20.0})) == "");
}

TEST_CASE("Pictures of few colours are no reason to speak of swapped channels", "[all]") {
  const auto folder = extra("cifar-10-batches-bin");
  const auto model = lite({"airplane", "ship"});
  if (!folder || !model) SKIP("CIFAR-10 (in TRANSFERLIB_TEST_DATA_EXTRA) or the weights are not there");
  const auto [train, test] = tl::Cifar10::open(*folder);
  const auto of = [](const Data& all) {
    const Tensor keep = all.target.eq(0).logical_or(all.target.eq(8));
    return Data{all.pictures.index({keep}), all.target.index({keep}).gt(0).to(at::kLong), {"airplane", "ship"}};
  };
  CHECK(words(tl::preflight(*model, of(plain(train, 4000)), of(plain(test, 4000)), {}, {.seconds = 60.0})) == "");
}

TEST_CASE("Fashion-MNIST is silent; grey pictures have no order of channels", "[all]") {
  const auto model = lite(tl::FashionMnist::class_names());
  if (!std::filesystem::exists(tl::FashionMnist::debian_folder) || !model)
    SKIP("the package dataset-fashion-mnist or the weights are not there");
  const auto [train, test] = tl::FashionMnist::open();
  CHECK(words(tl::preflight(*model, train, test, {}, {.seconds = 60.0})) == "");
  const auto colour = [](const Tensor& x) { return x.expand({-1, 3, -1, -1}).contiguous(); };
  CHECK(words(tl::preflight(*model, changed(plain(train, 2000), colour), changed(plain(test, 2000), colour), {},
                            {.seconds = 60.0})) == "");
}

TEST_CASE("The cells of BCCD are silent", "[all]") {
  const auto folder = extra("bccd/BCCD");
  const auto model = lite({"RBC", "WBC", "Platelets"});
  if (!folder || !model) SKIP("BCCD or the weights are not there");
  const Data train = cells(*folder, "trainval"), test = cells(*folder, "test");
  CHECK(words(tl::preflight(*model, train, test, {}, {.seconds = 60.0})) == "");
  CHECK(checks(tl::preflight(*model, train,
                             relabelled(test, [](const Tensor& t) { return at::where(t.eq(2), t, 1 - t); }), {},
                             {.seconds = 60.0})) == "warning label order");
}

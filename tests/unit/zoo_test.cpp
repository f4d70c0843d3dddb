// Every network of the zoo against its Python original: tests/data/parity/zoo/<name>.json, made by tests/parity's
// make_<family>.py. One variant a family every day; all of them, which takes minutes, under the tag [all].
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <catch2/catch_test_macros.hpp>

#include <transferlib/backbones/resnet.hpp>
#include <transferlib/backbones/vit.hpp>
#include <transferlib/core/files.hpp>
#include <transferlib/core/hash.hpp>
#include <transferlib/data/tensors_data.hpp>
#include <transferlib/engine/engine.hpp>
#include <transferlib/formats/json.hpp>
#include <transferlib/freeze/policy.hpp>
#include <transferlib/heads/vector_head.hpp>
#include <transferlib/model/classifier.hpp>
#include <transferlib/train/optimizer.hpp>
#include <transferlib/train/trainer.hpp>
#include <transferlib/weights/originals.hpp>
#include <transferlib/zoo.hpp>

#include "formula.hpp"

using namespace transferlib;

namespace {

/// How far two programs' float32 numbers may be from each other, relative to the tensor's largest.
constexpr double tolerance = 1e-4;

std::string short_hash(const std::vector<std::string>& lines) {
  Sha256 hash;
  for (const std::string& line : lines) {
    const std::string text = line + "\n";
    hash.add(std::as_bytes(std::span(text.data(), text.size())));
  }
  return hash.hex().substr(0, 16);
}

std::optional<Json> expected(const Card& card) {
  const auto path = data_folder() / "parity" / "zoo" / (std::string(card.name) + ".json");
  if (!std::filesystem::exists(path)) return std::nullopt;
  return parse_json(read_file(path), path.string());
}

Gain gain_of(const Json& json) {
  Gain out;
  for (const Json& pair : json["gain"].elements()) out.emplace_back(pair[0].get<std::string>(), pair[1].get<double>());
  return out;
}

/// The formula's pictures as the network's stem takes them.
Tensor prepared(const Preprocessing& p, Index count, Index size) {
  Tensor x = pictures(count, size).to(at::kFloat) / 255.0;
  for (Index c = 0; c < 3; ++c) {
    const auto i = static_cast<std::size_t>(c);
    x.select(1, c).sub_(p.mean[i]).div_(p.deviation[i]);
  }
  return x;
}

std::vector<Index> wanted_of(const Graph& graph) {
  std::vector<Index> out = graph.stages;
  out.push_back(graph.pooled);
  if (graph.logits != 0) out.push_back(graph.logits);
  return out;
}

Activations run(const Graph& graph, const Tensor& x) {
  const torch::NoGradGuard guard;
  return graph.run({x}, Cut{}, wanted_of(graph), {}, std::vector<bool>(graph.table.rows.size(), true));
}

/// The largest difference of any of the network's values from Python's.
double differences(const Json& want, const Activations& got, std::size_t stages) {
  REQUIRE(want["stages"].size() == stages);
  REQUIRE(got.size() == stages + 1 + (want.contains("logits") ? 1 : 0));
  double out = 0.0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double d = difference(i < stages ? want["stages"][i] : want[i == stages ? "pooled" : "logits"], got[i]);
    INFO("value " << i << " differs by " << d);
    CHECK((d <= tolerance || out > tolerance));  // names the first that differs
    out = std::max(out, d);
  }
  return out;
}

/// A network whose weights are the formula's for its size.
AnyBackbone filled(const ZooEntry& entry, Index size, const Json& json) {
  NetworkOptions options;
  options.size = size;
  AnyBackbone out = entry.random(options, 0);
  fill(*out.core.network, "", gain_of(json));
  return out;
}

void check_names(const AnyBackbone& b, const Json& json) {
  std::vector<std::string> lines;
  const StateDict state = state_dict(*b.core.network);
  for (const auto& [name, tensor] : state) {
    std::string line = name + " " + type_name(tensor.scalar_type());
    for (const Index side : tensor.sizes()) line += transferlib::detail::text(" ", side);
    lines.push_back(std::move(line));
  }
  CHECK(lines.size() == json["tensors"].get<std::size_t>());
  CHECK(short_hash(lines) == json["names"].get<std::string>());
  Index parameters = 0, in_rows = 0;
  for (const Tensor& p : b.core.network->parameters()) parameters += p.numel();
  std::vector<std::string> layers;
  for (const Layer& row : b.layers().rows) {
    layers.push_back(row.name);
    in_rows += row.parameters;
  }
  CHECK(parameters == json["parameters"].get<Index>());
  CHECK(in_rows == parameters);
  CHECK(layers.size() == json["layers"]["count"].get<std::size_t>());
  CHECK(short_hash(layers) == json["layers"]["names"].get<std::string>());
}

/// Which tensors are trained when the first n layers are frozen.
void check_trainable(AnyBackbone& b, const Json& json) {
  for (const auto& [n, want] : json.members()) {
    CAPTURE(n);
    const auto mask = FreezePolicy<FreezeUntil>{{Index{std::stoll(n)}}}.mask(b.layers());
    transferlib::detail::apply_mask(b.core, mask);
    std::vector<std::string> names;
    for (const auto& item : b.core.network->named_parameters())
      if (item.value().requires_grad()) names.push_back(item.key());
    CHECK(names.size() == want["count"].get<std::size_t>());
    CHECK(short_hash(names) == want["names"].get<std::string>());
  }
}

/// What the engine makes of the network in float32 is what the network computes, and every norm behind a convolution
/// is folded.
void check_engine(const AnyBackbone& b, const Tensor& x, const Activations& plain) {
  const auto wanted = wanted_of(b.core.graph);
  const std::vector<Index> input{3, x.size(2), x.size(3)};
  const Engine engine(b.core.graph, wanted, input, {.precision = Precision::fp32});
  const Activations fast = engine(x);
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    CAPTURE(i);
    CHECK(((fast[i] - plain[i]).norm() / plain[i].norm()).item<double>() <= tolerance);
  }
}

/// A wrong epsilon in every norm is seen.
void check_that_it_can_fail(const AnyBackbone& b, const Json& want, const Tensor& x) {
  bool any = false;
  for (const Step& step : b.core.graph.steps) {
    if (auto* norm = dynamic_cast<nn::BatchNorm2d*>(step.module.get())) norm->epsilon += 1e-2, any = true;
    if (auto* norm = dynamic_cast<nn::LayerNorm*>(step.module.get())) norm->epsilon += 1e-2, any = true;
  }
  if (any) CHECK(difference(want["pooled"], run(b.core.graph, x)[b.core.graph.stages.size()]) > tolerance);
}

/// A file with another original's names.
void check_renamed(const ZooEntry& entry, Index size, const std::string& original, const Json& want) {
  AnyBackbone b = filled(entry, size, want);
  const auto& plan = dynamic_cast<const Plan&>(*b.core.network);
  const auto own = state_dict(plan);
  for (const Renaming& renaming : plan.renamings()) {
    if (renaming.original != original) continue;
    StateDict file;
    for (const auto& [ours, theirs] : renaming.names) {
      const auto at = std::find_if(own.begin(), own.end(), [&o = ours](const auto& item) { return item.first == o; });
      REQUIRE(at != own.end());
      file.emplace_back(theirs, at->second.clone());
      fill(theirs, file.back().second, gain_of(want));
    }
    load_state_dict(*b.core.network, as_own(plan, file));
    const Tensor x = prepared(b.preprocessing(), 1, size);
    CHECK(differences(want, run(b.core.graph, x), b.core.graph.stages.size()) <= tolerance);
    return;
  }
  FAIL("no renaming of " << original);
}

/// A network that is dilated for a finer last map, at the smaller size.
void check_strided(const ZooEntry& entry, const AnyBackbone& whole, const std::string& stride, const Json& want) {
  NetworkOptions options;
  options.size = whole.preprocessing().size;
  options.output_stride = std::stoll(stride);
  const AnyBackbone b = entry.random(options, 0);
  CHECK(b.features().strides.back() == options.output_stride);
  load_state_dict(*b.core.network, state_dict(*whole.core.network));
  const Tensor x = prepared(b.preprocessing(), 1, options.size);
  const Activations got = run(b.core.graph, x);
  CHECK(differences(want, got, b.core.graph.stages.size()) <= tolerance);
  check_engine(b, x, got);
}

/// Of one variant a family, or of those that this leaves.
void check_zoo(bool daily) {
  const char* const only = std::getenv("TRANSFERLIB_NETWORK");  // one of them, by hand
  Index checked = 0;
  for (const ZooEntry& entry : zoo()) {
    const std::string name = entry.card.name;
    if (only != nullptr && name != only) continue;
    const auto json = expected(entry.card);
    CAPTURE(name);
    if (!json) {
      FAIL_CHECK("no numbers of its original");
      continue;
    }
    if (only == nullptr && daily != (*json)["ci"].get<bool>()) continue;
    ++checked;
    const Index native = (*json)["native"].get<Index>();
    AnyBackbone first = filled(entry, native != 0 ? native : std::stoll((*json)["sizes"].members().at(0).name), *json);
    check_names(first, *json);
    for (const auto& [size, want] : (*json)["sizes"].members()) {
      CAPTURE(size);
      NetworkOptions options;
      options.size = std::stoll(size);
      AnyBackbone b = entry.random(options, 0);
      const auto& plan = dynamic_cast<const Plan&>(*b.core.network);
      load_state_dict(*b.core.network, as_own(plan, state_dict(*first.core.network)));
      const Tensor x = prepared(b.preprocessing(), (*json)["pictures"].get<Index>(), options.size);
      const Activations got = run(b.core.graph, x);
      CHECK(differences(want, got, b.core.graph.stages.size()) <= tolerance);
      check_engine(b, x, got);
      check_that_it_can_fail(b, want, x);
    }
    if (json->contains("trainable")) check_trainable(first, (*json)["trainable"]);
    if (json->contains("strided"))
      for (const char* stride : {"8", "16"}) {
        CAPTURE(stride);
        if ((*json)["strided"].contains(stride)) check_strided(entry, first, stride, (*json)["strided"][stride]);
      }
    if (json->contains("renamed"))
      for (const auto& [original, want] : (*json)["renamed"].members()) {
        CAPTURE(original);
        check_renamed(entry, std::stoll((*json)["sizes"].members().at(0).name), original, want);
      }
  }
  CHECK((checked >= 1 || only != nullptr));
}

/// An epoch of one of examples/: a network that is frozen, or its layers up to one, and a new head, from the same
/// weights, in the same order.
template <class N, class H>
void check_lesson(const std::string& file) {
  const Json json = python(file);
  const Index count = json["pictures"].get<Index>(), size = json["size"].get<Index>();
  const Index classes = json["classes"].get<Index>();
  auto backbone = Backbone<N>::random({.size = size});
  REQUIRE(json["network"].get<std::string>() == backbone.core.name);
  fill(*backbone.core.network, "", gain_of(json));
  backbone.core.preprocessing.crop_fraction = 1.0;  // the pictures are as large as the network's input
  Labels labels;
  for (Index c = 0; c < classes; ++c) labels.push_back(transferlib::detail::text("class ", c));
  const TensorData<ClassIndex> data(pictures(count, size), at::arange(count) % classes, labels);
  AnyRule rule = FreezeAll{};
  if (json.contains("fine_tune_at")) rule = FreezeUntil{json["fine_tune_at"].get<Index>()};
  Classifier<N, H> model{std::move(backbone), FreezePolicy<AnyRule>{rule}, Head<H>{{.standardise = false}}, labels};
  fill(model.head(), "", gain_of(json["head"]));
  StateDict before;
  for (const auto& [name, tensor] : state_dict(*model.backbone_core().network))
    before.emplace_back(name, tensor.detach().clone());
  Trainer trainer{model,
                  {.epochs = 1,
                   .batch = json["batch"].get<Index>(),
                   .optimizer = Adam{.lr = json["lr"].get<double>(), .epsilon = json["epsilon"].get<double>()},
                   .precision = Precision::fp32}};
  const History history = trainer.fit(data, data);
  for (const char* name : {"train_loss", "train_accuracy", "val_loss", "val_accuracy"}) {
    CAPTURE(name);
    CHECK(std::abs(history[name].back() - json["values"][name].template get<double>()) < 1e-3);
  }
  CHECK(difference(json["head"]["weight"], model.head().parameters().front()) < 1e-3);
  // What has changed is what the original changes, statistics of batch norm among it.
  std::set<std::string> changed;
  const StateDict after = state_dict(*model.backbone_core().network);
  for (std::size_t i = 0; i < after.size(); ++i)
    if (!after[i].first.ends_with("num_batches_tracked") && !at::equal(after[i].second, before[i].second))
      changed.insert(after[i].first);
  std::set<std::string> expected;
  if (json.contains("changed"))
    for (const auto& name : json["changed"].template get<std::vector<std::string>>()) expected.insert(name);
  CHECK(changed == expected);
}

}  // namespace

TEST_CASE("a variant of every family computes what its original does") { check_zoo(true); }

TEST_CASE("every other variant computes what its original does", "[all]") { check_zoo(false); }

TEST_CASE("lesson 2's epoch is PyTorch's") { check_lesson<ResNet50, Linear>("lesson_02.json"); }

TEST_CASE("lesson 3's epoch is Keras's") { check_lesson<KerasMobileNetV2, Mlp>("lesson_03.json"); }

TEST_CASE("lesson 4's epoch is Keras's") { check_lesson<KerasMobileNetV3Small, Linear>("lesson_04.json"); }

TEST_CASE("lessons 4 and 5 on 2,000 pictures of their own size", "[all]") {
  check_lesson<KerasMobileNetV3Small, Linear>("lesson_04_2000.json");
  check_lesson<KerasMobileNetV3Small, Linear>("lesson_05_2000.json");
}

TEST_CASE("lesson 5's epoch is Keras's") { check_lesson<KerasMobileNetV3Small, Linear>("lesson_05.json"); }

TEST_CASE("a vision transformer reads what DINOv2's authors publish, takes other sizes, is cut, computes in bfloat16") {
  using Network = Backbone<DinoV2S14Registers>;
  const auto load = [](const Network& b, const StateDict& state) {
    load_state_dict(*b.core.network, as_own(dynamic_cast<const Plan&>(*b.core.network), state));
  };
  const auto relative = [](const Tensor& a, const Tensor& b) { return ((a - b).norm() / b.norm()).item<double>(); };
  const Network own = Network::random({.size = 70});
  fill(*own.core.network, "", gain_of(*expected(DinoV2S14Registers::card)));
  const Preprocessing& p = own.preprocessing();
  const Tensor x = prepared(p, 1, 70);
  const Activations plain = run(own.core.graph, x);

  // Theirs: the class token's position apart, other names, a token that only their training uses.
  StateDict theirs{{"mask_token", at::zeros({1, 384})}};
  const Tensor apart = at::linspace(-1.0, 1.0, 384).view({1, 1, 384});
  for (const auto& [name, tensor] : state_dict(*own.core.network)) {
    if (name == "cls_token")
      theirs.emplace_back(name, tensor - apart);
    else if (name == "pos_embed")
      theirs.emplace_back(name, at::cat({apart, tensor}, 1));
    else
      theirs.emplace_back(name == "reg_token" ? "register_tokens" : name, tensor);
  }
  Network b = Network::random({.size = 70});
  CHECK(relative(run(b.core.graph, x).back(), plain.back()) > 0.1);
  load(b, theirs);
  CHECK(relative(run(b.core.graph, x).back(), plain.back()) < 1e-5);

  // The position embedding is resampled when it is read, and at each call.
  const Network larger = Network::random({.size = 112});
  load(larger, state_dict(*own.core.network));
  const Tensor large = prepared(p, 1, 112);
  CHECK(relative(run(own.core.graph, large).back(), run(larger.core.graph, large).back()) < 1e-6);
  CHECK_THROWS_AS(run(own.core.graph, large.narrow(2, 0, 56)), OptionError);
  CHECK_THROWS_AS(Network::random({.size = 100}), OptionError);

  // Behind a frozen half the tokens are all that is needed.
  const auto mask = FreezePolicy<FreezeUntil>{{"blocks.6"}}.mask(b.layers());
  transferlib::detail::apply_mask(b.core, mask);
  const Graph& graph = b.core.graph;
  const std::vector<Index> wanted{graph.pooled};
  const Cut cut = transferlib::detail::best_cut(b.core, wanted);
  REQUIRE(cut.live.size() == 1);
  CHECK(graph.table.rows[Graph::at(graph.steps[Graph::at(cut.boundary)].layers.at(0))].name == "blocks.6.norm1");
  const torch::NoGradGuard guard;
  const Activations crossing = graph.run({x}, Cut{}, cut.live, {}, mask);
  CHECK(at::equal(graph.run(crossing, cut, wanted, {}, mask)[0], graph.run({x}, Cut{}, wanted, {}, mask)[0]));

  const Engine engine(graph, wanted, std::vector<Index>{3, 70, 70}, {.precision = Precision::bf16});
  const Tensor rough = engine(x)[0];
  CHECK(rough.scalar_type() == at::kFloat);
  CHECK(relative(rough, plain.back()) < 0.03);
}

TEST_CASE("the zoo's names are one network's each") {
  std::set<std::string> names;
  for (const ZooEntry& entry : zoo()) {
    CHECK(names.insert(entry.card.name).second);
    for (const std::string& alias : aliases_of(entry.card)) CHECK(names.insert(alias).second);
  }
}

// YOLO's heads and necks: losses, gradients, boxes and blocks against the formulas written down a second time in
// Python (tests/parity/make_yolo.py); matching, anchors, merging of branches.
#include <algorithm>
#include <cmath>
#include <functional>
#include <initializer_list>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <torch/optim/adam.h>

#include <transferlib/backbones/csp_darknet.hpp>
#include <transferlib/core/random.hpp>
#include <transferlib/detect/anchors.hpp>
#include <transferlib/heads/yolo.hpp>
#include <transferlib/heads/yolo_v1.hpp>
#include <transferlib/heads/yolox.hpp>
#include <transferlib/model/head.hpp>
#include <transferlib/model/neck.hpp>
#include <transferlib/necks/elan.hpp>
#include <transferlib/necks/passthrough.hpp>
#include <transferlib/necks/path_aggregation.hpp>
#include <transferlib/necks/spp.hpp>
#include <transferlib/necks/yolo_v3.hpp>

// LibTorch's logging has a macro of this name, which ends the program where Catch2's counts a failure.
#undef CHECK
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include "formula.hpp"

namespace tl = transferlib;
using namespace transferlib;
using Catch::Matchers::ContainsSubstring;

namespace {

static_assert(HeadNetwork<Yolo> && HeadNetwork<YoloV1> && HeadNetwork<YoloX>);
static_assert(NeckNetwork<YoloV3Neck> && NeckNetwork<PathAggregation> && NeckNetwork<C3PathAggregation>);
static_assert(NeckNetwork<ElanPathAggregation> && NeckNetwork<Passthrough> && NeckNetwork<SpatialPyramidPooling>);

constexpr Index picture_width = 96, picture_height = 64, classes = 3, pictures_used = 3;
const LevelAnchors small_anchors{{{6, 8}, {12, 10}}, {{20, 16}, {16, 30}}, {{40, 36}, {60, 50}}};
const FeatureSpec three_maps{{8, 12, 16}, {8, 16, 32}, 16, classes};

const Json& expected() {
  static const Json json = python("yolo.json");
  return json;
}

/// The objects of make_yolo.py.
Batch objects() {
  Batch batch;
  batch.target = at::tensor({0.0,  9.0,  10.0, 7.0,  9.0,  1.0,  10.0, 11.0, 6.0, 8.0,  2.0,  20.0,
                             5.0,  56.0, 52.0, 1.0,  54.0, 24.0, 20.0, 16.0, 2.0, 80.0, 40.0, 15.0,
                             23.0, 0.0,  3.3,  30.7, 19.0, 28.5, 1.0,  41.2, 9.9, 11.0, 13.0},
                            at::kDouble)
                     .view({-1, 5});
  batch.offsets = at::tensor({0, 4, 4, 7}, at::kLong);
  return batch;
}

/// Doubles of a name in [-2, 2), as leaves.
Tensor values_of(const std::string& name, at::IntArrayRef shape, double scale = 4.0, double shift = 0.5) {
  Tensor out = at::empty(shape, at::kDouble);
  double* p = out.mutable_data_ptr<double>();
  for (Index i = 0; i < out.numel(); ++i) p[i] = (uniform(fnv1a(name), static_cast<std::uint64_t>(i)) - shift) * scale;
  return out.requires_grad_();
}

std::vector<Tensor> maps_of(const std::string& name, const std::vector<Index>& strides,
                            const std::vector<Index>& channels) {
  std::vector<Tensor> out;
  for (std::size_t l = 0; l < strides.size(); ++l)
    out.push_back(values_of(tl::detail::text(name, ".", l),
                            {pictures_used, channels[l], picture_height / strides[l], picture_width / strides[l]}));
  return out;
}

/// The largest difference of terms and gradients from Python's.
template <class H>
double difference_of(H& head, const typename H::Output& output, const std::vector<Tensor>& leaves, const Json& wanted) {
  for (const Tensor& leaf : leaves) leaf.mutable_grad() = Tensor();
  const LossTerms loss = head.loss(output, objects());
  loss.total().backward();
  double worst = 0.0;
  for (const auto& [name, value] : loss.terms) {
    const double want = wanted["terms"][name].template get<double>();
    worst = std::max(worst, std::abs(value.template item<double>() - want) / std::abs(want));
  }
  for (std::size_t l = 0; l < leaves.size(); ++l)
    worst = std::max(worst, difference(wanted["gradients"][l], leaves[l].grad()));
  return worst;
}

struct Version {
  YoloOptions options;
  std::vector<Index> strides{8, 16, 32};
};

/// The versions as make_yolo.py has them.
std::map<std::string, Version> versions() {
  std::map<std::string, Version> out;
  out["v2"] = {yolo_v2(), {32}};
  out["v2"].options.anchors = {{{8, 9}, {20, 25}, {50, 48}}};
  out["v3"].options = yolo_v3();
  out["v4"].options = yolo_v4();
  out["v4"].options.label_smoothing = 0.1;
  out["v5"].options = out["v5_focal"].options = yolo_v5();
  out["v5_focal"].options.focal_gamma = 1.5;
  out["v5_focal"].options.box_loss = Overlap::giou;
  out["v7"].options = out["v7_auxiliary"].options = yolo_v7();
  out["v7_auxiliary"].options.auxiliary = true;
  out["v7_auxiliary"].options.ota_most = 20;
  for (auto& [name, v] : out)
    if (v.strides.size() == 3) {
      v.options.anchors = small_anchors;
      if (v.options.matching == Matching::best) v.options.ignore_threshold = 0.5;
    }
  return out;
}

/// What a version computes, beside what Python's of that name does.
double difference_of(const Version& v, const std::string& name) {
  FeatureSpec spec = three_maps;
  if (v.strides.size() == 1) spec = {{16}, {32}, 16, classes};
  Yolo head(spec, v.options);
  std::vector<Index> channels;
  for (const Anchors& a : v.options.anchors) channels.push_back(static_cast<Index>(a.size()) * (5 + classes));
  auto maps = maps_of("lead", v.strides, channels);
  if (v.options.auxiliary)
    for (const Tensor& m : maps_of("auxiliary", v.strides, channels)) maps.push_back(m);
  std::vector<Tensor> leaves = maps;
  if (const std::size_t more = expected()["losses"][name]["gradients"].size(); leaves.size() != more)
    leaves.resize(std::min(leaves.size(), more));
  return difference_of(head, maps, leaves, expected()["losses"][name]);
}

/// The surest boxes of the first picture are Python's.
void check_found(const Detections& found, const Json& wanted) {
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const auto k = static_cast<Index>(i);
    CHECK(found.labels[k].item<Index>() == wanted[i][0].get<Index>());
    CHECK(std::abs(found.scores[k].item<double>() - wanted[i][1].get<double>()) < 1e-5);
    for (Index c = 0; c < 4; ++c)
      CHECK(std::abs(found.boxes[k][c].item<double>() - wanted[i][static_cast<std::size_t>(c + 2)].get<double>()) <
            1e-3);
  }
}

/// The derivative of a loss along a direction, by differences and by the gradient: how far apart they are.
template <class H>
double slope_error(H& head, const std::vector<Tensor>& leaves,
                   const std::function<typename H::Output(const std::vector<Tensor>&)>& output) {
  const auto loss = [&](const std::vector<Tensor>& maps) { return head.loss(output(maps), objects()).total(); };
  for (const Tensor& leaf : leaves) leaf.mutable_grad() = Tensor();
  loss(leaves).backward();
  double along = 0.0;
  std::vector<Tensor> direction, before, after;
  constexpr double step = 1e-6;
  for (std::size_t l = 0; l < leaves.size(); ++l) {
    direction.push_back(values_of(tl::detail::text("direction.", l), leaves[l].sizes(), 2.0).detach());
    along += (leaves[l].grad() * direction[l]).sum().template item<double>();
    before.push_back(leaves[l].detach() - direction[l] * step);
    after.push_back(leaves[l].detach() + direction[l] * step);
  }
  const double slope = (loss(after) - loss(before)).template item<double>() / (2.0 * step);
  return std::abs(slope - along) / std::abs(along);
}

std::string message(const std::function<void()>& act) {
  try {
    act();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("each version's losses, their gradients and its boxes are those of the formulas") {
  for (const auto& [name, version] : versions()) {
    INFO(name);
    CHECK(difference_of(version, name) < 1e-6);
    FeatureSpec spec = three_maps;
    if (version.strides.size() == 1) spec = {{16}, {32}, 16, classes};
    YoloOptions o = version.options;
    o.selection = {.score_threshold = 0.0, .suppression = Suppression::none};
    std::vector<Index> channels;
    for (const Anchors& a : o.anchors) channels.push_back(static_cast<Index>(a.size()) * (5 + classes));
    const auto found = Yolo(spec, o).predict(maps_of("lead", version.strides, channels));
    REQUIRE(found.size() == 3);
    check_found(found[0], expected()["losses"][name]["found"]);
  }
}

TEST_CASE("the losses of v1 and YOLOX, their gradients and boxes are those of the formulas") {
  const Selection all{.score_threshold = 0.0, .suppression = Suppression::none};
  YoloV1 grid(three_maps, {.side = 4, .selection = all});
  const Tensor values = values_of("v1", {pictures_used, 16 * (classes + 10)}, 1.0, 0.0);
  const YoloGrid output{values, picture_width, picture_height};
  CHECK(difference_of(grid, output, {values}, expected()["losses"]["v1"]) < 1e-6);
  check_found(grid.predict(output)[0], expected()["losses"]["v1"]["found"]);

  YoloX x(three_maps, {.width = 16, .selection = all});
  const auto maps = maps_of("yolox", {8, 16, 32}, {8, 8, 8});
  CHECK(difference_of(x, maps, maps, expected()["losses"]["yolox"]) < 1e-6);
  check_found(x.predict(maps)[0], expected()["losses"]["yolox"]["found"]);
}

TEST_CASE("a part of a neighbouring version in a version's place is seen") {
  using Change = std::function<void(YoloOptions&)>;
  const std::vector<std::tuple<const char*, const char*, Change>> swaps{
      {"v2", "v3's classes", [](auto& o) { o.classes = ClassRelation::logistic; }},
      {"v2", "v3's objectness", [](auto& o) { o.objectness = Objectness::one; }},
      {"v2", "v3's weight of objects", [](auto& o) { o.object_weight = 1.0; }},
      {"v3", "v2's classes", [](auto& o) { o.classes = ClassRelation::softmax; }},
      {"v3", "v4's sensitivity", [](auto& o) { o.grid_sensitivity = yolo_v4().grid_sensitivity; }},
      {"v3", "v4's box loss", [](auto& o) { o.box_loss = Overlap::ciou; }},
      {"v3", "v4's anchors an object", [](auto& o) { o.anchor_threshold = 0.213; }},
      {"v4", "v3's sensitivity", [](auto& o) { o.grid_sensitivity = {1.0}; }},
      {"v4", "v3's box loss", [](auto& o) { o.box_loss = std::nullopt; }},
      {"v4", "v3's one anchor an object", [](auto& o) { o.anchor_threshold = 1.0; }},
      {"v4", "DIoU for CIoU", [](auto& o) { o.box_loss = Overlap::diou; }},
      {"v4", "v5's sizes", [](auto& o) { o.sizes = BoxSizes::squared; }},
      {"v4", "v5's matching", [](auto& o) { o.matching = Matching::ratio; }},
      {"v5", "v4's sizes", [](auto& o) { o.sizes = BoxSizes::exponential; }},
      {"v5", "v4's matching", [](auto& o) { o.matching = Matching::best; }},
      {"v5", "v4's objectness", [](auto& o) { o.objectness = Objectness::one; }},
      {"v5", "one cell an object", [](auto& o) { o.cell_reach = 0.0; }},
      {"v5", "maps in balance", [](auto& o) { o.balance = {1.0}; }},
      {"v5", "v7's matching", [](auto& o) { o.matching = Matching::simota; }},
      {"v7", "v5's matching", [](auto& o) { o.matching = Matching::ratio; }},
      {"v7", "YOLOX's five cells an object", [](auto& o) { o.cell_reach = 1.0; }},
      {"v7_auxiliary", "three cells an object", [](auto& o) { o.auxiliary_cell_reach = 0.5; }},
  };
  for (const auto& [name, what, change] : swaps) {
    INFO(name << " with " << what);
    Version v = versions().at(name);
    change(v.options);
    CHECK(difference_of(v, name) > 1e-3);
  }
}

TEST_CASE("gradients are the slopes of the losses") {
  // Where nothing that depends on the boxes counts as a constant: no target is an overlap, no CIoU.
  for (const auto& [name, version] : versions())
    for (const Overlap kind : {Overlap::iou, Overlap::giou, Overlap::diou}) {
      if (version.strides.size() == 1) continue;
      INFO(name << ", overlap " << static_cast<int>(kind));
      YoloOptions o = version.options;
      o.objectness = Objectness::one;
      if (o.box_loss) o.box_loss = kind;
      Yolo head(three_maps, o);
      auto maps = maps_of("lead", version.strides, {16, 16, 16});
      if (o.auxiliary)
        for (const Tensor& m : maps_of("auxiliary", version.strides, {16, 16, 16})) maps.push_back(m);
      CHECK(slope_error<Yolo>(head, maps, [](const auto& m) { return m; }) < 1e-5);
    }
  YoloX x(three_maps, {.width = 16, .class_weight = 0.0});
  CHECK(slope_error<YoloX>(x, maps_of("yolox", {8, 16, 32}, {8, 8, 8}), [](const auto& m) { return m; }) < 1e-5);
  YoloV1 grid(three_maps, {.side = 4, .object_weight = 0.0});
  CHECK(slope_error<YoloV1>(grid, {values_of("v1", {pictures_used, 16 * (classes + 10)}, 1.0, 0.0)}, [](const auto& m) {
          return YoloGrid{m[0], picture_width, picture_height};
        }) < 1e-5);
}

TEST_CASE("following the gradient, each version finds the objects") {
  const auto learns = [](auto& head, std::vector<Tensor> leaves, const auto& output) {
    torch::optim::Adam adam(leaves, torch::optim::AdamOptions(0.1));
    for (int i = 0; i < 200; ++i) {
      adam.zero_grad();
      head.loss(output(leaves), objects()).total().backward();
      adam.step();
    }
    BoxAveragePrecision metric;
    metric.update(head.predict(output(leaves)), objects());
    return metric.result().mean.ap50;
  };
  const auto same = [](const std::vector<Tensor>& m) { return m; };
  for (const auto& [name, version] : versions()) {
    INFO(name);
    // One map of few cells can't tell objects apart that share a cell and an anchor; nor can v3's maps.
    FeatureSpec spec = three_maps;
    if (version.strides.size() == 1) spec = {{16}, {32}, 16, classes};
    std::vector<Index> channels;
    for (const Anchors& a : version.options.anchors) channels.push_back(static_cast<Index>(a.size()) * (5 + classes));
    auto maps = maps_of("lead", version.strides, channels);
    if (version.options.auxiliary)
      for (const Tensor& m : maps_of("auxiliary", version.strides, channels)) maps.push_back(m);
    Yolo head(spec, version.options);
    CHECK(learns(head, maps, same) > (version.strides.size() == 1 ? 0.6 : 0.8));
  }
  YoloX x(three_maps, {.width = 16});
  CHECK(learns(x, maps_of("yolox", {8, 16, 32}, {8, 8, 8}), same) > 0.8);
  YoloV1 grid(three_maps, {.side = 8});
  CHECK(learns(grid, {values_of("v1", {pictures_used, 64 * (classes + 10)}, 1.0, 0.0)}, [](const auto& m) {
          return YoloGrid{m[0], picture_width, picture_height};
        }) > 0.8);
}

TEST_CASE("pictures without objects, and with thousands") {
  Batch empty, many;
  empty.target = at::zeros({0, 5});
  empty.offsets = at::zeros({4}, at::kLong);
  many.target =
      at::cat({values_of("class", {5000, 1}, 2.99, 0.0).detach().floor(),
               values_of("place", {5000, 2}, 60.0, 0.0).detach(), values_of("size", {5000, 2}, 40.0, -0.05).detach()},
              1);
  many.offsets = at::tensor({0, 5000, 5000, 5000}, at::kLong);
  const auto check = [&](auto& head, const auto& output, const std::vector<Tensor>& leaves) {
    const LossTerms none = head.loss(output, empty);
    none.total().backward();
    CHECK(none.terms[0].second.template item<double>() == 0.0);
    CHECK(none.terms[1].second.template item<double>() > 0.0);
    CHECK(none.terms[2].second.template item<double>() == 0.0);
    head.loss(output, many).total().backward();
    for (const Tensor& leaf : leaves) CHECK(leaf.grad().isfinite().all().template item<bool>());
  };
  for (const auto& [name, version] : versions()) {
    if (version.strides.size() == 1 || version.options.auxiliary) continue;
    INFO(name);
    Yolo head(three_maps, version.options);
    const auto maps = maps_of("lead", version.strides, {16, 16, 16});
    check(head, maps, maps);
  }
  YoloX x(three_maps, {.width = 16});
  const auto maps = maps_of("yolox", {8, 16, 32}, {8, 8, 8});
  check(x, maps, maps);
  YoloV1 grid(three_maps, {});
  const Tensor values = values_of("v1", {pictures_used, 49 * (classes + 10)});
  check(grid, YoloGrid{values, picture_width, picture_height}, {values});
}

TEST_CASE("losses of half precision are computed in float32") {
  const auto check = [](auto& head, const auto& half, const auto& single) {
    const Tensor a = head.loss(half, objects()).total(), b = head.loss(single, objects()).total();
    CHECK(a.scalar_type() == at::kFloat);
    CHECK(std::abs(a.template item<double>() / b.template item<double>() - 1.0) < 1e-6);
  };
  const auto as = [](std::vector<Tensor> maps, at::ScalarType type) {
    for (Tensor& m : maps) m = m.detach().to(at::kBFloat16).to(type);
    return maps;
  };
  for (const auto& [name, version] : versions()) {
    if (version.strides.size() == 1 || version.options.auxiliary) continue;
    INFO(name);
    Yolo head(three_maps, version.options);
    const auto maps = maps_of("lead", version.strides, {16, 16, 16});
    check(head, as(maps, at::kBFloat16), as(maps, at::kFloat));
  }
  YoloX x(three_maps, {.width = 16});
  const auto maps = maps_of("yolox", {8, 16, 32}, {8, 8, 8});
  check(x, as(maps, at::kBFloat16), as(maps, at::kFloat));
  YoloV1 grid(three_maps, {.side = 4});
  const auto values = std::vector<Tensor>{values_of("v1", {pictures_used, 16 * (classes + 10)}, 1.0, 0.0)};
  check(grid, YoloGrid{as(values, at::kBFloat16)[0], picture_width, picture_height},
        YoloGrid{as(values, at::kFloat)[0], picture_width, picture_height});
}

TEST_CASE("what SimOTA takes does not depend on how many objects are computed with at once") {
  // 400 objects and 8,000 predictions: pieces of 262 objects; beside it, all at once and by the definition.
  const Tensor corner = values_of("ota.corner", {400, 2}, 500.0, 0.0).detach();
  const Tensor truth = at::cat({corner, corner + values_of("ota.size", {400, 2}, 60.0, -0.2).detach()}, 1);
  const Tensor near = truth.repeat({20, 1}) + values_of("ota.off", {8000, 4}, 16.0).detach();
  const Tensor sure = values_of("ota.sure", {8000, 3}, 0.98, -0.01).detach();
  const Tensor label = values_of("ota.label", {400}, 2.99, 0.0).detach().to(at::kLong);
  const OtaMatches m = match_ota({near, sure, {}, {}}, truth, label);
  const Tensor iou = box_overlaps(truth, near), wanted = at::one_hot(label, 3).to(at::kDouble);
  const Tensor cost = at::binary_cross_entropy(sure.unsqueeze(0).expand({400, -1, -1}),
                                               wanted.unsqueeze(1).expand({-1, 8000, -1}), {}, at::Reduction::None)
                          .sum(-1) -
                      3.0 * (iou + 1e-8).log();
  const Tensor number = std::get<0>(iou.topk(10, 1)).sum(1).to(at::kLong).clamp_min(1);
  Tensor chosen = at::zeros({400, 8000}, at::kBool);
  for (Index g = 0; g < 400; ++g)
    chosen[g].index_fill_(0, std::get<1>(cost[g].topk(number[g].item<Index>(), 0, false)), true);
  const Tensor several = chosen.sum(0).gt(1);
  REQUIRE(several.any().item<bool>());
  const Tensor cheapest = at::zeros_like(chosen).scatter_(0, cost.argmin(0, true), true);
  chosen = at::where(several, cheapest, chosen);
  const Tensor pairs = chosen.t().nonzero();
  CHECK(m.candidate.equal(pairs.select(1, 0)));
  CHECK(m.object.equal(pairs.select(1, 1)));
}

TEST_CASE("necks, blocks and YOLOX's branches are those of the formulas") {
  Activations pyramid;
  for (Index l = 0; l < 3; ++l)
    pyramid.push_back(values_of(tl::detail::text("pyramid.", l),
                                {2, std::vector<Index>{8, 12, 16}[static_cast<std::size_t>(l)], 24 >> l, 32 >> l})
                          .detach()
                          .to(at::kFloat));
  // A finer map, which is not used, stands before it.
  Activations longer = pyramid;
  longer.insert(longer.begin(), at::zeros({2, 4, 48, 64}));
  const FeatureSpec four{{4, 8, 12, 16}, {4, 8, 16, 32}, 16, classes};
  const torch::NoGradGuard guard;
  const auto check = [&](const std::string& name, Module& module, const Activations& maps) {
    INFO(name);
    const Json& wanted = expected()["networks"][name];
    Index parameters = 0;
    for (const Tensor& p : module.parameters()) parameters += p.numel();
    CHECK(parameters == wanted["parameters"].get<Index>());
    REQUIRE(maps.size() == wanted["maps"].size());
    for (std::size_t i = 0; i < maps.size(); ++i) CHECK(difference(wanted["maps"][i], maps[i]) < 1e-4);
  };
  const auto neck = [&](const std::string& name, auto&& made) {
    fill(made);
    const Activations maps = made.forward(longer, {});
    check(name, made, maps);
    const FeatureSpec f = made.features();
    REQUIRE(f.channels.size() == maps.size());
    for (std::size_t i = 0; i < maps.size(); ++i) {
      CHECK(f.channels[i] == maps[i].size(1));
      CHECK(f.strides[i] * maps[i].size(2) == 192);
    }
    if (const Index merged = nn::merge_branches(made); merged != 0) {
      CHECK(merged == 3);
      const Activations again = made.forward(longer, {});
      for (std::size_t i = 0; i < maps.size(); ++i)
        CHECK(((again[i] - maps[i]).abs().max() / maps[i].abs().max()).item<double>() < 1e-5);
      CHECK(nn::merge_branches(made) == 0);
    }
  };
  const std::vector<Index> channels{16, 24, 32};
  neck("v2", Passthrough(four, {.channels = 24, .fine = 8}));
  neck("v3", YoloV3Neck(four, {.channels = channels}));
  neck("v3_spp", YoloV3Neck(four, {.channels = channels, .spp = true}));
  neck("v4", PathAggregation(four, {.channels = channels}));
  neck("v4_mish", PathAggregation(four, {.channels = channels, .activation = Activation::mish}));
  neck("v5", C3PathAggregation(four, {.channels = channels, .depth = 0.67}));
  neck("v5_separable", C3PathAggregation(four, {.channels = channels, .depth = 0.33, .separable = true}));
  neck("v7", ElanPathAggregation(four, {.channels = channels}));
  neck("v7_extended", ElanPathAggregation(four, {.channels = channels, .parallel = 2}));
  for (const bool separable : {false, true}) {
    YoloX head(three_maps, {.width = 16, .separable = separable});
    fill(head);
    check(separable ? "yolox_nano" : "yolox", head, head.forward(pyramid, {}));
  }
  CspDarkNetN backbone({.size = 96});
  fill(backbone);
  const Tensor picture = values_of("picture", {1, 3, 96, 64}).detach().to(at::kFloat);
  const Graph& graph = backbone.graph();
  check("v5n_backbone", backbone,
        graph.run({picture}, Cut{}, graph.stages, {}, std::vector<bool>(static_cast<std::size_t>(graph.table.size()))));
  nn::C3 c3({.in = 8, .out = 12, .depth = 2});
  fill(c3, "c3.");
  check("c3", c3, {c3.forward(pyramid[0], false)});
  nn::Elan elan({.in = 12, .out = 16, .hidden = 8, .inner = 8, .every = 2});
  fill(elan, "elan.");
  check("elan", elan, {elan.forward(pyramid[1], false)});
  nn::RepConv rep(8, 8);
  fill(rep, "rep.");
  const Tensor before = rep.forward(pyramid[0], false);
  check("rep", rep, {before});
  rep.merge();
  CHECK(rep.parameters().size() == 2);
  CHECK(((rep.forward(pyramid[0], false) - before).abs().max() / before.abs().max()).item<double>() < 1e-5);
}

TEST_CASE("v5n and v5s have the original's number of parameters") {
  const auto count = [](const auto& backbone, double width) {
    const FeatureSpec pyramid{{static_cast<Index>(128 * width), static_cast<Index>(256 * width),
                               static_cast<Index>(512 * width), static_cast<Index>(1024 * width)},
                              {4, 8, 16, 32},
                              static_cast<Index>(1024 * width),
                              80};
    const C3PathAggregation neck(pyramid, {.width = width, .depth = 0.33, .sppf = false});
    const Yolo head(neck.features(), yolo_v5());
    Index out = 0;
    for (const Module* m : std::initializer_list<const Module*>{&backbone, &neck, &head})
      for (const Tensor& p : m->parameters()) out += p.numel();
    return out;
  };
  CHECK(count(CspDarkNetN(), 0.25) == 1872157);
  CHECK(count(CspDarkNetS(), 0.5) == 7235389);
  CHECK_THAT(message([] { CspDarkNetN({.output_stride = 16}); }), ContainsSubstring("32, not 16"));
}

TEST_CASE("a head's weights come from its seed, begin with little found, and look at the coarsest maps") {
  const FeatureSpec four{{4, 8, 12, 16}, {4, 8, 16, 32}, 16, classes};
  Yolo a(four, {.seed = 1}), b(four, {.seed = 1}), c(four, {.seed = 2});
  const auto names = a.named_parameters().keys();
  CHECK(names == std::vector<std::string>{"0.weight", "0.bias", "1.weight", "1.bias", "2.weight", "2.bias"});
  CHECK(a.parameters()[0].sizes() == at::IntArrayRef({3 * (5 + classes), 8, 1, 1}));
  CHECK(a.parameters()[0].equal(b.parameters()[0]));
  CHECK_FALSE(a.parameters()[0].equal(c.parameters()[0]));
  const Activations pyramid{at::zeros({1, 4, 16, 16}), at::zeros({1, 8, 8, 8}), at::zeros({1, 12, 4, 4}),
                            at::zeros({1, 16, 2, 2})};
  const auto found = a.predict(a.forward(pyramid, {}));
  CHECK(found[0].size() == 0);

  YoloOptions o = yolo_v7();
  o.auxiliary = true;
  Yolo lead(four, o);
  CHECK(lead.named_parameters().contains("auxiliary.2.bias"));
  CHECK(lead.forward(pyramid, {}).size() == 3);
  CHECK(lead.forward(pyramid, {.training = true}).size() == 6);
  // A neck may give the auxiliary head maps of its own.
  Yolo six({{8, 12, 16, 10, 14, 18}, {8, 16, 32, 8, 16, 32}, 16, classes}, o);
  CHECK(six.named_parameters()["auxiliary.0.weight"].size(1) == 10);
  ElanPathAggregation neck(four, {.channels = {16, 24, 32}, .auxiliary = true});
  Yolo behind(neck.features(), o);
  const Pass training{.training = true};
  const Activations wide{at::zeros({2, 4, 16, 16}), at::rand({2, 8, 8, 8}), at::rand({2, 12, 4, 4}),
                         at::rand({2, 16, 2, 2})};
  CHECK(behind.forward(neck.forward(wide, training), training).size() == 6);
  CHECK(behind.forward(neck.forward(wide, {}), {}).size() == 3);
  // Maps of half precision.
  CHECK(a.forward({pyramid[0], pyramid[1].to(at::kBFloat16), pyramid[2], pyramid[3]}, {})[0].scalar_type() ==
        at::kFloat);
}

TEST_CASE("what a YOLO can't be is told") {
  const auto says = [](const FeatureSpec& f, const YoloOptions& o) { return message([&] { Yolo(f, o); }); };
  CHECK_THAT(says({{16}, {32}, 16, 3}, {}), ContainsSubstring("anchors for 3 maps stands on a pyramid of 1"));
  CHECK_THAT(says(three_maps, {.anchors = {{}, {}, {}}}), ContainsSubstring("no anchors"));
  CHECK_THAT(says(three_maps, {.anchors = {{{0, 1}}}}), ContainsSubstring("size 0 x 1"));
  CHECK_THAT(says(three_maps, {.grid_sensitivity = {0.5}}), ContainsSubstring("at least 1, not 0.5"));
  CHECK_THAT(says(three_maps, {.balance = {1.0, 2.0}}), ContainsSubstring("balance has 2 values"));
  CHECK_THAT(says(three_maps, {.selection = {.score_threshold = 2.0}}), ContainsSubstring("[0, 1], not 2"));
  CHECK_THAT(says(three_maps, {.classes = ClassRelation::softmax, .matching = Matching::simota}),
             ContainsSubstring("independent classes"));
  CHECK_THAT(message([] {
               C3PathAggregation(three_maps, {.channels = {16, 32, 64, 128}});
             }),
             ContainsSubstring("a neck of 4 maps stands on a pyramid of 3"));
  CHECK_THAT(message([] { Passthrough({{8}, {32}, 8, 3}, {}); }), ContainsSubstring("two maps"));

  YoloOptions o;
  o.anchors = small_anchors;
  Yolo head(three_maps, o);
  const auto maps = maps_of("lead", {8, 16, 32}, {16, 16, 16});
  Batch batch = objects();
  batch.target = batch.target.clone();
  batch.target[6][0] = 3;
  CHECK_THAT(message([&] { head.loss(maps, batch); }),
             ContainsSubstring("has the class 3; the head has classes 0 to 2"));
  batch.offsets = at::tensor({0, 7}, at::kLong);
  batch.target[6][0] = 2;
  CHECK_THAT(message([&] { head.loss(maps, batch); }), ContainsSubstring("of 1 pictures, the output of 3"));
  batch.offsets = at::tensor({0, 4, 3, 7}, at::kLong);
  CHECK_THAT(message([&] { head.loss(maps, batch); }), ContainsSubstring("offsets must rise"));
  // A box that a cut has left nothing of is no object.
  batch = objects();
  batch.target = at::cat({batch.target, at::tensor({0.0, 5.0, 5.0, 0.0, 4.0}, at::kDouble).view({1, 5})});
  batch.offsets = at::tensor({0, 4, 4, 8}, at::kLong);
  CHECK(head.loss(maps, batch).total().item<double>() == head.loss(maps, objects()).total().item<double>());
}

TEST_CASE("a head for more classes is taught what an old one finds") {
  // The same maps with one more class, of which nothing is seen.
  const auto grown = [](const std::vector<Tensor>& maps, const LevelAnchors& anchors) {
    std::vector<Tensor> out;
    for (std::size_t l = 0; l < maps.size(); ++l) {
      const Tensor m = maps[l].detach();
      const auto a = static_cast<Index>(anchors[l].size());
      const Tensor by_anchor = m.view({m.size(0), a, -1, m.size(2), m.size(3)});
      const Tensor none = at::full({m.size(0), a, 1, m.size(2), m.size(3)}, -40.0, m.options());
      out.push_back(at::cat({by_anchor, none}, 2).flatten(1, 2).clone().requires_grad_());
    }
    return out;
  };
  Batch nothing;
  nothing.target = at::zeros({0, 5}, at::kDouble);
  nothing.offsets = at::zeros({pictures_used + 1}, at::kLong);
  for (const auto& [name, version] : versions()) {
    CAPTURE(name);
    if (version.options.focal_gamma > 0.0) continue;  // its least value is not at the target
    const YoloOptions& o = version.options;
    FeatureSpec spec = three_maps;
    if (version.strides.size() == 1) spec = {{16}, {32}, 16, classes};
    spec.classes = classes + 1;
    Yolo head(spec, o);
    std::vector<Index> channels;
    for (const Anchors& a : o.anchors) channels.push_back(static_cast<Index>(a.size()) * (5 + classes));
    const auto old = maps_of("lead", version.strides, channels);
    auto maps = grown(old, o.anchors);
    std::vector<Tensor> both = maps;
    if (o.auxiliary)
      for (const Tensor& m : grown(old, o.anchors)) both.push_back(m);
    // Where a head answers as the old one does, nothing pulls at it.
    const LossTerms same = head.loss_keeping(both, nothing, old);
    REQUIRE(same.terms.size() == 4);
    CHECK(same.terms[3].first == "kept");
    same.total().backward();
    for (std::size_t l = 0; l < both.size(); ++l) {
      const Tensor g = both[l].grad();
      const auto a = static_cast<Index>(o.anchors[l % maps.size()].size());
      const Tensor by_anchor = g.view({g.size(0), a, -1, g.size(2), g.size(3)});
      // An overlap has no slope where boxes are equal: it has a peak.
      const Index from = o.box_loss ? 4 : 0;
      CHECK(by_anchor.narrow(2, from, by_anchor.size(2) - from).abs().max().item<double>() < 1e-9);
    }
    // And whatever it changes makes the loss larger.
    const double least = same.total().item<double>();
    for (const Index channel : {Index{0}, Index{2}, Index{4}, Index{5}, 5 + classes}) {
      auto other = both;
      other[0] = both[0].detach().clone();
      other[0].select(1, channel).add_(channel == 5 + classes ? 41.0 : 0.3);
      CAPTURE(channel);
      CHECK(head.loss_keeping(other, nothing, old).total().item<double>() > least + 1e-6);
    }
    // What is marked counts as it did, beside what is kept.
    Batch marked = objects();
    marked.target = marked.target.clone();
    marked.target.select(1, 0).fill_(classes);
    const LossTerms plain = head.loss(both, marked), beside = head.loss_keeping(both, marked, old);
    CHECK(plain.terms[0].second.item<double>() == beside.terms[0].second.item<double>());
    CHECK(plain.terms[2].second.item<double>() == beside.terms[2].second.item<double>());
    CHECK(plain.terms[1].second.item<double>() != beside.terms[1].second.item<double>());
    // Where something new is to be found the old one is not asked.
    CHECK(beside.terms[3].second.item<double>() != same.terms[3].second.item<double>());
    CHECK_THAT(message([&] { head.loss_keeping(old, nothing, both); }), ContainsSubstring("add_classes"));
  }

  YoloX without({{8, 8}, {16, 32}, 8, classes + 1}, {.width = 8});
  const auto found = maps_of("x", {16, 32}, {5 + classes, 5 + classes});
  const auto equal = grown(found, {{{1, 1}}, {{1, 1}}});
  const LossTerms same = without.loss_keeping(equal, nothing, found);
  CHECK(same.terms.size() == 4);
  same.total().backward();
  for (const Tensor& m : equal) CHECK(m.grad().narrow(1, 4, m.size(1) - 4).abs().max().item<double>() < 1e-9);
  for (const Index channel : {0, 2, 4, 5, 8}) {
    auto other = equal;
    other[1] = equal[1].detach().clone();
    other[1].select(1, channel).add_(channel == 8 ? 41.0 : 0.3);
    CHECK(without.loss_keeping(other, nothing, found).total().item<double>() > same.total().item<double>() + 1e-6);
  }
  Batch marked = objects();
  marked.target = marked.target.clone();
  marked.target.select(1, 0).fill_(classes);
  CHECK(std::abs(without.loss(equal, marked).terms[2].second.item<double>() -
                 without.loss_keeping(equal, marked, found).terms[2].second.item<double>()) < 1e-12);
  CHECK_THAT(message([&] { without.loss_keeping(found, nothing, equal); }), ContainsSubstring("add_classes"));

  // One prediction, by hand: 32 x 32 pixels, one cell, one anchor of 10 x 20.
  YoloOptions o;
  o.anchors = {{{10, 20}}};
  o.scale = LossScale::pictures;
  Yolo head({{8}, {32}, 8, 2}, o);
  const auto map = [](std::vector<double> v) {
    const auto n = static_cast<Index>(v.size());
    return at::tensor(v, at::kDouble).view({1, n, 1, 1});
  };
  Batch one;
  one.target = at::zeros({0, 5}, at::kDouble);
  one.offsets = at::zeros({2}, at::kLong);
  const LossTerms t =
      head.loss_keeping({map({0.3, -0.2, 0.1, 0.4, 0.5, 0.7, -0.6})}, one, {map({-0.4, 0.1, 0.2, -0.3, 1.1, 2.0})});
  const auto sigma = [](double x) { return 1.0 / (1.0 + std::exp(-x)); };
  const auto entropy = [&](double x, double p) { return -p * std::log(sigma(x)) - (1.0 - p) * std::log(sigma(-x)); };
  const double sure = sigma(1.1), width = 10.0 * std::exp(0.2), height = 20.0 * std::exp(-0.3);
  const double box = (2.0 - width * height / 1024.0) *
                     (entropy(0.3, sigma(-0.4)) + entropy(-0.2, sigma(0.1)) + (0.1 * 0.1 + 0.7 * 0.7) / 2.0);
  const double kinds = entropy(0.7, sigma(2.0)) + entropy(-0.6, 0.0);
  CHECK(std::abs(t.terms[0].second.item<double>()) < 1e-12);
  CHECK(std::abs(t.terms[1].second.item<double>() - entropy(0.5, sure)) < 1e-9);
  CHECK(std::abs(t.terms[2].second.item<double>()) < 1e-12);
  CHECK(std::abs(t.terms[3].second.item<double>() - sure * (box + kinds)) < 1e-9);
}

TEST_CASE("anchors are found from boxes") {
  // Three sizes of boxes, each with a spread of a tenth.
  const Tensor centre = at::tensor({12.0, 20.0, 60.0, 40.0, 150.0, 200.0}, at::kDouble).view({3, 2});
  const Tensor sizes = centre.repeat({200, 1}) * values_of("sizes", {600, 2}, 0.2, -4.5).detach();
  const Anchors found = kmeans_anchors(sizes, 3, 4);
  REQUIRE(found.size() == 3);
  for (std::size_t i = 0; i < 3; ++i) {
    const auto k = static_cast<Index>(i);
    CHECK(std::abs(found[i].width / centre[k][0].item<double>() - 1.0) < 0.02);
    CHECK(std::abs(found[i].height / centre[k][1].item<double>() - 1.0) < 0.02);
  }
  CHECK((kmeans_anchors(sizes, 3, 4) == found));
  const AnchorRecall recall = anchor_recall(sizes, found);
  CHECK(recall.best_possible == 1.0);
  CHECK(recall.mean_overlap > 0.9);
  // Within a ratio of 4: 12 x 20 reaches one of the three sizes, no anchor of 1 x 1 reaches any.
  CHECK(std::abs(anchor_recall(sizes, {{12, 20}}).best_possible - 1.0 / 3.0) < 1e-9);
  CHECK(anchor_recall(sizes, {{1, 1}, {12, 20}, {60, 40}}).anchors_a_box > 0.66);
  CHECK(anchor_recall(sizes, {{1, 1}}).best_possible == 0.0);

  const Anchors poor{{10, 10}, {50, 50}, {100, 100}};
  const Anchors evolved = evolve_anchors(sizes, poor, {.generations = 300});
  const auto fitness = [&](const Anchors& a) { return tl::detail::anchor_fitness(sizes, anchor_tensor(a), 4.0); };
  CHECK(fitness(evolved) > fitness(poor) + 0.05);
  CHECK((evolved == evolve_anchors(sizes, poor, {.generations = 300})));

  const LevelAnchors split = split_anchors({{60, 40}, {12, 20}, {150, 200}}, 3);
  CHECK((split == LevelAnchors{{{12, 20}}, {{60, 40}}, {{150, 200}}}));
  CHECK((auto_anchors(sizes, split) == split));
  const LevelAnchors better = auto_anchors(sizes, {{{1, 1}}, {{2, 2}}, {{3, 3}}}, {.generations = 100});
  CHECK(anchor_recall(sizes, {better[0][0], better[1][0], better[2][0]}).best_possible == 1.0);
  CHECK_THAT(message([&] { kmeans_anchors(sizes.narrow(0, 0, 2), 3); }), ContainsSubstring("from 2 boxes"));
  CHECK_THAT(message([&] { kmeans_anchors(at::zeros({5, 2}), 3); }), ContainsSubstring("no width or height"));
  CHECK_THAT(message([&] { split_anchors(poor, 2); }), ContainsSubstring("3 anchors can't be dealt out evenly"));
}

TEST_CASE("what is a detection") {
  const Tensor boxes =
      at::tensor({0.F, 0.F, 10.F, 10.F, 1.F, 0.F, 11.F, 10.F, 30.F, 30.F, 40.F, 40.F, 0.F, 0.F, NAN, 1.F}).view({4, 4});
  const Tensor scores = at::tensor({.9F, .1F, .8F, .2F, .3F, .05F, .9F, .9F}).view({4, 2});
  const Detections all = select_detections(boxes, scores, {.score_threshold = 0.05, .suppression = Suppression::none});
  CHECK(all.size() == 5);  // a score must be above the threshold, a box finite
  const Detections found = select_detections(boxes, scores, {.score_threshold = 0.05});
  CHECK(found.scores.equal(at::tensor({.9F, .3F, .2F})));
  CHECK(found.labels.equal(at::tensor({0, 0, 1}, at::kLong)));
  CHECK(found.boxes[1].equal(boxes[2]));
  CHECK(select_detections(boxes, scores, {.most = 1}).size() == 1);
  CHECK(select_detections(boxes, scores, {.suppression = Suppression::none, .candidates = 2}).scores[1].item<float>() ==
        .8F);
  // Two boxes of an IoU of .818, whose centres are apart by .0045 of the diagonal: by distance .779, and both stay.
  CHECK(select_detections(boxes, scores, {.overlap_threshold = 0.8}).size() == 4);
  CHECK(select_detections(boxes, scores, {.suppression = Suppression::diou, .overlap_threshold = 0.8}).size() == 6);
  const Detections none = select_detections(boxes, scores * 0.0F);
  CHECK(none.size() == 0);
  CHECK(none.boxes.sizes() == at::IntArrayRef({0, 4}));
}

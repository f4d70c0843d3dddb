// The two-stage detectors: their parts and the four published ones against torchvision, gradients by differences, and
// training that goes on whatever the pictures hold.
#include <algorithm>
#include <array>
#include <cmath>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <transferlib/core/concepts.hpp>
#include <transferlib/data/tensors_data.hpp>
#include <transferlib/detect/anchor_generator.hpp>
#include <transferlib/detect/box_coder.hpp>
#include <transferlib/detect/matcher.hpp>
#include <transferlib/detect/proposals.hpp>
#include <transferlib/detect/roi_align.hpp>
#include <transferlib/faster_rcnn.hpp>
#include <transferlib/heads/region_proposal.hpp>
#include <transferlib/heads/roi.hpp>
#include <transferlib/model/two_stage.hpp>
#include <transferlib/necks/feature_pyramid.hpp>
#include <transferlib/two_stage_parts.hpp>

#include "toys.hpp"
// After the toys, which take a macro of LibTorch's away.
#include "formula.hpp"

namespace transferlib {
namespace {

const Json& peer() {
  static const Json json = python("two_stage.json");
  return json;
}
const Json& part(const std::string& name) { return peer()["parts"][name]; }

std::vector<double> numbers_of(const Json& json) {
  std::vector<double> out;
  if (json.is_array())
    for (std::size_t i = 0; i < json.size(); ++i)
      for (const double x : numbers_of(json[i])) out.push_back(x);
  else
    out.push_back(json.get<double>());
  return out;
}
Tensor floats(const Json& json, std::vector<Index> shape = {-1, 4}) {
  return at::tensor(numbers_of(json), at::TensorOptions(at::kDouble)).to(at::kFloat).view(shape);
}
std::vector<Index> whole(const Json& json) { return json.get<std::vector<Index>>(); }
double apart(const Tensor& a, const Tensor& b) {
  REQUIRE(a.sizes() == b.sizes());
  return a.numel() == 0 ? 0.0 : (a - b).abs().max().item<double>();
}
std::vector<Index> listed(const Tensor& x) {
  const Tensor flat = x.contiguous();
  return {flat.const_data_ptr<Index>(), flat.const_data_ptr<Index>() + flat.numel()};
}

Tensor gradient(const Tensor& value, Tensor& of) {
  of.mutable_grad() = Tensor();
  value.backward();
  return of.grad().clone();
}

static_assert(ProposalNetwork<RegionProposal> && !ProposalNetwork<RoI> && !ProposalNetwork<FeaturePyramid>);
static_assert(RegionNetwork<RoI> && !RegionNetwork<RegionProposal> && !HeadNetwork<RoI>);
static_assert(NeckNetwork<FeaturePyramid> && NeckNetwork<SingleMap> && !NeckNetwork<RoI>);
static_assert(Trainable<FasterRcnn>);

TEST_CASE("Boxes are pooled as torchvision pools them, by both ways") {
  const Json& cases = part("pooling");
  const Tensor rois = floats(cases["boxes"], {-1, 5});
  const Tensor values = (at::linspace(-2, 2, 2 * 5 * 9 * 11) * 3.7).sin().view({2, 5, 9, 11});
  const Tensor weights = at::arange(8 * 5 * 3 * 2, at::kFloat).sin().view({8, 5, 3, 2});
  for (std::size_t i = 0; i < cases["align"].size(); ++i) {
    const Json& wanted = cases["align"][i];
    const RoiOptions options{.height = 3,
                             .width = 2,
                             .scale = 0.25,
                             .sampling = wanted["sampling"].get<Index>(),
                             .aligned = wanted["aligned"].get<bool>()};
    INFO("sampling " << options.sampling << ", aligned " << options.aligned);
    for (const auto format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast})
      for (const bool loops : {true, false}) {
        Tensor map = values.contiguous(format).clone().requires_grad_();
        const Tensor y = loops ? roi_align(map, rois, options) : detail::roi_align_by_operators(map, rois, options);
        CHECK(difference(wanted["value"], y) <= 1e-5);
        CHECK(difference(wanted["gradient"], gradient((y * weights).sum(), map)) <= 1e-5);
      }
  }
  Tensor map = values.clone().requires_grad_();
  const Tensor y = roi_pool(map, rois, {.height = 3, .width = 2, .scale = 0.25});
  CHECK(difference(cases["pool"]["value"], y) <= 1e-5);
  CHECK(difference(cases["pool"]["gradient"], gradient((y * weights).sum(), map)) <= 1e-5);

  const Json& scales = cases["scales"];
  Activations maps;
  const std::vector<Index> strides{4, 8, 16, 32};
  for (const Index side : {64, 32, 16, 8})
    maps.push_back((at::linspace(-1, 1, 2 * 4 * side * side) * 5.1).sin().view({2, 4, side, side}));
  const std::vector<Tensor> boxes{floats(scales["boxes"][std::size_t{0}]), floats(scales["boxes"][std::size_t{1}])};
  CHECK(difference(scales["value"], pool_boxes(maps, strides, boxes, {.height = 3, .width = 3})) <= 1e-5);
  std::vector<double> sides;
  for (const double s : {1.0, 40.0, 90.0, 91.0, 92.0, 180.0, 300.0, 500.0, 9999.0})
    sides.insert(sides.end(), {0.0, 0.0, s, s * 1.5});
  CHECK(listed(levels_of(at::tensor(sides, at::TensorOptions(at::kFloat)).view({-1, 4}), strides)) ==
        whole(scales["levels"]));
}

TEST_CASE("The gradients of pooling are those that differences tell") {
  const Tensor rois = at::tensor({0.0, 3.0, 4.0, 20.0, 25.0, 1.0, -3.0, 4.0, 40.0, 8.0}, at::kDouble).view({2, 5});
  Tensor map = at::empty({2, 3, 7, 6}, at::kDouble).uniform_(-1.0, 1.0, detail::generator(1, 2, 3)).requires_grad_();
  const Tensor weights = at::arange(36, at::kDouble).sin().view({2, 3, 3, 2});
  for (const int way : {0, 1, 2, 3}) {
    const auto value = [&](const Tensor& x) {
      const RoiOptions o{.height = 3, .width = 2, .scale = 0.25, .sampling = way == 1 ? 0 : 2, .aligned = way == 1};
      const Tensor y = way == 3   ? roi_pool(x, rois, o)
                       : way == 2 ? detail::roi_align_by_operators(x, rois, o)
                                  : roi_align(x, rois, o);
      return (y * weights).sum();
    };
    const Tensor told = gradient(value(map), map).contiguous().flatten();
    const torch::NoGradGuard guard;
    double worst = 0.0;
    for (Index i = 0; i < told.numel(); ++i) {
      const auto moved = [&](double by) {
        Tensor x = map.detach().clone();
        x.view(-1)[i] += by;
        return value(x).item<double>();
      };
      worst = std::max(worst, std::abs((moved(1e-5) - moved(-1e-5)) / 2e-5 - told[i].item<double>()));
    }
    INFO("way " << way);
    CHECK(worst <= 1e-8);
    CHECK(told.abs().max().item<double>() > 0.1);
  }
}

TEST_CASE("Anchors, codes, matches, samples and proposals are torchvision's") {
  const AnchorGenerator anchors({{32, 48}, {64, 100}, {128, 201}}, {0.5, 1.0, 2.0});
  for (Index map = 0; map < 3; ++map)
    CHECK(apart(anchors.of_place(map), floats(part("anchors")["cells"][static_cast<std::size_t>(map)])) == 0.0);
  const Activations maps{at::zeros({1, 1, 12, 16}), at::zeros({1, 1, 6, 8}), at::zeros({1, 1, 4, 5})};
  CHECK(difference(part("anchors")["all"], anchors(maps, {131, 97})) <= 1e-7);
  // Where the canvas is no multiple of 32, the places of a map are its stride apart.
  const std::vector<Index> strides{8, 16, 32};
  const Tensor odd = anchors(maps, {124, 93}, strides).view({-1, 6, 4});
  CHECK(apart(odd[17] - odd[0], at::full({6, 4}, 8.0)) == 0.0);  // a row down and a place to the right

  const Json& coder = part("coder");
  for (std::size_t i = 0; i < coder["cases"].size(); ++i) {
    const Json& wanted = coder["cases"][i];
    const BoxCoder ours{.weights = wanted["weights"].get<std::array<double, 4>>()};
    const Tensor references = floats(coder["references"]);
    CHECK(apart(ours.encode(floats(coder["boxes"]), references), floats(wanted["encoded"])) <= 1e-5);
    const Tensor decoded = floats(wanted["decoded"]);
    const Tensor difference = (ours.decode(floats(wanted["codes"]), references) - decoded) / decoded.abs().clamp_min(1);
    CHECK(difference.abs().max().item<double>() <= 1e-5);
  }

  const Json& matcher = part("matcher");
  for (std::size_t i = 0; i < matcher["cases"].size(); ++i) {
    const Json& wanted = matcher["cases"][i];
    const MatchOptions options{.positive = wanted["positive"].get<double>(),
                               .negative = wanted["negative"].get<double>(),
                               .low_quality = wanted["low_quality"].get<bool>()};
    const Tensor match = match_boxes(floats(matcher["truth"]), floats(matcher["boxes"]), options);
    CHECK(listed(match) == whole(wanted["matches"]));
    const auto sample = sample_balanced(match + 1, 64, 0.25, Random(3, Purpose::regions, 5, 11));
    CHECK(listed(sample.positive) == whole(wanted["sample"][std::size_t{0}]));
    CHECK(listed(sample.negative) == whole(wanted["sample"][std::size_t{1}]));
  }

  const Json& wanted = part("proposals");
  const std::vector<PixelSize> pictures{{256, 256}, {180, 200}};
  const auto found = filter_proposals(floats(wanted["objectness"], {2, -1}), floats(wanted["codes"], {2, -1, 4}),
                                      floats(wanted["anchors"]), whole(wanted["counts"]), pictures,
                                      {.before_nms = 110, .after_nms = 80, .nms = 0.6, .least_score = 0.1});
  for (std::size_t i = 0; i < 2; ++i) {
    CHECK(apart(found[i].scores, floats(wanted["scores"][i], {-1})) <= 1e-6);
    CHECK(apart(found[i].boxes, floats(wanted["boxes"][i])) <= 1e-3);
  }
}

TEST_CASE("Matching in pieces is matching at once") {
  // So many boxes that a piece is 6 true ones.
  const auto boxes = [](Index n, std::uint64_t seed) {
    const Tensor u = at::empty({n, 4}, at::kFloat).uniform_(0.0, 1.0, detail::generator(seed, 0, 0));
    const Tensor corner = u.narrow(1, 0, 2) * 200;
    return at::cat({corner, corner + u.narrow(1, 2, 2) * 40 + 1}, 1);
  };
  const Tensor truth = boxes(20, 1), many = boxes(600000, 2);
  const Tensor got = match_boxes(truth, many, {.positive = 0.6, .negative = 0.4});
  const Tensor some = at::cat({got.ge(0).nonzero().flatten(), got.eq(ignored).nonzero().flatten().narrow(0, 0, 500)});
  REQUIRE(some.size(0) > 600);
  const Tensor alone = match_boxes(truth, many.index_select(0, some), {.positive = 0.6, .negative = 0.4});
  CHECK(alone.equal(got.index_select(0, some)));
}

/// A tensor's name before the pyramid's and the proposal network's layers were lists.
std::string older_name(const std::string& name) {
  std::string out = name;
  for (const std::string layer : {"head.conv", "inner_blocks", "layer_blocks"}) {
    const auto at = out.find(layer);
    if (at == std::string::npos) continue;
    const auto numbers = at + layer.size();  // ".0.0.weight"
    return layer == "head.conv" ? out.erase(numbers, 4) : out.erase(numbers + 2, 2);
  }
  return out;
}

TEST_CASE("The published Faster R-CNNs load by their names, propose, learn and find as torchvision's") {
  const Json& shapes = peer()["shapes"];
  Batch batch;
  std::vector<double> rows;
  std::vector<Index> offsets{0};
  const Tensor all = pictures(3, 96);
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    const Index height = shapes[i][std::size_t{0}].get<Index>(), width = shapes[i][std::size_t{1}].get<Index>();
    batch.pictures.push_back(all.narrow(0, static_cast<Index>(i), 1).narrow(2, 0, height).narrow(3, 0, width));
  }
  const ResizeSides sides{.shorter = peer()["sides"]["min_size"].get<Index>(),
                          .longer = peer()["sides"]["max_size"].get<Index>()};
  const auto resized = detail::resize_sides(batch, sides, Preprocessing{}, 3);
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    const double x = static_cast<double>(resized.sizes[i].width) / shapes[i][std::size_t{1}].get<double>();
    const double y = static_cast<double>(resized.sizes[i].height) / shapes[i][std::size_t{0}].get<double>();
    const Json& boxes = peer()["truth"][i];
    for (std::size_t b = 0; b < boxes.size(); ++b) {
      const auto box = numbers_of(boxes[b]);
      rows.insert(rows.end(), {peer()["labels"][i][b].get<double>() - 1, box[0] * x, box[1] * y, (box[2] - box[0]) * x,
                               (box[3] - box[1]) * y});
    }
    offsets.push_back(offsets.back() + static_cast<Index>(boxes.size()));
  }
  batch.target = at::tensor(rows, at::TensorOptions(at::kDouble)).to(at::kFloat).view({-1, 5});
  batch.offsets = at::tensor(offsets, at::TensorOptions(at::kLong));
  const Pass pass{true, peer()["seed"].get<std::uint64_t>(), peer()["pass"].get<Index>()};

  const toys::Folder folder;
  for (const auto& spec : detail::faster_rcnn_specs()) {
    const std::string name = spec.card.name;
    INFO(name);
    const Json& wanted = peer()["models"][name];
    Gain gain;
    for (std::size_t i = 0; i < wanted["gain"].size(); ++i)
      gain.emplace_back(wanted["gain"][i][std::size_t{0}].get<std::string>(),
                        wanted["gain"][i][std::size_t{1}].get<double>());
    // The file has torchvision's names, those of the older ones as they were then.
    auto model = detail::make_faster_rcnn(spec, {.size = 64});
    StateDict state;
    for (const auto& [key, tensor] : faster_rcnn_state(model)) {
      if (!spec.second && key.ends_with("num_batches_tracked")) continue;
      Tensor value = at::empty_like(tensor);
      fill(key, value, gain);
      state.emplace_back(spec.second ? key : older_name(key), value);
    }
    CHECK(static_cast<Index>(state.size()) == wanted["tensors"].get<Index>());
    if (name == "fasterrcnn_mobilenet_v3_large_320_fpn") {
      write_state_dict(folder / name, state);
      model = fasterrcnn(name, folder / name, {.size = 64});
    } else {
      detail::fill_faster_rcnn(model, state, name);
    }
    CHECK(model.input()->shorter == spec.sides.shorter);
    model.set_input(sides);

    const torch::NoGradGuard guard;
    const auto y = model.forward(resized.input, {}, resized.sizes);
    for (std::size_t i = 0; i < 3; ++i) {
      const Json& proposals = wanted["proposals"][i];
      REQUIRE(y.proposals[i].size() == proposals["count"].get<Index>());
      const Tensor first = floats(proposals["boxes"]);
      CHECK(apart(y.proposals[i].boxes.narrow(0, 0, first.size(0)), first) <= 1e-3);
      CHECK(difference(proposals["all"], y.proposals[i].boxes) <= 1e-3);
    }
    const auto found = model.copy().predict(batch, Precision::fp32);
    for (std::size_t i = 0; i < 3; ++i) {
      const Json& detections = wanted["detections"][i];
      REQUIRE(found[i].size() == detections["count"].get<Index>());
      const Index n = static_cast<Index>(detections["scores"].size());
      CHECK(apart(found[i].boxes.narrow(0, 0, n), floats(detections["boxes"])) <= 1e-3);
      CHECK(apart(found[i].scores.narrow(0, 0, n), floats(detections["scores"], {-1})) <= 1e-3);
      CHECK(listed(found[i].labels.narrow(0, 0, n)) == whole(detections["labels"]));
    }

    if (!wanted.contains("losses")) continue;
    const at::AutoGradMode grad(true);
    const LossTerms loss = model.loss(model.forward(resized.input, pass, resized.sizes), batch);
    REQUIRE(loss.terms.size() == 4);
    for (const auto& [term, value] : loss.terms) {
      const double theirs = wanted["losses"][term].get<double>();
      INFO(term << " " << value.item<double>() << " " << theirs);
      CHECK(std::abs(value.item<double>() - theirs) <= 1e-3 * std::max(1.0, theirs));
    }
    CHECK(static_cast<Index>(model.trainable_parameters().size()) == wanted["trained"].get<Index>());
    loss.total().backward();
    StateDict learnt = faster_rcnn_state(model);
    if (spec.second) {
      // Through norms over few places little is left of large numbers: in float32 such gradients are noise, here and
      // there (torchvision's are .007 from its own in double precision). Compared are ours in double precision.
      auto exact = model.copy();
      exact.backbone_core().network->to(at::kDouble);
      exact.neck().to(at::kDouble);
      exact.proposal().to(at::kDouble);
      exact.head().to(at::kDouble);
      exact.loss(exact.forward(resized.input.to(at::kDouble), pass, resized.sizes), batch).total().backward();
      learnt = faster_rcnn_state(exact);
    }
    Index seen = 0;
    for (const auto& [key, tensor] : learnt)
      if (const Json* summary = wanted["gradients"].find(key); summary != nullptr) {
        INFO(key);
        CHECK(difference(*summary, tensor.grad()) <= (spec.second ? 0.01 : 1e-3));
        ++seen;
      }
    CHECK(seen == static_cast<Index>(wanted["gradients"].size()));
  }
}

/// Dark pictures with one bright square, red or green, and a data set of them.
struct Squares {
  using Target = Boxes;
  Index count = 24;
  Index size() const { return count; }
  Labels labels() const { return {"red", "green"}; }
  Batch batch(std::span<const Index> ids) const {
    Batch out;
    const auto n = static_cast<Index>(ids.size());
    Tensor x = at::zeros({n, 3, 64, 64}, at::kByte);
    std::vector<float> rows;
    for (Index i = 0; i < n; ++i) {
      Random random(5, Purpose::test, static_cast<std::uint64_t>(ids[static_cast<std::size_t>(i)]));
      const Index side = 16 + random.below(20), left = random.below(64 - side), top = random.below(64 - side);
      const Index label = random.below(2);
      x[i][label].narrow(0, top, side).narrow(1, left, side).fill_(255);
      for (const Index v : {label, left, top, side, side}) rows.push_back(static_cast<float>(v));
    }
    out.pictures = {x};
    out.target = at::tensor(rows).view({-1, 5});
    out.offsets = at::arange(n + 1, at::kLong);
    out.sizes = at::full({n, 2}, 64, at::kLong);
    return out;
  }
};

template <class K = FeaturePyramid>
auto small(typename K::Options neck, RegionProposal::Options proposal = {}, RoI::Options region = {}) {
  region.width = 64;
  region.samples = 32;
  proposal.samples = 32;
  return TwoStage{toys::lively<toys::SqueezeNet>(64), FreezePolicy<FreezeAll>{}, Neck<K>{neck},
                  Head<RegionProposal>{proposal},     Head<RoI>{region},         Labels{"red", "green"}};
}
auto small() { return small({.channels = 16, .finest = 2}, {.sizes = {{12, 16}, {24, 32}, {48, 64}}}); }

/// A batch of `n` pictures without boxes.
Batch without_boxes(Index n) {
  Batch out;
  out.target = at::zeros({0, 5});
  out.offsets = at::zeros({n + 1}, at::kLong);
  return out;
}

TEST_CASE("A two-stage detector learns, the frozen backbone stays as it is, and a copy finds the same") {
  auto model = small();
  static_assert(Trainable<decltype(model)>);
  const auto before = toys::snapshot(*model.backbone_core().network);
  const Squares data;
  const auto ids = toys::first_ids(data.size());
  const Batch batch = data.batch(ids);
  const Tensor x = preprocess(batch, model.preprocessing(), 3);
  std::vector<Tensor> moments;
  const auto parameters = model.trainable_parameters();
  for (const Tensor& p : parameters) moments.push_back(at::zeros_like(p));
  double first = 0.0, last = 0.0;
  for (Index step = 0; step < 60; ++step) {
    const auto some = static_cast<std::size_t>(step % 3) * 8;
    const Batch now = data.batch(std::span(ids).subspan(some, 8));
    const Tensor loss =
        model.loss(model.forward(x.narrow(0, static_cast<Index>(some), 8), {true, 1, step}), now).total();
    for (Tensor p : parameters) p.mutable_grad() = Tensor();
    loss.backward();
    const torch::NoGradGuard guard;
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      Tensor p = parameters[i];
      moments[i].mul_(0.9).add_(p.grad());
      p.sub_(moments[i], 0.02);
    }
    (step < 3 ? first : last) = loss.item<double>();
  }
  INFO(first << " to " << last);
  CHECK(last < 0.6 * first);
  CHECK(toys::same_bytes(before, toys::snapshot(*model.backbone_core().network)));

  const auto found = model.predict(batch, Precision::fp32), again = clone(model).predict(batch, Precision::fp32);
  const toys::Folder folder;
  save(model, folder / "squares.safetensors");
  auto loaded = load_two_stage<toys::SqueezeNet>(folder / "squares.safetensors");
  CHECK(loaded.proposal().options().sizes == model.proposal().options().sizes);
  const auto from_file = loaded.predict(batch, Precision::fp32);
  BoxAveragePrecision metric;
  metric.update(found, batch);
  CHECK(metric.values().at(1).second > 0.3);
  for (std::size_t i = 0; i < found.size(); ++i) {
    CHECK(found[i].boxes.equal(again[i].boxes));
    CHECK(found[i].scores.equal(again[i].scores));
    CHECK(found[i].boxes.equal(from_file[i].boxes));
  }
}

TEST_CASE("Two stages go on without boxes, without proposals, with thousands of boxes, and on odd pictures") {
  const auto finite = [](const LossTerms& loss) {
    CHECK(loss.terms.size() == 4);
    for (const auto& [name, value] : loss.terms) CHECK(std::isfinite(value.item<double>()));
    loss.total().backward();
  };
  const Tensor x = toys::noise(2, 64);
  auto model = small();
  finite(model.loss(model.forward(x, {true, 1, 1}), without_boxes(2)));

  auto silent =
      small({.channels = 16, .finest = 2},
            {.sizes = {{12}, {24}, {48}}, .training = {.least_score = 1.0}, .predicting = {.least_score = 1.0}});
  const auto none = silent.forward(x, {true, 1, 1});
  CHECK(none.proposals[0].size() == 0);
  finite(silent.loss(none, without_boxes(2)));
  for (const Detections& found : silent.detections(none)) CHECK(found.size() == 0);

  Batch crowded = without_boxes(2);
  const Tensor corner = at::empty({5000, 2}, at::kFloat).uniform_(0.0, 50.0, detail::generator(3, 0, 0));
  crowded.target = at::cat({at::zeros({5000, 1}), corner, at::full({5000, 2}, 9.0)}, 1);
  crowded.offsets = at::tensor({0, 5000, 5000}, at::kLong);
  finite(model.loss(model.forward(x, {true, 1, 2}), crowded));

  for (const bool sides : {false, true}) {
    if (sides) model.set_input(ResizeSides{.shorter = 64, .longer = 128});
    for (const auto& [height, width] : {std::pair<Index, Index>{1, 1}, {10, 400}, {400, 10}, {1, 1000}, {64, 64}}) {
      Batch odd;
      odd.pictures = {at::zeros({1, 3, height, width}, at::kByte)};
      const auto found = model.predict(odd, Precision::fp32);
      REQUIRE(found.size() == 1);
      CHECK(found[0].boxes.isfinite().all().item<bool>());
    }
  }
  CHECK(model.predict(Batch{}).empty());

  {
    const torch::NoGradGuard guard;
    for (Tensor p : model.neck().parameters()) p.fill_(NAN);
  }
  const auto lost = model.forward(x, {true, 1, 3});
  CHECK(lost.proposals[0].size() == 0);
  CHECK(std::isnan(model.loss(lost, crowded).total().item<double>()));
  for (const Detections& found : model.detections(lost)) CHECK(found.size() == 0);
}

TEST_CASE("Faster R-CNN without a pyramid, and what can't be meant") {
  auto model = small<SingleMap>({.stride = 4}, {.sizes = {{16, 32}}});
  CHECK(model.wanted().size() == 1);
  const auto y = model.forward(toys::noise(1, 64), {true, 1, 1});
  CHECK(y.maps.size() == 1);
  CHECK(y.regions.anchors.size(0) == 16 * 16 * 6);
  CHECK(std::isfinite(model.loss(y, without_boxes(1)).total().item<double>()));
  auto pooled = small<SingleMap>({.stride = 4}, {.sizes = {{16, 32}}}, {.pooling = RoiPooling::pool});
  CHECK(pooled.detections(pooled.forward(toys::noise(1, 64))).size() == 1);

  const auto sentence = [](auto&& work) { return toys::sentence_of<Error>(work); };
  using Catch::Matchers::ContainsSubstring;
  CHECK_THAT(sentence([] { small({.channels = 16, .finest = 2}, {.sizes = {{8}}}); }),
             ContainsSubstring("sizes for 1 maps, and there are 3"));
  CHECK_THAT(sentence([] { small({.channels = 16, .finest = 64}); }), ContainsSubstring("no map with 64"));
  CHECK_THAT(sentence([] { small({.channels = 16, .finest = 2}, {}, {.score_threshold = 2.0}); }),
             ContainsSubstring("score_threshold"));
  CHECK_THAT(sentence([] { fasterrcnn("yolo", "file"); }), ContainsSubstring("fasterrcnn_resnet50_fpn_v2"));
  CHECK_THAT(sentence([] {
               roi_align(at::zeros({1, 2, 4, 4}), at::tensor({1.0, 0.0, 0.0, 4.0, 4.0}).view({1, 5}));
             }),
             ContainsSubstring("of picture 1 of a batch of 1"));
  CHECK_THAT(sentence([] { AnchorGenerator({{8}, {}}, {1.0}); }), ContainsSubstring("anchors have 0 sizes"));
  CHECK_THAT(sentence([] {
               match_boxes(at::zeros({1, 4}), at::zeros({1, 4}), {.positive = 0.2});
             }),
             ContainsSubstring("0.2"));
}

}  // namespace
}  // namespace transferlib

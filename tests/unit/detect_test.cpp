// Boxes, their overlaps, placing on a canvas; suppression and fusion: torchvision's numbers and indices.
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include <transferlib/core/files.hpp>
#include <transferlib/detect/boxes.hpp>
#include <transferlib/detect/nms.hpp>
#include <transferlib/formats/json.hpp>

using namespace transferlib;
using Catch::Matchers::ContainsSubstring;

namespace {

const Json& expected() {
  static const Json json = [] {
    const char* source = std::getenv("TRANSFERLIB_SOURCE");
    const auto path =
        std::filesystem::path(source == nullptr ? "." : source) / "tests" / "data" / "parity" / "detect.json";
    return parse_json(read_file(path), path.string());
  }();
  return json;
}

/// A list of numbers, or of lists of them; NaN where Python's is.
Tensor tensor(const Json& json, c10::ScalarType type = torch::kFloat) {
  const bool rows = json.size() != 0 && json[0].is_array();
  std::vector<double> values;
  for (const Json& row : json.elements())
    if (rows)
      for (const Json& value : row.elements()) values.push_back(value.get<double>());
    else
      values.push_back(row.get<double>());
  const Tensor out = torch::tensor(values, torch::kDouble).to(type);
  return rows ? out.view({static_cast<Index>(json.size()), -1}) : out;
}

void check_close(const Tensor& got, const Tensor& wanted, double tolerance = 1e-6) {
  REQUIRE(got.sizes() == wanted.sizes());
  CHECK((got.to(torch::kDouble) - wanted.to(torch::kDouble)).abs().max().item<double>() <= tolerance);
}

std::vector<std::int64_t> list(const Tensor& indices) {
  const Tensor flat = indices.contiguous();
  return {flat.data_ptr<std::int64_t>(), flat.data_ptr<std::int64_t>() + flat.numel()};
}

std::string message(const std::function<void()>& act) {
  try {
    act();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

Overlap kind_of(std::string_view name) {
  return name == "iou" ? Overlap::iou : name == "giou" ? Overlap::giou : name == "diou" ? Overlap::diou : Overlap::ciou;
}

/// `count` boxes with sides of `smallest` to `largest` in a square, and their scores.
std::pair<Tensor, Tensor> any_boxes(Index count, double smallest, double largest, double extent, int seed) {
  torch::manual_seed(seed);
  const Tensor sides = torch::rand({count, 2}) * (largest - smallest) + smallest;
  const Tensor corner = torch::rand({count, 2}) * (extent - sides);
  return {torch::cat({corner, corner + sides}, 1), torch::rand({count})};
}

/// What greedy suppression is, without a grid.
std::vector<std::int64_t> plain_nms(const Tensor& boxes, const Tensor& scores, double threshold) {
  const Tensor iou = box_overlaps(boxes, boxes);
  const auto values = iou.accessor<float, 2>();
  std::vector<std::int64_t> kept;
  for (const std::int64_t i : list(std::get<1>(scores.sort(true, 0, true)))) {
    bool keep = true;
    for (const std::int64_t j : kept) keep = keep && !(static_cast<double>(values[j][i]) > threshold);
    if (keep) kept.push_back(i);
  }
  return kept;
}

}  // namespace

TEST_CASE("boxes in other forms, their areas, cut at the borders") {
  const Tensor a = tensor(expected()["overlaps"]["a"]);
  const Tensor xywh = tensor(expected()["convert"]["xywh"]), centre = tensor(expected()["convert"]["cxcywh"]);
  const std::vector<std::pair<BoxForm, Tensor>> forms{
      {BoxForm::xyxy, a}, {BoxForm::xywh, xywh}, {BoxForm::cxcywh, centre}};
  for (const auto& [from, boxes] : forms)
    for (const auto& [to, wanted] : forms) check_close(convert_boxes(boxes, from, to), wanted, 1e-4);
  check_close(box_area(a), tensor(expected()["area"]), 1e-2);
  check_close(clip_boxes(a - 30, {300, 250}), tensor(expected()["clip"]), 1e-4);
  CHECK(box_area(torch::tensor({{0, 0, 100000, 100000}}, torch::kInt)).item<float>() == 1e10F);
  CHECK_THAT(message([&] {
               convert_boxes(torch::zeros({4, 3}), BoxForm::xyxy, BoxForm::xywh);
             }),
             ContainsSubstring("four numbers"));
}

TEST_CASE("the overlaps are torchvision's, and their gradients") {
  const Json& all = expected()["overlaps"];
  const Tensor a = tensor(all["a"]), b = tensor(all["b"]), paired = tensor(all["paired"]);
  for (const auto& member : all["matrix"].members()) {
    INFO(member.name);
    check_close(box_overlaps(a, b, kind_of(member.name)), tensor(member.value));
    // In batches, and of half precision.
    check_close(box_overlaps(torch::stack({a, a}), torch::stack({b, b}), kind_of(member.name))[1],
                tensor(member.value));
    CHECK(box_overlaps(a.to(torch::kHalf), b.to(torch::kHalf), kind_of(member.name)).scalar_type() == torch::kFloat);
  }
  for (const auto& member : all["loss"].members()) {
    INFO(member.name);
    const Tensor x = a.clone().requires_grad_();
    const Tensor loss = 1 - paired_overlaps(x, paired, kind_of(member.name));
    check_close(loss.detach(), tensor(member.value));
    (loss * torch::arange(1, 8)).sum().backward();
    check_close(x.grad(), tensor(all["gradient"][member.name]));
  }
  check_close(paired_overlaps(a.narrow(0, 0, 5), b), box_overlaps(a, b).diagonal());
  // No division by zero in training.
  const Tensor nothing = torch::ones({2, 4}).requires_grad_();
  for (const Overlap kind : {Overlap::iou, Overlap::giou, Overlap::diou, Overlap::ciou}) {
    const Tensor value = paired_overlaps(nothing, nothing.detach(), kind);
    value.sum().backward();
    CHECK(value.isfinite().all().item<bool>());
    CHECK(nothing.grad().isfinite().all().item<bool>());
  }
  CHECK_THAT(message([&] { box_overlaps(torch::zeros({4}), b); }), ContainsSubstring("(…, N, 4)"));
  CHECK_THAT(message([&] { paired_overlaps(torch::zeros({3}), b); }), ContainsSubstring("the first boxes"));
}

TEST_CASE("gradients by finite differences") {
  const Tensor a = torch::tensor({{10., 12., 50., 40.}, {0., 0., 9., 30.}}, torch::kDouble);
  const Tensor b = torch::tensor({{20., 5., 61., 37.}, {20., 20., 40., 80.}}, torch::kDouble);
  for (const Overlap kind : {Overlap::iou, Overlap::giou, Overlap::diou}) {
    const Tensor x = a.clone().requires_grad_();
    paired_overlaps(x, b, kind).sum().backward();
    for (Index i = 0; i < 8; ++i) {
      const auto moved = [&](double by) {
        Tensor y = a.clone();
        y.view(-1)[i] += by;
        return paired_overlaps(y, b, kind).sum().item<double>();
      };
      CHECK(std::abs(x.grad().reshape(-1)[i].item<double>() - (moved(1e-5) - moved(-1e-5)) / 2e-5) <= 1e-8);
    }
  }
}

TEST_CASE("a picture on a canvas, and its boxes there and back") {
  struct {
    PixelSize picture, canvas;
    Fit fit;
    PixelSize inner;
    Index left, top;
  } const cases[]{
      {{640, 480}, {320, 320}, Fit::stretch, {320, 320}, 0, 0},
      {{640, 480}, {320, 320}, Fit::letterbox, {320, 240}, 0, 40},
      {{768, 576}, {416, 416}, Fit::darknet, {416, 312}, 0, 52},
      {{500, 333}, {416, 416}, Fit::darknet, {416, 277}, 0, 69},    // 277.06 down; a rest of 139
      {{500, 334}, {416, 416}, Fit::darknet, {416, 277}, 0, 69},    // 277.9 down
      {{500, 334}, {416, 416}, Fit::letterbox, {416, 278}, 0, 69},  // 277.9 to the nearest
      {{333, 500}, {416, 416}, Fit::darknet, {277, 416}, 69, 0},
      {{333, 500}, {416, 416}, Fit::letterbox, {277, 416}, 69, 0},
      {{2000, 10}, {64, 64}, Fit::letterbox, {64, 1}, 0, 31},  // .32 would be no pixel
      {{2000, 10}, {64, 64}, Fit::darknet, {64, 1}, 0, 31},
      {{1, 1}, {64, 32}, Fit::letterbox, {32, 32}, 16, 0},
  };
  for (const auto& one : cases) {
    INFO(one.picture.width << " x " << one.picture.height << ", " << static_cast<int>(one.fit));
    const PicturePlacement p = place_picture(one.picture, one.canvas, one.fit);
    CHECK(p == PicturePlacement{one.picture, one.canvas, one.inner, one.left, one.top});
    const auto w = static_cast<double>(one.picture.width), h = static_cast<double>(one.picture.height);
    const auto whole = p.to_canvas({0, 0, w, h});
    CHECK(std::abs(whole[0] - static_cast<double>(p.left)) <= 1e-9);
    CHECK(std::abs(whole[3] - static_cast<double>(p.top + p.inner.height)) <= 1e-9);
    const std::array<double, 4> box{.1 * w, .2 * h, .7 * w, .9 * h};
    const auto back = p.to_picture(p.to_canvas(box));
    for (std::size_t i = 0; i < 4; ++i) CHECK(std::abs(back[i] - box[i]) <= 1e-9);
    const Tensor boxes = torch::tensor({box[0], box[1], box[2], box[3]}, torch::kDouble).view({1, 4});
    const auto there = p.to_canvas(box);
    check_close(boxes_to_canvas(boxes, p),
                torch::tensor({there[0], there[1], there[2], there[3]}, torch::kDouble).view({1, 4}), 1e-9);
    check_close(boxes_to_picture(boxes_to_canvas(boxes, p), p), boxes, 1e-9);
  }
  CHECK_THAT(message([] { place_picture({0, 5}, {4, 4}, Fit::stretch); }), ContainsSubstring("0 x 5"));
  CHECK_THAT(message([] { place_picture({5, 5}, {4, 0}, Fit::letterbox); }), ContainsSubstring("4 x 0"));
}

TEST_CASE("greedy suppression keeps what torchvision keeps") {
  for (const Json& one : expected()["nms"].elements()) {
    const Tensor boxes = tensor(one["boxes"]), scores = tensor(one["scores"]), labels = tensor(one["labels"]);
    for (const auto& member : one["greedy"].members()) {
      INFO(boxes.size(0) << " boxes, " << member.name);
      const double threshold = std::stod(member.name);
      CHECK(list(nms(boxes, scores, threshold)) == member.value.get<std::vector<std::int64_t>>());
      CHECK(list(nms_by_class(boxes, scores, labels, threshold)) ==
            one["by_class"][member.name].get<std::vector<std::int64_t>>());
    }
    CHECK(list(nms(boxes.to(torch::kDouble), scores.to(torch::kDouble), .6)).size() ==
          list(nms(boxes, scores, .6)).size());
  }
}

TEST_CASE("the grid changes nothing") {
  for (const auto& [count, smallest, largest] :
       std::vector<std::tuple<Index, double, double>>{{40, 1, 500}, {1500, 2, 20}, {1500, 30, 400}, {700, 300, 500}})
    for (const double threshold : {.01, .12, .2, .25, .34, .5, .51, .8}) {
      INFO(count << " boxes of " << smallest << " to " << largest << ", " << threshold);
      const auto [boxes, scores] = any_boxes(count, smallest, largest, 510, 3);
      // On a coarse lattice, where many overlaps are exactly the threshold, and beside it.
      for (const Tensor& b : {boxes, (boxes / 10).round() * 10, (boxes / 10).round() * .1F + 1000.1F})
        CHECK(list(nms(b, scores, threshold)) == plain_nms(b, scores, threshold));
    }
}

TEST_CASE("suppression with the centres' distance, soft suppression, fusion") {
  for (const Json& one : expected()["nms"].elements()) {
    if (!one.contains("diou")) continue;
    const Tensor boxes = tensor(one["boxes"]), scores = tensor(one["scores"]), labels = tensor(one["labels"]);
    const auto kept = one["diou"].get<std::vector<std::int64_t>>();
    CHECK(list(diou_nms(boxes, scores, labels, {.threshold = .4, .beta = .6})) == kept);
    CHECK(list(nms_by_class(boxes, scores, labels, .4)) != kept);
    for (const std::string name : {"linear", "gaussian"}) {
      INFO(name);
      const auto got =
          soft_nms(boxes, scores.to(torch::kDouble),
                   {.decay = name == "linear" ? SoftNmsOptions::Decay::linear : SoftNmsOptions::Decay::gaussian});
      CHECK(list(got.indices) == one[name]["indices"].get<std::vector<std::int64_t>>());
      check_close(got.scores, tensor(one[name]["scores"], torch::kDouble), 1e-7);
    }
    const Index count = boxes.size(0);
    const Tensor sure = (torch::arange(count) * 7).remainder(count).add(.5).div(count);
    for (const auto& [name, options] : std::vector<std::pair<std::string, FusionOptions>>{
             {"fused", {.least_score = .05}},
             {"fused_of_3", {.models = 3, .least_score = .05}},
             {"fused_highest", {.score = FusionOptions::Score::highest, .least_score = .05}}}) {
      INFO(name);
      const FusedBoxes got = weighted_boxes_fusion(boxes, sure, labels, options);
      check_close(got.scores, tensor(one[name]["scores"]), 1e-5);
      CHECK((got.scores.diff() <= 0).all().item<bool>());
      // In whatever order equal scores come: each of ours is one of theirs.
      const Tensor wanted = torch::cat({tensor(one[name]["boxes"]), tensor(one[name]["labels"]).unsqueeze(1) * 1e4,
                                        tensor(one[name]["scores"]).unsqueeze(1) * 1e4},
                                       1);
      const Tensor ours =
          torch::cat({got.boxes, got.labels.unsqueeze(1).to(torch::kFloat) * 1e4, got.scores.unsqueeze(1) * 1e4}, 1);
      const Tensor apart = torch::cdist(ours, wanted, 1);
      CHECK(std::get<0>(apart.min(1)).max().item<double>() <= .05);
      CHECK(std::get<0>(apart.min(0)).max().item<double>() <= .05);
    }
  }
}

TEST_CASE("nothing to suppress, and what can't be") {
  const Tensor none = torch::zeros({0, 4}), no_scores = torch::zeros({0}), one = torch::tensor({{0., 0., 2., 2.}});
  const Tensor score = torch::ones({1}), label = torch::zeros({1}, torch::kLong);
  CHECK(nms(none, no_scores, .5).sizes() == torch::IntArrayRef({0}));
  CHECK(nms_by_class(none, no_scores, no_scores, .5).numel() == 0);
  CHECK(diou_nms(none, no_scores, no_scores).scalar_type() == torch::kLong);
  CHECK(soft_nms(none, no_scores).scores.numel() == 0);
  CHECK(weighted_boxes_fusion(none, no_scores, no_scores).boxes.sizes() == torch::IntArrayRef({0, 4}));
  CHECK(list(nms(one, score, .5)) == std::vector<std::int64_t>{0});
  CHECK(weighted_boxes_fusion(one, score, label).boxes.equal(one));

  const double infinity = std::numeric_limits<double>::infinity();
  CHECK_THAT(message([&] { nms(one, score, 1.1); }), ContainsSubstring("[0, 1], not 1.1"));
  CHECK_THAT(message([&] { nms(one, score, std::nan("")); }), ContainsSubstring("[0, 1]"));
  CHECK_THAT(message([&] { nms(torch::zeros({1, 5}), score, .5); }), ContainsSubstring("(N, 4)"));
  CHECK_THAT(message([&] { nms(one, no_scores, .5); }), ContainsSubstring("a score for each of 1 boxes"));
  CHECK_THAT(message([&] { nms(one * infinity, score, .5); }), ContainsSubstring("not finite"));
  CHECK_THAT(message([&] { nms(one, score * std::nan(""), .5); }), ContainsSubstring("not a number"));
  CHECK_THAT(message([&] { nms_by_class(one, score, no_scores, .5); }), ContainsSubstring("a class for each"));
  CHECK_THAT(message([&] { diou_nms(one, score, label, {.beta = 0}); }), ContainsSubstring("beta must be above 0"));
  CHECK_THAT(message([&] { soft_nms(one, score, {.sigma = 0}); }), ContainsSubstring("sigma"));
  CHECK_THAT(message([&] { weighted_boxes_fusion(one, -score, label); }), ContainsSubstring("score -1"));
  CHECK_THAT(message([&] { weighted_boxes_fusion(one, score, label, {.models = 0}); }), ContainsSubstring("models"));
}

TEST_CASE("ten thousand boxes", "[.][benchmark]") {
  for (const auto& [smallest, largest] :
       std::vector<std::pair<double, double>>{{10, 100}, {1, 6}, {30, 300}, {200, 400}})
    for (const double threshold : {.3, .45, .5, .7}) {
      const auto [boxes, scores] = any_boxes(10000, smallest, largest, 640, 1);
      double best = 1e9;
      std::size_t kept = 0;
      for (int i = 0; i < 7; ++i) {
        const auto from = std::chrono::steady_clock::now();
        kept = list(nms(boxes, scores, threshold)).size();
        best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - from).count());
      }
      WARN("sides of " << smallest << " to " << largest << ", IoU " << threshold << ": " << best * 1e3 << " ms, "
                       << kept << " kept");
    }
}

// Detectors: preprocessing with its boxes, training, measuring; darknet's own.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include <transferlib/backbones/mobilenet_v3.hpp>
#include <transferlib/core/files.hpp>
#include <transferlib/core/random.hpp>
#include <transferlib/darknet_detector.hpp>
#include <transferlib/data/box_transforms.hpp>
#include <transferlib/data/preprocess.hpp>
#include <transferlib/data/transforms.hpp>
#include <transferlib/detector_parts.hpp>
#include <transferlib/detector_zoo.hpp>
#include <transferlib/heads/yolo.hpp>
#include <transferlib/metrics/box_confusion.hpp>
#include <transferlib/metrics/detection.hpp>
#include <transferlib/model/detector.hpp>
#include <transferlib/report/detection.hpp>
#include <transferlib/report/found_pictures.hpp>
#include <transferlib/train/trainer.hpp>

#include "as_darknet.hpp"
#include "rectangles.hpp"
#include "toys.hpp"

namespace {

namespace tl = transferlib;
using Catch::Matchers::ContainsSubstring;
using tl::Index;
using tl::Tensor;
using toys::Rectangles;
using toys::sentence_of;
using toys::Trunk;

tl::YoloOptions small_yolo() {
  tl::YoloOptions o = tl::yolo_v5();
  o.anchors = {{{12, 12}, {18, 18}}};
  o.balance = {1.0};
  return o;
}

/// A neck that makes one map of the coarsest: half as large, and so many channels.
struct Squeeze : tl::Module {
  struct Options {
    Index channels = 16;
  };
  std::shared_ptr<tl::nn::Conv2d> first, second;
  tl::FeatureSpec out;

  Squeeze(const tl::FeatureSpec& in, const Options& o) : Module("Squeeze") {
    const auto conv = [&](const char* name, const tl::nn::Conv2dOptions& options, std::uint64_t number) {
      auto made = register_module(name, std::make_shared<tl::nn::Conv2d>(options));
      tl::detail::kaiming_uniform(made->weight, 3, number);
      made->bias.set_requires_grad(false).zero_().set_requires_grad(true);
      return made;
    };
    first =
        conv("first",
             {.in = in.channels.back(), .out = o.channels, .kernel = 3, .stride = 2, .padding = 1, .bias = true}, 1);
    second = conv("second", {.in = o.channels, .out = o.channels, .kernel = 3, .padding = 1, .bias = true}, 2);
    out.channels = {o.channels};
    out.strides = {2 * in.strides.back()};
  }
  tl::Activations forward(const tl::Activations& maps, const tl::Pass&) {
    return {at::silu(second->forward(at::silu(first->forward(maps.back()))))};
  }
  const tl::FeatureSpec& features() const { return out; }
};

using Toy = tl::Detector<toys::SqueezeNet, Squeeze, tl::Yolo>;

/// A version of YOLO: its neck and its head.
struct Version {
  const char *neck, *head;
};

/// What a version's smallest model finds of the pictures that it was trained on, as AP at IoU .5.
double learnt_by_heart(const Version& version, Index epochs) {
  const std::string_view neck = version.neck, head = version.head;
  const Rectangles data(30);
  tl::Json neck_options = tl::Json::object(), head_options = tl::Json::object();
  if (neck == "passthrough") {
    neck_options["channels"] = 48;
    neck_options["fine"] = 16;
  } else if (neck != "none") {
    neck_options["channels"] = std::vector<Index>{32, 48};
    if (neck == "c3_path_aggregation") neck_options["depth"] = 0.33;
    if (neck == "elan_path_aggregation") neck_options["depth"] = 2;
  }
  if (head == "yolo_v1") {
    head_options["side"] = 6;
    head_options["dropout"] = 0.0;
  } else if (head == "yolox") {
    head_options["width"] = 32;
  } else {
    tl::LevelAnchors anchors{{{16, 16}, {24, 24}}, {{32, 32}, {32, 20}}};
    if (neck == "passthrough") anchors = {{{16, 16}, {24, 24}, {32, 32}, {32, 20}}};
    head_options["anchors"] = tl::detail::value_to_json(anchors);
    head_options["balance"] = std::vector<double>{1.0};
    head_options["grid_sensitivity"] = std::vector<double>{head == "yolo_v5" || head == "yolo_v7" ? 2.0 : 1.0};
  }
  tl::Detector model{tl::AnyBackbone(toys::lively<Trunk>(96).core), tl::FreezePolicy<tl::FreezeNone>{},
                     tl::any_neck(neck, neck_options), tl::any_box_head(head, head_options), data.labels()};
  static_assert(std::same_as<decltype(model), tl::AnyDetector>);
  tl::Trainer{model,
              {.epochs = epochs,
               .batch = 6,
               .optimizer = tl::Adam{.lr = 4e-3},
               .schedule = tl::CosineRate{.warmup = 0.05},
               .clip_norm = 10.0}}
      .fit(data, Rectangles(2, 2));
  tl::BoxAveragePrecision metric;
  const auto batch = data.batch(toys::first_ids(data.size()));
  metric.update(model.predict(batch, tl::Precision::fp32), batch);
  return metric.result(3).mean.ap50;
}

struct Killed {};

/// Ends the program, as it were, when the training has told so many things.
struct KillAt {
  Index left = -1;
  void on_progress(const tl::Progressed& p) {
    if (p.phase != "features" && left-- == 0) throw Killed{};
  }
};

/// A detector trained on mosaics of a data set, with checkpoints: its bytes and what was measured. \throws Killed
std::pair<std::string, std::string> trained_on_mosaics(const std::filesystem::path& folder, bool resume, KillAt& kill) {
  const Rectangles train(14), val(4, 2);
  Toy model{toys::lively<toys::SqueezeNet>(64), tl::FreezePolicy<tl::FreezeNone>{}, tl::Neck<Squeeze>{{.channels = 8}},
            tl::Head<tl::Yolo>{small_yolo()}, train.labels()};
  tl::Trainer trainer{model,
                      {.epochs = 2,
                       .batch = 4,
                       .optimizer = tl::AdamW{.lr = 5e-3},
                       .schedule = tl::CosineRate{.warmup = 0.1},
                       .multi_scale = {.least = 32, .most = 64, .every = 2},
                       .ema = tl::Ema{.decay = 0.9},
                       .clip_norm = 10.0,
                       .seed = 3,
                       .workers = 1,
                       .checkpoints = {.folder = folder, .every_steps = 1, .resume = resume}}};
  const auto mosaics = tl::augment(
      train, tl::compose(tl::Mosaic(train, {.size = 128, .probability = 0.7}),
                         tl::BoxAffine{.translate = 0.1, .scale = 0.4, .size = 64}, tl::BoxFlip{}, tl::HsvJitter{}));
  const auto history = trainer.fit(mosaics, val, kill);
  tl::save(model, folder / "model.safetensors");
  std::string measured;
  for (const tl::Epoch& epoch : history.epochs)
    for (const auto& [name, value] : epoch.values)
      if (name != "seconds") measured += tl::detail::text(name, " ", value, "\n");
  return {tl::read_file(folder / "model.safetensors"), measured};
}

tl::Detections found_at(std::vector<double> boxes, std::vector<double> scores, std::vector<Index> labels) {
  return {at::tensor(boxes).view({-1, 4}).to(at::kFloat), at::tensor(scores).to(at::kFloat), at::tensor(labels)};
}

std::filesystem::path extra_data() {
  const char* folder = std::getenv("TRANSFERLIB_TEST_DATA_EXTRA");
  return folder == nullptr ? "" : folder;
}

}  // namespace

static_assert(tl::DetectorModel<Toy>);
static_assert(tl::Trainable<Toy>);
static_assert(!tl::DetectorModel<tl::Classifier<toys::SqueezeNet, tl::Linear>>);
static_assert(tl::NeckNetwork<tl::NoNeck> && tl::NeckNetwork<Squeeze>);

TEST_CASE("a picture lies on the canvas where its boxes do") {
  // One bright pixel block, found again by its place: 20 x 10 pixels of a 100 x 50 picture.
  const Tensor picture = at::zeros({1, 3, 50, 100}, at::kByte);
  picture.narrow(2, 10, 10).narrow(3, 40, 20).fill_(255);
  tl::Batch batch{{picture},
                  at::tensor({0.0, 40.0, 10.0, 20.0, 10.0}).view({1, 5}),
                  at::tensor({0, 1}, at::kLong),
                  at::tensor({50, 100}, at::kLong).view({1, 2})};
  const auto spans = [](const Tensor& lit) {  // x, y, width, height of what is brighter than half
    const Tensor rows = lit.amax(1).gt(0.5).nonzero().flatten(), columns = lit.amax(0).gt(0.5).nonzero().flatten();
    return std::vector<Index>{columns[0].item<Index>(), rows[0].item<Index>(), columns.numel(), rows.numel()};
  };
  struct Case {
    tl::Fit fit;
    std::vector<Index> box;
    double beside;  // what the canvas has beside the picture; below 0: nothing
  };
  for (const Case& one :
       {Case{tl::Fit::stretch, {80, 40, 40, 40}, -1.0}, Case{tl::Fit::letterbox, {80, 70, 40, 20}, 114.0 / 255},
        Case{tl::Fit::darknet, {80, 70, 40, 20}, 0.5}, Case{tl::Fit::crop, {60, 40, 80, 40}, -1.0}}) {
    CAPTURE(to_string(one.fit));
    for (const auto how : {tl::Interpolation::bilinear, tl::Interpolation::nearest}) {
      const tl::Preprocessing p{
          .size = 200, .mean = {0, 0, 0}, .deviation = {1, 1, 1}, .interpolation = how, .fit = one.fit};
      const Tensor x = tl::preprocess(batch, p);
      if (one.beside >= 0.0) {
        CHECK((x[0].narrow(1, 0, 50) - one.beside).abs().max().item<double>() < 1e-6);
        CHECK((x[0].narrow(1, 150, 50) - one.beside).abs().max().item<double>() < 1e-6);
        CHECK(spans(x[0][0].narrow(0, 50, 100)) ==
              std::vector<Index>{one.box[0], one.box[1] - 50, one.box[2], one.box[3]});
      } else {
        CHECK(spans(x[0][0]) == one.box);
      }
      const Tensor moved = tl::detail::move_targets(batch, p);
      for (Index i = 0; i < 4; ++i)
        CHECK(moved[0][i + 1].item<float>() == static_cast<float>(one.box[static_cast<std::size_t>(i)]));
      tl::Batch there = batch;
      there.target = moved;
      CHECK((tl::detail::move_targets(there, p, true) - batch.target).abs().max().item<double>() < 1e-4);
      const auto back =
          tl::detail::on_pictures({found_at({double(one.box[0]), double(one.box[1]), double(one.box[0] + one.box[2]),
                                             double(one.box[1] + one.box[3])},
                                            {0.5}, {0}),
                                   {}},
                                  batch.sizes, p);
      CHECK((back[0].boxes - at::tensor({40.0, 10.0, 60.0, 20.0})).abs().max().item<double>() < 1e-4);
    }
  }
  batch.offsets = at::tensor({0, 2}, at::kLong);
  CHECK_THAT(sentence_of<tl::DataError>([&] { tl::detail::move_targets(batch, {.fit = tl::Fit::stretch}); }),
             ContainsSubstring("from 0 to 1"));
  batch.sizes = Tensor();
  CHECK_THAT(sentence_of<tl::DataError>([&] { tl::detail::move_targets(batch, {}); }), ContainsSubstring("`sizes`"));
}

TEST_CASE("darknet's resize is bilinear between the corners") {
  const Tensor x = at::arange(12, at::kFloat).view({1, 1, 3, 4}) / 255.0;
  const tl::Preprocessing p{.size = 5,
                            .mean = {0, 0, 0},
                            .deviation = {1, 1, 1},
                            .interpolation = tl::Interpolation::corners,
                            .fit = tl::Fit::stretch};
  const Tensor y = tl::preprocess({{(x * 255.0).to(at::kByte)}}, p, 1);
  CHECK(std::abs(y[0][0][0][0].item<double>()) < 1e-7);
  CHECK(std::abs(y[0][0][4][4].item<double>() * 255.0 - 11.0) < 1e-5);
  CHECK(std::abs(y[0][0][1][1].item<double>() * 255.0 - (0.75 + 0.5 * 4.0)) < 1e-5);
}

TEST_CASE("the metric is COCO's, picture by picture") {
  tl::BoxAveragePrecision metric;
  CHECK(metric.values().empty());
  const tl::Batch batch{{},
                        at::tensor({0.0, 10.0, 10.0, 20.0, 20.0, 1.0, 0.0, 0.0, 10.0, 10.0}).view({2, 5}),
                        at::tensor({0, 1, 2}, at::kLong),
                        {}};
  metric.update({found_at({10, 10, 30, 30}, {0.9}, {0}), found_at({50, 50, 60, 60, 0, 0, 10, 7}, {0.8, 0.4}, {1, 1})},
                batch);
  const auto values = metric.values();
  REQUIRE(values.size() == 2);
  CHECK(values[0].first == "ap");
  // Class 0 is found at all thresholds; class 1 behind a wrong box (precision 1/2) at the five up to .7.
  CHECK(std::abs(values[0].second - (1.0 + 0.5 * 0.5) / 2.0) < 1e-9);
  CHECK(std::abs(values[1].second - 0.75) < 1e-9);
  CHECK_THAT(sentence_of<tl::DataError>([&] { metric.update({{}}, batch); }), ContainsSubstring("2 pictures"));
}

TEST_CASE("what is taken for what, with the background, and the report of it") {
  const auto box = [](double x) { return std::array<double, 4>{x, 0.0, 10.0, 10.0}; };
  const std::vector<tl::TruthBox> truth{{.picture = 0, .label = 0, .box = box(0)},
                                        {.picture = 0, .label = 1, .box = box(20)},
                                        {.picture = 0, .label = 1, .box = box(40)},
                                        {.picture = 1, .label = 0, .box = {0, 0, 50, 50}, .crowd = true}};
  const std::vector<tl::DetectedBox> found{{0, 0, box(1), 0.9},   // right
                                           {0, 1, box(2), 0.95},  // overlaps less: the background's, however sure
                                           {0, 0, box(20), 0.5},  // the wrong class
                                           {0, 1, box(40), 0.1},  // not sure enough
                                           {1, 0, box(5), 0.9},   // in a crowd
                                           {2, 1, box(0), 0.9}};  // nothing is there
  CHECK(tl::box_confusion(truth, found, 2) == std::vector<Index>{1, 0, 0, 1, 0, 1, 0, 2, 0});
  CHECK(tl::box_confusion(truth, found, 2, {.score = 0.0}) == std::vector<Index>{1, 0, 0, 1, 1, 0, 0, 2, 0});
  CHECK_THAT(sentence_of<tl::DataError>([&] { tl::box_confusion(truth, found, 1); }), ContainsSubstring("1 classes"));
  const tl::Report report = tl::detection_report(truth, found, {"cat", "dog"});
  REQUIRE(report.figures.size() == 2);
  CHECK_THAT(report.figures[0].svg, ContainsSubstring("dog"));
  CHECK_THAT(report.figures[1].svg, ContainsSubstring("background"));
  CHECK_THAT(tl::report_html(report), ContainsSubstring("AP at IoU .5"));

  const Rectangles data(5);
  const auto shown =
      tl::found_pictures(data, std::vector<tl::TruthBox>{{.picture = 2, .label = 1, .box = box(7)}},
                         std::vector<tl::DetectedBox>{{2, 0, box(9), 0.5}, {2, 0, box(11), 0.1}}, {.pictures = 3});
  REQUIRE(shown.size() == 3);  // 0, 1 and 3
  CHECK(shown[0].truth.empty());
  CHECK(shown[0].width == data.batch(toys::first_ids(1)).pictures[0].size(3));
  const auto all = tl::found_pictures(data, std::vector<tl::TruthBox>{{.picture = 2, .label = 1, .box = box(7)}},
                                      std::vector<tl::DetectedBox>{{2, 0, box(9), 0.5}, {2, 0, box(11), 0.1}});
  REQUIRE(all.size() == 5);
  CHECK(all[2].truth.size() == 1);
  CHECK(all[2].found.size() == 1);  // the other is not sure enough
  const std::string svg = tl::detections_svg(all, {"a<b", "dog"});
  CHECK_THAT(svg, ContainsSubstring(">a&lt;b 50"));
  CHECK_THAT(svg, ContainsSubstring(">dog</text>"));
  CHECK_THAT(svg, ContainsSubstring("data:image/png;base64,"));
  CHECK_THROWS_AS(tl::detections_svg(std::vector<tl::FoundPicture>(1), {"a"}), tl::OptionError);
}

TEST_CASE("a detector learns, is measured in the pictures' pixels, and is copied whole") {
  const Rectangles train(48), test(16, 2);
  auto backbone = toys::lively<toys::SqueezeNet>(64);
  tl::Detector model{std::move(backbone), tl::FreezePolicy<tl::FreezeNone>{}, tl::Neck<Squeeze>{{.channels = 32}},
                     tl::Head<tl::Yolo>{small_yolo()}, train.labels()};
  static_assert(std::same_as<decltype(model), Toy>);
  CHECK(model.preprocessing().fit == tl::Fit::letterbox);
  tl::Trainer trainer{model,
                      {.epochs = 25, .batch = 8, .optimizer = tl::Adam{.lr = 5e-3}, .cache = {.enabled = false}}};
  const auto history = trainer.fit(train, test);
  const auto& first = history.epochs.front();
  const auto& last = history.epochs.back();
  std::vector<std::string> columns;
  for (const auto& value : last.values) columns.push_back(value.first);
  CHECK(columns == std::vector<std::string>{"train_loss", "train_box", "train_objectness", "train_class", "val_loss",
                                            "val_ap", "val_ap50", "seconds"});
  CHECK(last["train_loss"] < 0.5 * first["train_loss"]);
  CHECK(last["val_ap50"] > 0.8);

  // `predict` finds the same in the pictures' own pixels.
  tl::BoxAveragePrecision metric;
  const auto batch = test.batch(toys::first_ids(16));
  metric.update(model.predict(batch, tl::Precision::fp32), batch);
  CHECK(std::abs(metric.values()[1].second - last["val_ap50"]) < 0.02);
  CHECK(std::abs(tl::evaluate(model, test, {.batch = 5})[2].second - last["val_ap50"]) < 0.02);

  const auto copy = tl::clone(model);
  CHECK(toys::same_bytes(toys::snapshot(model.head()), toys::snapshot(copy.head())));
  const auto a = model.predict(batch)[0], b = copy.predict(batch)[0];
  CHECK(at::equal(a.boxes, b.boxes));
  CHECK(at::equal(a.scores, b.scores));
  const auto sure = tl::surer_than(a, 0.5);
  REQUIRE(sure.size() > 0);
  CHECK(sure.size() < a.size());
  CHECK(sure.scores.min().item<double>() >= 0.5);
}

TEST_CASE("a frozen backbone is computed once, and its boxes still move") {
  const Rectangles train(24), test(8, 2);
  const auto run = [&](bool cached) {
    tl::Detector model{toys::lively<toys::SqueezeNet>(64), tl::FreezePolicy<tl::FreezeAll>{},
                       tl::Neck<Squeeze>{{.channels = 8}}, tl::Head<tl::Yolo>{small_yolo()}, train.labels()};

    const auto frozen = toys::snapshot(*model.backbone_core().network);
    CHECK(model.head_features().channels == std::vector<Index>{8});
    CHECK(model.state().back().first.starts_with("head."));
    tl::Trainer trainer{model,
                        {.epochs = 3,
                         .batch = 8,
                         .optimizer = tl::Adam{.lr = 1e-2},
                         .precision = tl::Precision::fp32,
                         .cache = {.enabled = cached}}};
    const auto history = trainer.fit(train, test);
    CHECK(toys::same_bytes(frozen, toys::snapshot(*model.backbone_core().network)));
    return history["train_loss"];
  };
  const auto with = run(true), without = run(false);
  REQUIRE(with.size() == 3);
  CHECK(with[2] < with[0]);
  for (std::size_t i = 0; i < 3; ++i) CHECK(std::abs(with[i] / without[i] - 1.0) < 1e-5);
}

TEST_CASE("training on mosaics that is killed anywhere and goes on gives the bytes of one that never stopped") {
  const toys::Folder whole;
  KillAt counter{.left = 1 << 20};
  const auto expected = trained_on_mosaics(whole, false, counter);
  const Index events = (1 << 20) - counter.left;
  REQUIRE(events > 8);
  for (Index at = 1; at < events; at += 2) {
    CAPTURE(at, events);
    const toys::Folder folder;
    KillAt kill{.left = at}, never{.left = 1 << 20};
    CHECK_THROWS_AS(trained_on_mosaics(folder, false, kill), Killed);
    const auto outcome = trained_on_mosaics(folder, true, never);
    CHECK((outcome.first == expected.first));
    CHECK(outcome.second == expected.second);
    // It did go on, and did not begin anew.
    CHECK((at < 3 || (1 << 20) - never.left < events));
  }
}

TEST_CASE("thirty pictures are learnt by heart") {
  for (const Version& version : {Version{"c3_path_aggregation", "yolo_v5"}, Version{"yolo_v3", "yolo_v3"}}) {
    CAPTURE(version.head);
    CHECK(learnt_by_heart(version, 60) >= 0.95);
  }
}

TEST_CASE("thirty pictures are learnt by heart, by the other versions too", "[all]") {
  for (const auto& [version, epochs] :
       {std::pair{Version{"none", "yolo_v1"}, 60}, std::pair{Version{"passthrough", "yolo_v2"}, 120},
        std::pair{Version{"path_aggregation", "yolo_v4"}, 120},
        std::pair{Version{"elan_path_aggregation", "yolo_v7"}, 120},
        std::pair{Version{"c3_path_aggregation", "yolox"}, 120}}) {
    CAPTURE(version.head);
    CHECK(learnt_by_heart(version, epochs) >= 0.95);
  }
}

TEST_CASE("what a .cfg says is what the head does") {
  const toys::Folder folder;
  const std::string body =
      "[convolutional]\nfilters=16\nsize=3\nstride=2\npad=1\nactivation=leaky\nbatch_normalize=1\n";
  const auto cfg = [&](const std::string& rest) {
    tl::write_file(folder / "x.cfg", "[net]\nwidth=64\nheight=64\nchannels=3\n" + body + body + rest);
    return folder / "x.cfg";
  };
  const std::string conv = "[convolutional]\nfilters=16\nsize=1\nstride=1\npad=1\nactivation=linear\n";
  const std::string yolo =
      "[yolo]\nmask=1,2\nanchors=1,2, 3,4, 5,6\nclasses=3\nnum=3\nignore_thresh=.6\niou_thresh=.2\niou_normalizer=.07\n"
      "iou_loss=ciou\nscale_x_y=1.1\nnms_kind=diounms\nbeta_nms=.7\n";
  const auto head = tl::darknet_head(cfg(conv + yolo)).options;
  CHECK((head.anchors == tl::LevelAnchors{{{3, 4}, {5, 6}}}));
  CHECK(head.ignore_threshold == 0.6);
  CHECK(head.anchor_threshold == 0.2);
  CHECK(head.box_loss == tl::Overlap::ciou);
  CHECK(head.box_weight == 0.07);
  CHECK(head.grid_sensitivity == std::vector<double>{1.1});
  CHECK(head.selection.suppression == tl::Suppression::diou);
  CHECK(head.selection.beta == 0.7);

  const auto refused = [&](const std::string& rest) {
    return sentence_of<tl::FormatError>([&] { tl::darknet_pyramid(cfg(rest)); });
  };
  CHECK_THAT(refused(conv), ContainsSubstring("no [yolo]"));
  CHECK_THAT(refused(conv + "[yolo]\nclasses=4\nnum=2\nanchors=1,1,2,2\nmask=0,1\n"),
             ContainsSubstring("need 18; set the filters"));
  CHECK_THAT(refused(body + "[maxpool]\nsize=1\nstride=1\n" + yolo),
             ContainsSubstring("a convolution is to stand before it"));

  // Frozen by the file's numbers; another head on the same backbone.
  tl::Detector model{tl::darknet_pyramid(cfg(conv + yolo)),
                     tl::FreezePolicy<tl::FreezeUntil>{{"1"}},
                     tl::Head<tl::Yolo>{{.anchors = {{{8, 8}}}}},
                     {"cell"}};
  static_assert(std::same_as<decltype(model), tl::Detector<tl::AnyNetwork, tl::NoNeck, tl::Yolo>>);
  CHECK(model.frozen()[model.layers().find("0.conv")]);
  CHECK_FALSE(model.frozen()[model.layers().find("1.conv")]);
  for (const auto& item : model.state()) CHECK_FALSE(item.first.starts_with("backbone.2."));
  CHECK_THAT(refused(body + yolo), ContainsSubstring("x.cfg:26: [yolo]: the convolution before it is to be of size=1"));

  // The file's last convolution is the head.
  const auto whole = tl::darknet_pyramid(cfg(conv + yolo), {.seed = 4});
  const auto& network = dynamic_cast<const tl::Darknet&>(*whole.core.network);
  tl::write_darknet_weights(folder / "x.weights", network);
  const auto read = tl::darknet_detector(folder / "x.cfg", folder / "x.weights", toys::colours);
  const auto theirs = toys::snapshot(network), ours = toys::snapshot(read.head());
  CHECK(toys::same_bytes(ours.at("0.weight"), theirs.at("2.conv.weight")));
  CHECK(toys::same_bytes(ours.at("0.bias"), theirs.at("2.conv.bias")));
  CHECK_THAT(sentence_of<tl::OptionError>([&] {
               tl::darknet_detector(folder / "x.cfg", folder / "x.weights", {"a", "b"});
             }),
             ContainsSubstring("finds 3 classes, and there are 2 labels"));
}

TEST_CASE("a detector in a file is the same detector") {
  const toys::Folder folder;
  const auto batch = Rectangles(3).batch(toys::first_ids(3));
  const auto same = [&](auto& a, auto& b) {
    const auto x = a.predict(batch, tl::Precision::fp32), y = b.predict(batch, tl::Precision::fp32);
    Index found = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      REQUIRE(x[i].size() == y[i].size());
      found += x[i].size();
      if (x[i].size() == 0) continue;
      CHECK(at::equal(x[i].boxes, y[i].boxes));
      CHECK(at::equal(x[i].scores, y[i].scores));
      CHECK(at::equal(x[i].labels, y[i].labels));
    }
    CHECK(found > 0);
  };
  // A network of the zoo, a neck and a head by name and by type.
  tl::YoloOptions options = tl::yolo_v5();
  options.selection.score_threshold = 0.0;
  options.box_loss = tl::Overlap::giou;
  tl::Detector typed{toys::lively<tl::MobileNetV3Small>(96), tl::FreezePolicy<tl::FreezeNone>{},
                     tl::Neck<tl::C3PathAggregation>{{.channels = {16, 24}, .depth = 0.3, .seed = 3}},
                     tl::Head<tl::Yolo>{[&] {
                       auto o = options;
                       o.anchors = {{{10, 10}}, {{30, 30}}};
                       o.balance = {1.0};
                       return o;
                     }()},
                     toys::colours};
  typed.set_fit(tl::Fit::stretch);
  tl::save(typed, folder / "typed.safetensors");
  auto loaded = tl::load_detector(folder / "typed.safetensors");
  CHECK(loaded.labels() == toys::colours);
  CHECK(loaded.preprocessing() == typed.preprocessing());
  CHECK(loaded.backbone_core().name == "mobilenet_v3_small");
  same(typed, loaded);
  tl::save(loaded, folder / "again.safetensors");
  CHECK(tl::read_file(folder / "again.safetensors") == tl::read_file(folder / "typed.safetensors"));
  const auto recipe = tl::detail::part_options<tl::Yolo>(loaded.head_recipe().options.options);
  CHECK(recipe.box_loss == tl::Overlap::giou);
  CHECK((recipe.anchors == tl::LevelAnchors{{{10, 10}}, {{30, 30}}}));
  auto copy = tl::clone(loaded);
  same(loaded, copy);

  // A .cfg.
  const std::string conv = "[convolutional]\nfilters=8\nsize=3\nstride=2\npad=1\nactivation=leaky\nbatch_normalize=1\n";
  tl::write_file(
      folder / "x.cfg",
      "[net]\nwidth=64\nheight=64\nchannels=3\nletter_box=1\n" + conv + conv +
          "# the head\n[convolutional]\nfilters=16\nsize=1\nactivation=linear\n[yolo]\nmask=0,1\nanchors=10,14, "
          "30,20\nclasses=3\nnum=2\n");
  auto head = tl::darknet_head(folder / "x.cfg");
  head.options.selection.score_threshold = 0.0;
  tl::Detector darknet{tl::darknet_pyramid(folder / "x.cfg", {.seed = 5}), tl::FreezePolicy<tl::FreezeNone>{}, head,
                       toys::colours};
  tl::save(darknet, folder / "darknet.safetensors");
  auto again = tl::load_detector(folder / "darknet.safetensors");
  CHECK(again.preprocessing().fit == tl::Fit::darknet);
  CHECK(again.preprocessing().interpolation == tl::Interpolation::corners);
  CHECK(again.layers().rows.size() == darknet.layers().rows.size());
  same(darknet, again);

  CHECK_THAT(sentence_of<tl::OptionError>([] { tl::any_neck("path"); }),
             ContainsSubstring("there is no neck called \"path\"; there are none, "));
  CHECK_THAT(sentence_of<tl::OptionError>([] { tl::any_box_head("linear"); }), ContainsSubstring("yolo_v1"));
}

TEST_CASE("yolo-fastest 1.1 finds what darknet finds") {
  const auto folder = extra_data() / "yolo-fastest";
  if (extra_data().empty() || !std::filesystem::exists(folder / "yolo-fastest-1.1.weights"))
    SKIP(
        "TRANSFERLIB_TEST_DATA_EXTRA names no folder that has yolo-fastest/yolo-fastest-1.1.{cfg,weights} and dog.jpg");
  const auto labels = tl::read_names(folder / "coco.names");
  const auto model = tl::darknet_detector(folder / "yolo-fastest-1.1.cfg", folder / "yolo-fastest-1.1.weights", labels);
  const Tensor picture = toys::read_as_darknet(tl::read_file(folder / "dog.jpg"));
  const auto found = tl::surer_than(model.predict({{picture}}, tl::Precision::fp32)[0], 0.25);
  // darknet's own program: confidence, then the box's centre and sides, relative to the picture.
  struct Found {
    const char* label;
    double score, x, y, width, height;
  };
  const std::vector<Found> darknet{{"car", .883129, .740976, .224210, .300037, .177241},
                                   {"dog", .649254, .316827, .641744, .317097, .511708},
                                   {"cat", .548225, .314123, .633317, .335989, .527409},
                                   {"bicycle", .546469, .542037, .527602, .444948, .405320},
                                   {"car", .438686, .923662, .234987, .050307, .065672},
                                   {"car", .374783, .686551, .210464, .196508, .150168},
                                   {"person", .328620, .112937, .166126, .063072, .079500},
                                   {"bicycle", .286073, .344137, .578784, .478771, .548101}};
  REQUIRE(found.size() == static_cast<Index>(darknet.size()));
  for (Index i = 0; i < found.size(); ++i) {
    const Found& want = darknet[static_cast<std::size_t>(i)];
    CAPTURE(want.label, i);
    CHECK(labels[static_cast<std::size_t>(found.labels[i].item<Index>())] == want.label);
    CHECK(std::abs(found.scores[i].item<double>() - want.score) <= 1e-3);
    const auto at = [&](Index c) {
      return found.boxes[i][c].item<double>() / static_cast<double>(picture.size(c % 2 == 0 ? 3 : 2));
    };
    CHECK(std::abs((at(0) + at(2)) / 2.0 - want.x) <= 1e-3);
    CHECK(std::abs((at(1) + at(3)) / 2.0 - want.y) <= 1e-3);
    CHECK(std::abs(at(2) - at(0) - want.width) <= 1e-3);
    CHECK(std::abs(at(3) - at(1) - want.height) <= 1e-3);
  }
}

// Detectors from files of others, darknet's first versions and YOLO v5's; and detectors that learn more classes.
#include <algorithm>
#include <any>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <transferlib/core/files.hpp>
#include <transferlib/darknet_detector.hpp>
#include <transferlib/data/box_transforms.hpp>
#include <transferlib/data/detection.hpp>
#include <transferlib/data/transforms.hpp>
#include <transferlib/detect/anchors.hpp>
#include <transferlib/detector_parts.hpp>
#include <transferlib/detector_zoo.hpp>
#include <transferlib/model/more_classes.hpp>
#include <transferlib/model/save.hpp>
#include <transferlib/train/trainer.hpp>
#include <transferlib/yolo_v5.hpp>

#include "rectangles.hpp"
#include "toys.hpp"

#include "formula.hpp"  // knows Catch2's macros, which toys.hpp makes good

namespace {

namespace tl = transferlib;
using Catch::Matchers::ContainsSubstring;
using tl::Index;
using tl::Tensor;
using toys::Rectangles;
using toys::sentence_of;

/// Any data with boxes.
struct AnyBoxes {
  using Target = tl::Boxes;
  Index pictures = 0;
  tl::Labels names;
  std::function<tl::Batch(std::span<const Index>)> get;

  template <class D>
  static AnyBoxes of(const D& data) {
    return {data.size(), data.labels(), [&data](std::span<const Index> ids) { return data.batch(ids); }};
  }
  Index size() const { return pictures; }
  const tl::Labels& labels() const { return names; }
  tl::Batch batch(std::span<const Index> ids) const { return get(ids); }
};

/// AP at IoU .5 of each class of the data that the model knows.
std::vector<double> ap50(const tl::DarknetDetector& model, const AnyBoxes& data) {
  tl::BoxAveragePrecision metric;
  tl::detail::for_all_batches(
      data, [&](const tl::Batch& batch) { metric.update(model.predict(batch, tl::Precision::fp32), batch); });
  std::vector<double> out;
  for (const auto& c : metric.result(static_cast<Index>(data.names.size())).classes) out.push_back(c.numbers.ap50);
  return out;
}

/// The data's boxes of its last class alone, under all its names.
template <class D>
tl::ReplacedBoxes<D> last_class_of(const D& data) {
  const tl::Labels all = data.labels(), last{all.back()};
  const auto fresh = tl::only_classes(data, last);
  std::vector<Tensor> boxes;
  tl::detail::for_all_batches(fresh, [&](const tl::Batch& batch) {
    for (const Tensor& b : tl::detail::boxes_by_picture(batch)) boxes.push_back(tl::detail::relabelled(b, last, all));
  });
  return {data, all, std::move(boxes)};
}

/// What a detector finds before and after it learnt the last class of the data: taught by the old one, by what that is
/// sure of, or not at all.
struct Learnt {
  std::vector<double> before, after, remembered, forgotten;
};

/// \param model a detector of the data's first classes, untrained \param train, test data of all classes
template <class Fit>
Learnt learn_last(tl::DarknetDetector model, const AnyBoxes& train, const AnyBoxes& test, const Fit& fit) {
  const tl::Labels old(train.names.begin(), train.names.end() - 1), last{train.names.back()};
  const auto first = tl::only_classes(train, old);
  const auto first_test = tl::only_classes(test, old);
  fit(model, AnyBoxes::of(first), true);
  Learnt out{ap50(model, AnyBoxes::of(first_test)), {}, {}, {}};
  const auto marked = last_class_of(train);
  tl::Keeping taught{tl::add_classes(model, last), model};
  fit(taught, AnyBoxes::of(marked), false);
  out.after = ap50(taught, test);
  const auto fresh = tl::only_classes(train, last);
  const auto remembered = tl::remember(model, fresh);
  CHECK(remembered.labels() == train.names);
  auto more = tl::add_classes(model, last);
  fit(more, AnyBoxes::of(remembered), false);
  out.remembered = ap50(more, test);
  // Nobody says that what is old is there.
  auto careless = tl::add_classes(model, last);
  fit(careless, AnyBoxes::of(marked), false);
  out.forgotten = ap50(careless, test);
  return out;
}

}  // namespace

TEST_CASE("darknet's .cfg of YOLO v1 and v2 find what darknet finds") {
  const toys::Folder folder;
  const tl::Json all = tl::python("darknet_detectors.json");
  REQUIRE(all.size() == 5);
  for (const tl::Json& one : all.elements()) {
    const std::string kind = one["kind"].string();
    CAPTURE(kind, one["cfg"].string());
    tl::write_file(folder / "x.cfg", one["cfg"].string());
    const auto whole = tl::darknet_pyramid(folder / "x.cfg");
    const auto& network = dynamic_cast<const tl::Darknet&>(*whole.core.network);
    const Index last = network.config().used - 2;
    tl::fill(network, "",
             {{tl::detail::text(last, ".conv.weight"), 0.7}, {tl::detail::text(last, ".connected.weight"), 0.9}});
    tl::write_darknet_weights(folder / "x.weights", network);
    const auto compare = [&](auto model) {
      model.head().options().selection.score_threshold = 0.005;
      const auto found =
          model.predict({{tl::pictures(1, one["size"].template get<Index>())}}, tl::Precision::fp32).at(0);
      const tl::Json& wanted = one["found"];
      REQUIRE(found.size() == static_cast<Index>(wanted.size()));
      for (Index i = 0; i < found.size(); ++i) {
        CAPTURE(i);
        const auto row = wanted[static_cast<std::size_t>(i)].template get<std::vector<double>>();
        CHECK(std::abs(found.scores[i].template item<double>() - row[0]) < 1e-5);
        CHECK(found.labels[i].template item<Index>() == static_cast<Index>(row[1]));
        for (Index c = 0; c < 4; ++c)
          CHECK(std::abs(found.boxes[i][c].template item<double>() - row[static_cast<std::size_t>(2 + c)]) < 1e-3);
      }
    };
    if (kind == "detection")
      compare(tl::darknet_v1_detector(folder / "x.cfg", folder / "x.weights", toys::colours));
    else
      compare(tl::darknet_detector(folder / "x.cfg", folder / "x.weights", toys::colours));
    const auto other = [&] {
      if (kind == "detection")
        tl::darknet_head(folder / "x.cfg");
      else
        tl::darknet_v1_head(folder / "x.cfg");
    };
    CHECK_THAT(sentence_of<tl::FormatError>(other),
               ContainsSubstring(kind == "detection" ? "use darknet_v1_head" : "use darknet_head"));
  }
  const auto refused = [&](const std::string& layers) {
    tl::write_file(folder / "bad.cfg",
                   "[net]\nwidth=32\nheight=32\nchannels=3\n[convolutional]\nfilters=4\nsize=3\n"
                   "stride=2\npad=1\nactivation=leaky\n" +
                       layers);
    return sentence_of<tl::FormatError>([&] { tl::darknet_pyramid(folder / "bad.cfg"); });
  };
  CHECK_THAT(refused("[connected]\noutput=18\nactivation=leaky\n[detection]\nclasses=8\nside=1\nnum=2\ncoords=4\n"),
             ContainsSubstring("bad.cfg:14: [detection]: a [connected] layer with activation=linear"));
  CHECK_THAT(refused("[local_avgpool]\n"),
             ContainsSubstring("bad.cfg:11: [local_avgpool] is a layer that is not known"));
}

TEST_CASE("a YOLO v5n's file is our v5n") {
  const toys::Folder folder;
  const tl::Json wanted = tl::python("yolo_v5n.json");
  tl::StateDict state;
  for (const auto& [name, shape] : wanted["names"].members()) {
    const auto sides = shape.get<std::vector<Index>>();
    const Tensor t = name.ends_with("num_batches_tracked") ? at::zeros(sides, at::kLong) : at::zeros(sides);
    tl::fill(name, t);
    state.emplace_back("model." + name, name.ends_with("anchors") ? t.abs() + 1.0 : t);
  }
  tl::write_pth(folder / "v5n.pt", tl::detail::views_of(state).views);
  auto model = tl::yolo_v5_detector<tl::CspDarkNetN>(folder / "v5n.pt", toys::colours, 64);
  CHECK(model.preprocessing().fit == tl::Fit::letterbox);
  const auto maps = model.forward(tl::pictures(2, 64).to(at::kFloat) / 255.0);
  REQUIRE(maps.size() == 3);
  for (std::size_t l = 0; l < 3; ++l) CHECK(tl::difference(wanted["maps"][l], maps[l]) < 1e-4);
  CHECK_THAT(
      sentence_of<tl::OptionError>([&] { tl::yolo_v5_detector<tl::CspDarkNetN>(folder / "v5n.pt", {"one"}, 64); }),
      ContainsSubstring("finds 3 classes, and there are 1 labels"));
  CHECK_THROWS_AS(tl::yolo_v5_detector<tl::CspDarkNetS>(folder / "v5n.pt", toys::colours, 64), tl::WeightsError);
  // Its file says all that it is built from.
  tl::save(model, folder / "v5n.safetensors");
  auto again = tl::load_detector(folder / "v5n.safetensors");
  CHECK(again.backbone_core().name == "csp_darknet_n");
  CHECK(again.preprocessing().fit == tl::Fit::letterbox);
  const auto out = again.forward(tl::pictures(2, 64).to(at::kFloat) / 255.0);
  const auto& back = *std::any_cast<std::remove_const_t<decltype(maps)>>(&out);
  for (std::size_t l = 0; l < 3; ++l) CHECK((maps[l] - back[l]).abs().max().item<double>() < 1e-6);
  state.erase(state.begin());
  tl::write_pth(folder / "less.pt", tl::detail::views_of(state).views);
  CHECK_THAT(sentence_of<tl::WeightsError>(
                 [&] { tl::yolo_v5_detector<tl::CspDarkNetN>(folder / "less.pt", toys::colours, 64); }),
             ContainsSubstring("has no tensor \"model.0.conv.weight\""));
}

TEST_CASE("more classes leave the old ones' numbers as they are") {
  const auto same = [](const char* head, const tl::Json& options) {
    CAPTURE(head);
    tl::AnyDetector model{tl::AnyBackbone(toys::lively<toys::SqueezeNet>(64).core), tl::FreezePolicy<tl::FreezeNone>{},
                          tl::any_neck("none"), tl::any_box_head(head, options), toys::colours};
    const auto more = tl::add_classes(model, {"other", "last"});
    CHECK(more.labels() == tl::Labels{toys::colours[0], toys::colours[1], toys::colours[2], "other", "last"});
    const auto old = toys::snapshot(*model.head().pointer()), grown = toys::snapshot(*more.head().pointer());
    REQUIRE(old.size() == grown.size());
    Index larger = 0;
    for (const auto& [name, tensor] : grown) larger += tensor.numel() - old.at(name).numel();
    CHECK(larger > 0);
    // Without the new classes both find the same.
    const auto batch = Rectangles(2).batch(toys::first_ids(2));
    const auto a = model.predict(batch, tl::Precision::fp32), b = more.predict(batch, tl::Precision::fp32);
    for (std::size_t i = 0; i < a.size(); ++i) {
      REQUIRE(a[i].size() > 0);
      const Tensor known = b[i].labels.lt(3);
      CHECK(at::allclose(b[i].boxes.index({known}), a[i].boxes, 1e-6, 1e-5));
      CHECK(at::allclose(b[i].scores.index({known}), a[i].scores, 1e-6, 1e-7));
      CHECK(at::equal(b[i].labels.index({known}), a[i].labels));
      CHECK(b[i].labels.ge(3).any().item<bool>());
    }
  };
  const tl::Json all{{"score_threshold", 0.0}, {"most", 100000}};
  const tl::Json anchors =
      tl::detail::value_to_json(*std::make_unique<tl::LevelAnchors>(tl::LevelAnchors{{{12, 12}, {18, 18}}}));
  same("yolo_v3", {{"anchors", anchors}, {"selection", all}});
  same("yolox", {{"width", 16}, {"selection", all}});
  same("yolo_v1", {{"side", 2}, {"selection", all}});
  same("yolo_v1", {{"side", 2}, {"connected", false}, {"selection", all}});
  tl::DarknetDetector model{tl::AnyBackbone(toys::lively<toys::SqueezeNet>(64).core), tl::FreezePolicy<tl::FreezeAll>{},
                            tl::Head<tl::Yolo>{{.anchors = {{{12, 12}}}}}, toys::colours};
  const auto more = tl::add_classes(model, {"other"});
  CHECK(more.frozen() == model.frozen());
  CHECK_THAT(sentence_of<tl::OptionError>([&] { tl::add_classes(model, {toys::colours[0]}); }),
             ContainsSubstring("it is there already"));
  CHECK_THAT(sentence_of<tl::OptionError>([&] { tl::add_classes(model, {}); }),
             ContainsSubstring("no class was given"));
  const Rectangles data(3);
  CHECK_THAT(sentence_of<tl::OptionError>([&] { tl::remember(model, data); }), ContainsSubstring("no class was given"));
  CHECK_THAT(sentence_of<tl::DataError>([&] { tl::only_classes(data, {"lilac"}); }), ContainsSubstring("no class"));
}

TEST_CASE("what an old detector is sure of is remembered") {
  // Finds the same in all pictures: a sure red, one beyond the border, one that is not sure, one where something is
  // marked.
  struct Fixed {
    tl::Labels names{"red", "green"};
    const tl::Labels& labels() const { return names; }
    std::vector<tl::Detections> predict(const tl::Batch& batch, tl::Precision) const {
      const Tensor marked = batch.target[0];
      const float x = marked[1].item<float>(), y = marked[2].item<float>();
      const float w = marked[3].item<float>(), h = marked[4].item<float>();
      const std::vector<float> boxes{1, 2, 4, 6, -5, 30, 9, 900, 1, 2, 4, 6, x, y, x + w, y + h, 500, 500, 600, 600};
      const tl::Detections one{at::tensor(boxes).view({-1, 4}), at::tensor({0.9F, 0.8F, 0.3F, 0.95F, 0.9F}),
                               at::tensor({0, 1, 1, 0, 1}, at::kLong)};
      return std::vector<tl::Detections>(static_cast<std::size_t>(batch.size()), one);
    }
  };
  const Rectangles all(40);
  const auto fresh = tl::only_classes(all, {toys::colours[2]});
  std::vector<Index> have;  // a picture that shows one of the class
  for (Index id = 0; id < 40; ++id)
    if (fresh.batch(std::vector<Index>{id}).target.size(0) > 0) have.push_back(id);
  REQUIRE(have.size() > 3);
  REQUIRE(have.size() < 40);
  for (Index id = 0; id < 40; ++id) {
    const auto before = all.batch(std::vector<Index>{id}), after = fresh.batch(std::vector<Index>{id});
    CHECK(before.target.select(1, 0).eq(2).sum().item<Index>() == after.target.size(0));
    CHECK(after.target.select(1, 0).eq(0).all().item<bool>());
    CHECK(at::equal(before.pictures[0], after.pictures[0]));
  }
  const AnyBoxes one{1, {"blue"}, [&](std::span<const Index>) { return fresh.batch(std::span(have).first(1)); }};
  const auto taught = tl::remember(Fixed{}, one);
  CHECK(taught.labels() == tl::Labels{"red", "green", "blue"});
  const auto batch = taught.batch(std::vector<Index>{0});
  const Tensor marked = one.get({}).target;
  const Index n = marked.size(0);
  const double height = batch.sizes[0][0].item<double>();
  REQUIRE(batch.target.size(0) == n + 2);
  CHECK(batch.offsets[1].item<Index>() == n + 2);
  CHECK(at::equal(batch.target.narrow(0, 0, n).select(1, 0), at::full({n}, 2.0)));
  CHECK(at::equal(batch.target.narrow(0, 0, n).narrow(1, 1, 4), marked.narrow(1, 1, 4)));
  CHECK(at::equal(batch.target[n], at::tensor({0.0F, 1.0F, 2.0F, 3.0F, 4.0F})));
  CHECK(at::allclose(batch.target[n + 1], at::tensor({1.0, 0.0, 30.0, 9.0, height - 30.0}).to(at::kFloat)));
  CHECK_THAT(sentence_of<tl::OptionError>([&] { tl::remember(Fixed{}, one, {.threshold = 2.0}); }),
             ContainsSubstring("must be in [0, 1], not 2"));
}

TEST_CASE("a detector that is taught by an old one learns another class and keeps the others") {
  const Rectangles all(30);  // learnt by heart
  const tl::Labels old_classes{toys::colours[0], toys::colours[1]}, last{toys::colours[2]};
  tl::YoloOptions yolo = tl::yolo_v5();
  yolo.anchors = {{{10, 10}, {14, 14}}, {{18, 18}, {22, 22}}};
  yolo.balance = {1.0};
  tl::DarknetDetector old{tl::AnyBackbone(toys::lively<toys::Trunk>(64).core), tl::FreezePolicy<tl::FreezeNone>{},
                          tl::Head<tl::Yolo>{yolo}, old_classes};
  const tl::TrainerOptions options{.epochs = 40,
                                   .batch = 6,
                                   .optimizer = tl::Adam{.lr = 5e-3},
                                   .schedule = tl::CosineRate{.warmup = 0.05},
                                   .clip_norm = 10.0,
                                   .cache = {.enabled = false}};
  const auto first = tl::only_classes(all, old_classes);
  tl::Trainer{old, options}.fit(first, first);
  const auto before = ap50(old, AnyBoxes::of(first));
  REQUIRE(before[0] > 0.8);
  REQUIRE(before[1] > 0.8);

  // In the pictures that it learns from, blue alone is marked.
  const auto marked = last_class_of(all);
  tl::Keeping model{tl::add_classes(old, last), old};
  static_assert(std::same_as<decltype(model), tl::Keeping<tl::DarknetDetector>>);
  const auto copy = tl::clone(model);
  const auto history = tl::Trainer{model, options}.fit(marked, all);
  CHECK(history.epochs.front().has("train_kept"));
  CHECK_FALSE(history.epochs.front().has("val_kept"));
  const auto after = ap50(model, AnyBoxes::of(all));
  auto careless = tl::add_classes(old, last);
  tl::Trainer{careless, options}.fit(marked, all);
  const auto forgotten = ap50(careless, AnyBoxes::of(all));
  INFO("before " << before[0] << ", " << before[1] << "; after " << after[0] << ", " << after[1] << ", " << after[2]
                 << "; forgotten " << forgotten[0] << ", " << forgotten[1] << ", " << forgotten[2]);
  for (const std::size_t c : {std::size_t{0}, std::size_t{1}}) {
    CHECK(after[c] > before[c] - 0.03);
    CHECK(forgotten[c] < 0.3);
  }
  CHECK(after[2] > 0.8);
  // The one that teaches learns nothing, and a copy is a copy.
  CHECK(toys::same_bytes(toys::snapshot(model.old().head()), toys::snapshot(old.head())));
  CHECK(toys::same_bytes(toys::snapshot(copy.old().head()), toys::snapshot(old.head())));
  CHECK_FALSE(toys::same_bytes(toys::snapshot(copy.head()), toys::snapshot(model.head())));
  CHECK(copy.lesson() == model.lesson());

  // A file of it is one of an ordinary detector.
  const toys::Folder folder;
  tl::save(model, folder / "more.safetensors");
  CHECK(tl::detail::SavedModel::read(folder / "more.safetensors").labels == toys::colours);
}

TEST_CASE("what is frozen in a detector is so in the one that teaches it") {
  const auto made = [](const char* head, const tl::Json& options) {
    return tl::AnyDetector{tl::AnyBackbone(toys::lively<toys::SqueezeNet>(64).core), tl::FreezePolicy<tl::FreezeNone>{},
                           tl::any_neck("none"), tl::any_box_head(head, options), toys::colours};
  };
  const tl::Json anchors = [] {
    tl::LevelAnchors a{{{12, 12}, {18, 18}}};
    return tl::detail::value_to_json(a);
  }();
  const auto old = made("yolo_v3", {{"anchors", anchors}, {"seed", 1}});
  tl::Keeping model{tl::add_classes(old, {"other"}), old};
  model.refreeze(tl::FreezePolicy<tl::FreezeAll>{});
  CHECK(model.old().frozen() == model.frozen());
  CHECK(model.old().cut().boundary == model.cut().boundary);
  const Rectangles all(6);
  const AnyBoxes data{6,
                      {toys::colours[0], toys::colours[1], toys::colours[2], "other"},
                      [&](std::span<const Index> ids) { return all.batch(ids); }};
  const auto taught = toys::snapshot(*model.old().head().pointer()), own = toys::snapshot(*model.head().pointer());
  tl::Trainer{model, {.epochs = 1, .batch = 3, .cache = {.enabled = false}}}.fit(data, data);
  CHECK(toys::same_bytes(taught, toys::snapshot(*model.old().head().pointer())));
  CHECK_FALSE(toys::same_bytes(own, toys::snapshot(*model.head().pointer())));
  model.to(at::kCPU);

  CHECK_THAT(sentence_of<tl::OptionError>([&] { tl::Keeping{tl::clone(old), old}; }), ContainsSubstring("add_classes"));
  const auto other = made("yolo_v1", {{"side", 2}, {"seed", 1}});
  CHECK_THAT(sentence_of<tl::OptionError>([&] {
               tl::Keeping{tl::add_classes(other, {"other"}), other};
             }),
             ContainsSubstring("remember(old, data)"));
}

TEST_CASE("sizes are drawn every few batches, and a run that goes on draws the same") {
  const tl::MultiScale scale{.least = 32, .most = 96, .every = 3};
  std::vector<Index> count(4);
  for (Index step = 0; step < 300; ++step) {
    const Index side = scale.side(7, step);
    REQUIRE(side % 32 == 0);
    ++count.at(static_cast<std::size_t>(side / 32));
    CHECK(side == scale.side(7, step / 3 * 3));
  }
  CHECK(count[0] == 0);
  for (std::size_t k = 1; k < 4; ++k) CHECK(count[k] > 50);

  const Rectangles data(24);
  const AnyBoxes train = AnyBoxes::of(data), val{1, data.labels(), train.get};
  const auto trained = [&](const tl::MultiScale& sizes, bool frozen, const tl::Checkpoints& checkpoints, Index epochs) {
    tl::DarknetDetector model{tl::AnyBackbone(toys::lively<toys::SqueezeNet>(64).core),
                              tl::FreezePolicy<tl::FreezeNone>{}, tl::Head<tl::Yolo>{{.anchors = {{{12, 12}}}}},
                              toys::colours};
    if (frozen) model.refreeze(tl::FreezePolicy<tl::FreezeAll>{});
    tl::Trainer{model, {.epochs = epochs, .batch = 4, .multi_scale = sizes, .checkpoints = checkpoints}}.fit(train,
                                                                                                             val);
    return toys::snapshot(model.head());
  };
  const auto once = trained(scale, false, {}, 2);
  CHECK(toys::same_bytes(once, trained(scale, false, {}, 2)));
  CHECK_FALSE(toys::same_bytes(once, trained({}, false, {}, 2)));
  CHECK_FALSE(toys::same_bytes(once, trained({.least = 64, .most = 64}, false, {}, 2)));
  CHECK(toys::same_bytes(trained({}, false, {}, 2), trained({.least = 64, .most = 64}, false, {}, 2)));
  CHECK_THAT(sentence_of<tl::OptionError>([&] { trained(scale, true, {}, 1); }),
             ContainsSubstring("freeze none of them"));
  for (const tl::MultiScale& bad : {tl::MultiScale{.least = 64, .most = 32},
                                    {.least = 40, .most = 64},
                                    {.least = 32, .most = 64, .every = 0},
                                    {.least = 0, .most = 64}})
    CHECK_THAT(sentence_of<tl::OptionError>([&] { trained(bad, false, {}, 1); }), ContainsSubstring("multi_scale"));
}

// A measurement, run by its name: half an hour of a loaded core.
TEST_CASE("yolo-fastest learns platelets and keeps the other blood cells", "[.]") {
  const char* extra = std::getenv("TRANSFERLIB_TEST_DATA_EXTRA");
  const std::filesystem::path folder = extra == nullptr ? "" : extra;
  if (!std::filesystem::exists(folder / "yolo-fastest") || !std::filesystem::exists(folder / "bccd" / "BCCD"))
    SKIP("TRANSFERLIB_TEST_DATA_EXTRA names no folder that has yolo-fastest/ and bccd/");
  const tl::BoxDataOptions options{
      .labels = {"RBC", "WBC", "Platelets"}, .most_side = 320, .cache_bytes = std::size_t{1} << 30};
  const auto train = tl::VocData::open(folder / "bccd" / "BCCD", "trainval", options);
  const auto test = tl::VocData::open(folder / "bccd" / "BCCD", "test", options);
  const auto cfg = folder / "yolo-fastest" / "yolo-fastest-1.1.cfg";
  auto backbone = tl::darknet_pyramid(cfg, folder / "yolo-fastest" / "yolo-fastest-1.1.weights", {.size = 320});
  tl::YoloOptions yolo = tl::yolo_v5();
  const auto sizes = tl::box_sizes(train, backbone.core.preprocessing);
  yolo.anchors = tl::split_anchors(tl::kmeans_anchors(sizes, 6, 0), 2);
  yolo.balance = {4.0, 1.0};
  tl::DarknetDetector model{
      std::move(backbone), tl::FreezePolicy<tl::FreezeNone>{}, tl::Head<tl::Yolo>{yolo}, {"RBC", "WBC"}};
  const AnyBoxes validation = AnyBoxes::of(test);
  const auto fit = [&](auto& which, const AnyBoxes& data, bool first) {
    const auto augmented =
        tl::augment(data, tl::compose(tl::BoxFlip{}, tl::BoxAffine{.translate = 0.1, .scale = 0.25}, tl::HsvJitter{}));
    tl::Trainer{which,
                {.epochs = first ? 10 : 8,
                 .batch = 16,
                 .optimizer = tl::AdamW{.lr = 2e-3, .weight_decay = 5e-4},
                 .schedule = tl::CosineRate{.warmup = 0.05, .least = 0.02},
                 .ema = tl::Ema{.decay = 0.99},
                 .clip_norm = 10.0}}
        .fit(augmented, AnyBoxes{1, data.names, data.get});
  };
  const Learnt l = learn_last(std::move(model), AnyBoxes::of(train), validation, fit);
  const auto words = [](const std::vector<double>& v) { return tl::detail::text(v[0], ", ", v[1], ", ", v[2]); };
  WARN("AP50 of RBC, WBC before: " << l.before[0] << ", " << l.before[1] << "; with Platelets after: " << words(l.after)
                                   << "; by `remember`: " << words(l.remembered)
                                   << "; without: " << words(l.forgotten));
  for (std::size_t c : {std::size_t{0}, std::size_t{1}}) CHECK(l.after[c] > l.before[c] - 0.03);
  CHECK(l.after[2] > 0.6);
}

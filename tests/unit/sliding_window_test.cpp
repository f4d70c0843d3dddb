// The sliding window: where windows lie, what is cut to learn from, two ways of looking that agree where they must, and
// red squares that are found where they are.
#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/conv.h>

#include <transferlib/core/concepts.hpp>
#include <transferlib/data/window_data.hpp>
#include <transferlib/detect/boxes.hpp>
#include <transferlib/detect/windows.hpp>
#include <transferlib/metrics/detection.hpp>
#include <transferlib/model/sliding_window.hpp>
#include <transferlib/probe/fit_dense.hpp>
#include <transferlib/train/trainer.hpp>

#include "toys.hpp"

namespace transferlib {
namespace {

using namespace toys;
using Catch::Matchers::ContainsSubstring;

/// A network without padding: what it says of a window does not depend on what lies beside it. Remembers the most
/// numbers that it was given at once.
struct Patches : Module {
  static inline std::atomic<Index> largest{0};
  struct Watched : torch::nn::Conv2dImpl {
    using torch::nn::Conv2dImpl::Conv2dImpl;
    Tensor forward(const Tensor& x) {
      largest = std::max<Index>(largest, x.numel());
      return torch::nn::Conv2dImpl::forward(x).relu();
    }
  };
  std::shared_ptr<Watched> fine, coarse;
  explicit Patches(const NetworkOptions& o = {})
      : fine(std::make_shared<Watched>(torch::nn::Conv2dOptions(o.in_channels, 12, 4).stride(4))),
        coarse(std::make_shared<Watched>(torch::nn::Conv2dOptions(12, 24, 2).stride(2))) {
    register_module("fine", fine);
    register_module("coarse", coarse);
  }
  Stages stages() { return {{"fine", fine}, {"coarse", coarse}}; }
};

/// Noisy grey pictures of 80 x 56 pixels, each with a red and a blue square of 12 to 22 pixels.
struct Squares {
  using Target = Boxes;
  Index n = 12;
  std::uint64_t seed = 1;

  Index size() const { return n; }
  Labels labels() const { return {"blue", "red"}; }
  Batch batch(std::span<const Index> ids) const {
    tl::detail::check_ids(ids, n);
    Batch out;
    std::vector<float> boxes;
    std::vector<Index> offsets{0}, sizes;
    for (const Index id : ids) {
      Random random(seed, Purpose::test, static_cast<std::uint64_t>(id));
      Tensor x = at::empty({1, 3, 56, 80}, at::kFloat)
                     .uniform_(90.0, 150.0, tl::detail::generator(seed, static_cast<std::uint64_t>(id), 3));
      for (const Index label : {0, 1}) {
        const Index side = 12 + random.below(11), left = label * 40 + random.below(40 - side),
                    top = random.below(56 - side);
        const Tensor square = x.narrow(2, top, side).narrow(3, left, side);
        square.fill_(30.0);
        square.select(1, label == 1 ? 0 : 2).fill_(230.0);
        for (const Index number : {label, left, top, side, side}) boxes.push_back(static_cast<float>(number));
      }
      out.pictures.push_back(x.to(at::kByte));
      offsets.push_back(offsets.back() + 2);
      sizes.insert(sizes.end(), {56, 80});
    }
    out.target = at::tensor(boxes).view({-1, 5});
    out.offsets = at::tensor(offsets, at::kLong);
    out.sizes = at::tensor(sizes, at::kLong).view({-1, 2});
    return out;
  }
};

using Toy = SlidingWindow<Patches, Linear>;

Classifier<Patches, Linear> classifier(Labels labels = {"blue", "red", "background"}) {
  return {lively<Patches>(16), FreezePolicy<FreezeAll>{}, Head<Linear>{{.seed = 3}}, std::move(labels)};
}

WindowDataOptions cut_options() { return {.window = 16, .views = 12, .background = 24, .smallest = 12}; }
WindowOptions slide_options(WindowMode mode = WindowMode::exact) {
  return {.stride = 8, .smallest = 12, .largest = 40, .mode = mode};
}

/// Trained on 40 pictures, with one round of hard negatives.
const Toy& trained() {
  static const Toy model = [] {
    const Squares data{40};
    WindowData windows = WindowData::of(data, cut_options());
    const WindowData validation = WindowData::of(Squares{4, 9}, cut_options());
    Toy out{classifier(), slide_options()};
    Trainer trainer{out.classifier(), {.epochs = 40, .batch = 64, .optimizer = Adam{.lr = 0.05}}};
    fit_windows(out, trainer, windows, validation, data, {.boxes = true});
    return out;
  }();
  return model;
}

double ap50(const Toy& model, const Squares& data) {
  const Batch batch = data.batch(first_ids(data.size()));
  BoxAveragePrecision metric;
  metric.update(model.predict(batch), batch);
  return metric.values()[1].second;
}

TEST_CASE("Windows reach every border, and the largest covers the shorter side") {
  const auto levels = window_levels({640, 480}, {.window = 96, .stride = 16});
  CHECK(levels.front().size == PixelSize{640, 480});
  CHECK(levels.front().columns() == 35);
  CHECK(levels.front().rows() == 25);
  CHECK(levels.back().size.height == 96);
  Index count = 0;
  for (std::size_t i = 0; i < levels.size(); ++i) {
    const WindowLevel& l = levels[i];
    count += l.count();
    CHECK(l.box(0, 0)[0] == 0.0);
    const auto last = l.box(l.columns() - 1, l.rows() - 1);
    CHECK(std::abs(last[2] - 640.0) < 1e-9);
    CHECK(std::abs(last[3] - 480.0) < 1e-9);
    if (i > 0) {
      const double factor = static_cast<double>(levels[i - 1].size.width) / static_cast<double>(l.size.width);
      CHECK(factor > 1.0);
      CHECK(factor < 1.25 * 1.1);  // sides are rounded
    }
  }
  CHECK(count_windows(levels) == count);
  CHECK(window_levels({640, 480}, {.window = 96, .smallest = 48}).front().size == PixelSize{1280, 960});
  const auto some = window_levels({640, 480}, {.window = 96, .smallest = 120, .largest = 120});
  REQUIRE(some.size() == 1);
  CHECK(some[0].size == PixelSize{512, 384});
  for (const PixelSize size : {PixelSize{1, 1}, {96, 96}, {50, 96}, {1, 500}}) {
    const auto one = window_levels(size, {.window = 96});
    REQUIRE(one.size() == 1);
    CHECK(std::min(one[0].size.width, one[0].size.height) == 96);
  }
  const auto wide = window_levels({4000, 100}, {.window = 96});
  CHECK(wide.back().rows() == 1);
  CHECK(wide.back().columns() > 200);
  CHECK_THAT(sentence_of<OptionError>([] {
               window_levels({640, 480}, {.window = 16, .stride = 17});
             }),
             ContainsSubstring("leaves parts of the picture out"));
  CHECK_THAT(sentence_of<OptionError>([] { window_levels({640, 480}, {.scale = 1.0}); }), ContainsSubstring("above 1"));
  CHECK_THAT(sentence_of<OptionError>([] {
               window_levels({640, 480}, {.smallest = 90, .largest = 80});
             }),
             ContainsSubstring("from 90 to 80"));
  CHECK_THAT(sentence_of<OptionError>([] { window_levels({0, 480}, {}); }), ContainsSubstring("0 x 480"));
}

TEST_CASE("Windows are cut around objects and beside them") {
  const Squares data;
  WindowData windows = WindowData::of(data, cut_options());
  CHECK(windows.labels() == Labels{"blue", "red", "background"});
  CHECK(windows.counts() == std::vector<Index>{12 * 12, 12 * 12, 12 * 24});
  CHECK(windows.batch(first_ids(3)).pictures[0].sizes() == at::IntArrayRef({3, 3, 16, 16}));
  CHECK(WindowData::of(data, cut_options()).fingerprint() == windows.fingerprint());
  auto other = cut_options();
  other.seed = 1;
  CHECK(WindowData::of(data, other).fingerprint() != windows.fingerprint());

  for (Index id = 0; id < data.size(); ++id) {
    const std::array<Index, 1> ids{id};
    const auto there = windows.objects_of(data, data.batch(ids), ids)[0];
    for (const CutWindow& w : windows.windows()) {
      if (w.picture != id) continue;
      CHECK((w.box[0] >= 0.0 && w.box[1] >= 0.0 && w.box[2] <= 80.0 + 1e-9 && w.box[3] <= 56.0 + 1e-9));
      CHECK(std::abs((w.box[2] - w.box[0]) - (w.box[3] - w.box[1])) < 1e-9);
      if (w.label == 2)
        CHECK(tl::detail::worst_overlap(w.box, there, 1.25) < 0.3);
      else
        CHECK(tl::detail::worst_overlap(w.box, there, 1.25) > 0.4);
    }
  }
  // What is to be learnt leads from the windows back to the objects.
  const auto offsets = windows.offsets();
  std::vector<double> boxes, objects;
  for (const CutWindow& w : windows.windows())
    if (w.label != 2)
      boxes.insert(boxes.end(), w.box.begin(), w.box.end()),
          objects.insert(objects.end(), w.object.begin(), w.object.end());
  const Tensor start = tl::detail::without_margin(at::tensor(boxes, at::kDouble).view({-1, 4}), 1.25);
  const Tensor back = BoxCoder{}.decode(offsets.target().to(at::kDouble), start);
  CHECK((back - at::tensor(objects, at::kDouble).view({-1, 4})).abs().max().item<double>() < 1e-4);

  // One class alone: the other one is background.
  auto one = cut_options();
  one.labels = {"red"};
  const WindowData red = WindowData::of(data, one);
  CHECK(red.labels() == Labels{"red", "background"});
  CHECK(red.counts()[0] == 12 * 12);

  windows.add_background(data, {{.picture = 5, .box = {1, 2, 31, 32}, .label = 0}});
  CHECK(windows.counts() == std::vector<Index>{12 * 12, 12 * 12, 12 * 24 + 1});
  const Tensor picture = data.batch(std::vector<Index>{5}).pictures[0];
  const Tensor cut = resize(picture.narrow(2, 2, 30).narrow(3, 1, 30).contiguous(), 16, 16);
  const Tensor last = windows.batch(std::vector<Index>{windows.size() - 1}).pictures[0];
  CHECK((last.to(at::kInt) - cut.to(at::kInt)).abs().max().item<int>() <= 1);

  one.labels = {"green"};
  CHECK_THAT(sentence_of<OptionError>([&] { WindowData::of(data, one); }), ContainsSubstring("no class \"green\""));
  one = cut_options();
  one.name = "red";
  CHECK_THAT(sentence_of<OptionError>([&] { WindowData::of(data, one); }), ContainsSubstring("choose another `name`"));
  one = cut_options();
  one.views = one.background = 0;
  CHECK_THAT(sentence_of<DataError>([&] { WindowData::of(data, one); }), ContainsSubstring("no windows"));
  CHECK_THROWS_AS(windows.add_background(data, {{.picture = 99, .box = {1, 2, 31, 32}}}), DataError);
  for (const auto& [change, sentence] :
       std::vector<std::pair<WindowDataOptions, const char*>>{{{.margin = 0.5}, "margin"},
                                                              {{.iou_below = 0.0}, "iou_below"},
                                                              {{.shift = 2.0}, "jitter"},
                                                              {{.window = 0}, "cut"}})
    CHECK_THAT(sentence_of<OptionError>([&] { WindowData::of(data, change); }), ContainsSubstring(sentence));
}

TEST_CASE("Red squares are found where they are, both ways, however they are merged") {
  static_assert(DetectorModel<Toy>);
  const Squares unseen{12, 77};
  Toy model = clone(trained());
  CHECK(model.labels() == Labels{"blue", "red"});
  for (const WindowMode mode : {WindowMode::exact, WindowMode::dense})
    for (const Merge& merge :
         std::vector<Merge>{GreedyMerge{}, SoftNmsOptions{}, FusionOptions{.score = FusionOptions::Score::highest}}) {
      auto options = slide_options(mode);
      options.merge = merge;
      model.set_options(options);
      INFO("dense " << (mode == WindowMode::dense) << ", merge " << merge.index());
      CHECK(ap50(model, unseen) > 0.75);
    }
  model.set_options(slide_options());
  // The boxes that are learnt are better than the windows less their margin.
  const auto mean_overlap = [&] {
    const Batch batch = unseen.batch(first_ids(unseen.size()));
    const auto found = model.predict(batch);
    double sum = 0.0;
    for (std::size_t i = 0; i < found.size(); ++i) {
      const Tensor truth = batch.target.narrow(0, static_cast<Index>(2 * i), 2).narrow(1, 1, 4);
      sum += box_overlaps(convert_boxes(truth, BoxForm::xywh, BoxForm::xyxy), found[i].boxes)
                 .amax(1)
                 .mean()
                 .item<double>();
      CHECK(found[i].boxes.ge(0.0).all().item<bool>());
      CHECK(found[i].boxes.select(1, 2).le(80.0).all().item<bool>());
      CHECK(found[i].scores.diff().le(0.0).all().item<bool>());
    }
    return sum / static_cast<double>(found.size());
  };
  const double learnt = mean_overlap();
  const Toy copy = clone(model);
  model.set_offsets({}, {});
  const double plain = mean_overlap();
  INFO(learnt << " " << plain);
  CHECK(learnt > plain + 0.02);
  CHECK(copy.offsets().first.defined());

  // Pictures of several sizes, of numbers in [0, 1], and grey ones.
  const Tensor picture = unseen.batch(std::vector<Index>{0}).pictures[0];
  const auto alone = copy.predict(Batch{{picture}});
  const auto both = copy.predict(Batch{{at::zeros({2, 3, 31, 90}, at::kByte), picture.to(at::kFloat) / 255.0}});
  REQUIRE(both.size() == 3);
  CHECK(both[2].size() == alone[0].size());
  CHECK((both[2].boxes[0] - alone[0].boxes[0]).abs().max().item<double>() < 1.0);
  CHECK(copy.predict(Batch{{picture.narrow(1, 0, 1)}}).size() == 1);
}

TEST_CASE("Hard negatives are wrong answers, and training with them leaves fewer") {
  const Squares data;
  auto options = cut_options();
  options.background = 1;
  WindowData windows = WindowData::of(data, options);
  Toy model{classifier(), slide_options()};
  Trainer trainer{model.classifier(), {.epochs = 20, .batch = 64, .optimizer = Adam{.lr = 0.05}}};
  trainer.fit(windows, windows);
  const Index before = windows.size(), added = mine_hard_negatives(model, windows, data);
  CHECK(added > 12);
  CHECK(windows.size() == before + added);
  for (Index i = before; i < windows.size(); ++i) {
    const CutWindow& w = windows.windows()[static_cast<std::size_t>(i)];
    CHECK(w.label == 2);
    const std::array<Index, 1> ids{w.picture};
    CHECK(tl::detail::worst_overlap(w.box, windows.objects_of(data, data.batch(ids), ids)[0], 1.25) < 0.3);
  }
  trainer.fit(windows, windows);
  WindowData again = windows;
  CHECK(mine_hard_negatives(model, again, data) < added * 3 / 4);
  CHECK_THROWS_AS(mine_hard_negatives(model, again, data, {.per_picture = 0}), OptionError);
  CHECK_THROWS_AS(fit_windows(model, trainer, windows, windows, data, {.rounds = -1}), OptionError);
}

TEST_CASE("Without padding both ways say the same of every window, in tiles too, and memory is bounded") {
  const Batch batch{{at::empty({1, 3, 120, 200}, at::kFloat).uniform_(0.0, 1.0, tl::detail::generator(4, 5, 6))}};
  Toy model = clone(trained());
  const auto all = [&](WindowMode mode, Index tile) {
    auto o = slide_options(mode);
    o.threshold = 0.0;
    o.candidates = 1000000;
    o.tile = tile;
    o.batch = 32;
    model.set_options(o);
    Patches::largest = 0;
    return model.answers(batch)[0];
  };
  const auto exact = all(WindowMode::exact, 0 + 1024);
  CHECK(exact.windows.size(0) == 2 * model.count({200, 120}));
  CHECK(Patches::largest <= 32 * std::max<Index>(3 * 16 * 16, 12 * 4 * 4));
  const auto sorted = [](const WindowAnswers& a) {
    // By class and place, as scores that are nearly equal change places.
    const Tensor key =
        a.found.labels.to(at::kDouble) * 1e10 + (a.windows.select(1, 0).to(at::kDouble) * 64).round() * 1e5 +
        (a.windows.select(1, 1).to(at::kDouble) * 8).round() + a.windows.select(1, 2).to(at::kDouble) * 1e-3;
    const Tensor order = key.argsort();
    return std::array<Tensor, 3>{a.windows.index_select(0, order), a.found.scores.index_select(0, order),
                                 a.found.boxes.index_select(0, order)};
  };
  const auto wanted = sorted(exact);
  for (const Index tile : {1, 40, 4096}) {
    const auto dense = sorted(all(WindowMode::dense, tile));
    INFO("tile " << tile);
    REQUIRE(dense[0].sizes() == wanted[0].sizes());
    CHECK((dense[0] - wanted[0]).abs().max().item<double>() < 1e-3);
    CHECK((dense[1] - wanted[1]).abs().max().item<double>() < 1e-4);
    CHECK((dense[2] - wanted[2]).abs().max().item<double>() < 1e-2);
    if (tile <= 40) CHECK(Patches::largest <= 3 * std::max<Index>(tile, 16) * std::max<Index>(tile, 16));
  }
  // 12 megapixels.
  auto options = slide_options(WindowMode::dense);
  options.stride = 16, options.smallest = 0, options.largest = 0, options.tile = 512;
  model.set_options(options);
  Patches::largest = 0;
  const Batch large{{at::zeros({1, 3, 3000, 4000}, at::kByte)}};
  CHECK(model.predict(large).size() == 1);
  CHECK(Patches::largest <= 3 * 512 * 512);
  options.most_windows = 100000;
  model.set_options(options);
  CHECK_THAT(sentence_of<DataError>([&] { model.predict(large); }), ContainsSubstring("most_windows is 100000"));
}

TEST_CASE("Pictures of any form are looked at, or refused in a sentence") {
  Toy model = clone(trained());
  for (const WindowMode mode : {WindowMode::exact, WindowMode::dense}) {
    model.set_options(slide_options(mode));
    for (const auto& [height, width] :
         std::vector<std::pair<Index, Index>>{{1, 1}, {1, 40}, {30, 1200}, {1200, 30}, {16, 16}}) {
      INFO(height << " x " << width);
      const auto found = model.predict(Batch{{at::zeros({1, 3, height, width}, at::kByte)}});
      REQUIRE(found.size() == 1);
      CHECK(found[0].boxes.isfinite().all().item<bool>());
    }
    CHECK(model.predict(Batch{}).empty());
  }
  CHECK_THAT(sentence_of<DataError>([&] {
               model.predict(Batch{{at::zeros({1, 4, 40, 40}, at::kByte)}});
             }),
             ContainsSubstring("4 channels"));
  CHECK_THAT(sentence_of<DataError>([&] {
               model.predict(Batch{{at::full({1, 3, 40, 40}, NAN)}});
             }),
             ContainsSubstring("nan"));
  CHECK_THAT(sentence_of<DataError>([&] {
               model.predict(Batch{{at::zeros({1, 3, 1, 900000}, at::kByte)}});
             }),
             ContainsSubstring("most_windows"));
}

TEST_CASE("A sliding window in a file is the same one, and its classifier's file too") {
  const Folder folder;
  const Batch batch = Squares{3, 5}.batch(first_ids(3));
  Toy model = clone(trained());
  for (const Merge& merge :
       std::vector<Merge>{GreedyMerge{0.4}, SoftNmsOptions{.decay = SoftNmsOptions::Decay::linear, .threshold = 0.2},
                          FusionOptions{.score = FusionOptions::Score::highest}}) {
    auto options = slide_options(WindowMode::dense);
    options.merge = merge, options.threshold = 0.07;
    model.set_options(options);
    save(model, folder / "window.safetensors");
    const Toy read = load_window(load<Patches, Linear>(folder / "window.safetensors"), folder / "window.safetensors");
    CHECK(read.labels() == model.labels());
    CHECK(read.options().mode == WindowMode::dense);
    const auto a = model.predict(batch), b = read.predict(batch);
    for (std::size_t i = 0; i < a.size(); ++i) {
      REQUIRE(a[i].size() == b[i].size());
      CHECK((a[i].boxes - b[i].boxes).abs().max().item<double>() < 1e-2);
      CHECK((a[i].scores - b[i].scores).abs().max().item<double>() < 1e-4);
    }
  }
  save(model.classifier(), folder / "plain.safetensors");
  CHECK_THAT(sentence_of<WeightsError>([&] {
               load_window(load<Patches, Linear>(folder / "plain.safetensors"), folder / "plain.safetensors");
             }),
             ContainsSubstring("no sliding window"));
}

TEST_CASE("What a classifier can't do is told in a sentence") {
  const auto refused = [](auto model) {
    return sentence_of<OptionError>([&] { SlidingWindow{std::move(model), {.stride = 8, .mode = WindowMode::dense}}; });
  };
  Classifier squeezes{lively<SqueezeNet>(32), FreezePolicy<FreezeAll>{}, Head<Linear>{}, {"a", "background"}};
  CHECK_THAT(refused(clone(squeezes)), ContainsSubstring("block.squeeze looks at all places"));
  SlidingWindow exact{squeezes, {.stride = 8}};
  CHECK(exact.predict(Batch{{at::zeros({1, 3, 40, 50}, at::kByte)}}).size() == 1);
  auto cuts = classifier();
  cuts.backbone_core().preprocessing.crop_fraction = 0.9;
  CHECK_THAT(refused(std::move(cuts)), ContainsSubstring("crop_fraction"));
  Toy model = clone(trained());
  const auto changed = [&](auto change) {
    return sentence_of<OptionError>([&] {
      WindowOptions o = slide_options();
      change(o);
      model.set_options(o);
    });
  };
  CHECK_THAT(changed([](auto& o) { o.mode = WindowMode::dense, o.stride = 4; }), ContainsSubstring("a multiple of 8"));
  CHECK_THAT(changed([](auto& o) { o.threshold = 2.0; }), ContainsSubstring("threshold"));
  CHECK_THAT(changed([](auto& o) { o.margin = 0.0; }), ContainsSubstring("margin"));
  CHECK_THAT(changed([](auto& o) { o.batch = 0; }), ContainsSubstring("at least 1"));
  CHECK_THAT(changed([](auto& o) { o.stride = 0; }), ContainsSubstring("stride"));
  CHECK_THROWS_AS(model.set_offsets(at::zeros({4, 3}), at::zeros({4})), OptionError);
  CHECK_THROWS_AS(model.fit_boxes(WindowData::of(Squares{1}, cut_options()), 0.0), OptionError);
  // Without a background every window is an object of some class.
  const Toy open{classifier({"blue", "red", "none"}), slide_options()};
  CHECK(open.labels().size() == 3);
}

TEST_CASE("A head learns from the windows where the network slides, in one call") {
  const Squares data{40}, unseen{12, 77};
  const FitDense options{.positive = 0.5, .views = 8, .background = 20};
  for (const WindowMode mode : {WindowMode::dense, WindowMode::exact}) {
    Toy model{classifier({"background", "blue", "red"}), slide_options(mode)};
    const auto before = snapshot(*model.backbone_core().network);
    const DenseFit fit = fit_dense(model, data, options);
    INFO("dense " << (mode == WindowMode::dense) << ", hard " << fit.hard << ", loss " << fit.probe.loss);
    CHECK(same_bytes(before, snapshot(*model.backbone_core().network)));
    REQUIRE(fit.windows.size() == 3);
    // Each object has a window at least, and no more than was said.
    for (const std::size_t c : {1, 2}) {
      CHECK(fit.windows[c] >= 40);
      CHECK(fit.windows[c] <= 8 * 40);
    }
    CHECK(std::abs(static_cast<double>(fit.windows[0] - fit.hard) - 20.0 * 40.0) < 4.0 * std::sqrt(20.0 * 40.0));
    CHECK(fit.hard <= 20 * 40);
    CHECK(ap50(model, unseen) > 0.75);
    CHECK(model.offsets().first.defined());
    // The same again; and without padding what was learnt one way holds the other way.
    Toy again{classifier({"background", "blue", "red"}), slide_options(mode)};
    fit_dense(again, data, options);
    CHECK(again.classifier().head().first().weight.equal(model.classifier().head().first().weight));
    model.set_options(slide_options(mode == WindowMode::dense ? WindowMode::exact : WindowMode::dense));
    CHECK(ap50(model, unseen) > 0.75);
  }
  // Twice as many windows of the mirrored pictures, where the squares lie at the other places.
  Toy mirrored{classifier(), slide_options(WindowMode::dense)};
  auto both = options;
  both.mirrored = true, both.rounds = 0, both.boxes = false;
  const auto fit = fit_dense(mirrored, data, both);
  CHECK(fit.hard == 0);
  CHECK(fit.windows[0] >= 80);
  CHECK_FALSE(mirrored.offsets().first.defined());
  CHECK(ap50(mirrored, unseen) > 0.5);

  const auto sentence = [&](const Labels& labels, const WindowOptions& slide, const FitDense& wrong) {
    Toy model{classifier(labels), slide};
    return sentence_of<Error>([&] { fit_dense(model, data, wrong); });
  };
  const Labels good{"blue", "red", "background"};
  CHECK_THAT(sentence({"blue", "red"}, slide_options(), options), ContainsSubstring("has no \"background\""));
  CHECK_THAT(sentence({"green", "background"}, slide_options(), options), ContainsSubstring("no class \"green\""));
  CHECK_THAT(sentence(good, slide_options(), {.positive = 0.2}), ContainsSubstring("background below 0.3"));
  CHECK_THAT(sentence(good, slide_options(), {.views = 0}), ContainsSubstring("views"));
  auto large = slide_options();
  large.smallest = 38;
  CHECK_THAT(sentence(good, large, {.positive = 0.9}), ContainsSubstring("no window shows blue"));
}

}  // namespace
}  // namespace transferlib

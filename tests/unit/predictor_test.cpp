// links: predictor
// What an application has: a framework's macros, and the predictor's header before anything else.
#define slots
#define signals public
#define emit
#define foreach for
#include <transferlib/predictor.hpp>
#undef slots
#undef signals
#undef emit
#undef foreach

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <unistd.h>

#include <ATen/Context.h>

#include <transferlib/data/pictures.hpp>
#include <transferlib/data/preprocess.hpp>
#include <transferlib/detector_zoo.hpp>
#include <transferlib/formats/checkpoint.hpp>
#include <transferlib/formats/safetensors.hpp>
#include <transferlib/nn/modules.hpp>
#include <transferlib/zoo.hpp>

// LibTorch's logging has a macro of this name, which ends the program where Catch2's counts a failure.
#undef CHECK
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

namespace {

namespace tl = transferlib;
namespace fs = std::filesystem;
using Catch::Matchers::ContainsSubstring;
using Catch::Matchers::MessageMatches;
using tl::Index;
using tl::Pixels;

/// A picture of 41 x 23 pixels whose channels differ, and whose halves differ.
struct Scene {
  static constexpr Index width = 41, height = 23;

  static std::uint8_t value(Index y, Index x, Index c) {
    return static_cast<std::uint8_t>((y * (c == 0 ? 11 : 3) + x * (c == 1 ? 5 : 2) + c * 60) % 256);
  }
  /// Its bytes: `order` tells which channel each byte of a pixel holds, -1 a byte of no meaning; rows begin `stride`
  /// bytes apart, and what lies between them has no meaning either.
  static std::vector<std::uint8_t> bytes(const std::vector<int>& order, Index stride, bool bottom_up = false) {
    std::vector<std::uint8_t> out(static_cast<std::size_t>(stride * height));
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = static_cast<std::uint8_t>(i * 37 % 251);
    for (Index y = 0; y < height; ++y) {
      std::uint8_t* p = out.data() + (bottom_up ? height - 1 - y : y) * stride;
      for (Index x = 0; x < width; ++x)
        for (int c : order) {
          if (c >= 0) *p = value(y, x, c);
          ++p;
        }
    }
    return out;
  }
};

/// Models on the disk, made once, with random weights: what they say means nothing, but different pictures give
/// different answers, and the same ones the same.
class Models {
 public:
  static const Models& get() {
    static const Models models;
    return models;
  }

  tl::Labels labels{"ant", "bee", "cat", "dog", "eel", "fox", "gnu"};
  fs::path folder, classes, several, values;

  /// The model of `classes`, as a program with LibTorch has it.
  template <class Target = tl::ClassIndex>
  tl::AnyClassifier<Target> make() const {
    tl::AnyClassifier<Target> model(tl::zoo_entry("efficientnet_lite0").random({.size = 32}, 7),
                                    tl::FreezePolicy<tl::FreezeNone>{}, tl::any_head<Target>("mlp:16", 0.0, 3), labels);
    const torch::NoGradGuard guard;
    // As they are drawn the layers let a picture's signal die; one pass with all momentum gives each its right scale.
    for (const auto& module : model.backbone_core().graph.modules)
      if (auto* norm = dynamic_cast<tl::nn::BatchNorm2d*>(module.get())) norm->momentum = 1.0;
    tl::Tensor pictures = at::empty({16, 3, 32, 32}, at::kByte);
    auto* p = pictures.mutable_data_ptr<std::uint8_t>();
    for (Index n = 0; n < 16; ++n)
      for (Index c = 0; c < 3; ++c)
        for (Index y = 0; y < 32; ++y)
          for (Index x = 0; x < 32; ++x) *p++ = Scene::value(y + 5 * n, x * (1 + n % 3), (c + n) % 3);
    model.forward(tl::preprocess({{pictures}, {}, {}}, model.preprocessing()), {.training = true});
    return model;
  }

 private:
  Models() : folder(fs::temp_directory_path() / tl::detail::text("transferlib-predictor-", Index{::getpid()})) {
    fs::create_directories(folder);
    classes = folder / "classes.safetensors";
    several = folder / "several.safetensors";
    values = folder / "values.safetensors";
    tl::save(make(), classes);
    tl::save(make<tl::MultiLabel>(), several);
    tl::save(make<tl::Values>(), values);
  }
  ~Models() {
    std::error_code ignored;
    fs::remove_all(folder, ignored);
  }
};

std::vector<float> confidences(const tl::Predictor& predictor, const std::vector<int>& order, Pixels format,
                               Index gap = 0) {
  const Index stride = Scene::width * static_cast<Index>(order.size()) + gap;
  const auto bytes = Scene::bytes(order, stride);
  return predictor({.data = bytes.data(),
                    .width = Scene::width,
                    .height = Scene::height,
                    .stride = gap == 0 ? 0 : stride,
                    .format = format})
      .confidences;
}

const std::vector<int> rgb{0, 1, 2};

/// `classes` with its metadata changed, under another name.
fs::path changed(const std::string& name, const std::string& key, const std::string& value) {
  const tl::Checkpoint file = tl::open_checkpoint(Models::get().classes);
  auto metadata = file.metadata;
  metadata.at(key) = value;
  const fs::path out = Models::get().folder / name;
  tl::write_safetensors(out, file.tensors, metadata);
  return out;
}

fs::path picture(const std::string& name) {
  return fs::path(__FILE__).parent_path().parent_path() / "data" / "pictures" / name;
}

}  // namespace

TEST_CASE("a predictor says what the model says", "[predictor]") {
  const Models& models = Models::get();
  const auto predictor = tl::Predictor::open(models.classes, {.precision = tl::PredictorPrecision::fp32});
  const auto bytes = Scene::bytes(rgb, Scene::width * 3);
  const auto answer = predictor({.data = bytes.data(), .width = Scene::width, .height = Scene::height});

  tl::Tensor pixels = at::empty({1, Scene::height, Scene::width, 3}, at::kByte);
  std::copy(bytes.begin(), bytes.end(), pixels.mutable_data_ptr<std::uint8_t>());
  const auto expected = models.make().predict({{pixels.permute({0, 3, 1, 2})}, {}, {}}, tl::Precision::fp32);
  REQUIRE(answer.confidences.size() == 7);
  for (std::size_t i = 0; i < 7; ++i)
    CHECK(std::abs(answer.confidences[i] - expected[0][static_cast<Index>(i)].item<float>()) < 1e-5F);
  const float sum = std::accumulate(answer.confidences.begin(), answer.confidences.end(), 0.0F);
  CHECK(std::abs(sum - 1.0F) < 1e-5F);

  REQUIRE(answer.best.size() == 5);
  for (std::size_t k = 0; k < 5; ++k) {
    const auto& guess = answer.best[k];
    CHECK(guess.label == models.labels[static_cast<std::size_t>(guess.index)]);
    CHECK(guess.confidence == answer.confidences[static_cast<std::size_t>(guess.index)]);
    if (k > 0) CHECK(guess.confidence <= answer.best[k - 1].confidence);
  }
  CHECK(answer.best[0].confidence == *std::max_element(answer.confidences.begin(), answer.confidences.end()));

  CHECK(predictor.labels() == models.labels);
  CHECK(predictor.about().path == models.classes.string());
  CHECK(predictor.about().backbone == "efficientnet_lite0");
  CHECK(predictor.about().head == "mlp:16");
  CHECK(predictor.about().target == "class_index");
  CHECK(predictor.about().weights.empty());
  CHECK(predictor.about().licence.empty());
  CHECK(predictor.about().size == 32);
  CHECK(predictor.about().channels == 3);
}

TEST_CASE("the same picture in every format gives the same answer", "[predictor]") {
  const auto predictor = tl::Predictor::open(Models::get().classes);
  const auto expected = confidences(predictor, rgb, Pixels::rgb8);
  for (Index gap : {0, 1, 7, 64}) {
    CAPTURE(gap);
    CHECK(confidences(predictor, {0, 1, 2}, Pixels::rgb8, gap) == expected);
    CHECK(confidences(predictor, {2, 1, 0}, Pixels::bgr8, gap) == expected);
    CHECK(confidences(predictor, {0, 1, 2, -1}, Pixels::rgba8, gap) == expected);
    CHECK(confidences(predictor, {2, 1, 0, -1}, Pixels::bgra8, gap) == expected);
    CHECK(confidences(predictor, {1}, Pixels::grey8, gap) == confidences(predictor, {1, 1, 1}, Pixels::rgb8));
  }
  // The order of the channels is not passed over, nor are the pixels.
  CHECK(confidences(predictor, {2, 1, 0}, Pixels::rgb8) != expected);
  CHECK(confidences(predictor, {1}, Pixels::grey8) != confidences(predictor, {0}, Pixels::grey8));
}

TEST_CASE("rows may be stored from the bottom up", "[predictor]") {
  const auto predictor = tl::Predictor::open(Models::get().classes);
  constexpr Index stride = Scene::width * 3 + 5;
  const auto bytes = Scene::bytes(rgb, stride, true);
  tl::PixelView view{.data = bytes.data() + (Scene::height - 1) * stride,
                     .width = Scene::width,
                     .height = Scene::height,
                     .stride = -stride};
  const auto expected = confidences(predictor, rgb, Pixels::rgb8);
  CHECK(predictor(view).confidences == expected);
  view.data = bytes.data();
  view.stride = stride;
  CHECK(predictor(view).confidences != expected);
}

TEST_CASE("picture files", "[predictor]") {
  const auto predictor = tl::Predictor::open(Models::get().classes);
  for (const char* name : {"rgb.png", "rgb_422.jpg", "exif_6.jpg", "grey.png"}) {
    CAPTURE(name);
    const tl::Picture read = tl::read_picture(picture(name));
    const auto answer = predictor(picture(name));
    CHECK(answer.confidences == predictor({.data = read.pixels.data(),
                                           .width = read.width,
                                           .height = read.height,
                                           .format = read.channels == 1 ? Pixels::grey8 : Pixels::rgb8})
                                    .confidences);
  }
  CHECK_THROWS_MATCHES(predictor("no-such-picture.png"), tl::FileError,
                       MessageMatches(ContainsSubstring("no-such-picture.png")));
  CHECK_THROWS_MATCHES(predictor(Models::get().classes), tl::FormatError,
                       MessageMatches(ContainsSubstring("classes.safetensors")));
}

TEST_CASE("many threads ask one predictor", "[predictor]") {
  for (const auto precision : {tl::PredictorPrecision::automatic, tl::PredictorPrecision::fp32}) {
    std::optional<const tl::Predictor> first(tl::Predictor::open(Models::get().classes, {.precision = precision}));
    const tl::Predictor predictor = *first;
    first.reset();  // a copy needs nobody
    const std::vector<std::vector<int>> orders{{0, 1, 2}, {2, 1, 0}, {1, 0, 2}, {0, 0, 1}};
    // The answers of threads that come first of all; those of one thread after them must be the same.
    std::vector<std::vector<float>> answers(8 * orders.size());
    std::vector<std::thread> threads;
    for (std::size_t t = 0; t < 8; ++t)
      threads.emplace_back([&, t] {
        for (std::size_t i = 0; i < orders.size(); ++i) {
          const std::size_t k = (i + t) % orders.size();
          answers[t * orders.size() + k] = confidences(predictor, orders[k], Pixels::rgb8);
        }
      });
    for (std::thread& t : threads) t.join();
    for (std::size_t k = 0; k < orders.size(); ++k) {
      const auto expected = confidences(predictor, orders[k], Pixels::rgb8);
      for (std::size_t t = 0; t < 8; ++t) CHECK(answers[t * orders.size() + k] == expected);
    }
  }
}

TEST_CASE("several labels a picture, and numbers", "[predictor]") {
  const Models& models = Models::get();
  const auto several = tl::Predictor::open(models.several, {.precision = tl::PredictorPrecision::fp32});
  const auto values = tl::Predictor::open(models.values, {.precision = tl::PredictorPrecision::fp32});
  CHECK(several.about().target == "multi_label");
  CHECK(values.about().target == "values");
  const auto p = confidences(several, rgb, Pixels::rgb8), v = confidences(values, rgb, Pixels::rgb8);
  // The three models have the same weights: what the numbers become is all that differs.
  for (std::size_t i = 0; i < 7; ++i) CHECK(std::abs(p[i] - 1.0F / (1.0F + std::exp(-v[i]))) < 1e-5F);
  const auto c =
      confidences(tl::Predictor::open(models.classes, {.precision = tl::PredictorPrecision::fp32}), rgb, Pixels::rgb8);
  float sum = 0.0F;
  for (float x : v) sum += std::exp(x);
  for (std::size_t i = 0; i < 7; ++i) CHECK(std::abs(c[i] - std::exp(v[i]) / sum) < 1e-5F);
}

TEST_CASE("how many labels, and in which order where they are equal", "[predictor]") {
  const Models& models = Models::get();
  auto model = models.make();
  {
    const torch::NoGradGuard guard;
    for (auto& p : model.head().pointer()->parameters()) p.zero_();
  }
  const fs::path path = models.folder / "equal.safetensors";
  tl::save(model, path);
  const auto bytes = Scene::bytes(rgb, Scene::width * 3);
  const tl::PixelView view{.data = bytes.data(), .width = Scene::width, .height = Scene::height};
  for (Index best : {1, 2, 7, 100}) {
    const auto answer = tl::Predictor::open(path, {.best = best})(view);
    REQUIRE(static_cast<Index>(answer.best.size()) == std::min<Index>(best, 7));
    for (std::size_t k = 0; k < answer.best.size(); ++k) CHECK(answer.best[k].index == static_cast<Index>(k));
  }
}

/// A detector with random weights, which finds something in any picture.
static tl::AnyDetector detector() {
  tl::YoloOptions options = tl::yolo_v3();
  options.anchors = {{{12, 10}, {20, 24}}};
  options.selection.score_threshold = 0.0;
  options.selection.most = 20;
  tl::AnyDetector out(tl::zoo_entry("squeezenet1_1").random({.size = 64}, 3), tl::FreezePolicy<tl::FreezeNone>{},
                      tl::any_neck("none"), tl::any_head(tl::Head<tl::Yolo>{options}), {"cup", "mug", "jug"});
  const torch::NoGradGuard guard;
  for (auto& p : out.head().pointer()->parameters())
    if (p.dim() == 1) p.copy_(at::linspace(-2.0, 2.0, p.numel()));
  return out;
}

/// That a predictor finds in pictures, of all shapes of memory and from several threads, what the model does.
template <class M>
static void same_objects(const M& model, const fs::path& path, double threshold) {
  const auto predictor = tl::Predictor::open(path, {.threshold = threshold, .precision = tl::PredictorPrecision::fp32});
  CHECK(predictor.about().target == "boxes");
  CHECK(predictor.labels() == model.labels());
  const auto bytes = Scene::bytes(rgb, Scene::width * 3 + 4);
  const tl::PixelView view{
      .data = bytes.data(), .width = Scene::width, .height = Scene::height, .stride = Scene::width * 3 + 4};
  tl::Tensor pixels = at::empty({1, Scene::height, Scene::width, 3}, at::kByte);
  const auto plain = Scene::bytes(rgb, Scene::width * 3);
  std::copy(plain.begin(), plain.end(), pixels.mutable_data_ptr<std::uint8_t>());
  const auto expected =
      tl::surer_than(model.predict({{pixels.permute({0, 3, 1, 2})}, {}, {}}, tl::Precision::fp32)[0], threshold);
  REQUIRE(expected.size() > 0);

  std::vector<tl::Predictor::Answer> answers(6);
  std::vector<std::thread> threads;
  for (auto& answer : answers) threads.emplace_back([&answer, &predictor, &view] { answer = predictor(view); });
  for (std::thread& t : threads) t.join();
  for (const auto& answer : answers) {
    CHECK(answer.best.empty());
    CHECK(answer.confidences.empty());
    REQUIRE(static_cast<Index>(answer.objects.size()) == expected.size());
    for (Index i = 0; i < expected.size(); ++i) {
      const auto& object = answer.objects[static_cast<std::size_t>(i)];
      const tl::Tensor box = expected.boxes[i];
      CHECK(object.index == expected.labels[i].template item<Index>());
      CHECK(object.label == model.labels()[static_cast<std::size_t>(object.index)]);
      CHECK(std::abs(object.confidence - expected.scores[i].template item<float>()) < 1e-5F);
      CHECK(object.confidence >= static_cast<float>(threshold));
      CHECK(object.confidence <= 1.0F);
      const float wanted[] = {box[0].template item<float>(), box[1].template item<float>(),
                              (box[2] - box[0]).template item<float>(), (box[3] - box[1]).template item<float>()};
      const float found[] = {object.box.left, object.box.top, object.box.width, object.box.height};
      for (int k = 0; k < 4; ++k) CHECK(std::abs(found[k] - wanted[k]) < 1e-3F * (1.0F + std::abs(wanted[k])));
      if (i > 0) CHECK(object.confidence <= answer.objects[static_cast<std::size_t>(i - 1)].confidence);
    }
  }
}

TEST_CASE("detectors say where things are", "[predictor]") {
  const Models& models = Models::get();
  auto model = detector();
  const fs::path path = models.folder / "detector.safetensors";
  tl::save(model, path);
  same_objects(model, path, 0.0);
  // A threshold leaves some out.
  const tl::Predictor all = tl::Predictor::open(path, {.threshold = 0.0});
  const auto objects = all(picture("rgb.png")).objects;
  REQUIRE(objects.size() > 2);
  REQUIRE(objects.front().confidence > objects.back().confidence);
  const double between = 0.5 * (objects.front().confidence + objects.back().confidence);
  const auto few = tl::Predictor::open(path, {.threshold = between})(picture("rgb.png")).objects;
  CHECK(!few.empty());
  CHECK(few.size() < objects.size());
  CHECK(all.about().head == "yolo");
  CHECK(all.about().backbone == "squeezenet1_1");
  for (const double t : {-0.1, 1.1, std::numeric_limits<double>::quiet_NaN()})
    CHECK_THROWS_MATCHES(tl::Predictor::open(path, {.threshold = t}), tl::OptionError,
                         MessageMatches(ContainsSubstring("the threshold must be from 0 to 1")));

  // One whose training went wrong would find nothing, and is refused.
  {
    const torch::NoGradGuard guard;
    model.head().pointer()->parameters()[0][0].fill_(std::numeric_limits<double>::quiet_NaN());
  }
  tl::save(model, models.folder / "no_numbers.safetensors");
  CHECK_THROWS_MATCHES(
      tl::Predictor::open(models.folder / "no_numbers.safetensors"), tl::WeightsError,
      MessageMatches(ContainsSubstring("head.0.weight") && ContainsSubstring("numbers that are none")));
}

TEST_CASE("detectors of two stages do too", "[predictor]") {
  const fs::path path = Models::get().folder / "two_stages.safetensors";
  const tl::AnyTwoStage model(tl::zoo_entry("squeezenet1_1").random({.size = 64}, 3),
                              tl::FreezePolicy<tl::FreezeNone>{}, tl::Neck<tl::FeaturePyramid>{{.channels = 16}},
                              tl::Head<tl::RegionProposal>{{.seed = 1}}, tl::Head<tl::RoI>{{.samples = 64, .seed = 2}},
                              {"cup", "mug"});
  tl::save(model, path);
  same_objects(model, path, 0.06);
}

TEST_CASE("a sliding window answers with objects, and without its background", "[predictor]") {
  const fs::path path = Models::get().folder / "window.safetensors";
  const tl::AnySlidingWindow model(
      tl::AnyClassifier<>(tl::zoo_entry("squeezenet1_1").random({.size = 64}, 3), tl::FreezePolicy<tl::FreezeNone>{},
                          tl::any_head("linear", 0.0, 1), {"cup", "mug", "background"}),
      {.window = 16, .stride = 8, .threshold = 0.0});
  REQUIRE(model.labels() == tl::Labels{"cup", "mug"});
  tl::save(model, path);
  same_objects(model, path, 0.3);
}

TEST_CASE("views that can't be pictures are refused", "[predictor]") {
  const auto predictor = tl::Predictor::open(Models::get().classes);
  const std::vector<std::uint8_t> bytes(1000);
  const auto refused = [&](const tl::PixelView& view, const char* sentence) {
    CHECK_THROWS_MATCHES(predictor(view), tl::DataError, MessageMatches(ContainsSubstring(sentence)));
  };
  refused({.width = 2, .height = 2}, "null pointer");
  refused({.data = bytes.data(), .width = 0, .height = 2}, "0 x 2 pixels");
  refused({.data = bytes.data(), .width = 2, .height = -1}, "2 x -1 pixels");
  refused({.data = bytes.data(), .width = std::numeric_limits<Index>::max(), .height = 1}, "each side must lie");
  refused({.data = bytes.data(), .width = 10, .height = 2, .stride = 29},
          "the stride of 29 bytes is shorter than a row, which has 10 pixels of 3 bytes, 30 in all");
  refused({.data = bytes.data(), .width = 10, .height = 2, .stride = -39, .format = Pixels::bgra8},
          "the stride of -39 bytes");
  refused({.data = bytes.data(), .width = 10, .height = 2, .stride = 10, .format = Pixels::bgr8}, "counted in bytes");
  CHECK_THROWS_MATCHES(predictor({.data = bytes.data(), .width = 2, .height = 2, .format = static_cast<Pixels>(9)}),
                       tl::OptionError, MessageMatches(ContainsSubstring("no pixel format 9")));
  // The least picture, and a row that ends with the memory.
  CHECK(predictor({.data = bytes.data(), .width = 1, .height = 1}).best.size() == 5);
  CHECK(
      predictor({.data = bytes.data(), .width = 10, .height = 2, .stride = 990, .format = Pixels::grey8}).best.size() ==
      5);
}

/// That opening the file fails with this kind of error and sentence.
template <class E>
static void refused(const fs::path& path, const char* sentence) {
  CHECK_THROWS_MATCHES(tl::Predictor::open(path), E, MessageMatches(ContainsSubstring(sentence)));
}

TEST_CASE("files that are no models are refused", "[predictor]") {
  const Models& models = Models::get();
  refused<tl::FileError>(models.folder / "absent.safetensors", "absent.safetensors");
  refused<tl::FormatError>(picture("rgb.png"), "rgb.png");

  const tl::Checkpoint file = tl::open_checkpoint(models.classes);
  const fs::path bare = models.folder / "bare.safetensors";
  tl::write_safetensors(bare, file.tensors, {});
  refused<tl::WeightsError>(bare, "is no model that transferlib saved");
  refused<tl::WeightsError>(changed("custom.safetensors", "backbone", "custom"), "a network of its program's own");
  refused<tl::WeightsError>(changed("head.safetensors", "head", "custom"), "a head of its program's own");
  refused<tl::WeightsError>(changed("boxes.safetensors", "target", "boxes"), "is no detector that transferlib saved");
  refused<tl::WeightsError>(changed("format.safetensors", "transferlib.format", "2"), "use a newer transferlib");
  refused<tl::WeightsError>(changed("labels.safetensors", "labels", "[\"ant\",\"bee\"]"), "labels.safetensors");
  refused<tl::WeightsError>(changed("other.safetensors", "backbone", "efficientnet_lite4"), "other.safetensors");
  refused<tl::OptionError>(changed("unknown.safetensors", "backbone", "resnet900"), "resnet900");

  // A model whose training went wrong says so when it is asked.
  auto model = models.make();
  {
    const torch::NoGradGuard guard;
    model.head().pointer()->parameters()[0].fill_(std::numeric_limits<double>::quiet_NaN());
  }
  const fs::path broken = models.folder / "broken.safetensors";
  tl::save(model, broken);
  const auto predictor = tl::Predictor::open(broken);
  CHECK_THROWS_MATCHES(confidences(predictor, rgb, Pixels::rgb8), tl::WeightsError,
                       MessageMatches(ContainsSubstring("numbers that are none")));
}

TEST_CASE("options that can't be meant are refused", "[predictor]") {
  const fs::path& path = Models::get().classes;
  CHECK_THROWS_MATCHES(tl::Predictor::open(path, {.best = 0}), tl::OptionError,
                       MessageMatches(ContainsSubstring("not 0")));
  CHECK_THROWS_MATCHES(tl::Predictor::open(path, {.threads = -1}), tl::OptionError,
                       MessageMatches(ContainsSubstring("not -1")));
  for (const char* device : {"tpu", "", "cuda:x", "mps"})
    CHECK_THROWS_MATCHES(tl::Predictor::open(path, {.device = device}), tl::OptionError,
                         MessageMatches(ContainsSubstring("cpu, cuda or cuda:NUMBER")));
  if (!at::hasCUDA())
    CHECK_THROWS_MATCHES(tl::Predictor::open(path, {.device = "cuda"}), tl::DeviceError,
                         MessageMatches(ContainsSubstring("CUDA")));
}

/// \file
/// Trains a detector on pictures with boxes: `detect_train --data DIR --format voc --cfg C --weights W`. What it isn't
/// told it chooses, and says so.
#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <transferlib/data/box_transforms.hpp>
#include <transferlib/data/transforms.hpp>
#include <transferlib/detect/anchors.hpp>
#include <transferlib/detector_zoo.hpp>
#include <transferlib/model/more_classes.hpp>
#include <transferlib/report/console.hpp>
#include <transferlib/report/run_folder.hpp>
#include <transferlib/train/trainer.hpp>

#include "arguments.hpp"
#include "detectors.hpp"
#include "recipe.hpp"
#include "shared.hpp"
#include "sliding.hpp"

namespace tl = transferlib;
using tools::say;
using tools::text;

namespace {

struct Told : tools::Recipe {
  std::string family = "yolo", data, format = "voc", train, val, cfg, weights, backbone, neck = "c3_path_aggregation",
              head = "yolo_v5", fit, augment, licence, multi_scale, classes, add_to;
  tl::Index anchors = 3, levels = 3;
  double width = 0.25, minutes = 0.0;
  bool random = false, dropout = false, up_down = false;

  Told() {
    freeze = "none";
    optimizer = "adamw";
    schedule = "cosine";
    lr = 2e-3, weight_decay = 5e-4, warmup = 0.05, least = 0.02, ema = 0.998, clip_norm = 10.0;
    size = 320, batch = 8;
  }
  tools::Sliding sliding{};  ///< what only a sliding window is told

  bool two_stage() const { return family == "two-stage"; }
  bool slides() const { return family == "sliding"; }
  bool adds() const { return !add_to.empty(); }
};

/// "256:384": the sides of the pictures, every ten batches another one. \throws Usage
tl::MultiScale multi_scale_of(const Told& told) {
  if (told.multi_scale.empty()) return {};
  const auto [word, most] = tools::word_and_number("--multi-scale", told.multi_scale, 0.0);
  tl::Index least = 0;
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), least);
  const bool number = error == std::errc() && end == word.data() + word.size();
  if (!number || least < 32 || least % 32 != 0 || !(most >= static_cast<double>(least) && most <= 4096.0) ||
      std::fmod(most, 32.0) != 0.0)
    throw tools::Usage(
        text("--multi-scale is the least and the greatest side in pixels, multiples of 32 up to 4096, as ",
             "in 256:384, not \"", told.multi_scale, "\""));
  return {.least = least, .most = static_cast<tl::Index>(most)};
}

void check(const Told& told, const tools::Arguments& arguments) {
  const auto from = [&](std::string_view name, double value, double least, double most) {
    if (!(value >= least && value <= most))
      throw tools::Usage(text(name, " must be from ", least, " to ", most, ", not ", value));
  };
  if (!arguments.has("--data")) throw tools::Usage("--data DIR is wanted: pictures with boxes");
  tools::check(told, arguments);
  tools::check_word("--family", told.family, {"yolo", "two-stage", "sliding"});
  tools::check_word("--format", told.format, {"voc", "yolo", "coco"});
  if (told.family != "yolo")
    for (const char* name : {"--cfg", "--neck", "--head", "--anchors", "--levels", "--multi-scale"})
      if (arguments.has(name)) throw tools::Usage(text(name, " goes with --family yolo"));
  if (told.adds()) {
    if (told.family != "yolo") throw tools::Usage("--add-classes-to goes with --family yolo");
    // What the detector is made of stays as it is.
    for (const char* name : {"--cfg", "--weights", "--backbone", "--neck", "--width", "--levels", "--head", "--anchors",
                             "--random", "--dropout", "--licence", "--size", "--fit"})
      if (arguments.has(name))
        throw tools::Usage(text(name, " does not go with --add-classes-to: the model has its own"));
  }
  for (const char* name : {"--mode", "--learn", "--stride", "--smallest", "--rounds"})
    if (arguments.has(name) && !told.slides()) throw tools::Usage(text(name, " goes with --family sliding"));
  if (told.slides())
    for (const char* name : {"--freeze", "--fit", "--augment", "--minutes", "--optimizer", "--width", "--resume"})
      if (arguments.has(name)) throw tools::Usage(text(name, " does not go with --family sliding"));
  if (!told.adds() && told.cfg.empty() == told.backbone.empty())
    throw tools::Usage("either --cfg FILE or --backbone NAME");
  if (!told.cfg.empty() && (arguments.has("--neck") || arguments.has("--levels")))
    throw tools::Usage("a .cfg has its own neck; --neck and --levels go with --backbone");
  if (told.random && !told.weights.empty()) throw tools::Usage("--random and --weights contradict each other");
  if (!told.cfg.empty() && told.weights.empty() && !told.random)
    throw tools::Usage("--weights FILE goes with --cfg, or --random");
  if (told.dropout && told.cfg.empty()) throw tools::Usage("--dropout goes with --cfg");
  if (told.train.empty() != told.val.empty()) throw tools::Usage("--train and --val go together");
  multi_scale_of(told);
  if (!told.augment.empty()) tools::check_word("--augment", told.augment, {"none", "flip", "light", "mosaic"});
  if (!told.fit.empty()) tools::check_word("--fit", told.fit, {"stretch", "letterbox", "darknet"});
  tools::check_word("--head", told.head, {"yolo_v1", "yolo_v2", "yolo_v3", "yolo_v4", "yolo_v5", "yolo_v7", "yolox"});
  from("--size", static_cast<double>(told.size), 32, 4096);
  from("--batch", static_cast<double>(told.batch), 1, 4096);
  from("--anchors", static_cast<double>(told.anchors), 1, 16);
  from("--levels", static_cast<double>(told.levels), 1, 5);
  from("--minutes", told.minutes, 0.0, 1e6);
  from("--ema", told.ema, 0.0, 0.99999);
}

/// The head's recipe; that of an anchor-based YOLO with anchors found in the data.
tl::Head<tl::AnyHead<tl::Boxes>> head_of(const Told& told, const tl::Tensor& sizes, tl::Index levels) {
  tl::Json options = tl::Json::object();
  options["seed"] = told.seed;
  if (told.head == "yolo_v1" || told.head == "yolox") return tl::any_box_head(told.head, options);
  const tl::Index count = told.anchors * levels;
  tl::LevelAnchors anchors = tl::split_anchors(
      tl::evolve_anchors(sizes, tl::kmeans_anchors(sizes, count, told.seed), {.seed = told.seed}), levels);
  std::string words;
  for (const auto& level : anchors)
    for (const auto& a : level)
      words += text(words.empty() ? "" : ", ", std::lround(a.width), "x", std::lround(a.height));
  say("anchors", words, "found in the data; --anchors");
  options["anchors"] = tl::detail::value_to_json(anchors);
  options["balance"] = levels == 3   ? std::vector<double>{4.0, 1.0, 0.4}
                       : levels == 2 ? std::vector<double>{4.0, 1.0}
                                     : std::vector<double>(1, 1.0);
  options["grid_sensitivity"] = std::vector<double>(1, told.head == "yolo_v5" || told.head == "yolo_v7" ? 2.0 : 1.0);
  return tl::any_box_head(told.head, options);
}

tl::AnyBackbone backbone_of(const Told& told) {
  const bool is_cfg = !told.cfg.empty();
  tl::AnyBackbone backbone = [&]() -> tl::AnyBackbone {
    if (is_cfg) {
      const tl::DarknetOptions options{.size = told.size, .dropout = told.dropout, .seed = told.seed};
      return told.random ? tl::darknet_pyramid(told.cfg, options)
                         : tl::darknet_pyramid(told.cfg, told.weights, options);
    }
    const tl::NetworkOptions options{.size = told.size};
    if (told.random) return tl::zoo_entry(told.backbone).random(options, told.seed);
    return told.weights.empty() ? tl::any_backbone(told.backbone, options)
                                : tl::any_backbone(told.backbone, std::filesystem::path(told.weights), options);
  }();
  say("network", is_cfg ? told.cfg : told.backbone);
  if (!told.licence.empty()) backbone.core.licence = told.licence;
  say("weights", told.random ? std::string("random") : backbone.core.source);
  auto& fit = backbone.core.preprocessing.fit;
  fit = told.fit == "stretch"     ? tl::Fit::stretch
        : told.fit == "letterbox" ? tl::Fit::letterbox
        : told.fit == "darknet"   ? tl::Fit::darknet
                                  : tl::detail::whole(fit);
  say("size", text(told.size, " pixels, ", to_string(fit)));
  return backbone;
}

/// Two stages are trained otherwise: what was not told becomes what is good for them.
void choose_for_two_stages(Told& told, const tools::Arguments& arguments) {
  const auto choose = [&](const char* name, auto& value, auto good) {
    if (!arguments.has(name)) value = good;
  };
  choose("--lr", told.lr, 4e-4), choose("--batch", told.batch, 4), choose("--size", told.size, 448);
  choose("--weight-decay", told.weight_decay, 1e-2), choose("--ema", told.ema, 0.99);
  choose("--augment", told.augment, "flip"), choose("--autocast", told.autocast, "auto");
  told.least = 0.0;
}

tl::AnyTwoStage two_stage_of(const Told& told, const tl::BoxData& data) {
  const auto channels = std::max<tl::Index>(8, static_cast<tl::Index>(512.0 * told.width));
  tl::AnyBackbone backbone = backbone_of(told);
  // The finest map's anchors are as large as the small ones of the objects, each further map's twice as large.
  const tl::Tensor sizes = tl::box_sizes(data, backbone.core.preprocessing);
  const double small = sizes.size(0) == 0 ? 32.0 : sizes.prod(1).sqrt().quantile(0.05).item<double>();
  const tl::Neck<tl::FeaturePyramid> neck{{.channels = channels, .finest = 8, .seed = told.seed}};
  std::vector<std::vector<double>> anchors;
  std::string words;
  for (std::size_t map = 0; map <= tl::FeaturePyramid::takes(backbone.features(), neck.options).size(); ++map) {
    anchors.push_back({std::clamp(std::round(small), 16.0, 64.0) * std::pow(2.0, static_cast<double>(map))});
    words += text(words.empty() ? "" : ", ", anchors.back()[0]);
  }
  say("neck", text("feature pyramid of ", channels, " channels"), "--width");
  say("anchors", words, "from the data");
  // A step has few pictures, too few for statistics of its own.
  const tl::AnyRule rule = tools::rule_of(told.freeze) || tl::FreezeBatchNorm{};
  say("norms", "frozen");
  return {std::move(backbone),
          tl::FreezePolicy{rule},
          neck,
          tl::Head<tl::RegionProposal>{{.sizes = anchors,
                                        .training = {.before_nms = 1000, .after_nms = 1000},
                                        .predicting = {.before_nms = 500, .after_nms = 300},
                                        .seed = told.seed}},
          tl::Head<tl::RoI>{{.samples = 256, .seed = told.seed}},
          data.labels()};
}

tl::AnyDetector yolo_of(const Told& told, const tl::BoxData& data) {
  const bool is_cfg = !told.cfg.empty();
  tl::AnyBackbone backbone = backbone_of(told);
  tl::Neck<tl::AnyNeck> neck = tl::any_neck("none");
  tl::Index levels = static_cast<tl::Index>(backbone.features().channels.size());
  if (!is_cfg) {
    tl::Json options = tl::Json::object();
    if (told.neck == "feature_pyramid") {
      options["coarser"] = false;
      options["finest"] = 8;
      options["channels"] = static_cast<tl::Index>(256 * told.width);
      levels = std::min<tl::Index>(levels, 3);
    } else if (told.neck != "none" && told.neck != "passthrough" && told.neck != "spatial_pyramid_pooling") {
      levels = std::min(levels, told.levels);
      std::vector<tl::Index> channels{128, 256, 512, 1024, 1024};
      channels = {channels.begin() + std::min<tl::Index>(2, 4 - levels), channels.end()};
      channels.resize(static_cast<std::size_t>(levels));
      options["channels"] = channels;
      options["width"] = told.width;
      if (told.neck == "c3_path_aggregation") options["depth"] = 0.33;
    } else if (told.neck == "passthrough") {
      levels = 1;
    }
    options["seed"] = told.seed;
    neck = tl::any_neck(told.neck, options);
    say("neck", told.neck);
  }
  say("head", told.head);
  const tl::Tensor sizes = tl::box_sizes(data, backbone.core.preprocessing);
  return {std::move(backbone), tl::FreezePolicy{tools::rule_of(told.freeze)}, neck, head_of(told, sizes, levels),
          data.labels()};
}

/// The classes of the data that --classes names, all where it names none. \throws DataError for one that is not there
tl::Labels classes_of(const Told& told, const tl::BoxData& data) {
  if (told.classes.empty()) return data.labels();
  const tl::Labels out = tools::words(told.classes);
  for (const std::string& label : out)
    if (std::find(data.labels().begin(), data.labels().end(), label) == data.labels().end())
      throw tl::DataError(text("--classes: the data has no class ", tl::detail::in_quotes(label), "; it has ",
                               tl::detail::first_few(data.labels())));
  return out;
}

/// The detector of --add-classes-to with more classes, and the classes.
std::pair<tl::Keeping<tl::AnyDetector>, tl::Labels> taught_by(const Told& told, const tl::AnyDetector& old,
                                                              const tl::BoxData& data) {
  tl::Labels more = classes_of(told, data);
  if (told.classes.empty())
    std::erase_if(more, [&](const std::string& label) {
      return std::find(old.labels().begin(), old.labels().end(), label) != old.labels().end();
    });
  tl::Keeping model{tl::add_classes(old, more), old};
  model.refreeze(tl::FreezePolicy{tools::rule_of(told.freeze)});
  return {std::move(model), std::move(more)};
}

/// Says how many boxes of the new classes the old anchors suit: the others are not learnt. \param data of those alone
void say_anchors(const tl::AnyDetector& model, const tl::BoxData& data) {
  const auto [head, json] = tl::detail::part_in_file(model.head_recipe());
  const tl::Tensor sizes = tl::box_sizes(data, model.preprocessing());
  if (head != "yolo" || sizes.size(0) == 0) return;
  const auto options = tl::detail::part_options<tl::Yolo>(json);
  if (options.matching == tl::Matching::best) return;  // which suits any box
  tl::Anchors all;
  for (const tl::Anchors& level : options.anchors) all.insert(all.end(), level.begin(), level.end());
  const double suited = 100.0 * tl::anchor_recall(sizes, all, options.anchor_ratio).best_possible;
  say("anchors", text("the model's, within ", options.anchor_ratio, " times the sides of ",
                      tl::detail::fixed(suited, 1), " % of the new boxes"));
}

tl::AnyTransform<tl::Boxes> transform_of(const Told& told, const tl::BoxData& data, tl::Fit fit) {
  // What is to be stretched is stretched by the same step that moves it: sampled once, as pictures to be found in are.
  const bool stretch = fit == tl::Fit::stretch;
  const tl::BoxFlip flip{.up_down = told.up_down};
  if (told.augment == "flip") return flip;
  if (told.augment == "light")
    return tl::compose(
        flip, tl::BoxAffine{.translate = 0.1, .scale = 0.25, .size = stretch ? told.size : 0, .stretch = stretch},
        tl::HsvJitter{.hue = 0.01, .saturation = 0.4, .value = 0.3});
  if (told.augment == "mosaic")
    return tl::compose(tl::Mosaic(data, {.size = 2 * told.size, .probability = 0.7}),
                       tl::BoxAffine{.translate = 0.1, .scale = 0.4, .size = told.size}, flip,
                       tl::HsvJitter{.hue = 0.01, .saturation = 0.5, .value = 0.3});
  return tl::NoTransform{};
}

/// Ends training before an epoch that would end too late.
class TimeLimit {
 public:
  TimeLimit(std::chrono::steady_clock::time_point start, double seconds) : start_(start), seconds_(seconds) {}
  bool on_epoch_end(const tl::Epoch& epoch) {
    const double used = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    return seconds_ <= 0.0 || used + 0.9 * epoch["seconds"] < seconds_;
  }

 private:
  std::chrono::steady_clock::time_point start_;
  double seconds_;
};

template <class M>
int train(Told& told, std::chrono::steady_clock::time_point start, M model, const tl::BoxData& training,
          const tl::BoxData& validation) {
  say("freeze", told.freeze);
  const std::filesystem::path out = told.out.empty() ? tl::default_run_folder() : std::filesystem::path(told.out);
  const bool chosen = told.epochs == 0;
  told.epochs = std::max<tl::Index>(told.epochs, 1);
  tl::TrainerOptions options = tools::training_of(told, out);
  options.multi_scale = multi_scale_of(told);
  if (told.augment.empty()) {
    // What is frozen is computed once for a few views, and would be computed each time for any number.
    told.augment = told.freeze != "none" && told.unfreeze == "none" ? "flip" : "light";
    say("augment", told.augment, "chosen; --augment");
  }
  const auto transform = transform_of(told, training, model.preprocessing().fit);
  const auto augmented = tl::augment(training, transform);
  if (chosen) {
    if (told.minutes > 0.0) {
      // How long an epoch takes is measured on a copy, so that the rate has fallen when the time is over.
      const auto since = [](std::chrono::steady_clock::time_point then) {
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - then).count();
      };
      auto trial = tl::clone(model);
      auto few = options;
      few.epochs = 2;
      few.checkpoints = {};
      const tl::Index n = std::min(std::max<tl::Index>(48, 3 * few.batch), training.size()),
                      m = std::min<tl::Index>(8, validation.size());
      const tl::BoxData part = training.subset(n), part_val = validation.subset(m);
      const double times = static_cast<double>(training.size()) / static_cast<double>(n);
      const auto before = std::chrono::steady_clock::now();
      const tl::History history = tl::Trainer(trial, few).fit(tl::augment(part, transform), part_val);
      const double both = history["seconds"].back();
      // What is frozen is computed before the first epoch.
      const double first = std::max(0.0, since(before) - both - history["seconds"].front());
      const auto measured = std::chrono::steady_clock::now();
      tl::evaluate(trial, part_val, few);
      const double val = since(measured);
      const double epoch =
          std::max(0.0, both - val) * times + val * static_cast<double>(validation.size()) / static_cast<double>(m);
      const double left = 60.0 * told.minutes - since(start) - first * times;
      told.epochs = std::max<tl::Index>(1, static_cast<tl::Index>(0.95 * left / std::max(epoch, 1e-3)));
      say("epochs", text(told.epochs), text("an epoch takes about ", tl::detail::fixed(epoch, 1), " s; --minutes"));
    } else {
      told.epochs = 50;
      say("epochs", text(told.epochs), "chosen: --epochs or --minutes");
    }
    options.epochs = told.epochs;
  }
  tl::Trainer trainer{model, options};
  // What was chosen is told too, so that the run can be gone on with from the folder alone.
  tl::Json all = told.told;
  all["epochs"] = text(told.epochs);
  tl::RunFolder folder{out, trainer, augmented, validation, std::move(all)};
  try {
    trainer.fit(augmented, validation, tl::Console{}, folder, TimeLimit(start, 60.0 * told.minutes));
  } catch (const tl::Stopped&) {
    // What was complete is in the folder.
  }
  return tools::said_at_end("detect_train", options, static_cast<tl::Index>(folder.history().epochs.size()), out);
}

int train(Told& told, std::chrono::steady_clock::time_point start) {
  std::optional<tl::AnyDetector> old;
  if (told.adds()) {
    old.emplace(tl::load_detector(told.add_to));
    told.size = old->preprocessing().size;
  }
  tl::BoxDataOptions data_options{.seed = told.seed, .cache_bytes = std::size_t{1} << 30};
  const auto [fine, measured] = tools::split_boxes(told.data, told.format, told.train, told.val, data_options);
  // To learn from they need few more pixels than the network sees; as many would be too few for the shorter side of
  // what is stretched, and blurred beside those that are measured with.
  data_options.labels = fine.labels();
  data_options.most_side = 2 * told.size;
  tl::BoxData training = tools::split_boxes(told.data, told.format, told.train, told.val, data_options).train;
  tl::BoxData validation = measured;
  std::optional<tl::Keeping<tl::AnyDetector>> more;
  if (old) {
    auto [model, added] = taught_by(told, *old, training);
    say("network", told.add_to);
    say("classes", text(tl::detail::first_few(old->labels(), 8), ", kept as this network finds them"),
        "not looked for among the boxes");
    say("learns", tl::detail::first_few(added, 8), "--classes");
    training = training.with_labels(added).with_labels(model.labels());
    say_anchors(model, training);
    validation = validation.with_labels(model.labels());
    more.emplace(std::move(model));
  } else if (!told.classes.empty()) {
    const tl::Labels classes = classes_of(told, training);
    training = training.with_labels(classes), validation = validation.with_labels(classes);
  }
  say("data", text(told.data, ", ", training.size(), " pictures to train and ", validation.size(), " to validate, ",
                   training.labels().size(), " classes: ", tl::detail::first_few(training.labels())));
  tools::warn_of(fine);
  if (told.train.empty()) say("sets", "the data's own, or by chance", "--train SET --val SET");
  if (more) return train(told, start, std::move(*more), training, validation);
  return told.two_stage() ? train(told, start, two_stage_of(told, training), training, validation)
                          : train(told, start, yolo_of(told, training), training, validation);
}

/// What the options say that all families have; the others have defaults of their own here.
tools::Sliding sliding_of(const Told& told, const tools::Arguments& arguments) {
  tools::Sliding out = told.sliding;
  out.classes = told.classes;
  out.data = told.data, out.format = told.format, out.train = told.train, out.val = told.val;
  out.backbone = told.backbone, out.weights = told.weights, out.random = told.random;
  out.threads = told.threads, out.seed = told.seed, out.out = told.out;
  if (arguments.has("--size")) out.window = told.size;
  if (arguments.has("--epochs")) out.epochs = told.epochs;
  if (arguments.has("--batch")) out.batch = told.batch;
  if (arguments.has("--lr")) out.lr = told.lr;
  tools::check(out);
  return out;
}

}  // namespace

int main(int argc, char** argv) {
  const auto start = std::chrono::steady_clock::now();
  Told told;
  tools::Arguments arguments(
      "--data DIR (--cfg C --weights W | --backbone B | --add-classes-to M) [options]",
      "Trains a detector on pictures with boxes: a network of darknet with a new head, or a backbone of the zoo with "
      "a\n"
      "neck and a head. What is not told is chosen, and said.");
  arguments.option("--data", "DIR", "pictures and boxes", told.data)
      .option("--family", "F",
              "yolo; two-stage: a feature pyramid, regions proposed and looked at; or sliding: a window (yolo)",
              told.family)
      .option("--format", "F", "voc, yolo or coco (voc)", told.format)
      .option("--train", "SET", "to learn from (the data's own set, or by chance)", told.train)
      .option("--val", "SET", "to measure with", told.val)
      .option("--cfg", "FILE", "darknet's description of a network", told.cfg)
      .option("--weights", "FILE", "the weights to begin with", told.weights)
      .option("--backbone", "NAME", "a network of the zoo; weights_tool backbones lists them", told.backbone)
      .option(
          "--neck", "NAME",
          "none, feature_pyramid, yolo_v3, path_aggregation, c3_path_aggregation, elan_path_aggregation, passthrough "
          "(c3_path_aggregation)",
          told.neck)
      .option("--width", "X", "a multiple of the neck's channels (0.25)", told.width)
      .option("--levels", "N", "maps that the head looks at, the coarsest (3)", told.levels)
      .option("--head", "NAME", "yolo_v2, yolo_v3, yolo_v4, yolo_v5, yolo_v7, yolo_v1 or yolox (yolo_v5)", told.head)
      .option("--anchors", "N", "of each map (3)", told.anchors)
      .option("--classes", "A,B",
              "what to look for; all other objects are background (all; with --add-classes-to: what is new)",
              told.classes)
      .option("--add-classes-to", "FILE",
              "a detector that learns the data's other classes, or --classes, and keeps those that it knows; nobody "
              "need mark those",
              told.add_to)
      .option("--mode", "M", "of a sliding window: exact, or dense, where the network can do it (exact)",
              told.sliding.mode)
      .option("--learn", "FROM",
              "of a sliding window: cut, around objects, or places, all where it looks (cut; of dense: places)",
              told.sliding.learn)
      .option("--stride", "N", "of a sliding window: pixels from one to the next (16)", told.sliding.stride)
      .option("--smallest", "N", "of a sliding window: side of the smallest in the pictures' pixels (the window's, 96)",
              told.sliding.smallest)
      .option("--rounds", "N", "of a sliding window: of looking for hard negatives (1)", told.sliding.rounds)
      .option("--freeze", "WHAT", "all, none or until:NAME of a layer (none)", told.freeze)
      .flag("--random", "random weights to begin with", told.random)
      .flag("--dropout", "the dropout layers of a .cfg, made for long trainings, do drop values", told.dropout)
      .option("--licence", "NAME", "of the weights, for the model's file (the zoo's own)", told.licence)
      .option("--size", "N", "side of the network's input in pixels (320; of a sliding window 96)", told.size)
      .option("--fit", "HOW", "stretch, letterbox or darknet (the network's own)", told.fit)
      .option("--multi-scale", "A:B",
              "every ten batches another side between these, multiples of 32; where nothing is frozen (--size alone)",
              told.multi_scale)
      .option("--augment", "A", "none, flip, light or mosaic (light; flip where layers are frozen)", told.augment)
      .flag("--up-down", "flips up and down too: for pictures that know no above, as of cells or from the air",
            told.up_down)
      .option("--epochs", "N", "times that all pictures are seen (50, or what --minutes allow)", told.epochs)
      .option("--minutes", "M", "training ends by then", told.minutes)
      .option("--batch", "N", "pictures a step (8)", told.batch)
      .option("--optimizer", "NAME", "sgd, adam or adamw (adamw)", told.optimizer)
      .option("--lr", "X", "its learning rate at its peak (0.002)", told.lr)
      .option("--precision", "P", "of what is frozen: auto, fp32 or bf16 (auto)", told.precision)
      .option("--threads", "N", "(one a core)", told.threads)
      .option("--seed", "N", "what order, weights, anchors and a drawn split depend on (0)", told.seed);
  tools::add_training(arguments, told);
  tools::add_going_on(arguments, told);
  arguments.footer(
      "The run's folder holds model.safetensors (for detect and detect_evaluate), metrics.csv, precision_recall.svg, "
      "confusion.svg,\nconfig.json, report.html, events for TensorBoard, checkpoints/ and log.txt. Ctrl-C stops it "
      "where it can go on:\ndetect_train --resume DIR.");
  return tools::run(argc, argv, arguments, [&](const std::vector<std::string>& given) {
    if (!given.empty()) throw tools::Usage(text("\"", given[0], "\" is no option"));
    tools::take_files(arguments, told);
    if (told.two_stage()) choose_for_two_stages(told, arguments);
    check(told, arguments);
    tools::settle_threads(told.threads);
    return told.slides() ? tools::train_sliding(sliding_of(told, arguments)) : train(told, start);
  });
}

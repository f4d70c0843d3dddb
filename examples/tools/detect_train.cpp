/// \file
/// Trains a detector on pictures with boxes: `detect_train --data DIR --format voc --cfg C --weights W`. What it isn't
/// told it chooses, and says so.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <transferlib/data/box_transforms.hpp>
#include <transferlib/data/transforms.hpp>
#include <transferlib/detect/anchors.hpp>
#include <transferlib/detector_zoo.hpp>
#include <transferlib/report/console.hpp>
#include <transferlib/report/run_folder.hpp>
#include <transferlib/train/trainer.hpp>

#include "arguments.hpp"
#include "detectors.hpp"
#include "recipe.hpp"
#include "shared.hpp"

namespace tl = transferlib;
using tools::say;
using tools::text;

namespace {

struct Told : tools::Recipe {
  std::string family = "yolo", data, format = "voc", train, val, cfg, weights, backbone, neck = "c3_path_aggregation",
              head = "yolo_v5", fit, augment = "light", licence;
  tl::Index anchors = 3, levels = 3;
  double width = 0.25, minutes = 0.0;
  bool random = false;

  Told() {
    freeze = "none";
    optimizer = "adamw";
    schedule = "cosine";
    lr = 2e-3, weight_decay = 5e-4, warmup = 0.05, least = 0.02, ema = 0.998, clip_norm = 10.0;
    size = 320, batch = 16;
  }
  bool two_stage() const { return family == "two-stage"; }
};

void check(const Told& told, const tools::Arguments& arguments) {
  const auto from = [&](std::string_view name, double value, double least, double most) {
    if (!(value >= least && value <= most))
      throw tools::Usage(text(name, " must be from ", least, " to ", most, ", not ", value));
  };
  if (!arguments.has("--data")) throw tools::Usage("--data DIR is wanted: pictures with boxes");
  tools::check(told, arguments);
  tools::check_word("--family", told.family, {"yolo", "two-stage"});
  tools::check_word("--format", told.format, {"voc", "yolo", "coco"});
  if (told.two_stage())
    for (const char* name : {"--cfg", "--neck", "--head", "--anchors", "--levels"})
      if (arguments.has(name)) throw tools::Usage(text(name, " goes with --family yolo"));
  if (told.cfg.empty() == told.backbone.empty()) throw tools::Usage("either --cfg FILE or --backbone NAME");
  if (!told.cfg.empty() && (arguments.has("--neck") || arguments.has("--levels")))
    throw tools::Usage("a .cfg has its own neck; --neck and --levels go with --backbone");
  if (told.random && !told.weights.empty()) throw tools::Usage("--random and --weights contradict each other");
  if (!told.cfg.empty() && told.weights.empty() && !told.random)
    throw tools::Usage("--weights FILE goes with --cfg, or --random");
  if (told.train.empty() != told.val.empty()) throw tools::Usage("--train and --val go together");
  tools::check_word("--augment", told.augment, {"none", "flip", "light", "mosaic"});
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
      const tl::DarknetOptions options{.size = told.size, .seed = told.seed};
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

tl::AnyTwoStage two_stage_of(const Told& told, const tl::BoxData& data) {
  const auto channels = std::max<tl::Index>(8, static_cast<tl::Index>(512.0 * told.width));
  tl::AnyBackbone backbone = backbone_of(told);
  say("neck", text("feature pyramid of ", channels, " channels"), "--width");
  return {std::move(backbone),
          tl::FreezePolicy{tools::rule_of(told.freeze)},
          tl::Neck<tl::FeaturePyramid>{{.channels = channels, .seed = told.seed}},
          tl::Head<tl::RegionProposal>{{.seed = told.seed}},
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

tl::AnyTransform<tl::Boxes> transform_of(const Told& told, const tl::BoxData& data) {
  if (told.augment == "flip") return tl::BoxFlip{};
  if (told.augment == "light")
    return tl::compose(tl::BoxFlip{}, tl::BoxAffine{.translate = 0.1, .scale = 0.25},
                       tl::HsvJitter{.hue = 0.01, .saturation = 0.4, .value = 0.3});
  if (told.augment == "mosaic")
    return tl::compose(tl::Mosaic(data, {.size = 2 * told.size, .probability = 0.7}),
                       tl::BoxAffine{.translate = 0.1, .scale = 0.4, .size = told.size}, tl::BoxFlip{},
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
  const auto augmented = tl::augment(training, transform_of(told, training));
  if (chosen) {
    if (told.minutes > 0.0) {
      // How long an epoch takes is measured on a copy, so that the rate has fallen when the time is over.
      auto trial = tl::clone(model);
      auto few = options;
      few.epochs = 2;
      few.checkpoints = {};
      few.batch = std::min<tl::Index>(told.batch, 16);
      const tl::Index n = std::min<tl::Index>(3 * few.batch, training.size()),
                      m = std::min<tl::Index>(8, validation.size());
      const tl::BoxData part = training.subset(n), part_val = validation.subset(m);
      const auto seconds = [&](const auto& data) {
        return tl::Trainer(trial, few).fit(data, part_val).epochs.back()["seconds"];
      };
      const double both = seconds(tl::augment(part, transform_of(told, training)));
      const auto before = std::chrono::steady_clock::now();
      tl::evaluate(trial, part_val, few);
      const double val = std::chrono::duration<double>(std::chrono::steady_clock::now() - before).count();
      const double epoch = std::max(0.0, both - val) * static_cast<double>(training.size()) / static_cast<double>(n) +
                           val * static_cast<double>(validation.size()) / static_cast<double>(m);
      const double left =
          60.0 * told.minutes - std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
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
  tl::BoxDataOptions data_options{.seed = told.seed, .cache_bytes = std::size_t{1} << 30};
  const auto [fine, validation] = tools::split_boxes(told.data, told.format, told.train, told.val, data_options);
  // To learn from they need no more pixels than the network sees.
  data_options.labels = fine.labels();
  data_options.most_side = told.size;
  const tl::BoxData training = tools::split_boxes(told.data, told.format, told.train, told.val, data_options).train;
  say("data", text(told.data, ", ", training.size(), " pictures to train and ", validation.size(), " to validate, ",
                   training.labels().size(), " classes: ", tl::detail::first_few(training.labels())));
  tools::warn_of(fine);
  if (told.train.empty()) say("sets", "the data's own, or by chance", "--train SET --val SET");
  return told.two_stage() ? train(told, start, two_stage_of(told, training), training, validation)
                          : train(told, start, yolo_of(told, training), training, validation);
}

}  // namespace

int main(int argc, char** argv) {
  const auto start = std::chrono::steady_clock::now();
  Told told;
  tools::Arguments arguments(
      "--data DIR (--cfg C --weights W | --backbone B) [options]",
      "Trains a detector on pictures with boxes: a network of darknet with a new head, or a backbone of the zoo with "
      "a\n"
      "neck and a head. What is not told is chosen, and said.");
  arguments.option("--data", "DIR", "pictures and boxes", told.data)
      .option("--family", "F", "yolo, or two-stage: a feature pyramid, regions proposed and looked at (yolo)",
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
      .option("--freeze", "WHAT", "all, none or until:NAME of a layer (none)", told.freeze)
      .flag("--random", "random weights to begin with", told.random)
      .option("--licence", "NAME", "of the weights, for the model's file (the zoo's own)", told.licence)
      .option("--size", "N", "side of the network's input in pixels (320)", told.size)
      .option("--fit", "HOW", "stretch, letterbox or darknet (the network's own)", told.fit)
      .option("--augment", "A", "none, flip, light or mosaic (light)", told.augment)
      .option("--epochs", "N", "times that all pictures are seen (50, or what --minutes allow)", told.epochs)
      .option("--minutes", "M", "training ends by then", told.minutes)
      .option("--batch", "N", "pictures a step (16)", told.batch)
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
    check(told, arguments);
    tools::settle_threads(told.threads);
    return train(told, start);
  });
}

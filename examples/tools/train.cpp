/// \file
/// Trains a classifier on pictures in class folders (or on CIFAR): `train --data DIR`. What it isn't told it chooses,
/// and says so.
#include <algorithm>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <transferlib/core/files.hpp>
#include <transferlib/core/text.hpp>
#include <transferlib/data/cifar.hpp>
#include <transferlib/data/image_folder.hpp>
#include <transferlib/data/transforms.hpp>
#include <transferlib/formats/json.hpp>
#include <transferlib/nn/losses.hpp>
#include <transferlib/report/console.hpp>
#include <transferlib/report/run_folder.hpp>
#include <transferlib/train/callbacks.hpp>
#include <transferlib/train/preflight.hpp>
#include <transferlib/train/trainer.hpp>
#include <transferlib/zoo.hpp>

#include "arguments.hpp"
#include "interrupt.hpp"
#include "shared.hpp"

namespace tl = transferlib;
using tools::text;

namespace {

/// What the command line says; -1, 0 or empty where it says nothing.
struct Told {
  std::string data, backbone, weights, freeze, head, optimizer, flip, precision = "auto", out, device = "cpu";
  std::string schedule = "constant", unfreeze = "none", mix = "none", autocast = "fp32", checkpoint_every = "0", resume,
              config, cache_dir;
  double lr = 0.0, weight_decay = -1.0, warmup = 0.0, backbone_rate = 1.0, stage_decay = 1.0, ema = 0.0,
         clip_norm = 0.0, l2_sp = 0.0, label_smoothing = 0.0, cache_limit = 8.0;
  tl::Index size = 0, batch = 0, epochs = 0, head_epochs = 1, accumulate = 1, workers = 1, early_stopping = 0;
  int threads = 0;
  std::uint64_t seed = 0;
  bool random = false, balanced = false, fine_tune = false, keep_best = false, decay_all = false, allow = false,
       no_preflight = false;
  tl::Json told;  ///< the options that were given, by name
};

/// Prints "name: value", and whether it was chosen here and why.
void say(std::string_view name, std::string_view value, std::string_view why = {}) {
  const std::string line =
      tools::one_line(text(name, ": ", value, why.empty() ? "" : "   (", why, why.empty() ? "" : ")"));
  std::printf("%s\n", line.c_str());
}

tl::AnyRule rule_of(const std::string& freeze) {
  if (freeze == "all") return tl::FreezeAll{};
  if (freeze == "none") return tl::FreezeNone{};
  constexpr std::string_view until = "until:";
  if (freeze.starts_with(until) && freeze.size() > until.size()) {
    const std::string layer = freeze.substr(until.size());
    if (layer.find_first_not_of("0123456789") != std::string::npos) return tl::FreezeUntil{layer};
    tl::Index index = 0;
    const auto [end, error] = std::from_chars(layer.data(), layer.data() + layer.size(), index);
    if (error == std::errc() && end == layer.data() + layer.size()) return tl::FreezeUntil{index};
  }
  throw tools::Usage(text("--freeze is all, none, until:N or until:NAME, not \"", freeze, "\""));
}

tl::Flip flip_of(const std::string& given) {
  tl::Flip out{.left_right = false, .up_down = false};
  if (given == "none") return out;
  for (std::size_t from = 0; from <= given.size();) {
    const std::size_t comma = std::min(given.find(',', from), given.size());
    const std::string word = given.substr(from, comma - from);
    if (word == "lr")
      out.left_right = true;
    else if (word == "ud")
      out.up_down = true;
    else
      throw tools::Usage(text("--flip is none, lr (left and right), ud (up and down) or lr,ud, not \"", given, "\""));
    from = comma + 1;
  }
  return out;
}

tl::Optimizer optimizer_of(const Told& told) {
  const double decay = told.weight_decay;
  if (told.optimizer == "sgd") return tl::Sgd{.lr = told.lr, .momentum = 0.9, .weight_decay = std::max(decay, 0.0)};
  if (told.optimizer == "adamw") return tl::AdamW{.lr = told.lr, .weight_decay = decay < 0.0 ? 1e-2 : decay};
  return tl::Adam{.lr = told.lr, .weight_decay = std::max(decay, 0.0)};
}

/// "step:10" as ("step", 10); a word without a number has `otherwise`. \throws Usage
std::pair<std::string, double> word_and_number(std::string_view option, const std::string& given, double otherwise) {
  const std::size_t colon = given.find(':');
  if (colon == std::string::npos) return {given, otherwise};
  double number = 0.0;
  const char* const end = given.data() + given.size();
  if (const auto r = std::from_chars(given.data() + colon + 1, end, number); r.ec != std::errc() || r.ptr != end)
    throw tools::Usage(text(option, " wants a number behind the colon, not \"", given, "\""));
  return {given.substr(0, colon), number};
}

tl::Schedule schedule_of(const Told& told) {
  const auto [word, number] = word_and_number("--schedule", told.schedule, -1.0);
  tools::check_word("--schedule", word,
                    {"constant", "step", "exponential", "cosine", "one-cycle", "polynomial", "plateau"});
  if (word == "step") return tl::StepRate{.every = number < 0.0 ? 10 : static_cast<tl::Index>(number)};
  if (word == "exponential") return tl::ExponentialRate{.gamma = number < 0.0 ? 0.9 : number};
  if (word == "cosine") return tl::CosineRate{.warmup = told.warmup};
  if (word == "one-cycle") return tl::OneCycle{};
  if (word == "polynomial") return tl::PolynomialRate{.power = number < 0.0 ? 1.0 : number};
  if (word == "plateau") return tl::ReduceOnPlateau{.patience = number < 0.0 ? 2 : static_cast<tl::Index>(number)};
  return tl::ConstantRate{};
}

tl::Unfreezing unfreezing_of(const Told& told) {
  const auto [word, number] = word_and_number("--unfreeze", told.unfreeze, 1.0);
  tools::check_word("--unfreeze", word, {"none", "gradual", "stall"});
  if (word == "gradual") return tl::GradualUnfreezing{.every = static_cast<tl::Index>(number)};
  if (word == "stall") return tl::UnfreezeOnStall{.patience = static_cast<tl::Index>(number)};
  return {};
}

tl::Mix mix_of(const Told& told) {
  const auto [word, alpha] = word_and_number("--mix", told.mix, -1.0);
  tools::check_word("--mix", word, {"none", "mixup", "cutmix", "both"});
  if (word == "mixup") return tl::MixUp{.alpha = alpha < 0.0 ? 0.2 : alpha};
  if (word == "cutmix") return tl::CutMix{.alpha = alpha < 0.0 ? 1.0 : alpha};
  if (word == "both") return tl::MixOrCut{};
  return {};
}

/// "200" steps or "60s" seconds. \throws Usage
void set_every(tl::Checkpoints& checkpoints, const std::string& given) {
  const bool seconds = given.ends_with('s');
  double number = 0.0;
  const char* const end = given.data() + given.size() - (seconds ? 1 : 0);
  const auto r = std::from_chars(given.data(), end, number);
  if (r.ec != std::errc() || r.ptr != end || !(number >= 0.0))
    throw tools::Usage(text("--checkpoint-every is a number of steps, or of seconds with an s, not \"", given, "\""));
  if (seconds)
    checkpoints.every_seconds = number;
  else
    checkpoints.every_steps = static_cast<tl::Index>(number);
}

/// What the command line can be told to be wrong before any file is touched. \throws Usage
void check(const Told& told, const tools::Arguments& arguments) {
  const auto at_least = [&](std::string_view name, auto value, auto least) {
    if (arguments.has(name) && !(value >= least))
      throw tools::Usage(text(name, " must be at least ", least, ", not ", value));
  };
  if (!arguments.has("--data")) throw tools::Usage("--data DIR is wanted: a folder with a folder of pictures a class");
  if (told.random && !told.weights.empty()) throw tools::Usage("--random and --weights contradict each other");
  at_least("--size", told.size, tl::Index{1});
  at_least("--batch", told.batch, tl::Index{1});
  at_least("--epochs", told.epochs, tl::Index{1});
  at_least("--threads", told.threads, 1);
  if (told.threads > 1024) throw tools::Usage(text("--threads must be at most 1024, not ", told.threads));
  if (arguments.has("--lr") && !(told.lr > 0.0 && told.lr < 1e6))
    throw tools::Usage(text("--lr must be above 0, not ", told.lr));
  if (!told.freeze.empty()) rule_of(told.freeze);
  if (!told.flip.empty()) flip_of(told.flip);
  if (!told.head.empty()) try {
      tl::any_head(told.head);
    } catch (const tl::OptionError& e) {
      throw tools::Usage(text("--head: ", e.what()));
    }
  if (!told.optimizer.empty()) tools::check_word("--optimizer", told.optimizer, {"sgd", "adam", "adamw"});
  tools::check_word("--precision", told.precision, {"auto", "fp32", "bf16"});
  tools::check_word("--autocast", told.autocast, {"auto", "fp32", "bf16", "fp16"});
  schedule_of(told);
  unfreezing_of(told);
  mix_of(told);
  tl::Checkpoints checkpoints;
  set_every(checkpoints, told.checkpoint_every);
  at_least("--head-epochs", told.head_epochs, tl::Index{1});
  at_least("--early-stopping", told.early_stopping, tl::Index{1});
  at_least("--workers", told.workers, tl::Index{0});
  at_least("--cache-limit", told.cache_limit, 0.0);
  if (told.fine_tune && (arguments.has("--schedule") || arguments.has("--unfreeze")))
    throw tools::Usage("--fine-tune has a schedule and an unfreezing of its own; leave --schedule and --unfreeze away");
  tools::check_word("--device", told.device, {"cpu", "cuda"});
}

/// Fills in what was not told, from what the data are, and says it.
/// \param small whether the pictures are CIFAR's, of 32 pixels
void choose(Told& told, tl::Index pictures, bool small) {
  if (told.backbone.empty()) {
    told.backbone = "efficientnet_lite0";
    say("backbone", told.backbone, "chosen: the smallest; weights_tool backbones lists all; --backbone");
  } else {
    say("backbone", told.backbone);
  }
  const tl::Card& card = tl::zoo_entry(told.backbone).card;
  if (told.size == 0) {
    told.size = small ? 128 : card.preprocessing.size;
    say("size", text(told.size, " pixels"),
        small ? "chosen: more adds little to pictures of 32; --size" : "chosen: what it was trained with; --size");
  } else {
    say("size", text(told.size, " pixels"));
  }
  if (told.freeze.empty()) {
    told.freeze = told.random || told.fine_tune ? "none" : "all";
    say("freeze", told.freeze,
        told.fine_tune ? "chosen: the head alone first, then all; --freeze"
        : told.random  ? "chosen: random weights have to be trained; --freeze"
                       : "chosen: the features are computed once and only the head is trained; --freeze");
  } else {
    say("freeze", told.freeze);
  }
  const bool frozen = told.freeze == "all";
  if (told.head.empty()) {
    told.head = "linear";
    say("head", told.head, "chosen: --head mlp:WIDTH has a hidden layer");
  } else {
    say("head", told.head);
  }
  if (told.flip.empty()) {
    told.flip = "none";
    say("flip", told.flip, "chosen: --flip lr where left and right mean nothing");
  } else {
    say("flip", told.flip);
  }
  if (told.batch == 0) {
    // At least ten steps an epoch where there are few pictures.
    told.batch = frozen ? 64 : 32;
    while (told.batch > 8 && told.batch * 10 > pictures) told.batch /= 2;
    say("batch", text(told.batch), "chosen: for so many pictures; --batch");
  } else {
    say("batch", text(told.batch));
  }
  if (told.epochs == 0) {
    // Some hundreds of steps for a head; a pass over the pictures is dear where the network itself is trained.
    const tl::Index steps = (pictures + told.batch - 1) / told.batch;
    told.epochs = std::clamp<tl::Index>((frozen ? 1000 : 500) / std::max<tl::Index>(steps, 1), 5, frozen ? 30 : 10);
    say("epochs", text(told.epochs), "chosen: for so many pictures; --epochs");
  } else {
    say("epochs", text(told.epochs));
  }
  const bool optimizer_chosen = told.optimizer.empty();
  if (optimizer_chosen) told.optimizer = "adam";
  const bool lr_chosen = told.lr == 0.0;
  if (lr_chosen) {
    const bool sgd = told.optimizer == "sgd";
    // What is trained already is moved by smaller steps.
    told.lr = frozen || told.random || told.fine_tune ? (sgd ? 1e-2 : 1e-3) : (sgd ? 1e-3 : 1e-4);
  }
  say("optimizer", told.optimizer == "sgd" ? "sgd, momentum 0.9" : told.optimizer,
      optimizer_chosen ? "chosen: --optimizer" : "");
  say("lr", text(told.lr), lr_chosen ? "chosen: --lr" : "");
}

tl::AnyBackbone backbone_of(const Told& told) {
  const tl::NetworkOptions options{.size = told.size};
  if (told.random) return tl::zoo_entry(told.backbone).random(options, told.seed);
  if (!told.weights.empty()) return tl::any_backbone(told.backbone, std::filesystem::path(told.weights), options);
  return tl::any_backbone(told.backbone, options);
}

template <class D>
int train(Told& told, const D& training, const D& validation, bool small) {
  choose(told, training.size(), small);
  tl::AnyBackbone backbone = backbone_of(told);
  say("weights", told.random ? std::string("random") : backbone.core.source,
      backbone.core.licence.empty() ? "" : text("licence ", backbone.core.licence));

  // The two-phase recipe begins with the head alone.
  const tl::AnyRule rule = rule_of(told.freeze), first = told.fine_tune ? tl::AnyRule(tl::FreezeAll{}) : rule;
  tl::AnyClassifier<> model(
      std::move(backbone), tl::FreezePolicy{first},
      tl::any_head(told.head, 0.0, told.seed, tl::CrossEntropy{.label_smoothing = told.label_smoothing}),
      training.labels());
  model.to(torch::Device(told.device));
  const std::filesystem::path out = told.out.empty() ? tl::default_run_folder() : std::filesystem::path(told.out);
  tl::TrainerOptions options{
      .epochs = told.epochs,
      .batch = told.batch,
      .optimizer = optimizer_of(told),
      .schedule = schedule_of(told),
      .groups = {.backbone = told.backbone_rate,
                 .stage_decay = told.stage_decay,
                 .decay_norms_and_biases = told.decay_all},
      .unfreezing = unfreezing_of(told),
      .mix = mix_of(told),
      .balanced = told.balanced,
      .clip_norm = told.clip_norm,
      .accumulate = told.accumulate,
      .autocast = told.autocast == "fp16" ? tl::Precision::fp16 : tools::precision_of(told.autocast),
      .l2_sp = {.backbone = told.l2_sp, .head = told.l2_sp / 10.0},
      .seed = told.seed,
      .precision = tools::precision_of(told.precision),
      .cache = {.folder = tl::cache_folder() / "activations"},
      .workers = told.workers,
      .checkpoints = {.folder = out / "checkpoints", .resume = !told.resume.empty(), .allow = told.allow},
      .stop = tools::stop_on_interrupt("stopping after this step")};
  if (told.ema > 0.0) options.ema = tl::Ema{.decay = told.ema};
  set_every(options.checkpoints, told.checkpoint_every);
  tl::detail::check(options);
  tl::Trainer trainer{model, options};
  const tl::Flip flip = flip_of(told.flip);
  const auto augmented = tl::augment(training, flip.left_right || flip.up_down ? tl::AnyTransform<tl::ClassIndex>(flip)
                                                                               : tl::AnyTransform<tl::ClassIndex>());
  if (!told.no_preflight && told.resume.empty()) {
    bool wrong = false;
    for (const tl::Finding& f : tl::preflight(model, augmented, validation, options)) {
      const bool error = f.severity == tl::Severity::error;
      std::fprintf(stderr, "%s\n", tools::one_line(text(error ? "error: " : "warning: ", f.sentence)).c_str());
      wrong = wrong || error;
    }
    if (wrong) throw tl::DataError("the set-up is wrong, as said above; --no-preflight trains all the same");
  }
  // What was chosen is told too, so that the same run can be made from the folder alone.
  tl::Json all = told.told;
  for (const auto& [name, value] : std::vector<std::pair<std::string, std::string>>{{"data", told.data},
                                                                                    {"backbone", told.backbone},
                                                                                    {"freeze", told.freeze},
                                                                                    {"head", told.head},
                                                                                    {"flip", told.flip},
                                                                                    {"optimizer", told.optimizer},
                                                                                    {"lr", text(told.lr)},
                                                                                    {"size", text(told.size)},
                                                                                    {"batch", text(told.batch)},
                                                                                    {"epochs", text(told.epochs)}})
    all[name] = value;
  tl::RunFolder folder{out, trainer, augmented, validation, std::move(all)};
  if (told.random)
    std::fputs("warning: random weights, as asked: what the network learnt from other pictures is not used\n", stderr);
  tl::EarlyStopping early{{.patience = told.early_stopping > 0 ? told.early_stopping : told.epochs + told.head_epochs}};
  const auto fit = [&](auto&&... callbacks) {
    if (told.fine_tune)
      trainer.fine_tune(augmented, validation, {.head_epochs = told.head_epochs, .freeze = rule}, callbacks...);
    else
      trainer.fit(augmented, validation, callbacks...);
  };
  tl::Console console;
  tl::KeepBest best;
  if (told.keep_best)
    fit(console, early, best, folder);
  else
    fit(console, early, folder);
  if (options.stop.stop_requested()) {
    std::printf("stopped after %lld complete epochs; go on by: train --resume %s\n",
                static_cast<long long>(folder.history().epochs.size()), out.c_str());
    return 130;
  }
  std::printf("the run's folder: %s\n", out.c_str());
  return 0;
}

template <class D>
int train_cifar(Told& told, const char* name, const tl::Split<D>& split) {
  say("data", text(name, " in ", told.data, ", ", split.train.size(), " + ", split.test.size(), " pictures, ",
                   split.train.labels().size(), " classes"));
  const tl::TensorData<tl::ClassIndex> training = split.train, validation = split.test;
  return train(told, training, validation, true);
}

int train_folder(Told& told) {
  const auto [training, validation] = tl::ImageFolder::split(told.data, {.seed = told.seed});
  say("data", text(told.data, ", ", training.size(), " pictures to train and ", validation.size(), " to validate, ",
                   training.labels().size(), " classes: ", tl::detail::first_few(training.labels())));
  std::set<std::filesystem::path> known;  // two parts of one folder share the list
  const auto warn = [&, &training = training, &validation = validation](const char* how) {
    for (const tl::ImageFolder* part : {&training, &validation})
      for (const tl::UnreadablePicture& u : part->unreadable())
        if (known.insert(u.path).second)
          std::fprintf(stderr, "%s\n", tools::one_line(text("warning: ", how, ": ", u.reason)).c_str());
  };
  warn("left out");
  const int code = train(told, training, validation, false);
  warn("another of its class stood in");
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  Told told;
  tools::Arguments arguments(
      "--data DIR [options]",
      "Trains a classifier on the pictures (JPEG, PNG) of DIR. DIR has a folder a class; or train/ and val/ (or "
      "test/)\n"
      "with a folder a class in each; or cifar-10-batches-bin/, cifar-100-binary/. What is not told is chosen, and "
      "said.");
  arguments.option("--data", "DIR", "the pictures", told.data)
      .option("--backbone", "NAME", "the pretrained network; weights_tool backbones lists them", told.backbone)
      .option("--weights", "FILE", "its weights, .pth or .safetensors (the published file)", told.weights)
      .flag("--random", "random weights instead of pretrained ones", told.random)
      .option("--freeze", "WHAT", "all, none, until:N or until:NAME of a layer (all)", told.freeze)
      .option("--head", "HEAD", "linear, or mlp:WIDTH (linear)", told.head)
      .option("--optimizer", "NAME", "sgd, adam or adamw (adam)", told.optimizer)
      .option("--lr", "X", "its learning rate", told.lr)
      .option("--size", "N", "the side of the pictures that the network sees, in pixels", told.size)
      .option("--batch", "N", "pictures a step", told.batch)
      .option("--epochs", "N", "times that all pictures are seen", told.epochs)
      .option("--flip", "HOW", "pictures are mirrored by chance: none, lr, ud or lr,ud (none)", told.flip)
      .option("--precision", "P", "of the frozen part: auto, fp32 or bf16 (auto)", told.precision)
      .option("--threads", "N", "(one a core)", told.threads)
      .option("--seed", "N", "what order, weights and a drawn split depend on (0)", told.seed)
      .flag("--fine-tune", "the head alone first, then the network too: half the rate, one-cycle, low stages slowly",
            told.fine_tune)
      .option("--head-epochs", "N", "of the head alone, with --fine-tune (1)", told.head_epochs)
      .option("--schedule", "S",
              "constant, step:N, exponential:G, cosine, one-cycle, polynomial:P or plateau:N (constant)", told.schedule)
      .option("--warmup", "X", "of cosine: a part of all steps, or steps (0)", told.warmup)
      .option("--unfreeze", "HOW", "gradual:N: a stage every N epochs; stall:N: when val_loss stalls for N (none)",
              told.unfreeze)
      .option("--backbone-rate", "X", "the backbone's rate by the head's (1)", told.backbone_rate)
      .option("--stage-decay", "X", "a stage's rate by that of the one above it (1)", told.stage_decay)
      .option("--weight-decay", "X", "(0; of adamw 0.01)", told.weight_decay)
      .flag("--decay-all", "the weight decay pulls at norms and biases too", told.decay_all)
      .option("--label-smoothing", "X", "the part of each label that goes to all classes (0)", told.label_smoothing)
      .option("--mix", "HOW", "mixup:ALPHA, cutmix:ALPHA or both (none)", told.mix)
      .flag("--balanced", "each class is seen as often as any other", told.balanced)
      .option("--ema", "DECAY", "keeps a running average of the weights, as 0.999 (none)", told.ema)
      .option("--clip-norm", "X", "the greatest length of the whole gradient (any)", told.clip_norm)
      .option("--accumulate", "N", "batches whose gradients make one step (1)", told.accumulate)
      .option("--autocast", "P", "of what is trained: fp32, bf16, fp16 or auto (fp32)", told.autocast)
      .option("--l2-sp", "X", "pulls the backbone to its first weights, the head to zero by a tenth of it (0)",
              told.l2_sp)
      .option("--early-stopping", "N", "ends when val_loss has not improved for N epochs (never)", told.early_stopping)
      .flag("--keep-best", "model.safetensors is of the epoch with the best val_accuracy, not of the last",
            told.keep_best)
      .option("--workers", "N", "threads that prepare pictures (1)", told.workers)
      .option("--cache-limit", "GIB", "of what the frozen part gives, kept on disk; 0: nothing is kept (8)",
              told.cache_limit)
      .option("--cache-dir", "DIR", "where; see cache list (the cache folder)", told.cache_dir)
      .option("--checkpoint-every", "N", "steps, or seconds: 60s; besides the end of each epoch (0)",
              told.checkpoint_every)
      .option("--resume", "DIR", "goes on with a run that was stopped or killed, with its options", told.resume)
      .flag("--allow", "goes on even if data, options or machine are not what they were", told.allow)
      .flag("--no-preflight", "does not look at data and set-up first", told.no_preflight)
      .option("--config", "FILE", "takes what is not told from a JSON file, such as a run's config.json", told.config)
      .option("--out", "DIR", "the run's folder (runs/<date-time>)", told.out)
      .option("--device", "cpu|cuda", "(cpu)", told.device)
      .footer(
          "The run's folder holds model.safetensors (for predict), metrics.csv, accuracy.svg, confusion.svg, "
          "config.json, report.html, events for\nTensorBoard, checkpoints/ and log.txt. Ctrl-C stops it where it can "
          "go on: train --resume DIR.");
  return tools::run(argc, argv, arguments, [&](const std::vector<std::string>& words) {
    if (!words.empty()) throw tools::Usage(text("\"", words[0], "\" is no option; the folder goes behind --data"));
    const auto take = [&](const std::filesystem::path& file) {
      const tl::Json config = tl::parse_json(tl::read_file(file), file.string());
      // A run's config.json holds more; what the program was told is under "options".
      const bool whole = config.is_object() && config.contains("options");
      arguments.take(whole ? config["options"] : config, file.string());
    };
    if (!told.resume.empty()) {
      if (!told.out.empty()) throw tools::Usage("--resume goes on in its own folder; leave --out away");
      take(std::filesystem::path(told.resume) / "config.json");
      told.out = told.resume;
    }
    if (!told.config.empty()) take(told.config);
    check(told, arguments);
    told.told = tl::Json::object();
    const tl::Json given = arguments.told();
    for (const auto& member : given.members())
      if (member.name != "resume" && member.name != "config" && member.name != "out" && member.name != "allow")
        told.told[member.name] = member.value;
    tools::settle_threads(told.threads);
    switch (tools::data_kind(told.data)) {
      case tools::DataKind::cifar10:
        return train_cifar(told, "CIFAR-10", tl::Cifar10::open(told.data));
      case tools::DataKind::cifar100:
        return train_cifar(told, "CIFAR-100", tl::Cifar100::open(told.data));
      case tools::DataKind::pictures:
        break;
    }
    return train_folder(told);
  });
}

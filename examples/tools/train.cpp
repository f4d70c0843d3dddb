/// \file
/// Trains a classifier on pictures in class folders (or on CIFAR): `train --data DIR`. What it isn't told it chooses,
/// and says so.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

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
#include "recipe.hpp"
#include "shared.hpp"

namespace tl = transferlib;
using tools::say;
using tools::text;

namespace {

/// What the command line says; -1, 0 or empty where it says nothing.
struct Told : tools::Recipe {
  std::string data, backbone, weights, head, flip, device = "cpu";
  double label_smoothing = 0.0;
  tl::Index head_epochs = 1, early_stopping = 0;
  bool random = false, balanced = false, fine_tune = false, keep_best = false, no_preflight = false;
};

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

/// What the command line can be told to be wrong before any file is touched. \throws Usage
void check(const Told& told, const tools::Arguments& arguments) {
  const auto at_least = [&](std::string_view name, auto value, auto least) {
    if (arguments.has(name) && !(value >= least))
      throw tools::Usage(text(name, " must be at least ", least, ", not ", value));
  };
  if (!arguments.has("--data")) throw tools::Usage("--data DIR is wanted: a folder with a folder of pictures a class");
  if (told.random && !told.weights.empty()) throw tools::Usage("--random and --weights contradict each other");
  tools::check(told, arguments);
  if (!told.flip.empty()) flip_of(told.flip);
  if (!told.head.empty()) try {
      tl::any_head(told.head);
    } catch (const tl::OptionError& e) {
      throw tools::Usage(text("--head: ", e.what()));
    }
  at_least("--head-epochs", told.head_epochs, tl::Index{1});
  at_least("--early-stopping", told.early_stopping, tl::Index{1});
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
  const tl::AnyRule rule = tools::rule_of(told.freeze), first = told.fine_tune ? tl::AnyRule(tl::FreezeAll{}) : rule;
  tl::AnyClassifier<> model(
      std::move(backbone), tl::FreezePolicy{first},
      tl::any_head(told.head, 0.0, told.seed, tl::CrossEntropy{.label_smoothing = told.label_smoothing}),
      training.labels());
  model.to(torch::Device(told.device));
  const std::filesystem::path out = told.out.empty() ? tl::default_run_folder() : std::filesystem::path(told.out);
  tl::TrainerOptions options = tools::training_of(told, out);
  options.balanced = told.balanced;
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
  return tools::said_at_end("train", options, static_cast<tl::Index>(folder.history().epochs.size()), out);
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
      .option("--head-epochs", "N", "of the head alone, with --fine-tune (1)", told.head_epochs);
  tools::add_training(arguments, told);
  arguments
      .option("--label-smoothing", "X", "the part of each label that goes to all classes (0)", told.label_smoothing)
      .option("--mix", "HOW", "mixup:ALPHA, cutmix:ALPHA or both (none)", told.mix)
      .flag("--balanced", "each class is seen as often as any other", told.balanced)
      .option("--early-stopping", "N", "ends when val_loss has not improved for N epochs (never)", told.early_stopping)
      .flag("--keep-best", "model.safetensors is of the epoch with the best val_accuracy, not of the last",
            told.keep_best)
      .flag("--no-preflight", "does not look at data and set-up first", told.no_preflight)
      .option("--device", "cpu|cuda", "(cpu)", told.device);
  tools::add_going_on(arguments, told);
  arguments.footer(
      "The run's folder holds model.safetensors (for predict), metrics.csv, accuracy.svg, confusion.svg, "
      "config.json, report.html, events for\nTensorBoard, checkpoints/ and log.txt. Ctrl-C stops it where it can "
      "go on: train --resume DIR.");
  return tools::run(argc, argv, arguments, [&](const std::vector<std::string>& words) {
    if (!words.empty()) throw tools::Usage(text("\"", words[0], "\" is no option; the folder goes behind --data"));
    tools::take_files(arguments, told);
    check(told, arguments);
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

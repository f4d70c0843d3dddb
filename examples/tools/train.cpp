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

#include <transferlib/core/files.hpp>
#include <transferlib/core/text.hpp>
#include <transferlib/data/cifar.hpp>
#include <transferlib/data/image_folder.hpp>
#include <transferlib/data/transforms.hpp>
#include <transferlib/report/console.hpp>
#include <transferlib/report/run_folder.hpp>
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
  double lr = 0.0;
  tl::Index size = 0, batch = 0, epochs = 0;
  int threads = 0;
  std::uint64_t seed = 0;
  bool random = false;
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

tl::Optimizer optimizer_of(const std::string& name, double lr) {
  if (name == "sgd") return tl::Sgd{.lr = lr, .momentum = 0.9};
  if (name == "adamw") return tl::AdamW{.lr = lr};
  return tl::Adam{.lr = lr};
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
    told.freeze = told.random ? "none" : "all";
    say("freeze", told.freeze,
        told.random ? "chosen: random weights have to be trained; --freeze"
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
    told.lr = frozen || told.random ? (sgd ? 1e-2 : 1e-3) : (sgd ? 1e-3 : 1e-4);
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

  tl::AnyClassifier<> model(std::move(backbone), tl::FreezePolicy{rule_of(told.freeze)},
                            tl::any_head(told.head, 0.0, told.seed), training.labels());
  model.to(torch::Device(told.device));
  const tl::TrainerOptions options{.epochs = told.epochs,
                                   .batch = told.batch,
                                   .optimizer = optimizer_of(told.optimizer, told.lr),
                                   .seed = told.seed,
                                   .precision = tools::precision_of(told.precision),
                                   .cache = {.folder = tl::cache_folder() / "activations"},
                                   .stop = tools::stop_on_interrupt("stopping after this step")};
  tl::Trainer trainer{model, options};
  const tl::Flip flip = flip_of(told.flip);
  const auto augmented = tl::augment(training, flip.left_right || flip.up_down ? tl::AnyTransform<tl::ClassIndex>(flip)
                                                                               : tl::AnyTransform<tl::ClassIndex>());
  const std::filesystem::path out = told.out.empty() ? tl::default_run_folder() : std::filesystem::path(told.out);
  tl::RunFolder folder{out,
                       trainer,
                       augmented,
                       validation,
                       {{"data", told.data},
                        {"backbone", told.backbone},
                        {"freeze", told.freeze},
                        {"head", told.head},
                        {"size", told.size},
                        {"flip", told.flip},
                        {"random", told.random}}};
  if (told.random)
    std::fputs("warning: random weights, as asked: what the network learnt from other pictures is not used\n", stderr);
  try {
    trainer.fit(augmented, validation, tl::Console{}, folder);
  } catch (const tl::Stopped&) {
    // What was complete is in the folder.
  }
  if (options.stop.stop_requested()) {
    std::printf("stopped after %lld of %lld epochs; the run's folder: %s\n",
                static_cast<long long>(folder.history().epochs.size()), static_cast<long long>(told.epochs),
                out.c_str());
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
      .option("--out", "DIR", "the run's folder (runs/<date-time>)", told.out)
      .option("--device", "cpu|cuda", "(cpu)", told.device)
      .footer(
          "The run's folder holds model.safetensors (for predict), metrics.csv, accuracy.svg, confusion.svg, "
          "config.json, log.txt.\nCtrl-C stops it; what was complete by then is kept.");
  return tools::run(argc, argv, arguments, [&](const std::vector<std::string>& given) {
    if (!given.empty()) throw tools::Usage(text("\"", given[0], "\" is no option; the folder goes behind --data"));
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

/// \file
/// Trains a classifier on pictures in class folders (or on CIFAR): `train --data DIR`. What it isn't told it chooses,
/// and says so.
#include <algorithm>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <numeric>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <transferlib/data/cifar.hpp>
#include <transferlib/data/image_folder.hpp>
#include <transferlib/data/transforms.hpp>
#include <transferlib/formats/json.hpp>
#include <transferlib/nn/losses.hpp>
#include <transferlib/report/console.hpp>
#include <transferlib/report/csv.hpp>
#include <transferlib/report/progress.hpp>
#include <transferlib/report/rate_plot.hpp>
#include <transferlib/report/run_folder.hpp>
#include <transferlib/train/callbacks.hpp>
#include <transferlib/train/preflight.hpp>
#include <transferlib/train/rate_finder.hpp>
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
  std::string data, backbone, weights, head, flip, depths = "last", loss = "cross_entropy", class_weights,
                                                   device = "cpu";
  double label_smoothing = 0.0, erase = 0.0, crop = 0.0, info_batch = 0.0;
  tl::Index head_epochs = 1, early_stopping = 0, crop_views = 0, test_size = 0;
  bool random = false, balanced = false, fine_tune = false, keep_best = false, no_preflight = false, deviations = false,
       find_rate = false;
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

/// What the head minimises, but for the weights of the classes. \throws Usage
tl::ClassLoss loss_of(const Told& told) {
  const auto [word, gamma] = tools::word_and_number("--loss", told.loss, tl::Focal{}.gamma);
  tools::check_word("--loss", word, {"cross_entropy", "focal"});
  if (word == "cross_entropy") {
    if (told.loss != word) throw tools::Usage("--loss cross_entropy takes no number; see --label-smoothing");
    return tl::CrossEntropy{.label_smoothing = told.label_smoothing};
  }
  if (told.label_smoothing != 0.0) throw tools::Usage("--label-smoothing is of cross_entropy, not of --loss focal");
  return tl::Focal{.gamma = gamma};
}

/// A weight a class: balanced, so that all classes weigh as much, or by name from a JSON file.
/// \throws DataError, FileError, FormatError
template <class D>
std::vector<double> weights_of(const std::string& given, const D& training) {
  const tl::Labels labels = training.labels();
  std::vector<double> out(labels.size(), 0.0);
  if (given == "balanced") {
    std::vector<tl::Index> ids(static_cast<std::size_t>(training.size()));
    std::iota(ids.begin(), ids.end(), tl::Index{0});
    const tl::Tensor classes = training.targets(ids);
    for (tl::Index i = 0; i < classes.numel(); ++i) ++out[static_cast<std::size_t>(classes.data_ptr<tl::Index>()[i])];
    for (std::size_t c = 0; c < out.size(); ++c) {
      if (out[c] == 0.0)
        throw tl::DataError(text("--class-weights balanced: there is no picture of ", labels[c], " to train with"));
      out[c] = static_cast<double>(training.size()) / (static_cast<double>(out.size()) * out[c]);
    }
    return out;
  }
  const tl::Json file = tl::parse_json(tl::read_file(given), given);
  for (const tl::JsonMember& member : file.members()) {
    const auto found = std::find(labels.begin(), labels.end(), member.name);
    if (found == labels.end())
      throw tl::DataError(text("the class weights in ", given, " have the class ", member.name,
                               ", which the pictures lack; the nearest is ",
                               tl::detail::nearest_names(member.name, labels, 1).front()));
    out[static_cast<std::size_t>(found - labels.begin())] = member.value.get<double>();
  }
  for (std::size_t c = 0; c < out.size(); ++c)
    if (!(out[c] > 0.0))
      throw tl::DataError(
          text("the class weights in ", given, " want a number above 0 for each class, and have none for ", labels[c]));
  return out;
}

/// A rate to two digits: more of them would say nothing.
double two_digits(double rate) {
  char number[32];
  const auto end = std::to_chars(number, number + sizeof number, rate, std::chars_format::scientific, 1).ptr;
  std::from_chars(number, end, rate);
  return rate;
}

/// Shows how far the search for a rate has come.
struct Searching {
  tl::Progress bar;
  void on_progress(const tl::Progressed& p) {
    if (p.phase == "train") bar.update(p.done);
  }
};

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
  if (!(told.erase >= 0.0 && told.erase <= 1.0))
    throw tools::Usage(text("--erase is a probability from 0 to 1, not ", told.erase));
  if (!(told.crop >= 0.0 && told.crop <= 1.0))
    throw tools::Usage(text("--crop is a part of a picture's area, from 0 to 1, not ", told.crop));
  if (told.crop_views != 0 && (told.crop == 0.0 || told.crop_views < 1))
    throw tools::Usage("--crop-views is a number of cuts a picture, at least 1, and goes with --crop");
  if (told.test_size < 0 || told.test_size > 4096)
    throw tools::Usage(text("--test-size must be from 1 to 4096, not ", told.test_size));
  tools::check_word("--depths", told.depths, {"last", "stages", "blocks"});
  if (told.deviations && told.depths == "last") throw tools::Usage("--deviations wants --depths stages or blocks");
  if (arguments.has("--lr") && told.find_rate)
    throw tools::Usage("--find-rate looks for the rate that --lr tells; leave one of them away");
  loss_of(told);
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
  if (!told.find_rate) say("lr", text(told.lr), lr_chosen ? "chosen: --lr" : "");
  const char* const each = frozen ? "another picture each epoch, so that the frozen part runs each epoch" : "";
  if (told.crop > 0.0) say("crop", text(told.crop), told.crop_views == 0 ? each : "");
  if (told.erase > 0.0) say("erase", text(told.erase), each);
}

tl::AnyBackbone backbone_of(const Told& told) {
  const auto depths = told.depths == "blocks"   ? tl::Depths::blocks
                      : told.depths == "stages" ? tl::Depths::stages
                                                : tl::Depths::last;
  const tl::NetworkOptions options{.size = told.size, .depths = depths, .deviations = told.deviations};
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
  tl::ClassLoss loss = loss_of(told);
  if (!told.class_weights.empty())
    std::visit([&](auto& l) { l.class_weights = weights_of(told.class_weights, training); }, loss);
  tl::AnyClassifier<> model(std::move(backbone), tl::FreezePolicy{first}, tl::any_head(told.head, 0.0, told.seed, loss),
                            training.labels());
  model.to(torch::Device(told.device));
  const std::filesystem::path out = told.out.empty() ? tl::default_run_folder() : std::filesystem::path(told.out);
  tl::TrainerOptions options = tools::training_of(told, out);
  options.balanced = told.balanced;
  if (told.info_batch != 0.0) options.info_batch = tl::InfoBatch{.ratio = told.info_batch};
  using Transform = tl::AnyTransform<tl::ClassIndex>;
  const tl::Flip flip = flip_of(told.flip);
  std::optional<Transform> all_of_them;
  const auto then = [&](auto part) {
    all_of_them = all_of_them ? Transform(tl::compose(*all_of_them, part)) : Transform(part);
  };
  const tl::RandomResizedCrop crop{.size = told.size, .scale = {told.crop, 1.0}};
  if (told.crop > 0.0 && told.crop_views > 0)
    then(tl::keep_views(crop, told.crop_views));
  else if (told.crop > 0.0)
    then(crop);
  if (flip.left_right || flip.up_down) then(flip);
  if (told.erase > 0.0) then(tl::RandomErasing{.probability = told.erase});
  const auto augmented = tl::augment(training, all_of_them.value_or(Transform()));
  std::optional<tl::RateRange> rates;
  if (told.find_rate) {
    Searching searching{tl::Progress(stdout, {.label = "finding a rate"})};
    rates = tl::find_rate(model, augmented, options, {}, searching);
    searching.bar.finish();
    const auto found = rates->steepest();
    if (!found) std::fputs("warning: no rate lets the loss fall in 100 steps; see rates.svg\n", stderr);
    if (found) told.lr = two_digits(*found);
    say("lr", text(told.lr), found ? "found: the loss falls fastest there" : "chosen: --lr");
    std::visit([&](auto& o) { o.lr = told.lr; }, options.optimizer);
  }
  tl::Trainer trainer{model, options};
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
  tl::Json all = tl::Json::object();
  for (const tl::JsonMember& member : told.told.members())
    if (member.name != "find-rate") all[member.name] = member.value;  // the rate that was found is told as such
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
  if (rates) {
    tl::plot_rates(*rates, out / "rates.svg");
    tl::write_csv(rates->history(), out / "rates.csv");
  }
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
  if (told.test_size > 0 && !options.stop.stop_requested()) {
    model.set_size(told.test_size);
    tl::save(model, out / "model.safetensors");
    for (const auto& [name, value] : trainer.evaluate(validation))
      std::printf("val_%s at %lld pixels: %.4f\n", name.c_str(), static_cast<long long>(told.test_size), value);
  }
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
      .option("--depths", "WHERE",
              "where the head's features come from: the last map, or those of stages or blocks too (last)", told.depths)
      .flag("--deviations", "beside each map's mean its standard deviation, with --depths", told.deviations)
      .option("--head", "HEAD", "linear, or mlp:WIDTH (linear)", told.head)
      .option("--optimizer", "NAME", "sgd, adam or adamw (adam)", told.optimizer)
      .option("--lr", "X", "its learning rate", told.lr)
      .flag("--find-rate", "looks for the rate: trains a copy with rates that rise, and draws rates.svg",
            told.find_rate)
      .option("--size", "N", "the side of the pictures that the network sees, in pixels", told.size)
      .option("--batch", "N", "pictures a step", told.batch)
      .option("--epochs", "N", "times that all pictures are seen", told.epochs)
      .option("--flip", "HOW", "pictures are mirrored by chance: none, lr, ud or lr,ud (none)", told.flip)
      .option("--crop", "P",
              "at least this part of a picture's area is cut out, and fills it: another cut each epoch (0)", told.crop)
      .option("--crop-views", "K", "K cuts a picture, whose features are kept, instead of another cut each epoch",
              told.crop_views)
      .option("--test-size", "N",
              "the size at which the trained network is to see whole pictures; behind --crop 0.5 a quarter more than "
              "--size (--size)",
              told.test_size)
      .option("--erase", "P", "the part of the pictures in which a random rectangle is covered, from 0 to 1 (0)",
              told.erase)
      .option("--precision", "P", "of the frozen part: auto, fp32 or bf16 (auto)", told.precision)
      .option("--threads", "N", "(one a core)", told.threads)
      .option("--seed", "N", "what order, weights and a drawn split depend on (0)", told.seed)
      .flag("--fine-tune", "the head alone first, then the network too: half the rate, one-cycle, low stages slowly",
            told.fine_tune)
      .option("--head-epochs", "N", "of the head alone, with --fine-tune (1)", told.head_epochs);
  tools::add_training(arguments, told);
  arguments
      .option("--loss", "LOSS", "cross_entropy, or focal:GAMMA, which looks at what is hard (cross_entropy)", told.loss)
      .option("--class-weights", "W", "balanced: each class weighs as much; or a JSON file of a number above 0 a class",
              told.class_weights)
      .option("--label-smoothing", "X", "the part of each label that goes to all classes (0)", told.label_smoothing)
      .option("--mix", "HOW", "mixup:ALPHA, cutmix:ALPHA or both (none)", told.mix)
      .flag("--balanced", "each class is seen as often as any other", told.balanced)
      .option(
          "--info-batch", "P",
          "of the pictures that are told better than the mean, the part that an epoch leaves out; the others of them "
          "count more (0; 0.5 saves a third of the time)",
          told.info_batch)
      .option("--early-stopping", "N", "ends when val_loss has not improved for N epochs (never)", told.early_stopping)
      .flag("--keep-best", "model.safetensors is of the epoch with the best val_accuracy, not of the last",
            told.keep_best)
      .flag("--no-preflight", "does not look at data and set-up first", told.no_preflight)
      .option("--device", "cpu|cuda", "(cpu)", told.device);
  tools::add_going_on(arguments, told);
  arguments.footer(
      "The run's folder holds model.safetensors (for predict), metrics.csv, accuracy.svg, confusion.svg, "
      "config.json, report.html, rates.svg and\nrates.csv of --find-rate, events for\nTensorBoard, checkpoints/ and "
      "log.txt. Ctrl-C stops it where it can "
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

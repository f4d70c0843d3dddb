// A run that is killed and goes on ends with the bytes of one that never stopped: in every set-up, wherever it is
// killed, and where a write fails. And what each part of a recipe does.
#include <algorithm>
#include <cerrno>
#include <cmath>
#include <filesystem>
#include <map>
#include <memory>
#include <stop_token>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <transferlib/core/files.hpp>
#include <transferlib/data/transforms.hpp>
#include <transferlib/model/save.hpp>
#include <transferlib/report/csv.hpp>
#include <transferlib/train/callbacks.hpp>
#include <transferlib/train/trainer.hpp>

#include "toys.hpp"

namespace tl = transferlib;
using namespace toys;
using Catch::Matchers::ContainsSubstring;

namespace {

using Model = tl::Classifier<SqueezeNet, tl::Linear>;
struct Killed {};

/// Ends the program, as it were, when the training has told so many things.
struct KillAt {
  Index left = -1;
  void on_progress(const tl::Progressed& p) {
    if (p.phase != "features" && left-- == 0) throw Killed{};
  }
};
struct StopAt {
  std::stop_source* source = nullptr;
  Index left = -1;
  std::string phase = "train";
  void on_progress(const tl::Progressed& p) {
    if (p.phase == phase && left-- == 0) source->request_stop();
  }
};
struct Sentences {
  std::string text;
  void on_note(std::string_view sentence) { text += std::string(sentence) + "\n"; }
};

/// How a run is set up: what is frozen, how it is trained, what watches it.
struct SetUp {
  std::string name;
  tl::AnyRule rule = tl::FreezeAll{};
  tl::TrainerOptions options{};
  bool flips = false, early = false, two_phases = false;
  double smoothing = 0.0;
};

Model model_of(const SetUp& set_up) {
  return {lively<SqueezeNet>(16, 1), tl::FreezePolicy<tl::AnyRule>{set_up.rule},
          tl::Head<tl::Linear>{{.dropout = 0.1, .loss = tl::CrossEntropy{.label_smoothing = set_up.smoothing}}},
          colours};
}

struct Outcome {
  std::string model, metrics;
  friend bool operator==(const Outcome&, const Outcome&) = default;
};

/// The columns without the time.
std::string metrics_of(const tl::History& history) {
  std::string out;
  for (const tl::Epoch& epoch : history.epochs)
    for (const auto& [name, value] : epoch.values)
      if (name != "seconds") out += tl::detail::text(epoch.number, " ", name, " ", value, "\n");
  return out;
}

/// A run in a folder, its model's bytes and its metrics. \throws Killed
template <class... Callbacks>
Outcome run(const SetUp& set_up, const std::filesystem::path& folder, bool resume, Callbacks&... callbacks) {
  static const auto train = colour_data(37, 16, 1), val = colour_data(12, 16, 2);
  Model model = model_of(set_up);
  tl::TrainerOptions options = set_up.options;
  options.checkpoints.folder = folder;
  options.checkpoints.resume = resume;
  tl::Trainer trainer{model, options};
  tl::EarlyStopping early{{.monitor = "val_loss", .patience = 1, .least = 10.0}};
  tl::KeepBest best;
  tl::History history;
  const auto flipped = tl::augment(train, tl::AnyTransform<tl::ClassIndex>(tl::Flip{}));
  const auto fit = [&](const auto& data) {
    if (set_up.two_phases)
      return trainer.fine_tune(data, val, {.head_epochs = 1, .freeze = tl::FreezeUntil{4}}, callbacks...);
    if (set_up.early) return trainer.fit(data, val, early, best, callbacks...);
    return trainer.fit(data, val, callbacks...);
  };
  history = set_up.flips ? fit(flipped) : fit(train);
  const auto path = folder / "model.safetensors";
  tl::save(model, path);
  return {tl::sha256(tl::MappedFile::open(path)->bytes()), metrics_of(history)};
}

std::vector<SetUp> set_ups() {
  std::vector<SetUp> out;
  out.push_back(
      {"a head on cached features, Adam, step schedule",
       tl::FreezeAll{},
       {.epochs = 3, .batch = 8, .optimizer = tl::Adam{.lr = 1e-2}, .schedule = tl::StepRate{1, 0.5}, .seed = 3}});
  out.push_back({"all of it: AdamW, one-cycle, average, clipping, accumulation, mixing, flips, two workers",
                 tl::FreezeNone{},
                 {.epochs = 2,
                  .batch = 6,
                  .optimizer = tl::AdamW{.lr = 3e-3},
                  .schedule = tl::OneCycle{},
                  .groups = {.backbone = 0.5, .stage_decay = 0.5, .decay_norms_and_biases = false},
                  .mix = tl::MixOrCut{},
                  .ema = tl::Ema{.decay = 0.9},
                  .clip_norm = 1.0,
                  .accumulate = 2,
                  .l2_sp = {.backbone = 0.1, .head = 0.01},
                  .workers = 2},
                 true});
  out.push_back({"gradual unfreezing, SGD, plateau, early stopping, the best epoch kept, balanced",
                 tl::FreezeAll{},
                 {.epochs = 4,
                  .batch = 8,
                  .optimizer = tl::Sgd{.lr = 1e-2, .momentum = 0.9, .weight_decay = 1e-4, .nesterov = true},
                  .schedule = tl::ReduceOnPlateau{.patience = 0},
                  .unfreezing = tl::GradualUnfreezing{},
                  .balanced = true,
                  .checkpoints = {.every_steps = 2}},
                 true,
                 true});
  out.push_back({"unfreezing where validation stalls, bf16",
                 tl::FreezeAll{},
                 {.epochs = 4,
                  .batch = 8,
                  .optimizer = tl::Adam{.lr = 3e-2},
                  .unfreezing = tl::UnfreezeOnStall{.monitor = "val_accuracy", .higher = true, .patience = 1},
                  .autocast = tl::Precision::bf16,
                  .checkpoints = {.every_steps = 1}}});
  out.push_back({"pictures left out that are told well, accumulation, one-cycle, flips",
                 tl::FreezeAll{},
                 {.epochs = 4,
                  .batch = 4,
                  .optimizer = tl::Adam{.lr = 1e-2},
                  .schedule = tl::OneCycle{},
                  .info_batch = tl::InfoBatch{.ratio = 0.7, .whole = 0.25},
                  .accumulate = 2,
                  .seed = 5,
                  .checkpoints = {.every_steps = 1}},
                 true});
  out.push_back({"two phases with an average, fp16 with its scaler",
                 tl::FreezeAll{},
                 {.epochs = 2,
                  .batch = 8,
                  .optimizer = tl::Adam{.lr = 1e-2},
                  .ema = tl::Ema{.decay = 0.8, .warmup = false},
                  .autocast = tl::Precision::fp16,
                  .checkpoints = {.every_steps = 3}},
                 false,
                 false,
                 true});
  return out;
}

}  // namespace

TEST_CASE("A run that is killed anywhere and goes on gives the bytes of one that never stopped") {
  for (const SetUp& set_up : set_ups()) {
    INFO(set_up.name);
    Folder whole;
    KillAt counter{.left = 1 << 20};
    const Outcome expected = run(set_up, whole, false, counter);
    const Index events = (1 << 20) - counter.left;
    REQUIRE(events > 10);
    for (Index at = 1; at < events; at += 1 + events / 7) {
      Folder folder;
      KillAt kill{.left = at};
      CHECK_THROWS_AS(run(set_up, folder, false, kill), Killed);
      // Killed once more on the way, sooner.
      KillAt again{.left = 3};
      Outcome outcome;
      try {
        outcome = run(set_up, folder, true, again);
      } catch (const Killed&) {
        outcome = run(set_up, folder, true);
      }
      CHECK(outcome == expected);
    }
  }
}

TEST_CASE("A run that is stopped writes where it stands, and goes on from there") {
  for (const SetUp& set_up : set_ups()) {
    INFO(set_up.name);
    Folder whole, folder;
    const Outcome expected = run(set_up, whole, false);
    const auto stop_and_go_on = [&](const std::filesystem::path& where, StopAt stop) {
      std::stop_source source;
      SetUp stopping = set_up;
      stopping.options.stop = source.get_token();
      stop.source = &source;
      run(stopping, where, false, stop);
      Sentences sentences;
      CHECK(run(set_up, where, true, sentences) == expected);
      CHECK_THAT(sentences.text, ContainsSubstring("goes on after step "));
    };
    stop_and_go_on(folder, {.left = 6});
    // After the last step of an epoch, which is measured then: the second, whose pictures may be fewer.
    const Folder measured;
    const Index of_an_epoch = (12 + set_up.options.batch - 1) / set_up.options.batch;
    stop_and_go_on(measured, {.left = of_an_epoch, .phase = "validate"});
    // What is complete is not trained again.
    KillAt none{.left = 0};
    CHECK(run(set_up, folder, true, none) == expected);
  }
}

/// A loss of two terms.
struct TwoTerms : tl::Module {
  struct Options {};
  using Input = tl::Pooled;
  using Output = tl::Tensor;
  using Target = tl::ClassIndex;
  using Prediction = tl::Tensor;
  using Metric = tl::Accuracy;
  TwoTerms(const tl::FeatureSpec& features, const Options&)
      : weight(register_parameter("weight", at::zeros({features.classes, features.width}))) {}
  tl::Tensor forward(const tl::Activations& a, const tl::Pass&) { return a.at(0).matmul(weight.t()); }
  tl::LossTerms loss(const tl::Tensor& y, const tl::Batch& b) {
    return {{{"wrong", at::cross_entropy_loss(y, b.target)}, {"large", y.square().mean()}}};
  }
  tl::Tensor predict(const tl::Tensor& y) { return y.softmax(1); }
  tl::Tensor weight;
};

TEST_CASE("The terms of a loss go on under their names, after the last step of an epoch too") {
  const auto train = colour_data(37, 16, 1), val = colour_data(12, 16, 2);
  const auto metrics = [&](const std::filesystem::path& folder, bool resume, std::stop_token stop, StopAt at) {
    tl::Classifier<SqueezeNet, TwoTerms> model{lively<SqueezeNet>(16, 1), tl::FreezePolicy<tl::FreezeAll>{},
                                               tl::Head<TwoTerms>{}, colours};
    tl::Trainer trainer{
        model, {.epochs = 2, .batch = 8, .checkpoints = {.folder = folder, .resume = resume}, .stop = std::move(stop)}};
    return metrics_of(trainer.fit(train, val, at));
  };
  Folder whole, folder;
  const std::string expected = metrics(whole, false, {}, {});
  CHECK_THAT(expected, ContainsSubstring("1 train_wrong "));
  CHECK_THAT(expected, ContainsSubstring("1 train_large "));
  std::stop_source source;
  CHECK(metrics(folder, false, source.get_token(), {&source, 4}).empty());  // the fifth step is the epoch's last
  CHECK(metrics(folder, true, {}, {}) == expected);
}

TEST_CASE("Where a write fails, what was written before goes on") {
  const SetUp set_up = set_ups()[2];
  Folder whole;
  const Outcome expected = run(set_up, whole, false);
  Index failed = 0;
  for (Index passes = 0;; passes += 5) {
    Folder folder;
    tl::detail::file_faults.met = false;
    tl::detail::file_faults.error = passes % 2 == 0 ? ENOSPC : EIO;
    tl::detail::file_faults.passes = passes;
    std::string sentence;
    try {
      run(set_up, folder, false);
    } catch (const tl::FileError& e) {
      sentence = e.what();
    }
    tl::detail::file_faults.passes = -1;
    if (!tl::detail::file_faults.met) break;
    ++failed;
    CHECK(!sentence.empty());
    CHECK(run(set_up, folder, true) == expected);
  }
  CHECK(failed > 5);
}

TEST_CASE("What does not go together with a checkpoint is refused in a sentence") {
  SetUp set_up = set_ups()[0];
  Folder folder;
  const Outcome expected = run(set_up, folder, false);
  CHECK_THAT(sentence_of<tl::Error>([&] { run(set_up, folder, false); }),
             ContainsSubstring("holds the checkpoint of an earlier run"));
  SetUp other = set_up;
  other.options.batch = 4;
  const std::string sentence = sentence_of<tl::Error>([&] { run(other, folder, true); });
  CHECK_THAT(sentence, ContainsSubstring("batch was 8 and is 4"));
  other.options.checkpoints.allow = true;
  Sentences sentences;
  run(other, folder, true, sentences);
  CHECK_THAT(sentences.text, ContainsSubstring("begun otherwise: batch was 8 and is 4"));
  // What the run before did not know begins anew.
  Folder unpruned;
  run(set_up, unpruned, false);
  SetUp pruned = set_up;
  pruned.options.info_batch = tl::InfoBatch{};
  pruned.options.epochs += 2;
  pruned.options.checkpoints.allow = true;
  Sentences begun;
  run(pruned, unpruned, true, begun);
  CHECK_THAT(begun.text, ContainsSubstring("info_batch was none and is 0.5"));
  SetUp smoothed = set_up;
  smoothed.smoothing = 0.1;
  CHECK_THAT(sentence_of<tl::Error>([&] { run(smoothed, folder, true); }), ContainsSubstring("smoothing 0.1"));
  // A damaged file is left out, and the one before it is taken.
  Folder damaged;
  run(set_up, damaged, false);
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(damaged))
    if (entry.path().filename().string().starts_with("step-")) files.push_back(entry.path());
  REQUIRE(files.size() >= 2);
  std::sort(files.begin(), files.end());
  std::filesystem::resize_file(files.back(), std::filesystem::file_size(files.back()) / 2);
  Sentences left_out;
  CHECK(run(set_up, damaged, true, left_out) == expected);
  CHECK_THAT(left_out.text, ContainsSubstring("left out: "));
  // Two at a time.
  tl::FileLock lock(damaged / "lock");
  CHECK_THAT(sentence_of<tl::Error>([&] { run(set_up, damaged, true); }), ContainsSubstring("another run is writing"));
}

TEST_CASE("A run goes on for more epochs where no schedule looks at the end") {
  SetUp longer = set_ups()[0], shorter = longer;
  longer.options.epochs = 5;
  Folder whole, folder;
  const Outcome expected = run(longer, whole, false);
  run(shorter, folder, false);
  CHECK(run(longer, folder, true) == expected);
}

TEST_CASE("Only the newest checkpoints and that of the best epoch are kept") {
  SetUp set_up = set_ups()[0];
  set_up.options.epochs = 6;
  set_up.options.checkpoints.every_steps = 1;
  Folder folder;
  run(set_up, folder, false);
  Index files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    if (entry.path().filename().string().starts_with("step-")) ++files;
  CHECK(files >= 2);
  CHECK(files <= 3);
}

TEST_CASE("Batches whose gradients are added make the step of one large batch") {
  const auto train = colour_data(24, 16, 1), val = colour_data(12, 16, 2);
  const auto weights = [&](Index batch, Index accumulate) {
    Model model{lively<SqueezeNet>(16, 1), tl::FreezePolicy<tl::FreezeAll>{}, tl::Head<tl::Linear>{}, colours};
    tl::Trainer{model, {.epochs = 2, .batch = batch, .optimizer = tl::Sgd{.lr = 0.1}, .accumulate = accumulate}}.fit(
        train, val);
    return snapshot(model.head());
  };
  // 24 pictures as 10, 10, 4 against 5 + 5, 5 + 5, 4.
  const auto one = weights(10, 1), added = weights(5, 2);
  for (const auto& [name, value] : one) CHECK(difference(value, added.at(name)) < 1e-6);
  CHECK(difference(one.at("weight"), weights(5, 1).at("weight")) > 1e-4);
}

TEST_CASE("Groups learn at rates of their own") {
  const auto train = colour_data(24, 16, 1), val = colour_data(12, 16, 2);
  const auto moved = [&](tl::ParameterGroups groups) {
    Model model{lively<SqueezeNet>(16, 1), tl::FreezePolicy<tl::FreezeNone>{}, tl::Head<tl::Linear>{}, colours};
    const auto before = model.state();
    std::vector<Tensor> was;
    for (const auto& item : before) was.push_back(item.second.detach().clone());
    tl::Trainer{model, {.epochs = 1, .batch = 24, .optimizer = tl::Sgd{.lr = 0.01}, .groups = groups}}.fit(train, val);
    std::map<std::string, double> out;
    for (std::size_t i = 0; i < was.size(); ++i)
      if (was[i].is_floating_point() && before[i].second.requires_grad())
        out[before[i].first] = (before[i].second - was[i]).norm().item<double>();
    return out;
  };
  const auto plain = moved({}), grouped = moved({.backbone = 0.5, .stage_decay = 0.1, .by_name = {{"head.bias", 0.0}}});
  std::vector<double> ratios;
  for (const auto& [name, distance] : plain) {
    if (distance < 1e-7) continue;
    const double ratio = grouped.at(name) / distance;
    INFO(name);
    if (name == "head.bias") {
      CHECK(ratio == 0.0);
    } else if (name == "head.weight") {
      CHECK(std::abs(ratio - 1.0) < 1e-3);
    } else {
      // One of .5, .05, .005 …: a stage's own.
      const double power = std::log10(0.5 / ratio);
      CHECK(std::abs(power - std::round(power)) < 1e-2);
      ratios.push_back(std::round(power));
    }
  }
  CHECK(*std::max_element(ratios.begin(), ratios.end()) > *std::min_element(ratios.begin(), ratios.end()));
}

TEST_CASE("The whole gradient is shortened to a length") {
  const auto train = colour_data(24, 16, 1), val = colour_data(12, 16, 2);
  Model model{lively<SqueezeNet>(16, 1), tl::FreezePolicy<tl::FreezeNone>{}, tl::Head<tl::Linear>{}, colours};
  const auto state = model.state();
  std::vector<Tensor> was;
  for (const auto& item : state) was.push_back(item.second.detach().clone());
  tl::Trainer{model, {.epochs = 1, .batch = 24, .optimizer = tl::Sgd{.lr = 1.0}, .clip_norm = 1e-3}}.fit(train, val);
  double squares = 0.0;
  for (std::size_t i = 0; i < was.size(); ++i)
    if (state[i].second.requires_grad()) squares += (state[i].second - was[i]).detach().square().sum().item<double>();
  CHECK(std::abs(std::sqrt(squares) - 1e-3) < 1e-5);
}

TEST_CASE("L2-SP pulls the backbone to where it began and the head to zero") {
  const auto train = colour_data(24, 16, 1), val = colour_data(12, 16, 2);
  const auto distances = [&](tl::L2Sp l2) {
    Model model{lively<SqueezeNet>(16, 1), tl::FreezePolicy<tl::FreezeNone>{},
                tl::Head<tl::Linear>{{.standardise = false}}, colours};
    std::map<std::string, Tensor> was;
    for (const auto& [name, tensor] : model.state()) was[name] = tensor.detach().clone();
    tl::Trainer{model, {.epochs = 6, .batch = 8, .optimizer = tl::Sgd{.lr = 0.05}, .l2_sp = l2}}.fit(train, val);
    double backbone = 0.0, head = 0.0;
    for (const auto& [name, tensor] : model.state()) {
      if (!tensor.requires_grad()) continue;
      if (name.starts_with("backbone."))
        backbone += (tensor - was[name]).detach().square().sum().item<double>();
      else
        head += tensor.detach().square().sum().item<double>();
    }
    return std::pair(backbone, head);
  };
  const auto [free_backbone, free_head] = distances({});
  const auto [backbone, head] = distances({.backbone = 3.0, .head = 3.0});
  CHECK(backbone < 0.5 * free_backbone);
  CHECK(head < 0.5 * free_head);
}

TEST_CASE("What is measured and kept is the average of the weights") {
  const auto train = colour_data(24, 16, 1), val = colour_data(12, 16, 2);
  Model model{lively<SqueezeNet>(16, 1), tl::FreezePolicy<tl::FreezeAll>{},
              tl::Head<tl::Linear>{{.standardise = false}}, colours};
  const Tensor start = snapshot(model.head()).at("weight").clone();
  std::vector<Tensor> plain;
  struct Watch {
    std::vector<Tensor>* seen;
    Model* model;
    void on_progress(const tl::Progressed& p) {
      if (p.phase == "train") seen->push_back(model->head().parameters()[0].detach().clone());
    }
  } watch{&plain, &model};
  tl::Trainer{
      model,
      {.epochs = 2, .batch = 12, .optimizer = tl::Sgd{.lr = 0.5}, .ema = tl::Ema{.decay = 0.75, .warmup = false}}}
      .fit(train, val, watch);
  // What the progress shows is the weight before each step; the last step's result is not among them, so that the
  // average of the others is checked through the recursion's first steps.
  REQUIRE(plain.size() == 4);
  Tensor average = start;
  for (std::size_t i = 1; i < plain.size(); ++i) average = average * 0.75 + plain[i] * 0.25;
  const Tensor kept = snapshot(model.head()).at("weight");
  const Tensor last = (kept - 0.75 * average) / 0.25;
  CHECK(difference(last, plain.back()) > 1e-4);
  CHECK(difference(last, plain.back()) < 1.0);
}

TEST_CASE("Stages are unfrozen when it is their time, and the optimiser keeps what it knows") {
  const auto train = colour_data(24, 16, 1), val = colour_data(12, 16, 2);
  Model model{lively<SqueezeNet>(16, 1), tl::FreezePolicy<tl::FreezeAll>{}, tl::Head<tl::Linear>{}, colours};
  struct Count {
    Model* model;
    std::vector<Index> frozen;
    void on_epoch_end(const tl::Epoch&) {
      frozen.push_back(std::count(model->frozen().begin(), model->frozen().end(), true));
    }
  } count{&model, {}};
  Sentences sentences;
  tl::Trainer{model, {.epochs = 6, .batch = 8, .unfreezing = tl::GradualUnfreezing{.every = 2}}}.fit(train, val, count,
                                                                                                     sentences);
  REQUIRE(count.frozen.size() == 6);
  CHECK(count.frozen[0] == static_cast<Index>(model.layers().size()));
  CHECK(count.frozen[1] == count.frozen[0]);
  CHECK(count.frozen[2] < count.frozen[1]);
  CHECK(count.frozen[3] == count.frozen[2]);
  CHECK(count.frozen[5] <= count.frozen[4]);
  CHECK_THAT(sentences.text, ContainsSubstring("layers are frozen from now on"));
}

TEST_CASE("Numbers that can't be meant are refused") {
  const auto train = colour_data(12, 16, 1), val = colour_data(12, 16, 2);
  const auto sentence = [&](tl::TrainerOptions options) {
    Model model{lively<SqueezeNet>(16, 1), tl::FreezePolicy<tl::FreezeAll>{}, tl::Head<tl::Linear>{}, colours};
    return sentence_of<tl::Error>([&] { tl::Trainer{model, options}.fit(train, val); });
  };
  CHECK_THAT(sentence({.groups = {.backbone = -1.0}}), ContainsSubstring("backbone's factor"));
  CHECK_THAT(sentence({.ema = tl::Ema{.decay = 1.0}}), ContainsSubstring("decay of the average"));
  CHECK_THAT(sentence({.clip_norm = -1.0}), ContainsSubstring("clip_norm"));
  CHECK_THAT(sentence({.accumulate = 0}), ContainsSubstring("accumulate"));
  CHECK_THAT(sentence({.unfreezing = tl::GradualUnfreezing{0}}), ContainsSubstring("GradualUnfreezing"));
  CHECK_THAT(sentence({.checkpoints = {.keep = 0}}), ContainsSubstring("checkpoints are kept"));
}

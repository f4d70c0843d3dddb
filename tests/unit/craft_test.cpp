// The craft of fine-tuning: schedules, losses, mixing, erasing, balance, temperature, flips. tests/parity/make_craft.py
// made the numbers of PyTorch and torchvision.
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <numeric>
#include <set>
#include <span>
#include <stop_token>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <transferlib/core/files.hpp>
#include <transferlib/core/random.hpp>
#include <transferlib/data/balanced.hpp>
#include <transferlib/data/mix.hpp>
#include <transferlib/data/transforms.hpp>
#include <transferlib/formats/checkpoint.hpp>
#include <transferlib/heads/vector_head.hpp>
#include <transferlib/metrics/classification.hpp>
#include <transferlib/metrics/temperature.hpp>
#include <transferlib/model/flips.hpp>
#include <transferlib/model/save.hpp>
#include <transferlib/nn/losses.hpp>
#include <transferlib/report/rate_plot.hpp>
#include <transferlib/train/calibrate.hpp>
#include <transferlib/train/pruning.hpp>
#include <transferlib/train/rate_finder.hpp>
#include <transferlib/train/rate_range.hpp>
#include <transferlib/train/schedule.hpp>
#include <transferlib/train/trainer.hpp>
#include <transferlib/weights/state_dict.hpp>
#include <transferlib/zoo.hpp>

#include "toys.hpp"

// After it, which makes Catch2's CHECK its own.
#include "formula.hpp"

using namespace transferlib;
using Catch::Matchers::ContainsSubstring;
using toys::colours;
using toys::Folder;
using toys::same_bytes;
using toys::sentence_of;

namespace {

const Json& craft() {
  static const Json content = python("craft.json");
  return content;
}

/// Numbers in [0, 1) by the name's formula, as make_craft.py's `uniform`.
Tensor uniforms(const std::string& name, std::vector<Index> shape) {
  Tensor out = at::empty(shape, at::kDouble);
  double* p = out.mutable_data_ptr<double>();
  for (Index i = 0; i < out.numel(); ++i) p[i] = transferlib::uniform(fnv1a(name), static_cast<std::uint64_t>(i));
  return out;
}

double largest_difference(const Tensor& a, const Tensor& b) {
  REQUIRE(a.sizes() == b.sizes());
  return (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
}

Tensor listed(const Json& numbers, const Tensor& like) {
  return at::tensor(numbers.get<std::vector<double>>(), at::kDouble).view(like.sizes());
}

/// The largest difference between the gradient of a scalar function and its finite differences, of all `inputs`
/// (double), relative to the largest slope.
double gradient_error(const std::function<Tensor()>& f, std::vector<Tensor> inputs) {
  for (Tensor& t : inputs) {
    REQUIRE(t.scalar_type() == at::kDouble);
    t.mutable_grad() = Tensor();
    t.requires_grad_(true);
  }
  f().backward();
  const torch::NoGradGuard guard;
  double error = 0.0, largest = 0.0;
  for (Tensor& t : inputs) {
    REQUIRE(t.grad().defined());
    const Tensor gradient = t.grad().contiguous();
    for (Index i = 0; i < t.numel(); ++i) {
      double* x = t.mutable_data_ptr<double>() + i;
      const double own = *x, step = 1e-5;
      *x = own + step;
      const double above = f().item<double>();
      *x = own - step;
      const double below = f().item<double>();
      *x = own;
      const double slope = (above - below) / (2.0 * step);
      error = std::max(error, std::abs(slope - gradient.view(-1)[i].item<double>()));
      largest = std::max(largest, std::abs(slope));
    }
  }
  REQUIRE(largest > 1e-4);
  return error / largest;
}

}  // namespace

// ------------------------------------------------------------------------------------------------------------
// schedules

TEST_CASE("schedules are PyTorch's") {
  const std::map<std::string, Schedule> schedules{
      {"constant", ConstantRate{}},
      {"step", StepRate{.every = 7, .gamma = 0.3}},
      {"multi_step", MultiStepRate{.at = {3, 10, 11, 40}, .gamma = 0.2}},
      {"exponential", ExponentialRate{.gamma = 0.93}},
      {"cosine", CosineRate{}},
      {"cosine_warm", CosineRate{.warmup = 0.1, .least = 0.01}},
      {"cosine_37", CosineRate{.warmup = 37, .start = 0.5}},
      {"one_cycle", OneCycle{}},
      {"one_cycle_other",
       OneCycle{.rise = 0.123, .divisor = 10, .last_divisor = 100, .least_momentum = 0.8, .greatest_momentum = 0.9}},
      {"polynomial", PolynomialRate{}},
      {"polynomial_09", PolynomialRate{.power = 0.9}},
      {"rising", RisingRate{.to = 1e4}},
  };
  const auto steps = craft()["steps"].get<std::vector<Index>>();
  CHECK(craft()["schedules"].size() == schedules.size());
  for (const auto& [name, schedule] : schedules) {
    CAPTURE(name);
    check(schedule);
    const Json& wanted = craft()["schedules"][name];
    double error = 0.0;
    for (std::size_t i = 0; i < steps.size(); ++i) {
      const auto got = factors_at(schedule, {.step = steps[i], .steps_total = 1000, .steps_per_epoch = 20});
      const double rate = wanted["rate"][i].get<double>();
      error = std::max(error, std::abs(got.rate / rate - 1.0));
      REQUIRE(got.momentum.has_value() == wanted.contains("momentum"));
      if (got.momentum) error = std::max(error, std::abs(*got.momentum / wanted["momentum"][i].get<double>() - 1.0));
    }
    CHECK(error <= 1e-12);
  }
}

TEST_CASE("a schedule holds at its ends") {
  // Nothing divides by nothing, and a step past the end is the end.
  for (const Schedule& schedule :
       {Schedule(CosineRate{.warmup = 5}), Schedule(CosineRate{.warmup = 1}), Schedule(OneCycle{}),
        Schedule(OneCycle{.rise = 0.0}), Schedule(OneCycle{.rise = 1.0}), Schedule(PolynomialRate{}),
        Schedule(RisingRate{.to = 0.5})})
    for (const Index total : {1, 2, 3, 5, 30})
      for (Index step = 0; step < total + 3; ++step) {
        const double rate = factors_at(schedule, {.step = step, .steps_total = total, .steps_per_epoch = 2}).rate;
        CAPTURE(to_string(schedule), total, step, rate);
        CHECK((rate >= 0.0 && rate <= 1.0));
      }
  const auto at_step = [](const Schedule& s, Index step) {
    return factors_at(s, {.step = step, .steps_total = 10, .steps_per_epoch = 5}).rate;
  };
  CHECK(at_step(CosineRate{.warmup = 4, .start = 0.0}, 0) == 0.0);
  CHECK(at_step(CosineRate{.warmup = 4, .start = 0.0}, 4) == 1.0);
  CHECK(std::abs(at_step(CosineRate{.least = 0.25}, 10) - 0.25) < 1e-15);
  CHECK(at_step(PolynomialRate{}, 99) == 0.0);
  CHECK(at_step(ReduceOnPlateau{}, 3) == 1.0);
  CHECK(factors_at(OneCycle{.momentum = false}, {.step = 1, .steps_total = 10}).momentum == std::nullopt);
  CHECK(to_string(Schedule(CosineRate{.warmup = 0.1})) == "cosine warmup 0.1 least 0 start 0.01");
  std::set<std::string> names;
  for (const Schedule& schedule :
       {Schedule(ConstantRate{}), Schedule(StepRate{}), Schedule(MultiStepRate{.at = {1, 2}}),
        Schedule(ExponentialRate{}), Schedule(OneCycle{}), Schedule(PolynomialRate{}), Schedule(RisingRate{}),
        Schedule(ReduceOnPlateau{})})
    names.insert(to_string(schedule));
  CHECK(names.size() == 8);
}

TEST_CASE("a plateau is PyTorch's, and goes on from its state") {
  const std::map<std::string, ReduceOnPlateau> plateaus{
      {"plain", {.factor = 0.5, .patience = 2}},
      {"cooling", {.factor = 0.3, .patience = 1, .threshold = 0.05, .cooldown = 4}},
      {"least", {.factor = 0.1, .patience = 0, .least = 0.02}},
      {"accuracy", {.higher = true, .factor = 0.5, .patience = 3, .threshold = 1e-3, .cooldown = 1}},
  };
  CHECK(craft()["plateaus"].size() == plateaus.size());
  for (const auto& [name, options] : plateaus) {
    CAPTURE(name);
    const auto wanted = craft()["plateaus"][name].get<std::vector<double>>();
    REQUIRE(wanted.back() < 0.5);
    const Tensor noise = uniforms("plateau." + name, {60});
    Plateau plateau(options);
    CHECK(plateau.factor() == 1.0);
    double error = 0.0;
    for (std::size_t epoch = 0; epoch < wanted.size(); ++epoch) {
      const double value =
          std::exp(-static_cast<double>(epoch) / 8.0) + 0.2 * noise[static_cast<Index>(epoch)].item<double>();
      const double factor = plateau.update(options.higher ? 1.0 - value : value);
      error = std::max(error, std::abs(factor / wanted[epoch] - 1.0));
      CHECK(factor == plateau.factor());
      // Another one takes over after every epoch.
      Plateau next(options);
      next.set_state(plateau.state());
      CHECK(next.state() == plateau.state());
      plateau = next;
    }
    CHECK(error <= 1e-12);
  }
  Plateau plateau({.patience = 1});
  CHECK(plateau.update(std::nan("")) == 1.0);
  CHECK(plateau.update(std::nan("")) == 0.1);
  CHECK(std::all_of(plateau.state().begin(), plateau.state().end(), [](double x) { return std::isfinite(x); }));
  CHECK_THAT(sentence_of<OptionError>([&] {
               plateau.set_state({2.0, 0.0, 1.0, 0.0, 0.0});
             }),
             ContainsSubstring("a plateau's state is a factor in [0, 1]"));
  CHECK_THAT(sentence_of<OptionError>([&] {
               plateau.set_state({1.0, 0.0, 1.0, 0.5, 0.0});
             }),
             ContainsSubstring("two counts"));
}

TEST_CASE("a schedule that can't be meant is refused") {
  const auto refused = [](const Schedule& schedule) { return sentence_of<OptionError>([&] { check(schedule); }); };
  CHECK(refused(StepRate{.every = 0}) == "StepRate: every must be at least 1 epoch, not 0");
  CHECK(refused(StepRate{.gamma = 0.0}) == "StepRate: gamma must be above 0, not 0");
  CHECK(refused(MultiStepRate{}) == "MultiStepRate: at is empty; name the epochs after which the rate falls");
  CHECK(refused(MultiStepRate{.at = {3, 3}}) ==
        "MultiStepRate: at must hold rising numbers of epochs from 1; 3 follows 3");
  CHECK_THAT(refused(MultiStepRate{.at = {0}}), ContainsSubstring("0 follows 0"));
  CHECK_THAT(refused(MultiStepRate{.at = {1}, .gamma = -1.0}), ContainsSubstring("gamma must be above 0"));
  CHECK_THAT(refused(ExponentialRate{.gamma = std::nan("")}), ContainsSubstring("gamma must be above 0"));
  CHECK_THAT(refused(CosineRate{.warmup = -0.1}), ContainsSubstring("warmup must be"));
  CHECK_THAT(refused(CosineRate{.warmup = 1.5}), ContainsSubstring("a whole number of steps"));
  CHECK_THAT(refused(CosineRate{.least = 1.1}), ContainsSubstring("least must be a part of the rate"));
  CHECK_THAT(refused(CosineRate{.start = -1.0}), ContainsSubstring("start must be a part of the rate"));
  CHECK_THAT(refused(OneCycle{.rise = 1.1}), ContainsSubstring("rise must be"));
  CHECK_THAT(refused(OneCycle{.divisor = 0.5}), ContainsSubstring("divisor must be at least 1"));
  CHECK_THAT(refused(OneCycle{.last_divisor = 0.0}), ContainsSubstring("last_divisor must be at least 1"));
  CHECK_THAT(refused(OneCycle{.greatest_momentum = 1.0}), ContainsSubstring("momentum must be in [0, 1)"));
  CHECK_THAT(refused(OneCycle{.least_momentum = 0.96}), ContainsSubstring("above greatest_momentum"));
  CHECK_THAT(refused(PolynomialRate{.power = 0.0}), ContainsSubstring("power must be above 0"));
  CHECK_THAT(refused(RisingRate{.to = 0.0}), ContainsSubstring("to must be above 0"));
  CHECK_THAT(refused(ReduceOnPlateau{.monitor = ""}), ContainsSubstring("monitor is empty"));
  CHECK_THAT(refused(ReduceOnPlateau{.factor = 1.0}), ContainsSubstring("factor must be in (0, 1)"));
  CHECK_THAT(refused(ReduceOnPlateau{.patience = -1}), ContainsSubstring("patience"));
  CHECK_THAT(refused(ReduceOnPlateau{.threshold = 1.0}), ContainsSubstring("threshold"));
  CHECK_THAT(refused(ReduceOnPlateau{.cooldown = -1}), ContainsSubstring("cooldown"));
  CHECK_THAT(refused(ReduceOnPlateau{.least = 2.0}), ContainsSubstring("least"));
  CHECK_THAT(sentence_of<OptionError>([] { factors_at(ConstantRate{}, {.steps_total = 0}); }),
             ContainsSubstring("a schedule needs at least one step"));
}

// ---------------------------------------------------------------------------------------------------------------
// losses

namespace {

constexpr Index n = 7, classes = 5;
const std::vector<double> weights{0.5, 1.0, 2.0, 0.7, 1.3};

/// The tensors of make_craft.py's `losses`.
struct Task {
  Tensor logits = uniforms("craft.logits", {n, classes}) * 8 - 4;
  Tensor index = (uniforms("craft.index", {n}) * static_cast<double>(classes)).to(at::kLong);
  Tensor soft = uniforms("craft.soft", {n, classes});
  Tensor many = uniforms("craft.many", {n, classes}).gt(0.6).to(at::kFloat);
  Task() { soft = soft / soft.sum(1, true); }
};

FeatureSpec features_of(Index width, Index kinds) {
  FeatureSpec out;
  out.width = width;
  out.classes = kinds;
  return out;
}

using AnyLoss = std::variant<CrossEntropy, Focal, BinaryCrossEntropy, SigmoidFocal>;

}  // namespace

TEST_CASE("losses and their gradients are PyTorch's and torchvision's") {
  const Task task;
  const CrossEntropy both{.label_smoothing = 0.2, .class_weights = weights};
  const std::map<std::string, std::pair<AnyLoss, Tensor>> losses{
      {"index", {CrossEntropy{}, task.index}},
      {"index_smooth", {CrossEntropy{.label_smoothing = 0.1}, task.index}},
      {"index_weights", {CrossEntropy{.class_weights = weights}, task.index}},
      {"index_both", {both, task.index}},
      {"soft", {CrossEntropy{}, task.soft}},
      {"soft_smooth", {CrossEntropy{.label_smoothing = 0.1}, task.soft}},
      {"soft_both", {both, task.soft}},
      {"focal", {Focal{}, task.index}},
      {"focal_weights", {Focal{.gamma = 1.5, .class_weights = weights}, task.index}},
      {"focal_soft", {Focal{}, task.soft}},
      {"focal_soft_weights", {Focal{.gamma = 0.5, .class_weights = weights}, task.soft}},
      {"binary", {BinaryCrossEntropy{}, task.many}},
      {"binary_weights", {BinaryCrossEntropy{.positive_weights = weights}, task.many}},
      {"sigmoid_focal", {SigmoidFocal{}, task.many}},
      {"sigmoid_focal_other", {SigmoidFocal{.gamma = 1.0, .alpha = -1}, task.many}},
  };
  CHECK(craft()["losses"].size() == losses.size());
  for (const auto& [name, loss] : losses) {
    CAPTURE(name);
    const Json& wanted = craft()["losses"][name];
    const auto& [recipe, target] = loss;
    Tensor logits = task.logits.clone().requires_grad_(true);
    const Tensor value = loss_of(recipe, logits, target);
    value.backward();
    CHECK(value.scalar_type() == at::kDouble);
    CHECK(std::abs(value.item<double>() / wanted["value"].get<double>() - 1.0) <= 1e-12);
    CHECK(largest_difference(logits.grad(), listed(wanted["gradient"], logits)) <= 1e-14);
    Tensor own = task.logits.clone();
    const double error = gradient_error([&] { return loss_of(recipe, own, target); }, {own});
    CHECK(error <= 1e-8);
    // In float32 as in double, and as finite where everything is certain.
    const double single = loss_of(recipe, task.logits.to(at::kFloat), target).item<double>();
    CHECK(std::abs(single / value.item<double>() - 1.0) < 1e-5);
    for (const double scale : {60.0, -60.0}) {
      Tensor certain = (task.logits * scale).to(at::kFloat).requires_grad_(true);
      loss_of(recipe, certain, target).backward();
      CHECK(certain.grad().isfinite().all().item<bool>());
    }
  }
}

TEST_CASE("losses agree where they are the same") {
  const Task task;
  const Tensor hot = at::one_hot(task.index, classes).to(at::kFloat);
  const auto value = [&](const AnyLoss& loss, const Tensor& target) {
    return loss_of(loss, task.logits, target).item<double>();
  };
  const auto equal = [](double a, double b) { return std::abs(a - b) <= 1e-12 * std::abs(b); };
  CHECK(equal(value(CrossEntropy{}, hot), value(CrossEntropy{}, task.index)));
  CHECK(
      equal(value(CrossEntropy{.label_smoothing = 0.3}, hot), value(CrossEntropy{.label_smoothing = 0.3}, task.index)));
  CHECK(equal(value(Focal{.gamma = 0.0}, task.index), value(CrossEntropy{}, task.index)));
  CHECK(equal(value(Focal{.gamma = 0.0, .class_weights = weights}, task.index),
              value(CrossEntropy{.class_weights = weights}, task.index)));
  CHECK(equal(value(Focal{.class_weights = weights}, hot), value(Focal{.class_weights = weights}, task.index)));
  CHECK(equal(value(SigmoidFocal{.gamma = 0.0, .alpha = -1}, task.many), value(BinaryCrossEntropy{}, task.many)));
  CHECK(value(Focal{}, task.index) < value(Focal{.gamma = 1.0}, task.index));
  // The terms are those of the mean.
  const SigmoidFocal focal{.gamma = 1.5, .alpha = 0.4};
  CHECK(equal(sigmoid_focal_terms(focal, task.logits, task.many).mean().item<double>(), value(focal, task.many)));
}

TEST_CASE("a head refuses a loss that does not fit it") {
  const FeatureSpec spec = features_of(4, 3);
  const auto linear = [&](const ClassLoss& loss) {
    return sentence_of<OptionError>([&] { Linear(spec, {.loss = loss}); });
  };
  CHECK(linear(CrossEntropy{.class_weights = {1.0, 2.0}}) ==
        "class_weights has 2 numbers and there are 3 classes; give one a class, in the order of the labels, or none");
  CHECK(linear(Focal{.class_weights = {1.0, 0.0, 1.0}}) == "class_weights must be above 0; one is 0");
  CHECK(linear(CrossEntropy{.label_smoothing = 1.0}) == "label_smoothing must be in [0, 1), not 1");
  CHECK(linear(Focal{.gamma = -1.0}) == "a focal loss: gamma must be at least 0, not -1");
  CHECK(linear(CrossEntropy{.label_smoothing = 0.1, .class_weights = {1.0, 2.0, 3.0}}) == "(no error)");
  CHECK_THAT(sentence_of<OptionError>([&] { Mlp(spec, {.loss = Focal{.gamma = std::nan("")}}); }),
             ContainsSubstring("gamma must be at least 0"));
  CHECK_THAT(sentence_of<OptionError>([&] { MultiLabelLinear(spec, {.loss = SigmoidFocal{.alpha = 1.5}}); }),
             ContainsSubstring("alpha must be in [0, 1]"));
  CHECK_THAT(
      sentence_of<OptionError>([&] { MultiLabelMlp(spec, {.loss = BinaryCrossEntropy{.positive_weights = {1.0}}}); }),
      ContainsSubstring("positive_weights has 1 numbers"));
  // Where the model is built, by an erased head too.
  const auto network = Backbone<toys::SqueezeNet>::random({.size = 16});
  const CrossEntropy two{.class_weights = {1.0, 2.0}};
  CHECK_THAT(sentence_of<OptionError>([&] {
               Classifier model(Backbone<toys::SqueezeNet>::random({.size = 16}), FreezePolicy<FreezeAll>{},
                                Head<Linear>{{.loss = two}}, colours);
             }),
             ContainsSubstring("class_weights has 2 numbers"));
  for (const auto& head :
       {any_head(Head<Linear>{{.loss = two}}), any_head("linear", 0.0, 0, two), any_head("mlp:8", 0.0, 0, two)})
    CHECK_THAT(sentence_of<OptionError>([&] { AnyHead<ClassIndex>(spec, head.options); }),
               ContainsSubstring("class_weights has 2 numbers"));
}

TEST_CASE("a head's loss is the one it was told, whatever wraps it") {
  const FeatureSpec spec = features_of(6, 3);
  const Tensor x = uniforms("head.x", {5, 6}).to(at::kFloat), y = at::tensor({0, 2, 1, 1, 0}, at::kLong);
  const Tensor soft = at::one_hot(y, 3).to(at::kFloat) * 0.9 + 0.1 / 3.0;
  const ClassLoss loss = Focal{.gamma = 1.0, .class_weights = {1.0, 2.0, 3.0}};
  Linear plain(spec, {.loss = loss});
  AnyHead<ClassIndex> wrapped(spec, any_head(Head<Linear>{{.loss = loss}}).options);
  const Tensor out = plain.forward({x}, {});
  CHECK(out.scalar_type() == at::kFloat);
  for (const Tensor& target : {y, soft}) {
    const Batch batch{{}, target, {}, {}};
    const double wanted = loss_of(loss, out, target).item<double>();
    CHECK(plain.loss(out, batch).total().item<double>() == wanted);
    CHECK(wrapped.loss(wrapped.forward({x}, {}), batch).total().item<double>() == wanted);
    const Tensor rough = out.to(at::kBFloat16), terms = plain.loss(rough, batch).total();
    CHECK(terms.scalar_type() == at::kFloat);
    CHECK(same_bytes(terms, loss_of(loss, rough.to(at::kFloat), target)));
    Linear without(spec, {});
    CHECK(without.loss(out, batch).total().item<double>() == loss_of(CrossEntropy{}, out, target).item<double>());
  }
  // Accuracy takes the largest part of a soft label.
  Accuracy hard, softly;
  hard.update(at::softmax(out, 1), {{}, y, {}, {}});
  softly.update(at::softmax(out, 1), {{}, soft, {}, {}});
  CHECK(hard.values() == softly.values());
}

TEST_CASE("a saved model keeps the loss that it was trained by") {
  const Folder folder;
  const auto path = folder / "model.safetensors";
  const auto saved_with = [&]<class H>(const Head<H>& head) {
    Classifier model(Backbone<toys::SqueezeNet>::random({.size = 16}), FreezePolicy<FreezeAll>{}, head, colours);
    save(model, path);
    return load<toys::SqueezeNet, H>(path).head().recipe();
  };
  const std::vector<double> weights{0.1, 2.0, 1.0 / 3.0};
  CHECK(saved_with(Head<Linear>{}) == Linear(features_of(4, 3), {}).recipe());
  for (const ClassLoss& loss : std::vector<ClassLoss>{CrossEntropy{.label_smoothing = 0.1, .class_weights = weights},
                                                      Focal{.gamma = 1.5, .class_weights = weights}, Focal{}}) {
    CHECK(saved_with(Head<Linear>{{.loss = loss}}) == Linear(features_of(4, 3), {.loss = loss}).recipe());
    // Every digit of it; unless another is told.
    const auto model = load<toys::SqueezeNet, Linear>(path);
    const auto other = load<toys::SqueezeNet, Linear>(path, {.dropout = 0.5, .loss = Focal{.gamma = 3.0}});
    CHECK(other.head().recipe() == "focal, gamma 3, dropout 0.5");
    CHECK(load<toys::SqueezeNet, Linear>(path, {.dropout = 0.5}).head().recipe() ==
          Linear(features_of(4, 3), {.dropout = 0.5, .loss = loss}).recipe());
    const auto kept = [](const auto& l) { return l.class_weights; };
    CHECK(std::visit(kept, model.head().criterion()) == std::visit(kept, loss));
  }
  const SigmoidFocal focal{.gamma = 1.0, .alpha = 0.5};
  CHECK(saved_with(Head<MultiLabelLinear>{{.loss = focal}}) == "sigmoid focal, gamma 1, alpha 0.5, dropout 0");
  CHECK(saved_with(Head<MultiLabelLinear>{{.loss = BinaryCrossEntropy{.positive_weights = weights}}}) ==
        MultiLabelLinear(features_of(4, 3), {.loss = BinaryCrossEntropy{.positive_weights = weights}}).recipe());
  CHECK(saved_with(Head<RegressionLinear>{}) == "squared error, dropout 0");

  // A file of before has none, and is read; one that can't be meant is refused.
  saved_with(Head<Linear>{{.loss = Focal{.class_weights = weights}}});
  const auto changed = [&](const char* loss) {
    const Checkpoint file = open_checkpoint(path);
    StateDict state;
    for (const TensorView& view : file.tensors)
      state.emplace_back(view.name, transferlib::detail::to_tensor(view, file.owner).clone());
    auto metadata = file.metadata;
    metadata.erase("loss");
    if (loss != nullptr) metadata["loss"] = loss;
    write_state_dict(folder / "changed.safetensors", state, metadata);
    return load<toys::SqueezeNet, Linear>(folder / "changed.safetensors").head().recipe();
  };
  CHECK(changed(nullptr) == Linear(features_of(4, 3), {}).recipe());
  for (const char* loss :
       {"", "{", "[]", "{}", R"({"name": 3})", R"({"name": "hinge"})", R"({"name": "focal", "gamma": 2})",
        R"({"name": "focal", "gamma": -1, "class_weights": []})", R"({"name": "squared_error"})",
        R"({"name": "cross_entropy", "label_smoothing": 0, "class_weights": [1, 2]})"})
    CHECK_THAT(sentence_of<WeightsError>([&] { changed(loss); }), ContainsSubstring("the loss in the metadata of"));
}

TEST_CASE("gradients of every head are finite differences'") {
  const FeatureSpec spec = features_of(4, classes);
  const Task task;
  const auto check_head = [&](auto head, const Tensor& target) {
    head.standardise(at::arange(4, at::kDouble) * 0.1, at::arange(4, at::kDouble) * 0.3 + 0.5);
    head.to(at::kDouble);
    const Tensor x = uniforms("head.features", {n, 4}) * 2 - 1;
    const Pass pass{.training = true, .seed = 3};
    auto inputs = head.parameters();
    inputs.push_back(x);
    const double error = gradient_error(
        [&] {
          const Tensor y = head.forward({x}, pass);
          REQUIRE(y.scalar_type() == at::kDouble);
          return head.loss(y, {{}, target, {}, {}}).total();
        },
        inputs);
    CAPTURE(head.name());
    CHECK(error <= 1e-7);
  };
  const ClassLoss smooth = CrossEntropy{.label_smoothing = 0.1, .class_weights = weights};
  for (const Tensor& target : {task.index, task.soft}) {
    check_head(Linear(spec, {.dropout = 0.3, .loss = smooth}), target);
    check_head(Linear(spec, {.loss = Focal{}}), target);
    check_head(Mlp(spec, {.width = 9, .dropout = 0.3, .loss = smooth}), target);
    check_head(Mlp(spec, {.width = 9, .loss = Focal{.class_weights = weights}}), target);
  }
  check_head(MultiLabelLinear(spec, {.loss = BinaryCrossEntropy{.positive_weights = weights}}), task.many);
  check_head(MultiLabelMlp(spec, {.width = 9, .loss = SigmoidFocal{}}), task.many);
  check_head(RegressionLinear(spec, {}), task.soft);
  check_head(RegressionMlp(spec, {.width = 9}), task.soft);
}

// ---------------------------------------------------------------------------------------------------------------
// mixing

TEST_CASE("Beta has its mean and variance") {
  for (const auto& [a, b] :
       std::vector<std::pair<double, double>>{{0.2, 0.2}, {1, 1}, {0.5, 2}, {4, 4}, {0.01, 0.01}}) {
    CAPTURE(a, b);
    const int draws = 40000;
    double sum = 0.0, squares = 0.0;
    for (int i = 0; i < draws; ++i) {
      Random random(11, Purpose::test, static_cast<std::uint64_t>(i));
      const double x = transferlib::detail::draw_beta(random, a, b);
      REQUIRE((x >= 0.0 && x <= 1.0));
      sum += x;
      squares += x * x;
    }
    const double mean = sum / draws, variance = squares / draws - mean * mean;
    const double wanted_mean = a / (a + b), wanted_variance = a * b / ((a + b) * (a + b) * (a + b + 1.0));
    // Five standard errors; the squares' is at most that of numbers which are 0 or 1.
    CHECK(std::abs(mean - wanted_mean) < 5.0 * std::sqrt(wanted_variance / draws));
    CHECK(std::abs(variance - wanted_variance) < 5.0 * std::sqrt(wanted_variance / draws));
  }
}

TEST_CASE("MixUp and CutMix are torchvision's") {
  const Tensor x = uniforms("craft.pictures", {3, 2, 6, 8}).to(at::kFloat);
  const Tensor y = transferlib::detail::soft_labels(at::tensor({2, 0, 3}, at::kLong), 4);
  const Json& mixes = craft()["mixes"];
  const Json& up = mixes["mixup"];
  const double lambda = up["lambda"].get<double>();
  CHECK(largest_difference(transferlib::detail::blend(x, lambda), listed(up["x"], x)) == 0.0);
  CHECK(largest_difference(transferlib::detail::blend(y, lambda), listed(up["y"], y)) == 0.0);
  for (const char* name : {"cutmix_inside", "cutmix_corner", "cutmix_nothing"}) {
    CAPTURE(name);
    const Json& wanted = mixes[name];
    const auto box = transferlib::detail::cut_box(6, 8, wanted["lambda"].get<double>(), wanted["column"].get<Index>(),
                                                  wanted["row"].get<Index>());
    CHECK(largest_difference(transferlib::detail::cut(x, box), listed(wanted["x"], x)) == 0.0);
    const double part = transferlib::detail::part_outside(box, 6, 8);
    CHECK(largest_difference(transferlib::detail::blend(y, part), listed(wanted["y"], y)) == 0.0);
  }
}

TEST_CASE("mixing is a function of seed, step and batch") {
  const auto batch = [](Index size) {
    return Batch{{uniforms("mix.x", {size, 3, 16, 16}).to(at::kFloat).contiguous(at::MemoryFormat::ChannelsLast)},
                 at::arange(size, at::kLong).remainder(4),
                 {},
                 {}};
  };
  for (const Mix& recipe : {Mix(MixUp{}), Mix(CutMix{}), Mix(MixOrCut{})}) {
    std::set<double> lambdas;
    for (Index step = 0; step < 30; ++step) {
      CAPTURE(to_string(recipe), step);
      const Batch given = batch(8);
      Batch a{given}, b = batch(8);
      mix(a, recipe, {.classes = 4, .seed = 5, .step = step});
      mix(b, recipe, {.classes = 4, .seed = 5, .step = step});
      CHECK(same_bytes(a.pictures[0], b.pictures[0]));
      CHECK(same_bytes(a.target, b.target));
      CHECK(same_bytes(given.pictures[0], batch(8).pictures[0]));
      CHECK(same_bytes(given.target, batch(8).target));
      CHECK(a.pictures[0].is_contiguous(at::MemoryFormat::ChannelsLast));
      REQUIRE(a.target.sizes() == at::IntArrayRef({8, 4}));
      CHECK(a.target.scalar_type() == at::kFloat);
      CHECK(largest_difference(a.target.sum(1), at::ones({8})) < 1e-6);
      // Picture 1 has the label 1, the one before it 0: what the label says is what the pixels are.
      const double lambda = a.target[1][1].item<double>();
      CHECK(std::abs(a.target[1][0].item<double>() + lambda - 1.0) < 1e-6);
      const Tensor own = given.pictures[0][1], other = given.pictures[0][0], seen = a.pictures[0][1];
      const double from_own = seen.eq(own).to(at::kDouble).mean().item<double>();
      const double blended = largest_difference(seen, own * lambda + other * (1.0 - lambda));
      CHECK((blended < 1e-6 || std::abs(from_own - lambda) < 1e-6));
      if (std::holds_alternative<MixUp>(recipe)) CHECK(blended < 1e-6);
      if (std::holds_alternative<CutMix>(recipe)) CHECK(std::abs(from_own - lambda) < 1e-6);
      lambdas.insert(lambda);
      Batch other_seed = batch(8);
      mix(other_seed, recipe, {.classes = 4, .seed = 6, .step = step});
      CHECK(!same_bytes(a.target, other_seed.target));
    }
    CHECK(lambdas.size() >= 20);
  }
  // One or the other, as often as it says.
  Index cuts = 0;
  for (Index step = 0; step < 400; ++step) {
    Batch b = batch(2);
    const Tensor own = b.pictures[0][0];
    mix(b, MixOrCut{.mix = {.alpha = 50.0}, .cut_probability = 0.25}, {.classes = 4, .seed = 1, .step = step});
    cuts += b.pictures[0][0].eq(own).any().item<bool>() ? 1 : 0;
  }
  CHECK((cuts > 60 && cuts < 140));
  // Nothing is nothing; labels may be soft already; a picture alone stays itself.
  Batch same = batch(3), soft = batch(3), alone = batch(1);
  mix(same, {}, {});
  CHECK(same.target.scalar_type() == at::kLong);
  soft.target = transferlib::detail::soft_labels(soft.target, 4);
  Batch hard = batch(3);
  mix(soft, MixUp{}, {.classes = 4, .seed = 2});
  mix(hard, MixUp{}, {.classes = 4, .seed = 2});
  CHECK(same_bytes(soft.target, hard.target));
  mix(alone, MixUp{}, {.classes = 4, .seed = 2});
  CHECK(largest_difference(alone.pictures[0], batch(1).pictures[0]) < 1e-6);
}

TEST_CASE("mixing refuses what it can't mix") {
  const auto refused = [](const Mix& recipe) { return sentence_of<OptionError>([&] { check(recipe); }); };
  CHECK(refused(MixUp{.alpha = 0.0}) == "MixUp: alpha must be in [1e-6, 1e6], not 0; to mix nothing, leave it out");
  CHECK_THAT(refused(CutMix{.alpha = std::nan("")}), ContainsSubstring("CutMix: alpha"));
  CHECK_THAT(refused(MixOrCut{.mix = {.alpha = -1.0}}), ContainsSubstring("MixUp: alpha"));
  CHECK_THAT(refused(MixOrCut{.cut_probability = 1.5}), ContainsSubstring("cut_probability must be in [0, 1]"));
  const Tensor x = at::rand({2, 3, 4, 4});
  const auto refused_batch = [](Batch batch) {
    return sentence_of<DataError>([&] { mix(batch, MixUp{}, {.classes = 3}); });
  };
  CHECK_THAT(refused_batch({{x, x}, at::zeros({4}, at::kLong), {}, {}}), ContainsSubstring("the batch has 2 blocks"));
  CHECK_THAT(refused_batch({{x.to(at::kByte)}, at::zeros({2}, at::kLong), {}, {}}), ContainsSubstring("of floats"));
  CHECK_THAT(refused_batch({{x}, at::full({2}, 3, at::kLong), {}, {}}),
             ContainsSubstring("label 3 is out of range: there are 3 classes"));
  CHECK_THAT(refused_batch({{x}, at::zeros({2, 5}), {}, {}}), ContainsSubstring("parts of classes, (N, 3)"));
  CHECK(to_string(Mix(MixOrCut{})) == "mixup 0.2 or cutmix 1 at 0.5");
  CHECK(to_string(Mix()) == "none");
}

// --------------------------------------------------------------------------------------------------------------
// erasing

TEST_CASE("erasing covers a rectangle of the pictures that it touches") {
  const Index count = 400, height = 24, width = 32;
  const auto draws = [](Index size, Index view) {
    std::vector<Draw> out;
    for (Index i = 0; i < size; ++i) out.push_back({.seed = 9, .view = view, .index = i});
    return out;
  };
  // Colours that no cover has.
  const Tensor pictures = at::full({count, 3, height, width}, 7, at::kByte);
  const RandomErasing erasing{.scale = {0.1, 0.3}, .ratio = {0.5, 2.0}};
  Batch batch{{pictures}, {}, {}, {}};
  erasing(batch, draws(count, 1), ClassIndex{});
  CHECK(pictures.eq(7).all().item<bool>());
  Index touched = 0;
  const Tensor cover = at::tensor({124, 116, 104}, at::kByte).view({3, 1, 1});
  std::set<Index> tops;
  for (Index i = 0; i < count; ++i) {
    const Tensor changed = batch.pictures[0][i].ne(7).any(0), where = changed.nonzero();
    if (where.size(0) == 0) continue;
    ++touched;
    const Tensor low = std::get<0>(where.min(0)), high = std::get<0>(where.max(0)) + 1;
    const Index top = low[0].item<Index>(), left = low[1].item<Index>();
    const Index h = high[0].item<Index>() - top, w = high[1].item<Index>() - left;
    REQUIRE(h * w == where.size(0));
    CHECK(batch.pictures[0][i].narrow(1, top, h).narrow(2, left, w).eq(cover).all().item<bool>());
    // Sides are rounded, so that areas and ratios are a little off.
    const double part = static_cast<double>(h * w) / static_cast<double>(height * width);
    CHECK((part > 0.08 && part < 0.33));
    const double ratio = static_cast<double>(h) / static_cast<double>(w);
    CHECK((ratio > 0.45 && ratio < 2.25));
    tops.insert(top);
  }
  CHECK((touched > 160 && touched < 240));
  CHECK(tops.size() > 8);

  // A picture's cover does not depend on what stands beside it, in uint8 and in float32 alike.
  Batch last{{pictures.narrow(0, count - 1, 1).contiguous()}, {}, {}, {}};
  erasing(last, std::vector<Draw>{draws(count, 1).back()}, ClassIndex{});
  CHECK(same_bytes(last.pictures[0][0], batch.pictures[0][count - 1]));
  Batch floats{{pictures.to(at::kFloat).div(255.0)}, {}, {}, {}};
  erasing(floats, draws(count, 1), ClassIndex{});
  CHECK(largest_difference(floats.pictures[0] * 255.0, batch.pictures[0]) < 0.51);
  Batch next{{pictures}, {}, {}, {}};
  erasing(next, draws(count, 2), ClassIndex{});
  CHECK(!same_bytes(next.pictures[0], batch.pictures[0]));
  CHECK(!erasing.views().has_value());

  // Noise is uniform; grey pictures get the mean of the colour; all or none.
  Batch noisy{{at::zeros({40, 1, 64, 64})}, {}, {}, {}}, grey{{at::zeros({40, 1, 8, 8})}, {}, {}, {}};
  RandomErasing{.probability = 1.0, .noise = true}(noisy, draws(40, 0), Values{});
  const Tensor values = noisy.pictures[0].masked_select(noisy.pictures[0].ne(0.0));
  REQUIRE(values.numel() > 5000);
  CHECK(std::abs(values.mean().item<double>() - 0.5) < 0.02);
  CHECK(std::abs(values.var().item<double>() - 1.0 / 12.0) < 0.01);
  RandomErasing{.probability = 1.0, .colour = {0.3, 0.6, 0.9}}(grey, draws(40, 0), MultiLabel{});
  CHECK(std::abs(grey.pictures[0].max().item<double>() - 0.6) < 1e-6);
  CHECK(grey.pictures[0].flatten(1).amax(1).gt(0.0).to(at::kLong).sum().item<Index>() >= 38);
  Batch none{{pictures}, {}, {}, {}};
  RandomErasing{.probability = 0.0}(none, draws(count, 1), ClassIndex{});
  CHECK(same_bytes(none.pictures[0], pictures));

  const auto refused = [&](const RandomErasing& wrong) {
    return sentence_of<OptionError>([&] { wrong(batch, draws(count, 1), ClassIndex{}); });
  };
  CHECK(refused({.probability = 2.0}) == "the probability of erasing must be in [0, 1], not 2");
  CHECK_THAT(refused({.scale = {0.0, 0.5}}), ContainsSubstring("scale must be an interval"));
  CHECK_THAT(refused({.scale = {0.5, 1.5}}), ContainsSubstring("at most 1"));
  CHECK_THAT(refused({.ratio = {2.0, 1.0}}), ContainsSubstring("ratio must be an interval"));
  CHECK_THAT(refused({.colour = {0.0, 0.0, 2.0}}), ContainsSubstring("a colour must be in [0, 1]"));
  CHECK(AnyTransform<ClassIndex>(compose(Flip{}, erasing)).description() ==
        "flip lr; random erasing 0.5 scale 0.1 0.3 ratio 0.5 2 0.485 0.456 0.406");
}

// --------------------------------------------------------------------------------------------------------------
// balance

TEST_CASE("a balanced order deals every class as often, and every picture before one comes again") {
  // 50 of class 0, 7 of class 2, 3 of class 5; none of the others.
  std::vector<Index> labels(60, 0);
  for (std::size_t i = 0; i < 10; ++i) labels[i * 6] = i < 7 ? 2 : 5;
  std::map<Index, Index> members;
  for (Index label : labels) ++members[label];
  std::vector<Index> total(60, 0);
  std::map<Index, Index> of_class;
  std::set<std::vector<Index>> orders;
  for (std::uint64_t epoch = 1; epoch <= 9; ++epoch) {
    const auto order = balanced_order(labels, 4, epoch);
    CHECK(order == balanced_order(labels, 4, epoch));
    REQUIRE(order.size() == 60);
    orders.insert(order);
    std::vector<Index> times(60, 0);
    std::map<Index, Index> drawn;
    for (Index i : order) {
      REQUIRE((i >= 0 && i < 60));
      ++times[static_cast<std::size_t>(i)];
      ++drawn[labels[static_cast<std::size_t>(i)]];
    }
    for (const auto& [label, count] : members) {
      CHECK(drawn[label] == 20);
      of_class[label] += drawn[label];
    }
    for (std::size_t i = 0; i < 60; ++i) {
      const Index size = members[labels[i]];
      CHECK((times[i] >= 20 / size && times[i] <= (20 + size - 1) / size));
      total[i] += times[i];
    }
    // In no order: the rare class is not at one end.
    Index first_half = 0;
    for (std::size_t i = 0; i < 30; ++i) first_half += labels[static_cast<std::size_t>(order[i])] == 5 ? 1 : 0;
    CHECK((first_half >= 3 && first_half <= 17));
  }
  CHECK(orders.size() == 9);
  CHECK(balanced_order(labels, 5, 1) != balanced_order(labels, 4, 1));
  // Over all epochs too, no picture is dealt twice more than another of its class.
  for (const auto& [label, size] : members) {
    Index least = 1000, most = 0;
    for (std::size_t i = 0; i < 60; ++i)
      if (labels[i] == label) least = std::min(least, total[i]), most = std::max(most, total[i]);
    CHECK(most - least <= 1);
  }
  // What does not divide goes round: 7 pictures of 3 classes are 3 + 2 + 2, each class 7 times in three epochs.
  const std::vector<Index> uneven{0, 0, 0, 0, 0, 1, 2};
  std::map<Index, Index> drawn;
  for (std::uint64_t epoch = 5; epoch < 8; ++epoch)
    for (Index i : balanced_order(uneven, 0, epoch)) ++drawn[uneven[static_cast<std::size_t>(i)]];
  CHECK(drawn == std::map<Index, Index>{{0, 7}, {1, 7}, {2, 7}});
  CHECK_THAT(sentence_of<DataError>([] { balanced_order({}, 0, 1); }), ContainsSubstring("no picture"));
  const std::vector<Index> wrong{0, -1};
  CHECK_THAT(sentence_of<DataError>([&] { balanced_order(wrong, 0, 1); }),
             ContainsSubstring("picture 1 has the label -1"));
}

TEST_CASE("balanced weights make classes count the same") {
  const std::vector<Index> labels{0, 0, 0, 1, 2, 2};
  const auto weights_of = balanced_weights(labels, 3);
  CHECK(weights_of == std::vector<double>{6.0 / 9.0, 2.0, 1.0});
  CHECK(sentence_of<DataError>([&] { balanced_weights(labels, 4); }) ==
        "class 3 has no picture, so no weight makes up for it");
  CHECK(sentence_of<DataError>([&] { balanced_weights(labels, 2); }) == "label 2 is out of range: there are 2 classes");
}

// ---------------------------------------------------------------------------------------------- temperature and flips

// --------------------------------------------------------------------------------------------------------------
// pictures left out

TEST_CASE("pictures that are told better than the mean are left out by half, and the others of them count twice") {
  const Index n = 2000;
  std::vector<Index> all(n);
  std::iota(all.begin(), all.end(), 0);
  transferlib::detail::PictureLosses losses(n);
  const InfoBatch half{};
  // Nothing was shown yet.
  CHECK(losses.choose(half, all, 1, 1) == std::pair{all, std::vector<float>(n, 1.0F)});
  // Of each four pictures three are told well; the hundred last ones are not shown.
  Tensor told = at::full({n - 100}, 0.1);
  for (Index i = 0; i < n - 100; i += 4) told[i] = 2.0;
  losses.update(std::span(all).first(n - 100), told);
  CHECK(losses.choose(half, all, 1, 2).first == all);  // they count from the next epoch on
  losses.end_epoch();
  const auto [ids, weights] = losses.choose(half, all, 1, 2);
  CHECK(losses.choose(half, all, 1, 2) == std::pair{ids, weights});
  CHECK(losses.choose(half, all, 1, 3).first != ids);
  CHECK(losses.choose(half, all, 2, 2).first != ids);
  CHECK(std::is_sorted(ids.begin(), ids.end()));
  Index well = 0, badly = 0, never = 0;
  for (std::size_t k = 0; k < ids.size(); ++k) {
    const Index i = ids[k];
    const bool hard = i >= n - 100 || i % 4 == 0;
    CHECK(weights[k] == (hard ? 1.0F : 2.0F));
    ++(i >= n - 100 ? never : hard ? badly : well);
  }
  CHECK(never == 100);
  CHECK(badly == 475);
  // 1,425 with one half each: within four deviations.
  CHECK(std::abs(static_cast<double>(well) - 712.5) < 4.0 * std::sqrt(1425.0) / 2.0);
  // A picture that was left out keeps its loss.
  const auto kept = losses.state();
  losses.update(std::span(all).first(1), at::full({1}, 5.0));
  losses.end_epoch();
  CHECK(losses.state().first[0] == 5.0);
  CHECK(losses.state().first[1] == kept.first[1]);
  // A third left out: the others count one and a half times.
  const auto third = losses.choose({.ratio = 1.0 / 3.0}, all, 1, 2);
  CHECK(std::count(third.second.begin(), third.second.end(), 1.5F) > 800);
}

TEST_CASE("a picture's weight is that of its gradient, and the loss is as it was") {
  const Tensor logits = at::linspace(-2.0, 1.5, 12, at::kDouble).view({4, 3}).sin();
  const Tensor target = at::tensor({0, 2, 1, 1}, at::kLong), weights = at::tensor({1.0F, 2.0F, 1.0F, 2.0F});
  const Tensor a = logits.clone().requires_grad_(), b = logits.clone().requires_grad_();
  const Tensor value =
      loss_of(CrossEntropy{.label_smoothing = 0.1}, transferlib::detail::weigh_gradient(a, weights), target);
  value.backward();
  const Tensor terms = at::cross_entropy_loss(b, target, {}, at::Reduction::None, -100, 0.1);
  (terms * weights).mean().backward();
  CHECK(at::allclose(a.grad(), b.grad(), 1e-12, 1e-12));
  CHECK(at::allclose(value, terms.mean(), 1e-12, 1e-12));
  CHECK(at::allclose(transferlib::detail::picture_losses(a, target),
                     at::cross_entropy_loss(logits, target, {}, 0).to(at::kFloat)));
}

TEST_CASE("the first epoch shows all pictures, the last ones too, and those between fewer") {
  const auto train = toys::colour_data(60, 16, 1), val = toys::colour_data(12, 16, 2);
  struct Shown {
    std::vector<Index> totals;
    void on_progress(const Progressed& p) {
      if (p.phase == "train" && (totals.empty() || static_cast<Index>(totals.size()) < p.epoch))
        totals.push_back(p.total);
      if (p.phase == "train") CHECK(totals.back() == p.total);
    }
  };
  const auto model = [] {
    return Classifier{toys::lively<toys::SqueezeNet>(16, 1), FreezePolicy<FreezeAll>{}, Head<Linear>{}, toys::colours};
  };
  TrainerOptions options{
      .epochs = 8, .batch = 7, .optimizer = Adam{.lr = 1e-2}, .info_batch = InfoBatch{.whole = 0.25}};
  auto first = model();
  Shown shown;
  const History history = Trainer{first, options}.fit(train, val, shown);
  REQUIRE(shown.totals.size() == 8);
  CHECK(shown.totals.front() == 60);
  CHECK(shown.totals[6] == 60);
  CHECK(shown.totals[7] == 60);
  for (std::size_t e = 1; e < 6; ++e) CHECK((shown.totals[e] < 56 && shown.totals[e] > 20));
  CHECK(history["train_loss"].back() < history["train_loss"].front());
  // It goes with class indices, one row of logits each, and no other way to choose or to mix pictures.
  const auto refusal = [&](auto change) {
    auto other = options;
    change(other);
    auto m = model();
    return sentence_of<OptionError>([&] { Trainer{m, other}.fit(train, val); });
  };
  CHECK_THAT(refusal([](auto& o) { o.balanced = true; }), ContainsSubstring("not with balanced"));
  CHECK_THAT(refusal([](auto& o) { o.mix = MixUp{}; }), ContainsSubstring("no mixing"));
  CHECK_THAT(refusal([](auto& o) { o.info_batch->ratio = 1.0; }), ContainsSubstring("between 0 and 1, not 1"));
  CHECK_THAT(refusal([](auto& o) { o.info_batch->whole = -0.5; }), ContainsSubstring("in [0, 1], not -0.5"));
  const TensorData<Values> numbers{at::rand({6, 3, 16, 16}), at::rand({6, 1}), {"width"}};
  Classifier regression{
      toys::lively<toys::SqueezeNet>(16, 1), FreezePolicy<FreezeAll>{}, Head<RegressionLinear>{}, {"width"}};
  CHECK_THAT(sentence_of<OptionError>([&] {
               Trainer{regression, options}.fit(numbers, numbers);
             }),
             ContainsSubstring("info_batch needs class indices"));
}

TEST_CASE("a temperature is the likeliest one") {
  const Index pictures = 200, kinds = 4;
  for (const auto& [name, wanted] : craft()["temperatures"].members()) {
    CAPTURE(name);
    const Tensor logits = uniforms("temperature.logits." + name, {pictures, kinds}) * wanted["scale"].get<double>();
    const Tensor drawn = (uniforms("temperature.draw." + name, {pictures}) * static_cast<double>(kinds)).to(at::kLong);
    const Tensor target = at::where(uniforms("temperature.right." + name, {pictures}).lt(0.6), logits.argmax(1), drawn);
    const double t = fit_temperature(logits, target);
    CHECK(std::abs(t / wanted["temperature"].get<double>() - 1.0) < 1e-7);
    // Its own slope is nothing, by other means than the library's.
    Tensor inverse = at::full({}, 1.0 / t, at::kDouble).requires_grad_(true);
    at::cross_entropy_loss(logits * inverse, target).backward();
    CHECK(std::abs(inverse.grad().item<double>()) < 1e-12);
    CHECK(std::abs(fit_temperature(logits * 3.0 + 5.0, target) / (3.0 * t) - 1.0) < 1e-10);
    CHECK(std::abs(fit_temperature(at::softmax(logits, 1).log(), target) / t - 1.0) < 1e-10);
    CHECK(std::abs(fit_temperature(logits.to(at::kFloat), target) / t - 1.0) < 1e-5);
  }
  // All right: so cold that nothing is missing. All wrong: as hot as may be. An impossible class does not matter to the
  // others.
  const Tensor logits = at::tensor({2.0, 0.0, 0.0, 3.0}, at::kDouble).view({2, 2});
  CHECK(fit_temperature(logits, at::tensor({0, 1}, at::kLong)) < 0.1);
  CHECK(std::abs(fit_temperature(logits, at::tensor({1, 0}, at::kLong)) - 1e3) < 1e-3);
  const Tensor mixed = at::tensor({2.0, 0.0, -HUGE_VAL, 1.0, 0.0, -HUGE_VAL, 0.0, 1.0, -HUGE_VAL}).view({3, 3});
  const Tensor truth = at::tensor({0, 1, 1}, at::kLong);
  CHECK(std::abs(fit_temperature(mixed, truth) / fit_temperature(mixed.narrow(1, 0, 2), truth) - 1.0) < 1e-9);
  CHECK_THAT(sentence_of<DataError>([&] {
               fit_temperature(logits, at::tensor({0, 2}, at::kLong));
             }),
             ContainsSubstring("labels go from 0 to 2 and there are 2 classes"));
  CHECK_THAT(sentence_of<DataError>([&] { fit_temperature(logits, at::zeros({3}, at::kLong)); }),
             ContainsSubstring("logits (N, classes)"));
  CHECK_THAT(sentence_of<DataError>([&] { fit_temperature(logits * std::nan(""), truth.narrow(0, 0, 2)); }),
             ContainsSubstring("no numbers"));
}

namespace {

auto trained_model() {
  Classifier model(Backbone<toys::SqueezeNet>::random({.size = 16}), FreezePolicy<FreezeAll>{}, Head<Mlp>{{.width = 8}},
                   colours);
  Trainer(model, {.epochs = 3, .batch = 20, .optimizer = Adam{.lr = 1e-2}, .seed = 1})
      .fit(toys::colour_data(120, 16, 1), toys::colour_data(30, 16, 2));
  return model;
}

}  // namespace

TEST_CASE("calibrating changes how sure a model is, not what it says") {
  auto model = trained_model();
  const auto data = toys::colour_data(60, 16, 3);
  const Batch all = data.batch(toys::first_ids(60));
  // Far too sure of itself.
  transferlib::detail::inner_head(model.head()).temper(0.02);
  const Tensor before = model.predict(all);
  const auto likelihood = [&](const Tensor& p) {
    return p.clamp_min(1e-38).log().gather(1, all.target.unsqueeze(1)).mean().item<double>();
  };
  const double temperature = calibrate(model, data, 25);
  const Tensor after = model.predict(all);
  CHECK(temperature > 1.0);
  CHECK(likelihood(after) > likelihood(before));
  CHECK(after.argmax(1).eq(before.argmax(1)).all().item<bool>());
  CHECK(std::abs(calibrate(model, data) - 1.0) < 1e-3);
  CHECK_THAT(sentence_of<OptionError>([&] { calibrate(model, data, 0); }), ContainsSubstring("at least 1 picture"));
}

TEST_CASE("flips at test time are averaged") {
  const auto model = trained_model();
  const Batch batch = toys::colour_data(10, 16, 4).batch(toys::first_ids(10));
  const auto mirrored = [&](std::vector<Index> sides) {
    return model.predict({{batch.pictures[0].flip(sides)}, {}, {}, {}}, Precision::fp32);
  };
  const Tensor own = model.predict(batch, Precision::fp32);
  CHECK(same_bytes(predict_with_flips(model, batch, {.left_right = false}, Precision::fp32), own));
  CHECK(largest_difference(predict_with_flips(model, batch, {}, Precision::fp32), (own + mirrored({3})) / 2.0) < 1e-6);
  const Tensor four = (own + mirrored({3}) + mirrored({2}) + mirrored({2, 3})) / 4.0;
  const Tensor got = predict_with_flips(model, batch, {.up_down = true}, Precision::fp32);
  CHECK(largest_difference(got, four) < 1e-6);
  CHECK(largest_difference(got, own) > 1e-6);
  CHECK(largest_difference(got.sum(1), at::ones({10})) < 1e-5);
}

// ----------------------------------------------------------------------------------------------------------------
// rates

TEST_CASE("a range of rates tells where the loss falls fastest") {
  // A fall around 1e-3, a rise from 1e-1 on; noise that is larger from step to step than the fall is.
  RateRange range;
  const Tensor noise = uniforms("rates", {100});
  for (Index i = 0; i < 100; ++i) {
    const double exponent = -6.0 + 0.06 * static_cast<double>(i);
    range.rates.push_back(std::pow(10.0, exponent));
    range.losses.push_back(2.0 - std::tanh(1.5 * (exponent + 3.0)) + std::exp(4.0 * (exponent + 1.0)) +
                           0.1 * noise[i].item<double>());
  }
  REQUIRE(range.steepest().has_value());
  CHECK(std::abs(std::log10(*range.steepest()) + 3.0) < 0.3);
  REQUIRE(range.least().has_value());
  CHECK((*range.least() > 1e-2 && *range.least() < 1e-1));
  const auto smoothed = range.smoothed();
  CHECK(smoothed.front() == range.losses.front());
  CHECK(smoothed.back() == range.losses.back());
  const History history = range.history();
  CHECK(history["rate"] == range.rates);
  CHECK(history["loss"] == range.losses);
  CHECK(history["smoothed_loss"] == smoothed);
  const std::string svg = rates_svg(range);
  CHECK_THAT(svg, ContainsSubstring("Loss by learning rate, steepest at 0.00"));
  CHECK_THAT(svg, ContainsSubstring("rate, as a power of ten"));
  // As a file; what lies far above the rest is left out, so that the fall is to be seen.
  const Folder folder;
  plot_rates(range, folder / "rates.svg");
  CHECK(read_file(folder / "rates.svg") == svg);
  range.losses.back() = 1e6;
  range.losses[40] = std::nan("");
  const std::string clipped = rates_svg(range, {.title = "Mine"});
  CHECK_THAT(clipped, ContainsSubstring("Mine") && !ContainsSubstring("1e+06") && !ContainsSubstring(" nan"));
  CHECK_THAT(sentence_of<FileError>([&] { plot_rates(range, folder / "none" / "rates.svg"); }),
             ContainsSubstring("none"));
  // What never falls has no such rate.
  RateRange rising{{1, 2, 3, 4, 5, 6}, {1, 2, 3, 4, 5, 6}};
  CHECK(rising.steepest() == std::nullopt);
  CHECK(RateRange{}.steepest() == std::nullopt);
  CHECK(RateRange{}.least() == std::nullopt);
  CHECK_THAT(sentence_of<OptionError>([] { rates_svg({}); }), ContainsSubstring("without a step"));
}

TEST_CASE("a rate is found on a copy, as the training itself would go") {
  Classifier model(Backbone<toys::SqueezeNet>::random({.size = 16}), FreezePolicy<FreezeUntil>{{"tail"}},
                   Head<Linear>{}, colours);
  // A third of the labels are wrong, so that a rate can be too high.
  auto [pictures, target] = toys::coloured(90, 16, 1);
  target.narrow(0, 0, 30).copy_(target.narrow(0, 1, 30).clone());
  const TensorData<ClassIndex> data(pictures, target, colours);
  const TrainerOptions options{.batch = 16, .optimizer = Sgd{.momentum = 0.9}, .seed = 3};
  const RateFinder finder{.from = 1e-5, .to = 1e3, .steps = 40};
  std::map<std::string, Tensor> before;
  for (const auto& [name, tensor] : model.state()) before[name] = tensor.detach().clone();
  const RateRange range = find_rate(model, data, options, finder);
  for (const auto& [name, tensor] : model.state()) CHECK(same_bytes(before.at(name), tensor));
  CHECK(!transferlib::detail::inner_head(model.head()).is_standardised());

  // It ends where the loss grows without bounds.
  REQUIRE(range.losses.size() == range.rates.size());
  CHECK((range.losses.size() > 20 && range.losses.size() < 40));
  CHECK(range.rates[0] == 1e-5);
  for (std::size_t i = 1; i < range.rates.size(); ++i)
    CHECK(std::abs(range.rates[i] / range.rates[i - 1] / std::pow(1e8, 1.0 / 39.0) - 1.0) < 1e-9);
  const RateRange again = find_rate(model, data, options, finder);
  CHECK(again.losses == range.losses);

  // The first losses are those of the model as it is; the suggested rate learns, the first one does not.
  const auto suggested = range.steepest();
  REQUIRE(suggested.has_value());
  CHECK((*suggested > 1e-4 && *suggested < 10.0));
  const auto loss_with = [&](double rate) {
    auto copy = clone(model);
    TrainerOptions o = options;
    o.epochs = 6;
    o.optimizer = Sgd{.lr = rate, .momentum = 0.9};
    return Trainer(copy, o).fit(data, data).epochs.back()["val_loss"];
  };
  CHECK(loss_with(*suggested) < 0.95 * loss_with(1e-5));
  CHECK(std::abs(range.losses.front() / loss_with(1e-5) - 1.0) < 0.5);

  // Batches that make a step together, augmented data, callbacks, a rule that can't be told apart from training's.
  Index told = 0;
  struct Count {
    Index* n;
    void on_progress(const Progressed& p) { *n += p.phase == "train" ? 1 : 0; }
  };
  TrainerOptions grouped = options;
  grouped.accumulate = 3;
  grouped.ema = Ema{};
  const RateRange other = find_rate(model, augment(data, Flip{}), grouped,
                                    {.from = 1e-6, .to = 1e-4, .steps = 12, .diverged = 1e9}, Count{&told});
  CHECK(other.losses.size() == 12);
  CHECK(told == 36);

  const auto refused = [&](const RateFinder& wrong) {
    return sentence_of<OptionError>([&] { find_rate(model, data, options, wrong); });
  };
  CHECK(refused({.from = 1.0, .to = 0.1}) == "find_rate: rates must rise from above 0, not from 1 to 0.1");
  CHECK_THAT(refused({.steps = 3}), ContainsSubstring("at least 10 steps"));
  CHECK_THAT(refused({.diverged = 0.5}), ContainsSubstring("diverged must be above 1"));
  std::stop_source stop;
  stop.request_stop();
  TrainerOptions stopped = options;
  stopped.stop = stop.get_token();
  CHECK_THAT(sentence_of<Stopped>([&] { find_rate(model, data, stopped, finder); }), ContainsSubstring("as asked"));
}

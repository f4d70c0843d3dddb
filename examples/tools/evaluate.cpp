/// \file
/// Measures a trained classifier on pictures: `evaluate MODEL --data DIR`: accuracy, loss, each class, calibration,
/// confusion.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

#include <transferlib/core/environment.hpp>
#include <transferlib/data/cifar.hpp>
#include <transferlib/data/image_folder.hpp>
#include <transferlib/formats/json.hpp>
#include <transferlib/nn/losses.hpp>
#include <transferlib/report/evaluation.hpp>
#include <transferlib/report/html.hpp>
#include <transferlib/report/progress.hpp>
#include <transferlib/train/trainer.hpp>
#include <transferlib/zoo.hpp>

#include "arguments.hpp"
#include "shared.hpp"
#include "table.hpp"

namespace tl = transferlib;
using tools::text;

namespace {

/// What the command line says.
struct Told {
  std::string model, data, part, flip = "none", precision = "auto", html, device = "cpu";
  tl::Index batch = 64;
  int threads = 0;
  std::uint64_t seed = 0;
  bool json = false;
};

/// A data set's pictures mirrored left to right.
template <class D>
class Mirrored {
 public:
  using Target = typename D::Target;
  explicit Mirrored(const D& data) : data_(&data) {}
  tl::Index size() const { return data_->size(); }
  tl::Labels labels() const { return data_->labels(); }
  tl::Tensor targets(std::span<const tl::Index> ids) const { return data_->targets(ids); }
  tl::Batch batch(std::span<const tl::Index> ids) const {
    tl::Batch out = data_->batch(ids);
    for (tl::Tensor& block : out.pictures) block = block.flip(3);
    return out;
  }

 private:
  const D* data_;
};

/// A metric that keeps every answer, and tells when there is one.
struct Answers {
  std::function<void(tl::Index)> seen;
  std::vector<tl::Tensor> probabilities, targets;

  void update(const tl::Tensor& p, const tl::Batch& batch) {
    probabilities.push_back(p.cpu());
    targets.push_back(batch.target.cpu());
    seen(p.size(0));
  }
};

struct Result {
  tl::Evaluation all;
  double loss = 0.0;  ///< the one that the model was trained by
  double seconds = 0.0;
};

template <class D>
Result measure(tl::AnyClassifier<>& model, const D& data, const Told& told) {
  const bool mirrored = told.flip == "lr";
  tl::Trainer trainer{
      model, {.batch = told.batch, .precision = tools::precision_of(told.precision), .cache = {.enabled = false}}};
  std::unique_ptr<tl::Progress> bar;
  if (!told.json)
    bar = std::make_unique<tl::Progress>(
        stdout, tl::ProgressOptions{.label = "evaluating", .total = data.size() * (mirrored ? 2 : 1)});
  tl::Index done = 0;
  const auto answers_to = [&](const auto& pictures) {
    Answers out{[&](tl::Index n) {
                  done += n;
                  if (bar != nullptr) bar->update(done);
                },
                {},
                {}};
    const tl::NamedValues values = trainer.evaluate(pictures, out);
    return std::tuple(at::cat(out.probabilities), at::cat(out.targets), values.at(0).second);
  };
  const auto start = std::chrono::steady_clock::now();
  auto [p, targets, loss] = answers_to(data);
  if (mirrored) {
    p = (p + std::get<0>(answers_to(Mirrored<D>(data)))) / 2.0;
    // Logarithms of probabilities are logits of the same probabilities.
    loss = tl::loss_of(model.head().pointer()->criterion(), p.clamp_min(1e-38).log(), targets).template item<double>();
  }
  Result out;
  out.loss = loss;
  out.all.update(p, {{}, targets, {}, {}});
  out.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (bar != nullptr) bar->finish();
  return out;
}

tl::Json to_json(const tl::Scores& s) { return {{"precision", s.precision}, {"recall", s.recall}, {"f1", s.f1}}; }

/// What is measured, as one object.
template <class D>
tl::Json to_json(const Result& result, const tl::AnyClassifier<>& model, const D& data, const Told& told) {
  const auto scores = result.all.confusion().scores();
  const tl::Labels& labels = model.labels();
  const auto label = [&](tl::Index i) { return labels[static_cast<std::size_t>(i)]; };
  tl::Json classes = tl::Json::array(), confusion = tl::Json::array(), bins = tl::Json::array(),
           mistakes = tl::Json::array();
  for (std::size_t c = 0; c < labels.size(); ++c) {
    const tl::ClassScores& s = scores.classes[c];
    tl::Json entry{{"label", labels[c]}, {"support", s.support}, {"predicted", s.predicted}};
    const tl::Json measured = to_json(static_cast<const tl::Scores&>(s));
    for (const tl::JsonMember& member : measured.members()) entry[member.name] = member.value;
    classes.push_back(std::move(entry));
    const auto row = result.all.confusion().counts().begin() + static_cast<std::ptrdiff_t>(c * labels.size());
    confusion.push_back(std::vector<tl::Index>(row, row + static_cast<std::ptrdiff_t>(labels.size())));
  }
  const auto intervals = result.all.calibration().bins();
  for (const tl::ReliabilityBin& bin : intervals)
    bins.push_back({{"count", bin.count}, {"confidence", bin.confidence}, {"accuracy", bin.accuracy}});
  for (const tl::Mistake& m : result.all.mistakes().mistakes()) {
    tl::Json entry{{"index", m.index},
                   {"truth", label(m.truth)},
                   {"predicted", label(m.predicted)},
                   {"confidence", m.confidence},
                   {"truth_confidence", m.truth_confidence}};
    if constexpr (requires { data.path(m.index); }) entry["picture"] = data.path(m.index).string();
    mistakes.push_back(std::move(entry));
  }
  return {{"model", told.model},
          {"backbone", model.backbone_core().name},
          {"data", told.data},
          {"part", told.part},
          {"flip", told.flip},
          {"pictures", scores.seen},
          {"seconds", result.seconds},
          {"loss", result.loss},
          {"criterion", tl::detail::to_json(model.head().pointer()->criterion())},
          {"log_loss", result.all.calibration().negative_log_likelihood()},
          {"accuracy", scores.accuracy},
          {"macro", to_json(scores.macro)},
          {"weighted", to_json(scores.weighted)},
          {"calibration",
           {{"ece", tl::expected_calibration_error(intervals)},
            {"mce", tl::maximum_calibration_error(intervals)},
            {"brier", result.all.calibration().brier_score()},
            {"bins", std::move(bins)}}},
          {"classes", std::move(classes)},
          {"confusion", std::move(confusion)},
          {"worst_mistakes", std::move(mistakes)}};
}

/// A loss in words, without a weight for each class.
std::string words(const tl::ClassLoss& loss) {
  return std::visit(
      [](auto l) {
        const bool weighted = !l.class_weights.empty();
        l.class_weights.clear();
        return tl::detail::words(l) + (weighted ? ", class weights" : "");
      },
      loss);
}

/// What is measured, for people.
void print(const Result& result, const tl::AnyClassifier<>& model) {
  const tl::Labels& labels = model.labels();
  const auto percent = [](double part) { return tl::detail::fixed(100.0 * part, 2) + " %"; };
  const auto scores = result.all.confusion().scores();
  const auto& calibration = result.all.calibration();
  const auto bins = calibration.bins();
  std::vector<std::vector<std::string>> rows{{"class", "pictures", "precision", "recall", "F1"}};
  const auto row = [&](const std::string& name, tl::Index pictures, const tl::Scores& s) {
    rows.push_back({name, tl::format_count(pictures), percent(s.precision), percent(s.recall), percent(s.f1)});
  };
  for (std::size_t c = 0; c < labels.size(); ++c) row(labels[c], scores.classes[c].support, scores.classes[c]);
  row("mean", scores.seen, scores.macro);
  row("weighted mean", scores.seen, scores.weighted);
  std::printf("accuracy: %s\nloss: %s (%s); log loss %s\n", percent(scores.accuracy).c_str(),
              tl::detail::fixed(result.loss, 4).c_str(), words(model.head().pointer()->criterion()).c_str(),
              tl::detail::fixed(calibration.negative_log_likelihood(), 4).c_str());
  std::printf("calibration error: %s expected, %s at most; Brier score %s\n",
              percent(tl::expected_calibration_error(bins)).c_str(),
              percent(tl::maximum_calibration_error(bins)).c_str(),
              tl::detail::fixed(calibration.brier_score(), 4).c_str());
  std::printf("time: %s, %s img/s\n\n%s\n", tl::format_duration(result.seconds).c_str(),
              tl::detail::fixed(static_cast<double>(scores.seen) / std::max(result.seconds, 1e-9), 0).c_str(),
              tools::table(rows).c_str());
  // A matrix where a line of the terminal holds its row, else its largest mistakes.
  const auto& counts = result.all.confusion().counts();
  const std::size_t n = labels.size();
  if (n <= 20) {
    rows.assign(1, {"true \\ predicted"});
    for (std::size_t c = 0; c < n; ++c) rows[0].push_back(text(c));
    for (std::size_t r = 0; r < n; ++r) {
      rows.push_back({text(r, " ", labels[r])});
      for (std::size_t c = 0; c < n; ++c) rows.back().push_back(text(counts[r * n + c]));
    }
  } else {
    std::vector<std::size_t> cells;
    for (std::size_t i = 0; i < n * n; ++i)
      if (i / n != i % n && counts[i] > 0) cells.push_back(i);
    std::stable_sort(cells.begin(), cells.end(), [&](std::size_t a, std::size_t b) { return counts[a] > counts[b]; });
    cells.resize(std::min<std::size_t>(cells.size(), 10));
    rows.assign(1, {"true class", "taken for", "pictures"});
    for (const std::size_t i : cells) rows.push_back({labels[i / n], labels[i % n], text(counts[i])});
  }
  std::fputs(tools::table(rows, n <= 20 ? 1 : 2).c_str(), stdout);
}

template <class D>
int evaluate(const D& data, const Told& told) {
  auto model = tl::load_any<tl::ClassIndex>(told.model);
  model.to(torch::Device(told.device));
  // So that the whole backbone runs in the inference engine.
  model.refreeze(tl::FreezePolicy{tl::FreezeAll{}});
  const auto& core = model.backbone_core();
  const std::string what = text(told.data, told.part == "all" ? "" : text(", ", told.part), ", ",
                                tl::format_count(data.size()), " pictures of ", data.labels().size(), " classes");
  if (!told.json)
    std::printf("%s\n%s\n", tools::one_line(text("model: ", told.model, " (", core.name, ")")).c_str(),
                tools::one_line(text("data: ", what)).c_str());
  const Result result = measure(model, data, told);
  if (told.json)
    std::printf("%s\n", to_json(result, model, data, told).dump(2).c_str());
  else
    print(result, model);
  if (told.html.empty()) return 0;
  tl::Report report = result.all.report(data);
  report.title = text("Evaluation of ", std::filesystem::path(told.model).filename().string());
  report.subtitle = what;
  report.numbers.emplace_back("time", tl::format_duration(result.seconds));
  const auto environment = tl::Environment::here(core.device());
  report.tables = {{"Model",
                    {{"file", told.model},
                     {"backbone", core.name},
                     {"weights", core.source},
                     {"licence", core.licence},
                     {"size", text(core.size(), " pixels")}}},
                   {"Evaluation",
                    {{"data", told.data},
                     {"part", told.part},
                     {"flip", told.flip},
                     {"batch", text(told.batch)},
                     {"precision", told.precision},
                     {"transferlib", environment.transferlib},
                     {"LibTorch", environment.libtorch},
                     {"threads", text(environment.threads)},
                     {"processor", environment.cpu_capability},
                     {"device", environment.device}}}};
  tl::write_report(report, told.html);
  if (!told.json) std::printf("\nthe report: %s\n", tools::one_line(told.html).c_str());
  return 0;
}

template <class D>
int evaluate_cifar(const tl::Split<D>& split, Told& told) {
  if (told.part.empty()) told.part = "val";
  if (told.part == "all") throw tools::Usage("--part is train or val for CIFAR, whose test set is val");
  const tl::TensorData<tl::ClassIndex> data = told.part == "train" ? split.train : split.test;
  return evaluate(data, told);
}

int evaluate_folder(Told& told) {
  const bool parted = !tl::detail::validation_folder(told.data).empty();
  if (told.part.empty()) told.part = parted ? "val" : "all";
  if (parted && told.part == "all")
    throw tools::Usage(text(told.data, " has pictures to train and others to validate; say --part train or val"));
  const auto data = [&] {
    if (told.part == "all") return tl::ImageFolder::open(told.data);
    auto [train, val] = tl::ImageFolder::split(told.data, {.seed = told.seed});
    return told.part == "train" ? train : val;
  }();
  const int code = evaluate(data, told);
  for (const tl::UnreadablePicture& u : data.unreadable())
    std::fprintf(stderr, "%s\n", tools::one_line(text("warning: can't be read: ", u.reason)).c_str());
  return code;
}

void check(const Told& told, const tools::Arguments& arguments) {
  if (!arguments.has("--data")) throw tools::Usage("--data DIR is wanted: a folder with a folder of pictures a class");
  if (told.batch < 1) throw tools::Usage(text("--batch must be at least 1, not ", told.batch));
  if (arguments.has("--threads") && (told.threads < 1 || told.threads > 1024))
    throw tools::Usage(text("--threads must be from 1 to 1024, not ", told.threads));
  if (!told.part.empty()) tools::check_word("--part", told.part, {"all", "train", "val"});
  tools::check_word("--flip", told.flip, {"none", "lr"});
  tools::check_word("--precision", told.precision, {"auto", "fp32", "bf16"});
  tools::check_word("--device", told.device, {"cpu", "cuda"});
}

}  // namespace

int main(int argc, char** argv) {
  Told told;
  tools::Arguments arguments(
      "MODEL --data DIR [options]",
      "Measures a trained classifier, a run's model.safetensors, on the pictures of DIR: accuracy, loss, each class,\n"
      "how far its confidence can be trusted, and what it takes for what. DIR is as for train.");
  arguments.option("--data", "DIR", "the pictures", told.data)
      .option("--part", "PART", "val: those that train validates with; train; all (val where DIR has both, else all)",
              told.part)
      .option("--batch", "N", "pictures at a time (64)", told.batch)
      .flag("--json", "one JSON object instead of text", told.json)
      .option("--html", "FILE", "a report with plots and the worst mistakes as pictures", told.html)
      .option("--flip", "HOW", "lr: the mean of the answers to each picture and its mirror image (none)", told.flip)
      .option("--precision", "P", "auto, fp32 or bf16; auto: bf16 where the processor computes with it (auto)",
              told.precision)
      .option("--threads", "N", "(one a core)", told.threads)
      .option("--seed", "N", "of the training, by which train drew what it validated with (0)", told.seed)
      .option("--device", "cpu|cuda", "(cpu)", told.device);
  return tools::run(argc, argv, arguments, [&](const std::vector<std::string>& given) {
    if (given.size() != 1) throw tools::Usage("one model is wanted: evaluate MODEL --data DIR");
    told.model = given[0];
    check(told, arguments);
    tools::settle_threads(told.threads);
    switch (tools::data_kind(told.data)) {
      case tools::DataKind::cifar10:
        return evaluate_cifar(tl::Cifar10::open(told.data), told);
      case tools::DataKind::cifar100:
        return evaluate_cifar(tl::Cifar100::open(told.data), told);
      case tools::DataKind::pictures:
        break;
    }
    return evaluate_folder(told);
  });
}

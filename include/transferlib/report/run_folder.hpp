/// \file
/// The folder of a run: what it was told, what it measured, what came out.
///
/// | file | what |
/// | --- | --- |
/// | `config.json` | options, versions, threads, CPU capability, device, hashes of weights and data |
/// | `metrics.csv` | a row an epoch: `epoch,train_loss,train_accuracy,val_loss,val_accuracy,seconds` |
/// | `events.out.tfevents.…` | the same for TensorBoard |
/// | `accuracy.svg`, `confusion.svg` | the curves; the confusion matrix of the validation data |
/// | `precision_recall.svg` | of a detector, whose confusion has the background too |
/// | `detections.svg` | some pictures with what is there beside what a detector finds |
/// | `report.html` | all of it on one page, with calibration and the worst mistakes |
/// | `model.safetensors` | the trained model |
/// | `best.safetensors` | the model as it was after the best epoch, by accuracy, average precision or loss |
/// | `checkpoints/` | where a run goes on from, if the trainer's options say so |
/// | `log.txt` | a line for each thing that happened |
#pragma once

#include <chrono>
#include <ctime>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <transferlib/core/environment.hpp>
#include <transferlib/core/error.hpp>
#include <transferlib/core/files.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/formats/json.hpp>
#include <transferlib/metrics/detection.hpp>
#include <transferlib/model/save.hpp>
#include <transferlib/report/csv.hpp>
#include <transferlib/report/detection.hpp>
#include <transferlib/report/evaluation.hpp>
#include <transferlib/report/events.hpp>
#include <transferlib/report/found_pictures.hpp>
#include <transferlib/report/html.hpp>
#include <transferlib/report/svg.hpp>
#include <transferlib/train/history.hpp>
#include <transferlib/train/trainer.hpp>

namespace transferlib {
namespace detail {

/// Now, as text: by `strftime`'s pattern, in local time.
TRANSFERLIB_API std::string time_text(const char* pattern);

}  // namespace detail

/// The name of a run's folder where the user gave none: `runs/<date-time>`.
inline std::filesystem::path default_run_folder() {
  return std::filesystem::path("runs") / detail::time_text("%Y-%m-%d_%H-%M-%S");
}

/// A callback that keeps a run's folder. Made before training, given to `fit`; the folder is complete when `fit`
/// returns.
class RunFolder {
 public:
  /// \param path made if it is not there; what an earlier run left in it is replaced, unless the trainer's options say
  /// that it goes on
  /// \param options what the program was told besides, for `config.json`
  /// \throws FileError if the folder can't be written; TrainingError where another run has it
  template <class M, class D, class E>
  RunFolder(std::filesystem::path path, Trainer<M>& trainer, const D& train, const E& validation, Json options = {})
      : path_(std::move(path)) {
    make_folders(path_);
    lock_ = std::make_unique<FileLock>(path_ / "lock", false);
    if (!lock_->held())
      throw TrainingError(detail::text("another run is writing to ", path_,
                                       " at this moment; wait for its end, or give this one another folder"));
    const TrainerOptions& o = trainer.options();
    // Found out now, not after the training, whether the folder can be written.
    std::error_code ignored;
    goes_on_ = o.checkpoints.resume && std::filesystem::exists(path_ / "log.txt", ignored);
    if (goes_on_)
      log_ = read_file(path_ / "log.txt");
    else
      write_file(path_ / "log.txt", "");
    config_ = {{"options", options.is_null() ? Json::object() : std::move(options)}};
    config_["training"] = Json::object();
    for (const auto& [name, value] : detail::describe(o)) config_["training"][name] = value;
    config_["data"] = {{"train", train.size()},
                       {"validation", validation.size()},
                       {"train_sha256", detail::source(train).fingerprint()},
                       {"validation_sha256", detail::source(validation).fingerprint()}};
    if constexpr (std::same_as<typename D::Target, ClassIndex>)
      evaluate_ = [&trainer, &validation] {
        Evaluation all;
        trainer.evaluate(validation, all);
        return all.report(validation);
      };
    if constexpr (std::same_as<typename D::Target, Boxes>)
      evaluate_ = [&trainer, &validation] {
        BoxAveragePrecision all;
        trainer.evaluate(validation, all);
        Report report = detection_report(all.truth(), all.found(), validation.labels());
        const auto shown = found_pictures(validation, all.truth(), all.found());
        report.figures.push_back({"detections", detections_svg(shown, validation.labels())});
        return report;
      };
  }

  const std::filesystem::path& path() const { return path_; }
  /// What was measured so far.
  const History& history() const { return history_; }

  /// Adds a line to `log.txt`.
  void log(std::string_view line) {
    log_ += detail::text(detail::time_text("%Y-%m-%d %H:%M:%S"), "  ", line, "\n");
    write_file(path_ / "log.txt", log_);
  }

  template <class M>
  void on_fit_begin(M& model) {
    history_ = {};
    const auto& core = model.backbone_core();
    const auto environment = Environment::here(core.device());
    Index frozen = 0;
    for (bool f : model.frozen()) frozen += f ? 1 : 0;
    config_["network"] = {{"backbone", core.kind()},
                          {"weights", core.source},
                          {"weights_sha256", hash_of(detail::needed_state(core, model.wanted()))},
                          {"licence", core.licence},
                          {"layers", model.layers().size()},
                          {"frozen_layers", frozen},
                          {"preprocessing", detail::to_json(core.preprocessing)},
                          {"labels", model.labels()}};
    config_["environment"] = {{"transferlib", environment.transferlib},
                              {"libtorch", environment.libtorch},
                              {"threads", environment.threads},
                              {"cpu_capability", environment.cpu_capability},
                              {"device", environment.device}};
    write_file(path_ / "config.json", config_.dump(2) + "\n");
    log(detail::text("training ", goes_on_ ? "goes on" : "begins", ": ", core.name.empty() ? "a network" : core.name,
                     ", ", frozen, " of ", model.layers().size(), " layers frozen"));
    if (!goes_on_) events_ = std::make_unique<EventFile>(path_);
  }

  void on_note(std::string_view sentence) { log(sentence); }

  /// What was measured before the run was stopped; TensorBoard passes over what came after it.
  void on_resume(const History& history) {
    history_ = history;
    if (!history_.epochs.empty()) write_csv(history_, path_ / "metrics.csv");
  }

  template <class M>
  void on_epoch_end(M& model, const Epoch& epoch) {
    history_.epochs.push_back(epoch);
    write_csv(history_, path_ / "metrics.csv");
    if (events_ == nullptr) events_ = std::make_unique<EventFile>(path_, EventOptions{.purge_step = epoch.number});
    events_->on_epoch_end(epoch);
    std::string line = detail::text("epoch ", epoch.number);
    for (const auto& [name, value] : epoch.values) line += detail::text(", ", name, " ", value);
    log(line);
    if (&detail::best_epoch(history_) == &history_.epochs.back()) save(model, path_ / "best.safetensors");
  }

  template <class M>
  void on_fit_end(M& model) {
    if (history_.epochs.empty()) {
      log("training ended before its first epoch was complete, so there is no model to keep");
      return;
    }
    save(model, path_ / "model.safetensors");
    if (history_.epochs.front().has("train_accuracy")) plot_accuracy(history_, path_ / "accuracy.svg");
    Report report;
    if (evaluate_) {
      report = evaluate_();
      if (!report.confusion.empty()) plot_confusion(report.confusion, model.labels(), path_ / "confusion.svg");
      for (const ReportFigure& f : report.figures) write_file(path_ / (f.title + ".svg"), f.svg);
    }
    report.title = detail::text("Run ", std::filesystem::absolute(path_).lexically_normal().filename().string());
    report.history = history_;
    for (const char* part : {"options", "training", "network", "data", "environment"})
      report.tables.push_back({part, report_rows(config_[part])});
    write_report(report, path_ / "report.html");
    log("training ended; the model is in model.safetensors");
  }

 private:
  std::filesystem::path path_;
  std::unique_ptr<FileLock> lock_;
  bool goes_on_ = false;
  Json config_;
  std::function<Report()> evaluate_;
  std::unique_ptr<EventFile> events_;
  History history_;
  std::string log_;
};

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API std::string time_text(const char* pattern) {
  const std::time_t now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  std::tm parts{};
  ::localtime_r(&now, &parts);
  char buffer[64];
  return {buffer, std::strftime(buffer, sizeof buffer, pattern, &parts)};
}

}  // namespace transferlib::detail

#endif  // TRANSFERLIB_DEFINES

/// \file
/// The folder of a run: what it was told, what it measured, what came out.
///
/// | file | what |
/// | --- | --- |
/// | `config.json` | options, versions, threads, CPU capability, device, hashes of weights and data |
/// | `metrics.csv` | a row an epoch: `epoch,train_loss,train_accuracy,val_loss,val_accuracy,seconds` |
/// | `accuracy.svg`, `confusion.svg` | the curves; the confusion matrix of the validation data |
/// | `model.safetensors` | the trained model |
/// | `log.txt` | a line for each thing that happened |
#pragma once

#include <chrono>
#include <ctime>
#include <filesystem>
#include <functional>
#include <string>
#include <utility>

#include <transferlib/core/environment.hpp>
#include <transferlib/core/error.hpp>
#include <transferlib/core/files.hpp>
#include <transferlib/formats/json.hpp>
#include <transferlib/metrics/classification.hpp>
#include <transferlib/model/save.hpp>
#include <transferlib/report/csv.hpp>
#include <transferlib/report/svg.hpp>
#include <transferlib/train/history.hpp>
#include <transferlib/train/trainer.hpp>

namespace transferlib {
namespace detail {

/// Now, as text: by `strftime`'s pattern, in local time.
inline std::string time_text(const char* pattern) {
  const std::time_t now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  std::tm parts{};
  ::localtime_r(&now, &parts);
  char buffer[64];
  return {buffer, std::strftime(buffer, sizeof buffer, pattern, &parts)};
}

inline Json to_json(const Optimizer& optimizer) {
  if (const auto* o = std::get_if<Sgd>(&optimizer))
    return {{"name", "sgd"},
            {"lr", o->lr},
            {"momentum", o->momentum},
            {"weight_decay", o->weight_decay},
            {"nesterov", o->nesterov}};
  const auto adam = [](const auto& o, const char* name) -> Json {
    return {{"name", name},     {"lr", o.lr},           {"beta1", o.beta1},
            {"beta2", o.beta2}, {"epsilon", o.epsilon}, {"weight_decay", o.weight_decay}};
  };
  if (const auto* o = std::get_if<Adam>(&optimizer)) return adam(*o, "adam");
  return adam(std::get<AdamW>(optimizer), "adamw");
}

}  // namespace detail

/// The name of a run's folder where the user gave none: `runs/<date-time>`.
inline std::filesystem::path default_run_folder() {
  return std::filesystem::path("runs") / detail::time_text("%Y-%m-%d_%H-%M-%S");
}

/// A callback that keeps a run's folder. Made before training, given to `fit`; the folder is complete when `fit`
/// returns.
class RunFolder {
 public:
  /// \param path made if it is not there; what an earlier run left in it is replaced
  /// \param options what the program was told besides, for `config.json`
  /// \throws FileError if the folder can't be written
  template <class M, class D, class E>
  RunFolder(std::filesystem::path path, Trainer<M>& trainer, const D& train, const E& validation, Json options = {})
      : path_(std::move(path)) {
    make_folders(path_);
    // Found out now, not after the training.
    write_file(path_ / "log.txt", "");
    const TrainerOptions& o = trainer.options();
    config_ = {{"options", options.is_null() ? Json::object() : std::move(options)},
               {"epochs", o.epochs},
               {"batch", o.batch},
               {"optimizer", detail::to_json(o.optimizer)},
               {"seed", o.seed},
               {"precision", std::string(to_string(o.precision))},
               {"data",
                {{"train", train.size()},
                 {"validation", validation.size()},
                 {"train_sha256", detail::source(train).fingerprint()},
                 {"validation_sha256", detail::source(validation).fingerprint()}}}};
    if constexpr (std::same_as<typename D::Target, ClassIndex>)
      confusion_ = [&trainer, &validation] {
        ConfusionMatrix matrix;
        trainer.evaluate(validation, matrix);
        return matrix.counts();
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
    config_["network"] = {{"backbone", core.name.empty() ? "custom" : core.name},
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
    log(detail::text("training begins: ", core.name.empty() ? "a network" : core.name, ", ", frozen, " of ",
                     model.layers().size(), " layers frozen"));
  }

  void on_epoch_end(const Epoch& epoch) {
    history_.epochs.push_back(epoch);
    write_csv(history_, path_ / "metrics.csv");
    std::string line = detail::text("epoch ", epoch.number);
    for (const auto& [name, value] : epoch.values) line += detail::text(", ", name, " ", value);
    log(line);
  }

  template <class M>
  void on_fit_end(M& model) {
    if (history_.epochs.empty()) {
      log("training ended before its first epoch was complete, so there is no model to keep");
      return;
    }
    save(model, path_ / "model.safetensors");
    if (history_.epochs.front().has("train_accuracy")) plot_accuracy(history_, path_ / "accuracy.svg");
    if (confusion_) plot_confusion(confusion_(), model.labels(), path_ / "confusion.svg");
    log("training ended; the model is in model.safetensors");
  }

 private:
  std::filesystem::path path_;
  Json config_;
  std::function<std::vector<Index>()> confusion_;
  History history_;
  std::string log_;
};

}  // namespace transferlib

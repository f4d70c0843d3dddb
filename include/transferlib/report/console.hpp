/// \file
/// A callback that shows training on the screen: a progress bar on a terminal, plain lines elsewhere.
#pragma once

#include <cmath>
#include <cstdio>
#include <memory>
#include <string>
#include <string_view>

#include <transferlib/core/error.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/report/progress.hpp>
#include <transferlib/report/shown.hpp>
#include <transferlib/train/history.hpp>
#include <transferlib/train/trainer.hpp>

namespace transferlib {

/// Shows what `fit` does. Nothing is printed unless a program makes one and gives it to `fit`.
class Console {
 public:
  explicit Console(std::FILE* out = stdout) : out_(out) {}

  void on_progress(const Progressed& p);

  void on_note(std::string_view sentence) {
    finish();
    std::fprintf(out_, "%.*s\n", static_cast<int>(sentence.size()), sentence.data());
    std::fflush(out_);
  }

  void on_epoch_end(const Epoch& epoch);

 private:
  void finish() {
    if (bar_ != nullptr) bar_->finish();
    bar_.reset();
  }
  static std::string rounded(double value) {
    return std::isfinite(value) ? detail::fixed(value, 4) : detail::text(value);
  }

  std::FILE* out_;
  std::unique_ptr<Progress> bar_;
  std::string label_;
};

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API void Console::on_progress(const Progressed& p) {
  const std::string label = p.phase == "features"   ? std::string("frozen features")
                            : p.phase == "validate" ? detail::text("epoch ", p.epoch, "/", p.epochs, " validation")
                                                    : detail::text("epoch ", p.epoch, "/", p.epochs);
  if (bar_ == nullptr || label != label_) {
    finish();
    label_ = label;
    bar_ = std::make_unique<Progress>(out_, ProgressOptions{.label = label, .total = p.total, .unit = "img"});
  }
  std::string values;
  for (const auto& [name, value] : p.values)
    values += detail::text(values.empty() ? "" : "  ", name, " ", rounded(value));
  bar_->update(p.done, values);
  if (p.done == p.total && p.phase == "features") finish();
}

TRANSFERLIB_API void Console::on_epoch_end(const Epoch& epoch) {
  finish();
  std::string line = detail::text("epoch ", epoch.number);
  for (const auto& [name, value] : epoch.values)
    line +=
        name == "seconds" ? detail::text("  ", format_duration(value)) : detail::text("  ", name, " ", rounded(value));
  std::fprintf(out_, "%s\n", line.c_str());
  std::fflush(out_);
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

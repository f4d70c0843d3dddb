/// \file
/// Callbacks: observers of training that can end it or keep its best state.
#pragma once

#include <limits>
#include <string>
#include <utility>

#include <transferlib/core/error.hpp>
#include <transferlib/train/checkpoint.hpp>
#include <transferlib/train/history.hpp>
#include <transferlib/weights/state_dict.hpp>

namespace transferlib {

/// Ends training when a column has not improved for `patience` epochs.
class EarlyStopping {
 public:
  struct Options {
    std::string monitor = "val_loss";
    Index patience = 3;
    double least = 0.0;   ///< an improvement of less counts as none
    bool higher = false;  ///< true for accuracies
  };
  explicit EarlyStopping(Options options) : options_(std::move(options)) {}
  EarlyStopping() : EarlyStopping(Options{}) {}

  void on_fit_begin(auto&) {
    best_ = std::numeric_limits<double>::infinity();
    waited_ = 0;
  }
  /// \throws OptionError if there is no such column
  bool on_epoch_end(const Epoch& epoch) {
    const double value = options_.higher ? -epoch[options_.monitor] : epoch[options_.monitor];
    if (value < best_ - options_.least || best_ == std::numeric_limits<double>::infinity()) {
      best_ = value;
      waited_ = 0;
    } else {
      ++waited_;
    }
    return waited_ < options_.patience;
  }
  /// What it has seen, for a run's checkpoint.
  StateDict checkpoint() const { return {{"state", detail::tensor_of_numbers({best_, static_cast<double>(waited_)})}}; }
  /// Goes on from what `checkpoint` gave.
  void restore(const StateDict& state) {
    const auto numbers = detail::numbers_of_tensor(state.at(0).second);
    best_ = numbers.at(0);
    waited_ = static_cast<Index>(numbers.at(1));
  }

 private:
  Options options_;
  double best_ = std::numeric_limits<double>::infinity();
  Index waited_ = 0;
};

/// Keeps the weights of the best epoch, and gives them back to the model when training ends.
class KeepBest {
 public:
  struct Options {
    std::string monitor = "val_accuracy";
    bool higher = true;
  };
  explicit KeepBest(Options options) : options_(std::move(options)) {}
  KeepBest() : KeepBest(Options{}) {}

  void on_fit_begin(auto&) {
    epoch_ = 0;
    state_.clear();
  }
  /// \throws OptionError if there is no such column
  template <class M>
  void on_epoch_end(M& model, const Epoch& epoch) {
    const double value = options_.higher ? -epoch[options_.monitor] : epoch[options_.monitor];
    if (epoch_ != 0 && value >= best_) return;
    best_ = value;
    epoch_ = epoch.number;
    state_ = model.state();
    for (auto& item : state_) item.second = item.second.detach().clone();
  }
  template <class M>
  void on_fit_end(M& model) {
    if (!state_.empty()) detail::copy_into(model.state(), state_, "best epoch");
  }
  /// What it has seen, for a run's checkpoint.
  StateDict checkpoint() const {
    StateDict out{{"state", detail::tensor_of_numbers({best_, static_cast<double>(epoch_)})}};
    out.insert(out.end(), state_.begin(), state_.end());
    return out;
  }
  /// Goes on from what `checkpoint` gave.
  void restore(const StateDict& state) {
    state_.clear();
    for (const auto& item : state) {
      if (item.first != "state") {
        state_.push_back(item);
        continue;
      }
      const auto numbers = detail::numbers_of_tensor(item.second);
      best_ = numbers.at(0);
      epoch_ = static_cast<Index>(numbers.at(1));
    }
  }
  /// The epoch whose weights are kept; 0 before the first.
  Index epoch() const { return epoch_; }

 private:
  Options options_;
  double best_ = 0.0;
  Index epoch_ = 0;
  StateDict state_;
};

}  // namespace transferlib

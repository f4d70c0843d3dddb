/// \file
/// Callbacks: observers of training that can end it or keep its best state.
#pragma once

#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/train/checkpoint.hpp>
#include <transferlib/train/history.hpp>
#include <transferlib/weights/state_dict.hpp>

namespace transferlib {

namespace detail {

/// Whether more of a column is better: of losses, errors and seconds it is not.
inline bool higher_is_better(const std::optional<bool>& told, std::string_view column) {
  if (told) return *told;
  for (const std::string_view word : {"loss", "mae", "error", "seconds"})
    if (column.find(word) != std::string_view::npos) return false;
  return true;
}

/// An epoch's value of a column, turned so that lower is better; what is no number is worse than any that is.
inline double as_cost(const Epoch& epoch, const std::string& column, const std::optional<bool>& higher) {
  const double value = epoch[column];
  if (std::isnan(value)) return std::numeric_limits<double>::infinity();
  return higher_is_better(higher, column) ? -value : value;
}

/// The numbers of a callback's state. \throws FormatError where the checkpoint holds others
inline std::vector<double> numbers_of(const StateDict& state, Index count) {
  for (const auto& [name, tensor] : state)
    if (name == "state" && tensor.numel() == count) return numbers_of_tensor(tensor);
  throw FormatError("the checkpoint does not hold the state of this callback; resume with the callbacks that it had");
}

}  // namespace detail

/// Ends training when a column has not improved for `patience` epochs.
class EarlyStopping {
 public:
  struct Options {
    std::string monitor = "val_loss";
    Index patience = 3;
    double least = 0.0;            ///< an improvement of less counts as none
    std::optional<bool> higher{};  ///< whether more is better; none: as the column's name says
  };
  /// \throws OptionError
  explicit EarlyStopping(Options options) : options_(std::move(options)) {
    if (options_.patience < 1 || !(options_.least >= 0.0))
      throw OptionError(detail::text("EarlyStopping waits for at least 1 epoch and an improvement of at least 0, not ",
                                     options_.patience, " and ", options_.least));
  }
  EarlyStopping() : EarlyStopping(Options{}) {}

  void on_fit_begin(auto&) {
    best_ = std::numeric_limits<double>::infinity();
    waited_ = 0;
  }
  /// \throws OptionError if there is no such column
  bool on_epoch_end(const Epoch& epoch);
  /// What it has seen, for a run's checkpoint.
  StateDict checkpoint() const { return {{"state", detail::tensor_of_numbers({best_, static_cast<double>(waited_)})}}; }
  /// Goes on from what `checkpoint` gave.
  void restore(const StateDict& state) {
    const auto numbers = detail::numbers_of(state, 2);
    best_ = numbers[0];
    waited_ = static_cast<Index>(numbers[1]);
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
    std::optional<bool> higher{};  ///< whether more is better; none: as the column's name says
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
    const double value = detail::as_cost(epoch, options_.monitor, options_.higher);
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
  void restore(const StateDict& state);
  /// The epoch whose weights are kept; 0 before the first.
  Index epoch() const { return epoch_; }

 private:
  Options options_;
  double best_ = 0.0;
  Index epoch_ = 0;
  StateDict state_;
};

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API bool EarlyStopping::on_epoch_end(const Epoch& epoch) {
  const double value = detail::as_cost(epoch, options_.monitor, options_.higher);
  if (value < best_ - options_.least || best_ == std::numeric_limits<double>::infinity()) {
    best_ = value;
    waited_ = 0;
  } else {
    ++waited_;
  }
  return waited_ < options_.patience;
}

TRANSFERLIB_API void KeepBest::restore(const StateDict& state) {
  const auto numbers = detail::numbers_of(state, 2);
  best_ = numbers[0];
  epoch_ = static_cast<Index>(numbers[1]);
  state_.clear();
  for (const auto& item : state)
    if (item.first != "state") state_.push_back(item);
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

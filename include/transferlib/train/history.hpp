/// \file
/// What a run has measured, epoch by epoch: named numbers. Free of LibTorch.
#pragma once

#include <cmath>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/layers.hpp>
#include <transferlib/core/separate.hpp>

namespace transferlib {

/// One epoch's numbers, in the order of their columns: for a classifier `train_loss`, `train_accuracy`, `val_loss`,
/// `val_accuracy`, `seconds`. Accuracies are in [0, 1].
struct Epoch {
  Index number = 0;  ///< from 1
  std::vector<std::pair<std::string, double>> values;

  /// Whether there is such a column.
  bool has(std::string_view name) const {
    for (const auto& value : values)
      if (value.first == name) return true;
    return false;
  }
  /// A column's value. \throws OptionError naming the columns if there is none of this name
  double operator[](std::string_view name) const;
};

/// All epochs of a run, in order.
struct History {
  std::vector<Epoch> epochs;

  /// A column, one value an epoch. \throws OptionError if an epoch lacks it
  std::vector<double> operator[](std::string_view name) const {
    std::vector<double> out;
    for (const Epoch& epoch : epochs) out.push_back(epoch[name]);
    return out;
  }
  /// The epoch whose column is best, the first of equals; a value that is no number is worse than any that is.
  /// \param higher true for accuracies, false for losses
  /// \throws OptionError if there is no epoch, or no such column
  const Epoch& best(std::string_view name, bool higher) const;
};

namespace detail {

/// The best epoch: by accuracy or average precision on the validation data where there is one, else by the loss.
inline const Epoch& best_epoch(const History& history) {
  for (const char* column : {"val_accuracy", "val_ap"})
    if (!history.epochs.empty() && history.epochs.front().has(column)) return history.best(column, true);
  return history.best("val_loss", false);
}

}  // namespace detail
}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API double Epoch::operator[](std::string_view name) const {
  std::vector<std::string_view> names;
  for (const auto& value : values) {
    if (value.first == name) return value.second;
    names.push_back(value.first);
  }
  throw OptionError(
      detail::text("epoch ", number, " has no column \"", name, "\"; its columns are ", detail::first_few(names, 12)));
}

TRANSFERLIB_API const Epoch& History::best(std::string_view name, bool higher) const {
  if (epochs.empty()) throw OptionError("a history without epochs has no best one");
  const Epoch* out = &epochs.front();
  for (const Epoch& epoch : epochs) {
    const double value = epoch[name], best = (*out)[name];
    if (std::isnan(best) ? !std::isnan(value) : higher ? value > best : value < best) out = &epoch;
  }
  return *out;
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

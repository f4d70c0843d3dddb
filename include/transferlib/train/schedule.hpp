/// \file
/// Schedules: how the learning rate changes while a model learns. Plain numbers for the user; each gives the factor by
/// which the rate of every group of parameters is multiplied, so that groups of different rates keep their proportions.
/// Without LibTorch.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/layers.hpp>
#include <transferlib/core/separate.hpp>

namespace transferlib {

/// The rate as it is: no schedule.
struct ConstantRate {};

/// Multiplies the rate by `gamma` after every `every` epochs: PyTorch's `StepLR`, stepped each epoch.
struct StepRate {
  Index every = 10;    ///< epochs, at least 1
  double gamma = 0.1;  ///< above 0
};

/// Multiplies the rate by `gamma` when each of some epochs has ended: PyTorch's `MultiStepLR`, stepped each epoch.
struct MultiStepRate {
  std::vector<Index> at;  ///< numbers of complete epochs, rising, from 1
  double gamma = 0.1;     ///< above 0
};

/// Multiplies the rate by `gamma` after each epoch: PyTorch's `ExponentialLR`, stepped each epoch.
struct ExponentialRate {
  double gamma = 0.9;  ///< above 0
};

/// Half a cosine from the rate down to a part of it, after a linear rise (Loshchilov and Hutter, "SGDR", 2017, without
/// restarts). Counts steps. PyTorch's `SequentialLR` of `LinearLR` (`start_factor` = `start`, `total_iters` = the steps
/// of the rise) and `CosineAnnealingLR` (`T_max` = the other steps, `eta_min` = `least` x rate), stepped each step.
struct CosineRate {
  double warmup = 0.0;  ///< how long the rise is: below 1 a part of all steps, from 1 on a number of steps
  double least = 0.0;   ///< where the cosine ends, as a part of the rate, in [0, 1]
  double start = 0.01;  ///< where the rise begins, as a part of the rate, in [0, 1]
};

/// Up to the rate and far down again within the training, momentum the other way (Smith and Topin,
/// "Super-convergence", 2018). Counts steps. PyTorch's `OneCycleLR` with cosines and two phases, `max_lr` = the rate.
struct OneCycle {
  double rise = 0.3;                ///< the part of all steps until the peak, in [0, 1]: `pct_start`
  double divisor = 25.0;            ///< the first rate is the peak divided by this: `div_factor`
  double last_divisor = 1e4;        ///< the last rate is the first one divided by this: `final_div_factor`
  bool momentum = true;             ///< whether momentum (of Adam: beta1) changes too: `cycle_momentum`
  double least_momentum = 0.85;     ///< at the peak of the rate, in [0, 1): `base_momentum`
  double greatest_momentum = 0.95;  ///< at both ends, in [0, 1): `max_momentum`
};

/// (1 - step / steps) to a power. Counts steps. PyTorch's `PolynomialLR` (`total_iters` = all steps), stepped each
/// step.
struct PolynomialRate {
  double power = 1.0;  ///< above 0; 1: a straight line
};

/// From the rate up to `to` times the rate, by the same factor each step: a range test of rates (see `find_rate`).
/// Counts steps; PyTorch's `LambdaLR` of to^(step / (steps - 1)).
struct RisingRate {
  double to = 10.0;  ///< above 0; the last step's rate by the first one's
};

/// Multiplies the rate by `factor` when a column of the history has not got better for more than `patience` epochs:
/// PyTorch's `ReduceLROnPlateau` with a relative threshold (and `eps` = 0). What it has seen is kept by `Plateau`.
struct ReduceOnPlateau {
  std::string monitor = "val_loss";  ///< the column
  bool higher = false;               ///< whether higher is better, as for accuracies: `mode`
  double factor = 0.1;               ///< in (0, 1)
  Index patience = 10;               ///< epochs without an improvement that are let pass
  double threshold = 1e-4;           ///< what counts as an improvement, as a part of the best value so far
  Index cooldown = 0;                ///< epochs after a reduction in which nothing is counted
  double least = 0.0;                ///< the least part of the rate that is left, in [0, 1]: `min_lr` / rate
};

/// Any of them.
using Schedule = std::variant<ConstantRate, StepRate, MultiStepRate, ExponentialRate, CosineRate, OneCycle,
                              PolynomialRate, RisingRate, ReduceOnPlateau>;

/// How far a training is: before step `step` of `steps_total`.
struct SchedulePoint {
  Index step = 0;             ///< steps that were taken, from 0
  Index steps_total = 1;      ///< of the whole training
  Index steps_per_epoch = 1;  ///< of one epoch
};

/// What a schedule says of one step.
struct ScheduleFactors {
  double rate = 1.0;                 ///< times the rate of each group
  std::optional<double> momentum{};  ///< instead of the optimiser's momentum (of Adam: beta1), where there is one
};

namespace detail {

inline void require(bool holds, std::string_view name, std::string_view range, double value) {
  if (!holds) throw OptionError(text(name, " must be ", range, ", not ", value));
}

inline void check(const ConstantRate&) {}

inline void check(const StepRate& s) {
  require(s.every >= 1, "StepRate: every", "at least 1 epoch", static_cast<double>(s.every));
  require(s.gamma > 0.0 && std::isfinite(s.gamma), "StepRate: gamma", "above 0", s.gamma);
}

TRANSFERLIB_API void check(const MultiStepRate& s);

inline void check(const ExponentialRate& s) {
  require(s.gamma > 0.0 && std::isfinite(s.gamma), "ExponentialRate: gamma", "above 0", s.gamma);
}

TRANSFERLIB_API void check(const CosineRate& s);

TRANSFERLIB_API void check(const OneCycle& s);

inline void check(const PolynomialRate& s) {
  require(s.power > 0.0 && std::isfinite(s.power), "PolynomialRate: power", "above 0", s.power);
}

inline void check(const RisingRate& s) {
  require(s.to > 0.0 && std::isfinite(s.to), "RisingRate: to", "above 0", s.to);
}

TRANSFERLIB_API void check(const ReduceOnPlateau& s);

/// From `start` to `end` along half a cosine, `part` in [0, 1].
inline double anneal(double start, double end, double part) {
  return end + (start - end) / 2.0 * (std::cos(3.14159265358979323846 * part) + 1.0);
}

/// The steps of the rise.
inline Index warmup_steps(const CosineRate& s, Index steps_total) {
  const double steps = s.warmup < 1.0 ? std::nearbyint(s.warmup * static_cast<double>(steps_total)) : s.warmup;
  return static_cast<Index>(std::min(steps, static_cast<double>(steps_total)));
}

inline ScheduleFactors factors(const ConstantRate&, const SchedulePoint&) { return {}; }
inline ScheduleFactors factors(const ReduceOnPlateau&, const SchedulePoint&) { return {}; }

inline ScheduleFactors factors(const StepRate& s, const SchedulePoint& p) {
  return {std::pow(s.gamma, static_cast<double>(p.step / p.steps_per_epoch / s.every))};
}

inline ScheduleFactors factors(const MultiStepRate& s, const SchedulePoint& p) {
  const Index epochs = p.step / p.steps_per_epoch;
  return {std::pow(s.gamma, static_cast<double>(std::upper_bound(s.at.begin(), s.at.end(), epochs) - s.at.begin()))};
}

inline ScheduleFactors factors(const ExponentialRate& s, const SchedulePoint& p) {
  return {std::pow(s.gamma, static_cast<double>(p.step / p.steps_per_epoch))};
}

inline ScheduleFactors factors(const CosineRate& s, const SchedulePoint& p) {
  const Index rise = warmup_steps(s, p.steps_total);
  if (p.step < rise) return {s.start + (1.0 - s.start) * static_cast<double>(p.step) / static_cast<double>(rise)};
  if (rise == p.steps_total) return {};
  return {anneal(1.0, s.least, static_cast<double>(p.step - rise) / static_cast<double>(p.steps_total - rise))};
}

TRANSFERLIB_API ScheduleFactors factors(const OneCycle& s, const SchedulePoint& p);

inline ScheduleFactors factors(const PolynomialRate& s, const SchedulePoint& p) {
  return {std::pow(1.0 - static_cast<double>(p.step) / static_cast<double>(p.steps_total), s.power)};
}

inline ScheduleFactors factors(const RisingRate& s, const SchedulePoint& p) {
  const Index last = p.steps_total - 1;
  const double part = last > 0 ? static_cast<double>(p.step) / static_cast<double>(last) : 0.0;
  return {std::pow(s.to, std::min(part, 1.0))};
}

inline std::string words(const ConstantRate&) { return "constant"; }
inline std::string words(const StepRate& s) { return text("step every ", s.every, " gamma ", s.gamma); }
inline std::string words(const MultiStepRate& s) {
  std::string out = text("steps gamma ", s.gamma, " at");
  for (Index epoch : s.at) out += text(" ", epoch);
  return out;
}
inline std::string words(const ExponentialRate& s) { return text("exponential gamma ", s.gamma); }
inline std::string words(const CosineRate& s) {
  return text("cosine warmup ", s.warmup, " least ", s.least, " start ", s.start);
}
inline std::string words(const OneCycle& s) {
  std::string out = text("one cycle rise ", s.rise, " divisors ", s.divisor, " ", s.last_divisor);
  if (s.momentum) out += text(" momentum ", s.least_momentum, " ", s.greatest_momentum);
  return out;
}
inline std::string words(const PolynomialRate& s) { return text("polynomial power ", s.power); }
inline std::string words(const RisingRate& s) { return text("rising to ", s.to); }
inline std::string words(const ReduceOnPlateau& s) {
  return text("plateau of ", s.monitor, s.higher ? " (higher is better)" : "", " factor ", s.factor, " patience ",
              s.patience, " threshold ", s.threshold, " cooldown ", s.cooldown, " least ", s.least);
}

}  // namespace detail

/// Refuses a schedule that can't be meant. \throws OptionError
inline void check(const Schedule& schedule) {
  std::visit([](const auto& s) { detail::check(s); }, schedule);
}

/// What a schedule is, with all its numbers: "cosine warmup 0.1 least 0 start 0.01".
inline std::string to_string(const Schedule& schedule) {
  return std::visit([](const auto& s) { return detail::words(s); }, schedule);
}

/// Whether a schedule's factors depend on how many steps there are in all. A training under one that does not can be
/// made longer afterwards.
inline bool looks_at_the_end(const Schedule& schedule) {
  return std::holds_alternative<CosineRate>(schedule) || std::holds_alternative<OneCycle>(schedule) ||
         std::holds_alternative<PolynomialRate>(schedule) || std::holds_alternative<RisingRate>(schedule);
}

/// The factors of a step: a function of the schedule and the point alone, so that nothing needs to be kept. A point
/// past the end is the end. For `ReduceOnPlateau` the rate's factor is 1 here; it is what `Plateau` says.
/// \throws OptionError if the point has no steps
TRANSFERLIB_API ScheduleFactors factors_at(const Schedule& schedule, SchedulePoint point);

/// What `ReduceOnPlateau` has seen, and the factor that follows.
class Plateau {
 public:
  /// \throws OptionError
  explicit Plateau(ReduceOnPlateau options) : options_(std::move(options)) { detail::check(options_); }

  /// Takes an epoch's value of the monitored column; NaN counts as no improvement.
  /// \returns the factor of the rate from now on
  double update(double monitored);
  /// The factor of the rate now; 1 before the first reduction.
  double factor() const { return factor_; }
  const ReduceOnPlateau& options() const { return options_; }

  /// All that it has seen, as finite numbers, for a checkpoint.
  std::array<double, 5> state() const {
    return {factor_, best_, any_ ? 1.0 : 0.0, static_cast<double>(waited_), static_cast<double>(cooling_)};
  }
  /// Goes on from what `state` gave. \throws OptionError if it can't have given that
  void set_state(const std::array<double, 5>& state);

 private:
  ReduceOnPlateau options_;
  double factor_ = 1.0, best_ = 0.0;
  bool any_ = false;
  Index waited_ = 0, cooling_ = 0;
};

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API void check(const MultiStepRate& s) {
  require(s.gamma > 0.0 && std::isfinite(s.gamma), "MultiStepRate: gamma", "above 0", s.gamma);
  if (s.at.empty()) throw OptionError("MultiStepRate: at is empty; name the epochs after which the rate falls");
  Index before = 0;
  for (Index epoch : s.at) {
    if (epoch <= before)
      throw OptionError(
          text("MultiStepRate: at must hold rising numbers of epochs from 1; ", epoch, " follows ", before));
    before = epoch;
  }
}

TRANSFERLIB_API void check(const CosineRate& s) {
  require(s.warmup >= 0.0 && std::isfinite(s.warmup), "CosineRate: warmup",
          "a part of all steps below 1, or a number of steps", s.warmup);
  require(s.warmup < 1.0 || s.warmup == std::floor(s.warmup), "CosineRate: warmup",
          "a whole number of steps where it is above 1", s.warmup);
  require(s.least >= 0.0 && s.least <= 1.0, "CosineRate: least", "a part of the rate in [0, 1]", s.least);
  require(s.start >= 0.0 && s.start <= 1.0, "CosineRate: start", "a part of the rate in [0, 1]", s.start);
}

TRANSFERLIB_API void check(const OneCycle& s) {
  require(s.rise >= 0.0 && s.rise <= 1.0, "OneCycle: rise", "a part of all steps in [0, 1]", s.rise);
  require(s.divisor >= 1.0 && std::isfinite(s.divisor), "OneCycle: divisor", "at least 1", s.divisor);
  require(s.last_divisor >= 1.0 && std::isfinite(s.last_divisor), "OneCycle: last_divisor", "at least 1",
          s.last_divisor);
  for (double m : {s.least_momentum, s.greatest_momentum})
    require(m >= 0.0 && m < 1.0, "OneCycle: momentum", "in [0, 1)", m);
  if (s.least_momentum > s.greatest_momentum)
    throw OptionError(
        text("OneCycle: least_momentum is ", s.least_momentum, ", above greatest_momentum, ", s.greatest_momentum));
}

TRANSFERLIB_API void check(const ReduceOnPlateau& s) {
  if (s.monitor.empty()) throw OptionError("ReduceOnPlateau: monitor is empty; name a column, as val_loss");
  require(s.factor > 0.0 && s.factor < 1.0, "ReduceOnPlateau: factor", "in (0, 1)", s.factor);
  require(s.patience >= 0, "ReduceOnPlateau: patience", "at least 0 epochs", static_cast<double>(s.patience));
  require(s.threshold >= 0.0 && s.threshold < 1.0, "ReduceOnPlateau: threshold", "in [0, 1)", s.threshold);
  require(s.cooldown >= 0, "ReduceOnPlateau: cooldown", "at least 0 epochs", static_cast<double>(s.cooldown));
  require(s.least >= 0.0 && s.least <= 1.0, "ReduceOnPlateau: least", "a part of the rate in [0, 1]", s.least);
}

TRANSFERLIB_API ScheduleFactors factors(const OneCycle& s, const SchedulePoint& p) {
  const double step = static_cast<double>(p.step), total = static_cast<double>(p.steps_total);
  const double first = 1.0 / s.divisor, last = first / s.last_divisor;
  const double peak = s.rise * total - 1.0, end = total - 1.0;
  ScheduleFactors out;
  // Up, unless the rise is too short to hold a step; then down.
  const bool up = step <= peak && peak > 0.0;
  const double part = up ? step / peak : end > peak ? std::min((step - peak) / (end - peak), 1.0) : 1.0;
  out.rate = up ? anneal(first, 1.0, part) : anneal(1.0, last, part);
  if (s.momentum)
    out.momentum =
        up ? anneal(s.greatest_momentum, s.least_momentum, part) : anneal(s.least_momentum, s.greatest_momentum, part);
  return out;
}

}  // namespace transferlib::detail

namespace transferlib {

TRANSFERLIB_API ScheduleFactors factors_at(const Schedule& schedule, SchedulePoint point) {
  if (point.steps_total < 1 || point.steps_per_epoch < 1 || point.step < 0)
    throw OptionError(detail::text("a schedule needs at least one step: it was asked about step ", point.step, " of ",
                                   point.steps_total, ", ", point.steps_per_epoch, " an epoch"));
  point.step = std::min(point.step, point.steps_total);
  return std::visit([&](const auto& s) { return detail::factors(s, point); }, schedule);
}

TRANSFERLIB_API double Plateau::update(double monitored) {
  const double bar = options_.higher ? best_ * (1.0 + options_.threshold) : best_ * (1.0 - options_.threshold);
  if (!std::isnan(monitored) && (!any_ || (options_.higher ? monitored > bar : monitored < bar))) {
    best_ = monitored;
    any_ = true;
    waited_ = 0;
  } else {
    ++waited_;
  }
  if (cooling_ > 0) {
    --cooling_;
    waited_ = 0;
  }
  if (waited_ > options_.patience) {
    factor_ = std::max(factor_ * options_.factor, options_.least);
    cooling_ = options_.cooldown;
    waited_ = 0;
  }
  return factor_;
}

TRANSFERLIB_API void Plateau::set_state(const std::array<double, 5>& state) {
  const auto is_count = [](double x) { return x >= 0.0 && x <= 1e15 && x == std::floor(x); };
  if (!(state[0] >= 0.0 && state[0] <= 1.0 && std::isfinite(state[1]) && (state[2] == 0.0 || state[2] == 1.0) &&
        is_count(state[3]) && is_count(state[4])))
    throw OptionError(
        detail::text("a plateau's state is a factor in [0, 1], the best value, 0 or 1, and two counts, "
                     "not ",
                     state[0], ", ", state[1], ", ", state[2], ", ", state[3], ", ", state[4]));
  factor_ = state[0], best_ = state[1], any_ = state[2] != 0.0;
  waited_ = static_cast<Index>(state[3]), cooling_ = static_cast<Index>(state[4]);
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

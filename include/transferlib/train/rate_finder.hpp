/// \file
/// Finds a learning rate by trying them all, from far too low to far too high.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <stop_token>
#include <utility>
#include <variant>
#include <vector>

#include <transferlib/core/concepts.hpp>
#include <transferlib/core/error.hpp>
#include <transferlib/core/random.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/train/rate_range.hpp>
#include <transferlib/train/schedule.hpp>
#include <transferlib/train/source.hpp>
#include <transferlib/train/trainer.hpp>

namespace transferlib {

/// Which rates are tried.
struct RateFinder {
  double from = 1e-7;     ///< the first rate, above 0
  double to = 10.0;       ///< the last, above the first
  Index steps = 100;      ///< how many there are, at least 10
  double diverged = 4.0;  ///< ends where the running loss is this many times its least, above 1
};

namespace detail {

/// Some pictures of a data set, in a given order; one may come twice.
template <class D>
class Picked {
 public:
  using Target = typename D::Target;
  Picked(const D& data, std::vector<Index> ids) : data_(&data), ids_(std::move(ids)) {}
  Index size() const { return static_cast<Index>(ids_.size()); }
  Batch batch(std::span<const Index> which) const { return data_->batch(own(which)); }
  auto targets(std::span<const Index> which) const requires requires(const D& d) { d.targets(which); }
  { return data_->targets(own(which)); }
  Labels labels() const { return data_->labels(); }

 private:
  std::vector<Index> own(std::span<const Index> which) const {
    std::vector<Index> out;
    for (Index i : which) out.push_back(ids_[static_cast<std::size_t>(i)]);
    return out;
  }

  const D* data_;
  std::vector<Index> ids_;
};

/// Pictures enough for some steps: whole shuffles of the data set, one after the other.
TRANSFERLIB_API std::vector<Index> picks(Index size, Index wanted, std::uint64_t seed);

/// Notes each step's loss, and asks to stop where training has diverged.
class RateWatch {
 public:
  RateWatch(const RateFinder& finder, const TrainerOptions& options, std::stop_source stop)
      : finder_(finder), accumulate_(options.accumulate), stop_(std::move(stop)) {}

  void on_progress(const Progressed& p);

  RateRange range;

 private:
  RateFinder finder_;
  Index accumulate_, batches_ = 0, done_ = 0;
  std::stop_source stop_;
  double total_ = 0.0, running_ = 0.0, least_ = std::numeric_limits<double>::infinity();
};

inline void check(const RateFinder& f) {
  if (!(f.from > 0.0 && f.to > f.from && std::isfinite(f.to)))
    throw OptionError(text("find_rate: rates must rise from above 0, not from ", f.from, " to ", f.to));
  if (f.steps < 10) throw OptionError(text("find_rate: at least 10 steps are needed, not ", f.steps));
  if (!(f.diverged > 1.0)) throw OptionError(text("find_rate: diverged must be above 1, not ", f.diverged));
}

template <class D>
Picked<D> picked(const D& data, std::vector<Index> ids) {
  return {data, std::move(ids)};
}

}  // namespace detail

/// Trains a copy of a model with a rate that rises step by step from far too low to far too high, and notes the losses:
/// the range test of rates. The model stays as it is.
/// \param data to train on, augmented or not; `steps` batches of it are used
/// \param options how it shall be trained: everything counts but the rate, the schedule, the number of epochs, the
/// average of weights, unfreezing and checkpoints; with rates of their own for parts of the model, the rates found are
/// those of the optimiser
/// \param callbacks as `Trainer::fit` takes them, to show what is going on
/// \returns up to `steps` rates and losses; fewer where training diverged. `steepest()` is the rate to try
/// \throws OptionError, DataError, TrainingError, Stopped
template <class M, class D, class... C>
RateRange find_rate(const M& model, const D& data, TrainerOptions options = {}, const RateFinder& finder = {},
                    C&&... callbacks) {
  static_assert(Dataset<D>, "transferlib: find_rate: not a Dataset: it needs Target, size(), batch(ids), labels()");
  detail::check(finder);
  detail::check(options);
  if (data.size() == 0) throw DataError("the training data is empty: there is no picture to learn from");
  options.epochs = 1;
  options.schedule = RisingRate{.to = finder.to / finder.from};
  std::visit([&](auto& o) { o.lr = finder.from; }, options.optimizer);
  options.ema.reset();
  options.unfreezing = {};
  options.checkpoints = {};
  // What is computed for a part of the pictures is of no use to the training itself.
  options.cache.folder.clear();
  const std::stop_token told = std::exchange(options.stop, {});
  std::stop_source stop;
  const std::stop_callback also(told, [&] { stop.request_stop(); });
  options.stop = stop.get_token();

  const auto ids = detail::picks(data.size(), finder.steps * options.accumulate * options.batch, options.seed);
  const std::vector<Index> first(ids.begin(), ids.begin() + std::min<Index>(options.batch, data.size()));
  M copy = clone(model);
  detail::RateWatch watch(finder, options, stop);
  const auto fit = [&](const auto& train, const auto& validation) {
    try {
      Trainer<M>(copy, options).fit(train, validation, watch, callbacks...);
    } catch (const TrainingError&) {
      // A loss that is no number any more is what the highest rates end in.
      if (watch.range.losses.empty()) throw;
    }
  };
  if constexpr (requires { data.data(), data.transform(); }) {
    const auto part = detail::picked(data.data(), ids);
    fit(augment(part, data.transform()), detail::picked(data.data(), first));
  } else {
    fit(detail::picked(data, ids), detail::picked(data, first));
  }
  if (told.stop_requested()) throw Stopped("stopped while looking for a rate, as asked");
  return watch.range;
}

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API std::vector<Index> picks(Index size, Index wanted, std::uint64_t seed) {
  std::vector<Index> out;
  for (std::uint64_t round = 0; static_cast<Index>(out.size()) < wanted; ++round)
    for (Index id : shuffled(size, seed, round))
      if (static_cast<Index>(out.size()) < wanted) out.push_back(id);
  return out;
}

TRANSFERLIB_API void RateWatch::on_progress(const Progressed& p) {
  if (p.phase != "train" || ++batches_ % accumulate_ != 0) return;
  // What is told is the mean so far.
  const double total = p.values.at(0).second * static_cast<double>(p.done);
  const double loss = (total - total_) / static_cast<double>(p.done - done_);
  total_ = total, done_ = p.done;
  const double part = static_cast<double>(range.losses.size()) / static_cast<double>(finder_.steps - 1);
  range.rates.push_back(finder_.from * std::pow(finder_.to / finder_.from, part));
  range.losses.push_back(loss);
  running_ = range.losses.size() == 1 ? loss : 0.8 * running_ + 0.2 * loss;
  least_ = std::min(least_, running_);
  if (running_ > finder_.diverged * least_) stop_.request_stop();
}

}  // namespace transferlib::detail

#endif  // TRANSFERLIB_DEFINES

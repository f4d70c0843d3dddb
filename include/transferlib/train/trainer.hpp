/// \file
/// The trainer: a thin template over one loop that is none.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <transferlib/core/concepts.hpp>
#include <transferlib/core/error.hpp>
#include <transferlib/core/guard.hpp>
#include <transferlib/core/random.hpp>
#include <transferlib/data/parallel.hpp>
#include <transferlib/engine/cache.hpp>
#include <transferlib/engine/engine.hpp>
#include <transferlib/model/backbone.hpp>
#include <transferlib/model/head.hpp>
#include <transferlib/train/features.hpp>
#include <transferlib/train/history.hpp>
#include <transferlib/train/optimizer.hpp>
#include <transferlib/train/source.hpp>

namespace transferlib {

/// How a model is trained. One type for every model.
struct TrainerOptions {
  Index epochs = 10;
  Index batch = 100;                           ///< pictures a step; the last step of an epoch takes what is left
  Optimizer optimizer = Adam{};                ///< `Sgd{…}`, `Adam{…}`, `AdamW{…}`
  std::uint64_t seed = 0;                      ///< what order, views and dropout are drawn from
  Precision precision = Precision::automatic;  ///< of the frozen part; what is trained is computed in float32
  CacheOptions cache{};                        ///< of what leaves the frozen part
  /// Threads that read, augment and scale the next pictures while the network runs; 0: none, each batch is made when it
  /// is needed. The result is the same with any number.
  Index workers = 1;
  std::stop_token stop{};  ///< obeyed between steps, in caching too
};

/// What is going on, told while it goes on.
struct Progressed {
  std::string phase;  ///< "features" (the frozen part runs over the pictures, once), "train", "validate"
  Index epoch = 0;    ///< from 1; 0 while features are computed
  Index epochs = 0;
  Index done = 0, total = 0;  ///< pictures of this phase
  NamedValues values;         ///< so far in this epoch: `loss`, the metric
};

namespace detail {

/// What the loop calls of a model.
struct LoopHooks {
  std::function<std::vector<Tensor>()> parameters;
  /// The loss of what crosses the cut; adds the predictions to the metric.
  std::function<LossTerms(const Activations&, const Batch&, const Pass&)> loss;
  /// The metric's values since the last time.
  std::function<NamedValues(bool reset)> metric;
  /// None where the head does not standardise.
  std::function<void(const Tensor& mean, const Tensor& deviation)> standardise;
  std::function<void(bool training)> mode;
  std::function<void(const Progressed&)> progress;
  std::function<bool(const Epoch&)> epoch_end;  ///< false: training ends here
};

inline void check_labels(const Labels& model, const Labels& data, std::string_view which) {
  if (model == data) return;
  std::vector<std::string> lacking, unknown;
  for (const auto& l : model)
    if (std::find(data.begin(), data.end(), l) == data.end()) lacking.push_back(l);
  for (const auto& l : data)
    if (std::find(model.begin(), model.end(), l) == model.end()) unknown.push_back(l);
  std::string sentence = text("the classes of the ", which, " data are not the model's: ");
  if (!lacking.empty()) sentence += text("it lacks ", first_few(lacking), "; ");
  if (!unknown.empty()) sentence += text("it has ", first_few(unknown), ", which the model does not know; ");
  if (lacking.empty() && unknown.empty()) sentence += "they are the same names in another order; ";
  throw DataError(sentence + "train and validation data need the same classes in the same order");
}

inline void check_targets(const Source& source, std::string_view which) {
  const Index classes = static_cast<Index>(source.labels.size());
  for (Index from = 0; from < source.size; from += 4096) {
    const auto ids = numbers(from, std::min(from + 4096, source.size));
    const Tensor t = source.targets(ids).target.cpu().contiguous();
    if (t.scalar_type() != at::kLong || t.dim() != 1) return;
    const Index* p = t.const_data_ptr<Index>();
    for (std::size_t i = 0; i < ids.size(); ++i)
      if (p[i] < 0 || p[i] >= classes)
        throw DataError(text("picture ", ids[i], " of the ", which, " data has the label ", p[i],
                             ", which is out of range: ", "there are ", classes, " classes, so labels go from 0 to ",
                             classes - 1));
  }
}

/// The mean and deviation of what crosses the cut, over the whole training set, in double precision.
inline std::pair<Tensor, Tensor> feature_statistics(const FeatureSource& features, const std::stop_token& stop) {
  Tensor sum, squares;
  features.for_each_batch(numbers(0, features.size()), 1024, 0, stop, [&](auto, const Activations& values, auto&) {
    const Tensor x = values.at(0).to(at::kDouble);
    const Tensor s = x.sum(0), q = (x * x).sum(0);
    sum = sum.defined() ? sum + s : s;
    squares = squares.defined() ? squares + q : q;
  });
  const double n = static_cast<double>(features.size());
  const Tensor mean = sum / n;
  return {mean, (squares / n - mean * mean).clamp_min(0.0).sqrt()};
}

/// Whether a step behind the cut is so little work (a head on pooled features) that one thread does it sooner than a
/// team can be woken: half the time on an idle machine, and a hundredth on one whose cores others use too.
inline bool is_small_step(const Activations& activations, const std::vector<Tensor>& parameters) {
  Index numbers = 0;
  for (const Tensor& p : parameters) numbers += p.numel();
  return std::all_of(activations.begin(), activations.end(), [&](const Tensor& t) {
    return t.dim() == 2 && t.is_cpu() && t.size(0) * numbers <= Index{1} << 23;
  });
}

inline void check_batch(Index batch) {
  if (batch < 1) throw OptionError(text("a batch must have at least 1 picture, not ", batch));
}

/// Runs over a data set once without training. \returns `loss` and the metric's values
inline NamedValues evaluate_loop(const FeatureSource& features, Index batch_size, const LoopHooks& hooks,
                                 const std::stop_token& stop, Progressed progress) {
  const torch::NoGradGuard guard;
  hooks.mode(false);
  hooks.metric(true);
  double loss = 0.0;
  progress.total = features.size();
  features.for_each_batch(numbers(0, features.size()), batch_size, 0, stop,
                          [&](std::span<const Index> ids, const Activations& activations, const Batch& batch) {
                            loss += hooks.loss(activations, batch, {}).total().item<double>() *
                                    static_cast<double>(ids.size());
                            progress.done += static_cast<Index>(ids.size());
                            if (hooks.progress) hooks.progress(progress);
                          });
  NamedValues out{{"loss", loss / static_cast<double>(features.size())}};
  for (auto& value : hooks.metric(true)) out.push_back(std::move(value));
  return out;
}

/// The loop. Ends early, with what was complete, when the stop token is set or a callback says so.
inline History fit_loop(const TrainerOptions& options, FeatureSource& train, FeatureSource& val, const LoopHooks& hooks,
                        Index layers) {
  if (options.epochs < 1) throw OptionError(text("epochs must be at least 1, not ", options.epochs));
  check_batch(options.batch);
  check(options.optimizer);
  if (train.size() == 0) throw DataError("the training data is empty: there is no picture to learn from");
  if (val.size() == 0) throw DataError("the validation data is empty: there is no picture to measure with");
  check_targets(train.source(), "training");
  check_targets(val.source(), "validation");
  const std::vector<Tensor> parameters = hooks.parameters();
  if (parameters.empty())
    throw TrainingError(text("nothing is left to train: all ", layers,
                             " layers of the backbone are frozen and the head has no parameters; freeze less"));
  const auto fill = [&](FeatureSource& features, Index before, Index total) {
    features.fill(options.stop, [&](Index done, Index) {
      if (hooks.progress) hooks.progress({"features", 0, options.epochs, before + done, total, {}});
    });
  };
  const auto rows = [](const FeatureSource& f) { return f.cache() == nullptr ? 0 : f.cache()->rows(); };
  fill(train, 0, rows(train) + rows(val));
  fill(val, rows(train), rows(train) + rows(val));

  History history;
  try {
    if (hooks.standardise) {
      hooks.mode(false);
      const torch::NoGradGuard guard;
      const auto [mean, deviation] = feature_statistics(train, options.stop);
      hooks.standardise(mean, deviation);
    }
    std::vector<TrainedParameter> trained;
    for (const Tensor& p : parameters) trained.push_back({text("parameter ", trained.size()), p});
    OptimizerState optimizer(std::move(trained), options.optimizer);
    Index steps = 0;
    for (Index epoch = 1; epoch <= options.epochs; ++epoch) {
      const auto start = std::chrono::steady_clock::now();
      hooks.mode(true);
      hooks.metric(true);
      std::vector<std::pair<std::string, double>> sums;
      double total = 0.0;
      Index done = 0;
      const auto step = [&](std::span<const Index> ids, const Activations& activations, const Batch& batch) {
        const OneThread alone(is_small_step(activations, parameters));
        optimizer.zero_gradients();
        const LossTerms loss = hooks.loss(activations, batch, {true, options.seed, steps});
        const Tensor sum = loss.total();
        const double value = sum.item<double>();
        if (!std::isfinite(value))
          throw TrainingError(text("the loss is ", std::isnan(value) ? std::string("nan") : text(value), " at epoch ",
                                   epoch, ", step ", done / options.batch + 1, "; the learning rate ",
                                   std::visit([](const auto& o) { return o.lr; }, options.optimizer),
                                   " may be too high, or the data may hold numbers that are none"));
        sum.backward();
        optimizer.step();
        ++steps;
        const double n = static_cast<double>(ids.size());
        total += value * n;
        done += static_cast<Index>(ids.size());
        if (loss.terms.size() > 1) {
          sums.resize(loss.terms.size());
          for (std::size_t t = 0; t < sums.size(); ++t) {
            sums[t].first = loss.terms[t].first;
            sums[t].second += loss.terms[t].second.item<double>() * n;
          }
        }
        if (hooks.progress) {
          Progressed p{"train", epoch, options.epochs, done, train.size(), {}};
          p.values.emplace_back("loss", total / static_cast<double>(done));
          for (auto& m : hooks.metric(false)) p.values.push_back(std::move(m));
          hooks.progress(p);
        }
      };
      train.for_each_batch(shuffled(train.size(), options.seed, static_cast<std::uint64_t>(epoch)), options.batch,
                           epoch, options.stop, step);
      Epoch result;
      result.number = epoch;
      const double n = static_cast<double>(train.size());
      result.values.emplace_back("train_loss", total / n);
      for (const auto& [name, sum] : sums) result.values.emplace_back("train_" + name, sum / n);
      for (const auto& [name, value] : hooks.metric(true)) result.values.emplace_back("train_" + name, value);
      for (const auto& [name, value] :
           evaluate_loop(val, options.batch, hooks, options.stop, {"validate", epoch, options.epochs, 0, 0, {}}))
        result.values.emplace_back("val_" + name, value);
      result.values.emplace_back("seconds",
                                 std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
      history.epochs.push_back(result);
      if (!hooks.epoch_end(result)) break;
    }
  } catch (const Stopped&) {
    // What was complete is returned.
  }
  return history;
}

template <class M>
struct Temporary {};

}  // namespace detail

/// Trains a model: `Trainer{model, {.epochs = 5, .optimizer = Adam{.lr = 1e-3}}}.fit(train, validation)`. The model
/// must outlive it.
template <class M>
class Trainer {
  static_assert(
      Trainable<M>,
      "transferlib: Trainer<Model>: Model must be a Classifier, a Detector, or have their Target, Output, Metric, "
      "backbone_core, state, above_cut, loss, score");

 public:
  explicit Trainer(M& model, TrainerOptions options = {}) : model_(&model), options_(std::move(options)) {}
  Trainer(const M&&, TrainerOptions = {}) = delete;

  /// Trains on `train`, measures on `validation` after each epoch.
  ///
  /// A callback is any object with at least one of `on_fit_begin(model)`, `on_progress(const Progressed&)`,
  /// `on_epoch_end(const Epoch&)` or `on_epoch_end(model, const Epoch&)` (which end the training by returning false),
  /// `on_fit_end(model)`.
  /// \returns each epoch's `train_loss`, `train_accuracy` (the running mean of the epoch), `val_loss`, `val_accuracy`,
  /// `seconds`, or what the head's metric is called
  /// \throws DataError, OptionError, TrainingError
  template <class D, class E, class... C>
  History fit(const D& train, const E& validation, C&&... callbacks) {
    static_assert(Dataset<D> && Dataset<E>,
                  "transferlib: fit: not a Dataset: it needs Target, size(), batch(ids), labels()");
    if constexpr (Dataset<D> && Dataset<E>) {
      static_assert(
          std::same_as<typename D::Target, typename M::Target> && std::same_as<typename E::Target, typename M::Target>,
          "transferlib: fit: the data's Target is not the head's (class indices for a Classifier, boxes for a "
          "Detector)");
      static_assert((CallbackFor<std::remove_cvref_t<C>, M> && ...),
                    "transferlib: fit: a callback has none of the hooks on_fit_begin(model), on_progress(progress), "
                    "on_epoch_end(model, epoch), on_epoch_end(epoch), on_fit_end(model)");
      return detail::guarded("training", [&] {
        detail::check_labels(model_->labels(), train.labels(), "training");
        detail::check_labels(model_->labels(), validation.labels(), "validation");
        auto train_features = features(detail::source(train));
        auto val_features = features(detail::source(unaugmented(validation)));
        (begin(callbacks), ...);
        typename M::Metric metric;
        detail::LoopHooks hooks = make_hooks(metric);
        hooks.progress = [&](const Progressed& p) { (progress(callbacks, p), ...); };
        hooks.epoch_end = [&](const Epoch& e) {
          bool on = true;
          ((on = epoch_end(callbacks, e) && on), ...);
          return on;
        };
        History history = detail::fit_loop(options_, train_features, val_features, hooks, model_->layers().size());
        hooks.mode(false);
        (end(callbacks), ...);
        return history;
      });
    }
  }

  /// Measures a model as `fit` does after an epoch.
  /// \param metrics any metrics besides; each is shown all predictions
  /// \returns `loss` and the values of the head's metric
  template <class D, class... Metrics>
  NamedValues evaluate(const D& data, Metrics&... metrics) {
    static_assert(Dataset<D>, "transferlib: evaluate: not a Dataset: it needs Target, size(), batch(ids), labels()");
    return detail::guarded("evaluating", [&] {
      detail::check_batch(options_.batch);
      detail::check_labels(model_->labels(), data.labels(), "evaluated");
      auto source = features(detail::source(unaugmented(data)));
      if (source.size() == 0) throw DataError("the data to evaluate on is empty");
      detail::check_targets(source.source(), "evaluated");
      source.fill(options_.stop, {});
      typename M::Metric metric;
      detail::LoopHooks hooks = make_hooks(metric, metrics...);
      return detail::evaluate_loop(source, options_.batch, hooks, options_.stop, {});
    });
  }

  const TrainerOptions& options() const { return options_; }

 private:
  detail::FeatureSource features(detail::Source source) {
    return {model_->backbone_core(), model_->cut(), std::move(source), options_.precision,
            options_.cache,          options_.seed, options_.workers};
  }

  template <class D>
  static const D& unaugmented(const D& data) {
    return data;
  }
  template <class D, class T>
  static const D& unaugmented(const Augmented<D, T>& data) {
    return data.data();
  }

  template <class... Metrics>
  detail::LoopHooks make_hooks(typename M::Metric& metric, Metrics&... others) {
    detail::LoopHooks hooks;
    hooks.parameters = [this] { return model_->trainable_parameters(); };
    hooks.loss = [this, &metric, &others...](const Activations& a, const Batch& b, const Pass& pass) {
      const auto output = model_->above_cut(a, pass);
      {
        const torch::NoGradGuard guard;
        if constexpr (std::same_as<typename M::Target, Boxes>) {
          // Boxes are dear to measure: on the validation data only.
          if (!pass.training) model_->score(metric, output, b), (model_->score(others, output, b), ...);
        } else {
          model_->score(metric, output, b);
          (others.update(model_->head().predict(output), b), ...);
        }
      }
      return model_->loss(output, b);
    };
    hooks.metric = [&metric](bool reset) {
      NamedValues out = metric.values();
      if (reset) metric = {};
      return out;
    };
    hooks.mode = [this](bool training) { detail::set_mode(model_->backbone_core(), training); };
    if constexpr (requires { detail::inner_head(model_->head()).standardise(Tensor(), Tensor()); }) {
      auto& head = detail::inner_head(model_->head());
      if (head.wants_standardising() && !head.is_standardised() && !head.is_trained())
        hooks.standardise = [this, &head](const Tensor& mean, const Tensor& deviation) {
          if (model_->cut().live == model_->wanted()) head.standardise(mean, deviation);
        };
      if (model_->cut().live != model_->wanted()) hooks.standardise = nullptr;
    }
    return hooks;
  }

  template <class C>
  void begin(C& c) {
    if constexpr (requires { c.on_fit_begin(*model_); }) c.on_fit_begin(*model_);
  }
  template <class C>
  void progress(C& c, const Progressed& p) {
    if constexpr (requires { c.on_progress(p); }) c.on_progress(p);
  }
  template <class C>
  bool epoch_end(C& c, const Epoch& e) {
    const auto go_on = [](auto&& call) {
      if constexpr (std::is_same_v<decltype(call()), bool>) {
        return call();
      } else {
        call();
        return true;
      }
    };
    if constexpr (requires { c.on_epoch_end(*model_, e); })
      return go_on([&] { return c.on_epoch_end(*model_, e); });
    else if constexpr (requires { c.on_epoch_end(e); })
      return go_on([&] { return c.on_epoch_end(e); });
    else
      return true;
  }
  template <class C>
  void end(C& c) {
    if constexpr (requires { c.on_fit_end(*model_); }) c.on_fit_end(*model_);
  }

  M* model_;
  TrainerOptions options_;
};

/// What a temporary model is deduced to, so that it is refused in a sentence.
template <class M>
class Trainer<detail::Temporary<M>> {
  static_assert(sizeof(M) == 0,
                "transferlib: Trainer: the model is a temporary, which is gone before it can be trained; give it a "
                "name: `Classifier model{…}; Trainer trainer{model, …};`");

 public:
  explicit Trainer(const M&&, TrainerOptions = {}) {}
};

template <class M>
Trainer(const M&&, TrainerOptions) -> Trainer<detail::Temporary<M>>;
template <class M>
Trainer(const M&&) -> Trainer<detail::Temporary<M>>;
template <class M>
Trainer(M&, TrainerOptions) -> Trainer<M>;
template <class M>
Trainer(M&) -> Trainer<M>;

/// Loss and metric of a model on a data set, computed by the inference engine.
template <class M, class D>
NamedValues evaluate(M& model, const D& data, const TrainerOptions& options = {}) {
  return Trainer<M>(model, options).evaluate(data);
}

}  // namespace transferlib

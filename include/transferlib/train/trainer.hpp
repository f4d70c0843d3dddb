/// \file
/// The trainer: a thin template over one loop that is none.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <transferlib/core/concepts.hpp>
#include <transferlib/core/error.hpp>
#include <transferlib/core/guard.hpp>
#include <transferlib/freeze/policy.hpp>
#include <transferlib/model/backbone.hpp>
#include <transferlib/model/head.hpp>
#include <transferlib/train/features.hpp>
#include <transferlib/train/history.hpp>
#include <transferlib/train/loop.hpp>
#include <transferlib/train/options.hpp>
#include <transferlib/train/source.hpp>

namespace transferlib {
namespace detail {

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
  /// `on_note(std::string_view)` (a sentence for a log), `on_resume(const History&)`, `on_fit_end(model)`. One that has
  /// a state of its own tells it by `StateDict checkpoint() const`, and takes it back by `restore(const StateDict&)`.
  /// \returns each epoch's `train_loss`, `train_accuracy` (the running mean of the epoch), `val_loss`, `val_accuracy`,
  /// `seconds`, or what the head's metric is called
  /// \throws DataError, OptionError, TrainingError
  template <class D, class E, class... C>
  History fit(const D& train, const E& validation, C&&... callbacks) {
    if constexpr (check_fit<D, E, C...>()) return fit_phases({{options_, {}}}, train, validation, callbacks...);
  }

  /// The same in several phases, one after the other: each with options of its own for what is about learning (epochs,
  /// optimiser, schedule, …), and with its own rule of what is frozen. Data, seed and checkpoints are the trainer's.
  template <class D, class E, class... C>
  History fit_phases(std::vector<detail::Phase> phases, const D& train, const E& validation, C&... callbacks) {
    return detail::guarded("training", [&] {
      detail::check_labels(model_->labels(), train.labels(), "training");
      detail::check_labels(model_->labels(), validation.labels(), "validation");
      typename M::Metric metric;
      detail::LoopHooks hooks = make_hooks(metric);
      hooks.progress = [&](const Progressed& p) { (progress(callbacks, p), ...); };
      hooks.note = [&]([[maybe_unused]] std::string_view sentence) { (note(callbacks, sentence), ...); };
      hooks.resumed = [&]([[maybe_unused]] const History& history) { (resume(callbacks, history), ...); };
      hooks.epoch_end = [&](const Epoch& e) {
        bool on = true;
        ((on = epoch_end(callbacks, e) && on), ...);
        return on;
      };
      hooks.callbacks = [&] {
        StateDict out;
        [[maybe_unused]] Index number = 0;
        (checkpoint(callbacks, detail::text(number++, "."), out), ...);
        return out;
      };
      hooks.set_callbacks = [&]([[maybe_unused]] const StateDict& state) {
        [[maybe_unused]] Index number = 0;
        (restore(callbacks, detail::text(number++, "."), state), ...);
      };
      (begin(callbacks), ...);
      detail::Loop loop(std::move(phases), detail::source(train), detail::source(unaugmented(validation)),
                        std::move(hooks));
      History history = loop.run();
      detail::set_mode(model_->backbone_core(), false);
      (end(callbacks), ...);
      return history;
    });
  }

  /// The two-phase recipe, as fastai's `fine_tune`: the head alone first, on the frozen network, so that its random
  /// weights spoil nothing (Kumar et al., "Fine-Tuning can Distort Pretrained Features", 2022); then the network too,
  /// for the options' epochs, at half the rate, one-cycle, each stage more slowly than the one above it. The options'
  /// schedule and groups are not looked at.
  /// \returns the epochs of both \throws DataError, OptionError, TrainingError
  template <class D, class E, class... C>
  History fine_tune(const D& train, const E& validation, const FineTune& recipe, C&&... callbacks) {
    static_assert(check_fit<D, E, C...>());
    if (!(recipe.ratio >= 1.0))
      throw OptionError(detail::text("fine_tune: the ratio of the rates must be at least 1, not ", recipe.ratio));
    detail::Phase head{options_, {}}, all{options_, recipe.freeze};
    head.options.epochs = recipe.head_epochs;
    head.options.schedule = OneCycle{.rise = 0.99};
    head.options.groups = {.decay_norms_and_biases = options_.groups.decay_norms_and_biases};
    head.options.unfreezing = {};
    std::visit([](auto& o) { o.lr /= 2.0; }, all.options.optimizer);
    all.options.schedule = OneCycle{.rise = recipe.rise, .divisor = 5.0, .last_divisor = 1e5};
    const double stages = static_cast<double>(std::max<std::size_t>(1, model_->backbone_core().graph.stages.size()));
    all.options.groups.stage_decay = std::pow(recipe.ratio, -1.0 / stages);
    all.options.groups.backbone = all.options.groups.stage_decay;
    return fit_phases({std::move(head), std::move(all)}, train, validation, callbacks...);
  }

  /// Measures a model as `fit` does after an epoch.
  /// \param metrics any metrics besides; each is shown all predictions
  /// \returns `loss` and the values of the head's metric
  template <class D, class... Metrics>
  NamedValues evaluate(const D& data, Metrics&... metrics) {
    static_assert(Dataset<D>, "transferlib: evaluate: not a Dataset: it needs Target, size(), batch(ids), labels()");
    return detail::guarded("evaluating", [&] {
      detail::check(options_);
      detail::check_labels(model_->labels(), data.labels(), "evaluated");
      auto source = features(detail::source(unaugmented(data)));
      if (source.size() == 0) throw DataError("the data to evaluate on is empty");
      detail::check_targets(source.source(), "evaluated");
      source.fill(options_.stop, {});
      typename M::Metric metric;
      detail::LoopHooks hooks = make_hooks(metric, metrics...);
      TrainerOptions options = options_;
      options.autocast = Precision::fp32;
      return detail::evaluate_loop(source, options, hooks, {});
    });
  }

  const TrainerOptions& options() const { return options_; }

 private:
  template <class D, class E, class... C>
  static constexpr bool check_fit() {
    static_assert(Dataset<D> && Dataset<E>,
                  "transferlib: fit: not a Dataset: it needs Target, size(), batch(ids), labels()");
    if constexpr (Dataset<D> && Dataset<E>) {
      static_assert(
          std::same_as<typename D::Target, typename M::Target> && std::same_as<typename E::Target, typename M::Target>,
          "transferlib: fit: the data's Target is not the head's (class indices for a Classifier, boxes for a "
          "Detector)");
      static_assert((CallbackFor<std::remove_cvref_t<C>, M> && ...),
                    "transferlib: fit: a callback has none of the hooks on_fit_begin(model), on_progress(progress), "
                    "on_epoch_end(model, epoch), on_epoch_end(epoch), on_note(sentence), on_fit_end(model)");
    }
    return Dataset<D> && Dataset<E>;
  }

  detail::FeatureSource features(detail::Source source) {
    const auto& core = model_->backbone_core();
    return {core,
            model_->cut(),
            std::move(source),
            options_.precision,
            options_.cache,
            options_.seed,
            options_.workers.value_or(core.device().is_cpu() ? 0 : 1)};
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
    hooks.core = &model_->backbone_core();
    hooks.state = [this] { return model_->state(); };
    hooks.refreeze = [this](const AnyRule& rule) { model_->refreeze(FreezePolicy<AnyRule>{rule}); };
    hooks.open = [this](detail::Source source) { return features(std::move(source)); };
    hooks.model = description();
    constexpr bool weighs = std::same_as<typename M::Target, ClassIndex> && std::same_as<typename M::Output, Tensor>;
    hooks.weighs = weighs;
    hooks.loss = [this, &metric, &others...](const Activations& a, const Batch& b, const Pass& pass,
                                             [[maybe_unused]] detail::EachPicture* each) {
      auto output = model_->above_cut(a, pass);
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
      if constexpr (weighs)
        if (each != nullptr) {
          each->losses = detail::picture_losses(output, b.target);
          output = detail::weigh_gradient(output, each->weights);
        }
      return model_->loss(output, b);
    };
    hooks.metric = [&metric](bool reset) {
      NamedValues out = metric.values();
      if (reset) metric = {};
      return out;
    };
    hooks.mode = [this](bool training) { detail::set_mode(model_->backbone_core(), training); };
    if constexpr (requires { metric.set_state(metric.state()); }) {
      hooks.metric_state = [&metric] { return metric.state(); };
      hooks.set_metric_state = [&metric](const std::vector<double>& state) { metric.set_state(state); };
    } else if constexpr (std::same_as<typename M::Target, Boxes>) {
      // Nothing is measured in training, so there is nothing to keep.
      hooks.metric_state = [] { return std::vector<double>(); };
      hooks.set_metric_state = [&metric](const std::vector<double>&) { metric = {}; };
    }
    if constexpr (requires { detail::inner_head(model_->head()).standardise(Tensor(), Tensor()); }) {
      auto& head = detail::inner_head(model_->head());
      hooks.wants_standardising = [this, &head] {
        return head.wants_standardising() && !head.is_standardised() && !head.is_trained() &&
               model_->cut().live == model_->wanted();
      };
      hooks.standardise = [&head](const Tensor& mean, const Tensor& deviation) { head.standardise(mean, deviation); };
      hooks.standardisation = [&head] {
        StateDict out;
        if (const auto [mean, scale] = head.standardisation(); mean.defined()) {
          out.emplace_back("mean", mean);
          out.emplace_back("scale", scale);
        }
        return out;
      };
      hooks.set_standardisation = [&head, this](const StateDict& state) {
        const auto device = model_->backbone_core().device();
        if (state.size() == 2) head.set_standardisation({state[0].second.to(device), state[1].second.to(device)});
      };
    }
    return hooks;
  }

  /// What the model is, for the identity of a run.
  std::string description() const {
    const auto& core = model_->backbone_core();
    const Preprocessing& p = core.preprocessing;
    std::string out = detail::text(core.kind(), " ", p.size, " mean ", p.mean[0], " ", p.mean[1], " ", p.mean[2],
                                   " deviation ", p.deviation[0], " ", p.deviation[1], " ", p.deviation[2], " ",
                                   core.options.in_channels, " channels, head ");
    if constexpr (requires { detail::inner_head(model_->head()).description(); })
      out += detail::inner_head(model_->head()).description();
    if constexpr (requires { detail::inner_head(model_->head()).recipe(); })
      out += ", " + detail::inner_head(model_->head()).recipe();
    if constexpr (requires { std::string(model_->lesson()); }) out += ", " + model_->lesson();
    out += ", classes";
    for (const std::string& label : model_->labels()) out += " " + label;
    return out;
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
  void note(C& c, std::string_view sentence) {
    if constexpr (requires { c.on_note(sentence); }) c.on_note(sentence);
  }
  template <class C>
  void resume(C& c, const History& history) {
    if constexpr (requires { c.on_resume(history); }) c.on_resume(history);
  }
  template <class C>
  void checkpoint(const C& c, const std::string& prefix, StateDict& out) {
    if constexpr (requires { StateDict(c.checkpoint()); })
      for (auto& [name, tensor] : c.checkpoint()) out.emplace_back(prefix + name, tensor);
  }
  template <class C>
  void restore(C& c, const std::string& prefix, const StateDict& state) {
    if constexpr (requires { c.restore(state); }) {
      StateDict own;
      for (const auto& [name, tensor] : state)
        if (name.starts_with(prefix)) own.emplace_back(name.substr(prefix.size()), tensor);
      c.restore(own);
    }
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

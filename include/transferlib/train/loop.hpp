/// \file
/// The training loop, which is no template: what it needs of a model, it is told by functions.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <stop_token>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include <transferlib/core/environment.hpp>
#include <transferlib/core/error.hpp>
#include <transferlib/core/parallel.hpp>
#include <transferlib/core/random.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/data/balanced.hpp>
#include <transferlib/data/mix.hpp>
#include <transferlib/engine/autocast.hpp>
#include <transferlib/model/backbone.hpp>
#include <transferlib/train/average.hpp>
#include <transferlib/train/checkpoint.hpp>
#include <transferlib/train/features.hpp>
#include <transferlib/train/gradient_scaler.hpp>
#include <transferlib/train/history.hpp>
#include <transferlib/train/options.hpp>
#include <transferlib/train/pruning.hpp>
#include <transferlib/train/source.hpp>

namespace transferlib {

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
  BackboneCore* core = nullptr;
  std::function<StateDict()> state;              ///< every tensor of the model by name
  std::function<void(const AnyRule&)> refreeze;  ///< and cuts anew
  std::function<FeatureSource(Source)> open;     ///< what crosses the model's cut
  /// The loss of what crosses the cut; adds the predictions to the metric. `each`: of a model that weighs pictures, or
  /// null.
  std::function<LossTerms(const Activations&, const Batch&, const Pass&, EachPicture* each)> loss;
  bool weighs = false;  ///< whether it gives one row of numbers a picture, and its target is one class each
  /// The metric's values since the last time.
  std::function<NamedValues(bool reset)> metric;
  /// What the metric has seen, and back; none where it can't tell: a run then stops and goes on between epochs only.
  std::function<std::vector<double>()> metric_state;
  std::function<void(const std::vector<double>&)> set_metric_state;
  /// Standardises the head's input; does nothing where the head does not, or is trained already.
  std::function<bool()> wants_standardising;
  std::function<void(const Tensor& mean, const Tensor& deviation)> standardise;
  std::function<StateDict()> standardisation;
  std::function<void(const StateDict&)> set_standardisation;
  std::function<void(bool training)> mode;
  std::function<void(const Progressed&)> progress;
  std::function<void(std::string_view)> note;   ///< a sentence for the log
  std::function<bool(const Epoch&)> epoch_end;  ///< false: training ends here
  std::function<void(const History&)> resumed;
  std::function<StateDict()> callbacks;  ///< their state
  std::function<void(const StateDict&)> set_callbacks;
  std::string model;  ///< what the model is, in words
};

/// A part of a training with options of its own: of all of them but the first, only what is about learning is looked
/// at.
struct Phase {
  TrainerOptions options;
  std::optional<AnyRule> freeze{};  ///< none: as the model is
};

TRANSFERLIB_API void check_labels(const Labels& model, const Labels& data, std::string_view which);

/// The classes of all pictures. \returns nothing where the targets are no class indices \throws DataError where one is
/// out of range
TRANSFERLIB_API std::vector<Index> check_targets(const Source& source, std::string_view which);

/// The mean and deviation of what crosses the cut, over the whole training set as the first epoch shows it, in double
/// precision.
TRANSFERLIB_API std::pair<Tensor, Tensor> feature_statistics(const FeatureSource& features,
                                                             const std::stop_token& stop);

/// Whether a step behind the cut is so little work (a head on pooled features) that one thread does it sooner than a
/// team can be woken: half the time on an idle machine, and a hundredth on one whose cores others use too.
TRANSFERLIB_API bool is_small_step(const Activations& activations, const std::vector<Tensor>& parameters);

/// Runs over a data set once without training. \returns `loss` and the metric's values
TRANSFERLIB_API NamedValues evaluate_loop(const FeatureSource& features, const TrainerOptions& options,
                                          const LoopHooks& hooks, Progressed progress);

/// The parameters that a model trains, of its tensors `state`, with the rates of their groups.
TRANSFERLIB_API std::vector<TrainedParameter> trained_parameters(const BackboneCore& core, const StateDict& state,
                                                                 const ParameterGroups& groups);

/// A training: its phases one after the other, epoch by epoch, with all its state.
class Loop {
 public:
  Loop(std::vector<Phase> phases, Source train, Source val, LoopHooks hooks);

  /// Trains. Ends early, with what was complete, when the stop token is set or a callback says so.
  History run();

 private:
  const TrainerOptions& first() const { return phases_.front().options; }

  /// The phase of the epoch at hand, and how many epochs there were before it.
  std::pair<std::size_t, Index> phase_of(Index epoch) const {
    Index before = 0;
    std::size_t p = 0;
    while (p + 1 < phases_.size() && epoch > before + phases_[p].options.epochs) before += phases_[p++].options.epochs;
    return {p, before};
  }

  void note(std::string_view sentence) const {
    if (hooks_.note) hooks_.note(sentence);
  }

  /// The tensors of the model that training can change as it is frozen now.
  StateDict changing() const;

  void begin_phase(std::size_t p);

  /// What follows from which layers are frozen: the cut's values, the optimiser's parameters, what is averaged.
  void open(std::size_t p);

  /// The layers that are frozen in this epoch of a phase.
  std::optional<AnyRule> unfreezing(const Unfreezing& how, Index epoch) const;

  void run_epoch();

  /// Batches of an epoch that shows all pictures.
  Index whole_batches(const TrainerOptions& o) const { return (train_source_.size + o.batch - 1) / o.batch; }

  /// Which pictures the epoch at hand shows, and in which order.
  void choose_pictures(const TrainerOptions& o, Index local_epoch);

  /// Takes a batch in; where it is the last of a step, steps.
  void take(std::size_t p, std::span<const Index> ids, const Activations& activations, const Batch& batch);

  void step(const TrainerOptions& o);

  /// Adds the gradient of L2-SP.
  void pull_back(const L2Sp& l2);

  /// What a metric's history says of when it was best.
  struct Stall {
    double best = 0.0;
    Index waited = 0;
    bool any = false;
  };
  void watch(const UnfreezeOnStall& options, const Epoch& epoch);

  /// The averages stand in for the weights as long as it lives.
  class Swapped {
   public:
    explicit Swapped(std::optional<WeightAverage>& average) : average_(average) {
      if (average_) average_->swap();
    }
    Swapped(const Swapped&) = delete;
    Swapped& operator=(const Swapped&) = delete;
    ~Swapped() {
      if (average_) average_->swap();
    }

   private:
    std::optional<WeightAverage>& average_;
  };

  // ------------------------------------------------------------------------------------------------------- checkpoints

  /// Between steps, and between epochs only where the metric can't tell what it has seen.
  bool can_write_here() const;

  /// What must be the same for the same bytes. The frozen weights are not in the checkpoint, but their hash is.
  Described identity();

  static std::vector<double> as_numbers(const std::vector<bool>& mask) { return {mask.begin(), mask.end()}; }
  static std::vector<bool> as_mask(const std::vector<double>& numbers) {
    std::vector<bool> out;
    for (double n : numbers) out.push_back(n != 0.0);
    return out;
  }

  void write_checkpoint();

  void restore(const RunState& state);

  std::vector<Phase> phases_;
  Source train_source_, val_source_;
  LoopHooks hooks_;
  std::vector<Index> classes_;  ///< of the training pictures; none where targets are none
  Index epochs_ = 0;            ///< of all phases
  std::unique_ptr<CheckpointFolder> folder_;
  Described described_data_;
  std::string frozen_hash_;
  std::size_t hashed_without_ = std::numeric_limits<std::size_t>::max();

  std::unique_ptr<FeatureSource> train_, val_;
  std::optional<OptimizerState> optimizer_;
  std::optional<WeightAverage> average_;
  std::optional<Plateau> plateau_;
  GradientScaler scaler_;
  Stall stall_;
  StateDict reference_;                            ///< the weights at the start, for L2-SP
  std::vector<std::pair<Tensor, Tensor>> pulled_;  ///< what is trained, and what L2-SP pulls it to; undefined: zero
  std::set<std::string> touched_;                  ///< names of what training may have changed
  std::vector<bool> base_mask_;                    ///< what was frozen when the phase began
  Index opened_ = 0;                               ///< stages that were unfrozen since
  Index epoch_ = 1, batch_ = 0;                    ///< which epoch it is, and how many of its batches are done
  Index batches_ = 0;                              ///< of this epoch
  std::vector<Index> order_;                       ///< its pictures
  std::vector<float> weights_;                     ///< what the gradient of each counts; none: 1
  PictureLosses losses_;                           ///< where pictures are left out
  Index steps_ = 0, phase_steps_ = 0, best_step_ = -1;
  bool ended_ = false, learning_ = false;
  double total_ = 0.0;                                ///< of this epoch's losses
  std::vector<std::pair<std::string, double>> sums_;  ///< of its terms, where there are several
  History history_;
  std::chrono::steady_clock::time_point written_ = std::chrono::steady_clock::now();
};

}  // namespace detail
}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API void check_labels(const Labels& model, const Labels& data, std::string_view which) {
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

TRANSFERLIB_API std::vector<Index> check_targets(const Source& source, std::string_view which) {
  const Index classes = static_cast<Index>(source.labels.size());
  std::vector<Index> out;
  for (Index from = 0; from < source.size; from += 4096) {
    const auto ids = numbers(from, std::min(from + 4096, source.size));
    const Tensor t = source.targets(ids).target.cpu().contiguous();
    if (t.scalar_type() != at::kLong || t.dim() != 1) return {};
    const Index* p = t.const_data_ptr<Index>();
    for (std::size_t i = 0; i < ids.size(); ++i)
      if (p[i] < 0 || p[i] >= classes)
        throw DataError(text("picture ", ids[i], " of the ", which, " data has the label ", p[i],
                             ", which is out of range: ", "there are ", classes, " classes, so labels go from 0 to ",
                             classes - 1));
    out.insert(out.end(), p, p + ids.size());
  }
  return out;
}

TRANSFERLIB_API std::pair<Tensor, Tensor> feature_statistics(const FeatureSource& features,
                                                             const std::stop_token& stop) {
  Tensor sum, squares;
  // The views of the first epoch, which are computed in any case.
  features.for_each_batch(numbers(0, features.size()), {.size = 1024, .epoch = 1, .stop = stop},
                          [&](auto, const Activations& values, auto&) {
                            const Tensor x = values.at(0).to(at::kDouble);
                            const Tensor s = x.sum(0), q = (x * x).sum(0);
                            sum = sum.defined() ? sum + s : s;
                            squares = squares.defined() ? squares + q : q;
                          });
  const double n = static_cast<double>(features.size());
  const Tensor mean = sum / n;
  return {mean, (squares / n - mean * mean).clamp_min(0.0).sqrt()};
}

TRANSFERLIB_API bool is_small_step(const Activations& activations, const std::vector<Tensor>& parameters) {
  Index numbers = 0;
  for (const Tensor& p : parameters) numbers += p.numel();
  return std::all_of(activations.begin(), activations.end(), [&](const Tensor& t) {
    return t.dim() == 2 && t.is_cpu() && t.size(0) * numbers <= Index{1} << 23;
  });
}

TRANSFERLIB_API NamedValues evaluate_loop(const FeatureSource& features, const TrainerOptions& options,
                                          const LoopHooks& hooks, Progressed progress) {
  const torch::NoGradGuard guard;
  const Autocast cast(options.autocast, hooks.core->device());
  hooks.mode(false);
  hooks.metric(true);
  double loss = 0.0;
  progress.total = features.size();
  features.for_each_batch(
      numbers(0, features.size()), {.size = options.batch, .stop = options.stop, .autocast = options.autocast},
      [&](std::span<const Index> ids, const Activations& activations, const Batch& batch) {
        loss += hooks.loss(activations, batch, {}, nullptr).total().item<double>() * static_cast<double>(ids.size());
        progress.done += static_cast<Index>(ids.size());
        if (hooks.progress) hooks.progress(progress);
      });
  NamedValues out{{"loss", loss / static_cast<double>(features.size())}};
  for (auto& value : hooks.metric(true)) out.push_back(std::move(value));
  return out;
}

TRANSFERLIB_API std::vector<TrainedParameter> trained_parameters(const BackboneCore& core, const StateDict& state,
                                                                 const ParameterGroups& groups) {
  const auto rows = rows_of_tensors(core);
  const auto depths = depths_of_rows(core);
  std::vector<TrainedParameter> out;
  for (const auto& [name, tensor] : state) {
    if (!tensor.requires_grad()) continue;
    const auto row = rows.find(tensor.unsafeGetTensorImpl());
    out.push_back({name, tensor, row == rows.end() ? 0 : depths[Graph::at(row->second)]});
  }
  assign_groups(out, groups);
  return out;
}

TRANSFERLIB_API Loop::Loop(std::vector<Phase> phases, Source train, Source val, LoopHooks hooks)
    : phases_(std::move(phases)),
      train_source_(std::move(train)),
      val_source_(std::move(val)),
      hooks_(std::move(hooks)) {
  for (const Phase& phase : phases_) {
    check(phase.options);
    epochs_ += phase.options.epochs;
  }
  if (train_source_.size == 0) throw DataError("the training data is empty: there is no picture to learn from");
  if (val_source_.size == 0) throw DataError("the validation data is empty: there is no picture to measure with");
  classes_ = check_targets(train_source_, "training");
  check_targets(val_source_, "validation");
  for (Phase& phase : phases_) {
    TrainerOptions& o = phase.options;
    if (classes_.empty() && (o.balanced || !std::holds_alternative<std::monostate>(o.mix)))
      throw OptionError("balanced sampling and mixing need class indices as targets, and these data have others");
    if (o.info_batch && (classes_.empty() || !hooks_.weighs))
      throw OptionError(
          "info_batch needs class indices as targets, and a head that gives a row of logits for each picture");
    if (o.info_batch && losses_.size() == 0) losses_ = PictureLosses(train_source_.size);
    if (o.autocast == Precision::automatic) o.autocast = resolve(o.autocast, hooks_.core->device());
  }
}

TRANSFERLIB_API History Loop::run() {
  const Checkpoints& checkpoints = first().checkpoints;
  if (!checkpoints.folder.empty()) folder_ = std::make_unique<CheckpointFolder>(checkpoints);
  try {
    std::optional<RunState> from;
    if (folder_ != nullptr && checkpoints.resume) {
      from = folder_->newest([this](std::string_view sentence) { note(sentence); });
      if (!from) note("there is no checkpoint yet to go on from: the training begins anew");
    }
    for (const Phase& phase : phases_)
      if (phase.options.l2_sp.backbone > 0.0 && reference_.empty())
        for (const auto& [name, tensor] : hooks_.state()) reference_.emplace_back(name, tensor.detach().clone());
    if (from)
      restore(*from);
    else
      begin_phase(0);
    while (!ended_ && epoch_ <= epochs_) run_epoch();
  } catch (const Stopped&) {
    // What was complete is returned, and what was not can go on.
    if (learning_ && batch_ > 0 && can_write_here()) write_checkpoint();
  }
  if (average_) average_->swap();
  return history_;
}

TRANSFERLIB_API StateDict Loop::changing() const {
  const auto rows = rows_of_tensors(*hooks_.core);
  StateDict out;
  for (auto& item : hooks_.state()) {
    const auto row = rows.find(item.second.unsafeGetTensorImpl());
    if (row == rows.end() || !hooks_.core->frozen[Graph::at(row->second)]) out.push_back(std::move(item));
  }
  return out;
}

TRANSFERLIB_API void Loop::begin_phase(std::size_t p) {
  const Phase& phase = phases_[p];
  if (phase.freeze) hooks_.refreeze(*phase.freeze);
  base_mask_ = hooks_.core->frozen;
  opened_ = 0;
  phase_steps_ = 0;
  plateau_.reset();
  stall_ = Stall{};
  scaler_ = GradientScaler{};
  // The average of one phase is what the next one begins with.
  if (average_) average_->swap();
  average_.reset();
  optimizer_.reset();
  open(p);
}

TRANSFERLIB_API void Loop::open(std::size_t p) {
  learning_ = false;
  const TrainerOptions& o = phases_[p].options;
  auto parameters = trained_parameters(*hooks_.core, hooks_.state(), o.groups);
  if (parameters.empty())
    throw TrainingError(text("nothing is left to train: all ", hooks_.core->graph.table.rows.size(),
                             " layers of the backbone are frozen and the head has no parameters; freeze less"));
  pulled_.clear();
  if (o.l2_sp.backbone > 0.0 || o.l2_sp.head > 0.0)
    for (const TrainedParameter& p : parameters) {
      const auto found =
          std::find_if(reference_.begin(), reference_.end(), [&](const auto& item) { return item.first == p.name; });
      const bool is_backbone = p.name.starts_with("backbone.");
      // Without a pull on the backbone there is no reference.
      if (!is_backbone || found != reference_.end())
        pulled_.emplace_back(p.value, is_backbone ? found->second : Tensor());
    }
  if (optimizer_)
    optimizer_->set_parameters(std::move(parameters));
  else
    optimizer_.emplace(std::move(parameters), o.optimizer);
  const StateDict changed = changing();
  for (const auto& item : changed) touched_.insert(item.first);
  if (o.ema) {
    if (!average_) average_.emplace(*o.ema);
    average_->follow(changed);
  }
  if (const auto* plateau = std::get_if<ReduceOnPlateau>(&o.schedule); plateau != nullptr && !plateau_)
    plateau_.emplace(*plateau);

  Source train = train_source_;
  if (!std::holds_alternative<std::monostate>(o.mix))
    train.mix = [mix = o.mix, classes = static_cast<Index>(train.labels.size()), seed = first().seed](Batch& batch,
                                                                                                      Index step) {
      transferlib::mix(batch, mix, {classes, seed, step});
    };
  if (o.multi_scale.most > 0)
    train.side = [scale = o.multi_scale, seed = first().seed](Index step) { return scale.side(seed, step); };
  train_.reset();
  val_.reset();
  train_ = std::make_unique<FeatureSource>(hooks_.open(std::move(train)));
  val_ = std::make_unique<FeatureSource>(hooks_.open(val_source_));
  for (const FeatureSource* features : {train_.get(), val_.get()})
    if (!features->why().empty()) note(features->why());
  const Index shown = train_->needed(epochs_), all = shown + val_->needed();
  const auto report = [&](Index before) {
    return [this, before, all](Index done, Index) {
      if (hooks_.progress) hooks_.progress({"features", 0, epochs_, before + done, all, {}});
    };
  };
  train_->fill(first().stop, report(0), epochs_);
  val_->fill(first().stop, report(shown));
  if (hooks_.wants_standardising && hooks_.wants_standardising()) {
    hooks_.mode(false);
    const torch::NoGradGuard guard;
    const auto [mean, deviation] = feature_statistics(*train_, first().stop);
    hooks_.standardise(mean, deviation);
  }
  if (first().stop.stop_requested()) throw Stopped("stopped before training, as asked");
  learning_ = true;
}

TRANSFERLIB_API std::optional<AnyRule> Loop::unfreezing(const Unfreezing& how, Index epoch) const {
  Index stages = opened_;
  if (const auto* at = std::get_if<UnfreezeAt>(&how)) {
    std::optional<AnyRule> out;
    for (const auto& change : at->changes)
      if (change.epoch == epoch) out = change.rule;
    return out;
  }
  if (const auto* gradual = std::get_if<GradualUnfreezing>(&how)) stages = (epoch - 1) / gradual->every;
  if (stages == 0) return std::nullopt;
  const auto depths = depths_of_rows(*hooks_.core);
  std::vector<bool> mask = base_mask_;
  for (std::size_t row = 0; row < mask.size(); ++row) mask[row] = mask[row] && depths[row] >= stages;
  return FreezeMask{std::move(mask)};
}

TRANSFERLIB_API void Loop::choose_pictures(const TrainerOptions& o, Index local_epoch) {
  const auto seed = first().seed, epoch = static_cast<std::uint64_t>(epoch_);
  order_ = o.balanced ? balanced_order(classes_, seed, epoch) : shuffled(train_source_.size, seed, epoch);
  weights_.clear();
  if (o.info_batch && local_epoch <= static_cast<Index>(static_cast<double>(o.epochs) * (1.0 - o.info_batch->whole)))
    std::tie(order_, weights_) = losses_.choose(*o.info_batch, order_, seed, epoch);
  batches_ = (static_cast<Index>(order_.size()) + o.batch - 1) / o.batch;
}

TRANSFERLIB_API void Loop::run_epoch() {
  const auto [p, before] = phase_of(epoch_);
  const TrainerOptions& o = phases_[p].options;
  const Index local = epoch_ - before;
  if (batch_ == 0) {
    if (local == 1 && p > 0) begin_phase(p);
    if (const auto rule = unfreezing(o.unfreezing, local)) {
      const auto mask = hooks_.core->frozen;
      hooks_.refreeze(*rule);
      if (hooks_.core->frozen != mask) {
        Index frozen = std::count(hooks_.core->frozen.begin(), hooks_.core->frozen.end(), true);
        note(
            text("epoch ", epoch_, ": ", frozen, " of ", hooks_.core->frozen.size(), " layers are frozen from now on"));
        open(p);
      }
    }
  }
  const auto start = std::chrono::steady_clock::now();
  choose_pictures(o, local);
  const Index size = static_cast<Index>(order_.size());
  hooks_.mode(true);
  if (batch_ == 0) {
    hooks_.metric(true);
    sums_.clear();
    total_ = 0.0;
  }
  const std::span<const Index> left =
      std::span(order_).subspan(static_cast<std::size_t>(std::min(batch_ * o.batch, size)));
  // A stop ends no group of accumulated batches before its step: the loader goes on for what that needs.
  train_->for_each_batch(left,
                         {.size = o.batch,
                          .epoch = epoch_,
                          .drain = first().stop,
                          .autocast = o.autocast,
                          .first = (epoch_ - 1) * whole_batches(o) + batch_},
                         [&, p = p](std::span<const Index> ids, const Activations& activations, const Batch& batch) {
                           take(p, ids, activations, batch);
                         });

  Epoch result;
  result.number = epoch_;
  const double n = static_cast<double>(size);
  result.values.emplace_back("train_loss", total_ / n);
  if (sums_.size() > 1)
    for (const auto& [name, sum] : sums_) result.values.emplace_back("train_" + name, sum / n);
  for (const auto& [name, value] : hooks_.metric(false)) result.values.emplace_back("train_" + name, value);
  bool goes_on = true;
  {
    // Validation works on a metric of its own; if it is stopped, the epoch's training stands as it is.
    const auto seen = hooks_.metric_state ? hooks_.metric_state() : std::vector<double>();
    const Swapped averages(average_);
    try {
      for (const auto& [name, value] : evaluate_loop(*val_, o, hooks_, {"validate", epoch_, epochs_, 0, 0, {}}))
        result.values.emplace_back("val_" + name, value);
    } catch (const Stopped&) {
      if (hooks_.set_metric_state) hooks_.set_metric_state(seen);
      throw;
    }
    result.values.emplace_back("seconds",
                               std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    history_.epochs.push_back(result);
    if (plateau_) plateau_->update(result[plateau_->options().monitor]);
    if (const auto* stall = std::get_if<UnfreezeOnStall>(&o.unfreezing)) watch(*stall, result);
    goes_on = hooks_.epoch_end(result);
  }
  if (&best_epoch(history_) == &history_.epochs.back()) best_step_ = steps_;
  ended_ = !goes_on;
  losses_.end_epoch();  // not sooner: a run that is stopped while it measures chooses this epoch's pictures again
  ++epoch_;
  batch_ = 0;
  hooks_.metric(true);
  sums_.clear();
  total_ = 0.0;
  if (folder_ != nullptr) write_checkpoint();
}

TRANSFERLIB_API void Loop::take(std::size_t p, std::span<const Index> ids, const Activations& activations,
                                const Batch& batch) {
  const TrainerOptions& o = phases_[p].options;
  const OneThread alone(is_small_step(activations, optimizer_->parameters()));
  const Index size = static_cast<Index>(order_.size()), group = batch_ - batch_ % o.accumulate;
  const Index group_end = std::min(group + o.accumulate, batches_);
  const double n = static_cast<double>(ids.size());
  const double pictures = static_cast<double>(std::min(group_end * o.batch, size) - group * o.batch);
  if (batch_ == group) optimizer_->zero_gradients();
  const auto device = hooks_.core->device();
  double value = 0.0;
  EachPicture each;
  if (o.info_batch) {
    each.weights = at::ones({static_cast<Index>(ids.size())});
    if (!weights_.empty())
      std::copy_n(weights_.begin() + batch_ * o.batch, ids.size(), each.weights.mutable_data_ptr<float>());
  }
  {
    LossTerms loss;
    Tensor sum;
    {
      const Autocast cast(o.autocast, device);
      loss = hooks_.loss(activations, batch, {true, first().seed, (epoch_ - 1) * whole_batches(o) + batch_},
                         o.info_batch ? &each : nullptr);
      sum = loss.total();
    }
    value = sum.item<double>();
    if (!std::isfinite(value))
      throw TrainingError(text("the loss is ", std::isnan(value) ? std::string("nan") : text(value), " at epoch ",
                               epoch_, ", step ", batch_ + 1, "; the learning rate ",
                               std::visit([](const auto& r) { return r.lr; }, o.optimizer),
                               " may be too high, or the data may hold numbers that are none"));
    Tensor scaled = sum.to(at::kFloat);
    if (n != pictures) scaled = scaled * (n / pictures);
    if (o.autocast == Precision::fp16) scaled = scaled * scaler_.scale();
    scaled.backward();
    if (o.info_batch) losses_.update(ids, each.losses);
    total_ += value * n;
    if (loss.terms.size() > 1) {
      sums_.resize(loss.terms.size());
      for (std::size_t t = 0; t < sums_.size(); ++t) {
        sums_[t].first = loss.terms[t].first;
        sums_[t].second += loss.terms[t].second.item<double>() * n;
      }
    }
  }
  ++batch_;
  if (hooks_.progress) {
    const Index done = std::min(batch_ * o.batch, size);
    Progressed progress{"train", epoch_, epochs_, done, size, {}};
    progress.values.emplace_back("loss", total_ / static_cast<double>(done));
    for (auto& m : hooks_.metric(false)) progress.values.push_back(std::move(m));
    hooks_.progress(progress);
  }
  if (batch_ != group_end) return;
  step(o);
  if (first().stop.stop_requested()) throw Stopped("stopped while training, as asked");
  const Checkpoints& c = first().checkpoints;
  const auto now = std::chrono::steady_clock::now();
  if (can_write_here() && batch_ != batches_ &&
      ((c.every_steps > 0 && steps_ % c.every_steps == 0) ||
       (c.every_seconds > 0.0 && std::chrono::duration<double>(now - written_).count() >= c.every_seconds)))
    write_checkpoint();
}

TRANSFERLIB_API void Loop::step(const TrainerOptions& o) {
  const torch::NoGradGuard guard;
  auto gradients = optimizer_->gradients();
  const bool good = o.autocast != Precision::fp16 || scaler_.unscale(gradients);
  const auto steps = [&](Index batches) { return (batches + o.accumulate - 1) / o.accumulate; };
  const Index per_epoch = steps(whole_batches(o)), done = steps(batch_) - 1;
  // An epoch that leaves out pictures takes fewer and longer steps along the schedule.
  const Index at = (epoch_ - phase_of(epoch_).second - 1) * per_epoch + done * per_epoch / steps(batches_);
  const auto factors = factors_at(o.schedule, {at, per_epoch * o.epochs, per_epoch});
  ++phase_steps_;
  ++steps_;
  if (!good) return;
  if (o.clip_norm > 0.0 && !gradients.empty()) {
    // PyTorch's clip_grad_norm_.
    const Tensor norm = at::stack(at::_foreach_norm(gradients)).norm();
    const double factor = o.clip_norm / (norm.item<double>() + 1e-6);
    if (factor < 1.0) at::_foreach_mul_(gradients, factor);
  }
  if (o.l2_sp.backbone > 0.0 || o.l2_sp.head > 0.0) pull_back(o.l2_sp);
  optimizer_->step(factors.rate * (plateau_ ? plateau_->factor() : 1.0), factors.momentum);
  if (average_) average_->update(phase_steps_);
}

TRANSFERLIB_API void Loop::pull_back(const L2Sp& l2) {
  for (const auto& [value, pretrained] : pulled_) {
    Tensor gradient = value.grad();
    if (!gradient.defined()) continue;
    if (pretrained.defined())
      gradient.add_(value - pretrained, l2.backbone);
    else
      gradient.add_(value, l2.head);
  }
}

TRANSFERLIB_API void Loop::watch(const UnfreezeOnStall& options, const Epoch& epoch) {
  const double value = epoch[options.monitor];
  if (!stall_.any || (options.higher ? value > stall_.best : value < stall_.best)) {
    stall_ = {value, 0, true};
  } else if (++stall_.waited >= options.patience) {
    ++opened_;
    stall_.waited = 0;
  }
}

TRANSFERLIB_API bool Loop::can_write_here() const {
  const Index accumulate = phases_[phase_of(epoch_).first].options.accumulate;
  return folder_ != nullptr && (batch_ == 0 || hooks_.metric_state) && (batch_ % accumulate == 0 || batch_ == batches_);
}

TRANSFERLIB_API Described Loop::identity() {
  Described out;
  for (std::size_t p = 0; p < phases_.size(); ++p)
    for (auto& [name, value] : describe(phases_[p].options)) {
      // Where nothing looks at the end, a run may be made longer.
      if (name == "epochs" && phases_.size() == 1 && !looks_at_the_end(first().schedule) && !first().info_batch)
        continue;
      out.emplace_back(p == 0 ? name : text("phase ", p + 1, ": ", name), std::move(value));
    }
  if (described_data_.empty()) {
    described_data_ = {{"model", hooks_.model},
                       {"training data", train_source_.fingerprint()},
                       {"augmentation", train_source_.augmentation},
                       {"validation data", val_source_.fingerprint()}};
  }
  out.insert(out.end(), described_data_.begin(), described_data_.end());
  if (touched_.size() != hashed_without_) {
    StateDict untouched;
    for (auto& item : hooks_.state())
      if (!touched_.count(item.first)) untouched.push_back(std::move(item));
    frozen_hash_ = hash_of(untouched);
    hashed_without_ = touched_.size();
  }
  out.emplace_back("frozen weights", frozen_hash_);
  const auto e = Environment::here(hooks_.core->device());
  out.emplace_back("transferlib", e.transferlib);
  out.emplace_back("libtorch", e.libtorch);
  out.emplace_back("cpu", e.cpu_capability);
  out.emplace_back("device", e.device);
  out.emplace_back("threads", text(e.threads));
  return out;
}

TRANSFERLIB_API void Loop::write_checkpoint() {
  RunState state;
  state.identity = identity();
  for (const auto& [name, tensor] : hooks_.state())
    if (touched_.count(name)) state.tensors.emplace_back("model." + name, tensor);
  state.add("optimizer", optimizer_->state());
  if (average_) state.add("average", average_->state());
  if (hooks_.standardisation) state.add("standardisation", hooks_.standardisation());
  if (hooks_.callbacks) state.add("callback", hooks_.callbacks());
  state.add("loop.position",
            std::vector<double>{static_cast<double>(epoch_), static_cast<double>(batch_), static_cast<double>(steps_),
                                static_cast<double>(phase_steps_), static_cast<double>(opened_),
                                static_cast<double>(best_step_), ended_ ? 1.0 : 0.0, total_});
  state.add("loop.mask", as_numbers(hooks_.core->frozen));
  state.add("loop.base_mask", as_numbers(base_mask_));
  state.add("loop.stall", std::vector<double>{stall_.best, static_cast<double>(stall_.waited), stall_.any ? 1.0 : 0.0});
  state.add("loop.scaler", scaler_.state());
  // Numbered, so that they come back in their order.
  for (std::size_t t = 0; t < sums_.size(); ++t)
    state.add(text("loop.sum.", 1000 + t, ".", sums_[t].first), std::vector<double>{sums_[t].second});
  if (hooks_.metric_state) state.add("loop.metric", hooks_.metric_state());
  if (losses_.size() > 0) {
    const auto [before, now] = losses_.state();
    state.add("loop.losses_before", before);
    state.add("loop.losses", now);
  }
  if (plateau_) {
    const auto plateau = plateau_->state();
    state.add("loop.plateau", std::vector<double>(plateau.begin(), plateau.end()));
  }
  state.set_history(history_);
  folder_->write(state, steps_, best_step_);
  written_ = std::chrono::steady_clock::now();
}

TRANSFERLIB_API void Loop::restore(const RunState& state) {
  const StateDict model = state.part("model");
  for (const auto& item : model) touched_.insert(item.first);
  const auto now = identity();
  if (const auto differences = state.differences(now); !differences.empty()) {
    std::string list;
    for (const std::string& d : differences) list += (list.empty() ? "" : "; ") + d;
    if (!first().checkpoints.allow)
      throw OptionError(text("the run in ", first().checkpoints.folder, " was begun otherwise: ", list,
                             "; it can't end as one that was never stopped would. Set these back, or allow the "
                             "differences (Checkpoints::allow)"));
    note(text("goes on though the run was begun otherwise: ", list));
  }
  StateDict own;
  for (auto& item : hooks_.state())
    if (touched_.count(item.first)) own.push_back(std::move(item));
  copy_into(own, model, "model");
  hooks_.refreeze(FreezeMask{as_mask(state.numbers("loop.mask", static_cast<Index>(hooks_.core->frozen.size())))});
  base_mask_ = as_mask(state.numbers("loop.base_mask", static_cast<Index>(hooks_.core->frozen.size())));
  const auto position = state.numbers("loop.position", 8);
  epoch_ = static_cast<Index>(position[0]);
  batch_ = static_cast<Index>(position[1]);
  steps_ = static_cast<Index>(position[2]);
  phase_steps_ = static_cast<Index>(position[3]);
  opened_ = static_cast<Index>(position[4]);
  best_step_ = static_cast<Index>(position[5]);
  ended_ = position[6] != 0.0;
  total_ = position[7];
  const auto stall = state.numbers("loop.stall", 3);
  stall_ = {stall[0], static_cast<Index>(stall[1]), stall[2] != 0.0};
  const auto scaler = state.numbers("loop.scaler", 2);
  scaler_.set_state(scaler[0], scaler[1]);
  history_ = state.history();
  if (hooks_.set_standardisation) hooks_.set_standardisation(state.part("standardisation"));
  if (hooks_.set_callbacks) hooks_.set_callbacks(state.part("callback"));

  // At the end of a phase, what was learnt belongs to that one.
  const auto p = phase_of(batch_ == 0 && epoch_ > 1 ? epoch_ - 1 : epoch_).first;
  if (ended_ || epoch_ > epochs_) {
    if (phases_[p].options.ema) average_.emplace(*phases_[p].options.ema).follow(changing());
  } else {
    open(p);
    copy_into(optimizer_->state(), state.part("optimizer"), "optimiser");
  }
  if (average_) copy_into(average_->state(), state.part("average"), "average");
  if (plateau_) {
    const auto numbers = state.numbers("loop.plateau", 5);
    std::array<double, 5> plateau{};
    std::copy(numbers.begin(), numbers.end(), plateau.begin());
    plateau_->set_state(plateau);
  }
  hooks_.metric(true);
  if (hooks_.set_metric_state && batch_ > 0) hooks_.set_metric_state(state.numbers("loop.metric"));
  // A run that began without leaving pictures out knows no losses yet.
  if (const Index size = losses_.size(); size > 0 && state.has("loop.losses"))
    losses_.set_state(state.numbers("loop.losses_before", size), state.numbers("loop.losses", size));
  sums_.clear();
  StateDict terms = state.part("loop.sum");
  std::sort(terms.begin(), terms.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  for (const auto& item : terms)
    sums_.emplace_back(item.first.substr(item.first.find('.') + 1), state.numbers("loop.sum." + item.first, 1)[0]);
  note(ended_ || epoch_ > epochs_ ? text("the training is complete: ", epoch_ - 1, " epochs, ", steps_, " steps")
                                  : text("goes on after step ", steps_, ", in epoch ", epoch_, " of ", epochs_));
  if (hooks_.resumed) hooks_.resumed(history_);
}

}  // namespace transferlib::detail

#endif  // TRANSFERLIB_DEFINES

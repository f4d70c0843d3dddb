/// \file
/// How a model is trained: one aggregate, whose parts are small named types that compose.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <stop_token>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/random.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/data/mix.hpp>
#include <transferlib/engine/cache.hpp>
#include <transferlib/engine/engine.hpp>
#include <transferlib/freeze/policy.hpp>
#include <transferlib/train/optimizer.hpp>
#include <transferlib/train/pruning.hpp>
#include <transferlib/train/schedule.hpp>

namespace transferlib {

/// A running average of the weights, which is what is measured and kept at the end (Polyak and Juditsky, 1992; as
/// timm's `ModelEma`). Statistics of batch normalisation are averaged too.
struct Ema {
  double decay = 0.999;  ///< in [0, 1): how much of the average each step leaves
  /// Early steps leave less, (1 + step) / (10 + step) at most, so that the average soon forgets the first weights.
  bool warmup = true;
};

/// Pulls the backbone to its pretrained weights and the head to zero (Li et al., "Explicit Inductive Bias for Transfer
/// Learning", 2018): adds `backbone` / 2 times the squared distance and `head` / 2 times the squared norm to what is
/// minimised. The loss that is told is without them.
struct L2Sp {
  double backbone = 0.0;  ///< alpha there
  double head = 0.0;      ///< beta there
};

/// One more stage of the backbone, the last one first, is trained every so many epochs (Howard and Ruder, ULMFiT,
/// 2018).
struct GradualUnfreezing {
  Index every = 1;
};

/// From given epochs on another rule says what is frozen.
struct UnfreezeAt {
  /// A rule, and the epoch that it begins with.
  struct Change {
    Index epoch = 1;  ///< from 1
    AnyRule rule;
  };
  std::vector<Change> changes;
};

/// One more stage of the backbone is trained whenever a column has not improved for `patience` epochs.
struct UnfreezeOnStall {
  std::string monitor = "val_loss";
  bool higher = false;  ///< true for accuracies
  Index patience = 2;
};

/// What is unfrozen while training goes on. The optimiser keeps its state for what it trains already.
using Unfreezing = std::variant<std::monostate, GradualUnfreezing, UnfreezeAt, UnfreezeOnStall>;

/// Where a run that was stopped or killed goes on from. A run that goes on gives the same bytes as one that never
/// stopped.
struct Checkpoints {
  std::filesystem::path folder{};  ///< empty: none are written
  Index every_steps = 0;           ///< within epochs too; 0: at the end of each only, and when training is stopped
  double every_seconds = 0.0;      ///< the same by time
  Index keep = 2;                  ///< the newest ones that are kept, besides that of the best epoch
  bool resume = false;             ///< goes on from the newest one in the folder; where there is none, from the start
  bool allow = false;              ///< goes on even where options, data or surroundings are not what they were
};

/// Training at several sizes (Redmon and Farhadi, "YOLO9000", CVPR 2017, section 2: 320 to 608 by 32, every 10
/// batches): all pictures of a batch are brought to one side, which is a function of the seed and the batch's number
/// alone. The model's own size, at which it is measured and predicts, stays.
struct MultiScale {
  Index least = 0;      ///< side in pixels
  Index most = 0;       ///< 0: always the model's own
  Index multiple = 32;  ///< what all sides are multiples of
  Index every = 10;     ///< batches until the next draw

  /// The side of a batch's pictures. \param step the batch's number in the training
  Index side(std::uint64_t seed, Index step) const {
    Random draw(seed, Purpose::scale, static_cast<std::uint64_t>(step / every));
    return least + multiple * draw.below((most - least) / multiple + 1);
  }
};

/// How a model is trained. One type for every model.
struct TrainerOptions {
  Index epochs = 10;
  Index batch = 100;             ///< pictures a step; the last step of an epoch takes what is left
  Optimizer optimizer = Adam{};  ///< `Sgd{…}`, `Adam{…}`, `AdamW{…}`
  Schedule schedule{};           ///< of the learning rate: `CosineRate{…}`, `OneCycle{…}`, …
  ParameterGroups groups{};      ///< rates of their own for parts of the model
  Unfreezing unfreezing{};       ///< `GradualUnfreezing{…}`, `UnfreezeAt{…}`, `UnfreezeOnStall{…}`
  Mix mix{};                     ///< of the pictures of a batch: `MixUp{…}`, `CutMix{…}`; class indices only
  MultiScale multi_scale{};      ///< sizes of the pictures, drawn every few batches; of networks trained as a whole
  bool balanced = false;         ///< each class is seen as often as any other; class indices only
  std::optional<InfoBatch> info_batch{};  ///< leaves out pictures that are told well; class indices only
  std::optional<Ema> ema{};               ///< none: the weights themselves are kept
  double clip_norm = 0.0;                 ///< the greatest length of the whole gradient; 0: any
  Index accumulate = 1;                   ///< batches whose gradients make one step
  /// Of what is trained: `bf16` and `fp16` compute by autocast, as PyTorch's does; fp16 with a gradient scaler.
  Precision autocast = Precision::fp32;
  L2Sp l2_sp{};
  std::uint64_t seed = 0;                      ///< what order, views and dropout are drawn from
  Precision precision = Precision::automatic;  ///< of the frozen part
  CacheOptions cache{};                        ///< of what leaves the frozen part
  /// Threads that read, augment and scale the next pictures while the network runs; 0: none, each batch is made by all
  /// threads when it is needed. By default one for a network on a GPU and none on the CPU, where they would keep the
  /// network's threads waiting for each other. The result is the same with any number.
  std::optional<Index> workers{};
  Checkpoints checkpoints{};
  std::stop_token stop{};  ///< obeyed between steps, in caching too
};

/// The two phases of `Trainer::fine_tune`.
struct FineTune {
  Index head_epochs = 1;          ///< of the head alone, as the model is frozen
  AnyRule freeze = FreezeNone{};  ///< what stays frozen in the second phase
  double ratio = 100.0;           ///< the head's rate by that of the backbone's first stage, in the second phase
  double rise = 0.3;              ///< the part of the second phase's steps until its peak rate
};

namespace detail {

/// Refuses numbers that can't be meant.
TRANSFERLIB_API void check(const TrainerOptions& o);

/// Options as lines of a name and a value: what `config.json` shows, and what a run that goes on must not change.
using Described = std::vector<std::pair<std::string, std::string>>;

TRANSFERLIB_API std::string describe(const Optimizer& optimizer);

inline std::string describe(const ParameterGroups& g) {
  std::string out = text("backbone ", g.backbone, " stage decay ", g.stage_decay,
                         g.decay_norms_and_biases ? "" : " norms and biases not decayed");
  for (const RateOf& rate : g.by_name) out += text(" ", rate.pattern, " ", rate.factor);
  return out;
}

TRANSFERLIB_API std::string describe(const Unfreezing& unfreezing);

TRANSFERLIB_API Described describe(const TrainerOptions& o);

}  // namespace detail
}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API void check(const TrainerOptions& o) {
  if (o.epochs < 1) throw OptionError(text("epochs must be at least 1, not ", o.epochs));
  if (o.batch < 1) throw OptionError(text("a batch must have at least 1 picture, not ", o.batch));
  check(o.optimizer);
  transferlib::check(o.schedule);
  check(o.groups);
  transferlib::check(o.mix);
  if (const MultiScale& m = o.multi_scale; m.most != 0)
    if (m.multiple < 1 || m.every < 1 || m.least < 1 || m.most < m.least || m.least % m.multiple != 0 ||
        m.most % m.multiple != 0)
      throw OptionError(text("multi_scale draws multiples of ", m.multiple, " every ", m.every, " batches from ",
                             m.least, " to ", m.most, "; all must be at least 1, and both bounds such multiples"));
  if (o.info_batch) {
    check(*o.info_batch);
    if (o.balanced || !std::holds_alternative<std::monostate>(o.mix))
      throw OptionError(
          "info_batch leaves out pictures by their own losses: it goes with no mixing of them, and not with balanced, "
          "which chooses them otherwise");
  }
  if (o.ema && !(o.ema->decay >= 0.0 && o.ema->decay < 1.0))
    throw OptionError(text("the decay of the average of the weights must lie in [0, 1), not ", o.ema->decay));
  if (!(o.clip_norm >= 0.0)) throw OptionError(text("clip_norm must be at least 0, not ", o.clip_norm));
  if (o.accumulate < 1) throw OptionError(text("accumulate must be at least 1 batch, not ", o.accumulate));
  if (!(o.l2_sp.backbone >= 0.0 && o.l2_sp.head >= 0.0))
    throw OptionError(text("L2-SP's factors must be at least 0, not ", o.l2_sp.backbone, " and ", o.l2_sp.head));
  if (const auto* u = std::get_if<GradualUnfreezing>(&o.unfreezing); u != nullptr && u->every < 1)
    throw OptionError(text("GradualUnfreezing: every must be at least 1 epoch, not ", u->every));
  if (const auto* u = std::get_if<UnfreezeOnStall>(&o.unfreezing); u != nullptr && u->patience < 1)
    throw OptionError(text("UnfreezeOnStall: patience must be at least 1 epoch, not ", u->patience));
  if (o.checkpoints.every_steps < 0 || !(o.checkpoints.every_seconds >= 0.0) || o.checkpoints.keep < 1)
    throw OptionError(text("checkpoints are kept every 0 or more steps or seconds, and at least 1 of them; not every ",
                           o.checkpoints.every_steps, " steps, every ", o.checkpoints.every_seconds, " seconds, ",
                           o.checkpoints.keep));
}

TRANSFERLIB_API std::string describe(const Optimizer& optimizer) {
  if (const auto* o = std::get_if<Sgd>(&optimizer))
    return text("sgd lr ", o->lr, " momentum ", o->momentum, " weight decay ", o->weight_decay,
                o->nesterov ? " nesterov" : "");
  const auto adam = [](const auto& o, const char* name) {
    return text(name, " lr ", o.lr, " beta1 ", o.beta1, " beta2 ", o.beta2, " epsilon ", o.epsilon, " weight decay ",
                o.weight_decay);
  };
  if (const auto* o = std::get_if<Adam>(&optimizer)) return adam(*o, "adam");
  return adam(std::get<AdamW>(optimizer), "adamw");
}

TRANSFERLIB_API std::string describe(const Unfreezing& unfreezing) {
  if (const auto* u = std::get_if<GradualUnfreezing>(&unfreezing)) return text("a stage every ", u->every, " epochs");
  if (const auto* u = std::get_if<UnfreezeOnStall>(&unfreezing))
    return text("a stage when ", u->monitor, u->higher ? " (higher is better)" : "", " stalls for ", u->patience,
                " epochs");
  std::string out = "none";
  if (const auto* u = std::get_if<UnfreezeAt>(&unfreezing)) {
    out = "at epochs";
    for (const auto& change : u->changes) out += text(" ", change.epoch);
  }
  return out;
}

TRANSFERLIB_API Described describe(const TrainerOptions& o) {
  return {
      {"epochs", text(o.epochs)},
      {"batch", text(o.batch)},
      {"optimizer", describe(o.optimizer)},
      {"schedule", to_string(o.schedule)},
      {"groups", describe(o.groups)},
      {"unfreezing", describe(o.unfreezing)},
      {"mix", to_string(o.mix)},
      {"multi_scale", o.multi_scale.most == 0 ? std::string("none")
                                              : text(o.multi_scale.least, " to ", o.multi_scale.most, " by ",
                                                     o.multi_scale.multiple, " every ", o.multi_scale.every)},
      {"balanced", o.balanced ? "yes" : "no"},
      {"info_batch", o.info_batch ? text(o.info_batch->ratio, ", whole ", o.info_batch->whole) : std::string("none")},
      {"ema", o.ema ? text(o.ema->decay, o.ema->warmup ? " with warm-up" : "") : std::string("none")},
      {"clip_norm", text(o.clip_norm)},
      {"accumulate", text(o.accumulate)},
      {"autocast", std::string(to_string(o.autocast))},
      {"l2_sp", text(o.l2_sp.backbone, " ", o.l2_sp.head)},
      {"seed", text(o.seed)},
      {"precision", std::string(to_string(o.precision))}};
}

}  // namespace transferlib::detail

#endif  // TRANSFERLIB_DEFINES

/// \file
/// What the tools that train share: how they are told to, and how a run goes on.
#pragma once

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <transferlib/core/files.hpp>
#include <transferlib/core/layers.hpp>
#include <transferlib/formats/json.hpp>
#include <transferlib/freeze/policy.hpp>
#include <transferlib/train/options.hpp>
#include <transferlib/train/trainer.hpp>

#include "arguments.hpp"
#include "interrupt.hpp"
#include "shared.hpp"

namespace tools {

/// Prints "name: value", and whether it was chosen here and why.
inline void say(std::string_view name, std::string_view value, std::string_view why = {}) {
  std::printf("%s\n",
              one_line(text(name, ": ", value, why.empty() ? "" : "   (", why, why.empty() ? "" : ")")).c_str());
  std::fflush(stdout);
}

/// How a model is trained, as the command line says it. What is 0, -1 or empty the program chooses; the other values
/// are its defaults, which it sets before `options_of`.
struct Recipe {
  std::string freeze, optimizer, schedule = "constant", unfreeze = "none", mix = "none", precision = "auto",
                                 autocast = "fp32", checkpoint_every = "0", resume, config, out, cache_dir,
                                 cache_dtype = "auto";
  double lr = 0.0, weight_decay = -1.0, warmup = 0.0, least = 0.0, backbone_rate = 1.0, stage_decay = 1.0, ema = 0.0,
         clip_norm = 0.0, l2_sp = 0.0, cache_limit = 8.0;
  tl::Index size = 0, batch = 0, epochs = 0, accumulate = 1, workers = -1;
  int threads = 0;
  std::uint64_t seed = 0;
  bool decay_all = false, allow = false;
  tl::Json told;  ///< the options that were given, by name
};

/// all, none, until:N or until:NAME. \throws Usage
inline tl::AnyRule rule_of(const std::string& freeze) {
  if (freeze == "all") return tl::FreezeAll{};
  if (freeze == "none") return tl::FreezeNone{};
  constexpr std::string_view until = "until:";
  if (freeze.starts_with(until) && freeze.size() > until.size()) {
    const std::string layer = freeze.substr(until.size());
    if (layer.find_first_not_of("0123456789") != std::string::npos) return tl::FreezeUntil{layer};
    tl::Index index = 0;
    const auto [end, error] = std::from_chars(layer.data(), layer.data() + layer.size(), index);
    if (error == std::errc() && end == layer.data() + layer.size()) return tl::FreezeUntil{index};
  }
  throw Usage(text("--freeze is all, none, until:N or until:NAME, not \"", freeze, "\""));
}

inline tl::Optimizer optimizer_of(const Recipe& told) {
  const double decay = told.weight_decay;
  if (told.optimizer == "sgd") return tl::Sgd{.lr = told.lr, .momentum = 0.9, .weight_decay = std::max(decay, 0.0)};
  if (told.optimizer == "adamw") return tl::AdamW{.lr = told.lr, .weight_decay = decay < 0.0 ? 1e-2 : decay};
  return tl::Adam{.lr = told.lr, .weight_decay = std::max(decay, 0.0)};
}

/// "step:10" as ("step", 10); a word without a number has `otherwise`. \throws Usage
inline std::pair<std::string, double> word_and_number(std::string_view option, const std::string& given,
                                                      double otherwise) {
  const std::size_t colon = given.find(':');
  if (colon == std::string::npos) return {given, otherwise};
  double number = 0.0;
  const char* const end = given.data() + given.size();
  if (const auto r = std::from_chars(given.data() + colon + 1, end, number); r.ec != std::errc() || r.ptr != end)
    throw Usage(text(option, " wants a number behind the colon, not \"", given, "\""));
  return {given.substr(0, colon), number};
}

/// \throws Usage
inline tl::Schedule schedule_of(const Recipe& told) {
  const auto [word, number] = word_and_number("--schedule", told.schedule, -1.0);
  check_word("--schedule", word, {"constant", "step", "exponential", "cosine", "one-cycle", "polynomial", "plateau"});
  if (word == "step") return tl::StepRate{.every = number < 0.0 ? 10 : static_cast<tl::Index>(number)};
  if (word == "exponential") return tl::ExponentialRate{.gamma = number < 0.0 ? 0.9 : number};
  if (word == "cosine") return tl::CosineRate{.warmup = told.warmup, .least = told.least};
  if (word == "one-cycle") return tl::OneCycle{};
  if (word == "polynomial") return tl::PolynomialRate{.power = number < 0.0 ? 1.0 : number};
  if (word == "plateau") return tl::ReduceOnPlateau{.patience = number < 0.0 ? 2 : static_cast<tl::Index>(number)};
  return tl::ConstantRate{};
}

/// \throws Usage
inline tl::Unfreezing unfreezing_of(const Recipe& told) {
  const auto [word, number] = word_and_number("--unfreeze", told.unfreeze, 1.0);
  check_word("--unfreeze", word, {"none", "gradual", "stall"});
  if (word == "gradual") return tl::GradualUnfreezing{.every = static_cast<tl::Index>(number)};
  if (word == "stall") return tl::UnfreezeOnStall{.patience = static_cast<tl::Index>(number)};
  return {};
}

/// \throws Usage
inline tl::Mix mix_of(const Recipe& told) {
  const auto [word, alpha] = word_and_number("--mix", told.mix, -1.0);
  check_word("--mix", word, {"none", "mixup", "cutmix", "both"});
  if (word == "mixup") return tl::MixUp{.alpha = alpha < 0.0 ? 0.2 : alpha};
  if (word == "cutmix") return tl::CutMix{.alpha = alpha < 0.0 ? 1.0 : alpha};
  if (word == "both") return tl::MixOrCut{};
  return {};
}

/// "200" steps or "60s" seconds. \throws Usage
inline void set_every(tl::Checkpoints& checkpoints, const std::string& given) {
  const bool seconds = given.ends_with('s');
  double number = 0.0;
  const char* const end = given.data() + given.size() - (seconds ? 1 : 0);
  const auto r = std::from_chars(given.data(), end, number);
  if (r.ec != std::errc() || r.ptr != end || !(number >= 0.0))
    throw Usage(text("--checkpoint-every is a number of steps, or of seconds with an s, not \"", given, "\""));
  if (seconds)
    checkpoints.every_seconds = number;
  else
    checkpoints.every_steps = static_cast<tl::Index>(number);
}

/// What can be told to be wrong before any file is touched. \throws Usage
inline void check(const Recipe& told, const Arguments& arguments) {
  const auto at_least = [&](std::string_view name, auto value, auto least) {
    if (arguments.has(name) && !(value >= least)) throw Usage(text(name, " must be at least ", least, ", not ", value));
  };
  at_least("--size", told.size, tl::Index{1});
  at_least("--batch", told.batch, tl::Index{1});
  at_least("--epochs", told.epochs, tl::Index{1});
  at_least("--workers", told.workers, tl::Index{0});
  at_least("--cache-limit", told.cache_limit, 0.0);
  at_least("--threads", told.threads, 1);
  if (told.threads > 1024) throw Usage(text("--threads must be at most 1024, not ", told.threads));
  if (arguments.has("--lr") && !(told.lr > 0.0 && told.lr < 1e6))
    throw Usage(text("--lr must be above 0, not ", told.lr));
  if (!told.freeze.empty()) rule_of(told.freeze);
  if (!told.optimizer.empty()) check_word("--optimizer", told.optimizer, {"sgd", "adam", "adamw"});
  check_word("--precision", told.precision, {"auto", "fp32", "bf16"});
  check_word("--autocast", told.autocast, {"auto", "fp32", "bf16", "fp16"});
  schedule_of(told);
  unfreezing_of(told);
  mix_of(told);
  tl::Checkpoints checkpoints;
  set_every(checkpoints, told.checkpoint_every);
}

/// \name The options that are bound to a recipe, with its values as their defaults.
/// \{
inline void add_training(Arguments& arguments, Recipe& told) {
  arguments
      .option(
          "--schedule", "S",
          text("constant, step:N, exponential:G, cosine, one-cycle, polynomial:P or plateau:N (", told.schedule, ")"),
          told.schedule)
      .option("--warmup", "X", text("of cosine: a part of all steps, or steps (", told.warmup, ")"), told.warmup)
      .option("--unfreeze", "HOW", "gradual:N: a stage every N epochs; stall:N: when val_loss stalls for N (none)",
              told.unfreeze)
      .option("--backbone-rate", "X", "the backbone's rate by the head's (1)", told.backbone_rate)
      .option("--stage-decay", "X", "a stage's rate by that of the one above it (1)", told.stage_decay)
      .option("--weight-decay", "X",
              told.weight_decay < 0.0 ? std::string("(0; of adamw 0.01)") : text("(", told.weight_decay, ")"),
              told.weight_decay)
      .flag("--decay-all", "the weight decay pulls at norms and biases too", told.decay_all)
      .option("--ema", "DECAY",
              text("keeps a running average of the weights, as 0.999 (",
                   told.ema > 0.0 ? text(told.ema, "; 0: none") : std::string("none"), ")"),
              told.ema)
      .option("--clip-norm", "X",
              text("the greatest length of the whole gradient (",
                   told.clip_norm > 0.0 ? text(told.clip_norm, "; 0: any") : std::string("any"), ")"),
              told.clip_norm)
      .option("--accumulate", "N", "batches whose gradients make one step (1)", told.accumulate)
      .option("--autocast", "P", "of what is trained: fp32, bf16, fp16 or auto (fp32)", told.autocast)
      .option("--l2-sp", "X", "pulls the backbone to its first weights, the head to zero by a tenth of it (0)",
              told.l2_sp);
}
inline void add_going_on(Arguments& arguments, Recipe& told) {
  arguments
      .option("--workers", "N", "threads that prepare pictures beside the network (on a GPU 1, else 0)", told.workers)
      .option("--cache-limit", "GIB", "of what the frozen part gives, kept on disk; 0: nothing is kept (8)",
              told.cache_limit)
      .option("--cache-dir", "DIR", "where; see cache list (the cache folder)", told.cache_dir)
      .option("--cache-dtype", "P", "in which it is kept: fp32, bf16, fp16 or auto, as it comes (auto)",
              told.cache_dtype)
      .option("--checkpoint-every", "N", "steps, or seconds: 60s; besides the end of each epoch (0)",
              told.checkpoint_every)
      .option("--resume", "DIR", "goes on with a run that was stopped or killed, with its options", told.resume)
      .flag("--allow", "goes on even if data, options or machine are not what they were", told.allow)
      .option("--config", "FILE", "takes what is not told from a JSON file, such as a run's config.json", told.config)
      .option("--out", "DIR", "the run's folder (runs/<date-time>)", told.out);
}
/// \}

/// Takes what the command line does not say from the run that goes on and from `--config`. \throws Usage, Error
inline void take_files(Arguments& arguments, Recipe& told) {
  const auto take = [&](const std::filesystem::path& file) {
    const tl::Json config = tl::parse_json(tl::read_file(file), file.string());
    // A run's config.json holds more; what the program was told is under "options".
    const bool whole = config.is_object() && config.contains("options");
    arguments.take(whole ? config["options"] : config, file.string());
  };
  if (!told.resume.empty()) {
    if (!told.out.empty()) throw Usage("--resume goes on in its own folder; leave --out away");
    take(std::filesystem::path(told.resume) / "config.json");
    told.out = told.resume;
  }
  if (!told.config.empty()) take(told.config);
  told.told = tl::Json::object();
  const tl::Json given = arguments.told();
  for (const auto& member : given.members())
    if (member.name != "resume" && member.name != "config" && member.name != "out" && member.name != "allow")
      told.told[member.name] = member.value;
}

/// The trainer's options, when all is chosen. \param out the run's folder \throws Usage, OptionError
inline tl::TrainerOptions training_of(const Recipe& told, const std::filesystem::path& out) {
  tl::TrainerOptions options{
      .epochs = told.epochs,
      .batch = told.batch,
      .optimizer = optimizer_of(told),
      .schedule = schedule_of(told),
      .groups = {.backbone = told.backbone_rate,
                 .stage_decay = told.stage_decay,
                 .decay_norms_and_biases = told.decay_all},
      .unfreezing = unfreezing_of(told),
      .mix = mix_of(told),
      .clip_norm = told.clip_norm,
      .accumulate = told.accumulate,
      .autocast = told.autocast == "fp16" ? tl::Precision::fp16 : precision_of(told.autocast),
      .l2_sp = {.backbone = told.l2_sp, .head = told.l2_sp / 10.0},
      .seed = told.seed,
      .precision = precision_of(told.precision),
      .cache = {.enabled = told.cache_limit > 0.0,
                .folder =
                    told.cache_dir.empty() ? tl::cache_folder() / "activations" : std::filesystem::path(told.cache_dir),
                .limit = static_cast<tl::Index>(std::min(told.cache_limit, 1e6) * 1073741824.0),
                .precision = told.cache_dtype == "fp16" ? tl::Precision::fp16 : precision_of(told.cache_dtype)},
      .workers = told.workers < 0 ? std::nullopt : std::optional(told.workers),
      .checkpoints = {.folder = out / "checkpoints", .resume = !told.resume.empty(), .allow = told.allow},
      .stop = stop_on_interrupt("stopping after this step")};
  if (told.ema > 0.0) options.ema = tl::Ema{.decay = told.ema};
  set_every(options.checkpoints, told.checkpoint_every);
  tl::detail::check(options);
  return options;
}

/// The last line of a run. \returns the program's exit code
inline int said_at_end(const char* program, const tl::TrainerOptions& options, tl::Index complete,
                       const std::filesystem::path& out) {
  if (options.stop.stop_requested()) {
    std::printf("stopped after %lld complete epochs; go on by: %s --resume %s\n", static_cast<long long>(complete),
                program, out.c_str());
    return 130;
  }
  std::printf("the run's folder: %s\n", out.c_str());
  return 0;
}

}  // namespace tools

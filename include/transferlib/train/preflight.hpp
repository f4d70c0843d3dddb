/// \file
/// A look at a set-up before the first step of its training: some pictures of both sets, the labels, the frozen
/// network, some steps of a copy. What it finds is told in sentences with their evidence and the fix.
#pragma once

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <concepts>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <ATen/ATen.h>

#include <transferlib/core/concepts.hpp>
#include <transferlib/core/error.hpp>
#include <transferlib/core/files.hpp>
#include <transferlib/core/guard.hpp>
#include <transferlib/core/parallel.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/text.hpp>
#include <transferlib/engine/autocast.hpp>
#include <transferlib/engine/engine.hpp>
#include <transferlib/model/backbone.hpp>
#include <transferlib/model/head.hpp>
#include <transferlib/train/loop.hpp>
#include <transferlib/train/optimizer.hpp>
#include <transferlib/train/options.hpp>
#include <transferlib/train/preflight_data.hpp>
#include <transferlib/train/preflight_network.hpp>
#include <transferlib/train/source.hpp>

namespace transferlib {

/// How much preflight looks at.
struct PreflightOptions {
  Index pictures = 256;  ///< of each set that the network is shown, at most
  double seconds = 5.0;  ///< about how long it may take; what it has not seen by then it does not judge
};

namespace detail {

/// A copy of a model to train a few steps.
struct Trial {
  std::vector<TrainedParameter> parameters;
  /// The shape of what the head makes of what crosses the cut; empty where that is no tensor.
  std::function<std::vector<Index>(const Activations&)> shape;
  std::function<Tensor(const Activations&, const Batch&, const Pass&)> loss;
};

/// What preflight is told of a model and its data.
struct PreflightTask {
  const BackboneCore* core = nullptr;
  Cut cut;
  std::vector<Index> wanted;  ///< the steps that the head takes
  Labels labels;
  bool classes = false;  ///< whether the targets are class indices
  Source train, val;
  TrainerOptions options;
  PreflightOptions preflight;
  StateDict state;  ///< the model's own tensors
  /// A copy whose head is standardised by what crosses the cut; none where a model can't be tried.
  std::function<Trial(const Activations&)> trial;
};

/// Whether the names of the classes are the model's, in its order.
TRANSFERLIB_API void check_names(const Labels& model, const Labels& data, std::string_view name, Findings& findings);

/// Some steps with a multiple of the optimiser's rate, on the same few batches.
struct Tried {
  Index steps = 0;
  double first = 0.0, last = 0.0;  ///< the loss before the first step, and the mean of the last quarter
  double others = 0.0;             ///< the loss of the validation pictures afterwards
  bool finite = true;
};

TRANSFERLIB_API Tried try_rate(const PreflightTask& t, const Shown& shown, const Shown& others, double factor,
                               Index batch, const Deadline& deadline);

/// Whether the loss grows under the optimiser's rate, on the same few pictures or on others: a head that has more
/// weights than there are pictures gets these right at any rate.
TRANSFERLIB_API void check_rate(const PreflightTask& t, const Shown& shown, const Shown& others, Findings& findings);

/// What training will ask for beyond what is there already, in bytes; each a lower bound.
struct MemoryNeed {
  double optimizer = 0.0;    ///< gradients, the optimiser's state, the average of the weights
  double activations = 0.0;  ///< of a batch, which the backward pass needs
  double cache = 0.0;        ///< of what leaves the frozen part

  double total() const { return optimizer + activations + cache; }
};

TRANSFERLIB_API MemoryNeed memory_need(const PreflightTask& t, Precision precision);

/// The number behind a name in a text such as /proc/meminfo; nothing where there is none.
TRANSFERLIB_API std::optional<double> number_behind(std::string_view all, std::string_view name);

/// The memory that a process can still take, in bytes.
struct MemoryRoom {
  double free = 0.0;     ///< without swapping
  double swap = 0.0;     ///< besides
  bool limited = false;  ///< by a control group, not by the machine
};

/// By /proc/meminfo and the limits of the process's control groups (version 2, or 1). Nothing where neither can be
/// read. \param root where the operating system's files are
TRANSFERLIB_API std::optional<MemoryRoom> memory_room(const std::filesystem::path& root = "/");

TRANSFERLIB_API void check_memory(const MemoryNeed& need, const MemoryRoom& room, Findings& findings);

/// Whether the head gives a number a class.
TRANSFERLIB_API void check_head(const PreflightTask& t, const Shown& shown, Findings& findings);

/// All checks that make sense for a model, in the order of what they cost.
TRANSFERLIB_API Findings look_before_training(const PreflightTask& t);

}  // namespace detail

/// Refuses a set-up whose findings are errors, with all their sentences; warnings are let pass.
/// \throws DataError where pictures or labels are at fault, OptionError where it is options, the head or memory alone
TRANSFERLIB_API void refuse_errors(const std::vector<Finding>& findings);

/// Looks at a set-up before it is trained, in seconds: some pictures of both sets and their labels, the network as it
/// is frozen, some steps of a copy of the model. Right set-ups give no finding; what can't be told from the data for
/// sure is left alone. The model is not changed.
///
/// See docs/how-to/preflight.md for what is looked for, by which evidence, and what is not found.
/// \returns what is wrong, with its evidence and the fix
/// \throws Stopped if the stop token of the options is set
template <class M, class D, class E>
std::vector<Finding> preflight(const M& model, const D& train, const E& validation, const TrainerOptions& options = {},
                               const PreflightOptions& how = {}) {
  static_assert(Dataset<D> && Dataset<E>,
                "transferlib: preflight: not a Dataset: it needs Target, size(), batch(ids), labels()");
  return detail::guarded("looking at the set-up", [&] {
    detail::PreflightTask task;
    task.core = &model.backbone_core();
    task.cut = model.cut();
    task.wanted = model.wanted();
    task.labels = model.labels();
    task.classes = std::same_as<typename M::Target, ClassIndex>;
    task.train = detail::source(train);
    task.val = detail::source(validation);
    task.options = options;
    task.preflight = how;
    task.state = model.state();
    if constexpr (!std::same_as<typename M::Target, Boxes> && requires { clone(model); })
      task.trial = [&](const Activations& crossing) {
        const auto copy = std::make_shared<M>(clone(model));
        auto& head = detail::inner_head(copy->head());
        if constexpr (requires { head.standardise(Tensor(), Tensor()); })
          if (head.wants_standardising() && !head.is_standardised() && !head.is_trained() &&
              copy->cut().live == copy->wanted()) {
            const auto [variance, mean] =
                at::var_mean(crossing.at(0).to(at::kDouble), at::IntArrayRef{0}, false, false);
            head.standardise(mean, variance.sqrt());
          }
        detail::set_mode(copy->backbone_core(), true);
        return detail::Trial{detail::trained_parameters(copy->backbone_core(), copy->state(), options.groups),
                             [copy](const Activations& a) -> std::vector<Index> {
                               const torch::NoGradGuard guard;
                               const auto output = copy->above_cut(a, {});
                               if constexpr (std::same_as<std::remove_cvref_t<decltype(output)>, Tensor>)
                                 return output.sizes().vec();
                               else
                                 return {};
                             },
                             [copy](const Activations& a, const Batch& b, const Pass& pass) {
                               return copy->loss(copy->above_cut(a, pass), b).total();
                             }};
      };
    return detail::look_before_training(task);
  });
}

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API void check_names(const Labels& model, const Labels& data, std::string_view name, Findings& findings) {
  try {
    check_labels(model, data, name);
  } catch (const DataError& e) {
    findings.push_back({Severity::error, "classes", e.what()});
  }
}

TRANSFERLIB_API Tried try_rate(const PreflightTask& t, const Shown& shown, const Shown& others, double factor,
                               Index batch, const Deadline& deadline) {
  constexpr Index most = 24;
  const Trial trial = t.trial(shown.crossing);
  OptimizerState optimizer(trial.parameters, t.options.optimizer);
  const auto device = t.core->device();
  const Autocast cast(t.options.autocast, device);
  const auto loss_of = [&](const Shown& of, Index from, Index count, const Pass& pass) {
    Activations crossing;
    for (const Tensor& value : of.crossing) crossing.push_back(value.narrow(0, from, count).to(device));
    const OneThread alone(is_small_step(crossing, optimizer.parameters()));
    return trial.loss(crossing, {{}, of.target.narrow(0, from, count).to(device), {}, {}}, pass);
  };
  // A schedule that rises reaches the rate in the middle.
  const auto* cosine = std::get_if<CosineRate>(&t.options.schedule);
  const bool rises =
      std::holds_alternative<OneCycle>(t.options.schedule) || (cosine != nullptr && cosine->warmup > 0.0);
  const Index n = shown.target.size(0), batches = std::max<Index>(1, n / batch);
  Tried out;
  std::vector<double> losses;
  for (Index step = 0; step < most && (step < 2 || !deadline.passed()); ++step) {
    if (t.options.stop.stop_requested()) throw Stopped("stopped before training, as asked");
    const Index from = step % batches * batch;
    optimizer.zero_gradients();
    const Tensor loss = loss_of(shown, from, std::min(batch, n - from), {true, t.options.seed, step});
    losses.push_back(loss.item<double>());
    out.steps = step + 1;
    out.finite = std::isfinite(losses.back());
    if (!out.finite) break;
    loss.backward();
    auto gradients = optimizer.gradients();
    if (t.options.clip_norm > 0.0 && !gradients.empty()) {
      const double norm = at::stack(at::_foreach_norm(gradients)).norm().item<double>();
      if (norm > t.options.clip_norm) at::_foreach_mul_(gradients, t.options.clip_norm / (norm + 1e-6));
    }
    optimizer.step(factor * (rises ? std::min(1.0, static_cast<double>(2 * step + 1) / most) : 1.0));
  }
  out.first = losses.front();
  const std::size_t quarter = std::max<std::size_t>(1, losses.size() / 4);
  for (std::size_t i = losses.size() - quarter; i < losses.size(); ++i)
    out.last += losses[i] / static_cast<double>(quarter);
  const torch::NoGradGuard guard;
  out.others = loss_of(others, 0, std::min<Index>(256, others.target.size(0)), {}).item<double>();
  out.finite = out.finite && std::isfinite(out.others);
  return out;
}

TRANSFERLIB_API void check_rate(const PreflightTask& t, const Shown& shown, const Shown& others, Findings& findings) {
  // Where more than a head learns, fewer pictures a step are enough to see it, and it is given more time.
  const bool pooled = t.cut.live == std::vector<Index>{t.core->graph.pooled};
  const Index n = shown.target.size(0), batch = std::min({t.options.batch, n, pooled ? n : 16});
  const double seconds = (pooled ? 0.2 : 1.0) * t.preflight.seconds;
  // A model that is trained already begins far below the loss of a guess, and may lose some of that.
  const double guess = t.classes ? std::log(static_cast<double>(t.labels.size())) : 0.0;
  const auto grows = [&](const Tried& tried) {
    if (!tried.finite) return true;
    const double start = std::max(tried.first, guess);
    return tried.steps >= 12 && (tried.last > (t.classes ? 1.5 : 4.0) * start || tried.others > 6.0 * start);
  };
  const auto attempt = [&](double factor) { return try_rate(t, shown, others, factor, batch, Deadline(seconds)); };
  const Tried tried = attempt(1.0);
  if (!std::isfinite(tried.first)) {
    findings.push_back({Severity::error, "rate",
                        "the loss is not finite before the first step; do the weights or the targets hold numbers that "
                        "are none?"});
    return;
  }
  if (!grows(tried)) return;
  const double lr = std::visit([](const auto& o) { return o.lr; }, t.options.optimizer);
  double safe = 0.0;
  const Deadline deadline(2.0 * seconds);
  for (double factor : {0.3, 0.1, 0.03, 0.01, 1e-3, 1e-4, 1e-5, 1e-6, 1e-8, 1e-10}) {
    if (safe > 0.0 || deadline.passed()) break;
    if (!grows(attempt(factor))) safe = factor * lr;
  }
  findings.push_back(
      {tried.finite ? Severity::warning : Severity::error, "rate",
       text("the learning rate ", lr, " diverges: within ", tried.steps, " steps of a copy of the model on ",
            std::max<Index>(1, n / batch) * batch, " pictures the loss went from ", rounded(tried.first), " to ",
            tried.finite ? text(rounded(tried.last), ", and to ", rounded(tried.others), " on validation pictures")
                         : std::string("what is not finite"),
            "; ",
            safe > 0.0 ? text("the highest rate tried that did not diverge is ", rounded(safe))
                       : std::string("no lower rate that was tried did better"))});
}

TRANSFERLIB_API MemoryNeed memory_need(const PreflightTask& t, Precision precision) {
  const BackboneCore& core = *t.core;
  const TrainerOptions& o = t.options;
  MemoryNeed out;
  const bool on_cpu = core.device().is_cpu();
  double copies = o.ema ? 2.0 : 1.0;
  if (const auto* sgd = std::get_if<Sgd>(&o.optimizer))
    copies += sgd->momentum != 0.0 ? 1.0 : 0.0;
  else
    copies += 2.0;
  for (const auto& item : t.state)
    if (on_cpu && item.second.requires_grad()) out.optimizer += copies * static_cast<double>(item.second.nbytes());
  // Each value behind the cut is kept by the step that takes it; a sum keeps nothing.
  std::vector<bool> kept(core.graph.steps.size(), false);
  const auto need = core.graph.needed(t.wanted);
  for (std::size_t s = Graph::at(t.cut.boundary); s < core.graph.steps.size(); ++s)
    if (need[s] && core.graph.steps[s].kind != Kind::add)
      for (Index f : core.graph.steps[s].from) kept[Graph::at(f)] = true;
  const auto numbers_of = [&](Index step) {
    double n = 1.0;
    for (Index side : core.measure.shapes[Graph::at(step)]) n *= static_cast<double>(side);
    return n;
  };
  const double bytes = o.autocast == Precision::bf16 || o.autocast == Precision::fp16 ? 2.0 : 4.0;
  for (std::size_t s = 0; s < kept.size(); ++s)
    if (kept[s] && on_cpu)
      out.activations +=
          bytes * static_cast<double>(std::min(o.batch, t.train.size)) * numbers_of(static_cast<Index>(s));
  // A cache in a file is mapped by a second run, and costs no memory then.
  if (t.cut.boundary > 1 && o.cache.enabled && o.cache.folder.empty()) {
    double row = 0.0;
    for (Index s : t.cut.live)
      row += (s == core.graph.pooled || precision == Precision::fp32 ? 4.0 : 2.0) * numbers_of(s);
    const bool mixes = !std::holds_alternative<std::monostate>(o.mix);
    const auto of = [&](const Source& source, bool none) {
      if (none || !source.views) return 0.0;
      return std::min(static_cast<double>(source.size * *source.views) * row, static_cast<double>(o.cache.limit));
    };
    out.cache = of(t.train, mixes) + of(t.val, false);
  }
  return out;
}

TRANSFERLIB_API std::optional<double> number_behind(std::string_view all, std::string_view name) {
  for (const auto& [line, ignored] : lines_of(all)) {
    if (line.substr(0, name.size()) != name) continue;
    const std::string_view rest = trimmed(line.substr(name.size()));
    double value = 0.0;
    if (std::from_chars(rest.data(), rest.data() + rest.size(), value).ec == std::errc()) return value;
  }
  return std::nullopt;
}

TRANSFERLIB_API std::optional<MemoryRoom> memory_room(const std::filesystem::path& root) {
  const auto read = [](const std::filesystem::path& path) -> std::string {
    std::error_code ignored;
    try {
      return std::filesystem::exists(path, ignored) ? read_file(path) : std::string();
    } catch (const FileError&) {
      return {};
    }
  };
  std::optional<MemoryRoom> out;
  const std::string machine = read(root / "proc/meminfo");
  if (const auto available = number_behind(machine, "MemAvailable:"))
    out = MemoryRoom{1024.0 * *available, 1024.0 * number_behind(machine, "SwapFree:").value_or(0.0), false};
  const auto limit = [&](const std::filesystem::path& group, const char* most, const char* now, const char* cached) {
    const auto bound = number_behind(read(group / most), ""), used = number_behind(read(group / now), "");
    if (!bound || !used) return;
    // Pages of files that nobody uses are let go.
    const double left =
        std::max(*bound - *used + number_behind(read(group / "memory.stat"), cached).value_or(0.0), 0.0);
    if (!out || left < out->free) out = MemoryRoom{left, 0.0, true};
  };
  std::filesystem::path own;
  const std::string groups = read(root / "proc/self/cgroup");
  for (const auto& [line, ignored] : lines_of(groups))
    if (line.substr(0, 4) == "0::/") own = std::string(line.substr(4));
  const auto top = root / "sys/fs/cgroup";
  for (;; own = own.parent_path()) {
    limit(own.empty() ? top : top / own, "memory.max", "memory.current", "inactive_file");
    if (own.empty()) break;
  }
  limit(top / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file");
  return out;
}

TRANSFERLIB_API void check_memory(const MemoryNeed& need, const MemoryRoom& room, Findings& findings) {
  if (need.total() <= room.free) return;
  const auto gigabytes = [](double bytes) { return text(rounded(bytes / 1e9), " GB"); };
  std::string fix;
  if (need.cache > 0.3 * need.total())
    fix +=
        "; keep less of the frozen part's values by {.cache = {.limit = BYTES}}, or in a file by {.cache = {.folder "
        "= PATH}}";
  if (need.activations > 0.3 * need.total()) fix += "; take a smaller batch, smaller pictures, or freeze more";
  if (need.optimizer > 0.3 * need.total()) fix += "; freeze more, or take SGD, which keeps less a weight";
  findings.push_back(
      {need.total() > room.free + room.swap ? Severity::error : Severity::warning, "memory",
       text("training will take ", gigabytes(need.total()), " more at the least (", gigabytes(need.cache),
            " for what leaves the frozen part, ", gigabytes(need.activations), " for a batch's activations, ",
            gigabytes(need.optimizer), " for gradients and the optimiser), and ", gigabytes(room.free), " are free",
            room.limited ? " under the limit of the process's control group" : "", fix)});
}

TRANSFERLIB_API void check_head(const PreflightTask& t, const Shown& shown, Findings& findings) {
  Activations some;
  for (const Tensor& value : shown.crossing) some.push_back(value.narrow(0, 0, std::min<Index>(2, value.size(0))));
  const Index n = some.at(0).size(0), classes = static_cast<Index>(t.labels.size());
  const auto shape = t.trial(shown.crossing).shape(some);
  if (shape.empty() || (shape.size() == 2 && shape[0] == n && shape[1] == classes)) return;
  std::string sides;
  for (Index side : shape) sides += text(sides.empty() ? "" : ", ", side);
  findings.push_back({Severity::error, "head",
                      text("the head makes (", sides, ") of ", n, " pictures, where (", n, ", ", classes,
                           ") is wanted: one number for each of the ", classes, " classes; build it for ", classes,
                           ", as a recipe does that takes `FeatureSpec::classes`")});
}

TRANSFERLIB_API Findings look_before_training(const PreflightTask& t) {
  Findings out;
  const BackboneCore& core = *t.core;
  const Preprocessing& p = core.preprocessing;
  const double seconds = t.preflight.seconds;
  const std::stop_token& stop = t.options.stop;
  for (const auto& [source, name] : {std::pair(&t.train, "training"), std::pair(&t.val, "validation")}) {
    if (source->size == 0)
      out.push_back({Severity::error, "pictures", text("the ", name, " data is empty: there is no picture")});
    check_names(t.labels, source->labels, name, out);
  }
  check_preprocessing(core, out);
  if (!out.empty() && out.front().severity == Severity::error) return out;

  Looked seen[2];
  for (int i : {0, 1}) {
    seen[i] = look(i == 0 ? t.train : t.val, i == 0 ? "training" : "validation", p, core.options.in_channels,
                   t.preflight.pictures, t.options.seed, Deadline(0.12 * seconds), stop, out);
    check_range(seen[i], p, out);
    check_layout(seen[i], out);
    check_size(seen[i], p, out);
  }
  std::optional<Classes> classes[2];
  const Index width = static_cast<Index>(t.labels.size());
  if (t.classes) {
    classes[0] = classes_of(t.train, "training", width, Deadline(0.05 * seconds), out);
    classes[1] = classes_of(t.val, "validation", width, Deadline(0.05 * seconds), out);
    if (classes[0] && classes[1]) check_classes(*classes[0], *classes[1], t.labels, t.options.balanced, out);
  }
  const bool sound =
      std::none_of(out.begin(), out.end(), [](const Finding& f) { return f.severity == Severity::error; });
  if (sound) {
    const auto of = [&](int i) { return classes[i] ? classes[i]->of : std::vector<Index>{}; };
    try {
      check_copies(t.train, t.val, of(0), of(1), t.options.seed, 0.2 * seconds, stop, out);
    } catch (const DataError& e) {
      out.push_back({Severity::error, "pictures", e.what()});
    }
  }
  Precision precision = Precision::fp32;
  // What the network would say of pictures or labels that are wrong is no news.
  if (sound) {
    const torch::NoGradGuard guard;
    const bool pretrained = !core.source.empty();
    const bool answers = pretrained && t.classes && core.graph.logits != 0 && core.options.in_channels == 3;
    const Lens lens(core, t.cut, t.options.precision, answers);
    precision = lens.precision();
    std::vector<Shown> shown;
    if (!t.train.boxes)
      for (const Looked& s : seen) shown.push_back(lens(s, Deadline(0.15 * seconds), stop));
    if (pretrained)
      for (const Looked& s : seen) check_statistics(core, s, out);
    if (t.classes) {
      if (answers)
        check_channels(core, t.labels, lens, {&seen[0], &seen[1]}, shown, Deadline(0.3 * seconds), stop, out);
      check_label_order(t.labels, shown[0], shown[1], out);
    }
    if (t.trial && !shown.empty()) {
      const at::AutoGradMode with(true);
      const std::size_t before = out.size();
      check_head(t, shown[0], out);
      if (out.size() == before) check_rate(t, shown[0], shown[1], out);
    }
  }
  if (const auto room = memory_room()) check_memory(memory_need(t, precision), *room, out);
  return out;
}

}  // namespace transferlib::detail

namespace transferlib {

TRANSFERLIB_API void refuse_errors(const std::vector<Finding>& findings) {
  std::string sentences;
  bool data = false;
  for (const Finding& f : findings) {
    if (f.severity != Severity::error) continue;
    sentences += (sentences.empty() ? "" : "; also, ") + f.sentence;
    data = data || (f.check != "rate" && f.check != "head" && f.check != "memory");
  }
  if (sentences.empty()) return;
  if (data) throw DataError(sentences);
  throw OptionError(sentences);
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

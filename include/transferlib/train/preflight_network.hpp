/// \file
/// What preflight sees through the network as it was trained before: pictures and labels that are right look otherwise
/// to it than wrong ones.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <optional>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include <ATen/ATen.h>

#include <transferlib/core/error.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/engine/engine.hpp>
#include <transferlib/model/backbone.hpp>
#include <transferlib/train/preflight_data.hpp>

namespace transferlib::detail {

/// Mean and deviation against those that the weights were trained with.
TRANSFERLIB_API void check_preprocessing(const BackboneCore& core, Findings& findings);

/// The first of some pieces of pictures, as one block.
TRANSFERLIB_API Tensor first_pictures(const std::vector<Tensor>& pieces, Index most);

/// How far a batch is from what the first batch norms have seen in training: for each of them the median over its
/// channels of the Kullback-Leibler divergence between the two normal distributions.
TRANSFERLIB_API std::vector<double> norm_divergences(const BackboneCore& core, const Tensor& input, std::size_t most);

/// What the network makes of some pictures.
struct Shown {
  Activations crossing;  ///< what crosses the cut
  Tensor pooled;         ///< (N, width) float32
  Tensor energy;         ///< (N): the logarithm of the sum of the exponentials of the original's answers, if it has any
  Tensor target;
};

/// The network up to all that preflight asks of it.
class Lens {
 public:
  Lens(const BackboneCore& core, const Cut& cut, Precision precision, bool answers);

  /// As many of the pieces as the time allows. \param change is what is done to them before
  Shown operator()(const Looked& seen, const Deadline& deadline, const std::stop_token& stop,
                   const std::function<Tensor(const Tensor&)>& change = {}) const {
    std::vector<Activations> columns(cut_.live.size());
    std::vector<Tensor> pooled, energy, target;
    for (std::size_t i = 0; i < seen.input.size() && (i == 0 || !deadline.passed()); ++i) {
      if (stop.stop_requested()) throw Stopped("stopped before training, as asked");
      const Activations values = (*engine_)(change ? change(seen.input[i]) : seen.input[i]);
      const auto of = [&](Index step) {
        return values[static_cast<std::size_t>(std::lower_bound(wanted_.begin(), wanted_.end(), step) -
                                               wanted_.begin())];
      };
      for (std::size_t t = 0; t < columns.size(); ++t) columns[t].push_back(of(cut_.live[t]));
      pooled.push_back(of(pooled_).to(at::kFloat));
      if (logits_ != 0) energy.push_back(of(logits_).to(at::kFloat).logsumexp(at::IntArrayRef{1}));
      target.push_back(seen.target[i]);
    }
    Shown out;
    for (const Activations& column : columns) {
      Tensor t = at::cat(column).to(at::kFloat);
      out.crossing.push_back(t.dim() == 4 ? t.contiguous(at::MemoryFormat::ChannelsLast) : t);
    }
    out.pooled = at::cat(pooled);
    if (!energy.empty()) out.energy = at::cat(energy);
    out.target = at::cat(target);
    return out;
  }
  Precision precision() const { return engine_->precision(); }

 private:
  Cut cut_;
  std::vector<Index> wanted_;
  std::optional<Engine> engine_;
  Index pooled_ = 0, logits_ = 0;
};

/// The part of pictures that a ridge regression on the features of all others tells right, in closed form.
TRANSFERLIB_API double left_out_accuracy(const Tensor& features, const Tensor& target, Index classes);

/// Red for blue: an upright picture is nearer to what the network's first batch norms have seen in training, is
/// recognised by its original classifier with a larger energy (Liu et al., 2020), and has features that tell classes
/// apart better. Each alone can say the opposite of a right set-up (ships on blue water, stained cells); it takes all
/// three.
TRANSFERLIB_API void check_channels(const BackboneCore& core, const Labels& names, const Lens& lens,
                                    const std::vector<const Looked*>& sets, const std::vector<Shown>& upright,
                                    const Deadline& deadline, const std::stop_token& stop, Findings& findings);

/// Whether the values in the network's first layers are those of its own training, by far.
TRANSFERLIB_API void check_statistics(const BackboneCore& core, const Looked& seen, Findings& findings);

/// Whether the classes of one set look like other classes of the other.
TRANSFERLIB_API void check_label_order(const Labels& names, const Shown& train, const Shown& val, Findings& findings);

}  // namespace transferlib::detail

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API void check_preprocessing(const BackboneCore& core, Findings& findings) {
  if (core.source.empty() || core.name.empty()) return;
  const Preprocessing is = core.preprocessing, card = core.rebuild().preprocessing;
  double distance = 0.0;
  for (std::size_t c = 0; c < 3; ++c)
    distance = std::max({distance, std::abs(is.mean[c] - card.mean[c]), std::abs(is.deviation[c] - card.deviation[c])});
  // Half a per cent is what .5 and 127 / 255 differ by.
  if (distance < 0.02) return;
  const auto shown = [](const std::array<double, 3>& v) {
    return text("(", rounded(v[0]), ", ", rounded(v[1]), ", ", rounded(v[2]), ")");
  };
  findings.push_back(
      {Severity::warning, "preprocessing",
       text("the model subtracts the mean ", shown(is.mean), " and divides by the deviation ", shown(is.deviation),
            ", and ", core.name, " was trained with ", shown(card.mean), " and ", shown(card.deviation),
            "; frozen weights want those of their own training, not those of the new data")});
}

TRANSFERLIB_API Tensor first_pictures(const std::vector<Tensor>& pieces, Index most) {
  std::vector<Tensor> out;
  for (Index n = 0; const Tensor& piece : pieces)
    if (n < most) {
      out.push_back(piece);
      n += piece.size(0);
    }
  return at::cat(out);
}

TRANSFERLIB_API std::vector<double> norm_divergences(const BackboneCore& core, const Tensor& input, std::size_t most) {
  std::vector<Index> before;
  std::vector<const nn::BatchNorm2d*> norms;
  for (const Step& step : core.graph.steps)
    if (const auto* norm = dynamic_cast<const nn::BatchNorm2d*>(step.module.get());
        norm != nullptr && norms.size() < most) {
      before.push_back(step.from.at(0));
      norms.push_back(norm);
    }
  if (norms.empty()) return {};
  const Activations values = core.graph.run({input.to(core.device())}, Cut{}, before, {}, core.frozen);
  std::vector<double> out;
  for (std::size_t i = 0; i < norms.size(); ++i) {
    const auto [variance, mean] = at::var_mean(values[i].to(at::kFloat), at::IntArrayRef{0, 2, 3}, false, false);
    const Tensor expected = norms[i]->running_var.to(at::kDouble) + norms[i]->epsilon;
    const Tensor ratio = (variance.to(at::kDouble) + norms[i]->epsilon) / expected;
    const Tensor shift = (mean - norms[i]->running_mean).to(at::kDouble).square() / expected;
    out.push_back((0.5 * (ratio + shift - 1.0 - ratio.log())).median().item<double>());
  }
  return out;
}

TRANSFERLIB_API Lens::Lens(const BackboneCore& core, const Cut& cut, Precision precision, bool answers) : cut_(cut) {
  wanted_ = cut.live;
  wanted_.push_back(core.graph.pooled);
  if (answers) wanted_.push_back(core.graph.logits);
  std::sort(wanted_.begin(), wanted_.end());
  wanted_.erase(std::unique(wanted_.begin(), wanted_.end()), wanted_.end());
  const Index input[3] = {core.options.in_channels, core.size(), core.size()};
  engine_.emplace(core.graph, wanted_, input, EngineOptions{.precision = precision});
  pooled_ = core.graph.pooled;
  logits_ = answers ? core.graph.logits : 0;
}

TRANSFERLIB_API double left_out_accuracy(const Tensor& features, const Tensor& target, Index classes) {
  const Tensor x = features.to(at::kDouble);
  const auto [variance, mean] = at::var_mean(x, at::IntArrayRef{0}, false, true);
  const Tensor z = (x - mean) / (variance.sqrt() + 1e-3);
  const Index n = z.size(0);
  const Tensor gram = at::mm(z, z.t()), strong = 10.0 * static_cast<double>(n) * at::eye(n, gram.options());
  const Tensor hat = at::mm(gram, at::inverse(gram + strong));
  const Tensor y = at::one_hot(target, classes).to(at::kDouble) - 1.0 / static_cast<double>(classes);
  const Tensor h = hat.diagonal().unsqueeze(1);
  const Tensor answer = (at::mm(hat, y) - h * y) / (1.0 - h);
  return answer.argmax(1).eq(target).to(at::kDouble).mean().item<double>();
}

TRANSFERLIB_API void check_channels(const BackboneCore& core, const Labels& names, const Lens& lens,
                                    const std::vector<const Looked*>& sets, const std::vector<Shown>& upright,
                                    const Deadline& deadline, const std::stop_token& stop, Findings& findings) {
  const Preprocessing& p = core.preprocessing;
  const auto three = [](const std::array<double, 3>& v) {
    return at::tensor({v[0], v[1], v[2]}, at::kDouble).to(at::kFloat).view({1, 3, 1, 1});
  };
  const Tensor mean = three(p.mean), deviation = three(p.deviation);
  const auto swapped = [&](const Tensor& x) {
    return (((x * deviation + mean).flip({1}) - mean) / deviation).contiguous(at::MemoryFormat::ChannelsLast);
  };
  std::vector<Tensor> gain, before, after, target;
  for (std::size_t s = 0; s < sets.size(); ++s) {
    const Shown other = lens(*sets[s], deadline, stop, swapped);
    const Index n = std::min(other.energy.size(0), upright[s].energy.size(0));
    gain.push_back((other.energy.narrow(0, 0, n) - upright[s].energy.narrow(0, 0, n)).cpu().to(at::kDouble));
    before.push_back(upright[s].pooled.narrow(0, 0, n).cpu());
    after.push_back(other.pooled.narrow(0, 0, n).cpu());
    target.push_back(other.target.narrow(0, 0, n).cpu());
  }
  const Tensor x = first_pictures(sets[0]->input, 64);
  // Grey pictures have no order of channels.
  if (((x.select(1, 0) * p.deviation[0] + p.mean[0]) - (x.select(1, 2) * p.deviation[2] + p.mean[2]))
          .abs()
          .mean()
          .item<double>() < 0.01)
    return;
  const Tensor gains = at::cat(gain);
  const double n = static_cast<double>(gains.size(0));
  if (n < 64.0) return;
  const double significance = gains.mean().item<double>() / (gains.std().item<double>() + 1e-9) * std::sqrt(n);
  if (significance < 3.0) return;
  const auto as_is = norm_divergences(core, x, 4), turned = norm_divergences(core, swapped(x), 4);
  if (as_is.empty()) return;
  double nearer = 0.0;
  for (std::size_t i = 0; i < as_is.size(); ++i)
    nearer += std::log((as_is[i] + 1e-6) / (turned[i] + 1e-6)) / static_cast<double>(as_is.size());
  if (nearer < 0.22) return;
  const Index classes = static_cast<Index>(names.size());
  const Tensor labels = at::cat(target);
  const double right = left_out_accuracy(at::cat(before), labels, classes),
               turned_right = left_out_accuracy(at::cat(after), labels, classes);
  if (turned_right < right + 0.01) return;
  findings.push_back({Severity::warning, "channels",
                      text("red and blue seem to be swapped: with the channels of ", gains.size(0),
                           " pictures in the other order, their statistics are nearer to those that ", core.name,
                           " was trained on (by the factor ", rounded(std::exp(nearer)),
                           " in its first batch norms), it recognises more (", rounded(significance),
                           " standard errors), and a linear classifier tells ", rounded(100.0 * turned_right),
                           " % of them right instead of ", rounded(100.0 * right),
                           " %; if they were read by OpenCV, they are B, G, R: give pictures.flip(1)")});
}

TRANSFERLIB_API void check_statistics(const BackboneCore& core, const Looked& seen, Findings& findings) {
  const auto divergence = norm_divergences(core, first_pictures(seen.input, 64), 1);
  // Pictures of cells have .8, pictures that are black in most parts .3, and pictures in 0 … 255 for [0, 1] 10,000.
  if (divergence.empty() || !(divergence[0] > 10.0)) return;
  findings.push_back(
      {Severity::warning, "statistics",
       text("the ", seen.name, " pictures are not what ", core.name.empty() ? "the network" : core.name,
            " was trained on: half of the channels of its first batch norm differ from the statistics of its training "
            "by "
            "a divergence of ",
            rounded(divergence[0]),
            " or more, where photographs have .1 and pictures of another kind up to 1; check the pictures' range, and "
            "the model's mean and deviation")});
}

TRANSFERLIB_API void check_label_order(const Labels& names, const Shown& train, const Shown& val, Findings& findings) {
  const Index classes = static_cast<Index>(names.size());
  const Tensor y = train.target.cpu(), v = val.target.cpu();
  if (y.size(0) < 8 * classes || v.size(0) < 8 * classes) return;
  const Tensor x = train.pooled.cpu();
  const Tensor scale = x.std(0, false) + 1e-3;
  Activations means;
  for (Index c = 0; c < classes; ++c) {
    const Tensor of = y.eq(c);
    if (of.sum().item<Index>() < 4) return;
    means.push_back(x.index({of}).mean(0) / scale);
  }
  const Tensor nearest = at::cdist(val.pooled.cpu() / scale, at::stack(means)).argmin(1);
  const Tensor counts = at::bincount(v * classes + nearest, {}, classes * classes).view({classes, classes});
  std::vector<Index> looks(Graph::at(classes), -1);
  Tensor left = counts.clone();
  for (Index k = 0; k < classes; ++k) {
    const Index at = left.argmax().item<Index>();
    looks[Graph::at(at / classes)] = at % classes;
    left.select(0, at / classes).fill_(-1);
    left.select(1, at % classes).fill_(-1);
  }
  Index moved = 0, own = 0, other = 0, all = 0, example = -1;
  bool up = true, down = true;
  for (Index c = 0; c < classes; ++c) {
    const Index to = looks[Graph::at(c)];
    if (to == c) continue;
    ++moved;
    if (example < 0) example = c;
    all += counts[c].sum().item<Index>();
    own += counts[c][c].item<Index>();
    other += counts[c][to].item<Index>();
    up = up && to == (c + 1) % classes;
    down = down && to == (c + classes - 1) % classes;
  }
  if (moved < 2 || all < 24 || 2 * other < all || 5 * own > all) return;
  const Index to = looks[Graph::at(example)];
  const bool shifted = classes > 2 && moved == classes && (up || down);
  findings.push_back(
      {Severity::warning, "label order",
       text("the labels of the two sets seem to mean different classes: of ", all, " validation pictures of ", moved,
            " classes, ", other, " look like one and the same other class of the training data, and ", own,
            " like their own, as \"", names[Graph::at(example)], "\", which looks like \"", names[Graph::at(to)], "\"",
            shifted ? "; they are shifted by one: does one set count from 1?"
                    : "; do both sets sort their classes alike?")});
}

}  // namespace transferlib::detail

#endif  // TRANSFERLIB_DEFINES

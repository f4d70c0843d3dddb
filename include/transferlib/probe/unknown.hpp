/// \file
/// Whether a picture shows one of the known classes at all, by where its features lie among those of the training set.
#pragma once

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <ATen/ATen.h>

#include <transferlib/core/error.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/version.hpp>
#include <transferlib/formats/checkpoint.hpp>
#include <transferlib/formats/json.hpp>
#include <transferlib/metrics/ranking.hpp>
#include <transferlib/probe/features.hpp>
#include <transferlib/weights/state_dict.hpp>

namespace transferlib {

/// How `UnknownDetector` tells known from unknown.
enum class UnknownScore {
  /// The squared distance from the nearest class's mean, in the covariance that the classes share (Lee et al., "A
  /// simple
  /// unified framework for detecting out-of-distribution samples and adversarial attacks", NeurIPS 2018).
  mahalanobis,
  /// The same less the squared distance from the mean of all, in the covariance of all: what is unusual in every way
  /// does not count (Ren et al., "A simple fix to Mahalanobis distance for improving near-OOD detection", 2021).
  relative_mahalanobis,
  /// The mean cosine with the nearest pictures of the training set (after Sun et al., "Out-of-distribution detection
  /// with
  /// deep nearest neighbors", ICML 2022, who take the k-th distance).
  neighbours
};

/// How `UnknownDetector` is fitted.
struct UnknownOptions {
  UnknownScore score = UnknownScore::relative_mahalanobis;
  double known_rate = 0.95;  ///< the part of known pictures to be let through, above 0 and at most 1
  double shrinkage = 0.01;   ///< of the covariances: this part of the mean variance is added to each variance
  Index neighbours = 20;     ///< how many count
  Index folds = 5;           ///< the threshold is set by scores of pictures left out of the fit, in so many parts
};

/// Helmholtz' free energy of logits (N, classes), its sign turned: log sum exp (Liu et al., "Energy-based
/// out-of-distribution detection", NeurIPS 2020). High where a picture is known. \returns (N) float64
inline Tensor energy_scores(const Tensor& logits) { return at::logsumexp(logits.to(at::kDouble), 1); }

namespace detail {

/// Sums of features by class, from which means and covariances follow.
struct ClassMoments {
  Tensor gram, sums, counts;  // (D, D), (K, D), (K)

  static ClassMoments of(const Tensor& x, const Tensor& y, Index classes);
  ClassMoments with(const ClassMoments& other, double sign) const {
    return {gram + sign * other.gram, sums + sign * other.sums, counts + sign * other.counts};
  }
};

/// Normal distributions of the classes with one covariance, and one of all: by which matrices features are whitened,
/// and the means behind that, float32.
struct ClassNormals {
  Tensor within, centres, total, centre;

  static ClassNormals of(const ClassMoments& m, double shrinkage);

  /// (N) float64, high where known.
  Tensor scores(const Tensor& x, bool relative) const;
};

}  // namespace detail

/// Tells pictures of the classes that it was fitted to from others: a score of their features and a threshold that lets
/// the wanted part of known pictures through. Features of several depths tell more; see docs/how-to/closed-form.md.
/// Const calls are safe from several threads.
class UnknownDetector {
 public:
  /// \param known features of pictures of the known classes, as `features_of` gives them. Where it is to score by
  /// `neighbours` they are kept.
  /// \throws OptionError; DataError as `logme`, or if there are fewer pictures than folds
  static UnknownDetector fit(const Features& known, const UnknownOptions& options = {});

  /// Which of some options to take, without a picture of an unknown class: each known class in turn stands for one.
  /// Fits to the others tell its pictures from theirs, on the fifth of the pictures that no fit sees.
  /// \param candidates of whose options score, shrinkage and neighbours count
  /// \returns the mean AUROC over the classes, one a candidate; 0.5: it tells nothing
  /// \throws OptionError; DataError as `fit`, or if there are fewer than 3 classes
  static std::vector<double> validate(const Features& known, const std::vector<UnknownOptions>& candidates);

  /// How known the pictures of features (N, D) are: higher is more. \returns (N) float64 \throws DataError
  Tensor scores(const Tensor& features) const;

  /// A score below is unknown.
  double threshold() const { return threshold_; }

  /// The classes (N) int64 that a model has found, with -1 for the pictures that are of no known class.
  Tensor decide(const Tensor& features, const Tensor& classes) const {
    const Tensor s = scores(features);
    if (!classes.defined() || classes.sizes() != s.sizes() || classes.scalar_type() != at::kLong)
      throw DataError(detail::text("there must be one class, int64, for each of the ", s.size(0), " pictures"));
    return at::where(s.ge(threshold_), classes.cpu(), at::full_like(classes.cpu(), -1));
  }

  /// Writes the detector, atomically. \throws FileError
  void save(const std::filesystem::path& path) const;

  /// Reads what `save` wrote. \throws FileError, FormatError; WeightsError if the file is no such file
  static UnknownDetector load(const std::filesystem::path& path);

 private:
  UnknownDetector() = default;

  static void check(const UnknownOptions& options, const Features& known);

  void standardise_by(const Tensor& raw) {
    mean_ = raw.mean(0, false, at::kDouble).to(at::kFloat);
    const Tensor deviation = raw.to(at::kFloat).std(0, false);
    scale_ = at::where(deviation.gt(1e-6), deviation.reciprocal(), at::ones_like(deviation));
  }

  Tensor prepared(const Tensor& features) const {
    Tensor x = (features.to(at::kFloat) - mean_) * scale_;
    if (score_ == UnknownScore::neighbours) x = x / x.norm(2, {1}, true).clamp_min(1e-12);
    return x;
  }

  Tensor score(const Tensor& x) const;

  UnknownScore score_ = UnknownScore::relative_mahalanobis;
  Index neighbours_ = 1;
  double threshold_ = 0.0;
  Tensor mean_, scale_;
  detail::ClassNormals normals_;
  Tensor bank_;
};

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API ClassMoments ClassMoments::of(const Tensor& x, const Tensor& y, Index classes) {
  ClassMoments out{at::zeros({x.size(1), x.size(1)}, at::kDouble), at::zeros({classes, x.size(1)}, at::kDouble),
                   at::zeros({classes}, at::kDouble)};
  for (Index from = 0; from < x.size(0); from += 4096) {
    const Index count = std::min<Index>(4096, x.size(0) - from);
    const Tensor part = x.narrow(0, from, count).to(at::kDouble);
    out.gram.addmm_(part.t(), part);
    out.sums.index_add_(0, y.narrow(0, from, count), part);
    out.counts.index_add_(0, y.narrow(0, from, count), at::ones({count}, at::kDouble));
  }
  return out;
}

TRANSFERLIB_API ClassNormals ClassNormals::of(const ClassMoments& m, double shrinkage) {
  const Tensor present = m.counts.gt(0).nonzero().view({-1});
  const Tensor counts = m.counts.index_select(0, present).unsqueeze(1), sums = m.sums.index_select(0, present);
  const Tensor n = counts.sum(), means = sums / counts, mean = sums.sum(0, true) / n;
  const auto whitening = [&](const Tensor& scatter) {
    Tensor covariance = scatter / n;
    covariance.diagonal().add_(shrinkage * covariance.diagonal().mean().item<double>());
    const auto [factor, info] = at::linalg_cholesky_ex(covariance);
    if (info.item<int>() != 0)
      throw DataError(text("the covariance of the features can't be inverted with a shrinkage of ", shrinkage,
                           "; raise it, or give more pictures"));
    return at::linalg_solve_triangular(factor, at::eye(covariance.size(0), at::kDouble), false).contiguous();
  };
  const Tensor w = whitening(m.gram - at::mm(sums.t(), means)), t = whitening(m.gram - n * at::mm(mean.t(), mean));
  return {w.to(at::kFloat), at::mm(means, w.t()).to(at::kFloat), t.to(at::kFloat), at::mm(mean, t.t()).to(at::kFloat)};
}

TRANSFERLIB_API Tensor ClassNormals::scores(const Tensor& x, bool relative) const {
  const Tensor white = at::mm(x, within.t());
  Tensor nearest;
  for (Index c = 0; c < centres.size(0); ++c) {
    const Tensor d = (white - centres[c]).square().sum(1, false, at::kDouble);
    nearest = nearest.defined() ? at::minimum(nearest, d) : d;
  }
  return relative ? (at::mm(x, total.t()) - centre).square().sum(1, false, at::kDouble) - nearest : -nearest;
}

}  // namespace transferlib::detail

namespace transferlib {

TRANSFERLIB_API UnknownDetector UnknownDetector::fit(const Features& known, const UnknownOptions& options) {
  check(options, known);
  const Index classes = static_cast<Index>(detail::probe_task(known).counts.size());  // checks the features
  UnknownDetector out;
  out.score_ = options.score;
  out.neighbours_ = options.neighbours;
  const Tensor raw = known.x.detach().cpu(), y = known.y.cpu();
  out.standardise_by(raw);
  const Tensor x = out.prepared(raw);

  // Picture i is in the part i modulo folds: data sets are often in the order of their classes.
  std::vector<Tensor> parts;
  for (Index fold = 0; fold < options.folds; ++fold) parts.push_back(at::arange(fold, x.size(0), options.folds));
  std::vector<detail::ClassMoments> moments;
  detail::ClassMoments all;
  if (out.score_ != UnknownScore::neighbours)
    for (const Tensor& part : parts) {
      moments.push_back(detail::ClassMoments::of(x.index_select(0, part), y.index_select(0, part), classes));
      all = moments.size() == 1 ? moments[0] : all.with(moments.back(), 1.0);
    }
  std::vector<double> scores;
  for (std::size_t fold = 0; fold < parts.size(); ++fold) {
    if (out.score_ == UnknownScore::neighbours) {
      Tensor others = at::ones({x.size(0)}, at::kBool);
      others.index_fill_(0, parts[fold], false);
      out.bank_ = x.index_select(0, others.nonzero().view({-1}));
    } else {
      out.normals_ = detail::ClassNormals::of(all.with(moments[fold], -1.0), options.shrinkage);
    }
    const Tensor own = out.score(x.index_select(0, parts[fold]));
    scores.insert(scores.end(), own.const_data_ptr<double>(), own.const_data_ptr<double>() + own.numel());
  }
  out.threshold_ = threshold_at_rate(std::move(scores), options.known_rate);
  if (out.score_ == UnknownScore::neighbours)
    out.bank_ = x;
  else
    out.normals_ = detail::ClassNormals::of(all, options.shrinkage);
  return out;
}

TRANSFERLIB_API std::vector<double> UnknownDetector::validate(const Features& known,
                                                              const std::vector<UnknownOptions>& candidates) {
  for (const UnknownOptions& o : candidates) check(o, known);
  const Index classes = static_cast<Index>(detail::probe_task(known).counts.size());
  const Tensor raw = known.x.detach().cpu(), y = known.y.cpu();
  const Tensor held = at::arange(raw.size(0)).remainder(5).eq(0), seen = held.logical_not();
  const auto rows = [](const Tensor& x, const Tensor& which) { return x.index_select(0, which.nonzero().view({-1})); };
  std::vector<Index> there;
  for (Index c = 0; c < classes; ++c)
    if ((held & y.eq(c)).any().item<bool>() && (seen & y.eq(c)).any().item<bool>()) there.push_back(c);
  if (there.size() < 3)
    throw DataError(detail::text("to leave a known class out and tell it from two others takes 3 classes; there are ",
                                 there.size()));
  UnknownDetector out;
  std::vector<double> auroc(candidates.size(), 0.0);
  for (const Index c : there) {
    const Tensor others = rows(raw, seen & y.ne(c));
    out.standardise_by(others);
    out.score_ = UnknownScore::mahalanobis;  // which `prepared` looks at
    const auto moments = detail::ClassMoments::of(out.prepared(others), rows(y, seen & y.ne(c)), classes);
    for (std::size_t i = 0; i < candidates.size(); ++i) {
      out.score_ = candidates[i].score;
      out.neighbours_ = candidates[i].neighbours;
      if (out.score_ == UnknownScore::neighbours)
        out.bank_ = out.prepared(others);
      else
        out.normals_ = detail::ClassNormals::of(moments, candidates[i].shrinkage);
      const Tensor a = out.score(out.prepared(rows(raw, held & y.ne(c)))),
                   b = out.score(out.prepared(rows(raw, held & y.eq(c))));
      const auto span = [](const Tensor& t) {
        return std::span(t.const_data_ptr<double>(), static_cast<std::size_t>(t.numel()));
      };
      auroc[i] += roc_auc(span(a), span(b)) / static_cast<double>(there.size());
    }
  }
  return auroc;
}

TRANSFERLIB_API Tensor UnknownDetector::scores(const Tensor& features) const {
  if (!features.defined() || features.dim() != 2 || features.size(1) != mean_.size(0) || !features.is_floating_point())
    throw DataError(detail::text("the features must be a floating-point tensor (N, ", mean_.size(0),
                                 "), as those that the detector was fitted to"));
  return score(prepared(features.detach().cpu()));
}

TRANSFERLIB_API void UnknownDetector::save(const std::filesystem::path& path) const {
  StateDict state{{"mean", mean_}, {"scale", scale_}};
  if (score_ == UnknownScore::neighbours)
    state.emplace_back("bank", bank_);
  else
    state.insert(state.end(), {{"within", normals_.within},
                               {"centres", normals_.centres},
                               {"total", normals_.total},
                               {"centre", normals_.centre}});
  write_state_dict(path, state,
                   {{"transferlib.unknown", "1"},
                    {"transferlib.version", TRANSFERLIB_VERSION},
                    {"score", detail::text(static_cast<int>(score_))},
                    {"neighbours", detail::text(neighbours_)},
                    {"threshold", Json(threshold_).dump()}});
}

TRANSFERLIB_API UnknownDetector UnknownDetector::load(const std::filesystem::path& path) {
  const Checkpoint file = open_checkpoint(path);
  const auto wrong = [&] {
    return WeightsError(detail::text("the file ", path, " is none that UnknownDetector wrote, or was changed since"));
  };
  const auto number = [&](const char* key) {
    const auto found = file.metadata.find(key);
    if (found == file.metadata.end()) throw wrong();
    return parse_json(found->second, detail::text(path, ": ", key)).get<double>();
  };
  if (number("transferlib.unknown") != 1.0) throw wrong();
  UnknownDetector out;
  const double score = number("score"), neighbours = number("neighbours");
  if (score < 0.0 || score > 2.0 || score != std::floor(score) || !(neighbours >= 1.0 && neighbours < 1e15))
    throw wrong();
  out.score_ = static_cast<UnknownScore>(static_cast<int>(score));
  out.neighbours_ = static_cast<Index>(neighbours);
  out.threshold_ = number("threshold");
  std::map<std::string, Tensor> tensors;
  for (const TensorView& view : file.tensors) tensors[view.name] = detail::to_tensor(view, file.owner).clone();
  const auto take = [&](const char* name, Index dimensions) {
    const auto found = tensors.find(name);
    if (found == tensors.end() || found->second.scalar_type() != at::kFloat || found->second.dim() != dimensions ||
        found->second.size(-1) < 1 ||
        (tensors.count("mean") != 0 && found->second.size(-1) != tensors["mean"].size(-1)))
      throw wrong();
    return found->second;
  };
  out.mean_ = take("mean", 1);
  out.scale_ = take("scale", 1);
  if (out.score_ == UnknownScore::neighbours) {
    out.bank_ = take("bank", 2);
  } else {
    out.normals_ = {take("within", 2), take("centres", 2), take("total", 2), take("centre", 2)};
    const auto& n = out.normals_;
    if (n.within.size(0) != n.within.size(1) || n.total.size(0) != n.total.size(1) || n.centre.size(0) != 1 ||
        n.centres.size(0) < 1)
      throw wrong();
  }
  return out;
}

TRANSFERLIB_API void UnknownDetector::check(const UnknownOptions& options, const Features& known) {
  using detail::text;
  if (!(options.known_rate > 0.0 && options.known_rate <= 1.0))
    throw OptionError(
        text("the part of known pictures to be let through must be above 0 and at most 1, not ", options.known_rate));
  if (!(options.shrinkage > 0.0 && std::isfinite(options.shrinkage)))
    throw OptionError(text("the shrinkage of a covariance must be finite and above 0, not ", options.shrinkage));
  if (options.neighbours < 1) throw OptionError(text("at least 1 neighbour counts, not ", options.neighbours));
  if (options.folds < 2 || (known.x.defined() && known.x.dim() == 2 && known.x.size(0) < 2 * options.folds))
    throw OptionError(text("the threshold needs 2 folds or more, and 2 pictures or more in each; there are ",
                           options.folds, " folds"));
}

TRANSFERLIB_API Tensor UnknownDetector::score(const Tensor& x) const {
  std::vector<Tensor> out;
  for (Index from = 0; from < x.size(0); from += 1024) {
    const Tensor part = x.narrow(0, from, std::min<Index>(1024, x.size(0) - from));
    if (score_ == UnknownScore::neighbours)
      out.push_back(std::get<0>(at::mm(part, bank_.t()).topk(std::min(neighbours_, bank_.size(0)), 1))
                        .mean(1, false, at::kDouble));
    else
      out.push_back(normals_.scores(part, score_ == UnknownScore::relative_mahalanobis));
  }
  return out.empty() ? at::empty({0}, at::kDouble) : at::cat(out);
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

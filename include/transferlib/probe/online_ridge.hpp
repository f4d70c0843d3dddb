/// \file
/// A ridge head that learns and forgets pictures inside an application, each exactly, without the pictures of before.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <ATen/ATen.h>

#include <transferlib/core/error.hpp>
#include <transferlib/core/guard.hpp>
#include <transferlib/core/hash.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/version.hpp>
#include <transferlib/data/preprocess.hpp>
#include <transferlib/engine/engine.hpp>
#include <transferlib/formats/checkpoint.hpp>
#include <transferlib/formats/json.hpp>
#include <transferlib/model/backbone.hpp>
#include <transferlib/weights/state_dict.hpp>

namespace transferlib {
namespace detail {

/// The ridge of 0-1 targets on features, by sums alone: what it learnt can be added and taken away. With x~ = (x, 1),
/// the sums are G = sum x~ x~' and B = sum x~ y', and the weights solve (G + penalty) W = B, where the bias, the last
/// row, is free. The inverse P is brought along by Woodbury's identity, which costs O(D^2) a picture, and each solution
/// is refined against the sums, so that P's rounding does not add up; where refining takes too long, P is made anew.
class RidgeSums {
 public:
  RidgeSums() = default;
  RidgeSums(Index width, Index classes)
      : gram(at::zeros({width + 1, width + 1}, at::kDouble)),
        targets(at::zeros({width + 1, classes}, at::kDouble)),
        weight_(at::zeros_like(targets)) {}

  Index width() const { return gram.size(0) - 1; }
  Index classes() const { return targets.size(1); }
  /// Pictures that are in the sums.
  Index size() const { return static_cast<Index>(std::llround(gram[-1][-1].item<double>())); }
  /// (width + 1, classes), the biases last; zeros where there is no picture.
  const Tensor& weight() const { return weight_; }

  void add_class() {
    targets = at::constant_pad_nd(targets, {0, 1});
    weight_ = at::constant_pad_nd(weight_, {0, 1});
  }

  /// Puts features (m, width) of one class in (`sign` 1), or takes them away (-1), and solves.
  void change(const Tensor& features, Index label, double sign);

  /// The same without solving: for many pictures, with `solve_anew` behind the last. \returns (m, width + 1) with ones
  Tensor accumulate(const Tensor& features, Index label, double sign) {
    const Tensor u = at::constant_pad_nd(features.to(at::kDouble), {0, 1}, 1.0);
    gram.addmm_(u.t(), u, 1.0, sign);
    targets.select(1, label).add_(u.sum(0), sign);
    return u;
  }

  /// Solves by Cholesky's decomposition. O(D^3)
  void solve_anew();

  Tensor gram, targets;
  double penalty = 0.0;

 private:
  /// The part of the diagonal that is penalised.
  static Tensor penalties(const Tensor& a) { return a.diagonal().narrow(0, 0, a.size(0) - 1); }

  /// Corrects the weights by the inverse until they solve the equations as well as doubles can. What is left behind a
  /// correction is the correction times the inverse's relative error, which is of the size of the first correction.
  /// \returns whether that took few steps
  bool refine();

  Tensor inverse_, weight_;
};

}  // namespace detail

/// A classifier for an application that learns while it runs: the frozen features of a backbone and a ridge on them.
/// Adding pictures, forgetting them and new classes are exact: the weights are those of a ridge fitted anew to the
/// pictures that are in it, and nothing is kept of a picture but its share in the sums and a hash of its features.
///
/// \code
/// OnlineRidge learner{Backbone<EfficientNetLite0>::pretrained({.size = 128}), {"cup", "plate"}};
/// learner.add("mug", pictures);  // a new class
/// const auto answer = learner.predict(pictures);
/// \endcode
///
/// All may be called from any number of threads at once: a change waits for the change before it, and predicting goes
/// on with the weights of before until the new ones are complete.
class OnlineRidge {
 public:
  struct Options {
    /// The lambda of |Y - XW - b|^2 + lambda |W|^2, as `RidgeProbe::penalty`; 0: the mean of |x|^2 over the features of
    /// the first pictures that are added, which is kept from then on.
    double penalty = 0.0;
    Precision precision = Precision::automatic;  ///< of the backbone
  };

  /// What a learner says of pictures.
  struct Answer {
    Tensor values;  ///< (N, classes) float32: about 1 for the right class and 0 for others, not bounded
    Labels labels;  ///< the classes at that time

    /// The name of a picture's class. \throws DataError if there is no such picture, or no class yet
    const std::string& best(Index picture) const {
      if (picture < 0 || picture >= values.size(0) || labels.empty())
        throw DataError(detail::text("there is no answer for picture ", picture, ": there are ", values.size(0),
                                     " pictures and ", labels.size(), " classes"));
      return labels[static_cast<std::size_t>(values[picture].argmax().item<Index>())];
    }
  };

  /// \param labels the classes that there are from the start; more come by `add` \throws OptionError
  template <class N>
  OnlineRidge(Backbone<N> backbone, Labels labels, const Options& options)
      : OnlineRidge(std::move(backbone.core), std::move(labels), options) {}
  template <class N>
  OnlineRidge(Backbone<N> backbone, Labels labels) : OnlineRidge(std::move(backbone), std::move(labels), Options{}) {}

  /// Learns pictures of one class, as a data set gives them; a class of a new name is one more. The work behind the
  /// features is O(D^2) a picture.
  /// \throws DataError for pictures that are none; the learner is then as before
  void add(const std::string& label, const Batch& pictures) { learn(label, features(pictures)); }

  /// Learns a whole data set of class indices, whose classes join by their names. Solves once, in the end.
  template <class D>
  void add(const D& data) {
    const Labels names = data.labels();
    std::vector<Tensor> parts(names.size());
    for (Index from = 0; from < data.size(); from += 256) {
      std::vector<Index> ids;
      for (Index i = from; i < std::min(from + 256, data.size()); ++i) ids.push_back(i);
      const Batch batch = data.batch(ids);
      const Tensor x = features(batch);
      for (std::size_t c = 0; c < names.size(); ++c) {
        const Tensor own = x.index_select(0, batch.target.eq(static_cast<Index>(c)).nonzero().view({-1}));
        parts[c] = parts[c].defined() ? at::cat({parts[c], own}) : own;
      }
    }
    const std::lock_guard lock(state_->changing);
    for (std::size_t c = 0; c < names.size(); ++c) {
      const Index label = class_of(names[c]);
      if (!parts[c].defined() || parts[c].size(0) == 0) continue;
      settle_penalty(parts[c]);
      remember(parts[c], label);
      state_->sums.accumulate(parts[c], label, 1.0);
    }
    state_->sums.solve_anew();
    publish();
  }

  /// Unlearns pictures that were added, each once.
  /// \throws DataError if one was not added, or its features are others now (another processor or precision), or it
  /// was added under several labels and none is named; the learner is then as before
  void forget(const Batch& pictures) { unlearn(nullptr, features(pictures)); }
  /// The same of pictures that were added under this label.
  void forget(const std::string& label, const Batch& pictures) { unlearn(&label, features(pictures)); }

  /// Adds a class without pictures. A class that there is already stays as it is.
  void add_class(const std::string& label) {
    const std::lock_guard lock(state_->changing);
    class_of(label);
    publish();
  }

  /// What the learner says of pictures. \throws DataError
  Answer predict(const Batch& pictures) const { return answer(features(pictures)); }
  /// The same of features that `features` gave. \throws DataError if their width is another
  Answer answer(const Tensor& features) const {
    check(features);
    const auto now = state_->snapshot();
    return {at::addmm(now->bias, features, now->weight.t()), now->labels};
  }

  /// Features of pictures (N, D) float32, each computed alone, so that a picture's are always the same bytes.
  Tensor features(const Batch& pictures) const;

  /// The classes now, in the order in which they came.
  Labels labels() const { return state_->snapshot()->labels; }
  /// Pictures that are in it.
  Index size() const { return state_->snapshot()->size; }
  /// The lambda; 0 before the first picture where none was given.
  double penalty() const { return state_->snapshot()->penalty; }
  /// The weights (classes, D) and the biases (classes), float64, of now.
  std::pair<Tensor, Tensor> weights() const {
    const auto now = state_->snapshot();
    return {now->exact.slice(0, 0, -1).t().clone(), now->exact[-1].clone()};
  }

  /// Learns features that `features` gave. \throws DataError if their width is another
  void learn(const std::string& label, const Tensor& features);

  /// Writes what was learnt, atomically: sums, names, hashes. Not the backbone. \throws FileError
  void save(const std::filesystem::path& path) const;

  /// Takes over what `save` wrote, instead of what it has learnt so far.
  /// \throws FileError, FormatError; WeightsError if the file is no such file, or was learnt with another backbone,
  /// preprocessing or precision; the learner is then as before
  void load(const std::filesystem::path& path);

 private:
  static constexpr Index hash_bytes = 32;
  /// Hash of features and class, and how often it is in the sums.
  using Known = std::map<std::pair<std::string, Index>, Index>;

  /// What predicting reads: never changed, only replaced.
  struct Snapshot {
    Tensor weight, bias, exact;
    Labels labels;
    Index size = 0;
    double penalty = 0.0;
  };

  struct State {
    std::mutex changing;  ///< one change at a time
    detail::RidgeSums sums;
    Labels labels;
    Known known;
    mutable std::mutex reading;  ///< held for the copy of a pointer
    std::shared_ptr<const Snapshot> now;

    std::shared_ptr<const Snapshot> snapshot() const {
      const std::lock_guard lock(reading);
      return now;
    }
  };

  OnlineRidge(detail::BackboneCore core, Labels labels, const Options& options);

  void check(const Tensor& features) const {
    if (!features.defined() || features.dim() != 2 || features.size(1) != core_->features.width ||
        features.scalar_type() != at::kFloat)
      throw DataError(
          detail::text("features must be a float32 tensor (N, ", core_->features.width, "), as `features` gives them"));
  }

  /// The class's number; a new one is added.
  Index class_of(const std::string& label);

  void settle_penalty(const Tensor& features) {
    if (state_->sums.penalty > 0.0) return;
    state_->sums.penalty =
        std::max(features.to(at::kDouble).square().sum(1).mean().item<double>(), std::numeric_limits<double>::min());
  }

  static std::string key_of(const Tensor& row);

  void remember(const Tensor& features, Index label) {
    for (Index i = 0; i < features.size(0); ++i) ++state_->known[{key_of(features[i]), label}];
  }

  void unlearn(const std::string* label, const Tensor& features);

  const std::string& name(const Known::key_type& key) const {
    return state_->labels[static_cast<std::size_t>(key.second)];
  }

  void publish();

  /// What a picture's features depend on, in a few words.
  std::string identity() const {
    const Preprocessing& p = core_->preprocessing;
    return detail::text(core_->kind(), " ", core_->features.width, " wide, ", to_string(engine_->precision()), ", ",
                        p.size, " pixels, weights ",
                        hash_of(detail::needed_state(*core_, {core_->graph.pooled})).substr(0, 16));
  }

  std::shared_ptr<const detail::BackboneCore> core_;
  std::shared_ptr<const Engine> engine_;
  std::unique_ptr<State> state_ = std::make_unique<State>();
};

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API void RidgeSums::change(const Tensor& features, Index label, double sign) {
  const Tensor u = accumulate(features, label, sign);
  const Index m = u.size(0);
  if (!inverse_.defined() || size() == 0 || 4 * m > gram.size(0)) {
    solve_anew();
    return;
  }
  // (A + s u'u)^-1 = P - P u' (s + u P u')^-1 u P
  const Tensor v = at::mm(inverse_, u.t()), inner = at::mm(u, v).add_(at::eye(m, at::kDouble), sign);
  const Tensor gain = at::linalg_solve(inner, v.t());
  inverse_.addmm_(v, gain, 1.0, -1.0);
  // What the pictures' own targets change.
  Tensor y = at::zeros({m, classes()}, at::kDouble);
  y.select(1, label).fill_(1.0);
  weight_ = weight_ + at::mm(gain.t(), y - at::mm(u, weight_));
  if (!refine()) solve_anew();
}

TRANSFERLIB_API void RidgeSums::solve_anew() {
  if (size() == 0) {
    // Rounding may have left traces.
    gram.zero_();
    targets.zero_();
    weight_ = at::zeros_like(targets);
    inverse_ = Tensor();
    return;
  }
  Tensor a = gram.clone();
  penalties(a).add_(penalty);
  const auto [factor, info] = at::linalg_cholesky_ex(a);
  if (info.item<int>() != 0)
    throw DataError(text("the features are too large for the penalty ", penalty,
                         ": the ridge can't be solved in double precision; give a higher penalty"));
  inverse_ = at::cholesky_inverse(factor).contiguous();
  weight_ = at::mm(inverse_, targets);
  refine();
}

TRANSFERLIB_API bool RidgeSums::refine() {
  for (int step = 0; step < 4; ++step) {
    Tensor left = targets - at::mm(gram, weight_);
    left.narrow(0, 0, width()).add_(weight_.narrow(0, 0, width()), -penalty);
    const Tensor correction = at::mm(inverse_, left);
    weight_ = weight_ + correction;
    const double change = correction.abs().max().item<double>(), all = weight_.abs().max().item<double>();
    if (!std::isfinite(change)) return false;
    if (change <= (step == 0 ? 1e-7 : 1e-11) * all) return true;
  }
  return false;
}

}  // namespace transferlib::detail

namespace transferlib {

TRANSFERLIB_API Tensor OnlineRidge::features(const Batch& pictures) const {
  return detail::guarded("the features of pictures", [&] {
    const torch::NoGradGuard guard;
    const Tensor x = detail::input_of(*core_, pictures, *engine_);
    if (x.size(0) == 0) throw DataError("there are no pictures");
    std::vector<Tensor> rows;
    for (Index i = 0; i < x.size(0); ++i) rows.push_back((*engine_)(x.narrow(0, i, 1))[0]);
    const Tensor out = at::cat(rows).to(at::kCPU, at::kFloat);
    if (!at::isfinite(out).all().item<bool>())
      throw DataError("the features of a picture are not finite numbers; are the backbone's weights damaged?");
    return out;
  });
}

TRANSFERLIB_API void OnlineRidge::learn(const std::string& label, const Tensor& features) {
  check(features);
  const std::lock_guard lock(state_->changing);
  const Index number = class_of(label);
  settle_penalty(features);
  remember(features, number);
  state_->sums.change(features, number, 1.0);
  publish();
}

TRANSFERLIB_API void OnlineRidge::save(const std::filesystem::path& path) const {
  const std::lock_guard lock(state_->changing);
  const auto rows = static_cast<Index>(state_->known.size());
  Tensor hashes = at::empty({rows, hash_bytes}, at::kByte), of = at::empty({rows, 2}, at::kLong);
  Index row = 0;
  for (const auto& [key, count] : state_->known) {
    std::memcpy(hashes.mutable_data_ptr<std::uint8_t>() + row * hash_bytes, key.first.data(), hash_bytes);
    of[row][0] = key.second;
    of[row++][1] = count;
  }
  write_state_dict(path,
                   {{"gram", state_->sums.gram},
                    {"targets", state_->sums.targets},
                    {"pictures.hash", hashes},
                    {"pictures.class_and_count", of}},
                   {{"transferlib.online_ridge", "1"},
                    {"transferlib.version", TRANSFERLIB_VERSION},
                    {"labels", Json(state_->labels).dump()},
                    {"penalty", Json(state_->sums.penalty).dump()},
                    {"backbone", identity()}});
}

TRANSFERLIB_API void OnlineRidge::load(const std::filesystem::path& path) {
  const Checkpoint file = open_checkpoint(path);
  const auto told = [&](const char* key) {
    const auto found = file.metadata.find(key);
    if (found == file.metadata.end())
      throw WeightsError(detail::text("the file ", path, " is none that OnlineRidge wrote: it has no \"", key, "\""));
    return found->second;
  };
  if (told("transferlib.online_ridge") != "1")
    throw WeightsError(detail::text("the file ", path, " is of a newer transferlib"));
  if (told("backbone") != identity())
    throw WeightsError(detail::text("the file ", path, " was learnt with another backbone (", told("backbone"),
                                    "), whose features are others than those of this one (", identity(), ")"));
  std::map<std::string, Tensor> tensors;
  for (const TensorView& view : file.tensors) tensors[view.name] = detail::to_tensor(view, file.owner).clone();
  const auto labels = parse_json(told("labels"), detail::text(path, ": labels")).get<Labels>();
  const double penalty = parse_json(told("penalty"), detail::text(path, ": penalty")).get<double>();
  const Index width = core_->features.width, classes = static_cast<Index>(labels.size());
  const auto fits = [&](const char* name, at::ScalarType type, at::IntArrayRef shape) {
    const auto found = tensors.find(name);
    if (found == tensors.end() || found->second.scalar_type() != type || found->second.sizes() != shape)
      throw WeightsError(detail::text("the file ", path, " is damaged: its \"", name, "\" is not as it should be"));
    return found->second;
  };
  detail::RidgeSums sums(width, classes);
  sums.gram = fits("gram", at::kDouble, {width + 1, width + 1});
  sums.targets = fits("targets", at::kDouble, {width + 1, classes});
  sums.penalty = penalty;
  const Index rows =
      tensors.count("pictures.hash") != 0 && tensors["pictures.hash"].dim() == 2 ? tensors["pictures.hash"].size(0) : 0;
  const Tensor hashes = fits("pictures.hash", at::kByte, {rows, hash_bytes}),
               of = fits("pictures.class_and_count", at::kLong, {rows, 2});
  Known known;
  Index count = 0;
  for (Index row = 0; row < rows; ++row) {
    const Index label = of[row][0].item<Index>(), times = of[row][1].item<Index>();
    if (label < 0 || label >= classes || times < 1)
      throw WeightsError(detail::text("the file ", path, " is damaged: picture ", row, " has the class ", label,
                                      " and is there ", times, " times"));
    std::string hash(reinterpret_cast<const char*>(hashes.const_data_ptr<std::uint8_t>()) + row * hash_bytes,
                     hash_bytes);
    known[{std::move(hash), label}] = times;
    count += times;
  }
  if (count != sums.size() || !(penalty >= 0.0) || (count > 0 && penalty == 0.0) ||
      !at::isfinite(sums.gram).all().item<bool>() || !at::isfinite(sums.targets).all().item<bool>())
    throw WeightsError(detail::text("the file ", path, " is damaged: its sums are of ", sums.size(),
                                    " pictures, its hashes of ", count, ", its penalty is ", penalty));
  sums.solve_anew();
  const std::lock_guard lock(state_->changing);
  state_->sums = std::move(sums);
  state_->labels = labels;
  state_->known = std::move(known);
  publish();
}

TRANSFERLIB_API OnlineRidge::OnlineRidge(detail::BackboneCore core, Labels labels, const Options& options) {
  if (!(options.penalty >= 0.0 && std::isfinite(options.penalty)))
    throw OptionError(detail::text("the penalty of a ridge must be finite and above 0, or 0 for a choice by the ",
                                   "first pictures, not ", options.penalty));
  for (auto at = labels.begin(); at != labels.end(); ++at)
    if (std::find(labels.begin(), at, *at) != at)
      throw OptionError(detail::text("there are two classes called ", detail::in_quotes(*at)));
  const Index wanted[] = {core.graph.pooled}, input[] = {core.options.in_channels, core.size(), core.size()};
  core_ = std::make_shared<const detail::BackboneCore>(std::move(core));
  engine_ = std::make_shared<const Engine>(core_->graph, wanted, input,
                                           EngineOptions{.precision = options.precision, .piece = 1});
  state_->sums = detail::RidgeSums(core_->features.width, static_cast<Index>(labels.size()));
  state_->sums.penalty = options.penalty;
  state_->labels = std::move(labels);
  publish();
}

TRANSFERLIB_API Index OnlineRidge::class_of(const std::string& label) {
  const auto found = std::find(state_->labels.begin(), state_->labels.end(), label);
  if (found != state_->labels.end()) return found - state_->labels.begin();
  state_->sums.add_class();
  state_->labels.push_back(label);
  return static_cast<Index>(state_->labels.size()) - 1;
}

TRANSFERLIB_API std::string OnlineRidge::key_of(const Tensor& row) {
  const Tensor r = row.contiguous();
  return Sha256()
      .add(std::span(static_cast<const std::byte*>(r.const_data_ptr()), r.nbytes()))
      .hex()
      .substr(0, static_cast<std::size_t>(hash_bytes));
}

TRANSFERLIB_API void OnlineRidge::unlearn(const std::string* label, const Tensor& features) {
  const std::lock_guard lock(state_->changing);
  Known taken;
  std::map<Index, std::vector<Index>> rows;  // by class
  for (Index i = 0; i < features.size(0); ++i) {
    const std::string key = key_of(features[i]);
    std::vector<Known::key_type> found;
    for (auto at = state_->known.lower_bound({key, 0}); at != state_->known.end() && at->first.first == key; ++at) {
      const auto before = taken.find(at->first);
      if (at->second > (before == taken.end() ? 0 : before->second) && (label == nullptr || name(at->first) == *label))
        found.push_back(at->first);
    }
    if (found.empty())
      throw DataError(detail::text("picture ", i, " can't be forgotten: it was not added",
                                   label == nullptr ? "" : " as " + detail::in_quotes(*label),
                                   ", or was forgotten, or its features were computed by another processor, ",
                                   "precision or LibTorch, whose rounding is another"));
    if (found.size() > 1)
      throw DataError(detail::text("picture ", i, " was added as ", name(found[0]), " and as ", name(found[1]),
                                   "; say which to forget: forget(label, picture)"));
    ++taken[found[0]];
    rows[found[0].second].push_back(i);
  }
  for (auto& [number, ids] : rows) state_->sums.change(features.index_select(0, at::tensor(ids)), number, -1.0);
  for (const auto& [key, count] : taken)
    if (const auto at = state_->known.find(key); (at->second -= count) == 0) state_->known.erase(at);
  publish();
}

TRANSFERLIB_API void OnlineRidge::publish() {
  auto next = std::make_shared<Snapshot>();
  next->exact = state_->sums.weight();
  next->weight = next->exact.slice(0, 0, -1).t().to(at::kFloat).contiguous();
  next->bias = next->exact[-1].to(at::kFloat);
  next->labels = state_->labels;
  next->size = state_->sums.size();
  next->penalty = state_->sums.penalty;
  const std::lock_guard lock(state_->reading);
  state_->now = std::move(next);
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

/// \file
/// A detector that learns more classes and keeps those that it knows: its head grows, and in the pictures of the new
/// classes, in which nobody marked the old ones, the old detector tells what is there. The setting is that of Shmelkov,
/// Schmid and Alahari, "Incremental learning of object detectors without catastrophic forgetting" (ICCV 2017).
///
/// `Keeping` is distillation, as there and in Li and Hoiem, "Learning without forgetting" (ECCV 2016): in every step
/// the old detector looks at the same augmented pictures, and the new one is to answer as it does, place by place and
/// as sure, but for what is marked. (Shmelkov's detector has two stages and compares the scores of proposals; of one
/// without proposals each place has objectness, box and classes, and what the old one is not sure of counts less, as in
/// Mehta and Ozturk, "Object detection at 200 frames per second", 2018.)
///
/// \code
/// const auto old = load_detector("cells.safetensors");
/// Keeping model{add_classes(old, {"Platelets"}), old};
/// Trainer{model, {.epochs = 10}}.fit(pictures, validation);  // in the pictures only "Platelets" need be marked
/// save(model, "more.safetensors");                           // an ordinary detector
/// \endcode
///
/// `remember` does without the old detector in training, and for any head: of what it finds, that of which it is sure
/// is taken as truth (Lee, "Pseudo-label", 2013). It keeps less.
#pragma once

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <transferlib/core/concepts.hpp>
#include <transferlib/core/error.hpp>
#include <transferlib/core/layers.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/core/text.hpp>
#include <transferlib/data/replaced_boxes.hpp>
#include <transferlib/detect/boxes.hpp>
#include <transferlib/detect/detections.hpp>
#include <transferlib/freeze/policy.hpp>
#include <transferlib/model/backbone.hpp>
#include <transferlib/model/detector.hpp>
#include <transferlib/weights/state_dict.hpp>

namespace transferlib {

/// What of an old detector's answers is taken for truth.
struct RememberOptions {
  double threshold = 0.4;  ///< it is surer than this, in [0, 1]
  double overlap = 0.5;    ///< and no marked box of any class overlaps it by more, in [0, 1]
  Precision precision = Precision::fp32;
};

/// The labels of a model, and behind them those that are new. \throws OptionError if one is not
TRANSFERLIB_API Labels with_more(Labels labels, const Labels& more);

/// The data, of whose classes some are new to the detector, with what the detector finds of those that it knows as
/// their truth, beside the boxes that are marked. Its labels are the detector's and behind them the new ones: those of
/// `add_classes`. It looks at all pictures once, without augmentation.
/// \param data must outlive what is returned \throws OptionError where no class is new, or an option is out of range
template <class M, class D>
ReplacedBoxes<D> remember(const M& old, const D& data, const RememberOptions& options = {}) {
  for (const double x : {options.threshold, options.overlap})
    if (!(x >= 0.0 && x <= 1.0))
      throw OptionError(detail::text("a threshold of what is remembered must be in [0, 1], not ", x));
  const Labels have = data.labels();
  Labels fresh;
  for (const std::string& label : have)
    if (std::find(old.labels().begin(), old.labels().end(), label) == old.labels().end()) fresh.push_back(label);
  const Labels labels = with_more(old.labels(), fresh);
  std::vector<Tensor> boxes;
  detail::for_all_batches(data, [&](const Batch& batch) {
    const auto found = old.predict(batch, options.precision);
    const std::vector<Tensor> marked = detail::boxes_by_picture(batch);
    for (std::size_t i = 0; i < marked.size(); ++i) {
      const Detections sure = surer_than(found.at(i), options.threshold);
      std::vector<Tensor> all{detail::relabelled(marked[i], have, labels)};
      if (sure.size() > 0) {
        const auto row = static_cast<Index>(i);
        const double height = batch.sizes[row][0].template item<double>(),
                     width = batch.sizes[row][1].template item<double>();
        Tensor corners = sure.boxes.to(at::kCPU, at::kFloat).clone();
        for (const Index side : {0, 1, 2, 3}) corners.select(1, side).clamp_(0.0, side % 2 == 0 ? width : height);
        Tensor keep =
            corners.select(1, 2).gt(corners.select(1, 0)).logical_and(corners.select(1, 3).gt(corners.select(1, 1)));
        if (marked[i].size(0) > 0) {
          const Tensor theirs = convert_boxes(marked[i].narrow(1, 1, 4), BoxForm::xywh, BoxForm::xyxy);
          keep = keep.logical_and(box_overlaps(corners, theirs).amax(1).le(options.overlap));
        }
        all.push_back(at::cat({sure.labels.to(at::kCPU, at::kFloat).unsqueeze(1),
                               convert_boxes(corners, BoxForm::xyxy, BoxForm::xywh)},
                              1)
                          .index({keep}));
      }
      boxes.push_back(at::cat(all));
    }
  });
  return {data, labels, std::move(boxes)};
}

namespace detail {

/// \throws OptionError if `all` does not begin with `old` and go on
TRANSFERLIB_API void check_more(const Labels& old, const Labels& all);

}  // namespace detail

/// A detector with more classes, and the old one that tells it in training what it knew: see the file. It is the
/// detector that it was made of in all but that; `save`, `predict` and what takes a `Detector` see that one alone.
/// Where layers are frozen they are so in both, and computed once.
template <class M>
class Keeping {
  static_assert(
      sizeof(M) == 0,
      "transferlib: Keeping takes a Detector whose head can be taught by an old one (KeepingHead: Yolo, YoloX, or "
      "AnyHead<Boxes> of one), as add_classes gives it; others learn by remember(old, data)");

 public:
  template <class... A>
  explicit Keeping(const A&...) {}
};

/// The body for detectors whose heads can.
template <class N, class K, KeepingHead H>
class Keeping<Detector<N, K, H>> : public Detector<N, K, H> {
  using Base = Detector<N, K, H>;

 public:
  /// The detector's own, and, in training, the old one's.
  struct Output {
    typename H::Output own;
    std::optional<typename H::Output> old;
  };

  /// \param more what is trained, of `add_classes(old, …)` \param old is copied
  /// \throws OptionError if `more` has not the old one's classes first, or a head that can't be taught
  Keeping(Base more, const Base& old) : Base(std::move(more)), old_(clone(old)) {
    detail::check_more(old.labels(), this->labels());
    if constexpr (requires(const H& head) { head.can_keep(); })
      if (!this->head().can_keep())
        throw OptionError(
            "this head can't be taught by an old one; teach it what the old one is sure of: remember(old, data)");
    follow();
  }

  /// The detector that tells what it knew.
  const Base& old() const { return old_; }

  /// Freezes anew, the old detector's layers too.
  template <FreezeRule R>
  void refreeze(const FreezePolicy<R>& policy) {
    Base::refreeze(policy);
    follow();
  }

  /// Moves both. \throws DeviceError if the device is not there
  void to(const torch::Device& device) {
    Base::to(device);
    old_.to(device);
  }

  /// Everything behind the cut: from the values that cross it to the outputs of the heads.
  Output above_cut(const Activations& crossing, const Pass& pass) {
    Output out{Base::above_cut(crossing, pass), {}};
    if (pass.training) {
      const torch::NoGradGuard guard;
      out.old = old_.above_cut(crossing, Pass{});
    }
    return out;
  }

  /// In training that of `KeepingHead`, else the head's own. \param batch in training, boxes of the new classes, and of
  /// the old ones as far as they are marked
  LossTerms loss(const Output& y, const Batch& batch) {
    return y.old ? this->head().loss_keeping(y.own, batch, *y.old) : Base::loss(y.own, batch);
  }

  template <class Metric>
  void score(Metric& metric, const Output& y, const Batch& batch) {
    Base::score(metric, y.own, batch);
  }

  /// What a run depends on besides the detector.
  std::string lesson() const { return detail::text("keeps ", hash_of(old_.state())); }

  /// An independent copy.
  Keeping copy() const { return {Base::copy(), old_}; }

 private:
  /// The same layers are frozen in both, so that the same values cross the cut.
  void follow() {
    old_.refreeze(FreezePolicy<FreezeMask>{{this->frozen()}});
    detail::set_mode(old_.backbone_core(), false);
  }

  Base old_;
};

template <class M>
Keeping(M, M) -> Keeping<M>;

/// An independent copy of both.
template <class N, class K, class H>
Keeping<Detector<N, K, H>> clone(const Keeping<Detector<N, K, H>>& model) {
  return model.copy();
}

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API Labels with_more(Labels labels, const Labels& more) {
  if (more.empty()) throw OptionError("no class was given that the detector is to learn");
  for (const std::string& label : more) {
    if (std::find(labels.begin(), labels.end(), label) != labels.end())
      throw OptionError(detail::text("the class ", detail::in_quotes(label),
                                     " can't be added: it is there already; the classes are ",
                                     detail::first_few(labels)));
    labels.push_back(label);
  }
  return labels;
}

}  // namespace transferlib

namespace transferlib::detail {

TRANSFERLIB_API void check_more(const Labels& old, const Labels& all) {
  if (all.size() <= old.size() || !std::equal(old.begin(), old.end(), all.begin()))
    throw OptionError(text("a detector of ", first_few(all), " does not know ", first_few(old),
                           " and more; make it of the old one by add_classes"));
}

}  // namespace transferlib::detail

#endif  // TRANSFERLIB_DEFINES

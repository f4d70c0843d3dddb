/// \file
/// The anchor-based YOLO head: a 1 x 1 convolution on each map of a pyramid, whose numbers are boxes beside anchors.
/// One head for versions 2, 3, 4, 5 and 7, which differ by its options; see docs/yolo.md.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/detect/selection.hpp>
#include <transferlib/heads/yolo_decode.hpp>
#include <transferlib/heads/yolo_loss.hpp>
#include <transferlib/heads/yolo_options.hpp>
#include <transferlib/metrics/detection.hpp>
#include <transferlib/nn/modules.hpp>

namespace transferlib {

/// Parameters `0.weight`, `0.bias`, `1.weight` …, the finest map's first: of A anchors and C classes, (A (5 + C), in,
/// 1, 1). An anchor's numbers lie together: x, y, width, height, objectness, the classes; as in darknet's last
/// convolution before `[yolo]` or `[region]`. An auxiliary head's are `auxiliary.0.weight` ….
class Yolo : public Module {
 public:
  using Input = Pyramid;
  using Output = std::vector<Tensor>;  ///< (N, A (5 + C), h, w) of each map; then those of the auxiliary head
  using Target = Boxes;
  using Prediction = std::vector<Detections>;
  using Metric = BoxAveragePrecision;
  using Options = YoloOptions;

  /// With an auxiliary head the pyramid may have twice as many maps: the second half is the auxiliary head's.
  /// \throws OptionError where anchors, sensitivities or balances don't suit the maps
  Yolo(const FeatureSpec& features, const Options& options);

  /// From a pyramid to the numbers of all its places, float32 whatever the maps' precision; the auxiliary head's only
  /// in training.
  Output forward(const Activations& pyramid, const Pass& pass);

  /// The terms "box", "objectness" and "class". \throws DataError for a target that is not of `Boxes`
  LossTerms loss(const Output& maps, const Batch& batch);

  /// The terms of `loss` while an old head for the first of the classes, with the same anchors, keeps what it knows
  /// (`Keeping`): what is to find no marked object should be as sure as the old head was that it finds one, and, as far
  /// as it was sure, have its box and its classes: the term "kept".
  /// \param batch boxes of the new classes, and of the others as far as they are marked
  /// \param old its maps of the same pictures, without its auxiliary ones
  /// \throws OptionError if the maps are not those of such a head
  LossTerms loss_keeping(const Output& maps, const Batch& batch, const Output& old);

  /// The objects of each picture: a score is objectness times the class's.
  Prediction predict(const Output& maps);

  /// The options; thresholds may be changed between predictions.
  Options& options() { return options_; }
  const Options& options() const { return options_; }

 private:
  void check(const FeatureSpec& f) const;

  /// As if 8 objects of 640 x 640 pixels were found at once, each of one of the classes, as v5 begins: without it the
  /// first steps are spent on learning that most places show nothing.
  void start_bias(Tensor& bias, Index anchors, double stride) const;

  std::vector<detail::YoloLevel> levels_of(const Output& maps, std::size_t first) const;
  detail::YoloTerms terms(const Output& maps, const Batch& batch, const std::vector<detail::YoloLevel>& old) const;

  Options options_;
  Index classes_ = 0;
  std::size_t first_ = 0;  // of the maps that are used
  std::vector<std::shared_ptr<nn::Conv2d>> convolutions_;
  std::vector<std::size_t> maps_;  // which map of the pyramid each looks at
  std::vector<detail::BoxCode> codes_;
  std::vector<Tensor> anchors_;
};

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API Yolo::Yolo(const FeatureSpec& features, const Options& options)
    : Module("Yolo"), options_(options), classes_(features.classes) {
  check(features);
  const std::size_t count = options_.anchors.size();
  const std::size_t heads = options_.auxiliary ? 2 : 1;
  // The coarsest maps of a longer pyramid.
  const std::size_t twice = features.channels.size() == 2 * count ? heads : 1;
  first_ = features.channels.size() - twice * count;
  std::uint64_t number = 0;
  for (std::size_t h = 0; h < heads; ++h) {
    Module* parent = this;
    std::shared_ptr<Module> group;
    if (h == 1) {
      group = register_module("auxiliary", std::make_shared<Module>("Auxiliary"));
      parent = group.get();
    }
    for (std::size_t l = 0; l < count; ++l) {
      const std::size_t map = first_ + (h * count + l) % (twice * count);
      const Index anchors = static_cast<Index>(options_.anchors[l].size());
      auto conv = std::make_shared<nn::Conv2d>(
          nn::Conv2dOptions{.in = features.channels[map], .out = anchors * (5 + classes_), .bias = true});
      detail::kaiming_uniform(conv->weight, options.seed, ++number);
      start_bias(conv->bias, anchors, static_cast<double>(features.strides[first_ + l]));
      convolutions_.push_back(parent->register_module(std::to_string(l), std::move(conv)));
      maps_.push_back(map);
    }
  }
  for (std::size_t l = 0; l < count; ++l) {
    codes_.push_back({static_cast<double>(features.strides[first_ + l]), detail::of_level(options_.grid_sensitivity, l),
                      options_.sizes});
    anchors_.push_back(anchor_tensor(options_.anchors[l]));
  }
}

TRANSFERLIB_API Yolo::Output Yolo::forward(const Activations& pyramid, const Pass& pass) {
  const std::size_t used = pass.training ? convolutions_.size() : anchors_.size();
  Output out;
  for (std::size_t i = 0; i < used; ++i)
    out.push_back(convolutions_[i]->forward(pyramid.at(maps_[i]).to(convolutions_[i]->weight.scalar_type())));
  return out;
}

TRANSFERLIB_API LossTerms Yolo::loss(const Output& maps, const Batch& batch) {
  const detail::YoloTerms t = terms(maps, batch, {});
  return {{{"box", t.box}, {"objectness", t.objectness}, {"class", t.classes}}};
}

TRANSFERLIB_API LossTerms Yolo::loss_keeping(const Output& maps, const Batch& batch, const Output& old) {
  bool same = old.size() >= anchors_.size();
  for (std::size_t l = 0; same && l < anchors_.size(); ++l) {
    const Index anchors = anchors_[l].size(0), numbers = old[l].size(1);
    same = numbers % anchors == 0 && numbers > 5 * anchors && numbers <= maps.at(l).size(1) &&
           old[l].size(0) == maps[l].size(0) && old[l].sizes().slice(2) == maps[l].sizes().slice(2);
  }
  if (!same)
    throw OptionError(
        "what an old head found is kept by a head with its maps and anchors and no fewer classes; make it by "
        "add_classes");
  auto before = levels_of(old, 0);
  for (detail::YoloLevel& l : before) l.values = l.values.detach();
  const detail::YoloTerms t = terms(maps, batch, before);
  return {{{"box", t.box}, {"objectness", t.objectness}, {"class", t.classes}, {"kept", t.kept}}};
}

TRANSFERLIB_API detail::YoloTerms Yolo::terms(const Output& maps, const Batch& batch,
                                              const std::vector<detail::YoloLevel>& old) const {
  const auto levels = levels_of(maps, 0);
  const Objects objects = objects_of(batch, classes_, levels.front().values);
  if (objects.pictures != maps[0].size(0))
    throw DataError(detail::text("the target is of ", objects.pictures, " pictures, the output of ", maps[0].size(0)));
  detail::YoloTerms t = detail::yolo_loss(levels, detail::match_yolo(levels, objects, options_, options_.cell_reach),
                                          objects, options_, old);
  if (maps.size() > levels.size()) {
    const auto matches = detail::match_yolo(levels, objects, options_, options_.auxiliary_cell_reach);
    const auto a = detail::yolo_loss(levels_of(maps, levels.size()), matches, objects, options_, old);
    const double w = options_.auxiliary_weight;
    t = {t.box + a.box * w, t.objectness + a.objectness * w, t.classes + a.classes * w,
         old.empty() ? Tensor() : t.kept + a.kept * w};
  }
  return t;
}

TRANSFERLIB_API Yolo::Prediction Yolo::predict(const Output& maps) {
  const torch::NoGradGuard guard;
  std::vector<Tensor> pictures, boxes, scores;
  for (const detail::YoloLevel& l : levels_of(maps, 0)) {
    // No score is above objectness: most places are left out before anything else is computed.
    const Tensor sure = l.values.select(-1, 4).sigmoid();
    const Tensor where = sure.gt(options_.selection.score_threshold).nonzero();
    const Matches m{where.select(1, 0), where.select(1, 3), where.select(1, 1), where.select(1, 2), {}};
    const Tensor p = l.at_matches(m), classes = p.narrow(1, 5, classes_);
    pictures.push_back(m.picture);
    boxes.push_back(detail::to_corners(l.boxes(m, p)));
    scores.push_back(p.narrow(1, 4, 1).sigmoid() *
                     (options_.classes == ClassRelation::softmax ? classes.softmax(1) : classes.sigmoid()));
  }
  const Tensor picture = at::cat(pictures), box = at::cat(boxes), score = at::cat(scores);
  Prediction out;
  for (Index n = 0; n < maps.at(0).size(0); ++n) {
    const Tensor mine = picture.eq(n).nonzero().select(1, 0);
    out.push_back(select_detections(box.index_select(0, mine), score.index_select(0, mine), options_.selection));
  }
  return out;
}

TRANSFERLIB_API void Yolo::check(const FeatureSpec& f) const {
  using detail::text;
  const std::size_t count = options_.anchors.size();
  if (count == 0 || f.channels.size() < count || f.strides.size() != f.channels.size())
    throw OptionError(text("a YOLO head with anchors for ", count, " maps stands on a pyramid of ", f.channels.size(),
                           "; give .anchors of one map, or as many as there are"));
  for (const Anchors& level : options_.anchors) {
    if (level.empty()) throw OptionError("a map of the YOLO head has no anchors; each needs one at least");
    for (const AnchorSize& a : level)
      if (!(a.width > 0.0 && a.height > 0.0))
        throw OptionError(text("an anchor has the size ", a.width, " x ", a.height, "; both sides must be above 0"));
  }
  for (const auto& [values, what, least] :
       {std::tuple{&options_.grid_sensitivity, "grid_sensitivity", 1.0}, {&options_.balance, "balance", 0.0}}) {
    if (values->size() != 1 && values->size() != count)
      throw OptionError(text(what, " has ", values->size(), " values; give one, or one for each of ", count, " maps"));
    for (const double v : *values)
      if (!(v >= least)) throw OptionError(text(what, " must be at least ", least, ", not ", v));
  }
  if (f.classes < 1) throw OptionError("a YOLO head needs a class at least");
  detail::check_ratio(options_.anchor_ratio);
  if (!(options_.label_smoothing >= 0.0 && options_.label_smoothing < 1.0))
    throw OptionError(text("label_smoothing must be in [0, 1), not ", options_.label_smoothing));
  if (options_.classes == ClassRelation::softmax && options_.matching == Matching::simota)
    throw OptionError("SimOTA weighs independent classes; set .classes = ClassRelation::logistic");
  for (const double reach : {options_.cell_reach, options_.auxiliary_cell_reach})
    if (!(reach >= 0.0 && reach <= 1.0))
      throw OptionError(text("a reach into neighbouring cells must be in [0, 1], not ", reach));
  detail::check_selection(options_.selection);
}

TRANSFERLIB_API void Yolo::start_bias(Tensor& bias, Index anchors, double stride) const {
  const torch::NoGradGuard guard;
  const double places = (640.0 / stride) * (640.0 / stride);
  Tensor b = bias.zero_().view({anchors, 5 + classes_});
  b.select(1, 4).fill_(std::log(8.0 / places));
  if (options_.classes == ClassRelation::logistic)
    b.narrow(1, 5, classes_).fill_(std::log(0.6 / (static_cast<double>(classes_) - 0.99999)));
}

TRANSFERLIB_API std::vector<detail::YoloLevel> Yolo::levels_of(const Output& maps, std::size_t first) const {
  std::vector<detail::YoloLevel> out;
  for (std::size_t l = 0; l < anchors_.size(); ++l) {
    const Tensor map = detail::exact(maps.at(first + l));
    out.push_back({detail::by_place(map, anchors_[l].size(0)), anchors_[l].to(map.options()), codes_[l]});
  }
  return out;
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

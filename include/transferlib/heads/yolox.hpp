/// \file
/// YOLOX's head (Ge et al., "YOLOX: exceeding YOLO series in 2021"): no anchors, classes and boxes in branches of their
/// own, and SimOTA, which lets each object take the predictions that suit it best.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/detect/assign.hpp>
#include <transferlib/detect/boxes.hpp>
#include <transferlib/detect/selection.hpp>
#include <transferlib/heads/yolo_decode.hpp>
#include <transferlib/metrics/detection.hpp>
#include <transferlib/nn/modules.hpp>
#include <transferlib/nn/yolo_blocks.hpp>

namespace transferlib {

/// One prediction a place. Parameters as the original's: `stems.0.conv.weight`, `cls_convs.0.0 …`, `reg_convs.0.0 …`,
/// `cls_preds.0.weight`, `reg_preds.0 …`, `obj_preds.0 …`, the finest map's first.
class YoloX : public Module {
 public:
  using Input = Pyramid;
  /// (N, 5 + classes, h, w) of each map: x, y, width, height, objectness, the classes, as the convolutions give them.
  using Output = std::vector<Tensor>;
  using Target = Boxes;
  using Prediction = std::vector<Detections>;
  using Metric = BoxAveragePrecision;
  struct Options {
    Index width = 256;       ///< channels of the branches; YOLOX-nano 64, tiny 96, s 128
    bool separable = false;  ///< convolutions of the branches channel by channel, as in YOLOX-nano
    double radius = 1.5;     ///< how near, in cells, the cells that may find an object are to its centre
    OtaOptions ota{};
    double box_weight = 5.0, objectness_weight = 1.0, class_weight = 1.0;
    Activation activation = Activation::silu;
    Selection selection{};
    std::uint64_t seed = 0;
  };

  YoloX(const FeatureSpec& features, const Options& options);

  Output forward(const Activations& pyramid, const Pass& pass);

  /// "box" (1 - IoU²), "objectness", "class" (sure of the class as far as the boxes overlap), summed and divided by how
  /// many predictions are to find an object.
  LossTerms loss(const Output& maps, const Batch& batch);

  /// The terms of `loss` while an old head for the first of the classes keeps what it knows, as `Yolo::loss_keeping`.
  /// \throws OptionError if the maps are not those of such a head
  LossTerms loss_keeping(const Output& maps, const Batch& batch, const Output& old);

  Prediction predict(const Output& maps);

  /// The options; thresholds may be changed between predictions.
  Options& options() { return options_; }

 private:
  struct Level {
    std::shared_ptr<nn::Block> stem;
    std::shared_ptr<nn::Chain> cls_conv, reg_conv;
    std::shared_ptr<nn::Conv2d> cls_pred, reg_pred, obj_pred;
    double stride = 1.0;
  };
  struct Decoded {
    Tensor values;   // (N, P, 5 + classes), all places of all maps
    Tensor boxes;    // (N, P, 4) corners
    Tensor centres;  // (P, 2) of the cells, in pixels
    Tensor reach;    // (P) in pixels
  };

  struct Terms {
    Tensor box, objectness, classes, kept;
  };

  Decoded decode(const Output& maps) const;
  Terms terms(const Output& maps, const Batch& batch, const Output* before) const;

  /// SimOTA in picture `n`, among the cells that are near the centre of any object.
  OtaMatches match(const Decoded& d, Index n, const Objects& objects, const Tensor& mine, const Tensor& truth) const;

  Options options_;
  Index classes_ = 0;
  std::vector<Level> levels_;
};

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API YoloX::YoloX(const FeatureSpec& features, const Options& options)
    : Module("YoloX"), options_(options), classes_(features.classes) {
  const Options& o = options;
  if (features.channels.empty() || features.strides.size() != features.channels.size() || features.classes < 1 ||
      o.width < 1)
    throw OptionError("a YOLOX head needs a map, a class and a channel at least");
  if (!(o.radius > 0.0) || o.ota.most < 1)
    throw OptionError(detail::text("YOLOX's radius (", o.radius, ") and ota.most (", o.ota.most, ") must be above 0"));
  detail::check_selection(o.selection);
  const auto list = [&](const char* name) { return register_module(name, std::make_shared<Module>(name)); };
  const auto stems = list("stems"), cls_convs = list("cls_convs"), reg_convs = list("reg_convs"),
             cls_preds = list("cls_preds"), reg_preds = list("reg_preds"), obj_preds = list("obj_preds");
  const auto branch = [&] {
    auto chain = std::make_shared<nn::Chain>();
    for (int i = 0; i < 2; ++i)
      chain->add(nn::conv_block({.in = o.width, .out = o.width, .kernel = 3, .activation = o.activation}, o.separable));
    return chain;
  };
  const auto last = [&](Index out) {
    return std::make_shared<nn::Conv2d>(nn::Conv2dOptions{.in = o.width, .out = out, .bias = true});
  };
  for (std::size_t l = 0; l < features.channels.size(); ++l) {
    const std::string name = std::to_string(l);
    Level level;
    level.stride = static_cast<double>(features.strides[l]);
    level.stem = stems->register_module(
        name, nn::conv_block({.in = features.channels[l], .out = o.width, .activation = o.activation}));
    level.cls_conv = cls_convs->register_module(name, branch());
    level.reg_conv = reg_convs->register_module(name, branch());
    level.cls_pred = cls_preds->register_module(name, last(classes_));
    level.reg_pred = reg_preds->register_module(name, last(4));
    level.obj_pred = obj_preds->register_module(name, last(1));
    levels_.push_back(std::move(level));
  }
  detail::start_convolutions(*this, o.seed);
  std::uint64_t number = 1 << 20;
  for (Level& l : levels_) {
    for (nn::Conv2d* conv : {l.cls_pred.get(), l.reg_pred.get(), l.obj_pred.get()})
      detail::kaiming_uniform(conv->weight, o.seed, ++number);
    // As if a hundredth of the places showed an object of each class.
    const torch::NoGradGuard guard;
    l.cls_pred->bias.fill_(-std::log(99.0));
    l.obj_pred->bias.fill_(-std::log(99.0));
  }
}

TRANSFERLIB_API YoloX::Output YoloX::forward(const Activations& pyramid, const Pass& pass) {
  Output out;
  for (std::size_t i = 0; i < levels_.size(); ++i) {
    const Level& l = levels_[i];
    const Tensor x = l.stem->forward(pyramid.at(i).to(l.cls_pred->weight.scalar_type()), pass.training);
    const Tensor boxes = l.reg_conv->forward(x, pass.training);
    out.push_back(at::cat({l.reg_pred->forward(boxes), l.obj_pred->forward(boxes),
                           l.cls_pred->forward(l.cls_conv->forward(x, pass.training))},
                          1));
  }
  return out;
}

TRANSFERLIB_API LossTerms YoloX::loss(const Output& maps, const Batch& batch) {
  const Terms t = terms(maps, batch, nullptr);
  return {{{"box", t.box}, {"objectness", t.objectness}, {"class", t.classes}}};
}

TRANSFERLIB_API LossTerms YoloX::loss_keeping(const Output& maps, const Batch& batch, const Output& old) {
  bool same = old.size() == maps.size();
  for (std::size_t l = 0; same && l < maps.size(); ++l)
    same = old[l].size(1) > 5 && old[l].size(1) <= maps[l].size(1) && old[l].size(0) == maps[l].size(0) &&
           old[l].sizes().slice(2) == maps[l].sizes().slice(2);
  if (!same)
    throw OptionError(
        "what an old head found is kept by a head with its maps and no fewer classes; make it by add_classes");
  const Terms t = terms(maps, batch, &old);
  return {{{"box", t.box}, {"objectness", t.objectness}, {"class", t.classes}, {"kept", t.kept}}};
}

TRANSFERLIB_API YoloX::Terms YoloX::terms(const Output& maps, const Batch& batch, const Output* before) const {
  const Decoded d = decode(maps);
  const Index n = d.values.size(0);
  const Objects objects = objects_of(batch, classes_, d.values);
  if (objects.pictures != n)
    throw DataError(detail::text("the target is of ", objects.pictures, " pictures, the output of ", n));
  const Tensor truth = detail::to_corners(objects.boxes);
  std::vector<Tensor> places, whose, overlaps;
  {
    const torch::NoGradGuard guard;
    for (Index i = 0; i < n; ++i) {
      const Tensor mine = objects.picture.eq(i).nonzero().select(1, 0);
      if (mine.size(0) == 0) continue;
      const OtaMatches m = match(d, i, objects, mine, truth);
      places.push_back(m.candidate + i * d.values.size(1));
      whose.push_back(mine.index_select(0, m.object));
      overlaps.push_back(m.overlap);
    }
  }
  const Tensor none = at::empty({0}, objects.label.options());
  const Tensor place = places.empty() ? none : at::cat(places), object = whose.empty() ? none : at::cat(whose);
  const Tensor overlap = overlaps.empty() ? at::empty({0}, d.values.options()) : at::cat(overlaps);
  const Tensor flat = d.values.flatten(0, 1), p = flat.index_select(0, place);
  const Tensor iou = paired_overlaps(d.boxes.flatten(0, 1).index_select(0, place), truth.index_select(0, object));
  const Tensor wanted = at::zeros({place.size(0), classes_}, flat.options())
                            .scatter_(1, objects.label.index_select(0, object).unsqueeze(1), overlap.unsqueeze(1));
  const auto logistic = [](const Tensor& x, const Tensor& y) {
    return at::binary_cross_entropy_with_logits(x, y, {}, {}, at::Reduction::Sum);
  };
  Tensor sure = at::zeros({flat.size(0)}, flat.options()), kept, of_old = at::zeros({}, flat.options());
  if (before != nullptr) {
    constexpr double least = 0.01;  // what is less sure would move nothing, and is most of the map
    const Decoded was = decode(*before);
    const Tensor said = was.values.flatten(0, 1).detach();
    sure = said.select(1, 4).sigmoid();
    const Tensor weights = sure.index_fill(0, place, 0.0), where = weights.gt(least).nonzero().select(1, 0);
    const Tensor weight = weights.index_select(0, where),
                 q = said.index_select(0, where).narrow(1, 5, said.size(1) - 5);
    of_old = weight.sum();
    const Tensor near = paired_overlaps(d.boxes.flatten(0, 1).index_select(0, where),
                                        was.boxes.flatten(0, 1).index_select(0, where).detach());
    const Tensor kinds = at::cat({q.sigmoid(), q.new_zeros({q.size(0), classes_ - q.size(1)})}, 1);
    const Tensor off = at::binary_cross_entropy_with_logits(flat.index_select(0, where).narrow(1, 5, classes_), kinds,
                                                            {}, {}, at::Reduction::None);
    kept = ((weight * (1.0 - near.square())).sum() * options_.box_weight +
            (weight * off.sum(1)).sum() * options_.class_weight) /
           of_old.clamp_min(1.0);
  }
  sure.index_fill_(0, place, 1.0);
  const double found = static_cast<double>(std::max<Index>(place.size(0), 1));
  const auto term = [&](const Tensor& sum, double weight) { return sum * (weight / found); };
  // Places of both kinds are among those of which it should be sure.
  return {term((1.0 - iou.square()).sum(), options_.box_weight),
          logistic(flat.select(1, 4), sure) * options_.objectness_weight / (of_old + found),
          term(logistic(p.narrow(1, 5, classes_), wanted), options_.class_weight), kept};
}

TRANSFERLIB_API YoloX::Prediction YoloX::predict(const Output& maps) {
  const torch::NoGradGuard guard;
  const Decoded d = decode(maps);
  Prediction out;
  for (Index n = 0; n < d.values.size(0); ++n) {
    const Tensor sure = d.values[n].select(1, 4).sigmoid();
    const Tensor which = sure.gt(options_.selection.score_threshold).nonzero().select(1, 0);
    const Tensor classes = d.values[n].narrow(1, 5, classes_).index_select(0, which).sigmoid();
    out.push_back(select_detections(d.boxes[n].index_select(0, which),
                                    sure.index_select(0, which).unsqueeze(1) * classes, options_.selection));
  }
  return out;
}

TRANSFERLIB_API YoloX::Decoded YoloX::decode(const Output& maps) const {
  std::vector<Tensor> values, boxes, centres, reach;
  for (std::size_t i = 0; i < levels_.size(); ++i) {
    const double stride = levels_[i].stride;
    const Tensor v = detail::exact(maps.at(i)).permute({0, 2, 3, 1});
    const Tensor grid = detail::cell_grid(v.size(1), v.size(2), v.options());
    const Tensor centre = (v.narrow(3, 0, 2) + grid) * stride;
    const Tensor size = v.narrow(3, 2, 2).clamp_max(10.0).exp() * stride;
    values.push_back(v.flatten(1, 2));
    boxes.push_back(detail::to_corners(at::cat({centre, size}, 3)).flatten(1, 2));
    centres.push_back(((grid + 0.5) * stride).flatten(0, 1));
    reach.push_back(at::full({grid.size(0) * grid.size(1)}, stride * options_.radius, v.options()));
  }
  return {at::cat(values, 1), at::cat(boxes, 1), at::cat(centres), at::cat(reach)};
}

TRANSFERLIB_API OtaMatches YoloX::match(const Decoded& d, Index n, const Objects& objects, const Tensor& mine,
                                        const Tensor& truth) const {
  const Tensor middle = objects.boxes.index_select(0, mine).narrow(1, 0, 2);
  Tensor near = at::zeros({d.centres.size(0)}, at::TensorOptions(at::kBool).device(middle.device()));
  const Index piece = std::max<Index>(1, (Index{1} << 21) / near.size(0));
  for (const Tensor& some : middle.split(piece))
    near.logical_or_((some.unsqueeze(1) - d.centres).abs().amax(-1).lt(d.reach).any(0));
  const Tensor places = near.nonzero().select(1, 0);
  const Tensor v = d.values[n].index_select(0, places);
  const Tensor sure = (v.narrow(1, 5, classes_).sigmoid() * v.narrow(1, 4, 1).sigmoid()).sqrt();
  OtaMatches m = match_ota(
      {d.boxes[n].index_select(0, places), sure, d.centres.index_select(0, places), d.reach.index_select(0, places)},
      truth.index_select(0, mine), objects.label.index_select(0, mine), options_.ota);
  m.candidate = places.index_select(0, m.candidate);
  return m;
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

/// \file
/// The second stage of a two-stage detector (Girshick, "Fast R-CNN", ICCV 2015): every proposal is pooled from the maps
/// and gets a class and, for each class, a box. Names, losses and defaults are torchvision's.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <ATen/ATen.h>

#include <transferlib/core/error.hpp>
#include <transferlib/core/parallel.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/detect/assign.hpp>
#include <transferlib/detect/box_coder.hpp>
#include <transferlib/detect/boxes.hpp>
#include <transferlib/detect/detections.hpp>
#include <transferlib/detect/matcher.hpp>
#include <transferlib/detect/nms.hpp>
#include <transferlib/detect/placement.hpp>
#include <transferlib/detect/proposals.hpp>
#include <transferlib/detect/roi_align.hpp>
#include <transferlib/heads/region_proposal.hpp>
#include <transferlib/metrics/detection.hpp>
#include <transferlib/nn/modules.hpp>

namespace transferlib {

/// See the file. Two linear layers (`box_head.fc6`, `.fc7`) or, with `convolutions`, these with batch norm and one
/// linear layer (`box_head.0.0`, `.0.1` … `.5`); then `box_predictor.cls_score` and `.bbox_pred`, whose class 0 is the
/// background.
class RoI final : public Module {
 public:
  using Target = Boxes;
  using Prediction = std::vector<Detections>;
  using Metric = BoxAveragePrecision;

  struct Options {
    Index width = 1024;  ///< of the linear layers
    Index places = 7;    ///< of a pooled box, on each side
    Index sampling = 2;  ///< see `RoiOptions`
    RoiPooling pooling = RoiPooling::align;
    /// Boxes are pooled from maps of up to so many pixels a place; the finest map counts in any case.
    Index coarsest = 32;
    std::vector<Index> convolutions{};  ///< the channels of 3x3 convolutions with batch norm before the linear layers
    MatchOptions match{.positive = 0.5, .negative = 0.5, .low_quality = false};
    Index samples = 512;                                  ///< proposals of a picture that a step learns from
    double positive_fraction = 0.25;                      ///< of these at most
    std::array<double, 4> weights{10.0, 10.0, 5.0, 5.0};  ///< of the boxes' codes; see `BoxCoder`
    double score_threshold = 0.05;                        ///< in [0, 1]; a detection's score is above
    double overlap_threshold = 0.5;  ///< in [0, 1]: above, the less sure of two boxes of a class goes
    Index most = 100;                ///< detections of a picture
    std::uint64_t seed = 0;          ///< what the start weights are drawn from
  };

  /// Its answers for K boxes.
  struct Output {
    Tensor logits;  ///< (K, classes + 1), the background first
    Tensor codes;   ///< (K, classes + 1, 4)
  };

  /// \throws OptionError
  RoI(const FeatureSpec& features, const Options& options);

  const Options& options() const { return options_; }

  /// \param maps (N, C, h_i, w_i), finest first; the coarsest need not be there
  /// \param boxes of each picture, (K_i, 4) in pixels of the network's input
  Output forward(const Activations& maps, std::span<const Tensor> boxes, const Pass& pass) const;

  /// `loss_classifier`, cross entropy of the sampled proposals, and `loss_box_reg`, smooth L1 of the positive ones
  /// among them. The true boxes are proposals too. \param truth in pixels of the network's input
  LossTerms loss(const Activations& maps, const std::vector<Detections>& proposals, const Objects& truth,
                 const Pass& pass) const;

  /// The detections of each picture, the surest first, in pixels of the network's input.
  /// \param pictures see `filter_proposals`
  Prediction predict(const Activations& maps, const std::vector<Detections>& proposals,
                     std::span<const PixelSize> pictures) const;

 private:
  Options options_;
  BoxCoder coder_;
  Index classes_;
  std::vector<Index> strides_;
  std::vector<std::pair<std::shared_ptr<nn::Conv2d>, std::shared_ptr<nn::BatchNorm2d>>> convolutions_;
  std::vector<std::shared_ptr<nn::Linear>> linears_;
  std::shared_ptr<nn::Linear> scores_, codes_;
};

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API RoI::RoI(const FeatureSpec& features, const Options& options)
    : Module("RoI"), options_(options), coder_{.weights = options.weights}, classes_(features.classes) {
  const Options& o = options;
  if (o.width < 1 || o.places < 1 || o.most < 1)
    throw OptionError(detail::text("RoI needs a width, places and detections of at least 1, not ", o.width, ", ",
                                   o.places, " and ", o.most));
  detail::check_threshold(o.score_threshold, "RoI's score_threshold");
  detail::check_threshold(o.overlap_threshold, "RoI's overlap_threshold");
  for (const double w : o.weights)
    if (!(w > 0.0)) throw OptionError(detail::text("a weight of RoI's codes must be above 0, not ", w));
  for (const Index stride : features.strides)
    if (strides_.empty() || stride <= o.coarsest) strides_.push_back(stride);
  const auto head = register_module("box_head", std::make_shared<Module>("BoxHead"));
  const auto predictor = register_module("box_predictor", std::make_shared<Module>("FastRCNNPredictor"));
  std::uint64_t number = 0;
  const auto linear = [&](Module& parent, const std::string& name, Index in, Index out) {
    auto layer = parent.register_module(name, std::make_shared<nn::Linear>(in, out));
    detail::kaiming_uniform(layer->weight, o.seed, ++number);
    detail::uniform_bias(layer->bias, in, o.seed, ++number);
    return layer;
  };
  Index channels = features.channels.at(0), place = 0;
  for (const Index out : o.convolutions) {
    const auto block = head->register_module(std::to_string(place++), std::make_shared<Module>("Sequential"));
    convolutions_.emplace_back(block->register_module("0", std::make_shared<nn::Conv2d>(nn::Conv2dOptions{
                                                               .in = channels, .out = out, .kernel = 3, .padding = 1})),
                               block->register_module("1", std::make_shared<nn::BatchNorm2d>(out)));
    detail::draw_normal(convolutions_.back().first->weight, std::sqrt(2.0 / static_cast<double>(9 * out)), o.seed,
                        ++number);
    channels = out;
  }
  const Index flat = channels * o.places * o.places;
  if (convolutions_.empty()) {
    linears_ = {linear(*head, "fc6", flat, o.width), linear(*head, "fc7", o.width, o.width)};
  } else {
    linears_ = {linear(*head, std::to_string(place + 1), flat, o.width)};
  }
  scores_ = linear(*predictor, "cls_score", o.width, classes_ + 1);
  codes_ = linear(*predictor, "bbox_pred", o.width, 4 * (classes_ + 1));
}

TRANSFERLIB_API RoI::Output RoI::forward(const Activations& maps, std::span<const Tensor> boxes,
                                         const Pass& pass) const {
  const Activations pooled(maps.begin(), maps.begin() + static_cast<std::ptrdiff_t>(strides_.size()));
  Tensor x = pool_boxes(pooled, strides_, boxes,
                        {.height = options_.places, .width = options_.places, .sampling = options_.sampling},
                        options_.pooling);
  for (const auto& [convolution, norm] : convolutions_)
    x = norm->forward(convolution->forward(x), pass.training && x.size(0) > 0, Activation::relu);
  x = x.flatten(1);
  for (const auto& layer : linears_) x = at::relu(layer->forward(x));
  return {detail::exact(scores_->forward(x)), detail::exact(codes_->forward(x)).view({x.size(0), classes_ + 1, 4})};
}

TRANSFERLIB_API LossTerms RoI::loss(const Activations& maps, const std::vector<Detections>& proposals,
                                    const Objects& truth, const Pass& pass) const {
  const auto objects = detail::true_boxes(truth);
  if (objects.size() != proposals.size())
    throw DataError(
        detail::text("a batch has boxes of ", objects.size(), " pictures, and there are ", proposals.size()));
  std::vector<Tensor> boxes, labels, targets;
  for (std::size_t i = 0; i < objects.size(); ++i) {
    const auto& [true_boxes, classes] = objects[i];
    const Tensor all = at::cat({proposals[i].boxes, true_boxes});
    const Tensor match = match_boxes(true_boxes, all, options_.match);
    // Class 0 is the background; ignored ones stay below 0.
    Tensor label = (match + 1).clamp(-1, 0);
    const Tensor matched = match.ge(0).nonzero().flatten();
    label.index_put_({matched}, classes.index_select(0, match.index_select(0, matched)) + 1);
    const auto sample = sample_balanced(label, options_.samples, options_.positive_fraction,
                                        detail::region_random(pass, 1, static_cast<Index>(i)));
    boxes.push_back(all.index_select(0, at::cat({sample.positive, sample.negative})));
    labels.push_back(label.index_select(0, sample.positive));
    labels.push_back(at::zeros_like(sample.negative));
    // Of the negative ones nobody asks.
    targets.push_back(coder_.encode(true_boxes.index_select(0, match.index_select(0, sample.positive)),
                                    all.index_select(0, sample.positive)));
  }
  const Output y = forward(maps, boxes, pass);
  const Tensor label = at::cat(labels), positive = label.gt(0).nonzero().flatten();
  const Tensor code = y.codes.index({positive, label.index_select(0, positive)});
  const double count = static_cast<double>(std::max<Index>(label.size(0), 1));
  return {{{"loss_classifier", at::cross_entropy_loss(y.logits, label, {}, at::Reduction::Sum) / count},
           {"loss_box_reg", at::smooth_l1_loss(code, at::cat(targets), at::Reduction::Sum, 1.0 / 9.0) / count}}};
}

TRANSFERLIB_API RoI::Prediction RoI::predict(const Activations& maps, const std::vector<Detections>& proposals,
                                             std::span<const PixelSize> pictures) const {
  const torch::NoGradGuard guard;
  detail::check_sizes(pictures, static_cast<Index>(proposals.size()));
  std::vector<Tensor> boxes;
  std::vector<Index> first{0};
  for (const Detections& p : proposals) {
    boxes.push_back(p.boxes);
    first.push_back(first.back() + p.size());
  }
  const Output y = forward(maps, boxes, {});
  const Tensor scores = y.logits.softmax(1).narrow(1, 1, classes_);
  Prediction out(proposals.size());
  detail::for_each_in_parallel(static_cast<Index>(out.size()), [&](Index i) {
    const torch::NoGradGuard own;
    const auto at = static_cast<std::size_t>(i);
    const Tensor own_scores = scores.slice(0, first[at], first[at + 1]);
    const Tensor sure = own_scores.gt(options_.score_threshold).nonzero();
    Tensor row = sure.select(1, 0), label = sure.select(1, 1), score = own_scores.index({row, label});
    Tensor box = coder_.decode(y.codes.slice(0, first[at], first[at + 1]).index({row, label + 1}),
                               boxes[at].index_select(0, row));
    box = clip_boxes(box, pictures[at]);
    const Tensor good = detail::has_sides(box, 0.01).nonzero().flatten();
    box = box.index_select(0, good), score = score.index_select(0, good), label = label.index_select(0, good);
    Tensor kept = nms_by_class(box, score, label, options_.overlap_threshold);
    kept = kept.narrow(0, 0, std::min(kept.size(0), options_.most));
    out[at] = {box.index_select(0, kept), score.index_select(0, kept), label.index_select(0, kept)};
  });
  return out;
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

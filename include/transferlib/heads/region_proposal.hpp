/// \file
/// The region proposal network (Ren et al., "Faster R-CNN", NeurIPS 2015): for every anchor, whether an object is there
/// and how the anchor is moved to it. Names, losses and defaults are torchvision's.
#pragma once

#include <algorithm>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <ATen/ATen.h>

#include <transferlib/core/error.hpp>
#include <transferlib/core/random.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/detect/anchor_generator.hpp>
#include <transferlib/detect/assign.hpp>
#include <transferlib/detect/box_coder.hpp>
#include <transferlib/detect/boxes.hpp>
#include <transferlib/detect/detections.hpp>
#include <transferlib/detect/matcher.hpp>
#include <transferlib/detect/placement.hpp>
#include <transferlib/detect/proposals.hpp>
#include <transferlib/nn/modules.hpp>

namespace transferlib {
namespace detail {

/// Normal numbers of this deviation, drawn from (seed, number) alone.
inline void draw_normal(Tensor& weight, double deviation, std::uint64_t seed, std::uint64_t number) {
  const torch::NoGradGuard guard;
  weight.normal_(0.0, deviation, generator(seed, number, static_cast<std::uint64_t>(Purpose::initialise)));
}

/// The true boxes of one picture, x1, y1, x2, y2, and their classes.
struct TrueBoxes {
  Tensor boxes, labels;
};

TRANSFERLIB_API std::vector<TrueBoxes> true_boxes(const Objects& objects);

/// What a step's samples are drawn from: the pass, the stage of the detector, the picture in its batch.
inline Random region_random(const Pass& pass, Index stage, Index picture) {
  return {pass.seed, Purpose::regions, static_cast<std::uint64_t>(pass.number),
          static_cast<std::uint32_t>(2 * picture + stage)};
}

}  // namespace detail

/// See the file. Parameters `head.conv.i.0.…`, `head.cls_logits.…`, `head.bbox_pred.…`.
class RegionProposal final : public Module {
 public:
  struct Options {
    /// Of the anchors, map by map: square roots of areas, in pixels. Empty: eight times a map's stride on each map of a
    /// pyramid, and 32, 64 … 512 where there is one map only.
    std::vector<std::vector<double>> sizes{};
    std::vector<double> ratios{0.5, 1.0, 2.0};  ///< height / width
    Index depth = 1;                            ///< convolutions
    ProposalOptions training{.before_nms = 2000, .after_nms = 2000};
    ProposalOptions predicting{};
    MatchOptions match{};
    Index samples = 256;             ///< anchors of a picture that a step learns from
    double positive_fraction = 0.5;  ///< of these at most
    std::uint64_t seed = 0;          ///< what the start weights are drawn from
  };

  /// Its answers for a batch.
  struct Output {
    Tensor objectness;  ///< (N, A) logits
    Tensor codes;       ///< (N, A, 4): how anchors are moved; see `BoxCoder`
    Tensor anchors;     ///< (A, 4)
    std::vector<Index> per_map;
  };

  /// \throws OptionError
  RegionProposal(const FeatureSpec& features, const Options& options);

  const Options& options() const { return options_; }
  const AnchorGenerator& anchors() const { return anchors_; }

  /// \param maps (N, C, h_i, w_i), finest first \param canvas the size of the network's input
  Output forward(const Activations& maps, PixelSize canvas) const;

  /// The boxes to look at more closely, of each picture; see `filter_proposals`.
  std::vector<Detections> propose(const Output& y, std::span<const PixelSize> pictures, bool training) const {
    return filter_proposals(y.objectness.detach(), y.codes.detach(), y.anchors, y.per_map, pictures,
                            training ? options_.training : options_.predicting);
  }

  /// `loss_objectness`, binary cross entropy of the sampled anchors, and `loss_rpn_box_reg`, smooth L1 of the positive
  /// ones among them. \param truth in pixels of the network's input
  LossTerms loss(const Output& y, const Objects& truth, const Pass& pass) const;

 private:
  static std::vector<std::vector<double>> sizes_for(const FeatureSpec& features, const Options& options);

  Options options_;
  AnchorGenerator anchors_;
  std::vector<Index> strides_;
  std::vector<std::shared_ptr<nn::Conv2d>> convolutions_;
  std::shared_ptr<nn::Conv2d> objectness_, codes_;
};

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API std::vector<TrueBoxes> true_boxes(const Objects& objects) {
  const Tensor boxes = convert_boxes(objects.boxes, BoxForm::cxcywh, BoxForm::xyxy);
  std::vector<TrueBoxes> out;
  for (Index i = 0; i < objects.pictures; ++i) {
    const Tensor own = objects.picture.eq(i).nonzero().flatten();
    out.push_back({boxes.index_select(0, own), objects.label.index_select(0, own)});
  }
  return out;
}

}  // namespace transferlib::detail

namespace transferlib {

TRANSFERLIB_API RegionProposal::RegionProposal(const FeatureSpec& features, const Options& options)
    : Module("RegionProposal"),
      options_(options),
      anchors_(sizes_for(features, options), options.ratios),
      strides_(features.strides) {
  if (anchors_.maps() != static_cast<Index>(features.strides.size()))
    throw OptionError(detail::text("RegionProposal has sizes for ", anchors_.maps(), " maps, and there are ",
                                   features.strides.size()));
  if (options.depth < 1)
    throw OptionError(detail::text("RegionProposal has at least 1 convolution, not ", options.depth));
  const Index channels = features.channels.at(0);
  for (const Index c : features.channels)
    if (c != channels)
      throw OptionError(detail::text("RegionProposal looks at all maps by the same layers, and they have ", channels,
                                     " and ", c, " channels; put a Neck<FeaturePyramid> before it"));
  const auto head = register_module("head", std::make_shared<Module>("RPNHead"));
  const auto list = head->register_module("conv", std::make_shared<Module>("Sequential"));
  std::uint64_t number = 0;
  const auto convolution = [&](Module& parent, const std::string& name, const nn::Conv2dOptions& o) {
    auto out = parent.register_module(name, std::make_shared<nn::Conv2d>(o));
    detail::draw_normal(out->weight, 0.01, options.seed, ++number);
    return out;
  };
  for (Index i = 0; i < options.depth; ++i)
    convolutions_.push_back(
        convolution(*list->register_module(std::to_string(i), std::make_shared<Module>("Sequential")), "0",
                    {.in = channels, .out = channels, .kernel = 3, .padding = 1, .bias = true}));
  const Index n = anchors_.per_place();
  objectness_ = convolution(*head, "cls_logits", {.in = channels, .out = n, .bias = true});
  codes_ = convolution(*head, "bbox_pred", {.in = channels, .out = 4 * n, .bias = true});
}

TRANSFERLIB_API RegionProposal::Output RegionProposal::forward(const Activations& maps, PixelSize canvas) const {
  Output out;
  std::vector<Tensor> objectness, codes;
  for (const Tensor& map : maps) {
    Tensor x = map;
    for (const auto& convolution : convolutions_) x = at::relu(convolution->forward(x));
    const Index n = map.size(0);
    objectness.push_back(objectness_->forward(x).permute({0, 2, 3, 1}).reshape({n, -1}));
    codes.push_back(codes_->forward(x).permute({0, 2, 3, 1}).reshape({n, -1, 4}));
    out.per_map.push_back(objectness.back().size(1));
  }
  out.objectness = detail::exact(at::cat(objectness, 1));
  out.codes = detail::exact(at::cat(codes, 1));
  out.anchors = anchors_(maps, canvas, strides_);
  return out;
}

TRANSFERLIB_API LossTerms RegionProposal::loss(const Output& y, const Objects& truth, const Pass& pass) const {
  const auto boxes = detail::true_boxes(truth);
  if (static_cast<Index>(boxes.size()) != y.objectness.size(0))
    throw DataError(
        detail::text("a batch has boxes of ", boxes.size(), " pictures, and there are ", y.objectness.size(0)));
  std::vector<Tensor> logits, wanted, codes, targets;
  for (std::size_t i = 0; i < boxes.size(); ++i) {
    const auto n = static_cast<Index>(i);
    const Tensor match = match_boxes(boxes[i].boxes, y.anchors, options_.match);
    const Tensor label = (match + 1).clamp_min(-1);  // background 0, ignored -1
    const auto sample =
        sample_balanced(label, options_.samples, options_.positive_fraction, detail::region_random(pass, 0, n));
    for (const Tensor& some : {sample.positive, sample.negative})
      logits.push_back(y.objectness[n].index_select(0, some));
    wanted.push_back(at::ones_like(sample.positive));
    wanted.push_back(at::zeros_like(sample.negative));
    codes.push_back(y.codes[n].index_select(0, sample.positive));
    targets.push_back(BoxCoder{}.encode(boxes[i].boxes.index_select(0, match.index_select(0, sample.positive)),
                                        y.anchors.index_select(0, sample.positive)));
  }
  const Tensor all = at::cat(logits), code = at::cat(codes);
  const double count = static_cast<double>(std::max<Index>(all.size(0), 1));
  return {
      {{"loss_objectness",
        at::binary_cross_entropy_with_logits(all, at::cat(wanted).to(all.dtype()), {}, {}, at::Reduction::Sum) / count},
       {"loss_rpn_box_reg", at::smooth_l1_loss(code, at::cat(targets), at::Reduction::Sum, 1.0 / 9.0) / count}}};
}

TRANSFERLIB_API std::vector<std::vector<double>> RegionProposal::sizes_for(const FeatureSpec& features,
                                                                           const Options& options) {
  if (!options.sizes.empty()) return options.sizes;
  if (features.strides.size() == 1) return {{32.0, 64.0, 128.0, 256.0, 512.0}};
  std::vector<std::vector<double>> out;
  for (const Index stride : features.strides) out.push_back({8.0 * static_cast<double>(stride)});
  return out;
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

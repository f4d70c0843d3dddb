/// \file
/// What each concept takes and what it refuses. Compiling is the test; there is nothing to run.
#include <memory>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/conv.h>

#include <transferlib/detector_parts.hpp>
#include <transferlib/faster_rcnn.hpp>
#include <transferlib/heads/yolo.hpp>
#include <transferlib/heads/yolo_v1.hpp>
#include <transferlib/heads/yolox.hpp>
#include <transferlib/model/detector.hpp>
#include <transferlib/model/sliding_window.hpp>
#include <transferlib/necks/elan.hpp>
#include <transferlib/necks/passthrough.hpp>
#include <transferlib/necks/path_aggregation.hpp>
#include <transferlib/necks/spp.hpp>
#include <transferlib/necks/yolo_v3.hpp>
#include <transferlib/transfer.hpp>
#include <transferlib/zoo.hpp>

namespace tl = transferlib;

namespace {

// ---------------------------------------------------------------- networks

struct Part : tl::Module {
  tl::Tensor forward(const tl::Tensor& x) { return x; }
};

struct MyNet : tl::Module {
  std::shared_ptr<Part> stem = register_module("stem", std::make_shared<Part>());
  tl::Stages stages() { return {{"stem", stem}}; }
};
/// Gives one vector a picture, and says so.
struct PooledNet : MyNet {
  using Gives = tl::Pooled;
};
/// Gives a pyramid, and says so.
struct PyramidNet : MyNet {
  using Gives = tl::Pyramid;
};
struct NoModule {
  tl::Stages stages() { return {}; }
};
struct OtherStages : tl::Module {
  int stages() { return 0; }
};
struct HiddenStages : tl::Module {
 private:
  tl::Stages stages() { return {}; }
};
struct CardedNet : MyNet {
  static constexpr tl::Card card{"carded", "carded.pth"};
};
struct OddCard : MyNet {
  static constexpr int card = 3;
};

static_assert(tl::StagedNetwork<MyNet> && tl::BackboneNetwork<MyNet>);
static_assert(!tl::StagedNetwork<Part>, "a module without stages() is none");
static_assert(!tl::BackboneNetwork<NoModule>, "stages() alone do not make a module");
static_assert(!tl::BackboneNetwork<OtherStages>, "stages() must return Stages");
static_assert(!tl::BackboneNetwork<HiddenStages>, "stages() must be public");
static_assert(!tl::BackboneNetwork<tl::Module> && !tl::BackboneNetwork<int> && !tl::BackboneNetwork<MyNet*>);
static_assert(!tl::BackboneNetwork<std::shared_ptr<MyNet>>, "the network itself, not a pointer to it");

static_assert(tl::PlannedNetwork<tl::EfficientNetLite0> && tl::PlannedNetwork<tl::AnyNetwork>);
static_assert(tl::BackboneNetwork<tl::EfficientNetLite0> && tl::BackboneNetwork<tl::AnyNetwork>);
static_assert(!tl::PlannedNetwork<MyNet> && !tl::StagedNetwork<tl::EfficientNetLite0>);

static_assert(tl::PublishedNetwork<tl::EfficientNetLite0> && tl::PublishedNetwork<tl::EfficientNetLite4>);
static_assert(tl::PublishedNetwork<CardedNet>, "a user's network may have a card");
static_assert(!tl::PublishedNetwork<MyNet> && !tl::PublishedNetwork<OddCard> && !tl::PublishedNetwork<tl::AnyNetwork>);

static_assert(tl::gives<MyNet, tl::Pooled> && tl::gives<MyNet, tl::Map> && tl::gives<MyNet, tl::Pyramid>,
              "a network that says nothing is asked at run time");
static_assert(tl::gives<PyramidNet, tl::Pooled> && tl::gives<PyramidNet, tl::Map> &&
              tl::gives<PyramidNet, tl::Pyramid>);
static_assert(tl::gives<PooledNet, tl::Pooled> && !tl::gives<PooledNet, tl::Map> && !tl::gives<PooledNet, tl::Pyramid>);
static_assert(tl::gives<tl::EfficientNetLite0, tl::Pyramid>);

// A user's network may hold LibTorch's own parts, as holders or as pointers; what can't be called is no part.
static_assert(std::constructible_from<tl::Stage, std::string, std::shared_ptr<Part>>);
static_assert(std::constructible_from<tl::Stage, std::string, torch::nn::Sequential>);
static_assert(std::constructible_from<tl::Stage, std::string, torch::nn::Conv2d>);
static_assert(!std::constructible_from<tl::Stage, std::string, std::shared_ptr<tl::Module>>);

// ---------------------------------------------------------------- heads

/// All that a head needs. The heads below take one thing away.
struct GoodHead : tl::Module {
  struct Options {
    double strength = 1.0;
  };
  using Input = tl::Pooled;
  using Output = tl::Tensor;
  using Target = tl::ClassIndex;
  using Prediction = tl::Tensor;
  using Metric = tl::Accuracy;
  GoodHead(const tl::FeatureSpec&, const Options&) {}
  tl::Tensor forward(const tl::Activations& a, const tl::Pass&) { return a.at(0); }
  tl::LossTerms loss(const tl::Tensor& y, const tl::Batch&) { return {{{"loss", y.sum()}}}; }
  tl::Tensor predict(const tl::Tensor& y) { return y; }
};

// A member that a derived class hides privately is lacking for everybody else.
struct NoInput : GoodHead {
  using GoodHead::GoodHead;

 private:
  using GoodHead::Input;
};
struct NoOutput : GoodHead {
  using GoodHead::GoodHead;

 private:
  using GoodHead::Output;
};
struct NoTarget : GoodHead {
  using GoodHead::GoodHead;

 private:
  using GoodHead::Target;
};
struct NoPrediction : GoodHead {
  using GoodHead::GoodHead;

 private:
  using GoodHead::Prediction;
};
struct NoMetric : GoodHead {
  using GoodHead::GoodHead;

 private:
  using GoodHead::Metric;
};
struct NoOptions : GoodHead {
  using GoodHead::GoodHead;

 private:
  using GoodHead::Options;
};
struct NoForward : GoodHead {
  using GoodHead::GoodHead;

 private:
  using GoodHead::forward;
};
struct NoLoss : GoodHead {
  using GoodHead::GoodHead;

 private:
  using GoodHead::loss;
};
struct NoPredict : GoodHead {
  using GoodHead::GoodHead;

 private:
  using GoodHead::predict;
};
/// Can't be built from the backbone's shapes.
struct NoRecipe : GoodHead {
  NoRecipe() : GoodHead({}, {}) {}
};
/// Is not told whether it trains.
struct NoPass : GoodHead {
  using GoodHead::GoodHead;
  tl::Tensor forward(const tl::Activations& a) { return a.at(0); }
};
/// Its loss is a number, not named terms.
struct BareLoss : GoodHead {
  using GoodHead::GoodHead;
  tl::Tensor loss(const tl::Tensor& y, const tl::Batch&) { return y.sum(); }
};
/// Its metric has no values.
struct OddMetric : GoodHead {
  using GoodHead::GoodHead;
  struct Metric {
    void update(const tl::Tensor&, const tl::Batch&) {}
  };
};
/// Has everything, and is no module.
struct NoModuleHead {
  using Options = GoodHead::Options;
  using Input = tl::Pooled;
  using Output = tl::Tensor;
  using Target = tl::ClassIndex;
  using Prediction = tl::Tensor;
  using Metric = tl::Accuracy;
  NoModuleHead(const tl::FeatureSpec&, const Options&) {}
  tl::Tensor forward(const tl::Activations& a, const tl::Pass&) { return a.at(0); }
  tl::LossTerms loss(const tl::Tensor& y, const tl::Batch&) { return {{{"loss", y.sum()}}}; }
  tl::Tensor predict(const tl::Tensor& y) { return y; }
};

static_assert(tl::HeadNetwork<GoodHead>);
static_assert(tl::HeadNetwork<tl::Linear> && tl::HeadNetwork<tl::Mlp> && tl::HeadNetwork<tl::AnyHead<tl::ClassIndex>>);
static_assert(tl::HeadNetwork<tl::MultiLabelLinear> && tl::HeadNetwork<tl::MultiLabelMlp> &&
              tl::HeadNetwork<tl::AnyHead<tl::MultiLabel>>);
static_assert(tl::HeadNetwork<tl::RegressionLinear> && tl::HeadNetwork<tl::RegressionMlp> &&
              tl::HeadNetwork<tl::AnyHead<tl::Values>>);
static_assert(!tl::HeadNetwork<NoInput>);
static_assert(!tl::HeadNetwork<NoOutput>);
static_assert(!tl::HeadNetwork<NoTarget>);
static_assert(!tl::HeadNetwork<NoPrediction>);
static_assert(!tl::HeadNetwork<NoMetric>);
static_assert(!tl::HeadNetwork<NoOptions>);
static_assert(!tl::HeadNetwork<NoForward>);
static_assert(!tl::HeadNetwork<NoLoss>);
static_assert(!tl::HeadNetwork<NoPredict>);
static_assert(!tl::HeadNetwork<NoRecipe>);
static_assert(!tl::HeadNetwork<NoPass>);
static_assert(!tl::HeadNetwork<BareLoss>);
static_assert(!tl::HeadNetwork<OddMetric>);
static_assert(!tl::HeadNetwork<NoModuleHead>);
static_assert(!tl::HeadNetwork<tl::nn::Linear> && !tl::HeadNetwork<Part> && !tl::HeadNetwork<int>);
static_assert(!tl::HeadNetwork<tl::VectorHead<tl::ClassIndex>>, "the abstract base can't be built");

// ---------------------------------------------------------------- necks

/// All that a neck needs. The necks below take one thing away.
struct GoodNeck : tl::Module {
  struct Options {
    tl::Index channels = 8;
  };
  GoodNeck(const tl::FeatureSpec& maps, const Options&) : maps_(maps) {}
  tl::Activations forward(const tl::Activations& maps, const tl::Pass&) { return maps; }
  const tl::FeatureSpec& features() const { return maps_; }

 private:
  tl::FeatureSpec maps_;
};
struct NeckWithoutOptions : GoodNeck {
  using GoodNeck::GoodNeck;

 private:
  using GoodNeck::Options;
};
struct NeckWithoutForward : GoodNeck {
  using GoodNeck::GoodNeck;

 private:
  using GoodNeck::forward;
};
struct NeckWithoutFeatures : GoodNeck {
  using GoodNeck::GoodNeck;

 private:
  using GoodNeck::features;
};
/// Can't be built from the backbone's shapes.
struct NeckWithoutRecipe : GoodNeck {
  NeckWithoutRecipe() : GoodNeck({}, {}) {}
};
/// Is not told whether it trains.
struct NeckWithoutPass : GoodNeck {
  using GoodNeck::GoodNeck;
  tl::Activations forward(const tl::Activations& maps) { return maps; }
};
/// Gives one map, not a pyramid of them.
struct NeckOfOneTensor : GoodNeck {
  using GoodNeck::GoodNeck;
  tl::Tensor forward(const tl::Activations& maps, const tl::Pass&) { return maps.at(0); }
};
static_assert(tl::NeckNetwork<GoodNeck> && tl::NeckNetwork<tl::NoNeck>);
static_assert(tl::NeckNetwork<tl::FeaturePyramid> && tl::NeckNetwork<tl::SingleMap> &&
              tl::NeckNetwork<tl::PathAggregation> && tl::NeckNetwork<tl::C3PathAggregation> &&
              tl::NeckNetwork<tl::ElanPathAggregation> && tl::NeckNetwork<tl::Passthrough> &&
              tl::NeckNetwork<tl::SpatialPyramidPooling> && tl::NeckNetwork<tl::YoloV3Neck>);
static_assert(!tl::NeckNetwork<NeckWithoutOptions> && !tl::NeckNetwork<NeckWithoutForward> &&
              !tl::NeckNetwork<NeckWithoutFeatures> && !tl::NeckNetwork<NeckWithoutRecipe>);
static_assert(!tl::NeckNetwork<NeckWithoutPass> && !tl::NeckNetwork<NeckOfOneTensor>);
static_assert(!tl::NeckNetwork<tl::Linear> && !tl::NeckNetwork<tl::Yolo> && !tl::NeckNetwork<MyNet> &&
              !tl::NeckNetwork<int>);

// ---------------------------------------------------------------- heads that keep what they know

/// All that a head needs that an old one can teach. The heads below take one thing away.
struct GoodKeeper : GoodHead {
  using GoodHead::GoodHead;
  tl::LossTerms loss_keeping(const Output&, const tl::Batch&, const Output&) { return {}; }
};
/// Tells one number, not its terms.
struct KeeperOfOneNumber : GoodHead {
  using GoodHead::GoodHead;
  tl::Tensor loss_keeping(const Output& y, const tl::Batch&, const Output&) { return y; }
};
/// Does not see what the old one found.
struct ForgetfulKeeper : GoodHead {
  using GoodHead::GoodHead;
  tl::LossTerms loss_keeping(const Output&, const tl::Batch&) { return {}; }
};
static_assert(tl::KeepingHead<GoodKeeper> && tl::KeepingHead<tl::Yolo> && tl::KeepingHead<tl::YoloX> &&
              tl::KeepingHead<tl::AnyHead<tl::Boxes>>);
static_assert(!tl::KeepingHead<GoodHead> && !tl::KeepingHead<KeeperOfOneNumber> && !tl::KeepingHead<ForgetfulKeeper>);
static_assert(!tl::KeepingHead<tl::YoloV1> && !tl::KeepingHead<tl::Linear> && !tl::KeepingHead<int>);

// ---------------------------------------------------------------- the heads of two stages

static_assert(tl::HeadNetwork<tl::Yolo> && tl::HeadNetwork<tl::YoloV1> && tl::HeadNetwork<tl::YoloX>);

/// All that a network needs that proposes regions.
struct GoodProposal : tl::Module {
  struct Options {};
  using Output = tl::Activations;
  GoodProposal(const tl::FeatureSpec&, const Options&) {}
  Output forward(const tl::Activations& maps, tl::PixelSize) const { return maps; }
  std::vector<tl::Detections> propose(const Output&, std::span<const tl::PixelSize>, bool) const { return {}; }
  tl::LossTerms loss(const Output&, const tl::Objects&, const tl::Pass&) const { return {}; }
};
struct ProposesNothing : GoodProposal {
  using GoodProposal::GoodProposal;

 private:
  using GoodProposal::propose;
};
struct ProposalWithoutLoss : GoodProposal {
  using GoodProposal::GoodProposal;

 private:
  using GoodProposal::loss;
};
/// Predicting is const, so that several threads may.
struct ChangingProposal : GoodProposal {
  using GoodProposal::GoodProposal;
  Output forward(const tl::Activations& maps, tl::PixelSize) { return maps; }
};

/// All that a network needs that looks at regions.
struct GoodRegions : tl::Module {
  struct Options {};
  using Metric = tl::BoxAveragePrecision;
  GoodRegions(const tl::FeatureSpec&, const Options&) {}
  std::vector<tl::Detections> predict(const tl::Activations&, const std::vector<tl::Detections>& proposals,
                                      std::span<const tl::PixelSize>) const {
    return proposals;
  }
  tl::LossTerms loss(const tl::Activations&, const std::vector<tl::Detections>&, const tl::Objects&,
                     const tl::Pass&) const {
    return {};
  }
};
/// Its metric measures classes.
struct RegionsOfOtherMetric : GoodRegions {
  using GoodRegions::GoodRegions;
  using Metric = tl::Accuracy;
};
struct RegionsWithoutPredict : GoodRegions {
  using GoodRegions::GoodRegions;

 private:
  using GoodRegions::predict;
};

static_assert(tl::ProposalNetwork<GoodProposal> && tl::ProposalNetwork<tl::RegionProposal>);
static_assert(!tl::ProposalNetwork<ProposesNothing> && !tl::ProposalNetwork<ProposalWithoutLoss> &&
              !tl::ProposalNetwork<ChangingProposal>);
static_assert(!tl::ProposalNetwork<tl::RoI> && !tl::ProposalNetwork<tl::Yolo> && !tl::ProposalNetwork<int>);
static_assert(tl::RegionNetwork<GoodRegions> && tl::RegionNetwork<tl::RoI>);
static_assert(!tl::RegionNetwork<RegionsOfOtherMetric> && !tl::RegionNetwork<RegionsWithoutPredict>);
static_assert(!tl::RegionNetwork<tl::RegionProposal> && !tl::RegionNetwork<tl::Linear> && !tl::RegionNetwork<int>);
static_assert(!tl::HeadNetwork<tl::RegionProposal> && !tl::HeadNetwork<tl::RoI>, "neither is a head alone");

// ---------------------------------------------------------------- metrics

struct NoReset {
  explicit NoReset(int) {}
  void update(const tl::Tensor&, const tl::Batch&) {}
  tl::NamedValues values() const { return {}; }
};
struct ChangingValues {
  void update(const tl::Tensor&, const tl::Batch&) {}
  tl::NamedValues values() { return {}; }
};
struct OneValue {
  void update(const tl::Tensor&, const tl::Batch&) {}
  double values() const { return 0.0; }
};
static_assert(tl::MetricFor<tl::Accuracy, tl::Tensor> && tl::MetricFor<tl::TopK<5>, tl::Tensor> &&
              tl::MetricFor<tl::ConfusionMatrix, tl::Tensor> && tl::MetricFor<tl::MultiLabelAccuracy, tl::Tensor> &&
              tl::MetricFor<tl::MeanAbsoluteError, tl::Tensor>);
static_assert(!tl::MetricFor<NoReset, tl::Tensor>, "a metric begins anew each epoch");
static_assert(!tl::MetricFor<ChangingValues, tl::Tensor> && !tl::MetricFor<OneValue, tl::Tensor>);
static_assert(!tl::MetricFor<tl::Accuracy, std::string> && !tl::MetricFor<int, tl::Tensor>);

// ---------------------------------------------------------------- freeze rules

struct NotConst {
  bool operator()(const tl::Layer&) { return true; }
};
struct NotBool {
  int operator()(const tl::Layer&) const { return 1; }
};
struct NotCopyable {
  std::unique_ptr<int> owned;
  bool operator()(const tl::Layer&) const { return true; }
};
// A lambda is a rule. (A const one is none: what is const can't be assigned. A policy deduces it without the const.)
template <auto Lambda>
using Of = std::remove_const_t<decltype(Lambda)>;
inline constexpr auto by_layer = [](const tl::Layer& l) { return l.kind == tl::Kind::norm; };
inline constexpr auto by_table = [](const tl::Layer& l, const tl::LayerTable& t) { return l.index < t.size() / 2; };
inline constexpr auto by_name = [](const std::string& name) { return name.empty(); };
inline constexpr auto by_three = [](const tl::Layer&, const tl::LayerTable&, int) { return true; };

static_assert(tl::FreezeRule<tl::FreezeAll> && tl::FreezeRule<tl::FreezeNone> && tl::FreezeRule<tl::FreezeUntil> &&
              tl::FreezeRule<tl::FreezeBatchNorm> && tl::FreezeRule<tl::FreezeByName> && tl::FreezeRule<tl::AnyRule>);
static_assert(tl::FreezeRule<Of<by_layer>> && tl::FreezeRule<Of<by_table>> &&
              tl::FreezeRule<bool (*)(const tl::Layer&)>);
static_assert(tl::FreezeRule<decltype(tl::FreezeBatchNorm{} || !tl::FreezeByName{"a*"})> &&
              tl::FreezeRule<decltype(tl::FreezeUntil{3} && tl::FreezeAll{})>);
static_assert(!tl::FreezeRule<NotConst> && !tl::FreezeRule<NotBool> && !tl::FreezeRule<NotCopyable>);
static_assert(!tl::FreezeRule<Of<by_name>> && !tl::FreezeRule<Of<by_three>> && !tl::FreezeRule<bool> &&
              !tl::FreezeRule<tl::FreezePolicy<tl::FreezeAll>>);

// The policy's rule is deduced from a lambda, or spelt out and given its numbers.
static_assert(std::same_as<decltype(tl::FreezePolicy{by_layer}), tl::FreezePolicy<Of<by_layer>>>);
static_assert(std::is_aggregate_v<tl::FreezePolicy<tl::FreezeUntil>>);

// ---------------------------------------------------------------- data sets

struct GoodData {
  using Target = tl::ClassIndex;
  tl::Index size() const { return 0; }
  tl::Batch batch(std::span<const tl::Index>) const { return {}; }
  tl::Labels labels() const { return {}; }
};
struct BoxData {
  using Target = tl::Boxes;
  tl::Index size() const { return 0; }
  tl::Batch batch(std::span<const tl::Index>) const { return {}; }
  tl::Labels labels() const { return {}; }
};
struct NoLabels {
  using Target = tl::ClassIndex;
  tl::Index size() const { return 0; }
  tl::Batch batch(std::span<const tl::Index>) const { return {}; }
};
struct NoSize {
  using Target = tl::ClassIndex;
  tl::Batch batch(std::span<const tl::Index>) const { return {}; }
  tl::Labels labels() const { return {}; }
};
struct UnsignedSize {
  using Target = tl::ClassIndex;
  std::size_t size() const { return 0; }
  tl::Batch batch(std::span<const tl::Index>) const { return {}; }
  tl::Labels labels() const { return {}; }
};
struct NoBatch {
  using Target = tl::ClassIndex;
  tl::Index size() const { return 0; }
  tl::Labels labels() const { return {}; }
};
struct ChangingBatch {
  using Target = tl::ClassIndex;
  tl::Index size() const { return 0; }
  tl::Batch batch(std::span<const tl::Index>) { return {}; }
  tl::Labels labels() const { return {}; }
};
struct NoDataTarget {
  tl::Index size() const { return 0; }
  tl::Batch batch(std::span<const tl::Index>) const { return {}; }
  tl::Labels labels() const { return {}; }
};

static_assert(tl::Dataset<GoodData> && tl::Dataset<BoxData>);
static_assert(tl::Dataset<tl::Cifar10> && tl::Dataset<tl::Cifar100> && tl::Dataset<tl::Mnist> &&
              tl::Dataset<tl::FashionMnist>);
static_assert(tl::Dataset<tl::TensorData<tl::ClassIndex>> && tl::Dataset<tl::TensorData<tl::MultiLabel>> &&
              tl::Dataset<tl::TensorData<tl::Values>>);
static_assert(tl::Dataset<tl::Augmented<GoodData, tl::Flip>>);
static_assert(!tl::Dataset<NoLabels> && !tl::Dataset<NoSize> && !tl::Dataset<NoBatch> && !tl::Dataset<NoDataTarget>);
static_assert(!tl::Dataset<UnsignedSize>, "counts are signed");
static_assert(!tl::Dataset<ChangingBatch>, "several threads call batch()");
static_assert(!tl::Dataset<int> && !tl::Dataset<tl::Tensor> && !tl::Dataset<tl::Split<tl::Cifar10>>);

// ---------------------------------------------------------------- transforms

/// Moves pictures and boxes.
struct Shift {
  std::optional<tl::Index> views() const { return std::nullopt; }
  template <class Target>
  void operator()(tl::Batch&, std::span<const tl::Draw>, Target) const {}
};
struct NoViews {
  void operator()(tl::Batch&, std::span<const tl::Draw>, tl::ClassIndex) const {}
};
struct PlainViews {
  tl::Index views() const { return 1; }
  void operator()(tl::Batch&, std::span<const tl::Draw>, tl::ClassIndex) const {}
};
struct NoDraws {
  std::optional<tl::Index> views() const { return 1; }
  void operator()(tl::Batch&, tl::ClassIndex) const {}
};
struct ChangingTransform {
  std::optional<tl::Index> views() const { return 1; }
  void operator()(tl::Batch&, std::span<const tl::Draw>, tl::ClassIndex) {}
};

template <class T>
concept WholePictureTransform = tl::TransformFor<T, tl::ClassIndex> && tl::TransformFor<T, tl::MultiLabel> &&
    tl::TransformFor<T, tl::Values> && !tl::TransformFor<T, tl::Boxes>;
using FlipAndColour = decltype(tl::compose(tl::Flip{}, tl::ColourJitter{}));
static_assert(WholePictureTransform<tl::Flip> && WholePictureTransform<tl::RandomResizedCrop> &&
              WholePictureTransform<tl::ColourJitter> && WholePictureTransform<tl::CentreCrop> &&
              WholePictureTransform<tl::Resize> && WholePictureTransform<FlipAndColour>);
static_assert(tl::TransformFor<tl::NoTransform, tl::Boxes> && tl::TransformFor<Shift, tl::Boxes>);
static_assert(tl::TransformFor<tl::Compose<Shift, tl::NoTransform>, tl::Boxes> &&
                  !tl::TransformFor<tl::Compose<Shift, tl::Flip>, tl::Boxes>,
              "a composition takes what each part takes");
static_assert(tl::TransformFor<tl::AnyTransform<tl::Values>, tl::Values> &&
              !tl::TransformFor<tl::AnyTransform<tl::Values>, tl::ClassIndex>);
// Kept views are of what takes the target, and are so many.
static_assert(WholePictureTransform<tl::KeptViews<tl::RandomResizedCrop>> &&
              tl::TransformFor<tl::KeptViews<Shift>, tl::Boxes> &&
              !tl::TransformFor<tl::KeptViews<tl::Flip>, tl::Boxes>);
static_assert(std::same_as<decltype(tl::keep_views(std::declval<FlipAndColour>(), 4)), tl::KeptViews<FlipAndColour>>);
static_assert(!std::constructible_from<tl::KeptViews<tl::Flip>, tl::Flip>, "how many is no default");
static_assert(std::constructible_from<tl::AnyTransform<tl::ClassIndex>, FlipAndColour> &&
              !std::constructible_from<tl::AnyTransform<tl::ClassIndex>, int>);
static_assert(!tl::TransformFor<NoViews, tl::ClassIndex> && !tl::TransformFor<PlainViews, tl::ClassIndex> &&
              !tl::TransformFor<NoDraws, tl::ClassIndex> && !tl::TransformFor<ChangingTransform, tl::ClassIndex> &&
              !tl::TransformFor<int, tl::ClassIndex>);

// ---------------------------------------------------------------- models

using Model = tl::Classifier<tl::EfficientNetLite0, tl::Linear>;
using OwnModel = tl::Classifier<MyNet, GoodHead>;

static_assert(tl::Trainable<Model> && tl::Trainable<OwnModel> && tl::Trainable<tl::AnyClassifier<tl::MultiLabel>> &&
              tl::Trainable<tl::Classifier<PooledNet, tl::RegressionMlp>>);
static_assert(!tl::Trainable<MyNet> && !tl::Trainable<GoodHead> && !tl::Trainable<int> &&
              !tl::Trainable<tl::Backbone<MyNet>> && !tl::Trainable<tl::EfficientNetLite0>);

static_assert(std::is_nothrow_move_constructible_v<Model> && std::is_move_assignable_v<Model>);
static_assert(!std::is_copy_constructible_v<Model> && !std::is_copy_assignable_v<Model>, "clone(model) copies");
static_assert(std::same_as<decltype(tl::clone(std::declval<const Model&>())), Model>);

// Detectors of any family are trained by the same trainer and asked the same question.
using OneStage = tl::Detector<tl::MobileNetV3Large, tl::FeaturePyramid, tl::Yolo>;
using NeckFree = tl::Detector<tl::DarkNet53, tl::NoNeck, tl::Yolo>;
using InTwoStages = tl::TwoStage<tl::ResNet50, tl::FeaturePyramid, tl::RegionProposal, tl::RoI>;
using Sliding = tl::SlidingWindow<tl::EfficientNetLite0, tl::Linear>;
struct FindsNothing {
  tl::Labels labels() const { return {}; }
};
struct NamesNothing {
  std::vector<tl::Detections> predict(const tl::Batch&) const { return {}; }
};
struct ChangingDetector : FindsNothing {
  std::vector<tl::Detections> predict(const tl::Batch&) { return {}; }
};
struct OwnDetector : FindsNothing, NamesNothing {};
static_assert(tl::DetectorModel<OneStage> && tl::DetectorModel<NeckFree> && tl::DetectorModel<InTwoStages> &&
              tl::DetectorModel<Sliding> && tl::DetectorModel<OwnDetector>);
static_assert(tl::Trainable<OneStage> && tl::Trainable<NeckFree> && tl::Trainable<InTwoStages>);
static_assert(!tl::DetectorModel<Model> && !tl::DetectorModel<FindsNothing> && !tl::DetectorModel<NamesNothing> &&
              !tl::DetectorModel<int>);
static_assert(!tl::DetectorModel<ChangingDetector>, "predicting is const");
static_assert(std::is_nothrow_move_constructible_v<OneStage> && !std::is_copy_constructible_v<OneStage>);

// A trainer needs a model that outlives it.
static_assert(std::constructible_from<tl::Trainer<Model>, Model&, tl::TrainerOptions> &&
              std::constructible_from<tl::Trainer<Model>, Model&>);
static_assert(!std::constructible_from<tl::Trainer<Model>, Model> &&
              !std::constructible_from<tl::Trainer<Model>, Model, tl::TrainerOptions> &&
              !std::constructible_from<tl::Trainer<Model>, const Model&>);

// A backbone forgets its type, and does not learn it again.
static_assert(std::constructible_from<tl::AnyBackbone, tl::Backbone<MyNet>> &&
              std::constructible_from<tl::AnyBackbone, tl::Backbone<tl::EfficientNetLite0>> &&
              !std::constructible_from<tl::Backbone<MyNet>, tl::AnyBackbone> &&
              !std::constructible_from<tl::Backbone<MyNet>, tl::Backbone<tl::EfficientNetLite0>>);

// The four parts in their order deduce the model.
static_assert(
    std::same_as<decltype(tl::Classifier{std::declval<tl::Backbone<MyNet>>(), tl::FreezePolicy<tl::FreezeUntil>{{0}},
                                         tl::Head<tl::Mlp>{}, tl::Labels{"cat", "dog"}}),
                 tl::Classifier<MyNet, tl::Mlp>>);

// ---------------------------------------------------------------- callbacks

struct OnBegin {
  void on_fit_begin(Model&) {}
};
struct OnEpoch {
  void on_epoch_end(const tl::Epoch&) {}
};
struct OnEpochOfModel {
  bool on_epoch_end(Model&, const tl::Epoch&) { return true; }
};
struct OnProgress {
  void on_progress(const tl::Progressed&) {}
};
struct OnEnd {
  void on_fit_end(Model&) {}
};
struct OnAnyBegin {
  void on_fit_begin(auto&) {}
};
struct Hookless {
  void on_epoch(const tl::Epoch&) {}
};
struct OfOtherModel {
  void on_fit_begin(OwnModel&) {}
};
static_assert(tl::CallbackFor<OnBegin, Model> && tl::CallbackFor<OnEpoch, Model> &&
              tl::CallbackFor<OnEpochOfModel, Model> && tl::CallbackFor<OnProgress, Model> &&
              tl::CallbackFor<OnEnd, Model> && tl::CallbackFor<OnAnyBegin, Model>);
static_assert(tl::CallbackFor<tl::EarlyStopping, Model> && tl::CallbackFor<tl::KeepBest, Model> &&
              tl::CallbackFor<tl::Console, Model> && tl::CallbackFor<tl::RunFolder, Model>);
static_assert(tl::CallbackFor<tl::EarlyStopping, OwnModel> && tl::CallbackFor<OnEpoch, OwnModel> &&
              tl::CallbackFor<OfOtherModel, OwnModel>);
static_assert(!tl::CallbackFor<Hookless, Model> && !tl::CallbackFor<OfOtherModel, Model> &&
              !tl::CallbackFor<OnEpochOfModel, OwnModel> && !tl::CallbackFor<int, Model>);

// ---------------------------------------------------------------- options

static_assert(std::is_aggregate_v<tl::TrainerOptions> && std::is_aggregate_v<tl::CacheOptions> &&
                  std::is_aggregate_v<tl::NetworkOptions> && std::is_aggregate_v<tl::EngineOptions> &&
                  std::is_aggregate_v<tl::Linear::Options> && std::is_aggregate_v<tl::Mlp::Options> &&
                  std::is_aggregate_v<tl::Adam> && std::is_aggregate_v<tl::EarlyStopping::Options>,
              "options are aggregates, so that the compiler names a misspelt field");
static_assert(std::same_as<tl::Index, std::int64_t>);

}  // namespace

int main() { return 0; }

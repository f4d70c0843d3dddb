/// \file
/// What the heads on pooled features share: the loss, the prediction and the metric follow from what is learnt, the
/// standardisation of the input from the training set.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <variant>

#include <transferlib/core/concepts.hpp>
#include <transferlib/core/random.hpp>
#include <transferlib/metrics/classification.hpp>
#include <transferlib/nn/losses.hpp>
#include <transferlib/nn/modules.hpp>

namespace transferlib {
namespace detail {

/// What a head learns, by its `Target`: loss, prediction, metric.
template <class T>
struct Learns;

template <>
struct Learns<ClassIndex> {
  using Metric = Accuracy;
  using Loss = ClassLoss;
  static Tensor predict(const Tensor& y) { return at::softmax(y, 1); }
};

template <>
struct Learns<MultiLabel> {
  using Metric = MultiLabelAccuracy;
  using Loss = MultiLabelLoss;
  static Tensor predict(const Tensor& y) { return at::sigmoid(y); }
};

template <>
struct Learns<Values> {
  using Metric = MeanAbsoluteError;
  using Loss = ValueLoss;
  static Tensor predict(const Tensor& y) { return y; }
};

}  // namespace detail

/// What a head of a `Target` minimises: `CrossEntropy` or `Focal` for `ClassIndex`, `BinaryCrossEntropy` or
/// `SigmoidFocal` for `MultiLabel`, `SquaredError` for `Values`.
template <class T>
using LossOf = typename detail::Learns<T>::Loss;

/// A head that gives one vector a picture from its pooled features: logits for `ClassIndex` (softmax) and `MultiLabel`
/// (sigmoid), the numbers themselves for `Values`.
template <class T>
class VectorHead : public Module {
 public:
  using Input = Pooled;
  using Output = Tensor;  ///< (N, classes)
  using Target = T;
  using Prediction = Tensor;  ///< (N, classes): probabilities in [0, 1], or numbers
  using Metric = typename detail::Learns<T>::Metric;

  /// \throws OptionError if the loss does not fit the number of classes
  VectorHead(const std::string& name, LossOf<T> loss, Index classes) : Module(name), loss_(std::move(loss)) {
    check_loss(loss_, classes);
  }

  /// What it minimises.
  const LossOf<T>& criterion() const { return loss_; }
  /// Lets it minimise another loss. \throws OptionError if the loss does not fit the number of classes
  void set_criterion(LossOf<T> loss) {
    check_loss(loss, last().weight.size(0));
    loss_ = std::move(loss);
  }
  /// What it minimises and drops: what a training depends on besides its weights.
  std::string recipe() const {
    return detail::text(std::visit([](const auto& loss) { return detail::words(loss); }, loss_), ", dropout ",
                        dropout());
  }
  /// The probability of a value being dropped in training.
  virtual double dropout() const { return 0.0; }
  /// The head's kind and numbers, as `save` writes them: "linear", "mlp:128".
  virtual std::string description() const = 0;
  /// From standardised features (N, width) to (N, classes).
  virtual Tensor of_features(const Tensor& x, const Pass& pass) = 0;
  /// The first layer, which takes the standardisation up.
  virtual nn::Linear& first() = 0;
  /// The last layer, whose output the predictions are made of.
  virtual nn::Linear& last() = 0;
  /// Whether the trainer shall measure the features of the training set first.
  virtual bool wants_standardising() const = 0;

  /// From pooled features (N, width) of any precision to (N, classes) in the weights' precision, which is float32.
  Tensor forward(const Activations& features, const Pass& pass) {
    Tensor x = features.at(0).to(first().weight.scalar_type());
    if (mean_.defined()) x = (x - mean_) * scale_;
    return of_features(x, pass);
  }
  /// The loss, one term, in float32 where autocast computes in less. For `ClassIndex` the target may be soft too,
  /// (N, classes), as `MixUp` makes it.
  LossTerms loss(const Tensor& y, const Batch& batch) {
    return {{{"loss", loss_of(loss_, detail::exact(y), batch.target)}}};
  }
  /// Probabilities or numbers.
  Tensor predict(const Tensor& y) { return detail::Learns<T>::predict(y); }

  /// Sets the mean and deviation (width each) of the features, by which the input is standardised from now on. A
  /// feature that never varies is left as it is.
  void standardise(const Tensor& mean, const Tensor& deviation) {
    const Tensor usable = deviation.gt(1e-6);
    mean_ = mean.to(at::kFloat).clone();
    scale_ = at::where(usable, deviation.to(at::kFloat).clamp_min(1e-6).reciprocal(), at::ones_like(mean_));
  }

  /// Takes the standardisation into the first layer's weights, after which the head gives the same answers without it.
  void fold() {
    if (!mean_.defined()) return;
    const torch::NoGradGuard guard;
    nn::Linear& layer = first();
    const Tensor w = layer.weight.to(at::kDouble) * scale_.to(at::kDouble).unsqueeze(0);
    layer.bias.copy_(layer.bias.to(at::kDouble) - at::mv(w, mean_.to(at::kDouble)));
    layer.weight.copy_(w);
    mean_ = scale_ = Tensor();
    trained_ = true;
  }
  /// Divides the output by a temperature (above 0), for good: in the last layer's weights.
  void temper(double temperature) {
    const torch::NoGradGuard guard;
    for (Tensor* t : {&last().weight, &last().bias}) t->div_(temperature);
  }
  /// Whether the weights are of use for features as they are: folded, or read from a file. The trainer then leaves
  /// their scale alone, so that training goes on where it ended.
  bool is_trained() const { return trained_; }
  /// Says so: what `load` does once the weights are read.
  void set_trained(bool trained) { trained_ = trained; }
  /// Whether a standardisation is set and not folded.
  bool is_standardised() const { return mean_.defined(); }
  using Module::to;
  /// Moves the standardisation too.
  void to(torch::Device device, bool non_blocking = false) override {
    Module::to(device, non_blocking);
    if (mean_.defined()) mean_ = mean_.to(device), scale_ = scale_.to(device);
  }
  /// The standardisation's mean and scale, undefined where none is set.
  std::pair<Tensor, Tensor> standardisation() const { return {mean_, scale_}; }
  /// Takes over another head's standardisation.
  void set_standardisation(const std::pair<Tensor, Tensor>& s) { mean_ = s.first, scale_ = s.second; }

 private:
  LossOf<T> loss_;
  Tensor mean_, scale_;
  bool trained_ = false;
};

/// One linear layer, the head of feature extraction. Parameters `weight` and `bias`.
template <class T>
class LinearHead final : public VectorHead<T> {
 public:
  struct Options {
    double dropout = 0.0;     ///< probability, in training, of each feature being dropped
    bool standardise = true;  ///< by the training set's mean and deviation; folded into the layer on save
    std::uint64_t seed = 0;   ///< what the start weights are drawn from
    LossOf<T> loss{};         ///< `CrossEntropy{…}` or `Focal{…}` for class indices
  };
  LinearHead(const FeatureSpec& features, const Options& options)
      : VectorHead<T>("LinearHead", options.loss, features.classes),
        options_(options),
        layer_(features.width, features.classes) {
    detail::kaiming_uniform(layer_.weight, options.seed, 1);
    detail::uniform_bias(layer_.bias, features.width, options.seed, 2);
    this->register_parameter("weight", layer_.weight);
    this->register_parameter("bias", layer_.bias);
  }
  std::string description() const override { return "linear"; }
  double dropout() const override { return options_.dropout; }
  Tensor of_features(const Tensor& x, const Pass& pass) override {
    return layer_.forward(detail::dropout(x, options_.dropout, pass, 1 << 20));
  }
  nn::Linear& first() override { return layer_; }
  nn::Linear& last() override { return layer_; }
  bool wants_standardising() const override { return options_.standardise; }

 private:
  Options options_;
  nn::Linear layer_;
};

/// A hidden layer with ReLU, then a linear one: Keras's `Dense(128, activation="relu")`, `Dense(classes)`. Parameters
/// `hidden.weight`, `hidden.bias`, `output.weight`, `output.bias`.
template <class T>
class MlpHead final : public VectorHead<T> {
 public:
  struct Options {
    Index width = 128;        ///< of the hidden layer
    double dropout = 0.0;     ///< probability, in training, of each hidden value being dropped
    bool standardise = true;  ///< by the training set's mean and deviation; folded into the hidden layer on save
    std::uint64_t seed = 0;   ///< what the start weights are drawn from
    LossOf<T> loss{};         ///< `CrossEntropy{…}` or `Focal{…}` for class indices
  };
  MlpHead(const FeatureSpec& features, const Options& options)
      : VectorHead<T>("MlpHead", options.loss, features.classes),
        options_(options),
        hidden_(this->register_module("hidden", std::make_shared<nn::Linear>(features.width, options.width))),
        output_(this->register_module("output", std::make_shared<nn::Linear>(options.width, features.classes))) {
    detail::kaiming_uniform(hidden_->weight, options.seed, 1);
    detail::uniform_bias(hidden_->bias, features.width, options.seed, 2);
    detail::kaiming_uniform(output_->weight, options.seed, 3);
    detail::uniform_bias(output_->bias, options.width, options.seed, 4);
  }
  std::string description() const override { return detail::text("mlp:", options_.width); }
  double dropout() const override { return options_.dropout; }
  Tensor of_features(const Tensor& x, const Pass& pass) override {
    return output_->forward(detail::dropout(at::relu(hidden_->forward(x)), options_.dropout, pass, 1 << 20));
  }
  nn::Linear& first() override { return *hidden_; }
  nn::Linear& last() override { return *output_; }
  bool wants_standardising() const override { return options_.standardise; }

 private:
  Options options_;
  std::shared_ptr<nn::Linear> hidden_, output_;
};

/// A head whose kind is chosen at run time.
template <class T>
class AnyHead final : public Module {
 public:
  using Input = Pooled;
  using Output = Tensor;
  using Target = T;
  using Prediction = Tensor;
  using Metric = typename detail::Learns<T>::Metric;
  struct Options {
    /// Makes the head; see `any_head`.
    std::function<std::shared_ptr<VectorHead<T>>(const FeatureSpec&)> make;
  };

  AnyHead(const FeatureSpec& features, const Options& options) : Module("AnyHead") {
    if (!options.make) throw OptionError("AnyHead: no head was chosen; make it by any_head(Head<…>{…})");
    head_ = this->register_module("head", options.make(features));
  }
  VectorHead<T>& operator*() { return *head_; }
  VectorHead<T>* operator->() { return head_.get(); }
  Tensor forward(const Activations& a, const Pass& pass) { return head_->forward(a, pass); }
  LossTerms loss(const Tensor& y, const Batch& batch) { return head_->loss(y, batch); }
  Tensor predict(const Tensor& y) { return head_->predict(y); }
  /// The wrapped head, whose parameters carry their own names.
  const std::shared_ptr<VectorHead<T>>& pointer() const { return head_; }

 private:
  std::shared_ptr<VectorHead<T>> head_;
};

using Linear = LinearHead<ClassIndex>;            ///< one class a picture, by one linear layer
using Mlp = MlpHead<ClassIndex>;                  ///< one class a picture, by a hidden layer and a linear one
using MultiLabelLinear = LinearHead<MultiLabel>;  ///< any number of classes a picture
using MultiLabelMlp = MlpHead<MultiLabel>;        ///< any number of classes a picture
using RegressionLinear = LinearHead<Values>;      ///< numbers
using RegressionMlp = MlpHead<Values>;            ///< numbers

}  // namespace transferlib

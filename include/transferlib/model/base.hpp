/// \file
/// What classifiers and detectors share, whatever their types: a backbone, what of it is frozen, where it is cut,
/// labels.
#pragma once

#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include <transferlib/core/concepts.hpp>
#include <transferlib/core/error.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/engine/engine.hpp>
#include <transferlib/freeze/policy.hpp>
#include <transferlib/model/backbone.hpp>
#include <transferlib/weights/state_dict.hpp>

namespace transferlib {
namespace detail {

template <class... A>
struct NotASentence {};

/// An engine for predicting, made when it is first needed and made again when the weights have changed since.
class PredictingEngine {
 public:
  std::shared_ptr<const Engine> get(const BackboneCore& core, const std::vector<Index>& wanted, Precision precision);

 private:
  /// Changes when a weight was written or replaced: LibTorch counts the writes of each tensor.
  static std::uint64_t stamp_of(const BackboneCore& core);

  std::mutex mutex_;
  std::shared_ptr<const Engine> engine_;
  std::uint64_t stamp_ = 0;
  Precision asked_ = Precision::automatic;
};

/// \throws DeviceError if the device is not there
inline void check_device(const torch::Device& device) {
  if (device.is_cuda() && !at::hasCUDA())
    throw DeviceError("a CUDA device was asked for, and this LibTorch has none; use a CUDA build, or the device cpu");
}

/// Those of the tensors that training changes.
inline std::vector<Tensor> trainable(const StateDict& state) {
  std::vector<Tensor> out;
  for (const auto& item : state)
    if (item.second.requires_grad()) out.push_back(item.second);
  return out;
}

/// The same network anew, with the same weights and frozen layers, on the CPU.
TRANSFERLIB_API BackboneCore copied(const BackboneCore& core);

/// The backbone with these maps of its pyramid only.
TRANSFERLIB_API BackboneCore with_maps(BackboneCore core, const std::vector<Index>& which);

/// The maps of the backbone's pyramid that a neck takes: all, or those that it names.
template <class K>
BackboneCore for_neck(BackboneCore core, const typename K::Options& options) {
  if constexpr (requires { K::takes(core.features, options); }) {
    const std::vector<Index> which = K::takes(core.features, options);
    if (which.size() != core.features.channels.size()) return with_maps(std::move(core), which);
  }
  return core;
}

/// The base of every model: what has nothing to do with the head's type.
class ModelBase {
 public:
  /// Freezes anew: training goes on with another part of the network.
  template <FreezeRule R>
  void refreeze(const FreezePolicy<R>& policy) {
    apply_mask(core_, policy.mask(core_.graph.table));
    cut_ = best_cut(core_, wanted_);
  }

  /// The network's layers as the original numbers them.
  const LayerTable& layers() const { return core_.graph.table; }
  /// Which of them are frozen, by index.
  const std::vector<bool>& frozen() const { return core_.frozen; }
  /// Where the part begins that training changes; everything before it is a constant function of the picture.
  const Cut& cut() const { return cut_; }
  const Labels& labels() const { return labels_; }
  const Preprocessing& preprocessing() const { return core_.preprocessing; }
  /// The backbone, without its type: what the trainer works on.
  BackboneCore& backbone_core() { return core_; }
  const BackboneCore& backbone_core() const { return core_; }
  /// The steps of the network whose values the head takes.
  const std::vector<Index>& wanted() const { return wanted_; }

 protected:
  /// \throws OptionError if there are no labels
  template <class Input>
  ModelBase(BackboneCore core, Labels labels, Input input)
      : core_(std::move(core)), labels_(std::move(labels)), wanted_(wanted_steps(core_, input)) {
    if (labels_.empty()) throw OptionError("a model needs labels: the data's, or a list of names");
    cut_ = best_cut(core_, wanted_);
  }
  ModelBase(ModelBase&&) = default;
  ModelBase& operator=(ModelBase&&) = default;
  ~ModelBase() = default;

  /// What the answers depend on of the backbone, as `backbone.…` under the original's names.
  StateDict state_of_backbone() const {
    StateDict out;
    for (auto& item : needed_state(core_, wanted_)) out.emplace_back("backbone." + item.first, item.second);
    return out;
  }

  BackboneCore core_;
  Labels labels_;
  std::vector<Index> wanted_;
  Cut cut_;
  std::unique_ptr<PredictingEngine> engine_ = std::make_unique<PredictingEngine>();
};

}  // namespace detail
}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API std::shared_ptr<const Engine> PredictingEngine::get(const BackboneCore& core,
                                                                    const std::vector<Index>& wanted,
                                                                    Precision precision) {
  const std::lock_guard lock(mutex_);
  // Here, where one thread is at a time: the calls find a user's modules in evaluation and write nothing.
  for (const Step& step : core.graph.steps)
    if (step.kind == Kind::opaque && any_in_training(*step.module)) step.module->eval();
  const std::uint64_t stamp = stamp_of(core);
  if (engine_ == nullptr || stamp != stamp_ || precision != asked_) {
    const Index input[3] = {core.options.in_channels, core.size(), core.size()};
    engine_ =
        std::make_shared<const Engine>(core.graph, wanted, input, EngineOptions{.precision = precision, .piece = 1});
    stamp_ = stamp;
    asked_ = precision;
  }
  return engine_;
}

TRANSFERLIB_API std::uint64_t PredictingEngine::stamp_of(const BackboneCore& core) {
  std::uint64_t out = 0;
  const auto add = [&](const Tensor& t) {
    out = out * 1099511628211ULL + static_cast<std::uint64_t>(t._version());
    out = out * 1099511628211ULL + reinterpret_cast<std::uintptr_t>(t.const_data_ptr());
  };
  for (const Tensor& t : core.network->parameters()) add(t);
  for (const Tensor& t : core.network->buffers()) add(t);
  return out;
}

TRANSFERLIB_API BackboneCore copied(const BackboneCore& core) {
  BackboneCore out = core.rebuild();
  load_state_dict(*out.network, state_dict(*core.network));
  out.licence = core.licence;
  out.source = core.source;
  out.preprocessing = core.preprocessing;
  apply_mask(out, core.frozen);
  return out;
}

TRANSFERLIB_API BackboneCore with_maps(BackboneCore core, const std::vector<Index>& which) {
  std::vector<std::size_t> maps;  // a stage may end in features without places
  for (std::size_t i = 0; i < core.graph.stages.size(); ++i)
    if (core.measure.shapes[Graph::at(core.graph.stages[i])].size() == 3) maps.push_back(i);
  std::vector<Index> stages, strides, channels, measured;
  for (const Index number : which) {
    const auto i = Graph::at(number);
    stages.push_back(core.graph.stages.at(maps.at(i)));
    strides.push_back(core.graph.strides.at(maps.at(i)));
    channels.push_back(core.features.channels.at(i));
    measured.push_back(core.features.strides.at(i));
  }
  core.graph.stages = stages, core.graph.strides = strides;
  core.features.channels = channels, core.features.strides = measured;
  core.rebuild = [rebuild = core.rebuild, which] { return with_maps(rebuild(), which); };
  return core;
}

}  // namespace transferlib::detail

#endif  // TRANSFERLIB_DEFINES

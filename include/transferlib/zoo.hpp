/// \file
/// Every network by its name, for programs whose user chooses it: instantiates the whole zoo, and is therefore not in
/// the umbrella. Nothing registers itself: the list is here.
#pragma once

#include <algorithm>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <transferlib/backbones/convnext.hpp>
#include <transferlib/backbones/csp_darknet.hpp>
#include <transferlib/backbones/darknet.hpp>
#include <transferlib/backbones/efficientnet.hpp>
#include <transferlib/backbones/mobilenet_v2.hpp>
#include <transferlib/backbones/mobilenet_v3.hpp>
#include <transferlib/backbones/resnet.hpp>
#include <transferlib/backbones/squeezenet.hpp>
#include <transferlib/backbones/vit.hpp>
#include <transferlib/core/error.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/text.hpp>
#include <transferlib/darknet.hpp>
#include <transferlib/heads/vector_head.hpp>
#include <transferlib/model/classifier.hpp>
#include <transferlib/model/save.hpp>

namespace transferlib {

/// A network of the zoo: its card, and how it is made.
struct ZooEntry : detail::NetworkType {
  /// With random weights, drawn from `seed`. \throws OptionError
  AnyBackbone random(const NetworkOptions& options, std::uint64_t seed) const {
    return AnyBackbone(detail::random_core(*this, options, seed));
  }
  /// With its published weights. \throws OptionError, WeightsError
  AnyBackbone published(const NetworkOptions& options) const {
    return AnyBackbone(detail::published_core(*this, options));
  }
  /// With the weights of a file. \throws OptionError, FileError, FormatError, WeightsError
  AnyBackbone from_file(const std::filesystem::path& file, const NetworkOptions& options) const {
    return AnyBackbone(detail::core_of_file(*this, file, options));
  }
  /// Costs neither time nor memory: no weights are made.
  LayerTable layers(const NetworkOptions& options) const {
    const detail::ShapesOnly guard;
    return graph(*make(options)).table;
  }
};

namespace detail {

template <PublishedNetwork... N>
std::vector<ZooEntry> zoo_entries() {
  return {ZooEntry{network_type<N>()}...};
}

}  // namespace detail

/// All networks, in the order in which they are listed.
TRANSFERLIB_API const std::vector<ZooEntry>& zoo();

/// The entry of a name or an alias. \throws OptionError if there is none; the sentence has the nearest names.
TRANSFERLIB_API const ZooEntry& zoo_entry(std::string_view name);

/// A backbone by name with its published weights. \throws OptionError, WeightsError
inline AnyBackbone any_backbone(std::string_view name, const NetworkOptions& options = {}) {
  return zoo_entry(name).published(options);
}

/// A backbone by name with the weights of a file. \throws OptionError, FileError, FormatError, WeightsError
inline AnyBackbone any_backbone(std::string_view name, const std::filesystem::path& file,
                                const NetworkOptions& options = {}) {
  return zoo_entry(name).from_file(file, options);
}

/// A head whose type need not be known later.
template <class H>
Head<AnyHead<typename H::Target>> any_head(const Head<H>& head) {
  return {{[options = head.options](const FeatureSpec& spec) -> std::shared_ptr<VectorHead<typename H::Target>> {
    return std::make_shared<H>(spec, options);
  }}};
}

/// A head by its description: "linear", "mlp:128". \throws OptionError
template <class T = ClassIndex>
Head<AnyHead<T>> any_head(std::string_view description, double dropout = 0.0, std::uint64_t seed = 0,
                          const LossOf<T>& loss = {}) {
  if (description == "linear") return any_head(Head<LinearHead<T>>{{.dropout = dropout, .seed = seed, .loss = loss}});
  if (description.starts_with("mlp:")) {
    Index width = 0;
    const auto digits = description.substr(4);
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), width);
    if (error == std::errc() && end == digits.data() + digits.size() && width >= 1 && width <= 65536)
      return any_head(Head<MlpHead<T>>{{.width = width, .dropout = dropout, .seed = seed, .loss = loss}});
  }
  throw OptionError(detail::text("there is no head \"", description, "\"; write linear, or mlp:WIDTH as in mlp:128"));
}

/// A classifier whose network and head are known at run time only.
template <class T = ClassIndex>
using AnyClassifier = Classifier<AnyNetwork, AnyHead<T>>;

namespace detail {

/// The network that a file's metadata describes, with weights of no meaning. \throws FormatError, OptionError
TRANSFERLIB_API AnyBackbone backbone_of_file(const SavedModel& saved);

}  // namespace detail

/// Reads any model that `save` wrote. Nothing is frozen, and the head minimises what it was trained by.
/// \throws FileError, FormatError, WeightsError
template <class T = ClassIndex>
AnyClassifier<T> load_any(const std::filesystem::path& path) {
  return detail::guarded(detail::text("loading ", path), [&] {
    const auto saved = detail::SavedModel::read(path);
    if (saved.target != detail::target_name<T>())
      throw WeightsError(
          detail::text("the model in ", path, " predicts ", saved.target, ", not ", detail::target_name<T>()));
    auto backbone = detail::backbone_of_file(saved);
    saved.fill(backbone.core, detail::wanted_steps(backbone.core, Pooled{}));
    AnyClassifier<T> model(std::move(backbone), FreezePolicy<FreezeNone>{},
                           any_head<T>(saved.head, 0.0, 0, saved.template loss<LossOf<T>>()), saved.labels);
    load_state_dict(*model.head().pointer(), saved.head_state, {}, path.string());
    model.head()->set_trained(true);
    return model;
  });
}

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API const std::vector<ZooEntry>& zoo() {
  static const auto entries = detail::zoo_entries<
      ResNet18, ResNet34, ResNet50, ResNet101, ResNet152, WideResNet50_2, ResNeXt50_32x4d, MobileNetV2, MobileNetV2_035,
      MobileNetV2_050, MobileNetV2_075, MobileNetV2_130, MobileNetV2_140, KerasMobileNetV2, KerasMobileNetV2_035,
      KerasMobileNetV2_050, KerasMobileNetV2_075, KerasMobileNetV2_130, KerasMobileNetV2_140, MobileNetV3Small,
      MobileNetV3Large, KerasMobileNetV3Small, KerasMobileNetV3Large, EfficientNetB0, EfficientNetB1, EfficientNetB2,
      EfficientNetB3, EfficientNetB4, EfficientNetB5, EfficientNetB6, EfficientNetB7, EfficientNetV2S, TfEfficientNetB0,
      KerasEfficientNetB0, EfficientNetLite0, EfficientNetLite1, EfficientNetLite2, EfficientNetLite3,
      EfficientNetLite4, ConvNeXtTiny, ConvNeXtSmall, ConvNeXtBase, VitB16, VitB32, VitL16, VitS16, DinoV2S14,
      DinoV2S14Registers, DinoV2B14, DinoV2B14Registers, DarkNet19, DarkNet53, CspDarkNet53, CspDarkNet53Mish,
      SqueezeNet1_0, SqueezeNet1_1>();
  return entries;
}

TRANSFERLIB_API const ZooEntry& zoo_entry(std::string_view name) {
  std::vector<std::string> names;
  for (const ZooEntry& entry : zoo()) {
    std::vector<std::string> own = aliases_of(entry.card);
    own.insert(own.begin(), entry.card.name);
    if (std::find(own.begin(), own.end(), name) != own.end()) return entry;
    names.insert(names.end(), own.begin(), own.end());
  }
  throw OptionError(detail::text("there is no backbone called \"", name, "\"; the nearest are ",
                                 detail::first_few(detail::nearest_names(name, names)),
                                 "; `weights_tool backbones` lists them all"));
}

}  // namespace transferlib

namespace transferlib::detail {

TRANSFERLIB_API AnyBackbone backbone_of_file(const SavedModel& saved) {
  if (const auto cfg = saved.metadata.find("cfg"); cfg != saved.metadata.end())
    return AnyBackbone(darknet_core_of(cfg->second, saved.options, saved.path));
  // These have no published classifier, and are therefore not in the list.
  if (saved.backbone == CspDarkNetN::network_name)
    return AnyBackbone(Backbone<CspDarkNetN>::random(saved.options).core);
  if (saved.backbone == CspDarkNetS::network_name)
    return AnyBackbone(Backbone<CspDarkNetS>::random(saved.options).core);
  if (saved.backbone == "custom")
    throw WeightsError(text("the model in ", saved.path, " stands on a network of its program's own, which only that ",
                            "program can build: load<Network, Head>(path)"));
  return zoo_entry(saved.backbone).random(saved.options, 0);
}

}  // namespace transferlib::detail

#endif  // TRANSFERLIB_DEFINES

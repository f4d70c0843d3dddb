/// \file
/// What every template parameter of the library must be. An impossible pair is refused in one sentence, by the
/// `static_assert` of the template that was given it.
#pragma once

#include <concepts>
#include <optional>
#include <span>
#include <string_view>
#include <type_traits>
#include <vector>

#include <transferlib/core/tensors.hpp>

namespace transferlib {

class Plan;         // nn/plan.hpp
struct Epoch;       // train/history.hpp
struct Progressed;  // train/loop.hpp
struct Detections;  // detect/detections.hpp

/// A user's own network: a LibTorch module that tells its parts by `Stages stages()`.
template <class N>
concept StagedNetwork = std::derived_from<N, Module> && requires(N& n) {
  { n.stages() } -> std::same_as<Stages>;
};

/// A network of the zoo: a module tree, the original's layer table and the steps of its execution.
template <class N>
concept PlannedNetwork = std::derived_from<N, Plan>;

/// What `Backbone<Network>` takes.
template <class N>
concept BackboneNetwork = StagedNetwork<N> || PlannedNetwork<N>;

/// A backbone network with published weights.
template <class N>
concept PublishedNetwork = BackboneNetwork<N> && requires {
  { N::card } -> std::convertible_to<Card>;
};

/// Whether the network's features suit a head's `Input`: a network that says `using Gives = Pooled;` has no maps.
template <class N, class Input>
inline constexpr bool gives = !requires {
  typename N::Gives;
}
|| requires { requires std::same_as<typename N::Gives, Pyramid> || std::same_as<Input, Pooled>; };

/// What a metric does: it is shown predictions beside the truth, and tells named values of all it has seen.
template <class M, class Prediction>
concept MetricFor = std::default_initializable<M> && std::copyable<M> &&
    requires(M& m, const M& c, const Prediction& p, const Batch& b) {
  m.update(p, b);
  { c.values() } -> std::same_as<NamedValues>;
};

/// What `Head<Network>` takes: built from the backbone's feature shapes and an aggregate of options, called with
/// activations, and able to tell its loss and its predictions.
template <class H>
concept HeadNetwork = std::derived_from<H, Module> &&
    std::constructible_from<H, const FeatureSpec&, const typename H::Options&> &&
    requires(H& h, const Activations& a, const Pass& pass, const typename H::Output& y, const Batch& b) {
  typename H::Input;
  typename H::Target;
  typename H::Prediction;
  { h.forward(a, pass) } -> std::same_as<typename H::Output>;
  { h.loss(y, b) } -> std::same_as<LossTerms>;
  { h.predict(y) } -> std::same_as<typename H::Prediction>;
  requires MetricFor<typename H::Metric, typename H::Prediction>;
};

/// A head that can learn more classes while one for the first of them, built like it, says what it finds: beside its
/// output for a batch, in which the new classes are marked, it is shown the other's for the same pictures.
template <class H>
concept KeepingHead = HeadNetwork<H> && requires(H& h, const typename H::Output& y, const Batch& b) {
  { h.loss_keeping(y, b, y) } -> std::same_as<LossTerms>;
};

/// What `Neck<Network>` takes: built from a pyramid's shapes and an aggregate of options, it turns the backbone's maps
/// into those that a detector's head looks at, and tells their shapes.
template <class K>
concept NeckNetwork = std::derived_from<K, Module> &&
    std::constructible_from<K, const FeatureSpec&, const typename K::Options&> &&
    requires(K& k, const Activations& a, const Pass& pass) {
  { k.forward(a, pass) } -> std::same_as<Activations>;
  { k.features() } -> std::convertible_to<FeatureSpec>;
};

/// What `FreezePolicy<Rule>` takes: a pure predicate over layers, true where the layer is frozen.
template <class R>
concept FreezeRule = std::copyable<R> &&(
    requires(const R& r, const Layer& l) {
      { r(l) } -> std::same_as<bool>;
    } ||
    requires(const R& r, const Layer& l, const LayerTable& t) {
      { r(l, t) } -> std::same_as<bool>;
    });

/// Pictures with their targets. `batch(ids)` must be callable from several threads.
template <class D>
concept Dataset = requires(const D& d, std::span<const Index> ids) {
  typename D::Target;
  { d.size() } -> std::same_as<Index>;
  { d.batch(ids) } -> std::same_as<Batch>;
  { d.labels() } -> std::convertible_to<Labels>;
};

/// An augmentation of pictures that carry this `Target`. `views()`: 1 where nothing is drawn, k for a finite set of
/// views (flips), nothing for a continuous one. It must not change how many pictures there are.
template <class T, class Target>
concept TransformFor = std::copyable<T> && requires(const T& t, Batch& b, std::span<const Draw> draws) {
  { t.views() } -> std::same_as<std::optional<Index>>;
  t(b, draws, Target{});
};

/// An observer of training: at least one of the hooks.
template <class C, class Model>
concept CallbackFor = requires(C& c, Model& m) {
  c.on_fit_begin(m);
}
|| requires(C& c, Model& m, const Epoch& e) { c.on_epoch_end(m, e); }
|| requires(C& c, const Epoch& e) { c.on_epoch_end(e); }
|| requires(C& c, const Progressed& p) { c.on_progress(p); }
|| requires(C& c, std::string_view sentence) { c.on_note(sentence); }
|| requires(C& c, Model& m) { c.on_fit_end(m); };

/// What `Trainer<Model>` takes.
template <class M>
concept Trainable = requires(M& m, const Activations& a, const Pass& pass, const typename M::Output& y, const Batch& b,
                             typename M::Metric& s) {
  typename M::Target;
  m.backbone_core();
  m.state();
  { m.above_cut(a, pass) } -> std::same_as<typename M::Output>;
  { m.loss(y, b) } -> std::same_as<LossTerms>;
  m.score(s, y, b);
};

/// What finds objects in pictures, whatever its family: `Detector`, `SlidingWindow`, `TwoStage`. Each picture's
/// detections are in its own pixels.
template <class M>
concept DetectorModel = requires(const M& m, const Batch& b) {
  { m.predict(b) } -> std::same_as<std::vector<Detections>>;
  { m.labels() } -> std::convertible_to<Labels>;
};

}  // namespace transferlib

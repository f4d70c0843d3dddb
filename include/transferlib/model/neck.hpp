/// \file
/// A neck as a detector takes it: a recipe, from which the detector builds the module once it has measured the
/// backbone's pyramid.
#pragma once

#include <transferlib/core/concepts.hpp>

namespace transferlib {

/// A neck's options; `Neck<FeaturePyramid>{{.channels = 128}}`. Channels and strides come from the backbone.
template <class K>
struct Neck {
  static_assert(NeckNetwork<K>,
                "transferlib: Neck<Network>: Network lacks one of Options, forward(activations, pass), features(), or "
                "a constructor from a FeatureSpec and its Options");
};

/// A recipe for a neck that is one.
template <NeckNetwork K>
struct Neck<K> {
  typename K::Options options{};
};

}  // namespace transferlib

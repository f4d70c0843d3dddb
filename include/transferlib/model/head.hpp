/// \file
/// A head as a model takes it: a recipe, from which the model builds the module once it has measured the backbone.
#pragma once

#include <memory>
#include <utility>

#include <transferlib/core/concepts.hpp>

namespace transferlib {

/// A head's options; `Head<Linear>{{.dropout = 0.2}}`. The width comes from the backbone, the classes from the labels.
template <class H>
struct Head {
  static_assert(HeadNetwork<H>,
                "transferlib: Head<Network>: Network lacks one of Input, Output, Target, Prediction, Metric, Options, "
                "forward(activations, pass), loss(output, batch), predict(output)");
};

/// A recipe for a head that is one.
template <HeadNetwork H>
struct Head<H> {
  typename H::Options options{};
};

namespace detail {

/// The head that carries the parameters under their own names: the one inside an erased one.
template <class H>
auto& inner_head(H& head) {
  if constexpr (requires { head.pointer(); })
    return *head.pointer();
  else
    return head;
}

}  // namespace detail
}  // namespace transferlib

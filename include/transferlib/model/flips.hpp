/// \file
/// Predicting from a picture and its mirror images.
#pragma once

#include <type_traits>
#include <vector>

#include <ATen/ATen.h>

#include <transferlib/core/tensors.hpp>
#include <transferlib/data/transforms.hpp>
#include <transferlib/engine/engine.hpp>

namespace transferlib {

/// The mean of what a model predicts for each mirror image of the pictures (Krizhevsky et al., 2012): as many passes
/// as `flip` has views. Safe from several threads, as `predict` is.
/// \param batch pictures as a data set gives them
/// \returns for class indices the probabilities (N, classes), float32
template <class M>
Tensor predict_with_flips(const M& model, const Batch& batch, const Flip& flip = {},
                          Precision precision = Precision::automatic) {
  static_assert(std::is_same_v<typename M::Prediction, Tensor>,
                "transferlib: predict_with_flips: the model predicts boxes, which have no mean; use a Classifier");
  const Index views = *flip.views();
  Tensor sum;
  for (Index view = 0; view < views; ++view) {
    Batch seen{batch.pictures, {}, {}, {}};
    flip(seen, std::vector<Draw>(static_cast<std::size_t>(batch.size()), Draw{.view = view}), typename M::Target{});
    const Tensor predicted = model.predict(seen, precision);
    sum = sum.defined() ? sum + predicted : predicted;
  }
  return sum / static_cast<double>(views);
}

}  // namespace transferlib

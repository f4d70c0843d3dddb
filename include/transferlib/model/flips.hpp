/// \file
/// Predicting from a picture and its mirror images.
#pragma once

#include <algorithm>
#include <numeric>
#include <type_traits>
#include <vector>

#include <ATen/ATen.h>

#include <transferlib/core/concepts.hpp>
#include <transferlib/core/error.hpp>
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

/// The metric of a model's predictions by `predict_with_flips` on a data set. \param batch pictures at a time
/// \returns for class indices `accuracy`
template <class M, class D>
NamedValues evaluate_with_flips(const M& model, const D& data, const Flip& flip = {}, Index batch = 100) {
  static_assert(Dataset<D>,
                "transferlib: evaluate_with_flips: not a Dataset: it needs Target, size(), batch(ids), labels()");
  if (batch < 1) throw OptionError(detail::text("a batch must have at least 1 picture, not ", batch));
  typename M::Metric metric;
  for (Index from = 0; from < data.size(); from += batch) {
    std::vector<Index> ids(static_cast<std::size_t>(std::min(batch, data.size() - from)));
    std::iota(ids.begin(), ids.end(), from);
    const Batch pictures = data.batch(ids);
    metric.update(predict_with_flips(model, pictures, flip), pictures);
  }
  return metric.values();
}

}  // namespace transferlib

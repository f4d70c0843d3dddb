/// \file
/// Makes a trained classifier's probabilities believable.
#pragma once

#include <algorithm>
#include <numeric>
#include <type_traits>
#include <vector>

#include <ATen/ATen.h>

#include <transferlib/core/error.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/metrics/temperature.hpp>
#include <transferlib/model/head.hpp>

namespace transferlib {

/// Fits a temperature to what a classifier predicts for pictures that it was not trained on, and divides its logits by
/// it, in the head's last layer: which class is the likeliest stays, how likely it is changes, and `save` keeps it.
/// \param data its pictures as they are, not augmented; \param batch how many are predicted at once
/// \returns the temperature: above 1 where the model was too sure of itself. See `fit_temperature`
/// \throws DataError, OptionError
template <class M, class D>
double calibrate(M& model, const D& data, Index batch = 100) {
  static_assert(std::is_same_v<typename M::Target, ClassIndex> && std::is_same_v<typename D::Target, ClassIndex>,
                "transferlib: calibrate: a temperature belongs to a model that predicts one class a picture, and to "
                "data of class indices");
  if (batch < 1) throw OptionError(detail::text("a batch must have at least 1 picture, not ", batch));
  std::vector<Tensor> logits, targets;
  for (Index from = 0; from < data.size(); from += batch) {
    std::vector<Index> ids(static_cast<std::size_t>(std::min(batch, data.size() - from)));
    std::iota(ids.begin(), ids.end(), from);
    const Batch pictures = data.batch(ids);
    // As logits: softmax of the logarithms of probabilities gives these.
    logits.push_back(model.predict(pictures).to(at::kCPU, at::kDouble).clamp_min(1e-38).log());
    targets.push_back(pictures.target.cpu());
  }
  if (logits.empty()) throw DataError("there is no picture to fit a temperature to");
  const double temperature = fit_temperature(at::cat(logits), at::cat(targets));
  detail::inner_head(model.head()).temper(temperature);
  return temperature;
}

}  // namespace transferlib

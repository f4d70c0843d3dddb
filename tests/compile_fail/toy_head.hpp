// A head that compiles wherever it fits: what it takes and what it learns are the test's.
#pragma once

#include <transferlib/transfer.hpp>

template <class In, class Learns>
struct ToyHead : transferlib::Module {
  struct Options {
    double least = 0.25;
  };
  using Input = In;
  using Output = transferlib::Tensor;
  using Target = Learns;
  using Prediction = transferlib::Tensor;
  using Metric = transferlib::Accuracy;
  ToyHead(const transferlib::FeatureSpec&, const Options&) {}
  transferlib::Tensor forward(const transferlib::Activations& a, const transferlib::Pass&) { return a.at(0); }
  transferlib::LossTerms loss(const transferlib::Tensor& y, const transferlib::Batch&) { return {{{"loss", y.sum()}}}; }
  transferlib::Tensor predict(const transferlib::Tensor& y) { return y; }
};

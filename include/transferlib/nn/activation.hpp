/// \file
/// Activation functions on tensors of any device.
#pragma once

#include <string_view>

#include <transferlib/core/layers.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>

namespace transferlib {

/// The activation's name as PyTorch writes it.
TRANSFERLIB_API std::string_view to_string(Activation activation);

/// The activation of every element of `x`; the leaky one has darknet's slope, 0.1.
TRANSFERLIB_API Tensor activate(const Tensor& x, Activation activation);

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

#include <ATen/Functions.h>

namespace transferlib {

TRANSFERLIB_API std::string_view to_string(Activation activation) {
  switch (activation) {
    case Activation::identity:
      return "identity";
    case Activation::relu:
      return "relu";
    case Activation::relu6:
      return "relu6";
    case Activation::silu:
      return "silu";
    case Activation::hardswish:
      return "hardswish";
    case Activation::hardsigmoid:
      return "hardsigmoid";
    case Activation::sigmoid:
      return "sigmoid";
    case Activation::gelu:
      return "gelu";
    case Activation::tanh:
      return "tanh";
    case Activation::leaky_relu:
      return "leaky_relu";
    case Activation::mish:
      return "mish";
  }
  return "identity";
}

TRANSFERLIB_API Tensor activate(const Tensor& x, Activation activation) {
  switch (activation) {
    case Activation::identity:
      return x;
    case Activation::relu:
      return at::relu(x);
    case Activation::relu6:
      return at::hardtanh(x, 0.0, 6.0);
    case Activation::silu:
      return at::silu(x);
    case Activation::hardswish:
      return at::hardswish(x);
    case Activation::hardsigmoid:
      return at::hardsigmoid(x);
    case Activation::sigmoid:
      return at::sigmoid(x);
    case Activation::gelu:
      return at::gelu(x);
    case Activation::tanh:
      return at::tanh(x);
    case Activation::leaky_relu:
      return at::leaky_relu(x, 0.1);
    case Activation::mish:
      return at::mish(x);
  }
  return x;
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

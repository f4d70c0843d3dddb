/// \file
/// YOLO v5's backbone (Jocher et al., 2020, release 6): convolutions of stride 2 and C3 blocks, fast pyramid pooling at
/// the end. Names and order of parameters are those of its layers 0 to 9; there is no classifier.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>
#include <string>
#include <utility>

#include <transferlib/core/error.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/nn/plan.hpp>

namespace transferlib {

/// A variant's numbers.
struct CspDarkNetSpec {
  double width = 1.0;  ///< a multiple of 64 channels at the start, doubled at each stage; v5n .25, v5s .5
  double depth = 1.0;  ///< a multiple of 3, 6, 9 and 3 bottlenecks; v5n, v5s .33
};

/// The family: one constructor. Its pyramid has the strides 4, 8, 16 and 32.
class CspDarkNet : public Plan {
 public:
  using Gives = Pyramid;

  /// \throws OptionError for an output stride other than 32, and multiples that are not above 0
  explicit CspDarkNet(const CspDarkNetSpec& spec, const NetworkOptions& options = {});

 private:
  /// `conv`, `bn`, `act`. \returns the first row
  Index declare_unit(const std::string& name, const nn::Conv2dOptions& o) {
    const Index row = declare_convolution(name + ".conv", o);
    declare_norm(name + ".bn", o.out, 1e-3, 0.03);
    declare_activation(name + ".act", Activation::silu);
    return row;
  }
  Index call_unit(Index row, Index x) { return call(row + 2, {call(row + 1, {call(row, {x})})}); }

  /// `cv1` and bottlenecks `m` beside `cv2`, joined by `cv3`; the original registers `m` last.
  Index c3(const std::string& name, Index x, Index width, Index depth);

  /// Windows of 5 one after the other.
  Index sppf(const std::string& name, Index x, Index width);
};

/// v5n's.
struct CspDarkNetN : CspDarkNet {
  static constexpr const char* network_name = "csp_darknet_n";  ///< in a saved model
  explicit CspDarkNetN(const NetworkOptions& o = {}) : CspDarkNet({.width = 0.25, .depth = 0.33}, o) {}
};

/// v5s's.
struct CspDarkNetS : CspDarkNet {
  static constexpr const char* network_name = "csp_darknet_s";  ///< in a saved model
  explicit CspDarkNetS(const NetworkOptions& o = {}) : CspDarkNet({.width = 0.5, .depth = 0.33}, o) {}
};

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API CspDarkNet::CspDarkNet(const CspDarkNetSpec& spec, const NetworkOptions& options) : Plan("CspDarkNet") {
  if (options.output_stride != 32)
    throw OptionError(detail::text("CspDarkNet has an output stride of 32, not ", options.output_stride));
  if (!(spec.width > 0.0 && spec.depth > 0.0))
    throw OptionError(
        detail::text("multiples of width and depth must be above 0, not ", spec.width, " and ", spec.depth));
  const auto channels = [&](Index n) {
    return static_cast<Index>(std::ceil(static_cast<double>(n) * spec.width / 8.0)) * 8;
  };
  Index in = channels(64);
  Index x =
      call_unit(declare_unit("0", {.in = options.in_channels, .out = in, .kernel = 6, .stride = 2, .padding = 2}), 0);
  Index number = 1;
  for (const auto& [wanted, blocks] : {std::pair<Index, Index>{128, 3}, {256, 6}, {512, 9}, {1024, 3}}) {
    const Index out = channels(wanted),
                depth = std::max<Index>(1, std::lround(static_cast<double>(blocks) * spec.depth));
    x = call_unit(declare_unit(detail::text(number), {.in = in, .out = out, .kernel = 3, .stride = 2, .padding = 1}),
                  x);
    x = c3(detail::text(number + 1, "."), x, out, depth);
    number += 2;
    in = out;
    if (wanted != 1024) end_stage(x, detail::text(number));
  }
  x = sppf("9.", x, in);
  end_stage(x, "head");
  set_map(x);
  set_pooled(function(Kind::pool, {x}, [](std::span<const Tensor> v, const Pass&) { return global_pool(v[0]); }));
}

TRANSFERLIB_API Index CspDarkNet::c3(const std::string& name, Index x, Index width, Index depth) {
  const Index half = width / 2;
  const Index cv1 = declare_unit(name + "cv1", {.in = width, .out = half});
  const Index cv2 = declare_unit(name + "cv2", {.in = width, .out = half});
  const Index cv3 = declare_unit(name + "cv3", {.in = 2 * half, .out = width});
  Index y = call_unit(cv1, x);
  for (Index i = 0; i < depth; ++i) {
    const std::string m = detail::text(name, "m.", i, ".");
    const Index first = declare_unit(m + "cv1", {.in = half, .out = half});
    const Index second = declare_unit(m + "cv2", {.in = half, .out = half, .kernel = 3, .padding = 1});
    y = add(call_unit(second, call_unit(first, y)), y);
  }
  return call_unit(cv3, concat({y, call_unit(cv2, x)}));
}

TRANSFERLIB_API Index CspDarkNet::sppf(const std::string& name, Index x, Index width) {
  const Index cv1 = declare_unit(name + "cv1", {.in = width, .out = width / 2});
  const Index cv2 = declare_unit(name + "cv2", {.in = width / 2 * 4, .out = width});
  const Index pool = declare_max_pool(name + "m", {.kernel = 5, .stride = 1, .padding = 2});
  const Index a = call_unit(cv1, x), b = call(pool, {a}), c = call(pool, {b});
  return call_unit(cv2, concat({a, b, c, call(pool, {c})}));
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

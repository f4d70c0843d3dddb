// Pictures with boxes that can be learnt from, and a backbone that can learn them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include <ATen/ATen.h>

#include <transferlib/core/random.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/nn/plan.hpp>

#include "toys.hpp"

namespace toys {

/// Noisy pictures of several sizes, each with one or two rectangles in the colour of their class.
class Rectangles {
 public:
  using Target = tl::Boxes;

  explicit Rectangles(Index pictures, std::uint64_t seed = 1) : size_(pictures), seed_(seed) {}

  Index size() const { return size_; }
  tl::Labels labels() const { return toys::colours; }

  tl::Batch batch(std::span<const Index> ids) const {
    tl::Batch out;
    std::vector<float> boxes;
    std::vector<Index> offsets{0}, sizes;
    for (const Index id : ids) {
      tl::Random draw(seed_, tl::Purpose::test, static_cast<std::uint64_t>(id));
      const Index height = 40 + draw.below(24), width = 48 + draw.below(16);
      Tensor x = at::empty({1, 3, height, width}, at::kFloat)
                     .uniform_(0.0, 60.0, tl::detail::generator(seed_, static_cast<std::uint64_t>(id), 96));
      const Index count = 1 + draw.below(2);
      for (Index b = 0; b < count; ++b) {
        const Index label = draw.below(3), w = 10 + draw.below(11), h = 10 + draw.below(11);
        // Side by side, so that none hides another.
        const Index left = b * (width / 2) + draw.below(width / 2 - w), top = draw.below(height - h);
        x[0][label].narrow(0, top, h).narrow(1, left, w).fill_(230.0);
        for (const Index n : {label, left, top, w, h}) boxes.push_back(static_cast<float>(n));
      }
      offsets.push_back(static_cast<Index>(boxes.size()) / 5);
      sizes.insert(sizes.end(), {height, width});
      out.pictures.push_back(x.to(at::kByte));
    }
    out.target = at::tensor(boxes).view({-1, 5});
    out.offsets = at::tensor(offsets, at::kLong);
    out.sizes = at::tensor(sizes, at::kLong).view({-1, 2});
    return out;
  }

 private:
  Index size_;
  std::uint64_t seed_;
};

/// A small backbone whose pyramid has strides of 4, 8 and 16.
struct Trunk : tl::Plan {
  explicit Trunk(const tl::NetworkOptions& o = {}) : Plan("Trunk") {
    const auto unit = [&](Index x, const std::string& name, Index in, Index out) {
      x = call(declare_convolution(name, {.in = in, .out = out, .kernel = 3, .stride = 2, .padding = 1}), {x});
      x = call(declare_norm(name + "_norm", out), {x});
      return call(declare_activation(name + "_activation", tl::Activation::silu), {x});
    };
    Index x = unit(unit(0, "stem", o.in_channels, 16), "low", 16, 24);
    end_stage(x, "middle");
    x = unit(x, "middle", 24, 32);
    end_stage(x, "high");
    x = unit(x, "high", 32, 48);
    end_stage(x, "pool");
    set_map(x);
    x = call(declare_global_pool("pool"), {x});
    set_pooled(x);
    set_logits(call(declare_linear("fc", 48, 10), {x}));
  }
};

}  // namespace toys

// Pictures with boxes that can be learnt from.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include <ATen/ATen.h>

#include <transferlib/core/random.hpp>
#include <transferlib/core/tensors.hpp>

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

}  // namespace toys

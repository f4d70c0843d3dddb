/// \file
/// Augmentation of batches of pictures, drawn from counter-based random numbers: what happens to a picture depends on
/// (seed, view, index) alone, never on what stands beside it in the batch.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include <transferlib/core/random.hpp>
#include <transferlib/core/tensors.hpp>

namespace transferlib {

/// Which of its `views` views a picture shows in an epoch: uniform, and a function of (seed, epoch, index) alone.
inline Index draw_view(Index views, std::uint64_t seed, Index epoch, Index index) {
  if (views <= 1) return 0;
  return Random(seed, Purpose::view, static_cast<std::uint64_t>(index), static_cast<std::uint32_t>(epoch)).below(views);
}

}  // namespace transferlib

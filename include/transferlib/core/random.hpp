/// \file
/// Random numbers drawn from counters: what is drawn depends on (seed, what for, which one) alone, never on the order
/// of drawing, the number of threads, or what was drawn before.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

namespace transferlib {

/// Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): the 128 random bits of one
/// 128-bit counter under a 64-bit key.
inline std::array<std::uint32_t, 4> philox(std::uint64_t key, std::uint64_t counter_low, std::uint64_t counter_high) {
  std::array<std::uint32_t, 4> c{static_cast<std::uint32_t>(counter_low), static_cast<std::uint32_t>(counter_low >> 32),
                                 static_cast<std::uint32_t>(counter_high),
                                 static_cast<std::uint32_t>(counter_high >> 32)};
  std::uint32_t k0 = static_cast<std::uint32_t>(key), k1 = static_cast<std::uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53} * c[0], p1 = std::uint64_t{0xCD9E8D57} * c[2];
    c = {static_cast<std::uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<std::uint32_t>(p1),
         static_cast<std::uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<std::uint32_t>(p0)};
    k0 += 0x9E3779B9U;
    k1 += 0xBB67AE85U;
  }
  return c;
}

/// What random numbers are drawn for. Each purpose has its own stream, so that a new draw somewhere shifts no other.
enum class Purpose : std::uint32_t {
  shuffle = 1,
  view = 2,
  augment = 3,
  initialise = 4,
  split = 5,
  dropout = 6,
  test = 7,
  mix = 8,
  balance = 9,
  regions = 10,
  preflight = 11,
  windows = 12,
  scale = 13,
  prune = 14
};

/// The random numbers of one thing: purpose, and up to two numbers that say which (an epoch and a picture, say).
class Random {
 public:
  Random(std::uint64_t seed, Purpose purpose, std::uint64_t first = 0, std::uint32_t second = 0)
      : key_(seed), high_((static_cast<std::uint64_t>(second) << 32) | static_cast<std::uint32_t>(purpose)) {
    // `first` becomes a part of the key's block, so that the low counter is free to count the draws.
    const auto mixed = philox(seed, first, high_);
    key_ = (static_cast<std::uint64_t>(mixed[1]) << 32) | mixed[0];
  }

  /// 32 random bits.
  std::uint32_t bits() {
    if (used_ == 4) {
      block_ = philox(key_, counter_++, high_);
      used_ = 0;
    }
    return block_[used_++];
  }

  /// Uniform in [0, 1), 53 bits.
  double uniform() {
    const std::uint64_t high = bits(), low = bits();
    return static_cast<double>(((high << 32) | low) >> 11) * 0x1.0p-53;
  }

  /// Uniform in [low, high).
  double uniform(double low, double high) { return low + (high - low) * uniform(); }

  /// Uniform among 0 … n - 1, without bias; n must be positive.
  std::int64_t below(std::int64_t n) {
    const std::uint64_t range = static_cast<std::uint64_t>(n), limit = UINT64_MAX - UINT64_MAX % range;
    for (;;) {
      const std::uint64_t high = bits(), draw = (high << 32) | bits();
      if (draw < limit) return static_cast<std::int64_t>(draw % range);
    }
  }

  /// Standard normal (Box and Muller).
  double normal() {
    const double u = 1.0 - uniform(), v = uniform();
    return std::sqrt(-2.0 * std::log(u)) * std::cos(6.283185307179586476925 * v);
  }

 private:
  std::uint64_t key_, high_, counter_ = 0;
  std::array<std::uint32_t, 4> block_{};
  unsigned used_ = 4;
};

/// The numbers 0 … n - 1 in a random order (Fisher and Yates) that depends on (seed, epoch) alone.
inline std::vector<std::int64_t> shuffled(std::int64_t n, std::uint64_t seed, std::uint64_t epoch,
                                          Purpose purpose = Purpose::shuffle) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), std::int64_t{0});
  Random random(seed, purpose, epoch);
  for (std::int64_t i = n - 1; i > 0; --i)
    std::swap(order[static_cast<std::size_t>(i)], order[static_cast<std::size_t>(random.below(i + 1))]);
  return order;
}

}  // namespace transferlib

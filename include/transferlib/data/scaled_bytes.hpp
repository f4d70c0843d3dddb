/// \file
/// Bytes of pictures to a network's input in bfloat16, by the processor's own instructions where it has them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <utility>

#include <c10/util/BFloat16.h>

#include <transferlib/core/layers.hpp>
#include <transferlib/core/separate.hpp>

namespace transferlib::detail {

/// What a table gives for bytes of interleaved channels, by a multiplication and an addition: many at once, where these
/// give what the table says for every byte there is.
class ScaledBytes {
 public:
  /// \param table (channels, 256) \param normal of each channel what is subtracted from a byte by 255, and what it is
  /// divided by then
  ScaledBytes(std::span<const c10::BFloat16> table, std::span<const std::pair<float, float>> normal);

  bool usable() const { return usable_; }

  /// `n` bytes, a multiple of the channels. \pre usable
  void operator()(const std::uint8_t* from, c10::BFloat16* to, Index n) const;

 private:
  static constexpr Index together = 48;  ///< whole vectors, and whole pixels of 1, 2, 3 or 4 channels

  bool usable_ = false;
  float scale_[together] = {}, shift_[together] = {};
};

}  // namespace transferlib::detail

#if TRANSFERLIB_DEFINES

/// \cond
#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#endif
/// \endcond

namespace transferlib::detail {

#if defined(__x86_64__) && defined(__GNUC__)

inline bool scales_bytes() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bf16");
}

__attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16"))) inline void scale_bytes(const std::uint8_t* from,
                                                                                        c10::BFloat16* to, Index n,
                                                                                        const float* scale,
                                                                                        const float* shift) {
  for (Index i = 0; i < n; i += 48)
    for (Index v = 0; v < 48 && i + v < n; v += 16) {
      const Index left = n - i - v;
      const auto some = static_cast<__mmask16>(left >= 16 ? 0xffffU : (1U << left) - 1U);
      const __m512i bytes = _mm512_maskz_cvtepu8_epi32(some, _mm_maskz_loadu_epi8(some, from + i + v));
      const __m512 scaled = _mm512_fmadd_ps(_mm512_maskz_cvtepi32_ps(0xffff, bytes), _mm512_loadu_ps(scale + v),
                                            _mm512_loadu_ps(shift + v));
      _mm256_mask_storeu_epi16(to + i + v, some, (__m256i)_mm512_cvtneps_pbh(scaled));
    }
}

#else

inline bool scales_bytes() { return false; }
inline void scale_bytes(const std::uint8_t*, c10::BFloat16*, Index, const float*, const float*) {}

#endif

TRANSFERLIB_API ScaledBytes::ScaledBytes(std::span<const c10::BFloat16> table,
                                         std::span<const std::pair<float, float>> normal) {
  const auto channels = normal.size();
  if (!scales_bytes() || channels == 0 || together % channels != 0) return;
  for (std::size_t i = 0; i < together; ++i) {
    const auto [mean, deviation] = normal[i % channels];
    scale_[i] = static_cast<float>(1.0 / (255.0 * static_cast<double>(deviation)));
    shift_[i] = static_cast<float>(-static_cast<double>(mean) / static_cast<double>(deviation));
  }
  for (std::size_t byte = 0; byte < 256; ++byte) {
    std::uint8_t all[together];
    c10::BFloat16 got[together];
    std::fill(std::begin(all), std::end(all), static_cast<std::uint8_t>(byte));
    scale_bytes(all, got, together, scale_, shift_);
    for (std::size_t c = 0; c < channels; ++c)
      if (got[c].x != table[c * 256 + byte].x) return;
  }
  usable_ = true;
}

TRANSFERLIB_API void ScaledBytes::operator()(const std::uint8_t* from, c10::BFloat16* to, Index n) const {
  scale_bytes(from, to, n, scale_, shift_);
}

}  // namespace transferlib::detail

#endif  // TRANSFERLIB_DEFINES

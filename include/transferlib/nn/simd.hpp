/// \file
/// Kernels of our own, for the instruction set that this processor has, on LibTorch's own threads.
#pragma once

#include <cstdint>
#include <string>
#include <type_traits>

#include <ATen/Version.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <transferlib/core/error.hpp>
#include <transferlib/core/parallel.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/core/text.hpp>
#include <transferlib/nn/kernel_types.hpp>

namespace transferlib::detail {

/// The kernels for what the processor has and LibTorch is allowed to use (ATEN_CPU_CAPABILITY restricts it).
TRANSFERLIB_API const Kernels& kernels();

/// Whether the processor multiplies whole tiles of bfloat16 (AMX). By these a convolution library is as fast in
/// inference as our kernels, which are used where there are none.
TRANSFERLIB_API bool multiplies_tiles();

/// The kernels for a type in memory.
template <class T>
const KernelsOf<T>& kernels_of() {
  if constexpr (std::is_same_v<T, float>)
    return kernels().fp32;
  else
    return kernels().bf16;
}

/// The elements, bfloat16 as the kernels take it.
template <class T>
T* elements(const Tensor& x) {
  return static_cast<T*>(const_cast<void*>(x.const_data_ptr()));
}

/// Calls `work(item, scratch)` for 0 … items - 1 on LibTorch's threads, each with so many floats of its own.
/// \param backwards each thread from its last item on: behind a pass over the same items these are what is still in the
/// cache
template <class Work>
void with_scratch(Index items, Index floats, const Work& work, bool backwards = false) {
  in_team(items, [&](Index begin, Index end) {
    const at::Tensor scratch = at::empty({floats}, at::TensorOptions(at::kFloat));
    for (Index i = begin; i < end; ++i) work(backwards ? begin + end - 1 - i : i, scratch.mutable_data_ptr<float>());
  });
}

/// The gradient that comes to a function of ours, as its kernels take it: in the map's type, channels last. Such a
/// function has no gradient of its gradient, which is said here. \param what the function \param instead what to do
/// \throws OptionError
inline Tensor gradient_once(const Tensor& gradient, at::ScalarType type, const char* what, const char* instead) {
  if (at::GradMode::is_enabled())
    throw OptionError(text(what, " was asked for the gradient of its gradient (create_graph), which it does not have; ",
                           instead, ", or leave create_graph out"));
  return gradient.to(type).contiguous(at::MemoryFormat::ChannelsLast);
}

}  // namespace transferlib::detail

#if TRANSFERLIB_DEFINES

/// \cond
#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#define TRANSFERLIB_SIMD_NAME simd_avx512
#define TRANSFERLIB_SIMD_LANES 16
#define TRANSFERLIB_SIMD_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq")))
#include <transferlib/nn/kernels.hpp>
#define TRANSFERLIB_SIMD_NAME simd_avx512_bf16
#define TRANSFERLIB_SIMD_LANES 16
#define TRANSFERLIB_SIMD_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")))
#define TRANSFERLIB_SIMD_BF16
#include <transferlib/nn/kernels.hpp>
#define TRANSFERLIB_SIMD_NAME simd_avx2
#define TRANSFERLIB_SIMD_LANES 8
#define TRANSFERLIB_SIMD_TARGET __attribute__((target("avx2,fma")))
#include <transferlib/nn/kernels.hpp>
#endif
#define TRANSFERLIB_SIMD_NAME simd_baseline
#define TRANSFERLIB_SIMD_LANES 4
#define TRANSFERLIB_SIMD_TARGET
#include <transferlib/nn/kernels.hpp>
/// \endcond

namespace transferlib::detail {

TRANSFERLIB_API bool multiplies_tiles() {
#if defined(__x86_64__)
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d >> 22 & 1U) != 0;
#else
  return false;
#endif
}

TRANSFERLIB_API const Kernels& kernels() {
  static const Kernels chosen = [] {
#if defined(__x86_64__)
    const std::string allowed = at::get_cpu_capability();
    const bool avx512 = allowed.rfind("AVX512", 0) == 0;
    if (avx512 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
      Kernels out = simd_avx512::kernels();
      if (__builtin_cpu_supports("avx512bf16")) out.bf16 = simd_avx512_bf16::kernels_of<std::uint16_t>();
      return out;
    }
    if ((avx512 || allowed == "AVX2") && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
      return simd_avx2::kernels();
#endif
    return simd_baseline::kernels();
  }();
  return chosen;
}

}  // namespace transferlib::detail

#endif  // TRANSFERLIB_DEFINES

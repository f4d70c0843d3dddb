/// \file
/// What a run's numbers depend on besides its options: versions, threads, the processor, the device.
#pragma once

#include <string>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <c10/core/Device.h>
#include <torch/version.h>

#include <transferlib/core/version.hpp>

namespace transferlib {

/// A run's surroundings. With the same ones, the same options and the same data, a run gives the same bytes.
struct Environment {
  std::string transferlib, libtorch, cpu_capability, device;
  int threads = 1;

  /// The surroundings of the calling thread.
  static Environment here(const c10::Device& device) {
    return {TRANSFERLIB_VERSION, TORCH_VERSION, at::get_cpu_capability(), device.str(), at::get_num_threads()};
  }
  friend bool operator==(const Environment&, const Environment&) = default;
};

/// Keeps freed memory for the next batch instead of giving it back to the system, which would have to clear each page
/// anew: training and inference on the CPU gain up to a third. It changes the whole process, so programs call it, the
/// library does not. Does nothing where the C library is not glibc.
inline void keep_freed_memory() {
#if defined(__GLIBC__)
  ::mallopt(M_MMAP_THRESHOLD, 1 << 30);
  ::mallopt(M_TRIM_THRESHOLD, 2147483647);
#endif
}

}  // namespace transferlib

/// \file
/// How many threads a program of ours takes. Programs decide about threads, the library does not.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

#include <ATen/Parallel.h>

namespace examples {

/// The cores that this process may run on. `taskset` and containers give it fewer than the machine has, and more
/// threads than cores wait for each other busily: training is ten times slower then.
inline int usable_cores() {
#if defined(__linux__)
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
#endif
  return static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
}

/// As many threads as are wanted; for 0 what OMP_NUM_THREADS says, or one a core.
inline void settle_threads(int wanted = 0) {
  if (wanted > 0)
    at::set_num_threads(wanted);
  else if (std::getenv("OMP_NUM_THREADS") == nullptr)
    at::set_num_threads(usable_cores());
}

}  // namespace examples

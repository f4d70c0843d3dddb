/// \file
/// Work on independent pictures, spread over LibTorch's threads.
#pragma once

#include <cstdint>

#include <ATen/Parallel.h>

#include <transferlib/core/layers.hpp>

namespace transferlib::detail {

/// Whether the calling thread is one of several workers already, and so must not wake LibTorch's threads as well: two
/// teams that wait for each other busily slow each other many fold.
inline bool& one_of_several() {
  thread_local bool value = false;
  return value;
}

/// Calls `work(i)` for i in 0 … n - 1, each once, in no order. What `work(i)` does must not depend on the thread.
template <class Work>
void for_each_in_parallel(Index n, const Work& work) {
  const auto run = [&](Index from, Index to) {
    for (Index i = from; i < to; ++i) work(i);
  };
  if (one_of_several())
    run(0, n);
  else
    at::parallel_for(0, n, 1, run);
}

}  // namespace transferlib::detail

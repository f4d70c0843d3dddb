/// \file
/// Work on independent pictures, spread over as many threads as LibTorch has.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>

#include <dlfcn.h>

#include <ATen/Parallel.h>
#include <ATen/TensorIterator.h>
#include <ATen/ops/empty.h>

#include <transferlib/core/layers.hpp>

namespace transferlib::detail {

/// While it lives, what LibTorch computes for the calling thread is computed by this thread alone, as in a worker that
/// must not wake a team of threads besides: two teams that wait for each other busily slow each other many fold. Other
/// threads are not touched: OpenMP's number of threads is each thread's own, and only LibTorch's setter, which has no
/// part here, changes that of threads to come. The OpenMP is the one that LibTorch brought, whatever its file is
/// called.
class OneThread {
 public:
  explicit OneThread(bool wanted = true) : before_(wanted ? at::get_num_threads() : 0) {
    if (wanted) set(1);
  }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;
  ~OneThread() {
    if (before_ != 0) set(before_);
  }

 private:
  static void set(int threads) {
    static const auto call = reinterpret_cast<void (*)(int)>(::dlsym(RTLD_DEFAULT, "omp_set_num_threads"));
    if (call != nullptr) call(threads);
  }
  int before_;  ///< 0: nothing was changed
};

/// Calls `work(begin, end)` for parts of 0 … n - 1 on LibTorch's threads. `at::parallel_for` is serial in a program
/// that is not compiled for OpenMP, as users' programs are; its iterator is compiled in LibTorch, and is not. Threads
/// of our own would wait for those of LibTorch, which wait busily.
template <class Work>
void in_team(Index n, const Work& work) {
  if (n <= 0) return;
  at::Tensor items = at::empty({n}, at::TensorOptions(at::kByte));
  const auto* first = items.const_data_ptr<std::uint8_t>();
  auto iterator = at::TensorIteratorConfig()
                      .check_all_same_dtype(false)
                      .resize_outputs(false)
                      .declare_static_shape({n})
                      .add_output(items)
                      .build();
  // By rows, of which there is one: the iterator's own loop over rows gives a user's compiler false alarms.
  const auto rows = [&](char** data, const std::int64_t* strides, std::int64_t size, std::int64_t count) {
    for (std::int64_t row = 0; row < count; ++row) {
      const Index begin = reinterpret_cast<const std::uint8_t*>(data[0] + row * strides[1]) - first;
      work(begin, begin + size);
    }
  };
  iterator.for_each(rows, 1);
}

/// Calls `work(i)` for i in 0 … n - 1, each once, in no order. What `work(i)` does must not depend on the thread. The
/// first exception is thrown again; what has not begun by then is left out.
template <class Work>
void for_each_in_parallel(Index n, const Work& work) {
  std::atomic<Index> next{0};
  std::mutex mutex;
  std::exception_ptr error;
  const auto run = [&] {
    const OneThread alone;
    for (Index i; (i = next++) < n;) try {
        work(i);
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (error == nullptr) error = std::current_exception();
        next = n;
      }
  };
  const Index threads = std::min<Index>(at::get_num_threads(), n);
  if (threads > 1)
    in_team(threads, [&](Index, Index) { run(); });
  else
    run();
  if (error != nullptr) std::rethrow_exception(error);
}

}  // namespace transferlib::detail

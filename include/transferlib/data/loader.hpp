/// \file
/// Batches prepared ahead by worker threads, delivered in order.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <optional>
#include <stop_token>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/guard.hpp>
#include <transferlib/core/parallel.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>

namespace transferlib {

/// How batches are prepared.
struct LoaderOptions {
  Index workers = 0;        ///< threads that prepare batches; 0: the calling thread does, when a batch is asked for
  Index ahead = 2;          ///< batches a worker that are prepared or ready, at most, before they are asked for
  std::stop_token stop{};   ///< once set, no further batch is prepared or delivered
  std::stop_token drain{};  ///< once set, no batch is begun before it is asked for
};

/// Batches 0, 1, 2 …, in order, the same whatever the number of workers: `while (auto batch = loader.next()) …`.
class Loader {
 public:
  /// \param batches how many there are
  /// \param prepare makes batch `number`; called from several threads at once, so it must be safe that way and a
  /// function of the number alone
  /// \throws OptionError
  Loader(Index batches, std::function<Batch(Index number)> prepare, const LoaderOptions& options = {});
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;
  ~Loader() { finish(); }

  /// The number of batches.
  Index size() const { return batches_; }

  /// The next batch; nothing after the last.
  /// \throws Stopped if the stop token is set; what `prepare` threw for this batch, after which there are no more
  std::optional<Batch> next();

 private:
  struct Slot {
    bool ready = false;
    Batch batch;
    std::exception_ptr error;
  };

  Batch make(Index number) {
    return detail::guarded("loading pictures", [&] { return prepare_(number); });
  }

  void work();

  void finish();

  Index batches_;
  std::function<Batch(Index)> prepare_;
  std::stop_token stop_, drain_;
  std::mutex mutex_;
  std::condition_variable_any ready_, room_;
  std::vector<Slot> slots_;                        ///< a ring: batch b lies in slot b % size
  Index started_ = 0, asked_ = 0, delivered_ = 0;  ///< guarded by the mutex
  bool closed_ = false;
  Index next_ = 0;
  std::vector<std::thread> threads_;
};

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API Loader::Loader(Index batches, std::function<Batch(Index number)> prepare, const LoaderOptions& options)
    : batches_(batches), prepare_(std::move(prepare)), stop_(options.stop), drain_(options.drain) {
  if (batches < 0) throw OptionError(detail::text("a loader can't have ", batches, " batches"));
  if (options.workers < 0 || options.workers > 1024)
    throw OptionError(detail::text("a loader's workers must be 0 to 1024, not ", options.workers));
  if (options.ahead < 1) throw OptionError(detail::text("ahead must be at least 1, not ", options.ahead));
  const Index workers = std::min(options.workers, batches);
  slots_.resize(static_cast<std::size_t>(workers * options.ahead));
  threads_.reserve(static_cast<std::size_t>(workers));
  try {
    for (Index i = 0; i < workers; ++i) threads_.emplace_back([this] { work(); });
  } catch (const std::system_error& e) {
    finish();
    throw Error(detail::text("a loader's thread ", threads_.size() + 1, " of ", workers,
                             " can't be started: ", e.what(), "; take fewer workers"));
  }
}

TRANSFERLIB_API std::optional<Batch> Loader::next() {
  if (next_ >= batches_) return std::nullopt;
  if (stop_.stop_requested()) throw Stopped("stopped while loading pictures, as asked");
  const Index number = next_++;
  if (threads_.empty()) return make(number);
  Slot slot;
  {
    std::unique_lock lock(mutex_);
    Slot& place = slots_[static_cast<std::size_t>(number % static_cast<Index>(slots_.size()))];
    asked_ = next_;
    if (drain_.stop_requested()) room_.notify_all();
    if (!ready_.wait(lock, stop_, [&] { return place.ready; }))
      throw Stopped("stopped while loading pictures, as asked");
    slot = std::exchange(place, Slot{});
    ++delivered_;
  }
  room_.notify_all();
  if (slot.error != nullptr) {
    next_ = batches_;
    std::rethrow_exception(slot.error);
  }
  return std::move(slot.batch);
}

TRANSFERLIB_API void Loader::work() {
  const detail::OneThread alone;
  for (;;) {
    Index number = 0;
    {
      std::unique_lock lock(mutex_);
      room_.wait(lock, stop_, [&] {
        const Index ahead = drain_.stop_requested() ? asked_ : delivered_ + static_cast<Index>(slots_.size());
        return closed_ || started_ >= batches_ || started_ < ahead;
      });
      if (closed_ || started_ >= batches_ || stop_.stop_requested()) return;
      number = started_++;
    }
    Slot slot;
    try {
      slot.batch = make(number);
    } catch (...) {
      slot.error = std::current_exception();
    }
    slot.ready = true;
    const bool failed = slot.error != nullptr;
    {
      const std::lock_guard lock(mutex_);
      slots_[static_cast<std::size_t>(number % static_cast<Index>(slots_.size()))] = std::move(slot);
      if (failed) started_ = batches_;  // nothing behind a failure is wanted
    }
    ready_.notify_all();
    if (failed) room_.notify_all();
  }
}

TRANSFERLIB_API void Loader::finish() {
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
  }
  room_.notify_all();
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES

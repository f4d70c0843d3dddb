/// \file
/// LibTorch's exceptions, turned into the library's.
#pragma once

#include <new>
#include <string>
#include <string_view>
#include <utility>

#include <c10/util/Exception.h>

#include <transferlib/core/error.hpp>

namespace transferlib::detail {

/// Calls `work`; what LibTorch throws becomes an `Error` whose sentence begins with what was being done.
template <class Work>
decltype(auto) guarded(std::string_view doing, Work&& work) {
  try {
    return std::forward<Work>(work)();
  } catch (const Error&) {
    throw;
  } catch (const c10::Error& e) {
    std::string reason = e.what_without_backtrace();
    reason = reason.substr(0, reason.find('\n'));
    throw Error(text(doing, ": LibTorch refused: ", reason));
  } catch (const std::bad_alloc&) {
    throw Error(text(doing, ": memory did not suffice; take smaller batches or smaller pictures"));
  }
}

}  // namespace transferlib::detail

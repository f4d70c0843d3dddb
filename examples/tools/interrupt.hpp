/// \file
/// Ctrl-C as a stop token.
#pragma once

#include <csignal>
#include <cstdio>
#include <stop_token>
#include <string>
#include <thread>

#include <pthread.h>
#include <unistd.h>

namespace tools {

/// Set once by Ctrl-C, when `message` is said; the second ends the process. The signal is blocked in every thread and
/// waited for in one, since a handler may do next to nothing: call it before there are other threads.
inline std::stop_token stop_on_interrupt(const std::string& message) {
  static std::stop_source source;
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  std::thread([set, message] {
    int signal = 0;
    if (sigwait(&set, &signal) != 0) return;
    std::fprintf(stderr, "\n%s; once more to stop at once\n", message.c_str());
    source.request_stop();
    sigwait(&set, &signal);
    ::_exit(128 + signal);
  }).detach();
  return source.get_token();
}

}  // namespace tools

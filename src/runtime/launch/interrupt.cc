#include "runtime/launch/interrupt.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>

#include "base/check.h"

namespace fourfold::runtime {
namespace {

// A signal handler reaches nothing but globals.
std::atomic<bool> signalled = false;
std::atomic<int> read_end = -1;
std::atomic<int> write_end = -1;
static_assert(std::atomic<bool>::is_always_lock_free && std::atomic<int>::is_always_lock_free);

void on_signal(int /*signal*/) {
  const int saved_errno = errno;
  signalled = true;
  const char byte = 0;
  // The pipe is never read, so that it wakes everybody who polls it.
  [[maybe_unused]] const ssize_t written = write(write_end, &byte, 1);
  errno = saved_errno;
}

}  // namespace

void install_interrupt_handler() {
  CHECK(read_end < 0, "the interrupt handler is installed twice");
  int ends[2];
  CHECK(pipe2(ends, O_CLOEXEC | O_NONBLOCK) == 0, "no pipe");
  read_end = ends[0];
  write_end = ends[1];
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART | static_cast<int>(SA_RESETHAND);
  sigemptyset(&action.sa_mask);
  CHECK(sigaction(SIGINT, &action, nullptr) == 0 && sigaction(SIGTERM, &action, nullptr) == 0,
        "no signal handler");
}

bool interrupted() { return signalled; }

int interrupt_fd() { return read_end; }

}  // namespace fourfold::runtime

#include "runtime/launch/crash_handler.h"

#include <sys/socket.h>

#include <cstddef>
#include <vector>

#include "base/check.h"
#include "runtime/control/frame.h"

namespace fourfold::runtime {
namespace {

struct Entry {
  int signal = 0;
  std::vector<std::byte> frame;  // made before, as a handler may not allocate
  struct sigaction before {};
};

// A signal handler reaches nothing but globals.
int front_socket = -1;
std::array<Entry, kCrashSignals.size()> entries;

void on_signal(int signal) {
  for (const Entry& entry : entries) {
    if (entry.signal != signal) continue;
    // Without waiting. Should another thread be in the middle of a frame, the front sees a broken
    // one and knows the cause less well.
    static_cast<void>(
        send(front_socket, entry.frame.data(), entry.frame.size(), MSG_NOSIGNAL | MSG_DONTWAIT));
    sigaction(signal, &entry.before, nullptr);
    raise(signal);  // comes when this handler has returned
  }
}

}  // namespace

void tell_of_crashes(int socket) {
  front_socket = socket;
  for (size_t i = 0; i < kCrashSignals.size(); ++i) {
    entries[i].signal = kCrashSignals[i];
    entries[i].frame = encode_frame(Crash{kCrashSignals[i]});
    struct sigaction action {};
    action.sa_handler = on_signal;
    sigemptyset(&action.sa_mask);
    CHECK(sigaction(kCrashSignals[i], &action, &entries[i].before) == 0, "no handler of signal {}",
          kCrashSignals[i]);
  }
}

}  // namespace fourfold::runtime

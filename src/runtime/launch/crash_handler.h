#pragma once

#include <algorithm>
#include <array>
#include <csignal>

namespace fourfold::runtime {

/// Signals by which a program ends through its own fault.
inline constexpr std::array<int, 5> kCrashSignals = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};

inline bool is_crash(int signal) {
  return std::find(kCrashSignals.begin(), kCrashSignals.end(), signal) != kCrashSignals.end();
}

/// From now on each of these signals sends a Crash frame to `socket` first. Then what was to be
/// done without this call is done. Called once, before other threads start.
void tell_of_crashes(int socket);

}  // namespace fourfold::runtime

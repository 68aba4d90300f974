#pragma once

namespace fourfold::runtime {

/// From now on a signal by which a program ends through its own fault (SIGSEGV, SIGBUS, SIGFPE,
/// SIGILL, SIGABRT) sends a Crash frame to `socket` first. Then what was to be done without this
/// call is done. Called once, before other threads start.
void tell_of_crashes(int socket);

}  // namespace fourfold::runtime

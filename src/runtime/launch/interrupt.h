#pragma once

namespace fourfold::runtime {

/// From now on the first SIGINT or SIGTERM does not end the program but interrupts it: groups that
/// run or start fail within 100 ms, so that the program can end in order. The second one ends it at
/// once. Process-wide, as signals are; call it once, before threads start.
void install_interrupt_handler();

bool interrupted();

/// For poll: readable for good once interrupted; -1 (which poll ignores) without a handler.
int interrupt_fd();

/// How a group says that it ended for this reason.
inline constexpr const char* kInterrupted = "interrupted";

}  // namespace fourfold::runtime

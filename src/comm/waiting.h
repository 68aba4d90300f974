#pragma once

#include <cstdint>

namespace fourfold::comm {

/// How a rank waits for its peers.
enum class Waiting : uint8_t {
  kSpin,   ///< the rank has its core to itself: looks for 0.1 ms, which most waits do not last, and
           ///< sleeps then
  kSleep,  ///< ranks outnumber the cores: sleeps at once, for the peer it waits for may need the
           ///< core
};

/// Asks the kernel to run the calling thread soon after it was woken, and in shorter turns, where
/// other programs keep the cores busy; its share of a core stays the same. Needs Linux 6.12 and no
/// privilege; elsewhere nothing happens.
///
/// Ranks that split a layer meet every few hundred microseconds. With the kernel's usual slices a
/// rank whose peer has arrived waits for the other program's turn to end, milliseconds each time.
void ask_for_prompt_wakeups();

}  // namespace fourfold::comm

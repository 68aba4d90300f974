#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "comm/wire.h"

namespace fourfold::comm {

/// How long an all-reduce of one size takes, beside what it cannot be faster than.
struct CommTiming {
  int64_t bytes = 0;  ///< at each rank, in fp32
  int64_t calls = 0;
  double best_us = 0;  ///< of one call, the mean of a row of calls
  double median_us = 0;
  double wait_share = 0;  ///< of rank 0's time in the calls, spent waiting for peers
  /// A flag's way from one core to another, and one rank's copies onto the wire and from it, both
  /// measured beside: where ranks outnumber the cores it is out of reach.
  double ceiling_us = 0;
};

/// Times all_reduce_sum through shared memory for each size, about `seconds` each, between `ranks`
/// threads of this process, each with a core of its own where there are as many, else free to move.
std::vector<CommTiming> time_all_reduce(int ranks, std::span<const int64_t> sizes, Wire wire,
                                        double seconds);

}  // namespace fourfold::comm

#pragma once

#include <cstdint>

#include "comm/communicator.h"

namespace fourfold::comm {

/// What every Communicator must do, whatever carries it. All ranks of the group call the same
/// function; violations are reported as gtest failures of the calling rank's process.
void expect_reductions_follow_the_tree(Communicator& comm);
void expect_bf16_reductions(Communicator& comm);
void expect_gathers_and_broadcasts(Communicator& comm);
void expect_all_to_all_is_undone_by_its_inverse(Communicator& comm, int cases, uint64_t seed);
void expect_messages_in_order(Communicator& comm);
void expect_floats_travel(Communicator& comm);
void expect_splits(Communicator& comm);
void expect_stats(Communicator& comm);

/// All of the above.
void expect_contract(Communicator& comm, int all_to_all_cases);

}  // namespace fourfold::comm

#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "runtime/group_executor.h"

namespace fourfold::runtime {

/// Starts a group whose ranks are processes of `program` on this machine: one rank as a plain
/// child, several by mpirun. Otherwise as start_group.
///
/// A rank that dies, or is silent for kSilenceLimit, fails the group within a second: the first one
/// is named with its pid, the cause as far as it is known, and its last words; the other ranks are
/// killed. Nothing is left in the file system.
base::Result<std::unique_ptr<GroupExecutor>> start_process_group(const RankConfig& config,
                                                                 const StartProgress& progress,
                                                                 const std::string& program,
                                                                 const std::stop_token& stop = {});

}  // namespace fourfold::runtime

#pragma once

#include <filesystem>
#include <string>

#include "base/result.h"
#include "runtime/launch/child_process.h"
#include "runtime/worker.h"

namespace fourfold::runtime {

/// The command that starts all ranks of a group on this machine as processes of `program` (empty:
/// this program): under a guard the one rank itself, or mpirun. Errors: there is no mpirun.
base::Result<ChildProcess::Options> rank_command(const RankConfig& config,
                                                 const std::string& program,
                                                 const std::filesystem::path& run_dir,
                                                 const std::string& secret);

/// The end of what the ranks, or they and mpirun, wrote: for a failure's text ":" and a few
/// indented lines, without rules and stack traces. Empty if they wrote nothing.
enum class Speaker { kRanks, kMpirunToo };
std::string last_words(const std::filesystem::path& output, Speaker speaker);

}  // namespace fourfold::runtime

#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/result.h"
#include "runtime/launch/child_process.h"
#include "runtime/worker.h"

namespace fourfold::runtime {

/// The file of `program`, or of this program where it is empty.
base::Result<std::string> program_file(const std::string& program);

/// The command that starts `ranks` processes of fourfold (`args`, args[0] is its file) on this
/// machine: under a guard the one itself, or mpirun. `pinned`: each has cores of its own. Errors:
/// there is no mpirun.
base::Result<ChildProcess::Options> processes_command(int ranks, bool pinned,
                                                      const std::vector<std::string>& args,
                                                      const std::filesystem::path& run_dir);

/// The same for all ranks of a group, as processes of `program` (empty: this program).
base::Result<ChildProcess::Options> rank_command(const RankConfig& config,
                                                 const std::string& program,
                                                 const std::filesystem::path& run_dir,
                                                 const std::string& secret);

/// The end of what the ranks, or they and mpirun, wrote: for a failure's text ":" and a few
/// indented lines, without rules and stack traces. Empty if they wrote nothing.
enum class Speaker { kRanks, kMpirunToo };
std::string last_words(const std::filesystem::path& output, Speaker speaker);

}  // namespace fourfold::runtime

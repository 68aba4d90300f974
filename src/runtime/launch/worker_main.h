#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace fourfold::runtime {

/// The environment variable by which the front gives its workers the secret of Hello.
inline constexpr const char* kSecretVariable = "FOURFOLD_CONTROL_SECRET";

/// The arguments of `program` that make it a worker of a group of `ranks` ranks: program, "worker",
/// the run directory, the number of ranks.
std::vector<std::string> worker_args(const std::string& program,
                                     const std::filesystem::path& run_dir, int ranks);

/// The life of one rank as a process: says Hello to the front whose socket is in the run directory,
/// loads its shard, runs steps until Shutdown. `argv` starts at "worker". In a group of several
/// ranks the process was started by mpirun. Returns the exit code.
///
/// If the front is gone the process ends at once, wherever it is.
int worker_main(int argc, char** argv);

}  // namespace fourfold::runtime

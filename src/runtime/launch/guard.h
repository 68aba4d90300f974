#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace fourfold::runtime {

/// The arguments of `program` that make it the guard of a group: program, "guard", the run
/// directory, then the command that it runs.
std::vector<std::string> guard_args(const std::string& program,
                                    const std::filesystem::path& run_dir);

/// The life of a guard: the one process between the front and a group's mpirun or only rank, so
/// that nothing of the group can outlive the front. It runs its command until that exits, or its
/// own stdin ends because the front has closed it or is dead. Then it kills and reaps every process
/// that came from the command, orphans included. Where the front is gone it removes the run
/// directory; else it exits as the command did. `argv` starts at "guard".
int guard_main(int argc, char** argv);

}  // namespace fourfold::runtime

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
/// that nothing of the group can outlive the front. It runs its command and exits as that does.
/// When its stdin ends, because the front has closed it or is dead, it removes the run directory.
/// In both cases it first kills and reaps every process that came from the command, orphans
/// included. `argv` starts at "guard".
int guard_main(int argc, char** argv);

}  // namespace fourfold::runtime

#pragma once

namespace fourfold::cli {

/// The program: parses flags, wires the rooms together, prints. Returns the exit code: 0 success, 1
/// a failure that was reported, 2 a command line that makes no sense.
int run(int argc, char** argv);

}  // namespace fourfold::cli

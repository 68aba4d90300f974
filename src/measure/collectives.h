#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "comm/communicator.h"
#include "comm/device_group.h"
#include "measure/progress.h"
#include "measure/results.h"

namespace fourfold::measure {

struct CollectiveOptions {
  int ranks = 2;
  std::vector<int64_t> sizes;  ///< payload bytes of one rank, multiples of 4
  int repeats = 5;
  comm::Wire wire = comm::Wire::kBF16;
};

/// "8KiB", as figures are named by sizes.
std::string size_name(int64_t bytes);

/// Times all_reduce, all_gather, send_recv (half of there and back between ranks 0 and 1) and
/// barrier for each size, in microseconds as this rank sees them. The ceiling of a call that moves
/// bytes is what copying as many takes here, measured beside it while all ranks copy at once.
/// Collective: every rank of `group`, of two and more, calls it with the same options. Figures are
/// named "all_reduce_us 8KiB HOW".
std::vector<Figure> measure_collectives(comm::Communicator& group, const std::string& how,
                                        const CollectiveOptions& options);

/// The same of ranks with a GPU each, which takes the one of its rank's number: all_reduce,
/// all_gather and send_recv from GPU to GPU, many of them in a graph, by the host's clock. Errors:
/// those of the cuda backend and of comm::connect_devices.
base::Result<std::vector<Figure>> measure_device_collectives(comm::Communicator& group,
                                                             const std::string& how,
                                                             const CollectiveOptions& options,
                                                             comm::DevicePaths paths);

/// The same over every way that ranks of one host have: "threads" of this process, "processes" that
/// share memory, processes over "mpi", and where each has a GPU "gpus" and "nccl" (the same without
/// each other's memory). Errors: no mpirun, ranks that failed with their last
/// words, an interrupt.
base::Result<std::vector<Figure>> measure_communication(const CollectiveOptions& options,
                                                        const Progress& progress);

/// The life of one rank of measure_communication's processes, started by mpirun. `argv` starts at
/// "comm-rank".
int comm_rank_main(int argc, char** argv);

}  // namespace fourfold::measure

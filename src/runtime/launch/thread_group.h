#pragma once

#include <functional>
#include <memory>

#include "base/result.h"
#include "comm/communicator.h"
#include "runtime/group_executor.h"
#include "runtime/worker.h"

namespace fourfold::runtime {

/// Makes the worker of one rank, on that rank's thread. Collective, as Worker::create is.
using WorkerFactory = std::function<base::Result<std::unique_ptr<Worker>>(
    const RankConfig& config, std::unique_ptr<comm::Communicator> group)>;

/// Starts a group whose ranks are threads of this process. Otherwise as start_group.
base::Result<std::unique_ptr<GroupExecutor>> start_thread_group(const RankConfig& config,
                                                                const StartProgress& progress,
                                                                const WorkerFactory& factory,
                                                                const std::stop_token& stop = {});

}  // namespace fourfold::runtime

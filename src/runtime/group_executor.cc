#include "runtime/group_executor.h"

#include <utility>

#include "runtime/launch/process_group.h"
#include "runtime/launch/thread_group.h"

namespace fourfold::runtime {

base::Result<std::unique_ptr<GroupExecutor>> start_group(const RankConfig& config, RankMode mode,
                                                         const StartProgress& progress,
                                                         const std::string& program) {
  if (mode == RankMode::kProcesses) return start_process_group(config, progress, program);
  FF_ASSIGN(std::shared_ptr<const backend::Ops> ops, backend::make_ops(config.backend, config.isa));
  return start_thread_group(
      config, progress,
      [ops](const RankConfig& rank_config, std::unique_ptr<comm::Communicator> group) {
        return Worker::create(rank_config, ops, std::move(group));
      });
}

}  // namespace fourfold::runtime

#include "runtime/group_executor.h"

#include <array>
#include <utility>

#include "runtime/launch/process_group.h"
#include "runtime/launch/thread_group.h"

namespace fourfold::runtime {

std::string_view name_of(FailureCause cause) {
  constexpr std::array<std::string_view, kFailureCauses> kNames = {"killed", "crashed", "stopped",
                                                                   "hung", "other"};
  return kNames.at(static_cast<size_t>(cause));
}

base::Result<std::unique_ptr<GroupExecutor>> start_group(const RankConfig& config, RankMode mode,
                                                         const StartProgress& progress,
                                                         const std::string& program,
                                                         const std::stop_token& stop) {
  if (mode == RankMode::kProcesses) return start_process_group(config, progress, program, stop);
  FF_ASSIGN(std::shared_ptr<const backend::Ops> ops, backend::make_ops(config.backend, config.isa));
  return start_thread_group(
      config, progress,
      [ops](const RankConfig& rank_config, std::unique_ptr<comm::Communicator> group) {
        return Worker::create(rank_config, ops, std::move(group));
      },
      stop);
}

}  // namespace fourfold::runtime

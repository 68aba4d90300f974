#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "engine/executor.h"
#include "runtime/worker.h"

namespace fourfold::runtime {

/// What a rank is: a process of its own, or a thread of this one.
enum class RankMode { kProcesses, kThreads };

/// The ranks of one group with their shards loaded: an Executor that also knows what they hold and
/// did. Ends the group when it dies.
///
/// submit() and wait() are called by one thread at a time. A group that failed stays failed; the
/// result names the rank that was first, its place in the scheme and the cause. A group that stands
/// still fails, too: HangWatch (launch/hang_watch.h) says when, and names the rank.
class GroupExecutor : public engine::Executor {
 public:
  /// By rank.
  virtual const std::vector<RankMemory>& memory() const = 0;

  /// By rank, after all steps submitted so far. With `peaks_s` > 0 all ranks measure their peaks
  /// first, at the same time, for so many seconds. Errors: the failure of the group.
  virtual base::Result<std::vector<RankStats>> stats(double peaks_s = 0) = 0;
};

/// A word about how far the start is, for a progress line; called by the thread that starts.
using StartProgress = std::function<void(const std::string&)>;

/// Starts all ranks of `config.group` on this machine and returns when their shards are loaded.
/// `program` is the fourfold that processes run; empty: this program. Errors: what a rank could not
/// load, a rank that died or hangs, no mpirun, an interrupt (launch/interrupt.h), a kFaultVariable
/// that means nothing (fault.h).
base::Result<std::unique_ptr<GroupExecutor>> start_group(const RankConfig& config, RankMode mode,
                                                         const StartProgress& progress,
                                                         const std::string& program = {});

}  // namespace fourfold::runtime

#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "engine/executor.h"
#include "runtime/worker.h"

namespace fourfold::runtime {

/// What a rank is: a process of its own, or a thread of this one.
enum class RankMode { kProcesses, kThreads };

/// Why a group failed.
enum class FailureCause : uint8_t {
  kKilled,   ///< a rank ended without a reason of its own, as by SIGKILL
  kCrashed,  ///< a rank's own fault: SIGSEGV and its like, a CHECK, an exception, an exit
  kStopped,  ///< a rank answers no more, as by SIGSTOP
  kHung,     ///< a rank makes no progress
  kOther,    ///< an interrupt; words that nobody expects
};
inline constexpr int kFailureCauses = 5;
std::string_view name_of(FailureCause cause);

struct GroupFailure {
  FailureCause cause = FailureCause::kOther;
  std::string text;  ///< names the rank that was first, its place in the scheme and the cause
  /// From the first sign (the end of its channel, the first Ping that it did not answer, the last
  /// mark of the group) to the verdict.
  double detection_s = 0;
};

/// The ranks of one group with their shards loaded: an Executor that also knows what they hold and
/// did. Ends the group when it dies.
///
/// submit() and wait() are called by one thread at a time. A group that failed stays failed; every
/// later result says why. A group that stands still fails, too: HangWatch (launch/hang_watch.h)
/// says when, and names the rank.
class GroupExecutor : public engine::Executor {
 public:
  /// By rank.
  virtual const std::vector<RankMemory>& memory() const = 0;

  /// By rank, after all steps submitted so far. With `peaks_s` > 0 all ranks measure their peaks
  /// first, at the same time, for so many seconds. Errors: the failure of the group.
  virtual base::Result<std::vector<RankStats>> stats(double peaks_s = 0) = 0;

  /// Nothing while the group lives.
  virtual std::optional<GroupFailure> failure() const = 0;
  /// `call` is called once, by a thread of the group, when it has failed; at once if it has
  /// already. Also where no step is outstanding. Must not block. To be set before the first step.
  virtual void on_failure(std::function<void()> call) = 0;
};

/// A word about how far the start is, for a progress line; called by the thread that starts.
using StartProgress = std::function<void(const std::string&)>;

/// Starts all ranks of `config.group` on this machine and returns when their shards are loaded.
/// `program` is the fourfold that processes run; empty: this program. Errors: what a rank could not
/// load, a rank that died or hangs, no mpirun, an interrupt (launch/interrupt.h), a request to
/// `stop`, a kFaultVariable that means nothing (fault.h).
base::Result<std::unique_ptr<GroupExecutor>> start_group(const RankConfig& config, RankMode mode,
                                                         const StartProgress& progress,
                                                         const std::string& program = {},
                                                         const std::stop_token& stop = {});
inline constexpr std::string_view kStartStopped = "the start was given up";

}  // namespace fourfold::runtime

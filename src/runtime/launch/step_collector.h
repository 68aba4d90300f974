#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "engine/step.h"
#include "mesh/mesh.h"
#include "runtime/worker.h"

namespace fourfold::runtime {

/// Puts the reports of a group's ranks together into step results, in the order of submission. Not
/// thread-safe.
class StepCollector {
 public:
  explicit StepCollector(const mesh::ParallelConfig& group) : group_(group) {}

  /// `step` was submitted: every stage of every replica will report once.
  void expect(engine::StepId step);
  /// Errors: a report that nobody waits for.
  base::Status add(int rank, StageReport report);
  /// From now on every step that is not complete fails for this reason; the first one stays.
  void fail(std::string reason);

  int64_t outstanding() const { return std::ssize(pending_); }
  const std::optional<std::string>& failure() const { return failure_; }
  /// The oldest outstanding step is complete or has failed: take() may be called.
  bool ready() const;
  engine::StepResult take();

 private:
  struct Pending {
    engine::StepId step;
    std::vector<std::optional<engine::StepOutput>> parts;  // [stage][replica]
    int64_t missing = 0;
  };

  mesh::ParallelConfig group_;
  std::deque<Pending> pending_;
  std::optional<std::string> failure_;
};

}  // namespace fourfold::runtime

#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "engine/check_invariants_test.h"
#include "engine/scheduler.h"

// What tests of the scheduler are made with.
namespace fourfold::engine {

inline constexpr SequenceId kA{1};
inline constexpr SequenceId kB{2};
inline constexpr SequenceId kC{3};

inline ExecutorLimits roomy() {
  return {.replicas = 1,
          .stages = 1,
          .depth = 4,
          .slots = 8,
          .max_step_tokens = 64,
          .block_size = 4,
          .blocks = 64,
          .max_positions = 100};
}

inline Request request(SequenceId id, int32_t prompt_tokens, int32_t max_new_tokens = 20) {
  Request out;
  out.id = id;
  for (int32_t i = 0; i < prompt_tokens; ++i) {
    out.prompt.push_back(static_cast<TokenId>(100 * id.value) + i);
  }
  out.max_new_tokens = max_new_tokens;
  return out;
}

/// A Scheduler whose steps are numbered and whose every sampled token is 7 unless told otherwise.
class Bench {
 public:
  explicit Bench(const ExecutorLimits& limits, const SchedulerOptions& options = {})
      : scheduler(limits, options) {}

  void add(Request r) {
    const base::Status status = scheduler.add(std::move(r));
    ASSERT_TRUE(status.ok()) << status.error().message;
  }

  std::optional<StepBatch> plan() {
    std::optional<StepBatch> batch = scheduler.plan(StepId(planned_));
    if (batch) ++planned_;
    return batch;
  }

  StepRecord commit(TokenId token = 7) {
    StepOutput output;
    for (int32_t i = 0; i < rows_.at(static_cast<size_t>(committed_)); ++i) {
      SampledToken sampled;
      sampled.token = token;
      output.sampled.push_back({sampled});
    }
    StepRecord record = scheduler.commit(StepId(committed_++), std::move(output));
    const base::Status status = check_invariants(scheduler.snapshot());
    EXPECT_TRUE(status.ok()) << status.error().message;
    return record;
  }

  /// Plans a step and keeps count of its sampled rows for commit().
  StepBatch step() {
    std::optional<StepBatch> batch = plan();
    EXPECT_TRUE(batch);
    if (!batch) return {};
    rows_.push_back(0);
    for (const Chunk& chunk : batch->chunks) rows_.back() += chunk.sample ? 1 : 0;
    return *batch;
  }

  Scheduler scheduler;

 private:
  int64_t planned_ = 0;
  int64_t committed_ = 0;
  std::vector<int32_t> rows_;  ///< sampled in each step
};

inline std::vector<int32_t> chunk_sizes(const StepBatch& batch) {
  std::vector<int32_t> out;
  for (const Chunk& chunk : batch.chunks) out.push_back(chunk.num_tokens);
  return out;
}

}  // namespace fourfold::engine

// What a decode step costs in the scheduler: Scheduler::plan and Scheduler::commit for N running
// sequences, one step ahead of results. The bound for plan is 50 us at N = 256.

#include <benchmark/benchmark.h>

#include <memory>

#include "base/check.h"
#include "base/clock.h"
#include "engine/scheduler.h"

namespace fourfold::engine {
namespace {

constexpr int32_t kPromptTokens = 128;
constexpr int32_t kNewTokens = 4096;

/// Sequences that all decode, with one step in flight.
class DecodingBatch {
 public:
  explicit DecodingBatch(int32_t sequences)
      : scheduler_({.replicas = 1,
                    .stages = 1,
                    .depth = 2,
                    .slots = sequences,
                    .max_step_tokens = sequences * kPromptTokens,
                    .block_size = 16,
                    .blocks = int64_t{sequences} * (kPromptTokens + kNewTokens) / 16,
                    .max_positions = kPromptTokens + kNewTokens},
                   {.lookahead = 1}) {
    for (int32_t i = 0; i < sequences; ++i) {
      Request request;
      request.id = SequenceId(i);
      request.prompt.assign(kPromptTokens, i);
      request.max_new_tokens = kNewTokens;
      const base::Status added = scheduler_.add(std::move(request));
      CHECK(added.ok(), "{}", added.error().message);
    }
    output_.sampled.resize(static_cast<size_t>(sequences), std::vector<SampledToken>(1));
    plan();
  }

  void plan() {
    const std::optional<StepBatch> batch = scheduler_.plan(StepId(planned_++));
    CHECK(batch && batch->chunks.size() == output_.sampled.size(), "a sequence was left out");
  }

  void commit() {
    output_ = scheduler_.commit(StepId(committed_++), std::move(output_)).output;
    scheduler_.take_events();
  }

  bool at_end() const { return planned_ == kNewTokens; }

 private:
  Scheduler scheduler_;
  StepOutput output_;
  int64_t planned_ = 0;
  int64_t committed_ = 0;
};

enum class Part { kPlan, kCommit };

void decode(benchmark::State& state, Part part) {
  const auto sequences = static_cast<int32_t>(state.range(0));
  const base::SteadyClock clock;
  auto batch = std::make_unique<DecodingBatch>(sequences);
  for (auto _ : state) {
    if (batch->at_end()) batch = std::make_unique<DecodingBatch>(sequences);
    const int64_t begin_ns = clock.now_ns();
    batch->plan();
    const int64_t planned_ns = clock.now_ns();
    batch->commit();
    const int64_t end_ns = clock.now_ns();
    state.SetIterationTime(part == Part::kPlan ? base::seconds_between(begin_ns, planned_ns)
                                               : base::seconds_between(planned_ns, end_ns));
  }
  state.counters["per_sequence"] = benchmark::Counter(
      static_cast<double>(sequences),
      benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kInvert);
}

BENCHMARK_CAPTURE(decode, plan, Part::kPlan)
    ->Arg(1)
    ->Arg(16)
    ->Arg(256)
    ->Arg(1024)
    ->UseManualTime()
    ->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(decode, commit, Part::kCommit)
    ->Arg(256)
    ->UseManualTime()
    ->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace fourfold::engine

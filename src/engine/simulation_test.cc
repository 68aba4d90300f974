// Ten thousand random lives of an engine on the toy model: whatever the limits, options, arrivals
// and cancellations, invariants hold after every step and every answer is the one that the model
// gives to the request alone. Where the executor fails, another engine goes on with what it had.

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <optional>
#include <random>

#include "base/clock.h"
#include "engine/check_invariants_test.h"
#include "engine/engine.h"
#include "engine/simulated_executor_test.h"

namespace fourfold::engine {
namespace {

constexpr uint64_t kSeeds = 10'000;

class Random {
 public:
  explicit Random(uint64_t seed) : state_(mix(seed, 1)) {}
  /// Uniform in [low, high].
  int32_t in(int32_t low, int32_t high) {
    state_ = mix(state_, 0);
    return low + static_cast<int32_t>(state_ % static_cast<uint64_t>(high - low + 1));
  }
  bool percent(int32_t chance) { return in(0, 99) < chance; }

 private:
  uint64_t state_;
};

/// Few hash values, so that most published blocks collide.
uint64_t weak_hash(PrefixId parent, std::span<const TokenId> tokens) {
  return hash_block(parent, tokens) % 3;
}

struct Life {
  SimulatedExecutor::Options executor;
  SchedulerOptions scheduler;
  std::vector<Request> requests;
  std::vector<Request> alone;  ///< by sequence id: each choice as a request of its own
  int32_t arrival_percent = 0;
  int32_t cancel_percent = 0;
  bool trace = false;
};

void add_request(Life& life, Request request, int32_t choices) {
  for (int32_t c = 0; c < choices; ++c) {
    const SequenceId id(std::ssize(life.alone));
    Request alone = request;
    alone.id = id;
    alone.sampling.choice += c;
    life.alone.push_back(std::move(alone));
    if (c == 0) {
      request.id = id;
    } else {
      request.forks.push_back(id);
    }
  }
  life.requests.push_back(std::move(request));
}

Life make_life(uint64_t seed) {
  Random random(seed);
  Life life;
  ExecutorLimits& limits = life.executor.limits;
  limits.replicas = random.percent(20) ? random.in(2, 3) : 1;
  limits.stages = random.in(1, 4);
  limits.depth = random.in(1, 6);
  limits.slots = random.in(1, 8);
  limits.max_step_tokens = random.percent(50) ? random.in(1, 8) : random.in(8, 64);
  limits.block_size = random.percent(30) ? 1 : random.in(2, 8);
  limits.max_positions = random.in(16, 40);
  // From hardly enough for one sequence to enough for all.
  const int32_t longest = 40 / limits.block_size + 1;
  limits.blocks = random.percent(60) ? random.in(longest / 2, longest * 2) : longest * 8;
  life.executor.vocab = random.in(2, 30);
  if (random.percent(10)) life.executor.fail_at_step = random.in(0, 20);

  SchedulerOptions& options = life.scheduler;
  options.max_step_tokens = random.percent(30) ? random.in(1, 16) : 0;
  options.chunk_tokens = random.percent(30) ? 1 : random.in(0, 8);
  options.lookahead = random.in(0, 3);
  options.prefix_cache = random.percent(75);
  options.preempt_every_k = random.percent(30) ? random.in(1, 7) : 0;
  if (random.percent(20)) options.block_hash = &weak_hash;

  const int32_t count = random.in(1, 10);
  const bool sharing = random.percent(70);
  for (int32_t i = 0; i < count; ++i) {
    Request request;
    const int32_t length = random.in(1, 24);
    const int32_t shared = sharing ? random.in(0, 24) : 0;
    for (int32_t p = 0; p < length; ++p) {
      request.prompt.push_back(p < shared ? p % life.executor.vocab
                                          : random.in(0, life.executor.vocab - 1));
    }
    request.max_new_tokens = random.in(1, 14);
    request.sampling.seed = static_cast<uint64_t>(random.in(0, 1000));
    if (random.percent(60)) request.stop_tokens = {random.in(0, life.executor.vocab - 1)};
    request.ignore_eos = random.percent(20);
    if (random.percent(20)) request.sampling.min_tokens = random.in(1, request.max_new_tokens);
    if (random.percent(20)) request.sampling.repetition_penalty = 1.5F;
    if (random.percent(20)) request.sampling.choice = random.in(0, 3);
    if (random.percent(20)) {
      request.score_prompt = true;
      request.sampling.logprobs = 0;
    }
    add_request(life, std::move(request), random.percent(20) ? random.in(2, 4) : 1);
  }
  life.arrival_percent = random.in(10, 100);
  life.cancel_percent = random.percent(30) ? 5 : 0;
  life.trace = random.percent(50);
  return life;
}

/// What has been seen of one request.
struct Seen {
  std::vector<TokenId> tokens;
  std::vector<SampledToken> scored;  ///< of the prompt, from its second token on
  std::optional<FinishReason> finish;
};

/// What all lives together have met: a perturbation that never happens proves nothing.
struct Coverage {
  EngineStats stats;
  std::map<FinishReason, int64_t> finishes;
  int64_t refused = 0;
  int64_t resumed = 0;  ///< with some output, by another engine
  int64_t zero_row_batches = 0;
  int64_t traced_rows = 0;
  int64_t scored_tokens = 0;
  int64_t told_again = 0;  ///< of them by another engine
};

class LifeRun {
 public:
  LifeRun(uint64_t seed, Coverage& coverage)
      : life_(make_life(seed)), random_(mix(seed, 2)), coverage_(coverage) {
    for (const Request& request : life_.alone) {
      expected_.push_back(
          toy_answer(request, life_.executor.vocab, life_.executor.limits.max_positions));
    }
  }

  void run() {
    live();
    if (testing::Test::HasFailure()) return;
    check_answers();
    if (life_.executor.fail_at_step < 0) return;
    life_.executor.fail_at_step = -1;
    life_.requests = unfinished();
    live();
    if (!testing::Test::HasFailure()) check_answers();
  }

 private:
  /// The life of one engine.
  void live() {
    executor_.emplace(life_.executor);
    engine_.emplace(*executor_, life_.scheduler, clock_);
    if (life_.trace) engine_->trace([this](const StepRecord& record) { observe(record); });
    size_t next = 0;
    for (int32_t i = 0; next < life_.requests.size() || engine_->has_work(); ++i) {
      ASSERT_LT(i, 20'000) << "no end in sight";
      while (next < life_.requests.size() && random_.percent(life_.arrival_percent)) {
        add(life_.requests[next++]);
      }
      if (random_.percent(life_.cancel_percent)) {
        engine_->cancel(SequenceId(random_.in(0, static_cast<int32_t>(life_.alone.size()))));
      }
      if (random_.percent(1)) engine_->clear_prefix_cache();
      for (const SequenceEvent& event : engine_->run_once()) take(event);
      check_state();
      if (testing::Test::HasFailure()) return;
    }
    coverage_.stats.merge(engine_->stats());
    coverage_.zero_row_batches += executor_->zero_row_batches();
  }

  /// What failed, with its output so far.
  std::vector<Request> unfinished() {
    std::vector<Request> out;
    for (const Request& request : life_.alone) {
      const auto it = seen_.find(request.id);
      if (it == seen_.end() || it->second.finish != FinishReason::kFailed) continue;
      Request rest = request;
      rest.forks.clear();
      rest.output = it->second.tokens;
      if (!rest.output.empty()) rest.score_prompt = false;
      if (!rest.output.empty()) ++coverage_.resumed;
      it->second.finish.reset();
      expected_[static_cast<size_t>(request.id.value)] =
          toy_answer(request, life_.executor.vocab, life_.executor.limits.max_positions);
      out.push_back(std::move(rest));
    }
    return out;
  }

  void add(const Request& request) {
    const base::Status status = engine_->add(request);
    if (status.ok()) {
      seen_[request.id].tokens = request.output;
      for (const SequenceId id : request.forks) seen_[id] = {};
      return;
    }
    ++coverage_.refused;
    const ExecutorLimits& limits = executor_->limits();
    const auto prompt = static_cast<int32_t>(request.prompt.size());
    const int32_t positions = std::min(prompt + request.max_new_tokens, limits.max_positions) - 1;
    EXPECT_TRUE(prompt + 1 > limits.max_positions ||
                positions > limits.blocks * limits.block_size || !engine_->failure().empty())
        << status.error().message;
  }

  void take(const SequenceEvent& event) {
    ASSERT_TRUE(seen_.contains(event.id));
    Seen& seen = seen_[event.id];
    EXPECT_FALSE(seen.finish) << "an event after the end of " << event.id.value;
    take_scores(seen, event);
    if (event.token) {
      const Request& request = life_.alone[static_cast<size_t>(event.id.value)];
      EXPECT_EQ(seen.scored.size(), request.score_prompt ? request.prompt.size() - 1 : 0);
      seen.tokens.push_back(event.token->token);
    }
    seen.finish = event.finish;
    if (event.finish) ++coverage_.finishes[*event.finish];
    EXPECT_EQ(event.failure.empty(), event.finish != FinishReason::kFailed);
  }

  /// Each comes once, in order, and is what the model gives to the token behind those before it.
  void take_scores(Seen& seen, const SequenceEvent& event) {
    const auto id = static_cast<size_t>(event.id.value);
    for (size_t i = 0; i < event.prompt.size(); ++i) {
      const size_t position = static_cast<size_t>(event.prompt_position) + i;
      const TokenId token = life_.alone[id].prompt.at(position);
      const SampledToken expected{.token = token,
                                  .logprob = toy_logprob(mix(expected_[id].states.at(position - 1),
                                                             static_cast<uint64_t>(token)))};
      EXPECT_EQ(event.prompt[i], expected) << "sequence " << id << ", position " << position;
      ++coverage_.scored_tokens;
      if (position <= seen.scored.size()) {
        ++coverage_.told_again;
      } else {
        ASSERT_EQ(position, seen.scored.size() + 1);
        seen.scored.push_back(event.prompt[i]);
      }
    }
  }

  /// Every traced row, mapped back to its sequence and position, is what the model computes there.
  void observe(const StepRecord& record) {
    size_t row = 0;
    for (const ChunkRecord& chunk : record.chunks) {
      const std::vector<uint64_t>& states =
          expected_[static_cast<size_t>(chunk.sequence.value)].states;
      for (int32_t i = 0; i < chunk.num_tokens; ++i, ++row) {
        const auto position = static_cast<size_t>(chunk.position) + static_cast<size_t>(i);
        if (position >= states.size()) continue;  // behind a stop token
        ASSERT_LT(row, record.output.trace.size());
        EXPECT_EQ(record.output.trace[row].hash, states[position]) << "position " << position;
        ++coverage_.traced_rows;
      }
    }
    EXPECT_EQ(row, record.output.trace.size());
  }

  void check_state() {
    for (const SchedulerSnapshot& snapshot : engine_->snapshots()) {
      const base::Status status = check_invariants(snapshot);
      EXPECT_TRUE(status.ok()) << status.error().message;
    }
  }

  void check_answers() {
    for (const Request& request : life_.alone) {
      const auto it = seen_.find(request.id);
      if (it == seen_.end()) continue;  // refused
      const Seen& seen = it->second;
      ASSERT_TRUE(seen.finish) << "request " << request.id.value << " never ended";
      ToyAnswer& expected = expected_[static_cast<size_t>(request.id.value)];
      if (*seen.finish == FinishReason::kCancelled || *seen.finish == FinishReason::kFailed) {
        ASSERT_LE(seen.tokens.size(), expected.tokens.size());
        expected.tokens.resize(seen.tokens.size());
      } else {
        EXPECT_EQ(*seen.finish, expected.reason);
      }
      EXPECT_EQ(seen.tokens, expected.tokens) << "request " << request.id.value;
    }
    for (const SchedulerSnapshot& snapshot : engine_->snapshots()) {
      EXPECT_TRUE(snapshot.sequences.empty());
      EXPECT_EQ(snapshot.free_blocks.size(), snapshot.references.size());
    }
  }

  Life life_;
  std::vector<ToyAnswer> expected_;  ///< by sequence id
  Random random_;
  Coverage& coverage_;
  base::ManualClock clock_;
  std::optional<SimulatedExecutor> executor_;
  std::optional<Engine> engine_;
  std::map<SequenceId, Seen> seen_;
};

TEST(Simulation, AnswersAsIfEveryRequestWereAlone) {
  Coverage coverage;
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    LifeRun(seed, coverage).run();
    if (HasFailure()) return;
  }
  const SchedulerStats& stats = coverage.stats.scheduler;
  EXPECT_GT(stats.preemptions, 1000);
  EXPECT_GT(stats.hit_tokens, 1000);
  EXPECT_LT(stats.hit_tokens, stats.queried_tokens);
  EXPECT_GT(stats.forked_tokens, 1000);
  EXPECT_GT(stats.lookahead_rows, 1000);
  EXPECT_GE(stats.max_prompt_chunks, 6) << "depth is up to 6";
  EXPECT_GT(coverage.traced_rows, 1000);
  EXPECT_GT(coverage.refused, 100);
  EXPECT_GT(coverage.resumed, 100);
  EXPECT_GT(coverage.scored_tokens, 10'000);
  EXPECT_GT(coverage.told_again, 10);
  EXPECT_GT(coverage.zero_row_batches, 100);
  for (const FinishReason reason : {FinishReason::kStop, FinishReason::kLength,
                                    FinishReason::kCancelled, FinishReason::kFailed}) {
    EXPECT_GT(coverage.finishes[reason], 100) << static_cast<int>(reason);
  }
  RecordProperty("steps", std::to_string(coverage.stats.steps));
  RecordProperty("preemptions", std::to_string(stats.preemptions));
}

}  // namespace
}  // namespace fourfold::engine

#pragma once

// A toy model behind the Executor interface, for tests. The next token depends on every token of
// the sequence so far, on seed, choice and position, and the model reads its past only from KV
// blocks through the block tables that the steps build. With penalties it depends on the tokens
// that the sampler was told of or sampled, too. So a wrong block, table, position, order, reference
// or history changes the answer.

#include <algorithm>
#include <cstdint>
#include <deque>
#include <utility>
#include <vector>

#include "base/check.h"
#include "engine/executor.h"
#include "engine/request.h"

namespace fourfold::engine {

/// Mixes as splitmix64 does.
constexpr uint64_t mix(uint64_t a, uint64_t b) {
  uint64_t x = a * 0x9E3779B97F4A7C15 + b + 0x632BE59BD9B4E019;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  return x ^ (x >> 31);
}

/// A log-probability that is as much as 20 bits of its argument.
inline float toy_logprob(uint64_t bits) { return -static_cast<float>(bits >> 44); }

/// The token at `position`. `start` is what the sampler knows of the sequence, its history up to
/// date.
inline TokenId toy_token(uint64_t state, const SlotStart& start, int32_t position, int32_t vocab) {
  const SamplingParams& sampling = start.sampling;
  uint64_t draw = mix(mix(state, sampling.seed), static_cast<uint64_t>(position));
  draw = mix(draw, static_cast<uint64_t>(sampling.choice));
  for (const TokenId token : start.history) draw = mix(draw, static_cast<uint64_t>(token));
  auto token = static_cast<TokenId>(draw % static_cast<uint64_t>(vocab));
  if (position - start.prompt_tokens < sampling.min_tokens &&
      std::count(start.stop_tokens.begin(), start.stop_tokens.end(), token) > 0) {
    token = (token + 1) % vocab;  // the only stop token of these tests is masked
  }
  return token;
}

/// What the toy model says to a request when it is alone, and why it stops.
struct ToyAnswer {
  std::vector<TokenId> tokens;
  FinishReason reason = FinishReason::kLength;
  std::vector<uint64_t> states;  ///< of each position that was computed: what a trace shows
};

inline ToyAnswer toy_answer(const Request& request, int32_t vocab, int32_t max_positions) {
  ToyAnswer answer;
  uint64_t past = 0;
  const auto feed = [&](TokenId token) {
    answer.states.push_back(mix(past, static_cast<uint64_t>(token)));
    past = mix(past, answer.states.back());
  };
  SlotStart start;
  start.sampling = request.sampling;
  start.stop_tokens = request.stop_tokens;
  start.prompt_tokens = static_cast<int32_t>(request.prompt.size());
  const auto remember = [&](TokenId token) {
    if (request.sampling.has_penalties()) start.history.push_back(token);
  };
  for (const TokenId token : request.prompt) {
    feed(token);
    remember(token);
  }
  int32_t position = start.prompt_tokens;
  for (int32_t i = 0; i < request.max_new_tokens && position < max_positions; ++i, ++position) {
    const TokenId token = toy_token(answer.states.back(), start, position, vocab);
    answer.tokens.push_back(token);
    remember(token);
    if (!request.ignore_eos) {
      for (const TokenId stop : request.stop_tokens) {
        if (token == stop) answer.reason = FinishReason::kStop;
      }
    }
    if (answer.reason == FinishReason::kStop) break;
    feed(token);
  }
  return answer;
}

class SimulatedExecutor final : public Executor {
 public:
  struct Options {
    ExecutorLimits limits;
    int32_t vocab = 0;
    int64_t fail_at_step = -1;  ///< this step and all later ones fail
  };

  explicit SimulatedExecutor(const Options& options)
      : options_(options), replicas_(static_cast<size_t>(options.limits.replicas)) {
    const ExecutorLimits& l = options.limits;
    for (Replica& replica : replicas_) {
      replica.cache.resize(static_cast<size_t>(l.blocks * l.block_size));
      replica.slots.resize(static_cast<size_t>(l.slots));
    }
  }

  const ExecutorLimits& limits() const override { return options_.limits; }

  void submit(std::vector<StepBatch> batches) override {
    CHECK(batches.size() == replicas_.size(), "{} batches", batches.size());
    CHECK(std::cmp_less(outstanding_.size(), limits().depth), "too many outstanding steps");
    for (const StepBatch& batch : batches) {
      CHECK(batch.step.value == submitted_, "step {} after {}", batch.step.value, submitted_ - 1);
      if (batch.chunks.empty()) ++zero_row_batches_;
    }
    ++submitted_;
    last_numerics_ = batches.front().numerics;
    outstanding_.push_back(std::move(batches));
  }

  StepResult wait() override {
    CHECK(!outstanding_.empty(), "no step is outstanding");
    const std::vector<StepBatch> batches = std::move(outstanding_.front());
    outstanding_.pop_front();
    StepResult result{.step = batches[0].step, .outputs = {}, .failed = false, .failure = {}};
    if (options_.fail_at_step >= 0 && result.step.value >= options_.fail_at_step) {
      result.failed = true;
      result.failure = "rank 1 (stage 1, shard 0) was killed";
      return result;
    }
    for (size_t i = 0; i < batches.size(); ++i) {
      result.outputs.push_back(run(replicas_[i], batches[i]));
    }
    return result;
  }

  int64_t submitted() const { return submitted_; }
  /// Of the latest step, its first replica.
  base::Numerics last_numerics() const { return last_numerics_; }
  int64_t zero_row_batches() const { return zero_row_batches_; }

 private:
  struct Slot {
    SlotStart start;
    std::vector<BlockId> blocks;
  };
  struct Replica {
    std::vector<uint64_t> cache;  ///< [blocks][block_size]
    std::vector<Slot> slots;
    std::deque<std::pair<StepId, std::vector<TokenId>>> sampled;  ///< of the last depth steps
  };

  uint64_t& cell(Replica& replica, const Slot& slot, int32_t position) const {
    const BlockId block = slot.blocks.at(static_cast<size_t>(position / limits().block_size));
    return replica.cache.at(static_cast<size_t>(int64_t{block.value} * limits().block_size +
                                                position % limits().block_size));
  }

  TokenId resolve(const Replica& replica, const StepBatch& batch, TokenId token) const {
    if (token >= 0) return token;
    const SampledRef& ref = batch.refs.at(static_cast<size_t>(-1 - token));
    for (const auto& [step, tokens] : replica.sampled) {
      if (step == ref.step) return tokens.at(static_cast<size_t>(ref.row));
    }
    CHECK(false, "step {} names step {}, which is long past", batch.step.value, ref.step.value);
  }

  StepOutput run(Replica& replica, const StepBatch& batch) {
    CHECK(std::cmp_less_equal(batch.tokens.size(), limits().max_step_tokens), "{} rows",
          batch.tokens.size());
    for (const SlotStart& start : batch.starts) {
      replica.slots.at(static_cast<size_t>(start.slot.value)) = {start, {}};
    }
    StepOutput output;
    std::vector<TokenId> sampled;
    size_t row = 0;
    size_t block = 0;
    size_t next_target = 0;
    for (const Chunk& chunk : batch.chunks) {
      Slot& slot = replica.slots.at(static_cast<size_t>(chunk.slot.value));
      for (int32_t i = 0; i < chunk.num_blocks; ++i) {
        slot.blocks.push_back(batch.blocks.at(block++));
      }
      CHECK(chunk.num_tokens > 0, "an empty chunk");
      uint64_t state = 0;
      for (int32_t i = 0; i < chunk.num_tokens; ++i) {
        const int32_t position = chunk.position + i;
        CHECK(position < limits().max_positions, "position {}", position);
        uint64_t past = 0;
        for (int32_t p = 0; p < position; ++p) past = mix(past, cell(replica, slot, p));
        const TokenId token = resolve(replica, batch, batch.tokens.at(row));
        state = mix(past, static_cast<uint64_t>(token));
        if (batch.trace) output.trace.push_back({0, static_cast<int32_t>(row), state});
        ++row;
        if (i < chunk.scored) {
          // What a score depends on: all tokens so far, and the one that is scored.
          const TokenId target = batch.targets.at(next_target++);
          const uint64_t bits = mix(state, static_cast<uint64_t>(target));
          output.sampled.push_back({SampledToken{.token = target, .logprob = toy_logprob(bits)}});
          sampled.push_back(target);
        }
        cell(replica, slot, position) = state;
      }
      if (!chunk.sample) continue;
      const TokenId token =
          toy_token(state, slot.start, chunk.position + chunk.num_tokens, options_.vocab);
      if (slot.start.sampling.has_penalties()) slot.start.history.push_back(token);
      sampled.push_back(token);
      output.sampled.push_back({SampledToken{.token = token}});
    }
    CHECK(row == batch.tokens.size() && next_target == batch.targets.size() &&
              block == batch.blocks.size(),
          "tokens or blocks left over");
    CHECK(std::cmp_less_equal(sampled.size(), limits().slots), "{} sampled rows", sampled.size());
    replica.sampled.emplace_back(batch.step, std::move(sampled));
    if (std::cmp_greater(replica.sampled.size(), limits().depth)) replica.sampled.pop_front();
    return output;
  }

  Options options_;
  std::vector<Replica> replicas_;
  std::deque<std::vector<StepBatch>> outstanding_;
  int64_t submitted_ = 0;
  base::Numerics last_numerics_ = base::Numerics::kInvariant;
  int64_t zero_row_batches_ = 0;
};

}  // namespace fourfold::engine

#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "engine/executor.h"
#include "engine/kv_cache.h"
#include "engine/replica_choice.h"
#include "engine/request.h"
#include "engine/sequence.h"
#include "engine/snapshot.h"
#include "engine/step.h"
#include "engine/step_record.h"

namespace fourfold::engine {

struct SchedulerOptions {
  int32_t max_step_tokens = 0;  ///< of one step; 0: as many as the executor takes
  int32_t chunk_tokens = 0;     ///< of one prompt in one step; 0: as many as the step takes
  /// Sampled tokens of one sequence that may be unknown when its next one is planned. 0: every
  /// result is waited for.
  int32_t lookahead = 1;
  bool prefix_cache = true;

  int32_t preempt_every_k = 0;         ///< tests: preempt the youngest sequence every k plans
  BlockHash block_hash = &hash_block;  ///< tests: collisions
};

/// Counters since the start, for one replica or several.
struct SchedulerStats {
  int64_t queried_tokens = 0;  ///< prompt tokens looked up in the prefix cache, once a request
  int64_t hit_tokens = 0;      ///< those of them that needed no computing
  int64_t forked_tokens = 0;   ///< prompt tokens that a choice got from another; not counted above
  int64_t preemptions = 0;
  int64_t lookahead_rows = 0;  ///< rows whose token was not known when they were planned
  int64_t peak_blocks = 0;     ///< used at once in one replica since the prefix cache was cleared
  int64_t max_prompt_chunks = 0;  ///< of one sequence in flight at once

  void merge(const SchedulerStats& other);
};

/// How full the replicas are at one moment.
struct Occupancy {
  int64_t running = 0;  ///< sequences
  int64_t waiting = 0;
  int64_t used_blocks = 0;
  int64_t blocks = 0;

  void merge(const Occupancy& other);
  bool operator==(const Occupancy&) const = default;
};

/// Decides what one replica computes in each step. Integers only; used by one thread.
///
/// - First come, first served: running sequences in order of arrival, then waiting ones.
/// - A step's tokens are shared by decodes, which come first, and prompt chunks. With several
///   stages a step takes at most ceil(decoding / stages) decodes, so that every stage has some, and
///   an even part of the prompt tokens that wait or are in flight: prompts that one step could hold
///   would pass the stages one after the other while the others have nothing to do.
/// - A sequence gets the blocks of its prompt when it starts and one more whenever it grows into
///   it. If none is free, the youngest running sequence is preempted: its blocks go back once none
///   of its steps is in flight, and its prompt and output so far are computed again later. Sampling
///   depends on positions only, so its output stays the same. The oldest is never preempted, which
///   is why something always gets done.
/// - Several choices of one prompt are a sequence each. While one of them computes the prompt the
///   others wait, and later requests may pass them; then they share the blocks that it fills and
///   compute the rest of the prompt, less than a block or one token, each for itself.
/// - Log-probabilities of a prompt take a sampled row for each of its tokens. A step has as many
///   such rows as there are slots.
/// - Blocks and slots are given back only when no step that names them is in flight.
class Scheduler {
 public:
  Scheduler(const ExecutorLimits& limits, const SchedulerOptions& options);

  /// Queues a request. Errors: an empty request, one that can never fit, sampling parameters out of
  /// their range.
  base::Status add(Request request);
  /// Ends a sequence with kCancelled. No effect if it has ended.
  void cancel(SequenceId id);
  /// Ends all sequences with kFailed and forgets the steps in flight.
  void fail_all(const std::string& failure);

  /// The next step, or nothing if no sequence can go on before a result is known. Steps must be
  /// submitted in the order of their plans.
  std::optional<StepBatch> plan(StepId step);
  /// Takes the output of the oldest step in flight. A step that plan() had nothing for has no
  /// output and an empty record.
  StepRecord commit(StepId step, StepOutput output);

  /// Events since the last call, in order.
  std::vector<SequenceEvent> take_events();

  /// Sequences that have not ended.
  int64_t unfinished() const { return static_cast<int64_t>(running_.size() + waiting_.size()); }
  bool has_events() const { return !events_.empty(); }
  ReplicaLoad load(std::span<const TokenId> prompt) const;
  void clear_prefix_cache() { cache_.clear_prefixes(); }
  /// StepBatch::trace and StepBatch::numerics of every step from now on.
  void set_trace(bool trace) { trace_ = trace; }
  void set_numerics(base::Numerics numerics) { numerics_ = numerics; }
  SchedulerStats stats() const;
  Occupancy occupancy() const;
  SchedulerSnapshot snapshot() const;

 private:
  /// A step being planned and the tokens that it may still take.
  struct Draft {
    StepBatch batch;
    std::vector<ChunkRecord> chunks;
    int64_t decodes = 0;
    int64_t prompt_tokens = 0;
    int32_t sampled_rows = 0;  ///< at most as many as there are slots
    bool starved = false;      ///< a sequence found no block
  };

  base::Status check(const Request& request) const;
  int32_t shared_positions(const Sequence& sequence) const;
  const Sequence* running_sibling(const Sequence& sequence) const;
  bool can_decode(const Sequence& sequence, StepId step, int32_t distance) const;
  void set_budgets(Draft& draft, int32_t distance) const;
  int64_t prompt_share() const;
  void plan_running(Draft& draft, int32_t distance);
  void plan_waiting(Draft& draft);
  void plan_prompt(Draft& draft, Sequence& sequence, int64_t others);
  void add_chunk(Draft& draft, Sequence& sequence, int32_t num_tokens);
  bool make_room(const Sequence& needy);
  bool preempt_youngest();
  void requeue(Sequence& sequence);
  void accept(Sequence& sequence, const std::vector<SampledToken>& sampled);
  void accept_scores(Sequence& sequence, int32_t position,
                     std::span<const std::vector<SampledToken>> scored);
  static base::Status follow_constraint(Sequence& sequence, TokenId token);
  void end(Sequence& sequence, std::optional<SampledToken> token, FinishReason reason);
  void retire(Sequence& sequence);
  void give_back(Sequence& sequence);

  ExecutorLimits limits_;
  SchedulerOptions options_;
  KvCache cache_;
  std::vector<SlotId> free_slots_;
  std::unordered_map<SequenceId, std::unique_ptr<Sequence>> sequences_;
  std::vector<Sequence*> running_;  ///< in the order of admission
  std::deque<Sequence*> waiting_;   ///< the preempted, then by arrival
  Sequence* preempting_ = nullptr;  ///< the youngest running, preempted when its steps are back
  std::deque<StepRecord> in_flight_;
  std::vector<SequenceEvent> events_;
  SchedulerStats stats_;
  int64_t plans_ = 0;
  bool trace_ = false;
  base::Numerics numerics_ = base::Numerics::kInvariant;
};

}  // namespace fourfold::engine

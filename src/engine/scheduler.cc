#include "engine/scheduler.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/sizes.h"

namespace fourfold::engine {
namespace {

/// Prompt tokens that are not split over steps: so few cost hardly more than reading the weights.
constexpr int64_t kLeastShare = 32;

}  // namespace

void SchedulerStats::merge(const SchedulerStats& other) {
  queried_tokens += other.queried_tokens;
  hit_tokens += other.hit_tokens;
  forked_tokens += other.forked_tokens;
  preemptions += other.preemptions;
  lookahead_rows += other.lookahead_rows;
  peak_blocks = std::max(peak_blocks, other.peak_blocks);
  max_prompt_chunks = std::max(max_prompt_chunks, other.max_prompt_chunks);
}

void Occupancy::merge(const Occupancy& other) {
  running += other.running;
  waiting += other.waiting;
  used_blocks += other.used_blocks;
  blocks += other.blocks;
}

namespace {

/// Of prompt and output together.
int64_t token_limit(const Request& request, const ExecutorLimits& limits) {
  return std::min(static_cast<int64_t>(request.prompt.size()) + request.max_new_tokens,
                  int64_t{limits.max_positions});
}

SlotStart slot_start(const Sequence& sequence) {
  SlotStart start{.slot = sequence.slot,
                  .sampling = sequence.sampling,
                  .prompt_tokens = sequence.prompt_tokens,
                  .history = {},
                  .stop_tokens = {}};
  if (sequence.sampling.has_penalties()) start.history = sequence.tokens;
  if (sequence.sampling.min_tokens > 0) start.stop_tokens = sequence.stop_tokens;
  return start;
}

}  // namespace

Scheduler::Scheduler(const ExecutorLimits& limits, const SchedulerOptions& options)
    : limits_(limits),
      options_(options),
      cache_(limits.blocks, limits.block_size, options.prefix_cache, options.block_hash) {
  CHECK(limits.slots > 0 && limits.stages > 0 && limits.max_step_tokens > 0,
        "{} slots, {} stages, {} tokens a step", limits.slots, limits.stages,
        limits.max_step_tokens);
  if (options_.max_step_tokens == 0) options_.max_step_tokens = limits.max_step_tokens;
  options_.max_step_tokens = std::min(options_.max_step_tokens, limits.max_step_tokens);
  if (options_.chunk_tokens == 0) options_.chunk_tokens = options_.max_step_tokens;
  for (int32_t slot = limits.slots - 1; slot >= 0; --slot) free_slots_.emplace_back(slot);
}

base::Status Scheduler::check(const Request& request) const {
  const auto prompt = static_cast<int64_t>(request.prompt.size());
  const auto output = static_cast<int64_t>(request.output.size());
  FF_TRY(check_sampling(request.sampling));
  if (request.sampling.min_tokens > request.max_new_tokens) {
    return base::fail("min_tokens is {}, expected at most {}, the number of new tokens",
                      request.sampling.min_tokens, request.max_new_tokens);
  }
  if (prompt == 0 || request.max_new_tokens < 1) {
    return base::fail("a request needs a prompt token and a new token, this one has {} and {}",
                      prompt, request.max_new_tokens);
  }
  for (const std::vector<TokenId>* tokens : {&request.prompt, &request.output}) {
    const auto negative =
        std::find_if(tokens->begin(), tokens->end(), [](TokenId token) { return token < 0; });
    if (negative != tokens->end()) {
      return base::fail("the {} has token {}; tokens are not negative",
                        tokens == &request.prompt ? "prompt" : "output", *negative);
    }
  }
  if (request.score_prompt && request.sampling.logprobs < 0) {
    return base::fail("score_prompt needs logprobs, which say how many are told");
  }
  if (prompt + 1 > limits_.max_positions) {
    return base::fail(
        "a prompt of {} tokens and one new token do not fit a context of {}; shorten "
        "the prompt or allow a longer context",
        prompt, limits_.max_positions);
  }
  const int64_t max_tokens = token_limit(request, limits_);
  if (prompt + output >= max_tokens || (output > 0 && !request.forks.empty())) {
    return base::fail("an output of {} tokens cannot go on: it has {} at most, in {} choices",
                      output, max_tokens - prompt, request.forks.size() + 1);
  }
  // The last token is sampled, but never computed.
  const int64_t blocks = cache_.blocks_for(max_tokens - 1);
  if (blocks > limits_.blocks) {
    return base::fail(
        "{} tokens of prompt and output need {} KV blocks of {} positions, the cache "
        "has {}; ask for fewer tokens or give the cache more memory",
        max_tokens, blocks, limits_.block_size, limits_.blocks);
  }
  return {};
}

base::Status Scheduler::add(Request request) {
  FF_TRY(check(request));
  Sequence sequence;
  sequence.id = request.id;
  if (!request.forks.empty() && !request.score_prompt) sequence.family = request.id;
  sequence.sampling = std::move(request.sampling);
  sequence.stop_tokens = std::move(request.stop_tokens);
  sequence.ignore_stop = request.ignore_eos;
  sequence.prompt_tokens = static_cast<int32_t>(request.prompt.size());
  // Nothing comes before the first token, so that it has none.
  sequence.scored = request.score_prompt ? 1 : sequence.prompt_tokens;
  sequence.max_tokens = static_cast<int32_t>(token_limit(request, limits_));
  sequence.tokens = std::move(request.prompt);
  sequence.tokens.insert(sequence.tokens.end(), request.output.begin(), request.output.end());
  const text::TokenConstraint* const constraint = request.constraint.get();
  if (constraint != nullptr) {
    sequence.walk = constraint->begin();
    FF_ASSIGN(sequence.allowed, sequence.walk->allowed());
    for (const TokenId token : request.output) FF_TRY(follow_constraint(sequence, token));
  }
  request.forks.insert(request.forks.begin(), request.id);
  for (const SequenceId id : request.forks) {
    CHECK(id.valid() && !sequences_.contains(id), "sequence {} exists already", id.value);
    sequence.id = id;
    auto owned = std::make_unique<Sequence>(sequence);
    if (constraint != nullptr && id != request.id) owned->walk = constraint->begin();
    waiting_.push_back(owned.get());
    sequences_.emplace(id, std::move(owned));
    ++sequence.sampling.choice;
  }
  return {};
}

void Scheduler::cancel(SequenceId id) {
  const auto it = sequences_.find(id);
  if (it == sequences_.end() || it->second->ended) return;
  Sequence& sequence = *it->second;
  end(sequence, std::nullopt, FinishReason::kCancelled);
  if (sequence.in_flight == 0) retire(sequence);
}

void Scheduler::fail_all(const std::string& failure) {
  std::vector<Sequence*> alive = running_;
  alive.insert(alive.end(), waiting_.begin(), waiting_.end());
  for (Sequence* sequence : alive) {
    end(*sequence, std::nullopt, FinishReason::kFailed);
    events_.back().failure = failure;
  }
  in_flight_.clear();
  for (auto& [id, sequence] : sequences_) give_back(*sequence);
  sequences_.clear();
}

std::optional<StepBatch> Scheduler::plan(StepId step) {
  ++plans_;
  if (options_.preempt_every_k > 0 && plans_ % options_.preempt_every_k == 0 &&
      running_.size() > 1 && preempting_ == nullptr) {
    preempt_youngest();
  }
  Draft draft;
  draft.batch.step = step;
  draft.batch.trace = trace_;
  draft.batch.numerics = numerics_;
  draft.batch.chunks.reserve(running_.size());
  draft.batch.tokens.reserve(running_.size());
  draft.chunks.reserve(running_.size());

  plan_running(draft, limits_.stages);
  if (!draft.starved && preempting_ == nullptr) plan_waiting(draft);
  // Too few sequences to keep all stages busy: the first stage may as well wait for a token.
  if (draft.chunks.empty() && limits_.stages > 1) plan_running(draft, 1);
  if (draft.chunks.empty()) return std::nullopt;
  in_flight_.push_back(
      {.step = step, .replica = 0, .chunks = std::move(draft.chunks), .output = {}});
  return std::move(draft.batch);
}

/// `distance`: steps between the sampling of a token that is still unknown and its use. With fewer
/// than there are stages the first stage has to wait for the last.
bool Scheduler::can_decode(const Sequence& sequence, StepId step, int32_t distance) const {
  if (sequence.length() >= sequence.max_tokens || sequence.pending > options_.lookahead) {
    return false;
  }
  // Which tokens may come next depends on the one before.
  if (sequence.walk != nullptr && sequence.pending > 0) return false;
  return sequence.pending == 0 || step.value - sequence.newest.step.value >= distance;
}

void Scheduler::set_budgets(Draft& draft, int32_t distance) const {
  int64_t decoding = 0;
  int64_t ready = 0;
  for (const Sequence* sequence : running_) {
    if (!sequence->decoding()) continue;
    ++decoding;
    if (can_decode(*sequence, draft.batch.step, distance)) ++ready;
  }
  draft.decodes = std::min(
      {ready, base::ceil_div(decoding, limits_.stages), int64_t{options_.max_step_tokens}});
  draft.prompt_tokens =
      std::min(options_.max_step_tokens - draft.decodes, std::max(prompt_share(), kLeastShare));
}

/// The part of one stage in the prompt tokens that are to be computed.
int64_t Scheduler::prompt_share() const {
  if (limits_.stages == 1) return options_.max_step_tokens;
  int64_t tokens = 0;
  for (const StepRecord& step : in_flight_) {
    for (const ChunkRecord& chunk : step.chunks) {
      if (chunk.num_tokens > 1) tokens += chunk.num_tokens;
    }
  }
  for (const Sequence* sequence : running_) {
    if (!sequence->decoding()) tokens += sequence->length() - sequence->planned;
  }
  const int64_t enough = int64_t{limits_.stages} * options_.max_step_tokens;
  for (const Sequence* sequence : waiting_) {
    if (tokens >= enough) break;
    tokens += sequence->length();
  }
  return base::ceil_div(tokens, limits_.stages);
}

void Scheduler::plan_running(Draft& draft, int32_t distance) {
  set_budgets(draft, distance);
  // Preemption shortens running_ at its young end, never before the sequence that asks for it.
  for (size_t i = 0; i < running_.size(); ++i) {
    Sequence& sequence = *running_[i];
    if (&sequence == preempting_) continue;
    if (!sequence.decoding()) {
      plan_prompt(draft, sequence, std::ssize(running_) - static_cast<int64_t>(i) - 1);
      continue;
    }
    if (draft.decodes == 0 || !can_decode(sequence, draft.batch.step, distance)) continue;
    bool has_block = cache_.extend(sequence.table, sequence.planned + 1);
    if (!has_block && make_room(sequence)) {
      has_block = cache_.extend(sequence.table, sequence.planned + 1);
    }
    if (!has_block) {
      draft.starved = true;
      continue;
    }
    --draft.decodes;
    add_chunk(draft, sequence, 1);
  }
}

/// Positions in blocks that a prompt of several choices fills; the block of its last token is
/// never shared.
int32_t Scheduler::shared_positions(const Sequence& sequence) const {
  if (!sequence.family.valid()) return 0;
  return (sequence.prompt_tokens - 1) / limits_.block_size * limits_.block_size;
}

/// The running choice of the same prompt that has computed most; null if there is none.
const Sequence* Scheduler::running_sibling(const Sequence& sequence) const {
  const Sequence* best = nullptr;
  if (!sequence.family.valid()) return best;
  for (const Sequence* other : running_) {
    if (other->family != sequence.family) continue;
    if (best == nullptr || other->computed > best->computed) best = other;
  }
  return best;
}

void Scheduler::plan_waiting(Draft& draft) {
  auto next = waiting_.begin();
  while (next != waiting_.end() && draft.prompt_tokens > 0 && !free_slots_.empty() &&
         draft.sampled_rows < limits_.slots) {
    Sequence& sequence = **next;
    const Sequence* sibling = running_sibling(sequence);
    std::span<const BlockId> fork;
    if (sibling != nullptr) {
      const int32_t shared = shared_positions(sequence);
      if (sibling->computed < shared) {
        ++next;
        continue;
      }
      fork =
          std::span(sibling->table.blocks).first(static_cast<size_t>(shared / limits_.block_size));
    }
    // Room for everyone to grow by a block, or it would be preempted at once.
    const auto headroom = static_cast<int64_t>(running_.size());
    const std::optional<int32_t> known =
        cache_.open(sequence.table, sequence.tokens, headroom, fork,
                    /*known=*/sequence.scored >= sequence.prompt_tokens);
    if (!known) return;
    next = waiting_.erase(next);
    running_.push_back(&sequence);
    sequence.slot = free_slots_.back();
    free_slots_.pop_back();
    sequence.planned = sequence.computed = *known;
    if (sibling != nullptr) {
      stats_.forked_tokens += *known;
    } else if (!sequence.preempted) {
      stats_.queried_tokens += sequence.length();
      stats_.hit_tokens += *known;
    }
    draft.batch.starts.push_back(slot_start(sequence));
    plan_prompt(draft, sequence, /*others=*/0);
  }
}

/// Also for a preempted sequence, whose output so far is computed again like a prompt. `others`:
/// sequences whose turn in this step is still to come, each of which may have a sampled row.
void Scheduler::plan_prompt(Draft& draft, Sequence& sequence, int64_t others) {
  const int64_t rest = sequence.length() - sequence.planned;
  int64_t tokens = std::min({rest, int64_t{options_.chunk_tokens}, draft.prompt_tokens});
  if (sequence.scored < sequence.prompt_tokens) {
    tokens = std::min(tokens, limits_.slots - draft.sampled_rows - others);
  }
  if (tokens == 0) return;
  draft.prompt_tokens -= tokens;
  stats_.max_prompt_chunks = std::max(stats_.max_prompt_chunks, int64_t{sequence.in_flight} + 1);
  add_chunk(draft, sequence, static_cast<int32_t>(tokens));
}

void Scheduler::add_chunk(Draft& draft, Sequence& sequence, int32_t num_tokens) {
  StepBatch& batch = draft.batch;
  const int32_t end = sequence.planned + num_tokens;
  const auto known = std::min(end, static_cast<int32_t>(sequence.tokens.size()));
  batch.tokens.insert(batch.tokens.end(), sequence.tokens.begin() + sequence.planned,
                      sequence.tokens.begin() + std::max(known, sequence.planned));
  if (end > known) {
    CHECK(num_tokens == 1 && end == sequence.length(), "sequence {}: {} unknown tokens to compute",
          sequence.id.value, end - known);
    batch.tokens.push_back(-1 - static_cast<TokenId>(batch.refs.size()));
    batch.refs.push_back(sequence.newest);
    ++stats_.lookahead_rows;
  }
  const auto first_new = sequence.table.blocks.begin() + sequence.announced;
  const auto new_blocks = static_cast<int32_t>(sequence.table.blocks.end() - first_new);
  batch.blocks.insert(batch.blocks.end(), first_new, sequence.table.blocks.end());
  sequence.announced += new_blocks;
  const bool sample = end == sequence.length();
  int32_t scored = 0;
  if (sequence.scored < sequence.prompt_tokens) {
    const int32_t last = std::min(end + 1, sequence.prompt_tokens);
    scored = std::max(0, last - (sequence.planned + 1));
    const auto first = sequence.tokens.begin() + sequence.planned + 1;
    batch.targets.insert(batch.targets.end(), first, first + scored);
    draft.sampled_rows += scored;
  }
  batch.chunks.push_back({.slot = sequence.slot,
                          .position = sequence.planned,
                          .num_tokens = num_tokens,
                          .num_blocks = new_blocks,
                          .sample = sample,
                          .scored = scored});
  draft.chunks.push_back({sequence.id, sequence.planned, num_tokens, sample, scored});
  sequence.planned = end;
  ++sequence.in_flight;
  if (sample) {
    if (sequence.walk != nullptr) batch.masks.push_back({draft.sampled_rows, *sequence.allowed});
    ++sequence.pending;
    sequence.newest = {batch.step, draft.sampled_rows++};
  }
}

/// Gets blocks for a sequence by preempting the youngest. False if there is nothing younger, or if
/// the blocks come only when the youngest's steps are back.
bool Scheduler::make_room(const Sequence& needy) {
  if (preempting_ != nullptr || running_.back() == &needy) return false;
  return preempt_youngest();
}

/// True if its blocks are free now.
bool Scheduler::preempt_youngest() {
  Sequence& victim = *running_.back();
  if (victim.in_flight > 0) {
    preempting_ = &victim;
    return false;
  }
  requeue(victim);
  return true;
}

void Scheduler::requeue(Sequence& sequence) {
  CHECK(running_.back() == &sequence && sequence.pending == 0, "sequence {} is not the youngest",
        sequence.id.value);
  running_.pop_back();
  waiting_.push_front(&sequence);
  give_back(sequence);
  sequence.planned = sequence.computed = sequence.announced = 0;
  sequence.preempted = true;
  preempting_ = nullptr;
  ++stats_.preemptions;
}

StepRecord Scheduler::commit(StepId step, StepOutput output) {
  StepRecord record{.step = step, .replica = 0, .chunks = {}, .output = {}};
  if (!in_flight_.empty() && in_flight_.front().step == step) {
    record = std::move(in_flight_.front());
    in_flight_.pop_front();
  }
  record.output = std::move(output);
  size_t rows = 0;
  for (const ChunkRecord& chunk : record.chunks) {
    rows += static_cast<size_t>(chunk.scored) + (chunk.sample ? 1 : 0);
  }
  CHECK(rows == record.output.sampled.size(), "step {}: {} rows sampled, {} expected", step.value,
        record.output.sampled.size(), rows);
  size_t row = 0;
  for (const ChunkRecord& chunk : record.chunks) {
    Sequence& sequence = *sequences_.at(chunk.sequence);
    --sequence.in_flight;
    sequence.computed = chunk.position + chunk.num_tokens;
    const auto scored = static_cast<size_t>(chunk.scored);
    if (scored > 0) {
      accept_scores(sequence, chunk.position + 1,
                    std::span(record.output.sampled).subspan(row, scored));
      row += scored;
    }
    if (chunk.sample) accept(sequence, record.output.sampled[row++]);
    cache_.publish(sequence.table, sequence.tokens, sequence.computed);
    if (sequence.in_flight > 0) continue;
    if (sequence.ended) {
      retire(sequence);
    } else if (&sequence == preempting_) {
      requeue(sequence);
    }
  }
  return record;
}

/// `position`: of the first token whose log-probability came. A preempted sequence's come again.
void Scheduler::accept_scores(Sequence& sequence, int32_t position,
                              std::span<const std::vector<SampledToken>> scored) {
  const auto end = position + static_cast<int32_t>(scored.size());
  if (sequence.ended || end <= sequence.scored) return;
  SequenceEvent& event = events_.emplace_back();
  event.id = sequence.id;
  event.prompt_position = sequence.scored;
  for (const auto& row : scored.subspan(static_cast<size_t>(sequence.scored - position))) {
    CHECK(row.size() == 1, "sequence {}: {} tokens in a scored row", sequence.id.value, row.size());
    event.prompt.push_back(row[0]);
  }
  sequence.scored = end;
}

void Scheduler::accept(Sequence& sequence, const std::vector<SampledToken>& sampled) {
  --sequence.pending;
  if (sequence.ended) return;  // it was run ahead of its end
  CHECK(sampled.size() == 1 && sampled[0].token >= 0, "sequence {}: {} tokens in a sampled row",
        sequence.id.value, sampled.size());
  const TokenId token = sampled[0].token;
  sequence.tokens.push_back(token);
  const bool stops = std::find(sequence.stop_tokens.begin(), sequence.stop_tokens.end(), token) !=
                     sequence.stop_tokens.end();
  if (stops && !sequence.ignore_stop) {
    end(sequence, sampled[0], FinishReason::kStop);
  } else if (std::cmp_equal(sequence.tokens.size(), sequence.max_tokens)) {
    end(sequence, sampled[0], FinishReason::kLength);
  } else if (const base::Status status = follow_constraint(sequence, token); !status.ok()) {
    end(sequence, sampled[0], FinishReason::kUnmet);
    events_.back().failure = status.error().message;
  } else {
    SequenceEvent& event = events_.emplace_back();
    event.id = sequence.id;
    event.token = sampled[0];
  }
}

/// Finds the tokens that may come behind this one.
base::Status Scheduler::follow_constraint(Sequence& sequence, TokenId token) {
  if (sequence.walk == nullptr) return {};
  FF_TRY(sequence.walk->accept(token));
  FF_ASSIGN(sequence.allowed, sequence.walk->allowed());
  return {};
}

void Scheduler::end(Sequence& sequence, std::optional<SampledToken> token, FinishReason reason) {
  SequenceEvent& event = events_.emplace_back();
  event.id = sequence.id;
  event.token = std::move(token);
  event.finish = reason;
  sequence.ended = true;
  std::erase(running_, &sequence);
  std::erase(waiting_, &sequence);
  if (preempting_ == &sequence) preempting_ = nullptr;
}

void Scheduler::retire(Sequence& sequence) {
  give_back(sequence);
  sequences_.erase(sequence.id);
}

void Scheduler::give_back(Sequence& sequence) {
  cache_.close(sequence.table);
  if (sequence.slot.valid()) free_slots_.push_back(std::exchange(sequence.slot, SlotId()));
}

std::vector<SequenceEvent> Scheduler::take_events() { return std::exchange(events_, {}); }

ReplicaLoad Scheduler::load(std::span<const TokenId> prompt) const {
  ReplicaLoad load{.free_blocks = cache_.pool().free_blocks(),
                   .known_tokens = cache_.known_tokens(prompt)};
  for (const auto& [id, sequence] : sequences_) {
    if (sequence->ended) continue;
    const int32_t shared = id == sequence->family ? 0 : shared_positions(*sequence);
    load.outstanding_tokens += sequence->max_tokens - std::max(sequence->computed, shared);
  }
  return load;
}

SchedulerStats Scheduler::stats() const {
  SchedulerStats stats = stats_;
  stats.peak_blocks = cache_.peak_used();
  return stats;
}

Occupancy Scheduler::occupancy() const {
  const BlockPool& pool = cache_.pool();
  return {.running = std::ssize(running_),
          .waiting = std::ssize(waiting_),
          .used_blocks = pool.blocks() - pool.free_blocks(),
          .blocks = pool.blocks()};
}

SchedulerSnapshot Scheduler::snapshot() const {
  SchedulerSnapshot out{.block_size = limits_.block_size,
                        .slots = limits_.slots,
                        .references = {},
                        .free_blocks = cache_.pool().free_list(),
                        .free_slots = free_slots_,
                        .sequences = {},
                        .chunks_in_flight = {}};
  for (int64_t i = 0; i < limits_.blocks; ++i) {
    out.references.push_back(cache_.pool().references(BlockId(static_cast<int32_t>(i))));
  }
  for (const auto& [id, sequence] : sequences_) {
    if (!sequence->slot.valid()) continue;
    out.sequences.push_back({.id = id,
                             .slot = sequence->slot,
                             .tokens = sequence->tokens,
                             .blocks = sequence->table.blocks,
                             .planned = sequence->planned,
                             .computed = sequence->computed,
                             .in_flight = sequence->in_flight});
  }
  for (const StepRecord& record : in_flight_) {
    for (const ChunkRecord& chunk : record.chunks) out.chunks_in_flight.push_back(chunk.sequence);
  }
  return out;
}

}  // namespace fourfold::engine

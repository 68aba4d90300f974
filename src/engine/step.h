#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/numerics.h"
#include "engine/ids.h"
#include "engine/sampling.h"
#include "text/token_constraint.h"

namespace fourfold::engine {

/// A slot taken by a sequence: its block table starts empty. Rows carry only tokens that have to be
/// computed, so what sampling needs of the others comes here; later tokens the worker samples
/// itself.
struct SlotStart {
  SlotId slot;
  SamplingParams sampling;
  int32_t prompt_tokens = 0;
  std::vector<TokenId> history;      ///< prompt and output so far; only for penalties
  std::vector<TokenId> stop_tokens;  ///< only with min_tokens
  bool operator==(const SlotStart&) const = default;
};

/// Consecutive tokens of one sequence in one step. The arrays of the batch that hold its tokens and
/// appended blocks are consumed in the order of the chunks.
struct Chunk {
  SlotId slot;
  int32_t position = 0;    ///< absolute position of the first token
  int32_t num_tokens = 0;  ///< >= 1
  int32_t num_blocks = 0;  ///< blocks appended to the slot's table before this chunk runs
  bool sample = false;     ///< sample after the last token; the sampled rows are counted in order
  /// Leading tokens after which nothing is sampled, but the token that follows is told with its
  /// log-probability: they are sampled rows, too, whose tokens are the batch's targets.
  int32_t scored = 0;
  bool operator==(const Chunk&) const = default;
};

/// "The token sampled in that step, in its row-th sampled row": lets the scheduler run ahead.
struct SampledRef {
  StepId step;
  int32_t row = 0;
  bool operator==(const SampledRef&) const = default;
};

/// The tokens that one of the sampled rows may have.
struct RowMask {
  int32_t row = 0;
  text::TokenMask allowed;
  bool operator==(const RowMask&) const = default;
};

/// One step of one replica: a plain value that can be recorded, replayed and compared. It carries
/// only what is new, so a step stays small at block size 1. No chunks = a step of zero rows.
struct StepBatch {
  StepId step;
  std::vector<SlotStart> starts;
  std::vector<Chunk> chunks;
  std::vector<TokenId> tokens;  ///< >= 0: a literal; -1 - i: refs[i]
  std::vector<SampledRef> refs;
  std::vector<BlockId> blocks;   ///< appended blocks, chunk after chunk
  std::vector<TokenId> targets;  ///< of scored rows, chunk after chunk
  std::vector<RowMask> masks;    ///< rising rows; those without one may have any token
  bool trace = false;            ///< hash the residual after every layer (LayerTrace)
  base::Numerics numerics = base::Numerics::kInvariant;

  bool operator==(const StepBatch&) const = default;
};

struct TokenLogprob {
  TokenId token = 0;
  float logprob = 0;
  bool operator==(const TokenLogprob&) const = default;
};

/// One sampled token.
struct SampledToken {
  TokenId token = 0;
  float logprob = 0;              ///< natural log; only if asked for
  std::vector<TokenLogprob> top;  ///< the best tokens, falling, if asked for
  uint64_t logits_hash = 0;       ///< XXH3-64 of the row's fp32 logits; only in a traced step
  bool operator==(const SampledToken&) const = default;
};

/// XXH3-64 of one row's residual after one layer (layer = -1: after the embedding).
struct LayerTrace {
  int32_t layer = 0;
  int32_t row = 0;  ///< row of the step, all chunks' tokens counted in order
  uint64_t hash = 0;
  bool operator==(const LayerTrace&) const = default;
};

/// What came of one StepBatch.
struct StepOutput {
  /// One entry per sampled row, each with 0..k tokens (1 today; more when speculation verifies).
  std::vector<std::vector<SampledToken>> sampled;
  std::vector<LayerTrace> trace;
};

/// What came of one submitted step. Failure is data: a group's trouble that the engine handles.
struct StepResult {
  StepId step;
  std::vector<StepOutput> outputs;  ///< one per replica of the block
  bool failed = false;
  std::string failure;  ///< names rank, stage and cause
};

}  // namespace fourfold::engine

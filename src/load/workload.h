#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "engine/request.h"
#include "load/trace.h"

namespace fourfold::load {

/// Tokens drawn uniformly from the vocabulary by (seed of the workload, stream, position in the
/// segment). Two segments of one stream begin with the same tokens: that is how prompts share a
/// prefix.
struct Segment {
  uint64_t stream = 0;
  int32_t tokens = 0;
};

/// One request before it is sent. Its prompt is the prompt and the actual output of the request it
/// follows (if any), then request.prompt, then the tokens of the segments, which are drawn only
/// when the request is sent: a long trace costs little memory.
struct PlannedRequest {
  engine::Request request;
  std::vector<Segment> segments;
  /// Index of the turn before this one of the same conversation, a smaller one; -1: a first turn.
  int32_t follows = -1;
};

/// Everything that is sent in one run; the same value for every scheme.
struct Workload {
  std::vector<PlannedRequest> requests;
  /// Seconds after the start at which each first turn is due, in the order of the requests, not
  /// falling. Empty: the workload has no times of its own.
  std::vector<double> arrivals_s;
  int64_t vocab = 0;
  uint64_t seed = 0;
  int64_t skipped = 0;  ///< requests of a trace left out because they do not fit the model
};

/// `conversations` of `turns` requests each. A first turn is `shared_prefix` tokens, the same for
/// all conversations, and `input_len` tokens of its own; every further turn adds `input_len`
/// tokens to the conversation so far. Each request runs for exactly `output_len` tokens, greedily.
struct SyntheticLoad {
  int32_t input_len = 0;
  int32_t output_len = 0;
  int32_t conversations = 0;
  int32_t turns = 1;
  int32_t shared_prefix = 0;
  int64_t vocab = 0;
  uint64_t seed = 0;
};
Workload synthetic_workload(const SyntheticLoad& load);

/// A recorded trace as a workload: its lengths times `length_scale`, rounded, at least 1 token each
/// (prefixes that the trace shares stay shared), its arrival times from 0, tokens by `seed`.
struct TraceLoad {
  double length_scale = 1;
  int64_t max_requests = 0;  ///< the first so many of the trace; 0: all
  /// Prompt and output of a request have to fit; nothing is ever cut.
  int64_t max_positions = 0;
  bool skip_too_long = false;  ///< leave such requests out and count them, instead of an error
  int64_t vocab = 0;
  uint64_t seed = 0;
};
/// Errors: a request that does not fit `max_positions`, with its line; no request left.
base::Result<Workload> trace_workload(const Trace& trace, const TraceLoad& load);

/// Sets how the tokens of all requests are drawn, each with a seed of its own that is made of the
/// workload's.
void set_sampling(Workload& workload, const engine::SamplingParams& sampling);

/// Exactly these requests, at once; their prompts are taken as they are.
Workload explicit_workload(std::vector<engine::Request> requests);

/// Request `index` as it is sent: `history` is the prompt and output of the request it follows.
engine::Request make_request(const Workload& workload, size_t index,
                             std::span<const engine::TokenId> history = {});
/// All requests of a workload without further turns, in order.
std::vector<engine::Request> make_requests(const Workload& workload);

/// Prompt and output tokens of the longest conversation: positions that a model needs.
int64_t longest_tokens(const Workload& workload);

}  // namespace fourfold::load

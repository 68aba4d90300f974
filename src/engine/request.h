#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/ids.h"
#include "engine/step.h"
#include "text/token_constraint.h"

namespace fourfold::engine {

/// What is asked of the engine: tokens in, tokens out.
struct Request {
  SequenceId id;  ///< chosen by the caller, never used twice
  std::vector<TokenId> prompt;
  /// >= 1. The output also ends where prompt and output fill ExecutorLimits::max_positions; both
  /// ends are kLength.
  int32_t max_new_tokens = 0;
  SamplingParams sampling;
  std::vector<TokenId> stop_tokens;  ///< the output ends with the first of them
  bool ignore_eos = false;           ///< stop_tokens do not end the output
  /// Tell log-probabilities of the prompt's tokens, as many as sampling.logprobs asks for. All of
  /// the prompt is computed for them: no cached prefix is used, and forks share no blocks.
  bool score_prompt = false;
  /// What every output of the request is constrained to; null: nothing. Its sequences are not run
  /// ahead of results.
  std::shared_ptr<const text::TokenConstraint> constraint;
  /// Tokens of the output that were sampled before, by another engine: the sequence goes on behind
  /// them as if this one had sampled them. They count for everything above, and have no events. Not
  /// together with forks.
  std::vector<TokenId> output;
  /// More outputs for the same prompt, a sequence each: forks[i] samples as choice
  /// sampling.choice + 1 + i. Each has its own events and can be cancelled by itself; all share the
  /// KV blocks that the prompt fills.
  std::vector<SequenceId> forks;
};

enum class FinishReason {
  kStop,       ///< a stop token was sampled
  kLength,     ///< as many tokens as asked for, or as fit
  kCancelled,  ///< by the caller
  kFailed,     ///< the group failed; what was sampled so far stays valid
  kUnmet,      ///< what the request is constrained to cannot be followed
  kRefused,    ///< by runtime::Cluster: ranks crash with it
};

/// One new token of a sequence, its end, or both; or, before its first token, log-probabilities of
/// tokens of its prompt. A sequence has exactly one event with `finish`,
/// and it is its last.
struct SequenceEvent {
  SequenceId id;
  std::optional<SampledToken> token;  ///< a stop token too
  std::optional<FinishReason> finish;
  /// Those of the prompt at prompt_position and behind it. After a failure of the group they may be
  /// told again.
  std::vector<SampledToken> prompt;
  int32_t prompt_position = 0;
  std::string failure;  ///< kFailed, kUnmet and kRefused: why
};

}  // namespace fourfold::engine

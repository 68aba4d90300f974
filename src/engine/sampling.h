#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/result.h"
#include "engine/ids.h"

namespace fourfold::engine {

struct LogitBias {
  TokenId token = 0;
  float bias = 0;  ///< [-100, 100], added to the token's logit
  bool operator==(const LogitBias&) const = default;
};

inline constexpr size_t kMaxLogitBiases = 1024;

/// How the next token of a sequence is chosen. Names, ranges and meanings are those of vLLM's
/// SamplingParams; runtime/sampler.h says in which order they apply. Draws come from Philox with
/// key = seed and counter = (choice, position of the new token, draw), so they depend on the
/// request alone.
struct SamplingParams {
  float temperature = 1.0F;           ///< 0: greedy
  int32_t top_k = 0;                  ///< 0: all
  float top_p = 1.0F;                 ///< (0, 1]
  float min_p = 0;                    ///< [0, 1]: least probability, as a share of the largest
  float repetition_penalty = 1.0F;    ///< > 0; of tokens in prompt or output
  float presence_penalty = 0;         ///< [-2, 2]; of tokens in the output
  float frequency_penalty = 0;        ///< [-2, 2]; of tokens in the output, each time they occur
  std::vector<LogitBias> logit_bias;  ///< rising tokens, at most kMaxLogitBiases
  int32_t min_tokens = 0;  ///< no stop token among the first so many, not even where it is ignored
  uint64_t seed = 0;
  int32_t choice = 0;     ///< which of several outputs for one prompt
  int32_t logprobs = -1;  ///< -1: none; k: of the chosen token and of the k best

  bool has_penalties() const {
    return repetition_penalty != 1.0F || presence_penalty != 0 || frequency_penalty != 0;
  }
  bool operator==(const SamplingParams&) const = default;
};

/// Errors: the first parameter that is out of its range, with the range.
base::Status check_sampling(const SamplingParams& params);

}  // namespace fourfold::engine

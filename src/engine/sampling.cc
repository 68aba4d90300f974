#include "engine/sampling.h"

#include <cmath>

namespace fourfold::engine {

// Written so that a NaN is out of every range.
base::Status check_sampling(const SamplingParams& params) {
  const auto within = [](float value, float low, float high) {
    return value >= low && value <= high;
  };
  if (!(params.temperature >= 0 && std::isfinite(params.temperature))) {
    return base::fail("temperature is {}, expected a number from 0", params.temperature);
  }
  if (params.top_k < 0) return base::fail("top_k is {}, expected 0 or more", params.top_k);
  if (!(params.top_p > 0 && params.top_p <= 1)) {
    return base::fail("top_p is {}, expected more than 0 and at most 1", params.top_p);
  }
  if (!within(params.min_p, 0, 1)) {
    return base::fail("min_p is {}, expected 0 to 1", params.min_p);
  }
  if (!(params.repetition_penalty > 0 && std::isfinite(params.repetition_penalty))) {
    return base::fail("repetition_penalty is {}, expected more than 0", params.repetition_penalty);
  }
  if (!within(params.presence_penalty, -2, 2)) {
    return base::fail("presence_penalty is {}, expected -2 to 2", params.presence_penalty);
  }
  if (!within(params.frequency_penalty, -2, 2)) {
    return base::fail("frequency_penalty is {}, expected -2 to 2", params.frequency_penalty);
  }
  if (params.logit_bias.size() > kMaxLogitBiases) {
    return base::fail("logit_bias has {} tokens, expected at most {}", params.logit_bias.size(),
                      kMaxLogitBiases);
  }
  TokenId previous = -1;
  for (const LogitBias& entry : params.logit_bias) {
    if (entry.token <= previous) {
      return base::fail("logit_bias has token {} behind token {}, expected rising tokens",
                        entry.token, previous);
    }
    if (!within(entry.bias, -100, 100)) {
      return base::fail("logit_bias of token {} is {}, expected -100 to 100", entry.token,
                        entry.bias);
    }
    previous = entry.token;
  }
  if (params.min_tokens < 0) {
    return base::fail("min_tokens is {}, expected 0 or more", params.min_tokens);
  }
  if (params.choice < 0) return base::fail("choice is {}, expected 0 or more", params.choice);
  if (params.logprobs < -1) {
    return base::fail("logprobs is {}, expected -1 or more", params.logprobs);
  }
  return {};
}

}  // namespace fourfold::engine

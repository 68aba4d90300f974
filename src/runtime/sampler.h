#pragma once

#include <cstdint>
#include <span>

#include "engine/step.h"

namespace fourfold::runtime {

/// Chooses the token that comes at `position` from one row of fp32 logits [vocab].
///
/// Greedy (temperature 0): the largest logit, the lowest id among equals. Otherwise the softmax of
/// logits / temperature, cut to the top_k largest and then to the smallest set whose probability
/// reaches top_p (ties by lower id), drawn by inverse CDF in falling order of probability with one
/// Philox number: key = seed, counter = (choice 0, position, draw 0). Depends on the row, the
/// parameters and the position alone. Log-probabilities are of the unmodified logits; logits_hash
/// is left to the caller.
///
/// top_p counts the probabilities that top_k leaves over. Broken rows have a defined answer too:
/// NaN counts as minus infinity, plus infinities share all probability, and in a row of minus
/// infinities all tokens are alike.
engine::SampledToken sample(std::span<const float> logits, const engine::SamplingParams& params,
                            int32_t position);

}  // namespace fourfold::runtime

#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "backend/draw.h"
#include "engine/step.h"

namespace fourfold::runtime {

/// Chooses the tokens of one sequence, and remembers them where its penalties ask for that.
class Sampler {
 public:
  Sampler() = default;
  explicit Sampler(engine::SlotStart start);

  /// Chooses the token that comes at `position` from one row of fp32 logits [vocab]. Depends on the
  /// row, the parameters, the sequence's tokens so far and the position alone. Positions are asked
  /// for in order, each once. Steps and formulas are those of vLLM
  /// (https://docs.vllm.ai/en/v0.20.0/api/vllm/v1/sample/sampler/ and its apply_penalties), with l
  /// a token's logit:
  ///
  /// 1. logit_bias: l + bias. Then, while the output has fewer than min_tokens, stop tokens: minus
  ///    infinity.
  /// 2. Penalties. repetition_penalty r, once for a token of prompt or output: l / r if l > 0, else
  ///    l * r. Then, for a token that occurs n > 0 times in the output: l - frequency_penalty * n,
  ///    then l - presence_penalty.
  /// 3. Tokens that are not in `allowed` (null: all are): minus infinity; those that are, no less
  ///    than the least finite number, so that one of them is chosen whatever else is asked for.
  /// 4. What backend::Ops::draw_rows does with draw(position).
  ///
  /// Log-probabilities are of the unmodified logits; logits_hash is left to the caller. Biases and
  /// penalties of tokens outside the vocabulary have no effect.
  engine::SampledToken sample(std::span<const float> logits, int32_t position,
                              const text::TokenMask* allowed = nullptr);

  /// A token that is known already, with the log-probabilities that the parameters ask for.
  engine::SampledToken score(std::span<const float> logits, engine::TokenId token) const;

  /// True where sample() would give the token that draw(position) draws from the logits and nothing
  /// else, so that it need not be called.
  bool is_plain(int32_t position) const;

  /// Temperature, top_p, min_p, top_k, and 64 bits of Philox with key = seed and counter = (choice,
  /// position, draw 0).
  backend::Draw draw(int32_t position) const;

 private:
  bool adjusts(int32_t position) const;
  void adjust(std::span<float> logits, int32_t position) const;

  engine::SamplingParams params_;
  int32_t prompt_tokens_ = 0;
  std::vector<engine::TokenId> stop_tokens_;
  /// Tokens of prompt and output, with how often each occurs in the output.
  std::unordered_map<engine::TokenId, int32_t> counts_;
};

}  // namespace fourfold::runtime

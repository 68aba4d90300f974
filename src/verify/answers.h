#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "engine/step.h"

namespace fourfold::verify {

/// Layers of a residual are numbered from 0; before them comes the embedding, after them the
/// logits.
inline constexpr int32_t kEmbeddingLayer = -1;
inline constexpr int32_t kLogitsLayer = 1 << 20;
/// A token that differs although its logits do not; its position counts output tokens.
inline constexpr int32_t kTokenLayer = kLogitsLayer + 1;

/// Everything that a traced run says about one request.
struct RequestAnswer {
  std::vector<engine::TokenId> tokens;
  /// The most likely tokens at each output position, if they were asked for.
  std::vector<std::vector<engine::TokenLogprob>> top;
  /// Hash of the residual (or of the logits, kLogitsLayer) by (position, layer). Logits at position
  /// p are those that follow the token at p.
  std::map<std::pair<int32_t, int32_t>, uint64_t> hashes;
  /// A position that was computed twice (after preemption) and came out differently.
  std::optional<std::pair<int32_t, int32_t>> contradiction;
};

/// The first place, by position and then by layer, where two answers differ.
struct Difference {
  size_t request = 0;
  int32_t position = 0;
  int32_t layer = 0;  ///< kEmbeddingLayer, 0.., kLogitsLayer, kTokenLayer

  /// "request 2, position 17, layer 3".
  std::string describe() const;
  bool operator==(const Difference&) const = default;
};

/// How a scheme's answers compare to those of the baseline.
struct AnswerVerdict {
  bool equal = false;
  double equal_token_share = 0;  ///< equal tokens at equal places over the baseline's tokens
  int64_t compared_hashes = 0;   ///< residuals and logits that both runs computed
  /// Residuals that only one run computed: none where nothing is found in a prefix cache. Logits
  /// that only one run computed are a difference.
  int64_t missing_hashes = 0;
  std::optional<Difference> first_difference;
};

AnswerVerdict compare(const std::vector<RequestAnswer>& baseline,
                      const std::vector<RequestAnswer>& answers);

/// How answers in fast numerics deviate from those of the same scheme in invariant numerics. Each
/// request is compared up to and including its first different token: what follows has another
/// prefix.
struct Deviation {
  int64_t tokens = 0;           ///< of the invariant answers
  int64_t compared_tokens = 0;  ///< those up to and including each first difference
  int64_t equal_tokens = 0;     ///< those before it
  /// Of a token that both runs list among the most likely at a position.
  double max_logprob_diff = 0;
  int64_t differences = 0;  ///< requests with a different token
  /// Those whose two tokens are apart by less than the measured noise, twice max_logprob_diff, in
  /// invariant numerics.
  int64_t near_ties = 0;

  double equal_token_share() const {
    return tokens == 0 ? 1.0 : static_cast<double>(equal_tokens) / static_cast<double>(tokens);
  }
};

/// Greedy requests only, with `top` on both sides.
Deviation deviation(const std::vector<RequestAnswer>& invariant,
                    const std::vector<RequestAnswer>& fast);

/// Time per token in invariant numerics over that in fast numerics, of the best run of each; none
/// where either has no run.
std::optional<double> invariant_cost(const std::vector<double>& invariant_ms,
                                     const std::vector<double>& fast_ms);

/// Collects the answers of a run from steps and events. Thread-safe.
class AnswerRecorder {
 public:
  explicit AnswerRecorder(size_t requests) : answers_(requests) {}

  /// Steps of sequence `id` belong to request `request`. Must be known before its first step ends.
  void assign(engine::SequenceId id, size_t request);
  void observe(const engine::StepRecord& record);
  void add_token(size_t request, const engine::SampledToken& token);

  std::vector<RequestAnswer> take();

 private:
  void put(RequestAnswer& answer, int32_t position, int32_t layer, uint64_t hash);

  std::mutex mutex_;
  std::unordered_map<engine::SequenceId, size_t> requests_;
  std::vector<RequestAnswer> answers_;
};

}  // namespace fourfold::verify

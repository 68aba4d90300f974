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

/// Collects the answers of a run from steps and events. Thread-safe.
class AnswerRecorder {
 public:
  explicit AnswerRecorder(size_t requests) : answers_(requests) {}

  /// Steps of sequence `id` belong to request `request`. Must be known before its first step ends.
  void assign(engine::SequenceId id, size_t request);
  void observe(const engine::StepRecord& record);
  void add_token(size_t request, engine::TokenId token);

  std::vector<RequestAnswer> take();

 private:
  void put(RequestAnswer& answer, int32_t position, int32_t layer, uint64_t hash);

  std::mutex mutex_;
  std::unordered_map<engine::SequenceId, size_t> requests_;
  std::vector<RequestAnswer> answers_;
};

}  // namespace fourfold::verify

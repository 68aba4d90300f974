#include "verify/answers.h"

#include <algorithm>

#include "base/check.h"

namespace fourfold::verify {
namespace {

using Place = std::pair<int32_t, int32_t>;

/// The first place of this request that differs; counts what was compared and what could not be.
std::optional<Place> first_difference(const RequestAnswer& a, const RequestAnswer& b,
                                      AnswerVerdict& verdict) {
  std::optional<Place> first;
  const auto found = [&first](const Place& place) {
    if (!first || place < *first) first = place;
  };
  for (const RequestAnswer* answer : {&a, &b}) {
    if (answer->contradiction) found(*answer->contradiction);
  }
  const auto missing = [&](const RequestAnswer& in, const RequestAnswer& from) {
    for (const auto& [place, hash] : from.hashes) {
      if (in.hashes.contains(place)) continue;
      ++verdict.missing_hashes;
      if (place.second == kLogitsLayer) found(place);
    }
  };
  missing(a, b);
  missing(b, a);
  for (const auto& [place, hash] : a.hashes) {
    const auto it = b.hashes.find(place);
    if (it == b.hashes.end()) continue;
    ++verdict.compared_hashes;
    if (it->second != hash) found(place);
  }
  const auto [in_a, in_b] =
      std::mismatch(a.tokens.begin(), a.tokens.end(), b.tokens.begin(), b.tokens.end());
  const bool same_tokens = in_a == a.tokens.end() && in_b == b.tokens.end();
  if (!same_tokens && !first) {
    found({static_cast<int32_t>(in_a - a.tokens.begin()), kTokenLayer});
  }
  return first;
}

int64_t equal_tokens(const RequestAnswer& a, const RequestAnswer& b) {
  int64_t equal = 0;
  for (size_t i = 0; i < std::min(a.tokens.size(), b.tokens.size()); ++i) {
    if (a.tokens[i] == b.tokens[i]) ++equal;
  }
  return equal;
}

}  // namespace

std::string Difference::describe() const {
  std::string where = fmt::format("layer {}", layer);
  if (layer == kEmbeddingLayer) where = "embedding";
  if (layer == kLogitsLayer) where = "logits";
  if (layer == kTokenLayer) where = "sampled token";
  return fmt::format("request {}, position {}, {}", request, position, where);
}

AnswerVerdict compare(const std::vector<RequestAnswer>& baseline,
                      const std::vector<RequestAnswer>& answers) {
  CHECK(baseline.size() == answers.size(), "{} and {} answers", baseline.size(), answers.size());
  AnswerVerdict verdict;
  int64_t tokens = 0;
  int64_t equal = 0;
  for (size_t i = 0; i < baseline.size(); ++i) {
    tokens += static_cast<int64_t>(baseline[i].tokens.size());
    equal += equal_tokens(baseline[i], answers[i]);
    const std::optional<Place> place = first_difference(baseline[i], answers[i], verdict);
    if (place && !verdict.first_difference) {
      verdict.first_difference = {.request = i, .position = place->first, .layer = place->second};
    }
  }
  verdict.equal_token_share =
      tokens == 0 ? 1.0 : static_cast<double>(equal) / static_cast<double>(tokens);
  verdict.equal = verdict.compared_hashes > 0 && !verdict.first_difference;
  return verdict;
}

void AnswerRecorder::assign(engine::SequenceId id, size_t request) {
  const std::lock_guard lock(mutex_);
  requests_.emplace(id, request);
}

void AnswerRecorder::observe(const engine::StepRecord& record) {
  const std::lock_guard lock(mutex_);
  std::vector<std::pair<RequestAnswer*, int32_t>> rows;  // whose row it is, and its position
  size_t sampled = 0;
  for (const engine::ChunkRecord& chunk : record.chunks) {
    const auto it = requests_.find(chunk.sequence);
    RequestAnswer* answer = it == requests_.end() ? nullptr : &answers_[it->second];
    for (int32_t i = 0; i < chunk.num_tokens; ++i) rows.emplace_back(answer, chunk.position + i);
    if (!chunk.sample) continue;
    const std::vector<engine::SampledToken>& tokens = record.output.sampled[sampled++];
    if (answer != nullptr && !tokens.empty()) {
      put(*answer, rows.back().second, kLogitsLayer, tokens.front().logits_hash);
    }
  }
  for (const engine::LayerTrace& trace : record.output.trace) {
    const auto& [answer, position] = rows.at(static_cast<size_t>(trace.row));
    if (answer != nullptr) put(*answer, position, trace.layer, trace.hash);
  }
}

void AnswerRecorder::put(RequestAnswer& answer, int32_t position, int32_t layer, uint64_t hash) {
  const auto [it, is_new] = answer.hashes.try_emplace({position, layer}, hash);
  if (!is_new && it->second != hash && !answer.contradiction) {
    answer.contradiction = {position, layer};
  }
}

void AnswerRecorder::add_token(size_t request, engine::TokenId token) {
  const std::lock_guard lock(mutex_);
  answers_[request].tokens.push_back(token);
}

std::vector<RequestAnswer> AnswerRecorder::take() {
  const std::lock_guard lock(mutex_);
  return std::move(answers_);
}

}  // namespace fourfold::verify

#include "verify/answers.h"

#include <algorithm>
#include <cmath>
#include <limits>

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

using Top = std::vector<engine::TokenLogprob>;

const engine::TokenLogprob* find_token(const Top& top, engine::TokenId token) {
  const auto it =
      std::find_if(top.begin(), top.end(), [token](const auto& t) { return t.token == token; });
  return it == top.end() ? nullptr : &*it;
}

double largest_change(const Top& a, const Top& b) {
  double largest = 0;
  for (const engine::TokenLogprob& entry : a) {
    if (const engine::TokenLogprob* other = find_token(b, entry.token)) {
      largest = std::max(largest, std::abs(double{entry.logprob} - double{other->logprob}));
    }
  }
  return largest;
}

/// How far apart two tokens are; infinite where one is not among the most likely.
double margin(const Top& top, engine::TokenId chosen, engine::TokenId other) {
  const engine::TokenLogprob* a = find_token(top, chosen);
  const engine::TokenLogprob* b = find_token(top, other);
  if (a == nullptr || b == nullptr) return std::numeric_limits<double>::infinity();
  return std::abs(double{a->logprob} - double{b->logprob});
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

Deviation deviation(const std::vector<RequestAnswer>& invariant,
                    const std::vector<RequestAnswer>& fast) {
  CHECK(invariant.size() == fast.size(), "{} and {} answers", invariant.size(), fast.size());
  Deviation out;
  std::vector<double> margins;  // of the first differences
  for (size_t i = 0; i < invariant.size(); ++i) {
    const RequestAnswer& a = invariant[i];
    const RequestAnswer& b = fast[i];
    out.tokens += std::ssize(a.tokens);
    for (size_t t = 0; t < std::min(a.tokens.size(), b.tokens.size()); ++t) {
      out.max_logprob_diff = std::max(out.max_logprob_diff, largest_change(a.top[t], b.top[t]));
      ++out.compared_tokens;
      if (a.tokens[t] != b.tokens[t]) {
        margins.push_back(margin(a.top[t], a.tokens[t], b.tokens[t]));
        break;
      }
      ++out.equal_tokens;
    }
  }
  out.differences = std::ssize(margins);
  out.near_ties = std::count_if(margins.begin(), margins.end(),
                                [&](double m) { return m <= 2 * out.max_logprob_diff; });
  return out;
}

std::optional<double> invariant_cost(const std::vector<double>& invariant_ms,
                                     const std::vector<double>& fast_ms) {
  if (invariant_ms.empty() || fast_ms.empty()) return std::nullopt;
  return *std::min_element(invariant_ms.begin(), invariant_ms.end()) /
         *std::min_element(fast_ms.begin(), fast_ms.end());
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
    sampled += static_cast<size_t>(chunk.scored);
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

void AnswerRecorder::add_token(size_t request, const engine::SampledToken& token) {
  const std::lock_guard lock(mutex_);
  answers_[request].tokens.push_back(token.token);
  answers_[request].top.push_back(token.top);
}

std::vector<RequestAnswer> AnswerRecorder::take() {
  const std::lock_guard lock(mutex_);
  return std::move(answers_);
}

}  // namespace fourfold::verify

#include "runtime/crash_suspects.h"

#include <xxhash.h>

#include <algorithm>
#include <utility>

namespace fourfold::runtime {
namespace {

uint64_t hash_of(std::span<const engine::TokenId> prompt) {
  return XXH3_64bits(prompt.data(), prompt.size_bytes());
}

}  // namespace

std::optional<Flight> CrashSuspects::next() {
  if (trial_ != kNobody || waiting_.empty()) return std::nullopt;
  Flight flight = std::move(waiting_.front());
  waiting_.pop_front();
  trial_ = flight.id.value;
  past_crash_ = flight.output.size() + static_cast<size_t>(lookahead_tokens_) + 1;
  return flight;
}

bool CrashSuspects::acquit(const Flight& flight, bool finished) {
  if (!is_on_trial(flight.id) || (!finished && flight.output.size() < past_crash_)) return false;
  trial_ = kNobody;
  return true;
}

void CrashSuspects::retry(Flight flight) {
  trial_ = kNobody;
  waiting_.push_front(std::move(flight));
}

void CrashSuspects::condemn(const Flight& flight, int64_t now_ns) {
  if (is_on_trial(flight.id)) trial_ = kNobody;
  condemned_[hash_of(flight.request->prompt)] = now_ns;
}

bool CrashSuspects::is_condemned(std::span<const engine::TokenId> prompt, int64_t now_ns) {
  std::erase_if(condemned_, [&](const auto& entry) { return now_ns - entry.second >= kRefusalNs; });
  return !condemned_.empty() && condemned_.contains(hash_of(prompt));
}

std::optional<Flight> CrashSuspects::remove(engine::SequenceId id) {
  const auto it = std::find_if(waiting_.begin(), waiting_.end(),
                               [&](const Flight& flight) { return flight.id == id; });
  if (it == waiting_.end()) return std::nullopt;
  Flight flight = std::move(*it);
  waiting_.erase(it);
  return flight;
}

}  // namespace fourfold::runtime

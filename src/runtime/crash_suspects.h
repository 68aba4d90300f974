#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "runtime/group.h"

namespace fourfold::runtime {

/// Finds the request that makes ranks crash. Everything aboard a rank that crashed by its own fault
/// is suspect. Suspects go on one at a time, so that only one of them is aboard should there be a
/// second crash: that one is guilty, and so is for a minute whatever has the same prompt. Whoever
/// has got past the place of the crash is innocent.
///
/// Not thread-safe but for is_on_trial(). Times are a clock's nanoseconds.
class CrashSuspects {
 public:
  /// `lookahead_tokens`: how far behind the last token that was heard of a crash may have been.
  explicit CrashSuspects(int32_t lookahead_tokens) : lookahead_tokens_(lookahead_tokens) {}

  /// It was aboard when a rank crashed.
  void accuse(Flight flight) { waiting_.push_back(std::move(flight)); }
  /// The next one to go on, which is on trial from now on; nothing while another one is.
  std::optional<Flight> next();
  /// Any thread may ask.
  bool is_on_trial(engine::SequenceId id) const { return trial_ == id.value; }
  /// The one on trial has got so far; true if that ends the trial.
  bool acquit(const Flight& flight, bool finished);
  /// Its group failed without its fault: it will be tried again.
  void retry(Flight flight);
  /// Its group crashed again.
  void condemn(const Flight& flight, int64_t now_ns);
  /// A request with this prompt was condemned less than a minute ago.
  bool is_condemned(std::span<const engine::TokenId> prompt, int64_t now_ns);
  /// Takes one out that waits.
  std::optional<Flight> remove(engine::SequenceId id);

  static constexpr int64_t kRefusalNs = 60'000'000'000;

 private:
  static constexpr int64_t kNobody = -1;

  int32_t lookahead_tokens_;
  std::deque<Flight> waiting_;
  std::atomic<int64_t> trial_ = kNobody;
  size_t past_crash_ = 0;                            ///< output with which the trial is over
  std::unordered_map<uint64_t, int64_t> condemned_;  ///< hash of a prompt -> when
};

}  // namespace fourfold::runtime

#pragma once

#include <cstdint>

namespace fourfold::route {

/// Whether a replica gets requests, judged by what became of those before and by probes. One that
/// cannot be reached is taken out at once, another after kFailures failures in a row of requests or
/// of probes; kGoodProbes good probes in a row bring it back. A new one needs one. Where probes are
/// good and requests fail all the same, it takes twice as many probes each time that it came back
/// and answered nothing, up to kMostGoodProbes.
class ReplicaHealth {
 public:
  static constexpr int kFailures = 3;
  static constexpr int kGoodProbes = 2;
  static constexpr int kMostGoodProbes = 64;

  enum class Change : uint8_t { kNone, kEjected, kReturned };

  /// A request or a probe found nobody there.
  Change unreachable();
  /// A request was answered 5xx, or not to its end.
  Change request_failed();
  void request_answered() {
    failed_requests_ = 0;
    next_needed_ = kGoodProbes;
  }
  Change probed(bool good);

  bool in_use() const { return in_use_; }
  int64_t ejections() const { return ejections_; }

 private:
  Change eject();

  bool in_use_ = false;
  int failed_requests_ = 0;
  int failed_probes_ = 0;
  int good_probes_ = kGoodProbes - 1;
  int needed_ = kGoodProbes;       ///< good probes that bring it back
  int next_needed_ = kGoodProbes;  ///< the same, if requests are why it is taken out next
  int64_t ejections_ = 0;
};

}  // namespace fourfold::route

#include "route/replica_health.h"

#include <algorithm>
#include <utility>

namespace fourfold::route {

ReplicaHealth::Change ReplicaHealth::unreachable() {
  good_probes_ = 0;
  return eject();
}

ReplicaHealth::Change ReplicaHealth::request_failed() {
  if (++failed_requests_ < kFailures) return Change::kNone;
  const Change change = eject();
  if (change == Change::kNone) return change;
  needed_ = next_needed_;
  next_needed_ = std::min(2 * next_needed_, kMostGoodProbes);
  return change;
}

ReplicaHealth::Change ReplicaHealth::probed(bool good) {
  if (!good) {
    good_probes_ = 0;
    return ++failed_probes_ < kFailures ? Change::kNone : eject();
  }
  failed_probes_ = 0;
  if (in_use_ || ++good_probes_ < needed_) return Change::kNone;
  in_use_ = true;
  return Change::kReturned;
}

ReplicaHealth::Change ReplicaHealth::eject() {
  failed_requests_ = 0;
  failed_probes_ = 0;
  if (!std::exchange(in_use_, false)) return Change::kNone;
  good_probes_ = 0;
  needed_ = kGoodProbes;
  ++ejections_;
  return Change::kEjected;
}

}  // namespace fourfold::route

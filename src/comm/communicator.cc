#include "comm/communicator.h"

namespace fourfold::comm {

CommStats& CommStats::operator+=(const CommStats& other) {
  seconds += other.seconds;
  wait_seconds += other.wait_seconds;
  bytes += other.bytes;
  calls += other.calls;
  return *this;
}

Communicator::Call::Call(CommStats& stats, size_t bytes)
    : stats_(stats), begin_ns_(base::SteadyClock().now_ns()) {
  stats_.bytes += static_cast<int64_t>(bytes);
  ++stats_.calls;
}

Communicator::Call::~Call() {
  stats_.seconds += base::seconds_between(begin_ns_, base::SteadyClock().now_ns());
}

}  // namespace fourfold::comm

#include "comm/communicator.h"

#include <utility>

#include "comm/device_group.h"

namespace fourfold::comm {

CommStats& CommStats::operator+=(const CommStats& other) {
  seconds += other.seconds;
  wait_seconds += other.wait_seconds;
  bytes += other.bytes;
  calls += other.calls;
  return *this;
}

Communicator::Communicator(mesh::Axis axis) : axis_(axis) {}
Communicator::~Communicator() = default;

CommStats Communicator::stats() const {
  CommStats all = stats_;
  if (devices_) all += devices_->stats();
  return all;
}

void Communicator::attach(std::unique_ptr<DeviceGroup> devices) { devices_ = std::move(devices); }

Communicator::Call::Call(Communicator& communicator, CallKind kind, size_t bytes, int peer)
    : stats_(communicator.stats_),
      progress_(communicator.progress_),
      begin_ns_(base::SteadyClock().now_ns()) {
  if (progress_ != nullptr) {
    progress_->enter_call(
        {.kind = kind, .axis = communicator.axis_, .sequence = stats_.calls, .peer = peer},
        begin_ns_);
  }
  stats_.bytes += static_cast<int64_t>(bytes);
  ++stats_.calls;
}

Communicator::Call::~Call() {
  const int64_t end_ns = base::SteadyClock().now_ns();
  if (progress_ != nullptr) progress_->leave_call(end_ns);
  stats_.seconds += base::seconds_between(begin_ns_, end_ns);
}

}  // namespace fourfold::comm

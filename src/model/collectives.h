#pragma once

#include "backend/ops.h"
#include "comm/communicator.h"
#include "model/step_memory.h"

namespace fourfold::model {

/// Collectives over data in the memory of a backend, in the order of a stream. Where the group has
/// devices that talk among themselves nothing waits. Else communicators work in host memory: data
/// that are elsewhere go through `host`, an arena that holds them for the time of the call. A group
/// of one rank waits for nothing.
class Collectives {
 public:
  Collectives(const backend::Ops& ops, backend::Stream& stream, tensor::Arena& host)
      : ops_(ops), stream_(stream), host_(host) {}

  /// comm::Communicator::all_reduce_sum of f32.
  void all_reduce_sum(comm::Communicator& group, tensor::View data, comm::Wire wire) const;
  /// all_reduce_sum of `data`, then Ops::add_norm of it to `x`; what is in `data` after that is
  /// nobody's. data, x f32 [M, H].
  void all_reduce_add_norm(comm::Communicator& group, tensor::View data, comm::Wire wire,
                           tensor::View x, const backend::Weight& gain, float eps,
                           tensor::View out) const;
  /// out [ranks * in's elements], of one dtype.
  void all_gather(comm::Communicator& group, tensor::View in, tensor::View out) const;
  /// Of f32.
  void send(comm::Communicator& group, tensor::View data, int to, comm::Wire wire) const;
  void recv(comm::Communicator& group, tensor::View data, int from, comm::Wire wire) const;

 private:
  const backend::Ops& ops_;
  backend::Stream& stream_;
  tensor::Arena& host_;
};

/// The data in host memory, when all that was enqueued before is done: themselves, or a copy from
/// `host`.
tensor::View on_host(const backend::Ops& ops, backend::Stream& stream, tensor::Arena& host,
                     tensor::View data);
/// The data in the backend's memory: themselves, or a copy from `arena`. They must not be changed
/// before the stream is synchronised.
tensor::View on_device(const backend::Ops& ops, backend::Stream& stream, tensor::Arena& arena,
                       tensor::View data);

}  // namespace fourfold::model

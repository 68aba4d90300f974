#include "model/collectives.h"

#include "base/check.h"
#include "comm/device_group.h"

namespace fourfold::model {

using tensor::View;

void Collectives::all_reduce_sum(comm::Communicator& group, View data, comm::Wire wire) const {
  if (group.size() == 1) return;
  if (comm::DeviceGroup* devices = group.devices()) {
    return devices->all_reduce_sum(stream_.handle(), data.f32(), data.shape.elements(), wire);
  }
  const int64_t mark = host_.mark();
  const View values = on_host(ops_, stream_, host_, data);
  group.all_reduce_sum(values.f32_span(), wire);
  if (values.data != data.data) {
    ops_.copy_in(stream_, values, data);
    stream_.synchronize();
  }
  host_.release_to(mark);
}

void Collectives::all_reduce_add_norm(comm::Communicator& group, View data, comm::Wire wire, View x,
                                      const backend::Weight& gain, float eps, View out) const {
  comm::DeviceGroup* devices = group.devices();
  CHECK(x.shape == data.shape && out.shape == x.shape && gain.columns() == x.shape[1],
        "a sum and a norm of [{}, {}] with {} gains", x.rows(), x.shape[1], gain.columns());
  // A kernel that does both norms in an order of its own, as fast numerics may.
  if (devices != nullptr && wire == comm::Wire::kBF16 && out.dtype == tensor::DType::kBF16 &&
      devices->all_reduce_add_norm(stream_.handle(), data.f32(), x.f32(), gain.vector(), eps,
                                   x.rows(), x.shape[1], static_cast<uint16_t*>(out.data))) {
    return;
  }
  all_reduce_sum(group, data, wire);
  ops_.add_norm(stream_, x, data, gain, eps, out);
}

void Collectives::all_gather(comm::Communicator& group, View in, View out) const {
  if (comm::DeviceGroup* devices = group.devices()) {
    return devices->all_gather(stream_.handle(), in.data, out.data, in.bytes());
  }
  const auto bytes_of = [](View view) {
    return std::span(static_cast<std::byte*>(view.data), static_cast<size_t>(view.bytes()));
  };
  const int64_t mark = host_.mark();
  const View mine = on_host(ops_, stream_, host_, in);
  if (ops_.in_host_memory()) {
    group.all_gather(bytes_of(mine), bytes_of(out));
  } else {
    const View all = host_.allocate(out.dtype, out.shape);
    group.all_gather(bytes_of(mine), bytes_of(all));
    ops_.copy_in(stream_, all, out);
    stream_.synchronize();
  }
  host_.release_to(mark);
}

void Collectives::send(comm::Communicator& group, View data, int to, comm::Wire wire) const {
  if (comm::DeviceGroup* devices = group.devices()) {
    return devices->send(stream_.handle(), data.f32(), data.shape.elements(), wire, to);
  }
  const int64_t mark = host_.mark();
  group.send(std::span<const float>(on_host(ops_, stream_, host_, data).f32_span()), to, wire);
  host_.release_to(mark);
}

void Collectives::recv(comm::Communicator& group, View data, int from, comm::Wire wire) const {
  if (comm::DeviceGroup* devices = group.devices()) {
    return devices->recv(stream_.handle(), data.f32(), data.shape.elements(), wire, from);
  }
  if (ops_.in_host_memory()) return group.recv(data.f32_span(), from, wire);
  const int64_t mark = host_.mark();
  const View values = host_.allocate(data.dtype, data.shape);
  group.recv(values.f32_span(), from, wire);
  ops_.copy_in(stream_, values, data);
  stream_.synchronize();
  host_.release_to(mark);
}

View on_host(const backend::Ops& ops, backend::Stream& stream, tensor::Arena& host, View data) {
  if (ops.in_host_memory()) {
    stream.synchronize();
    return data;
  }
  const View copy = host.allocate(data.dtype, data.shape);
  ops.copy_out(stream, data, copy);
  stream.synchronize();
  return copy;
}

View on_device(const backend::Ops& ops, backend::Stream& stream, tensor::Arena& arena, View data) {
  if (ops.in_host_memory()) return data;
  const View copy = arena.allocate(data.dtype, data.shape);
  ops.copy_in(stream, data, copy);
  return copy;
}

}  // namespace fourfold::model

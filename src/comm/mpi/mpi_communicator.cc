#include "comm/mpi/mpi_communicator.h"

#include <sched.h>
#include <time.h>

#include <algorithm>
#include <bit>
#include <climits>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "comm/tree_sum.h"

namespace fourfold::comm {
namespace {

constexpr int kMessageTag = 0;     // send and recv
constexpr int kCollectiveTag = 1;  // everything else

void copy_bytes(std::span<const std::byte> from, std::span<std::byte> to) {
  CHECK(from.size() == to.size(), "{} bytes for {}", from.size(), to.size());
  if (!from.empty()) std::memcpy(to.data(), from.data(), from.size());
}

/// Calls `done` until it says yes. MPI itself would spin: a rank that waits long must leave its
/// core to the ranks that compute.
template <typename Done>
void poll(Done done) {
  constexpr int kYields = 2000;
  constexpr timespec kNap{.tv_sec = 0, .tv_nsec = 50'000};
  for (int i = 0; !done(); ++i) {
    if (i < kYields) {
      sched_yield();
    } else {
      nanosleep(&kNap, nullptr);
    }
  }
}

}  // namespace

MpiCommunicator::MpiCommunicator(MpiGroup group, mesh::Axis axis)
    : Communicator(axis), group_(std::move(group)), rank_(group_.rank()), size_(group_.size()) {}

MpiCommunicator::~MpiCommunicator() {
  for (Unsent& message : unsent_) MPI_Wait(&message.request, MPI_STATUS_IGNORE);
}

MPI_Request MpiCommunicator::start_send(std::span<const std::byte> data, int to, int tag) {
  CHECK(data.size() <= INT_MAX, "a message of {} bytes between hosts: expected less than 2 GiB",
        data.size());
  MPI_Request request = MPI_REQUEST_NULL;
  check_mpi(MPI_Isend(data.data(), static_cast<int>(data.size()), MPI_BYTE, to, tag, group_.comm(),
                      &request),
            "MPI_Isend");
  return request;
}

void MpiCommunicator::finish(MPI_Request& request) {
  poll([&] {
    int done = 0;
    check_mpi(MPI_Test(&request, &done, MPI_STATUS_IGNORE), "MPI_Test");
    return done != 0;
  });
}

void MpiCommunicator::receive(std::span<std::byte> data, int from, int tag, Call& call) {
  MPI_Message message = MPI_MESSAGE_NULL;
  MPI_Status status;
  call.waiting([&] {
    poll([&] {
      int arrived = 0;
      check_mpi(MPI_Improbe(from, tag, group_.comm(), &arrived, &message, &status), "MPI_Improbe");
      return arrived != 0;
    });
  });
  int bytes = 0;
  check_mpi(MPI_Get_count(&status, MPI_BYTE, &bytes), "MPI_Get_count");
  CHECK(static_cast<size_t>(bytes) == data.size(),
        "rank {} sent {} bytes to rank {}, which expects {}", from, bytes, rank_, data.size());
  check_mpi(MPI_Mrecv(data.data(), bytes, MPI_BYTE, &message, MPI_STATUS_IGNORE), "MPI_Mrecv");
}

void MpiCommunicator::exchange(const std::function<std::span<const std::byte>(int)>& outgoing,
                               const std::function<std::span<std::byte>(int)>& incoming,
                               Call& call) {
  std::vector<MPI_Request> requests;
  // Each rank begins with its right neighbour, so that not all send to the same one first.
  for (int i = 1; i < size_; ++i) {
    const int to = (rank_ + i) % size_;
    requests.push_back(start_send(outgoing(to), to, kCollectiveTag));
  }
  copy_bytes(outgoing(rank_), incoming(rank_));
  for (int i = 1; i < size_; ++i) {
    const int from = (rank_ + size_ - i) % size_;
    receive(incoming(from), from, kCollectiveTag, call);
  }
  for (MPI_Request& request : requests) finish(request);
}

void MpiCommunicator::all_reduce_sum(std::span<float> data, Wire wire) {
  CHECK(wire == Wire::kBF16 || std::has_single_bit(static_cast<unsigned>(size_)),
        "all_reduce in f32 over {} ranks", size_);
  if (size_ == 1) return;
  if (wire == Wire::kF32) {
    reduce_by_tree(data);
  } else {
    reduce_by_segments(data);
  }
}

// Recursive doubling: after the step with distance d every rank holds the sum of its 2d neighbours,
// which is a subtree of the binary tree.
void MpiCommunicator::reduce_by_tree(std::span<float> data) {
  Call call(*this, CallKind::kAllReduce, data.size_bytes());
  std::vector<float> other(data.size());
  for (int distance = 1; distance < size_; distance *= 2) {
    const int peer = rank_ ^ distance;
    MPI_Request request = start_send(std::as_bytes(data), peer, kCollectiveTag);
    receive(std::as_writable_bytes(std::span(other)), peer, kCollectiveTag, call);
    finish(request);
    const float* low = peer < rank_ ? other.data() : data.data();
    const float* high = peer < rank_ ? data.data() : other.data();
    tree_sum(std::array{low, high}, data.data(), static_cast<int64_t>(data.size()));
  }
}

// In bf16: rank r sums segment r of all ranks and gives the sum to all, itself included, so that
// all hold the same bits.
void MpiCommunicator::reduce_by_segments(std::span<float> data) {
  using tensor::BF16;
  Call call(*this, CallKind::kAllReduce, data.size() * sizeof(BF16));
  const size_t n = data.size();
  const auto ranks = static_cast<size_t>(size_);
  const auto part = [&](auto all, int r) {
    const size_t begin = n * static_cast<size_t>(r) / ranks;
    return all.subspan(begin, n * static_cast<size_t>(r + 1) / ranks - begin);
  };
  std::vector<BF16> shown(n);
  to_wire(Wire::kBF16, data.data(), std::as_writable_bytes(std::span(shown)).data(),
          static_cast<int64_t>(n));
  const std::span<float> mine = part(data, rank_);
  std::vector<BF16> received(mine.size() * ranks);
  const auto from = [&](int r) {
    return std::span(received).subspan(static_cast<size_t>(r) * mine.size(), mine.size());
  };
  exchange([&](int to) { return std::as_bytes(part(std::span(shown), to)); },
           [&](int r) { return std::as_writable_bytes(from(r)); }, call);
  std::vector<const BF16*> parts;
  for (int r = 0; r < size_; ++r) parts.push_back(from(r).data());
  tree_sum(parts, mine.data(), static_cast<int64_t>(mine.size()));
  std::vector<BF16> sum(mine.size());
  to_wire(Wire::kBF16, mine.data(), std::as_writable_bytes(std::span(sum)).data(),
          static_cast<int64_t>(mine.size()));
  exchange([&](int) { return std::as_bytes(std::span(sum)); },
           [&](int r) { return std::as_writable_bytes(part(std::span(shown), r)); }, call);
  from_wire(Wire::kBF16, std::as_bytes(std::span(shown)).data(), data.data(),
            static_cast<int64_t>(n));
}

void MpiCommunicator::all_gather(std::span<const std::byte> in, std::span<std::byte> out) {
  CHECK(out.size() == in.size() * static_cast<size_t>(size_), "all_gather of {} x {} into {}",
        size_, in.size(), out.size());
  if (size_ == 1) return copy_bytes(in, out);
  Call call(*this, CallKind::kAllGather, in.size());
  exchange([&](int) { return in; },
           [&](int from) { return out.subspan(static_cast<size_t>(from) * in.size(), in.size()); },
           call);
}

void MpiCommunicator::reduce_scatter_sum(std::span<const float> data, std::span<float> out) {
  CHECK(std::has_single_bit(static_cast<unsigned>(size_)), "reduce_scatter over {} ranks", size_);
  CHECK(data.size() == out.size() * static_cast<size_t>(size_), "reduce_scatter of {} into {} x {}",
        data.size(), size_, out.size());
  if (size_ == 1) return copy_bytes(std::as_bytes(data), std::as_writable_bytes(out));
  Call call(*this, CallKind::kReduceScatter, data.size_bytes());
  const size_t n = out.size();
  std::vector<float> received(data.size());
  exchange([&](int to) { return std::as_bytes(data.subspan(static_cast<size_t>(to) * n, n)); },
           [&](int from) {
             return std::as_writable_bytes(
                 std::span(received).subspan(static_cast<size_t>(from) * n, n));
           },
           call);
  std::vector<const float*> parts;
  for (size_t r = 0; r < static_cast<size_t>(size_); ++r) parts.push_back(received.data() + r * n);
  tree_sum(parts, out.data(), static_cast<int64_t>(n));
}

void MpiCommunicator::all_to_all_v(std::span<const std::byte> send,
                                   std::span<const int64_t> send_offsets, std::span<std::byte> recv,
                                   std::span<const int64_t> recv_offsets) {
  const auto ranks = static_cast<size_t>(size_);
  CHECK(send_offsets.size() == ranks + 1 && recv_offsets.size() == ranks + 1,
        "all_to_all_v with {} and {} offsets for {} ranks", send_offsets.size(),
        recv_offsets.size(), ranks);
  const auto part = [](auto buffer, std::span<const int64_t> offsets, int r) {
    const auto index = static_cast<size_t>(r);
    CHECK(offsets[index] >= 0 && offsets[index] <= offsets[index + 1] &&
              offsets[index + 1] <= static_cast<int64_t>(buffer.size()),
          "part {} is [{}, {}) of {} bytes", r, offsets[index], offsets[index + 1], buffer.size());
    return buffer.subspan(static_cast<size_t>(offsets[index]),
                          static_cast<size_t>(offsets[index + 1] - offsets[index]));
  };
  const auto outgoing = [&](int to) { return part(send, send_offsets, to); };
  const auto incoming = [&](int from) { return part(recv, recv_offsets, from); };
  if (size_ == 1) return copy_bytes(outgoing(0), incoming(0));
  Call call(*this, CallKind::kAllToAll,
            static_cast<size_t>(send_offsets.back() - send_offsets.front()));
  exchange(outgoing, incoming, call);
}

void MpiCommunicator::broadcast(std::span<std::byte> data, int root) {
  CHECK(root >= 0 && root < size_, "broadcast from rank {} of {}", root, size_);
  if (size_ == 1) return;
  Call call(*this, CallKind::kBroadcast, rank_ == root ? data.size() : 0);
  if (rank_ != root) return receive(data, root, kCollectiveTag, call);
  std::vector<MPI_Request> requests;
  for (int to = 0; to < size_; ++to) {
    if (to != root) requests.push_back(start_send(data, to, kCollectiveTag));
  }
  for (MPI_Request& request : requests) finish(request);
}

void MpiCommunicator::drop_received_sends() {
  std::erase_if(unsent_, [](Unsent& message) {
    int done = 0;
    check_mpi(MPI_Test(&message.request, &done, MPI_STATUS_IGNORE), "MPI_Test");
    return done != 0;
  });
}

void MpiCommunicator::send(std::span<const std::byte> data, int to) {
  CHECK(to >= 0 && to < size_, "send to rank {} of {}", to, size_);
  Call call(*this, CallKind::kSend, data.size(), to);
  post({data.begin(), data.end()}, to);
}

void MpiCommunicator::send(std::span<const float> data, int to, Wire wire) {
  CHECK(to >= 0 && to < size_, "send to rank {} of {}", to, size_);
  const auto n = static_cast<int64_t>(data.size());
  std::vector<std::byte> message(static_cast<size_t>(n * bytes_of(wire)));
  Call call(*this, CallKind::kSend, message.size(), to);
  to_wire(wire, data.data(), message.data(), n);
  post(std::move(message), to);
}

void MpiCommunicator::post(std::vector<std::byte> data, int to) {
  drop_received_sends();
  unsent_.push_back({.data = std::move(data)});
  unsent_.back().request = start_send(unsent_.back().data, to, kMessageTag);
}

void MpiCommunicator::recv(std::span<std::byte> data, int from) {
  CHECK(from >= 0 && from < size_, "receive from rank {} of {}", from, size_);
  Call call(*this, CallKind::kRecv, 0, from);
  receive(data, from, kMessageTag, call);
  drop_received_sends();
}

void MpiCommunicator::recv(std::span<float> data, int from, Wire wire) {
  if (wire == Wire::kF32) return recv(std::as_writable_bytes(data), from);
  std::vector<std::byte> message(data.size() * static_cast<size_t>(bytes_of(wire)));
  recv(message, from);
  from_wire(wire, message.data(), data.data(), static_cast<int64_t>(data.size()));
}

void MpiCommunicator::barrier() {
  if (size_ == 1) return;
  Call call(*this, CallKind::kBarrier, 0);
  MPI_Request request = MPI_REQUEST_NULL;
  check_mpi(MPI_Ibarrier(group_.comm(), &request), "MPI_Ibarrier");
  call.waiting([&] { finish(request); });
}

std::unique_ptr<Communicator> MpiCommunicator::split(int color, int key, mesh::Axis axis) {
  return group_.split(color, key, axis);
}

}  // namespace fourfold::comm

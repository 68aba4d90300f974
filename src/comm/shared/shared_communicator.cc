#include "comm/shared/shared_communicator.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "comm/tree_sum.h"

namespace fourfold::comm {
namespace {

constexpr int64_t kRegionFloats = GroupMemory::kRegionBytes / 4;
/// Up to here every rank sums everything: one barrier instead of two is worth more than the
/// additions.
constexpr int64_t kSmallFloats = 4096;
/// Segments begin on cache lines of their own, whatever travels.
constexpr int64_t kLineFloats = 32;

// memcpy of an empty span may get null pointers, which it must not.
void copy_bytes(const void* from, void* to, int64_t bytes) {
  if (bytes > 0) std::memcpy(to, from, static_cast<size_t>(bytes));
}

int64_t ssize(std::span<const std::byte> span) { return static_cast<int64_t>(span.size()); }

/// Calls run(begin, count) for the pieces of [0, n) of at most `largest`; once if n is 0.
template <typename Run>
void for_each_piece(int64_t n, int64_t largest, Run run) {
  int64_t begin = 0;
  do {
    const int64_t count = std::min(largest, n - begin);
    run(begin, count);
    begin += count;
  } while (begin < n);
}

/// Tells the messages of a receiver apart; never 0.
uint64_t message_tag(int to, uint32_t sequence) {
  return (static_cast<uint64_t>(to) + 1) << 32 | sequence;
}

}  // namespace

SharedCommunicator::SharedCommunicator(std::shared_ptr<GroupMemory> memory, int rank,
                                       mesh::Axis axis, Waiting waiting)
    : Communicator(axis), memory_(std::move(memory)), rank_(rank), waiting_(waiting) {
  CHECK(rank >= 0 && rank < size(), "rank {} of {}", rank, size());
  const auto ranks = static_cast<size_t>(size());
  sent_.resize(ranks);
  received_.resize(ranks);
  begins_.resize(ranks);
  parts_.resize(ranks);
  bf16_parts_.resize(ranks);
}

void SharedCommunicator::meet(Call& call) {
  call.waiting([&] { memory_->barrier(waiting_); });
}

void SharedCommunicator::barrier() {
  memory_->throw_if_aborted();
  if (size() == 1) return;
  Call call(*this, CallKind::kBarrier, 0);
  meet(call);
}

void SharedCommunicator::all_reduce_sum(std::span<float> data, Wire wire) {
  memory_->throw_if_aborted();
  CHECK(wire == Wire::kBF16 || std::has_single_bit(static_cast<unsigned>(size())),
        "all_reduce in f32 over {} ranks", size());
  if (size() == 1) return;
  // Between two cores rounding costs more than half of the bytes: 1 MiB of fp32 took 57 us in f32
  // and 73 us in bf16, 8 KiB the same (Zen 5, comm_benchmark).
  if (size() == 2) wire = Wire::kF32;
  const size_t chunk = static_cast<size_t>(GroupMemory::kRegionBytes / bytes_of(wire));
  Call call(*this, CallKind::kAllReduce, data.size() * static_cast<size_t>(bytes_of(wire)));
  // Of two ranks each reads what the other shows, which is no more than segments would move.
  const bool at_once = size() == 2 || data.size() <= size_t{kSmallFloats};
  for (; !data.empty(); data = data.subspan(std::min(chunk, data.size()))) {
    const std::span<float> piece = data.first(std::min(chunk, data.size()));
    if (at_once) {
      reduce_at_once(piece, wire, call);
    } else {
      reduce_by_segments(piece, wire, call);
    }
  }
}

void SharedCommunicator::sum_shown(int64_t begin, Wire wire, float* data, int64_t n) {
  for (int r = 0; r < size(); ++r) {
    const auto i = static_cast<size_t>(r);
    const std::byte* shown = payload(r) + begin * bytes_of(wire);
    // What this rank shows in f32 it has at hand; in bf16 it is rounded, as the others see it.
    parts_[i] = r == rank_ ? data : reinterpret_cast<const float*>(shown);
    bf16_parts_[i] = reinterpret_cast<const tensor::BF16*>(shown);
  }
  if (wire == Wire::kF32) {
    tree_sum(parts_, data, n);
  } else {
    tree_sum(bf16_parts_, data, n);
  }
}

void SharedCommunicator::reduce_at_once(std::span<float> data, Wire wire, Call& call) {
  const auto n = static_cast<int64_t>(data.size());
  to_wire(wire, data.data(), payload(rank_), n);
  meet(call);
  sum_shown(0, wire, data.data(), n);
  next_round();
}

// Rank r sums segment r of all ranks and shows the sum in its own region, where nobody else reads
// that segment before.
void SharedCommunicator::reduce_by_segments(std::span<float> data, Wire wire, Call& call) {
  const auto n = static_cast<int64_t>(data.size());
  const int64_t segment = (n / size() / kLineFloats + 1) * kLineFloats;
  const auto begin_of = [&](int r) { return std::min(n, r * segment); };
  const auto shown = [&](int r) { return payload(r) + begin_of(r) * bytes_of(wire); };
  const auto length = [&](int r) { return begin_of(r + 1) - begin_of(r); };
  to_wire(wire, data.data(), payload(rank_), n);
  meet(call);
  float* mine = data.data() + begin_of(rank_);
  sum_shown(begin_of(rank_), wire, mine, length(rank_));
  to_wire(wire, mine, shown(rank_), length(rank_));
  meet(call);
  for (int r = 0; r < size(); ++r) from_wire(wire, shown(r), data.data() + begin_of(r), length(r));
  next_round();
}

void SharedCommunicator::all_gather(std::span<const std::byte> in, std::span<std::byte> out) {
  memory_->throw_if_aborted();
  CHECK(out.size() == in.size() * static_cast<size_t>(size()), "all_gather of {} x {} into {}",
        size(), in.size(), out.size());
  const int64_t n = ssize(in);
  if (size() == 1) return copy_bytes(in.data(), out.data(), n);
  Call call(*this, CallKind::kAllGather, in.size());
  for (int64_t begin = 0; begin < n; begin += GroupMemory::kRegionBytes) {
    const int64_t count = std::min(GroupMemory::kRegionBytes, n - begin);
    copy_bytes(in.data() + begin, payload(rank_), count);
    meet(call);
    for (int r = 0; r < size(); ++r) copy_bytes(payload(r), out.data() + r * n + begin, count);
    next_round();
  }
}

void SharedCommunicator::reduce_scatter_sum(std::span<const float> data, std::span<float> out) {
  memory_->throw_if_aborted();
  CHECK(std::has_single_bit(static_cast<unsigned>(size())), "reduce_scatter over {} ranks", size());
  CHECK(data.size() == out.size() * static_cast<size_t>(size()),
        "reduce_scatter of {} into {} x {}", data.size(), size(), out.size());
  const auto n = static_cast<int64_t>(out.size());
  if (size() == 1) return copy_bytes(data.data(), out.data(), n * 4);
  Call call(*this, CallKind::kReduceScatter, data.size_bytes());
  // Each round shows the same part of every rank's segment.
  const int64_t step = kRegionFloats / size() / kLineFloats * kLineFloats;
  for (int64_t begin = 0; begin < n; begin += step) {
    const int64_t count = std::min(step, n - begin);
    for (int r = 0; r < size(); ++r) {
      copy_bytes(data.data() + r * n + begin, payload(rank_) + r * step * 4, count * 4);
    }
    meet(call);
    for (int r = 0; r < size(); ++r) parts_[static_cast<size_t>(r)] = floats(r) + rank_ * step;
    tree_sum(parts_, out.data() + begin, count);
    next_round();
  }
}

void SharedCommunicator::all_to_all_v(std::span<const std::byte> send,
                                      std::span<const int64_t> send_offsets,
                                      std::span<std::byte> recv,
                                      std::span<const int64_t> recv_offsets) {
  memory_->throw_if_aborted();
  const auto ranks = static_cast<size_t>(size());
  CHECK(send_offsets.size() == ranks + 1 && recv_offsets.size() == ranks + 1,
        "all_to_all_v with {} and {} offsets for {} ranks", send_offsets.size(),
        recv_offsets.size(), ranks);
  CHECK(send_offsets.front() >= 0 && send_offsets.back() <= ssize(send) &&
            recv_offsets.front() >= 0 && recv_offsets.back() <= ssize(recv),
        "all_to_all_v with offsets outside its buffers");
  const auto received = [&](size_t r) { return recv_offsets[r + 1] - recv_offsets[r]; };
  if (ranks == 1) {
    CHECK(send_offsets[1] - send_offsets[0] == received(0), "all_to_all_v to itself: {} and {}",
          send_offsets[1] - send_offsets[0], received(0));
    return copy_bytes(send.data() + send_offsets[0], recv.data() + recv_offsets[0], received(0));
  }
  const int64_t total = send_offsets.back();
  Call call(*this, CallKind::kAllToAll, static_cast<size_t>(total - send_offsets.front()));
  // Everybody shows its buffer piece by piece. The offsets stand beside the first piece; the
  // longest buffer decides how many rounds there are.
  int64_t longest = 0;
  for (int64_t shown = 0; shown == 0 || shown < longest; shown += GroupMemory::kRegionBytes) {
    const bool first = shown == 0;
    if (first) std::copy(send_offsets.begin(), send_offsets.end(), offsets(rank_));
    const int64_t left = std::max<int64_t>(0, total - shown);
    if (left > 0) {
      copy_bytes(send.data() + shown, payload(rank_), std::min(left, GroupMemory::kRegionBytes));
    }
    meet(call);
    for (size_t r = 0; r < ranks; ++r) {
      const int from = static_cast<int>(r);
      if (first) {
        begins_[r] = offsets(from)[rank_];
        longest = std::max(longest, offsets(from)[ranks]);
        const int64_t sent = offsets(from)[rank_ + 1] - begins_[r];
        CHECK(sent == received(r), "rank {} sends {} bytes to rank {}, which expects {}", from,
              sent, rank_, received(r));
      }
      const int64_t begin = std::max(begins_[r], shown);
      const int64_t end = std::min(begins_[r] + received(r), shown + GroupMemory::kRegionBytes);
      if (begin < end) {
        copy_bytes(payload(from) + (begin - shown),
                   recv.data() + recv_offsets[r] + (begin - begins_[r]), end - begin);
      }
    }
    next_round();
  }
}

void SharedCommunicator::broadcast(std::span<std::byte> data, int root) {
  memory_->throw_if_aborted();
  CHECK(root >= 0 && root < size(), "broadcast from rank {} of {}", root, size());
  if (size() == 1) return;
  Call call(*this, CallKind::kBroadcast, rank_ == root ? data.size() : 0);
  for (int64_t begin = 0; begin < ssize(data); begin += GroupMemory::kRegionBytes) {
    const int64_t count = std::min(GroupMemory::kRegionBytes, ssize(data) - begin);
    if (rank_ == root) copy_bytes(data.data() + begin, payload(root), count);
    meet(call);
    if (rank_ != root) copy_bytes(payload(root), data.data() + begin, count);
    next_round();
  }
}

/// `write` fills the message's slot.
template <typename Write>
void SharedCommunicator::send_piece(int64_t bytes, int to, Call& call, Write write) {
  GroupMemory::Mail& mine = memory_->mail(rank_);
  const int slot = wait_for_slot(mine.outbox, 0, mine.releases, call);
  GroupMemory::Slot& message = mine.outbox[static_cast<size_t>(slot)];
  write(memory_->slot_payload(rank_, slot));
  message.bytes = bytes;
  message.tag.store(message_tag(to, sent_[static_cast<size_t>(to)]++), std::memory_order_release);
  memory_->mail(to).arrivals.advance();
}

/// `read` takes the message out of its slot.
template <typename Read>
void SharedCommunicator::recv_piece(int64_t bytes, int from, Call& call, Read read) {
  GroupMemory::Mail& sender = memory_->mail(from);
  const uint64_t tag = message_tag(rank_, received_[static_cast<size_t>(from)]++);
  const int slot = wait_for_slot(sender.outbox, tag, memory_->mail(rank_).arrivals, call);
  GroupMemory::Slot& message = sender.outbox[static_cast<size_t>(slot)];
  CHECK(message.bytes == bytes, "rank {} sent {} bytes to rank {}, which expects {}", from,
        message.bytes, rank_, bytes);
  read(memory_->slot_payload(from, slot));
  message.tag.store(0, std::memory_order_release);
  sender.releases.advance();
}

void SharedCommunicator::send(std::span<const std::byte> data, int to) {
  CHECK(to >= 0 && to < size(), "send to rank {} of {}", to, size());
  Call call(*this, CallKind::kSend, data.size(), to);
  for_each_piece(ssize(data), GroupMemory::kSlotBytes, [&](int64_t begin, int64_t count) {
    send_piece(count, to, call,
               [&](std::byte* slot) { copy_bytes(data.data() + begin, slot, count); });
  });
}

void SharedCommunicator::recv(std::span<std::byte> data, int from) {
  CHECK(from >= 0 && from < size(), "receive from rank {} of {}", from, size());
  Call call(*this, CallKind::kRecv, 0, from);
  for_each_piece(ssize(data), GroupMemory::kSlotBytes, [&](int64_t begin, int64_t count) {
    recv_piece(count, from, call,
               [&](const std::byte* slot) { copy_bytes(slot, data.data() + begin, count); });
  });
}

void SharedCommunicator::send(std::span<const float> data, int to, Wire wire) {
  CHECK(to >= 0 && to < size(), "send to rank {} of {}", to, size());
  const int64_t size_on_wire = bytes_of(wire);
  const auto n = static_cast<int64_t>(data.size());
  Call call(*this, CallKind::kSend, static_cast<size_t>(n * size_on_wire), to);
  for_each_piece(n, GroupMemory::kSlotBytes / size_on_wire, [&](int64_t begin, int64_t count) {
    send_piece(count * size_on_wire, to, call,
               [&](std::byte* slot) { to_wire(wire, data.data() + begin, slot, count); });
  });
}

void SharedCommunicator::recv(std::span<float> data, int from, Wire wire) {
  CHECK(from >= 0 && from < size(), "receive from rank {} of {}", from, size());
  const int64_t size_on_wire = bytes_of(wire);
  const auto n = static_cast<int64_t>(data.size());
  Call call(*this, CallKind::kRecv, 0, from);
  for_each_piece(n, GroupMemory::kSlotBytes / size_on_wire, [&](int64_t begin, int64_t count) {
    recv_piece(count * size_on_wire, from, call,
               [&](const std::byte* slot) { from_wire(wire, slot, data.data() + begin, count); });
  });
}

int SharedCommunicator::wait_for_slot(const GroupMemory::Outbox& outbox, uint64_t tag,
                                      Signal& changes, Call& call) {
  for (;;) {
    const uint32_t seen = changes.load();
    memory_->throw_if_aborted();
    for (int slot = 0; slot < GroupMemory::kSlots; ++slot) {
      if (outbox[static_cast<size_t>(slot)].tag.load(std::memory_order_acquire) == tag) return slot;
    }
    call.waiting([&] { changes.wait_change(seen, waiting_); });
  }
}

}  // namespace fourfold::comm

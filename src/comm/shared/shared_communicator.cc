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
/// Segments begin on cache lines of their own.
constexpr int64_t kLineFloats = 16;

// memcpy of an empty span may get null pointers, which it must not.
void copy_bytes(const void* from, void* to, int64_t bytes) {
  if (bytes > 0) std::memcpy(to, from, static_cast<size_t>(bytes));
}

int64_t ssize(std::span<const std::byte> span) { return static_cast<int64_t>(span.size()); }

/// Tells the messages of a receiver apart; never 0.
uint64_t message_tag(int to, uint32_t sequence) {
  return (static_cast<uint64_t>(to) + 1) << 32 | sequence;
}

}  // namespace

SharedCommunicator::SharedCommunicator(std::shared_ptr<GroupMemory> memory, int rank,
                                       mesh::Axis axis)
    : Communicator(axis), memory_(std::move(memory)), rank_(rank) {
  CHECK(rank >= 0 && rank < size(), "rank {} of {}", rank, size());
  const auto ranks = static_cast<size_t>(size());
  sent_.resize(ranks);
  received_.resize(ranks);
  begins_.resize(ranks);
  parts_.resize(ranks);
}

void SharedCommunicator::meet(Call& call, bool first) {
  if (first) {
    call.waiting([&] { memory_->barrier(); });
  } else {
    memory_->barrier();
  }
}

void SharedCommunicator::barrier() {
  memory_->throw_if_aborted();
  if (size() == 1) return;
  Call call(*this, CallKind::kBarrier, 0);
  meet(call, true);
}

void SharedCommunicator::all_reduce_sum(std::span<float> data) {
  memory_->throw_if_aborted();
  CHECK(std::has_single_bit(static_cast<unsigned>(size())), "all_reduce over {} ranks", size());
  if (size() == 1) return;
  Call call(*this, CallKind::kAllReduce, data.size_bytes());
  const auto n = static_cast<int64_t>(data.size());
  if (n <= kSmallFloats) return reduce_small(data, call);
  for (int64_t begin = 0; begin < n; begin += kRegionFloats) {
    const int64_t count = std::min(kRegionFloats, n - begin);
    reduce_chunk(data.subspan(static_cast<size_t>(begin), static_cast<size_t>(count)), call,
                 begin == 0);
  }
}

void SharedCommunicator::reduce_small(std::span<float> data, Call& call) {
  copy_bytes(data.data(), payload(rank_), static_cast<int64_t>(data.size_bytes()));
  meet(call, true);
  for (int r = 0; r < size(); ++r) parts_[static_cast<size_t>(r)] = floats(r);
  tree_sum(parts_, data.data(), static_cast<int64_t>(data.size()));
  next_round();
}

// Rank r sums segment r of all ranks into its own region, which nobody else reads there.
void SharedCommunicator::reduce_chunk(std::span<float> data, Call& call, bool first) {
  const auto n = static_cast<int64_t>(data.size());
  const int64_t segment = (n / size() / kLineFloats + 1) * kLineFloats;
  const auto begin_of = [&](int r) { return std::min(n, r * segment); };
  copy_bytes(data.data(), payload(rank_), static_cast<int64_t>(data.size_bytes()));
  meet(call, first);
  const int64_t begin = begin_of(rank_);
  for (int r = 0; r < size(); ++r) parts_[static_cast<size_t>(r)] = floats(r) + begin;
  tree_sum(parts_, floats(rank_) + begin, begin_of(rank_ + 1) - begin);
  meet(call, false);
  for (int r = 0; r < size(); ++r) {
    const int64_t from = begin_of(r);
    copy_bytes(floats(r) + from, data.data() + from, (begin_of(r + 1) - from) * 4);
  }
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
    meet(call, begin == 0);
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
      copy_bytes(data.data() + r * n + begin, floats(rank_) + r * step, count * 4);
    }
    meet(call, begin == 0);
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
    meet(call, first);
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
    meet(call, begin == 0);
    if (rank_ != root) copy_bytes(payload(root), data.data() + begin, count);
    next_round();
  }
}

void SharedCommunicator::send(std::span<const std::byte> data, int to) {
  CHECK(to >= 0 && to < size(), "send to rank {} of {}", to, size());
  Call call(*this, CallKind::kSend, data.size(), to);
  int64_t begin = 0;
  do {
    const int64_t count = std::min(GroupMemory::kSlotBytes, ssize(data) - begin);
    send_piece(data.subspan(static_cast<size_t>(begin), static_cast<size_t>(count)), to, call);
    begin += count;
  } while (begin < ssize(data));
}

void SharedCommunicator::recv(std::span<std::byte> data, int from) {
  CHECK(from >= 0 && from < size(), "receive from rank {} of {}", from, size());
  Call call(*this, CallKind::kRecv, 0, from);
  int64_t begin = 0;
  do {
    const int64_t count = std::min(GroupMemory::kSlotBytes, ssize(data) - begin);
    recv_piece(data.subspan(static_cast<size_t>(begin), static_cast<size_t>(count)), from, call);
    begin += count;
  } while (begin < ssize(data));
}

void SharedCommunicator::send_piece(std::span<const std::byte> piece, int to, Call& call) {
  GroupMemory::Mail& mine = memory_->mail(rank_);
  const int slot = wait_for_slot(mine.outbox, 0, mine.releases, call);
  GroupMemory::Slot& message = mine.outbox[static_cast<size_t>(slot)];
  copy_bytes(piece.data(), memory_->slot_payload(rank_, slot), ssize(piece));
  message.bytes = ssize(piece);
  message.tag.store(message_tag(to, sent_[static_cast<size_t>(to)]++), std::memory_order_release);
  memory_->mail(to).arrivals.advance();
}

void SharedCommunicator::recv_piece(std::span<std::byte> piece, int from, Call& call) {
  GroupMemory::Mail& sender = memory_->mail(from);
  const uint64_t tag = message_tag(rank_, received_[static_cast<size_t>(from)]++);
  const int slot = wait_for_slot(sender.outbox, tag, memory_->mail(rank_).arrivals, call);
  GroupMemory::Slot& message = sender.outbox[static_cast<size_t>(slot)];
  CHECK(message.bytes == ssize(piece), "rank {} sent {} bytes to rank {}, which expects {}", from,
        message.bytes, rank_, piece.size());
  copy_bytes(memory_->slot_payload(from, slot), piece.data(), ssize(piece));
  message.tag.store(0, std::memory_order_release);
  sender.releases.advance();
}

int SharedCommunicator::wait_for_slot(const GroupMemory::Outbox& outbox, uint64_t tag,
                                      Signal& changes, Call& call) {
  for (;;) {
    const uint32_t seen = changes.load();
    memory_->throw_if_aborted();
    for (int slot = 0; slot < GroupMemory::kSlots; ++slot) {
      if (outbox[static_cast<size_t>(slot)].tag.load(std::memory_order_acquire) == tag) return slot;
    }
    call.waiting([&] { changes.wait_change(seen); });
  }
}

}  // namespace fourfold::comm

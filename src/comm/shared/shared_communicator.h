#pragma once

#include <memory>
#include <vector>

#include "comm/communicator.h"
#include "comm/shared/group_memory.h"

namespace fourfold::comm {

/// The collectives of ranks that share memory, as threads or as processes; only how a group comes
/// into being (split) differs.
///
/// Each rank shows its part in its own region, all meet at a barrier, each reads what it needs. The
/// regions come in two, used in turn: who writes one again has passed the barrier of the round in
/// between, so everybody has read what stood in it, and one barrier a round is enough.
class SharedCommunicator : public Communicator {
 public:
  int rank() const override { return rank_; }
  int size() const override { return memory_->size(); }

  void all_reduce_sum(std::span<float> data) override;
  void all_gather(std::span<const std::byte> in, std::span<std::byte> out) override;
  void reduce_scatter_sum(std::span<const float> data, std::span<float> out) override;
  void all_to_all_v(std::span<const std::byte> send, std::span<const int64_t> send_offsets,
                    std::span<std::byte> recv, std::span<const int64_t> recv_offsets) override;
  void broadcast(std::span<std::byte> data, int root) override;
  void send(std::span<const std::byte> data, int to) override;
  void recv(std::span<std::byte> data, int from) override;
  void barrier() override;

 protected:
  SharedCommunicator(std::shared_ptr<GroupMemory> memory, int rank, mesh::Axis axis);

  GroupMemory& memory() { return *memory_; }

 private:
  void reduce_small(std::span<float> data, Call& call);
  void reduce_chunk(std::span<float> data, Call& call, bool first);
  void send_piece(std::span<const std::byte> piece, int to, Call& call);
  void recv_piece(std::span<std::byte> piece, int from, Call& call);

  /// Waits for a slot of `outbox` with this tag; `changes` advances whenever one may have got it.
  int wait_for_slot(const GroupMemory::Outbox& outbox, uint64_t tag, Signal& changes, Call& call);

  int64_t* offsets(int rank) const { return memory_->region(parity_, rank).offsets; }
  std::byte* payload(int rank) const { return memory_->region(parity_, rank).payload; }
  float* floats(int rank) const { return reinterpret_cast<float*>(payload(rank)); }
  /// The barrier of a call; the first one of a call is the wait for the slowest rank.
  void meet(Call& call, bool first);
  void next_round() { parity_ ^= 1; }

  std::shared_ptr<GroupMemory> memory_;
  int rank_;
  int parity_ = 0;
  std::vector<uint32_t> sent_;       ///< messages so far to each rank
  std::vector<uint32_t> received_;   ///< and from each rank
  std::vector<const float*> parts_;  ///< scratch: one part of a sum from each rank
  std::vector<int64_t> begins_;      ///< scratch: where this rank's part of each sender's buffer is
};

}  // namespace fourfold::comm

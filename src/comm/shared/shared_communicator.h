#pragma once

#include <memory>
#include <vector>

#include "comm/communicator.h"
#include "comm/shared/group_memory.h"
#include "comm/waiting.h"

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

  void all_reduce_sum(std::span<float> data, Wire wire) override;
  void all_gather(std::span<const std::byte> in, std::span<std::byte> out) override;
  void reduce_scatter_sum(std::span<const float> data, std::span<float> out) override;
  void all_to_all_v(std::span<const std::byte> send, std::span<const int64_t> send_offsets,
                    std::span<std::byte> recv, std::span<const int64_t> recv_offsets) override;
  void broadcast(std::span<std::byte> data, int root) override;
  void send(std::span<const std::byte> data, int to) override;
  void recv(std::span<std::byte> data, int from) override;
  void send(std::span<const float> data, int to, Wire wire) override;
  void recv(std::span<float> data, int from, Wire wire) override;
  void barrier() override;

 protected:
  SharedCommunicator(std::shared_ptr<GroupMemory> memory, int rank, mesh::Axis axis,
                     Waiting waiting);

  GroupMemory& memory() { return *memory_; }
  Waiting waiting() const { return waiting_; }

 private:
  void reduce_at_once(std::span<float> data, Wire wire, Call& call);
  void reduce_by_segments(std::span<float> data, Wire wire, Call& call);
  /// data[0, n) = the sum of what all ranks show in floats [begin, begin + n) of their regions.
  void sum_shown(int64_t begin, Wire wire, float* data, int64_t n);

  template <typename Write>
  void send_piece(int64_t bytes, int to, Call& call, Write write);
  template <typename Read>
  void recv_piece(int64_t bytes, int from, Call& call, Read read);

  /// Waits for a slot of `outbox` with this tag; `changes` advances whenever one may have got it.
  int wait_for_slot(const GroupMemory::Outbox& outbox, uint64_t tag, Signal& changes, Call& call);

  int64_t* offsets(int rank) const { return memory_->region(parity_, rank).offsets; }
  std::byte* payload(int rank) const { return memory_->region(parity_, rank).payload; }
  const float* floats(int rank) const { return reinterpret_cast<const float*>(payload(rank)); }
  void meet(Call& call);
  void next_round() { parity_ ^= 1; }

  std::shared_ptr<GroupMemory> memory_;
  int rank_;
  Waiting waiting_;
  int parity_ = 0;
  std::vector<uint32_t> sent_;      ///< messages so far to each rank
  std::vector<uint32_t> received_;  ///< and from each rank
  // Scratch: one part of a sum from each rank, and where this rank's part of each one's buffer is.
  std::vector<const float*> parts_;
  std::vector<const tensor::BF16*> bf16_parts_;
  std::vector<int64_t> begins_;
};

}  // namespace fourfold::comm

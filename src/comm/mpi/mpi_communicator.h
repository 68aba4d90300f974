#pragma once

#include <functional>
#include <list>
#include <vector>

#include "comm/communicator.h"
#include "comm/mpi/mpi_api.h"
#include "comm/mpi/mpi_group.h"

namespace fourfold::comm {

/// Ranks on several hosts: every call is made of MPI point-to-point messages, so that waiting for a
/// peer (until its message is announced) can be told from moving bytes. One message carries less
/// than 2 GiB (CHECKed).
class MpiCommunicator final : public Communicator {
 public:
  MpiCommunicator(MpiGroup group, mesh::Axis axis);
  /// Waits until what was sent has been received.
  ~MpiCommunicator() override;

  int rank() const override { return rank_; }
  int size() const override { return size_; }

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
  std::unique_ptr<Communicator> split(int color, int key, mesh::Axis axis) override;

 private:
  /// A message that its receiver may not have asked for yet.
  struct Unsent {
    std::vector<std::byte> data;
    MPI_Request request = MPI_REQUEST_NULL;
  };

  MPI_Request start_send(std::span<const std::byte> data, int to, int tag);
  void finish(MPI_Request& request);
  void receive(std::span<std::byte> data, int from, int tag, Call& call);
  /// Gives outgoing(r) to each rank r and fills incoming(r) from it, this rank included.
  void exchange(const std::function<std::span<const std::byte>(int)>& outgoing,
                const std::function<std::span<std::byte>(int)>& incoming, Call& call);
  void reduce_by_tree(std::span<float> data);
  void reduce_by_segments(std::span<float> data);
  void post(std::vector<std::byte> data, int to);
  void drop_received_sends();

  MpiGroup group_;
  int rank_;
  int size_;
  std::list<Unsent> unsent_;
};

}  // namespace fourfold::comm

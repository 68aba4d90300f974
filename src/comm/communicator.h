#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/clock.h"
#include "comm/progress.h"
#include "comm/wire.h"
#include "mesh/mesh.h"

namespace fourfold::comm {

class DeviceGroup;

/// What one axis cost a rank so far. `seconds` is the whole time inside the calls, `wait_seconds`
/// the part of it in which the rank could only wait for a peer that was not there yet; the rest is
/// moving and adding. `bytes` are the payload bytes this rank put in, as they travel. A group of
/// one rank has nothing to say and counts nothing.
struct CommStats {
  double seconds = 0;
  double wait_seconds = 0;
  int64_t bytes = 0;
  int64_t calls = 0;

  CommStats& operator+=(const CommStats& other);
};

/// The collectives of one group of ranks that share work along one axis.
///
/// Calls are ordered as issued, and every rank of the group issues the same calls with the same
/// sizes. On a device they are enqueued on the communicator's stream; on the CPU a call returns
/// when its result is there, except `send`, which does not wait for the receiver to arrive (up to
/// 32 messages of a rank may be unread, each further one waits). A rank calls from one thread.
///
/// A peer that is gone or a group that was aborted ends a call by throwing CommAborted (see below),
/// which only the worker's step loop catches: no layer has to check a status after each call.
class Communicator {
 public:
  virtual ~Communicator();

  virtual int rank() const = 0;
  virtual int size() const = 0;

  /// data[i] = sum over the ranks' data[i] in fp32; all ranks hold identical bits afterwards. With
  /// kF32 by the fixed binary tree over ranks of docs/numerics.md, ((0+1)+(2+3))+((4+5)+(6+7)), and
  /// size() must be a power of two. With kBF16 parts and sums may be rounded where they travel,
  /// the order of additions is any, and so is size().
  virtual void all_reduce_sum(std::span<float> data, Wire wire) = 0;

  /// out = the ranks' `in`, in rank order; out.size() == size() * in.size().
  virtual void all_gather(std::span<const std::byte> in, std::span<std::byte> out) = 0;

  /// out = this rank's 1/size() of the tree sum; data.size() == size() * out.size().
  virtual void reduce_scatter_sum(std::span<const float> data, std::span<float> out) = 0;

  /// Rank r gets send[send_offsets[r] .. send_offsets[r+1]); bytes arrive in rank order at
  /// recv_offsets, which the caller knows or has exchanged before.
  virtual void all_to_all_v(std::span<const std::byte> send, std::span<const int64_t> send_offsets,
                            std::span<std::byte> recv, std::span<const int64_t> recv_offsets) = 0;

  /// Copies `data` of rank `root` to all.
  virtual void broadcast(std::span<std::byte> data, int root) = 0;

  /// Point to point inside the group, matched in order per (sender, receiver). What was sent as
  /// floats is received as as many floats with the same wire.
  virtual void send(std::span<const std::byte> data, int to) = 0;
  virtual void recv(std::span<std::byte> data, int from) = 0;
  virtual void send(std::span<const float> data, int to, Wire wire) = 0;
  virtual void recv(std::span<float> data, int from, Wire wire) = 0;

  virtual void barrier() = 0;

  /// The ranks that give the same color form a new group, ordered by `key` (ties by rank).
  /// `axis` names it in statistics. Collective over this group.
  virtual std::unique_ptr<Communicator> split(int color, int key, mesh::Axis axis) = 0;

  /// Of its own calls and of its devices'.
  CommStats stats() const;

  /// Where the ranks have devices that talk among themselves (connect_devices()); else null.
  DeviceGroup* devices() const { return devices_.get(); }
  void attach(std::unique_ptr<DeviceGroup> devices);
  mesh::Axis axis() const { return axis_; }

  /// Where this rank marks its calls, and whoever works on them its other doings; may be null.
  /// `progress` outlives this object. Groups that are split from this one have to be told too.
  void report_to(Progress* progress) { progress_ = progress; }
  Progress* progress() const { return progress_; }

 protected:
  explicit Communicator(mesh::Axis axis);

  /// Accounts one call from its construction to its destruction, and shows it as open. `peer`: of
  /// send and recv.
  class Call {
   public:
    Call(Communicator& communicator, CallKind kind, size_t bytes, int peer = -1);
    ~Call();
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

    /// Runs `wait` and counts its time as waiting for a peer.
    template <typename Wait>
    void waiting(Wait wait) {
      const int64_t begin_ns = base::SteadyClock().now_ns();
      wait();
      stats_.wait_seconds += base::seconds_between(begin_ns, base::SteadyClock().now_ns());
    }

   private:
    CommStats& stats_;
    Progress* progress_;
    int64_t begin_ns_;
  };

  CommStats stats_;

 private:
  mesh::Axis axis_;
  Progress* progress_ = nullptr;
  std::unique_ptr<DeviceGroup> devices_;
};

/// Thrown out of a Communicator call when the group has been aborted. The one exception that
/// crosses a room, because it has to unwind a forward pass of any depth; caught by runtime::Worker.
struct CommAborted {
  std::string reason;
};

}  // namespace fourfold::comm

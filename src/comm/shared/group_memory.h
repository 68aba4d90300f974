#pragma once

#include <sys/types.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"
#include "comm/shared/signal.h"

namespace fourfold::comm {

/// The memory through which the ranks of a group on one host talk, be they threads or processes:
/// a barrier, two regions of each rank for collectives, and an outbox of each rank for messages.
///
/// It is a memfd, which has no name in any file system: when the last process that maps it is gone,
/// however it ended, so is the memory. Pages that nobody touched take none.
class GroupMemory {
 public:
  /// Payload of one region; longer arrays go piece by piece.
  static constexpr int64_t kRegionBytes = int64_t{256} << 10;
  /// Messages of one rank that may be unread, and the size of each.
  static constexpr int kSlots = 32;
  static constexpr int64_t kSlotBytes = int64_t{64} << 20;

  /// What another process of this host needs to open the memory of a group.
  struct Address {
    pid_t pid = 0;
    int fd = -1;
    uint64_t token = 0;  ///< random; tells that pid and fd mean the same there
  };

  static base::Result<std::shared_ptr<GroupMemory>> create(int size);
  static base::Result<std::shared_ptr<GroupMemory>> open(const Address& address, int size);
  ~GroupMemory();
  GroupMemory(const GroupMemory&) = delete;
  GroupMemory& operator=(const GroupMemory&) = delete;

  Address address() const;
  int size() const { return size_; }

  /// Returns when all ranks have called it. Throws CommAborted.
  void barrier(Waiting waiting);

  /// Makes every waiting and every later call of the group throw CommAborted with this reason (the
  /// first one given wins; cut to 255 characters). May be called by any thread.
  void abort(std::string_view reason);
  /// Throws CommAborted if the group was aborted.
  void throw_if_aborted() const;

  /// What a rank shows to the others until the second next barrier. `parity` alternates.
  struct Region {
    int64_t* offsets;  ///< size() + 1
    std::byte* payload;
  };
  Region region(int parity, int rank) const;

  /// One message. `tag` is 0 where the slot is free; the receiver frees it.
  struct Slot {
    std::atomic<uint64_t> tag{0};
    int64_t bytes = 0;
  };
  using Outbox = std::array<Slot, kSlots>;
  struct Mail {
    Outbox outbox;    ///< messages of this rank
    Signal arrivals;  ///< advances when somebody has sent to this rank
    Signal releases;  ///< advances when a slot of this rank's outbox became free
  };
  Mail& mail(int rank) const;
  std::byte* slot_payload(int rank, int slot) const;

 private:
  struct Header;

  GroupMemory(int size, int fd, void* base);
  static base::Result<std::shared_ptr<GroupMemory>> map(int fd, int size);
  static int64_t region_stride(int size);
  static int64_t regions_offset(int size);
  static int64_t slots_offset(int size);
  static int64_t total_bytes(int size);

  Header& header() const;
  std::byte* at(int64_t offset) const { return static_cast<std::byte*>(base_) + offset; }

  int size_;
  int fd_;
  void* base_;
};

}  // namespace fourfold::comm

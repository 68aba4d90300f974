#pragma once

#include <memory>
#include <string_view>

#include "comm/communicator.h"
#include "comm/waiting.h"

namespace fourfold::comm {

/// Ranks as threads of this process. The communicators may outlive it.
class LocalWorld {
 public:
  explicit LocalWorld(int size, Waiting waiting = Waiting::kSleep);

  /// The world's communicator of `rank`, for the thread that plays this rank; take each one once.
  std::unique_ptr<Communicator> communicator(int rank);

  /// Makes every waiting and every later call on the world and on all that was split from it throw
  /// CommAborted with this reason. May be called by any thread.
  void abort(std::string_view reason);

  struct Groups;  ///< of the implementation

 private:
  std::shared_ptr<Groups> groups_;
  std::shared_ptr<class GroupMemory> world_;
  Waiting waiting_;
};

/// A group of one rank.
std::unique_ptr<Communicator> make_single(mesh::Axis axis);

}  // namespace fourfold::comm

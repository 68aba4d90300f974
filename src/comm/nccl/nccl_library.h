#pragma once

#include <nccl.h>

#include <string>
#include <string_view>

namespace fourfold::comm {

/// The functions of NCCL that are used here, loaded at run time: one program runs with and without
/// it.
struct Nccl {
  decltype(&ncclGetUniqueId) get_unique_id = nullptr;
  decltype(&ncclCommInitRank) init_rank = nullptr;
  decltype(&ncclCommDestroy) destroy = nullptr;
  decltype(&ncclAllReduce) all_reduce = nullptr;
  decltype(&ncclAllGather) all_gather = nullptr;
  decltype(&ncclSend) send = nullptr;
  decltype(&ncclRecv) recv = nullptr;
  decltype(&ncclGroupStart) group_start = nullptr;
  decltype(&ncclGroupEnd) group_end = nullptr;
  decltype(&ncclGetErrorString) error_string = nullptr;

  /// Null where it cannot be loaded; `why` says so.
  static const Nccl* get(std::string& why);

  /// Throws std::runtime_error where NCCL failed: it ends the rank's group, which says so.
  void check(ncclResult_t status, std::string_view what) const;
};

}  // namespace fourfold::comm

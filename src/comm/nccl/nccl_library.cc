#include "comm/nccl/nccl_library.h"

#include <fmt/format.h>

#include <stdexcept>

#include "base/shared_library.h"

namespace fourfold::comm {
namespace {

struct Loaded {
  Nccl library;
  std::string error;
};

Loaded load() {
  Loaded out;
  base::SharedLibrary shared("libnccl.so.2");
  Nccl& l = out.library;
  shared.find(l.get_unique_id, "ncclGetUniqueId");
  shared.find(l.init_rank, "ncclCommInitRank");
  shared.find(l.destroy, "ncclCommDestroy");
  shared.find(l.all_reduce, "ncclAllReduce");
  shared.find(l.all_gather, "ncclAllGather");
  shared.find(l.send, "ncclSend");
  shared.find(l.recv, "ncclRecv");
  shared.find(l.group_start, "ncclGroupStart");
  shared.find(l.group_end, "ncclGroupEnd");
  shared.find(l.error_string, "ncclGetErrorString");
  out.error = shared.error();
  return out;
}

}  // namespace

const Nccl* Nccl::get(std::string& why) {
  static const Loaded kLoaded = load();
  if (kLoaded.error.empty()) return &kLoaded.library;
  why = kLoaded.error;
  return nullptr;
}

void Nccl::check(ncclResult_t status, std::string_view what) const {
  if (status == ncclSuccess) return;
  throw std::runtime_error(fmt::format("NCCL failed: {} when {}", error_string(status), what));
}

}  // namespace fourfold::comm

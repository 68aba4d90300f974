#include "comm/nccl/nccl_library.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <stdexcept>
#include <type_traits>

namespace fourfold::comm {
namespace {

struct Loaded {
  Nccl library;
  std::string error;
};

Loaded load() {
  Loaded out;
  const char* name = "libnccl.so.2";
  void* handle = dlopen(name, RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    out.error = dlerror();
    return out;
  }
  const auto find = [&](auto& function, const char* symbol) {
    void* found = dlsym(handle, symbol);
    if (found == nullptr) out.error = fmt::format("{} has no {}", name, symbol);
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(found);
  };
  Nccl& l = out.library;
  find(l.get_unique_id, "ncclGetUniqueId");
  find(l.init_rank, "ncclCommInitRank");
  find(l.destroy, "ncclCommDestroy");
  find(l.all_reduce, "ncclAllReduce");
  find(l.all_gather, "ncclAllGather");
  find(l.send, "ncclSend");
  find(l.recv, "ncclRecv");
  find(l.group_start, "ncclGroupStart");
  find(l.group_end, "ncclGroupEnd");
  find(l.error_string, "ncclGetErrorString");
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

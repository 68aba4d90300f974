#pragma once

#include <cstdint>
#include <memory>

#include "base/result.h"
#include "comm/communicator.h"

namespace fourfold::comm {

/// The collectives of a group whose ranks have a GPU each, from GPU to GPU. Calls are enqueued on a
/// stream of the GPU (its runtime's handle) and do not wait for it; they may be captured in a
/// graph. Data are in the GPU's memory. Sums are those of Communicator::all_reduce_sum, bit for bit
/// with Wire::kF32. Every rank enqueues the same calls with the same sizes in the same order.
class DeviceGroup {
 public:
  virtual ~DeviceGroup() = default;

  virtual void all_reduce_sum(void* stream, float* data, int64_t count, Wire wire) = 0;
  /// residual += the sum over the ranks of `data`, which travels as bf16; out = the RMS norm of the
  /// residual in bf16. data, residual f32 [rows, columns]; gain of `columns`. Returns false and
  /// does nothing where it has no kernel for that; all ranks get the same answer. `data` is as it
  /// was.
  virtual bool all_reduce_add_norm(void* stream, const float* data, float* residual,
                                   const float* gain, float eps, int64_t rows, int64_t columns,
                                   uint16_t* out) = 0;
  /// out = the ranks' `bytes` of `in`, in rank order.
  virtual void all_gather(void* stream, const void* in, void* out, int64_t bytes) = 0;
  virtual void send(void* stream, const float* data, int64_t count, Wire wire, int to) = 0;
  virtual void recv(void* stream, float* data, int64_t count, Wire wire, int from) = 0;

  /// What the calls cost so far, by the GPU's clock. Where the ranks' GPUs do not reach each
  /// other's memory, waiting for a peer is part of moving. Only while nothing is enqueued.
  virtual CommStats stats() const = 0;
};

/// Of a rank's GPU, for each group: our buffers (96 MiB) and what NCCL takes.
inline constexpr int64_t kDeviceGroupBytes = int64_t{512} << 20;

enum class DevicePaths : uint8_t {
  kAll,   ///< memory of each other where GPUs reach that and it is quicker, else NCCL
  kNccl,  ///< NCCL alone, to compare
};

/// Joins the current GPUs of the ranks of `group`, which has two and more. Collective. Errors, the
/// same on all ranks: no NCCL, two ranks on one GPU. Throws what a GPU or NCCL fails in.
base::Result<std::unique_ptr<DeviceGroup>> connect_devices(Communicator& group,
                                                           DevicePaths paths = DevicePaths::kAll);

}  // namespace fourfold::comm

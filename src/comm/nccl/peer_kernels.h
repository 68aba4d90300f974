#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "comm/wire.h"

namespace fourfold::comm {

inline constexpr int kMaxPeers = 8;
inline constexpr int kMaxPeerBlocks = 128;

/// In every rank's GPU, written by its peers: how far they are. Numbers rise with every call, so
/// that nobody has to clear them; they have 64 bits, as a block that few calls have may rest for
/// days.
struct PeerFlags {
  uint64_t arrived[2][kMaxPeerBlocks][kMaxPeers];  ///< [turn][block][rank]
  uint64_t met[kMaxPeers];                         ///< of meet_one: [rank]
};

/// In every rank's GPU, its own.
struct PeerState {
  uint64_t turns;  ///< calls of all ranks together so far
  uint32_t blocks_done;
  uint64_t meetings[kMaxPeers];  ///< calls of meet_one with each
  uint64_t begin_ns;             ///< of a call whose end is marked apart
  uint64_t ns;                   ///< in calls
  uint64_t wait_ns;              ///< of it, for peers that were not there yet
  uint64_t calls;
  uint64_t bytes;  ///< that this rank put in, as they travel
};

/// What the kernels need to know: a copy goes with every launch. Without peers (`flags` null) only
/// the clock works.
struct Peers {
  std::byte* data[kMaxPeers] = {};   ///< of each rank: [2][size][capacity]
  PeerFlags* flags[kMaxPeers] = {};  ///< of each rank
  PeerState* state = nullptr;
  int64_t capacity = 0;  ///< bytes of one rank's part
  int rank = 0;
  int size = 1;
};

/// data = the sum over the ranks, each of which writes its floats to all others and adds what it
/// got. `count` is a multiple of 8; its bytes on the wire fit the capacity.
cudaError_t peer_all_reduce(cudaStream_t stream, const Peers& peers, float* data, int64_t count,
                            Wire wire);
/// out = the ranks' `bytes` of `in`. `bytes` is a multiple of 16 and fits the capacity.
cudaError_t peer_all_gather(cudaStream_t stream, const Peers& peers, const void* in, void* out,
                            int64_t bytes);

/// residual += the sum over the ranks of `data`; out = the RMS norm of it in bf16. data, residual
/// f32 [rows, columns], out bf16. What travels is rounded to bf16. `columns` is a multiple of 8 and
/// at most kMostNormColumns; rows * columns bf16 fit the capacity.
cudaError_t peer_all_reduce_add_norm(cudaStream_t stream, const Peers& peers, const float* data,
                                     float* residual, const float* gain, float eps, int64_t rows,
                                     int64_t columns, uint16_t* out);
inline constexpr int64_t kMostNormColumns = 16384;

/// Begins a call of another library: waits until all ranks are there, or `peer` alone (-1: all).
cudaError_t meet(cudaStream_t stream, const Peers& peers, int peer);
/// Ends it.
cudaError_t end_call(cudaStream_t stream, const Peers& peers, int64_t bytes);

/// Floats to bf16 and back.
cudaError_t round_floats(cudaStream_t stream, const float* from, uint16_t* to, int64_t count);
cudaError_t widen_floats(cudaStream_t stream, const uint16_t* from, float* to, int64_t count);

/// out[i] = sum over p < size of parts[p * stride + i] by the tree of docs/numerics.md.
cudaError_t tree_sum(cudaStream_t stream, const float* parts, int64_t stride, int size, float* out,
                     int64_t count);

}  // namespace fourfold::comm

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>

#include "comm/nccl/peer_kernels.h"

namespace fourfold::comm {
namespace {

constexpr int kThreads = 512;

__device__ void store_release(uint64_t* flag, uint64_t value) {
  asm volatile("st.release.sys.global.u64 [%0], %1;" ::"l"(flag), "l"(value) : "memory");
}
__device__ uint64_t load_acquire(const uint64_t* flag) {
  uint64_t value;
  asm volatile("ld.acquire.sys.global.u64 %0, [%1];" : "=l"(value) : "l"(flag) : "memory");
  return value;
}
__device__ void wait_for(const uint64_t* flag, uint64_t value) {
  while (load_acquire(flag) < value) {
  }
}
__device__ uint64_t clock_ns() {
  uint64_t ns;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(ns));
  return ns;
}

/// Launches a kernel that may start while the one before it ends; it calls wait_for_inputs before
/// it reads or writes anything.
template <typename... Parameters, typename... Arguments>
cudaError_t launch_early(void (*kernel)(Parameters...), int blocks, int threads,
                         cudaStream_t stream, Arguments... arguments) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
}

__device__ void wait_for_inputs() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
__device__ void let_next_start() { asm volatile("griddepcontrol.launch_dependents;"); }

/// One call of all ranks, as a block sees it. Buffers alternate from call to call: whoever begins
/// the next but one has seen all others begin the next, so they have read what this call left.
struct Turn {
  uint64_t number;
  uint64_t begin_ns;

  __device__ explicit Turn(const Peers& peers)
      : number(*static_cast<volatile uint64_t*>(&peers.state->turns)), begin_ns(clock_ns()) {}

  __device__ int half() const { return static_cast<int>(number & 1); }
  __device__ std::byte* part(const Peers& peers, int owner, int writer) const {
    return peers.data[owner] + (half() * peers.size + writer) * peers.capacity;
  }

  /// Tells all peers that this block's writes are there, and waits for theirs.
  __device__ void exchange(const Peers& peers) const {
    __syncthreads();
    const uint64_t before_ns = clock_ns();
    const auto peer = static_cast<int>(threadIdx.x);
    if (peer < peers.size) {
      store_release(&peers.flags[peer]->arrived[half()][blockIdx.x][peers.rank], number + 1);
      wait_for(&peers.flags[peers.rank]->arrived[half()][blockIdx.x][peer], number + 1);
    }
    __syncthreads();
    if (blockIdx.x == 0 && threadIdx.x == 0) peers.state->wait_ns += clock_ns() - before_ns;
  }

  /// The last block to come here makes the next call's turn.
  __device__ void end(const Peers& peers, int64_t bytes) const {
    __syncthreads();
    if (threadIdx.x != 0) return;
    PeerState& state = *peers.state;
    if (blockIdx.x == 0) {
      state.ns += clock_ns() - begin_ns;
      state.calls += 1;
      state.bytes += static_cast<uint64_t>(bytes);
    }
    __threadfence();
    if (atomicAdd(&state.blocks_done, 1U) != gridDim.x - 1) return;
    state.blocks_done = 0;
    __threadfence();
    *static_cast<volatile uint64_t*>(&state.turns) = number + 1;
  }
};

/// 16 bytes as they travel, and the floats that they are.
template <bool kRounded>
struct Pack;

template <>
struct Pack<false> {
  static constexpr int kFloats = 4;
  uint4 bits;
  __device__ void read(const float* from) { bits = *reinterpret_cast<const uint4*>(from); }
  __device__ void widen(float* to) const {
    to[0] = __uint_as_float(bits.x);
    to[1] = __uint_as_float(bits.y);
    to[2] = __uint_as_float(bits.z);
    to[3] = __uint_as_float(bits.w);
  }
};

template <>
struct Pack<true> {
  static constexpr int kFloats = 8;
  uint4 bits;
  __device__ static uint32_t pair(float low, float high) {
    uint32_t out;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
    return out;
  }
  __device__ void read(const float* from) {
    const float4 a = reinterpret_cast<const float4*>(from)[0];
    const float4 b = reinterpret_cast<const float4*>(from)[1];
    bits = {pair(a.x, a.y), pair(a.z, a.w), pair(b.x, b.y), pair(b.z, b.w)};
  }
  __device__ void widen(float* to) const {
    const uint32_t words[] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      to[2 * i] = __uint_as_float(words[i] << 16);
      to[2 * i + 1] = __uint_as_float(words[i] & 0xFFFF0000U);
    }
  }
};

/// v[0] = the sum of `size` rows of v by the tree.
template <int kFloats>
__device__ void add_tree(float (&v)[kMaxPeers][kFloats], int size) {
#pragma unroll
  for (int step = 1; step < kMaxPeers; step *= 2) {
#pragma unroll
    for (int r = 0; r < kMaxPeers; r += 2 * step) {
      if (r + step >= size) continue;
#pragma unroll
      for (int i = 0; i < kFloats; ++i) v[r][i] = __fadd_rn(v[r][i], v[r + step][i]);
    }
  }
}

template <bool kRounded>
__global__ void __launch_bounds__(kThreads)
    all_reduce_kernel(const Peers peers, float* data, int64_t count) {
  constexpr int kFloats = Pack<kRounded>::kFloats;
  let_next_start();
  wait_for_inputs();
  const Turn turn(peers);
  const int64_t packs = count / kFloats;
  const int64_t begin = packs * blockIdx.x / gridDim.x + threadIdx.x;
  const int64_t end = packs * (blockIdx.x + 1) / gridDim.x;
  for (int64_t i = begin; i < end; i += kThreads) {
    Pack<kRounded> pack;
    pack.read(data + i * kFloats);
#pragma unroll
    for (int r = 0; r < kMaxPeers; ++r) {
      if (r < peers.size) {
        reinterpret_cast<Pack<kRounded>*>(turn.part(peers, r, peers.rank))[i] = pack;
      }
    }
  }
  turn.exchange(peers);
  for (int64_t i = begin; i < end; i += kThreads) {
    float v[kMaxPeers][kFloats];
#pragma unroll
    for (int r = 0; r < kMaxPeers; ++r) {
      if (r >= peers.size) continue;
      reinterpret_cast<const Pack<kRounded>*>(turn.part(peers, peers.rank, r))[i].widen(v[r]);
    }
    add_tree(v, peers.size);
#pragma unroll
    for (int j = 0; j < kFloats; j += 4) {
      *reinterpret_cast<float4*>(data + i * kFloats + j) =
          make_float4(v[0][j], v[0][j + 1], v[0][j + 2], v[0][j + 3]);
    }
  }
  turn.end(peers, packs * static_cast<int64_t>(sizeof(uint4)));
}

__global__ void __launch_bounds__(kThreads)
    all_gather_kernel(const Peers peers, const uint4* in, uint4* out, int64_t packs) {
  let_next_start();
  wait_for_inputs();
  const Turn turn(peers);
  const int64_t begin = packs * blockIdx.x / gridDim.x + threadIdx.x;
  const int64_t end = packs * (blockIdx.x + 1) / gridDim.x;
  for (int64_t i = begin; i < end; i += kThreads) {
    const uint4 pack = in[i];
    for (int r = 0; r < peers.size; ++r) {
      uint4* to = r == peers.rank ? out + r * packs
                                  : reinterpret_cast<uint4*>(turn.part(peers, r, peers.rank));
      to[i] = pack;
    }
  }
  turn.exchange(peers);
  for (int64_t i = begin; i < end; i += kThreads) {
    for (int r = 0; r < peers.size; ++r) {
      if (r == peers.rank) continue;
      out[r * packs + i] = reinterpret_cast<const uint4*>(turn.part(peers, peers.rank, r))[i];
    }
  }
  turn.end(peers, packs * static_cast<int64_t>(sizeof(uint4)));
}

/// The sum over a block, for all its threads.
__device__ float block_sum(float x) {
  __shared__ float warps[kThreads / 32];
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xFFFFFFFFU, x, step);
  __syncthreads();  // of the row before, all have read
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = x;
  __syncthreads();
  float sum = 0;
#pragma unroll
  for (float part : warps) sum += part;
  return sum;
}

/// A block takes whole rows. `kPacks`: most packs of a row that a thread holds.
template <int kPacks>
__global__ void __launch_bounds__(kThreads)
    all_reduce_add_norm_kernel(const Peers peers, const float* data, float* residual,
                               const float* gain, float eps, int64_t rows, int64_t columns,
                               uint4* out) {
  using Rounded = Pack<true>;
  constexpr int kFloats = Rounded::kFloats;
  let_next_start();
  wait_for_inputs();
  const Turn turn(peers);
  const int64_t packs = columns / kFloats;
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    for (int64_t i = row * packs + threadIdx.x; i < (row + 1) * packs; i += kThreads) {
      Rounded pack;
      pack.read(data + i * kFloats);
#pragma unroll
      for (int r = 0; r < kMaxPeers; ++r) {
        if (r >= peers.size || r == peers.rank) continue;
        reinterpret_cast<Rounded*>(turn.part(peers, r, peers.rank))[i] = pack;
      }
    }
  }
  turn.exchange(peers);
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    float sums[kPacks][kFloats];
    float squares = 0;
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      const int64_t column = p * kThreads + threadIdx.x;
      if (column >= packs) break;
      const int64_t i = row * packs + column;
      float v[kMaxPeers][kFloats];
#pragma unroll
      for (int r = 0; r < kMaxPeers; ++r) {
        if (r >= peers.size) continue;
        Rounded pack;
        if (r == peers.rank) {
          pack.read(data + i * kFloats);
        } else {
          pack = reinterpret_cast<const Rounded*>(turn.part(peers, peers.rank, r))[i];
        }
        pack.widen(v[r]);
      }
      add_tree(v, peers.size);
#pragma unroll
      for (int j = 0; j < kFloats; j += 4) {
        float4* at = reinterpret_cast<float4*>(residual + i * kFloats + j);
        const float4 old = *at;
        const float4 now = {old.x + v[0][j], old.y + v[0][j + 1], old.z + v[0][j + 2],
                            old.w + v[0][j + 3]};
        *at = now;
        sums[p][j] = now.x;
        sums[p][j + 1] = now.y;
        sums[p][j + 2] = now.z;
        sums[p][j + 3] = now.w;
        squares += now.x * now.x + now.y * now.y + now.z * now.z + now.w * now.w;
      }
    }
    const float mean = block_sum(squares) / static_cast<float>(columns);
    const float scale = 1.0F / sqrtf(mean + eps);
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      const int64_t column = p * kThreads + threadIdx.x;
      if (column >= packs) break;
#pragma unroll
      for (int j = 0; j < kFloats; ++j) sums[p][j] *= scale * gain[column * kFloats + j];
      Rounded pack;
      pack.read(sums[p]);
      out[row * packs + column] = pack.bits;
    }
  }
  turn.end(peers, rows * packs * static_cast<int64_t>(sizeof(uint4)));
}

/// Two ranks meet by counters of their own, as others have no part in it.
__global__ void meet_one_kernel(const Peers peers, int peer) {
  const uint64_t begin_ns = clock_ns();
  PeerState& state = *peers.state;
  const uint64_t number = ++state.meetings[peer];
  store_release(&peers.flags[peer]->met[peers.rank], number);
  wait_for(&peers.flags[peers.rank]->met[peer], number);
  state.wait_ns += clock_ns() - begin_ns;
  state.begin_ns = begin_ns;
}

__global__ void meet_all_kernel(const Peers peers) {
  const Turn turn(peers);
  turn.exchange(peers);
  if (threadIdx.x == 0) {
    peers.state->begin_ns = turn.begin_ns;
    __threadfence();
    *static_cast<volatile uint64_t*>(&peers.state->turns) = turn.number + 1;
  }
}

__global__ void begin_call_kernel(PeerState* state) { state->begin_ns = clock_ns(); }

__global__ void end_call_kernel(PeerState* state, int64_t bytes) {
  state->ns += clock_ns() - state->begin_ns;
  state->calls += 1;
  state->bytes += static_cast<uint64_t>(bytes);
}

__global__ void round_kernel(const float* from, uint16_t* to, int64_t count) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += step) {
    to[i] = __bfloat16_as_ushort(__float2bfloat16_rn(from[i]));
  }
}

__global__ void widen_kernel(const uint16_t* from, float* to, int64_t count) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += step) {
    to[i] = __uint_as_float(static_cast<uint32_t>(from[i]) << 16);
  }
}

__global__ void tree_sum_kernel(const float* parts, int64_t stride, int size, float* out,
                                int64_t count) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += step) {
    float v[kMaxPeers][1];
#pragma unroll
    for (int r = 0; r < kMaxPeers; ++r) {
      if (r < size) v[r][0] = parts[r * stride + i];
    }
    add_tree(v, size);
    out[i] = v[0][0];
  }
}

/// Blocks of the kernels that write to peers: few are quicker to meet, many move more.
int peer_blocks(int64_t packs) {
  const int64_t wanted = (packs + kThreads - 1) / kThreads;
  return static_cast<int>(std::clamp<int64_t>(wanted, 8, kMaxPeerBlocks));
}

/// Blocks of the kernels that go over arrays.
int array_blocks(int64_t count) {
  return static_cast<int>(std::clamp<int64_t>((count + kThreads - 1) / kThreads, 1, 1024));
}

}  // namespace

cudaError_t peer_all_reduce(cudaStream_t stream, const Peers& peers, float* data, int64_t count,
                            Wire wire) {
  if (wire == Wire::kBF16) {
    return launch_early(all_reduce_kernel<true>, peer_blocks(count / 8), kThreads, stream, peers,
                        data, count);
  }
  return launch_early(all_reduce_kernel<false>, peer_blocks(count / 4), kThreads, stream, peers,
                      data, count);
}

cudaError_t peer_all_reduce_add_norm(cudaStream_t stream, const Peers& peers, const float* data,
                                     float* residual, const float* gain, float eps, int64_t rows,
                                     int64_t columns, uint16_t* out) {
  const int blocks = static_cast<int>(std::min<int64_t>(rows, kMaxPeerBlocks));
  const auto launch = [&](auto* kernel) {
    return launch_early(kernel, blocks, kThreads, stream, peers, data, residual, gain, eps, rows,
                        columns, reinterpret_cast<uint4*>(out));
  };
  const int64_t packs = (columns / 8 + kThreads - 1) / kThreads;
  if (packs <= 1) return launch(all_reduce_add_norm_kernel<1>);
  if (packs <= 2) return launch(all_reduce_add_norm_kernel<2>);
  return launch(all_reduce_add_norm_kernel<4>);
}

cudaError_t peer_all_gather(cudaStream_t stream, const Peers& peers, const void* in, void* out,
                            int64_t bytes) {
  const int64_t packs = bytes / static_cast<int64_t>(sizeof(uint4));
  return launch_early(all_gather_kernel, peer_blocks(packs), kThreads, stream, peers,
                      static_cast<const uint4*>(in), static_cast<uint4*>(out), packs);
}

cudaError_t meet(cudaStream_t stream, const Peers& peers, int peer) {
  if (peers.flags[peers.rank] == nullptr) {
    begin_call_kernel<<<1, 1, 0, stream>>>(peers.state);
  } else if (peer >= 0) {
    meet_one_kernel<<<1, 1, 0, stream>>>(peers, peer);
  } else {
    meet_all_kernel<<<1, 32, 0, stream>>>(peers);
  }
  return cudaGetLastError();
}

cudaError_t end_call(cudaStream_t stream, const Peers& peers, int64_t bytes) {
  end_call_kernel<<<1, 1, 0, stream>>>(peers.state, bytes);
  return cudaGetLastError();
}

cudaError_t round_floats(cudaStream_t stream, const float* from, uint16_t* to, int64_t count) {
  round_kernel<<<array_blocks(count), kThreads, 0, stream>>>(from, to, count);
  return cudaGetLastError();
}

cudaError_t widen_floats(cudaStream_t stream, const uint16_t* from, float* to, int64_t count) {
  widen_kernel<<<array_blocks(count), kThreads, 0, stream>>>(from, to, count);
  return cudaGetLastError();
}

cudaError_t tree_sum(cudaStream_t stream, const float* parts, int64_t stride, int size, float* out,
                     int64_t count) {
  tree_sum_kernel<<<array_blocks(count), kThreads, 0, stream>>>(parts, stride, size, out, count);
  return cudaGetLastError();
}

}  // namespace fourfold::comm

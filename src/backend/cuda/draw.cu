// Drawing tokens from logits, as backend/draw.h has it. A cluster of blocks takes a row: each block
// a part of the vocabulary, each warp of it a run of neighbouring tokens. The last token that top_k
// or top_p keep is found by counting the digits of the tokens' keys, from the highest one on.

#include <cooperative_groups.h>

#include "backend/cuda/device.cuh"
#include "backend/cuda/kernels.h"
#include "backend/draw.h"

namespace fourfold::backend::cuda {
namespace {

namespace cg = cooperative_groups;

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
constexpr int kBlocks = 8;  // of a cluster
constexpr int kSlice = kDrawBins / kBlocks;
constexpr uint64_t kAllKeys = ~uint64_t{0};

/// A weight in parts whose sums over a block's tokens fit in 32 bits.
constexpr int kParts = 3;
constexpr int kPartBits = 14;

struct Shared {
  uint32_t counts[kDrawBins];
  uint32_t parts[kParts][kDrawBins];
  uint64_t exchanged[2][kBlocks];  ///< one number of each block, in turns
  uint64_t of_warps[kWarps];
  struct Bin {
    uint32_t bin;
    uint32_t count;
    uint64_t before;  ///< the amount of the bins before it, of its block's slice
  } found;
};

/// A row's part that a warp looks at.
struct Part {
  const float* row;
  int begin;
  int end;
  float max;
  float inverse_temperature;
  uint64_t least;

  /// Calls visit(key, weight) for the tokens up to key `last`, each lane for its own.
  template <typename Visit>
  __device__ void visit(uint64_t last, const Visit& visit) const {
    for (int i = begin + static_cast<int>(threadIdx.x) % 32; i < end; i += 32) {
      const float value = draw_value(row[i]);
      const uint64_t key = draw_key(value, static_cast<uint32_t>(i));
      if (key > last) continue;
      const uint64_t weight = draw_weight(value, max, inverse_temperature);
      if (weight >= least) visit(key, weight);
    }
  }
};

template <typename Combine>
__device__ uint64_t combine_warp(uint64_t x, const Combine& combine) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    x = combine(x, __shfl_xor_sync(0xffffffffU, x, distance));
  }
  return x;
}

/// Gives every thread of the cluster what each block has made of its threads' numbers, in
/// shared.exchanged[turn].
template <typename Combine>
__device__ void exchange(Shared& shared, int turn, uint64_t mine, const Combine& combine) {
  const cg::cluster_group cluster = cg::this_cluster();
  const int thread = static_cast<int>(threadIdx.x);
  mine = combine_warp(mine, combine);
  if (thread % 32 == 0) shared.of_warps[thread / 32] = mine;
  __syncthreads();
  uint64_t all = shared.of_warps[0];
  for (int warp = 1; warp < kWarps; ++warp) all = combine(all, shared.of_warps[warp]);
  if (thread < kBlocks) {
    *cluster.map_shared_rank(&shared.exchanged[turn][cluster.block_rank()],
                             static_cast<unsigned>(thread)) = all;
  }
  cluster.sync();
}

struct Sum {
  __device__ uint64_t operator()(uint64_t a, uint64_t b) const { return a + b; }
};
struct Least {
  __device__ uint64_t operator()(uint64_t a, uint64_t b) const { return a < b ? a : b; }
};

class Drawing {
 public:
  __device__ Drawing(Shared& shared, const Part& part) : shared_(shared), part_(part) {}

  __device__ uint64_t total(uint64_t mine) {
    exchange(shared_, turn_, mine, Sum());
    uint64_t sum = 0;
    for (int block = 0; block < kBlocks; ++block) sum += shared_.exchanged[turn_][block];
    turn_ ^= 1;
    return sum;
  }

  __device__ uint64_t mass_of_thread(uint64_t last) const {
    uint64_t mass = 0;
    part_.visit(last, [&](uint64_t /*key*/, uint64_t weight) { mass += weight; });
    return mass;
  }

  __device__ uint64_t count(uint64_t last) {
    uint64_t count = 0;
    part_.visit(last, [&](uint64_t /*key*/, uint64_t /*weight*/) { ++count; });
    return total(count);
  }

  /// The key up to which tokens weigh, or are, `wanted`, which those up to `last` do.
  template <bool kByWeight>
  __device__ uint64_t last_key(uint64_t last, uint64_t wanted) {
    uint64_t prefix = 0;
    int below = 64;
    while (below > 0) {
      const int digit = draw_digit(below);
      const int shift = below - digit;
      for (int i = static_cast<int>(threadIdx.x); i < kDrawBins; i += kThreads) {
        shared_.counts[i] = 0;
        for (int p = 0; p < kParts; ++p) shared_.parts[p][i] = 0;
      }
      __syncthreads();
      part_.visit(last, [&](uint64_t key, uint64_t weight) {
        if (below < 64 && (key ^ prefix) >> below != 0) return;
        const auto bin = static_cast<uint32_t>(key >> shift) & ((1U << digit) - 1);
        atomicAdd(&shared_.counts[bin], 1U);
        if constexpr (kByWeight) {
#pragma unroll
          for (int p = 0; p < kParts; ++p) {
            const auto part =
                static_cast<uint32_t>(weight >> (p * kPartBits)) & ((1U << kPartBits) - 1);
            if (part != 0) atomicAdd(&shared_.parts[p][bin], part);
          }
        }
      });
      cg::this_cluster().sync();
      const Shared::Bin found = find_bin<kByWeight>(wanted);
      wanted -= found.before;
      prefix |= uint64_t{found.bin} << shift;
      below = shift;
      if (found.count == 1) break;
    }
    return Least()(last, prefix | ((uint64_t{1} << below) - 1));
  }

  /// The first token, by id, up to which those up to `last` weigh more than `random` / 2^64 of all.
  __device__ void draw(uint64_t last, uint64_t random, int32_t* out) {
    const uint64_t warp_mass = combine_warp(mass_of_thread(last), Sum());
    const int turn = turn_;
    const uint64_t all = total(threadIdx.x % 32 == 0 ? warp_mass : 0);
    uint64_t target = __umul64hi(random, all);
    const auto rank = static_cast<int>(cg::this_cluster().block_rank());
    for (int block = 0; block < rank; ++block) {
      const uint64_t mass = shared_.exchanged[turn][block];
      if (target < mass) return;
      target -= mass;
    }
    if (target >= shared_.exchanged[turn][rank]) return;
    for (int warp = 0; warp < static_cast<int>(threadIdx.x) / 32; ++warp) {
      const uint64_t mass = shared_.of_warps[warp];
      if (target < mass) return;
      target -= mass;
    }
    if (target >= warp_mass) return;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    for (int base = part_.begin; base < part_.end; base += 32) {
      Part one = part_;
      one.begin = base;
      one.end = min(base + 32, part_.end);
      uint64_t reached = 0;
      one.visit(last, [&](uint64_t /*key*/, uint64_t weight) { reached = weight; });
#pragma unroll
      for (int distance = 1; distance < 32; distance *= 2) {
        const uint64_t before = __shfl_up_sync(0xffffffffU, reached, distance);
        if (lane >= distance) reached += before;
      }
      const unsigned beyond = __ballot_sync(0xffffffffU, reached > target);
      if (beyond != 0) {
        if (lane == 0) *out = base + __ffs(static_cast<int>(beyond)) - 1;
        return;
      }
      target -= __shfl_sync(0xffffffffU, reached, 31);
    }
  }

 private:
  /// Of all blocks' bins the one in which `wanted` is reached.
  template <bool kByWeight>
  __device__ Shared::Bin find_bin(uint64_t wanted) {
    const cg::cluster_group cluster = cg::this_cluster();
    const auto rank = static_cast<int>(cluster.block_rank());
    const int thread = static_cast<int>(threadIdx.x);
    // Thread i < kSlice of a block: bin i of its slice, of all blocks together.
    uint32_t count = 0;
    uint64_t amount = 0;
    if (thread < kSlice) {
      const int bin = rank * kSlice + thread;
      for (unsigned block = 0; block < kBlocks; ++block) {
        const Shared& other = *cluster.map_shared_rank(&shared_, block);
        count += other.counts[bin];
        if constexpr (kByWeight) {
#pragma unroll
          for (int p = 0; p < kParts; ++p) {
            amount += uint64_t{other.parts[p][bin]} << (p * kPartBits);
          }
        }
      }
      if constexpr (!kByWeight) amount = count;
    }
    const int turn = turn_;
    total(amount);
    uint64_t before_slice = 0;
    int slice = 0;
    while (slice < kBlocks - 1 && before_slice + shared_.exchanged[turn][slice] < wanted) {
      before_slice += shared_.exchanged[turn][slice++];
    }
    if (slice == rank) {
      // Whole warps; those past the slice have no amount.
      const int lane = thread % 32;
      uint64_t reached = amount;
#pragma unroll
      for (int distance = 1; distance < 32; distance *= 2) {
        const uint64_t before = __shfl_up_sync(0xffffffffU, reached, distance);
        if (lane >= distance) reached += before;
      }
      reached += before_slice;
      for (int warp = 0; warp < thread / 32; ++warp) reached += shared_.of_warps[warp];
      if (amount > 0 && reached >= wanted && reached - amount < wanted) {
        const Shared::Bin found{static_cast<uint32_t>(rank * kSlice + thread), count,
                                reached - amount};
        for (unsigned block = 0; block < kBlocks; ++block) {
          cluster.map_shared_rank(&shared_, block)->found = found;
        }
      }
    }
    cluster.sync();
    return shared_.found;
  }

  Shared& shared_;
  const Part& part_;
  int turn_ = 1;  ///< of the next exchange; the first one found the largest logit
};

__global__ void __launch_bounds__(kThreads)
    draw_kernel(const float* logits, const Draw* draws, int width, int32_t* out) {
  __shared__ Shared shared;
  cg::this_cluster().sync();  // the others' shared memory is there
  wait_for_inputs();
  let_next_start();
  const int row = static_cast<int>(blockIdx.x) / kBlocks;
  const Draw draw = draws[row];
  const auto rank = static_cast<int>(cg::this_cluster().block_rank());
  const int warp = rank * kWarps + static_cast<int>(threadIdx.x) / 32;
  const int of_warp = (width + kBlocks * kWarps * 32 - 1) / (kBlocks * kWarps * 32) * 32;
  Part part{.row = logits + static_cast<int64_t>(row) * width,
            .begin = min(warp * of_warp, width),
            .end = min((warp + 1) * of_warp, width),
            .max = 0,
            .inverse_temperature = 0,
            .least = 0};
  uint64_t best = kAllKeys;
  for (int i = part.begin + static_cast<int>(threadIdx.x) % 32; i < part.end; i += 32) {
    best = Least()(best, draw_key(draw_value(part.row[i]), static_cast<uint32_t>(i)));
  }
  exchange(shared, 0, best, Least());
  best = shared.exchanged[0][0];
  for (int block = 1; block < kBlocks; ++block) best = Least()(best, shared.exchanged[0][block]);
  if (draw.temperature == 0) {
    if (rank == 0 && threadIdx.x == 0) out[row] = static_cast<int32_t>(best);
    return;
  }
  part.max = value_of_key(best);
  part.inverse_temperature = __fdiv_rn(1.0F, draw.temperature);
  part.least = least_weight(draw.min_p);
  Drawing drawing(shared, part);
  uint64_t last = kAllKeys;
  if (draw.top_k > 0 && draw.top_k < width &&
      drawing.count(kAllKeys) > static_cast<uint64_t>(draw.top_k)) {
    last = drawing.last_key<false>(last, static_cast<uint64_t>(draw.top_k));
  }
  if (draw.top_p < 1) {
    const uint64_t mass = drawing.total(drawing.mass_of_thread(last));
    last = drawing.last_key<true>(last, wanted_weight(draw.top_p, mass));
  }
  drawing.draw(last, uint64_t{draw.random_high} << 32 | draw.random_low, out + row);
}

}  // namespace

cudaError_t draw_rows(cudaStream_t stream, const float* logits, const int32_t* draws, int64_t rows,
                      int64_t width, int32_t* out) {
  if (rows == 0) return cudaSuccess;
  if (width > kMostDrawn) return cudaErrorInvalidValue;
  return launch_clusters_early(draw_kernel, dim3(static_cast<unsigned>(kBlocks * rows)), kThreads,
                               /*shared_bytes=*/0, kBlocks, stream, logits,
                               reinterpret_cast<const Draw*>(draws), static_cast<int>(width), out);
}

}  // namespace fourfold::backend::cuda

#pragma once

// Hopper's own instructions: bulk copies of tensors into shared memory, barriers that count their
// bytes, and matrix products by warpgroups of 128 threads whose right operand (and maybe left) is
// in shared memory. Names and layouts: PTX ISA, "Asynchronous warpgroup level matrix instructions"
// and "Tensor maps". Rows in shared memory are 128 bytes, eight of them an atom of 1,024 in which
// the 16-byte column c of row r stands at c ^ r (the 128-byte swizzle).

#include <cuda.h>

#include <cstdint>

#include "backend/cuda/device.cuh"

namespace fourfold::backend::cuda {

inline constexpr int kWarpgroup = 128;
inline constexpr int kSwizzledBytes = 128;      ///< of a row
inline constexpr int kSwizzledColumns = 64;     ///< bf16 of a row
inline constexpr int kSwizzleAtomBytes = 1024;  ///< which shared memory is aligned to

__device__ inline void init_barrier(uint64_t* barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)),
               "r"(arrivals));
}
/// After init_barrier and before the barriers' first use by copies.
__device__ inline void publish_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
/// One arrival, which also announces bytes that copies will bring.
__device__ inline void arrive_expecting(uint64_t* barrier, uint32_t bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
      "r"(bytes)
      : "memory");
}
__device__ inline void arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier))
               : "memory");
}
/// Returns when the phase of this parity is complete; before the first one, parity 1 is.
__device__ inline void wait_for(uint64_t* barrier, uint32_t parity) {
  uint32_t done = 0;
  while (done == 0) {
    asm volatile(
        "{\n.reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n}\n"
        : "=r"(done)
        : "r"(shared_address(barrier)), "r"(parity)
        : "memory");
  }
}

/// Copies the box of `map` at (column, row) to shared memory; its bytes arrive at `barrier`. What
/// lies outside the tensor is zero.
__device__ inline void copy_box(void* to, const CUtensorMap& map, int column, int row,
                                uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%2, %3}], [%4];" ::"r"(shared_address(to)),
      "l"(&map), "r"(column), "r"(row), "r"(shared_address(barrier))
      : "memory");
}
__device__ inline void prefetch_map(const CUtensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

/// Ordinary writes to shared memory before this are seen by matrix products and copies after the
/// next barrier.
__device__ inline void fence_shared() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/// Barriers of some of a block's threads; number 0 is __syncthreads.
__device__ inline void sync_threads(int number, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}
__device__ inline void arrive_threads(int number, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

template <int kRegisters>
__device__ inline void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ inline void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

/// Describes rows of 128 bytes in shared memory, a multiple of 8 of them. `next_columns`: bytes to
/// the rows that continue these where they are read across (transposed); else unused.
__device__ inline uint64_t swizzled_rows(const void* data, uint32_t next_columns = 16) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  constexpr uint64_t kNextAtom = uint64_t{kSwizzleAtomBytes >> 4} << 32;
  return kSwizzle128 | kNextAtom | (uint64_t{next_columns >> 4} << 16) |
         ((shared_address(data) & 0x3ffffU) >> 4);
}
/// The same, `bytes` further.
__device__ inline uint64_t advanced(uint64_t rows, uint32_t bytes) { return rows + (bytes >> 4); }

__device__ inline void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void commit_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/// Returns when all but the last `kPending` groups of products are done. The registers of those
/// that are done must go through `settle` before they are used.
template <int kPending>
__device__ inline void wait_for_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
/// Keeps the compiler from using registers before the wait in front of this.
template <int kCount>
__device__ inline void settle(float (&values)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(values[i])::"memory");
}

// c += a b^T, or c = a b^T: a 64 x 16 and b N x 16, both bf16. Element i of c is row
// 16 warp + lane / 4 + i % 4 / 2 * 8, column i / 4 * 8 + lane % 4 * 2 + i % 2.
#define FF_C8(i)                                                                        \
  "+f"(c[(i)]), "+f"(c[(i) + 1]), "+f"(c[(i) + 2]), "+f"(c[(i) + 3]), "+f"(c[(i) + 4]), \
      "+f"(c[(i) + 5]), "+f"(c[(i) + 6]), "+f"(c[(i) + 7])
#define FF_C32(i) FF_C8(i), FF_C8((i) + 8), FF_C8((i) + 16), FF_C8((i) + 24)
#define FF_R32                                                                         \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22," \
  "%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define FF_R64                                                                            \
  FF_R32                                                                                  \
  ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52," \
  "%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"

/// Both operands in shared memory, rows of K.
__device__ inline void product(float (&c)[64], uint64_t a, uint64_t b, bool add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" FF_R64
      "}, %64, %65, p, 1, 1, 0, 0;\n}\n"
      : FF_C32(0), FF_C32(32)
      : "l"(a), "l"(b), "r"(static_cast<int>(add)));
}

/// a in registers, b in shared memory in rows of N.
__device__ inline void product_across(float (&c)[64], const uint32_t* a, uint64_t b, bool add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" FF_R64
      "}, {%64,%65,%66,%67}, %68, p, 1, 1, 1;\n}\n"
      : FF_C32(0), FF_C32(32)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)));
}
__device__ inline void product_across(float (&c)[32], const uint32_t* a, uint64_t b, bool add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" FF_R32
      "}, {%32,%33,%34,%35}, %36, p, 1, 1, 1;\n}\n"
      : FF_C32(0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)));
}

}  // namespace fourfold::backend::cuda

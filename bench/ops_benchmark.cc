// Matmul of the cpu backend against this machine's ceilings, measured in the same run.
//
//     build/release/bench/ops_benchmark [--benchmark_filter=avx512_bf16]
//
// Weights rotate over 1 GiB, so that few rows read memory and not the cache. `peak` is the share of
// the instruction set's arithmetic peak in registers, `bandwidth` the share of the read bandwidth
// measured just before (weights only; on a virtual machine it changes within seconds).

#include <benchmark/benchmark.h>
#include <immintrin.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "backend/ops.h"
#include "backend/thread_pool.h"
#include "base/philox.h"

namespace fourfold::backend {
namespace {

constexpr int64_t kWeightBytes = int64_t{1} << 30;

double seconds_of(const std::function<void()>& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

/// Square matrices of random bf16 values, 1 GiB in all. Zeros would look faster than they are.
class Weights {
 public:
  Weights(const Ops& ops, int64_t size) : size_(size) {
    std::vector<float> values(1 << 16);
    for (size_t i = 0; i < values.size(); ++i) {
      const auto bits = base::philox(1, {static_cast<uint32_t>(i), 0, 0, 0})[0];
      values[i] = 2 * base::uniform_unit(bits) - 1;
    }
    int64_t at = 0;
    const auto reader = [&](int64_t, std::span<float> out) {
      for (float& value : out) value = values[static_cast<size_t>(++at % (1 << 16))];
      ++at;
      return base::Status();
    };
    const MatrixShape shape{size, size, {size}};
    for (int64_t bytes = 0; bytes < kWeightBytes; bytes += matrices_.back()->bytes()) {
      matrices_.push_back(ops.load_matrix(shape, reader).value());
    }
  }
  int64_t size() const { return size_; }
  const Weight& next() { return *matrices_[++last_ % matrices_.size()]; }

 private:
  int64_t size_;
  size_t last_ = 0;
  std::vector<WeightPtr> matrices_;
};

/// The packed layout does not depend on the instruction set, so one set of weights at a time is
/// kept for all benchmarks of its size.
Weights& weights_of(const Ops& ops, int64_t size) {
  static std::unique_ptr<Weights> weights;
  if (weights == nullptr || weights->size() != size) {
    weights.reset();
    weights = std::make_unique<Weights>(ops, size);
  }
  return *weights;
}

__attribute__((target("avx2"))) void read_all(const __m256i* begin, const __m256i* end) {
  __m256i sums[8] = {};
  for (; begin < end; begin += 8) {
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) sums[i] = _mm256_xor_si256(sums[i], _mm256_load_si256(begin + i));
  }
  __m256i total = sums[0];
#pragma GCC unroll 8
  for (int i = 1; i < 8; ++i) total = _mm256_xor_si256(total, sums[i]);
  benchmark::DoNotOptimize(total);
}

/// Bytes per second of reading 1 GiB once, in huge pages as weights are.
double read_bandwidth(ThreadPool& pool) {
  static const Buffer memory = [] {
    Buffer buffer = tensor::allocate_host(kWeightBytes).value();
    std::fill_n(static_cast<uint64_t*>(buffer.data()), kWeightBytes / 8, 1);
    return buffer;
  }();
  constexpr int64_t kVector = sizeof(__m256i);
  const auto* vectors = static_cast<const __m256i*>(memory.data());
  const double seconds = seconds_of([&] {
    pool.parallel_for(
        kWeightBytes / kVector, (int64_t{1} << 20) / kVector,
        [&](int64_t begin, int64_t end, int) { read_all(vectors + begin, vectors + end); });
  });
  return static_cast<double>(kWeightBytes) / seconds;
}

// Every loop over the sums is unrolled, so that they stay in registers.
constexpr int64_t kPeakSteps = 8'000'000;

__attribute__((target("avx512f,avx512bf16"))) double vdpbf16ps_flops() {
  __m512 sums[12] = {};
  const __m512bh ones = (__m512bh)_mm512_set1_epi32(0x3f803f80);
  for (int64_t i = 0; i < kPeakSteps; ++i) {
#pragma GCC unroll 12
    for (auto& sum : sums) {
      sum = _mm512_dpbf16_ps(sum, ones, ones);
      asm volatile("" : "+v"(sum));
    }
  }
  float total = 0;
#pragma GCC unroll 12
  for (const auto& sum : sums) total += _mm512_cvtss_f32(sum);
  benchmark::DoNotOptimize(total);
  return 12.0 * 64 * kPeakSteps;
}

__attribute__((target("avx2,fma"))) double fma_flops() {
  __m256 sums[12] = {};
  const __m256 ones = _mm256_set1_ps(1);
  for (int64_t i = 0; i < kPeakSteps; ++i) {
#pragma GCC unroll 12
    for (auto& sum : sums) {
      sum = _mm256_fmadd_ps(ones, ones, sum);
      asm volatile("" : "+x"(sum));
    }
  }
  float total = 0;
#pragma GCC unroll 12
  for (const auto& sum : sums) total += _mm256_cvtss_f32(sum);
  benchmark::DoNotOptimize(total);
  return 12.0 * 16 * kPeakSteps;
}

__attribute__((target("amx-tile,amx-bf16"))) double tdpbf16ps_flops() {
  // Static: GCC takes ldtilecfg for a read of 8 bytes, and could drop the rest of a local.
  struct alignas(64) Config {
    uint8_t palette = 1;
    uint8_t unused[15] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  };
  static constexpr Config kConfig;
  _tile_loadconfig(&kConfig);
  for (int64_t i = 0; i < kPeakSteps / 16; ++i) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_release();
  return 4.0 * 16 * 16 * 64 * (kPeakSteps / 16);
}

/// FLOP per second in registers.
double arithmetic_peak(Isa isa, ThreadPool& pool) {
  const auto work = isa == Isa::kAvx2         ? fma_flops
                    : isa == Isa::kAvx512Bf16 ? vdpbf16ps_flops
                                              : tdpbf16ps_flops;
  std::vector<double> flops(static_cast<size_t>(pool.threads()));
  const double seconds = seconds_of([&] {
    pool.parallel_for(pool.threads(), 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) flops[static_cast<size_t>(i)] = work();
    });
  });
  double total = 0;
  for (const double f : flops) total += f;
  return total / seconds;
}

void matmul(benchmark::State& state, Isa isa) {
  const int64_t size = state.range(0);
  const int64_t rows = state.range(1);
  const int threads = static_cast<int>(state.range(2));
  auto made = make_ops("cpu", name_of(isa));
  if (!made.ok()) {
    state.SkipWithError(made.error().message.c_str());
    return;
  }
  const Ops& ops = *made.value();
  Weights& weights = weights_of(ops, size);
  const auto stream = ops.make_stream(threads, {});
  Arena arena(ops.allocate(ops.scratch_bytes(threads, {.rows = rows, .columns = size}) +
                           rows * size * 6 + 128)
                  .value());
  const View x = arena.allocate(ops.activation_dtype(), {rows, size});
  const View out = arena.allocate(DType::kF32, {rows, size});
  for (int64_t i = 0; i < rows * size; ++i) {
    x.bf16()[i] = tensor::to_bf16(static_cast<float>(i % 127 - 63) / 64);
  }
  ThreadPool probe(threads, {});
  const double bandwidth = read_bandwidth(probe);
  const double peak = arithmetic_peak(isa, probe);
  double seconds = 0;
  for (auto _ : state) {
    seconds += seconds_of([&] { ops.matmul(*stream, arena, x, weights.next(), out); });
  }
  const auto runs = static_cast<double>(state.iterations());
  const double flops = 2.0 * static_cast<double>(rows * size * size) * runs / seconds;
  const double bytes = 2.0 * static_cast<double>(size * size) * runs / seconds;
  state.counters["GFLOP/s"] = flops * 1e-9;
  state.counters["peak"] = flops / peak;
  state.counters["GB/s"] = bytes * 1e-9;
  state.counters["bandwidth"] = bytes / bandwidth;
}

void sizes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"N=K", "M", "threads"})
      ->ArgsProduct({{2048, 4096}, {1, 8, 16, 64, 256, 512}, {1, 2}})
      ->UseRealTime()
      ->Unit(benchmark::kMicrosecond);
}
BENCHMARK_CAPTURE(matmul, avx2, Isa::kAvx2)->Apply(sizes);
BENCHMARK_CAPTURE(matmul, avx512_bf16, Isa::kAvx512Bf16)->Apply(sizes);
BENCHMARK_CAPTURE(matmul, amx, Isa::kAmx)->Apply(sizes);

}  // namespace
}  // namespace fourfold::backend

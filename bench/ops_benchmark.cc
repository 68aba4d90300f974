// The two operators that a decoder's time goes into, on the shapes of llama-1b, each beside this
// machine's ceilings measured just before it.
//
//     build/release/bench/ops_benchmark [--benchmark_filter=matmul/avx512_bf16]
//     [--benchmark_format=json]
//
// Weights and caches rotate over more memory than caches hold, as they do from layer to layer.
// `peak` is the share of the instruction set's arithmetic peak in registers, `bandwidth` the share
// of the read bandwidth (weights or keys and values only); on a virtual machine it changes within
// seconds. fast:1 is fast numerics.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "backend/ops.h"
#include "base/philox.h"

namespace fourfold::backend {
namespace {

constexpr int64_t kRotatedBytes = int64_t{512} << 20;
constexpr double kPeaksSeconds = 0.4;

/// A bf16 value in [-1, 1) from a table; zeros as weights would look faster than they are.
float random_value(int64_t i) {
  static const std::vector<float> values = [] {
    std::vector<float> made(1 << 16);
    for (size_t n = 0; n < made.size(); ++n) {
      made[n] = 2 * base::uniform_unit(base::philox(1, {static_cast<uint32_t>(n), 0, 0, 0})[0]) - 1;
    }
    return made;
  }();
  return values[static_cast<size_t>(i) % values.size()];
}

/// A backend, a stream and its ceilings.
struct Bench {
  std::unique_ptr<Ops> ops;
  std::unique_ptr<Stream> stream;
  Peaks peaks;

  /// Null, with the state skipped, where the machine lacks the instruction set.
  static std::unique_ptr<Bench> create(benchmark::State& state, Isa isa, int threads, bool fast) {
    auto ops = make_ops("cpu", name_of(isa));
    if (!ops.ok()) {
      state.SkipWithError(ops.error().message.c_str());
      return nullptr;
    }
    auto bench = std::make_unique<Bench>();
    bench->ops = std::move(ops.value());
    bench->stream = bench->ops->make_stream(threads, {});
    bench->stream->numerics = fast ? base::Numerics::kFast : base::Numerics::kInvariant;
    bench->peaks = bench->ops->measure_peaks(*bench->stream, kPeaksSeconds, /*sharers=*/1).value();
    return bench;
  }

  Arena arena(int threads, const Ops::Limits& limits, int64_t more_bytes) const {
    return Arena(ops->allocate(ops->scratch_bytes(threads, limits) + more_bytes + 4096).value());
  }

  /// Runs op() as often as the state wants and reports it against the ceilings.
  template <typename Op>
  void measure(benchmark::State& state, const Op& op) {
    op();
    stream->counters = {};
    for (auto _ : state) op();
    const OpCounters& work = stream->counters;
    const auto flops = static_cast<double>(work.matmul_flops + work.attention_flops);
    const auto bytes = static_cast<double>(work.bytes);
    state.counters["GFLOP/s"] = flops / work.seconds * 1e-9;
    state.counters["GB/s"] = bytes / work.seconds * 1e-9;
    state.counters["peak"] = flops / work.seconds / peaks.matmul_flop_s;
    state.counters["bandwidth"] = bytes / work.seconds / peaks.read_bytes_s;
  }
};

/// range: N, K, slices, M, threads, fast.
void matmul(benchmark::State& state, Isa isa) {
  const int64_t n = state.range(0);
  const int64_t k = state.range(1);
  const int64_t rows = state.range(3);
  const auto threads = static_cast<int>(state.range(4));
  const auto bench = Bench::create(state, isa, threads, state.range(5) != 0);
  if (bench == nullptr) return;
  MatrixShape shape{n, k, {}};
  for (int64_t i = 1; i <= state.range(2); ++i) shape.slice_ends.push_back(k * i / state.range(2));
  std::vector<WeightPtr> weights;
  for (int64_t bytes = 0; bytes < kRotatedBytes; bytes += weights.back()->bytes()) {
    const auto read = [&](int64_t row, std::span<float> out) {
      for (size_t i = 0; i < out.size(); ++i) {
        out[i] = random_value(row * 7919 + static_cast<int64_t>(i));
      }
      return base::Status();
    };
    weights.push_back(bench->ops->load_matrix(*bench->stream, shape, {.read = read}).value());
  }
  Arena arena = bench->arena(threads, {.rows = rows, .columns = k}, rows * (4 * n + 2 * k));
  const View x = arena.allocate(DType::kBF16, {rows, k});
  const View out = arena.allocate(DType::kF32, {rows, n});
  for (int64_t i = 0; i < rows * k; ++i) x.bf16()[i] = tensor::to_bf16(random_value(i));
  size_t turn = 0;
  bench->measure(state, [&] {
    bench->ops->matmul(*bench->stream, arena, x, {{*weights[turn++ % weights.size()], out}});
  });
}

/// Llama-1b's attention: 32 query heads on 8 of keys, each 64 wide. range: rows, context, threads,
/// fast. The rows are one chunk of a sequence that ends at `context`, or, if rows < 64, the last
/// positions of as many sequences.
void attention(benchmark::State& state, Isa isa) {
  constexpr int64_t kHeads = 32;
  constexpr int64_t kKvHeads = 8;
  constexpr int64_t kHeadDim = 64;
  constexpr int64_t kBlockSize = 16;
  const int64_t rows = state.range(0);
  const int64_t context = state.range(1);
  const auto threads = static_cast<int>(state.range(2));
  const auto bench = Bench::create(state, isa, threads, state.range(3) != 0);
  if (bench == nullptr) return;
  const bool chunk = rows >= 64;
  const int64_t sequences = chunk ? 1 : rows;
  const int64_t width = context / kBlockSize;
  const int64_t used_blocks = sequences * width;
  constexpr int64_t kBlockBytes = kKvHeads * kBlockSize * kHeadDim * 2;
  const int64_t caches = std::max<int64_t>(1, kRotatedBytes / (2 * used_blocks * kBlockBytes));
  const int64_t blocks = caches * used_blocks;
  const Buffer keys = bench->ops->allocate(blocks * kBlockBytes).value();
  const Buffer values = bench->ops->allocate(blocks * kBlockBytes).value();
  for (int64_t i = 0; i < blocks * kBlockBytes / 2; ++i) {
    static_cast<tensor::BF16*>(keys.data())[i] = tensor::to_bf16(random_value(i));
    static_cast<tensor::BF16*>(values.data())[i] = tensor::to_bf16(random_value(i * 3));
  }
  std::vector<int32_t> positions;
  std::vector<int32_t> owners;
  for (int64_t row = 0; row < rows; ++row) {
    positions.push_back(static_cast<int32_t>(chunk ? context - rows + row : context - 1));
    owners.push_back(static_cast<int32_t>(chunk ? 0 : row));
  }
  std::vector<int32_t> table(static_cast<size_t>(used_blocks));
  const RowLayout layout{{positions.data(), DType::kI32, {rows}},
                         {owners.data(), DType::kI32, {rows}},
                         {table.data(), DType::kI32, {sequences, width}}};
  const KvLayer cache{keys.data(), values.data(), blocks, kKvHeads, kBlockSize, kHeadDim};
  Arena arena = bench->arena(threads, {.rows = rows, .heads = kHeads, .head_dim = kHeadDim},
                             rows * kHeads * kHeadDim * 6);
  const View queries = arena.allocate(DType::kF32, {rows, kHeads, kHeadDim});
  const View out = arena.allocate(DType::kBF16, {rows, kHeads * kHeadDim});
  for (int64_t i = 0; i < queries.shape.elements(); ++i) queries.f32()[i] = random_value(i);
  int64_t turn = 0;
  bench->measure(state, [&] {
    const int64_t first = turn++ % caches * used_blocks;
    for (size_t i = 0; i < table.size(); ++i)
      table[i] = static_cast<int32_t>(first) + static_cast<int32_t>(i);
    bench->ops->attention(*bench->stream, arena, queries, layout, cache, {.scale = 0.125F}, out);
  });
}

void matmul_cases(benchmark::internal::Benchmark* b) {
  b->ArgNames({"N", "K", "slices", "M", "threads", "fast"})->UseRealTime();
  b->Unit(benchmark::kMicrosecond);
  struct Shape {
    int64_t n, k, slices;
  };
  // Query, output, gate or up, down, head.
  for (const Shape& s : {Shape{2048, 2048, 1}, Shape{2048, 2048, 8}, Shape{8192, 2048, 1},
                         Shape{2048, 8192, 8}, Shape{32000, 2048, 1}}) {
    for (const int64_t m : {1, 8, 16, 512}) {
      for (const int64_t fast : {0, 1}) b->Args({s.n, s.k, s.slices, m, 2, fast});
    }
  }
}

void attention_cases(benchmark::internal::Benchmark* b) {
  b->ArgNames({"rows", "context", "threads", "fast"})->UseRealTime();
  b->Unit(benchmark::kMicrosecond);
  for (const int64_t context : {128, 512, 2048, 4096}) {
    for (const int64_t rows : {1, 16, 128, 512}) {
      if (rows >= 64 && rows > context) continue;
      for (const int64_t fast : {0, 1}) b->Args({rows, context, 2, fast});
    }
  }
}

BENCHMARK_CAPTURE(matmul, avx2, Isa::kAvx2)->Apply(matmul_cases);
BENCHMARK_CAPTURE(matmul, avx512_bf16, Isa::kAvx512Bf16)->Apply(matmul_cases);
BENCHMARK_CAPTURE(matmul, amx, Isa::kAmx)->Apply(matmul_cases);
BENCHMARK_CAPTURE(attention, avx2, Isa::kAvx2)->Apply(attention_cases);
BENCHMARK_CAPTURE(attention, avx512_bf16, Isa::kAvx512Bf16)->Apply(attention_cases);
BENCHMARK_CAPTURE(attention, amx, Isa::kAmx)->Apply(attention_cases);

}  // namespace
}  // namespace fourfold::backend

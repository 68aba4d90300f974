// The operators that a decoder's time goes into: matmul and attention on the shapes of llama-1b,
// grouped_matmul on those of layers with experts, each beside this machine's ceilings measured just
// before it.
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
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "backend/ops.h"
#include "base/philox.h"
#include "base/sizes.h"

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

  /// Bf16 weights [N, K], K in `slices` equal slices.
  WeightPtr random_matrix(int64_t n, int64_t k, int64_t slices) const {
    MatrixShape shape{n, k, {}};
    for (int64_t i = 1; i <= slices; ++i) shape.slice_ends.push_back(k * i / slices);
    const auto read = [](int64_t row, std::span<float> out) {
      for (size_t i = 0; i < out.size(); ++i) {
        out[i] = random_value(row * 7919 + static_cast<int64_t>(i));
      }
      return base::Status();
    };
    return ops->load_matrix(*stream, shape, {.read = read}).value();
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
  std::vector<WeightPtr> weights;
  for (int64_t bytes = 0; bytes < kRotatedBytes; bytes += weights.back()->bytes()) {
    weights.push_back(bench->random_matrix(n, k, state.range(2)));
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

/// Ends of the groups of `experts` experts when `rows` rows choose `top_k` each, all sets alike
/// probable.
std::vector<int32_t> random_ends(uint64_t seed, int64_t rows, int64_t experts, int64_t top_k) {
  std::vector<int32_t> ends(static_cast<size_t>(experts));
  std::vector<size_t> order(ends.size());
  for (size_t e = 0; e < order.size(); ++e) order[e] = e;
  for (int64_t row = 0; row < rows; ++row) {
    for (size_t slot = 0; slot < static_cast<size_t>(top_k); ++slot) {
      const uint32_t bits =
          base::philox(seed, {static_cast<uint32_t>(row), static_cast<uint32_t>(slot), 0, 0})[0];
      std::swap(order[slot], order[slot + bits % (order.size() - slot)]);
      ++ends[order[slot]];
    }
  }
  std::partial_sum(ends.begin(), ends.end(), ends.begin());
  return ends;
}

/// Each turn another layer and other experts. range: N, K, slices, experts, top_k, M, threads,
/// fast.
void grouped_matmul(benchmark::State& state, Isa isa) {
  constexpr uint64_t kRoutings = 64;
  const int64_t n = state.range(0);
  const int64_t k = state.range(1);
  const int64_t experts = state.range(3);
  const int64_t top_k = state.range(4);
  const int64_t pairs = state.range(5) * top_k;
  const auto threads = static_cast<int>(state.range(6));
  const auto bench = Bench::create(state, isa, threads, state.range(7) != 0);
  if (bench == nullptr) return;
  std::vector<WeightPtr> weights;
  const auto layers = static_cast<size_t>(base::ceil_div(kRotatedBytes, experts * n * k * 2));
  while (weights.size() < layers * static_cast<size_t>(experts)) {
    weights.push_back(bench->random_matrix(n, k, state.range(2)));
  }
  std::vector<const Weight*> pointers;
  for (const WeightPtr& weight : weights) pointers.push_back(weight.get());
  std::vector<std::vector<int32_t>> routings;
  double active = 0;
  for (uint64_t seed = 0; seed < kRoutings; ++seed) {
    routings.push_back(random_ends(seed, state.range(5), experts, top_k));
    int32_t begin = 0;
    for (const int32_t end : routings.back()) active += std::exchange(begin, end) < end ? 1 : 0;
  }
  Arena arena = bench->arena(threads, {.rows = pairs, .columns = k, .groups = experts},
                             pairs * (4 * n + 2 * k));
  const View x = arena.allocate(DType::kBF16, {pairs, k});
  const View out = arena.allocate(DType::kF32, {pairs, n});
  for (int64_t i = 0; i < pairs * k; ++i) x.bf16()[i] = tensor::to_bf16(random_value(i));
  size_t turn = 0;
  bench->measure(state, [&] {
    const std::vector<int32_t>& ends = routings[turn % routings.size()];
    const auto layer = std::span(pointers).subspan(turn % layers * static_cast<size_t>(experts),
                                                   static_cast<size_t>(experts));
    bench->ops->grouped_matmul(*bench->stream, arena, x, ends, {{layer, out}});
    ++turn;
  });
  state.counters["experts"] = active / static_cast<double>(kRoutings);
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

void grouped_matmul_cases(benchmark::internal::Benchmark* b) {
  b->ArgNames({"N", "K", "slices", "experts", "top_k", "M", "threads", "fast"})->UseRealTime();
  b->Unit(benchmark::kMicrosecond);
  struct Shape {
    int64_t n, k, slices, experts, top_k;
  };
  // Gate or up, and down: OLMoE's 64 experts, then Mixtral's 8 at half its hidden size and width.
  for (const Shape& s : {Shape{1024, 2048, 1, 64, 8}, Shape{2048, 1024, 8, 64, 8},
                         Shape{7168, 2048, 1, 8, 2}, Shape{2048, 7168, 8, 8, 2}}) {
    for (const int64_t m : {1, 8, 16}) {
      for (const int64_t fast : {0, 1}) {
        b->Args({s.n, s.k, s.slices, s.experts, s.top_k, m, 2, fast});
      }
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
BENCHMARK_CAPTURE(grouped_matmul, avx2, Isa::kAvx2)->Apply(grouped_matmul_cases);
BENCHMARK_CAPTURE(grouped_matmul, avx512_bf16, Isa::kAvx512Bf16)->Apply(grouped_matmul_cases);
BENCHMARK_CAPTURE(grouped_matmul, amx, Isa::kAmx)->Apply(grouped_matmul_cases);
BENCHMARK_CAPTURE(attention, avx2, Isa::kAvx2)->Apply(attention_cases);
BENCHMARK_CAPTURE(attention, avx512_bf16, Isa::kAvx512Bf16)->Apply(attention_cases);
BENCHMARK_CAPTURE(attention, amx, Isa::kAmx)->Apply(attention_cases);

}  // namespace
}  // namespace fourfold::backend

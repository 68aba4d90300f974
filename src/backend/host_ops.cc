#include "backend/host_ops.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "backend/peaks.h"
#include "backend/router.h"
#include "base/clock.h"

namespace fourfold::backend {
namespace {

constexpr int64_t kGrainElements = 8192;

class VectorWeight final : public Weight {
 public:
  explicit VectorWeight(std::span<const float> values)
      : Weight(1, std::ssize(values), static_cast<int64_t>(values.size_bytes())),
        values_(values.begin(), values.end()) {}
  const float* vector() const override { return values_.data(); }

 private:
  std::vector<float> values_;
};

int64_t steady_ns() { return base::SteadyClock().now_ns(); }

void check_layout(const RowLayout& rows, int64_t count) {
  CHECK(rows.positions.shape == tensor::Shape({count}), "positions for {} rows", count);
  CHECK(rows.sequences.shape == tensor::Shape({count}), "sequences for {} rows", count);
  CHECK(rows.block_tables.shape.rank() == 2, "block tables of rank {}",
        rows.block_tables.shape.rank());
}

}  // namespace

OpTimer::OpTimer(Stream& stream) : stream_(stream), begin_ns_(steady_ns()) {}
OpTimer::~OpTimer() { stream_.counters.seconds += base::seconds_between(begin_ns_, steady_ns()); }

base::Result<Buffer> HostOps::allocate(int64_t bytes) const { return tensor::allocate_host(bytes); }

void HostOps::copy_in(Stream& stream, View from, View to) const {
  OpTimer timer(stream);
  check_copy(from, to);
  if (to.bytes() > 0) std::memcpy(to.data, from.data, static_cast<size_t>(to.bytes()));
}

void HostOps::copy_out(Stream& stream, View from, View to) const { copy_in(stream, from, to); }

std::unique_ptr<Stream> HostOps::make_stream(int threads, std::span<const int> cpus) const {
  return std::make_unique<HostStream>(threads, cpus);
}

base::Result<WeightPtr> HostOps::load_vector(std::span<const float> values) const {
  return WeightPtr(std::make_unique<VectorWeight>(values));
}

base::Result<Peaks> HostOps::measure_peaks(Stream& stream, double seconds, int sharers) const {
  return backend::measure_peaks(pool_of(stream), seconds, sharers,
                                [this](int64_t steps) { return compute_in_registers(steps); });
}

void HostOps::resolve_tokens(Stream& stream, View tokens, View ring) const {
  OpTimer timer(stream);
  const std::span<int32_t> values(tokens.i32(), static_cast<size_t>(tokens.shape.elements()));
  for (int32_t& token : values) {
    if (token >= 0) continue;
    CHECK(-1 - token < ring.shape.elements(), "token {} of a ring of {}", -1 - token,
          ring.shape.elements());
    token = ring.i32()[-1 - token];
  }
}

void HostOps::route(Stream& stream, View logits, const Weight* bias, const Routing& routing,
                    View experts, View weights) const {
  OpTimer timer(stream);
  const int64_t count = logits.shape[1];
  CHECK(experts.shape == tensor::Shape({logits.rows(), routing.top_k}) &&
            weights.shape == experts.shape,
        "route: {} rows of {} choices for {} rows", experts.rows(), experts.shape[1],
        logits.rows());
  const Router router(routing, count, bias == nullptr ? nullptr : vector_of(*bias, count));
  pool_of(stream).parallel_for(
      logits.rows(), row_grain(count * routing.top_k), [&](int64_t begin, int64_t end, int) {
        Router::Scratch scratch(count);
        for (int64_t m = begin; m < end; ++m) {
          router.choose(logits.f32() + m * count, scratch, experts.i32() + m * routing.top_k,
                        weights.f32() + m * routing.top_k);
        }
      });
}

void HostOps::combine_slots(Stream& stream, View y, View weights, View out) const {
  OpTimer timer(stream);
  const int64_t slots = weights.shape[1];
  const int64_t width = out.shape[1];
  CHECK(weights.rows() == out.rows() && y.shape == tensor::Shape({out.rows() * slots, width}) &&
            y.dtype == activation_dtype(),
        "combine: {} rows of {} {} into {} rows", y.rows(), y.shape[1], name_of(y.dtype),
        out.rows());
  const auto combine = [&](const auto* from, const auto& widen) {
    pool_of(stream).parallel_for(out.rows(), row_grain(slots * width),
                                 [&](int64_t begin, int64_t end, int) {
                                   for (int64_t m = begin; m < end; ++m) {
                                     float* to = out.f32() + m * width;
                                     std::fill_n(to, width, 0.0F);
                                     for (int64_t slot = 0; slot < slots; ++slot) {
                                       const float weight = weights.f32()[m * slots + slot];
                                       const auto* row = from + (m * slots + slot) * width;
                                       for (int64_t i = 0; i < width; ++i)
                                         to[i] += weight * widen(row[i]);
                                     }
                                   }
                                 });
  };
  if (y.dtype == DType::kBF16) {
    combine(y.bf16(), [](tensor::BF16 x) { return tensor::to_f32(x); });
  } else {
    combine(y.f32(), [](float x) { return x; });
  }
}

void HostOps::add_bias(Stream& stream, View x, const Weight& bias) const {
  OpTimer timer(stream);
  const int64_t width = x.shape[1];
  const float* add = vector_of(bias, width);
  pool_of(stream).parallel_for(x.rows(), row_grain(width), [&](int64_t begin, int64_t end, int) {
    for (int64_t m = begin; m < end; ++m) {
      float* row = x.f32() + m * width;
      for (int64_t i = 0; i < width; ++i) row[i] += add[i];
    }
  });
}

void HostOps::gate_rows(Stream& stream, View x, View gate) const {
  OpTimer timer(stream);
  const int64_t width = x.shape[1];
  CHECK(gate.shape == tensor::Shape({x.rows(), 1}), "gate_rows: {} gates for {} rows",
        gate.shape.elements(), x.rows());
  pool_of(stream).parallel_for(x.rows(), row_grain(width), [&](int64_t begin, int64_t end, int) {
    for (int64_t m = begin; m < end; ++m) {
      const float factor = sigmoid(gate.f32()[m]);
      for (int64_t i = m * width; i < (m + 1) * width; ++i) x.f32()[i] *= factor;
    }
  });
}

void HostOps::add(Stream& stream, View x, View y) const {
  OpTimer timer(stream);
  CHECK(x.shape == y.shape, "add: {} and {} elements", x.shape.elements(), y.shape.elements());
  float* to = x.f32();
  const float* from = y.f32();
  pool_of(stream).parallel_for(x.shape.elements(), kGrainElements,
                               [&](int64_t begin, int64_t end, int) {
                                 for (int64_t i = begin; i < end; ++i) to[i] += from[i];
                               });
}

void HostOps::gather_rows(Stream& stream, View x, View indices, View out) const {
  OpTimer timer(stream);
  const int64_t width = x.shape[1];
  CHECK(out.shape == tensor::Shape({indices.rows(), width}) && out.dtype == x.dtype,
        "gather: {} rows of {} {}", out.rows(), out.shape[1], name_of(out.dtype));
  const int64_t row_bytes = width * size_of(x.dtype);
  const auto* from = static_cast<const std::byte*>(x.data);
  auto* to = static_cast<std::byte*>(out.data);
  pool_of(stream).parallel_for(out.rows(), row_grain(width), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = indices.i32()[i];
      CHECK(0 <= row && row < x.rows(), "gather: row {} of {}", row, x.rows());
      std::memcpy(to + i * row_bytes, from + row * row_bytes, static_cast<size_t>(row_bytes));
    }
  });
}

void HostOps::join_columns(Stream& stream, View parts, std::span<const int64_t> begins,
                           View out) const {
  OpTimer timer(stream);
  check_join_columns(parts, begins, out);
  const int64_t width = parts.shape[2];
  for (int64_t p = 0; p < parts.shape[0]; ++p) {
    const int64_t begin = begins[static_cast<size_t>(p)];
    const int64_t count = std::clamp<int64_t>(out.shape[1] - begin, 0, width);
    for (int64_t m = 0; m < out.rows(); ++m) {
      std::copy_n(parts.f32() + (p * out.rows() + m) * width, count,
                  out.f32() + m * out.shape[1] + std::min(begin, out.shape[1]));
    }
  }
}

void HostOps::take_columns(Stream& stream, View x, int64_t begin, View out) const {
  OpTimer timer(stream);
  check_take_columns(x, begin, out);
  const int64_t width = out.shape[1];
  const int64_t count = std::clamp<int64_t>(x.shape[1] - begin, 0, width);
  for (int64_t m = 0; m < out.rows(); ++m) {
    float* to = out.f32() + m * width;
    std::copy_n(x.f32() + m * x.shape[1] + std::min(begin, x.shape[1]), count, to);
    std::fill(to + count, to + width, 0.0F);
  }
}

void HostOps::draw_rows(Stream& stream, View logits, View draws, View out) const {
  OpTimer timer(stream);
  check_draw_rows(logits, draws, out);
  pool_of(stream).parallel_for(logits.rows(), /*grain=*/1, [&](int64_t begin, int64_t end, int) {
    for (int64_t m = begin; m < end; ++m) {
      DrawWords words;
      std::copy_n(draws.i32() + m * kDrawWords, kDrawWords, words.begin());
      out.i32()[m] = draw_token(logits.slice_rows(m, m + 1).f32_span(), std::bit_cast<Draw>(words));
    }
  });
}

void HostOps::hash_rows(Stream& stream, View x, std::span<uint64_t> out) const {
  OpTimer timer(stream);
  const int64_t width = x.shape[1];
  CHECK(std::ssize(out) == x.rows(), "hash: {} places for {} rows", out.size(), x.rows());
  pool_of(stream).parallel_for(x.rows(), row_grain(width), [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      out[static_cast<size_t>(row)] =
          XXH3_64bits(x.f32() + row * width, static_cast<size_t>(width) * sizeof(float));
    }
  });
}

ThreadPool& pool_of(Stream& stream) {
  auto* host = dynamic_cast<HostStream*>(&stream);
  CHECK(host != nullptr, "a stream of another backend");
  return host->pool;
}

const float* vector_of(const Weight& weight, int64_t size) {
  const auto* vector = dynamic_cast<const VectorWeight*>(&weight);
  CHECK(vector != nullptr, "a weight that load_vector did not make");
  CHECK(vector->columns() == size, "a vector of {} where {} are needed", vector->columns(), size);
  return vector->vector();
}

int64_t row_grain(int64_t item_elements) {
  return std::max<int64_t>(1, kGrainElements / std::max<int64_t>(1, item_elements));
}

int64_t window_begin(int64_t position, int64_t window) {
  return window > 0 ? std::max<int64_t>(0, position - window + 1) : 0;
}

void check_matmul(Stream& stream, View x, DType x_dtype, const Weight& weight, View out) {
  CHECK(x.dtype == x_dtype && out.dtype == DType::kF32, "matmul: {} -> {}", name_of(x.dtype),
        name_of(out.dtype));
  CHECK(x.shape == tensor::Shape({out.rows(), weight.columns()}), "matmul: x is [{}, {}], K = {}",
        x.rows(), x.shape[1], weight.columns());
  CHECK(out.shape == tensor::Shape({x.rows(), weight.rows()}), "matmul: out is [{}, {}], N = {}",
        out.rows(), out.shape[1], weight.rows());
  stream.counters.matmul_flops += 2 * x.rows() * weight.rows() * weight.columns();
  if (x.rows() > 0) stream.counters.bytes += weight.bytes();
}

std::vector<RowRange> check_grouped_matmul(Stream& stream, View x, DType x_dtype,
                                           std::span<const int32_t> ends,
                                           std::initializer_list<Ops::GroupedTarget> targets) {
  const int64_t groups = std::ssize(ends);
  std::vector<RowRange> out;
  int64_t begin = 0;
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t end = ends[static_cast<size_t>(g)];
    CHECK(begin <= end && end <= x.rows(), "grouped matmul: group {} ends at row {} of {}", g, end,
          x.rows());
    out.push_back({begin, end});
    begin = end;
  }
  CHECK(begin == x.rows(), "grouped matmul: {} groups end at row {} of {}", groups, begin,
        x.rows());
  for (const Ops::GroupedTarget& target : targets) {
    CHECK(std::ssize(target.weights) == groups && target.out.rows() == x.rows(),
          "grouped matmul: {} weights, {} rows out for {} groups, {} rows", target.weights.size(),
          target.out.rows(), groups, x.rows());
    for (size_t g = 0; g < out.size(); ++g) {
      if (out[g].size() == 0) continue;
      check_matmul(stream, x.slice_rows(out[g].begin, out[g].end), x_dtype, *target.weights[g],
                   target.out.slice_rows(out[g].begin, out[g].end));
    }
  }
  return out;
}

void check_to_activation(View x, View out, DType activation_dtype) {
  CHECK(x.shape == out.shape && x.dtype == DType::kF32 && out.dtype == activation_dtype,
        "to_activation: {} elements of {} -> {} of {}", x.shape.elements(), name_of(x.dtype),
        out.shape.elements(), name_of(out.dtype));
}

void check_rms_norm(View x, View out, DType activation_dtype) {
  CHECK(x.shape == out.shape && x.shape.rank() == 2, "rms_norm: [{}, {}] -> [{}, {}]", x.rows(),
        x.shape[1], out.rows(), out.shape[1]);
  CHECK(x.dtype == DType::kF32 && (out.dtype == DType::kF32 || out.dtype == activation_dtype),
        "rms_norm: {} -> {}", name_of(x.dtype), name_of(out.dtype));
}

void check_norm_rope(View x, View positions, const RopeTable& rope) {
  check_norm_rope_shapes(x, positions, rope);
  for (int64_t row = 0; row < x.rows(); ++row) {
    const int64_t position = positions.i32()[row];
    CHECK(0 <= position && position < rope.cos.rows(), "position {} of a table of {}", position,
          rope.cos.rows());
  }
}

void check_norm_rope_shapes(View x, View positions, const RopeTable& rope) {
  CHECK(x.shape.rank() == 3 && x.shape[2] % 2 == 0, "norm_rope: rank {}, head_dim {}",
        x.shape.rank(), x.shape[2]);
  CHECK(positions.shape == tensor::Shape({x.rows()}), "norm_rope: positions for {} rows", x.rows());
  CHECK(rope.cos.shape == rope.sin.shape && rope.cos.shape[1] * 2 == x.shape[2],
        "norm_rope: table of width {}, head_dim {}", rope.cos.shape[1], x.shape[2]);
}

void check_kv_write(View keys, View values, const RowLayout& rows, const KvLayer& cache) {
  CHECK(keys.shape == values.shape, "kv_write: {} key and {} value elements", keys.shape.elements(),
        values.shape.elements());
  CHECK(keys.shape == tensor::Shape({keys.rows(), cache.kv_heads, cache.head_dim}),
        "kv_write: [{}, {}, {}] into {} heads of {}", keys.rows(), keys.shape[1], keys.shape[2],
        cache.kv_heads, cache.head_dim);
  check_layout(rows, keys.rows());
}

void count_attention(OpCounters& counters, const RowLayout& rows, const KvLayer& cache,
                     int64_t heads, int64_t window, int64_t kv_element_bytes) {
  int64_t keys = 0;  // of all rows
  int64_t read = 0;  // positions, once for each run of rows of a sequence
  int64_t run_begin = 0;
  int64_t run_end = 0;
  int64_t run_sequence = -1;
  for (int64_t row = 0; row < rows.positions.rows(); ++row) {
    const int64_t position = rows.positions.i32()[row];
    CHECK(position >= 0, "attention: position {}", position);
    const int64_t begin = window_begin(position, window);
    keys += position + 1 - begin;
    if (rows.sequences.i32()[row] != run_sequence) {
      read += run_end - run_begin;
      run_sequence = rows.sequences.i32()[row];
      run_begin = begin;
      run_end = position + 1;
    }
    run_begin = std::min(run_begin, begin);
    run_end = std::max(run_end, position + 1);
  }
  read += run_end - run_begin;
  counters.attention_flops += 4 * keys * cache.head_dim * heads;
  counters.bytes += 2 * read * cache.kv_heads * cache.head_dim * kv_element_bytes;
}

void check_attention(Stream& stream, View queries, const RowLayout& rows, const KvLayer& cache,
                     const Ops::AttentionParams& params, View out, DType out_dtype,
                     DType kv_dtype) {
  const int64_t heads = queries.shape[1];
  CHECK(queries.shape == tensor::Shape({queries.rows(), heads, cache.head_dim}),
        "attention: queries of head_dim {}, cache of {}", queries.shape[2], cache.head_dim);
  CHECK(cache.kv_heads > 0 && heads % cache.kv_heads == 0, "attention: {} heads over {} KV heads",
        heads, cache.kv_heads);
  CHECK(out.dtype == out_dtype, "attention: out is {}", name_of(out.dtype));
  CHECK(out.shape == tensor::Shape({queries.rows(), heads * cache.head_dim}),
        "attention: out is [{}, {}]", out.rows(), out.shape[1]);
  check_layout(rows, queries.rows());
  count_attention(stream.counters, rows.on_host(), cache, heads, params.window, size_of(kv_dtype));
}

void check_gated_activation(View gate, View up, View out, DType out_dtype) {
  CHECK(gate.shape == up.shape && gate.shape == out.shape,
        "gated_activation: {}, {} -> {} elements", gate.shape.elements(), up.shape.elements(),
        out.shape.elements());
  CHECK(out.dtype == out_dtype, "gated_activation: out is {}", name_of(out.dtype));
}

void check_copy(View from, View to) {
  CHECK(from.dtype == to.dtype && from.shape.elements() == to.shape.elements(),
        "copy: {} of {} -> {} of {}", from.shape.elements(), name_of(from.dtype),
        to.shape.elements(), name_of(to.dtype));
}

void check_join_columns(View parts, std::span<const int64_t> begins, View out) {
  CHECK(parts.shape.rank() == 3 && parts.shape[0] == std::ssize(begins) &&
            parts.shape[1] == out.rows(),
        "join_columns: {} begins, {} rows of {} parts for {} rows", begins.size(), parts.shape[1],
        parts.shape[0], out.rows());
  CHECK(std::all_of(begins.begin(), begins.end(), [](int64_t begin) { return begin >= 0; }),
        "join_columns: a part begins before its row");
}

void check_take_columns(View x, int64_t begin, View out) {
  CHECK(x.rows() == out.rows() && begin >= 0, "take_columns: {} rows from column {} of {} rows",
        out.rows(), begin, x.rows());
}

void check_draw_rows(View logits, View draws, View out) {
  CHECK(logits.shape.rank() == 2 && logits.shape[1] > 0 &&
            draws.shape == tensor::Shape({logits.rows(), kDrawWords}) &&
            out.shape == tensor::Shape({logits.rows()}),
        "draw_rows: {} rows of {}, {} draws -> {}", logits.rows(), logits.shape[1], draws.rows(),
        out.rows());
}

const int32_t* block_table(const RowLayout& rows, const KvLayer& cache, int64_t sequence,
                           int64_t first, int64_t last) {
  const View& tables = rows.block_tables;
  CHECK(0 <= sequence && sequence < tables.shape[0], "sequence {} of {}", sequence,
        tables.shape[0]);
  CHECK(0 <= first && last / cache.block_size < tables.shape[1],
        "positions {} to {} in {} blocks of {}", first, last, tables.shape[1], cache.block_size);
  const int32_t* table = tables.i32() + sequence * tables.shape[1];
  for (int64_t i = first / cache.block_size; i <= last / cache.block_size; ++i) {
    CHECK(0 <= table[i] && table[i] < cache.blocks, "block {} of {}", table[i], cache.blocks);
  }
  return table;
}

int64_t kv_index(const KvLayer& cache, const int32_t* table, int64_t position, int64_t head) {
  const int64_t block = table[position / cache.block_size];
  const int64_t offset = position % cache.block_size;
  return ((block * cache.kv_heads + head) * cache.block_size + offset) * cache.head_dim;
}

}  // namespace fourfold::backend

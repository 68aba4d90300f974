#include "backend/reference/reference_ops.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numbers>
#include <utility>
#include <vector>

#include "backend/slices.h"
#include "base/sizes.h"

namespace fourfold::backend {
namespace {

/// Output elements that are summed side by side; the compiler vectorises over them.
constexpr int64_t kTile = 16;

/// [ceil(N / 16)][K][16] fp32.
class ReferenceMatrix final : public Weight {
 public:
  ReferenceMatrix(const MatrixShape& shape, Buffer buffer)
      : Weight(shape.rows, shape.columns, buffer.bytes()),
        slice_ends_(shape.slice_ends),
        buffer_(std::move(buffer)) {}

  const std::vector<int64_t>& slice_ends() const { return slice_ends_; }
  float* tile(int64_t index) const {
    return static_cast<float*>(buffer_.data()) + index * columns() * kTile;
  }
  float* row(int64_t n) const { return tile(n / kTile) + n % kTile; }  ///< column k is at [k * 16]

 private:
  std::vector<int64_t> slice_ends_;
  Buffer buffer_;
};

const ReferenceMatrix& matrix_of(const Weight& weight) {
  const auto* matrix = dynamic_cast<const ReferenceMatrix*>(&weight);
  CHECK(matrix != nullptr, "a weight that load_matrix of `reference` did not make");
  return *matrix;
}

/// out[16] = x[K] times the tile, slice by slice.
void multiply_tile(const float* x, const float* tile, const std::vector<int64_t>& slice_ends,
                   float* out) {
  std::array<float, kMaxSlices* kTile> parts = {};
  int64_t k = 0;
  float* sum = parts.data();
  for (const int64_t end : slice_ends) {
    std::array<float, kTile> s = {};
    for (; k < end; ++k) {
      const float* w = tile + k * kTile;
      for (size_t j = 0; j < kTile; ++j) s[j] += x[k] * w[j];
    }
    std::copy(s.begin(), s.end(), sum);
    sum += kTile;
  }
  join_slices(parts.data(), std::ssize(slice_ends), kTile, kTile);
  std::copy_n(parts.data(), kTile, out);
}

/// out = x w^T.
void multiply(ThreadPool& pool, View x, const ReferenceMatrix& w, View out) {
  const int64_t rows = x.rows();
  const int64_t n = w.rows();
  pool.parallel_for(
      base::ceil_div(n, kTile), row_grain(rows * w.columns()),
      [&](int64_t begin, int64_t end, int) {
        for (int64_t tile = begin; tile < end; ++tile) {
          const int64_t first = tile * kTile;
          for (int64_t m = 0; m < rows; ++m) {
            std::array<float, kTile> sums;
            multiply_tile(x.f32() + m * w.columns(), w.tile(tile), w.slice_ends(), sums.data());
            std::copy_n(sums.data(), std::min(kTile, n - first), out.f32() + m * n + first);
          }
        }
      });
}

void normalize(const float* x, const float* gain, float eps, int64_t n, float* out) {
  float squares = 0;
  for (int64_t i = 0; i < n; ++i) squares += x[i] * x[i];
  const float r = 1.0F / std::sqrt(squares / static_cast<float>(n) + eps);
  for (int64_t i = 0; i < n; ++i) out[i] = x[i] * r * gain[i];
}

/// A softmax-weighted sum of values over some positions: out = sum / weight, relative to e^max.
struct Partial {
  float max = -std::numeric_limits<float>::infinity();
  float weight = 0;
  float* sum = nullptr;
};

/// into = into merged with `next`, which lies to its right.
void merge(Partial& into, const Partial& next, int64_t head_dim) {
  const float max = std::max(into.max, next.max);
  const float a = std::exp(into.max - max);
  const float c = std::exp(next.max - max);
  into.max = max;
  into.weight = into.weight * a + next.weight * c;
  for (int64_t d = 0; d < head_dim; ++d) into.sum[d] = into.sum[d] * a + next.sum[d] * c;
}

/// One query head of one row. scratch: [128 + head_dim].
void attend(const float* query, const int32_t* table, int64_t begin, int64_t position,
            int64_t kv_head, const KvLayer& cache, float scale, float* scratch, float* out) {
  const int64_t head_dim = cache.head_dim;
  const auto* keys = static_cast<const float*>(cache.keys);
  const auto* values = static_cast<const float*>(cache.values);
  float* scores = scratch;
  Partial total{.sum = out};
  std::fill_n(out, head_dim, 0.0F);
  for (int64_t first = begin; first <= position;) {
    const int64_t end = std::min(position + 1, base::round_up(first + 1, kAttentionPiece));
    Partial piece{.sum = scratch + kAttentionPiece};
    std::fill_n(piece.sum, head_dim, 0.0F);
    for (int64_t t = first; t < end; ++t) {
      const float* key = keys + kv_index(cache, table, t, kv_head);
      float dot = 0;
      for (int64_t d = 0; d < head_dim; ++d) dot += query[d] * key[d];
      scores[t - first] = dot * scale;
      piece.max = std::max(piece.max, dot * scale);
    }
    for (int64_t t = first; t < end; ++t) {
      const float* value = values + kv_index(cache, table, t, kv_head);
      const float e = std::exp(scores[t - first] - piece.max);
      piece.weight += e;
      for (int64_t d = 0; d < head_dim; ++d) piece.sum[d] += e * value[d];
    }
    merge(total, piece, head_dim);
    first = end;
  }
  for (int64_t d = 0; d < head_dim; ++d) out[d] /= total.weight;
}

float activate(Activation activation, float x) {
  switch (activation) {
    case Activation::kSilu:
      return x / (1.0F + std::exp(-x));
    case Activation::kGeluTanh: {
      const float u = std::sqrt(2.0F / std::numbers::pi_v<float>) * (x + 0.044715F * x * x * x);
      return 0.5F * x * (1.0F + std::tanh(u));
    }
  }
  CHECK(false, "activation {}", static_cast<int>(activation));
}

}  // namespace

int64_t ReferenceOps::scratch_bytes(int threads, const Limits& limits) const {
  return threads *
         base::round_up((kAttentionPiece + limits.head_dim) * tensor::size_of(DType::kF32), 64);
}

int64_t ReferenceOps::matrix_bytes(const MatrixShape& shape) const {
  return base::round_up(shape.rows, kTile) * shape.columns * tensor::size_of(DType::kF32);
}

base::Result<WeightPtr> ReferenceOps::load_matrix(Stream&, const MatrixShape& shape,
                                                  const RowReader& reader) const {
  check_slices(shape);
  FF_ASSIGN(Buffer buffer, allocate(matrix_bytes(shape)));
  auto matrix = std::make_unique<ReferenceMatrix>(shape, std::move(buffer));
  std::vector<float> values(static_cast<size_t>(shape.columns));
  for (int64_t n = 0; n < shape.rows; ++n) {
    FF_TRY(reader.read(n, values));
    float* to = matrix->row(n);
    for (int64_t k = 0; k < shape.columns; ++k) to[k * kTile] = values[static_cast<size_t>(k)];
  }
  if (reader.loaded) reader.loaded(0, shape.rows);
  return WeightPtr(std::move(matrix));
}

void ReferenceOps::embed(Stream& stream, const Weight& table, View tokens, int64_t first_token,
                         float scale, View out) const {
  OpTimer timer(stream);
  const ReferenceMatrix& matrix = matrix_of(table);
  const int64_t width = matrix.columns();
  CHECK(out.shape == tensor::Shape({tokens.rows(), width}), "embed: out is [{}, {}]", out.rows(),
        out.shape[1]);
  for (int64_t m = 0; m < out.rows(); ++m) {
    const int64_t n = tokens.i32()[m] - first_token;
    float* to = out.f32() + m * width;
    if (n < 0 || n >= matrix.rows()) {
      std::fill_n(to, width, 0.0F);
      continue;
    }
    for (int64_t k = 0; k < width; ++k) to[k] = matrix.row(n)[k * kTile] * scale + 0.0F;
  }
}

void ReferenceOps::rms_norm(Stream& stream, View x, const Weight& gain, float eps, View out) const {
  OpTimer timer(stream);
  check_rms_norm(x, out, activation_dtype());
  const int64_t width = x.shape[1];
  const float* gains = vector_of(gain, width);
  pool_of(stream).parallel_for(x.rows(), row_grain(width), [&](int64_t begin, int64_t end, int) {
    for (int64_t m = begin; m < end; ++m) {
      normalize(x.f32() + m * width, gains, eps, width, out.f32() + m * width);
    }
  });
}

void ReferenceOps::matmul(Stream& stream, Arena&, View x,
                          std::initializer_list<MatmulTarget> targets) const {
  OpTimer timer(stream);
  for (const MatmulTarget& target : targets) {
    check_matmul(stream, x, activation_dtype(), target.weight, target.out);
    multiply(pool_of(stream), x, matrix_of(target.weight), target.out);
  }
}

void ReferenceOps::grouped_matmul(Stream& stream, Arena&, View x, std::span<const int32_t> ends,
                                  std::initializer_list<GroupedTarget> targets) const {
  OpTimer timer(stream);
  const std::vector<RowRange> groups =
      check_grouped_matmul(stream, x, activation_dtype(), ends, targets);
  for (const GroupedTarget& target : targets) {
    for (size_t g = 0; g < groups.size(); ++g) {
      if (groups[g].size() == 0) continue;
      multiply(pool_of(stream), x.slice_rows(groups[g].begin, groups[g].end),
               matrix_of(*target.weights[g]),
               target.out.slice_rows(groups[g].begin, groups[g].end));
    }
  }
}

void ReferenceOps::to_activation(Stream& stream, View x, View out) const {
  OpTimer timer(stream);
  check_to_activation(x, out, activation_dtype());
  std::copy_n(x.f32(), x.shape.elements(), out.f32());
}

void ReferenceOps::norm_rope(Stream& stream, View x, const Weight* gain, float eps, View positions,
                             const RopeTable& rope) const {
  OpTimer timer(stream);
  check_norm_rope(x, positions, rope);
  const int64_t heads = x.shape[1];
  const int64_t head_dim = x.shape[2];
  const int64_t half = head_dim / 2;
  const float* gains = gain == nullptr ? nullptr : vector_of(*gain, head_dim);
  for (int64_t i = 0; i < x.rows() * heads; ++i) {
    float* head = x.f32() + i * head_dim;
    if (gains != nullptr) normalize(head, gains, eps, head_dim, head);
    const int64_t position = positions.i32()[i / heads];
    const float* cos = rope.cos.f32() + position * half;
    const float* sin = rope.sin.f32() + position * half;
    for (int64_t d = 0; d < half; ++d) {
      const float a = head[d];
      const float b = head[d + half];
      head[d] = a * cos[d] - b * sin[d];
      head[d + half] = b * cos[d] + a * sin[d];
    }
  }
}

void ReferenceOps::kv_write(Stream& stream, View keys, View values, const RowLayout& rows,
                            const KvLayer& cache) const {
  OpTimer timer(stream);
  check_kv_write(keys, values, rows, cache);
  for (int64_t m = 0; m < keys.rows(); ++m) {
    const int64_t position = rows.positions.i32()[m];
    const int32_t* table = block_table(rows, cache, rows.sequences.i32()[m], position, position);
    for (int64_t head = 0; head < cache.kv_heads; ++head) {
      const int64_t from = (m * cache.kv_heads + head) * cache.head_dim;
      const int64_t to = kv_index(cache, table, position, head);
      std::copy_n(keys.f32() + from, cache.head_dim, static_cast<float*>(cache.keys) + to);
      std::copy_n(values.f32() + from, cache.head_dim, static_cast<float*>(cache.values) + to);
    }
  }
}

void ReferenceOps::attention(Stream& stream, Arena& arena, View queries, const RowLayout& rows,
                             const KvLayer& cache, const AttentionParams& params, View out) const {
  OpTimer timer(stream);
  check_attention(stream, queries, rows, cache, params, out, activation_dtype(), kv_dtype());
  const int64_t heads = queries.shape[1];
  const int64_t head_dim = cache.head_dim;
  ThreadPool& pool = pool_of(stream);
  const int64_t mark = arena.mark();
  const View scratch = arena.allocate(DType::kF32, {pool.threads(), kAttentionPiece + head_dim});
  pool.parallel_for(queries.rows() * heads, 1, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t m = i / heads;
      const int64_t kv_head = i % heads / (heads / cache.kv_heads);
      const int64_t position = rows.positions.i32()[m];
      const int64_t first = window_begin(position, params.window);
      const int32_t* table = block_table(rows, cache, rows.sequences.i32()[m], first, position);
      attend(queries.f32() + i * head_dim, table, first, position, kv_head, cache, params.scale,
             scratch.f32() + thread * scratch.shape[1], out.f32() + i * head_dim);
    }
  });
  arena.release_to(mark);
}

void ReferenceOps::gated_activation(Stream& stream, Activation activation, View gate, View up,
                                    View out) const {
  OpTimer timer(stream);
  check_gated_activation(gate, up, out, activation_dtype());
  pool_of(stream).parallel_for(gate.shape.elements(), row_grain(1),
                               [&](int64_t begin, int64_t end, int) {
                                 for (int64_t i = begin; i < end; ++i) {
                                   out.f32()[i] = activate(activation, gate.f32()[i]) * up.f32()[i];
                                 }
                               });
}

double ReferenceOps::compute_in_registers(int64_t steps) const {
  // Two rows of a tile: what the compiler makes of multiply_tile's innermost loop.
  std::array<float, 2 * kTile> sums = {};
  float x = 1;
  for (int64_t i = 0; i < steps; ++i) {
    for (float& sum : sums) sum += x * x;
    asm volatile("" : "+x"(x));
  }
  asm volatile("" : : "m"(sums));
  return static_cast<double>(steps) * 2 * std::ssize(sums);
}

}  // namespace fourfold::backend

#include "backend/cpu/attention.h"

#include <algorithm>
#include <array>
#include <limits>

#include "backend/host_ops.h"
#include "backend/slices.h"
#include "base/sizes.h"

namespace fourfold::backend {
namespace {

constexpr int64_t kPiece = kAttentionPiece;
constexpr int64_t kLanes = 16;    // positions of a packed tile, and columns of one
constexpr int64_t kColumns = 32;  // of a block of the matmul kernel
constexpr int64_t kTasksPerThread = 4;

/// What all tasks of one attention share.
struct Attention {
  const RowKernels& kernels;
  const MatmulKernel& matmul;
  View queries;
  const RowLayout& rows;
  const KvLayer& cache;
  const Ops::AttentionParams& params;
  View out;

  int64_t heads() const { return queries.shape[1] / cache.kv_heads; }  ///< that share a KV head
  int32_t position(int64_t row) const { return rows.positions.i32()[row]; }
  int32_t sequence(int64_t row) const { return rows.sequences.i32()[row]; }
  int64_t window_of(int64_t row) const { return window_begin(position(row), params.window); }
  /// Index of the first of the heads of a row that share a KV head, in queries and out.
  int64_t query(int64_t row, int64_t kv_head) const {
    return (row * cache.kv_heads + kv_head) * heads() * cache.head_dim;
  }
};

/// A range of rows of one sequence and a KV head.
struct Block {
  int64_t begin;
  int64_t end;
  int64_t kv_head;
};

/// One piece of a sequence's positions, [origin, origin + 128), as far as a block reads it: where
/// each position's key and value are, and zeros outside [first, last).
struct Piece {
  int64_t first;  ///< counted from the origin
  int64_t last;
  std::array<const uint16_t*, kPiece> keys;
  std::array<const uint16_t*, kPiece> values;

  int64_t tiles() const { return base::ceil_div(last, kLanes); }
};

Piece locate(const Attention& a, const int32_t* table, int64_t kv_head, int64_t begin, int64_t end,
             const uint16_t* zeros) {
  const int64_t origin = begin / kPiece * kPiece;
  Piece piece{.first = begin - origin, .last = end - origin, .keys = {}, .values = {}};
  piece.keys.fill(zeros);
  piece.values.fill(zeros);
  const auto* keys = static_cast<const uint16_t*>(a.cache.keys);
  const auto* values = static_cast<const uint16_t*>(a.cache.values);
  for (int64_t t = begin; t < end;) {
    int64_t at = kv_index(a.cache, table, t, kv_head);
    const int64_t block_end = std::min(end, (t / a.cache.block_size + 1) * a.cache.block_size);
    for (; t < block_end; ++t, at += a.cache.head_dim) {
      piece.keys[static_cast<size_t>(t - origin)] = keys + at;
      piece.values[static_cast<size_t>(t - origin)] = values + at;
    }
  }
  return piece;
}

/// Sizes of the scratch memory of one task, in elements of its arrays.
struct Sizes {
  int64_t queries;  ///< of a block
  int64_t padded_head_dim;
  int64_t wide_head_dim;  ///< padded to the matmul kernel's blocks

  Sizes(int64_t max_queries, int64_t head_dim)
      : queries(base::round_up(max_queries, kLanes)),
        padded_head_dim(base::round_up(head_dim, kLanes)),
        wide_head_dim(base::round_up(head_dim, kColumns)) {}

  /// Floats of a task's scratch memory: the larger of the two numerics' needs.
  int64_t floats() const {
    return kPiece * 2 * wide_head_dim                        // keys and values
           + queries * (2 * wide_head_dim + 2 * kPiece + 2)  // queries, sums, scores, weights
           + wide_head_dim;                                  // zeros
  }
};

/// Hands out parts of a task's scratch memory.
class Scratch {
 public:
  explicit Scratch(float* at) : next_(at) {}
  float* floats(int64_t count) {
    float* at = next_;
    next_ += base::round_up(count, kLanes);
    return at;
  }
  uint16_t* bf16s(int64_t count) { return reinterpret_cast<uint16_t*>(floats(count / 2)); }

 private:
  float* next_;
};

/// Asks for some keys or values. They lie in pieces of one KV block, too short for the processor to
/// see a stream in: without this, packing them waits for one miss after another.
void prefetch(const uint16_t* const* rows, int64_t count, int64_t head_dim) {
  constexpr int64_t kLineElements = 32;
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t d = 0; d < head_dim; d += kLineElements) __builtin_prefetch(rows[i] + d);
  }
}

/// Calls visit(piece, origin, next) for the pieces that a block's rows read, in rising order; what
/// visit works on is on its way, and it asks for `next` bit by bit.
template <typename Visit>
void for_each_piece(const Attention& a, const Block& block, const uint16_t* zeros,
                    const Visit& visit) {
  int64_t first = std::numeric_limits<int64_t>::max();
  int64_t last = 0;
  for (int64_t row = block.begin; row < block.end; ++row) {
    first = std::min(first, a.window_of(row));
    last = std::max<int64_t>(last, a.position(row));
  }
  const int32_t* table = block_table(a.rows, a.cache, a.sequence(block.begin), first, last);
  const auto piece_at = [&](int64_t begin) {
    const int64_t end = std::min(last + 1, begin / kPiece * kPiece + kPiece);
    return locate(a, table, block.kv_head, begin, end, zeros);
  };
  Piece piece = piece_at(first);
  prefetch(piece.keys.data(), kPiece, a.cache.head_dim);
  prefetch(piece.values.data(), kPiece, a.cache.head_dim);
  for (int64_t origin = first / kPiece * kPiece; origin <= last; origin += kPiece) {
    const bool more = origin + kPiece <= last;
    // After the last one there is none to ask for; its own vectors are at hand.
    const Piece next = more ? piece_at(origin + kPiece) : piece;
    visit(piece, origin, next);
    piece = next;
  }
}

/// Positions of a piece, counted from its origin, that a row attends to; may be none.
struct Range {
  int64_t first;
  int64_t last;
};
Range range_of(const Attention& a, int64_t row, int64_t origin) {
  return {std::max<int64_t>(0, a.window_of(row) - origin),
          std::min<int64_t>(kPiece, a.position(row) + 1 - origin)};
}

void attend_invariant(const Attention& a, const Block& block, float* memory) {
  const int64_t heads = a.heads();
  const int64_t head_dim = a.cache.head_dim;
  const Sizes sizes((block.end - block.begin) * heads, head_dim);
  const int64_t width = sizes.padded_head_dim;
  Scratch scratch(memory);
  float* keys = scratch.floats(kPiece * width);
  float* values = scratch.floats(kPiece * width);
  float* queries = scratch.floats(sizes.queries * width);
  float* totals = scratch.floats(sizes.queries * width);
  float* scores = scratch.floats(heads * kPiece);
  float* maxima = scratch.floats(sizes.queries);
  float* weights = scratch.floats(sizes.queries);
  auto* zeros = scratch.bf16s(sizes.wide_head_dim);
  std::fill_n(zeros, width, uint16_t{0});
  std::fill_n(queries, sizes.queries * width, 0.0F);
  std::fill_n(totals, sizes.queries * width, 0.0F);
  std::fill_n(maxima, sizes.queries, -std::numeric_limits<float>::infinity());
  std::fill_n(weights, sizes.queries, 0.0F);
  for (int64_t row = block.begin; row < block.end; ++row) {
    const float* from = a.queries.f32() + a.query(row, block.kv_head);
    for (int64_t head = 0; head < heads; ++head) {
      std::copy_n(from + head * head_dim, head_dim,
                  queries + ((row - block.begin) * heads + head) * width);
    }
  }

  for_each_piece(a, block, zeros, [&](const Piece& piece, int64_t origin, const Piece& next) {
    for (int64_t tile = 0; tile < piece.tiles(); ++tile) {
      const auto first = static_cast<size_t>(tile * kLanes);
      prefetch(&next.keys[first], kLanes, head_dim);
      a.kernels.widen_transposed(&piece.keys[first], head_dim, keys + tile * kLanes * width);
      prefetch(&next.values[first], kLanes, head_dim);
      for (size_t t = first; t < first + kLanes; ++t) {
        a.kernels.widen(piece.values[t], head_dim, values + static_cast<int64_t>(t) * width);
      }
    }
    for (int64_t row = block.begin; row < block.end; ++row) {
      const Range range = range_of(a, row, origin);
      if (range.first >= range.last) continue;
      const int64_t query = (row - block.begin) * heads;
      a.kernels.attend_piece({.queries = queries + query * width,
                              .heads = heads,
                              .padded_head_dim = width,
                              .scale = a.params.scale,
                              .keys = keys,
                              .values = values,
                              .first = range.first,
                              .last = range.last,
                              .scores = scores,
                              .maxima = maxima + query,
                              .weights = weights + query,
                              .totals = totals + query * width});
    }
  });

  for (int64_t row = block.begin; row < block.end; ++row) {
    uint16_t* to = &a.out.bf16()->bits + a.query(row, block.kv_head);
    for (int64_t head = 0; head < heads; ++head) {
      const int64_t query = (row - block.begin) * heads + head;
      a.kernels.divide_to_bf16(totals + query * width, head_dim, weights[query],
                               to + head * head_dim);
    }
  }
}

/// Rows of a matmul kernel's x: [queries / G][columns / 32][G][32].
struct Rows {
  const MatmulKernel& matmul;
  int64_t columns;
  void* data;

  int64_t block_stride() const { return matmul.row_group * kColumns; }
  int64_t group_stride() const { return matmul.row_group * columns; }
  void* at(int64_t row) const {
    const int64_t element =
        row / matmul.row_group * group_stride() + row % matmul.row_group * kColumns;
    return static_cast<std::byte*>(data) + element * (matmul.f32_rows ? 4 : 2);
  }
};

void copy_query(const Attention& a, const float* query, const Rows& rows, void* to) {
  for (int64_t d = 0; d < a.cache.head_dim; d += kColumns) {
    const int64_t n = std::min(kColumns, a.cache.head_dim - d);
    const int64_t at = d / kColumns * rows.block_stride();
    if (rows.matmul.f32_rows) {
      std::copy_n(query + d, n, static_cast<float*>(to) + at);
    } else {
      a.kernels.to_bf16(query + d, n, static_cast<uint16_t*>(to) + at);
    }
  }
}

/// The scratch memory of a fast task.
struct FastTask {
  const Attention& a;
  const Block& block;
  int64_t queries;         ///< of the block
  int64_t padded_queries;  ///< as the matmul kernel wants
  int64_t wide;            ///< head_dim in whole blocks
  int64_t width;           ///< head_dim in whole tiles
  uint16_t* keys;          ///< [128 / 16][wide / 32][16][16][2]
  uint16_t* values;        ///< [width / 16][128 / 32][16][16][2]
  Rows x;                  ///< queries
  Rows p;                  ///< weights of a piece
  float* scores;           ///< [queries][128]
  float* totals;           ///< [queries][width]
  float* maxima;
  float* weights;
};

void pack(const FastTask& task, const Piece& piece, const Piece& next) {
  const RowKernels& kernels = task.a.kernels;
  const int64_t head_dim = task.a.cache.head_dim;
  for (int64_t tile = 0; tile < piece.tiles(); ++tile) {
    const auto first = static_cast<size_t>(tile * kLanes);
    prefetch(&next.keys[first], kLanes, head_dim);
    kernels.pack_rows(&piece.keys[first], head_dim, task.keys + tile * kLanes * task.wide);
  }
  for (int64_t t = 0; t < piece.last; t += kColumns) {
    const auto first = static_cast<size_t>(t);
    prefetch(&next.values[first], kColumns, head_dim);
    kernels.pack_columns(&piece.values[first], head_dim, task.values + t * kLanes, kPiece * kLanes);
  }
}

void attend_piece_fast(const FastTask& task, const Piece& piece, int64_t origin,
                       const Piece& next) {
  const Attention& a = task.a;
  pack(task, piece, next);
  a.matmul.run({.x = task.x.data,
                .x_stride = task.x.group_stride(),
                .rows = task.padded_queries,
                .w = task.keys,
                .tile_stride = kLanes * task.wide,
                .tiles = piece.tiles(),
                .blocks = task.wide / kColumns,
                .out = task.scores,
                .out_stride = kPiece,
                .accumulate = false});
  const int64_t heads = a.heads();
  for (int64_t query = 0; query < task.queries; ++query) {
    const Range range = range_of(a, task.block.begin + query / heads, origin);
    void* to = task.p.at(query);
    if (range.first >= range.last) {
      const int64_t bytes = kColumns * (a.matmul.f32_rows ? 4 : 2);
      for (int64_t i = 0; i < kPiece / kColumns; ++i) {
        std::fill_n(static_cast<std::byte*>(to) + i * bytes * a.matmul.row_group, bytes,
                    std::byte{0});
      }
      continue;
    }
    const float keep = a.kernels.softmax_piece({.scores = task.scores + query * kPiece,
                                                .scale = a.params.scale,
                                                .first = range.first,
                                                .last = range.last,
                                                .max = task.maxima + query,
                                                .weight = task.weights + query,
                                                .out = to,
                                                .f32_out = a.matmul.f32_rows,
                                                .block_stride = task.p.block_stride()});
    if (keep != 1) a.kernels.multiply_by(task.totals + query * task.width, task.width, keep);
  }
  a.matmul.run({.x = task.p.data,
                .x_stride = task.p.group_stride(),
                .rows = task.padded_queries,
                .w = task.values,
                .tile_stride = kPiece * kLanes,
                .tiles = task.width / kLanes,
                .blocks = base::ceil_div(piece.last, kColumns),
                .out = task.totals,
                .out_stride = task.width,
                .accumulate = true});
}

void attend_fast(const Attention& a, const Block& block, float* memory) {
  const int64_t heads = a.heads();
  const int64_t head_dim = a.cache.head_dim;
  const Sizes sizes((block.end - block.begin) * heads, head_dim);
  Scratch scratch(memory);
  // An f32 of room for each element of x and p, whichever type the kernel takes.
  FastTask task{
      .a = a,
      .block = block,
      .queries = (block.end - block.begin) * heads,
      .padded_queries = base::round_up((block.end - block.begin) * heads, a.matmul.row_group),
      .wide = sizes.wide_head_dim,
      .width = sizes.padded_head_dim,
      .keys = scratch.bf16s(kPiece * sizes.wide_head_dim),
      .values = scratch.bf16s(kPiece * sizes.padded_head_dim),
      .x = {a.matmul, sizes.wide_head_dim, scratch.floats(sizes.queries * sizes.wide_head_dim)},
      .p = {a.matmul, kPiece, scratch.floats(sizes.queries * kPiece)},
      .scores = scratch.floats(sizes.queries * kPiece),
      .totals = scratch.floats(sizes.queries * sizes.padded_head_dim),
      .maxima = scratch.floats(sizes.queries),
      .weights = scratch.floats(sizes.queries)};
  auto* zeros = scratch.bf16s(sizes.wide_head_dim);
  std::fill_n(zeros, sizes.wide_head_dim, uint16_t{0});
  std::fill_n(static_cast<float*>(task.x.data), sizes.queries * sizes.wide_head_dim, 0.0F);
  std::fill_n(static_cast<float*>(task.p.data), sizes.queries * kPiece, 0.0F);
  std::fill_n(task.totals, sizes.queries * task.width, 0.0F);
  std::fill_n(task.maxima, sizes.queries, -std::numeric_limits<float>::infinity());
  std::fill_n(task.weights, sizes.queries, 0.0F);
  for (int64_t query = 0; query < task.queries; ++query) {
    const int64_t row = block.begin + query / heads;
    copy_query(a, a.queries.f32() + a.query(row, block.kv_head) + query % heads * head_dim, task.x,
               task.x.at(query));
  }

  for_each_piece(a, block, zeros, [&](const Piece& piece, int64_t origin, const Piece& next) {
    attend_piece_fast(task, piece, origin, next);
  });

  for (int64_t query = 0; query < task.queries; ++query) {
    const int64_t row = block.begin + query / heads;
    a.kernels.divide_to_bf16(
        task.totals + query * task.width, head_dim, task.weights[query],
        &a.out.bf16()->bits + a.query(row, block.kv_head) + query % heads * head_dim);
  }
}

/// Rows of a block: as many as the matmul kernel likes at once, but enough blocks for all threads.
int64_t rows_per_block(int64_t rows, int64_t heads, int64_t kv_heads, int threads) {
  const int64_t most = std::max<int64_t>(1, kMaxTaskRows / heads);
  const int64_t shared = base::ceil_div(rows * kv_heads, threads * kTasksPerThread);
  return std::clamp<int64_t>(shared, 1, most);
}

int64_t scratch_floats(int64_t heads, int64_t head_dim) {
  return base::round_up(Sizes(std::max(kMaxTaskRows, heads), head_dim).floats() + 16 * kLanes,
                        kLanes);
}

}  // namespace

int64_t attention_scratch_bytes(int64_t rows, int64_t heads, int64_t head_dim, int threads) {
  return threads * scratch_floats(heads, head_dim) * tensor::size_of(DType::kF32) +
         base::round_up((rows + 1) * tensor::size_of(DType::kI32), 64);
}

void attend(const RowKernels& kernels, const MatmulKernel& matmul, ThreadPool& pool, Arena& arena,
            base::Numerics numerics, View queries, const RowLayout& rows, const KvLayer& cache,
            const Ops::AttentionParams& params, View out) {
  if (queries.rows() == 0) return;
  const Attention a{kernels, matmul, queries, rows, cache, params, out};
  const int64_t mark = arena.mark();
  const View scratch =
      arena.allocate(DType::kF32, {pool.threads(), scratch_floats(a.heads(), cache.head_dim)});
  const View begins = arena.allocate(DType::kI32, {queries.rows() + 1});
  const int64_t block_rows =
      rows_per_block(queries.rows(), a.heads(), cache.kv_heads, pool.threads());
  int64_t blocks = 0;
  for (int64_t row = 0; row < queries.rows(); ++row) {
    const bool first = row == 0 || a.sequence(row) != a.sequence(row - 1) ||
                       row - begins.i32()[blocks - 1] == block_rows;
    if (first) begins.i32()[blocks++] = static_cast<int32_t>(row);
  }
  begins.i32()[blocks] = static_cast<int32_t>(queries.rows());

  pool.parallel_for(blocks * cache.kv_heads, 1, [&](int64_t begin, int64_t end, int thread) {
    float* memory = scratch.f32() + thread * scratch.shape[1];
    for (int64_t i = begin; i < end; ++i) {
      const int64_t block = i / cache.kv_heads;
      const Block task{begins.i32()[block], begins.i32()[block + 1], i % cache.kv_heads};
      if (numerics == base::Numerics::kFast) {
        attend_fast(a, task, memory);
      } else {
        attend_invariant(a, task, memory);
      }
    }
  });
  arena.release_to(mark);
}

}  // namespace fourfold::backend

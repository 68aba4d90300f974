#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "backend/activity.h"
#include "backend/draw.h"
#include "base/numerics.h"
#include "base/result.h"
#include "tensor/buffer.h"
#include "tensor/view.h"

namespace fourfold::backend {

using tensor::Arena;
using tensor::Buffer;
using tensor::DType;
using tensor::View;

/// Work done so far on a stream: what a rank's share is judged by.
struct OpCounters {
  int64_t matmul_flops = 0;     ///< 2 * rows * N * K of every matmul
  int64_t attention_flops = 0;  ///< 4 * keys * head_dim per query head and row
  /// The least that had to be read of weights and cache: the matrix of every matmul once, and once
  /// in an attention the keys and values of each run of rows of one sequence. Activations, norm
  /// gains and embedding rows are not counted.
  int64_t bytes = 0;
  double seconds = 0;  ///< time inside operators
};

/// Ceilings of a stream's threads, measured.
struct Peaks {
  double matmul_flop_s = 0;  ///< of the instruction that matmul is made of, operands in registers
  double read_bytes_s = 0;   ///< reading memory that no cache holds
};

/// Where the rows of a step are: part of the step's one packed input buffer. M rows, S sequences.
struct RowLayout {
  View positions;     ///< i32 [M], absolute
  View sequences;     ///< i32 [M], index into block_tables
  View block_tables;  ///< i32 [S, max_blocks]; entries past a sequence's blocks are not read
  /// i32 [T, 2]: first row and number of rows, at most kTileRows, of one sequence at rising
  /// positions. Every row is in one tile; tiles of a single row come first. What a device cuts
  /// attention by; backends in host memory do not read it.
  View tiles;
  int64_t single_tiles = 0;  ///< tiles of one row
  /// The same in the host's memory, where the backend's is another; it outlives the call.
  const RowLayout* host = nullptr;
  const RowLayout& on_host() const { return host == nullptr ? *this : *host; }
};
inline constexpr int64_t kTileRows = 128;

/// The tiles of rows that belong to these sequences, two entries each, and how many are of one row.
struct RowTiles {
  std::vector<int32_t> entries;
  int64_t single = 0;
};
RowTiles tiles_of(std::span<const int32_t> sequences);

/// A queue of operators in order. On the CPU it is the rank's threads and an operator is done when
/// the call returns; on a device it is a stream.
class Stream {
 public:
  virtual ~Stream() = default;
  /// Returns when everything enqueued is done.
  virtual void synchronize() = 0;
  /// Names what has been enqueued so far; wait() returns when that is done. Up to kMaxMarks marks
  /// may be waited for, each once, in their order.
  virtual int64_t mark() = 0;
  virtual void wait(int64_t mark) = 0;
  static constexpr int kMaxMarks = 8;

  /// Does what `enqueue` enqueues. With the same `key` that is the same operators, views, weights
  /// and shapes whenever it is called, all in the backend's memory, so that a device may keep them
  /// and need not be told again; only what is in memory differs. `rows`: of its attentions.
  virtual void repeat(std::span<const int64_t> key, const RowLayout& rows,
                      const std::function<void()>& enqueue) = 0;
  /// Does now what the first repeat() of this would take its time for, and runs nothing.
  virtual void prepare(std::span<const int64_t> /*key*/, const RowLayout& /*rows*/,
                       const std::function<void()>& /*enqueue*/) {}

  /// Until it is called with false, operators are enqueued only so that later ones are quick:
  /// nobody reads their results, and a device may take its time to compare kernels.
  virtual void rehearse(bool /*on*/) {}

  /// Makes the device fail at what is enqueued next, for tests of what happens then. Where an
  /// operator is done when its call returns there is nothing that could.
  virtual void break_device() {}

  /// The device's runtime's own name of it, for what others enqueue next; null on the host.
  virtual void* handle() { return nullptr; }

  OpCounters counters;
  base::Numerics numerics = base::Numerics::kInvariant;  ///< of the operators enqueued next
};

/// Where load_matrix finds the rows of a shard. All of a stream's threads call it at once, each row
/// once, in any order.
struct RowReader {
  /// Fills row `row`, fp32, `out.size()` columns.
  std::function<base::Status(int64_t row, std::span<float> out)> read;
  /// Fills rows [begin, end), one after another, where they are bf16. Empty: they aren't; then
  /// `read` is used.
  std::function<base::Status(int64_t begin, int64_t end, std::span<uint16_t> out)> bf16 = nullptr;
  /// Bytes by which the rows of `bf16` miss the multiples of 64 in their file. Into memory that
  /// misses them as much they are copied fastest.
  int64_t bf16_offset = 0;
  /// Is told, if not empty, that rows [begin, end) were loaded.
  std::function<void(int64_t begin, int64_t end)> loaded = nullptr;
};

/// A matrix [rows = N, columns = K] as PyTorch stores a Linear, cut for this rank.
struct MatrixShape {
  int64_t rows = 0;
  int64_t columns = 0;
  /// Ends of the reduction slices along K, in local columns; the last one is `columns`. One entry:
  /// K is not split by TP and is summed as one slice. 8/tp entries (1, 2, 4 or 8): this rank's
  /// slices, empty ones repeat their neighbour; each is summed by itself in the order of
  /// docs/numerics.md and they are joined by the binary tree.
  std::vector<int64_t> slice_ends;
};

/// A matrix to load. `open` is called when its turn comes.
struct MatrixSource {
  MatrixShape shape;
  std::function<RowReader()> open;
};

/// A weight in the backend's own type and layout.
class Weight {
 public:
  virtual ~Weight() = default;
  int64_t rows() const { return rows_; }        ///< N
  int64_t columns() const { return columns_; }  ///< K
  int64_t bytes() const { return bytes_; }      ///< memory it takes, padding included
  /// A vector's elements in the backend's memory; null of a matrix.
  virtual const float* vector() const { return nullptr; }

 protected:
  Weight(int64_t rows, int64_t columns, int64_t bytes)
      : rows_(rows), columns_(columns), bytes_(bytes) {}

 private:
  int64_t rows_;
  int64_t columns_;
  int64_t bytes_;
};
using WeightPtr = std::unique_ptr<const Weight>;

/// The paged keys and values of one layer, in kv_dtype: [blocks][kv_heads][block_size][head_dim].
struct KvLayer {
  void* keys = nullptr;
  void* values = nullptr;
  int64_t blocks = 0;
  int64_t kv_heads = 0;  ///< of this rank
  int64_t block_size = 0;
  int64_t head_dim = 0;
};

/// cos and sin of position * frequency, f32 [positions, head_dim / 2] each.
struct RopeTable {
  View cos;
  View sin;
};

enum class Activation { kSilu, kGeluTanh };

/// How a row chooses its experts, from one logit for each.
struct Routing {
  enum class Scoring { kSoftmax, kSigmoid };
  Scoring scoring = Scoring::kSoftmax;  ///< of the logits: softmax over all experts
  int64_t top_k = 0;
  /// Experts stand in `groups` groups of neighbours, as many in each; a row chooses among those of
  /// the `top_groups` groups whose two best (score + bias) have the largest sum.
  int64_t groups = 1;
  int64_t top_groups = 1;
  bool renormalise = false;  ///< the chosen scores are divided by their sum
  float scale = 1.0F;        ///< and multiplied by this

  bool operator==(const Routing&) const = default;
};

/// The coarse operators of a decoder. M = rows of the step, H = hidden size. Those that others are
/// made of have that for their definition; a backend may do them at once, to the same bits in
/// invariant numerics.
///
/// Operators take views of the right shapes (CHECKed), allocate from the arena only and return
/// nothing; zero rows are legal everywhere. With `activation` below the dtype of matmul inputs (f32
/// on `reference`, bf16 on `cpu`) and all accumulations in f32. With the stream's numerics
/// invariant, every operator keeps the order of additions of docs/numerics.md: a row's result never
/// depends on the other rows, the threads, or how the cache is paged. With fast numerics it may.
class Ops {
 public:
  virtual ~Ops() = default;

  /// "reference", "cpu/amx", "cpu/avx512_bf16", "cpu/avx2", "cuda".
  virtual std::string_view name() const = 0;
  virtual DType activation_dtype() const = 0;
  virtual DType kv_dtype() const = 0;
  virtual DType weight_dtype() const = 0;

  virtual base::Result<Buffer> allocate(int64_t bytes) const = 0;
  /// True where the memory of `allocate` is the host's, so that the host may read and write it
  /// after Stream::synchronize. Elsewhere only the operators touch it.
  virtual bool in_host_memory() const = 0;
  /// Memory of the host that is quick to copy from and to: `allocate`, where that is the host's.
  virtual base::Result<Buffer> allocate_host(int64_t bytes) const = 0;
  /// The GPU that ranks run on, as its driver names it; empty: they run on cores.
  virtual std::string gpu() const { return ""; }
  /// How many GPUs of this machine make_ops can be asked for; 0 where they are not GPUs' operators.
  virtual int gpus() const { return 0; }
  /// The GPU's own counters; null: there are none.
  virtual std::unique_ptr<ActivityMeter> activity_meter(int /*gpus*/) const { return nullptr; }
  /// What `allocate` can still give; nothing where that is memory of the host.
  virtual std::optional<int64_t> free_bytes() const = 0;
  /// Copies between memory of the host and of the backend; the same dtype and number of elements.
  /// `from` of copy_in may be changed, and `to` of copy_out is filled, after Stream::synchronize.
  virtual void copy_in(Stream& stream, View from, View to) const = 0;
  virtual void copy_out(Stream& stream, View from, View to) const = 0;
  /// `threads` threads, pinned to `cpus` if given (one each).
  virtual std::unique_ptr<Stream> make_stream(int threads, std::span<const int> cpus) const = 0;

  /// The largest operators that will run.
  struct Limits {
    int64_t rows = 0;     ///< M
    int64_t columns = 0;  ///< K of a matmul
    int64_t heads = 0;    ///< query heads of this rank
    int64_t head_dim = 0;
    int64_t groups = 1;  ///< G of a grouped_matmul
  };
  /// Arena bytes that any one operator within `limits` takes for itself on a stream of `threads`.
  virtual int64_t scratch_bytes(int threads, const Limits& limits) const = 0;

  /// Bytes that load_matrix will take: exact, so that a plan can be made before anything is loaded.
  virtual int64_t matrix_bytes(const MatrixShape& shape) const = 0;
  /// Loads with the threads of `stream`; an error of the reader ends it.
  virtual base::Result<WeightPtr> load_matrix(Stream& stream, const MatrixShape& shape,
                                              const RowReader& reader) const = 0;
  /// load_matrix of one after another. A backend may lay neighbours beside each other, so that an
  /// operator that takes both can take them as one.
  virtual base::Result<std::vector<WeightPtr>> load_matrices(
      Stream& stream, std::span<const MatrixSource> sources) const;
  /// Measures for about `seconds`, half of them each. `sharers` ranks of this machine should call
  /// it at the same time: then each sees its share. Takes up to 1 GiB for the time of the call, of
  /// all sharers together, but 64 MiB each at least; an error if there is not as much.
  virtual base::Result<Peaks> measure_peaks(Stream& stream, double seconds, int sharers) const = 0;

  /// A vector of f32 (norm gains): [1, n].
  virtual base::Result<WeightPtr> load_vector(std::span<const float> values) const = 0;

  /// out[m] = table[tokens[m] - first_token] * scale, or zeros where the token is not in this
  /// shard. Adds +0.0, so that a zero has one sign whatever the sharding. tokens i32 [M]; out f32
  /// [M, H].
  virtual void embed(Stream& stream, const Weight& table, View tokens, int64_t first_token,
                     float scale, View out) const = 0;

  /// tokens[m] = ring[-1 - tokens[m]] where it is negative. Both i32; tokens [M].
  virtual void resolve_tokens(Stream& stream, View tokens, View ring) const = 0;

  /// out = x / sqrt(mean(x^2) + eps) * gain. x f32 [M, H]; out f32 or activation dtype [M, H]; may
  /// be x itself if f32.
  virtual void rms_norm(Stream& stream, View x, const Weight& gain, float eps, View out) const = 0;

  struct MatmulTarget {
    const Weight& weight;  ///< [N, K]
    View out;              ///< f32 [M, N]
  };
  /// out = x w^T for each of up to kMaxMatmulTargets targets, whose K and slices are the same;
  /// slices joined by the tree. x activation dtype [M, K].
  virtual void matmul(Stream& stream, Arena& arena, View x,
                      std::initializer_list<MatmulTarget> targets) const = 0;
  static constexpr size_t kMaxMatmulTargets = 4;

  struct GroupedTarget {
    std::span<const Weight* const> weights;  ///< of each group, [N, K]
    View out;                                ///< f32 [R, N]
  };
  /// matmul with another weight for each group of rows: rows [ends[g - 1], ends[g]) of x belong to
  /// group g. Reads the weights of groups that have rows, and no others. ends: of G groups, rising,
  /// the last one is R; x activation dtype [R, K]. A row's sums are in the order of matmul.
  virtual void grouped_matmul(Stream& stream, Arena& arena, View x, std::span<const int32_t> ends,
                              std::initializer_list<GroupedTarget> targets) const = 0;

  /// The experts of each row, best first, and their weights. Scores in fp32; the choice is by
  /// falling score + bias, ties to the lower index; the bias (null: none) is not in the weight.
  /// logits f32 [M, E]; experts i32 [M, top_k]; weights f32 [M, top_k].
  virtual void route(Stream& stream, View logits, const Weight* bias, const Routing& routing,
                     View experts, View weights) const = 0;

  /// out[m] = sum over slots of weights[m][slot] * y[m * top_k + slot], from 0 in slot order in
  /// fp32, product and sum each rounded. y activation dtype [M * top_k, H]; out f32 [M, H].
  virtual void combine_slots(Stream& stream, View y, View weights, View out) const = 0;

  /// out = x rounded to the activation dtype. x f32 [M, H].
  virtual void to_activation(Stream& stream, View x, View out) const = 0;

  /// x += bias in every row. x f32 [M, N]; bias a vector of N.
  virtual void add_bias(Stream& stream, View x, const Weight& bias) const = 0;

  /// x *= sigmoid(gate) in every row. x f32 [M, H]; gate f32 [M, 1].
  virtual void gate_rows(Stream& stream, View x, View gate) const = 0;

  /// x += y. Both f32, same shape.
  virtual void add(Stream& stream, View x, View y) const = 0;

  /// x += y, then out = the RMS norm of x in the activation dtype. x, y f32 [M, H].
  virtual void add_norm(Stream& stream, View x, View y, const Weight& gain, float eps,
                        View out) const;

  /// Optional RMS norm of each head (gain of head_dim; null: none), then rotary embedding, rotating
  /// pairs (i, i + head_dim/2), in place. x f32 [M, heads, head_dim]; positions i32 [M].
  virtual void norm_rope(Stream& stream, View x, const Weight* gain, float eps, View positions,
                         const RopeTable& rope) const = 0;

  /// Writes each row's key and value, rounded to kv_dtype, at its position. keys, values f32
  /// [M, kv_heads, head_dim].
  virtual void kv_write(Stream& stream, View keys, View values, const RowLayout& rows,
                        const KvLayer& cache) const = 0;

  struct HeadGains {
    const Weight* queries = nullptr;  ///< null: no norm
    const Weight* keys = nullptr;
  };
  /// norm_rope of queries and keys, then kv_write of keys and values.
  virtual void rope_write(Stream& stream, View queries, View keys, View values,
                          const HeadGains& gains, float eps, const RopeTable& rope,
                          const RowLayout& rows, const KvLayer& cache) const;

  struct AttentionParams {
    float scale = 1.0F;  ///< of the scores
    int64_t window = 0;  ///< 0: all earlier positions; w: the last w, itself included
  };
  /// Causal attention of every row over its sequence's cache, its own position included; query head
  /// h reads key head h / (heads / kv_heads). Pieces of 128 absolute positions, merged left to
  /// right. queries f32 [M, heads, head_dim]; out activation dtype [M, heads * head_dim].
  virtual void attention(Stream& stream, Arena& arena, View queries, const RowLayout& rows,
                         const KvLayer& cache, const AttentionParams& params, View out) const = 0;

  /// out = act(gate) * up. gate, up f32 [M, F]; out activation dtype [M, F].
  virtual void gated_activation(Stream& stream, Activation activation, View gate, View up,
                                View out) const = 0;

  /// out = act(x gate^T) * (x up^T). x activation dtype [M, K]; gate, up [F, K], which are cut
  /// alike; out activation dtype [M, F].
  virtual void gated_matmul(Stream& stream, Arena& arena, View x, const Weight& gate,
                            const Weight& up, Activation activation, View out) const;

  /// out[i] = x[indices[i]]. x [M, H] of any dtype; indices i32 [R]; out [R, H] of the same.
  virtual void gather_rows(Stream& stream, View x, View indices, View out) const = 0;

  /// out[m][begins[p] + j] = parts[p][m][j], as far as out's columns go: the rows of all shards
  /// beside each other. Where parts overlap they are the same. parts f32 [P, M, W]; out f32 [M, N].
  virtual void join_columns(Stream& stream, View parts, std::span<const int64_t> begins,
                            View out) const = 0;
  /// out[m][j] = x[m][begin + j], or 0 past x's columns. x f32 [M, N]; out f32 [M, W].
  virtual void take_columns(Stream& stream, View x, int64_t begin, View out) const = 0;

  /// Chooses a token from each row of logits l, as its Draw (backend/draw.h) says: with temperature
  /// 0 the largest, the lowest among equals. Else tokens have the softmax of l / temperature, of
  /// which min_p keeps those with at least that share of the largest, then top_k the k largest,
  /// then top_p the smallest set whose probability among those left reaches it (ties by lower
  /// index); and the token is the first one, by index, up to which those kept have more than
  /// random / 2^64 of their probability. A NaN counts as minus infinity; plus infinities share all
  /// probability, and in a row of minus infinities all are alike. The same tokens on every backend.
  /// logits f32 [M, N], N > 0; draws i32 [M, kDrawWords]; out i32 [M].
  virtual void draw_rows(Stream& stream, View logits, View draws, View out) const = 0;

  /// out[i] = XXH3-64 of row i's bytes. x f32 [M, H]; `out` is host memory of M entries, filled
  /// when the stream is synchronised.
  virtual void hash_rows(Stream& stream, View x, std::span<uint64_t> out) const = 0;
};

/// Instruction sets that the `cpu` backend has kernels for, weakest first.
enum class Isa { kAvx2, kAvx512Bf16, kAmx };
std::string_view name_of(Isa isa);

/// The strongest this processor and kernel allow (asks once for the AMX state, before threads
/// start).
base::Result<Isa> detect_isa();
/// Parses "avx2", "avx512_bf16", "amx"; an error lists what this machine can run.
base::Result<Isa> parse_isa(std::string_view name);

/// "reference", "cpu" or "cuda". `isa` forces an instruction set of `cpu`; an error if it is not
/// there. `gpu`: which one of "cuda", which the calling thread uses from then on.
base::Result<std::unique_ptr<Ops>> make_ops(std::string_view backend, std::string_view isa,
                                            int gpu = 0);
/// `backend`, or for "auto" "cuda" where make_ops makes it, else "cpu"; "cpu" if there is an `isa`.
std::string chosen_backend(std::string_view backend, std::string_view isa);

}  // namespace fourfold::backend

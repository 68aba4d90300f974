#include "backend/cuda/cuda_ops.h"

#include <fmt/format.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <optional>
#include <stdexcept>
#include <utility>
#include <vector>

#include "backend/cuda/check.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/nvml.h"
#include "backend/cuda/stream.h"
#include "backend/cuda/tensor_map.h"
#include "backend/cuda/weights.h"
#include "backend/host_ops.h"
#include "backend/router.h"
#include "base/clock.h"
#include "base/sizes.h"

namespace fourfold::backend::cuda {
namespace {

/// Memory for the pieces of attention that are computed apart. Where it is too small, blocks go
/// over the pieces one by one: the same bits, fewer blocks at work.
constexpr int64_t kMostPartialBytes = int64_t{256} << 20;

CacheArgs cache_args(const RowLayout& rows, const KvLayer& cache) {
  return {.keys = static_cast<uint16_t*>(cache.keys),
          .values = static_cast<uint16_t*>(cache.values),
          .block_tables = rows.block_tables.i32(),
          .table_width = static_cast<int32_t>(rows.block_tables.shape[1]),
          .blocks = static_cast<int32_t>(cache.blocks),
          .kv_heads = static_cast<int32_t>(cache.kv_heads),
          .block_size = static_cast<int32_t>(cache.block_size),
          .head_dim = static_cast<int32_t>(cache.head_dim)};
}

}  // namespace

base::Result<Buffer> CudaOps::allocate(int64_t bytes) const {
  if (bytes == 0) return Buffer();
  void* data = nullptr;
  const cudaError_t status = cudaMalloc(&data, static_cast<size_t>(bytes));
  if (status != cudaSuccess) {
    cudaGetLastError();  // an allocation that failed leaves the GPU usable
    size_t free = 0;
    size_t total = 0;
    cudaMemGetInfo(&free, &total);
    return base::fail("the GPU has no memory for {} bytes ({}): {} of {} bytes are free", bytes,
                      cudaGetErrorString(status), free, total);
  }
  return Buffer(data, bytes, [](void* p, int64_t) { cudaFree(p); });
}

base::Result<Buffer> CudaOps::allocate_host(int64_t bytes) const {
  if (bytes == 0) return Buffer();
  void* data = nullptr;
  const cudaError_t status = cudaMallocHost(&data, static_cast<size_t>(bytes));
  if (status != cudaSuccess) {
    cudaGetLastError();
    return base::fail("no pinned memory of the host for {} bytes: {}", bytes,
                      cudaGetErrorString(status));
  }
  return Buffer(data, bytes, [](void* p, int64_t) { cudaFreeHost(p); });
}

std::unique_ptr<ActivityMeter> CudaOps::activity_meter(int gpus) const {
  std::vector<std::string> addresses;
  for (int gpu = 0; gpu < gpus; ++gpu) {
    std::array<char, 32> address{};
    if (cudaDeviceGetPCIBusId(address.data(), static_cast<int>(address.size()), gpu) !=
        cudaSuccess) {
      return nullptr;  // it has failed, and others say so
    }
    addresses.emplace_back(address.data());
  }
  return nvml_meter(addresses);
}

std::optional<int64_t> CudaOps::free_bytes() const {
  size_t free = 0;
  size_t total = 0;
  check(cudaMemGetInfo(&free, &total), "asking for its free memory");
  return static_cast<int64_t>(free);
}

void CudaOps::copy_in(Stream& stream, View from, View to) const {
  check_copy(from, to);
  if (to.bytes() == 0) return;
  check(cudaMemcpyAsync(to.data, from.data, static_cast<size_t>(to.bytes()), cudaMemcpyHostToDevice,
                        stream_of(stream).begin()),
        "copying to it");
}

void CudaOps::copy_out(Stream& stream, View from, View to) const {
  check_copy(from, to);
  if (to.bytes() == 0) return;
  check(cudaMemcpyAsync(to.data, from.data, static_cast<size_t>(to.bytes()), cudaMemcpyDeviceToHost,
                        stream_of(stream).begin()),
        "copying from it");
}

std::unique_ptr<Stream> CudaOps::make_stream(int /*threads*/, std::span<const int> /*cpus*/) const {
  return std::make_unique<CudaStream>();
}

int64_t CudaOps::scratch_bytes(int /*threads*/, const Limits& limits) const {
  // Of the pieces of attention; how many there are depends on the lengths, which are not known.
  constexpr int64_t kLongest = int64_t{1} << 20;
  const int64_t piece = (limits.head_dim + 2) * static_cast<int64_t>(sizeof(float));
  constexpr int64_t kF32 = sizeof(float);
  // The joint result of queries, keys and values.
  const int64_t joint =
      std::min(limits.rows, kMostJointRows) * 3 * limits.heads * limits.head_dim * kF32;
  return std::max(
      {std::min(kMostPartialBytes, limits.rows * limits.heads * (kLongest / kPiece) * piece),
       decode_partial_floats(static_cast<int>(limits.head_dim)) * kF32, joint});
}

int64_t CudaOps::matrix_bytes(const MatrixShape& shape) const { return device_matrix_bytes(shape); }

base::Result<Peaks> CudaOps::measure_peaks(Stream& stream, double seconds, int sharers) const {
  // Larger than any cache, whatever the sharers take at the same time.
  const int64_t bytes = std::max<int64_t>(int64_t{64} << 20, (int64_t{1} << 30) / sharers);
  FF_ASSIGN(const Buffer data, allocate(bytes));
  FF_ASSIGN(const Buffer sink, allocate(64));
  CudaStream& cuda = stream_of(stream);
  cuda.synchronize();
  check(fill_without_order(cuda.begin(), data.data(), bytes), "measuring");
  cuda.synchronize();
  // Work per second: as often as takes half the time.
  const auto rate = [&](double work_of_one, const auto& enqueue) {
    const base::SteadyClock clock;
    enqueue();
    cuda.synchronize();
    int64_t count = 1;
    while (true) {
      const int64_t begin = clock.now_ns();
      for (int64_t i = 0; i < count; ++i) enqueue();
      cuda.synchronize();
      const double took = base::seconds_between(begin, clock.now_ns());
      if (took >= seconds / 4) return work_of_one * static_cast<double>(count) / took;
      count *= 2;
    }
  };
  const OpCounters before = stream.counters;
  Peaks peaks;
  peaks.read_bytes_s = rate(static_cast<double>(bytes), [&] {
    check(read_memory(cuda.begin(), data.data(), bytes, static_cast<uint32_t*>(sink.data())),
          "measuring the memory");
  });
  // The matmul that large steps run: cuBLASLt where it is, else our own instruction.
  constexpr int64_t kSide = 4096;
  const int64_t side_bytes = kSide * kSide * 2;
  if (cuda.cublas != nullptr && bytes >= 4 * side_bytes) {
    auto* matrices = static_cast<std::byte*>(data.data());
    peaks.matmul_flop_s = rate(2.0 * kSide * kSide * kSide, [&] {
      cuda.cublas->run(cuda.begin(), matrices, matrices + side_bytes, matrices + 2 * side_bytes,
                       CUDA_R_32F, kSide, kSide, kSide);
    });
  } else {
    double flops = 0;
    peaks.matmul_flop_s = rate(1.0, [&] {
      check(compute_in_registers(cuda.begin(), 4096, static_cast<float*>(sink.data()), &flops),
            "measuring the arithmetic");
    });
    peaks.matmul_flop_s *= flops;
  }
  stream.counters = before;
  return peaks;
}

void CudaOps::embed(Stream& stream, const Weight& table, View tokens, int64_t first_token,
                    float scale, View out) const {
  const DeviceMatrix& matrix = device_matrix(table);
  CHECK(out.shape == tensor::Shape({tokens.rows(), matrix.columns()}), "embed: out is [{}, {}]",
        out.rows(), out.shape[1]);
  check(cuda::embed(stream_of(stream).begin(), matrix.data(), matrix.slices, matrix.rows(),
                    tokens.i32(), first_token, scale, out.rows(), out.shape[1], out.f32()),
        "embedding");
}

void CudaOps::resolve_tokens(Stream& stream, View tokens, View ring) const {
  check(cuda::resolve_tokens(stream_of(stream).begin(), tokens.i32(), ring.i32(), tokens.rows()),
        "resolving tokens");
}

void CudaOps::rms_norm(Stream& stream, View x, const Weight& gain, float eps, View out) const {
  check_rms_norm(x, out, activation_dtype());
  const bool wide = out.dtype == DType::kF32;
  check(cuda::rms_norm(stream_of(stream).begin(), x.f32(), device_vector(gain, x.shape[1]), eps,
                       x.rows(), x.shape[1], wide ? out.f32() : nullptr,
                       wide ? nullptr : bits_of(out)),
        "norming rows");
}

void CudaOps::route(Stream& stream, View logits, const Weight* bias, const Routing& routing,
                    View experts, View weights) const {
  // On the host: where experts are exchanged it has to know the choices anyway.
  const int64_t count = logits.shape[1];
  CHECK(experts.shape == tensor::Shape({logits.rows(), routing.top_k}) &&
            weights.shape == experts.shape,
        "route: {} rows of {} choices for {} rows", experts.rows(), experts.shape[1],
        logits.rows());
  std::vector<float> values(static_cast<size_t>(logits.shape.elements()));
  std::vector<float> biases(bias == nullptr ? 0 : static_cast<size_t>(count));
  std::vector<int32_t> chosen(static_cast<size_t>(experts.shape.elements()));
  std::vector<float> chosen_weights(chosen.size());
  copy_out(stream, logits, {values.data(), DType::kF32, logits.shape});
  if (bias != nullptr) {
    const View from{const_cast<float*>(device_vector(*bias, count)), DType::kF32, {count}};
    copy_out(stream, from, {biases.data(), DType::kF32, {count}});
  }
  stream.synchronize();
  const Router router(routing, count, bias == nullptr ? nullptr : biases.data());
  Router::Scratch scratch(count);
  for (int64_t m = 0; m < logits.rows(); ++m) {
    router.choose(values.data() + m * count, scratch, chosen.data() + m * routing.top_k,
                  chosen_weights.data() + m * routing.top_k);
  }
  copy_in(stream, {chosen.data(), DType::kI32, experts.shape}, experts);
  copy_in(stream, {chosen_weights.data(), DType::kF32, weights.shape}, weights);
  stream.synchronize();
}

void CudaOps::combine_slots(Stream& stream, View y, View weights, View out) const {
  CHECK(weights.rows() == out.rows() &&
            y.shape == tensor::Shape({out.rows() * weights.shape[1], out.shape[1]}),
        "combine: {} rows of {} into {} rows", y.rows(), y.shape[1], out.rows());
  check(cuda::combine_slots(stream_of(stream).begin(), bits_of(y), weights.f32(), out.rows(),
                            weights.shape[1], out.shape[1], out.f32()),
        "combining experts");
}

void CudaOps::to_activation(Stream& stream, View x, View out) const {
  check_to_activation(x, out, activation_dtype());
  check(to_bf16(stream_of(stream).begin(), x.f32(), x.shape.elements(), bits_of(out)),
        "rounding rows");
}

void CudaOps::add_bias(Stream& stream, View x, const Weight& bias) const {
  check(cuda::add_bias(stream_of(stream).begin(), x.f32(), device_vector(bias, x.shape[1]),
                       x.rows(), x.shape[1]),
        "adding a bias");
}

void CudaOps::gate_rows(Stream& stream, View x, View gate) const {
  CHECK(gate.shape == tensor::Shape({x.rows(), 1}), "gate_rows: {} gates for {} rows",
        gate.shape.elements(), x.rows());
  check(cuda::gate_rows(stream_of(stream).begin(), x.f32(), gate.f32(), x.rows(), x.shape[1]),
        "gating rows");
}

void CudaOps::add(Stream& stream, View x, View y) const {
  CHECK(x.shape == y.shape, "add: {} and {} elements", x.shape.elements(), y.shape.elements());
  check(cuda::add(stream_of(stream).begin(), x.f32(), y.f32(), x.shape.elements()), "adding rows");
}

void CudaOps::add_norm(Stream& stream, View x, View y, const Weight& gain, float eps,
                       View out) const {
  check_rms_norm(x, out, activation_dtype());
  CHECK(x.shape == y.shape && out.dtype == DType::kBF16, "add_norm: {} and {} elements -> {}",
        x.shape.elements(), y.shape.elements(), name_of(out.dtype));
  check(cuda::add_norm(stream_of(stream).begin(), x.f32(), y.f32(), device_vector(gain, x.shape[1]),
                       eps, x.rows(), x.shape[1], bits_of(out)),
        "adding and norming rows");
}

void CudaOps::rope_write(Stream& stream, View queries, View keys, View values,
                         const HeadGains& gains, float eps, const RopeTable& rope,
                         const RowLayout& rows, const KvLayer& cache) const {
  CHECK(cache.head_dim <= kMostHeadDim, "rotating heads of {}, at most {}", cache.head_dim,
        kMostHeadDim);
  check_norm_rope_shapes(queries, rows.positions, rope);
  check_norm_rope_shapes(keys, rows.positions, rope);
  check_kv_write(keys, values, rows, cache);
  const auto gain_of = [&](const Weight* gain) {
    return gain == nullptr ? nullptr : device_vector(*gain, cache.head_dim);
  };
  CudaStream& cuda = stream_of(stream);
  const float* joint = cuda.take_over_split({queries, keys, values});
  check(cuda::rope_write(cuda.begin(), {.joint = joint,
                                        .queries = queries.f32(),
                                        .keys = keys.f32(),
                                        .values = values.f32(),
                                        .query_gain = gain_of(gains.queries),
                                        .key_gain = gain_of(gains.keys),
                                        .eps = eps,
                                        .positions = rows.positions.i32(),
                                        .sequences = rows.sequences.i32(),
                                        .cos = rope.cos.f32(),
                                        .sin = rope.sin.f32(),
                                        .rows = queries.rows(),
                                        .heads = queries.shape[1],
                                        .cache = cache_args(rows, cache)}),
        "rotating heads and writing the cache");
}

void CudaOps::norm_rope(Stream& stream, View x, const Weight* gain, float eps, View positions,
                        const RopeTable& rope) const {
  CHECK(x.shape[2] <= kMostHeadDim, "rotating heads of {}, at most {}", x.shape[2], kMostHeadDim);
  check_norm_rope_shapes(x, positions, rope);
  check(cuda::norm_rope(stream_of(stream).begin(), x.f32(),
                        gain == nullptr ? nullptr : device_vector(*gain, x.shape[2]), eps,
                        positions.i32(), rope.cos.f32(), rope.sin.f32(), x.rows(), x.shape[1],
                        x.shape[2]),
        "rotating heads");
}

void CudaOps::kv_write(Stream& stream, View keys, View values, const RowLayout& rows,
                       const KvLayer& cache) const {
  check_kv_write(keys, values, rows, cache);
  check(cuda::kv_write(stream_of(stream).begin(), keys.f32(), values.f32(), rows.positions.i32(),
                       rows.sequences.i32(), keys.rows(), cache_args(rows, cache)),
        "writing the cache");
}

void CudaOps::attention(Stream& stream, Arena& arena, View queries, const RowLayout& rows,
                        const KvLayer& cache, const AttentionParams& params, View out) const {
  check_attention(stream, queries, rows, cache, params, out, activation_dtype(), kv_dtype());
  CHECK(cache.head_dim <= 256, "attention: heads of {}, at most 256", cache.head_dim);
  static_assert(kTileRows == kAttentionTileRows);
  const int64_t heads = queries.shape[1];
  const int64_t mark = arena.mark();
  stream_of(stream).note_attention(cache, heads, params.window);
  AttentionArgs args{.queries = queries.f32(),
                     .positions = rows.positions.i32(),
                     .sequences = rows.sequences.i32(),
                     .tiles = rows.tiles.i32(),
                     .single_tiles = static_cast<int32_t>(rows.single_tiles),
                     .all_tiles = static_cast<int32_t>(rows.tiles.rows()),
                     .rows = static_cast<int32_t>(queries.rows()),
                     .heads = static_cast<int32_t>(heads),
                     .cache = cache_args(rows, cache),
                     .scale = params.scale,
                     .window = static_cast<int32_t>(params.window),
                     .out = bits_of(out)};
  const cudaStream_t to = stream_of(stream).begin();
  const auto take_partials = [&](int64_t floats) {
    const int64_t room = std::min(arena.capacity_bytes() - mark - int64_t{64}, kMostPartialBytes);
    if (floats * static_cast<int64_t>(sizeof(float)) > room) return false;
    args.partials = arena.allocate(DType::kF32, {floats}).f32();
    args.arrivals = stream_of(stream).arrivals();
    return true;
  };
  const auto map_of = [&](const uint16_t* data, int64_t box_rows) {
    return tensor_map(data, cache.blocks * cache.kv_heads * cache.block_size, cache.head_dim,
                      box_rows);
  };
  const bool fast = stream.numerics == base::Numerics::kFast;
  if (fast && args.all_tiles > args.single_tiles && takes_prompts(args)) {
    check(prompt_attention(to, args, map_of(args.cache.keys, cache.block_size),
                           map_of(args.cache.values, cache.block_size)),
          "computing attention of prompts");
  } else {
    check(attention_of_tiles(to, args), "computing attention of prompts");
  }
  if (fast && args.single_tiles > 0 && takes_decodes(args) &&
      take_partials(decode_partial_floats(args.cache.head_dim))) {
    const int64_t box_rows = decode_box_rows(args.cache.block_size);
    check(decode_attention(to, args, map_of(args.cache.keys, box_rows),
                           map_of(args.cache.values, box_rows)),
          "computing attention");
  } else {
    args.pieces = static_cast<int32_t>(
        base::ceil_div(rows.block_tables.shape[1] * cache.block_size, int64_t{kPiece}));
    if (args.pieces > 1 && may_split(args)) take_partials(partial_floats(args));
    check(attention_of_rows(to, args), "computing attention");
  }
  arena.release_to(mark);
}

void CudaOps::gated_activation(Stream& stream, Activation activation, View gate, View up,
                               View out) const {
  check_gated_activation(gate, up, out, activation_dtype());
  check(cuda::gated_activation(stream_of(stream).begin(), activation == Activation::kGeluTanh,
                               gate.f32(), up.f32(), gate.shape.elements(), bits_of(out)),
        "computing an activation");
}

void CudaOps::gather_rows(Stream& stream, View x, View indices, View out) const {
  CHECK(out.shape == tensor::Shape({indices.rows(), x.shape[1]}) && out.dtype == x.dtype,
        "gather: {} rows of {} {}", out.rows(), out.shape[1], name_of(out.dtype));
  check(cuda::gather_rows(stream_of(stream).begin(), x.data, indices.i32(), out.rows(),
                          x.shape[1] * size_of(x.dtype), out.data),
        "gathering rows");
}

void CudaOps::join_columns(Stream& stream, View parts, std::span<const int64_t> begins,
                           View out) const {
  check_join_columns(parts, begins, out);
  const int64_t width = parts.shape[2];
  for (int64_t p = 0; p < parts.shape[0]; ++p) {
    const int64_t begin = std::min(begins[static_cast<size_t>(p)], out.shape[1]);
    check(copy_columns(stream_of(stream).begin(), parts.f32() + p * out.rows() * width, width, 0,
                       out.f32(), out.shape[1], begin, out.rows(),
                       std::min(width, out.shape[1] - begin)),
          "joining columns");
  }
}

void CudaOps::take_columns(Stream& stream, View x, int64_t begin, View out) const {
  check_take_columns(x, begin, out);
  const cudaStream_t to = stream_of(stream).begin();
  const int64_t width = out.shape[1];
  const int64_t count = std::clamp<int64_t>(x.shape[1] - begin, 0, width);
  if (count < width && out.bytes() > 0) {
    check(cudaMemsetAsync(out.data, 0, static_cast<size_t>(out.bytes()), to), "taking columns");
  }
  check(copy_columns(to, x.f32(), x.shape[1], begin, out.f32(), width, 0, out.rows(), count),
        "taking columns");
}

void CudaOps::draw_rows(Stream& stream, View logits, View draws, View out) const {
  check_draw_rows(logits, draws, out);
  CHECK(logits.shape[1] <= kMostDrawn, "draw_rows: {} logits, at most {}", logits.shape[1],
        kMostDrawn);
  check(cuda::draw_rows(stream_of(stream).begin(), logits.f32(), draws.i32(), logits.rows(),
                        logits.shape[1], out.i32()),
        "drawing tokens");
}

void CudaOps::hash_rows(Stream& stream, View x, std::span<uint64_t> out) const {
  CHECK(std::ssize(out) == x.rows(), "hash: {} places for {} rows", out.size(), x.rows());
  const auto width = static_cast<size_t>(x.shape[1]);
  std::vector<float> values(static_cast<size_t>(x.shape.elements()));
  copy_out(stream, x, {values.data(), DType::kF32, x.shape});
  stream.synchronize();
  for (size_t row = 0; row < out.size(); ++row) {
    out[row] = XXH3_64bits(values.data() + row * width, width * sizeof(float));
  }
}

}  // namespace fourfold::backend::cuda

#include "backend/cpu/cpu_ops.h"

#include <algorithm>
#include <array>
#include <utility>

#include "backend/cpu/attention.h"
#include "backend/cpu/matmul.h"
#include "backend/cpu/packed_matrix.h"
#include "base/sizes.h"

namespace fourfold::backend {
namespace {

const MatmulKernel& matmul_kernel(Isa isa) {
  switch (isa) {
    case Isa::kAvx2:
      return kMatmulAvx2;
    case Isa::kAvx512Bf16:
      return kMatmulAvx512;
    case Isa::kAmx:
      return kMatmulAmx;
  }
  CHECK(false, "instruction set {}", static_cast<int>(isa));
}

const PackedMatrix& matrix_of(const Weight& weight) {
  const auto* matrix = dynamic_cast<const PackedMatrix*>(&weight);
  CHECK(matrix != nullptr, "a weight that load_matrix of `cpu` did not make");
  return *matrix;
}

uint16_t* bits_of(View view) { return &view.bf16()->bits; }

}  // namespace

CpuOps::CpuOps(Isa isa)
    : name_("cpu/" + std::string(name_of(isa))),
      rows_(isa == Isa::kAvx2 ? kRowKernelsAvx2 : kRowKernelsAvx512),
      matmul_(matmul_kernel(isa)) {}

int64_t CpuOps::scratch_bytes(int threads, const Limits& limits) const {
  const int64_t attention =
      attention_scratch_bytes(limits.rows, limits.heads, limits.head_dim, threads);
  return std::max(attention,
                  matmul_scratch_bytes(limits.rows, limits.columns, limits.groups, threads));
}

int64_t CpuOps::matrix_bytes(const MatrixShape& shape) const {
  return PackedMatrix::bytes_of(shape);
}

base::Result<WeightPtr> CpuOps::load_matrix(Stream& stream, const MatrixShape& shape,
                                            const RowReader& reader) const {
  return PackedMatrix::load(rows_, pool_of(stream), shape, reader);
}

void CpuOps::embed(Stream& stream, const Weight& table, View tokens, int64_t first_token,
                   float scale, View out) const {
  OpTimer timer(stream);
  const PackedMatrix& matrix = matrix_of(table);
  const int64_t width = matrix.columns();
  CHECK(out.shape == tensor::Shape({tokens.rows(), width}), "embed: out is [{}, {}]", out.rows(),
        out.shape[1]);
  pool_of(stream).parallel_for(out.rows(), row_grain(width), [&](int64_t begin, int64_t end, int) {
    for (int64_t m = begin; m < end; ++m) {
      const int64_t n = tokens.i32()[m] - first_token;
      const std::span<float> to(out.f32() + m * width, static_cast<size_t>(width));
      if (n < 0 || n >= matrix.rows()) {
        std::fill(to.begin(), to.end(), 0.0F);
        continue;
      }
      matrix.read_row(n, to);
      for (float& value : to) value = value * scale + 0.0F;
    }
  });
}

void CpuOps::rms_norm(Stream& stream, View x, const Weight& gain, float eps, View out) const {
  OpTimer timer(stream);
  check_rms_norm(x, out, activation_dtype());
  const int64_t width = x.shape[1];
  const float* gains = vector_of(gain, width);
  pool_of(stream).parallel_for(x.rows(), row_grain(width), [&](int64_t begin, int64_t end, int) {
    for (int64_t m = begin; m < end; ++m) {
      const float* from = x.f32() + m * width;
      if (out.dtype == DType::kF32) {
        rows_.rms_norm_f32(from, gains, eps, width, out.f32() + m * width);
      } else {
        rows_.rms_norm_bf16(from, gains, eps, width, bits_of(out) + m * width);
      }
    }
  });
}

void CpuOps::matmul(Stream& stream, Arena& arena, View x,
                    std::initializer_list<MatmulTarget> targets) const {
  OpTimer timer(stream);
  CHECK(targets.size() <= kMaxMatmulTargets, "a matmul of {} targets", targets.size());
  std::array<PackedProduct, kMaxMatmulTargets> products;
  size_t count = 0;
  for (const MatmulTarget& target : targets) {
    check_matmul(stream, x, activation_dtype(), target.weight, target.out);
    products[count++] = {&matrix_of(target.weight), target.out, {0, x.rows()}};
  }
  multiply(matmul_, pool_of(stream), arena, stream.numerics, x, std::span(products).first(count));
}

void CpuOps::grouped_matmul(Stream& stream, Arena& arena, View x, std::span<const int32_t> ends,
                            std::initializer_list<GroupedTarget> targets) const {
  OpTimer timer(stream);
  const std::vector<RowRange> groups =
      check_grouped_matmul(stream, x, activation_dtype(), ends, targets);
  std::vector<PackedProduct> products;
  for (size_t g = 0; g < groups.size(); ++g) {
    if (groups[g].size() == 0) continue;
    for (const GroupedTarget& target : targets) {
      products.push_back({&matrix_of(*target.weights[g]), target.out, groups[g]});
    }
  }
  if (!products.empty()) multiply(matmul_, pool_of(stream), arena, stream.numerics, x, products);
}

void CpuOps::to_activation(Stream& stream, View x, View out) const {
  OpTimer timer(stream);
  check_to_activation(x, out, activation_dtype());
  pool_of(stream).parallel_for(x.shape.elements(), row_grain(1),
                               [&](int64_t begin, int64_t end, int) {
                                 rows_.to_bf16(x.f32() + begin, end - begin, bits_of(out) + begin);
                               });
}

void CpuOps::norm_rope(Stream& stream, View x, const Weight* gain, float eps, View positions,
                       const RopeTable& rope) const {
  OpTimer timer(stream);
  check_norm_rope(x, positions, rope);
  const int64_t heads = x.shape[1];
  const int64_t head_dim = x.shape[2];
  const float* gains = gain == nullptr ? nullptr : vector_of(*gain, head_dim);
  pool_of(stream).parallel_for(
      x.rows() * heads, row_grain(head_dim), [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i) {
          float* head = x.f32() + i * head_dim;
          if (gains != nullptr) rows_.rms_norm_f32(head, gains, eps, head_dim, head);
          const int64_t at = positions.i32()[i / heads] * (head_dim / 2);
          rows_.rope(head, rope.cos.f32() + at, rope.sin.f32() + at, head_dim);
        }
      });
}

void CpuOps::kv_write(Stream& stream, View keys, View values, const RowLayout& rows,
                      const KvLayer& cache) const {
  OpTimer timer(stream);
  check_kv_write(keys, values, rows, cache);
  const int64_t width = cache.kv_heads * cache.head_dim;
  auto* to_keys = static_cast<uint16_t*>(cache.keys);
  auto* to_values = static_cast<uint16_t*>(cache.values);
  pool_of(stream).parallel_for(keys.rows(), row_grain(width), [&](int64_t begin, int64_t end, int) {
    for (int64_t m = begin; m < end; ++m) {
      const int64_t position = rows.positions.i32()[m];
      const int32_t* table = block_table(rows, cache, rows.sequences.i32()[m], position, position);
      for (int64_t head = 0; head < cache.kv_heads; ++head) {
        const int64_t from = m * width + head * cache.head_dim;
        const int64_t to = kv_index(cache, table, position, head);
        rows_.to_bf16(keys.f32() + from, cache.head_dim, to_keys + to);
        rows_.to_bf16(values.f32() + from, cache.head_dim, to_values + to);
      }
    }
  });
}

void CpuOps::attention(Stream& stream, Arena& arena, View queries, const RowLayout& rows,
                       const KvLayer& cache, const AttentionParams& params, View out) const {
  OpTimer timer(stream);
  check_attention(stream, queries, rows, cache, params, out, activation_dtype(), kv_dtype());
  attend(rows_, matmul_, pool_of(stream), arena, stream.numerics, queries, rows, cache, params,
         out);
}

void CpuOps::gated_activation(Stream& stream, Activation activation, View gate, View up,
                              View out) const {
  OpTimer timer(stream);
  check_gated_activation(gate, up, out, activation_dtype());
  const auto kernel = activation == Activation::kSilu ? rows_.gated_silu : rows_.gated_gelu_tanh;
  pool_of(stream).parallel_for(
      gate.shape.elements(), row_grain(1), [&](int64_t begin, int64_t end, int) {
        kernel(gate.f32() + begin, up.f32() + begin, end - begin, bits_of(out) + begin);
      });
}

double CpuOps::compute_in_registers(int64_t steps) const {
  return matmul_.compute_in_registers(steps);
}

}  // namespace fourfold::backend

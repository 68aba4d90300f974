#pragma once

#include <string>

#include "backend/cpu/kernels.h"
#include "backend/host_ops.h"

namespace fourfold::backend {

/// bf16 weights, matmul inputs and KV cache, fp32 sums, with the kernels of one instruction set.
class CpuOps final : public HostOps {
 public:
  explicit CpuOps(Isa isa);

  std::string_view name() const override { return name_; }
  DType activation_dtype() const override { return DType::kBF16; }
  DType kv_dtype() const override { return DType::kBF16; }
  DType weight_dtype() const override { return DType::kBF16; }

  int64_t scratch_bytes(int threads, const Limits& limits) const override;
  int64_t matrix_bytes(const MatrixShape& shape) const override;
  base::Result<WeightPtr> load_matrix(Stream& stream, const MatrixShape& shape,
                                      const RowReader& reader) const override;

  void embed(Stream& stream, const Weight& table, View tokens, int64_t first_token, float scale,
             View out) const override;
  void rms_norm(Stream& stream, View x, const Weight& gain, float eps, View out) const override;
  void matmul(Stream& stream, Arena& arena, View x,
              std::initializer_list<MatmulTarget> targets) const override;
  void grouped_matmul(Stream& stream, Arena& arena, View x, std::span<const int32_t> ends,
                      std::initializer_list<GroupedTarget> targets) const override;
  void to_activation(Stream& stream, View x, View out) const override;
  void norm_rope(Stream& stream, View x, const Weight* gain, float eps, View positions,
                 const RopeTable& rope) const override;
  void kv_write(Stream& stream, View keys, View values, const RowLayout& rows,
                const KvLayer& cache) const override;
  void attention(Stream& stream, Arena& arena, View queries, const RowLayout& rows,
                 const KvLayer& cache, const AttentionParams& params, View out) const override;
  void gated_activation(Stream& stream, Activation activation, View gate, View up,
                        View out) const override;

 private:
  double compute_in_registers(int64_t steps) const override;

  std::string name_;
  const RowKernels& rows_;
  const MatmulKernel& matmul_;
};

}  // namespace fourfold::backend

#pragma once

#include <string>
#include <utility>
#include <vector>

#include "backend/ops.h"

namespace fourfold::backend::cuda {

/// One GPU. Weights are row-major bf16, so that one copy serves the kernels of few rows and
/// cuBLASLt. Errors of CUDA are thrown as std::runtime_error.
class CudaOps final : public Ops {
 public:
  /// `gpu`: the name of the one in use; `gpus`: how many there are.
  CudaOps(std::string gpu, int gpus) : gpu_(std::move(gpu)), gpus_(gpus) {}

  std::string_view name() const override { return "cuda"; }
  DType activation_dtype() const override { return DType::kBF16; }
  DType kv_dtype() const override { return DType::kBF16; }
  DType weight_dtype() const override { return DType::kBF16; }

  base::Result<Buffer> allocate(int64_t bytes) const override;
  bool in_host_memory() const override { return false; }
  base::Result<Buffer> allocate_host(int64_t bytes) const override;
  std::string gpu() const override { return gpu_; }
  int gpus() const override { return gpus_; }
  std::unique_ptr<ActivityMeter> activity_meter(int gpus) const override;
  std::optional<int64_t> free_bytes() const override;
  void copy_in(Stream& stream, View from, View to) const override;
  void copy_out(Stream& stream, View from, View to) const override;
  std::unique_ptr<Stream> make_stream(int threads, std::span<const int> cpus) const override;
  int64_t scratch_bytes(int threads, const Limits& limits) const override;
  int64_t matrix_bytes(const MatrixShape& shape) const override;
  base::Result<WeightPtr> load_matrix(Stream& stream, const MatrixShape& shape,
                                      const RowReader& reader) const override;
  base::Result<std::vector<WeightPtr>> load_matrices(
      Stream& stream, std::span<const MatrixSource> sources) const override;
  base::Result<WeightPtr> load_vector(std::span<const float> values) const override;
  base::Result<Peaks> measure_peaks(Stream& stream, double seconds, int sharers) const override;

  void embed(Stream& stream, const Weight& table, View tokens, int64_t first_token, float scale,
             View out) const override;
  void resolve_tokens(Stream& stream, View tokens, View ring) const override;
  void rms_norm(Stream& stream, View x, const Weight& gain, float eps, View out) const override;
  void matmul(Stream& stream, Arena& arena, View x,
              std::initializer_list<MatmulTarget> targets) const override;
  void grouped_matmul(Stream& stream, Arena& arena, View x, std::span<const int32_t> ends,
                      std::initializer_list<GroupedTarget> targets) const override;
  void route(Stream& stream, View logits, const Weight* bias, const Routing& routing, View experts,
             View weights) const override;
  void combine_slots(Stream& stream, View y, View weights, View out) const override;
  void to_activation(Stream& stream, View x, View out) const override;
  void add_bias(Stream& stream, View x, const Weight& bias) const override;
  void gate_rows(Stream& stream, View x, View gate) const override;
  void add(Stream& stream, View x, View y) const override;
  void add_norm(Stream& stream, View x, View y, const Weight& gain, float eps,
                View out) const override;
  void rope_write(Stream& stream, View queries, View keys, View values, const HeadGains& gains,
                  float eps, const RopeTable& rope, const RowLayout& rows,
                  const KvLayer& cache) const override;
  void gated_matmul(Stream& stream, Arena& arena, View x, const Weight& gate, const Weight& up,
                    Activation activation, View out) const override;
  void norm_rope(Stream& stream, View x, const Weight* gain, float eps, View positions,
                 const RopeTable& rope) const override;
  void kv_write(Stream& stream, View keys, View values, const RowLayout& rows,
                const KvLayer& cache) const override;
  void attention(Stream& stream, Arena& arena, View queries, const RowLayout& rows,
                 const KvLayer& cache, const AttentionParams& params, View out) const override;
  void gated_activation(Stream& stream, Activation activation, View gate, View up,
                        View out) const override;
  void gather_rows(Stream& stream, View x, View indices, View out) const override;
  void join_columns(Stream& stream, View parts, std::span<const int64_t> begins,
                    View out) const override;
  void take_columns(Stream& stream, View x, int64_t begin, View out) const override;
  void draw_rows(Stream& stream, View logits, View draws, View out) const override;
  void hash_rows(Stream& stream, View x, std::span<uint64_t> out) const override;

 private:
  std::string gpu_;
  int gpus_;
};

}  // namespace fourfold::backend::cuda

// Matmuls of `cuda`: which kernel takes which.

#include <algorithm>
#include <array>
#include <numeric>
#include <vector>

#include "backend/cuda/check.h"
#include "backend/cuda/cuda_ops.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/stream.h"
#include "backend/cuda/weights.h"
#include "backend/host_ops.h"

namespace fourfold::backend::cuda {
namespace {

/// Rows up to which fast numerics stream weights by our own kernel. A layer of Llama-3.1-8B on an
/// H200 takes 116 us of it at 8 rows, 133 at 16 and 166 at 32; cuBLASLt takes 116 at 16 and 118 at
/// 32.
constexpr int64_t kFewRows = 8;

MatmulArgs matmul_args(View x, const DeviceMatrix& first, base::Numerics numerics) {
  MatmulArgs args{.x = bits_of(x),
                  .rows = static_cast<int32_t>(x.rows()),
                  .k = static_cast<int32_t>(x.shape[1]),
                  .slices = first.slices};
  if (numerics == base::Numerics::kFast && first.plain()) {
    // Eight warps share a tile of the weight, however it is sliced.
    const int64_t chunks = x.shape[1] / kChunkColumns;
    args.slices.count = kMaxSlices;
    for (int64_t s = 0; s < kMaxSlices; ++s) {
      args.slices.w_begins.at(static_cast<size_t>(s)) =
          static_cast<int32_t>(s * chunks / kMaxSlices * kChunkColumns);
      args.slices.x_ends.at(static_cast<size_t>(s)) =
          static_cast<int32_t>((s + 1) * chunks / kMaxSlices * kChunkColumns);
    }
  }
  return args;
}

/// Whether cuBLASLt multiplies these rows.
bool takes_blas(const CudaStream& stream, View x, const DeviceMatrix& matrix) {
  return stream.numerics == base::Numerics::kFast && x.rows() > kFewRows && matrix.plain() &&
         matrix.columns() % 8 == 0 && stream.cublas != nullptr;
}

using Matrices = std::span<const DeviceMatrix* const>;

/// Whether these lie in memory as one matrix.
bool adjacent(Matrices matrices) {
  for (size_t i = 1; i < matrices.size(); ++i) {
    const DeviceMatrix& before = *matrices[i - 1];
    if (!before.plain() || !matrices[i]->plain() || before.columns() != matrices[i]->columns() ||
        before.data() + before.rows() * before.columns() != matrices[i]->data()) {
      return false;
    }
  }
  return true;
}

int64_t rows_of(Matrices matrices) {
  return std::accumulate(matrices.begin(), matrices.end(), int64_t{0},
                         [](int64_t sum, const DeviceMatrix* m) { return sum + m->rows(); });
}

/// cuBLASLt for all of them at once: a small matrix by itself leaves most of the GPU idle. False:
/// they do not lie together, or there is no room. The joint result is given back to the arena
/// before it is split; whatever is enqueued next comes after that.
bool multiply_jointly(CudaStream& stream, Arena& arena, View x, Matrices matrices,
                      std::span<const View> outs) {
  const int64_t n = rows_of(matrices);
  const int64_t mark = arena.mark();
  const int64_t room = arena.capacity_bytes() - mark - int64_t{64};
  const bool fours = std::all_of(matrices.begin(), matrices.end(),
                                 [](const DeviceMatrix* m) { return m->rows() % 4 == 0; });
  if (matrices.size() < 2 || x.rows() > kMostJointRows || !adjacent(matrices) || !fours ||
      x.rows() * n * static_cast<int64_t>(sizeof(float)) > room) {
    return false;
  }
  const View joint = arena.allocate(DType::kF32, {x.rows(), n});
  const bool ran = stream.cublas->run(stream.begin(), x.data, matrices.front()->data(), joint.data,
                                      CUDA_R_32F, x.rows(), n, x.shape[1]);
  if (ran) {
    SplitArgs args{.x = joint.f32(), .rows = static_cast<int32_t>(x.rows())};
    for (const View& out : outs) {
      args.target.at(static_cast<size_t>(args.targets++)) = {out.f32(),
                                                             static_cast<int32_t>(out.shape[1])};
    }
    stream.split_later(args);
  }
  arena.release_to(mark);
  return ran;
}

}  // namespace

void CudaOps::matmul(Stream& stream, Arena& arena, View x,
                     std::initializer_list<MatmulTarget> targets) const {
  CudaStream& cuda = stream_of(stream);
  CHECK(targets.size() <= kMaxMatmulTargets, "a matmul of {} targets", targets.size());
  static_assert(kMaxMatmulTargets <= kMaxTargets);
  if (targets.size() == 0) return;
  std::vector<const DeviceMatrix*> matrices;
  std::vector<View> outs;
  for (const MatmulTarget& target : targets) {
    check_matmul(stream, x, activation_dtype(), target.weight, target.out);
    matrices.push_back(&device_matrix(target.weight));
    outs.push_back(target.out);
  }
  if (x.rows() == 0) return;
  const DeviceMatrix& first = *matrices.front();
  if (takes_blas(cuda, x, first)) {
    if (multiply_jointly(cuda, arena, x, matrices, outs)) return;
    bool ran = true;
    for (size_t i = 0; i < outs.size(); ++i) {
      ran = ran && cuda.cublas->run(cuda.begin(), x.data, matrices[i]->data(), outs[i].data,
                                    CUDA_R_32F, x.rows(), matrices[i]->rows(), x.shape[1]);
    }
    if (ran) return;
  }
  MatmulArgs args = matmul_args(x, first, stream.numerics);
  for (size_t i = 0; i < outs.size(); ++i) {
    CHECK(matrices[i]->slices.x_ends == first.slices.x_ends, "matmul: targets of different slices");
    args.target.at(i) = {matrices[i]->data(), outs[i].f32(),
                         static_cast<int32_t>(matrices[i]->rows())};
  }
  args.targets = static_cast<int32_t>(outs.size());
  check(cuda::matmul(cuda.begin(), args), "multiplying matrices");
}

void CudaOps::grouped_matmul(Stream& stream, Arena& /*arena*/, View x,
                             std::span<const int32_t> ends,
                             std::initializer_list<GroupedTarget> targets) const {
  const std::vector<RowRange> groups =
      check_grouped_matmul(stream, x, activation_dtype(), ends, targets);
  for (size_t g = 0; g < groups.size(); ++g) {
    if (groups[g].size() == 0) continue;
    const View rows = x.slice_rows(groups[g].begin, groups[g].end);
    MatmulArgs args =
        matmul_args(rows, device_matrix(*targets.begin()->weights[g]), stream.numerics);
    for (const GroupedTarget& target : targets) {
      const DeviceMatrix& matrix = device_matrix(*target.weights[g]);
      args.target.at(static_cast<size_t>(args.targets++)) = {
          matrix.data(), target.out.slice_rows(groups[g].begin, groups[g].end).f32(),
          static_cast<int32_t>(matrix.rows())};
    }
    check(cuda::matmul(stream_of(stream).begin(), args), "multiplying experts' matrices");
  }
}

void CudaOps::gated_matmul(Stream& stream, Arena& arena, View x, const Weight& gate,
                           const Weight& up, Activation activation, View out) const {
  const DeviceMatrix& first = device_matrix(gate);
  const DeviceMatrix& second = device_matrix(up);
  MatmulArgs args = matmul_args(x, first, stream.numerics);
  CudaStream& cuda = stream_of(stream);
  const bool blas = takes_blas(cuda, x, first) && first.rows() % 8 == 0;
  if (x.rows() == 0 || (!blas && !streams(args)) || first.rows() != second.rows()) {
    return Ops::gated_matmul(stream, arena, x, gate, up, activation, out);
  }
  CHECK(out.dtype == DType::kBF16, "gated_matmul: out is {}", name_of(out.dtype));
  const View one{nullptr, DType::kF32, out.shape};  // what matmul would give
  check_matmul(stream, x, activation_dtype(), gate, one);
  check_matmul(stream, x, activation_dtype(), up, one);
  CHECK(first.slices.x_ends == second.slices.x_ends, "gated_matmul: matrices of different slices");
  if (blas) {
    const int64_t mark = arena.mark();
    const int64_t width = first.rows();
    const bool joint = adjacent(std::array{&first, &second});
    const View both = arena.allocate(DType::kBF16, {2 * x.rows(), width});
    uint16_t* gates = bits_of(both);
    uint16_t* ups = gates + (joint ? width : x.rows() * width);
    const auto multiply = [&](const DeviceMatrix& w, int64_t n, uint16_t* to) {
      return cuda.cublas->run(cuda.begin(), x.data, w.data(), to, CUDA_R_16BF, x.rows(), n,
                              x.shape[1]);
    };
    const bool ran = joint ? multiply(first, 2 * width, gates)
                           : multiply(first, width, gates) && multiply(second, width, ups);
    if (ran) {
      check(gated_activation_of_bf16(
                cuda.begin(), activation == Activation::kGeluTanh,
                {gates, ups, x.rows(), width, joint ? 2 * width : width, bits_of(out)}),
            "computing an activation");
    }
    arena.release_to(mark);
    if (!ran) Ops::gated_matmul(stream, arena, x, gate, up, activation, out);
    return;
  }
  const auto n = static_cast<int32_t>(first.rows());
  args.targets = 2;
  args.target[0] = {first.data(), nullptr, n};
  args.target[1] = {second.data(), nullptr, n};
  args.hidden = bits_of(out);
  args.gelu_tanh = activation == Activation::kGeluTanh;
  check(cuda::matmul(stream_of(stream).begin(), args), "multiplying matrices");
}

}  // namespace fourfold::backend::cuda

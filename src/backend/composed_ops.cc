// Operators that are made of others, for backends that have nothing quicker.

#include "backend/ops.h"

namespace fourfold::backend {

base::Result<std::vector<WeightPtr>> Ops::load_matrices(
    Stream& stream, std::span<const MatrixSource> sources) const {
  std::vector<WeightPtr> out;
  for (const MatrixSource& source : sources) {
    FF_ASSIGN(out.emplace_back(), load_matrix(stream, source.shape, source.open()));
  }
  return out;
}

void Ops::add_norm(Stream& stream, View x, View y, const Weight& gain, float eps, View out) const {
  add(stream, x, y);
  rms_norm(stream, x, gain, eps, out);
}

void Ops::rope_write(Stream& stream, View queries, View keys, View values, const HeadGains& gains,
                     float eps, const RopeTable& rope, const RowLayout& rows,
                     const KvLayer& cache) const {
  norm_rope(stream, queries, gains.queries, eps, rows.positions, rope);
  norm_rope(stream, keys, gains.keys, eps, rows.positions, rope);
  kv_write(stream, keys, values, rows, cache);
}

void Ops::gated_matmul(Stream& stream, Arena& arena, View x, const Weight& gate, const Weight& up,
                       Activation activation, View out) const {
  const int64_t mark = arena.mark();
  const View gates = arena.allocate(DType::kF32, out.shape);
  const View ups = arena.allocate(DType::kF32, out.shape);
  matmul(stream, arena, x, {{gate, gates}, {up, ups}});
  gated_activation(stream, activation, gates, ups, out);
  arena.release_to(mark);
}

}  // namespace fourfold::backend

#include "runtime/step_sampling.h"

#include <algorithm>

#include "model/decoder.h"

namespace fourfold::runtime {

using tensor::DType;
using tensor::View;

void draw_rows(const backend::Ops& ops, backend::Stream& stream, model::RankGroups& groups,
               View logits, View draws, View tokens) {
  constexpr int64_t kBetweenMarks = 64;
  const int64_t at_once =
      ops.in_host_memory() ? kBetweenMarks : std::max<int64_t>(1, logits.rows());
  for (int64_t begin = 0; begin < logits.rows(); begin += at_once) {
    const int64_t end = std::min(begin + at_once, logits.rows());
    groups.enter(comm::Operation::kSample);
    ops.draw_rows(stream, logits.slice_rows(begin, end), draws.slice_rows(begin, end),
                  tokens.slice_rows(begin, end));
  }
}

void sample_on_host(const backend::Ops& ops, backend::Stream& stream, model::RankGroups& groups,
                    tensor::Arena& host, std::span<const SampledRow> rows, View logits,
                    std::span<engine::SampledToken> tokens) {
  std::vector<size_t> chosen;
  for (size_t i = 0; i < rows.size(); ++i) {
    if (rows[i].on_host()) chosen.push_back(i);
  }
  constexpr size_t kAtOnce = model::Decoder::kHostLogitRows;
  for (size_t begin = 0; begin < chosen.size(); begin += kAtOnce) {
    const int64_t mark = host.mark();
    const size_t end = std::min(begin + kAtOnce, chosen.size());
    std::vector<View> values;
    for (size_t i = begin; i < end; ++i) {
      const auto row = static_cast<int64_t>(chosen[i]);
      values.push_back(logits.slice_rows(row, row + 1));
      if (ops.in_host_memory()) continue;
      const View copy = host.allocate(DType::kF32, values.back().shape);
      ops.copy_out(stream, values.back(), copy);
      values.back() = copy;
    }
    stream.synchronize();
    for (size_t i = begin; i < end; ++i) {
      groups.enter(comm::Operation::kSample);
      const SampledRow& row = rows[chosen[i]];
      const std::span<const float> row_logits = values[i - begin].f32_span();
      tokens[chosen[i]] = row.target >= 0
                              ? row.sampler->score(row_logits, row.target)
                              : row.sampler->sample(row_logits, row.next_position, row.allowed);
    }
    host.release_to(mark);
  }
}

}  // namespace fourfold::runtime

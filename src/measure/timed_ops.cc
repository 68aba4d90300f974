#include "measure/timed_ops.h"

namespace fourfold::measure {

template <typename Call>
void TimedOps::timed(const std::string& name, Stream& stream, int64_t activation_bytes,
                     const Call& call) const {
  const backend::OpCounters before = stream.counters;
  const int64_t begin_ns = clock_.now_ns();
  call();
  stream.synchronize();
  OperatorTime& time = times_[name];
  time.seconds += base::seconds_between(begin_ns, clock_.now_ns());
  const backend::OpCounters& after = stream.counters;
  const int64_t counted = after.bytes - before.bytes;
  time.bytes += static_cast<double>(counted > 0 ? counted : activation_bytes);
  time.flops += static_cast<double>(after.matmul_flops - before.matmul_flops +
                                    after.attention_flops - before.attention_flops);
  ++time.calls;
}

void TimedOps::embed(Stream& stream, const Weight& table, View tokens, int64_t first_token,
                     float scale, View out) const {
  timed("embed", stream, 2 * out.bytes(),
        [&] { ops_.embed(stream, table, tokens, first_token, scale, out); });
}

void TimedOps::rms_norm(Stream& stream, View x, const Weight& gain, float eps, View out) const {
  timed("rms_norm", stream, x.bytes() + out.bytes(),
        [&] { ops_.rms_norm(stream, x, gain, eps, out); });
}

std::string TimedOps::label_of(const Weight& weight) const {
  const auto it = labels_.find(&weight);
  return it == labels_.end() ? "unnamed" : it->second;
}

void TimedOps::matmul(Stream& stream, Arena& arena, View x,
                      std::initializer_list<MatmulTarget> targets) const {
  std::string name = "matmul ";
  for (const MatmulTarget& target : targets) {
    if (&target != targets.begin()) name += "+";
    name += label_of(target.weight);
  }
  timed(name, stream, 0, [&] { ops_.matmul(stream, arena, x, targets); });
}

void TimedOps::grouped_matmul(Stream& stream, Arena& arena, View x, std::span<const int32_t> ends,
                              std::initializer_list<GroupedTarget> targets) const {
  std::string name = "grouped ";
  for (const GroupedTarget& target : targets) {
    if (&target != targets.begin()) name += "+";
    name += label_of(*target.weights.front());
  }
  timed(name, stream, 0, [&] { ops_.grouped_matmul(stream, arena, x, ends, targets); });
}

void TimedOps::route(Stream& stream, View logits, const Weight* bias,
                     const backend::Routing& routing, View experts, View weights) const {
  timed("route", stream, logits.bytes() + experts.bytes() + weights.bytes(),
        [&] { ops_.route(stream, logits, bias, routing, experts, weights); });
}

void TimedOps::combine_slots(Stream& stream, View y, View weights, View out) const {
  timed("combine_slots", stream, y.bytes() + out.bytes(),
        [&] { ops_.combine_slots(stream, y, weights, out); });
}

void TimedOps::to_activation(Stream& stream, View x, View out) const {
  timed("to_activation", stream, x.bytes() + out.bytes(),
        [&] { ops_.to_activation(stream, x, out); });
}

void TimedOps::add_bias(Stream& stream, View x, const Weight& bias) const {
  timed("add_bias", stream, 2 * x.bytes(), [&] { ops_.add_bias(stream, x, bias); });
}

void TimedOps::gate_rows(Stream& stream, View x, View gate) const {
  timed("gate_rows", stream, 2 * x.bytes(), [&] { ops_.gate_rows(stream, x, gate); });
}

void TimedOps::add(Stream& stream, View x, View y) const {
  timed("add", stream, 3 * x.bytes(), [&] { ops_.add(stream, x, y); });
}

void TimedOps::add_norm(Stream& stream, View x, View y, const Weight& gain, float eps,
                        View out) const {
  if (ops_.in_host_memory()) return Ops::add_norm(stream, x, y, gain, eps, out);
  timed("add_norm", stream, 2 * x.bytes() + y.bytes() + out.bytes(),
        [&] { ops_.add_norm(stream, x, y, gain, eps, out); });
}

void TimedOps::rope_write(Stream& stream, View queries, View keys, View values,
                          const HeadGains& gains, float eps, const backend::RopeTable& rope,
                          const backend::RowLayout& rows, const backend::KvLayer& cache) const {
  if (ops_.in_host_memory()) {
    return Ops::rope_write(stream, queries, keys, values, gains, eps, rope, rows, cache);
  }
  timed("rope_write", stream, 2 * (queries.bytes() + keys.bytes()) + values.bytes(),
        [&] { ops_.rope_write(stream, queries, keys, values, gains, eps, rope, rows, cache); });
}

void TimedOps::gated_matmul(Stream& stream, Arena& arena, View x, const Weight& gate,
                            const Weight& up, backend::Activation activation, View out) const {
  if (ops_.in_host_memory()) return Ops::gated_matmul(stream, arena, x, gate, up, activation, out);
  timed("gated " + label_of(gate) + "+" + label_of(up), stream, 0,
        [&] { ops_.gated_matmul(stream, arena, x, gate, up, activation, out); });
}

void TimedOps::norm_rope(Stream& stream, View x, const Weight* gain, float eps, View positions,
                         const backend::RopeTable& rope) const {
  timed("norm_rope", stream, 2 * x.bytes(),
        [&] { ops_.norm_rope(stream, x, gain, eps, positions, rope); });
}

void TimedOps::kv_write(Stream& stream, View keys, View values, const backend::RowLayout& rows,
                        const backend::KvLayer& cache) const {
  const int64_t written =
      2 * keys.shape.elements() * tensor::size_of(ops_.kv_dtype());  // keys and values
  timed("kv_write", stream, keys.bytes() + values.bytes() + written,
        [&] { ops_.kv_write(stream, keys, values, rows, cache); });
}

void TimedOps::attention(Stream& stream, Arena& arena, View queries, const backend::RowLayout& rows,
                         const backend::KvLayer& cache, const AttentionParams& params,
                         View out) const {
  timed("attention", stream, 0,
        [&] { ops_.attention(stream, arena, queries, rows, cache, params, out); });
}

void TimedOps::gated_activation(Stream& stream, backend::Activation activation, View gate, View up,
                                View out) const {
  timed("gated_activation", stream, gate.bytes() + up.bytes() + out.bytes(),
        [&] { ops_.gated_activation(stream, activation, gate, up, out); });
}

void TimedOps::gather_rows(Stream& stream, View x, View indices, View out) const {
  timed("gather_rows", stream, 2 * out.bytes(), [&] { ops_.gather_rows(stream, x, indices, out); });
}

}  // namespace fourfold::measure

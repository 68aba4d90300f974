#include "runtime/control/frame.h"

#include <bit>
#include <concepts>
#include <cstring>
#include <string_view>
#include <type_traits>
#include <utility>

#include "runtime/control/rank_config_json.h"

namespace fourfold::runtime {
namespace {

using base::fail;

static_assert(std::endian::native == std::endian::little,
              "frames are copied as they lie in memory");

/// Copied byte for byte: numbers and strong ids.
template <typename T>
concept Scalar = std::is_arithmetic_v<T> || requires(const T& id) {
  { id.value } -> std::convertible_to<int64_t>;
  { id.valid() } -> std::same_as<bool>;
};

class Writer {
 public:
  template <typename... Fields>
  void operator()(const Fields&... fields) {
    (put(fields), ...);
  }
  std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  void put_bytes(const void* data, size_t size) {
    const auto* begin = static_cast<const std::byte*>(data);
    bytes_.insert(bytes_.end(), begin, begin + size);
  }
  void put(const std::string& text) {
    put(static_cast<uint32_t>(text.size()));
    put_bytes(text.data(), text.size());
  }
  template <typename T>
  void put(const T& value) {
    if constexpr (Scalar<T>) {
      put_bytes(&value, sizeof value);
    } else {
      fields_of(*this, value);
    }
  }
  template <typename T>
  void put(const std::vector<T>& values) {
    put(static_cast<uint32_t>(values.size()));
    if constexpr (Scalar<T>) {
      put_bytes(values.data(), values.size() * sizeof(T));
    } else {
      for (const T& value : values) put(value);
    }
  }

  std::vector<std::byte> bytes_;
};

/// Reads what a Writer wrote. After the first error everything reads as it was constructed.
class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : rest_(bytes) {}

  template <typename... Fields>
  void operator()(Fields&... fields) {
    (get(fields), ...);
  }

  void refuse(std::string_view why) {
    if (status_.ok()) status_ = fail("a control frame is broken: {}", why);
  }
  base::Status finish() {
    if (!rest_.empty()) refuse("bytes are left over");
    return status_;
  }

 private:
  bool has(size_t size) {
    if (size > rest_.size()) refuse("it ends too early");
    return status_.ok();
  }
  void get_bytes(void* data, size_t size) {
    if (size == 0 || !has(size)) return;
    std::memcpy(data, rest_.data(), size);
    rest_ = rest_.subspan(size);
  }
  void get(bool& value) {
    uint8_t byte = 0;
    get_bytes(&byte, 1);
    if (byte > 1) refuse("a flag is neither 0 nor 1");
    value = byte == 1;
  }
  void get(std::string& text) {
    uint32_t size = 0;
    get(size);
    if (!has(size)) return;
    text.resize(size);
    get_bytes(text.data(), size);
  }
  template <typename T>
  void get(T& value) {
    if constexpr (Scalar<T>) {
      get_bytes(&value, sizeof value);
    } else {
      fields_of(*this, value);
    }
  }
  template <typename T>
  void get(std::vector<T>& values) {
    uint32_t count = 0;
    get(count);
    if constexpr (Scalar<T>) {
      if (!has(count * sizeof(T))) return;
      values.resize(count);
      get_bytes(values.data(), count * sizeof(T));
    } else {
      // One by one, so that a count that lies costs no more memory than the bytes that came.
      for (uint32_t i = 0; i < count && status_.ok(); ++i) get(values.emplace_back());
    }
  }

  std::span<const std::byte> rest_;
  base::Status status_;
};

// The fields of each struct in the order in which they travel, for Writer and Reader alike.

template <typename T, typename U>
concept Is = std::same_as<std::remove_const_t<T>, U>;

void fields_of(auto& io, Is<engine::LogitBias> auto& b) { io(b.token, b.bias); }
void fields_of(auto& io, Is<engine::SamplingParams> auto& p) {
  static_assert(sizeof(engine::SamplingParams) == 80, "a field is missing below");
  io(p.temperature, p.top_k, p.top_p, p.min_p, p.repetition_penalty, p.presence_penalty,
     p.frequency_penalty, p.logit_bias, p.min_tokens, p.seed, p.choice, p.logprobs);
}
void fields_of(auto& io, Is<engine::SlotStart> auto& s) {
  io(s.slot, s.sampling, s.prompt_tokens, s.history, s.stop_tokens);
}
void fields_of(auto& io, Is<engine::Chunk> auto& c) {
  io(c.slot, c.position, c.num_tokens, c.num_blocks, c.scored, c.sample);
}
void fields_of(auto& io, Is<engine::SampledRef> auto& r) { io(r.step, r.row); }
void fields_of(auto& io, Is<engine::RowMask> auto& m) { io(m.row, m.allowed); }
void fields_of(Writer& io, const base::Numerics& numerics) {
  io(numerics == base::Numerics::kFast);
}
void fields_of(Reader& io, base::Numerics& numerics) {
  bool fast = false;
  io(fast);
  numerics = fast ? base::Numerics::kFast : base::Numerics::kInvariant;
}
void fields_of(auto& io, Is<engine::StepBatch> auto& b) {
  io(b.step, b.starts, b.chunks, b.tokens, b.refs, b.blocks, b.targets, b.masks, b.trace,
     b.numerics);
}
void fields_of(auto& io, Is<engine::TokenLogprob> auto& t) { io(t.token, t.logprob); }
void fields_of(auto& io, Is<engine::SampledToken> auto& t) {
  io(t.token, t.logprob, t.top, t.logits_hash);
}
void fields_of(auto& io, Is<engine::LayerTrace> auto& t) { io(t.layer, t.row, t.hash); }
void fields_of(auto& io, Is<engine::StepOutput> auto& o) { io(o.sampled, o.trace); }
void fields_of(auto& io, Is<StageReport> auto& r) { io(r.step, r.stage, r.output); }

void fields_of(auto& io, Is<RankMemory> auto& m) {
  static_assert(sizeof(RankMemory) == 48, "a field is missing below");
  io(m.weight_bytes, m.file_bytes_read, m.kv_bytes, m.activation_bytes, m.load_s, m.prepare_s);
}
void fields_of(auto& io, Is<backend::OpCounters> auto& c) {
  static_assert(sizeof(backend::OpCounters) == 32, "a field is missing below");
  io(c.matmul_flops, c.attention_flops, c.bytes, c.seconds);
}
void fields_of(auto& io, Is<comm::CommStats> auto& s) {
  static_assert(sizeof(comm::CommStats) == 32, "a field is missing below");
  io(s.seconds, s.wait_seconds, s.bytes, s.calls);
}

/// Enumerators travel as their numbers, those of `count` values in all.
template <typename Enum>
void enumerator_of(Writer& io, const Enum& value, int /*count*/) {
  io(static_cast<int32_t>(value));
}
template <typename Enum>
void enumerator_of(Reader& io, Enum& value, int count) {
  int32_t number = 0;
  io(number);
  if (number < 0 || number >= count) return io.refuse("an enumerator does not exist");
  value = static_cast<Enum>(number);
}
constexpr int kAxes = static_cast<int>(mesh::Axis::kControl) + 1;

void fields_of(auto& io, Is<std::pair<mesh::Axis, comm::CommStats>> auto& entry) {
  enumerator_of(io, entry.first, kAxes);
  io(entry.second);
}
void fields_of(auto& io, Is<comm::OpenCall> auto& c) {
  enumerator_of(io, c.kind, comm::kCallKinds);
  enumerator_of(io, c.axis, kAxes);
  io(c.sequence, c.peer);
}
void fields_of(Writer& io, const std::optional<comm::OpenCall>& call) {
  io(call.has_value());
  if (call) io(*call);
}
void fields_of(Reader& io, std::optional<comm::OpenCall>& call) {
  bool open = false;
  io(open);
  if (open) io(call.emplace());
}
void fields_of(auto& io, Is<comm::Position> auto& p) {
  io(p.marks, p.age_ns, p.step, p.layer, p.layer_ns);
  enumerator_of(io, p.operation, comm::kOperations);
  io(p.call);
}
void fields_of(auto& io, Is<model::LayerExpertStats> auto& l) {
  io(l.layer, l.steps, l.distinct, l.rows);
}
void fields_of(auto& io, Is<model::ExpertStats> auto& e) {
  io(e.layers, e.dispatched_bytes, e.combined_bytes);
}
void fields_of(auto& io, Is<RankStats> auto& s) {
  io(s.steps, s.fast_steps, s.zero_row_steps, s.rows, s.ops, s.comm, s.experts, s.peak_rss_bytes,
     s.peaks.matmul_flop_s, s.peaks.read_bytes_s);
}

void fields_of(auto& io, Is<Hello> auto& m) { io(m.rank, m.secret); }
void fields_of(auto& io, Is<Ready> auto& m) { io(m.memory); }
void fields_of(auto& io, Is<Report> auto& m) { io(m.report); }
void fields_of(auto& io, Is<StatsRequest> auto& m) { io(m.peaks_s); }
void fields_of(auto& io, Is<Stats> auto& m) { io(m.stats); }
void fields_of(auto&, Is<Ping> auto&) {}
void fields_of(auto& io, Is<Pong> auto& m) { io(m.position); }
void fields_of(auto&, Is<Shutdown> auto&) {}
void fields_of(auto& io, Is<Failure> auto& m) { io(m.text, m.own_fault); }
void fields_of(auto& io, Is<Crash> auto& m) { io(m.signal); }

void fields_of(Writer& io, const Config& m) { io(to_json(m.config)); }
void fields_of(Reader& io, Config& m) {
  std::string text;
  io(text);
  base::Result<RankConfig> config = rank_config_from_json(text);
  if (!config.ok()) return io.refuse(config.error().message);
  m.config = std::move(config).value();
}

/// A worker walks the arrays of a batch by what the chunks say, so they have to agree.
bool is_consistent(const engine::StepBatch& batch) {
  int64_t tokens = 0;
  int64_t blocks = 0;
  int64_t scored = 0;
  int64_t sampled = 0;
  for (const engine::Chunk& chunk : batch.chunks) {
    const int32_t most_scored = chunk.num_tokens - (chunk.sample ? 1 : 0);
    if (chunk.scored < 0 || chunk.scored > most_scored) return false;
    if (!chunk.slot.valid() || chunk.position < 0 || chunk.num_tokens < 1 || chunk.num_blocks < 0) {
      return false;
    }
    tokens += chunk.num_tokens;
    blocks += chunk.num_blocks;
    scored += chunk.scored;
    sampled += chunk.scored + (chunk.sample ? 1 : 0);
  }
  for (const engine::TokenId token : batch.tokens) {
    if (token < 0 && -1 - int64_t{token} >= std::ssize(batch.refs)) return false;
  }
  for (const engine::TokenId token : batch.targets) {
    if (token < 0) return false;
  }
  for (const engine::SampledRef& ref : batch.refs) {
    if (!ref.step.valid() || ref.row < 0) return false;
  }
  int32_t first = 0;
  for (const engine::RowMask& mask : batch.masks) {
    if (mask.row < first || mask.row >= sampled || mask.allowed.empty()) return false;
    first = mask.row + 1;
  }
  for (const engine::BlockId block : batch.blocks) {
    if (!block.valid()) return false;
  }
  for (const engine::SlotStart& start : batch.starts) {
    if (!start.slot.valid() || start.prompt_tokens < 0) return false;
  }
  return batch.step.valid() && tokens == std::ssize(batch.tokens) &&
         blocks == std::ssize(batch.blocks) && scored == std::ssize(batch.targets);
}

void fields_of(Writer& io, const Step& m) { io(m.batches); }
void fields_of(Reader& io, Step& m) {
  io(m.batches);
  for (const engine::StepBatch& batch : m.batches) {
    if (!is_consistent(batch)) return io.refuse("a step's arrays do not fit its chunks");
    for (const engine::SlotStart& start : batch.starts) {
      const base::Status status = engine::check_sampling(start.sampling);
      if (!status.ok()) return io.refuse(status.error().message);
    }
  }
}

template <typename Body>
base::Result<Message> decode_as(std::span<const std::byte> payload) {
  Body body;
  Reader reader(payload);
  reader(body);
  FF_TRY(reader.finish());
  return Message(std::move(body));
}

template <size_t... kTypes>
base::Result<Message> decode_type(size_t type, std::span<const std::byte> payload,
                                  std::index_sequence<kTypes...> /*all*/) {
  using Decode = base::Result<Message> (*)(std::span<const std::byte>);
  constexpr Decode kDecoders[] = {&decode_as<std::variant_alternative_t<kTypes, Message>>...};
  return kDecoders[type](payload);
}

}  // namespace

std::vector<std::byte> encode_frame(const Message& message) {
  Writer writer;
  writer(kFrameMagic, kProtocolVersion, static_cast<uint16_t>(message.index()), uint32_t{0});
  std::visit([&writer](const auto& body) { writer(body); }, message);
  std::vector<std::byte> frame = writer.take();
  const size_t payload_bytes = frame.size() - kFrameHeaderBytes;
  CHECK(payload_bytes <= kMaxPayloadBytes, "a control frame of {} bytes", payload_bytes);
  const auto length = static_cast<uint32_t>(payload_bytes);
  std::memcpy(frame.data() + kFrameHeaderBytes - sizeof length, &length, sizeof length);
  return frame;
}

base::Result<FrameHeader> decode_header(std::span<const std::byte> bytes) {
  uint32_t magic = 0;
  uint16_t version = 0;
  uint16_t type = 0;
  uint32_t length = 0;
  Reader reader(bytes.first(kFrameHeaderBytes));
  reader(magic, version, type, length);
  if (magic != kFrameMagic) {
    return fail("a control frame starts with {:#010x}, expected {:#010x}", magic, kFrameMagic);
  }
  if (version != kProtocolVersion) {
    return fail("a control frame has version {}, expected {}: use the same fourfold on all ranks",
                version, kProtocolVersion);
  }
  if (type >= std::variant_size_v<Message>) return fail("a control frame has type {}", type);
  if (length > kMaxPayloadBytes) {
    return fail("a control frame says {} bytes, expected at most {}", length, kMaxPayloadBytes);
  }
  return FrameHeader{type, length};
}

base::Result<Message> decode_payload(uint16_t type, std::span<const std::byte> payload) {
  if (type >= std::variant_size_v<Message>) return fail("a control frame has type {}", type);
  return decode_type(type, payload, std::make_index_sequence<std::variant_size_v<Message>>());
}

}  // namespace fourfold::runtime

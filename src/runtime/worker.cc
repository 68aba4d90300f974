#include "runtime/worker.h"

#include <sys/resource.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <deque>
#include <map>
#include <numeric>
#include <optional>
#include <span>

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/sizes.h"
#include "comm/waiting.h"
#include "model/collectives.h"
#include "model/decoder.h"
#include "model/groups.h"
#include "model/source.h"
#include "model/step_inputs.h"
#include "model/weights.h"
#include "runtime/layer_times.h"
#include "runtime/sampler.h"
#include "runtime/step_sampling.h"
#include "runtime/token_ring.h"

namespace fourfold::runtime {
namespace {

using engine::SampledToken;
using engine::StepBatch;
using engine::StepId;
using tensor::DType;
using tensor::View;

/// What a rank remembers of a running sequence between steps.
struct Slot {
  Sampler sampler;
  std::vector<int32_t> blocks;
};

model::StepPacker::Limits packer_limits(const engine::ExecutorLimits& limits) {
  return {.rows = limits.max_step_tokens,
          .entries = limits.slots * base::ceil_div(limits.max_positions, limits.block_size)};
}

class StageWorker final : public Worker {
 public:
  StageWorker(const RankConfig& config, std::shared_ptr<const backend::Ops> ops,
              std::unique_ptr<model::RankGroups> groups, std::unique_ptr<backend::Stream> stream)
      : config_(config),
        ops_(std::move(ops)),
        groups_(std::move(groups)),
        stream_(std::move(stream)),
        arena_(tensor::Buffer()),
        host_arena_(tensor::Buffer()),
        slots_(static_cast<size_t>(config.limits.slots)) {}

  /// Steps may be in progress on a device where the group has failed.
  ~StageWorker() override {
    try {
      stream_->synchronize();
    } catch (const std::exception& error) {
      spdlog::debug("a rank ends while its device fails: {}", error.what());
    }
  }
  StageWorker(const StageWorker&) = delete;
  StageWorker& operator=(const StageWorker&) = delete;

  base::Status load(const model::ModelSource& source);

  void begin(const std::vector<StepBatch>& batches) override;
  StageReport finish() override;
  int depth() const override { return runs_ahead_ ? 2 : 1; }
  bool reports() const override { return groups_->coordinates().shard == 0; }
  RankMemory memory() const override { return memory_; }
  base::Result<RankStats> stats(double peaks_s) override;

 private:
  base::Status allocate_cache();
  void apply_tables(const StepBatch& batch);
  model::StepInputs pack_inputs(const StepBatch& batch, const std::vector<SampledRow>& sampled);
  void name_tokens(const StepBatch& batch, View tokens);
  void receive_tokens_until(StepId step);
  void keep_tokens(StepId step, std::span<int32_t> tokens);
  struct Begun;
  void sample_rows(const StepBatch& batch, const std::vector<SampledRow>& sampled, View logits,
                   View draws, Begun& begun);
  model::Decoder::Tap make_tap(const StepBatch& batch, engine::StepOutput& output);
  void run_rows(const StepBatch& batch, const std::vector<int64_t>& replica_rows, Begun& begun);
  View run_alone(const StepBatch& batch, const model::StepInputs& inputs, View residual,
                 const model::Decoder::Tap& tap, const std::vector<int64_t>& replica_rows);
  void embed(const model::StepInputs& inputs, View residual, const model::Decoder::Tap& tap);
  void run_layers(const model::StepInputs& inputs, View residual, const model::Decoder::Tap& tap,
                  const std::vector<int64_t>& replica_rows);
  void show_step(StepId step, int64_t rows);
  std::vector<SampledRow> sampled_rows(const StepBatch& batch);
  /// Where the step's intermediates are.
  model::StepMemory step_memory() {
    return {arena_, ops_->in_host_memory() ? arena_ : host_arena_};
  }

  RankConfig config_;
  std::shared_ptr<const backend::Ops> ops_;
  std::unique_ptr<model::RankGroups> groups_;
  std::unique_ptr<backend::Stream> stream_;
  std::unique_ptr<model::Decoder> decoder_;
  tensor::Arena arena_;
  tensor::Arena host_arena_;  ///< empty where the backend's memory is the host's
  std::optional<model::StepPacker> packer_;
  std::vector<tensor::Buffer> cache_buffers_;
  std::vector<backend::KvLayer> cache_;
  std::vector<Slot> slots_;
  RankMemory memory_;
  LayerTimes layer_times_;
  int64_t steps_ = 0;
  int64_t fast_steps_ = 0;
  int64_t zero_row_steps_ = 0;
  int64_t rows_ = 0;

  TokenRing ring_;
  /// The first stage of several gets the tokens from the last one, and receives them only when it
  /// has to.
  struct Expected {
    StepId step;
    size_t count = 0;
  };
  std::deque<Expected> expected_;

  struct Begun {
    StageReport report;
    int64_t rows = 0;
    double waited_s = 0;  ///< of the device's work on it, in begin()
    /// Where a device works on it: when it is done, and where its tokens come to, if it samples.
    std::optional<int64_t> mark;
    View tokens;
  };
  std::deque<Begun> begun_;
  /// True where steps are enqueued on a device and nothing in them waits for the host.
  bool runs_ahead_ = false;
  /// Logits of the steps that are repeated, by key.
  std::map<std::vector<int64_t>, View> repeated_logits_;
};

base::Status StageWorker::load(const model::ModelSource& source) {
  const base::SteadyClock clock;
  const int64_t begin = clock.now_ns();
  FF_ASSIGN(decoder_,
            model::Decoder::create(source, *ops_, *groups_, *stream_, config_.limits.max_positions,
                                   config_.expert_exchange));
  FF_TRY(allocate_cache());
  const int64_t arena_bytes =
      model::Decoder::arena_bytes(decoder_->spec(), *ops_, groups_->mesh(), config_.expert_exchange,
                                  config_.threads, config_.limits.max_step_tokens,
                                  std::min(config_.limits.slots, config_.limits.max_step_tokens));
  FF_ASSIGN(tensor::Buffer arena, ops_->allocate(arena_bytes));
  arena_ = tensor::Arena(std::move(arena));

  FF_ASSIGN(tensor::Buffer host_arena,
            ops_->allocate_host(model::Decoder::host_arena_bytes(
                decoder_->spec(), *ops_, groups_->mesh(), config_.expert_exchange,
                config_.limits.max_step_tokens,
                std::min(config_.limits.slots, config_.limits.max_step_tokens))));
  host_arena_ = tensor::Arena(std::move(host_arena));
  runs_ahead_ = !ops_->in_host_memory() && groups_->mesh().world_size() == 1 &&
                !groups_->mesh().has_experts();
  FF_ASSIGN(packer_, model::StepPacker::create(*ops_, packer_limits(config_.limits),
                                               runs_ahead_ ? depth() + 1 : 1));
  FF_ASSIGN(ring_,
            TokenRing::create(*ops_, config_.limits.depth + 1,
                              std::min(config_.limits.slots, config_.limits.max_step_tokens)));

  memory_.weight_bytes = decoder_->weights().bytes();
  memory_.file_bytes_read = decoder_->weights().file_bytes_read();
  memory_.activation_bytes =
      arena_bytes + model::Decoder::table_bytes(decoder_->spec(), config_.limits.max_positions) +
      step_input_bytes(config_.limits);
  memory_.load_s = base::seconds_between(begin, clock.now_ns());
  return {};
}

base::Status StageWorker::allocate_cache() {
  const engine::ExecutorLimits& limits = config_.limits;
  for (int i = decoder_->first_layer(); i < decoder_->end_layer(); ++i) {
    const model::AttentionSpec& spec = decoder_->spec().layers[static_cast<size_t>(i)].attention;
    backend::KvLayer layer{.blocks = limits.blocks,
                           .kv_heads = model::kv_head_range(spec, groups_->mesh().config().tp,
                                                            groups_->coordinates().shard)
                                           .size(),
                           .block_size = limits.block_size,
                           .head_dim = spec.head_dim};
    const int64_t bytes = layer.blocks * layer.kv_heads * layer.block_size * layer.head_dim *
                          size_of(ops_->kv_dtype());
    for (void** half : {&layer.keys, &layer.values}) {
      FF_ASSIGN(tensor::Buffer buffer, ops_->allocate(bytes));
      groups_->enter(comm::Operation::kLoad, i);
      *half = buffer.data();
      cache_buffers_.push_back(std::move(buffer));
    }
    memory_.kv_bytes += 2 * bytes;
    cache_.push_back(layer);
  }
  return {};
}

std::vector<SampledRow> StageWorker::sampled_rows(const StepBatch& batch) {
  std::vector<SampledRow> out;
  int32_t row = 0;
  for (const engine::Chunk& chunk : batch.chunks) {
    row += chunk.num_tokens;
    if (!chunk.sample) continue;
    Slot& slot = slots_.at(static_cast<size_t>(chunk.slot.value));
    out.push_back({row - 1, chunk.position + chunk.num_tokens, &slot.sampler});
  }
  return out;
}

void StageWorker::apply_tables(const StepBatch& batch) {
  for (const engine::SlotStart& start : batch.starts) {
    slots_.at(static_cast<size_t>(start.slot.value)) = {Sampler(start), {}};
  }
  size_t next = 0;
  for (const engine::Chunk& chunk : batch.chunks) {
    std::vector<int32_t>& table = slots_.at(static_cast<size_t>(chunk.slot.value)).blocks;
    for (int32_t i = 0; i < chunk.num_blocks; ++i) table.push_back(batch.blocks[next++].value);
  }
}

model::StepInputs StageWorker::pack_inputs(const StepBatch& batch,
                                           const std::vector<SampledRow>& sampled) {
  const auto m = static_cast<int64_t>(batch.tokens.size());
  const auto s = static_cast<int64_t>(batch.chunks.size());
  int64_t width = 0;
  for (const engine::Chunk& chunk : batch.chunks) {
    width = std::max(width,
                     base::ceil_div(chunk.position + chunk.num_tokens, config_.limits.block_size));
  }
  if (runs_ahead_) {
    // Few widths: a step of the same shape as one before need not be enqueued anew.
    constexpr int64_t kLeastPositions = 1024;
    const auto wanted = std::max(width, base::ceil_div(kLeastPositions, config_.limits.block_size));
    width = std::min(static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(wanted))),
                     base::ceil_div(config_.limits.max_positions, config_.limits.block_size));
  }
  const model::StepPacker::Fields in = packer_->begin(m, s, width, std::ssize(sampled));
  int64_t row = 0;
  for (int64_t i = 0; i < s; ++i) {
    const engine::Chunk& chunk = batch.chunks[static_cast<size_t>(i)];
    for (int32_t j = 0; j < chunk.num_tokens; ++j, ++row) {
      in.positions.i32()[row] = chunk.position + j;
      in.sequences.i32()[row] = static_cast<int32_t>(i);
    }
    const std::vector<int32_t>& table = slots_[static_cast<size_t>(chunk.slot.value)].blocks;
    const auto used = static_cast<size_t>(
        base::ceil_div(chunk.position + chunk.num_tokens, config_.limits.block_size));
    CHECK(table.size() >= used, "slot {}: {} blocks for {} positions", chunk.slot.value,
          table.size(), chunk.position + chunk.num_tokens);
    std::copy_n(table.begin(), used, in.block_tables.i32() + i * width);
  }
  for (size_t i = 0; i < sampled.size(); ++i) {
    in.sampled.i32()[i] = sampled[i].row;
    const auto words = std::bit_cast<backend::DrawWords>(sampled[i].draw());
    std::copy(words.begin(), words.end(),
              in.draws.i32() + static_cast<int64_t>(i) * backend::kDrawWords);
  }
  if (groups_->first_stage()) {
    name_tokens(batch, in.tokens);
  } else {
    std::fill_n(in.tokens.i32(), m, 0);
  }
  return packer_->finish(*stream_);
}

/// Puts tokens that the host has into the ring.
void StageWorker::keep_tokens(StepId step, std::span<int32_t> tokens) {
  const View from{tokens.data(), DType::kI32, {std::ssize(tokens)}};
  ops_->copy_in(*stream_, from, ring_.begin(step, std::ssize(tokens)));
  stream_->synchronize();
}

void StageWorker::receive_tokens_until(StepId step) {
  for (; !expected_.empty() && expected_.front().step <= step; expected_.pop_front()) {
    std::vector<int32_t> tokens(expected_.front().count);
    groups_->pipeline().recv(std::as_writable_bytes(std::span(tokens)),
                             groups_->mesh().config().pp - 1);
    keep_tokens(expected_.front().step, tokens);
  }
}

/// Tokens that are not known here yet become places of the ring (Ops::resolve_tokens).
void StageWorker::name_tokens(const StepBatch& batch, View tokens) {
  for (size_t i = 0; i < batch.tokens.size(); ++i) {
    const engine::TokenId token = batch.tokens[i];
    if (token >= 0) {
      tokens.i32()[i] = token;
      continue;
    }
    const engine::SampledRef& ref = batch.refs[static_cast<size_t>(-1 - token)];
    receive_tokens_until(ref.step);
    tokens.i32()[i] = ring_.name_of(ref.step, ref.row);
  }
}

model::Decoder::Tap StageWorker::make_tap(const StepBatch& batch, engine::StepOutput& output) {
  if (!batch.trace || !reports()) return nullptr;
  return [this, &output](int32_t layer, View residual) {
    std::vector<uint64_t> hashes(static_cast<size_t>(residual.rows()));
    ops_->hash_rows(*stream_, residual, hashes);
    stream_->synchronize();
    for (size_t row = 0; row < hashes.size(); ++row) {
      output.trace.push_back({layer, static_cast<int32_t>(row), hashes[row]});
    }
  };
}

/// The last stage's part after the logits, which every shard has. All tokens are drawn where the
/// logits are, by every shard; those of which more is asked are sampled on the host instead, by
/// shard 0.
void StageWorker::sample_rows(const StepBatch& batch, const std::vector<SampledRow>& sampled,
                              View logits, View draws, Begun& begun) {
  const View kept = ring_.begin(batch.step, std::ssize(sampled));
  draw_rows(*ops_, *stream_, *groups_, logits, draws, kept);
  const bool any_on_host = std::any_of(sampled.begin(), sampled.end(),
                                       [](const SampledRow& row) { return row.on_host(); });
  if (runs_ahead_ && !any_on_host && !batch.trace) {
    begun.tokens = ring_.on_host(batch.step, std::ssize(sampled));
    ops_->copy_out(*stream_, kept, begun.tokens);
    return;
  }
  std::vector<int32_t> tokens(sampled.size());
  std::vector<uint64_t> hashes(sampled.size());
  ops_->copy_out(*stream_, kept, {tokens.data(), DType::kI32, kept.shape});
  if (batch.trace && reports()) ops_->hash_rows(*stream_, logits, hashes);
  stream_->synchronize();
  if (reports()) {
    std::vector<SampledToken> out(sampled.size());
    for (size_t i = 0; i < out.size(); ++i) out[i].token = tokens[i];
    if (any_on_host) {
      sample_on_host(*ops_, *stream_, *groups_, step_memory().host, sampled, logits, out);
    }
    for (size_t i = 0; i < out.size(); ++i) {
      tokens[i] = out[i].token;
      out[i].logits_hash = hashes[i];
      begun.report.output.sampled.push_back({std::move(out[i])});
    }
  }
  if (any_on_host) {
    groups_->tensor(mesh::Role::kVocab)
        .broadcast(std::as_writable_bytes(std::span(tokens)), /*root=*/0);
    keep_tokens(batch.step, tokens);
  }
  if (!groups_->first_stage()) groups_->pipeline().send(std::as_bytes(std::span(tokens)), /*to=*/0);
}

/// Shows which step this is and what one of its layers will take. `rows`: of all replicas, as their
/// experts are one rank's work, too.
void StageWorker::show_step(StepId step, int64_t rows) {
  comm::Progress* progress = groups_->progress();
  if (progress == nullptr) return;
  progress->begin_step(step.value);
  // A device's step is one layer here, and its time depends on the context, too: a long prompt's
  // last steps take many times what is typical of as many rows.
  constexpr int64_t kDeviceStepNs = 1'500'000'000;
  const int64_t least_ns = runs_ahead_ ? kDeviceStepNs : 0;
  if (rows > 0) progress->expect_layer_ns(std::max(least_ns, layer_times_.typical(rows)));
  progress->enter(comm::Operation::kInputs);
}

void StageWorker::run_layers(const model::StepInputs& inputs, View residual,
                             const model::Decoder::Tap& tap,
                             const std::vector<int64_t>& replica_rows) {
  const base::SteadyClock clock;
  const int64_t begin = clock.now_ns();
  decoder_->run_layers(*stream_, step_memory(), inputs.rows, cache_, residual, tap, replica_rows);
  const int64_t rows = std::accumulate(replica_rows.begin(), replica_rows.end(), int64_t{0});
  if (!runs_ahead_) layer_times_.add(rows, (clock.now_ns() - begin) / std::ssize(cache_));
}

void StageWorker::begin(const std::vector<StepBatch>& batches) {
  const mesh::Coordinates at = groups_->coordinates();
  const StepBatch& batch = batches.at(static_cast<size_t>(at.replica));
  base::set_check_context(fmt::format("rank {} (stage {}, shard {}), step {}", groups_->rank(),
                                      at.stage, at.shard, batch.step.value));
  Begun& begun = begun_.emplace_back();
  begun.report = {.step = batch.step, .stage = at.stage, .output = {}};
  apply_tables(batch);
  std::vector<int64_t> replica_rows;
  int64_t all_rows = 0;
  const StepBatch* busy = nullptr;
  for (const StepBatch& theirs : batches) {
    replica_rows.push_back(std::ssize(theirs.tokens));
    all_rows += replica_rows.back();
    if (!theirs.tokens.empty()) busy = &theirs;
  }
  const int64_t m = std::ssize(batch.tokens);
  ++steps_;
  rows_ += m;
  show_step(batch.step, all_rows);
  if (busy == nullptr) return;

  // A batch without rows says nothing of its own about the step.
  stream_->numerics = busy->numerics;
  fast_steps_ += busy->numerics == base::Numerics::kFast ? 1 : 0;
  arena_.reset();
  host_arena_.reset();
  begun.rows = m;
  const double before_s = stream_->counters.seconds;
  if (m > 0) {
    run_rows(batch, replica_rows, begun);
    begun.waited_s = stream_->counters.seconds - before_s;
    // Also of a step that samples nothing: its inputs must not be overwritten before it is done.
    if (runs_ahead_) begun.mark = stream_->mark();
  } else {
    ++zero_row_steps_;
    const View no_rows = arena_.allocate(DType::kF32, {0, decoder_->spec().hidden});
    run_layers({}, no_rows, nullptr, replica_rows);
  }
}

StageReport StageWorker::finish() {
  Begun begun = std::move(begun_.front());
  begun_.pop_front();
  if (begun.mark) {
    const double before_s = stream_->counters.seconds;
    stream_->wait(*begun.mark);
    const double step_s = begun.waited_s + stream_->counters.seconds - before_s;
    // No mark is made while the device works: to those who watch for hangs a step is one layer.
    layer_times_.add(begun.rows, static_cast<int64_t>(step_s * 1e9));
    groups_->enter(comm::Operation::kSample);
    for (int64_t i = 0; i < begun.tokens.rows(); ++i) {
      begun.report.output.sampled.push_back({SampledToken{.token = begun.tokens.i32()[i]}});
    }
  }
  return std::move(begun.report);
}

/// The step of a replica that has rows.
void StageWorker::run_rows(const StepBatch& batch, const std::vector<int64_t>& replica_rows,
                           Begun& begun) {
  // Steps that old are finished everywhere, so taking their tokens does not wait; leaving them
  // would let them pile up in the transport.
  if (groups_->first_stage()) {
    receive_tokens_until(StepId(batch.step.value - config_.limits.depth));
  }
  const int stage = groups_->coordinates().stage;
  const std::vector<SampledRow> sampled = sampled_rows(batch);
  const model::StepInputs inputs = pack_inputs(batch, sampled);
  const View residual =
      arena_.allocate(DType::kF32, {std::ssize(batch.tokens), decoder_->spec().hidden});
  const model::Decoder::Tap tap = make_tap(batch, begun.report.output);
  if (groups_->mesh().config().pp == 1) {
    const View logits = run_alone(batch, inputs, residual, tap, replica_rows);
    if (!sampled.empty()) sample_rows(batch, sampled, logits, inputs.draws, begun);
    return;
  }

  const model::Collectives collectives(*ops_, *stream_, step_memory().host);
  const comm::Wire wire = comm::wire_of(batch.numerics);
  if (groups_->first_stage()) {
    embed(inputs, residual, tap);
  } else {
    collectives.recv(groups_->pipeline(), residual, stage - 1, wire);
  }
  run_layers(inputs, residual, tap, replica_rows);
  if (!groups_->last_stage()) {
    collectives.send(groups_->pipeline(), residual, stage + 1, wire);
    if (groups_->first_stage() && !sampled.empty()) {
      expected_.push_back({batch.step, sampled.size()});
    }
  } else if (!sampled.empty()) {
    sample_rows(batch, sampled, decoder_->logits(*stream_, step_memory(), residual, inputs.sampled),
                inputs.draws, begun);
  }
}

void StageWorker::embed(const model::StepInputs& inputs, View residual,
                        const model::Decoder::Tap& tap) {
  ops_->resolve_tokens(*stream_, inputs.tokens, ring_.whole());
  decoder_->embed(*stream_, step_memory(), inputs.tokens, residual);
  if (tap) tap(-1, residual);
}

/// The whole model of a group of one stage, up to the logits.
View StageWorker::run_alone(const StepBatch& batch, const model::StepInputs& inputs, View residual,
                            const model::Decoder::Tap& tap,
                            const std::vector<int64_t>& replica_rows) {
  View logits;
  const auto run = [&] {
    embed(inputs, residual, tap);
    run_layers(inputs, residual, tap, replica_rows);
    if (inputs.sampled.rows() > 0) {
      logits = decoder_->logits(*stream_, step_memory(), residual, inputs.sampled);
    }
  };
  const bool decodes = batch.tokens.size() == batch.chunks.size();
  // Who watches the marks of a step wants them made.
  const bool watched = groups_->progress() != nullptr && groups_->progress()->is_watched();
  if (!runs_ahead_ || !decodes || tap || watched) {
    run();
    return logits;
  }
  // What the operators of a decode step are depends on this alone: the arena is used alike by each.
  const std::vector<int64_t> key = {static_cast<int64_t>(batch.numerics), inputs.tokens.rows(),
                                    inputs.sampled.rows(), inputs.rows.block_tables.shape[1]};
  stream_->repeat(key, inputs.rows, run);
  const auto known = repeated_logits_.try_emplace(key, logits);
  return known.first->second;
}

base::Result<RankStats> StageWorker::stats(double peaks_s) {
  RankStats out;
  if (peaks_s > 0) {
    groups_->enter(comm::Operation::kMeasure);
    FF_ASSIGN(out.peaks,
              ops_->measure_peaks(*stream_, peaks_s, config_.group.devices() * config_.groups));
  }
  out.steps = steps_;
  out.fast_steps = fast_steps_;
  out.zero_row_steps = zero_row_steps_;
  out.rows = rows_;
  out.ops = stream_->counters;
  out.comm = {{mesh::Axis::kTensor, groups_->tensor(mesh::Role::kAttention).stats()},
              {mesh::Axis::kPipeline, groups_->pipeline().stats()}};
  if (groups_->mesh().has_experts()) {
    out.comm.emplace_back(mesh::Axis::kExpert, groups_->expert_block().stats());
    out.comm.emplace_back(mesh::Axis::kExpertTensor, groups_->tensor(mesh::Role::kExpert).stats());
  }
  out.experts = decoder_->expert_stats();
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  out.peak_rss_bytes = int64_t{usage.ru_maxrss} * 1024;
  return out;
}

}  // namespace

int world_rank(const RankConfig& config, int rank) {
  const mesh::Coordinates at = mesh::coordinates(config.group, rank);
  const int replica = config.group_index * config.group.dp + at.replica;
  return (at.stage * config.groups * config.group.dp + replica) * config.group.tp + at.shard;
}

std::string describe_rank(const RankConfig& config, int rank) {
  const mesh::Coordinates at = mesh::coordinates(config.group, rank);
  return fmt::format("rank {} (stage {}, replica {}, shard {})", world_rank(config, rank), at.stage,
                     config.group_index * config.group.dp + at.replica, at.shard);
}

int64_t step_input_bytes(const engine::ExecutorLimits& limits) {
  return model::StepPacker::bytes(packer_limits(limits));
}

base::Result<std::unique_ptr<Worker>> Worker::create(const RankConfig& config,
                                                     std::shared_ptr<const backend::Ops> ops,
                                                     std::unique_ptr<comm::Communicator> group) {
  comm::Progress* progress = group->progress();
  if (progress != nullptr) progress->enter(comm::Operation::kStart);
  FF_ASSIGN(const model::ModelSource source,
            model::open_model(config.model, config.dummy_weights, config.dummy_seed,
                              config.dummy_routing));
  FF_ASSIGN(const mesh::Mesh mesh,
            mesh::Mesh::create(config.group, source.spec.divisors(), config.expert_placement));
  comm::ask_for_prompt_wakeups();
  const auto rank = static_cast<size_t>(group->rank());
  const auto threads = static_cast<size_t>(config.threads);
  std::span<const int> cpus(config.cpus);
  if (!cpus.empty()) cpus = cpus.subspan(rank * threads, threads);
  if (progress != nullptr) progress->enter(comm::Operation::kMeet);
  auto groups = std::make_unique<model::RankGroups>(mesh, std::move(group));
  std::unique_ptr<backend::Stream> stream = ops->make_stream(config.threads, cpus);
  auto worker =
      std::make_unique<StageWorker>(config, std::move(ops), std::move(groups), std::move(stream));
  FF_TRY(worker->load(source));
  return std::unique_ptr<Worker>(std::move(worker));
}

}  // namespace fourfold::runtime

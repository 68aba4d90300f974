// The steps of a StageWorker.

#include <algorithm>
#include <bit>
#include <numeric>
#include <span>

#include "base/check.h"
#include "base/clock.h"
#include "base/sizes.h"
#include "model/collectives.h"
#include "runtime/stage_worker.h"
#include "runtime/step_shapes.h"

namespace fourfold::runtime {

using engine::SampledToken;
using engine::StepBatch;
using engine::StepId;
using tensor::DType;
using tensor::View;

std::vector<SampledRow> StageWorker::sampled_rows(const StepBatch& batch) {
  std::vector<SampledRow> out;
  int32_t row = 0;
  size_t target = 0;
  for (const engine::Chunk& chunk : batch.chunks) {
    Slot& slot = slots_.at(static_cast<size_t>(chunk.slot.value));
    for (int32_t i = 0; i < chunk.scored; ++i) {
      out.push_back({.row = row + i,
                     .next_position = chunk.position + i + 1,
                     .sampler = &slot.sampler,
                     .target = batch.targets.at(target++)});
    }
    row += chunk.num_tokens;
    if (!chunk.sample) continue;
    out.push_back({.row = row - 1,
                   .next_position = chunk.position + chunk.num_tokens,
                   .sampler = &slot.sampler});
  }
  for (const engine::RowMask& mask : batch.masks) {
    out.at(static_cast<size_t>(mask.row)).allowed = &mask.allowed;
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

/// `rows`: of the step, spare ones included.
model::StepInputs StageWorker::pack_inputs(const StepBatch& batch,
                                           const std::vector<SampledRow>& sampled, int64_t rows) {
  const auto m = static_cast<int64_t>(batch.tokens.size());
  const auto s = static_cast<int64_t>(batch.chunks.size());
  const int64_t spare = rows - m;
  int64_t width = 0;
  for (const engine::Chunk& chunk : batch.chunks) {
    width = std::max(width,
                     base::ceil_div(chunk.position + chunk.num_tokens, config_.limits.block_size));
  }
  if (runs_ahead_) width = repeated_width(width, config_.limits);
  const model::StepPacker::Fields in =
      packer_->begin(rows, s + spare, width, std::ssize(sampled) + spare);
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
  if (spare > 0) fill_spare_rows(in, m);
  return packer_->finish(*stream_);
}

/// Makes rows from `begin` on, of a step that samples one row of each sequence, first rows of
/// sequences that nobody asked for. Their keys and values go to the block that is nobody's.
void StageWorker::fill_spare_rows(const model::StepPacker::Fields& in, int64_t begin) const {
  const int64_t width = in.block_tables.shape[1];
  const auto nobodys = static_cast<int32_t>(config_.limits.blocks);
  for (int64_t row = begin; row < in.tokens.rows(); ++row) {
    in.tokens.i32()[row] = 0;
    in.positions.i32()[row] = 0;
    in.sequences.i32()[row] = static_cast<int32_t>(row);
    in.block_tables.i32()[row * width] = nobodys;
    in.sampled.i32()[row] = static_cast<int32_t>(row);
  }
}

/// Puts tokens that the host has into the ring, for steps that are enqueued after that.
void StageWorker::keep_tokens(StepId step, std::span<const int32_t> tokens) {
  const View from = ring_.on_host(step, std::ssize(tokens));
  std::copy(tokens.begin(), tokens.end(), from.i32());
  ops_->copy_in(*stream_, from, ring_.begin(step, std::ssize(tokens)));
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
  if (!batch.trace) return nullptr;
  // All shards of a traced step compute alike; one of them shows it.
  if (!reports()) return [](int32_t, View) {};
  return [this, &output](int32_t layer, View residual) {
    std::vector<uint64_t> hashes(static_cast<size_t>(residual.rows()));
    ops_->hash_rows(*stream_, residual, hashes);
    stream_->synchronize();
    for (size_t row = 0; row < hashes.size(); ++row) {
      output.trace.push_back({layer, static_cast<int32_t>(row), hashes[row]});
    }
  };
}

namespace {

bool samples_on_host(const std::vector<SampledRow>& sampled) {
  return std::any_of(sampled.begin(), sampled.end(),
                     [](const SampledRow& row) { return row.on_host(); });
}

}  // namespace

/// Whether the host waits in this step for what a device computes in it.
bool StageWorker::waits(const StepBatch& batch, const std::vector<SampledRow>& sampled) const {
  return !runs_ahead_ || batch.trace || (groups_->last_stage() && samples_on_host(sampled));
}

/// The last stage's part after the logits, which every shard has. All tokens are drawn where the
/// logits are, by every shard; those of which more is asked are sampled on the host instead, by
/// shard 0.
void StageWorker::sample_rows(const StepBatch& batch, const std::vector<SampledRow>& sampled,
                              View logits, View draws, Begun& begun) {
  const View kept = ring_.begin(batch.step, std::ssize(sampled));
  draw_rows(*ops_, *stream_, *groups_, logits, draws, kept);
  const bool any_on_host = samples_on_host(sampled);
  if (!waits(batch, sampled)) {
    begun.coming = ring_.on_host(batch.step, std::ssize(sampled));
    ops_->copy_out(*stream_, kept, begun.coming);
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
  begun.tokens = std::move(tokens);
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
  // Without a mark a step that has been begun is done.
  if (!runs_ahead_) stream_->synchronize();
}

/// Waits for the device's work on a step and sends its tokens on their way. Steps are settled in
/// their order.
void StageWorker::settle(Begun& begun) {
  if (std::exchange(begun.settled, true)) return;
  if (begun.mark) {
    const double before_s = stream_->counters.seconds;
    stream_->wait(*begun.mark);
    const double step_s = begun.waited_s + stream_->counters.seconds - before_s;
    // No mark is made while the device works: to those who watch for hangs a step is one layer.
    layer_times_.add(begun.rows, static_cast<int64_t>(step_s * 1e9));
    groups_->enter(comm::Operation::kSample);
    for (int64_t i = 0; i < begun.coming.rows(); ++i) {
      const int32_t token = begun.coming.i32()[i];
      begun.tokens.push_back(token);
      begun.report.output.sampled.push_back({SampledToken{.token = token}});
    }
  }
  if (!begun.tokens.empty() && !groups_->first_stage()) {
    groups_->pipeline().send(std::as_bytes(std::span(begun.tokens)), /*to=*/0);
  }
}

StageReport StageWorker::finish() {
  settle(begun_.front());
  StageReport report = std::move(begun_.front().report);
  begun_.pop_front();
  return report;
}

/// The step of a replica that has rows.
void StageWorker::run_rows(const StepBatch& batch, const std::vector<int64_t>& replica_rows,
                           Begun& begun) {
  // Steps that old are finished everywhere, so taking their tokens does not wait; leaving them
  // would let them pile up in the transport.
  if (groups_->first_stage()) {
    receive_tokens_until(StepId(batch.step.value - config_.limits.depth));
  }
  const std::vector<SampledRow> sampled = sampled_rows(batch);
  const auto m = std::ssize(batch.tokens);
  if (waits(batch, sampled)) {
    // For the stages before this one, too, of which the first may need the tokens of steps that
    // were begun here and not finished.
    for (Begun& earlier : begun_) {
      if (&earlier != &begun) settle(earlier);
    }
  }
  const bool regular = has_repeated_shape(batch, sampled);
  const int64_t rows = regular ? repeated_rows(m, most_sampled()) : m;
  const model::StepInputs inputs = pack_inputs(batch, sampled, rows);
  const model::Decoder::Tap tap = make_tap(batch, begun.report.output);
  View logits;
  // Who watches the marks of a step wants them made.
  if (!regular || is_watched()) {
    logits = run_stage(inputs, tap, replica_rows);
  } else {
    const std::vector<int64_t> key = key_of(inputs);
    const int64_t flops_before = stream_->counters.matmul_flops;
    stream_->repeat(key, inputs.rows, [&] { logits = run_stage(inputs, nullptr, replica_rows); });
    // What the operators of a decode step are depends on the key alone: the arena is used alike
    // by each.
    logits = repeated_logits_.try_emplace(key, logits).first->second;
    // The work that was asked for; of spare rows' attention there is next to none.
    int64_t& flops = stream_->counters.matmul_flops;
    flops = flops_before + (flops - flops_before) / rows * m;
  }
  if (sampled.empty()) return;
  const auto count = std::ssize(sampled);
  if (groups_->last_stage()) {
    sample_rows(batch, sampled, logits.slice_rows(0, count), inputs.draws.slice_rows(0, count),
                begun);
  } else if (groups_->first_stage()) {
    expected_.push_back({batch.step, sampled.size()});
  }
}

void StageWorker::embed(const model::StepInputs& inputs, View residual,
                        const model::Decoder::Tap& tap) {
  ops_->resolve_tokens(*stream_, inputs.tokens, ring_.whole());
  decoder_->embed(*stream_, step_memory(), inputs.tokens, residual);
  if (tap) tap(-1, residual);
}

/// Whether a step has a shape that is made ready: it decodes, and samples every row. The same on
/// all ranks of the group.
bool StageWorker::has_repeated_shape(const StepBatch& batch,
                                     const std::vector<SampledRow>& sampled) const {
  return runs_ahead_ && !batch.trace && sampled.size() == batch.tokens.size() &&
         batch.chunks.size() == batch.tokens.size();
}

bool StageWorker::is_watched() const {
  return groups_->progress() != nullptr && groups_->progress()->is_watched();
}

std::vector<int64_t> StageWorker::key_of(const model::StepInputs& inputs) const {
  return {static_cast<int64_t>(stream_->numerics), inputs.tokens.rows(),
          inputs.rows.block_tables.shape[1]};
}

/// This stage's part of a step up to what it hands on: the last one's logits, or none where no row
/// is sampled.
View StageWorker::run_stage(const model::StepInputs& inputs, const model::Decoder::Tap& tap,
                            const std::vector<int64_t>& replica_rows) {
  const int stage = groups_->coordinates().stage;
  const View residual =
      arena_.allocate(DType::kF32, {inputs.tokens.rows(), decoder_->spec().hidden});
  const model::Collectives collectives(*ops_, *stream_, step_memory().host);
  const comm::Wire wire = comm::wire_of(stream_->numerics);
  if (groups_->first_stage()) {
    embed(inputs, residual, tap);
  } else {
    collectives.recv(groups_->pipeline(), residual, stage - 1, wire);
  }
  run_layers(inputs, residual, tap, replica_rows);
  if (!groups_->last_stage()) {
    collectives.send(groups_->pipeline(), residual, stage + 1, wire);
    return {};
  }
  if (inputs.sampled.rows() == 0) return {};
  return decoder_->logits(*stream_, step_memory(), residual, inputs.sampled);
}

/// Makes all shapes of decode steps ready, and has the device load what prompts need, so that the
/// first requests are as quick as later ones.
void StageWorker::prepare_steps() {
  if (!runs_ahead_) return;
  const base::SteadyClock clock;
  const int64_t begin = clock.now_ns();
  stream_->numerics = base::Numerics::kFast;  // proofs in invariant numerics may wait for theirs
  stream_->rehearse(true);
  constexpr int64_t kLeastPrompt = 16;
  for (int64_t rows = std::min(config_.limits.max_step_tokens, config_.limits.max_positions);
       rows >= kLeastPrompt; rows /= 2) {
    prepare_prompt(rows);
  }
  for (const int64_t rows : all_repeated_rows(most_sampled())) {
    for (const int64_t width : all_repeated_widths(config_.limits)) prepare_decodes(rows, width);
  }
  stream_->rehearse(false);
  stream_->counters = {};
  memory_.prepare_s = base::seconds_between(begin, clock.now_ns());
}

void StageWorker::prepare_prompt(int64_t rows) {
  groups_->enter(comm::Operation::kPrepare);
  arena_.reset();
  host_arena_.reset();
  const int64_t width =
      repeated_width(base::ceil_div(rows, int64_t{config_.limits.block_size}), config_.limits);
  const model::StepPacker::Fields in = packer_->begin(rows, 1, width, 1);
  std::iota(in.positions.i32(), in.positions.i32() + rows, 0);
  std::fill_n(in.sequences.i32(), rows, 0);
  std::fill_n(in.block_tables.i32(), width, static_cast<int32_t>(config_.limits.blocks));
  std::fill_n(in.tokens.i32(), rows, 0);
  in.sampled.i32()[0] = static_cast<int32_t>(rows - 1);
  const auto greedy = std::bit_cast<backend::DrawWords>(backend::Draw());
  std::copy(greedy.begin(), greedy.end(), in.draws.i32());
  const model::StepInputs inputs = packer_->finish(*stream_);
  unwatched([&] {
    const View logits = run_stage(inputs, nullptr, {rows});
    if (!groups_->last_stage()) return;
    draw_rows(*ops_, *stream_, *groups_, logits, inputs.draws, arena_.allocate(DType::kI32, {1}));
  });
  finish_preparing();
}

void StageWorker::prepare_decodes(int64_t rows, int64_t width) {
  groups_->enter(comm::Operation::kPrepare);
  arena_.reset();
  host_arena_.reset();
  fill_spare_rows(packer_->begin(rows, rows, width, rows), 0);
  const model::StepInputs inputs = packer_->finish(*stream_);
  const std::vector<int64_t> key = key_of(inputs);
  View logits;
  unwatched([&] {
    stream_->prepare(key, inputs.rows, [&] { logits = run_stage(inputs, nullptr, {rows}); });
  });
  if (logits.data != nullptr) repeated_logits_.try_emplace(key, logits);
  finish_preparing();
}

/// Who watches the marks of steps is to see those of real ones alone.
void StageWorker::unwatched(const std::function<void()>& enqueue) {
  comm::Progress* progress = groups_->progress();
  if (progress != nullptr) progress->pause_observer(true);
  enqueue();
  if (progress != nullptr) progress->pause_observer(false);
}

/// Waits for the device. What was enqueued has left marks of its own, but a rank that hangs here
/// hangs in its start.
void StageWorker::finish_preparing() {
  groups_->enter(comm::Operation::kPrepare);
  stream_->synchronize();
}

}  // namespace fourfold::runtime

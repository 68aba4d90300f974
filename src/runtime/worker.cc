#include "runtime/worker.h"

#include <sys/resource.h>

#include <algorithm>
#include <span>

#include "base/clock.h"
#include "base/sizes.h"
#include "comm/waiting.h"
#include "model/source.h"
#include "model/weights.h"
#include "runtime/stage_worker.h"

namespace fourfold::runtime {
namespace {

model::StepPacker::Limits packer_limits(const engine::ExecutorLimits& limits) {
  return {.rows = limits.max_step_tokens,
          .entries = limits.slots * base::ceil_div(limits.max_positions, limits.block_size)};
}

}  // namespace

base::Status StageWorker::load(const model::ModelSource& source) {
  const base::SteadyClock clock;
  const int64_t begin = clock.now_ns();
  FF_ASSIGN(decoder_,
            model::Decoder::create(source, *ops_, *groups_, *stream_, config_.limits.max_positions,
                                   config_.expert_exchange));
  runs_ahead_ = !ops_->in_host_memory() && !groups_->mesh().has_experts() &&
                (groups_->mesh().world_size() == 1 || groups_->on_devices());
  FF_TRY(allocate_cache());
  const int64_t arena_bytes =
      model::Decoder::arena_bytes(decoder_->spec(), *ops_, groups_->mesh(), config_.expert_exchange,
                                  config_.threads, config_.limits.max_step_tokens,
                                  std::min(config_.limits.slots, config_.limits.max_step_tokens));
  FF_ASSIGN(tensor::Buffer arena, ops_->allocate(arena_bytes));
  arena_ = tensor::Arena(std::move(arena));

  FF_ASSIGN(tensor::Buffer host_arena,
            ops_->allocate_host(model::Decoder::host_arena_bytes(
                decoder_->spec(), *ops_, groups_->mesh(), groups_->on_devices(),
                config_.expert_exchange, config_.limits.max_step_tokens,
                std::min(config_.limits.slots, config_.limits.max_step_tokens))));
  host_arena_ = tensor::Arena(std::move(host_arena));
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
  prepare_steps();
  return {};
}

base::Status StageWorker::allocate_cache() {
  const engine::ExecutorLimits& limits = config_.limits;
  for (int i = decoder_->first_layer(); i < decoder_->end_layer(); ++i) {
    const model::AttentionSpec& spec = decoder_->spec().layers[static_cast<size_t>(i)].attention;
    // One more block than sequences get, for rows that only fill up a step.
    backend::KvLayer layer{.blocks = limits.blocks + (runs_ahead_ ? 1 : 0),
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

base::Result<RankStats> StageWorker::stats(double peaks_s) {
  RankStats out;
  if (peaks_s > 0) {
    groups_->enter(comm::Operation::kMeasure);
    const int ranks = config_.group.devices() * config_.groups;
    const auto sharers = static_cast<int>(
        base::ceil_div(int64_t{ranks}, std::max(int64_t{1}, int64_t{config_.gpus})));
    FF_ASSIGN(out.peaks, ops_->measure_peaks(*stream_, peaks_s, sharers));
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

int world_rank(const RankConfig& config, int rank) {
  const mesh::Coordinates at = mesh::coordinates(config.group, rank);
  const int replica = config.group_index * config.group.dp + at.replica;
  return (at.stage * config.groups * config.group.dp + replica) * config.group.tp + at.shard;
}

int gpu_of(const RankConfig& config, int rank) {
  return config.gpus == 0 ? 0 : world_rank(config, rank) % config.gpus;
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
  if (config.has_own_gpus() && groups->mesh().world_size() > 1) FF_TRY(groups->connect_devices());
  std::unique_ptr<backend::Stream> stream = ops->make_stream(config.threads, cpus);
  if (comm::Progress* watched = groups->progress(); watched != nullptr) {
    watched->tell_device([device = stream.get()] { device->break_device(); });
  }
  auto worker =
      std::make_unique<StageWorker>(config, std::move(ops), std::move(groups), std::move(stream));
  FF_TRY(worker->load(source));
  return std::unique_ptr<Worker>(std::move(worker));
}

}  // namespace fourfold::runtime

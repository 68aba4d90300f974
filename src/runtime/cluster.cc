#include "runtime/cluster.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <future>
#include <mutex>
#include <optional>
#include <thread>
#include <unordered_map>
#include <utility>

#include "base/log.h"
#include "base/machine.h"
#include "base/sizes.h"
#include "comm/device_group.h"
#include "engine/replica_choice.h"
#include "model/decoder.h"
#include "model/weights.h"
#include "runtime/available_memory.h"
#include "runtime/fault.h"
#include "runtime/group_executor.h"

namespace fourfold::runtime {
namespace {

constexpr int32_t kHostStepTokens = 512;
constexpr int32_t kDeviceStepTokens = 8192;

mesh::ParallelConfig group_config(const mesh::Mesh& mesh) {
  mesh::ParallelConfig config = mesh.config();
  config.dp = mesh.lockstep();
  return config;
}

/// The mesh of one group of the scheme, which is legal for the model.
mesh::Mesh group_mesh(const ClusterConfig& config, const model::ModelSpec& spec) {
  const mesh::ModelDivisors divisors = spec.divisors();
  const mesh::Mesh all =
      mesh::Mesh::create(config.scheme, divisors, config.expert_placement).value();
  return mesh::Mesh::create(group_config(all), divisors, config.expert_placement).value();
}

/// The largest over the ranks.
int64_t largest_block_bytes(const ClusterConfig& config, const model::ModelSpec& spec,
                            const backend::Ops& ops) {
  int64_t largest = 0;
  const mesh::Mesh mesh = group_mesh(config, spec);
  for (int rank = 0; rank < mesh.world_size(); ++rank) {
    largest = std::max(
        largest, model::kv_block_bytes(spec, ops, model::share_of(mesh, rank), config.block_size));
  }
  return largest;
}

}  // namespace

int usable_gpus(const ClusterConfig& config, const backend::Ops& ops) {
  return config.ranks == RankMode::kThreads ? std::min(ops.gpus(), 1) : ops.gpus();
}

base::Result<model::ModelSource> open_source(const ClusterConfig& config) {
  FF_ASSIGN(model::ModelSource source, model::open_model(config.model, config.dummy_weights,
                                                         config.dummy_seed, config.dummy_routing));
  if (source.spec.experts() == 0) {
    const bool placed = config.expert_placement != mesh::ExpertPlacement::linear();
    if (placed || config.expert_exchange != model::ExchangeKind::kAuto) {
      return base::fail("{} needs a model with experts; {} is dense: leave it out",
                        placed ? "--expert-placement" : "--expert-exchange", config.model);
    }
  }
  return source;
}

namespace {

/// How many GPUs the ranks take in turn.
int gpus_of(const ClusterConfig& config, const backend::Ops& ops) {
  return std::min(usable_gpus(config, ops), config.scheme.devices());
}

/// Bytes of KV cache a rank may take where nobody said how many.
base::Result<int64_t> kv_budget(const ClusterConfig& config, const model::ModelSpec& spec,
                                const backend::Ops& ops, const engine::ExecutorLimits& limits) {
  const int devices = config.scheme.devices();
  const std::optional<int64_t> free = ops.free_bytes();
  if (!free) return available_memory_bytes() / 4 / devices;
  // Of a GPU's ranks each also has what the libraries and the driver take. The GPUs are alike, and
  // the one that was asked is as full as any.
  const int gpus = gpus_of(config, ops);
  const auto sharers = static_cast<int>(base::ceil_div(int64_t{devices}, int64_t{gpus}));
  int64_t reserve = int64_t{512} << 20;
  if (sharers == 1) {
    reserve +=
        ((config.scheme.tp > 1 ? 1 : 0) + (config.scheme.pp > 1 ? 1 : 0)) * comm::kDeviceGroupBytes;
  }
  engine::ExecutorLimits without_cache = limits;
  without_cache.blocks = 0;
  int64_t others = 0;
  for (const RankMemory& rank : plan_memory(config, spec, ops, without_cache)) {
    others = std::max(others, rank.weight_bytes + rank.activation_bytes);
  }
  const auto usable = static_cast<int64_t>(config.gpu_memory_share * static_cast<double>(*free));
  const int64_t budget = usable / sharers - others - reserve;
  if (budget <= 0) {
    return base::fail(
        "the model does not fit: {} bytes of weights and activations and {} of reserve on each of "
        "{} devices, with {} bytes of a {} for {} of them: split it over more, lower "
        "--max-num-batched-tokens, or raise --gpu-memory-utilization",
        others, reserve, devices, usable, ops.gpu(), sharers);
  }
  return budget;
}

}  // namespace

base::Result<engine::ExecutorLimits> plan_limits(const ClusterConfig& config,
                                                 const model::ModelSpec& spec,
                                                 const backend::Ops& ops) {
  engine::ExecutorLimits limits;
  limits.stages = config.scheme.pp;
  limits.depth = config.depth > 0 ? config.depth : config.scheme.pp + 1;
  limits.slots = config.max_running;
  limits.max_step_tokens = config.scheduler.max_step_tokens > 0 ? config.scheduler.max_step_tokens
                           : ops.in_host_memory()               ? kHostStepTokens
                                                                : kDeviceStepTokens;
  limits.block_size = config.block_size;
  const int64_t positions =
      config.max_positions > 0 ? int64_t{config.max_positions} : spec.max_positions;
  if (positions > spec.max_positions) {
    return base::fail(
        "sequences of {} tokens do not fit the model's context of {}; shorten the "
        "prompt or the output",
        positions, spec.max_positions);
  }
  limits.max_positions = static_cast<int32_t>(positions);

  const int64_t per_sequence = base::ceil_div(positions, config.block_size);
  const int64_t block_bytes = largest_block_bytes(config, spec, ops);
  int64_t budget = config.kv_bytes;
  if (budget == 0) {
    FF_ASSIGN(budget, kv_budget(config, spec, ops, limits));
  }
  // A device keeps one more block, for rows that only fill up a step.
  const int64_t spare = ops.in_host_memory() ? 0 : 1;
  const int64_t affordable = config.kv_blocks > 0 ? config.kv_blocks : budget / block_bytes - spare;
  if (affordable < per_sequence) {
    return base::fail(
        "a KV cache of {} bytes a device holds {} blocks of {} positions, but one sequence of {} "
        "tokens needs {} ({} bytes): raise --kv-cache-memory-bytes, shorten --max-model-len, or "
        "split over more devices",
        budget, affordable, config.block_size, positions, per_sequence, per_sequence * block_bytes);
  }
  limits.blocks = std::min(affordable, per_sequence * config.max_running);
  return limits;
}

std::vector<RankMemory> plan_memory(const ClusterConfig& config, const model::ModelSpec& spec,
                                    const backend::Ops& ops, const engine::ExecutorLimits& limits) {
  const mesh::Mesh mesh = group_mesh(config, spec);
  const int64_t activation_bytes =
      model::Decoder::arena_bytes(spec, ops, mesh, config.expert_exchange, config.cpus_per_device,
                                  limits.max_step_tokens,
                                  std::min(limits.slots, limits.max_step_tokens)) +
      model::Decoder::table_bytes(spec, limits.max_positions) + step_input_bytes(limits);
  std::vector<RankMemory> out;
  for (int rank = 0; rank < mesh.world_size(); ++rank) {
    const model::RankShare share = model::share_of(mesh, rank);
    RankMemory memory;
    memory.weight_bytes = model::weight_bytes(spec, ops, share);
    memory.kv_bytes = limits.blocks * model::kv_block_bytes(spec, ops, share, config.block_size);
    memory.activation_bytes = activation_bytes;
    out.push_back(memory);
  }
  return out;
}

namespace {

std::vector<engine::SequenceId> sequences_of(const engine::Request& request) {
  std::vector<engine::SequenceId> ids = {request.id};
  ids.insert(ids.end(), request.forks.begin(), request.forks.end());
  return ids;
}

/// One group: its executor, its engine, and the thread that drives them.
class Group {
 public:
  Group(std::unique_ptr<GroupExecutor> executor, const engine::SchedulerOptions& options)
      : executor_(std::move(executor)),
        engine_(*executor_, options, clock_),
        thread_([this] { loop(); }) {}

  ~Group() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_one();
    thread_.join();
  }
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;

  /// Runs `work` on the engine's thread and waits for it.
  template <typename Work>
  auto call(Work work) {
    std::packaged_task<decltype(work(engine_))()> task([&] { return work(engine_); });
    auto result = task.get_future();
    post([&task] { task(); });
    return result.get();
  }

  /// Never waits for the step in progress: requests sent together start together. What the engine
  /// refuses comes back as an event of each sequence. `new_prompt_tokens`: those to compute.
  void submit(engine::Request request, int64_t new_prompt_tokens, EventSink sink) {
    const std::vector<engine::SequenceId> ids = sequences_of(request);
    outstanding_tokens_ += new_prompt_tokens + std::ssize(ids) * request.max_new_tokens;
    post([this, ids, new_prompt_tokens, request = std::move(request),
          sink = std::move(sink)]() mutable {
      for (const engine::SequenceId id : ids) {
        const int64_t prompt = id == request.id ? new_prompt_tokens : 0;
        sinks_.emplace(id, Sink{sink, prompt, request.max_new_tokens});
      }
      const base::Status added = engine_.add(std::move(request));
      if (added.ok()) return;
      for (const engine::SequenceId id : ids) {
        dispatch({.id = id,
                  .token = std::nullopt,
                  .finish = engine::FinishReason::kFailed,
                  .failure = added.error().message});
      }
    });
  }

  /// The group has failed and will take no more.
  bool failed() const { return failed_; }

  void cancel(engine::SequenceId id) {
    post([this, id] { engine_.cancel(id); });
  }

  /// Prompt tokens to compute and tokens to sample, of all requests.
  int64_t outstanding_tokens() const { return outstanding_tokens_; }
  GroupStatus status() {
    const std::lock_guard lock(mutex_);
    GroupStatus out = status_;
    if (!idle_) out.without_step_ns = clock_.now_ns() - step_ns_;
    return out;
  }
  GroupExecutor& executor() { return *executor_; }

 private:
  struct Sink {
    EventSink call;
    int64_t prompt_tokens = 0;  ///< to compute
    int64_t output_tokens = 0;  ///< to sample
  };

  void post(std::function<void()> work) {
    {
      const std::lock_guard lock(mutex_);
      inbox_.push_back(std::move(work));
    }
    wake_.notify_one();
  }

  void loop() {
    std::vector<std::function<void()>> work;
    while (true) {
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [&] { return stopping_ || !inbox_.empty() || engine_.has_work(); });
        if (stopping_) return;
        if (std::exchange(idle_, false)) step_ns_ = clock_.now_ns();
        work.swap(inbox_);
      }
      for (const auto& run : work) run();
      work.clear();
      const std::vector<engine::SequenceEvent> events = engine_.run_once();
      note_step();  // before anybody hears of it
      for (const engine::SequenceEvent& event : events) dispatch(event);
    }
  }

  void note_step() {
    if (!engine_.failure().empty()) failed_ = true;
    const std::lock_guard lock(mutex_);
    step_ns_ = clock_.now_ns();
    idle_ = !engine_.has_work();
    status_ = {.occupancy = engine_.occupancy(),
               .stats = engine_.stats(),
               .failure = engine_.failure(),
               .without_step_ns = 0};
  }

  void dispatch(const engine::SequenceEvent& event) {
    const auto it = sinks_.find(event.id);
    if (it == sinks_.end()) return;
    Sink& sink = it->second;
    sink.call(event, clock_.now_ns());
    if (event.token) {
      outstanding_tokens_ -= std::exchange(sink.prompt_tokens, 0) + 1;
      --sink.output_tokens;
    }
    if (event.finish) {
      outstanding_tokens_ -= sink.prompt_tokens + sink.output_tokens;
      sinks_.erase(it);
    }
  }

  base::SteadyClock clock_;
  std::unique_ptr<GroupExecutor> executor_;
  engine::Engine engine_;                               // the thread's
  std::unordered_map<engine::SequenceId, Sink> sinks_;  // the thread's
  std::atomic<int64_t> outstanding_tokens_ = 0;
  std::atomic<bool> failed_ = false;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::function<void()>> inbox_;
  GroupStatus status_ = {.occupancy = engine_.occupancy()};  // after the latest step
  int64_t step_ns_ = 0;  // when it ended, or when work came to an idle engine
  bool idle_ = true;
  bool stopping_ = false;
  std::thread thread_;
};

class LocalCluster final : public Cluster {
 public:
  LocalCluster(const mesh::Mesh& mesh, const engine::ExecutorLimits& limits, bool prefix_cache)
      : mesh_(mesh), limits_(limits) {
    const auto groups = static_cast<size_t>(mesh.groups());
    if (prefix_cache && groups > 1) {
      affinity_.emplace(groups, limits.blocks * mesh.lockstep(), limits.block_size);
    }
  }

  void add_group(std::unique_ptr<GroupExecutor> executor, const engine::SchedulerOptions& options) {
    groups_.push_back(std::make_unique<Group>(std::move(executor), options));
  }

  /// How long the slowest rank took for each part of its start.
  void tell_phases(const StartProgress& progress) const {
    double load_s = 0;
    double prepare_s = 0;
    for (const auto& group : groups_) {
      for (const RankMemory& memory : group->executor().memory()) {
        load_s = std::max(load_s, memory.load_s);
        prepare_s = std::max(prepare_s, memory.prepare_s);
      }
    }
    if (prepare_s == 0) return;
    progress(fmt::format("ready (weights and cache {:.1f} s, steps {:.1f} s)", load_s, prepare_s));
  }

  engine::SequenceId next_id() override { return engine::SequenceId(next_id_++); }

  base::Status submit(engine::Request request, EventSink sink) override {
    const std::lock_guard submit_lock(mutex_);
    std::vector<int64_t> known(groups_.size());
    if (affinity_) known = affinity_->known_tokens(request.prompt);
    std::vector<engine::ReplicaLoad> loads;
    std::vector<size_t> alive;
    for (size_t g = 0; g < groups_.size(); ++g) {
      if (groups_[g]->failed()) continue;
      alive.push_back(g);
      const engine::Occupancy occupancy = groups_[g]->status().occupancy;
      loads.push_back({.outstanding_tokens = groups_[g]->outstanding_tokens(),
                       .free_blocks = occupancy.blocks - occupancy.used_blocks,
                       .known_tokens = known[g]});
    }
    if (alive.empty()) return base::fail("every group of the scheme has failed");
    const size_t chosen = alive[engine::choose_replica(loads)];
    if (affinity_) affinity_->record(chosen, request.prompt);
    for (const engine::SequenceId id : sequences_of(request)) group_of_[id] = chosen;
    const auto forward = [this, sink = std::move(sink)](const engine::SequenceEvent& event,
                                                        int64_t now_ns) {
      if (event.finish) {
        const std::lock_guard lock(mutex_);
        group_of_.erase(event.id);
      }
      sink(event, now_ns);
    };
    const int64_t new_tokens = std::ssize(request.prompt) - known[chosen];
    groups_[chosen]->submit(std::move(request), new_tokens, forward);
    return {};
  }

  void cancel(engine::SequenceId id) override {
    const std::lock_guard lock(mutex_);
    const auto it = group_of_.find(id);
    if (it != group_of_.end()) groups_[it->second]->cancel(id);
  }

  void trace(engine::StepObserver observer) override {
    for (const auto& group : groups_) {
      group->call([&](engine::Engine& engine) { engine.trace(observer); });
    }
  }

  void set_numerics(base::Numerics numerics) override {
    forget_prefixes();
    for (const auto& group : groups_) {
      group->call([&](engine::Engine& engine) { engine.set_numerics(numerics); });
    }
  }

  void clear_prefix_cache() override {
    forget_prefixes();
    for (const auto& group : groups_) {
      group->call([](engine::Engine& engine) { engine.clear_prefix_cache(); });
    }
  }

  engine::EngineStats engine_stats() override {
    engine::EngineStats total;
    for (const auto& group : groups_) {
      total.merge(group->call([](engine::Engine& engine) { return engine.stats(); }));
    }
    return total;
  }

  std::vector<GroupStatus> status() override {
    std::vector<GroupStatus> out;
    for (const auto& group : groups_) out.push_back(group->status());
    return out;
  }

  base::Result<std::vector<RankReport>> rank_reports(double peaks_s) override {
    std::vector<std::future<base::Result<std::vector<RankStats>>>> asked;
    for (const auto& group : groups_) {
      asked.push_back(
          std::async(std::launch::async, [&] { return group->executor().stats(peaks_s); }));
    }
    std::vector<RankReport> out;
    for (size_t g = 0; g < groups_.size(); ++g) {
      GroupExecutor& executor = groups_[g]->executor();
      FF_ASSIGN(const std::vector<RankStats> stats, asked[g].get());
      const std::vector<RankMemory>& memory = executor.memory();
      for (size_t r = 0; r < stats.size(); ++r) {
        const mesh::Coordinates at = group_coordinates(static_cast<int>(g), static_cast<int>(r));
        mesh::ExpertCoordinates expert_at;
        if (mesh_.has_experts()) expert_at = mesh_.expert_coordinates(mesh_.rank(at));
        out.push_back({.replica = at.replica,
                       .at = {.stage = at.stage, .shard = at.shard},
                       .expert_at = expert_at,
                       .memory = memory[r],
                       .stats = stats[r]});
      }
    }
    return out;
  }

  const engine::ExecutorLimits& limits() const override { return limits_; }

 private:
  /// A group's ranks are numbered inside it; its replicas follow those of earlier groups.
  mesh::Coordinates group_coordinates(int group, int rank) const {
    mesh::Coordinates at = mesh::coordinates(group_config(mesh_), rank);
    at.replica += group * mesh_.lockstep();
    return at;
  }

  void forget_prefixes() {
    const std::lock_guard lock(mutex_);
    if (affinity_) affinity_->clear();
  }

  mesh::Mesh mesh_;
  engine::ExecutorLimits limits_;
  std::atomic<int64_t> next_id_ = 0;
  std::mutex mutex_;
  std::unordered_map<engine::SequenceId, size_t> group_of_;
  std::optional<engine::PrefixAffinity> affinity_;
  std::vector<std::unique_ptr<Group>> groups_;
};

RankConfig rank_config(const ClusterConfig& config, const mesh::Mesh& mesh,
                       const engine::ExecutorLimits& limits, int gpus, int group) {
  RankConfig out{.model = config.model,
                 .dummy_weights = config.dummy_weights,
                 .dummy_seed = config.dummy_seed,
                 .dummy_routing = config.dummy_routing,
                 .group = group_config(mesh),
                 .backend = config.backend,
                 .isa = config.isa,
                 .threads = config.cpus_per_device,
                 .gpus = gpus,
                 .cpus = {},
                 .limits = limits,
                 .expert_placement = config.expert_placement,
                 .expert_exchange = config.expert_exchange,
                 .groups = mesh.groups(),
                 .group_index = group};
  out.limits.replicas = mesh.lockstep();
  // Ranks are pinned where every one can have cores of its own.
  const std::vector<int> cpus = base::usable_cpus();
  const auto per_group =
      static_cast<size_t>(mesh.group_size()) * static_cast<size_t>(config.cpus_per_device);
  if (per_group * static_cast<size_t>(mesh.groups()) <= cpus.size()) {
    const auto begin = cpus.begin() + static_cast<std::ptrdiff_t>(per_group) * group;
    out.cpus.assign(begin, begin + static_cast<std::ptrdiff_t>(per_group));
  }
  return out;
}

}  // namespace

engine::Occupancy Cluster::occupancy() {
  engine::Occupancy total;
  for (const GroupStatus& group : status()) total.merge(group.occupancy);
  return total;
}

base::Result<std::unique_ptr<Cluster>> Cluster::start(const ClusterConfig& config,
                                                      const StartProgress& progress) {
  FF_ASSIGN(const model::ModelSource source, open_source(config));
  FF_ASSIGN(const mesh::Mesh mesh, mesh::create_or_suggest(config.scheme, source.spec.divisors(),
                                                           config.expert_placement));
  FF_ASSIGN(const std::unique_ptr<backend::Ops> ops, backend::make_ops(config.backend, config.isa));
  FF_ASSIGN(const engine::ExecutorLimits limits, plan_limits(config, source.spec, *ops));
  FF_ASSIGN(const std::optional<FaultSpec> fault, FaultSpec::from_environment());
  if (fault && fault->rank && *fault->rank >= mesh.world_size()) {
    spdlog::warn("{} names rank {}, but {} has ranks 0 to {}: nothing will happen", kFaultVariable,
                 *fault->rank, mesh::scheme_name(config.scheme), mesh.world_size() - 1);
  }
  if (fault && fault->action == FaultSpec::Action::kCorrupt && !ops->in_host_memory()) {
    return base::fail("{} cannot change a value in the memory of a GPU: use --backend cpu",
                      kFaultVariable);
  }
  if (fault && fault->action == FaultSpec::Action::kTrap && ops->in_host_memory()) {
    return base::fail("{} cannot break a GPU where there is none: use --backend cuda",
                      kFaultVariable);
  }
  auto cluster = std::make_unique<LocalCluster>(mesh, limits, config.scheduler.prefix_cache);
  std::mutex progress_mutex;
  const StartProgress serialised = [&](const std::string& line) {
    const std::lock_guard lock(progress_mutex);
    progress(line);
  };
  const int gpus = gpus_of(config, *ops);
  // All groups load at once.
  std::vector<std::future<base::Result<std::unique_ptr<GroupExecutor>>>> starting;
  for (int g = 0; g < mesh.groups(); ++g) {
    starting.push_back(std::async(std::launch::async, [&, g] {
      return start_group(rank_config(config, mesh, limits, gpus, g), config.ranks, serialised,
                         config.program);
    }));
  }
  base::Status status;
  for (auto& future : starting) {
    auto executor = future.get();
    if (!executor.ok()) {
      status = executor.error();
    } else if (status.ok()) {
      cluster->add_group(std::move(executor).value(), config.scheduler);
    }
  }
  FF_TRY(status);
  cluster->tell_phases(progress);
  return std::unique_ptr<Cluster>(std::move(cluster));
}

}  // namespace fourfold::runtime

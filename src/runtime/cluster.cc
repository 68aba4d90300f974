#include "runtime/cluster.h"

#include <algorithm>
#include <atomic>
#include <future>
#include <mutex>
#include <optional>
#include <thread>
#include <unordered_map>
#include <utility>

#include "base/log.h"
#include "engine/replica_choice.h"
#include "runtime/crash_suspects.h"
#include "runtime/fault.h"

namespace fourfold::runtime {
namespace {

constexpr int kNoGroup = -1;

/// One flight for each choice of a request.
std::vector<Flight> flights_of(engine::Request request, const EventSink& sink) {
  std::vector<engine::SequenceId> ids = {request.id};
  ids.insert(ids.end(), request.forks.begin(), request.forks.end());
  const auto shared = std::make_shared<const engine::Request>(std::move(request));
  std::vector<Flight> flights;
  for (const engine::SequenceId id : ids) {
    flights.push_back({.id = id,
                       .request = shared,
                       .choice = static_cast<int32_t>(flights.size()),
                       .output = {},
                       .sink = sink});
  }
  return flights;
}

/// What an engine is asked for so that it goes on with a flight.
engine::Request rest_of(const Flight& flight) {
  engine::Request rest = *flight.request;
  rest.id = flight.id;
  rest.forks.clear();
  rest.sampling.choice += flight.choice;
  rest.output = flight.output;
  // With the first token all of them had been told.
  if (!rest.output.empty()) rest.score_prompt = false;
  return rest;
}

/// All choices of one request, none of which has begun.
bool is_whole_request(const std::vector<Flight>& flights) {
  return flights.size() == flights[0].request->forks.size() + 1 &&
         std::all_of(flights.begin(), flights.end(), [&](const Flight& flight) {
           return flight.request == flights[0].request && flight.output.empty();
         });
}

class LocalCluster final : public Cluster, private GroupOwner {
 public:
  LocalCluster(const ClusterConfig& config, const mesh::Mesh& mesh,
               const engine::ExecutorLimits& limits, int gpus)
      : config_(config),
        mesh_(mesh),
        limits_(limits),
        gpus_(gpus),
        suspects_(config.scheduler.lookahead + 1) {
    const auto groups = static_cast<size_t>(mesh.groups());
    if (config.scheduler.prefix_cache && groups > 1) {
      affinity_.emplace(groups, limits.blocks * mesh.lockstep(), limits.block_size);
    }
  }
  ~LocalCluster() override {
    {
      const std::lock_guard lock(mutex_);
      ending_ = true;
    }
    groups_.clear();
  }
  LocalCluster(const LocalCluster&) = delete;
  LocalCluster& operator=(const LocalCluster&) = delete;

  /// Starts all groups at once.
  base::Status start(const StartProgress& progress);

  engine::SequenceId next_id() override { return engine::SequenceId(next_id_++); }
  base::Status submit(engine::Request request, EventSink sink) override;
  void cancel(engine::SequenceId id) override;

  void trace(engine::StepObserver observer) override {
    for (const auto& group : groups_) group->trace(observer);
  }
  void set_numerics(base::Numerics numerics) override {
    forget_prefixes();
    for (const auto& group : groups_) group->set_numerics(numerics);
  }
  void clear_prefix_cache() override {
    forget_prefixes();
    for (const auto& group : groups_) group->clear_prefix_cache();
  }
  engine::EngineStats engine_stats() override {
    engine::EngineStats total;
    for (const auto& group : groups_) total.merge(group->stats());
    return total;
  }
  std::vector<GroupStatus> status() override {
    std::vector<GroupStatus> out;
    for (const auto& group : groups_) {
      GroupStatus& status = out.emplace_back(group->status());
      status.ranks = std::ssize(group->memory());
      status.stages = config_.scheme.pp;
    }
    return out;
  }
  base::Result<std::vector<RankReport>> rank_reports(double peaks_s) override;
  const engine::ExecutorLimits& limits() const override { return limits_; }

 private:
  /// Where a sequence is.
  struct Route {
    int group = kNoGroup;  ///< or it waits here
    bool cancelled = false;
  };
  /// The last event of a sequence that no engine has. Told when the mutex is free.
  struct Ending {
    Flight flight;
    engine::FinishReason reason;
    std::string failure;
  };

  template <typename Work>
  void locked(Work work);
  void end(Flight flight, engine::FinishReason reason, std::string failure = {}) {
    routes_.erase(flight.id);
    endings_.push_back({std::move(flight), reason, std::move(failure)});
  }
  void refuse(Flight flight);

  bool any_up() const {
    return std::any_of(groups_.begin(), groups_.end(), [](const auto& g) { return g->up(); });
  }
  int choose(const std::vector<int64_t>& known) const;
  void place(std::vector<Flight> flights);
  void send(std::vector<Flight> flights);
  void try_suspects();

  void on_event(const Flight& flight, const engine::SequenceEvent& event, int64_t now_ns) override;
  void on_down(int group, std::vector<Flight> flights, const GroupFailure* failure) override;
  void on_up(int group, double recovery_s) override;
  void log_failure(int group, const GroupFailure& failure, size_t aboard) const;

  void tell_phases(const StartProgress& progress) const;
  mesh::Coordinates group_coordinates(int group, int rank) const;
  void forget_prefixes() {
    const std::lock_guard lock(mutex_);
    if (affinity_) affinity_->clear();
  }

  const ClusterConfig config_;
  const mesh::Mesh mesh_;
  const engine::ExecutorLimits limits_;
  const int gpus_;
  base::SteadyClock clock_;
  std::atomic<int64_t> next_id_ = 0;

  std::mutex mutex_;  // guards what follows; a group's thread may wait for it, so it waits for none
  std::unordered_map<engine::SequenceId, Route> routes_;
  std::optional<engine::PrefixAffinity> affinity_;
  std::vector<Flight> held_;  // until a group is up
  CrashSuspects suspects_;
  std::vector<Ending> endings_;
  bool ending_ = false;

  std::vector<std::unique_ptr<Group>> groups_;  // all there before anything is submitted
};

template <typename Work>
void LocalCluster::locked(Work work) {
  std::vector<Ending> endings;
  {
    const std::lock_guard lock(mutex_);
    work();
    endings.swap(endings_);
  }
  for (const Ending& ending : endings) {
    ending.flight.sink({.id = ending.flight.id,
                        .token = std::nullopt,
                        .finish = ending.reason,
                        .failure = ending.failure},
                       clock_.now_ns());
  }
}

// --- requests ---

base::Status LocalCluster::submit(engine::Request request, EventSink sink) {
  std::vector<Flight> flights = flights_of(std::move(request), sink);
  base::Status status;
  locked([&] {
    if (!config_.restart && !any_up()) {
      status = base::fail("every group of the scheme has failed");
    } else if (suspects_.is_condemned(flights[0].request->prompt, clock_.now_ns())) {
      for (Flight& flight : flights) refuse(std::move(flight));
    } else {
      place(std::move(flights));
    }
  });
  return status;
}

void LocalCluster::cancel(engine::SequenceId id) {
  locked([&] {
    const auto route = routes_.find(id);
    if (route == routes_.end()) return;
    route->second.cancelled = true;  // for the case that its group fails before it hears of it
    if (route->second.group != kNoGroup) {
      return groups_[static_cast<size_t>(route->second.group)]->cancel(id);
    }
    std::optional<Flight> flight = suspects_.remove(id);
    if (!flight) {
      const auto held = std::find_if(held_.begin(), held_.end(),
                                     [&](const Flight& other) { return other.id == id; });
      CHECK(held != held_.end(), "sequence {} is nowhere", id.value);
      flight = std::move(*held);
      held_.erase(held);
    }
    end(std::move(*flight), engine::FinishReason::kCancelled);
  });
}

void LocalCluster::refuse(Flight flight) {
  end(std::move(flight), engine::FinishReason::kRefused,
      fmt::format("ranks crashed twice with this prompt; it is refused for {} s",
                  CrashSuspects::kRefusalNs / 1'000'000'000));
}

/// The best group that is up, if one is.
int LocalCluster::choose(const std::vector<int64_t>& known) const {
  std::vector<engine::ReplicaLoad> loads;
  std::vector<int> up;
  for (size_t g = 0; g < groups_.size(); ++g) {
    if (!groups_[g]->up()) continue;
    up.push_back(static_cast<int>(g));
    const engine::Occupancy occupancy = groups_[g]->status().occupancy;
    loads.push_back({.outstanding_tokens = groups_[g]->outstanding_tokens(),
                     .free_blocks = occupancy.blocks - occupancy.used_blocks,
                     .known_tokens = known[g]});
  }
  return up.empty() ? kNoGroup : up[engine::choose_replica(loads)];
}

/// Each goes to a group, or is held until one is up; choices of one request that have not begun go
/// together.
void LocalCluster::place(std::vector<Flight> flights) {
  std::sort(flights.begin(), flights.end(),
            [](const Flight& a, const Flight& b) { return a.id.value < b.id.value; });
  std::unordered_map<const engine::Request*, std::vector<Flight>> families;
  std::vector<const engine::Request*> order;
  for (Flight& flight : flights) {
    std::vector<Flight>& family = families[flight.request.get()];
    if (family.empty()) order.push_back(flight.request.get());
    family.push_back(std::move(flight));
  }
  for (const engine::Request* request : order) {
    std::vector<Flight>& family = families[request];
    if (is_whole_request(family)) {
      send(std::move(family));
      continue;
    }
    for (Flight& flight : family) {
      std::vector<Flight> alone;
      alone.push_back(std::move(flight));
      send(std::move(alone));
    }
  }
}

/// One flight, or all those of a request.
void LocalCluster::send(std::vector<Flight> flights) {
  const engine::Request& request = *flights[0].request;
  std::vector<int64_t> known(groups_.size());
  if (affinity_) known = affinity_->known_tokens(request.prompt);
  const int chosen = choose(known);
  for (const Flight& flight : flights) routes_[flight.id].group = chosen;
  if (chosen == kNoGroup) {
    held_.insert(held_.end(), std::make_move_iterator(flights.begin()),
                 std::make_move_iterator(flights.end()));
    return;
  }
  const auto group = static_cast<size_t>(chosen);
  if (affinity_) affinity_->record(group, request.prompt);
  engine::Request work = is_whole_request(flights) ? request : rest_of(flights[0]);
  const int64_t tokens = std::ssize(work.prompt) + std::ssize(work.output);
  groups_[group]->submit(std::move(work), tokens - known[group], std::move(flights));
}

/// The next suspect goes on, if there is a group for it.
void LocalCluster::try_suspects() {
  while (any_up()) {
    std::optional<Flight> flight = suspects_.next();
    if (!flight) return;
    if (suspects_.is_condemned(flight->request->prompt, clock_.now_ns())) {
      suspects_.acquit(*flight, /*finished=*/true);
      refuse(std::move(*flight));
      continue;
    }
    std::vector<Flight> alone;
    alone.push_back(std::move(*flight));
    send(std::move(alone));
  }
}

// --- what groups tell ---

void LocalCluster::on_event(const Flight& flight, const engine::SequenceEvent& event,
                            int64_t now_ns) {
  if (event.finish || suspects_.is_on_trial(event.id)) {
    locked([&] {
      if (event.finish) routes_.erase(event.id);
      if (suspects_.acquit(flight, event.finish.has_value()) && !ending_) try_suspects();
    });
  }
  flight.sink(event, now_ns);
}

void LocalCluster::on_down(int group, std::vector<Flight> flights, const GroupFailure* failure) {
  const size_t aboard = flights.size();
  locked([&] {
    if (ending_) return;
    if (failure != nullptr && config_.restart) log_failure(group, *failure, aboard);
    if (affinity_ && failure != nullptr) affinity_->clear(static_cast<size_t>(group));
    const bool crashed = failure != nullptr && failure->cause == FailureCause::kCrashed;
    std::vector<Flight> innocent;
    for (Flight& flight : flights) {
      Route& route = routes_.at(flight.id);
      route.group = kNoGroup;
      const bool on_trial = suspects_.is_on_trial(flight.id);
      if (route.cancelled) {
        suspects_.acquit(flight, /*finished=*/true);
        end(std::move(flight), engine::FinishReason::kCancelled);
      } else if (!config_.restart) {
        end(std::move(flight), engine::FinishReason::kFailed,
            groups_[static_cast<size_t>(group)]->status().failure);
      } else if (crashed && on_trial) {
        suspects_.condemn(flight, clock_.now_ns());
        refuse(std::move(flight));
      } else if (crashed) {
        suspects_.accuse(std::move(flight));
      } else if (on_trial) {
        suspects_.retry(std::move(flight));
      } else {
        innocent.push_back(std::move(flight));
      }
    }
    place(std::move(innocent));
    try_suspects();
  });
}

void LocalCluster::log_failure(int group, const GroupFailure& failure, size_t aboard) const {
  spdlog::warn("group {} failed ({}, noticed within {:.2f} s), {} sequences {}: {}", group,
               name_of(failure.cause), failure.detection_s, aboard,
               any_up() ? "go on elsewhere" : "wait for its restart", failure.text);
}

void LocalCluster::on_up(int group, double recovery_s) {
  spdlog::warn("group {} is up again after {:.2f} s", group, recovery_s);
  locked([&] {
    if (ending_) return;
    place(std::exchange(held_, {}));
    try_suspects();
  });
}

// --- ranks ---

base::Status LocalCluster::start(const StartProgress& progress) {
  std::mutex progress_mutex;
  const StartProgress serialised = [&](const std::string& line) {
    const std::lock_guard lock(progress_mutex);
    progress(line);
  };
  const auto start_ranks = [config = config_, mesh = mesh_, limits = limits_, gpus = gpus_](

                               int group, int restarts, const StartProgress& told,
                               const std::stop_token& stop) {
    RankConfig ranks = rank_config(config, mesh, limits, gpus, group);
    ranks.restarts = restarts;
    return start_group(ranks, config.ranks, told, config.program, stop);
  };
  std::vector<std::future<base::Result<std::unique_ptr<GroupExecutor>>>> starting;
  for (int g = 0; g < mesh_.groups(); ++g) {
    starting.push_back(
        std::async(std::launch::async, [&, g] { return start_ranks(g, 0, serialised, {}); }));
  }
  base::Status status;
  std::vector<std::unique_ptr<GroupExecutor>> executors;
  for (auto& future : starting) {
    auto executor = future.get();
    if (!executor.ok()) {
      status = executor.error();
    } else {
      executors.push_back(std::move(executor).value());
    }
  }
  FF_TRY(status);
  const std::lock_guard lock(mutex_);
  for (int g = 0; g < mesh_.groups(); ++g) {
    groups_.push_back(std::make_unique<Group>(
        Group::Options{.index = g,
                       .scheduler = config_.scheduler,
                       .restart = config_.restart,
                       .start =
                           [=](int restarts, const std::stop_token& stop) {
                             return start_ranks(
                                 g, restarts, [](const std::string&) {}, stop);
                           }},
        std::move(executors[static_cast<size_t>(g)]), static_cast<GroupOwner&>(*this)));
  }
  tell_phases(progress);
  return {};
}

/// How long the slowest rank took for each part of its start.
void LocalCluster::tell_phases(const StartProgress& progress) const {
  double load_s = 0;
  double prepare_s = 0;
  for (const auto& group : groups_) {
    for (const RankMemory& memory : group->memory()) {
      load_s = std::max(load_s, memory.load_s);
      prepare_s = std::max(prepare_s, memory.prepare_s);
    }
  }
  if (prepare_s == 0) return;
  progress(fmt::format("ready (weights and cache {:.1f} s, steps {:.1f} s)", load_s, prepare_s));
}

base::Result<std::vector<RankReport>> LocalCluster::rank_reports(double peaks_s) {
  std::vector<std::future<base::Result<std::vector<RankStats>>>> asked;
  for (const auto& group : groups_) {
    asked.push_back(std::async(std::launch::async, [&] { return group->rank_stats(peaks_s); }));
  }
  std::vector<RankReport> out;
  for (size_t g = 0; g < groups_.size(); ++g) {
    FF_ASSIGN(const std::vector<RankStats> stats, asked[g].get());
    for (size_t r = 0; r < stats.size(); ++r) {
      const mesh::Coordinates at = group_coordinates(static_cast<int>(g), static_cast<int>(r));
      mesh::ExpertCoordinates expert_at;
      if (mesh_.has_experts()) expert_at = mesh_.expert_coordinates(mesh_.rank(at));
      out.push_back({.replica = at.replica,
                     .at = {.stage = at.stage, .shard = at.shard},
                     .expert_at = expert_at,
                     .memory = groups_[g]->memory()[r],
                     .stats = stats[r]});
    }
  }
  return out;
}

/// A group's ranks are numbered inside it; its replicas follow those of earlier groups.
mesh::Coordinates LocalCluster::group_coordinates(int group, int rank) const {
  mesh::Coordinates at = mesh::coordinates(group_config(mesh_), rank);
  at.replica += group * mesh_.lockstep();
  return at;
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
  auto cluster = std::make_unique<LocalCluster>(config, mesh, limits, gpus_of(config, *ops));
  FF_TRY(cluster->start(progress));
  return std::unique_ptr<Cluster>(std::move(cluster));
}

}  // namespace fourfold::runtime

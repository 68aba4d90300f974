#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/clock.h"
#include "base/numerics.h"
#include "base/result.h"
#include "engine/engine.h"
#include "runtime/group_executor.h"
#include "runtime/restart_delays.h"

namespace fourfold::runtime {

/// A group as its engine left it after its latest step.
struct GroupStatus {
  int64_t ranks = 0;
  int64_t stages = 0;  ///< that its ranks form
  engine::Occupancy occupancy;
  engine::EngineStats stats;  ///< of all its lives
  std::string failure;        ///< empty: it lives
  /// How long it has had work and finished no step; 0 without work.
  int64_t without_step_ns = 0;

  /// Since the cluster's start.
  std::array<int64_t, kFailureCauses> failures{};
  int64_t restarts = 0;          ///< that succeeded
  int64_t migrated = 0;          ///< sequences that had to go on elsewhere, or wait
  double detection_s = 0;        ///< GroupFailure::detection_s of all failures
  double recovery_s = 0;         ///< from failures to the ends of restarts
  std::string previous_failure;  ///< "": it never failed before
};

/// Events of one request, called on an engine thread; must not block.
using EventSink = std::function<void(const engine::SequenceEvent& event, int64_t now_ns)>;

/// One sequence on its way through a cluster: all that it takes to go on with it on any group.
struct Flight {
  engine::SequenceId id;
  std::shared_ptr<const engine::Request> request;  ///< as it was submitted, with all its choices
  int32_t choice = 0;                              ///< behind request->sampling.choice
  std::vector<engine::TokenId> output;             ///< so far; what `sink` was told
  EventSink sink;
};

/// The cluster as a group sees it. Called on the group's thread.
class GroupOwner {
 public:
  virtual ~GroupOwner() = default;
  /// An event of a sequence; its token, if any, is in flight.output.
  virtual void on_event(const Flight& flight, const engine::SequenceEvent& event,
                        int64_t now_ns) = 0;
  /// The group has failed with these aboard, or had failed when they came (`failure` is null). They
  /// are the owner's now.
  virtual void on_down(int group, std::vector<Flight> flights, const GroupFailure* failure) = 0;
  /// It lives again.
  virtual void on_up(int group, double recovery_s) = 0;
};

/// One group: its executor, its engine, the thread that drives them, and its restarts.
class Group {
 public:
  /// Starts the ranks for the n-th time; 0 was the first.
  using Starter = std::function<base::Result<std::unique_ptr<GroupExecutor>>(
      int restarts, const std::stop_token& stop)>;
  struct Options {
    int index = 0;  ///< of this group
    engine::SchedulerOptions scheduler;
    std::optional<RestartOptions> restart;  ///< without it what fails stays so
    Starter start;
  };

  /// `executor` is the first life; `owner` outlives the group.
  Group(Options options, std::unique_ptr<GroupExecutor> executor, GroupOwner& owner);
  ~Group();
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;

  /// Never waits for the step in progress: requests sent together start together. What the engine
  /// refuses comes back as an event of each sequence. `new_prompt_tokens`: those to compute.
  /// `flights`: one for each choice of the request.
  void submit(engine::Request request, int64_t new_prompt_tokens, std::vector<Flight> flights);
  void cancel(engine::SequenceId id);

  void trace(engine::StepObserver observer);
  void set_numerics(base::Numerics numerics);
  void clear_prefix_cache();
  engine::EngineStats stats();
  /// By rank; only while no request is running.
  base::Result<std::vector<RankStats>> rank_stats(double peaks_s);

  bool up() const { return up_; }
  /// Prompt tokens to compute and tokens to sample, of all requests.
  int64_t outstanding_tokens() const { return outstanding_tokens_; }
  GroupStatus status();
  /// By rank, as the first life had it.
  const std::vector<RankMemory>& memory() const { return memory_; }

 private:
  /// A sequence aboard.
  struct Passenger {
    Flight flight;
    int64_t prompt_tokens = 0;  ///< to compute
    int64_t output_tokens = 0;  ///< to sample
  };

  void post(std::function<void()> work);
  template <typename Work>
  auto call(Work work);
  void loop();
  bool wait();
  void board(engine::Request request, int64_t new_prompt_tokens, std::vector<Flight> flights);
  void step();
  void note_step();
  void dispatch(const engine::SequenceEvent& event);
  void attach(std::unique_ptr<GroupExecutor> executor);
  void go_down(const GroupFailure& failure);
  void plan_start(double lived_s);
  void begin_start();
  void finish_start();

  const Options options_;
  GroupOwner& owner_;
  const std::vector<RankMemory> memory_;
  base::SteadyClock clock_;

  // The thread's own.
  std::unique_ptr<GroupExecutor> executor_;  // null while it is down and is to be started again
  std::optional<engine::Engine> engine_;
  std::unordered_map<engine::SequenceId, Passenger> passengers_;
  engine::EngineStats past_stats_;  // of earlier lives
  engine::StepObserver observer_;
  std::optional<base::Numerics> numerics_;
  RestartDelays delays_;
  int64_t up_ns_ = 0;    // when this life began
  int64_t down_ns_ = 0;  // when the latest one ended
  int starts_ = 1;
  std::optional<int64_t> start_ns_;  // when the next one is due

  std::atomic<int64_t> outstanding_tokens_ = 0;
  std::atomic<bool> up_ = true;

  std::mutex mutex_;  // guards what follows
  std::condition_variable wake_;
  std::vector<std::function<void()>> inbox_;
  GroupStatus status_;
  int64_t step_ns_ = 0;  // when the latest step ended, or when work came to an idle engine
  bool idle_ = true;
  bool executor_failed_ = false;
  std::optional<base::Result<std::unique_ptr<GroupExecutor>>> started_;  // what a start gave
  bool stopping_ = false;

  std::stop_source stop_starting_;
  std::thread starter_;
  std::thread thread_;
};

}  // namespace fourfold::runtime

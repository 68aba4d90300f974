#include "runtime/launch/worker_main.h"

#include <unistd.h>

#include <charconv>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <variant>

#include "backend/ops.h"
#include "base/clock.h"
#include "comm/local/local_world.h"
#include "comm/mpi/mpi_runtime.h"
#include "runtime/control/channel.h"
#include "runtime/fault.h"
#include "runtime/launch/crash_handler.h"
#include "runtime/launch/run_dir.h"
#include "runtime/worker.h"

namespace fourfold::runtime {
namespace {

/// The front's messages in their order, read by a thread of its own so that a Ping is answered and
/// the end of the front is seen even while a step runs. A rank that waits here is asleep: it takes
/// no core from the ranks that work.
class Inbox {
 public:
  Inbox(Channel& channel, const comm::Progress& progress)
      : channel_(channel), progress_(progress), reader_([this] { read(); }) {}
  /// After Shutdown, which is the last message.
  ~Inbox() { reader_.join(); }
  Inbox(const Inbox&) = delete;
  Inbox& operator=(const Inbox&) = delete;

  /// Nothing, only without `wait`, if there is no message yet.
  std::optional<Message> next(bool wait) {
    std::unique_lock lock(mutex_);
    if (wait) arrived_.wait(lock, [this] { return !messages_.empty(); });
    if (messages_.empty()) return std::nullopt;
    Message message = std::move(messages_.front());
    messages_.pop_front();
    return message;
  }

 private:
  void read() {
    for (bool more = true; more;) {
      base::Result<Message> message = channel_.receive();
      if (!message.ok()) leave(message.error());
      if (std::holds_alternative<Ping>(*message)) {
        // An error shows at the next receive.
        static_cast<void>(channel_.send(Pong{progress_.position()}));
        continue;
      }
      more = !std::holds_alternative<Shutdown>(*message);
      const std::lock_guard lock(mutex_);
      messages_.push_back(std::move(message).value());
      arrived_.notify_one();
    }
  }

  /// Without the front there is nobody to work for, and the other thread may be deep in a step.
  [[noreturn]] void leave(const base::Error& error) {
    if (error.message != kChannelClosed) fmt::print(stderr, "{}\n", error.message);
    _exit(1);
  }

  Channel& channel_;
  const comm::Progress& progress_;
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<Message> messages_;
  std::thread reader_;
};

/// Where this rank is, and what it shall do wrong there.
struct Marks {
  explicit Marks(const std::optional<FaultSpec>& spec)
      : fault(spec ? std::make_unique<Fault>(*spec) : nullptr), progress(fault.get()) {}

  std::unique_ptr<Fault> fault;
  comm::Progress progress;
};

/// What the rank does with its messages once its shard is there.
base::Status serve(Worker& worker, const RankConfig& config, Channel& channel, Inbox& inbox,
                   Marks& marks) {
  comm::Progress& progress = marks.progress;
  Fault* const fault = marks.fault.get();
  const base::SteadyClock clock;
  comm::CommStats control;
  int begun = 0;
  const auto finish = [&]() -> base::Status {
    --begun;
    StageReport report = worker.finish();
    if (!worker.reports()) return {};
    const int64_t begin_ns = clock.now_ns();
    FF_TRY(channel.send(Report{std::move(report)}));
    control.seconds += base::seconds_between(begin_ns, clock.now_ns());
    ++control.calls;
    return {};
  };
  while (true) {
    // While a device works only what is there already is taken.
    if (begun == 0) progress.enter(comm::Operation::kIdle);
    const int64_t idle_ns = clock.now_ns();
    const std::optional<Message> next =
        begun < worker.depth() ? inbox.next(/*wait=*/begun == 0) : std::nullopt;
    const double idle_s = base::seconds_between(idle_ns, clock.now_ns());
    control.wait_seconds += idle_s;
    control.seconds += idle_s;
    if (!next) {
      FF_TRY(finish());
      continue;
    }
    const Message& message = *next;
    if (const auto* step = std::get_if<Step>(&message)) {
      if (fault != nullptr) fault->begin(step->batches);
      if (std::ssize(step->batches) != config.group.dp) {
        return base::fail("a step has {} batches, expected {}", step->batches.size(),
                          config.group.dp);
      }
      ++control.calls;
      worker.begin(step->batches);
      ++begun;
      continue;
    }
    while (begun > 0) FF_TRY(finish());
    if (const auto* request = std::get_if<StatsRequest>(&message)) {
      FF_ASSIGN(RankStats stats, worker.stats(request->peaks_s));
      control.bytes = channel.bytes();
      stats.comm.emplace_back(mesh::Axis::kControl, control);
      FF_TRY(channel.send(Stats{std::move(stats)}));
    } else if (std::holds_alternative<Shutdown>(message)) {
      return {};
    } else {
      return base::fail("the front sent a message of type {}", message.index());
    }
  }
}

/// A rank alone cannot go on, and the others wait for it in a collective: it ends without ceremony,
/// and mpirun ends them.
[[noreturn]] void give_up(Channel& channel, std::string_view why, bool own_fault = true) {
  static_cast<void>(channel.send(Failure{std::string(why), own_fault}));
  _exit(1);
}

/// Does `work`, or gives up while everything that it has is still there: to take it down would be
/// to wait for the other ranks, which wait for this one.
template <typename Work>
void do_or_give_up(Channel& channel, Work work) {
  try {
    const base::Status status = work();
    if (!status.ok()) give_up(channel, status.error().message);
  } catch (const comm::CommAborted& aborted) {
    give_up(channel, aborted.reason, /*own_fault=*/false);
  } catch (const std::exception& error) {
    give_up(channel, error.what());
  }
}

base::Status run_rank(int rank, int ranks, Channel& channel, Inbox& inbox, Marks& marks) {
  const Message first = *inbox.next(/*wait=*/true);
  const auto* message = std::get_if<Config>(&first);
  if (message == nullptr) return base::fail("the front sent no configuration");
  const RankConfig& config = message->config;
  if (marks.fault) marks.fault->watch(world_rank(config, rank), config.restarts);
  marks.progress.enter(comm::Operation::kStart);
  if (config.group.devices() != ranks) {
    return base::fail("{} ranks were started for a group of {}", ranks, config.group.devices());
  }
  FF_ASSIGN(std::shared_ptr<const backend::Ops> ops,
            backend::make_ops(config.backend, config.isa, gpu_of(config, rank)));
  std::unique_ptr<comm::MpiRuntime> mpi;
  std::unique_ptr<comm::Communicator> group;
  marks.progress.enter(comm::Operation::kMeet);
  if (ranks == 1) {
    group = comm::make_single(mesh::Axis::kControl);
  } else {
    FF_ASSIGN(mpi, comm::MpiRuntime::start({.waiting = config.waiting()}));
    if (mpi->rank() != rank || mpi->size() != ranks) {
      return base::fail("MPI says rank {} of {}, expected rank {} of {}", mpi->rank(), mpi->size(),
                        rank, ranks);
    }
    group = mpi->world();
  }
  group->report_to(&marks.progress);
  FF_ASSIGN(const std::unique_ptr<Worker> worker,
            Worker::create(config, std::move(ops), std::move(group)));
  do_or_give_up(channel, [&]() -> base::Status {
    FF_TRY(channel.send(Ready{worker->memory()}));
    return serve(*worker, config, channel, inbox, marks);
  });
  return {};
}

std::optional<int> parse_int(const char* text) {
  int value = 0;
  if (text == nullptr) return std::nullopt;
  const char* end = text + std::strlen(text);
  const auto [rest, error] = std::from_chars(text, end, value);
  if (error != std::errc() || rest != end) return std::nullopt;
  return value;
}

/// As mpirun and its like tell every process that they start.
std::optional<int> rank_from_environment() {
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"}) {
    if (const std::optional<int> rank = parse_int(std::getenv(name))) return rank;
  }
  return std::nullopt;
}

}  // namespace

std::vector<std::string> worker_args(const std::string& program,
                                     const std::filesystem::path& run_dir, int ranks) {
  return {program, "worker", run_dir.string(), std::to_string(ranks)};
}

int worker_main(int argc, char** argv) {
  const std::optional<int> ranks = argc == 3 ? parse_int(argv[2]) : std::nullopt;
  const std::optional<int> rank = ranks == 1 ? 0 : rank_from_environment();
  if (!ranks || !rank) {
    fmt::print(stderr, "fourfold worker: a rank of a group; fourfold starts it itself\n");
    return 2;
  }
  base::Result<std::unique_ptr<Channel>> channel =
      Channel::connect(RunDir::control_socket(argv[1]));
  if (!channel.ok()) {
    fmt::print(stderr, "{}\n", channel.error().message);
    return 1;
  }
  tell_of_crashes((*channel)->fd());
  const char* secret = std::getenv(kSecretVariable);
  const base::Status hello = (*channel)->send(Hello{*rank, secret == nullptr ? "" : secret});
  if (!hello.ok()) return 1;
  base::Result<std::optional<FaultSpec>> fault = FaultSpec::from_environment();
  if (!fault.ok()) give_up(**channel, fault.error().message);
  Marks marks(*fault);
  Inbox inbox(**channel, marks.progress);
  do_or_give_up(**channel, [&] { return run_rank(*rank, *ranks, **channel, inbox, marks); });
  return 0;
}

}  // namespace fourfold::runtime

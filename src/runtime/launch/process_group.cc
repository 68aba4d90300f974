#include "runtime/launch/process_group.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "runtime/control/channel.h"
#include "runtime/fault.h"
#include "runtime/launch/child_process.h"
#include "runtime/launch/crash_handler.h"
#include "runtime/launch/hang_watch.h"
#include "runtime/launch/interrupt.h"
#include "runtime/launch/rank_command.h"
#include "runtime/launch/run_dir.h"
#include "runtime/launch/step_collector.h"

namespace fourfold::runtime {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;

constexpr milliseconds kTick(100);    // between looks at the child and at heartbeats
constexpr seconds kConnectLimit(60);  // until every rank has said Hello
constexpr milliseconds kPingInterval(500);
constexpr seconds kSilenceLimit(3);          // a process that answers no Ping is stopped or hung
constexpr seconds kSendLimit(3);             // the same for one that takes no message
constexpr milliseconds kExitLimit(300);      // for the exit of a child whose channel is closed
constexpr milliseconds kAloneLimit(50);      // in which all ranks end if mpirun was killed
constexpr milliseconds kShutdownLimit(700);  // for an orderly end, before ranks are killed

/// A rank as the front sees it.
struct Peer {
  std::unique_ptr<Channel> channel;  // null until it has said Hello
  pid_t pid = -1;
  std::optional<steady_clock::time_point> closed;
  int signal = 0;  // that it is about to end by, as it said itself
  std::optional<steady_clock::time_point> unanswered_ping;
};

class ProcessExecutor final : public GroupExecutor {
 public:
  ProcessExecutor(const RankConfig& config, RunDir run_dir, Listener listener, std::string secret,
                  ChildProcess child)
      : config_(config),
        run_dir_(std::move(run_dir)),
        secret_(std::move(secret)),
        child_(std::move(child)),
        peers_(static_cast<size_t>(config.group.devices())),
        listener_(std::move(listener)),
        wake_(eventfd(0, EFD_CLOEXEC)),
        hang_watch_(config),
        collector_(config.group),
        memory_(peers_.size()),
        stats_(peers_.size()),
        monitor_([this] { monitor(); }) {}
  ~ProcessExecutor() override;
  ProcessExecutor(const ProcessExecutor&) = delete;
  ProcessExecutor& operator=(const ProcessExecutor&) = delete;

  /// Waits until all ranks have loaded.
  base::Status wait_loaded(const StartProgress& progress, const std::stop_token& stop);

  const engine::ExecutorLimits& limits() const override { return config_.limits; }
  const std::vector<RankMemory>& memory() const override { return memory_; }
  void submit(std::vector<engine::StepBatch> batches) override;
  engine::StepResult wait() override;
  base::Result<std::vector<RankStats>> stats(double peaks_s) override;
  std::optional<GroupFailure> failure() const override;
  void on_failure(std::function<void()> call) override;

 private:
  void monitor();
  base::Status monitor_once();
  base::Status greet_strangers();
  base::Status welcome(std::unique_ptr<Channel> channel, const Message& hello);
  base::Status drain(size_t rank);
  base::Status handle(size_t rank, Message message);
  base::Status check_child();
  base::Status check_heartbeats();
  base::Status check_progress();
  base::Error verdict(FailureCause cause, double detection_s, std::string text);
  base::Error verdict(FailureCause cause, steady_clock::time_point first_sign, std::string text);
  base::Error death_of(size_t rank);
  FailureCause cause_of(int status) const;
  bool another_ended(size_t rank) const;

  void broadcast(const Message& message);
  void wait_closed(milliseconds limit);
  std::string describe(size_t rank) const;

  const RankConfig config_;
  const RunDir run_dir_;
  const std::string secret_;
  ChildProcess child_;  // the guard: exits as the one rank or mpirun does, and with all of them

  // The monitor's own, until it has ended. Others only send on channels, once all ranks are loaded.
  std::vector<Peer> peers_;
  std::vector<std::unique_ptr<Channel>> strangers_;  // have not said Hello
  Listener listener_;
  const UniqueFd wake_;  // readable: the monitor shall end
  const steady_clock::time_point started_ = steady_clock::now();
  steady_clock::time_point pinged_ = started_;
  HangWatch hang_watch_;
  GroupFailure verdict_;  // but for its text

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  StepCollector collector_;
  std::vector<RankMemory> memory_;
  std::vector<std::optional<RankStats>> stats_;
  std::optional<double> measure_s_;  // statistics have been asked for, with peaks for so long
  size_t connected_ = 0;
  size_t loaded_ = 0;
  std::optional<GroupFailure> failure_;
  std::function<void()> on_failure_;

  std::thread monitor_;
};

// --- the front's side ---

base::Status ProcessExecutor::wait_loaded(const StartProgress& progress,
                                          const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  std::pair<size_t, size_t> told;
  while (loaded_ < peers_.size() && !collector_.failure()) {
    if (const std::pair now(connected_, loaded_); now != told) {
      told = now;
      lock.unlock();
      progress(now.first < peers_.size()
                   ? fmt::format("{} of {} ranks started", now.first, peers_.size())
                   : fmt::format("{} of {} ranks loaded", now.second, peers_.size()));
      lock.lock();
      continue;
    }
    if (stop.stop_requested()) return base::fail("{}", kStartStopped);
    changed_.wait_for(lock, kTick);
  }
  if (collector_.failure()) return base::fail("{}", *collector_.failure());
  return {};
}

void ProcessExecutor::submit(std::vector<engine::StepBatch> batches) {
  {
    const std::lock_guard lock(mutex_);
    CHECK(std::ssize(batches) == config_.group.dp && collector_.outstanding() < limits().depth,
          "{} batches for {} replicas, {} steps outstanding of {}", batches.size(),
          config_.group.dp, collector_.outstanding(), limits().depth);
    collector_.expect(batches[0].step);
  }
  broadcast(Step{std::move(batches)});
}

engine::StepResult ProcessExecutor::wait() {
  std::unique_lock lock(mutex_);
  CHECK(collector_.outstanding() > 0, "no step is outstanding");
  changed_.wait(lock, [this] { return collector_.ready(); });
  return collector_.take();
}

base::Result<std::vector<RankStats>> ProcessExecutor::stats(double peaks_s) {
  {
    const std::lock_guard lock(mutex_);
    for (std::optional<RankStats>& stats : stats_) stats.reset();
    measure_s_ = peaks_s;
  }
  broadcast(StatsRequest{peaks_s});
  std::unique_lock lock(mutex_);
  const auto complete = [this] {
    return std::all_of(stats_.begin(), stats_.end(), [](const auto& stats) { return !!stats; });
  };
  changed_.wait(lock, [&] { return complete() || collector_.failure(); });
  measure_s_.reset();
  if (!complete()) return base::fail("{}", *collector_.failure());
  std::vector<RankStats> out;
  for (std::optional<RankStats>& stats : stats_) out.push_back(std::move(*stats));
  return out;
}

std::optional<GroupFailure> ProcessExecutor::failure() const {
  const std::lock_guard lock(mutex_);
  return failure_;
}

void ProcessExecutor::on_failure(std::function<void()> call) {
  {
    const std::lock_guard lock(mutex_);
    if (!failure_) on_failure_ = std::exchange(call, nullptr);
  }
  if (call) call();
}

void ProcessExecutor::broadcast(const Message& message) {
  const std::vector<std::byte> frame = encode_frame(message);
  for (Peer& peer : peers_) {
    // Whoever takes no message is dead or stopped, and the monitor says so.
    if (peer.channel) static_cast<void>(peer.channel->send_frame(frame));
  }
}

ProcessExecutor::~ProcessExecutor() {
  const uint64_t one = 1;
  CHECK(write(wake_.get(), &one, sizeof one) == sizeof one, "eventfd");
  monitor_.join();
  if (!collector_.failure()) {
    broadcast(Shutdown{});
    wait_closed(kShutdownLimit);
  }
  child_.end();
}

/// Waits until no rank is alive, as far as the channels tell.
void ProcessExecutor::wait_closed(milliseconds limit) {
  const auto deadline = steady_clock::now() + limit;
  for (Peer& peer : peers_) {
    while (peer.channel && !peer.closed) {
      const auto rest = std::chrono::ceil<milliseconds>(deadline - steady_clock::now());
      pollfd fd{.fd = peer.channel->fd(), .events = POLLIN, .revents = 0};
      if (rest.count() <= 0 || poll(&fd, 1, static_cast<int>(rest.count())) == 0) return;
      if (!peer.channel->try_receive().ok()) peer.closed = steady_clock::now();
    }
  }
}

std::string ProcessExecutor::describe(size_t rank) const {
  std::string text = describe_rank(config_, static_cast<int>(rank));
  if (peers_[rank].pid < 0) return text;
  text.insert(text.size() - 1, fmt::format(", pid {}", peers_[rank].pid));
  return text;
}

// --- the monitor: hears everything that ranks say, and their ends ---

void ProcessExecutor::monitor() {
  base::Status status;
  while (status.ok()) {
    pollfd wake{.fd = wake_.get(), .events = POLLIN, .revents = 0};
    if (poll(&wake, 1, 0) == 1) return;
    status = monitor_once();
  }
  // Whoever waits need not wait for the end of the other ranks.
  verdict_.text = status.error().message;
  std::function<void()> call;
  {
    const std::lock_guard lock(mutex_);
    collector_.fail(verdict_.text);
    failure_ = verdict_;
    call = std::exchange(on_failure_, nullptr);
    changed_.notify_all();
  }
  if (call) call();
  child_.end();
}

base::Error ProcessExecutor::verdict(FailureCause cause, double detection_s, std::string text) {
  verdict_ = {.cause = cause, .text = {}, .detection_s = detection_s};
  return base::Error{std::move(text)};
}
base::Error ProcessExecutor::verdict(FailureCause cause, steady_clock::time_point first_sign,
                                     std::string text) {
  const std::chrono::duration<double> took = steady_clock::now() - first_sign;
  return verdict(cause, took.count(), std::move(text));
}

base::Status ProcessExecutor::monitor_once() {
  std::vector<pollfd> fds;
  const auto watch = [&fds](int fd) { fds.push_back({.fd = fd, .events = POLLIN, .revents = 0}); };
  for (const Peer& peer : peers_) watch(peer.channel ? peer.channel->fd() : -1);
  watch(wake_.get());
  watch(interrupt_fd());
  watch(listener_.fd());
  for (const auto& stranger : strangers_) watch(stranger->fd());
  poll(fds.data(), fds.size(), static_cast<int>(kTick.count()));
  if (interrupted()) return base::fail("{}", kInterrupted);
  for (size_t r = 0; r < peers_.size(); ++r) {
    if (fds[r].revents != 0) FF_TRY(drain(r));
  }
  // Only now, when everybody has been heard who may have given a reason.
  std::optional<size_t> dead;
  for (size_t r = 0; r < peers_.size(); ++r) {
    if (peers_[r].closed && (!dead || (peers_[r].signal != 0 && peers_[*dead].signal == 0))) {
      dead = r;
    }
  }
  if (dead) return death_of(*dead);
  FF_TRY(greet_strangers());
  FF_TRY(check_child());
  FF_TRY(check_progress());
  return check_heartbeats();
}

base::Status ProcessExecutor::greet_strangers() {
  while (true) {
    FF_ASSIGN(std::unique_ptr<Channel> channel, listener_.accept());
    if (!channel) break;
    strangers_.push_back(std::move(channel));
  }
  for (std::unique_ptr<Channel>& stranger : strangers_) {
    base::Result<std::optional<Message>> message = stranger->try_receive();
    if (!message.ok()) {
      stranger.reset();
    } else if (message->has_value()) {
      FF_TRY(welcome(std::move(stranger), **message));
    }
  }
  std::erase(strangers_, nullptr);
  return {};
}

base::Status ProcessExecutor::welcome(std::unique_ptr<Channel> channel, const Message& message) {
  const auto* hello = std::get_if<Hello>(&message);
  if (hello == nullptr || hello->secret != secret_) return {};  // none of ours
  if (hello->rank < 0 || hello->rank >= std::ssize(peers_) ||
      peers_[static_cast<size_t>(hello->rank)].channel) {
    return base::fail("a process says that it is rank {} of {}, which it cannot be", hello->rank,
                      peers_.size());
  }
  Peer& peer = peers_[static_cast<size_t>(hello->rank)];
  FF_ASSIGN(peer.pid, channel->peer_pid());
  FF_TRY(channel->limit_send(kSendLimit));
  FF_TRY(channel->send(Config{config_}));
  peer.channel = std::move(channel);
  const std::lock_guard lock(mutex_);
  ++connected_;
  changed_.notify_all();
  return {};
}

base::Status ProcessExecutor::drain(size_t rank) {
  while (true) {
    base::Result<std::optional<Message>> message = peers_[rank].channel->try_receive();
    if (!message.ok()) {
      if (message.error().message != kChannelClosed) {
        return base::fail("{}: {}", describe(rank), message.error().message);
      }
      peers_[rank].closed = steady_clock::now();
      return {};
    }
    if (!message->has_value()) return {};
    FF_TRY(handle(rank, std::move(**message)));
  }
}

base::Status ProcessExecutor::handle(size_t rank, Message message) {
  if (const auto* failure = std::get_if<Failure>(&message)) {
    return verdict(failure->own_fault ? FailureCause::kCrashed : FailureCause::kOther, 0.0,
                   fmt::format("{}: {}", describe(rank), failure->text));
  }
  if (const auto* crash = std::get_if<Crash>(&message)) {
    peers_[rank].signal = crash->signal;
    return {};
  }
  const std::lock_guard lock(mutex_);
  if (auto* report = std::get_if<Report>(&message)) {
    const base::Status added = collector_.add(static_cast<int>(rank), std::move(report->report));
    if (!added.ok()) return base::fail("{}: {}", describe(rank), added.error().message);
  } else if (auto* stats = std::get_if<Stats>(&message)) {
    stats_[rank] = std::move(stats->stats);
  } else if (const auto* ready = std::get_if<Ready>(&message)) {
    memory_[rank] = ready->memory;
    ++loaded_;
  } else if (const auto* pong = std::get_if<Pong>(&message)) {
    peers_[rank].unanswered_ping.reset();
    hang_watch_.observe(static_cast<int>(rank), pong->position, steady_clock::now());
  } else {
    return base::fail("{} sent a message of type {}", describe(rank), message.index());
  }
  changed_.notify_all();
  return {};
}

base::Status ProcessExecutor::check_child() {
  const bool all_connected =
      std::all_of(peers_.begin(), peers_.end(), [](const Peer& peer) { return !!peer.channel; });
  const std::filesystem::path output = RunDir::output(run_dir_.path());
  if (const std::optional<int> status = child_.wait_exit(milliseconds(0))) {
    return verdict(cause_of(*status), 0.0,
                   fmt::format("{} {}{}", peers_.size() == 1 ? describe(0) : "mpirun",
                               describe_exit(*status), last_words(output, Speaker::kMpirunToo)));
  }
  if (!all_connected && steady_clock::now() - started_ > kConnectLimit) {
    return base::fail("not all of {} ranks have started within {} s{}", peers_.size(),
                      kConnectLimit.count(), last_words(output, Speaker::kMpirunToo));
  }
  return {};
}

base::Status ProcessExecutor::check_progress() {
  HangWatch::Work work;
  {
    const std::lock_guard lock(mutex_);
    work = {.any = collector_.outstanding() > 0 || measure_s_, .measure_s = measure_s_.value_or(0)};
  }
  const auto now = steady_clock::now();
  if (hang_watch_.tick(work, now)) {
    for (Peer& peer : peers_) {
      if (peer.unanswered_ping) peer.unanswered_ping = now;
    }
  }
  if (const std::optional<Hang> hang = hang_watch_.find(now)) {
    return verdict(FailureCause::kHung, hang->still_s,
                   fmt::format("{} {}", describe(static_cast<size_t>(hang->rank)), hang->what));
  }
  return {};
}

base::Status ProcessExecutor::check_heartbeats() {
  const auto now = steady_clock::now();
  const bool ping_now = now - pinged_ > kPingInterval;
  if (ping_now) pinged_ = now;
  for (size_t r = 0; r < peers_.size(); ++r) {
    Peer& peer = peers_[r];
    if (!peer.channel) continue;
    if (peer.unanswered_ping && now - *peer.unanswered_ping > kSilenceLimit) {
      return verdict(
          FailureCause::kStopped, *peer.unanswered_ping,
          fmt::format("{} has not answered for {} s: it is stopped or hung, last seen in {}",
                      describe(r), kSilenceLimit.count(),
                      runtime::describe(hang_watch_.position(static_cast<int>(r)))));
    }
    if (ping_now && !peer.unanswered_ping) {
      peer.unanswered_ping = now;
      static_cast<void>(peer.channel->send(Ping{}));
    }
  }
  return {};
}

/// Why a rank's channel was closed. When a rank dies, mpirun lets the others live for a second
/// more: so the first channel that closes is that of the first dead, unless mpirun itself was
/// killed: then the guard ends all ranks and itself.
base::Error ProcessExecutor::death_of(size_t rank) {
  const std::filesystem::path output = RunDir::output(run_dir_.path());
  const bool only = peers_.size() == 1;
  const steady_clock::time_point closed = *peers_[rank].closed;
  if (const int signal = peers_[rank].signal; signal != 0) {
    child_.wait_exit(kAloneLimit);  // in which its words come here
    return verdict(FailureCause::kCrashed, closed,
                   fmt::format("{} {}{}", describe(rank), describe_exit(signal),
                               last_words(output, Speaker::kRanks)));
  }
  std::optional<int> status = child_.wait_exit(only ? kExitLimit : kAloneLimit);
  if (!status && another_ended(rank)) status = child_.wait_exit(kExitLimit);
  if (status && (only || WIFSIGNALED(*status))) {
    return verdict(cause_of(*status), closed,
                   fmt::format("{} {}{}", only ? describe(rank) : "mpirun", describe_exit(*status),
                               last_words(output, Speaker::kMpirunToo)));
  }
  const std::string words = last_words(output, Speaker::kRanks);
  if (words.empty()) {
    return verdict(FailureCause::kKilled, closed,
                   fmt::format("{} ended without a word, as a process does that gets SIGKILL",
                               describe(rank)));
  }
  return verdict(FailureCause::kKilled, closed, fmt::format("{} ended{}", describe(rank), words));
}

/// By the exit status of the only rank, or of mpirun, which ends by itself only when told to.
FailureCause ProcessExecutor::cause_of(int status) const {
  const bool own_fault = WIFEXITED(status) ? WEXITSTATUS(status) != 0 : is_crash(WTERMSIG(status));
  return peers_.size() == 1 && own_fault ? FailureCause::kCrashed : FailureCause::kKilled;
}

bool ProcessExecutor::another_ended(size_t rank) const {
  for (size_t r = 0; r < peers_.size(); ++r) {
    if (r == rank || !peers_[r].channel) continue;
    pollfd fd{.fd = peers_[r].channel->fd(), .events = POLLRDHUP, .revents = 0};
    if (poll(&fd, 1, 0) == 1) return true;
  }
  return false;
}

base::Result<std::string> make_secret() {
  std::array<unsigned char, 16> bytes{};
  if (getrandom(bytes.data(), bytes.size(), 0) != std::ssize(bytes)) {
    return base::fail("no random numbers for the control channel's secret");
  }
  std::string secret;
  for (const unsigned char byte : bytes) secret += fmt::format("{:02x}", byte);
  return secret;
}

}  // namespace

base::Result<std::unique_ptr<GroupExecutor>> start_process_group(const RankConfig& config,
                                                                 const StartProgress& progress,
                                                                 const std::string& program,
                                                                 const std::stop_token& stop) {
  FF_TRY(FaultSpec::from_environment());  // a word about a wrong one before anything starts
  FF_ASSIGN(RunDir run_dir, RunDir::create());
  FF_ASSIGN(Listener listener, Listener::create(RunDir::control_socket(run_dir.path())));
  FF_ASSIGN(std::string secret, make_secret());
  FF_ASSIGN(const ChildProcess::Options command,
            rank_command(config, program, run_dir.path(), secret));
  FF_ASSIGN(ChildProcess child, ChildProcess::spawn(command));
  auto group = std::make_unique<ProcessExecutor>(config, std::move(run_dir), std::move(listener),
                                                 std::move(secret), std::move(child));
  FF_TRY(group->wait_loaded(progress, stop));
  return std::unique_ptr<GroupExecutor>(std::move(group));
}

}  // namespace fourfold::runtime

// What the front of `fourfold serve` costs and bears: the real server, API and service over engines
// that are played, so that nothing but the front computes. All in one process; the processor time
// of the front is that of the server's thread, and does not depend on what else the machine does.
//   streams     1,000 streams at 20 tokens/s each
//   overload    ten times the requests that the engines can serve, for FOURFOLD_OVERLOAD_S (60) s
//   slow        the same load alone, and beside FOURFOLD_SLOW (10,000) connections that say nothing

#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <condition_variable>
#include <cstdlib>
#include <ctime>
#include <deque>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/check.h"
#include "base/clock.h"
#include "serve/api.h"
#include "serve/keys.h"
#include "serve/served_model.h"
#include "serve/service.h"

namespace fourfold {
namespace {

using std::chrono::duration;
using std::chrono::steady_clock;

int from_environment(const char* name, int otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::atoi(text);
}

/// Engines that give each of at most `places` sequences a token every 50 ms.
class PlayedCluster final : public runtime::Cluster {
 public:
  static constexpr std::chrono::milliseconds kStep{50};

  explicit PlayedCluster(size_t places) : places_(places), thread_([this] { loop(); }) {}
  ~PlayedCluster() override {
    over_ = true;
    thread_.join();
  }

  engine::SequenceId next_id() override { return engine::SequenceId(next_id_++); }
  base::Status submit(engine::Request request, runtime::EventSink sink) override {
    const std::lock_guard lock(mutex_);
    waiting_.push_back({request.id, request.max_new_tokens, std::move(sink)});
    return {};
  }
  void cancel(engine::SequenceId id) override {
    const std::lock_guard lock(mutex_);
    const auto is = [id](const Sequence& sequence) { return sequence.id == id; };
    std::erase_if(waiting_, is);
    std::erase_if(running_, is);
  }
  void trace(engine::StepObserver) override {}
  void set_numerics(base::Numerics) override {}
  void clear_prefix_cache() override {}
  engine::EngineStats engine_stats() override { return {}; }
  std::vector<runtime::GroupStatus> status() override { return {runtime::GroupStatus()}; }
  base::Result<std::vector<runtime::RankReport>> rank_reports(double) override {
    return std::vector<runtime::RankReport>();
  }
  const engine::ExecutorLimits& limits() const override { return limits_; }

 private:
  struct Sequence {
    engine::SequenceId id;
    int32_t left = 0;
    runtime::EventSink sink;
  };

  void loop() {
    const base::SteadyClock clock;
    auto next = steady_clock::now();
    while (!over_) {
      std::this_thread::sleep_until(next += kStep);
      const std::lock_guard lock(mutex_);
      while (!waiting_.empty() && running_.size() < places_) {
        running_.push_back(std::move(waiting_.front()));
        waiting_.pop_front();
      }
      for (Sequence& sequence : running_) {
        engine::SequenceEvent event;
        event.id = sequence.id;
        event.token.emplace().token = 300 + sequence.left % 200;
        if (--sequence.left == 0) event.finish = engine::FinishReason::kLength;
        sequence.sink(event, clock.now_ns());
      }
      std::erase_if(running_, [](const Sequence& sequence) { return sequence.left == 0; });
    }
  }

  const size_t places_;
  engine::ExecutorLimits limits_ = {.block_size = 16};
  std::atomic<int64_t> next_id_ = 0;
  std::atomic<bool> over_ = false;
  std::mutex mutex_;  // guards what follows
  std::deque<Sequence> waiting_;
  std::vector<Sequence> running_;
  std::thread thread_;
};

/// The front over played engines.
class Front {
 public:
  explicit Front(size_t places, const serve::ServiceOptions& options = {}) : cluster_(places) {
    model_ = serve::load_served_model(model::open_model("tiny", false, 0).value(), {}).value();
    server_ = http::Server::listen({}, clock_, [this](const std::shared_ptr<http::Exchange>& e) {
                api_->handle(e);
              }).value();
    service_ = std::make_unique<serve::Service>(model_, cluster_, *server_, clock_, options);
    api_ = std::make_unique<serve::Api>(model_, cluster_, *server_, *service_, serve::Keys());
    thread_ = std::thread([this] { server_->run(); });
    CHECK(pthread_getcpuclockid(thread_.native_handle(), &cpu_clock_) == 0, "no clock");
  }
  ~Front() {
    server_->post([this] { server_->stop(); });
    thread_.join();
  }
  uint16_t port() const { return server_->port(); }
  /// Of the server's thread so far.
  double cpu_s() const {
    timespec time{};
    clock_gettime(cpu_clock_, &time);
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
  }

 private:
  base::SteadyClock clock_;
  PlayedCluster cluster_;
  std::shared_ptr<const serve::ServedModel> model_;
  std::unique_ptr<http::Server> server_;
  std::unique_ptr<serve::Service> service_;
  std::unique_ptr<serve::Api> api_;
  std::thread thread_;
  clockid_t cpu_clock_ = 0;
};

/// How one request went.
struct Outcome {
  int status = 0;
  bool complete = false;
  double first_s = 0;  ///< to the first byte of a stream's first event
  double last_s = 0;
};

/// Requests on a connection each, all on this thread.
class Clients {
 public:
  explicit Clients(uint16_t port) : poll_(epoll_create1(EPOLL_CLOEXEC)) {
    address_.sin_family = AF_INET;
    address_.sin_port = htons(port);
    address_.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  }
  ~Clients() {
    for (const auto& [fd, open] : open_) close(fd);
    close(poll_);
  }
  Clients(const Clients&) = delete;
  Clients& operator=(const Clients&) = delete;

  int connect_one() const {
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(fd >= 0, "no descriptor is left: raise ulimit -n");
    const auto* address = reinterpret_cast<const sockaddr*>(&address_);
    CHECK(connect(fd, address, sizeof address_) == 0, "no connection");
    return fd;
  }
  void ask(int tokens) {
    const std::string body = R"({"prompt":"In the beginning","stream":true,"max_tokens":)" +
                             std::to_string(tokens) + "}";
    const std::string text =
        "POST /v1/completions HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: "
        "application/json\r\nContent-Length: " +
        std::to_string(body.size()) + "\r\n\r\n" + body;
    const auto begin = steady_clock::now();  // connecting counts
    const int fd = connect_one();
    CHECK(send(fd, text.data(), text.size(), MSG_NOSIGNAL) == std::ssize(text), "not sent");
    epoll_event event{.events = EPOLLIN, .data = {.fd = fd}};
    epoll_ctl(poll_, EPOLL_CTL_ADD, fd, &event);
    open_[fd].begin = begin;
  }
  /// Takes what has come, after waiting for it for at most so long.
  void take(int wait_ms) {
    std::array<epoll_event, 256> events;
    const int count = epoll_wait(poll_, events.data(), events.size(), wait_ms);
    for (int i = 0; i < count; ++i) read(events[static_cast<size_t>(i)].data.fd);
  }
  size_t open() const { return open_.size(); }
  std::vector<Outcome>& ended() { return ended_; }

 private:
  struct Open {
    steady_clock::time_point begin;
    std::string head;
    std::string tail;
    Outcome outcome;
  };

  void read(int fd) {
    Open& open = open_.at(fd);
    std::array<char, 16384> bytes;
    const ssize_t count = recv(fd, bytes.data(), bytes.size(), 0);
    const double now_s = duration<double>(steady_clock::now() - open.begin).count();
    Outcome& outcome = open.outcome;
    if (count > 0) {
      const std::string_view text(bytes.data(), static_cast<size_t>(count));
      if (outcome.first_s == 0) {
        open.head += text;
        const size_t body = open.head.find("\r\n\r\n");
        if (body != std::string::npos && open.head.size() > body + 4) {
          outcome.first_s = now_s;
          outcome.status = std::atoi(open.head.c_str() + 9);
        }
      }
      open.tail += text;
      constexpr size_t kTail = 64;
      if (open.tail.size() > kTail) open.tail.erase(0, open.tail.size() - kTail);
      return;
    }
    outcome.last_s = now_s;
    outcome.complete = open.tail.find("data: [DONE]") != std::string::npos;
    ended_.push_back(outcome);
    close(fd);
    open_.erase(fd);
  }

  sockaddr_in address_{};
  int poll_;
  std::unordered_map<int, Open> open_;
  std::vector<Outcome> ended_;
};

double quantile(std::vector<double> values, double q) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(q * static_cast<double>(values.size() - 1))];
}

double resident_mib() {
  int64_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages >> pages;
  return static_cast<double>(pages * sysconf(_SC_PAGESIZE)) / (1 << 20);
}

void streams(benchmark::State& state) {
  constexpr int kStreams = 1000;
  constexpr int kTokens = 200;
  for (auto _ : state) {
    Front front(kStreams);
    Clients clients(front.port());
    for (int i = 0; i < kStreams; ++i) {
      clients.ask(kTokens);
      clients.take(0);
    }
    const double begin_s = front.cpu_s();
    const auto begin = steady_clock::now();
    while (clients.open() > 0) clients.take(100);
    const double wall_s = duration<double>(steady_clock::now() - begin).count();
    const auto complete = std::count_if(clients.ended().begin(), clients.ended().end(),
                                        [](const Outcome& o) { return o.complete; });
    const double tokens = double{kStreams} * kTokens;
    state.counters["complete"] = static_cast<double>(complete);
    state.counters["tokens_per_s"] = tokens / wall_s;
    state.counters["cpu_us_per_token"] = (front.cpu_s() - begin_s) / tokens * 1e6;
  }
}

constexpr int kPlaces = 64;
constexpr int kAnswer = 16;
/// Requests per second that the engines can serve.
constexpr double kCapacity = kPlaces / (kAnswer * 0.05);

/// Asks `rate` times a second for so long, and waits for what was taken.
void offer(Clients& clients, double rate, double time_s) {
  const auto begin = steady_clock::now();
  int asked = 0;
  while (true) {
    const double now_s = duration<double>(steady_clock::now() - begin).count();
    if (now_s > time_s) break;
    while (asked < now_s * rate) {
      clients.ask(kAnswer);
      ++asked;
    }
    clients.take(1);
  }
  while (clients.open() > 0) clients.take(100);
}

void overload(benchmark::State& state) {
  const int time_s = from_environment("FOURFOLD_OVERLOAD_S", 60);
  for (auto _ : state) {
    Front front(kPlaces, {.max_queued_requests = kPlaces});
    const auto goodput = [&](double rate, double over_s, std::vector<Outcome>* out) {
      Clients clients(front.port());
      const auto begin = steady_clock::now();
      offer(clients, rate, over_s);
      const double wall_s = duration<double>(steady_clock::now() - begin).count();
      *out = clients.ended();
      return std::count_if(out->begin(), out->end(), [](const Outcome& o) { return o.complete; }) /
             wall_s;
    };
    std::vector<Outcome> outcomes;
    const double peak = goodput(kCapacity, 10, &outcomes);
    const double before_mib = resident_mib();
    const double good = goodput(10 * kCapacity, time_s, &outcomes);
    std::vector<double> refused_s;
    int64_t lost = 0;
    int64_t odd = 0;
    for (const Outcome& outcome : outcomes) {
      if (outcome.status == 503) refused_s.push_back(outcome.last_s);
      if (outcome.status == 200 && !outcome.complete) ++lost;
      if (outcome.status != 200 && outcome.status != 503) ++odd;
    }
    state.counters["asked"] = static_cast<double>(outcomes.size());
    state.counters["peak_per_s"] = peak;
    state.counters["good_per_s"] = good;
    state.counters["refused"] = static_cast<double>(refused_s.size());
    state.counters["refusal_p50_ms"] = quantile(refused_s, 0.5) * 1e3;
    state.counters["refusal_p99_ms"] = quantile(refused_s, 0.99) * 1e3;
    state.counters["lost"] = static_cast<double>(lost);
    state.counters["odd"] = static_cast<double>(odd);
    // Of the clients, too, which keep an outcome for each request.
    state.counters["grown_mib"] = resident_mib() - before_mib;
  }
}

void slow(benchmark::State& state) {
  const int idle = from_environment("FOURFOLD_SLOW", 10000);
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  for (auto _ : state) {
    Front front(kPlaces);
    const auto first_p99_ms = [&] {
      Clients clients(front.port());
      offer(clients, 0.5 * kCapacity, 15);
      std::vector<double> first_s;
      for (const Outcome& outcome : clients.ended()) {
        CHECK(outcome.complete, "a request failed with {}", outcome.status);
        first_s.push_back(outcome.first_s);
      }
      return quantile(first_s, 0.99) * 1e3;
    };
    const double alone_ms = first_p99_ms();
    std::vector<int> held;
    {
      const Clients clients(front.port());
      for (int i = 0; i < idle; ++i) held.push_back(clients.connect_one());
    }
    state.counters["alone_ttft_p99_ms"] = alone_ms;
    state.counters["beside_ttft_p99_ms"] = first_p99_ms();
    state.counters["held"] = static_cast<double>(held.size());
    for (const int fd : held) close(fd);
  }
}

BENCHMARK(streams)->Iterations(1)->Unit(benchmark::kSecond);
BENCHMARK(overload)->Iterations(1)->Unit(benchmark::kSecond);
BENCHMARK(slow)->Iterations(1)->Unit(benchmark::kSecond);

}  // namespace
}  // namespace fourfold

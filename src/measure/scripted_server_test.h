#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/check.h"
#include "files/json.h"
#include "http/server.h"
#include "load/run.h"
#include "measure/endpoint.h"

namespace fourfold::measure {

inline constexpr int64_t kMs = 1'000'000;

/// The time of a test, which only the script of the server moves. Nobody sleeps: the script waits
/// until what it sent has been seen, and the load waits for the script.
class ScriptedTime {
 public:
  /// For the load.
  class LoadClock final : public load::WaitableClock {
   public:
    explicit LoadClock(ScriptedTime& time) : time_(time) {}
    int64_t now_ns() const override { return time_.now_ns(); }
    void wait_until(int64_t deadline_ns) override {
      std::unique_lock lock(time_.mutex_);
      time_.wait(lock, [&] { return woken_ || time_.now_ns_ >= deadline_ns; });
      woken_ = false;
    }
    void wake() override {
      const std::lock_guard lock(time_.mutex_);
      woken_ = true;
      time_.changed_.notify_all();
    }

   private:
    ScriptedTime& time_;
    bool woken_ = false;
  };

  /// For the endpoint. It reads the clock once for each piece and once at the end of a stream.
  class ClientClock final : public base::Clock {
   public:
    explicit ClientClock(ScriptedTime& time) : time_(time) {}
    int64_t now_ns() const override {
      const std::lock_guard lock(time_.mutex_);
      ++time_.seen_;
      time_.changed_.notify_all();
      return time_.now_ns_;
    }

   private:
    ScriptedTime& time_;
  };

  int64_t now_ns() const {
    const std::lock_guard lock(mutex_);
    return now_ns_;
  }
  void move_to(int64_t now_ns) {
    const std::lock_guard lock(mutex_);
    now_ns_ = std::max(now_ns_, now_ns);
    changed_.notify_all();
  }
  int64_t seen() const {
    const std::lock_guard lock(mutex_);
    return seen_;
  }
  void wait_until_seen(int64_t times) {
    std::unique_lock lock(mutex_);
    wait(lock, [&] { return seen_ >= times; });
  }
  void count_arrival() {
    const std::lock_guard lock(mutex_);
    ++arrivals_;
    changed_.notify_all();
  }
  void wait_for_arrivals(int64_t arrivals) {
    std::unique_lock lock(mutex_);
    wait(lock, [&] { return arrivals_ >= arrivals; });
  }

 private:
  template <typename Condition>
  void wait(std::unique_lock<std::mutex>& lock, Condition condition) {
    const bool happened = changed_.wait_for(lock, std::chrono::minutes(2), condition);
    CHECK(happened, "a script waits for what does not happen");
  }

  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  int64_t now_ns_ = 0;
  mutable int64_t seen_ = 0;
  int64_t arrivals_ = 0;
};

/// What a server does with one request: times are milliseconds after it came.
struct Script {
  struct Piece {
    int64_t at_ms = 0;
    std::string bytes;
  };
  enum class End : uint8_t { kWhole, kCut };

  int64_t head_ms = 0;
  std::vector<Piece> pieces;
  int64_t end_ms = 0;
  End end = End::kWhole;
  int status = 200;
};

/// A server that streams by scripts, over the real HTTP room. The first number of a prompt says
/// which script is its.
class ScriptedServer {
 public:
  explicit ScriptedServer(std::vector<Script> scripts)
      : scripts_(std::move(scripts)),
        server_(
            http::Server::listen({}, steady_, [this](auto exchange) { take(std::move(exchange)); })
                .value()),
        thread_([this] { server_->run(); }) {}
  ~ScriptedServer() {
    server_->post([this] { server_->stop(); });
    thread_.join();
  }
  ScriptedServer(const ScriptedServer&) = delete;
  ScriptedServer& operator=(const ScriptedServer&) = delete;

  /// Sends one request for each script, `tokens` long, by the options' pacing.
  load::LoadRun run(const load::RunOptions& options, int32_t tokens) {
    load::Workload workload;
    for (size_t i = 0; i < scripts_.size(); ++i) {
      load::PlannedRequest planned;
      planned.request.prompt = {static_cast<engine::TokenId>(i), 7, 7};
      planned.request.max_new_tokens = tokens;
      workload.requests.push_back(std::move(planned));
    }
    ScriptedTime::LoadClock load_clock(time_);
    const ScriptedTime::ClientClock client_clock(time_);
    Endpoint endpoint(http::Url::parse(server_->url()).value(), "", client_clock);
    std::thread director([&] { direct(options); });
    load::LoadRun out = load::run_load(workload, options, load_clock,
                                       [&](const engine::Request& request, load::Sink sink) {
                                         return endpoint.submit("m", request, std::move(sink));
                                       })
                            .value();
    director.join();
    return out;
  }

 private:
  struct Act {
    int64_t at_ns = 0;
    std::function<void(http::Exchange& exchange)> what;
    bool is_seen = true;  ///< by a look at the clock
    bool is_last = false;
  };
  struct Live {
    std::shared_ptr<http::Exchange> exchange;
    std::vector<Act> acts;
    size_t next = 0;
  };

  void take(std::shared_ptr<http::Exchange> exchange) {
    const auto body = files::parse_json(exchange->request().body, "a request").value();
    const Script& script = scripts_.at(body.at("prompt").at(0).get<size_t>());
    Live live{.exchange = std::move(exchange), .acts = {}};
    const int64_t now_ns = time_.now_ns();
    live.acts.push_back({.at_ns = now_ns + script.head_ms * kMs,
                         .what =
                             [&script](http::Exchange& e) {
                               e.start({.status = script.status,
                                        .content_type = "text/event-stream",
                                        .body = {},
                                        .headers = {}});
                             },
                         .is_seen = false});
    for (const Script::Piece& piece : script.pieces) {
      live.acts.push_back({.at_ns = now_ns + piece.at_ms * kMs,
                           .what = [&piece](http::Exchange& e) { e.write(piece.bytes); }});
    }
    live.acts.push_back({.at_ns = now_ns + script.end_ms * kMs,
                         .what =
                             [&script](http::Exchange& e) {
                               script.end == Script::End::kWhole ? e.finish() : e.abort();
                             },
                         .is_last = true});
    {
      const std::lock_guard lock(mutex_);
      live_.push_back(std::make_unique<Live>(std::move(live)));
    }
    time_.count_arrival();
  }

  /// The request with the earliest act to come; null: there is none.
  Live* next() {
    const std::lock_guard lock(mutex_);
    Live* out = nullptr;
    for (const auto& live : live_) {
      if (live->next == live->acts.size()) continue;
      if (out == nullptr || live->acts[live->next].at_ns < out->acts[out->next].at_ns) {
        out = live.get();
      }
    }
    return out;
  }

  void direct(const load::RunOptions& options) {
    const auto count = static_cast<int64_t>(scripts_.size());
    int64_t done = 0;
    while (done < count) {
      int64_t due = std::min<int64_t>(count, options.concurrency + done);
      std::optional<int64_t> next_arrival_ns;
      if (options.concurrency == 0) {
        for (due = 0; due < count; ++due) {
          const auto at_ns =
              static_cast<int64_t>(options.arrivals_s[static_cast<size_t>(due)] * 1e9);
          if (at_ns <= time_.now_ns()) continue;
          next_arrival_ns = at_ns;
          break;
        }
      }
      time_.wait_for_arrivals(due);
      Live* live = next();
      if (next_arrival_ns && (live == nullptr || live->acts[live->next].at_ns > *next_arrival_ns)) {
        time_.move_to(*next_arrival_ns);
        continue;
      }
      const Act& act = live->acts[live->next++];
      time_.move_to(act.at_ns);
      const int64_t seen = time_.seen();
      server_->post([live, &act] {
        act.what(*live->exchange);
        if (act.is_last) live->exchange.reset();
      });
      if (act.is_seen) time_.wait_until_seen(seen + 1);
      if (act.is_last) ++done;
    }
  }

  ScriptedTime time_;
  base::SteadyClock steady_;
  std::vector<Script> scripts_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Live>> live_;
  std::unique_ptr<http::Server> server_;
  std::thread thread_;
};

}  // namespace fourfold::measure

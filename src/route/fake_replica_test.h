#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "files/scratch_folder.h"
#include "http/raw_client_test.h"
#include "http/raw_server_test.h"
#include "route/route_api.h"
#include "route/router.h"

namespace fourfold::route {

inline constexpr int64_t kMillisecond = 1'000'000;

inline std::string ok(const std::string& body, const std::string& headers = {}) {
  return "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n" + headers +
         "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
}

inline std::string status(int code, const std::string& headers = {}) {
  return "HTTP/1.1 " + std::to_string(code) + " X\r\n" + headers + "Content-Length: 2\r\n\r\nno";
}

inline constexpr const char* kStreamHead =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

inline std::string chunk(const std::string& text) {
  return fmt::format("{:x}\r\n{}\r\n", text.size(), text);
}

/// A server whose /health is as a test says, and that answers other requests by a script.
class FakeReplica {
 public:
  using Answer = std::function<void(http::RawClient& connection, const std::string& request)>;

  explicit FakeReplica(Answer answer)
      : answer_(std::move(answer)),
        server_([this](http::RawClient& connection, int) { serve(connection); }) {}

  std::string url() const { return "http://127.0.0.1:" + std::to_string(server_.port()); }
  /// "": it leaves that open until this is called again.
  void set_health(const std::string& answer) {
    const std::lock_guard lock(mutex_);
    health_ = answer;
    changed_.notify_all();
  }
  /// Requests that are no probes, head and body.
  std::vector<std::string> requests() {
    const std::lock_guard lock(mutex_);
    return requests_;
  }
  void wait_for_requests(size_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return requests_.size() >= count; });
  }

 private:
  void serve(http::RawClient& connection) {
    while (true) {
      std::string request = connection.read_until("\r\n\r\n");
      if (request.empty() || connection.ended()) return;
      const std::string line = request.substr(0, request.find("\r\n"));
      if (line == "GET /health HTTP/1.1") {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return !health_.empty(); });
        connection.send(health_);
      } else if (line == "GET /metrics HTTP/1.1") {
        connection.send(ok("vllm:kv_cache_usage_perc 0.25\nvllm:num_requests_running 0\n"));
      } else if (line == "GET /v1/models HTTP/1.1") {
        connection.send(ok(R"({"object": "list", "data": [{"id": "m", "object": "model"}, 5]})"));
      } else {
        const size_t at = request.find("Content-Length: ");
        const size_t length =
            at == request.npos ? 0 : std::strtoul(request.c_str() + at + 16, nullptr, 10);
        if (length > 0) request += connection.read_bytes(length);
        {
          const std::lock_guard lock(mutex_);
          requests_.push_back(request);
          changed_.notify_all();
        }
        answer_(connection, request);
        if (connection.fd() < 0) return;
      }
    }
  }

  Answer answer_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::string health_ = ok("{}");
  std::vector<std::string> requests_;
  http::RawServer server_;
};

inline FakeReplica::Answer always(const std::string& answer) {
  return [answer](http::RawClient& connection, const std::string&) { connection.send(answer); };
}

inline serve::Keys keys(const std::string& key) {
  const files::ScratchFolder folder;
  return serve::Keys::read(folder.write("keys", key)).value();
}

class RouterTest : public testing::Test {
 protected:
  void start(const std::vector<std::string>& urls, RouterOptions options = {},
             const serve::Keys& clients = {}, const serve::Keys& admins = {}) {
    options.probe.interval_ns = 20 * kMillisecond;
    server_ = http::Server::listen({}, clock_, [this](const std::shared_ptr<http::Exchange>& e) {
                api_->handle(e);
              }).value();
    router_ = std::make_unique<Router>(*server_, clock_, options);
    api_ = std::make_unique<RouteApi>(*server_, *router_, clients, admins);
    for (const std::string& url : urls) {
      EXPECT_TRUE(router_->add(http::Url::parse(url).value()).ok());
    }
    std::promise<void> probed;
    router_->when_probed([&] { probed.set_value(); });
    thread_ = std::thread([this] { server_->run(); });
    probed.get_future().wait();
  }
  void TearDown() override {
    if (!thread_.joinable()) return;
    server_->post([this] {
      router_->stop_probes();
      server_->stop();
    });
    thread_.join();
    EXPECT_EQ(router_->open_requests(), 0);
    for (const Replica& replica : router_->replicas().all()) {
      EXPECT_EQ(replica.requests, 0) << replica.name;
      EXPECT_EQ(replica.tokens, 0) << replica.name;
    }
    api_.reset();
    router_.reset();
    server_.reset();
  }

  template <typename Work>
  auto on_server(Work work) {
    std::packaged_task<decltype(work())()> task(work);
    auto result = task.get_future();
    server_->post([&task] { task(); });
    return result.get();
  }

  http::RawClient connect() const { return http::RawClient(server_->port()); }

  static std::string post(const std::string& path, const std::string& headers = {},
                          const std::string& body = R"({"prompt": "hello"})") {
    return "POST " + path + " HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n" + headers +
           "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
  }
  static std::string get(const std::string& path, const std::string& headers = {}) {
    return "GET " + path + " HTTP/1.1\r\nHost: a\r\n" + headers + "\r\n";
  }

  std::pair<std::string, std::string> ask(const std::string& request) const {
    http::RawClient client = connect();
    client.send(request);
    return client.read_response();
  }
  std::string complete() const { return ask(post("/v1/completions")).second; }

  /// The value of a metric of the page; "" if there is none.
  std::string metric(const std::string& name) const {
    const std::string page = ask(get("/metrics")).second;
    const size_t at = page.find("\n" + name + " ");
    return at == page.npos
               ? ""
               : page.substr(at + name.size() + 2, page.find('\n', at + 1) - at - name.size() - 2);
  }

  bool takes_requests(const std::string& url) {
    return on_server([&] {
      const Replica* replica = router_->replicas().find(http::Url::parse(url).value());
      return replica != nullptr && replica->takes_requests();
    });
  }
  void wait_until_taken(const std::string& url, bool wanted) {
    while (takes_requests(url) != wanted) {
    }
  }

  base::SteadyClock clock_;
  std::unique_ptr<http::Server> server_;
  std::unique_ptr<Router> router_;
  std::unique_ptr<RouteApi> api_;
  std::thread thread_;
};

}  // namespace fourfold::route

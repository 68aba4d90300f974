// The router between clients and replicas that do as a test says.
#include "route/router.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "files/scratch_folder.h"
#include "http/raw_client_test.h"
#include "http/raw_server_test.h"
#include "route/forward.h"
#include "route/route_api.h"

namespace fourfold::route {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::EndsWith;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

constexpr int64_t kMillisecond = 1'000'000;

std::string ok(const std::string& body, const std::string& headers = {}) {
  return "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n" + headers +
         "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
}

std::string status(int code, const std::string& headers = {}) {
  return "HTTP/1.1 " + std::to_string(code) + " X\r\n" + headers + "Content-Length: 2\r\n\r\nno";
}

constexpr const char* kStreamHead =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

std::string chunk(const std::string& text) {
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

FakeReplica::Answer always(const std::string& answer) {
  return [answer](http::RawClient& connection, const std::string&) { connection.send(answer); };
}

serve::Keys keys(const std::string& key) {
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

TEST_F(RouterTest, PassesARequestAndItsAnswerOn) {
  FakeReplica replica(always(ok("{\"a\": 1}", "X-Own: 1\r\nConnection: X-Hop\r\nX-Hop: 1\r\n")));
  start({replica.url()});
  const auto [head, body] = ask(post("/v1/some/path?a=b",
                                     "X-Custom: c\r\nAuthorization: Bearer theirs\r\n"
                                     "Connection: X-Mine\r\nX-Mine: 1\r\nX-Request-Id: id-1\r\n"));
  EXPECT_EQ(body, "{\"a\": 1}");
  EXPECT_THAT(head, AllOf(StartsWith("HTTP/1.1 200 "), HasSubstr("x-own: 1\r\n"),
                          HasSubstr("Content-Type: application/json\r\n"),
                          HasSubstr("X-Request-Id: id-1\r\n"), Not(HasSubstr("x-hop"))));
  const std::string request = replica.requests().at(0);
  EXPECT_THAT(request,
              AllOf(StartsWith("POST /v1/some/path?a=b HTTP/1.1\r\n"), HasSubstr("x-custom: c\r\n"),
                    HasSubstr("authorization: Bearer theirs\r\n"), Not(HasSubstr("x-mine")),
                    HasSubstr("X-Request-Id: id-1\r\n"), EndsWith(R"({"prompt": "hello"})")));
}

TEST_F(RouterTest, ShowsItsOwnKeyToReplicas) {
  FakeReplica replica(always(ok("{}")));
  start({replica.url()}, {.pass_keys = false});
  ask(post("/v1/x", "Authorization: Bearer theirs\r\n"));
  on_server([this] { router_->set_replica_key("ours"); });
  ask(post("/v1/x", "Authorization: Bearer theirs\r\n"));
  const std::vector<std::string> requests = replica.requests();
  EXPECT_THAT(requests.at(0), Not(HasSubstr("Bearer")));
  EXPECT_THAT(requests.at(1), AllOf(HasSubstr("Bearer ours"), Not(HasSubstr("theirs"))));
}

TEST_F(RouterTest, PassesAStreamOnAsItComes) {
  std::promise<void> more;
  std::shared_future<void> go_on = more.get_future().share();
  FakeReplica replica([go_on](http::RawClient& connection, const std::string&) {
    connection.send(kStreamHead + chunk("data: 1\n\n"));
    go_on.wait();
    for (const char c : std::string("data: 2\n\ndata: [DONE]\n\n")) connection.send(chunk({c}));
    connection.send("0\r\n\r\n");
  });
  start({replica.url()});
  http::RawClient client = connect();
  client.send(post("/v1/completions"));
  EXPECT_THAT(client.read_until("data: 1\n\n"), HasSubstr("Content-Type: text/event-stream"));
  EXPECT_EQ(metric("fourfold:route_events_total"), "1.0");
  more.set_value();
  std::string rest = client.read_until("0\r\n\r\n");
  EXPECT_NE(rest.find("D"), rest.npos);
  EXPECT_EQ(metric("fourfold:route_events_total"), "3.0");
}

TEST_F(RouterTest, TakesNoMoreFromAReplicaThanItsClientDoes) {
  const std::string body(64 << 20, 'x');  // more than all sockets hold
  std::atomic<bool> sent = false;
  FakeReplica replica([&](http::RawClient& connection, const std::string&) {
    connection.send(ok(body));
    sent = true;
  });
  start({replica.url()});
  http::RawClient client = connect();
  client.send(post("/v1/completions"));
  const std::string head = client.read_until("\r\n\r\n");
  // Many turns of the server's thread, in which it could take more.
  for (int i = 0; i < 100; ++i) ask(get("/health"));
  EXPECT_FALSE(sent);
  EXPECT_TRUE(client.read_bytes(body.size()) == body);
}

TEST_F(RouterTest, AsksAnotherReplicaWhereOneCannotBeReached) {
  FakeReplica good(always(ok("good")));
  auto gone = std::make_unique<FakeReplica>(always(ok("gone")));
  const std::string url = gone->url();
  start({url, good.url()});
  EXPECT_EQ(complete(), "gone");
  on_server([this] {
    while (router_->budget().take()) {
    }
  });
  gone.reset();
  for (int i = 0; i < 5; ++i) EXPECT_EQ(complete(), "good");
  wait_until_taken(url, false);
}

TEST_F(RouterTest, AsksAnotherReplicaWhereOneDiesOrIsUnwell) {
  for (const std::string& answer :
       {std::string(), std::string("HTTP/1.1 200 OK\r\nContent-Le"), status(502), status(503),
        status(503, "Retry-After: 1\r\n"), status(504),
        std::string("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")}) {
    FakeReplica bad([&](http::RawClient& connection, const std::string&) {
      connection.send(answer);
      connection.close();
    });
    FakeReplica good(always(ok("good")));
    start({bad.url(), good.url()});
    EXPECT_EQ(complete(), "good") << answer;
    EXPECT_GE(bad.requests().size(), 1u);
    TearDown();
  }
}

TEST_F(RouterTest, PassesOnWhatNoOtherReplicaDoesBetter) {
  FakeReplica busy(always(status(503, "Retry-After: 7\r\n")));
  FakeReplica broken(always(status(500)));
  start({busy.url()});
  EXPECT_THAT(ask(post("/v1/completions")).first,
              AllOf(StartsWith("HTTP/1.1 503"), HasSubstr("retry-after: 7")));
  for (int i = 0; i < 5; ++i) ask(post("/v1/completions"));
  EXPECT_TRUE(takes_requests(busy.url())) << "busy is not broken";
  TearDown();
  start({broken.url(), busy.url()});
  EXPECT_THAT(ask(post("/v1/completions")).first, StartsWith("HTTP/1.1 500"));
}

TEST_F(RouterTest, EjectsAfterThreeFailuresAndTakesItBackAfterTwoGoodProbes) {
  FakeReplica broken(always(status(500)));
  start({broken.url()});
  broken.set_health("");
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(takes_requests(broken.url()));
    ask(post("/v1/completions"));
  }
  EXPECT_FALSE(takes_requests(broken.url()));
  EXPECT_THAT(ask(post("/v1/completions")).first,
              AllOf(StartsWith("HTTP/1.1 503"), HasSubstr("Retry-After: 1")));
  EXPECT_THAT(ask(get("/health")).first, StartsWith("HTTP/1.1 503"));
  broken.set_health(ok("{}"));
  wait_until_taken(broken.url(), true);
}

TEST_F(RouterTest, DoesNotRepeatWhatMayDoHarmTwice) {
  FakeReplica dies([](http::RawClient& connection, const std::string&) { connection.close(); });
  FakeReplica good(always(ok("good")));
  start({dies.url(), good.url()});
  EXPECT_THAT(ask(post("/v1/files")).first, StartsWith("HTTP/1.1 502"));
  EXPECT_TRUE(good.requests().empty());
}

TEST_F(RouterTest, StopsAtItsBudgetOfRetries) {
  FakeReplica busy(always(status(503, "Retry-After: 1\r\n")));
  FakeReplica good(always(ok("good")));
  start({busy.url(), good.url()});
  int answered = 0;
  constexpr int kRequests = 50;
  for (int i = 0; i < kRequests; ++i) {
    // Each prompt anew, so that the idle first replica is tried first.
    const auto [head, body] =
        ask(post("/v1/completions", "", json{{"prompt", "prompt " + std::to_string(i)}}.dump()));
    if (body == "good") ++answered;
  }
  EXPECT_EQ(busy.requests().size(), static_cast<size_t>(kRequests));
  EXPECT_EQ(answered, RetryBudget::kReserve + kRequests / 5);
  EXPECT_EQ(metric("fourfold:route_retries_refused_total"),
            fmt::format("{}.0", kRequests - answered));
}

TEST_F(RouterTest, ShowsThatAStreamHasBrokenOff) {
  for (const bool between : {true, false}) {
    FakeReplica dies([&](http::RawClient& connection, const std::string&) {
      connection.send(kStreamHead + chunk("data: 1\n\n") + (between ? "" : chunk("data: {\"a\"")));
      connection.reset();
    });
    start({dies.url()});
    http::RawClient client = connect();
    client.send(post("/v1/completions"));
    const std::string answer = client.read_all();
    EXPECT_TRUE(client.ended());
    EXPECT_THAT(answer, Not(EndsWith("0\r\n\r\n")));
    EXPECT_EQ(answer.find("data: {\"error\":") != answer.npos, between) << answer;
    EXPECT_THAT(answer, Not(HasSubstr("[DONE]")));
    TearDown();
  }
}

TEST_F(RouterTest, AddsNothingToAStreamThatItCannotBePutInto) {
  const std::string type = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n";
  for (const std::string& answer :
       {type + "Content-Length: 1000\r\n\r\ndata: 1\n\n",
        type + "Content-Length: 10\r\n\r\ndata: 1\n\n",
        type + "Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n" +
            chunk("data: 1\n\n")}) {
    FakeReplica dies([&](http::RawClient& connection, const std::string&) {
      connection.send(answer);
      connection.close();
    });
    start({dies.url()});
    http::RawClient client = connect();
    client.send(post("/v1/completions"));
    const std::string got = client.read_all();
    EXPECT_TRUE(client.ended());
    EXPECT_THAT(got, AllOf(HasSubstr("data: 1\n\n"), Not(HasSubstr("error")))) << answer;
    EXPECT_THAT(ask(get("/ping")).first, StartsWith("HTTP/1.1 200"));
    TearDown();
  }
}

TEST_F(RouterTest, ShowsThatAnAnswerHasBrokenOff) {
  FakeReplica dies([](http::RawClient& connection, const std::string&) {
    connection.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
    connection.close();
  });
  start({dies.url()});
  http::RawClient client = connect();
  client.send(post("/v1/completions"));
  EXPECT_THAT(client.read_all(), AllOf(HasSubstr("Content-Length: 10"), EndsWith("\r\n\r\nhalf")));
  EXPECT_TRUE(client.ended());
}

TEST_F(RouterTest, CancelsWhatAClientNoLongerWaitsFor) {
  std::promise<void> cancelled;
  FakeReplica hangs([&](http::RawClient& connection, const std::string&) {
    connection.read_all();  // until the router closes it
    cancelled.set_value();
    connection.close();
  });
  start({hangs.url()});
  http::RawClient client = connect();
  client.send(post("/v1/completions"));
  hangs.wait_for_requests(1);
  client.close();
  cancelled.get_future().wait();
}

TEST_F(RouterTest, GivesUpAReplicaThatHangs) {
  FakeReplica hangs([](http::RawClient& connection, const std::string&) {
    connection.read_all();
    connection.close();
  });
  start({hangs.url()}, {.silence_ns = 30 * kMillisecond});
  EXPECT_THAT(ask(post("/v1/completions")).first, StartsWith("HTTP/1.1 504"));
}

TEST_F(RouterTest, TakesWaitingRequestsFromAReplicaWhoseProbesFail) {
  FakeReplica hangs([](http::RawClient& connection, const std::string&) {
    connection.read_all();
    connection.close();
  });
  FakeReplica good(always(ok("good")));
  start({hangs.url(), good.url()});
  http::RawClient client = connect();
  client.send(post("/v1/completions"));
  hangs.wait_for_requests(1);
  hangs.set_health(status(503));
  EXPECT_EQ(client.read_response().second, "good");
  EXPECT_EQ(metric("fourfold:route_retries_total{reason=\"ejected\"}"), "1.0");
}

TEST_F(RouterTest, LeavesRequestsWhereTheyAreWhenProbesFailAndNobodyElseIsThere) {
  std::promise<void> more;
  FakeReplica slow([future = more.get_future().share()](http::RawClient& c, const std::string&) {
    future.wait();
    c.send(ok("late"));
  });
  start({slow.url()});
  http::RawClient client = connect();
  client.send(post("/v1/completions"));
  slow.wait_for_requests(1);
  slow.set_health(status(503));
  wait_until_taken(slow.url(), false);
  more.set_value();
  EXPECT_EQ(client.read_response().second, "late");
}

TEST_F(RouterTest, AddsNobodyOnceItEnds) {
  FakeReplica replica(always(ok("ok")));
  start({}, {}, {}, keys("admin"));
  on_server([this] { router_->stop_probes(); });
  const auto [head, body] = ask(post("/admin/replicas/add", "Authorization: Bearer admin\r\n",
                                     json{{"url", replica.url()}}.dump()));
  EXPECT_THAT(head, StartsWith("HTTP/1.1 503"));
  EXPECT_THAT(body, HasSubstr("the router ends"));
}

TEST_F(RouterTest, RefusesPathsThatAnotherServerCouldTakeForOthers) {
  FakeReplica replica(always(ok("ok")));
  start({replica.url()});
  for (const char* path : {"/v1/../metrics", "/v1/%2e%2E/metrics", "/v1/.%2e%2fmetrics", "/v1/./x",
                           "/v1/..", "/v1/x/."}) {
    EXPECT_THAT(ask(get(path)).first, StartsWith("HTTP/1.1 400")) << path;
  }
  EXPECT_TRUE(replica.requests().empty());
  for (const char* path : {"/v1/..x", "/v1/x%2fy", "/v1/...", "/v1/a.b"}) {
    EXPECT_THAT(ask(get(path)).first, StartsWith("HTTP/1.1 200")) << path;
  }
}

TEST_F(RouterTest, WaitsForAStreamThatTrickles) {
  FakeReplica trickles([](http::RawClient& connection, const std::string&) {
    for (const char c : std::string(kStreamHead) + chunk("data: 1\n\n") + "0\r\n\r\n") {
      connection.send({&c, 1});
    }
  });
  start({trickles.url()});
  http::RawClient client = connect();
  client.send(post("/v1/completions"));
  EXPECT_THAT(client.read_until("0\r\n\r\n"), HasSubstr("text/event-stream"));
}

TEST_F(RouterTest, LetsAdminsChangeTheReplicas) {
  FakeReplica a(always(ok("a")));
  std::promise<void> more;
  FakeReplica b([future = more.get_future().share()](http::RawClient& c, const std::string&) {
    c.send(kStreamHead + chunk("data: b\n\n"));
    future.wait();
    c.send("0\r\n\r\n");
  });
  const std::string admin = "Authorization: Bearer admin\r\n";
  const auto change = [&](const std::string& what, const std::string& url) {
    return ask(post("/admin/replicas/" + what, admin, json{{"url", url}}.dump()))
        .first.substr(9, 3);
  };
  start({a.url()}, {}, keys("client"), keys("admin"));
  EXPECT_EQ(change("add", b.url()), "201");
  EXPECT_EQ(change("add", b.url()), "409");
  EXPECT_EQ(change("add", "ftp://x"), "400");
  EXPECT_EQ(change("drain", "http://nobody"), "404");
  wait_until_taken(b.url(), true);
  EXPECT_EQ(change("drain", a.url()), "200");
  http::RawClient client = connect();
  client.send(post("/v1/completions", "Authorization: Bearer client\r\n"));
  client.read_until("data: b\n\n");
  EXPECT_EQ(change("drain", b.url()), "200");
  const json list = json::parse(ask(get("/admin/replicas", admin)).second).at("replicas");
  EXPECT_EQ(list.at(0).at("state"), "draining");
  EXPECT_EQ(list.at(0).at("healthy"), true);
  EXPECT_EQ(list.at(1).at("requests"), 1);
  EXPECT_EQ(list.at(1).at("models"), json({"m"}));
  EXPECT_THAT(ask(post("/v1/completions", "Authorization: Bearer client\r\n")).first,
              StartsWith("HTTP/1.1 503"));
  more.set_value();
  client.read_until("0\r\n\r\n");  // a replica that drains finishes what it has
  EXPECT_EQ(change("remove", b.url()), "200");
  EXPECT_EQ(change("remove", b.url()), "404");
  EXPECT_EQ(change("add", a.url()), "201");
  EXPECT_EQ(ask(post("/v1/completions", "Authorization: Bearer client\r\n")).second, "a");
}

TEST_F(RouterTest, CutsOrMovesWhatARemovedReplicaHas) {
  FakeReplica hangs([](http::RawClient& connection, const std::string& request) {
    if (request.find("stream") != request.npos) {
      connection.send(kStreamHead + chunk("data: 1\n\n"));
    }
    connection.read_all();
    connection.close();
  });
  FakeReplica good(always(ok("good")));
  start({hangs.url()});
  http::RawClient stream = connect();
  stream.send(post("/v1/completions", "", R"({"stream": true})"));
  stream.read_until("data: 1\n\n");
  http::RawClient waits = connect();
  waits.send(post("/v1/completions"));
  hangs.wait_for_requests(2);
  on_server([&] { EXPECT_TRUE(router_->add(http::Url::parse(good.url()).value()).ok()); });
  wait_until_taken(good.url(), true);
  on_server([&] { router_->remove(router_->replicas().all()[0].id); });
  EXPECT_EQ(waits.read_response().second, "good");
  EXPECT_THAT(stream.read_all(), HasSubstr("{\"error\":"));
}

TEST_F(RouterTest, NeedsAKeyForAllButHealth) {
  FakeReplica replica(always(ok("ok")));
  start({replica.url()}, {}, keys("client"), keys("admin"));
  for (const RoutePath& path : route_paths()) {
    std::string target(path.path);
    if (target.ends_with('*')) target.back() = 'm';
    const std::string method(path.method.empty() ? "PUT" : path.method);
    const auto code = [&](const std::string& key) {
      return ask(method + " " + target + " HTTP/1.1\r\nHost: a\r\n" +
                 (key.empty() ? "" : "Authorization: Bearer " + key + "\r\n") + "\r\n")
          .first.substr(9, 3);
    };
    const bool open = path.access == Access::kOpen;
    EXPECT_EQ(code("") == "401", !open) << target;
    EXPECT_EQ(code("wrong") == "401", !open) << target;
    EXPECT_NE(code(path.access == Access::kAdmin ? "admin" : "client"), "401") << target;
    EXPECT_EQ(code("client") == "401", path.access == Access::kAdmin) << target;
  }
  EXPECT_THAT(ask(get("/elsewhere")).first, StartsWith("HTTP/1.1 401"));
  EXPECT_THAT(ask(get("/elsewhere", "Authorization: Bearer client\r\n")).first,
              StartsWith("HTTP/1.1 404"));
}

TEST_F(RouterTest, HasNoAdminsWithoutTheirKeys) {
  FakeReplica replica(always(ok("ok")));
  start({replica.url()});
  EXPECT_THAT(ask(get("/admin/replicas")).first, StartsWith("HTTP/1.1 403"));
}

TEST_F(RouterTest, ListsTheModelsOfAllReplicasOnce) {
  FakeReplica a(always(ok("a")));
  FakeReplica b(always(ok("b")));
  start({a.url(), b.url()});
  const json models = json::parse(ask(get("/v1/models")).second);
  EXPECT_EQ(models, json::parse(R"({"object": "list", "data": [{"id": "m", "object": "model"}]})"));
  EXPECT_EQ(json::parse(ask(get("/v1/models/m")).second).at("id"), "m");
  EXPECT_THAT(ask(get("/v1/models/x")).first, StartsWith("HTTP/1.1 404"));
}

TEST_F(RouterTest, CountsWhatBecameOfRequests) {
  FakeReplica replica(always(ok("ok")));
  start({replica.url()});
  complete();
  const std::string of = "{replica=\"" + replica.url() + "\"";
  EXPECT_EQ(metric("fourfold:route_requests_total" + of + ",outcome=\"2xx\"}"), "1.0");
  EXPECT_EQ(metric("fourfold:route_replica_in_use" + of + "}"), "1.0");
  EXPECT_EQ(metric("fourfold:route_request_seconds_count"), "1.0");
  EXPECT_EQ(metric("fourfold:route_first_byte_seconds_count"), "1.0");
}

}  // namespace
}  // namespace fourfold::route

#include "http/server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <csignal>
#include <future>
#include <map>
#include <mutex>
#include <stdexcept>
#include <thread>

#include "http/raw_client_test.h"

namespace fourfold::http {
namespace {

using testing::AllOf;
using testing::EndsWith;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

constexpr int64_t kSecond = 1'000'000'000;
constexpr const char* kGet = "GET /echo HTTP/1.1\r\nHost: a\r\n\r\n";

/// A server on a thread of its own whose time stands still until a test moves it. /echo answers
/// with the request's body; a request for any other path waits in exchanges() for the test.
class ServerTest : public testing::Test {
 protected:
  void TearDown() override {
    if (!thread_.joinable()) return;
    on_server([this] { server_->stop(); });
    thread_.join();
  }

  void listen(ServerOptions options = {}) {
    auto server = Server::listen(options, clock_, [this](std::shared_ptr<Exchange> exchange) {
      if (exchange->request().path == "/throws") throw std::runtime_error("no memory");
      if (exchange->request().path == "/echo") {
        exchange->respond({.content_type = "text/plain",
                           .body = "body: " + exchange->request().body,
                           .headers = {{"X-Own", "1"}}});
        return;
      }
      exchange->on_gone([this] { count(gone_); });
      const std::lock_guard lock(mutex_);
      exchanges_.push_back(std::move(exchange));
      changed_.notify_all();
    });
    ASSERT_TRUE(server.ok()) << server.error().message;
    server_ = std::move(server).value();
    thread_ = std::thread([this] { server_->run(); });
  }

  RawClient connect() { return RawClient(server_->port()); }

  /// Runs `work` on the server's thread and waits for it.
  void on_server(const std::function<void()>& work) {
    std::promise<void> done;
    server_->post([&] {
      work();
      done.set_value();
    });
    done.get_future().wait();
  }

  void pass_seconds(int64_t seconds) {
    on_server([&] {
      clock_.advance_ns(seconds * kSecond);
      server_->sweep();
    });
  }

  /// What clients sent before has been read, and answers that they have read are over, when this
  /// returns: the server takes things in the order in which they come.
  void settle() {
    RawClient client = connect();
    client.send(kGet);
    EXPECT_EQ(client.read_response().second, "body: ");
  }

  void wait_for_connections(int64_t wanted) {
    int64_t now = -1;
    while (now != wanted) on_server([&] { now = server_->connections(); });
  }

  std::shared_ptr<Exchange> next_exchange() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return !exchanges_.empty(); });
    auto out = std::move(exchanges_.front());
    exchanges_.erase(exchanges_.begin());
    return out;
  }

  void count(int& counter) {
    const std::lock_guard lock(mutex_);
    ++counter;
    changed_.notify_all();
  }

  void wait_for_gone(int wanted) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return gone_ == wanted; });
  }

  base::ManualClock clock_;  // touched on the server's thread
  std::unique_ptr<Server> server_;
  std::thread thread_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::shared_ptr<Exchange>> exchanges_;
  int gone_ = 0;
};

TEST_F(ServerTest, AnswersOneRequestAfterTheOtherOnOneConnection) {
  listen();
  RawClient client = connect();
  for (int i = 0; i < 3; ++i) {
    client.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nh" + std::to_string(i));
    const auto [head, body] = client.read_response();
    EXPECT_THAT(head, AllOf(StartsWith("HTTP/1.1 200 OK\r\n"), HasSubstr("X-Own: 1\r\n"),
                            HasSubstr("Date: "), Not(HasSubstr("Connection"))));
    EXPECT_EQ(body, "body: h" + std::to_string(i));
  }
}

TEST_F(ServerTest, AnswersPipelinedRequestsInOrder) {
  listen();
  RawClient client = connect();
  std::string requests;
  for (int i = 0; i < 50; ++i) {
    requests +=
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n" + std::to_string(i + 10);
  }
  client.send(requests);
  for (int i = 0; i < 50; ++i) {
    EXPECT_EQ(client.read_response().second, "body: " + std::to_string(i + 10));
  }
}

TEST_F(ServerTest, ClosesWhereTheClientWantsIt) {
  listen();
  RawClient client = connect();
  client.send("GET /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
  EXPECT_THAT(client.read_all(), AllOf(HasSubstr("Connection: close"), EndsWith("body: ")));
  EXPECT_TRUE(client.ended());
}

TEST_F(ServerTest, StaysOpenForHttp10WhereTheClientWantsIt) {
  listen();
  RawClient client = connect();
  for (int i = 0; i < 2; ++i) {
    client.send("GET /echo HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    EXPECT_THAT(client.read_response().first, HasSubstr("Connection: keep-alive\r\n"));
  }
}

TEST_F(ServerTest, RefusesAndStillDeliversTheAnswerToAClientThatGoesOnSending) {
  listen({.limits = {.body_bytes = 10}});
  RawClient client = connect();
  client.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n");
  client.send(std::string(1'000'000, 'x'));
  EXPECT_THAT(client.read_all(),
              AllOf(StartsWith("HTTP/1.1 413 "), HasSubstr("the body has more than 10 bytes")));
}

TEST_F(ServerTest, AsksForABodyThatTheClientHoldsBack) {
  listen();
  RawClient client = connect();
  client.send(
      "POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
  EXPECT_EQ(client.read_until("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  client.send("hi");
  EXPECT_EQ(client.read_response().second, "body: hi");
}

TEST_F(ServerTest, AnswersHeadWithoutABody) {
  listen();
  RawClient client = connect();
  client.send("HEAD /echo HTTP/1.1\r\nHost: a\r\n\r\n");
  EXPECT_THAT(client.read_until("\r\n\r\n"), HasSubstr("Content-Length: 6"));
  client.send(kGet);
  EXPECT_THAT(client.read_until("\r\n\r\n"), StartsWith("HTTP/1.1 200"));
}

TEST_F(ServerTest, StreamsInChunksAndToHttp10UntilTheEnd) {
  listen();
  for (const bool old : {false, true}) {
    RawClient client = connect();
    client.send(old ? "GET /s HTTP/1.0\r\n\r\n" : "GET /s HTTP/1.1\r\nHost: a\r\n\r\n");
    const auto exchange = next_exchange();
    on_server([&] {
      exchange->start({.content_type = "text/event-stream", .body = {}, .headers = {}});
      exchange->write("data: one\n\n");
    });
    const std::string head = client.read_until("\r\n\r\n");
    EXPECT_EQ(head.find("chunked") != head.npos, !old);
    EXPECT_EQ(client.read_until("\n\n"), old ? "data: one\n\n" : "b\r\ndata: one\n\n");
    on_server([&] {
      exchange->write("two");
      exchange->finish();
    });
    if (old) {
      EXPECT_EQ(client.read_all(), "two");
    } else {
      EXPECT_EQ(client.read_until("0\r\n\r\n"), "\r\n3\r\ntwo\r\n0\r\n\r\n");
      client.send(kGet);
      EXPECT_EQ(client.read_response().second, "body: ");
    }
  }
  EXPECT_EQ(gone_, 0);
}

TEST_F(ServerTest, StreamsABodyOfKnownLengthAsItIs) {
  listen();
  RawClient client = connect();
  client.send("GET /s HTTP/1.1\r\nHost: a\r\n\r\n");
  const auto exchange = next_exchange();
  on_server([&] {
    exchange->start({.body = {}, .headers = {}}, 5);
    exchange->write("hel");
    exchange->write("lo");
    exchange->finish();
  });
  const auto [head, body] = client.read_response();
  EXPECT_THAT(head, AllOf(HasSubstr("Content-Length: 5"), Not(HasSubstr("chunked"))));
  EXPECT_EQ(body, "hello");
  client.send(kGet);
  EXPECT_EQ(client.read_response().second, "body: ");
}

TEST_F(ServerTest, KeepsTheConnectionAfterAnAnswerThatHasALengthButNoBody) {
  listen();
  RawClient client = connect();
  client.send("GET /s HTTP/1.1\r\nHost: a\r\n\r\n");
  const auto exchange = next_exchange();
  on_server([&] {
    exchange->start({.status = 304, .body = {}, .headers = {}}, 5);
    exchange->finish();
  });
  EXPECT_THAT(client.read_until("\r\n\r\n"), StartsWith("HTTP/1.1 304"));
  client.send(kGet);
  EXPECT_EQ(client.read_response().second, "body: ");
}

TEST_F(ServerTest, CutsOnlyTheConnectionWhoseAnswerIsLongerThanItWasToBe) {
  listen();
  RawClient client = connect();
  client.send("GET /s HTTP/1.1\r\nHost: a\r\n\r\n");
  const auto exchange = next_exchange();
  on_server([&] {
    exchange->start({.body = {}, .headers = {}}, 5);
    exchange->write("hel");
    exchange->write("lo!");
    exchange->write("more");
    exchange->finish();
  });
  EXPECT_THAT(client.read_all(), Not(HasSubstr("hello")));
  EXPECT_TRUE(client.ended());
  settle();
}

TEST_F(ServerTest, ShowsThatAnAnswerIsNotComplete) {
  listen();
  for (const int64_t length : {-1, 5}) {
    for (const bool too_early : {true, false}) {
      RawClient client = connect();
      client.send("GET /s HTTP/1.1\r\nHost: a\r\n\r\n");
      const auto exchange = next_exchange();
      if (length < 0 && !too_early) continue;
      on_server([&] {
        exchange->start({.body = {}, .headers = {}}, length);
        exchange->write("hel");
        if (too_early) {
          exchange->abort();
        } else {
          exchange->finish();  // two bytes are missing
        }
      });
      EXPECT_THAT(client.read_all(), AllOf(HasSubstr("hel"), Not(HasSubstr("0\r\n\r\n"))));
      EXPECT_TRUE(client.ended());
    }
  }
}

TEST_F(ServerTest, TellsTheWriterThatTheClientHasTakenWhatWasThere) {
  listen();
  RawClient client = connect();
  client.send("GET /s HTTP/1.1\r\nHost: a\r\n\r\n");
  const auto exchange = next_exchange();
  std::promise<void> drained;
  on_server([&] {
    exchange->start({});
    exchange->write("some");
    EXPECT_GT(exchange->pending_bytes(), 4);
    exchange->on_drained([&] {
      EXPECT_EQ(exchange->pending_bytes(), 0);
      drained.set_value();
    });
  });
  drained.get_future().wait();
  on_server([&] { exchange->on_drained(nullptr); });
}

TEST_F(ServerTest, OutlivesAHandlerThatThrows) {
  listen();
  RawClient client = connect();
  client.send("GET /throws HTTP/1.1\r\nHost: a\r\n\r\n");
  EXPECT_THAT(client.read_response().first, StartsWith("HTTP/1.1 500 "));
  server_->post([] { throw std::runtime_error("no memory"); });
  settle();
}

TEST_F(ServerTest, TellsTheHandlerOfAClientThatWentAway) {
  listen();
  {
    RawClient client = connect();
    client.send("GET /waits HTTP/1.1\r\nHost: a\r\n\r\n");
    const auto exchange = next_exchange();
    client.close();
    wait_for_gone(1);
    on_server([&] { exchange->respond({}); });  // dropped
    bool told_at_once = false;
    on_server([&] { exchange->on_gone([&] { told_at_once = true; }); });
    EXPECT_TRUE(told_at_once);
  }
  RawClient client = connect();
  client.send("GET /streams HTTP/1.1\r\nHost: a\r\n\r\n");
  const auto exchange = next_exchange();
  on_server([&] { exchange->start({}); });
  client.close();
  wait_for_gone(2);
  on_server([&] {
    exchange->write("for nobody");
    exchange->finish();
  });
  wait_for_connections(0);
}

TEST_F(ServerTest, CutsAHeadThatComesTooSlowly) {
  listen();
  RawClient client = connect();
  client.send("GET /echo HTTP/1.1\r\n");
  settle();
  pass_seconds(9);
  client.send("Host: a\r\n");
  settle();
  pass_seconds(2);
  EXPECT_THAT(client.read_all(), StartsWith("HTTP/1.1 408 "));
  EXPECT_TRUE(client.ended());
}

TEST_F(ServerTest, CutsABodyBelowItsRateButNotAboveIt) {
  listen({.timeouts = {.body_grace_ns = kSecond, .body_bytes_per_s = 100}});
  RawClient steady = connect();
  RawClient slow = connect();
  for (RawClient* client : {&steady, &slow}) {
    client->send(
        "POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
        "Content-Length: 1000\r\n\r\n");
    client->read_until("\r\n\r\n");  // so the body has begun
  }
  pass_seconds(1);
  steady.send(std::string(999, 'x'));
  settle();
  pass_seconds(2);
  EXPECT_THAT(slow.read_all(), StartsWith("HTTP/1.1 408 "));
  steady.send("x");
  EXPECT_EQ(steady.read_response().second.size(), 1006u);
}

TEST_F(ServerTest, CutsIdleConnections) {
  listen();
  RawClient client = connect();
  client.send(kGet);
  client.read_response();
  pass_seconds(59);
  client.send(kGet);
  EXPECT_EQ(client.read_response().second, "body: ");
  settle();
  pass_seconds(61);
  EXPECT_EQ(client.read_all(), "");
  EXPECT_TRUE(client.ended());
}

TEST_F(ServerTest, CutsAReaderThatStandsStill) {
  listen({.timeouts = {.pending_bytes = 1 << 30}});
  RawClient client = connect();
  client.send("GET /streams HTTP/1.1\r\nHost: a\r\n\r\n");
  const auto exchange = next_exchange();
  on_server([&] {
    exchange->start({});
    exchange->write(std::string(64 << 20, 'x'));  // more than the sockets hold
  });
  pass_seconds(59);
  EXPECT_EQ(gone_, 0);
  pass_seconds(120);
  wait_for_gone(1);
}

TEST_F(ServerTest, CutsAStreamWhoseReaderLeavesTooMuch) {
  listen({.timeouts = {.pending_bytes = 1000}});
  RawClient client = connect();
  client.send("GET /streams HTTP/1.1\r\nHost: a\r\n\r\n");
  const auto exchange = next_exchange();
  on_server([&] {
    exchange->start({});
    exchange->write(std::string(1001, 'x'));
  });
  wait_for_gone(1);
}

TEST_F(ServerTest, CutsItEvenWhileNothingCanBeSent) {
  listen({.timeouts = {.pending_bytes = 64 << 20}});
  RawClient client = connect();
  client.send("GET /streams HTTP/1.1\r\nHost: a\r\n\r\n");
  const auto exchange = next_exchange();
  std::promise<void> taken;
  on_server([&] {
    exchange->on_drained([&] { taken.set_value(); });
    exchange->start({});
    exchange->write(std::string(32 << 20, 'x'));  // more than the sockets hold
  });
  taken.get_future().wait();
  on_server([&] {
    exchange->on_drained(nullptr);
    exchange->write(std::string((64 << 20) + 1, 'x'));
  });
  wait_for_gone(1);
}

TEST_F(ServerTest, RefusesByTheHeadBeforeTheBodyIsThere) {
  ServerOptions options;
  options.check_head = [](const Request& head) -> std::optional<Response> {
    if (head.path != "/secret") return std::nullopt;
    return Response{.status = 401, .body = "no key", .headers = {}};
  };
  listen(options);
  RawClient client = connect();
  client.send("POST /secret HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n");
  EXPECT_THAT(client.read_all(), AllOf(StartsWith("HTTP/1.1 401"), HasSubstr("no key")));
}

TEST_F(ServerTest, HoldsNoMoreOfAllBodiesThanItsLimit) {
  ServerOptions options;
  options.all_body_bytes = 1000;
  listen(options);
  const std::string head = "POST /waits HTTP/1.1\r\nHost: a\r\nContent-Length: 800\r\n\r\n";
  RawClient first = connect();
  first.send(head + std::string(700, 'x'));
  settle();
  first.send(std::string(100, 'x'));
  const auto exchange = next_exchange();
  RawClient second = connect();
  second.send(head + std::string(700, 'x'));
  EXPECT_THAT(second.read_all(), StartsWith("HTTP/1.1 503 "));
  on_server([&] { exchange->respond({}); });
  first.read_response();
  RawClient third = connect();
  third.send(head + std::string(700, 'x'));
  settle();
  third.send(std::string(100, 'x'));
  EXPECT_EQ(next_exchange()->request().body.size(), 800u);
}

TEST_F(ServerTest, AcceptsNoMoreThanItsLimit) {
  listen({.max_connections = 2});
  RawClient first = connect();
  RawClient second = connect();
  wait_for_connections(2);
  RawClient third = connect();
  third.send(kGet);
  on_server([&] { EXPECT_EQ(server_->connections(), 2); });
  first.close();
  EXPECT_EQ(third.read_response().second, "body: ");
}

TEST_F(ServerTest, DrainsByFinishingWhatIsUnderWay) {
  listen();
  RawClient idle = connect();
  RawClient client = connect();
  client.send("GET /waits HTTP/1.1\r\nHost: a\r\n\r\n");
  const auto exchange = next_exchange();
  wait_for_connections(2);
  on_server([&] { server_->drain(); });
  EXPECT_EQ(idle.read_all(), "");
  EXPECT_TRUE(idle.ended());
  EXPECT_FALSE(connect().connected());
  on_server([&] { exchange->respond({.body = "late"}); });
  EXPECT_EQ(client.read_response().second, "late");
  EXPECT_EQ(client.read_all(), "");
  EXPECT_TRUE(client.ended());
  thread_.join();  // run() returns
}

TEST_F(ServerTest, CallsBackForSignals) {
  int signals = 0;
  {
    auto server = Server::listen({}, clock_, [](const std::shared_ptr<Exchange>&) {});
    server_ = std::move(server).value();
  }
  server_->on_signal(SIGHUP, [&] { count(signals); });
  thread_ = std::thread([this] { server_->run(); });
  for (int i = 1; i <= 2; ++i) {
    raise(SIGHUP);
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return signals == i; });
  }
}

TEST(Listen, NamesAnAddressThatIsTaken) {
  const base::SteadyClock clock;
  const auto first = Server::listen({}, clock, [](const std::shared_ptr<Exchange>&) {});
  ASSERT_TRUE(first.ok());
  const auto second =
      Server::listen({.port = (*first)->port()}, clock, [](const std::shared_ptr<Exchange>&) {});
  ASSERT_FALSE(second.ok());
  EXPECT_THAT(second.error().message, AllOf(HasSubstr("127.0.0.1"), HasSubstr("in use")));
  EXPECT_THAT((*first)->url(), StartsWith("http://127.0.0.1:"));
}

TEST(Loopback, IsToldFromPublicAddresses) {
  EXPECT_TRUE(is_loopback("127.0.0.1").value());
  EXPECT_TRUE(is_loopback("::1").value());
  EXPECT_FALSE(is_loopback("0.0.0.0").value());
  EXPECT_FALSE(is_loopback("::").value());
  EXPECT_FALSE(is_loopback("no such host").ok());
}

}  // namespace
}  // namespace fourfold::http

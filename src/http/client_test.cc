#include "http/client.h"

#include <gmock/gmock.h>
#include <sys/resource.h>

#include <atomic>
#include <boost/asio/io_context.hpp>
#include <future>
#include <thread>
#include <vector>

#include "http/connection_pool.h"
#include "http/raw_server_test.h"
#include "http/server.h"

namespace fourfold::http {
namespace {

using testing::HasSubstr;

TEST(Url, HasHostPortAndPath) {
  const Url url = Url::parse("http://localhost:8000/base/").value();
  EXPECT_EQ(url.host, "localhost");
  EXPECT_EQ(url.port, 8000);
  EXPECT_EQ(url.path, "/base");
  EXPECT_EQ(url.authority(), "localhost:8000");
  EXPECT_EQ(Url::parse("http://h").value().port, 80);
  const Url v6 = Url::parse("http://[::1]:81").value();
  EXPECT_EQ(v6.host, "::1");
  EXPECT_EQ(v6.authority(), "[::1]:81");
}

TEST(Url, RefusesWhatIsNone) {
  for (const char* text : {"", "localhost:8000", "https://h", "http://", "http://:80", "http://h:",
                           "http://h:0", "http://h:70000", "http://h:8x", "http://[::1",
                           "http://[::1]80", "http://a b", "http://u@h", "http://h?x"}) {
    const base::Result<Url> url = Url::parse(text);
    ASSERT_FALSE(url.ok()) << text;
    EXPECT_THAT(url.error().message, HasSubstr("http://HOST")) << text;
  }
}

/// A server that answers with the request's body, in pieces where the path is /stream.
class ClientTest : public testing::Test {
 protected:
  ClientTest()
      : server_(
            Server::listen({}, clock_,
                           [this](const std::shared_ptr<Exchange>& exchange) { answer(*exchange); })
                .value()),
        thread_([this] { server_->run(); }) {}
  ~ClientTest() override {
    server_->post([this] { server_->stop(); });
    thread_.join();
  }

  void answer(Exchange& exchange) {
    most_connections_ = std::max(most_connections_, server_->connections());
    const Request& request = exchange.request();
    if (request.path != "/base/stream") {
      return exchange.respond(
          {.status = request.path == "/base/echo" ? 200 : 404,
           .content_type = "text/plain",
           .body = request.method + " " + request.body + std::string(request.header("x-own")),
           .headers = {}});
    }
    exchange.start({.content_type = "text/event-stream", .body = {}, .headers = {}});
    for (const char c : request.body) exchange.write({&c, 1});
    exchange.finish();
  }

  Url url() const { return Url::parse(server_->url() + "/base").value(); }

  base::SteadyClock clock_;
  int64_t most_connections_ = 0;  ///< the server's thread's
  std::unique_ptr<Server> server_;
  std::thread thread_;
};

TEST_F(ClientTest, FetchesRepliesOverOneConnection) {
  {
    Client client(url());
    for (int i = 0; i < 5; ++i) {
      const Client::Reply reply =
          client
              .fetch(
                  {.method = "POST", .path = "/echo", .headers = {{"X-Own", "!"}}, .body = "hello"})
              .value();
      EXPECT_EQ(reply.status, 200);
      EXPECT_EQ(reply.body, "POST hello!");
    }
    EXPECT_EQ(client.fetch({.path = "/elsewhere"}).value().status, 404);
  }
  std::promise<int64_t> most;
  server_->post([&] { most.set_value(most_connections_); });
  EXPECT_EQ(most.get_future().get(), 1);
}

TEST_F(ClientTest, GivesAStreamAsItComes) {
  Client client(url());
  std::string got;
  std::promise<std::string> ended;
  client.send({.method = "POST", .path = "/stream", .headers = {}, .body = "abcdefgh"},
              {.on_head = [](const ResponseHead& head) { EXPECT_EQ(head.status, 200); },
               .on_body = [&](std::string_view bytes) { got += bytes; },
               .on_end = [&](const CallError* e) { ended.set_value(e ? e->message : ""); }});
  EXPECT_EQ(ended.get_future().get(), "");
  EXPECT_EQ(got, "abcdefgh");
}

TEST(Client, SaysThatNobodyIsThere) {
  Client client(Url::parse("http://127.0.0.1:1").value());
  const auto reply = client.fetch({.path = "/"});
  ASSERT_FALSE(reply.ok());
  EXPECT_THAT(reply.error().message, HasSubstr("cannot reach 127.0.0.1:1"));
}

Url url_of(const RawServer& server) {
  return Url::parse("http://127.0.0.1:" + std::to_string(server.port())).value();
}

constexpr const char* kOk = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

TEST(Client, SendsAgainWhereAKeptConnectionWasClosed) {
  RawServer server([](RawClient& connection, int number) {
    connection.read_until("\r\n\r\n");
    connection.send(kOk);
    if (number == 0) connection.read_until("\r\n\r\n");  // of a request that it does not answer
  });
  Client client(url_of(server));
  EXPECT_EQ(client.fetch({.path = "/"}).value().body, "ok");
  EXPECT_EQ(client.fetch({.path = "/"}).value().body, "ok");
  EXPECT_EQ(server.connections(), 2);
}

TEST(Client, SendsNothingAgainAfterATimeout) {
  RawServer server([](RawClient& connection, int number) {
    connection.read_until("\r\n\r\n");
    if (number == 0) connection.send(kOk);
    connection.read_all();  // until the client gives up
  });
  Client client(url_of(server));
  EXPECT_EQ(client.fetch({.path = "/"}).value().body, "ok");
  int connections = 0;
  for (const CallLimits limits :
       {CallLimits{.silence_ns = 20'000'000}, CallLimits{.total_ns = 20'000'000}}) {
    const auto reply = client.fetch({.path = "/", .headers = {}, .body = {}, .limits = limits});
    ASSERT_FALSE(reply.ok());
    EXPECT_THAT(reply.error().message, HasSubstr("did not answer in time"));
    EXPECT_EQ(server.connections(), ++connections);
  }
}

TEST(Client, SendsNothingAgainThatAServerHadForLong) {
  RawServer server([](RawClient& connection, int) {
    connection.read_until("\r\n\r\n");
    connection.send(kOk);
    connection.read_until("\r\n\r\n");
  });
  Client client(url_of(server));
  EXPECT_EQ(client.fetch({.path = "/"}).value().body, "ok");
  const auto reply =
      client.fetch({.path = "/", .headers = {}, .body = {}, .limits = {.resend_ns = 0}});
  ASSERT_FALSE(reply.ok());
  EXPECT_THAT(reply.error().message, HasSubstr("was lost"));
  EXPECT_EQ(server.connections(), 1);
}

TEST(ConnectionPool, TellsItsOwnShortageApart) {
  boost::asio::io_context io;
  ConnectionPool pool(io.get_executor(), Url::parse("http://127.0.0.1:1").value());
  std::vector<CallError::Kind> kinds;
  const auto ask = [&] {
    const auto call =
        pool.send({.path = "/"}, {.on_head = [](const ResponseHead&) {},
                                  .on_body = [](std::string_view) {},
                                  .on_end = [&](const CallError* e) { kinds.push_back(e->kind); }});
    io.restart();
    io.run();
  };
  ask();
  rlimit before{};
  getrlimit(RLIMIT_NOFILE, &before);
  rlimit none = before;
  none.rlim_cur = 0;
  setrlimit(RLIMIT_NOFILE, &none);
  ask();
  setrlimit(RLIMIT_NOFILE, &before);
  EXPECT_THAT(kinds,
              testing::ElementsAre(CallError::Kind::kUnreachable, CallError::Kind::kShortage));
}

TEST(Client, GivesUpALargeReplyAndOneThatItIsToldToGiveUp) {
  RawServer server([](RawClient& connection, int) {
    connection.read_until("\r\n\r\n");
    connection.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n0123456789");
    connection.read_all();
  });
  Client client(url_of(server));
  const auto large = client.fetch({.path = "/"}, {.most_bytes = 9});
  ASSERT_FALSE(large.ok());
  EXPECT_THAT(large.error().message, HasSubstr("more than 9 bytes"));
  const auto stopped = client.fetch({.path = "/"}, {.stop = [] { return true; }});
  ASSERT_FALSE(stopped.ok());
  EXPECT_THAT(stopped.error().message, HasSubstr("interrupted"));
}

TEST(Client, SaysWhatIsNoWholeAnswer) {
  std::string many_heads;
  for (int i = 0; i < 17; ++i) many_heads += "HTTP/1.1 103 Hints\r\n\r\n";
  const std::string chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
  const std::string endless(100'000, 'x');
  for (const auto& [answer, error] : std::vector<std::pair<std::string, std::string>>{
           {many_heads, "more than 16 heads"},
           {chunked + "2;" + endless, "of more than 65536 bytes"},
           {chunked + "0\r\nA: " + endless, "of more than 65536 bytes"},
           {"", "before its answer was complete"},
           {"HTTP/1.1 200 OK\r\n", "before its answer was complete"},
           {"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", "before its answer was complete"},
           {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
            "before its answer was complete"},
           {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "is no HTTP/1.1"},
           {"HTTP/1.1 020 OK\r\nContent-Length: 0\r\n\r\n", "the status 20"},
           {"SSH-2.0-OpenSSH_9.2\r\n", "is no HTTP/1.1"},
           {"HTTP/1.1 101 Switching\r\n\r\n", "the status 101"}}) {
    RawServer server([&](RawClient& connection, int) {
      connection.read_until("\r\n\r\n");
      connection.send(answer);
    });
    Client client(url_of(server));
    const auto reply = client.fetch({.path = "/"});
    ASSERT_FALSE(reply.ok()) << answer;
    EXPECT_THAT(reply.error().message, HasSubstr(error)) << answer;
  }
}

TEST(Client, ReadsEveryFramingOfAnAnswer) {
  for (const auto& [answer, body] : std::vector<std::pair<std::string, std::string>>{
           {"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\n\r\n" + std::string(kOk), "ok"},
           {"HTTP/1.1 200 OK\r\n\r\nuntil the end", "until the end"},
           {"HTTP/1.0 200 OK\r\n\r\nold", "old"},
           {"HTTP/1.1 204 No Content\r\n\r\n", ""},
           {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;x=y\r\na\r\n2\r\nbc\r\n0\r\n"
            "Trailer: 1\r\n\r\n",
            "abc"}}) {
    RawServer server([&](RawClient& connection, int) {
      connection.read_until("\r\n\r\n");
      connection.send(answer);
    });
    Client client(url_of(server));
    const auto reply = client.fetch({.path = "/"});
    ASSERT_TRUE(reply.ok()) << answer << reply.error().message;
    EXPECT_EQ(reply->body, body);
  }
}

TEST(ConnectionPool, TakesNothingFromAServerWhileACallIsPaused) {
  std::atomic<bool> all_sent = false;
  RawServer server([&](RawClient& connection, int) {
    connection.read_until("\r\n\r\n");
    connection.send("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" +
                    std::string(64 << 20, 'x'));  // more than the sockets hold
    all_sent = true;
  });
  boost::asio::io_context io;
  ConnectionPool pool(io.get_executor(), url_of(server));
  size_t got = 0;
  bool ended = false;
  std::shared_ptr<Call> call;
  call = pool.send({.path = "/"}, {.on_head = [](const ResponseHead&) {},
                                   .on_body =
                                       [&](std::string_view bytes) {
                                         if (got == 0) call->pause();
                                         got += bytes.size();
                                       },
                                   .on_end = [&](const CallError* e) { ended = e == nullptr; }});
  while (got == 0) io.run_one();
  while (io.poll_one() > 0) {
  }
  EXPECT_LE(got, 64u << 10);
  EXPECT_FALSE(all_sent);
  call->resume();
  io.run();
  EXPECT_TRUE(ended);
  EXPECT_EQ(got, 64u << 20);
}

TEST(ConnectionPool, CallsNobodyAfterACancel) {
  std::promise<void> gone;
  RawServer server([&](RawClient& connection, int) {
    connection.read_until("\r\n\r\n");
    connection.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegin");
    connection.read_all();
    gone.set_value();
  });
  boost::asio::io_context io;
  ConnectionPool pool(io.get_executor(), url_of(server));
  std::shared_ptr<Call> call;
  call = pool.send({.path = "/"}, {.on_head = [&](const ResponseHead&) { call->cancel(); },
                                   .on_body = [](std::string_view) { FAIL(); },
                                   .on_end = [](const CallError*) { FAIL(); }});
  io.run();
  gone.get_future().wait();
}

}  // namespace
}  // namespace fourfold::http

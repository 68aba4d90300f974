#include "http/client.h"

#include <gmock/gmock.h>

#include <future>
#include <thread>

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
              {.on_head = [](int status) { EXPECT_EQ(status, 200); },
               .on_body = [&](std::string_view bytes) { got += bytes; },
               .on_end = [&](const std::string& error) { ended.set_value(error); }});
  EXPECT_EQ(ended.get_future().get(), "");
  EXPECT_EQ(got, "abcdefgh");
}

TEST(Client, SaysThatNobodyIsThere) {
  Client client(Url::parse("http://127.0.0.1:1").value());
  const auto reply = client.fetch({.path = "/"});
  ASSERT_FALSE(reply.ok());
  EXPECT_THAT(reply.error().message, HasSubstr("cannot reach 127.0.0.1:1"));
}

}  // namespace
}  // namespace fourfold::http

// `fourfold route` in front of `fourfold serve`, all as programs.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "files/scratch_folder.h"
#include "http/client.h"
#include "http/raw_client_test.h"
#include "http/raw_server_test.h"
#include "tests/support/command_line.h"
#include "tests/support/serve_process.h"

namespace fourfold::tests {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

std::string url_of(uint16_t port) { return "http://127.0.0.1:" + std::to_string(port); }

/// A port that nobody listens on. Somebody else could take it before it is used, which a restart of
/// a server has to risk.
uint16_t free_port() {
  return http::RawServer([](http::RawClient&, int) {}).port();
}

std::string post(const json& body) {
  const std::string text = body.dump();
  return "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
         "Content-Length: " +
         std::to_string(text.size()) + "\r\n\r\n" + text;
}

json stream_of(int i, int tokens = 24) {
  return {{"prompt", "In the beginning " + std::to_string(i)},
          {"max_tokens", tokens},
          {"seed", i},
          {"ignore_eos", true},
          {"stream", true}};
}

/// The texts of a stream's events, in order; "" and a failure for one that is not complete.
std::string text_of(uint16_t port, const json& body) {
  http::Client client(http::Url::parse(url_of(port)).value());
  const auto reply = client.fetch(
      {.method = "POST", .path = "/v1/completions", .headers = {}, .body = body.dump()});
  if (!reply.ok()) return "failed: " + reply.error().message;
  if (reply->status != 200) return "failed: " + reply->body;
  std::string out;
  const std::string& text = reply->body;
  if (text.find("data: [DONE]\n\n") == text.npos) return "failed: no end: " + text;
  const std::string prefix = "data: {";
  for (size_t at = text.find(prefix); at != text.npos; at = text.find(prefix, at + 1)) {
    const json event = json::parse(text.substr(at + 6, text.find("\n\n", at) - at - 6));
    if (event.contains("error")) return "failed: " + event.dump();
    for (const json& choice : event.at("choices")) out += choice.at("text");
  }
  return out;
}

TEST(Route, GivesTheStreamsOfItsReplicas) {
  ServeProcess a({"tiny", "--port", "0", "--numerics", "invariant"});
  ServeProcess b({"tiny", "--port", "0", "--numerics", "invariant"});
  ServeProcess route({"--port", "0", "--replica", url_of(a.port()), "--replica", url_of(b.port())},
                     "route");
  const uint16_t port = route.port();
  ASSERT_NE(port, 0);
  EXPECT_THAT(route.read_until("32}'"),
              AllOf(HasSubstr("Routing to 2 of 2 replicas"), HasSubstr("\"model\": \"tiny\"")));
  for (int i = 0; i < 6; ++i) {
    const std::string expected = text_of(a.port(), stream_of(i));
    EXPECT_EQ(expected.find("failed"), expected.npos) << expected;
    EXPECT_EQ(text_of(port, stream_of(i)), expected);
  }
  // Byte for byte, but for what is drawn for each answer: all of an error.
  const json wrong = {{"prompt", "a"}, {"max_tokens", 0}};
  http::RawClient direct(a.port());
  direct.send(post(wrong));
  http::RawClient routed(port);
  routed.send(post(wrong));
  EXPECT_EQ(routed.read_response().second, direct.read_response().second);
}

TEST(Route, EndsInOrderOnTheFirstSignal) {
  ServeProcess server({"tiny", "--port", "0"});
  ServeProcess route({"--port", "0", "--replica", url_of(server.port())}, "route");
  http::RawClient client(route.port());
  client.send(post(stream_of(1, 1000)));
  client.read_until("\n\n");
  route.signal(SIGTERM);
  EXPECT_THAT(client.read_until("0\r\n\r\n"), HasSubstr("data: [DONE]"));
  EXPECT_EQ(route.wait(), 0);
}

TEST(Route, StartsWithoutItsReplicasAndTakesThemInWhenTheyCome) {
  const uint16_t port = free_port();
  ServeProcess route({"--port", "0", "--replica", url_of(port), "--probe-interval", "0.05"},
                     "route");
  const uint16_t front = route.port();
  EXPECT_THAT(route.read_until("32}'"),
              AllOf(HasSubstr("is not in use yet: cannot reach"), HasSubstr("Routing to 0 of 1")));
  EXPECT_THAT(text_of(front, stream_of(1)), HasSubstr("no replica takes requests"));
  ServeProcess server({"tiny", "--port", std::to_string(port)});
  ASSERT_EQ(server.port(), port);
  http::Client client(http::Url::parse(url_of(front)).value());
  while (client.fetch({.path = "/ready"}).value().status != 200) {
  }
  EXPECT_EQ(text_of(front, stream_of(1)).find("failed"), std::string::npos);
}

TEST(Route, RefusesWhatMakesNoSense) {
  EXPECT_THAT(run("route").text, HasSubstr("give --replica URL, or --admin-key-file"));
  const Outcome no_scheme = run("route --replica localhost:8000");
  EXPECT_EQ(no_scheme.code, 2);
  EXPECT_THAT(no_scheme.text, HasSubstr("expected http://HOST"));
  EXPECT_THAT(run("route --replica https://a").text, HasSubstr("TLS is a proxy's job"));
  EXPECT_THAT(run("route --port 0 --replica http://127.0.0.1:1 --replica http://127.0.0.1:1/").text,
              HasSubstr("http://127.0.0.1:1 is a replica already"));
  EXPECT_THAT(run("route --replica http://127.0.0.1:1 --host 0.0.0.0").text,
              AllOf(HasSubstr("--api-key-file"), HasSubstr("--allow-no-auth")));
}

TEST(Route, ReadsAllItsKeysAgainOnHangup) {
  const files::ScratchFolder folder;
  const std::string client_keys = folder.write("client", "client-1\n").string();
  const std::string admin_keys = folder.write("admin", "admin-1\n").string();
  const std::string replica_keys = folder.write("replica", "replica-1\n").string();
  ServeProcess server({"tiny", "--port", "0", "--api-key-file", replica_keys});
  ServeProcess route(
      {"--port", "0", "--replica", url_of(server.port()), "--api-key-file", client_keys,
       "--admin-key-file", admin_keys, "--replica-api-key-file", replica_keys},
      "route");
  http::Client client(http::Url::parse(url_of(route.port())).value());
  const auto status = [&](const std::string& path, const std::string& key) {
    return client.fetch({.path = path, .headers = {{"Authorization", "Bearer " + key}}, .body = {}})
        .value()
        .status;
  };
  EXPECT_EQ(status("/v1/models/tiny", "client-1"), 200);
  EXPECT_EQ(status("/v1/unknown", "client-1"), 404) << "the replica has taken the router's key";
  EXPECT_EQ(status("/admin/replicas", "admin-1"), 200);
  folder.write("client", "client-2\n");
  folder.write("admin", "admin-2\n");
  route.signal(SIGHUP);
  while (status("/admin/replicas", "admin-2") != 200) {
  }
  EXPECT_EQ(status("/v1/models/tiny", "client-1"), 401);
  EXPECT_EQ(status("/v1/models/tiny", "client-2"), 200);
  EXPECT_EQ(status("/admin/replicas", "admin-1"), 401);
}

TEST(Route, AnswersStrangersBeforeTheirBodiesCome) {
  const files::ScratchFolder folder;
  ServeProcess route({"--port", "0", "--replica", url_of(free_port()), "--api-key-file",
                      folder.write("client", "client\n").string()},
                     "route");
  http::RawClient client(route.port());
  client.send(
      "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n{");
  EXPECT_THAT(client.read_all(), StartsWith("HTTP/1.1 401"));
}

/// Restarts two replicas in turn while clients go on. FOURFOLD_ROLLING_RESTARTS: how often
/// (default 4).
TEST(Route, LosesNoRequestToRollingRestarts) {
  const char* wanted = std::getenv("FOURFOLD_ROLLING_RESTARTS");
  const int restarts = wanted != nullptr ? std::atoi(wanted) : 4;
  constexpr int kClients = 4;
  constexpr int kKinds = 8;
  const auto arguments = [](uint16_t port) {
    return std::vector<std::string>{"tiny", "--numerics", "invariant", "--port",
                                    std::to_string(port)};
  };
  std::vector<std::unique_ptr<ServeProcess>> servers;
  std::vector<uint16_t> ports;
  for (int i = 0; i < 2; ++i) {
    servers.push_back(std::make_unique<ServeProcess>(arguments(0)));
    ports.push_back(servers.back()->port());
  }
  std::vector<std::string> expected;
  for (int i = 0; i < kKinds; ++i) expected.push_back(text_of(ports[0], stream_of(i)));
  const files::ScratchFolder folder;
  ServeProcess route({"--port", "0", "--probe-interval", "0.05", "--admin-key-file",
                      folder.write("admin", "admin\n").string(), "--replica", url_of(ports[0]),
                      "--replica", url_of(ports[1])},
                     "route");
  const uint16_t port = route.port();
  std::atomic<bool> over = false;
  std::atomic<int> requests = 0;
  std::mutex mutex;
  std::vector<std::string> failures;
  std::vector<std::thread> clients;
  for (int c = 0; c < kClients; ++c) {
    clients.emplace_back([&, c] {
      for (int i = c; !over; ++i) {
        const std::string text = text_of(port, stream_of(i % kKinds));
        ++requests;
        const std::lock_guard lock(mutex);
        if (text != expected[static_cast<size_t>(i % kKinds)]) failures.push_back(text);
      }
    });
  }
  http::Client admin(http::Url::parse(url_of(port)).value());
  const auto in_use = [&](size_t i) {
    const auto reply = admin.fetch(
        {.path = "/admin/replicas", .headers = {{"Authorization", "Bearer admin"}}, .body = {}});
    return json::parse(reply.value().body).at("replicas").at(i).at("state") == "in_use";
  };
  for (int i = 0; i < restarts; ++i) {
    const auto which = static_cast<size_t>(i % 2);
    servers[which]->signal(SIGTERM);
    EXPECT_EQ(servers[which]->wait(), 0);
    while (in_use(which)) {
    }
    servers[which] = std::make_unique<ServeProcess>(arguments(ports[which]));
    EXPECT_EQ(servers[which]->port(), ports[which]);
    while (!in_use(which)) {
    }
  }
  over = true;
  for (std::thread& client : clients) client.join();
  EXPECT_GT(requests, restarts);
  EXPECT_THAT(failures, testing::IsEmpty());
  RecordProperty("restarts", restarts);
  RecordProperty("requests", requests.load());
  fmt::print("{} requests over {} restarts\n", requests.load(), restarts);
}

}  // namespace
}  // namespace fourfold::tests

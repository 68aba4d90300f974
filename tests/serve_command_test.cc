// `fourfold serve` as a program: what it prints, its signals, its keys, and the ranks behind it.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

#include "files/scratch_folder.h"
#include "http/raw_client_test.h"
#include "tests/support/command_line.h"
#include "tests/support/serve_process.h"

namespace fourfold::tests {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

std::string post(const json& body, const std::string& headers = "") {
  const std::string text = body.dump();
  return "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" +
         headers + "Content-Length: " + std::to_string(text.size()) + "\r\n\r\n" + text;
}

std::string get(const std::string& path, const std::string& headers = "") {
  return "GET " + path + " HTTP/1.1\r\nHost: localhost\r\n" + headers + "\r\n";
}

/// The text of a greedy answer.
std::string complete(uint16_t port) {
  http::RawClient client(port);
  client.send(post({{"prompt", "In the beginning"}, {"temperature", 0}}));
  const json answer = json::parse(client.read_response().second);
  return answer.at("choices").at(0).at("text");
}

json long_stream() {
  return {{"prompt", "a"}, {"max_tokens", 1000}, {"ignore_eos", true}, {"stream", true}};
}

TEST(Serve, PrintsHowToUseItAndGivesOneAnswerWhateverTheScheme) {
  ServeProcess one({"tiny", "--port", "0", "--numerics", "invariant"});
  const uint16_t port = one.port();
  ASSERT_NE(port, 0);
  EXPECT_THAT(
      one.read_until("32}'"),
      AllOf(HasSubstr("model id  tiny"), HasSubstr("context   1024 tokens"),
            HasSubstr("chat      no"), HasSubstr("curl http://127.0.0.1:" + std::to_string(port))));
  ServeProcess four(
      {"tiny", "--port", "0", "--numerics", "invariant", "-tp=2", "--data-parallel-size", "2"});
  const std::string expected = complete(port);
  EXPECT_FALSE(expected.empty());
  EXPECT_EQ(complete(four.port()), expected);
}

TEST(Serve, EndsInOrderOnTheFirstSignalAndLeavesNothingBehind) {
  ServeProcess server({"tiny", "--port", "0", "-tp=2"});
  http::RawClient stream(server.port());
  stream.send(post(long_stream()));
  stream.read_until("\n\n");
  const std::vector<Process> ranks = descendants(server.pid());
  EXPECT_GE(ranks.size(), 2u);
  server.signal(SIGTERM);
  EXPECT_THAT(stream.read_until("0\r\n\r\n"), HasSubstr("data: [DONE]"));
  EXPECT_EQ(server.wait(), 0);
  EXPECT_TRUE(wait_for(std::chrono::seconds(10), [&] {
    return std::none_of(ranks.begin(), ranks.end(),
                        [](const Process& process) { return is_alive(process.pid); });
  }));
}

TEST(Serve, CutsWhatIsUnderWayOnTheSecondSignal) {
  ServeProcess server({"tiny", "--port", "0"});
  http::RawClient stream(server.port());
  json body = long_stream();
  body["n"] = 128;  // more than a test would wait for
  stream.send(post(body));
  stream.read_until("\n\n");
  server.signal(SIGTERM);
  server.read_until("1 requests are under way");
  server.signal(SIGTERM);
  EXPECT_THAT(stream.read_all(), Not(HasSubstr("[DONE]")));
  EXPECT_EQ(server.wait(), 1);
  EXPECT_THAT(server.read_until("never"), HasSubstr("1 requests were cut"));
}

TEST(Serve, CutsWhatIsUnderWayAfterTheShutdownTimeout) {
  ServeProcess server({"tiny", "--port", "0", "--shutdown-timeout", "0"});
  http::RawClient stream(server.port());
  json body = long_stream();
  body["n"] = 128;
  stream.send(post(body));
  stream.read_until("\n\n");
  server.signal(SIGINT);
  EXPECT_THAT(stream.read_all(), Not(HasSubstr("[DONE]")));
  EXPECT_EQ(server.wait(), 1);
}

TEST(Serve, ReadsItsKeysAgainOnHangup) {
  const files::ScratchFolder folder;
  const auto path = folder.write("keys", "sk-old\n");
  ServeProcess server({"tiny", "--port", "0", "--api-key-file", path});
  const uint16_t port = server.port();
  const auto status = [&](const std::string& headers) {
    http::RawClient client(port);
    client.send(get("/v1/models", headers));
    return client.read_response().first.substr(0, 12);
  };
  EXPECT_EQ(status(""), "HTTP/1.1 401");
  EXPECT_EQ(status("Authorization: Bearer sk-old\r\n"), "HTTP/1.1 200");
  folder.write("keys", "sk-new\n");
  server.signal(SIGHUP);
  server.read_until("the keys were read again");
  EXPECT_EQ(status("Authorization: Bearer sk-old\r\n"), "HTTP/1.1 401");
  EXPECT_EQ(status("Authorization: Bearer sk-new\r\n"), "HTTP/1.1 200");
  folder.write("keys", "# none\n");
  server.signal(SIGHUP);
  EXPECT_THAT(server.read_until("the old keys stay"), Not(HasSubstr("sk-")));
  EXPECT_EQ(status("Authorization: Bearer sk-new\r\n"), "HTTP/1.1 200");
}

TEST(Serve, KeepsThePagesOfOtherSitesOut) {
  const files::ScratchFolder folder;
  ServeProcess server({"tiny", "--port", "0", "--ranks", "threads", "--allowed-host",
                       "models.example", "--allowed-origin", "https://chat.example",
                       "--api-key-file", folder.write("keys", "sk-a\n").string()});
  const uint16_t port = server.port();
  const auto head = [&](const std::string& method, const std::string& headers) {
    http::RawClient client(port);
    const std::string body = method == "POST" ? R"({"prompt": "a", "max_tokens": 1})" : "";
    client.send(method + " /v1/completions HTTP/1.1\r\nContent-Type: application/json\r\n" +
                "Authorization: Bearer sk-a\r\n" + headers +
                "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body);
    return client.read_response().first;
  };
  const std::string allowed = "Origin: https://chat.example\r\n";
  const auto ok = StartsWith("HTTP/1.1 200");
  const auto cors = HasSubstr("Access-Control-Allow-Origin: https://chat.example\r\n");
  EXPECT_THAT(head("POST", "Host: evil.example\r\n"), StartsWith("HTTP/1.1 403"));
  EXPECT_THAT(head("POST", "Host: models.example\r\n"), ok);
  EXPECT_THAT(head("POST", "Host: localhost\r\nOrigin: http://evil.example\r\n"),
              AllOf(StartsWith("HTTP/1.1 403"), Not(HasSubstr("Access-Control"))));
  EXPECT_THAT(head("POST", "Host: localhost\r\nOrigin: http://localhost\r\n"), ok);
  EXPECT_THAT(head("POST", "Host: localhost\r\n" + allowed), AllOf(ok, cors));
  // A browser asks without the key, and shows its page the refusal of a request without one.
  http::RawClient browser(port);
  browser.send("OPTIONS /v1/completions HTTP/1.1\r\nHost: localhost\r\n" + allowed +
               "Access-Control-Request-Method: POST\r\n\r\n");
  EXPECT_THAT(browser.read_until("\r\n\r\n"), AllOf(StartsWith("HTTP/1.1 204"), cors));
  http::RawClient keyless(port);
  keyless.send(post({{"prompt", "a"}}, allowed));
  EXPECT_THAT(keyless.read_response().first, AllOf(StartsWith("HTTP/1.1 401"), cors));
}

TEST(Serve, RefusesOtherMachinesWithoutAKey) {
  ServeProcess open({"tiny", "--port", "0", "--host", "0.0.0.0"});
  EXPECT_THAT(open.read_until("never"),
              AllOf(HasSubstr("--api-key-file"), HasSubstr("--allow-no-auth")));
  EXPECT_EQ(open.wait(), 1);
}

TEST(Serve, SaysThatAPortIsTakenBeforeItLoads) {
  ServeProcess first({"tiny", "--port", "0"});
  const std::string port = std::to_string(first.port());
  ServeProcess second({"tiny", "--port", port});
  EXPECT_THAT(second.read_until("never"), HasSubstr("port " + port + ": Address already in use"));
  EXPECT_EQ(second.wait(), 1);
}

TEST(Serve, GoesOnWithItsStreamsWhenItsOnlyGroupHasDied) {
  ServeProcess server({"tiny", "--port", "0"});
  const uint16_t port = server.port();
  http::RawClient stream(port);
  stream.send(post(long_stream()));
  stream.read_until("\n\n");
  const std::map<int, pid_t> ranks = ranks_of(server.pid());
  ASSERT_EQ(ranks.size(), 1u);
  kill(ranks.at(0), SIGKILL);
  server.read_until("group 0 failed (killed");
  server.read_until("was killed by SIGKILL");
  server.read_until("group 0 is up again");
  EXPECT_THAT(stream.read_until("0\r\n\r\n"),
              AllOf(HasSubstr("data: [DONE]"), Not(HasSubstr("\"error\""))));
  http::RawClient health(port);
  health.send(get("/health"));
  EXPECT_THAT(health.read_response().second,
              AllOf(HasSubstr("\"status\":\"ok\""), HasSubstr("SIGKILL")));
}

TEST(Top, ShowsAServerOnceWhereThereIsNoTerminal) {
  ServeProcess server({"tiny", "--port", "0", "--ranks", "threads", "-dp", "2"});
  const uint16_t port = server.port();
  complete(port);
  const Outcome out =
      run_command(FOURFOLD_BINARY " top --interval 0.1 http://127.0.0.1:" + std::to_string(port));
  EXPECT_EQ(out.code, 0);
  EXPECT_THAT(out.text, AllOf(HasSubstr("running 0, waiting 0"), HasSubstr("\n0 "),
                              HasSubstr("\n1 "), HasSubstr(" up ")));
  const Outcome none = run_command(FOURFOLD_BINARY " top --once http://127.0.0.1:1");
  EXPECT_EQ(none.code, 1);
}

TEST(Clients, RunTheirOrdinaryScenarios) {
  const std::string python = FOURFOLD_SOURCE_DIR "/build/python/bin/python3";
  ASSERT_EQ(access(python.c_str(), X_OK), 0)
      << python << " is missing: tools/setup.sh --tests puts it there";
  const Outcome client = run_command(
      python + " " FOURFOLD_SOURCE_DIR "/tests/clients/scenarios.py " + FOURFOLD_BINARY);
  EXPECT_EQ(client.code, 0) << client.text;
}

}  // namespace
}  // namespace fourfold::tests

// The router between clients and replicas that do as a test says.
#include "route/router.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <sys/resource.h>

#include <atomic>
#include <future>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "http/raw_client_test.h"
#include "route/fake_replica_test.h"

namespace fourfold::route {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::EndsWith;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

TEST_F(RouterTest, PassesARequestAndItsAnswerOn) {
  FakeReplica replica(always(
      ok("{\"a\": 1}",
         "X-Own: 1\r\nAccess-Control-Allow-Origin: *\r\nConnection: X-Hop\r\nX-Hop: 1\r\n")));
  start({replica.url()});
  const auto [head, body] =
      ask(post("/v1/some/path?a=b",
               "X-Custom: c\r\nAuthorization: Bearer theirs\r\n"
               "Origin: http://a\r\nConnection: X-Mine\r\nX-Mine: 1\r\nX-Request-Id: id-1\r\n"));
  EXPECT_EQ(body, "{\"a\": 1}");
  EXPECT_THAT(head, AllOf(StartsWith("HTTP/1.1 200 "), HasSubstr("x-own: 1\r\n"),
                          HasSubstr("Content-Type: application/json\r\n"),
                          HasSubstr("X-Request-Id: id-1\r\n"), Not(HasSubstr("x-hop")),
                          Not(HasSubstr("access-control"))));
  const std::string request = replica.requests().at(0);
  EXPECT_THAT(request,
              AllOf(StartsWith("POST /v1/some/path?a=b HTTP/1.1\r\n"), HasSubstr("x-custom: c\r\n"),
                    HasSubstr("authorization: Bearer theirs\r\n"), Not(HasSubstr("x-mine")),
                    Not(HasSubstr("origin")), HasSubstr("X-Request-Id: id-1\r\n"),
                    EndsWith(R"({"prompt": "hello"})")));
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

TEST_F(RouterTest, LeavesAStreamThatHasBegunWhereItIsWhenProbesFail) {
  std::promise<void> more;
  FakeReplica streams([future = more.get_future().share()](http::RawClient& c, const std::string&) {
    c.send(kStreamHead + chunk("data: 1\n\n"));
    future.wait();
    c.send(chunk("data: 2\n\n") + "0\r\n\r\n");
  });
  FakeReplica other(always(ok("other")));
  start({streams.url(), other.url()});
  http::RawClient client = connect();
  client.send(post("/v1/completions"));
  client.read_until("data: 1\n\n");
  streams.set_health(status(503));
  wait_until_taken(streams.url(), false);
  more.set_value();
  EXPECT_THAT(client.read_until("0\r\n\r\n"), HasSubstr("data: 2\n\n"));
}

TEST_F(RouterTest, HoldsItsOwnShortageAgainstNoReplica) {
  FakeReplica replica(always(ok("ok")));
  start({replica.url()});
  http::RawClient client = connect();
  client.send(get("/ping"));
  client.read_response();  // it is accepted
  rlimit before{};
  getrlimit(RLIMIT_NOFILE, &before);
  rlimit few = before;
  few.rlim_cur = 3;  // no further ones, but enough for the client's poll()
  setrlimit(RLIMIT_NOFILE, &few);
  client.send(post("/v1/files"));  // over a new connection
  const std::string head = client.read_response().first;
  setrlimit(RLIMIT_NOFILE, &before);
  EXPECT_THAT(head, AllOf(StartsWith("HTTP/1.1 503"), HasSubstr("Retry-After: 1\r\n")));
  EXPECT_TRUE(takes_requests(replica.url()));
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

}  // namespace
}  // namespace fourfold::route

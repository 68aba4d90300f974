// What the router itself answers, and to whom.
#include "route/route_api.h"

#include <gmock/gmock.h>

#include <future>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "http/raw_client_test.h"
#include "route/fake_replica_test.h"

namespace fourfold::route {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::StartsWith;

using RouteApiTest = RouterTest;

TEST_F(RouteApiTest, AddsNobodyOnceItEnds) {
  FakeReplica replica(always(ok("ok")));
  start({}, {}, {}, keys("admin"));
  on_server([this] { router_->stop_probes(); });
  const auto [head, body] = ask(post("/admin/replicas/add", "Authorization: Bearer admin\r\n",
                                     json{{"url", replica.url()}}.dump()));
  EXPECT_THAT(head, StartsWith("HTTP/1.1 503"));
  EXPECT_THAT(body, HasSubstr("the router ends"));
}

TEST_F(RouteApiTest, RefusesFormsOfOthersPagesWhereItAddsAKey) {
  FakeReplica replica(always(ok("ok")));
  start({replica.url()});
  const auto code = [&](const std::string& headers) {
    return ask("POST /v1/completions HTTP/1.1\r\nHost: a\r\n" + headers +
               "Content-Length: 2\r\n\r\n{}")
        .first.substr(9, 3);
  };
  const std::string text = "Content-Type: text/plain\r\n";
  EXPECT_EQ(code(text), "200");
  on_server([this] { router_->set_replica_key("ours"); });
  EXPECT_EQ(code(text), "415");
  EXPECT_EQ(code(""), "415");
  EXPECT_EQ(code(text + "Authorization: Bearer theirs\r\n"), "200");
  EXPECT_EQ(code("Content-Type: application/json; charset=utf-8\r\n"), "200");
  EXPECT_EQ(code("Content-Type: multipart/form-data; boundary=x\r\n"), "200");
}

TEST_F(RouteApiTest, RefusesPathsThatAnotherServerCouldTakeForOthers) {
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

TEST_F(RouteApiTest, LetsAdminsChangeTheReplicas) {
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

TEST_F(RouteApiTest, NeedsAKeyForAllButHealth) {
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

TEST_F(RouteApiTest, DescribesEveryPath) {
  start({}, {}, keys("client"), keys("admin"));
  const json document =
      json::parse(ask(get("/openapi.json", "Authorization: Bearer client\r\n")).second);
  for (const RoutePath& entry : route_paths()) {
    std::string path(entry.path);
    if (path.ends_with('*')) path.replace(path.size() - 1, 1, "{rest}");
    const json& described = document.at("paths").at(path);
    EXPECT_EQ(described.contains("get"), entry.method != "POST") << path;
    EXPECT_EQ(described.contains("post"), entry.method != "GET") << path;
    for (const auto& [method, operation] : described.items()) {
      EXPECT_EQ(operation.contains("security"), entry.access != Access::kClient) << path;
      EXPECT_EQ(operation["responses"].contains("401"), entry.access != Access::kOpen) << path;
    }
  }
}

TEST_F(RouteApiTest, HasNoAdminsWithoutTheirKeys) {
  FakeReplica replica(always(ok("ok")));
  start({replica.url()});
  EXPECT_THAT(ask(get("/admin/replicas")).first, StartsWith("HTTP/1.1 403"));
}

TEST_F(RouteApiTest, ListsTheModelsOfAllReplicasOnce) {
  FakeReplica a(always(ok("a")));
  FakeReplica b(always(ok("b")));
  start({a.url(), b.url()});
  const json models = json::parse(ask(get("/v1/models")).second);
  EXPECT_EQ(models, json::parse(R"({"object": "list", "data": [{"id": "m", "object": "model"}]})"));
  EXPECT_EQ(json::parse(ask(get("/v1/models/m")).second).at("id"), "m");
  EXPECT_THAT(ask(get("/v1/models/x")).first, StartsWith("HTTP/1.1 404"));
}

TEST_F(RouteApiTest, CountsWhatBecameOfRequests) {
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

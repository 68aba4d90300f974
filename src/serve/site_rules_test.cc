#include "serve/site_rules.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace fourfold::serve {
namespace {

http::Request request(const std::string& host, const std::string& origin = "",
                      const std::string& method = "GET") {
  http::Request out;
  out.method = method;
  out.path = "/";
  out.headers = {{"host", host}};
  if (!origin.empty()) out.headers.push_back({"origin", origin});
  return out;
}

/// 0 for what is let pass.
int status(const SiteRules& rules, const http::Request& head) {
  const auto answer = rules.check(head);
  return answer ? answer->status : 0;
}

TEST(SiteRules, KnowLocalhostAddressesAndGivenNamesOnly) {
  const SiteRules rules(true, {"models.example.org"}, {});
  for (const char* host :
       {"localhost", "localhost:8000", "LOCALHOST", "a.localhost", "127.0.0.1:1", "[::1]:8000",
        "[::1]", "10.1.2.3", "models.example.org:443", "Models.Example.org", "localhost."}) {
    EXPECT_EQ(status(rules, request(host)), 0) << host;
  }
  for (const char* host :
       {"evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "notlocalhost",
        "sub.models.example.org", "[evil]", "evil.example:127.0.0.1", "127.1", "[", ":80"}) {
    EXPECT_EQ(status(rules, request(host)), 403) << host;
  }
}

TEST(SiteRules, LetAnyHostPassWhereItIsNotLookedAt) {
  EXPECT_EQ(status(SiteRules(false, {}, {}), request("any.example")), 0);
}

TEST(SiteRules, RefuseTheOriginsOfOtherSites) {
  const SiteRules rules(true, {}, {"https://chat.example", "null"});
  for (const char* origin : {"http://localhost:8000", "https://localhost:8000",
                             "HTTP://LOCALHOST:8000", "https://chat.example", "null"}) {
    EXPECT_EQ(status(rules, request("localhost:8000", origin, "POST")), 0) << origin;
  }
  for (const char* origin :
       {"http://evil.example", "http://localhost", "http://localhost:80", "http://localhost:8001",
        "https://chat.example:444", "http://chat.example", "localhost:8000", "ftp://localhost:8000",
        "https://chat.example.evil"}) {
    EXPECT_EQ(status(rules, request("localhost:8000", origin, "POST")), 403) << origin;
    EXPECT_TRUE(rules.answer_headers(request("localhost:8000", origin)).empty()) << origin;
  }
  EXPECT_EQ(status(SiteRules(true, {}, {}), request("localhost:8000", "null", "POST")), 403);
}

TEST(SiteRules, AnswerWhatABrowserAsksBeforeARequestOfAnAllowedPage) {
  const SiteRules rules(true, {}, {"https://chat.example"});
  http::Request head = request("localhost:8000", "https://chat.example", "OPTIONS");
  EXPECT_EQ(status(rules, head), 0);
  head.headers.push_back({"access-control-request-method", "POST"});
  head.headers.push_back({"access-control-request-headers", "authorization,content-type"});
  const auto answer = rules.check(head);
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->status, 204);
  EXPECT_EQ(http::find_header(answer->headers, "Access-Control-Allow-Headers"),
            "authorization,content-type");
  EXPECT_EQ(http::find_header(rules.answer_headers(head), "Access-Control-Allow-Origin"),
            "https://chat.example");
}

TEST(SiteRules, TakeNamesAndOriginsAsBrowsersWriteThem) {
  EXPECT_EQ(parse_allowed_host("Models.Example.org.").value(), "models.example.org");
  for (const char* text : {"", "a:80", "http://a", "a/b", "a b", "*"}) {
    EXPECT_FALSE(parse_allowed_host(text).ok()) << text;
  }
  EXPECT_EQ(parse_allowed_origin("HTTPS://A.example:8443").value(), "https://a.example:8443");
  EXPECT_EQ(parse_allowed_origin("null").value(), "null");
  for (const char* text : {"", "a.example", "https://", "https://a/", "*", "https://*.a", "://a"}) {
    EXPECT_FALSE(parse_allowed_origin(text).ok()) << text;
  }
}

}  // namespace
}  // namespace fourfold::serve

#include "measure/endpoint.h"

#include <gmock/gmock.h>

#include <future>
#include <thread>

#include "http/server.h"

namespace fourfold::measure {
namespace {

using testing::HasSubstr;

/// A server that answers every request with the same reply.
class EndpointTest : public testing::Test {
 protected:
  struct Seen {
    int chunks = 0;
    std::optional<int64_t> told_tokens;
    std::string failure;
  };

  /// What a load sees of a request for 4 tokens.
  Seen submit(int status, const std::string& reply) {
    const base::SteadyClock clock;
    auto server = http::Server::listen({}, clock, [&](const auto& exchange) {
                    exchange->respond({.status = status,
                                       .content_type = "text/event-stream",
                                       .body = reply,
                                       .headers = {}});
                  }).value();
    std::thread thread([&] { server->run(); });
    Seen seen;
    {
      Endpoint endpoint(http::Url::parse(server->url()).value(), "");
      engine::Request request;
      request.prompt = {1, 2};
      request.max_new_tokens = 4;
      std::promise<void> done;
      EXPECT_TRUE(endpoint
                      .submit("m", request,
                              [&](const load::Arrival& arrival) {
                                seen.chunks += static_cast<int>(arrival.tokens.size());
                                seen.told_tokens = arrival.told_tokens;
                                seen.failure = arrival.failure;
                                if (arrival.finished) done.set_value();
                              })
                      .ok());
      done.get_future().wait();
    }
    server->post([&] { server->stop(); });
    thread.join();
    return seen;
  }

  static std::string stream(const std::string& usage) {
    return "data: {\"choices\":[{\"text\":\"a\"}]}\n\ndata: {\"choices\":[{\"text\":\"b\"}]}\n\n"
           "data: {\"choices\":[{\"text\":\"\",\"finish_reason\":\"length\"}]}\n\n"
           "data: {\"choices\":[],\"usage\":{\"completion_tokens\":" +
           usage + "}}\n\ndata: [DONE]\n\n";
  }
};

TEST_F(EndpointTest, TakesTheNumberOfTokensFromTheUsage) {
  const Seen seen = submit(200, stream("2"));
  EXPECT_EQ(seen.chunks, 3) << "the last of them without a token";
  EXPECT_EQ(seen.told_tokens, 2);
  EXPECT_EQ(seen.failure, "");
}

TEST_F(EndpointTest, RefusesNumbersThatCannotBe) {
  for (const char* usage :
       {"5", "1000000000000000", "9223372036854775807", "-1", "-9223372036854775808"}) {
    EXPECT_THAT(submit(200, stream(usage)).failure, HasSubstr("4 were asked for")) << usage;
  }
}

TEST_F(EndpointTest, SaysWhatAServerComplainsOfWithoutItsControlCharacters) {
  EXPECT_EQ(submit(503, R"({"error":{"message":"busy"}})").failure, "HTTP 503: busy");
  EXPECT_EQ(submit(502, "a\x1b[2Jb\xff").failure, "HTTP 502: a\\x1b[2Jb\\xff");
  EXPECT_THAT(submit(200, "data: {\"error\":{\"message\":\"gone\"}}\n\n").failure,
              HasSubstr("gone"));
  EXPECT_THAT(submit(200, "data: {no json}\n\n").failure, HasSubstr("an event of the stream"));
  EXPECT_THAT(submit(200, "data: [DONE]\n\n").failure, HasSubstr("without a token"));
}

}  // namespace
}  // namespace fourfold::measure

#include "measure/endpoint.h"

#include <gmock/gmock.h>

#include <future>
#include <thread>

#include "files/json.h"
#include "http/server.h"

namespace fourfold::measure {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;

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
  EXPECT_EQ(seen.chunks, 2) << "the third is without a token";
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

/// A server that answers a whole answer and keeps what it was asked.
class AskTest : public testing::Test {
 protected:
  base::Result<ServedAnswer> ask(const Question& question, int status, const std::string& reply,
                                 const std::string& key = "") {
    const base::SteadyClock clock;
    auto server =
        http::Server::listen({}, clock, [&](const auto& exchange) {
          asked = files::parse_json(exchange->request().body, "the request").value();
          authorization = exchange->request().header("authorization");
          exchange->respond(
              {.status = status, .content_type = "application/json", .body = reply, .headers = {}});
        }).value();
    std::thread thread([&] { server->run(); });
    auto answer = Endpoint(http::Url::parse(server->url()).value(), key).ask(question);
    server->post([&] { server->stop(); });
    thread.join();
    return answer;
  }

  nlohmann::json asked;
  std::string authorization;
};

TEST_F(AskTest, ReadsTextTokensAndLogprobs) {
  const ServedAnswer answer =
      ask({.model = "m", .prompt = "Once", .max_tokens = 2, .logprobs = 2, .tokens_as_ids = true},
          200,
          R"({"choices":[{"text":"ab","finish_reason":"length","logprobs":{
              "tokens":["token_id:5","token_id:6"],"token_logprobs":[-0.5,-1],
              "top_logprobs":[{"token_id:5":-0.5,"token_id:9":-0.75},
                              {"token_id:6":-1,"token_id:7":null}]}}],
              "usage":{"prompt_tokens":3,"completion_tokens":2}})",
          "secret")
          .value();
  EXPECT_EQ(asked, nlohmann::json::parse(R"({"model":"m","prompt":"Once","max_tokens":2,
      "temperature":0.0,"ignore_eos":true,"logprobs":2,"return_tokens_as_token_ids":true})"));
  EXPECT_EQ(authorization, "Bearer secret");
  EXPECT_EQ(answer.text, "ab");
  EXPECT_EQ(answer.finish_reason, "length");
  EXPECT_THAT(answer.tokens, ElementsAre("token_id:5", "token_id:6"));
  EXPECT_THAT(answer.logprobs, ElementsAre(-0.5, -1));
  EXPECT_THAT(answer.top[0], ElementsAre(Pair("token_id:5", -0.5), Pair("token_id:9", -0.75)));
  EXPECT_THAT(answer.top[1], ElementsAre(Pair("token_id:6", -1)));
  EXPECT_EQ(answer.prompt_tokens, 3);
  EXPECT_EQ(answer.completion_tokens, 2);
}

TEST_F(AskTest, AsksWithTokensAndWithoutLogprobs) {
  const ServedAnswer answer =
      ask({.model = "m", .prompt = std::vector<engine::TokenId>{4, 5}, .ignore_eos = false}, 200,
          R"({"choices":[{"text":"ab"}]})")
          .value();
  EXPECT_EQ(asked, nlohmann::json::parse(
                       R"({"model":"m","prompt":[4,5],"max_tokens":16,"temperature":0.0})"));
  EXPECT_TRUE(answer.tokens.empty());
  EXPECT_FALSE(answer.completion_tokens);
}

TEST_F(AskTest, SaysWhatIsWrong) {
  const auto error = [&](int status, const std::string& reply) {
    return ask({.model = "m", .prompt = "a", .logprobs = 1}, status, reply).error().message;
  };
  EXPECT_EQ(error(401, R"({"error":"Unauthorized"})"),
            "HTTP 401: Unauthorized (the server wants an API key, or another one)");
  EXPECT_EQ(error(404, R"({"error":{"message":"The model `m` does not exist."}})"),
            "HTTP 404: The model `m` does not exist.");
  EXPECT_THAT(error(200, "<html>"), HasSubstr("the answer"));
  EXPECT_THAT(error(200, R"({"choices":[]})"), HasSubstr("no choices"));
  EXPECT_THAT(error(200, R"({"choices":[{"index":0}]})"), HasSubstr("text"));
  EXPECT_THAT(error(200, R"({"choices":[{"text":"a"}]})"), HasSubstr("no logprobs"));
  EXPECT_THAT(error(200, R"({"choices":[{"text":"a","finish_reason":"error"}]})"),
              HasSubstr("finish_reason"));
  EXPECT_THAT(error(200, R"({"choices":[{"text":"a","logprobs":{"tokens":["a"],
      "token_logprobs":[],"top_logprobs":[{}]}}]})"),
              HasSubstr("token_logprobs for each token"));
  EXPECT_THAT(error(200, R"({"choices":[{"text":"a","logprobs":{"token_logprobs":[],
      "top_logprobs":[]}}]})"),
              HasSubstr("tokens for each token"));
  EXPECT_THAT(error(200, R"({"choices":[{"text":"a","logprobs":{"tokens":["a"],
      "token_logprobs":[null],"top_logprobs":[{}]}}]})"),
              HasSubstr("token 0"));
}

}  // namespace
}  // namespace fourfold::measure

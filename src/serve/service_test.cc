// The service between a server and a cluster whose events the test plays.
#include "serve/service.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "serve/stack_test.h"

namespace fourfold::serve {
namespace {

using engine::FinishReason;
using nlohmann::json;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

constexpr const char* kPath = "/v1/completions";

class ServiceTest : public testing::Test {
 protected:
  void start(const ServiceOptions& options = {}) {
    auto cluster = std::make_unique<HandCluster>();
    cluster_ = cluster.get();
    stack_.emplace(options, Keys(), std::move(cluster));
  }

  /// Sends a request and returns the connection that waits for its answer.
  http::RawClient send(json body) {
    if (!body.contains("prompt")) body["prompt"] = "In the beginning";
    http::RawClient client = stack_->connect();
    client.send(Stack::request_text("POST", kPath, body.dump()));
    return client;
  }

  static void play(const HandCluster::Sent& sent, engine::SequenceId id, engine::TokenId token,
                   std::optional<FinishReason> finish = std::nullopt) {
    engine::SequenceEvent event = token_event(id, token);
    event.finish = finish;
    sent.sink(event, base::SteadyClock().now_ns());
  }

  engine::TokenId token(std::string_view text) {
    return stack_->model().tokenizer.encode(text, false).value().front();
  }

  std::string metric(const std::string& name) {
    const std::string page = stack_->get("/metrics").text;
    const size_t at = page.find("\n" + name);
    if (at == page.npos) return "";
    const size_t end = page.find('\n', at + 1);
    const std::string line = page.substr(at + 1, end - at - 1);
    return line.substr(line.rfind(' ') + 1);
  }

  HandCluster* cluster_ = nullptr;
  std::optional<Stack> stack_;
};

TEST_F(ServiceTest, GivesTheEngineWhatTheRequestAsksFor) {
  start();
  http::RawClient client = send({{"max_tokens", 9},
                                 {"n", 3},
                                 {"temperature", 0.5},
                                 {"top_p", 0.75},
                                 {"top_k", 7},
                                 {"min_p", 0.125},
                                 {"presence_penalty", 0.5},
                                 {"frequency_penalty", -1},
                                 {"repetition_penalty", 1.5},
                                 {"logit_bias", {{"9", 2}, {"10", -100}}},
                                 {"min_tokens", 2},
                                 {"seed", -5},
                                 {"logprobs", 4},
                                 {"stop_token_ids", {11}}});
  const engine::Request request = cluster_->sent(0).request;
  EXPECT_EQ(request.prompt, stack_->model().tokenizer.encode("In the beginning", true).value());
  EXPECT_EQ(request.forks.size(), 2u);
  EXPECT_EQ(request.max_new_tokens, 9);
  EXPECT_EQ(request.stop_tokens,
            (std::vector<engine::TokenId>{11, *stack_->model().tokenizer.eos()}));
  EXPECT_FALSE(request.ignore_eos);
  const engine::SamplingParams expected{.temperature = 0.5F,
                                        .top_k = 7,
                                        .top_p = 0.75F,
                                        .min_p = 0.125F,
                                        .repetition_penalty = 1.5F,
                                        .presence_penalty = 0.5F,
                                        .frequency_penalty = -1,
                                        .logit_bias = {{9, 2}, {10, -100}},
                                        .min_tokens = 2,
                                        .seed = static_cast<uint64_t>(-5),
                                        .logprobs = 4};
  EXPECT_EQ(request.sampling, expected);
}

TEST_F(ServiceTest, DrawsASeedForARequestWithoutOne) {
  start();
  http::RawClient first = send({});
  http::RawClient second = send({});
  EXPECT_NE(cluster_->sent(0).request.sampling.seed, cluster_->sent(1).request.sampling.seed);
}

TEST_F(ServiceTest, SendsEachTokenAsItComes) {
  start();
  http::RawClient client = send({{"stream", true}});
  const HandCluster::Sent sent = cluster_->sent(0);
  play(sent, sent.request.id, token(" the"));
  EXPECT_THAT(client.read_until("\n\n"), HasSubstr("\"text\":\" the\""));
  play(sent, sent.request.id, token(" God"), FinishReason::kLength);
  EXPECT_THAT(client.read_until("[DONE]"), HasSubstr("\"finish_reason\":\"length\""));
}

TEST_F(ServiceTest, StopsTheWorkOfAClientThatWentAway) {
  start();
  for (const bool stream : {false, true}) {
    http::RawClient client = send({{"stream", stream}, {"n", 2}});
    const HandCluster::Sent sent = cluster_->sent(stream ? 1 : 0);
    play(sent, sent.request.id, token(" the"));
    if (stream) client.read_until("\n\n");
    client.close();
    cluster_->wait_for_cancelled(sent.request.id);
    cluster_->wait_for_cancelled(sent.request.forks[0]);
    play(sent, sent.request.id, token(" God"), FinishReason::kCancelled);  // is for nobody
  }
  EXPECT_EQ(stack_->on_server([&] { return stack_->service().open_requests(); }), 0);
  EXPECT_EQ(metric("vllm:request_success_total{engine=\"0\",finished_reason=\"abort\""), "4.0");
}

TEST_F(ServiceTest, StopsTheWorkBehindAStopString) {
  start();
  http::RawClient client = send({{"stop", " the"}});
  const HandCluster::Sent sent = cluster_->sent(0);
  play(sent, sent.request.id, token(" God"));
  play(sent, sent.request.id, token(" the"));
  cluster_->wait_for_cancelled(sent.request.id);
  const json answer = json::parse(client.read_response().second);
  EXPECT_EQ(answer["choices"][0]["text"], " God");
  EXPECT_EQ(answer["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(answer["usage"]["completion_tokens"], 2);
}

TEST_F(ServiceTest, TellsOfAFailureBeforeAndWithinAStream) {
  start();
  const auto fail = [](const HandCluster::Sent& sent) {
    engine::SequenceEvent failed;
    failed.id = sent.request.id;
    failed.finish = FinishReason::kFailed;
    failed.failure = "rank 1 died";
    sent.sink(failed, 0);
  };
  http::RawClient whole = send({});
  fail(cluster_->sent(0));
  const auto [head, body] = whole.read_response();
  EXPECT_THAT(head, StartsWith("HTTP/1.1 503 "));
  EXPECT_THAT(body, HasSubstr("rank 1 died"));

  http::RawClient stream = send({{"stream", true}});
  const HandCluster::Sent sent = cluster_->sent(1);
  play(sent, sent.request.id, token(" the"));
  fail(sent);
  const std::string text = stream.read_until("0\r\n\r\n");
  EXPECT_THAT(text, StartsWith("HTTP/1.1 200 "));
  EXPECT_THAT(text, HasSubstr("data: {\"error\":{\"message\":"));
  EXPECT_THAT(text, HasSubstr("rank 1 died"));
  EXPECT_THAT(text, HasSubstr("data: [DONE]"));
  EXPECT_EQ(metric("vllm:request_success_total{engine=\"0\",finished_reason=\"error\""), "2.0");
}

TEST_F(ServiceTest, ARequestThatCrashesRanksIsTheServersTrouble) {
  start();
  http::RawClient client = send({});
  const HandCluster::Sent sent = cluster_->sent(0);
  engine::SequenceEvent refused;
  refused.id = sent.request.id;
  refused.finish = FinishReason::kRefused;
  refused.failure = "ranks crashed";
  sent.sink(refused, 0);
  const auto [head, body] = client.read_response();
  EXPECT_THAT(head, StartsWith("HTTP/1.1 500 "));
  EXPECT_THAT(body, HasSubstr("ranks crashed"));
  EXPECT_THAT(body, HasSubstr("\"code\":\"ranks_crash\""));
}

TEST_F(ServiceTest, RefusesWhatTheQueueHasNoPlaceFor) {
  start({.max_queued_requests = 3, .max_queued_tokens = 25});
  http::RawClient first = send({});  // 8 tokens
  const HandCluster::Sent sent = cluster_->sent(0);
  http::RawClient second = send({});
  cluster_->sent(1);
  const auto refused = [&](const json& body) {
    const Reply reply = stack_->post(kPath, body);
    EXPECT_EQ(reply.status, 503);
    EXPECT_THAT(reply.head, HasSubstr("Retry-After: 1\r\n"));
    EXPECT_EQ(reply.json["error"]["code"], "overloaded");
  };
  refused({{"prompt", "a"}, {"n", 2}});                            // choices
  refused({{"prompt", json(std::vector<int>(10, 5))}, {"n", 1}});  // tokens
  http::RawClient third = send({{"prompt", "a"}});                 // fits both
  cluster_->sent(2);
  refused({{"prompt", "a"}});  // requests
  EXPECT_EQ(
      metric("vllm:admission_rejections_total{model_name=\"tiny\",reason=\"max_num_queued_reqs"),
      "2.0");
  EXPECT_EQ(
      metric("vllm:admission_rejections_total{model_name=\"tiny\",reason=\"max_num_queued_tokens"),
      "1.0");
  play(sent, sent.request.id, token(" the"));  // leaves the queue with its first token
  http::RawClient fourth = send({{"prompt", json(std::vector<int>(15, 5))}});  // 8 + 2 + 15
  cluster_->sent(3);
}

TEST_F(ServiceTest, RefusesSmallRequestsWhereTooManyAreAnsweredAlready) {
  start({.max_queued_requests = 1});
  std::promise<void> begun;
  std::promise<void> released;
  cluster_->when_cleared = [&] {
    begun.set_value();
    released.get_future().wait();
  };
  http::RawClient slow = stack_->connect();
  slow.send(Stack::request_text("POST", "/reset_prefix_cache", ""));
  begun.get_future().wait();
  const Reply reply = stack_->post("/tokenize", {{"prompt", "a"}});
  EXPECT_EQ(reply.status, 503);
  EXPECT_THAT(reply.head, HasSubstr("Retry-After: 1\r\n"));
  released.set_value();
  EXPECT_THAT(slow.read_response().first, StartsWith("HTTP/1.1 200 "));
  EXPECT_EQ(stack_->post("/tokenize", {{"prompt", "a"}}).status, 200);
}

TEST_F(ServiceTest, SaysWhenToTryAgainWhereNoGroupIsLeft) {
  start();
  cluster_->fail("all dead");
  const Reply reply = stack_->post(kPath, {{"prompt", "a"}});
  EXPECT_EQ(reply.status, 503);
  EXPECT_THAT(reply.head, HasSubstr("Retry-After: 1\r\n"));
  EXPECT_EQ(reply.json["error"]["code"], "engine_failed");
}

TEST_F(ServiceTest, TakesALargeRequestWhenNobodyWaits) {
  start({.max_queued_requests = 1, .max_queued_tokens = 1});
  http::RawClient client = send({{"n", 4}});
  EXPECT_EQ(cluster_->sent(0).request.forks.size(), 3u);
}

TEST_F(ServiceTest, NamesFieldsThatNobodyKnows) {
  start();
  http::RawClient client = send({{"a\nb", 1}, {"zeal", 2}});
  const HandCluster::Sent sent = cluster_->sent(0);
  play(sent, sent.request.id, token(" the"), FinishReason::kLength);
  EXPECT_THAT(client.read_response().first,
              HasSubstr("X-Fourfold-Ignored-Fields: a\\x0ab, zeal\r\n"));
}

TEST_F(ServiceTest, RefusesFieldsThatNobodyKnowsIfItIsStrict) {
  start({.strict = true});
  const Reply reply = stack_->post(kPath, {{"prompt", "a"}, {"zeal", 2}});
  EXPECT_EQ(reply.status, 400);
  EXPECT_EQ(reply.error_param(), "zeal");
  EXPECT_EQ(stack_->post("/tokenize", {{"prompt", "a"}, {"zeal", 2}}).error_param(), "zeal");
}

TEST_F(ServiceTest, IsUnhealthyWhenEveryGroupHasFailed) {
  start();
  EXPECT_EQ(stack_->get("/health").status, 200);
  EXPECT_EQ(stack_->get("/ready").status, 200);
  cluster_->fail("rank 0 was killed");
  const Reply health = stack_->get("/health");
  EXPECT_EQ(health.status, 503);
  EXPECT_THAT(health.text, HasSubstr("rank 0 was killed"));
  EXPECT_EQ(stack_->get("/ready").status, 503);
  const Reply reply = stack_->post(kPath, {{"prompt", "a"}});
  EXPECT_EQ(reply.status, 503);
  EXPECT_THAT(reply.text, HasSubstr("rank 0 was killed"));
}

TEST_F(ServiceTest, IsNotReadyWhileItDrains) {
  start();
  stack_->on_server([&] { stack_->api().set_draining(); });
  EXPECT_EQ(stack_->get("/ready").status, 503);
  EXPECT_EQ(stack_->get("/health").status, 200);
}

TEST_F(ServiceTest, ForgetsPrefixesWhenAsked) {
  start();
  EXPECT_EQ(stack_->ask("POST", "/reset_prefix_cache").status, 200);
  EXPECT_EQ(cluster_->cleared, 1);
}

}  // namespace
}  // namespace fourfold::serve

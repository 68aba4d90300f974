// The pure parts: health, budget, estimates, figures, and which replica gets a request.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "route/event_counter.h"
#include "route/replica_table.h"
#include "route/retry_budget.h"

namespace fourfold::route {
namespace {

using testing::ElementsAre;
using testing::SizeIs;
using Change = ReplicaHealth::Change;

ReplicaHealth in_use() {
  ReplicaHealth health;
  EXPECT_EQ(health.probed(true), Change::kReturned);
  return health;
}

TEST(ReplicaHealth, TakesANewReplicaInAfterOneGoodProbe) {
  ReplicaHealth health;
  EXPECT_FALSE(health.in_use());
  EXPECT_EQ(health.probed(true), Change::kReturned);
  EXPECT_TRUE(health.in_use());
}

TEST(ReplicaHealth, EjectsAfterOneRefusedConnectionAndReturnsAfterTwoGoodProbes) {
  ReplicaHealth health = in_use();
  EXPECT_EQ(health.unreachable(), Change::kEjected);
  EXPECT_EQ(health.unreachable(), Change::kNone);
  EXPECT_EQ(health.ejections(), 1);
  EXPECT_EQ(health.probed(true), Change::kNone);
  EXPECT_EQ(health.probed(false), Change::kNone);  // in a row
  EXPECT_EQ(health.probed(true), Change::kNone);
  EXPECT_FALSE(health.in_use());
  EXPECT_EQ(health.probed(true), Change::kReturned);
  EXPECT_TRUE(health.in_use());
}

TEST(ReplicaHealth, EjectsAfterThreeFailuresInARow) {
  ReplicaHealth health = in_use();
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(health.request_failed(), Change::kNone);
    EXPECT_EQ(health.request_failed(), Change::kNone);
    health.request_answered();
  }
  EXPECT_EQ(health.request_failed(), Change::kNone);
  EXPECT_EQ(health.request_failed(), Change::kNone);
  EXPECT_EQ(health.probed(true), Change::kNone) << "a good probe says nothing about requests";
  EXPECT_EQ(health.request_failed(), Change::kEjected);
}

TEST(ReplicaHealth, WaitsLongerEachTimeThatProbesAreGoodAndRequestsFail) {
  ReplicaHealth health = in_use();
  const auto fail = [&] {
    for (int i = 0; i < ReplicaHealth::kFailures; ++i) health.request_failed();
    EXPECT_FALSE(health.in_use());
  };
  const auto probes_until_back = [&] {
    int probes = 0;
    while (!health.in_use()) {
      health.probed(true);
      ++probes;
    }
    return probes;
  };
  for (const int expected : {2, 4, 8, 16, 32, 64, 64}) {
    fail();
    EXPECT_EQ(probes_until_back(), expected);
  }
  // That nobody was there is what probes tell.
  EXPECT_EQ(health.unreachable(), Change::kEjected);
  EXPECT_EQ(probes_until_back(), 2);
  health.request_answered();
  fail();
  EXPECT_EQ(probes_until_back(), 2);
}

TEST(ReplicaHealth, EjectsAfterThreeBadProbesInARow) {
  ReplicaHealth health = in_use();
  EXPECT_EQ(health.probed(false), Change::kNone);
  EXPECT_EQ(health.probed(false), Change::kNone);
  EXPECT_EQ(health.probed(true), Change::kNone);
  EXPECT_EQ(health.probed(false), Change::kNone);
  EXPECT_EQ(health.probed(false), Change::kNone);
  EXPECT_EQ(health.probed(false), Change::kEjected);
}

TEST(RetryBudget, HasAFifthOfAllRequestsAndAReserve) {
  RetryBudget budget;
  for (int64_t i = 0; i < RetryBudget::kReserve; ++i) EXPECT_TRUE(budget.take());
  EXPECT_FALSE(budget.take());
  for (int i = 0; i < 4; ++i) budget.count_request();
  EXPECT_FALSE(budget.take());
  budget.count_request();
  EXPECT_TRUE(budget.take());
  for (int64_t i = 0; i < 10 * RetryBudget::kMost; ++i) budget.count_request();
  for (int64_t i = 0; i < RetryBudget::kMost; ++i) EXPECT_TRUE(budget.take());
  EXPECT_FALSE(budget.take());
}

constexpr const char* kCompletions = "/v1/completions";
constexpr const char* kChat = "/v1/chat/completions";

TEST(Estimate, ReadsWhatARequestWillCost) {
  const Estimate text = estimate_request(
      kCompletions, R"({"model": "m", "prompt": "0123456789", "max_tokens": 7, "n": 3})");
  EXPECT_EQ(text.model, "m");
  EXPECT_EQ(text.prompt_tokens, 3);
  EXPECT_EQ(text.output_tokens, 21);
  const Estimate ids = estimate_request(kCompletions, R"({"prompt": [[5, 6], [7]]})");
  EXPECT_THAT(ids.prompt, ElementsAre(5, 6, 7));
  EXPECT_EQ(ids.output_tokens, kCompletionTokens);
  const Estimate chat = estimate_request(
      kChat, R"({"messages": [{"role": "user", "content": [{"type": "text", "text": "12345678"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAAAAAAAAAAAAAA"}}]}],
        "metadata": {"max_tokens": 5, "model": "x"}, "max_completion_tokens": 9})");
  EXPECT_EQ(chat.prompt_tokens, 1 + 1 + 2 + 3);  // user, text, 12345678, image_url
  EXPECT_EQ(chat.output_tokens, 9);
  EXPECT_EQ(chat.model, "");
  EXPECT_EQ(estimate_request(kChat, "{}").output_tokens, kChatTokens);
  EXPECT_EQ(estimate_request(kChat, R"({"max_tokens": 131072, "n": 2})").output_tokens, 2 * 4096)
      << "nobody writes that much";
  EXPECT_EQ(estimate_request("/v1/embeddings", R"({"input": "1234"})").prompt_tokens, 1);
}

TEST(Estimate, TakesAnything) {
  for (const char* body : {"", "{", "[]", "null", "\xff", "{\"prompt\": ", "{\"n\": -1e999}",
                           R"({"n": 99999999999999999999999, "max_tokens": 9223372036854775807})",
                           R"({"max_tokens": -5, "n": -5})"}) {
    const Estimate estimate = estimate_request(kCompletions, body);
    EXPECT_GE(estimate.output_tokens, 0) << body;
    EXPECT_GE(estimate.prompt_tokens, 0) << body;
  }
  const std::string deep(100'000, '[');
  estimate_request(kCompletions, "{\"prompt\": " + deep);
  const std::string large = "{\"prompt\": \"" + std::string(8 << 20, 'x') + "\"}";
  EXPECT_NEAR(static_cast<double>(estimate_request(kCompletions, large).prompt_tokens), 2 << 20,
              kReadBytes / 4 + 10);
}

TEST(Figures, AreVllms) {
  const ReplicaFigures figures = read_figures(
      "# HELP vllm:num_requests_running x\n# TYPE vllm:num_requests_running gauge\n"
      "vllm:num_requests_running{engine=\"0\",model_name=\"a b} c\"} 3.0\n"
      "vllm:num_requests_running{engine=\"1\",model_name=\"m\"} 1\n"
      "vllm:num_requests_waiting{engine=\"0\"} 2.0\r\n"
      "vllm:num_requests_waiting_by_reason{reason=\"capacity\"} 50\n"
      "vllm:kv_cache_usage_perc{engine=\"0\"} 0.25\nvllm:kv_cache_usage_perc 0.5\n");
  EXPECT_EQ(figures.requests, 6);
  EXPECT_EQ(figures.kv_usage, 0.5);
  const ReplicaFigures none = read_figures("vllm:kv_cache_usage_perc NaN\nvllm:num_requests_");
  EXPECT_FALSE(none.requests);
  EXPECT_FALSE(none.kv_usage);
}

TEST(EventCounter, CountsEventsWhateverThePieces) {
  const std::string stream = "data: a\n\ndata: b\ndata: c\n\n: note\r\n\r\ndata: half";
  for (size_t piece = 1; piece <= stream.size(); ++piece) {
    EventCounter counter;
    EXPECT_TRUE(counter.between_events());
    int64_t events = 0;
    for (size_t at = 0; at < stream.size(); at += piece) {
      events += counter.push(std::string_view(stream).substr(at, piece));
    }
    EXPECT_EQ(events, 3) << piece;
    EXPECT_FALSE(counter.between_events());
    counter.push("\n");
    EXPECT_FALSE(counter.between_events());
    counter.push("\n");
    EXPECT_TRUE(counter.between_events());
  }
}

class ReplicaTableTest : public testing::Test {
 protected:
  ReplicaId add(const std::string& url) {
    const ReplicaId id = table_.add(http::Url::parse(url).value()).value();
    table_.find(id)->health.probed(true);
    return id;
  }

  /// A request whose prompt is `text` again and again.
  static Estimate request(const std::string& text, int64_t output_tokens = 100) {
    Estimate out;
    std::string prompt;
    while (prompt.size() < 4096) prompt += text;
    out = estimate_request("", "{\"prompt\": \"" + prompt + "\"}");
    out.output_tokens = output_tokens;
    return out;
  }

  Place place(const Estimate& estimate, std::vector<ReplicaId> tried = {}) {
    const std::optional<Place> place = table_.place(estimate, tried);
    EXPECT_TRUE(place.has_value());
    return place.value_or(Place{});
  }

  ReplicaTable table_;
};

TEST_F(ReplicaTableTest, ChoosesByOutstandingTokensWhichItCountsAsTheyStream) {
  const ReplicaId a = add("http://a");
  const ReplicaId b = add("http://b");
  Place first = place(request("1", 1000));
  EXPECT_EQ(first.replica, a);
  EXPECT_EQ(table_.find(a)->tokens, first.prompt_tokens + 1000);
  Place second = place(request("2", 1000));
  EXPECT_EQ(second.replica, b);
  table_.begun(second);
  EXPECT_EQ(table_.find(b)->tokens, 1000);
  table_.sampled(second, 400);
  EXPECT_EQ(table_.find(b)->tokens, 600);
  EXPECT_EQ(place(request("3")).replica, b);
  table_.leave(second);
  table_.leave(first);
  EXPECT_EQ(table_.find(a)->tokens, 0);
  EXPECT_EQ(table_.find(a)->requests, 0);
  EXPECT_EQ(table_.find(b)->requests, 1);
}

TEST_F(ReplicaTableTest, SendsAPrefixWhereItIsKnownUnlessThatReplicaRunsLate) {
  add("http://a");
  const ReplicaId b = add("http://b");
  Place other = place(request("other"));
  Place first = place(request("hello"));
  ASSERT_EQ(first.replica, b);
  EXPECT_GT(first.prompt_tokens, 1000);
  table_.leave(first);
  table_.leave(other);
  Place again = place(request("hello"));
  EXPECT_EQ(again.replica, b);
  EXPECT_LE(again.prompt_tokens, ReplicaTable::kBlockTokens);
  // Beyond the slack of the rule.
  Place heavy = place(request("hello", 3 * engine::kAffinitySlackTokens));
  EXPECT_EQ(heavy.replica, b);
  EXPECT_NE(place(request("hello")).replica, b);
}

TEST_F(ReplicaTableTest, ForgetsPrefixesWithTheReplica) {
  const ReplicaId a = add("http://a");
  const ReplicaId b = add("http://b");
  Place first = place(request("hello"), {a});
  table_.leave(first);
  EXPECT_EQ(place(request("hello")).replica, b);
  table_.forget_prefixes(*table_.find(b));
  EXPECT_EQ(place(request("hello")).replica, a);
  table_.remove(a);
  const ReplicaId c = add("http://a");
  EXPECT_NE(c, a);
  EXPECT_GT(place(request("hello"), {b}).prompt_tokens, 1000);
}

TEST_F(ReplicaTableTest, CountsRequestsOfOthersAsItsOwnAndTakesFreeKvBetweenEquals) {
  const ReplicaId a = add("http://a");
  const ReplicaId b = add("http://b");
  table_.set_figures(*table_.find(a), {.kv_usage = 0.9, .requests = std::nullopt});
  Place first = place(request("1"));
  EXPECT_EQ(first.replica, b) << "it has more free KV";
  table_.set_figures(*table_.find(a), {.kv_usage = 0, .requests = 5});
  EXPECT_EQ(table_.find(a)->foreign_requests, 5);
  EXPECT_EQ(place(request("2")).replica, b);
  table_.set_figures(*table_.find(b), {.kv_usage = 0, .requests = 2});
  EXPECT_EQ(table_.find(b)->foreign_requests, 0) << "they are ours";
}

TEST_F(ReplicaTableTest, ChoosesAmongThoseThatListTheModel) {
  const ReplicaId a = add("http://a");
  const ReplicaId b = add("http://b");
  table_.find(a)->models = {{"x", "{}"}};
  table_.find(b)->models = {{"y", "{}"}};
  Estimate estimate = request("1");
  estimate.model = "y";
  EXPECT_EQ(place(estimate).replica, b);
  EXPECT_EQ(place(estimate).replica, b);
  estimate.model = "nobody's";
  EXPECT_EQ(place(estimate).replica, a) << "which will say so";
  estimate.model = "y";
  EXPECT_FALSE(table_.place(estimate, std::vector{b})) << "the other one would deny the model";
}

TEST_F(ReplicaTableTest, LeavesOutReplicasThatDrainWereTriedOrAreOut) {
  const ReplicaId a = add("http://a");
  const ReplicaId b = add("http://b/base/");
  const ReplicaId c = table_.add(http::Url::parse("http://c").value()).value();
  EXPECT_EQ(table_.in_use(), 2);
  table_.find(a)->draining = true;
  EXPECT_EQ(place(request("1")).replica, b);
  EXPECT_FALSE(table_.place(request("1"), std::vector{b}));
  EXPECT_FALSE(table_.find(c)->takes_requests());
  EXPECT_FALSE(table_.add(http::Url::parse("http://b:80/base").value()).ok());
  EXPECT_EQ(table_.add(http::Url::parse("http://a:80").value()).value(), a);
  EXPECT_FALSE(table_.find(a)->draining);
  EXPECT_THAT(table_.all(), SizeIs(3));
}

}  // namespace
}  // namespace fourfold::route

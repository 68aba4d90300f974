// What the client measures of servers whose times are known, over the real HTTP room: exactly what
// the script did, since time stands still between its acts.

#include <gmock/gmock.h>

#include "measure/scripted_server_test.h"
#include "measure/served_load.h"

namespace fourfold::measure {
namespace {

using testing::DoubleNear;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

constexpr double kNoise = 1e-6;  // ms, of floating point

auto near(double ms) { return DoubleNear(ms, kNoise); }

std::string event(const std::string& json) { return "data: " + json + "\n\n"; }
std::string text(const std::string& text) {
  return event(R"({"choices":[{"index":0,"text":")" + text + R"("}]})");
}
std::string closing(const std::string& text) {
  return event(R"({"choices":[{"index":0,"text":")" + text + R"(","finish_reason":"length"}]})");
}
std::string usage(int tokens) {
  return event(R"({"choices":[],"usage":{"completion_tokens":)" + std::to_string(tokens) + "}}") +
         event("[DONE]");
}

load::RunOptions one_at_a_time() { return {.concurrency = 1, .count_failures = true}; }

load::LoadRun run_one(const Script& script, int32_t tokens) {
  return ScriptedServer({script}).run(one_at_a_time(), tokens);
}

TEST(ScriptedEndpoint, MeasuresWhatTheServerDid) {
  ScriptedServer server(
      {{.pieces = {{40, text("a")}, {50, text("b")}, {70, closing("c")}, {70, usage(3)}},
        .end_ms = 71},
       {.pieces = {{100, text("a")}, {130, text("b")}, {160, closing("c")}, {161, usage(3)}},
        .end_ms = 161},
       {.pieces = {{10, text("a")}, {20, text("b")}, {30, closing("c")}, {30, usage(3)}},
        .end_ms = 30}});
  load::RunOptions options{.concurrency = 2};
  options.slo = load::parse_slo("ttft=50ms,tpot=20ms").value();
  const load::LoadRun run = server.run(options, 3);
  const load::RunMetrics& m = run.metrics;
  EXPECT_THAT(m.ttft_ms, ElementsAre(near(40), near(100), near(10)));
  EXPECT_THAT(m.tpot_ms, ElementsAre(near(15), near(30), near(10)));
  EXPECT_THAT(m.itl_ms, ElementsAre(near(10), near(20), near(30), near(30), near(10), near(10)));
  EXPECT_THAT(m.e2e_ms, ElementsAre(near(70), near(160), near(30)));
  // The third was sent when the first had ended, at 71 ms; the last token came at 160 ms.
  EXPECT_NEAR(m.duration_s, 0.160, 1e-9);
  EXPECT_NEAR(m.output_tok_s, 9 / 0.160, 1e-6);
  EXPECT_NEAR(m.goodput_rps, 2 / 0.160, 1e-6) << "the second is too slow";
  EXPECT_NEAR(run.wall_s, 0.161, 1e-9);
}

TEST(ScriptedEndpoint, MeasuresAnOpenLoopFromTheTimeOfSending) {
  ScriptedServer server({{.pieces = {{300, closing("a")}, {300, usage(1)}}, .end_ms = 300},
                         {.pieces = {{20, closing("a")}, {20, usage(1)}}, .end_ms = 20},
                         {.pieces = {{5, closing("a")}, {5, usage(1)}}, .end_ms = 5}});
  load::RunOptions options;
  options.arrivals_s = {0, 0.1, 0.25};
  const load::RunMetrics m = server.run(options, 1).metrics;
  EXPECT_THAT(m.ttft_ms, ElementsAre(near(300), near(20), near(5)));
  EXPECT_THAT(m.tpot_ms, IsEmpty());
  EXPECT_NEAR(m.duration_s, 0.3, 1e-9);
}

TEST(ScriptedEndpoint, CountsAGapForAChunkAndTheUsagesTokens) {
  const auto m =
      run_one(
          {.pieces = {{10, text("a")}, {40, text("bcd")}, {70, closing("efgh")}, {70, usage(8)}},
           .end_ms = 70},
          8)
          .metrics;
  EXPECT_THAT(m.itl_ms, ElementsAre(near(30), near(30))) << "as vllm bench serve counts";
  EXPECT_THAT(m.tpot_ms, ElementsAre(near(60.0 / 7)));
}

TEST(ScriptedEndpoint, TakesNumbersOfTokensBesideChunks) {
  const std::string two = event(R"({"choices":[{"text":"ab","logprobs":{"tokens":["a","b"]}}]})");
  const std::string none = event(R"({"choices":[{"text":"","logprobs":{"tokens":[]}}]})");
  const std::string three =
      event(R"({"choices":[{"text":"cde","token_ids":[1,2,3],"finish_reason":"stop"}]})");
  const auto run = run_one(
      {.pieces = {{10, none}, {20, two}, {60, three}, {60, event("[DONE]")}}, .end_ms = 60}, 8);
  EXPECT_THAT(run.metrics.ttft_ms, ElementsAre(near(20)));
  EXPECT_THAT(run.metrics.tpot_ms, ElementsAre(near(10)));
  EXPECT_EQ(run.requests[0].told_tokens, 5) << "no usage, and every chunk tells";
}

TEST(ScriptedEndpoint, DropsChunksThatBroughtNoToken) {
  const std::vector<Script::Piece> tokens = {{30, text("a")}, {50, text("b")}};
  // One that opens the stream, one that closes it, each without a token.
  const auto m =
      run_one({.pieces = {{5, text("")}, tokens[0], tokens[1], {90, closing("")}, {90, usage(2)}},
               .end_ms = 90},
              2)
          .metrics;
  EXPECT_THAT(m.ttft_ms, ElementsAre(near(30)));
  EXPECT_THAT(m.itl_ms, ElementsAre(near(20)));
  EXPECT_THAT(m.e2e_ms, ElementsAre(near(50)));
}

TEST(ScriptedEndpoint, TakesAChunkWithoutTextForAPartOfACharacter) {
  const auto m =
      run_one(
          {.pieces =
               {{5, text("")}, {30, text("a")}, {50, text("b")}, {90, closing("")}, {90, usage(3)}},
           .end_ms = 90},
          3)
          .metrics;
  EXPECT_THAT(m.ttft_ms, ElementsAre(near(5)));
  EXPECT_THAT(m.itl_ms, ElementsAre(near(25), near(20)))
      << "only the closing chunk is one too many";
}

TEST(ScriptedEndpoint, SaysWhereNobodyToldTheNumberOfTokens) {
  const auto run = run_one(
      {.pieces = {{10, text("a")}, {30, closing("bcd")}, {30, event("[DONE]")}}, .end_ms = 30}, 8);
  ASSERT_EQ(run.metrics.failed, 0);
  EXPECT_FALSE(run.requests[0].told_tokens);
  const ServedLoadOptions options{.url = http::Url::parse("http://a").value(), .requests = 1};
  ServedLoad served{.model = "m", .vocabulary_of = "m", .requests = run.requests};
  served.metrics = run.metrics;
  EXPECT_THAT(to_text(options, served), HasSubstr("told no usage for 1 request"));
  EXPECT_EQ(vllm_result(options, served, "").at("requests_without_usage"), 1);
  served.requests[0].told_tokens = 4;
  EXPECT_THAT(to_text(options, served), Not(HasSubstr("usage")));
}

TEST(ScriptedEndpoint, CountsTheTimeOfSlowHeaders) {
  const auto m = run_one({.head_ms = 400,
                          .pieces = {{410, text("a")}, {420, closing("b")}, {420, usage(2)}},
                          .end_ms = 420},
                         2)
                     .metrics;
  EXPECT_THAT(m.ttft_ms, ElementsAre(near(410)));
  EXPECT_THAT(m.tpot_ms, ElementsAre(near(10)));
}

TEST(ScriptedEndpoint, DatesAnEventByThePieceThatCompletesIt) {
  const std::string a = text("a");
  const std::string b = text("b");
  const auto m = run_one({.pieces = {{10, a.substr(0, 9)},
                                     {25, a.substr(9)},
                                     {26, ": still here\n\n"},
                                     {45, b + closing("c") + usage(3)}},
                          .end_ms = 45},
                         3)
                     .metrics;
  EXPECT_THAT(m.ttft_ms, ElementsAre(near(25)));
  EXPECT_THAT(m.itl_ms, ElementsAre(near(20), near(0))) << "two events in one piece";
}

TEST(ScriptedEndpoint, ARequestThatBreaksOffHasFailedAndIsNotAShortOne) {
  const std::vector<Script::Piece> good = {{10, text("a")}, {20, closing("b")}, {20, usage(2)}};
  const auto broken = [&](const std::string& last, Script::End end) {
    return Script{.pieces = {{10, text("a")}, {500, last}}, .end_ms = 500, .end = end};
  };
  ScriptedServer server(
      {{.pieces = good, .end_ms = 20},
       broken(text("b"), Script::End::kCut),
       broken(text("b"), Script::End::kWhole),
       broken(event(R"({"error":{"message":"out of memory"}})"), Script::End::kWhole),
       broken(event(R"({"choices":[{"text":"","finish_reason":"abort"}]})") + usage(1),
              Script::End::kWhole),
       {.pieces = good, .end_ms = 20}});
  const load::LoadRun run = server.run(one_at_a_time(), 2);
  EXPECT_EQ(run.metrics.failed, 4);
  EXPECT_THAT(run.metrics.ttft_ms, ElementsAre(near(10), near(10)));
  EXPECT_THAT(run.metrics.itl_ms, ElementsAre(near(10), near(10)));
  EXPECT_THAT(run.requests[1].failure, Not(IsEmpty()));
  EXPECT_THAT(run.requests[2].failure, HasSubstr("broke off after 2 chunks"));
  EXPECT_EQ(run.requests[3].failure, "the server gave up in mid-stream: out of memory");
  EXPECT_THAT(run.requests[4].failure, HasSubstr("finish_reason \"abort\""));
}

TEST(ScriptedEndpoint, AStreamMayEndWithoutDone) {
  const auto run = run_one({.pieces = {{10, text("a")}, {20, closing("b")}}, .end_ms = 20}, 2);
  EXPECT_EQ(run.metrics.failed, 0) << run.requests[0].failure;
}

TEST(ScriptedEndpoint, EndsAStreamOfEndlessChunks) {
  std::string many;
  for (int i = 0; i < 1100; ++i) many += text("a");
  const auto run = run_one({.pieces = {{10, many}}, .end_ms = 20}, 2);
  EXPECT_THAT(run.requests[0].failure, HasSubstr("chunks came for 2 tokens"));
}

}  // namespace
}  // namespace fourfold::measure

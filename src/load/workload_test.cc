#include "load/workload.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <vector>

namespace fourfold::load {
namespace {

using testing::AllOf;
using testing::Each;
using testing::ElementsAre;
using testing::Ge;
using testing::HasSubstr;
using testing::Lt;
using testing::SizeIs;

using Tokens = std::vector<engine::TokenId>;

size_t common_prefix(const Tokens& a, const Tokens& b) {
  return static_cast<size_t>(std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first -
                             a.begin());
}

Trace trace_of(const char* text) {
  auto trace = parse_trace(text, "trace");
  EXPECT_TRUE(trace.ok()) << trace.error().message;
  return std::move(trace).value();
}

TEST(SyntheticLoad, SharesExactlyItsPrefix) {
  const Workload workload = synthetic_workload({.input_len = 40,
                                                .output_len = 8,
                                                .conversations = 3,
                                                .shared_prefix = 17,
                                                .vocab = 50000,
                                                .seed = 4});
  const std::vector<engine::Request> requests = make_requests(workload);
  ASSERT_THAT(requests, SizeIs(3));
  for (const engine::Request& r : requests) {
    EXPECT_THAT(r.prompt, AllOf(SizeIs(57), Each(AllOf(Ge(0), Lt(50000)))));
    EXPECT_EQ(r.max_new_tokens, 8);
    EXPECT_TRUE(r.ignore_eos);
  }
  EXPECT_EQ(common_prefix(requests[0].prompt, requests[1].prompt), 17U);
  EXPECT_EQ(common_prefix(requests[1].prompt, requests[2].prompt), 17U);
}

TEST(SyntheticLoad, DependsOnItsSeedAlone) {
  SyntheticLoad load{
      .input_len = 10, .output_len = 1, .conversations = 2, .vocab = 1000, .seed = 1};
  const Tokens prompt = make_request(synthetic_workload(load), 1).prompt;
  EXPECT_EQ(make_request(synthetic_workload(load), 1).prompt, prompt);
  load.conversations = 5;
  EXPECT_EQ(make_request(synthetic_workload(load), 1).prompt, prompt);
  load.seed = 2;
  EXPECT_NE(make_request(synthetic_workload(load), 1).prompt, prompt);
}

TEST(SyntheticLoad, CountsTheTokensOfItsLongestConversation) {
  const Workload workload = synthetic_workload({.input_len = 10,
                                                .output_len = 4,
                                                .conversations = 2,
                                                .turns = 3,
                                                .shared_prefix = 5,
                                                .vocab = 9,
                                                .seed = 0});
  EXPECT_EQ(longest_tokens(workload), 5 + 3 * (10 + 4));
  EXPECT_EQ(workload.requests[1].follows, 0);
  EXPECT_EQ(workload.requests[3].follows, -1);
  EXPECT_EQ(workload.requests[5].follows, 4);
}

const char kTwoSharing[] =
    R"({"timestamp": 500, "input_length": 1300, "output_length": 40, "hash_ids": [3, 4, 5]}
{"timestamp": 1500, "input_length": 1100, "output_length": 7, "hash_ids": [3, 4, 6]}
{"timestamp": 1600, "input_length": 1030, "output_length": 7, "hash_ids": [3, 8, 6]}
)";

TEST(TraceLoad, SharesWhatTheTraceShares) {
  const auto workload =
      trace_workload(trace_of(kTwoSharing), {.max_positions = 2000, .vocab = 32000, .seed = 1});
  ASSERT_TRUE(workload.ok()) << workload.error().message;
  const auto requests = make_requests(*workload);
  EXPECT_EQ(requests[0].prompt.size(), 1300U);
  EXPECT_EQ(requests[1].prompt.size(), 1100U);
  EXPECT_EQ(requests[0].max_new_tokens, 40);
  EXPECT_EQ(common_prefix(requests[0].prompt, requests[1].prompt), 1024U);
  EXPECT_EQ(common_prefix(requests[0].prompt, requests[2].prompt), 512U);
  EXPECT_THAT(workload->arrivals_s, ElementsAre(0, 1, testing::DoubleEq(1.1)));
}

TEST(TraceLoad, SharesItAtAnyScale) {
  for (const double scale : {0.37, 0.01, 2.5}) {
    const auto workload =
        trace_workload(trace_of(kTwoSharing),
                       {.length_scale = scale, .max_positions = 9000, .vocab = 32000, .seed = 1});
    ASSERT_TRUE(workload.ok()) << workload.error().message;
    const auto requests = make_requests(*workload);
    EXPECT_EQ(std::ssize(requests[0].prompt), std::llround(1300 * scale));
    EXPECT_EQ(requests[0].max_new_tokens, std::max(1LL, std::llround(40 * scale)));
    EXPECT_EQ(static_cast<int64_t>(common_prefix(requests[0].prompt, requests[1].prompt)),
              std::llround(1024 * scale));
  }
}

TEST(TraceLoad, HasAtLeastOneTokenWhateverTheScale) {
  const auto workload = trace_workload(
      trace_of(kTwoSharing), {.length_scale = 1e-6, .max_positions = 2, .vocab = 32000, .seed = 1});
  ASSERT_TRUE(workload.ok()) << workload.error().message;
  for (const engine::Request& r : make_requests(*workload)) {
    EXPECT_THAT(r.prompt, SizeIs(1));
    EXPECT_EQ(r.max_new_tokens, 1);
  }
}

TEST(TraceLoad, RefusesOrSkipsWhatTheModelCannotHold) {
  TraceLoad load{.max_positions = 1110, .vocab = 100, .seed = 1};
  const auto refused = trace_workload(trace_of(kTwoSharing), load);
  ASSERT_FALSE(refused.ok());
  EXPECT_THAT(refused.error().message,
              AllOf(HasSubstr("line 1"), HasSubstr("1300 prompt"), HasSubstr("1110 positions")));
  load.skip_too_long = true;
  const auto workload = trace_workload(trace_of(kTwoSharing), load);
  ASSERT_TRUE(workload.ok()) << workload.error().message;
  EXPECT_THAT(workload->requests, SizeIs(2));
  EXPECT_EQ(workload->skipped, 1);
  EXPECT_EQ(longest_tokens(*workload), 1107);
  EXPECT_EQ(workload->arrivals_s.front(), 0);
  load.max_positions = 10;
  EXPECT_FALSE(trace_workload(trace_of(kTwoSharing), load).ok());
}

TEST(TraceLoad, TakesTheFirstRequestsOnly) {
  const auto workload = trace_workload(
      trace_of("arrived_at,num_prefill_tokens,num_decode_tokens\n0,5,1\n1,5,1\n2,5,1\n"),
      {.max_requests = 2, .max_positions = 9, .vocab = 1000, .seed = 1});
  ASSERT_TRUE(workload.ok()) << workload.error().message;
  ASSERT_THAT(workload->requests, SizeIs(2));
  EXPECT_NE(make_request(*workload, 0).prompt, make_request(*workload, 1).prompt);
}

TEST(Workload, GivesEachRequestASamplingSeedOfItsOwn) {
  const auto seeds_of = [](uint64_t seed) {
    Workload workload = synthetic_workload(
        {.input_len = 3, .output_len = 2, .conversations = 50, .vocab = 100, .seed = seed});
    set_sampling(workload, {.temperature = 0.5F, .top_k = 7});
    std::vector<uint64_t> seeds;
    for (const engine::Request& request : make_requests(workload)) {
      EXPECT_EQ(request.sampling.temperature, 0.5F);
      EXPECT_EQ(request.sampling.top_k, 7);
      seeds.push_back(request.sampling.seed);
    }
    return seeds;
  };
  const std::vector<uint64_t> seeds = seeds_of(1);
  EXPECT_EQ(std::set<uint64_t>(seeds.begin(), seeds.end()).size(), 50U);
  EXPECT_EQ(seeds, seeds_of(1));
  EXPECT_NE(seeds, seeds_of(2));
}

}  // namespace
}  // namespace fourfold::load

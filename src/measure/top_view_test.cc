#include "measure/top_view.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace fourfold::measure {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

constexpr const char* kBefore =
    "vllm:generation_tokens_total{engine=\"0\"} 100\n"
    "vllm:num_requests_running{engine=\"0\"} 9\n"
    "vllm:time_to_first_token_seconds_bucket{le=\"0.1\"} 10\n"
    "vllm:time_to_first_token_seconds_bucket{le=\"0.2\"} 10\n"
    "vllm:time_to_first_token_seconds_bucket{le=\"+Inf\"} 10\n";
constexpr const char* kNow =
    "vllm:generation_tokens_total{engine=\"0\"} 300\n"
    "vllm:num_requests_running{engine=\"0\",model_name=\"m\"} 3\n"
    "vllm:num_requests_running{engine=\"1\",model_name=\"m\"} 4\n"
    "vllm:num_requests_waiting{engine=\"1\"} 2\n"
    "vllm:kv_cache_usage_perc{engine=\"1\"} 0.25\n"
    "vllm:prefix_cache_queries_total{engine=\"1\"} 200\n"
    "vllm:prefix_cache_hits_total{engine=\"1\"} 150\n"
    "vllm:time_to_first_token_seconds_bucket{le=\"0.1\"} 10\n"
    "vllm:time_to_first_token_seconds_bucket{le=\"0.2\"} 14\n"
    "vllm:time_to_first_token_seconds_bucket{le=\"+Inf\"} 14\n";

TEST(TopView, ShowsRatesBetweenLooksAndEveryEngine) {
  const std::string text = top_view({kBefore, 10}, {kNow, 12});
  EXPECT_THAT(text, AllOf(HasSubstr("output 100 tok/s"), HasSubstr("running 7, waiting 2"),
                          // Half of the four that came between the looks, not of all.
                          HasSubstr("TTFT 150 ms"), HasSubstr("TPOT –"), Not(HasSubstr("ranks"))));
  EXPECT_THAT(text, HasSubstr("\n1             4        2  25 %         75 %"));
}

TEST(TopView, FallsBackToAllThatWasCounted) {
  EXPECT_THAT(top_view({kNow, 1}, {kNow, 2}),
              AllOf(HasSubstr("output 0 tok/s"), HasSubstr("TTFT 70 ms")));
  // The server was started again between the looks.
  EXPECT_THAT(top_view({kNow, 1}, {kBefore, 2}), HasSubstr("output 0 tok/s"));
}

TEST(TopView, ShowsTheGroupsOfFourfoldAndTheReplicasOfARouter) {
  const std::string groups =
      std::string(kNow) +
      "fourfold:group_up{engine=\"0\"} 1\nfourfold:group_up{engine=\"1\"} 0\n"
      "fourfold:group_ranks{engine=\"0\"} 4\n";
  EXPECT_THAT(top_view({groups, 1}, {groups, 2}),
              AllOf(HasSubstr("stages"), HasSubstr(" up "), HasSubstr(" down ")));
  const std::string route =
      "fourfold:route_connections 5\n"
      "fourfold:route_replica_in_use{replica=\"http://a:1\"} 1\n"
      "fourfold:route_replica_in_use{replica=\"http://b:1\\u001b\"} 0\n";
  EXPECT_THAT(top_view({route, 1}, {route, 2}),
              AllOf(HasSubstr("connections 5"), HasSubstr("http://a:1"), HasSubstr("in use"),
                    HasSubstr("out")));
}

TEST(TopView, SaysThatItKnowsNothing) {
  EXPECT_THAT(top_view({"", 1}, {"a 1\n", 2}), HasSubstr("neither"));
}

}  // namespace
}  // namespace fourfold::measure

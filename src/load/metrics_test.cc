#include "load/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace fourfold::load {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr int64_t kMs = 1'000'000;

TEST(Metrics, FollowTheDefinitionsOfVllmBenchServe) {
  const std::vector<RequestLog> log = {
      {.chunks = {{100 * kMs}, {110 * kMs}, {130 * kMs}}, .prompt_tokens = 8},
      {.scheduled_ns = 50 * kMs, .sent_ns = 50 * kMs, .chunks = {{250 * kMs}}, .prompt_tokens = 4},
      {.scheduled_ns = 60 * kMs, .sent_ns = 60 * kMs, .prompt_tokens = 4, .failed = true},
  };
  const RunMetrics m = measure(log);
  EXPECT_THAT(m.ttft_ms, ElementsAre(100, 200));
  EXPECT_THAT(m.tpot_ms, ElementsAre(15));
  EXPECT_THAT(m.itl_ms, ElementsAre(10, 20));
  EXPECT_THAT(m.e2e_ms, ElementsAre(130, 200));
  EXPECT_DOUBLE_EQ(m.duration_s, 0.25);
  EXPECT_DOUBLE_EQ(m.output_tok_s, 4 / 0.25);
  EXPECT_DOUBLE_EQ(m.total_tok_s, 16 / 0.25);
  EXPECT_DOUBLE_EQ(m.requests_s, 2 / 0.25);
  EXPECT_EQ(m.failed, 1);
}

TEST(Metrics, OfNothingAreEmpty) {
  const RunMetrics m = measure({});
  EXPECT_THAT(m.ttft_ms, IsEmpty());
  EXPECT_DOUBLE_EQ(m.output_tok_s, 0);
}

}  // namespace
}  // namespace fourfold::load

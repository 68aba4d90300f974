#include "serve/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace fourfold::serve {
namespace {

using testing::HasSubstr;

TEST(Histogram, CountsAValueUpToEachBound) {
  constexpr double kBounds[] = {1, 2, 5};
  Histogram histogram(kBounds);
  for (const double value : {0.5, 1.0, 1.5, 5.0, 9.0}) histogram.observe(value);
  EXPECT_EQ(histogram.cumulative(0), 2);
  EXPECT_EQ(histogram.cumulative(1), 3);
  EXPECT_EQ(histogram.cumulative(2), 4);
  EXPECT_EQ(histogram.cumulative(3), 5);
  EXPECT_EQ(histogram.sum(), 17);
}

TEST(Metrics, AreWrittenAsPrometheusReadsThem) {
  Metrics metrics;
  metrics.observe_request(2, 100);
  metrics.observe_first_token(0.03, 7);
  metrics.observe_next_token(0.02);
  metrics.observe_finished({.ending = Ending::kLength,
                            .prompt_tokens = 7,
                            .output_tokens = 2,
                            .max_tokens = 100,
                            .e2e_s = 0.4,
                            .decode_s = 0.02});
  metrics.count_rejection(Rejection::kTokens);
  metrics.count_http("/v1/completions", "POST", 200);
  runtime::GroupStatus group;
  group.stats.steps_by_tokens[1] = 3;
  group.stats.tokens = 12;
  group.failures[static_cast<size_t>(runtime::FailureCause::kStopped)] = 2;
  group.restarts = 1;
  group.migrated = 9;
  group.detection_s = 6.5;
  group.recovery_s = 0.75;
  const std::string text =
      metrics.page({.model = "m", .groups = {group, {.failure = "dead"}}, .block_size = 16});
  for (const char* line :
       {"# TYPE vllm:time_to_first_token_seconds histogram\n",
        "vllm:time_to_first_token_seconds_bucket{engine=\"0\",le=\"0.02\",model_name=\"m\"} 0.0\n",
        "vllm:time_to_first_token_seconds_bucket{engine=\"0\",le=\"0.04\",model_name=\"m\"} 1.0\n",
        "vllm:time_to_first_token_seconds_bucket{engine=\"0\",le=\"1.0\",model_name=\"m\"} 1.0\n",
        "vllm:time_to_first_token_seconds_bucket{engine=\"0\",le=\"+Inf\",model_name=\"m\"} 1.0\n",
        "vllm:time_to_first_token_seconds_count{engine=\"0\",model_name=\"m\"} 1.0\n",
        "vllm:time_to_first_token_seconds_sum{engine=\"0\",model_name=\"m\"} 0.03\n",
        "vllm:prompt_tokens_total{engine=\"0\",model_name=\"m\"} 7.0\n",
        "vllm:generation_tokens_total{engine=\"0\",model_name=\"m\"} 2.0\n",
        "vllm:request_success_total{engine=\"0\",finished_reason=\"length\",model_name=\"m\"} "
        "1.0\n",
        "vllm:request_success_total{engine=\"0\",finished_reason=\"stop\",model_name=\"m\"} 0.0\n",
        "vllm:request_params_n_bucket{engine=\"0\",le=\"2.0\",model_name=\"m\"} 1.0\n",
        "vllm:request_time_per_output_token_seconds_sum{engine=\"0\",model_name=\"m\"} 0.02\n",
        "vllm:admission_rejections_total{model_name=\"m\",reason=\"max_num_queued_tokens\"} 1.0\n",
        "http_requests_total{handler=\"/v1/completions\",method=\"POST\",status=\"2xx\"} 1.0\n",
        "vllm:iteration_tokens_total_bucket{engine=\"0\",le=\"1.0\",model_name=\"m\"} 0.0\n",
        "vllm:iteration_tokens_total_bucket{engine=\"0\",le=\"8.0\",model_name=\"m\"} 3.0\n",
        "vllm:iteration_tokens_total_sum{engine=\"0\",model_name=\"m\"} 12.0\n",
        "vllm:iteration_tokens_total_count{engine=\"1\",model_name=\"m\"} 0.0\n",
        "fourfold:group_up{engine=\"0\",model_name=\"m\"} 1.0\n",
        "fourfold:group_failures_total{engine=\"0\",cause=\"stopped\",model_name=\"m\"} 2.0\n",
        "fourfold:group_failures_total{engine=\"0\",cause=\"killed\",model_name=\"m\"} 0.0\n",
        "fourfold:group_restarts_total{engine=\"0\",model_name=\"m\"} 1.0\n",
        "fourfold:sequences_migrated_total{engine=\"0\",model_name=\"m\"} 9.0\n",
        "fourfold:group_detection_seconds_total{engine=\"0\",model_name=\"m\"} 6.5\n",
        "fourfold:group_recovery_seconds_total{engine=\"0\",model_name=\"m\"} 0.75\n",
        "fourfold:group_up{engine=\"1\",model_name=\"m\"} 0.0\n"}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
}

/// Families of vLLM that stand here have its type and its buckets.
TEST(Metrics, HaveTheBucketsOfVllm) {
  const std::string text = Metrics().page({.model = "m", .groups = {{}}});
  const auto bounds = [&](const std::string& family) {
    std::string out;
    const std::string begin = "\n" + family + "_bucket{engine=\"0\",le=\"";
    for (size_t at = text.find(begin); at != text.npos; at = text.find(begin, at + 1)) {
      const size_t value = at + begin.size();
      out += text.substr(value, text.find('"', value) - value) + " ";
    }
    return out;
  };
  const std::string lengths = "1.0 2.0 5.0 10.0 20.0 50.0 100.0 200.0 500.0 1000.0 2000.0 +Inf ";
  const std::string gaps =
      "0.01 0.025 0.05 0.075 0.1 0.15 0.2 0.3 0.4 0.5 0.75 1.0 2.5 5.0 7.5 10.0 20.0 40.0 80.0 "
      "+Inf ";
  const std::string requests =
      "0.3 0.5 0.8 1.0 1.5 2.0 2.5 5.0 10.0 15.0 20.0 30.0 40.0 50.0 60.0 120.0 240.0 480.0 960.0 "
      "1920.0 7680.0 +Inf ";
  EXPECT_EQ(bounds("vllm:request_prompt_tokens"), lengths);
  EXPECT_EQ(bounds("vllm:request_generation_tokens"), lengths);
  EXPECT_EQ(bounds("vllm:request_max_num_generation_tokens"), lengths);
  EXPECT_EQ(bounds("vllm:request_params_max_tokens"), lengths);
  EXPECT_EQ(bounds("vllm:request_params_n"), "1.0 2.0 5.0 10.0 20.0 +Inf ");
  EXPECT_EQ(bounds("vllm:inter_token_latency_seconds"), gaps);
  EXPECT_EQ(bounds("vllm:request_time_per_output_token_seconds"), gaps);
  EXPECT_EQ(bounds("vllm:e2e_request_latency_seconds"), requests);
  EXPECT_EQ(bounds("vllm:request_decode_time_seconds"), requests);
  EXPECT_EQ(bounds("vllm:time_to_first_token_seconds"),
            "0.001 0.005 0.01 0.02 0.04 0.06 0.08 0.1 0.25 0.5 0.75 1.0 2.5 5.0 7.5 10.0 20.0 40.0 "
            "80.0 160.0 640.0 2560.0 +Inf ");
  EXPECT_EQ(bounds("vllm:iteration_tokens_total"),
            "1.0 8.0 16.0 32.0 64.0 128.0 256.0 512.0 1024.0 2048.0 4096.0 8192.0 16384.0 +Inf ");
}

TEST(Metrics, EscapeLabels) {
  const std::string text = Metrics().page({.model = "a\"\\\nb", .groups = {{}}});
  EXPECT_THAT(text, HasSubstr("model_name=\"a\\\"\\\\\\nb\""));
}

}  // namespace
}  // namespace fourfold::serve

// Our definitions against those of other clients, on one log (testdata, tools/make_load_golden.py)
// and on a result that vllm bench serve wrote itself.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "files/json.h"
#include "load/metrics.h"

namespace fourfold::load {
namespace {

using nlohmann::json;

json read(const std::string& path) {
  auto parsed = files::parse_json_file(path);
  EXPECT_TRUE(parsed.ok()) << parsed.error().message;
  return parsed.ok() ? std::move(parsed).value() : json();
}

const std::string kTestdata = std::string(FOURFOLD_SOURCE_DIR) + "/src/load/testdata/";

class GoldenLog : public testing::Test {
 protected:
  GoldenLog() : golden_(read(kTestdata + "request_log.golden.json")) {
    const json log = read(kTestdata + "request_log.json");
    std::vector<RequestLog> requests;
    for (const json& r : log.at("requests")) {
      RequestLog request{.scheduled_ns = r.at("sent_us").get<int64_t>() * 1000,
                         .sent_ns = r.at("sent_us").get<int64_t>() * 1000,
                         .prompt_tokens = r.at("prompt_tokens").get<int64_t>(),
                         .failed = r.at("failed").get<bool>()};
      for (const json& chunk : r.at("chunks")) {
        request.chunks.push_back(
            {.at_ns = chunk[0].get<int64_t>() * 1000, .tokens = chunk[1].get<int32_t>()});
      }
      requests.push_back(std::move(request));
    }
    const json& slo = log.at("slo_ms");
    ours_ = measure(requests, {.ttft_ms = slo.at("ttft").get<double>(),
                               .tpot_ms = slo.at("tpot").get<double>(),
                               .e2e_ms = slo.at("e2e").get<double>()});
    gpus_ = log.at("gpus").get<double>();
  }

  double golden(const char* pointer) const {
    return golden_.at(json::json_pointer(pointer)).get<double>();
  }
  void expect_statistics(const std::vector<double>& values, const char* pointer) const {
    const json& expected = golden_.at(json::json_pointer(pointer));
    EXPECT_NEAR(mean(values), expected.at("mean").get<double>(), 1e-9) << pointer;
    for (const auto& [name, p] : {std::pair("p50", 50.0), {"p90", 90.0}, {"p99", 99.0}}) {
      EXPECT_NEAR(percentile(values, p), expected.at(name).get<double>(), 1e-9) << pointer << name;
    }
  }

  json golden_;
  RunMetrics ours_;
  double gpus_ = 0;
};

TEST_F(GoldenLog, GivesTheNumbersOfVllm) {
  expect_statistics(ours_.ttft_ms, "/vllm/ttft_ms");
  expect_statistics(ours_.tpot_ms, "/vllm/tpot_ms");
  expect_statistics(ours_.itl_ms, "/vllm/itl_ms");
  expect_statistics(ours_.e2e_ms, "/vllm/e2el_ms");
  EXPECT_NEAR(ours_.duration_s, golden("/vllm/duration"), 1e-9);
  EXPECT_NEAR(ours_.requests_s, golden("/vllm/request_throughput"), 1e-9);
  EXPECT_NEAR(ours_.goodput_rps, golden("/vllm/request_goodput"), 1e-9);
  EXPECT_NEAR(ours_.output_tok_s, golden("/vllm/output_throughput"), 1e-9);
  EXPECT_NEAR(ours_.total_tok_s, golden("/vllm/total_token_throughput"), 1e-9);
  EXPECT_LT(ours_.goodput_rps, ours_.requests_s);
  EXPECT_EQ(ours_.failed, 2);
}

TEST_F(GoldenLog, GivesTheNumbersOfAiperfUnderOurNames) {
  EXPECT_NEAR(mean(ours_.tpot_ms), golden("/aiperf/inter_token_latency_ms"), 1e-9);
  EXPECT_NEAR(mean(ours_.itl_ms), golden("/aiperf/inter_chunk_latency_ms"), 1e-9);
  EXPECT_NEAR(mean(ours_.tok_s_user), golden("/aiperf/output_token_throughput_per_user"), 1e-9);
  EXPECT_NEAR(ours_.output_tok_s, golden("/aiperf/output_token_throughput"), 1e-9);
}

TEST_F(GoldenLog, GivesTheNumbersOfInferencexFromOurs) {
  EXPECT_NEAR(1e3 / mean(ours_.tpot_ms), golden("/inferencex/mean_intvty"), 1e-9);
  EXPECT_NEAR(1e3 / percentile(ours_.tpot_ms, 99), golden("/inferencex/p99_intvty"), 1e-9);
  EXPECT_NEAR(ours_.total_tok_s / gpus_, golden("/inferencex/tput_per_gpu"), 1e-9);
  EXPECT_NEAR(ours_.output_tok_s / gpus_, golden("/inferencex/output_tput_per_gpu"), 1e-9);
}

// If the log gave all of them the same numbers, it could not tell one definition from another.
TEST_F(GoldenLog, TellsTheDefinitionsApart) {
  const double tpot = golden("/vllm/tpot_ms/mean");
  EXPECT_GT(golden("/vllm/itl_ms/mean") / tpot, 1.1);
  EXPECT_GT(golden("/aiperf/inter_token_latency_per_chunk_usage_ms") / tpot, 1.02);
  EXPECT_GT(golden("/aiperf/output_token_throughput_per_user") / golden("/inferencex/mean_intvty"),
            1.1);
}

/// The sample is cut to five requests, but its summaries are of all twelve.
TEST(VllmSample, HasTheNumbersThatOurDefinitionsGive) {
  const std::filesystem::path path = std::filesystem::path(FOURFOLD_SOURCE_DIR) / ".." /
                                     "shared/peers/samples/vllm-bench-serve-result.json";
  if (!std::filesystem::exists(path))
    GTEST_SKIP() << "vLLM's own result file is not part of this project: " << path;
  const json sample = read(path);
  const auto number = [&](const char* key) { return sample.at(key).get<double>(); };
  std::vector<RequestLog> requests;
  std::vector<double> tpot_ms;
  for (size_t i = 0; i < sample.at("ttfts").size(); ++i) {
    const auto ns = [&](const char* key) {
      return std::llround(sample.at(key)[i].get<double>() * 1e9);
    };
    const auto tokens = sample.at("output_lens")[i].get<int32_t>();
    const int64_t sent_ns = ns("start_times");
    requests.push_back({.scheduled_ns = sent_ns,
                        .sent_ns = sent_ns,
                        .chunks = {{sent_ns + ns("ttfts"), 1}},
                        .prompt_tokens = sample.at("input_lens")[i].get<int64_t>()});
    requests.back().chunks.push_back({sent_ns + ns("latencies"), tokens - 1});
    tpot_ms.push_back(static_cast<double>(ns("latencies") - ns("ttfts")) * 1e-6 / (tokens - 1));
  }
  const RunMetrics ours = measure(requests);
  EXPECT_THAT(ours.tpot_ms, testing::Pointwise(testing::DoubleNear(1e-6), tpot_ms));
  EXPECT_NEAR(ours.ttft_ms[2], sample.at("ttfts")[2].get<double>() * 1e3, 1e-5);
  // Its own summaries obey our formulas: all requests have 64 tokens in chunks of one.
  EXPECT_NEAR((number("mean_e2el_ms") - number("mean_ttft_ms")) / 63, number("mean_tpot_ms"), 1e-6);
  EXPECT_NEAR(number("mean_itl_ms"), number("mean_tpot_ms"), 1e-6);
  EXPECT_DOUBLE_EQ(number("total_output_tokens") / number("duration"), number("output_throughput"));
  EXPECT_DOUBLE_EQ(
      (number("total_output_tokens") + number("total_input_tokens")) / number("duration"),
      number("total_token_throughput"));
  EXPECT_DOUBLE_EQ(number("completed") / number("duration"), number("request_throughput"));
}

}  // namespace
}  // namespace fourfold::load

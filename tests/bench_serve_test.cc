// `fourfold bench serve` against `fourfold serve`, both as programs.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>
#include <vector>

#include "files/json.h"
#include "files/scratch_folder.h"
#include "tests/support/command_line.h"
#include "tests/support/serve_process.h"

namespace fourfold::tests {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::Each;
using testing::HasSubstr;
using testing::SizeIs;

std::string url_of(ServeProcess& server) {
  return " --url http://127.0.0.1:" + std::to_string(server.port()) + " ";
}

double mean(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

TEST(BenchServe, HasVllmsKeysWithVllmsMeanings) {
  ServeProcess server({"tiny", "--port", "0"});
  const files::ScratchFolder folder;
  const std::string file = (folder.path() / "result.json").string();
  const Outcome out =
      run("bench serve" + url_of(server) +
          "--input-len 24 --output-len 8 --num-prompts 12 --concurrency 3 --json " + file);
  ASSERT_EQ(out.code, 0) << out.text;
  EXPECT_THAT(out.text, AllOf(HasSubstr("time to first token"), HasSubstr("3 at once")));
  const json result = files::parse_json_file(file).value();
  EXPECT_EQ(result.at("completed"), 12);
  EXPECT_EQ(result.at("failed"), 0);
  EXPECT_EQ(result.at("total_input_tokens"), 12 * 24);
  EXPECT_EQ(result.at("total_output_tokens"), 12 * 8);
  EXPECT_EQ(result.at("max_concurrency"), 3);
  EXPECT_EQ(result.at("model_id"), "tiny");
  EXPECT_THAT(result.at("output_lens").get<std::vector<int>>(), AllOf(SizeIs(12), Each(8)));
  // Recomputed from the requests, as vLLM computes them.
  const auto ttfts = result.at("ttfts").get<std::vector<double>>();
  const auto latencies = result.at("latencies").get<std::vector<double>>();
  const auto starts = result.at("start_times").get<std::vector<double>>();
  std::vector<double> gaps;
  std::vector<double> tpots;
  double end = 0;
  for (size_t i = 0; i < ttfts.size(); ++i) {
    const auto itls = result.at("itls").at(i).get<std::vector<double>>();
    gaps.insert(gaps.end(), itls.begin(), itls.end());
    EXPECT_NEAR(ttfts[i] + std::accumulate(itls.begin(), itls.end(), 0.0), latencies[i], 1e-6);
    tpots.push_back((latencies[i] - ttfts[i]) / 7);
    end = std::max(end, starts[i] + latencies[i]);
  }
  EXPECT_NEAR(result.at("mean_ttft_ms"), 1e3 * mean(ttfts), 1e-6);
  EXPECT_NEAR(result.at("mean_tpot_ms"), 1e3 * mean(tpots), 1e-6);
  EXPECT_NEAR(result.at("mean_itl_ms"), 1e3 * mean(gaps), 1e-6);
  EXPECT_NEAR(result.at("mean_e2el_ms"), 1e3 * mean(latencies), 1e-6);
  // From the start to the end of the last stream, which is behind its last token.
  const double duration = result.at("duration");
  EXPECT_GE(duration, end);
  EXPECT_NEAR(result.at("output_throughput").get<double>() * duration, 12 * 8, 1e-6);
  EXPECT_NEAR(result.at("request_throughput").get<double>() * duration, 12, 1e-6);
  EXPECT_LE(result.at("median_itl_ms"), result.at("p99_itl_ms"));
}

TEST(BenchServe, LastsAsLongAsItsArrivals) {
  ServeProcess server({"tiny", "--port", "0"});
  const files::ScratchFolder folder;
  const std::string file = (folder.path() / "result.json").string();
  const Outcome out = run("bench serve" + url_of(server) +
                          "--output-len 2 --num-prompts 10 --request-rate 20 --json " + file);
  ASSERT_EQ(out.code, 0) << out.text;
  EXPECT_GE(files::parse_json_file(file).value().at("duration"), 0.5);
}

TEST(BenchServe, CountsRequestsThatAServerTurnsAway) {
  ServeProcess server({"tiny", "--port", "0", "--max-num-queued-reqs", "1"});
  const Outcome out =
      run("bench serve tiny" + url_of(server) + "--input-len 200 --output-len 4 --num-prompts 40");
  EXPECT_EQ(out.code, 0) << out.text;
  EXPECT_THAT(out.text,
              HasSubstr("The first that failed: HTTP 503: too many requests wait already"));
}

TEST(BenchServe, SendsAKeyAndSaysWhatAServerRefuses) {
  const files::ScratchFolder folder;
  const std::string keys = folder.write("keys", "secret\n").string();
  ServeProcess server({"tiny", "--port", "0", "--api-key-file", keys});
  const std::string load = "bench serve" + url_of(server) + "--num-prompts 2 --output-len 2";
  EXPECT_EQ(run(load + " --api-key-file " + keys).code, 0);
  EXPECT_EQ(run(load, "OPENAI_API_KEY=secret").code, 0);
  const Outcome without = run(load);
  EXPECT_EQ(without.code, 1);
  EXPECT_THAT(without.text, HasSubstr("/v1/models: HTTP 401"));
  const Outcome too_long = run(load + " --input-len 2000", "OPENAI_API_KEY=secret");
  EXPECT_EQ(too_long.code, 1);
  EXPECT_THAT(too_long.text, HasSubstr("1024 tokens"));
}

TEST(BenchServe, RefusesWhatMakesNoSense) {
  EXPECT_EQ(run("bench serve --url nowhere").code, 2);
  EXPECT_EQ(run("bench serve --request-rate 1 --concurrency 2").code, 2);
  const Outcome nobody = run("bench serve --url http://127.0.0.1:1");
  EXPECT_EQ(nobody.code, 1);
  EXPECT_THAT(nobody.text, HasSubstr("cannot reach 127.0.0.1:1"));
}

}  // namespace
}  // namespace fourfold::tests

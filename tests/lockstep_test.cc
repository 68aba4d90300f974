// Replicas that share experts step together: one without work beside a busy one.

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include "tests/support/answers.h"
#include "tests/support/serve.h"

namespace fourfold::tests {
namespace {

constexpr int32_t kOutput = 1010;

class Lockstep : public testing::Test {
 protected:
  std::unique_ptr<runtime::Cluster> start(const std::string& scheme) {
    runtime::ClusterConfig config = thread_config(mesh::parse_scheme(scheme).value());
    config.model = "tiny-moe";
    config.block_size = 64;
    config.max_positions = 1024;
    config.max_running = 4;
    auto cluster = runtime::Cluster::start(config, [](const std::string&) {});
    EXPECT_TRUE(cluster.ok()) << cluster.error().message;
    return std::move(cluster).value();
  }

  static engine::Request request(engine::TokenId first, int32_t new_tokens) {
    engine::Request out;
    out.prompt.resize(10);
    std::iota(out.prompt.begin(), out.prompt.end(), first);
    out.max_new_tokens = new_tokens;
    out.ignore_eos = true;
    return out;
  }
};

TEST_F(Lockstep, AReplicaWithoutRowsServesABusyOneFor10000Steps) {
  constexpr int kRequests = 10;
  const auto alone = start("tp1");
  const auto pair = start("dp2ep2");
  for (int i = 0; i < kRequests; ++i) {
    const std::vector<engine::Request> one = {request(10 * i, kOutput)};
    ASSERT_EQ(serve(*pair, one).tokens, serve(*alone, one).tokens) << "request " << i;
  }
  const auto reports = pair->rank_reports().value();
  ASSERT_EQ(reports.size(), 2U);
  const runtime::RankStats& busy = reports[0].stats;
  const runtime::RankStats& idle = reports[1].stats;
  EXPECT_GE(busy.steps, 10'000);
  EXPECT_EQ(busy.zero_row_steps, 0);
  EXPECT_EQ(idle.steps, busy.steps);
  EXPECT_EQ(idle.zero_row_steps, idle.steps);
  EXPECT_EQ(idle.rows, 0);
  // It computed for the other one all the same.
  int64_t served = 0;
  for (const model::LayerExpertStats& layer : idle.experts.layers) {
    served += std::accumulate(layer.rows.begin(), layer.rows.end(), int64_t{0});
  }
  EXPECT_GT(served, 0);
}

TEST_F(Lockstep, AReplicaWithoutRowsFollowsTheNumericsOfTheOthers) {
  const auto cluster = start("tp2dp2ep4");
  cluster->set_numerics(base::Numerics::kFast);
  EXPECT_EQ(serve(*cluster, {request(10, 100)}).tokens[0].size(), 100U);
  for (const runtime::RankReport& rank : cluster->rank_reports().value()) {
    EXPECT_GT(rank.stats.steps, 0);
    EXPECT_EQ(rank.stats.fast_steps, rank.stats.steps) << "replica " << rank.replica;
  }
}

TEST_F(Lockstep, RequestsAreSpreadOverTheReplicasOfABlock) {
  const auto cluster = start("dp4ep4");
  std::vector<engine::Request> requests;
  for (int i = 0; i < 8; ++i) requests.push_back(request(10 * i, 20));
  serve(*cluster, requests);
  for (const runtime::RankReport& rank : cluster->rank_reports().value()) {
    // Two prompts of 10 tokens, and 19 tokens that come after the first one of each.
    EXPECT_EQ(rank.stats.rows, 2 * (10 + 19)) << "replica " << rank.replica;
  }
}

TEST_F(Lockstep, IndependentBlocksDoNotStepTogether) {
  const auto cluster = start("dp4ep2");
  serve(*cluster, {request(10, 50)});
  const auto reports = cluster->rank_reports().value();
  ASSERT_EQ(reports.size(), 4U);
  EXPECT_GE(reports[0].stats.steps, 50);
  EXPECT_EQ(reports[1].stats.steps, reports[0].stats.steps);
  EXPECT_EQ(reports[2].stats.steps, 0);
  EXPECT_EQ(reports[3].stats.steps, 0);
}

}  // namespace
}  // namespace fourfold::tests

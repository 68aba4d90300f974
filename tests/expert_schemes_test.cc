// A model with experts in every legal scheme of up to 8 ranks, with both exchanges: the bits of one
// device, under configurations that perturb everything a layout could lean on, and no row computed
// twice. Ranks are threads here; process_schemes_test.cc has processes.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "tests/support/answers.h"
#include "tests/support/perturbations.h"
#include "tests/support/serve.h"

namespace fourfold::tests {
namespace {

using model::ExchangeKind;

constexpr int kLayers = 4;  // the first one has no experts

runtime::ClusterConfig moe_config(const mesh::ParallelConfig& scheme) {
  runtime::ClusterConfig config = thread_config(scheme);
  config.model = "tiny-moe";
  return config;
}

std::unique_ptr<runtime::Cluster> start(const runtime::ClusterConfig& config) {
  auto cluster = runtime::Cluster::start(config, [](const std::string&) {});
  EXPECT_TRUE(cluster.ok()) << cluster.error().message;
  return cluster.ok() ? std::move(cluster).value() : nullptr;
}

const std::vector<verify::RequestAnswer>& one_device() {
  static const std::vector<verify::RequestAnswer> kAnswers = [] {
    const auto cluster = start(moe_config({}));
    std::vector<size_t> order(8);
    std::iota(order.begin(), order.end(), 0);
    return answers_of(*cluster, eight_requests(), order).requests;
  }();
  return kAnswers;
}

/// Every row was computed by top_k experts of each layer that has them.
void expect_no_work_twice(runtime::Cluster& cluster) {
  const auto reports = cluster.rank_reports();
  ASSERT_TRUE(reports.ok()) << reports.error().message;
  std::vector<int64_t> rows_of_stage(kLayers, 0);
  for (const runtime::RankReport& rank : *reports) {
    if (rank.at.shard == 0) rows_of_stage[static_cast<size_t>(rank.at.stage)] += rank.stats.rows;
  }
  std::vector<int64_t> rows_of_layer(kLayers, 0);
  std::vector<int> stage_of_layer(kLayers, 0);
  for (const runtime::RankReport& rank : *reports) {
    for (const model::LayerExpertStats& layer : rank.stats.experts.layers) {
      if (rank.expert_at.etp > 0) continue;  // the other shards of the same experts
      const auto index = static_cast<size_t>(layer.layer);
      stage_of_layer[index] = rank.at.stage;
      rows_of_layer[index] += std::accumulate(layer.rows.begin(), layer.rows.end(), int64_t{0});
    }
  }
  EXPECT_EQ(rows_of_layer[0], 0);
  for (size_t layer = 1; layer < rows_of_layer.size(); ++layer) {
    const int64_t rows = rows_of_stage[static_cast<size_t>(stage_of_layer[layer])];
    EXPECT_GT(rows, 0);
    EXPECT_EQ(rows_of_layer[layer], kTinyMoeTopK * rows) << "layer " << layer;
  }
}

void expect_answers_of_one_device(const runtime::ClusterConfig& config,
                                  const Perturbation& perturbation) {
  const auto cluster = start(config);
  ASSERT_NE(cluster, nullptr);
  Load load(config.scheme.dp, perturbation.requests_per_replica, one_device());
  if (perturbation.shuffled) {
    std::shuffle(load.order.begin(), load.order.end(), std::mt19937(11));
  }
  const Answers answers = answers_of(*cluster, load.requests, load.order);
  const verify::AnswerVerdict verdict = verify::compare(load.expected, answers.requests);
  EXPECT_TRUE(verdict.equal) << (verdict.first_difference ? verdict.first_difference->describe()
                                                          : std::string("tokens"));
  // At least 24 computed positions a request x (layers + embedding), and their logits.
  EXPECT_GE(verdict.compared_hashes, std::ssize(load.requests) * 24 * (kLayers + 1));
  perturbation.happened(answers, config);
  expect_no_work_twice(*cluster);
}

class ExpertSchemes : public testing::TestWithParam<size_t> {};

TEST_P(ExpertSchemes, AreBitEqualToOneDeviceWithBothExchanges) {
  for (const ExchangeKind exchange : {ExchangeKind::kGather, ExchangeKind::kAllToAll}) {
    for (const Perturbation& perturbation : perturbations()) {
      SCOPED_TRACE(fmt::format("{}, {}", model::name_of(exchange), perturbation.name));
      runtime::ClusterConfig config = moe_config(legal_schemes(8, kTinyMoeDivisors)[GetParam()]);
      config.expert_exchange = exchange;
      perturbation.apply(config);
      expect_answers_of_one_device(config, perturbation);
      if (HasFatalFailure()) return;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Moe, ExpertSchemes,
                         testing::Range(size_t{0}, legal_schemes(8, kTinyMoeDivisors).size()),
                         [](const auto& test) {
                           return mesh::scheme_name(legal_schemes(8, kTinyMoeDivisors)[test.param]);
                         });

TEST(ExpertSchemesTest, CoverEveryLegalScheme) {
  const size_t count = legal_schemes(8, kTinyMoeDivisors).size();
  fmt::print("{} legal schemes of up to 8 ranks for a model with 8 experts\n", count);
  // The rules once more, by brute force.
  size_t expected = 0;
  for (const int tp : {1, 2, 4, 8}) {
    for (int pp = 1; pp <= kLayers; ++pp) {
      for (int dp = 1; pp * dp * tp <= 8; ++dp) {
        for (const int ep : {1, 2, 4, 8}) {
          for (const int etp : {1, 2, 4, 8}) {
            const int block = ep * etp;
            const bool whole_replicas = block % tp == 0 && dp % (block / tp) == 0;
            if (tp % block == 0 || whole_replicas) ++expected;
          }
        }
      }
    }
  }
  EXPECT_EQ(count, expected);
}

TEST(ExpertPlacements, ShardsMayHoldDifferentNumbersOfExperts) {
  const std::vector<std::pair<std::string, mesh::ExpertPlacement>> placements = {
      {"dp3ep3", mesh::ExpertPlacement::listed({{7}, {0, 2, 4, 6, 1}, {5, 3}})},
      {"tp2ep2", mesh::ExpertPlacement::listed({{0, 1, 2, 3, 4, 5, 6}, {7}})},
      {"tp2dp2ep4", mesh::ExpertPlacement::round_robin()},
      {"dp6ep3etp2", mesh::ExpertPlacement::listed({{7, 0, 1}, {2, 4, 6}, {5, 3}})}};
  const Perturbation none{"none", [](runtime::ClusterConfig&) {},
                          [](const Answers&, const runtime::ClusterConfig&) {}};
  for (const auto& [scheme, placement] : placements) {
    for (const ExchangeKind exchange : {ExchangeKind::kGather, ExchangeKind::kAllToAll}) {
      SCOPED_TRACE(fmt::format("{}, {}", scheme, model::name_of(exchange)));
      runtime::ClusterConfig config = moe_config(mesh::parse_scheme(scheme).value());
      config.expert_placement = placement;
      config.expert_exchange = exchange;
      expect_answers_of_one_device(config, none);
    }
  }
}

TEST(ExpertMemory, FallsWithEpAsTheExpertsDo) {
  const runtime::ClusterConfig one = moe_config({});
  const auto source = model::open_model(one.model, true, 0).value();
  const auto ops = backend::make_ops("cpu", "").value();
  int64_t expert_bytes = 0;  // of one rank that holds all
  for (const model::Param& param : source.spec.params) {
    if (param.expert < 0) continue;
    expert_bytes +=
        ops->matrix_bytes(model::shard_of(source.spec, param, /*tp=*/1, /*shard=*/0).shape());
  }
  const auto weights = [&](const char* scheme) {
    runtime::ClusterConfig config = moe_config(mesh::parse_scheme(scheme).value());
    const auto limits = runtime::plan_limits(config, source.spec, *ops).value();
    std::vector<int64_t> out;
    for (const auto& m : runtime::plan_memory(config, source.spec, *ops, limits)) {
      out.push_back(m.weight_bytes);
    }
    return out;
  };
  const int64_t all = weights("dp2")[0];
  for (const int ep : {2, 4, 8}) {
    const std::vector<int64_t> ranks = weights(fmt::format("dp{}ep{}", ep, ep).c_str());
    EXPECT_EQ(std::ssize(ranks), ep);
    EXPECT_THAT(ranks, testing::Each(all - expert_bytes + expert_bytes / ep));
  }
}

TEST(ExpertMemory, EveryRankHoldsWhatWasPlanned) {
  for (const char* scheme : {"dp2ep2", "tp2dp2ep4", "tp2pp2ep2", "dp4ep2etp2"}) {
    for (const ExchangeKind exchange : {ExchangeKind::kAuto, ExchangeKind::kGather}) {
      SCOPED_TRACE(scheme);
      runtime::ClusterConfig config = moe_config(mesh::parse_scheme(scheme).value());
      config.expert_exchange = exchange;
      const auto source = model::open_model(config.model, true, 0).value();
      const auto ops = backend::make_ops("cpu", "").value();
      const auto cluster = start(config);
      ASSERT_NE(cluster, nullptr);
      const auto planned = runtime::plan_memory(config, source.spec, *ops, cluster->limits());
      const auto reports = cluster->rank_reports().value();
      ASSERT_EQ(reports.size() % planned.size(), 0U);
      for (size_t r = 0; r < reports.size(); ++r) {
        const runtime::RankMemory& plan = planned[r % planned.size()];
        EXPECT_EQ(reports[r].memory.weight_bytes, plan.weight_bytes);
        EXPECT_EQ(reports[r].memory.kv_bytes, plan.kv_bytes);
        EXPECT_EQ(reports[r].memory.activation_bytes, plan.activation_bytes);
      }
    }
  }
}

}  // namespace
}  // namespace fourfold::tests

// Schemes whose ranks are processes give the bits of one device: the same comparison as
// scheme_matrix_test.cc through workers, control channels and MPI.

#include <gtest/gtest.h>

#include <numeric>
#include <string>
#include <tuple>
#include <vector>

#include "tests/support/answers.h"

namespace fourfold::tests {
namespace {

std::vector<size_t> in_order() {
  std::vector<size_t> order(8);
  std::iota(order.begin(), order.end(), 0);
  return order;
}

const std::vector<verify::RequestAnswer>& one_device() {
  static const std::vector<verify::RequestAnswer> kAnswers = [] {
    auto cluster = runtime::Cluster::start(thread_config({}), [](const std::string&) {});
    return answers_of(*cluster.value(), eight_requests(), in_order()).requests;
  }();
  return kAnswers;
}

class ProcessScheme : public testing::TestWithParam<std::string> {};

TEST_P(ProcessScheme, IsBitEqualToOneDevice) {
  runtime::ClusterConfig config = thread_config(mesh::parse_scheme(GetParam()).value());
  config.ranks = runtime::RankMode::kProcesses;
  config.program = FOURFOLD_BINARY;
  auto cluster = runtime::Cluster::start(config, [](const std::string&) {});
  ASSERT_TRUE(cluster.ok()) << cluster.error().message;
  const Answers answers = answers_of(**cluster, eight_requests(), in_order());
  const verify::AnswerVerdict verdict = verify::compare(one_device(), answers.requests);
  EXPECT_TRUE(verdict.equal) << (verdict.first_difference ? verdict.first_difference->describe()
                                                          : std::string("tokens"));
  EXPECT_GE(verdict.compared_hashes, 8 * 24 * 9);
}

INSTANTIATE_TEST_SUITE_P(Tiny, ProcessScheme,
                         testing::Values("tp1", "tp2", "pp2", "dp2", "tp2pp2", "tp4", "pp3",
                                         "tp2dp2", "tp8", "tp4pp2", "tp2pp2dp2", "pp8", "dp8"),
                         [](const auto& test) { return test.param; });

runtime::ClusterConfig moe_config(const mesh::ParallelConfig& scheme) {
  runtime::ClusterConfig config = thread_config(scheme);
  config.model = "tiny-moe";
  return config;
}

class ExpertProcessScheme
    : public testing::TestWithParam<std::tuple<std::string, model::ExchangeKind>> {};

TEST_P(ExpertProcessScheme, IsBitEqualToOneDevice) {
  static const std::vector<verify::RequestAnswer> kOneDevice = [] {
    auto cluster = runtime::Cluster::start(moe_config({}), [](const std::string&) {});
    return answers_of(*cluster.value(), eight_requests(), in_order()).requests;
  }();
  const auto& [scheme, exchange] = GetParam();
  runtime::ClusterConfig config = moe_config(mesh::parse_scheme(scheme).value());
  config.ranks = runtime::RankMode::kProcesses;
  config.program = FOURFOLD_BINARY;
  config.expert_exchange = exchange;
  auto cluster = runtime::Cluster::start(config, [](const std::string&) {});
  ASSERT_TRUE(cluster.ok()) << cluster.error().message;
  const Answers answers = answers_of(**cluster, eight_requests(), in_order());
  const verify::AnswerVerdict verdict = verify::compare(kOneDevice, answers.requests);
  EXPECT_TRUE(verdict.equal) << (verdict.first_difference ? verdict.first_difference->describe()
                                                          : std::string("tokens"));
  EXPECT_GE(verdict.compared_hashes, 8 * 24 * 5);
}

std::string name_of_case(
    const testing::TestParamInfo<std::tuple<std::string, model::ExchangeKind>>& test) {
  return fmt::format("{}_{}", std::get<0>(test.param), model::name_of(std::get<1>(test.param)));
}

INSTANTIATE_TEST_SUITE_P(Moe, ExpertProcessScheme,
                         testing::Combine(testing::Values("tp2ep2", "dp2ep2", "tp4ep2", "tp2dp2ep4",
                                                          "tp2pp2ep2", "dp4ep2etp2"),
                                          testing::Values(model::ExchangeKind::kGather,
                                                          model::ExchangeKind::kAllToAll)),
                         name_of_case);
INSTANTIATE_TEST_SUITE_P(MoeAuto, ExpertProcessScheme,
                         testing::Combine(testing::Values("tp8ep8", "dp8ep8", "tp2dp4ep2",
                                                          "tp2pp2dp2ep4"),
                                          testing::Values(model::ExchangeKind::kAuto)),
                         name_of_case);

}  // namespace
}  // namespace fourfold::tests

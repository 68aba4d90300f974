// Every legal scheme of up to 8 ranks gives the bits of one device, under configurations that
// perturb everything a layout could lean on. Ranks are threads here; process_schemes_test.cc has
// processes.

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "tests/support/answers.h"
#include "tests/support/perturbations.h"

namespace fourfold::tests {
namespace {

const std::vector<verify::RequestAnswer>& one_device() {
  static const std::vector<verify::RequestAnswer> kAnswers = [] {
    auto cluster = runtime::Cluster::start(thread_config({}), [](const std::string&) {});
    std::vector<size_t> order(8);
    std::iota(order.begin(), order.end(), 0);
    return answers_of(*cluster.value(), eight_requests(), order).requests;
  }();
  return kAnswers;
}

class SchemeMatrix : public testing::TestWithParam<mesh::ParallelConfig> {};

TEST_P(SchemeMatrix, IsBitEqualToOneDeviceUnderEveryPerturbation) {
  for (const Perturbation& perturbation : perturbations()) {
    SCOPED_TRACE(perturbation.name);
    runtime::ClusterConfig config = thread_config(GetParam());
    perturbation.apply(config);
    auto cluster = runtime::Cluster::start(config, [](const std::string&) {});
    ASSERT_TRUE(cluster.ok()) << cluster.error().message;
    Load load(GetParam().dp, perturbation.requests_per_replica, one_device());
    if (perturbation.shuffled) {
      std::shuffle(load.order.begin(), load.order.end(), std::mt19937(11));
    }
    const Answers answers = answers_of(**cluster, load.requests, load.order);
    const verify::AnswerVerdict verdict = verify::compare(load.expected, answers.requests);
    EXPECT_TRUE(verdict.equal) << (verdict.first_difference ? verdict.first_difference->describe()
                                                            : std::string("tokens"));
    // At least 24 computed positions a request x (8 layers + embedding), and their logits.
    EXPECT_GE(verdict.compared_hashes, std::ssize(load.requests) * 24 * 9);
    perturbation.happened(answers, config);
  }
}

INSTANTIATE_TEST_SUITE_P(Tiny, SchemeMatrix, testing::ValuesIn(legal_schemes(8, kTinyDivisors)),
                         [](const auto& test) { return mesh::scheme_name(test.param); });

TEST(SchemeMatrixTest, CoversEveryLegalScheme) {
  // tp in 1, 2, 4, 8 and pp * dp up to 8 / tp: 20 + 8 + 3 + 1.
  EXPECT_EQ(legal_schemes(8, kTinyDivisors).size(), 32U);
}

}  // namespace
}  // namespace fourfold::tests

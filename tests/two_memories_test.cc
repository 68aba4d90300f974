// A backend whose memory is not the host's, without a GPU: operators of the CPU that say so. The
// decoder, collectives and experts take data there and back, and a rank alone runs ahead.

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>

#include "backend/ops.h"
#include "runtime/launch/thread_group.h"
#include "tests/support/answers.h"
#include "tests/support/forwarding_ops.h"

namespace fourfold::tests {
namespace {

class OtherMemory final : public ForwardingOps {
 public:
  explicit OtherMemory(std::shared_ptr<const backend::Ops> real) : ForwardingOps(std::move(real)) {}
  bool in_host_memory() const override { return false; }
};

struct Case {
  std::string model;
  std::string scheme;
};

class TwoMemories : public testing::TestWithParam<Case> {};

TEST_P(TwoMemories, GiveTheAnswersOfOne) {
  const mesh::ParallelConfig scheme = mesh::parse_scheme(GetParam().scheme).value();
  const std::shared_ptr<const backend::Ops> host = backend::make_ops("cpu", "").value();
  const auto source = model::open_model(GetParam().model, false, 0).value();
  const auto run = [&](const std::shared_ptr<const backend::Ops>& ops, int depth,
                       bool traced = true,
                       const std::vector<engine::Request>& requests = eight_requests()) {
    runtime::RankConfig config{
        .model = GetParam().model,
        .group = scheme,
        .limits = runtime::plan_limits(thread_config(scheme), source.spec, *host).value()};
    auto group = runtime::start_thread_group(
        config, [](const std::string&) {},
        [&](const runtime::RankConfig& rank, std::unique_ptr<comm::Communicator> comm) {
          auto worker = runtime::Worker::create(rank, ops, std::move(comm));
          EXPECT_EQ((*worker)->depth(), depth);
          return worker;
        });
    return answers_of(**group, requests, traced);
  };
  const bool alone = scheme.devices() == 1 && GetParam().model == "tiny";
  const auto other = std::make_shared<OtherMemory>(host);
  const auto expected = run(host, 1);
  const verify::AnswerVerdict verdict = verify::compare(expected, run(other, alone ? 2 : 1));
  EXPECT_TRUE(verdict.equal) << (verdict.first_difference ? verdict.first_difference->describe()
                                                          : std::string("tokens"));
  EXPECT_GT(verdict.compared_hashes, 0);

  // Without a trace a rank that is alone need not wait for the tokens of a step.
  for (const auto& untraced :
       {run(host, 1, /*traced=*/false), run(other, alone ? 2 : 1, /*traced=*/false)}) {
    ASSERT_EQ(untraced.size(), expected.size());
    for (size_t i = 0; i < expected.size(); ++i) {
      EXPECT_EQ(untraced[i].tokens, expected[i].tokens) << "request " << i;
    }
  }
  // With draws alone, greedy and not, it never waits for them.
  std::vector<engine::Request> drawn = eight_requests();
  drawn.resize(2);
  const auto ahead = run(other, alone ? 2 : 1, /*traced=*/false, drawn);
  for (size_t i = 0; i < drawn.size(); ++i) {
    EXPECT_EQ(ahead[i].tokens, expected[i].tokens) << "drawn request " << i;
  }
}

// Of twelve sequences three end early, one a step; the nine others decode in steps of ten rows.
// With eleven slots a step of eleven is full.
TEST(TwoMemories, RowsThatFillUpAStepChangeNoAnswer) {
  const std::shared_ptr<const backend::Ops> host = backend::make_ops("cpu", "").value();
  const auto other = std::make_shared<OtherMemory>(host);
  const auto source = model::open_model("tiny", false, 0).value();
  std::vector<engine::Request> requests = load::make_requests(load::synthetic_workload(
      {.input_len = 9, .output_len = 30, .conversations = 12, .vocab = 1019, .seed = 11}));
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].max_new_tokens = i < 9 ? 30 : static_cast<int32_t>(i);
    if (i % 2 == 1) requests[i].sampling = {.temperature = 1.0F, .top_p = 0.9F, .seed = 100 + i};
  }
  for (const int slots : {11, 12}) {
    for (const bool some_on_host : {false, true}) {
      SCOPED_TRACE(testing::Message() << slots << " slots" << (some_on_host ? ", host rows" : ""));
      requests[4].sampling.repetition_penalty = some_on_host ? 1.3F : 1.0F;
      const auto run = [&](const std::shared_ptr<const backend::Ops>& ops) {
        runtime::ClusterConfig cluster = thread_config({});
        cluster.max_running = slots;
        const runtime::RankConfig config{
            .model = "tiny", .limits = runtime::plan_limits(cluster, source.spec, *host).value()};
        auto group = runtime::start_thread_group(
            config, [](const std::string&) {},
            [&](const runtime::RankConfig& rank, std::unique_ptr<comm::Communicator> comm) {
              return runtime::Worker::create(rank, ops, std::move(comm));
            });
        return answers_of(**group, requests, /*traced=*/false);
      };
      const auto expected = run(host);
      const auto filled_up = run(other);
      for (size_t i = 0; i < requests.size(); ++i) {
        EXPECT_EQ(filled_up[i].tokens, expected[i].tokens) << "request " << i;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, TwoMemories,
                         testing::Values(Case{"tiny", "tp1"}, Case{"tiny", "tp4"},
                                         Case{"tiny", "tp2pp2"}, Case{"tiny-moe", "tp1"},
                                         Case{"tiny-moe", "tp4ep2"}, Case{"tiny-moe", "tp4ep4"}),
                         [](const auto& test) {
                           return (test.param.model == "tiny" ? "dense_" : "moe_") +
                                  test.param.scheme;
                         });

}  // namespace
}  // namespace fourfold::tests

#include "adapter/engine.h"

#include <gtest/gtest.h>

#include "adapter/server.h"

namespace fourfold::adapter {
namespace {

using Strings = std::vector<std::string>;

mesh::ParallelConfig scheme(const std::string& name) { return mesh::parse_scheme(name).value(); }

TEST(Engine, WritesASchemeInTheFlagsOfEachEngine) {
  EngineOptions options{.engine = Engine::kVllm, .model = "M", .args = {"--dtype", "bfloat16"}};
  EXPECT_EQ(serve_args(options, {.scheme = scheme("tp2pp2")}, 9),
            (Strings{"serve", "M", "--host", "127.0.0.1", "--port", "9", "--tensor-parallel-size",
                     "2", "--pipeline-parallel-size", "2", "--dtype", "bfloat16"}));
  options.engine = Engine::kSglang;
  options.args = {};
  EXPECT_EQ(serve_args(options, {.scheme = scheme("tp2dp2ep2")}, 9),
            (Strings{"serve", "--model-path", "M", "--host", "127.0.0.1", "--port", "9",
                     "--tp-size", "2", "--dp-size", "2", "--ep-size", "2"}));
}

TEST(Engine, GivesReplicasDevicesOfTheirOwn) {
  EngineOptions options{.engine = Engine::kVllm, .gpus = true};
  const auto plans = server_plans(options, scheme("tp2dp2"));
  ASSERT_EQ(plans.size(), 2U);
  EXPECT_EQ(environment(options, plans[0]), Strings{"CUDA_VISIBLE_DEVICES=0,1"});
  EXPECT_EQ(environment(options, plans[1]), Strings{"CUDA_VISIBLE_DEVICES=2,3"});
  options.dp_mode = DpMode::kEngine;
  const auto one = server_plans(options, scheme("tp2dp2"));
  ASSERT_EQ(one.size(), 1U);
  EXPECT_EQ(environment(options, one[0]), Strings{"CUDA_VISIBLE_DEVICES=0,1,2,3"});
}

TEST(Engine, BindsEachRankOfVllmToCores) {
  const EngineOptions options{.engine = Engine::kVllm, .cores = {4, 5, 6, 7}, .cpus_per_device = 2};
  EXPECT_EQ(environment(options, {.scheme = scheme("pp2")}),
            Strings{"VLLM_CPU_OMP_THREADS_BIND=4,5|6,7"});
}

TEST(Engine, SaysWhatAnEngineCannotRun) {
  EngineOptions options{.engine = Engine::kVllm};
  EXPECT_FALSE(cannot_run(options, scheme("tp2pp2dp2")));
  EXPECT_NE(cannot_run(options, scheme("tp2ep2")).value().find("first request"), std::string::npos);
  options.gpus = true;
  EXPECT_FALSE(cannot_run(options, scheme("tp2ep2")));
  EXPECT_NE(cannot_run(options, scheme("dp2ep2")).value().find("--dp-mode engine"),
            std::string::npos);
  options.engine = Engine::kFourfold;
  EXPECT_FALSE(cannot_run(options, scheme("dp2ep2")));
}

TEST(LastWords, AreTheLastErrorThatIsNotOnlyAPointerToOne) {
  EXPECT_EQ(last_words("INFO ready\n\x1b[31mValueError: 3 heads\x1b[0m\n"
                       "RuntimeError: Engine core failed. See root cause above.\n  ^^^^\n"),
            "ValueError: 3 heads");
  EXPECT_EQ(last_words("one\ntwo\n\n---\nthree\nfour\n"), "two / three / four");
  EXPECT_EQ(last_words("\n"), "");
}

}  // namespace
}  // namespace fourfold::adapter

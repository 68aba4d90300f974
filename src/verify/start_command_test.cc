#include "verify/start_command.h"

#include <gtest/gtest.h>

namespace fourfold::verify {
namespace {

VerifyOptions options() {
  VerifyOptions out;
  out.cluster.model = "m";
  return out;
}

TEST(StartCommand, NamesEveryAxis) {
  EXPECT_EQ(start_command(options(), {.pp = 2, .dp = 2, .tp = 4, .ep = 2, .etp = 4}),
            "fourfold generate 'm' 'YOUR PROMPT' -tp 4 -pp 2 -dp 2 -ep 2 -etp 4");
  VerifyOptions dummy = options();
  dummy.cluster.dummy_weights = true;
  dummy.cluster.dummy_routing = {.natural = false};
  dummy.cluster.expert_exchange = model::ExchangeKind::kGather;
  dummy.cluster.expert_placement = mesh::ExpertPlacement::round_robin();
  EXPECT_EQ(start_command(dummy, {.tp = 2, .ep = 2}),
            "fourfold verify 'm' --load-format dummy --schemes tp2ep2 --expert-placement "
            "round_robin --expert-exchange gather --dummy-routing uniform");
}

TEST(VllmCommand, SaysWhatVllmCannot) {
  const auto words = [](const mesh::ParallelConfig& scheme) {
    return vllm_command(options(), scheme, /*has_experts=*/true);
  };
  EXPECT_EQ(words({.tp = 2}), "vllm serve 'm' --tensor-parallel-size 2");
  EXPECT_EQ(words({.dp = 2, .tp = 2, .ep = 4}),
            "vllm serve 'm' --tensor-parallel-size 2 --data-parallel-size 2 "
            "--enable-expert-parallel");
  EXPECT_EQ(words({.dp = 2, .etp = 2}), "vllm serve 'm' --data-parallel-size 2");
  for (const mesh::ParallelConfig& scheme :
       {mesh::ParallelConfig{.dp = 2}, {.tp = 4, .ep = 2}, {.tp = 2, .etp = 1}}) {
    EXPECT_EQ(words(scheme), "(vLLM has no flags for these expert shards)");
  }
  VerifyOptions placed = options();
  placed.cluster.expert_placement = mesh::ExpertPlacement::round_robin();
  EXPECT_EQ(vllm_command(placed, {.tp = 2, .ep = 2}, /*has_experts=*/true),
            "vllm serve 'm' --tensor-parallel-size 2 --enable-expert-parallel "
            "--expert-placement-strategy round_robin");
  placed.cluster.expert_placement = mesh::ExpertPlacement::listed({{0, 1, 2}, {3}});
  EXPECT_EQ(vllm_command(placed, {.tp = 2, .ep = 2}, /*has_experts=*/true),
            "(vLLM has no flags for these expert shards)");
  EXPECT_EQ(vllm_command(options(), {.dp = 2}, /*has_experts=*/false),
            "vllm serve 'm' --data-parallel-size 2");
}

}  // namespace
}  // namespace fourfold::verify

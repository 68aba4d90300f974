#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "tests/support/answers.h"

namespace fourfold::tests {

/// One way to disturb a run, and the proof from its counters that it was disturbed.
struct Perturbation {
  std::string name;
  std::function<void(runtime::ClusterConfig&)> apply;
  std::function<void(const Answers&, const runtime::ClusterConfig&)> happened;
  int requests_per_replica = 4;
  bool shuffled = false;
};

inline std::vector<Perturbation> perturbations() {
  using Config = runtime::ClusterConfig;
  const auto preempted = [](const Answers& a, const Config&) { EXPECT_GT(a.stats.preemptions, 0); };
  const auto ran_ahead = [](const Answers& a, const Config&) {
    EXPECT_GT(a.stats.lookahead_rows, 0);
  };
  return {
      {"block_size_1", [](Config& c) { c.block_size = 1; },
       // One sequence alone fills a block for each of its positions but the last.
       [](const Answers& a, const Config&) { EXPECT_GE(a.stats.peak_blocks, 13 + 24 - 1); }},
      {"one_token_chunks",
       [](Config& c) {
         c.scheduler.chunk_tokens = 1;
         c.depth = c.scheme.pp + 1;
       },
       [](const Answers& a, const Config&) { EXPECT_GE(a.stats.max_prompt_chunks, 2); }},
      {"preempt_every_5", [](Config& c) { c.scheduler.preempt_every_k = 5; }, preempted},
      {"small_pool", [](Config& c) { c.kv_blocks = 12; }, preempted},
      {"prefix_cache_off", [](Config& c) { c.scheduler.prefix_cache = false; },
       [](const Answers& a, const Config&) {
         EXPECT_EQ(a.stats.hit_tokens, 0);
         EXPECT_GT(a.stats.forked_tokens, 0);
       }},
      {"one_at_a_time", [](Config& c) { c.max_running = 1; },
       [](const Answers& a, const Config&) {
         EXPECT_EQ(a.largest_batch, 1);
         EXPECT_GT(a.stats.hit_tokens, 0);
       },
       4, /*shuffled=*/true},
      {"batch_of_16",
       [](Config& c) {
         c.max_running = 16;
         c.block_size = 16;
       },
       // Decodes are spread over the stages.
       [](const Answers& a, const Config& c) { EXPECT_GE(a.largest_batch, 16 / c.scheme.pp); }, 16,
       /*shuffled=*/true},
      {"no_lookahead_depth_1",
       [](Config& c) {
         c.scheduler.lookahead = 0;
         c.depth = 1;
       },
       [](const Answers& a, const Config&) { EXPECT_EQ(a.stats.lookahead_rows, 0); }},
      {"deep_lookahead",
       [](Config& c) {
         c.depth = c.scheme.pp + 2;
         c.scheduler.lookahead = c.depth;
       },
       ran_ahead},
      {"two_threads", [](Config& c) { c.cpus_per_device = 2; }, ran_ahead},
  };
}

/// The eight requests, over and over until each replica has some.
struct Load {
  /// `answers`: of one device to the eight.
  Load(int replicas, int per_replica, const std::vector<verify::RequestAnswer>& answers) {
    const std::vector<engine::Request> eight = eight_requests();
    for (size_t i = 0; i < std::max<size_t>(8, static_cast<size_t>(per_replica * replicas)); ++i) {
      requests.push_back(eight[i % 8]);
      expected.push_back(answers[i % 8]);
      order.push_back(i);
    }
  }
  std::vector<engine::Request> requests;
  std::vector<verify::RequestAnswer> expected;
  std::vector<size_t> order;
};

}  // namespace fourfold::tests

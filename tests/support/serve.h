#pragma once

#include <gtest/gtest.h>

#include <condition_variable>
#include <map>
#include <mutex>
#include <vector>

#include "mesh/mesh.h"
#include "runtime/cluster.h"

namespace fourfold::tests {

inline constexpr mesh::ModelDivisors kTinyMoeDivisors{.layers = 4,
                                                      .heads = 8,
                                                      .kv_heads = 4,
                                                      .intermediate_granules = 8,
                                                      .experts = 8,
                                                      .expert_granules = 8};
inline constexpr int kTinyMoeTopK = 2;

struct Served {
  std::vector<std::vector<engine::TokenId>> tokens;  ///< of each request
  std::map<engine::SequenceId, size_t> request_of;
};

/// Sends all requests at once and waits for them.
inline Served serve(runtime::Cluster& cluster, const std::vector<engine::Request>& requests) {
  Served out{.tokens = std::vector<std::vector<engine::TokenId>>(requests.size()),
             .request_of = {}};
  std::mutex mutex;
  std::condition_variable ended;
  size_t open = requests.size();
  for (size_t i = 0; i < requests.size(); ++i) {
    engine::Request request = requests[i];
    request.id = cluster.next_id();
    out.request_of[request.id] = i;
    const base::Status status =
        cluster.submit(std::move(request), [&, i](const engine::SequenceEvent& event, int64_t) {
          const std::lock_guard lock(mutex);
          if (event.token) out.tokens[i].push_back(event.token->token);
          EXPECT_EQ(event.failure, "");
          if (event.finish && --open == 0) ended.notify_one();
        });
    EXPECT_TRUE(status.ok());
  }
  std::unique_lock lock(mutex);
  ended.wait(lock, [&] { return open == 0; });
  return out;
}

}  // namespace fourfold::tests

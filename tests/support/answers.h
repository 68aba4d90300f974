#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <future>
#include <map>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "base/philox.h"
#include "load/run.h"
#include "load/workload.h"
#include "mesh/mesh.h"
#include "runtime/cluster.h"
#include "verify/answers.h"

namespace fourfold::tests {

/// Every legal scheme of a model with at most `devices` ranks.
inline std::vector<mesh::ParallelConfig> legal_schemes(int devices,
                                                       const mesh::ModelDivisors& model) {
  std::vector<mesh::ParallelConfig> out;
  for (int n = 1; n <= devices; ++n) {
    for (const mesh::ParallelConfig& scheme : mesh::schemes(n, model)) {
      if (mesh::Mesh::create(scheme, model).ok()) out.push_back(scheme);
    }
  }
  return out;
}

inline constexpr mesh::ModelDivisors kTinyDivisors{
    .layers = 8, .heads = 8, .kv_heads = 4, .intermediate_granules = 11};

/// Eight requests of 24 tokens, greedy or with a seed, whose prompts of 14 to 20 tokens share their
/// first 12. Between them they use every sampling parameter; the last is a further choice of the
/// one before it.
inline std::vector<engine::Request> eight_requests() {
  std::vector<engine::Request> requests = load::make_requests(load::synthetic_workload(
      {.input_len = 20, .output_len = 24, .conversations = 8, .vocab = 1019, .seed = 7}));
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].prompt.resize(20 - i);
    std::copy_n(requests[0].prompt.begin(), 12, requests[i].prompt.begin());
    if (i % 2 == 1) {
      requests[i].sampling = {.temperature = 1.0F, .top_k = 50, .top_p = 0.9F, .seed = 100 + i};
    }
  }
  requests[2].sampling.repetition_penalty = 1.3F;
  requests[2].sampling.frequency_penalty = 0.5F;
  requests[3].sampling.presence_penalty = 1.0F;
  requests[3].sampling.min_p = 0.05F;
  requests[4].sampling.logit_bias = {{5, -100}, {17, 2.5F}};
  requests[5].sampling.repetition_penalty = 1.2F;
  requests[5].sampling.min_tokens = 12;
  requests[5].stop_tokens.resize(500);
  std::iota(requests[5].stop_tokens.begin(), requests[5].stop_tokens.end(), 0);
  requests[6].sampling = {.temperature = 1.0F, .frequency_penalty = 1.0F, .seed = 6};
  requests[7] = requests[6];
  requests[7].sampling.choice = 1;
  return requests;
}

/// A small cluster of `tiny` with ranks as threads, on the backend that FOURFOLD_TEST_BACKEND names
/// (default: cpu).
inline runtime::ClusterConfig thread_config(const mesh::ParallelConfig& scheme) {
  runtime::ClusterConfig config;
  config.model = "tiny";
  config.scheme = scheme;
  if (const char* backend = std::getenv("FOURFOLD_TEST_BACKEND")) config.backend = backend;
  config.ranks = runtime::RankMode::kThreads;
  config.block_size = 4;
  config.max_positions = 44;
  config.max_running = 8;
  config.scheduler.max_step_tokens = 64;
  return config;
}

struct Answers {
  std::vector<verify::RequestAnswer> requests;
  engine::SchedulerStats stats;
  int64_t largest_batch = 0;  ///< sequences of one step of one replica
};

/// Runs the requests in `order` (indices; all are outstanding at once) and collects their answers.
/// A choice above 0 goes with the request before it.
inline Answers answers_of(runtime::Cluster& cluster, const std::vector<engine::Request>& requests,
                          const std::vector<size_t>& order) {
  auto recorder = std::make_shared<verify::AnswerRecorder>(requests.size());
  auto largest_batch = std::make_shared<std::atomic<int64_t>>(0);
  // No engine ends its first step before all requests are there: how full batches get does not
  // depend on how busy the machine is.
  std::promise<void> sent;
  const std::shared_future<void> all_sent = sent.get_future().share();
  cluster.trace([=](const engine::StepRecord& record) {
    all_sent.wait();
    recorder->observe(record);
    int64_t largest = *largest_batch;
    while (std::ssize(record.chunks) > largest &&
           !largest_batch->compare_exchange_weak(largest, std::ssize(record.chunks))) {
    }
  });
  std::vector<engine::Request> ordered;
  for (const size_t i : order) ordered.push_back(requests[i]);
  size_t next = 0;
  std::vector<load::Sink> sinks(requests.size());
  const auto is_fork = [&](size_t i) {
    return i < requests.size() && requests[i].sampling.choice > 0;
  };
  const load::Submit submit = [&](engine::Request tagged, load::Sink sink) -> base::Status {
    const size_t index = order[next++];
    const bool is_last = next == order.size();
    sinks[index] = std::move(sink);
    const size_t first = is_fork(index) ? index - 1 : index;
    const size_t last = is_fork(first + 1) ? first + 1 : first;
    if (!sinks[first] || !sinks[last]) return {};  // the other one is to come
    tagged = requests[first];
    tagged.id = cluster.next_id();
    std::map<engine::SequenceId, size_t> index_of = {{tagged.id, first}};
    if (last > first) {
      tagged.forks = {cluster.next_id()};
      index_of[tagged.forks[0]] = last;
    }
    for (const auto& [id, i] : index_of) recorder->assign(id, i);
    base::Status status = cluster.submit(
        std::move(tagged),
        [recorder, index_of, sinks](const engine::SequenceEvent& event, int64_t now) {
          const size_t i = index_of.at(event.id);
          std::span<const engine::TokenId> tokens;
          if (event.token) {
            recorder->add_token(i, *event.token);
            tokens = {&event.token->token, 1};
          }
          sinks[i]({.tokens = tokens,
                    .finished = event.finish.has_value(),
                    .failure = event.failure,
                    .now_ns = now});
        });
    if (is_last || !status.ok()) sent.set_value();
    return status;
  };
  load::SteadyWaitableClock clock;
  const int concurrency = static_cast<int>(ordered.size());
  const auto run = load::run_load(load::explicit_workload(std::move(ordered)),
                                  {.concurrency = concurrency}, clock, submit);
  EXPECT_TRUE(run.ok()) << (run.ok() ? "" : run.error().message);
  cluster.trace(nullptr);
  return {recorder->take(), cluster.engine_stats().scheduler, *largest_batch};
}

/// The same on one group, driven by an engine in the calling thread. Without a trace there are
/// tokens only, and steps are those that users run.
inline std::vector<verify::RequestAnswer> answers_of(engine::Executor& executor,
                                                     const std::vector<engine::Request>& requests,
                                                     bool traced = true) {
  const base::SteadyClock clock;
  engine::Engine engine(executor, {}, clock);
  verify::AnswerRecorder recorder(requests.size());
  if (traced) engine.trace([&](const engine::StepRecord& record) { recorder.observe(record); });
  for (size_t i = 0; i < requests.size(); ++i) {
    engine::Request tagged = requests[i];
    tagged.id = engine::SequenceId(static_cast<int64_t>(i));
    recorder.assign(tagged.id, i);
    const base::Status added = engine.add(std::move(tagged));
    EXPECT_TRUE(added.ok()) << added.error().message;
  }
  while (engine.has_work()) {
    for (const engine::SequenceEvent& event : engine.run_once()) {
      if (event.token) {
        recorder.add_token(static_cast<size_t>(event.id.value), *event.token);
      }
      EXPECT_EQ(event.failure, "");
    }
  }
  return recorder.take();
}

}  // namespace fourfold::tests

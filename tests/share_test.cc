// A rank holds, reads and computes its share of a model and no more.

#include <gtest/gtest.h>

#include <numeric>
#include <string>
#include <vector>

#include "base/sizes.h"
#include "load/workload.h"
#include "model/source.h"
#include "tests/support/answers.h"

namespace fourfold::tests {
namespace {

constexpr int64_t kHidden = 128;
constexpr int64_t kHeadDim = 16;
constexpr int64_t kVocab = 1021;
constexpr int64_t kGranules = 11;  // of 32 columns: intermediate size 352

/// Parameters of one layer's matrices that one of `tp` shards may hold. What does not divide is
/// rounded up; key heads are held by several shards where tp exceeds them.
int64_t layer_share(int tp) {
  const int64_t heads = 8 / tp;
  const int64_t kv_heads = std::max(1, 4 / tp);
  const int64_t width = base::ceil_div(kGranules, tp) * 32;
  return kHidden * (2 * heads * kHeadDim + 2 * kv_heads * kHeadDim + 3 * width);
}

int64_t vocab_share(int tp) { return base::ceil_div(kVocab, tp) * kHidden; }

class Share : public testing::TestWithParam<mesh::ParallelConfig> {};

TEST_P(Share, OfBytesAndFlopsIsTheRanksOwn) {
  const mesh::ParallelConfig scheme = GetParam();
  auto cluster = runtime::Cluster::start(thread_config(scheme), [](const std::string&) {});
  ASSERT_TRUE(cluster.ok()) << cluster.error().message;
  std::vector<size_t> order(8);
  std::iota(order.begin(), order.end(), 0);
  answers_of(**cluster, eight_requests(), order);
  const auto reports = (*cluster)->rank_reports();
  ASSERT_TRUE(reports.ok());
  ASSERT_EQ(static_cast<int>(reports->size()), scheme.devices());

  const int most_layers = static_cast<int>(base::ceil_div(8, scheme.pp));
  for (const runtime::RankReport& r : *reports) {
    SCOPED_TRACE(fmt::format("stage {} shard {}", r.at.stage, r.at.shard));
    const bool has_vocab = r.at.stage == 0 || r.at.stage == scheme.pp - 1;
    const int64_t matrices =
        most_layers * layer_share(scheme.tp) + (has_vocab ? vocab_share(scheme.tp) : 0);
    // bf16, rows padded to 16 and reduction slices to 32 columns; norms are replicated in fp32.
    const int64_t norms = (2 * most_layers + 1) * kHidden * 4;
    const int64_t padding = most_layers * 2 * kHidden * 2 * 32 * (8 / scheme.tp) + 16 * kHidden * 2;
    EXPECT_LE(r.memory.weight_bytes, 2 * matrices + norms + padding);
    EXPECT_LE(r.memory.file_bytes_read, 2 * matrices + norms);
    EXPECT_GT(r.memory.file_bytes_read, 0);
    EXPECT_LE(r.stats.ops.matmul_flops, 2 * r.stats.rows * matrices);
    // A replica that got none of the requests has nothing to compute.
    EXPECT_EQ(r.stats.ops.matmul_flops > 0, r.stats.rows > 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Tiny, Share, testing::ValuesIn(legal_schemes(8, kTinyDivisors)),
                         [](const auto& test) { return mesh::scheme_name(test.param); });

runtime::ClusterConfig process_config(const std::string& model,
                                      const mesh::ParallelConfig& scheme) {
  runtime::ClusterConfig config;
  config.model = model;
  config.dummy_weights = true;
  config.scheme = scheme;
  config.max_positions = 516;
  config.max_running = 1;
  config.program = FOURFOLD_BINARY;
  return config;
}

/// What a rank process at its largest took and what was planned for it.
struct RankBytes {
  int64_t peak_rss = 0;
  int64_t planned = 0;
};

/// Of each rank, after a step of the largest size with the cache full.
std::vector<RankBytes> memory_of_ranks(const runtime::ClusterConfig& config, int64_t vocab) {
  auto cluster = runtime::Cluster::start(config, [](const std::string&) {});
  EXPECT_TRUE(cluster.ok()) << cluster.error().message;
  const std::vector<engine::Request> requests = load::make_requests(load::synthetic_workload(
      {.input_len = 512, .output_len = 4, .conversations = 1, .vocab = vocab, .seed = 1}));
  answers_of(**cluster, requests, {0});
  const auto reports = (*cluster)->rank_reports();
  EXPECT_TRUE(reports.ok());
  const auto source = model::open_model(config.model, true, 0);
  const auto ops = backend::make_ops(config.backend, config.isa);
  const std::vector<runtime::RankMemory> plan =
      runtime::plan_memory(config, source->spec, **ops, (*cluster)->limits());
  EXPECT_EQ(reports->size(), plan.size());
  std::vector<RankBytes> out;
  for (size_t r = 0; r < plan.size(); ++r) {
    out.push_back({.peak_rss = (*reports)[r].stats.peak_rss_bytes,
                   .planned = plan[r].weight_bytes + plan[r].kv_bytes + plan[r].activation_bytes});
  }
  return out;
}

class Planned : public testing::TestWithParam<mesh::ParallelConfig> {};

/// The program itself is measured with a model so small that nothing else counts.
TEST_P(Planned, MemoryOfAProcessIsWhatItTakesWithin5PerCent) {
  const std::vector<RankBytes> program = memory_of_ranks(process_config("tiny", GetParam()), 1021);
  const std::vector<RankBytes> ranks =
      memory_of_ranks(process_config("llama-1b", GetParam()), 32000);
  for (size_t r = 0; r < ranks.size(); ++r) {
    const int64_t base = program[r].peak_rss - program[r].planned;
    const double ratio =
        static_cast<double>(ranks[r].peak_rss - base) / static_cast<double>(ranks[r].planned);
    EXPECT_NEAR(ratio, 1.0, 0.05) << "rank " << r << ": " << ranks[r].peak_rss
                                  << " bytes, of which " << base << " are the program, "
                                  << ranks[r].planned << " planned";
  }
}

INSTANTIATE_TEST_SUITE_P(Processes, Planned,
                         testing::Values(mesh::ParallelConfig{},
                                         mesh::ParallelConfig{.pp = 1, .dp = 1, .tp = 2},
                                         mesh::ParallelConfig{.pp = 2, .dp = 1, .tp = 1}),
                         [](const auto& test) { return mesh::scheme_name(test.param); });

}  // namespace
}  // namespace fourfold::tests

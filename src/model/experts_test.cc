#include "model/experts.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "base/philox.h"
#include "comm/local/local_world.h"
#include "files/scratch_folder.h"
#include "model/source.h"

namespace fourfold::model {
namespace {

using tensor::DType;
using tensor::View;

constexpr int64_t kHidden = 32;
constexpr int64_t kTopK = 2;
constexpr int32_t kLayer = 0;

/// A model with made-up weights and 8 experts.
class ExpertsTest : public testing::Test {
 protected:
  ModelSource open(const DummyRouting& routing) const {
    return open_model(config_.parent_path().string(), /*dummy=*/true, 5, routing).value();
  }

  /// Sums of the experts for every row of each replica, as every one of its shards has them.
  std::vector<std::vector<float>> sums(const std::string& scheme, ExchangeKind exchange,
                                       const std::vector<int64_t>& replica_rows,
                                       const DummyRouting& routing = {}) {
    const ModelSource source = open(routing);
    const mesh::Mesh mesh =
        mesh::Mesh::create(mesh::parse_scheme(scheme).value(), source.spec.divisors()).value();
    comm::LocalWorld world(mesh.world_size());
    std::vector<std::vector<float>> out(static_cast<size_t>(mesh.world_size()));
    stats_.assign(out.size(), {});
    {
      std::vector<std::jthread> threads;
      for (int rank = 0; rank < mesh.world_size(); ++rank) {
        threads.emplace_back([&, rank] {
          RankGroups groups(mesh, world.communicator(rank));
          out[static_cast<size_t>(rank)] = run_rank(source, groups, exchange, replica_rows);
        });
      }
    }
    return out;
  }

  base::Numerics numerics_ = base::Numerics::kInvariant;
  std::vector<ExpertStats> stats_;

 private:
  std::vector<float> run_rank(const ModelSource& source, RankGroups& groups, ExchangeKind exchange,
                              const std::vector<int64_t>& replica_rows) {
    const auto replica = static_cast<size_t>(groups.coordinates().replica);
    const int64_t rows = replica_rows[replica];
    const auto stream = ops_->make_stream(1, {});
    stream->numerics = numerics_;
    const Weights weights =
        Weights::load(source, *ops_, *stream, share_of(groups.mesh(), groups.rank())).value();
    // No byte more than what was planned for the largest replica.
    const Experts::Plan plan =
        Experts::plan(source.spec, *ops_, groups.mesh(), exchange,
                      *std::max_element(replica_rows.begin(), replica_rows.end()));
    tensor::Arena arena(
        ops_->allocate(plan.arena_bytes + ops_->scratch_bytes(1, plan.limits)).value());
    tensor::Arena around(ops_->allocate(rows * kHidden * 12 + 256).value());
    const View values = around.allocate(DType::kF32, {rows, kHidden});
    for (int64_t i = 0; i < rows * kHidden; ++i) {
      const auto bits = base::philox(replica, {static_cast<uint32_t>(i), 0, 0, 0});
      values.f32()[i] = static_cast<float>(bits[0] >> 8) * 0x1p-23F - 1.0F;
    }
    const View x = around.allocate(ops_->activation_dtype(), {rows, kHidden});
    ops_->to_activation(*stream, values, x);
    const View out = around.allocate(DType::kF32, {rows, kHidden});
    Experts experts(source.spec, *ops_, groups, weights, exchange);
    experts.run(*stream, arena, kLayer, x, replica_rows, out);
    stream->synchronize();
    stats_[static_cast<size_t>(groups.rank())] = experts.stats();
    return {out.f32(), out.f32() + rows * kHidden};
  }

  files::ScratchFolder folder_;
  std::filesystem::path config_ = folder_.write("config.json", R"({
    "architectures": ["Qwen3MoeForCausalLM"],
    "hidden_size": 32, "intermediate_size": 256, "num_hidden_layers": 1,
    "num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 4,
    "vocab_size": 64, "max_position_embeddings": 64, "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0, "tie_word_embeddings": true,
    "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 256,
    "norm_topk_prob": true})");
  std::unique_ptr<backend::Ops> ops_ = backend::make_ops("cpu", "").value();
};

void expect_same_bits(const std::vector<float>& actual, const std::vector<float>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    ASSERT_EQ(std::bit_cast<uint32_t>(actual[i]), std::bit_cast<uint32_t>(expected[i])) << i;
  }
}

TEST_F(ExpertsTest, EveryLayoutAndExchangeGivesTheBitsOfOneRankInThePlannedMemory) {
  // Few rows, and so many that they go in pieces; spread, and all to the same experts.
  for (const int64_t rows : {1, 50, 2500}) {
    for (const DummyRouting& routing : {DummyRouting{}, DummyRouting{false, 30}}) {
      const std::vector<float> alone = sums("tp1", ExchangeKind::kAuto, {rows}, routing)[0];
      for (const char* scheme : {"tp2ep2", "tp2ep1etp2", "tp4ep2etp2", "tp4ep2etp1", "tp2",
                                 "dp2ep2", "dp2ep1etp2", "tp2dp2ep4", "tp2dp2ep2etp2", "dp4ep4"}) {
        for (const ExchangeKind exchange :
             {ExchangeKind::kAuto, ExchangeKind::kGather, ExchangeKind::kAllToAll}) {
          SCOPED_TRACE(fmt::format("{} rows, {}, {}", rows, scheme, name_of(exchange)));
          const mesh::ParallelConfig config = mesh::parse_scheme(scheme).value();
          // The first replica has the rows; of the others the last has none.
          std::vector<int64_t> replica_rows = {rows};
          for (int r = 1; r < config.dp; ++r) {
            replica_rows.push_back(r == config.dp - 1 ? 0 : rows / 2);
          }
          const auto all = sums(scheme, exchange, replica_rows, routing);
          for (int shard = 0; shard < config.tp; ++shard) {
            expect_same_bits(all[static_cast<size_t>(shard)], alone);
          }
          if (HasFatalFailure()) return;
          int64_t results = 0;
          for (size_t r = 0; r < stats_.size(); ++r) {
            const int etp = config.etp == 0
                                ? (config.tp % config.ep == 0 ? config.tp / config.ep : 1)
                                : config.etp;
            if (r % static_cast<size_t>(etp) != 0) continue;
            const std::vector<int64_t>& here = stats_[r].layers.at(0).rows;
            results += std::accumulate(here.begin(), here.end(), int64_t{0});
          }
          EXPECT_EQ(results,
                    kTopK * std::accumulate(replica_rows.begin(), replica_rows.end(), int64_t{0}));
        }
      }
    }
  }
}

TEST_F(ExpertsTest, FastNumericsDiffersByRoundingOnly) {
  const std::vector<float> exact = sums("tp1", ExchangeKind::kAuto, {100})[0];
  numerics_ = base::Numerics::kFast;
  for (const char* scheme : {"tp1", "tp2ep2", "tp2", "tp4ep2etp1", "tp4ep2", "dp2ep2"}) {
    SCOPED_TRACE(scheme);
    const mesh::ParallelConfig config = mesh::parse_scheme(scheme).value();
    const std::vector<float> actual = sums(
        scheme, ExchangeKind::kAuto, std::vector<int64_t>(static_cast<size_t>(config.dp), 100))[0];
    double error = 0;
    double norm = 0;
    for (size_t i = 0; i < exact.size(); ++i) {
      error += std::pow(double{actual[i]} - double{exact[i]}, 2);
      norm += std::pow(double{exact[i]}, 2);
    }
    EXPECT_GT(norm, 0);
    EXPECT_LE(error, 1e-4 * norm);
  }
}

TEST_F(ExpertsTest, CountsStepsAndTheExpertsThatHadRows) {
  sums("tp1", ExchangeKind::kAuto, {64});
  const LayerExpertStats& layer = stats_[0].layers.at(0);
  EXPECT_EQ(layer.layer, kLayer);
  EXPECT_EQ(layer.steps, 1);
  EXPECT_EQ(layer.distinct, 8 - std::count(layer.rows.begin(), layer.rows.end(), 0));
  EXPECT_GE(layer.distinct, 2);
  sums("dp2ep2", ExchangeKind::kAuto, {0, 0});
  EXPECT_EQ(stats_[0].layers.at(0).steps, 0);
}

}  // namespace
}  // namespace fourfold::model

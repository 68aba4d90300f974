// A comparison that cannot fail proves nothing. Here one shard of a scheme is broken in the ways
// that a layout could be wrong, and the comparison has to find each and name the layer.

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "backend/ops.h"
#include "runtime/launch/thread_group.h"
#include "tests/support/answers.h"
#include "tests/support/forwarding_ops.h"

namespace fourfold::tests {
namespace {

using backend::MatrixShape;
using backend::RowReader;
using tensor::View;

constexpr int kLayers = 8;
/// Matrices are loaded in the order embedding, then per layer Q, K, V, O, gate, up, down.
constexpr int kMatricesPerLayer = 7;
enum Matrix { kQuery = 0, kOutput = 3 };
constexpr int matrix_number(int layer, Matrix matrix) {
  return 1 + layer * kMatricesPerLayer + matrix;
}

/// Sums one matrix of a layer with its first slice border moved, which changes no value but the
/// order of a few additions.
class ReorderedAddition final : public ForwardingOps {
 public:
  ReorderedAddition(std::shared_ptr<const backend::Ops> real, int layer)
      : ForwardingOps(std::move(real)), target_(matrix_number(layer, kOutput)) {}
  base::Result<backend::WeightPtr> load_matrix(backend::Stream& s, const MatrixShape& shape,
                                               const RowReader& reader) const override {
    MatrixShape broken = shape;
    if (loaded_++ == target_) {
      EXPECT_GT(broken.slice_ends.size(), 1U);
      broken.slice_ends[0] = broken.slice_ends[1];
    }
    return real_->load_matrix(s, broken, reader);
  }

 private:
  int target_;
  mutable int loaded_ = 0;
};

/// Holds rows 0 and 1 of one matrix the wrong way round.
class SwappedRows final : public ForwardingOps {
 public:
  SwappedRows(std::shared_ptr<const backend::Ops> real, int layer)
      : ForwardingOps(std::move(real)), target_(matrix_number(layer, kQuery)) {}
  base::Result<backend::WeightPtr> load_matrix(backend::Stream& s, const MatrixShape& shape,
                                               const RowReader& reader) const override {
    if (loaded_++ != target_) return real_->load_matrix(s, shape, reader);
    RowReader swapped = reader;
    swapped.read = [&reader](int64_t row, std::span<float> out) {
      return reader.read(row < 2 ? 1 - row : row, out);
    };
    swapped.bf16 = nullptr;
    return real_->load_matrix(s, shape, swapped);
  }

 private:
  int target_;
  mutable int loaded_ = 0;
};

/// Reads one sequence's first KV block where its second belongs, in one layer.
class WrongBlock final : public ForwardingOps {
 public:
  WrongBlock(std::shared_ptr<const backend::Ops> real, int layer)
      : ForwardingOps(std::move(real)), layer_(layer) {}
  void attention(backend::Stream& s, tensor::Arena& arena, View queries,
                 const backend::RowLayout& rows, const backend::KvLayer& cache,
                 const AttentionParams& params, View out) const override {
    backend::RowLayout broken = rows;
    const View& tables = rows.block_tables;
    std::vector<int32_t> copy(tables.i32(), tables.i32() + tables.shape.elements());
    if (calls_++ % kLayers == layer_ && tables.shape[1] > 1) {
      copy[1] = copy[0];
      broken.block_tables.data = copy.data();
    }
    real_->attention(s, arena, queries, broken, cache, params, out);
  }

 private:
  int layer_;
  mutable int calls_ = 0;
};

template <typename Broken>
verify::AnswerVerdict verdict_with_broken_shard_1(int layer) {
  const runtime::ClusterConfig cluster = thread_config({.tp = 2});
  const std::shared_ptr<const backend::Ops> ops = backend::make_ops("cpu", "").value();
  const auto source = model::open_model("tiny", false, 0).value();
  const auto run = [&](bool broken) {
    const runtime::RankConfig config{
        .model = "tiny",
        .group = {.tp = 2},
        .limits = runtime::plan_limits(cluster, source.spec, *ops).value()};
    auto group = runtime::start_thread_group(
        config, [](const std::string&) {},
        [&](const runtime::RankConfig& rank, std::unique_ptr<comm::Communicator> comm) {
          std::shared_ptr<const backend::Ops> mine = ops;
          if (broken && comm->rank() == 1) mine = std::make_shared<Broken>(ops, layer);
          return runtime::Worker::create(rank, mine, std::move(comm));
        });
    return answers_of(**group, eight_requests());
  };
  return verify::compare(run(false), run(true));
}

TEST(FaultDetection, AnHonestShardIsEqual) {
  struct Honest : ForwardingOps {
    Honest(std::shared_ptr<const backend::Ops> real, int /*layer*/) : ForwardingOps(real) {}
  };
  EXPECT_TRUE(verdict_with_broken_shard_1<Honest>(0).equal);
}

TEST(FaultDetection, OneAdditionInAnotherOrderIsFoundInItsLayer) {
  const verify::AnswerVerdict verdict = verdict_with_broken_shard_1<ReorderedAddition>(3);
  EXPECT_FALSE(verdict.equal);
  ASSERT_TRUE(verdict.first_difference);
  EXPECT_EQ(verdict.first_difference->layer, 3) << verdict.first_difference->describe();
}

TEST(FaultDetection, TwoRowsOfOneShardSwappedAreFoundInTheirLayer) {
  const verify::AnswerVerdict verdict = verdict_with_broken_shard_1<SwappedRows>(2);
  EXPECT_FALSE(verdict.equal);
  ASSERT_TRUE(verdict.first_difference);
  EXPECT_EQ(verdict.first_difference->layer, 2) << verdict.first_difference->describe();
}

TEST(FaultDetection, OneWrongKvBlockIsFoundInItsLayer) {
  const verify::AnswerVerdict verdict = verdict_with_broken_shard_1<WrongBlock>(5);
  EXPECT_FALSE(verdict.equal);
  ASSERT_TRUE(verdict.first_difference);
  EXPECT_EQ(verdict.first_difference->layer, 5) << verdict.first_difference->describe();
  EXPECT_GE(verdict.first_difference->position, 4) << "the second block begins at position 4";
}

}  // namespace
}  // namespace fourfold::tests

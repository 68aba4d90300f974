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

/// Forwards to real operators; the three doors that a fault comes through are overridden below.
class ForwardingOps : public backend::Ops {
 public:
  explicit ForwardingOps(std::shared_ptr<const backend::Ops> real) : real_(std::move(real)) {}

  std::string_view name() const override { return real_->name(); }
  tensor::DType activation_dtype() const override { return real_->activation_dtype(); }
  tensor::DType kv_dtype() const override { return real_->kv_dtype(); }
  tensor::DType weight_dtype() const override { return real_->weight_dtype(); }
  base::Result<tensor::Buffer> allocate(int64_t bytes) const override {
    return real_->allocate(bytes);
  }
  bool in_host_memory() const override { return real_->in_host_memory(); }
  base::Result<tensor::Buffer> allocate_host(int64_t bytes) const override {
    return real_->allocate_host(bytes);
  }
  std::optional<int64_t> free_bytes() const override { return real_->free_bytes(); }
  void copy_in(backend::Stream& s, View from, View to) const override {
    real_->copy_in(s, from, to);
  }
  void copy_out(backend::Stream& s, View from, View to) const override {
    real_->copy_out(s, from, to);
  }
  void join_columns(backend::Stream& s, View parts, std::span<const int64_t> begins,
                    View out) const override {
    real_->join_columns(s, parts, begins, out);
  }
  void take_columns(backend::Stream& s, View x, int64_t begin, View out) const override {
    real_->take_columns(s, x, begin, out);
  }
  void resolve_tokens(backend::Stream& stream, View tokens, View ring) const override {
    real_->resolve_tokens(stream, tokens, ring);
  }
  void argmax_rows(backend::Stream& s, View x, View out) const override {
    real_->argmax_rows(s, x, out);
  }
  std::unique_ptr<backend::Stream> make_stream(int threads,
                                               std::span<const int> cpus) const override {
    return real_->make_stream(threads, cpus);
  }
  int64_t scratch_bytes(int threads, const Limits& limits) const override {
    return real_->scratch_bytes(threads, limits);
  }
  int64_t matrix_bytes(const MatrixShape& shape) const override {
    return real_->matrix_bytes(shape);
  }
  base::Result<backend::WeightPtr> load_matrix(backend::Stream& s, const MatrixShape& shape,
                                               const RowReader& reader) const override {
    return real_->load_matrix(s, shape, reader);
  }
  base::Result<backend::Peaks> measure_peaks(backend::Stream& s, double seconds,
                                             int sharers) const override {
    return real_->measure_peaks(s, seconds, sharers);
  }
  base::Result<backend::WeightPtr> load_vector(std::span<const float> values) const override {
    return real_->load_vector(values);
  }
  void embed(backend::Stream& s, const backend::Weight& table, View tokens, int64_t first,
             float scale, View out) const override {
    real_->embed(s, table, tokens, first, scale, out);
  }
  void rms_norm(backend::Stream& s, View x, const backend::Weight& gain, float eps,
                View out) const override {
    real_->rms_norm(s, x, gain, eps, out);
  }
  void matmul(backend::Stream& s, tensor::Arena& arena, View x,
              std::initializer_list<MatmulTarget> targets) const override {
    real_->matmul(s, arena, x, targets);
  }
  void grouped_matmul(backend::Stream& s, tensor::Arena& arena, View x,
                      std::span<const int32_t> ends,
                      std::initializer_list<GroupedTarget> targets) const override {
    real_->grouped_matmul(s, arena, x, ends, targets);
  }
  void route(backend::Stream& s, View logits, const backend::Weight* bias,
             const backend::Routing& routing, View experts, View weights) const override {
    real_->route(s, logits, bias, routing, experts, weights);
  }
  void combine_slots(backend::Stream& s, View y, View weights, View out) const override {
    real_->combine_slots(s, y, weights, out);
  }
  void to_activation(backend::Stream& s, View x, View out) const override {
    real_->to_activation(s, x, out);
  }
  void add_bias(backend::Stream& s, View x, const backend::Weight& bias) const override {
    real_->add_bias(s, x, bias);
  }
  void gate_rows(backend::Stream& s, View x, View gate) const override {
    real_->gate_rows(s, x, gate);
  }
  void add(backend::Stream& s, View x, View y) const override { real_->add(s, x, y); }
  void norm_rope(backend::Stream& s, View x, const backend::Weight* gain, float eps, View positions,
                 const backend::RopeTable& rope) const override {
    real_->norm_rope(s, x, gain, eps, positions, rope);
  }
  void kv_write(backend::Stream& s, View keys, View values, const backend::RowLayout& rows,
                const backend::KvLayer& cache) const override {
    real_->kv_write(s, keys, values, rows, cache);
  }
  void attention(backend::Stream& s, tensor::Arena& arena, View queries,
                 const backend::RowLayout& rows, const backend::KvLayer& cache,
                 const AttentionParams& params, View out) const override {
    real_->attention(s, arena, queries, rows, cache, params, out);
  }
  void gated_activation(backend::Stream& s, backend::Activation activation, View gate, View up,
                        View out) const override {
    real_->gated_activation(s, activation, gate, up, out);
  }
  void gather_rows(backend::Stream& s, View x, View indices, View out) const override {
    real_->gather_rows(s, x, indices, out);
  }
  void hash_rows(backend::Stream& s, View x, std::span<uint64_t> out) const override {
    real_->hash_rows(s, x, out);
  }

 protected:
  std::shared_ptr<const backend::Ops> real_;
};

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

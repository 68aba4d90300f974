// Operators that are made of others give their bits in invariant numerics, and nearly their values
// in fast; beside them, those that only move things.

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "backend/ops_test_support.h"

namespace fourfold::backend {
namespace {

using namespace testing;

class Composed : public ::testing::TestWithParam<std::string> {
 protected:
  /// Equal bits, or in fast numerics nearly equal.
  void expect_same(const std::vector<float>& got, const std::vector<float>& expected) const {
    if (GetParam().ends_with("/fast")) {
      EXPECT_LE(nmse(got, expected), 2e-5);
    } else {
      EXPECT_TRUE(same_bits(got, expected));
    }
  }
};

TEST_P(Composed, AddNormAddsAndNorms) {
  Device device(GetParam());
  for (const int64_t rows : {0, 1, 5}) {
    for (const int64_t width : {1, 64, 257, 640, 9000}) {
      SCOPED_TRACE(fmt::format("{} x {}", rows, width));
      const auto y = random_values(2, rows * width);
      const WeightPtr gain = device.ops->load_vector(random_values(3, width)).value();
      const Owned x(DType::kF32, {rows, width}, random_values(1, rows * width));
      const Owned apart(DType::kF32, {rows, width}, x.values());
      const Owned added(DType::kF32, {rows, width}, y);
      const Owned out(device.ops->activation_dtype(), {rows, width});
      const Owned expected(device.ops->activation_dtype(), {rows, width});
      device.ops->add_norm(*device.stream, x.view(), added.view(), *gain, 1e-5F, out.view());
      device.ops->add(*device.stream, apart.view(), added.view());
      device.ops->rms_norm(*device.stream, apart.view(), *gain, 1e-5F, expected.view());
      EXPECT_TRUE(same_bits(x.values(), apart.values()));
      EXPECT_TRUE(same_bits(out.values(), expected.values()));
    }
  }
}

TEST_P(Composed, RopeWriteRotatesAndWrites) {
  struct Shape {
    int64_t rows, heads, kv_heads, d;
  };
  for (const Shape& s :
       {Shape{3, 4, 2, 2}, Shape{3, 4, 2, 16}, Shape{3, 4, 2, 80}, Shape{3, 4, 2, 128},
        Shape{3, 4, 2, 256}, Shape{37, 32, 8, 128}, Shape{300, 7, 1, 64}}) {
    for (const bool norm : {false, true}) {
      SCOPED_TRACE(fmt::format("{} rows, {} and {} heads of {}, {}", s.rows, s.heads, s.kv_heads,
                               s.d, norm ? "normed" : "as they are"));
      constexpr int64_t kPositions = 8;
      constexpr int64_t kBlock = 4;
      constexpr int64_t kBlocksOfRow = kPositions / kBlock;
      Device device(GetParam());
      // Each row is a sequence of its own, whose blocks lie the other way round.
      std::vector<int32_t> at;
      std::vector<int32_t> of;
      std::vector<int32_t> table;
      for (int32_t row = 0; row < s.rows; ++row) {
        at.push_back((row * 5 + 7) % kPositions);
        of.push_back(row);
        table.insert(table.end(), {2 * row + 1, 2 * row});
      }
      const Owned positions(at);
      const Owned sequences(of);
      const Owned tables(DType::kI32, {s.rows, kBlocksOfRow});
      std::copy(table.begin(), table.end(), tables.view().i32());
      const RowLayout rows{positions.view(), sequences.view(), tables.view()};
      const int64_t half = s.d / 2;
      const Owned cos(DType::kF32, {kPositions, half}, random_values(5, kPositions * half));
      const Owned sin(DType::kF32, {kPositions, half}, random_values(6, kPositions * half));
      const WeightPtr query_gain = device.ops->load_vector(random_values(7, s.d)).value();
      const WeightPtr key_gain = device.ops->load_vector(random_values(8, s.d)).value();
      const Ops::HeadGains gains{norm ? query_gain.get() : nullptr,
                                 norm ? key_gain.get() : nullptr};
      struct Heads {
        Owned q, k, v, keys, values;
      };
      const int64_t blocks = s.rows * kBlocksOfRow;
      const auto inputs = [&]() -> Heads {
        const int64_t cached = blocks * s.kv_heads * kBlock * s.d;
        const std::vector<float> empty(static_cast<size_t>(cached), 0.5F);
        const auto heads = [&](uint64_t seed, int64_t count) {
          return Owned(DType::kF32, {s.rows, count, s.d},
                       random_values(seed, s.rows * count * s.d));
        };
        return {heads(1, s.heads), heads(2, s.kv_heads), heads(3, s.kv_heads),
                Owned(device.ops->kv_dtype(), {cached}, empty),
                Owned(device.ops->kv_dtype(), {cached}, empty)};
      };
      const Heads a = inputs();
      const Heads b = inputs();
      const auto cache_of = [&](const Heads& h) {
        return KvLayer{h.keys.view().data, h.values.view().data, blocks, s.kv_heads, kBlock, s.d};
      };
      const RopeTable rope{cos.view(), sin.view()};
      device.ops->rope_write(*device.stream, a.q.view(), a.k.view(), a.v.view(), gains, 1e-6F, rope,
                             rows, cache_of(a));
      device.ops->norm_rope(*device.stream, b.q.view(), gains.queries, 1e-6F, positions.view(),
                            rope);
      device.ops->norm_rope(*device.stream, b.k.view(), gains.keys, 1e-6F, positions.view(), rope);
      device.ops->kv_write(*device.stream, b.k.view(), b.v.view(), rows, cache_of(b));
      EXPECT_TRUE(same_bits(a.q.values(), b.q.values()));
      EXPECT_TRUE(same_bits(a.keys.values(), b.keys.values()));
      EXPECT_TRUE(same_bits(a.values.values(), b.values.values()));
    }
  }
}

TEST_P(Composed, GatedMatmulMultipliesAndGates) {
  for (const int64_t rows : {0, 1, 3, 8, 9, 17, 32, 33, 70}) {
    for (const auto& [n, k] :
         {std::pair<int64_t, int64_t>{5, 30}, {48, 64}, {200, 352}, {600, 712}}) {
      for (const Activation activation : {Activation::kSilu, Activation::kGeluTanh}) {
        SCOPED_TRACE(fmt::format("{} rows, [{}, {}]", rows, n, k));
        Device device(GetParam(), 2, {.rows = rows, .columns = k});
        Arena arena(device.ops->allocate((1 << 20) + device.arena.capacity_bytes()).value());
        const WeightPtr gate = load(device, Matrix::random(1, n, k), {k});
        const WeightPtr up = load(device, Matrix::random(2, n, k), {k});
        const Owned x(device.ops->activation_dtype(), {rows, k}, random_values(3, rows * k));
        const Owned out(device.ops->activation_dtype(), {rows, n});
        const Owned expected(device.ops->activation_dtype(), {rows, n});
        const Owned gates(DType::kF32, {rows, n});
        const Owned ups(DType::kF32, {rows, n});
        device.ops->gated_matmul(*device.stream, arena, x.view(), *gate, *up, activation,
                                 out.view());
        device.ops->matmul(*device.stream, arena, x.view(),
                           {{*gate, gates.view()}, {*up, ups.view()}});
        device.ops->gated_activation(*device.stream, activation, gates.view(), ups.view(),
                                     expected.view());
        expect_same(out.values(), expected.values());
      }
    }
  }
}

// Where a backend takes neighbours as one matrix, nothing else may change.
TEST_P(Composed, MatricesLoadedTogetherMultiplyAsAlone) {
  for (const int64_t rows : {1, 9, 40, 513}) {
    SCOPED_TRACE(rows);
    constexpr int64_t kK = 96;
    const std::vector<Matrix> matrices = {Matrix::random(1, 64, kK), Matrix::random(2, 24, kK),
                                          Matrix::random(3, 24, kK)};
    Device device(GetParam(), 2, {.rows = rows, .columns = kK});
    Arena arena(device.ops->allocate((4 << 20) + device.arena.capacity_bytes()).value());
    std::vector<MatrixSource> sources;
    std::vector<WeightPtr> alone;
    std::vector<Owned> outs;
    std::vector<Owned> expected;
    for (const Matrix& matrix : matrices) {
      const auto read = [&matrix](int64_t row, std::span<float> out) {
        std::copy_n(matrix.values.begin() + row * kK, kK, out.begin());
        return base::Status();
      };
      sources.push_back({{matrix.rows, kK, {kK}}, [read] { return RowReader{.read = read}; }});
      alone.push_back(load(device, matrix, {kK}));
      outs.emplace_back(DType::kF32, tensor::Shape{rows, matrix.rows});
      expected.emplace_back(DType::kF32, tensor::Shape{rows, matrix.rows});
    }
    const std::vector<WeightPtr> together =
        device.ops->load_matrices(*device.stream, sources).value();
    const Owned x(device.ops->activation_dtype(), {rows, kK}, random_values(4, rows * kK));
    device.ops->matmul(*device.stream, arena, x.view(),
                       {{*together[0], outs[0].view()},
                        {*together[1], outs[1].view()},
                        {*together[2], outs[2].view()}});
    const Owned gated(device.ops->activation_dtype(), {rows, 24});
    const Owned gated_alone(device.ops->activation_dtype(), {rows, 24});
    device.ops->gated_matmul(*device.stream, arena, x.view(), *together[1], *together[2],
                             Activation::kSilu, gated.view());
    device.ops->gated_matmul(*device.stream, arena, x.view(), *alone[1], *alone[2],
                             Activation::kSilu, gated_alone.view());
    for (size_t i = 0; i < alone.size(); ++i) {
      device.ops->matmul(*device.stream, arena, x.view(), {{*alone[i], expected[i].view()}});
      expect_same(outs[i].values(), expected[i].values());
    }
    expect_same(gated.values(), gated_alone.values());
  }
}

TEST_P(Composed, ColumnsOfAllShardsStandBesideEachOther) {
  Device device(GetParam());
  const Owned parts(DType::kF32, {3, 2, 4}, random_values(1, 24));
  const Owned out(DType::kF32, {2, 10});
  device.ops->join_columns(*device.stream, parts.view(), std::vector<int64_t>{0, 4, 8}, out.view());
  const Owned part(DType::kF32, {2, 4});
  for (int64_t p = 0; p < 3; ++p) {
    device.ops->take_columns(*device.stream, out.view(), 4 * p, part.view());
    for (int64_t i = 0; i < 8; ++i) {
      const bool past = p == 2 && i % 4 >= 2;
      EXPECT_EQ(part.values()[static_cast<size_t>(i)],
                past ? 0.0F : parts.values()[static_cast<size_t>(8 * p + i)]);
    }
  }
}

TEST_P(Composed, GreedyDrawsTakeTheLowestOfTheLargestAndLeaveNansOut) {
  Device device(GetParam());
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> values(5 * 3000, -1.0F);
  const auto at = [&](int64_t row, int64_t i) -> float& {
    return values[static_cast<size_t>(row * 3000 + i)];
  };
  at(0, 2999) = at(0, 1500) = 3;
  std::fill_n(values.begin() + 3000, 3000, -kInfinity);
  std::fill_n(values.begin() + 6000, 3000, kNan);
  std::fill_n(values.begin() + 9000, 3000, kNan);
  at(3, 77) = -5;
  at(4, 40) = kInfinity;
  at(4, 30) = kNan;
  const Owned x(DType::kF32, {5, 3000}, values);
  const Owned out(DType::kI32, {5});
  const Owned draws(std::vector<int32_t>(5 * kDrawWords));  // temperature 0
  device.ops->draw_rows(*device.stream, x.view(), draws.view().reshape({5, kDrawWords}),
                        out.view());
  const std::vector<int32_t> got(out.view().i32(), out.view().i32() + 5);
  EXPECT_EQ(got, (std::vector<int32_t>{1500, 0, 0, 77, 40}));
}

TEST_P(Composed, TokensThatAreNamedComeFromTheRing) {
  Device device(GetParam());
  const Owned tokens(std::vector<int32_t>{5, -1, -4, 0});
  device.ops->resolve_tokens(*device.stream, tokens.view(),
                             Owned(std::vector<int32_t>{10, 11, 12, 13}).view());
  const std::vector<int32_t> got(tokens.view().i32(), tokens.view().i32() + 4);
  EXPECT_EQ(got, (std::vector<int32_t>{5, 10, 13, 0}));
}

INSTANTIATE_TEST_SUITE_P(Backends, Composed, ::testing::ValuesIn(backends_in_both_numerics()),
                         name_of_backend);

TEST(RowTiles, AreRunsOfASequenceShortOnesFirst) {
  std::vector<int32_t> sequences = {4, 7, 7};
  sequences.insert(sequences.end(), kTileRows + 4, 2);
  sequences.push_back(3);
  const RowTiles tiles = tiles_of(sequences);
  EXPECT_EQ(tiles.single, 2);
  EXPECT_EQ(tiles.entries, (std::vector<int32_t>{0, 1, 135, 1, 1, 2, 3, 128, 131, 4}));
  EXPECT_TRUE(tiles_of({}).entries.empty());
}

}  // namespace
}  // namespace fourfold::backend

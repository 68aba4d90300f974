#include "comm/wire.h"

#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "comm/tree_sum.h"

namespace fourfold::comm {
namespace {

std::vector<float> after_travel(Wire wire, const std::vector<float>& values) {
  const auto n = static_cast<int64_t>(values.size());
  std::vector<std::byte> bytes(static_cast<size_t>(n * bytes_of(wire)));
  std::vector<float> out(values.size());
  to_wire(wire, values.data(), bytes.data(), n);
  from_wire(wire, bytes.data(), out.data(), n);
  return out;
}

TEST(Wire, Bf16RoundsToNearestWithTiesToEven) {
  const std::vector<float> values{1.0F,
                                  0x1.01p0F,
                                  0x1.03p0F,
                                  0x1.0101p0F,
                                  -0x1.03p0F,
                                  -0.0F,
                                  std::numeric_limits<float>::max()};
  const std::vector<float> expected{
      1.0F, 1.0F, 0x1.04p0F, 0x1.02p0F, -0x1.04p0F, -0.0F, std::numeric_limits<float>::infinity()};
  const std::vector<float> got = after_travel(Wire::kBF16, values);
  for (size_t i = 0; i < values.size(); ++i) {
    EXPECT_EQ(std::bit_cast<uint32_t>(got[i]), std::bit_cast<uint32_t>(expected[i])) << i;
  }
}

// Lengths around the width of a vector, so that no variant forgets or mistakes its tail.
TEST(Wire, ANanStaysOneWhereverItStands) {
  for (size_t n = 1; n <= 70; ++n) {
    std::vector<float> values(n, 1.5F);
    values[n - 1] = std::bit_cast<float>(0x7fffffffU);
    const std::vector<float> got = after_travel(Wire::kBF16, values);
    for (size_t i = 0; i + 1 < n; ++i) EXPECT_EQ(got[i], 1.5F);
    EXPECT_TRUE(std::isnan(got[n - 1])) << n;
  }
}

TEST(Wire, F32TravelsAsItIs) {
  const std::vector<float> values{0x1.234568p3F, -0.0F, 0x1p-149F};
  const std::vector<float> got = after_travel(Wire::kF32, values);
  for (size_t i = 0; i < values.size(); ++i) {
    EXPECT_EQ(std::bit_cast<uint32_t>(got[i]), std::bit_cast<uint32_t>(values[i]));
  }
}

TEST(TreeSum, AddsAnyNumberOfParts) {
  for (size_t parts = 1; parts <= 65; ++parts) {
    std::vector<std::array<float, 3>> values(parts);
    std::vector<const float*> pointers;
    for (size_t p = 0; p < parts; ++p) {
      values[p] = {static_cast<float>(p), 1.0F, -static_cast<float>(p * p)};
      pointers.push_back(values[p].data());
    }
    std::array<float, 3> sum{};
    tree_sum(pointers, sum.data(), 3);
    const auto n = static_cast<float>(parts);
    EXPECT_EQ(sum[0], n * (n - 1) / 2);
    EXPECT_EQ(sum[1], n);
    EXPECT_EQ(sum[2], -(n - 1) * n * (2 * n - 1) / 6);
  }
}

}  // namespace
}  // namespace fourfold::comm

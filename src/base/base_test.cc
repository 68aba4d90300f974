#include <gtest/gtest.h>

#include <limits>

#include "base/check.h"
#include "base/philox.h"
#include "base/result.h"
#include "base/sizes.h"

namespace fourfold::base {
namespace {

Result<int> half(int x) {
  if (x % 2 != 0) return fail("{} is odd", x);
  return x / 2;
}

Result<int> quarter(int x) {
  FF_ASSIGN(const int h, half(x));
  return half(h);
}

TEST(Result, CarriesTheFirstErrorThroughCallers) {
  EXPECT_EQ(quarter(8).value(), 2);
  EXPECT_EQ(quarter(6).error().message, "3 is odd");
  EXPECT_EQ(quarter(7).error().message, "7 is odd");
}

TEST(CheckDeathTest, NamesConditionValuesAndContext) {
  EXPECT_DEATH(
      {
        set_check_context("rank 3, step 17");
        CHECK(1 == 2, "one is {}", 1);
      },
      "CHECK\\(1 == 2\\) failed: one is 1 at rank 3, step 17");
}

// Known answers of the authors' Random123 distribution (kat_vectors, philox4x32-10).
TEST(Philox, MatchesTheKnownAnswers) {
  EXPECT_EQ(philox(0, {0, 0, 0, 0}),
            (std::array<uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox(0xffffffffffffffff, {0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}),
            (std::array<uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox(0x299f31d0a4093822, {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}),
            (std::array<uint32_t, 4>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Sizes, RefuseOverflow) {
  EXPECT_TRUE(checked_mul(1 << 20, 1 << 20, "x").ok());
  EXPECT_FALSE(checked_mul(std::numeric_limits<int64_t>::max(), 2, "x").ok());
  EXPECT_FALSE(checked_mul(-1, 2, "x").ok());
  EXPECT_FALSE(checked_add(std::numeric_limits<int64_t>::max(), 1, "x").ok());
}

}  // namespace
}  // namespace fourfold::base

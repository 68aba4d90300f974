#include "model/step_inputs.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

namespace fourfold::model {
namespace {

TEST(StepPacker, KeepsTheFieldsOfSoManyStepsAndListsTheirTiles) {
  const auto ops = backend::make_ops("reference", "").value();
  const auto stream = ops->make_stream(1, {});
  StepPacker packer = StepPacker::create(*ops, {.rows = 4, .entries = 8}, /*steps=*/2).value();
  std::vector<StepInputs> steps;
  for (int32_t step = 0; step < 2; ++step) {
    const StepPacker::Fields in = packer.begin(4, 3, 2, 1);
    std::fill_n(in.positions.i32(), 4, 10 + step);
    std::copy_n(std::vector<int32_t>{0, 1, 1, 2}.begin(), 4, in.sequences.i32());
    std::fill_n(in.block_tables.i32(), 6, 20 + step);
    std::fill_n(in.tokens.i32(), 4, 30 + step);
    in.sampled.i32()[0] = 3;
    std::fill_n(in.draws.i32(), backend::kDrawWords, 40 + step);
    steps.push_back(packer.finish(*stream));
  }
  for (int32_t step = 0; step < 2; ++step) {
    const StepInputs& in = steps[static_cast<size_t>(step)];
    EXPECT_EQ(in.rows.positions.i32()[3], 10 + step);
    EXPECT_EQ(in.rows.block_tables.i32()[5], 20 + step);
    EXPECT_EQ(in.tokens.i32()[0], 30 + step);
    EXPECT_EQ(in.sampled.i32()[0], 3);
    EXPECT_EQ(in.draws.i32()[backend::kDrawWords - 1], 40 + step);
    EXPECT_EQ(in.rows.single_tiles, 2);
    const std::vector<int32_t> tiles(in.rows.tiles.i32(), in.rows.tiles.i32() + 6);
    EXPECT_EQ(tiles, (std::vector<int32_t>{0, 1, 3, 1, 1, 2}));
  }
  packer.begin(4, 3, 2, 1).tokens.i32()[0] = 99;
  EXPECT_EQ(steps[0].tokens.i32()[0], 99) << "the third step takes the place of the first";
  EXPECT_EQ(steps[1].tokens.i32()[0], 31);
}

}  // namespace
}  // namespace fourfold::model

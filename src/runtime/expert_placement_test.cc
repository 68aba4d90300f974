#include "runtime/expert_placement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "files/scratch_folder.h"

namespace fourfold::runtime {
namespace {

using mesh::ExpertPlacement;
using testing::HasSubstr;

class PlacementFile : public testing::Test {
 protected:
  base::Result<ExpertPlacement> read(const std::string& text) {
    return read_expert_placement(folder_.write("placement.json", text).string());
  }
  std::string error_of(const std::string& text) {
    const auto placement = read(text);
    return placement.ok() ? "read" : placement.error().message;
  }

  files::ScratchFolder folder_;
};

TEST_F(PlacementFile, ListsTheExpertsOfEachShard) {
  const auto placement = read(R"({"experts": [[0, 3], [2, 1, 4]]})");
  ASSERT_TRUE(placement.ok()) << placement.error().message;
  EXPECT_EQ(*placement, ExpertPlacement::listed({{0, 3}, {1, 2, 4}}));
}

TEST_F(PlacementFile, RulesNeedNoFile) {
  EXPECT_EQ(read_expert_placement("linear").value(), ExpertPlacement::linear());
  EXPECT_EQ(read_expert_placement("round_robin").value(), ExpertPlacement::round_robin());
}

TEST_F(PlacementFile, RefusesWhatIsNoPlacement) {
  EXPECT_THAT(error_of("[[0]]"), HasSubstr("expected {\"experts\": [[experts of shard 0]"));
  EXPECT_THAT(error_of(R"({"experts": 3})"), HasSubstr("expected a list of lists"));
  EXPECT_THAT(error_of(R"({"experts": [[0], 1]})"),
              HasSubstr("expected a list of expert numbers for shard 1"));
  EXPECT_THAT(error_of(R"({"experts": [[0], [-1]]})"), HasSubstr("found -1"));
  EXPECT_THAT(error_of(R"({"experts": [[0], [65536]]})"), HasSubstr("found 65536"));
  EXPECT_THAT(error_of(R"({"experts": [["0"]]})"), HasSubstr("found \"0\""));
  EXPECT_THAT(error_of("{"), HasSubstr("placement.json, line 1"));
  EXPECT_FALSE(read_expert_placement("no_such_rule_or_file").ok());
}

TEST(PlacementJson, EveryPlacementComesBackAsItWas) {
  for (const ExpertPlacement& placement :
       {ExpertPlacement::linear(), ExpertPlacement::round_robin(),
        ExpertPlacement::listed({{0, 2}, {1}, {3, 4, 5}})}) {
    const auto back = placement_from_json(placement_to_json(placement), "a test");
    ASSERT_TRUE(back.ok()) << back.error().message;
    EXPECT_EQ(*back, placement);
  }
  EXPECT_THAT(placement_from_json("spiral", "a test").error().message,
              HasSubstr("no expert placement \"spiral\" in a test"));
}

}  // namespace
}  // namespace fourfold::runtime

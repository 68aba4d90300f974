#include "runtime/launch/hang_watch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

namespace fourfold::runtime {
namespace {

using comm::CallKind;
using comm::OpenCall;
using comm::Operation;
using comm::Position;
using mesh::Axis;
using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::StartsWith;

RankConfig config_of(const mesh::ParallelConfig& group) {
  RankConfig config;
  config.group = group;
  return config;
}

Position computing(int64_t step, int32_t layer, Operation operation) {
  return {.step = step, .layer = layer, .layer_ns = 1'000'000, .operation = operation};
}

Position waiting(Position position, const OpenCall& call) {
  position.call = call;
  return position;
}

constexpr OpenCall reduce(int64_t sequence) {
  return {.kind = CallKind::kAllReduce, .axis = Axis::kTensor, .sequence = sequence};
}
constexpr OpenCall receive_from(int peer) {
  return {.kind = CallKind::kRecv, .axis = Axis::kPipeline, .sequence = 4, .peer = peer};
}

const Position kAtWork = computing(7, 3, Operation::kMlp);
const Position kIdle{.step = 7, .operation = Operation::kIdle};

/// A front that hears of all ranks every half second.
class Front {
 public:
  explicit Front(const mesh::ParallelConfig& group) : Front(config_of(group)) {}
  explicit Front(const RankConfig& config) : watch_(config) {}

  /// For so long the ranks stand still there; the first hang that is found.
  std::optional<Hang> stand(const std::vector<Position>& positions, milliseconds time) {
    std::optional<Hang> hang;
    for (milliseconds passed{0}; passed < time && !hang; passed += kTick) {
      now_ += kTick;
      for (size_t r = 0; r < positions.size(); ++r) {
        Position position = positions[r];
        position.marks = marks_;
        position.age_ns = std::chrono::nanoseconds(passed + kTick).count();
        watch_.observe(static_cast<int>(r), position, now_);
      }
      watch_.tick(work, now_);
      hang = watch_.find(now_);
    }
    return hang;
  }
  /// From now on the ranks have got further.
  void move() { ++marks_; }
  /// Nothing happens in the front for so long.
  void sleep(milliseconds time) { now_ += time; }

  HangWatch::Work work{.any = true};

 private:
  static constexpr milliseconds kTick{500};
  HangWatch watch_;
  HangWatch::TimePoint now_{seconds(1000)};
  int64_t marks_ = 1;
};

TEST(HangWatch, NamesTheRankThatIsMissingFromACollective) {
  Front front({.tp = 4});
  const Position at_reduce = waiting(kAtWork, reduce(96));
  const auto hang = front.stand({at_reduce, at_reduce, kAtWork, at_reduce}, seconds(60));
  ASSERT_TRUE(hang);
  EXPECT_EQ(hang->rank, 2);
  EXPECT_EQ(hang->what,
            "hangs in step 7, layer 3, mlp for 6.0 s; rank 0 waits for it in step 7, layer 3, mlp, "
            "in all-reduce 96 of the tp group");
}

TEST(HangWatch, NamesARankThatIsOneCollectiveBehind) {
  Front front({.tp = 2});
  // Rank 0 waits in the next call, rank 1 is at work between the two.
  const auto hang = front.stand(
      {waiting(kAtWork, reduce(97)), computing(7, 3, Operation::kAttention)}, seconds(60));
  ASSERT_TRUE(hang);
  EXPECT_EQ(hang->rank, 1);
}

TEST(HangWatch, FollowsWhoWaitsForWhomThroughStagesAndShards) {
  // Stage 1 waits for stage 0, where shard 0 waits for shard 1.
  Front front({.pp = 2, .tp = 2});
  const Position behind = waiting(computing(7, -1, Operation::kInputs), receive_from(0));
  const auto hang =
      front.stand({waiting(kAtWork, reduce(5)), kAtWork, behind, behind}, seconds(60));
  ASSERT_TRUE(hang);
  EXPECT_EQ(hang->rank, 1);
}

TEST(HangWatch, NamesTheSenderOfATransfer) {
  Front front({.pp = 3});
  const Position behind = computing(7, -1, Operation::kInputs);
  const auto hang = front.stand({kIdle, kAtWork, waiting(behind, receive_from(1))}, seconds(60));
  ASSERT_TRUE(hang);
  EXPECT_EQ(hang->rank, 1);
}

TEST(HangWatch, NamesTheOnlyRankAtWorkWhereNobodyWaitsInACall) {
  Front front({.pp = 2});
  const auto hang = front.stand({kIdle, kAtWork}, seconds(60));
  ASSERT_TRUE(hang);
  EXPECT_EQ(hang->rank, 1);
}

TEST(HangWatch, NamesOneOfRanksThatWaitForEachOther) {
  Front front({.pp = 2});
  const auto hang = front.stand(
      {waiting(kAtWork, receive_from(1)), waiting(kAtWork, receive_from(0))}, seconds(60));
  ASSERT_TRUE(hang);
  EXPECT_THAT(hang->what, testing::HasSubstr("waits for it in"));
}

TEST(HangWatch, NamesTheRankThatIsMissingFromAnExchangeOfTheWholeBlock) {
  // Two replicas of two shards share the experts; one shard of the other replica is late.
  Front front({.dp = 2, .tp = 2, .ep = 4, .etp = 1});
  const Position there =
      waiting(computing(7, 3, Operation::kRoute),
              {.kind = CallKind::kAllToAll, .axis = Axis::kExpert, .sequence = 8});
  const Position late = computing(7, 2, Operation::kExperts);
  const auto hang = front.stand({there, there, late, there}, seconds(60));
  ASSERT_TRUE(hang);
  EXPECT_EQ(hang->rank, 2);
  EXPECT_THAT(hang->what, StartsWith("hangs in step 7, layer 2, experts for "));
  EXPECT_THAT(hang->what, testing::HasSubstr("layer 3, route, in all-to-all 8 of the ep group"));
}

TEST(HangWatch, LooksForTheMissingShardOfAnExpertAmongItsOwn) {
  Front front({.dp = 2, .tp = 2, .ep = 2, .etp = 2});
  const Position there =
      waiting(computing(7, 3, Operation::kExperts),
              {.kind = CallKind::kAllReduce, .axis = Axis::kExpertTensor, .sequence = 8});
  // Rank 0 stands still for as long as rank 3, but shares no expert with rank 2.
  const auto hang = front.stand({kAtWork, kIdle, there, kAtWork}, seconds(60));
  ASSERT_TRUE(hang);
  EXPECT_EQ(hang->rank, 3);
}

TEST(HangWatch, NumbersRanksAsTheSchemeDoes) {
  RankConfig config = config_of({.tp = 2});
  config.groups = 2;
  config.group_index = 1;
  EXPECT_EQ(describe_rank(config, 1), "rank 3 (stage 0, replica 1, shard 1)");
  Front front(config);
  const auto hang = front.stand({waiting(kAtWork, reduce(5)), kAtWork}, seconds(60));
  ASSERT_TRUE(hang);
  EXPECT_EQ(hang->rank, 1) << "within its group";
  EXPECT_THAT(hang->what, testing::HasSubstr("rank 2 waits for it"));
}

TEST(HangWatch, AGroupThatMovesHasAllTheTimeItNeeds) {
  Front front({.tp = 2});
  for (int i = 0; i < 50; ++i) {
    EXPECT_FALSE(front.stand({waiting(kAtWork, reduce(i)), kAtWork}, seconds(4)));
    front.move();
  }
}

TEST(HangWatch, AGroupWithoutWorkNeverHangs) {
  Front front({.tp = 2});
  front.work.any = false;
  EXPECT_FALSE(front.stand({kIdle, kIdle}, seconds(3600)));
  // And gets its whole time when it has work again.
  front.work.any = true;
  EXPECT_FALSE(front.stand({kIdle, kIdle}, seconds(4)));
}

TEST(HangWatch, WaitsForTwentyTypicalLayers) {
  Front front({.tp = 1});
  Position slow = kAtWork;
  slow.layer_ns = 2'000'000'000;
  EXPECT_FALSE(front.stand({slow}, seconds(39)));
  EXPECT_TRUE(front.stand({slow}, seconds(3)));
}

TEST(HangWatch, WaitsLongerWhereNoLayerIsKnown) {
  Front front({.tp = 1});
  Position first = kAtWork;
  first.layer_ns = 0;
  EXPECT_FALSE(front.stand({first}, seconds(29)));
  EXPECT_TRUE(front.stand({first}, seconds(3)));
}

TEST(HangWatch, WaitsForAMeasurementOfPeaks) {
  Front front({.tp = 1});
  front.work.measure_s = 2;
  const Position measuring{.step = 3, .layer_ns = 1, .operation = Operation::kMeasure};
  EXPECT_FALSE(front.stand({measuring}, seconds(140)));
  EXPECT_TRUE(front.stand({measuring}, seconds(30)));
}

TEST(HangWatch, WorkAfterALongMeasurementHasItsWholeTime) {
  Front front({.tp = 1});
  front.work.measure_s = 1;
  const Position measuring{.step = 3, .layer_ns = 1, .operation = Operation::kMeasure};
  EXPECT_FALSE(front.stand({measuring}, seconds(60)));
  front.work.measure_s = 0;
  EXPECT_FALSE(front.stand({measuring}, seconds(4)));
  EXPECT_TRUE(front.stand({measuring}, seconds(3)));
}

TEST(HangWatch, NamesARankWhoseLoadStandsStillThoughOthersHaveWork) {
  Front front({.tp = 4});
  front.work.any = false;
  const Position loading{.layer = 2, .operation = Operation::kLoad};
  const auto hang = front.stand({kIdle, kIdle, loading, kIdle}, seconds(60));
  ASSERT_TRUE(hang);
  EXPECT_EQ(hang->rank, 2);
  EXPECT_THAT(hang->what, StartsWith("hangs in layer 2, load for 3"));
}

TEST(HangWatch, OfRanksThatStartItBlamesTheOneThatHasNotComeToTheMeeting) {
  Front front({.tp = 3});
  front.work.any = false;
  const Position meeting{.operation = Operation::kMeet};
  const auto hang = front.stand({meeting, {.operation = Operation::kStart}, meeting}, seconds(60));
  ASSERT_TRUE(hang);
  EXPECT_EQ(hang->rank, 1);
}

TEST(HangWatch, ASlowLoadIsNoHang) {
  Front front({.tp = 1});
  front.work.any = false;
  for (int i = 0; i < 50; ++i) {
    EXPECT_FALSE(front.stand({{.operation = Operation::kLoad}}, seconds(20)));
    front.move();
  }
}

TEST(HangWatch, ARankThatMakesStepsReadyHasTheTimeOfOneThatLoads) {
  Front front({.tp = 2});
  front.work.any = false;
  const Position preparing{.operation = Operation::kPrepare};
  EXPECT_FALSE(front.stand({preparing, preparing}, seconds(20)));
  front.move();
  const auto hang = front.stand({kIdle, preparing}, seconds(60));
  ASSERT_TRUE(hang);
  EXPECT_EQ(hang->rank, 1);
  EXPECT_THAT(hang->what, StartsWith("hangs in prepare for 3"));
}

TEST(HangWatch, AFrontThatWasStoppedGivesRanksTheirWholeTimeAgain) {
  Front front({.tp = 2});
  const std::vector<Position> positions = {waiting(kAtWork, reduce(5)), kAtWork};
  for (int i = 0; i < 50; ++i) {
    EXPECT_FALSE(front.stand(positions, seconds(4)));
    front.sleep(seconds(20));
  }
  EXPECT_TRUE(front.stand(positions, seconds(7)));
}

}  // namespace
}  // namespace fourfold::runtime

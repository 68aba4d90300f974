#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/check_invariants_test.h"

namespace fourfold::engine {
namespace {

using testing::HasSubstr;

/// Two sequences that share block 0; blocks of two positions.
SchedulerSnapshot sound() {
  SchedulerSnapshot out;
  out.block_size = 2;
  out.slots = 3;
  out.references = {2, 1, 1, 0};
  out.free_blocks = {BlockId(3)};
  out.free_slots = {SlotId(2)};
  out.sequences.push_back({.id = SequenceId(10),
                           .slot = SlotId(0),
                           .tokens = {1, 2, 3},
                           .blocks = {BlockId(0), BlockId(1)},
                           .planned = 3,
                           .computed = 2,
                           .in_flight = 1});
  out.sequences.push_back({.id = SequenceId(11),
                           .slot = SlotId(1),
                           .tokens = {1, 2, 4},
                           .blocks = {BlockId(0), BlockId(2)},
                           .planned = 3,
                           .computed = 3,
                           .in_flight = 0});
  out.chunks_in_flight = {SequenceId(10)};
  return out;
}

std::string broken(const SchedulerSnapshot& snapshot) {
  const base::Status status = check_invariants(snapshot);
  return status.ok() ? "nothing" : status.error().message;
}

TEST(Invariants, HoldForASoundSnapshot) { EXPECT_EQ(broken(sound()), "nothing"); }

TEST(Invariants, NameALostBlock) {
  SchedulerSnapshot snapshot = sound();
  snapshot.free_blocks.clear();
  EXPECT_THAT(broken(snapshot), HasSubstr("3 used blocks of 4"));
}

TEST(Invariants, NameABlockThatIsFreeAndUsed) {
  SchedulerSnapshot snapshot = sound();
  snapshot.free_blocks = {BlockId(2)};
  EXPECT_EQ(broken(snapshot), "block 2 is free and used");
}

TEST(Invariants, NameAWrongReferenceCount) {
  SchedulerSnapshot snapshot = sound();
  snapshot.references[0] = 1;
  EXPECT_EQ(broken(snapshot), "block 0 has 1 references, tables hold it 2 times");
}

TEST(Invariants, NameABlockSharedBehindDifferentTokens) {
  SchedulerSnapshot snapshot = sound();
  snapshot.sequences[1].tokens[0] = 7;
  EXPECT_THAT(broken(snapshot), HasSubstr("share block 0 behind different tokens"));
}

TEST(Invariants, NameASharedBlockThatIsStillWritten) {
  SchedulerSnapshot snapshot = sound();
  snapshot.sequences[0].computed = 1;
  EXPECT_THAT(broken(snapshot), HasSubstr("shared block 0 ends at position 2"));
}

TEST(Invariants, NameABlockInTwoPlaces) {
  SchedulerSnapshot snapshot = sound();
  snapshot.sequences[1].blocks = {BlockId(2), BlockId(0)};
  EXPECT_THAT(broken(snapshot), HasSubstr("block 0 is number 0 of sequence 10 and number 1"));
}

TEST(Invariants, NamePositionsWithoutBlocks) {
  SchedulerSnapshot snapshot = sound();
  snapshot.sequences[0].planned = 5;
  EXPECT_EQ(broken(snapshot), "sequence 10 has 2 blocks for 5 positions");
}

TEST(Invariants, NameASlotThatIsUsedTwice) {
  SchedulerSnapshot snapshot = sound();
  snapshot.sequences[1].slot = SlotId(0);
  EXPECT_THAT(broken(snapshot), HasSubstr("slots of 3, 2 different"));
}

TEST(Invariants, NameChunksInFlightThatNobodyCounts) {
  SchedulerSnapshot snapshot = sound();
  snapshot.sequences[0].in_flight = 0;
  EXPECT_THAT(broken(snapshot), HasSubstr("counts 0 chunks in flight of 1"));
  snapshot = sound();
  snapshot.chunks_in_flight.emplace_back(99);
  EXPECT_EQ(broken(snapshot), "1 chunks in flight belong to no sequence");
}

}  // namespace
}  // namespace fourfold::engine

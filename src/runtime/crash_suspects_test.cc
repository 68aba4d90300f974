#include "runtime/crash_suspects.h"

#include <gtest/gtest.h>

namespace fourfold::runtime {
namespace {

using engine::SequenceId;

constexpr int64_t kMinuteNs = 60'000'000'000;

Flight flight(int64_t id, engine::TokenId prompt = 1) {
  engine::Request request;
  request.prompt = {prompt, prompt + 1};
  return {.id = SequenceId(id),
          .request = std::make_shared<const engine::Request>(std::move(request)),
          .choice = 0,
          .output = {},
          .sink = nullptr};
}

TEST(CrashSuspects, GoOnOneAtATime) {
  CrashSuspects suspects(/*lookahead_tokens=*/2);
  suspects.accuse(flight(1));
  suspects.accuse(flight(2));
  std::optional<Flight> first = suspects.next();
  ASSERT_TRUE(first);
  EXPECT_EQ(first->id, SequenceId(1));
  EXPECT_TRUE(suspects.is_on_trial(SequenceId(1)));
  EXPECT_FALSE(suspects.next());
  EXPECT_FALSE(suspects.acquit(flight(2), /*finished=*/true)) << "that one is not on trial";
  EXPECT_TRUE(suspects.acquit(*first, /*finished=*/true));
  EXPECT_EQ(suspects.next()->id, SequenceId(2));
}

TEST(CrashSuspects, AreInnocentOnceTheyHaveGotPastTheCrash) {
  CrashSuspects suspects(/*lookahead_tokens=*/2);
  Flight before = flight(1);
  before.output = {7, 7, 7};
  suspects.accuse(before);
  std::optional<Flight> on_trial = suspects.next();
  on_trial->output.resize(5);
  EXPECT_FALSE(suspects.acquit(*on_trial, false));
  on_trial->output.resize(6);
  EXPECT_TRUE(suspects.acquit(*on_trial, false));
  EXPECT_FALSE(suspects.is_on_trial(SequenceId(1)));
}

TEST(CrashSuspects, AreTriedAgainIfTheirGroupFailsWithoutTheirFault) {
  CrashSuspects suspects(2);
  suspects.accuse(flight(1));
  suspects.accuse(flight(2));
  suspects.retry(*suspects.next());
  EXPECT_EQ(suspects.next()->id, SequenceId(1));
}

TEST(CrashSuspects, ACondemnedPromptIsRefusedForAMinute) {
  CrashSuspects suspects(2);
  suspects.accuse(flight(1, /*prompt=*/50));
  suspects.condemn(*suspects.next(), 1000);
  EXPECT_FALSE(suspects.is_on_trial(SequenceId(1)));
  const std::vector<engine::TokenId> same = {50, 51};
  EXPECT_TRUE(suspects.is_condemned(same, 1000 + kMinuteNs - 1));
  EXPECT_FALSE(suspects.is_condemned(std::vector<engine::TokenId>{50, 52}, 1000));
  EXPECT_FALSE(suspects.is_condemned(same, 1000 + kMinuteNs));
}

TEST(CrashSuspects, OneThatWaitsCanBeTakenOut) {
  CrashSuspects suspects(2);
  suspects.accuse(flight(1));
  suspects.accuse(flight(2));
  EXPECT_EQ(suspects.remove(SequenceId(2))->id, SequenceId(2));
  EXPECT_FALSE(suspects.remove(SequenceId(2)));
  EXPECT_EQ(suspects.next()->id, SequenceId(1));
}

}  // namespace
}  // namespace fourfold::runtime

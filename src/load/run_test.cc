#include "load/run.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <thread>

#include "load/arrivals.h"
#include "load/simulated_time_test.h"

namespace fourfold::load {
namespace {

using testing::Each;
using testing::ElementsAre;
using testing::Field;
using testing::IsEmpty;
using testing::SizeIs;

constexpr int64_t kMs = 1'000'000;

SimulatedServer::Service always(int64_t ns) {
  return [ns](size_t) { return ns; };
}

Workload small_load(int32_t conversations, int32_t turns = 1) {
  return synthetic_workload({.input_len = 5,
                             .output_len = 3,
                             .conversations = conversations,
                             .turns = turns,
                             .vocab = 100,
                             .seed = 1});
}

TEST(ClosedLoop, KeepsItsPlacesTakenUntilAllIsSent) {
  SimulatedClock clock;
  SimulatedServer server(clock, 8, always(10 * kMs));
  std::vector<size_t> progress;
  const auto run =
      run_load(small_load(6),
               {.concurrency = 2, .on_finished = [&](size_t done) { progress.push_back(done); }},
               clock, server.submit());
  ASSERT_TRUE(run.ok()) << run.error().message;
  EXPECT_EQ(server.most_outstanding, 2);
  EXPECT_EQ(clock.now_ns(), 30 * kMs);
  EXPECT_EQ(progress.back(), 6U);
  EXPECT_THAT(run->metrics.e2e_ms, ElementsAre(10, 10, 10, 10, 10, 10));
  EXPECT_THAT(run->metrics.ttft_ms, Each(5));
  EXPECT_THAT(run->metrics.send_lateness_ms, Each(0));
  EXPECT_TRUE(run->metrics.valid());
  EXPECT_FALSE(run->metrics.saturated);
}

TEST(ClosedLoop, WhosePlacesStandEmptyIsInvalid) {
  for (const auto& [spent_ns, valid] : {std::pair(kMs / 5, true), {2 * kMs, false}}) {
    SimulatedClock clock;
    SimulatedServer server(clock, 1, always(10 * kMs));
    const auto spend = [&, ns = spent_ns](size_t) { clock.spend_ns(ns); };
    const auto run =
        run_load(small_load(20), {.concurrency = 1, .on_finished = spend}, clock, server.submit());
    ASSERT_TRUE(run.ok()) << run.error().message;
    EXPECT_EQ(run->metrics.valid(), valid) << run->metrics.invalid_reason;
  }
}

TEST(ClosedLoop, CountsFailuresIfItIsToldTo) {
  for (const bool count : {false, true}) {
    SimulatedClock clock;
    SimulatedServer server(clock, 2, always(10 * kMs));
    int sent = 0;
    const Submit submit = [&](engine::Request request, Sink sink) -> base::Status {
      if (++sent % 3 != 0) return server.submit()(std::move(request), std::move(sink));
      sink({.tokens = {}, .finished = true, .failure = "refused", .now_ns = clock.now_ns()});
      return {};
    };
    const auto run =
        run_load(small_load(9), {.concurrency = 2, .count_failures = count}, clock, submit);
    ASSERT_EQ(run.ok(), count);
    if (!count) continue;
    EXPECT_EQ(run->metrics.failed, 3);
    EXPECT_EQ(run->metrics.ttft_ms.size(), 6U);
    EXPECT_EQ(run->requests[2].failure, "refused");
  }
}

TEST(OpenLoop, SendsAtItsTimesWhateverIsOutstanding) {
  SimulatedClock clock;
  clock.spend_ns(7 * kMs);
  SimulatedServer server(clock, 1, always(10 * kMs));
  const auto run =
      run_load(small_load(3), {.arrivals_s = {0, 0.002, 0.050}}, clock, server.submit());
  ASSERT_TRUE(run.ok()) << run.error().message;
  EXPECT_THAT(run->requests, ElementsAre(Field(&RequestLog::sent_ns, 7 * kMs),
                                         Field(&RequestLog::sent_ns, 9 * kMs),
                                         Field(&RequestLog::sent_ns, 57 * kMs)));
  EXPECT_THAT(run->metrics.e2e_ms, ElementsAre(10, 18, 10));
}

TEST(OpenLoop, OfALateClientIsInvalid) {
  const std::vector<double> arrivals = draw_arrivals(50, {.rate = 100, .seed = 3});
  for (const auto& [oversleep_ns, valid] : {std::pair(9 * kMs, true), {11 * kMs, false}}) {
    SimulatedClock clock;
    clock.oversleep_ns = oversleep_ns;
    SimulatedServer server(clock, 100, always(1000 * kMs));
    const auto run = run_load(small_load(50), {.arrivals_s = arrivals}, clock, server.submit());
    ASSERT_TRUE(run.ok()) << run.error().message;
    EXPECT_EQ(run->metrics.valid(), valid) << run->metrics.invalid_reason;
    EXPECT_NEAR(percentile(run->metrics.send_lateness_ms, 100),
                static_cast<double>(oversleep_ns) * 1e-6, 1e-6);
  }
}

TEST(OpenLoop, EndsSoonAfterItIsStoppedThoughNothingIsDue) {
  SimulatedClock clock;
  SimulatedServer server(clock, 1, always(kMs));
  int looks = 0;
  const auto run =
      run_load(small_load(2), {.arrivals_s = {0, 3600}, .stop = [&] { return ++looks == 5; }},
               clock, server.submit());
  EXPECT_FALSE(run.ok());
  EXPECT_LE(clock.now_ns(), 5 * kStopTickNs);
}

TEST(OpenLoop, MayBeLateByATenthOfALongGap) {
  SimulatedClock clock;
  clock.oversleep_ns = 40 * kMs;
  SimulatedServer server(clock, 4, always(kMs));
  const auto run = run_load(small_load(11), {.arrivals_s = draw_arrivals(11, {.rate = 2})}, clock,
                            server.submit());
  ASSERT_TRUE(run.ok()) << run.error().message;
  EXPECT_EQ(run->metrics.invalid_reason, "");
}

TEST(Turns, ContinueWithWhatWasReallyAnswered) {
  SimulatedClock clock;
  SimulatedServer server(clock, 1, always(10 * kMs));
  const Workload workload = small_load(1, 3);
  const auto run = run_load(workload, {.concurrency = 4}, clock, server.submit());
  ASSERT_TRUE(run.ok()) << run.error().message;
  ASSERT_THAT(server.prompts, ElementsAre(SizeIs(5), SizeIs(13), SizeIs(21)));
  std::vector<engine::TokenId> expected = server.prompts[0];
  expected.insert(expected.end(), {0, 1, 2});
  const std::vector<engine::TokenId> second = make_request(workload, 1).prompt;
  expected.insert(expected.end(), second.begin(), second.end());
  EXPECT_EQ(server.prompts[1], expected);
  EXPECT_TRUE(std::equal(expected.begin(), expected.end(), server.prompts[2].begin()));
  EXPECT_THAT(run->requests[2].prompt_tokens, 21);
  EXPECT_EQ(run->requests[2].scheduled_ns, 20 * kMs);
}

TEST(Turns, KeepThePlaceOfTheirConversation) {
  SimulatedClock clock;
  SimulatedServer server(clock, 8, always(10 * kMs));
  const auto run = run_load(small_load(4, 2), {.concurrency = 2}, clock, server.submit());
  ASSERT_TRUE(run.ok()) << run.error().message;
  EXPECT_EQ(server.most_outstanding, 2);
  // Conversations 0 and 1 with both turns, then 2 and 3.
  EXPECT_EQ(run->requests[1].sent_ns, 10 * kMs);
  EXPECT_EQ(run->requests[4].sent_ns, 20 * kMs);
  EXPECT_EQ(clock.now_ns(), 40 * kMs);
}

TEST(Turns, OfAnOpenLoopFollowTheirPredecessorNotTheClock) {
  SimulatedClock clock;
  SimulatedServer server(clock, 8, always(10 * kMs));
  const auto run =
      run_load(small_load(2, 2), {.arrivals_s = {0.001, 0.004}}, clock, server.submit());
  ASSERT_TRUE(run.ok()) << run.error().message;
  EXPECT_EQ(run->requests[1].sent_ns, 11 * kMs);
  EXPECT_EQ(run->requests[3].sent_ns, 14 * kMs);
}

TEST(Run, EndsWithTheFirstFailureAndIgnoresWhatComesLater) {
  SimulatedClock clock;
  std::vector<Sink> sinks;
  const Submit submit = [&](engine::Request, Sink sink) {
    sinks.push_back(sink);
    if (sinks.size() == 2) {
      clock.at(kMs, [sink] { sink({.finished = true, .failure = "rank 1 died", .now_ns = kMs}); });
    }
    return base::Status();
  };
  const auto run = run_load(small_load(4), {.concurrency = 3}, clock, submit);
  ASSERT_FALSE(run.ok());
  EXPECT_EQ(run.error().message, "rank 1 died");
  const engine::TokenId token = 1;
  sinks[0]({.tokens = {&token, 1}, .finished = true, .now_ns = 2 * kMs});
}

TEST(Run, PassesOnThatARequestCouldNotBeSent) {
  SimulatedClock clock;
  const Submit submit = [](engine::Request, const Sink&) -> base::Status {
    return base::fail("the queue is full");
  };
  const auto run = run_load(small_load(1), {.concurrency = 1}, clock, submit);
  ASSERT_FALSE(run.ok());
  EXPECT_EQ(run.error().message, "the queue is full");
}

TEST(Run, OfNothingIsEmpty) {
  SimulatedClock clock;
  SimulatedServer server(clock, 1, always(kMs));
  const auto run = run_load({}, {.concurrency = 1}, clock, server.submit());
  ASSERT_TRUE(run.ok()) << run.error().message;
  EXPECT_THAT(run->requests, IsEmpty());
}

TEST(Run, TakesArrivalsFromOtherThreads) {
  SteadyWaitableClock clock;
  std::vector<std::thread> threads;
  const Submit submit = [&](engine::Request request, Sink sink) {
    threads.emplace_back([&clock, sink = std::move(sink), n = request.max_new_tokens] {
      const std::vector<engine::TokenId> tokens(static_cast<size_t>(n), 7);
      sink({.tokens = tokens, .finished = true, .now_ns = clock.now_ns()});
    });
    return base::Status();
  };
  const auto run = run_load(small_load(10, 2), {.concurrency = 3}, clock, submit);
  for (std::thread& thread : threads) thread.join();
  ASSERT_TRUE(run.ok()) << run.error().message;
  EXPECT_THAT(run->metrics.ttft_ms, SizeIs(20));
  EXPECT_EQ(run->metrics.failed, 0);
}

TEST(SteadyWaitableClock, ReturnsAtItsDeadlineAndNotBefore) {
  SteadyWaitableClock clock;
  const int64_t deadline_ns = clock.now_ns() + kMs;
  clock.wait_until(deadline_ns);
  EXPECT_GE(clock.now_ns(), deadline_ns);
}

TEST(SteadyWaitableClock, ReturnsAtOnceWhenItWasWokenBefore) {
  SteadyWaitableClock clock;
  clock.wake();
  clock.wait_until(WaitableClock::kNever);
}

}  // namespace
}  // namespace fourfold::load

#include "comm/local/local_world.h"

#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "comm/contract_test.h"

namespace fourfold::comm {
namespace {

/// Plays every rank of `world` in a thread of its own.
void run_ranks(LocalWorld& world, int size, const std::function<void(Communicator&)>& play) {
  std::vector<std::jthread> threads;
  for (int rank = 0; rank < size; ++rank) {
    threads.emplace_back([&world, &play, rank] {
      const auto comm = world.communicator(rank);
      play(*comm);
    });
  }
}

class LocalWorldContract : public ::testing::TestWithParam<int> {};

TEST_P(LocalWorldContract, Holds) {
  LocalWorld world(GetParam());
  // More than 1,000 random cases over the sizes.
  run_ranks(world, GetParam(), [](Communicator& comm) { expect_contract(comm, 200); });
}

TEST_P(LocalWorldContract, BarrierLetsNobodyPassBeforeAllHaveCome) {
  const int size = GetParam();
  for (const Waiting waiting : {Waiting::kSpin, Waiting::kSleep}) {
    LocalWorld world(size, waiting);
    std::atomic<int> arrived{0};
    run_ranks(world, size, [&](Communicator& comm) {
      for (int round = 1; round <= 500; ++round) {
        ++arrived;
        comm.barrier();
        EXPECT_GE(arrived.load(), round * size);
      }
    });
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, LocalWorldContract, ::testing::Values(1, 2, 3, 4, 6, 8, 9));

/// The reason with which `call` was aborted, or "returned".
std::string abort_reason_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const CommAborted& aborted) {
    return aborted.reason;
  }
  return "returned";
}

TEST(LocalWorld, AbortEndsEveryWaitingAndEveryLaterCall) {
  constexpr int kRanks = 5;
  for (int round = 0; round < 20; ++round) {
    LocalWorld world(kRanks);
    std::atomic<int> ready{0};
    std::jthread breaker([&] {
      while (ready.load() < kRanks) std::this_thread::yield();
      world.abort("rank 7 is gone");
    });
    run_ranks(world, kRanks, [&](Communicator& comm) {
      const auto part = comm.split(comm.rank() == 4 ? 1 : 0, 0, mesh::Axis::kTensor);
      std::vector<std::byte> data(16);
      ++ready;
      // None of these can end by itself: rank 4 takes part in nothing and sends nothing.
      const std::vector<std::function<void()>> waits{
          [&] { comm.barrier(); }, [&] { comm.recv(data, 4); }, [&] { part->recv(data, 0); },
          [&] {
            for (;;) comm.send(data, 4);
          },
          [&] { part->recv(data, 0); }};
      EXPECT_EQ(abort_reason_of(waits[static_cast<size_t>(comm.rank())]), "rank 7 is gone");
      EXPECT_EQ(abort_reason_of([&] { comm.barrier(); }), "rank 7 is gone");
      EXPECT_EQ(abort_reason_of([&] { part->recv(data, 0); }), "rank 7 is gone");
      EXPECT_EQ(abort_reason_of([&] { part->send(data, 0); }), "rank 7 is gone");
      EXPECT_EQ(abort_reason_of([&] { part->all_gather(data, data); }), "rank 7 is gone");
    });
  }
}

TEST(LocalWorld, AGroupOfOneCanBeAbortedAsWell) {
  LocalWorld world(1);
  const auto comm = world.communicator(0);
  comm->barrier();
  world.abort("stop");
  world.abort("the first reason stays");
  std::vector<float> data(4);
  EXPECT_EQ(abort_reason_of([&] { comm->all_reduce_sum(data, Wire::kF32); }), "stop");
  EXPECT_EQ(abort_reason_of([&] { comm->split(0, 0, mesh::Axis::kData); }), "stop");
}

TEST(LocalWorld, SendDoesNotWaitForTheReceiver) {
  LocalWorld world(2);
  const auto sender = world.communicator(0);
  const auto receiver = world.communicator(1);
  // One thread plays both ranks: a send that waited would never return.
  for (int i = 0; i < 32; ++i) sender->send(std::as_bytes(std::span(&i, 1)), 1);
  for (int i = 0; i < 32; ++i) {
    int received = -1;
    receiver->recv(std::as_writable_bytes(std::span(&received, 1)), 0);
    EXPECT_EQ(received, i);
  }
  EXPECT_EQ(sender->stats().bytes, 32 * 4);
  EXPECT_EQ(receiver->stats().bytes, 0);
  EXPECT_EQ(receiver->stats().wait_seconds, 0);
}

TEST(LocalWorld, ASenderThatIsFarAheadWaitsAndLosesNothing) {
  LocalWorld world(2);
  run_ranks(world, 2, [](Communicator& comm) {
    for (int i = 0; i < 1000; ++i) {
      int value = i;
      if (comm.rank() == 0) {
        comm.send(std::as_bytes(std::span(&value, 1)), 1);
      } else {
        comm.recv(std::as_writable_bytes(std::span(&value, 1)), 0);
        EXPECT_EQ(value, i);
      }
    }
  });
}

TEST(LocalWorld, CarriesMessagesLargerThanASlot) {
  LocalWorld world(2);
  const auto sender = world.communicator(0);
  const auto receiver = world.communicator(1);
  std::vector<uint32_t> large((64 << 20) / 4 + 1000);
  for (size_t i = 0; i < large.size(); ++i) large[i] = static_cast<uint32_t>(i * 2654435761U);
  sender->send(std::as_bytes(std::span(large)), 1);
  std::vector<uint32_t> received(large.size());
  receiver->recv(std::as_writable_bytes(std::span(received)), 0);
  EXPECT_TRUE(received == large);
}

TEST(LocalWorld, CountsTheWaitForTheSlowestRank) {
  constexpr double kLateSeconds = 0.1;
  LocalWorld world(2);
  std::atomic<bool> first_is_there{false};
  std::array<CommStats, 2> stats;
  run_ranks(world, 2, [&](Communicator& comm) {
    if (comm.rank() == 0) {
      first_is_there = true;
    } else {
      while (!first_is_there) std::this_thread::yield();
      const int64_t begin_ns = base::SteadyClock().now_ns();
      while (base::seconds_between(begin_ns, base::SteadyClock().now_ns()) < kLateSeconds) {
      }
    }
    std::vector<float> data(300'000);
    comm.all_reduce_sum(data, Wire::kF32);
    stats[static_cast<size_t>(comm.rank())] = comm.stats();
  });
  // On a busy machine rank 0 may begin the call a while after it said that it is there.
  EXPECT_GT(stats[0].wait_seconds, kLateSeconds / 5);
  EXPECT_GT(stats[0].seconds, stats[0].wait_seconds);
}

TEST(LocalWorld, CommunicatorsOutliveTheWorld) {
  auto world = std::make_unique<LocalWorld>(1);
  const auto comm = world->communicator(0);
  world.reset();
  comm->barrier();
  EXPECT_EQ(comm->split(3, 0, mesh::Axis::kExpert)->axis(), mesh::Axis::kExpert);
}

TEST(LocalWorld, ASingleRankNeedsNoWorld) {
  const auto comm = make_single(mesh::Axis::kTensor);
  EXPECT_EQ(comm->axis(), mesh::Axis::kTensor);
  expect_contract(*comm, 1);
}

TEST(LocalWorldDeathTest, MisuseIsABug) {
  LocalWorld world(3);
  const auto comm = world.communicator(0);
  std::vector<float> data(3);
  EXPECT_DEATH(comm->all_reduce_sum(data, Wire::kF32), "all_reduce in f32 over 3 ranks");
  std::vector<std::byte> bytes(4);
  EXPECT_DEATH(comm->all_gather(bytes, bytes), "all_gather of 3 x 4 into 4");
  EXPECT_DEATH(comm->send(bytes, 3), "send to rank 3 of 3");
  const auto receiver = world.communicator(1);
  comm->send(bytes, 1);
  EXPECT_DEATH(receiver->recv(std::span(bytes).first(3), 0), "rank 0 sent 4 bytes to rank 1");
}

}  // namespace
}  // namespace fourfold::comm

#include "comm/contract_test.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "base/philox.h"
#include "comm/shared/group_memory.h"
#include "comm/values_for_test.h"

namespace fourfold::comm {
namespace {

constexpr int64_t kRegionBytes = GroupMemory::kRegionBytes;  // where shared memory cuts an array

/// Element i of the sum over ranks [begin, end), as docs/numerics.md writes it.
float tree_by_definition(const std::vector<std::vector<float>>& ranks, size_t begin, size_t end,
                         size_t i) {
  if (end - begin == 1) return ranks[begin][i];
  const size_t middle = (begin + end) / 2;
  return tree_by_definition(ranks, begin, middle, i) + tree_by_definition(ranks, middle, end, i);
}

float left_to_right(const std::vector<std::vector<float>>& ranks, size_t i) {
  float sum = 0;
  for (const auto& values : ranks) sum += values[i];
  return sum;
}

int64_t count_other_bits(std::span<const float> a, std::span<const float> b) {
  int64_t count = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (std::bit_cast<uint32_t>(a[i]) != std::bit_cast<uint32_t>(b[i])) ++count;
  }
  return count;
}

std::vector<std::byte> bytes_of(uint64_t seed, int from, int to, int64_t n) {
  std::vector<std::byte> bytes(static_cast<size_t>(n));
  for (size_t i = 0; i < bytes.size(); i += 16) {
    const auto bits = base::philox(seed, {static_cast<uint32_t>(from), static_cast<uint32_t>(to),
                                          static_cast<uint32_t>(i / 16)});
    std::memcpy(&bytes[i], bits.data(), std::min(sizeof(bits), bytes.size() - i));
  }
  return bytes;
}

/// Bytes that `from` sends to `to` in one random all-to-all: often none, seldom many.
int64_t random_count(uint64_t seed, int from, int to) {
  const auto bits = base::philox(seed, {static_cast<uint32_t>(from), static_cast<uint32_t>(to), 7});
  if (bits[0] % 3 == 0) return 0;
  return bits[1] % (bits[2] % 100 == 0 ? 300'000 : 200);
}

std::vector<int64_t> offsets_of(const std::vector<int64_t>& counts) {
  std::vector<int64_t> offsets(counts.size() + 1, 0);
  std::partial_sum(counts.begin(), counts.end(), offsets.begin() + 1);
  return offsets;
}

void expect_all_to_all_case(Communicator& comm, uint64_t seed) {
  std::vector<int64_t> send_counts;
  std::vector<int64_t> recv_counts;
  std::vector<std::byte> send;
  std::vector<std::byte> expected;
  for (int r = 0; r < comm.size(); ++r) {
    send_counts.push_back(random_count(seed, comm.rank(), r));
    recv_counts.push_back(random_count(seed, r, comm.rank()));
    const auto out = bytes_of(seed, comm.rank(), r, send_counts.back());
    send.insert(send.end(), out.begin(), out.end());
    const auto in = bytes_of(seed, r, comm.rank(), recv_counts.back());
    expected.insert(expected.end(), in.begin(), in.end());
  }
  const auto send_offsets = offsets_of(send_counts);
  const auto recv_offsets = offsets_of(recv_counts);
  std::vector<std::byte> received(expected.size());
  comm.all_to_all_v(send, send_offsets, received, recv_offsets);
  EXPECT_TRUE(received == expected) << "seed " << seed;
  std::vector<std::byte> returned(send.size());
  comm.all_to_all_v(received, recv_offsets, returned, send_offsets);
  EXPECT_TRUE(returned == send) << "seed " << seed;
}

}  // namespace

void expect_reductions_follow_the_tree(Communicator& comm) {
  constexpr uint64_t kSeed = 11;
  constexpr int64_t kLargest = kRegionBytes / 4 + 37;
  const auto ranks = static_cast<size_t>(comm.size());
  const auto me = static_cast<size_t>(comm.rank());
  std::vector<std::vector<float>> values;
  for (int r = 0; r < comm.size(); ++r) values.push_back(values_of(kSeed, r, kLargest));
  std::vector<float> tree(kLargest);
  std::vector<float> sequential(kLargest);
  for (size_t i = 0; i < tree.size(); ++i) {
    tree[i] = tree_by_definition(values, 0, ranks, i);
    sequential[i] = left_to_right(values, i);
  }
  if (ranks >= 4) {
    EXPECT_GT(count_other_bits(tree, sequential), 0) << "the values do not tell orders apart";
  }
  for (const size_t n :
       {size_t{0}, size_t{1}, size_t{17}, size_t{4096}, size_t{4097}, size_t{kLargest}}) {
    std::vector<float> data(values[me].begin(), values[me].begin() + static_cast<int64_t>(n));
    comm.all_reduce_sum(data, Wire::kF32);
    EXPECT_EQ(count_other_bits(data, tree), 0) << "all_reduce of " << n;
    std::vector<float> part(n / ranks);
    comm.reduce_scatter_sum(std::span(values[me]).first(part.size() * ranks), part);
    const auto expected = std::span(tree).subspan(me * part.size(), part.size());
    EXPECT_EQ(count_other_bits(part, expected), 0) << "reduce_scatter of " << n;
  }
}

void expect_bf16_reductions(Communicator& comm) {
  constexpr uint64_t kSeed = 12;
  constexpr int64_t kLargest = kRegionBytes / 2 + 37;
  const auto ranks = static_cast<size_t>(comm.size());
  const auto me = static_cast<size_t>(comm.rank());
  for (const int64_t n : {int64_t{0}, int64_t{1}, int64_t{17}, int64_t{4097}, kLargest}) {
    // Small integers and their sums are bf16 numbers.
    std::vector<float> integers;
    for (int64_t i = 0; i < n; ++i) integers.push_back(static_cast<float>((comm.rank() + i) % 9));
    comm.all_reduce_sum(integers, Wire::kBF16);
    int64_t wrong = 0;
    for (int64_t i = 0; i < n; ++i) {
      int64_t sum = 0;
      for (int r = 0; r < comm.size(); ++r) sum += (r + i) % 9;
      if (integers[static_cast<size_t>(i)] != static_cast<float>(sum)) ++wrong;
    }
    EXPECT_EQ(wrong, 0) << "sums of " << n << " integers";
  }
  std::vector<std::vector<float>> values;
  for (int r = 0; r < comm.size(); ++r) values.push_back(values_of(kSeed, r, kLargest));
  std::vector<float> data = values[me];
  comm.all_reduce_sum(data, Wire::kBF16);
  if (ranks == 1) {
    EXPECT_EQ(count_other_bits(data, values[0]), 0) << "what does not travel is not rounded";
  }
  int64_t too_far = 0;
  for (size_t i = 0; i < data.size(); ++i) {
    double sum = 0;
    double magnitude = 0;
    for (const auto& part : values) {
      sum += double{part[i]};
      magnitude += std::abs(double{part[i]});
    }
    // Two roundings to 8 significant bits.
    if (std::abs(double{data[i]} - sum) > magnitude * 0x1.02p-7) ++too_far;
  }
  EXPECT_EQ(too_far, 0);
  std::vector<float> all(data.size() * ranks);
  comm.all_gather(std::as_bytes(std::span(data)), std::as_writable_bytes(std::span(all)));
  for (size_t r = 0; r < ranks; ++r) {
    EXPECT_EQ(count_other_bits(std::span(all).subspan(r * data.size(), data.size()), data), 0)
        << "ranks " << me << " and " << r << " hold different sums";
  }
}

void expect_gathers_and_broadcasts(Communicator& comm) {
  for (const int64_t n : {int64_t{0}, int64_t{1}, int64_t{7}, kRegionBytes + 13}) {
    const auto mine = bytes_of(3, comm.rank(), 0, n);
    std::vector<std::byte> all(mine.size() * static_cast<size_t>(comm.size()));
    comm.all_gather(mine, all);
    for (int r = 0; r < comm.size(); ++r) {
      const auto expected = bytes_of(3, r, 0, n);
      EXPECT_TRUE(std::equal(expected.begin(), expected.end(), all.begin() + r * n))
          << n << " bytes of rank " << r;
    }
    for (int root = 0; root < comm.size(); ++root) {
      auto data = bytes_of(3, comm.rank(), 1, n);
      comm.broadcast(data, root);
      EXPECT_TRUE(data == bytes_of(3, root, 1, n)) << n << " bytes of root " << root;
    }
  }
}

void expect_all_to_all_is_undone_by_its_inverse(Communicator& comm, int cases, uint64_t seed) {
  for (int i = 0; i < cases; ++i) {
    expect_all_to_all_case(comm, seed + static_cast<uint64_t>(i));
    if (::testing::Test::HasFailure()) return;
  }
}

void expect_messages_in_order(Communicator& comm) {
  const std::vector<int64_t> sizes{5, 0, 100'000};
  for (int64_t i = 0; i < std::ssize(sizes); ++i) {
    for (int to = 0; to < comm.size(); ++to) {
      comm.send(bytes_of(static_cast<uint64_t>(i), comm.rank(), to, sizes[static_cast<size_t>(i)]),
                to);
    }
  }
  for (int from = comm.size() - 1; from >= 0; --from) {
    for (int64_t i = 0; i < std::ssize(sizes); ++i) {
      std::vector<std::byte> data(static_cast<size_t>(sizes[static_cast<size_t>(i)]));
      comm.recv(data, from);
      EXPECT_TRUE(data == bytes_of(static_cast<uint64_t>(i), from, comm.rank(), std::ssize(data)))
          << "message " << i << " from rank " << from;
    }
  }
  comm.barrier();
}

void expect_floats_travel(Communicator& comm) {
  constexpr int64_t kFloats = 70'000;
  const int to = (comm.rank() + 1) % comm.size();
  const int from = (comm.rank() + comm.size() - 1) % comm.size();
  const std::vector<float> mine = values_of(5, comm.rank(), kFloats);
  const std::vector<float> theirs = values_of(5, from, kFloats);
  for (const Wire wire : {Wire::kF32, Wire::kBF16}) {
    const int64_t bytes_before = comm.stats().bytes;
    comm.send(std::span(mine), to, wire);
    EXPECT_EQ(comm.stats().bytes - bytes_before, kFloats * bytes_of(wire));
    std::vector<float> received(theirs.size());
    comm.recv(std::span(received), from, wire);
    std::vector<float> expected = theirs;
    if (wire == Wire::kBF16) {
      for (float& value : expected) value = tensor::to_f32(tensor::to_bf16(value));
    }
    EXPECT_EQ(count_other_bits(received, expected), 0) << bytes_of(wire) << " bytes a float";
  }
  comm.barrier();
}

void expect_splits(Communicator& comm) {
  // Odd and even ranks, each in falling order.
  const int color = comm.rank() % 2;
  const auto half = comm.split(color, -comm.rank(), mesh::Axis::kTensor);
  std::vector<int> members;
  for (int r = comm.size() - 1; r >= 0; --r) {
    if (r % 2 == color) members.push_back(r);
  }
  ASSERT_EQ(half->size(), std::ssize(members));
  EXPECT_EQ(half->axis(), mesh::Axis::kTensor);
  EXPECT_EQ(members[static_cast<size_t>(half->rank())], comm.rank());
  std::vector<int> gathered(members.size());
  const int me = comm.rank();
  half->all_gather(std::as_bytes(std::span(&me, 1)), std::as_writable_bytes(std::span(gathered)));
  EXPECT_EQ(gathered, members);
  // Equal keys keep the order of ranks; a part can be split again while its parent is in use.
  const auto same = half->split(0, 0, mesh::Axis::kPipeline);
  EXPECT_EQ(same->rank(), half->rank());
  const auto alone = half->split(half->rank(), 0, mesh::Axis::kData);
  EXPECT_EQ(alone->size(), 1);
  expect_messages_in_order(*same);
  comm.barrier();
}

void expect_stats(Communicator& comm) {
  const CommStats before = comm.stats();
  std::vector<float> data(256);
  comm.all_reduce_sum(data, Wire::kBF16);
  comm.broadcast(std::as_writable_bytes(std::span(data)), 0);
  comm.barrier();
  const CommStats& after = comm.stats();
  if (comm.size() == 1) {
    EXPECT_EQ(after.calls, 0);
    EXPECT_EQ(after.seconds, 0);
    return;
  }
  EXPECT_EQ(after.calls - before.calls, 3);
  // Two ranks that share memory send f32 all the same.
  const int64_t broadcast = comm.rank() == 0 ? 1024 : 0;
  EXPECT_THAT(after.bytes - before.bytes - broadcast, ::testing::AnyOf(512, 1024));
  EXPECT_GT(after.seconds, before.seconds);
  EXPECT_GT(after.wait_seconds, before.wait_seconds);
  EXPECT_LE(after.wait_seconds, after.seconds);
}

void expect_contract(Communicator& comm, int all_to_all_cases) {
  expect_stats(comm);
  if (std::has_single_bit(static_cast<unsigned>(comm.size()))) {
    expect_reductions_follow_the_tree(comm);
  }
  expect_bf16_reductions(comm);
  expect_gathers_and_broadcasts(comm);
  expect_all_to_all_is_undone_by_its_inverse(comm, all_to_all_cases, 1000);
  expect_messages_in_order(comm);
  expect_floats_travel(comm);
  expect_splits(comm);
}

}  // namespace fourfold::comm

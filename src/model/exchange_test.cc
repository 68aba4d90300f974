#include "model/exchange.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "comm/local/local_world.h"
#include "model/exchange_bytes.h"
#include "model/groups.h"

namespace fourfold::model {
namespace {

using tensor::DType;
using tensor::View;

constexpr int64_t kColumns = 6;  // f32; the last one is for the expert
constexpr int64_t kRowBytes = kColumns * 4;
constexpr int64_t kIdBytes = 4;

/// A group of ranks with one or several expert blocks.
struct Layout {
  mesh::ParallelConfig config;
  int64_t experts = 8;
  mesh::ExpertPlacement placement;

  mesh::Mesh mesh() const {
    return mesh::Mesh::create(config,
                              {.layers = 1,
                               .heads = 8,
                               .kv_heads = 8,
                               .intermediate_granules = 8,
                               .experts = experts,
                               .expert_granules = 8},
                              placement)
        .value();
  }
};

/// Blocks inside a replica and over several, ep that divides nothing else, shards of experts.
std::vector<Layout> layouts() {
  std::vector<Layout> out;
  for (const int tp : {1, 2, 4, 8}) {
    for (int ep = 1; ep <= 8; ++ep) {
      for (const int etp : {1, 2, 4}) {
        const int block = ep * etp;
        if (block > 8 || (tp % block != 0 && block % tp != 0)) continue;
        out.push_back({.config = {.dp = std::max(1, block / tp), .tp = tp, .ep = ep, .etp = etp},
                       .experts = ep * 2,
                       .placement = ep % 2 == 0 ? mesh::ExpertPlacement::round_robin()
                                                : mesh::ExpertPlacement::linear()});
      }
    }
  }
  out.push_back({.config = {.dp = 3, .ep = 3},
                 .experts = 8,
                 .placement = mesh::ExpertPlacement::listed({{7}, {0, 2, 4, 6, 1}, {5, 3}})});
  return out;
}

/// The rows of a step and what they choose; the same on all ranks.
struct Case {
  int64_t top_k = 1;
  std::vector<int64_t> replica_rows;
  std::vector<std::vector<int32_t>> choices;  // of each replica [rows * top_k]

  Case(const Layout& layout, uint32_t seed) {
    std::mt19937 random(seed);
    const auto below = [&](int64_t n) {
      return std::uniform_int_distribution<int64_t>(0, n - 1)(random);
    };
    top_k = 1 + below(std::min<int64_t>(4, layout.experts));
    const int64_t favourite = below(layout.experts);
    const int64_t kind = below(4);  // 0: one row, 1: all rows to the same experts
    for (int r = 0; r < layout.config.dp; ++r) {
      int64_t rows = below(3) == 0 ? 0 : below(40);
      if (kind == 0) rows = r == 0 ? 1 : 0;
      replica_rows.push_back(rows);
      std::vector<int32_t>& list = choices.emplace_back();
      for (int64_t row = 0; row < rows; ++row) {
        std::vector<int32_t> all(static_cast<size_t>(layout.experts));
        std::iota(all.begin(), all.end(), 0);
        if (kind == 1) {
          std::rotate(all.begin(), all.begin() + favourite, all.end());
        } else {
          std::shuffle(all.begin(), all.end(), random);
        }
        list.insert(list.end(), all.begin(), all.begin() + top_k);
      }
    }
  }

  float value(int replica, int64_t row, int64_t column) const {
    return static_cast<float>(1000 * replica + row) + 0.01F * static_cast<float>(column);
  }
  int32_t choice(int replica, int64_t row, int64_t slot) const {
    return choices[static_cast<size_t>(replica)][static_cast<size_t>(row * top_k + slot)];
  }
};

/// What one rank saw of a case.
struct Seen {
  std::vector<float> arrived;  // first column of each row
  int64_t results = 0;
  ExchangeCounters bytes;
  int64_t comm_bytes = 0;
};

/// One rank of a layout, with both exchanges.
class Player {
 public:
  Player(const Layout& layout, std::unique_ptr<comm::Communicator> world)
      : groups_(layout.mesh(), std::move(world)),
        place_(BlockPlace::of(groups_.mesh(), groups_.rank())),
        exchanges_{make_gather_exchange(place_, groups_.expert_block()),
                   make_all_to_all_exchange(place_, groups_.expert_block())} {}

  const BlockPlace& place() const { return place_; }

  /// There and back; the results are the rows themselves with the expert as the last column.
  Seen play(const Case& c, ExchangeKind kind) {
    const RowOwners owners(place_, c.replica_rows);
    Exchange& exchange = *exchanges_[kind == ExchangeKind::kGather ? 0 : 1];
    const ExchangeCounters before = exchange.counters();
    const int64_t comm_before = groups_.expert_block().stats().bytes;
    tensor::Arena exchange_arena(
        tensor::allocate_host(exchange_arena_bytes(kind, place_, limits(c, owners))).value());
    tensor::Arena arena(tensor::allocate_host(int64_t{1} << 20).value());

    const mesh::Range home = exchange.home(owners);
    EXPECT_LE(home.begin, owners.own.begin);
    EXPECT_GE(home.end, owners.own.end);
    const View rows = arena.allocate(DType::kF32, {home.size(), kColumns});
    const View experts = arena.allocate(DType::kI32, {home.size(), c.top_k});
    for (int64_t i = 0; i < home.size(); ++i) {
      for (int64_t j = 0; j < kColumns; ++j) {
        rows.f32()[i * kColumns + j] = c.value(place_.replica, home.begin + i, j);
      }
      for (int64_t s = 0; s < c.top_k; ++s) {
        experts.i32()[i * c.top_k + s] = c.choice(place_.replica, home.begin + i, s);
      }
    }
    const Arrivals arrivals = exchange.dispatch(exchange_arena, owners, rows, experts);
    Seen seen;
    const auto [results, positions] = compute(arena, arrivals, c.top_k, seen);
    const View out = arena.allocate(DType::kF32, {home.size() * c.top_k, kColumns});
    exchange.combine(exchange_arena, owners, results, positions, out);
    seen.results = results.rows();
    expect_identity(c, home, out);
    seen.bytes = {exchange.counters().dispatched_bytes - before.dispatched_bytes,
                  exchange.counters().combined_bytes - before.combined_bytes};
    seen.comm_bytes = groups_.expert_block().stats().bytes - comm_before;
    return seen;
  }

 private:
  ExchangeLimits limits(const Case& c, const RowOwners& owners) const {
    int64_t own = 0;
    for (int b = 0; b < place_.ranks(); ++b) own = std::max(own, owners.rows_of(b));
    return {.rows = owners.total(),
            .own_rows = own,
            .row_bytes = kRowBytes,
            .top_k = c.top_k,
            .pairs_per_row = c.top_k};
  }

  std::pair<View, std::vector<int32_t>> compute(tensor::Arena& arena, const Arrivals& arrivals,
                                                int64_t top_k, Seen& seen) const {
    std::vector<std::pair<int64_t, int32_t>> pairs;  // row and expert
    for (int64_t row = 0; row < arrivals.rows.rows(); ++row) {
      seen.arrived.push_back(arrivals.rows.f32()[row * kColumns]);
      for (int64_t s = 0; s < top_k; ++s) {
        const int32_t expert = arrivals.experts.i32()[row * top_k + s];
        if (place_.shard_of[static_cast<size_t>(expert)] == place_.expert_shard()) {
          pairs.emplace_back(row, expert);
        }
      }
    }
    // In falling order, so that positions matter.
    std::vector<int32_t> positions(pairs.size());
    std::iota(positions.rbegin(), positions.rend(), 0);
    const View results = arena.allocate(DType::kF32, {std::ssize(pairs), kColumns});
    for (size_t p = 0; p < pairs.size(); ++p) {
      float* to = results.f32() + positions[p] * kColumns;
      std::copy_n(arrivals.rows.f32() + pairs[p].first * kColumns, kColumns, to);
      to[kColumns - 1] = static_cast<float>(pairs[p].second);
    }
    return {results, positions};
  }

  void expect_identity(const Case& c, const mesh::Range& home, View out) const {
    for (int64_t i = 0; i < home.size(); ++i) {
      for (int64_t s = 0; s < c.top_k; ++s) {
        const float* row = out.f32() + (i * c.top_k + s) * kColumns;
        for (int64_t j = 0; j + 1 < kColumns; ++j) {
          ASSERT_EQ(row[j], c.value(place_.replica, home.begin + i, j));
        }
        ASSERT_EQ(row[kColumns - 1],
                  static_cast<float>(c.choice(place_.replica, home.begin + i, s)));
      }
    }
  }

  RankGroups groups_;
  const BlockPlace place_;
  std::unique_ptr<Exchange> exchanges_[2];
};

/// The formulas of docs/experts.md, from the choices alone.
struct Expected {
  int64_t dispatched = 0;
  int64_t combined = 0;
};

/// Every row of `place`'s block: its owner in the block, and the expert shards of its slots.
template <typename Visit>
void for_each_row(const Case& c, const BlockPlace& place, Visit visit) {
  for (int b = 0; b < place.ranks(); ++b) {
    BlockPlace owner = place;
    owner.rank = b;
    owner.shard = place.replicas == 1 ? place.shard - place.rank + b : b % place.tp;
    owner.replica = place.replicas == 1 ? place.replica : b / place.tp;
    const RowOwners owners(owner, c.replica_rows);
    for (int64_t row = owners.own.begin; row < owners.own.end; ++row) {
      std::vector<int> shards;
      for (int64_t s = 0; s < c.top_k; ++s) {
        shards.push_back(place.shard_of[static_cast<size_t>(c.choice(owner.replica, row, s))]);
      }
      visit(b, shards);
    }
  }
}

Expected all_to_all_bytes(const Case& c, const BlockPlace& place) {
  Expected out;
  for_each_row(c, place, [&](int owner, const std::vector<int>& shards) {
    std::set<int> ranks;
    for (const int shard : shards) {
      for (int j = 0; j < place.etp; ++j) ranks.insert(shard * place.etp + j);
      const bool from_here = shard * place.etp + owner % place.etp == place.rank;
      if (from_here && owner != place.rank) out.combined += kRowBytes;
    }
    ranks.erase(owner);
    if (owner == place.rank) {
      out.dispatched += std::ssize(ranks) * (kRowBytes + c.top_k * kIdBytes);
    }
  });
  return out;
}

Expected gather_bytes(const Case& c, const BlockPlace& place) {
  std::map<int, int64_t> owned;
  std::map<int, int64_t> results;
  for_each_row(c, place, [&](int owner, const std::vector<int>& shards) {
    ++owned[owner];
    for (const int shard : shards) ++results[shard];
  });
  Expected out;
  int64_t longest = 0;
  for (const auto& [owner, rows] : owned) longest = std::max(longest, rows);
  if (place.replicas > 1) out.dispatched = longest * (kRowBytes + c.top_k * kIdBytes);
  if (place.ep > 1) {
    for (const auto& [shard, n] : results) {
      out.combined = std::max(out.combined, (n + place.etp - 1) / place.etp * kRowBytes);
    }
  }
  return out;
}

void expect_formulas(const Case& c, const BlockPlace& place, ExchangeKind kind, const Seen& seen) {
  const bool gather = kind == ExchangeKind::kGather;
  const Expected expected = gather ? gather_bytes(c, place) : all_to_all_bytes(c, place);
  ASSERT_EQ(seen.bytes.dispatched_bytes, expected.dispatched);
  ASSERT_EQ(seen.bytes.combined_bytes, expected.combined);
  // What the communicator counted is that and, in all-to-all, the counts. A group of one is silent.
  const int64_t counts = gather || place.ranks() == 1 ? 0 : place.ep * kIdBytes;
  ASSERT_EQ(seen.comm_bytes, expected.dispatched + expected.combined + counts);
}

TEST(Exchange, ThereAndBackIsTheIdentityAndCostsWhatTheFormulaSays) {
  int cases = 0;
  for (const Layout& layout : layouts()) {
    constexpr int kCases = 24;
    SCOPED_TRACE(mesh::scheme_name(layout.config));
    const int ranks = layout.config.devices();
    comm::LocalWorld world(ranks);
    std::vector<std::vector<Seen>> seen(static_cast<size_t>(ranks));
    std::vector<BlockPlace> places(static_cast<size_t>(ranks));
    {
      std::vector<std::jthread> threads;
      for (int rank = 0; rank < ranks; ++rank) {
        threads.emplace_back([&, rank] {
          Player player(layout, world.communicator(rank));
          places[static_cast<size_t>(rank)] = player.place();
          for (int i = 0; i < kCases; ++i) {
            const Case c(layout, static_cast<uint32_t>(i));
            for (const ExchangeKind kind : {ExchangeKind::kGather, ExchangeKind::kAllToAll}) {
              seen[static_cast<size_t>(rank)].push_back(player.play(c, kind));
              expect_formulas(c, player.place(), kind, seen[static_cast<size_t>(rank)].back());
            }
          }
        });
      }
    }
    if (HasFailure()) return;
    for (int i = 0; i < 2 * kCases; ++i) {
      const Case c(layout, static_cast<uint32_t>(i / 2));
      int64_t results = 0;
      for (size_t r = 0; r < seen.size(); ++r) {
        const Seen& mine = seen[r][static_cast<size_t>(i)];
        // Each result is made once, by all shards of its expert, from the same rows in one order.
        if (places[r].etp_index() == 0) {
          results += mine.results;
        } else {
          ASSERT_EQ(mine.arrived, seen[r - 1][static_cast<size_t>(i)].arrived);
        }
      }
      const int64_t rows =
          std::accumulate(c.replica_rows.begin(), c.replica_rows.end(), int64_t{0});
      ASSERT_EQ(results, rows * c.top_k);
    }
    cases += kCases;
  }
  EXPECT_GE(cases, 1000);
}

TEST(Exchange, AutoGathersFewRowsAndSendsManyWhereTheyAreNeeded) {
  const BlockPlace two{.replicas = 2, .ep = 2};
  EXPECT_EQ(exchange_for(ExchangeKind::kAuto, two, 1), ExchangeKind::kGather);
  EXPECT_EQ(exchange_for(ExchangeKind::kAuto, two, 100'000), ExchangeKind::kAllToAll);
  EXPECT_EQ(exchange_for(ExchangeKind::kGather, two, 100'000), ExchangeKind::kGather);
  EXPECT_EQ(exchange_for(ExchangeKind::kAllToAll, two, 1), ExchangeKind::kAllToAll);
  const BlockPlace shards_of_all{.tp = 2, .ep = 1, .etp = 2};
  EXPECT_EQ(exchange_for(ExchangeKind::kAuto, shards_of_all, 100'000), ExchangeKind::kGather);
}

TEST(Exchange, HasItsNames) {
  for (const ExchangeKind kind :
       {ExchangeKind::kAuto, ExchangeKind::kGather, ExchangeKind::kAllToAll}) {
    EXPECT_EQ(parse_exchange(name_of(kind)).value(), kind);
  }
  EXPECT_EQ(parse_exchange("nccl").error().message,
            "there is no exchange \"nccl\"; expected auto, gather or alltoall");
}

}  // namespace
}  // namespace fourfold::model

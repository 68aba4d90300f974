#include "model/exchange.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/sizes.h"

namespace fourfold::model {
namespace {

constexpr std::array<std::pair<std::string_view, ExchangeKind>, 3> kNames = {{
    {"auto", ExchangeKind::kAuto},
    {"gather", ExchangeKind::kGather},
    {"alltoall", ExchangeKind::kAllToAll},
}};

/// Rows of a block up to which everybody gets all of them: fewer rounds of talk. Of 4 and 8 ranks
/// gather took 0.5 to 1 of the time of all-to-all up to 32 rows, and more than it from 64 to 128
/// rows; of 2 ranks the same up to 4 rows, then 1.03 to 1.1 (hidden 2048, threads on 2 cores of a
/// Zen 5).
constexpr int64_t kMostGatheredRows = 32;

constexpr int64_t kIdBytes = sizeof(int32_t);
/// Views of one exchange that live at once, each padded to a cache line.
constexpr int64_t kPadding = int64_t{64} * 8;

int64_t gather_bytes(const BlockPlace& place, const ExchangeLimits& limits) {
  const int64_t message = limits.row_bytes + limits.top_k * kIdBytes;
  int64_t arrivals = 0;
  int64_t dispatch = 0;
  int64_t combine = 0;
  if (place.replicas > 1) {
    arrivals = limits.rows * message;
    dispatch = (1 + place.ranks()) * limits.own_rows * message;
  }
  if (place.ep > 1) {
    combine = (1 + place.ranks()) * base::ceil_div(limits.rows * limits.pairs_per_row, place.etp) *
              limits.row_bytes;
  }
  return arrivals + std::max(dispatch, combine) + kPadding;
}

int64_t all_to_all_bytes(const BlockPlace& place, const ExchangeLimits& limits) {
  const int64_t message = limits.row_bytes + limits.top_k * kIdBytes;
  const int64_t copies = std::min<int64_t>(place.ep, limits.top_k) * place.etp;
  const int64_t dispatch = (limits.own_rows * copies + limits.rows) * message;
  const int64_t combine =
      (limits.rows * limits.pairs_per_row + limits.own_rows * limits.top_k) * limits.row_bytes;
  return limits.rows * message + std::max(dispatch, combine) + kPadding;
}

}  // namespace

std::string_view name_of(ExchangeKind kind) { return kNames.at(static_cast<size_t>(kind)).first; }

base::Result<ExchangeKind> parse_exchange(std::string_view name) {
  for (const auto& [known, kind] : kNames) {
    if (name == known) return kind;
  }
  return base::fail("there is no exchange \"{}\"; expected auto, gather or alltoall", name);
}

BlockPlace BlockPlace::of(const mesh::Mesh& mesh, int rank) {
  const mesh::ParallelConfig& config = mesh.config();
  const mesh::Coordinates at = mesh.coordinates(rank);
  BlockPlace place{.tp = config.tp,
                   .shard = at.shard,
                   .replicas = mesh.lockstep(),
                   .replica = at.replica % mesh.lockstep(),
                   .ep = config.ep,
                   .etp = config.etp,
                   .rank = rank - mesh.expert_block(rank).front(),
                   .shard_of = {}};
  for (int shard = 0; shard < config.ep; ++shard) {
    for (const int64_t expert : mesh.experts_of(shard)) {
      const auto index = static_cast<size_t>(expert);
      if (index >= place.shard_of.size()) place.shard_of.resize(index + 1);
      place.shard_of[index] = shard;
    }
  }
  return place;
}

RowOwners::RowOwners(const BlockPlace& place, std::span<const int64_t> replica_rows) {
  CHECK(std::ssize(replica_rows) == place.replicas, "rows of {} replicas, expected {}",
        replica_rows.size(), place.replicas);
  const auto begin_of = [&](int64_t rows, int shard) { return shard * rows / place.tp; };
  const int64_t rows = replica_rows[static_cast<size_t>(place.replica)];
  own = rows_of_shard(place, rows, place.shard);
  if (place.replicas == 1) {
    const int first_shard = place.shard - place.rank;
    in_block = {begin_of(rows, first_shard), begin_of(rows, first_shard + place.ranks())};
    for (int b = 0; b <= place.ranks(); ++b) {
      begins.push_back(begin_of(rows, first_shard + b) - in_block.begin);
    }
    return;
  }
  in_block = {0, rows};
  begins.push_back(0);
  for (int r = 0; r < place.replicas; ++r) {
    const int64_t before = begins.back();
    if (r == place.replica) first = before;
    for (int shard = 1; shard <= place.tp; ++shard) {
      begins.push_back(before + begin_of(replica_rows[static_cast<size_t>(r)], shard));
    }
  }
}

ExchangeKind exchange_for(ExchangeKind kind, const BlockPlace& place, int64_t rows) {
  if (kind != ExchangeKind::kAuto) return kind;
  // Where all ranks hold all rows and compute a part of every result nothing has to be exchanged.
  const bool all_here = place.replicas == 1 && place.ep == 1;
  return all_here || rows <= kMostGatheredRows ? ExchangeKind::kGather : ExchangeKind::kAllToAll;
}

int64_t exchange_arena_bytes(ExchangeKind kind, const BlockPlace& place,
                             const ExchangeLimits& limits) {
  switch (kind) {
    case ExchangeKind::kGather:
      return gather_bytes(place, limits);
    case ExchangeKind::kAllToAll:
      return all_to_all_bytes(place, limits);
    case ExchangeKind::kAuto:
      break;
  }
  ExchangeLimits few = limits;
  few.rows = std::min(few.rows, kMostGatheredRows);
  few.own_rows = std::min(few.own_rows, kMostGatheredRows);
  int64_t bytes = gather_bytes(place, few);
  if (exchange_for(kind, place, limits.rows) == ExchangeKind::kAllToAll) {
    bytes = std::max(bytes, all_to_all_bytes(place, limits));
  }
  return bytes;
}

}  // namespace fourfold::model

#include <algorithm>
#include <utility>
#include <vector>

#include "model/exchange.h"
#include "model/exchange_bytes.h"

namespace fourfold::model {
namespace {

using tensor::DType;
using tensor::View;

/// Every rank brings the rows that it owns: each goes once to every rank of each expert shard that
/// holds one of its experts. A result comes back from the one rank of its expert shard that has the
/// owner's place among the etp shards. What a rank gives to itself is not sent.
class AllToAllExchange final : public Exchange {
 public:
  AllToAllExchange(const BlockPlace& place, comm::Communicator& block)
      : place_(place),
        block_(block),
        rows_for_(static_cast<size_t>(place.ep)),
        slots_of_(static_cast<size_t>(place.ep)) {}

  mesh::Range home(const RowOwners& owners) const override { return owners.own; }
  Arrivals dispatch(tensor::Arena& arena, const RowOwners& owners, View rows,
                    View experts) override;
  void combine(tensor::Arena& arena, const RowOwners& owners, View results,
               std::span<const int32_t> positions, View out) override;

 private:
  using Offsets = std::vector<int64_t>;  ///< of each rank's bytes in a buffer, and the end

  /// bytes(rank) one after the other; those of this rank are left out.
  template <typename Bytes>
  Offsets offsets_of(Bytes bytes) const;
  void list_choices(View experts);
  void exchange_counts();
  size_t shard_of(const int32_t expert) const {
    return static_cast<size_t>(place_.shard_of[static_cast<size_t>(expert)]);
  }
  std::vector<int64_t> pairs_of_sources() const;
  /// Slots of own rows whose experts rank `b` holds.
  const std::vector<int32_t>& slots_from(int b) const {
    return slots_of_[static_cast<size_t>(b / place_.etp)];
  }

  const BlockPlace place_;
  comm::Communicator& block_;
  // Of the exchange in progress: by expert shard the own rows that go there, and their slots (row *
  // top_k + slot) whose experts are there, rising; and the rows that came from each rank.
  std::vector<std::vector<int32_t>> rows_for_;
  std::vector<std::vector<int32_t>> slots_of_;
  std::vector<int64_t> arrived_;
  Arrivals arrivals_;
};

template <typename Bytes>
AllToAllExchange::Offsets AllToAllExchange::offsets_of(Bytes bytes) const {
  Offsets out = {0};
  for (int b = 0; b < place_.ranks(); ++b) {
    out.push_back(out.back() + (b == place_.rank ? 0 : bytes(b)));
  }
  return out;
}

void AllToAllExchange::list_choices(View experts) {
  for (auto& list : rows_for_) list.clear();
  for (auto& list : slots_of_) list.clear();
  const int64_t top_k = experts.shape[1];
  for (int64_t i = 0; i < experts.shape.elements(); ++i) {
    const size_t shard = shard_of(experts.i32()[i]);
    const auto row = static_cast<int32_t>(i / top_k);
    slots_of_[shard].push_back(static_cast<int32_t>(i));
    if (rows_for_[shard].empty() || rows_for_[shard].back() != row) rows_for_[shard].push_back(row);
  }
}

/// How many rows each rank has for each expert shard.
void AllToAllExchange::exchange_counts() {
  std::vector<int32_t> mine;
  for (const auto& rows : rows_for_) mine.push_back(static_cast<int32_t>(rows.size()));
  std::vector<int32_t> all(mine.size() * static_cast<size_t>(place_.ranks()));
  block_.all_gather(std::as_bytes(std::span(mine)), std::as_writable_bytes(std::span(all)));
  arrived_.clear();
  for (auto i = static_cast<size_t>(place_.expert_shard()); i < all.size(); i += mine.size()) {
    arrived_.push_back(all[i]);
  }
}

Arrivals AllToAllExchange::dispatch(tensor::Arena& arena, const RowOwners& /*owners*/, View rows,
                                    View experts) {
  list_choices(experts);
  exchange_counts();
  int64_t total = 0;
  for (const int64_t n : arrived_) total += n;
  arrivals_ = {arena.allocate(rows.dtype, {total, rows.shape[1]}),
               arena.allocate(DType::kI32, {total, experts.shape[1]})};
  const int64_t mark = arena.mark();
  const int64_t message = row_bytes(rows) + row_bytes(experts);
  const auto rows_to = [&](int b) -> const std::vector<int32_t>& {
    return rows_for_[static_cast<size_t>(b / place_.etp)];
  };
  const Offsets to = offsets_of([&](int b) { return std::ssize(rows_to(b)) * message; });
  const Offsets from =
      offsets_of([&](int b) { return arrived_[static_cast<size_t>(b)] * message; });
  const std::span<std::byte> send = allocate_bytes(arena, to.back());
  const std::span<std::byte> recv = allocate_bytes(arena, from.back());

  // Rows, then their choices.
  const auto pack = [&](const std::vector<int32_t>& list, std::byte* row_to, std::byte* ids_to) {
    for (const int32_t row : list) {
      copy_bytes(row_at(rows, row), std::exchange(row_to, row_to + row_bytes(rows)),
                 row_bytes(rows));
      copy_bytes(row_at(experts, row), std::exchange(ids_to, ids_to + row_bytes(experts)),
                 row_bytes(experts));
    }
  };
  for (int b = 0; b < place_.ranks(); ++b) {
    if (b == place_.rank) continue;
    std::byte* begin = send.data() + to[static_cast<size_t>(b)];
    pack(rows_to(b), begin, begin + std::ssize(rows_to(b)) * row_bytes(rows));
  }
  block_.all_to_all_v(send, to, recv, from);
  counters_.dispatched_bytes += to.back();

  int64_t next = 0;
  for (int b = 0; b < place_.ranks(); ++b) {
    const int64_t count = arrived_[static_cast<size_t>(b)];
    std::byte* row_to = row_at(arrivals_.rows, next);
    std::byte* ids_to = row_at(arrivals_.experts, next);
    if (b == place_.rank) {
      pack(rows_to(b), row_to, ids_to);
    } else {
      const std::byte* theirs = recv.data() + from[static_cast<size_t>(b)];
      copy_bytes(theirs, row_to, count * row_bytes(rows));
      copy_bytes(theirs + count * row_bytes(rows), ids_to, count * row_bytes(experts));
    }
    next += count;
  }
  arena.release_to(mark);
  return arrivals_;
}

/// The results of each rank's rows: pairs [begins[b], begins[b + 1]).
std::vector<int64_t> AllToAllExchange::pairs_of_sources() const {
  std::vector<int64_t> begins = {0};
  const int32_t* expert = arrivals_.experts.i32();
  for (const int64_t rows : arrived_) {
    const int32_t* end = expert + rows * arrivals_.experts.shape[1];
    const int64_t pairs = std::count_if(expert, end, [&](int32_t e) {
      return shard_of(e) == static_cast<size_t>(place_.expert_shard());
    });
    begins.push_back(begins.back() + pairs);
    expert = end;
  }
  return begins;
}

void AllToAllExchange::combine(tensor::Arena& arena, const RowOwners& /*owners*/, View results,
                               std::span<const int32_t> positions, View out) {
  const std::vector<int64_t> begins = pairs_of_sources();
  const auto copy_result = [&](int64_t pair, std::byte* to) {
    copy_bytes(row_at(results, positions[static_cast<size_t>(pair)]), to, row_bytes(results));
  };
  // Those of this rank's own rows that it computed itself.
  const auto here = static_cast<size_t>(place_.expert_shard());
  const int64_t first = begins[static_cast<size_t>(place_.rank)];
  for (size_t i = 0; i < slots_of_[here].size(); ++i) {
    copy_result(first + static_cast<int64_t>(i), row_at(out, slots_of_[here][i]));
  }
  if (place_.ep == 1) return;

  const int64_t mark = arena.mark();
  // Owners and those who compute for them have the same place among the etp shards.
  const auto talks_to = [&](int b) { return b % place_.etp == place_.etp_index(); };
  const Offsets to = offsets_of([&](int b) {
    const auto index = static_cast<size_t>(b);
    return talks_to(b) ? (begins[index + 1] - begins[index]) * row_bytes(results) : 0;
  });
  const Offsets from = offsets_of(
      [&](int b) { return talks_to(b) ? std::ssize(slots_from(b)) * row_bytes(results) : 0; });
  const std::span<std::byte> send = allocate_bytes(arena, to.back());
  const std::span<std::byte> recv = allocate_bytes(arena, from.back());
  for (int b = 0; b < place_.ranks(); ++b) {
    if (b == place_.rank || !talks_to(b)) continue;
    std::byte* next = send.data() + to[static_cast<size_t>(b)];
    for (int64_t p = begins[static_cast<size_t>(b)]; p < begins[static_cast<size_t>(b) + 1]; ++p) {
      copy_result(p, std::exchange(next, next + row_bytes(results)));
    }
  }
  block_.all_to_all_v(send, to, recv, from);
  counters_.combined_bytes += to.back();
  for (int b = 0; b < place_.ranks(); ++b) {
    if (b == place_.rank || !talks_to(b)) continue;
    const std::byte* next = recv.data() + from[static_cast<size_t>(b)];
    for (const int32_t slot : slots_from(b)) {
      copy_bytes(std::exchange(next, next + row_bytes(out)), row_at(out, slot), row_bytes(out));
    }
  }
  arena.release_to(mark);
}

}  // namespace

std::unique_ptr<Exchange> make_all_to_all_exchange(const BlockPlace& place,
                                                   comm::Communicator& block) {
  return std::make_unique<AllToAllExchange>(place, block);
}

}  // namespace fourfold::model

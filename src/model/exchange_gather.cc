#include <algorithm>
#include <vector>

#include "base/sizes.h"
#include "model/exchange.h"
#include "model/exchange_bytes.h"

namespace fourfold::model {
namespace {

using tensor::DType;
using tensor::View;

/// Every rank sees all rows of the block and all choices, so it knows what every other one
/// computes. Inside one replica all shards hold the rows already.
class GatherExchange final : public Exchange {
 public:
  GatherExchange(const BlockPlace& place, comm::Communicator& block)
      : place_(place), block_(block) {}

  mesh::Range home(const RowOwners& owners) const override { return owners.in_block; }
  Arrivals dispatch(tensor::Arena& arena, const RowOwners& owners, View rows,
                    View experts) override;
  void combine(tensor::Arena& arena, const RowOwners& owners, View results,
               std::span<const int32_t> positions, View out) override;

 private:
  std::vector<int64_t> results_per_shard() const;
  void show_results(View results, std::span<const int32_t> positions, int64_t part,
                    std::span<std::byte> message) const;
  void take_results(const RowOwners& owners, std::span<const std::byte> all, int64_t longest,
                    std::span<const int64_t> parts, View out) const;
  size_t shard_of(int64_t row, int64_t slot) const {
    const int32_t expert = arrivals_.experts.i32()[row * arrivals_.experts.shape[1] + slot];
    return static_cast<size_t>(place_.shard_of[static_cast<size_t>(expert)]);
  }

  const BlockPlace place_;
  comm::Communicator& block_;
  Arrivals arrivals_;
};

Arrivals GatherExchange::dispatch(tensor::Arena& arena, const RowOwners& owners, View rows,
                                  View experts) {
  arrivals_ = {rows, experts};
  if (place_.replicas == 1) return arrivals_;

  arrivals_ = {arena.allocate(rows.dtype, {owners.total(), rows.shape[1]}),
               arena.allocate(DType::kI32, {owners.total(), experts.shape[1]})};
  const int64_t mark = arena.mark();
  // Each rank gives its rows, then their choices; who owns fewer rows than another fills up.
  int64_t longest = 0;
  for (int b = 0; b < place_.ranks(); ++b) longest = std::max(longest, owners.rows_of(b));
  const int64_t ids_at = longest * row_bytes(rows);
  const int64_t message = ids_at + longest * row_bytes(experts);
  const std::span<std::byte> mine = allocate_bytes(arena, message);
  const std::span<std::byte> all = allocate_bytes(arena, place_.ranks() * message);
  std::fill(mine.begin(), mine.end(), std::byte{0});
  const int64_t own = owners.own.size();
  copy_bytes(row_at(rows, owners.own.begin), mine.data(), own * row_bytes(rows));
  copy_bytes(row_at(experts, owners.own.begin), mine.data() + ids_at, own * row_bytes(experts));
  block_.all_gather(mine, all);
  counters_.dispatched_bytes += message;
  for (int b = 0; b < place_.ranks(); ++b) {
    const std::byte* theirs = all.data() + b * message;
    const int64_t begin = owners.begins[static_cast<size_t>(b)];
    const int64_t count = owners.rows_of(b);
    copy_bytes(theirs, row_at(arrivals_.rows, begin), count * row_bytes(rows));
    copy_bytes(theirs + ids_at, row_at(arrivals_.experts, begin), count * row_bytes(experts));
  }
  arena.release_to(mark);
  return arrivals_;
}

std::vector<int64_t> GatherExchange::results_per_shard() const {
  std::vector<int64_t> out(static_cast<size_t>(place_.ep), 0);
  for (int64_t row = 0; row < arrivals_.experts.rows(); ++row) {
    for (int64_t slot = 0; slot < arrivals_.experts.shape[1]; ++slot) ++out[shard_of(row, slot)];
  }
  return out;
}

/// This rank's part of what its expert shard computed.
void GatherExchange::show_results(View results, std::span<const int32_t> positions, int64_t part,
                                  std::span<std::byte> message) const {
  const int64_t begin = std::min(place_.etp_index() * part, std::ssize(positions));
  const int64_t end = std::min(begin + part, std::ssize(positions));
  std::fill(message.begin(), message.end(), std::byte{0});
  for (int64_t p = begin; p < end; ++p) {
    copy_bytes(row_at(results, positions[static_cast<size_t>(p)]),
               message.data() + (p - begin) * row_bytes(results), row_bytes(results));
  }
}

/// From what all ranks showed, `longest` results of each.
void GatherExchange::take_results(const RowOwners& owners, std::span<const std::byte> all,
                                  int64_t longest, std::span<const int64_t> parts, View out) const {
  const int64_t top_k = arrivals_.experts.shape[1];
  const int64_t end = owners.first + owners.in_block.size();
  std::vector<int64_t> next(parts.size(), 0);
  for (int64_t row = 0; row < end; ++row) {
    for (int64_t slot = 0; slot < top_k; ++slot) {
      const size_t shard = shard_of(row, slot);
      const int64_t result = next[shard]++;
      if (row < owners.first) continue;
      const int64_t rank = static_cast<int64_t>(shard) * place_.etp + result / parts[shard];
      copy_bytes(all.data() + (rank * longest + result % parts[shard]) * row_bytes(out),
                 row_at(out, (row - owners.first) * top_k + slot), row_bytes(out));
    }
  }
}

void GatherExchange::combine(tensor::Arena& arena, const RowOwners& owners, View results,
                             std::span<const int32_t> positions, View out) {
  if (place_.ep == 1) {  // each rank has every result
    const int64_t first_pair = owners.first * arrivals_.experts.shape[1];
    for (int64_t i = 0; i < out.rows(); ++i) {
      copy_bytes(row_at(results, positions[static_cast<size_t>(first_pair + i)]), row_at(out, i),
                 row_bytes(out));
    }
    return;
  }
  const int64_t mark = arena.mark();
  // The ranks of an expert shard hold the same results: each shows its part of them.
  std::vector<int64_t> parts = results_per_shard();
  for (int64_t& part : parts) part = base::ceil_div(part, place_.etp);
  const int64_t longest = *std::max_element(parts.begin(), parts.end());
  const int64_t message = longest * row_bytes(results);
  const std::span<std::byte> mine = allocate_bytes(arena, message);
  const std::span<std::byte> all = allocate_bytes(arena, place_.ranks() * message);
  show_results(results, positions, parts[static_cast<size_t>(place_.expert_shard())], mine);
  block_.all_gather(mine, all);
  counters_.combined_bytes += message;
  take_results(owners, all, longest, parts, out);
  arena.release_to(mark);
}

}  // namespace

std::unique_ptr<Exchange> make_gather_exchange(const BlockPlace& place, comm::Communicator& block) {
  return std::make_unique<GatherExchange>(place, block);
}

}  // namespace fourfold::model

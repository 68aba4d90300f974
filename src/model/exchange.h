#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "comm/communicator.h"
#include "mesh/mesh.h"
#include "tensor/buffer.h"
#include "tensor/view.h"

namespace fourfold::model {

/// How rows get to the ranks that hold their experts, and the results back (docs/experts.md).
enum class ExchangeKind {
  kAuto,      ///< gather for few rows, else all-to-all
  kGather,    ///< every rank gets all rows of its block
  kAllToAll,  ///< a row goes once to each rank that holds one of its experts
};
/// "auto", "gather", "alltoall"
std::string_view name_of(ExchangeKind kind);
base::Result<ExchangeKind> parse_exchange(std::string_view name);

/// Where a rank stands in its expert block, and what that block is made of.
struct BlockPlace {
  int tp = 1;
  int shard = 0;
  int replicas = 1;  ///< that the block covers; 1 where it lies within one
  int replica = 0;   ///< of these
  int ep = 1;
  int etp = 1;
  int rank = 0;               ///< in the block: expert shard * etp + shard of the expert
  std::vector<int> shard_of;  ///< of each expert, its expert shard

  int ranks() const { return ep * etp; }
  int expert_shard() const { return rank / etp; }
  int etp_index() const { return rank % etp; }

  static BlockPlace of(const mesh::Mesh& mesh, int rank);
};

/// Which rank owns which row in one exchange: shard s of tp owns rows [s * M / tp, (s + 1) * M /
/// tp) of its replica. The rows that the ranks of a block own are numbered by owner, in its order.
struct RowOwners {
  /// `replica_rows`: rows of each replica of the lockstep group.
  RowOwners(const BlockPlace& place, std::span<const int64_t> replica_rows);

  std::vector<int64_t> begins;  ///< rank b owns rows [begins[b], begins[b + 1]) of the block
  mesh::Range own;              ///< rows of the replica that this rank owns
  mesh::Range in_block;         ///< rows of the replica that some rank of this block owns
  int64_t first = 0;            ///< the number in the block of the first of these

  /// Rows of a replica of `rows` that its shard `shard` owns.
  static mesh::Range rows_of_shard(const BlockPlace& place, int64_t rows, int shard) {
    return {shard * rows / place.tp, (shard + 1) * rows / place.tp};
  }

  int64_t total() const { return begins.back(); }
  int64_t rows_of(int rank) const {
    return begins[static_cast<size_t>(rank) + 1] - begins[static_cast<size_t>(rank)];
  }
};

/// What came to a rank: rows of the block in their order, with all their choices.
struct Arrivals {
  tensor::View rows;     ///< activation dtype [N, H]
  tensor::View experts;  ///< i32 [N, top_k]
};

/// Bytes that a rank gave to others.
struct ExchangeCounters {
  int64_t dispatched_bytes = 0;  ///< rows and their choices
  int64_t combined_bytes = 0;    ///< results
};

/// Takes rows to their experts and the results back, between the ranks of one expert block. All of
/// them call dispatch() and then combine() with the same RowOwners. Views are host memory.
class Exchange {
 public:
  virtual ~Exchange() = default;

  /// The rows of the replica whose choices this rank has to bring: its own at least.
  virtual mesh::Range home(const RowOwners& owners) const = 0;

  /// rows: of home(), activation dtype [h, H]; experts i32 [h, top_k]. Gives every row of which an
  /// expert is here, and maybe others.
  virtual Arrivals dispatch(tensor::Arena& arena, const RowOwners& owners, tensor::View rows,
                            tensor::View experts) = 0;

  /// The pairs of an arrived row and one of its slots whose expert is here, in that order, are
  /// numbered from 0; `results` has that of pair p in row positions[p], activation dtype [R, H].
  /// out: result of each slot of each row of home(), activation dtype [h * top_k, H].
  virtual void combine(tensor::Arena& arena, const RowOwners& owners, tensor::View results,
                       std::span<const int32_t> positions, tensor::View out) = 0;

  const ExchangeCounters& counters() const { return counters_; }

 protected:
  ExchangeCounters counters_;
};

/// `block` holds the ranks of the block in their order; it outlives the exchange.
std::unique_ptr<Exchange> make_gather_exchange(const BlockPlace& place, comm::Communicator& block);
std::unique_ptr<Exchange> make_all_to_all_exchange(const BlockPlace& place,
                                                   comm::Communicator& block);

/// Which of the two `kind` means for so many rows of the block; never kAuto.
ExchangeKind exchange_for(ExchangeKind kind, const BlockPlace& place, int64_t rows);

/// The largest exchange that will be.
struct ExchangeLimits {
  int64_t rows = 0;      ///< of the block
  int64_t own_rows = 0;  ///< of one rank
  int64_t row_bytes = 0;
  int64_t top_k = 0;
  int64_t pairs_per_row = 0;  ///< of them those that one expert shard may hold
};
/// Arena bytes that dispatch() and combine() take together, arrivals included, on any rank.
int64_t exchange_arena_bytes(ExchangeKind kind, const BlockPlace& place,
                             const ExchangeLimits& limits);

}  // namespace fourfold::model

#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "base/strong_id.h"
#include "engine/replica_choice.h"
#include "http/url.h"
#include "route/estimate.h"
#include "route/replica_figures.h"
#include "route/replica_health.h"

namespace fourfold::route {

using ReplicaId = base::StrongId<struct ReplicaTag>;

struct Replica {
  ReplicaId id;
  http::Url url;
  std::string name;  ///< its URL as the user may write it
  ReplicaHealth health;
  bool draining = false;  ///< it finishes what it has
  int64_t requests = 0;   ///< under way, sent by this router
  int64_t tokens = 0;     ///< of them: prompts to compute and output to sample, at most
  /// Requests that others have there, as of the last figures.
  int64_t foreign_requests = 0;
  int64_t free_kv = kAllKv;                                 ///< in parts of kAllKv
  std::vector<std::pair<std::string, std::string>> models;  ///< id and JSON, as it lists them

  static constexpr int64_t kAllKv = 1000;

  bool takes_requests() const { return health.in_use() && !draining; }
};

/// A request's place on a replica: what it still costs there.
struct Place {
  ReplicaId replica;
  int64_t prompt_tokens = 0;  ///< to compute
  int64_t output_tokens = 0;  ///< to sample
};

/// The replicas, what each of them is busy with, and which one is to have the next request: the one
/// that engine::choose_replica() names among those that take requests and list the request's model
/// (all that take requests, where no replica lists it). Tokens outstanding are those of this
/// router's requests; each request that others have there counts as much as ours do on average.
/// What a prefix cache holds is guessed from the prompts that were sent there.
class ReplicaTable {
 public:
  /// Prefix blocks of a replica that are remembered, and their tokens: a million tokens.
  static constexpr int64_t kBlocks = 65536;
  static constexpr int32_t kBlockTokens = 16;

  ReplicaTable() : affinity_(0, kBlocks, kBlockTokens) {}

  /// Errors: it is there already. One that drains takes requests again.
  base::Result<ReplicaId> add(const http::Url& url);
  void remove(ReplicaId id);

  std::span<const Replica> all() const { return replicas_; }
  /// Null: it has been removed.
  Replica* find(ReplicaId id);
  Replica* find(const http::Url& url);
  /// How many take requests.
  int64_t in_use() const;

  /// Chooses a replica that is none of `tried` and counts the request there; none: there is no
  /// such replica.
  std::optional<Place> place(const Estimate& estimate, std::span<const ReplicaId> tried);
  /// The prompt is computed: a byte of the answer has come.
  void begun(Place& place);
  void sampled(Place& place, int64_t tokens);
  /// The request has left the replica.
  void leave(Place& place);

  void set_figures(Replica& replica, const ReplicaFigures& figures);
  /// It was out of use, so its cache is probably gone.
  void forget_prefixes(const Replica& replica);

 private:
  size_t index_of(const Replica& replica) const {
    return static_cast<size_t>(&replica - replicas_.data());
  }
  int64_t tokens_of_a_request() const;
  std::vector<size_t> candidates(const std::string& model, std::span<const ReplicaId> tried) const;

  std::vector<Replica> replicas_;
  engine::PrefixAffinity affinity_;
  int64_t next_id_ = 0;
};

}  // namespace fourfold::route

#include "route/replica_table.h"

#include <algorithm>
#include <cmath>

namespace fourfold::route {
namespace {

std::string name_of(const http::Url& url) { return "http://" + url.authority() + url.path; }

bool lists(const Replica& replica, const std::string& model) {
  return std::any_of(replica.models.begin(), replica.models.end(),
                     [&](const auto& entry) { return entry.first == model; });
}

}  // namespace

base::Result<ReplicaId> ReplicaTable::add(const http::Url& url) {
  if (Replica* known = find(url)) {
    if (!known->draining) return base::fail("{} is a replica already", known->name);
    known->draining = false;
    return known->id;
  }
  Replica replica;
  replica.id = ReplicaId(next_id_++);
  replica.url = url;
  replica.name = name_of(url);
  replicas_.push_back(std::move(replica));
  affinity_.add_replica();
  return replicas_.back().id;
}

void ReplicaTable::remove(ReplicaId id) {
  const Replica* replica = find(id);
  if (replica == nullptr) return;
  const size_t index = index_of(*replica);
  affinity_.remove_replica(index);
  replicas_.erase(replicas_.begin() + static_cast<std::ptrdiff_t>(index));
}

Replica* ReplicaTable::find(ReplicaId id) {
  const auto found = std::find_if(replicas_.begin(), replicas_.end(),
                                  [&](const Replica& replica) { return replica.id == id; });
  return found == replicas_.end() ? nullptr : &*found;
}

Replica* ReplicaTable::find(const http::Url& url) {
  const auto found =
      std::find_if(replicas_.begin(), replicas_.end(),
                   [name = name_of(url)](const Replica& replica) { return replica.name == name; });
  return found == replicas_.end() ? nullptr : &*found;
}

int64_t ReplicaTable::in_use() const {
  return std::count_if(replicas_.begin(), replicas_.end(),
                       [](const Replica& replica) { return replica.takes_requests(); });
}

/// On average of those under way; 0 if there is none.
int64_t ReplicaTable::tokens_of_a_request() const {
  int64_t tokens = 0;
  int64_t requests = 0;
  for (const Replica& replica : replicas_) {
    tokens += replica.tokens;
    requests += replica.requests;
  }
  return requests == 0 ? 0 : tokens / requests;
}

/// It takes requests, has not been tried, and lists the model, if any replica at all does: another
/// one would say that there is no such model.
std::vector<size_t> ReplicaTable::candidates(const std::string& model,
                                             std::span<const ReplicaId> tried) const {
  const bool listed = std::any_of(replicas_.begin(), replicas_.end(),
                                  [&](const Replica& replica) { return lists(replica, model); });
  std::vector<size_t> out;
  for (size_t i = 0; i < replicas_.size(); ++i) {
    const bool was_tried = std::find(tried.begin(), tried.end(), replicas_[i].id) != tried.end();
    const bool fits = !listed || lists(replicas_[i], model);
    if (replicas_[i].takes_requests() && fits && !was_tried) out.push_back(i);
  }
  return out;
}

std::optional<Place> ReplicaTable::place(const Estimate& estimate,
                                         std::span<const ReplicaId> tried) {
  const std::vector<size_t> choice = candidates(estimate.model, tried);
  if (choice.empty()) return std::nullopt;
  const std::vector<int64_t> known = affinity_.known_tokens(estimate.prompt);
  const int64_t average = tokens_of_a_request();
  std::vector<engine::ReplicaLoad> loads;
  for (const size_t i : choice) {
    loads.push_back(
        {.outstanding_tokens = replicas_[i].tokens + replicas_[i].foreign_requests * average,
         .free_blocks = replicas_[i].free_kv,
         .known_tokens = known[i]});
  }
  const size_t chosen = choice[engine::choose_replica(loads)];
  affinity_.record(chosen, estimate.prompt);
  Replica& replica = replicas_[chosen];
  const Place place{.replica = replica.id,
                    .prompt_tokens = estimate.prompt_tokens - known[chosen],
                    .output_tokens = estimate.output_tokens};
  ++replica.requests;
  replica.tokens += place.prompt_tokens + place.output_tokens;
  return place;
}

void ReplicaTable::begun(Place& place) {
  if (Replica* replica = find(place.replica)) replica->tokens -= place.prompt_tokens;
  place.prompt_tokens = 0;
}

void ReplicaTable::sampled(Place& place, int64_t tokens) {
  const int64_t counted = std::min(tokens, place.output_tokens);
  if (Replica* replica = find(place.replica)) replica->tokens -= counted;
  place.output_tokens -= counted;
}

void ReplicaTable::leave(Place& place) {
  begun(place);
  sampled(place, place.output_tokens);
  if (Replica* replica = find(place.replica)) --replica->requests;
}

void ReplicaTable::set_figures(Replica& replica, const ReplicaFigures& figures) {
  replica.free_kv = static_cast<int64_t>(
      std::lround((1 - figures.kv_usage.value_or(0)) * static_cast<double>(Replica::kAllKv)));
  replica.foreign_requests = std::max<int64_t>(figures.requests.value_or(0) - replica.requests, 0);
}

void ReplicaTable::forget_prefixes(const Replica& replica) { affinity_.clear(index_of(replica)); }

}  // namespace fourfold::route

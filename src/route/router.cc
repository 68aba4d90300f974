#include "route/router.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "files/json.h"
#include "files/printable.h"
#include "route/forward.h"

namespace fourfold::route {

using nlohmann::json;

/// What connects the router with a replica.
struct Router::Link {
  Link(const boost::asio::any_io_executor& executor, const http::Url& url) : pool(executor, url) {}
  ~Link() { prober->stop(); }

  http::ConnectionPool pool;
  std::shared_ptr<Prober> prober;
  bool probed = false;
};

Router::Router(http::Server& server, const base::Clock& clock, const RouterOptions& options)
    : server_(server),
      clock_(clock),
      options_(options),
      random_((uint64_t{std::random_device()()} << 32) | std::random_device()()) {}

Router::~Router() {
  while (!forwards_.empty()) forwards_.begin()->second->abandon();
}

base::Status Router::add(const http::Url& url) {
  if (stopped_) return base::fail("the router ends");
  FF_ASSIGN(const ReplicaId id, table_.add(url));
  if (links_.contains(id)) return {};  // it has been draining
  auto link = std::make_unique<Link>(server_.executor(), url);
  link->prober = std::make_shared<Prober>(
      server_.executor(), link->pool, options_.probe,
      [this] {
        std::vector<http::Header> headers;
        if (!replica_key_.empty()) headers.push_back({"Authorization", "Bearer " + replica_key_});
        return headers;
      },
      Prober::Handlers{.on_health = [this, id](const Fetched& health) { take_health(id, health); },
                       .on_metrics =
                           [this, id](const std::string& page) {
                             table_.set_figures(*table_.find(id), read_figures(page));
                           },
                       .on_models = [this, id](const std::string& body) { take_models(id, body); },
                       .on_round = [this, id] { end_round(id); }});
  link->prober->begin();
  links_.emplace(id, std::move(link));
  return {};
}

void Router::drain(Replica& replica) {
  replica.draining = true;
  spdlog::warn("{} drains: {} requests are under way", replica.name, replica.requests);
}

void Router::remove(ReplicaId id) {
  const Replica* replica = table_.find(id);
  if (replica == nullptr) return;
  spdlog::warn("{} is removed, {} requests are under way", replica->name, replica->requests);
  table_.find(id)->draining = true;  // none of them comes back
  for (const auto& forward : forwards_at(id)) forward->cut();
  table_.remove(id);
  links_.erase(id);
}

void Router::when_probed(std::function<void()> callback) {
  when_probed_ = std::move(callback);
  if (links_.empty()) server_.post([this] { std::exchange(when_probed_, nullptr)(); });
}

void Router::stop_probes() {
  stopped_ = true;
  for (const auto& [id, link] : links_) link->prober->stop();
}

void Router::forward(std::shared_ptr<http::Exchange> exchange) {
  budget_.count_request();
  const auto forward = std::make_shared<Forward>(*this, std::move(exchange));
  forwards_.emplace(forward.get(), forward);
  forward->begin();
}

std::string Router::new_request_id() { return fmt::format("req-{:016x}", random_()); }

std::shared_ptr<http::Call> Router::send(ReplicaId id, http::ClientRequest request,
                                         http::CallHandlers handlers) {
  return links_.at(id)->pool.send(std::move(request), std::move(handlers));
}

void Router::unreachable(ReplicaId id, const std::string& why) {
  Replica* replica = table_.find(id);
  if (replica != nullptr) tell(*replica, replica->health.unreachable(), why);
}

void Router::request_failed(ReplicaId id, const std::string& why) {
  Replica* replica = table_.find(id);
  if (replica != nullptr) tell(*replica, replica->health.request_failed(), why);
}

void Router::forget(const Forward& forward) { forwards_.erase(&forward); }

void Router::take_health(ReplicaId id, const Fetched& health) {
  Replica& replica = *table_.find(id);
  const std::string why =
      health.error ? health.error->message : fmt::format("/health says {}", health.status);
  if (health.error && health.error->kind == http::CallError::Kind::kShortage) {
    spdlog::warn("{} is not probed, for lack of what a connection needs: {}", replica.name, why);
    return;
  }
  const bool nobody = health.error && health.error->kind == http::CallError::Kind::kUnreachable;
  const ReplicaHealth::Change change =
      nobody ? replica.health.unreachable() : replica.health.probed(is_well(health));
  if (!links_.at(id)->probed && !replica.health.in_use()) {
    spdlog::warn("{} is not in use yet: {}", replica.name, why);
  }
  tell(replica, change, why);
  // Requests that wait for it may wait for long.
  if (change != ReplicaHealth::Change::kEjected) return;
  for (const auto& forward : forwards_at(id)) forward->move();
}

/// Of {"data": [{"id": …}, …]}; what looks otherwise is left out.
void Router::take_models(ReplicaId id, const std::string& body) {
  const auto list = files::parse_json(body, "/v1/models");
  if (!list.ok() || !list->is_object() || !list->contains("data")) return;
  Replica& replica = *table_.find(id);
  replica.models.clear();
  for (const json& model : list->at("data")) {
    if (!model.is_object() || !model.contains("id") || !model.at("id").is_string()) continue;
    replica.models.emplace_back(model.at("id").get<std::string>(), model.dump());
  }
}

void Router::end_round(ReplicaId id) {
  links_.at(id)->probed = true;
  const bool all = std::all_of(links_.begin(), links_.end(),
                               [](const auto& entry) { return entry.second->probed; });
  if (!all) return;
  if (const auto callback = std::exchange(when_probed_, nullptr)) callback();
}

void Router::tell(Replica& replica, ReplicaHealth::Change change, const std::string& why) {
  constexpr size_t kShownBytes = 300;
  if (change == ReplicaHealth::Change::kEjected) {
    spdlog::warn("{} gets no more requests: {}", replica.name, files::printable(why, kShownBytes));
  } else if (change == ReplicaHealth::Change::kReturned) {
    table_.forget_prefixes(replica);
    if (replica.health.ejections() > 0) spdlog::warn("{} gets requests again", replica.name);
  }
}

std::vector<std::shared_ptr<Forward>> Router::forwards_at(ReplicaId id) const {
  std::vector<std::shared_ptr<Forward>> out;
  for (const auto& [key, forward] : forwards_) {
    if (forward->replica() == id) out.push_back(forward);
  }
  return out;
}

}  // namespace fourfold::route

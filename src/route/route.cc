#include "route/route.h"

#include <fmt/format.h>

#include <memory>
#include <utility>

#include "base/log.h"
#include "files/printable.h"
#include "route/route_api.h"

namespace fourfold::route {
namespace {

std::string ready_text(const ReplicaTable& replicas, const std::string& url, bool key) {
  std::string out = fmt::format("Routing to {} of {} replicas at {}\n", replicas.in_use(),
                                replicas.all().size(), url);
  std::string model = "MODEL";
  for (const Replica& replica : replicas.all()) {
    std::string models;
    for (const auto& [id, text] : replica.models) {
      models += " " + files::printable(id);
      if (model == "MODEL") model = files::printable(id);
    }
    out += fmt::format("  replica   {}{}\n", replica.name,
                       replica.health.in_use() ? models : " (not in use yet)");
  }
  return out +
         fmt::format(
             "  try       curl {}/v1/completions -H 'Content-Type: application/json'{} -d "
             "'{{\"model\": \"{}\", \"prompt\": \"In the beginning\", \"max_tokens\": 32}}'\n",
             url, key ? " -H \"Authorization: Bearer $KEY\"" : "", model);
}

struct AllKeys {
  serve::Keys clients;
  serve::Keys admins;
  serve::Keys replicas;
};

base::Result<AllKeys> read_all_keys(const RouteOptions& options) {
  AllKeys out;
  FF_ASSIGN(out.clients, serve::read_keys(options.front));
  if (!options.admin_key_file.empty()) {
    FF_ASSIGN(out.admins, serve::Keys::read(options.admin_key_file));
  }
  if (!options.replica_key_file.empty()) {
    FF_ASSIGN(out.replicas, serve::Keys::read(options.replica_key_file));
  }
  return out;
}

}  // namespace

base::Status route(const RouteOptions& options,
                   const std::function<void(const std::string&)>& ready) {
  FF_ASSIGN(AllKeys keys, read_all_keys(options));
  if (options.replicas.empty() && !keys.admins.needed()) {
    return base::fail(
        "there is nothing to route to: give --replica URL, or --admin-key-file to add replicas "
        "later");
  }
  RouterOptions router_options = options.router;
  router_options.pass_keys = !keys.clients.needed();
  const base::SteadyClock clock;
  RouteApi* api = nullptr;  // until run() nobody asks for it
  FF_ASSIGN(const serve::SiteRules sites, serve::site_rules(options.front));
  FF_ASSIGN(
      const std::unique_ptr<http::Server> server,
      http::Server::listen(
          serve::server_options(
              options.front, sites,
              [&api](const http::Request& head) { return api->check_head(head); },
              /*descriptors=*/2),
          clock, serve::guarded(sites, [&api](const std::shared_ptr<http::Exchange>& exchange) {
            api->handle(exchange);
          })));

  Router router(*server, clock, router_options);
  router.set_replica_key(keys.replicas.first());
  for (const std::string& text : options.replicas) {
    FF_ASSIGN(const http::Url url, http::Url::parse(text));
    FF_TRY(router.add(url));
  }
  const bool key = keys.clients.needed();
  RouteApi own_api(*server, router, std::move(keys.clients), std::move(keys.admins));
  api = &own_api;
  int64_t cut = 0;
  serve::handle_signals(*server, options.front.shutdown_timeout_s,
                        {.open_requests = [&] { return router.open_requests(); },
                         .drain =
                             [&] {
                               own_api.set_draining();
                               router.stop_probes();
                             },
                         .read_keys_again =
                             [&] {
                               serve::read_keys_again(options.front.key_file,
                                                      own_api.client_keys());
                               serve::read_keys_again(options.admin_key_file, own_api.admin_keys());
                               serve::read_keys_again(options.replica_key_file, keys.replicas);
                               router.set_replica_key(keys.replicas.first());
                             }},
                        cut);
  router.when_probed([&] { ready(ready_text(router.replicas(), server->url(), key)); });
  server->run();
  if (cut > 0) return base::fail("{} requests were cut", cut);
  return {};
}

}  // namespace fourfold::route

#include "serve/serve.h"

#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <csignal>
#include <memory>
#include <utility>

#include "base/log.h"
#include "serve/api.h"
#include "serve/keys.h"

namespace fourfold::serve {
namespace {

constexpr int64_t kMaxConnections = 16384;
/// Descriptors for everything but connections: files, ranks, pipes.
constexpr int64_t kOtherDescriptors = 256;

/// Raises the limit of descriptors as far as it goes; how many connections that allows.
int64_t allow_connections() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return kOtherDescriptors;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  getrlimit(RLIMIT_NOFILE, &limit);
  const auto descriptors =
      static_cast<int64_t>(std::min<rlim_t>(limit.rlim_cur, kMaxConnections + kOtherDescriptors));
  return std::max<int64_t>(descriptors - kOtherDescriptors, descriptors / 2);
}

base::Result<Keys> read_keys(const ServeOptions& options) {
  if (!options.key_file.empty()) return Keys::read(options.key_file);
  FF_ASSIGN(const bool loopback, http::is_loopback(options.host));
  if (!loopback && !options.allow_no_auth) {
    return base::fail(
        "--host {} can be reached from other machines: give --api-key-file, or --allow-no-auth if "
        "everybody who reaches it may use it",
        options.host);
  }
  return Keys();
}

std::string ready_text(const ServedModel& model, const std::string& url, bool key) {
  return fmt::format(
      "Serving {} at {}\n"
      "  model id  {}\n"
      "  context   {} tokens\n"
      "  chat      {}\n"
      "  try       curl {}/v1/completions -H 'Content-Type: application/json'{} -d "
      "'{{\"model\": \"{}\", \"prompt\": \"In the beginning\", \"max_tokens\": 32}}'\n",
      model.root, url, model.id, model.context,
      model.chat_template ? "yes" : "no: " + model.no_chat_template, url,
      key ? " -H \"Authorization: Bearer $KEY\"" : "", model.id);
}

/// What the signals do.
void handle_signals(const ServeOptions& options, http::Server& server, Service& service, Api& api,
                    int64_t& cut) {
  const auto stop = [&] {
    cut = service.open_requests();
    server.stop();
  };
  const auto end = [&, stop, draining = std::make_shared<bool>(false)] {
    if (std::exchange(*draining, true)) return stop();
    spdlog::warn("ending: {} requests are under way and have {} s", service.open_requests(),
                 options.shutdown_timeout_s);
    api.set_draining();
    server.drain();
    server.after(options.shutdown_timeout_s * 1'000'000'000, stop);
  };
  server.on_signal(SIGTERM, end);
  server.on_signal(SIGINT, end);
  server.on_signal(SIGHUP, [&] {
    if (options.key_file.empty()) return;
    auto keys = Keys::read(options.key_file);
    if (keys.ok()) {
      api.set_keys(std::move(keys).value());
      spdlog::warn("the keys were read again");
    } else {
      spdlog::error("the old keys stay: {}", keys.error().message);
    }
  });
}

}  // namespace

base::Status serve(const ServeOptions& options, const runtime::StartProgress& progress,
                   const std::function<void(const std::string&)>& ready) {
  FF_ASSIGN(Keys keys, read_keys(options));
  FF_ASSIGN(const model::ModelSource source, runtime::open_source(options.cluster));
  FF_ASSIGN(const std::shared_ptr<const ServedModel> model,
            load_served_model(source, options.model_id, options.cluster.max_positions,
                              options.chat_template));
  const base::SteadyClock clock;
  Api* api = nullptr;  // until run() nobody asks for it
  FF_ASSIGN(
      const std::unique_ptr<http::Server> server,
      http::Server::listen(
          {.host = options.host, .port = options.port, .max_connections = allow_connections()},
          clock,
          [&api](const std::shared_ptr<http::Exchange>& exchange) { api->handle(exchange); }));
  FF_ASSIGN(const std::unique_ptr<runtime::Cluster> cluster,
            runtime::Cluster::start(options.cluster, progress));
  cluster->set_numerics(options.numerics);

  Service service(model, *cluster, *server, clock, options.service);
  const bool key = keys.needed();
  Api own_api(model, *cluster, *server, service, std::move(keys));
  api = &own_api;
  int64_t cut = 0;
  handle_signals(options, *server, service, own_api, cut);
  ready(ready_text(*model, server->url(), key));
  server->run();
  service.stop_workers();
  if (cut > 0) return base::fail("{} requests were cut", cut);
  return {};
}

}  // namespace fourfold::serve

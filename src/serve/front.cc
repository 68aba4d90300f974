#include "serve/front.h"

#include <sys/resource.h>

#include <algorithm>
#include <csignal>
#include <memory>
#include <utility>

#include "base/log.h"

namespace fourfold::serve {
namespace {

constexpr int64_t kMaxConnections = 16384;
/// Descriptors for everything but connections: files, ranks, pipes.
constexpr int64_t kOtherDescriptors = 256;

/// How many connections the limit of descriptors allows.
int64_t allow_connections(int64_t each) {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return kOtherDescriptors;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  getrlimit(RLIMIT_NOFILE, &limit);
  const auto descriptors = static_cast<int64_t>(
      std::min<rlim_t>(limit.rlim_cur, each * kMaxConnections + kOtherDescriptors));
  return std::max<int64_t>(descriptors - kOtherDescriptors, descriptors / 2) / each;
}

}  // namespace

base::Result<Keys> read_keys(const FrontOptions& options) {
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

base::Result<SiteRules> site_rules(const FrontOptions& options) {
  FF_ASSIGN(const bool loopback, http::is_loopback(options.host));
  std::vector<std::string> hosts;
  for (const std::string& text : options.allowed_hosts) {
    FF_ASSIGN(hosts.emplace_back(), parse_allowed_host(text));
  }
  std::vector<std::string> origins;
  for (const std::string& text : options.allowed_origins) {
    FF_ASSIGN(origins.emplace_back(), parse_allowed_origin(text));
  }
  const bool check_host = loopback || !hosts.empty();
  return SiteRules(check_host, std::move(hosts), std::move(origins));
}

http::ServerOptions server_options(const FrontOptions& options, const SiteRules& sites,
                                   CheckHead check_head, int64_t descriptors) {
  return {
      .host = options.host,
      .port = options.port,
      .max_connections = allow_connections(descriptors),
      .check_head =
          [&sites, check_head = std::move(check_head)](const http::Request& head) {
            std::optional<http::Response> refusal = sites.check(head);
            return refusal ? refusal : check_head(head);
          },
      .answer_headers = [&sites](const http::Request& head) { return sites.answer_headers(head); }};
}

http::Server::Handler guarded(const SiteRules& sites, http::Server::Handler handler) {
  return [&sites, handler = std::move(handler)](std::shared_ptr<http::Exchange> exchange) {
    if (auto refusal = sites.check(exchange->request())) {
      return exchange->respond(std::move(*refusal));
    }
    handler(std::move(exchange));
  };
}

void handle_signals(http::Server& server, int64_t shutdown_timeout_s, const FrontHooks& hooks,
                    int64_t& cut) {
  const auto stop = [&server, hooks, &cut] {
    cut = hooks.open_requests();
    server.stop();
  };
  const auto end = [&server, shutdown_timeout_s, hooks, stop,
                    draining = std::make_shared<bool>(false)] {
    if (std::exchange(*draining, true)) return stop();
    spdlog::warn("ending: {} requests are under way and have {} s", hooks.open_requests(),
                 shutdown_timeout_s);
    hooks.drain();
    server.drain();
    server.after(shutdown_timeout_s * 1'000'000'000, stop);
  };
  server.on_signal(SIGTERM, end);
  server.on_signal(SIGINT, end);
  server.on_signal(SIGHUP, hooks.read_keys_again);
}

void read_keys_again(const std::string& key_file, Keys& keys) {
  if (key_file.empty()) return;
  auto read = Keys::read(key_file);
  if (read.ok()) {
    keys = std::move(read).value();
    spdlog::warn("the keys were read again");
  } else {
    spdlog::error("the old keys stay: {}", read.error().message);
  }
}

}  // namespace fourfold::serve

#include "adapter/deployment.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdlib>

#include "base/machine.h"
#include "measure/endpoint.h"
#include "runtime/launch/rank_command.h"

namespace fourfold::adapter {
namespace {

namespace fs = std::filesystem;

constexpr std::chrono::milliseconds kTick(250);
constexpr std::chrono::seconds kRouterLimit(30);
constexpr std::chrono::seconds kTellEvery(10);

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

/// Appends, so that what an earlier start of the scheme said stays.
fs::path log_of(const fs::path& logs, const EngineOptions& options,
                const mesh::ParallelConfig& scheme, size_t server) {
  return logs /
         fmt::format("{}-{}-{}.log", name_of(options.engine), mesh::scheme_name(scheme), server);
}

}  // namespace

base::Result<fs::path> make_log_folder() {
  fs::path state;
  if (const char* given = std::getenv("XDG_STATE_HOME"); given != nullptr && *given == '/') {
    state = given;
  } else if (const char* home = std::getenv("HOME"); home != nullptr && *home == '/') {
    state = fs::path(home) / ".local" / "state";
  } else {
    return base::fail("neither XDG_STATE_HOME nor HOME says where logs of servers may be kept");
  }
  const fs::path folder =
      state / "fourfold" / "verify" / fmt::format("{}-{}", base::utc_date(), getpid());
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) return base::fail("cannot make the folder {}: {}", folder.string(), error.message());
  return folder;
}

base::Result<std::unique_ptr<Deployment>> Deployment::start(const EngineOptions& options,
                                                            const mesh::ParallelConfig& scheme,
                                                            const fs::path& logs,
                                                            const Progress& progress) {
  std::unique_ptr<Deployment> out(new Deployment());
  std::vector<std::string> urls = options.urls;
  if (options.engine == Engine::kOpenai) {
    out->api_key_ = options.api_key;
    for (const std::string& text : urls) {
      FF_ASSIGN(const http::Url url, http::Url::parse(text));
      FF_TRY(check_answers(url, options.api_key));
      out->url_ = url;
    }
  } else {
    FF_TRY(out->start_servers(options, scheme, logs, progress));
    for (const auto& server : out->servers_) urls.push_back("http://" + server->url().authority());
    out->url_ = out->servers_.front()->url();
  }
  if (urls.size() > 1) FF_TRY(out->start_router(urls, options, logs));
  return out;
}

base::Status Deployment::start_servers(const EngineOptions& options,
                                       const mesh::ParallelConfig& scheme, const fs::path& logs,
                                       const Progress& progress) {
  FF_ASSIGN(const std::string self, runtime::program_file(""));
  std::string command = self;
  if (options.engine != Engine::kFourfold) {
    const std::string name =
        options.command.empty() ? std::string(name_of(options.engine)) : options.command;
    FF_ASSIGN(command, find_command(name));
  }
  const auto begin = std::chrono::steady_clock::now();
  for (const ServerPlan& plan : server_plans(options, scheme)) {
    FF_ASSIGN(const uint16_t port, free_port());
    Server::Options server{.args = serve_args(options, plan, port),
                           .environment = environment(options, plan),
                           .log = log_of(logs, options, scheme, servers_.size()),
                           .port = port};
    server.args.insert(server.args.begin(), command);
    FF_ASSIGN(auto started, Server::start(server, self));
    servers_.push_back(std::move(started));
  }
  auto told = begin;
  for (const auto& server : servers_) {
    FF_TRY(wait_until_answers(server->url(), "", options.start_timeout, [&] {
      const auto now = std::chrono::steady_clock::now();
      if (now - told >= kTellEvery) {
        told = now;
        progress(fmt::format("starting for {:.0f} s\n", seconds_since(begin)));
      }
      return ended(kTick);
    }));
  }
  start_s_ = seconds_since(begin);
  return {};
}

base::Status Deployment::start_router(const std::vector<std::string>& urls,
                                      const EngineOptions& options, const fs::path& logs) {
  FF_ASSIGN(const std::string self, runtime::program_file(""));
  FF_ASSIGN(const uint16_t port, free_port());
  Server::Options router{
      .args = {self, "route", "--host", "127.0.0.1", "--port", std::to_string(port)},
      .environment = {},
      .log = logs / fmt::format("{}-route.log", name_of(options.engine)),
      .port = port};
  for (const std::string& url : urls) router.args.insert(router.args.end(), {"--replica", url});
  FF_ASSIGN(router_, Server::start(router, self));
  const base::Status ready = wait_until_answers(router_->url(), api_key_, kRouterLimit,
                                                [this] { return router_->ended(kTick); });
  if (!ready.ok()) return base::fail("fourfold route {}", ready.error().message);
  url_ = router_->url();
  return {};
}

std::optional<std::string> Deployment::ended(std::chrono::milliseconds limit) {
  for (size_t i = 0; i < servers_.size(); ++i) {
    const auto wait = i == 0 ? limit : std::chrono::milliseconds(0);
    if (const auto end = servers_[i]->ended(wait)) {
      return servers_.size() == 1 ? *end : fmt::format("{} (replica {})", *end, i);
    }
  }
  return std::nullopt;
}

ProcessUse Deployment::use() const {
  ProcessUse out;
  for (const auto& server : servers_) {
    const ProcessUse one = server->use();
    out.cpu_s += one.cpu_s;
    out.resident_bytes += one.resident_bytes;
  }
  return out;
}

}  // namespace fourfold::adapter

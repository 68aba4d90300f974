#include <cstdio>
#include <memory>

#include "cli/commands.h"
#include "cli/flags.h"
#include "route/route.h"

namespace fourfold::cli {
namespace {

struct RouteFlags {
  route::RouteOptions options;
  double probe_interval_s = 1;
  double probe_timeout_s = 5;
  double connect_timeout_s = 5;
  double request_timeout_s = 600;
};

int64_t nanoseconds(double seconds) { return static_cast<int64_t>(seconds * 1e9); }

base::Status route_requests(const RouteFlags& flags) {
  route::RouteOptions options = flags.options;
  options.router.probe = {.interval_ns = nanoseconds(flags.probe_interval_s),
                          .timeout_ns = nanoseconds(flags.probe_timeout_s)};
  options.router.connect_ns = nanoseconds(flags.connect_timeout_s);
  options.router.silence_ns = nanoseconds(flags.request_timeout_s);
  return route::route(options, [](const std::string& text) {
    fmt::print("{}", text);
    std::fflush(stdout);
  });
}

void add_replica_flags(CLI::App& command, RouteFlags& flags) {
  constexpr const char* kReplicas = "Replicas";
  command
      .add_option("--replica", flags.options.replicas,
                  "A server to route to, http://HOST[:PORT][/PATH]; once for each")
      ->type_name("URL")
      ->check(checked_by(http::Url::parse))
      ->group(kReplicas);
  command
      .add_option("--replica-api-key-file", flags.options.replica_key_file,
                  "The first key of this file is shown to replicas; read again on SIGHUP")
      ->type_name("FILE")
      ->check(CLI::ExistingFile)
      ->group(kReplicas);
  command
      .add_option(
          "--admin-key-file", flags.options.admin_key_file,
          "Keys of those who may list, add, drain and remove replicas (default: nobody may)")
      ->type_name("FILE")
      ->check(CLI::ExistingFile)
      ->group(kReplicas);
  const auto seconds = [&](const char* name, double& value, const char* help) {
    command.add_option(name, value, help)
        ->check(number_in(0.01, 86400))
        ->capture_default_str()
        ->group(kReplicas);
  };
  seconds("--probe-interval", flags.probe_interval_s, "Seconds between probes of a replica");
  seconds("--probe-timeout", flags.probe_timeout_s, "Seconds that a replica has to answer one");
  seconds("--connect-timeout", flags.connect_timeout_s, "Seconds that a connection may take");
  seconds("--request-timeout", flags.request_timeout_s,
          "Seconds without a byte after which a replica's answer is given up");
}

}  // namespace

Command add_route(CLI::App& app) {
  auto flags = std::make_shared<RouteFlags>();
  CLI::App* command =
      app.add_subcommand("route", "Route requests to OpenAI-compatible servers that already run");
  add_replica_flags(*command, *flags);
  add_front_flags(*command, flags->options.front);
  command->footer(
      "\nA replica that cannot be reached, or fails three times in a row, gets no requests until "
      "two\n"
      "probes are good. A request is sent to another one as long as nothing of its answer has "
      "come.\n"
      "\nExamples:\n"
      "  fourfold route --replica http://a:8000 --replica http://b:8000\n"
      "  fourfold route --replica http://a:8000 --host 0.0.0.0 --api-key-file keys.txt \\\n"
      "    --replica-api-key-file replica-key.txt --admin-key-file admin.txt\n"
      "\nPaths and the rule of choice: docs/route.md.");
  return [flags] {
    const base::Status status = route_requests(*flags);
    return status.ok() ? 0 : fail(status.error());
  };
}

}  // namespace fourfold::cli

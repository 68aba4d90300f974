#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <ctime>
#include <memory>

#include "base/clock.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "http/client.h"
#include "measure/top_view.h"
#include "runtime/launch/interrupt.h"

namespace fourfold::cli {
namespace {

struct TopFlags {
  std::string url = "http://127.0.0.1:8000";
  std::string key_file;
  double interval_s = 1;
  bool once = false;
};

class Watcher {
 public:
  Watcher(const http::Url& url, std::string key, double interval_s)
      : client_(url), key_(std::move(key)), interval_s_(interval_s) {}

  base::Result<measure::ServerLook> look() {
    http::ClientRequest request{.path = "/metrics", .limits = {.total_ns = kLookNs}};
    if (!key_.empty()) request.headers.push_back({"Authorization", "Bearer " + key_});
    FF_ASSIGN(http::Client::Reply reply,
              client_.fetch(std::move(request), {.stop = &runtime::interrupted}));
    if (reply.status == 401) {
      return base::fail("the server needs a key: give --api-key-file, or set OPENAI_API_KEY");
    }
    if (reply.status != 200) return base::fail("/metrics was answered with {}", reply.status);
    return measure::ServerLook{std::move(reply.body), static_cast<double>(clock_.now_ns()) * 1e-9};
  }
  /// Until the next look is due.
  void wait() const {
    timespec rest{.tv_sec = static_cast<time_t>(interval_s_),
                  .tv_nsec = static_cast<long>((interval_s_ - std::floor(interval_s_)) * 1e9)};
    // A signal ends it early.
    if (!runtime::interrupted()) nanosleep(&rest, nullptr);
  }

 private:
  static constexpr int64_t kLookNs = 10'000'000'000;

  http::Client client_;
  std::string key_;
  double interval_s_;
  base::SteadyClock clock_;
};

base::Status watch(const TopFlags& flags) {
  FF_ASSIGN(const http::Url url, http::Url::parse(flags.url));
  FF_ASSIGN(std::string key, read_api_key(flags.key_file));
  Watcher watcher(url, std::move(key), flags.interval_s);
  FF_ASSIGN(measure::ServerLook before, watcher.look());
  const bool once = flags.once || isatty(STDOUT_FILENO) == 0;
  while (true) {
    watcher.wait();
    if (runtime::interrupted()) return {};
    base::Result<measure::ServerLook> now = watcher.look();
    if (once) {
      FF_TRY(now);
      fmt::print("{}", measure::top_view(before, *now));
      return {};
    }
    // Home, what is there anew, and the rest cleared: nothing flickers.
    fmt::print("\033[H\033[2J{}  (every {:g} s; Ctrl-C ends)\n\n{}", flags.url, flags.interval_s,
               now.ok() ? measure::top_view(before, *now) : now.error().message + "\n");
    std::fflush(stdout);
    if (now.ok()) before = std::move(now).value();
  }
}

}  // namespace

Command add_top(CLI::App& app) {
  auto flags = std::make_shared<TopFlags>();
  CLI::App* command = app.add_subcommand("top", "What a server, or a router, is doing right now");
  command->add_option("URL,--url", flags->url, "Where it is")
      ->check(checked_by(http::Url::parse))
      ->capture_default_str();
  command->add_option("--api-key-file", flags->key_file, "A file whose first line is the key")
      ->type_name("FILE")
      ->check(CLI::ExistingFile);
  command->add_option("--interval", flags->interval_s, "Seconds between looks")
      ->check(number_in(0.1, 3600))
      ->capture_default_str();
  command->add_flag("--once", flags->once,
                    "Print one view, of two looks, and end; so where stdout is no terminal");
  command->footer(
      "\nReads /metrics of fourfold serve, fourfold route or vLLM. Rates are those between two "
      "looks;\nmedians too, where something happened between them, else since the server's start.\n"
      "A key is read from --api-key-file or the environment variable OPENAI_API_KEY.\n"
      "\nExamples:\n"
      "  fourfold top\n"
      "  fourfold top http://gpu:8000 --once");
  return [flags] {
    const base::Status status = watch(*flags);
    return status.ok() ? 0 : fail(status.error());
  };
}

}  // namespace fourfold::cli

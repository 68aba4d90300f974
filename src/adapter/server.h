#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "http/url.h"
#include "runtime/launch/child_process.h"
#include "runtime/launch/run_dir.h"

namespace fourfold::adapter {

/// What a server and all its processes have used, as /proc counts.
struct ProcessUse {
  double cpu_s = 0;
  int64_t resident_bytes = 0;  ///< pages that processes share count once for each
};

/// The last lines of a log that tell why a program has ended: the last that names an error, else
/// the last ones with words in them; without colours, one line. "" of a log without words.
std::string last_words(const std::string& log);

/// A port of 127.0.0.1 on which nobody listens now.
base::Result<uint16_t> free_port();

/// The program of this name: a path, or what the shell would find.
base::Result<std::string> find_command(const std::string& name);

/// A server in a process group of its own, under a guard (runtime/launch/guard.h): none of its
/// processes outlives this object or this program, however that ends.
class Server {
 public:
  struct Options {
    std::vector<std::string> args;         ///< args[0] is a path
    std::vector<std::string> environment;  ///< "NAME=value", on top of this program's own
    std::filesystem::path log;             ///< gets its output
    uint16_t port = 0;                     ///< where it will listen
  };
  /// `guard`: this program's file.
  static base::Result<std::unique_ptr<Server>> start(const Options& options,
                                                     const std::string& guard);
  /// Asks it to end and waits kEndLimit for it; then whatever is left is killed.
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  static constexpr std::chrono::seconds kEndLimit{10};

  const http::Url& url() const { return url_; }
  /// How it ended and its last words, at most `limit` from now; nothing while it runs.
  std::optional<std::string> ended(std::chrono::milliseconds limit);
  ProcessUse use() const;

 private:
  Server(runtime::RunDir run_dir, runtime::ChildProcess guard, std::filesystem::path log,
         uint16_t port);

  runtime::RunDir run_dir_;
  runtime::ChildProcess guard_;
  std::filesystem::path log_;
  http::Url url_;
};

/// Whether a server that runs already answers a request now, which a green /health does not tell.
/// Errors: it cannot be reached, refuses the key or the request.
base::Status check_answers(const http::Url& url, const std::string& api_key);

/// Waits until a server that is starting answers a request. `ended` is asked again and again and
/// takes its time, so that this does not spin. Errors: it ends, refuses the request or the key, or
/// does not answer in time.
base::Status wait_until_answers(const http::Url& url, const std::string& api_key,
                                std::chrono::seconds limit,
                                const std::function<std::optional<std::string>()>& ended);

}  // namespace fourfold::adapter

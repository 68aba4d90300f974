#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "adapter/engine.h"
#include "adapter/server.h"

namespace fourfold::adapter {

/// A new folder for the logs of servers, in $XDG_STATE_HOME or ~/.local/state.
base::Result<std::filesystem::path> make_log_folder();

/// One scheme of an engine as one server to talk to: the engine's own, or several of them behind
/// `fourfold route`.
class Deployment {
 public:
  using Progress = std::function<void(const std::string&)>;

  /// Starts it and waits until every server has answered a request. Errors: a sentence, with the
  /// engine's last words where it has ended.
  static base::Result<std::unique_ptr<Deployment>> start(const EngineOptions& options,
                                                         const mesh::ParallelConfig& scheme,
                                                         const std::filesystem::path& logs,
                                                         const Progress& progress);

  const http::Url& url() const { return url_; }
  const std::string& api_key() const { return api_key_; }
  /// From the start to the first answer of the last server; 0 where they run already.
  double start_s() const { return start_s_; }
  bool own() const { return !servers_.empty(); }
  /// How a server of it ended, within `limit`; nothing while all run.
  std::optional<std::string> ended(std::chrono::milliseconds limit);
  /// Of the engine's processes; the router's are not the engine's.
  ProcessUse use() const;

 private:
  Deployment() = default;
  base::Status start_servers(const EngineOptions& options, const mesh::ParallelConfig& scheme,
                             const std::filesystem::path& logs, const Progress& progress);
  base::Status start_router(const std::vector<std::string>& urls, const EngineOptions& options,
                            const std::filesystem::path& logs);

  http::Url url_;
  std::string api_key_;
  double start_s_ = 0;
  std::vector<std::unique_ptr<Server>> servers_;
  std::unique_ptr<Server> router_;
};

}  // namespace fourfold::adapter

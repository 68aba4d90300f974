#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "mesh/mesh.h"

namespace fourfold::adapter {

/// A server of models that this program can start, or that runs already.
enum class Engine : uint8_t { kFourfold, kVllm, kSglang, kOpenai };

/// "fourfold", "vllm", "sglang" or "openai".
std::string_view name_of(Engine engine);
base::Result<Engine> parse_engine(std::string_view name);

/// Who has the replicas of a scheme.
enum class DpMode : uint8_t {
  kInstances,  ///< one server each, with devices of its own, behind `fourfold route`
  kEngine,     ///< one server, by the engine's own flag
};

/// How an engine is started, whatever the scheme.
struct EngineOptions {
  Engine engine = Engine::kVllm;
  std::string model;
  std::string command;            ///< instead of the engine's own name; "": that name
  std::vector<std::string> args;  ///< more arguments, as they are
  DpMode dp_mode = DpMode::kInstances;
  bool gpus = false;                        ///< devices are GPUs; else cores
  std::vector<int> cores = {};              ///< that may be used
  int cpus_per_device = 1;                  ///< where devices are cores
  std::chrono::seconds start_timeout{600};  ///< until a request is answered
  std::vector<std::string> urls = {};       ///< of servers that run already (kOpenai)
  std::string label = {};                   ///< what those are called in tables; "": "openai"
  std::string api_key = {};                 ///< shown to servers that run already; "": none
};

/// Why the engine cannot run a scheme, as far as that is known before it is tried; nothing where it
/// may be able to.
std::optional<std::string> cannot_run(const EngineOptions& options,
                                      const mesh::ParallelConfig& scheme);

/// One server's part of a scheme.
struct ServerPlan {
  mesh::ParallelConfig scheme;  ///< of this server alone
  int first_device = 0;
};
/// The servers that make up a scheme: one, or one for each replica (DpMode).
std::vector<ServerPlan> server_plans(const EngineOptions& options,
                                     const mesh::ParallelConfig& scheme);

/// The arguments after the command itself that serve the model on 127.0.0.1:`port`.
std::vector<std::string> serve_args(const EngineOptions& options, const ServerPlan& plan,
                                    uint16_t port);
/// "NAME=value": which devices the server has.
std::vector<std::string> environment(const EngineOptions& options, const ServerPlan& plan);

}  // namespace fourfold::adapter

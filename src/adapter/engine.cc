#include "adapter/engine.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <utility>

namespace fourfold::adapter {
namespace {

constexpr std::array<std::pair<Engine, std::string_view>, 4> kNames = {
    {{Engine::kFourfold, "fourfold"},
     {Engine::kVllm, "vllm"},
     {Engine::kSglang, "sglang"},
     {Engine::kOpenai, "openai"}}};

/// How an engine writes the sizes of a scheme.
struct SizeFlags {
  const char* tp;
  const char* pp;
  const char* dp;
};
constexpr SizeFlags kLongFlags = {"--tensor-parallel-size", "--pipeline-parallel-size",
                                  "--data-parallel-size"};
constexpr SizeFlags kSglangFlags = {"--tp-size", "--pp-size", "--dp-size"};

void add_size(std::vector<std::string>& args, const char* flag, int size) {
  if (size > 1) args.insert(args.end(), {flag, std::to_string(size)});
}

/// "0-3" or "5": the cores of one device.
std::string cores_of(const EngineOptions& options, int device) {
  std::vector<int> cores;
  for (int i = 0; i < options.cpus_per_device; ++i) {
    const int64_t at = int64_t{device} * options.cpus_per_device + i;
    // Where devices outnumber the cores they share them, as everywhere in this program.
    cores.push_back(options.cores[static_cast<size_t>(at) % options.cores.size()]);
  }
  return fmt::format("{}", fmt::join(cores, ","));
}

}  // namespace

std::string_view name_of(Engine engine) {
  for (const auto& [value, name] : kNames) {
    if (value == engine) return name;
  }
  return "";
}

base::Result<Engine> parse_engine(std::string_view name) {
  for (const auto& [value, known] : kNames) {
    if (known == name) return value;
  }
  return base::fail("unknown engine \"{}\": expected fourfold, vllm, sglang or openai", name);
}

std::optional<std::string> cannot_run(const EngineOptions& options,
                                      const mesh::ParallelConfig& scheme) {
  if (options.engine == Engine::kFourfold || options.engine == Engine::kOpenai) return std::nullopt;
  const std::string_view name = name_of(options.engine);
  if (scheme.etp > 0)
    return fmt::format("{} has no flag for the tensor parallelism of experts", name);
  if (scheme.ep == 1) return std::nullopt;
  if (options.engine == Engine::kVllm && !options.gpus) {
    return "vLLM on CPUs (0.32 was seen) starts with expert parallelism, reports that it is "
           "healthy, and fails at the first request";
  }
  const bool instances = options.dp_mode == DpMode::kInstances;
  const int ranks = instances ? scheme.tp : scheme.tp * scheme.dp;
  if (options.engine == Engine::kVllm && scheme.ep != ranks) {
    return fmt::format(
        "vLLM splits experts over all ranks of a server, here {}, not over {}{}", ranks, scheme.ep,
        instances && scheme.dp > 1 ? " (--dp-mode engine lets replicas share experts)" : "");
  }
  if (options.engine == Engine::kSglang && scheme.tp % scheme.ep != 0) {
    return fmt::format("SGLang splits experts over its tp ranks, and {} does not divide {}",
                       scheme.ep, scheme.tp);
  }
  return std::nullopt;
}

std::vector<ServerPlan> server_plans(const EngineOptions& options,
                                     const mesh::ParallelConfig& scheme) {
  if (options.dp_mode == DpMode::kEngine || scheme.dp == 1) return {{.scheme = scheme}};
  std::vector<ServerPlan> out;
  ServerPlan plan{.scheme = scheme};
  plan.scheme.dp = 1;
  for (int replica = 0; replica < scheme.dp; ++replica) {
    out.push_back(plan);
    plan.first_device += plan.scheme.devices();
  }
  return out;
}

std::vector<std::string> serve_args(const EngineOptions& options, const ServerPlan& plan,
                                    uint16_t port) {
  const bool sglang = options.engine == Engine::kSglang;
  std::vector<std::string> args;
  if (sglang) {
    args = {"serve", "--model-path", options.model};
  } else {
    args = {"serve", options.model};
  }
  args.insert(args.end(), {"--host", "127.0.0.1", "--port", std::to_string(port)});
  const SizeFlags& flags = sglang ? kSglangFlags : kLongFlags;
  add_size(args, flags.tp, plan.scheme.tp);
  add_size(args, flags.pp, plan.scheme.pp);
  add_size(args, flags.dp, plan.scheme.dp);
  switch (options.engine) {
    case Engine::kFourfold:
      add_size(args, "--expert-parallel-size", plan.scheme.ep);
      add_size(args, "--expert-tensor-parallel-size", plan.scheme.etp);
      args.insert(args.end(), {"--cpus-per-device", std::to_string(options.cpus_per_device)});
      break;
    case Engine::kVllm:
      if (plan.scheme.ep > 1) args.emplace_back("--enable-expert-parallel");
      break;
    case Engine::kSglang:
      add_size(args, "--ep-size", plan.scheme.ep);
      break;
    case Engine::kOpenai:
      break;
  }
  args.insert(args.end(), options.args.begin(), options.args.end());
  return args;
}

std::vector<std::string> environment(const EngineOptions& options, const ServerPlan& plan) {
  std::vector<std::string> devices;
  for (int i = 0; i < plan.scheme.devices(); ++i) {
    const int device = plan.first_device + i;
    devices.push_back(options.gpus ? std::to_string(device) : cores_of(options, device));
  }
  if (options.gpus) return {fmt::format("CUDA_VISIBLE_DEVICES={}", fmt::join(devices, ","))};
  // vLLM keeps a core for its front unless it is told the cores of each rank.
  if (options.engine == Engine::kVllm && !options.cores.empty()) {
    return {fmt::format("VLLM_CPU_OMP_THREADS_BIND={}", fmt::join(devices, "|"))};
  }
  return {};
}

}  // namespace fourfold::adapter

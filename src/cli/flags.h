#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/numerics.h"
#include "base/result.h"
#include "engine/sampling.h"
#include "mesh/mesh.h"
#include "runtime/cluster.h"
#include "serve/front.h"

namespace fourfold::cli {

/// argv with vLLM's two-letter short flags (-tp, -pp, -dp, -ep, -etp) spelled out, which the parser
/// cannot express.
std::vector<std::string> normalise(int argc, const char* const* argv);

/// The one of `known` nearest to `wanted` by edit distance, or "" if none is near.
std::string nearest(const std::vector<std::string>& known, std::string_view wanted);

/// The known flag nearest to `flag` by edit distance, or "" if none is near.
std::string nearest_flag(const CLI::App& app, const std::string& flag);

/// Flags of every command that runs a model. One table: names as vLLM users know them.
struct ModelFlags {
  std::string model = "tiny";
  std::string load_format = "auto";
  uint64_t dummy_seed = 0;
  std::string dummy_routing = "natural";
  std::string backend = "auto";
  std::string isa;
  std::string ranks = "auto";
  std::string numerics = "fast";
  int cpus_per_device = 1;
  int block_size = 16;
  std::string kv_cache_memory;
  int max_model_len = 0;
  int max_num_seqs = 256;
  double gpu_memory_utilization = 0.9;
  int max_num_batched_tokens = 0;  ///< 0: what suits the backend
  bool prefix_caching = true;
  std::string expert_placement = "linear";
  std::string expert_exchange = "auto";

  void add_to(CLI::App& app);
  /// Everything but the scheme.
  base::Result<runtime::ClusterConfig> cluster_config() const;
  /// --numerics, for Cluster::set_numerics.
  base::Numerics numerics_of_steps() const;
};

/// Flags for one scheme.
struct ParallelFlags {
  mesh::ParallelConfig config;
  bool enable_expert_parallel = false;

  void add_to(CLI::App& app);
  /// Sets config.scheme. Errors: --enable-expert-parallel with a model that cannot be opened, a
  /// dense one, or sizes that leave no ep above 1.
  base::Status set_scheme(runtime::ClusterConfig& config) const;
};

/// How tokens are drawn. Set the members to what holds by default before add_to.
struct SamplingFlags {
  double temperature = 0;
  int top_k = 0;
  double top_p = 1;
  double min_p = 0;

  void add_to(CLI::App& app);
  engine::SamplingParams params() const;
};

/// Where a server listens, whom it serves and how it ends.
inline constexpr const char* kServerGroup = "Server";
void add_front_flags(CLI::App& app, serve::FrontOptions& options);

/// "512MiB", "2GB", "1073741824" as bytes.
base::Result<int64_t> parse_bytes(const std::string& text);

/// "1,8,16" as different numbers from 1 to 65536.
base::Result<std::vector<int>> parse_int_list(const std::string& text);

/// A CLI11 check of a flag's text by a function that parses it to a Result.
template <typename Parse>
std::function<std::string(const std::string&)> checked_by(Parse parse) {
  return [parse](const std::string& text) {
    const auto parsed = parse(text);
    return parsed.ok() ? std::string() : parsed.error().message;
  };
}

/// A CLI11 check for a number in [least, most]; CLI11's own lets what is not a number pass.
std::function<std::string(const std::string&)> number_in(double least, double most);
/// The same for a seed, which CLI11 would take modulo 2^64.
base::Result<uint64_t> parse_seed(const std::string& text);

/// Minutes of measuring should not end in a file that cannot be written: to be asked before. An
/// empty path is a flag that was not given.
base::Status check_writable(std::string_view flag, const std::string& path);
/// Writes a flag's file. Errors: it cannot be written.
base::Status write_file(std::string_view flag, const std::string& path, std::string_view text);

/// The key to show to a server: the first of a file of keys, or without a file that of the
/// environment variable OPENAI_API_KEY; "": none. Errors: no such key.
base::Result<std::string> read_api_key(const std::string& path);

/// Prints "fourfold: MESSAGE" to stderr and returns the exit code for it.
int fail(const base::Error& error);

}  // namespace fourfold::cli

#include "cli/flags.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string_view>

#include "base/sizes.h"
#include "model/dummy_routing.h"
#include "model/exchange.h"
#include "runtime/expert_placement.h"

namespace fourfold::cli {
namespace {

constexpr std::array<std::pair<std::string_view, std::string_view>, 5> kShortFlags = {{
    {"-tp", "--tensor-parallel-size"},
    {"-pp", "--pipeline-parallel-size"},
    {"-dp", "--data-parallel-size"},
    {"-ep", "--expert-parallel-size"},
    {"-etp", "--expert-tensor-parallel-size"},
}};

int edit_distance(std::string_view a, std::string_view b) {
  std::vector<int> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = static_cast<int>(j);
  for (size_t i = 1; i <= a.size(); ++i) {
    int diagonal = row[0];
    row[0] = static_cast<int>(i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const int substitute = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substitute});
    }
  }
  return row.back();
}

}  // namespace

std::vector<std::string> normalise(int argc, const char* const* argv) {
  std::vector<std::string> out;
  for (int i = 1; i < argc; ++i) {
    const std::string_view arg = argv[i];
    const size_t equals = arg.find('=');
    const std::string_view flag = arg.substr(0, equals);
    const auto* it = std::find_if(kShortFlags.begin(), kShortFlags.end(),
                                  [&](const auto& entry) { return entry.first == flag; });
    if (it == kShortFlags.end()) {
      out.emplace_back(arg);
    } else {
      out.emplace_back(it->second);
      if (equals != std::string_view::npos) out.back() += arg.substr(equals);
    }
  }
  return out;
}

std::string nearest(const std::vector<std::string>& known, std::string_view wanted) {
  std::string best;
  int best_distance = std::max(2, static_cast<int>(wanted.size()) / 3);
  for (const std::string& name : known) {
    const int distance = edit_distance(wanted, name);
    if (distance <= best_distance) {
      best = name;
      best_distance = distance - 1;
    }
  }
  return best;
}

std::string nearest_flag(const CLI::App& app, const std::string& flag) {
  std::vector<std::string> known;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) known.push_back("--" + name);
  }
  return nearest(known, flag.substr(0, flag.find('=')));
}

void SamplingFlags::add_to(CLI::App& app) {
  app.add_option("--temperature", temperature, "0: always the most likely token")
      ->check(number_in(0.0, 100.0))
      ->capture_default_str();
  app.add_option("--top-k", top_k, "Only the k most likely tokens; 0: all")
      ->check(CLI::Range(0, std::numeric_limits<int>::max()))
      ->capture_default_str();
  app.add_option("--top-p", top_p, "Only the most likely tokens that reach this probability")
      ->check(number_in(1e-6, 1.0))
      ->capture_default_str();
  app.add_option("--min-p", min_p,
                 "Only tokens with this share of the most likely one's probability")
      ->check(number_in(0.0, 1.0))
      ->capture_default_str();
}

engine::SamplingParams SamplingFlags::params() const {
  return {.temperature = static_cast<float>(temperature),
          .top_k = top_k,
          .top_p = static_cast<float>(top_p),
          .min_p = static_cast<float>(min_p)};
}

void add_front_flags(CLI::App& app, serve::FrontOptions& options) {
  app.add_option("--host", options.host,
                 "Address to listen on; 0.0.0.0 or :: for all, which needs a key")
      ->capture_default_str()
      ->group(kServerGroup);
  app.add_option("--port", options.port, "0: any free one")
      ->check(CLI::Range(0, 65535))
      ->capture_default_str()
      ->group(kServerGroup);
  app.add_option("--api-key-file", options.key_file,
                 "Keys, one a line, of which a client must show one as Authorization: Bearer KEY; "
                 "read again on SIGHUP")
      ->type_name("FILE")
      ->check(CLI::ExistingFile)
      ->group(kServerGroup);
  app.add_flag("--allow-no-auth", options.allow_no_auth,
               "Let other machines use the server without a key")
      ->group(kServerGroup);
  app.add_option(
         "--allowed-host", options.allowed_hosts,
         "A name in the Host header by which clients reach the server, beside localhost and "
         "addresses; once for each (other names are refused where --host is a loopback "
         "address or a name is given)")
      ->type_name("NAME")
      ->check(checked_by(serve::parse_allowed_host))
      ->group(kServerGroup);
  app.add_option("--allowed-origin", options.allowed_origins,
                 "scheme://host[:port] of pages that may use the server from a browser, beside its "
                 "own; once for each")
      ->type_name("ORIGIN")
      ->check(checked_by(serve::parse_allowed_origin))
      ->group(kServerGroup);
  app.add_option("--shutdown-timeout", options.shutdown_timeout_s,
                 "Seconds that requests under way have after SIGTERM; a second SIGTERM cuts them")
      ->check(CLI::Range(0, 86400))
      ->capture_default_str()
      ->group(kServerGroup);
}

base::Result<int64_t> parse_bytes(const std::string& text) {
  constexpr std::array<std::pair<std::string_view, int64_t>, 8> kUnits = {{
      {"", 1},
      {"B", 1},
      {"KB", 1000},
      {"MB", 1000 * 1000},
      {"GB", 1000 * 1000 * 1000},
      {"KiB", 1 << 10},
      {"MiB", 1 << 20},
      {"GiB", 1 << 30},
  }};
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const std::string_view unit(end, static_cast<size_t>(text.data() + text.size() - end));
  const auto* it = std::find_if(kUnits.begin(), kUnits.end(),
                                [&](const auto& entry) { return entry.first == unit; });
  const double bytes = it == kUnits.end() ? -1 : number * static_cast<double>(it->second);
  if (error != std::errc() || !(bytes >= 1) || bytes > 1e18) {
    return base::fail("\"{}\" is not a size: expected for example 512MiB, 2GB or 1073741824", text);
  }
  return static_cast<int64_t>(bytes);
}

base::Result<std::vector<int>> parse_int_list(const std::string& text) {
  constexpr int kMost = 65536;
  std::vector<int> out;
  size_t begin = 0;
  while (begin <= text.size()) {
    const size_t end = std::min(text.find(',', begin), text.size());
    int value = 0;
    const auto [stop, error] = std::from_chars(text.data() + begin, text.data() + end, value);
    if (error != std::errc() || stop != text.data() + end || value < 1 || value > kMost ||
        std::find(out.begin(), out.end(), value) != out.end()) {
      return base::fail("\"{}\": expected different numbers from 1 to {} such as 1,8", text, kMost);
    }
    out.push_back(value);
    begin = end + 1;
  }
  return out;
}

void ModelFlags::add_to(CLI::App& app) {
  constexpr const char* kModel = "Model";
  constexpr const char* kDevices = "Devices";
  constexpr const char* kMemory = "Memory and batching";
  app.add_option("model,--model", model,
                 "Hugging Face folder, GGUF file, hub id in the local cache, \"tiny\" or "
                 "\"tiny-moe\", or a preset such as llama-3.1-8b")
      ->capture_default_str();
  app.add_option("--load-format", load_format,
                 "auto: read the weights; dummy: make them up from --dummy-seed")
      ->check(CLI::IsMember({"auto", "dummy"}))
      ->capture_default_str()
      ->group(kModel);
  app.add_option("--dummy-seed", dummy_seed, "Seed of made-up weights")
      ->check(checked_by(parse_seed))
      ->capture_default_str()
      ->group(kModel);
  app.add_option("--dummy-routing", dummy_routing,
                 "How rows of a made-up model with experts choose theirs: natural (as its random "
                 "router says), uniform, or zipf:S (expert i with probability ~ 1/(i+1)^S)")
      ->check(checked_by(model::parse_dummy_routing))
      ->capture_default_str()
      ->group(kModel);
  app.add_option("--backend", backend,
                 "cuda (an NVIDIA GPU, bf16), cpu (bf16, own kernels) or reference (plain fp32, "
                 "slow); auto: cuda where a GPU is, else cpu")
      ->check(CLI::IsMember({"auto", "cuda", "cpu", "reference"}))
      ->capture_default_str()
      ->group(kDevices);
  app.add_option("--isa", isa,
                 "Instruction set of the cpu backend: amx, avx512_bf16 or avx2 (default: the "
                 "strongest this machine has)")
      ->group(kDevices);
  app.add_option("--ranks", ranks,
                 "processes: each device is a process, joined by MPI; threads: all in one process; "
                 "auto: threads where they share a GPU, else processes")
      ->check(CLI::IsMember({"auto", "processes", "threads"}))
      ->capture_default_str()
      ->group(kDevices);
  app.add_option("--numerics", numerics,
                 "fast: every kernel takes its quickest order of additions; invariant: the same "
                 "bits whatever the scheme and the batch")
      ->check(CLI::IsMember({"fast", "invariant"}))
      ->capture_default_str()
      ->group(kDevices);
  app.add_option("--cpus-per-device", cpus_per_device, "Cores (threads) of one device")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str()
      ->group(kDevices);
  app.add_option("--block-size", block_size, "Positions in one KV cache block")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str()
      ->group(kMemory);
  app.add_option(
         "--kv-cache-memory-bytes", kv_cache_memory,
         "KV cache of one device, for example 512MiB (default: what the load needs, at most "
         "a quarter of the free memory, or of a GPU's what --gpu-memory-utilization leaves)")
      ->check(checked_by(parse_bytes))
      ->group(kMemory);
  app.add_option("--gpu-memory-utilization", gpu_memory_utilization,
                 "Share of a GPU's free memory that weights, activations and KV cache may take, of "
                 "all devices on it together")
      ->check(CLI::Range(0.05, 0.98))
      ->capture_default_str()
      ->group(kMemory);
  app.add_option("--max-model-len", max_model_len,
                 "Longest prompt and output together (default: what the command needs)")
      ->check(CLI::Range(0, std::numeric_limits<int>::max()))
      ->group(kMemory);
  app.add_option("--max-num-seqs", max_num_seqs, "Sequences that a replica runs at once")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str()
      ->group(kMemory);
  app.add_option("--max-num-batched-tokens", max_num_batched_tokens,
                 "Token budget of one step, prompt chunks and decodes together (default: 512 on "
                 "a CPU, 8192 on a GPU)")
      ->check(CLI::Range(0, 1 << 20))
      ->group(kMemory);
  app.add_flag("--enable-prefix-caching,!--no-enable-prefix-caching", prefix_caching,
               "Reuse the KV blocks of shared prefixes (default: on)")
      ->group(kMemory);
  constexpr const char* kExperts = "Experts";
  app.add_option("--expert-placement", expert_placement,
                 "Which expert shard holds which experts: linear (neighbours together), "
                 "round_robin, or a JSON file {\"experts\": [[0, 3], [1, 2], ...]}")
      ->capture_default_str()
      ->group(kExperts);
  app.add_option("--expert-exchange", expert_exchange,
                 "How rows get to the ranks of their experts: gather (everybody gets all rows), "
                 "alltoall (each row goes where its experts are), auto: gather for few rows")
      ->check(checked_by(model::parse_exchange))
      ->capture_default_str()
      ->group(kExperts);
}

namespace {

/// Ranks that share the machine's only GPU gain nothing by being processes.
bool has_one_gpu(const std::string& backend) {
  if (backend != "cuda") return false;
  const auto ops = backend::make_ops(backend, "");
  return !ops.ok() || (*ops)->gpus() == 1;
}

}  // namespace

base::Result<runtime::ClusterConfig> ModelFlags::cluster_config() const {
  runtime::ClusterConfig config;
  config.model = model;
  config.dummy_weights = load_format == "dummy";
  config.dummy_seed = dummy_seed;
  config.backend = backend::chosen_backend(backend, isa);
  config.isa = isa;
  config.cpus_per_device = cpus_per_device;
  config.ranks = ranks == "threads" || (ranks == "auto" && has_one_gpu(config.backend))
                     ? runtime::RankMode::kThreads
                     : runtime::RankMode::kProcesses;
  config.block_size = block_size;
  if (!kv_cache_memory.empty()) {
    FF_ASSIGN(config.kv_bytes, parse_bytes(kv_cache_memory));
  }
  config.gpu_memory_share = gpu_memory_utilization;
  config.max_positions = max_model_len;
  config.max_running = max_num_seqs;
  config.scheduler.max_step_tokens = max_num_batched_tokens;
  config.scheduler.prefix_cache = prefix_caching;
  FF_ASSIGN(config.dummy_routing, model::parse_dummy_routing(dummy_routing));
  FF_ASSIGN(config.expert_placement, runtime::read_expert_placement(expert_placement));
  FF_ASSIGN(config.expert_exchange, model::parse_exchange(expert_exchange));
  return config;
}

base::Numerics ModelFlags::numerics_of_steps() const {
  return numerics == "fast" ? base::Numerics::kFast : base::Numerics::kInvariant;
}

void ParallelFlags::add_to(CLI::App& app) {
  const auto size = CLI::Range(1, 65536);
  app.add_option("--tensor-parallel-size", config.tp, "-tp: ranks that split each layer")
      ->check(size)
      ->group("Parallelism")
      ->capture_default_str();
  app.add_option("--pipeline-parallel-size", config.pp, "-pp: stages that split the layers")
      ->check(size)
      ->group("Parallelism")
      ->capture_default_str();
  app.add_option("--data-parallel-size", config.dp, "-dp: independent replicas")
      ->check(size)
      ->group("Parallelism")
      ->capture_default_str();
  CLI::Option* ep = app.add_option(
      "--expert-parallel-size", config.ep,
      "-ep: expert shards, each with a part of the experts; it re-divides the dp x tp "
      "ranks of a stage and adds none (docs/experts.md)");
  ep->check(size)->group("Parallelism")->capture_default_str();
  app.add_option("--expert-tensor-parallel-size", config.etp,
                 "-etp: ranks that split each expert (default: tp/ep where ep divides tp, else 1)")
      ->check(size)
      ->group("Parallelism");
  app.add_flag("--enable-expert-parallel", enable_expert_parallel,
               "The largest --expert-parallel-size that is legal for the model and the other sizes")
      ->excludes(ep)
      ->group("Parallelism");
}

base::Status ParallelFlags::set_scheme(runtime::ClusterConfig& cluster) const {
  cluster.scheme = config;
  if (!enable_expert_parallel) return {};
  FF_ASSIGN(const model::ModelSource source, runtime::open_source(cluster));
  const mesh::ModelDivisors divisors = source.spec.divisors();
  if (divisors.experts == 0) {
    return base::fail("--enable-expert-parallel needs a model with experts; {} is dense",
                      cluster.model);
  }
  const int ranks = config.dp * config.tp;
  for (cluster.scheme.ep = ranks; cluster.scheme.ep > 1; --cluster.scheme.ep) {
    if (mesh::Mesh::create(cluster.scheme, divisors, cluster.expert_placement).ok()) return {};
  }
  if (ranks == 1) return {};  // there is nobody to share with
  cluster.scheme.ep = ranks;
  return base::fail(
      "--enable-expert-parallel: no --expert-parallel-size from 2 to {} is legal; {}", ranks,
      mesh::create_or_suggest(cluster.scheme, divisors, cluster.expert_placement).error().message);
}

std::function<std::string(const std::string&)> number_in(double least, double most) {
  return [least, most](const std::string& text) {
    double value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error == std::errc() && end == text.data() + text.size() && value >= least &&
        value <= most) {
      return std::string();
    }
    return fmt::format("\"{}\": expected a number from {} to {}", text, least, most);
  };
}

base::Result<uint64_t> parse_seed(const std::string& text) {
  uint64_t seed = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seed);
  if (error == std::errc() && end == text.data() + text.size()) return seed;
  return base::fail("\"{}\": expected a number from 0 to 2^64 - 1", text);
}

namespace {
base::Error not_written(std::string_view flag, const std::string& path) {
  return base::fail("{} {}: cannot be written; does its folder exist, is the disk full?", flag,
                    path);
}
}  // namespace

base::Status check_writable(std::string_view flag, const std::string& path) {
  if (path.empty()) return {};
  std::error_code error;
  const bool is_new = !std::filesystem::exists(path, error);
  if (!std::ofstream(path, std::ios::app)) return not_written(flag, path);
  // What ends before it writes leaves no empty file.
  if (is_new) std::filesystem::remove(path, error);
  return {};
}

base::Status write_file(std::string_view flag, const std::string& path, std::string_view text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  file.close();
  if (!file) return not_written(flag, path);
  return {};
}

base::Result<std::string> read_api_key(const std::string& path) {
  if (!path.empty()) {
    FF_ASSIGN(const serve::Keys keys, serve::Keys::read(path));
    return keys.first();
  }
  const char* given = std::getenv("OPENAI_API_KEY");
  std::string key = given == nullptr ? "" : given;
  if (std::any_of(key.begin(), key.end(), [](char c) { return c <= ' ' || c > '~'; })) {
    return base::fail("OPENAI_API_KEY: expected a key of printable ASCII without blanks");
  }
  return key;
}

int fail(const base::Error& error) {
  fmt::print(stderr, "fourfold: {}\n", error.message);
  return 1;
}

}  // namespace fourfold::cli

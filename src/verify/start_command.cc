#include "verify/start_command.h"

namespace fourfold::verify {
namespace {

/// For a shell, whatever the text holds.
std::string quoted(const std::string& text) {
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

}  // namespace

std::string start_command(const VerifyOptions& options, const mesh::ParallelConfig& scheme) {
  const runtime::ClusterConfig& c = options.cluster;
  // Made-up weights have no tokenizer, so there is no text to generate.
  const bool has_text = !c.dummy_weights;
  std::string out =
      fmt::format("fourfold {} {}", has_text ? "generate" : "verify", quoted(c.model));
  if (has_text) {
    out += " 'YOUR PROMPT'";
    if (scheme.tp > 1) out += fmt::format(" -tp {}", scheme.tp);
    if (scheme.pp > 1) out += fmt::format(" -pp {}", scheme.pp);
    if (scheme.dp > 1) out += fmt::format(" -dp {}", scheme.dp);
  } else {
    out += fmt::format(" --load-format dummy --schemes {}", mesh::scheme_name(scheme));
  }
  if (options.numerics == base::Numerics::kInvariant) out += " --numerics invariant";
  if (c.backend != "cpu") out += " --backend " + c.backend;
  if (!c.isa.empty()) out += " --isa " + c.isa;
  if (c.cpus_per_device != 1) out += fmt::format(" --cpus-per-device {}", c.cpus_per_device);
  if (c.ranks == runtime::RankMode::kThreads) out += " --ranks threads";
  return out;
}

std::string vllm_command(const VerifyOptions& options, const mesh::ParallelConfig& scheme) {
  std::string out = "vllm serve " + quoted(options.cluster.model);
  if (options.cluster.dummy_weights) out += " --load-format dummy";
  if (scheme.tp > 1) out += fmt::format(" --tensor-parallel-size {}", scheme.tp);
  if (scheme.pp > 1) out += fmt::format(" --pipeline-parallel-size {}", scheme.pp);
  if (scheme.dp > 1) out += fmt::format(" --data-parallel-size {}", scheme.dp);
  if (scheme.ep > 1) out += " --enable-expert-parallel";
  return out;
}

}  // namespace fourfold::verify

#include "verify/start_command.h"

namespace fourfold::verify {
namespace {

/// For a shell, whatever the text holds.
std::string quoted(const std::string& text) {
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

/// Flags of what only a model with experts has.
std::string expert_flags(const runtime::ClusterConfig& c) {
  std::string out;
  if (c.expert_placement.kind() == mesh::ExpertPlacement::Kind::kRoundRobin) {
    out += " --expert-placement round_robin";
  } else if (c.expert_placement.kind() == mesh::ExpertPlacement::Kind::kListed) {
    out += " --expert-placement FILE";
  }
  if (c.expert_exchange != model::ExchangeKind::kAuto) {
    out += fmt::format(" --expert-exchange {}", model::name_of(c.expert_exchange));
  }
  if (!c.dummy_routing.natural) out += " --dummy-routing " + model::to_string(c.dummy_routing);
  return out;
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
    if (scheme.ep > 1) out += fmt::format(" -ep {}", scheme.ep);
    if (scheme.etp > 0) out += fmt::format(" -etp {}", scheme.etp);
  } else {
    out += fmt::format(" --load-format dummy --schemes {}", mesh::scheme_name(scheme));
  }
  out += expert_flags(c);
  if (options.numerics == base::Numerics::kInvariant) out += " --numerics invariant";
  if (c.backend != "cpu") out += " --backend " + c.backend;
  if (!c.isa.empty()) out += " --isa " + c.isa;
  if (c.cpus_per_device != 1) out += fmt::format(" --cpus-per-device {}", c.cpus_per_device);
  if (c.ranks == runtime::RankMode::kThreads) out += " --ranks threads";
  return out;
}

std::string vllm_command(const VerifyOptions& options, const mesh::ParallelConfig& scheme,
                         bool has_experts) {
  // There experts are split over all dp x tp ranks, between ranks or each of them.
  const int ranks = scheme.dp * scheme.tp;
  const int etp = scheme.etp > 0 ? scheme.etp : scheme.ep == 1 ? scheme.tp : 1;
  using Kind = mesh::ExpertPlacement::Kind;
  const Kind placement = options.cluster.expert_placement.kind();
  if (has_experts && ((scheme.ep != ranks && (scheme.ep > 1 || etp != ranks)) ||
                      (scheme.ep > 1 && placement == Kind::kListed))) {
    return "(vLLM has no flags for these expert shards)";
  }
  std::string out = "vllm serve " + quoted(options.cluster.model);
  if (options.cluster.dummy_weights) out += " --load-format dummy";
  if (scheme.tp > 1) out += fmt::format(" --tensor-parallel-size {}", scheme.tp);
  if (scheme.pp > 1) out += fmt::format(" --pipeline-parallel-size {}", scheme.pp);
  if (scheme.dp > 1) out += fmt::format(" --data-parallel-size {}", scheme.dp);
  if (scheme.ep > 1) out += " --enable-expert-parallel";
  if (scheme.ep > 1 && placement == Kind::kRoundRobin) {
    out += " --expert-placement-strategy round_robin";
  }
  return out;
}

}  // namespace fourfold::verify

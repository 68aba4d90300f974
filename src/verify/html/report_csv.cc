#include "verify/html/report_csv.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>
#include <vector>

#include "verify/html/markup.h"

namespace fourfold::verify {
namespace {

/// Each name of `first`, a dot, each of `second`.
std::vector<std::string> product(const std::vector<std::string_view>& first,
                                 const std::vector<std::string_view>& second) {
  std::vector<std::string> out;
  for (const std::string_view a : first) {
    for (const std::string_view b : second) out.push_back(fmt::format("{}.{}", a, b));
  }
  return out;
}

void append(std::vector<std::string>& to, const std::vector<std::string>& more) {
  to.insert(to.end(), more.begin(), more.end());
}

std::vector<std::string> scheme_columns() {
  std::vector<std::string> out = {"scheme",  "tp",           "pp",    "dp",     "ep",     "etp",
                                  "devices", "shares_cores", "legal", "reason", "failure"};
  append(out, product({"answers"}, {"equal", "equal_token_share", "compared", "missing",
                                    "first_difference.request", "first_difference.position",
                                    "first_difference.layer"}));
  append(out, product({"fast_answers"}, {"equal_token_share", "compared_tokens", "max_logprob_diff",
                                         "differences", "near_ties"}));
  append(out,
         product({"memory_bytes"}, {"weights", "kv", "activations", "planned", "held", "balance"}));
  append(out, {"max_concurrent_requests", "load_s", "peaks.matmul_flop_s", "peaks.read_bytes_s",
               "invariant_cost", "slo_rate.rate_rps", "slo_rate.missed_rps", "slo_rate.runs",
               "start_command", "vllm_command"});
  return out;
}

std::vector<std::string> load_columns() {
  const std::vector<std::string_view> summary = {"mean", "p50", "p90", "p99", "ci95"};
  std::vector<std::string> out = {"point",           "concurrency", "rate_rps",       "requests",
                                  "failed_requests", "valid",       "invalid_reason", "saturated"};
  append(out, product({"send_lateness_ms", "metrics.ttft_ms", "metrics.tpot_ms", "metrics.itl_ms",
                       "metrics.e2e_ms", "metrics.output_tok_s", "metrics.total_tok_s",
                       "metrics.requests_s", "metrics.goodput_rps", "metrics.output_tok_s_device",
                       "metrics.output_tok_s_user"},
                      summary));
  append(out, {"device_busy", "mfu", "mbu", "efficiency.same_load", "efficiency.growing_load",
               "kv.hit_rate", "kv.peak_share", "kv.preemptions"});
  append(out, product({"comm.tp", "comm.pp", "comm.ep", "comm.control"},
                      {"seconds", "wait_seconds", "bytes", "calls"}));
  append(out, product({"step_share"}, {"operators", "tp_move", "tp_wait", "pp_move", "pp_wait",
                                       "ep_move", "ep_wait", "other"}));
  append(out, {"bubble_share", "expert_imbalance", "experts.distinct_per_step",
               "experts.zero_row_share", "experts.binds"});
  return out;
}

std::string field(const nlohmann::ordered_json& value) {
  if (value.is_null()) return "";
  if (!value.is_string()) {
    return value.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  }
  const auto& plain = value.get_ref<const std::string&>();
  if (plain.find_first_of(",\"\r\n") == std::string::npos) return plain;
  std::string out = "\"";
  for (const char c : plain) {
    if (c == '"') out += '"';
    out += c;
  }
  return out + "\"";
}

std::vector<std::string> fields(const Node& node, const std::vector<std::string>& columns) {
  std::vector<std::string> out;
  for (std::string path : columns) {
    std::replace(path.begin(), path.end(), '.', '/');
    out.push_back(field(node.at(path).json()));
  }
  return out;
}

}  // namespace

std::string to_csv(const nlohmann::ordered_json& report) {
  const std::vector<std::string> of_scheme = scheme_columns();
  const std::vector<std::string> of_load = load_columns();
  std::string out = fmt::format("{},{}\r\n", fmt::join(of_scheme, ","), fmt::join(of_load, ","));
  const Node schemes = Node(report).at("schemes");
  for (size_t i = 0; i < schemes.size(); ++i) {
    const std::vector<std::string> left = fields(schemes.at(i), of_scheme);
    const Node loads = schemes.at(i).at("loads");
    // A scheme without loads has one row, of a load point that is not there.
    for (size_t j = 0; j < std::max<size_t>(1, loads.size()); ++j) {
      const std::vector<std::string> right = fields(loads.at(j), of_load);
      out += fmt::format("{},{}\r\n", fmt::join(left, ","), fmt::join(right, ","));
    }
  }
  return out;
}

}  // namespace fourfold::verify

#include "verify/json_report.h"

#include <algorithm>

#include "base/version.h"
#include "load/statistics.h"
#include "verify/engines.h"
#include "verify/figures.h"
#include "verify/laws.h"
#include "verify/start_command.h"

namespace fourfold::verify {
namespace {

using nlohmann::ordered_json;

constexpr int kSchema = 2;

template <typename T>
ordered_json optional(const std::optional<T>& value) {
  return value ? ordered_json(*value) : ordered_json();
}

ordered_json summary_json(const load::Summary& s) {
  return {{"mean", optional(s.mean)},
          {"p50", optional(s.p50)},
          {"p90", optional(s.p90)},
          {"p99", optional(s.p99)},
          {"ci95", optional(s.ci95)}};
}

/// A summary over the devices that made it.
load::Summary per_device(load::Summary s, int devices) {
  for (std::optional<double>* value : {&s.mean, &s.p50, &s.p90, &s.p99, &s.ci95}) {
    if (*value) **value /= devices;
  }
  return s;
}

ordered_json answers_json(const AnswerVerdict& verdict) {
  ordered_json out = {{"equal", verdict.equal},
                      {"equal_token_share", verdict.equal_token_share},
                      {"compared", verdict.compared_hashes},
                      {"missing", verdict.missing_hashes},
                      {"first_difference", nullptr}};
  if (verdict.first_difference) {
    const Difference& d = *verdict.first_difference;
    ordered_json layer = d.layer;
    if (d.layer == kLogitsLayer) layer = "logits";
    if (d.layer == kTokenLayer) layer = "token";
    out["first_difference"] = {{"request", d.request}, {"position", d.position}, {"layer", layer}};
  }
  return out;
}

ordered_json deviation_json(const Deviation& d) {
  return {{"equal_token_share", d.equal_token_share()},
          {"compared_tokens", d.compared_tokens},
          {"max_logprob_diff", d.max_logprob_diff},
          {"differences", d.differences},
          {"near_ties", d.near_ties}};
}

ordered_json slo_rate_json(const load::RateSearch& search) {
  return {{"rate_rps", optional(search.met)},
          {"missed_rps", optional(search.missed)},
          {"runs", search.probes.size()}};
}

ordered_json peaks_json(const backend::Peaks& peaks) {
  return {{"matmul_flop_s", peaks.matmul_flop_s}, {"read_bytes_s", peaks.read_bytes_s}};
}

ordered_json served_answers_json(const SchemeResult& r) {
  if (!r.served_answers) return {};
  const measure::ServedComparison& c = *r.served_answers;
  ordered_json differences = ordered_json::array();
  for (const measure::ServedDifference& d : c.differences) {
    differences.push_back({{"request", d.request},
                           {"position", d.position},
                           {"baseline", d.baseline},
                           {"other", d.other},
                           {"margin", optional(d.margin)},
                           {"near_tie", d.near_tie}});
  }
  return {{"compared_with", r.answers_compared_with},
          {"unit", c.unit == measure::ServedComparison::Unit::kTokens ? "token" : "byte"},
          {"answers", c.answers},
          {"equal_answers", c.equal_answers},
          {"equal_length_share", c.equal_length_share()},
          {"max_logprob_diff", optional(c.max_logprob_diff)},
          {"near_ties", c.near_ties()},
          {"differences", differences}};
}

/// The same keys as scheme_json(); null is what nobody knows of a server.
ordered_json served_scheme_json(const VerifyReport& report, const SchemeResult& r) {
  const mesh::ParallelConfig& c = r.scheme;
  const bool outside = !r.label.empty();
  const auto size = [&](int value) { return outside ? ordered_json() : ordered_json(value); };
  return {{"scheme", r.name()},
          {"engine", r.engine},
          {"tp", size(c.tp)},
          {"pp", size(c.pp)},
          {"dp", size(c.dp)},
          {"ep", size(c.ep)},
          {"etp", size(c.etp)},
          {"devices", size(c.devices())},
          {"shares_cores", !outside && shares_cores(report, c)},
          {"legal", r.legal},
          {"reason", r.reason},
          {"failure", r.failure},
          {"answers_served", served_answers_json(r)},
          {"resident_bytes", optional(r.resident_bytes)},
          {"load_s", r.load_s > 0 ? ordered_json(r.load_s) : ordered_json()}};
}

ordered_json scheme_json(const VerifyReport& report, const SchemeResult& r) {
  if (report.served()) return served_scheme_json(report, r);
  const mesh::ParallelConfig& c = r.scheme;
  return {{"scheme", mesh::scheme_name(c)},
          {"tp", c.tp},
          {"pp", c.pp},
          {"dp", c.dp},
          {"ep", c.ep},
          {"etp", c.etp},
          {"devices", c.devices()},
          {"shares_cores", shares_cores(report, c)},
          {"legal", r.legal},
          {"reason", r.reason},
          {"failure", r.failure},
          {"answers", r.answers ? answers_json(*r.answers) : ordered_json()},
          {"fast_answers", r.fast_answers ? deviation_json(*r.fast_answers) : ordered_json()},
          {"memory_bytes",
           {{"weights", r.weight_bytes},
            {"kv", r.kv_bytes},
            {"activations", r.activation_bytes},
            {"planned", r.planned_bytes()},
            {"held", r.held_bytes > 0 ? ordered_json(r.held_bytes) : ordered_json()},
            {"balance", r.balance}}},
          {"max_concurrent_requests", r.max_concurrent_requests},
          {"load_s", r.load_s},
          {"peaks", r.peaks ? peaks_json(*r.peaks) : ordered_json()},
          {"invariant_cost", optional(r.invariant_cost)},
          {"slo_rate", r.slo_rate ? slo_rate_json(*r.slo_rate) : ordered_json()},
          {"start_command", start_command(report.options, c)},
          {"vllm_command", vllm_command(report.options, c, report.has_experts)}};
}

ordered_json metrics_json(const SchemeResult& r, const load::LoadSummary& s) {
  return {{"ttft_ms", summary_json(s.ttft_ms)},
          {"tpot_ms", summary_json(s.tpot_ms)},
          {"itl_ms", summary_json(s.itl_ms)},
          {"e2e_ms", summary_json(s.e2e_ms)},
          {"output_tok_s", summary_json(s.output_tok_s)},
          {"total_tok_s", summary_json(s.total_tok_s)},
          {"requests_s", summary_json(s.requests_s)},
          {"goodput_rps", summary_json(s.goodput_rps)},
          {"output_tok_s_device", summary_json(per_device(s.output_tok_s, r.scheme.devices()))},
          {"output_tok_s_user", summary_json(s.output_tok_s_user)}};
}

ordered_json quantiles_json(const LoadResult& load, std::vector<double> load::RunMetrics::*values) {
  std::vector<double> all;
  for (const load::RunMetrics& run : load.repeats) {
    all.insert(all.end(), (run.*values).begin(), (run.*values).end());
  }
  if (all.empty() || !load.usable()) return nullptr;
  return load::quantiles_101(std::move(all));
}

ordered_json timeline_json(const std::vector<TimelinePoint>& timeline) {
  ordered_json out = ordered_json::array();
  for (const TimelinePoint& t : timeline) {
    const double share = t.occupancy.blocks == 0 ? 0.0
                                                 : static_cast<double>(t.occupancy.used_blocks) /
                                                       static_cast<double>(t.occupancy.blocks);
    out.push_back({t.seconds, share, t.occupancy.running, t.occupancy.waiting});
  }
  return out;
}

ordered_json experts_json(const ExpertFigures& experts) {
  ordered_json layers = ordered_json::array();
  for (const auto& [layer, work] : experts.layers) {
    layers.push_back({{"layer", layer},
                      {"rows", work.rows},
                      {"imbalance", work.imbalance},
                      {"distinct_per_step", work.distinct_per_step}});
  }
  return {{"distinct_per_step", experts.distinct_per_step},
          {"zero_row_share", experts.zero_row_share},
          {"binds", experts.binds},
          {"layers", layers}};
}

ordered_json activity_json(const LoadResult& load) {
  if (load.activity.empty()) return {};
  const backend::Activity a = mean_activity(load);
  return {{"busy", optional(a.busy)},
          {"sm_active", optional(a.sm_active)},
          {"dram_active", optional(a.dram_active)},
          {"power_w", optional(a.power_w)}};
}

/// What the client saw of a load.
ordered_json client_json(const VerifyReport& report, const SchemeResult& r,
                         const LoadPoint& point) {
  const LoadResult& load = r.loads.at(point);
  const load::LoadSummary& s = load.summary;
  const bool open = point.concurrency == 0;
  const bool outside = !r.label.empty();
  ordered_json metrics = metrics_json(r, s);
  ordered_json efficiency;
  if (outside) {
    metrics["output_tok_s_device"] = summary_json({});
  } else {
    efficiency = {{"same_load", optional(efficiency_same_load(report, r, point))},
                  {"growing_load", optional(efficiency_growing_load(report, r, point))}};
  }
  return {{"point", point.name()},
          {"concurrency", open ? ordered_json() : ordered_json(point.concurrency)},
          {"rate_rps", open ? ordered_json(point.rate) : ordered_json()},
          {"requests", s.requests},
          {"failed_requests", s.failed},
          {"skipped_requests", load.skipped_requests},
          {"valid", s.invalid_reason.empty()},
          {"invalid_reason", s.invalid_reason},
          {"saturated", s.saturated},
          {"send_lateness_ms", summary_json(s.send_lateness_ms)},
          {"metrics", metrics},
          {"efficiency", efficiency},
          {"distributions",
           {{"ttft_ms", quantiles_json(load, &load::RunMetrics::ttft_ms)},
            {"itl_ms", quantiles_json(load, &load::RunMetrics::itl_ms)}}}};
}

ordered_json load_json(const VerifyReport& report, const SchemeResult& r, const LoadPoint& point) {
  ordered_json out = client_json(report, r, point);
  const LoadResult& load = r.loads.at(point);
  if (report.served()) {
    out["cpu_cores"] =
        load.cpu_cores.empty() ? ordered_json() : ordered_json(load::mean(load.cpu_cores));
    return out;
  }
  const Figures f = figures(r, load);
  const std::optional<ExpertFigures> experts = expert_figures(load, f);
  ordered_json comm;
  ordered_json shares = {{"operators", f.busy}};
  for (const auto& [axis, name] : named_axes()) {
    const AxisCost& cost = f.axis(axis);
    comm[name] = {{"seconds", cost.seconds},
                  {"wait_seconds", cost.wait_seconds},
                  {"bytes", cost.bytes},
                  {"calls", cost.calls}};
    if (axis == mesh::Axis::kControl) continue;
    shares[name + "_move"] = cost.share - cost.wait_share;
    shares[name + "_wait"] = cost.wait_share;
  }
  shares["other"] = f.other;
  out.update({{"device_busy", f.busy},
              {"gpu", activity_json(load)},
              {"mfu", optional(f.mfu)},
              {"mbu", optional(f.mbu)},
              {"kv",
               {{"hit_rate", load.kv_hit_rate()},
                {"peak_share", load.kv_peak_share},
                {"preemptions", load.preemptions}}},
              {"comm", comm},
              {"step_share", shares},
              {"bubble_share", f.axis(mesh::Axis::kPipeline).wait_share},
              {"expert_imbalance", experts ? ordered_json(experts->imbalance) : ordered_json()},
              {"experts", experts ? experts_json(*experts) : ordered_json()},
              {"timeline", timeline_json(load.timeline)}});
  return out;
}

ordered_json winners_json(const VerifyReport& report, const LoadPoint& point) {
  ordered_json out = ordered_json::object();
  for (const auto& [objective, winner] : winners(report, point)) {
    if (report.served()) {
      out[objective] = {{"scheme", winner.scheme->name()},
                        {"tie", winner.tie},
                        {"value", winner.value},
                        {"unit", winner.unit},
                        {"limit", nullptr}};
      continue;
    }
    out[objective] = {
        {"scheme", winner.scheme->name()},
        {"tie", winner.tie},
        {"value", winner.value},
        {"unit", winner.unit},
        {"limit", winner.limit},
        {"start_command", start_command(report.options, winner.scheme->scheme)},
        {"vllm_command", vllm_command(report.options, winner.scheme->scheme, report.has_experts)}};
  }
  return out;
}

ordered_json load_options_json(const VerifyReport& report) {
  const VerifyOptions& o = report.options;
  ordered_json concurrencies = ordered_json::array();
  ordered_json rates = ordered_json::array();
  for (const LoadPoint& point : report.points) {
    if (point.concurrency > 0) {
      concurrencies.push_back(point.concurrency);
    } else {
      rates.push_back(point.rate);
    }
  }
  const bool trace = o.trace.has_value();
  return {{"kind", load_kind(o)},
          {"input_len", trace ? ordered_json() : ordered_json(o.input_len)},
          {"output_len", trace ? ordered_json() : ordered_json(o.output_len)},
          {"shared_prefix", o.shared_prefix},
          {"turns", o.turns},
          {"temperature", o.sampling.temperature},
          {"top_k", o.sampling.top_k},
          {"top_p", o.sampling.top_p},
          {"min_p", o.sampling.min_p},
          {"burstiness", o.burstiness},
          {"trace", trace ? ordered_json(o.trace->path) : ordered_json()},
          {"trace_requests", trace ? ordered_json(o.trace->trace.records.size()) : ordered_json()},
          {"trace_scale", trace ? ordered_json(o.trace->length_scale) : ordered_json()},
          {"concurrency", concurrencies},
          {"rates", rates},
          {"repeats", o.repeats},
          {"slo",
           {{"ttft_ms", optional(o.slo.ttft_ms)},
            {"tpot_ms", optional(o.slo.tpot_ms)},
            {"e2e_ms", optional(o.slo.e2e_ms)},
            {"percentile", o.slo.percentile}}}};
}

}  // namespace

ordered_json to_json(const VerifyReport& report) {
  const VerifyOptions& o = report.options;
  const SchemeResult* baseline = report.find(report.baseline);
  ordered_json out;
  out["schema"] = kSchema;
  out["version"] = base::version();
  out["commit"] = base::commit();
  out["command"] = o.command;
  out["date"] = report.date;
  out["seed"] = o.seed;
  out["interrupted"] = report.interrupted;
  out["machine"] = {{"cpu", report.machine.cpu},
                    {"isa", report.machine.isa},
                    {"cores", report.machine.cores},
                    {"gpus", std::vector<std::string>(static_cast<size_t>(report.machine.gpus),
                                                      report.machine.gpu)},
                    {"device_memory_bytes", report.device_memory_bytes}};
  out["model"] = {{"name", o.cluster.model},
                  {"family", report.model_family},
                  {"parameters", report.parameters},
                  {"dummy_weights", o.cluster.dummy_weights}};
  out["load"] = load_options_json(report);
  out["engines"] = ordered_json::array();
  for (const adapter::EngineOptions& engine : o.engines) {
    out["engines"].push_back(
        {{"engine", name_of(engine.engine)},
         {"args", engine.args},
         {"urls", engine.urls},
         {"dp_mode", engine.dp_mode == adapter::DpMode::kEngine ? "engine" : "instances"}});
  }
  out["interleaving"] = report.served() ? ordered_json(interleaving_note(o)) : ordered_json();
  out["missing"] = ordered_json::array();
  if (report.served()) {
    for (const auto& [name, reason] : missing_figures(o)) {
      out["missing"].push_back({{"name", name}, {"reason", reason}});
    }
  }
  out["numerics"] = report.served()
                        ? ordered_json()
                        : ordered_json(o.numerics == base::Numerics::kFast ? "fast" : "invariant");
  out["backend"] = report.backend;
  out["cpus_per_device"] = o.cluster.cpus_per_device;
  out["peaks"] =
      baseline != nullptr && baseline->peaks ? peaks_json(*baseline->peaks) : ordered_json();
  out["baseline"] = mesh::scheme_name(report.baseline);
  out["schemes"] = ordered_json::array();
  for (const SchemeResult& r : report.schemes) {
    ordered_json scheme = scheme_json(report, r);
    scheme["loads"] = ordered_json::array();
    for (const auto& [point, load] : r.loads) {
      scheme["loads"].push_back(load_json(report, r, point));
    }
    // The last point stands for the scheme where one is asked for.
    if (!r.loads.empty()) scheme.update(load_json(report, r, r.loads.rbegin()->first));
    out["schemes"].push_back(std::move(scheme));
  }
  out["winners"] =
      report.points.empty() ? ordered_json::object() : winners_json(report, report.points.back());
  out["winners_by_point"] = ordered_json::array();
  for (const LoadPoint& point : report.points) {
    out["winners_by_point"].push_back(
        {{"point", point.name()}, {"winners", winners_json(report, point)}});
  }
  out["laws"] = ordered_json::array();
  for (const Law& law : report.served() ? std::vector<Law>() : laws(report)) {
    out["laws"].push_back({{"name", law.name},
                           {"statement", law.statement},
                           {"verdict", name_of(law.verdict)},
                           {"evidence", law.evidence}});
  }
  out["definitions"] = ordered_json::object();
  for (const auto& [name, sentence] : definitions()) out["definitions"][name] = sentence;
  return out;
}

}  // namespace fourfold::verify

#include "serve/metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>

namespace fourfold::serve {
namespace {

constexpr std::array<double, 11> kTokenBounds = {1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000};
constexpr std::array<double, 5> kChoiceBounds = {1, 2, 5, 10, 20};
constexpr std::array<double, 22> kFirstTokenBounds = {
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1,  0.25,  0.5,   0.75,
    1.0,   2.5,   5.0,  7.5,  10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0};
constexpr std::array<double, 19> kNextTokenBounds = {0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2,
                                                     0.3,  0.4,   0.5,  0.75,  1.0, 2.5,  5.0,
                                                     7.5,  10.0,  20.0, 40.0,  80.0};
constexpr std::array<double, 21> kRequestBounds = {0.3,  0.5,  0.8,   1.0,   1.5,   2.0,    2.5,
                                                   5.0,  10.0, 15.0,  20.0,  30.0,  40.0,   50.0,
                                                   60.0, 120., 240.0, 480.0, 960.0, 1920.0, 7680.0};
constexpr auto kStepBounds = [] {
  std::array<double, engine::kStepTokenBounds.size()> out{};
  for (size_t i = 0; i < out.size(); ++i) {
    out[i] = static_cast<double>(engine::kStepTokenBounds[i]);
  }
  return out;
}();
constexpr std::array<const char*, kEndings> kEndingNames = {"stop", "length", "abort", "error"};
constexpr std::array<const char*, 2> kRejectionNames = {"max_num_queued_reqs",
                                                        "max_num_queued_tokens"};

/// A page whose samples say what the model is.
class Page final : public MetricsPage {
 public:
  explicit Page(std::string_view model)
      : MetricsPage(fmt::format("model_name=\"{}\"", label_text(model))) {}

  /// Of one group.
  void of_group(size_t group, double value) { sample(fmt::format("engine=\"{}\"", group), value); }
  void histogram(std::string_view name, std::string_view help, const Histogram& histogram) {
    family(name, "histogram", help);
    histogram_of_group(0, histogram);
  }
  void histogram_of_group(size_t group, const Histogram& histogram) {
    samples(fmt::format("engine=\"{}\"", group), histogram);
  }
};

/// A family with one sample for each group.
template <typename Value>
void add_groups(Page& page, const Metrics::Moment& moment, std::string_view name,
                std::string_view type, std::string_view help, Value value) {
  page.family(name, type, help);
  for (size_t g = 0; g < moment.groups.size(); ++g) {
    page.of_group(g, static_cast<double>(value(moment.groups[g])));
  }
}

void add_engines(Page& page, const Metrics::Moment& moment) {
  using Status = const runtime::GroupStatus&;
  add_groups(page, moment, "vllm:num_requests_running", "gauge",
             "Number of requests in model execution batches.",
             [](Status s) { return s.occupancy.running; });
  add_groups(page, moment, "vllm:num_requests_waiting", "gauge",
             "Number of requests waiting to be processed.",
             [](Status s) { return s.occupancy.waiting; });
  add_groups(page, moment, "vllm:kv_cache_usage_perc", "gauge",
             "KV-cache usage. 1 means 100 percent usage.", [](Status s) {
               return s.occupancy.blocks == 0 ? 0.0
                                              : static_cast<double>(s.occupancy.used_blocks) /
                                                    static_cast<double>(s.occupancy.blocks);
             });
  add_groups(page, moment, "vllm:prefix_cache_queries_total", "counter",
             "Prefix cache queries, in terms of number of queried tokens.",
             [](Status s) { return s.stats.scheduler.queried_tokens; });
  add_groups(page, moment, "vllm:prefix_cache_hits_total", "counter",
             "Prefix cache hits, in terms of number of cached tokens.",
             [](Status s) { return s.stats.scheduler.hit_tokens; });
  add_groups(page, moment, "vllm:num_preemptions_total", "counter",
             "Cumulative number of preemption from the engine.",
             [](Status s) { return s.stats.scheduler.preemptions; });
  page.family("vllm:iteration_tokens_total", "histogram",
              "Histogram of number of tokens per engine_step.");
  for (size_t g = 0; g < moment.groups.size(); ++g) {
    const engine::EngineStats& stats = moment.groups[g].stats;
    page.histogram_of_group(
        g, {kStepBounds, stats.steps_by_tokens, static_cast<double>(stats.tokens)});
  }
  page.family("vllm:cache_config_info", "gauge", "Information of the LLMEngine CacheConfig");
  for (size_t g = 0; g < moment.groups.size(); ++g) {
    page.plain(fmt::format("block_size=\"{}\",engine=\"{}\",num_gpu_blocks=\"{}\"",
                           moment.block_size, g, moment.groups[g].occupancy.blocks),
               1);
  }
  add_groups(page, moment, "fourfold:group_up", "gauge", "1 while the group of ranks lives.",
             [](Status s) { return s.failure.empty() ? 1 : 0; });
  add_groups(page, moment, "fourfold:group_ranks", "gauge", "Ranks of the group.",
             [](Status s) { return s.ranks; });
  add_groups(page, moment, "fourfold:group_stages", "gauge", "Stages that the ranks form.",
             [](Status s) { return s.stages; });
  page.family("fourfold:group_failures_total", "counter", "Failures of groups, by cause.");
  for (size_t g = 0; g < moment.groups.size(); ++g) {
    for (int cause = 0; cause < runtime::kFailureCauses; ++cause) {
      page.sample(fmt::format("engine=\"{}\",cause=\"{}\"", g,
                              runtime::name_of(static_cast<runtime::FailureCause>(cause))),
                  static_cast<double>(moment.groups[g].failures.at(static_cast<size_t>(cause))));
    }
  }
  add_groups(page, moment, "fourfold:group_restarts_total", "counter",
             "Groups that were started again after a failure.",
             [](Status s) { return s.restarts; });
  add_groups(page, moment, "fourfold:sequences_migrated_total", "counter",
             "Sequences of failed groups that went on elsewhere or after the restart.",
             [](Status s) { return s.migrated; });
  add_groups(page, moment, "fourfold:group_detection_seconds_total", "counter",
             "From the first signs of failures until groups were given up.",
             [](Status s) { return s.detection_s; });
  add_groups(page, moment, "fourfold:group_recovery_seconds_total", "counter",
             "From failures until groups were up again.", [](Status s) { return s.recovery_s; });
  add_groups(page, moment, "fourfold:steps_total", "counter", "Steps that have finished.",
             [](Status s) { return s.stats.steps; });
  add_groups(page, moment, "fourfold:without_step_seconds", "gauge",
             "How long a group has had work and finished no step.",
             [](Status s) { return static_cast<double>(s.without_step_ns) * 1e-9; });
  add_groups(page, moment, "fourfold:engine_plan_seconds_total", "counter",
             "Seconds of planning, submitting and committing steps.",
             [](Status s) { return s.stats.plan_s; });
  add_groups(page, moment, "fourfold:engine_wait_seconds_total", "counter",
             "Seconds of waiting for steps.", [](Status s) { return s.stats.wait_s; });
}

}  // namespace

Metrics::Metrics()
    : prompt_length_(kTokenBounds),
      output_length_(kTokenBounds),
      max_output_(kTokenBounds),
      choices_(kChoiceBounds),
      max_tokens_(kTokenBounds),
      first_token_s_(kFirstTokenBounds),
      next_token_s_(kNextTokenBounds),
      token_time_s_(kNextTokenBounds),
      e2e_s_(kRequestBounds),
      decode_s_(kRequestBounds) {}

void Metrics::count_http(std::string_view handler, std::string_view method, int status) {
  ++http_[{std::string(handler), std::string(method), fmt::format("{}xx", status / 100)}];
}

void Metrics::observe_request(int64_t choices, int64_t max_tokens) {
  choices_.observe(static_cast<double>(choices));
  max_tokens_.observe(static_cast<double>(max_tokens));
}

void Metrics::observe_first_token(double since_arrival_s, int64_t prompt_tokens) {
  first_token_s_.observe(since_arrival_s);
  prompt_tokens_ += prompt_tokens;
  ++output_tokens_;
}

void Metrics::observe_next_token(double since_last_s) {
  next_token_s_.observe(since_last_s);
  ++output_tokens_;
}

void Metrics::observe_finished(const FinishedSequence& sequence) {
  ++endings_[static_cast<size_t>(sequence.ending)];
  prompt_length_.observe(static_cast<double>(sequence.prompt_tokens));
  output_length_.observe(static_cast<double>(sequence.output_tokens));
  max_output_.observe(static_cast<double>(sequence.max_tokens));
  e2e_s_.observe(sequence.e2e_s);
  decode_s_.observe(sequence.decode_s);
  if (sequence.output_tokens > 1) {
    token_time_s_.observe(sequence.decode_s / static_cast<double>(sequence.output_tokens - 1));
  }
}

std::string Metrics::page(const Moment& moment) const {
  Page page(moment.model);
  add_engines(page, moment);
  const std::string engine = "engine=\"0\"";
  page.family("vllm:prompt_tokens_total", "counter", "Number of prefill tokens processed.");
  page.sample(engine, static_cast<double>(prompt_tokens_));
  page.family("vllm:generation_tokens_total", "counter", "Number of generation tokens processed.");
  page.sample(engine, static_cast<double>(output_tokens_));
  page.family("vllm:request_success_total", "counter", "Count of successfully processed requests.");
  for (int i = 0; i < kEndings; ++i) {
    page.sample(fmt::format("{},finished_reason=\"{}\"", engine, kEndingNames[i]),
                static_cast<double>(endings_[i]));
  }
  page.family("vllm:admission_rejections_total", "counter",
              "Number of admission attempts rejected by a queue limit, by reason.");
  for (size_t i = 0; i < kRejectionNames.size(); ++i) {
    page.plain(fmt::format("model_name=\"{}\",reason=\"{}\"", label_text(moment.model),
                           kRejectionNames[i]),
               static_cast<double>(rejections_[i]));
  }
  page.histogram("vllm:request_prompt_tokens", "Number of prefill tokens processed.",
                 prompt_length_);
  page.histogram("vllm:request_generation_tokens", "Number of generation tokens processed.",
                 output_length_);
  page.histogram("vllm:request_max_num_generation_tokens",
                 "Histogram of maximum number of requested generation tokens.", max_output_);
  page.histogram("vllm:request_params_n", "Histogram of the n request parameter.", choices_);
  page.histogram("vllm:request_params_max_tokens", "Histogram of the max_tokens request parameter.",
                 max_tokens_);
  page.histogram("vllm:time_to_first_token_seconds", "Histogram of time to first token in seconds.",
                 first_token_s_);
  page.histogram("vllm:inter_token_latency_seconds", "Histogram of inter-token latency in seconds.",
                 next_token_s_);
  page.histogram("vllm:request_time_per_output_token_seconds",
                 "Histogram of time_per_output_token_seconds per request.", token_time_s_);
  page.histogram("vllm:e2e_request_latency_seconds", "Histogram of e2e request latency in seconds.",
                 e2e_s_);
  page.histogram("vllm:request_decode_time_seconds",
                 "Histogram of time spent in DECODE phase for request.", decode_s_);
  page.family("http_requests_total", "counter",
              "Total number of requests by method, status and handler.");
  for (const auto& [key, count] : http_) {
    const auto& [handler, method, status] = key;
    page.plain(fmt::format("handler=\"{}\",method=\"{}\",status=\"{}\"", label_text(handler),
                           label_text(method), status),
               static_cast<double>(count));
  }
  page.family("fourfold:preparing_requests", "gauge", "Requests that are read and tokenised.");
  page.plain("", static_cast<double>(moment.preparing));
  page.family("fourfold:connections", "gauge", "Open connections of clients.");
  page.plain("", static_cast<double>(moment.connections));
  return page.take();
}

}  // namespace fourfold::serve

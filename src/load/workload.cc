#include "load/workload.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "base/check.h"
#include "base/philox.h"

namespace fourfold::load {
namespace {

/// Streams of tokens that one request has for itself; those below are shared: ids of a trace's
/// prefix blocks, or the one prefix of a synthetic load.
constexpr uint64_t kOwnStream = uint64_t{1} << 63;
constexpr uint64_t kSharedPrefixStream = 0;

void append_tokens(const Workload& workload, const Segment& segment,
                   std::vector<engine::TokenId>& out) {
  const auto low = static_cast<uint32_t>(segment.stream);
  const auto high = static_cast<uint32_t>(segment.stream >> 32);
  std::array<uint32_t, 4> draws{};
  for (uint32_t i = 0; i < static_cast<uint32_t>(segment.tokens); ++i) {
    if (i % 4 == 0) draws = base::philox(workload.seed, {i / 4, low, high, 0});
    out.push_back(
        static_cast<engine::TokenId>(draws[i % 4] % static_cast<uint64_t>(workload.vocab)));
  }
}

PlannedRequest planned(int64_t output_tokens) {
  PlannedRequest out;
  out.request.max_new_tokens = static_cast<int32_t>(output_tokens);
  out.request.ignore_eos = true;
  out.request.sampling.temperature = 0;
  return out;
}

int64_t new_tokens(const PlannedRequest& request) {
  int64_t tokens = std::ssize(request.request.prompt);
  for (const Segment& segment : request.segments) tokens += segment.tokens;
  return tokens;
}

double scaled(int64_t tokens, double scale) {
  return std::max(1.0, std::round(static_cast<double>(tokens) * scale));
}

/// The prompt of a trace's request: its prefix blocks with their borders scaled, so that two
/// requests share the same tokens as in the trace; without blocks, tokens of its own.
std::vector<Segment> trace_segments(const Trace& trace, const TraceRecord& record, double scale) {
  const auto total = static_cast<int32_t>(scaled(record.input_tokens, scale));
  const std::span<const uint64_t> blocks = trace.blocks_of(record);
  if (blocks.empty()) {
    return {{.stream = kOwnStream | static_cast<uint64_t>(record.line), .tokens = total}};
  }
  std::vector<Segment> out;
  int32_t begin = 0;
  for (size_t b = 0; b < blocks.size(); ++b) {
    const double border = std::round(static_cast<double>(b + 1) * kTraceBlockTokens * scale);
    const bool last = b + 1 == blocks.size();
    const int32_t end = last ? total : static_cast<int32_t>(std::min<double>(total, border));
    if (end > begin) out.push_back({.stream = blocks[b], .tokens = end - begin});
    begin = end;
  }
  return out;
}

}  // namespace

Workload synthetic_workload(const SyntheticLoad& load) {
  CHECK(load.vocab > 0 && load.input_len > 0 && load.output_len > 0 && load.turns > 0 &&
            load.shared_prefix >= 0,
        "load of {} in, {} out, {} turns, {} shared", load.input_len, load.output_len, load.turns,
        load.shared_prefix);
  Workload out{.vocab = load.vocab, .seed = load.seed};
  for (int32_t c = 0; c < load.conversations; ++c) {
    for (int32_t turn = 0; turn < load.turns; ++turn) {
      const auto index = static_cast<int32_t>(out.requests.size());
      PlannedRequest request = planned(load.output_len);
      if (turn > 0) {
        request.follows = index - 1;
      } else if (load.shared_prefix > 0) {
        request.segments.push_back({.stream = kSharedPrefixStream, .tokens = load.shared_prefix});
      }
      request.segments.push_back(
          {.stream = kOwnStream | static_cast<uint64_t>(index), .tokens = load.input_len});
      out.requests.push_back(std::move(request));
    }
  }
  return out;
}

base::Result<Workload> trace_workload(const Trace& trace, const TraceLoad& load) {
  CHECK(load.vocab > 0 && load.length_scale > 0 && load.max_positions > 0,
        "vocabulary {}, length scale {}, {} positions", load.vocab, load.length_scale,
        load.max_positions);
  Workload out{.vocab = load.vocab, .seed = load.seed};
  double first_arrival_s = 0;
  for (const TraceRecord& record : trace.records) {
    if (load.max_requests > 0 && std::ssize(out.requests) == load.max_requests) break;
    const double input = scaled(record.input_tokens, load.length_scale);
    const double output = scaled(record.output_tokens, load.length_scale);
    if (input + output > static_cast<double>(load.max_positions)) {
      if (!load.skip_too_long) {
        return base::fail(
            "line {} of the trace: {} prompt and {} output tokens (lengths times {}) are more than "
            "the {} positions of the model; use a smaller --trace-scale or a longer "
            "--max-model-len",
            record.line, input, output, load.length_scale, load.max_positions);
      }
      ++out.skipped;
      continue;
    }
    PlannedRequest request = planned(static_cast<int64_t>(output));
    request.segments = trace_segments(trace, record, load.length_scale);
    if (out.requests.empty()) first_arrival_s = record.arrival_s;
    out.requests.push_back(std::move(request));
    out.arrivals_s.push_back(record.arrival_s - first_arrival_s);
  }
  if (out.requests.empty()) {
    return base::fail("no request of the trace fits the {} positions of the model",
                      load.max_positions);
  }
  return out;
}

void set_sampling(Workload& workload, const engine::SamplingParams& sampling) {
  for (size_t i = 0; i < workload.requests.size(); ++i) {
    engine::SamplingParams& of_request = workload.requests[i].request.sampling;
    of_request = sampling;
    constexpr uint32_t kSamplingDraw = 2;  // tokens of prompts have 0 there, arrivals 1
    const auto draws = base::philox(workload.seed, {static_cast<uint32_t>(i), 0, 0, kSamplingDraw});
    of_request.seed = uint64_t{draws[1]} << 32 | draws[0];
  }
}

Workload explicit_workload(std::vector<engine::Request> requests) {
  Workload out;
  for (engine::Request& request : requests) out.requests.push_back({.request = std::move(request)});
  return out;
}

engine::Request make_request(const Workload& workload, size_t index,
                             std::span<const engine::TokenId> history) {
  const PlannedRequest& planned_request = workload.requests[index];
  CHECK(history.empty() || planned_request.follows >= 0, "request {} follows none", index);
  engine::Request out = planned_request.request;
  out.prompt.reserve(history.size() + static_cast<size_t>(new_tokens(planned_request)));
  out.prompt.insert(out.prompt.begin(), history.begin(), history.end());
  for (const Segment& segment : planned_request.segments) {
    append_tokens(workload, segment, out.prompt);
  }
  return out;
}

std::vector<engine::Request> make_requests(const Workload& workload) {
  std::vector<engine::Request> out;
  for (size_t i = 0; i < workload.requests.size(); ++i) out.push_back(make_request(workload, i));
  return out;
}

int64_t longest_tokens(const Workload& workload) {
  std::vector<int64_t> tokens;
  for (const PlannedRequest& request : workload.requests) {
    const int64_t before = request.follows < 0 ? 0 : tokens[static_cast<size_t>(request.follows)];
    tokens.push_back(before + new_tokens(request) + request.request.max_new_tokens);
  }
  return tokens.empty() ? 0 : *std::max_element(tokens.begin(), tokens.end());
}

}  // namespace fourfold::load

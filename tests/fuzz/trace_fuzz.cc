#include <cmath>

#include "load/trace.h"
#include "tests/fuzz/fuzz_target.h"

namespace fourfold::fuzz {

void check_input(std::string_view input) {
  const auto trace = load::parse_trace(input, "fuzz");
  if (!trace.ok()) return;
  const load::TraceLimits limits;
  double last_s = 0;
  int32_t last_line = 0;
  for (const load::TraceRecord& record : trace->records) {
    CHECK(std::isfinite(record.arrival_s) && record.arrival_s >= last_s, "{} s after {} s",
          record.arrival_s, last_s);
    CHECK(record.line > last_line, "line {} after {}", record.line, last_line);
    CHECK(record.input_tokens >= 1 && record.input_tokens <= limits.max_tokens, "{} tokens",
          record.input_tokens);
    CHECK(record.output_tokens >= 1 && record.output_tokens <= limits.max_tokens, "{} tokens",
          record.output_tokens);
    const int64_t blocks =
        (record.input_tokens + load::kTraceBlockTokens - 1) / load::kTraceBlockTokens;
    CHECK(record.num_blocks == 0 || record.num_blocks == blocks, "{} blocks of {} tokens",
          record.num_blocks, record.input_tokens);
    CHECK(record.first_block >= 0 &&
              int64_t{record.first_block} + record.num_blocks <= std::ssize(trace->block_ids),
          "[{}, +{}) of {}", record.first_block, record.num_blocks, trace->block_ids.size());
    last_s = record.arrival_s;
    last_line = record.line;
  }
}

}  // namespace fourfold::fuzz

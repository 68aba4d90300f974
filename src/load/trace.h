#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace fourfold::load {

/// Tokens of one prefix block of a Mooncake trace.
inline constexpr int64_t kTraceBlockTokens = 512;

/// One request of a recorded trace.
struct TraceRecord {
  double arrival_s = 0;  ///< not before the one above it
  int32_t input_tokens = 0;
  int32_t output_tokens = 0;
  int32_t first_block = 0;  ///< in Trace::block_ids
  int32_t num_blocks = 0;   ///< ceil(input_tokens / 512), or 0 in a trace that does not tell
  int32_t line = 0;
};

/// A recorded trace.
struct Trace {
  std::vector<TraceRecord> records;
  /// Of all records one after the other. Equal ids: equal tokens in this block and before it.
  std::vector<uint64_t> block_ids;

  std::span<const uint64_t> blocks_of(const TraceRecord& record) const {
    return std::span(block_ids).subspan(static_cast<size_t>(record.first_block),
                                        static_cast<size_t>(record.num_blocks));
  }
};

/// What a trace may cost at most; everything beyond is an error. With these a trace takes less than
/// 64 MiB of memory.
struct TraceLimits {
  int64_t max_bytes = int64_t{64} << 20;
  int64_t max_line_bytes = int64_t{1} << 20;
  int64_t max_records = 500'000;
  int64_t max_blocks = 2'000'000;
  int64_t max_tokens = 10'000'000;  ///< of one prompt or output
};

/// Parses a trace; `what` names it in messages. Three formats, told apart by the first line:
/// - Mooncake (FAST'25): one JSON object a line with `timestamp` (ms), `input_length`,
///   `output_length` and optionally `hash_ids`, one for each block of 512 prompt tokens;
/// - Azure LLM inference: CSV with the columns `TIMESTAMP` (date and time of day), `ContextTokens`,
///   `GeneratedTokens`; or as cleaned in Vidur `arrived_at` (s), `num_prefill_tokens`,
///   `num_decode_tokens`.
/// Errors name the line: not the format, a length that is no positive integer, a time that is not
/// finite or runs backwards, a number of ids that does not fit the length, a limit exceeded.
base::Result<Trace> parse_trace(std::string_view text, std::string_view what,
                                const TraceLimits& limits = {});
/// The same for a file, named by its path.
base::Result<Trace> read_trace(const std::filesystem::path& path, const TraceLimits& limits = {});

}  // namespace fourfold::load

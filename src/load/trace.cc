#include "load/trace.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <limits>
#include <string>

#include "files/json.h"
#include "files/mapped_file.h"
#include "files/printable.h"

namespace fourfold::load {
namespace {

/// Azure's traces as Vidur writes them, and as Azure does: with the time of day.
constexpr std::string_view kAzureHeader = "arrived_at,num_prefill_tokens,num_decode_tokens";
constexpr std::string_view kAzureDateHeader = "TIMESTAMP,ContextTokens,GeneratedTokens";

/// "2023-11-16 18:15:46.6805900" as seconds since 1970, cut off the front of `text`.
bool take_date(std::string_view& text, double& seconds) {
  const auto take = [&](size_t digits, int& value) {
    const std::string_view word = text.substr(0, digits);
    const bool is_number =
        word.size() == digits &&
        std::all_of(word.begin(), word.end(), [](char c) { return '0' <= c && c <= '9'; });
    if (!is_number) return false;
    std::from_chars(word.data(), word.data() + digits, value);
    text.remove_prefix(digits);
    return true;
  };
  const auto skip = [&](char c) {
    if (!text.starts_with(c)) return false;
    text.remove_prefix(1);
    return true;
  };
  int year = 0, month = 0, day = 0, hour = 0, minute = 0, second = 0;
  if (!take(4, year) || !skip('-') || !take(2, month) || !skip('-') || !take(2, day) ||
      !skip(' ') || !take(2, hour) || !skip(':') || !take(2, minute) || !skip(':') ||
      !take(2, second)) {
    return false;
  }
  const std::chrono::year_month_day date{std::chrono::year(year),
                                         std::chrono::month(static_cast<unsigned>(month)),
                                         std::chrono::day(static_cast<unsigned>(day))};
  if (!date.ok() || hour > 23 || minute > 59 || second > 60) return false;
  double fraction = 0;
  if (text.starts_with('.')) {
    const size_t digits = std::min(text.find_first_not_of("0123456789", 1), text.size());
    const auto [stop, error] = std::from_chars(text.data(), text.data() + digits, fraction);
    if (error != std::errc() || stop != text.data() + digits) return false;
    text.remove_prefix(digits);
  }
  const int64_t days = std::chrono::sys_days(date).time_since_epoch().count();
  seconds = static_cast<double>(((days * 24 + hour) * 60 + minute) * 60 + second) + fraction;
  return true;
}

class TraceParser {
 public:
  TraceParser(std::string_view what, const TraceLimits& limits) : what_(what), limits_(limits) {}

  base::Result<Trace> parse(std::string_view text) {
    if (std::ssize(text) > limits_.max_bytes) {
      return base::fail("{} has {} bytes, a trace at most {}", what_, text.size(),
                        limits_.max_bytes);
    }
    const bool json = text.starts_with('{');
    while (!text.empty()) {
      const size_t newline = text.find('\n');
      std::string_view line = text.substr(0, newline);
      text.remove_prefix(newline == std::string_view::npos ? text.size() : newline + 1);
      ++line_;
      if (line.ends_with('\r')) line.remove_suffix(1);
      FF_TRY(json ? json_line(line) : csv_line(line));
    }
    if (trace_.records.empty()) return base::fail("{}: a trace without requests", what_);
    return std::move(trace_);
  }

 private:
  std::string here() const { return fmt::format("{}, line {}", what_, line_); }

  base::Status json_line(std::string_view line) {
    if (line.empty()) return {};
    if (std::ssize(line) > limits_.max_line_bytes) return too_long();
    const std::string where = here();
    FF_ASSIGN(const nlohmann::json object, files::parse_json(line, where));
    FF_ASSIGN(const double milliseconds, files::json_get<double>(object, "timestamp", where));
    FF_ASSIGN(const int64_t input, files::json_get<int64_t>(object, "input_length", where));
    FF_ASSIGN(const int64_t output, files::json_get<int64_t>(object, "output_length", where));
    FF_TRY(add(milliseconds * 1e-3, input, output));
    const auto ids = object.find("hash_ids");
    return ids == object.end() ? base::Status() : add_blocks(*ids);
  }

  base::Status csv_line(std::string_view line) {
    if (line_ == 1) {
      dated_ = line == kAzureDateHeader;
      if (line == kAzureHeader || dated_) return {};
      return base::fail(
          "{}: expected a JSON object (Mooncake) or the header \"{}\" or \"{}\" (Azure), found "
          "\"{}\"",
          here(), kAzureDateHeader, kAzureHeader, files::printable(line));
    }
    if (line.empty()) return {};
    if (std::ssize(line) > limits_.max_line_bytes) return too_long();
    double seconds = 0;
    int64_t input = 0;
    int64_t output = 0;
    std::string_view rest = line;
    bool good = !dated_ || (take_date(rest, seconds) && rest.starts_with(','));
    if (dated_ && good) {
      // Doubles of seconds since 1970 hold a quarter of a microsecond.
      if (trace_.records.empty()) begin_s_ = seconds;
      seconds -= begin_s_;
      rest.remove_prefix(1);
    }
    const char* const end = rest.data() + rest.size();
    const char* at = rest.data();
    const auto number = [&](auto& value, bool last) {
      const auto [stop, error] = std::from_chars(at, end, value);
      if (error != std::errc() || (last ? stop != end : stop == end || *stop != ',')) return false;
      at = last ? end : stop + 1;
      return true;
    };
    good =
        good && (dated_ || number(seconds, false)) && number(input, false) && number(output, true);
    if (!good) {
      return base::fail("{}: expected {} and two token counts, found \"{}\"", here(),
                        dated_ ? "a time as 2023-11-16 18:15:46.68" : "seconds",
                        files::printable(line));
    }
    return add(seconds, input, output);
  }

  base::Status add(double arrival_s, int64_t input, int64_t output) {
    if (std::ssize(trace_.records) == limits_.max_records) {
      return base::fail("{}: a trace has at most {} requests", here(), limits_.max_records);
    }
    if (!std::isfinite(arrival_s) || arrival_s < 0) {
      return base::fail("{}: arrives at {} s, expected a time since the trace's begin", here(),
                        arrival_s);
    }
    if (!trace_.records.empty() && arrival_s < trace_.records.back().arrival_s) {
      return base::fail("{}: arrives at {} s, before the request above it ({} s); sort the trace",
                        here(), arrival_s, trace_.records.back().arrival_s);
    }
    for (const int64_t tokens : {input, output}) {
      if (tokens < 1 || tokens > limits_.max_tokens) {
        return base::fail("{}: a length of {} tokens, expected 1 to {}", here(), tokens,
                          limits_.max_tokens);
      }
    }
    trace_.records.push_back({.arrival_s = arrival_s,
                              .input_tokens = static_cast<int32_t>(input),
                              .output_tokens = static_cast<int32_t>(output),
                              .first_block = static_cast<int32_t>(trace_.block_ids.size()),
                              .line = line_});
    return {};
  }

  base::Status add_blocks(const nlohmann::json& ids) {
    TraceRecord& record = trace_.records.back();
    const int64_t expected = (record.input_tokens + kTraceBlockTokens - 1) / kTraceBlockTokens;
    if (!ids.is_array() || static_cast<int64_t>(ids.size()) != expected) {
      return base::fail("{}: expected {} \"hash_ids\" for {} tokens in blocks of {}, found {}",
                        here(), expected, record.input_tokens, kTraceBlockTokens,
                        ids.is_array() ? ids.size() : 0);
    }
    if (std::ssize(trace_.block_ids) + expected > limits_.max_blocks) {
      return base::fail("{}: a trace has at most {} prefix blocks", here(), limits_.max_blocks);
    }
    for (const nlohmann::json& id : ids) {
      const bool fits = id.is_number_unsigned() &&
                        id.get<uint64_t>() <= uint64_t{std::numeric_limits<int64_t>::max()};
      if (!fits) return base::fail("{}: expected integers of 63 bits as \"hash_ids\"", here());
      trace_.block_ids.push_back(id.get<uint64_t>());
    }
    record.num_blocks = static_cast<int32_t>(expected);
    return {};
  }

  base::Error too_long() const {
    return base::fail("{}: longer than {} bytes", here(), limits_.max_line_bytes);
  }

  std::string_view what_;
  const TraceLimits& limits_;
  Trace trace_;
  int32_t line_ = 0;
  bool dated_ = false;  ///< arrivals are dates
  double begin_s_ = 0;  ///< the first of them
};

}  // namespace

base::Result<Trace> parse_trace(std::string_view text, std::string_view what,
                                const TraceLimits& limits) {
  return TraceParser(what, limits).parse(text);
}

base::Result<Trace> read_trace(const std::filesystem::path& path, const TraceLimits& limits) {
  FF_ASSIGN(const files::MappedFile file, files::MappedFile::open(path));
  return parse_trace(file.text(), file.path(), limits);
}

}  // namespace fourfold::load

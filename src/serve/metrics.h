#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "runtime/cluster.h"
#include "serve/metrics_page.h"

namespace fourfold::serve {

/// How a sequence ended.
enum class Ending : uint8_t { kStop, kLength, kAbort, kError };
inline constexpr int kEndings = 4;

/// A sequence that has ended. Times are in seconds.
struct FinishedSequence {
  Ending ending = Ending::kStop;
  int64_t prompt_tokens = 0;
  int64_t output_tokens = 0;
  int64_t max_tokens = 0;
  double e2e_s = 0;     ///< from the request's arrival to its last token
  double decode_s = 0;  ///< from its first token to its last
};

/// Why a request was not taken.
enum class Rejection : uint8_t { kRequests, kTokens };

/// What /metrics tells: names, labels and buckets of vLLM 0.32, and `fourfold:` for what it does
/// not have. Used on the server's thread.
class Metrics {
 public:
  Metrics();

  void count_http(std::string_view handler, std::string_view method, int status);
  void count_rejection(Rejection rejection) { ++rejections_[static_cast<size_t>(rejection)]; }
  void observe_request(int64_t choices, int64_t max_tokens);
  void observe_first_token(double since_arrival_s, int64_t prompt_tokens);
  void observe_next_token(double since_last_s);
  void observe_finished(const FinishedSequence& sequence);

  /// What the page says of one moment.
  struct Moment {
    std::string_view model;
    std::vector<runtime::GroupStatus> groups;
    int64_t preparing = 0;  ///< requests that are read and tokenised
    int64_t connections = 0;
    int32_t block_size = 0;
  };
  /// The page, in Prometheus' text format 0.0.4.
  std::string page(const Moment& moment) const;

 private:
  std::map<std::tuple<std::string, std::string, std::string>, int64_t> http_;
  int64_t rejections_[2] = {};
  int64_t endings_[kEndings] = {};
  int64_t prompt_tokens_ = 0;
  int64_t output_tokens_ = 0;
  Histogram prompt_length_;
  Histogram output_length_;
  Histogram max_output_;
  Histogram choices_;
  Histogram max_tokens_;
  Histogram first_token_s_;
  Histogram next_token_s_;
  Histogram token_time_s_;
  Histogram e2e_s_;
  Histogram decode_s_;
};

}  // namespace fourfold::serve

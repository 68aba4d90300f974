#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/result.h"
#include "http/url.h"
#include "load/metrics.h"
#include "measure/progress.h"

namespace fourfold::measure {

/// A load for a server that is there already.
struct ServedLoadOptions {
  http::Url url;
  std::string api_key;
  std::string model;  ///< as the server calls it; "": the first one that it lists
  int input_len = 128;
  int output_len = 64;
  int requests = 100;
  int concurrency = 0;  ///< outstanding at most; 0: as many as arrive
  double rate = 0;      ///< requests/s; 0: all at once
  double burstiness = 1;
  uint64_t seed = 0;
};

struct ServedLoad {
  std::string model;
  std::string vocabulary_of;
  std::vector<load::RequestLog> requests;
  double wall_s = 0;  ///< from the start to the end of the last request, failed ones too
  load::RunMetrics metrics;
};

/// Sends one request to warm up, then the load. `vocabulary_of`: the model from whose tokens
/// prompts are drawn; "": the one that the server names. Errors: no such model; the server cannot
/// be reached or refuses the first request. Later failures are counted.
base::Result<ServedLoad> measure_served(const ServedLoadOptions& options,
                                        const std::string& vocabulary_of, const Progress& progress);

/// The keys of `vllm bench serve --save-result`, with their meanings and units, but for those of
/// its texts, of queues and of audio; and `requests_without_usage`, the completed ones whose tokens
/// are counted by chunks of the stream because the server told no number.
nlohmann::ordered_json vllm_result(const ServedLoadOptions& options, const ServedLoad& run,
                                   const std::string& date);
/// The same for people.
std::string to_text(const ServedLoadOptions& options, const ServedLoad& run);

}  // namespace fourfold::measure

#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "engine/request.h"
#include "http/client.h"
#include "load/run.h"

namespace fourfold::measure {

/// What a server is asked to complete.
struct Question {
  std::string model;  ///< as the server calls it
  std::variant<std::string, std::vector<engine::TokenId>> prompt;
  int64_t max_tokens = 16;
  double temperature = 0;
  bool ignore_eos = true;                      ///< the output is as long as was asked
  std::optional<int> logprobs = std::nullopt;  ///< most likely tokens to be told at each position
  /// Tokens beside logprobs are written as `token_id:N`, so that two that look alike differ (vLLM
  /// and others that know `return_tokens_as_token_ids`).
  bool tokens_as_ids = false;
};

/// A whole answer.
struct ServedAnswer {
  std::string text;
  std::string finish_reason;  ///< "length", "stop", …; "" where the server says none
  /// As the server writes them, with their logprobs; all three empty where logprobs were not asked
  /// for.
  std::vector<std::string> tokens;
  std::vector<double> logprobs;
  std::vector<std::map<std::string, double>> top;  ///< the most likely ones at each position
  /// Of the usage, where there is one.
  std::optional<int64_t> prompt_tokens;
  std::optional<int64_t> completion_tokens;
};

/// An OpenAI-compatible server (/v1/models, /v1/completions) as an instrument: when its tokens
/// come, and which.
///
/// Times are those of the pieces that complete a chunk of the stream. A chunk that has a choice is
/// an arrival of tokens, as `vllm bench serve` counts, whether or not there is text in it: a token
/// may be a part of a character. How many there are in it is known where the server says so beside
/// the chunk (`logprobs`, `token_ids`), else one is put down for it, and the usage at the end tells
/// the number of all. Chunks without text are dropped where there are more chunks than tokens, the
/// closing one first, then from the front.
class Endpoint {
 public:
  /// `api_key`: "" for none. `clock` dates what comes and outlives the endpoint.
  Endpoint(http::Url url, std::string api_key, const base::Clock& clock = steady_clock());

  /// The ids of /v1/models, at least one. Errors: nobody answers, or not as OpenAI would.
  base::Result<std::vector<std::string>> models();
  base::Result<std::string> first_model();

  /// load::Submit, streamed. The arrivals, with the times at which they came and zeros as tokens,
  /// are handed on at the end. A stream fails that ends neither with a finish_reason nor with
  /// [DONE], that has an error in it, or of which a choice ends with "abort" or "error".
  /// `told_tokens`: the usage's, or the sum of the chunks' where every one tells; none: nobody
  /// knows.
  void submit(const Question& question, load::Sink sink);
  base::Status submit(const std::string& model, const engine::Request& request, load::Sink sink);

  /// Waits for a whole answer. Errors: there is none, what the server complains of, or it says
  /// nothing of logprobs that were asked for.
  base::Result<ServedAnswer> ask(const Question& question);

 private:
  static const base::Clock& steady_clock();
  http::ClientRequest completion(const Question& question, bool stream) const;
  std::vector<http::Header> headers() const;

  std::string api_key_;
  const base::Clock& clock_;
  http::Client client_;
};

}  // namespace fourfold::measure

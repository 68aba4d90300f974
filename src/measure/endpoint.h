#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "engine/request.h"
#include "http/client.h"
#include "load/run.h"

namespace fourfold::measure {

/// An OpenAI-compatible server as something that takes requests: /v1/completions, streamed, with
/// prompts as token ids.
class Endpoint {
 public:
  /// `api_key`: "" for none.
  Endpoint(http::Url url, std::string api_key);

  /// The id of the first of /v1/models. Errors: nobody answers, or not as OpenAI would.
  base::Result<std::string> first_model();

  /// load::Submit. Tokens come as zeros: what a client sees of them is when. A chunk of a stream
  /// comes as one; how many there were the usage at the end tells. The output is as long as was
  /// asked (ignore_eos).
  base::Status submit(const std::string& model, const engine::Request& request, load::Sink sink);

 private:
  std::vector<http::Header> headers() const;

  std::string api_key_;
  http::Client client_;
};

}  // namespace fourfold::measure

#include "measure/endpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "files/json.h"
#include "http/sse_reader.h"

namespace fourfold::measure {
namespace {

using nlohmann::json;

constexpr size_t kShownBytes = 400;  // of a reply that is an error

/// What a server's reply says went wrong.
std::string complaint(int status, const std::string& body) {
  const auto parsed = files::parse_json(body, "the reply");
  if (parsed.ok() && parsed->is_object() && parsed->contains("error")) {
    const json& error = parsed->at("error");
    const auto message = files::json_get<std::string>(error, "message", "the reply");
    if (message.ok()) return fmt::format("HTTP {}: {}", status, *message);
  }
  return fmt::format("HTTP {}: {}", status, body.substr(0, kShownBytes));
}

/// One stream on its way to a sink. Used on the client's thread.
class Stream {
 public:
  explicit Stream(load::Sink sink) : sink_(std::move(sink)) {}

  void head(int status) { status_ = status; }

  void body(std::string_view bytes) {
    if (status_ != kOk) {
      if (error_body_.size() < kMostErrorBytes) error_body_ += bytes;
      return;
    }
    const int64_t now_ns = clock_.now_ns();
    const base::Status read =
        reader_.push(bytes, [&](std::string_view data) { take(data, now_ns); });
    if (!read.ok() && failure_.empty()) failure_ = read.error().message;
  }

  void end(const std::string& error) {
    if (!error.empty()) {
      failure_ = error;
    } else if (status_ != kOk) {
      failure_ = complaint(status_, error_body_);
    } else if (failure_.empty() && !chunk_ns_) {
      failure_ = "the stream ended without a token";
    }
    const int64_t more = std::max<int64_t>(0, completion_tokens_.value_or(0) - chunks_);
    if (chunk_ns_) deliver(1 + more, /*finished=*/failure_.empty());
    if (!failure_.empty()) {
      sink_({.tokens = {}, .finished = true, .failure = failure_, .now_ns = clock_.now_ns()});
    }
  }

 private:
  static constexpr int kOk = 200;
  static constexpr size_t kMostErrorBytes = 1 << 16;

  void take(std::string_view data, int64_t now_ns) {
    if (data == "[DONE]" || !failure_.empty()) return;
    const auto event = files::parse_json(data, "an event of the stream");
    if (!event.ok()) {
      failure_ = event.error().message;
      return;
    }
    if (!event->is_object()) return;
    if (const auto error = event->find("error"); error != event->end() && !error->is_null()) {
      failure_ = complaint(status_, std::string(data));
      return;
    }
    if (const auto usage = event->find("usage"); usage != event->end() && usage->is_object()) {
      const auto tokens = files::json_get<int64_t>(*usage, "completion_tokens", "a usage");
      if (tokens.ok()) completion_tokens_ = *tokens;
    }
    const auto choices = event->find("choices");
    if (choices == event->end() || !choices->is_array() || choices->empty()) return;
    if (chunk_ns_) deliver(1, /*finished=*/false);
    chunk_ns_ = now_ns;
    ++chunks_;
  }

  /// The chunk that came last, which waited for what else is known of it.
  void deliver(int64_t tokens, bool finished) {
    const std::vector<engine::TokenId> zeros(static_cast<size_t>(tokens));
    sink_({.tokens = zeros, .finished = finished, .failure = {}, .now_ns = *chunk_ns_});
  }

  load::Sink sink_;
  base::SteadyClock clock_;
  http::SseReader reader_;
  int status_ = 0;
  std::string error_body_;
  std::string failure_;
  std::optional<int64_t> chunk_ns_;  ///< when the last chunk came
  int64_t chunks_ = 0;
  std::optional<int64_t> completion_tokens_;
};

}  // namespace

Endpoint::Endpoint(http::Url url, std::string api_key)
    : api_key_(std::move(api_key)), client_(std::move(url)) {}

std::vector<http::Header> Endpoint::headers() const {
  if (api_key_.empty()) return {};
  return {{"Authorization", "Bearer " + api_key_}};
}

base::Result<std::string> Endpoint::first_model() {
  FF_ASSIGN(const http::Client::Reply reply,
            client_.fetch({.path = "/v1/models", .headers = headers(), .body = {}}));
  if (reply.status != 200) return base::fail("/v1/models: {}", complaint(reply.status, reply.body));
  FF_ASSIGN(const json models, files::parse_json(reply.body, "/v1/models"));
  const auto data = models.is_object() ? models.find("data") : models.end();
  if (data == models.end() || !data->is_array() || data->empty()) {
    return base::fail("/v1/models: expected {{\"data\": [{{\"id\": …}}, …]}}, found {}",
                      reply.body.substr(0, kShownBytes));
  }
  return files::json_get<std::string>(data->front(), "id", "/v1/models");
}

base::Status Endpoint::submit(const std::string& model, const engine::Request& request,
                              load::Sink sink) {
  const json body = {{"model", model},
                     {"prompt", request.prompt},
                     {"max_tokens", request.max_new_tokens},
                     {"temperature", request.sampling.temperature},
                     {"stream", true},
                     {"stream_options", {{"include_usage", true}}},
                     {"ignore_eos", true}};
  const auto stream = std::make_shared<Stream>(std::move(sink));
  client_.send(
      {.method = "POST", .path = "/v1/completions", .headers = headers(), .body = body.dump()},
      {.on_head = [stream](int status) { stream->head(status); },
       .on_body = [stream](std::string_view bytes) { stream->body(bytes); },
       .on_end = [stream](const std::string& error) { stream->end(error); }});
  return {};
}

}  // namespace fourfold::measure

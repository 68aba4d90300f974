#include "measure/endpoint.h"

#include <fmt/format.h>

#include <array>
#include <optional>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "files/json.h"
#include "files/printable.h"
#include "http/sse_reader.h"
#include "runtime/launch/interrupt.h"

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
    if (message.ok()) {
      return fmt::format("HTTP {}: {}", status, files::printable(*message, kShownBytes));
    }
  }
  return fmt::format("HTTP {}: {}", status, files::printable(body, kShownBytes));
}

/// One stream on its way to a sink. Used on the client's thread.
class Stream {
 public:
  Stream(load::Sink sink, int64_t most_tokens)
      : sink_(std::move(sink)), most_tokens_(most_tokens) {}

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
    } else if (failure_.empty() && !any_chunk_) {
      failure_ = "the stream ended without a token";
    }
    sink_({.tokens = {},
           .finished = true,
           .told_tokens = completion_tokens_,
           .failure = failure_,
           .now_ns = clock_.now_ns()});
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
      if (tokens.ok() && (*tokens < 0 || *tokens > most_tokens_)) {
        failure_ = fmt::format("the server says that it sent {} tokens, {} were asked for", *tokens,
                               most_tokens_);
        return;
      }
      if (tokens.ok()) completion_tokens_ = *tokens;
    }
    const auto choices = event->find("choices");
    if (choices == event->end() || !choices->is_array() || choices->empty()) return;
    any_chunk_ = true;
    constexpr std::array<engine::TokenId, 1> kOne{};
    sink_({.tokens = kOne, .finished = false, .failure = {}, .now_ns = now_ns});
  }

  load::Sink sink_;
  base::SteadyClock clock_;
  http::SseReader reader_;
  int status_ = 0;
  std::string error_body_;
  std::string failure_;
  int64_t most_tokens_;
  bool any_chunk_ = false;
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
            client_.fetch({.path = "/v1/models", .headers = headers(), .body = {}},
                          {.stop = [] { return runtime::interrupted(); }}));
  if (reply.status != 200) return base::fail("/v1/models: {}", complaint(reply.status, reply.body));
  FF_ASSIGN(const json models, files::parse_json(reply.body, "/v1/models"));
  const auto data = models.is_object() ? models.find("data") : models.end();
  if (data == models.end() || !data->is_array() || data->empty()) {
    return base::fail("/v1/models: expected {{\"data\": [{{\"id\": …}}, …]}}, found {}",
                      files::printable(reply.body, kShownBytes));
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
  const auto stream = std::make_shared<Stream>(std::move(sink), request.max_new_tokens);
  client_.send(
      {.method = "POST", .path = "/v1/completions", .headers = headers(), .body = body.dump()},
      {.on_head = [stream](const http::ResponseHead& head) { stream->head(head.status); },
       .on_body = [stream](std::string_view bytes) { stream->body(bytes); },
       .on_end =
           [stream](const http::CallError* error) { stream->end(error ? error->message : ""); }});
  return {};
}

}  // namespace fourfold::measure

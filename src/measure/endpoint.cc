#include "measure/endpoint.h"

#include <fmt/format.h>

#include <optional>
#include <utility>
#include <vector>

#include "files/json.h"
#include "files/printable.h"
#include "http/sse_reader.h"
#include "runtime/launch/interrupt.h"

namespace fourfold::measure {
namespace {

using nlohmann::json;

constexpr size_t kShownBytes = 400;  // of a reply that is an error

/// The message of an error as OpenAI writes it, else the beginning of the text.
std::string message_of(const std::string& body) {
  const auto parsed = files::parse_json(body, "the reply");
  if (parsed.ok() && parsed->is_object() && parsed->contains("error")) {
    const json& error = parsed->at("error");
    if (error.is_string()) return files::printable(error.get<std::string>(), kShownBytes);
    const auto message = files::json_get<std::string>(error, "message", "the reply");
    if (message.ok()) return files::printable(*message, kShownBytes);
  }
  return files::printable(body, kShownBytes);
}

/// What a reply that is none says went wrong.
std::string complaint(int status, const std::string& body) {
  const bool key = status == 401 || status == 403;
  return fmt::format("HTTP {}: {}{}", status, message_of(body),
                     key ? " (the server wants an API key, or another one)" : "");
}

constexpr int kOk = 200;

/// How many tokens the server says that a choice's piece has.
std::optional<int64_t> tokens_in(const json& choice) {
  if (const auto ids = choice.find("token_ids"); ids != choice.end() && ids->is_array()) {
    return std::ssize(*ids);
  }
  const auto logprobs = choice.find("logprobs");
  if (logprobs == choice.end() || !logprobs->is_object()) return std::nullopt;
  const auto tokens = logprobs->find("tokens");
  if (tokens == logprobs->end() || !tokens->is_array()) return std::nullopt;
  return std::ssize(*tokens);
}

/// A member that is a string; "" where it is absent or something else.
std::string string_in(const json& object, const char* key) {
  const auto member = object.find(key);
  return member != object.end() && member->is_string() ? member->get<std::string>() : "";
}

/// What vLLM and SGLang say of a request that they gave up.
bool aborted(std::string_view finish_reason) {
  return finish_reason == "abort" || finish_reason == "error";
}

std::string abort_message(std::string_view finish_reason) {
  return fmt::format("the server ended the answer with finish_reason \"{}\"", finish_reason);
}

std::optional<int64_t> count_in(const json& usage, const char* key) {
  const auto count = files::json_get<int64_t>(usage, key, "a usage");
  return count.ok() && *count >= 0 ? std::optional(*count) : std::nullopt;
}

/// The most likely tokens of one position. Ones that cannot be (null) are left out.
base::Result<std::map<std::string, double>> read_top(const json& position) {
  std::map<std::string, double> out;
  if (position.is_null()) return out;
  if (!position.is_object()) return base::fail("expected an object of top_logprobs for each token");
  for (const auto& [token, logprob] : position.items()) {
    if (logprob.is_number()) out.emplace(token, logprob.get<double>());
  }
  return out;
}

base::Status read_logprobs(const json& choice, ServedAnswer* out) {
  const auto logprobs = choice.find("logprobs");
  if (logprobs == choice.end() || !logprobs->is_object()) {
    return base::fail("the server's answer has no logprobs, though they were asked for");
  }
  for (const char* key : {"tokens", "token_logprobs", "top_logprobs"}) {
    const auto list = logprobs->find(key);
    if (list == logprobs->end() || !list->is_array() ||
        list->size() != logprobs->at("tokens").size()) {
      return base::fail("expected logprobs with a list of {} for each token of the answer", key);
    }
  }
  const json& tokens = logprobs->at("tokens");
  for (size_t i = 0; i < tokens.size(); ++i) {
    const json& logprob = logprobs->at("token_logprobs")[i];
    if (!tokens[i].is_string() || !logprob.is_number()) {
      return base::fail("expected a text and a logprob for token {} of the answer", i);
    }
    FF_ASSIGN(auto top, read_top(logprobs->at("top_logprobs")[i]));
    out->tokens.push_back(tokens[i].get<std::string>());
    out->logprobs.push_back(logprob.get<double>());
    out->top.push_back(std::move(top));
  }
  return {};
}

base::Result<ServedAnswer> read_answer(const json& body, const Question& question) {
  const auto choices = body.is_object() ? body.find("choices") : body.end();
  if (choices == body.end() || !choices->is_array() || choices->empty() ||
      !choices->front().is_object()) {
    return base::fail(
        "the answer has no choices: {}",
        files::printable(body.dump(-1, ' ', false, json::error_handler_t::replace), kShownBytes));
  }
  const json& choice = choices->front();
  ServedAnswer out{.finish_reason = string_in(choice, "finish_reason")};
  FF_ASSIGN(out.text, files::json_get<std::string>(choice, "text", "the answer"));
  if (aborted(out.finish_reason)) return base::fail("{}", abort_message(out.finish_reason));
  if (question.logprobs) FF_TRY(read_logprobs(choice, &out));
  if (const auto usage = body.find("usage"); usage != body.end() && usage->is_object()) {
    out.prompt_tokens = count_in(*usage, "prompt_tokens");
    out.completion_tokens = count_in(*usage, "completion_tokens");
  }
  return out;
}

/// One stream on its way to a sink. Used on the client's thread.
class Stream {
 public:
  Stream(load::Sink sink, int64_t most_tokens, const base::Clock& clock)
      : sink_(std::move(sink)), clock_(clock), most_tokens_(most_tokens) {}

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
    const int64_t now_ns = clock_.now_ns();
    drop_chunks_without_tokens();
    if (!error.empty()) {
      failure_ = error;
    } else if (status_ != kOk) {
      failure_ = complaint(status_, error_body_);
    } else if (failure_.empty() && !ended_) {
      failure_ =
          fmt::format("the stream broke off after {} chunks, without a finish_reason and [DONE]",
                      chunks_.size());
    } else if (failure_.empty() && chunks_.empty()) {
      failure_ = "the stream ended without a token";
    }
    if (!told_tokens_ && every_chunk_tells_ && !chunks_.empty()) told_tokens_ = tokens_of_chunks_;
    std::vector<engine::TokenId> zeros;
    for (const Chunk& chunk : chunks_) {
      zeros.resize(static_cast<size_t>(chunk.tokens));
      sink_({.tokens = zeros, .finished = false, .failure = {}, .now_ns = chunk.at_ns});
    }
    sink_({.tokens = {},
           .finished = true,
           .told_tokens = told_tokens_,
           .failure = failure_,
           .now_ns = now_ns});
  }

 private:
  static constexpr size_t kMostErrorBytes = 1 << 16;
  static constexpr int64_t kSpareChunks = 1000;

  struct Chunk {
    int64_t at_ns = 0;
    int64_t tokens = 1;
    bool may_be_empty = false;  ///< no text, and nothing says how many tokens
    bool closing = false;       ///< has a finish_reason
  };

  void take(std::string_view data, int64_t now_ns) {
    if (!failure_.empty()) return;
    if (data == "[DONE]") {
      ended_ = true;
      return;
    }
    const auto event = files::parse_json(data, "an event of the stream");
    if (!event.ok()) {
      failure_ = event.error().message;
      return;
    }
    if (!event->is_object()) return;
    if (const auto error = event->find("error"); error != event->end() && !error->is_null()) {
      failure_ = "the server gave up in mid-stream: " + message_of(std::string(data));
      return;
    }
    take_usage(*event);
    const auto choices = event->find("choices");
    if (choices == event->end() || !choices->is_array() || choices->empty()) return;
    if (choices->front().is_object()) take_choice(choices->front(), now_ns);
  }

  void take_usage(const json& event) {
    const auto usage = event.find("usage");
    if (usage == event.end() || !usage->is_object()) return;
    const auto tokens = files::json_get<int64_t>(*usage, "completion_tokens", "a usage");
    if (!tokens.ok()) return;
    if (check_tokens(*tokens)) told_tokens_ = *tokens;
  }

  void take_choice(const json& choice, int64_t now_ns) {
    const std::string reason = string_in(choice, "finish_reason");
    if (aborted(reason)) {
      failure_ = abort_message(reason);
      return;
    }
    const bool closing = !reason.empty();
    ended_ = ended_ || closing;
    const std::optional<int64_t> tokens = tokens_in(choice);
    every_chunk_tells_ = every_chunk_tells_ && tokens;
    if (tokens == 0) return;
    if (tokens && !check_tokens(*tokens)) return;
    // Beside those that bring tokens there may be one that opens the stream and one that closes it,
    // and some servers keep a connection alive with empty ones.
    if (std::ssize(chunks_) > 2 * most_tokens_ + kSpareChunks) {
      failure_ =
          fmt::format("more than {} chunks came for {} tokens", chunks_.size(), most_tokens_);
      return;
    }
    tokens_of_chunks_ += tokens.value_or(1);
    chunks_.push_back({.at_ns = now_ns,
                       .tokens = tokens.value_or(1),
                       .may_be_empty = !tokens && string_in(choice, "text").empty(),
                       .closing = closing});
  }

  bool check_tokens(int64_t tokens) {
    if (tokens >= 0 && tokens <= most_tokens_) return true;
    failure_ = fmt::format("the server says that it sent {} tokens, {} were asked for", tokens,
                           most_tokens_);
    return false;
  }

  void drop_chunks_without_tokens() {
    if (!told_tokens_) return;
    int64_t excess = tokens_of_chunks_ - *told_tokens_;
    const auto drop = [&](bool closing) {
      std::erase_if(chunks_, [&](const Chunk& chunk) {
        return chunk.may_be_empty && (chunk.closing || !closing) && excess-- > 0;
      });
    };
    drop(true);
    drop(false);
  }

  load::Sink sink_;
  const base::Clock& clock_;
  http::SseReader reader_;
  int status_ = 0;
  std::string error_body_;
  std::string failure_;
  int64_t most_tokens_;
  bool ended_ = false;
  std::vector<Chunk> chunks_;
  int64_t tokens_of_chunks_ = 0;
  bool every_chunk_tells_ = true;
  std::optional<int64_t> told_tokens_;
};

}  // namespace

const base::Clock& Endpoint::steady_clock() {
  static const base::SteadyClock clock;
  return clock;
}

Endpoint::Endpoint(http::Url url, std::string api_key, const base::Clock& clock)
    : api_key_(std::move(api_key)), clock_(clock), client_(std::move(url)) {}

std::vector<http::Header> Endpoint::headers() const {
  if (api_key_.empty()) return {};
  return {{"Authorization", "Bearer " + api_key_}};
}

base::Result<std::vector<std::string>> Endpoint::models() {
  FF_ASSIGN(const http::Client::Reply reply,
            client_.fetch({.path = "/v1/models", .headers = headers(), .body = {}},
                          {.stop = [] { return runtime::interrupted(); }}));
  if (reply.status != kOk) return base::fail("/v1/models: {}", complaint(reply.status, reply.body));
  FF_ASSIGN(const json models, files::parse_json(reply.body, "/v1/models"));
  const auto data = models.is_object() ? models.find("data") : models.end();
  if (data == models.end() || !data->is_array() || data->empty()) {
    return base::fail("/v1/models: expected {{\"data\": [{{\"id\": …}}, …]}}, found {}",
                      files::printable(reply.body, kShownBytes));
  }
  std::vector<std::string> out;
  for (const json& model : *data) {
    FF_ASSIGN(std::string id, files::json_get<std::string>(model, "id", "/v1/models"));
    out.push_back(std::move(id));
  }
  return out;
}

base::Result<std::string> Endpoint::first_model() {
  FF_ASSIGN(const std::vector<std::string> all, models());
  return all.front();
}

http::ClientRequest Endpoint::completion(const Question& question, bool stream) const {
  json body = {{"model", question.model},
               {"max_tokens", question.max_tokens},
               {"temperature", question.temperature}};
  std::visit([&](const auto& prompt) { body["prompt"] = prompt; }, question.prompt);
  if (question.ignore_eos) body["ignore_eos"] = true;
  if (question.logprobs) body["logprobs"] = *question.logprobs;
  if (question.tokens_as_ids) body["return_tokens_as_token_ids"] = true;
  if (stream) {
    body["stream"] = true;
    body["stream_options"] = {{"include_usage", true}};
  }
  return {.method = "POST", .path = "/v1/completions", .headers = headers(), .body = body.dump()};
}

void Endpoint::submit(const Question& question, load::Sink sink) {
  const auto stream = std::make_shared<Stream>(std::move(sink), question.max_tokens, clock_);
  client_.send(
      completion(question, /*stream=*/true),
      {.on_head = [stream](const http::ResponseHead& head) { stream->head(head.status); },
       .on_body = [stream](std::string_view bytes) { stream->body(bytes); },
       .on_end =
           [stream](const http::CallError* error) { stream->end(error ? error->message : ""); }});
}

base::Status Endpoint::submit(const std::string& model, const engine::Request& request,
                              load::Sink sink) {
  submit({.model = model,
          .prompt = request.prompt,
          .max_tokens = request.max_new_tokens,
          .temperature = request.sampling.temperature},
         std::move(sink));
  return {};
}

base::Result<ServedAnswer> Endpoint::ask(const Question& question) {
  http::ClientRequest request = completion(question, /*stream=*/false);
  request.limits.total_ns = request.limits.silence_ns;
  FF_ASSIGN(const http::Client::Reply reply,
            client_.fetch(std::move(request), {.stop = [] { return runtime::interrupted(); }}));
  if (reply.status != kOk) return base::fail("{}", complaint(reply.status, reply.body));
  FF_ASSIGN(const json body, files::parse_json(reply.body, "the answer"));
  return read_answer(body, question);
}

}  // namespace fourfold::measure

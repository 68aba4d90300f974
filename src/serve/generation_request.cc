#include "serve/generation_request.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <utility>

#include "runtime/request_fault.h"
#include "serve/request_json.h"
#include "serve/structured_output.h"
#include "serve/tools.h"

namespace fourfold::serve {

using engine::TokenId;
using nlohmann::json;
using nlohmann::ordered_json;
using runtime::reach;
using runtime::RequestStep;

namespace {

constexpr size_t kMaxStopBytes = 1024;
constexpr int64_t kMaxSequences = 1024;  ///< prompts times choices

std::optional<ApiError> read_tokens(std::string_view field, const json& list,
                                    const ServedModel& model, std::vector<TokenId>* out) {
  for (const json& entry : list) {
    const auto token = entry.get<int64_t>();
    if (auto error = check_token(field, token, model)) return error;
    out->push_back(static_cast<TokenId>(token));
  }
  return std::nullopt;
}

/// Refuses what cannot fit before it is tokenised.
std::optional<ApiError> check_length(std::string_view field, std::string_view text,
                                     const ServedModel& model) {
  constexpr int64_t kMostShortened = 4;  ///< by normal forms and the like
  const int64_t most = kMostShortened * model.context * model.longest_token_bytes;
  if (std::ssize(text) <= most) return std::nullopt;
  ApiError error = field_error(
      field, fmt::format("the context of this model has {} tokens, none of more than {} bytes, but "
                         "{} has {} bytes of text",
                         model.context, model.longest_token_bytes, field, text.size()));
  error.code = "context_length_exceeded";
  return error;
}

std::optional<ApiError> read_prompts(const Fields& fields, const ServedModel& model,
                                     GenerationRequest* out) {
  const json& value = *fields.find("prompt");
  const bool several =
      value.is_array() && !value.empty() && (value[0].is_string() || value[0].is_array());
  const json list = several ? value : json::array({value});
  if (std::ssize(list) * out->choices > kMaxSequences) {
    return field_error("n", fmt::format("{} prompts with {} choices each, expected at most {} "
                                        "together",
                                        list.size(), out->choices, kMaxSequences));
  }
  for (const json& entry : list) {
    Prompt& prompt = out->prompts.emplace_back();
    if (entry.is_string()) {
      const auto& text = entry.get_ref<const std::string&>();
      if (auto error =
              encode_text(text, fields.boolean("add_special_tokens"), model, &prompt.tokens)) {
        return error;
      }
      if (out->echo) prompt.text = text;
    } else {
      if (auto error = read_tokens("prompt", entry, model, &prompt.tokens)) return error;
      reach(RequestStep::kDecodePrompt);
      if (out->echo) prompt.text = model.tokenizer.decode(prompt.tokens, /*skip_special=*/true);
    }
    if (prompt.tokens.empty()) return field_error("prompt", "a prompt without tokens");
  }
  return std::nullopt;
}

/// A list of text parts as one text; other contents as they are.
std::optional<ApiError> join_content(ordered_json& message, size_t index) {
  const auto content = message.find("content");
  if (content == message.end() || !content->is_array()) return std::nullopt;
  std::string text;
  for (size_t i = 0; i < content->size(); ++i) {
    const ordered_json& part = (*content)[i];
    const bool is_text = part.is_object() && part.value("type", ordered_json()) == "text" &&
                         part.contains("text") && part["text"].is_string();
    if (!is_text) {
      return field_error("messages", fmt::format("messages[{}].content[{}] is no part of type "
                                                 "text: others are not supported here",
                                                 index, i));
    }
    if (i > 0) text += '\n';
    text += part["text"].get<std::string>();
  }
  *content = std::move(text);
  return std::nullopt;
}

/// A member that is null is as if it were absent; a message without content has an empty one.
void drop_nulls(ordered_json& message) {
  if (message.contains("content") && message["content"].is_null()) message["content"] = "";
  for (auto it = message.begin(); it != message.end();) {
    if (it->is_null()) {
      it = message.erase(it);
    } else {
      ++it;
    }
  }
}

std::optional<ApiError> check_message(const ordered_json& message, size_t index) {
  const auto has_string = [&](const char* key) {
    return message.is_object() && message.contains(key) && message[key].is_string();
  };
  if (!has_string("role")) {
    return field_error("messages", fmt::format("messages[{}] needs a role", index));
  }
  const bool content_is_odd = message.contains("content") && !message["content"].is_string() &&
                              !message["content"].is_array() && !message["content"].is_null();
  if (content_is_odd || (!message.contains("content") && !message.contains("tool_calls"))) {
    return field_error("messages",
                       fmt::format("messages[{}] needs content: a text or a list of parts", index));
  }
  return std::nullopt;
}

std::optional<ApiError> read_stops(const Fields& fields, const ServedModel& model,
                                   GenerationRequest* out) {
  reach(RequestStep::kStops);
  if (const json* stop = fields.find("stop")) {
    for (const json& entry : stop->is_string() ? json::array({*stop}) : *stop) {
      std::string& text = out->output.stops.emplace_back(entry.get<std::string>());
      if (!text.empty() && text.size() <= kMaxStopBytes) continue;
      return field_error("stop", fmt::format("a stop string of {} bytes, expected 1 to {}",
                                             text.size(), kMaxStopBytes));
    }
  }
  if (const json* tokens = fields.find("stop_token_ids")) {
    if (auto error = read_tokens("stop_token_ids", *tokens, model, &out->stop_tokens)) return error;
  }
  // The engine's ignore_eos goes on after every stop token, the request's only after the model's.
  const bool ignore_eos = fields.boolean("ignore_eos");
  out->ignore_eos = ignore_eos && out->stop_tokens.empty();
  if (!ignore_eos || out->ignore_eos) {
    out->stop_tokens.insert(out->stop_tokens.end(), model.end_tokens.begin(),
                            model.end_tokens.end());
  }
  out->output.include_stop = fields.boolean("include_stop_str_in_output");
  out->output.skip_special = fields.boolean("skip_special_tokens");
  out->output.min_tokens = static_cast<int32_t>(fields.integer("min_tokens"));
  return std::nullopt;
}

std::optional<ApiError> read_biases(const Fields& fields, const ServedModel& model,
                                    GenerationRequest* out) {
  reach(RequestStep::kBiases);
  const json* biases = fields.find("logit_bias");
  if (biases == nullptr) return std::nullopt;
  for (const auto& [key, bias] : biases->items()) {
    const char* const end = key.data() + key.size();
    TokenId token = 0;
    const auto [stop, error] = std::from_chars(key.data(), end, token);
    if (error != std::errc() || stop != end) {
      return field_error("logit_bias",
                         fmt::format("logit_bias has {}, expected token ids", shown(json(key))));
    }
    if (auto outside = check_token("logit_bias", token, model)) return outside;
    out->sampling.logit_bias.push_back({token, bias.get<float>()});
  }
  const auto less = [](const engine::LogitBias& a, const engine::LogitBias& b) {
    return a.token < b.token;
  };
  std::sort(out->sampling.logit_bias.begin(), out->sampling.logit_bias.end(), less);
  const bool twice =
      std::adjacent_find(out->sampling.logit_bias.begin(), out->sampling.logit_bias.end(),
                         [](const auto& a, const auto& b) { return a.token == b.token; }) !=
      out->sampling.logit_bias.end();
  if (twice) return field_error("logit_bias", "logit_bias has a token twice");
  return std::nullopt;
}

std::optional<ApiError> read_sampling(const Fields& fields, const ServedModel& model,
                                      GenerationRequest* out) {
  reach(RequestStep::kSampling);
  engine::SamplingParams& sampling = out->sampling;
  const auto number = [&](std::string_view name) {
    return static_cast<float>(fields.number(name));
  };
  sampling.temperature = number("temperature");
  sampling.top_p = number("top_p");
  sampling.top_k = static_cast<int32_t>(std::max<int64_t>(0, fields.integer("top_k")));
  sampling.min_p = number("min_p");
  sampling.presence_penalty = number("presence_penalty");
  sampling.frequency_penalty = number("frequency_penalty");
  sampling.repetition_penalty = number("repetition_penalty");
  sampling.min_tokens = static_cast<int32_t>(fields.integer("min_tokens"));
  out->has_seed = fields.find("seed") != nullptr;
  if (out->has_seed) sampling.seed = static_cast<uint64_t>(fields.integer("seed"));
  if (auto error = read_biases(fields, model, out)) return error;
  // What the table cannot say, such as the number of biases.
  const base::Status status = engine::check_sampling(sampling);
  if (status.ok()) return std::nullopt;
  const std::string& message = status.error().message;
  return field_error(message.substr(0, message.find(' ')), message);
}

std::optional<ApiError> read_logprobs(const Fields& fields, GenerationRequest* out) {
  reach(RequestStep::kLogprobs);
  if (out->endpoint == Endpoint::kCompletions) {
    const json* logprobs = fields.find("logprobs");
    if (logprobs != nullptr) out->sampling.logprobs = logprobs->get<int32_t>();
    return std::nullopt;
  }
  const auto top = static_cast<int32_t>(fields.integer("top_logprobs"));
  if (fields.boolean("logprobs")) {
    out->sampling.logprobs = top;
  } else if (top > 0) {
    return field_error("top_logprobs", "top_logprobs needs \"logprobs\": true");
  }
  return std::nullopt;
}

std::optional<ApiError> read_stream(const Fields& fields, GenerationRequest* out) {
  reach(RequestStep::kStreamOptions);
  out->stream = fields.boolean("stream");
  const json* options = fields.find("stream_options");
  if (options == nullptr) return std::nullopt;
  if (!out->stream) return field_error("stream_options", "stream_options needs \"stream\": true");
  for (const auto& [key, value] : options->items()) {
    const std::string name = "stream_options." + key;
    if (value.is_null()) continue;
    if (key == "include_usage" && value.is_boolean()) {
      out->include_usage = value.get<bool>();
    } else if (key == "include_usage") {
      return field_error(name, "expected true or false for " + name + ", found " + shown(value));
    } else {
      ApiError error = field_error(name, name + " is not supported here: leave it out");
      error.code = "unsupported_parameter";
      return error;
    }
  }
  return std::nullopt;
}

/// Sets max_tokens: what was asked for, which must fit, else what the context leaves.
std::optional<ApiError> set_max_tokens(const Fields& fields, const ServedModel& model,
                                       GenerationRequest* out) {
  reach(RequestStep::kLength);
  const json* asked = fields.find("max_tokens");
  if (const json* newer = fields.find("max_completion_tokens")) {
    if (asked != nullptr && *asked != *newer) {
      return field_error("max_tokens", "max_tokens and max_completion_tokens differ: give one");
    }
    asked = newer;
  }
  const auto longest = std::max_element(
      out->prompts.begin(), out->prompts.end(),
      [](const Prompt& a, const Prompt& b) { return a.tokens.size() < b.tokens.size(); });
  const auto prompt_tokens = static_cast<int64_t>(longest->tokens.size());
  const int64_t room = model.context - prompt_tokens;
  if (asked != nullptr && *asked == 0 && !out->echo) {
    return field_error("max_tokens", "max_tokens is 0, which needs \"echo\": true");
  }
  // The engine samples one token behind the prompt in any case.
  const int64_t wanted = asked == nullptr ? 1 : std::max<int64_t>(1, asked->get<int64_t>());
  if (wanted > room) {
    ApiError error = field_error(
        out->endpoint == Endpoint::kChat ? "messages" : "prompt",
        fmt::format("the context of this model has {} tokens, but {} were asked for: {} of the "
                    "prompt and {} to generate. Shorten the prompt or ask for fewer.",
                    model.context, prompt_tokens + wanted, prompt_tokens, wanted));
    error.code = "context_length_exceeded";
    return error;
  }
  const int64_t fallback =
      out->endpoint == Endpoint::kChat ? room : std::min(room, fields.integer("max_tokens"));
  const int64_t tokens = asked == nullptr ? fallback : asked->get<int64_t>();
  out->max_tokens = static_cast<int32_t>(tokens);
  if (out->sampling.min_tokens <= tokens) return std::nullopt;
  return field_error("min_tokens", fmt::format("min_tokens is {}, but at most {} are generated",
                                               out->sampling.min_tokens, tokens));
}

std::optional<ApiError> read_all(const Fields& fields, std::string_view body,
                                 const ServedModel& model, GenerationRequest* out) {
  reach(RequestStep::kModel);
  if (auto error = check_model(fields, model)) return error;
  out->unknown_fields = fields.unknown();
  out->choices = static_cast<int32_t>(fields.integer("n"));
  if (auto error = read_sampling(fields, model, out)) return error;
  if (auto error = read_stops(fields, model, out)) return error;
  if (auto error = read_stream(fields, out)) return error;
  // Once more, because templates and schemas see the order of an object's members.
  ordered_json ordered;
  if (out->endpoint == Endpoint::kChat || asks_for_form(fields)) {
    if (auto error = parse_ordered(body, "", &ordered)) return error;
  }
  reach(RequestStep::kForm);
  if (auto error = read_form(fields, ordered, *model.constraints, &out->constraint)) return error;
  if (out->endpoint == Endpoint::kCompletions) {
    out->echo = fields.boolean("echo");
    if (auto error = read_logprobs(fields, out)) return error;
    if (auto error = read_prompts(fields, model, out)) return error;
  } else {
    if (auto error = read_logprobs(fields, out)) return error;
    ordered_json tools;
    reach(RequestStep::kTools);
    if (auto error = read_tools(fields, ordered, model, &tools)) return error;
    reach(RequestStep::kToolChoice);
    if (auto error = read_tool_choice(fields, tools, model, out)) return error;
    Prompt& prompt = out->prompts.emplace_back();
    const bool add_prompt = fields.boolean("add_generation_prompt");
    if (auto error = encode_messages(std::move(ordered["messages"]), tools, add_prompt, model,
                                     &prompt.tokens)) {
      return error;
    }
  }
  return set_max_tokens(fields, model, out);
}

}  // namespace

std::optional<ApiError> check_token(std::string_view field, int64_t token,
                                    const ServedModel& model) {
  if (token >= 0 && token < model.vocab) return std::nullopt;
  return field_error(field, fmt::format("{} has token {}, the model's tokens are 0 to {}", field,
                                        token, model.vocab - 1));
}

int64_t GenerationRequest::prompt_tokens() const {
  int64_t total = 0;
  for (const Prompt& prompt : prompts) total += std::ssize(prompt.tokens);
  return total;
}

std::optional<ApiError> check_model(const Fields& fields, const ServedModel& model) {
  const json* name = fields.find("model");
  if (name == nullptr || *name == model.id) return std::nullopt;
  return ApiError{
      .status = 404,
      .message = fmt::format("there is no model {} here, only \"{}\"", shown(*name), model.id),
      .param = "model",
      .code = "model_not_found"};
}

std::optional<ApiError> encode_text(const std::string& text, bool add_special,
                                    const ServedModel& model, std::vector<TokenId>* out) {
  if (auto error = check_length("prompt", text, model)) return error;
  reach(RequestStep::kTokenize);
  auto tokens = model.tokenizer.encode(text, add_special);
  if (!tokens.ok()) return field_error("prompt", tokens.error().message);
  *out = std::move(tokens).value();
  return std::nullopt;
}

std::optional<ApiError> encode_messages(ordered_json messages, const ordered_json& tools,
                                        bool add_generation_prompt, const ServedModel& model,
                                        std::vector<TokenId>* out) {
  if (!model.chat_template) {
    return field_error("messages", model.no_chat_template + ", or use /v1/completions");
  }
  reach(RequestStep::kMessages);
  if (messages.empty()) return field_error("messages", "messages is empty");
  for (size_t i = 0; i < messages.size(); ++i) {
    if (auto error = check_message(messages[i], i)) return error;
    drop_nulls(messages[i]);
    if (auto error = join_content(messages[i], i)) return error;
    if (auto error = read_earlier_calls(messages[i], i)) return error;
  }
  reach(RequestStep::kTemplate);
  const auto text = model.chat_template->render(messages, tools, add_generation_prompt);
  if (!text.ok()) return field_error("messages", text.error().message);
  if (auto error = check_length("messages", *text, model)) return error;
  reach(RequestStep::kTokenize);
  auto tokens = model.tokenizer.encode_marked(*text);
  if (!tokens.ok()) return field_error("messages", tokens.error().message);
  *out = std::move(tokens).value();
  return std::nullopt;
}

std::optional<ApiError> read_generation(std::string_view body, Endpoint endpoint,
                                        const ServedModel& model, GenerationRequest* out) {
  json object;
  if (auto error = parse_body(body, &object)) return error;
  Fields fields;
  reach(RequestStep::kFields);
  if (auto error = Fields::read(endpoint, std::move(object), &fields)) return error;
  out->endpoint = endpoint;
  return read_all(fields, body, model, out);
}

}  // namespace fourfold::serve

#include "serve/answer.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "text/utf8.h"

namespace fourfold::serve {

using nlohmann::ordered_json;

namespace {

/// How OpenAI writes the log-probability of what cannot be: JSON has no infinity.
constexpr float kLeastLogprob = -9999;

float finite(float logprob) { return std::max(logprob, kLeastLogprob); }

/// A token as text; one that is not UTF-8 by itself as OpenAI writes it, "bytes:\xe2\x82".
std::string token_text(const text::Tokenizer& tokenizer, engine::TokenId token) {
  const std::string_view bytes = tokenizer.token_bytes(token);
  if (text::valid_utf8(bytes) == bytes) return std::string(bytes);
  std::string out = "bytes:";
  for (const char c : bytes) out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  return out;
}

/// A text that is no UTF-8, as a model's name may be, must not end the server.
std::string dump(const ordered_json& value) {
  return value.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

ordered_json token_bytes(const text::Tokenizer& tokenizer, engine::TokenId token) {
  ordered_json out = ordered_json::array();
  for (const char c : tokenizer.token_bytes(token)) out.push_back(static_cast<unsigned char>(c));
  return out;
}

int64_t characters(std::string_view utf8) {
  return std::count_if(utf8.begin(), utf8.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; });
}

ordered_json chat_logprob(const text::Tokenizer& tokenizer, engine::TokenId token, float logprob) {
  return {{"token", token_text(tokenizer, token)},
          {"logprob", finite(logprob)},
          {"bytes", token_bytes(tokenizer, token)}};
}

const char* name_of(engine::FinishReason reason) {
  return reason == engine::FinishReason::kLength ? "length" : "stop";
}

}  // namespace

std::string sse_event(std::string_view data) { return fmt::format("data: {}\n\n", data); }

base::Result<AnswerWriter> AnswerWriter::create(std::shared_ptr<const ServedModel> model,
                                                GenerationRequest request, std::string id,
                                                int64_t created_s) {
  std::vector<Choice> choices;
  const size_t count = request.prompts.size() * static_cast<size_t>(request.choices);
  for (size_t i = 0; i < count; ++i) {
    FF_ASSIGN(runtime::OutputText output,
              runtime::OutputText::create(model->tokenizer, request.output));
    choices.push_back({.output = std::move(output), .text = {}, .logprobs = {}});
  }
  AnswerWriter out(std::move(model), std::move(request), std::move(id), created_s,
                   std::move(choices));
  return out;
}

AnswerWriter::AnswerWriter(std::shared_ptr<const ServedModel> model, GenerationRequest request,
                           std::string id, int64_t created_s, std::vector<Choice> choices)
    : model_(std::move(model)),
      request_(std::move(request)),
      id_(std::move(id)),
      created_s_(created_s),
      choices_(std::move(choices)),
      open_(choices_.size()) {
  for (Choice& choice : choices_) choice.logprobs = no_logprobs();
}

AnswerWriter::Step AnswerWriter::push(size_t sequence, const engine::SequenceEvent& event) {
  Choice& choice = choices_[sequence];
  Step step;
  if (choice.output.ended()) return step;
  const bool first = !std::exchange(choice.begun, true);
  std::string text;
  if (first && request_.echo) {
    text = request_.prompts[sequence / static_cast<size_t>(request_.choices)].text;
    choice.text_offset = characters(text);
  }
  ordered_json logprobs = no_logprobs();
  if (event.token) {
    ++output_tokens_;
    if (request_.sampling.logprobs >= 0) {
      add_logprobs(choice, *event.token, request_.stream ? logprobs : choice.logprobs);
    }
  }
  const runtime::OutputText::Piece piece = choice.output.push(event);
  text += piece.text;
  step.cancel = piece.stopped && !event.finish;
  if (choice.output.ended()) {
    choice.finish_reason = piece.stopped ? "stop" : name_of(*event.finish);
    --open_;
  }
  if (!request_.stream) {
    choice.text += text;
    return step;
  }
  if (first && is_chat()) step.events += chunk(sequence, "", /*role=*/true, no_logprobs());
  const bool has_logprobs = event.token && request_.sampling.logprobs >= 0;
  if (!text.empty() || has_logprobs || choice.finish_reason != nullptr) {
    step.events += chunk(sequence, text, /*role=*/false, std::move(logprobs));
  }
  return step;
}

/// What every object of the answer begins with.
ordered_json AnswerWriter::frame(bool chunk) const {
  const char* object = "text_completion";
  if (is_chat()) object = chunk ? "chat.completion.chunk" : "chat.completion";
  return {{"id", id_},
          {"object", object},
          {"created", created_s_},
          {"model", model_->id},
          {"choices", ordered_json::array()}};
}

ordered_json AnswerWriter::usage() const {
  const int64_t prompt_tokens = request_.prompt_tokens();
  return {{"prompt_tokens", prompt_tokens},
          {"completion_tokens", output_tokens_},
          {"total_tokens", prompt_tokens + output_tokens_}};
}

/// The object that add_logprobs() adds to; null if none are asked for.
ordered_json AnswerWriter::no_logprobs() const {
  if (request_.sampling.logprobs < 0) return nullptr;
  const ordered_json none = ordered_json::array();
  if (is_chat()) return {{"content", none}, {"refusal", nullptr}};
  return {
      {"tokens", none}, {"token_logprobs", none}, {"top_logprobs", none}, {"text_offset", none}};
}

void AnswerWriter::add_logprobs(Choice& choice, const engine::SampledToken& token,
                                ordered_json& out) const {
  const text::Tokenizer& tokenizer = model_->tokenizer;
  if (is_chat()) {
    ordered_json entry = chat_logprob(tokenizer, token.token, token.logprob);
    entry["top_logprobs"] = ordered_json::array();
    for (const engine::TokenLogprob& other : token.top) {
      entry["top_logprobs"].push_back(chat_logprob(tokenizer, other.token, other.logprob));
    }
    out["content"].push_back(std::move(entry));
    return;
  }
  const std::string text = token_text(tokenizer, token.token);
  ordered_json top = ordered_json::object();
  for (const engine::TokenLogprob& other : token.top) {
    top[token_text(tokenizer, other.token)] = finite(other.logprob);
  }
  // The token that was chosen is always among them, as with OpenAI.
  top[text] = finite(token.logprob);
  out["tokens"].push_back(text);
  out["token_logprobs"].push_back(finite(token.logprob));
  out["top_logprobs"].push_back(std::move(top));
  out["text_offset"].push_back(choice.text_offset);
  choice.text_offset += characters(text);
}

/// One event of the stream: the next piece of a choice, or the role that speaks it.
std::string AnswerWriter::chunk(size_t index, const std::string& text, bool role,
                                ordered_json logprobs) const {
  const char* reason = role ? nullptr : choices_[index].finish_reason;
  ordered_json choice = {{"index", index}};
  if (!is_chat()) {
    choice["text"] = text;
  } else if (role) {
    choice["delta"] = {{"role", "assistant"}, {"content", ""}};
  } else {
    choice["delta"] = text.empty() ? ordered_json::object() : ordered_json{{"content", text}};
  }
  choice["logprobs"] = role ? ordered_json(nullptr) : std::move(logprobs);
  choice["finish_reason"] = reason == nullptr ? ordered_json(nullptr) : ordered_json(reason);
  ordered_json out = frame(/*chunk=*/true);
  out["choices"].push_back(std::move(choice));
  if (request_.include_usage) out["usage"] = nullptr;
  return sse_event(dump(out));
}

std::string AnswerWriter::end_of_stream() const {
  std::string out;
  if (request_.include_usage) {
    ordered_json last = frame(/*chunk=*/true);
    last["usage"] = usage();
    out += sse_event(dump(last));
  }
  return out.append(kSseDone);
}

std::string AnswerWriter::body() const {
  CHECK(done(), "{} sequences have not ended", open_);
  ordered_json out = frame(/*chunk=*/false);
  for (size_t i = 0; i < choices_.size(); ++i) {
    const Choice& choice = choices_[i];
    ordered_json entry = {{"index", i}};
    if (is_chat()) {
      entry["message"] = {{"role", "assistant"}, {"content", choice.text}, {"refusal", nullptr}};
    } else {
      entry["text"] = choice.text;
    }
    entry["logprobs"] = choice.logprobs;
    entry["finish_reason"] = choice.finish_reason;
    out["choices"].push_back(std::move(entry));
  }
  out["usage"] = usage();
  return dump(out);
}

}  // namespace fourfold::serve

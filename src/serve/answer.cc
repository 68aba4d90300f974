#include "serve/answer.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "runtime/request_fault.h"
#include "text/detokenizer.h"
#include "text/utf8.h"

namespace fourfold::serve {

using nlohmann::ordered_json;
using runtime::reach;
using runtime::RequestStep;

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
    choices.push_back({.output = std::move(output),
                       .text = {},
                       .logprobs = {},
                       .reader = ToolCallReader(request.tool_calls, request.function)});
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
  if (choice.finish_reason != nullptr) return step;
  for (size_t i = 0; i < event.prompt.size(); ++i) {
    // After a failure of its group a sequence tells them again.
    const size_t known = choice.scored.size() + 1;
    if (static_cast<size_t>(event.prompt_position) + i < known) continue;
    choice.scored.push_back(event.prompt[i]);
  }
  if (!event.token && !event.finish) return step;
  const bool first = !std::exchange(choice.begun, true);
  std::string text;
  ordered_json logprobs = no_logprobs();
  ordered_json& all_logprobs = request_.stream ? logprobs : choice.logprobs;
  if (first && request_.echo) {
    const Prompt& prompt = request_.prompts[sequence / static_cast<size_t>(request_.choices)];
    text = prompt.text;
    if (request_.sampling.logprobs >= 0) add_prompt_logprobs(choice, prompt, all_logprobs);
    reach(RequestStep::kTextOffset);
    choice.text_offset = text::characters(text);
  }
  if (request_.max_tokens == 0) {
    // Only the prompt was asked for. The engine samples a token behind it all the same.
    choice.finish_reason = "length";
    --open_;
    choice.text = text;
    if (request_.stream) {
      step.events = chunk(sequence, {{"content", text}}, /*role=*/false, std::move(logprobs));
    }
    return step;
  }
  if (event.token) {
    ++output_tokens_;
    if (request_.sampling.logprobs >= 0) {
      add_logprobs(*event.token, choice.text_offset, all_logprobs);
    }
  }
  reach(RequestStep::kDetokenize);
  const runtime::OutputText::Piece piece = choice.output.push(event);
  choice.text_offset += piece.characters;
  reach(RequestStep::kReadCalls);
  ToolCallReader::Output read = choice.reader.push(piece.text);
  step.cancel = piece.stopped && !event.finish;
  if (choice.output.ended()) {
    ToolCallReader::Output rest = choice.reader.finish();
    read.text += rest.text;
    read.calls.insert(read.calls.end(), rest.calls.begin(), rest.calls.end());
    choice.finish_reason = piece.stopped ? "stop" : name_of(*event.finish);
    --open_;
  }
  text += read.text;
  ordered_json delta = ordered_json::object();
  if (!text.empty()) delta["content"] = text;
  if (!read.calls.empty()) delta["tool_calls"] = add_calls(sequence, read.calls);
  const bool stops = choice.finish_reason != nullptr && choice.finish_reason[0] == 's';
  // A function that the request named is OpenAI's "stop".
  if (stops && !choice.calls.empty() && request_.tool_calls != ToolCallFormat::kNamed) {
    choice.finish_reason = "tool_calls";
  }
  if (!request_.stream) {
    choice.text += text;
    return step;
  }
  if (first && is_chat()) {
    step.events +=
        chunk(sequence, {{"role", "assistant"}, {"content", ""}}, /*role=*/true, no_logprobs());
  }
  const bool has_logprobs = event.token && request_.sampling.logprobs >= 0;
  if (!delta.empty() || has_logprobs || choice.finish_reason != nullptr) {
    step.events += chunk(sequence, std::move(delta), /*role=*/false, std::move(logprobs));
  }
  return step;
}

/// Notes calls of a choice; as a stream's event has them.
ordered_json AnswerWriter::add_calls(size_t sequence, const std::vector<ToolCall>& calls) {
  reach(RequestStep::kAddCalls);
  ordered_json& all = choices_[sequence].calls;
  ordered_json out = ordered_json::array();
  for (const ToolCall& call : calls) {
    const std::string id =
        fmt::format("call_{}_{}_{}", id_.substr(id_.find('-') + 1), sequence, all.size());
    const ordered_json entry = {{"id", id},
                                {"type", "function"},
                                {"function", {{"name", call.name}, {"arguments", call.arguments}}}};
    ordered_json streamed = {{"index", all.size()}};
    streamed.update(entry);
    out.push_back(std::move(streamed));
    all.push_back(entry);
  }
  return out;
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
  reach(RequestStep::kUsage);
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

void AnswerWriter::add_logprobs(const engine::SampledToken& token, int64_t text_offset,
                                ordered_json& out) const {
  reach(RequestStep::kTokenLogprobs);
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
  out["text_offset"].push_back(text_offset);
}

/// The prompt's tokens, of which the first has no log-probability: nothing comes before it.
void AnswerWriter::add_prompt_logprobs(const Choice& choice, const Prompt& prompt,
                                       ordered_json& out) const {
  CHECK(choice.scored.size() + 1 == prompt.tokens.size(), "{} of {} tokens of a prompt are scored",
        choice.scored.size(), prompt.tokens.size());
  text::IncrementalDetokenizer text(model_->tokenizer, {.skip_special = true});
  int64_t text_offset = 0;
  for (size_t i = 0; i < prompt.tokens.size(); ++i) {
    if (i > 0) {
      add_logprobs(choice.scored[i - 1], text_offset, out);
    } else {
      out["tokens"].push_back(token_text(model_->tokenizer, prompt.tokens[0]));
      out["token_logprobs"].push_back(nullptr);
      out["top_logprobs"].push_back(nullptr);
      out["text_offset"].push_back(0);
    }
    text_offset += text::characters(text.push(prompt.tokens[i]));
  }
}

/// One event of the stream: what a choice has more, or the role that speaks it.
std::string AnswerWriter::chunk(size_t index, ordered_json delta, bool role,
                                ordered_json logprobs) const {
  reach(RequestStep::kChunk);
  const char* reason = role ? nullptr : choices_[index].finish_reason;
  ordered_json choice = {{"index", index}};
  if (is_chat()) {
    choice["delta"] = std::move(delta);
  } else {
    choice["text"] = delta.value("content", "");
  }
  choice["logprobs"] = role ? ordered_json(nullptr) : std::move(logprobs);
  choice["finish_reason"] = reason == nullptr ? ordered_json(nullptr) : ordered_json(reason);
  ordered_json out = frame(/*chunk=*/true);
  out["choices"].push_back(std::move(choice));
  if (request_.include_usage) out["usage"] = nullptr;
  return sse_event(dump(out));
}

std::string AnswerWriter::end_of_stream() const {
  reach(RequestStep::kEndStream);
  std::string out;
  if (request_.include_usage) {
    ordered_json last = frame(/*chunk=*/true);
    last["usage"] = usage();
    out += sse_event(dump(last));
  }
  return out.append(kSseDone);
}

std::string AnswerWriter::body() {
  reach(RequestStep::kBody);
  CHECK(done(), "{} sequences have not ended", open_);
  ordered_json out = frame(/*chunk=*/false);
  for (size_t i = 0; i < choices_.size(); ++i) {
    Choice& choice = choices_[i];
    ordered_json entry = {{"index", i}};
    if (is_chat()) {
      entry["message"] = {{"role", "assistant"}, {"content", choice.text}, {"refusal", nullptr}};
      if (!choice.calls.empty()) {
        if (choice.text.empty()) entry["message"]["content"] = nullptr;
        entry["message"]["tool_calls"] = std::move(choice.calls);
      }
    } else {
      entry["text"] = choice.text;
    }
    entry["logprobs"] = std::move(choice.logprobs);
    entry["finish_reason"] = choice.finish_reason;
    out["choices"].push_back(std::move(entry));
  }
  out["usage"] = usage();
  return dump(out);
}

}  // namespace fourfold::serve

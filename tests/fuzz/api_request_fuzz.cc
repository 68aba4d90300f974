// The body of a request for completions (first byte even) or a chat (odd), for the built-in model
// with a chat template. What is accepted fits the engine, and its answer can be written.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "base/check.h"
#include "serve/answer.h"
#include "serve/generation_request.h"
#include "tests/fuzz/fuzz_target.h"

namespace fourfold::fuzz {
namespace {

std::shared_ptr<const serve::ServedModel> make_model() {
  std::string path = "/tmp/fourfold-fuzz-XXXXXX";
  const int file = mkstemp(path.data());
  constexpr std::string_view kTemplate =
      "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
      "{% for tool in tools %}{{ tool | tojson }}{% endfor %}";
  CHECK(write(file, kTemplate.data(), kTemplate.size()) == std::ssize(kTemplate), "{}", path);
  close(file);
  auto model = serve::load_served_model(
                   model::open_model("tiny", false, 0).value(),
                   {.chat_template = path, .tool_calls = serve::ToolCallFormat::kHermes})
                   .value();
  std::remove(path.c_str());
  return model;
}

void check_request(const serve::GenerationRequest& request, const serve::ServedModel& model) {
  CHECK(engine::check_sampling(request.sampling).ok(), "bad sampling");
  CHECK(request.choices >= 1 && request.max_tokens >= 1 && !request.prompts.empty(),
        "{} choices of {} tokens for {} prompts", request.choices, request.max_tokens,
        request.prompts.size());
  for (const serve::Prompt& prompt : request.prompts) {
    CHECK(!prompt.tokens.empty() && std::ssize(prompt.tokens) + request.max_tokens <= model.context,
          "{} and {} tokens in {}", prompt.tokens.size(), request.max_tokens, model.context);
    for (const engine::TokenId token : prompt.tokens) {
      CHECK(token >= 0 && token < model.vocab, "token {}", token);
    }
  }
}

/// Each sequence ends with its first token.
void write_answer(serve::GenerationRequest request,
                  const std::shared_ptr<const serve::ServedModel>& model) {
  auto writer = serve::AnswerWriter::create(model, std::move(request), "id", 0);
  CHECK(writer.ok(), "{}", writer.error().message);
  for (size_t i = 0; i < writer->sequences(); ++i) {
    engine::SequenceEvent event;
    event.token.emplace().token = static_cast<engine::TokenId>(i % 1021);
    event.finish = engine::FinishReason::kLength;
    writer->push(i, event);
  }
  CHECK(writer->done(), "the answer is not complete");
  CHECK(nlohmann::json::accept(writer->body()), "the answer is no JSON");
}

}  // namespace

void check_input(std::string_view input) {
  static const std::shared_ptr<const serve::ServedModel> model = make_model();
  if (input.empty()) return;
  const auto endpoint = input[0] % 2 == 0 ? serve::Endpoint::kCompletions : serve::Endpoint::kChat;
  input.remove_prefix(1);
  serve::GenerationRequest request;
  const auto error = serve::read_generation(input, endpoint, *model, &request);
  if (error) {
    CHECK(error->status >= 400 && error->status < 500 && !error->message.empty(), "status {}",
          error->status);
    CHECK(nlohmann::json::accept(serve::error_json(*error)), "the error is no JSON");
    return;
  }
  check_request(request, *model);
  write_answer(std::move(request), model);
}

}  // namespace fourfold::fuzz

// A request that fails at any step of the front's work for it takes nobody else down.

#include "runtime/request_fault.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <string>
#include <vector>

#include "serve/stack_test.h"

namespace fourfold::serve {
namespace {

using nlohmann::json;
using runtime::RequestStep;

constexpr const char* kCompletions = "/v1/completions";
constexpr const char* kChat = "/v1/chat/completions";
constexpr const char* kWord = "poison";
constexpr size_t kOthers = 16;

struct Question {
  std::string path;
  json body;
};

/// A whole answer: its events, or its one body, without what differs from one time to the next.
std::vector<std::string> ask(const Stack& stack, const Question& question) {
  std::vector<std::string> texts;
  if (question.body.value("stream", false)) {
    texts = stack.stream(question.path, question.body);
  } else {
    texts.push_back(stack.post(question.path, question.body).text);
  }
  for (std::string& text : texts) {
    json part = json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (!part.is_object()) continue;
    part.erase("id");
    part.erase("created");
    text = part.dump();
  }
  return texts;
}

/// Sixteen requests that between them come by most of the steps.
std::vector<Question> others() {
  const json messages = {{{"role", "user"}, {"content", "Who was there?"}}};
  std::vector<Question> out;
  for (size_t i = 0; i < kOthers; ++i) {
    json body = {{"max_tokens", 12 + i}, {"seed", i}, {"stream", i % 2 == 0}};
    if (i % 4 == 1) body["temperature"] = 0;
    if (i % 5 == 2) body["n"] = 2;
    if (i % 5 == 3) body["guided_regex"] = "[a-z]{1,20}";
    const bool chat = i % 3 == 2;
    if (chat) {
      body["messages"] = messages;
      body["top_logprobs"] = 2;
      body["logprobs"] = true;
    } else {
      body["prompt"] = "In the beginning " + std::to_string(i);
      body["logit_bias"] = {{"40", 1.5}};
    }
    out.push_back({chat ? kChat : kCompletions, body});
  }
  return out;
}

/// A request that comes by `step`.
Question target(RequestStep step) {
  Question out{kCompletions, {{"prompt", "And God said"}, {"max_tokens", 6}, {"user", kWord}}};
  const auto chat = [&] {
    out.path = kChat;
    out.body.erase("prompt");
    out.body["messages"] = {{{"role", "user"}, {"content", "Who?"}}};
  };
  switch (step) {
    case RequestStep::kParseOrdered:
    case RequestStep::kCompile:
    case RequestStep::kConstrain:
      out.body["guided_regex"] = "[0-9]{3}" + std::string(name_of(step));
      break;
    case RequestStep::kTools:
    case RequestStep::kToolChoice:
    case RequestStep::kMessages:
    case RequestStep::kTemplate:
      chat();
      break;
    case RequestStep::kDecodePrompt:
    case RequestStep::kTextOffset:
      out.body["prompt"] = {5, 6, 7};
      out.body["echo"] = true;
      break;
    case RequestStep::kAddCalls:
      chat();
      out.body["tools"] = {
          {{"type", "function"},
           {"function",
            {{"name", "look"},
             {"parameters", {{"type", "object"}, {"additionalProperties", false}}}}}}};
      out.body["tool_choice"] = {{"type", "function"}, {"function", {{"name", "look"}}}};
      out.body["max_tokens"] = 20;
      break;
    case RequestStep::kTokenLogprobs:
      out.body["logprobs"] = 1;
      break;
    case RequestStep::kStartStream:
    case RequestStep::kWriteChunk:
    case RequestStep::kChunk:
    case RequestStep::kUsage:
    case RequestStep::kEndStream:
      out.body["stream"] = true;
      out.body["stream_options"] = {{"include_usage", true}};
      break;
    default:
      break;
  }
  return out;
}

/// A server that fails at `step` of whatever has the word.
ServiceOptions failing_at(RequestStep step) {
  const std::string text =
      "request=" + std::string(kWord) + " op=" + std::string(name_of(step)) + " action=throw";
  ServiceOptions options;
  options.fault = runtime::FaultSpec::parse(text).value();
  return options;
}

void expect_failed(const Stack& stack, const Question& question) {
  http::RawClient client = stack.connect();
  client.send(
      Stack::request_text("POST", question.path, question.body.dump(), "Connection: close\r\n"));
  const std::string answer = client.read_all();
  const bool stream = answer.starts_with("HTTP/1.1 200");
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 500") || stream) << answer;
  if (!stream) return;
  const std::vector<std::string> events = Stack::events(answer);
  ASSERT_GE(events.size(), 2U);
  EXPECT_EQ(events.back(), "[DONE]");
  EXPECT_THAT(events[events.size() - 2], testing::HasSubstr("internal_error"));
}

class RequestFault : public testing::TestWithParam<int> {};

TEST_P(RequestFault, FailsTheTargetAloneAndLeavesNothing) {
  const auto step = static_cast<RequestStep>(GetParam());
  const std::vector<Question> asked = others();
  Stack stack(failing_at(step));
  static const std::vector<std::vector<std::string>> kExpected = [&] {
    std::vector<std::vector<std::string>> out;
    for (const Question& question : asked) out.push_back(ask(stack, question));
    return out;
  }();
  std::vector<std::future<std::vector<std::string>>> answers;
  for (const Question& question : asked) {
    answers.push_back(std::async(std::launch::async, [&] { return ask(stack, question); }));
  }
  expect_failed(stack, target(step));
  for (size_t i = 0; i < asked.size(); ++i) EXPECT_TRUE(answers[i].get() == kExpected[i]) << i;
  expect_failed(stack, target(step));
  EXPECT_EQ(stack.on_server([&] { return stack.service().open_requests(); }), 0);
  EXPECT_EQ(stack.on_server([&] { return stack.service().preparing(); }), 0);
}

INSTANTIATE_TEST_SUITE_P(Steps, RequestFault, testing::Range(0, runtime::kRequestSteps),
                         [](const auto& one) {
                           std::string name(name_of(static_cast<RequestStep>(one.param)));
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace fourfold::serve

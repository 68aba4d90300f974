// Answers of the built-in model that are constrained, and its calls of tools, over HTTP.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <regex>
#include <set>

#include "serve/stack_test.h"

namespace fourfold::serve {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

constexpr const char* kCompletions = "/v1/completions";
constexpr const char* kChat = "/v1/chat/completions";

class StructuredOutputTest : public testing::Test {
 protected:
  static void SetUpTestSuite() { stack_ = new Stack(); }
  static void TearDownTestSuite() { delete stack_; }

  static json complete(json changes) {
    json body = {{"prompt", "In the"}, {"max_tokens", 200}, {"temperature", 1}, {"seed", 5}};
    body.update(changes);
    const Reply reply = stack_->post(kCompletions, body);
    EXPECT_EQ(reply.status, 200) << reply.text;
    return reply.json;
  }
  static std::string text(const json& changes) { return complete(changes)["choices"][0]["text"]; }

  static json chat(json changes) {
    json body = {{"messages", {{{"role", "user"}, {"content", "x"}}}}, {"seed", 5}};
    body.update(changes);
    return body;
  }

  static Stack* stack_;
};

Stack* StructuredOutputTest::stack_ = nullptr;

const json kWeather = {
    {{"type", "function"},
     {"function",
      {{"name", "weather"},
       {"parameters",
        {{"type", "object"},
         {"properties", {{"days", {{"$ref", "#/$defs/days"}}}, {"unit", {{"enum", {"C", "F"}}}}}},
         {"required", {"days", "unit"}},
         {"$defs", {{"days", {{"type", "integer"}, {"minimum", 1}, {"maximum", 9}}}}}}}}}}};

TEST_F(StructuredOutputTest, EveryChoiceOfEveryPromptIsOfTheForm) {
  const json answer = complete({{"prompt", {"In the", "And God"}},
                                {"n", 4},
                                {"guided_regex", "[0-9]{2,4}(-[a-z]+)?!"},
                                {"min_tokens", 2}});
  ASSERT_EQ(answer["choices"].size(), 8u);
  std::set<std::string> texts;
  for (const json& choice : answer["choices"]) {
    EXPECT_TRUE(
        std::regex_match(choice["text"].get<std::string>(), std::regex("[0-9]{2,4}(-[a-z]+)?!")))
        << choice;
    EXPECT_EQ(choice["finish_reason"], "stop");
    texts.insert(choice["text"]);
  }
  EXPECT_GT(texts.size(), 1u);
}

TEST_F(StructuredOutputTest, AllNamesOfAFormMeanTheSame) {
  const json schema = {{"type", "object"},
                       {"properties", {{"a", {{"type", "integer"}, {"maximum", 99}}}}},
                       {"required", {"a"}}};
  const std::string expected = text({{"guided_json", schema}});
  EXPECT_TRUE(json::parse(expected)["a"].is_number_integer()) << expected;
  EXPECT_EQ(text({{"guided_json", schema.dump()}}), expected);
  EXPECT_EQ(text({{"structured_outputs", {{"json", schema}}}}), expected);
  EXPECT_EQ(text({{"response_format",
                   {{"type", "json_schema"},
                    {"json_schema", {{"name", "x"}, {"strict", true}, {"schema", schema}}}}}}),
            expected);
  EXPECT_EQ(text({{"structured_outputs", {{"regex", "ab|cd"}}}}),
            text({{"guided_regex", "ab|cd"}}));
  EXPECT_EQ(text({{"structured_outputs", {{"choice", {"ab", "cd"}}}}}),
            text({{"guided_choice", {"ab", "cd"}}}));
}

TEST_F(StructuredOutputTest, ALimitCutsTheFormAndSaysSo) {
  const json choice =
      complete({{"guided_regex", "a{100,}"}, {"max_tokens", 4}, {"n", 2}})["choices"][1];
  EXPECT_EQ(choice["finish_reason"], "length");
  EXPECT_THAT(choice["text"].get<std::string>(), StartsWith("a"));
  const json stopped = complete({{"guided_regex", "ab{9}c"}, {"stop", "bb"}})["choices"][0];
  EXPECT_EQ(stopped["text"], "a");
  EXPECT_EQ(stopped["finish_reason"], "stop");
}

// A mask is no change of what the model thinks: log-probabilities are those of all tokens.
TEST_F(StructuredOutputTest, LogprobsAreThoseOfTheUnmaskedModel) {
  const json free = complete({{"max_tokens", 1}, {"logprobs", 3}})["choices"][0]["logprobs"];
  const json masked = complete({{"max_tokens", 1}, {"logprobs", 3}, {"guided_choice", {"qqq"}}});
  const json& top = masked["choices"][0]["logprobs"]["top_logprobs"][0];
  for (const auto& [token, logprob] : free["top_logprobs"][0].items()) {
    if (top.contains(token)) {
      EXPECT_EQ(top[token], logprob);
    }
  }
  EXPECT_GE(top.size(), 3u);
}

// Whatever runs beside it, and however it is told, an answer is the same.
TEST_F(StructuredOutputTest, StreamsWhatItAnswersAndLeavesOthersAlone) {
  const json plain = {{"prompt", "In the"}, {"max_tokens", 40}, {"seed", 3}};
  const json expected = stack_->post(kCompletions, plain).json["choices"];
  const json constrained = {{"prompt", "In the"},
                            {"max_tokens", 120},
                            {"seed", 4},
                            {"n", 3},
                            {"response_format", {{"type", "json_object"}}}};
  const json alone = stack_->post(kCompletions, constrained).json["choices"];
  http::RawClient beside = stack_->connect();
  beside.send(Stack::request_text("POST", kCompletions, constrained.dump()));
  EXPECT_EQ(stack_->post(kCompletions, plain).json["choices"], expected);
  EXPECT_EQ(json::parse(beside.read_response().second)["choices"], alone);
  std::vector<std::string> texts(3);
  for (const std::string& event : stack_->stream(kCompletions, constrained)) {
    if (event == "[DONE]") continue;
    const json parsed = json::parse(event);
    for (const json& choice : parsed["choices"]) {
      texts[choice["index"].get<size_t>()] += choice["text"].get<std::string>();
    }
  }
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(texts[i], alone[i]["text"]);
}

TEST_F(StructuredOutputTest, CallsTheToolThatItHasTo) {
  const json named = {{"type", "function"}, {"function", {{"name", "weather"}}}};
  const Reply reply = stack_->post(kChat, chat({{"tools", kWeather}, {"tool_choice", named}}));
  ASSERT_EQ(reply.status, 200) << reply.text;
  const json choice = reply.json["choices"][0];
  EXPECT_EQ(choice["finish_reason"], "stop");
  EXPECT_TRUE(choice["message"]["content"].is_null());
  const json call = choice["message"]["tool_calls"].at(0);
  EXPECT_EQ(call["type"], "function");
  EXPECT_EQ(call["function"]["name"], "weather");
  const json arguments = json::parse(call["function"]["arguments"].get<std::string>());
  EXPECT_GE(arguments["days"], 1);
  EXPECT_LE(arguments["days"], 9);

  json two = kWeather;
  two.push_back(
      {{"type", "function"},
       {"function",
        {{"name", "time"}, {"parameters", {{"type", "object"}, {"properties", json::object()}}}}}});
  const json body = chat({{"tools", two}, {"tool_choice", "required"}, {"max_tokens", 400}});
  const json required = stack_->post(kChat, body).json["choices"][0];
  if (required["finish_reason"] != "length") {
    EXPECT_EQ(required["finish_reason"], "tool_calls");
    for (const json& each : required["message"]["tool_calls"]) {
      EXPECT_THAT(each["function"]["name"], testing::AnyOf("weather", "time"));
    }
  }
}

TEST_F(StructuredOutputTest, EarlierCallsComeToTheTemplateAsObjects) {
  const json call = {{"id", "1"},
                     {"type", "function"},
                     {"function", {{"name", "f"}, {"arguments", "{\"a\": 1}"}}}};
  const json messages = {{{"role", "user"}, {"content", "x"}},
                         {{"role", "assistant"}, {"content", nullptr}, {"tool_calls", {call}}},
                         {{"role", "tool"}, {"content", "y"}, {"tool_call_id", "1"}}};
  EXPECT_EQ(stack_->post("/tokenize", {{"messages", messages}, {"tools", kWeather}}).status, 200);
  json broken = messages;
  broken[1]["tool_calls"][0]["function"]["arguments"] = "{";
  const Reply reply = stack_->post("/tokenize", {{"messages", broken}});
  EXPECT_EQ(reply.status, 400);
  EXPECT_THAT(reply.text, HasSubstr("messages[1].tool_calls"));
}

/// A chat whose output is written by the test.
class ToldChat {
 public:
  explicit ToldChat(json body) : stack_({}, {}, std::make_unique<HandCluster>()) {
    body["messages"] = {{{"role", "user"}, {"content", "x"}}};
    body["tools"] = kWeather;
    client_.emplace(stack_.connect());
    client_->send(Stack::request_text("POST", kChat, body.dump(), "Connection: close\r\n"));
  }

  std::string answer(const std::string& output) {
    auto& cluster = dynamic_cast<HandCluster&>(stack_.cluster());
    const HandCluster::Sent sent = cluster.sent(0);
    const std::vector<int32_t> tokens = stack_.model().tokenizer.encode(output, false).value();
    for (const int32_t token : tokens) sent.sink(token_event(sent.request.id, token), 0);
    engine::SequenceEvent end = token_event(sent.request.id, 1020);
    end.finish = engine::FinishReason::kStop;
    sent.sink(end, 0);
    return client_->read_all();
  }

 private:
  Stack stack_;
  std::optional<http::RawClient> client_;
};

const std::string kCalls =
    "Let me see. <tool_call>{\"name\": \"weather\", \"arguments\": {\"days\": 2}}</tool_call>\n"
    "<tool_call>{\"name\": \"weather\", \"arguments\": {\"days\": 3}}</tool_call>";

TEST(ToolCalls, AreTakenOutOfTheText) {
  ToldChat told(json::object());
  const std::string response = told.answer(kCalls);
  const json choice = json::parse(response.substr(response.find("\r\n\r\n") + 4))["choices"][0];
  EXPECT_EQ(choice["finish_reason"], "tool_calls");
  EXPECT_EQ(choice["message"]["content"], "Let me see. ");
  ASSERT_EQ(choice["message"]["tool_calls"].size(), 2u);
  EXPECT_EQ(choice["message"]["tool_calls"][1]["function"],
            (json{{"name", "weather"}, {"arguments", "{\"days\":3}"}}));
  EXPECT_NE(choice["message"]["tool_calls"][0]["id"], choice["message"]["tool_calls"][1]["id"]);
}

TEST(ToolCalls, AreStreamed) {
  ToldChat told(json{{"stream", true}});
  std::string content;
  std::vector<json> calls;
  json reason;
  for (const std::string& event : Stack::events(told.answer(kCalls))) {
    if (event == "[DONE]") continue;
    const json choice = json::parse(event)["choices"][0];
    content += choice["delta"].value("content", "");
    for (const json& call : choice["delta"].value("tool_calls", json::array())) {
      EXPECT_EQ(call["index"], calls.size());
      calls.push_back(call);
    }
    reason = choice["finish_reason"];
  }
  EXPECT_EQ(content, "Let me see. ");
  ASSERT_EQ(calls.size(), 2u);
  EXPECT_EQ(calls[0]["function"]["arguments"], "{\"days\":2}");
  EXPECT_EQ(reason, "tool_calls");
}

TEST(ToolCalls, ThatCannotBeFollowedEndTheRequestWithItsOwnFault) {
  const Stack stack({}, {}, std::make_unique<HandCluster>());
  http::RawClient client = stack.connect();
  client.send(Stack::request_text("POST", kCompletions, R"({"prompt": "x"})"));
  auto& cluster = dynamic_cast<HandCluster&>(const_cast<Stack&>(stack).cluster());
  const HandCluster::Sent sent = cluster.sent(0);
  engine::SequenceEvent end = token_event(sent.request.id, 5);
  end.finish = engine::FinishReason::kUnmet;
  end.failure = "too much work";
  sent.sink(end, 0);
  const auto [head, body] = client.read_response();
  EXPECT_THAT(head, StartsWith("HTTP/1.1 400 "));
  EXPECT_EQ(json::parse(body)["error"]["code"], "constraint_unmet");
}

}  // namespace
}  // namespace fourfold::serve

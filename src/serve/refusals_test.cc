// What the server refuses, and what it says then.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "serve/stack_test.h"

namespace fourfold::serve {
namespace {

using nlohmann::json;
using testing::HasSubstr;

constexpr const char* kCompletions = "/v1/completions";
constexpr const char* kChat = "/v1/chat/completions";

struct Refused {
  const char* path;
  json body;
  int status;
  const char* param;
  const char* says;
};

TEST(Refusals, NameTheField) {
  const Stack stack({}, {}, std::make_unique<HandCluster>());
  const json user = {{{"role", "user"}, {"content", "x"}}};
  const json picture = {
      {{"role", "user"},
       {"content", {{{"type", "image_url"}, {"image_url", {{"url", "http://a/b.png"}}}}}}}};
  const std::vector<Refused> cases = {
      {kCompletions, {{"prompt", "x"}, {"model", "gpt-4"}}, 404, "model", "\"gpt-4\""},
      {kCompletions, {{"prompt", ""}, {"add_special_tokens", false}}, 400, "prompt", "tokens"},
      {kCompletions, {{"prompt", json::array()}}, 400, "prompt", "tokens"},
      {kCompletions, {{"prompt", {1, 1021}}}, 400, "prompt", "1021"},
      {kCompletions,
       {{"prompt", "x"}, {"max_tokens", 1023}},
       400,
       "prompt",
       "1024 tokens, but 1025"},
      {kCompletions, {{"prompt", std::vector<int>(1024, 5)}}, 400, "prompt", "1025"},
      {kCompletions, {{"prompt", "x"}, {"stop", {"a", ""}}}, 400, "stop", "0 bytes"},
      {kCompletions, {{"prompt", "x"}, {"stop", std::string(1025, 'a')}}, 400, "stop", "1025"},
      {kCompletions, {{"prompt", "x"}, {"logit_bias", {{"x", 1}}}}, 400, "logit_bias", "\"x\""},
      {kCompletions, {{"prompt", "x"}, {"logit_bias", {{"1021", 1}}}}, 400, "logit_bias", "1021"},
      {kCompletions,
       {{"prompt", "x"}, {"logit_bias", {{"1", 1}, {"01", 2}}}},
       400,
       "logit_bias",
       "twice"},
      {kCompletions, {{"prompt", "x"}, {"logit_bias", {{"1", 101}}}}, 400, "logit_bias", "101"},
      {kCompletions, {{"prompt", "x"}, {"min_tokens", 17}}, 400, "min_tokens", "16"},
      {kCompletions, {{"prompt", "x"}, {"max_tokens", 0}}, 400, "max_tokens", "echo"},
      {kCompletions, {{"prompt", "x"}, {"stop_token_ids", {1021}}}, 400, "stop_token_ids", "1021"},
      {kCompletions,
       {{"prompt", "x"}, {"stream_options", json::object()}},
       400,
       "stream_options",
       "stream"},
      {kCompletions,
       {{"prompt", "x"}, {"stream", true}, {"stream_options", {{"x", 1}}}},
       400,
       "stream_options.x",
       "not supported"},
      {kCompletions, {{"prompt", std::vector<std::string>(9, "x")}, {"n", 128}}, 400, "n", "1024"},
      {kCompletions, {{"prompt", "x"}, {"best_of", 2}}, 400, "best_of", "not supported"},
      {kChat, {{"messages", user}, {"tools", {{{"type", "function"}}}}}, 400, "tools", "tools[0]"},
      {kChat, {{"messages", user}, {"tool_choice", "required"}}, 400, "tool_choice", "needs tools"},
      {kChat,
       {{"messages", user},
        {"tools", {{{"type", "function"}, {"function", {{"name", "f"}}}}}},
        {"tool_choice", {{"type", "function"}, {"function", {{"name", "g"}}}}}},
       400,
       "tool_choice",
       "\"g\""},
      {kChat,
       {{"messages", user},
        {"response_format", {{"type", "json_object"}}},
        {"tools", {{{"type", "function"}, {"function", {{"name", "f"}}}}}},
        {"tool_choice", "required"}},
       400,
       "tool_choice",
       "give one"},
      {kCompletions,
       {{"prompt", "x"}, {"guided_regex", "a(?=b)"}},
       400,
       "guided_regex",
       "look-around"},
      {kCompletions,
       {{"prompt", "x"}, {"guided_json", {{"items", {{"multipleOf", 2}}}}}},
       400,
       "guided_json",
       "multipleOf at #/items"},
      {kCompletions, {{"prompt", "x"}, {"guided_json", "{"}}, 400, "guided_json", "line 1"},
      {kCompletions, {{"prompt", "x"}, {"guided_choice", {"a", ""}}}, 400, "guided_choice", "one"},
      {kCompletions,
       {{"prompt", "x"}, {"guided_choice", {"a"}}, {"guided_regex", "a"}},
       400,
       "guided_choice",
       "give one"},
      {kCompletions,
       {{"prompt", "x"}, {"guided_choice", {"a"}}, {"ignore_eos", true}},
       400,
       "ignore_eos",
       "guided_choice"},
      {kCompletions,
       {{"prompt", "x"}, {"response_format", {{"type", "xml"}}}},
       400,
       "response_format",
       "\"xml\""},
      {kCompletions,
       {{"prompt", "x"}, {"response_format", {{"type", "json_schema"}}}},
       400,
       "response_format",
       "needs a schema"},
      {kCompletions,
       {{"prompt", "x"}, {"structured_outputs", {{"grammar", "root ::= x"}}}},
       400,
       "structured_outputs.grammar",
       "not supported"},
      {kCompletions,
       {{"prompt", "x"}, {"structured_outputs", json::object()}},
       400,
       "structured_outputs",
       "expected one"},
      {kCompletions, {{"prompt", "x"}, {"seed", 1ULL << 63}}, 400, "seed", "92233720368547758"},
      {kCompletions, {{"prompt", "x"}, {"max_tokens", 1.5}}, 400, "max_tokens", "an integer"},
      {kCompletions,
       {{"prompt", std::string(400'000, 'x')}},
       400,
       "prompt",
       "400000 bytes of text"},
      {kChat, {{"messages", user}, {"top_logprobs", 2}}, 400, "top_logprobs", "logprobs"},
      {kChat,
       {{"messages", user}, {"max_tokens", 2}, {"max_completion_tokens", 3}},
       400,
       "max_tokens",
       "differ"},
      {kChat, {{"messages", json::array()}}, 400, "messages", "empty"},
      {kChat, {{"messages", {{{"content", "x"}}}}}, 400, "messages", "messages[0] needs a role"},
      {kChat, {{"messages", {{{"role", "user"}}}}}, 400, "messages", "needs content"},
      {kChat,
       {{"messages", {{{"role", "user"}, {"content", 5}}}}},
       400,
       "messages",
       "needs content"},
      {kChat, {{"messages", picture}}, 400, "messages", "messages[0].content[0]"},
      {"/tokenize", {{"prompt", "x"}, {"messages", user}}, 400, "prompt", "either"},
      {"/detokenize", {{"tokens", {1021}}}, 400, "tokens", "1021"},
  };
  for (const Refused& c : cases) {
    const Reply reply = stack.post(c.path, c.body);
    EXPECT_EQ(reply.status, c.status) << c.body << reply.text;
    ASSERT_TRUE(reply.json.contains("error")) << reply.text;
    EXPECT_EQ(reply.error_param(), c.param) << c.body << reply.text;
    EXPECT_THAT(reply.json["error"]["message"].get<std::string>(), HasSubstr(c.says)) << c.body;
    EXPECT_EQ(reply.json["error"]["type"], "invalid_request_error");
  }
}

TEST(Refusals, OfBodiesThatAreNoJson) {
  const Stack stack({}, {}, std::make_unique<HandCluster>());
  const auto refuses = [&](const std::string& body, const char* says) {
    const Reply reply = stack.ask("POST", kCompletions, body);
    EXPECT_EQ(reply.status, 400);
    EXPECT_THAT(reply.json["error"]["message"].get<std::string>(), HasSubstr(says));
  };
  refuses("", "line 1");
  refuses("{\"prompt\":", "line 1, column");
  refuses("[]", "JSON object");
  refuses("{\"prompt\":\"a\",\"prompt\":\"b\"}", "twice");
  refuses("{\"prompt\":\"\xff\"}", "UTF-8");
  refuses("{\"prompt\":\"\\ud800\"}", "surrogate");
  refuses("{\"x\":" + std::string(64, '[') + std::string(64, ']') + "}", "64 deep");
}

}  // namespace
}  // namespace fourfold::serve

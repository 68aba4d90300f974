// A completion's prompt in its answer, with the log-probabilities of its tokens.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "model/golden_test_support.h"
#include "serve/stack_test.h"

namespace fourfold::serve {
namespace {

using nlohmann::json;
using testing::HasSubstr;

constexpr const char* kCompletions = "/v1/completions";
constexpr const char* kPrompt = "In the beginning God created";

class Echo : public testing::Test {
 protected:
  static void SetUpTestSuite() { stack_ = new Stack(); }
  static void TearDownTestSuite() { delete stack_; }

  static json ask(json body) {
    if (!body.contains("prompt")) body["prompt"] = kPrompt;
    body["temperature"] = 0;
    const Reply reply = stack_->post(kCompletions, body);
    EXPECT_EQ(reply.status, 200) << reply.text;
    return reply.json;
  }

  static Stack* stack_;
};

Stack* Echo::stack_ = nullptr;

TEST_F(Echo, TellsOfThePromptWhatItWouldTellOfTheSameTokensAsOutput) {
  const std::vector<int> prompt = stack_->model().tokenizer.encode(kPrompt, true).value();
  const json said =
      ask({{"prompt", prompt}, {"max_tokens", 20}, {"logprobs", 3}})["choices"][0]["logprobs"];
  std::vector<int> all = prompt;
  for (const json& token : said["tokens"]) {
    const auto text = token.get<std::string>();
    for (int id = 0; id < stack_->model().vocab; ++id) {
      if (stack_->model().tokenizer.token_bytes(id) == text) {
        all.push_back(id);
        break;
      }
    }
  }
  ASSERT_EQ(all.size(), prompt.size() + 20);
  const json echoed = ask({{"prompt", all}, {"max_tokens", 0}, {"echo", true}, {"logprobs", 3}});
  const json& choice = echoed["choices"][0];
  const json& told = choice["logprobs"];
  ASSERT_EQ(told["tokens"].size(), all.size());
  EXPECT_EQ(told["token_logprobs"][0], nullptr);
  EXPECT_EQ(told["top_logprobs"][0], nullptr);
  for (size_t i = 0; i < 20; ++i) {
    const size_t at = prompt.size() + i;
    EXPECT_EQ(told["tokens"][at], said["tokens"][i]);
    EXPECT_NEAR(told["token_logprobs"][at], said["token_logprobs"][i], 2e-2);
    EXPECT_EQ(told["text_offset"][at], static_cast<int64_t>(said["text_offset"][i]) +
                                           static_cast<int64_t>(std::string(kPrompt).size()));
    ASSERT_EQ(told["top_logprobs"][at].size(), 3u);
    EXPECT_EQ(told["top_logprobs"][at][told["tokens"][at].get<std::string>()],
              told["token_logprobs"][at]);
  }
  EXPECT_EQ(choice["finish_reason"], "length");
  EXPECT_EQ(choice["text"], stack_->model().tokenizer.decode(all, /*skip_special=*/true));
  EXPECT_EQ(echoed["usage"]["completion_tokens"], 0);
  EXPECT_EQ(echoed["usage"]["prompt_tokens"], all.size());
}

TEST_F(Echo, AgreesWithTheLogitsOfTransformers) {
  const model::Golden golden("tiny");
  int compared = 0;
  for (int i = 0; i < golden.prompts(); ++i) {
    const std::vector<int32_t> prompt = golden.tokens("prompt", i);
    const std::vector<float> logits = golden.logits(i);
    const size_t vocab = static_cast<size_t>(stack_->model().vocab);
    if (logits.size() != prompt.size() * vocab) continue;  // of its last positions only
    const json told = ask({{"prompt", prompt}, {"max_tokens", 0}, {"echo", true}, {"logprobs", 0}});
    const json& logprobs = told["choices"][0]["logprobs"]["token_logprobs"];
    for (size_t at = 1; at < prompt.size(); ++at, ++compared) {
      const float* row = logits.data() + (at - 1) * vocab;
      double total = 0;
      for (size_t v = 0; v < vocab; ++v) total += std::exp(static_cast<double>(row[v]));
      EXPECT_NEAR(logprobs[at].get<double>(), row[prompt[at]] - std::log(total), 0.05)
          << "prompt " << i << ", position " << at;
    }
  }
  EXPECT_EQ(compared, 14);
}

TEST_F(Echo, GoesOnWithTheTokensOfTheAnswer) {
  const json plain = ask({{"max_tokens", 5}, {"logprobs", 1}})["choices"][0];
  // Twice: what the first one left in the cache must not take the prompt's log-probabilities away.
  const json choice = ask({{"max_tokens", 5}, {"logprobs", 1}, {"echo", true}})["choices"][0];
  EXPECT_EQ(ask({{"max_tokens", 5}, {"logprobs", 1}, {"echo", true}})["choices"][0], choice);
  EXPECT_EQ(choice["text"], kPrompt + plain["text"].get<std::string>());
  const size_t prompt = choice["logprobs"]["tokens"].size() - 5;
  EXPECT_EQ(choice["logprobs"]["tokens"][0], "<|begin_of_text|>");
  EXPECT_EQ(choice["logprobs"]["text_offset"][1], 0);
  for (size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(choice["logprobs"]["tokens"][prompt + i], plain["logprobs"]["tokens"][i]);
    EXPECT_EQ(choice["logprobs"]["text_offset"][prompt + i],
              plain["logprobs"]["text_offset"][i].get<size_t>() + std::string(kPrompt).size());
  }
}

TEST_F(Echo, IsTheSameForEveryChoiceAndEachPrompt) {
  const json answer = ask({{"prompt", {kPrompt, "And God said"}},
                           {"max_tokens", 3},
                           {"logprobs", 0},
                           {"echo", true},
                           {"n", 3}});
  ASSERT_EQ(answer["choices"].size(), 6u);
  for (size_t i = 0; i < 6; ++i) {
    EXPECT_EQ(answer["choices"][i]["logprobs"], answer["choices"][i / 3 * 3]["logprobs"]);
  }
  EXPECT_NE(answer["choices"][0]["logprobs"], answer["choices"][3]["logprobs"]);
}

TEST_F(Echo, IsStreamedWithTheFirstEvent) {
  for (const int max_tokens : {0, 7}) {
    json body = {{"prompt", kPrompt},
                 {"max_tokens", max_tokens},
                 {"logprobs", 2},
                 {"echo", true},
                 {"temperature", 0}};
    const json whole = ask(body)["choices"][0];
    std::string text;
    json tokens = json::array();
    json logprobs = json::array();
    json reason;
    std::vector<std::string> events = stack_->stream(kCompletions, body);
    ASSERT_EQ(events.back(), "[DONE]");
    events.pop_back();
    for (const std::string& event : events) {
      const json choice = json::parse(event)["choices"][0];
      text += choice["text"];
      for (const json& token : choice["logprobs"]["tokens"]) tokens.push_back(token);
      for (const json& p : choice["logprobs"]["token_logprobs"]) logprobs.push_back(p);
      reason = choice["finish_reason"];
    }
    EXPECT_EQ(text, whole["text"]);
    EXPECT_EQ(tokens, whole["logprobs"]["tokens"]);
    EXPECT_EQ(logprobs, whole["logprobs"]["token_logprobs"]);
    EXPECT_EQ(reason, whole["finish_reason"]);
  }
}

TEST_F(Echo, WithoutATokenToGenerateIsThePrompt) {
  const json answer = ask({{"max_tokens", 0}, {"echo", true}});
  EXPECT_EQ(answer["choices"][0]["text"], kPrompt);
  EXPECT_EQ(answer["choices"][0]["logprobs"], nullptr);
  EXPECT_EQ(answer["usage"]["completion_tokens"], 0);
  const Reply refused = stack_->post(kCompletions, {{"prompt", "x"}, {"max_tokens", 0}});
  EXPECT_EQ(refused.status, 400);
  EXPECT_EQ(refused.error_param(), "max_tokens");
  EXPECT_THAT(refused.text, HasSubstr("echo"));
}

}  // namespace
}  // namespace fourfold::serve

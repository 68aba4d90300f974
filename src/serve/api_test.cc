// The whole server with the built-in model: what requests change, and the shape of answers.
#include "serve/api.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>

#include "serve/fields.h"
#include "serve/stack_test.h"

namespace fourfold::serve {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::EndsWith;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

constexpr const char* kCompletions = "/v1/completions";
constexpr const char* kChat = "/v1/chat/completions";

class ApiTest : public testing::Test {
 protected:
  static void SetUpTestSuite() { stack_ = new Stack(); }
  static void TearDownTestSuite() { delete stack_; }

  static const char* path(Endpoint endpoint) {
    return endpoint == Endpoint::kChat ? kChat : kCompletions;
  }

  /// Greedy, and 12 tokens long.
  static json base(Endpoint endpoint) {
    json out = {{"max_tokens", 12}, {"temperature", 0}};
    if (endpoint == Endpoint::kChat) {
      out["messages"] = {{{"role", "user"}, {"content", "In the beginning God created"}}};
    } else {
      out["prompt"] = "In the beginning God created";
    }
    return out;
  }

  static json with(json body, const json& changes) {
    if (!changes.is_null()) body.update(changes);
    return body;
  }

  /// What a client sees of an answer apart from its id and time.
  static json answer(Endpoint endpoint, const json& body) {
    if (body.value("stream", false)) {
      return stack_->stream(path(endpoint), body).size();
    }
    Reply reply = stack_->post(path(endpoint), body);
    EXPECT_EQ(reply.status, 200) << reply.text;
    reply.json.erase("id");
    reply.json.erase("created");
    return reply.json;
  }

  static std::string text(const json& body) {
    const Reply reply = stack_->post(kCompletions, body);
    EXPECT_EQ(reply.status, 200) << reply.text;
    return reply.choice();
  }

  static Stack* stack_;
};

Stack* ApiTest::stack_ = nullptr;

/// For each field that changes answers: changes of a request without it, or with another value of
/// it, and with it.
struct Effect {
  json before;
  json after;
};

std::map<std::string, Effect> effects(Endpoint endpoint) {
  const json warm = {{"temperature", 1}, {"seed", 7}};
  const json longer = {{"max_tokens", 24}};  // until a token comes again
  const auto warm_and = [&](json changes) {
    changes.update(warm);
    return changes;
  };
  std::map<std::string, Effect> out = {
      {"max_tokens", {{}, {{"max_tokens", 5}}}},
      {"n", {{}, {{"n", 2}}}},
      {"temperature", {{{"seed", 7}}, {{"temperature", 1}, {"seed", 7}}}},
      {"top_p", {warm, warm_and({{"top_p", 0.1}})}},
      {"top_k", {warm, warm_and({{"top_k", 1}})}},
      {"min_p", {warm, warm_and({{"min_p", 0.9}})}},
      {"presence_penalty", {longer, {{"max_tokens", 24}, {"presence_penalty", 2}}}},
      {"frequency_penalty", {longer, {{"max_tokens", 24}, {"frequency_penalty", 2}}}},
      {"repetition_penalty", {{}, {{"repetition_penalty", 2}}}},
      {"logit_bias", {{}, {{"logit_bias", {{"100", 100}}}}}},
      {"seed", {warm, {{"temperature", 1}, {"seed", 8}}}},
      {"stop", {{}, {{"stop", "e"}}}},
      {"include_stop_str_in_output",
       {{{"stop", "e"}}, {{"stop", "e"}, {"include_stop_str_in_output", true}}}},
      {"stop_token_ids",
       {{{"logit_bias", {{"100", 100}}}},
        {{"logit_bias", {{"100", 100}}}, {"stop_token_ids", {100}}}}},
      {"ignore_eos",
       {{{"logit_bias", {{"1020", 100}}}},
        {{"logit_bias", {{"1020", 100}}}, {"ignore_eos", true}}}},
      {"min_tokens",
       {{{"logit_bias", {{"1020", 100}}}}, {{"logit_bias", {{"1020", 100}}}, {"min_tokens", 3}}}},
      {"skip_special_tokens",
       {{{"logit_bias", {{"1020", 100}}}, {"ignore_eos", true}},
        {{"logit_bias", {{"1020", 100}}}, {"ignore_eos", true}, {"skip_special_tokens", false}}}},
      {"stream", {{}, {{"stream", true}}}},
      {"stream_options",
       {{{"stream", true}}, {{"stream", true}, {"stream_options", {{"include_usage", true}}}}}},
  };
  const json whole = {{"type", "integer"}, {"minimum", 0}};
  out["response_format"] = {{}, {{"response_format", {{"type", "json_object"}}}}};
  out["structured_outputs"] = {{}, {{"structured_outputs", {{"choice", {"yes", "no"}}}}}};
  out["guided_json"] = {{}, {{"guided_json", whole}}};
  out["guided_regex"] = {{}, {{"guided_regex", "[0-9]{3}"}}};
  out["guided_choice"] = {{}, {{"guided_choice", {"yes", "no"}}}};
  if (endpoint == Endpoint::kChat) {
    const json tools = {{{"type", "function"}, {"function", {{"name", "f"}}}}};
    out["tools"] = {{}, {{"tools", tools}, {"tool_choice", "none"}}};
    out["tool_choice"] = {{{"tools", tools}, {"tool_choice", "none"}},
                          {{"tools", tools}, {"tool_choice", "required"}}};
    out["messages"] = {{}, {{"messages", {{{"role", "user"}, {"content", "And God"}}}}}};
    out["max_completion_tokens"] = {{{"max_tokens", nullptr}, {"max_completion_tokens", 9}},
                                    {{"max_tokens", nullptr}, {"max_completion_tokens", 5}}};
    out["logprobs"] = {{}, {{"logprobs", true}}};
    out["top_logprobs"] = {{{"logprobs", true}}, {{"logprobs", true}, {"top_logprobs", 2}}};
    out["add_generation_prompt"] = {{}, {{"add_generation_prompt", false}}};
  } else {
    out["prompt"] = {{}, {{"prompt", "And God"}}};
    out["echo"] = {{}, {{"echo", true}}};
    out["logprobs"] = {{}, {{"logprobs", 1}}};
    out["add_special_tokens"] = {{}, {{"add_special_tokens", false}}};
  }
  return out;
}

TEST_F(ApiTest, EveryFieldChangesTheAnswer) {
  for (const Endpoint endpoint : {Endpoint::kCompletions, Endpoint::kChat}) {
    std::map<std::string, Effect> cases = effects(endpoint);
    std::map<std::string, json> before;  // answers, by changes
    for (const Field& field : fields()) {
      if ((field.endpoints & in(endpoint)) == 0 || field.name == "model") continue;
      if (field.type == FieldType::kNote || field.type == FieldType::kUnsupported) continue;
      const auto found = cases.extract(std::string(field.name));
      ASSERT_FALSE(found.empty()) << field.name << " has no case here";
      const Effect& effect = found.mapped();
      json& unchanged = before[effect.before.dump()];
      if (unchanged.is_null()) unchanged = answer(endpoint, with(base(endpoint), effect.before));
      EXPECT_NE(answer(endpoint, with(base(endpoint), effect.after)), unchanged) << field.name;
    }
    EXPECT_TRUE(cases.empty());
    for (const auto& [changes, unchanged] : before) {
      EXPECT_EQ(answer(endpoint, with(base(endpoint), json::parse(changes))), unchanged);
    }
  }
}

TEST_F(ApiTest, FieldsWithoutEffectChangeNothing) {
  for (const Endpoint endpoint : {Endpoint::kCompletions, Endpoint::kChat}) {
    json noted = base(endpoint);
    for (const Field& field : fields()) {
      if ((field.endpoints & in(endpoint)) == 0) continue;
      if (field.type == FieldType::kNote) noted[std::string(field.name)] = "x";
      if (!field.harmless.empty()) noted[std::string(field.name)] = json::parse(field.harmless);
    }
    EXPECT_EQ(answer(endpoint, noted), answer(endpoint, base(endpoint)));
  }
}

TEST_F(ApiTest, StreamsJoinToTheWholeAnswer) {
  for (const Endpoint endpoint : {Endpoint::kCompletions, Endpoint::kChat}) {
    const json body = with(base(endpoint),
                           {{"n", 3}, {"temperature", 1}, {"seed", 11}, {"stop", {"the", "ing"}}});
    const json whole = answer(endpoint, body);
    const std::vector<std::string> events =
        stack_->stream(path(endpoint), with(body, {{"stream_options", {{"include_usage", true}}}}));
    ASSERT_GE(events.size(), 5u);
    EXPECT_EQ(events.back(), "[DONE]");
    std::vector<std::string> texts(3);
    std::vector<json> reasons(3);
    json usage;
    for (size_t i = 0; i + 1 < events.size(); ++i) {
      const json event = json::parse(events[i]);
      if (!event["usage"].is_null()) usage = event["usage"];
      for (const json& choice : event["choices"]) {
        const size_t index = choice["index"];
        if (endpoint == Endpoint::kChat) {
          texts[index] += choice["delta"].value("content", "");
        } else {
          texts[index] += choice["text"].get<std::string>();
        }
        EXPECT_TRUE(reasons[index].is_null()) << "a piece behind the end";
        reasons[index] = choice["finish_reason"];
      }
    }
    for (size_t i = 0; i < 3; ++i) {
      const json& choice = whole["choices"][i];
      EXPECT_EQ(texts[i],
                endpoint == Endpoint::kChat ? choice["message"]["content"] : choice["text"]);
      EXPECT_EQ(reasons[i], choice["finish_reason"]);
    }
    EXPECT_EQ(usage, whole["usage"]);
  }
}

TEST_F(ApiTest, TakesPromptsInEveryForm) {
  const std::string text = "In the beginning God created";
  const json ids = stack_->model().tokenizer.encode(text, true).value();
  const std::string expected = ApiTest::text(base(Endpoint::kCompletions));
  const auto choices = [&](const json& prompt) {
    return answer(Endpoint::kCompletions, with(base(Endpoint::kCompletions), {{"prompt", prompt}}));
  };
  EXPECT_EQ(choices(ids)["choices"][0]["text"], expected);
  EXPECT_EQ(choices({text, "And God"})["choices"][0]["text"], expected);
  const json two = choices({ids, ids});
  EXPECT_EQ(two["choices"].size(), 2u);
  EXPECT_EQ(two["choices"][1]["text"], expected);
  EXPECT_EQ(two["choices"][1]["index"], 1);
  EXPECT_EQ(two["usage"]["prompt_tokens"], 2 * ids.size());
  EXPECT_EQ(two["usage"]["completion_tokens"], 24);
}

TEST_F(ApiTest, EchoesTextsAndIds) {
  const std::string text = "In the beginning God created";
  const json ids = stack_->model().tokenizer.encode(text, true).value();
  for (const json& prompt : {json(text), ids}) {
    const json body =
        with(base(Endpoint::kCompletions), {{"prompt", prompt}, {"echo", true}, {"n", 2}});
    const json echoed = answer(Endpoint::kCompletions, body);
    for (const json& choice : echoed["choices"]) {
      EXPECT_THAT(choice["text"].get<std::string>(), StartsWith(text));
    }
  }
}

TEST_F(ApiTest, GivesEveryChoiceTheSameTokensWhateverElseRuns) {
  const json body = with(base(Endpoint::kCompletions), {{"temperature", 1}, {"seed", 3}, {"n", 4}});
  const json alone = answer(Endpoint::kCompletions, body);
  std::vector<http::RawClient> others;
  for (int i = 0; i < 8; ++i) {
    others.push_back(stack_->connect());
    others.back().send(Stack::request_text(
        "POST", kCompletions,
        with(body, {{"seed", i}, {"max_tokens", 30}, {"ignore_eos", true}}).dump()));
  }
  EXPECT_EQ(answer(Endpoint::kCompletions, body), alone);
}

TEST_F(ApiTest, GivesLogprobsOfCompletions) {
  const json body = with(base(Endpoint::kCompletions), {{"logprobs", 3}, {"max_tokens", 6}});
  const json choice = answer(Endpoint::kCompletions, body)["choices"][0];
  const json& logprobs = choice["logprobs"];
  ASSERT_EQ(logprobs["tokens"].size(), 6u);
  std::string joined;
  for (size_t i = 0; i < 6; ++i) {
    const std::string token = logprobs["tokens"][i];
    EXPECT_EQ(logprobs["text_offset"][i], joined.size());
    joined += token;
    EXPECT_EQ(logprobs["top_logprobs"][i].size(), 3u);
    EXPECT_EQ(logprobs["top_logprobs"][i][token], logprobs["token_logprobs"][i]);
    for (const json& other : logprobs["top_logprobs"][i]) {
      EXPECT_LE(other, logprobs["token_logprobs"][i]);  // greedy
    }
  }
  EXPECT_EQ(joined, choice["text"]);
}

TEST_F(ApiTest, GivesLogprobsOfChats) {
  const json body =
      with(base(Endpoint::kChat), {{"logprobs", true}, {"top_logprobs", 2}, {"max_tokens", 6}});
  const json choice = answer(Endpoint::kChat, body)["choices"][0];
  ASSERT_EQ(choice["logprobs"]["content"].size(), 6u);
  std::string joined;
  for (const json& entry : choice["logprobs"]["content"]) {
    joined += entry["token"];
    EXPECT_EQ(entry["top_logprobs"].size(), 2u);
    EXPECT_EQ(entry["top_logprobs"][0]["logprob"], entry["logprob"]);
    const auto bytes = entry["bytes"].get<std::vector<uint8_t>>();
    EXPECT_EQ(std::string(bytes.begin(), bytes.end()), entry["token"]);
  }
  EXPECT_EQ(joined, choice["message"]["content"]);
  // Streamed, every token has its entry, too.
  size_t entries = 0;
  for (const std::string& event : stack_->stream(kChat, body)) {
    if (event == "[DONE]") continue;
    const json streamed = json::parse(event)["choices"][0]["logprobs"];
    if (streamed.is_object()) entries += streamed["content"].size();
  }
  EXPECT_EQ(entries, 6u);
}

TEST_F(ApiTest, PutsMessagesIntoTheTemplate) {
  const json parts = {{{"type", "text"}, {"text", "In the"}},
                      {{"type", "text"}, {"text", "beginning"}}};
  const auto count = [&](const json& messages) {
    return stack_->post("/tokenize", {{"messages", messages}}).json["tokens"];
  };
  EXPECT_EQ(count({{{"role", "user"}, {"content", parts}}}),
            count({{{"role", "user"}, {"content", "In the\nbeginning"}}}));
  const std::string rendered = "system: x\nuser: y\nanswer:";
  const json tokens =
      count({{{"role", "system"}, {"content", "x"}}, {{"role", "user"}, {"content", "y"}}});
  EXPECT_EQ(stack_->post("/detokenize", {{"tokens", tokens}}).json["prompt"],
            "<|begin_of_text|>" + rendered);
}

TEST_F(ApiTest, AnswersOtherPathsAndMethodsInTheSameShape) {
  EXPECT_EQ(stack_->get("/v2").status, 404);
  EXPECT_EQ(stack_->get("/v2").json["error"]["code"], "not_found");
  const Reply reply = stack_->get(kCompletions);
  EXPECT_EQ(reply.status, 405);
  EXPECT_THAT(reply.head, HasSubstr("Allow: POST\r\n"));
  http::RawClient form = stack_->connect();
  form.send(
      "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\n"
      "Content-Length: 14\r\n\r\n{\"prompt\":\"a\"}");
  EXPECT_THAT(form.read_response().first, StartsWith("HTTP/1.1 415 "));
  EXPECT_EQ(stack_->ask("POST", kCompletions, "{}", "Content-Encoding: gzip\r\n").status, 415);
}

TEST_F(ApiTest, TellsOfTheModelAndItself) {
  const json model = stack_->get("/v1/models").json["data"][0];
  EXPECT_EQ(model["id"], "tiny");
  EXPECT_EQ(model["max_model_len"], 1024);
  EXPECT_EQ(stack_->get("/v1/models/tiny").json, model);
  EXPECT_EQ(stack_->get("/v1/models/%74iny").json, model);
  EXPECT_EQ(stack_->get("/v1/models/t%2").json["error"]["code"], "model_not_found");
  EXPECT_TRUE(stack_->get("/version").json.contains("version"));
  EXPECT_EQ(stack_->get("/ping").status, 200);
  EXPECT_THAT(stack_->get("/metrics").head, HasSubstr("text/plain; version=0.0.4"));
}

TEST_F(ApiTest, TurnsTextIntoTokensAndBack) {
  const json reply =
      stack_->post("/tokenize", {{"prompt", "In the"}, {"return_token_strs", true}}).json;
  EXPECT_EQ(reply["count"], reply["tokens"].size());
  EXPECT_EQ(reply["token_strs"][0], "<|begin_of_text|>");
  EXPECT_EQ(stack_->post("/detokenize", {{"tokens", reply["tokens"]}}).json["prompt"],
            "<|begin_of_text|>In the");
  EXPECT_THAT(stack_->post("/tokenize", {{"prompt", "In the"}, {"zeal", 1}}).head,
              HasSubstr("X-Fourfold-Ignored-Fields: zeal\r\n"));
  const json bare =
      stack_->post("/tokenize", {{"prompt", "In the"}, {"add_special_tokens", false}}).json;
  EXPECT_EQ(bare["count"], reply["count"].get<int>() - 1);
}

TEST_F(ApiTest, DescribesEveryRouteAndField) {
  const json document = stack_->get("/openapi.json").json;
  EXPECT_EQ(document["openapi"], "3.1.0");
  for (const Route& route : routes()) {
    const json& entry = document.at("paths").at(std::string(route.path));
    EXPECT_EQ(entry.size(), 1u);
    EXPECT_EQ(entry.contains("get"), route.method == "GET");
  }
  const json& properties = document["paths"][kCompletions]["post"]["requestBody"]["content"]
                                   ["application/json"]["schema"]["properties"];
  EXPECT_EQ(properties["temperature"]["anyOf"][0],
            (json{{"type", "number"}, {"minimum", 0}, {"maximum", 2}}));
  EXPECT_EQ(properties["temperature"]["default"], 1);
  EXPECT_EQ(properties["echo"]["default"], false);
  EXPECT_EQ(properties["best_of"]["anyOf"][0], (json{{"enum", {1}}}));
}

TEST(ApiKeys, AreNeededOnAllRoutesButThePageAndThree) {
  const files::ScratchFolder folder;
  const Keys keys = Keys::read(folder.write("keys", "sk-test\n")).value();
  const Stack stack({}, keys, std::make_unique<HandCluster>());
  std::set<std::string_view> open;
  for (const Route& route : routes()) {
    const Reply bare = stack.ask(route.method, route.path);
    const Reply wrong =
        stack.ask(route.method, route.path, "", "Authorization: Bearer sk-tesT\r\n");
    const Reply right =
        stack.ask(route.method, route.path, "", "Authorization: Bearer sk-test\r\n");
    EXPECT_NE(right.status, 401) << route.path;
    EXPECT_EQ(bare.status, wrong.status) << route.path;
    if (bare.status != 401) open.insert(route.path);
  }
  EXPECT_THAT(open, ElementsAre("/", "/health", "/page.css", "/page.js", "/ping", "/ready"));
  EXPECT_EQ(stack.get("/anything").status, 401);
  EXPECT_THAT(stack.get("/v1/models").head, HasSubstr("WWW-Authenticate: Bearer\r\n"));
}

TEST(Chat, NeedsATemplate) {
  const auto model =
      load_served_model(model::open_model("tiny", false, 0).value(), {.id = "name", .context = 100})
          .value();
  EXPECT_EQ(model->id, "name");
  EXPECT_EQ(model->context, 100);
  GenerationRequest request;
  const auto error = read_generation(R"({"messages": [{"role": "user", "content": "x"}]})",
                                     Endpoint::kChat, *model, &request);
  ASSERT_TRUE(error);
  EXPECT_EQ(error->param, "messages");
  EXPECT_THAT(error->message, HasSubstr("--chat-template"));
}

TEST_F(ApiTest, NullMembersOfMessagesAreAsIfTheyWereAbsent) {
  const auto tokens = [&](const json& message) {
    const Reply reply = stack_->post("/tokenize", {{"messages", {message}}});
    EXPECT_EQ(reply.status, 200) << reply.text;
    return reply.json["tokens"];
  };
  EXPECT_EQ(tokens({{"role", "user"}, {"content", nullptr}}),
            tokens({{"role", "user"}, {"content", ""}}));
  EXPECT_EQ(tokens({{"role", "user"}, {"content", "a"}, {"tool_calls", nullptr}}),
            tokens({{"role", "user"}, {"content", "a"}}));
}

// Finding a member among many takes as long as there are many, so that the time would be quadratic.
TEST_F(ApiTest, AChatWithAnObjectOfManyMembersIsRefused) {
  json many;
  for (int i = 0; i < 1025; ++i) many[std::to_string(i)] = 0;
  json body = base(Endpoint::kChat);
  body["zeal"] = {many};
  const Reply reply = stack_->post(kChat, body);
  EXPECT_EQ(reply.status, 400);
  EXPECT_THAT(reply.text, HasSubstr("1024 members"));
  body["zeal"][0].erase("7");
  EXPECT_EQ(stack_->post(kChat, body).status, 200);
}

TEST_F(ApiTest, TakesIntegersWrittenAsFractionsAndNullsInObjects) {
  const json expected = answer(Endpoint::kCompletions, base(Endpoint::kCompletions));
  EXPECT_EQ(answer(Endpoint::kCompletions,
                   with(base(Endpoint::kCompletions), {{"max_tokens", 12.0}, {"n", 1.0}})),
            expected);
  const json options = {{"include_usage", nullptr}};
  const json body = with(base(Endpoint::kCompletions), {{"stream_options", options}});
  EXPECT_EQ(stack_->stream(kCompletions, body).back(), "[DONE]");
  EXPECT_EQ(stack_
                ->post(kCompletions, with(base(Endpoint::kCompletions),
                                          {{"seed", std::numeric_limits<int64_t>::max()}}))
                .status,
            200);
}

// Tokens that are part of a character have no text of their own, and special ones have none at all.
TEST_F(ApiTest, OffsetsOfTokensAreThoseInTheText) {
  const text::Tokenizer& tokenizer = stack_->model().tokenizer;
  const std::vector<int32_t> tokens = tokenizer
                                          .encode(
                                              "a\xE2\x82\xAC"
                                              "b",
                                              false)
                                          .value();
  ASSERT_GE(tokens.size(), 4u);  // the sign has several
  const json body = with(base(Endpoint::kCompletions), {{"guided_regex",
                                                         "a\xE2\x82\xAC"
                                                         "b"},
                                                        {"logprobs", 0}});
  const json choice = answer(Endpoint::kCompletions, body)["choices"][0];
  EXPECT_EQ(choice["text"],
            "a\xE2\x82\xAC"
            "b");
  std::vector<int> offsets = choice["logprobs"]["text_offset"];
  ASSERT_EQ(choice["logprobs"]["tokens"].back(), "<|end_of_text|>");
  EXPECT_EQ(offsets.back(), 3);
  offsets.pop_back();
  EXPECT_EQ(offsets.back(), 2);
  for (size_t i = 1; i + 1 < offsets.size(); ++i) EXPECT_EQ(offsets[i], 1);
}

}  // namespace
}  // namespace fourfold::serve

// Requests made up from the table of fields, valid, at the edge and wrong: none is answered with a
// 5xx, no group fails, and a greedy request that nobody changes is always answered the same.
//
// FOURFOLD_GENERATED_REQUESTS says how many (the default is for CI), FOURFOLD_GENERATED_SEED which.

#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <limits>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "serve/fields.h"
#include "serve/stack_test.h"

namespace fourfold::serve {
namespace {

using nlohmann::json;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int kUsual = 300;
#else
constexpr int kUsual = 10000;
#endif
constexpr int kClients = 8;
constexpr int kCanaryEvery = 1000;

int from_environment(const char* name, int otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::atoi(text);
}

constexpr const char* kPaths[] = {"/v1/completions", "/v1/chat/completions", "/tokenize",
                                  "/detokenize"};

/// One request's draws.
class Generator {
 public:
  explicit Generator(uint64_t seed) : random_(seed) {}

  bool once_in(int n) { return below(n) == 0; }
  int below(int end) { return std::uniform_int_distribution<int>(0, end - 1)(random_); }
  template <typename T>
  T one_of(std::initializer_list<T> list) {
    return list.begin()[below(static_cast<int>(list.size()))];
  }

  Endpoint endpoint() {
    const int draw = below(20);
    if (draw < 9) return Endpoint::kCompletions;
    if (draw < 16) return Endpoint::kChat;
    return draw < 18 ? Endpoint::kTokenize : Endpoint::kDetokenize;
  }

  /// A body, as bytes: a few of them are no JSON.
  std::string body(Endpoint endpoint) {
    json out = json::object();
    std::vector<const Field*> mine;
    for (const Field& field : fields()) {
      if ((field.endpoints & in(endpoint)) == 0) continue;
      mine.push_back(&field);
      if (field.required && !once_in(40)) out[field.name] = valid(field);
    }
    if (endpoint == Endpoint::kTokenize) out[one_of({"prompt", "messages"})] = "In the beginning";
    if (out.contains("messages")) out["messages"] = messages();
    for (int left = below(6); left > 0; --left) {
      const Field& field = *mine[static_cast<size_t>(below(static_cast<int>(mine.size())))];
      const int draw = below(10);
      out[field.name] = draw < 6 ? valid(field) : draw < 8 ? borderline(field) : anything(3);
    }
    // Without a limit a chat goes on to the end of the context.
    if (endpoint == Endpoint::kChat && out.value("max_tokens", json()).is_null() &&
        out.value("max_completion_tokens", json()).is_null()) {
      out["max_tokens"] = 1 + below(8);
    }
    if (once_in(30)) out["no_such_field_" + std::to_string(below(3))] = anything(2);
    std::string text = out.dump(-1, ' ', false, json::error_handler_t::replace);
    // Not of chats: one that lost its limit would go on for longer than the client waits.
    if (endpoint != Endpoint::kChat && once_in(25)) {
      text[static_cast<size_t>(below(static_cast<int>(text.size())))] =
          static_cast<char>(below(256));
    }
    if (once_in(60)) text.resize(text.size() / 2);
    return text;
  }

 private:
  std::string text() {
    return one_of<std::string>({"", "In the beginning", "And God said,\n let there be",
                                "é漢字🙂", "\u0000\u0001", "<s></s><unk>", "a", " ",
                                std::string(static_cast<size_t>(below(600)), 'x'), "{{ x }}"});
  }
  json messages() {
    json out = json::array();
    for (int left = 1 + below(3); left > 0; --left) {
      json message = {{"role", one_of({"user", "system", "assistant", "tool", "judge"})},
                      {"content", text()}};
      if (once_in(8)) message["content"] = {{{"type", "text"}, {"text", text()}}};
      if (once_in(12)) message[one_of({"content", "role", "tool_calls", "name"})] = anything(2);
      out.push_back(std::move(message));
    }
    return out;
  }
  json tokens() {
    json out = json::array();
    for (int left = below(30); left > 0; --left) out.push_back(below(250));
    return out;
  }
  json schema() {
    return one_of<json>({{{"type", "integer"}, {"minimum", 0}, {"maximum", 99}},
                         {{"enum", {"yes", "no", 7, nullptr}}},
                         {{"type", "array"}, {"items", {{"type", "boolean"}}}, {"maxItems", 3}},
                         {{"type", "object"},
                          {"properties", {{"a", {{"type", "string"}, {"maxLength", 5}}}}},
                          {"required", {"a"}},
                          {"additionalProperties", false}},
                         {{"type", "string"}, {"pattern", "^(a+)+$"}},
                         {{"$ref", "#"}},
                         {{"anyOf", {{{"type", "null"}}, {{"type", "number"}}}}},
                         {{"type", one_of({"strange", "string"})}, {"format", "date-time"}}});
  }
  json tools() {
    return json::array({{{"type", "function"},
                         {"function",
                          {{"name", one_of({"look", "take", "", "a b"})},
                           {"description", text()},
                           {"parameters", schema()}}}}});
  }

  json valid(const Field& field) {
    switch (field.type) {
      case FieldType::kBoolean:
        return once_in(2);
      case FieldType::kInteger:
        if (field.name == "n") return 1 + below(3);
        return static_cast<int64_t>(std::max(-20.0, field.least)) + below(10);
      case FieldType::kNumber: {
        const double most = std::min(field.most, field.least + 4);
        return std::uniform_real_distribution<double>(field.least, most)(random_);
      }
      case FieldType::kString:
        return field.name == "model" ? json(one_of({"tiny", "tiny", "huge"}))
               : field.name == "guided_regex"
                   ? json(one_of({"[a-c]{1,5}", "(yes|no)", "(", "\\d+"}))
                   : json(text());
      case FieldType::kStrings:
        return one_of<json>({text(), json::array({"yes", "no"}), json::array({text(), text()})});
      case FieldType::kTokens:
        return tokens();
      case FieldType::kPrompt:
        return one_of<json>(
            {text(), tokens(), json::array({text(), "Amen"}), json::array({tokens(), tokens()})});
      case FieldType::kMessages:
        return messages();
      case FieldType::kBiases:
        return {{std::to_string(below(250)), below(200) - 100}, {"7", 1.5}};
      case FieldType::kStreamOptions:
        return {{"include_usage", once_in(2)}};
      case FieldType::kObject:
        return one_of<json>({{{"type", "json_object"}},
                             {{"type", "text"}},
                             {{"type", "json_schema"}, {"json_schema", {{"schema", schema()}}}},
                             {{"regex", "[ab]{2}"}},
                             {{"choice", {"yes", "no"}}},
                             {{"json", schema()}}});
      case FieldType::kSchema:
        return once_in(4) ? json(schema().dump()) : schema();
      case FieldType::kTools:
        return tools();
      case FieldType::kToolChoice:
        return one_of<json>(
            {"none", "auto", "required", {{"type", "function"}, {"function", {{"name", "look"}}}}});
      case FieldType::kNote:
        return anything(2);
      case FieldType::kUnsupported:
        return field.harmless.empty() ? json() : json::parse(field.harmless);
    }
    return {};
  }

  /// Ends of ranges and just behind them, empty and huge things, null.
  json borderline(const Field& field) {
    if (field.type == FieldType::kInteger || field.type == FieldType::kNumber) {
      return one_of<json>({field.least, field.most, field.least - 1, field.most + 1,
                           field.least + 0.5, static_cast<int64_t>(field.least),
                           std::numeric_limits<int64_t>::max(), std::numeric_limits<int64_t>::min(),
                           std::numeric_limits<uint64_t>::max(), 1e308, -0.0, 5e-324});
    }
    return one_of<json>({json::array(), json::object(), "", nullptr, json::array({valid(field)}),
                         valid(field), json::array({json::array()}), std::string(5000, 'y'),
                         json(std::vector<int>(2000, 1)), -1, false});
  }
  json anything(int depth) {
    switch (below(depth > 0 ? 8 : 6)) {
      case 0:
        return nullptr;
      case 1:
        return once_in(2);
      case 2:
        return below(1000) - 500;
      case 3:
        return std::uniform_real_distribution<double>(-1e9, 1e9)(random_);
      case 4:
        return text();
      case 5:
        return std::numeric_limits<uint64_t>::max();
      case 6: {
        json out = json::array();
        for (int left = below(4); left > 0; --left) out.push_back(anything(depth - 1));
        return out;
      }
      default: {
        json out = json::object();
        for (int left = below(4); left > 0; --left) {
          out[one_of({"type", "", "schema", "text", "0", "é"})] = anything(depth - 1);
        }
        return out;
      }
    }
  }

  std::mt19937_64 random_;
};

TEST(GeneratedRequests, AreAnsweredWithoutAFailureOfTheServer) {
  const int count = from_environment("FOURFOLD_GENERATED_REQUESTS", kUsual);
  const auto seed = static_cast<uint64_t>(from_environment("FOURFOLD_GENERATED_SEED", 0)) << 32;
  // Refusals for want of a place would be right, and would hide the others.
  ServiceOptions options;
  options.max_queued_requests = options.max_queued_tokens = int64_t{1} << 40;
  const Stack stack(options);
  const json canary = {{"prompt", "In the beginning"}, {"max_tokens", 24}, {"temperature", 0}};
  const std::string expected = stack.post(kPaths[0], canary).choice();

  std::atomic<int> next = 0;
  std::atomic<int> succeeded = 0;
  const auto run = [&] {
    std::optional<http::RawClient> client;
    for (int number = next++; number < count && !testing::Test::HasFailure(); number = next++) {
      if (number % kCanaryEvery == kCanaryEvery - 1) {
        EXPECT_EQ(stack.post(kPaths[0], canary).choice(), expected) << "after " << number;
      }
      Generator generator(seed + static_cast<uint64_t>(number));
      const Endpoint endpoint = generator.endpoint();
      const std::string body = generator.body(endpoint);
      if (!client) client.emplace(stack.connect());
      client->send(Stack::request_text("POST", kPaths[static_cast<int>(endpoint)], body));
      auto [head, answer] = client->read_response();
      if (head.find("Transfer-Encoding: chunked") != std::string::npos) {
        answer = client->read_until("\r\n0\r\n\r\n");
      }
      if (head.find("Connection: close") != std::string::npos) client.reset();
      const bool good = head.starts_with("HTTP/1.1 200") || head.starts_with("HTTP/1.1 4");
      EXPECT_TRUE(good) << number << ": " << body << "\n" << head << answer;
      for (const char* code : {"internal_error", "engine_failed", "ranks_crash"}) {
        EXPECT_EQ(answer.find(code), std::string::npos) << number << ": " << body << answer;
      }
      if (head.starts_with("HTTP/1.1 200")) ++succeeded;
    }
  };
  std::vector<std::thread> clients;
  for (int i = 0; i < kClients; ++i) clients.emplace_back(run);
  for (std::thread& client : clients) client.join();

  RecordProperty("succeeded", succeeded.load());
  EXPECT_GT(succeeded, count / 5);
  EXPECT_LT(succeeded, count * 4 / 5) << "what is wrong is asked as well";
  EXPECT_EQ(stack.post(kPaths[0], canary).choice(), expected);
}

}  // namespace
}  // namespace fourfold::serve

// Constrained answers of `fourfold serve` as a program: judged by python, and the same under every
// scheme.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <nlohmann/json.hpp>
#include <string>

#include "http/raw_client_test.h"
#include "tests/support/command_line.h"
#include "tests/support/serve_process.h"

namespace fourfold::tests {
namespace {

using nlohmann::json;

/// FOURFOLD_STRUCTURED_CHOICES answers to each schema; 6 by default.
TEST(StructuredOutput, IsWhatPythonTakesForValid) {
  const std::string python = FOURFOLD_SOURCE_DIR "/build/python/bin/python3";
  ASSERT_EQ(access(python.c_str(), X_OK), 0)
      << python << " is missing: tools/setup.sh --tests puts it there";
  const char* choices = std::getenv("FOURFOLD_STRUCTURED_CHOICES");
  const Outcome outcome = run_command(
      python + " " FOURFOLD_SOURCE_DIR "/tests/clients/structured_output.py " FOURFOLD_BINARY " " +
      (choices != nullptr ? choices : "6"));
  EXPECT_EQ(outcome.code, 0) << outcome.text;
}

std::string complete(uint16_t port) {
  const json schema = {{"type", "object"},
                       {"properties",
                        {{"name", {{"type", "string"}, {"maxLength", 12}}},
                         {"tags", {{"type", "array"}, {"items", {{"type", "integer"}}}}}}},
                       {"required", {"name", "tags"}}};
  const json body = {{"prompt", {"In the", "And God"}},
                     {"n", 4},
                     {"seed", 3},
                     {"temperature", 1.5},
                     {"max_tokens", 60},
                     {"guided_json", schema}};
  const std::string text = body.dump();
  http::RawClient client(port);
  client.send(
      "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
      "Content-Length: " +
      std::to_string(text.size()) + "\r\n\r\n" + text);
  return json::parse(client.read_response().second).at("choices").dump();
}

TEST(StructuredOutput, DoesNotDependOnTheScheme) {
  ServeProcess one({"tiny", "--port", "0", "--numerics", "invariant"});
  const std::string expected = complete(one.port());
  EXPECT_NE(expected.find("name"), std::string::npos) << expected;
  for (const std::vector<std::string>& scheme :
       std::vector<std::vector<std::string>>{{"-tp=2"}, {"-pp=2"}, {"-dp=2"}}) {
    std::vector<std::string> arguments = {"tiny", "--port", "0", "--numerics", "invariant"};
    arguments.insert(arguments.end(), scheme.begin(), scheme.end());
    ServeProcess other(arguments);
    EXPECT_EQ(complete(other.port()), expected) << scheme[0];
  }
}

}  // namespace
}  // namespace fourfold::tests

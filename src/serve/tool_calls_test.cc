#include "serve/tool_calls.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace fourfold::serve {
namespace {

using nlohmann::ordered_json;

struct Case {
  ToolCallFormat format;
  const char* text;
  const char* left;                ///< of the text
  std::vector<const char*> calls;  ///< "name arguments"
};

/// All that a reader gives for a text that comes in two pieces.
std::pair<std::string, std::vector<std::string>> read(const Case& c, size_t cut) {
  const std::string_view text = c.text;
  ToolCallReader reader(c.format, "f");
  std::pair<std::string, std::vector<std::string>> out;
  const auto take = [&](const ToolCallReader::Output& output) {
    out.first += output.text;
    for (const ToolCall& call : output.calls)
      out.second.push_back(call.name + " " + call.arguments);
  };
  take(reader.push(text.substr(0, cut)));
  take(reader.push(text.substr(cut)));
  take(reader.finish());
  return out;
}

TEST(ToolCallReader, FindsCallsWhereverTheTextIsCutAndLosesNothing) {
  using enum ToolCallFormat;
  const std::vector<Case> cases = {
      {kNone,
       "<tool_call>{\"name\":\"a\",\"arguments\":{}}</tool_call>",
       "<tool_call>{\"name\":\"a\",\"arguments\":{}}</tool_call>",
       {}},
      {kHermes, "plain <tool", "plain <tool", {}},
      {kHermes,
       "x<tool_call>\n{\"name\":\"a\",\"arguments\":{\"b\":[1]}}\n</tool_call>",
       "x",
       {"a {\"b\":[1]}"}},
      {kHermes,
       "<tool_call>{\"name\":\"a\",\"arguments\":{}}</tool_call> \n"
       "<tool_call>{\"name\":\"b\",\"arguments\":{}}</tool_call>\n",
       "",
       {"a {}", "b {}"}},
      {kHermes, "<tool_call>{\"name\":\"a\",\"arguments\":{}}", "", {"a {}"}},
      {kHermes, "<tool_call>{\"name\":\"a\",\"argu", "<tool_call>{\"name\":\"a\",\"argu", {}},
      {kHermes, "<tool_call>nonsense</tool_call> then", "<tool_call>nonsense</tool_call> then", {}},
      {kHermes, "<tool_call>{\"name\":\"a\",\"arguments\":{}}</tool_call> then", " then", {"a {}"}},
      {kLlama3Json, "Hello {", "Hello {", {}},
      {kLlama3Json,
       " {\"name\": \"a\", \"parameters\": {\"z\": \"}\", \"y\": 1}}",
       "",
       {"a {\"z\":\"}\",\"y\":1}"}},
      {kLlama3Json,
       "{\"name\":\"a\",\"parameters\":{}}; {\"name\":\"b\",\"parameters\":{}}",
       "",
       {"a {}", "b {}"}},
      {kLlama3Json, "{\"name\":\"a\"}", "{\"name\":\"a\"}", {}},
      {kLlama3Json,
       "{\"name\":\"a\",\"parameters\":{}} and",
       "{\"name\":\"a\",\"parameters\":{}} and",
       {}},
      {kNamed, "{\"x\":1}", "", {"f {\"x\":1}"}},
      {kRequired, "[{\"name\":\"a\",\"parameters\":{\"x\":1}}]", "", {"a {\"x\":1}"}},
      {kRequired, "[{\"name\":\"a\"", "[{\"name\":\"a\"", {}},
  };
  for (const Case& c : cases) {
    for (size_t cut = 0; cut <= std::string_view(c.text).size(); ++cut) {
      const auto [left, calls] = read(c, cut);
      ASSERT_EQ(left, c.left) << c.text << " cut at " << cut;
      ASSERT_EQ(calls, std::vector<std::string>(c.calls.begin(), c.calls.end())) << c.text;
    }
  }
}

TEST(ToolCallReader, AModelMayWriteAnything) {
  ToolCallReader reader(ToolCallFormat::kHermes);
  const std::string deep(100'000, '[');
  EXPECT_TRUE(reader.push("<tool_call>" + deep + "</tool_call>").calls.empty());
  ToolCallReader llama(ToolCallFormat::kLlama3Json);
  llama.push("{\"a\":" + deep);
  EXPECT_EQ(llama.finish().text.size(), deep.size() + 5);
}

TEST(ToolCallFormat, HasVllmsNames) {
  EXPECT_EQ(tool_call_format("hermes").value(), ToolCallFormat::kHermes);
  EXPECT_EQ(tool_call_format("llama3_json").value(), ToolCallFormat::kLlama3Json);
  EXPECT_EQ(tool_call_format("none").value(), ToolCallFormat::kNone);
  EXPECT_FALSE(tool_call_format("mistral").ok());
}

}  // namespace
}  // namespace fourfold::serve

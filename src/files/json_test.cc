#include "files/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "files/scratch_folder.h"

namespace fourfold::files {
namespace {

using nlohmann::json;
using testing::HasSubstr;

std::string error_of(std::string_view text, const JsonLimits& limits = {}) {
  const auto parsed = parse_json(text, "config.json", limits);
  return parsed.ok() ? "no error" : parsed.error().message;
}

TEST(ParseJson, BuildsTheDocumentThatTheLibraryBuilds) {
  constexpr std::string_view kText =
      R"( {"a": [1, -2, 2.5, "x\u00e9", [], {}], "b": {"c": null, "d": {"e": [true, [false]]}},
          "f": 18446744073709551615, "g": ""} )";
  EXPECT_EQ(parse_json(kText, "x").value(), json::parse(kText));
  EXPECT_EQ(parse_json("3", "x").value(), json(3));
}

TEST(ParseJson, NamesLineAndColumnOfASyntaxError) {
  EXPECT_THAT(error_of("{\n  \"a\": 1,\n  b\n}"),
              HasSubstr("config.json, line 3, column 3: syntax error"));
  EXPECT_THAT(error_of(""), HasSubstr("config.json, line 1, column"));
  EXPECT_THAT(error_of("{\"a\": 1e999}"), HasSubstr("line 1, column 11"));
  EXPECT_THAT(error_of("[1] 2"), HasSubstr("line 1, column 5"));
  EXPECT_THAT(error_of("[1, // comment\n 2]"), HasSubstr("line 1, column 5"));
}

TEST(ParseJson, RefusesInvalidUtf8AndPrintsItSafely) {
  const std::string message = error_of("{\"a\": \"\x1b[31m\xff\"}");
  EXPECT_THAT(message, HasSubstr("line 1"));
  for (const char c : message) EXPECT_TRUE(c >= 0x20 && c < 0x7f) << static_cast<int>(c);
}

TEST(ParseJson, KeepsMessagesShortHoweverLongTheToken) {
  EXPECT_LT(error_of("\"" + std::string(1 << 20, 'x')).size(), 400);
}

TEST(ParseJson, RefusesAKeyThatStandsTwice) {
  EXPECT_EQ(error_of(R"({"a": {"b": 1}, "b": 2, "a": 3})"),
            "config.json: the key \"a\" stands twice");
  EXPECT_EQ(error_of(R"({"a": {"x": 1}, "b": {"x": 2}})"), "no error");
}

TEST(ParseJson, HoldsItsLimits) {
  const JsonLimits limits = {.max_bytes = 20, .max_values = 5, .max_depth = 3};
  EXPECT_EQ(error_of("[[[1, 2]]]", limits), "no error");
  EXPECT_EQ(error_of("[[[[]]]]", limits), "config.json: nested more than 3 deep");
  EXPECT_EQ(error_of("[1, 2, 3, 4, 5]", limits), "config.json: more than 5 values");
  EXPECT_EQ(error_of("[1,                  2]", limits),
            "config.json has 23 bytes; at most 20 are read");
  EXPECT_EQ(error_of(std::string(1 << 20, '[')), "config.json: nested more than 64 deep");
}

TEST(ParseJsonFile, NamesThePath) {
  const ScratchFolder folder;
  const auto path = folder.write("config.json", "{\"a\": 1");
  EXPECT_THAT(parse_json_file(path).error().message, HasSubstr(path.string() + ", line 1"));
  folder.write("config.json", "{\"a\": 1}");
  EXPECT_EQ(parse_json_file(path).value(), json({{"a", 1}}));
}

template <typename T>
std::string get_error(const json& object, std::string_view key) {
  const auto got = json_get<T>(object, key, "config.json");
  return got.ok() ? "no error" : got.error().message;
}

TEST(JsonGet, ReadsTheTypeAskedFor) {
  const json object = {
      {"flag", true}, {"count", -3}, {"theta", 10000}, {"eps", 1e-5}, {"name", "x"}};
  EXPECT_EQ(json_get<bool>(object, "flag", "x").value(), true);
  EXPECT_EQ(json_get<int64_t>(object, "count", "x").value(), -3);
  EXPECT_EQ(json_get<double>(object, "theta", "x").value(), 10000.0);
  EXPECT_EQ(json_get<double>(object, "eps", "x").value(), 1e-5);
  EXPECT_EQ(json_get<std::string>(object, "name", "x").value(), "x");
}

TEST(JsonGet, SaysWhatWasExpectedAndFound) {
  const json object = {
      {"hidden_size", "abc"}, {"big", uint64_t{1} << 63}, {"list", {1}}, {"x", 1.5}};
  EXPECT_EQ(get_error<int64_t>(object, "hidden_size"),
            "expected an integer for \"hidden_size\" in config.json, found \"abc\"");
  EXPECT_EQ(get_error<int64_t>(object, "big"),
            "expected an integer for \"big\" in config.json, found 9223372036854775808");
  EXPECT_EQ(get_error<int64_t>(object, "x"),
            "expected an integer for \"x\" in config.json, found 1.5");
  EXPECT_EQ(get_error<std::string>(object, "list"),
            "expected a string for \"list\" in config.json, found an array");
  EXPECT_EQ(get_error<bool>(object, "missing"),
            "expected true or false for \"missing\" in config.json, found no such key");
  EXPECT_EQ(get_error<bool>(json(3), "a"), "expected an object in config.json, found 3");
}

TEST(JsonGetPositive, RefusesZeroAndLess) {
  const json object = {{"one", 1}, {"zero", 0}, {"minus", -1}};
  EXPECT_EQ(json_get_positive(object, "one", "c").value(), 1);
  EXPECT_EQ(json_get_positive(object, "zero", "c").error().message,
            "expected a positive integer for \"zero\" in c, found 0");
  EXPECT_FALSE(json_get_positive(object, "minus", "c").ok());
}

TEST(JsonGetOr, FallsBackOnlyWhereTheKeyIsAbsentOrNull) {
  const json object = {{"a", 5}, {"b", nullptr}, {"c", "five"}};
  EXPECT_EQ(json_get_or<int64_t>(object, "a", 7, "x").value(), 5);
  EXPECT_EQ(json_get_or<int64_t>(object, "b", 7, "x").value(), 7);
  EXPECT_EQ(json_get_or<int64_t>(object, "d", 7, "x").value(), 7);
  EXPECT_FALSE(json_get_or<int64_t>(object, "c", 7, "x").ok());
}

}  // namespace
}  // namespace fourfold::files

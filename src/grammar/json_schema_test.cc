#include "grammar/json_schema.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "grammar/language_test.h"

namespace fourfold::grammar {
namespace {

using nlohmann::ordered_json;
using testing::HasSubstr;

Graph graph_of(const char* schema) {
  auto graph = schema_graph(ordered_json::parse(schema));
  EXPECT_TRUE(graph.ok()) << schema << ": " << graph.error().message;
  return std::move(graph).value();
}

struct Case {
  const char* schema;
  std::vector<const char*> good;
  std::vector<const char*> bad;
};

TEST(JsonSchema, AcceptsWhatAgreesAndNothingElse) {
  const std::vector<Case> cases = {
      {R"({"type": "integer"})", {"0", "-1", "1234567890123456789012"}, {"01", "-", "1.0", ""}},
      {R"({"type": "number"})",
       {"0", "-0.5", "12.25e-3", "1E9"},
       {".5", "1.", "1e", "+1", "00", "1e100"}},
      {R"({"type": "boolean"})", {"true", "false"}, {"True", "null"}},
      {R"({"type": ["string", "null"]})", {"\"a\"", "null"}, {"1"}},
      {R"({"type": "string"})",
       {R"("")", R"("a\n\u00e4\ud83d\ude00\"")", "\"\xF0\x9F\x98\x80\""},
       {"\"\n\"", R"("\x")", R"("\ud83d")", R"("\ude00")", "\"\xED\xA0\x80\"", "\"a"}},
      {R"({"type": "string", "minLength": 2, "maxLength": 3})",
       {R"("ab")", "\"\xC3\xA4\xE2\x82\xAC\xF0\x9F\x98\x80\"", R"("\n\u0041b")"},
       {R"("a")", R"("abcd")"}},
      {R"({"type": "string", "pattern": "^a+$"})", {R"("aa")"}, {R"("ab")", R"("")"}},
      {R"({"type": "string", "pattern": "b\"+"})", {R"("xxb\"y")", R"("b\"")"}, {R"("b")"}},
      {R"({"pattern": "^.\n?$"})", {R"("a\n")", R"("\"")", R"("\\")"}, {"\"a\n\"", R"("\n")"}},
      {R"({"enum": ["a", "ab", 1, null, {"x": [1, 2]}]})",
       {R"("ab")", "1", "null", R"({"x":[1,2]})", R"({ "x": [1, 2] })"},
       {R"("b")", "12", R"({"x":[1]})"}},
      {R"({"type": "string", "enum": ["a", 1]})", {R"("a")"}, {"1"}},
      {R"({"const": "é\n"})", {R"("é\n")"}, {R"("e")"}},
      {R"({"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "null"}}]})",
       {"1", "[]", "[null]", "[null, null]"},
       {"[1]", "[null,]", "null"}},
      {R"({"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 3})",
       {"[1,2]", "[ 1, 2, 3 ]", "[\n  1,\n  2\n]"},
       {"[1]", "[1,2,3,4]", "[1 ,2]", "[1,,2]"}},
      {R"({"type": "array", "maxItems": 0})", {"[]"}, {"[1]"}},
      {R"({"prefixItems": [{"type": "integer"}, {"type": "string"}], "items": false})",
       {"[]", "[1]", R"([1,"a"])"},
       {R"(["a"])", R"([1,"a",2])"}},
      {R"({"prefixItems": [{"type": "integer"}], "minItems": 2})", {"[1,null,{}]"}, {"[1]"}},
      {R"({"type": "object"})",
       {"{}", R"({"a":1,"b":{"c":[true,{}]}})", "{\n  \"a\": {}\n}"},
       {"[]", R"({"a"})", R"({"a":1,})", R"({a:1})"}},
      {R"({"properties": {"a": {"type": "integer"}, "b": {"type": "string"}, "c": {}},
           "required": ["b"]})",
       {R"({"b":"x"})", R"({"a":1,"b":"x","c":[null]})", R"({ "a": 1, "b": "x" })"},
       {"{}", R"({"a":1})", R"({"b":1})", R"({"b":"x","d":1})", R"({,"b":"x"})"}},
      {R"({"properties": {"a": {"type": "integer"}, "ab": {}}, "additionalProperties":
           {"type": "boolean"}})",
       {"{}", R"({"x":true})", R"({"a":1,"x":true,"aa":false})",
        R"({"":true,"é":true,"abc":true})"},
       {R"({"x":1})", R"({"a":true})", R"({"x":true,"a":true})", R"({"\u0061":true})"}},
      {R"({"type": "object", "required": ["x"], "additionalProperties": {"type": "integer"}})",
       {R"({"x":1})", R"({"x":1,"y":2})"},
       {"{}", R"({"y":1})", R"({"x":null})"}},
      {R"({"minimum": 5, "type": "integer"})", {"5", "10", "99999"}, {"4", "-7", "05"}},
      {R"({"minimum": -12, "maximum": 105, "type": "integer"})",
       {"-12", "-9", "0", "7", "99", "100", "105"},
       {"-13", "-20", "106", "200", "1000"}},
      {R"({"exclusiveMinimum": 9, "exclusiveMaximum": 21, "type": "integer"})",
       {"10", "19", "20"},
       {"9", "21", "1"}},
      {R"({"maximum": -3, "type": "integer"})", {"-3", "-10", "-999"}, {"-2", "0", "3"}},
      {R"({"minimum": 0, "maximum": 1, "type": "number"})",
       {"0", "0.0", "0.75", "1", "1.00"},
       {"1.01", "-0.5", "2", "0.5e1"}},
      {R"({"exclusiveMinimum": 0, "exclusiveMaximum": 3, "type": "number"})",
       {"0.01", "1", "2.99"},
       {"0", "0.0", "3", "3.0", "-1"}},
      {R"({"minimum": -2, "exclusiveMaximum": 0, "type": "number"})",
       {"-2", "-2.0", "-0.5", "-1.5"},
       {"-2.1", "0", "-0.0", "1"}},
      {R"({"format": "date"})",
       {R"("2024-02-29")", R"("1999-12-31")", R"("2000-02-29")"},
       {R"("2023-02-29")", R"("1900-02-29")", R"("2024-04-31")", R"("2024-13-01")"}},
      {R"({"format": "date-time"})",
       {R"("2024-02-29T23:59:59Z")", R"("2024-01-01T00:00:00.123+01:00")"},
       {R"("2024-01-01")", R"("2024-01-01T24:00:00Z")"}},
      {R"({"format": "uuid"})", {R"("123e4567-e89b-12d3-a456-426614174000")"}, {R"("123e4567")"}},
      {R"({"format": "ipv4"})", {R"("255.0.10.99")"}, {R"("256.0.0.1")", R"("01.0.0.1")"}},
      {R"({"format": "email"})", {R"("a.b@c-d.org")"}, {R"("a@b")", R"("a b@c.org")"}},
      {R"({"$ref": "#/$defs/node", "$defs": {"node": {"type": "object", "properties":
           {"v": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#/$defs/node"},
           {"type": "null"}]}}, "required": ["v", "next"]}}})",
       {R"({"v":1,"next":null})", R"({"v":1,"next":{"v":2,"next":null}})"},
       {R"({"v":1})", R"({"v":1,"next":{}})"}},
      {R"({"anyOf": [{"$ref": "#"}, {"type": "null"}]})", {"null"}, {"1"}},
      {R"({"allOf": [{"type": "null"}], "title": "t", "x-note": 1})", {"null"}, {"1"}},
      {R"({"items": {"type": "integer", "minLength": 3}})", {"[1]"}, {R"(["a"])"}},
      {"true", {"null", "[]", R"({"a":"b"})"}, {""}},
  };
  for (const Case& c : cases) {
    const Graph graph = graph_of(c.schema);
    for (const char* text : c.good) EXPECT_TRUE(accepts(graph, text)) << c.schema << " " << text;
    for (const char* text : c.bad) EXPECT_FALSE(accepts(graph, text)) << c.schema << " " << text;
  }
}

TEST(JsonSchema, NamesWhatItDoesNotSupportAndWhere) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"not": {}})", "not at #"},
      {R"({"properties": {"a": {"items": {"multipleOf": 3}}}})",
       "multipleOf at #/properties/a/items"},
      {R"({"anyOf": [{}, {"patternProperties": {}}]})", "patternProperties at #/anyOf/1"},
      {R"({"allOf": [{}, {}]})", "allOf of several"},
      {R"({"$ref": "#/$defs/x"})", "$ref at # to #/$defs/x"},
      {R"({"$ref": "http://a/b"})", "$ref at #"},
      {R"({"$defs": {"x": {}}, "$ref": "#/$defs/x", "minLength": 1})", "minLength beside $ref"},
      {R"({"type": "string", "format": "hostname"})", "the format hostname"},
      {R"_({"type": "string", "pattern": "a(?=b)"})_", "(pattern at #)"},
      {R"({"type": "string", "pattern": "a", "maxLength": 3})", "a length beside"},
      {R"({"type": "number", "minimum": 0.5})", "minimum of 0.5"},
      {R"({"type": "integer", "maximum": 1e15})", "maximum of"},
      {R"({"type": "text"})", "type at #"},
      {R"({"type": []})", "type at #"},
      {R"({"enum": [1], "minimum": 0})", "minimum beside enum"},
      {R"({"items": [{}]})", "schema at #/items"},
      {R"({"uniqueItems": true})", "uniqueItems"},
      {R"({"zeal": 1})", "zeal at #"},
      {R"({"properties": {"a": {"$id": "x"}}})", "$id at #/properties/a"},
      {R"({"type": "string", "maxLength": -1})", "maxLength at #"},
      {R"({"$ref": "#"})", "no text agrees"},
      {R"({"enum": []})", "no text agrees"},
      {"false", "no text agrees"},
      {R"({"type": "array", "minItems": 3, "maxItems": 2})", "no text agrees"},
      {R"({"type": "integer", "minimum": 3, "maximum": 2})", "no text agrees"},
      {R"({"required": ["a"], "properties": {}, "additionalProperties": false})", "no text agrees"},
      {R"({"type": "string", "minLength": 1000000})", "too large"},
      {"3", "neither object nor boolean"},
  };
  for (const auto& [schema, says] : cases) {
    const auto graph = schema_graph(ordered_json::parse(schema));
    ASSERT_FALSE(graph.ok()) << schema;
    EXPECT_THAT(graph.error().message, HasSubstr(says)) << schema;
  }
}

TEST(JsonSchema, NestsAsDeepAsJsonIsReadHereAndNeverGetsStuck) {
  const Graph graph = json_object_graph();
  const auto nested = [](int depth) {
    std::string text = "{}";
    for (int i = 1; i < depth; ++i) text = "{\"a\":" + text + "}";
    return text;
  };
  EXPECT_TRUE(accepts(graph, nested(20)));
  EXPECT_FALSE(accepts(graph, nested(80)));
  // A brace may be opened only where the rest can still be closed.
  Machine machine(std::make_shared<const Graph>(graph));
  machine.allow_work(kPlentyOfWork);
  Machine::State state = machine.start();
  std::string closing;
  for (int i = 0; i < 1000; ++i) {
    Machine::State next = machine.next(state, '{');
    if (next == Machine::kDead) break;
    for (const char c : std::string_view("\"a\":")) {
      next = machine.next(next, static_cast<uint8_t>(c));
      ASSERT_NE(next, Machine::kDead);
    }
    state = next;
    closing += '}';
  }
  state = machine.next(state, '1');
  for (const char c : closing) {
    ASSERT_NE(state, Machine::kDead);
    state = machine.next(state, static_cast<uint8_t>(c));
  }
  ASSERT_NE(state, Machine::kDead);
  EXPECT_TRUE(machine.complete(state));
}

// Each of them calls the others without a byte between: as many stacks of calls as there are ways.
TEST(JsonSchema, SchemasThatAreUnionsOfEachOtherAreNoTrouble) {
  ordered_json schema = {{"$ref", "#/$defs/a0"}, {"$defs", ordered_json::object()}};
  for (int i = 0; i < 8; ++i) {
    ordered_json any = ordered_json::array({{{"const", i}}});
    for (int j = 0; j < 8; ++j) any.push_back({{"$ref", "#/$defs/a" + std::to_string(j)}});
    any.push_back({{"type", "array"}, {"items", {{"$ref", "#/$defs/a" + std::to_string(i)}}}});
    schema["$defs"]["a" + std::to_string(i)] = {{"anyOf", any}};
  }
  const auto graph = schema_graph(schema);
  ASSERT_TRUE(graph.ok()) << graph.error().message;
  EXPECT_TRUE(accepts(*graph, "[[7],3,[]]"));
  EXPECT_FALSE(accepts(*graph, "[8]"));
}

TEST(JsonSchema, ManyOptionalMembersAndWideUnionsAreNoTrouble) {
  ordered_json schema = {{"type", "object"}, {"properties", ordered_json::object()}};
  for (int i = 0; i < 500; ++i) {
    schema["properties"]["member" + std::to_string(i)] = {{"type", "integer"}};
  }
  const auto graph = schema_graph(schema);
  ASSERT_TRUE(graph.ok());
  EXPECT_TRUE(accepts(*graph, R"({"member3":1,"member77":2,"member499":3})"));
  EXPECT_FALSE(accepts(*graph, R"({"member77":1,"member3":2})"));
}

}  // namespace
}  // namespace fourfold::grammar

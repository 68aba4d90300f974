#include "serve/fields.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>

namespace fourfold::serve {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr Endpoint kAll[] = {Endpoint::kCompletions, Endpoint::kChat, Endpoint::kTokenize,
                             Endpoint::kDetokenize};

/// What has to be there.
json required_fields(Endpoint endpoint) {
  json out = json::object();
  for (const Field& field : fields()) {
    if (!field.required || (field.endpoints & in(endpoint)) == 0) continue;
    out[std::string(field.name)] = field.type == FieldType::kPrompt ? json("x") : json::array();
  }
  return out;
}

std::optional<ApiError> read(Endpoint endpoint, std::string_view name, const json& value) {
  json body = required_fields(endpoint);
  body[std::string(name)] = value;
  Fields out;
  return Fields::read(endpoint, body, &out);
}

/// Calls test(field, endpoint) for each field of each endpoint.
template <typename Test>
void for_each_field(Test test) {
  for (const Field& field : fields()) {
    for (const Endpoint endpoint : kAll) {
      if ((field.endpoints & in(endpoint)) != 0) test(field, endpoint);
    }
  }
}

TEST(FieldTable, SaysEachNameOnceAndExplainsIt) {
  std::set<std::pair<Endpoint, std::string_view>> seen;
  for_each_field([&](const Field& field, Endpoint endpoint) {
    EXPECT_TRUE(seen.emplace(endpoint, field.name).second) << field.name;
    EXPECT_EQ(find_field(endpoint, field.name), &field);
    EXPECT_FALSE(field.help.empty()) << field.name;
    EXPECT_TRUE(field.help.ends_with('.') || field.help.ends_with(')')) << field.name;
    if (!field.harmless.empty()) {
      EXPECT_TRUE(json::accept(field.harmless)) << field.name;
    }
    if (!std::isnan(field.fallback) && field.type != FieldType::kBoolean) {
      EXPECT_TRUE(field.fallback >= field.least && field.fallback <= field.most) << field.name;
    }
  });
}

TEST(Fields, OfAnotherTypeAreRefusedByName) {
  // No field takes all of these.
  const std::vector<json> values = {
      true, 1, 1.5, "x", json::array({1, "x"}), json::object({{"a", "b"}})};
  for_each_field([&](const Field& field, Endpoint endpoint) {
    if (field.type == FieldType::kNote || field.type == FieldType::kUnsupported) return;
    int refused = 0;
    for (const json& value : values) {
      const auto error = read(endpoint, field.name, value);
      if (!error) continue;
      ++refused;
      EXPECT_EQ(error->status, 400);
      EXPECT_EQ(error->param, field.name);
      EXPECT_THAT(error->message, HasSubstr(std::string(field.name)));
    }
    EXPECT_GE(refused, 3) << field.name;
  });
}

TEST(Fields, OutOfTheirRangeAreRefused) {
  for_each_field([&](const Field& field, Endpoint endpoint) {
    const bool whole = field.type == FieldType::kInteger;
    if (!whole && field.type != FieldType::kNumber) return;
    const auto at = [&](double number) {
      return whole ? json(static_cast<int64_t>(number)) : json(number);
    };
    if (std::abs(field.least) > 0x1p53) return;  // a seed: all 64 bits
    const double step = whole ? 1 : 1e-7;
    EXPECT_FALSE(read(endpoint, field.name, at(field.least))) << field.name;
    EXPECT_FALSE(read(endpoint, field.name, at(field.most))) << field.name;
    EXPECT_TRUE(read(endpoint, field.name, at(field.least - step))) << field.name;
    EXPECT_TRUE(read(endpoint, field.name, at(field.most + step))) << field.name;
  });
}

TEST(Fields, ThatAreNotSupportedAreRefusedUnlessTheyAskForNothing) {
  for_each_field([&](const Field& field, Endpoint endpoint) {
    if (field.type != FieldType::kUnsupported) return;
    const auto error = read(endpoint, field.name, "something");
    ASSERT_TRUE(error) << field.name;
    EXPECT_EQ(error->param, field.name);
    EXPECT_EQ(error->code, "unsupported_parameter");
    EXPECT_FALSE(read(endpoint, field.name, nullptr)) << field.name;
    if (!field.harmless.empty()) {
      EXPECT_FALSE(read(endpoint, field.name, json::parse(field.harmless))) << field.name;
    }
  });
}

TEST(Fields, ThatAreRequiredAreMissed) {
  for (const Endpoint endpoint : kAll) {
    const json all = required_fields(endpoint);
    for (const auto& [name, value] : all.items()) {
      for (const bool null : {false, true}) {
        json body = all;
        body.erase(name);
        if (null) body[name] = nullptr;
        Fields out;
        const auto error = Fields::read(endpoint, body, &out);
        ASSERT_TRUE(error);
        EXPECT_EQ(error->param, name);
        EXPECT_EQ(error->code, "missing_required_parameter");
      }
    }
  }
}

TEST(Fields, HaveTheirDefaultsWhereTheyAreAbsentOrNull) {
  Fields out;
  ASSERT_FALSE(Fields::read(Endpoint::kCompletions,
                            {{"prompt", "x"}, {"n", nullptr}, {"top_p", 0.5}, {"echo", true}},
                            &out));
  EXPECT_EQ(out.integer("n"), 1);
  EXPECT_EQ(out.integer("max_tokens"), 16);
  EXPECT_EQ(out.number("temperature"), 1);
  EXPECT_EQ(out.number("top_p"), 0.5);
  EXPECT_TRUE(out.boolean("echo"));
  EXPECT_FALSE(out.boolean("stream"));
  EXPECT_EQ(out.find("n"), nullptr);
}

TEST(Fields, KeepEveryBitOfASeed) {
  for (const int64_t seed : {std::numeric_limits<int64_t>::min(), int64_t{-1},
                             (int64_t{1} << 53) + 1, std::numeric_limits<int64_t>::max()}) {
    Fields out;
    ASSERT_FALSE(Fields::read(Endpoint::kCompletions, {{"prompt", "x"}, {"seed", seed}}, &out));
    EXPECT_EQ(out.integer("seed"), seed);
  }
}

TEST(Fields, ThatNobodyKnowsAreListed) {
  Fields out;
  ASSERT_FALSE(
      Fields::read(Endpoint::kCompletions, {{"prompt", "x"}, {"b", 1}, {"a", nullptr}}, &out));
  EXPECT_THAT(out.unknown(), ElementsAre("a", "b"));
  EXPECT_TRUE(Fields::read(Endpoint::kCompletions, json::array(), &out));
}

}  // namespace
}  // namespace fourfold::serve

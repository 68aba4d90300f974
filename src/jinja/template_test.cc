#include "jinja/template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

namespace fourfold::jinja {
namespace {

using testing::HasSubstr;
namespace fs = std::filesystem;

const fs::path kGolden = fs::path(FOURFOLD_SOURCE_DIR) / "tests/golden";

const nlohmann::ordered_json kNoNames = nlohmann::ordered_json::object();

std::string text_of(const fs::path& path) {
  std::ifstream file(path);
  EXPECT_TRUE(file) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

/// tools/make_template_golden.py.
const nlohmann::ordered_json& golden() {
  static const auto kJson = nlohmann::ordered_json::parse(text_of(kGolden / "chat_templates.json"));
  return kJson;
}

base::Result<std::string> render(const std::string& source, const nlohmann::ordered_json& names,
                                 const Template::Limits& limits = {}) {
  const auto parsed = Template::parse(source, limits);
  if (!parsed.ok()) return parsed.error();
  return parsed->render(from_json(names).dict(), /*now_unix_s=*/1'700'000'000);
}

/// Expects what transformers made of a template, null where it refused.
void expect_as_oracle(const std::string& source, const nlohmann::ordered_json& names,
                      const nlohmann::ordered_json& expected) {
  const auto got = render(source, names);
  if (expected.is_null()) {
    EXPECT_FALSE(got.ok()) << *got;
  } else {
    ASSERT_TRUE(got.ok()) << got.error().message;
    EXPECT_EQ(*got, expected.get<std::string>());
  }
}

TEST(Template, GivesTheBytesOfTransformersForEveryTemplateAndConversation) {
  const auto& conversations = golden().at("conversations");
  ASSERT_GE(golden().at("templates").size(), 40U);
  ASSERT_EQ(conversations.size(), 10U);
  for (const auto& [name, texts] : golden().at("templates").items()) {
    const std::string source = text_of(kGolden / "chat_templates" / (name + ".jinja"));
    for (size_t i = 0; i < conversations.size(); ++i) {
      SCOPED_TRACE(name + ", conversation " + std::to_string(i));
      expect_as_oracle(source, conversations[i], texts[i]);
    }
  }
}

TEST(Template, GivesTheBytesOfTransformersForEveryFeature) {
  for (const auto& pair : golden().at("small")) {
    SCOPED_TRACE(pair[0]);
    expect_as_oracle(pair[0], golden().at("names"), pair[1]);
  }
}

TEST(Template, RefusesWhatTransformersRefuses) {
  for (const std::string source : golden().at("refused")) {
    SCOPED_TRACE(source);
    const auto got = render(source, golden().at("names"));
    EXPECT_FALSE(got.ok()) << *got;
  }
}

TEST(Template, ErrorsNameTheLineAndWhatIsWrong) {
  const auto message = [](const std::string& source) {
    const auto got = render(source, golden().at("names"));
    return got.ok() ? *got : got.error().message;
  };
  EXPECT_THAT(message("a\nb {{ 1 + }}"), HasSubstr("line 2: unexpected }}"));
  EXPECT_THAT(message("{% if x %}"), HasSubstr("expected {% endif %}"));
  EXPECT_THAT(message("\n\n{{ 'a' | nofilter }}"),
              HasSubstr("line 3: there is no filter \"nofilter\""));
  EXPECT_THAT(message("{{ nothing.at_all }}"), HasSubstr("'nothing' is undefined"));
  EXPECT_THAT(message("{{ raise_exception('only user and assistant') }}"),
              HasSubstr("only user and assistant"));
  EXPECT_THAT(message("{% import 'x' as y %}"), HasSubstr("{% import %}"));
}

TEST(Template, KeepsItsLimits) {
  const Template::Limits limits{.steps = 10'000, .bytes = 1 << 20, .source_bytes = 10'000};
  const auto refused = [&](const std::string& source, const std::string& why) {
    const auto got = render(source, kNoNames, limits);
    ASSERT_FALSE(got.ok()) << source.substr(0, 60);
    EXPECT_THAT(got.error().message, HasSubstr(why)) << source.substr(0, 60);
  };
  refused("{% for i in range(1000000000) %}{% endfor %}", "steps");
  refused("{% for i in range(99) %}{% for j in range(99) %}x{% endfor %}{% endfor %}", "steps");
  refused("{{ 'x' * 1000000000 }}", "too much text");
  refused("{{ [1] * 1000000000 }}", "too much text");
  refused(
      "{% set ns = namespace(s='x') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}"
      "{% endfor %}",
      "too much text");
  refused("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "nested");
  refused("{{ " + std::string(2000, '(') + "1" + std::string(2000, ')') + " }}", "nested");
  refused("{{ " + std::string(3000, '-') + "1 }}", "nested");
  std::string ifs;
  for (int i = 0; i < 500; ++i) ifs += "{% if 1 %}";
  refused(ifs, "nested");
  refused(std::string(20'000, 'x'), "bytes");
  refused("{% set ns = namespace() %}{% set ns.a = [ns] %}{{ ns }}", "nested");
  refused(
      "{% set ns = namespace(l=[]) %}{% for i in range(2000) %}{% set ns.l = [ns.l] %}{% endfor %}",
      "nested");
  EXPECT_EQ(*render("{% set ns = namespace(n=none) %}{% for i in range(2000) %}"
                    "{% set ns.n = namespace(n=ns.n) %}{% endfor %}ok",
                    kNoNames),
            "ok");
  const std::string doubled =
      "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}"
      "{% endfor %}";
  refused(doubled + "{{ ns.l }}", "too long");
  refused(doubled + "{{ ns.l | tojson }}", "too long");
  refused(doubled + "{% set l = ns.l %}" + doubled + "{{ ns.l == l }}", "compared");
  refused("{{ 9223372036854775807 + 1 }}", "too large");
  refused("{{ 99999999999999999999 }}", "too large");
}

TEST(Template, TellsTheTimeItIsGiven) {
  EXPECT_EQ(*render("{{ strftime_now('%Y') }}", kNoNames), "2023");
}

}  // namespace
}  // namespace fourfold::jinja

// docs/serve.md has the tables that the server is made of.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <sstream>

#include "serve/api.h"
#include "serve/fields.h"
#include "serve/metrics.h"

namespace fourfold::serve {
namespace {

using testing::HasSubstr;

std::string document() {
  std::ostringstream text;
  text << std::ifstream(FOURFOLD_SOURCE_DIR "/docs/serve.md").rdbuf();
  return text.str();
}

std::string number(double value) {
  return value == std::floor(value) && std::abs(value) < 1e15
             ? fmt::format("{}", static_cast<int64_t>(value))
             : fmt::format("{}", value);
}

/// "0 to 2", or nothing.
std::string range(const Field& field) {
  const bool ranged = field.type == FieldType::kInteger || field.type == FieldType::kNumber ||
                      field.type == FieldType::kBiases;
  if (!ranged) return "";
  if (field.most > 0x1p53) return "64 bits";
  return number(field.least) + " to " +
         (field.most == std::numeric_limits<int32_t>::max() ? "2^31 - 1" : number(field.most));
}

std::string fallback(const Field& field) {
  if (field.required) return "required";
  if (std::isnan(field.fallback)) return "";
  if (field.type == FieldType::kBoolean) return field.fallback != 0 ? "true" : "false";
  return number(field.fallback);
}

std::string endpoints(const Field& field) {
  constexpr std::pair<Endpoint, const char*> kNames[] = {{Endpoint::kCompletions, "completions"},
                                                         {Endpoint::kChat, "chat"},
                                                         {Endpoint::kTokenize, "tokenize"},
                                                         {Endpoint::kDetokenize, "detokenize"}};
  std::string out;
  for (const auto& [endpoint, name] : kNames) {
    if ((field.endpoints & in(endpoint)) != 0) out += (out.empty() ? "" : ", ") + std::string(name);
  }
  return out;
}

std::string routes_table() {
  std::string out = "| path | method | key | what it is |\n| --- | --- | --- | --- |\n";
  for (const Route& route : routes()) {
    out += fmt::format("| `{}` | {} | {} | {} |\n", route.path, route.method,
                       route.open ? "no" : "yes", route.help);
  }
  return out;
}

std::string fields_table() {
  std::string out = "| field | of | range | default | meaning |\n| --- | --- | --- | --- | --- |\n";
  for (const Field& field : fields()) {
    if (field.type == FieldType::kUnsupported) continue;
    out += fmt::format("| `{}` | {} | {} | {} | {} |\n", field.name, endpoints(field), range(field),
                       fallback(field), field.help);
  }
  return out;
}

std::string unsupported_table() {
  std::string out = "| field | of | accepted | what it would be |\n| --- | --- | --- | --- |\n";
  for (const Field& field : fields()) {
    if (field.type != FieldType::kUnsupported) continue;
    const std::string harmless =
        field.harmless.empty() ? "null" : fmt::format("null, `{}`", field.harmless);
    out += fmt::format("| `{}` | {} | {} | {} |\n", field.name, endpoints(field), harmless,
                       field.help);
  }
  return out;
}

/// What /metrics says of itself: a row for each series.
std::string metrics_table() {
  const std::string page = Metrics().page({.model = "m", .groups = {{}}, .block_size = 16});
  std::string out = "| series | type | what it is |\n| --- | --- | --- |\n";
  std::istringstream lines(page);
  std::string help;
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string mark;
    std::string kind;
    std::string name;
    words >> mark >> kind >> name;
    if (kind == "HELP") std::getline(words >> std::ws, help);
    std::string type;
    if (kind == "TYPE" && words >> type) {
      out += fmt::format("| `{}` | {} | {} |\n", name, type, help);
    }
  }
  return out;
}

TEST(Documentation, HasTheTablesOfRoutesAndFields) {
  const std::string text = document();
  for (const std::string& table :
       {routes_table(), fields_table(), unsupported_table(), metrics_table()}) {
    EXPECT_NE(text.find(table), text.npos) << "docs/serve.md should have:\n" << table;
  }
}

}  // namespace
}  // namespace fourfold::serve

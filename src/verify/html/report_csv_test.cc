#include "verify/html/report_csv.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <string>
#include <vector>

namespace fourfold::verify {
namespace {

using Json = nlohmann::ordered_json;
using Row = std::vector<std::string>;

/// A reader of RFC 4180.
std::vector<Row> parse(const std::string& csv) {
  std::vector<Row> out = {{""}};
  bool quoted = false;
  for (size_t i = 0; i < csv.size(); ++i) {
    std::string& field = out.back().back();
    if (quoted) {
      if (csv[i] != '"') {
        field += csv[i];
      } else if (csv.compare(i, 2, "\"\"") == 0) {
        field += csv[i++];
      } else {
        quoted = false;
      }
    } else if (csv[i] == '"') {
      quoted = true;
    } else if (csv[i] == ',') {
      out.back().emplace_back();
    } else if (csv.compare(i, 2, "\r\n") == 0) {
      out.push_back({""});
      ++i;
    } else {
      field += csv[i];
    }
  }
  out.pop_back();
  return out;
}

/// Field of the row `row` in the column `name`.
std::string at(const std::vector<Row>& table, size_t row, const std::string& name) {
  const auto column = std::find(table[0].begin(), table[0].end(), name);
  if (column == table[0].end()) {
    ADD_FAILURE() << "no column " << name;
    return "";
  }
  return table[row][static_cast<size_t>(column - table[0].begin())];
}

/// The scalars in `value`, by path with dots; series are left out.
void leaves(const Json& value, const std::string& path, std::map<std::string, Json>* out) {
  if (value.is_object()) {
    for (const auto& [key, child] : value.items()) {
      leaves(child, path.empty() ? key : path + "." + key, out);
    }
  } else if (!value.is_array()) {
    out->emplace(path, value);
  }
}

TEST(ToCsv, HasOneRowForEachSchemeAndLoadPointAndOneForASchemeWithout) {
  const Json report = {{"schemes",
                        {{{"scheme", "tp1"}, {"loads", {{{"point", "c1"}}, {{"point", "c8"}}}}},
                         {{"scheme", "tp3"}, {"legal", false}, {"loads", Json::array()}}}}};
  const std::vector<Row> table = parse(to_csv(report));
  ASSERT_EQ(table.size(), 4U);
  EXPECT_EQ(at(table, 1, "point"), "c1");
  EXPECT_EQ(at(table, 2, "point"), "c8");
  EXPECT_EQ(at(table, 2, "scheme"), "tp1");
  EXPECT_EQ(at(table, 3, "legal"), "false");
  EXPECT_EQ(at(table, 3, "point"), "");
  for (const Row& row : table) EXPECT_EQ(row.size(), table[0].size());
}

TEST(ToCsv, QuotesFieldsThatHoldCommasQuotesOrLineEnds) {
  const std::string reason = "tp 3, \"heads\" 32;\r\nnearest: tp2";
  const Json report = {{"schemes", {{{"scheme", "tp3"}, {"reason", reason}}}}};
  const std::string csv = to_csv(report);
  EXPECT_THAT(csv, testing::HasSubstr("\"tp 3, \"\"heads\"\" 32;\r\nnearest: tp2\""));
  EXPECT_EQ(at(parse(csv), 1, "reason"), reason);
}

TEST(ToCsv, HoldsEveryFigureOfAFullReportExactly) {
  std::ifstream file(FOURFOLD_SOURCE_DIR "/tests/report/eight_schemes.json");
  const Json report = Json::parse(file);
  const std::vector<Row> table = parse(to_csv(report));
  size_t row = 0;
  for (Json scheme : report["schemes"]) {
    const Json loads = scheme["loads"];
    for (size_t i = 0; i < std::max<size_t>(1, loads.size()); ++i) {
      ++row;
      std::map<std::string, Json> expected;
      if (i < loads.size()) leaves(loads[i], "", &expected);
      leaves(scheme, "", &expected);
      for (const auto& [name, value] : expected) {
        // What is null may stand for an object, whose names the columns have.
        if (value.is_null()) continue;
        ASSERT_LT(row, table.size());
        EXPECT_EQ(at(table, row, name),
                  value.is_string() ? value.get<std::string>() : value.dump());
      }
    }
  }
  EXPECT_EQ(row + 1, table.size());
}

}  // namespace
}  // namespace fourfold::verify

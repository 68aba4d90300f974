#include "verify/html/report_html.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "verify/html/markup.h"

namespace fourfold::verify {
namespace {

using Json = nlohmann::ordered_json;
using testing::HasSubstr;
using testing::Not;

Json report_with(const Json& scheme) {
  return {{"schema", 2}, {"model", {{"name", "tiny"}}}, {"schemes", Json::array({scheme})}};
}

TEST(FormatNumber, ShowsAboutThreeDigits) {
  EXPECT_EQ(format_number(0, Unit::kFigure), "0");
  EXPECT_EQ(format_number(0.012345, Unit::kFigure), "0.0123");
  EXPECT_EQ(format_number(1.2345, Unit::kFigure), "1.23");
  EXPECT_EQ(format_number(12.345, Unit::kFigure), "12.3");
  EXPECT_EQ(format_number(1234567.8, Unit::kFigure), "1,234,568");
  EXPECT_EQ(format_number(-123456, Unit::kCount), "-123,456");
  EXPECT_EQ(format_number(1536, Unit::kBytes), "1.50 KiB");
  EXPECT_EQ(format_number(57.2 * (1LL << 30), Unit::kBytes), "57.2 GiB");
  EXPECT_EQ(format_number(7.41e14, Unit::kLarge), "741 T");
  EXPECT_EQ(format_number(1.131, Unit::kRatio), "1.13 ×");
}

TEST(FormatNumber, NeverShowsAShareBelowOneAsTheWhole) {
  EXPECT_EQ(format_number(1, Unit::kShare), "100 %");
  EXPECT_EQ(format_number(0.99996, Unit::kShare), "99.996 %");
  EXPECT_EQ(format_number(0.123, Unit::kShare), "12.3 %");
  EXPECT_EQ(format_number(0, Unit::kShare), "0 %");
}

TEST(FormatLike, TakesTheDecimalsOfTheReference) {
  EXPECT_EQ(format_like(0.4321, 12.3), "0.4");
  EXPECT_EQ(format_like(0.4321, 1.23), "0.43");
}

TEST(Node, IsTracedFromTheNearestAnchor) {
  const Json report = {{"schemes", {{{"loads", {{{"metrics", {{"ttft_ms", 7}}}}}}}}}};
  const Node load = Node(report).at("schemes/0").anchored().at("loads/0").anchored();
  EXPECT_EQ(load.at_attribute(), " data-at=\"/schemes/0/loads/0\"");
  EXPECT_EQ(load.at("metrics/ttft_ms").pointer(), "metrics/ttft_ms");
  EXPECT_EQ(load.at("metrics/ttft_ms").number(), 7);
}

TEST(Node, ReadsWhatIsNotThereAsNull) {
  const Json report = {{"list", {1}}, {"name", "tiny"}, {"none", nullptr}};
  const Node root(report);
  for (const char* path : {"absent", "list/1", "list/x", "list/-1", "name/0", "none/a"}) {
    EXPECT_FALSE(root.at(path).number()) << path;
    EXPECT_TRUE(root.at(path).json().is_null()) << path;
  }
}

TEST(Escape, LeavesNoWayOutOfTextOrAttribute) {
  EXPECT_EQ(escape("<a href='x' & \"y\">"), "&lt;a href=&#39;x&#39; &amp; &quot;y&quot;&gt;");
}

TEST(ScriptJson, HoldsNoEndOfItsElementAndReadsBackEqual) {
  const Json hostile = {{"name", "</script><!--<script>"}};
  const std::string out = script_json(hostile);
  EXPECT_THAT(out, Not(HasSubstr("<")));
  EXPECT_EQ(Json::parse(out), hostile);
}

TEST(ScriptJson, ReplacesBytesThatAreNoUtf8) {
  EXPECT_EQ(Json::parse(script_json({{"name", "a\xff"}}))["name"], "a\xef\xbf\xbd");
}

TEST(Fill, PutsEachSlotOnce) { EXPECT_EQ(fill("a {{b}} c", {{"b", "{{d}}"}}), "a {{d}} c"); }

TEST(ToHtml, RefusesWhatIsNoReportOfItsSchema) {
  for (const Json& report : {Json(3), Json::object(), Json{{"schema", 1}, {"schemes", {}}},
                             Json{{"schema", 2}, {"schemes", 7}}}) {
    const auto html = to_html(report);
    ASSERT_FALSE(html.ok());
    EXPECT_THAT(html.error().message, HasSubstr("\"schema\": 2"));
  }
}

TEST(ToHtml, KeepsHostileStringsText) {
  const std::string attack = "</script></title><script>alert(1)</script><img src=x onerror=\"a\">";
  Json load = {{"point", attack}, {"invalid_reason", attack}, {"valid", false}};
  Json scheme = {{"scheme", attack},  {"legal", false},  {"reason", attack},
                 {"failure", attack}, {"loads", {load}}, {"start_command", attack}};
  Json report = report_with(scheme);
  report["model"]["name"] = attack;
  report["laws"] = {{{"statement", attack}, {"verdict", attack}, {"evidence", attack}}};
  report["definitions"] = {{attack, attack}};
  report["command"] = attack;
  const auto html = to_html(report);
  ASSERT_TRUE(html.ok());
  EXPECT_THAT(*html, Not(HasSubstr("<script>alert")));
  EXPECT_THAT(*html, Not(HasSubstr("<img")));
}

TEST(ToHtml, ShowsAReportWithoutAnyFigure) {
  const auto html = to_html({{"schema", 2}, {"schemes", Json::array()}});
  ASSERT_TRUE(html.ok());
  EXPECT_THAT(*html, HasSubstr("Every scheme ran."));
}

TEST(ToHtml, TellsASaturatedPointFromAMissingFigure) {
  const Json load = {{"point", "c8"}, {"saturated", true}};
  EXPECT_THAT(*to_html(report_with({{"scheme", "tp2"}, {"loads", {load}}})),
              HasSubstr("capacity exceeded"));
  const Json missing = {{"point", "c8"}, {"saturated", false}};
  EXPECT_THAT(*to_html(report_with({{"scheme", "tp2"}, {"loads", {missing}}})),
              Not(HasSubstr("capacity exceeded")));
}

TEST(ToHtml, HasASectionOfExpertsOnlyWhereTheModelHasSome) {
  Json load = {{"point", "c8"}, {"experts", nullptr}};
  EXPECT_THAT(*to_html(report_with({{"scheme", "dp2"}, {"loads", {load}}})),
              Not(HasSubstr("id=\"experts\"")));
  load["experts"] = {{"binds", "moving rows"},
                     {"layers", {{{"layer", 1}, {"rows", {4, 8}}}, {{"layer", 2}}}}};
  const auto html = to_html(report_with({{"scheme", "dp2ep2"}, {"loads", {load}}}));
  EXPECT_THAT(*html, HasSubstr("id=\"experts\""));
  EXPECT_THAT(*html, HasSubstr("moving rows"));
  EXPECT_THAT(*html, HasSubstr("M0 50V25h1V0h1V50z"));
}

TEST(ToHtml, SaysThatARunWasInterrupted) {
  Json report = report_with({{"scheme", "tp2"}, {"loads", {{{"point", "c8"}}}}});
  EXPECT_THAT(*to_html(report), Not(HasSubstr("was interrupted")));
  report["interrupted"] = true;
  EXPECT_THAT(*to_html(report), HasSubstr("The run was interrupted"));
}

TEST(ToHtml, MarksSchemesWhoseDevicesShareCores) {
  const Json load = {{"point", "c8"}};
  for (const bool shares : {true, false}) {
    const auto html =
        to_html(report_with({{"scheme", "tp2"}, {"shares_cores", shares}, {"loads", {load}}}));
    EXPECT_EQ(html->find("† has more devices") != std::string::npos, shares);
    EXPECT_EQ(html->find("its devices take turns") != std::string::npos, shares);
  }
}

TEST(ToHtml, SurvivesValuesOfAnotherKindThanExpected) {
  for (const Json& odd :
       {Json("text"), Json(7), Json::array({1, "x"}), Json{{"a", 1}}, Json(1e308)}) {
    Json load = {{"point", odd}};
    for (const char* key : {"metrics", "efficiency", "kv", "comm", "step_share", "distributions",
                            "timeline", "saturated", "valid", "device_busy", "experts"}) {
      load[key] = odd;
    }
    Json report = report_with({{"scheme", odd},
                               {"loads", {load, odd}},
                               {"memory_bytes", odd},
                               {"answers", odd},
                               {"fast_answers", odd}});
    report["schemes"].push_back(odd);
    for (const char* key :
         {"winners", "winners_by_point", "laws", "definitions", "machine", "load", "peaks"}) {
      report[key] = odd;
    }
    EXPECT_TRUE(to_html(report).ok()) << odd.dump();
  }
}

}  // namespace
}  // namespace fourfold::verify

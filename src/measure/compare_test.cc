#include "measure/compare.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace fourfold::measure {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::SizeIs;

Results results(std::vector<double> decode, std::vector<double> ttft) {
  Results out{.kind = "offline", .cpu = "A", .isa = "cpu/avx2", .cores = 2};
  Figure rate{.name = "decode_tok_s c1", .unit = "tok/s", .limit = "read bandwidth"};
  for (const double value : decode) rate.samples.push_back({.value = value, .ceiling = 2 * value});
  Figure latency{.name = "ttft_ms c1", .unit = "ms", .better = Better::kLower};
  for (const double value : ttft) latency.samples.push_back({.value = value});
  out.figures = {rate, latency};
  return out;
}

TEST(Compare, CallsOnlyADifferenceBeyondTheRepeatsSignificant) {
  const auto table =
      compare(results({100, 101, 99}, {10, 20, 30}), results({80, 81, 79}, {12, 22, 32}));
  ASSERT_TRUE(table.ok());
  ASSERT_THAT(table->figures, SizeIs(2));
  EXPECT_TRUE(table->figures[0].significant);
  EXPECT_NEAR(table->figures[0].gain, 0.8, 1e-9);
  EXPECT_FALSE(table->figures[1].significant);
}

TEST(Compare, AGainIsBetterWhetherHigherOrLowerIs) {
  const auto table = compare(results({100, 100.1}, {20, 20.1}), results({200, 200.1}, {10, 10.1}));
  EXPECT_NEAR(table->figures[0].gain, 2, 0.01);
  EXPECT_NEAR(table->figures[1].gain, 2, 0.02);
}

TEST(Compare, OneRepeatProvesNothing) {
  EXPECT_FALSE(compare(results({100}, {1}), results({50}, {2}))->figures[0].significant);
}

TEST(Compare, WorseThanCountsWhatIsSignificantlyWorseByMore) {
  const auto table = compare(results({100, 100.1}, {10, 10.1}), results({94, 94.1}, {10.2, 10.3}));
  EXPECT_THAT(table->worse_than(5), SizeIs(1));
  EXPECT_THAT(table->worse_than(7), SizeIs(0));
}

TEST(Compare, NamesWhatElseDiffersAndWhatOnlyOneHas) {
  Results other = results({1, 1}, {1, 1});
  other.cpu = "B";
  other.figures[1].name = "tpot_ms c1";
  const auto table = compare(results({1, 1}, {1, 1}), other);
  EXPECT_THAT(table->differences, ElementsAre("cpu: A and B"));
  EXPECT_THAT(table->only_before, ElementsAre("ttft_ms c1"));
  EXPECT_THAT(table->only_after, ElementsAre("tpot_ms c1"));
}

TEST(Compare, RefusesResultsOfTwoKinds) {
  Results other = results({1}, {1});
  other.kind = "ops";
  EXPECT_THAT(compare(results({1}, {1}), other).error().message, HasSubstr("cannot be compared"));
}

TEST(Figure, RatioIsTheShareOfTheCeilingInEachSample) {
  Figure figure{.name = "x", .unit = "ms", .better = Better::kLower};
  figure.samples = {{.value = 10, .ceiling = 5.0}, {.value = 10, .ceiling = 10.0}};
  EXPECT_DOUBLE_EQ(*figure.ratio(), 0.75);
  figure.samples.push_back({.value = 1});
  EXPECT_FALSE(figure.ratio());
}

TEST(Results, ReadBackFromTheirJsonAreTheSame) {
  Results written = results({100, 110}, {10, 11});
  written.command = "fourfold bench offline";
  const auto read = results_from_json(to_json(written), "out.json");
  ASSERT_TRUE(read.ok()) << read.error().message;
  EXPECT_EQ(to_json(*read), to_json(written));
}

TEST(Results, OfAnotherSchemaOrWithoutSamplesAreRefused) {
  nlohmann::json json = to_json(results({1}, {1}));
  json["results"][0]["samples"] = nlohmann::json::array();
  EXPECT_THAT(results_from_json(json, "a.json").error().message,
              HasSubstr("a.json: decode_tok_s c1 has no list of samples"));
  json["schema"] = 2;
  EXPECT_THAT(results_from_json(json, "a.json").error().message, HasSubstr("schema 2"));
}

}  // namespace
}  // namespace fourfold::measure

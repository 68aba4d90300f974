#include "text/stop_strings.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace fourfold::text {
namespace {

StopChecker checker(std::vector<std::string> stops, bool include_stop = false) {
  auto result = StopChecker::create(std::move(stops), include_stop);
  CHECK(result.ok(), "{}", result.error().message);
  return *std::move(result);
}

TEST(StopStrings, HoldsBackWhatMayBeginAStop) {
  StopChecker stops = checker({"\n\nUser:"});
  EXPECT_EQ(stops.push("Hello\n").text, "Hello");
  EXPECT_EQ(stops.push("\nUse").text, "");
  EXPECT_EQ(stops.push("ful").text, "\n\nUseful");
  EXPECT_EQ(stops.push(" \n").text, " ");
  EXPECT_EQ(stops.flush(), "\n");
  EXPECT_EQ(stops.flush(), "");
}

TEST(StopStrings, FindsAStopAcrossPieces) {
  StopChecker stops = checker({"<end>", "STOP"});
  EXPECT_EQ(stops.push("abS").text, "ab");
  const auto output = stops.push("TOPxyz");
  EXPECT_EQ(output.text, "");
  EXPECT_EQ(output.stop, 1u);
  EXPECT_EQ(stops.push("more").text, "");
  EXPECT_EQ(stops.flush(), "");
}

TEST(StopStrings, MayIncludeTheStop) {
  StopChecker stops = checker({"."}, /*include_stop=*/true);
  EXPECT_EQ(stops.push("One. Two.").text, "One.");
}

TEST(StopStrings, TheMatchThatEndsFirstCounts) {
  StopChecker ends_first = checker({"abcd", "bc"});
  auto output = ends_first.push("xabcd");
  EXPECT_EQ(output.text, "xa");
  EXPECT_EQ(output.stop, 1u);
  StopChecker begins_first = checker({"c", "abc"});
  output = begins_first.push("xabc");
  EXPECT_EQ(output.text, "x");
  EXPECT_EQ(output.stop, 1u);
}

TEST(StopStrings, NoStopsLetEverythingThrough) {
  StopChecker stops = checker({});
  EXPECT_EQ(stops.push("abc").text, "abc");
}

TEST(StopStrings, RefusesAnEmptyStop) { EXPECT_FALSE(StopChecker::create({"a", ""}, false).ok()); }

TEST(StopStrings, TheCutsOfTheTextDoNotMatter) {
  std::mt19937 random(5);
  const auto word = [&](size_t length) {
    std::string out(length, 'a');
    for (char& c : out) c = static_cast<char>('a' + random() % 2);
    return out;
  };
  int stopped = 0;
  for (int round = 0; round < 5000; ++round) {
    std::vector<std::string> stops(1 + random() % 3);
    for (std::string& stop : stops) stop = word(2 + random() % 5);
    const bool include_stop = random() % 2 == 0;
    const std::string text = word(random() % 40);

    // By definition: the smallest end, then the smallest begin.
    std::string expected = text;
    bool found = false;
    for (size_t end = 1; end <= text.size() && !found; ++end) {
      for (size_t begin = 0; begin < end && !found; ++begin) {
        if (std::ranges::find(stops, text.substr(begin, end - begin)) == stops.end()) continue;
        expected = text.substr(0, include_stop ? end : begin);
        found = true;
      }
    }

    StopChecker stop_checker = checker(stops, include_stop);
    std::string streamed;
    std::optional<size_t> stop;
    for (size_t at = 0; at < text.size() && !stop;) {
      const size_t length = 1 + random() % 5;
      const auto output = stop_checker.push(std::string_view(text).substr(at, length));
      streamed += output.text;
      stop = output.stop;
      at += length;
    }
    streamed += stop_checker.flush();
    ASSERT_EQ(streamed, expected) << text;
    ASSERT_EQ(stop.has_value(), found);
    stopped += found;
  }
  EXPECT_GT(stopped, 1000);
  EXPECT_LT(stopped, 4900);
}

}  // namespace
}  // namespace fourfold::text

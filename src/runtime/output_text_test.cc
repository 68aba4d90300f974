#include "runtime/output_text.h"

#include <gtest/gtest.h>

#include "runtime/load_tokenizer.h"

namespace fourfold::runtime {
namespace {

using engine::FinishReason;

class OutputTextTest : public testing::Test {
 protected:
  OutputTextTest()
      : tokenizer_(load_tokenizer(model::open_model("tiny", false, 0).value()).value()) {}

  /// The text of "In the beginning God" followed by the end token, and after how many tokens it
  /// ended.
  std::pair<std::string, int64_t> run(const OutputText::Options& options) {
    OutputText output = OutputText::create(tokenizer_, options).value();
    std::vector<int32_t> tokens = tokenizer_.encode("In the beginning God", false).value();
    tokens.push_back(*tokenizer_.eos());
    std::string text;
    for (size_t i = 0; i < tokens.size(); ++i) {
      engine::SequenceEvent event;
      event.token.emplace().token = tokens[i];
      if (i + 1 == tokens.size()) event.finish = FinishReason::kStop;
      text += output.push(event).text;
    }
    EXPECT_TRUE(output.ended());
    return {text, output.tokens()};
  }

  text::Tokenizer tokenizer_;
};

TEST_F(OutputTextTest, IsThatOfItsTokensWithoutTheOneThatEndsIt) {
  EXPECT_EQ(run({}).first, "In the beginning God");
  EXPECT_EQ(run({.skip_special = false}).first, "In the beginning God");
  EXPECT_EQ(run({.include_stop = true, .skip_special = false}).first,
            "In the beginning God<|end_of_text|>");
}

TEST_F(OutputTextTest, EndsBeforeAStopStringOrBehindIt) {
  const int64_t all = run({}).second;
  EXPECT_EQ(run({.stops = {"ginn", "zz"}}).first, "In the be");
  EXPECT_LT(run({.stops = {"ginn"}}).second, all);
  EXPECT_EQ(run({.stops = {"ginn"}, .include_stop = true}).first, "In the beginn");
}

TEST_F(OutputTextTest, HasNoStopStringAmongTheFirstTokens) {
  EXPECT_EQ(run({.stops = {"n"}, .min_tokens = 0}).first, "I");
  const int32_t all = static_cast<int32_t>(run({}).second);
  EXPECT_EQ(run({.stops = {"n"}, .min_tokens = all}).first, "In the beginning God");
}

TEST_F(OutputTextTest, GivesOutWhatAStopStringMightHaveBegun) {
  EXPECT_EQ(run({.stops = {"God!"}}).first, "In the beginning God");
}

TEST(OutputText, RefusesAnEmptyStopString) {
  const auto tokenizer = load_tokenizer(model::open_model("tiny", false, 0).value()).value();
  EXPECT_FALSE(OutputText::create(tokenizer, {.stops = {""}}).ok());
}

}  // namespace
}  // namespace fourfold::runtime

#include "model/dummy_routing.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "model/families_test_support.h"

namespace fourfold::model {
namespace {

using testing::HasSubstr;

constexpr int64_t kExperts = 8;

/// Rows of router logits, no two alike.
std::vector<float> logits_of(int64_t rows) {
  std::vector<float> out(static_cast<size_t>(rows * kExperts));
  for (size_t i = 0; i < out.size(); ++i) out[i] = std::sin(static_cast<float>(i));
  return out;
}

std::vector<float> replaced(const DummyRouting& routing, std::vector<float> logits) {
  const auto ops = backend::make_ops("reference", "").value();
  const auto stream = ops->make_stream(1, {});
  const auto rows = static_cast<int64_t>(logits.size()) / kExperts;
  tensor::Arena host{tensor::Buffer()};
  replace_router_logits(routing, *ops, *stream, host,
                        {logits.data(), tensor::DType::kF32, {rows, kExperts}});
  return logits;
}

/// How many of `rows` rows like each expert best.
std::vector<double> first_choices(const DummyRouting& routing, int64_t rows) {
  const std::vector<float> logits = replaced(routing, logits_of(rows));
  std::vector<double> out(kExperts);
  for (auto row = logits.begin(); row != logits.end(); row += kExperts) {
    ++out[static_cast<size_t>(std::max_element(row, row + kExperts) - row)];
  }
  return out;
}

TEST(DummyRouting, IsReadAsItIsWritten) {
  for (const char* text : {"natural", "uniform", "zipf:0.5", "zipf:1.2"}) {
    EXPECT_EQ(to_string(parse_dummy_routing(text).value()), text);
  }
  EXPECT_TRUE(parse_dummy_routing("natural").value().natural);
  EXPECT_EQ(parse_dummy_routing("uniform").value().exponent, 0);
  for (const char* text :
       {"", "zipf", "zipf:", "zipf:x", "zipf:1x", "zipf:0", "zipf:-1", "zipf:nan", "zipf:1e9"}) {
    EXPECT_THAT(error_of(parse_dummy_routing(text)), HasSubstr("expected natural, uniform or zipf"))
        << text;
  }
}

TEST(DummyRouting, NaturalLeavesTheLogitsAlone) {
  EXPECT_EQ(replaced({}, logits_of(5)), logits_of(5));
}

TEST(DummyRouting, DependsOnTheRowAlone) {
  const DummyRouting uniform{.natural = false};
  const std::vector<float> all = replaced(uniform, logits_of(16));
  const std::vector<float> logits = logits_of(16);
  const std::vector<float> last(all.end() - kExperts, all.end());
  EXPECT_EQ(replaced(uniform, std::vector<float>(logits.end() - kExperts, logits.end())), last);
  EXPECT_NE(std::vector<float>(all.begin(), all.begin() + kExperts), last);
  for (const float x : all) ASSERT_TRUE(std::isfinite(x));
}

// The rows are fixed, so these cannot fail by chance; the tolerance is five standard deviations of
// a sample of this size.
TEST(DummyRouting, UniformPrefersNoExpert) {
  constexpr int64_t kRows = 40000;
  const double expected = kRows / static_cast<double>(kExperts);
  for (const double count : first_choices({.natural = false}, kRows)) {
    EXPECT_NEAR(count, expected, 5 * std::sqrt(expected));
  }
}

TEST(DummyRouting, ZipfFallsWithThePowerOfTheExpert) {
  constexpr int64_t kRows = 40000;
  constexpr double kExponent = 1.2;
  double sum = 0;
  for (int64_t e = 1; e <= kExperts; ++e) sum += std::pow(static_cast<double>(e), -kExponent);
  const std::vector<double> counts =
      first_choices({.natural = false, .exponent = kExponent}, kRows);
  for (int64_t e = 0; e < kExperts; ++e) {
    const double expected = kRows * std::pow(static_cast<double>(e + 1), -kExponent) / sum;
    EXPECT_NEAR(counts[static_cast<size_t>(e)], expected, 5 * std::sqrt(expected)) << e;
  }
}

TEST(DummyRouting, IsForMadeUpWeightsOfModelsWithExperts) {
  const DummyRouting uniform{.natural = false};
  EXPECT_THAT(error_of(open_model("tiny", /*dummy=*/false, 0, uniform)),
              HasSubstr("is for made-up weights"));
  EXPECT_THAT(error_of(open_model("llama-1b", /*dummy=*/true, 0, uniform)),
              HasSubstr("needs a model with experts; this one is dense"));
  const auto source = open_model("mixtral-8x7b", /*dummy=*/true, 0, uniform);
  ASSERT_TRUE(source.ok()) << source.error().message;
  for (const LayerSpec& layer : source->spec.layers) {
    EXPECT_EQ(layer.experts.dummy_routing, uniform);
  }
}

}  // namespace
}  // namespace fourfold::model

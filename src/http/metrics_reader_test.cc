#include "http/metrics_reader.h"

#include <gtest/gtest.h>

#include <limits>

namespace fourfold::http {
namespace {

TEST(MetricsReader, ReadsSamplesWithTheirLabels) {
  const std::string page =
      "# HELP a b\n# TYPE a counter\n"
      "a 1\n"
      "vllm:b{engine=\"0\",model_name=\"x \\\"y\\\" } \\\\z\"} 2.5e3 1700000000\n"
      "c_bucket{le=\"+Inf\"} +Inf\n"
      "d{} -0.5";
  const std::vector<MetricSample> samples = read_metrics(page);
  ASSERT_EQ(samples.size(), 4u);
  EXPECT_EQ(samples[0].name, "a");
  EXPECT_EQ(samples[0].value, 1);
  EXPECT_EQ(samples[0].label("engine"), std::nullopt);
  EXPECT_EQ(samples[1].name, "vllm:b");
  EXPECT_EQ(samples[1].label("engine"), "0");
  EXPECT_EQ(samples[1].label("model_name"), "x \"y\" } \\z");
  EXPECT_EQ(samples[1].label("model"), std::nullopt);
  EXPECT_EQ(samples[1].value, 2500);
  EXPECT_EQ(samples[2].value, std::numeric_limits<double>::infinity());
  EXPECT_EQ(samples[3].value, -0.5);
}

TEST(MetricsReader, LeavesOutWhatIsNoSample) {
  for (const char* page : {"", "\n\n", "#", "a", "a ", "a x", "a 1x", "a{ 1", "a{b=\"} 1", " 1",
                           "{} 1", "a{}1", "a NaN", "a{b=\"\\", "a 1e999"}) {
    EXPECT_TRUE(read_metrics(page).empty()) << page;
  }
}

}  // namespace
}  // namespace fourfold::http

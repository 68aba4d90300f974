#include "load/trace.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

namespace fourfold::load {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::SizeIs;

constexpr char kHeader[] = "arrived_at,num_prefill_tokens,num_decode_tokens\n";

std::string error_of(const std::string& text, const TraceLimits& limits = {}) {
  const auto trace = parse_trace(text, "t", limits);
  return trace.ok() ? "" : trace.error().message;
}

TEST(Trace, ReadsMooncake) {
  const auto trace = parse_trace(
      R"({"timestamp": 27, "input_length": 600, "output_length": 52, "hash_ids": [46, 47]}
{"timestamp": 30.5, "input_length": 3, "output_length": 1})",
      "t");
  ASSERT_TRUE(trace.ok()) << trace.error().message;
  ASSERT_THAT(trace->records, SizeIs(2));
  EXPECT_DOUBLE_EQ(trace->records[0].arrival_s, 0.027);
  EXPECT_DOUBLE_EQ(trace->records[1].arrival_s, 0.0305);
  EXPECT_EQ(trace->records[0].input_tokens, 600);
  EXPECT_EQ(trace->records[0].output_tokens, 52);
  EXPECT_THAT(trace->blocks_of(trace->records[0]), ElementsAre(46, 47));
  EXPECT_THAT(trace->blocks_of(trace->records[1]), SizeIs(0));
}

TEST(Trace, ReadsAzure) {
  const auto trace = parse_trace(std::string(kHeader) + "0.0,4808,10\r\n0.052,3180,8\r\n", "t");
  ASSERT_TRUE(trace.ok()) << trace.error().message;
  ASSERT_THAT(trace->records, SizeIs(2));
  EXPECT_DOUBLE_EQ(trace->records[1].arrival_s, 0.052);
  EXPECT_EQ(trace->records[1].input_tokens, 3180);
  EXPECT_EQ(trace->records[1].output_tokens, 8);
  EXPECT_EQ(trace->records[1].line, 3);
}

TEST(Trace, ReadsAzuresOwnDates) {
  const std::string header = "TIMESTAMP,ContextTokens,GeneratedTokens\n";
  const auto trace = parse_trace(header +
                                     "2023-12-31 23:59:59.9680000,374,44\r\n"
                                     "2024-01-01 00:00:01,396,109\r\n",
                                 "t");
  ASSERT_TRUE(trace.ok()) << trace.error().message;
  ASSERT_THAT(trace->records, SizeIs(2));
  EXPECT_EQ(trace->records[0].arrival_s, 0);
  EXPECT_NEAR(trace->records[1].arrival_s, 1.032, 1e-6);
  EXPECT_EQ(trace->records[1].input_tokens, 396);
  EXPECT_EQ(trace->records[1].output_tokens, 109);
  for (const char* line :
       {"2023-02-30 00:00:00,1,1", "2023-01-01 24:00:00,1,1", "2023-01-01 00:60:00,1,1",
        "2023-01-01T00:00:00,1,1", "2023-01-01 00:00:00.,1,1", "2023-01-01 00:00:00.1e9,1,1",
        "2023-1-1 00:00:00,1,1", "2023-01-01 00:00:00,1", "12.5,1,1", ""}) {
    EXPECT_THAT(error_of(header + line + "\n"),
                AllOf(HasSubstr("t"), testing::AnyOf(HasSubstr("line 2: expected a time"),
                                                     HasSubstr("without requests"))))
        << line;
  }
  EXPECT_THAT(error_of(header + "2023-01-02 00:00:00,1,1\n2023-01-01 00:00:00,1,1\n"),
              HasSubstr("line 3"));
}

TEST(Trace, NamesTheLineThatLies) {
  const std::string good =
      R"({"timestamp": 9, "input_length": 5, "output_length": 5, "hash_ids": [1]})"
      "\n";
  const std::pair<std::string, const char*> json_cases[] = {
      {"{\"timestamp\": 9,", "t, line 2"},
      {"[1, 2]", "line 2"},
      {R"({"input_length": 5, "output_length": 5})", "timestamp"},
      {R"({"timestamp": 9, "input_length": "5", "output_length": 5})", "input_length"},
      {R"({"timestamp": 9, "input_length": 0, "output_length": 5})", "a length of 0 tokens"},
      {R"({"timestamp": 9, "input_length": 5, "output_length": -1})", "a length of -1 tokens"},
      {R"({"timestamp": 9, "input_length": 99999999, "output_length": 1})", "99999999 tokens"},
      {R"({"timestamp": 8, "input_length": 5, "output_length": 5})", "before the request above"},
      {R"({"timestamp": -1, "input_length": 5, "output_length": 5})", "since the trace's begin"},
      {R"({"timestamp": 1e999, "input_length": 5, "output_length": 5})", "line 2"},
      {R"({"timestamp": 9, "input_length": 513, "output_length": 5, "hash_ids": [1]})",
       "expected 2 \"hash_ids\""},
      {R"({"timestamp": 9, "input_length": 5, "output_length": 5, "hash_ids": 7})", "found 0"},
      {R"({"timestamp": 9, "input_length": 5, "output_length": 5, "hash_ids": [-1]})",
       "integers of 63 bits"},
      {R"({"timestamp": 9, "input_length": 5, "output_length": 5, "hash_ids": [0.5]})",
       "integers of 63 bits"},
      {R"({"timestamp": 9, "input_length": 5, "output_length": 5, "hash_ids": [18446744073709551615]})",
       "integers of 63 bits"},
  };
  for (const auto& [line, expected] : json_cases) {
    EXPECT_THAT(error_of(good + line), AllOf(HasSubstr("line 2"), HasSubstr(expected))) << line;
  }
  for (const char* line : {"1,2", "1,2,3,4", "x,2,3", "1,2,3.5", "1,,3", "nan,1,1", "1,2,0",
                           "99999999999999999999999,1,99999999999999999999", "1 ,2,3"}) {
    EXPECT_THAT(error_of(std::string(kHeader) + "0,1,1\n" + line), HasSubstr("t, line 3")) << line;
  }
}

TEST(Trace, RefusesWhatIsNoTrace) {
  EXPECT_THAT(error_of(""), HasSubstr("without requests"));
  EXPECT_THAT(error_of(kHeader), HasSubstr("without requests"));
  EXPECT_THAT(error_of("\x7f"
                       "ELF\n"),
              AllOf(HasSubstr("line 1"), HasSubstr("\\x7fELF")));
}

TEST(Trace, KeepsItsLimits) {
  std::string text = kHeader;
  for (int i = 0; i < 5; ++i) text += "0,1,1\n";
  EXPECT_EQ(error_of(text, {.max_records = 5}), "");
  EXPECT_THAT(error_of(text, {.max_records = 4}), HasSubstr("line 6: a trace has at most 4"));
  EXPECT_THAT(error_of(text, {.max_bytes = 20}), HasSubstr("at most 20"));
  EXPECT_THAT(error_of(text + std::string(100, '1'), {.max_line_bytes = 50}),
              HasSubstr("longer than 50 bytes"));
  EXPECT_THAT(
      error_of(R"({"timestamp": 9, "input_length": 513, "output_length": 5, "hash_ids": [1, 2]})",
               {.max_blocks = 1}),
      HasSubstr("at most 1 prefix blocks"));
}

TEST(Trace, CutAnywhereIsReadOrRefused) {
  const std::string text =
      R"({"timestamp": 27, "input_length": 600, "output_length": 52, "hash_ids": [46, 47]}
{"timestamp": 30, "input_length": 600, "output_length": 52, "hash_ids": [46, 47]})";
  for (size_t end = 0; end < text.size(); ++end) {
    const auto trace = parse_trace(std::string_view(text).substr(0, end), "t");
    EXPECT_EQ(trace.ok(), end == text.find('\n') || end == text.find('\n') + 1) << end;
  }
}

TEST(Trace, ReadsTheRecordedOnes) {
  const std::filesystem::path folder =
      std::filesystem::path(FOURFOLD_SOURCE_DIR) / ".." / "shared/data/traces";
  if (!std::filesystem::exists(folder))
    GTEST_SKIP() << "the public traces are not part of this project: " << folder;
  const auto mooncake = read_trace(folder / "mooncake_conversation.jsonl");
  ASSERT_TRUE(mooncake.ok()) << mooncake.error().message;
  EXPECT_THAT(mooncake->records, SizeIs(12031));
  const auto azure = read_trace(folder / "azure_code_2023.csv");
  ASSERT_TRUE(azure.ok()) << azure.error().message;
  EXPECT_THAT(azure->records, SizeIs(8819));
}

}  // namespace
}  // namespace fourfold::load

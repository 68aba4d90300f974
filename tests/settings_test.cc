// Flags from the command line, the environment and a settings file, by precedence.

#include "cli/settings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "cli/settings_file.h"

namespace fourfold::cli {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

/// A table of two commands with each kind of flag.
struct Table {
  CLI::App app{"", "fourfold"};
  std::string model;
  int input_len = 0;
  int rate = 0;
  std::vector<std::string> stop;
  bool cache = true;

  Table() {
    app.require_subcommand(1);
    CLI::App* run = app.add_subcommand("run");
    run->add_option("model,--model", model)->required();
    CLI::Option* length =
        run->add_option("--input-len", input_len)->check(CLI::Range(1, 100))->default_val(8);
    run->add_option("--request-rate", rate)->excludes(length);
    run->add_option("--stop", stop)->take_all()->allow_extra_args(false);
    run->add_flag("--cache,!--no-cache", cache);
    app.add_subcommand("other")->add_option("--depth", input_len);
    add_settings_flags(app);
  }
};

class Settings : public testing::Test {
 protected:
  ~Settings() override { std::filesystem::remove(path_); }

  void write(const std::string& text) { std::ofstream(path_) << text; }

  base::Result<Arguments> complete(std::vector<std::string> args,
                                   const std::vector<std::string>& environment = {}) {
    Table table;
    return complete_arguments(table.app, args, environment,
                              [this](const std::string& w) { warnings_.push_back(w); });
  }
  base::Result<Arguments> with_file(const std::string& text) {
    write(text);
    return complete({"run", "--config", path_});
  }

  std::string path_ = testing::TempDir() + "settings.yaml";
  std::vector<std::string> warnings_;
};

TEST_F(Settings, TheCommandLineBeatsTheEnvironmentAndTheEnvironmentBeatsTheFile) {
  write("model: from-file\ninput-len: 3\nstop: [a, b]\n");
  const auto all = complete({"run", "tiny", "--config", path_},
                            {"FOURFOLD_MODEL=from-environment", "FOURFOLD_INPUT_LEN=5"});
  ASSERT_TRUE(all.ok()) << all.error().message;
  EXPECT_THAT(all->args, ElementsAre("run", "--stop=a", "--stop=b", "--input-len=5", "tiny",
                                     "--config", path_));
  EXPECT_EQ(all->origins.at("input-len"), "FOURFOLD_INPUT_LEN");
  EXPECT_EQ(all->origins.at("stop"), path_ + ":3");
  EXPECT_FALSE(all->origins.contains("model"));
}

TEST_F(Settings, TheFileCanBeNamedByTheEnvironmentAndGiveARequiredArgument) {
  write("model: tiny\n");
  const auto all = complete({"run"}, {"FOURFOLD_CONFIG=" + path_});
  ASSERT_TRUE(all.ok()) << all.error().message;
  EXPECT_THAT(all->args, testing::Contains("--model=tiny"));
}

TEST_F(Settings, ParseToWhatTheSameFlagsWouldGive) {
  write("model: tiny\ncache: false\nstop: [a, \"b,c\"]\n");
  const auto all = complete({"run", "--config", path_});
  ASSERT_TRUE(all.ok()) << all.error().message;
  Table table;
  parse(table.app, all->args);
  EXPECT_EQ(table.model, "tiny");
  EXPECT_FALSE(table.cache);
  EXPECT_THAT(table.stop, ElementsAre("a", "b,c"));
}

TEST_F(Settings, AStrongerSourceRulesOutWhatItsFlagExcludes) {
  write("model: tiny\ninput-len: 3\n");
  const auto all = complete({"run", "--request-rate", "2", "--config", path_});
  ASSERT_TRUE(all.ok());
  EXPECT_FALSE(all->origins.contains("input-len"));
}

TEST_F(Settings, AnEmptyVariableIsNotSet) {
  EXPECT_THAT(complete({"run", "tiny"}, {"FOURFOLD_INPUT_LEN="})->origins, IsEmpty());
}

TEST_F(Settings, AVariableThatNothingReadsGetsAWarningWithTheNearest) {
  ASSERT_TRUE(complete({"run", "tiny"}, {"FOURFOLD_INPUT_LENGTH=5", "FOURFOLD_DEPTH=1",
                                         "FOURFOLD_FAULT=kill", "HOME=/"})
                  .ok());
  EXPECT_THAT(warnings_, ElementsAre(AllOf(HasSubstr("FOURFOLD_INPUT_LENGTH"),
                                           HasSubstr("did you mean FOURFOLD_INPUT_LEN?"))));
}

TEST_F(Settings, AWrongValueOfAVariableIsNamedByIt) {
  const auto all = complete({"run", "tiny"}, {"FOURFOLD_INPUT_LEN=many"});
  ASSERT_FALSE(all.ok());
  EXPECT_THAT(all.error().message, AllOf(HasSubstr("FOURFOLD_INPUT_LEN: "), HasSubstr("many")));
}

TEST_F(Settings, APrintedConfigurationReadsBackAsTheSame) {
  const std::vector<std::string> args = {"run",      "tiny",       "--stop=a: b",
                                         "--stop=#", "--no-cache", "--print-config"};
  Table table;
  parse(table.app, args);
  EXPECT_TRUE(wants_settings(chosen_command(table.app)));
  const std::string printed = effective_settings(chosen_command(table.app), {.args = args});
  EXPECT_THAT(printed,
              AllOf(HasSubstr("model: tiny  # command line"), HasSubstr("input-len: 8  # default"),
                    HasSubstr("# request-rate: not set")));
  const auto again = with_file(printed);
  ASSERT_TRUE(again.ok()) << again.error().message;
  Table read;
  parse(read.app, again->args);
  EXPECT_EQ(read.model, "tiny");
  EXPECT_FALSE(read.cache);
  EXPECT_EQ(read.stop, table.stop);
}

struct BadFile {
  const char* text;
  int line;
  const char* says;
};

class BadSettingsFile : public Settings, public testing::WithParamInterface<BadFile> {};

TEST_P(BadSettingsFile, IsRefusedWithFileAndLine) {
  const auto all = with_file(GetParam().text);
  ASSERT_FALSE(all.ok());
  EXPECT_THAT(all.error().message, AllOf(HasSubstr(fmt::format("{}:{}: ", path_, GetParam().line)),
                                         HasSubstr(GetParam().says)));
}

INSTANTIATE_TEST_SUITE_P(
    Cases, BadSettingsFile,
    testing::Values(BadFile{"model: tiny\ninput-length: 3\n", 2,
                            "no flag --input-length; did you mean input-len?"},
                    BadFile{"model: tiny\ndepth: 3\n", 2, "it is one of fourfold other"},
                    BadFile{"tp: 3\n", 1, "did you mean tensor-parallel-size?"},
                    BadFile{"input-len: long\n", 1, "long"}, BadFile{"input-len: 0\n", 1, "range"},
                    BadFile{"input-len: [1, 2]\n", 1, "1,2"},
                    BadFile{"cache: perhaps\n", 1, "expected true or false, found perhaps"},
                    BadFile{"model: a\n\ninput-len: 1\nmodel: b\n", 4,
                            "second time; line 1 was the first"},
                    BadFile{"cache: true\nno-cache: true\n", 2, "already set by"},
                    BadFile{"input-len:\n", 1, "has no value"},
                    BadFile{"model: \"\"\n", 1, "empty value"},
                    BadFile{"stop: []\n", 1, "empty list"}, BadFile{"model: {a: b}\n", 1, "nested"},
                    BadFile{"stop: [a, [b]]\n", 1, "a list stands where none can be"},
                    BadFile{"just text\n", 1, "expected lines such as"},
                    BadFile{"- a\n", 1, "list"}, BadFile{"model: &x tiny\n", 1, "anchors"},
                    BadFile{"model: *x\n", 1, "anchor"}, BadFile{"model: !!int 3\n", 1, "tags"},
                    BadFile{"model: tiny\n---\nmodel: tiny\n", 2, "second one"},
                    BadFile{"model: tiny\n  stop: a\n", 2, "illegal map value"},
                    BadFile{"config: other.yaml\n", 1, "another one"}));

TEST(SettingsFile, OfMoreThanOneMebibyteIsRefused) {
  const auto settings = parse_settings(std::string((1 << 20) + 1, '#'), "big.yaml");
  ASSERT_FALSE(settings.ok());
  EXPECT_THAT(settings.error().message, HasSubstr("at most 1048576 bytes"));
}

TEST(SettingsFile, DeepNestingIsRefusedAtItsFirstLevel) {
  EXPECT_FALSE(parse_settings("a: " + std::string(100'000, '['), "deep.yaml").ok());
  EXPECT_FALSE(parse_settings(std::string(100'000, '{'), "deep.yaml").ok());
}

TEST(SettingsFile, OfCommentsOnlySetsNothing) {
  EXPECT_THAT(*parse_settings("# nothing\n", "empty.yaml"), IsEmpty());
  EXPECT_THAT(*parse_settings("", "empty.yaml"), IsEmpty());
}

TEST_F(Settings, AMissingFileIsNamed) {
  const auto all = complete({"run", "tiny", "--config", "/no/such.yaml"});
  ASSERT_FALSE(all.ok());
  EXPECT_THAT(all.error().message, HasSubstr("/no/such.yaml: there is no such file"));
}

}  // namespace
}  // namespace fourfold::cli

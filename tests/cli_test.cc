// The program as a user meets it: what it prints, what it refuses and how.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>

#include "tests/support/command_line.h"

namespace fourfold::tests {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

/// A folder of its own that is gone afterwards.
class ScratchFolder {
 public:
  ScratchFolder() {
    std::string pattern = std::filesystem::temp_directory_path() / "fourfold-cli-XXXXXX";
    path_ = mkdtemp(pattern.data());
  }
  ~ScratchFolder() { std::filesystem::remove_all(path_); }
  std::string operator/(const std::string& name) const { return path_ / name; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

TEST(Generate, GivesTheSameTextForOneSeedWhateverTheScheme) {
  const std::string prompt = "generate tiny 'In the beginning' -n 32 --seed 5";
  const Outcome one = run(prompt);
  EXPECT_EQ(one.code, 0);
  EXPECT_THAT(one.text, HasSubstr("In the beginning"));
  for (const char* scheme : {" -tp 2 -pp 2", " -pp=3", " -tp 8 --ranks threads", " -dp 2"}) {
    const Outcome other = run(prompt + scheme);
    EXPECT_EQ(other.code, 0);
    EXPECT_EQ(other.text, one.text) << scheme;
  }
  EXPECT_NE(run("generate tiny 'In the beginning' -n 32 --seed 6").text, one.text);
}

TEST(Generate, PutsPromptsIntoAChatTemplate) {
  const std::string rest = " -n 16 --temperature 0";
  const std::string plain = run("generate tiny 'In the beginning'" + rest).text;
  const ScratchFolder folder;
  std::ofstream(folder / "joined")
      << "{{ bos_token }}{{ messages | map(attribute='content') | join(' ') }}";
  const std::string chat = rest + " --chat --chat-template " + folder / "joined";
  // The text behind the prompt that is shown.
  const auto answer = [](const std::string& text, const std::string& prompt) {
    return text.substr(text.find(prompt) + prompt.size());
  };
  const Outcome joined = run("generate tiny beginning --system 'In the'" + chat);
  EXPECT_EQ(joined.code, 0) << joined.text;
  EXPECT_EQ(answer(joined.text, "beginning"), answer(plain, "beginning"));
  std::ofstream(folder / "picky") << "{{ raise_exception('only about the weather') }}";
  const Outcome picky = run("generate tiny x --chat --chat-template " + folder / "picky");
  EXPECT_EQ(picky.code, 1);
  EXPECT_THAT(picky.text, HasSubstr("only about the weather"));
}

TEST(Generate, StopsBeforeAStopString) {
  const std::string prompt = "generate tiny 'In the beginning' -n 32 --temperature 0 --stop ";
  const std::string whole = run("generate tiny 'In the beginning' -n 32 --temperature 0").text;
  const Outcome cut = run(prompt + "'" + whole.substr(30, 3) + "'");
  EXPECT_EQ(cut.code, 0);
  EXPECT_EQ(cut.text, whole.substr(0, whole.find(whole.substr(30, 3), 16)) + "\n");
}

struct Refusal {
  int code;  ///< 2: the command line makes no sense; 1: it cannot be done
  std::string arguments;
  const char* says;
  const char* says_too;
};

class Refusals : public testing::TestWithParam<Refusal> {};

TEST_P(Refusals, AreOneClearMessageAndANonZeroExit) {
  const Outcome outcome = run(GetParam().arguments);
  EXPECT_EQ(outcome.code, GetParam().code);
  EXPECT_THAT(outcome.text, AllOf(HasSubstr("fourfold: "), HasSubstr(GetParam().says),
                                  HasSubstr(GetParam().says_too)));
  EXPECT_THAT(outcome.text, Not(HasSubstr("CHECK")));
}

INSTANTIATE_TEST_SUITE_P(
    Cli, Refusals,
    testing::Values(
        Refusal{1, "generate tiny x -tp 3", "tp must be 1, 2, 4 or 8", "nearest legal schemes"},
        Refusal{1, "generate tiny x -pp 9", "8 layers", "nearest legal schemes"},
        Refusal{2, "verify tiny --schemes tp2,tp0", "tp0", "a scheme looks like"},
        Refusal{1, "verify tiny --devices 4 --schemes tp2", "tp2 uses 2 devices", "4"},
        Refusal{1, "generate tiny x -ep 2", "needs a model with experts", "dense"},
        Refusal{1, "generate tiny x --enable-expert-parallel", "tiny is dense", "experts"},
        Refusal{1, "generate tiny-moe x -tp 2 -dp 3 -ep 4", "4 ranks neither divide tp2",
                "nearest legal schemes"},
        Refusal{1, "generate tiny-moe x -tp 2 -ep 4", "ep4 x etp1 = 4 ranks",
                "nearest legal schemes for 2 devices: tp2, tp2etp1, tp2ep2"},
        Refusal{1, "generate tiny-moe x -dp 3 --enable-expert-parallel",
                "no --expert-parallel-size from 2 to 3 is legal", "8 is not divisible by 3"},
        Refusal{1, "verify tiny-moe --schemes tp3ep3", "tp must be 1, 2, 4 or 8", "nearest"},
        Refusal{1, "verify tiny-moe --schemes dp3ep3", "8 experts", "3"},
        Refusal{2, "generate tiny-moe x -ep 2 --enable-expert-parallel", "excludes", "--help"},
        Refusal{2, "generate tiny-moe x --expert-exchange mail", "no exchange \"mail\"",
                "gather or alltoall"},
        Refusal{1, "generate tiny-moe x --expert-placement /no/such.json", "/no/such.json",
                "No such file"},
        Refusal{2, "generate tiny-moe x --dummy-routing zipf", "zipf:S", "\"zipf\""},
        Refusal{1, "generate tiny-moe x --dummy-routing uniform", "made-up weights",
                "--load-format dummy"},
        Refusal{2, "verify tiny --rate 2 --burstiness nan", "\"nan\"",
                "a number from 0.01 to 1000"},
        Refusal{2, "generate tiny x --min-p nan", "\"nan\"", "a number from 0 to 1"},
        Refusal{2, "verify tiny --seed -1", "\"-1\"", "number"},
        Refusal{1, "verify tiny --dry-run --json /tmp/x.json", "a dry run measures nothing",
                "x.json"},
        Refusal{1, "verify tiny --json /tmp/x --csv /tmp/x", "written twice", "a file each"},
        Refusal{1, "generate tiny x --expert-placement round_robin",
                "--expert-placement needs a model with experts", "tiny is dense"},
        Refusal{1, "verify tiny --devices 2 --expert-exchange alltoall",
                "--expert-exchange needs a model with experts", "tiny is dense"},
        Refusal{1, "generate tiny x --chat", "no chat template", "--chat-template FILE"},
        Refusal{2, "generate tiny x --system s", "--chat", "--system"},
        Refusal{1, "generate nosuch x", "\"nosuch\" was not found", "Hugging Face folder"},
        Refusal{1, "generate llama-3.1-8b x", "weights of llama-3.1-8b are not here",
                "--load-format dummy"},
        Refusal{1, "generate llama-3.1-8b x --load-format dummy", "has no tokenizer", "verify"},
        Refusal{1, "generate tiny '" + std::string(5000, 'x') + "'", "context of 1024",
                "shorten the prompt"},
        Refusal{1, "verify tiny --max-model-len 80", "96 tokens", "--max-model-len 80"},
        Refusal{2, "generate 'In the beginning'", "prompts is required", "--help"},
        Refusal{1, "generate tiny x -n 5000", "context of 1024", "lower -n"},
        Refusal{1, "generate tiny x --kv-cache-memory-bytes 1KiB", "1024 bytes",
                "raise --kv-cache-memory-bytes"},
        Refusal{2, "generate tiny x --kv-cache-memory-bytes lots", "not a size", "512MiB"},
        Refusal{2, "generate tiny x --temprature 0", "--temprature", "did you mean --temperature"},
        Refusal{1, "generate tiny x --isa sse", "'sse' is not available", "avx2"},
        Refusal{2, "generate tiny x --seed many", "--seed: \"many\"", "number"},
        Refusal{2, "verify tiny --concurrency 1,x", "--concurrency: \"1,x\"", "such as 1,8"},
        Refusal{1, "verify tiny --json /no/such/folder/x.json", "cannot be written", "folder"},
        Refusal{2, "bench", "a command is missing", "offline or ops or comm or serve or compare"},
        Refusal{2, "bench comm --devices 3", "--devices", "--help"},
        Refusal{1, "bench compare /no/a.json /no/b.json", "/no/a.json", "a.json"},
        Refusal{1, "bench ops tiny --context 5000", "context of 5001", "lower --context"},
        Refusal{2, "verify tiny --config /no/such.yaml", "/no/such.yaml", "no such file"},
        Refusal{2, "veryfy", "no command \"veryfy\"",
                "generate or serve or route or top or verify or bench"}));

TEST(Generate, SplitsExpertsAsFarAsTheyGo) {
  const Outcome one =
      run("generate tiny-moe 'In the beginning' -n 8 --temperature 0 --numerics invariant");
  EXPECT_EQ(one.code, 0) << one.text;
  const Outcome four =
      run("generate tiny-moe 'In the beginning' -n 8 --temperature 0 --numerics invariant --ranks "
          "threads -tp 2 -dp 2 "
          "--enable-expert-parallel --expert-placement round_robin --expert-exchange alltoall");
  EXPECT_EQ(four.code, 0) << four.text;
  EXPECT_EQ(four.text, one.text);
}

TEST(Settings, ReachACommandFromTheEnvironmentAndAFile) {
  const ScratchFolder folder;
  std::ofstream(folder / "run.yaml") << "model: tiny\nschemes: [tp2, pp2]\nseed: 1\n";
  const Outcome outcome =
      run("verify --repeats 2 --print-config",
          "FOURFOLD_SEED=7 FOURFOLD_REPEAT=1 FOURFOLD_CONFIG=" + (folder / "run.yaml"));
  EXPECT_EQ(outcome.code, 0);
  EXPECT_THAT(outcome.text,
              AllOf(HasSubstr("schemes: tp2,pp2  # " + (folder / "run.yaml") + ":2"),
                    HasSubstr("seed: 7  # FOURFOLD_SEED"), HasSubstr("repeats: 2  # command line"),
                    HasSubstr("did you mean FOURFOLD_REPEATS?")));
}

TEST(Settings, APrintedConfigurationIsTakenBack) {
  const ScratchFolder folder;
  const std::string file = folder / "printed.yaml";
  std::ofstream(folder / "trace.csv") << "arrived_at,num_prefill_tokens,num_decode_tokens\n0,4,4\n";
  for (const std::string& command :
       {std::string("verify tiny --dry-run"), std::string("verify tiny --rate 2 --dry-run"),
        "verify tiny --dry-run --trace " + (folder / "trace.csv"),
        std::string("bench offline tiny --repeats 2"), std::string("serve tiny --strict")}) {
    const Outcome printed = run(command + " --print-config");
    ASSERT_EQ(printed.code, 0) << printed.text;
    std::ofstream(file) << printed.text;
    const std::string name = command.substr(0, command.find(" tiny"));
    const Outcome again = run(name + " tiny --print-config --config " + file);
    EXPECT_EQ(again.code, 0) << command << ": " << again.text;
  }
}

TEST(Help, OfEveryCommandHasExamplesAndIsGivenByHelpToo) {
  for (const char* command : {"generate", "serve", "route", "verify", "bench offline", "bench ops",
                              "bench comm", "bench compare"}) {
    const Outcome outcome = run(std::string("help ") + command);
    EXPECT_EQ(outcome.code, 0) << command;
    EXPECT_THAT(outcome.text, AllOf(HasSubstr("Example"), HasSubstr("--print-config")));
    EXPECT_EQ(run(std::string(command) + " --help").text, outcome.text);
  }
}

/// A file of results with a ceiling beside every figure that is named.
void check_results(const std::string& path, const std::string& name) {
  const nlohmann::json results = nlohmann::json::parse(std::ifstream(path));
  EXPECT_EQ(results.at("schema"), 1);
  bool found = false;
  for (const nlohmann::json& figure : results.at("results")) {
    EXPECT_GT(figure.at("value"), 0) << figure;
    EXPECT_EQ(figure.at("samples").size(), 2U) << figure;
    if (figure.at("name") != name) continue;
    found = true;
    EXPECT_GT(figure.at("ceiling"), 0) << figure;
    EXPECT_GT(figure.at("ratio"), 0) << figure;
  }
  EXPECT_TRUE(found) << name;
}

TEST(Bench, WritesEveryFigureBesideItsCeilingAndComparesTwoFiles) {
  const ScratchFolder folder;
  const std::string json = " --repeats 2 --json " + (folder / "out.json");
  const Outcome offline =
      run("bench offline tiny -tp 2 --input-len 8 --output-len 4 --concurrency 1,2" + json);
  ASSERT_EQ(offline.code, 0) << offline.text;
  check_results(folder / "out.json", "prefill_tok_s c2");
  check_results(folder / "out.json", "decode_tok_s c2");
  const Outcome same = run("bench compare " + (folder / "out.json") + " " + (folder / "out.json") +
                           " --fail-over 0");
  EXPECT_EQ(same.code, 0) << same.text;
  EXPECT_THAT(same.text, AllOf(HasSubstr("within the noise"), Not(HasSubstr("WORSE"))));

  const Outcome ops = run("bench ops tiny --rows 1,80 --context 16" + json);
  ASSERT_EQ(ops.code, 0) << ops.text;
  check_results(folder / "out.json", "matmul gate+up m1");
  check_results(folder / "out.json", "attention m80");

  const Outcome moe = run("bench ops tiny-moe --rows 1 --context 16" + json);
  ASSERT_EQ(moe.code, 0) << moe.text;
  EXPECT_THAT(moe.text, Not(HasSubstr("unnamed")));
  check_results(folder / "out.json", "grouped gate+up m1");
  check_results(folder / "out.json", "matmul router m1");

  const Outcome comm = run("bench comm --sizes 4KiB" + json);
  ASSERT_EQ(comm.code, 0) << comm.text;
  for (const char* how : {"threads", "processes", "mpi"}) {
    check_results(folder / "out.json", std::string("all_reduce_us 4KiB ") + how);
  }
}

TEST(BadModels, AreRefusedBeforeAnythingLoads) {
  const std::string tiny = std::string(FOURFOLD_SOURCE_DIR) + "/models/tiny";
  const ScratchFolder folder;
  const auto copy = [&](const char* file) {
    std::filesystem::copy_file(tiny + "/" + file, folder / file,
                               std::filesystem::copy_options::overwrite_existing);
  };
  const std::string generate = "generate " + folder.path().string() + " x -n 4";
  EXPECT_THAT(run(generate).text, HasSubstr("has no config.json"));
  copy("config.json");
  EXPECT_THAT(run(generate).text, HasSubstr("model.safetensors"));
  copy("model.safetensors");
  EXPECT_THAT(run(generate).text, HasSubstr("has no tokenizer.json"));
  copy("tokenizer.json");
  EXPECT_EQ(run(generate).code, 0);

  std::filesystem::resize_file(folder / "model.safetensors", 1'000'000);
  const Outcome truncated = run(generate);
  EXPECT_EQ(truncated.code, 1);
  EXPECT_THAT(truncated.text, HasSubstr("model.safetensors"));
  copy("model.safetensors");

  const auto with_config = [&](const char* key, const nlohmann::json& value) {
    nlohmann::json config = nlohmann::json::parse(std::ifstream(tiny + "/config.json"));
    config[key] = value;
    std::ofstream(folder / "config.json") << config;
    const Outcome outcome = run(generate);
    EXPECT_EQ(outcome.code, 1) << key;
    return outcome.text;
  };
  std::ofstream(folder / "config.json") << "[]";
  EXPECT_EQ(run(generate).code, 1);
  EXPECT_THAT(with_config("architectures", {"MambaForCausalLM"}),
              AllOf(HasSubstr("MambaForCausalLM"), HasSubstr("LlamaForCausalLM")));
  EXPECT_THAT(with_config("hidden_size", "wide"), HasSubstr("hidden_size"));
  EXPECT_THAT(with_config("num_hidden_layers", 9), HasSubstr("layers.8"));
  EXPECT_THAT(with_config("hidden_act", "relu"), HasSubstr("\"silu\""));
  EXPECT_THAT(with_config("vocab_size", 1024), HasSubstr("[1021, 128], expected [1024, 128]"));
}

TEST(Processes, WithoutMpirunSayWhatToInstall) {
  const Outcome outcome = run("generate tiny x -tp 2", "PATH=/nowhere");
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.text, AllOf(HasSubstr("mpirun"), HasSubstr("openmpi-bin")));
}

TEST(Verify, DryRunListsSchemesWithMemoryAndLoadsNothing) {
  const Outcome outcome = run("verify llama-3.1-70b --devices 8 --dry-run");
  EXPECT_EQ(outcome.code, 0);
  EXPECT_THAT(outcome.text, AllOf(HasSubstr("tp8 "), HasSubstr("tp4pp2 "), HasSubstr("weights")));
}

TEST(Verify, DryRunSaysWhySchemesAreNotLegal) {
  const std::string gemma3 = std::string(FOURFOLD_SOURCE_DIR) + "/tests/golden/gemma3";
  const Outcome outcome = run("verify " + gemma3 + " --devices 8 --dry-run");
  EXPECT_EQ(outcome.code, 0);
  EXPECT_THAT(outcome.text, HasSubstr("4 heads"));
}

TEST(Verify, DryRunListsEverySchemeOfAModelWithExperts) {
  const Outcome legal = run("verify mixtral-8x7b --devices 8 --dry-run");
  EXPECT_EQ(legal.code, 0);
  EXPECT_THAT(legal.text, AllOf(HasSubstr("65 of 65 schemes legal"), HasSubstr("  tp8ep8 "),
                                HasSubstr("  tp2pp2dp2ep2etp2 "), Not(HasSubstr("Not legal"))));
  const Outcome some = run("verify mixtral-8x7b --devices 6 --dry-run");
  EXPECT_THAT(some.text, AllOf(HasSubstr("14 of 49 schemes legal"), HasSubstr("Not legal:"),
                               HasSubstr("8 is not divisible by 6")));
}

TEST(Verify, SaysWhereDevicesOutnumberCores) {
  EXPECT_THAT(run("verify tiny --devices 1024 --schemes pp8dp128 --dry-run").text,
              HasSubstr("1024 devices of 1 core each share"));
}

TEST(Verify, NamesNoBestTpotOfOutputsOfOneToken) {
  const Outcome outcome =
      run("verify tiny --schemes dp2 --concurrency 2 --input-len 8 --output-len 1 --repeats 2");
  EXPECT_EQ(outcome.code, 0) << outcome.text;
  EXPECT_THAT(outcome.text, AllOf(HasSubstr("best memory"), Not(HasSubstr("best TPOT"))));
}

std::string read_text(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST(Verify, LeavesNoFileWhereItHasNothingToWrite) {
  const ScratchFolder folder;
  const std::string file = folder / "out.json";
  EXPECT_NE(run("verify tiny --kv-cache-memory-bytes 1KiB --json " + file).code, 0);
  EXPECT_FALSE(std::filesystem::exists(file));
  std::ofstream(file) << "mine";
  EXPECT_NE(run("verify tiny --kv-cache-memory-bytes 1KiB --json " + file).code, 0);
  EXPECT_EQ(read_text(file), "mine");
}

TEST(Verify, WritesJsonCsvAndAPageOfTheSameRun) {
  const ScratchFolder folder;
  const Outcome outcome =
      run("verify tiny --schemes tp2,pp2 --concurrency 1,2 --input-len 16 --output-len 8 "
          "--repeats 2 --slo ttft=10s --json " +
          (folder / "out.json") + " --csv " + (folder / "out.csv") + " --report " +
          (folder / "out.html"));
  EXPECT_EQ(outcome.code, 0) << outcome.text;
  const nlohmann::ordered_json report =
      nlohmann::ordered_json::parse(std::ifstream(folder / "out.json"));
  EXPECT_EQ(report.at("schema"), 2);
  EXPECT_EQ(report.begin().key(), "schema") << "first, so that readers can check it early";
  EXPECT_EQ(report.at("schemes").size(), 3U);  // and the one device they are compared with
  bool all_valid = true;
  for (const nlohmann::ordered_json& scheme : report.at("schemes")) {
    for (const nlohmann::ordered_json& load : scheme.at("loads")) {
      all_valid = all_valid && load.at("valid").get<bool>();
    }
  }
  for (const nlohmann::ordered_json& scheme : report.at("schemes")) {
    EXPECT_TRUE(scheme.at("answers").at("equal")) << scheme;
    EXPECT_GT(scheme.at("answers").at("compared"), 0);
    EXPECT_GT(scheme.at("fast_answers").at("compared_tokens"), 0);
    EXPECT_EQ(scheme.at("loads").size(), 2U);
    EXPECT_GT(scheme.at("metrics").at("output_tok_s").at("mean"), 0);
    EXPECT_GT(scheme.at("mfu"), 0);
    EXPECT_GT(scheme.at("mbu"), 0);
    // A busy machine may make a load of so short requests invalid, and then there is none.
    const nlohmann::ordered_json& efficiency = scheme.at("efficiency").at("same_load");
    EXPECT_TRUE(efficiency.is_null() ? !all_valid : efficiency > 0) << efficiency;
    EXPECT_GE(scheme.at("timeline").size(), 1U);
    EXPECT_GT(scheme.at("memory_bytes").at("weights"), 0);
    EXPECT_THAT(scheme.at("start_command").get<std::string>(), HasSubstr("fourfold generate"));
    EXPECT_THAT(scheme.at("vllm_command").get<std::string>(), HasSubstr("vllm serve"));
    double time = 0;
    for (const auto& [name, share] : scheme.at("step_share").items()) time += share.get<double>();
    EXPECT_NEAR(time, 1, 0.05) << scheme.at("step_share");
    if (scheme.at("scheme") == "tp1") continue;
    const char* axis = scheme.at("tp") > 1 ? "tp" : "pp";
    EXPECT_GT(scheme.at("comm").at(axis).at("bytes"), 0) << scheme;
  }
  EXPECT_TRUE(report.at("winners").contains("memory"));
  EXPECT_EQ(report.at("laws").size(), 4U);
  EXPECT_TRUE(report.at("definitions").contains("mbu"));
  const std::string csv = read_text(folder / "out.csv");
  EXPECT_EQ(std::count(csv.begin(), csv.end(), '\n'), 1 + 3 * 2);
  EXPECT_THAT(read_text(folder / "out.html"), HasSubstr("<!DOCTYPE html>"));
}

TEST(Verify, MeasuresTheExchangeOfExperts) {
  const ScratchFolder folder;
  const Outcome outcome =
      run("verify tiny-moe --schemes tp2ep2,tp2ep2etp1,dp2ep2 --concurrency 1 --requests 2 "
          "--input-len 16 --output-len 8 --repeats 1 --json " +
          (folder / "out.json") + " --report " + (folder / "out.html"));
  EXPECT_EQ(outcome.code, 0) << outcome.text;
  EXPECT_THAT(outcome.text, AllOf(HasSubstr("ep comm"), HasSubstr("held up by"),
                                  HasSubstr("whose 8 experts took"), HasSubstr("-dp 2 -ep 2")));
  const nlohmann::json report = nlohmann::json::parse(std::ifstream(folder / "out.json"));
  ASSERT_EQ(report.at("schemes").size(), 3U) << "tp2ep2etp1 is another name of tp2ep2";
  for (const nlohmann::json& scheme : report.at("schemes")) {
    EXPECT_TRUE(scheme.at("answers").at("equal")) << scheme.at("scheme");
    EXPECT_GE(scheme.at("expert_imbalance"), 1);
    const nlohmann::json& experts = scheme.at("experts");
    EXPECT_EQ(experts.at("layers").size(), 3U);
    EXPECT_EQ(experts.at("layers").at(0).at("rows").size(), 8U);
    EXPECT_GE(experts.at("layers").at(0).at("imbalance"), 1);
    EXPECT_GT(experts.at("distinct_per_step"), 0);
    EXPECT_EQ(experts.at("zero_row_share"), scheme.at("dp") == 2 ? 0.5 : 0.0);
    if (scheme.at("ep") == 1) continue;
    EXPECT_GT(scheme.at("comm").at("ep").at("calls"), 0);
    EXPECT_GT(scheme.at("step_share").at("ep_move"), 0);
  }
  EXPECT_THAT(read_text(folder / "out.html"), HasSubstr("id=\"experts\""));
}

TEST(Verify, RunsRatesTurnsAndASearchWithinAnSlo) {
  const ScratchFolder folder;
  const Outcome outcome =
      run("verify tiny --schemes tp1 --rate 200 --turns 2 --shared-prefix 32 --input-len 8 "
          "--output-len 4 --requests 20 --repeats 1 --slo ttft=1s --find-rate --json " +
          (folder / "out.json"));
  EXPECT_EQ(outcome.code, 0) << outcome.text;
  const nlohmann::json report = nlohmann::json::parse(std::ifstream(folder / "out.json"));
  EXPECT_EQ(report.at("load").at("kind"), "poisson");
  const nlohmann::json& scheme = report.at("schemes").at(0);
  EXPECT_EQ(scheme.at("requests"), 40);
  EXPECT_EQ(scheme.at("point"), "200/s");
  EXPECT_GT(scheme.at("kv").at("hit_rate"), 0.5);
  EXPECT_GT(scheme.at("slo_rate").at("runs"), 0);
}

}  // namespace
}  // namespace fourfold::tests

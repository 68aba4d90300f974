// `fourfold verify --engine`: servers of another program are started, measured and ended, whatever
// they do. The other program is tests/support/fake_engine.py.

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "tests/support/command_line.h"
#include "tests/support/serve_process.h"

namespace fourfold {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class VerifyEngines : public ::testing::Test {
 protected:
  VerifyEngines()
      : folder_(fs::temp_directory_path() / ("ff_engines_" + std::to_string(getpid()))) {
    fs::create_directories(folder_);
  }
  ~VerifyEngines() override { fs::remove_all(folder_); }

  /// A command that finds only the fake by a name of this test's own.
  std::string arguments(const std::string& more) const {
    return "verify tiny --engine vllm --engine-command " + fake() +
           " --input-len 8 --output-len 4 --concurrency 2 --requests 4 --repeats 2 --json " +
           (folder_ / "out.json").string() + " " + more;
  }
  tests::Outcome verify(const std::string& more) const {
    return tests::run(arguments(more), "XDG_STATE_HOME=" + folder_.string());
  }
  /// Against servers that run already.
  tests::Outcome running(const std::string& more) const {
    return tests::run(
        "verify tiny --engine openai --input-len 8 --output-len 4 --concurrency 2 "
        "--requests 4 --repeats 2 --json " +
            (folder_ / "out.json").string() + " " + more,
        "XDG_STATE_HOME=" + folder_.string());
  }
  json report() const {
    std::ifstream file(folder_ / "out.json");
    return json::parse(file);
  }
  json scheme(const std::string& name) const {
    const json whole = report();
    for (const json& s : whole["schemes"]) {
      if (s["scheme"] == name) return s;
    }
    return nullptr;
  }
  /// The fake under a path of this test, by which its processes can be known.
  std::string fake() const {
    const fs::path link = folder_ / "fake_vllm";
    if (!fs::exists(fs::symlink_status(link))) {
      fs::create_symlink(FOURFOLD_SOURCE_DIR "/tests/support/fake_engine.py", link);
    }
    return link.string();
  }
  /// Processes that run this test's fake.
  int left_over() const {
    int count = 0;
    for (const auto& entry : fs::directory_iterator("/proc")) {
      std::ifstream file(entry.path() / "cmdline", std::ios::binary);
      std::string text((std::istreambuf_iterator<char>(file)), {});
      if (text.find(folder_.string() + "/fake_vllm" + '\0' + "serve") != std::string::npos) {
        ++count;
      }
    }
    return count;
  }
  template <typename Condition>
  static bool within(std::chrono::seconds limit, Condition condition) {
    const auto deadline = std::chrono::steady_clock::now() + limit;
    while (!condition()) {
      if (std::chrono::steady_clock::now() > deadline) return false;
      usleep(10'000);
    }
    return true;
  }
  fs::path folder_;
};

TEST_F(VerifyEngines, MeasuresEverySchemeAndComparesAnswers) {
  const auto out = verify("--schemes tp1,tp2,pp2 --engine-args \"--fake pp2=other\"");
  EXPECT_EQ(out.code, 0) << out.text;
  EXPECT_GT(scheme("vllm tp2")["metrics"]["ttft_ms"]["mean"], 0);
  EXPECT_EQ(scheme("vllm tp2")["loads"][0]["requests"], 8);
  EXPECT_EQ(scheme("vllm tp2")["answers_served"]["equal_answers"], 6);
  EXPECT_EQ(scheme("vllm pp2")["answers_served"]["equal_answers"], 0);
  EXPECT_TRUE(scheme("vllm pp2")["answers_served"]["differences"][0]["margin"].is_number());
  EXPECT_GT(scheme("vllm tp1")["resident_bytes"], 0);
  EXPECT_NE(out.text.find("Not interleaved"), std::string::npos) << out.text;
  EXPECT_EQ(left_over(), 0);
}

TEST_F(VerifyEngines, ReplicasAreInstancesBehindARouterOrTheEnginesOwn) {
  const auto instances = verify("--schemes dp2 --engine-args \"--fake dp2=crash\"");
  EXPECT_EQ(instances.code, 0) << instances.text;  // two servers, neither of which is dp2
  EXPECT_EQ(scheme("vllm dp2")["failure"], "");
  const auto engine = verify("--schemes dp2 --dp-mode engine --engine-args \"--fake dp2=crash\"");
  EXPECT_EQ(engine.code, 1);
  EXPECT_EQ(left_over(), 0);
}

TEST_F(VerifyEngines, ABadSchemeIsSaidInItsOwnWordsAndTheOthersGoOn) {
  const auto out = verify(
      "--schemes tp1,tp2,pp2,tp2pp2,dp2,tp2dp2 --dp-mode engine --start-timeout 10 --engine-args "
      "\"--fake tp2=crash,pp2=silent,tp2pp2=refuses,dp2=dies,tp2dp2=key\"");
  EXPECT_EQ(out.code, 1) << out.text;
  EXPECT_EQ(scheme("vllm tp1")["failure"], "");
  EXPECT_GT(scheme("vllm tp1")["metrics"]["ttft_ms"]["mean"], 0);
  const auto says = [&](const std::string& name, const std::string& words) {
    const std::string failure = scheme(name)["failure"];
    EXPECT_NE(failure.find(words), std::string::npos) << name << ": " << failure;
  };
  says("vllm tp2", "ValueError: 3 heads cannot be divided by 2");
  says("vllm pp2", "did not answer a request within 10 s");
  says("vllm tp2pp2", "lists its models, fails at the first request");
  says("vllm tp2pp2", "RuntimeError: no experts here");
  says("vllm dp2", "of 4 requests failed at c2");
  says("vllm dp2", "ValueError: the third stream was too much");
  says("vllm tp2dp2", "refuses the key");
  EXPECT_EQ(left_over(), 0);
}

TEST_F(VerifyEngines, WhatAnEngineCannotRunIsSaidBeforeItIsStarted) {
  const auto out = verify("--schemes tp1,tp2ep2");
  EXPECT_EQ(out.code, 0) << out.text;
  EXPECT_EQ(scheme("vllm tp2ep2")["legal"], false);
  EXPECT_NE(out.text.find("vllm tp2ep2 cannot run: vLLM on CPUs"), std::string::npos) << out.text;
}

TEST_F(VerifyEngines, ACommandThatIsNotThereAndAFlagThatSaysNothingAreErrors) {
  const auto missing = tests::run("verify tiny --engine sglang --schemes tp1",
                                  "PATH=/nowhere XDG_STATE_HOME=" + folder_.string());
  EXPECT_EQ(missing.code, 1);
  EXPECT_NE(missing.text.find("command sglang not found"), std::string::npos) << missing.text;
  const auto flag = verify("--block-size 8");
  EXPECT_EQ(flag.code, 1);
  EXPECT_NE(flag.text.find("--block-size is of the engine inside"), std::string::npos) << flag.text;
}

TEST_F(VerifyEngines, ServersThatRunAlreadyAreMeasuredUnderTheirLabel) {
  tests::ServeProcess first({"tiny", "--port", "0"});
  tests::ServeProcess second({"tiny", "--port", "0"});
  const auto out =
      running("--url http://127.0.0.1:" + std::to_string(first.port()) +
              ",http://127.0.0.1:" + std::to_string(second.port()) + " --label \"two of them\"");
  EXPECT_EQ(out.code, 0) << out.text;
  EXPECT_EQ(scheme("two of them")["loads"][0]["requests"], 8);
  EXPECT_GT(scheme("two of them")["metrics"]["ttft_ms"]["mean"], 0);
  EXPECT_NE(out.text.find("Interleaved: every repeat"), std::string::npos) << out.text;
}

TEST_F(VerifyEngines, AServerThatIsNotThereOrWantsAKeySaysSoAtOnce) {
  // The port's number is not to be taken for a status.
  const auto missing = running("--url http://127.0.0.1:401");
  EXPECT_EQ(missing.code, 1);
  EXPECT_NE(missing.text.find("cannot reach 127.0.0.1:401"), std::string::npos) << missing.text;
  EXPECT_EQ(missing.text.find("key"), std::string::npos) << missing.text;
  EXPECT_EQ(missing.text.find("--start-timeout"), std::string::npos) << missing.text;
  EXPECT_FALSE(fs::exists(folder_ / "fourfold"));  // no logs where nothing was started

  const std::string keys = (folder_ / "keys.txt").string();
  std::ofstream(keys) << "a-key-of-this-test\n";
  tests::ServeProcess server({"tiny", "--port", "0", "--api-key-file", keys});
  const std::string url = "--url http://127.0.0.1:" + std::to_string(server.port());
  const auto refused = running(url);
  EXPECT_EQ(refused.code, 1);
  EXPECT_NE(refused.text.find("HTTP 401"), std::string::npos) << refused.text;
  const auto known = running(url + " --api-key-file " + keys);
  EXPECT_EQ(known.code, 0) << known.text;
}

TEST_F(VerifyEngines, EnginesStandSideBySideInterleaved) {
  const auto out = tests::run(
      "verify tiny --engine fourfold,vllm --engine-command " + fake() +
          " --schemes tp1 --input-len 8 --output-len 4 --concurrency 1 --repeats 2 --rounds 2 "
          "--json " +
          (folder_ / "out.json").string() + " --report " + (folder_ / "out.html").string() +
          " --csv " + (folder_ / "out.csv").string(),
      "XDG_STATE_HOME=" + folder_.string());
  EXPECT_EQ(out.code, 0) << out.text;
  EXPECT_NE(out.text.find("tp1: fourfold gives"), std::string::npos) << out.text;
  EXPECT_NE(out.text.find("Interleaved:"), std::string::npos);
  EXPECT_GT(scheme("fourfold tp1")["metrics"]["ttft_ms"]["mean"], 0);
  EXPECT_GT(fs::file_size(folder_ / "out.html"), 10'000U);
  EXPECT_GT(fs::file_size(folder_ / "out.csv"), 100U);
}

TEST_F(VerifyEngines, NothingOutlivesVerifyHoweverItIsEnded) {
  for (const int signal : {SIGINT, SIGKILL}) {
    const pid_t pid = fork();
    if (pid == 0) {
      const std::string command =
          "exec env XDG_STATE_HOME=" + folder_.string() + " " + FOURFOLD_BINARY + " " +
          arguments("--schemes tp2 --engine-args '--fake tp2=silent'") + " >/dev/null 2>&1";
      execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
      _exit(127);
    }
    EXPECT_TRUE(within(std::chrono::seconds(30), [&] { return left_over() > 0; }));
    kill(pid, signal);
    int status = 0;
    waitpid(pid, &status, 0);
    EXPECT_NE(status, 0);
    EXPECT_TRUE(within(std::chrono::seconds(10), [&] { return left_over() == 0; })) << signal;
  }
}

}  // namespace
}  // namespace fourfold

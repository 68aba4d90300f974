// A server whose ranks are killed and stopped while streams run: nothing of any stream is lost,
// doubled or changed, the failure is noticed in time, and the group is soon back.
//
// FOURFOLD_GROUP_KILLS and FOURFOLD_GROUP_STOPS say how often, all schemes together (40 and 10),
// FOURFOLD_GROUP_SEED where (0).

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "files/scratch_folder.h"
#include "runtime/cluster.h"
#include "runtime/fault.h"
#include "serve/stack_test.h"
#include "tests/support/processes.h"

namespace fourfold::tests {
namespace {

using nlohmann::json;
using std::chrono::duration;
using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;

constexpr seconds kKillPromise(1);
constexpr seconds kStopPromise(5);
constexpr seconds kRecoveryPromise(5);  // more than loading takes
/// For things to come up on a machine that is busy with something else.
constexpr seconds kPatience(60);
constexpr size_t kClients = 8;

int from_environment(const char* name, int otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::atoi(text);
}

/// Questions that between them use whatever depends on the output so far.
std::vector<json> questions() {
  const std::vector<std::string> prompts = {"In the beginning", "And God said", "The king",
                                            "Behold, the", "There was a man"};
  std::vector<json> out;
  for (int i = 0; i < 20; ++i) {
    json body = {{"prompt", prompts[static_cast<size_t>(i) % prompts.size()] + std::to_string(i)},
                 {"max_tokens", 60 + 5 * i},
                 {"ignore_eos", true},
                 {"seed", i},
                 {"stream_options", {{"include_usage", true}}}};
    if (i % 4 == 0) body["temperature"] = 0;
    if (i % 5 == 1) body["logprobs"] = 2;
    if (i % 5 == 2) body["frequency_penalty"] = 0.7;
    if (i % 5 == 3) body["repetition_penalty"] = 1.2;
    if (i % 7 == 3) body["n"] = 3;
    if (i % 6 == 2) body["stop"] = " of";
    if (i % 6 == 5) body["min_tokens"] = 20;
    out.push_back(std::move(body));
  }
  return out;
}

/// A stream put together: of each choice its text, tokens and end, and the usage.
struct Answer {
  std::map<int, std::string> texts;
  std::map<int, json> tokens;  ///< with their log-probabilities, where asked for
  std::map<int, std::string> ends;
  json usage;
  bool operator==(const Answer&) const = default;
};

/// Nothing, with a failure, for a stream with an error or without its end.
std::optional<Answer> answer_of(const std::vector<std::string>& events) {
  Answer answer;
  for (const std::string& event : events) {
    if (event == "[DONE]") return answer;
    const json data = json::parse(event, nullptr, /*allow_exceptions=*/false);
    if (!data.is_object() || data.contains("error")) {
      ADD_FAILURE() << "a stream has " << event;
      return std::nullopt;
    }
    for (const json& choice : data.at("choices")) {
      const int index = choice.at("index");
      answer.texts[index] += choice.at("text").get<std::string>();
      const json& logprobs = choice.at("logprobs");
      if (logprobs.is_object()) {
        json& tokens = answer.tokens[index];
        for (const char* key : {"tokens", "token_logprobs", "top_logprobs", "text_offset"}) {
          for (const json& value : logprobs.at(key)) tokens[key].push_back(value);
        }
      }
      if (choice.at("finish_reason").is_string()) answer.ends[index] = choice["finish_reason"];
    }
    if (data.contains("usage") && data["usage"].is_object()) answer.usage = data["usage"];
  }
  ADD_FAILURE() << "a stream of " << events.size() << " events has no end";
  return std::nullopt;
}

Answer ask(const serve::Stack& stack, const json& question) {
  return answer_of(stack.stream("/v1/completions", question)).value_or(Answer());
}

/// Clients that ask one question after the other and compare. Some go away in the middle.
class Traffic {
 public:
  Traffic(serve::Stack& stack, const std::vector<json>& asked, const std::vector<Answer>& expected)
      : stack_(stack), asked_(asked), expected_(expected) {
    for (size_t i = 0; i < kClients; ++i) clients_.emplace_back([this] { run(); });
  }
  ~Traffic() { stop(); }
  Traffic(const Traffic&) = delete;
  Traffic& operator=(const Traffic&) = delete;

  /// All streams end.
  void stop() {
    over_ = true;
    for (std::thread& client : clients_) client.join();
    clients_.clear();
  }
  int64_t streams() const { return streams_; }

 private:
  void run() {
    while (!over_) {
      const auto number = static_cast<size_t>(next_++);
      const size_t i = number % asked_.size();
      constexpr size_t kGoAway = 17;
      if (number % kGoAway == kGoAway - 1) {
        go_away(asked_[i]);
        continue;
      }
      EXPECT_EQ(ask(stack_, asked_[i]), expected_[i]) << asked_[i];
      ++streams_;
    }
  }
  void go_away(json question) {
    question["stream"] = true;
    http::RawClient client = stack_.connect();
    client.send(serve::Stack::request_text("POST", "/v1/completions", question.dump()));
    client.read_until("\n\n");
  }

  serve::Stack& stack_;
  const std::vector<json>& asked_;
  const std::vector<Answer>& expected_;
  std::vector<std::thread> clients_;
  std::atomic<bool> over_ = false;
  std::atomic<int64_t> next_ = 0;
  std::atomic<int64_t> streams_ = 0;
};

void PrintTo(const Answer& answer, std::ostream* out) {
  *out << json{{"texts", answer.texts}, {"ends", answer.ends}, {"usage", answer.usage}};
}

struct Case {
  std::string name;
  std::string model;
  mesh::ParallelConfig scheme;
  int groups = 1;
};

const std::vector<Case>& cases() {
  static const std::vector<Case> kCases = {{"tp2", "tiny", {.tp = 2}, 1},
                                           {"pp2", "tiny", {.pp = 2}, 1},
                                           {"dp2", "tiny", {.dp = 2}, 2},
                                           {"tp2dp2", "tiny", {.dp = 2, .tp = 2}, 2},
                                           {"dp2ep2", "tiny-moe", {.dp = 2, .ep = 2}, 1}};
  return kCases;
}

class GroupFailures : public testing::Test {
 protected:
  GroupFailures() {
    std::filesystem::create_directory(temporary_);
    setenv("TMPDIR", temporary_.c_str(), 1);
  }
  ~GroupFailures() override {
    unsetenv("TMPDIR");
    unsetenv(runtime::kFaultVariable);
  }

  std::unique_ptr<serve::Stack> start(runtime::ClusterConfig config) {
    config.model = model_;
    config.max_positions = 512;
    config.max_running = 64;
    const auto begin = steady_clock::now();
    auto cluster = runtime::Cluster::start(config, [](const std::string&) {});
    EXPECT_TRUE(cluster.ok()) << cluster.error().message;
    load_ = steady_clock::now() - begin;
    return std::make_unique<serve::Stack>(serve::ServiceOptions(), serve::Keys(),
                                          std::move(cluster).value());
  }

  std::vector<Answer> undisturbed(const std::vector<json>& asked) {
    const auto stack = start({.ranks = runtime::RankMode::kThreads});
    std::vector<Answer> out;
    out.reserve(asked.size());
    for (const json& question : asked) out.push_back(ask(*stack, question));
    return out;
  }

  static bool all_up(runtime::Cluster& cluster) {
    for (const runtime::GroupStatus& group : cluster.status()) {
      if (!group.failure.empty()) return false;
    }
    return true;
  }
  static int64_t failures(runtime::Cluster& cluster) {
    int64_t sum = 0;
    for (const runtime::GroupStatus& group : cluster.status()) {
      for (const int64_t count : group.failures) sum += count;
    }
    return sum;
  }

  std::unique_ptr<serve::Stack> start_ranks(const mesh::ParallelConfig& scheme) {
    return start({.scheme = scheme,
                  .program = FOURFOLD_BINARY,
                  .restart = runtime::RestartOptions{.stable_s = 0}});
  }

  /// Sends `signal` to a rank, or at the same time to one of each group, at a random moment.
  /// Returns to how many. Some streams end before: nobody could live with more failures than that.
  int harm(serve::Stack& stack, const Traffic& traffic, int signal, int most, seconds promise);

  int below(int end) { return std::uniform_int_distribution<int>(0, end - 1)(random_); }

  /// The slowest of a test are among its properties (--gtest_output).
  void note(const char* name, double& slowest, double value_s) {
    slowest = std::max(slowest, value_s);
    RecordProperty(name, std::to_string(slowest));
  }

  std::string model_ = "tiny";
  std::mt19937 random_{static_cast<uint32_t>(from_environment("FOURFOLD_GROUP_SEED", 0))};
  files::ScratchFolder folder_;
  std::filesystem::path temporary_ = folder_.path() / "tmp";
  duration<double> load_{0};
  double slowest_kill_s_ = 0;
  double slowest_stop_s_ = 0;
  double slowest_recovery_s_ = 0;
  int striking_ = 0;
};

int GroupFailures::harm(serve::Stack& stack, const Traffic& traffic, int signal, int most,
                        seconds promise) {
  runtime::Cluster& cluster = stack.cluster();
  const int64_t streams = traffic.streams() + 1 + below(3);
  EXPECT_TRUE(wait_for(
      kPatience, [&] { return traffic.streams() >= streams && cluster.occupancy().running > 0; }));
  const std::vector<RankProcess> ranks = rank_processes(getpid());
  std::vector<RankProcess> victims = {ranks.at(static_cast<size_t>(below(int(ranks.size()))))};
  const RankProcess& other = ranks.at(static_cast<size_t>(below(int(ranks.size()))));
  if (most > 1 && other.run_dir != victims[0].run_dir) victims.push_back(other);
  poll(nullptr, 0, below(30));

  const auto count = static_cast<int>(victims.size());
  if (cluster.occupancy().running > 0) striking_ += count;
  const int64_t goal = failures(cluster) + count;
  const auto begin = steady_clock::now();
  for (const RankProcess& victim : victims) kill(victim.pid, signal);
  EXPECT_TRUE(wait_for(kPatience, [&] { return failures(cluster) >= goal; }))
      << "rank " << victims[0].rank << " of " << victims[0].run_dir << " is not missed";
  const duration<double> noticed = steady_clock::now() - begin;
  EXPECT_LE(noticed, promise);
  EXPECT_TRUE(wait_for(kPatience, [&] { return all_up(cluster); }));
  const duration<double> recovered = steady_clock::now() - begin - noticed;
  EXPECT_LE(recovered, load_ + kRecoveryPromise);
  EXPECT_EQ(failures(cluster), goal);
  if (signal == SIGKILL) note("slowest_kill_s", slowest_kill_s_, noticed.count());
  if (signal == SIGSTOP) note("slowest_stop_s", slowest_stop_s_, noticed.count());
  note("slowest_recovery_s", slowest_recovery_s_, recovered.count());
  return count;
}

class GroupFailuresOf : public GroupFailures, public testing::WithParamInterface<Case> {
 protected:
  GroupFailuresOf() { model_ = GetParam().model; }
};

TEST_P(GroupFailuresOf, LoseNoStreamAndNoToken) {
  const auto schemes = static_cast<int>(cases().size());
  const int kills = (from_environment("FOURFOLD_GROUP_KILLS", 40) + schemes - 1) / schemes;
  const int stops = (from_environment("FOURFOLD_GROUP_STOPS", 10) + schemes - 1) / schemes;
  const std::vector<json> asked = questions();
  const std::vector<Answer> expected = undisturbed(asked);
  ASSERT_FALSE(HasFailure());
  const auto stack = start_ranks(GetParam().scheme);
  {
    Traffic traffic(*stack, asked, expected);
    int harmed = 0;
    for (int done = 0; done < kills && !HasFailure(); harmed = done) {
      done += harm(*stack, traffic, SIGKILL, kills - done, kKillPromise);
    }
    for (int done = 0; done < stops && !HasFailure();) {
      const int more = harm(*stack, traffic, SIGSTOP, stops - done, kStopPromise);
      done += more;
      harmed += more;
    }
    traffic.stop();
    EXPECT_GE(striking_, harmed * 8 / 10) << "of " << harmed;
    RecordProperty("harmed", harmed);
    RecordProperty("striking", striking_);
    RecordProperty("streams", std::to_string(traffic.streams()));
  }
  int64_t migrated = 0;
  for (const runtime::GroupStatus& group : stack->cluster().status()) migrated += group.migrated;
  EXPECT_GT(migrated, 0);
  RecordProperty("migrated", std::to_string(migrated));
  RecordProperty("load_s", std::to_string(load_.count()));
  // Nothing is left of those who went away.
  EXPECT_TRUE(wait_for(kPatience, [&] {
    const engine::Occupancy occupancy = stack->cluster().occupancy();
    return occupancy.running + occupancy.waiting == 0 &&
           stack->on_server([&] { return stack->service().open_requests(); }) == 0;
  }));
}

/// As above, but where a rank dies is told, and not when.
TEST_F(GroupFailures, LoseNothingInWhateverPhaseOfAStepARankDies) {
  const std::vector<json> asked = questions();
  const std::vector<Answer> expected = undisturbed(asked);
  ASSERT_FALSE(HasFailure());
  std::unique_ptr<serve::Stack> stack;
  std::unique_ptr<Traffic> traffic;
  // Ranks 0 and 1 are the first stage.
  for (const char* where :
       {"rank=0 op=inputs", "rank=1 op=embed", "rank=0 op=attention", "rank=3 op=mlp",
        "rank=2 op=head", "rank=3 op=sample", "rank=1 op=all-reduce", "rank=2 op=all-gather",
        "rank=3 op=broadcast", "rank=0 op=send", "rank=2 op=recv"}) {
    SCOPED_TRACE(where);
    const std::string fault = fmt::format("{} step={} action=kill", where, 60 + below(20));
    setenv(runtime::kFaultVariable, fault.c_str(), 1);
    if (!stack) {
      stack = start_ranks({.pp = 2, .tp = 2});
      traffic = std::make_unique<Traffic>(*stack, asked, expected);
    }
    const int64_t streams = traffic->streams();
    // The life that begins next may still have the fault before this one.
    const int64_t goal = failures(stack->cluster()) + 2;
    EXPECT_TRUE(wait_for(kPatience, [&] {
      return failures(stack->cluster()) >= goal && traffic->streams() > streams;
    }));
    if (HasFailure()) break;
  }
  unsetenv(runtime::kFaultVariable);
  traffic->stop();
}

TEST_F(GroupFailures, ARequestThatCrashesRanksIsRefusedAndTheOthersGoOn) {
  const std::vector<json> asked = questions();
  const std::vector<Answer> expected = undisturbed(asked);
  ASSERT_FALSE(HasFailure());
  setenv(runtime::kFaultVariable, "token=777 op=embed action=abort", 1);
  const auto stack = start_ranks({.dp = 2, .tp = 2});
  const json poison = {{"prompt", {5, 777, 6}}, {"max_tokens", 20}};
  Traffic traffic(*stack, asked, expected);
  for (int i = 0; i < 2; ++i) {
    EXPECT_TRUE(wait_for(kPatience, [&] { return stack->cluster().occupancy().running > 0; }));
    const serve::Reply reply = stack->post("/v1/completions", poison);
    EXPECT_EQ(reply.status, 500);
    EXPECT_THAT(reply.text, testing::HasSubstr("ranks_crash"));
    EXPECT_EQ(failures(stack->cluster()), 2) << "it is not tried a third time";
  }
  traffic.stop();
  int64_t crashes = 0;
  for (const runtime::GroupStatus& group : stack->cluster().status()) {
    crashes += group.failures.at(static_cast<size_t>(runtime::FailureCause::kCrashed));
    EXPECT_THAT(group.previous_failure,
                testing::AnyOf(testing::IsEmpty(), testing::HasSubstr("killed by SIGABRT")));
  }
  EXPECT_EQ(crashes, 2);
}

INSTANTIATE_TEST_SUITE_P(Schemes, GroupFailuresOf, testing::ValuesIn(cases()),
                         [](const auto& one) { return one.param.name; });

}  // namespace
}  // namespace fourfold::tests

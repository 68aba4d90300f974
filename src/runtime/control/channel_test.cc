#include "runtime/control/channel.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <string>
#include <thread>
#include <vector>

#include "files/scratch_folder.h"

namespace fourfold::runtime {
namespace {

using engine::StepId;
using testing::HasSubstr;

struct Pair {
  Pair() {
    int ends[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0, "socketpair");
    front = std::make_unique<Channel>(UniqueFd(ends[0]));
    worker = std::make_unique<Channel>(UniqueFd(ends[1]));
  }
  std::unique_ptr<Channel> front;
  std::unique_ptr<Channel> worker;
};

StageReport large_report(int64_t step) {
  StageReport report{.step = StepId(step), .stage = 0, .output = {}};
  report.output.trace.resize(100'000, {.layer = 1, .row = 2, .hash = 3});
  return report;
}

TEST(Channel, DeliversMessagesInTheOrderSent) {
  Pair pair;
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(pair.front->send(Failure{std::to_string(i)}).ok());
  }
  for (int i = 0; i < 100; ++i) {
    const base::Result<Message> message = pair.worker->receive();
    ASSERT_TRUE(message.ok());
    EXPECT_EQ(std::get<Failure>(*message).text, std::to_string(i));
  }
}

TEST(Channel, CarriesMessagesLargerThanASocketsBuffer) {
  Pair pair;
  std::thread sender([&] {
    for (int64_t i = 0; i < 5; ++i) EXPECT_TRUE(pair.worker->send(Report{large_report(i)}).ok());
  });
  for (int64_t i = 0; i < 5; ++i) {
    const base::Result<Message> message = pair.front->receive();
    ASSERT_TRUE(message.ok());
    EXPECT_EQ(std::get<Report>(*message).report.step, StepId(i));
    EXPECT_EQ(std::get<Report>(*message).report.output.trace.size(), 100'000U);
  }
  sender.join();
}

TEST(Channel, KeepsFramesWholeWhenSeveralThreadsSend) {
  Pair pair;
  constexpr int kThreads = 4;
  constexpr int kEach = 20;
  std::vector<std::thread> senders;
  for (int t = 0; t < kThreads; ++t) {
    senders.emplace_back([&] {
      for (int i = 0; i < kEach; ++i) EXPECT_TRUE(pair.worker->send(Report{large_report(i)}).ok());
    });
  }
  for (int i = 0; i < kThreads * kEach; ++i) {
    const base::Result<Message> message = pair.front->receive();
    ASSERT_TRUE(message.ok()) << message.error().message;
    EXPECT_TRUE(std::holds_alternative<Report>(*message));
  }
  for (std::thread& sender : senders) sender.join();
}

TEST(Channel, TryReceiveGivesNothingUntilAWholeMessageIsThere) {
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  const UniqueFd raw(ends[0]);
  Channel channel{UniqueFd(ends[1])};
  const std::vector<std::byte> frame = encode_frame(Failure{"text"});
  for (size_t i = 0; i < frame.size(); ++i) {
    base::Result<std::optional<Message>> message = channel.try_receive();
    ASSERT_TRUE(message.ok());
    EXPECT_FALSE(message->has_value());
    ASSERT_EQ(send(raw.get(), &frame[i], 1, 0), 1);
  }
  base::Result<std::optional<Message>> message = channel.try_receive();
  ASSERT_TRUE(message.ok() && message->has_value());
  EXPECT_EQ(std::get<Failure>(**message).text, "text");
}

TEST(Channel, TheEndOfThePeerIsAnErrorAfterItsLastMessage) {
  Pair pair;
  ASSERT_TRUE(pair.worker->send(Failure{"last words"}).ok());
  pair.worker.reset();
  const base::Result<Message> last = pair.front->receive();
  ASSERT_TRUE(last.ok());
  EXPECT_EQ(std::get<Failure>(*last).text, "last words");
  const base::Result<Message> ended = pair.front->receive();
  ASSERT_FALSE(ended.ok());
  EXPECT_EQ(ended.error().message, kChannelClosed);
  EXPECT_FALSE(pair.front->try_receive().ok());
  EXPECT_EQ(pair.front->send(Ping{}).error().message, kChannelClosed);
}

TEST(Channel, TheEndOfThePeerInTheMiddleOfAMessageIsAnError) {
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  Channel channel{UniqueFd(ends[1])};
  {
    const UniqueFd raw(ends[0]);
    const std::vector<std::byte> frame = encode_frame(Failure{"text"});
    ASSERT_EQ(send(raw.get(), frame.data(), frame.size() - 1, 0),
              static_cast<ssize_t>(frame.size() - 1));
  }
  EXPECT_EQ(channel.receive().error().message, kChannelClosed);
}

TEST(Channel, RefusesWhatIsNoFrame) {
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  const UniqueFd raw(ends[0]);
  Channel channel{UniqueFd(ends[1])};
  constexpr std::string_view kText = "GET / HTTP/1.1\r\n\r\n";
  ASSERT_EQ(send(raw.get(), kText.data(), kText.size(), 0), static_cast<ssize_t>(kText.size()));
  EXPECT_THAT(channel.receive().error().message, HasSubstr("expected 0x4b464634"));
}

TEST(Channel, ASendToAPeerThatTakesNothingEndsAtItsLimit) {
  Pair pair;
  ASSERT_TRUE(pair.front->limit_send(std::chrono::seconds(1)).ok());
  base::Status status;
  for (int i = 0; i < 100 && status.ok(); ++i) status = pair.front->send(Report{large_report(i)});
  ASSERT_FALSE(status.ok());
  EXPECT_THAT(status.error().message, HasSubstr("takes nothing"));
}

TEST(Listener, AcceptsAPeerAndKnowsItsProcess) {
  const files::ScratchFolder folder;
  base::Result<Listener> listener = Listener::create(folder.path() / "control");
  ASSERT_TRUE(listener.ok()) << listener.error().message;
  base::Result<std::unique_ptr<Channel>> nobody = listener->accept();
  ASSERT_TRUE(nobody.ok());
  EXPECT_EQ(*nobody, nullptr);

  base::Result<std::unique_ptr<Channel>> worker = Channel::connect(folder.path() / "control");
  ASSERT_TRUE(worker.ok()) << worker.error().message;
  base::Result<std::unique_ptr<Channel>> front = listener->accept();
  ASSERT_TRUE(front.ok() && *front != nullptr);
  EXPECT_EQ((*front)->peer_pid().value(), getpid());
  ASSERT_TRUE((*worker)->send(Hello{3, "secret"}).ok());
  const base::Result<Message> message = (*front)->receive();
  ASSERT_TRUE(message.ok());
  EXPECT_EQ(std::get<Hello>(*message).rank, 3);
}

TEST(Listener, SaysWhatToDoAboutAPathThatIsTooLong) {
  const base::Result<Listener> listener = Listener::create("/tmp/" + std::string(120, 'x'));
  ASSERT_FALSE(listener.ok());
  EXPECT_THAT(listener.error().message, HasSubstr("TMPDIR"));
  EXPECT_FALSE(Channel::connect("/nowhere/control").ok());
}

}  // namespace
}  // namespace fourfold::runtime

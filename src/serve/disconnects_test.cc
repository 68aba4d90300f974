// Clients that go away at any byte of their request or of its answer leave nothing behind, and take
// nothing from those who stay. FOURFOLD_DISCONNECTS says how many (the default is for CI).

#include <gtest/gtest.h>
#include <poll.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "serve/stack_test.h"

namespace fourfold::serve {
namespace {

using nlohmann::json;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int kUsual = 100;
#else
constexpr int kUsual = 600;
#endif
constexpr int kClients = 16;
constexpr std::chrono::seconds kPatience(30);

int64_t descriptors() {
  return std::distance(std::filesystem::directory_iterator("/proc/self/fd"),
                       std::filesystem::directory_iterator());
}

/// What is held for requests: all of it must go back.
struct Held {
  int64_t descriptors = 0;
  int64_t connections = 0;
  int64_t open_requests = 0;
  int64_t preparing = 0;
  int64_t running = 0;
  int64_t waiting = 0;
  int64_t blocks = 0;
  bool operator==(const Held&) const = default;
};

Held held(Stack& stack) {
  stack.cluster().clear_prefix_cache();  // finished sequences are remembered on purpose
  Held out = stack.on_server([&] {
    return Held{.connections = stack.connections(),
                .open_requests = stack.service().open_requests(),
                .preparing = stack.service().preparing()};
  });
  out.descriptors = descriptors();
  const engine::Occupancy occupancy = stack.cluster().occupancy();
  out.running = occupancy.running;
  out.waiting = occupancy.waiting;
  out.blocks = occupancy.used_blocks;
  return out;
}

void PrintTo(const Held& held, std::ostream* out) {
  *out << held.descriptors << " descriptors, " << held.connections << " connections, "
       << held.open_requests << " open requests, " << held.preparing << " read, " << held.running
       << " running, " << held.waiting << " waiting, " << held.blocks << " blocks";
}

/// One client that goes away; as its system says it, or as one does that died.
void go_away(const Stack& stack, std::mt19937& random) {
  const auto below = [&](size_t end) {
    return std::uniform_int_distribution<size_t>(0, end - 1)(random);
  };
  json body = {{"max_tokens", 1 + below(60)}, {"seed", below(1000)}, {"stream", below(3) > 0}};
  if (below(4) == 0) body["n"] = 3;
  const bool chat = below(3) == 0;
  if (chat) {
    body["messages"] = {{{"role", "user"}, {"content", "Who was there?"}}};
  } else {
    body["prompt"] = std::string(below(300), 'a') + " In the beginning";
  }
  const std::string text =
      Stack::request_text("POST", chat ? "/v1/chat/completions" : "/v1/completions", body.dump(),
                          "Connection: close\r\n");
  http::RawClient client = stack.connect();
  if (below(2) == 0) {
    client.send(text.substr(0, below(text.size())));
  } else {
    client.send(text);
    client.read_bytes(below(below(2) == 0 ? 400 : 8000));
  }
  if (below(2) == 0) client.reset();
}

TEST(Disconnects, LeaveNothingBehindAtWhateverByteTheyCome) {
  const char* given = std::getenv("FOURFOLD_DISCONNECTS");
  const int count = given == nullptr ? kUsual : std::atoi(given);
  Stack stack;
  const json question = {{"prompt", "And God said"}, {"max_tokens", 20}, {"temperature", 0}};
  const std::string expected = stack.post("/v1/completions", question).choice();
  const auto idle = [&](const Held& now) { return now.connections == 0 && now.running == 0; };
  const auto wait_for = [&](auto done) {
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    Held now = held(stack);
    while (!done(now) && std::chrono::steady_clock::now() < deadline) {
      poll(nullptr, 0, 1);
      now = held(stack);
    }
    return now;
  };
  const Held before = wait_for(idle);

  std::atomic<int> next = 0;
  std::vector<std::thread> clients;
  for (int i = 0; i < kClients; ++i) {
    clients.emplace_back([&] {
      for (int number = next++; number < count; number = next++) {
        std::mt19937 random(static_cast<uint32_t>(number));
        go_away(stack, random);
        if (number % 50 == 0) {
          EXPECT_EQ(stack.post("/v1/completions", question).choice(), expected) << number;
        }
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(wait_for([&](const Held& now) { return now == before; }), before);
}

}  // namespace
}  // namespace fourfold::serve

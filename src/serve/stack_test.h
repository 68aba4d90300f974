#pragma once

// A whole server in one process for tests: sockets, API, service, and a cluster, which is `tiny` on
// threads or one that the test plays by hand.

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "files/scratch_folder.h"
#include "http/raw_client_test.h"
#include "http/server.h"
#include "serve/api.h"
#include "serve/keys.h"
#include "serve/served_model.h"
#include "serve/service.h"

namespace fourfold::serve {

/// A cluster whose events come from the test.
class HandCluster final : public runtime::Cluster {
 public:
  struct Sent {
    engine::Request request;
    runtime::EventSink sink;
  };

  engine::SequenceId next_id() override { return engine::SequenceId(next_id_++); }
  base::Status submit(engine::Request request, runtime::EventSink sink) override {
    const std::lock_guard lock(mutex_);
    if (!failure_.empty()) return base::fail("{}", failure_);
    sent_.push_back({std::move(request), std::move(sink)});
    changed_.notify_all();
    return {};
  }
  void cancel(engine::SequenceId id) override {
    const std::lock_guard lock(mutex_);
    cancelled_.push_back(id);
    changed_.notify_all();
  }
  void trace(engine::StepObserver) override {}
  void set_numerics(base::Numerics) override {}
  void clear_prefix_cache() override {
    ++cleared;
    when_cleared();
  }
  engine::EngineStats engine_stats() override { return {}; }
  std::vector<runtime::GroupStatus> status() override {
    const std::lock_guard lock(mutex_);
    return {{.failure = failure_}};
  }
  base::Result<std::vector<runtime::RankReport>> rank_reports(double) override {
    return std::vector<runtime::RankReport>();
  }
  const engine::ExecutorLimits& limits() const override { return limits_; }

  /// The i-th request, once it is there.
  Sent sent(size_t i) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return sent_.size() > i; });
    return sent_[i];
  }
  void wait_for_cancelled(engine::SequenceId id) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] {
      return std::find(cancelled_.begin(), cancelled_.end(), id) != cancelled_.end();
    });
  }
  void fail(std::string failure) {
    const std::lock_guard lock(mutex_);
    failure_ = std::move(failure);
  }

  std::atomic<int> cleared = 0;
  std::function<void()> when_cleared = [] {};

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Sent> sent_;
  std::vector<engine::SequenceId> cancelled_;
  std::string failure_;
  std::atomic<int64_t> next_id_ = 0;
  engine::ExecutorLimits limits_ = {.block_size = 16};
};

inline engine::SequenceEvent token_event(engine::SequenceId id, engine::TokenId token) {
  engine::SequenceEvent event;
  event.id = id;
  event.token.emplace().token = token;
  return event;
}

struct Reply {
  int status = 0;
  std::string head;
  std::string text;
  nlohmann::json json;  ///< null if the body is none

  /// The text of a choice.
  std::string choice(size_t i = 0) const {
    const nlohmann::json& entry = json.at("choices").at(i);
    return entry.contains("text") ? entry["text"] : entry["message"]["content"];
  }
  std::string error_param() const {
    const nlohmann::json& param = json.at("error").at("param");
    return param.is_null() ? "" : param.get<std::string>();
  }
};

class Stack {
 public:
  explicit Stack(const ServiceOptions& options = {}, const Keys& keys = {})
      : Stack(options, keys, start_tiny()) {}
  Stack(const ServiceOptions& options, const Keys& keys, std::unique_ptr<runtime::Cluster> cluster)
      : cluster_(std::move(cluster)) {
    const auto chat_template = folder_.write(
        "chat.jinja",
        "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n"
        "{% if 'tool_calls' in m %}with {{ m.tool_calls | length }} calls\n{% endif %}{% endfor %}"
        "{% for tool in tools %}may call {{ tool.function.name }}\n{% endfor %}"
        "{% if add_generation_prompt %}answer:{% endif %}");
    model_ =
        load_served_model(model::open_model("tiny", false, 0).value(),
                          {.chat_template = chat_template, .tool_calls = ToolCallFormat::kHermes})
            .value();
    server_ = http::Server::listen({}, clock_, [this](const std::shared_ptr<http::Exchange>& e) {
                api_->handle(e);
              }).value();
    service_ = std::make_unique<Service>(model_, *cluster_, *server_, clock_, options);
    api_ = std::make_unique<Api>(model_, *cluster_, *server_, *service_, keys);
    thread_ = std::thread([this] { server_->run(); });
  }
  ~Stack() {
    server_->post([this] { server_->stop(); });
    thread_.join();
  }
  Stack(const Stack&) = delete;
  Stack& operator=(const Stack&) = delete;

  http::RawClient connect() const { return http::RawClient(server_->port()); }

  static std::string request_text(std::string_view method, std::string_view path,
                                  std::string_view body, std::string_view headers = {}) {
    std::string out = std::string(method) + " " + std::string(path) + " HTTP/1.1\r\nHost: a\r\n" +
                      std::string(headers);
    if (method == "POST") out += "Content-Type: application/json\r\n";
    return out + "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + std::string(body);
  }

  Reply ask(std::string_view method, std::string_view path, std::string_view body = {},
            std::string_view headers = {}) const {
    http::RawClient client = connect();
    client.send(request_text(method, path, body, headers));
    Reply reply;
    std::tie(reply.head, reply.text) = client.read_response();
    if (reply.head.size() > 12) reply.status = std::atoi(reply.head.c_str() + 9);
    reply.json = nlohmann::json::parse(reply.text, nullptr, /*allow_exceptions=*/false);
    if (reply.json.is_discarded()) reply.json = nullptr;
    return reply;
  }
  Reply post(std::string_view path, const nlohmann::json& body) const {
    return ask("POST", path, body.dump());
  }
  Reply get(std::string_view path) const { return ask("GET", path); }

  /// The data of each event of a stream.
  std::vector<std::string> stream(std::string_view path, nlohmann::json body) const {
    body["stream"] = true;
    http::RawClient client = connect();
    client.send(request_text("POST", path, body.dump(), "Connection: close\r\n"));
    return events(client.read_all());
  }

  /// Of a whole chunked response.
  static std::vector<std::string> events(const std::string& response) {
    std::string text;
    const size_t head = response.find("\r\n\r\n");
    if (response.find("Transfer-Encoding: chunked") > head) {
      ADD_FAILURE() << "no stream: " << response;
      return {};
    }
    for (size_t at = head + 4; at < response.size();) {
      const size_t size = std::strtoul(response.c_str() + at, nullptr, 16);
      const size_t line_end = response.find("\r\n", at);
      if (line_end == std::string::npos) {
        ADD_FAILURE() << "a chunk without a size: " << response.substr(at);
        return {};
      }
      at = line_end + 2;
      text += response.substr(at, size);
      at += size + 2;
    }
    std::vector<std::string> out;
    const std::string prefix = "data: ";
    for (size_t begin = 0; begin < text.size();) {
      const size_t end = text.find("\n\n", begin);
      EXPECT_EQ(text.substr(begin, prefix.size()), prefix);
      if (end == std::string::npos) {
        ADD_FAILURE() << "an event without its end: " << text.substr(begin);
        break;
      }
      out.push_back(text.substr(begin + prefix.size(), end - begin - prefix.size()));
      begin = end + 2;
    }
    return out;
  }

  /// Runs `work` on the server's thread and waits for it.
  template <typename Work>
  auto on_server(Work work) {
    std::packaged_task<decltype(work())()> task(work);
    auto result = task.get_future();
    server_->post([&task] { task(); });
    return result.get();
  }

  runtime::Cluster& cluster() { return *cluster_; }
  const ServedModel& model() const { return *model_; }
  Service& service() { return *service_; }
  Api& api() { return *api_; }
  /// On the server's thread.
  int64_t connections() const { return server_->connections(); }

 private:
  static std::unique_ptr<runtime::Cluster> start_tiny() {
    runtime::ClusterConfig config;
    config.model = "tiny";
    config.ranks = runtime::RankMode::kThreads;
    return runtime::Cluster::start(config, [](const std::string&) {}).value();
  }

  files::ScratchFolder folder_;
  base::SteadyClock clock_;
  std::shared_ptr<const ServedModel> model_;
  std::unique_ptr<http::Server> server_;
  std::unique_ptr<runtime::Cluster> cluster_;
  std::unique_ptr<Service> service_;
  std::unique_ptr<Api> api_;
  std::thread thread_;
};

}  // namespace fourfold::serve

#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <unordered_map>
#include <variant>
#include <vector>

#include "base/clock.h"
#include "http/server.h"
#include "runtime/cluster.h"
#include "runtime/fault.h"
#include "serve/answer.h"
#include "serve/generation_request.h"
#include "serve/metrics.h"
#include "serve/served_model.h"
#include "serve/unknown_fields.h"
#include "serve/worker_pool.h"

namespace fourfold::serve {

struct ServiceOptions {
  /// Choices that may wait for their first token; a request beyond them is answered 503.
  int64_t max_queued_requests = 1024;
  /// Prompt tokens of those that wait. A request that finds nobody waiting is always taken.
  int64_t max_queued_tokens = int64_t{1} << 20;
  bool strict = false;     ///< refuse fields that nobody knows
  int worker_threads = 2;  ///< for reading and tokenising requests
  /// Where requests fail, for tests; what ranks do is not its matter.
  std::optional<runtime::FaultSpec> fault;
};

/// Answers completions and chats: admission, reading and tokenising on worker threads, the cluster,
/// and its events on their way back to the clients. Its members are called on the server's thread.
class Service {
 public:
  /// All of these outlive the service; the server's run() has returned when it dies.
  Service(std::shared_ptr<const ServedModel> model, runtime::Cluster& cluster, http::Server& server,
          const base::Clock& clock, const ServiceOptions& options);
  ~Service();
  Service(const Service&) = delete;
  Service& operator=(const Service&) = delete;

  /// Answers a request to `endpoint`, which is kCompletions or kChat.
  void generate(Endpoint endpoint, std::shared_ptr<http::Exchange> exchange);

  /// Answers with what `work` makes of the request, on a worker thread; 503 where too many wait.
  using Work = std::function<http::Response(const http::Request& request)>;
  void answer_elsewhere(std::shared_ptr<http::Exchange> exchange, Work work);

  /// Answers, and counts the answer under `handler`, which is one of few names: a request's own
  /// path only where it is one of the API's.
  void respond(http::Exchange& exchange, std::string_view handler, http::Response response);
  /// Counts an answer that is given without an exchange.
  void count_answer(const http::Request& request, std::string_view handler, int status);

  /// Waits for the work that has begun elsewhere. What it works for may die after this.
  void stop_workers() { pool_.stop(); }

  UnknownFields& unknown_fields() { return unknown_fields_; }
  const Metrics& metrics() const { return metrics_; }
  /// Where FOURFOLD_FAULT makes this request fail, if it does.
  std::optional<runtime::RequestStep> failing_step(const http::Request& request) const {
    return options_.fault ? options_.fault->failing_step(request.body) : std::nullopt;
  }
  /// Requests that are read and tokenised.
  int64_t preparing() const { return preparing_; }
  /// Requests that are not answered yet.
  int64_t open_requests() const { return std::ssize(jobs_); }

 private:
  /// One sequence of a job.
  struct Track {
    engine::SequenceId id;
    int64_t queued_tokens = 0;  ///< of its prompt, until the first token; the first choice's alone
    int64_t first_ns = 0;
    int64_t last_ns = 0;
    bool begun = false;
    bool ended = false;
  };
  /// One request that is not answered yet.
  struct Job {
    int64_t number = 0;
    std::shared_ptr<http::Exchange> exchange;
    int64_t arrival_ns = 0;
    std::optional<AnswerWriter> writer;  ///< once it is read
    std::vector<Track> tracks;
    std::vector<http::Header> headers;  ///< of the answer
    bool started = false;               ///< its stream
    std::optional<runtime::RequestStep> failing_step;
  };
  struct Inbox;
  using Read = std::variant<ApiError, GenerationRequest>;

  void refuse_overload(http::Exchange& exchange);
  void make_elsewhere(std::shared_ptr<http::Exchange> exchange, Work work);
  Read read(std::string_view body, Endpoint endpoint) const;
  template <typename Task>
  void work_for(int64_t number, Task task);
  void begin(Job& job, Read read);
  std::optional<ApiError> admit(const GenerationRequest& request);
  std::optional<ApiError> submit(Job& job);
  void take_events();
  void take_event(Job& job, size_t sequence, const engine::SequenceEvent& event, int64_t now_ns);
  void observe(Job& job, size_t sequence, const engine::SequenceEvent& event, int64_t now_ns);
  void end_track(Job& job, size_t sequence, Ending ending);
  void dequeue(Track& track);
  void fail(Job& job, const ApiError& error);
  void abandon(int64_t number, Ending ending);
  int retry_after_s() const;

  std::shared_ptr<const ServedModel> model_;
  runtime::Cluster& cluster_;
  http::Server& server_;
  const base::Clock& clock_;
  ServiceOptions options_;
  Metrics metrics_;
  std::shared_ptr<Inbox> inbox_;
  std::unordered_map<int64_t, std::unique_ptr<Job>> jobs_;
  int64_t next_job_ = 0;
  int64_t preparing_ = 0;
  int64_t elsewhere_ = 0;      ///< answers that worker threads make
  int64_t queued_ = 0;         ///< choices without a first token
  int64_t queued_tokens_ = 0;  ///< of their prompts
  double first_token_s_ = 0;   ///< how long requests have waited for it lately
  std::mt19937_64 random_;
  UnknownFields unknown_fields_;
  WorkerPool pool_;
};

}  // namespace fourfold::serve

#include "serve/service.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <exception>
#include <utility>

#include "base/check.h"
#include "base/log.h"

namespace fourfold::serve {

using engine::FinishReason;
using engine::SequenceId;
using runtime::reach;
using runtime::RequestFaultScope;
using runtime::RequestStep;

namespace {

constexpr int kMaxRetryAfterS = 60;

http::Response stream_head(const std::vector<http::Header>& headers) {
  http::Response head{
      .content_type = "text/event-stream; charset=utf-8", .body = {}, .headers = {}};
  head.headers = headers;
  head.headers.push_back({"Cache-Control", "no-store"});
  return head;
}

/// A request that asks for more memory than there is takes nobody else down.
ApiError failed_inside(const std::exception& exception) {
  spdlog::error("a request failed: {}", exception.what());
  return {.status = 500,
          .message = "the request failed inside the server, whose log says how",
          .param = {},
          .code = "internal_error"};
}

}  // namespace

/// Events on their way from engine threads to the server's. Shared with the sinks, which the
/// cluster may call after the service has died.
struct Service::Inbox {
  struct Entry {
    int64_t job = 0;
    size_t sequence = 0;
    engine::SequenceEvent event;
    int64_t now_ns = 0;
  };

  std::mutex mutex;
  std::vector<Entry> entries;
  std::function<void()> wake;  ///< empty: nobody takes them any more

  void put(Entry entry) {
    const std::lock_guard lock(mutex);
    if (!wake) return;
    entries.push_back(std::move(entry));
    if (entries.size() == 1) wake();
  }
};

Service::Service(std::shared_ptr<const ServedModel> model, runtime::Cluster& cluster,
                 http::Server& server, const base::Clock& clock, const ServiceOptions& options)
    : model_(std::move(model)),
      cluster_(cluster),
      server_(server),
      clock_(clock),
      options_(options),
      inbox_(std::make_shared<Inbox>()),
      random_((uint64_t{std::random_device()()} << 32) | std::random_device()()),
      unknown_fields_(options.strict),
      pool_(options.worker_threads) {
  inbox_->wake = [this] { server_.post([this] { take_events(); }); };
}

Service::~Service() {
  const std::lock_guard lock(inbox_->mutex);
  inbox_->wake = nullptr;
}

void Service::respond(http::Exchange& exchange, std::string_view handler, http::Response response) {
  reach(RequestStep::kRespond);
  count_answer(exchange.request(), handler, response.status);
  exchange.respond(std::move(response));
}

void Service::count_answer(const http::Request& request, std::string_view handler, int status) {
  const std::string& method = request.method;
  const bool usual = method == "GET" || method == "POST" || method == "HEAD";
  metrics_.count_http(handler, usual ? method : "other", status);
}

void Service::refuse_overload(http::Exchange& exchange) {
  metrics_.count_rejection(Rejection::kRequests);
  respond(exchange, exchange.request().path,
          error_response({.status = 503,
                          .message = "too many requests wait already",
                          .param = {},
                          .code = "overloaded",
                          .retry_after_s = retry_after_s()}));
}

void Service::answer_elsewhere(std::shared_ptr<http::Exchange> exchange, Work work) {
  if (elsewhere_ >= options_.max_queued_requests) return refuse_overload(*exchange);
  make_elsewhere(std::move(exchange), std::move(work));
}

void Service::make_elsewhere(std::shared_ptr<http::Exchange> exchange, Work work) {
  ++elsewhere_;
  // The exchange is moved there and back: it must not die on a worker's thread.
  pool_.post([this, exchange = std::move(exchange), work = std::move(work)]() mutable {
    const RequestFaultScope here(failing_step(exchange->request()));
    http::Response response;
    try {
      response = work(exchange->request());
    } catch (const std::exception& exception) {
      response = error_response(failed_inside(exception));
    }
    server_.post([this, exchange = std::move(exchange), response = std::move(response)]() mutable {
      --elsewhere_;
      const RequestFaultScope fault(failing_step(exchange->request()));
      const std::string& path = exchange->request().path;
      try {
        respond(*exchange, path, std::move(response));
      } catch (const std::exception& exception) {
        respond(*exchange, path, error_response(failed_inside(exception)));
      }
    });
  });
}

void Service::generate(Endpoint endpoint, std::shared_ptr<http::Exchange> exchange) {
  if (queued_ + preparing_ >= options_.max_queued_requests) return refuse_overload(*exchange);
  const int64_t number = next_job_++;
  auto job = std::make_unique<Job>();
  job->number = number;
  job->exchange = exchange;
  job->arrival_ns = clock_.now_ns();
  job->failing_step = failing_step(exchange->request());
  jobs_.emplace(number, std::move(job));
  work_for(number, [&](Job&) {
    reach(RequestStep::kEnqueue);
    exchange->on_gone([this, number] { abandon(number, Ending::kAbort); });
    pool_.post([this, number, endpoint, exchange]() mutable {
      const RequestFaultScope fault(failing_step(exchange->request()));
      Read result = read(exchange->request().body, endpoint);
      server_.post(
          [this, number, exchange = std::move(exchange), result = std::move(result)]() mutable {
            --preparing_;
            work_for(number, [&](Job& taken) { begin(taken, std::move(result)); });
          });
    });
    ++preparing_;
  });
}

/// Does something for a request, unless its client has gone meanwhile. What is thrown, as for a
/// lack of memory, ends this request alone.
template <typename Task>
void Service::work_for(int64_t number, Task task) {
  const auto found = jobs_.find(number);
  if (found == jobs_.end()) return;
  const RequestFaultScope fault(found->second->failing_step);
  try {
    task(*found->second);
  } catch (const std::exception& exception) {
    const auto failed = jobs_.find(number);
    const ApiError error = failed_inside(exception);
    if (failed != jobs_.end()) fail(*failed->second, error);
  }
}

/// On a worker's thread.
Service::Read Service::read(std::string_view body, Endpoint endpoint) const {
  try {
    GenerationRequest request;
    if (auto error = read_generation(body, endpoint, *model_, &request)) return std::move(*error);
    return request;
  } catch (const std::exception& exception) {
    return failed_inside(exception);
  }
}

/// Takes a request that has been read.
void Service::begin(Job& job, Read read) {
  reach(RequestStep::kTake);
  if (const auto* error = std::get_if<ApiError>(&read)) return fail(job, *error);
  auto& request = std::get<GenerationRequest>(read);
  reach(RequestStep::kUnknownFields);
  if (const auto error = unknown_fields_.check(request.unknown_fields, &job.headers)) {
    return fail(job, *error);
  }
  reach(RequestStep::kAdmit);
  if (const auto error = admit(request)) return fail(job, *error);
  reach(RequestStep::kSeed);
  if (!request.has_seed) request.sampling.seed = random_();
  const char* prefix = request.endpoint == Endpoint::kChat ? "chatcmpl-" : "cmpl-";
  reach(RequestStep::kWriter);
  auto writer = AnswerWriter::create(model_, std::move(request),
                                     fmt::format("{}{:016x}{:016x}", prefix, random_(), random_()),
                                     std::time(nullptr));
  CHECK(writer.ok(), "{}", writer.error().message);
  job.headers.push_back({"X-Request-Id", writer->id()});
  job.writer.emplace(std::move(writer).value());
  metrics_.observe_request(job.writer->request().choices, job.writer->request().max_tokens);
  if (const auto error = submit(job)) fail(job, *error);
}

std::optional<ApiError> Service::admit(const GenerationRequest& request) {
  const int64_t sequences = std::ssize(request.prompts) * request.choices;
  if (queued_ == 0) return std::nullopt;
  const bool too_many = queued_ + sequences > options_.max_queued_requests;
  if (!too_many && queued_tokens_ + request.prompt_tokens() <= options_.max_queued_tokens) {
    return std::nullopt;
  }
  metrics_.count_rejection(too_many ? Rejection::kRequests : Rejection::kTokens);
  return ApiError{.status = 503,
                  .message = too_many ? "too many requests wait already"
                                      : "too many prompt tokens wait already",
                  .param = {},
                  .code = "overloaded",
                  .retry_after_s = retry_after_s()};
}

/// Until those who wait now will probably have their first token.
int Service::retry_after_s() const {
  return std::clamp(static_cast<int>(std::ceil(first_token_s_)), 1, kMaxRetryAfterS);
}

/// Sends each prompt with all its choices to the cluster.
std::optional<ApiError> Service::submit(Job& job) {
  const GenerationRequest& request = job.writer->request();
  const auto choices = static_cast<size_t>(request.choices);
  for (const Prompt& prompt : request.prompts) {
    for (size_t choice = 0; choice < choices; ++choice) {
      Track& track = job.tracks.emplace_back();
      track.id = cluster_.next_id();
      if (choice == 0) track.queued_tokens = std::ssize(prompt.tokens);
      ++queued_;
      queued_tokens_ += track.queued_tokens;
    }
  }
  for (size_t p = 0; p < request.prompts.size(); ++p) {
    engine::Request part;
    part.prompt = request.prompts[p].tokens;
    part.max_new_tokens = std::max(1, request.max_tokens);
    part.sampling = request.sampling;
    part.stop_tokens = request.stop_tokens;
    part.ignore_eos = request.ignore_eos;
    part.score_prompt = request.echo && request.sampling.logprobs >= 0;
    part.constraint = request.constraint;
    const size_t first = p * choices;
    part.id = job.tracks[first].id;
    for (size_t i = 1; i < choices; ++i) part.forks.push_back(job.tracks[first + i].id);
    const std::vector<SequenceId> forks = part.forks;
    reach(RequestStep::kSubmit);
    const base::Status submitted =
        cluster_.submit(std::move(part), [inbox = inbox_, number = job.number, first, forks](
                                             const engine::SequenceEvent& event, int64_t now_ns) {
          const auto fork = std::find(forks.begin(), forks.end(), event.id);
          const auto choice = fork == forks.end() ? 0 : fork - forks.begin() + 1;
          inbox->put({.job = number,
                      .sequence = first + static_cast<size_t>(choice),
                      .event = event,
                      .now_ns = now_ns});
        });
    if (!submitted.ok()) {
      return ApiError{.status = 503,
                      .message = submitted.error().message,
                      .param = {},
                      .code = "engine_failed",
                      .retry_after_s = retry_after_s()};
    }
  }
  return std::nullopt;
}

void Service::take_events() {
  std::vector<Inbox::Entry> entries;
  {
    const std::lock_guard lock(inbox_->mutex);
    entries.swap(inbox_->entries);
  }
  for (const Inbox::Entry& entry : entries) {
    work_for(entry.job,
             [&](Job& job) { take_event(job, entry.sequence, entry.event, entry.now_ns); });
  }
}

void Service::take_event(Job& job, size_t sequence, const engine::SequenceEvent& event,
                         int64_t now_ns) {
  reach(RequestStep::kEvent);
  if (event.finish == FinishReason::kRefused) {
    return fail(job, {.status = 500,
                      .message = "this request cannot be completed: " + event.failure,
                      .param = {},
                      .code = "ranks_crash"});
  }
  if (event.finish == FinishReason::kFailed) {
    return fail(job, {.status = 503,
                      .message = "this request cannot be completed: " + event.failure,
                      .param = {},
                      .code = "engine_failed",
                      .retry_after_s = 1});
  }
  if (event.finish == FinishReason::kUnmet) {
    return fail(job, {.message = event.failure, .param = {}, .code = "constraint_unmet"});
  }
  if (job.tracks[sequence].ended) return;  // by a stop string
  observe(job, sequence, event, now_ns);
  AnswerWriter& writer = *job.writer;
  const AnswerWriter::Step step = writer.push(sequence, event);
  if (!event.token && !event.finish) return;  // nothing to send yet
  if (step.cancel) cluster_.cancel(job.tracks[sequence].id);
  if (const char* reason = writer.finish_reason(sequence)) {
    end_track(job, sequence, reason[0] == 'l' ? Ending::kLength : Ending::kStop);
  }
  if (writer.request().stream) {
    if (!job.started) {
      reach(RequestStep::kStartStream);
      job.exchange->start(stream_head(job.headers));
      job.started = true;
      metrics_.count_http(job.exchange->request().path, job.exchange->request().method, 200);
    }
    reach(RequestStep::kWriteChunk);
    job.exchange->write(step.events);
  }
  if (!writer.done()) return;
  if (writer.request().stream) {
    job.exchange->write(writer.end_of_stream());
    job.exchange->finish();
    jobs_.erase(job.number);
  } else {
    const std::shared_ptr<Job> done = std::move(jobs_.extract(job.number).mapped());
    // A large answer would hold up everybody else's.
    make_elsewhere(std::move(done->exchange), [done](const http::Request&) {
      return http::Response{.content_type = "application/json",
                            .body = done->writer->body(),
                            .headers = done->headers};
    });
  }
}

/// Times of a sequence that goes on.
void Service::observe(Job& job, size_t sequence, const engine::SequenceEvent& event,
                      int64_t now_ns) {
  reach(RequestStep::kObserve);
  Track& track = job.tracks[sequence];
  if (!event.token) return;
  if (!track.begun) {
    const double waited_s = base::seconds_between(job.arrival_ns, now_ns);
    constexpr double kNewShare = 0.1;
    first_token_s_ += kNewShare * (waited_s - first_token_s_);
    metrics_.observe_first_token(waited_s, track.queued_tokens);
    track.first_ns = now_ns;
    dequeue(track);
  } else {
    metrics_.observe_next_token(base::seconds_between(track.last_ns, now_ns));
  }
  track.last_ns = now_ns;
}

void Service::dequeue(Track& track) {
  if (std::exchange(track.begun, true)) return;
  --queued_;
  queued_tokens_ -= track.queued_tokens;
}

void Service::end_track(Job& job, size_t sequence, Ending ending) {
  Track& track = job.tracks[sequence];
  if (std::exchange(track.ended, true)) return;
  dequeue(track);
  const GenerationRequest& request = job.writer->request();
  const Prompt& prompt = request.prompts[sequence / static_cast<size_t>(request.choices)];
  metrics_.observe_finished({.ending = ending,
                             .prompt_tokens = std::ssize(prompt.tokens),
                             .output_tokens = job.writer->output_tokens(sequence),
                             .max_tokens = request.max_tokens,
                             .e2e_s = base::seconds_between(job.arrival_ns, clock_.now_ns()),
                             .decode_s = base::seconds_between(track.first_ns, track.last_ns)});
}

/// Tells the client, in the stream if there is one.
void Service::fail(Job& job, const ApiError& error) {
  if (job.started) {
    job.exchange->write(sse_event(error_json(error)));
    job.exchange->write(kSseDone);
    job.exchange->finish();
  } else {
    http::Response response = error_response(error);
    response.headers.insert(response.headers.end(), job.headers.begin(), job.headers.end());
    respond(*job.exchange, job.exchange->request().path, std::move(response));
  }
  abandon(job.number, Ending::kError);
}

/// Forgets a request and stops what is done for it.
void Service::abandon(int64_t number, Ending ending) {
  auto node = jobs_.extract(number);
  if (node.empty()) return;
  Job& job = *node.mapped();
  for (size_t i = 0; i < job.tracks.size(); ++i) {
    if (job.tracks[i].ended) continue;
    cluster_.cancel(job.tracks[i].id);
    end_track(job, i, ending);
  }
}

}  // namespace fourfold::serve

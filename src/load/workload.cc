#include "load/workload.h"

#include <condition_variable>
#include <memory>
#include <mutex>

#include "base/check.h"
#include "base/philox.h"

namespace fourfold::load {

std::vector<engine::Request> make_requests(const FixedLoad& load) {
  CHECK(load.vocab > 0 && load.input_len > 0 && load.output_len > 0, "load of {} in, {} out",
        load.input_len, load.output_len);
  std::vector<engine::Request> out;
  for (int32_t r = 0; r < load.requests; ++r) {
    engine::Request request;
    for (int32_t i = 0; i < load.input_len; ++i) {
      const uint32_t draw =
          base::philox(load.seed, {static_cast<uint32_t>(i), static_cast<uint32_t>(r), 0, 0})[0];
      request.prompt.push_back(static_cast<engine::TokenId>(draw % load.vocab));
    }
    request.max_new_tokens = load.output_len;
    request.ignore_eos = true;
    request.sampling.temperature = 0;
    out.push_back(std::move(request));
  }
  return out;
}

namespace {

/// What the sinks of all requests write to. Shared with them, because a sink may be called once
/// more while the loop that started it gives up.
struct LoopState {
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<RequestLog> logs;
  size_t finished = 0;
  std::string failure;
};

void record(LoopState& state, size_t request, const Arrival& arrival) {
  const std::lock_guard lock(state.mutex);
  RequestLog& log = state.logs[request];
  log.token_ns.insert(log.token_ns.end(), static_cast<size_t>(arrival.tokens), arrival.now_ns);
  if (!arrival.failure.empty()) {
    log.failed = true;
    state.failure = arrival.failure;
  }
  if (arrival.finished) {
    ++state.finished;
    state.changed.notify_one();
  }
}

}  // namespace

base::Result<std::vector<RequestLog>> run_closed_loop(
    std::span<const engine::Request> requests, int concurrency, const base::Clock& clock,
    const Submit& submit, const std::function<void(size_t done)>& on_finished) {
  const auto state = std::make_shared<LoopState>();
  state->logs.resize(requests.size());
  size_t sent = 0;
  size_t reported = 0;
  while (reported < requests.size()) {
    while (sent < requests.size() && sent - reported < static_cast<size_t>(concurrency)) {
      const size_t index = sent++;
      state->logs[index].sent_ns = clock.now_ns();
      state->logs[index].prompt_tokens = static_cast<int64_t>(requests[index].prompt.size());
      FF_TRY(submit(requests[index],
                    [state, index](const Arrival& arrival) { record(*state, index, arrival); }));
    }
    std::unique_lock lock(state->mutex);
    state->changed.wait(lock, [&] { return state->finished > reported; });
    if (!state->failure.empty()) return base::fail("{}", state->failure);
    reported = state->finished;
    lock.unlock();
    if (on_finished) on_finished(reported);
  }
  const std::lock_guard lock(state->mutex);
  return std::move(state->logs);
}

}  // namespace fourfold::load

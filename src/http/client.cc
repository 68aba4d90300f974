#include "http/client.h"

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <chrono>
#include <future>
#include <thread>
#include <utility>

namespace fourfold::http {

namespace asio = boost::asio;

class Client::Loop {
 public:
  explicit Loop(Url url) : pool_(io_.get_executor(), std::move(url)) {
    thread_ = std::thread([this] { io_.run(); });
  }
  ~Loop() {
    io_.stop();
    thread_.join();
  }
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;

  /// `use` gets the call on the client's thread.
  template <typename Use>
  void send(ClientRequest request, CallHandlers handlers, Use use) {
    asio::post(io_, [this, request = std::move(request), handlers = std::move(handlers),
                     use = std::move(use)]() mutable {
      use(pool_.send(std::move(request), std::move(handlers)));
    });
  }

  void post(std::function<void()> work) { asio::post(io_, std::move(work)); }

 private:
  asio::io_context io_{1};
  asio::executor_work_guard<asio::io_context::executor_type> work_{io_.get_executor()};
  ConnectionPool pool_;
  std::thread thread_;
};

Client::Client(Url url) : loop_(std::make_unique<Loop>(std::move(url))) {}

Client::~Client() = default;

void Client::send(ClientRequest request, CallHandlers handlers) {
  loop_->send(std::move(request), std::move(handlers), [](const std::shared_ptr<Call>&) {});
}

base::Result<Client::Reply> Client::fetch(ClientRequest request, const FetchOptions& options) {
  /// Of the client's thread, until it is done.
  struct State {
    Reply reply;
    std::shared_ptr<Call> call;      ///< null: it is done
    std::promise<std::string> done;  ///< the error, or ""

    void finish(const std::string& error) {
      if (const auto over = std::exchange(call, nullptr)) {
        over->cancel();
        done.set_value(error);
      }
    }
  };
  if (request.limits.total_ns == 0) request.limits.total_ns = kFetchNs;
  auto state = std::make_shared<State>();
  std::future<std::string> done = state->done.get_future();
  const auto on_body = [state, most = options.most_bytes](std::string_view bytes) {
    if (state->reply.body.size() + bytes.size() > most) {
      return state->finish(fmt::format("an answer of more than {} bytes", most));
    }
    state->reply.body += bytes;
  };
  loop_->send(
      std::move(request),
      {.on_head = [state](const ResponseHead& head) { state->reply.status = head.status; },
       .on_body = on_body,
       .on_end = [state](const CallError* error) { state->finish(error ? error->message : ""); }},
      [state](std::shared_ptr<Call> call) { state->call = std::move(call); });
  constexpr std::chrono::milliseconds kStopInterval(50);
  while (options.stop && done.wait_for(kStopInterval) == std::future_status::timeout) {
    if (options.stop()) loop_->post([state] { state->finish("interrupted"); });
  }
  if (const std::string why = done.get(); !why.empty()) return base::fail("{}", why);
  return std::move(state->reply);
}

}  // namespace fourfold::http

#include "route/fetch.h"

#include <fmt/format.h>

#include <utility>

namespace fourfold::route {

std::shared_ptr<http::Call> fetch(http::ConnectionPool& pool, http::ClientRequest request,
                                  std::function<void(Fetched)> done) {
  struct State {
    Fetched fetched;
    std::weak_ptr<http::Call> call;
    std::function<void(Fetched)> done;
  };
  auto state = std::make_shared<State>();
  state->done = std::move(done);
  auto call = pool.send(
      std::move(request),
      {.on_head = [state](const http::ResponseHead& head) { state->fetched.status = head.status; },
       .on_body =
           [state](std::string_view bytes) {
             state->fetched.body += bytes;
             if (state->fetched.body.size() <= kMostFetchedBytes) return;
             if (const auto self = state->call.lock()) self->cancel();
             state->fetched.error = {http::CallError::Kind::kLost,
                                     fmt::format("more than {} bytes", kMostFetchedBytes)};
             state->done(std::move(state->fetched));
           },
       .on_end =
           [state](const http::CallError* error) {
             if (error != nullptr) state->fetched.error = *error;
             state->done(std::move(state->fetched));
           }});
  state->call = call;
  return call;
}

}  // namespace fourfold::route

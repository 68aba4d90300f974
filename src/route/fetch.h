#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "http/connection_pool.h"

namespace fourfold::route {

struct Fetched {
  int status = 0;
  std::string body;
  std::optional<http::CallError> error;  ///< why there is no whole answer

  bool ok() const { return !error && status == 200; }
};

/// Sends a request and gives its whole answer, of at most kMostFetchedBytes, to `done`.
std::shared_ptr<http::Call> fetch(http::ConnectionPool& pool, http::ClientRequest request,
                                  std::function<void(Fetched)> done);

inline constexpr size_t kMostFetchedBytes = size_t{4} << 20;

}  // namespace fourfold::route

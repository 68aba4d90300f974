#pragma once

#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "http/message.h"
#include "serve/api_error.h"

namespace fourfold::serve {

/// What becomes of fields that nobody knows. From any thread.
class UnknownFields {
 public:
  /// `strict`: they are refused.
  explicit UnknownFields(bool strict) : strict_(strict) {}

  /// Names them in a header of the answer, and in the log, once each; or the error that names the
  /// first.
  std::optional<ApiError> check(const std::vector<std::string>& fields,
                                std::vector<http::Header>* headers);

 private:
  bool strict_;
  std::mutex mutex_;
  std::set<std::string> logged_;
};

}  // namespace fourfold::serve

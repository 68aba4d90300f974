#pragma once

#include <string>

#include "http/message.h"

namespace fourfold::serve {

/// Why a request is not answered, in OpenAI's shape.
struct ApiError {
  int status = 400;
  std::string message;
  std::string param;      ///< the field at fault; "": none
  std::string code;       ///< a word for programs; "": none
  int retry_after_s = 0;  ///< when to try again; 0: not by itself
};

/// {"error": {"message", "type", "param", "code"}}.
std::string error_json(const ApiError& error);
http::Response error_response(const ApiError& error);

}  // namespace fourfold::serve

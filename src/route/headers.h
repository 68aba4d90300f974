#pragma once

#include <string>
#include <vector>

#include "http/message.h"
#include "http/response_reader.h"

namespace fourfold::route {

/// What a replica gets of a client's headers: none that are of the client's connection (RFC 9110,
/// 7.6.1). `replica_key`: shown instead of the client's key; "": that one is passed on if
/// `pass_key`. `request_id`: X-Request-Id.
std::vector<http::Header> headers_for_replica(const http::Request& request,
                                              const std::string& replica_key, bool pass_key,
                                              const std::string& request_id);

/// The head of the answer that a client gets, without its length.
http::Response head_for_client(const http::ResponseHead& head, const std::string& request_id);

}  // namespace fourfold::route

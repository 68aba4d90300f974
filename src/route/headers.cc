#include "route/headers.h"

#include <algorithm>
#include <array>
#include <string_view>

namespace fourfold::route {
namespace {

/// Of one connection, or written anew for the next one.
constexpr std::array<std::string_view, 14> kOfAConnection = {"connection",
                                                             "content-length",
                                                             "date",
                                                             "expect",
                                                             "host",
                                                             "keep-alive",
                                                             "proxy-authenticate",
                                                             "proxy-authorization",
                                                             "proxy-connection",
                                                             "te",
                                                             "trailer",
                                                             "transfer-encoding",
                                                             "upgrade",
                                                             "via"};

/// The `headers` that go on, without those that Connection names.
std::vector<http::Header> passed_on(const std::vector<http::Header>& headers) {
  std::vector<http::Header> out;
  for (const http::Header& header : headers) {
    const bool of_connection =
        std::find(kOfAConnection.begin(), kOfAConnection.end(), header.name) !=
            kOfAConnection.end() ||
        std::any_of(headers.begin(), headers.end(), [&](const http::Header& other) {
          return other.name == "connection" && http::has_word(other.value, header.name);
        });
    if (!of_connection) out.push_back(header);
  }
  return out;
}

}  // namespace

std::vector<http::Header> headers_for_replica(const http::Request& request,
                                              const std::string& replica_key, bool pass_key,
                                              const std::string& request_id) {
  std::vector<http::Header> out = passed_on(request.headers);
  std::erase_if(out, [&](const http::Header& header) {
    // Which pages may come is settled here, not at the replica, which has another name.
    return header.name == "x-request-id" || header.name == "origin" ||
           (header.name == "authorization" && (!replica_key.empty() || !pass_key));
  });
  if (!replica_key.empty()) out.push_back({"Authorization", "Bearer " + replica_key});
  out.push_back({"X-Request-Id", request_id});
  out.push_back({"Via", "1.1 fourfold"});
  return out;
}

http::Response head_for_client(const http::ResponseHead& head, const std::string& request_id) {
  http::Response out{.status = head.status,
                     .content_type = std::string(head.header("content-type")),
                     .body = {},
                     .headers = passed_on(head.headers)};
  std::erase_if(out.headers, [](const http::Header& header) {
    return header.name == "content-type" || header.name.starts_with("access-control-");
  });
  if (head.header("x-request-id").empty()) out.headers.push_back({"X-Request-Id", request_id});
  return out;
}

}  // namespace fourfold::route

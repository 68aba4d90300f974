#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "http/message.h"

namespace fourfold::serve {

/// Which pages may use a server from a browser on the machine, or in the network, that it serves.
/// Two things are kept out: pages of other sites that send requests here, which the header Origin
/// tells (RFC 6454), and pages whose own name has been made to lead here (DNS rebinding), which
/// Host tells. Programs other than browsers send no Origin and do not notice.
class SiteRules {
 public:
  /// Host is looked at where `check_host`: it must be localhost, an address, which no page can have
  /// by rebinding, or one of `hosts`. An Origin must be the server's own or one of `origins`.
  SiteRules(bool check_host, std::vector<std::string> hosts, std::vector<std::string> origins);

  /// An answer instead of the server's: a refusal, or what a browser asks before it sends the
  /// request of an allowed page (a CORS preflight,
  /// https://fetch.spec.whatwg.org/#http-cors-protocol).
  std::optional<http::Response> check(const http::Request& head) const;
  /// Further headers of every answer: CORS for the pages of `origins`, else none.
  std::vector<http::Header> answer_headers(const http::Request& head) const;

 private:
  bool allows_host(std::string_view host) const;
  bool allows_origin(std::string_view origin) const;

  bool check_host_;
  std::vector<std::string> hosts_;
  std::vector<std::string> origins_;
};

/// A name of a host, in lower case. Errors: a port, a path, or what else no name has.
base::Result<std::string> parse_allowed_host(const std::string& text);
/// scheme://host[:port], or null, as browsers write it. Errors: anything else.
base::Result<std::string> parse_allowed_origin(const std::string& text);

}  // namespace fourfold::serve

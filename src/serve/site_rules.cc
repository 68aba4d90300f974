#include "serve/site_rules.h"

#include <arpa/inet.h>

#include <algorithm>
#include <utility>

#include "serve/api_error.h"

namespace fourfold::serve {
namespace {

/// The value of a Host header without its port; of an IPv6 address without its brackets.
std::string host_name(std::string_view host) {
  std::string name;
  if (host.starts_with('[')) {
    name = std::string(host.substr(1, host.find(']') - 1));
  } else {
    name = http::lower_case(host.substr(0, host.find(':')));
  }
  if (name.ends_with('.')) name.pop_back();
  return name;
}

bool is_address(const std::string& name) {
  in6_addr address{};
  return inet_pton(AF_INET, name.c_str(), &address) == 1 ||
         inet_pton(AF_INET6, name.c_str(), &address) == 1;
}

/// "" if it is none of a page that came over HTTP.
std::string_view host_of_origin(std::string_view origin) {
  const size_t colon = origin.find("://");
  if (colon == std::string_view::npos) return {};
  const std::string_view scheme = origin.substr(0, colon);
  if (scheme != "http" && scheme != "https") return {};
  return origin.substr(colon + 3);
}

http::Response refusal(std::string message, const char* code) {
  return error_response({.status = 403, .message = std::move(message), .param = {}, .code = code});
}

}  // namespace

SiteRules::SiteRules(bool check_host, std::vector<std::string> hosts,
                     std::vector<std::string> origins)
    : check_host_(check_host), hosts_(std::move(hosts)), origins_(std::move(origins)) {}

bool SiteRules::allows_host(std::string_view host) const {
  const std::string name = host_name(host);
  return name == "localhost" || name.ends_with(".localhost") || is_address(name) ||
         std::find(hosts_.begin(), hosts_.end(), name) != hosts_.end();
}

bool SiteRules::allows_origin(std::string_view origin) const {
  return std::find(origins_.begin(), origins_.end(), origin) != origins_.end();
}

std::optional<http::Response> SiteRules::check(const http::Request& head) const {
  const std::string_view host = head.header("host");
  if (check_host_ && !host.empty() && !allows_host(host)) {
    return refusal(
        "the Host of this request is not one that the server is known by: start it with "
        "--allowed-host NAME if it is",
        "host_not_allowed");
  }
  const std::string origin = http::lower_case(head.header("origin"));
  if (origin.empty()) return std::nullopt;
  const bool own = !host.empty() && host_of_origin(origin) == http::lower_case(host);
  if (!own && !allows_origin(origin)) {
    return refusal(
        "pages of this Origin may not use the server: start it with --allowed-origin ORIGIN if "
        "they may",
        "origin_not_allowed");
  }
  if (!own && head.method == "OPTIONS" && !head.header("access-control-request-method").empty()) {
    return http::Response{.status = 204,
                          .content_type = {},
                          .body = {},
                          .headers = {{"Access-Control-Allow-Methods", "GET, POST"},
                                      {"Access-Control-Allow-Headers",
                                       std::string(head.header("access-control-request-headers"))},
                                      {"Access-Control-Max-Age", "600"}}};
  }
  return std::nullopt;
}

std::vector<http::Header> SiteRules::answer_headers(const http::Request& head) const {
  const std::string_view origin = head.header("origin");
  if (origin.empty() || !allows_origin(http::lower_case(origin))) return {};
  return {{"Access-Control-Allow-Origin", std::string(origin)},
          {"Access-Control-Expose-Headers", "Retry-After, X-Request-Id, X-Fourfold-Ignored-Fields"},
          {"Vary", "Origin"}};
}

base::Result<std::string> parse_allowed_host(const std::string& text) {
  const bool name = !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '-' || c == '.' || c == '_';
  });
  if (!name) {
    return base::fail("\"{}\": expected a name without a port, such as models.example.org", text);
  }
  return host_name(text);
}

base::Result<std::string> parse_allowed_origin(const std::string& text) {
  const std::string origin = http::lower_case(text);
  const size_t colon = origin.find("://");
  const bool whole = colon != std::string::npos && colon > 0 && colon + 3 < origin.size() &&
                     origin.find_first_of("/ \t*,", colon + 3) == std::string::npos;
  if (!whole && origin != "null") {
    return base::fail("\"{}\": expected scheme://host[:port], such as https://chat.example.org",
                      text);
  }
  return origin;
}

}  // namespace fourfold::serve

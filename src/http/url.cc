#include "http/url.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

namespace fourfold::http {

base::Result<Url> Url::parse(std::string_view text) {
  const auto refuse = [whole = text](std::string_view why) {
    return base::fail("\"{}\" is no URL of a server ({}): expected http://HOST[:PORT][/PATH]",
                      whole, why);
  };
  constexpr std::string_view kScheme = "http://";
  if (text.starts_with("https://")) return refuse("TLS is a proxy's job");
  if (!text.starts_with(kScheme)) return refuse("it does not begin with http://");
  text.remove_prefix(kScheme.size());
  const auto is_bad = [](char c) {
    return c <= ' ' || c == '?' || c == '#' || c == '@' || c == 127;
  };
  if (std::any_of(text.begin(), text.end(), is_bad)) return refuse("a blank, ?, # or @");
  Url out;
  const size_t slash = std::min(text.find('/'), text.size());
  out.path = text.substr(slash);
  while (out.path.ends_with('/')) out.path.pop_back();
  std::string_view authority = text.substr(0, slash);
  if (authority.starts_with('[')) {
    const size_t end = authority.find(']');
    if (end == std::string_view::npos) return refuse("no ] after the address");
    out.host = authority.substr(1, end - 1);
    authority.remove_prefix(end + 1);
  } else {
    const size_t colon = std::min(authority.find(':'), authority.size());
    out.host = authority.substr(0, colon);
    authority.remove_prefix(colon);
  }
  if (out.host.empty()) return refuse("no host");
  if (authority.empty()) return out;
  if (!authority.starts_with(':')) return refuse("no : between host and port");
  authority.remove_prefix(1);
  const char* end = authority.data() + authority.size();
  const auto [rest, error] = std::from_chars(authority.data(), end, out.port);
  if (error != std::errc() || rest != end || out.port == 0) return refuse("the port");
  return out;
}

std::string Url::authority() const {
  const bool is_v6 = host.find(':') != std::string::npos;
  return fmt::format("{}{}{}:{}", is_v6 ? "[" : "", host, is_v6 ? "]" : "", port);
}

}  // namespace fourfold::http

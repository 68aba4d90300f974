#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fourfold::http {

/// "%2F" as "/" (RFC 3986); what is no such escape stays.
std::string percent_decoded(std::string_view text);

struct Header {
  std::string name;  ///< of what was received: in lower case
  std::string value;
};

/// The value of the first header of this name (in lower case), or "".
inline std::string_view find_header(const std::vector<Header>& headers, std::string_view name) {
  const auto found = std::find_if(headers.begin(), headers.end(),
                                  [&](const Header& header) { return header.name == name; });
  return found == headers.end() ? std::string_view() : std::string_view(found->value);
}

/// ASCII letters in lower case.
std::string lower_case(std::string_view text);
/// Without blanks and tabs at its ends.
std::string_view trimmed(std::string_view text);
/// True if the comma-separated `list` has `word`, which is in lower case.
bool has_word(std::string_view list, std::string_view word);

/// A complete request (RFC 9110, RFC 9112).
struct Request {
  std::string method;
  std::string path;   ///< of the target, as it was sent
  std::string query;  ///< what follows its first "?"
  int version_minor = 1;
  bool keep_alive = true;  ///< what the client wants
  std::vector<Header> headers;
  std::string body;

  /// The value of the first header of this name (in lower case), or "".
  std::string_view header(std::string_view name) const { return find_header(headers, name); }
};

/// A complete response. The server adds Content-Length, Date and Connection.
struct Response {
  int status = 200;
  std::string content_type;  ///< "": no such header
  std::string body;
  std::vector<Header> headers;  ///< further ones
};

/// The reason phrase of a status, "" for one that this server does not send.
std::string_view reason_phrase(int status);

}  // namespace fourfold::http

#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "http/message.h"

namespace fourfold::http {

/// The head of a response from another server.
struct ResponseHead {
  int status = 0;
  std::vector<Header> headers;  ///< names in lower case
  int64_t content_length = -1;  ///< -1: the head does not tell it

  /// The value of the first header of this name (in lower case), or "".
  std::string_view header(std::string_view name) const { return find_header(headers, name); }
};

/// Reads one response from bytes that come in any pieces (RFC 9112, by Boost.Beast's parser). Heads
/// of 1xx are skipped.
class ResponseReader {
 public:
  /// `no_body`: to HEAD, which is answered without one.
  explicit ResponseReader(bool no_body);
  ~ResponseReader();
  ResponseReader(const ResponseReader&) = delete;
  ResponseReader& operator=(const ResponseReader&) = delete;

  /// Takes bytes in. `head` is called once, when it is complete, before `body` gets the first of
  /// the body's pieces, which come without the marks of chunks. Errors: what is no HTTP.
  base::Status push(std::string_view bytes, const std::function<void(const ResponseHead&)>& head,
                    const std::function<void(std::string_view)>& body);
  /// The server has closed the connection. Errors: the response is not complete.
  base::Status end();

  bool done() const { return done_; }
  /// A byte has come.
  bool started() const { return started_; }
  /// In done(): the connection may be used again.
  bool keep_alive() const;

 private:
  struct Parser;

  bool no_body_;
  bool started_ = false;
  bool has_head_ = false;
  bool done_ = false;
  int interim_heads_ = 0;
  std::string pending_;  ///< bytes that the parser has not taken: the beginning of a head or mark
  std::unique_ptr<Parser> parser_;
};

}  // namespace fourfold::http

#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "http/message.h"

namespace fourfold::http {

/// What one request may have at most.
struct Limits {
  int64_t target_bytes = 8 << 10;
  int64_t header_bytes = 16 << 10;  ///< of all header lines
  int64_t headers = 100;
  int64_t body_bytes = 32 << 20;
};

/// How a request that is not read further is answered before the connection closes.
struct Refusal {
  int status = 400;
  std::string message;
};

/// Reads one HTTP/1.x request from bytes that come in any pieces (RFC 9112). Where the
/// specification leaves a choice that other parsers make differently, the request is refused:
/// Content-Length beside Transfer-Encoding, or twice, or a list; any coding but "chunked"; chunks
/// in HTTP/1.0; lines that end with a bare LF; a CR elsewhere; folded header lines; space around a
/// header's name; control characters; no Host or several; extensions of chunks and trailers; empty
/// lines before a request; a target that names a host, but for http:// and the Host header's.
/// What is accepted and what is refused does not depend on the pieces.
class RequestReader {
 public:
  enum class State { kHead, kBody, kComplete, kRefused };

  explicit RequestReader(const Limits& limits) : limits_(limits) {}

  /// Takes bytes in until the request is complete or refused; returns how many it took.
  size_t push(std::string_view bytes);

  State state() const { return state_; }
  /// A byte of the request is there.
  bool started() const { return started_; }
  /// The client waits for "100 Continue" before it sends the body.
  bool expects_continue() const { return expects_continue_; }
  /// Bytes of the body so far.
  int64_t body_bytes() const { return static_cast<int64_t>(request_.body.size()); }
  /// Once its head is complete, which is so in kBody.
  const Request& head() const { return request_; }
  /// In kRefused.
  const Refusal& refusal() const { return refusal_; }
  /// The request, in kComplete; the next push() begins another one.
  Request take();

 private:
  /// What the next byte belongs to.
  enum class Part {
    kRequestLine,
    kHeaderLine,
    kFixedBody,
    kChunkSize,
    kChunkData,
    kChunkEnd,  ///< the line end behind a chunk's data
    kLastLine,  ///< the empty line behind the last chunk
  };

  void push_line_byte(char byte);
  void end_line();
  size_t push_body(std::string_view bytes);
  void read_request_line();
  std::string_view take_authority(std::string_view target);
  void read_header_line();
  void end_head();
  void read_framing();
  void read_transfer_encoding();
  void read_content_length();
  void read_chunk_size();
  void begin_body(Part part);
  int64_t line_limit() const;
  void refuse(int status, std::string message);

  Limits limits_;
  State state_ = State::kHead;
  Part part_ = Part::kRequestLine;
  Request request_;
  Refusal refusal_;
  std::string line_;                      ///< so far, without its end
  bool after_cr_ = false;                 ///< the last byte was the CR of a line end
  int64_t header_bytes_ = 0;              ///< of complete header lines
  int64_t remaining_ = 0;                 ///< bytes of the body or the chunk that are still to come
  std::optional<std::string> authority_;  ///< of a target that has one
  bool started_ = false;
  bool expects_continue_ = false;
};

}  // namespace fourfold::http

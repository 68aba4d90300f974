#include "http/request_reader.h"

#include <fmt/format.h>

#include <charconv>
#include <utility>

#include "base/check.h"

namespace fourfold::http {
namespace {

constexpr size_t kMaxMethodBytes = 32;
constexpr std::string_view kVersion = "HTTP/1.";
constexpr std::string_view kScheme = "http://";

bool is_digit(char c) { return c >= '0' && c <= '9'; }

bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

/// "token" of RFC 9110.
bool is_token(std::string_view text) {
  constexpr std::string_view kMarks = "!#$%&'*+-.^_`|~";
  return !text.empty() && std::all_of(text.begin(), text.end(), [&](char c) {
    return is_digit(c) || is_letter(c) || kMarks.find(c) != kMarks.npos;
  });
}

bool is_visible(char c) { return c > ' ' && c < '\x7f'; }

/// A character of a header's value: no control character but the tab.
bool is_value_byte(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return c == '\t' || (byte >= ' ' && byte != 0x7f);
}

int64_t count(const Request& request, std::string_view name) {
  return std::count_if(request.headers.begin(), request.headers.end(),
                       [&](const Header& header) { return header.name == name; });
}

}  // namespace

size_t RequestReader::push(std::string_view bytes) {
  CHECK(state_ != State::kComplete, "a complete request was not taken");
  size_t used = 0;
  while (used < bytes.size() && (state_ == State::kHead || state_ == State::kBody)) {
    started_ = true;
    if (part_ == Part::kFixedBody || part_ == Part::kChunkData) {
      used += push_body(bytes.substr(used));
    } else {
      push_line_byte(bytes[used++]);
    }
  }
  return used;
}

Request RequestReader::take() {
  CHECK(state_ == State::kComplete, "there is no complete request");
  Request out = std::move(request_);
  *this = RequestReader(limits_);
  return out;
}

void RequestReader::push_line_byte(char byte) {
  if (after_cr_ != (byte == '\n')) {
    return refuse(400, after_cr_ ? "a CR without an LF" : "a line that ends without a CR");
  }
  if (after_cr_) {
    after_cr_ = false;
    return end_line();
  }
  if (byte == '\r') {
    after_cr_ = true;
    return;
  }
  line_ += byte;
  if (std::cmp_less_equal(line_.size(), line_limit())) return;
  switch (part_) {
    case Part::kRequestLine:
      return refuse(414, fmt::format("the target has more than {} bytes", limits_.target_bytes));
    case Part::kHeaderLine:
      return refuse(431, fmt::format("the headers have more than {} bytes", limits_.header_bytes));
    case Part::kChunkSize:
      return refuse(400, "a chunk's size is followed by something else than a line end");
    case Part::kLastLine:
      return refuse(400, "trailers are not accepted");
    default:
      return refuse(400, "a chunk is longer than its size");
  }
}

/// Bytes that the current line may have.
int64_t RequestReader::line_limit() const {
  constexpr int64_t kHexDigits = 16;
  switch (part_) {
    case Part::kRequestLine:
      return static_cast<int64_t>(kMaxMethodBytes + kVersion.size()) + 3 + limits_.target_bytes;
    case Part::kHeaderLine:
      return limits_.header_bytes - header_bytes_;
    case Part::kChunkSize:
      return kHexDigits;
    default:
      return 0;
  }
}

void RequestReader::end_line() {
  switch (part_) {
    case Part::kRequestLine:
      read_request_line();
      break;
    case Part::kHeaderLine:
      if (line_.empty()) {
        end_head();
      } else {
        read_header_line();
      }
      break;
    case Part::kChunkSize:
      read_chunk_size();
      break;
    case Part::kChunkEnd:
      part_ = Part::kChunkSize;
      break;
    case Part::kLastLine:
      state_ = State::kComplete;
      break;
    default:
      CHECK(false, "a line in a body");
  }
  line_.clear();
}

void RequestReader::read_request_line() {
  const std::string_view line = line_;
  const size_t first = line.find(' ');
  const size_t second = first == line.npos ? line.npos : line.find(' ', first + 1);
  if (second == line.npos) return refuse(400, "the request line is not METHOD TARGET VERSION");
  const std::string_view method = line.substr(0, first);
  std::string_view target = line.substr(first + 1, second - first - 1);
  const std::string_view version = line.substr(second + 1);
  if (!is_token(method) || method.size() > kMaxMethodBytes) {
    return refuse(400, "the request's method is not one");
  }
  if (std::cmp_greater(target.size(), limits_.target_bytes)) {
    return refuse(414, fmt::format("the target has more than {} bytes", limits_.target_bytes));
  }
  if (lower_case(target.substr(0, kScheme.size())) == kScheme) target = take_authority(target);
  const bool is_path = target.starts_with('/') || (target == "*" && method == "OPTIONS");
  if (!is_path || !std::all_of(target.begin(), target.end(), is_visible)) {
    return refuse(400, "the request's target is not a path");
  }
  const bool is_http = version.size() == 8 && version.starts_with("HTTP/") &&
                       is_digit(version[5]) && version[6] == '.' && is_digit(version[7]);
  if (!is_http) return refuse(400, "the request line does not end with HTTP/1.1");
  if (!version.starts_with(kVersion) || version[7] > '1') {
    return refuse(505, "only HTTP/1.1 and HTTP/1.0 are spoken here");
  }
  request_.version_minor = version[7] - '0';
  request_.method = method;
  const size_t question = std::min(target.find('?'), target.size());
  request_.path = target.substr(0, question);
  request_.query = target.substr(std::min(question + 1, target.size()));
  part_ = Part::kHeaderLine;
}

/// Of a target as clients send it to a proxy, "http://HOST/PATH": what stands behind the host,
/// which the Host header has to name, too.
std::string_view RequestReader::take_authority(std::string_view target) {
  target.remove_prefix(kScheme.size());
  const size_t end = std::min(target.find_first_of("/?"), target.size());
  authority_ = lower_case(target.substr(0, end));
  target.remove_prefix(end);
  return target.empty() ? "/" : target;
}

void RequestReader::read_header_line() {
  header_bytes_ += static_cast<int64_t>(line_.size()) + 2;
  if (std::cmp_equal(request_.headers.size(), limits_.headers)) {
    return refuse(431, fmt::format("more than {} headers", limits_.headers));
  }
  const std::string_view line = line_;
  if (line.front() == ' ' || line.front() == '\t') return refuse(400, "a folded header line");
  const size_t colon = line.find(':');
  if (colon == line.npos || !is_token(line.substr(0, colon))) {
    return refuse(400, "a header line is not NAME: VALUE");
  }
  const std::string_view value = trimmed(line.substr(colon + 1));
  if (!std::all_of(value.begin(), value.end(), is_value_byte)) {
    return refuse(400, "a control character in a header");
  }
  request_.headers.push_back({lower_case(line.substr(0, colon)), std::string(value)});
}

void RequestReader::end_head() {
  const int64_t hosts = count(request_, "host");
  if (hosts > 1 || (hosts == 0 && request_.version_minor > 0)) {
    return refuse(400, hosts > 1 ? "more than one Host header" : "no Host header");
  }
  if (authority_ && lower_case(request_.header("host")) != *authority_) {
    return refuse(400, "the target names another host than the Host header");
  }
  const auto wants = [&](std::string_view word) {
    return std::any_of(request_.headers.begin(), request_.headers.end(), [&](const Header& h) {
      return h.name == "connection" && has_word(h.value, word);
    });
  };
  request_.keep_alive = !wants("close") && (request_.version_minor > 0 || wants("keep-alive"));
  read_framing();
}

/// How the length of the body is known (RFC 9112, section 6.3).
void RequestReader::read_framing() {
  const std::string_view expect = request_.header("expect");
  if (!expect.empty() && lower_case(expect) != "100-continue") {
    return refuse(417, "the only expectation that is met here is 100-continue");
  }
  if (count(request_, "transfer-encoding") > 0) {
    read_transfer_encoding();
  } else if (count(request_, "content-length") > 0) {
    read_content_length();
  } else {
    state_ = State::kComplete;
  }
  expects_continue_ = state_ == State::kBody && !expect.empty() && request_.version_minor > 0;
}

void RequestReader::read_transfer_encoding() {
  if (count(request_, "content-length") > 0) {
    return refuse(400, "Transfer-Encoding beside Content-Length");
  }
  if (request_.version_minor == 0) return refuse(400, "Transfer-Encoding in HTTP/1.0");
  if (count(request_, "transfer-encoding") > 1) {
    return refuse(400, "more than one Transfer-Encoding header");
  }
  if (lower_case(request_.header("transfer-encoding")) != "chunked") {
    return refuse(501, "the only transfer coding that is read here is chunked");
  }
  begin_body(Part::kChunkSize);
}

void RequestReader::read_content_length() {
  if (count(request_, "content-length") > 1) {
    return refuse(400, "more than one Content-Length header");
  }
  const std::string_view text = request_.header("content-length");
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, remaining_);
  const bool digits = !text.empty() && std::all_of(text.begin(), text.end(), is_digit);
  if (!digits || (error != std::errc() && error != std::errc::result_out_of_range)) {
    return refuse(400, "Content-Length is not a number");
  }
  if (error == std::errc::result_out_of_range || remaining_ > limits_.body_bytes) {
    return refuse(413, fmt::format("the body has more than {} bytes", limits_.body_bytes));
  }
  if (remaining_ == 0) {
    state_ = State::kComplete;
  } else {
    begin_body(Part::kFixedBody);
  }
}

void RequestReader::read_chunk_size() {
  const char* const end = line_.data() + line_.size();
  uint64_t size = 0;
  const auto [stop, error] = std::from_chars(line_.data(), end, size, 16);
  // from_chars takes no sign for an unsigned number.
  if (error != std::errc() || stop != end) return refuse(400, "a chunk's size is not a number");
  if (std::cmp_greater(size, limits_.body_bytes - body_bytes())) {
    return refuse(413, fmt::format("the body has more than {} bytes", limits_.body_bytes));
  }
  remaining_ = static_cast<int64_t>(size);
  part_ = size == 0 ? Part::kLastLine : Part::kChunkData;
}

void RequestReader::begin_body(Part part) {
  part_ = part;
  state_ = State::kBody;
}

size_t RequestReader::push_body(std::string_view bytes) {
  const size_t taken = std::min(bytes.size(), static_cast<size_t>(remaining_));
  request_.body.append(bytes.substr(0, taken));
  remaining_ -= static_cast<int64_t>(taken);
  if (remaining_ > 0) return taken;
  if (part_ == Part::kChunkData) {
    part_ = Part::kChunkEnd;
  } else {
    state_ = State::kComplete;
  }
  return taken;
}

void RequestReader::refuse(int status, std::string message) {
  state_ = State::kRefused;
  refusal_ = {status, std::move(message)};
}

}  // namespace fourfold::http

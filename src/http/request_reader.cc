#include "http/request_reader.h"

#include <fmt/format.h>

#include <charconv>
#include <utility>

#include "base/check.h"

namespace fourfold::http {
namespace {

constexpr size_t kMaxMethodBytes = 32;
constexpr std::string_view kVersion = "HTTP/1.";

bool is_digit(char c) { return c >= '0' && c <= '9'; }

char to_lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c; }

/// "token" of RFC 9110.
bool is_token(std::string_view text) {
  constexpr std::string_view kMarks = "!#$%&'*+-.^_`|~";
  return !text.empty() && std::all_of(text.begin(), text.end(), [&](char c) {
    const char lower = to_lower(c);
    return is_digit(c) || (lower >= 'a' && lower <= 'z') || kMarks.find(c) != kMarks.npos;
  });
}

bool is_visible(char c) { return c > ' ' && c < '\x7f'; }

/// A character of a header's value: no control character but the tab.
bool is_value_byte(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return c == '\t' || (byte >= ' ' && byte != 0x7f);
}

std::string_view trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t");
  if (begin == text.npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t") + 1 - begin);
}

std::string lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(), to_lower);
  return out;
}

/// True if the comma-separated `list` has `word`, which is in lower case.
bool has_word(std::string_view list, std::string_view word) {
  while (!list.empty()) {
    const size_t comma = std::min(list.find(','), list.size());
    if (lower(trimmed(list.substr(0, comma))) == word) return true;
    list.remove_prefix(std::min(comma + 1, list.size()));
  }
  return false;
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
  const std::string_view target = line.substr(first + 1, second - first - 1);
  const std::string_view version = line.substr(second + 1);
  if (!is_token(method) || method.size() > kMaxMethodBytes) {
    return refuse(400, "the request's method is not one");
  }
  if (std::cmp_greater(target.size(), limits_.target_bytes)) {
    return refuse(414, fmt::format("the target has more than {} bytes", limits_.target_bytes));
  }
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
  request_.headers.push_back({lower(line.substr(0, colon)), std::string(value)});
}

void RequestReader::end_head() {
  const int64_t hosts = count(request_, "host");
  if (hosts > 1 || (hosts == 0 && request_.version_minor > 0)) {
    return refuse(400, hosts > 1 ? "more than one Host header" : "no Host header");
  }
  bool close = request_.version_minor == 0;
  for (const Header& header : request_.headers) {
    if (header.name != "connection") continue;
    if (close && has_word(header.value, "keep-alive")) close = false;
    if (has_word(header.value, "close")) close = true;
  }
  request_.keep_alive = !close;
  read_framing();
}

/// How the length of the body is known (RFC 9112, section 6.3).
void RequestReader::read_framing() {
  const std::string_view expect = request_.header("expect");
  if (!expect.empty() && lower(expect) != "100-continue") {
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
  if (lower(request_.header("transfer-encoding")) != "chunked") {
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

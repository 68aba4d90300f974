#include "http/response_reader.h"

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/beast/http.hpp>
#include <boost/optional.hpp>
#include <optional>
#include <utility>

namespace fourfold::http {

namespace asio = boost::asio;
namespace wire = boost::beast::http;
using boost::system::error_code;

namespace {

constexpr uint32_t kMostHeadBytes = 64 << 10;
constexpr int kMostInterimHeads = 16;
/// "0" and two line ends. Beast's parser takes it for granted that so many bytes are there when it
/// goes on with a last chunk of which it has seen the beginning.
constexpr size_t kLastChunkBytes = 5;

/// What a put() of the parser gives of the body. Beast's string_body makes room for all that a head
/// announces.
struct Piece {
  using value_type = std::string;

  class reader {
   public:
    template <bool is_request, typename Fields>
    reader(wire::header<is_request, Fields>& /*head*/, std::string& piece) : piece_(piece) {}

    void init(const boost::optional<uint64_t>& /*content_length*/, error_code& error) {
      error = {};
    }
    template <typename Buffers>
    size_t put(const Buffers& buffers, error_code& error) {
      error = {};
      const size_t before = piece_.size();
      for (auto it = asio::buffer_sequence_begin(buffers); it != asio::buffer_sequence_end(buffers);
           ++it) {
        const asio::const_buffer buffer = *it;
        piece_.append(static_cast<const char*>(buffer.data()), buffer.size());
      }
      return piece_.size() - before;
    }
    void finish(error_code& error) { error = {}; }

   private:
    std::string& piece_;
  };
};

ResponseHead head_of(const wire::response<Piece>& response, std::optional<uint64_t> length) {
  ResponseHead out{.status = static_cast<int>(response.result_int()), .headers = {}};
  for (const auto& field : response) {
    const auto name = field.name_string();
    const auto value = field.value();
    out.headers.push_back(
        {lower_case({name.data(), name.size()}), std::string(value.data(), value.size())});
  }
  if (length) out.content_length = static_cast<int64_t>(*length);
  return out;
}

}  // namespace

struct ResponseReader::Parser {
  explicit Parser(bool no_body) {
    wire.eager(false);  // else trailers would come before the head has been handed out
    wire.skip(no_body);
    wire.header_limit(kMostHeadBytes);
    wire.body_limit(boost::none);
  }
  wire::response_parser<Piece> wire;
};

ResponseReader::ResponseReader(bool no_body)
    : no_body_(no_body), parser_(std::make_unique<Parser>(no_body)) {}

ResponseReader::~ResponseReader() = default;

base::Status ResponseReader::push(std::string_view bytes,
                                  const std::function<void(const ResponseHead&)>& head,
                                  const std::function<void(std::string_view)>& body) {
  started_ = started_ || !bytes.empty();
  std::string joined;
  if (!pending_.empty()) {
    joined = std::exchange(pending_, {});
    joined += bytes;
    bytes = joined;
    const bool may_be_last = has_head_ && parser_->wire.chunked() && bytes.front() == '0';
    if (may_be_last && bytes.size() < kLastChunkBytes) {
      pending_ = bytes;
      return {};
    }
  }
  while (!bytes.empty() && !done_) {
    auto& parser = parser_->wire;
    error_code error;
    const size_t used = parser.put(asio::buffer(bytes.data(), bytes.size()), error);
    bytes.remove_prefix(used);
    if (parser.is_header_done() && parser.get().result_int() < 200) {
      const unsigned status = parser.get().result_int();
      // 101: a protocol that nobody asked for.
      if (status < 100 || status == 101 || error) {
        return base::fail("the server's answer is no HTTP/1.1: the status {}", status);
      }
      if (++interim_heads_ > kMostInterimHeads) {
        return base::fail("the server's answer begins with more than {} heads of 1xx",
                          kMostInterimHeads);
      }
      parser_ = std::make_unique<Parser>(no_body_);
      continue;
    }
    if (parser.is_header_done() && !std::exchange(has_head_, true)) {
      const auto length = parser.content_length();
      head(head_of(parser.get(), length ? std::optional<uint64_t>(*length) : std::nullopt));
    }
    std::string& piece = parser.get().body();
    if (!piece.empty()) {
      body(piece);
      piece.clear();
    }
    if (error && error != wire::error::need_more) {
      return base::fail("the server's answer is no HTTP/1.1: {}", error.message());
    }
    done_ = parser.is_done();
    if (error == wire::error::need_more) {
      if (bytes.size() > kMostHeadBytes) {
        return base::fail(
            "the server's answer has a head, a chunk's mark or trailers of more than {} bytes",
            kMostHeadBytes);
      }
      pending_ = bytes;
      return {};
    }
  }
  // Bytes that nobody asked for: the connection must not be used again.
  if (done_ && !bytes.empty()) pending_ = bytes;
  return {};
}

base::Status ResponseReader::end() {
  error_code error;
  if (!done_ && has_head_) parser_->wire.put_eof(error);
  done_ = done_ || (has_head_ && !error);
  if (!done_) return base::fail("the server closed the connection before its answer was complete");
  return {};
}

bool ResponseReader::keep_alive() const {
  return done_ && pending_.empty() && parser_->wire.keep_alive();
}

}  // namespace fourfold::http

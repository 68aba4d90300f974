#include "http/request_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <random>

namespace fourfold::http {
namespace {

using testing::HasSubstr;
using State = RequestReader::State;

/// What became of some bytes: the status of the refusal, or the requests.
struct Outcome {
  std::vector<Request> requests;
  int refused = 0;
  std::string message;
  State state = State::kHead;
};

/// Pushes `text` in pieces that `piece_size` gives.
template <typename PieceSize>
Outcome read(std::string_view text, const Limits& limits, PieceSize piece_size) {
  Outcome out;
  RequestReader reader(limits);
  while (!text.empty()) {
    const std::string_view piece = text.substr(0, piece_size());
    const size_t taken = reader.push(piece);
    text.remove_prefix(taken);
    if (reader.state() == State::kComplete) {
      out.requests.push_back(reader.take());
    } else if (reader.state() == State::kRefused) {
      out.refused = reader.refusal().status;
      out.message = reader.refusal().message;
      break;
    }
  }
  out.state = reader.state();
  return out;
}

Outcome read(std::string_view text, const Limits& limits = {}) {
  return read(text, limits, [] { return std::string_view::npos; });
}

constexpr std::string_view kTypical =
    "POST /v1/completions?a=b HTTP/1.1\r\nHost: localhost:8000\r\nContent-Type:application/json\r\n"
    "X-Odd: \t a b\xc3\xa4 \r\nContent-Length: 7\r\n\r\n{\"a\":1}";
constexpr std::string_view kChunked =
    "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    "5\r\nhello\r\n00B\r\n, big world\r\n0\r\n\r\n";

TEST(RequestReader, ReadsARequestWithItsHeadersAndBody) {
  const Outcome out = read(kTypical);
  ASSERT_EQ(out.requests.size(), 1u) << out.message;
  const Request& request = out.requests[0];
  EXPECT_EQ(request.method, "POST");
  EXPECT_EQ(request.path, "/v1/completions");
  EXPECT_EQ(request.query, "a=b");
  EXPECT_EQ(request.header("content-type"), "application/json");
  EXPECT_EQ(request.header("x-odd"), "a b\xc3\xa4");
  EXPECT_EQ(request.header("x-even"), "");
  EXPECT_EQ(request.body, "{\"a\":1}");
  EXPECT_TRUE(request.keep_alive);
}

TEST(RequestReader, JoinsChunks) {
  const Outcome out = read(kChunked);
  ASSERT_EQ(out.requests.size(), 1u) << out.message;
  EXPECT_EQ(out.requests[0].body, "hello, big world");
}

TEST(RequestReader, KeepsConnectionsOpenAsTheVersionAndTheHeaderSay) {
  const auto keeps = [](std::string_view version, std::string_view connection) {
    const Outcome out = read("GET / HTTP/" + std::string(version) +
                             "\r\nHost: a\r\nConnection: " + std::string(connection) + "\r\n\r\n");
    return out.requests.at(0).keep_alive;
  };
  EXPECT_TRUE(keeps("1.1", "x"));
  EXPECT_FALSE(keeps("1.1", "x, Close"));
  EXPECT_FALSE(keeps("1.0", "x"));
  EXPECT_TRUE(keeps("1.0", "Keep-Alive"));
  for (const char* both : {"close, keep-alive", "close\r\nConnection: keep-alive"}) {
    EXPECT_FALSE(keeps("1.0", both));
    EXPECT_FALSE(keeps("1.1", both));
  }
}

TEST(RequestReader, WaitsForABodyThatIsAnnouncedBeforeItIsSent) {
  RequestReader reader{Limits()};
  reader.push("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 1\r\n\r\n");
  EXPECT_TRUE(reader.expects_continue());
  EXPECT_EQ(reader.state(), State::kBody);
  EXPECT_EQ(read("GET / HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\n\r\n").refused, 417);
}

struct Case {
  std::string text;
  int status;
  const char* says;  ///< in the refusal
};

std::string head(std::string_view lines, std::string_view version = "1.1") {
  return "POST / HTTP/" + std::string(version) + "\r\nHost: a\r\n" + std::string(lines) + "\r\n";
}

std::string get(std::string_view line) { return std::string(line) + "\r\nHost: a\r\n\r\n"; }

std::string chunked(std::string_view body) {
  return head("Transfer-Encoding: chunked\r\n") + std::string(body);
}

/// Messages of which some parser makes something, often another thing than the next one.
std::vector<Case> refused_messages() {
  const std::string te = "Transfer-Encoding: ";
  const std::string cl = "Content-Length: ";
  return {
      {head(te + "chunked\r\n" + cl + "3\r\n"), 400, "beside"},
      {head(cl + "3\r\n" + te + "chunked\r\n"), 400, "beside"},
      {head(cl + "3\r\n" + cl + "3\r\n"), 400, "more than one Content-Length"},
      {head(cl + "3\r\n" + cl + "4\r\n"), 400, "more than one Content-Length"},
      {head(cl + "3, 3\r\n"), 400, "not a number"},
      {head(cl + "+3\r\n"), 400, "not a number"},
      {head(cl + "-3\r\n"), 400, "not a number"},
      {head(cl + "0x3\r\n"), 400, "not a number"},
      {head(cl + "\r\n"), 400, "not a number"},
      {head(cl + "1 2\r\n"), 400, "not a number"},
      {head(te + "chunked\r\n", "1.0"), 400, "in HTTP/1.0"},
      {head(te + "gzip, chunked\r\n"), 501, "chunked"},
      {head(te + "chunked, chunked\r\n"), 501, "chunked"},
      {head(te + "chunked\r\n" + te + "identity\r\n"), 400, "more than one Transfer-Encoding"},
      {head(te + "xchunked\r\n"), 501, "chunked"},
      {head(te + "\x0b" + "chunked\r\n"), 400, "control character"},
      {head("X-A: \x01\r\n"), 400, "control character"},
      {head(std::string("X-A: b\0c\r\n", 10)), 400, "control character"},
      {head("Content-Length : 3\r\n"), 400, "NAME: VALUE"},
      {head("X-A\r\n"), 400, "NAME: VALUE"},
      {head(": b\r\n"), 400, "NAME: VALUE"},
      {head("X(A): b\r\n"), 400, "NAME: VALUE"},
      {head("X-A: b\r\n c\r\n"), 400, "folded"},
      {head("X-A: b\r\n\tc: d\r\n"), 400, "folded"},
      {"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400, "folded"},
      {"GET / HTTP/1.1\nHost: a\n\n", 400, "without a CR"},
      {head("X-A: b\n"), 400, "without a CR"},
      {head("X-A: b\rX-B: c\r\n"), 400, "without an LF"},
      {head("X-A: b\r\r\n"), 400, "without an LF"},
      {head("Host: b\r\n"), 400, "more than one Host"},
      {"GET / HTTP/1.1\r\n\r\n", 400, "no Host"},
      {"\r\n" + get("GET / HTTP/1.1"), 400, "METHOD TARGET VERSION"},
      {get("GET  / HTTP/1.1"), 400, "not a path"},
      {get("GET /"), 400, "METHOD TARGET VERSION"},
      {get("GET / http/1.1"), 400, "HTTP/1.1"},
      {get("GET / HTTP/1.1 "), 400, "HTTP/1.1"},
      {get("GET / HTTP/2.0"), 505, "HTTP/1.1"},
      {get("GET / HTTP/1.2"), 505, "HTTP/1.1"},
      {get("GET example.org HTTP/1.1"), 400, "not a path"},
      {get("GET http://b/ HTTP/1.1"), 400, "another host"},
      {get("GET http://a:80/ HTTP/1.1"), 400, "another host"},
      {get("GET http://x@a/ HTTP/1.1"), 400, "another host"},
      {get("GET https://a/ HTTP/1.1"), 400, "not a path"},
      {get("GET http://a/\xff HTTP/1.1"), 400, "not a path"},
      {get("GET * HTTP/1.1"), 400, "not a path"},
      {get("GET /\xff HTTP/1.1"), 400, "not a path"},
      {get("G(T / HTTP/1.1"), 400, "method"},
      {chunked("5;a=b\r\nhello\r\n0\r\n\r\n"), 400, "size is not a number"},
      {chunked("5 \r\nhello\r\n0\r\n\r\n"), 400, "size is not a number"},
      {chunked("0x5\r\nhello\r\n0\r\n\r\n"), 400, "size is not a number"},
      {chunked("+5\r\nhello\r\n0\r\n\r\n"), 400, "size is not a number"},
      {chunked("\r\nhello\r\n0\r\n\r\n"), 400, "size is not a number"},
      {chunked("5\nhello\r\n0\r\n\r\n"), 400, "without a CR"},
      {chunked("5\r\nhello!\r\n0\r\n\r\n"), 400, "longer than its size"},
      {chunked("5\r\nhello\n0\r\n\r\n"), 400, "without a CR"},
      {chunked("10000000000000005\r\nhello\r\n"), 400, "something else than a line end"},
      {chunked("ffffffffffffffff\r\nhello\r\n"), 413, "33554432"},
      {chunked("0\r\nX-A: b\r\n\r\n"), 400, "trailers"},
      {head(cl + "18446744073709551619\r\n"), 413, "33554432"},
      {head(cl + "33554433\r\n"), 413, "33554432"},
  };
}

TEST(RequestReader, TakesATargetThatNamesTheHost) {
  const auto path = [](std::string_view line) {
    RequestReader reader{Limits()};
    const std::string text = get(line);
    EXPECT_EQ(reader.push(text), text.size());
    EXPECT_EQ(reader.state(), RequestReader::State::kComplete) << reader.refusal().message;
    const Request request = reader.take();
    return request.path + "?" + request.query;
  };
  EXPECT_EQ(path("GET http://a/x?y=z HTTP/1.1"), "/x?y=z");
  EXPECT_EQ(path("GET HTTP://A/ HTTP/1.1"), "/?");
  EXPECT_EQ(path("GET http://a HTTP/1.1"), "/?");
}

TEST(RequestReader, RefusesWhatParsersReadDifferently) {
  for (const Case& c : refused_messages()) {
    const Outcome out = read(c.text + "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
    EXPECT_EQ(out.refused, c.status) << c.text;
    EXPECT_THAT(out.message, HasSubstr(c.says)) << c.text;
    EXPECT_TRUE(out.requests.empty()) << c.text;
  }
}

TEST(RequestReader, HoldsItsLimitsExactly) {
  const Limits limits{.target_bytes = 10, .header_bytes = 40, .headers = 3, .body_bytes = 6};
  const auto status = [&](const std::string& text) {
    const Outcome out = read(text, limits);
    EXPECT_EQ(out.requests.size(), out.refused == 0 ? 1u : 0u) << text;
    return out.refused;
  };
  EXPECT_EQ(status("GET /123456789 HTTP/1.1\r\nHost: a\r\n\r\n"), 0);
  EXPECT_EQ(status("GET /1234567890 HTTP/1.1\r\nHost: a\r\n\r\n"), 414);
  EXPECT_EQ(status("GET /" + std::string(100, 'x')), 414);
  EXPECT_EQ(status("GET / HTTP/1.1\r\nHost: a\r\nB: " + std::string(26, 'x') + "\r\n\r\n"), 0);
  EXPECT_EQ(status("GET / HTTP/1.1\r\nHost: a\r\nB: " + std::string(29, 'x') + "\r\n\r\n"), 431);
  EXPECT_EQ(status("GET / HTTP/1.1\r\nHost: a\r\nB: " + std::string(99, 'x')), 431);
  EXPECT_EQ(status("GET / HTTP/1.1\r\nHost: a\r\nB: c\r\nD: e\r\n\r\n"), 0);
  EXPECT_EQ(status("GET / HTTP/1.1\r\nHost: a\r\nB: c\r\nD: e\r\nF: g\r\n\r\n"), 431);
  EXPECT_EQ(status("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\n123456"), 0);
  EXPECT_EQ(status("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 7\r\n\r\n"), 413);
  const std::string put = "PUT / HTTP/1.1\r\nHost:a\r\nTransfer-Encoding:chunked\r\n\r\n";
  EXPECT_EQ(status(put + "3\r\n123\r\n3\r\n456\r\n0\r\n\r\n"), 0);
  EXPECT_EQ(status(put + "3\r\n123\r\n4\r\n"), 413);
}

/// Whatever the network cuts a message into, the outcome is the same.
TEST(RequestReader, ReadsTheSameWhateverThePieces) {
  std::vector<std::string> texts = {std::string(kTypical) + std::string(kChunked) +
                                    std::string(kTypical)};
  for (const Case& c : refused_messages()) texts.push_back(std::string(kChunked) + c.text);
  std::mt19937 random(7);
  for (const std::string& text : texts) {
    const Outcome whole = read(text);
    for (int round = 0; round < 20; ++round) {
      const size_t most = round == 0 ? 1 : 1 + random() % 40;
      const Outcome cut = read(text, Limits(), [&] { return 1 + random() % most; });
      ASSERT_EQ(cut.requests.size(), whole.requests.size()) << text;
      for (size_t i = 0; i < cut.requests.size(); ++i) {
        EXPECT_EQ(cut.requests[i].body, whole.requests[i].body);
        EXPECT_EQ(cut.requests[i].headers.size(), whole.requests[i].headers.size());
      }
      EXPECT_EQ(cut.refused, whole.refused) << text;
      EXPECT_EQ(cut.message, whole.message) << text;
      EXPECT_EQ(cut.state, whole.state) << text;
    }
  }
}

}  // namespace
}  // namespace fourfold::http

#include "route/estimate.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

namespace fourfold::route {
namespace {

using nlohmann::json;

constexpr size_t kTokenBytes = 4;
constexpr int64_t kMostTokens = int64_t{1} << 40;
/// Of a choice. A limit is seldom reached, and one that says "no limit" would keep all other
/// requests away from a replica.
constexpr int64_t kMostOutputTokens = 4096;

/// Collects what counts while a body is parsed, without keeping the rest.
class Reader final : public json::json_sax_t {
 public:
  explicit Reader(Estimate& out) : out_(out) {}

  bool key(string_t& name) override {
    if (depth_ == 1) {
      in_prompt_ = name == "prompt" || name == "messages" || name == "input";
      field_ = name;
    }
    return true;
  }
  bool string(string_t& text) override {
    if (depth_ == 1 && field_ == "model") out_.model = text;
    // Pictures and sounds are not made of tokens of text.
    if (in_prompt_ && !text.starts_with("data:")) add_text(text);
    return true;
  }
  bool number_integer(number_integer_t value) override { return number(value); }
  bool number_unsigned(number_unsigned_t value) override {
    return number(static_cast<int64_t>(std::min<number_unsigned_t>(value, kMostTokens)));
  }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(size_t) override { return begin(); }
  bool end_object() override { return end(); }
  bool start_array(size_t) override { return begin(); }
  bool end_array() override { return end(); }
  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception&) override {
    return false;
  }

  int64_t max_tokens() const { return max_tokens_; }
  int64_t choices() const { return choices_; }

 private:
  bool begin() {
    ++depth_;
    return true;
  }
  bool end() {
    --depth_;
    return true;
  }

  bool number(int64_t value) {
    const int64_t size = std::clamp(value, int64_t{0}, kMostTokens);
    if (depth_ == 1 && (field_ == "max_tokens" || field_ == "max_completion_tokens")) {
      max_tokens_ = size;
    } else if (depth_ == 1 && field_ == "n") {
      choices_ = std::clamp<int64_t>(value, 1, 1024);
    } else if (in_prompt_) {
      out_.prompt.push_back(static_cast<engine::TokenId>(value));
    }
    return true;
  }

  void add_text(std::string_view text) {
    while (!text.empty()) {
      engine::TokenId token = 0;
      const size_t size = std::min(text.size(), kTokenBytes);
      std::memcpy(&token, text.data(), size);
      out_.prompt.push_back(token);
      text.remove_prefix(size);
    }
  }

  Estimate& out_;
  std::string field_;  ///< of the body itself
  bool in_prompt_ = false;
  int depth_ = 0;
  int64_t max_tokens_ = -1;
  int64_t choices_ = 1;
};

}  // namespace

Estimate estimate_request(std::string_view path, std::string_view body) {
  Estimate out;
  Reader reader(out);
  const std::string_view read = body.substr(0, kReadBytes);
  json::sax_parse(read.begin(), read.end(), &reader);
  out.prompt_tokens =
      std::ssize(out.prompt) + static_cast<int64_t>((body.size() - read.size()) / kTokenBytes);
  const bool chat = path == "/v1/chat/completions";
  if (chat || path == "/v1/completions") {
    const int64_t tokens = reader.max_tokens() >= 0 ? reader.max_tokens()
                           : chat                   ? kChatTokens
                                                    : kCompletionTokens;
    out.output_tokens = std::min(tokens, kMostOutputTokens) * reader.choices();
  }
  return out;
}

}  // namespace fourfold::route

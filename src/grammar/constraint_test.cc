#include "grammar/constraint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <random>
#include <thread>

#include "grammar/language_test.h"

namespace fourfold::grammar {
namespace {

using engine::TokenId;
using nlohmann::ordered_json;
using testing::HasSubstr;
using text::TokenMask;

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.good()) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

/// The built-in model's vocabulary and two others, the last with tokens of single bytes.
const text::Tokenizer& tokenizer(size_t i) {
  static const std::vector<text::Tokenizer> all = [] {
    const std::string root = FOURFOLD_SOURCE_DIR;
    std::vector<text::Tokenizer> out;
    for (const char* path : {"/models/tiny/tokenizer.json", "/tests/golden/tokenizer/gpt2.json",
                             "/tests/golden/tokenizer/llama2.json"}) {
      out.push_back(text::tokenizer_from_json(read_file(root + path), "").value());
    }
    return out;
  }();
  return all[i];
}
constexpr size_t kTokenizers = 3;

/// The last of them ends outputs.
std::shared_ptr<const TokenTable> table_of(const text::Tokenizer& tokenizer) {
  const auto end = static_cast<TokenId>(tokenizer.vocab_size() - 1);
  return std::make_shared<const TokenTable>(tokenizer, tokenizer.vocab_size() + 3,
                                            std::vector<TokenId>{end});
}

bool has(const TokenMask& mask, TokenId token) {
  const auto i = static_cast<size_t>(token);
  return (mask[i / text::kTokenMaskBits] >> (i % text::kTokenMaskBits) & 1U) != 0;
}

std::vector<TokenId> tokens_of(const TokenMask& mask) {
  std::vector<TokenId> out;
  for (size_t i = 0; i < mask.size() * text::kTokenMaskBits; ++i) {
    if (has(mask, static_cast<TokenId>(i))) out.push_back(static_cast<TokenId>(i));
  }
  return out;
}

std::vector<Graph> languages() {
  std::vector<Graph> out;
  out.push_back(json_object_graph());
  for (
      const char* schema :
      {R"({"properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer",
            "minimum": 0, "maximum": 120}, "tags": {"type": "array", "items": {"enum": ["a", "ä",
            "be"]}, "maxItems": 3}}, "required": ["name", "age"]})",
       R"({"anyOf": [{"type": "array", "items": {"$ref": "#"}, "maxItems": 2}, {"type": "null"}]})",
       R"({"type": "string", "pattern": "^[à-ü€]{1,4}$"})"}) {
    out.push_back(schema_graph(ordered_json::parse(schema)).value());
  }
  out.push_back(regex_graph(R"((\d{3}-)?\d{4}|[^\x00-\x7f]{2,5}|the( end)+)").value());
  out.push_back(choice_graph({"yes", "no", "never", "neverm\xC3\xB6re"}).value());
  return out;
}

// The mask of every state that random outputs come through is what reading each token by itself
// says, and every output that ends is a text of the language.
TEST(Constraint, AllowsExactlyTheTokensThatLeadOn) {
  std::mt19937 random(7);
  for (size_t t = 0; t < kTokenizers; ++t) {
    const auto tokens = table_of(tokenizer(t));
    for (const Graph& graph : languages()) {
      const auto constraint = Constraint::create(graph, tokens);
      ASSERT_TRUE(constraint.ok()) << constraint.error().message;
      Machine oracle(std::make_shared<const Graph>(graph));
      for (int run = 0; run < 3; ++run) {
        const auto walk = (*constraint)->begin();
        Machine::State state = oracle.start();
        std::string text;
        for (int step = 0; step < 40; ++step) {
          const auto mask = walk->allowed();
          ASSERT_TRUE(mask.ok()) << mask.error().message;
          oracle.allow_work(kPlentyOfWork);
          for (int64_t i = 0; i < tokenizer(t).vocab_size() + 3; ++i) {
            const auto token = static_cast<TokenId>(i);
            bool expected = tokens->is_end(token) && oracle.complete(state);
            const std::string_view bytes = tokenizer(t).token_bytes(token);
            if (!tokens->is_end(token) && !tokenizer(t).is_special(token) && !bytes.empty()) {
              Machine::State next = state;
              for (size_t b = 0; b < bytes.size() && next != Machine::kDead; ++b) {
                next = oracle.next(next, static_cast<uint8_t>(bytes[b]));
              }
              expected = next != Machine::kDead;
            }
            ASSERT_EQ(has(**mask, token), expected) << text << " + token " << token;
          }
          const std::vector<TokenId> allowed = tokens_of(**mask);
          const TokenId token = allowed[random() % allowed.size()];
          ASSERT_TRUE(walk->accept(token).ok());
          if (tokens->is_end(token)) {
            EXPECT_TRUE(accepts(graph, text)) << text;
            break;
          }
          for (const char c : tokens->bytes(token)) {
            state = oracle.next(state, static_cast<uint8_t>(c));
          }
          text += tokens->bytes(token);
        }
      }
    }
  }
}

TEST(Constraint, RefusesWhatItDoesNotAllow) {
  const auto tokens = table_of(tokenizer(0));
  const auto constraint = Constraint::create(choice_graph({"yes"}).value(), tokens).value();
  const auto end = static_cast<TokenId>(tokenizer(0).vocab_size() - 1);
  EXPECT_FALSE(constraint->begin()->accept(end).ok());
  EXPECT_FALSE(constraint->begin()->accept(-1).ok());
  EXPECT_FALSE(constraint->begin()->accept(end + 2).ok());
  EXPECT_FALSE(constraint->begin()->accept(tokenizer(0).token_to_id("n").value()).ok());
}

// Where what is remembered is full, outputs go on in a new cache as if nothing had happened.
TEST(Constraint, OutlivesItsCache) {
  const auto tokens = table_of(tokenizer(0));
  const Graph graph = regex_graph("(a|b|[c-z]{2}){0,10000}").value();
  const auto constraint = Constraint::create(graph, tokens).value();
  const auto token = tokenizer(0).token_to_id("a").value();
  const auto other = constraint->begin();
  const auto walk = constraint->begin();
  for (int i = 0; i < 10'000; ++i) {
    ASSERT_TRUE(walk->allowed().ok());
    ASSERT_TRUE(walk->accept(token).ok()) << i;
  }
  const auto mask = walk->allowed();
  EXPECT_THAT(tokens_of(**mask), testing::SizeIs(1));  // the end
  EXPECT_TRUE(other->accept(token).ok());
  EXPECT_EQ(**other->allowed(), [&] {
    const auto fresh = Constraint::create(graph, tokens).value()->begin();
    EXPECT_TRUE(fresh->accept(token).ok());
    return **fresh->allowed();
  }());
}

TEST(Constraint, RefusesWhatTakesTooMuchWork) {
  const auto tokens = table_of(tokenizer(1));
  const auto constraint = Constraint::create(regex_graph(".*[a-m].{9000}").value(), tokens);
  if (constraint.ok()) {
    const auto walk = (*constraint)->begin();
    base::Status status;
    for (int i = 0; i < 5000 && status.ok(); ++i) {
      const auto mask = walk->allowed();
      status = mask.ok() ? walk->accept(tokenizer(1).token_to_id("a").value())
                         : base::Status(mask.error());
    }
    ASSERT_FALSE(status.ok());
    EXPECT_THAT(status.error().message, HasSubstr("too much work"));
  }
}

TEST(Constraint, NeedsAnEndAndTokensThatSpellIt) {
  const TokenTable endless(tokenizer(0), 1021, {});
  const auto no_end =
      Constraint::create(json_object_graph(), std::make_shared<const TokenTable>(endless));
  ASSERT_FALSE(no_end.ok());
  EXPECT_THAT(no_end.error().message, HasSubstr("no end token"));
  // A model of so few tokens has none with a brace.
  const std::vector<TokenId> end = {0};
  const auto few = Constraint::create(json_object_graph(),
                                      std::make_shared<const TokenTable>(tokenizer(0), 2, end));
  ASSERT_FALSE(few.ok());
  EXPECT_THAT(few.error().message, HasSubstr("no token of the model"));
}

TEST(Constraint, IsUsedByManyThreads) {
  const auto constraint = Constraint::create(json_object_graph(), table_of(tokenizer(0))).value();
  std::vector<std::thread> threads;
  for (unsigned seed = 0; seed < 4; ++seed) {
    threads.emplace_back([&constraint, seed] {
      std::mt19937 random(seed);
      const auto walk = constraint->begin();
      for (int step = 0; step < 60; ++step) {
        const std::vector<TokenId> allowed = tokens_of(**walk->allowed());
        ASSERT_TRUE(walk->accept(allowed[random() % allowed.size()]).ok());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace fourfold::grammar

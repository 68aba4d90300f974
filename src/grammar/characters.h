#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "grammar/graph.h"

namespace fourfold::grammar {

struct CodePointRange {
  char32_t low = 0;
  char32_t high = 0;  ///< included
};

/// A set of code points: rising ranges that do not touch. Surrogates are never in one.
class CodePoints {
 public:
  CodePoints() = default;
  /// In any order.
  explicit CodePoints(std::vector<CodePointRange> ranges) : ranges_(std::move(ranges)) {
    normalise();
  }
  CodePoints(std::initializer_list<CodePointRange> ranges)
      : CodePoints(std::vector<CodePointRange>(ranges)) {}
  static CodePoints all() { return {{0, 0x10FFFF}}; }

  CodePoints complement() const;
  CodePoints without(const CodePoints& other) const;
  CodePoints common_with(const CodePoints& other) const { return without(other.complement()); }

  bool empty() const { return ranges_.empty(); }
  std::span<const CodePointRange> ranges() const { return ranges_; }

 private:
  void normalise();

  std::vector<CodePointRange> ranges_;
};

/// How a text stands in the language.
enum class Spelling {
  kPlain,       ///< as UTF-8
  kJsonString,  ///< as between the quotes of JSON's strings: ", \ and controls are escaped
};

/// Edges that spell one character of a set.
void add_characters(GraphBuilder& builder, Node from, const CodePoints& set, Spelling spelling,
                    Node to);

/// Edges that spell one of several texts.
void add_texts(GraphBuilder& builder, Node from, std::span<const std::string> texts, Node to);

/// Edges that spell the texts as long as `low` and `high` that lie between them in the order of
/// bytes, and in which every byte but the first is in [least, most].
class TextsBetween {
 public:
  TextsBetween(GraphBuilder& builder, Node to, uint8_t least, uint8_t most)
      : builder_(builder), least_(least), most_(most), rests_{to} {}
  void add(Node from, std::string_view low, std::string_view high);

 private:
  Node any_rest(size_t bytes);

  GraphBuilder& builder_;
  uint8_t least_;
  uint8_t most_;
  std::vector<Node> rests_;  ///< where the last i bytes begin, any of them
};

}  // namespace fourfold::grammar

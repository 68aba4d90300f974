#include "text/prefix_matcher.h"

#include "base/check.h"
#include "files/printable.h"

namespace fourfold::text {

namespace {
// The longest that real vocabularies have are runs of 31 spaces or new lines, up to 93 bytes.
constexpr size_t kMaxStringBytes = 512;
constexpr int64_t kMaxNodes = int64_t{1} << 20;
}  // namespace

base::Status PrefixMatcher::add(std::string_view string, int32_t id) {
  CHECK(!string.empty(), "id {} has an empty string", id);
  if (string.size() > kMaxStringBytes) {
    return base::fail("the token '{}' has {} bytes; at most {} are supported in an added token",
                      files::printable(string), string.size(), kMaxStringBytes);
  }
  if (std::ssize(ids_) + std::ssize(string) > kMaxNodes) {
    return base::fail("the added tokens have more than {} bytes together", kMaxNodes);
  }
  first_bytes_.set(static_cast<uint8_t>(string[0]));
  int32_t node = 0;
  for (const char byte : string) {
    const auto [it, added] =
        children_.try_emplace(edge(node, byte), static_cast<int32_t>(ids_.size()));
    if (added) ids_.push_back(-1);
    node = it->second;
  }
  int32_t& slot = ids_[static_cast<size_t>(node)];
  if (slot < 0) slot = id;
  return {};
}

PrefixMatcher::Match PrefixMatcher::longest(std::string_view text) const {
  Match best;
  if (text.empty() || !first_bytes_.test(static_cast<uint8_t>(text[0]))) return best;
  int32_t node = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto it = children_.find(edge(node, text[i]));
    if (it == children_.end()) break;
    node = it->second;
    const int32_t id = ids_[static_cast<size_t>(node)];
    if (id >= 0) best = {static_cast<int64_t>(i) + 1, id};
  }
  return best;
}

}  // namespace fourfold::text

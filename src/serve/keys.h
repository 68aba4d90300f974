#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace fourfold::serve {

/// Keys that clients show as "Authorization: Bearer KEY". Never in a log or a message.
class Keys {
 public:
  /// No key: everybody may do everything.
  Keys() = default;
  /// Reads a file with one key a line; empty lines and those that begin with "#" are none. Errors:
  /// no file, no key in it, a key with spaces or control characters.
  static base::Result<Keys> read(const std::string& path);

  /// The one to show to others; "" if there is none.
  std::string first() const { return keys_.empty() ? "" : keys_.front(); }
  bool needed() const { return !keys_.empty(); }
  /// True if `authorization`, the value of that header, shows one of the keys, or none is needed.
  /// The time it takes does not depend on how much of a key is right.
  bool accept(std::string_view authorization) const;

 private:
  std::vector<std::string> keys_;
};

}  // namespace fourfold::serve

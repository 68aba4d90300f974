#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace fourfold::http {

/// Where a server is: http://HOST[:PORT][/PATH].
struct Url {
  std::string host;  ///< a name or an address; of IPv6 without brackets
  uint16_t port = 80;
  std::string
      path;  ///< what stands in front of every target, "" or "/…" without a slash at its end

  static base::Result<Url> parse(std::string_view text);
  /// HOST:PORT as it stands in a Host header.
  std::string authority() const;
};

}  // namespace fourfold::http

#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/result.h"

namespace fourfold::text {

/// A set of tokens: bit t % kTokenMaskBits of word t / kTokenMaskBits.
using TokenMask = std::vector<uint32_t>;
inline constexpr size_t kTokenMaskBits = 32;

/// Which texts a request may be answered with, told token by token. Immutable; used from many
/// threads.
class TokenConstraint {
 public:
  /// One output on its way. Used by one thread at a time.
  class Walk {
   public:
    virtual ~Walk() = default;
    /// The tokens of the model that may come next; never none. Errors: no token leads on, or
    /// finding out takes too much work.
    virtual base::Result<std::shared_ptr<const TokenMask>> allowed() = 0;
    /// Takes the next token in, one that is allowed. Errors: it is not.
    virtual base::Status accept(int32_t token) = 0;
  };

  virtual ~TokenConstraint() = default;
  /// An output without tokens so far.
  virtual std::unique_ptr<Walk> begin() const = 0;
};

}  // namespace fourfold::text

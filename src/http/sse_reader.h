#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace fourfold::http {

/// Reads a stream of server-sent events (WHATWG HTML, "Server-sent events") from bytes that come in
/// any pieces. Of an event only its data is kept; comments and other fields are skipped.
class SseReader {
 public:
  using Event = std::function<void(std::string_view data)>;

  /// Calls `event` for every event that `bytes` complete. Errors: one of more than kMostBytes.
  base::Status push(std::string_view bytes, const Event& event);

  static constexpr size_t kMostBytes = size_t{16} << 20;

 private:
  base::Status take_line(std::string_view line, const Event& event);

  std::string line_;  ///< its beginning
  std::string data_;  ///< lines of the event so far, each ended by a line feed
  bool has_data_ = false;
  bool after_cr_ = false;  ///< a line feed now belongs to the line's end before it
  bool at_begin_ = true;   ///< a byte order mark may come
};

}  // namespace fourfold::http
